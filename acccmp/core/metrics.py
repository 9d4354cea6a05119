"""Metrics: a row for each number of a pair of tensors. Reports, pictures, thresholds and docs/metrics.md are made of
these rows.

A row is computed from `Partial`, the sums that one walk over both tensors leaves, or has a function of its own for
blocks of the tensors. Vendor formulas: specs of the Ascend dumps, 6.2; where they mislead (section 8 of the same) ours
differ, and the row says how.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from acccmp import plugins
from acccmp.core.distance import relative
from acccmp.errors import InputError

Floats = NDArray[np.float64]

KL_LEAST = 1.1920929e-07  # smallest share in the histograms of the KL divergence (vendor's limit)


def _by(join: Callable[[Sequence[Any]], Any], start: float) -> Any:
    """A field of `Partial`: how those of several parts become that of the whole, and what an empty part has."""
    return field(default=start, metadata={"join": join})


@dataclass(frozen=True, slots=True)
class Partial:
    """What is known of some elements of a pair of tensors; of all, once they are combined.

    Counts are of all elements. The rest is of the `finite` ones, positions where both sides are finite, with the
    values times `scale`: a power of two, 1 but for values whose squares float64 cannot hold. Complex numbers count with
    their magnitudes, bools have counts only. Places are flat, -1 where there is none.
    """

    scale: float = 1.0
    count: int = _by(sum, 0)
    finite: int = _by(sum, 0)
    nan_npu: int = _by(sum, 0)
    nan_golden: int = _by(sum, 0)
    inf_npu: int = _by(sum, 0)
    inf_golden: int = _by(sum, 0)
    agreeing: int = _by(sum, 0)  # NaN on both sides, or the same infinity
    overflow: int = _by(sum, 0)  # the NPU at its dtype's largest value or Inf where golden lies beyond it
    fp16_overflow: int = _by(sum, 0)
    nonfinite: int = _by(sum, 0)  # the other places where one side is not finite and the other differs
    mismatches: int = _by(sum, 0)
    squares_npu: float = _by(math.fsum, 0.0)
    squares_golden: float = _by(math.fsum, 0.0)
    products: float = _by(math.fsum, 0.0)
    errors: float = _by(math.fsum, 0.0)  # sum of |npu - golden|
    squared_errors: float = _by(math.fsum, 0.0)
    relative_errors: float = _by(math.fsum, 0.0)
    max_error: float = _by(max, -1.0)
    max_relative: float = _by(max, 0.0)
    largest_npu: float = _by(max, 0.0)  # magnitudes
    largest_golden: float = _by(max, 0.0)
    low_npu: float = _by(min, math.inf)
    high_npu: float = _by(max, -math.inf)
    low_golden: float = _by(min, math.inf)
    high_golden: float = _by(max, -math.inf)
    # What `kernel.combine` joins in its own way: means, sums of squared deviations from them, and places.
    mean_npu: float = 0.0
    spread_npu: float = 0.0
    mean_golden: float = 0.0
    spread_golden: float = 0.0
    max_place: int = -1
    first_overflow: int = -1
    first_nonfinite: int = -1


@dataclass(frozen=True)
class Metric:
    """A row: what a metric says, what it cannot see, how odd data answer, where it is shown, how it is computed.

    - `name`: begins with a capital letter. Limits of `--thresholds FILE.toml` go by it; it is the column of CSV and
      frame, the key in JSON. Metrics of one `column` share that of the CSV.
    - `better`: of two numbers; limits are set on metrics where more or less is better, between `least` and `most`.
      `best`: what a perfect pair has. `unit`: of the number, for the axis of a picture.
    - `of(partial) -> float`: computes it from the sums of the whole pair. Called where a position is finite on both
      sides, and not for bools, unless it counts `everything`. The metric is NaN elsewhere, and where `of` divides by 0.
    - `block(golden, npu, partial) -> floats`, instead of `of`, where those sums do not do: a second walk gives it the
      tensors in blocks of at most 65,536 elements (flat float64 arrays of the finite positions, `partial` is of the
      whole pair), so that memory stays small whatever their size. What it gives for all blocks is joined one by one by
      `join` (`math.fsum`, `max`, `min`: nothing that goes by their order), and `end(partial, joined) -> float` makes
      the metric of it; without `end` the first is the metric. Never called for complex numbers.
    - `held`: instead of both, the field of `Comparison` that has it: what judging or pairing found.
    - `prints`: in the CSV, with six decimals (fixed), six digits (general), as a count, or as a place in the tensor.
    - `vendor`: it is one of the vendor's CSV; `vendor_limit` is what the vendor's rule of five allows.

    Raises InputError for a name that no column can have, and for a row without, or with two ways to be computed.

    >>> acccmp.Metric("Bias", "neither", 0.0, "mean of npu - golden", "errors of both signs",
    ...               of=lambda partial: partial.mean_npu - partial.mean_golden).better
    'neither'
    """

    name: str
    better: Literal["lower", "higher", "neither"]
    best: float | None
    says: str
    blind_to: str
    odd: str = ""
    of: Callable[[Partial], float] | None = None
    block: Callable[[Floats, Floats, Partial], Sequence[float]] | None = None
    join: Callable[[Sequence[float]], float] = math.fsum
    end: Callable[[Partial, Sequence[float]], float] | None = None
    held: str = ""
    everything: bool = False
    column: str = ""
    prints: Literal["fixed", "general", "count", "place"] = "general"
    unit: str = ""
    least: float = 0.0
    most: float = 1e30
    vendor: bool = False
    vendor_limit: float | None = None

    def __post_init__(self) -> None:
        if not (self.name.isprintable() and self.name[:1].isupper()):
            raise InputError(f"a metric is named {self.name!r}: its name must begin with a capital letter")
        if self.name in OTHER_COLUMNS:
            raise InputError(f"a metric is named {self.name!r}, as a column of report.csv is; give it another name")
        if (self.of is not None) + (self.block is not None) + bool(self.held) != 1:
            raise InputError(f"the metric {self.name} must have either `of` or `block`")

    def part(self, golden: Floats, npu: Floats, partial: Partial) -> list[float]:
        """What `block` gives for one block. InputError where it fails."""
        assert self.block is not None
        try:
            return [float(number) for number in self.block(golden, npu, partial)]
        except Exception as error:  # code of others: anything can be wrong with it
            raise self._broken(error) from error

    def value(self, partial: Partial, parts: Sequence[Sequence[float]] = ()) -> float:
        """The metric of a whole pair, from its sums or from what `part` gave for each of its blocks; NaN where the
        arithmetic has no answer. InputError where it fails otherwise."""
        try:
            if self.of is not None:
                return float(self.of(partial))
            if len({len(part) for part in parts}) > 1:
                raise TypeError("its blocks gave different numbers of sums")
            joined = [float(self.join(column)) for column in zip(*parts, strict=True)]
            return float(self.end(partial, joined) if self.end is not None else joined[0])
        except (ArithmeticError, ValueError):  # of floats: the root or the logarithm of what has none
            return math.nan
        except Exception as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> InputError:
        what = f"{type(error).__name__}: {error}"
        return InputError(f"the metric {self.name} cannot be computed: {what}; mend it or take it away")

    def error(self, value: float) -> float:
        """How far a number is from the best: less is better. Where the best is infinite, decibels are taken as the
        relative distance that they stand for."""
        if self.better != "higher":
            return value
        return self.best - value if self.best is not None and self.best < math.inf else 10 ** min(-value / 20, 300.0)


# The columns of report.csv that are no metrics: before the vendor's metrics, and behind them. Two are called DataType,
# as in the vendor's file: the NPU's and golden's.
PORT_COLUMNS = (
    "Index", "OpType", "NPUDump", "DataType", "Address", "GroundTruth", "DataType", "TensorIndex", "Shape",
)
VERDICT_COLUMNS = ("CompareFailReason", "Verdict", "Reason")
OTHER_COLUMNS = frozenset({*PORT_COLUMNS, *VERDICT_COLUMNS})


# -- the arithmetic of the rows ----------------------------------------------------------------------------------


def _cosine(p: Partial) -> float:
    if p.squares_npu == 0 or p.squares_golden == 0:
        return 1.0 if p.squares_npu == p.squares_golden else math.nan
    return max(-1.0, min(1.0, p.products / (math.sqrt(p.squares_npu) * math.sqrt(p.squares_golden))))


def _beside_zero(p: Partial, ratio: float) -> float:
    """A relative error; golden all zero: any error is infinitely large beside it."""
    return math.inf if p.largest_golden == 0 and p.squared_errors > 0 else ratio


def _decibels(p: Partial) -> float:
    if p.squared_errors == 0:
        return math.inf
    if p.squares_golden == 0:
        return -math.inf
    return 20 * (math.log10(math.sqrt(p.squares_golden)) - math.log10(math.sqrt(p.squared_errors)))


def _shares(golden: Floats, npu: Floats, p: Partial) -> Sequence[float]:
    """Sums of the min-max normalised values of both, and of p ln(q/p): p from the NPU, q from golden. A tensor of one
    value is not normalised."""
    if p.scale != 1.0:
        golden, npu = golden * p.scale, npu * p.scale
    x, y = _normalised(npu, p.low_npu, p.high_npu), _normalised(golden, p.low_golden, p.high_golden)
    return float(x.sum()), float(y.sum()), float((x * np.log(x / y)).sum())


def _normalised(values: Floats, low: float, high: float) -> Floats:
    return np.maximum((values - low) / (high - low) if high > low else values, KL_LEAST)


def _divergence(p: Partial, sums: Sequence[float]) -> float:
    if (p.largest_npu == 0) != (p.largest_golden == 0):
        return math.nan
    npu, golden, logs = sums
    return max(0.0, logs / npu + math.log(golden / npu))


_RELATIVE = "places with |golden| <= 2.2e-16 count 0; Inf if golden is all zero"
_COUNT = "0 without any"

METRICS = (
    # The vendor's, in the order of its CSV (6.3 of the same specs).
    Metric("CosineSimilarity", "higher", 1.0, "angle between the two tensors; 1 is the same direction",
           "scale (x and 2x give 1), and small errors: they only move its last digits",
           "NaN if one side is all zero, 1 if both are", _cosine, prints="fixed", most=1.0, vendor=True,
           vendor_limit=0.99),
    Metric("MaxAbsoluteError", "lower", 0.0, "largest |npu - golden|",
           "how many elements are off, and how large the values are", "", lambda p: p.max_error / p.scale,
           prints="fixed", unit="unit of the tensor", vendor=True),
    Metric("AccumulatedRelativeError", "lower", 0.0, "sum of |npu - golden| / |golden|",
           "the size of the tensor; values near zero decide it", _RELATIVE,
           lambda p: _beside_zero(p, p.relative_errors), prints="fixed", vendor=True),
    Metric("RelativeEuclideanDistance", "lower", 0.0, "||npu - golden|| / ||golden||; judged by default",
           "errors of small elements beside large ones", "Inf if only golden is all zero, 0 if both are",
           lambda p: relative(p.squared_errors, p.squares_golden), prints="fixed", most=1.0, vendor=True,
           vendor_limit=0.05),
    Metric("KullbackLeiblerDivergence", "lower", 0.0, "divergence of the two tensors scaled to 0..1",
           "scale and offset: x, 2x and x + 1 all give 0",
           "NaN if one side is all zero, 0 if both are; NaN for complex",
           block=_shares, end=_divergence, prints="fixed", unit="nat", vendor=True, vendor_limit=0.005),
    *(Metric(name, "neither", None, f"{what} of the {side}", "order: a transposed tensor has the same",
             "of complex numbers: of their magnitudes", of, column="StandardDeviation", vendor=True)
      for name, what, side, of in (
          ("MeanNpu", "mean", "npu", lambda p: p.mean_npu / p.scale),
          ("StdNpu", "standard deviation", "npu", lambda p: math.sqrt(p.spread_npu / p.finite) / p.scale),
          ("MeanGolden", "mean", "golden", lambda p: p.mean_golden / p.scale),
          ("StdGolden", "standard deviation", "golden", lambda p: math.sqrt(p.spread_golden / p.finite) / p.scale),
      )),
    Metric("MeanAbsoluteError", "lower", 0.0, "mean of |npu - golden|",
           "rare large errors, and how large the values are", "", lambda p: p.errors / p.finite / p.scale,
           prints="fixed", unit="unit of the tensor", vendor=True),
    Metric("RootMeanSquareError", "lower", 0.0, "root of the mean squared difference", "how large the values are", "",
           lambda p: math.sqrt(p.squared_errors / p.finite) / p.scale, prints="fixed", unit="unit of the tensor",
           vendor=True, vendor_limit=1.0),
    Metric("MaxRelativeError", "lower", 0.0, "largest |npu - golden| / |golden|",
           "everything else as soon as one golden value is near zero", _RELATIVE,
           lambda p: _beside_zero(p, p.max_relative), prints="fixed", vendor=True),
    Metric("MeanRelativeError", "lower", 0.0, "mean of |npu - golden| / |golden|",
           "golden zeros; values near zero decide it", _RELATIVE,
           lambda p: _beside_zero(p, p.relative_errors) / p.finite, prints="fixed", vendor=True, vendor_limit=1.0),
    # Ours.
    Metric("NanNpu", "lower", 0.0, "NaNs of the NPU's tensor", "whether golden has them too", _COUNT,
           lambda p: p.nan_npu, everything=True, prints="count"),
    Metric("NanGolden", "neither", 0.0, "NaNs of the golden tensor", "whether the NPU has them too", _COUNT,
           lambda p: p.nan_golden, everything=True, prints="count"),
    Metric("InfNpu", "lower", 0.0, "infinities of the NPU's tensor", "whether golden has them too", _COUNT,
           lambda p: p.inf_npu, everything=True, prints="count"),
    Metric("InfGolden", "neither", 0.0, "infinities of the golden tensor", "whether the NPU has them too", _COUNT,
           lambda p: p.inf_golden, everything=True, prints="count"),
    Metric("Fp16Overflow", "lower", 0.0, "float16 places at Inf, or at 65504 where golden is beyond it",
           "every other dtype", "0 for every other dtype", lambda p: p.fp16_overflow, everything=True, prints="count"),
    Metric("MaxErrorIndex", "neither", None, "where |npu - golden| is largest, in golden's layout", "all other places",
           "the first of several; for bools the first unequal element", held="max_error_index", prints="place"),
    Metric("SNR(dB)", "higher", math.inf, "10 log10 of signal power over error power",
           "the same as RelativeEuclideanDistance", "Inf without any error, -Inf if only golden is all zero",
           _decibels, prints="fixed", unit="dB", most=1000.0),
    Metric("MismatchRatio", "lower", 0.0,
           "share of elements outside rtol 1e-2, atol 1e-3; of unequal ones for integers and bools", "by how much",
           "NaN or Inf at one place on both sides is no mismatch; NaN if empty", lambda p: p.mismatches / p.count,
           everything=True, prints="fixed", most=1.0),
    Metric("Floor", "neither", None, "the distance that storage in the NPU's dtype alone explains on this input",
           "what caused more", "NaN without a model that can be run here", held="floor"),
    Metric("ErrorOverFloor", "neither", None, "error / floor; a few is rounding", "errors as small as rounding",
           "NaN without a floor", held="error_over_floor"),
)

_ROWS = plugins.Rows("metrics", Metric, METRICS)


def all_metrics() -> Mapping[str, Metric]:
    """Every row by name: ours, those of other packages (entry points of the group `acccmp.metrics`), those added."""
    return _ROWS.all


def computed() -> dict[str, Metric]:
    """The rows that numbers of tensors give, by name."""
    return {name: row for name, row in all_metrics().items() if not row.held}


def add_metric(row: Metric) -> None:
    """A metric of your own, for this process: computed by every comparison from now on, in every report.

    >>> acccmp.add_metric(acccmp.Metric(
    ...     "Bias", "neither", 0.0, "mean of npu - golden", "errors of both signs",
    ...     of=lambda partial: (partial.mean_npu - partial.mean_golden) / partial.scale,
    ... ))
    >>> row = acccmp.compare("golden", "npu", mapping="mapping.json")["fc"]
    >>> row.metrics["Bias"] == row.metrics["MeanNpu"] - row.metrics["MeanGolden"]
    True

    One that was added before under the same name gives way; worker processes that are spawned do not know it. Raises
    InputError for a name of ours.
    """
    _ROWS.add(row)
