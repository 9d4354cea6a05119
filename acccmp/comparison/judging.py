"""From what was measured to a verdict. Limits fail closed: what cannot be judged does not match.

The limits of `Thresholds.default` and where they come from: design, section 5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from acccmp.comparison.measure import Measured
from acccmp.core.metrics import METRICS, Partial, all_metrics, computed
from acccmp.core.reading import parse_toml, read_text
from acccmp.core.tensor import DTYPES, DType
from acccmp.errors import FormatError, InputError
from acccmp.reports.pair import Verdict

# Limits on the relative Euclidean distance by stored dtype, for tensors without a floor. Measured on six detectors
# and classifiers with float16 storage after every op: 95 % of healthy tensors are below 1.5e-2, the worst at 4e-2.
FIXED: Mapping[str, float] = {
    "float64": 1e-3, "float32": 1e-3, "complex64": 1e-3, "complex128": 1e-3,
    "float16": 5e-2, "complex32": 5e-2, "bfloat16": 2e-1,
    "hifloat8": 2e-1, "float8_e5m2": 2e-1, "float8_e4m3fn": 2e-1, "float8_e8m0": 5e-1,
    "int8": 2e-1,  # of what comes from numbers that were quantised
    "float6_e3m2": 3e-1, "float6_e2m3": 3e-1, "float4_e2m1": 5e-1, "float4_e1m2": 5e-1,
}
FLOOR_FACTOR = 4.0
MOST_BYTES = 1 << 24  # of a file of thresholds
LARGEST_FACTOR = 1000.0


@dataclass(frozen=True)
class Rule:
    """Limits on metrics for the ports that it fits: `op_type`, `name` and `dtype` are glob patterns, None fits all.

    Raises InputError for limits that nothing could be beyond.
    """

    limits: Mapping[str, float]
    op_type: str | None = None
    name: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        for metric, value in self.limits.items():
            _limit(metric, value, metric)

    def fits(self, names: tuple[str, ...], op_type: str, dtype: str) -> bool:
        return (
            (self.op_type is None or fnmatchcase(op_type, self.op_type))
            and (self.name is None or any(fnmatchcase(name, self.name) for name in names))
            and (self.dtype is None or fnmatchcase(dtype, self.dtype))
        )


@dataclass(frozen=True)
class Thresholds:
    """What counts as drift.

    `limits` None means: on the relative Euclidean distance, max(`floor_factor` x floor, the dtype's epsilon) where a
    floor is known, else by stored dtype: `fixed`, or `FIXED` where that says nothing. With `limits` these metrics are
    judged instead. `rules` come before both: all that fit a port are merged, later ones win, and then only their
    metrics are judged. Raises InputError for limits that nothing could be beyond.

    >>> acccmp.Thresholds.vendor().limits["CosineSimilarity"]
    0.99
    """

    name: str
    limits: Mapping[str, float] | None = None
    rules: tuple[Rule, ...] = ()
    fixed: Mapping[str, float] = field(default_factory=dict)
    floor_factor: float = FLOOR_FACTOR

    def __post_init__(self) -> None:
        for metric, value in (self.limits or {}).items():
            _limit(metric, value, f"thresholds {self.name}, {metric}")
        _known(self.fixed, set(DTYPES), f"thresholds {self.name}, [fixed]")
        for dtype, value in self.fixed.items():
            _limit("RelativeEuclideanDistance", value, f"thresholds {self.name}, [fixed] {dtype}")
        if not 0 < _number(self.floor_factor, f"thresholds {self.name}, floor_factor") <= LARGEST_FACTOR:
            raise InputError(f"thresholds {self.name}, floor_factor: must be above 0, at most {LARGEST_FACTOR:g}, "
                             f"found {self.floor_factor!r}")

    @classmethod
    def default(cls) -> Thresholds:
        """4 x the floor where there is one, else a limit fixed by stored dtype; integers and bools must be equal."""
        return cls("default")

    @classmethod
    def vendor(cls) -> Thresholds:
        """The vendor's rule of five: cosine >= 0.99, RED <= 0.05, KLD <= 0.005, RMSE <= 1, MeanRE <= 1.

        A metric that is NaN fails, where the vendor's tool passes it.
        """
        return cls("vendor", _vendor_limits())

    @classmethod
    def named(cls, name: str | Path) -> Thresholds:
        """The rules called "default" or "vendor", or those of a TOML file. Raises InputError."""
        rules = {"default": cls.default, "vendor": cls.vendor}
        if str(name) in rules:
            return rules[str(name)]()
        if not Path(name).exists():
            raise InputError(f"thresholds {name}: no such file, nor rules of this name; there are {', '.join(rules)}")
        return cls.from_toml(name)

    @classmethod
    def from_toml(cls, path: str | Path) -> Thresholds:
        """Limits from a file:

            base = "default"                # or "vendor": what holds where no rule fits; "default" if left out
            floor_factor = 4.0              # limit = floor_factor x floor

            [fixed]                         # limit on the relative Euclidean distance where no floor is known
            float16 = 0.05

            [[rule]]                        # any number of them; patterns with * and ?, all given ones must fit
            op_type = "Softmax*"
            name = "head/*"                 # the NPU's op, the original's node or the port (`conv1:output:0`)
            dtype = "float16"               # as the NPU stored it
            RelativeEuclideanDistance = 0.02
            CosineSimilarity = 0.995        # a metric of which more is better must be at least this

        Raises InputError for a file that cannot be read and for every key, metric or value that is not known.
        """
        where = Path(path)
        try:
            table = parse_toml(read_text(where, MOST_BYTES), where)
        except FormatError as error:
            raise InputError(f"thresholds {error}") from error
        _known(table, {"base", "floor_factor", "fixed", "rule"}, f"thresholds {where}")
        base = table.get("base", "default")
        if base not in ("default", "vendor"):
            raise InputError(f'thresholds {where}: base is {base!r}; there are "default" and "vendor"')
        fixed = table.get("fixed", {})
        rules = table.get("rule", [])
        if not isinstance(fixed, dict) or not isinstance(rules, list):
            raise InputError(f"thresholds {where}: write limits by dtype as a table [fixed], rules as [[rule]]")
        factor = _number(table.get("floor_factor", FLOOR_FACTOR), f"thresholds {where}, floor_factor")
        return cls(
            str(where), _vendor_limits() if base == "vendor" else None,
            tuple(_rule(rule, f"thresholds {where}, rule {place}") for place, rule in enumerate(rules, 1)),
            fixed, factor,
        )

    def fixed_for(self, dtype: DType) -> float:
        """The limit of a stored dtype: as set here, else the usual one."""
        return self.fixed.get(dtype.name, FIXED.get(dtype.name, math.nan))

    def limits_for(self, names: tuple[str, ...], op_type: str, dtype: str) -> Mapping[str, float] | None:
        """The metrics to judge a port by, or None: by floor or fixed limit."""
        found: dict[str, float] = {}
        for rule in self.rules:
            if rule.fits(names, op_type, dtype):
                found.update(rule.limits)
        return found or self.limits


def _vendor_limits() -> Mapping[str, float]:
    return {row.name: row.vendor_limit for row in METRICS if row.vendor_limit is not None}


def _rule(table: Any, where: str) -> Rule:
    if not isinstance(table, dict):
        raise InputError(f"{where}: not a table")
    _known(table, {"op_type", "name", "dtype", *computed()}, where)
    patterns = {key: table[key] for key in ("op_type", "name", "dtype") if key in table}
    for key, value in patterns.items():
        if not isinstance(value, str):
            raise InputError(f"{where}: {key} must be a text, found {value!r}")
    limits = {
        name: _limit(name, value, f"{where}, {name}") for name, value in table.items() if name not in patterns
    }
    if not limits:
        raise InputError(f"{where}: sets no metric; there are: {', '.join(computed())}")
    return Rule(limits, **patterns)


def _known(table: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        raise InputError(f"{where}: unknown {', '.join(unknown)}; there are: {', '.join(sorted(known))}")


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise InputError(f"{where}: must be a number, found {value!r}")
    return float(value)


def _limit(metric: str, value: Any, where: str) -> float:
    """The limit, when some tensor could be beyond it: finite, and within the metric's range."""
    found, row = _number(value, where), computed().get(metric)
    if row is None or row.better == "neither":
        raise InputError(f"{where}: tells nothing of a difference; judge another metric")
    if row.better == "higher":
        fits, wanted = row.least < found <= row.most, f"above {row.least:g}, at most {row.most:g}"
    else:
        fits, wanted = row.least <= found < row.most, f"from {row.least:g} to below {row.most:g}"
    if not fits:
        raise InputError(f"{where}: must be {wanted}, found {value!r}")
    return found


# -- the verdict -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judgement:
    """A verdict, why, and the number that was decisive."""

    verdict: Verdict
    reason: str = ""
    error: float = math.nan
    limit: float = math.nan
    judged_by: str = "RelativeEuclideanDistance"
    notes: tuple[str, ...] = ()


def judge_dtypes(golden: DType, npu: DType) -> Judgement | None:
    """`dtype` or `not_comparable` for types that cannot be judged against each other; None when they can.

    Widths may differ, kinds (float, int, bool, complex) may not, but for what a device stores otherwise: bool as
    8-bit integers, golden's integers as floats. A quantised integer, or any integer of at most 16 bits on the NPU,
    against float has no meaning without its scale.
    """
    if "opaque" in (golden.kind, npu.kind):
        name = golden.name if golden.kind == "opaque" else npu.name
        if golden.name == npu.name or name in ("resource", "variant", "string", "string_ref"):
            return Judgement(Verdict.NOT_COMPARABLE, f"{name} is not made of numbers")
        return Judgement(Verdict.DTYPE, f"golden is {golden.name}, npu is {npu.name}: no defined meaning as numbers")
    if golden.kind == npu.kind or is_converted(golden, npu):
        return None
    side, integer, other = ("npu", npu, golden) if npu.kind == "int" else ("golden", golden, npu)
    if {integer.kind, other.kind} == {"int", "float"} and (integer.quantised or (side == "npu" and npu.bits <= 16)):
        return Judgement(
            Verdict.NOT_COMPARABLE,
            f"{side} is {integer.name}, the other side {other.name}: no meaning without its scale and offset",
        )
    return Judgement(Verdict.DTYPE, f"golden is {golden.name}, npu is {npu.name}: not the same kind of number")


def is_converted(golden: DType, npu: DType) -> bool:
    """Does a device store golden's numbers as another kind, one that holds the same values?"""
    if {golden.kind, npu.kind} == {"bool", "int"}:
        return {golden.bits, npu.bits} == {8}
    return golden.kind == "int" and npu.kind == "float" and not golden.quantised


def judge(
    found: Measured,
    golden: DType,
    npu: DType,
    thresholds: Thresholds,
    *,
    names: tuple[str, ...] = (),
    op_type: str = "",
    floor: float = math.nan,
    coarsest: DType | None = None,
) -> Judgement:
    """The verdict on a pair that was measured: overflow, nonfinite, drift or match, in this order.

    `floor` is the distance that storage alone explains (NaN: unknown). `coarsest` is the dtype that fixed limits go
    by when it is not the NPU's stored one: a compiler-made Cast to float32 brings back no precision.
    """
    sums, distance = found.sums, found.metrics["RelativeEuclideanDistance"]
    if not sums.count:
        return Judgement(Verdict.MATCH, "both are empty", 0.0, 0.0, notes=("both tensors are empty",))
    if sums.overflow:
        return Judgement(
            Verdict.OVERFLOW,
            f"at {sums.overflow} of {sums.count} places golden lies beyond {npu.name}'s largest value "
            f"{npu.largest:g} and the NPU sits at it or at Inf; first at {_at(found.first_overflow)}", distance,
        )
    if sums.nonfinite:
        return Judgement(
            Verdict.NONFINITE,
            f"{_nonfinite(sums)}; {sums.nonfinite} places differ, first at {_at(found.first_nonfinite)}", distance,
        )
    if not sums.finite:
        return Judgement(Verdict.NONFINITE, f"no position is finite on both sides; {_nonfinite(sums)}")
    limits = thresholds.limits_for(names, op_type, npu.name)
    own_rule = limits is not None and limits is not thresholds.limits
    if (npu.kind == "bool" and not own_rule) or (golden.kind in ("int", "bool") and limits is None):
        judged = _by_mismatches(found, npu)
    elif limits is not None:
        judged = _by_limits(found, limits)
    else:
        judged = _by_distance(found, npu, thresholds, floor, coarsest or npu)
    notes = (
        f"{sums.agreeing} NaN or Inf at the same places on both sides; the rest was compared" if sums.agreeing else "",
        f"golden's {golden.name} is {npu.name} on the NPU: compared by value" if is_converted(golden, npu) else "",
    )
    return replace(judged, notes=(*filter(None, notes), *judged.notes))


def _by_mismatches(found: Measured, npu: DType) -> Judgement:
    ratio, sums = found.metrics["MismatchRatio"], found.sums
    reason = (f"{sums.mismatches} of {sums.count} {npu.name} elements differ, most at {_at(found.max_error_index)}"
              if ratio else "")
    return Judgement(Verdict.DRIFT if ratio else Verdict.MATCH, reason, ratio, 0.0, "MismatchRatio")


def _by_distance(
    found: Measured, npu: DType, thresholds: Thresholds, floor: float, coarsest: DType,
) -> Judgement:
    by, words, beside = "RelativeEuclideanDistance", "relative Euclidean distance", ""
    notes: tuple[str, ...] = ()
    largest = found.sums.largest_golden / found.sums.scale
    if largest < npu.smallest_normal:
        by, words, limit = "MaxAbsoluteError", "absolute error", npu.smallest_normal
        what = "all zero" if largest == 0 else f"nowhere above {npu.name}'s smallest normal number"
        notes = (f"golden is {what}: judged by the absolute error",)
    elif not math.isnan(floor):
        limit = max(thresholds.floor_factor * floor, npu.epsilon)
        beside = f" ({thresholds.floor_factor:g} x the floor {floor:.3g})" if floor > 0 else ""
    else:
        limit = max(thresholds.fixed_for(npu), thresholds.fixed_for(coarsest))
    error = found.metrics[by]
    if error <= limit:
        return Judgement(Verdict.MATCH, "", error, limit, by, notes)
    told = f"{words} {error:.3g} is over the limit {limit:.3g}{beside}; largest error at {_at(found.max_error_index)}"
    return Judgement(Verdict.DRIFT, told, error, limit, by, notes)


def _by_limits(found: Measured, limits: Mapping[str, float]) -> Judgement:
    """Each metric against its limit; the one furthest beyond is told. NaN fails."""
    judged = []
    for name, limit in limits.items():
        row, value = all_metrics()[name], found.metrics.get(name, math.nan)
        error, allowed = row.error(value), row.error(limit)
        ratio = math.inf if math.isnan(error) else error / allowed if allowed > 0 else (math.inf if error > 0 else 0.0)
        broken = "" if error <= allowed else f"{name} {value:.4g} (limit {limit:g})"
        judged.append((bool(broken), ratio, broken, error, allowed, name))
    is_broken, _, _, error, allowed, name = max(judged, key=lambda one: one[:2])
    reason = "; ".join(broken for _, _, broken, *_ in judged if broken)
    return Judgement(Verdict.DRIFT if is_broken else Verdict.MATCH, reason, error, allowed, name)


def _nonfinite(sums: Partial) -> str:
    counts = (
        (sums.nan_npu, "NaN on the NPU"), (sums.inf_npu, "Inf on the NPU"), (sums.nan_golden, "NaN in golden"),
        (sums.inf_golden, "Inf in golden"),
    )
    return ", ".join(f"{count} {what}" for count, what in counts if count)


def _at(index: tuple[int, ...] | None) -> str:
    return "?" if index is None else f"[{','.join(map(str, index))}]"
