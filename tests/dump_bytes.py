"""Bytes of dump files built by hand from the field tables of the specs, and a walker that takes them apart again.

Nothing here uses acccmp: the reader is tested against these bytes.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

FLOAT, FLOAT16, INT8, INT32, UNDEFINED, BF16 = 1, 2, 3, 7, 0, 27
NCHW, NHWC, ND, NC1HWC0, FRACTAL_Z, HWCN, FRACTAL_NZ = 0, 1, 2, 3, 4, 16, 29


def varint(number: int) -> bytes:
    out = b""
    while True:
        number, low = number >> 7, number & 0x7F
        if not number:
            return out + bytes([low])
        out += bytes([low | 0x80])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def blob(field: int, value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(raw)) + raw


def shape(field: int, dims: tuple[int, ...], packed: bool = True) -> bytes:
    if packed:
        return blob(field, blob(1, b"".join(varint(d) for d in dims)) if dims else b"")
    return blob(field, b"".join(number(1, d) for d in dims))


def output(
    dtype: int, layout: int, dims: tuple[int, ...], size: int, original: tuple[int, ...] | None = None,
    sub_format: int = 0, origin: bytes = b"", packed: bool = True, extra: bytes = b"", data: bytes | None = None,
) -> bytes:
    raw = number(1, dtype) + number(2, layout) + shape(3, dims, packed) + (blob(4, origin) if origin else b"")
    raw += (blob(5, data) if data is not None else b"") + number(6, size)
    raw += shape(7, original, packed) if original is not None else b""
    return raw + (number(8, sub_format) if sub_format else b"") + extra


def input_(
    dtype: int, layout: int, dims: tuple[int, ...], size: int, original: tuple[int, ...] | None = None,
    input_type: int = 0, data: bytes | None = None,
) -> bytes:
    raw = number(1, dtype) + number(2, layout) + shape(3, dims)
    raw += (blob(4, data) if data is not None else b"") + number(5, size)
    raw += shape(6, original) if original is not None else b""
    return raw + (number(11, input_type) if input_type else b"")


def header(
    name: str = "", outputs: tuple[bytes, ...] = (), inputs: tuple[bytes, ...] = (), extra: bytes = b"",
    time: int = 1700000000001000,
) -> bytes:
    raw = blob(1, "2.0") + number(2, time) + b"".join(blob(3, o) for o in outputs)
    raw += b"".join(blob(4, i) for i in inputs) + (blob(6, name) if name else b"")
    return raw + extra


def big(head: bytes, *payloads: bytes) -> bytes:
    return struct.pack("<Q", len(head)) + head + b"".join(payloads)


def simple(
    name: str = "", data: bytes = bytes(range(24)), dims: tuple[int, ...] = (3, 4), dtype: int = FLOAT16,
) -> bytes:
    """A big dump of one output."""
    return big(header(name, (output(dtype, ND, dims, len(data), dims),)), data)


def put(folder: Path, name: str, data: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(data)
    return path


def nano(
    inputs: list[tuple[bytes, bytes]] = (), outputs: list[tuple[bytes, bytes]] = (), version: int = 1,  # type: ignore
) -> bytes:
    """A nano dump of (header entry, payload) pairs."""
    body = struct.pack("<II", 0x5A5A5A5A, version)
    for tag, entries in ((4, inputs), (5, outputs)):
        if entries:
            listed = struct.pack("<I", len(entries)) + b"".join(entry for entry, _ in entries)
            body += struct.pack("<II", tag, len(listed)) + listed
    return struct.pack("<Q", len(body)) + body + b"".join(data for _, data in [*inputs, *outputs])


def nano_parts(dims: tuple[int, ...], original: tuple[int, ...] | None, name: str = "") -> bytes:
    raw = struct.pack("<II", 0, 8 * len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
    if original is not None:
        raw += struct.pack("<II", 1, 8 * len(original)) + struct.pack(f"<{len(original)}Q", *original)
    if name:
        raw += struct.pack("<II", 2, len(name)) + name.encode()
    return raw


def nano_input(dtype: int, layout: int, size: int, dims: tuple[int, ...], original: tuple[int, ...] | None) -> bytes:
    parts = nano_parts(dims, original)
    return struct.pack("<iiiQQQI", dtype, layout, 0, 0x1000, 0, size, len(parts)) + parts


def nano_output(
    dtype: int, layout: int, size: int, dims: tuple[int, ...], original: tuple[int, ...] | None, name: str = "",
    index: int = 0, original_dtype: int = 0, original_layout: int = 0,
) -> bytes:
    parts = nano_parts(dims, original, name)
    return struct.pack("<iiiiiiQQQI", dtype, layout, 0, index, original_dtype, original_layout, 0x1000, 0, size,
                       len(parts)) + parts


# -- taking bytes apart ------------------------------------------------------------------------------------------

MESSAGES: dict[str, dict[int, str]] = {  # field -> kind of its message; others are left as they are
    "DumpData": {3: "OpOutput", 4: "OpInput", 5: "Bytes", 7: "Bytes", 8: "Bytes"},
    "OpOutput": {3: "Shape", 4: "OriginalOp", 7: "Shape", 10: "DimRange"},
    "OpInput": {3: "Shape", 6: "Shape"},
    "Shape": {1: "Packed"}, "OriginalOp": {}, "DimRange": {}, "Bytes": {},
}


def walk(raw: bytes, kind: str = "DumpData") -> list[tuple[int, Any]]:
    """(field, value) in the order of field numbers; fields of value 0 left out, packed numbers as tuples."""
    found: list[tuple[int, Any]] = []
    at = 0

    def read() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = raw[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(raw):
        tag = read()
        field, wire = tag >> 3, tag & 7
        if wire == 0:
            value: Any = read()
            if not value:
                continue
        else:
            assert wire == 2, wire
            length = read()
            value = raw[at : at + length]
            at += length
            inner = MESSAGES[kind].get(field)
            if inner == "Packed":
                numbers, value_raw = [], value
                while value_raw:
                    end = next(i for i, byte in enumerate(value_raw) if byte < 128) + 1
                    numbers.append(sum((b & 127) << (7 * i) for i, b in enumerate(value_raw[:end])))
                    value_raw = value_raw[end:]
                value = tuple(numbers)
            elif inner not in (None, "Bytes"):
                value = walk(value, inner)
        found.append((field, value))
    return sorted(found, key=lambda item: item[0])


def split(raw: bytes) -> tuple[list[tuple[int, Any]], bytes]:
    """The fields of a big dump's header, and its payload."""
    length = struct.unpack("<Q", raw[:8])[0]
    return walk(raw[8 : 8 + length]), raw[8 + length :]
