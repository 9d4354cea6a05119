"""What real devices do and samples do not: ops without a task, numbers of another kind, random ops, dirt in padding."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import device_models as dm
import networkx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from test_slicing import run_cli

import acccmp
from acccmp.core import layout as layouts
from acccmp.core.dump import Dump, DumpedOp, Port
from acccmp.core.graph import Graph
from acccmp.core.tensor import TensorRef
from acccmp.reports.pair import Verdict

RANDOM = np.random.default_rng(5)


def saved(path: Path, nodes: list[Any], inputs: dict[str, tuple[int, ...]], outputs: list[str], **types: int) -> Graph:
    """An ONNX model without weights."""
    def info(name: str, shape: tuple[int, ...] | None) -> Any:
        return helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), shape)

    graph = helper.make_graph(
        nodes, "net", [info(name, shape) for name, shape in inputs.items()], [info(name, None) for name in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, path)
    return acccmp.load(path)


def half(tensors: dict[str, np.ndarray]) -> Dump:
    """A device dump; floats are float16."""
    stored = {
        name: array.astype(np.float16) if array.dtype.kind == "f" else array for name, array in tensors.items()
    }
    return dm.npu(stored)


# -- an op without a task of its own -----------------------------------------------------------------------------


def test_a_concat_over_its_producers_buffers_is_listed_and_not_missed(tmp_path: Path) -> None:
    """The compiler marks it `_no_task`; nothing is dumped for it."""
    graph = saved(tmp_path / "net.onnx", [
        helper.make_node("Relu", ["x"], ["a"], "left"), helper.make_node("Abs", ["x"], ["b"], "right"),
        helper.make_node("Concat", ["a", "b"], ["c"], "concat", axis=1), helper.make_node("Neg", ["c"], ["y"], "neg"),
    ], {"x": (2, 3)}, ["y"])
    x = RANDOM.standard_normal((2, 3)).astype(np.float32)
    ops = [
        dm.op("x", "Data", (), [dm.out(dtype="DT_FLOAT")], index=0),
        dm.op("left", "Relu", ["x:0"], [dm.out("left")], ("left",)),
        dm.op("right", "Abs", ["x:0"], [dm.out("right")], ("right",)),
        dm.op("concat", "ConcatD", ["left:0", "right:0"], [dm.out("concat")], ("concat",), _no_task=True),
        dm.op("neg", "Neg", ["concat:0"], [dm.out("neg")], ("neg",)), dm.op("end", "NetOutput", ["neg:0"]),
    ]
    a, b = np.maximum(x, 0), np.abs(x)
    dump = half({"left": a, "right": b, "neg": -np.concatenate([a, b], 1)})
    report = acccmp.compare(graph, dump, mapping=dm.mapping(*ops), inputs={"x": x})
    assert report["concat"].verdict is Verdict.FUSED
    assert report["concat"].reason == "has no task of its own: its data lie in the buffers of left, right"
    assert report.coverage == 1
    assert report.exit_code == 0
    ops[3] = dm.op("concat", "ConcatD", ["left:0", "right:0"], [dm.out("concat")], ("concat",))
    missed = acccmp.compare(graph, dump, mapping=dm.mapping(*ops), inputs={"x": x})
    assert missed["concat"].verdict is Verdict.NO_NPU
    assert missed.exit_code == 3


# -- numbers of another kind -------------------------------------------------------------------------------------


def logic(path: Path) -> Graph:
    """mask = x > y as bool, where = the places of x's largest as int64."""
    return saved(path, [
        helper.make_node("Greater", ["x", "y"], ["mask"], "greater"),
        helper.make_node("ArgMax", ["x"], ["where"], "argmax", axis=1, keepdims=0),
    ], {"x": (4, 5000), "y": (4, 5000)}, ["mask", "where"], mask=TensorProto.BOOL, where=TensorProto.INT64)


def feeds() -> dict[str, np.ndarray]:
    x, y = (RANDOM.standard_normal((4, 5000)).astype(np.float32) for _ in range(2))
    x[0, 1000] = x[1, 12] = x[2, 2048] = x[3, 4100] = 9
    return {"x": x, "y": y}


def test_bools_as_bytes_and_indices_as_float16_are_compared_by_value(tmp_path: Path) -> None:
    graph, given = logic(tmp_path / "net.onnx"), feeds()
    mask, where = given["x"] > given["y"], given["x"].argmax(1)
    dump = half({"greater": mask.astype(np.uint8), "argmax": where.astype(np.float32)})
    report = acccmp.compare(graph, dump, inputs=given)
    assert report["greater"].verdict is Verdict.MATCH
    assert report["argmax"].verdict is Verdict.MATCH
    assert report.passed
    assert any("int64 is float16 on the NPU: compared by value" in note for note in report["argmax"].notes)


@pytest.mark.parametrize(("wrong", "told"), [("greater", "1 of 20000 uint8"), ("argmax", "1 of 4 float16")])
def test_one_wrong_bool_or_index_is_a_drift(tmp_path: Path, wrong: str, told: str) -> None:
    graph, given = logic(tmp_path / "net.onnx"), feeds()
    made = {"greater": (given["x"] > given["y"]).astype(np.uint8), "argmax": given["x"].argmax(1).astype(np.float32)}
    made[wrong].reshape(-1)[1] += 1
    report = acccmp.compare(graph, half(made), inputs=given)
    assert report[wrong].verdict is Verdict.DRIFT
    assert told in report[wrong].reason
    assert not report.passed


def test_an_index_that_float16_cannot_hold_is_a_drift(tmp_path: Path) -> None:
    """Above 2048 float16 counts by twos: 2049 becomes 2048, the place of another element."""
    graph, given = logic(tmp_path / "net.onnx"), feeds()
    given["x"][2, 2048], given["x"][2, 2049] = 0, 9
    dump = half({"argmax": given["x"].argmax(1).astype(np.float32)})
    report = acccmp.compare(graph, dump, inputs=given)
    assert report["argmax"].verdict is Verdict.DRIFT


# -- random ops --------------------------------------------------------------------------------------------------


def noisy(path: Path, **attrs: Any) -> Graph:
    """relu(x), and relu(x) + random numbers, and its shape."""
    return saved(path, [
        helper.make_node("Relu", ["x"], ["a"], "relu"),
        helper.make_node("RandomNormalLike", ["a"], ["n"], "noise", **attrs),
        helper.make_node("Add", ["a", "n"], ["s"], "sum"), helper.make_node("Neg", ["s"], ["y"], "neg"),
        helper.make_node("Shape", ["s"], ["d"], "shape"), helper.make_node("Abs", ["a"], ["z"], "abs"),
    ], {"x": (2, 300)}, ["y", "z", "d"], d=TensorProto.INT64)


def test_what_depends_on_other_random_numbers_is_not_judged(tmp_path: Path) -> None:
    graph = noisy(tmp_path / "net.onnx")
    x = RANDOM.standard_normal((2, 300)).astype(np.float32)
    a, n = np.maximum(x, 0), RANDOM.standard_normal((2, 300)).astype(np.float32)
    dump = half({"relu": a, "noise": n, "sum": a + n, "neg": -a - n, "abs": a, "shape": np.array([2, 300], np.int64)})
    report = acccmp.compare(graph, dump, inputs={"x": x})
    verdicts = {row.port.node: row.verdict for row in report.comparisons}
    assert {name for name, verdict in verdicts.items() if verdict is Verdict.NOT_COMPARABLE} == {"noise", "sum", "neg"}
    assert {name for name, verdict in verdicts.items() if verdict is Verdict.MATCH} >= {"relu", "abs", "shape"}
    assert "depends on the random op noise" in report["neg"].reason
    assert report.coverage == 1
    assert not report.passed, "the output y was not judged"
    assert report.exit_code == 3


def test_where_golden_and_device_drew_the_same_numbers_all_is_judged(tmp_path: Path) -> None:
    graph = noisy(tmp_path / "net.onnx")
    x = RANDOM.standard_normal((2, 300)).astype(np.float32)
    golden = acccmp.run(graph, {"x": x})
    dump = half({port.node: ref.numpy() for port, ref in golden.items()})
    report = acccmp.compare(golden, dump, model=graph)
    assert {row.verdict for row in report.comparisons} == {Verdict.MATCH}
    wrong = replace(dump, refs={
        **dump.refs, Port("neg", "output", 0): TensorRef.of(dump[Port("neg", "output", 0)].numpy() * np.float16(2)),
    })
    assert acccmp.compare(golden, wrong, model=graph)["neg"].verdict is Verdict.DRIFT


def test_behind_the_random_op_of_a_real_model_nothing_is_judged(shared: Path, tf: Any) -> None:
    """hh draws numbers on the host between its encoder and its decoder; the .om tells which device ops are behind."""
    om = acccmp.load(next((shared / "om").glob("*hh_om.om")))
    graph = acccmp.load(shared / "tensorflow" / "Ascend_ModelZoo-TensorFlow__hh.pb")
    given = {graph.inputs[0]: RANDOM.standard_normal((100, 784)).astype(np.float32)}
    golden = acccmp.run(graph, given)
    behind = networkx.descendants(graph.nx, "random_normal/RandomStandardNormal") | {
        "random_normal/RandomStandardNormal",
    }
    refs = {}
    for node in om.nodes:
        origin = om.spec(f"{node.name}:0").origin
        there = Port(origin.node if origin and origin.node else node.name, "output", 0)
        if there in golden and node.op_type != "Const":
            array = golden[there].numpy() + (RANDOM.standard_normal() if there.node in behind else 0)
            refs[Port(node.name, "output", 0)] = TensorRef.of(array.astype(np.float16))
    dump = Dump(refs, {port.node: DumpedOp(port.node, om[port.node].op_type) for port in refs})
    for model in (graph, None):
        report = acccmp.compare(golden, dump, mapping=om, model=model)
        set_aside = {row.port.node for row in report.comparisons if row.verdict is Verdict.NOT_COMPARABLE}
        judged = {row.port.node for row in report.judged}
        assert "recognition/d_h1/Conv2D" in judged
        assert {"random_normal/RandomStandardNormal", "random_normal", "recognition/w_mean/MatMuladd",
                "generation/Relu", "generation/output"} <= set_aside
        assert all(row.verdict is Verdict.MATCH for row in report.judged)
        assert report.exit_code == 3


# -- padding -----------------------------------------------------------------------------------------------------


def padded(array: np.ndarray, layout: str, dirt: float, c0: int = 16) -> TensorRef:
    """A float16 tensor in blocks whose padding is full of `dirt`."""
    order = "NCHW" if array.ndim == 4 else None
    stored = layouts.to_stored(array.astype(np.float16), order, layout, c0)
    inside = layouts.to_stored(np.ones(array.shape, bool), order, layout, c0)
    stored[~inside] = dirt
    return TensorRef.of(stored, layout).seen_as(array.shape, order)


@pytest.mark.parametrize(("shape", "layout", "count"), [
    ((1, 20, 3, 5), "NC1HWC0", 12 * 15), ((5, 20), "FRACTAL_NZ", 16 * 32 - 100), ((3, 40), "FRACTAL_NZ", 48 * 16 - 120),
    ((2, 16, 3, 5), "NC1HWC0", 0), ((20, 5, 3, 3), "FRACTAL_Z", 9 * 32 * 16 - 900),
])
@pytest.mark.parametrize(("dirt", "told"), [(0.0, ""), (7.0, " are not 0"), (np.nan, " of them NaN or Inf")])
def test_dirt_in_the_padding_is_counted_on_the_row(
    shape: tuple[int, ...], layout: str, count: int, dirt: float, told: str,
) -> None:
    a = RANDOM.standard_normal(shape).astype(np.float32)
    report = acccmp.compare(dm.golden({"a": a}), dm.npu({"a": padded(a, layout, dirt)}))
    row = report["a"]
    assert row.verdict is Verdict.MATCH, "what lies in the padding is no part of the tensor"
    notes = [note for note in row.notes if "padding" in note]
    if not told or not count:
        assert notes == []
    else:
        odd = f", {count} of them NaN or Inf" if np.isnan(dirt) else ""
        assert notes == [f"{count} of the {count} numbers in its padding are not 0{odd}"]


def test_dirt_in_the_padding_reaches_the_report_of_the_command(tmp_path: Path, samples: Path) -> None:
    net = samples / "digits_cnn"
    port = "conv3/Conv2Dconv3/BiasAddconv3/Relu:output:0"
    ref = acccmp.read_dump(net / "npu")[Port.parse(port)]
    assert (ref.layout, ref.own_shape[-1] % 16) == ("NC1HWC0", 8)
    shutil.copytree(net / "npu", tmp_path / "npu")
    file = tmp_path / "npu" / Path(ref.path).name
    raw = bytearray(file.read_bytes())
    raw[ref.offset + ref.nbytes - 2 : ref.offset + ref.nbytes] = np.float16(np.inf).tobytes()  # its last channel of all
    file.write_bytes(raw)
    ran = run_cli("compare", net / "golden", tmp_path / "npu", "--mapping", net / "mapping.json", "--json")
    assert ran.returncode == 0
    row = next(row for row in json.loads(ran.stdout)["comparisons"] if row["port"] == port)
    assert row["verdict"] == "match"
    assert "1 of the 288 numbers in its padding are not 0, 1 of them NaN or Inf" in row["notes"]
