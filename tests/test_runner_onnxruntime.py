"""All tensors in one run of ONNX Runtime, judged by raw sessions, onnx's reference and numpy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from acccmp.core.dump import Port
from acccmp.core.graph import Graph
from acccmp.errors import InputError, MissingExtra, RunError, UnknownName
from acccmp.inputs.files import random_inputs
from acccmp.models.load import load
from acccmp.runners.onnxruntime import checked_inputs, run

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64

# file -> tensors captured (inputs and every node output), tensors skipped
CAPTURED = {
    "Linzaer_Ultra-Light-Fast-Generic-Face-Detector-1MB__version-slim-320": (218, 0),
    "ShiqiYu_libfacedetection.train__yunet_n_320_320": (116, 0),
    "a-ircle_atlas200i-line-tracking-car__lanenet_epoch_122_batch_8_AUG": (463, 0),
    "microsoft_onnxruntime-inference-examples__mnist": (13, 0),
    # one operator of com.microsoft.extensions stands near its entrance: the constants and the input are left
    "microsoft_onnxruntime-inference-examples__pytorch_superresolution_with_pre_post_processing_op18": (29, 85),
    # its network is in the two bodies of an If
    "snakers4_silero-vad__silero_vad_op18_ifless": (8, 92),
}
RUNNABLE = [name for name in CAPTURED if "superresolution" not in name]


def raw_session(model: str | bytes) -> object:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def feeds_for(graph: Graph) -> dict[str, np.ndarray]:
    if "silero" not in graph.name:
        return random_inputs(graph, 1)
    feeds = random_inputs(graph, 1, {"input": (1, 576), "state": (2, 1, 128)})
    return {**feeds, "sr": np.array(16000)}


def model(path: Path, nodes: list, inputs: list, outputs: list, weights: dict[str, np.ndarray] | None = None,
          opsets: tuple = (("", 18),)) -> Graph:
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(*i) for i in inputs],
        [helper.make_tensor_value_info(*o) for o in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid(*o) for o in opsets], ir_version=10)
    path.write_bytes(proto.SerializeToString())
    return load(path)


@pytest.mark.parametrize("name", CAPTURED, ids=lambda name: name[:24])
def test_every_tensor_of_every_real_model_is_captured_or_has_a_reason(name: str, shared: Path) -> None:
    graph = load(shared / "onnx" / f"{name}.onnx")
    captured = run(graph, feeds_for(graph))
    assert (len(captured), len(captured.skipped)) == CAPTURED[name]
    asked = {tensor for node in graph.nodes for tensor in node.outputs if tensor}
    got = {graph.tensor(port) for port in captured.tensors} - set(graph.inputs)
    assert got <= asked
    assert asked - got <= captured.skipped.keys()
    places = [graph.depth.get(port.node, -1) for port in captured.tensors]
    assert places == sorted(places), "in the order of execution, inputs first"


@pytest.mark.parametrize("name", RUNNABLE, ids=lambda name: name[:24])
def test_asking_for_all_tensors_does_not_move_the_outputs(name: str, shared: Path) -> None:
    path = shared / "onnx" / f"{name}.onnx"
    graph = load(path)
    feeds = feeds_for(graph)
    captured = run(graph, feeds).tensors
    session = raw_session(str(path))
    for output, array in zip(session.get_outputs(), session.run(None, feeds), strict=True):
        np.testing.assert_array_equal(captured[graph.producer(output.name)], array)


@pytest.mark.parametrize("name", RUNNABLE, ids=lambda name: name[:24])
def test_what_was_inferred_of_a_tensor_is_what_the_run_gives(name: str, shared: Path) -> None:
    graph = load(shared / "onnx" / f"{name}.onnx")
    sizes: dict[str, int] = {}
    static = 0
    for port, array in run(graph, feeds_for(graph)).tensors.items():
        spec = graph.spec(graph.tensor(port))
        assert spec.dtype is not None
        assert spec.dtype.numpy == array.dtype
        static += spec.is_static
        assert spec.shape is not None, f"{port}: older exporters compute the shapes with nodes; they are followed"
        assert len(spec.shape) == array.ndim
        for dim, size in zip(spec.shape, array.shape, strict=True):
            if isinstance(dim, str):
                assert sizes.setdefault(dim, size) == size
            elif dim is not None:
                assert dim == size, port
    assert static or "silero" in name or "lanenet" in name


@pytest.mark.parametrize("name", [n for n in RUNNABLE if "mnist" in n or "yunet" in n], ids=lambda name: name[:24])
def test_inner_tensors_agree_with_onnx_own_reference(name: str, shared: Path) -> None:
    path = shared / "onnx" / f"{name}.onnx"
    graph = load(path)
    feeds = feeds_for(graph)
    if "yunet" in name:  # the reference is slow: a third of the network is enough
        graph = graph.keep([node.name for node in graph.nodes[:40]])
    captured = run(graph, feeds).tensors
    proto = onnx.load(path)
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=t) for n in graph.nodes for t in n.outputs)
    names = [value.name for value in proto.graph.output]
    for node in [n for n in proto.graph.node if not set(n.output) & set(names)]:
        proto.graph.node.remove(node)
    answers = ReferenceEvaluator(proto).run(names, feeds)
    for tensor, answer in zip(names, answers, strict=True):
        largest = np.abs(answer).max()
        np.testing.assert_allclose(captured[graph.producer(tensor)], answer, rtol=1e-3, atol=1e-3 * largest)


def test_only_what_is_wanted_is_run(shared: Path) -> None:
    graph = load(shared / "onnx" / f"{RUNNABLE[1]}.onnx")
    feeds = feeds_for(graph)
    all_of_them = run(graph, feeds).tensors
    wanted = graph.nodes[7].outputs[0]
    captured = run(graph, feeds, [wanted])
    assert list(captured.tensors) == [Port("input", "output", 0), graph.producer(wanted)]
    np.testing.assert_array_equal(captured[graph.producer(wanted)], all_of_them[graph.producer(wanted)])
    with pytest.raises(UnknownName, match="no tensor named"):
        run(graph, feeds, ["nothing like it"])


# -- what onnxruntime does not have ------------------------------------------------------------------------------


def custom(path: Path) -> Graph:
    """x -> Relu -> Mystery (vendor) -> Neg; x -> Abs -> Add(k) stands beside it."""
    return model(
        path,
        [helper.make_node("Relu", ["x"], ["r"], "relu"),
         helper.make_node("Mystery", ["r"], ["m"], "mystery", domain="com.vendor"),
         helper.make_node("Neg", ["m"], ["n"], "neg"), helper.make_node("Abs", ["x"], ["a"], "abs"),
         helper.make_node("Add", ["a", "k"], ["s"], "add"), helper.make_node("Sub", ["n", "s"], ["y"], "sub")],
        [("x", FLOAT, [3])], [("y", FLOAT, [3]), ("s", FLOAT, [3])], {"k": np.ones(3, "f4")},
        (("", 18), ("com.vendor", 1)),
    )


def test_a_custom_operator_stops_only_what_lies_below_it(tmp_path: Path) -> None:
    graph = custom(tmp_path / "m.onnx")
    x = np.array([-1, 0, 2], "f4")
    captured = run(graph, {"x": x})
    assert [port.node for port in captured.tensors] == ["x", "relu", "abs", "add"]
    np.testing.assert_array_equal(captured[Port("add", "output", 0)], np.abs(x) + 1)
    assert captured.skipped.keys() == {"m", "n", "y"}
    assert "com.vendor.Mystery mystery" in captured.skipped["m"]
    assert captured.skipped["y"].startswith("below com.vendor.Mystery mystery")
    assert "com.vendor.Mystery" in captured.notes[0]


def test_where_nothing_can_be_computed_the_custom_operator_is_named(tmp_path: Path) -> None:
    graph = custom(tmp_path / "m.onnx")
    with pytest.raises(RunError, match=r"nothing of what is wanted.*com\.vendor\.Mystery"):
        run(graph, {"x": np.ones(3, "f4")}, ["y"])
    part = graph.keep(["neg", "sub"])  # a cut below it runs
    given = run(part, {"m": np.ones(3, "f4"), "s": np.ones(3, "f4")}).tensors
    np.testing.assert_array_equal(given[Port("sub", "output", 0)], [-2, -2, -2])


def test_several_missing_operators_are_found_one_after_the_other(tmp_path: Path) -> None:
    nodes = [helper.make_node(f"Op{i}", ["x"], [f"t{i}"], f"n{i}", domain=f"d{i % 2}") for i in range(5)]
    graph = model(tmp_path / "m.onnx", [*nodes, helper.make_node("Neg", ["x"], ["y"], "neg")], [("x", FLOAT, [2])],
                  [("y", FLOAT, [2])], opsets=(("", 18), ("d0", 1), ("d1", 1)))
    captured = run(graph, {"x": np.ones(2, "f4")})
    assert list(captured.tensors) == [Port("x", "output", 0), Port("neg", "output", 0)]
    assert set(captured.skipped) == {f"t{i}" for i in range(5)}


def test_an_unknown_operator_inside_a_body_stops_its_owner(tmp_path: Path) -> None:
    def body(op: str, domain: str = "") -> onnx.GraphProto:
        return helper.make_graph([helper.make_node(op, ["x"], ["b" + op], domain=domain)], op, [],
                                 [helper.make_tensor_value_info("b" + op, FLOAT, [2])])

    graph = model(
        tmp_path / "m.onnx",
        [helper.make_node("If", ["c"], ["i"], "if", then_branch=body("Neg"), else_branch=body("Odd", "d")),
         helper.make_node("Abs", ["x"], ["y"], "abs")],
        [("x", FLOAT, [2]), ("c", TensorProto.BOOL, [])], [("y", FLOAT, [2]), ("i", FLOAT, [2])],
        opsets=(("", 18), ("d", 1)),
    )
    captured = run(graph, {"x": np.ones(2, "f4"), "c": np.array(True)})
    assert [port.node for port in captured.tensors] == ["x", "c", "abs"]
    assert "i" in captured.skipped


def test_an_operator_that_lacks_a_kernel_for_its_types_is_a_frontier_too(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], "conv64"), helper.make_node("Neg", ["x"], ["y"], "neg")]
    double = TensorProto.DOUBLE
    graph = model(tmp_path / "m.onnx", nodes, [("x", double, [1, 1, 4, 4])], [("c", double, None), ("y", double, None)],
                  {"w": np.ones((1, 1, 3, 3))})
    captured = run(graph, {"x": np.ones((1, 1, 4, 4))})
    assert [port.node for port in captured.tensors] == ["x", "neg"]
    assert captured.skipped["c"].startswith("Conv conv64")


def test_a_failure_while_running_names_the_node(tmp_path: Path) -> None:
    graph = model(tmp_path / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"], "the_matmul")],
                  [("x", FLOAT, ["a", "b"])], [("y", FLOAT, None)], {"w": np.ones((3, 2), "f4")})
    with pytest.raises(RunError, match="the_matmul") as caught:
        run(graph, {"x": np.ones((2, 5), "f4")})
    assert "\n" not in str(caught.value)


def test_a_newer_ir_version_than_onnxruntime_knows_is_no_obstacle(tmp_path: Path) -> None:
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"], "neg")], "g",
                              [helper.make_tensor_value_info("x", FLOAT, [2])],
                              [helper.make_tensor_value_info("y", FLOAT, [2])])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=99)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    captured = run(load(tmp_path / "m.onnx"), {"x": np.ones(2, "f4")})
    np.testing.assert_array_equal(captured[Port("neg", "output", 0)], [-1, -1])


# -- kinds of values ---------------------------------------------------------------------------------------------


def test_types_that_numpy_lacks_come_home_exactly(tmp_path: Path) -> None:
    x = np.linspace(-3, 3, 50).astype("f4")
    kinds = {"bfloat16": ml_dtypes.bfloat16, "float8e4m3fn": ml_dtypes.float8_e4m3fn,
             "float8e5m2": ml_dtypes.float8_e5m2, "float16": np.float16}
    nodes = [helper.make_node("Cast", ["x"], [f"{k}_out"], k, to=getattr(TensorProto, k.upper())) for k in kinds]
    graph = model(tmp_path / "m.onnx", nodes, [("x", FLOAT, [50])], [("bfloat16_out", TensorProto.BFLOAT16, [50])],
                  opsets=(("", 19),))
    captured = run(graph, {"x": x})
    for kind, numpy_type in kinds.items():
        array = captured[Port(kind, "output", 0)]
        assert array.dtype == numpy_type
        np.testing.assert_array_equal(array.astype("f4"), x.astype(numpy_type).astype("f4"))


def test_a_bfloat16_input_is_fed(tmp_path: Path) -> None:
    graph = model(tmp_path / "m.onnx", [helper.make_node("Cast", ["x"], ["y"], "cast", to=FLOAT)],
                  [("x", TensorProto.BFLOAT16, [3])], [("y", FLOAT, [3])])
    values = np.array([1, -2.5, 3e38], "f4").astype(ml_dtypes.bfloat16)
    for fed in (values, values.astype("f4")):
        np.testing.assert_array_equal(run(graph, {"x": fed})[Port("cast", "output", 0)], values.astype("f4"))
    with pytest.raises(InputError, match="bfloat16"):
        run(graph, {"x": np.array([1.001, 0, 0], "f4")})


def test_sequences_and_texts_are_skipped_with_a_reason(tmp_path: Path) -> None:
    nodes = [helper.make_node("SplitToSequence", ["x"], ["seq"], "split", axis=0),
             helper.make_node("SequenceLength", ["seq"], ["n"], "len"),
             helper.make_node("Cast", ["x"], ["txt"], "text", to=TensorProto.STRING)]
    graph = model(tmp_path / "m.onnx", nodes, [("x", FLOAT, [3])], [("n", INT64, [])])
    captured = run(graph, {"x": np.ones(3, "f4")})
    assert [port.node for port in captured.tensors] == ["x", "len"]
    assert captured[Port("len", "output", 0)] == 3
    assert "seq(tensor(float))" in captured.skipped["seq"]
    assert "txt" in captured.skipped


def test_absent_outputs_and_several_outputs(tmp_path: Path) -> None:
    graph = model(tmp_path / "m.onnx", [helper.make_node("Unique", ["x"], ["u", "", "", "count"], "unique")],
                  [("x", FLOAT, [4])], [("count", INT64, [None])])
    captured = run(graph, {"x": np.array([7, 9, 3, 7], "f4")})
    assert list(captured.tensors) == [Port("x", "output", 0), Port("unique", "output", 0), Port("unique", "output", 3)]
    np.testing.assert_array_equal(captured[Port("unique", "output", 3)], [1, 2, 1])


def test_weights_in_a_file_beside_the_model_are_used(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((300, 7)).astype("f4")
    model(tmp_path / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"], "fc")], [("x", FLOAT, [2, 300])],
          [("y", FLOAT, [2, 7])], {"w": weight})
    proto = onnx.load(tmp_path / "m.onnx")
    onnx.save_model(proto, tmp_path / "e.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    x = np.random.default_rng(1).standard_normal((2, 300)).astype("f4")
    inner, outer = (run(load(tmp_path / f"{n}.onnx"), {"x": x})[Port("fc", "output", 0)] for n in "me")
    np.testing.assert_array_equal(inner, outer)
    np.testing.assert_allclose(inner, x.astype("f8") @ weight, rtol=1e-3, atol=1e-3)


# -- inputs ------------------------------------------------------------------------------------------------------


def two_inputs(path: Path) -> Graph:
    return model(path, [helper.make_node("Add", ["x", "z"], ["y"], "add")],
                 [("x", FLOAT, ["n", 3]), ("z", FLOAT, ["n", 3])], [("y", FLOAT, ["n", 3])])


@pytest.mark.parametrize(("inputs", "told"), [
    ({"x": np.ones((2, 3), "f4")}, "also needs the input z"),
    ({"x": np.ones((2, 3), "f4"), "zz": np.ones((2, 3), "f4")}, "did you mean z"),
    ({"x": np.ones((2, 4), "f4"), "z": np.ones((2, 3), "f4")}, "shape 2x4, wanted is nx3"),
    ({"x": np.ones((6,), "f4"), "z": np.ones((2, 3), "f4")}, "shape 6, wanted is nx3"),
    ({"x": np.ones((2, 3), "f4"), "z": np.ones((5, 3), "f4")}, "'n' is 2 in the input x, and 5 in z"),
    ({"x": np.ones((2, 3), "f8"), "z": np.ones((2, 3), "f4")}, "is float64, wanted is float32"),
    ({"x": np.ones((2, 3), "i4"), "z": np.ones((2, 3), "f4")}, "is int32, wanted is float32"),
    ({"x": np.array([["a"] * 3]), "z": np.ones((1, 3), "f4")}, "wanted is float32"),
], ids=["missing", "unknown", "size", "rank", "symbol", "narrower", "kind", "text"])
def test_a_wrong_input_is_one_clear_line(inputs: dict, told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told):
        run(two_inputs(tmp_path / "m.onnx"), inputs)


def test_a_wider_dtype_takes_a_narrower_input_and_scalars_stay_scalars(tmp_path: Path) -> None:
    graph = model(tmp_path / "m.onnx", [helper.make_node("Neg", ["x"], ["y"], "neg")], [("x", FLOAT, [])],
                  [("y", FLOAT, [])])
    fed = checked_inputs(graph, {"x": np.float16(2)})
    assert (fed["x"].dtype, fed["x"].shape) == (np.float32, ())
    assert run(graph, {"x": np.float16(2)})[Port("neg", "output", 0)] == -2


# -- the package -------------------------------------------------------------------------------------------------


def test_a_missing_onnxruntime_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = two_inputs(tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match=r"pip install 'acccmp\[ort\]'"):
        run(graph, {"x": np.ones((1, 3), "f4"), "z": np.ones((1, 3), "f4")})


def test_telemetry_is_off_and_nothing_heavy_is_loaded_before_it_is_needed() -> None:
    code = (
        "import sys, acccmp.runners.onnxruntime, acccmp.runners.run, acccmp.inputs.files, acccmp.models.onnx; "
        "heavy = {'onnx', 'onnxruntime', 'google.protobuf', 'networkx', 'PIL'} & set(sys.modules); "
        "import os; acccmp.runners.onnxruntime.onnxruntime(); "
        "print(sorted(heavy), os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] 1"


def test_models_behind_links_run_as_caches_keep_them(tmp_path: Path) -> None:
    """A cache that keeps files by their hash, and names as links to them: weights inside and outside of the model."""
    weights = np.arange(600, dtype=np.float32).reshape(300, 2)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "mul")], "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 300])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])], [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    blobs, names = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    names.mkdir(parents=True)
    onnx.save(model, blobs / "1a2b")
    onnx.save(model, names / "out.onnx", save_as_external_data=True, location="out.data", size_threshold=0)
    (names / "out.onnx").rename(blobs / "3c4d")
    (names / "out.data").rename(blobs / "5e6f")
    for name, blob in (("in.onnx", "1a2b"), ("out.onnx", "3c4d"), ("out.data", "5e6f")):
        (names / name).symlink_to(blobs / blob)
    x = np.ones((1, 300), np.float32)
    for name in ("in.onnx", "out.onnx"):
        found = run(load(names / name), {"x": x}).tensors[Port("mul", "output", 0)]
        np.testing.assert_array_equal(found, x @ weights)
