"""Nano dumps: headers of tag, length, value. Specs of the Ascend dump formats, section 1.4. Numbers are GE's."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

from acccmp.core.dump import DumpedOp, Origin, Side
from acccmp.core.layout import Shape
from acccmp.core.tensor import BY_GE
from acccmp.dumps.content import Entry, FileContent, checked, layout_name
from acccmp.errors import FormatError

SHAPE, ORIGINAL_SHAPE, ORIGINAL_NAME = 0, 1, 2  # tags within a tensor
LARGEST_HEADER = 16 << 20  # bytes

# Fixed part of a tensor, packed.
INPUT = [("data_type", "i"), ("format", "i"), ("address_type", "i"), ("address", "Q"), ("offset", "Q"), ("size", "Q"),
         ("tlv_list_len", "I")]
OUTPUT = [("data_type", "i"), ("format", "i"), ("address_type", "i"), ("original_index", "i"),
          ("original_data_type", "i"), ("original_format", "i"), ("address", "Q"), ("offset", "Q"), ("size", "Q"),
          ("tlv_list_len", "I")]
LISTS: tuple[tuple[int, Side, list[tuple[str, str]]], ...] = ((4, "input", INPUT), (5, "output", OUTPUT))  # by tag


def read(path: str, file: BinaryIO, size: int, op: DumpedOp) -> FileContent:
    """What a nano dump of `size` bytes holds. Raises FormatError (a ValueError's text for cut values)."""
    file.seek(0)
    (length,) = struct.unpack("<Q", file.read(8))
    if length < 8 or length > size - 8:
        raise FormatError(f"{path}: a nano header of {length} bytes does not fit into {size} bytes: cut off")
    if length > LARGEST_HEADER:
        raise FormatError(f"{path}: a nano header of {length} bytes is more than any dump has")
    raw = file.read(length)
    if len(raw) != length:
        raise FormatError(f"{path}: its header is cut off")
    entries: list[Entry] = []
    origins: dict[int, Origin] = {}
    at, payload = 8, 8 + length  # magic and version lie in front of the first list
    try:
        for tag, side, row in LISTS:
            if at + 8 > length or struct.unpack_from("<I", raw, at)[0] != tag:
                continue  # a list that is not there
            span = struct.unpack_from("<I", raw, at + 4)[0]
            end = at + 8 + span
            if end > length:
                raise ValueError(f"a list of {span} bytes at byte {at + 16} does not fit into the header")
            for entry, origin in _read_list(raw, at + 8, end, side, row):
                entries.append(replace(entry, offset=payload))
                payload += entry.size
                if origin is not None:
                    origins[entry.index] = origin
            at = end
    except (struct.error, ValueError) as error:
        raise FormatError(f"{path}: its nano header is damaged: {error}") from error
    content = checked(replace(op, origins=origins), entries, size, size - payload)
    if at == length:
        return content
    return replace(content, notes=(*content.notes, f"{path}: {length - at} bytes of its header were not understood"))


def _read_list(
    raw: bytes, at: int, end: int, side: Side, row: list[tuple[str, str]],
) -> Iterator[tuple[Entry, Origin | None]]:
    """Each tensor of a list, and what it stands for."""
    (count,) = struct.unpack_from("<I", raw, at)
    at += 4
    form = "<" + "".join(kind for _, kind in row)
    fixed = struct.calcsize(form)
    if count * fixed > end - at:
        raise ValueError(f"{count} {side}s do not fit into {end - at} bytes")
    for index in range(count):
        if at + fixed > end:
            raise ValueError(f"{side} {index} is cut off")
        head = dict(zip((name for name, _ in row), struct.unpack_from(form, raw, at), strict=True))
        at += fixed
        stop = at + head["tlv_list_len"]
        if stop > end:
            raise ValueError(f"{side} {index} is cut off")
        parts = _parts(raw, at, stop)
        at = stop
        original = _dims(parts[ORIGINAL_SHAPE]) if parts.get(ORIGINAL_SHAPE) else None
        entry = Entry(
            side, index, 0, head["size"], BY_GE.get(head["data_type"]), head["data_type"], layout_name(head["format"]),
            _dims(parts.get(SHAPE, b"")), original,
        )
        name = parts.get(ORIGINAL_NAME, b"").rstrip(b"\0").decode("utf-8", "replace")
        yield entry, None if side == "input" or not name else Origin(
            name, max(0, head["original_index"]), layout_name(head["original_format"]), None,
            BY_GE.get(head["original_data_type"]),
        )


def _parts(raw: bytes, at: int, stop: int) -> dict[int, bytes]:
    parts: dict[int, bytes] = {}
    while at + 8 <= stop:
        tag, length = struct.unpack_from("<II", raw, at)
        if at + 8 + length > stop:
            raise ValueError(f"a value of {length} bytes at byte {at + 8} does not fit")
        parts[tag] = raw[at + 8 : at + 8 + length]
        at += 8 + length
    return parts


def _dims(raw: bytes) -> Shape:
    if len(raw) % 8:
        raise ValueError(f"a shape of {len(raw)} bytes")
    return struct.unpack(f"<{len(raw) // 8}Q", raw)
