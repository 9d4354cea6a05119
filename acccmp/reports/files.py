"""Reports written as files: those of one report appear together or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from acccmp.core.reading import FilePath
from acccmp.core.writing import write_texts
from acccmp.reports import html, markdown, report_csv, report_json
from acccmp.reports.report import Report


def write_report(report: Report, folder: FilePath) -> list[Path]:
    """Write report.csv, .json, .md and .html into a folder."""
    out = Path(folder)
    forms = {
        "report.csv": report_csv.to_csv, "report.json": report_json.to_json, "report.md": markdown.to_markdown,
        "report.html": html.report_html,
    }
    return write_texts({out / name: form(report) for name, form in forms.items()})


def write_reports(reports: Mapping[str, Report], folder: str | Path) -> list[Path]:
    """Write the reports of many cases, a folder each; its name is in plain characters, and numbered to be its own."""
    written: list[Path] = []
    taken: set[str] = set()
    for case, report in reports.items():
        plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in case)[:80] or "case"
        name = next(n for n in (plain, *(f"{plain}-{i}" for i in range(2, 100_000))) if n.lower() not in taken)
        taken.add(name.lower())
        written += write_report(report, Path(folder) / name)
    return written
