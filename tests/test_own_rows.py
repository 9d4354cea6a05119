"""Metrics and layouts that a script adds for itself: computed, shown and judged as ours; what is wrong is one line.

Each script is a process of its own: what is added stays for as long as the process lives.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from acccmp.core import layout as layouts
from acccmp.core.layout import LAYOUTS
from acccmp.core.metrics import METRICS

BEGIN = """
import math
import numpy as np
import acccmp
from acccmp import Dump, Layout, Metric, Port, TensorRef

def row(golden, npu, layout="ND", **options):
    pair = [TensorRef.of(np.asarray(golden)), TensorRef.of(np.asarray(npu), layout)]
    dumps = [Dump({Port("op", "output", 0): ref}, kind=kind) for kind, ref in zip(("golden", "npu"), pair)]
    return acccmp.compare(*dumps, **options).comparisons[0]

def refused(what):
    try:
        what()
    except acccmp.AcccmpError as error:
        print(error)
"""


def said(script: str) -> list[str]:
    ran = subprocess.run([sys.executable, "-c", BEGIN + script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_a_metric_over_blocks_sees_every_finite_position_in_little_memory() -> None:
    assert said("""
sizes = []
def worst(golden, npu, sums):
    sizes.append(golden.size)
    assert sums.count == 3_000_000, "the sums are of the whole pair"
    return [np.abs(npu - golden).max(), golden.min()]
acccmp.add_metric(Metric("Worst", "lower", 0.0, "largest", "-", block=worst, join=max))
acccmp.add_metric(Metric("Second", "lower", 0.0, "sum", "-", block=lambda g, n, s: [0, len(g)], end=lambda s, j: j[1]))
golden = np.random.default_rng(0).normal(size=3_000_000).astype(np.float32)
npu = golden.astype(np.float16)
npu[[5, 2_999_999]] = np.nan
golden[5] = np.nan
found = row(golden, npu)
print(found.metrics["Worst"] == found.metrics["MaxAbsoluteError"] > 0, max(sizes), sum(sizes), found.metrics["Second"])
""") == ["True 65536 2999998 2999998.0"]


def test_a_metric_of_sums_is_computed_for_complex_numbers_and_nan_where_nothing_is_defined() -> None:
    assert said("""
acccmp.add_metric(Metric("Ratio", "higher", 1.0, "ratio", "-", of=lambda s: s.squares_npu / s.squares_golden))
acccmp.add_metric(Metric("Block", "lower", 0.0, "block", "-", block=lambda g, n, s: [g.max()]))
for dtype in ("f4", "i8", "c8", "?"):
    found = row(np.array([1, 0], dtype), np.array([1, 0], dtype)).metrics
    print(dtype, found["Ratio"], found["Block"])
print(row(np.zeros(2), np.ones(2)).metrics["Ratio"], row(np.full(2, np.nan), np.ones(2)).metrics["Block"])
""") == ["f4 1.0 1.0", "i8 1.0 1.0", "c8 1.0 nan", "? nan nan", "nan nan"]


def test_a_metric_of_which_more_is_better_is_judged_and_drawn_from_its_best() -> None:
    assert said("""
acccmp.add_metric(Metric("Same", "higher", 1.0, "share of equal elements", "how far the others are off",
                         block=lambda g, n, s: [np.count_nonzero(g == n) / s.count], most=1.0))
limits = acccmp.Thresholds("mine", {"Same": 0.9})
found = row(np.arange(4.0), np.float64([0, 1, 2, 4]), thresholds=limits)
print(found.verdict, found.reason, found.error, round(found.limit, 9))
print(row(np.arange(4.0), np.arange(4.0), thresholds=limits).verdict)
refused(lambda: acccmp.Thresholds("mine", {"Same": 1.5}))
""") == [
        "drift Same 0.75 (limit 0.9) 0.25 0.1", "match",
        "thresholds mine, Same: must be above 0, at most 1, found 1.5",
    ]


def test_what_is_wrong_with_a_metric_is_one_line() -> None:
    said_ = said("""
def of(sums): return sums.nothing
refused(lambda: Metric("small", "lower", 0.0, "-", "-", of=of))
refused(lambda: Metric("Verdict", "lower", 0.0, "-", "-", of=of))
refused(lambda: Metric("Neither", "lower", 0.0, "-", "-"))
refused(lambda: acccmp.add_metric(Metric("CosineSimilarity", "lower", 0.0, "-", "-", of=of)))
refused(lambda: acccmp.add_metric(7))
acccmp.add_metric(Metric("Mine", "lower", 0.0, "-", "-", of=of))
refused(lambda: row([1.0], [1.0]))
acccmp.add_metric(Metric("Mine", "lower", 0.0, "-", "-", of=lambda sums: 5))
print(row([1.0], [1.0]).metrics["Mine"])
""")
    assert said_ == [
        "a metric is named 'small': its name must begin with a capital letter",
        "a metric is named 'Verdict', as a column of report.csv is; give it another name",
        "the metric Neither must have either `of` or `block`",
        "what is added has the name of a metric of acccmp, 'CosineSimilarity'; give it another name",
        "what is added is no acccmp.core.metrics.Metric, but int",
        "the metric Mine cannot be computed: AttributeError: 'Partial' object has no attribute 'nothing'; "
        "mend it or take it away",
        "5.0",
    ]


def test_a_layout_that_was_added_is_undone_before_comparing() -> None:
    assert said("""
golden = np.arange(2 * 5 * 2 * 3, dtype=np.float32).reshape(2, 5, 2, 3)
stored = np.zeros((3, 2, 2, 2, 4), np.float32)  # W C1 N H C0: blocks of 4 channels
for n, c, h, w in np.ndindex(golden.shape):
    stored[w, c // 4, n, h, c % 4] = golden[n, c, h, w]
print(row(golden, stored, "WC1NHC0").verdict)
acccmp.add_layout(Layout("WC1NHC0", "W C1 N H C0", block="C"))
print(row(golden, stored, "WC1NHC0").verdict)
stored[1, 1, 0, 1, 0] += 100
found = row(golden, stored, "WC1NHC0")
print(found.verdict, found.max_error_index)
refused(lambda: acccmp.add_layout(Layout("NC1HWC0", "N C1 H W C0", block="C")))
refused(lambda: Layout("HALF", "N C1 H W", block="C"))
""") == [
        "shape", "match", "drift (0, 4, 1, 1)",
        "what is added has the name of a layout of acccmp, 'NC1HWC0'; give it another name",
        "the layout HALF: of an axis that is cut, 'N C1 H W' must name both parts (C1 and C0), and the blocks are of "
        "such an axis, not of 'C'",
    ]


@pytest.mark.parametrize("row", [row for row in LAYOUTS if row.block], ids=lambda row: row.name)
def test_each_blocked_layout_says_its_block_axes_and_takes_their_edge_from_what_is_stored(row: layouts.Layout) -> None:
    own, shape = (None, (3, 37, 41)) if row.is_positional else (
        ("NCDHW", (3, 37, 2, 2, 3)) if "D" in row.axes else
        (None, (37, 2, 3)) if "N" not in row.axes else ("NCHW", (3, 37, 2, 3)))
    values = np.arange(np.prod(shape), dtype=np.int64).reshape(shape)
    for c0 in {row.c0} if row.c0 else {4, 16, 32}:
        stored = layouts.to_stored(values, own, row.name, c0)
        assert row.edge_of(stored.shape) == c0
        assert layouts.fits(row.name, stored.shape, own, shape)
        whole = tuple(slice(0, n) for n in shape)
        assert (layouts.read_region(stored, row.name, own, shape, whole) == values).all()


def test_docs_list_every_metric_as_its_row_says() -> None:
    """To renew docs/metrics.md, print `table()` into it."""
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert table() in text, table()


def table() -> str:
    def cells(*texts: str) -> str:
        return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in texts)} |"

    lines = [cells("metric", "better", "best", "says", "blind to", "odd data"), "|---|---|---|---|---|---|"]
    for row in METRICS:
        best = "" if row.best is None else f"{row.best:g}"
        lines.append(cells(f"`{row.name}`", row.better, best, row.says, row.blind_to, row.odd))
    return "\n".join(lines) + "\n"

