"""TensorFlow's dtypes, constants and attributes as ours.

The DataType table, TensorProto -> TensorRef, AttrValue -> a plain value.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from acccmp.core.graph import Shape, shape_text
from acccmp.core.reading import is_number
from acccmp.core.tensor import DTYPES, DType, TensorRef, code_table, decode
from acccmp.errors import FormatError

# DataType -> row of our dtype table; numbers above 100 are references to the type 100 below. Types without a row
# (the fnuz floats, uint4) stay unknown.
_DATA_TYPES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "string", 8: "complex64", 9: "int64",
    10: "bool", 11: "qint8", 12: "quint8", 13: "qint32", 14: "bfloat16", 15: "qint16", 16: "quint16", 17: "uint16",
    18: "complex128", 19: "float16", 20: "resource", 21: "variant", 22: "uint32", 23: "uint64", 24: "float8_e5m2",
    25: "float8_e4m3fn", 29: "int4", 31: "int2", 32: "uint2", 33: "float4_e2m1",
}
_NUMBERS = {name: number for number, name in _DATA_TYPES.items()}

# The repeated field of TensorProto that holds values of a dtype, where they are not in tensor_content. The 16-bit
# floats are kept as their bit patterns, complex numbers as pairs.
_VALUES = {
    "float32": "float_val", "float64": "double_val", "int64": "int64_val", "bool": "bool_val", "uint32": "uint32_val",
    "uint64": "uint64_val", "float16": "half_val", "bfloat16": "half_val", "complex64": "scomplex_val",
    "complex128": "dcomplex_val", "float8_e5m2": "float8_val", "float8_e4m3fn": "float8_val",
}
_PAIRS = {"scomplex_val": "<f4", "dcomplex_val": "<f8"}
MOST_ELEMENTS = 1 << 40  # more than any file could hold


def data_type(number: int) -> DType | None:
    """The row of a DataType number; None where we have none."""
    name = _DATA_TYPES.get(number - 100 if number > 100 else number)
    return DTYPES[name] if name is not None else None


def data_type_number(dtype: DType) -> int:
    """The DataType number of a row. KeyError for a type that TensorFlow does not have."""
    return _NUMBERS[dtype.name]


def shape_of(proto: Any) -> Shape | None:
    """The shape in a TensorShapeProto: None for unknown rank, None for each unknown size."""
    if proto.unknown_rank:
        return None
    return tuple(dim.size if dim.size >= 0 else None for dim in proto.dim)


def split_name(reference: str) -> tuple[str, int]:
    """`node:1` -> (node, 1); `node` means its output 0."""
    name, colon, index = reference.rpartition(":")
    if colon and is_number(index) and len(index) < 7:
        return name, int(index)
    return reference, 0


# -- attributes --------------------------------------------------------------------------------------------------


def attribute(value: Any) -> Any:
    """An AttrValue as a plain value: str (bytes where it is no text), int, float, bool, a dtype's name, a shape (None:
    unknown rank), the name of a function, a nested tuple for a tensor, or a tuple of these."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "list":
        for name in ("s", "i", "f", "b", "type", "shape", "tensor", "func"):
            items = getattr(value.list, name)
            if len(items):
                return tuple(_single(name, item) for item in items)
        return ()
    return _single(kind, getattr(value, kind))


def _single(kind: str, item: Any) -> Any:
    if kind == "s":
        try:
            return item.decode()
        except UnicodeDecodeError:
            return bytes(item)
    if kind == "type":
        row = data_type(item)
        return row.name if row is not None else f"DataType {item}"
    if kind == "shape":
        return shape_of(item)
    if kind == "func":
        return item.name
    if kind == "tensor":
        try:
            ref = constant(item, "an attribute")
        except FormatError:
            ref = None
        return _nested(ref.numpy().tolist()) if ref is not None and ref.count <= 1 << 16 else "a tensor"
    return item


def _nested(values: Any) -> Any:
    return tuple(_nested(value) for value in values) if isinstance(values, list) else values


# -- constants ---------------------------------------------------------------------------------------------------


def constant(proto: Any, path: str, at: tuple[int, int] | None = None) -> TensorRef | None:
    """The tensor in a TensorProto; None for strings and handles, which are no numbers.

    With `at` (offset and length in bytes) its content is left in the file `path`. One value for many elements (what
    TensorFlow writes for a constant fill) stays one value in memory; a list that is too short goes on with its last
    value. Raises FormatError when the content does not fit dtype and shape.
    """
    row = data_type(proto.dtype)
    if row is None or row.numpy is None:
        return None
    dims = [dim.size for dim in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank or any(dim < 0 for dim in dims):
        raise FormatError("its value has no definite shape")
    shape, count = tuple(dims), math.prod(dims)
    if count > MOST_ELEMENTS:
        raise FormatError(f"its value claims {count} elements")
    stored = replace(row, bits=8) if row.bits < 8 else row  # TensorFlow does not pack: one element a byte
    length = at[1] if at is not None else len(proto.tensor_content)
    if length and length != stored.nbytes(count):
        raise FormatError(f"{shape_text(shape)} {row.name} needs {stored.nbytes(count)} bytes, its value has {length}")
    if at is not None and row.bits >= 8:
        return TensorRef(path, row, shape, at[0], length)
    if length:
        raw = np.frombuffer(proto.tensor_content, np.uint8)
        return _in_memory(path, row, _numbers(raw, row, count).reshape(shape))
    values = _listed(proto, row)
    if values.size > count:
        raise FormatError(f"{shape_text(shape)} {row.name} has {count} elements, its value lists {values.size}")
    if values.size <= 1:
        fill = values[0] if values.size else np.zeros((), row.numpy)
        return _in_memory(path, row, np.broadcast_to(fill, shape))
    if count * row.itemsize > 1 << 30:
        raise FormatError(f"its value claims {count} elements and lists {values.size}")
    whole = np.empty(count, values.dtype)
    whole[: values.size], whole[values.size :] = values, values[-1]
    return _in_memory(path, row, whole.reshape(shape))


def _in_memory(path: str, row: DType, array: Any) -> TensorRef:
    return TensorRef(path, row, array.shape, 0, row.nbytes(array.size), array=array)


def _numbers(raw: Any, row: DType, count: int) -> Any:
    """`count` elements of tensor_content; types narrower than a byte take one byte each."""
    table = code_table(row.name)
    if row.bits < 8 and table is not None:
        return table[raw & ((1 << row.bits) - 1)]
    return decode(raw, row, count)


def _listed(proto: Any, row: DType) -> Any:
    """The values of the repeated field that belongs to the dtype, as a flat array of what decoding gives."""
    field = _VALUES.get(row.name, "int_val")
    values = getattr(proto, field)
    if field == "float8_val":
        return decode(np.frombuffer(values, np.uint8), row, len(values))
    if field in _PAIRS:
        flat = np.array(values, _PAIRS[field])
        return flat[: flat.size // 2 * 2].view(row.numpy)
    if field == "half_val":
        bits = (np.array(values, np.int64) & 0xFFFF).astype("<u2")
        return decode(bits.view(np.uint8), row, bits.size)
    plain = np.array(values, np.float64 if field == "float_val" else None)
    with np.errstate(over="ignore"):
        return plain.astype(row.numpy)


def content(ref: TensorRef) -> bytes:
    """The bytes of `tensor_content` for a tensor: `TensorRef.raw`, but one element a byte for packed types."""
    if ref.dtype.bits < 8:
        table = code_table(ref.dtype.name)
        assert table is not None
        codes = {value: code for code, value in enumerate(table.tolist())}
        return bytes(codes[value] for value in ref.numpy().reshape(-1).tolist())
    return ref.raw()
