"""Precision floors of TensorFlow originals: by hand, against the ONNX twin, and in reports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorflow_graphs import FC, HH, MTCNN, F, Kind, const, loop, node, placeholder, write

import acccmp
from acccmp.core.dump import Port
from acccmp.emulator.emulate import Fault, floors
from acccmp.emulator.storage import Storage
from acccmp.models.tensorflow import load
from acccmp.reports.report import Report
from acccmp.schemas import tensorflow_pb2 as schema

HALF = Kind(schema.DT_HALF)


def out(name: str, index: int = 0) -> Port:
    return Port(name, "output", index)


def off(golden: Any, npu: Any) -> float:
    golden, npu = np.asarray(golden, np.float64), np.asarray(npu, np.float64)
    return float(np.linalg.norm(npu - golden) / np.linalg.norm(golden))


def half(array: Any) -> Any:
    return np.asarray(array).astype(np.float16).astype(np.float32)


def numbers(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# -- through the front door: the sample network, and its twin as a device ----------------------------------------


@pytest.fixture(scope="module")
def cnn(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`cnn.pb` compared with what its ONNX twin dumped as a device: a function of faults to (dump, mapping)."""
    pytest.importorskip("tensorflow")
    sys.path.insert(0, str(samples))
    try:
        from networks import CNN_TWIN
    finally:
        sys.path.remove(str(samples))
    twin = acccmp.load(samples / "digits_cnn" / "twin.onnx")
    picture = np.load(samples / "digits_cnn" / "inputs" / "image.npy")
    folder = tmp_path_factory.mktemp("cnn")

    def made(name: str, *faults: Fault, **device: Any) -> Any:
        feeds = {"image": np.ascontiguousarray(picture.transpose(0, 3, 1, 2))}
        return acccmp.emulate(twin, feeds, folder / name, faults=faults, twin=CNN_TWIN, summation=3, **device)

    return made


def compared(model: Path, made: Any, samples: Path, **options: Any) -> Report:
    picture = np.load(samples / "digits_cnn" / "inputs" / "image.npy")
    if model.suffix == ".onnx":
        picture = np.ascontiguousarray(picture.transpose(0, 3, 1, 2))
    return acccmp.compare(model, made.dump, mapping=made.mapping, inputs={"image": picture}, **options)


def test_the_command_finds_a_scale_of_four_percent(samples: Path, cnn: Any, tmp_path: Path) -> None:
    made = cnn("faulty", Fault("conv2/Conv2D", "scale", 1.04))
    command = [
        sys.executable, "-m", "acccmp", "compare", samples / "digits_cnn" / "cnn.pb", made.dump, "--mapping",
        made.mapping, f"--input=image={samples / 'digits_cnn' / 'inputs' / 'image.npy'}", "--strict", "-o", tmp_path,
    ]
    ran = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stdout.startswith("NOT PASSED")
    first = next(line for line in ran.stdout.splitlines() if line.startswith("first bad layer"))
    assert "conv2/Conv2Dconv2/bn/FusedBatchNormV3conv2/Relu:output:0" in first
    assert "fixed by stored dtype" not in ran.stdout
    rows = json.loads((tmp_path / "report.json").read_text())["comparisons"]
    judged = [row for row in rows if row["verdict"] in ("match", "drift")]
    assert len(judged) == 24
    assert all(row["floor"] is not None for row in judged)


def test_a_healthy_device_passes_and_a_small_fault_of_an_output_does_not(samples: Path, cnn: Any) -> None:
    model = samples / "digits_cnn" / "cnn.pb"
    healthy = compared(model, cnn("healthy"), samples, strict=True)
    assert healthy.passed
    assert healthy.first_bad is None
    faulty = compared(model, cnn("prob", Fault("prob", "scale", 1.04)), samples)
    assert not faulty.passed
    assert faulty.first_bad is not None
    assert faulty.first_bad.port == out("prob")
    assert faulty.first_bad.limit == pytest.approx(max(4 * faulty.first_bad.floor, 2**-10))


@pytest.mark.parametrize("device", [{}, {"precision": "bfloat16"}])
def test_the_floors_are_those_of_the_onnx_twin(samples: Path, cnn: Any, device: dict[str, str]) -> None:
    """Two implementations: casts in one TensorFlow session, and onnxruntime step by step with numpy between."""
    made = cnn(f"twin-{device}", **device)
    folder = samples / "digits_cnn"
    mine, twins = (compared(folder / name, made, samples) for name in ("cnn.pb", "twin.onnx"))
    pairs = {row.port: (row.floor, twins[row.port].floor) for row in mine.judged}
    known = {port: pair for port, pair in pairs.items() if not np.isnan(pair[1]) and pair[1] > 0}
    assert len(known) > 15
    for port, (own, other) in known.items():
        assert own == pytest.approx(other, rel=0.02), port
    golden = acccmp.load(folder / "cnn.pb"), acccmp.load(folder / "twin.onnx")
    picture = np.load(folder / "inputs" / "image.npy")
    inner, others = (
        floors(graph, {graph.inputs[0]: array}, **device)
        for graph, array in zip(golden, (picture, picture.transpose(0, 3, 1, 2)), strict=True)
    )
    both = inner.keys() & others.keys()
    assert {out("conv2/Conv2D"), out("conv2/bn/FusedBatchNormV3"), out("conv1/BiasAdd")} <= both
    assert all(inner[port] == pytest.approx(others[port], rel=0.02) for port in both)


def test_a_golden_folder_whose_model_lies_beside_it_has_floors_too(samples: Path, cnn: Any) -> None:
    made = cnn("folder", Fault("conv3/Conv2D", "scale", 1.04))
    report = acccmp.compare(samples / "digits_cnn" / "golden", made.dump, mapping=made.mapping)
    assert report.first_bad is not None
    assert report.first_bad.port == out("conv3/Conv2Dconv3/BiasAddconv3/Relu")
    assert report.first_bad.limit == pytest.approx(4 * report.first_bad.floor)


# -- by hand -----------------------------------------------------------------------------------------------------


def convolution(name: str, source: str, weights: str, **more: Any) -> Any:
    return node(name, "Conv2D", source, weights, T=F, strides=[1, 1, 1, 1], padding="VALID", data_format="NHWC", **more)


def norm(name: str, source: str, **more: Any) -> Any:
    return node(
        name, "FusedBatchNormV3", source, "gamma", "beta", "mean", "var", T=F, U=F, data_format="NHWC",
        is_training=False, epsilon=1e-3, **more,
    )


def normed(folder: Path, with_bias: bool) -> tuple[Path, dict[str, Any]]:
    """A 1x1 convolution, a bias maybe, a batch norm and a Relu; and the numbers."""
    n = {
        "x": numbers(1, 5, 7, 6), "w": numbers(6, 8, seed=1) * 0.3, "bias": numbers(8, seed=2),
        "gamma": numbers(8, seed=3) + 2, "beta": numbers(8, seed=4), "mean": numbers(8, seed=5),
        "var": np.abs(numbers(8, seed=6)) + 0.5,
    }
    path = write(
        folder / "norm.pb", placeholder("x", 1, 5, 7, 6), const("w", n["w"].reshape(1, 1, 6, 8)),
        *(const(name, n[name]) for name in ("bias", "gamma", "beta", "mean", "var")),
        convolution("conv", "x", "w"), node("b", "BiasAdd", "conv", "bias", T=F, data_format="NHWC"),
        norm("bn", "b" if with_bias else "conv"), node("y", "Relu", "bn", T=F),
    )
    return path, n


@pytest.mark.parametrize("with_bias", [False, True])
def test_a_batch_norm_is_stored_as_folded_weights_also_behind_a_bias(
    tf: Any, tmp_path: Path, with_bias: bool,
) -> None:
    path, n = normed(tmp_path, with_bias)
    graph = load(path)
    if not with_bias:
        graph = graph.keep([one.name for one in graph.nodes if one.name not in ("b", "bias")], ["y:0"])
    found = floors(graph, {"x:0": n["x"]})
    scale = n["gamma"].astype(np.float64) / np.sqrt(n["var"] + 1e-3)
    bias = n["bias"] if with_bias else 0
    exact = n["x"] @ n["w"].astype(np.float64)
    shift = (bias - n["mean"].astype(np.float64)) * scale + n["beta"]
    device = half(n["x"]) @ half(n["w"] * scale).astype(np.float64) + half(shift)
    golden = exact * scale + shift
    assert found[out("bn")] == pytest.approx(off(golden, half(device)), rel=1e-3)
    assert found[out("y")] == pytest.approx(off(np.maximum(golden, 0), half(np.maximum(device, 0))), rel=1e-3)
    assert found[out("conv")] == pytest.approx(off(exact, half(half(n["x"]) @ half(n["w"]))), rel=1e-3)
    assert found[out("x")] == pytest.approx(off(n["x"], half(n["x"])), rel=1e-9)


def test_what_is_inside_of_a_fused_op_is_not_rounded_on_the_way(tf: Any, tmp_path: Path) -> None:
    """3000 + 0.4 is lost where the sum is stored; within one op it is not."""
    nodes = [
        placeholder("x", 1, 4), const("w", np.eye(4, dtype=np.float32)), const("up", np.full(4, 3000.4, np.float32)),
        node("product", "MatMul", "x", "w", T=F, transpose_a=False, transpose_b=False),
        node("sum", "BiasAdd", "product", "up", T=F, data_format="NHWC"), node("relu", "Relu", "sum", T=F),
        node("less", "Sub", "relu", "base", T=F), const("base", np.float32(3000)),
    ]
    found = floors(load(write(tmp_path / "g.pb", *nodes)), {"x:0": np.array([[0.1, 0.2, 0.3, 0.4]], np.float32)})
    golden = np.array([0.5, 0.6, 0.7, 0.8])
    stored = half(half([0.1, 0.2, 0.3, 0.4]) + half(3000.4)) - 3000
    assert found[out("less")] == pytest.approx(off(golden, half(stored)), rel=1e-3)
    assert found[out("sum")] == found[out("relu")] < 3e-4


def test_a_loop_stores_each_round(tf: Any, tmp_path: Path) -> None:
    x = numbers(2, 4)
    found = floors(load(write(tmp_path / "loop.pb", *loop())), {"x:0": x})
    a = half(2 * half(x))
    value = a
    for _ in range(3):
        value = half(value + a)
    assert found[out("loop/Exit")] == pytest.approx(off(8 * x, value), rel=1e-6)
    assert found[out("y")] == pytest.approx(off(-8 * x, -value), rel=1e-6)
    assert not any(port.node == "loop/add" for port in found), "it has no value outside a run of the loop"


@pytest.mark.parametrize(("precision", "flush"), [("float16", False), ("float16", True), ("bfloat16", True)])
def test_stored_numbers_are_those_that_the_emulated_device_stores(
    tf: Any, tmp_path: Path, precision: str, flush: bool,
) -> None:
    """Subnormals, halves that round to even, numbers beyond the largest, each alone; the ops add nothing."""
    path = write(
        tmp_path / "g.pb", placeholder("x", 1), const("big", np.full(1, 1024, np.float32)),
        node("up", "Mul", "x", "big", T=F), node("down", "RealDiv", "up", "big", T=F), node("y", "Neg", "down", T=F),
    )
    graph, storage = load(path), Storage(precision, flush_subnormals=flush)
    for value in (1, 1 + 2**-11, 1 + 3 * 2**-11, 65519, 65520, 1e9, -3e-5, 6.2e-5, 6e-8, 2e-8, 1e-30, -0.1, 1 / 3):
        x = np.float32([value / 1024])
        found = floors(graph, {"x:0": x}, precision, flush_subnormals=flush)
        up = storage.round(storage.round(x) * np.float32(1024))
        expected = off(x, storage.round(up / np.float32(1024))) if np.isfinite(up).all() else np.nan
        assert found[out("y")] == pytest.approx(expected, rel=1e-6, nan_ok=True), value


def test_a_model_in_float16_has_the_floors_of_the_same_model_in_float32(tf: Any, tmp_path: Path) -> None:
    w = numbers(64, 32) * 0.1
    x = half(numbers(3, 64, seed=1))

    def network(kind: Any, number: int, weights: Any) -> list[Any]:
        cast = [node("w", "Cast", "stored", SrcT=F, DstT=kind)]
        return [
            placeholder("x", 3, 64, kind=number), const("stored", weights), *cast,
            node("p", "MatMul", "x", "w", T=kind, transpose_a=False, transpose_b=False),
            node("s", "Sigmoid", "p", T=kind), node("y", "Cast", "s", SrcT=kind, DstT=F),
        ]

    narrow = floors(load(write(tmp_path / "n.pb", *network(HALF, schema.DT_HALF, w))), {"x:0": x.astype(np.float16)})
    wide = floors(load(write(tmp_path / "w.pb", *network(F, schema.DT_FLOAT, w))), {"x:0": x})
    assert narrow == pytest.approx(wide, rel=1e-6)
    assert narrow[out("y")] > 5e-5


def test_limits_of_a_clip_stay_exact_and_random_ops_draw_the_same(tf: Any, tmp_path: Path) -> None:
    nodes = [
        placeholder("x", 5), const("low", np.float32(-0.1)), const("high", np.float32(1 / 3)),
        node("clip", "ClipByValue", "x", "low", "high", T=F), const("shape", np.array([5], np.int32)),
        node("noise", "RandomStandardNormal", "shape", dtype=F, T=Kind(schema.DT_INT32), seed=0, seed2=0),
        node("y", "Add", "clip", "noise", T=F),
    ]
    found = floors(load(write(tmp_path / "g.pb", *nodes)), {"x:0": np.float32([-4, 4, 0.25, 0.5, -0.5])})
    golden = np.float32([-0.1, 1 / 3, 0.25, 1 / 3, -0.1])
    assert found[out("clip")] == pytest.approx(off(golden, half(golden)), rel=1e-6)
    assert 0 < found[out("y")] < 2e-3


def test_saved_models_and_functions_have_floors_for_what_is_inside(tf: Any, tmp_path: Path) -> None:
    class Net(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable(numbers(3, 2), name="w")

        @tf.function(input_signature=[tf.TensorSpec([2, 3], tf.float32, "x")])  # type: ignore[untyped-decorator]
        def __call__(self, x: Any) -> Any:
            return {"y": tf.nn.relu(tf.matmul(x, self.w) - 4.0)}

    net = Net()
    tf.saved_model.save(net, str(tmp_path / "saved"), signatures=net.__call__)
    graph = load(tmp_path / "saved")
    x = numbers(2, 3, seed=1) * 20
    found = floors(graph, {graph.inputs[0]: x})
    product = next(port for port in found if port.node.endswith("MatMul"))
    w = numbers(3, 2)
    assert found[product] == pytest.approx(off(x @ w.astype(np.float64), half(half(x) @ half(w))), rel=1e-3)
    golden = acccmp.run(graph, {graph.inputs[0]: x})
    floating = {port for port in golden if golden[port].dtype.kind == "float"}
    assert product in floating
    assert floating - found.keys() == set()


@pytest.mark.parametrize("file", [HH, FC, MTCNN])
def test_real_models_have_a_floor_for_every_floating_tensor(tf: Any, shared: Path, file: str) -> None:
    from acccmp.inputs.files import random_inputs
    from benchmarks.slices import FEEDS

    graph = load(shared / "tensorflow" / file)
    feeds = FEEDS["mtcnn.pb"] if file == MTCNN else random_inputs(graph, 0, None)
    found = floors(graph, feeds)
    golden = acccmp.run(graph, feeds)
    assert found.keys() == {port for port in golden if golden[port].dtype.kind == "float"}
    sizes = np.array(list(found.values()))
    assert np.isfinite(sizes).all()
    assert 1e-4 < np.median(sizes[sizes > 0]) < 1e-3
