"""TensorFlow files into Graphs, without TensorFlow."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import networkx
import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_graphs import (
    BOOL,
    FC,
    FLOAT,
    HH,
    INT32,
    LOOP_NODES,
    MTCNN,
    Calls,
    F,
    Kind,
    Sizes,
    cond,
    const,
    function,
    graph_def,
    loop,
    node,
    placeholder,
    write,
)

import acccmp
from acccmp.errors import FormatError
from acccmp.models.tensorflow import load
from acccmp.schemas import tensorflow_pb2 as schema


# (nodes, edges of data, edges of control, inputs, outputs); the counts are those of TensorFlow's own importer
@pytest.mark.parametrize(("name", "facts"), [
    (HH, (68, 70, 0, ["input:0"], ["generation/output:0"])),
    (MTCNN, (894, 1088, 249, ["input:0", "min_size:0", "thresholds:0", "factor:0"],
             ["prob:0", "landmarks:0", "box:0"])),
    (FC, (24, 23, 0, ["X:0"], ["output:0"])),
])
def test_real_graphs_load_whole(shared: Path, name: str, facts: tuple[object, ...]) -> None:
    graph = load(shared / "tensorflow" / name)
    control = sum(1 for *_, edge in graph.nx.edges(data=True) if edge["tensor"] is None)
    assert (len(graph), graph.nx.number_of_edges() - control, control, list(graph.inputs), sorted(graph.outputs)) == (
        *facts[:4], sorted(facts[4]))  # type: ignore[call-overload]


def test_every_edge_of_a_real_graph_carries_its_shape(shared: Path) -> None:
    graph = load(shared / "tensorflow" / HH)
    shapes = {edge["tensor"]: edge["shape"] for *_, edge in graph.nx.edges(data=True)}
    assert shapes["recognition/d_h1/Conv2D:0"] == (100, 14, 14, 16)
    assert shapes["Reshape:0"] == (100, 28, 28, 1)
    assert graph.spec("generation/output:0").shape == (100, 28, 28, 1)
    assert all(spec.is_static and spec.dtype is not None for spec in graph.tensors.values())


def test_nhwc_stays_nhwc(shared: Path) -> None:
    graph = load(shared / "tensorflow" / HH)
    tensors = ("Reshape:0", "recognition/d_h1/Conv2D:0", "recognition/lrelu/add:0")
    layouts = {graph.spec(tensor).layout for tensor in tensors}
    assert layouts == {"NHWC"}
    assert graph.spec("recognition/d_h1/w:0").layout == "HWCN"
    assert graph.spec("recognition/w_mean/MatMul:0").layout is None


def test_loading_imports_no_tensorflow(shared: Path) -> None:
    code = (
        "import sys, json; from acccmp.models.tensorflow import load\n"
        "before = 'google.protobuf' in sys.modules\n"
        f"graph = load({str(shared / 'tensorflow' / HH)!r}); graph.weights['recognition/d_h1/w:0'].numpy()\n"
        "print(json.dumps([len(graph), before, 'tensorflow' in sys.modules, 'onnx' in sys.modules]))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert json.loads(said) == [68, False, False, False]


def test_text_and_binary_are_the_same_graph(tmp_path: Path) -> None:
    nodes = [placeholder("x", 1, 4), const("w", np.ones((4, 300), np.float32)), node("m", "MatMul", "x", "w", T=F)]
    binary = load(write(tmp_path / "g.pb", *nodes))
    text = tmp_path / "g.pbtxt.pb"
    text.write_text("# a graph\n" + text_format.MessageToString(graph_def(*nodes)))
    again = load(text)
    assert [(n.name, n.op_type, n.inputs, dict(n.attrs)) for n in again.nodes] == [
        (n.name, n.op_type, n.inputs, dict(n.attrs)) for n in binary.nodes]
    assert np.array_equal(again.weights["w:0"].numpy(), binary.weights["w:0"].numpy())


def test_text_from_a_newer_tensorflow_still_loads(tmp_path: Path) -> None:
    path = tmp_path / "new.pb"
    path.write_text(
        'node { name: "DT_OLD" op: "Placeholder" attr { key: "dtype" value { type: DT_FLOAT } } new_field: 3 }\n'
        'node { name: "b" op: "Thing" input: "DT_OLD" attr { key: "T" value { type: DT_FLOAT3_E9 } }\n'
        '  attr { key: "L" value { list { type: [DT_FLOAT, DT_X9] } } } }\n'
    )
    graph = load(path)
    assert [one.name for one in graph.nodes] == ["DT_OLD", "b"]
    assert graph["b"].attrs["L"][0] == "float32"
    assert "DT_FLOAT3_E9" in graph.notes[0]
    assert "DT_OLD" not in graph.notes[0]


def test_large_constants_stay_in_the_file(tmp_path: Path) -> None:
    values = np.arange(1000, dtype=np.float32).reshape(10, 100)
    path = write(tmp_path / "g.pb", placeholder("x", 1, 10), const("w", values), node("m", "MatMul", "x", "w", T=F))
    ref = load(path).weights["w:0"]
    assert ref.array is None
    assert path.read_bytes()[ref.offset : ref.offset + ref.nbytes] == values.tobytes()
    assert np.array_equal(ref.numpy(), values)


LISTED = [
    ("DT_FLOAT", "float_val", [1.5, 2.5], np.array([1.5, 2.5, 2.5, 2.5], np.float32)),
    ("DT_DOUBLE", "double_val", [0.1], np.full(4, 0.1)),
    ("DT_INT8", "int_val", [-3, 7, 1, 2], np.array([-3, 7, 1, 2], np.int8)),
    ("DT_UINT16", "int_val", [65535], np.full(4, 65535, np.uint16)),
    ("DT_INT64", "int64_val", [-1, 1 << 40], np.array([-1, 1 << 40, 1 << 40, 1 << 40])),
    ("DT_UINT64", "uint64_val", [1 << 63], np.full(4, 1 << 63, np.uint64)),
    ("DT_UINT32", "uint32_val", [1 << 31], np.full(4, 1 << 31, np.uint32)),
    ("DT_BOOL", "bool_val", [True, False], np.array([True, False, False, False])),
    ("DT_HALF", "half_val", [0x3C00, 0xC000], np.array([1, -2, -2, -2], np.float16)),
    ("DT_BFLOAT16", "half_val", [0x3F80, 0x7F80], np.array([1, np.inf, np.inf, np.inf], np.float32)),
    ("DT_COMPLEX64", "scomplex_val", [1, 2], np.full(4, 1 + 2j, np.complex64)),
    ("DT_COMPLEX128", "dcomplex_val", [0, -1, 3, 0], np.array([-1j, 3, 3, 3])),
    ("DT_FLOAT8_E5M2", "float8_val", b"\x3c\xbc", np.array([1, -1, -1, -1], np.float32)),
    ("DT_INT32", "int_val", [], np.zeros(4, np.int32)),
]


@pytest.mark.parametrize(("kind", "field", "listed", "wanted"), LISTED, ids=[row[0] + "-" + row[1] for row in LISTED])
def test_a_short_list_of_values_goes_on_with_its_last(
    tmp_path: Path, kind: str, field: str, listed: object, wanted: np.ndarray,
) -> None:
    made = node("c", "Const", dtype=Kind(schema.DataType.Value(kind)))
    tensor = made.attr["value"].tensor
    tensor.dtype = schema.DataType.Value(kind)
    tensor.tensor_shape.dim.add(size=4)
    if isinstance(listed, bytes):
        setattr(tensor, field, listed)
    else:
        getattr(tensor, field).extend(listed)
    values = load(write(tmp_path / "c.pb", made)).weights["c:0"].numpy()
    assert values.dtype == wanted.dtype
    assert np.array_equal(values, wanted)


def test_one_value_for_a_million_million_elements_takes_no_memory(tmp_path: Path) -> None:
    made = node("c", "Const", dtype=F)
    tensor = made.attr["value"].tensor
    tensor.dtype = FLOAT
    tensor.float_val.append(2.0)
    for _ in range(2):
        tensor.tensor_shape.dim.add(size=1 << 20)
    ref = load(write(tmp_path / "c.pb", made)).weights["c:0"]
    assert ref.shape == (1 << 20, 1 << 20)
    assert ref.read((slice(5, 6), slice(0, 3))).tolist() == [[2.0, 2.0, 2.0]]
    tensor.tensor_shape.dim.add(size=1 << 20)
    with pytest.raises(FormatError, match=r"'c'.*claims"):
        load(write(tmp_path / "c.pb", made))


def test_a_constant_whose_bytes_do_not_fit_its_shape_is_refused(tmp_path: Path) -> None:
    made = const("c", np.zeros(4, np.float32))
    made.attr["value"].tensor.tensor_content = bytes(15)
    with pytest.raises(FormatError, match=r"'c'.*needs 16 bytes.*has 15"):
        load(write(tmp_path / "c.pb", made))


def test_control_edges_order_nodes_and_carry_no_tensor(tmp_path: Path) -> None:
    graph = load(write(
        tmp_path / "g.pb",
        node("late", "Identity", "x", "^check", "^check", T=F), node("check", "Assert", "ok", "x"), placeholder("x", 2),
        const("ok", np.array(True)), node("group", "NoOp", "^late"), const("left_over", np.float32(1)),
        node("end", "Relu", "late", T=F),
    ))
    assert graph["late"].control == ("check",)
    assert graph.depth["check"] < graph.depth["late"]
    assert graph.nx.edges["check", "late", ("^", "check")] == {"tensor": None, "control": True, "shape": None}
    assert graph["check"].outputs == ()
    assert graph.outputs == ("end:0",)


def test_a_placeholder_with_default_is_an_input_only_when_there_is_no_other(tmp_path: Path) -> None:
    zeros = const("d", np.zeros(2, np.float32))
    default = [zeros, node("p", "PlaceholderWithDefault", "d", dtype=F, shape=Sizes((2,)))]
    sum_ = node("s", "Add", "x", "p", T=F)
    assert load(write(tmp_path / "a.pb", placeholder("x", 2), *default, sum_)).inputs == ("x:0",)
    assert load(write(tmp_path / "b.pb", *default, node("s", "Relu", "p", T=F))).inputs == ("p:0",)


def test_an_old_placeholder_without_sizes_has_unknown_rank(tmp_path: Path) -> None:
    assert load(write(tmp_path / "g.pb", placeholder("x"), producer=21)).spec("x:0").shape is None
    assert load(write(tmp_path / "g.pb", placeholder("x"), producer=27)).spec("x:0").shape == ()


def test_outputs_of_ops_that_have_several(tmp_path: Path) -> None:
    graph = load(write(
        tmp_path / "g.pb", placeholder("x", 2, 6), const("axis", np.int32(1)), const("k", np.int32(2)),
        node("split", "Split", "axis", "x", num_split=3, T=F), node("top", "TopKV2", "split:2", "k", T=F),
        node("own", "MyOp", "x", T=F), node("reads", "Identity", "own:2", T=F), node("all", "IdentityN", "x", "k", T=[
            Kind(FLOAT), Kind(INT32)]),
    ))
    assert {n.name: len(n.outputs) for n in graph.nodes if n.op_type not in ("Const", "Placeholder")} == {
        "split": 3, "top": 2, "own": 3, "reads": 1, "all": 2}
    assert graph.spec("split:1").shape == (2, 2)
    assert [str(graph.spec(f"top:{i}").dtype) for i in (0, 1)] == ["float32", "int32"]
    assert [str(graph.spec(f"all:{i}").dtype) for i in (0, 1)] == ["float32", "int32"]
    assert graph.spec("own:0").shape is None


def test_the_body_of_a_called_function_is_a_sub_graph(tmp_path: Path) -> None:
    inner = function(
        "inner", {"z": FLOAT}, {"r": (FLOAT, "moments:batch_mean:0")},
        node("one", "Const", dtype=F, value=np.ones(2, np.float32)), node("add", "AddV2", "z", "one:output:0", T=F),
        node("moments", "FusedBatchNormV3", "add:z:0", "z", "z", "z", "z", T=F, U=F), node("after", "NoOp", "^add"),
    )
    outer = function("outer", {"q": FLOAT}, {"r": (FLOAT, "call:output:0")},
                     node("call", "PartitionedCall", "q", f=Calls("inner"), Tin=[F], Tout=[F]))
    graph = load(write(
        tmp_path / "g.pb", placeholder("x", 2), node("top", "StatefulPartitionedCall", "x", f=Calls("outer"), Tout=[F]),
        functions=[outer, inner],
    ))
    body = graph["top"].subgraphs["f"]
    assert (body.inputs, body.outputs, [n.name for n in body.nodes]) == (("q",), ("call:0",), ["call"])
    deep = body["call"].subgraphs["f"]
    assert deep["add"].inputs == ("z", "one:0")
    assert deep.outputs == ("moments:1",)  # batch_mean is the second output
    assert len(deep["moments"].outputs) == 6
    assert deep.weights["one:0"].numpy().tolist() == [1, 1]
    assert graph.meta["functions"] == ("outer", "inner")


def test_a_function_that_calls_itself_does_not_run_for_ever(tmp_path: Path) -> None:
    again = function("f", {"z": FLOAT}, {"r": (FLOAT, "call:output:0")},
                     node("call", "PartitionedCall", "z", f=Calls("f"), Tout=[F]))
    graph = load(write(tmp_path / "g.pb", placeholder("x"), node("top", "f", "x"), functions=[again]))
    assert [n.name for n in graph["top"].subgraphs["op"].nodes] == ["call"]


def test_a_function_that_reads_what_is_not_there_is_refused(tmp_path: Path) -> None:
    broken = function("f", {"z": FLOAT}, {"r": (FLOAT, "a:y:0")}, node("a", "Relu", "gone:y:0", T=F))
    with pytest.raises(FormatError, match=r"function 'f'.*'gone'"):
        load(write(tmp_path / "g.pb", placeholder("x"), node("top", "f", "x"), functions=[broken]))


def test_a_v1_loop_is_ordered_and_its_frame_is_told(tmp_path: Path) -> None:
    graph = load(write(tmp_path / "loop.pb", *loop()))
    assert {n.name for n in graph.nodes if n.attrs.get("frame") == "loop/frame"} == LOOP_NODES
    assert graph.meta["frames"] == ("loop/frame",)
    assert not networkx.is_directed_acyclic_graph(graph.nx)  # the way back is an edge like any other
    assert graph.nx.has_edge("loop/Next_1", "loop/Merge_1")
    for one in graph.nodes:
        for tensor in one.inputs:
            made_by = graph.producer(tensor)
            assert made_by is not None
            assert graph.depth[made_by.node] < graph.depth[one.name] or one.op_type == "Merge"
    assert graph.outputs == ("y:0",)
    assert "loop/Exit" not in graph.constants  # the loop's own value begins fixed and varies by what comes back


def test_what_a_loop_carries_back_varies(tmp_path: Path) -> None:
    nodes = loop()
    nodes[5].input[0] = "two_by_two"  # v begins as a constant, and grows by a in each round
    graph = load(write(tmp_path / "loop.pb", const("two_by_two", np.full((1, 4), 2, np.float32)), *nodes))
    assert "two_by_two" in graph.constants
    assert not {"loop/Merge_1", "loop/Exit", "y"} & graph.constants


def test_loops_in_loops_and_conds_have_their_frames(tmp_path: Path) -> None:
    enter = {"T": F, "is_constant": False}
    graph = load(write(
        tmp_path / "g.pb", placeholder("x", 2), node("o", "Enter", "x", frame_name="outer", **enter),
        node("i", "Enter", "o", frame_name="inner", **enter), node("r", "Relu", "i", T=F), node("ix", "Exit", "r", T=F),
        node("s", "Relu", "ix", T=F), node("ox", "Exit", "s", T=F), node("y", "Relu", "ox", T=F),
    ))
    assert {n.name: n.attrs.get("frame") for n in graph.nodes} == {
        "x": None, "o": "outer", "i": "inner", "r": "inner", "ix": "inner", "s": "outer", "ox": "outer", "y": None}
    assert graph.source.around == {"inner": "outer"}
    conditional = load(write(tmp_path / "c.pb", *cond()))
    assert conditional.outputs == ("y:0",)  # not the pivots that branches hang on
    assert conditional.meta["frames"] == ()


def test_a_placeholder_can_stand_for_an_output_that_is_not_the_first(tmp_path: Path) -> None:
    stands = placeholder("split_1", 2, 3)
    stands.attr["_acccmp_tensor"].s = b"split:1"
    graph = load(write(tmp_path / "g.pb", stands, node("y", "Relu", "split_1", T=F)))
    assert graph["y"].inputs == ("split:1",)
    assert graph.inputs == ("split:1",)
    real = [placeholder("x", 2, 6), const("axis", np.int32(1)), node("split", "Split", "axis", "x", num_split=2, T=F)]
    taken = load(write(tmp_path / "h.pb", *real, stands, node("y", "Add", "split_1", "split:1", T=F)))
    assert taken["y"].inputs == ("split_1:0", "split:1")  # the name is another tensor's here


def test_a_saved_model_takes_its_ends_from_the_signature(tmp_path: Path) -> None:
    saved = schema.SavedModel(saved_model_schema_version=1)
    for tag, op in (("train", "Neg"), ("serve", "Relu")):
        meta = saved.meta_graphs.add()
        meta.meta_info_def.tags.append(tag)
        meta.graph_def.CopyFrom(graph_def(
            placeholder("x", -1, 300), const("w", np.ones((300, 2), np.float32)), node("m", "MatMul", "x", "w", T=F),
            node("y", op, "m", T=F), node("loss", "Square", "y", T=F), placeholder("file_name", kind=7),
        ))
        signature = meta.signature_def["serving_default"]
        signature.inputs["a"].name, signature.outputs["b"].name = "x:0", "y:0"
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(saved.SerializeToString())
    graph = load(folder)
    assert (graph["y"].op_type, graph.inputs, graph.outputs, graph.name) == ("Relu", ("x:0",), ("y:0",), "model")
    assert graph.weights["w:0"].array is None
    assert graph.weights["w:0"].numpy().sum() == 600
    assert "2 graphs" in graph.notes[0]
    text = tmp_path / "saved_model.pbtxt"
    text.write_text(text_format.MessageToString(saved))
    assert load(text).outputs == load(folder / "saved_model.pb").outputs == ("y:0",)


# -- shapes ------------------------------------------------------------------------------------------------------


def test_a_reshape_to_a_computed_shape_is_known_as_far_as_it_is(tmp_path: Path) -> None:
    """The usual flatten: shape(x)[0] packed with -1."""
    graph = load(write(
        tmp_path / "g.pb", placeholder("x", -1, 3, 5), node("shape", "Shape", "x", T=F, out_type=Kind(INT32)),
        const("b", np.array([0], np.int32)), const("e", np.array([1], np.int32)), const("s", np.array([1], np.int32)),
        node("n", "StridedSlice", "shape", "b", "e", "s", shrink_axis_mask=1, T=Kind(INT32), Index=Kind(INT32)),
        const("rest", np.int32(15)), node("to", "Pack", "n", "rest", N=2, axis=0, T=Kind(INT32)),
        node("flat", "Reshape", "x", "to", T=F), const("two", np.array([2, -1], np.int32)),
        node("other", "Reshape", "flat", "two", T=F),
    ))
    assert graph.spec("flat:0").shape == (None, 15)
    assert graph.spec("other:0").shape == (2, None)
    assert graph.spec("n:0").shape == ()


def test_arithmetic_with_sizes_is_followed_as_far_as_they_are_known(tmp_path: Path) -> None:
    """Half of the known sizes, multiplied out, behind an open batch: [?, 4 * (6 // 2)]."""
    ints = {"T": Kind(INT32)}
    graph = load(write(
        tmp_path / "g.pb", placeholder("x", -1, 4, 6), node("shape", "Shape", "x", T=F, out_type=Kind(INT32)),
        const("i0", np.array([0], np.int32)), const("i1", np.array([1], np.int32)), const("two", np.int32(2)),
        const("axis", np.int32(0)), const("last", np.array([2], np.int32)), const("all", np.array([-1], np.int32)),
        node("batch", "Slice", "shape", "i0", "i1", Index=Kind(INT32), **ints),
        node("rest", "Slice", "shape", "i1", "all", Index=Kind(INT32), **ints),
        node("high", "GatherV2", "shape", "i1", "axis", Tparams=Kind(INT32), Tindices=Kind(INT32)),
        node("wide", "GatherV2", "shape", "last", "axis", Tparams=Kind(INT32), Tindices=Kind(INT32)),
        node("half", "FloorDiv", "wide", "two", **ints), node("count", "Mul", "high", "half", **ints),
        node("whole", "Prod", "rest", "i0", **ints), node("one", "ExpandDims", "whole", "axis", **ints),
        node("to", "ConcatV2", "batch", "count", "axis", N=2, **ints),
        node("flat_to", "ConcatV2", "batch", "one", "axis", N=2, **ints),
        node("halved", "Reshape", "x", "to", T=F), node("flat", "Reshape", "x", "flat_to", T=F),
    ))
    assert graph.spec("halved:0").shape == (None, 12)
    assert graph.spec("flat:0").shape == (None, 24)


@given(
    st.integers(1, 12), st.integers(1, 4), st.integers(1, 3), st.integers(1, 2), st.sampled_from(["SAME", "VALID"]),
    st.sampled_from(["NHWC", "NCHW"]),
)
def test_sizes_after_a_window_are_those_of_a_loop_that_slides_it(
    size: int, window: int, stride: int, dilation: int, padding: str, layout: str,
) -> None:
    from acccmp.models.tensorflow_shapes import Call, _convolution

    reach = (window - 1) * dilation + 1
    places = len(range(0, size, stride)) if padding == "SAME" else len(range(0, size - reach + 1, stride))
    first = layout == "NCHW"
    attrs = {
        "strides": (1, 1, stride, stride) if first else (1, stride, stride, 1),
        "dilations": (1, 1, dilation, dilation) if first else (1, dilation, dilation, 1),
        "padding": padding, "data_format": layout,
    }
    shape = (2, 3, size, size) if first else (2, size, size, 3)
    out = _convolution(Call("Conv2D", attrs, (shape, (window, window, 3, 8)), (None, None)))
    assert out == ((2, 8, places, places) if first else (2, places, places, 8))


def test_an_op_that_nobody_knows_keeps_its_shape_unknown(tmp_path: Path) -> None:
    nodes = [placeholder("x", 2, 3), node("q", "Quirk", "x", T=F), node("r", "Relu", "q", T=F)]
    graph = load(write(tmp_path / "g.pb", *nodes))
    assert graph.spec("q:0").shape is None
    assert graph.spec("r:0").shape is None


def test_shapes_that_were_written_down_are_used(tmp_path: Path) -> None:
    odd = node("q", "Quirk", "x", T=F)
    odd.attr["_output_shapes"].list.shape.add().dim.add(size=7)
    assert load(write(tmp_path / "g.pb", placeholder("x", 2), odd)).spec("q:0").shape == (7,)


# -- what is no graph --------------------------------------------------------------------------------------------


def test_other_files_are_named_in_one_line(tmp_path: Path) -> None:
    for content, words in (
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "Git-LFS pointer"),
        (bytes.fromhex("0801 0801 1001 4a0400000000"), "one tensor in ONNX's format"),
        (b"Dear reader,\n", "a text file that is no model"),
        (b"\0" * 100 + bytes.fromhex("57fb808b247547db"), "checkpoint"),
        (b'model_checkpoint_path: "model"\n', "checkpoint"),
        (b"PK\x03\x04rest", "no zip archive"),
        (b"\x1c\0\0\0TFL3" + bytes(50), "TensorFlow Lite"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"", "empty"),
        (b"node { name: ", "damaged"),
        (b"\xff\xff\xff\xff\xff", "its name is that of a TensorFlow model"),
    ):
        path = tmp_path / "given.pb"
        path.write_bytes(content)
        with pytest.raises(FormatError, match=words) as caught:
            acccmp.load(path)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(str(path))


def test_a_folder_or_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"saved_model\.pb"):
        load(tmp_path)
    with pytest.raises(FormatError, match="cannot be read"):
        load(tmp_path / "none.pb")
    (tmp_path / "v.data-00000-of-00001").write_bytes(bytes(64))
    with pytest.raises(FormatError, match="checkpoint"):
        acccmp.load(tmp_path / "v.data-00000-of-00001")


def test_what_no_graph_can_be_is_said(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"two nodes are named 'a'"):
        load(write(tmp_path / "g.pb", placeholder("a"), placeholder("a")))
    with pytest.raises(FormatError, match="circle"):
        load(write(tmp_path / "g.pb", node("a", "Relu", "b"), node("b", "Relu", "a")))


def test_a_count_of_outputs_that_fills_the_memory_is_refused(tmp_path: Path) -> None:
    many = [node(f"s{i}", "Split", num_split=1 << 16) for i in range(50)]
    with pytest.raises(FormatError, match="'b' reads 'a:999999'"):
        load(write(tmp_path / "g.pb", placeholder("a"), *many, node("b", "Relu", "a:999999")))
    with pytest.raises(FormatError, match="more than 4000000 tensors"):
        load(write(tmp_path / "g.pb", *[node(f"s{i}", "Split", num_split=1 << 40) for i in range(99)]))


def test_an_edge_to_nowhere_names_both_ends(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"node 'b' reads 'a:1', but there is no node 'a'"):
        load(write(tmp_path / "g.pb", node("b", "Relu", "a:1")))


def test_a_truncated_file_says_so_or_is_still_whole(tmp_path: Path, shared: Path) -> None:
    whole = (shared / "tensorflow" / FC).read_bytes()
    path = tmp_path / "cut.pb"
    draw = random.Random(5)
    for length in (len(whole) - 1, len(whole) // 2, 100, 3, *draw.sample(range(1, len(whole)), 40)):
        path.write_bytes(whole[:length])
        with suppress(FormatError):  # else: cut between two nodes, and nothing that is left reads what is gone
            assert len(load(path)) <= 24
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FormatError, match=r"truncated after node '.+' \(\d+ read\)"):
        load(path)


def test_damaged_bytes_give_our_errors_and_no_others(tmp_path: Path) -> None:
    nodes = [*loop(), *[n for n in cond() if n.name not in ("x", "y")]]
    whole = graph_def(*nodes, functions=[function(
        "f", {"z": FLOAT}, {"r": (FLOAT, "a:y:0")}, node("a", "Relu", "z", T=F))]).SerializeToString()
    draw = random.Random(7)
    path = tmp_path / "damaged.pb"
    refused = 0
    for _ in range(400):
        raw = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            raw[draw.randrange(len(raw))] = draw.randrange(256)
        path.write_bytes(raw)
        try:
            assert len(load(path)) > 0
        except FormatError:
            refused += 1
    assert refused > 100


def test_bools_and_shapes_among_the_attributes(tmp_path: Path) -> None:
    graph = load(write(tmp_path / "g.pb", placeholder("p", -1, 3, kind=BOOL)))
    assert dict(graph["p"].attrs) == {"dtype": "bool", "shape": (None, 3)}
