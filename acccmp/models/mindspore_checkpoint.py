"""MindSpore's .ckpt: a concatenation of protobuf messages with a tensor each. Weights stay in the file.

Source: ../shared/specs/model_formats.md, b.2.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from acccmp.core import reading
from acccmp.core.graph import Graph, TensorSpec, shape_text
from acccmp.core.layout import Region
from acccmp.core.tensor import DTYPES, Array, DType, TensorRef, decode
from acccmp.core.wire import Buffer, Payload, PayloadTable, fields, message, text_of
from acccmp.errors import FormatError

_TENSOR = PayloadTable({3: None})
_PAYLOADS = PayloadTable({1: PayloadTable({2: _TENSOR, 3: PayloadTable({1: _TENSOR})})})

_TYPES = {
    "Int8": "int8", "UInt8": "uint8", "Int16": "int16", "UInt16": "uint16", "Int32": "int32", "UInt32": "uint32",
    "Int64": "int64", "UInt64": "uint64", "Float16": "float16", "Float32": "float32", "Float64": "float64",
    "Bool": "bool", "BFloat16": "bfloat16", "Int4": "int4",
}
_MAP_PARTS = ("key", "value", "status")
# Behind the tensors there can be this word and a CRC-32 as a big-endian number of ten bytes.
CRC_WORD, CRC_BYTES = b"crc_num", 10


@dataclass(frozen=True)
class JoinedRef(TensorRef):
    """A tensor that lies in several pieces of one file, as MindSpore cuts those of more than 512 MB.

    `parts` lie in the order of the elements, which are in plain order. Reads just the rows it is asked
    for.
    """

    parts: tuple[Payload, ...] = ()

    __repr__ = TensorRef.__repr__

    def raw(self) -> bytes:
        return b"".join(self._bytes(0, self.nbytes))

    def _decoded(self, region: Region | None) -> Array:
        if not self.shape:
            return self._rows(0, 1)
        if region is None:
            return self._rows(0, self.shape[0])
        start, stop, _ = region[0].indices(self.shape[0])
        return np.array(self._rows(start, stop)[(slice(None), *region[1:])])

    def _rows(self, start: int, stop: int) -> Array:
        row = math.prod(self.shape[1:])
        first, last = self.dtype.nbytes(start * row), self.dtype.nbytes(stop * row)
        raw = np.frombuffer(b"".join(self._bytes(first, last)), np.uint8)
        return decode(raw, self.dtype, (stop - start) * row).reshape((stop - start, *self.shape[1:]))

    def _bytes(self, first: int, last: int) -> Iterator[bytes]:
        """Bytes first..last of the joined tensor."""
        at = 0
        with reading.opened(self.path) as file:
            for offset, size in self.parts:
                low, high = max(first - at, 0), min(last - at, size)
                if low < high:
                    file.seek(offset + low)
                    found = file.read(high - low)
                    if len(found) < high - low:
                        raise FormatError(f"{self.path}: needs {high - low} bytes at offset {offset + low}")
                    yield found
                at += size


def read(path: Path) -> Graph:
    """The checkpoint's tensors. Raises FormatError for what is none."""
    from acccmp.schemas import ckpt_pb2

    with reading.mapped(path) as buffer:
        end = len(buffer) - _trailer(buffer)
        has_checksum = end < len(buffer)
        what = f"{path}: not a MindSpore checkpoint, or damaged"
        checkpoint = message(ckpt_pb2.Checkpoint, buffer, 0, end, _PAYLOADS, what)
        if not checkpoint.value:
            raise FormatError(f"{path}: {_without_tensors(buffer)}")
    notes: list[str] = []
    refs: dict[str, TensorRef] = {}
    for tag, pieces in _tensors(checkpoint):
        ref = _ref(path, pieces)
        if isinstance(ref, TensorRef):
            refs[tag] = ref
        else:
            notes.append(f"{tag} is left out: {ref}")
    if has_checksum:
        notes.append("the file ends with a checksum (CRC-32)")
    state = sum(1 for name in refs if name.startswith(("moments.", "moment1.", "moment2.", "accum.")))
    if state:
        notes.append(f"{state} tensors are the optimiser's state, not the model's weights")
    specs = {name: TensorSpec(name, ref.dtype, ref.shape) for name, ref in refs.items()}
    return Graph(path.stem, "checkpoint", (), tensors=specs, weights=refs, path=path, notes=tuple(notes))


def checksum(path: Path) -> str:
    """What the file's own CRC-32 says: "right", "wrong" or "none". Reads the whole file, in pieces."""
    with reading.mapped(path) as buffer:
        tail = _trailer(buffer)
        if not tail:
            return "none"
        due = int.from_bytes(bytes(buffer[len(buffer) - CRC_BYTES :]), "big")
        found = 0
        for at in range(0, len(buffer) - tail, 1 << 20):
            found = zlib.crc32(buffer[at : min(at + (1 << 20), len(buffer) - tail)], found)
    return "right" if found == due else "wrong"


def _trailer(buffer: Buffer) -> int:
    size = len(CRC_WORD) + CRC_BYTES
    tail = bytes(buffer[max(0, len(buffer) - size) :])
    return size if len(tail) == size and tail.startswith(CRC_WORD) else 0


def _without_tensors(buffer: Buffer) -> str:
    """What a file is that parses as a checkpoint without tensors: a strategy file has records in field 2."""
    try:
        numbers = {field.number for field in fields(buffer, 0, len(buffer))}
    except ValueError:
        numbers = set()
    if 2 in numbers:
        return (
            "a MindSpore strategy file (how tensors are cut between devices): it holds no weights; "
            "give the checkpoint itself"
        )
    return "no tensors in it: not a MindSpore checkpoint"


def _tensors(checkpoint: Any) -> Iterator[tuple[str, list[Any]]]:
    """Tag and pieces of each tensor: pieces are values of one tag, one behind the other, until the shape is full."""
    waiting: list[Any] = []
    last = ""
    for value in checkpoint.value:
        tag = text_of(value.tag)
        if value.WhichOneof("value") == "maptensor":
            for name, tensor in zip(_MAP_PARTS, value.maptensor.tensor, strict=False):
                yield f"{tag}.{name}", [tensor]
            continue
        piece = value.tensor
        if waiting and tag == last and not _is_full(waiting):
            waiting.append(piece)
            continue
        if waiting:
            yield last, waiting
        waiting, last = [piece], tag
    if waiting:
        yield last, waiting


def _payload(tensor: Any) -> Payload:
    return Payload.of(tensor.tensor_content)


def _is_full(pieces: list[Any]) -> bool:
    dtype = _dtype(pieces[0])
    return dtype is None or sum(_payload(piece).size for piece in pieces) >= dtype.nbytes(math.prod(_shape(pieces[0])))


def _dtype(tensor: Any) -> DType | None:
    return DTYPES.get(_TYPES.get(text_of(tensor.tensor_type), ""))


def _shape(tensor: Any) -> tuple[int, ...]:
    """The dims; [0] with bytes behind it stands for a scalar."""
    return () if list(tensor.dims) == [0] and _payload(tensor).size else tuple(tensor.dims)


def _ref(path: Path, pieces: list[Any]) -> TensorRef | str:
    """The tensor of these pieces; or why there is none."""
    dtype, shape = _dtype(pieces[0]), _shape(pieces[0])
    parts = tuple(map(_payload, pieces))
    size = sum(part.size for part in parts)
    if dtype is None:
        return f"its type {text_of(pieces[0].tensor_type)!r} is no type of numbers"
    if any(n < 0 for n in shape) or dtype.nbytes(math.prod(shape)) > size:
        return f"{shape_text(shape)} {dtype} in {size} bytes"
    if len(parts) == 1:
        return TensorRef(str(path), dtype, shape, parts[0].offset, size)
    return JoinedRef(str(path), dtype, shape, parts[0].offset, size, parts=parts)
