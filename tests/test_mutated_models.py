"""Damaged model files: facts or one line of error, never a crash; the long run is benchmarks/mutate_models.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def mutate() -> ModuleType:
    path = Path(__file__).parent.parent / "benchmarks" / "mutate_models.py"
    spec = importlib.util.spec_from_file_location("mutate_models", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutate_models"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_damaged_files_are_read_or_refused_in_one_line(mutate: ModuleType, shared: Path, seed: int) -> None:
    outcomes = [outcome for outcome, _ in mutate.run(100, seed, shared, 1 << 18)]
    strange = {outcome for outcome in outcomes if outcome.result not in ("read", "refused")}
    assert not strange
    assert {outcome.result for outcome in outcomes} == {"read", "refused"}  # both happen, or nothing was damaged
    assert {outcome.kind for outcome in outcomes} == set(mutate.READERS)


def test_damage_costs_no_memory_beyond_twice_the_file(mutate: ModuleType, shared: Path) -> None:
    for outcome, _ in mutate.run(60, 21, shared, 1 << 18):
        assert outcome.peak <= 2 * outcome.size + mutate.SLACK, outcome
