"""What a person may call a thing by: every name that a screen prints, a table for each kind of name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from acccmp.core.dump import Port
from acccmp.errors import UnknownName

Thing = TypeVar("Thing")


def named(name: str, tables: Sequence[Mapping[str, Thing]], what: str, where: str, all_listed: str) -> Thing:
    """What the first table that knows this name has for it. Raises UnknownName."""
    for table in tables:
        if name in table:
            return table[name]
    raise UnknownName(what, name, [known for table in tables for known in table], where, all_listed)


def free_name(wanted: str, taken: Collection[str]) -> str:
    """`wanted`, or `wanted_2`, ... where another has that name."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    return name


def few(items: Iterable[str], most: int = 3) -> str:
    """The first of a list, and how many more there are."""
    listed = list(items)
    rest = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + rest


def is_like(name: str, pattern: str) -> bool:
    """Does a name fit a pattern with `*` and `?`, or hold it as a part where it has none of these?"""
    return fnmatchcase(name, pattern if set("*?[") & set(pattern) else f"*{pattern}*")


def op_of(name: str) -> str:
    """The op of a port: `conv1` of `conv1:output:0`; other names as they are."""
    try:
        return Port.parse(name).node
    except ValueError:
        return name
