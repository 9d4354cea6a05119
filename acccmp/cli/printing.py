"""What a command tells: text and JSON on the standard output, a bar on the standard error, an exit code."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

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
def progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr, on a terminal only."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(escape(safe.visible(what, 60)), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
