"""Damaged model files: facts or one line of error, never a crash; the long run is benchmarks/mutate_models.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import mutate_models


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_damaged_files_are_read_or_refused_in_one_line(shared: Path, seed: int) -> None:
    outcomes = [outcome for outcome, _ in mutate_models.run(100, seed, shared, 1 << 18)]
    strange = {outcome for outcome in outcomes if outcome.result not in ("read", "refused")}
    assert not strange
    assert {outcome.result for outcome in outcomes} == {"read", "refused"}  # both happen, or nothing was damaged
    assert {outcome.kind for outcome in outcomes} == set(mutate_models.READERS)


def test_damage_costs_no_memory_beyond_twice_the_file(shared: Path) -> None:
    for outcome, _ in mutate_models.run(60, 21, shared, 1 << 18):
        assert outcome.peak <= 2 * outcome.size + mutate_models.SLACK, outcome
