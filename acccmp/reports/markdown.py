"""A report as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable

from acccmp.core.metrics import all_metrics
from acccmp.reports import safe, summary
from acccmp.reports.legend import LOOKS
from acccmp.reports.report import Comparison, Report


def to_markdown(report: Report, worst: int = 10) -> str:
    """For a pull request's comment: headline, first bad layer, the worst ones, counts, coverage, a folded legend.

    Below 60 kB whatever the report holds. Names stand in code spans: nothing in them links, mentions or breaks out.
    """
    lines = [f"## {safe.prose(summary.headline(report))}", ""]
    lines += [f"- {safe.prose(why)}" for why in summary.whys(report)]
    lines += ["", *markdown_first_bad(report)]
    if report.judged:
        rows = summary.worst(report, worst)
        lines += [f"### {summary.worst_title(report, len(rows)).capitalize()}", "", *markdown_rows(rows), ""]
    lines += ["### What was compared", "", *_markdown_counts(report), f"- {safe.prose(summary.coverage(report))}"]
    lines += [f"- {safe.prose(key, 60)}: {safe.code(value, in_table=False)}" for key, value in
              list(report.subject.items())[:20]]
    if report.notes:
        lines += ["", "### Notes", "", *_cut([f"- {safe.prose(note)}" for note in report.notes], 20, "notes")]
    return "\n".join([*lines, "", *_markdown_legend(report), ""])


def markdown_first_bad(report: Report) -> list[str]:
    """The section on the first bad layer; empty when there is none."""
    row = report.first_bad
    if row is None:
        return []
    lines = [f"**{summary.first_title(report).capitalize()}: {safe.code(row.port, in_table=False)}**" +
             (f" ({safe.code(row.op_type, 60, in_table=False)})" if row.op_type else ""), ""]
    if summary.stands_for(row):
        lines.append(f"- stands for {safe.code(summary.stands_for(row), in_table=False)}")
    return [*lines, *(f"- {safe.prose(line)}" for line in summary.first_bad(report)), ""]


def markdown_rows(rows: Iterable[Comparison]) -> list[str]:
    """A table of comparisons: port, type, verdict, error, error / limit, cosine, reason."""
    lines = ["| port | type | verdict | error | x limit | cosine | reason |", "|---|---|---|---:|---:|---:|---|"]
    for row in rows:
        cells = (
            safe.code(row.port), safe.code(row.op_type, 40) if row.op_type else "", str(row.verdict),
            summary.number(row.error), summary.number(summary.over_limit(row)), _cosine(row),
            safe.prose(row.told, 300),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _markdown_counts(report: Report) -> list[str]:
    if not report.comparisons:
        return []
    return ["| verdict | ports | meaning |", "|---|---:|---|",
            *(f"| {verdict} | {count} | {LOOKS[verdict].means} |" for verdict, count in report.counts.items()), ""]


def _markdown_legend(report: Report) -> list[str]:
    judged = {row.judged_by for row in report.judged}
    return [
        "<details><summary>What the numbers mean, and what each cannot see</summary>", "",
        "| metric | says | blind to |", "|---|---|---|",
        *(f"| {safe.prose(name)}{' (judged here)' if name in judged else ''} | {safe.prose(metric.says)} | "
          f"{safe.prose(metric.blind_to)} |" for name, metric in all_metrics().items()),
        "", "</details>",
    ]


def _cosine(row: Comparison) -> str:
    """Six digits: enough for the vendor's limit of 0.99, and 1.000000 is not rounded up from less than 1 - 5e-7."""
    value = row.metrics.get("CosineSimilarity", math.nan)
    return "-" if math.isnan(value) else f"{value:.6f}"


def _cut(lines: list[str], most: int, what: str) -> list[str]:
    return lines if len(lines) <= most else [*lines[:most], f"- and {len(lines) - most} more {what}"]
