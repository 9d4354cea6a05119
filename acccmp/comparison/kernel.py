"""The arithmetic of metrics over elements: `partial` and `combine` are the two functions that a faster kernel replaces.

Sums are taken over the positions where both sides are finite; the others are counted. Partial sums are combined in
order with `math.fsum`, so a result depends on how the tensors were cut into blocks, and on nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from acccmp.core.metrics import Floats, Partial
from acccmp.core.tensor import DType

Array = NDArray[Any]
Kind = Literal["float", "long", "complex", "bool"]

EPS = 2.220446049250313e-16  # |golden| below it has no relative error (vendor's limit)
RTOL, ATOL = 1e-2, 1e-3  # MismatchRatio: |npu - golden| > ATOL + RTOL * |golden|


@dataclass(frozen=True)
class How:
    """How a pair is subtracted (`long`: both integers, at least one of 64 bits, which float64 cannot hold), the lowest
    and largest finite value of the dtype that tells overflow, and the power of two that all values are multiplied by.
    """

    kind: Kind
    low: float
    high: float
    is_fp16: bool
    scale: float = 1.0

    @classmethod
    def of(cls, golden: DType, npu: DType, limits: DType) -> How:
        """For two dtypes; `limits` is the one whose largest value tells overflow."""
        kinds = {golden.kind, npu.kind}
        kind: Kind = "float"
        if kinds == {"bool"}:
            kind = "bool"
        elif "complex" in kinds:
            kind = "complex"
        elif kinds <= {"int", "bool"} and max(golden.bits, npu.bits) == 64:
            kind = "long"
        low = -limits.largest
        if limits.kind == "int":
            assert limits.numpy is not None
            low = -(2.0 ** (limits.bits - 1)) if limits.numpy.kind == "i" else 0.0
        return cls(kind, low, limits.largest, limits.name in ("float16", "complex32"))

    @property
    def has_limits(self) -> bool:
        return math.isfinite(self.high)


def partial(golden: Array, npu: Array, how: How) -> Partial:
    """The sums of one block: two flat arrays of one length, as decoded (integers as integers). Pure; numpy's warnings
    are the caller's to silence."""
    if how.kind == "bool":
        return _of_bools(golden, npu)
    wide = np.complex128 if how.kind == "complex" else np.float64
    y: Array = golden.astype(wide)
    x: Array = npu.astype(wide)
    over = _overflow(x, y, how)
    odd = _NONE
    d: Array = _long_difference(golden, npu) if how.kind == "long" else np.abs(x - y)
    places: NDArray[np.intp] | None = None
    if not np.isfinite(d).all():  # NaN or Inf somewhere, or a difference too large for float64
        ok = np.isfinite(x) & np.isfinite(y)
        if not ok.all():
            odd = _nonfinite(x, y, ok, how)
            places = np.flatnonzero(ok)
            x, y, d = x[ok], y[ok], d[ok]
    counts: dict[str, Any] = {
        "scale": how.scale, "count": golden.size, "overflow": over.places, "first_overflow": over.first,
        "fp16_overflow": (over.saturated + odd.inf_npu) * how.is_fp16, "nan_npu": odd.nan_npu,
        "nan_golden": odd.nan_golden, "inf_npu": odd.inf_npu, "inf_golden": odd.inf_golden, "agreeing": odd.agreeing,
        "nonfinite": odd.nonfinite, "first_nonfinite": odd.first,
    }
    if not x.size:
        return Partial(**counts, mismatches=odd.mismatches)
    if how.scale != 1.0:
        x, y = x * how.scale, y * how.scale
        d = d * how.scale if how.kind == "long" else np.abs(x - y)
    ax, ay = np.abs(x), np.abs(y)
    place = int(d.argmax())
    if how.kind == "complex":
        xy = (x * y.conj()).real
        x, y = ax, ay
    else:
        xy = x * y
    ratio = np.zeros_like(d)
    np.divide(d, ay, out=ratio, where=ay > EPS)
    wrong = d if golden.dtype.kind in "iub" else d > ATOL * how.scale + RTOL * ay
    mean_x, mean_y = float(x.mean()), float(y.mean())
    return Partial(
        **counts, finite=x.size, mismatches=odd.mismatches + int(np.count_nonzero(wrong)),
        squares_npu=float((ax * ax).sum()), squares_golden=float((ay * ay).sum()), products=float(xy.sum()),
        errors=float(d.sum()), squared_errors=float((d * d).sum()), relative_errors=float(ratio.sum()),
        max_error=float(d[place]), max_place=place if places is None else int(places[place]),
        max_relative=float(ratio.max()), largest_npu=float(ax.max()), largest_golden=float(ay.max()),
        low_npu=float(x.min()), high_npu=float(x.max()), low_golden=float(y.min()), high_golden=float(y.max()),
        mean_npu=mean_x, spread_npu=float(((x - mean_x) ** 2).sum()),
        mean_golden=mean_y, spread_golden=float(((y - mean_y) ** 2).sum()),
    )


_JOINS = {row.name: row.metadata["join"] for row in fields(Partial) if "join" in row.metadata}


def combine(parts: Sequence[Partial]) -> Partial:
    """The sums of consecutive blocks, in their order, as those of the whole."""
    if not parts:
        return Partial()
    joined = {name: join([getattr(part, name) for part in parts]) for name, join in _JOINS.items()}
    starts = list(accumulate((part.count for part in parts[:-1]), initial=0))
    told = [part for part in parts if part.finite]
    mean_npu, spread_npu = _moments([(part.finite, part.mean_npu, part.spread_npu) for part in told])
    mean_golden, spread_golden = _moments([(part.finite, part.mean_golden, part.spread_golden) for part in told])
    worst = max(parts, key=lambda part: part.max_error)  # the first of several

    def first(places: Sequence[int]) -> int:
        return next((start + place for start, place in zip(starts, places, strict=True) if place >= 0), -1)

    return Partial(
        **joined, scale=parts[0].scale, mean_npu=mean_npu, spread_npu=spread_npu, mean_golden=mean_golden,
        spread_golden=spread_golden, max_place=first([part.max_place if part is worst else -1 for part in parts]),
        first_overflow=first([part.first_overflow for part in parts]),
        first_nonfinite=first([part.first_nonfinite for part in parts]),
    )


def fitting_scale(parts: Sequence[Partial], how: How) -> float:
    """1, or the power of two that brings values whose squares float64 cannot hold (or golden below EPS) near 1."""
    if how.kind not in ("float", "complex") or not any(part.finite for part in parts):
        return 1.0
    golden = max(part.largest_golden for part in parts)
    largest = max(golden, *(part.largest_npu for part in parts))
    if largest > 1e140:
        return math.ldexp(1.0, -math.frexp(largest)[1])
    base = golden or largest
    if 0 < base <= EPS:
        room = 460 - math.frexp(largest)[1]  # the NPU's values must not grow past about 1e140
        return math.ldexp(1.0, min(-math.frexp(base)[1], room, 1000))
    return 1.0


def _moments(parts: Sequence[tuple[int, float, float]]) -> tuple[float, float]:
    """Mean and sum of squared deviations from it, from (count, mean, sum of squared deviations) of the parts."""
    n = sum(part[0] for part in parts)
    if not n:
        return 0.0, 0.0
    mean = math.fsum(part[0] * part[1] for part in parts) / n
    return mean, math.fsum([*(part[2] for part in parts), *(part[0] * (part[1] - mean) ** 2 for part in parts)])


def _of_bools(golden: Array, npu: Array) -> Partial:
    wrong = golden.astype(bool) != npu.astype(bool)
    count = int(np.count_nonzero(wrong))
    return Partial(
        count=golden.size, finite=golden.size, mismatches=count, max_error=1.0 if count else -1.0,
        max_place=int(wrong.argmax()) if count else -1, largest_npu=float(npu.any()),
        largest_golden=float(golden.any()),
    )


def _long_difference(golden: Array, npu: Array) -> Floats:
    """|npu - golden| of 64-bit integers: exact up to 2**53, and correctly rounded beyond."""
    if golden.dtype.kind == "b":
        golden = golden.astype(np.uint8)
    if npu.dtype.kind == "b":
        npu = npu.astype(np.uint8)
    # Both as (negative?, magnitude): the difference of two magnitudes fits uint64; a sum of two may not.
    gy, gx = golden < 0, npu < 0
    my = np.where(gy, ~golden.astype(np.uint64) + np.uint64(1), golden.astype(np.uint64))
    mx = np.where(gx, ~npu.astype(np.uint64) + np.uint64(1), npu.astype(np.uint64))
    apart = (np.maximum(mx, my) - np.minimum(mx, my)).astype(np.float64)
    total = mx + my
    both = np.where(total < mx, mx.astype(np.float64) + my.astype(np.float64), total.astype(np.float64))
    difference: Floats = np.where(gx == gy, apart, both)
    return difference


# -- what is not finite ------------------------------------------------------------------------------------------


class _Over(NamedTuple):
    """Places where the NPU is at its largest value or Inf and golden lies beyond it; `saturated`: not at Inf."""

    places: int = 0
    first: int = -1
    saturated: int = 0


class _Odd(NamedTuple):
    nan_npu: int = 0
    nan_golden: int = 0
    inf_npu: int = 0
    inf_golden: int = 0
    agreeing: int = 0
    nonfinite: int = 0
    mismatches: int = 0
    first: int = -1


_NONE = _Odd()


def _overflow(x: Array, y: Array, how: How) -> _Over:
    if x.dtype.kind == "c":
        real, imaginary = _overflow(x.real, y.real, how), _overflow(x.imag, y.imag, how)
        return _Over(real.places + imaginary.places, real.first if real.first >= 0 else imaginary.first,
                     real.saturated + imaginary.saturated)
    if not how.has_limits or (y.max() <= how.high and y.min() >= how.low):  # not so where there is a NaN
        return _Over()
    over = _beyond(x, y, how)
    count = int(np.count_nonzero(over))
    return _Over(count, int(over.argmax()) if count else -1, int(np.count_nonzero(over & np.isfinite(x))))


def _nonfinite(x: Array, y: Array, ok: NDArray[np.bool_], how: How) -> _Odd:
    nan_x, nan_y = np.isnan(x), np.isnan(y)
    inf_x, inf_y = np.isinf(x) & ~nan_x, np.isinf(y) & ~nan_y
    agree = (nan_x & nan_y) | (inf_x & inf_y & (x == y))
    if x.dtype.kind == "c":
        over = (_beyond(x.real, y.real, how) | _beyond(x.imag, y.imag, how)) & ~nan_x & ~nan_y
    else:
        over = _beyond(x, y, how)
    wrong = ~ok & ~agree & ~over
    nan_npu, nan_golden, inf_npu, inf_golden, agreeing, nonfinite, mismatches = (
        int(np.count_nonzero(places)) for places in (nan_x, nan_y, inf_x, inf_y, agree, wrong, ~ok & ~agree)
    )
    return _Odd(nan_npu, nan_golden, inf_npu, inf_golden, agreeing, nonfinite, mismatches,
                int(wrong.argmax()) if nonfinite else -1)


def _beyond(x: Array, y: Array, how: How) -> NDArray[np.bool_]:
    if not how.has_limits:
        return np.zeros(x.shape, bool)
    found: NDArray[np.bool_] = (
        ((x >= how.high) & (y > how.high)) | ((x <= how.low) & (y < how.low))
    ) & ~((x == y) & np.isinf(x))
    return found
