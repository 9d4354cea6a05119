"""Folders that MindSpore itself dumps (`MINDSPORE_DUMP_CONFIG`): npy files with long names, and `statistic.csv`.

    <path>/rank_<device>/<net name>/<graph id>/<iteration>/
        <op type>.<op name>.<task>.<stream>.<time>.<input|output>.<index>.<layout>[.<dtype>].npy
        statistic.csv
        constants/Parameter.data-<id>.0.0.<time>.output.0.DefaultFormat.<dtype>.npy

Op names have `--` or `_` where the scope has `/`. bfloat16 is saved as float32 and int4 as int8; the dtype in the name
is the device's. Grammar and columns: MindSpore's documentation of Dump. Which folder of a tree is read is
`acccmp.dumps.tree`'s choice; msprobe's folders are `acccmp.dumps.msprobe`'s.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from acccmp.core import reading
from acccmp.core.dump import Dump, Port, Side, Statistics
from acccmp.core.names import few
from acccmp.core.tensor import ConvertedRef
from acccmp.dumps import arrays, names
from acccmp.dumps.names import TensorName
from acccmp.errors import FormatError, InputError

STATISTICS = "statistic.csv"
CONSTANTS = "constants"
_LARGEST_TABLE = 1 << 30  # bytes of statistic.csv
_SIDES: dict[str, Side] = {"input": "input", "output": "output"}


def looks_like_mindspore(folder: Path) -> bool:
    """Does this one folder hold MindSpore's statistics, or npy files with its names?"""
    if (folder / STATISTICS).is_file():
        return True
    npy = (entry.name for entry in reading.listed(folder) if entry.name.endswith(".npy"))
    return any(names.parse_converted(name) is not None for name in npy)


def read_folder(folder: Path, root: Path | None = None) -> Dump:
    """The npy files of one iteration, and the statistics beside them.

    Where an op was dumped twice the newest file counts. A folder with statistics alone gives a Dump without tensors
    and a note. Parameters in `constants/` are op `data-<id>` of type `Parameter`. Damaged files are in `broken`; one
    damaged statistic.csv is a note. Files outside of `root` (by default the folder itself) are not read. Raises
    InputError for folders with neither.
    """
    root = root or folder
    outside = (folder / CONSTANTS).is_dir() and not reading.is_inside(folder / CONSTANTS, root)
    notes = [f"{folder / CONSTANTS}: a link that leads out of {root} was not followed"] if outside else []
    statistics: dict[Port, Statistics] = {}
    try:
        statistics = read_statistics(folder / STATISTICS, root) if (folder / STATISTICS).is_file() else {}
    except FormatError as error:
        notes.append(str(error))
    files = [(path, _with_dtype(told, statistics.get(told.port))) for path, told in _files(folder, root)]
    dump = arrays.tensors_in(folder, files, root)
    notes += dump.notes
    wider = sorted({ref.dtype.name for ref in dump.values() if isinstance(ref, ConvertedRef)})
    if wider:
        notes.append(f"{', '.join(wider)} tensors were saved in a wider type by MindSpore: they are judged as what the "
                     "device had")
    untold = {told.port for _, told in files if told.dtype is None}
    unsure = [str(port) for port, ref in dump.items() if port in untold and ref.dtype.name == "float32"]
    if unsure:
        notes.append(f"{len(unsure)} tensors are judged as float32: MindSpore saves bfloat16 as float32, and neither "
                     f"their names nor {STATISTICS} tell which it was: {few(unsure)}")
    if not files and not statistics:
        raise InputError(f"{folder}: no dump of MindSpore here (no {STATISTICS}, no npy files with its names)")
    if not files:
        notes.append(f"only statistics were dumped ({len(statistics)} tensors); dump with saved_data \"tensor\"")
    return replace(dump, notes=tuple(notes), statistics=statistics)


def _with_dtype(told: TensorName, row: Statistics | None) -> TensorName:
    """Older MindSpore does not write the type into the name; its statistics have it."""
    return told if told.dtype is not None or row is None else replace(told, dtype=row.dtype)


def _files(folder: Path, root: Path) -> Iterator[tuple[str, TensorName]]:
    """The tensors of a folder and of its `constants`, long names looked up."""
    for place in (folder, folder / CONSTANTS):
        if not place.is_dir() or not reading.is_inside(place, root):
            continue
        mapping = names.read_mapping(place)
        for entry in reading.listed(place):
            told = names.parse_converted(names.real_name(entry.name, mapping))
            if told is not None and entry.name.endswith(".npy"):
                yield entry.path, told


def read_statistics(path: Path, inside: Path | None = None) -> dict[Port, Statistics]:
    """The rows of a statistic.csv; of several rows for one tensor the newest counts.

    Raises FormatError for a table without the columns that name a tensor, and for one that cannot be read.
    """
    found: dict[Port, Statistics] = {}
    times: dict[Port, int] = {}
    try:
        with reading.opened(path, inside, _LARGEST_TABLE) as raw:
            rows = csv.DictReader(io.TextIOWrapper(raw, encoding="utf-8", errors="replace", newline=""))
            missing = [key for key in ("Op Type", "Op Name", "IO", "Slot") if key not in (rows.fieldnames or ())]
            if missing:
                raise FormatError(f"{path}: not a table of MindSpore's statistics: no column {missing[0]!r}")
            for row in rows:
                stats, time = _row({str(key): (value or "").strip() for key, value in row.items() if key})
                if stats is not None and time >= times.get(stats.port, -1):
                    found[stats.port], times[stats.port] = stats, time
    except (OSError, csv.Error) as error:
        raise FormatError(f"{path}: cannot be read: {error}") from None
    return found


_KEYS = frozenset({
    "Op Type", "Op Name", "Task ID", "Stream ID", "Timestamp", "IO", "Slot", "Data Size", "Data Type", "Shape",
})


def _row(row: dict[str, str]) -> tuple[Statistics | None, int]:
    side = _SIDES.get(row["IO"].lower())
    if side is None or not reading.is_number(row["Slot"]) or not row["Op Name"]:
        return None, 0
    values = {}
    for key, text in row.items():
        if key not in _KEYS and text:
            try:
                values[key] = float(text)
            except ValueError:
                values[key] = math.nan
    size, time = row.get("Data Size", ""), row.get("Timestamp", "")
    return Statistics(
        Port(row["Op Name"], side, int(row["Slot"])), names.dtype_named(row.get("Data Type", "")),
        _shape(row.get("Shape", "")), int(size) if reading.is_number(size) else None, row["Op Type"], values,
    ), int(time) if reading.is_number(time) else 0


def _shape(text: str) -> tuple[int, ...] | None:
    """`(1, 3, 8, 8)` or `1x3x8x8`; `()` is a scalar."""
    if not text:
        return None
    parts = [part for part in text.strip("()[]").replace("x", ",").split(",") if part.strip()]
    return tuple(int(p) for p in parts) if all(reading.is_number(p.strip()) and len(p) < 19 for p in parts) else None
