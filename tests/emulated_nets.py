"""Small ONNX models for the tests of the emulated device, and what an emulated run left behind, read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from acccmp.core.dump import Port
from acccmp.dumps.read import read_dump
from acccmp.models.atc_json import load as load_mapping

Array = np.ndarray
RANDOM = np.random.default_rng(7)


def model_file(
    folder: Path, nodes: list[Any], inputs: dict[str, tuple[Any, ...]], outputs: list[str], weights: dict[str, Array],
    opset: int = 13, name: str = "net", types: dict[str, int] | None = None,
) -> Path:
    """An ONNX file with these nodes; everything float32 unless `types` says otherwise."""
    kinds = types or {}
    graph = helper.make_graph(
        nodes, name,
        [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), shape) for n, shape in inputs.items()],
        [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), None) for n in outputs],
        [numpy_helper.from_array(array, n) for n, array in weights.items()],
    )
    path = folder / f"{name}.onnx"
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)])
    path.write_bytes(model.SerializeToString())
    return path


def residual_weights(channels: int = 6) -> dict[str, Array]:
    def normal(*shape: int) -> Array:
        return RANDOM.standard_normal(shape).astype(np.float32)

    weights = {"w1": normal(channels, 3, 3, 3) * 0.3, "w2": normal(channels, channels, 3, 3) * 0.2}
    for n in "12":
        weights |= {f"g{n}": normal(channels), f"b{n}": normal(channels), f"m{n}": normal(channels)}
        weights[f"v{n}"] = np.abs(normal(channels)) + 0.2
    return weights


def residual(folder: Path, opset: int = 13) -> tuple[Path, dict[str, Array]]:
    """conv1-bn1-relu1, conv2-bn2, add, relu2 of 3 channels and 5 x 7 pixels."""
    weights = residual_weights()
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c1", "g1", "b1", "m1", "v1"], ["n1"], name="bn1", epsilon=1e-3),
        helper.make_node("Relu", ["n1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="conv2", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c2", "g2", "b2", "m2", "v2"], ["n2"], name="bn2", epsilon=1e-3),
        helper.make_node("Add", ["n2", "r1"], ["a"], name="add"),
        helper.make_node("Relu", ["a"], ["y"], name="relu2"),
    ]
    return model_file(folder, nodes, {"x": (2, 3, 5, 7)}, ["y"], weights, opset), weights


def picture(*shape: int) -> Array:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def device_outputs(folder: Path) -> dict[str, Array]:
    """What each original op's tensor is on the device, read back through the mapping and the dump reader."""
    dump, mapping = read_dump(folder / "npu"), load_mapping(folder / "mapping.json")
    found = {}
    for node in mapping.nodes:
        for index, tensor in enumerate(node.outputs):
            origin = mapping.spec(tensor).origin
            port = Port(node.name, "output", index)
            if origin is not None and origin.node and port in dump:
                ref = dump[port].seen_as(origin.shape, origin.layout)
                found[origin.node] = ref.numpy()
    return found
