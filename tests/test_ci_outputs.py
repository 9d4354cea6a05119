"""JUnit, SARIF and Markdown for pipelines, read back with readers that are not ours."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from junitparser import Error, Failure, JUnitXml, Skipped
from markdown_it import MarkdownIt
from report_factory import Change, changed, comparison, hostile_report, make_report

from acccmp.reports import ci
from acccmp.reports.pair import Verdict
from acccmp.reports.report import Report

# What SARIF 2.1.0 (OASIS, sections 3.13 to 3.52) requires of the objects that we write; closed, so that a misspelt
# property is found.
SARIF = {
    "type": "object", "required": ["version", "runs"], "additionalProperties": False,
    "properties": {
        "$schema": {"type": "string", "format": "uri"}, "version": {"const": "2.1.0"},
        "runs": {"type": "array", "items": {"$ref": "#/$defs/run"}},
    },
    "$defs": {
        "message": {"type": "object", "required": ["text"], "properties": {"text": {"type": "string", "minLength": 1}},
                    "additionalProperties": False},
        "run": {
            "type": "object", "required": ["tool"], "additionalProperties": False,
            "properties": {
                "tool": {
                    "type": "object", "required": ["driver"], "additionalProperties": False,
                    "properties": {"driver": {
                        "type": "object", "required": ["name"], "additionalProperties": False,
                        "properties": {"name": {"type": "string"}, "rules": {
                            "type": "array", "uniqueItems": True, "items": {"$ref": "#/$defs/rule"},
                        }},
                    }},
                },
                "invocations": {"type": "array", "items": {
                    "type": "object", "required": ["executionSuccessful"], "additionalProperties": False,
                    "properties": {"executionSuccessful": {"type": "boolean"}},
                }},
                "columnKind": {"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
                "results": {"type": "array", "items": {"$ref": "#/$defs/result"}},
                "properties": {"type": "object"},
            },
        },
        "rule": {
            "type": "object", "required": ["id"], "additionalProperties": False,
            "properties": {"id": {"type": "string"}, "name": {"type": "string"},
                           "shortDescription": {"$ref": "#/$defs/message"}},
        },
        "result": {
            "type": "object", "required": ["message"], "additionalProperties": False,
            "properties": {
                "ruleId": {"type": "string"}, "ruleIndex": {"type": "integer", "minimum": -1},
                "level": {"enum": ["none", "note", "warning", "error"]}, "message": {"$ref": "#/$defs/message"},
                "locations": {"type": "array", "items": {
                    "type": "object", "additionalProperties": False, "properties": {
                        "physicalLocation": {
                            "type": "object", "required": ["artifactLocation"], "additionalProperties": False,
                            "properties": {
                                "artifactLocation": {
                                    "type": "object", "additionalProperties": False,
                                    # RFC 3986: a URI reference has only these characters
                                    "properties": {"uri": {"type": "string", "pattern": "^[A-Za-z0-9._~/%-]+$"}},
                                },
                                "region": {"type": "object", "properties": {
                                    "startLine": {"type": "integer", "minimum": 1},
                                }, "additionalProperties": False},
                            },
                        },
                        "logicalLocations": {"type": "array", "uniqueItems": True, "items": {
                            "type": "object", "additionalProperties": False,
                            "properties": {"fullyQualifiedName": {"type": "string"}, "kind": {"type": "string"}},
                        }},
                    },
                }},
                "partialFingerprints": {"type": "object", "additionalProperties": {"type": "string"}},
                "properties": {"type": "object"},
            },
        },
    },
}


def suites(text: str) -> dict[str, Any]:
    """Suites by case, as junitparser reads them."""
    return {suite.name: suite for suite in JUnitXml.fromstring(text.encode())}


def kinds(suite: Any) -> dict[str, type | None]:
    return {case.name: type(case.result[0]) if case.result else None for case in suite}


# -- JUnit -------------------------------------------------------------------------------------------------------


def test_junit_has_one_test_for_each_layer_in_a_suite_for_each_case() -> None:
    report = make_report()
    text = ci.junit({"cat": report, "dog": make_report(30, None, False)})
    read = suites(text)
    assert set(read) == {"cat", "dog"}
    layers = {row.port.node for row in report.comparisons}
    assert set(kinds(read["cat"])) == layers
    assert read["dog"].tests == len(list(read["dog"])) == 30
    assert (read["dog"].failures, read["dog"].errors, read["dog"].skipped) == (0, 0, 0)


def test_junit_verdicts_become_failures_errors_and_skips() -> None:
    found = kinds(suites(ci.junit(make_report()))["default"])
    assert found["extra/unreadable"] is Error
    for verdict in ("dtype", "shape", "overflow", "nonfinite"):
        assert found[f"extra/{verdict}"] is Failure
    for verdict in ("no_npu", "no_golden", "not_comparable", "fused", "inserted"):
        assert found[f"extra/{verdict}"] is Skipped
    assert found["stage1/block2/conv9"] is Failure
    assert found["stage0/block0/conv0"] is None


def test_junit_says_which_layer_is_the_first_bad_one() -> None:
    text = ci.junit(make_report(every_verdict=False))
    found = {case.name: case.result[0] for case in suites(text)["default"] if case.result}
    assert "first bad layer" in found["stage1/block2/conv9"].text
    assert "may be inherited" in found["stage1/block2/conv9"].text
    assert "first bad layer" not in found["stage2/block3/conv10"].text


def test_junit_counts_are_those_of_its_tests() -> None:
    root = ElementTree.fromstring(ci.junit({"a": make_report(), "b": make_report(400)}))
    for suite in root:
        for key, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.get(key, "")) == len(suite.findall(f"testcase/{tag}"))
    assert int(root.get("tests", "")) == sum(int(suite.get("tests", "")) for suite in root)


def passing_with_inner_drift() -> Report:
    report = make_report(fault=None, every_verdict=False)
    rows = list(report.comparisons)
    rows[21] = replace(rows[21], verdict=Verdict.DRIFT, error=0.02)
    return replace(report, comparisons=tuple(rows))


def test_inner_drift_under_healthy_outputs_warns_but_fails_no_pipeline() -> None:
    report = passing_with_inner_drift()
    assert report.passed
    suite = suites(ci.junit(report))["default"]
    assert set(kinds(suite).values()) == {None}
    assert "warning" in ci.junit(report)
    levels = [result["level"] for result in json.loads(ci.sarif(report))["runs"][0]["results"]]
    assert levels == ["warning"]
    assert ci.markdown(report).startswith("## acccmp: PASSED")


@pytest.mark.parametrize("report", [
    Report(()), Report((comparison("a", 0),)),
    replace(make_report(fault=None, every_verdict=False), extra_failures=("x",)),
    Report((comparison("out", 0, is_output=True), *(comparison(f"c{i}", i, Verdict.NO_NPU) for i in range(9)))),
], ids=["nothing", "no outputs", "extra failure", "no coverage"])
def test_what_fails_without_a_bad_layer_fails_in_every_form(report: Report) -> None:
    assert not report.passed or report.exit_code
    root = ElementTree.fromstring(ci.junit(report))
    assert int(root.get("failures", "")) >= 1
    assert any(result["level"] == "error" for result in json.loads(ci.sarif(report))["runs"][0]["results"])
    assert ci.markdown(report).startswith("## acccmp: NOT PASSED")
    assert not ci.passes(report)


def test_no_case_at_all_is_no_pass() -> None:
    assert not ci.passes({})
    assert ci.markdown({}).startswith("## acccmp: NOT PASSED")


def test_a_new_drift_since_the_baseline_fails_its_layer_in_its_case_only() -> None:
    healthy = make_report(fault=None, every_verdict=False)
    change = Change("stage0/block2/conv2:output:0", "dog", "error 0.001 -> 0.004")
    read = suites(ci.junit({"cat": healthy, "dog": healthy}, ci.Changes(new=(change,))))
    assert kinds(read["dog"])["stage0/block2/conv2"] is Failure
    assert set(kinds(read["cat"]).values()) == {None}
    everywhere = ci.Changes(new=(replace(change, case=""),))
    assert kinds(suites(ci.junit({"cat": healthy}, everywhere))["cat"])["stage0/block2/conv2"] is Failure


def test_against_a_baseline_every_bad_port_fails_but_accepted_ones() -> None:
    report = passing_with_inner_drift()
    name, port = report.comparisons[21].port.node, str(report.comparisons[21].port)
    assert kinds(suites(ci.junit(report, ci.Changes()))["default"])[name] is Failure
    assert not ci.passes(report, ci.Changes())
    accepted = ci.Changes(accepted={port})
    assert kinds(suites(ci.junit(report, accepted))["default"])[name] is None
    assert ci.passes(report, accepted)
    assert "1 accepted" in ci.markdown(report, accepted)


# -- SARIF -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("report", [make_report(), make_report(400), hostile_report(), Report(())], ids=str)
def test_sarif_has_what_the_standard_requires(report: Report) -> None:
    change = Change("new:output:0", "default", "worse")
    stored = json.loads(ci.sarif(report, ci.Changes(new=(change,))), parse_constant=pytest.fail)
    jsonschema.validate(stored, SARIF)
    run = stored["runs"][0]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
    prints = [result["partialFingerprints"]["acccmpPort/v1"] for result in run["results"]]
    assert len(set(prints)) == len(prints)


def test_sarif_lists_every_bad_port_with_its_verdict_and_place() -> None:
    report = make_report()
    results = json.loads(ci.sarif(report))["runs"][0]["results"]
    found = {r["locations"][0]["logicalLocations"][0]["fullyQualifiedName"]: r for r in results}
    bad = {str(row.port): row for row in report.comparisons if row.is_bad}
    assert set(bad) == set(found)
    for port, row in bad.items():
        assert found[port]["ruleId"] == row.verdict
        assert row.reason in found[port]["message"]["text"]
    assert results[0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "model.onnx"


def test_sarif_fingerprints_stay_when_errors_change() -> None:
    def prints(error: float) -> list[str]:
        report = Report((comparison("a", 0, Verdict.DRIFT, error), comparison("out", 1, is_output=True)))
        return [r["partialFingerprints"]["acccmpPort/v1"] for r in json.loads(ci.sarif(report))["runs"][0]["results"]]

    assert prints(0.1) == prints(0.2)


def test_sarif_keeps_the_failing_ones_when_there_are_too_many() -> None:
    warning = comparison("inner", 0, Verdict.DRIFT, 0.1)
    rows = [changed(warning, order=i) for i in range(ci.MOST_RESULTS + 50)]
    last = comparison("broken", 10_000, Verdict.NONFINITE, 0.1)
    passing = Report((*rows, comparison("out", 9_999, is_output=True)))
    failing = Report((comparison("x", 0, Verdict.NONFINITE), last))
    run = json.loads(ci.sarif({"a": passing, "b": failing}))["runs"][0]
    assert len(run["results"]) == ci.MOST_RESULTS
    assert run["properties"]["left_out"] == 50 + 3
    assert "broken:output:0" in json.dumps(run["results"][:5])


@pytest.mark.parametrize("path", [
    "javascript:alert(1)", "//evil.example/x", "a b/ü.onnx", "C:\\models\\net.onnx", "", "%00",
])
def test_sarif_places_are_paths_never_links(path: str) -> None:
    report = Report((comparison("a", 0, Verdict.DRIFT, is_output=True),), {"golden": path})
    result = json.loads(ci.sarif(report))["runs"][0]["results"][0]
    uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", uri)
    assert not uri.startswith("//")
    assert uri


# -- Markdown ----------------------------------------------------------------------------------------------------


def test_the_comment_says_what_is_new_fixed_and_unchanged() -> None:
    changes = ci.Changes(
        new=(Change("conv3:output:0", "cat", "drift: 0.001 -> 0.02"),),
        fixed=(Change("conv9:output:0", "", "0.3 -> 0.001"), Change("fc:output:0", "", "nonfinite -> match")),
        unchanged=57,
    )
    text = ci.markdown({"cat": make_report(), "dog": make_report(30, None, False)}, changes)
    page = MarkdownIt("commonmark").enable("table").render(text)
    assert "<strong>1 new</strong>, 2 fixed, 57 unchanged" in page
    assert page.index("<h3>New</h3>") < page.index("conv3:output:0") < page.index("<h3>Fixed</h3>")
    rows = re.findall(r"<tr>\s*<td><code>(cat|dog)</code></td>\s*<td>([^<]*)</td>", page)
    assert rows == [("cat", "NOT PASSED"), ("dog", "PASSED")]


def test_a_comment_on_everything_at_its_worst_still_fits() -> None:
    row = comparison("long/" * 400, 0, Verdict.DRIFT, 0.5, reason="because | " * 200, op_type="T" * 999, is_output=True)
    report = Report(tuple(changed(row, order=i) for i in range(200)), {"golden": "g" * 999}, ("note " * 99,) * 99)
    changes = ci.Changes(
        new=[Change("new/" * 99 + f"{i}:output:0", "c" * 200, "worse " * 99) for i in range(500)],
        fixed=[Change("old/" * 99 + f"{i}:output:0", "", "better " * 99) for i in range(500)], unchanged=10**6,
    )
    text = ci.markdown({f"case{'x' * 100}{i}": report for i in range(300)}, changes)
    assert len(text.encode()) < 60_000
    MarkdownIt("commonmark").enable("table").render(text)


def test_numbers_that_are_none_are_dashes() -> None:
    row = comparison("a", 0, Verdict.UNREADABLE, error=0.1, is_output=True, metrics={})
    text = ci.markdown(Report((changed(row, error=math.nan, limit=math.nan, floor=math.nan),)))
    assert "nan" not in text.lower()
