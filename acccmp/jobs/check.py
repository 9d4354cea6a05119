"""Reports of a release against the last good one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from acccmp.core.reading import FilePath
from acccmp.jobs.sources import BASELINE
from acccmp.releases import drift
from acccmp.releases.baseline import Baseline
from acccmp.reports.report import Report
from acccmp.reports.report_json import reports_of


def check(
    reports: Report | FilePath | Mapping[str, Report | FilePath], baseline: Baseline | FilePath | None = None, *,
    accept: str | Sequence[str] = (), model: str = "",
) -> drift.Check:
    """Judge a report against its limits and against a baseline: what each layer's error was at the last good release.

    `reports` is one, or several by the name of their case (one input each), as `Report`s or as their report.json.
    `baseline` is a file (`Check.save_baseline` writes it; None: only the limits count). `accept` names ports, ops or
    nodes that may be beyond their limits from now on, as long as they do not get worse. `model` is the name that the
    baseline gets, by default the reports' own. Ratios are error / the baseline's, measured in floors where both have
    one.

    Raises InputError when the baseline is missing or of another model or an accepted port is not there, FormatError
    when a file is damaged.

    >>> good = acccmp.compare("resnet.onnx", "npu", mapping="mapping.json")
    >>> acccmp.check(good).save_baseline("resnet.baseline")
    'resnet.baseline was written: 0 lines changed, 55 new, 0 gone'
    >>> acccmp.check(acccmp.compare("resnet.onnx", "npu_faulty", mapping="mapping.json"), "resnet.baseline")
    Check(not passed: 31 drifted or worse, 24 unchanged, 0 improved)
    """
    named = reports_of(reports)
    model = model or next((report.subject["model"] for report in named.values() if "model" in report.subject), "")
    accepted = (accept,) if isinstance(accept, str) else accept
    return drift.check(named, BASELINE.maybe(baseline), model=model, accept=accepted)
