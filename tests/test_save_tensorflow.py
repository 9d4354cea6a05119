"""Parts of TensorFlow graphs, written and read again: the same Graph, and the same numbers when run alone."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_graphs import (
    FC,
    FLOAT,
    HH,
    LOOP_NODES,
    MTCNN,
    Calls,
    F,
    Kind,
    X,
    assert_same,
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

import acccmp
from acccmp.core.graph import Graph
from acccmp.errors import InputError, SliceError
from acccmp.models.tensorflow import load, save
from acccmp.schemas import tensorflow_pb2 as schema


def written(part: Graph, folder: Path) -> Graph:
    (path,) = save(part, folder, "part")
    assert [entry.name for entry in folder.iterdir() if "part" in entry.name] == ["part.pb"]
    return load(path)


def cut(graph: Graph, start: str | list[str], end: str | list[str], **options: Any) -> set[str]:
    """The nodes of a slice."""
    return {one.name for one in acccmp.slice_model(graph, start, end, **options).graph.nodes}


def message(path: Path) -> Any:
    return schema.GraphDef.FromString(path.read_bytes())


@pytest.mark.parametrize("file", [HH, MTCNN, FC])
def test_a_whole_graph_written_and_read_again_is_the_same(shared: Path, tmp_path: Path, file: str) -> None:
    graph = load(shared / "tensorflow" / file)
    again = written(graph, tmp_path)
    assert_same(graph, again)
    assert [one.name for one in again.nodes] == [one.name for one in graph.nodes]
    assert (again.inputs, again.outputs) == (graph.inputs, graph.outputs)
    assert dict(again.tensors) == dict(graph.tensors)
    before, after = message(shared / "tensorflow" / file), message(tmp_path / "part.pb")
    assert {n.name: n for n in before.node} == {n.name: n for n in after.node}
    assert (before.versions, before.library) == (after.versions, after.library)


@pytest.mark.parametrize("file", [HH, FC])
def test_random_cuts_run_alone_and_give_the_whole_models_numbers(
    tf: Any, shared: Path, tmp_path: Path, file: str,
) -> None:
    graph = load(shared / "tensorflow" / file)
    draw = random.Random(17)
    shape = [n or 3 for n in graph.spec(graph.inputs[0]).shape or ()]
    golden = values(graph, {graph.inputs[0]: np.random.default_rng(3).random(shape, np.float32)})
    names = [one.name for one in graph.nodes]
    for _ in range(30):
        first, last = sorted(draw.sample(range(len(names)), 2))
        part = graph.keep(name for name in names[first : last + 1] if draw.random() < 0.9)
        again = written(part, tmp_path)
        assert_same(part, again)
        got = values(again, {tensor: golden[tensor] for tensor in again.inputs})
        assert set(part.outputs) <= got.keys()
        for tensor, array in got.items():
            assert np.array_equal(array, golden[tensor]), tensor


def test_random_cuts_of_a_graph_with_loops_are_the_same_or_refused(shared: Path, tmp_path: Path) -> None:
    graph = load(shared / "tensorflow" / MTCNN)
    draw = random.Random(23)
    names = [one.name for one in graph.nodes]
    counts: Counter[str] = Counter()
    for _ in range(60):
        first, last = sorted(draw.sample(range(len(names)), 2))
        part = graph.keep(names[first : last + 1])
        try:
            again = written(part, tmp_path)
        except SliceError as error:
            counts[next(word for word in ("V1 loop", "V1 cond", "TensorArray", "handle") if word in str(error))] += 1
        else:
            assert_same(part, again)
            counts["same"] += 1
    assert counts["same"] > 10
    assert counts["V1 loop"] > 10


def test_an_output_that_is_not_the_first_keeps_its_name(tf: Any, tmp_path: Path) -> None:
    graph = load(write(
        tmp_path / "g.pb", placeholder("x", 2, 4), const("axis", np.int32(1)),
        node("split", "Split", "axis", "x", num_split=2, T=F), node("split_1", "Neg", "split:1", T=F),
        node("y", "Sub", "split", "split:1", T=F), node("z", "Add", "split_1", "y", T=F),
    ))
    golden = values(graph, {"x": X})
    part = graph.keep(["split_1", "y", "z"])
    assert part.inputs == ("split:1", "split:0")
    again = written(part, tmp_path)
    assert_same(part, again)
    made = {one.name: one for one in message(tmp_path / "part.pb").node if one.op == "Placeholder"}
    assert made.keys() == {"split", "split_1_2"}  # split_1 is another node's name
    assert made["split_1_2"].attr["_acccmp_tensor"].s == b"split:1"
    assert made["split_1_2"].attr["shape"].shape.dim[1].size == 2
    got = values(again, {tensor: golden[tensor] for tensor in part.inputs})
    assert all(np.array_equal(got[tensor], golden[tensor]) for tensor in ("split_1:0", "y:0", "z:0"))
    smaller = written(again.keep(["split_1", "z"]), tmp_path)  # a cut of a cut
    assert set(smaller.inputs) == {"split:1", "y:0"}
    assert np.array_equal(values(smaller, {"split:1": golden["split:1"], "y:0": golden["y:0"]})["z:0"], golden["z:0"])


def test_control_edges_and_placement_hints_that_lead_out_are_dropped(tf: Any, tmp_path: Path) -> None:
    hinted = node("b", "Neg", "a", "^check", "^a", T=F)
    hinted.attr["_class"].list.s.extend([b"loc:@gone", b"loc:@a", b"other"])
    graph = load(write(
        tmp_path / "g.pb", placeholder("x", 2, 4), const("gone", np.float32(1)), node("check", "NoOp", "^gone"),
        node("a", "Relu", "x", T=F), hinted, node("c", "Neg", "b", "^check", T=F),
    ))
    again = written(graph.keep(["a", "b", "c"]), tmp_path)
    assert (again["b"].control, again["c"].control) == (("a",), ())
    kept = next(one for one in message(tmp_path / "part.pb").node if one.name == "b")
    assert list(kept.attr["_class"].list.s) == [b"loc:@a", b"other"]
    assert np.array_equal(values(again, {"x:0": X})["c:0"], np.maximum(X, 0))


def test_constants_travel_even_when_their_nodes_were_left_behind(tf: Any, tmp_path: Path) -> None:
    weights = np.random.default_rng(1).random((4, 300), np.float32)
    graph = load(write(
        tmp_path / "g.pb", placeholder("x", 2, 4), const("w", weights), const("unread", weights),
        node("y", "MatMul", "x", "w", T=F, transpose_a=False, transpose_b=False),
    ))
    part = graph.keep(["x", "y"])
    assert part.inputs == ("x:0",)
    again = written(part, tmp_path)
    assert sorted((one.name, one.op_type) for one in again.nodes) == [
        ("w", "Const"), ("x", "Placeholder"), ("y", "MatMul")]
    assert np.array_equal(again.weights["w:0"].numpy(), weights)
    assert np.array_equal(values(again, {"x": X})["y:0"], values(graph, {"x": X})["y:0"])


def test_only_the_functions_that_are_used_go_along(tf: Any, tmp_path: Path) -> None:
    def body(name: str, *nodes: Any) -> Any:
        return function(name, {"z": FLOAT}, {"r": (FLOAT, "n:output:0" if nodes else "n:y:0")},
                        *(nodes or [node("n", "Neg", "z", T=F)]))

    def call(name: str, of: str, *inputs: str) -> Any:
        return node(name, "PartitionedCall", *inputs, f=Calls(of), Tin=[F], Tout=[F], config="", config_proto="",
                    executor_type="")

    made = graph_def(
        placeholder("x", 2, 4), call("one", "outer", "x"), call("two", "other", "one"), node("y", "Neg", "two", T=F),
        functions=[body("outer", call("n", "inner", "z")), body("inner"), body("other"), body("unused")],
    )
    made.library.gradient.add(function_name="inner", gradient_func="unused")
    path = tmp_path / "g.pb"
    path.write_bytes(made.SerializeToString())
    graph = load(path)
    again = written(graph.keep(["one"]), tmp_path)
    assert again.meta["functions"] == ("outer", "inner", "unused")  # unused is the gradient of inner
    assert_same(graph.keep(["one"]), again)
    assert np.array_equal(values(again, {"x:0": X})["one:0"], -X)
    assert written(graph.keep(["two"]), tmp_path).meta["functions"] == ("other",)
    assert written(graph.keep(["y"]), tmp_path).meta["functions"] == ()


def test_outputs_that_something_inside_reads_too_are_remembered(tmp_path: Path) -> None:
    graph = load(write(
        tmp_path / "g.pb", placeholder("x", 2, 4), node("a", "Relu", "x", T=F), node("b", "Neg", "a", T=F),
        node("c", "Neg", "b", T=F),
    ))
    part = graph.keep(["a", "b"], ["a:0", "b:0"])
    again = written(part, tmp_path)
    assert again.outputs == ("a:0", "b:0")
    assert dict(again["a"].attrs) == dict(graph["a"].attrs)
    assert written(again.keep(["b"]), tmp_path).outputs == ("b:0",)


def test_an_old_scalar_input_stays_a_scalar(tmp_path: Path) -> None:
    graph = load(write(
        tmp_path / "g.pb", placeholder("x", 2), const("axis", np.array([0], np.int32)), node(
            "s", "Sum", "x", "axis", T=F, keep_dims=False), node("y", "Neg", "s", T=F), producer=20))
    again = written(graph.keep(["y"]), tmp_path)
    assert again.spec("s:0").shape == graph.spec("s:0").shape == ()


# -- loops and conds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [
    LOOP_NODES - {"loop/Exit"}, {"loop/add", "loop/Next_1"}, {"loop/Enter_1"}, LOOP_NODES - {"loop/LoopCond"},
    {"loop/Exit", "y"}, LOOP_NODES - {"loop/limit"}, {"a", "loop/same"}, {"loop/one", "loop/count"},
])
def test_a_cut_through_a_v1_loop_is_refused_by_name(tmp_path: Path, kept: set[str]) -> None:
    graph = load(write(tmp_path / "loop.pb", *loop()))
    with pytest.raises(SliceError, match=r"V1 loop 'loop/frame': 'loop/\w+'"):
        save(graph.keep(kept), tmp_path, "part")
    assert not (tmp_path / "part.pb").exists()


def test_cuts_around_a_v1_loop_work(tf: Any, tmp_path: Path) -> None:
    graph = load(write(tmp_path / "loop.pb", *loop()))
    golden = values(graph, {"x": X})
    for kept in (LOOP_NODES | {"zero"}, LOOP_NODES | {"a", "y", "zero", "two"}, {"a", "two"}, {"y"}, LOOP_NODES):
        part = graph.keep(kept)
        again = written(part, tmp_path)
        assert_same(part, again)
        got = values(again, {tensor: golden[tensor] for tensor in again.inputs})
        ends = [tensor for tensor in ("a:0", "loop/Exit:0", "y:0") if tensor in part.outputs]
        assert ends
        assert all(np.array_equal(got[tensor], golden[tensor]) for tensor in ends)


def test_a_slice_that_passes_a_loop_takes_the_whole_loop(tf: Any, tmp_path: Path) -> None:
    graph = load(write(tmp_path / "loop.pb", *loop()))
    part = acccmp.slice_model(graph, "a", "y")
    assert {one.name for one in part.graph.nodes} == {"a", "two", "zero", "y"} | LOOP_NODES
    assert (part.graph.inputs, part.graph.outputs) == (("x:0",), ("y:0",))
    assert any("V1 loops and conds are taken whole" in line and "loop/Less" in line for line in part.log)
    made = part.save(tmp_path / "out", inputs={"x:0": X})
    assert made.manifest.self_test.status == "passed"
    assert np.array_equal(values(load(made.path / "dump.pb"), {"x:0": X})["y:0"], -8 * X)
    assert cut(graph, "y", "y") == {"y"}
    assert cut(graph, "a", "a") == {"a", "two"}


def test_a_slice_may_begin_at_a_loops_enters_and_end_at_its_exits_but_not_between(tf: Any, tmp_path: Path) -> None:
    graph = load(write(tmp_path / "loop.pb", *loop()))
    for start, end in (("loop/Enter_1", "loop/Exit"), ("loop/same", "y"), ("a", "loop/Exit")):
        part = acccmp.slice_model(graph, start, end)
        assert part.save(tmp_path / "out", inputs={"x:0": X}).manifest.self_test.status == "passed"
        assert {one.name for one in part.graph.nodes} >= LOOP_NODES
    with pytest.raises(SliceError, match=r"start 'loop/add' lies inside the V1 loop 'loop/frame'.*start at what goes"):
        acccmp.slice_model(graph, "loop/add", "y")
    with pytest.raises(SliceError, match=r"end 'loop/add' lies inside the V1 loop 'loop/frame'.*end at what leaves"):
        acccmp.slice_model(graph, "a", "loop/add")
    around = acccmp.slice_model(graph, around="loop/add", radius=1)
    assert {one.name for one in around.graph.nodes} - {"a", "two", "zero"} == LOOP_NODES
    assert around.graph.outputs == ("loop/Exit:0",)


def test_a_cut_between_the_branches_of_a_v1_cond_is_refused(tf: Any, tmp_path: Path) -> None:
    graph = load(write(tmp_path / "cond.pb", *cond()))
    for kept in ({"cond/Merge", "y"}, {"cond/square", "cond/Merge"}, {"cond/less", "cond/one", "cond/Merge", "y"}):
        with pytest.raises(SliceError, match=r"V1 cond: 'cond/Merge'"):
            save(graph.keep(kept), tmp_path, "part")
    golden = values(graph, {"x": X - 20})
    part = graph.keep({"cond/then", "cond/square", "cond/one", "cond/negative", "cond/less", "cond/Merge", "y"})
    again = written(part, tmp_path)  # without the pivots, whose constant is read by a dead op anyway
    assert set(again.inputs) == {"above:0", "x:0"}
    assert np.array_equal(values(again, {"x:0": X - 20, "above:0": np.array(False)})["y:0"], golden["y:0"])


def test_a_slice_that_passes_a_cond_takes_both_branches(tf: Any, tmp_path: Path) -> None:
    graph = load(write(tmp_path / "cond.pb", *cond()))
    both = {"cond/then", "cond/square", "cond/negative", "cond/one", "cond/less", "cond/switch_f", "cond/Switch"}
    assert cut(graph, "cond/square", "y") == both | {"cond/Merge", "y"}
    assert cut(graph, "x", "cond/square") == {"x", "axes", "sum", "limit", "above", "cond/then", "cond/square"}
    for feed in (X - 20, X + 20):
        made = acccmp.slice_model(graph, "cond/square", "y").save(tmp_path / "out", inputs={"x:0": feed})
        assert made.manifest.self_test.status == "passed"


def test_a_cond_in_a_cond_needs_the_outer_switch_too(tf: Any, tmp_path: Path) -> None:
    """y = (x * 2 where its largest is above 2, else x * 3) where p, else -x."""
    b = Kind(schema.DT_BOOL)
    graph = load(write(
        tmp_path / "g.pb", placeholder("x", 2, 4), placeholder("p", kind=schema.DT_BOOL),
        placeholder("q", kind=schema.DT_BOOL), const("two", np.float32(2)), const("three", np.float32(3)),
        node("out/x", "Switch", "x", "p", T=F), node("out/q", "Switch", "q", "p", T=b),
        node("in/x", "Switch", "out/x:1", "out/q:1", T=F),
        node("in/double", "Mul", "in/x:1", "two", T=F), node("in/treble", "Mul", "in/x", "three", T=F),
        node("in/Merge", "Merge", "in/treble", "in/double", T=F, N=2), node("out/neg", "Neg", "out/x", T=F),
        node("out/Merge", "Merge", "in/Merge", "out/neg", T=F, N=2), node("y", "Identity", "out/Merge", T=F),
    ))
    inner = {"in/x", "in/double", "in/treble", "in/Merge", "two", "three"}
    outer = {"out/x", "out/q", "out/neg", "out/Merge"}
    written(graph.keep(inner), tmp_path)  # the inner one alone is whole
    with pytest.raises(SliceError, match=r"'out/Merge'.*'in/Merge:0'"):
        save(graph.keep(inner | {"out/neg", "out/Merge", "y"}), tmp_path)
    assert cut(graph, "in/double", "out/Merge") == inner | outer
    again = written(graph.keep(inner | outer | {"y"}), tmp_path)
    for p, q, wanted in ((True, True, X * 2), (True, False, X * 3), (False, True, -X), (False, False, -X)):
        feeds = {"x:0": X, "p:0": np.array(p), "q:0": np.array(q)}
        assert np.array_equal(values(again, feeds)["y:0"], wanted)
        assert np.array_equal(values(graph, feeds)["y:0"], wanted)


def test_a_constant_branch_needs_its_switch(tmp_path: Path) -> None:
    nodes = [one for one in cond() if one.name not in ("cond/less", "cond/Merge", "cond/negative")]
    merge = node("cond/Merge", "Merge", "cond/one", "cond/square", T=F, N=2)
    graph = load(write(tmp_path / "g.pb", *nodes, merge))
    with pytest.raises(SliceError, match=r"the Switch above 'cond/one:0'"):
        save(graph.keep({"cond/then", "cond/square", "cond/one", "cond/Merge"}), tmp_path)


def test_random_slices_of_a_real_model_with_loops_conds_and_arrays_give_its_numbers(shared: Path) -> None:
    pytest.importorskip("tensorflow")
    from benchmarks.slices import tally_model

    tally = tally_model(shared / "tensorflow" / MTCNN, None, 10, seed=2)
    assert (tally.equal, tally.bad, dict(tally.refused)) == (10, [], {})
    assert tally.grown > 3


def test_a_cut_between_what_fills_and_what_reads_an_array_is_refused(shared: Path, tmp_path: Path) -> None:
    graph = load(shared / "tensorflow" / MTCNN)
    with pytest.raises(SliceError, match=r"TensorArray: 'pnet/TensorArrayConcatV3' .* above 'pnet/while/Exit_2:0'"):
        save(graph.keep(["pnet/TensorArray", "pnet/TensorArrayConcatV3"]), tmp_path)


# -- what cannot be an input -------------------------------------------------------------------------------------


def test_handles_variables_and_unknown_types_cannot_be_inputs(tmp_path: Path) -> None:
    graph = load(write(
        tmp_path / "g.pb", placeholder("x", 2), node("list", "EmptyTensorList", element_dtype=F),
        node("push", "TensorListPushBack", "list", "x", element_dtype=F), node("odd", "Quirk", "x"),
        node("y", "Neg", "odd", T=F), node("v", "VarHandleOp", dtype=F), node("r", "ReadVariableOp", "v", dtype=F),
    ))
    with pytest.raises(SliceError, match=r"list:0 cannot become an input: it is a handle \(variant\)"):
        save(graph.keep(["push"]), tmp_path)
    assert cut(graph, "push", "push") == {"list", "push"}
    with pytest.raises(SliceError, match="odd:0 cannot become an input: its dtype is not known"):
        save(graph.keep(["y"]), tmp_path)
    with pytest.raises(SliceError, match=r"reads variables \(v\).*freeze"):
        save(graph.keep(["v", "r"]), tmp_path)
    with pytest.raises(SliceError, match="onnx graph"):
        save(Graph("m", "onnx", ()), tmp_path)


def test_a_folder_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    graph = load(write(tmp_path / "g.pb", placeholder("x", 2), node("y", "Neg", "x", T=F)))
    (tmp_path / "dump.pb").mkdir()  # os.replace cannot put a file over a folder
    with pytest.raises(InputError, match="cannot be written: a folder is there"):
        save(graph, tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["dump.pb", "g.pb"]


@given(st.data())
def test_any_part_of_any_plain_graph_is_the_same_when_read_again(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject,
) -> None:
    """Random graphs of ops with one to three outputs, random parts of them."""
    folder = tmp_path_factory.mktemp("any")
    nodes = [placeholder("x", -1, 6), const("axis", np.int32(1))]
    tensors = ["x"]
    for index in range(data.draw(st.integers(1, 8))):
        name, source = f"scope_{index % 3}/n{index}", data.draw(st.sampled_from(tensors))
        kind = data.draw(st.sampled_from(["Relu", "Add", "Split", "Const"]))
        if kind == "Split":
            nodes.append(node(name, "Split", "axis", source, num_split=3, T=F))
            tensors += [name, f"{name}:1", f"{name}:2"]
        elif kind == "Const":
            nodes.append(const(name, np.full((1, 300), index, np.float32)))
            tensors.append(name)
        else:
            inputs = [source] if kind == "Relu" else [source, data.draw(st.sampled_from(tensors))]
            waits = data.draw(st.lists(st.sampled_from([one.name for one in nodes]), max_size=2, unique=True))
            nodes.append(node(name, kind, *inputs, *(f"^{before}" for before in waits), T=F))
            tensors.append(name)
    graph = load(write(folder / "g.pb", *nodes))
    kept = data.draw(st.sets(st.sampled_from([one.name for one in graph.nodes]), min_size=1))
    part = graph.keep(kept)
    again = written(part, folder)
    assert_same(part, again)
    assert_same(again, written(again, folder))
