"""The baseline file: what was good in the last release, a line a port."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from acccmp.core import reading
from acccmp.core.writing import replacing
from acccmp.errors import FormatError, InputError
from acccmp.releases.sketch import SKETCH_ROWS, _short, sketch
from acccmp.reports.pair import Verdict
from acccmp.reports.report import Comparison, Report

SCHEMA = "acccmp.baseline/1"
MOST_BYTES = 512 << 20  # a larger file is no baseline


@dataclass(frozen=True)
class Entry:
    """One line of a baseline: a port in one case. `count` is the number of elements that were compared."""

    port: str
    case: str
    verdict: str
    error: float | None = None
    floor: float | None = None
    cosine: float | None = None
    max_abs: float | None = None
    count: int = 0
    hash: str = ""
    norm: float | None = None
    sketch: str = ""
    accepted: bool = False

    @property
    def over_floor(self) -> float | None:
        """The error in floors: 1 where storage loses nothing and nothing was lost, None where there is no floor."""
        if self.error is None or self.floor is None:
            return None
        return self.error / self.floor if self.floor else 1.0 if self.error == 0 else None


@dataclass(frozen=True)
class Baseline:
    """The entries of one model, by port and case."""

    model: str
    entries: Mapping[tuple[str, str], Entry] = field(repr=False)


def entries_of(reports: Mapping[str, Report], accepted: Iterable[str] = ()) -> dict[tuple[str, str], Entry]:
    """A line for each judged port of each case, and for model outputs that are missing."""
    stored = frozenset(accepted)
    found = {}
    for case, report in reports.items():
        for row in report.comparisons:
            if row.is_judged or row.is_bad:
                found[str(row.port), case] = _entry(row, case, str(row.port) in stored)
    return found


def _entry(row: Comparison, case: str, accepted: bool) -> Entry:
    digest, norm, sums, count = "", None, "", 0
    if row.npu is not None and row.verdict not in (Verdict.UNREADABLE, Verdict.SHAPE, Verdict.DTYPE):
        count = math.prod((row.golden or row.npu).own_shape)  # the NPU's may hold padding
        digest = hashlib.sha256(row.npu.raw()).hexdigest()[:16]
        norm, sums = sketch(row.npu)
    return Entry(
        str(row.port), case, str(row.verdict), _short(row.error), _short(row.floor),
        _short(row.metrics.get("CosineSimilarity", math.nan)), _short(row.metrics.get("MaxAbsoluteError", math.nan)),
        count, digest, norm, sums, accepted,
    )


_FIELDS = {
    "port": str, "case": str, "verdict": str, "error": float, "floor": float, "cosine": float, "max_abs": float,
    "count": int, "hash": str, "norm": float, "sketch": str, "accepted": bool,
}


def text_of(baseline: Baseline) -> str:
    """The file's text: a header line, then one line per port and case, sorted by port, then case."""
    lines = [json.dumps({"schema": SCHEMA, "model": baseline.model}, ensure_ascii=True)]
    for key in sorted(baseline.entries):
        entry = baseline.entries[key]
        data = {name: getattr(entry, name) for name in _FIELDS}
        if not entry.accepted:
            del data["accepted"]
        lines.append(json.dumps({k: "inf" if v == math.inf else v for k, v in data.items()}, ensure_ascii=True))
    return "\n".join(lines) + "\n"


def write(baseline: Baseline, path: reading.FilePath) -> None:
    """Write it whole or not at all, on the disk before it takes the place of the old one."""
    with replacing(Path(path), durable=True) as file:
        file.write(text_of(baseline).encode("ascii"))


def read(path: reading.FilePath) -> Baseline:
    """The baseline in a file. Raises InputError when it is missing or of another schema, FormatError (with the line)
    when it is damaged; both say how to make a new one."""
    again = f"make a new one: acccmp check GOLDEN NPU --baseline {path} --update"
    file = Path(path)
    if not file.exists():
        raise InputError(f"{path}: no baseline there; {again}")
    lines = reading.read_text(file, MOST_BYTES, errors="replace").split("\n")
    if not lines[0].strip():
        raise FormatError(f"{path}: line 1 is empty, so it is no baseline; {again}")
    elsewhere = f"delete it or give another name, and {again}"
    header = _line(lines[0], f"{path}: line 1", elsewhere)
    schema = header.get("schema")
    if schema != SCHEMA:
        version, mine = _version(schema), _version(SCHEMA) or 0
        if version is None:
            raise FormatError(f"{path}: line 1 is no header of a baseline; {elsewhere}")
        if version > mine:
            raise InputError(
                f"{path}: is of schema {version}, newer than {mine}, which this acccmp knows; use a newer acccmp, or "
                f"{elsewhere}"
            )
        raise InputError(f"{path}: is of the older schema {version}, this acccmp writes {mine}; {again}")
    entries = {}
    for number, line in enumerate(lines[1:], 2):
        if line.strip():
            entry = _read_entry(line, f"{path}: line {number}", again)
            entries[entry.port, entry.case] = entry
    return Baseline(str(header.get("model", "")), entries)


def read_to_replace(path: str | Path) -> tuple[Baseline | None, str]:
    """The baseline that an update is about to replace, and what is lost with it.

    None for a file that is not there. A baseline of an older schema or with damaged lines is given up: None, and the
    text says why. A file that is no baseline at all is not to be overwritten: raises FormatError.
    """
    if not Path(path).exists():
        return None, ""
    try:
        return read(path), ""
    except (InputError, FormatError) as error:
        if not _is_ours(Path(path)):
            raise
        return None, str(error).partition("; make a new one")[0]


def _is_ours(file: Path) -> bool:
    """Is it an empty file, or one with the header of a baseline, not newer than this one?"""
    if not file.is_file():
        return False
    first = reading.first_bytes(file, 1 << 16).split(b"\n")[0]
    if not first.strip():
        return file.stat().st_size < 1 << 16
    try:
        schema = reading.parse_json(first, file).get("schema", "")
    except (FormatError, AttributeError):
        return False
    return _version(schema) is not None and (_version(schema) or 0) <= (_version(SCHEMA) or 0)


def _version(schema: object) -> int | None:
    """1 for `acccmp.baseline/1`; None for what is no schema of a baseline."""
    text = schema if isinstance(schema, str) else ""
    number = text.removeprefix("acccmp.baseline/")
    return int(number) if number != text and number.isdecimal() and len(number) < 9 else None


def _line(text: str, where: str, again: str) -> dict[str, Any]:
    try:
        data = reading.parse_json(text, where)
    except FormatError:
        data = None
    if not isinstance(data, dict):
        raise FormatError(f"{where} is no JSON object; was it edited by hand? {again}")
    return data


def _read_entry(text: str, where: str, again: str) -> Entry:
    data = _line(text, where, again)
    values: dict[str, Any] = {}
    for name, kind in _FIELDS.items():
        value = data.get(name)
        if value == "inf" and kind is float:
            value = math.inf
        if value is None and name not in ("port", "case", "verdict"):
            continue
        good = isinstance(value, (int, float) if kind is float else kind)
        if not good or (kind is not bool and isinstance(value, bool)):
            raise FormatError(f"{where} has {name} = {value!r}, wanted {kind.__name__}; {again}")
        values[name] = kind(value)
    if values["verdict"] not in _RANK:
        raise FormatError(f"{where} has the verdict {values['verdict']!r}, which is none; {again}")
    try:
        whole = len(base64.b64decode(values.get("sketch", ""), validate=True)) in (0, 2 * SKETCH_ROWS)
    except ValueError:
        whole = False
    if not whole:
        raise FormatError(f"{where} has a damaged sketch; {again}")
    return Entry(**values)


def lines_changed(before: Baseline | None, after: Baseline) -> tuple[int, int, int]:
    """What a review of the two files would show: (lines changed, lines added, lines removed)."""
    old = before.entries if before is not None else {}
    common = old.keys() & after.entries.keys()
    changed = sum(1 for key in common if old[key] != after.entries[key])
    return changed, len(after.entries) - len(common), len(old) - len(common)


# Verdicts that can be in a baseline, worst first.
_RANK: Mapping[str, int] = {
    str(verdict): rank for rank, verdict in enumerate((
        Verdict.UNREADABLE, Verdict.DTYPE, Verdict.SHAPE, Verdict.OVERFLOW, Verdict.NONFINITE, Verdict.NO_NPU,
        Verdict.NO_GOLDEN, Verdict.DRIFT, Verdict.MATCH,
    ))
}
