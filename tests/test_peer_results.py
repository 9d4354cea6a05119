"""Our numbers beside those that the vendor's tool printed for the same dumps; where they differ, a test says why."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from acccmp.comparison.compare import compare
from acccmp.core.metrics import METRICS
from acccmp.dumps.read import read_dump
from acccmp.mapping.device_map import DeviceMap
from acccmp.models.atc_json import load
from acccmp.reports.pair import Verdict
from acccmp.reports.report import Comparison, Report

CASES = ("fusion", "net_fp16_5hd_fused3", "net_fp16_nchw")
NUMBERS = tuple(metric.name for metric in METRICS if metric.vendor and not metric.column)


@pytest.fixture(scope="module")
def reports(shared: Path) -> dict[str, Report]:
    found = {}
    for case in CASES:
        folder = shared / "peer_results" / case
        found[case] = compare(
            read_dump(folder / "golden"), read_dump(folder / "npu"), mapping=DeviceMap(load(folder / "fusion.json")),
        )
    return found


def vendor_rows(shared: Path, case: str, run: str = "expected") -> dict[str, dict[str, str]]:
    """The vendor's rows that have numbers, by TensorIndex."""
    path = shared / "peer_results" / case / run / "result.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["TensorIndex"]: row for row in rows if row["CosineSimilarity"] != "NaN"}


def ours(report: Report) -> dict[str, Comparison]:
    return {str(row.port): row for row in report.comparisons}


@pytest.mark.parametrize("case", CASES)
def test_every_number_of_the_vendor_is_ours_to_1e_5(case: str, reports: dict[str, Report], shared: Path) -> None:
    found = ours(reports[case])
    rows = vendor_rows(shared, case)
    assert len(rows) >= 8
    for port, row in rows.items():
        for name in NUMBERS:
            printed = float(row[name])
            assert math.isclose(found[port].metrics[name], printed, rel_tol=1e-5, abs_tol=1e-5), (port, name)


@pytest.mark.parametrize("case", CASES)
def test_means_and_standard_deviations_are_the_vendors_to_their_three_decimals(
    case: str, reports: dict[str, Report], shared: Path,
) -> None:
    found = ours(reports[case])
    for port, row in vendor_rows(shared, case).items():
        pairs = [part.strip("()").split(";") for part in row["StandardDeviation"].split(",")]
        printed = [float(number) for pair in pairs for number in pair]
        for name, number in zip(("MeanNpu", "StdNpu", "MeanGolden", "StdGolden"), printed, strict=True):
            # the vendor prints 0 for what is below 0.001
            mine = found[port].metrics[name]
            assert abs(mine - number) <= 0.00051 or (number == 0 and abs(mine) < 1e-3)


@pytest.mark.parametrize("case", CASES)
def test_index_op_type_and_names_are_the_vendors(case: str, reports: dict[str, Report], shared: Path) -> None:
    found = ours(reports[case])
    for port, row in vendor_rows(shared, case).items():
        mine = found[port]
        assert mine.pair.group == int(row["Index"])
        assert mine.op_type == row["OpType"]
        assert ",".join(mine.pair.npu_ops) == row["NPUDump"]
        assert (",".join(mine.originals) or "*") == row["GroundTruth"]
        assert mine.pair.address is None or mine.pair.address == int(row["Address"])


def test_no_port_that_the_vendor_compared_is_missing_and_all_match(reports: dict[str, Report], shared: Path) -> None:
    for case, report in reports.items():
        found = ours(report)
        assert {found[port].verdict for port in vendor_rows(shared, case)} == {Verdict.MATCH}
        assert report.passed


def test_vendor_fails_a_good_network_for_want_of_data_dumps_and_we_do_not(
    reports: dict[str, Report], shared: Path,
) -> None:
    for case in ("net_fp16_5hd_fused3", "net_fp16_nchw"):
        assert (shared / "peer_results" / case / "expected" / "rc.txt").read_text().strip() == "2"
        assert reports[case].exit_code == 0
        assert "input0:output:0" not in ours(reports[case])


def test_vendor_skips_the_inner_op_of_a_split_and_we_compare_its_input(
    reports: dict[str, Report], shared: Path,
) -> None:
    assert not any(port.startswith("softmax_p1:") for port in vendor_rows(shared, "fusion"))
    found = ours(reports["fusion"])
    assert found["softmax_p1:input:0"].verdict is Verdict.MATCH
    assert found["softmax_p1:output:0"].verdict is Verdict.INSERTED
    assert "inner part" in found["softmax_p1:output:0"].reason


def test_vendor_prints_nan_where_no_golden_is_and_we_say_which_is_missing(reports: dict[str, Report]) -> None:
    found = ours(reports["fusion"])
    assert found["softmax_p2:input:0"].verdict is Verdict.INSERTED
    assert found["topk:output:1"].verdict is Verdict.NO_GOLDEN
    assert "topk:output:1" in found["topk:output:1"].reason


def test_vendor_does_not_list_fused_originals_and_we_do(reports: dict[str, Report]) -> None:
    fused = [str(row.port) for row in reports["fusion"].comparisons if row.verdict is Verdict.FUSED]
    assert fused == ["conv:output:0", "bn:output:0", "p:output:0"]


def test_of_two_dumps_of_one_op_the_newest_is_taken_as_the_vendor_does(
    reports: dict[str, Report], shared: Path,
) -> None:
    row = ours(reports["fusion"])["twice:output:0"]
    assert row.npu is not None
    assert row.npu.path.endswith("1700000000036000")
    assert math.isclose(
        row.metrics["MaxRelativeError"],
        float(vendor_rows(shared, "fusion")["twice:output:0"]["MaxRelativeError"]), rel_tol=1e-5,
    )


@pytest.mark.parametrize("run", ["expected_advisor", "expected_range", "expected_select"])
def test_other_runs_of_the_vendor_print_the_same_numbers(run: str, reports: dict[str, Report], shared: Path) -> None:
    found = ours(reports["fusion"])
    rows = vendor_rows(shared, "fusion", run)
    assert rows
    for port, row in rows.items():
        for name in NUMBERS:
            if name in row:
                assert math.isclose(found[port].metrics[name], float(row[name]), rel_tol=1e-5, abs_tol=1e-5)
