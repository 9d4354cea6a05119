"""Slices of Caffe and TensorFlow models: in-place chains, phase rules, loops."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acccmp.core.dump import Port
from acccmp.errors import SliceError
from acccmp.jobs import slice as handover
from acccmp.models.load import load
from acccmp.runners.run import run
from acccmp.slicing.cut import cut

V1_NET = """
name: "v1"
input: "data" input_dim: 1 input_dim: 3 input_dim: 9 input_dim: 9
layers { name: "train_only" type: POOLING bottom: "data" top: "t" include { phase: TRAIN }
  pooling_param { kernel_size: 2 } }
layers { name: "conv" type: CONVOLUTION bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3 } }
layers { name: "relu" type: RELU bottom: "conv" top: "conv" }
layers { name: "sig" type: SIGMOID bottom: "conv" top: "conv" }
layers { name: "pool" type: POOLING bottom: "conv" top: "pool" pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layers { name: "fc" type: INNER_PRODUCT bottom: "pool" top: "fc" inner_product_param { num_output: 5 }
  include { phase: TEST } }
"""


@pytest.fixture
def v1_net(tmp_path: Path) -> tuple[Path, Path]:
    """A V1 net with an in-place chain and phase rules, and its caffemodel in the legacy blob style."""
    from acccmp.schemas import caffe_pb2

    rng = np.random.default_rng(4)
    prototxt, weights = tmp_path / "v1.prototxt", tmp_path / "v1.caffemodel"
    prototxt.write_text(V1_NET)
    net = caffe_pb2.NetParameter(name="v1")
    stored = {
        ("conv", 4): [(4, 3, 3, 3), (1, 1, 1, 4)], ("fc", 14): [(1, 1, 5, 64), (1, 1, 1, 5)],
        ("left_over", 14): [(1, 1, 2, 2)],
    }
    for (name, kind), shapes in stored.items():
        layer = net.layers.add(name=name, type=kind)
        for n, c, h, w in shapes:
            data = rng.standard_normal(n * c * h * w).astype(np.float32)
            layer.blobs.add(num=n, channels=c, height=h, width=w, data=data.tolist())
    weights.write_bytes(net.SerializeToString())
    return prototxt, weights


def test_in_place_chains_of_a_v1_net_are_cut_in_the_right_place(v1_net: tuple[Path, Path], tmp_path: Path) -> None:
    graph = load(*v1_net)
    assert "train_only" not in graph
    x = np.random.default_rng(5).standard_normal((1, 3, 9, 9)).astype(np.float32)
    golden = run(graph, {"data": x})
    for start, end, fed in (("relu", "pool", "conv"), ("sig", "fc", "conv@relu"), ("pool", "fc", "conv@sig")):
        part = handover.slice_model(graph, start, end)
        assert part.graph.inputs == (fed,)
        made = handover.export_slice(part, tmp_path / start, inputs={"data": x})
        assert made.manifest.self_test.status == "passed", (start, made.manifest.self_test)
        text = (made.path / "dump.prototxt").read_text()
        assert "layers {" in text, "V1 stays V1"
        assert "TRAIN" not in text
        assert "include" not in text
        again = load(made.path / "dump.prototxt", made.path / "dump.caffemodel")
        assert [n.name for n in again.nodes if n.op_type != "Input"] == [n.name for n in part.graph.nodes]
        given = run(again, {again.inputs[0]: golden[part.input_port(fed)].numpy()})
        np.testing.assert_allclose(
            given[Port(end, "output", 0)].numpy(), golden[Port(end, "output", 0)].numpy(), rtol=1e-6, atol=1e-7,
        )


def test_the_input_layer_of_a_caffe_slice_is_named_after_its_first_layer_and_keeps_the_blob(
    v1_net: tuple[Path, Path], tmp_path: Path,
) -> None:
    made = handover.export_slice(handover.slice_model(load(*v1_net), "pool", "fc"), tmp_path)
    assert 'name: "pool_input_0" type: "Input"' in (made.path / "log.txt").read_text()
    assert '"conv"' in (made.path / "dump.prototxt").read_text()
    assert "--framework=0" in made.manifest.atc
    assert "--weight=dump.caffemodel" in made.manifest.atc


def while_loop(path: Path) -> None:
    """x + 1, a V1 loop that doubles it three times, then * 10."""
    import tensorflow as tf

    tf.compat.v1.disable_control_flow_v2()
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [2, 3], "x")
        before = tf.add(x, 1.0, name="before")
        _, looped = tf.compat.v1.while_loop(
            lambda i, v: tf.less(i, 3), lambda i, v: (i + 1, v * 2.0), [tf.constant(0), before], name="loop",
        )
        tf.multiply(tf.identity(looped, name="between"), 10.0, name="after")
    path.write_bytes(graph.as_graph_def().SerializeToString())


def test_a_cut_through_a_v1_loop_is_refused_and_cuts_around_it_work(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    while_loop(tmp_path / "loop.pb")
    graph = load(tmp_path / "loop.pb")
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    inner = next(node.name for node in graph.nodes if node.op_type == "Mul" and node.name.startswith("loop"))
    with pytest.raises(SliceError, match="V1 loop"):
        handover.export_slice(handover.slice_model(graph, inner, "after"), tmp_path, inputs={"x:0": x})
    around = handover.export_slice(handover.slice_model(graph, "before", "after"), tmp_path, inputs={"x:0": x})
    assert around.manifest.self_test.status == "passed", around.manifest.self_test
    behind = handover.export_slice(handover.slice_model(graph, "between", "after"), tmp_path, inputs={"x:0": x})
    assert behind.manifest.self_test.status == "passed"
    golden = np.load(next((behind.path / "expected/golden").glob("*.npy")))
    np.testing.assert_array_equal(golden, (x + 1) * 8 * 10)


def test_slices_of_real_tensorflow_models_equal_the_whole_model(shared: Path) -> None:
    pytest.importorskip("tensorflow")
    from benchmarks.slices import tally_model

    for name in ("Ascend_ModelZoo-TensorFlow__hh.pb", "tf2onnx__fc-layers.frozen.pb"):
        tally = tally_model(shared / "tensorflow" / name, None, 5, seed=1)
        assert tally.bad == []
        assert tally.equal > 0


def test_nhwc_graphs_stay_nhwc(shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    graph = load(shared / "tensorflow" / "Ascend_ModelZoo-TensorFlow__hh.pb")
    convolution = next(node for node in graph.nodes if node.op_type == "Conv2D")
    part = cut(graph, convolution.name, convolution.name)
    made = handover.export_slice(part, tmp_path)
    assert made.manifest.self_test.status == "passed"
    assert made.manifest.inputs[0].layout == "NHWC"
    assert "--input_format=NHWC" in made.manifest.atc


def test_a_saved_model_is_frozen_by_convert_and_then_sliced(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")

    class Net(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable(np.arange(6, dtype=np.float32).reshape(3, 2), name="w")

        @tf.function(input_signature=[tf.TensorSpec([2, 3], tf.float32, "x")])
        def __call__(self, x: Any) -> Any:
            return tf.nn.relu(tf.matmul(x, self.w) - 4.0)

    tf.saved_model.save(Net(), str(tmp_path / "saved"))
    command = [sys.executable, "-m", "acccmp", "convert", tmp_path / "saved", "--to", "pb", "-o", tmp_path / "out"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    graph = load(tmp_path / "out" / "saved.pb")
    product = next(node.name for node in graph.nodes if node.op_type == "MatMul")
    last = next(node.name for node in graph.nodes if node.op_type == "Relu")
    x = np.ones((2, 3), np.float32)
    made = handover.export_slice(handover.slice_model(graph, product, last), tmp_path, inputs={graph.inputs[0]: x})
    assert made.manifest.self_test.status == "passed"
    golden = np.load(next((made.path / "expected/golden").glob("*.npy")))
    np.testing.assert_array_equal(golden, np.maximum(x @ np.arange(6, dtype=np.float32).reshape(3, 2) - 4, 0))
