"""Precision floors of real models at float16, and how many tensors of healthy devices go beyond limits.

    python benchmarks/floors.py [--models ../shared/data/onnx] [--precision float16]

Models that onnxruntime cannot run as a whole are left out and named. Prints two Markdown tables. The first has the
floors per model and input. For the second, each model is emulated as other healthy devices than the one that the
floors come from (sums in another order, no fusion, saturation, flushed subnormals) and compared with the golden run:
the share of judged tensors beyond the default limits, and beyond fixed ones.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from acccmp.comparison.compare import compare
from acccmp.core.graph import Graph
from acccmp.dumps.read import read_dump
from acccmp.emulator.emulate import emulate, floors
from acccmp.errors import AcccmpError
from acccmp.mapping.device_map import DeviceMap
from acccmp.models.load import load
from acccmp.reports.pair import Verdict
from acccmp.runners.run import run

ROOT = Path(__file__).parent.parent
MODELS = Path(os.environ.get("ACCCMP_SHARED_DATA", ROOT.parent / "shared" / "data")) / "onnx"
FIXED = (1e-2, 5e-2)

# Healthy devices that differ from the one that floors come from.
_ALL = {"summation": 2, "fuse": False, "overflow": "saturate"}
DEVICES: Mapping[str, tuple[Mapping[str, Any], bool]] = {
    # name: (how the device is, whether the floors know that it flushes subnormals)
    "the same": ({}, False),
    "sums in another order": ({"summation": 1}, False),
    "no fusion": ({"fuse": False}, False),
    "saturating": ({"overflow": "saturate"}, False),
    "these three at once": (_ALL, False),
    "flushing subnormals, floors do not know": ({"flush_subnormals": True}, False),
    "flushing subnormals, floors know": ({"flush_subnormals": True}, True),
    "all four at once, floors know": ({**_ALL, "flush_subnormals": True}, True),
}


def inputs(graph: Graph, kind: str) -> dict[str, Any]:
    """Something for each model input: "photo" (a real picture, scikit-learn's, as far as an input is a picture), or
    "noise". Symbolic sizes are 1, sequences 512 long; single integers are sampling rates."""
    random = np.random.default_rng(0 if kind == "noise" else 1)
    found = {}
    for name in graph.inputs:
        spec = graph.spec(name)
        shape = tuple(n if isinstance(n, int) else 512 if n == "sequence" else 1 for n in spec.shape or ())
        kind_of = spec.dtype.numpy if spec.dtype is not None and spec.dtype.numpy is not None else np.dtype("f4")
        if kind_of.kind != "f":
            found[name] = np.full(shape, 16000 if kind_of.itemsize > 1 else 0, kind_of)
        elif len(shape) == 4 and kind == "photo":
            found[name] = photo(shape) * np.float32(255 if "yunet" in graph.name else 1)
        elif len(shape) == 2 and kind == "photo":
            found[name] = np.sin(np.linspace(0, 60, shape[1], dtype=np.float32) ** 1.3)[None].repeat(shape[0], 0) / 2
        else:
            scale = 255 if "yunet" in graph.name and len(shape) == 4 else 1
            found[name] = (random.random(shape) * scale).astype(kind_of)
    return found


def photo(shape: tuple[int, ...]) -> np.ndarray:
    """A photograph in N C H W from 0 to 1."""
    import cv2
    from sklearn.datasets import load_sample_image

    picture = cv2.resize(load_sample_image("china.jpg"), (shape[3], shape[2])).astype(np.float32) / 255
    channels = picture.transpose(2, 0, 1) if shape[1] == 3 else picture.mean(2)[None].repeat(shape[1], 0)
    return np.ascontiguousarray(channels[None].repeat(shape[0], 0))


@dataclass(frozen=True)
class Floors:
    """The floors of one model on one kind of input, and of each other healthy device: judged tensors, those beyond
    the default limits, and those beyond each fixed one."""

    model: str
    nodes: int
    kind: str
    values: np.ndarray
    outputs: float
    seconds: float
    beyond: Mapping[str, tuple[int, int, int, int]]


def measure(folder: Path = MODELS, precision: str = "float16") -> Iterator[Floors | str]:
    """The floors of every runnable model in `folder`; a text for each that cannot be run."""
    for path in sorted(folder.glob("*.onnx")):
        graph = load(path)
        for kind in ("photo", "noise"):
            try:
                yield _measured(graph, kind, precision)
            except AcccmpError as error:
                yield f"{path.stem} is left out: {error}"
                break


def _measured(graph: Graph, kind: str, precision: str) -> Floors:
    feeds = inputs(graph, kind)
    start = time.perf_counter()
    found = floors(graph, feeds, precision)
    seconds = time.perf_counter() - start
    golden = run(graph, feeds)
    beyond = {}
    flushed = floors(graph, feeds, precision, flush_subnormals=True)
    for name, (options, knows) in DEVICES.items():
        with tempfile.TemporaryDirectory() as scratch:
            made = emulate(graph, feeds, scratch, precision=precision, dump_mode="output", **options)
            limits = flushed if knows else found
            device = DeviceMap(load(made.mapping))
            report = compare(golden, read_dump(made.dump), mapping=device, model=graph, floors=limits)
            distances = np.array([row.metrics.get("RelativeEuclideanDistance", np.nan) for row in report.judged])
            bad = sum(row.verdict is not Verdict.MATCH for row in report.judged)
            beyond[name] = (len(report.judged), bad, *(int((distances > limit).sum()) for limit in FIXED))
    values = np.array([value for value in found.values() if np.isfinite(value)])
    ends = [found[port] for tensor in graph.outputs if (port := graph.producer(tensor)) in found]
    return Floors(graph.name, len(graph), kind, values, max(ends, default=np.nan), seconds, beyond)


def tables(rows: list[Floors], left_out: list[str]) -> str:
    lines = ["| model | nodes | input | tensors | median | 95 % | worst | worst output | seconds |", "|---" * 9 + "|"]
    for row in rows:
        cells = (np.median(row.values), np.quantile(row.values, 0.95), row.values.max(), row.outputs)
        numbers = " | ".join(f"{value:.1e}" for value in cells)
        lines.append(
            f"| {row.model} | {row.nodes} | {row.kind} | {len(row.values)} | {numbers} | {row.seconds:.1f} |"
        )
    lines += ["", f"| healthy device | judged | over the default limits | {' | '.join(f'over {f:g}' for f in FIXED)} |"]
    lines.append("|---" * (3 + len(FIXED)) + "|")
    for name in DEVICES:
        sums = np.sum([row.beyond[name] for row in rows], axis=0)
        shares = " | ".join(f"{count} ({100 * count / sums[0]:.2f} %)" for count in sums[1:])
        lines.append(f"| {name} | {sums[0]} | {shares} |")
    return "\n".join([*lines, "", *left_out])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--precision", choices=["float16", "bfloat16"], default="float16")
    options = parser.parse_args()
    found = list(measure(options.models, options.precision))
    print(tables([row for row in found if isinstance(row, Floors)], [row for row in found if isinstance(row, str)]))


if __name__ == "__main__":
    main()
