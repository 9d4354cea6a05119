"""What the first bad tensor looks like beside golden: facts that its numbers show, a table of patterns.

No cause is guessed and no layer accused: that is what proven causes are for. Hints change no verdict. A pattern counts
only where it explains all but a hundredth of the squared error and what is left is within the port's limit. Large
tensors are not looked at. How often each sentence is true: benchmarks/hints_table.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acccmp.core.distance import distance
from acccmp.errors import FormatError, LayoutError
from acccmp.reports.pair import Verdict
from acccmp.reports.report import Comparison, Report

MOST = 1 << 21  # elements of a tensor that are looked at
PER_NUMBER = 10  # elements for each number that a pattern fits
UNEXPLAINED = 0.1  # share of a relative distance that a pattern may leave

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """A drifting pair as numbers, golden and NPU in golden's shape; values that are finite on neither side are 0.

    `limit` is the port's own, a relative distance; NaN where it was judged by another number.
    """

    golden: Floats
    npu: Floats
    limit: float

    @cached_property
    def near(self) -> float:
        """The relative distance that counts as equal."""
        return min(self.limit, UNEXPLAINED * distance(self.golden, self.npu)) if self.golden.any() else math.nan

    def is_close(self, npu: Floats, golden: Floats) -> bool:
        """Is `npu` as good as equal to `golden`?"""
        return bool(golden.any()) and distance(golden, npu) <= self.near

    @property
    def squared_error(self) -> Floats:
        found: Floats = (self.npu - self.golden) ** 2
        return found

    @property
    def allowed(self) -> float:
        """The squared error that counts as none."""
        return self.near**2 * float((self.golden**2).sum())


def explained(report: Report) -> Report:
    """The report, its first bad row with a hint where there is one."""
    first = report.first_bad
    if first is None:
        return report
    told = with_hint(first)
    return replace(report, comparisons=tuple(told if row is first else row for row in report.comparisons))


def with_hint(row: Comparison) -> Comparison:
    """A bad row with the first pattern that fits as its hint; the row itself if none does."""
    if row.verdict is Verdict.OVERFLOW and row.npu is not None:
        advice = "keep this op in a wider type, or scale its input down"
        return replace(row, hint=f"golden's values outgrow {row.npu.dtype}: {advice}")
    case = _case(row) if row.verdict is Verdict.DRIFT else None
    if case is None:
        return row
    with np.errstate(all="ignore"):
        told = next(filter(None, (test(case) for _, test in PATTERNS)), "")
    return replace(row, hint=told)


def _case(row: Comparison) -> Case | None:
    golden, npu = row.golden, row.npu
    if golden is None or npu is None or max(math.prod(golden.own_shape), math.prod(npu.own_shape)) > MOST:
        return None
    try:
        y, x = golden.numpy(), npu.numpy()
    except (FormatError, LayoutError, MemoryError):
        return None
    if row.pair.extent is not None:
        part = tuple(slice(0, n) for n in row.pair.extent)
        y, x = y[part], x[part] if x.ndim == len(part) else x
    if x.size != y.size or not x.size or "c" in (x.dtype.kind, y.dtype.kind):
        return None
    is_distance = row.judged_by in ("RelativeEuclideanDistance", "MismatchRatio")
    return Case(_finite(y), _finite(x).reshape(y.shape), row.limit if is_distance else math.nan)


def _finite(values: NDArray[Any]) -> Floats:
    wide: Floats = values.astype(np.float64)
    return np.where(np.isfinite(wide), wide, 0.0)


# -- the patterns ------------------------------------------------------------------------------------------------


def _is_zero(case: Case) -> str:
    return "every element of the NPU's is 0" if not case.npu.any() and case.golden.any() else ""


def _is_constant(case: Case) -> str:
    if case.npu.size > 1 and case.npu.min() == case.npu.max() and case.golden.min() != case.golden.max():
        return f"every element of the NPU's is {case.npu.flat[0]:g}"
    return ""


def _is_scaled(case: Case) -> str:
    factor = float((case.npu * case.golden).sum()) / (float((case.golden**2).sum()) or math.nan)
    if case.npu.size >= PER_NUMBER and case.is_close(case.npu, factor * case.golden):
        return f"the NPU's is golden x {factor:.4g}, to within its limit"
    return ""


def _is_offset(case: Case) -> str:
    offset = float((case.npu - case.golden).mean())
    if case.npu.size >= PER_NUMBER and case.is_close(case.npu, case.golden + offset):
        return f"the NPU's is golden + {offset:.4g}, to within its limit"
    return ""


def _is_transposed(case: Case) -> str:
    if case.golden.ndim > 5 or case.golden.size < 4:
        return ""
    flat = case.npu.reshape(-1)
    moving = [axis for axis, n in enumerate(case.golden.shape) if n != 1]
    for perm in itertools.permutations(moving) if len(moving) <= 4 else ():
        order = list(range(case.golden.ndim))
        for place, axis in zip(moving, perm, strict=True):
            order[place] = axis
        if list(perm) != moving and case.is_close(flat, case.golden.transpose(order).reshape(-1)):
            return f"the NPU's values are golden's with the axes in the order {tuple(order)}"
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
                return f"the NPU's values are golden's, shifted by {step} along axis {axis}"
    return ""


def _is_sparse(case: Case) -> str:
    """All but a few elements fit."""
    worst = np.sort(case.squared_error.reshape(-1))[::-1]
    left = np.cumsum(worst[::-1])[::-1]  # error that is left without the worst 0, 1, 2, ... elements
    fits = np.flatnonzero(left <= case.allowed)
    count = int(fits[0]) if fits.size else worst.size
    if 0 < count <= max(1, worst.size // 1000):
        are = "1 element is" if count == 1 else f"{count} elements are"
        return f"only {are} wrong of {worst.size}: without, it is within its limit"
    return ""


def _is_border(case: Case) -> str:
    """Right inside, wrong at the rim of the last two axes."""
    if case.golden.ndim < 3 or min(case.golden.shape[-2:]) < 4:
        return ""
    inner = (..., slice(1, -1), slice(1, -1))
    return "wrong only at the border" if case.is_close(case.npu[inner], case.golden[inner]) else ""


def _is_in_channels(case: Case) -> str:
    """All but some channels fit; a channel is axis 1, or the last axis of matrices."""
    if case.golden.ndim < 2:
        return ""
    axis = 1 if case.golden.ndim > 2 else case.golden.ndim - 1
    others = tuple(i for i in range(case.golden.ndim) if i != axis)
    error = case.squared_error.sum(axis=others)
    by_error = np.argsort(-error, kind="stable")
    fits = np.flatnonzero(error.sum() - np.cumsum(error[by_error]) <= case.allowed)
    if not fits.size or not 0 < fits[0] + 1 <= error.size // 2:
        return ""
    wrong = np.sort(by_error[: fits[0] + 1])
    which = ", ".join(map(str, wrong[:6])) + (", ..." if wrong.size > 6 else "")
    told = f"only {wrong.size} of {error.size} channels (axis {axis}: {which}) are wrong"
    zero = not np.take(case.npu, wrong, axis).any() and np.take(case.golden, wrong, axis).any()
    return f"{told}, all 0 there" if zero else told


def _is_from_somewhere(case: Case) -> str:
    """Right up to some element and wrong from there on, in row-major order."""
    error, power = case.squared_error.reshape(-1), (case.golden**2).reshape(-1)
    fits = np.flatnonzero(np.cumsum(error) <= case.near**2 * np.cumsum(power))
    first = int(fits[-1]) + 1 if fits.size else 0
    if not 0.1 * error.size <= first <= 0.95 * error.size:
        return ""
    pieces = np.array_split(np.arange(first, error.size), min(16, error.size - first))
    if any(float(error[part].sum()) <= case.limit**2 * float(power[part].sum()) for part in pieces):
        return ""
    rest = "0" if not case.npu.reshape(-1)[first:].any() else "wrong"
    return f"right up to element {first} of {error.size}, {rest} from there on"


def _is_scaled_by_channel(case: Case) -> str:
    channels = case.golden.shape[1] if case.golden.ndim > 1 else 1
    if channels < 2 or case.golden.size < 2 * PER_NUMBER * channels:
        return ""
    y = np.moveaxis(case.golden, 1, 0).reshape(channels, -1)
    x = np.moveaxis(case.npu, 1, 0).reshape(y.shape)
    dy, dx = y - y.mean(axis=1, keepdims=True), x - x.mean(axis=1, keepdims=True)
    power = (dy**2).sum(axis=1, keepdims=True)
    slope = np.where(power > 0, (dy * dx).sum(axis=1, keepdims=True) / np.where(power > 0, power, 1), 1.0)
    if (np.abs(slope) > 0.05).all() and case.is_close(slope * dy + x.mean(axis=1, keepdims=True), x):
        return "each channel (axis 1) of the NPU's is golden's x a factor + an offset of its own"
    return ""


# What it looks like -> a test that gives the fact in words, or "". The first that fits is told.
PATTERNS: tuple[tuple[str, Callable[[Case], str]], ...] = (
    ("zero", _is_zero),
    ("constant", _is_constant),
    ("factor", _is_scaled),
    ("offset", _is_offset),
    ("axes", _is_transposed),
    ("shifted", _is_shifted),
    ("elements", _is_sparse),
    ("border", _is_border),
    ("channels", _is_in_channels),
    ("from", _is_from_somewhere),
    ("by channel", _is_scaled_by_channel),
)
