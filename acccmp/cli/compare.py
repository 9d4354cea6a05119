"""`acccmp compare`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from acccmp.cli.options import JOBS, JSON, Judging, Original, Pairing, RunChoice, by, takes
from acccmp.cli.printing import print_json, progress, say, show, width
from acccmp.cli.ways import Way, take

if TYPE_CHECKING:
    from acccmp.core.progress import Progress
    from acccmp.jobs.compare_slice import SliceReports
    from acccmp.reports.report import Report


@dataclass(frozen=True)
class Delivery:
    """Where a report goes."""

    out: str | None = by(click.option(
        "--out", "-o", type=click.Path(), help="Write report.csv, .json, .md and .html into this folder.",
    ))
    level: str = by(click.option(
        "--report-level", "level", type=click.Choice(["full", "short", "line"]), default="full", show_default=True,
        help="short: one line when all is well; line: always one line.",
    ))
    as_json: bool = by(JSON)


WEIGHTS = Way(
    "where weights are compared (nothing is run, no dump is read, each number may be rounded once)",
    (Pairing, RunChoice, "inputs", "runner", "thresholds", "strict", "floor", "flush_subnormals", "jobs"),
)
SLICE = Way(
    "where GOLDEN is a slice (it has its own model, weights and inputs)",
    ("mapping_unfused", "quant_rule", "model", "weights", "inputs"),
)
MODEL = Way("where GOLDEN is the model itself", ("model",))
DUMP = Way("where GOLDEN is a dump (no model is run)", ("runner",))
NO_MODEL = Way("without a model", ("weights",))
NO_FLOOR = Way("with --no-floor", ("flush_subnormals",))
AS_JSON = Way("with --json", ("level",))


@click.command(short_help="compare a model or a golden dump with a device dump, layer by layer")
@click.argument("golden", type=click.Path())
@click.argument("npu", type=click.Path())
@takes(pairing=Pairing, original=Original, judging=Judging, choice=RunChoice)
@click.option("--weights-only", is_flag=True, help="Compare weights only: NPU is a compiled model or checkpoint.")
@JOBS
@takes(delivery=Delivery)
def compare(
    golden: str, npu: str, original: Original, pairing: Pairing, judging: Judging, choice: RunChoice,
    weights_only: bool, jobs: int | None, delivery: Delivery,
) -> int:
    """Compare GOLDEN with NPU, layer by layer.

    GOLDEN is the original model (it is run first), a golden dump folder, or the folder of a slice. NPU is the folder
    that the device dumped. Exit codes for a slice are 0: its self-test holds and the device agrees; 1: it holds and
    the device differs; 2: otherwise.

    \b
    Example:
      acccmp compare model.onnx npu_dump/ --mapping model.json -o report/
    """
    from acccmp.core.identify import identify

    kind = identify(golden).kind
    if delivery.as_json:
        take(AS_JSON)
    if weights_only or kind.name == identify(npu).kind.name == "ckpt":
        take(WEIGHTS)
        with progress(delivery.as_json) as tell:
            tell("comparing weights")
            report = _compare_weights(golden, npu, original, judging)
        return _deliver(report, delivery)
    if kind.role == "slice":
        take(SLICE)
    else:
        take_pair(golden, pairing, judging)
    with progress(delivery.as_json) as tell:
        if kind.role != "slice":
            report = compare_runs(golden, npu, original, pairing, judging, choice, jobs, tell)
        else:
            from acccmp.jobs.compare_slice import compare_slice

            judged = compare_slice(
                golden, npu, mapping=pairing.mapping, runner=original.runner, thresholds=judging.thresholds,
                valid=pairing.valid, min_coverage=judging.min_coverage, strict=judging.strict, floor=judging.floor,
                flush_subnormals=judging.flush_subnormals, run=choice.run, device=choice.device,
                npu_model=choice.npu_model, step=choice.step, jobs=jobs, progress=tell,
            )
    return _deliver(report, delivery) if kind.role != "slice" else _deliver_slice(judged, delivery)


def take_pair(golden: str, pairing: Pairing, judging: Judging) -> None:
    """Refuse what means nothing to a comparison with this golden side."""
    from acccmp.core.identify import identify

    if identify(golden).kind.role == "dump":
        take(DUMP, *(() if pairing.model else (NO_MODEL,)))
    else:
        take(MODEL)
    if not judging.floor:
        take(NO_FLOOR)


def compare_runs(
    golden: str, npu: str, original: Original, pairing: Pairing, judging: Judging, choice: RunChoice, jobs: int | None,
    tell: Progress,
) -> Report:
    """One comparison as the command line says; what `acccmp check` does for each case, too."""
    from acccmp.jobs.compare import compare

    return compare(
        golden, npu, mapping=pairing.mapping, mapping_unfused=pairing.mapping_unfused, quant_rule=pairing.quant_rule,
        model=pairing.model, weights=original.weights, inputs=original.inputs or None, runner=original.runner,
        thresholds=judging.thresholds, valid=pairing.valid, min_coverage=judging.min_coverage, strict=judging.strict,
        floor=judging.floor, flush_subnormals=judging.flush_subnormals, run=choice.run, device=choice.device,
        npu_model=choice.npu_model, step=choice.step, jobs=jobs, progress=tell,
    )


def _compare_weights(golden: str, npu: str, original: Original, judging: Judging) -> Report:
    from acccmp.comparison.weights import compare_weights

    return compare_weights(golden, npu, weights=original.weights, min_coverage=judging.min_coverage)


def _deliver(report: Report, delivery: Delivery) -> int:
    """Write the report's files if asked, show it, and give its exit code."""
    from acccmp.reports import report_json, terminal

    saved = report.save(delivery.out) if delivery.out else []
    if delivery.as_json:
        print_json(report_json.to_json(report))
    elif delivery.level == "line" or (delivery.level == "short" and report.passed and not report.warnings):
        say(terminal.one_line(report))
    else:
        show(terminal.terminal(report, width(), saved=[str(path) for path in saved]))
    return report.exit_code


def _deliver_slice(judged: SliceReports, delivery: Delivery) -> int:
    """A slice's self-test, and the two reports of what the device gave."""
    from acccmp.reports import report_json

    inner = str(Path(delivery.out) / "full_model") if delivery.out else None
    own, full, test = judged.own, judged.full, judged.self_test
    if not delivery.as_json:
        if full is not None:
            say("against the full model (what this stretch inherited included):")
            _deliver(full, Delivery(inner, delivery.level, False))
            say("against the slice alone (its own error):")
        _deliver(own, delivery)
        say(f"self-test: {test.status}{f' ({test.reason})' if test.reason else ''}")
        say(f"device: {judged.device}")
        return judged.exit_code
    if delivery.out and inner:
        own.save(delivery.out)
        if full is not None:
            full.save(inner)
    print_json({
        "schema": "acccmp.compared_slice/1", "exit_code": judged.exit_code,
        "self_test": {"status": test.status, "reason": test.reason}, "device": judged.device,
        "slice": json.loads(report_json.to_json(own)),
        "full_model": None if full is None else json.loads(report_json.to_json(full)),
    })
    return judged.exit_code
