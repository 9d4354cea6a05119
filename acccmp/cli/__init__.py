"""The command `acccmp`: parse, call, render, exit code. Nothing else prints, exits or configures logging."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click
from click.shell_completion import shell_complete

from acccmp.cli.check import check
from acccmp.cli.compare import compare
from acccmp.cli.convert import convert
from acccmp.cli.emulate import emulate
from acccmp.cli.history import history
from acccmp.cli.inspect import inspect
from acccmp.cli.printing import COULD_NOT, PASSED, complain, hang_up
from acccmp.cli.run import run as run_command
from acccmp.cli.slice import slice_command
from acccmp.errors import AcccmpError
from acccmp.version import VERSION


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """The exit code: 0 passed, 1 not passed, 2 could not do it, 3 nothing paired or little covered."""
    debug = "--debug" in arguments or bool(os.environ.get("ACCCMP_DEBUG"))
    if sys.stderr is None:
        sys.stderr = io.StringIO()
    if sys.stdout is None:
        complain("the standard output is closed, there is nowhere to print to; give it a file or /dev/null")
        return COULD_NOT
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character shows a question mark
    try:
        return _answer([argument for argument in arguments if argument != "--debug"])
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        where = context.command_path if context is not None else "acccmp"
        complain(f"{error.format_message().rstrip('.')}; see {where} --help")
    except (KeyboardInterrupt, click.exceptions.Abort):
        complain("interrupted")
    except BrokenPipeError:
        hang_up()
    except Exception as error:
        if debug:
            raise
        complain(_in_words(error))
    return COULD_NOT


def _answer(arguments: list[str]) -> int:
    """The exit code of the command that is asked for. (click's own `main` would end a broken pipe with 1.)"""
    if asked := os.environ.get("_ACCCMP_COMPLETE"):
        return shell_complete(cli, {}, "acccmp", "_ACCCMP_COMPLETE", asked)
    try:
        with cli.make_context("acccmp", arguments) as context:
            code = cli.invoke(context)
    except click.exceptions.Exit as left:  # --help, --version
        code = left.exit_code
    sys.stdout.flush()
    return code if isinstance(code, int) else PASSED


def _in_words(error: Exception) -> str:
    if isinstance(error, AcccmpError):
        return str(error)
    if isinstance(error, OSError):  # files of users and ours have their own errors: what is left are the streams
        return f"{error.filename or 'the standard output'}: {error.strerror or error}"
    if isinstance(error, MemoryError):
        return f"there is not enough memory: {str(error) or 'this needs more than the machine has'}"
    return f"{type(error).__name__}: {error} (the traceback: add --debug)"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(VERSION, prog_name="acccmp")
def cli() -> None:
    """Find the layer where a neural network that was moved to an NPU stops agreeing with its original.

    golden (the original) comes first, npu (the device) second. Add --debug for tracebacks.
    """


for command in (compare, run_command, inspect, convert, emulate, slice_command, check, history):
    cli.add_command(command)
