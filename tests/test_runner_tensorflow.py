"""Golden runs in TensorFlow, judged by numpy and by TensorFlow's own importer and shape inference."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorflow_graphs import (
    FC,
    FLOAT,
    HH,
    INT32,
    MTCNN,
    Calls,
    F,
    Kind,
    Sizes,
    X,
    cond,
    const,
    function,
    graph_def,
    loop,
    node,
    placeholder,
    values,
    write,
)

from acccmp.core.dump import Port
from acccmp.core.graph import Graph
from acccmp.errors import InputError, MissingExtra, RunError, UnknownName
from acccmp.models.tensorflow import load
from acccmp.runners.tensorflow import freeze, run

MODELS = {"hh": HH, "mtcnn": MTCNN, "fc": FC}


def feeds_of(name: str, graph: Graph) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(11)
    if name == "mtcnn":
        return {
            "input": (draw.random((120, 160, 3)) * 255).astype(np.float32), "min_size": np.array(40, np.float32),
            "thresholds": np.array([0.6, 0.7, 0.7], np.float32), "factor": np.array(0.709, np.float32),
        }
    tensor = graph.inputs[0]
    return {tensor: draw.random([n or 2 for n in graph.spec(tensor).shape or ()], np.float32)}


# model: tensors captured, inside loops, in branches not taken, handles
@pytest.mark.parametrize(("name", "counts"), [
    ("hh", (68, 0, 0, 0)), ("fc", (24, 0, 0, 0)), ("mtcnn", (268, 200, 491, 3)),
])
def test_every_tensor_of_a_real_model_is_captured_or_has_its_reason(
    tf: Any, shared: Path, name: str, counts: tuple[int, ...],
) -> None:
    graph = load(shared / "tensorflow" / MODELS[name])
    captured = run(graph, feeds_of(name, graph))
    why = Counter(
        word for reason in captured.skipped.values() for word in ("V1 loop", "not taken", "handle") if word in reason
    )
    assert (len(captured), why["V1 loop"], why["not taken"], why["handle"]) == counts
    named = {f"{port.node}:{port.index}" for port in captured.tensors}
    assert named | captured.skipped.keys() == graph.tensors.keys()
    assert list(captured.tensors)[: len(graph.inputs)] == [graph.producer(tensor) for tensor in graph.inputs]
    for port, array in captured.tensors.items():  # what was inferred without running is what came out
        spec = graph.spec(f"{port.node}:{port.index}")
        assert spec.dtype is not None
        assert spec.dtype.name == array.dtype.name
        if spec.shape is not None:
            assert len(spec.shape) == array.ndim
            assert all(n in (None, m) for n, m in zip(spec.shape, array.shape, strict=True))


def test_fully_connected_layers_are_what_numpy_computes(tf: Any, shared: Path) -> None:
    graph = load(shared / "tensorflow" / MODELS["fc"])
    feeds = feeds_of("fc", graph)
    got = values(graph, feeds)
    made: dict[str, np.ndarray] = {graph.inputs[0]: next(iter(feeds.values())).astype(np.float64)}
    for one in graph.nodes:
        args = [made[tensor] for tensor in one.inputs]
        if one.op_type == "Const":
            made[one.outputs[0]] = graph.weights[one.outputs[0]].numpy().astype(np.float64)
        elif one.op_type == "Identity":
            made[one.outputs[0]] = args[0]
        elif one.op_type == "MatMul":
            made[one.outputs[0]] = args[0] @ args[1]
        elif one.op_type == "BiasAdd":
            made[one.outputs[0]] = args[0] + args[1]
        elif one.op_type == "Relu":
            made[one.outputs[0]] = np.maximum(args[0], 0)
    for tensor, wanted in made.items():
        assert np.abs(got[tensor] - wanted).max() <= 1e-4 * max(1.0, np.abs(wanted).max())


def test_nodes_edges_and_shapes_agree_with_tensorflows_own_importer(tf: Any, shared: Path) -> None:
    for file in MODELS.values():
        path = shared / "tensorflow" / file
        graph = load(path)
        message = tf.compat.v1.GraphDef.FromString(path.read_bytes())
        with tf.Graph().as_default() as native:
            tf.import_graph_def(message, name="")
        operations = native.get_operations()
        assert {op.name: op.type for op in operations} == {one.name: one.op_type for one in graph.nodes}
        for op in operations:
            assert graph[op.name].inputs == tuple(tensor.name for tensor in op.inputs)
            assert set(graph[op.name].control) == {before.name for before in op.control_inputs}
            for tensor in op.outputs:
                assert tensor.name in graph.tensors
                ours, theirs = graph.spec(tensor.name).shape, tensor.shape
                if ours is not None and theirs.rank is not None and op.type != "Placeholder":
                    assert all(None in (a, b) or a == b for a, b in zip(ours, theirs.as_list(), strict=True)), tensor


def test_inferred_shapes_are_tensorflows(tf: Any, tmp_path: Path) -> None:
    """A graph of many ops: where TensorFlow knows a shape whole, so do we, and it is the same."""
    v1 = tf.compat.v1
    with tf.Graph().as_default() as native:
        x = v1.placeholder(tf.float32, [2, 11, 9, 6], name="x")
        v = v1.placeholder(tf.float32, [None, 12], name="v")
        kernel = tf.constant(np.zeros((3, 2, 6, 5), np.float32))
        tf.nn.conv2d(x, kernel, [1, 2, 1, 1], "VALID")
        tf.nn.conv2d(x, kernel, 2, [[0, 0], [1, 2], [3, 0], [0, 0]])
        tf.nn.conv2d(x, kernel, 1, "SAME", dilations=2)
        tf.nn.depthwise_conv2d(x, tf.constant(np.zeros((3, 3, 6, 2), np.float32)), [1, 2, 2, 1], "SAME")
        tf.nn.conv2d_transpose(x, tf.constant(np.zeros((2, 2, 7, 6), np.float32)), [2, 22, 18, 7], 2)
        pooled = tf.nn.max_pool2d(x, 3, 2, "VALID")
        tf.nn.avg_pool2d(pooled, 2, 1, "SAME")
        v1.nn.fused_batch_norm(x, tf.ones(6), tf.zeros(6))
        tf.transpose(x, [0, 3, 1, 2])
        tf.concat([x, pooled[:, :1, :1, :] + tf.zeros([2, 11, 9, 6])], 2)
        tf.pad(x, [[0, 0], [1, 2], [3, 4], [0, 0]])
        tf.reduce_mean(x, [1, 2])
        tf.reduce_max(x, -1, keepdims=True)
        tf.reduce_sum(x)
        tf.squeeze(tf.expand_dims(v, 1), [1])
        tf.stack([x, x], axis=-1)
        tf.unstack(x, axis=3)
        tf.split(x, 3, axis=3)
        tf.split(x, [1, -1, 2], axis=3)
        x[:, 1:-1, ::2, 3]
        x[..., tf.newaxis, 1:2]
        tf.slice(x, [0, 2, 0, 0], [1, -1, 3, 6])
        tf.reshape(v, [-1, 3, 4])
        tf.reshape(x, [tf.shape(x)[0], -1])
        tf.matmul(v, tf.zeros([12, 7]))
        tf.matmul(tf.zeros([5, 1, 3, 4]), tf.zeros([2, 4, 8]))
        tf.matmul(tf.zeros([7, 3]), tf.zeros([5, 7]), transpose_a=True, transpose_b=True)
        tf.gather(x, [[0, 1], [1, 0]], axis=1)
        tf.gather_nd(x, [[0, 1], [1, 0]])
        tf.one_hot([1, 2, 3], 9)
        tf.tile(x, [1, 2, 1, 3])
        tf.argmax(x, 1)
        tf.image.resize(x, [5, 4])
        tf.nn.space_to_depth(x[:, :10, :8], 2)
        tf.nn.depth_to_space(tf.zeros([1, 2, 3, 8]), 2)
        tf.nn.top_k(v, 3)
        tf.where(x > 0, x, tf.zeros([6]))
        tf.range(2, 11, 3)
        tf.fill([2, 3], 1.0)
        tf.broadcast_to(tf.zeros([1, 6]), [4, 6])
        tf.cast(tf.shape(x), tf.float32)
        tf.nn.softmax(tf.nn.bias_add(x, tf.zeros(6)))
        tf.raw_ops.AddN(inputs=[x, x])
        tf.nn.conv3d(tf.zeros([1, 5, 6, 7, 2]), tf.zeros([3, 3, 3, 2, 4]), [1, 1, 2, 1, 1], "SAME")
        tf.nn.max_pool3d(tf.zeros([1, 5, 6, 7, 2]), 2, 2, "VALID")
        tf.math.reduce_prod(tf.shape(v)[1:])
    path = tmp_path / "zoo.pb"
    path.write_bytes(native.as_graph_def().SerializeToString())
    graph = load(path)
    checked = 0
    for op in native.get_operations():
        for tensor in op.outputs:
            spec = graph.spec(tensor.name)
            assert spec.dtype is not None, tensor
            assert spec.dtype.name == tensor.dtype.name, tensor
            if tensor.shape.is_fully_defined():
                if op.type == "FusedBatchNormV3" and tensor.value_index == 5:
                    continue  # its size is the kernel's own business
                assert spec.shape == tuple(tensor.shape), (tensor, op.type)
                checked += 1
            elif tensor.shape.rank is not None and spec.shape is not None:
                assert all(None in (a, b) or a == b for a, b in zip(spec.shape, tensor.shape, strict=True)), tensor
    assert checked > 120


def test_what_leaves_a_v1_loop_is_captured_and_what_is_inside_is_not(tf: Any, tmp_path: Path) -> None:
    captured = run(load(write(tmp_path / "loop.pb", *loop(limit=5))), {"x": X})
    assert captured[Port("y", "output", 0)].tolist() == (-(2 * X + 5 * 2 * X)).tolist()
    assert Port("loop/Exit", "output", 0) in captured.tensors
    assert Port("loop/add", "output", 0) not in captured.tensors
    assert captured.skipped["loop/add:0"].startswith("inside the V1 loop 'loop/frame'")


@pytest.mark.parametrize("sign", [1, -1])
def test_only_the_branch_that_was_taken_is_captured(tf: Any, tmp_path: Path, sign: int) -> None:
    given = sign * np.ones((2, 4), np.float32)
    captured = run(load(write(tmp_path / "cond.pb", *cond())), {"x:0": given})
    assert captured[Port("y", "output", 0)].tolist() == (given * given if sign > 0 else -given - 1).tolist()
    alive, dead = ("cond/square:0", "cond/less:0") if sign > 0 else ("cond/less:0", "cond/square:0")
    assert Port(alive[:-2], "output", 0) in captured.tensors
    assert captured.skipped[dead] == "in the branch of a cond that was not taken"
    assert len(captured) + len(captured.skipped) == len(load(tmp_path / "cond.pb").tensors)


def test_conds_inside_conds(tf: Any, tmp_path: Path) -> None:
    v1 = tf.compat.v1
    v1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default() as native:
            x = v1.placeholder(tf.float32, [2, 4], name="x")
            inner = lambda: v1.cond(tf.reduce_max(x) > 2, lambda: x * 2, lambda: x * 3)  # noqa: E731
            tf.identity(v1.cond(tf.reduce_sum(x) > 0, inner, lambda: tf.zeros_like(x)), name="y")
    finally:
        v1.enable_control_flow_v2()
    path = tmp_path / "conds.pb"
    path.write_bytes(native.as_graph_def().SerializeToString())
    for given, factor in ((X, 2), (X * 0.5, 3), (-X, 0)):
        captured = run(load(path), {"x": given + 0.0})
        wanted = given * factor if given.sum() > 0 else given * 0
        assert np.array_equal(captured[Port("y", "output", 0)], wanted)
        assert set(captured.skipped.values()) == {"in the branch of a cond that was not taken"}


def test_strings_and_handles_are_skipped_with_their_reason(tf: Any, tmp_path: Path) -> None:
    text = node("t", "AsString", "x", T=F)
    captured = run(load(write(tmp_path / "g.pb", placeholder("x", 2, 4), text, node("y", "Neg", "x", T=F))), {"x": X})
    assert captured.skipped == {"t:0": "strings, no numbers"}
    assert [str(port) for port in captured.tensors] == ["x:output:0", "y:output:0"]


def test_an_op_that_tensorflow_lacks_stops_only_what_hangs_on_it(tf: Any, tmp_path: Path) -> None:
    graph = load(write(
        tmp_path / "g.pb", placeholder("x", 2, 4), node("a", "Relu", "x", T=F), node("npu", "NpuOnly", "a", T=F),
        node("y", "Neg", "npu", T=F), node("z", "Neg", "a", T=F),
    ))
    captured = run(graph, {"x": X})
    assert captured[Port("z", "output", 0)].tolist() == (-np.maximum(X, 0)).tolist()
    assert captured.skipped.keys() == {"npu:0", "y:0"}
    assert "npu, an op NpuOnly that TensorFlow" in captured.skipped["y:0"]
    with pytest.raises(RunError, match="NpuOnly"):
        run(load(write(tmp_path / "h.pb", placeholder("x", 2), node("npu", "NpuOnly", "x", T=F))), {"x": X[0, :2]})


def test_a_layer_that_fails_is_named_in_one_line(tf: Any, tmp_path: Path) -> None:
    graph = load(write(
        tmp_path / "g.pb", placeholder("x", -1, 4), const("to", np.array([3, -1], np.int32)),
        node("layer/bad", "Reshape", "x", "to", T=F, Tshape=Kind(INT32)),
    ))
    with pytest.raises(RunError, match=r"layer/bad \(Reshape\): .*requested shape") as caught:
        run(graph, {"x": X})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_inputs_are_checked_before_anything_runs(tmp_path: Path) -> None:
    graph = load(write(tmp_path / "g.pb", placeholder("x", -1, 4), placeholder("n", 2, kind=INT32), node(
        "y", "Neg", "x", T=F), node("m", "Neg", "n", T=Kind(INT32))))
    good = {"x": X, "n": np.zeros(2, np.int32)}
    with pytest.raises(InputError, match="needs an array for n:0; given: x:0"):
        run(graph, {"x": X})
    with pytest.raises(UnknownName, match="'q'"):
        run(graph, good | {"q": X})
    with pytest.raises(InputError, match=r"the input x:0 has the shape 4x2, wanted is \?x4"):
        run(graph, good | {"x": X.T})
    with pytest.raises(InputError, match="n:0 is int32, the array given for it is float32"):
        run(graph, good | {"n": np.zeros(2, np.float32)})


def test_a_placeholder_of_unknown_rank_takes_anything(tf: Any, tmp_path: Path) -> None:
    anything = node("x", "Placeholder", dtype=F)
    anything.attr["shape"].shape.unknown_rank = True
    graph = load(write(tmp_path / "g.pb", anything, node("y", "Neg", "x", T=F)))
    assert graph.spec("x:0").shape is None
    for given in (X, X[0], X[:, :, None]):
        assert np.array_equal(run(graph, {"x": given})[Port("y", "output", 0)], -given)


def test_only_what_is_wanted_comes_home(tf: Any, tmp_path: Path) -> None:
    nodes = [placeholder("x", 2, 4), node("a", "Neg", "x", T=F), node("b", "Neg", "a", T=F)]
    graph = load(write(tmp_path / "g.pb", *nodes))
    assert [str(port) for port in run(graph, {"x": X}, {"a"}).tensors] == ["a:output:0"]
    assert [str(port) for port in run(graph, {"x": X}, {"b:0", "x:0"}).tensors] == ["x:output:0", "b:output:0"]
    with pytest.raises(UnknownName, match="nowhere"):
        run(graph, {"x": X}, {"nowhere"})


def test_a_default_is_used_unless_something_is_given(tf: Any, tmp_path: Path) -> None:
    graph = load(write(
        tmp_path / "g.pb", placeholder("x", 2, 4), const("d", np.float32(3)),
        node("p", "PlaceholderWithDefault", "d", dtype=F, shape=Sizes(())), node("y", "Mul", "x", "p", T=F),
    ))
    assert np.array_equal(run(graph, {"x": X})[Port("y", "output", 0)], X * 3)
    assert np.array_equal(run(graph, {"x": X, "p": np.float32(5)})[Port("y", "output", 0)], X * 5)


def test_random_ops_without_a_seed_draw_the_same_twice(tf: Any, shared: Path) -> None:
    graph = load(shared / "tensorflow" / MODELS["hh"])
    feeds = feeds_of("hh", graph)
    first, second = run(graph, feeds), run(graph, feeds)
    assert all(np.array_equal(first[port], second[port]) for port in first.tensors)
    assert "RandomStandardNormal" in first.notes[0]
    drawn = first[Port("random_normal/RandomStandardNormal", "output", 0)]
    assert 0.8 < drawn.std() < 1.2


def test_functions_are_inlined_so_that_their_tensors_are_there(tf: Any, tmp_path: Path) -> None:
    body = function(
        "body", {"z": FLOAT}, {"r": (FLOAT, "add:z:0")}, node("one", "Const", dtype=F, value=np.ones(4, np.float32)),
        node("add", "AddV2", "z", "one:output:0", T=F),
    )
    call = node("call", "PartitionedCall", "x", f=Calls("body"), Tin=[F], Tout=[F], config="", config_proto="",
                executor_type="")
    path = write(tmp_path / "g.pb", placeholder("x", 2, 4), call, node("y", "Neg", "call", T=F), functions=[body])
    captured = run(load(path), {"x": X})
    assert np.array_equal(captured[Port("y", "output", 0)], -(X + 1))
    assert np.array_equal(captured[Port("call", "output", 0)], X + 1)
    assert np.array_equal(captured[Port("call/add", "output", 0)], X + 1)
    assert list(run(load(path), {"x": X}, {"call/add:0"}).tensors) == [Port("call/add", "output", 0)]


def test_a_saved_model_is_frozen_and_inlined(tf: Any, tmp_path: Path) -> None:
    class Model(tf.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            self.w = tf.Variable(np.arange(12, dtype=np.float32).reshape(4, 3), name="w")

        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            y = tf.nn.relu(tf.matmul(x, self.w))
            return tf.cond(tf.reduce_sum(y) > 1e9, lambda: y * 2.0, lambda: y - 1.0)

    model = Model()
    tf.saved_model.save(model, str(tmp_path / "saved"), signatures=model.__call__)
    graph = load(tmp_path / "saved")
    assert graph.meta["kind"] == "SavedModel"
    product = X @ np.arange(12, dtype=np.float32).reshape(4, 3)
    captured = run(graph, {graph.inputs[0]: X})
    out = graph.producer(graph.outputs[0])
    assert out is not None
    assert np.allclose(captured[out], np.maximum(product, 0) - 1)
    inner = [array for port, array in captured.tensors.items() if port.node.endswith("/MatMul")]
    assert len(inner) == 1
    assert np.allclose(inner[0], product)
    frozen = load(freeze(graph, tmp_path / "frozen.pb"))
    assert not frozen.meta["functions"]
    again = run(frozen, {frozen.inputs[0]: X})
    assert np.array_equal(again[frozen.producer(frozen.outputs[0])], captured[out])  # type: ignore[index]
    with pytest.raises(RunError, match="freeze the whole first"):
        freeze(graph.keep([graph.nodes[-1].name]), tmp_path / "part.pb")


def test_a_graph_in_nchw_runs_in_a_process_of_its_own(tf: Any, tmp_path: Path) -> None:
    pool = node("p", "MaxPool", "x", T=F, ksize=[1, 1, 2, 2], strides=[1, 1, 2, 2], padding="VALID", data_format="NCHW")
    path = write(tmp_path / "nchw.pb", placeholder("x", 1, 2, 4, 4), pool)
    code = (
        "import numpy as np\nfrom acccmp.models.tensorflow import load\nfrom acccmp.runners.tensorflow import run\n"
        f"got = run(load({str(path)!r}), {{'x': np.arange(32, dtype='f').reshape(1, 2, 4, 4)}})\n"
        "print(got[('p', 'output', 0)].ravel().tolist(), 'oneDNN' in got.notes[0])"
    )
    clean = {key: value for key, value in os.environ.items() if key != "TF_ENABLE_ONEDNN_OPTS"}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, env=clean, text=True, check=True).stdout
    assert said.split("\n")[0] == "[5.0, 7.0, 13.0, 15.0, 21.0, 23.0, 29.0, 31.0] True"


def test_without_tensorflow_the_pip_line_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = load(write(tmp_path / "g.pb", placeholder("x", 2, 4), node("a", "Neg", "x", T=F)))
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(MissingExtra, match=r"pip install 'acccmp\[tf\]'"):
        run(graph, {"x": X})


def test_the_schema_has_tensorflows_field_numbers(tf: Any) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    from acccmp.schemas import tensorflow_pb2 as schema

    compared: set[str] = set()

    def compare(ours: Any, theirs: Any) -> None:
        if ours.full_name in compared:
            return
        compared.add(ours.full_name)
        for field in ours.fields:
            other = theirs.fields_by_number[field.number]
            assert (field.name, field.type, field.is_repeated) == (other.name, other.type, other.is_repeated)
            if field.message_type:
                compare(field.message_type, other.message_type)
            if field.enum_type:
                assert {v.name: v.number for v in field.enum_type.values} == {
                    v.name: v.number for v in other.enum_type.values}

    compare(schema.SavedModel.DESCRIPTOR, saved_model_pb2.SavedModel.DESCRIPTOR)
    assert len(compared) > 25
    raw = graph_def(*loop()).SerializeToString()
    assert tf.compat.v1.GraphDef.FromString(raw).node[0].name == "x"
