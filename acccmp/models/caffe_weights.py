"""The caffemodel file: where each layer's weights lie, without loading them; and writing one.

A caffemodel is one protobuf message that can be larger than protobuf likes to parse. This module walks the wire
format itself: weights stay in the file as `TensorRef`s, the rest of each layer is kept as bytes (unknown fields
included) for the schema to look at. Field numbers: ../shared/specs/caffe_fields.md.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from acccmp.core import reading
from acccmp.core.tensor import DTYPES, TensorRef
from acccmp.core.wire import (
    BYTES,
    FIXED32,
    FIXED64,
    VARINT,
    Buffer,
    Damaged,
    bytes_field,
    bytes_head,
    encoded,
    fields,
    number_field,
    varint,
)
from acccmp.errors import FormatError

FLOAT32, FLOAT64 = DTYPES["float32"], DTYPES["float64"]

# NetParameter
NET_V1_LAYER, NET_INPUT, NET_V2_LAYER = 2, 3, 100
# generation -> (field of its name, of its type, of its blobs) in the layer message
LAYER_FIELDS = {"V2": (1, 2, 7), "V1": (4, 5, 6), "V0": (1, 2, 50)}
V1_HOLDS_V0 = 1
# BlobProto
MOST_LAYERS = 20_000  # of a net; the deepest that were published have a few thousand
MOST_DIMS = 32  # sizes of a shape; real ones have up to 5
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


@dataclass(frozen=True)
class StoredNet:
    """A caffemodel: its layers in file order, and the net's own fields as bytes."""

    path: Path
    layers: tuple[StoredLayer, ...]
    header: bytes = field(default=b"", repr=False)


# -- what a file is ----------------------------------------------------------------------------------------------


def first_bytes(path: Path, count: int = 4096) -> bytes:
    """The beginning of a file. Raises FormatError for what cannot be read or is empty."""
    head = reading.first_bytes(path, count)
    if not head:
        raise FormatError(f"{path.name}: the file is empty")
    return head


def is_text(head: bytes) -> bool:
    """Could these bytes be the beginning of a text file? (A caffemodel has control bytes in its first tags.)"""
    return not any(byte < 9 or 13 < byte < 32 for byte in head)


# -- walking -----------------------------------------------------------------------------------------------------


def _text(data: Buffer, start: int, end: int) -> str:
    raw = bytes(data[start:end])
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def read_caffemodel(path: Path) -> StoredNet:
    """The layers of a caffemodel, weights left in the file. Any generation.

    Raises FormatError: not readable, empty, text, cut off, or no caffemodel.
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
        with reading.mapped(path) as data:
            for item in fields(data, 0, len(data)):
                if item.wire == BYTES and item.number in (NET_V2_LAYER, NET_V1_LAYER):
                    generation = "V2" if item.number == NET_V2_LAYER else "V1"
                    layers.append(_layer(data, item.start, item.end, generation, str(path)))
                    check_layers(len(layers), path.name)
                else:
                    rest.append(bytes(data[item.tag : item.end]))
                    inputs |= item.number == NET_INPUT
    except Damaged as error:
        where = f"after layer {layers[-1].name!r}" if layers else "at its beginning"
        hint = "the file seems cut off or damaged" if layers else "is this a caffemodel? Cut off or damaged, if so"
        raise FormatError(f"{path.name}: no readable caffemodel: {where}, {error}; {hint}") from None
    if not layers and not inputs:  # an old net may be nothing but its inputs
        raise FormatError(f"{path.name}: no caffemodel: it holds no layers")
    return StoredNet(path, tuple(layers), b"".join(rest))


def check_layers(count: int, where: str) -> None:
    """FormatError for more layers than a net has: each costs time and memory before anything of it is used."""
    if count > MOST_LAYERS:
        raise FormatError(f"{where}: has more than {MOST_LAYERS:,} layers, as no Caffe net has; is the file damaged?")


def _layer(data: mmap.mmap, start: int, end: int, generation: str, path: str) -> StoredLayer:
    name_field, type_field, blob_field = LAYER_FIELDS[generation]
    name, kind, empty = "", None, 0
    blobs: list[StoredBlob] = []
    rest = []
    old: StoredLayer | None = None
    for item in fields(data, start, end):
        if item.number == blob_field and item.wire == BYTES:
            try:
                blob = _blob(data, item.start, item.end, path)
            except Damaged as error:
                raise Damaged(f"blob {len(blobs) + empty} of {name!r}: {error}") from None
            if blob is None:
                empty += 1
            else:
                blobs.append(blob)
            continue
        if item.number == name_field and item.wire == BYTES:
            name = _text(data, item.start, item.end)
        elif item.number == type_field and item.wire == VARINT and generation == "V1":
            kind = item.value
        elif generation == "V1" and item.number == V1_HOLDS_V0 and item.wire == BYTES:
            old = _layer(data, item.start, item.end, "V0", path)
            rest.append(bytes_field(V1_HOLDS_V0, old.header))
            continue
        rest.append(bytes(data[item.tag : item.end]))
    if old is not None:
        return StoredLayer(old.name, "V0", old.blobs, b"".join(rest))
    return StoredLayer(name, generation, tuple(blobs), b"".join(rest), kind)


def _blob(data: mmap.mmap, start: int, end: int, path: str) -> StoredBlob | None:
    """One BlobProto; None when it has no data. Packed data in one piece stays in the file, other data is read."""
    legacy: dict[int, int] = {}
    shape: list[int] | None = None
    packed: dict[int, list[tuple[int, int]]] = {BLOB_DATA: [], BLOB_DOUBLES: []}
    loose: dict[int, list[np.ndarray]] = {BLOB_DATA: [], BLOB_DOUBLES: []}
    skip_to = start
    for item in fields(data, start, end):
        if item.tag < skip_to:
            continue
        number, wire = item.number, item.wire
        if number in LEGACY_DIMS and wire == VARINT:
            legacy[number] = _signed(item.value)
        elif number == BLOB_SHAPE and wire == BYTES:
            shape = [] if shape is None else shape
            shape += _dims(data, item.start, item.end)
            if len(shape) > MOST_DIMS:
                raise Damaged(f"its shape has more than {MOST_DIMS} sizes")
        elif number in packed and wire == BYTES:
            if item.size % (4 if number == BLOB_DATA else 8):
                raise Damaged(f"{item.size} bytes are no whole number of values")
            packed[number].append((item.start, item.end))
        elif number in loose and wire == (FIXED32 if number == BLOB_DATA else FIXED64):
            run, skip_to = _unpacked(data, item.tag, end, number)
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
        raise Damaged(f"its shape {dims} has a negative size")
    if count == 0:
        return None
    if math.prod(dims) != count:
        raise Damaged(f"its shape {dims} needs {math.prod(dims)} values, {count} are there")
    is_legacy = shape is None and bool(legacy)
    if values is not None:
        return StoredBlob(TensorRef(path, dtype, dims, size=values.nbytes, array=values.reshape(dims)), is_legacy)
    place, stop = packed[which][0]
    return StoredBlob(TensorRef(path, dtype, dims, place, stop - place), is_legacy)


def _unpacked(data: mmap.mmap, first: int, end: int, number: int) -> tuple[np.ndarray, int]:
    """A run of single values, each behind its own tag, read at once; and where the run ends."""
    dtype = np.dtype("<f4" if number == BLOB_DATA else "<f8")
    step = 1 + dtype.itemsize
    before = number << 3 | (FIXED32 if number == BLOB_DATA else FIXED64)
    pieces, at, most = [], first, 64  # looking at all that is left, for each of many short runs, would be quadratic
    while True:
        count = min((end - at) // step, most)
        rows = np.frombuffer(bytes(data[at : at + count * step]), np.uint8).reshape(-1, step)
        others = np.flatnonzero(rows[:, 0] != before)
        run = int(others[0]) if others.size else count
        pieces.append(np.ascontiguousarray(rows[:run, 1:]).view(dtype).reshape(-1))
        at, most = at + run * step, 2 * most
        if run < count or (end - at) // step == 0:
            return np.concatenate(pieces), at


def _dims(data: mmap.mmap, start: int, end: int) -> list[int]:
    dims = []
    for item in fields(data, start, end):
        if item.number == 1 and item.wire == VARINT:
            dims.append(_signed(item.value))
        elif item.number == 1 and item.wire == BYTES:
            at = item.start
            while at < item.end and len(dims) <= MOST_DIMS:
                dim, at = varint(data, at, item.end, item.tag)
                dims.append(_signed(dim))
    return dims


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def unknown_fields(message: bytes, known: Container[int]) -> bytes:
    """Those fields of a message, as bytes, whose numbers are not `known`."""
    every = fields(message, 0, len(message))
    return b"".join(message[item.tag : item.end] for item in every if item.number not in known)


# -- writing -----------------------------------------------------------------------------------------------------


def _blob_head(blob: StoredBlob) -> bytes:
    """Everything of a BlobProto up to its packed data."""
    shape, size = blob.ref.shape, blob.ref.count * blob.ref.dtype.bits // 8
    if blob.legacy and len(shape) == 4:
        head = b"".join(number_field(number, dim) for number, dim in zip(LEGACY_DIMS, shape, strict=True))
    else:
        head = bytes_field(BLOB_SHAPE, bytes_field(1, b"".join(map(encoded, shape))))
    return head + bytes_head(BLOB_DOUBLES if blob.ref.dtype is FLOAT64 else BLOB_DATA, size)


def caffemodel(net_header: bytes, layers: Iterable[tuple[str, bytes, Sequence[StoredBlob]]]) -> Iterator[bytes]:
    """A caffemodel's bytes, piece by piece, from each layer's (generation, message without blobs, blobs)."""
    yield net_header
    for generation, header, blobs in layers:
        blob_field = LAYER_FIELDS[generation][2]
        heads = [_blob_head(blob) for blob in blobs]
        sizes = [len(head) + blob.ref.nbytes for head, blob in zip(heads, blobs, strict=True)]
        openings = [bytes_head(blob_field, size) for size in sizes]
        total = len(header) + sum(map(len, openings)) + sum(sizes)
        yield bytes_head(NET_V2_LAYER if generation == "V2" else NET_V1_LAYER, total) + header
        for opening, head, blob in zip(openings, heads, blobs, strict=True):
            yield opening + head
            for block in blob.ref.blocks():
                yield np.ascontiguousarray(block, blob.ref.dtype.numpy).tobytes()


