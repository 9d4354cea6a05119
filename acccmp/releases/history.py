"""The history: errors of every layer over releases, in one SQLite file.

Writers take SQLite's own write lock at the beginning of a transaction (and wait for it up to a minute), so two of them
follow one another, and a killed one leaves the file as it was. The schema has a version; older files are migrated step
by step, newer ones refused.
"""

from __future__ import annotations

import csv
import io
import math
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from acccmp.core.names import named
from acccmp.core.reading import FilePath, refusal
from acccmp.errors import FormatError, InputError
from acccmp.reports import safe
from acccmp.reports.report import Comparison, Report, names_of
from acccmp.reports.report_json import reports_of

WAIT_SECONDS = 60.0

# One step per version: MIGRATIONS[n] brings a file from version n to n + 1.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE runs (
            id INTEGER PRIMARY KEY, made TEXT NOT NULL, release TEXT NOT NULL, case_name TEXT NOT NULL,
            model TEXT NOT NULL, npu TEXT NOT NULL, passed INTEGER NOT NULL, coverage REAL)""",
        """CREATE TABLE ports (
            run INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE, port TEXT NOT NULL, place INTEGER NOT NULL,
            verdict TEXT NOT NULL, error REAL, PRIMARY KEY (run, port)) WITHOUT ROWID""",
    ),
    (
        "ALTER TABLE ports ADD COLUMN error_limit REAL",
        "ALTER TABLE ports ADD COLUMN floor REAL",
        "CREATE INDEX ports_by_name ON ports (port, run)",
    ),
    ("ALTER TABLE ports ADD COLUMN answers_to TEXT",),  # other names of the port, a line each: names_of(Comparison)
)
VERSION = len(MIGRATIONS)
APPLICATION_ID = 0x41434350  # "ACCP": tells our files from other SQLite databases


@dataclass(frozen=True)
class Run:
    """One compared release (and case)."""

    id: int
    made: str
    release: str
    case: str
    model: str
    npu: str
    passed: bool
    coverage: float


@dataclass(frozen=True)
class Point:
    """One port in one run. `jumped` says that its error is a jump against the runs before (see `jumps`)."""

    run: Run
    port: str
    verdict: str
    error: float
    limit: float = math.nan
    floor: float = math.nan
    jumped: bool = field(default=False)


@contextmanager
def _open(path: FilePath, create: bool = False) -> Iterator[sqlite3.Connection]:
    """The database, its schema brought up to date; changes are kept only when the block ends well."""
    file = Path(path)
    there = os.path.lexists(file)
    if not create and not there:
        raise InputError(f"{path}: no history there; `acccmp history add {path} report.json --release NAME` begins one")
    if there and (wrong := refusal(file)):
        raise FormatError(f"{path}: {wrong}")
    try:
        connection = sqlite3.connect(file, timeout=WAIT_SECONDS, isolation_level=None)
    except sqlite3.Error as error:
        raise FormatError(f"{path}: cannot be opened: {error}") from None
    try:
        _bound(connection, file.stat().st_size if there else 0)
        connection.execute("PRAGMA foreign_keys = ON")
        writes = create or _version(connection) != VERSION
        connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")  # who only reads may read a read-only file
        _migrate(connection, path, writes)
        if create:
            connection.set_progress_handler(None, 0)  # what is added may be more than what is there
        yield connection
        connection.execute("COMMIT")
    except sqlite3.OperationalError as error:
        raise InputError(f"{path}: {error}; is another process writing, or the folder not writable?") from None
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter while it words the former
        raise FormatError(f"{path}: {error}; is it a history file? Give another name to begin a new one") from None
    finally:
        connection.close()  # rolls back what was not committed


def _bound(connection: sqlite3.Connection, size: int) -> None:
    """However a file of `size` bytes is made, reading it ends, and takes no more memory than it has bytes."""
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1 << 24)
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    steps = iter(range(100 + size // 1000))
    connection.set_progress_handler(lambda: next(steps, None) is None, 100_000)


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _migrate(connection: sqlite3.Connection, path: FilePath, writes: bool) -> None:
    version = _version(connection)
    owner = int(connection.execute("PRAGMA application_id").fetchone()[0])
    empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if not empty and owner != APPLICATION_ID:
        raise FormatError(f"{path}: is an SQLite file, but none of acccmp's; give another name")
    if version > VERSION:
        raise FormatError(f"{path}: is of schema {version}, this acccmp knows {VERSION}; use a newer acccmp")
    if version < 0 or _schema(connection) != _schema_of(version):
        raise FormatError(f"{path}: its tables are not those of schema {version}: somebody changed the file")
    if not writes:
        return
    for step in MIGRATIONS[version:]:
        for statement in step:
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _schema(connection: sqlite3.Connection) -> tuple[Any, ...]:
    """What a database is made of: no view, no trigger and no computed column looks like a table of ours."""
    made = connection.execute("SELECT type, name, rootpage > 0 FROM sqlite_master ORDER BY type, name").fetchall()
    columns = [connection.execute(f"PRAGMA table_xinfo({table})").fetchall() for table in ("runs", "ports")]
    return made, columns


def _schema_of(version: int) -> tuple[Any, ...]:
    with closing(sqlite3.connect(":memory:")) as connection:
        for step in MIGRATIONS[:version]:
            for statement in step:
                connection.execute(statement)
        return _schema(connection)


def add(
    path: FilePath, reports: Report | FilePath | Mapping[str, Report | FilePath], *, release: str, model: str = "",
    made: datetime | None = None,
) -> tuple[int, ...]:
    """Keep reports as one release; all of them or none. The ids of the runs.

    `reports` is one, or several by the name of their case (one input each), as `Report`s or as their report.json.
    `model` is by default their own, `made` now. Raises InputError for an empty release name, FormatError when the file
    is no history of ours.

    >>> report = acccmp.compare("golden", "npu", mapping="mapping.json")
    >>> acccmp.history.add("drift.db", report, release="2026.11")
    (1,)
    """
    reports = reports_of(reports)
    model = model or next((report.subject["model"] for report in reports.values() if "model" in report.subject), "")
    if not release.strip():
        raise InputError("--release: a name for this release is wanted, such as 2026.11")
    when = (made or datetime.now(UTC)).isoformat(timespec="seconds")
    ids = []
    with _open(path, create=True) as connection:
        for case, report in reports.items():
            cursor = connection.execute(
                "INSERT INTO runs (made, release, case_name, model, npu, passed, coverage) VALUES (?,?,?,?,?,?,?)",
                (
                    when, *map(_storable, (release, case, model, report.subject.get("npu", ""))),
                    int(report.passed), _real(report.coverage),
                ),
            )
            run = int(cursor.lastrowid or 0)
            ids.append(run)
            connection.executemany(
                "INSERT OR REPLACE INTO ports (run, port, place, verdict, error, error_limit, floor, answers_to) "
                "VALUES (?,?,?,?,?,?,?,?)",
                [
                    (
                        run, _storable(str(row.port)), row.order, str(row.verdict),
                        *map(_real, (row.error, row.limit, row.floor)), _answers_to(row),
                    )
                    for row in report.judged
                ],
            )
    return tuple(ids)


def _answers_to(row: Comparison) -> str:
    """Everything that a port is called besides its own name."""
    names = [name for table in names_of(row)[1:] for name in table]
    return _storable("\n".join(dict.fromkeys(name.replace("\n", " ") for name in names)))


def _storable(text: str) -> str:
    """SQLite wants UTF-8; half a surrogate pair in a name becomes its escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _real(value: float) -> float | None:
    """SQLite has no NaN; infinity it has."""
    return None if math.isnan(value) else float(value)


def runs(path: FilePath) -> tuple[Run, ...]:
    """All runs, oldest first. Raises InputError when there is no history, FormatError when the file is none of ours.

    >>> [run.release for run in acccmp.history.runs("drift.db")]
    ['2026.11']
    """
    with _open(path) as connection:
        rows = connection.execute(
            "SELECT id, made, release, case_name, model, npu, passed, coverage FROM runs ORDER BY made, id"
        ).fetchall()
    found = []
    for number, *texts, passed, covered in rows:
        made, release, case, model, npu = (_text(text, path) for text in texts)
        found.append(Run(number, made, release, case, model, npu, bool(passed), _number(covered, path)))
    return tuple(found)


def series(path: FilePath, port: str) -> tuple[Point, ...]:
    """One port over all runs, oldest first, jumps marked. `port` may also be the device op's name, or that of an
    original (node or port) that it stands for. Errors, limits and floors are relative Euclidean distances. Raises
    UnknownName, and InputError for a name of several ports.

    >>> [(point.run.release, point.verdict, point.jumped) for point in acccmp.history.series("drift.db", "fc")]
    [('2026.11', 'match', False)]
    """
    known = {run.id: run for run in runs(path)}
    with _open(path) as connection:
        found = _port_named(connection, _storable(port), path)
        rows = connection.execute(f"SELECT {_COLUMNS} FROM ports WHERE port = ?", (found,)).fetchall()
    return _points(known, rows, path)


def _port_named(connection: sqlite3.Connection, name: str, path: FilePath) -> str:
    if connection.execute("SELECT 1 FROM ports WHERE port = ? LIMIT 1", (name,)).fetchone():
        return name
    others: dict[str, dict[str, None]] = {}
    for port, answers_to in connection.execute("SELECT DISTINCT port, answers_to FROM ports"):
        for known in (str(port), *str(answers_to or "").split("\n")):
            others.setdefault(known, {})[str(port)] = None
    ports = named(name, (others,), "port, op or node", str(path), f"`acccmp history export {path}` lists the ports")
    if len(ports) > 1:
        raise InputError(f"{path}: {name} stands for {len(ports)} ports; say which: {', '.join(ports)}")
    return next(iter(ports))


_COLUMNS = "port, run, verdict, error, error_limit, floor"


def _points(known: Mapping[int, Run], rows: Sequence[tuple[Any, ...]], path: FilePath) -> tuple[Point, ...]:
    """Rows of one port as points, oldest first, jumps marked. A run that was added since `known` was read is left
    out."""
    points = [
        Point(
            known[run], _text(port, path), _text(verdict, path), _number(error, path), _number(limit, path),
            _number(floor, path),
        ) for port, run, verdict, error, limit, floor in rows if run in known
    ]
    points.sort(key=lambda point: (point.run.made, point.run.id))
    marks = jumps([point.error for point in points], [point.run.case for point in points])
    return tuple(replace(point, jumped=mark) for point, mark in zip(points, marks, strict=True))


def _number(value: object, path: FilePath) -> float:
    """A number of the file, whatever else was put in its place."""
    if not isinstance(value, int | float | None):
        raise FormatError(f"{path}: has {str(value)[:40]!r} where a number should be: somebody changed the file")
    return math.nan if value is None else float(value)


def _text(value: object, path: FilePath) -> str:
    if not isinstance(value, str):
        raise FormatError(f"{path}: has {str(value)[:40]!r} where a text should be: somebody changed the file")
    return value


def jumps(errors: Sequence[float], cases: Sequence[str], factor: float = 2.0, spread: float = 3.5) -> list[bool]:
    """Where a series jumped upwards against what came before it in the same case.

    A jump is an error more than `factor` times the median of the (up to 10) values before, and more than `spread`
    median absolute deviations above it on a log scale (1.4826 MAD estimates the standard deviation of normal noise:
    Hampel 1974). NaN never jumps; the first value of a case has nothing to jump from.
    """
    before: dict[str, list[float]] = {}
    marks = []
    for error, case in zip(errors, cases, strict=True):
        past = before.setdefault(case, [])
        marks.append(bool(past) and error > 0 and _is_jump(past[-10:], error, factor, spread))
        if error > 0:
            past.append(error)
    return marks


def _is_jump(past: Sequence[float], error: float, factor: float, spread: float) -> bool:
    logs = np.array([math.log(value) for value in past if math.isfinite(value)])
    if not logs.size:
        return False
    middle = float(np.median(logs))
    deviation = 1.4826 * float(np.median(np.abs(logs - middle)))
    above = math.log(error) - middle if math.isfinite(error) else math.inf
    return above > math.log(factor) and above > spread * deviation


def latest_jumps(path: FilePath) -> tuple[Point, ...]:
    """Points of the newest release (all its cases) that jumped, worst first. Raises as `runs`.

    >>> acccmp.history.latest_jumps("drift.db")
    ()
    """
    listed = runs(path)
    if not listed:
        return ()
    known, newest = {run.id: run for run in listed}, (listed[-1].made, listed[-1].release)
    by_port: dict[str, list[tuple[Any, ...]]] = {}
    with _open(path) as connection:
        for row in connection.execute(f"SELECT {_COLUMNS} FROM ports"):
            by_port.setdefault(row[0], []).append(row)
    found = [
        point for rows in by_port.values() for point in _points(known, rows, path)
        if point.jumped and (point.run.made, point.run.release) == newest
    ]
    return tuple(sorted(found, key=lambda point: -point.error))


def to_csv(path: FilePath) -> str:
    """Everything, one line per port and run. Names that a spreadsheet would take for formulas get a leading quote.
    Raises as `runs`.

    >>> acccmp.history.to_csv("drift.db").splitlines()[0]
    'made,release,case,model,port,verdict,error,limit,floor,passed'
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["made", "release", "case", "model", "port", "verdict", "error", "limit", "floor", "passed"])
    with _open(path) as connection:
        rows = connection.execute(
            "SELECT made, release, case_name, model, port, verdict, error, error_limit, floor, passed "
            "FROM ports JOIN runs ON runs.id = ports.run ORDER BY made, run, place, port"
        )
        for row in rows:
            numbers = ["" if value is None else _number(value, path) for value in row[6:9]]
            writer.writerow([*(safe.csv(_text(value, path)) for value in row[:6]), *numbers, int(bool(row[9]))])
    return out.getvalue()
