"""Ascend dump files: the big dump (length, protobuf header, payloads), the older whole-file protobuf; nano's TLV is
`acccmp.dumps.nano`'s.

Specs of the Ascend dump formats, section 1. Reading touches headers only: payloads stay in the file, as TensorRefs.
A damaged tensor is a `Broken` of its port and leaves its neighbours readable; a damaged header is a FormatError.
"""

from __future__ import annotations

import itertools
import os
import re
import struct
import time as clock
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from acccmp.core import layout as layouts
from acccmp.core import reading
from acccmp.core.dump import DumpedOp, Origin, Side
from acccmp.core.layout import Shape
from acccmp.core.tensor import BY_PROTO, TensorRef
from acccmp.core.wire import BYTES, Damaged, Payload, PayloadTable, fields, thin
from acccmp.core.writing import append, replacing
from acccmp.dumps import names, nano
from acccmp.dumps.content import Entry, FileContent, checked, layout_name, named_op
from acccmp.errors import FormatError, InputError

NANO_MAGIC = 0x5A5A5A5A  # u32 at byte 8
LARGEST_HEADER = 64 << 20  # bytes; the writer's own limit (2 GiB) is no protection against a damaged length
MOST_TENSORS = 1 << 16  # in one file

# input_type of a generic buffer. Exception dumps write these inputs behind everything else. The field has the numbers
# of adump's DfxTensorType, whose rows begin INVALID_TENSOR, GENERAL_TENSOR, INPUT_TENSOR, OUTPUT_TENSOR.
GENERAL_TENSOR = 1

# DumpData: outputs, inputs, buffers and workspaces, each with its data, where the payloads are fields of the message
_PAYLOADS = PayloadTable({3: PayloadTable({5: None}), 4: PayloadTable({4: None}), 5: PayloadTable({2: None}),
                          8: PayloadTable({2: None})})
_COPY = 16 << 20


# -- reading -----------------------------------------------------------------------------------------------------


def read_file(
    path: str | os.PathLike[str], name: str | None = None, inside: reading.FilePath | None = None,
) -> FileContent:
    """Read the header of one dump file; no payload is read.

    `name` is the name that the file would have had (files with long names are stored under a hash); its own by
    default. `inside` is the folder that it was found in. Raises FormatError, beginning with the path, when the file is
    no dump, its header is damaged, or its name and its header speak of different ops.
    """
    path = os.fspath(path)
    by_name = names.parse_device(name or os.path.basename(path))
    try:
        with reading.opened(path, inside) as file:
            size = reading.size_of(file)
            start = file.read(12)
            if size < 9:
                raise FormatError(f"{path}: {'an empty file' if not size else f'{size} bytes'}, no dump")
            if len(start) == 12 and struct.unpack_from("<I", start, 8)[0] == NANO_MAGIC:
                return nano.read(path, file, size, named_op(path, by_name))
            return _read_protobuf(path, file, size, struct.unpack_from("<Q", start)[0], by_name)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, OverflowError) as error:
        raise FormatError(f"{path}: {error}") from error


def _read_protobuf(
    path: str, file: BinaryIO, size: int, length: int, by_name: DumpedOp | None,
) -> FileContent:
    """Big dump if the length at its start makes sense, else whole-file protobuf."""
    why_not = f"a header of {length} bytes does not fit into {size} bytes"
    if 0 < length <= size - 8:
        if length > LARGEST_HEADER:
            why_not = f"a header of {length} bytes is more than any dump has"
        else:
            file.seek(8)
            header, why_not = _parsed(file.read(length))
            if header is not None:
                return _content(path, header, _placed(header, 8 + length), size, size - 8 - length, by_name)
    header = _whole_file(file, size)
    if header is None:
        raise FormatError(f"{path}: {why_not}: cut off, or no dump at all")
    return _content(path, header, _inside(header), size, size, by_name)


def _parsed(raw: bytes) -> tuple[Any, str]:
    """The header message, or (None, why these bytes are not one)."""
    from google.protobuf.message import DecodeError

    from acccmp.schemas import dump_pb2

    if len(raw) > 1 << 16:  # a message of many tiny tensors would take a hundred times its bytes
        try:
            tensors = sum(f.number in _PAYLOADS for f in fields(raw, 0, len(raw)))
        except Damaged as error:
            return None, f"its header is damaged ({error})"
        if tensors > MOST_TENSORS:
            return None, f"its header lists {tensors} tensors"
    header = dump_pb2.DumpData()
    try:
        header.ParseFromString(raw)
    except DecodeError:
        return None, "its header is damaged"
    if not header.ListFields():
        return None, "its header has none of a dump's fields"
    if header.version and not re.fullmatch(r"[0-9]+(\.[0-9]+)*", header.version):
        return None, f"its header has the version {header.version[:20]!r}"
    return header, ""


def _whole_file(file: BinaryIO, size: int) -> Any | None:
    """The message of a whole-file protobuf with tokens for its payloads (see `wire.thin`); None when it is none."""
    with reading.mapping(file, file.name) as view:
        try:
            raw = thin(view, 0, size, _PAYLOADS, LARGEST_HEADER)
        except Damaged:
            return None
    listed = list(itertools.islice(
        (item.wire for item in fields(raw, 0, len(raw)) if item.number in _PAYLOADS), MOST_TENSORS + 1,
    ))
    if len(listed) > MOST_TENSORS or any(wire != BYTES for wire in listed):
        return None
    header, _ = _parsed(raw)
    if header is None or not (header.op_name or (header.version and listed)):
        return None
    return header


def _placed(header: Any, start: int) -> Iterator[tuple[Side, int, Any, int, int]]:
    """(side, index, message, offset, size) of each tensor of a big dump, and the end of it all at last.

    Payloads follow the header as inputs, outputs, buffers, spaces; generic inputs of exception dumps come last.
    """
    at = start
    late = []
    for index, tensor in enumerate(header.input):
        if tensor.input_type == GENERAL_TENSOR:
            late.append((index, tensor))
            continue
        yield "input", index, tensor, at, tensor.size
        at += tensor.size
    for index, tensor in enumerate(header.output):
        yield "output", index, tensor, at, tensor.size
        at += tensor.size
    at += sum(buffer.size for buffer in header.buffer) + sum(space.size for space in header.space)
    for index, tensor in late:
        yield "input", index, tensor, at, tensor.size
        at += tensor.size


def _inside(header: Any) -> Iterator[tuple[Side, int, Any, int, int]]:
    """The same for a whole-file protobuf, where the bytes are fields of the message."""
    sides: tuple[tuple[Side, Any], ...] = (("input", header.input), ("output", header.output))
    for side, tensors in sides:
        for index, tensor in enumerate(tensors):
            yield side, index, tensor, *Payload.of(tensor.data)


def _content(
    path: str, header: Any, placed: Iterable[tuple[Side, int, Any, int, int]], size: int, payload: int,
    by_name: DumpedOp | None,
) -> FileContent:
    """What a parsed header says, with `payload` bytes to be told apart in a file of `size`."""
    if by_name is not None and not names.agrees(by_name, header.op_name):
        raise FormatError(
            f"{path}: its name says op {by_name.name!r}, its header says {header.op_name!r}: the files were mixed up"
        )
    entries = []
    end = 0
    for side, index, tensor, offset, nbytes in placed:
        entries.append(_entry(side, index, tensor, offset, nbytes))
        end = max(end, offset + nbytes)
    unread = [*header.buffer, *header.space]
    if payload and not entries and not unread:
        raise FormatError(f"{path}: its header lists no tensor, though {payload} bytes are there: it is damaged")
    if not any(t.input_type == GENERAL_TENSOR for t in header.input):
        end += sum(item.size for item in unread)
    is_big = payload < size  # else the payloads are fields of the message
    content = checked(_op(path, header, by_name), entries, size, size - end if is_big and entries else 0)
    return replace(content, unread=len(unread), is_named=bool(header.op_name))


def _op(path: str, header: Any, by_name: DumpedOp | None) -> DumpedOp:
    """The op of a file: its header's name (the true one) if it has one, else the file name's."""
    origins: dict[int, Origin] = {}
    for index, output in enumerate(header.output):
        if output.HasField("original_op") and output.original_op.name:
            origin = output.original_op
            layout, dtype = layout_name(origin.format), BY_PROTO.get(origin.data_type)
            origins[index] = Origin(origin.name, origin.output_index, layout, None, dtype)
    sides: tuple[tuple[Side, Any], ...] = (("input", header.input), ("output", header.output))
    addresses = {(side, i): tensor.address for side, tensors in sides for i, tensor in enumerate(tensors)
                 if tensor.address}
    op = named_op(path, by_name, header.op_name)
    stamp = op.time if len(str(op.time)) == 16 else header.dump_time or op.time
    return replace(
        op, time=stamp, addresses=addresses, origins=origins, attrs={attr.name: attr.value for attr in header.attr},
        dfx_message=header.dfx_message,
    )


def _entry(side: Side, index: int, tensor: Any, offset: int, size: int) -> Entry:
    shape = tuple(tensor.shape.dim)
    layout = layout_name(tensor.format)
    original: Shape | None = tuple(tensor.original_shape.dim) if tensor.HasField("original_shape") else None
    if original == () and shape not in ((), (1,)):
        original = None  # a message without dims: nothing was stated
    stated = None
    if side == "output" and original and tensor.HasField("original_op") and tensor.original_op.name:
        stated = layout_name(tensor.original_op.format)
        if not layouts.is_plain(stated) or not layouts.fits(layout, shape, stated, original, max(1, tensor.sub_format)):
            stated = None
    groups = max(1, tensor.sub_format or (tensor.format >> 8) & 0xFFFF)
    return Entry(
        side, index, offset, size, BY_PROTO.get(tensor.data_type), tensor.data_type, layout, shape, original, stated,
        groups,
    )


# -- writing -----------------------------------------------------------------------------------------------------

Tensor = TensorRef | NDArray[Any]


def write_file(
    where: str | os.PathLike[str], op: DumpedOp, inputs: Sequence[Tensor | None] = (),
    outputs: Sequence[Tensor | None] = (),
) -> Path:
    """Write a big dump of one op and return its path.

    `where` is an existing folder, in which the file gets the device's name made of `op` (op type, name, task, stream,
    time; now if 0), or the path of the file itself. A TensorRef is written as it is stored: bytes, dtype, stored
    shape, layout, original shape; an array as a tensor in ND. None keeps the place of a tensor that is not there.
    A name too long for the file system goes into `mapping.csv`.
    """
    from acccmp.schemas import dump_pb2

    op = replace(op, time=op.time or clock.time_ns() // 1000)
    header = dump_pb2.DumpData(
        version="2.0", dump_time=op.time, op_name=op.name, dfx_message=op.dfx_message,
        attr=[dump_pb2.OpAttr(name=name, value=value) for name, value in op.attrs.items()],
    )
    payloads: list[TensorRef] = []
    sides: tuple[tuple[Side, Sequence[Tensor | None], Any], ...] = (
        ("input", inputs, header.input), ("output", outputs, header.output),
    )
    for side, tensors, entries in sides:
        for index, tensor in enumerate(tensors):
            entry = entries.add()
            if tensor is None:
                continue
            ref = tensor if isinstance(tensor, TensorRef) else TensorRef.of(tensor)
            _set_entry(entry, ref, op.addresses.get((side, index)))
            if side == "output" and index in op.origins:
                _set_origin(entry.original_op, op.origins[index])
            payloads.append(ref)
    head = header.SerializeToString()
    path = _path_for(Path(where), op)
    with replacing(path) as file:
        file.write(struct.pack("<Q", len(head)))
        file.write(head)
        for ref in payloads:
            for piece in pieces(ref):
                file.write(piece)
    return path


def _set_entry(entry: Any, ref: TensorRef, address: int | None) -> None:
    if ref.layout not in layouts.FORMAT_NUMBERS:
        raise InputError(f"the layout {ref.layout} has no number in dump files")
    entry.data_type = ref.dtype.proto
    entry.format = layouts.FORMAT_NUMBERS[ref.layout]
    entry.shape.dim.extend(ref.shape)
    entry.shape.SetInParent()
    entry.size = ref.nbytes
    entry.sub_format = ref.groups if ref.groups > 1 else 0
    if ref.original_shape is not None:
        entry.original_shape.dim.extend(ref.original_shape)
        entry.original_shape.SetInParent()
    if address is not None:
        entry.address = address


def _set_origin(entry: Any, origin: Origin) -> None:
    entry.name = origin.node
    entry.output_index = origin.index
    entry.data_type = 0 if origin.dtype is None else origin.dtype.proto
    entry.format = layouts.FORMAT_NUMBERS.get(origin.layout or "RESERVED", 40)


def pieces(ref: TensorRef) -> Iterator[bytes]:
    """The stored bytes of a tensor, a few megabytes at a time where they come from a file."""
    if ref.fortran:
        yield np.ascontiguousarray(ref.stored()).tobytes()
        return
    if ref.array is not None or type(ref) is not TensorRef:  # in memory, or joined from several files
        yield ref.raw()
        return
    left = ref.nbytes
    try:
        with reading.opened(ref.path) as file:
            file.seek(ref.offset)
            while left:
                piece = file.read(min(left, _COPY))
                if not piece:
                    raise FormatError(f"{ref.path}: needs {left} bytes more at offset {file.tell()}")
                left -= len(piece)
                yield piece
    except OSError as error:
        raise FormatError(f"{ref.path}: cannot be read: {error.strerror or error}") from error


def _path_for(where: Path, op: DumpedOp) -> Path:
    if not where.is_dir():
        return where
    real = names.device_name(op)
    name = names.fitting(real)
    if name != real:
        append(where / names.MAPPING_FILE, f"{name},{real}\n")
    return where / name
