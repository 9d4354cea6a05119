"""A walk over protobuf's wire format that tells where each field lies, without reading the bytes of long ones."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import NamedTuple

Buffer = bytes | mmap.mmap | memoryview

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Field(NamedTuple):
    """One field: `start` is the first byte of its tag; the value is buffer[value:end], or `number` for a varint."""

    field: int
    wire: int
    start: int
    value: int
    end: int
    number: int = 0


def fields(buffer: Buffer, start: int, end: int) -> Iterator[Field]:
    """The fields of the message in buffer[start:end], one after the other.

    Raises ValueError at the first byte that no message can have there.
    """
    at = start
    while at < end:
        tag, value = _varint(buffer, at, end)
        field, wire = tag >> 3, tag & 7
        number = 0
        if field == 0:
            raise ValueError(f"field number 0 at byte {at}")
        if wire == VARINT:
            number, stop = _varint(buffer, value, end)
        elif wire == BYTES:
            length, value = _varint(buffer, value, end)
            stop = value + length
        elif wire in (FIXED64, FIXED32):
            stop = value + (8 if wire == FIXED64 else 4)
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if stop > end:
            raise ValueError(f"a field at byte {at} ends at {stop}, its message at {end}")
        yield Field(field, wire, at, value, stop, number)
        at = stop


def _varint(buffer: Buffer, at: int, end: int) -> tuple[int, int]:
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
