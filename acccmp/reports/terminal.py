"""A report on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from acccmp.reports import safe, summary
from acccmp.reports.legend import LOOKS
from acccmp.reports.markdown import _cosine
from acccmp.reports.report import Report

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

MOST_NOTES = 12


def one_line(report: Report) -> str:
    """The whole report in one line, for logs: `NOT PASSED: 4 bad ports, first bad conv3:output:0 (drift, ...)`."""
    judged = f"{len(report.judged)} {summary.noun(report)}s judged"
    text = f"{summary.headline(report)}: {judged}, coverage {summary.percent(report.coverage)}"
    bad = sum(row.is_bad for row in report.comparisons)
    first = report.first_bad
    if first is not None:
        text += f"; {bad} bad, first bad {safe.visible(first.port, 120)} ({first.verdict}, {summary.amount(first)})"
        text += f"; hint: {safe.visible(first.hint, 200)}" if first.hint else ""
    elif report.judged:
        worst = report.worst(1)[0]
        text += f"; worst {safe.visible(worst.port, 120)}: {summary.amount(worst)}"
    if not report.passed and (first is None or report.extra_failures):
        text += f"; {safe.visible(report.failures[0])}"
    return text


def terminal(report: Report, width: int = 100, saved: Iterable[str] = ()) -> RenderableType:
    """One screen for people, made for `width` columns: the headline with why, error by depth, the first bad layer, the
    worst ten, counts, coverage, notes, and where the report lies (`saved`).

    A renderable of rich. Everything is told without colour too. Nothing in a name steers the terminal.
    """
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = [_headline(report)]
    parts += [_indented(why) for why in summary.whys(report)]
    parts += [Text(""), _facts((key, value) for key, value in report.subject.items())]
    if report.judged:
        parts += [Text(""), *_spark_lines(report, width)]
    parts += _first_bad_lines(report)
    if report.judged:
        parts += [Text(""), _worst_table(report, width)]
    parts += [Text(""), _counts_lines(report, width), Text.assemble(("coverage ", "bold"), summary.coverage(report))]
    parts += note_lines(report.notes)
    files = [safe.visible(line, 300) for line in saved]
    if files:
        parts += [Text(""), Text.assemble(("report ", "bold"), "  ".join(files))]
    return Group(*parts)


def note_lines(notes: Sequence[str]) -> list[Text]:
    """What is worth a note, a line each; of many the first dozen."""
    from rich.text import Text

    lines = [Text.assemble(("note: ", "yellow"), safe.visible(note, 300)) for note in notes[:MOST_NOTES]]
    more = len(notes) - MOST_NOTES
    return [*lines, Text(f"and {more} more notes (--json lists them)", "yellow")] if more > 0 else lines


def _headline(report: Report) -> Text:
    from rich.text import Text

    text = summary.headline(report)
    return Text(text, "bold red" if report.exit_code else "bold yellow" if report.warnings else "bold green")


def _facts(pairs: Iterable[tuple[str, str]]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for key, value in pairs:
        grid.add_row(Text(safe.visible(key, 40)), Text(safe.visible(value, 300)))
    return grid


def _spark_lines(report: Report, width: int) -> list[Text]:
    from rich.text import Text

    bars = summary.spark(report, width)
    places = len(summary.by_depth(report))
    each = f", {places / len(bars):.2g} to a column" if len(bars) < places else ""
    title, what = ("error by weight", "weights") if summary.noun(report) == "weight" else ("error by depth", "layers")
    lines = [Text.assemble((f"{title}  ", "bold"), (f"{places} {what}{each}; {summary.SPARK}", "dim"))]
    broad = max(1, min(4, width // len(bars)))  # a few layers get broad bars with a gap between
    bar = Text()
    for part in bars:
        column = part.sign * max(1, broad - 1) if part.sign in summary.STEPS else part.sign.center(max(1, broad - 1))
        bar.append(column + " " * (broad > 1), LOOKS[part.row.verdict].style)
    lines.append(bar)
    first = next((place * broad for place, part in enumerate(bars) if part.is_first_bad), None)
    if first is not None and report.first_bad is not None:
        room = max(8, width - 4)
        label = safe.short(report.first_bad.port.node, min(48, room))
        text = f"▲ {label}" if first + 2 + len(label) <= width else f"{label} ▲"
        lines.append(Text(" " * (first if text.startswith("▲") else max(0, first - len(label) - 1)) + text, "red"))
    return lines


def _indented(line: str) -> RenderableType:
    from rich.padding import Padding
    from rich.text import Text

    return Padding(Text(safe.visible(line, 300)), (0, 0, 0, 2), expand=False)


def _first_bad_lines(report: Report) -> list[RenderableType]:
    from rich.text import Text

    row = report.first_bad
    if row is None:
        return []
    title = Text.assemble("\n", (f"{summary.first_title(report)} ", "bold"), (safe.visible(row.port, 160), "bold red"))
    if row.op_type:
        title.append(f" ({safe.visible(row.op_type, 60)})")
    lines: list[RenderableType] = [title]
    if summary.stands_for(row):
        lines.append(_indented(f"stands for {safe.visible(summary.stands_for(row), 160)}"))
    return lines + [_indented(line) for line in summary.first_bad(report)]


def _worst_table(report: Report, width: int) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    rows = summary.worst(report)
    wide = width >= 92
    # what the other columns take, two blanks between columns
    room = max(16, width - (54 if wide else 34) - 2)
    named = summary.worst_title(report, len(rows))
    table = Table(title=named, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in (summary.noun(report), "type", "verdict", "error", "x limit", "cosine"):
        if wide or name not in ("type", "cosine"):
            is_number = name in ("error", "x limit", "cosine")
            table.add_column(name, justify="right" if is_number else "left", no_wrap=True)
    for row in rows:
        kind, last = ([Text(safe.short(row.op_type, 14))], [Text(_cosine(row))]) if wide else ([], [])
        table.add_row(
            Text(safe.short(row.port, room)), *kind, Text(str(row.verdict), LOOKS[row.verdict].style),
            Text(summary.number(row.error)), Text(summary.number(summary.over_limit(row))), *last,
        )
    return table


def _counts_lines(report: Report, width: int) -> Text:
    from rich.text import Text

    line = Text.assemble(("verdicts ", "bold"))
    used = len(line)
    for place, (verdict, count) in enumerate(report.counts.items()):
        piece = f"{count} {verdict}"
        if used + len(piece) + 3 > width:
            line.append(",\n         ")
            used = 9
        elif place:
            line.append(", ")
        line.append(piece, LOOKS[verdict].style)
        used += len(piece) + 2
    return line if report.comparisons else line.append("none: there is nothing in this report")
