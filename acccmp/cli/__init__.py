"""The command `acccmp`: parse, call, render, exit code. Nothing else prints, exits or configures logging."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from acccmp.cli.check import check
from acccmp.cli.compare import compare
from acccmp.cli.convert import convert
from acccmp.cli.emulate import emulate
from acccmp.cli.history import history
from acccmp.cli.inspect import inspect
from acccmp.cli.printing import COULD_NOT, PASSED, complain, one_line
from acccmp.cli.run import run
from acccmp.cli.slice import slice_command
from acccmp.errors import AcccmpError
from acccmp.version import VERSION


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 passed, 1 not passed, 2 could not do it, 3 nothing paired or little covered."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments or bool(os.environ.get("ACCCMP_DEBUG"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character shows a question mark
    try:
        code = cli.main([a for a in arguments if a != "--debug"], prog_name="acccmp", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = COULD_NOT
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        where = context.command_path if context is not None else "acccmp"
        complain(f"{error.format_message().rstrip('.')}; see {where} --help")
        code = COULD_NOT
    except click.exceptions.Abort:
        complain("interrupted")
        code = COULD_NOT
    except AcccmpError as error:
        if debug:
            raise
        complain(str(error))
        code = COULD_NOT
    except BrokenPipeError:
        sys.stderr.close()
        code = COULD_NOT
    except OSError as error:
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        complain(f"{where}{error.strerror or error}")
        code = COULD_NOT
    except Exception as error:
        if debug:
            raise
        complain(f"{type(error).__name__}: {one_line(str(error))} (the traceback: add --debug)")
        code = COULD_NOT
    sys.exit(code if isinstance(code, int) else PASSED)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(VERSION, prog_name="acccmp")
def cli() -> None:
    """Find the layer where a neural network that was moved to an NPU stops agreeing with its original.

    golden (the original) comes first, npu (the device) second. Add --debug for tracebacks.
    """


for command in (compare, run, inspect, convert, emulate, slice_command, check, history):
    cli.add_command(command)
