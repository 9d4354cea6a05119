"""`python -m acccmp`, and the command `acccmp`: what has to be settled before anything else is imported.

Ctrl-C ends the command with one line and exit code 2, whenever it comes: while modules are imported there is nothing to
clean up and it ends at once; later it is an exception, so that half-written files go; a second one does not wait.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

COULD_NOT = 2


def main() -> NoReturn:
    """Run the command line and exit."""
    for stream in range(3):
        _never_closed(stream)
    is_heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not under nohup
    if is_heard:
        signal.signal(signal.SIGINT, _leave)
    from acccmp import cli

    if is_heard:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        code = cli.run(sys.argv[1:])
    except KeyboardInterrupt:  # between two steps of `cli.run`
        _leave()
    if is_heard:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done and said
    sys.exit(code)


def _never_closed(stream: int) -> None:
    """A stream that is closed gets /dev/null, so that no file that is opened later takes its number, and its lines."""
    try:
        os.fstat(stream)
    except OSError:
        os.open(os.devnull, os.O_RDWR)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGINT, _leave)
    raise KeyboardInterrupt


def _leave(number: int = 0, frame: FrameType | None = None) -> NoReturn:
    os.write(2, b"acccmp: interrupted\n")
    os._exit(COULD_NOT)


if __name__ == "__main__":
    main()
