"""TensorRef: where a tensor is, and the table of data types with the way each is decoded."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from acccmp.core import layout as layouts
from acccmp.core import reading
from acccmp.core.layout import Region, Shape
from acccmp.errors import FormatError, LayoutError
from acccmp.plugins import find

Array = NDArray[np.generic]
Kind = Literal["float", "int", "bool", "complex", "opaque"]

BLOCK = 1 << 20  # elements decoded at a time


@dataclass(frozen=True)
class DType:
    """A row of the dtype table. `proto` is its number in dump headers and ATC's JSON, `ge` the one of GE's C++ enum
    (nano dumps, ATB, attributes of device models). `numpy` is what decoding gives; None: no defined meaning."""

    name: str
    kind: Kind
    bits: int
    proto: int
    ge: int
    numpy: np.dtype[Any] | None
    quantised: bool = False

    def __repr__(self) -> str:
        return self.name

    def __str__(self) -> str:
        return self.name

    def nbytes(self, count: int) -> int:
        """Bytes that `count` elements take; sub-byte types are packed without gaps."""
        return -(-count * self.bits // 8)

    @property
    def itemsize(self) -> float:
        """Bytes of one element (a fraction for sub-byte types)."""
        return self.bits / 8

    @property
    def largest(self) -> float:
        """Largest finite value; inf for types without one (and NaN for opaque ones)."""
        return _limits(self.name)[0]

    @property
    def smallest_normal(self) -> float:
        """Smallest positive normal number; 1 for integers and bool."""
        return _limits(self.name)[1]

    @property
    def epsilon(self) -> float:
        """Distance from 1 to the next number; 0 for integers and bool."""
        return _limits(self.name)[2]


def _row(name: str, kind: Kind, bits: int, proto: int, ge: int, numpy: Any, quantised: bool = False) -> DType:
    return DType(name, kind, bits, proto, ge, None if numpy is None else np.dtype(numpy), quantised)


# Specs of the Ascend formats, section 3.1. Types narrower than 16 bits decode through a table of all their codes.
_ROWS = (
    _row("undefined", "opaque", 8, 0, 28, None),
    _row("float32", "float", 32, 1, 0, "<f4"),
    _row("float16", "float", 16, 2, 1, "<f2"),
    _row("int8", "int", 8, 3, 2, "i1"),
    _row("uint8", "int", 8, 4, 4, "u1"),
    _row("int16", "int", 16, 5, 6, "<i2"),
    _row("uint16", "int", 16, 6, 7, "<u2"),
    _row("int32", "int", 32, 7, 3, "<i4"),
    _row("int64", "int", 64, 8, 9, "<i8"),
    _row("uint32", "int", 32, 9, 8, "<u4"),
    _row("uint64", "int", 64, 10, 10, "<u8"),
    _row("bool", "bool", 8, 11, 12, "?"),
    _row("float64", "float", 64, 12, 11, "<f8"),
    _row("string", "opaque", 8, 13, 13, None),
    _row("dual_sub_int8", "opaque", 8, 14, 14, None),
    _row("dual_sub_uint8", "opaque", 8, 15, 15, None),
    _row("complex64", "complex", 64, 16, 16, "<c8"),
    _row("complex128", "complex", 128, 17, 17, "<c16"),
    _row("qint8", "int", 8, 18, 18, "i1", True),
    _row("qint16", "int", 16, 19, 19, "<i2", True),
    _row("qint32", "int", 32, 20, 20, "<i4", True),
    _row("quint8", "int", 8, 21, 21, "u1", True),
    _row("quint16", "int", 16, 22, 22, "<u2", True),
    _row("resource", "opaque", 64, 23, 23, None),
    _row("string_ref", "opaque", 8, 24, 24, None),
    _row("dual", "opaque", 40, 25, 25, None),
    _row("variant", "opaque", 64, 26, 26, None),
    _row("bfloat16", "float", 16, 27, 27, "<f4"),
    _row("int4", "int", 4, 28, 29, "i1"),
    _row("uint1", "int", 1, 29, 30, "u1"),
    _row("int2", "int", 2, 30, 31, "i1"),
    _row("uint2", "int", 2, 31, 32, "u1"),
    _row("complex32", "complex", 32, 32, 33, "<c8"),
    _row("hifloat8", "float", 8, 33, 34, "<f4"),
    _row("float8_e5m2", "float", 8, 34, 35, "<f4"),
    _row("float8_e4m3fn", "float", 8, 35, 36, "<f4"),
    _row("float8_e8m0", "float", 8, 36, 37, "<f4"),
    _row("float6_e3m2", "float", 6, 37, 38, "<f4"),
    _row("float6_e2m3", "float", 6, 38, 39, "<f4"),
    _row("float4_e2m1", "float", 4, 39, 40, "<f4"),
    _row("float4_e1m2", "float", 4, 40, 41, "<f4"),
    _row("hifloat4", "opaque", 4, 41, 42, None),
)

DTYPES = {row.name: row for row in _ROWS}
BY_PROTO = {row.proto: row for row in _ROWS}
BY_GE = {row.ge: row for row in _ROWS}


def dtype_of(what: Any) -> DType:
    """The row for a numpy dtype, an ml_dtypes type, a row's name or a row. KeyError if there is none."""
    if isinstance(what, DType):
        return what
    if isinstance(what, str) and what in DTYPES:
        return DTYPES[what]
    name = np.dtype(what).name
    return DTYPES[_ML_NAMES.get(name, name)]


_ML_NAMES = {
    "float8_e8m0fnu": "float8_e8m0", "float6_e3m2fn": "float6_e3m2", "float6_e2m3fn": "float6_e2m3",
    "float4_e2m1fn": "float4_e2m1",
}

# (sign bits, exponent bits, mantissa bits, bias, what the top exponent means) of the small IEEE-like floats
_SMALL_FLOATS = {
    "float8_e5m2": (5, 2, 15, "ieee"),
    "float8_e4m3fn": (4, 3, 7, "nan at all ones"),
    "float6_e3m2": (3, 2, 3, "finite"),
    "float6_e2m3": (2, 3, 1, "finite"),
    "float4_e2m1": (2, 1, 1, "finite"),
    "float4_e1m2": (1, 2, 1, "finite"),
}


@cache
def code_table(name: str) -> NDArray[Any] | None:
    """The value of each code of a dtype of at most 8 bits, or None for wider ones."""
    row = DTYPES[name]
    if row.bits > 8 or row.numpy is None or row.kind == "bool":
        return None
    codes = range(1 << row.bits)
    if name == "hifloat8":
        values: list[float] = [_hifloat8(code) for code in codes]
    elif name == "float8_e8m0":
        values = [math.ldexp(1.0, code - 127) if code < 255 else math.nan for code in codes]
    elif name in _SMALL_FLOATS:
        values = [_small_float(code, row.bits, *_SMALL_FLOATS[name]) for code in codes]
    elif row.numpy.kind == "i":
        half = 1 << (row.bits - 1)
        values = [code - (code >= half) * 2 * half for code in codes]
    else:
        values = list(codes)
    table = np.array(values, row.numpy)
    table.setflags(write=False)
    return table


def _small_float(code: int, bits: int, exponent_bits: int, mantissa_bits: int, bias: int, top: str) -> float:
    sign = -1.0 if code >> (bits - 1) else 1.0
    exponent = (code >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissa = code & ((1 << mantissa_bits) - 1)
    if top == "ieee" and exponent == (1 << exponent_bits) - 1:
        return math.nan if mantissa else sign * math.inf
    if top == "nan at all ones" and (code & 0x7F) == 0x7F:
        return math.nan
    if exponent == 0:
        return sign * math.ldexp(mantissa, 1 - bias - mantissa_bits)
    return sign * math.ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits)


def _hifloat8(code: int) -> float:
    """HiFloat8: a sign, a prefix that says how many exponent bits follow, a sign-magnitude exponent with an implied
    leading 1, and the mantissa bits that are left. Specs of the Ascend formats, section 3.1."""
    if code in (0x00, 0x80, 0x6F, 0xEF):
        return {0x00: 0.0, 0x80: math.nan, 0x6F: math.inf, 0xEF: -math.inf}[code]
    sign = -1.0 if code & 0x80 else 1.0
    rest = code & 0x7F
    for prefix, prefix_bits, exponent_bits in ((0b11, 2, 4), (0b10, 2, 3), (0b01, 2, 2), (0b001, 3, 1), (0b0001, 4, 0)):
        if rest >> (7 - prefix_bits) == prefix:
            mantissa_bits = 7 - prefix_bits - exponent_bits
            field_ = (rest >> mantissa_bits) & ((1 << exponent_bits) - 1)
            mantissa = rest & ((1 << mantissa_bits) - 1)
            exponent = 0
            if exponent_bits:
                top = 1 << (exponent_bits - 1)
                magnitude = top | (field_ & (top - 1))
                exponent = -magnitude if field_ & top else magnitude
            return sign * math.ldexp(1.0 + mantissa / (1 << mantissa_bits), exponent)
    return sign * math.ldexp(1.0, (rest & 0b111) - 23)


@cache
def _limits(name: str) -> tuple[float, float, float]:
    """(largest finite, smallest normal, epsilon) of a dtype."""
    row = DTYPES[name]
    if row.kind == "opaque" or row.numpy is None:
        return math.nan, math.nan, math.nan
    if row.kind == "bool":
        return 1.0, 1.0, 0.0
    if name == "bfloat16":
        return 3.3895313892515355e38, 2.0**-126, 2.0**-7
    if name == "complex32":
        return _limits("float16")
    table = code_table(name)
    if table is None:
        info: Any = np.iinfo(row.numpy) if row.kind == "int" else np.finfo(row.numpy)
        if row.kind == "int":
            return float(info.max), 1.0, 0.0
        return float(info.max), float(info.smallest_normal), float(info.eps)
    finite = table[np.isfinite(table)]
    if row.kind == "int":
        return float(finite.max()), 1.0, 0.0
    above = np.sort(finite[finite > 1])
    normal = {"hifloat8": 2.0**-15, "float8_e8m0": 2.0**-127}.get(name)
    if normal is None:
        normal = math.ldexp(1.0, 1 - _SMALL_FLOATS[name][2])
    return float(finite.max()), normal, float(above[0] - 1) if len(above) else 1.0


# -- decoding ----------------------------------------------------------------------------------------------------

# Order of sub-byte elements in a byte. uint1 is what known readers do; for the others no source states it.
_FIRST_ELEMENT = {"uint1": "high bits"}


def decode(raw: NDArray[np.uint8], dtype: DType, count: int) -> Array:
    """The first `count` elements in `raw` (bytes) as numbers, exactly: a flat array of `dtype.numpy`.

    bfloat16 and the 8-bit floats become float32, packed integers int8/uint8, complex32 complex64. Raises FormatError
    for types without a defined meaning and for too few bytes.
    """
    if dtype.numpy is None:
        raise FormatError(f"{dtype.name} has no defined meaning as numbers")
    need = dtype.nbytes(count)
    if raw.size < need:
        raise FormatError(f"{count} elements of {dtype.name} need {need} bytes, found {raw.size}")
    return _decoder(dtype.name)(raw[:need], count)


@cache
def _decoder(name: str) -> Callable[[NDArray[np.uint8], int], Array]:
    row = DTYPES[name]
    table = code_table(name)
    plain = row.numpy
    assert plain is not None
    if name == "bfloat16":
        return lambda raw, count: (raw.view("<u2").astype("<u4") << 16).view("<f4")
    if name == "complex32":
        return lambda raw, count: raw.view("<f2").astype("<f4").view("<c8")
    if table is not None and row.bits < 8:
        return lambda raw, count: table[_unpack(raw, row, count)]
    if table is not None and row.kind == "float":
        return lambda raw, count: table[raw]
    if name == "bool":
        return lambda raw, count: raw != 0
    return lambda raw, count: raw.view(plain)


def _unpack(raw: NDArray[np.uint8], dtype: DType, count: int) -> NDArray[np.uint8]:
    """Codes of packed elements, one a byte."""
    order: Literal["big", "little"] = "big" if _FIRST_ELEMENT.get(dtype.name) == "high bits" else "little"
    bits = np.unpackbits(raw, bitorder=order)[: count * dtype.bits].reshape(count, dtype.bits)
    weights = np.array([1 << i for i in range(dtype.bits)], np.uint8)
    codes: NDArray[np.uint8] = (bits * (weights[::-1] if order == "big" else weights)).sum(axis=1, dtype=np.uint8)
    return codes


def encode(values: Array, dtype: DType) -> bytes:
    """`values` stored as `dtype`: the inverse of `decode` for values that the dtype can hold.

    Others are rounded to nearest even (8-bit floats and narrower: to the nearest code; beyond the largest to infinity
    where there is one, else to the largest). Raises FormatError for types without a defined meaning.
    """
    if dtype.numpy is None:
        raise FormatError(f"{dtype.name} has no defined meaning as numbers")
    flat = np.ascontiguousarray(values).reshape(-1)
    if dtype.name == "bfloat16":
        import ml_dtypes

        with np.errstate(over="ignore", invalid="ignore"):
            return flat.astype("<f4").astype(ml_dtypes.bfloat16).tobytes()
    if dtype.name == "complex32":
        with np.errstate(over="ignore", invalid="ignore"):
            return flat.astype("<c8").view("<f4").astype("<f2").tobytes()
    table = code_table(dtype.name)
    if table is None or (dtype.bits == 8 and dtype.kind == "int"):
        with np.errstate(over="ignore", invalid="ignore"):
            return flat.astype(dtype.numpy).tobytes()
    codes = _nearest_code(flat, table)
    if dtype.bits == 8:
        return codes.tobytes()
    order: Literal["big", "little"] = "big" if _FIRST_ELEMENT.get(dtype.name) == "high bits" else "little"
    bits = np.unpackbits(codes[:, None], axis=1, bitorder="little")[:, : dtype.bits]
    return np.packbits(bits[:, ::-1] if order == "big" else bits, bitorder=order).tobytes()


def _nearest_code(flat: Array, table: NDArray[Any]) -> NDArray[np.uint8]:
    """The code whose value is nearest to each number (ties to the even code); NaN to the NaN code, or to 0."""
    wide = flat.astype(np.float64)
    codes = np.flatnonzero(np.isfinite(table))
    codes = codes[np.argsort(table[codes].astype(np.float64), kind="stable")]
    ladder, first = np.unique(table[codes].astype(np.float64), return_index=True)
    codes = codes[first]
    right = np.searchsorted(ladder, wide).clip(1, len(ladder) - 1)
    low, high = ladder[right - 1], ladder[right]
    up = (wide - low > high - wide) | ((wide - low == high - wide) & (codes[right] % 2 == 0))
    out = np.where(up, codes[right], codes[right - 1])
    minus_zero = np.flatnonzero((table == 0) & np.signbit(table))
    if minus_zero.size:
        out = np.where((table[out] == 0) & np.signbit(wide), minus_zero[0], out)
    lookup = {"inf": np.flatnonzero(table == np.inf), "-inf": np.flatnonzero(table == -np.inf)}
    step = ladder[-1] - ladder[-2]
    if lookup["inf"].size:
        out = np.where(wide >= ladder[-1] + step / 2, lookup["inf"][0], out)
        out = np.where(wide <= -(ladder[-1] + step / 2), lookup["-inf"][0], out)
    nan = np.flatnonzero(np.isnan(table))
    zero = int(np.flatnonzero(table == 0)[0]) if (table == 0).any() else 0
    out = np.where(np.isnan(wide), nan[0] if nan.size else zero, out)
    return out.astype(np.uint8)


# -- the noun ----------------------------------------------------------------------------------------------------


class Dirt(NamedTuple):
    """Numbers in the padding of a blocked tensor; those that are not 0, and those that are NaN or Inf."""

    size: int = 0
    nonzero: int = 0
    nonfinite: int = 0


@dataclass(frozen=True)
class TensorRef:
    """Where a tensor is, and how to read it. Name, shape and `repr` never do I/O.

    `offset` and `size` are bytes in the file `path`; `shape` and `layout` are the stored ones. `original_shape` and
    `original_layout` are the tensor's own (no blocks, no padding); without them the stored order is all there is.
    `groups` is the group count of grouped FRACTAL_Z. An in-memory tensor has `array` instead of a path.

    >>> ref = acccmp.read_dump("npu")["pool1:output:0"]
    >>> ref.shape, ref.layout, ref.own_shape, ref.dtype
    ((4, 1, 4, 4, 16), 'NC1HWC0', (4, 16, 4, 4), float16)
    >>> np.asarray(ref).shape, np.asarray(ref, dtype="float64").dtype
    ((4, 16, 4, 4), dtype('float64'))
    """

    path: str
    dtype: DType
    shape: Shape
    offset: int = 0
    size: int | None = None
    layout: str = "ND"
    original_shape: Shape | None = None
    original_layout: str | None = None
    groups: int = 1
    fortran: bool = False
    array: Array | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, array: Any, layout: str = "ND", name: str = "<memory>") -> TensorRef:
        """A ref to an array in memory. KeyError for dtypes that are not numbers."""
        values = np.asarray(array)
        row = dtype_of(values.dtype)
        if row.numpy is not None and values.dtype != row.numpy:  # ml_dtypes: decode to what we decode to
            values = values.astype(row.numpy)
        return cls(name, row, values.shape, 0, row.nbytes(values.size), layout, array=values)

    def __repr__(self) -> str:
        own = ""
        if self.original_shape is not None and self.original_shape != self.shape:
            own = f" of {self.original_layout or 'original'} {self.original_shape}"
        return f"TensorRef({self.dtype.name} {self.layout} {self.shape}{own} in {self.path!r} at {self.offset})"

    @property
    def count(self) -> int:
        """Number of stored elements, padding included."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that the stored shape needs."""
        return self.dtype.nbytes(self.count)

    @property
    def own_shape(self) -> Shape:
        """Shape of what `numpy()` gives."""
        return self.shape if self.original_shape is None else self.original_shape

    def seen_as(self, shape: Shape | None, layout: str | None) -> TensorRef:
        """The same bytes read as an original tensor of `shape` in `layout`."""
        return replace(self, original_shape=shape, original_layout=layout)

    def raw(self) -> bytes:
        """The stored bytes, as they are. Raises FormatError when the file is too short."""
        if self.array is not None:
            return encode(self.array, self.dtype)
        with self._map() as view:
            return bytes(view)

    def stored(self) -> Array:
        """The numbers in stored shape and order, padding included. Raises FormatError when the file is too short."""
        return self._decoded(None)

    def numpy(self) -> Array:
        """The numbers in the tensor's own shape and order (`own_shape`), padding removed.

        Raises FormatError when the file is too short or the dtype has no defined meaning, and LayoutError when the
        stored shape cannot hold the original one.
        """
        return self.read(tuple(slice(0, n) for n in self.own_shape))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """`numpy()`, for `np.asarray(ref)` and all functions of numpy; `dtype` as in numpy, `copy` False only for an
        array in memory."""
        if copy is False and self.array is None:
            raise ValueError(f"{self.path}: what is read from a file is a copy; leave out copy=False")
        return np.array(self.numpy(), dtype, copy=copy)

    def read(self, region: Region) -> Array:
        """One region of `numpy()`, reading little more than that region. Always a copy for file-backed refs."""
        return self._decoded(region)

    def dirt(self) -> Dirt:
        """What lies in the padding of a blocked tensor. Raises FormatError when the file is too short."""
        if self.original_shape is None or layouts.is_plain(self.layout) or self.count == math.prod(self.original_shape):
            return Dirt()
        parts = layouts.padding(
            self.stored(), self.layout, self.original_layout, self.original_shape, self.groups,
        )
        return Dirt(*(
            sum(sign * int(count(part)) for sign, part in parts)
            for count in (np.size, np.count_nonzero, lambda part: np.size(part) - np.count_nonzero(np.isfinite(part)))
        ))

    def blocks(self, elements: int = BLOCK) -> Iterator[Array]:
        """`numpy()` in flat row-major pieces of about `elements` elements, with a small peak memory."""
        for region in layouts.regions(self.own_shape, elements):
            yield self.read(region).reshape(-1)

    def _map(self) -> AbstractContextManager[NDArray[np.uint8]]:
        if self.path.startswith("<") and self.path.endswith(">"):  # as `of` and the runners call what is in memory
            raise FormatError(f"{self.path}: this tensor was in memory only, and what was read from a file (a report) "
                              "does not hold it; compare again, or against a golden folder")
        return _Mapped(self.path, self.offset, self.nbytes)

    def _decoded(self, region: Region | None) -> Array:
        if self.dtype.numpy is None:
            raise FormatError(f"{self.path}: {self.dtype.name} has no defined meaning as numbers")
        if self.array is not None:
            return self._cut(self.array.reshape(self.shape), region)
        if self.count == 0:
            try:
                return self._cut(np.zeros(self.shape, self.dtype.numpy), region)
            except ValueError:
                raise FormatError(f"{self.path}: no array can have the shape {list(self.shape)}") from None
        with self._map() as raw:
            if self.dtype.bits < 8:
                whole = decode(raw, self.dtype, self.count).reshape(self.shape)
                return np.array(self._cut(whole, region))
            # Cut first, decode after: only the bytes of the region are touched.
            codes = raw.view(_CODES[self.dtype.bits])
            shaped = codes.reshape(self.shape, order="F" if self.fortran else "C")
            cut = np.array(self._cut(shaped, region), order="C")  # a copy: the map is closed behind us
        return decode(cut.reshape(-1).view(np.uint8), self.dtype, cut.size).reshape(cut.shape)

    def _cut(self, stored: Array, region: Region | None) -> Array:
        if region is None:
            return stored
        if self.original_shape is None:
            return stored[region]
        return layouts.read_region(
            stored, self.layout, self.original_layout, self.original_shape, region, self.groups,
        )

    def _repr_html_(self) -> str:
        return str(find("notebook", "TensorRef")(self))


@dataclass(frozen=True)
class TurnedRef(TensorRef):
    """A tensor that lies in `base` with its axes in another order: base = this one transposed by `axes`.

    Everything stored (path, bytes, layout) is the base's; `numpy()` gives the order of the original.
    """

    base: TensorRef | None = field(default=None, repr=False)
    axes: tuple[int, ...] = ()

    @classmethod
    def turned(cls, base: TensorRef, axes: tuple[int, ...]) -> TurnedRef:
        """`base`, whose own order is the original's transposed by `axes`, in the original's order."""
        own = base.own_shape
        shape = tuple(own[axes.index(axis)] for axis in range(len(axes)))
        return cls(
            base.path, base.dtype, base.shape, base.offset, base.size, base.layout, shape, None, base.groups,
            base.fortran, base.array, base, axes,
        )

    def raw(self) -> bytes:
        assert self.base is not None
        return self.base.raw()

    def dirt(self) -> Dirt:
        assert self.base is not None
        return self.base.dirt()

    def _decoded(self, region: Region | None) -> Array:
        assert self.base is not None
        if region is None:
            return self.base.stored()
        there = self.base.read(tuple(region[axis] for axis in self.axes))
        return np.ascontiguousarray(there.transpose(np.argsort(self.axes)))


@dataclass(frozen=True)
class DequantisedRef(TensorRef):
    """The real numbers that the integers of `base` stand for: (q - offset) / scale, as float32.

    Where they lie and how they are stored is the base's.
    """

    base: TensorRef | None = field(default=None, repr=False)
    scale: float = 1.0
    zero: float = 0.0

    @classmethod
    def of_codes(cls, base: TensorRef, scale: float, zero: float) -> DequantisedRef:
        """What `base` stands for when q = round(x * scale) + zero was stored."""
        return cls(
            base.path, DTYPES["float32"], base.shape, base.offset, base.size, base.layout, base.original_shape,
            base.original_layout, base.groups, base.fortran, None, base, scale, zero,
        )

    @property
    def own_shape(self) -> Shape:
        assert self.base is not None
        return self.base.own_shape

    def raw(self) -> bytes:
        assert self.base is not None
        return self.base.raw()

    def dirt(self) -> Dirt:
        assert self.base is not None
        return self.base.dirt()

    def _decoded(self, region: Region | None) -> Array:
        assert self.base is not None
        codes = self.base.stored() if region is None else self.base.read(region)
        real: Array = ((codes.astype(np.float64) - self.zero) / self.scale).astype(np.float32)
        return real


@dataclass(frozen=True)
class ConvertedRef(TensorRef):
    """A tensor of a device whose numbers were converted into a plain array: its blocks undone, or in a wider type.

    dtype, shape, layouts are the device's, as if its own file were there. `base` is the array as it lies now;
    `stored_as` is the layout in which the device had it. Padding is gone and reads as zeros.
    """

    base: TensorRef | None = field(default=None, repr=False)
    stored_as: str = ""

    @classmethod
    def lying_in(
        cls, base: TensorRef, dtype: DType, shape: Shape, layout: str, original_shape: Shape | None = None,
        original_layout: str | None = None, groups: int = 1,
    ) -> TensorRef:
        """`base` (in the order `base.layout`) as a tensor that the device had as told; a plain ref where it still lies
        so. LayoutError when such a tensor cannot hold it.
        """
        if (base.layout, base.shape) != (layout, shape):
            there = layouts.stored_shape(layout, base.layout, base.shape, shape[-1] if shape else 1, groups)
            if there != shape:
                raise LayoutError(f"{base.layout} {base.shape} does not fit {layout} {shape}")
        elif dtype is base.dtype:
            return replace(base, original_shape=original_shape, original_layout=original_layout, groups=groups)
        return cls(
            base.path, dtype, shape, 0, None, layout, original_shape, original_layout, groups, base=base,
            stored_as=layout,
        )

    def raw(self) -> bytes:
        """The bytes that the device's file would have, padding as zeros."""
        return encode(self._decoded(None), self.dtype)

    def _decoded(self, region: Region | None) -> Array:
        assert self.base is not None
        assert self.dtype.numpy is not None
        found = None if region is None else self._region(self.base, region)
        if found is not None:
            return found.astype(self.dtype.numpy, copy=False)
        values = self.base.numpy().astype(self.dtype.numpy, copy=False)
        if (self.base.layout, self.base.shape) != (self.stored_as, self.shape):
            c0 = self.shape[-1] if self.shape else 1
            values = layouts.to_stored(values, self.base.layout, self.stored_as, c0, self.groups)
        return np.ascontiguousarray(self._cut(values.reshape(-1)[: self.count].reshape(self.shape), region))

    def _region(self, base: TensorRef, region: Region) -> Array | None:
        """A region without going by way of what the device stored, where only the order of the axes is another one."""
        if (base.layout, base.shape) == (self.stored_as, self.shape):
            seen = replace(base, layout=self.layout, groups=self.groups)
            return seen.seen_as(self.original_shape, self.original_layout).read(region)
        rank = len(self.own_shape)
        own = layouts.letters(self.layout if self.original_shape is None else self.original_layout, rank)
        held = layouts.letters(base.layout, rank)
        if layouts.is_positional(self.stored_as) or own == held:
            return base.read(region) if base.shape == self.own_shape else None
        if own is None or held is None or sorted(own) != sorted(held) or len(base.shape) != rank:
            return None
        if tuple(base.shape[held.index(letter)] for letter in own) != self.own_shape:
            return None
        there = base.read(tuple(region[own.index(letter)] for letter in held))
        return np.ascontiguousarray(there.transpose([held.index(letter) for letter in own]))


_CODES: dict[int, Any] = {8: "u1", 16: "<u2", 32: "<u4", 64: "<u8", 128: "<c16"}


class _Mapped:
    """A read-only view of a file's bytes that gives its pages back when closed (a walked map counts as RSS)."""

    def __init__(self, path: str, offset: int, size: int) -> None:
        self._path, self._offset, self._size = path, offset, size

    def __enter__(self) -> NDArray[np.uint8]:
        with reading.opened(self._path) as file:
            room = reading.size_of(file) - self._offset
            if room < self._size:
                raise FormatError(
                    f"{self._path}: needs {self._size} bytes at offset {self._offset}, found {max(0, room)}"
                )
            start = self._offset - self._offset % mmap.ALLOCATIONGRANULARITY
            self._mm = reading.mapping(file, self._path, start, self._offset + self._size)
        return np.frombuffer(self._mm, np.uint8, self._size, self._offset - start)

    def __exit__(self, *_: object) -> None:
        # The mapping itself dies with the last view of it; its pages need not wait for that.
        if hasattr(self._mm, "madvise"):
            self._mm.madvise(mmap.MADV_DONTNEED)
