"""What verdicts mean and how they look, as a table: every view of a report takes them from here. Metrics have theirs in
`acccmp.core.metrics`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from acccmp.reports.pair import Verdict


@dataclass(frozen=True)
class Look:
    """A row: what the verdict means; its colour on paper (Okabe and Ito's, told apart by colour-blind people too), its
    marker in plots (matplotlib's names), its style in a terminal, and the sign that says it without colour."""

    means: str
    colour: str
    marker: str
    style: str
    sign: str


# Colours: Okabe and Ito, "Color Universal Design", 2008; the violet is ours, their black is lost on a dark ground.
LOOKS: Mapping[Verdict, Look] = {
    Verdict.UNREADABLE: Look("a file is damaged or missing its data", "#9A5BB5", "X", "bold magenta", "!"),
    Verdict.DTYPE: Look("the two sides hold different kinds of number", "#9A5BB5", "P", "bold magenta", "!"),
    Verdict.SHAPE: Look("the two sides have different shapes", "#9A5BB5", "D", "bold magenta", "!"),
    Verdict.OVERFLOW: Look(
        "the NPU sits at its dtype's largest value, or at Inf, where golden lies beyond it",
        "#CC79A7", "^", "bold red", "^",
    ),
    Verdict.NONFINITE: Look("NaN or Inf on one side only, or at different places", "#E69F00", "v", "bold red", "N"),
    Verdict.DRIFT: Look("the error is beyond its limit", "#D55E00", "s", "red", "x"),
    Verdict.MATCH: Look("the error is within its limit", "#0072B2", "o", "green", "."),
    Verdict.NO_NPU: Look("the device did not dump it", "#999999", "_", "yellow", "-"),
    Verdict.NO_GOLDEN: Look("the original's tensor is not there", "#999999", "|", "yellow", "-"),
    Verdict.NOT_COMPARABLE: Look("comparing would mean nothing; metrics are only shown", "#56B4E9", "d", "cyan", "~"),
    Verdict.FUSED: Look("the compiler fused or folded it away: no device tensor exists", "#BBBBBB", "2", "dim", "f"),
    Verdict.INSERTED: Look("made by the compiler, stands for no original tensor", "#BBBBBB", "1", "dim", "i"),
}

