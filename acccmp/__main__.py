"""`python -m acccmp` is the command `acccmp`."""

from acccmp.cli import main

main()
