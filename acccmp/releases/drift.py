"""The baseline: what each layer's error was at the last good release, in one small text file; and what drifted since.

The file is JSON lines: a header, then one line per port and case, sorted, so that one changed layer is one changed
line. Besides the metrics it keeps a hash and a sketch of the NPU's tensor: 32 sums of its elements with fixed random
signs (Alon, Matias, Szegedy 1996), from which the distance between two releases' tensors can be estimated without
keeping either (relative standard error of the estimate about 1/sqrt(2*32) = 12 %).

How drift is told from noise (`check`):

* Always: an error drifted when it is larger than the largest error of that port over all cases of the baseline, times
  a factor (`Tolerance`), and beyond the spread of these cases. Errors are measured in precision floors where both sides
  have one.
* With at least 14 common cases besides: errors are paired by case, and a port drifts when its median ratio is over a
  smaller factor and a one-sided Wilcoxon signed-rank test (Wilcoxon 1945) on the logarithms rejects "not worse" at 5 %
  after Holm's correction (Holm 1979) over the tensors. Ports with the same numbers are one tensor, seen twice.

`benchmarks/false_alarms.py` measures how often this cries wolf, and how often it sleeps.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acccmp.core.reading import FilePath
from acccmp.errors import InputError, UnknownName
from acccmp.releases.baseline import _RANK, Baseline, Entry, entries_of, lines_changed, write
from acccmp.releases.sketch import SKETCH_ROWS, _short
from acccmp.reports import ci
from acccmp.reports.pair import Verdict
from acccmp.reports.report import Comparison, Report

PAIRED_CASES = 14  # 2**-14 times 800 tensors is below 5 %: fewer cases cannot be significant after Holm's correction
ALPHA = 0.05
FAILING = ("drift", "worse verdict", "gone")  # kinds of change that fail a check


@dataclass(frozen=True)
class Tolerance:
    """How much worse than the baseline is drift.

    `over_floor` is the factor on the largest error of the baseline's cases where both are measured in precision floors,
    `error` where there are none. Both are for large tensors: for one of n elements they are multiplied by
    exp(`few` / sqrt(n)), because a norm over few elements scatters (two norms over n independent errors differ by about
    1 / sqrt(n) on a log scale; so x1.3 is x1.38 at 1000 elements, x2.4 at 10). From 3 cases on, an error must also lie
    `spread` standard deviations above their mean, on a log scale. `paired` is for the median ratio when there are
    enough cases to test. `nothing` is an error so small that it never counts (relative Euclidean distance).

    Chosen on the ONNX sample (docs/pipelines.md has the figures): the smallest ones without a false alarm there.
    """

    over_floor: float = 1.3
    error: float = 2.0
    few: float = 2.0
    spread: float = 3.0
    paired: float = 1.1
    nothing: float = 1e-6

    def factor(self, floored: bool, count: int) -> float:
        """The factor for a tensor of `count` elements."""
        return (self.over_floor if floored else self.error) * math.exp(self.few / math.sqrt(max(1, count)))


@dataclass(frozen=True)
class Change:
    """What became of one port (in one case, or over all of them when `case` is "") since the baseline.

    `kind` is drift, worse verdict or gone (these fail), improved, better verdict, new, or accepted (it would fail, but
    was accepted just now). `ratio` is now / before; `moved` the estimated relative distance of the NPU's tensor from
    the baseline's.
    """

    port: str
    case: str
    kind: str
    before: float | None
    now: float | None
    ratio: float | None
    moved: float | None
    reason: str


@dataclass(frozen=True)
class Spread:
    """How far the errors of one port lie apart over the cases: in floors where every case has one, else as they are."""

    port: str
    least: float
    median: float
    largest: float
    in_floors: bool

    @property
    def ratio(self) -> float:
        """largest / least; infinite where only the least is 0, 1 where both are."""
        return 1.0 if self.largest == self.least else self.largest / self.least if self.least else math.inf


@dataclass(frozen=True)
class Check:
    """Reports judged against a baseline: `drifts` fail, `bad` are ports beyond their limits that nobody accepted (or
    that got worse since), `accepted` those beyond their limits that somebody did, `accepted_now` what this check was to
    accept.

    >>> checked = acccmp.check(acccmp.compare("resnet.onnx", "npu", mapping="mapping.json"))
    >>> checked
    Check(passed: 0 drifted or worse, 55 unchanged, 0 improved)
    >>> checked.to_markdown().splitlines()[0]
    '...'
    """

    reports: Mapping[str, Report] = field(repr=False)
    baseline: Baseline | None = field(repr=False)
    changes: tuple[Change, ...] = ()
    bad: tuple[tuple[str, Comparison], ...] = field(default=(), repr=False)
    accepted: tuple[str, ...] = ()
    unchanged: int = 0
    method: str = ""
    accepted_now: tuple[str, ...] = ()
    model: str = ""

    def __repr__(self) -> str:
        counts = f"{len(self.drifts)} drifted or worse, {self.unchanged} unchanged, {len(self.improvements)} improved"
        return f"Check({'passed' if self.passed else 'not passed'}: {counts})"

    def save_baseline(self, path: FilePath, *, accepted_only: bool = False) -> str:
        """Write this result (or only the ports that were accepted now) as the new baseline, whole or not at all; what
        changed in the file, in words. Cases that were not run this time are kept."""
        new = with_accepted(self) if accepted_only else updated(self, self.model)
        write(new, path)
        changed, added, removed = lines_changed(self.baseline, new)
        how = "written" if self.baseline is None else "rewritten"
        return f"{path} was {how}: {changed} lines changed, {added} new, {removed} gone"

    def to_junit(self) -> str:
        """JUnit XML of all cases, for a pipeline."""
        return ci.junit(self.reports, self._changes)

    def to_sarif(self) -> str:
        """SARIF 2.1.0 of all cases, for code scanning."""
        return ci.sarif(self.reports, self._changes)

    def to_markdown(self) -> str:
        """A summary for a pull request's comment."""
        return ci.markdown(self.reports, self._changes)

    @property
    def _changes(self) -> ci.Changes:
        return ci.Changes(self.drifts, self.improvements, self.unchanged, self.accepted)

    @property
    def drifts(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.kind in FAILING)

    @property
    def improvements(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.kind in ("improved", "better verdict"))

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def failures(self) -> tuple[str, ...]:
        """Why it does not pass, a line each."""
        told = {(change.port, change.case) for change in self.drifts}
        lines = [f"{change.port}{_in(change.case)}: {change.reason}" for change in self.drifts]
        lines += [
            f"{row.port}{_in(case)} is {row.verdict}: {row.told}"
            for case, row in self.bad if (str(row.port), case) not in told
        ]
        return (*lines, *self._beside())

    def _beside(self) -> list[str]:
        """Failures that belong to no port."""
        lines = []
        for case, report in self.reports.items():
            if not report.judged:
                lines.append(f"nothing was compared{_in(case)}")
            elif not report.outputs:
                lines.append(f"no model output was compared{_in(case)}")
            lines += [f"{why}{_in(case)}" for why in report.extra_failures]
        return lines

    @property
    def only_drifts(self) -> bool:
        """Nothing fails but drift of layers within their limits: what an update of the baseline settles."""
        return bool(self.drifts) and not self.bad and not self._beside()

    @property
    def exit_code(self) -> int:
        """0 passed, 1 not passed, 3 nothing compared or too little covered."""
        reports = self.reports.values()
        if all(not report.judged for report in reports):
            return 3
        if self.failures:
            return 1
        return 3 if any(report.coverage < report.min_coverage for report in reports) else 0


def _in(case: str) -> str:
    return f" in case {case}" if case and case != "default" else ""


# -- making ------------------------------------------------------------------------------------------------------


def moved(before: Entry, now: Entry) -> float | None:
    """Estimated ||now - before|| / ||before|| of the NPU's tensors; 0 when their bytes are equal, None when unknown."""
    if before.hash and before.hash == now.hash:
        return 0.0
    if not before.sketch or not now.sketch or not before.norm or now.norm is None or before.count != now.count:
        return None
    a, b = _sums(before) * before.norm, _sums(now) * now.norm
    return float(np.linalg.norm(a - b) / math.sqrt(SKETCH_ROWS) / before.norm)


def _sums(entry: Entry) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.frombuffer(base64.b64decode(entry.sketch), "<f2").astype(np.float64)


def spread(reports: Mapping[str, Report]) -> tuple[Spread, ...]:
    """The spread of each port's error over the cases (of ports judged in two cases or more), widest first."""
    by_port: dict[str, list[Entry]] = {}
    for case, report in reports.items():
        for row in report.judged:
            entry = Entry(str(row.port), case, str(row.verdict), _short(row.error), _short(row.floor))
            if entry.error is not None:
                by_port.setdefault(entry.port, []).append(entry)
    found = []
    for port, entries in by_port.items():
        in_floors = all(entry.over_floor is not None for entry in entries)
        values = [(entry.over_floor if in_floors else entry.error) or 0.0 for entry in entries]
        if len(values) > 1:
            found.append(Spread(port, min(values), float(np.median(values)), max(values), in_floors))
    return tuple(sorted(found, key=lambda s: (-s.ratio, s.port)))


# -- judging -----------------------------------------------------------------------------------------------------


def check(
    reports: Mapping[str, Report],
    baseline: Baseline | None,
    *,
    model: str = "",
    accept: Sequence[str] = (),
    tolerance: Tolerance | None = None,
) -> Check:
    """Judge reports (by case) against a baseline; without one only against their limits.

    `accept` names ports (or ops and originals that stand for one) that may be beyond their limits from now on, as long
    as they do not get worse. Raises InputError when the baseline is of another model or an accepted port is not there.
    """
    tolerance = tolerance or Tolerance()
    accept = tuple(_port_named(reports, name) for name in accept)
    if baseline is not None:
        _check_model(baseline, model, reports)
    before = baseline.entries if baseline is not None else {}
    excused = {*accept, *(entry.port for entry in before.values() if entry.accepted)}
    now = entries_of(reports, excused)
    changes, method = changes_since(before, now, tolerance) if baseline is not None else ((), "limits only")
    changes = _told(changes, reports, accept)
    excused -= {change.port for change in changes if change.kind in FAILING}
    beyond = [(case, row) for case, report in reports.items() for row in report.comparisons if row.is_bad]
    bad = tuple((case, row) for case, row in beyond if str(row.port) not in excused)
    accepted = sorted({str(row.port) for _, row in beyond if str(row.port) in excused})
    touched = {(change.port, change.case) for change in changes}
    unchanged = sum(1 for port, case in now if (port, case) not in touched and (port, "") not in touched)
    return Check(dict(reports), baseline, changes, bad, tuple(accepted), unchanged, method, accept, model)


def _port_named(reports: Mapping[str, Report], name: str) -> str:
    """The one port that a name stands for in any of the reports."""
    ports: dict[str, None] = {}
    unknown = ""
    for report in reports.values():
        try:
            ports |= {str(row.port): None for row in report.find(name)}
        except UnknownName as error:
            unknown = str(error)
    if not ports:
        raise InputError(f"--accept: {unknown}")
    if len(ports) > 1:
        raise InputError(f"--accept {name}: stands for {len(ports)} ports; say which: {', '.join(ports)}")
    return next(iter(ports))


def updated(checked: Check, model: str) -> Baseline:
    """The baseline of what was just compared; cases that were not run this time are kept."""
    kept = {}
    if checked.baseline is not None:
        kept = {key: entry for key, entry in checked.baseline.entries.items() if key[1] not in checked.reports}
    return Baseline(model, {**kept, **entries_of(checked.reports, checked.accepted)})


def with_accepted(checked: Check) -> Baseline:
    """The baseline that was checked against, where only the ports that were accepted now are stored anew, as such."""
    chosen = set(checked.accepted_now)
    known = dict(checked.baseline.entries) if checked.baseline is not None else {}
    now = entries_of(checked.reports, chosen)
    anew = {key: entry for key, entry in now.items() if key[0] in chosen}
    return Baseline(checked.baseline.model if checked.baseline is not None else "", {**known, **anew})


def _check_model(baseline: Baseline, model: str, reports: Mapping[str, Report]) -> None:
    """Raises InputError when the ports (or the sizes of their tensors) are mostly not those of the baseline."""
    known = {port: entry.count for (port, _), entry in baseline.entries.items()}
    rows = {str(row.port): row for report in reports.values() for row in report.comparisons}
    common = known.keys() & rows.keys()
    advice = "give this model's baseline, or make one with --update in another file"
    if known and len(common) * 2 < min(len(known), max(1, len(rows))):
        raise InputError(
            f"the baseline is of the model {baseline.model!r}, this comparison of {model!r}: only {len(common)} of its "
            f"{len(known)} ports exist here; {advice}"
        )
    sized = [(known[port], ref) for port in common if known[port] and (ref := rows[port].golden or rows[port].npu)]
    others = sum(1 for count, ref in sized if math.prod(ref.own_shape) != count)
    if others * 2 > len(sized):
        raise InputError(
            f"the baseline is of the model {baseline.model!r}, this comparison of {model!r}: the ports have the same "
            f"names, but {others} of {len(sized)} tensors are of another size (another model, or another shape of "
            f"input); {advice}"
        )


def changes_since(
    before: Mapping[tuple[str, str], Entry], now: Mapping[tuple[str, str], Entry], tolerance: Tolerance,
) -> tuple[tuple[Change, ...], str]:
    """What changed between the entries of a baseline and those of now (by port and case), and the method in words."""
    cases_now = {case for _, case in now}
    common = sorted(cases_now & {case for _, case in before})
    changes = list(_verdict_changes(before, now, cases_now))
    settled = {(change.port, change.case) for change in changes}
    by_port: dict[str, list[Entry]] = {}
    for key, entry in sorted(now.items()):
        if key not in settled and entry.error is not None:
            by_port.setdefault(entry.port, []).append(entry)
    method = (
        f"largest error over the baseline's cases times {tolerance.over_floor:g} (in floors) or {tolerance.error:g} "
        "(without floors), more for tensors of few elements"
    )
    if len(common) >= PAIRED_CASES:
        found, told = _paired(before, by_port, common, tolerance)
        changes += found
        settled |= {(change.port, entry.case) for change in found for entry in by_port[change.port]}
        method = f"{told}; each case: {method}"
    rest = {port: [e for e in entries if (port, e.case) not in settled] for port, entries in by_port.items()}
    changes += _by_spread(before, rest, tolerance)
    return tuple(changes), method


def _told(changes: Iterable[Change], reports: Mapping[str, Report], accept: Sequence[str]) -> tuple[Change, ...]:
    """The changes, failing ones first, then in order of execution; verdicts with their reason, accepted as such."""
    rows = {(str(row.port), case): row for case, report in reports.items() for row in report.comparisons}
    place = {str(row.port): row.order for report in reports.values() for row in report.comparisons}
    found = []
    for change in changes:
        row = rows.get((change.port, change.case))
        if change.kind == "worse verdict" and row is not None and row.reason:
            change = replace(change, reason=f"{change.reason}: {row.reason}")
        if change.port in accept and change.kind in FAILING:
            change = replace(change, kind="accepted")
        found.append(change)
    found.sort(key=lambda c: (c.kind not in FAILING, place.get(c.port, -1), ":input:" in c.port, c.port, c.case))
    return tuple(found)


def _verdict_changes(
    before: Mapping[tuple[str, str], Entry], now: Mapping[tuple[str, str], Entry], cases: set[str],
) -> Iterable[Change]:
    good = str(Verdict.MATCH)
    worst_known: dict[str, str] = {}
    for entry in before.values():
        worst_known[entry.port] = min(worst_known.get(entry.port, good), entry.verdict, key=lambda v: _RANK[v])
    for key in sorted(before.keys() | now.keys()):
        port, case = key
        old, new = before.get(key), now.get(key)
        worst = worst_known.get(port)
        if new is None:
            if case in cases and old is not None:
                yield Change(port, case, "gone", old.error, None, None, None, "was compared before, is not any more")
        elif worst is None:
            yield _change("new", None, new, f"not in the baseline, now {new.verdict}")
        elif old is None:  # a new case of a known port; where its verdict is no worse the spread judges it
            if _RANK[new.verdict] < _RANK[worst]:
                reason = f"{new.verdict} in a new case, at worst {worst} in the baseline"
                yield _change("worse verdict", None, new, reason)
        elif _RANK[new.verdict] < _RANK[old.verdict]:
            yield _change("worse verdict", old, new, f"was {old.verdict}, is {new.verdict}")
        elif new.verdict == good != old.verdict:
            yield _change("better verdict", old, new, f"was {old.verdict}, is {new.verdict}")


def _change(kind: str, old: Entry | None, new: Entry, reason: str) -> Change:
    """What became of one port in one case; `old` is the baseline's entry of this very case."""
    before = None if old is None else old.error
    far = None if old is None else moved(old, new)
    return Change(new.port, new.case, kind, before, new.error, _ratio(before, new.error), far, reason)


def _ratio(before: float | None, now: float | None) -> float | None:
    if before is None or now is None:
        return None
    if before == now:
        return 1.0
    return now / before if before else math.inf


def _by_spread(
    before: Mapping[tuple[str, str], Entry], by_port: Mapping[str, Sequence[Entry]], tolerance: Tolerance,
) -> Iterable[Change]:
    known: dict[str, list[Entry]] = {}
    for entry in before.values():
        if entry.error is not None:
            known.setdefault(entry.port, []).append(entry)
    for port, entries in by_port.items():
        for entry in entries:
            old = known.get(port, [])
            in_floors = [value for e in old if (value := e.over_floor) is not None]
            floored = bool(in_floors) and entry.over_floor is not None
            past = in_floors if floored else [e.error for e in old if e.error is not None]
            if past:
                yield from _against(past, entry, floored, before.get((port, entry.case)), tolerance)


def _against(
    past: Sequence[float], entry: Entry, floored: bool, same: Entry | None, tolerance: Tolerance,
) -> Iterable[Change]:
    """One error against those of all cases of the baseline; `same` is the baseline's entry of this very case."""
    error = entry.error or 0.0
    value = (entry.over_floor or 0.0) if floored else error
    unit, factor = " floors" if floored else "", tolerance.factor(floored, entry.count)
    worst, least = max(past), min(past)
    far = None if same is None else moved(same, entry)
    if value > worst * factor and value > _usual(past, tolerance.spread) and error > tolerance.nothing:
        yield Change(
            entry.port, entry.case, "drift", worst, value, _ratio(worst, value), far,
            f"error {value:.3g}{unit}, in the baseline at most {worst:.3g} (allowed x{factor:.3g})",
        )
    elif value * factor < least and (same is None or (same.error or 0.0) > tolerance.nothing):
        yield Change(
            entry.port, entry.case, "improved", least, value, _ratio(least, value), far,
            f"error {value:.3g}{unit}, in the baseline at least {least:.3g}",
        )


def _usual(past: Sequence[float], spread: float) -> float:
    """What one more value may be, judging by the spread of those before (on a log scale); 0 with fewer than 3."""
    logs = [math.log(value) for value in past if 0 < value < math.inf]
    if len(logs) < 3:
        return 0.0
    above = spread * float(np.std(logs, ddof=1)) * math.sqrt(1 + 1 / len(logs))
    return math.exp(min(700.0, float(np.mean(logs)) + above))


def _paired(
    before: Mapping[tuple[str, str], Entry], by_port: Mapping[str, Sequence[Entry]], common: Sequence[str],
    tolerance: Tolerance,
) -> tuple[list[Change], str]:
    """Ports whose errors are worse (or better) over the common cases, and the method in words."""
    series: dict[tuple[float, ...], list[str]] = {}  # ports with the same ratios are one tensor, seen twice
    for port, entries in by_port.items():
        pairs = [(before[port, e.case], e) for e in entries if e.case in common and (port, e.case) in before]
        ratios = tuple(_log_ratios(pairs, tolerance))
        if len(ratios) >= PAIRED_CASES and any(ratios):
            series.setdefault(ratios, []).append(port)
    needed = max(PAIRED_CASES, math.ceil(math.log2(max(1, len(series)) / ALPHA)))
    if len(common) < needed:
        return [], f"{needed} common cases would be paired ({len(series)} tensors), {len(common)} are too few"
    worse = [signed_rank(logs) for logs in series]
    better = [signed_rank([-log for log in logs]) for logs in series]
    found = []
    decided = zip(series.items(), worse, better, holm(worse, ALPHA), holm(better, ALPHA), strict=True)
    for (logs, ports), p, q, is_worse, is_better in decided:
        median = math.exp(float(np.median(np.array(logs))))
        if is_worse and median > tolerance.paired:
            kind, chance = "drift", p
        elif is_better and median * tolerance.paired < 1:
            kind, chance = "improved", q
        else:
            continue
        reason = f"errors are x{median:.3g} in the median over {len(logs)} cases (p = {chance:.2g} before correction)"
        found += [Change(port, "", kind, None, None, median, None, reason) for port in ports]
    return found, (
        f"{len(common)} cases paired: one-sided Wilcoxon signed-rank test, Holm's correction over {len(series)} "
        f"tensors, alpha {ALPHA:g}, and median ratio over {tolerance.paired:g}"
    )


def _log_ratios(pairs: Sequence[tuple[Entry, Entry]], tolerance: Tolerance) -> list[float]:
    """log(now / before) of each pair, in floors where all have one. An error of `nothing` or less counts as that."""
    floored = all(old.over_floor is not None and new.over_floor is not None for old, new in pairs)
    found = []
    for old, new in pairs:
        if old.error is None or new.error is None:
            continue
        if max(old.error, new.error) <= tolerance.nothing:
            found.append(0.0)
        elif floored:
            found.append(_log(new.over_floor or 0.0, 1e-6) - _log(old.over_floor or 0.0, 1e-6))
        else:
            found.append(_log(new.error, tolerance.nothing) - _log(old.error, tolerance.nothing))
    return [value if math.isfinite(value) else 0.0 for value in found]


def _log(value: float, least: float) -> float:
    return math.log(min(max(value, least), 1e300))


def signed_rank(values: Sequence[float]) -> float:
    """The exact one-sided p-value of Wilcoxon's signed-rank test: how likely the positive values' sum of ranks, or a
    larger one, would be if every sign were a coin's. Zeros are left out; values of one size share their ranks."""
    signed = np.array([value for value in values if value])
    sizes = np.abs(signed)
    ranks = [2 * int((sizes < size).sum()) + int((sizes == size).sum()) + 1 for size in sizes]  # doubled: whole numbers
    found = sum(rank for rank, value in zip(ranks, signed, strict=True) if value > 0)
    return float(_chances(tuple(sorted(ranks)))[found:].sum())


@lru_cache(maxsize=64)
def _chances(ranks: tuple[int, ...]) -> NDArray[np.float64]:
    """How likely each sum of ranks is, when a coin decides which of them count. Without ties one n is one row."""
    chances = np.ones(1)
    for rank in ranks:
        chances = (np.pad(chances, (0, rank)) + np.pad(chances, (rank, 0))) / 2
    return chances


def holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Which hypotheses Holm's step-down procedure rejects, so that the chance of any false one is at most alpha."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    rejected = [False] * len(p_values)
    for rank, i in enumerate(order):
        if p_values[i] > alpha / (len(p_values) - rank):
            break
        rejected[i] = True
    return rejected

