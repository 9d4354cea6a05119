"""Precision floors of Caffe originals: by hand, against the ONNX twin, and in reports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caffe_nets import random_inputs, random_net, v1_net, write_net

import acccmp
from acccmp import Port, Verdict
from acccmp.emulator.emulate import Fault, floors
from acccmp.emulator.storage import Storage
from acccmp.reports.report import Report

pytest.importorskip("cv2")

HEAD = 'input: "x" input_dim: 2 input_dim: 4 input_dim: 7 input_dim: 6\n'


def out(name: str, index: int = 0) -> Port:
    return Port(name, "output", index)


def off(golden: Any, npu: Any) -> float:
    golden, npu = np.asarray(golden, np.float64), np.asarray(npu, np.float64)
    return float(np.linalg.norm(npu - golden) / np.linalg.norm(golden))


def half(array: Any) -> Any:
    return np.asarray(array).astype(np.float16).astype(np.float64)


def numbers(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# -- through the front door: the sample network, and its twin as a device ----------------------------------------


@pytest.fixture(scope="module")
def lenet(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the ONNX twin of `lenet.prototxt` dumped as a device: a function of faults to (dump, mapping)."""
    twin = acccmp.load(samples / "digits_lenet" / "twin.onnx")
    feeds = {"data": np.load(samples / "digits_lenet" / "inputs" / "data.npy")}
    folder = tmp_path_factory.mktemp("lenet")

    def made(name: str, *faults: Fault, **device: Any) -> Any:
        return acccmp.emulate(twin, feeds, folder / name, faults=faults, **{"summation": 3, **device})

    return made


def compared(model: Path, made: Any, samples: Path, **options: Any) -> Report:
    picture = np.load(samples / "digits_lenet" / "inputs" / "data.npy")
    return acccmp.compare(model, made.dump, mapping=made.mapping, inputs={"data": picture}, **options)


def test_the_command_finds_a_scale_of_four_percent(samples: Path, lenet: Any, tmp_path: Path) -> None:
    made = lenet("faulty", Fault("conv2", "scale", 1.04))
    folder = samples / "digits_lenet"
    command = [
        sys.executable, "-m", "acccmp", "compare", folder / "lenet.prototxt", made.dump, "--mapping", made.mapping,
        f"--input=data={folder / 'inputs' / 'data.npy'}", "--strict", "-o", tmp_path,
    ]
    ran = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert ran.returncode == 1, ran.stderr
    assert ran.stdout.startswith("NOT PASSED")
    first = next(line for line in ran.stdout.splitlines() if line.startswith("first bad layer"))
    assert "conv2relu2:output:0" in first
    assert "fixed by stored dtype" not in ran.stdout
    rows = json.loads((tmp_path / "report.json").read_text())["comparisons"]
    judged = [row for row in rows if row["verdict"] in ("match", "drift")]
    assert len(judged) > 7
    assert all(row["floor"] is not None for row in judged)


def test_without_floors_that_scale_passes(samples: Path, lenet: Any) -> None:
    made = lenet("unseen", Fault("conv2", "scale", 1.04))
    report = compared(samples / "digits_lenet" / "lenet.prototxt", made, samples, floor=False)
    assert report.passed
    assert report.first_bad is None


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_healthy_device_has_no_bad_row(samples: Path, lenet: Any, seed: int) -> None:
    made = lenet(f"healthy-{seed}", summation=seed)
    report = compared(samples / "digits_lenet" / "lenet.prototxt", made, samples, strict=True)
    assert report.passed
    assert {row.verdict for row in report.comparisons} == {Verdict.MATCH, Verdict.FUSED, Verdict.INSERTED}


@pytest.mark.parametrize(
    "device", [{}, {"precision": "bfloat16"}, {"flush_subnormals": True}], ids=lambda device: "".join(device),
)
def test_the_floors_are_those_of_the_onnx_twin(samples: Path, lenet: Any, device: dict[str, Any]) -> None:
    """Two implementations: OpenCV on groups of Caffe layers, and onnxruntime on ONNX nodes."""
    folder = samples / "digits_lenet"
    picture = np.load(folder / "inputs" / "data.npy")
    mine, twins = (
        floors(acccmp.load(folder / name), {"data": picture}, **device) for name in ("lenet.prototxt", "twin.onnx")
    )
    assert mine.keys() == twins.keys()
    assert len(mine) == 13
    assert mine == pytest.approx(twins, rel=1e-3)
    made = lenet(f"twin-{device}", **device)
    flushes = {"flush_subnormals": True} if "flush_subnormals" in device else {}
    one, other = (compared(folder / name, made, samples, **flushes) for name in ("lenet.prototxt", "twin.onnx"))
    assert {row.port: row.floor for row in one.judged} == pytest.approx(
        {row.port: row.floor for row in other.judged}, rel=1e-3, nan_ok=True,
    )


def test_a_golden_folder_whose_model_lies_beside_it_has_floors_too(samples: Path, lenet: Any) -> None:
    made = lenet("folder", Fault("ip1", "scale", 1.04))
    report = acccmp.compare(samples / "digits_lenet" / "golden", made.dump, mapping=made.mapping)
    assert report.first_bad is not None
    assert report.first_bad.port == out("ip1relu3")
    assert report.first_bad.limit == pytest.approx(4 * report.first_bad.floor)


# -- by hand -----------------------------------------------------------------------------------------------------


def found(
    folder: Path, text: str, inputs: dict[str, Any], weights: dict[str, Any], precision: str = "float16", **more: Any,
) -> dict[Port, float]:
    graph = acccmp.load(*write_net(folder, text, weights or {"none": []}))
    return floors(graph, inputs, precision, **more)


NORM = """
layer { name: "conv" type: "TYPE" bottom: "x" top: "conv"
  convolution_param { num_output: 6 kernel_size: 1 group: GROUP bias_term: BIAS } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" batch_norm_param { eps: 1e-3 } }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" relu_param { negative_slope: 0.1 } }
"""


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution"])
def test_a_batch_norm_and_its_scale_are_stored_as_folded_weights(
    tmp_path: Path, kind: str, group: int, bias: bool,
) -> None:
    """A window of one pixel: a matrix product over the channels, the same for both kinds but for the weights' order."""
    x, count = numbers(2, 4, 7, 6), np.float32(4)
    matrix = np.zeros((6, 4), np.float32)  # filter, channel
    for place in range(group):
        rows, columns = slice(6 // group * place, 6 // group * (place + 1)), slice(4 // group * place, 4 // group * (
            place + 1))
        matrix[rows, columns] = numbers(6 // group, 4 // group, seed=place + 1) * 0.3
    blocks = [
        matrix[6 // group * place : 6 // group * (place + 1), 4 // group * place : 4 // group * (place + 1)]
        for place in range(group)
    ]
    stored = np.concatenate(blocks if kind == "Convolution" else [block.T for block in blocks])[:, :, None, None]
    mean, variance = numbers(6, seed=5), np.abs(numbers(6, seed=6)) + 0.5
    gamma, beta, own = numbers(6, seed=3) + 2, numbers(6, seed=4), numbers(6, seed=7) if bias else np.zeros(6)
    weights = {
        "conv": [stored, own] if bias else [stored], "bn": [mean * count, variance * count, np.array([count])],
        "scale": [gamma, beta],
    }
    text = HEAD + NORM.replace("TYPE", kind).replace("GROUP", str(group)).replace("BIAS", str(bias).lower())
    floor = found(tmp_path, text, {"x": x}, weights)

    def applied(filters: Any, to: Any, plus: Any) -> Any:
        return np.einsum("oc,nchw->nohw", filters.astype(np.float64), to) + plus.reshape(-1, 1, 1)

    deviation = np.sqrt(variance.astype(np.float64) + 1e-3)
    factor = gamma / deviation
    shift = (own - mean.astype(np.float64)) * factor + beta
    exact, device = applied(matrix, x.astype(np.float64), own), applied(half(matrix), half(x), half(own))
    golden, made = applied(matrix * factor[:, None], x, shift), applied(
        half((matrix * factor[:, None]).astype(np.float32)), half(x), half(shift.astype(np.float32)),
    )
    assert floor[out("x")] == pytest.approx(off(x, half(x)), rel=1e-9)
    assert floor[out("conv")] == pytest.approx(off(exact, half(device)), rel=1e-3)
    normed = [(side - mean.reshape(-1, 1, 1)) / deviation.reshape(-1, 1, 1) for side in (exact, device)]
    assert floor[out("bn")] == pytest.approx(off(normed[0], half(normed[1])), rel=1e-3)
    assert floor[out("scale")] == pytest.approx(off(golden, half(made)), rel=1e-3)
    leaky = [np.where(side > 0, side, np.float32(0.1) * side) for side in (golden, made)]
    assert floor[out("relu")] == pytest.approx(off(leaky[0], half(leaky[1])), rel=1e-3)


def test_what_is_inside_of_a_fused_op_is_not_rounded_on_the_way(tmp_path: Path) -> None:
    """3000 + 0.4 is lost where the sum is stored; within one op it is not."""
    text = """input: "x" input_shape { dim: 1 dim: 4 }
      layer { name: "product" type: "InnerProduct" bottom: "x" top: "sum" inner_product_param { num_output: 4 } }
      layer { name: "relu" type: "ReLU" bottom: "sum" top: "sum" }
      layer { name: "less" type: "Power" bottom: "sum" top: "less" power_param { shift: -3000 } }"""
    x = np.float32([[0.1, 0.2, 0.3, 0.4]])
    floor = found(tmp_path, text, {"x": x}, {"product": [np.eye(4, dtype="f4"), np.full(4, 3000.4, "f4")]})
    stored = half(half(x) + half(3000.4)) - 3000
    assert floor[out("less")] == pytest.approx(off([[0.5, 0.6, 0.7, 0.8]], half(stored)), rel=1e-3)
    assert floor[out("product")] == floor[out("relu")] < 3e-4


def test_statistics_of_a_batch_norm_that_stays_are_exact_and_all_other_weights_are_stored(tmp_path: Path) -> None:
    text = HEAD + """
      layer { name: "bn" type: "BatchNorm" bottom: "x" top: "bn" }
      layer { name: "scale" type: "Scale" bottom: "bn" top: "scale" }
      layer { name: "slope" type: "PReLU" bottom: "x" top: "slope" }"""
    x, mean, variance, factor = half(numbers(2, 4, 7, 6)), *(np.abs(numbers(4, seed=seed)) + 0.5 for seed in (1, 2, 3))
    weights = {"bn": [mean, variance, np.ones(1, "f4")], "scale": [factor], "slope": [factor]}
    floor = found(tmp_path, text, {"x": x.astype("f4")}, weights)
    normed = (x - mean.reshape(-1, 1, 1)) / np.sqrt(variance.astype(np.float64) + 1e-5).reshape(-1, 1, 1)
    by, narrow = (side.reshape(-1, 1, 1) for side in (factor, half(factor)))
    assert floor[out("bn")] == pytest.approx(off(normed, half(normed)), rel=1e-2)
    assert floor[out("scale")] == pytest.approx(off(normed * by, half(half(normed) * narrow)), rel=1e-2)
    assert floor[out("slope")] == pytest.approx(
        off(np.where(x > 0, x, x * by), half(np.where(x > 0, x, x * narrow))), rel=1e-3,
    )


def test_a_tensor_that_two_layers_read_is_stored(tmp_path: Path) -> None:
    text = """input: "x" input_shape { dim: 1 dim: 4 }
      layer { name: "sum" type: "InnerProduct" bottom: "x" top: "sum" inner_product_param { num_output: 4 } }
      layer { name: "relu" type: "ReLU" bottom: "sum" top: "relu" }
      layer { name: "less" type: "Power" bottom: "relu" top: "less" power_param { shift: -3000 } }
      layer { name: "both" type: "Eltwise" bottom: "sum" bottom: "less" top: "both" }"""
    x = np.float32([[0.1, 0.2, 0.3, 0.4]])
    floor = found(tmp_path, text, {"x": x}, {"sum": [np.eye(4, dtype="f4"), np.full(4, 3000.4, "f4")]})
    stored = half(half(x) + half(3000.4))
    golden = x.astype("f8") + np.float32(3000.4)
    assert floor[out("both")] == pytest.approx(off(2 * golden - 3000, half(stored + (stored - 3000))), rel=1e-3)


@pytest.mark.parametrize(("precision", "flush"), [("float16", False), ("float16", True), ("bfloat16", True)])
def test_stored_numbers_are_those_that_the_emulated_device_stores(
    tmp_path: Path, precision: str, flush: bool,
) -> None:
    text = """input: "x" input_shape { dim: 1 dim: 1 }
      layer { name: "up" type: "Power" bottom: "x" top: "up" power_param { scale: 1024 } }
      layer { name: "down" type: "Power" bottom: "up" top: "down" power_param { scale: 0.0009765625 } }"""
    storage = Storage(precision, flush_subnormals=flush)
    graph = acccmp.load(*write_net(tmp_path, text, {"none": []}))
    for value in (1, 1 + 2**-11, 1 + 3 * 2**-11, 65519, 65520, 1e9, -3e-5, 6.2e-5, 6e-8, 2e-8, 1e-30, -0.1, 1 / 3):
        x = np.float32([[value / 1024]])
        up = storage.round(storage.round(x) * np.float32(1024))
        expected = off(x, storage.round(up / np.float32(1024))) if np.isfinite(up).all() else np.nan
        floor = floors(graph, {"x": x}, precision, flush_subnormals=flush)
        assert floor[out("down")] == pytest.approx(expected, rel=1e-6, nan_ok=True), value


def test_layers_that_cannot_run_here_have_no_floor_and_the_others_do(tmp_path: Path) -> None:
    text = HEAD + """
      layer { name: "a" type: "TanH" bottom: "x" top: "a" }
      layer { name: "odd" type: "FancyNMS" bottom: "a" top: "b" }
      layer { name: "c" type: "TanH" bottom: "b" top: "c" }
      layer { name: "d" type: "Sigmoid" bottom: "a" top: "d" }"""
    assert found(tmp_path, text, {"x": numbers(2, 4, 7, 6)}, {}).keys() == {out("x"), out("a"), out("d")}


@pytest.mark.parametrize("seed", range(5))
def test_every_tensor_of_a_random_net_has_a_small_floor(tmp_path: Path, seed: int) -> None:
    graph = acccmp.load(*random_net(tmp_path, seed))
    feeds = random_inputs(graph)
    floor = floors(graph, feeds)
    assert floor.keys() == acccmp.run(graph, feeds).keys()
    assert max(floor.values()) < 5e-3


def test_an_old_net_with_training_layers_and_damaged_statistics_has_floors(tmp_path: Path) -> None:
    graph = acccmp.load(*v1_net(tmp_path))
    feeds = random_inputs(graph)
    assert floors(graph, feeds).keys() == acccmp.run(graph, feeds).keys()
    text = HEAD + NORM.replace("TYPE", "Convolution").replace("GROUP", "1").replace("BIAS", "false")
    weights = {"conv": [numbers(6, 4, 1, 1)], "bn": [numbers(6), -np.ones(6, "f4"), np.ones(1, "f4")],
               "scale": [numbers(6), numbers(6)]}
    floor = found(tmp_path, text, {"x": numbers(2, 4, 7, 6)}, weights)
    assert np.isnan([floor[out(name)] for name in ("bn", "scale", "relu")]).all()
    assert floor[out("conv")] < 1e-3


RFB = "Linzaer_Ultra-Light-Fast-Generic-Face-Detector-1MB__RFB-320"


@pytest.mark.parametrize(
    ("model", "weights"),
    [("MTCNNv2__det1", "MTCNNv2__det1"), ("MTCNNv2__det2", "MTCNNv2__det2"), (RFB, RFB),
     ("everpeace_caffe__lenet", "everpeace_caffe__lenet_iter_10000")],
    ids=["det1", "det2", "RFB-320", "lenet"],
)
def test_real_models_have_a_floor_for_every_tensor(shared: Path, model: str, weights: str) -> None:
    graph = acccmp.load(shared / "caffe" / f"{model}.prototxt", shared / "caffe" / f"{weights}.caffemodel")
    feeds = random_inputs(graph)
    floor = floors(graph, feeds)
    assert floor.keys() == acccmp.run(graph, feeds).keys()
    sizes = np.array(list(floor.values()))
    assert np.isfinite(sizes).all()
    assert 1e-4 < np.median(sizes) < 4e-3


def test_a_picture_of_another_size_has_floors_too(shared: Path) -> None:
    graph = acccmp.load(shared / "caffe/MTCNNv2__det1.prototxt", shared / "caffe/MTCNNv2__det1.caffemodel")
    floor = floors(graph, {"data": numbers(3, 3, 31, 40)})
    assert len(floor) == 11
    assert max(floor.values()) < 2e-3
