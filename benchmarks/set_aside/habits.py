"""Habits of devices: how each of four emulated devices rounds, sums, approximates, folds, fuses and stores.

Nothing here was measured on an NPU. The habits are made up from public descriptions of such devices.
Values travel as float32 arrays that hold only values of the device's type (float64 in the exact habit).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray

COMPOSITES = frozenset({"silu", "gelu", "mish", "layernorm", "gate", "l2norm", "fakequant"})
ONE_NODE_ACTIVATIONS = frozenset({"relu", "leaky", "prelu", "hardswish", "clip", "elu"})
F16_MAX = 65504.0


def keep_bits(x: Array, bits: int, rounding: str = "nearest") -> Array:
    """float32 with only `bits` explicit mantissa bits left; infinities and NaN stay as they are."""
    single = np.ascontiguousarray(x, dtype=np.float32)
    drop = 23 - bits
    raw = single.view(np.uint32)
    if rounding == "nearest":
        half = np.uint32((1 << (drop - 1)) - 1)
        raw = raw + half + ((raw >> np.uint32(drop)) & np.uint32(1))
    cut = (raw & np.uint32((0xFFFFFFFF << drop) & 0xFFFFFFFF)).view(np.float32)
    return np.where(np.isfinite(single), cut, single)


def round_to(x: Array, kind: str, rounding: str = "nearest") -> Array:
    """The nearest values (or the next ones toward zero) that `kind` can hold, as float32 (float64 for "float64")."""
    if kind == "float64":
        return np.asarray(x, dtype=np.float64)
    if kind == "float32":
        with np.errstate(over="ignore"):
            return np.asarray(x).astype(np.float32)
    if kind == "bfloat16":
        return keep_bits(x, 7, rounding)
    with np.errstate(over="ignore"):
        near = np.asarray(x).astype(np.float16)
    if rounding == "zero":
        toward = np.nextafter(near, np.float16(0))
        near = np.where(np.abs(near.astype(np.float64)) > np.abs(x), toward, near)
    return near.astype(np.float32)


@dataclass(frozen=True)
class Habit:
    """One device: its types, its short cuts and what its compiler fuses."""

    name: str
    storage: str  # type of every stored float tensor
    vector: str  # type that one vector instruction rounds to
    reduction: str  # type of running sums of vector reductions
    accumulator: str = "float32"  # type of running sums of convolutions and matrix products
    product_bits: int = 23  # explicit mantissa bits of the operands of a product in the Cube unit
    functions: str = "exact"  # "exact" or "table"
    table: int = 8  # entries of the exponential's table from one power of two to the next
    flush: float = 0.0  # smaller magnitudes are written as zero
    saturates: bool = False  # infinity becomes the largest float16, NaN becomes zero
    rounding: str = "nearest"  # or "zero"
    folds: bool = True  # batch norm is folded into the weights, which are rounded once
    blocked: bool = True  # convolution tensors are stored as NC1HWC0
    fuses: frozenset[str] = COMPOSITES  # blocks that become one device op
    conv_takes: frozenset[str] = frozenset()  # activation blocks that a convolution or product before them swallows
    naming: str = "first"  # how a fused op is named

    def store(self, x: Array) -> Array:
        """What the device's memory holds after writing x."""
        return self._limit(round_to(x, self.storage, self.rounding))

    def vec(self, x: Array) -> Array:
        """Result register of one vector instruction."""
        return self._limit(round_to(x, self.vector, self.rounding))

    def _limit(self, x: Array) -> Array:
        if self.flush:
            x = np.where(np.abs(x) < self.flush, x.dtype.type(0), x)
        if self.saturates:
            x = np.clip(np.nan_to_num(x, nan=0.0, posinf=F16_MAX, neginf=-F16_MAX), -F16_MAX, F16_MAX)
        return x

    def constant(self, x: Array) -> Array:
        """A weight as the device keeps it; single numbers stay immediate float32 values."""
        if x.dtype.kind != "f":
            return x
        if x.size == 1 or self.storage == "float64":
            return x.astype(np.float64 if self.storage == "float64" else np.float32)
        return round_to(x, self.storage)

    def cube(self, a: Array, b: Array) -> Array:
        """Matrix product a @ b in steps of 16 along the inner axis, each step added to the accumulator."""
        if self.accumulator == "float64":
            return np.matmul(a.astype(np.float64), b.astype(np.float64))
        if self.product_bits < 23:
            a, b = (keep_bits(side, self.product_bits, self.rounding) for side in (a, b))
        wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
        total: Array | None = None
        for k in range(0, a.shape[-1], 16):
            step = np.matmul(wide_a[..., k : k + 16], wide_b[..., k : k + 16, :]).astype(np.float32)
            total = round_to(step if total is None else total + step, self.accumulator)
        assert total is not None
        return total

    def total(self, x: Array, axes: tuple[int, ...], keepdims: bool = True) -> Array:
        """Sum over axes as the vector unit does it: by halves, each half sum rounded to the type of reductions."""
        if self.reduction == "float64":
            return np.asarray(np.sum(x, axis=axes, keepdims=keepdims, dtype=np.float64))
        axes = tuple(axis % x.ndim for axis in axes)
        rest = [axis for axis in range(x.ndim) if axis not in axes]
        lines = np.transpose(x, [*axes, *rest]).reshape(-1, *(x.shape[axis] for axis in rest))
        while len(lines) > 1:
            odd = lines[-1:] if len(lines) % 2 else lines[:0]
            half = len(lines) // 2
            lines = np.concatenate([round_to(lines[:half] + lines[half : 2 * half], self.reduction), odd])
        line = lines[0]
        return np.expand_dims(line, axes) if keepdims else line

    def function(self, name: str, x: Array) -> Array:
        """exp, tanh, sigmoid, erf, log, sqrt or softplus of x, one vector instruction."""
        wide = np.asarray(x, dtype=np.float64)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            if self.functions == "table":
                return self.vec(TABLE[name](wide, self.table))
            return self.vec(EXACT_FUNCTIONS[name](wide))


def _erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def _table_exp(x: Array, entries: int) -> Array:
    """2**(k/entries) from a table, straight lines in between: relative error below 1e-3 for eight entries."""
    turns = np.clip(x * math.log2(math.e), -120.0, 120.0) * entries
    whole = np.floor(turns)
    low = np.exp2(whole / entries)
    return low + (turns - whole) * (np.exp2((whole + 1) / entries) - low)


def _table_tanh(x: Array, entries: int) -> Array:
    small = x - x**3 / 3 + 2 * x**5 / 15
    big = np.sign(x) * (1 - 2 / (_table_exp(2 * np.abs(x), entries) + 1))
    return np.where(np.abs(x) < 0.5, small, big)


def _table_erf(x: Array, entries: int) -> Array:
    size = np.abs(x)
    small = 2 / math.sqrt(math.pi) * (size - size**3 / 3 + size**5 / 10 - size**7 / 42)
    t = 1 / (1 + 0.47047 * size)
    big = 1 - t * (0.3480242 + t * (-0.0958798 + t * 0.7478556)) * _table_exp(-size * size, entries)
    return np.sign(x) * np.where(size < 0.5, small, big)


EXACT_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "exp": np.exp,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "erf": _erf,
    "log": np.log,
    "sqrt": np.sqrt,
    "softplus": lambda x: np.logaddexp(0, x),
}
TABLE: dict[str, Callable[[Array, int], Array]] = {
    "exp": _table_exp,
    "tanh": _table_tanh,
    "sigmoid": lambda x, entries: 1 / (1 + _table_exp(-x, entries)),
    "erf": _table_erf,
    "log": lambda x, entries: np.log(x),
    "sqrt": lambda x, entries: np.sqrt(x),
    "softplus": lambda x, entries: np.where(x > 8, x, np.log1p(_table_exp(np.minimum(x, 8), entries))),
}

EXACT = Habit("exact", "float64", "float64", "float64", accumulator="float64", folds=False)
HALF = Habit(
    "half", "float16", "float32", "float32",
    conv_takes=frozenset({"relu", "leaky", "prelu"}),
)  # fmt: skip
QUICK = Habit(
    "quick", "float16", "float16", "float16",
    functions="table", flush=2.0**-14, saturates=True, fuses=frozenset({"fakequant"}),
    conv_takes=frozenset({"relu"}), naming="called",
)  # fmt: skip
BRAIN = Habit(
    "brain", "bfloat16", "float32", "float32",
    folds=False, blocked=False, fuses=COMPOSITES - {"fakequant"},
)  # fmt: skip
TENSOR32 = Habit(
    "tensor32", "float32", "float32", "float32",
    product_bits=11, conv_takes=frozenset({"silu", "mish", "gelu"}) | ONE_NODE_ACTIVATIONS, naming="joined",
)  # fmt: skip
HABITS: dict[str, Habit] = {habit.name: habit for habit in (HALF, QUICK, BRAIN, TENSOR32)}
