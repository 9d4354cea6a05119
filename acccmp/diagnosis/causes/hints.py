"""What a bad tensor looks like, as hints: a table of error patterns, each a test and a line of advice.

Hints are guesses for the person who looks next. They change no verdict. Only the first bad port and the few worst are
looked at, and of large tensors only a part.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acccmp.core import layout as layouts
from acccmp.core.distance import distance
from acccmp.core.dump import Port
from acccmp.core.tensor import TensorRef
from acccmp.errors import FormatError, LayoutError
from acccmp.reports.pair import Verdict
from acccmp.reports.report import Comparison, Report

MOST = 1 << 21  # elements of a tensor that are looked at
WORST = 4  # ports besides the first bad one
EARLIER = 64  # tensors before a bad one that it is held against

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """A bad pair as numbers: golden and NPU in golden's shape, non-finite values as 0, and what was dumped before."""

    row: Comparison
    golden: Floats
    npu: Floats
    earlier: tuple[tuple[Port, TensorRef], ...]

    @property
    def limit(self) -> float:
        """How close counts as equal, relative to the norm: the pair's own limit, within reason."""
        return min(max(self.row.limit, 1e-3), 0.1) if self.row.limit > 0 else 1e-2

    def is_close(self, a: Floats, b: Floats) -> bool:
        """Is `a` equal to `b` within the limit?"""
        return bool(b.any()) and distance(b, a) <= self.limit


def explained(report: Report) -> Report:
    """The report, the first bad row and the worst few with hints in their notes."""
    rows = report.comparisons
    out = list(rows)
    bad = [i for i, row in enumerate(rows) if row.verdict in (Verdict.DRIFT, Verdict.OVERFLOW, Verdict.NONFINITE)]
    if not bad:
        return report
    first = min(bad, key=lambda i: (rows[i].order, rows[i].port.side == "input"))
    worst = sorted(bad, key=lambda i: -rows[i].badness)[:WORST]
    for i in dict.fromkeys([first, *worst]):
        out[i] = replace(rows[i], notes=(*rows[i].notes, *hints(rows[i], rows)))
    return replace(report, comparisons=tuple(out))


def hints(row: Comparison, rows: Sequence[Comparison] = ()) -> tuple[str, ...]:
    """Lines of advice for one bad pair, the first pattern that fits of each kind; empty if none does."""
    pair, golden, npu = row.pair, row.golden, row.npu
    if golden is None or npu is None or math.prod(golden.own_shape) > MOST or math.prod(npu.own_shape) > MOST:
        return ()
    try:
        y, x = golden.numpy(), npu.numpy()
    except (FormatError, LayoutError, MemoryError):
        return ()
    if pair.extent is not None:
        part = tuple(slice(0, n) for n in pair.extent)
        y, x = y[part], x[part] if x.ndim == len(part) else x
    if x.size != y.size or not x.size or x.dtype.kind == "c" or y.dtype.kind == "c":
        return ()
    earlier = tuple(
        (other.port, other.npu) for other in rows
        if other.order < row.order and other.port.side == "output" and other.npu is not None
        and other.golden_port != row.golden_port  # a Cast or TransData of one tensor equals it with good reason
        and math.prod(other.npu.own_shape) == x.size
    )[-EARLIER:]
    with np.errstate(all="ignore"):
        case = Case(row, _finite(y), _finite(x).reshape(y.shape), earlier)
        for _, test in PATTERNS:
            told = test(case)
            if told:
                return (f"hint: {told}",)
    return ()


def _finite(values: NDArray[Any]) -> Floats:
    wide: Floats = values.astype(np.float64)
    return np.where(np.isfinite(wide), wide, 0.0)


# -- the patterns ------------------------------------------------------------------------------------------------


def _is_zero(case: Case) -> str:
    if not case.npu.any() and case.golden.any():
        return "the NPU's tensor is all zero: it was not written, or its input was lost"
    return ""


def _is_constant(case: Case) -> str:
    if case.npu.size > 1 and case.npu.min() == case.npu.max() and case.golden.min() != case.golden.max():
        return f"every element of the NPU's tensor is {case.npu.flat[0]:g}: it was not computed"
    return ""


def _is_saturated(case: Case) -> str:
    if case.row.verdict is not Verdict.OVERFLOW:
        return ""
    return "the values outgrow the NPU's dtype: keep this op in float32 (or bfloat16), or scale its input down"


def _has_nan(case: Case) -> str:
    if case.row.verdict is not Verdict.NONFINITE:
        return ""
    if case.row.metrics.get("NanGolden", 0) or case.row.metrics.get("InfGolden", 0):
        return "golden itself is not finite here: look at the model and its input before the device"
    return "look at what this op divides by or takes the logarithm or root of, and whether its input overflowed"


def _is_stale(case: Case) -> str:
    wanted = case.npu.reshape(-1)
    probe = wanted[:64]
    for port, ref in reversed(case.earlier):
        try:
            region = next(layouts.regions(ref.own_shape, 64), ())
            first = _finite(ref.read(region)).reshape(-1)[:64]
            if not np.array_equal(first, probe[: first.size]) or not probe.any():
                continue
            if np.array_equal(_finite(ref.numpy()).reshape(-1), wanted):
                return f"equal to {port}, which came before: a stale buffer, or the op was skipped"
        except (FormatError, LayoutError, MemoryError):
            continue
    return ""


def _is_scaled(case: Case) -> str:
    yy = float((case.golden**2).sum())
    factor = float((case.npu * case.golden).sum()) / yy if yy else 0.0
    if factor and abs(factor - 1) > 2 * case.limit and case.is_close(case.npu, factor * case.golden):
        return f"the NPU's tensor is golden x {factor:.4g}: look for a scale factor (quantisation, batch norm)"
    return ""


def _is_offset(case: Case) -> str:
    offset = float((case.npu - case.golden).mean())
    if offset and case.is_close(case.npu, case.golden + offset) and not case.is_close(case.npu, case.golden):
        return f"the NPU's tensor is golden + {offset:.4g}: look for a bias or a zero point"
    return ""


def _is_scaled_by_channel(case: Case) -> str:
    if case.golden.ndim < 2 or case.golden.shape[1] < 2 or case.golden.size // case.golden.shape[1] < 4:
        return ""
    y = np.moveaxis(case.golden, 1, 0).reshape(case.golden.shape[1], -1)
    x = np.moveaxis(case.npu, 1, 0).reshape(y.shape)
    dy, dx = y - y.mean(axis=1, keepdims=True), x - x.mean(axis=1, keepdims=True)
    power = (dy**2).sum(axis=1, keepdims=True)
    slope = np.where(power > 0, (dy * dx).sum(axis=1, keepdims=True) / np.where(power > 0, power, 1), 1.0)
    fitted = slope * dy + x.mean(axis=1, keepdims=True)
    if case.is_close(x, fitted):
        return "each channel differs by its own factor and offset: compare batch norm (eps, mean, variance) and scales"
    return ""


def _is_transposed(case: Case) -> str:
    if not 2 <= case.golden.ndim <= 5 or case.golden.size < 4:
        return ""
    flat = case.npu.reshape(-1)
    moving = [axis for axis, n in enumerate(case.golden.shape) if n != 1]
    if not 2 <= len(moving) <= 4:
        return ""
    for perm in itertools.permutations(moving):
        if list(perm) == moving:
            continue
        order = list(range(case.golden.ndim))
        for place, axis in zip(moving, perm, strict=True):
            order[place] = axis
        if case.is_close(flat, case.golden.transpose(order).reshape(-1)):
            return f"looks transposed: the values fit golden with its axes in the order {tuple(order)}"
    return ""


def _is_shifted(case: Case) -> str:
    for axis in range(max(0, case.golden.ndim - 3), case.golden.ndim):
        n = case.golden.shape[axis]
        for step in (1, -1, 2, -2):
            if n <= 2 * abs(step):
                continue
            y = np.take(case.golden, range(max(0, -step), n - max(0, step)), axis)
            x = np.take(case.npu, range(max(0, step), n + min(0, step)), axis)
            if case.is_close(x, y):
                return f"shifted by {step} along axis {axis}: look at padding, strides and ceil mode"
    return ""


def _is_border(case: Case) -> str:
    """Right inside, wrong at the rim of the last two axes."""
    if case.golden.ndim < 3 or min(case.golden.shape[-2:]) < 4:
        return ""
    inner = (..., slice(1, -1), slice(1, -1))
    if case.is_close(case.npu[inner], case.golden[inner]):
        return "wrong only at the border: look at padding, ceil mode and whether averages count the padding"
    return ""


def _is_sparse(case: Case) -> str:
    """All but a few elements fit."""
    d = np.sort(((case.npu - case.golden) ** 2).reshape(-1))[::-1]
    allowed = case.limit**2 * float((case.golden**2).sum())
    rest = np.cumsum(d[::-1])[::-1]  # error that is left without the worst 0, 1, 2, ... elements
    fits = np.flatnonzero(rest <= allowed)
    count = int(fits[0]) if fits.size else d.size
    if 0 < count <= max(1, d.size // 1000):
        return f"only {count} of {d.size} elements are wrong, the rest fits: flipped bits, or an index out of place"
    return ""


def _is_in_channels(case: Case) -> str:
    """All but some channels fit; a channel is axis 1, or the last axis of matrices."""
    if case.golden.ndim < 2:
        return ""
    axis = 1 if case.golden.ndim > 2 else case.golden.ndim - 1
    others = tuple(i for i in range(case.golden.ndim) if i != axis)
    error, power = ((case.npu - case.golden) ** 2).sum(axis=others), (case.golden**2).sum(axis=others)
    wrong = np.flatnonzero(error > case.limit**2 * np.maximum(power, float(power.mean())))
    if not 0 < wrong.size <= error.size // 2:
        return ""
    which = ", ".join(map(str, wrong[:6])) + (", ..." if wrong.size > 6 else "")
    told = f"only {wrong.size} of {error.size} channels (axis {axis}: {which}) are wrong"
    if not np.take(case.npu, wrong, axis).any():
        return f"{told}, and all zero there: they were not written"
    return f"{told}: look at their weights, and at what writes them"


def _is_from_somewhere(case: Case) -> str:
    """Right up to some element and wrong from there on, in row-major order."""
    d = ((case.npu - case.golden) ** 2).reshape(-1)
    y = (case.golden**2).reshape(-1)
    fits = np.cumsum(d) <= case.limit**2 * np.cumsum(y)
    first = int(np.flatnonzero(fits)[-1]) + 1 if fits.any() else 0
    after = math.sqrt(float(d[first:].sum())) / math.sqrt(float(y[first:].sum()) or math.inf)
    if not 0.1 * d.size <= first <= 0.95 * d.size or after < 5 * case.limit:
        return ""
    rest = "zero" if not case.npu.reshape(-1)[first:].any() else "wrong"
    return f"right up to element {first} of {d.size}, {rest} from there on: partly written, or a stale buffer"


def _is_spread(case: Case) -> str:
    d = case.npu - case.golden
    spread = float(d.std())
    if spread and abs(float(d.mean())) < 0.2 * spread and case.row.error < 10 * case.row.limit:
        return "the error is spread evenly like rounding noise: precision of this op or of the ones before it"
    return ""


# What it looks like -> a test that gives the line of advice, or "". The first that fits is told.
PATTERNS: tuple[tuple[str, Callable[[Case], str]], ...] = (
    ("overflow", _is_saturated),
    ("not finite", _has_nan),
    ("all zero", _is_zero),
    ("one value", _is_constant),
    ("stale buffer", _is_stale),
    ("constant factor", _is_scaled),
    ("constant offset", _is_offset),
    ("transposed", _is_transposed),
    ("shifted", _is_shifted),
    ("few elements", _is_sparse),
    ("border only", _is_border),
    ("some channels", _is_in_channels),
    ("from some element on", _is_from_somewhere),
    ("factor by channel", _is_scaled_by_channel),
    ("noise", _is_spread),
)
