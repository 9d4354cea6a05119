"""Operators with hostile names, in every form that a report is written in: harmless, and still recognisable."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from junitparser import JUnitXml
from markdown_it import MarkdownIt
from report_factory import HOSTILE, Change, comparison, hostile_report
from rich.console import Console

from acccmp.core.metrics import METRICS
from acccmp.reports import ci, html, markdown, report_csv, report_json, safe, terminal
from acccmp.reports.pair import Verdict
from acccmp.reports.report import Report

NAMES = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(), min_size=1, max_size=60))


def one(name: str) -> Report:
    """A report of one bad layer with this name, type, reason, note and subject."""
    row = comparison(name, 0, Verdict.DRIFT, 0.02, reason=name, op_type=name, notes=(name,), is_output=True)
    return Report((row,), {"golden": name, name: name}, (name,), extra_failures=(name,))


def is_harmless(text: str, lines: bool = True) -> bool:
    """No control character, direction mark or lone surrogate (line breaks of our own apart)."""
    return not [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs") and not (lines and c == "\n")]


def recognisable(name: str) -> str:
    """What of a name must be seen again: its plain ASCII words."""
    words = re.findall(r"[A-Za-z0-9]{3,40}", name[:60])
    return words[0] if words else ""


# -- the rules themselves ----------------------------------------------------------------------------------------


@given(NAMES)
def test_visible_text_holds_nothing_that_steers(name: str) -> None:
    shown = safe.visible(name, None)
    assert is_harmless(shown, lines=False)
    assert shown.isprintable()
    assert shown == name or not name.isprintable()


@given(NAMES, NAMES)
def test_long_names_stay_different_when_cut(a: str, b: str) -> None:
    one_, other = "x" * 300 + a + "y" * 300, "x" * 300 + b + "y" * 300
    assert len(safe.visible(one_, 100)) <= 100
    if safe.visible(a, None) != safe.visible(b, None):
        assert safe.visible(one_, 100) != safe.visible(other, 100)


@given(NAMES, st.integers(1, 60))
def test_short_names_fit_their_column(name: str, width: int) -> None:
    assert len(safe.short(name, width)) <= width


def test_escapes_show_what_they_stand_for() -> None:
    assert safe.visible("a\x1b[31mb\n\u202ec\ud800") == "a\\x1b[31mb\\n\\u202ec\\ud800"
    assert "(10000 characters, " in safe.visible("n" * 10_000)


@given(NAMES)
def test_file_names_are_one_plain_step_and_differ(name: str) -> None:
    made = safe.file_name(name)
    assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", made)
    assert made not in (".", "..")
    assert len(made) <= 110
    assert made != safe.file_name(name + "/")


# -- CSV ---------------------------------------------------------------------------------------------------------


def is_formula(cell: str) -> bool:
    """Would a spreadsheet take this cell, or what follows another locale's separator in it, for a formula?"""
    parts = re.split(r"[;,\t]", unicodedata.normalize("NFKC", cell))
    return any(part.lstrip()[:1] in ("=", "+", "-", "@") for part in parts if part.strip())


@given(NAMES)
def test_no_cell_of_the_csv_begins_a_formula(name: str) -> None:
    text = report_csv.to_csv(one(name))
    header, *rows = csv.reader(io.StringIO(text))
    assert len(rows) == 1
    assert len(rows[0]) == len(header)
    numeric = {*(metric.name for metric in METRICS if metric.vendor), "SNR(dB)", "StandardDeviation"}
    numbers = {place for place, column in enumerate(header) if column in numeric}
    for place, cell in enumerate(rows[0]):
        if place not in numbers:
            assert not is_formula(cell), (header[place], cell)
        assert is_harmless(cell, lines=False)
    assert len(text.splitlines()) == 2


def test_names_in_the_csv_are_whole() -> None:
    _, *rows = csv.reader(io.StringIO(report_csv.to_csv(hostile_report())))
    for name, row in zip(HOSTILE, rows, strict=False):
        assert row[7].replace("'", "") == f"{safe.visible(name, None)}:output:0".replace("'", "")


# -- HTML --------------------------------------------------------------------------------------------------------


@given(NAMES)
def test_the_page_has_the_same_tags_whatever_the_name(name: str) -> None:
    def tags(page: str) -> list[str]:
        return re.findall(r"</?[a-z0-9]+", page)

    page = html.report_html(one(name))
    assert tags(page) == tags(html.report_html(one("plain")))
    assert is_harmless(page)
    assert recognisable(name) in page
    page.encode("utf-8")


# -- Markdown ----------------------------------------------------------------------------------------------------


MARKDOWN_TAGS = {
    "h2", "h3", "ul", "li", "p", "strong", "code", "table", "thead", "tbody", "tr", "th", "td", "details", "summary",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("form", ["report", "comment"])
def test_markdown_renders_names_as_text(name: str, form: str) -> None:
    changes = ci.Changes(new=(Change(f"{name}:output:0", name, name),))
    text = markdown.to_markdown(one(name)) if form == "report" else ci.markdown({name: one(name)}, changes)
    page = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text)
    found = set(re.findall(r"<([a-z0-9]+)", page))
    assert found <= MARKDOWN_TAGS, found - MARKDOWN_TAGS
    assert is_harmless(page)
    assert recognisable(name) in page
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    assert {len(re.findall("<t[dh]", row)) for row in rows} <= {3, 5, 7}


@pytest.mark.parametrize("name", HOSTILE)
def test_markdown_mentions_nobody_and_links_nowhere(name: str) -> None:
    text = markdown.to_markdown(one(name))
    outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", text)
    assert not re.search(r"@\w", outside)
    assert not re.search(r"#\d", outside)
    assert not re.search(r"https?://|www\.\w", outside)


@given(NAMES)
def test_a_code_span_gives_its_text_back(name: str) -> None:
    source = f"x {safe.code(name, None, in_table=False)} y"
    inline = MarkdownIt("commonmark").parse(source)[1].children or []
    spans = [token.content for token in inline if token.type == "code_inline"]
    assert len(spans) == 1
    assert spans[0].strip(" ") == safe.visible(name, None).strip(" ")


@given(NAMES)
def test_a_code_span_stays_in_its_cell(name: str) -> None:
    source = f"| a | b |\n|---|---|\n| {safe.code(name, None)} | end |\n"
    page = MarkdownIt("commonmark").enable("table").render(source)
    assert page.count("<td>") == 2
    assert "<td>end</td>" in page
    assert page.count("<code>") == 1


@given(NAMES)
def test_prose_comes_out_as_it_went_in(name: str) -> None:
    inline = MarkdownIt("commonmark", {"html": True}).parse(f"x {safe.prose(name, None)}.")[1].children or []
    assert {token.type for token in inline} <= {"text", "text_special", "html_inline"}
    text = "".join(token.content for token in inline if token.type != "html_inline")
    assert text == f"x {safe.visible(name, None)}."
    assert {token.content for token in inline if token.type == "html_inline"} <= {"<!-- -->"}


# -- JUnit, SARIF, JSON ------------------------------------------------------------------------------------------


@given(NAMES)
def test_junit_is_xml_and_keeps_the_name(name: str) -> None:
    text = ci.junit({name: one(name)}, ci.Changes(new=(Change(f"{name}:output:0", name, name),)))
    root = ElementTree.fromstring(text)
    suite = root.find("testsuite")
    assert suite is not None
    assert suite.get("name") == safe.visible(name, 1000)
    assert {element.tag for element in root.iter()} == {
        "testsuites", "testsuite", "properties", "property", "testcase", "failure",
    }
    cases = next(iter(JUnitXml.fromstring(text.encode("utf-8"))))
    assert safe.visible(name, 1000) in {case.name for case in cases}
    assert is_harmless(text)


@given(NAMES)
def test_sarif_is_json_and_keeps_the_name(name: str) -> None:
    text = ci.sarif({name: one(name)})
    run = json.loads(text)["runs"][0]
    place = run["results"][0]["locations"][0]["logicalLocations"][0]["fullyQualifiedName"]
    assert place == safe.visible(f"{name}:output:0", 1000)
    assert text.isascii()
    assert is_harmless("".join(result["message"]["text"] for result in run["results"]), lines=False)


@given(NAMES)
def test_json_keeps_names_as_they_are(name: str) -> None:
    text = report_json.to_json(one(name))
    assert text.isascii()
    back = report_json.from_json(text)
    assert back.comparisons[0].port.node == name
    assert back.subject["golden"] == name


# -- terminal ----------------------------------------------------------------------------------------------------


def printed(report: Report, colours: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, width=100, color_system="truecolor" if colours else None, force_terminal=colours)
    console.print(terminal.terminal(report, 100, saved=[row.port.node for row in report.comparisons]))
    return out.getvalue()


@given(NAMES)
def test_no_name_steers_the_terminal(name: str) -> None:
    text = printed(one(name), colours=False)
    assert is_harmless(text)
    assert recognisable(name) in text.replace("\n", "")
    assert is_harmless(terminal.one_line(one(name)), lines=False)


@pytest.mark.parametrize("name", HOSTILE)
def test_on_a_colour_terminal_only_our_own_colours_are_sent(name: str) -> None:
    text = printed(one(name), colours=True)
    assert is_harmless(re.sub(r"\x1b\[[0-9;]*m", "", text))
    plain = printed(one("plain"), colours=True)
    assert set(re.findall(r"\x1b\[[0-9;]*m", text)) <= set(re.findall(r"\x1b\[[0-9;]*m", plain))


def test_markup_of_rich_is_shown_not_obeyed() -> None:
    assert "[red]not red[/red]" in printed(one("[red]not red[/red]"), colours=False)


def test_percent_signs_do_no_harm_anywhere() -> None:
    """The vendor's writer used names as format strings: a name with %12 ended it."""
    name = "100%12 and %s {0} %(x)d"
    report = one(name)
    for text in (report_csv.to_csv(report), report_json.to_json(report), markdown.to_markdown(report),
                 html.report_html(report), ci.junit(report), ci.sarif(report), terminal.one_line(report),
                 printed(report, False)):
        assert name in text


def test_all_hostile_names_together() -> None:
    report = hostile_report()
    assert is_harmless(printed(report, colours=False))
    assert len(json.loads(ci.sarif(report))["runs"][0]["results"]) > len(HOSTILE) / 2
    assert len(list(csv.reader(io.StringIO(report_csv.to_csv(report))))) == len(report) + 1
    assert report_json.from_json(report_json.to_json(report)).comparisons[0].port == report.comparisons[0].port
    twice = replace(report, comparisons=report.comparisons * 2)
    assert len(report_csv.to_frame(twice)) == 2 * len(report)
