"""The page of a report, read back with an HTML parser: static, self-contained, escaped."""

from __future__ import annotations

import html as entities
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from report_factory import HOSTILE, changed, comparison, hostile_report, make_report

from acccmp.reports import html, safe
from acccmp.reports.pair import Verdict
from acccmp.reports.report import Report

VOID = {"meta", "br"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on a tag that is not closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.texts: list[str] = []
        self.cells: list[str] = []
        self.open: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag == "td":
            self.cells.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if "td" in self.open:
            self.cells[-1] += data

    @property
    def text(self) -> str:
        return " ".join(self.texts)


KNOWN_TAGS = {
    "html", "head", "meta", "title", "style", "body", "main", "header", "section", "h1", "h2", "ul", "li", "p", "b",
    "bdi", "br", "div", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "svg", "g", "path", "line",
    "text",
}


@pytest.mark.parametrize("report", [make_report(), make_report(400), hostile_report(), Report(())], ids=str)
def test_the_page_is_whole_static_and_needs_nothing_from_elsewhere(report: Report) -> None:
    source = html.report_html(report)
    page = Page(source)
    assert set(page.tags) <= KNOWN_TAGS
    assert not [name for _, name, _ in page.attributes if name.startswith("on") or name in ("src", "href", "srcset")]
    assert "url(" not in source
    assert "@import" not in source


def test_the_page_tells_the_result_the_first_bad_layer_and_every_row() -> None:
    report = make_report()
    page = Page(html.report_html(report))
    assert "NOT PASSED" in page.text
    assert "Nothing is known of its numbers" in page.text  # its first bad layer is unreadable
    for row in report.comparisons:
        assert str(row.port) in page.cells
    for verdict in Verdict:
        assert any(cell.strip() == verdict for cell in page.cells)


def test_the_chart_marks_every_layer_by_shape_and_colour() -> None:
    report = make_report(every_verdict=False)
    page = Page(html.chart(report))
    marks = Counter(value for tag, name, value in page.attributes if (tag, name) == ("path", "fill"))
    shapes = {value for tag, name, value in page.attributes if (tag, name) == ("path", "d") and "Z" in (value or "")}
    outputs = Counter(row.verdict for row in report.comparisons if row.port.side == "output")
    assert marks["#0072B2"] == outputs[Verdict.MATCH] + 1  # one more in the key
    assert marks["#D55E00"] == outputs[Verdict.DRIFT] + 1
    assert len(shapes) == 2
    assert page.tags["title"] == 20


def test_a_chart_of_many_layers_stays_small_and_keeps_the_one_bad_layer() -> None:
    rows = [comparison("a", 0, error=1e-3)] * 20_000
    rows = [changed(row, order=i) for i, row in enumerate(rows)]
    rows[7777] = replace(rows[7777], verdict=Verdict.DRIFT, error=0.5)
    source = html.chart(Report(tuple(rows)))
    assert len(source) < 600_000
    assert source.count("#D55E00") == 1 + 1 + 1  # the mark, the line of the first bad layer, the key


@pytest.mark.parametrize("error", [0.0, 1e-300, 1e300, float("inf"), float("nan")])
def test_a_chart_can_show_any_error(error: float) -> None:
    row = comparison("a", 0, Verdict.DRIFT, limit=0.0)
    page = Page(html.chart(Report((replace(row, error=error),))))
    assert page.tags["svg"] == 1
    assert not [value for _, _, value in page.attributes if value and ("nan" in value or "inf" in value)]


def test_a_long_report_is_cut_and_says_so() -> None:
    row = comparison("a", 0)
    report = Report(tuple(changed(row, order=i) for i in range(html.MOST_ROWS + 3)))
    page = Page(html.report_html(report))
    assert f"({html.MOST_ROWS + 3}, the first {html.MOST_ROWS} of them here" in page.text


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_comes_out_as_text_that_shows_what_it_was(name: str) -> None:
    shown = entities.unescape(safe.html(name, None))
    assert shown == safe.visible(name, None)
    page = Page(f"<td>{safe.html(name, None)}</td>")
    assert page.tags == {"td": 1}
    assert page.cells == [shown]
