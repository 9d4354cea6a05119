"""What public functions take: a noun, or the path of what becomes one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from acccmp.core.identify import identify
from acccmp.errors import InputError
from acccmp.kinds import Role

T = TypeVar("T")


@dataclass(frozen=True)
class Noun(Generic[T]):
    """A row for each noun, where its maker is: what it is, and how a path becomes it.

    `made_by(path, **how)` reads it, from files of the roles `takes` (() where it checks that by itself). `otherwise`
    ends what is said of other files, `instead` does so by their role. `made_from` are nouns that are turned into it.
    """

    noun: type[T]
    made_by: Callable[..., T]
    takes: tuple[Role, ...] = ()
    otherwise: str = ""
    instead: Mapping[Role, str] = field(default_factory=dict)
    made_from: Mapping[type, Callable[[Any], T]] = field(default_factory=dict)

    def of(self, given: T | object, **how: object) -> T:
        """The noun for what was given. `how` it is to be read means nothing where nothing is read: InputError then, and
        for what is neither a path of a fitting file nor a noun."""
        if isinstance(given, str | os.PathLike):
            found = identify(given) if self.takes else None
            if found is not None and found.kind.role not in self.takes:
                raise InputError(f"{given} is {found.words}{self.instead.get(found.kind.role, self.otherwise)}")
            return self.made_by(given, **how)
        for name in (name for name, value in how.items() if value is not None):
            what = "there is none here" if given is None else f"a {type(given).__name__} is none"
            raise InputError(f"{name} says how a file is read, and {what}: leave it out")
        if isinstance(given, self.noun):
            return given
        for other, turned in self.made_from.items():
            if isinstance(given, other):
                return turned(given)
        wanted = " or ".join(one.__name__ for one in (self.noun, *self.made_from))
        raise InputError(f"a path or a {wanted} is wanted here, found {type(given).__name__}")

    def maybe(self, given: T | object | None, **how: object) -> T | None:
        """The same; None for None."""
        return None if given is None and not any(value is not None for value in how.values()) else self.of(given, **how)
