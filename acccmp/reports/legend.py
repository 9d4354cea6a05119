"""What verdicts and metrics mean and how they look, as tables: every view of a report takes them from here."""

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


@dataclass(frozen=True)
class Told:
    """A row: what a metric says, and what it cannot see."""

    says: str
    blind_to: str


METRICS: Mapping[str, Told] = {
    "CosineSimilarity": Told(
        "angle between the two tensors; 1 is the same direction",
        "scale (x and 2x give 1), and small errors: they only move its last digits",
    ),
    "MaxAbsoluteError": Told("largest |npu - golden|", "how many elements are off, and how large the values are"),
    "AccumulatedRelativeError": Told(
        "sum of |npu - golden| / |golden|", "the size of the tensor; values near zero decide it"),
    "RelativeEuclideanDistance": Told(
        "||npu - golden|| / ||golden||; judged by default", "errors of small elements beside large ones"),
    "KullbackLeiblerDivergence": Told(
        "divergence of the two tensors scaled to 0..1", "scale and offset: x, 2x and x + 1 all give 0"),
    "StandardDeviation": Told(
        "(mean;standard deviation) of npu, then of golden", "order: a transposed tensor has the same"),
    "MeanAbsoluteError": Told("mean of |npu - golden|", "rare large errors, and how large the values are"),
    "RootMeanSquareError": Told("root of the mean squared difference", "how large the values are"),
    "MaxRelativeError": Told(
        "largest |npu - golden| / |golden|", "everything else as soon as one golden value is near zero"),
    "MeanRelativeError": Told("mean of |npu - golden| / |golden|", "golden zeros; values near zero decide it"),
    "NanNpu": Told("NaNs of the NPU's tensor", "whether golden has them too"),
    "NanGolden": Told("NaNs of the golden tensor", "whether the NPU has them too"),
    "InfNpu": Told("infinities of the NPU's tensor", "whether golden has them too"),
    "InfGolden": Told("infinities of the golden tensor", "whether the NPU has them too"),
    "Fp16Overflow": Told("float16 places at Inf, or at 65504 where golden is beyond it", "every other dtype"),
    "MaxErrorIndex": Told("where |npu - golden| is largest, in golden's layout", "all other places"),
    "SNR(dB)": Told("10 log10 of signal power over error power", "the same as RelativeEuclideanDistance"),
    "MismatchRatio": Told(
        "share of elements outside rtol 1e-2, atol 1e-3; of unequal ones for integers and bools", "by how much"),
    "Floor": Told("the distance that storage in the NPU's dtype alone explains on this input", "what caused more"),
    "ErrorOverFloor": Told("error / floor; a few is rounding", "errors as small as rounding"),
}

FIRST_UNCOMPARED = "Nothing is known of its numbers: mend the file or the pairing first, and compare again."
FIRST_BAD = "Here error first crosses its limit in order of execution; it may be inherited from layers before."
