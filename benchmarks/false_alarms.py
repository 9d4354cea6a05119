"""Does the alarm cry wolf, does it sleep? Healthy and worsened runs of the ONNX sample against a baseline.

    python benchmarks/false_alarms.py [N]          N runs of each kind (100)

The device is emulated (float16 storage), with sums in an order of its own in every run, so that no run is the one that
its precision floors come from. Each run is fed with another real picture of the digits that were held out in training.
A worsened run has noise on one layer, as `--fault kind=noise` plants it: as much as makes this layer's relative error
1.5, 2 or 5 times its floor. Layers take turns. "Caught" means that the check does not pass and names a port of that
layer. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from acccmp import baseline as base
from acccmp.core.dump import Port
from acccmp.core.graph import Graph
from acccmp.dumps.read import read_dump
from acccmp.models.load import load
from acccmp.reports.report import Report
from acccmp.runners.emulate import Fault, emulate, floors
from acccmp.runners.fusion import plan
from acccmp.workflow import compare

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "sample_dumps" / "digits_resnet" / "resnet.onnx"
LEVELS = (1.5, 2.0, 5.0)
CASES = 4  # pictures behind the baseline that single runs are checked against
PAIRED = 14


@dataclass(frozen=True)
class Outcome:
    """One check of a run: is it healthy, how much worse was the layer, was there an alarm, did it name the layer?"""

    level: float
    layer: str
    alarm: bool
    named: bool


def pictures() -> np.ndarray[Any, Any]:
    """450 real pictures that no network was trained with: N C H W, float32 from 0 to 1."""
    spec = importlib.util.spec_from_file_location("training", ROOT / "sample_dumps" / "training.py")
    assert spec is not None
    assert spec.loader is not None
    training = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(training)
    return np.ascontiguousarray(training.digits()[2].transpose(0, 3, 1, 2))


class Bench:
    """The emulated device, and the comparisons of its runs; one per measurement, so that sessions are kept."""

    def __init__(self, graph: Graph | None = None) -> None:
        self.graph = graph or load(MODEL)
        self.images = pictures()

    def layers(self) -> list[tuple[str, str]]:
        """Layers that noise can be planted on: (an original op, the device op that runs it)."""
        return [
            (step.nodes[-1].name, step.name)
            for step in plan(self.graph).steps if not step.folded and step.nodes[-1].op_type != "Flatten"
        ]

    def report(self, image: int, summation: int, faults: Sequence[Fault] = ()) -> Report:
        """One run with one picture, compared."""
        feeds = {self.graph.inputs[0]: self.images[image : image + 1]}
        folder = Path(tempfile.mkdtemp(prefix="acccmp-"))
        try:
            made = emulate(self.graph, feeds, folder, faults=faults, summation=summation)
            return compare(self.graph, read_dump(made.dump), mapping=made.mapping)
        finally:
            shutil.rmtree(folder)

    def noise(self, image: int, layer: str, level: float, seed: int) -> Fault:
        """As much noise as makes the layer's relative error `level` times its floor; noise and rounding are
        independent, so their squares add up."""
        feeds = {self.graph.inputs[0]: self.images[image : image + 1]}
        floor = floors(self.graph, feeds)[Port(layer, "output", 0)]
        return Fault(layer, "noise", floor * math.sqrt(level**2 - 1), seed)

    def baseline(self, images: Iterable[int], seed: int) -> base.Baseline:
        """The baseline of healthy runs, a case for each picture."""
        reports = {f"picture {i}": self.report(i, seed * 1000 + i) for i in images}
        return base.Baseline("resnet", base.entries_of(reports))


def judge(
    reports: dict[str, Report], known: base.Baseline, level: float, layer: str, step: str,
    tolerance: base.Tolerance | None = None,
) -> Outcome:
    """What the check says of one run (or of several cases of it)."""
    checked = base.check(reports, known, tolerance=tolerance)
    ports = {change.port for change in checked.drifts} | {str(row.port) for _, row in checked.bad}
    return Outcome(level, layer, checked.exit_code != 0, any(Port.parse(port).node == step for port in ports))


def runs(bench: Bench, count: int, level: float, first: int) -> Iterable[tuple[str, str, int, Report]]:
    """`count` runs at a level (1 is healthy), each with its own picture: (layer, device op, picture, report)."""
    layers = bench.layers()
    for i in range(count):
        layer, step = layers[i % len(layers)]
        image = (first + i) % len(bench.images)
        faults = [] if level == 1 else [bench.noise(image, layer, level, seed=i)]
        yield layer, step, image, bench.report(image, summation=50_000 + i, faults=faults)


def single(bench: Bench, count: int, level: float) -> list[Outcome]:
    """Runs of one picture each, against a baseline of `CASES` other pictures."""
    known = bench.baseline(range(CASES), seed=1)
    return [
        judge({"new picture": report}, known, level, layer, step)
        for layer, step, _, report in runs(bench, count, level, first=CASES)
    ]


def paired(bench: Bench, count: int, level: float) -> list[Outcome]:
    """Releases of `PAIRED` pictures each, against a baseline of the same pictures."""
    known = bench.baseline(range(PAIRED), seed=2)
    layers, found = bench.layers(), []
    for i in range(count):
        layer, step = layers[i % len(layers)]
        reports = {}
        for image in range(PAIRED):
            faults = [] if level == 1 else [bench.noise(image, layer, level, seed=1000 * i + image)]
            reports[f"picture {image}"] = bench.report(image, 100_000 + 1000 * i + image, faults)
        found.append(judge(reports, known, level, layer, step))
    return found


def table(title: str, rows: Sequence[Sequence[Outcome]]) -> str:
    """Alarms at each level as Markdown."""
    lines = [f"| {title} | runs | alarms | alarm names the layer |", "|---|---:|---:|---:|"]
    for outcomes in rows:
        level = outcomes[0].level
        what = "healthy" if level == 1 else f"one layer's error x{level:g}"
        named = "" if level == 1 else str(sum(o.named for o in outcomes))
        lines.append(f"| {what} | {len(outcomes)} | {sum(o.alarm for o in outcomes)} | {named} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="?", type=int, default=100)
    count = parser.parse_args().runs
    bench = Bench()
    rows = [single(bench, count, level) for level in (1.0, *LEVELS)]
    print(table(f"one picture against a baseline of {CASES}", rows), flush=True)
    for outcomes in rows[1:]:
        missed = sorted({o.layer for o in outcomes if not o.alarm})
        print(f"\nmissed at x{outcomes[0].level:g}: {', '.join(missed) or 'none'}")
    print()
    print(table(f"{PAIRED} pictures, paired", [paired(bench, count, level) for level in (1.0, *LEVELS)]), flush=True)


if __name__ == "__main__":
    main()
