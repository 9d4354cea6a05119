"""A small seeded part of benchmarks/false_alarms.py: the alarm neither cries wolf nor sleeps."""

from __future__ import annotations

import pytest

from acccmp.releases import baseline, drift
from benchmarks.false_alarms import CASES, PAIRED, Bench, Outcome, judge, single

LARGE = "block2/conv2block2/bn2"


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


def alone(bench: Bench, layer: str, step: str, level: float, known: baseline.Baseline, image: int) -> Outcome:
    report = bench.report(image, 777, [bench.noise(image, layer, level, seed=3)])
    return judge(bench, {"new": report}, known, level, layer, step)


def test_healthy_runs_with_other_pictures_are_no_alarm(bench: Bench) -> None:
    assert not any(outcome.alarm for outcome in single(bench, 12, 1.0))


def test_a_doubled_error_is_caught_and_named_with_one_picture(bench: Bench) -> None:
    known = bench.baseline(range(CASES), seed=1)
    found = [alone(bench, "block2/bn2", LARGE, 2.0, known, image) for image in range(20, 26)]
    assert all(outcome.alarm and outcome.named for outcome in found)


def test_ten_numbers_scatter_so_a_doubled_error_of_theirs_is_no_alarm_but_a_fivefold_one_is(bench: Bench) -> None:
    known = bench.baseline(range(CASES), seed=1)
    assert not alone(bench, "fc", "fc", 1.5, known, 30).alarm
    assert alone(bench, "fc", "fc", 5.0, known, 30).named


@pytest.mark.slow
def test_with_fourteen_pictures_even_ten_numbers_tell_a_doubled_error(bench: Bench) -> None:
    known = bench.baseline(range(PAIRED), seed=2)
    healthy = {f"picture {i}": bench.report(i, 300 + i) for i in range(PAIRED)}
    assert not judge(bench, healthy, known, 1.0, "", "").alarm
    worse = {
        f"picture {i}": bench.report(i, 400 + i, [bench.noise(i, "fc", 2.0, seed=i)]) for i in range(PAIRED)
    }
    checked = drift.check(worse, known)
    assert "Wilcoxon" in checked.method
    assert any(change.case == "" for change in checked.drifts), "found by the paired test"
    assert judge(bench, worse, known, 2.0, "fc", "fc").named
