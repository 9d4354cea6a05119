"""identify: what lies at a path, by its bytes: the first row of `acccmp.kinds` that knows them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from acccmp.core import reading
from acccmp.core.wire import Buffer, CutOff, Damaged, Field, FileBytes, fields
from acccmp.errors import FormatError, InputError
from acccmp.kinds import Kind, all_kinds

HEAD = 1 << 16  # bytes of a file that are looked at, apart from lengths and skipped payloads
MOST_MEMBERS = 100_000  # of a zip archive
_MOST_FIELDS = 4096  # top-level fields that are looked at


@dataclass(frozen=True)
class Found:
    """What lies at a path: its row, and what exactly it is in words with an article ("a prototxt (Caffe)")."""

    kind: Kind
    words: str


def identify(path: str | os.PathLike[str]) -> Found:
    """What lies at `path`. Any folder that is nothing else counts as a folder of dumps.

    Raises InputError when nothing is there, and FormatError, which says what it is instead, for what no row reads:
    Git-LFS pointers, text, empty files, formats of others.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    try:
        with _evidence(path) as evidence:
            for kind in all_kinds():
                words = kind.function("sniff")(evidence)
                if words and kind.role == "unread":
                    raise FormatError(f"{path}: {words}")
                if words:
                    return Found(kind, words)
            raise FormatError(f"{path}: {_strange(evidence)}")
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Damaged as error:  # messages that are strange end as FormatErrors of their own
        raise FormatError(f"{path}: cannot be read: {error}") from None


def _strange(evidence: Evidence) -> str:
    if evidence.members is not None:
        return "a zip archive that holds no model; unpack it first"
    if evidence.text is not None:
        first = next(iter(evidence.text.splitlines()), "")[:60]
        return f"a text file that is no model (it begins with {first!r})" if evidence.text else (
            "holds nothing but white space and comments")
    message = evidence.message
    if not message.strange and message.cut is not None and not message.found:
        return "neither a model nor a dump that is known here, or cut off near its start"
    named = [kind.words for kind in all_kinds() if evidence.path.suffix in kind.suffixes and kind.role != "unread"]
    by_name = f"; its name is that of {' or '.join(named)}" if named else ""
    return f"neither a model nor a dump that is known here (no known format begins like this){by_name}"


@contextmanager
def _evidence(path: Path) -> Iterator[Evidence]:
    if path.is_dir():
        yield Evidence(path, None, b"")
        return
    with reading.opened(path) as file:
        head = file.read(HEAD)
        if not head:
            raise FormatError(f"{path}: an empty file")
        if head.startswith(b"version https://git-lfs"):
            raise FormatError(f"{path}: a Git-LFS pointer, not the file itself; fetch it with `git lfs pull`")
        yield Evidence(path, file, head)


# -- what a sniff function looks at ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Top:
    """The top level of a message: its first fields, and whether its bytes end inside one of them."""

    found: tuple[Field, ...]
    cut: Field | None  # the field that is cut off, shortened to what is there
    strange: bool  # bytes that are no protobuf follow

    def first(self, number: int, wire: int = 2) -> Field | None:
        every = (*self.found, self.cut) if self.cut is not None else self.found
        return next((f for f in every if f.number == number and f.wire == wire), None)

    def numbers(self, wire: int = 2) -> set[int]:
        every = (*self.found, self.cut) if self.cut is not None else self.found
        return {f.number for f in every if f.wire == wire}


@dataclass(frozen=True, eq=False)
class Evidence:
    """A file or a folder, looked at once for all rows; each view of it is made when it is first asked for.

    `head` are the first bytes of a file, none of a folder.
    """

    path: Path
    file: BinaryIO | None
    head: bytes

    @property
    def is_folder(self) -> bool:
        return self.file is None

    def has(self, name: str) -> bool:
        """Is it a folder with a file of this name?"""
        return self.is_folder and (self.path / name).is_file()

    @cached_property
    def members(self) -> tuple[str, ...] | None:
        """The names in a zip archive; None if it is none. FormatError for a damaged one."""
        if not self.head.startswith(b"PK\x03\x04"):
            return None
        with reading.archive(self.path, members=MOST_MEMBERS) as archive:
            return tuple(archive.members)

    @cached_property
    def text(self) -> str | None:
        """The first bytes as text without what follows a `#`; None when they are no text."""
        if self.is_folder:
            return None
        text = _as_text(self.head)
        return None if text is None else "\n".join(line.partition("#")[0] for line in text.splitlines()).strip()

    @cached_property
    def buffer(self) -> Buffer:
        """The bytes of the file, wherever they are asked for."""
        return b"" if self.file is None else FileBytes(self.file)

    @cached_property
    def message(self) -> Top:
        """The file as a protobuf message; without any field where it is none, so where it is text or an archive."""
        none = Top((), None, True)
        if self.is_folder or self.text is not None or self.members is not None:
            return none
        top = self.top(0, len(self.buffer))
        return none if top.strange else top

    def top(self, start: int, end: int) -> Top:
        """The message in these bytes of the file."""
        found: list[Field] = []
        try:
            for field in itertools.islice(fields(self.buffer, start, end), _MOST_FIELDS):
                found.append(field)  # one by one: those before a damage count
        except CutOff as error:
            cut = error.field._replace(end=end) if error.field is not None else None
            return Top(tuple(found), cut, False)
        except Damaged:
            return Top(tuple(found), None, True)
        return Top(tuple(found), None, False)

    def inside(self, field: Field) -> Top:
        """The message that a field holds."""
        return self.top(field.start, field.end)

    def string(self, field: Field | None, most: int = 4096) -> str | None:
        """The text of a field, or None when there is none or it is no text."""
        if field is None or field.size > most:
            return None
        try:
            text = bytes(self.buffer[field.start : field.end]).decode("utf-8")
        except UnicodeDecodeError:
            return None
        return text if text.isprintable() else None


def _as_text(head: bytes) -> str | None:
    """The bytes as text, or None when they are not: control characters, or no UTF-8 (a character cut off is fine)."""
    if any(byte < 9 or (13 < byte < 32 and byte != 27) for byte in head):
        return None
    for cut in range(4):
        try:
            return head[: len(head) - cut].decode("utf-8-sig")
        except UnicodeDecodeError:
            continue
    text = head.decode("latin1")  # comments in an old code page
    return text if sum(byte > 126 for byte in head) < len(head) // 10 else None
