"""A report as one static page: no script, nothing from elsewhere, legible in light and dark; and pieces of it.

All text goes through `safe.html`. The pieces (`fragment`, `chart`) also show a report inside a notebook.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from acccmp.core.metrics import all_metrics
from acccmp.reports import safe, summary
from acccmp.reports.legend import LOOKS
from acccmp.reports.pair import Verdict
from acccmp.reports.report import Comparison, Report

MOST_ROWS = 5000  # rows of the long table; the CSV has them all
MOST_POINTS = 800  # of the chart; where several layers share one, the worst is drawn

# The class stands twice in the selectors of cells: Jupyter's own rules for tables are that specific.
STYLE = """
.acccmp{font:14px/1.45 system-ui,sans-serif;color:inherit;max-width:70rem}
.acccmp h1{font-size:1.5em;margin:.2em 0}.acccmp h2{font-size:1.1em;margin:1.4em 0 .4em}
.acccmp table{border-collapse:collapse;margin:.3em 0;font-size:13px;color:inherit}
.acccmp.acccmp table th,.acccmp.acccmp table td{text-align:left;padding:.18em .8em .18em 0;border:0;
border-bottom:1px solid #8884;vertical-align:top;background:none;overflow-wrap:anywhere;unicode-bidi:isolate;
white-space:normal;max-width:none}
.acccmp.acccmp table th{white-space:nowrap}
.acccmp.acccmp table .n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.acccmp.acccmp table .name{font-family:ui-monospace,monospace;font-size:12px;min-width:14em}
.acccmp.acccmp table .v{white-space:nowrap}.acccmp.acccmp table .t{min-width:7em}
.acccmp.acccmp table .r{min-width:13em}
.acccmp ul{margin:.3em 0;padding-left:1.2em}.acccmp li,.acccmp p{overflow-wrap:anywhere}.acccmp .dim{opacity:.7}
.acccmp summary{cursor:pointer;margin:.5em 0}.acccmp .good{border-left:6px solid #0072B2;padding-left:.6em}
.acccmp .bad{border-left:6px solid #D55E00;padding-left:.6em}
.acccmp svg{width:100%;height:auto;display:block}.acccmp svg text{fill:currentColor;font:11px system-ui,sans-serif}
.acccmp .scroll{overflow-x:auto}
"""

_PAGE_STYLE = """
:root{color-scheme:light dark}
body{margin:1.5rem auto;padding:0 1.2rem;max-width:70rem;color:#1a1a1a;background:#fff}
@media (prefers-color-scheme:dark){body{color:#e6e6e6;background:#16181c}}
"""


def report_html(report: Report) -> str:
    """The whole report as a page that can be opened, mailed and archived alone.

    The long table is folded, and cut after 5000 rows (which it says).
    """
    title = safe.html(f"acccmp: {summary.headline(report)}")
    body = "".join([
        _headline(report), _subject(report), _section("Error by depth", chart(report)) if report.judged else "",
        _first_bad(report), _worst(report, 10), _counts(report), _notes(report), _all_rows(report), _legend(),
    ])
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{title}</title><style>{_PAGE_STYLE}{STYLE}</style></head>\n"
        f'<body><main class="acccmp">{body}</main></body></html>\n'
    )


def fragment(report: Report) -> str:
    """What matters, for a cell of a notebook: headline, chart, first bad layer, the worst ten; the rest folded."""
    rest = _subject(report) + _counts(report) + _notes(report)
    return (
        f'<div class="acccmp"><style>{STYLE}</style>{_headline(report)}'
        f"{chart(report) if report.judged else ''}{_first_bad(report)}{_worst(report, 10)}"
        f"{details('what was compared, counts and notes', rest)}</div>"
    )


# -- pieces ------------------------------------------------------------------------------------------------------


def details(title: str, inside: str, is_open: bool = False) -> str:
    """A folded part; `title` is text, `inside` is HTML."""
    return f"<details{' open' if is_open else ''}><summary>{safe.html(title)}</summary>{inside}</details>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], classes: Mapping[int, str] | None = None) -> str:
    """A table; `head` is text, the cells are HTML. `classes` gives columns a CSS class: `n` numbers, `name` names."""
    classes = classes or {}

    def attribute(column: int) -> str:
        return f' class="{classes[column]}"' if column in classes else ""

    top = "".join(f"<th{attribute(i)}>{safe.html(text)}</th>" for i, text in enumerate(head))
    lines = ("".join(f"<td{attribute(i)}>{cell}</td>" for i, cell in enumerate(row)) for row in rows)
    inside = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{inside}</tbody></table></div>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """A table of a name and a text each."""
    lines = "".join(f'<tr><th>{safe.html(key, 60)}</th><td class="name">{safe.html(value, 400)}</td></tr>'
                    for key, value in pairs)
    return f"<table><tbody>{lines}</tbody></table>" if lines else ""


def bullets(lines: Iterable[str], most: int = 50) -> str:
    """A list of texts, cut after `most`."""
    texts = list(lines)
    shown = "".join(f"<li>{safe.html(text, 600)}</li>" for text in texts[:most])
    more = f"<li>and {len(texts) - most} more</li>" if len(texts) > most else ""
    return f"<ul>{shown}{more}</ul>" if texts else ""


def _section(title: str, inside: str) -> str:
    return f"<section><h2>{safe.html(title)}</h2>{inside}</section>" if inside else ""


def _headline(report: Report) -> str:
    text = summary.headline(report)
    kind = "bad" if report.exit_code else "good"
    return f'<header class="{kind}"><h1>{text}</h1>{bullets(summary.whys(report))}</header>'


def _subject(report: Report) -> str:
    return _section("What was compared", facts(report.subject.items()))


def _first_bad(report: Report) -> str:
    row = report.first_bad
    if row is None:
        return ""
    kind = f" ({safe.html(row.op_type, 60)})" if row.op_type else ""
    lines = [f"stands for {summary.stands_for(row)}"] if summary.stands_for(row) else []
    name = f'<p><bdi class="name"><b>{safe.html(row.port)}</b></bdi>{kind}</p>'
    return _section(summary.first_title(report).capitalize(), name + bullets([*lines, *summary.first_bad(report)]))


_ROW_HEAD = ("port", "type", "verdict", "error", "x limit", "x floor", "cosine", "max abs", "worst at", "reason")
_ROW_CLASSES = {0: "name", 1: "t", 2: "v", 3: "n", 4: "n", 5: "n", 6: "n", 7: "n", 8: "n", 9: "r"}


def _row(row: Comparison) -> Sequence[str]:
    where = "" if row.max_error_index is None else f"[{','.join(map(str, row.max_error_index))}]"
    return (
        safe.html(row.port), safe.html(row.op_type, 60), verdict_html(row.verdict), summary.number(row.error),
        summary.number(summary.over_limit(row)), summary.number(row.error_over_floor),
        summary.number(row.metrics.get("CosineSimilarity", math.nan), 7),
        summary.number(row.metrics.get("MaxAbsoluteError", math.nan)), where,
        safe.html("; ".join(filter(None, (row.told, *row.notes))), 300),
    )


def table_of(rows: Iterable[Comparison]) -> str:
    """Rows of a report as a table."""
    return table(_ROW_HEAD, map(_row, rows), _ROW_CLASSES)


def verdict_html(verdict: Verdict) -> str:
    """The verdict's mark in its colour, and its name in the colour of text, so that it is legible on any ground."""
    mark = _mark(verdict, 0, 0, 4.6)
    return f'<svg style="width:11px;height:11px;display:inline" viewBox="-6 -6 12 12">{mark}</svg> {verdict}'


def _worst(report: Report, n: int) -> str:
    rows = summary.worst(report, n)
    title = summary.worst_title(report, len(rows)).capitalize()
    return _section(title, table_of(rows)) if rows else ""


def _counts(report: Report) -> str:
    rows = ((verdict_html(verdict), str(count), safe.html(LOOKS[verdict].means))
            for verdict, count in report.counts.items())
    counted = table(("verdict", "ports", "meaning"), rows, {0: "v", 1: "n"}) if report.comparisons else ""
    return _section("Verdicts and coverage", counted + f"<p>Coverage: {safe.html(summary.coverage(report))}.</p>")


def _notes(report: Report) -> str:
    return _section("Notes", bullets(report.notes))


def _all_rows(report: Report) -> str:
    rows = report.comparisons
    if not rows:
        return ""
    cut = f", the first {MOST_ROWS} of them here and all in the CSV" if len(rows) > MOST_ROWS else ""
    return details(f"every port in order of execution ({len(rows)}{cut})", table_of(rows[:MOST_ROWS]))


def _legend() -> str:
    rows = ((safe.html(name), safe.html(row.says), safe.html(row.blind_to)) for name, row in all_metrics().items())
    inside = table(("metric", "says", "blind to"), rows, {0: "name"})
    return details("what the numbers mean, and what each cannot see", inside)


# -- the chart ---------------------------------------------------------------------------------------------------

_WIDE, _HIGH = 960, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 12, 34, 50


def chart(report: Report) -> str:
    """Error against order of execution as SVG: a mark for each layer by verdict, a dash at each limit, log axis.

    Layers without a number (NaN, misfit) stand on a line of their own at the top; names are tool tips.
    """
    rows = _thinned(summary.by_depth(report))
    numbers = [v for row in rows for v in (row.error, row.limit) if math.isfinite(v) and v > 0]
    low = math.floor(math.log10(min(numbers))) if numbers else -3
    high = math.ceil(math.log10(max(numbers))) if numbers else 0
    low, high = max(low, high - 12), max(high, low + 1)
    span = _WIDE - _LEFT - _RIGHT

    def across(place: int) -> float:
        return _LEFT + span * (place + 0.5) / len(rows)

    def up(value: float) -> float:
        share = (math.log10(value) - low) / (high - low) if value > 0 else 0.0
        return _HIGH - _BOTTOM - (_HIGH - _TOP - _BOTTOM - 10) * min(1.0, max(0.0, share))

    parts = [
        f'<line x1="{_LEFT}" x2="{_WIDE - _RIGHT}" y1="{up(10.0**e):.1f}" y2="{up(10.0**e):.1f}" stroke="currentColor" '
        f'stroke-opacity=".15"/><text x="{_LEFT - 6}" y="{up(10.0**e) + 4:.1f}" text-anchor="end">1e{e}</text>'
        for e in range(low, high + 1, max(1, (high - low) // 6))
    ]
    half = max(1.0, span / len(rows) / 2)
    parts += [
        f'<path d="M{across(i) - half:.1f},{up(row.limit):.1f}h{2 * half:.1f}" stroke="currentColor" '
        'stroke-opacity=".55" stroke-width="1.4"/>'
        for i, row in enumerate(rows) if math.isfinite(row.limit)
    ]
    size = min(5.0, max(2.4, span / len(rows) / 2.2))
    for i, row in sorted(enumerate(rows), key=lambda at: at[1].is_bad):  # bad ones on top
        y = up(row.error) if math.isfinite(row.error) else _TOP - 8
        tip = safe.html(f"{row.port}: {row.verdict}, {summary.amount(row)}", 260)
        parts.append(f"<g><title>{tip}</title>{_mark(row.verdict, across(i), y, size)}</g>")
    parts.append(_first_bad_label(report, rows, across))
    parts.append(
        f'<text x="{_LEFT - 6}" y="{_TOP - 4}" text-anchor="end">no number</text>'
        f'<text x="{_LEFT}" y="{_HIGH - 28}">order of execution ({len(summary.by_depth(report))} layers); '
        f"dashes: each layer's limit; error on a log axis</text>{_key(rows)}"
    )
    return f'<svg viewBox="0 0 {_WIDE} {_HIGH}" role="img" aria-label="error by depth">{"".join(parts)}</svg>'


def _thinned(rows: list[Comparison]) -> list[Comparison]:
    count = min(MOST_POINTS, len(rows))
    return [
        max(rows[i * len(rows) // count : (i + 1) * len(rows) // count], key=lambda row: (row.is_bad, row.badness))
        for i in range(count)
    ]


def _first_bad_label(report: Report, rows: list[Comparison], across: Callable[[int], float]) -> str:
    first = report.first_bad
    place = next((i for i, row in enumerate(rows) if first is not None and row.order >= first.order), None)
    if first is None or place is None:
        return ""
    x = across(place)
    side = "start" if x < _WIDE * 0.6 else "end"
    shift = 5 if side == "start" else -5
    return (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="12" y2="{_HIGH - _BOTTOM}" stroke="#D55E00" stroke-dasharray="3 3"/>'
        f'<text x="{x + shift:.1f}" y="12" text-anchor="{side}">first bad: {safe.html(safe.short(first.port.node, 60))}'
        "</text>"
    )


def _key(rows: list[Comparison]) -> str:
    x, parts = float(_LEFT), []
    for verdict in Verdict:
        if any(row.verdict is verdict for row in rows):
            mark = _mark(verdict, x + 4, _HIGH - 9, 4)
            parts.append(f'{mark}<text x="{x + 13:.0f}" y="{_HIGH - 5}">{verdict}</text>')
            x += 6.4 * len(verdict) + 32
    return "".join(parts)


# Marks of a size of 1 around (0, 0), as SVG paths; verdicts differ in shape as well as in colour.
_MARKS: Mapping[str, str] = {
    "o": "M-1,0a1,1 0 1,0 2,0a1,1 0 1,0 -2,0Z",
    "s": "M-.9,-.9H.9V.9H-.9Z",
    "^": "M0,-1.1L1.1,.9H-1.1Z",
    "v": "M0,1.1L1.1,-.9H-1.1Z",
    "D": "M0,-1.3L1.3,0L0,1.3L-1.3,0Z",
    "d": "M0,-1.3L.8,0L0,1.3L-.8,0Z",
    "X": "M-1.1,-.5L-.5,-1.1L0,-.5L.5,-1.1L1.1,-.5L.5,0L1.1,.5L.5,1.1L0,.5L-.5,1.1L-1.1,.5L-.5,0Z",
    "P": "M-.4,-1.2H.4V-.4H1.2V.4H.4V1.2H-.4V.4H-1.2V-.4H-.4Z",
    "_": "M-1.2,-.3H1.2V.3H-1.2Z",
    "|": "M-.3,-1.2H.3V1.2H-.3Z",
    "1": "M-.2,0V1.1H.2V0L1,-.7L.7,-1L0,-.3L-.7,-1L-1,-.7Z",
    "2": "M-.2,0V-1.1H.2V0L1,.7L.7,1L0,.3L-.7,1L-1,.7Z",
}


def _mark(verdict: Verdict, x: float, y: float, size: float) -> str:
    look = LOOKS[verdict]
    path = _MARKS[look.marker]
    return f'<path d="{path}" transform="translate({x:.1f},{y:.1f}) scale({size:.2f})" fill="{look.colour}"/>'
