"""`acccmp check`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from acccmp.cli.compare import compare_runs, take_pair
from acccmp.cli.options import JOBS, JSON, Judging, Original, Pairing, RunChoice, by, takes
from acccmp.cli.printing import NOT_PASSED, PASSED, complain, print_json, progress, show
from acccmp.cli.ways import Way, take
from acccmp.errors import InputError

if TYPE_CHECKING:
    from acccmp.core.progress import Progress
    from acccmp.releases.drift import Check
    from acccmp.reports.report import Report


@dataclass(frozen=True)
class Standard:
    """What the result is judged against, and what of it becomes the new standard."""

    baseline: str = by(click.option("--baseline", "-b", required=True, type=click.Path(), help="The baseline file."))
    update: bool = by(click.option(
        "--update", is_flag=True, help="Rewrite the baseline with this result, and print the change.",
    ))
    accept: tuple[str, ...] = by(click.option(
        "--accept", multiple=True, metavar="PORT",
        help="Store this port (or the one of this op or original) as accepted although beyond its limits.",
    ))


@dataclass(frozen=True)
class PipelineFiles:
    """What is left for the pipeline."""

    junit: str | None = by(click.option("--junit", type=click.Path(), help="Write JUnit XML here."))
    sarif: str | None = by(click.option("--sarif", type=click.Path(), help="Write SARIF here."))
    markdown: str | None = by(click.option(
        "--markdown", type=click.Path(), help="Write a summary for a pull request here.",
    ))
    out: str | None = by(click.option(
        "--out", "-o", type=click.Path(), help="Write the reports of all cases into this folder.",
    ))


@dataclass(frozen=True)
class Past:
    """Where the result is kept beside those of other releases."""

    history: str | None = by(click.option(
        "--history", type=click.Path(), help="Keep the result in this history file, too (needs --release).",
    ))
    release: str = by(click.option("--release", default="", help="Name of this release in the history."))


def _cases(_: click.Context, option: click.Parameter, given: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """NAME=GOLDEN,NPU options as a dict."""
    found: dict[str, tuple[str, str]] = {}
    for text in given:
        name, equals, pair = text.partition("=")
        golden, comma, npu = pair.partition(",")
        if not (name and equals and golden and comma and npu):
            raise click.BadParameter(f"{text!r} should read NAME=GOLDEN,NPU")
        if name in found:
            raise click.BadParameter(f"the case {name!r} is given twice")
        found[name] = (golden, npu)
    return found


NO_HISTORY = Way("without --history", ("release",))


@click.command(short_help="for pipelines: compare, then judge against a stored baseline")
@click.argument("golden", type=click.Path(), required=False)
@click.argument("npu", type=click.Path(), required=False)
@click.option("--case", "cases", multiple=True, callback=_cases, metavar="NAME=GOLDEN,NPU", help="One of many inputs.")
@takes(
    standard=Standard, pairing=Pairing, original=Original, judging=Judging, files=PipelineFiles, past=Past,
    choice=RunChoice,
)
@JOBS
@JSON
def check(
    golden: str | None, npu: str | None, cases: dict[str, tuple[str, str]], standard: Standard, pairing: Pairing,
    original: Original, judging: Judging, files: PipelineFiles, past: Past, choice: RunChoice, jobs: int | None,
    as_json: bool,
) -> int:
    """Compare GOLDEN with NPU and judge the result against its limits and against the last good release.

    With --case, an input belongs to a case: --input CASE:NAME=FILE.

    \b
    Example:
      acccmp check model.onnx npu_dump/ --mapping model.json --baseline model.baseline --junit junit.xml
    """
    from acccmp.jobs.check import check as check_reports
    from acccmp.releases import baseline, history

    if (golden is None) != (npu is None) or (golden is None) == (not cases):
        raise InputError("check wants GOLDEN NPU, or --case NAME=GOLDEN,NPU (once for each input)")
    if golden is not None and npu is not None:
        cases = {"default": (golden, npu)}
    if past.history and not past.release:
        raise InputError("--history keeps this result under a name: add --release NAME")
    if not past.history:
        take(NO_HISTORY)
    for left, _ in cases.values():
        take_pair(left, pairing, judging)
    feeds = _feeds_of(cases, original.inputs)
    if standard.update:
        known, lost = baseline.read_to_replace(standard.baseline)
    else:
        known, lost = baseline.read(standard.baseline), ""
    reports = {}
    with progress(as_json) as tell:
        for name, (left, right) in cases.items():
            fed = replace(original, inputs=feeds[name])
            bar = _of_case(tell, name if len(cases) > 1 else "")
            reports[name] = compare_runs(left, right, fed, pairing, judging, choice, jobs, bar)
    checked = check_reports(reports, known, accept=standard.accept)
    write_pipeline_files(checked, files)
    if past.history:
        history.add(past.history, reports, release=past.release)
    written = _write_baseline(checked, standard, lost)
    show_check(checked, standard.baseline, written, as_json)
    settled = written and standard.update and checked.exit_code == NOT_PASSED and checked.only_drifts
    return PASSED if settled else checked.exit_code


def _of_case(tell: Progress, case: str) -> Progress:
    """Phases that say of which case they are."""
    return (lambda phase, done=0, total=0: tell(f"{case}: {phase}", done, total)) if case else tell


def _feeds_of(cases: Iterable[str], inputs: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Which --input is of which case: with several cases it reads CASE:NAME=FILE."""
    feeds: dict[str, dict[str, str]] = {case: {} for case in cases}
    for name, file in inputs.items():
        case = max((case for case in feeds if name.startswith(f"{case}:")), key=len, default="")
        if case:
            feeds[case][name.removeprefix(f"{case}:")] = file
        elif len(feeds) == 1:
            feeds[next(iter(feeds))][name] = file
        else:
            raise InputError(f"--input {name}={file}: of which case? There are {len(feeds)}: write --input "
                             f"CASE:{name}={file}, for example {next(iter(feeds))}:{name}={file}")
    return feeds


def _write_baseline(checked: Check, standard: Standard, lost: str) -> str:
    """Rewrite the baseline as --update and --accept ask for, and say what changed in it; "" when it is left alone."""
    if not standard.update and not standard.accept:
        return ""
    if not any(report.judged for report in checked.reports.values()):
        complain(f"{standard.baseline} was left alone: nothing was compared")
        return ""
    told = checked.save_baseline(standard.baseline, accepted_only=not standard.update)
    if lost:
        complain(f"the old baseline was given up: {lost}")
    return told


def write_pipeline_files(checked: Check, files: PipelineFiles) -> None:
    """What was asked for: JUnit, SARIF and Markdown together or not at all."""
    from acccmp.core.writing import write_texts
    from acccmp.reports.files import write_reports

    forms = [
        (files.junit, checked.to_junit), (files.sarif, checked.to_sarif), (files.markdown, checked.to_markdown),
    ]
    write_texts({Path(path): form() for path, form in forms if path})
    if files.out:
        write_reports(checked.reports, files.out)


def show_check(checked: Check, baseline: str, written: str, as_json: bool = False) -> None:
    """Print what was found; `written` says what became of the baseline file."""
    if as_json:
        from acccmp.releases.drift import spread
        from acccmp.reports.report_json import plain

        print_json({
            "schema": "acccmp.check/1", "passed": checked.passed, "exit_code": checked.exit_code,
            "method": checked.method, "failures": list(checked.failures), "accepted": list(checked.accepted),
            "unchanged": checked.unchanged, "baseline": written, "notes": notes_of(checked.reports),
            "spread": [plain({**vars(row), "ratio": row.ratio}) for row in spread(checked.reports)],
            "changes": [plain(vars(change)) for change in checked.changes],
        })
        return
    from acccmp.ui.screens import check_screen

    show(check_screen(checked, baseline, written, notes_of(checked.reports)))


def notes_of(reports: Mapping[str, Report]) -> list[str]:
    """What the comparisons noted; what not all of the cases noted has their names before it."""
    cases: dict[str, list[str]] = {}
    for case, report in reports.items():
        for note in report.notes:
            cases.setdefault(note, []).append(case)
    return [note if len(of) == len(reports) else f"{', '.join(of)}: {note}" for note, of in cases.items()]
