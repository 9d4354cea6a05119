"""ONNX files as Graphs and back, judged by onnx itself, numpy and raw onnxruntime sessions."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import networkx as nx
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from acccmp.core.graph import Graph
from acccmp.errors import FormatError, InputError
from acccmp.inputs.files import random_inputs
from acccmp.models import onnx_file
from acccmp.models.load import load
from acccmp.models.onnx import save
from acccmp.runners.onnxruntime import run

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64

# file -> nodes, edges between nodes, weights
MODELS = {
    "Linzaer_Ultra-Light-Fast-Generic-Face-Detector-1MB__version-slim-320": (217, 234, 184),
    "ShiqiYu_libfacedetection.train__yunet_n_320_320": (115, 116, 124),
    "a-ircle_atlas200i-line-tracking-car__lanenet_epoch_122_batch_8_AUG": (462, 523, 403),
    "microsoft_onnxruntime-inference-examples__mnist": (12, 11, 8),
    "microsoft_onnxruntime-inference-examples__pytorch_superresolution_with_pre_post_processing_op18": (105, 125, 8),
    "snakers4_silero-vad__silero_vad_op18_ifless": (4, 3, 45),
}
SLIM, YUNET, LANENET, MNIST, SUPER, SILERO = MODELS


def written(path: Path, nodes: list, inputs: list, outputs: list, weights: dict[str, np.ndarray] | None = None,
            opset: int = 17, **graph: object) -> Path:
    """A model file of these parts; inputs and outputs are (name, type, shape)."""
    proto = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info(*i) for i in inputs],
        [helper.make_tensor_value_info(*o) for o in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()], **graph,
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def chain(path: Path, **options: object) -> Path:
    """x -> Conv (large weights) -> Relu -> Flatten -> MatMul -> y."""
    chance = np.random.default_rng(3)
    return written(
        path,
        [helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv"), helper.make_node("Relu", ["c"], ["r"], "relu"),
         helper.make_node("Flatten", ["r"], ["f"], "flat"), helper.make_node("MatMul", ["f", "m"], ["y"], "fc")],
        [("x", FLOAT, ["n", 3, 8, 8])], [("y", FLOAT, ["n", 5])],
        {"w": chance.standard_normal((16, 3, 3, 3)).astype("f4"), "b": np.arange(16, dtype="f4"),
         "m": chance.standard_normal((576, 5)).astype("f4")}, **options,
    )


def external(path: Path, **options: object) -> Path:
    """`chain`, with its weights in a file beside it."""
    model = onnx.load(chain(path))
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0, **options)
    return path


def edges(graph: Graph) -> set[tuple]:
    return set(graph.nx.edges(keys=True))


def assert_same(a: Graph, b: Graph) -> None:
    """Names, ops, attributes, edges and weights are equal."""
    assert [(n.name, n.op_type, n.domain, n.inputs, n.outputs, n.captures) for n in a.nodes] == [
        (n.name, n.op_type, n.domain, n.inputs, n.outputs, n.captures) for n in b.nodes
    ]
    assert (a.inputs, a.outputs) == (b.inputs, b.outputs)
    assert edges(a) == edges(b)
    for one, two in zip(a.nodes, b.nodes, strict=True):
        mine, yours = onnx.NodeProto(), onnx.NodeProto()
        mine.CopyFrom(one.source)
        yours.CopyFrom(two.source)
        mine.name = yours.name = ""
        for proto in (mine, yours):
            for tensor in onnx_file._of_nodes([proto]):  # where bytes lie may change, what they are may not
                del tensor.external_data[:]
        assert mine == yours
        assert one.attrs.keys() == two.attrs.keys()
        assert one.subgraphs.keys() == two.subgraphs.keys()
        for name in one.subgraphs:
            assert_same(one.subgraphs[name], two.subgraphs[name])
    assert a.weights.keys() == b.weights.keys()
    for name, ref in a.weights.items():
        assert ref.dtype == b.weights[name].dtype
        if ref.dtype.kind != "opaque":
            np.testing.assert_array_equal(ref.numpy(), b.weights[name].numpy())
    for tensor in (*a.inputs, *a.outputs):
        assert (a.spec(tensor).dtype, a.spec(tensor).shape) == (b.spec(tensor).dtype, b.spec(tensor).shape)


# -- real models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS, ids=lambda name: name[:20])
def test_every_real_model_loads_with_all_its_nodes_edges_and_weights(name: str, shared: Path) -> None:
    graph = load(shared / "onnx" / f"{name}.onnx")
    plain = onnx.load(shared / "onnx" / f"{name}.onnx")
    assert (len(graph), graph.nx.number_of_edges(), len(graph.weights)) == MODELS[name]
    assert [node.op_type for node in graph.nodes] == [node.op_type for node in plain.graph.node]
    for tensor in plain.graph.initializer:
        ref = graph.weights[tensor.name]
        np.testing.assert_array_equal(ref.numpy(), numpy_helper.to_array(tensor))
        held = ref.array is not None and tensor.HasField("raw_data")
        assert not held or ref.nbytes <= onnx_file.INLINE, "larger weights stay in the file"
    given = {i.name for i in plain.graph.input} - {t.name for t in plain.graph.initializer}
    assert set(graph.inputs) == given


@pytest.mark.parametrize("name", MODELS, ids=lambda name: name[:20])
def test_a_model_written_and_loaded_again_is_the_same(name: str, shared: Path, tmp_path: Path) -> None:
    graph = load(shared / "onnx" / f"{name}.onnx")
    files = save(graph, tmp_path)
    again = load(files[0])
    assert_same(graph, again)
    keys = ("ir_version", "opset", "producer", "domain", "model_version", "properties", "functions")
    assert {k: graph.meta[k] for k in keys} == {k: again.meta[k] for k in keys}
    first = files[0].read_bytes()
    assert save(again, tmp_path / "b")[0].read_bytes() == first, "what was written once is written alike"


def feeds_for(graph: Graph) -> dict[str, np.ndarray]:
    if "silero" not in graph.name:
        return random_inputs(graph, 5)
    feeds = random_inputs(graph, 5, {"input": (1, 576), "state": (2, 1, 128)})
    return {**feeds, "sr": np.array(16000)}


def random_part(graph: Graph, chance: random.Random) -> Graph | None:
    """A part between two random nodes, with the constants that it reads."""
    start = chance.choice(graph.nodes).name
    end = chance.choice(sorted({start} | nx.descendants(graph.nx, start), key=graph.depth.__getitem__))
    region = ({start} | nx.descendants(graph.nx, start)) & ({end} | nx.ancestors(graph.nx, end))
    if region <= graph.constants:
        return None
    for name in tuple(region):
        region |= nx.ancestors(graph.nx, name) & graph.constants
    return graph.keep(region, [t for t in graph[end].outputs if t])


@pytest.mark.parametrize("name", [SLIM, YUNET, MNIST, SILERO, LANENET], ids=lambda name: name[:20])
def test_random_cuts_give_the_full_models_inner_tensors_bit_by_bit(name: str, shared: Path, tmp_path: Path) -> None:
    graph = load(shared / "onnx" / f"{name}.onnx")
    full = run(graph, feeds_for(graph)).tensors
    chance = random.Random(11)
    equal = 0
    for attempt in range(12):
        part = random_part(graph, chance)
        if part is None:
            continue
        again = load(save(part, tmp_path / str(attempt))[0])
        assert_same(part, again)
        feeds = {tensor: full[graph.producer(tensor)] for tensor in part.inputs}
        given = run(again, feeds).tensors
        for tensor in part.outputs:
            np.testing.assert_array_equal(given[again.producer(tensor)], full[graph.producer(tensor)])
        raw = raw_run(tmp_path / str(attempt) / "dump.onnx", feeds, part.outputs)
        for tensor, array in zip(part.outputs, raw, strict=True):
            np.testing.assert_array_equal(array, full[graph.producer(tensor)])
        equal += 1
    assert equal >= 6


def raw_run(path: Path, feeds: dict[str, np.ndarray], outputs: tuple[str, ...]) -> list[np.ndarray]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(list(outputs), feeds)


def test_initializers_listed_as_inputs_are_weights_and_are_listed_again_when_written(
    shared: Path, tmp_path: Path,
) -> None:
    graph = load(shared / "onnx" / f"{SLIM}.onnx")
    assert graph.inputs == ("input",)
    again = onnx.load(save(graph, tmp_path)[0])
    assert len(again.graph.input) == 185  # the file's own count


def test_unnamed_nodes_have_a_name_and_answer_to_their_output(shared: Path, tmp_path: Path) -> None:
    graph = load(shared / "onnx" / f"{SLIM}.onnx")
    first = onnx.load(shared / "onnx" / f"{SLIM}.onnx").graph.node[0]
    assert first.name == ""
    assert graph.nodes[0].name == "Conv_0"
    assert graph.node(first.output[0]).name == "Conv_0"
    part = graph.keep([node.name for node in graph.nodes[5:9]])
    assert [n.name for n in load(save(part, tmp_path)[0]).nodes] == [n.name for n in graph.nodes[5:9]]


def test_the_if_bodies_of_silero_are_sub_graphs_and_what_they_capture_are_slots(shared: Path) -> None:
    graph = load(shared / "onnx" / f"{SILERO}.onnx")
    node = graph["node_cond__1"]
    assert node.subgraphs.keys() == {"then_branch", "else_branch"}
    assert [len(body) for body in node.subgraphs.values()] == [43, 43]
    assert len(node.captures) == 43  # as counted by hand in the file
    assert all(graph.producer(t) is not None or t in graph.weights for t in node.captures)


def test_nobody_guesses_what_lies_behind_a_custom_operator(shared: Path) -> None:
    graph = load(shared / "onnx" / f"{SUPER}.onnx")
    decode = next(node for node in graph.nodes if node.domain == "com.microsoft.extensions")
    assert graph.spec(decode.outputs[0]).shape is None


# -- small models ------------------------------------------------------------------------------------------------


def test_shapes_dtypes_and_layouts_of_tensors(tmp_path: Path) -> None:
    graph = load(chain(tmp_path / "m.onnx"))
    told = {name: (str(graph.spec(name).dtype), graph.spec(name).shape, graph.spec(name).layout) for name in "xcrfy"}
    assert told == {
        "x": ("float32", ("n", 3, 8, 8), "NCHW"), "c": ("float32", ("n", 16, 6, 6), "NCHW"),
        "r": ("float32", ("n", 16, 6, 6), "NCHW"), "f": ("float32", ("n", 576), None), "y": ("float32", ("n", 5), None),
    }


@pytest.mark.parametrize(("dim", "seen"), [("", None), ("batch", "batch"), (0, None), (None, None), (4, 4)])
def test_open_sizes_in_all_their_spellings(dim: object, seen: object, tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], [("x", FLOAT, [dim, 3])],
                   [("y", FLOAT, [dim, 3])])
    graph = load(path)
    assert graph.spec("x").shape == graph.spec("y").shape == (seen, 3)


def test_an_unknown_rank_is_not_a_scalar(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], [("x", FLOAT, None)],
                   [("y", FLOAT, [])])
    graph = load(path)
    assert graph.spec("x").shape is None
    assert graph.spec("y").shape == ()


@pytest.mark.parametrize("opset", [9, 13])
def test_shapes_that_older_exporters_compute_with_nodes_are_followed(opset: int, tmp_path: Path) -> None:
    """x.reshape(x.shape[0], -1, 2 * x.shape[1] // 3) as PyTorch exports it, with Slice and Unsqueeze of either kind."""
    old = opset < 13
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Slice", ["s"], ["c1"], starts=[1], ends=[2]) if old
        else helper.make_node("Slice", ["s", "one", "two"], ["c1"]),
        helper.make_node("Mul", ["c1", "two"], ["m"]), helper.make_node("Div", ["m", "three"], ["d"]),
        helper.make_node("Unsqueeze", ["n"], ["n1"], axes=[0]) if old
        else helper.make_node("Unsqueeze", ["n", "axis0"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest", "d"], ["to"], axis=0),
        helper.make_node("Reshape", ["x", "to"], ["y"], "reshape"), helper.make_node("Neg", ["y"], ["z"], "neg"),
    ]
    weights = {"zero": np.array(0), "one": np.array([1]), "two": np.array([2]), "three": np.array([3]),
               "rest": np.array([-1]), "axis0": np.array([0])}
    graph = load(written(tmp_path / "m.onnx", nodes, [("x", FLOAT, [5, 6, 8])], [("z", FLOAT, None)], weights, opset))
    assert graph.spec("y").shape == graph.spec("z").shape == (5, 12, 4)
    part = graph.keep(["neg"])
    assert load(save(part, tmp_path / "cut")[0]).spec("y").shape == (5, 12, 4)
    open_ = load(written(tmp_path / "o.onnx", nodes, [("x", FLOAT, ["n", 6, 8])], [("z", FLOAT, None)], weights, opset))
    assert open_.spec("y").shape is None or open_.spec("y").shape[0] in (None, "n"), "nothing is guessed"


def test_names_that_exist_twice_are_made_unique_and_asking_for_them_names_both(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"], "act"), helper.make_node("Neg", ["a"], ["b"], "act"),
             helper.make_node("Abs", ["b"], ["y"], "")]
    graph = load(written(tmp_path / "m.onnx", nodes, [("x", FLOAT, [2])], [("y", FLOAT, [2])]))
    assert [node.name for node in graph.nodes] == ["act#1", "act#2", "Abs_2"]
    with pytest.raises(InputError, match=r"act#1, act#2"):
        graph.node("act")
    assert [n.name for n in load(save(graph, tmp_path / "out")[0]).nodes] == ["act#1", "act#2", "Abs_2"]


def test_a_generated_name_makes_way_for_a_real_one(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"], ""), helper.make_node("Neg", ["a"], ["y"], "Relu_0")]
    graph = load(written(tmp_path / "m.onnx", nodes, [("x", FLOAT, [2])], [("y", FLOAT, [2])]))
    assert [node.name for node in graph.nodes] == ["Relu_0_2", "Relu_0"]


def if_model(path: Path) -> Path:
    """y = x*2 + w if c else inner If that captures h as well; h = relu(x) is captured from outside."""
    def body(name: str, nodes: list, out: str) -> onnx.GraphProto:
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(out, FLOAT, [3])])

    deep = body("deep", [helper.make_node("Sub", ["h", "w"], ["d"])], "d")
    deep2 = body("deep2", [helper.make_node("Add", ["h", "e_in"], ["d2"])], "d2")
    then = body("then", [helper.make_node("Add", ["h", "w"], ["t"])], "t")
    other = body("else", [helper.make_node("Neg", ["h"], ["e_in"]),
                          helper.make_node("If", ["c"], ["e"], "inner", then_branch=deep, else_branch=deep2)], "e")
    return written(
        path, [helper.make_node("Relu", ["x"], ["h"], "relu"),
               helper.make_node("If", ["c"], ["y"], "outer", then_branch=then, else_branch=other)],
        [("x", FLOAT, [3]), ("c", TensorProto.BOOL, [])], [("y", FLOAT, [3])], {"w": np.ones(3, "f4")},
    )


def test_captured_values_come_from_every_depth_of_bodies(tmp_path: Path) -> None:
    graph = load(if_model(tmp_path / "m.onnx"))
    outer = graph["outer"]
    assert set(outer.captures) == {"h", "w", "c"}
    inner = outer.subgraphs["else_branch"]["inner"]
    assert set(inner.captures) == {"h", "w", "e_in"}
    part = graph.keep(["outer"])
    assert set(part.inputs) == {"h", "c"}
    again = load(save(part, tmp_path / "cut")[0])
    assert_same(part, again)
    for flag, answer in ((True, [2, 3, 4]), (False, [0, 0, 0])):
        given = run(again, {"h": np.array([1, 2, 3], "f4"), "c": np.array(flag)}).tensors
        np.testing.assert_array_equal(given[again.producer("y")], np.array(answer, "f4"))


def function_model(path: Path, recursive: bool = False) -> Path:
    inner = [helper.make_node("Mul", ["a", "a"], ["s"], "square"), helper.make_node("Add", ["s", "b"], ["o"], "plus")]
    if recursive:
        inner[1] = helper.make_node("Fn", ["s", "b"], ["o"], "again", domain="my")
    other = helper.make_function("my", "Unused", ["a"], ["o"], [helper.make_node("Neg", ["a"], ["o"])],
                                 [helper.make_opsetid("", 17)])
    function = helper.make_function("my", "Fn", ["a", "b"], ["o"], inner,
                                    [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)])
    graph = helper.make_graph(
        [helper.make_node("Fn", ["x", "x"], ["h"], "call", domain="my"), helper.make_node("Neg", ["h"], ["y"], "neg")],
        "g", [helper.make_tensor_value_info("x", FLOAT, [2])], [helper.make_tensor_value_info("y", FLOAT, [2])],
    )
    model = helper.make_model(
        graph, functions=[function, other], ir_version=10,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("my", 1)],
    )
    path.write_bytes(model.SerializeToString())
    return path


def test_a_call_of_a_local_function_is_a_node_and_shows_the_body(tmp_path: Path) -> None:
    graph = load(function_model(tmp_path / "m.onnx"))
    call = graph["call"]
    assert (call.op_type, call.domain) == ("Fn", "my")
    assert [node.op_type for node in call.subgraphs["body"].nodes] == ["Mul", "Add"]
    assert call.captures == ()
    assert graph.spec("h").shape == (2,)
    kept = onnx.load(save(graph.keep(["call"]), tmp_path / "a")[0])
    assert [f.name for f in kept.functions] == ["Fn"]
    assert not onnx.load(save(graph.keep(["neg"]), tmp_path / "b")[0]).functions


def test_a_function_that_calls_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="calls itself"):
        load(function_model(tmp_path / "m.onnx", recursive=True))


def test_nodes_out_of_order_are_sorted_and_cycles_are_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["a"], ["y"], "last"), helper.make_node("Relu", ["x"], ["a"], "first")]
    graph = load(written(tmp_path / "m.onnx", nodes, [("x", FLOAT, [2])], [("y", FLOAT, [2])]))
    assert [node.name for node in graph.nodes] == ["first", "last"]
    assert "sorted" in graph.notes[0]
    nodes = [helper.make_node("Neg", ["b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    with pytest.raises(FormatError, match="cycle"):
        load(written(tmp_path / "c.onnx", nodes, [("x", FLOAT, [2])], [("b", FLOAT, [2])]))
    nodes = [helper.make_node("Neg", ["x"], ["a"]), helper.make_node("Relu", ["x"], ["a"])]
    with pytest.raises(FormatError, match="twice"):
        load(written(tmp_path / "d.onnx", nodes, [("x", FLOAT, [2])], [("a", FLOAT, [2])]))


def test_attributes_are_plain_values(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["k"], "k", value=numpy_helper.from_array(np.arange(6.0).reshape(2, 3)))
    conv = helper.make_node("Conv", ["x", "w"], ["y"], "conv", pads=[1, 1, 1, 1], auto_pad="NOTSET", group=1)
    graph = load(written(tmp_path / "m.onnx", [constant, conv], [("x", FLOAT, [1, 1, 4, 4])], [("y", FLOAT, None)],
                         {"w": np.ones((1, 1, 3, 3), "f4")}))
    assert graph["conv"].attrs == {"pads": (1, 1, 1, 1), "auto_pad": "NOTSET", "group": 1}
    np.testing.assert_array_equal(graph["k"].attrs["value"].numpy(), np.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize("kind", [
    "float16", "float64", "int8", "uint16", "bool", "complex64", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int4",
    "uint4", "float8_e4m3fnuz", "float4_e2m1fn",
])
def test_weights_of_every_dtype_decode_as_onnx_decodes_them(kind: str, tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 2, 4000) * 1.0
    array = values.astype(getattr(ml_dtypes, kind, kind)).reshape(40, 100)
    tensor = numpy_helper.from_array(array, "w")
    shape = helper.make_node("Shape", ["w"], ["s"])
    graph = helper.make_graph([shape], "g", [], [helper.make_tensor_value_info("s", INT64, [2])], [tensor])
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(graph, ir_version=10).SerializeToString())
    if kind in ("uint4", "float8_e4m3fnuz"):  # no row of the dtype table: larger weights of such types are refused
        with pytest.raises(FormatError, match="is of type"):
            load(path)
        return
    loaded = load(path)
    np.testing.assert_array_equal(loaded.weights["w"].numpy().astype("c16"), values.reshape(40, 100))
    assert_same(loaded, load(save(loaded, tmp_path / "out")[0]))


def test_typed_data_fields_and_texts_are_weights_too(tmp_path: Path) -> None:
    floats = helper.make_tensor("f", FLOAT, [500], np.arange(500.0))  # float_data, not raw_data
    texts = helper.make_tensor("t", TensorProto.STRING, [2], [b"a", b"b"])
    node = helper.make_node("Add", ["x", "f"], ["y"], "add")
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", FLOAT, [500])],
                              [helper.make_tensor_value_info("y", FLOAT, [500])], [floats, texts])
    (tmp_path / "m.onnx").write_bytes(helper.make_model(graph, ir_version=10).SerializeToString())
    loaded = load(tmp_path / "m.onnx")
    np.testing.assert_array_equal(loaded.weights["f"].numpy(), np.arange(500.0))
    assert loaded.weights["t"].dtype.name == "string"
    assert_same(loaded, load(save(loaded, tmp_path / "o")[0]))


def test_a_sparse_initializer_is_a_weight_with_zeros_filled_in(tmp_path: Path) -> None:
    values = numpy_helper.from_array(np.array([5, 7], "f4"), "w")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([1, 5])), [2, 3])
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"], "add")], "g",
                              [helper.make_tensor_value_info("x", FLOAT, [2, 3])],
                              [helper.make_tensor_value_info("y", FLOAT, [2, 3])], sparse_initializer=[sparse])
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    loaded = load(tmp_path / "m.onnx")
    np.testing.assert_array_equal(loaded.weights["w"].numpy(), [[0, 5, 0], [0, 0, 7]])
    assert loaded.inputs == ("x",)
    again = load(save(loaded, tmp_path / "o")[0])
    assert_same(loaded, again)
    given = run(again, {"x": np.ones((2, 3), "f4")}).tensors[again.producer("y")]
    np.testing.assert_array_equal(given, [[1, 6, 1], [1, 1, 8]])


def test_sequence_and_optional_values_do_not_crash(tmp_path: Path) -> None:
    tensor = helper.make_tensor_type_proto(FLOAT, [2])
    inputs = [helper.make_value_info("s", helper.make_sequence_type_proto(tensor)),
              helper.make_value_info("o", helper.make_optional_type_proto(tensor))]
    graph = helper.make_graph([helper.make_node("SequenceLength", ["s"], ["n"], "len"),
                               helper.make_node("OptionalHasElement", ["o"], ["h"], "has")], "g", inputs,
                              [helper.make_tensor_value_info("n", INT64, [])])
    (tmp_path / "m.onnx").write_bytes(helper.make_model(graph, ir_version=10).SerializeToString())
    loaded = load(tmp_path / "m.onnx")
    assert loaded.inputs == ("s", "o")
    assert loaded.spec("s").dtype is None
    assert_same(loaded, load(save(loaded, tmp_path / "o")[0]))


def test_behind_a_custom_operator_a_dtype_is_told_where_there_is_no_choice(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mystery", ["x"], ["a"], "mystery", domain="vendor"),
             helper.make_node("Conv", ["a", "w"], ["b"], "conv"), helper.make_node("Cast", ["b"], ["y"], to=FLOAT)]
    path = written(tmp_path / "m.onnx", nodes, [("x", FLOAT, [1, 3, 8, 8])], [("y", FLOAT, None)],
                   {"w": np.ones((2, 3, 3, 3), "f2")})
    graph = load(path)
    assert str(graph.spec("a").dtype) == "float16"  # a Conv's data has its weights' type
    assert graph.spec("a").shape is None
    part = load(save(graph.keep(["conv"]), tmp_path / "cut")[0])
    assert str(part.spec("a").dtype) == "float16"
    given = run(part, {"a": np.ones((1, 3, 3, 3), "f2")}).tensors[part.producer("b")]
    np.testing.assert_array_equal(given, np.full((1, 2, 1, 1), 27, "f2"))


def test_metadata_and_quantisation_annotations_survive(tmp_path: Path) -> None:
    model = onnx.load(chain(tmp_path / "m.onnx"))
    helper.set_model_props(model, {"author": "someone"})
    model.doc_string = "doc"
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.5, "f4"), "c_scale"))
    annotation = model.graph.quantization_annotation.add(tensor_name="c")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="c_scale")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    graph = load(tmp_path / "m.onnx")
    again = onnx.load(save(graph.keep(["conv", "relu"]), tmp_path / "o")[0])
    assert (again.doc_string, again.metadata_props[0].value) == ("doc", "someone")
    assert again.graph.quantization_annotation[0] == annotation
    assert "c_scale" in {tensor.name for tensor in again.graph.initializer}
    assert not onnx.load(save(graph.keep(["fc"]), tmp_path / "p")[0]).graph.quantization_annotation


def test_a_replaced_weight_is_written(tmp_path: Path) -> None:
    from dataclasses import replace

    from acccmp.core.tensor import TensorRef

    graph = load(chain(tmp_path / "m.onnx"))
    other = replace(graph, weights={**graph.weights, "m": TensorRef.of(np.zeros((576, 5), "f4")),
                                    "b": TensorRef.of(np.full(16, 9, "f4"))})
    again = load(save(other, tmp_path / "o")[0])
    assert not again.weights["m"].numpy().any()
    assert (again.weights["b"].numpy() == 9).all()
    np.testing.assert_array_equal(again.weights["w"].numpy(), graph.weights["w"].numpy())


# -- external data -----------------------------------------------------------------------------------------------


def test_external_weights_stay_in_their_file_until_they_are_read(tmp_path: Path) -> None:
    graph = load(external(tmp_path / "m.onnx"))
    inner = load(chain(tmp_path / "i.onnx"))
    for name, ref in graph.weights.items():
        assert Path(ref.path).name == "weights.bin"
        np.testing.assert_array_equal(ref.numpy(), inner.weights[name].numpy())


def test_external_weights_are_written_as_external_ones_and_run(tmp_path: Path) -> None:
    graph = load(external(tmp_path / "m.onnx"))
    part = graph.keep(["relu", "flat", "fc"])
    files = save(part, tmp_path / "out", "piece")
    assert [file.name for file in files] == ["piece.onnx", "piece.onnx.data"]
    assert files[1].stat().st_size == 576 * 5 * 4, "only the part's weights travel"
    again = load(files[0])
    assert_same(part, again)
    x = np.random.default_rng(0).standard_normal((2, 16, 6, 6)).astype("f4")
    given = run(again, {"c": x}).tensors[again.producer("y")]
    np.testing.assert_allclose(given, np.maximum(x, 0).reshape(2, -1) @ graph.weights["m"].numpy(), rtol=1e-4)
    np.testing.assert_array_equal(given, raw_run(files[0], {"c": x}, ("y",))[0])


def test_weights_that_no_longer_fit_into_one_file_go_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = load(chain(tmp_path / "m.onnx"))
    monkeypatch.setattr(onnx_file, "LARGEST_FILE", 4000)  # as if the model had 2 GB
    files = save(graph, tmp_path / "out")
    assert len(files) == 2
    assert files[0].stat().st_size < 4000
    assert_same(graph, load(files[0]))


def test_external_weights_inside_bodies_travel_too(tmp_path: Path) -> None:
    model = onnx.load(if_model(tmp_path / "m.onnx"))
    body = next(a.g for a in model.graph.node[1].attribute if a.name == "then_branch")
    body.initializer.append(numpy_helper.from_array(np.array([9, 8, 7], "f4"), "own"))
    body.node[0].input[1] = "own"
    onnx.external_data_helper.set_external_data(body.initializer[0], "b.bin")
    onnx.save_model(model, tmp_path / "m.onnx")
    (tmp_path / "b.bin").write_bytes(np.array([9, 8, 7], "<f4").tobytes())
    body.initializer[0].ClearField("raw_data")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    graph = load(tmp_path / "m.onnx")
    again = load(save(graph, tmp_path / "o")[0])
    own = again["outer"].subgraphs["then_branch"].weights["own"]
    np.testing.assert_array_equal(own.numpy(), [9, 8, 7])
    assert Path(own.path).parent == tmp_path / "o"


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "a/../../secret.bin", "C:\\x", "", "link.bin"])
def test_external_data_outside_the_models_folder_are_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(100000))
    home = tmp_path / "home"
    home.mkdir()
    os.symlink(tmp_path / "secret.bin", home / "link.bin")
    model = onnx.load(external(home / "m.onnx"), load_external_data=False)
    model.graph.initializer[0].external_data[0].value = location
    (home / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(FormatError, match="folder"):
        load(home / "m.onnx")


@pytest.mark.parametrize(("key", "value"), [("length", "12"), ("offset", "999999"), ("offset", "-4"), ("length", "x")])
def test_external_data_that_cannot_hold_the_weight_are_refused(key: str, value: str, tmp_path: Path) -> None:
    model = onnx.load(external(tmp_path / "m.onnx"), load_external_data=False)
    entry = next(e for e in model.graph.initializer[0].external_data if e.key == key)
    entry.value = value
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(FormatError):
        load(tmp_path / "m.onnx")


def test_a_model_whose_weights_are_missing_can_still_be_seen(tmp_path: Path) -> None:
    path = external(tmp_path / "m.onnx")
    (tmp_path / "weights.bin").unlink()
    graph = load(path)
    assert len(graph) == 4
    assert "weights.bin is missing" in graph.notes[0]
    with pytest.raises(FormatError, match=r"weights\.bin"):
        graph.weights["w"].numpy()
    with pytest.raises(FormatError, match=r"weights\.bin"):
        save(graph, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*")), "nothing half-written is left"


def test_a_model_is_never_written_over_the_one_it_comes_from(tmp_path: Path) -> None:
    graph = load(chain(tmp_path / "m.onnx"))
    with pytest.raises(InputError, match="another folder"):
        save(graph, tmp_path, "m")
    assert_same(graph, load(tmp_path / "m.onnx"))


# -- damage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "told"), [
    (lambda p: p.write_bytes(b""), "empty"),
    (lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"), "Git-LFS pointer"),
    (lambda p: p.write_text("hello, this is a readme"), "text file"),
    (lambda p: np.save(p.open("wb"), np.ones(3)), "npy array"),
    (lambda p: p.mkdir(), "folder without a model"),
    (lambda p: p.write_bytes(b"\xff" + np.random.default_rng(0).bytes(4096)), "neither a model nor a dump"),
], ids=["empty", "lfs", "text", "npy", "folder", "noise"])
def test_what_is_no_onnx_model_gets_one_clear_line(make: Callable[[Path], object], told: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    make(path)
    with pytest.raises((FormatError, InputError), match=told) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_model_that_is_cut_off_says_so(shared: Path, tmp_path: Path) -> None:
    whole = (shared / "onnx" / f"{YUNET}.onnx").read_bytes()
    for keep in (20, 100, 5000, len(whole) // 2, len(whole) - 1):
        (tmp_path / "m.onnx").write_bytes(whole[:keep])
        with pytest.raises(FormatError, match="cut off"):
            load(tmp_path / "m.onnx")


@settings(max_examples=150)
@given(st.data())
def test_damaged_bytes_are_a_format_error_or_another_model_but_never_a_crash(data: st.DataObject) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = chain(Path(folder) / "m.onnx")
        raw = bytearray(path.read_bytes())
        head = [p for p in range(len(raw)) if p < 400 or p > len(raw) - 400]
        for place in data.draw(st.lists(st.sampled_from(head), min_size=1, max_size=6)):
            raw[place] = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):
            del raw[data.draw(st.integers(0, len(raw))):]
        path.write_bytes(raw)
        told = ""
        try:
            graph = load(path)
            for ref in graph.weights.values():
                if ref.dtype.kind != "opaque":
                    ref.numpy()
        except (FormatError, InputError) as error:
            told = str(error)
        assert "\n" not in told
