"""A baseline remembers the last good release in one line per layer, and tells drift from noise."""

from __future__ import annotations

import difflib
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_factory import HOSTILE, changed, hostile_report, make_report
from scipy import stats

from acccmp.core.tensor import TensorRef
from acccmp.errors import FormatError, InputError
from acccmp.releases import baseline, drift
from acccmp.releases.sketch import sketch
from acccmp.reports.pair import Verdict
from acccmp.reports.report import Report


def scaled(report: Report, factor: float, only: str = "") -> Report:
    """The report with all errors (or those of one port) multiplied, as if the device had become worse."""
    rows = [
        replace(row, error=row.error * factor) if row.is_judged and (not only or str(row.port) == only) else row
        for row in report.comparisons
    ]
    return replace(report, comparisons=tuple(rows))


def healthy(layers: int = 20, seed: int = 0) -> Report:
    return make_report(layers, fault=None, every_verdict=False, seed=seed)


def baseline_of(*reports: Report) -> baseline.Baseline:
    return baseline.Baseline("net", baseline.entries_of({f"case{i}": report for i, report in enumerate(reports)}))


def test_the_same_result_against_its_own_baseline_passes_and_changes_nothing(tmp_path: Path) -> None:
    report = healthy()
    baseline.write(baseline_of(report), tmp_path / "b")
    checked = drift.check({"case0": report}, baseline.read(tmp_path / "b"), model="net")
    assert checked.passed
    assert checked.changes == ()
    assert checked.unchanged == len(report.judged)
    assert checked.exit_code == 0


def test_a_baseline_read_again_is_the_same(tmp_path: Path) -> None:
    known = baseline_of(healthy(), healthy(seed=1))
    baseline.write(known, tmp_path / "b")
    assert baseline.read(tmp_path / "b") == known


def test_one_changed_layer_is_one_changed_line_in_a_network_of_400_layers() -> None:
    report = healthy(400)
    port = str(report.comparisons[101].port)
    before = baseline.text_of(baseline_of(report)).splitlines()
    after = baseline.text_of(baseline_of(scaled(report, 3.0, port))).splitlines()
    changed = [line for line in difflib.unified_diff(before, after, n=0, lineterm="") if line[0] in "+-"][2:]
    assert len(changed) == 2
    assert json.loads(changed[0][1:])["port"] == json.loads(changed[1][1:])["port"] == port


def test_lines_are_sorted_by_port_then_case() -> None:
    lines = baseline.text_of(baseline_of(healthy(), healthy(seed=1))).splitlines()[1:]
    keys = [(json.loads(line)["port"], json.loads(line)["case"]) for line in lines]
    assert keys == sorted(keys)


def test_an_error_beyond_the_spread_of_the_cases_drifts_and_one_within_does_not() -> None:
    cases = [healthy(seed=seed) for seed in range(4)]
    known = baseline_of(*cases)
    port = str(cases[0].outputs[0].port)
    largest = max(entry.over_floor or 0 for (name, _), entry in known.entries.items() if name == port)
    now = cases[0].outputs[0].error / cases[0].outputs[0].floor
    within = scaled(cases[0], 1.3 * largest / now, port)
    beyond = scaled(cases[0], 3.0 * largest / now, port)
    assert drift.check({"case0": within}, known, model="net").passed
    checked = drift.check({"case0": beyond}, known, model="net")
    assert [change.port for change in checked.drifts] == [port]
    assert checked.exit_code == 1


def test_with_fourteen_cases_a_small_but_steady_worsening_is_found_by_the_paired_test() -> None:
    cases = {f"case{i}": healthy(6, seed=i) for i in range(16)}
    known = baseline.Baseline("net", baseline.entries_of(cases))
    port = str(cases["case0"].outputs[0].port)
    worse = {name: scaled(report, 1.2, port) for name, report in cases.items()}
    checked = drift.check(worse, known, model="net")
    assert "Wilcoxon" in checked.method
    assert [change.port for change in checked.drifts] == [port]
    few = {name: worse[name] for name in list(worse)[:3]}
    assert drift.check(few, known, model="net").passed, "three cases cannot tell x1.2 from the spread"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0.01, 0.2))
def test_holm_rejects_what_scipys_adjusted_p_values_reject(p_values: list[float], alpha: float) -> None:
    ordered = sorted(p_values)
    adjusted = np.maximum.accumulate([p * (len(ordered) - i) for i, p in enumerate(ordered)])
    if np.any(np.isclose(adjusted, alpha, rtol=1e-9)):
        return  # on the border rounding decides
    assert sum(drift.holm(p_values, alpha)) == int((adjusted <= alpha).sum())


def test_improvements_are_listed_and_do_not_fail() -> None:
    report = healthy()
    checked = drift.check({"case0": scaled(report, 0.2)}, baseline_of(report), model="net")
    assert checked.passed
    assert len(checked.improvements) == len(report.judged)


def test_a_port_that_is_not_compared_any_more_fails() -> None:
    report = healthy()
    shorter = replace(report, comparisons=report.comparisons[2:])
    checked = drift.check({"case0": shorter}, baseline_of(report), model="net")
    assert not checked.passed
    assert {change.kind for change in checked.changes} == {"gone"}


def test_a_layer_beyond_its_limits_fails_until_it_is_accepted_and_again_when_it_gets_worse(tmp_path: Path) -> None:
    report = make_report(every_verdict=False)
    bad = [str(row.port) for row in report.comparisons if row.is_bad]
    known = baseline_of(report)
    assert drift.check({"case0": report}, known, model="net").exit_code == 1, "updating alone does not accept"
    accepted = drift.check({"case0": report}, known, model="net", accept=bad)
    assert accepted.passed
    baseline.write(drift.updated(accepted, "net"), tmp_path / "b")
    assert (tmp_path / "b").read_text().count('"accepted": true') == len(bad)
    again = baseline.read(tmp_path / "b")
    assert drift.check({"case0": report}, again, model="net").passed
    assert drift.check({"case0": scaled(report, 3.0, bad[0])}, again, model="net").exit_code == 1


def test_accepting_a_port_that_is_not_there_is_an_error() -> None:
    with pytest.raises(InputError, match="--accept: no port, op or node named 'conv:output:0' in the report"):
        drift.check({"a": healthy()}, None, accept=["conv:output:0"])


def test_the_sketch_estimates_the_distance_between_two_releases() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((64, 33, 7)).astype(np.float32)
    estimates = []
    for seed in range(12):
        y = x + 0.1 * np.random.default_rng(seed).standard_normal(x.shape).astype(np.float32)
        before, now = (
            baseline.Entry("p", "c", "match", count=x.size, norm=norm, sketch=text)
            for norm, text in (sketch(TensorRef.of(x)), sketch(TensorRef.of(y)))
        )
        true = float(np.linalg.norm(y - x) / np.linalg.norm(x))
        estimates.append((drift.moved(before, now) or 0) / true)
    assert 0.85 < np.mean(estimates) < 1.15
    assert all(0.5 < value < 1.6 for value in estimates)


def test_the_sketch_of_nan_inf_and_empty_tensors_is_finite() -> None:
    for array in (np.array([np.nan, np.inf, 1.0]), np.zeros((0, 3)), np.zeros(5), np.array([1 + 1j, 2])):
        norm, text = sketch(TensorRef.of(array))
        assert math.isfinite(norm)
        assert len(text) > 0


@pytest.mark.parametrize(("text", "message"), [
    ("", "line 1"),
    ("garbage\n", "line 1"),
    ('{"schema": "acccmp.baseline/0", "model": "net"}\n', "schema"),
    ('{"schema": "something else"}\n', "no header"),
    ('{"schema": "acccmp.baseline/1", "model": "net"}\nnonsense\n', "line 2"),
    ('{"schema": "acccmp.baseline/1", "model": "net"}\n{"port": 3, "case": "a", "verdict": "match"}\n', "line 2"),
    ('{"schema": "acccmp.baseline/1", "model": "net"}\n{"port": "p", "case": "a", "verdict": "fine"}\n', "fine"),
    ('{"schema": "acccmp.baseline/1", "model": "net"}\n'
     '{"port": "p", "case": "a", "verdict": "match", "sketch": "!!"}\n', "sketch"),
])
def test_a_damaged_baseline_says_where_and_how_to_make_a_new_one(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "b").write_text(text)
    with pytest.raises((InputError, FormatError), match=message) as caught:
        baseline.read(tmp_path / "b")
    assert "--update" in str(caught.value)


def test_a_missing_baseline_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--update"):
        baseline.read(tmp_path / "none")


def test_a_baseline_of_another_model_is_refused() -> None:
    other = replace(healthy(), comparisons=tuple(
        changed(row, port=row.port._replace(node="other" + row.port.node)) for row in healthy().comparisons
    ))
    with pytest.raises(InputError, match="of the model 'resnet'"):
        drift.check({"a": healthy()}, baseline.Baseline("resnet", baseline.entries_of({"a": other})), model="net")


def test_hostile_names_survive_the_file(tmp_path: Path) -> None:
    report = hostile_report()
    baseline.write(baseline_of(report), tmp_path / "b")
    again = baseline.read(tmp_path / "b")
    assert (tmp_path / "b").read_bytes().isascii()
    assert {port.rpartition(":output")[0] for port, _ in again.entries} >= set(HOSTILE)


def test_nothing_compared_is_no_pass() -> None:
    assert drift.check({"a": Report(())}, None).exit_code == 3


def test_verdicts_that_become_worse_fail_and_better_ones_are_listed() -> None:
    report = healthy()
    first, *others = report.comparisons
    drifted = replace(report, comparisons=(replace(first, verdict=Verdict.DRIFT), *others))
    checked = drift.check({"case0": drifted}, baseline_of(report), model="net")
    assert [change.kind for change in checked.changes] == ["worse verdict"]
    back = drift.check({"case0": report}, baseline_of(drifted), model="net")
    assert [change.kind for change in back.changes] == ["better verdict"]
    assert back.passed


KILLED = """
import sys
from acccmp.releases import baseline
known = baseline.read(sys.argv[1])
other = baseline.read(sys.argv[2])
print("ready", flush=True)
while True:
    baseline.write(other, sys.argv[1])
    baseline.write(known, sys.argv[1])
"""


@pytest.mark.slow
def test_killed_at_random_moments_the_baseline_is_always_the_old_or_the_new_one(tmp_path: Path) -> None:
    old, new = baseline_of(healthy(40)), baseline_of(scaled(healthy(40), 2.0))
    target, other = tmp_path / "b", tmp_path / "other"
    baseline.write(old, target)
    baseline.write(new, other)
    rounds = int(os.environ.get("ACCCMP_KILLS", "6"))
    moments = random.Random(5)
    for _ in range(rounds):
        child = subprocess.Popen([sys.executable, "-c", KILLED, target, other], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(moments.uniform(0, 0.05))
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert baseline.read(target) in (old, new)


@pytest.mark.parametrize("count", [1, 5, 14, 50, 300])
def test_the_p_value_is_scipys(count: int) -> None:
    rng = np.random.default_rng(count)
    for shift in (-0.5, 0.0, 0.4):
        logs = [float(value) for value in rng.normal(shift, 1, count)]
        for alternative, signed in (("greater", logs), ("less", [-log for log in logs])):
            theirs = stats.wilcoxon(logs, alternative=alternative, method="exact").pvalue
            assert drift.signed_rank(signed) == pytest.approx(theirs, rel=1e-9)


def test_the_p_value_counts_every_way_in_which_signs_can_fall_with_ties_and_zeros_too() -> None:
    logs = [0.3, -0.1, 0.1, 0.3, 0.3, 0.0, 0.2, -0.2, 0.5]
    sizes = [abs(value) for value in logs if value]
    ranks = stats.rankdata(sizes)
    found = sum(rank for rank, value in zip(ranks, (v for v in logs if v), strict=True) if value > 0)
    ways = [sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign) for signs in product((0, 1), repeat=8)]
    assert drift.signed_rank(logs) == pytest.approx(np.mean(np.array(ways) >= found))
    assert drift.signed_rank([math.log(1.2)] * 16) == pytest.approx(2**-16)


def entry(error: float, floor: float | None, case: str = "case0", count: int = 1000) -> baseline.Entry:
    return baseline.Entry("p:output:0", case, "match", error=error, floor=floor, count=count)


def kinds(before: list[baseline.Entry], now: baseline.Entry) -> list[str]:
    known = {(e.port, e.case): e for e in before}
    changes, _ = drift.changes_since(known, {(now.port, now.case): now}, drift.Tolerance())
    return [change.kind for change in changes]


def test_a_tensor_that_storage_could_not_round_before_may_be_rounded_now() -> None:
    """Pictures of exact float16 numbers have a floor of 0; the next picture need not be one."""
    exact = [entry(0.0, 0.0, f"case{i}") for i in range(4)]
    assert kinds(exact, entry(2e-4, 2e-4, "new")) == []
    assert kinds(exact, entry(2e-4, 0.0, "new")) == ["drift"], "nothing explains this error"


@pytest.mark.parametrize(("count", "ratio", "kind"), [
    (10**6, 1.25, []), (10**6, 1.35, ["drift"]), (1000, 1.35, []), (1000, 1.5, ["drift"]), (10, 2.3, []),
    (10, 2.6, ["drift"]),
])
def test_few_elements_scatter_more_so_they_may_change_more(count: int, ratio: float, kind: list[str]) -> None:
    assert kinds([entry(1e-3, 1e-3, count=count)], entry(ratio * 1e-3, 1e-3, count=count)) == kind


def test_what_scatters_over_the_cases_may_scatter_on() -> None:
    wild = [entry(error, None, f"case{i}") for i, error in enumerate((1e-5, 1e-4, 1e-3, 3e-4))]
    calm = [entry(error, None, f"case{i}") for i, error in enumerate((0.9e-3, 1e-3, 1e-3, 0.95e-3))]
    assert kinds(wild, entry(4e-3, None, "new")) == []
    assert kinds(calm, entry(4e-3, None, "new")) == ["drift"]


def test_a_missing_output_can_be_accepted_and_stays_accepted(tmp_path: Path) -> None:
    report = healthy()
    *inner, output = report.comparisons
    missing = replace(report, comparisons=(*inner, changed(output, verdict=Verdict.NO_NPU, npu=None)))
    known = baseline_of(missing)
    assert drift.check({"case0": missing}, known, model="net").exit_code == 1
    accepted = drift.check({"case0": missing}, known, model="net", accept=[str(output.port)])
    baseline.write(drift.with_accepted(accepted), tmp_path / "b")
    assert drift.check({"case0": missing}, baseline.read(tmp_path / "b"), model="net").passed


def test_an_accepted_drift_that_becomes_nan_fails() -> None:
    report = healthy()
    first, *others = report.comparisons
    drifted = replace(report, comparisons=(replace(first, verdict=Verdict.DRIFT), *others))
    broken = replace(report, comparisons=(
        replace(first, verdict=Verdict.NONFINITE, error=math.nan, reason="NaN at 3 places"), *others,
    ))
    accepted = drift.check({"case0": drifted}, baseline_of(drifted), accept=[str(first.port)])
    known = drift.updated(accepted, "net")
    checked = drift.check({"case0": broken}, known)
    assert checked.exit_code == 1
    assert checked.drifts[0].reason == "was drift, is nonfinite: NaN at 3 places"


def test_changes_come_in_order_of_execution() -> None:
    report = healthy()
    checked = drift.check({"case0": scaled(report, 5.0)}, baseline_of(report), model="net")
    order = {str(row.port): row.order for row in report.comparisons}
    places = [order[change.port] for change in checked.drifts]
    assert places == sorted(places)


def test_a_hundred_layers_of_many_cases_are_only_paired_when_there_are_enough_cases() -> None:
    """2**-14 is no small chance among 1500 different tensors; the method says so and the spread still judges."""
    before = {
        (f"p{i}:output:0", f"c{c}"): replace(entry(1e-3 * (1 + i), None, f"c{c}"), port=f"p{i}:output:0")
        for i in range(1500) for c in range(14)
    }
    rng = np.random.default_rng(1)
    now = {key: replace(e, error=(e.error or 0) * (1 + 0.01 * rng.random())) for key, e in before.items()}
    _, method = drift.changes_since(before, now, drift.Tolerance())
    assert "15 common cases would be paired" in method


def test_the_spread_over_the_cases_is_that_of_numpy() -> None:
    cases = {f"case{i}": healthy(seed=i) for i in range(5)}
    found = {row.port: row for row in drift.spread(cases)}
    for row in cases["case0"].judged:
        errors = np.array([report[row.port].error_over_floor for report in cases.values()])
        told = found[str(row.port)]
        assert told.in_floors
        assert (told.least, told.median, told.largest) == pytest.approx(
            (errors.min(), np.median(errors), errors.max()), rel=1e-5,
        )
    assert drift.spread({"alone": cases["case0"]}) == ()
