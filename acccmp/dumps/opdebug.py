"""Overflow files (`Opdebug.Node_OpDebug.*`): decoded, and tied to the op that overflowed.

Specs of the Ascend dump formats, section 6.10.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from acccmp.core.dump import DumpedOp
from acccmp.dumps.ascend import FileContent


@dataclass(frozen=True)
class Overflow:
    """One overflow that the device reported."""

    path: str
    time: int


def is_overflow(op: DumpedOp) -> bool:
    """Is it the file of an overflow report, not of an op?"""
    return op.op_type == "Opdebug" and op.name.startswith("Node_OpDebug")


def read_overflow(content: FileContent, ops: Sequence[DumpedOp] = ()) -> Overflow:
    return Overflow(content.op.path, content.op.time)


def read_all(contents: Iterable[FileContent], ops: Sequence[DumpedOp]) -> tuple[Overflow, ...]:
    return tuple(read_overflow(content, ops) for content in contents)
