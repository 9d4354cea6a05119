"""The arithmetic: every metric of a pair of tensors, in float64, block by block.

`measure` is the one function that a faster kernel replaces. Vendor formulas: specs of the Ascend dumps, 6.2; where
they mislead (section 8 of the same) ours differ, and the table says how.

Sums are taken over the positions where both sides are finite; the others are counted. Tensors are cut into blocks by
their shape alone and the partial sums are combined in order with `math.fsum`, so a result does not depend on threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from acccmp.core import layout as layouts
from acccmp.core.distance import relative
from acccmp.core.layout import Shape, squeezed
from acccmp.core.tensor import DType, TensorRef
from acccmp.reports.legend import METRICS as LEGEND

Floats = NDArray[np.float64]
Array = NDArray[Any]

READ = 1 << 20  # elements read from each side at a time
CHUNK = 1 << 16  # elements computed at a time: the temporaries stay in the cache
EPS = 2.220446049250313e-16  # |golden| below it has no relative error (vendor's limit)
KL_LEAST = 1.1920929e-07  # smallest share in the histograms of the KL divergence (vendor's limit)
RTOL, ATOL = 1e-2, 1e-3  # MismatchRatio: |npu - golden| > ATOL + RTOL * |golden|


@dataclass(frozen=True)
class Metric:
    """A row of the table: which direction is better, what a perfect pair has, and what odd data give.

    What a metric says and what it cannot see stand in the legend of the reports, from where `what` and `blind_spot`
    take them.
    """

    name: str
    better: Literal["lower", "higher", "neither"]
    best: float | None
    odd: str = ""

    @property
    def what(self) -> str:
        return LEGEND[self.name].says

    @property
    def blind_spot(self) -> str:
        return LEGEND[self.name].blind_to


_COUNT = "0 without any"
METRICS = (
    Metric("CosineSimilarity", "higher", 1.0, "NaN if one side is all zero, 1 if both are"),
    Metric("MaxAbsoluteError", "lower", 0.0),
    Metric("AccumulatedRelativeError", "lower", 0.0, "places with |golden| <= EPS count 0; Inf if golden is all zero"),
    Metric("RelativeEuclideanDistance", "lower", 0.0, "Inf if only golden is all zero, 0 if both are"),
    Metric("KullbackLeiblerDivergence", "lower", 0.0, "NaN if one side is all zero, 0 if both are; NaN for complex"),
    Metric("StandardDeviation", "neither", None, "as MeanNpu, StdNpu, MeanGolden, StdGolden; of complex: magnitudes"),
    Metric("MeanAbsoluteError", "lower", 0.0),
    Metric("RootMeanSquareError", "lower", 0.0),
    Metric("MaxRelativeError", "lower", 0.0, "places with |golden| <= EPS count 0; Inf if golden is all zero"),
    Metric("MeanRelativeError", "lower", 0.0, "places with |golden| <= EPS count 0; Inf if golden is all zero"),
    Metric("NanNpu", "lower", 0.0, _COUNT),
    Metric("NanGolden", "neither", 0.0, _COUNT),
    Metric("InfNpu", "lower", 0.0, _COUNT),
    Metric("InfGolden", "neither", 0.0, _COUNT),
    Metric("Fp16Overflow", "lower", 0.0, "0 for every other dtype"),
    Metric("MaxErrorIndex", "neither", None, "the first of several; for bools the first unequal element"),
    Metric("SNR(dB)", "higher", math.inf, "Inf without any error, -Inf if only golden is all zero"),
    Metric("MismatchRatio", "lower", 0.0, "NaN or Inf at one place on both sides is no mismatch; NaN if empty"),
)
BY_NAME = {metric.name: metric for metric in METRICS}
VENDOR = tuple(metric.name for metric in METRICS[:10])
# Names that `Measured.metrics` really has: the vendor's text column is four floats, the index is no float.
FLOATS = tuple(
    name for metric in METRICS if metric.name != "MaxErrorIndex"
    for name in (
        ("MeanNpu", "StdNpu", "MeanGolden", "StdGolden") if metric.name == "StandardDeviation" else (metric.name,)
    )
)


@dataclass(frozen=True)
class Measured:
    """What was found in one pair of tensors.

    `metrics` has the names of `FLOATS`; one that is not defined for the kind (KL of complex numbers, anything but
    MismatchRatio of bools) or for the data (no finite position) is NaN. `count` elements were looked at, `finite` of
    them are finite on both sides, `agreeing` are NaN on both sides or the same infinity. `overflow` counts the places
    where the NPU is at its dtype's largest value or Inf and golden lies beyond it, `nonfinite` the other places where
    one side is not finite and the other differs; `first_overflow` and `first_nonfinite` say where, in golden's
    coordinates. `largest_golden` is of the finite positions (0 without any).
    """

    metrics: Mapping[str, float]
    count: int = 0
    finite: int = 0
    agreeing: int = 0
    overflow: int = 0
    nonfinite: int = 0
    mismatches: int = 0
    largest_golden: float = 0.0
    max_error_index: tuple[int, ...] | None = None
    first_overflow: tuple[int, ...] | None = None
    first_nonfinite: tuple[int, ...] | None = None


def measure(
    golden: TensorRef,
    npu: TensorRef,
    *,
    extent: Shape | None = None,
    npu_dtype: DType | None = None,
) -> Measured:
    """Every metric of a pair of numeric tensors of one shape, dimensions of 1 apart.

    `extent` restricts the comparison to the first so many elements along each of golden's axes (a valid region);
    the NPU's tensor may be larger then. `npu_dtype` is the dtype whose largest value decides about overflow, the NPU's
    stored one if not given. Integers of 64 bits are subtracted exactly; complex numbers are compared as such. An empty
    pair has zero counts and NaN metrics.

    Raises FormatError for files that are too short and types without a meaning, LayoutError when a stored shape cannot
    hold the original, ValueError when the shapes differ.
    """
    pair = _Pair(golden, npu, tuple(golden.own_shape if extent is None else extent), extent is None)
    kind = _kind(golden.dtype, npu.dtype)
    dtype = npu_dtype or npu.dtype
    with np.errstate(all="ignore"):
        sums = _sums(pair, kind, _bounds(dtype), 1.0)
        scale = _scale(sums, kind)
        if scale != 1.0:
            sums = _sums(pair, kind, _bounds(dtype), scale)
        kl = _kl(pair, sums) if kind in ("float", "long") else math.nan
    return _measured(sums, kind, kl, dtype, pair.extent)


# -- reading -----------------------------------------------------------------------------------------------------


@dataclass
class _Pair:
    """The two sides, read block by block in golden's order; small pairs are read once."""

    golden: TensorRef
    npu: TensorRef
    extent: Shape
    is_whole: bool
    kept: list[tuple[int, Array, Array]] = field(default_factory=list)
    by_place: bool = True

    def __post_init__(self) -> None:
        own, other = self.golden.own_shape, self.npu.own_shape
        if len(self.extent) != len(own) or any(n > m for n, m in zip(self.extent, own, strict=True)):
            raise ValueError(f"no region {self.extent} in a tensor of shape {own}")
        self.by_place = len(other) == len(self.extent) and all(
            n == m or (n < m and not self.is_whole) for n, m in zip(self.extent, other, strict=True)
        )
        if not self.by_place and squeezed(other) != squeezed(self.extent):
            raise ValueError(f"shapes differ: golden {own}, npu {other}")

    def blocks(self) -> Iterator[tuple[int, Array, Array]]:
        """(number of elements before, golden, npu) as flat blocks."""
        if self.kept:
            yield from self.kept
            return
        small = math.prod(self.extent) <= READ
        before = 0
        for region in layouts.regions(self.extent, READ):
            golden = self.golden.read(region)
            npu = self._npu(region).reshape(-1)
            flat = golden.reshape(-1)
            if small:
                self.kept.append((before, flat, npu))
            yield before, flat, npu
            before += flat.size

    def chunks(self) -> Iterator[tuple[int, Array, Array]]:
        for before, golden, npu in self.blocks():
            for start in range(0, golden.size, CHUNK):
                yield before + start, golden[start : start + CHUNK], npu[start : start + CHUNK]

    def _npu(self, region: layouts.Region) -> Array:
        shape = self.npu.own_shape
        if self.by_place:
            return self.npu.read(region)
        moving = iter([part for part, n in zip(region, self.extent, strict=True) if n != 1])
        return self.npu.read(tuple(slice(0, 1) if n == 1 else next(moving) for n in shape))


Kind = Literal["float", "long", "complex", "bool"]


def _kind(golden: DType, npu: DType) -> Kind:
    """How the pair is subtracted. `long`: both integers, at least one of 64 bits, which float64 cannot hold."""
    kinds = {golden.kind, npu.kind}
    if kinds == {"bool"}:
        return "bool"
    if "complex" in kinds:
        return "complex"
    if kinds <= {"int", "bool"} and max(golden.bits, npu.bits) == 64:
        return "long"
    return "float"


def _bounds(dtype: DType) -> tuple[float, float]:
    """(lowest, largest) finite value of a dtype, to tell overflow."""
    if dtype.kind == "int":
        assert dtype.numpy is not None
        signed = dtype.numpy.kind == "i"
        return (-(2.0 ** (dtype.bits - 1)) if signed else 0.0), dtype.largest
    return -dtype.largest, dtype.largest


# -- one pass of sums --------------------------------------------------------------------------------------------


@dataclass
class _Sums:
    """Partial sums, a list entry for each chunk, so that they can be combined without rounding."""

    scale: float
    count: int = 0
    finite: int = 0
    nan_npu: int = 0
    nan_golden: int = 0
    inf_npu: int = 0
    inf_golden: int = 0
    agreeing: int = 0
    overflow: int = 0
    nonfinite: int = 0
    mismatches: int = 0
    beyond_fp16: int = 0
    yy: list[float] = field(default_factory=list)
    xx: list[float] = field(default_factory=list)
    xy: list[float] = field(default_factory=list)
    dd: list[float] = field(default_factory=list)
    absolute: list[float] = field(default_factory=list)
    relative: list[float] = field(default_factory=list)
    moments: list[tuple[int, float, float, float, float]] = field(default_factory=list)  # n, mean x, M2 x, mean y, M2 y
    max_error: float = -1.0
    max_place: int = -1
    max_relative: float = 0.0
    largest_x: float = 0.0
    largest_y: float = 0.0
    low_x: float = math.inf
    high_x: float = -math.inf
    low_y: float = math.inf
    high_y: float = -math.inf
    first_overflow: int = -1
    first_nonfinite: int = -1


def _sums(pair: _Pair, kind: Kind, bounds: tuple[float, float], scale: float) -> _Sums:
    """One pass. All values are multiplied by `scale`, a power of two, first."""
    sums = _Sums(scale)
    for before, golden, npu in pair.chunks():
        sums.count += golden.size
        if kind == "bool":
            _add_bools(sums, before, golden, npu)
        else:
            _add(sums, before, golden, npu, kind, bounds)
    return sums


def _add(
    sums: _Sums, before: int, golden: Array, npu: Array, kind: Kind, bounds: tuple[float, float],
) -> None:
    wide = np.complex128 if kind == "complex" else np.float64
    y: Array = golden.astype(wide)
    x: Array = npu.astype(wide)
    _count_overflow(sums, before, x, y, bounds)
    d: Array = _long_difference(golden, npu) if kind == "long" else np.abs(x - y)
    places: NDArray[np.intp] | None = None
    if not np.isfinite(d).all():  # NaN or Inf somewhere, or a difference too large for float64
        ok = np.isfinite(x) & np.isfinite(y)
        if not ok.all():
            _count_nonfinite(sums, before, x, y, ok, bounds)
            places = np.flatnonzero(ok)
            x, y, d = x[ok], y[ok], d[ok]
            if not x.size:
                return
    if sums.scale != 1.0:
        x, y = x * sums.scale, y * sums.scale
        d = d * sums.scale if kind == "long" else np.abs(x - y)
    sums.finite += x.size
    ax, ay = np.abs(x), np.abs(y)
    place = int(d.argmax())
    if d[place] > sums.max_error:
        sums.max_error = float(d[place])
        sums.max_place = before + (place if places is None else int(places[place]))
    if kind == "complex":
        xy = (x * y.conj()).real
        x, y = ax, ay
    else:
        xy = x * y
    sums.xy.append(float(xy.sum()))
    sums.xx.append(float((ax * ax).sum()))
    sums.yy.append(float((ay * ay).sum()))
    sums.dd.append(float((d * d).sum()))
    sums.absolute.append(float(d.sum()))
    ratio = np.zeros_like(d)
    np.divide(d, ay, out=ratio, where=ay > EPS)
    sums.relative.append(float(ratio.sum()))
    sums.max_relative = max(sums.max_relative, float(ratio.max()))
    if golden.dtype.kind in "iub":
        sums.mismatches += int(np.count_nonzero(d))
    else:
        sums.mismatches += int(np.count_nonzero(d > ATOL * sums.scale + RTOL * ay))
    mean_x, mean_y = float(x.mean()), float(y.mean())
    sums.moments.append((x.size, mean_x, float(((x - mean_x) ** 2).sum()), mean_y, float(((y - mean_y) ** 2).sum())))
    sums.low_x, sums.high_x = min(sums.low_x, float(x.min())), max(sums.high_x, float(x.max()))
    sums.low_y, sums.high_y = min(sums.low_y, float(y.min())), max(sums.high_y, float(y.max()))
    sums.largest_x = max(sums.largest_x, float(ax.max()))
    sums.largest_y = max(sums.largest_y, float(ay.max()))


def _add_bools(sums: _Sums, before: int, golden: Array, npu: Array) -> None:
    sums.finite += golden.size
    wrong = golden.astype(bool) != npu.astype(bool)
    count = int(np.count_nonzero(wrong))
    if count and sums.max_place < 0:
        sums.max_error, sums.max_place = 1.0, before + int(wrong.argmax())
    sums.mismatches += count
    sums.largest_y = max(sums.largest_y, float(golden.any()))
    sums.largest_x = max(sums.largest_x, float(npu.any()))


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


def _count_overflow(sums: _Sums, before: int, x: Array, y: Array, bounds: tuple[float, float]) -> None:
    """Places where the NPU is at its largest value (or Inf) and golden lies beyond it, on the same side of zero."""
    low, high = bounds
    if x.dtype.kind == "c":
        _count_overflow(sums, before, x.real, y.real, bounds)
        _count_overflow(sums, before, x.imag, y.imag, bounds)
        return
    if math.isinf(high) or math.isnan(high):
        return
    top = y.max()  # NaN if there is one
    bottom = y.min()
    if top <= high and bottom >= low:
        return
    over = _beyond(x, y, low, high)
    count = int(np.count_nonzero(over))
    if count:
        sums.overflow += count
        if sums.first_overflow < 0:
            sums.first_overflow = before + int(over.argmax())
        sums.beyond_fp16 += int(np.count_nonzero(over & np.isfinite(x)))


def _count_nonfinite(
    sums: _Sums, before: int, x: Array, y: Array, ok: NDArray[np.bool_], bounds: tuple[float, float],
) -> None:
    low, high = bounds
    nan_x, nan_y = np.isnan(x), np.isnan(y)
    inf_x, inf_y = np.isinf(x) & ~nan_x, np.isinf(y) & ~nan_y
    sums.nan_npu += int(np.count_nonzero(nan_x))
    sums.nan_golden += int(np.count_nonzero(nan_y))
    sums.inf_npu += int(np.count_nonzero(inf_x))
    sums.inf_golden += int(np.count_nonzero(inf_y))
    agree = (nan_x & nan_y) | (inf_x & inf_y & (x == y))
    if x.dtype.kind == "c":
        over = (_beyond(x.real, y.real, low, high) | _beyond(x.imag, y.imag, low, high)) & ~nan_x & ~nan_y
    else:
        over = _beyond(x, y, low, high)
    wrong = ~ok & ~agree & ~over
    sums.agreeing += int(np.count_nonzero(agree))
    count = int(np.count_nonzero(wrong))
    sums.nonfinite += count
    sums.mismatches += int(np.count_nonzero(~ok & ~agree))
    if count and sums.first_nonfinite < 0:
        sums.first_nonfinite = before + int(wrong.argmax())


def _beyond(x: Array, y: Array, low: float, high: float) -> NDArray[np.bool_]:
    if math.isinf(high) or math.isnan(high):
        return np.zeros(x.shape, bool)
    found: NDArray[np.bool_] = (((x >= high) & (y > high)) | ((x <= low) & (y < low))) & ~((x == y) & np.isinf(x))
    return found


def _scale(sums: _Sums, kind: Kind) -> float:
    """1, or the power of two that brings values whose squares float64 cannot hold (or golden below EPS) near 1."""
    if kind not in ("float", "complex") or not sums.finite:
        return 1.0
    largest = max(sums.largest_x, sums.largest_y)
    if largest > 1e140:
        return math.ldexp(1.0, -math.frexp(largest)[1])
    base = sums.largest_y or largest
    if 0 < base <= EPS:
        room = 460 - math.frexp(largest)[1]  # the NPU's values must not grow past about 1e140
        return math.ldexp(1.0, min(-math.frexp(base)[1], room, 1000))
    return 1.0


# -- the second pass, and the results ----------------------------------------------------------------------------


def _kl(pair: _Pair, sums: _Sums) -> float:
    """KL divergence of golden's min-max normalised values from the NPU's: sum p ln(p/q), p from the NPU.

    A tensor of one value is not scaled. 0 if both are all zero, NaN if one is (the vendor gives NaN for both).
    """
    if not sums.finite or (sums.largest_x == 0) != (sums.largest_y == 0):
        return math.nan
    p_sums: list[float] = []
    q_sums: list[float] = []
    logs: list[float] = []
    for _, golden, npu in pair.chunks():
        x: Floats = npu.astype(np.float64)
        y: Floats = golden.astype(np.float64)
        ok = np.isfinite(x) & np.isfinite(y)
        if not ok.all():
            x, y = x[ok], y[ok]
        if sums.scale != 1.0:
            x, y = x * sums.scale, y * sums.scale
        p = _normalised(x, sums.low_x, sums.high_x)
        q = _normalised(y, sums.low_y, sums.high_y)
        p_sums.append(float(p.sum()))
        q_sums.append(float(q.sum()))
        np.divide(p, q, out=q)
        np.log(q, out=q)
        logs.append(float((p * q).sum()))
    total_p, total_q = math.fsum(p_sums), math.fsum(q_sums)
    return max(0.0, math.fsum(logs) / total_p + math.log(total_q / total_p))


def _normalised(values: Floats, low: float, high: float) -> Floats:
    if high > low:
        values = (values - low) / (high - low)
    return np.maximum(values, KL_LEAST)


def _measured(sums: _Sums, kind: Kind, kl: float, npu: DType, shape: Shape) -> Measured:
    metrics = dict.fromkeys(FLOATS, math.nan)
    metrics["NanNpu"], metrics["NanGolden"] = float(sums.nan_npu), float(sums.nan_golden)
    metrics["InfNpu"], metrics["InfGolden"] = float(sums.inf_npu), float(sums.inf_golden)
    is_half = npu.name in ("float16", "complex32")
    metrics["Fp16Overflow"] = float(sums.inf_npu + sums.beyond_fp16) if is_half else 0.0
    if sums.count:
        metrics["MismatchRatio"] = sums.mismatches / sums.count
    if sums.finite and kind != "bool":
        metrics.update(_means(sums))
        metrics["KullbackLeiblerDivergence"] = kl

    def at(place: int) -> tuple[int, ...] | None:
        return tuple(int(n) for n in np.unravel_index(place, shape)) if place >= 0 else None

    return Measured(
        metrics, sums.count, sums.finite, sums.agreeing, sums.overflow, sums.nonfinite, sums.mismatches,
        sums.largest_y / sums.scale,
        at(sums.max_place), at(sums.first_overflow), at(sums.first_nonfinite),
    )


def _means(sums: _Sums) -> dict[str, float]:
    """The metrics that are made of sums over the finite positions."""
    n, scale = sums.finite, sums.scale
    xx, yy, xy, dd = math.fsum(sums.xx), math.fsum(sums.yy), math.fsum(sums.xy), math.fsum(sums.dd)
    shares, worst = math.fsum(sums.relative), sums.max_relative
    if sums.largest_y == 0 and dd > 0:  # golden all zero: any error is infinitely large beside it
        shares = worst = math.inf
    if xx == 0 and yy == 0:
        cosine = 1.0
    elif xx == 0 or yy == 0:
        cosine = math.nan
    else:
        cosine = max(-1.0, min(1.0, xy / (math.sqrt(xx) * math.sqrt(yy))))
    if dd == 0:
        snr = math.inf
    else:
        snr = 20 * (math.log10(math.sqrt(yy)) - math.log10(math.sqrt(dd))) if yy > 0 else -math.inf
    mean_x, std_x = _moments([(m[0], m[1], m[2]) for m in sums.moments])
    mean_y, std_y = _moments([(m[0], m[3], m[4]) for m in sums.moments])
    return {
        "CosineSimilarity": cosine,
        "MaxAbsoluteError": sums.max_error / scale,
        "AccumulatedRelativeError": shares,
        "RelativeEuclideanDistance": relative(dd, yy),
        "MeanNpu": mean_x / scale,
        "StdNpu": std_x / scale,
        "MeanGolden": mean_y / scale,
        "StdGolden": std_y / scale,
        "MeanAbsoluteError": math.fsum(sums.absolute) / n / scale,
        "RootMeanSquareError": math.sqrt(dd / n) / scale,
        "MaxRelativeError": worst,
        "MeanRelativeError": shares / n,
        "SNR(dB)": snr,
    }


def _moments(parts: Sequence[tuple[int, float, float]]) -> tuple[float, float]:
    """Mean and population standard deviation from (count, mean, sum of squared deviations) of the parts."""
    n = sum(part[0] for part in parts)
    mean = math.fsum(part[0] * part[1] for part in parts) / n
    spread = math.fsum([*(part[2] for part in parts), *(part[0] * (part[1] - mean) ** 2 for part in parts)])
    return mean, math.sqrt(spread / n)
