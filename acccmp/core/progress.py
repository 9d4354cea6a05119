"""How far a job is: what it tells whoever waits for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Called with the name of the phase that a job is in, how much of it is done, and how much there is (0: unknown).
    """

    def __call__(self, phase: str, done: int = 0, total: int = 0, /) -> None: ...


def no_progress(phase: str, done: int = 0, total: int = 0, /) -> None:
    """Nobody waits."""


def counted(items: Iterable[T], phase: str, total: int, progress: Progress) -> Iterator[T]:
    """The items, of which there are `total`; each is told of when it is done with."""
    progress(phase, 0, total)
    for done, item in enumerate(items, 1):
        yield item
        progress(phase, done, total)
