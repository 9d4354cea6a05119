"""Protobuf's wire format: where the fields of a message lie, walked without reading the bytes of long ones.

A message may be larger than memory, or than protobuf likes to parse: the walk touches tags and lengths only, in bytes,
in a mapped file (the faster one) or in a file that is read by seeking (`FileBytes`: pages of a mapped file count as
memory, and the kernel may map much around each tag).

`thin` copies a message and puts, in place of each payload that a table names, a token of 16 bytes that tells where the
payload lies; what is left is small and can be handed to protobuf (`message`).

The format (protobuf's encoding guide): a field is a tag, `number << 3 | wire type`, and its value; tags, lengths and
whole numbers are varints, 7 bits a byte, the lowest first. Groups (wire types 3 and 4) are in none of our formats.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, BinaryIO, NamedTuple, overload

from acccmp.errors import FormatError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
DEEPEST = 64  # levels of messages within messages; real models use 10
LARGEST = (1 << 31) - 1  # bytes of a message that protobuf parses

_MOST_NUMBER = (1 << 29) - 1  # the highest number of a field
_PAGE = 512  # bytes that are read at once for the tags in them
_TOKEN = struct.Struct("<QQ")


class Damaged(ValueError):
    """Bytes that no message can have there."""


class TooLarge(Damaged):
    """More bytes are left of a message, without its payloads, than are wanted."""


class CutOff(Damaged):
    """A message that ends inside of its last field, which begins at byte `at` and has `need` bytes there or more.

    `field` is that field as its tag and length tell it, so beyond the end; None when they are cut off too.
    """

    def __init__(self, at: int, need: int, end: int, field: Field | None = None) -> None:
        super().__init__(f"a field at byte {at} needs {need} bytes, its message ends at {end}")
        self.at, self.need, self.field = at, need, field


class Field(NamedTuple):
    """One field: its tag begins at byte `tag`; its value is buffer[start:end], and `value` for a varint."""

    number: int
    wire: int
    tag: int
    start: int
    end: int
    value: int = 0

    @property
    def size(self) -> int:
        """Bytes of the value."""
        return self.end - self.start


_made = partial(tuple.__new__, Field)  # half the time of Field(...), which counts for files of a million fields


class FileBytes:
    """The bytes of an open file as a buffer that is read by seeking, a page at a time; slices are read as they are.

    Raises Damaged when the file became shorter.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._size = file, os.fstat(file.fileno()).st_size
        self._start, self._page = 0, b""

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> bytes: ...
    def __getitem__(self, place: int | slice) -> int | bytes:
        if isinstance(place, slice):
            start, stop, _ = place.indices(self._size)
            return self._read(start, max(0, stop - start))
        at = place - self._start
        if not 0 <= at < len(self._page):
            self._start, self._page = place, self._read(place, min(_PAGE, self._size - place))
            at = 0
        return self._page[at]

    def _read(self, start: int, size: int) -> bytes:
        self._file.seek(start)
        raw = self._file.read(size)
        if len(raw) != size:
            raise Damaged(f"{size} bytes are due at byte {start}, {len(raw)} are there: the file became shorter")
        return raw


Buffer = bytes | mmap.mmap | memoryview | FileBytes


# -- reading -----------------------------------------------------------------------------------------------------


def fields(buffer: Buffer, start: int, end: int) -> Iterator[Field]:
    """The fields of the message in buffer[start:end], one after the other.

    Raises CutOff when a field reaches beyond `end`, and Damaged at the first byte that no message can have there.
    """
    if not 0 <= start <= end <= len(buffer):
        raise Damaged(f"a message from byte {start} to {end}, {len(buffer)} bytes are there")
    at = start
    while at < end:
        tag = at
        key = buffer[at]  # most tags and lengths are one byte, and a call for each would double the time
        if key < 0x80:
            at += 1
        else:
            key, at = varint(buffer, at, end, tag)
        number, wire, value = key >> 3, key & 7, 0
        if not 0 < number <= _MOST_NUMBER:
            raise Damaged(f"field number {number} at byte {tag}")
        begin = at
        if wire == BYTES:
            if at < end and (size := buffer[at]) < 0x80:
                begin = at + 1
            else:
                size, begin = varint(buffer, at, end, tag)
            at = begin + size
        elif wire == VARINT:
            value, at = varint(buffer, at, end, tag)
        elif wire == FIXED32:
            at += 4
        elif wire == FIXED64:
            at += 8
        else:
            raise Damaged(f"wire type {wire} at byte {tag}")
        if at > end:
            raise CutOff(tag, at - begin, end, Field(number, wire, tag, begin, at))
        yield _made((number, wire, tag, begin, at, value))


def varint(buffer: Buffer, at: int, end: int, tag: int) -> tuple[int, int]:
    """The number of variable length at byte `at`, modulo 2**64, and the first byte behind it.

    Raises CutOff, which speaks of the field at byte `tag`, when it does not end before `end`; Damaged for more than
    ten bytes.
    """
    first = at
    value = shift = 0
    while at < end:
        byte = buffer[at]
        at += 1
        if byte < 0x80:
            return (value | byte << shift) & 0xFFFFFFFFFFFFFFFF, at
        value |= (byte & 0x7F) << shift
        shift += 7
        if shift == 70:
            raise Damaged(f"a number of more than ten bytes at {first}")
    raise CutOff(tag, at - tag + 1, end)


# -- a message without its payloads ------------------------------------------------------------------------------


class PayloadTable(dict[int, "PayloadTable | None"]):
    """Field number -> None for a payload, or the table of the message in that field."""


class Payload(NamedTuple):
    """Where a payload lies: first byte in the buffer, and number of bytes."""

    offset: int
    size: int

    @classmethod
    def of(cls, token: bytes) -> Payload:
        """The payload that a token of `thin` stands for; an absent field (no bytes) is an empty payload."""
        return cls(*_TOKEN.unpack(token)) if token else cls(0, 0)


def thin(
    buffer: Buffer, start: int, end: int, table: Mapping[int, PayloadTable | None], most: int = LARGEST,
    depth: int = 0,
) -> bytes:
    """The message in buffer[start:end] with each payload of `table` replaced by its token (see `Payload.of`).

    Offsets count from the beginning of `buffer`. Raises Damaged for bytes that are no message, for messages nested
    deeper than DEEPEST, and when more than `most` bytes are left.
    """
    if depth > DEEPEST:
        raise Damaged(f"messages are nested deeper than {DEEPEST}")
    out = bytearray()
    copied = start  # everything before this byte is in `out`
    for field in fields(buffer, start, end):
        _bounded(len(out) + field.tag - copied, most)
        if field.wire != BYTES or field.number not in table:
            continue
        inner = table[field.number]
        if inner is None:
            body = _TOKEN.pack(field.start, field.size)
        else:
            body = thin(buffer, field.start, field.end, inner, most, depth + 1)
            if len(body) == field.size and body == buffer[field.start : field.end]:
                continue
        out += buffer[copied : field.tag]
        out += bytes_field(field.number, body)
        copied = field.end
    _bounded(len(out) + end - copied, most)
    out += buffer[copied:end]
    return bytes(out)


def _bounded(size: int, most: int) -> None:
    if size > most:
        raise TooLarge(f"more than {most} bytes besides its payloads")


def message(
    kind: Callable[[], Any], buffer: Buffer, start: int, end: int, table: Mapping[int, PayloadTable | None], what: str,
) -> Any:
    """buffer[start:end] as a message of protobuf, its payloads as tokens (see `thin`).

    Raises FormatError, which begins with `what`, for bytes that are none.
    """
    from google.protobuf.message import DecodeError

    found = kind()
    try:
        found.ParseFromString(thin(buffer, start, end, table))
    except (DecodeError, ValueError) as error:
        raise FormatError(f"{what}: {' '.join(str(error).split())[:200]}") from None
    return found


def text_of(raw: bytes | str) -> str:
    """The text in a field; what is no UTF-8 is kept as Latin-1 characters."""
    if isinstance(raw, str):
        return raw
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


# -- writing -----------------------------------------------------------------------------------------------------


def encoded(number: int) -> bytes:
    """A number from 0 on as a varint."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def tag(number: int, wire: int) -> bytes:
    """The bytes in front of a field's value."""
    return encoded(number << 3 | wire)


def number_field(number: int, value: int) -> bytes:
    """A field with one whole number from 0 on."""
    return tag(number, VARINT) + encoded(value)


def bytes_head(number: int, size: int) -> bytes:
    """Tag and length of a field whose `size` bytes follow."""
    return tag(number, BYTES) + encoded(size)


def bytes_field(number: int, value: bytes) -> bytes:
    """A field with bytes: text, a packed list, or a message."""
    return bytes_head(number, len(value)) + value
