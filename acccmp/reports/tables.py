"""A report as tables: a pandas frame, the vendor's CSV with our columns behind, JSON, Markdown, a terminal screen."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from acccmp.core.dump import Port
from acccmp.core.tensor import DTYPES, TensorRef
from acccmp.errors import FormatError
from acccmp.reports import safe, summary
from acccmp.reports.legend import LOOKS, METRICS
from acccmp.reports.pair import Verdict
from acccmp.reports.report import SCHEMA, Comparison, Report

if TYPE_CHECKING:
    import pandas
    from rich.console import RenderableType
    from rich.text import Text

# The vendor's algorithms in the order of its CSV (specs of the Ascend dumps, 6.2 and 6.3).
VENDOR_METRICS = (
    "CosineSimilarity", "MaxAbsoluteError", "AccumulatedRelativeError", "RelativeEuclideanDistance",
    "KullbackLeiblerDivergence", "StandardDeviation", "MeanAbsoluteError", "RootMeanSquareError", "MaxRelativeError",
    "MeanRelativeError",
)
MOMENTS = ("MeanNpu", "StdNpu", "MeanGolden", "StdGolden")  # what the text column StandardDeviation is made of
COUNTS = ("NanNpu", "NanGolden", "InfNpu", "InfGolden", "Fp16Overflow")
FLOATS = tuple(m for m in VENDOR_METRICS if m != "StandardDeviation") + MOMENTS + ("SNR(dB)", "MismatchRatio")

# Two columns are called DataType, as in the vendor's file: the NPU's and golden's.
CSV_COLUMNS = (
    "Index", "OpType", "NPUDump", "DataType", "Address", "GroundTruth", "DataType", "TensorIndex", "Shape",
    *VENDOR_METRICS, "CompareFailReason",
    "Verdict", "Reason", *COUNTS, "MaxErrorIndex", "SNR(dB)", "MismatchRatio", "Floor", "ErrorOverFloor",
)
_COMPUTED = frozenset({Verdict.OVERFLOW, Verdict.NONFINITE, Verdict.DRIFT, Verdict.MATCH})


# -- pandas ------------------------------------------------------------------------------------------------------


def to_frame(report: Report) -> pandas.DataFrame:
    """Tidy: one row per port in the report's order, one column per fact, with types.

    Texts are `string`, verdicts a category of all of `Verdict`, numbers float64 (NaN: not computed), counts and sizes
    nullable integers, shapes text such as `[1,8,6,6]`. An empty report gives the same columns and no row.
    """
    import pandas as pd

    rows = report.comparisons

    def texts(values: Iterable[str]) -> Any:
        return pd.array(list(values), dtype="string")

    def whole(values: Iterable[float | int | None], dtype: Any = "Int64") -> Any:
        known = [None if v is None or (isinstance(v, float) and not math.isfinite(v)) else int(v) for v in values]
        return pd.array(known, dtype=dtype)

    def floats(values: Iterable[float]) -> Any:
        return pd.array(list(values), dtype="float64")

    def metric(name: str) -> list[float]:
        return [row.metrics.get(name, math.nan) for row in rows]

    columns: dict[str, Any] = {
        "port": texts(str(row.port) for row in rows),
        "node": texts(row.port.node for row in rows),
        "side": pd.Categorical([row.port.side for row in rows], categories=["input", "output"]),
        "index": whole(row.port.index for row in rows),
        "op_type": texts(row.op_type for row in rows),
        "verdict": pd.Categorical([str(row.verdict) for row in rows], categories=[str(v) for v in Verdict]),
        "reason": texts(row.reason for row in rows),
        "error": floats(row.error for row in rows),
        "limit": floats(row.limit for row in rows),
        "floor": floats(row.floor for row in rows),
        "error_over_floor": floats(row.error_over_floor for row in rows),
        "judged_by": texts(row.judged_by for row in rows),
        "is_output": pd.array([row.is_output for row in rows], dtype="bool"),
        "order": whole(row.order for row in rows),
        "group": whole(row.group for row in rows),
        "golden_port": texts("" if row.golden_port is None else str(row.golden_port) for row in rows),
        "originals": texts(",".join(row.originals) for row in rows),
        "npu_ops": texts(",".join(row.npu_ops) for row in rows),
        "golden_dtype": texts("" if row.golden is None else row.golden.dtype.name for row in rows),
        "npu_dtype": texts("" if row.npu is None else row.npu.dtype.name for row in rows),
        "npu_layout": texts("" if row.npu is None else row.npu.layout for row in rows),
        "shape": texts(_shape(_seen(row)) for row in rows),
        "elements": whole(None if _seen(row) is None else math.prod(_seen(row) or ()) for row in rows),
        "address": whole((row.address for row in rows), "UInt64"),
        "max_error_index": texts(_shape(row.max_error_index) for row in rows),
        **{name: floats(metric(name)) for name in FLOATS},
        **{name: whole(metric(name)) for name in COUNTS},
        "notes": texts("; ".join(row.notes) for row in rows),
    }
    return pd.DataFrame(columns)


def _seen(row: Comparison) -> tuple[int, ...] | None:
    """Shape of what was compared: the NPU's tensor as the original's, else golden's; None if neither is there."""
    ref = row.npu if row.npu is not None else row.golden
    return None if ref is None else ref.own_shape


def _shape(shape: Sequence[int] | None) -> str:
    return "" if shape is None else f"[{','.join(map(str, shape))}]"


# -- CSV ---------------------------------------------------------------------------------------------------------


def to_csv(report: Report) -> str:
    """The vendor's columns, names and number formats first, then ours: `CSV_COLUMNS`.

    Rows go by the vendor's Index (ops that implement the same originals have one). Vendor metrics print as `%.6f`
    (`nan` and `inf` where that is the result), `NaN` is what was not computed. Names are whole, with control
    characters as escapes, and an apostrophe before what a spreadsheet would take for a formula.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in sorted(report.comparisons, key=lambda row: row.group):
        writer.writerow(_csv_row(row))
    return out.getvalue()


def _csv_row(row: Comparison) -> list[str]:
    seen = _seen(row)
    metrics = row.metrics
    return [
        str(row.group), safe.csv(row.op_type) or "NaN", safe.csv(",".join(row.npu_ops) or row.port.node),
        _decoded_as(row.npu), "NaN" if row.address is None else str(row.address),
        safe.csv(",".join(row.originals)) or "*", _decoded_as(row.golden), safe.csv(row.port),
        "NaN" if seen is None else _shape(seen),
        *(_moments(metrics) if name == "StandardDeviation" else _fixed(metrics.get(name)) for name in VENDOR_METRICS),
        "" if row.verdict in _COMPUTED else safe.csv(row.reason or row.verdict),
        str(row.verdict), safe.csv(row.reason), *(_count(metrics.get(name)) for name in COUNTS),
        _shape(row.max_error_index) or "NaN", _fixed(metrics.get("SNR(dB)")), _fixed(metrics.get("MismatchRatio")),
        _general(row.floor), _general(row.error_over_floor),
    ]


def _decoded_as(ref: TensorRef | None) -> str:
    return "NaN" if ref is None or ref.dtype.numpy is None else ref.dtype.numpy.name


def _fixed(value: float | None) -> str:
    return "NaN" if value is None else f"{value:.6f}"


def _general(value: float) -> str:
    return "NaN" if math.isnan(value) else f"{value:.6g}"


def _count(value: float | None) -> str:
    return "NaN" if value is None or not math.isfinite(value) else str(int(value))


def _moments(metrics: Mapping[str, float]) -> str:
    """`(mean;std),(mean;std)`, npu's first; what is below 0.001 in magnitude prints as 0, as the vendor does it."""
    values = [metrics.get(name, math.nan) for name in MOMENTS]
    if any(math.isnan(value) for value in values):
        return "NaN"
    mean_npu, std_npu, mean_golden, std_golden = (f"{0.0 if abs(v) < 1e-3 else v:.3f}" for v in values)
    return f"({mean_npu};{std_npu}),({mean_golden};{std_golden})"


# -- JSON --------------------------------------------------------------------------------------------------------

_INFINITE = {"Infinity": math.inf, "-Infinity": -math.inf}


def to_json(report: Report, indent: int | None = 1) -> str:
    """Strict JSON of the schema `acccmp.report/1` (`report.schema.json` beside this module), pure ASCII.

    Floats are whole; NaN is `null`, infinities are the texts "Infinity" and "-Infinity". Tensors are told by where
    they are; arrays in memory are not stored.
    """
    first = report.first_bad
    stored = {
        "schema": SCHEMA,
        "passed": report.passed,
        "exit_code": report.exit_code,
        "failures": list(report.failures),
        "first_bad": None if first is None else str(first.port),
        "coverage": _stored(report.coverage),
        "element_coverage": _stored(report.element_coverage),
        "counts": {str(verdict): count for verdict, count in report.counts.items()},
        "subject": {str(key): str(value) for key, value in report.subject.items()},
        "notes": list(report.notes),
        "min_coverage": report.min_coverage,
        "strict": report.strict,
        "extra_failures": list(report.extra_failures),
        "comparisons": [_stored_row(row) for row in report.comparisons],
    }
    return json.dumps(stored, indent=indent, allow_nan=False) + "\n"


def _stored(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return float(value) if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")


def _stored_row(row: Comparison) -> dict[str, Any]:
    return {
        "port": str(row.port),
        "verdict": str(row.verdict),
        "reason": row.reason,
        "error": _stored(row.error),
        "limit": _stored(row.limit),
        "floor": _stored(row.floor),
        "judged_by": row.judged_by,
        "is_output": row.is_output,
        "order": row.order,
        "group": row.group,
        "op_type": row.op_type,
        "golden_port": None if row.golden_port is None else str(row.golden_port),
        "originals": list(row.originals),
        "npu_ops": list(row.npu_ops),
        "metrics": {name: _stored(value) for name, value in row.metrics.items()},
        "max_error_index": None if row.max_error_index is None else [int(i) for i in row.max_error_index],
        "address": row.address,
        "notes": list(row.notes),
        "golden": _stored_ref(row.golden),
        "npu": _stored_ref(row.npu),
    }


def _stored_ref(ref: TensorRef | None) -> dict[str, Any] | None:
    if ref is None:
        return None
    return {
        "path": ref.path, "dtype": ref.dtype.name, "shape": list(ref.shape), "offset": ref.offset, "size": ref.size,
        "layout": ref.layout,
        "original_shape": None if ref.original_shape is None else list(ref.original_shape),
        "original_layout": ref.original_layout, "groups": ref.groups, "fortran": ref.fortran,
    }


def from_json(text: str | bytes) -> Report:
    """The report that `to_json` wrote, equal in every field but arrays in memory.

    What follows from the comparisons (passed, counts, ...) is computed anew, never believed. Raises FormatError for
    text that is no such JSON, or of another schema version.
    """
    try:
        stored = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"report: not JSON: {error}") from error
    schema = stored.get("schema") if isinstance(stored, dict) else None
    if schema != SCHEMA:
        raise FormatError(f"report: its schema is {schema!r}, this version reads {SCHEMA!r}; compare again to renew it")
    rows = []
    for place, row in enumerate(_item(stored, "comparisons", list, "report")):
        rows.append(_row(row, f"report: comparison {place}"))
    subject = _item(stored, "subject", dict, "report")
    return Report(
        tuple(rows),
        {key: _of(value, str, f"report: subject {key}") for key, value in subject.items()},
        _texts(stored, "notes", "report"),
        _number(stored, "min_coverage", "report"),
        _item(stored, "strict", bool, "report"),
        _texts(stored, "extra_failures", "report"),
    )


def _row(stored: Any, where: str) -> Comparison:
    stored = _of(stored, dict, where)
    verdict = _item(stored, "verdict", str, where)
    if verdict not in {str(known) for known in Verdict}:
        raise FormatError(f"{where}: unknown verdict {verdict!r}")
    metrics = _item(stored, "metrics", dict, where)
    index = _optional(stored, "max_error_index", list, where)
    golden_port = _optional(stored, "golden_port", str, where)
    return Comparison(
        port=_port(_item(stored, "port", str, where), where),
        verdict=Verdict(verdict),
        metrics={name: _number(metrics, name, where) for name in metrics},
        reason=_item(stored, "reason", str, where),
        golden_port=None if golden_port is None else _port(golden_port, where),
        golden=_ref(stored, "golden", where),
        npu=_ref(stored, "npu", where),
        op_type=_item(stored, "op_type", str, where),
        originals=_texts(stored, "originals", where),
        npu_ops=_texts(stored, "npu_ops", where),
        order=_item(stored, "order", int, where),
        group=_item(stored, "group", int, where),
        is_output=_item(stored, "is_output", bool, where),
        error=_number(stored, "error", where),
        limit=_number(stored, "limit", where),
        floor=_number(stored, "floor", where),
        judged_by=_item(stored, "judged_by", str, where),
        max_error_index=None if index is None else tuple(_of(i, int, where) for i in index),
        address=_optional(stored, "address", int, where),
        notes=_texts(stored, "notes", where),
    )


def _ref(row: dict[str, Any], key: str, where: str) -> TensorRef | None:
    stored = _optional(row, key, dict, where)
    if stored is None:
        return None
    where = f"{where}, {key}"
    dtype = _item(stored, "dtype", str, where)
    if dtype not in DTYPES:
        raise FormatError(f"{where}: unknown dtype {dtype!r}")
    shape = _item(stored, "shape", list, where)
    own = _optional(stored, "original_shape", list, where)
    return TensorRef(
        _item(stored, "path", str, where), DTYPES[dtype], _dims(shape, where), _size(stored, "offset", where),
        None if stored.get("size") is None else _size(stored, "size", where), _item(stored, "layout", str, where),
        None if own is None else _dims(own, where), _optional(stored, "original_layout", str, where),
        _size(stored, "groups", where), _item(stored, "fortran", bool, where),
    )


def _item(stored: dict[str, Any], key: str, kind: type, where: str) -> Any:
    if key not in stored:
        raise FormatError(f"{where}: {key} is missing")
    return _of(stored[key], kind, f"{where}: {key}")


def _optional(stored: dict[str, Any], key: str, kind: type, where: str) -> Any:
    return None if stored.get(key) is None else _of(stored[key], kind, f"{where}: {key}")


def _of(value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise FormatError(f"{where} should be {kind.__name__}, found {type(value).__name__}")
    return value


def _texts(stored: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    return tuple(_of(text, str, f"{where}: {key}") for text in _item(stored, key, list, where))


def _number(stored: dict[str, Any], key: str, where: str) -> float:
    if key not in stored:
        raise FormatError(f"{where}: {key} is missing")
    value = stored[key]
    if value is None:
        return math.nan
    if isinstance(value, str) and value in _INFINITE:
        return _INFINITE[value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FormatError(f'{where}: {key} should be a number, null, "Infinity" or "-Infinity", found {value!r:.60}')
    try:
        return float(value)
    except OverflowError:
        raise FormatError(f"{where}: {key} is too large a number") from None


def _size(stored: dict[str, Any], key: str, where: str) -> int:
    value: int = _item(stored, key, int, where)
    if not 0 <= value < 1 << 63:
        raise FormatError(f"{where}: {key} is {value:.3e}, not a size in bytes")
    return value


def _dims(shape: list[Any], where: str) -> tuple[int, ...]:
    dims = tuple(_of(dim, int, f"{where}: shape") for dim in shape)
    if len(dims) > 64 or any(not 0 <= dim < 1 << 63 for dim in dims):
        raise FormatError(f"{where}: not the shape of a tensor")
    return dims


def _port(text: str, where: str) -> Port:
    try:
        return Port.parse(text)
    except ValueError as error:
        raise FormatError(f"{where}: {error}") from error


# -- Markdown ----------------------------------------------------------------------------------------------------


def to_markdown(report: Report, worst: int = 10) -> str:
    """For a pull request's comment: headline, first bad layer, the worst ones, counts, coverage, a folded legend.

    Below 60 kB whatever the report holds. Names stand in code spans: nothing in them links, mentions or breaks out.
    """
    lines = [f"## {safe.prose(summary.headline(report))}", ""]
    lines += [f"- {safe.prose(why)}" for why in summary.whys(report)]
    lines += ["", *markdown_first_bad(report)]
    if report.judged:
        rows = summary.worst(report, worst)
        lines += [f"### The worst {len(rows)} of {len(report.judged)} judged ports", "", *markdown_rows(rows), ""]
    lines += ["### What was compared", "", *_markdown_counts(report), f"- {safe.prose(summary.coverage(report))}"]
    lines += [f"- {safe.prose(key, 60)}: {safe.code(value, in_table=False)}" for key, value in
              list(report.subject.items())[:20]]
    if report.notes:
        lines += ["", "### Notes", "", *_cut([f"- {safe.prose(note)}" for note in report.notes], 20, "notes")]
    return "\n".join([*lines, "", *_markdown_legend(report), ""])


def markdown_first_bad(report: Report) -> list[str]:
    """The section on the first bad layer; empty when there is none."""
    row = report.first_bad
    if row is None:
        return []
    lines = [f"**First bad layer: {safe.code(row.port, in_table=False)}**" +
             (f" ({safe.code(row.op_type, 60, in_table=False)})" if row.op_type else ""), ""]
    if summary.stands_for(row):
        lines.append(f"- stands for {safe.code(summary.stands_for(row), in_table=False)}")
    return [*lines, *(f"- {safe.prose(line)}" for line in summary.first_bad(report)), ""]


def markdown_rows(rows: Iterable[Comparison]) -> list[str]:
    """A table of comparisons: port, type, verdict, error, error / limit, cosine, reason."""
    lines = ["| port | type | verdict | error | x limit | cosine | reason |", "|---|---|---|---:|---:|---:|---|"]
    for row in rows:
        cells = (
            safe.code(row.port), safe.code(row.op_type, 40) if row.op_type else "", str(row.verdict),
            summary.number(row.error), summary.number(summary.over_limit(row)), _cosine(row),
            safe.prose(row.reason, 160),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _markdown_counts(report: Report) -> list[str]:
    if not report.comparisons:
        return []
    return ["| verdict | ports | meaning |", "|---|---:|---|",
            *(f"| {verdict} | {count} | {LOOKS[verdict].means} |" for verdict, count in summary.counts(report)), ""]


def _markdown_legend(report: Report) -> list[str]:
    judged = {row.judged_by for row in report.judged}
    return [
        "<details><summary>What the numbers mean, and what each cannot see</summary>", "",
        "| metric | says | blind to |", "|---|---|---|",
        *(f"| {safe.prose(name)}{' (judged here)' if name in judged else ''} | {safe.prose(told.says)} | "
          f"{safe.prose(told.blind_to)} |" for name, told in METRICS.items()),
        "", "</details>",
    ]


def _cosine(row: Comparison) -> str:
    """Six digits: enough for the vendor's limit of 0.99, and 1.000000 is not rounded up from less than 1 - 5e-7."""
    value = row.metrics.get("CosineSimilarity", math.nan)
    return "-" if math.isnan(value) else f"{value:.6f}"


def _cut(lines: list[str], most: int, what: str) -> list[str]:
    return lines if len(lines) <= most else [*lines[:most], f"- and {len(lines) - most} more {what}"]


# -- terminal ----------------------------------------------------------------------------------------------------


def one_line(report: Report) -> str:
    """The whole report in one line, for logs: `NOT PASSED: 4 bad ports, first bad conv3:output:0 (drift, ...)`."""
    text = f"{summary.headline(report)}: {len(report.judged)} ports judged, coverage {summary.percent(report.coverage)}"
    bad = sum(row.is_bad for row in report.comparisons)
    first = report.first_bad
    if first is not None:
        text += f"; {bad} bad, first bad {safe.visible(first.port, 120)} ({first.verdict}, {summary.amount(first)})"
    elif report.judged:
        worst = report.worst(1)[0]
        text += f"; worst {safe.visible(worst.port, 120)}: {summary.amount(worst)}"
    if not report.passed and (first is None or report.extra_failures):
        text += f"; {safe.visible(report.failures[0])}"
    return text


def terminal(report: Report, width: int = 100, saved: Iterable[str] = ()) -> RenderableType:
    """One screen for people, made for `width` columns: the headline with why, error by depth, the first bad layer, the
    worst ten, counts, coverage, notes, and where the report lies (`saved`).

    A renderable of rich. Everything is told without colour too. Nothing in a name steers the terminal.
    """
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = [_headline(report)]
    parts += [_indented(why) for why in summary.whys(report)]
    parts += [Text(""), _facts((key, value) for key, value in report.subject.items())]
    if report.judged:
        parts += [Text(""), *_spark_lines(report, width)]
    parts += _first_bad_lines(report)
    if report.judged:
        parts += [Text(""), _worst_table(report, width)]
    parts += [Text(""), _counts_lines(report, width), Text.assemble(("coverage ", "bold"), summary.coverage(report))]
    notes = list(report.notes)
    parts += [Text.assemble(("note: ", "yellow"), safe.visible(note, 300)) for note in notes[:12]]
    if len(notes) > 12:
        parts.append(Text(f"and {len(notes) - 12} more notes in the report", "yellow"))
    files = [safe.visible(line, 300) for line in saved]
    if files:
        parts += [Text(""), Text.assemble(("report ", "bold"), "  ".join(files))]
    return Group(*parts)


def _headline(report: Report) -> Text:
    from rich.text import Text

    text = summary.headline(report)
    return Text(text, "bold green" if text == "PASSED" else "bold red")


def _facts(pairs: Iterable[tuple[str, str]]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for key, value in pairs:
        grid.add_row(Text(safe.visible(key, 40)), Text(safe.visible(value, 300)))
    return grid


def _spark_lines(report: Report, width: int) -> list[Text]:
    from rich.text import Text

    bars = summary.spark(report, width)
    places = len(summary.by_depth(report))
    each = f", about {places / len(bars):.2g} to a column" if len(bars) < places else ""
    each = f", {places / len(bars):.2g} to a column" if len(bars) < places else ""
    lines = [Text.assemble(("error by depth  ", "bold"), (f"{places} layers{each}; {summary.SPARK}", "dim"))]
    broad = max(1, min(4, width // len(bars)))  # a few layers get broad bars with a gap between
    bar = Text()
    for part in bars:
        column = part.sign * max(1, broad - 1) if part.sign in summary.STEPS else part.sign.center(max(1, broad - 1))
        bar.append(column + " " * (broad > 1), LOOKS[part.row.verdict].style)
    lines.append(bar)
    first = next((place * broad for place, part in enumerate(bars) if part.is_first_bad), None)
    if first is not None and report.first_bad is not None:
        room = max(8, width - 4)
        label = safe.short(report.first_bad.port.node, min(48, room))
        text = f"▲ {label}" if first + 2 + len(label) <= width else f"{label} ▲"
        lines.append(Text(" " * (first if text.startswith("▲") else max(0, first - len(label) - 1)) + text, "red"))
    return lines


def _indented(line: str) -> RenderableType:
    from rich.padding import Padding
    from rich.text import Text

    return Padding(Text(safe.visible(line, 300)), (0, 0, 0, 2), expand=False)


def _first_bad_lines(report: Report) -> list[RenderableType]:
    from rich.text import Text

    row = report.first_bad
    if row is None:
        return []
    title = Text.assemble("\n", ("first bad layer ", "bold"), (safe.visible(row.port, 160), "bold red"))
    if row.op_type:
        title.append(f" ({safe.visible(row.op_type, 60)})")
    lines: list[RenderableType] = [title]
    if summary.stands_for(row):
        lines.append(_indented(f"stands for {safe.visible(summary.stands_for(row), 160)}"))
    return lines + [_indented(line) for line in summary.first_bad(report)]


def _worst_table(report: Report, width: int) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    rows = summary.worst(report)
    wide = width >= 92
    # what the other columns take, two blanks between columns
    room = max(16, width - (54 if wide else 34) - 2)
    named = f"the worst {len(rows)} of {len(report.judged)} judged ports"
    table = Table(title=named, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("port", no_wrap=True)
    if wide:
        table.add_column("type", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("error", justify="right", no_wrap=True)
    table.add_column("x limit", justify="right", no_wrap=True)
    if wide:
        table.add_column("cosine", justify="right", no_wrap=True)
    for row in rows:
        verdict = Text(str(row.verdict), LOOKS[row.verdict].style)
        cells = [Text(safe.short(row.port, room))]
        cells += [Text(safe.short(row.op_type, 14))] if wide else []
        cells += [verdict, Text(summary.number(row.error)), Text(summary.number(summary.over_limit(row)))]
        cells += [Text(_cosine(row))] if wide else []
        table.add_row(*cells)
    return table


def _counts_lines(report: Report, width: int) -> Text:
    from rich.text import Text

    line = Text.assemble(("verdicts ", "bold"))
    used = len(line)
    for place, (verdict, count) in enumerate(summary.counts(report)):
        piece = f"{count} {verdict}"
        if used + len(piece) + 3 > width:
            line.append(",\n         ")
            used = 9
        elif place:
            line.append(", ")
        line.append(piece, LOOKS[verdict].style)
        used += len(piece) + 2
    return line if report.comparisons else line.append("none: there is nothing in this report")
