"""Merging the sliced dumps of FFTS+ ops: several files of one op, one for each thread or slice, become one op.

Specs of the Ascend dump formats, section 1.6.
"""

from __future__ import annotations

from acccmp.dumps.ascend import FileContent


def merge(contents: list[FileContent]) -> tuple[list[FileContent], list[str]]:
    """`contents` with the slices of each FFTS+ op made one, and what is to be said about it."""
    return contents, []
