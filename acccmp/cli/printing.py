"""What a command tells: text and JSON on the standard output, a bar on the standard error, an exit code."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import RenderableType

PASSED, NOT_PASSED, COULD_NOT = 0, 1, 2  # 3, nothing paired or little covered, is `Report.exit_code`'s


def one_line(text: str) -> str:
    """A message without line breaks and control characters, so that a hostile name cannot steer the terminal."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))[:2000]


def complain(text: str) -> None:
    """One line on the standard error."""
    click.echo(f"acccmp: {one_line(text)}", err=True)


def show(renderable: RenderableType) -> None:
    """Print something rich."""
    from rich.console import Console

    Console(width=width(), soft_wrap=False, highlight=False).print(renderable, crop=False)


def width() -> int:
    """Columns to print in: the terminal's, 100 when the output is none."""
    told = os.environ.get("COLUMNS", "")
    if told.isdigit() and int(told) > 0:
        return int(told)
    return shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100


def print_json(data: Any) -> None:
    click.echo(data if isinstance(data, str) else json.dumps(data, indent=1, ensure_ascii=False, default=str))


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr, on a terminal only."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
