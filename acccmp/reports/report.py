"""Report: what was compared, and the verdict of each port. Judged verdicts fail closed: nothing compared is no pass."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, SupportsIndex, overload

from acccmp.core.dump import Dump, Port
from acccmp.core.graph import Graph
from acccmp.core.names import is_like, named
from acccmp.core.reading import FilePath
from acccmp.core.tensor import TensorRef
from acccmp.errors import UnknownName
from acccmp.plugins import find
from acccmp.reports import safe
from acccmp.reports.pair import BAD, FATAL, JUDGED, LISTED, UNDUE, Pair, Verdict

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from acccmp.mapping.device_map import DeviceMap
    from acccmp.slicing.cut import Slice

SCHEMA = "acccmp.report/1"  # version of the JSON that `tables.to_json` writes


@dataclass(frozen=True)
class Comparison:
    """One port of the device (or, for `fused` and `no_npu`, of the original) and what became of it: its `pair`, judged.

    `metrics` are floats by their vendor names (`CosineSimilarity`, `RelativeEuclideanDistance`, ...) and our own
    (`NanNpu`, ...); a metric that could not be computed is absent or NaN. `error` is what is judged, `limit` what it is
    judged against. `hint` is what its numbers look like beside golden's. The pair's fields that views show can be asked
    for here, too.

    >>> row = acccmp.compare("golden", "npu_faulty", mapping="mapping.json")["block2/conv2"]
    >>> row
    Comparison(block2/conv2block2/bn2:output:0, drift, error 0.75, limit 0.00395)
    >>> row.verdict, row.originals, row.hint
    (<Verdict.DRIFT: 'drift'>, ('block2/conv2', 'block2/bn2'), "the NPU's is golden x 0.2499, to within its limit")
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

    def __repr__(self) -> str:
        port, _, verdict, error, limit, says = _cells(self)
        numbers = f"error {error}, limit {limit}" if error != "-" else says
        return f"Comparison({', '.join(filter(None, (port, verdict, numbers)))})"

    def _repr_html_(self) -> str:
        return Rows((self,))._repr_html_()

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


_HEAD = ("port", "type", "verdict", "error", "limit", "says")
MOST_SHOWN = 20  # rows that `repr` prints


def _cells(row: Comparison) -> tuple[str, ...]:
    """A row as short texts, under `_HEAD`; the reason where it says more than the numbers."""
    error, limit = ("-" if math.isnan(value) else f"{value:.3g}" for value in (row.error, row.limit))
    says = safe.visible(row.hint or (row.reason if error == "-" else ""), None)
    says = says if len(says) <= 60 else f"{says[:59]}…"
    return safe.short(row.port, 70), safe.short(row.op_type, 20), str(row.verdict), error, limit, says


class Rows(tuple[Comparison, ...]):
    """Comparisons as a tuple that prints as a table, in a terminal and in a notebook; a part of it is one again.

    >>> acccmp.compare("golden", "npu_faulty", mapping="mapping.json").filter("drift", name="block2/")
    port                             type    verdict  error  limit    says
    block2/conv2block2/bn2:output:0  Conv2D  drift    0.75   0.00395  the NPU's is golden x 0.2499, to within its limit
    ...
    """

    __slots__ = ()

    @overload
    def __getitem__(self, at: SupportsIndex) -> Comparison: ...

    @overload
    def __getitem__(self, at: slice) -> Rows: ...

    def __getitem__(self, at: SupportsIndex | slice) -> Comparison | Rows:
        return Rows(super().__getitem__(at)) if isinstance(at, slice) else super().__getitem__(at)

    def __repr__(self) -> str:
        if not self:
            return "no rows"
        lines = [_HEAD, *(_cells(row) for row in super().__getitem__(slice(MOST_SHOWN)))]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        told = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        return "\n".join([*told, *([f"... and {len(self) - MOST_SHOWN} more"] if len(self) > MOST_SHOWN else [])])

    def _repr_html_(self) -> str:
        return str(find("notebook", "Rows")(self))


@dataclass(frozen=True, eq=False)
class Source:
    """What a report was made from, as nouns; what there was none of is None."""

    model: Graph | None
    golden: Dump
    npu: Dump
    mapping: DeviceMap | None


@dataclass(frozen=True, eq=False)
class Report:
    """The comparisons in execution order, and what was compared.

    `subject` says what: keys `golden`, `npu`, `mapping`, `model`, `thresholds`, `acccmp`, ... (texts only).
    `notes` are said once for the whole report. `extra_failures` are reasons to fail that belong to no port. `source` is
    None for a report that was read from a file.

    >>> report = acccmp.compare("resnet.onnx", "npu_faulty", mapping="mapping.json")
    >>> report.passed, report.exit_code, report.coverage
    (False, 1, 1.0)
    >>> report.first_bad
    Comparison(block2/conv2block2/bn2:output:0, drift, error 0.75, limit 0.00395)
    >>> report.slice(report.first_bad)
    Slice(2 nodes of resnet, block2/conv2 to block2/bn2, fed with 1 dumped tensors)
    >>> len(report), sum(row.is_bad for row in report), len(report.to_frame())
    (85, 31, 85)
    """

    comparisons: Sequence[Comparison]
    subject: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    min_coverage: float = 0.9
    strict: bool = False
    extra_failures: tuple[str, ...] = ()
    source: Source | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "comparisons", Rows(self.comparisons))

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {verdict}" for verdict, count in self.counts.items()) or "no ports"
        first = f"; first bad {safe.short(self.first_bad.port, 70)}" if self.first_bad is not None else ""
        return f"Report({'passed' if self.exit_code == 0 else 'not passed'}: {counts}{first})"

    def __len__(self) -> int:
        return len(self.comparisons)

    def __iter__(self) -> Iterator[Comparison]:
        return iter(self.comparisons)

    def __getitem__(self, name: Port | str) -> Comparison:
        """The first comparison that `find` gives. Raises UnknownName (a KeyError, with close matches)."""
        return self.find(name)[0]

    def _ipython_key_completions_(self) -> list[str]:
        return list(dict.fromkeys(name for table in self._by_name for name in table))

    def find(self, name: Port | str) -> Rows:
        """What a name from any screen stands for: a port; else the outputs of a device op, or those that stand for an
        output port or a node of the original. Raises UnknownName."""
        return Rows(named(str(name), self._by_name, "port, op or node", "the report", "report.csv lists the ports"))

    def filter(
        self, verdict: Verdict | str | Collection[str] | None = None, *, op_type: str = "", name: str = "",
    ) -> Rows:
        """The rows of this verdict (or of one of several), of this type of op, of this name, in order of execution.

        `op_type` and `name` are patterns with `*` and `?`; without them they are a part of what is looked for. A row
        answers to its port, its device op, the original's port and nodes. Raises UnknownName for a verdict that is
        none.
        """
        wanted = set(Verdict if verdict is None else (verdict,) if isinstance(verdict, str) else verdict)
        for one in wanted - set(Verdict):
            raise UnknownName("verdict", one, Verdict, "acccmp", f"there are {', '.join(Verdict)}")
        return Rows(
            row for row in self if row.verdict in wanted and is_like(row.op_type, op_type)
            and any(is_like(one, name) for names in names_of(row) for one in names)
        )

    @cached_property
    def _by_name(self) -> tuple[Mapping[str, tuple[Comparison, ...]], ...]:
        tables: tuple[dict[str, tuple[Comparison, ...]], ...] = ({}, {}, {}, {}, {})
        for row in self.comparisons:
            for table, names in zip(tables, names_of(row), strict=True):
                for name in names:
                    table[name] = (*table.get(name, ()), row)
        return tables

    @cached_property
    def judged(self) -> Rows:
        return Rows(row for row in self if row.is_judged)

    @cached_property
    def counts(self) -> Mapping[Verdict, int]:
        """How many ports of each verdict, in the order of `Verdict`; absent ones left out."""
        found = Counter(row.verdict for row in self.comparisons)
        return {verdict: found[verdict] for verdict in Verdict if found[verdict]}

    @cached_property
    def outputs(self) -> Rows:
        """The comparisons that stand for the model's outputs."""
        return Rows(row for row in self if row.is_output)

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
    def warnings(self) -> Rows:
        """Inner ports that are bad although the report passes."""
        return Rows(row for row in self.judged if row.is_bad and self.passed)

    def worst(self, n: int = 10) -> Rows:
        """The `n` judged ports furthest beyond their limits, worst first; matching ones follow by error/limit."""
        return Rows(sorted(self.judged, key=lambda row: (-row.badness, row.order))[:n])

    # -- views and what follows, bound lazily --------------------------------------------------------------------

    def to_frame(self) -> pandas.DataFrame:
        """One row per port, typed columns, verdicts as a category; see `acccmp.reports.report_csv.to_frame`."""
        frame: pandas.DataFrame = find("methods", "Report.to_frame")(self)
        return frame

    def to_csv(self) -> str:
        """The vendor's table with our columns behind it; see `acccmp.reports.report_csv.to_csv`."""
        text: str = find("methods", "Report.to_csv")(self)
        return text

    def to_json(self) -> str:
        """All of it but the tensors, which are told by where they are; `acccmp.read_report` reads it."""
        text: str = find("methods", "Report.to_json")(self)
        return text

    def save(self, folder: FilePath) -> list[Path]:
        """Write report.csv, .json, .md and .html into this folder; see `acccmp.reports.files.write_report`."""
        written: list[Path] = find("methods", "Report.save")(self, folder)
        return written

    def slice(
        self, start: Comparison | str | Sequence[str] = (), end: Comparison | str | Sequence[str] = (), *,
        around: str | None = None, radius: int = 1, widen: bool = False, exact: bool = False, all_outputs: bool = False,
    ) -> Slice:
        """`acccmp.slice_model` with this report's own model, dumps and mapping. A row stands for its op; without an
        `end` the part is what `start` alone stands for.

        Raises InputError for a report that was read from a file or compared without a model, and what `slice_model`
        raises.
        """
        part: Slice = find("methods", "Report.slice")(
            self, start, end, around=around, radius=radius, widen=widen, exact=exact, all_outputs=all_outputs,
        )
        return part

    def plot(
        self, metric: str = "error", ax: Axes | None = None, *, labels: int = 6, title: str | None = None,
    ) -> Figure:
        """The metric against execution order; see `acccmp.reports.plots.plot_report`."""
        figure: Figure = find("methods", "Report.plot")(self, metric, ax, labels=labels, title=title)
        return figure

    def plot_layer(self, name: Port | str, ax: Axes | None = None, *, worst: int = 8) -> Figure:
        """One tensor under the microscope; see `acccmp.reports.layer_plot.plot_layer`."""
        figure: Figure = find("methods", "Report.plot_layer")(self, str(name), ax, worst=worst)
        return figure

    def plot_heatmap(self, port: Port | str, ax: Axes | None = None) -> Figure:
        """Where in the picture the error is; see `acccmp.reports.layer_plot.plot_heatmap`."""
        figure: Figure = find("methods", "Report.plot_heatmap")(self, str(port), ax)
        return figure

    def _repr_html_(self) -> str:
        return str(find("notebook", "Report")(self))
