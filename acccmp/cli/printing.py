"""What a command tells: text and JSON on the standard output, a bar on the standard error, an exit code."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from acccmp.core.progress import Progress, no_progress
from acccmp.reports import safe

if TYPE_CHECKING:
    from rich.console import RenderableType

MOST = 2000  # characters of a line
PASSED, NOT_PASSED, COULD_NOT = 0, 1, 2  # 3, nothing paired or little covered, is `Report.exit_code`'s


def say(*lines: str, err: bool = False) -> None:
    """Lines; none of them becomes two, whatever names are in it."""
    for line in lines:
        click.echo(safe.log(safe.visible(line, MOST)), err=err)


def complain(text: str) -> None:
    """One line on the standard error."""
    say(f"acccmp: {' '.join(text.split())}", err=True)


def show(renderable: RenderableType) -> None:
    """Print something rich."""
    from rich.console import Console

    console = Console(width=width(), soft_wrap=False, highlight=False)
    with console.capture() as captured:
        console.print(renderable, crop=False)
    write(captured.get())


def write(text: str) -> None:
    """Print a text of many lines."""
    click.echo(safe.log(text), nl=False)


def hang_up() -> None:
    """Nobody reads the standard output any more: what is still on its way goes nowhere, and nobody is told of it."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def width() -> int:
    """Columns to print in: the terminal's, 100 when the output is none."""
    told = os.environ.get("COLUMNS", "")
    if told.isdigit() and int(told) > 0:
        return int(told)
    return shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100


def print_json(data: Any) -> None:
    """Print JSON, which may be text already."""
    told = data if isinstance(data, str) else json.dumps(data, indent=1, ensure_ascii=False, default=str)
    click.echo(safe.json_text(told))


@contextmanager
def progress(quiet: bool = False) -> Iterator[Progress]:
    """What a job tells a person who waits: a bar for each of its phases, which is gone when the block ends.

    On stderr, and only where that is the terminal of a person: not in a pipeline (CI is set), not when `quiet`.
    """
    if quiet or not sys.stderr.isatty() or os.environ.get("CI") or os.environ.get("TERM") == "dumb":
        yield no_progress
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    # The standard output may be a file: what is printed must not be taken to the terminal.
    with Bars(
        *columns, console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False,
    ) as bars:
        running: dict[str, TaskID] = {}

        def tell(phase: str, done: int = 0, total: int = 0) -> None:
            phase = safe.visible(phase, 60)
            if phase not in running:
                for task in running.values():
                    bars.update(task, total=1, completed=1)
                    bars.stop_task(task)
                running[phase] = bars.add_task(phase, total=None)
            bars.update(running[phase], completed=done, total=total or None)

        yield tell
