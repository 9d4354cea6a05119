"""A report as tables: a pandas frame, the vendor's CSV with our columns behind, JSON, Markdown, a terminal screen."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from acccmp.core.tensor import TensorRef
from acccmp.reports import safe
from acccmp.reports.pair import Verdict
from acccmp.reports.report import Comparison, Report

if TYPE_CHECKING:
    import pandas

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
    for row in sorted(report.comparisons, key=lambda row: row.pair.group):
        writer.writerow(_csv_row(row))
    return out.getvalue()


def _csv_row(row: Comparison) -> list[str]:
    seen = _seen(row)
    metrics = row.metrics
    return [
        str(row.pair.group), safe.csv(row.op_type) or "NaN", safe.csv(",".join(row.pair.npu_ops) or row.port.node),
        _decoded_as(row.npu), "NaN" if row.pair.address is None else str(row.pair.address),
        safe.csv(",".join(row.originals)) or "*", _decoded_as(row.golden), safe.csv(row.port),
        "NaN" if seen is None else _shape(seen),
        *(_moments(metrics) if name == "StandardDeviation" else _fixed(metrics.get(name)) for name in VENDOR_METRICS),
        "" if row.verdict in _COMPUTED else safe.csv(row.told or row.verdict),
        str(row.verdict), safe.csv(row.told), *(_count(metrics.get(name)) for name in COUNTS),
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


# -- Markdown ----------------------------------------------------------------------------------------------------


# -- terminal ----------------------------------------------------------------------------------------------------


