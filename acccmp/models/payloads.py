"""Protobuf messages without their payloads: the bytes of weights stay in the file, the rest is parsed.

`thin` copies a message and puts, in place of each payload that a table names, a token of 16 bytes that tells where the
payload lies. What is left is small and can be handed to protobuf, however big the file is.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from acccmp.errors import FormatError

Buffer = bytes | mmap.mmap | memoryview

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
DEEPEST = 64  # levels of messages within messages; real models use 10

_TOKEN = struct.Struct("<QQ")


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


class Field(NamedTuple):
    """One field: its tag begins at `start`; its value is buffer[value:end], or `number` for a varint."""

    number_of: int
    wire: int
    start: int
    value: int
    end: int
    number: int = 0


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """The bytes of a file without reading them. Raises FormatError when it is empty or cannot be opened."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise FormatError(f"{path}: the file is empty")
            view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise FormatError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        yield view
    finally:
        view.close()


def fields(buffer: Buffer, start: int, end: int) -> Iterator[Field]:
    """The fields of the message in buffer[start:end]. ValueError at the first byte that no message can have there."""
    at = start
    while at < end:
        tag, value = varint(buffer, at, end)
        wire, number, stop = tag & 7, 0, 0
        if not tag >> 3:
            raise ValueError(f"field number 0 at byte {at}")
        if wire == VARINT:
            number, stop = varint(buffer, value, end)
        elif wire == BYTES:
            length, value = varint(buffer, value, end)
            stop = value + length
        elif wire in (FIXED64, FIXED32):
            stop = value + (8 if wire == FIXED64 else 4)
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if stop > end:
            raise ValueError(f"a field at byte {at} ends at {stop}, its message at {end}")
        yield Field(tag >> 3, wire, at, value, stop, number)
        at = stop


def varint(buffer: Buffer, at: int, end: int) -> tuple[int, int]:
    """A number of protobuf's variable length, and the first byte behind it. ValueError when it is cut off."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise ValueError(f"cut off at byte {at}")
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise ValueError(f"a number of more than ten bytes at {at - 10}")


def thin(buffer: Buffer, start: int, end: int, table: Mapping[int, PayloadTable | None], depth: int = 0) -> bytes:
    """The message in buffer[start:end] with each payload of `table` replaced by its token (see `Payload.of`).

    Offsets count from the beginning of `buffer`. ValueError for bytes that are no message.
    """
    if depth > DEEPEST:
        raise ValueError(f"messages are nested deeper than {DEEPEST}")
    out = bytearray()
    copied = start  # everything before this byte is in `out`
    for field in fields(buffer, start, end):
        if field.wire != BYTES or field.number_of not in table:
            continue
        inner = table[field.number_of]
        if inner is None:
            body = _TOKEN.pack(field.value, field.end - field.value)
        else:
            body = thin(buffer, field.value, field.end, inner, depth + 1)
            if len(body) == field.end - field.value and body == buffer[field.value : field.end]:
                continue
        out += buffer[copied : field.start]
        out += _encoded(field.number_of << 3 | BYTES) + _encoded(len(body)) + body
        copied = field.end
    out += buffer[copied:end]
    return bytes(out)


def _encoded(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
