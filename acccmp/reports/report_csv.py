"""A report as tables: a pandas frame, and the vendor's CSV with our columns behind."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from acccmp.core.metrics import METRICS, PORT_COLUMNS, VERDICT_COLUMNS, Metric, all_metrics, computed
from acccmp.core.tensor import TensorRef
from acccmp.reports import safe
from acccmp.reports.pair import Verdict
from acccmp.reports.report import Comparison, Report

if TYPE_CHECKING:
    import pandas

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
        "reason": texts(row.told for row in rows),
        "error": floats(row.error for row in rows),
        "limit": floats(row.limit for row in rows),
        "floor": floats(row.floor for row in rows),
        "error_over_floor": floats(row.error_over_floor for row in rows),
        "judged_by": texts(row.judged_by for row in rows),
        "is_output": pd.array([row.is_output for row in rows], dtype="bool"),
        "order": whole(row.order for row in rows),
        "group": whole(row.pair.group for row in rows),
        "golden_port": texts("" if row.golden_port is None else str(row.golden_port) for row in rows),
        "originals": texts(",".join(row.originals) for row in rows),
        "npu_ops": texts(",".join(row.pair.npu_ops) for row in rows),
        "golden_dtype": texts("" if row.golden is None else row.golden.dtype.name for row in rows),
        "npu_dtype": texts("" if row.npu is None else row.npu.dtype.name for row in rows),
        "npu_layout": texts("" if row.npu is None else row.npu.layout for row in rows),
        "shape": texts(_shape(_seen(row)) for row in rows),
        "elements": whole(None if _seen(row) is None else math.prod(_seen(row) or ()) for row in rows),
        "address": whole((row.pair.address for row in rows), "UInt64"),
        "max_error_index": texts(_shape(row.max_error_index) for row in rows),
        **{name: (whole if of.prints == "count" else floats)(metric(name)) for name, of in computed().items()},
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
    """The vendor's columns, names and number formats first, then ours (`acccmp.core.metrics`), then those of others.

    Rows go by the vendor's Index (ops that implement the same originals have one). Vendor metrics print as `%.6f`
    (`nan` and `inf` where that is the result), `NaN` is what was not computed. Names are whole, with control
    characters as escapes, and an apostrophe before what a spreadsheet would take for a formula.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    vendors = _columns(of for of in METRICS if of.vendor)
    others = _columns(of for of in all_metrics().values() if of not in METRICS or not of.vendor)
    writer.writerow([*PORT_COLUMNS, *map(safe.csv, vendors), *VERDICT_COLUMNS, *map(safe.csv, others)])
    for row in sorted(report.comparisons, key=lambda row: row.pair.group):
        writer.writerow([*_port_cells(row), *(_cell(row, column) for column in vendors.values()), *_verdict_cells(row),
                         *(_cell(row, column) for column in others.values())])
    return out.getvalue()


def _columns(rows: Iterable[Metric]) -> dict[str, list[Metric]]:
    """Metrics by the column that they stand in."""
    found: dict[str, list[Metric]] = {}
    for of in rows:
        found.setdefault(of.column or of.name, []).append(of)
    return found


def _port_cells(row: Comparison) -> list[str]:
    return [
        str(row.pair.group), safe.csv(row.op_type) or "NaN", safe.csv(",".join(row.pair.npu_ops) or row.port.node),
        _decoded_as(row.npu), "NaN" if row.pair.address is None else str(row.pair.address),
        safe.csv(",".join(row.originals)) or "*", _decoded_as(row.golden), safe.csv(row.port),
        _shape(_seen(row)) or "NaN",
    ]


def _verdict_cells(row: Comparison) -> list[str]:
    return ["" if row.verdict in _COMPUTED else safe.csv(row.told or row.verdict), str(row.verdict), safe.csv(row.told)]


def _cell(row: Comparison, column: Sequence[Metric]) -> str:
    if len(column) == 4 and column[0].vendor:
        return _moments([row.metrics.get(of.name, math.nan) for of in column])
    return ";".join(_text(row, of) for of in column)


def _text(row: Comparison, of: Metric) -> str:
    if of.prints == "place":
        return _shape(getattr(row, of.held)) or "NaN"
    value: float | None = getattr(row, of.held) if of.held else row.metrics.get(of.name)
    if value is None or (of.prints == "count" and not math.isfinite(value)):
        return "NaN"
    if of.prints == "general":
        return "NaN" if math.isnan(value) else f"{value:.6g}"
    return str(int(value)) if of.prints == "count" else f"{value:.6f}"


def _decoded_as(ref: TensorRef | None) -> str:
    return "NaN" if ref is None or ref.dtype.numpy is None else ref.dtype.numpy.name


def _moments(values: Sequence[float]) -> str:
    """`(mean;std),(mean;std)`, npu's first; what is below 0.001 in magnitude prints as 0, as the vendor does it."""
    if any(math.isnan(value) for value in values):
        return "NaN"
    mean_npu, std_npu, mean_golden, std_golden = (f"{0.0 if abs(v) < 1e-3 else v:.3f}" for v in values)
    return f"({mean_npu};{std_npu}),({mean_golden};{std_golden})"
