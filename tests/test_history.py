"""The history keeps releases in one SQLite file and marks where a layer's error jumped."""

from __future__ import annotations

import csv
import io
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from report_factory import HOSTILE, hostile_report, make_report

from acccmp.errors import FormatError, InputError
from acccmp.releases import history
from acccmp.reports.report import Report


def healthy(seed: int = 0) -> Report:
    return make_report(8, fault=None, every_verdict=False, seed=seed)


def with_error(report: Report, port: str, error: float) -> Report:
    return replace(report, comparisons=tuple(
        replace(row, error=error) if str(row.port) == port else row for row in report.comparisons
    ))


def filled(path: Path, errors: list[float]) -> str:
    """A history in which one port had these errors, a release a day."""
    report = healthy()
    port = str(report.outputs[0].port)
    for day, error in enumerate(errors, 1):
        history.add(
            path, {"cat": with_error(report, port, error)}, release=f"2026.{day}", model="net",
            made=datetime(2026, 1, day, tzinfo=UTC),
        )
    return port


def test_a_jump_is_marked_where_it_happened(tmp_path: Path) -> None:
    port = filled(tmp_path / "h.db", [1.0e-3, 1.1e-3, 0.9e-3, 1.05e-3, 4e-3, 4.1e-3])
    points = history.series(tmp_path / "h.db", port)
    assert [point.run.release for point in points if point.jumped] == ["2026.5", "2026.6"]
    assert [point.error for point in points][:2] == [1.0e-3, 1.1e-3]


def test_ordinary_scatter_is_no_jump(tmp_path: Path) -> None:
    rng = random.Random(1)
    port = filled(tmp_path / "h.db", [1e-3 * rng.lognormvariate(0, 0.2) for _ in range(25)])
    assert not any(point.jumped for point in history.series(tmp_path / "h.db", port))


def test_what_jumped_in_the_newest_release_is_listed(tmp_path: Path) -> None:
    port = filled(tmp_path / "h.db", [1e-3, 1e-3, 5e-3])
    assert [point.port for point in history.latest_jumps(tmp_path / "h.db")] == [port]


def test_every_run_is_kept_with_its_case(tmp_path: Path) -> None:
    history.add(tmp_path / "h.db", {"cat": healthy(), "dog": healthy(1)}, release="a")
    assert [(run.release, run.case, run.passed) for run in history.runs(tmp_path / "h.db")] == [
        ("a", "cat", True), ("a", "dog", True),
    ]


def test_an_unknown_port_is_answered_with_close_ones(tmp_path: Path) -> None:
    port = filled(tmp_path / "h.db", [1e-3])
    with pytest.raises(InputError, match="did you mean"):
        history.series(tmp_path / "h.db", port[:-1])


def test_a_file_of_the_first_schema_is_migrated_and_keeps_its_runs(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    old = sqlite3.connect(path)
    for statement in history.MIGRATIONS[0]:
        old.execute(statement)
    old.execute(f"PRAGMA application_id = {history.APPLICATION_ID}")
    old.execute("PRAGMA user_version = 1")
    old.execute("INSERT INTO runs VALUES (1, '2025-01-01T00:00:00+00:00', 'r0', 'cat', 'net', 'npu', 1, 1.0)")
    old.execute("INSERT INTO ports VALUES (1, 'conv:output:0', 0, 'match', 0.001)")
    old.commit()
    old.close()
    history.add(path, {"cat": healthy()}, release="r1")
    assert [run.release for run in history.runs(path)] == ["r0", "r1"]
    assert history.series(path, "conv:output:0")[0].error == 0.001
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchone()[0] == history.VERSION


def test_a_newer_schema_another_database_and_no_database_are_told_apart(tmp_path: Path) -> None:
    newer = tmp_path / "newer.db"
    history.add(newer, {"a": healthy()}, release="r")
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(FormatError, match="newer acccmp"):
        history.runs(newer)
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE t (x)")
    with pytest.raises(FormatError, match="none of acccmp's"):
        history.runs(foreign)
    (tmp_path / "text.db").write_text("not a database, but long enough to be looked at " * 20)
    with pytest.raises(FormatError, match="is it a history file"):
        history.runs(tmp_path / "text.db")
    with pytest.raises(InputError, match="no history there"):
        history.runs(tmp_path / "none.db")


def test_a_failing_write_leaves_nothing_of_its_run(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    filled(path, [1e-3])
    bad = replace(healthy(), comparisons=(replace(healthy().comparisons[1], error="no number"),))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        history.add(path, {"good": healthy(), "bad": bad}, release="half")
    assert [run.release for run in history.runs(path)] == ["2026.1"]


def test_hostile_names_are_harmless_in_the_csv_and_come_back_whole(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    history.add(path, {"=case": hostile_report()}, release="=r")
    for name in HOSTILE:
        assert history.series(path, f"{name}:output:0")
    rows = list(csv.reader(io.StringIO(history.to_csv(path))))
    assert len(rows) == len(hostile_report()) + 1
    assert not any(cell.startswith(("=", "+", "@", "\t", "\r")) for row in rows[1:] for cell in row[:6])


WRITER = """
import sys
sys.path.insert(0, sys.argv[3])
from report_factory import make_report
from acccmp.releases import history
report = make_report(8, fault=None, every_verdict=False)
print("ready", flush=True)
for i in range(int(sys.argv[4])):
    history.add(sys.argv[1], {"a": report, "b": report}, release=sys.argv[2])
"""


def writer(path: Path, release: str, times: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, path, release, Path(__file__).parent, str(times)], stdout=subprocess.PIPE,
    )


def test_two_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    both = [writer(path, name, 15) for name in ("one", "two")]
    assert [child.wait() for child in both] == [0, 0]
    assert sorted(run.release for run in history.runs(path)) == ["one"] * 30 + ["two"] * 30


@pytest.mark.slow
def test_killed_at_random_moments_the_history_holds_whole_releases_only(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    history.add(path, {"a": healthy(), "b": healthy()}, release="first")
    ports = len(healthy().judged)
    moments = random.Random(7)
    for _ in range(int(os.environ.get("ACCCMP_KILLS", "6"))):
        child = writer(path, "more", 10_000)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(moments.uniform(0, 0.1))
        child.send_signal(signal.SIGKILL)
        child.wait()
        found = history.runs(path)
        assert len(found) % 2 == 0, "a release is both cases or none"
        counted = sqlite3.connect(path).execute("SELECT count(*) FROM ports GROUP BY run").fetchall()
        assert {count for (count,) in counted} == {ports}
