"""A damaged file costs its own rows and no others, and is never called a match. `make measure` runs 1,000 a dump."""

from __future__ import annotations

import pytest

from benchmarks.damage_compare import NETS, trials


@pytest.mark.slow
@pytest.mark.parametrize("dump", ["npu", "npu_faulty"])
@pytest.mark.parametrize("net", NETS)
def test_no_damage_is_called_a_match_and_no_other_row_is_lost(net: str, dump: str) -> None:
    tally = trials(net, dump, 40, seed=7)
    assert tally.bad == []
    assert tally.verdicts["unreadable"] > 5, "the damage was really there"
