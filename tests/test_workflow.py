"""From an original and a device dump to a report: what the model is fed with, pre-processing on the device, floors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import device_models as dm
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import acccmp
from acccmp.core import layout
from acccmp.core.dump import Dump, Port
from acccmp.core.tensor import DTYPES, TensorRef
from acccmp.errors import InputError
from acccmp.jobs import feeding
from acccmp.reports.pair import Verdict


@pytest.fixture
def conv_net(tmp_path: Path) -> tuple[acccmp.Graph, np.ndarray]:
    """image (1, 3, 8, 8) - conv - y, and the convolution's weights."""
    weights = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w"], ["y"], "conv")], "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 6, 6])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, tmp_path / "net.onnx")
    return acccmp.load(tmp_path / "net.onnx"), weights


def convolved(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The convolution in numpy, float64."""
    windows = np.lib.stride_tricks.sliding_window_view(image.astype(np.float64), (3, 3), axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, weights.astype(np.float64))


def on_device(array: np.ndarray, stored: str = "NC1HWC0", c0: int = 16) -> TensorRef:
    """A float16 tensor as a device stores it."""
    ref = TensorRef.of(layout.to_stored(array.astype(np.float16), "NCHW", stored, c0), stored)
    return ref.seen_as(array.shape, "NCHW")


@pytest.mark.parametrize("fits_the_model", [False, True], ids=["bytes in NHWC", "floats in the model's own shape"])
def test_with_aipp_the_model_is_fed_with_what_the_aipp_op_made_padding_channels_cut(
    conv_net: tuple[acccmp.Graph, np.ndarray], fits_the_model: bool,
) -> None:
    """The camera's picture was dumped, too; even where it would fit the model, it is not what the network saw."""
    graph, weights = conv_net
    camera = np.random.default_rng(1).integers(0, 256, (1, 8, 8, 3)).astype(np.uint8)
    prepared = (camera.transpose(0, 3, 1, 2) / 255.0).astype(np.float32)
    four = np.concatenate([prepared, np.full((1, 1, 8, 8), 7.0, np.float32)], axis=1)  # a fourth, padding channel
    raw, data = TensorRef.of(camera, "NHWC"), dm.out(dtype="DT_UINT8", shape=(1, 8, 8, 3), layout="NHWC")
    if fits_the_model:
        raw = TensorRef.of(np.ascontiguousarray(camera.transpose(0, 3, 1, 2)).astype(np.float32), "NCHW")
        data = dm.out(dtype="DT_FLOAT", shape=(1, 3, 8, 8), layout="NCHW")
    conv = dm.op("conv", "Conv2D", ["aipp:0"], [dm.out("conv", shape=(1, 1, 6, 6, 16), layout="NC1HWC0")], ("conv",))
    mapping = dm.mapping(
        dm.op("image", "Data", [], [data]),
        dm.op("aipp", "Aipp", ["image:0"], [dm.out(shape=(1, 1, 8, 8, 4), layout="NC1HWC0_C04")], ()),
        conv, dm.op("out", "NetOutput", ["conv:0"]),
    )
    aipp = TensorRef.of(layout.to_stored(four.astype(np.float16), "NCHW", "NC1HWC0_C04", 4), "NC1HWC0_C04")
    npu = Dump({
        Port("image", "output", 0): raw,
        Port("aipp", "output", 0): aipp,
        Port("conv", "output", 0): on_device(convolved(prepared.astype(np.float16), weights)),
    })
    feeds, notes = feeding.feeds_from_dump(graph, npu, mapping)
    np.testing.assert_array_equal(feeds["image"], prepared.astype(np.float16).astype(np.float32))
    assert "pre-processing stay invisible" in notes[0]
    report = acccmp.compare(graph, npu, mapping=mapping)
    assert report["conv"].verdict is Verdict.MATCH
    assert report.passed


def test_without_inputs_in_the_dump_the_error_says_what_to_give(conv_net: tuple[acccmp.Graph, np.ndarray]) -> None:
    graph, _ = conv_net
    npu = Dump({Port("conv", "output", 0): on_device(np.zeros((1, 4, 6, 6)))})
    with pytest.raises(InputError, match="--input NAME=FILE"):
        acccmp.compare(graph, npu)


def test_the_first_ops_input_does_when_the_model_input_was_not_dumped(
    conv_net: tuple[acccmp.Graph, np.ndarray],
) -> None:
    graph, weights = conv_net
    image = np.random.default_rng(3).standard_normal((1, 3, 8, 8)).astype(np.float32)
    npu = Dump({
        Port("conv", "input", 0): on_device(image),
        Port("conv", "output", 0): on_device(convolved(image.astype(np.float16), weights)),
    })
    report = acccmp.compare(graph, npu)
    assert report["conv"].verdict is Verdict.MATCH
    assert any("conv:input:0" in note for note in report.notes)


def test_a_given_input_shows_a_fault_of_pre_processing(conv_net: tuple[acccmp.Graph, np.ndarray]) -> None:
    graph, weights = conv_net
    image = np.random.default_rng(4).standard_normal((1, 3, 8, 8)).astype(np.float32)
    swapped = image[:, ::-1].copy()  # RGB fed as BGR
    npu = Dump({
        Port("image", "output", 0): TensorRef.of(swapped),
        Port("conv", "output", 0): on_device(convolved(swapped, weights)),
    })
    assert acccmp.compare(graph, npu).passed
    report = acccmp.compare(graph, npu, inputs={"image": image})
    assert report.first_bad is not None
    assert report.first_bad.port == Port("image", "output", 0)


def test_onnx_models_give_every_tensor_its_floor_and_no_floor_leaves_fixed_limits(samples: Path) -> None:
    net = samples / "digits_resnet"
    report = acccmp.compare(net / "resnet.onnx", net / "npu", mapping=net / "mapping.json")
    floored = [row for row in report.judged if row.floor > 0]
    assert len(floored) > len(report.judged) / 2
    assert all(row.limit == pytest.approx(max(4 * row.floor, DTYPES["float16"].epsilon)) for row in floored
               if row.npu is not None and row.npu.dtype.name == "float16")
    fixed = acccmp.compare(net / "resnet.onnx", net / "npu", mapping=net / "mapping.json", floor=False)
    assert all(not row.floor > 0 for row in fixed.judged)
    assert any("a floor would be sharper" in note for note in fixed.notes)


@pytest.mark.parametrize("name", ["digits_resnet", "digits_lenet", "digits_cnn"])
def test_each_sample_passes_healthy_and_names_its_planted_fault(samples: Path, name: str) -> None:
    net = samples / name
    truth = json.loads((net / "FAULT.json").read_text())
    healthy = acccmp.compare(net / "golden", net / "npu", mapping=net / "mapping.json")
    assert healthy.passed
    assert healthy.exit_code == 0
    faulty = acccmp.compare(net / "golden", net / "npu_faulty", mapping=net / "mapping.json")
    assert not faulty.passed
    assert faulty.first_bad is not None
    assert faulty.first_bad.port.node == truth["first_bad"]


def test_a_chip_that_flushes_subnormals_is_healthy_once_the_floors_know(tmp_path: Path) -> None:
    """x * 3e-5: for small x that is subnormal in float16."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "tiny"], ["m"], "mul"), helper.make_node("Relu", ["m"], ["y"], "relu")], "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [64])],
        [numpy_helper.from_array(np.float32(3e-5), "tiny")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, tmp_path / "net.onnx")
    loaded = acccmp.load(tmp_path / "net.onnx")
    x = np.linspace(0.1, 3, 64, dtype=np.float32)
    made = acccmp.emulate(loaded, {"x": x}, tmp_path / "device", flush_subnormals=True)
    assert not acccmp.compare(loaded, made.dump, mapping=made.mapping, inputs={"x": x}).passed
    assert acccmp.compare(loaded, made.dump, mapping=made.mapping, inputs={"x": x}, flush_subnormals=True).passed


def test_a_golden_dump_finds_its_model_again_and_gets_floors(samples: Path, tmp_path: Path) -> None:
    net = samples / "digits_resnet"
    graph = acccmp.load(net / "resnet.onnx")
    acccmp.golden_run(graph, {"image": np.load(net / "inputs" / "image.npy")}, tmp_path / "golden")
    report = acccmp.compare(tmp_path / "golden", net / "npu", mapping=net / "mapping.json")
    assert any(row.floor > 0 for row in report.judged)


def test_valid_restricts_the_comparison_to_the_part_that_counts(samples: Path, tmp_path: Path) -> None:
    """Three pictures and one of padding: what the device made of the padding does not count."""
    net = samples / "digits_resnet"
    golden = acccmp.read_dump(net / "golden")
    port = Port("prob", "output", 0)
    wrong = golden[port].numpy().copy()
    wrong[3] = 0.5
    npu = Dump({port: TensorRef.of(wrong.astype(np.float16))})
    plain = acccmp.compare(golden, npu)
    assert plain["prob"].verdict is Verdict.DRIFT
    cut = acccmp.compare(golden, npu, valid=("prob=0:3",))
    assert cut["prob"].verdict is Verdict.MATCH


def test_threads_change_no_number(samples: Path) -> None:
    net = samples / "digits_resnet"
    one = acccmp.compare(net / "golden", net / "npu_faulty", mapping=net / "mapping.json", jobs=1)
    many = acccmp.compare(net / "golden", net / "npu_faulty", mapping=net / "mapping.json", jobs=3)
    assert [dict(row.metrics) for row in one.comparisons] == [dict(row.metrics) for row in many.comparisons]


def test_one_line_of_python_is_enough(samples: Path) -> None:
    """From the package's own docstring: every public name is there and lazily bound."""
    for name in acccmp.__all__:
        assert getattr(acccmp, name) is not None
    code = "import acccmp; acccmp.Port('a', 'output', 0); import sys; print('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize("columns", ["80", "100", "140"])
def test_the_screen_of_compare_is_whole_at_any_width(samples: Path, columns: str) -> None:
    net = samples / "digits_resnet"
    given = [net / "golden", net / "npu_faulty", "--mapping", net / "mapping.json"]
    command = [sys.executable, "-m", "acccmp", "compare", *map(str, given)]
    env = {**os.environ, "COLUMNS": columns}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert ran.returncode == 1
    assert "0.75" in ran.stdout
    rows = [line for line in ran.stdout.splitlines() if line.startswith("prob:output:0")]
    assert "0.224" in rows[0]
    assert "drift" in rows[0]
