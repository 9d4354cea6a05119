"""The caffemodel file: where each layer's weights lie, without loading them; and writing one.

A caffemodel is one protobuf message that can be larger than protobuf likes to parse. This module walks the wire
format itself: weights stay in the file as `TensorRef`s, the rest of each layer is kept as bytes (unknown fields
included) for the schema to look at. Field numbers: ../shared/specs/caffe_fields.md.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from acccmp.core.tensor import DTYPES, TensorRef
from acccmp.errors import FormatError

FLOAT32, FLOAT64 = DTYPES["float32"], DTYPES["float64"]

# NetParameter
NET_V1_LAYER, NET_INPUT, NET_V2_LAYER = 2, 3, 100
# generation -> (field of its name, of its type, of its blobs) in the layer message
LAYER_FIELDS = {"V2": (1, 2, 7), "V1": (4, 5, 6), "V0": (1, 2, 50)}
V1_HOLDS_V0 = 1
# BlobProto
LEGACY_DIMS, BLOB_DATA, BLOB_SHAPE, BLOB_DOUBLES = (1, 2, 3, 4), 5, 7, 8


@dataclass(frozen=True)
class StoredBlob:
    """One weight of a layer. `legacy`: its shape was stored as num, channels, height, width."""

    ref: TensorRef
    legacy: bool = False


@dataclass(frozen=True)
class StoredLayer:
    """One layer of a caffemodel: its weights, and all its other fields as the bytes of a layer message.

    `v1_type` is the number of a V1 layer's type (forks add numbers that no schema knows).
    """

    name: str
    generation: str
    blobs: tuple[StoredBlob, ...] = ()
    header: bytes = field(default=b"", repr=False)
    v1_type: int | None = None
    empty: int = 0  # blobs without data


@dataclass(frozen=True)
class StoredNet:
    """A caffemodel: its layers in file order, and the net's own fields as bytes."""

    path: Path
    layers: tuple[StoredLayer, ...]
    header: bytes = field(default=b"", repr=False)


# -- what a file is ----------------------------------------------------------------------------------------------


def first_bytes(path: Path, count: int = 4096) -> bytes:
    """The beginning of a file. Raises FormatError for what cannot be read, is empty, or is a Git-LFS pointer."""
    try:
        with path.open("rb") as file:
            head = file.read(count)
    except OSError as error:
        raise FormatError(f"{path.name}: cannot be read: {error.strerror or error}") from error
    if not head:
        raise FormatError(f"{path.name}: the file is empty")
    if head.startswith(b"version https://git-lfs.github.com/"):
        raise FormatError(f"{path.name}: is a Git-LFS pointer, not the file itself; fetch it with `git lfs pull`")
    return head


def is_text(head: bytes) -> bool:
    """Could these bytes be the beginning of a text file? (A caffemodel has control bytes in its first tags.)"""
    return not any(byte < 9 or 13 < byte < 32 for byte in head)


# -- walking -----------------------------------------------------------------------------------------------------


class _Damaged(Exception):
    """What is wrong with the bytes; becomes a FormatError with the file's and the layer's name."""


def _varint(data: mmap.mmap | bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift > 63:
            raise _Damaged(f"a number at byte {at} is longer than 64 bits")
    raise _Damaged("it ends inside a number")


def _fields(data: mmap.mmap | bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """(field number, wire type, first byte of the field, of its value, end); a varint's value stands for its place."""
    while at < end:
        first = at
        tag, at = _varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise _Damaged(f"there is no field number at byte {first}")
        if wire == 0:
            value, stop = _varint(data, at, end)
            yield number, wire, first, value, stop
        else:
            if wire == 2:
                size, at = _varint(data, at, end)
            elif wire in (1, 5):
                size = 8 if wire == 1 else 4
            else:
                raise _Damaged(f"wire type {wire} at byte {first} is not used by Caffe")
            stop = at + size
            if stop > end:
                raise _Damaged(f"{size} bytes are due at byte {at}, {max(0, end - at)} are there")
            yield number, wire, first, at, stop
        at = stop


def _text(data: mmap.mmap | bytes, start: int, end: int) -> str:
    raw = bytes(data[start:end])
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def read_caffemodel(path: Path) -> StoredNet:
    """The layers of a caffemodel, weights left in the file. Any generation.

    Raises FormatError: not readable, empty, a Git-LFS pointer, text, cut off, or no caffemodel.
    """
    head = first_bytes(path)
    if is_text(head):
        raise FormatError(
            f"{path.name}: is text, not binary weights (a prototxt?); give the prototxt as the model "
            "and the .caffemodel as the weights"
        )
    layers: list[StoredLayer] = []
    rest, inputs = [], False
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for number, wire, first, start, stop in _fields(data, 0, len(data)):
                if wire == 2 and number in (NET_V2_LAYER, NET_V1_LAYER):
                    layers.append(_layer(data, start, stop, "V2" if number == NET_V2_LAYER else "V1", str(path)))
                else:
                    rest.append(bytes(data[first:stop]))
                    inputs |= number == NET_INPUT
    except OSError as error:
        raise FormatError(f"{path.name}: cannot be read: {error.strerror or error}") from error
    except _Damaged as error:
        where = f"after layer {layers[-1].name!r}" if layers else "at its beginning"
        hint = "the file seems cut off or damaged" if layers else "is this a caffemodel? Cut off or damaged, if so"
        raise FormatError(f"{path.name}: no readable caffemodel: {where}, {error}; {hint}") from None
    if not layers and not inputs:  # an old net may be nothing but its inputs
        raise FormatError(f"{path.name}: no caffemodel: it holds no layers")
    return StoredNet(path, tuple(layers), b"".join(rest))


def _layer(data: mmap.mmap, start: int, end: int, generation: str, path: str) -> StoredLayer:
    name_field, type_field, blob_field = LAYER_FIELDS[generation]
    name, kind, empty = "", None, 0
    blobs: list[StoredBlob] = []
    rest = []
    old: StoredLayer | None = None
    for number, wire, first, value, stop in _fields(data, start, end):
        if number == blob_field and wire == 2:
            try:
                blob = _blob(data, value, stop, path)
            except _Damaged as error:
                raise _Damaged(f"blob {len(blobs) + empty} of {name!r}: {error}") from None
            if blob is None:
                empty += 1
            else:
                blobs.append(blob)
            continue
        if number == name_field and wire == 2:
            name = _text(data, value, stop)
        elif number == type_field and wire == 0 and generation == "V1":
            kind = value
        elif generation == "V1" and number == V1_HOLDS_V0 and wire == 2:
            old = _layer(data, value, stop, "V0", path)
            body = old.header
            rest.append(_tag(V1_HOLDS_V0, 2) + _number(len(body)) + body)
            continue
        rest.append(bytes(data[first:stop]))
    if old is not None:
        return StoredLayer(old.name, "V0", old.blobs, b"".join(rest), None, old.empty)
    return StoredLayer(name, generation, tuple(blobs), b"".join(rest), kind, empty)


def _blob(data: mmap.mmap, start: int, end: int, path: str) -> StoredBlob | None:
    """One BlobProto; None when it has no data. Packed data in one piece stays in the file, other data is read."""
    legacy: dict[int, int] = {}
    shape: list[int] | None = None
    packed: dict[int, list[tuple[int, int]]] = {BLOB_DATA: [], BLOB_DOUBLES: []}
    loose: dict[int, list[np.ndarray]] = {BLOB_DATA: [], BLOB_DOUBLES: []}
    skip_to = start
    for number, wire, first, value, stop in _fields(data, start, end):
        if first < skip_to:
            continue
        if number in LEGACY_DIMS and wire == 0:
            legacy[number] = _signed(value)
        elif number == BLOB_SHAPE and wire == 2:
            shape = (shape or []) + _dims(data, value, stop)
        elif number in packed and wire == 2:
            item = 4 if number == BLOB_DATA else 8
            if (stop - value) % item:
                raise _Damaged(f"{stop - value} bytes are no whole number of values")
            packed[number].append((value, stop))
        elif number in loose and wire == (5 if number == BLOB_DATA else 1):
            run, skip_to = _unpacked(data, first, end, number)
            loose[number].append(run)
    which = BLOB_DOUBLES if packed[BLOB_DOUBLES] or loose[BLOB_DOUBLES] else BLOB_DATA
    dtype = FLOAT64 if which == BLOB_DOUBLES else FLOAT32
    chunks = [np.frombuffer(bytes(data[a:b]), dtype.numpy) for a, b in packed[which]] if (
        len(packed[which]) > 1 or loose[which]
    ) else []
    values = np.concatenate(chunks + loose[which]) if chunks or loose[which] else None
    count = values.size if values is not None else sum(b - a for a, b in packed[which]) // (dtype.bits // 8)
    if shape is None and legacy:
        dims = tuple(legacy.get(number, 0) for number in LEGACY_DIMS)
    else:
        dims = tuple(shape) if shape is not None else (count,)
    if any(dim < 0 for dim in dims):
        raise _Damaged(f"its shape {dims} has a negative size")
    if count == 0:
        return None
    if math.prod(dims) != count:
        raise _Damaged(f"its shape {dims} needs {math.prod(dims)} values, {count} are there")
    is_legacy = shape is None and bool(legacy)
    if values is not None:
        return StoredBlob(TensorRef(path, dtype, dims, size=values.nbytes, array=values.reshape(dims)), is_legacy)
    place, stop = packed[which][0]
    return StoredBlob(TensorRef(path, dtype, dims, place, stop - place), is_legacy)


def _unpacked(data: mmap.mmap, first: int, end: int, number: int) -> tuple[np.ndarray, int]:
    """A run of single values, each behind its own tag, read at once; and where the run ends."""
    dtype = np.dtype("<f4" if number == BLOB_DATA else "<f8")
    step = 1 + dtype.itemsize
    tag = (number << 3) | (5 if number == BLOB_DATA else 1)
    rows = np.frombuffer(bytes(data[first : first + (end - first) // step * step]), np.uint8).reshape(-1, step)
    others = np.flatnonzero(rows[:, 0] != tag)
    run = int(others[0]) if others.size else len(rows)
    return np.ascontiguousarray(rows[:run, 1:]).view(dtype).reshape(-1), first + run * step


def _dims(data: mmap.mmap, start: int, end: int) -> list[int]:
    dims = []
    for number, wire, _, value, stop in _fields(data, start, end):
        if number == 1 and wire == 0:
            dims.append(_signed(value))
        elif number == 1 and wire == 2:
            at = value
            while at < stop:
                dim, at = _varint(data, at, stop)
                dims.append(_signed(dim))
        if len(dims) > 32:
            raise _Damaged("its shape has more than 32 sizes")
    return dims


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def unknown_fields(message: bytes, known: Container[int]) -> bytes:
    """Those fields of a message, as bytes, whose numbers are not `known`."""
    return b"".join(message[first:stop] for number, _, first, _, stop in _fields(message, 0, len(message))
                    if number not in known)


# -- writing -----------------------------------------------------------------------------------------------------


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _tag(number: int, wire: int) -> bytes:
    return _number(number << 3 | wire)


def plain_field(number: int, value: int) -> bytes:
    """A field with one whole number, as bytes."""
    return _tag(number, 0) + _number(value)


def _blob_head(blob: StoredBlob) -> bytes:
    """Everything of a BlobProto up to its packed data."""
    shape, size = blob.ref.shape, blob.ref.count * blob.ref.dtype.bits // 8
    if blob.legacy and len(shape) == 4:
        head = b"".join(_tag(number, 0) + _number(dim) for number, dim in zip(LEGACY_DIMS, shape, strict=True))
    else:
        packed = b"".join(_number(dim) for dim in shape)
        dims = _tag(1, 2) + _number(len(packed)) + packed
        head = _tag(BLOB_SHAPE, 2) + _number(len(dims)) + dims
    return head + _tag(BLOB_DOUBLES if blob.ref.dtype is FLOAT64 else BLOB_DATA, 2) + _number(size)


def caffemodel(net_header: bytes, layers: Iterable[tuple[str, bytes, Sequence[StoredBlob]]]) -> Iterator[bytes]:
    """A caffemodel's bytes, piece by piece, from each layer's (generation, message without blobs, blobs)."""
    yield net_header
    for generation, header, blobs in layers:
        blob_field = LAYER_FIELDS[generation][2]
        heads = [_blob_head(blob) for blob in blobs]
        sizes = [len(head) + blob.ref.nbytes for head, blob in zip(heads, blobs, strict=True)]
        openings = [_tag(blob_field, 2) + _number(size) for size in sizes]
        total = len(header) + sum(map(len, openings)) + sum(sizes)
        yield _tag(NET_V2_LAYER if generation == "V2" else NET_V1_LAYER, 2) + _number(total) + header
        for opening, head, blob in zip(openings, heads, blobs, strict=True):
            yield opening + head
            for block in blob.ref.blocks():
                yield np.ascontiguousarray(block, blob.ref.dtype.numpy).tobytes()


def write_caffemodel(path: Path, net_header: bytes, layers: Iterable[tuple[str, bytes, Sequence[StoredBlob]]]) -> None:
    """Write what `caffemodel` gives; weights are streamed.

    The file appears under its name when it is complete.
    """
    with replacing(path) as file:
        for piece in caffemodel(net_header, layers):
            file.write(piece)


class replacing:
    """Write to a temporary name beside `path`; when all went well it takes the name, else it is removed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> BinaryIO:
        handle, self.part = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.", suffix=".part")
        os.fchmod(handle, 0o644)
        self.file = os.fdopen(handle, "wb")
        return self.file

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.file.close()
        if kind is None:
            os.replace(self.part, self.path)
        else:
            os.unlink(self.part)
