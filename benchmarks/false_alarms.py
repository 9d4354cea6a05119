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

from acccmp.comparison.compare import compare
from acccmp.core.dump import Dump, Port
from acccmp.core.graph import Graph
from acccmp.dumps.read import read_dump
from acccmp.emulator.emulate import Fault, emulate, floors
from acccmp.emulator.fusion import plan
from acccmp.mapping.device_map import DeviceMap
from acccmp.models.load import load
from acccmp.releases import baseline, drift
from acccmp.reports.report import Report
from acccmp.runners.run import run

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
    """The emulated device, and the comparisons of its runs. `fuse=False` is a device that rounds after every op, which
    the floors do not fit; `floored=False` compares without floors, as where the original cannot be emulated."""

    def __init__(self, fuse: bool = True, floored: bool = True) -> None:
        self.graph: Graph = load(MODEL)
        self.fuse, self.floored = fuse, floored
        self.images = pictures()
        self.folder = tempfile.TemporaryDirectory(prefix="acccmp-")
        self.known: dict[int, tuple[Dump, dict[Port, float]]] = {}

    def layers(self) -> list[tuple[str, str]]:
        """Layers that noise can be planted on: (an original op, the device op that runs it)."""
        return [
            (step.nodes[-1].name, step.name)
            for step in plan(self.graph).steps if not step.folded and step.nodes[-1].op_type != "Flatten"
        ]

    def feeds(self, image: int) -> dict[str, Any]:
        return {self.graph.inputs[0]: self.images[image : image + 1]}

    def golden(self, image: int) -> tuple[Dump, dict[Port, float]]:
        """The golden run of a picture, and the floors of its tensors."""
        if image not in self.known:
            self.known[image] = run(self.graph, self.feeds(image)), floors(self.graph, self.feeds(image))
        return self.known[image]

    def report(self, image: int, summation: int, faults: Sequence[Fault] = ()) -> Report:
        """One run with one picture, compared. Its dump lies in `folder` until it is judged."""
        here = Path(tempfile.mkdtemp(dir=self.folder.name))
        made = emulate(self.graph, self.feeds(image), here, faults=faults, summation=summation, fuse=self.fuse)
        golden, expected = self.golden(image)
        return compare(
            golden, read_dump(made.dump), mapping=DeviceMap(load(made.mapping)), model=self.graph,
            floors=expected if self.floored else None,
        )

    def forget(self) -> None:
        """Remove the dumps that were judged."""
        for path in Path(self.folder.name).iterdir():
            shutil.rmtree(path)

    def noise(self, image: int, layer: str, level: float, seed: int) -> Fault:
        """As much noise as makes the layer's relative error `level` times its floor; noise and rounding are
        independent, so their squares add up."""
        floor = self.golden(image)[1][Port(layer, "output", 0)]
        return Fault(layer, "noise", floor * math.sqrt(level**2 - 1), seed)

    def baseline(self, images: Iterable[int], seed: int) -> baseline.Baseline:
        """The baseline of healthy runs, a case for each picture."""
        reports = {f"picture {i}": self.report(i, seed * 1000 + i) for i in images}
        known = baseline.Baseline("resnet", baseline.entries_of(reports))
        self.forget()
        return known


def judge(
    bench: Bench, reports: dict[str, Report], known: baseline.Baseline, level: float, layer: str, step: str,
) -> Outcome:
    """What the check says of one run (or of several cases of it)."""
    checked = drift.check(reports, known)
    bench.forget()
    ports = {change.port for change in checked.drifts} | {str(row.port) for _, row in checked.bad}
    return Outcome(level, layer, checked.exit_code != 0, any(Port.parse(port).node == step for port in ports))


def single(bench: Bench, count: int, level: float, cases: int = CASES) -> list[Outcome]:
    """Runs of one picture each, against a baseline of `cases` other pictures. Level 1 is healthy."""
    known = bench.baseline(range(cases), seed=1)
    layers, found = bench.layers(), []
    for i in range(count):
        layer, step = layers[i % len(layers)]
        image = (cases + i) % len(bench.images)
        faults = [] if level == 1 else [bench.noise(image, layer, level, seed=i)]
        report = bench.report(image, summation=50_000 + i, faults=faults)
        found.append(judge(bench, {"new picture": report}, known, level, layer, step))
    return found


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
        found.append(judge(bench, reports, known, level, layer, step))
    return found


def again(bench: Bench, count: int) -> list[Outcome]:
    """Healthy runs of one picture each, against a baseline of `CASES` pictures that this one is among."""
    known, found = bench.baseline(range(CASES), seed=1), []
    for i in range(count):
        report = bench.report(i % CASES, summation=50_000 + i)
        found.append(judge(bench, {f"picture {i % CASES}": report}, known, 1.0, "", ""))
    return found


def drawn(bench: Bench, pictures_used: int, cases: int, draws: int = 40) -> float:
    """Share of healthy runs with an alarm, over `draws` random choices of the baseline's `cases` pictures."""
    runs = []
    for image in range(pictures_used):
        runs.append(baseline.entries_of({f"picture {image}": bench.report(image, 70_000 + image)}))
        bench.forget()
    chance, alarms, judged = np.random.default_rng(5), 0, 0
    for _ in range(draws):
        order = chance.permutation(len(runs))
        known = {key: entry for i in order[:cases] for key, entry in runs[i].items()}
        for i in order[cases:]:
            changes, _ = drift.changes_since(known, runs[i], drift.Tolerance())
            alarms += any(change.kind in drift.FAILING for change in changes)
            judged += 1
    return alarms / judged


def table(title: str, rows: Sequence[Sequence[Outcome]]) -> str:
    """Alarms at each level as Markdown."""
    lines = [f"| {title} | runs | alarms | alarm names the layer |", "|---|---:|---:|---:|"]
    for outcomes in rows:
        level = outcomes[0].level
        what = "healthy" if level == 1 else f"one layer's error x{level:g}"
        named = "" if level == 1 else str(sum(o.named for o in outcomes))
        lines.append(f"| {what} | {len(outcomes)} | {sum(o.alarm for o in outcomes)} | {named} |")
    return "\n".join(lines)


def other_devices(count: int) -> None:
    """Healthy runs, for a device that the floors fit, one that they do not fit, and without floors: against random
    baselines of other pictures, and against one that this picture is among."""
    print("\n| healthy runs, alarms | baseline: 1 other picture | 4 others | 14 others | this one and 3 others |")
    print("|---|---:|---:|---:|---:|")
    for what, bench in (
        ("floors fit the device", Bench()), ("a device that rounds after every op", Bench(fuse=False)),
        ("no floors", Bench(floored=False)),
    ):
        shares = [drawn(bench, count + CASES, cases) for cases in (1, CASES, PAIRED)]
        same = sum(outcome.alarm for outcome in again(bench, count))
        print(f"| {what} | {' | '.join(f'{share:.1%}' for share in shares)} | {same} of {count} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="?", type=int, default=100)
    parser.add_argument("--random", action="store_true", help="only the last table: random baselines")
    options = parser.parse_args()
    count = options.runs
    if options.random:
        other_devices(count)
        return
    bench = Bench()
    rows = [single(bench, count, level) for level in (1.0, *LEVELS)]
    print(table(f"one picture against a baseline of {CASES}", rows), flush=True)
    for outcomes in rows[1:]:
        missed = sorted({o.layer for o in outcomes if not o.alarm})
        print(f"\nmissed at x{outcomes[0].level:g}: {', '.join(missed) or 'none'}")
    print()
    print(table(f"{PAIRED} pictures, paired", [paired(bench, count, level) for level in (1.0, *LEVELS)]), flush=True)
    other_devices(count)


if __name__ == "__main__":
    main()
