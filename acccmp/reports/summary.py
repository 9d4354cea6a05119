"""What a report says, in words and short rows: the same sentences for the terminal, Markdown, HTML and CI.

Everything here is plain text that may hold names out of untrusted models: each view makes it safe for its own place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from acccmp.core.dump import Port
from acccmp.reports.legend import LOOKS
from acccmp.reports.pair import LISTED, UNCOMPARED, UNDUE, Verdict
from acccmp.reports.report import Comparison, Report


def number(value: float, digits: int = 3) -> str:
    """`0.0312`, `1.2e-05`, `inf`; `-` where there is no number."""
    return "-" if math.isnan(value) else f"{value:.{digits}g}"


def percent(share: float) -> str:
    """`97.4 %`, never rounded up to 100; `-` for NaN."""
    if math.isnan(share):
        return "-"
    return f"{math.floor(share * 1000 + 1e-9) / 10:g} %"


def over_limit(row: Comparison) -> float:
    """error / limit; NaN where one of them is no number, infinite for any error over a limit of 0."""
    if math.isnan(row.error) or math.isnan(row.limit):
        return math.nan
    return row.error / row.limit if row.limit > 0 else (math.inf if row.error > 0 else 0.0)


def noun(report: Report) -> str:
    """What was compared one by one."""
    return "weight" if report.subject.get("compared") == "weight" else "port"


def first_title(report: Report) -> str:
    """What the first bad row is called."""
    return "first bad weight" if noun(report) == "weight" else "first bad layer"


def worst_title(report: Report, count: int) -> str:
    return f"the worst {count} of {len(report.judged)} judged {noun(report)}s"


def headline(report: Report) -> str:
    """PASSED, PASSED with n warnings, or NOT PASSED; where (almost) nothing was compared, though nothing failed, that.
    """
    if not report.judged:
        return "NOT PASSED: NOTHING WAS COMPARED"
    if not report.passed:
        return "NOT PASSED"
    if report.exit_code:
        return "NOT PASSED: TOO LITTLE WAS COMPARED"
    count = len(report.warnings)
    return f"PASSED with {count} warning{'s' * (count > 1)}" if count else "PASSED"


def whys(report: Report, most: int = 4) -> list[str]:
    """Why the report passes or not, a line each."""
    if not report.judged:
        return [*report.failures[:most], "a comparison that judged no port is no pass"]
    agree = []
    if noun(report) == "weight":
        count = sum(row.verdict is Verdict.MATCH for row in report.judged)
        agree = [f"{count} of {len(report.judged)} weights agree to one rounding"]
    if not report.passed:
        lines = [*agree, *report.failures[:most]]
        more = len(report.failures) - most
        return [*lines, f"and {more} more"] if more > 0 else lines
    if report.exit_code:
        return [f"what was compared is within its limits, but {coverage(report)}"]
    if agree:
        return agree
    lines = ["every model output is within its limits" if len(report.outputs) > 1 else
             "the model output is within its limits"]
    if report.warnings:
        lines.append(f"{_ports(len(report.warnings))} on the way {'are' if len(report.warnings) > 1 else 'is'} beyond "
                     "the limits: see the worst ones (--strict fails them)")
    return lines


def coverage(report: Report) -> str:
    """`57 of 60 ports were judged (95 %; 98 % of the elements), at least 90 % wanted`."""
    due = sum(row.verdict not in UNDUE for row in report.comparisons)
    elements = report.element_coverage
    inside = percent(report.coverage) + (f"; {percent(elements)} of the elements" if not math.isnan(elements) else "")
    return (f"{len(report.judged)} of {due} {noun(report)}s were judged ({inside}), at least "
            f"{percent(report.min_coverage)} wanted")


def first_bad(report: Report) -> list[str]:
    """Sentences on the first bad layer, its meaning last; empty when there is none."""
    row = report.first_bad
    if row is None:
        return []
    lines = [row.reason, ratios(row)] if row.reason else [amount(row)]
    lines = [line for line in (*lines, f"hint: {row.hint}" if row.hint else "") if line]
    inputs = [other for other in report.comparisons
              if other.port.node == row.port.node and other.port.side == "input" and other.is_judged]
    if inputs and row.port.side == "output" and row.verdict not in UNCOMPARED:
        bad = sum(other.is_bad for other in inputs)
        lines.append(f"{bad} of its {len(inputs)} judged inputs are beyond their limits too" if bad else
                     f"its judged inputs ({len(inputs)}) are within their limits")
    return lines if noun(report) == "weight" else [*lines, first_bad_meaning(row)]


def first_bad_meaning(row: Comparison) -> str:
    """What it means that this row is the first bad one."""
    if row.verdict in UNCOMPARED:
        return "Nothing is known of its numbers: mend the file or the pairing first, and compare again."
    return "Here error first crosses its limit in order of execution; it may be inherited from layers before."


def amount(row: Comparison) -> str:
    """`error 0.31, 62 x its limit 0.005`; the reason where there is no number."""
    if math.isnan(row.error):
        return row.reason or "no error could be computed"
    judged_by = "" if row.judged_by == "RelativeEuclideanDistance" else f" ({row.judged_by})"
    ratio = over_limit(row)
    if math.isnan(ratio):
        return f"error {number(row.error)}{judged_by}"
    return f"error {number(row.error)}{judged_by}, {number(ratio)} x its limit {number(row.limit)}"


def ratios(row: Comparison) -> str:
    """`62 x its limit, 248 x the floor (...)`, as far as there are numbers."""
    parts = []
    if math.isfinite(over_limit(row)):
        parts.append(f"{number(over_limit(row))} x its limit")
    if math.isfinite(row.error_over_floor):
        parts.append(f"{number(row.error_over_floor)} x the floor (what storage in the NPU's dtype explains)")
    return ", ".join(parts)


def worst(report: Report, n: int = 10) -> list[Comparison]:
    """The worst ports; one that only repeats an earlier port's error on the same golden tensor is left out.

    (The input of an op repeats its producer's output, and so does what a compiler-made Cast or TransData passes on.)
    """
    made: dict[Port, Comparison] = {}
    for row in sorted(report.judged, key=lambda row: (row.port.side == "input", row.order)):
        if row.golden_port is not None:
            made.setdefault(row.golden_port, row)
    found = []
    for row in report.worst(len(report.judged)):
        first = made.get(row.golden_port, row) if row.golden_port is not None else row
        if first is row or first.verdict is not row.verdict or not abs(first.error - row.error) <= 0.01 * row.error:
            found.append(row)
            if len(found) == n:
                break
    return found


def stands_for(row: Comparison) -> str:
    """The originals that a device op implements, where they are not just its own name."""
    return ", ".join(row.originals) if row.originals and row.originals != (row.port.node,) else ""


# -- error by depth ----------------------------------------------------------------------------------------------

STEPS = "▁▂▃▄▅▆▇█"
_DECADES = 0.5  # decades of error / limit that one step stands for; half height is the limit
SPARK = "▄ is the limit, a step x 3.2"


@dataclass(frozen=True)
class Bar:
    """One column of the spark bar: its character, the worst row that it stands for, and whether the first bad layer is
    in it."""

    sign: str
    row: Comparison
    is_first_bad: bool = False


def by_depth(report: Report) -> list[Comparison]:
    """One row for each place in the execution: its worst output, or its worst input where no output is there.

    Ports that no device has (`fused`, `inserted`) are left out.
    """
    places: dict[int, list[Comparison]] = {}
    for row in report.comparisons:
        if row.verdict not in LISTED:
            places.setdefault(row.order, []).append(row)
    found = []
    for order in sorted(places):
        outputs = [row for row in places[order] if row.port.side == "output"]
        found.append(max(outputs or places[order], key=_severity))
    return found


def _severity(row: Comparison) -> tuple[float, float]:
    return (row.badness if row.badness >= 0 or not row.is_bad else math.inf, 0 if math.isnan(row.error) else row.error)


def jumps(rows: Sequence[Comparison], factor: float = 3.0) -> list[int]:
    """Places of the first bad row and of the later jumps, the first one first, then the largest.

    A jump is a bad row whose error over its limit is `factor` times the largest of the five rows before it, or that
    has no number where the row before is fine.
    """
    found: list[tuple[float, int]] = []
    for place, row in enumerate(rows):
        if not (row.is_bad and row.is_judged):
            continue
        before = [other.badness for other in rows[max(0, place - 5) : place] if 0 < other.badness < math.inf]
        if not found:
            found.append((math.inf, place))
        elif math.isinf(row.badness):
            if not math.isinf(rows[place - 1].badness):
                found.append((1e12, place))
        elif row.badness >= factor * max(before, default=1.0):
            found.append((row.badness / max(before, default=1.0), place))
    return [place for _, place in sorted(found, key=lambda jump: (-jump[0], jump[1]))]


def spark(report: Report, width: int) -> list[Bar]:
    """The error by depth in at most `width` columns; where several layers share one, the worst decides.

    Heights are log(error / limit): ▄ reaches the limit, ▅ and higher are beyond it. Verdicts without a size have signs:
    `!` not comparable although both files are there, `N` NaN or Inf, `^` overflow, `-` not dumped, `~` not judged.
    """
    rows = by_depth(report)
    columns = min(width, len(rows))
    first = report.first_bad
    bars = []
    for column in range(columns):
        part = rows[column * len(rows) // columns : (column + 1) * len(rows) // columns]
        row = max(part, key=_severity)
        bars.append(Bar(_height(row), row, first is not None and any(r.order == first.order for r in part)))
    return bars


def _height(row: Comparison) -> str:
    if row.verdict not in (Verdict.MATCH, Verdict.DRIFT):
        return LOOKS[row.verdict].sign
    ratio = over_limit(row)
    if math.isnan(ratio):
        return "█" if row.is_bad else "▁"
    if ratio == 0:
        return STEPS[0]
    if math.isinf(ratio):
        return STEPS[-1]
    if row.is_bad:  # a limit may be judged on another number: the colour and the half stay with the verdict
        return STEPS[min(7, max(4, 4 + math.floor(math.log10(ratio) / _DECADES)))]
    return STEPS[max(0, min(3, 3 + math.ceil(math.log10(ratio) / _DECADES)))]


def _ports(count: int, what: str = "port") -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"

