"""Headers of nano dumps: tag, length, value. Specs of the Ascend dump formats, section 1.4. Numbers are GE's."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

from acccmp.core import layout as layouts
from acccmp.core.dump import Origin, Side
from acccmp.core.layout import Shape
from acccmp.core.tensor import BY_GE, DType
from acccmp.errors import FormatError

INPUTS, OUTPUTS = 4, 5  # tags of the two lists
SHAPE, ORIGINAL_SHAPE, ORIGINAL_NAME = 0, 1, 2  # tags within a tensor
LARGEST_HEADER = 16 << 20  # bytes

# Fixed part of a tensor, packed.
INPUT = [("data_type", "i"), ("format", "i"), ("address_type", "i"), ("address", "Q"), ("offset", "Q"), ("size", "Q"),
         ("tlv_list_len", "I")]
OUTPUT = [("data_type", "i"), ("format", "i"), ("address_type", "i"), ("original_index", "i"),
          ("original_data_type", "i"), ("original_format", "i"), ("address", "Q"), ("offset", "Q"), ("size", "Q"),
          ("tlv_list_len", "I")]


@dataclass(frozen=True)
class NanoTensor:
    """One tensor of the header; `wrong` says why it cannot be read."""

    side: Side
    index: int
    dtype: DType | None
    layout: str
    size: int
    shape: Shape
    original_shape: Shape | None
    wrong: str = ""


@dataclass(frozen=True)
class NanoHeader:
    """All tensors in the order of their payloads, the offset at which those begin, the outputs' originals, and how
    many bytes of the header belong to no list that we know."""

    tensors: tuple[NanoTensor, ...]
    start: int
    origins: Mapping[int, Origin]
    rest: int = 0


def read_header(file: BinaryIO, size: int) -> NanoHeader:
    """Read the header of a nano dump of `size` bytes. Raises FormatError (a ValueError's text for cut values)."""
    file.seek(0)
    (length,) = struct.unpack("<Q", file.read(8))
    if length < 8 or length > size - 8:
        raise FormatError(f"{file.name}: a nano header of {length} bytes does not fit into {size} bytes: cut off")
    if length > LARGEST_HEADER:
        raise FormatError(f"{file.name}: a nano header of {length} bytes is more than any dump has")
    raw = file.read(length)
    if len(raw) != length:
        raise FormatError(f"{file.name}: its header is cut off")
    tensors: list[NanoTensor] = []
    origins: dict[int, Origin] = {}
    at = 8  # magic and version
    try:
        for tag, side, row in ((INPUTS, "input", INPUT), (OUTPUTS, "output", OUTPUT)):
            if at + 8 > length or struct.unpack_from("<I", raw, at)[0] != tag:
                continue  # a list that is not there
            span = struct.unpack_from("<I", raw, at + 4)[0]
            end = at + 8 + span
            if end > length:
                raise ValueError(f"a list of {span} bytes at byte {at + 16} does not fit into the header")
            tensors += _read_list(raw, at + 8, end, side, row, origins)  # type: ignore[arg-type]
            at = end
    except (struct.error, ValueError) as error:
        raise FormatError(f"{file.name}: its nano header is damaged: {error}") from error
    return NanoHeader(tuple(tensors), 8 + length, origins, length - at)


def _read_list(
    raw: bytes, at: int, end: int, side: Side, row: list[tuple[str, str]], origins: dict[int, Origin],
) -> list[NanoTensor]:
    (count,) = struct.unpack_from("<I", raw, at)
    at += 4
    form = "<" + "".join(kind for _, kind in row)
    fixed = struct.calcsize(form)
    if count * fixed > end - at:
        raise ValueError(f"{count} {side}s do not fit into {end - at} bytes")
    found = []
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
        low = head["format"] & 0xFF
        dtype = BY_GE.get(head["data_type"])
        found.append(NanoTensor(
            side, index, dtype, layouts.FORMATS.get(low, "ND") if low not in (40, 41, 42, 255) else "ND",
            head["size"], _dims(parts.get(SHAPE, b"")),
            _dims(parts[ORIGINAL_SHAPE]) if parts.get(ORIGINAL_SHAPE) else None,
            "" if dtype is not None else f"the data type {head['data_type']} is not known",
        ))
        name = parts.get(ORIGINAL_NAME, b"").rstrip(b"\0").decode("utf-8", "replace")
        if side == "output" and name:
            original = head["original_format"] & 0xFF
            origins[index] = Origin(
                name, max(0, head["original_index"]), layouts.FORMATS.get(original), None,
                BY_GE.get(head["original_data_type"]),
            )
    return found


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
