"""The terminal view: what a person sees at 100 and at 80 columns."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from report_factory import changed, comparison, make_report
from rich.cells import cell_len
from rich.console import Console

from acccmp.core.dump import Port
from acccmp.reports import summary, terminal
from acccmp.reports.pair import Verdict
from acccmp.reports.report import Report


def shown(report: Report, width: int = 100, **options: object) -> str:
    """What is printed on a plain terminal of that width, without colours."""
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, highlight=False)
    console.print(terminal.terminal(report, width, **options))
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("layers", [1, 20, 400])
def test_nothing_is_wider_than_the_terminal(layers: int, width: int) -> None:
    text = shown(make_report(layers, 0), width, saved=["out/report.csv", "out/report.html"])
    assert max(cell_len(line) for line in text.splitlines()) <= width
    assert len(text.splitlines()) < 50


def test_the_first_lines_say_the_result_and_why() -> None:
    lines = shown(make_report(every_verdict=False)).splitlines()
    assert lines[0].strip() == "NOT PASSED"
    assert "model output stage3/block5/conv19:output:0 is drift" in lines[1]


def test_the_first_bad_layer_is_told_as_what_it_is() -> None:
    text = shown(make_report(every_verdict=False))
    assert "first bad layer stage1/block2/conv9:output:0 (Conv2D)" in text
    assert "160 x its limit, 640 x the floor" in text
    assert "its judged inputs (1) are within their limits" in text
    assert "it may be inherited" in " ".join(text.split())
    assert "suspect" not in text  # error below a limit may have come in


def test_a_layer_with_a_bad_input_says_so() -> None:
    report = make_report(every_verdict=False)
    rows = tuple(
        replace(row, verdict=Verdict.DRIFT, error=0.02) if row.port.node.endswith("conv9") and row.port.side == "input"
        else changed(row, order=8) if row.port.node.endswith("conv9") else row for row in report.comparisons
    )
    text = shown(replace(report, comparisons=rows))
    assert "1 of its 1 judged inputs are beyond their limits too" in text


def test_a_healthy_report_says_passed_and_how_far_the_worst_is() -> None:
    report = make_report(fault=None, every_verdict=False)
    text = shown(report)
    assert text.splitlines()[0].strip() == "PASSED"
    assert "the model output is within its limits" in text
    assert "first bad" not in text
    line = terminal.one_line(report)
    assert line.startswith("PASSED: 40 ports judged, coverage 100 %; worst ")
    assert "\n" not in line


def test_inner_drift_under_healthy_outputs_is_a_warning_that_is_listed_first() -> None:
    report = make_report(fault=None, every_verdict=False)
    rows = list(report.comparisons)
    rows[21] = replace(rows[21], verdict=Verdict.DRIFT, error=0.02)
    text = shown(replace(report, comparisons=tuple(rows)))
    assert text.splitlines()[0].strip() == "PASSED with 1 warning"
    assert "1 port on the way is beyond the limits" in text
    assert text.index(f"first bad layer {rows[21].port}") > 0


def test_too_little_compared_is_not_announced_as_passed() -> None:
    rows = [comparison(f"c{i}", i, Verdict.NO_NPU, is_output=False) for i in range(9)]
    report = Report((*rows, comparison("out", 9, is_output=True)))
    text = shown(report)
    assert report.exit_code == 3
    assert text.splitlines()[0].strip() == "NOT PASSED: TOO LITTLE WAS COMPARED"
    assert "1 of 10 ports were judged (10 %" in text


def test_nothing_compared_is_said_first() -> None:
    assert shown(Report(())).splitlines()[0].strip() == "NOT PASSED: NOTHING WAS COMPARED"


def test_the_last_line_says_where_the_report_lies() -> None:
    assert shown(make_report(), saved=["out/report.html"]).splitlines()[-1].strip() == "report out/report.html"


@pytest.mark.parametrize(("ratio", "step"), [
    (1e-6, "▁"), (0.03, "▁"), (0.09, "▂"), (0.3, "▃"), (0.99, "▄"), (1.0, "▄"), (1.01, "▅"), (3.0, "▅"), (9.0, "▆"),
    (30.0, "▇"), (99.0, "█"), (1e9, "█"),
])
def test_bars_rise_above_half_height_at_the_limit(ratio: float, step: str) -> None:
    row = comparison("a", 0, Verdict.DRIFT if ratio > 1 else Verdict.MATCH, error=ratio, limit=1.0)
    assert [bar.sign for bar in summary.spark(Report((row,)), 10)] == [step]


def test_a_single_bad_layer_of_four_hundred_is_still_seen() -> None:
    report = make_report(400, fault=None, every_verdict=False)
    rows = list(report.comparisons)
    rows[501] = replace(rows[501], verdict=Verdict.DRIFT, error=1.0)
    bars = summary.spark(replace(report, comparisons=tuple(rows)), 100)
    assert len(bars) == 100
    assert [place for place, bar in enumerate(bars) if bar.sign == "█"] == [62]
    assert [place for place, bar in enumerate(bars) if bar.is_first_bad] == [62]


def test_verdicts_without_a_size_have_signs_of_their_own() -> None:
    signs = {bar.row.verdict: bar.sign for bar in summary.spark(make_report(60), 100)}
    assert (signs[Verdict.UNREADABLE], signs[Verdict.NONFINITE], signs[Verdict.OVERFLOW]) == ("!", "N", "^")


def test_the_worst_table_does_not_repeat_an_error_that_is_only_passed_on() -> None:
    report = make_report(every_verdict=False)
    assert [row.port.side for row in summary.worst(report)] == ["output"] * 10
    lone = replace(report, comparisons=tuple(row for row in report.comparisons if row.port.side == "input"))
    assert len(summary.worst(lone)) == 10
    conv = comparison("conv", 0, Verdict.DRIFT, 0.5)
    cast = changed(conv, port=Port("trans_Cast_1", "output", 0), op_type="Cast", order=1)
    worse = changed(cast, port=Port("trans_Cast_2", "output", 0), error=0.9, order=2)
    broken = changed(cast, port=Port("trans_Cast_3", "output", 0), verdict=Verdict.NONFINITE, order=3)
    assert summary.worst(Report((conv, cast, worse, broken))) == [broken, worse, conv]


def test_coverage_is_never_rounded_up_to_complete() -> None:
    assert summary.percent(0.99999) == "99.9 %"
    assert summary.percent(1.0) == "100 %"
    assert (summary.percent(0.9), summary.percent(0.57)) == ("90 %", "57 %")
