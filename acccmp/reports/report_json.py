"""A report as JSON, and back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acccmp.core.dump import Port
from acccmp.core.nouns import Noun
from acccmp.core.reading import FilePath, parse_json, read_bytes
from acccmp.core.tensor import DTYPES, ConvertedRef, DequantisedRef, TensorRef, TurnedRef
from acccmp.errors import FormatError
from acccmp.reports.pair import Pair, Verdict
from acccmp.reports.report import SCHEMA, Comparison, Report

MOST_BYTES = 1 << 30  # of a report
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
        "coverage": number_to_json(report.coverage),
        "element_coverage": number_to_json(report.element_coverage),
        "counts": {str(verdict): count for verdict, count in report.counts.items()},
        "subject": {str(key): str(value) for key, value in report.subject.items()},
        "notes": list(report.notes),
        "min_coverage": report.min_coverage,
        "strict": report.strict,
        "extra_failures": list(report.extra_failures),
        "comparisons": [row_to_json(row) for row in report.comparisons],
    }
    return json.dumps(stored, indent=indent, allow_nan=False) + "\n"


def number_to_json(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return float(value) if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")


def plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts with their floats as JSON can have them: NaN is null, infinities are texts."""
    return {key: number_to_json(value) if isinstance(value, float) else value for key, value in facts.items()}


def row_to_json(row: Comparison) -> dict[str, Any]:
    return {
        "port": str(row.port),
        "verdict": str(row.verdict),
        "reason": row.reason,
        "hint": row.hint,
        "error": number_to_json(row.error),
        "limit": number_to_json(row.limit),
        "floor": number_to_json(row.floor),
        "judged_by": row.judged_by,
        "is_output": row.is_output,
        "order": row.order,
        "group": row.pair.group,
        "op_type": row.op_type,
        "golden_port": None if row.golden_port is None else str(row.golden_port),
        "originals": list(row.originals),
        "npu_ops": list(row.pair.npu_ops),
        "metrics": {name: number_to_json(value) for name, value in row.metrics.items()},
        "max_error_index": None if row.max_error_index is None else [int(i) for i in row.max_error_index],
        "address": row.pair.address,
        "notes": list(row.notes),
        "golden": _stored_ref(row.golden),
        "npu": _stored_ref(row.npu),
    }


def _stored_ref(ref: TensorRef | None) -> dict[str, Any] | None:
    if ref is None:
        return None
    if isinstance(ref, TurnedRef):
        return {**(_stored_ref(ref.base) or {}), "axes": list(ref.axes)}
    if isinstance(ref, DequantisedRef):
        return {**(_stored_ref(ref.base) or {}), "scale": ref.scale, "zero": ref.zero}
    converted = {"base": _stored_ref(ref.base), "stored_as": ref.stored_as} if isinstance(ref, ConvertedRef) else {}
    return {
        "path": ref.path, "dtype": ref.dtype.name, "shape": list(ref.shape), "offset": ref.offset, "size": ref.size,
        "layout": ref.layout,
        "original_shape": None if ref.original_shape is None else list(ref.original_shape),
        "original_layout": ref.original_layout, "groups": ref.groups, "fortran": ref.fortran,
        **converted,
    }


def read_report(path: FilePath) -> Report:
    """The report that `Report.save` (or `acccmp compare -o`) wrote: its report.json, or the folder that holds it.

    Everything comes back but the tensors in memory (those of a model that was run, not of a golden folder): asked for,
    they are a FormatError; those in files are read where the report says, as long as they are there. `slice` wants a
    report that was compared here. Raises FormatError for a file that is no report, or one of another version.

    >>> written = acccmp.compare("golden", "npu", mapping="mapping.json").save("report")
    >>> acccmp.read_report("report/report.json")
    Report(passed: 55 match, 12 fused, 18 inserted)
    """
    file = Path(path)
    file = file / "report.json" if file.is_dir() else file
    return from_json(read_bytes(file, MOST_BYTES), file)


REPORT = Noun(Report, read_report)


def reports_of(given: Report | FilePath | Mapping[str, Report | FilePath]) -> dict[str, Report]:
    """Reports by their case (one input each); a single one is the case `default`."""
    return {case: REPORT.of(one) for case, one in (given if isinstance(given, Mapping) else {"default": given}).items()}


def from_json(text: str | bytes, where: object = "report") -> Report:
    """The report that `to_json` wrote, equal in every field but arrays in memory. `where` begins what is said of it.

    What follows from the comparisons (passed, counts, ...) is computed anew, never believed. Raises FormatError for
    text that is no such JSON, or of another schema version.
    """
    stored = parse_json(text, where)
    schema = stored.get("schema") if isinstance(stored, dict) else None
    if schema != SCHEMA:
        told = f"{where}: its schema is {schema!r}, this version reads {SCHEMA!r}"
        raise FormatError(f"{told}; compare again to renew it")
    rows = []
    for place, row in enumerate(_item(stored, "comparisons", list, str(where))):
        rows.append(row_of(row, f"{where}: comparison {place}"))
    subject = _item(stored, "subject", dict, str(where))
    return Report(
        tuple(rows),
        {key: _of(value, str, f"{where}: subject {key}") for key, value in subject.items()},
        _texts(stored, "notes", str(where)),
        _number(stored, "min_coverage", str(where)),
        _item(stored, "strict", bool, str(where)),
        _texts(stored, "extra_failures", str(where)),
    )


def row_of(stored: Any, where: str) -> Comparison:
    stored = _of(stored, dict, where)
    verdict = _item(stored, "verdict", str, where)
    if verdict not in {str(known) for known in Verdict}:
        raise FormatError(f"{where}: unknown verdict {verdict!r}")
    metrics = _item(stored, "metrics", dict, where)
    index = _optional(stored, "max_error_index", list, where)
    golden_port = _optional(stored, "golden_port", str, where)
    pair = Pair(
        port=_port(_item(stored, "port", str, where), where),
        golden_port=None if golden_port is None else _port(golden_port, where),
        golden=_ref(stored, "golden", where),
        npu=_ref(stored, "npu", where),
        op_type=_item(stored, "op_type", str, where),
        originals=_texts(stored, "originals", where),
        npu_ops=_texts(stored, "npu_ops", where),
        order=_whole(stored, "order", where),
        group=_whole(stored, "group", where),
        is_output=_item(stored, "is_output", bool, where),
        floor=_number(stored, "floor", where),
        address=_optional(stored, "address", int, where),
    )
    return Comparison(
        pair,
        Verdict(verdict),
        metrics={name: _number(metrics, name, where) for name in metrics},
        reason=_item(stored, "reason", str, where),
        hint=_optional(stored, "hint", str, where) or "",
        error=_number(stored, "error", where),
        limit=_number(stored, "limit", where),
        judged_by=_item(stored, "judged_by", str, where),
        max_error_index=None if index is None else tuple(_of(i, int, where) for i in index),
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
    axes = _optional(stored, "axes", list, where) if "axes" in stored else None
    ref = TensorRef(
        _item(stored, "path", str, where), DTYPES[dtype], _dims(shape, where), _size(stored, "offset", where),
        None if stored.get("size") is None else _size(stored, "size", where), _item(stored, "layout", str, where),
        None if own is None else _dims(own, where), _optional(stored, "original_layout", str, where),
        _size(stored, "groups", where), _item(stored, "fortran", bool, where),
    )
    base = _ref(stored, "base", where) if key != "base" else None
    if base is not None:
        ref = ConvertedRef(**vars(ref), base=base, stored_as=_item(stored, "stored_as", str, where))
    if axes is not None:
        if sorted(_dims(axes, where)) != list(range(len(ref.own_shape))):
            raise FormatError(f"{where}: the axes {axes} do not fit the shape {ref.own_shape}")
        ref = TurnedRef.turned(ref, tuple(axes))
    if "scale" in stored:
        ref = DequantisedRef.of_codes(ref, _number(stored, "scale", where), _number(stored, "zero", where))
    return ref


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
    return number_of(stored[key], f"{where}: {key}")


def number_of(value: Any, where: str) -> float:
    """What `number_to_json` gave, back."""
    if value is None:
        return math.nan
    if isinstance(value, str) and value in _INFINITE:
        return _INFINITE[value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FormatError(f'{where} should be a number, null, "Infinity" or "-Infinity", found {value!r:.60}')
    try:
        return float(value)
    except OverflowError:
        raise FormatError(f"{where} is too large a number") from None


def _whole(stored: dict[str, Any], key: str, where: str) -> int:
    value: int = _item(stored, key, int, where)
    if not -(1 << 63) <= value < 1 << 63:
        raise FormatError(f"{where}: {key} is {value:.3e}, too large a number")
    return value


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
