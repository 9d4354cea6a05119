"""Time for slicing a model of 500 nodes: wall time, and as a ratio to loading it.

    python benchmarks/slice_time.py [NODES]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from acccmp.core.dump import Dump, Port
from acccmp.core.tensor import TensorRef
from acccmp.jobs import slice as handover
from acccmp.models.load import load
from acccmp.slicing.bundle import save_slice
from acccmp.slicing.cut import cut

ROUNDS = 7
CHANNELS = 16


def make(path: Path, count: int) -> None:
    """Residual blocks of five nodes: conv - relu - conv - add - relu, 16 channels, 12 x 12 pixels."""
    rng = np.random.default_rng(1)
    nodes: list[Any] = []
    weights: list[Any] = []
    before = "x"
    for block in range(count // 5):
        for half in "ab":
            weight = rng.standard_normal((CHANNELS, CHANNELS, 3, 3)).astype(np.float32) * 0.05
            weights.append(numpy_helper.from_array(weight, f"w{block}{half}"))
        names = {part: f"b{block}/{part}" for part in ("conv1", "relu1", "conv2", "add", "relu2")}
        nodes += [
            helper.make_node("Conv", [before, f"w{block}a"], [f"{block}c"], names["conv1"], pads=[1] * 4),
            helper.make_node("Relu", [f"{block}c"], [f"{block}r"], names["relu1"]),
            helper.make_node("Conv", [f"{block}r", f"w{block}b"], [f"{block}d"], names["conv2"], pads=[1] * 4),
            helper.make_node("Add", [f"{block}d", before], [f"{block}a"], names["add"]),
            helper.make_node("Relu", [f"{block}a"], [f"{block}y"], names["relu2"]),
        ]
        before = f"{block}y"
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, CHANNELS, 12, 12]) for n in ("x", before)]
    model = helper.make_model(
        helper.make_graph(nodes, "blocks", info[:1], info[1:], weights), opset_imports=[helper.make_opsetid("", 13)],
    )
    model.ir_version = 8
    onnx.save(model, path)


def median(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder / "blocks.onnx", count)
        load(folder / "blocks.onnx")  # imports
        graph = load(folder / "blocks.onnx")
        middle = count // 10
        start, end = f"b{middle}/conv1", f"b{middle + 2}/relu2"
        entrance = Port(f"b{middle - 1}/relu2", "output", 0)
        dump = Dump({entrance: TensorRef.of(np.ones((1, CHANNELS, 12, 12), np.float16))})
        part = cut(graph, start, end, dump=dump)
        save_slice(part, folder / "warm")
        handover.export_slice(part, folder / "warm")
        loading = median(lambda: load(folder / "blocks.onnx"))
        rows = {
            "load the model": loading,
            "cut (a graph just loaded)": median(
                lambda: cut(load(folder / "blocks.onnx"), start, end, dump=dump)) - loading,
            "cut (once more on the same graph)": median(lambda: cut(graph, start, end, dump=dump)),
            "save the folder, no self-test": median(lambda: save_slice(part, folder / "out")),
            "self-test (runs the full model) and save": median(lambda: handover.export_slice(part, folder / "out")),
        }
    print(f"{len(graph)} nodes, a slice of {len(part.graph)}; medians of {ROUNDS}")
    for what, seconds in rows.items():
        print(f"{what:44}{seconds * 1000:9.1f} ms {seconds / loading:7.2f} x loading")


if __name__ == "__main__":
    main()
