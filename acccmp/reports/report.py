"""Report: what was compared, and the verdict of each port. Judged verdicts fail closed: nothing compared is no pass."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acccmp.core.dump import Port
from acccmp.core.names import named
from acccmp.core.tensor import TensorRef
from acccmp.errors import UnknownName
from acccmp.reports.pair import BAD, FATAL, JUDGED, LISTED, UNDUE, Pair, Verdict

if TYPE_CHECKING:
    import pandas

SCHEMA = "acccmp.report/1"  # version of the JSON that `tables.to_json` writes


@dataclass(frozen=True)
class Comparison:
    """One port of the device (or, for `fused` and `no_npu`, of the original) and what became of it: its `pair`, judged.

    `metrics` are floats by their vendor names (`CosineSimilarity`, `RelativeEuclideanDistance`, ...) and our own
    (`NanNpu`, ...); a metric that could not be computed is absent or NaN. `error` is what is judged, `limit` what it is
    judged against. `hint` is what its numbers look like beside golden's. The pair's fields that views show can be asked
    for here, too.
    """

    pair: Pair
    verdict: Verdict
    metrics: Mapping[str, float] = field(default_factory=dict, hash=False)
    reason: str = ""
    error: float = math.nan
    limit: float = math.nan
    judged_by: str = "RelativeEuclideanDistance"
    max_error_index: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()
    hint: str = ""

    @property
    def told(self) -> str:
        """The reason, and the hint beside it: what every view says of this row."""
        return "; ".join(filter(None, (self.reason, f"hint: {self.hint}" if self.hint else "")))

    @property
    def port(self) -> Port:
        return self.pair.port

    @property
    def golden_port(self) -> Port | None:
        return self.pair.golden_port

    @property
    def golden(self) -> TensorRef | None:
        return self.pair.golden

    @property
    def npu(self) -> TensorRef | None:
        return self.pair.npu

    @property
    def op_type(self) -> str:
        return self.pair.op_type

    @property
    def originals(self) -> tuple[str, ...]:
        return self.pair.originals

    @property
    def order(self) -> int:
        """Place in execution."""
        return self.pair.order

    @property
    def is_output(self) -> bool:
        """Does it stand for an output of the model?"""
        return self.pair.is_output

    @property
    def floor(self) -> float:
        """What storage in the NPU's dtype alone explains on this input; NaN when it is not known."""
        return self.pair.floor

    @property
    def is_judged(self) -> bool:
        return self.verdict in JUDGED

    @property
    def is_bad(self) -> bool:
        """Beyond its limits, or not comparable although both files are there; a missing model output too."""
        return self.verdict in BAD or (self.is_output and self.verdict in (Verdict.NO_NPU, Verdict.NO_GOLDEN))

    @property
    def error_over_floor(self) -> float:
        """How many times the floor; NaN without one."""
        return self.error / self.floor if self.floor > 0 else math.nan

    @property
    def badness(self) -> float:
        """For sorting: error / limit; infinite for verdicts that are bad whatever the numbers, -1 when not judged."""
        if self.verdict in FATAL:
            return math.inf
        if not self.is_judged:
            return -1.0
        if math.isnan(self.error):
            return 0.0
        return self.error / self.limit if self.limit > 0 else (math.inf if self.error > 0 else 0.0)


def names_of(row: Comparison) -> tuple[tuple[str, ...], ...]:
    """What a comparison answers to, the surest first: its port; of an output its op, the original's port, its nodes.

    What was folded away answers to its node only when no device op stands for it.
    """
    port, op = (str(row.port),), (row.port.node,)
    if row.port.side != "output":
        return port, (), (), (), ()
    if row.verdict in LISTED:
        return port, (), (), (), op
    golden = (str(row.golden_port),) if row.golden_port is not None else ()
    return port, op, golden, row.originals, ()


@dataclass(frozen=True, eq=False)
class Report:
    """The comparisons in execution order, and what was compared.

    `subject` says what: keys `golden`, `npu`, `mapping`, `model`, `thresholds`, `acccmp`, ... (texts only).
    `notes` are said once for the whole report. `extra_failures` are reasons to fail that belong to no port.
    """

    comparisons: tuple[Comparison, ...] = field(repr=False)
    subject: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    min_coverage: float = 0.9
    strict: bool = False
    extra_failures: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.comparisons)

    def __getitem__(self, name: Port | str) -> Comparison:
        """The first comparison that `find` gives. KeyError if there is none."""
        try:
            return self.find(name)[0]
        except UnknownName:
            raise KeyError(name) from None

    def find(self, name: Port | str) -> tuple[Comparison, ...]:
        """What a name from any screen stands for: a port; else the outputs of a device op, or those that stand for an
        output port or a node of the original. Raises UnknownName."""
        return named(str(name), self._by_name, "port, op or node", "the report", "report.csv lists the ports")

    @cached_property
    def _by_name(self) -> tuple[Mapping[str, tuple[Comparison, ...]], ...]:
        tables: tuple[dict[str, tuple[Comparison, ...]], ...] = ({}, {}, {}, {}, {})
        for row in self.comparisons:
            for table, names in zip(tables, names_of(row), strict=True):
                for name in names:
                    table[name] = (*table.get(name, ()), row)
        return tables

    @cached_property
    def judged(self) -> tuple[Comparison, ...]:
        return tuple(row for row in self.comparisons if row.is_judged)

    @cached_property
    def counts(self) -> Mapping[Verdict, int]:
        """How many ports of each verdict, in the order of `Verdict`; absent ones left out."""
        found = Counter(row.verdict for row in self.comparisons)
        return {verdict: found[verdict] for verdict in Verdict if found[verdict]}

    @cached_property
    def outputs(self) -> tuple[Comparison, ...]:
        """The comparisons that stand for the model's outputs."""
        return tuple(row for row in self.comparisons if row.is_output)

    @property
    def coverage(self) -> float:
        """Judged ports / ports that the device should have and that are comparable by design; NaN for none."""
        due = [row for row in self.comparisons if row.verdict not in UNDUE]
        return len(self.judged) / len(due) if due else math.nan

    @property
    def element_coverage(self) -> float:
        """The same in elements, where sizes are known; NaN for none."""
        def size(row: Comparison) -> int:
            ref = row.golden or row.npu
            return math.prod(ref.own_shape) if ref is not None else 0

        due = sum(size(row) for row in self.comparisons if row.verdict not in UNDUE)
        return sum(size(row) for row in self.judged) / due if due else math.nan

    @cached_property
    def failures(self) -> tuple[str, ...]:
        """Why the report does not pass, a line each; empty when it passes."""
        if not self.judged:
            return ("nothing was compared", *self.extra_failures)
        found = list(self.extra_failures)
        what = self.subject.get("compared", "model output")  # a weights check says "weight"
        if not self.outputs:
            found.append(f"no {what} was compared")
        for row in self.outputs:
            if row.verdict is not Verdict.MATCH:
                found.append(f"{what} {row.golden_port or row.port} is {row.verdict}")
        found += [
            f"{row.port} is {row.verdict}"
            for row in self.comparisons
            if not row.is_output and (row.verdict in FATAL or (self.strict and row.is_bad))
        ]
        return tuple(found)

    @property
    def passed(self) -> bool:
        """Every model output was judged and matches, and nothing anywhere is unreadable, non-finite or misfit."""
        return not self.failures

    @property
    def exit_code(self) -> int:
        """0 passed, 1 not passed, 3 nothing failed but nothing was paired or too little was covered."""
        only_uncovered = all(
            row.verdict in (Verdict.NO_NPU, Verdict.NO_GOLDEN, Verdict.NOT_COMPARABLE, Verdict.MATCH) or not row.is_bad
            for row in self.comparisons
        ) and not self.extra_failures
        if not self.judged:
            return 3
        if not self.passed:
            unjudged = all(row.verdict in (Verdict.MATCH, Verdict.NOT_COMPARABLE) for row in self.outputs)
            return 3 if only_uncovered and not any(row.is_bad for row in self.judged) and unjudged else 1
        return 0 if self.coverage >= self.min_coverage else 3

    @cached_property
    def first_bad(self) -> Comparison | None:
        """Where, in execution order, error first crosses its limit; it may be inherited. Output ports come first."""
        bad = [row for row in self.judged if row.is_bad]
        return min(bad, key=lambda row: (row.order, row.port.side == "input"), default=None)

    @property
    def warnings(self) -> tuple[Comparison, ...]:
        """Inner ports that are bad although the report passes."""
        return tuple(row for row in self.judged if row.is_bad) if self.passed else ()

    def worst(self, n: int = 10) -> tuple[Comparison, ...]:
        """The `n` judged ports furthest beyond their limits, worst first; matching ones follow by error/limit."""
        return tuple(sorted(self.judged, key=lambda row: (-row.badness, row.order))[:n])

    # -- views, bound lazily -------------------------------------------------------------------------------------

    def to_frame(self) -> pandas.DataFrame:
        """One row per port, typed columns, verdicts as a category; see `acccmp.reports.report_csv.to_frame`."""
        from acccmp.plugins import find

        frame: pandas.DataFrame = find("methods", "Report.to_frame")(self)
        return frame

    def save(self, folder: str | Path) -> list[Path]:
        """Write report.csv, .json, .md and .html into this folder; see `acccmp.reports.files.write_report`."""
        from acccmp.plugins import find

        written: list[Path] = find("methods", "Report.save")(self, folder)
        return written

    def plot(self, metric: str = "error", **options: Any) -> Any:
        """The metric against execution order; see `acccmp.reports.plots.plot_report`."""
        from acccmp.plugins import find

        return find("methods", "Report.plot")(self, metric, **options)

    def plot_layer(self, name: str, **options: Any) -> Any:
        """One tensor under the microscope; see `acccmp.reports.plots.plot_layer`."""
        from acccmp.plugins import find

        return find("methods", "Report.plot_layer")(self, name, **options)

    def plot_heatmap(self, port: str, **options: Any) -> Any:
        """Where in the picture the error is; see `acccmp.reports.plots.plot_heatmap`."""
        from acccmp.plugins import find

        return find("methods", "Report.plot_heatmap")(self, port, **options)

    def _repr_html_(self) -> str:
        from acccmp.plugins import find

        return str(find("notebook", "Report")(self))

