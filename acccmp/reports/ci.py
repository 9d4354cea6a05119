"""A report for pipelines: JUnit XML, SARIF 2.1.0, and Markdown for a pull request's comment.

All three take one report, or several by the name of their case (one input each). What fails here fails the report:
inner layers that drift under healthy outputs are warnings, as everywhere.
"""

from __future__ import annotations

import hashlib
import json
import urllib.parse
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from xml.etree import ElementTree

from acccmp.reports import safe, summary
from acccmp.reports.legend import LOOKS
from acccmp.reports.markdown import markdown_first_bad, markdown_rows
from acccmp.reports.pair import BAD, FATAL, Verdict
from acccmp.reports.report import Comparison, Report

Reports = Report | Mapping[str, Report]
MOST_RESULTS = 5000  # of a SARIF run: what code scanning services take in


class Change(Protocol):
    """What became of one port since the baseline."""

    @property
    def port(self) -> str: ...
    @property
    def case(self) -> str: ...
    @property
    def reason(self) -> str: ...


@dataclass(frozen=True)
class Changes:
    """What changed since the baseline: `new` problems (they fail), `fixed` ones, and how many ports did not change.

    `accepted` are ports that may be beyond their limits; every other bad port fails a check against a baseline.
    """

    new: Sequence[Change] = ()
    fixed: Sequence[Change] = ()
    unchanged: int = 0
    accepted: Collection[str] = ()


def _cases(reports: Reports) -> dict[str, Report]:
    return {"default": reports} if isinstance(reports, Report) else dict(reports)


def fails(report: Report, row: Comparison, changes: Changes | None = None) -> bool:
    """Does this port fail?

    Without `changes` inner drift counts only where the report does not pass; with them every bad port that is not
    accepted does.
    """
    if changes is not None:
        return row.is_bad and str(row.port) not in changes.accepted
    if row.verdict in FATAL or (row.is_output and row.verdict is not Verdict.MATCH):
        return True
    return row.is_bad and not report.passed


def passes(reports: Reports, changes: Changes | None = None) -> bool:
    """True when no port fails, nothing is new since the baseline, and enough was compared in every case."""
    cases = _cases(reports)
    return bool(cases) and not (changes is not None and changes.new) and not any(
        fails(report, row, changes) for report in cases.values() for row in report.comparisons
    ) and not any(list(_whole(report)) for report in cases.values())


# -- JUnit -------------------------------------------------------------------------------------------------------


def junit(reports: Reports, changes: Changes | None = None, name: str = "acccmp") -> str:
    """JUnit XML: a suite for each case, a test for each layer (all its ports), named by the layer.

    Bad layers are failures (`unreadable` ones errors), ports that nothing could be compared for are skipped, failures
    of the whole report (nothing compared, coverage) are tests of their own. New problems of `changes` fail as well.
    """
    root = ElementTree.Element("testsuites", name=safe.xml(name))
    totals = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for case, report in _cases(reports).items():
        suite = _suite(case, report, changes)
        root.append(suite)
        for key in totals:
            totals[key] += int(suite.get(key, "0"))
    for key, count in totals.items():
        root.set(key, str(count))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _suite(case: str, report: Report, changes: Changes | None) -> ElementTree.Element:
    suite = ElementTree.Element("testsuite", name=safe.xml(case), time="0")
    properties = ElementTree.SubElement(suite, "properties")
    for key, value in {**report.subject, "coverage": summary.percent(report.coverage)}.items():
        ElementTree.SubElement(properties, "property", name=safe.xml(key), value=safe.xml(value))
    layers: dict[str, list[Comparison]] = {}
    first_bad = report.first_bad
    for row in report.comparisons:
        layers.setdefault(row.port.node, []).append(row)
    for node, rows in layers.items():
        _layer(ElementTree.SubElement(suite, "testcase", name=safe.xml(node), classname=safe.xml(case), time="0"),
               report, rows, first_bad, changes, _new(changes, case, node))
    for what, why in _whole(report):
        test = ElementTree.SubElement(suite, "testcase", name=what, classname=safe.xml(case), time="0")
        ElementTree.SubElement(test, "failure", message=safe.xml(why), type=what).text = safe.xml(why)
    tests = suite.findall("testcase")
    suite.set("tests", str(len(tests)))
    for kind, key in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        suite.set(key, str(sum(test.find(kind) is not None for test in tests)))
    return suite


def _new(changes: Changes | None, case: str, node: str) -> list[Change]:
    found = changes.new if changes is not None else ()
    return [c for c in found if c.case in ("", case) and c.port.rsplit(":", 2)[0] == node]


def _layer(
    test: ElementTree.Element, report: Report, rows: list[Comparison], first_bad: Comparison | None,
    changes: Changes | None, new: Sequence[Change],
) -> None:
    failed = [row for row in rows if fails(report, row, changes)]
    told = [_told(row) for row in rows if row.is_bad or row in failed]
    if failed or new:
        worst = max(failed, key=lambda row: row.badness, default=None)
        kind = "error" if worst is not None and worst.verdict is Verdict.UNREADABLE else "failure"
        message = f"{worst.verdict}: {worst.told or summary.amount(worst)}" if worst is not None else \
            f"changed since the baseline: {new[0].reason}"
        lines = told + [f"{change.port}: changed since the baseline: {change.reason}" for change in new]
        if first_bad is not None and any(row is first_bad for row in failed):
            lines.append(f"This is the first bad layer. {summary.first_bad_meaning(first_bad)}")
        found = ElementTree.SubElement(
            test, kind, message=safe.xml(message, 400), type=str(worst.verdict) if worst is not None else "changed",
        )
        found.text = "\n".join(safe.xml(line) for line in lines)
    elif not any(row.is_judged for row in rows):
        why = "; ".join(dict.fromkeys(f"{row.verdict}: {row.reason or LOOKS[row.verdict].means}" for row in rows))
        ElementTree.SubElement(test, "skipped", message=safe.xml(why, 400))
    elif told:
        ElementTree.SubElement(test, "system-out").text = "\n".join(safe.xml(f"warning: {line}") for line in told)


def _told(row: Comparison) -> str:
    return f"{safe.visible(row.port, 400)} is {row.verdict}: {row.told or summary.amount(row)}"


def _whole(report: Report) -> Iterator[tuple[str, str]]:
    """Failures that belong to no layer: (name of the test, why)."""
    if not report.judged:
        yield "anything compared", "nothing was compared"
    elif not report.outputs:
        yield "model outputs compared", "no model output was compared"
    for place, why in enumerate(report.extra_failures, 1):
        yield f"report {place}", why
    if report.judged and report.coverage < report.min_coverage:
        yield "coverage", summary.coverage(report)


# -- SARIF -------------------------------------------------------------------------------------------------------

_SARIF = "https://json.schemastore.org/sarif-2.1.0.json"
_RULES: Mapping[str, str] = {
    **{str(v): LOOKS[v].means for v in Verdict if v in BAD | {Verdict.NO_NPU, Verdict.NO_GOLDEN}},
    "report": "the comparison as a whole does not pass", "changed": "worse than the baseline",
}


def sarif(reports: Reports, changes: Changes | None = None) -> str:
    """SARIF 2.1.0: one result for each bad port (`error` where it fails the report, else `warning`).

    The location is the model file, and the port as a logical location. At most 5000 results, failing ones first.
    """
    cases = _cases(reports)
    results = [result for case, report in cases.items() for result in _results(case, report, changes)]
    for change in changes.new if changes is not None else ():
        uri = _uri(next(iter(cases.values())).subject) if cases else "model"
        results.append(_result("changed", "error", change.port, change.case, f"{change.port}: {change.reason}", uri))
    results.sort(key=lambda result: result["level"] != "error")
    rules = [{"id": name, "name": name, "shortDescription": {"text": text}} for name, text in _RULES.items()]
    stored = {
        "$schema": _SARIF, "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {"name": "acccmp", "rules": rules}},
            "invocations": [{"executionSuccessful": True}],
            "columnKind": "unicodeCodePoints",
            "results": results[:MOST_RESULTS],
            "properties": {"cases": {
                safe.visible(case): {
                    "passed": report.passed, "judged": len(report.judged),
                    "subject": {safe.visible(k): safe.visible(v, 1000) for k, v in report.subject.items()},
                } for case, report in cases.items()
            }, "left_out": max(0, len(results) - MOST_RESULTS)},
        }],
    }
    return json.dumps(stored, indent=1, allow_nan=False) + "\n"


def _results(case: str, report: Report, changes: Changes | None) -> Iterator[dict[str, Any]]:
    uri, first_bad = _uri(report.subject), report.first_bad
    for row in report.comparisons:
        failed = fails(report, row, changes)
        if row.is_bad or failed:
            first = f" This is the first bad layer. {summary.first_bad_meaning(row)}" if row is first_bad else ""
            message = f"{safe.visible(_told(row), 900)}.{first}"
            yield _result(str(row.verdict), "error" if failed else "warning", str(row.port), case, message, uri)
    for what, why in _whole(report):
        yield _result("report", "error", what, case, f"{what}: {why}", uri)


def _result(rule: str, level: str, port: str, case: str, message: str, uri: str) -> dict[str, Any]:
    known = rule if rule in _RULES else "report"
    digest = hashlib.sha256(f"{case}\0{port}\0{known}".encode("utf-8", "backslashreplace")).hexdigest()
    return {
        "ruleId": known, "ruleIndex": list(_RULES).index(known), "level": level,
        "message": {"text": safe.visible(message, 1000)},
        "locations": [{
            "physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}},
            "logicalLocations": [{"fullyQualifiedName": safe.visible(port, 1000), "kind": "member"}],
        }],
        "partialFingerprints": {"acccmpPort/v1": digest[:32]},
        "properties": {"case": safe.visible(case)},
    }


def _uri(subject: Mapping[str, str]) -> str:
    """A relative or absolute URI reference for the compared model; never a scheme that a viewer would follow."""
    text = safe.visible(subject.get("golden", ""), 500) or "model"
    quoted = urllib.parse.quote(text.replace("\\", "/"), safe="/-._~")
    return f".{quoted}" if quoted.startswith("//") else quoted


# -- Markdown ----------------------------------------------------------------------------------------------------


def markdown(reports: Reports, changes: Changes | None = None, worst: int = 5) -> str:
    """Markdown for a pull request: the result of each case, what is new, fixed and unchanged, and the worst layers.

    Below 60 kB whatever the reports hold.
    """
    cases = _cases(reports)
    new = list(changes.new) if changes is not None else []
    lines = [f"## acccmp: {'PASSED' if passes(cases, changes) else 'NOT PASSED'}", ""]
    if changes is not None:
        accepted = f" {len(changes.accepted)} accepted." if changes.accepted else ""
        lines += [f"Since the baseline: **{len(new)} new**, {len(changes.fixed)} fixed, "
                  f"{changes.unchanged} unchanged.{accepted}", ""]
        lines += _changes("New", new) + _changes("Fixed", changes.fixed)
    lines += ["| case | result | judged | coverage | first bad layer |", "|---|---|---:|---:|---|"]
    for case, report in list(cases.items())[:100]:
        first = "" if report.first_bad is None else safe.code(report.first_bad.port)
        lines.append(f"| {safe.code(case, 60)} | {summary.headline(report)} | {len(report.judged)} | "
                     f"{summary.percent(report.coverage)} | {first} |")
    lines += [f"| and {len(cases) - 100} more | | | | |"] if len(cases) > 100 else []
    bad = [(case, report) for case, report in cases.items() if report.first_bad is not None or report.failures]
    for case, report in bad[:5]:
        lines += ["", f"### Case {safe.code(case, 60, in_table=False)}", ""]
        lines += [f"- {safe.prose(why, 200)}" for why in summary.whys(report)]
        lines += ["", *markdown_first_bad(report)]
        if report.judged:
            lines += ["<details><summary>the worst ports</summary>", "",
                      *markdown_rows(summary.worst(report, worst)), "", "</details>"]
    lines += [f"\nand {len(bad) - 5} more cases with bad layers"] if len(bad) > 5 else []
    return "\n".join([*lines, ""])


def _changes(title: str, changes: Sequence[Change], most: int = 20) -> list[str]:
    if not changes:
        return []
    lines = [f"### {title}", "", "| port | case | what |", "|---|---|---|"]
    lines += [f"| {safe.code(c.port)} | {safe.code(c.case, 60) if c.case else 'all'} | {safe.prose(c.reason, 200)} |"
              for c in changes[:most]]
    return [*lines, *([f"| and {len(changes) - most} more | | |"] if len(changes) > most else []), ""]
