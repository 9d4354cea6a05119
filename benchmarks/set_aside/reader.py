"""A small reader of dump files for the self-check, written from the description of the format, not from the encoder."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TYPES = {1: "<f4", 2: "<f2", 4: "u1", 7: "<i4", 9: "<i8", 27: "bf16"}


@dataclass(frozen=True)
class Tensor:
    """A decoded tensor in its original shape (weights too)."""

    values: np.ndarray
    dtype: int
    layout: int
    address: int
    origin: str


@dataclass(frozen=True)
class Dump:
    """One decoded file."""

    op_name: str
    inputs: list[Tensor]
    outputs: list[Tensor]


def fields(raw: bytes) -> list[tuple[int, int | bytes]]:
    """(field number, number or bytes) of a protobuf message."""
    out: list[tuple[int, int | bytes]] = []
    at = 0

    def number() -> int:
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
        tag = number()
        if tag & 7 == 0:
            out.append((tag >> 3, number()))
        elif tag & 7 == 2:
            size = number()
            out.append((tag >> 3, raw[at : at + size]))
            at += size
        else:
            raise ValueError(f"wire type {tag & 7} is not used by dumps")
    return out


def shape_of(body: bytes) -> list[int]:
    packed = next((v for no, v in fields(body) if no == 1), b"")
    # A packed list of varints reads like a message whose every number is a tag, so it is read by hand here.
    out, value, shift = [], 0, 0
    for byte in packed if isinstance(packed, bytes) else b"":
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            out.append(value)
            value = shift = 0
    return out


def straightened(x: np.ndarray, layout: int, shape: list[int], groups: int) -> np.ndarray:
    """Blocked data in the original shape; one element at a time for the rarer layouts, to be plainly right."""
    if layout in (0, 2):
        return x.reshape(shape)
    c0 = x.shape[-1]
    index = np.indices(shape)
    if layout == 3:
        n, c, h, w = index
        return x[n, c // c0, h, w, c % c0]
    if layout == 29:
        m, n = index
        return x[n // c0, m // 16, m % 16, n % c0]
    n, c, h, w = index
    height, width = shape[2:]
    each_in, each_out = shape[1], shape[0] // groups
    share = 1
    if groups > 1:
        share = min(np.lcm(np.lcm(each_in, c0) // each_in, np.lcm(each_out, 16) // each_out), groups)
    blocks = -(-share * each_in // c0)
    group, k = n // each_out, n % each_out
    ci, co = group % share * each_in + c, group % share * each_out + k
    row = (group // share * blocks + ci // c0) * height * width + h * width + w
    return x[row, co // 16, co % 16, ci % c0]


def tensor(body: bytes, raw: bytes, is_output: bool) -> Tensor:
    """Decodes one tensor from its header entry and its payload."""
    found = dict(fields(body))
    dtype, layout = int(found.get(1, 0)), int(found.get(2, 0))
    full_no, group_no, address_no = (7, 8, 9) if is_output else (6, 7, 8)
    stored = shape_of(bytes(found[3]))
    full = shape_of(bytes(found[full_no]))
    kind = TYPES[dtype]
    if kind == "bf16":
        x = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    else:
        x = np.frombuffer(raw, kind)
    origin = ""
    if is_output and 4 in found:
        origin = bytes(dict(fields(bytes(found[4])))[1]).decode()
    values = straightened(x.reshape(stored), layout, full, max(int(found.get(group_no, 1)), 1))
    return Tensor(values, dtype, layout, int(found.get(address_no, 0)), origin)


def read(path: Path) -> Dump:
    """Decodes a file; raises ValueError if its sizes do not add up."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    entries = fields(raw[8 : 8 + length])
    at = 8 + length
    decoded: dict[int, list[Tensor]] = {4: [], 3: []}
    for part, size_no in ((4, 5), (3, 6)):
        for body in (v for no, v in entries if no == part and isinstance(v, bytes)):
            size = int(dict(fields(body)).get(size_no, 0))
            decoded[part].append(tensor(body, raw[at : at + size], part == 3))
            at += size
    if at != len(raw):
        raise ValueError(f"{path.name}: sizes add up to {at} bytes, the file has {len(raw)}")
    name = next(v for no, v in entries if no == 6)
    return Dump(bytes(name).decode() if isinstance(name, bytes) else "", decoded[4], decoded[3])
