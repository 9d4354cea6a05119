"""`acccmp history` on the command line: add, show, plot, export, and what is no history."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_factory import HOSTILE, hostile_report, make_report
from test_check_command import acccmp  # noqa: F401  (a fixture)

from acccmp.releases.history import Point, Run
from acccmp.reports import report_json
from acccmp.reports.report import Report
from acccmp.reports.series_plot import plot_series

PORT = str(make_report(8, fault=None, every_verdict=False).outputs[0].port)


def healthy(factor: float = 1.0) -> Report:
    report = make_report(8, fault=None, every_verdict=False)
    return replace(report, comparisons=tuple(
        replace(row, error=row.error * factor) if str(row.port) == PORT else row for row in report.comparisons
    ))


def saved(folder: Path, report: Report, name: str = "report.json") -> Path:
    path = folder / name
    path.write_text(report_json.to_json(report), encoding="utf-8")
    return path


@pytest.fixture
def filled(acccmp: Any, tmp_path: Path) -> Path:  # noqa: F811
    """Five releases; the port became four times worse in the last."""
    file = tmp_path / "drift.db"
    for number, factor in enumerate((1.0, 1.05, 0.95, 1.0, 4.0), 1):
        report = saved(tmp_path, healthy(factor))
        ran = acccmp("history", "add", file, report, "--release", f"2026.{number}")
        assert ran.code == 0
        assert "1 report kept as 2026." in ran.out
    return file


def test_show_lists_the_releases_and_what_jumped(acccmp: Any, filled: Path) -> None:  # noqa: F811
    ran = acccmp("history", "show", filled)
    assert ran.code == 0
    assert all(f"2026.{number}" in ran.out for number in range(1, 6))
    assert f"jumped: {PORT}" in ran.out
    told = json.loads(acccmp("history", "show", filled, "--json").out)
    assert told["jumped"] == [PORT]
    assert [run["release"] for run in told["runs"]] == [f"2026.{number}" for number in range(1, 6)]


def test_show_one_port_over_releases(acccmp: Any, filled: Path) -> None:  # noqa: F811
    ran = acccmp("history", "show", filled, PORT)
    assert ran.code == 0
    assert ran.out.count("jumped") == 1
    points = json.loads(acccmp("history", "show", filled, PORT, "--json").out)["points"]
    assert [point["jumped"] for point in points] == [False] * 4 + [True]
    assert points[4]["error"] == pytest.approx(4 * points[0]["error"])


def test_an_unknown_port_is_answered_with_close_ones(acccmp: Any, filled: Path) -> None:  # noqa: F811
    ran = acccmp("history", "show", filled, PORT[:-2])
    assert ran.code == 2
    assert f"did you mean {PORT}" in ran.err


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_plot_writes_a_picture(acccmp: Any, filled: Path, tmp_path: Path, ending: str) -> None:  # noqa: F811
    target = tmp_path / "new" / f"drift.{ending}"
    assert acccmp("history", "show", filled, PORT, "--plot", target).code == 0
    assert target.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_plot_wants_a_port_and_a_kind_of_picture(acccmp: Any, filled: Path, tmp_path: Path) -> None:  # noqa: F811
    assert "--plot draws one port" in acccmp("history", "show", filled, "--plot", "x.png").err
    ran = acccmp("history", "show", filled, PORT, "--plot", tmp_path / "drift.docx")
    assert ran.code == 2
    assert ".png" in ran.err


def test_export_as_csv(acccmp: Any, filled: Path, tmp_path: Path) -> None:  # noqa: F811
    out = acccmp("history", "export", filled).out
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 5 * len(healthy().judged)
    mine = [float(row["error"]) for row in rows if row["port"] == PORT]
    assert mine[4] == pytest.approx(4 * mine[0])
    acccmp("history", "export", filled, "--csv", tmp_path / "h.csv")
    assert (tmp_path / "h.csv").read_text(encoding="utf-8") == out


def test_several_reports_are_cases_of_one_release(acccmp: Any, tmp_path: Path) -> None:  # noqa: F811
    file = tmp_path / "h.db"
    reports = [saved(tmp_path, healthy(), f"{n}.json") for n in range(3)]
    ran = acccmp("history", "add", file, *reports, "--release", "r", "--case", "dog")
    assert "3 reports kept" in ran.out
    told = json.loads(acccmp("history", "show", file, "--json").out)
    assert [run["case"] for run in told["runs"]] == ["dog 1", "dog 2", "dog 3"]


def test_a_jump_in_any_case_of_the_newest_release_is_listed(acccmp: Any, tmp_path: Path) -> None:  # noqa: F811
    file = tmp_path / "h.db"
    good, bad = saved(tmp_path, healthy(), "good.json"), saved(tmp_path, healthy(5.0), "bad.json")
    for number in range(4):
        acccmp("history", "add", file, good, good, "--release", str(number))
    acccmp("history", "add", file, bad, good, "--release", "newest")
    assert json.loads(acccmp("history", "show", file, "--json").out)["jumped"] == [PORT]
    acccmp("history", "add", file, good, good, "--release", "repaired")
    told = json.loads(acccmp("history", "show", file, "--json").out)
    newest = told["runs"][-1]
    assert newest["release"] == "repaired"
    assert told["jumped"] == []


@pytest.mark.parametrize(("text", "message"), [
    ("nonsense", "report"), ("{}", "report"), ('{"schema": "acccmp.report/9"}', "acccmp.report/9"), ("\xff\xfe", ""),
])
def test_what_is_no_report_is_not_kept(acccmp: Any, tmp_path: Path, text: str, message: str) -> None:  # noqa: F811
    (tmp_path / "r.json").write_bytes(text.encode("latin-1"))
    ran = acccmp("history", "add", tmp_path / "h.db", tmp_path / "r.json", "--release", "r")
    assert ran.code == 2
    assert message in ran.err
    assert "traceback" not in ran.err
    assert not (tmp_path / "h.db").exists()


def test_what_is_no_history_is_exit_code_2(acccmp: Any, tmp_path: Path) -> None:  # noqa: F811
    assert "no history there" in acccmp("history", "show", tmp_path / "none.db").err
    (tmp_path / "text.db").write_text("not a database, but long enough to be looked at " * 20)
    ran = acccmp("history", "show", tmp_path / "text.db")
    assert ran.code == 2
    assert "is it a history file" in ran.err
    report = saved(tmp_path, healthy())
    assert acccmp("history", "add", tmp_path / "h.db", report, "--release", " ").code == 2
    assert acccmp("history", "add", tmp_path / "no" / "folder" / "h.db", report, "--release", "r").code == 2


def test_who_only_reads_does_not_wait_for_a_writer(acccmp: Any, filled: Path) -> None:  # noqa: F811
    """Reading takes no write lock, so a history on a read-only disk can be read as well."""
    writer = sqlite3.connect(filled, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("DELETE FROM ports")
    try:
        ran = acccmp("history", "show", filled, PORT, "--json")
    finally:
        writer.execute("ROLLBACK")
        writer.close()
    assert len(json.loads(ran.out)["points"]) == 5


def test_hostile_names_are_kept_whole_and_shown_harmless(acccmp: Any, tmp_path: Path) -> None:  # noqa: F811
    file = tmp_path / "h.db"
    report = saved(tmp_path, hostile_report())
    ran = acccmp("history", "add", file, report, "--release", "\x1b[31m=cmd()", "--case", "'; DROP TABLE runs; --")
    assert ran.code == 0
    assert "\x1b" not in ran.out
    shown = acccmp("history", "show", file)
    assert shown.code == 0
    assert not any(ord(c) < 32 and c != "\n" for c in shown.out)
    for name in HOSTILE:
        ran = acccmp("history", "show", file, "--", f"{name}:output:0")
        assert ran.code == 0, name
        assert not any(ord(c) < 32 and c != "\n" for c in ran.out)
        assert "\u202e" not in ran.out
    rows = list(csv.reader(io.StringIO(acccmp("history", "export", file).out)))
    assert not any(cell.startswith(("=", "+", "@", "\t", "\r")) for row in rows[1:] for cell in row[:6])


# -- the picture -------------------------------------------------------------------------------------------------


def labels(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def point(release: str, case: str, error: float, limit: float, jumped: bool, port: str = "p") -> Point:
    return Point(Run(0, "", release, case, "", "", True, 1.0), port, "match", error, limit, jumped=jumped)


def test_the_picture_has_a_log_axis_a_line_per_case_and_marks_jumps() -> None:
    figure = plot_series([
        point(f"r{i}", case, 1e-3 * (5 if i == 3 else 1), 4e-3, i == 3) for i in range(5) for case in ("cat", "dog")
    ])
    axes = figure.axes[0]
    assert axes.get_yscale() == "log"
    assert labels(figure) == ["cat", "dog", "limit (the tightest of the cases)", "jump"]
    assert [text.get_text() for text in axes.get_xticklabels()] == [f"r{i}" for i in range(5)]
    assert len(axes.collections[0].get_offsets()) == 2
    assert "||golden||" in axes.get_ylabel()


def test_the_picture_draws_into_given_axes() -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    ax = figure.add_subplot()
    assert plot_series([point("r", "c", 1e-3, float("nan"), False)], ax=ax) is figure
    assert ax.get_title(loc="left") == "p"


def test_the_picture_bears_zero_nan_inf_none_and_hostile_names(tmp_path: Path) -> None:
    rows = [point(name, name, error, float("nan"), error == float("inf"), name)
            for name, error in zip(HOSTILE, [0.0, float("nan"), float("inf"), 1e-3] * 6, strict=True)]
    plot_series(rows).savefig(tmp_path / "x.png")
    plot_series([]).savefig(tmp_path / "y.png")
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_two_hundred_releases_stay_readable(tmp_path: Path) -> None:
    figure = plot_series([point(f"2026.{i}", "c", 1e-3 * (1 + i % 3), 4e-3, False) for i in range(200)])
    assert len(figure.axes[0].get_xticks()) <= 24
