"""Every error that acccmp raises on purpose, as a tree.

    AcccmpError                 a job could not be done; the message is for the person at the keyboard
    ├── InputError              an argument is wrong: a name, a shape, a folder of the wrong kind
    │   └── UnknownName         a node or tensor that the model does not have (close matches are in the message)
    ├── FormatError             a file is not what it claims to be, or is damaged
    ├── MissingExtra            an optional package is not installed (the message has the pip line)
    ├── LayoutError             a stored shape cannot hold what it should in its layout
    ├── RunError                a model could not be run
    ├── MappingError            a mapping does not belong to this model or dump
    └── SliceError              a slice is not closed; each missing tensor is named

A message says what was asked, what was found and what to do next, in one line. The command line turns every
`AcccmpError` into that line on stderr and exit code 2. A bad *pair* of tensors is never an exception: it is a
`Verdict` in the `Report`.
"""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Iterable
from functools import cached_property

_FEW = 200  # names that are compared with a wrong one letter by letter


class AcccmpError(Exception):
    """A job that could not be done. One line: what was asked, what was found, what to do next."""


class InputError(AcccmpError):
    """An argument is wrong: a name, a shape, a dtype, a folder of the wrong kind."""


class UnknownName(InputError, KeyError):
    """A name that is not there (a KeyError, too); close matches are part of the message, else a few of what is there.

    `all_listed` says what lists them all. The message is made when it is asked for: a look-up that may fail costs no
    search for close matches.
    """

    def __init__(
        self, what: str, name: str, known: Iterable[str], where: str = "the model",
        all_listed: str = "`acccmp inspect MODEL --nodes` lists the names",
    ) -> None:
        super().__init__(f"no {what} named {name!r} in {where}")
        self._name, self._known, self._all_listed = name, known, all_listed

    @cached_property
    def _names(self) -> list[str]:
        return list(dict.fromkeys(self._known))  # a node and its tensor often have one name

    @cached_property
    def close(self) -> tuple[str, ...]:
        """The names that are most like it."""
        near = _likeliest(self._name, self._names)
        return tuple(difflib.get_close_matches(self._name, near, n=3, cutoff=0.5))

    def __str__(self) -> str:
        few = f"; there are {', '.join(self._names)}" if self._names else "; there are none"
        others = few if len(self._names) <= 5 else f"; {self._all_listed}"
        return f"{self.args[0]}" + (f"; did you mean {', '.join(self.close)}?" if self.close else others)


def _likeliest(name: str, names: list[str]) -> list[str]:
    """The few names that share most pairs of letters with `name`: difflib would take seconds over all of a large model.
    """
    if len(names) <= _FEW:
        return names
    pairs = {name[place : place + 2] for place in range(len(name))}
    shared = {known: sum(pair in known for pair in pairs) / max(1, len(name) + len(known)) for known in names}
    return heapq.nlargest(_FEW, names, key=shared.__getitem__)


class FormatError(AcccmpError):
    """A file is not what it claims to be, or is damaged. The message begins with the file's name."""


class LayoutError(AcccmpError, ValueError):
    """A layout does not fit a shape; the message says which and why."""


class MissingExtra(AcccmpError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, extra: str, need: str) -> None:
        super().__init__(f"{need} needs {package}, which is not installed: pip install 'acccmp[{extra}]'")
        self.extra = extra


class RunError(AcccmpError):
    """A model could not be run on this machine; the message names the layer where that is known."""


class MappingError(AcccmpError):
    """A mapping does not belong to this model or dump; both names are in the message."""


class SliceError(AcccmpError):
    """A slice is not closed; every missing tensor is named."""
