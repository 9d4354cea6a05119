"""`make demo`: compare the faulty sample dump with its original, and say whether the planted layer was found."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "sample_dumps" / "digits_resnet"


def main() -> int:
    """Run the comparison of the sample as a user would; 0 when the planted fault is named first."""
    from acccmp.cli.printing import show, width
    from acccmp.jobs.compare import compare
    from acccmp.reports import terminal

    truth = json.loads((SAMPLE / "FAULT.json").read_text(encoding="utf-8"))
    command = (
        "acccmp compare sample_dumps/digits_resnet/resnet.onnx sample_dumps/digits_resnet/npu_faulty "
        "--mapping sample_dumps/digits_resnet/mapping.json -o demo_report"
    )
    print(f"$ {command}\n")
    here = SAMPLE.relative_to(Path.cwd()) if SAMPLE.is_relative_to(Path.cwd()) else SAMPLE
    report = compare(here / "resnet.onnx", here / "npu_faulty", mapping=here / "mapping.json")
    saved = report.save(ROOT / "demo_report")
    show(terminal.terminal(report, width(), saved=[str(path.relative_to(ROOT)) for path in saved]))
    first = report.first_bad
    named = None if first is None else first.port.node
    print(f"\nThe dump is of an emulated device (nothing here was measured on an NPU), with one planted fault: "
          f"{truth['fault']}.")
    if named == truth["first_bad"]:
        print(f"Found: the first bad layer is {named}. The report lies in demo_report/ (open report.html).")
        return 0
    print(f"Not found: the planted layer is {truth['first_bad']}, the report names {named}.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
