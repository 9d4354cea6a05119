"""Precision floors: what storage in a narrow dtype alone does, against numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from emulated_nets import device_outputs, model_file, picture, residual
from onnx import TensorProto, helper

from acccmp.core.distance import distance
from acccmp.core.dump import Port
from acccmp.emulator.emulate import emulate, floors
from acccmp.emulator.storage import Storage
from acccmp.models.onnx import load
from acccmp.runners.onnxruntime import run


def out(name: str) -> Port:
    return Port(name, "output", 0)


def test_the_floor_of_an_elementwise_op_is_its_rounding(tmp_path: Path) -> None:
    path = model_file(tmp_path, [helper.make_node("Relu", ["x"], ["y"], name="relu")], {"x": (500,)}, ["y"], {})
    x = picture(500)
    found = floors(load(path), {"x": x})
    golden, npu = np.maximum(x, 0), np.maximum(x.astype(np.float16), 0)
    expected = np.linalg.norm(npu.astype(np.float64) - golden) / np.linalg.norm(golden.astype(np.float64))
    assert found[out("relu")] == pytest.approx(expected, rel=1e-9)
    assert 1e-4 < found[out("x")] < 2.0**-11


def test_every_original_tensor_has_a_floor_and_stored_ones_have_the_emulated_runs(tmp_path: Path) -> None:
    path, _ = residual(tmp_path)
    graph, x = load(path), picture(2, 3, 5, 7)
    found = floors(graph, {"x": x})
    assert set(found) == {out(name) for name in ("x", "conv1", "bn1", "relu1", "conv2", "bn2", "add", "relu2")}
    emulate(graph, {"x": x}, tmp_path)
    golden = run(graph, {"x": x})
    stored = {name: npu for name, npu in device_outputs(tmp_path).items() if name != "x"}
    assert set(stored) == {"relu1", "bn2", "add", "relu2"}
    for name, npu in stored.items():
        exact = golden[out(name)].astype(np.float64)
        expected = np.linalg.norm(npu.astype(np.float64) - exact) / np.linalg.norm(exact)
        assert found[out(name)] == pytest.approx(expected, rel=1e-3), name


def test_tensors_inside_of_a_fused_op_get_a_floor_of_the_same_size(tmp_path: Path) -> None:
    """Also where the batch norm that hides the tensor cannot be undone: a scale of nearly 0."""
    path, weights = residual(tmp_path)
    weights["g1"][:] = 1e-6
    from onnx import load as load_onnx
    from onnx import numpy_helper

    model = load_onnx(path)
    for tensor in model.graph.initializer:
        if tensor.name == "g1":
            tensor.CopyFrom(numpy_helper.from_array(weights["g1"], "g1"))
    path.write_bytes(model.SerializeToString())
    found = floors(load(path), {"x": picture(2, 3, 5, 7)})
    assert 1e-4 < found[out("conv1")] < 2e-3
    assert 1e-4 < found[out("conv2")] < 2e-3


def test_bfloat16_has_floors_eight_times_those_of_float16(tmp_path: Path) -> None:
    path, _ = residual(tmp_path)
    graph, x = load(path), picture(2, 3, 5, 7)
    half, bfloat = floors(graph, {"x": x}), floors(graph, {"x": x}, "bfloat16")
    ratio = np.array([bfloat[port] / half[port] for port in half])
    assert (ratio > 4).all()
    assert (ratio < 16).all()


def test_a_golden_of_zeros_has_no_relative_floor(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Sub", ["x", "x"], ["zero"], name="zero"),
        helper.make_node("Add", ["zero", "k"], ["tiny"], name="tiny"),
    ]
    path = model_file(tmp_path, nodes, {"x": (8,)}, ["tiny"], {"k": np.array([1e-9], np.float32)})
    found = floors(load(path), {"x": picture(8)})
    assert found[out("zero")] == 0.0
    assert found[out("tiny")] == 1.0  # below the smallest float16: nothing is left of it


def test_a_model_in_float16_has_the_floors_of_the_same_model_in_float32(tmp_path: Path) -> None:
    """Its own golden run rounds as much as a device does, and in another place: a floor of 0 would cry wolf."""
    w, half = picture(8, 3, 3, 3).astype(np.float16), TensorProto.FLOAT16
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["c"], ["s"], name="sigmoid"),
        helper.make_node("Cast", ["s"], ["y"], name="cast", to=TensorProto.FLOAT),
    ]
    x = picture(1, 3, 9, 9).astype(np.float16)
    narrow = model_file(tmp_path, nodes, {"x": x.shape}, ["y"], {"w": w}, types={"x": half}, name="narrow")
    wide = model_file(tmp_path, nodes, {"x": x.shape}, ["y"], {"w": w.astype(np.float32)}, name="wide")
    found = floors(load(narrow), {"x": x})
    expected = floors(load(wide), {"x": x.astype(np.float32)})
    assert found[out("conv")] == pytest.approx(expected[out("conv")], rel=0.1)
    assert found[out("cast")] == pytest.approx(expected[out("cast")], rel=0.1)
    assert found[out("cast")] > 1e-4


def test_what_overflows_is_left_out_of_the_floor(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mul", ["x", "k"], ["y"], name="y"), helper.make_node("Mul", ["x", "g"], ["z"], name="z")]
    weights = {"k": np.array([1, 1, 1e6], np.float32), "g": np.array([1e6] * 3, np.float32)}
    found = floors(load(model_file(tmp_path, nodes, {"x": (3,)}, ["y", "z"], weights)), {"x": np.ones(3, np.float32)})
    assert found[out("y")] == 0.0
    assert np.isnan(found[out("z")])


def test_integers_and_folded_constants(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["c"], name="c", value_floats=[0.1, 0.2]),
        helper.make_node("Mul", ["x", "c"], ["y"], name="y"),
        helper.make_node("ArgMax", ["y"], ["best"], name="best", axis=0),
    ]
    found = floors(load(model_file(tmp_path, nodes, {"x": (2,)}, ["y"], {})), {"x": np.ones(2, np.float32)})
    assert out("best") not in found
    c = np.array([0.1, 0.2], np.float32)
    assert found[out("c")] == pytest.approx(distance(c, Storage().round(c)), rel=1e-6)


def test_distance_survives_numbers_that_float32_cannot_square() -> None:
    golden = np.array([1e30, -1e30], np.float32)
    assert distance(golden, golden * np.float32(1.5)) == pytest.approx(0.5)
    assert distance(golden, golden[:1]) == np.inf
    assert distance(golden[:0], golden[:0]) == 0.0
    assert distance(np.zeros(3), np.zeros(3)) == 0.0
    assert distance(np.zeros(3), np.array([0, 0, 1e-9])) == np.inf, "a zero golden has no scale of its own"
    assert distance(np.array([1, np.nan, np.inf]), np.array([1, 2, 3])) == 0.0
    assert np.isnan(distance(np.array([np.nan]), np.array([np.nan])))


@pytest.mark.parametrize("name", [
    "microsoft_onnxruntime-inference-examples__mnist",
    "Linzaer_Ultra-Light-Fast-Generic-Face-Detector-1MB__version-slim-320",
    "snakers4_silero-vad__silero_vad_op18_ifless",
])
def test_real_models_have_small_floors_for_every_tensor_that_is_computed(shared: Path, name: str) -> None:
    graph = load(shared / "onnx" / f"{name}.onnx")
    random = np.random.default_rng(0)
    shapes = {"input": (1, 3, 240, 320)} if "slim" in name else {"input": (1, 512), "state": (2, 1, 128)}
    feeds = {
        n: np.array(16000) if n == "sr" else random.standard_normal(shapes.get(n, (1, 1, 28, 28))).astype(np.float32)
        for n in graph.inputs
    }
    found = floors(graph, feeds)
    golden = run(graph, feeds)
    floating = {
        port for port, array in golden.tensors.items()
        if array.dtype.kind == "f" and (port.node in graph.inputs or port.node in graph)
    }
    assert floating <= set(found)
    values = np.array([found[port] for port in floating])
    assert np.isfinite(values).all()
    assert np.median(values) < 1e-2
    assert max(found[graph.producer(t)] for t in graph.outputs if graph.producer(t) in found) < 2e-2
