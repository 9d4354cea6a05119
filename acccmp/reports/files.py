"""A report written as files."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from acccmp.errors import InputError
from acccmp.reports import html, markdown, report_csv, report_json
from acccmp.reports.report import Report


def write_report(report: Report, folder: str | Path) -> list[Path]:
    """Write the report in all its forms; each file appears whole or not at all."""
    out = Path(folder)
    forms = {
        "report.csv": report_csv.to_csv, "report.json": report_json.to_json, "report.md": markdown.to_markdown,
        "report.html": html.report_html,
    }
    return [_write(out / name, form(report)) for name, form in forms.items()]


def _write(path: Path, text: str) -> Path:
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8", newline="")
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path
