"""Is a chip that flushes subnormals known by its dump alone, and is one that keeps them never taken for it?

    python -m benchmarks.flushing [--models ../shared/data/onnx]

Every model is emulated as several healthy devices (fused or not, saturating, sums in another order) on a picture, on
noise and on faint noise, keeping subnormals and flushing them. The rule's share (`acccmp.diagnosis.profile.SHARE`) was
chosen on the networks called tuning; the others judge it. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from acccmp.diagnosis.profile import ENOUGH, SHARE, Flushing, flushing
from acccmp.dumps.read import read_dump
from acccmp.emulator.emulate import emulate
from acccmp.errors import AcccmpError
from acccmp.models.load import load
from benchmarks.floors import MODELS, ROOT, inputs

TUNING = ("yunet", "digits_cnn", "digits_lenet", "digits_resnet")
DEVICES: tuple[dict[str, Any], ...] = (
    {}, {"fuse": False}, {"overflow": "saturate"}, {"summation": 1}, {"precision": "bfloat16"},
)


@dataclass(frozen=True)
class Run:
    """One healthy emulated dump, and what was seen in it."""

    network: str
    flushes: bool
    seen: Flushing


def networks(folder: Path) -> Iterator[tuple[str, Path]]:
    yield from ((path.stem, path) for path in sorted(folder.glob("*.onnx")))
    for path in sorted((ROOT / "sample_dumps").glob("*/*.onnx")):
        yield path.parent.name, path


def fed(name: str, path: Path) -> Iterator[dict[str, Any]]:
    graph = load(path)
    if name.startswith("digits"):
        image = np.load(next((path.parent / "inputs").glob("*.npy"))).astype(np.float32)
        yield {graph.inputs[0]: np.ascontiguousarray(image.transpose(0, 3, 1, 2) if image.shape[-1] == 1 else image)}
        return
    noise = inputs(graph, "noise")
    yield from (inputs(graph, "photo"), noise)
    yield {key: array * array.dtype.type(0.01) if array.dtype.kind == "f" else array for key, array in noise.items()}


def measure(folder: Path = MODELS) -> Iterator[Run | str]:
    for name, path in networks(folder):
        graph = load(path)
        for feeds in fed(name, path):
            for device in DEVICES:
                for flushes in (False, True):
                    with tempfile.TemporaryDirectory() as scratch:
                        try:
                            made = emulate(graph, feeds, scratch, flush_subnormals=flushes, **device)
                        except AcccmpError as error:
                            yield f"{name} is left out: {error}"
                            break
                        yield Run(name, flushes, flushing(read_dump(made.dump), most=1 << 60))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=MODELS)
    runs, notes = [], {}
    for item in measure(parser.parse_args().models):
        if isinstance(item, str):
            notes[item] = None
        else:
            runs.append(item)
    print(f"{ENOUGH} small numbers without a subnormal one are enough; share assumed: {SHARE}\n")
    print("| network | | keeps: dumps | taken for flushing | smallest share | flushes: dumps | found | too few |")
    print("|---|---|---|---|---|---|---|---|")
    for name in dict.fromkeys(run.network for run in runs):
        kept = [run.seen for run in runs if run.network == name and not run.flushes]
        flushed = [run.seen for run in runs if run.network == name and run.flushes]
        shares = [s.subnormal / (s.subnormal + s.normal) for s in kept if s.subnormal + s.normal >= ENOUGH]
        role = "tuning" if any(word in name for word in TUNING) else "judging"
        print(f"| {name[-24:]} | {role} | {len(kept)} | {sum(s.is_seen for s in kept)} | "
              f"{min(shares, default=float('nan')):.2f} | {len(flushed)} | {sum(s.is_seen for s in flushed)} | "
              f"{sum(s.normal < ENOUGH for s in flushed)} |")
    print("\n".join(notes))


if __name__ == "__main__":
    main()
