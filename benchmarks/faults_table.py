"""Every kind of fault on up to five layers of each sample network: is the planted layer the first bad one? Networks
with an ONNX twin are judged by the twin's floors, and beside them by those of the original where it has some.

    python benchmarks/faults_table.py [--limits floor|fixed]

Devices are emulated with sums in another order than the precision floors have. Prints two Markdown tables: the counts,
and the faults that were not named first, with their size in floors (what float16 storage alone explains).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from acccmp.comparison.compare import compare
from acccmp.core.dump import Dump, Port
from acccmp.core.graph import Graph
from acccmp.dumps.read import read_dump
from acccmp.emulator.emulate import Fault, Twin, emulate, floors
from acccmp.emulator.faults import KINDS
from acccmp.emulator.fusion import plan
from acccmp.errors import InputError
from acccmp.mapping.device_map import DeviceMap
from acccmp.models.load import load
from acccmp.reports.report import Report

SAMPLES = Path(__file__).parent.parent / "sample_dumps"
LAYERS = 5
# What is planted, by its name in the table: every kind at its default size, and a scale that fixed limits let pass.
FAULTS: dict[str, tuple[str, float | None]] = {kind: (kind, None) for kind in KINDS} | {"scale x 1.04": ("scale", 1.04)}
# Healthy devices, other ones than the floors come from.
HEALTHY: tuple[dict[str, Any], ...] = (
    *({"summation": seed} for seed in range(1, 6)), {"fuse": False}, {"overflow": "saturate"},
    {"summation": 2, "fuse": False, "overflow": "saturate"},
)


@dataclass(frozen=True)
class Network:
    """A sample network, ready to be emulated; `floors` are those of the model that is run as a device, or the
    original's own."""

    name: str
    device: Graph
    feeds: Mapping[str, Any]
    golden: Dump
    floors: Mapping[Port, float]
    twin: Twin | None


@dataclass(frozen=True)
class Planted:
    """One fault and what the comparison made of it. `size` is the planted tensor's distance over its floor."""

    network: str
    kind: str
    op: str
    found: str
    size: float
    distance: float

    @property
    def is_named(self) -> bool:
        return self.found == "planted"


def networks() -> list[Network]:
    sys.path.insert(0, str(SAMPLES))
    import networks as makers

    pictures = np.load(SAMPLES / "weights" / "images.npy")
    found = []
    for name, model, twin, original in (
        ("digits_resnet", "resnet.onnx", None, None), ("digits_lenet", "twin.onnx", makers.LENET_TWIN, None),
        ("digits_lenet", "twin.onnx", makers.LENET_TWIN, "lenet.prototxt"),
        ("digits_cnn", "twin.onnx", makers.CNN_TWIN, None), ("digits_cnn", "twin.onnx", makers.CNN_TWIN, "cnn.pb"),
    ):
        device = load(SAMPLES / name / model)
        graph = load(SAMPLES / name / original) if original else device
        feeds = {device.inputs[0]: np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))}
        own = {graph.inputs[0]: pictures} if graph.format == "tensorflow" else feeds
        told = f"{name}, floors of {original}" if original else name
        found.append(Network(told, device, feeds, read_dump(SAMPLES / name / "golden"), floors(graph, own), twin))
    return found


def judged(
    network: Network, faults: list[Fault], folder: Path, with_floors: bool, device: Mapping[str, Any],
) -> Report:
    made = emulate(network.device, network.feeds, folder, faults=faults, twin=network.twin, **device)
    return compare(
        network.golden, read_dump(made.dump), mapping=DeviceMap(load(made.mapping)),
        floors=network.floors if with_floors else None,
    )


def plant(network: Network, name: str, op: str, with_floors: bool) -> Planted | None:
    """Plant one fault and compare; None where its kind does not fit the op."""
    kind, factor = FAULTS[name]
    step = plan(network.device).step_of(op)
    with tempfile.TemporaryDirectory() as folder:
        try:
            report = judged(network, [Fault(op, kind, factor)], Path(folder), with_floors, HEALTHY[0])
        except InputError:
            return None
        row = report[Port(step.name, "output", 0)]
        distance = row.metrics.get("RelativeEuclideanDistance", float("nan"))
        floor = network.floors.get(Port(step.nodes[-1].name, "output", 0), float("nan"))
        first = report.first_bad
        found = "nothing" if first is None else "planted" if first.port == row.port else str(first.port)
        return Planted(network.name, name, op, found, distance / floor if floor else float("nan"), distance)


def fitting(network: Network, name: str, with_floors: bool) -> list[Planted]:
    """The fault on up to five of the ops that it fits, evenly spread over the network."""
    kind = FAULTS[name][0]
    ops = [step.nodes[0].name for step in plan(network.device).steps if not step.folded]
    if kind == "bn-eps":
        ops = [op for op in ops if any("BatchNorm" in n.op_type for n in plan(network.device).step_of(op).nodes)]
    elif kind == "ceil-mode":
        ops = [op for op in ops if "Pool" in network.device[op].op_type]
    elif kind == "bad-weight":
        ops = [op for op in ops if network.device[op].op_type in ("Conv", "Gemm", "MatMul")]
    chosen = [ops[i] for i in sorted({round(i) for i in np.linspace(0, len(ops) - 1, min(LAYERS, len(ops)))})]
    return [planted for op in chosen if (planted := plant(network, name, op, with_floors)) is not None]


def measure(with_floors: bool = True) -> tuple[dict[str, int], list[Planted]]:
    """How many healthy devices pass without a bad layer on each network, and every planted fault."""
    healthy, found = {}, []
    for network in networks():
        healthy[network.name] = 0
        for device in HEALTHY:
            with tempfile.TemporaryDirectory() as folder:
                report = judged(network, [], Path(folder), with_floors, device)
            healthy[network.name] += report.passed and report.first_bad is None
        for name in FAULTS:
            found += fitting(network, name, with_floors)
    return healthy, found


def tables(healthy: Mapping[str, int], found: list[Planted]) -> str:
    names = list(healthy)
    lines = [f"| fault | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines.append(f"| none | {' | '.join(f'{healthy[name]} of {len(HEALTHY)} pass' for name in names)} |")
    for kind in FAULTS:
        cells = []
        for name in names:
            rows = [row for row in found if row.kind == kind and row.network == name]
            cells.append(f"{sum(row.is_named for row in rows)} of {len(rows)}" if rows else "fits none")
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    missed = [row for row in found if not row.is_named]
    lines += ["", f"{len(found) - len(missed)} of {len(found)} planted layers are the first bad one. The others:", ""]
    lines += ["| network | fault | op | first bad | distance | over its floor |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row.network} | {row.kind} | {row.op} | {row.found} | {row.distance:.2e} | {row.size:.2f} |"
        for row in missed
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limits", choices=["floor", "fixed"], default="floor")
    options = parser.parse_args()
    print(tables(*measure(options.limits == "floor")))


if __name__ == "__main__":
    main()
