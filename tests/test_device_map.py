"""The mapping, through the front door: two devices, names alone, a part of a model, the same answer for every job."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import device_models as dm
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_slicing import residual_net, run_cli

import acccmp
from acccmp.core import layout as layouts
from acccmp.core.dump import Dump, DumpedOp, Origin, Port
from acccmp.core.graph import Graph
from acccmp.core.tensor import TensorRef
from acccmp.emulator.emulate import Fault
from acccmp.errors import MappingError
from acccmp.mapping.device_map import DeviceMap
from acccmp.mapping.names import by_names
from acccmp.reports.pair import Verdict
from acccmp.reports.report_json import from_json, to_json

X = np.random.default_rng(2).standard_normal((1, 3, 9, 7)).astype(np.float32)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """conv1 - bn1 - relu1 - conv2 - add(relu1) - relu2 - pool - flat - fc; conv1bn1relu1 is one op of the device."""
    return residual_net(tmp_path_factory.mktemp("net") / "residual.onnx")


@pytest.fixture(scope="module")
def healthy(net: Graph, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    made = acccmp.emulate(net, {"x": X}, tmp_path_factory.mktemp("healthy"))
    return made.dump, made.mapping


@pytest.fixture(scope="module")
def faulty(net: Graph, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    fault = Fault.parse("op=conv1,kind=scale,factor=1.5")
    made = acccmp.emulate(net, {"x": X}, tmp_path_factory.mktemp("faulty"), faults=(fault,))
    return made.dump, made.mapping


# -- two devices -------------------------------------------------------------------------------------------------


def test_two_devices_and_a_mapping_name_the_faulty_layer_and_miss_no_fused_op(
    healthy: tuple[Path, Path], faulty: tuple[Path, Path],
) -> None:
    ran = run_cli("compare", healthy[0], faulty[0], "--mapping", faulty[1], "--json")
    assert ran.returncode == 1
    rows = json.loads(ran.stdout)["comparisons"]
    assert {row["verdict"] for row in rows} == {"match", "drift"}
    assert all(row["port"] == row["golden_port"] for row in rows)
    first = next(row for row in rows if row["verdict"] == "drift")
    assert first["port"] == "conv1bn1relu1:output:0"
    assert first["originals"] == ["conv1", "bn1", "relu1"]
    assert [row["port"] for row in rows if row["is_output"]] == ["trans_Cast_17:output:0"]


def test_two_healthy_devices_pass_whatever_their_precision(
    healthy: tuple[Path, Path], tmp_path: Path, net: Graph,
) -> None:
    """The last Cast brings no digits back: float32 there is judged as the bfloat16 before it."""
    other = acccmp.emulate(net, {"x": X}, tmp_path, precision="bfloat16")
    report = acccmp.compare(healthy[0], other.dump, mapping=other.mapping)
    assert report.passed
    assert report.coverage == 1
    assert not report.warnings
    assert acccmp.compare(healthy[0], healthy[0]).coverage == 1


def test_a_mapping_of_another_model_is_refused_for_two_devices_too(
    healthy: tuple[Path, Path], samples: Path,
) -> None:
    ran = run_cli("compare", healthy[0], healthy[0], "--mapping", samples / "digits_lenet" / "mapping.json")
    assert ran.returncode == 2
    assert "is not of the NPU dump" in ran.stderr


# -- names alone -------------------------------------------------------------------------------------------------


def names_only(dump: Dump) -> Dump:
    """A dump whose headers say nothing of originals."""
    return replace(dump, ops={name: replace(op, origins={}) for name, op in dump.ops.items()})


@pytest.mark.parametrize("with_headers", [True, False])
def test_names_of_fused_ops_are_a_mapping_for_compare(
    net: Graph, faulty: tuple[Path, Path], with_headers: bool,
) -> None:
    dump = acccmp.read_dump(faulty[0])
    report = acccmp.compare(net, dump if with_headers else names_only(dump), inputs={"x": X})
    assert report.first_bad is not None
    assert report.first_bad.port == Port("conv1bn1relu1", "output", 0)
    assert report.first_bad.originals == ("conv1", "bn1", "relu1")
    assert report["conv1"] is report.first_bad, "an original answers with the device op that stands for it"
    assert {str(row.port) for row in report.comparisons if row.verdict is Verdict.FUSED} == {
        "conv1:output:0", "bn1:output:0",
    }
    judged = {row.port.node for row in report.judged if row.port.side == "output"}
    assert judged == {"x", "conv1bn1relu1", "conv2", "add", "relu2", "pool", "flat", "fc"}
    assert report.coverage == 1


@pytest.mark.parametrize("with_headers", [True, False])
def test_a_slice_without_a_mapping_keeps_fused_ops_whole(
    net: Graph, healthy: tuple[Path, Path], with_headers: bool,
) -> None:
    dump = acccmp.read_dump(healthy[0])
    part = acccmp.slice_model(net, "bn1", "conv2", dump=dump if with_headers else names_only(dump))
    assert [node.name for node in part.graph.nodes] == ["conv1", "bn1", "relu1", "conv2"]
    assert part.device_ops == ("conv1bn1relu1", "conv2")
    assert any("lies inside the fused device op 'conv1bn1relu1'" in line for line in part.log)
    with_mapping = acccmp.slice_model(net, "bn1", "conv2", dump=dump, mapping=healthy[1])
    np.testing.assert_array_equal(part.fed_with("x"), with_mapping.fed_with("x"))


def chain(path: Path, names: list[str], kinds: list[str]) -> Graph:
    """Ops one behind the other over (2, 3); MatMuls multiply by one weight, Adds add one number."""
    weight = numpy_helper.from_array(np.eye(3, dtype=np.float32) * 2, "w")
    one = numpy_helper.from_array(np.float32(1), "one")
    extra = {"MatMul": ["w"], "Add": ["one"]}
    nodes = [
        helper.make_node(kind, [f"t{i}", *extra.get(kind, [])], [f"t{i + 1}"], name)
        for i, (name, kind) in enumerate(zip(names, kinds, strict=True))
    ]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in ("t0", f"t{len(nodes)}")]
    graph = helper.make_graph(nodes, "chain", info[:1], info[1:], [weight, one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, path)
    return acccmp.load(path)


def device_dump(tensors: dict[str, np.ndarray], **origins: str) -> Dump:
    ops = {
        Port.parse(text).node: DumpedOp(Port.parse(text).node, "Op", origins=(
            {0: Origin(origins[Port.parse(text).node], 0)} if Port.parse(text).node in origins else {}
        )) for text in tensors
    }
    return Dump({Port.parse(text): TensorRef.of(array) for text, array in tensors.items()}, ops)


T0 = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_a_slice_of_a_mostly_fused_dump_is_not_refused_as_of_another_model(tmp_path: Path) -> None:
    names = ["a/mm", "a/add", "a/relu", "b/mm", "b/add", "b/relu", "end"]
    kinds = ["MatMul", "Add", "Relu"] * 2 + ["Relu"]
    graph = chain(tmp_path / "chain.onnx", names, kinds)
    dump = device_dump({"a_mma_adda_relu:output:0": 2 * T0 + 1, "b_mmb_addb_relu:output:0": 4 * T0 + 3})
    part = acccmp.slice_model(graph, "b/mm", "b/relu", dump=dump)
    np.testing.assert_array_equal(part.fed_with("t3"), 2 * T0 + 1)
    assert part.device_ops == ("b_mmb_addb_relu",)
    report = acccmp.compare(graph, dump, inputs={"t0": T0})
    assert [row.originals[-1] for row in report.judged] == ["a/relu", "b/relu"]
    assert all(row.verdict is Verdict.MATCH for row in report.judged)


def test_a_name_may_leave_nodes_between_out_and_the_header_may_go_further(tmp_path: Path) -> None:
    """As the real hh_om.om has them: `MatMulmul` is MatMul, add and mul; `Conv2D` stands for `Conv2D` and `add`."""
    graph = chain(tmp_path / "chain.onnx", ["mm", "bias", "act", "mm2", "bias2"], ["MatMul", "Add", "Relu"] * 1 + [
        "MatMul", "Add"])
    dump = device_dump({"mmact:output:0": 2 * T0 + 1, "mm2:output:0": 4 * T0 + 3}, mm2="bias2")
    report = acccmp.compare(graph, dump, inputs={"t0": T0})
    assert {str(row.port): row.originals for row in report.judged} == {
        "mmact:output:0": ("mm", "bias", "act"), "mm2:output:0": ("mm2", "bias2"),
    }
    assert report.passed


def test_a_name_that_can_be_cut_in_two_ways_is_nobodys(tmp_path: Path) -> None:
    """`ab` + `c` or `a` + `bc`: nothing is guessed."""
    graph = chain(tmp_path / "chain.onnx", ["a", "bc", "ab", "c"], ["Relu", "Relu", "Relu", "Relu"])
    report = acccmp.compare(graph, device_dump({"abc:output:0": T0, "t0:output:0": T0}), inputs={"t0": T0})
    assert report["abc"].verdict is Verdict.NO_GOLDEN


@pytest.mark.parametrize(("om", "model", "by_headers", "by_names_alone"), [
    ("my_122_anenet", "onnx/a-ircle_atlas200i-line-tracking-car__lanenet_epoch_122_batch_8_AUG.onnx", 135, 2),
    ("hh_om", "tensorflow/Ascend_ModelZoo-TensorFlow__hh.pb", 5, 5),
])
def test_real_names_of_the_compiler_stand_for_the_nodes_that_its_model_says(
    shared: Path, om: str, model: str, by_headers: int, by_names_alone: int,
) -> None:
    """A dump with the op names of a real .om, with and without what its headers say; the .om's own word is the truth.

    Counted are the ops with names of no single node. Names with words of the compiler's own (`Xfunction_graph_1/X..`)
    need the header."""
    graph = acccmp.load(shared / model)
    truth = DeviceMap(acccmp.load(next((shared / "om").glob(f"*{om}.om")))).beside(graph)
    refs, ops = {}, {}
    for node in truth.nodes:
        if node.op_type not in ("Const", "NetOutput"):
            refs[Port(node.name, "output", 0)] = TensorRef.of(np.zeros(1, np.float32))
            spec = truth.spec(f"{node.name}:0")
            written = spec.origin if spec is not None and spec.origin is not None and spec.origin.node else None
            ops[node.name] = DumpedOp(node.name, node.op_type, origins={0: written} if written else {})
    dump = Dump(refs, ops)
    fused = {op: members for op, members in truth.groups.items() if op in ops and op not in graph}
    for given, wanted in ((dump, by_headers), (names_only(dump), by_names_alone)):
        found = by_names(given, graph).beside(graph).groups
        wrong = [op for op in fused if op in found and not found[op] & fused[op]]
        assert not wrong
        whole = [op for op in fused if found.get(op, frozenset()) - graph.constants == fused[op] - graph.constants]
        assert len(whole) == wanted


# -- a part of a model -------------------------------------------------------------------------------------------


def test_the_full_models_mapping_judges_a_small_slice(samples: Path, tmp_path: Path) -> None:
    net = samples / "digits_resnet"
    graph = acccmp.load(net / "resnet.onnx")
    given = ["--dump", net / "npu", "--mapping", net / "mapping.json", "-o", tmp_path / "handed"]
    ran = run_cli("slice", net / "resnet.onnx", "--start", "block3/conv1", "--end", "block3/relu1", *given)
    assert ran.returncode == 0, ran.stderr
    handed = next((tmp_path / "handed").iterdir())
    part = acccmp.load(handed / "dump.onnx")
    assert len(part) < 0.25 * len(graph)
    fed = {name: np.load(next((handed / "inputs").glob("*[!n].npy"))) for name in part.inputs}
    again = acccmp.emulate(part, fed, tmp_path / "device")
    ran = run_cli("compare", handed, again.dump, "--mapping", net / "mapping.json")
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_a_mapping_is_of_another_model_when_neither_is_a_part_of_the_other(samples: Path) -> None:
    resnet, lenet = samples / "digits_resnet", samples / "digits_lenet"
    with pytest.raises(MappingError, match=r"digits_lenet.*is not of the model 'resnet'"):
        acccmp.compare(resnet / "golden", resnet / "npu", mapping=lenet / "mapping.json")
    with pytest.raises(MappingError, match=r"digits_lenet.*is not of the model 'resnet'"):
        acccmp.slice_model(resnet / "resnet.onnx", "fc", "prob", dump=resnet / "npu", mapping=lenet / "mapping.json")


# -- how read ----------------------------------------------------------------------------------------------------


def square(path: Path) -> Graph:
    """relu - abs over (1, 16, 16, 16): every order of the axes fits."""
    nodes = [helper.make_node("Relu", ["x"], ["a"], "relu"), helper.make_node("Abs", ["a"], ["y"], "abs")]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 16, 16, 16]) for name in ("x", "a", "y")]
    graph = helper.make_graph(nodes, "square", info[:1], info[2:], value_info=info[1:2])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, path)
    return acccmp.load(path)


@pytest.mark.parametrize(("by", "order"), [("nobody", "NCHW"), ("header", "NHWC"), ("mapping", "NHWC")])
def test_where_several_orders_fit_compare_and_slice_take_the_same(tmp_path: Path, by: str, order: str) -> None:
    graph = square(tmp_path / "square.onnx")
    a = np.abs(np.random.default_rng(0).standard_normal((1, 16, 16, 16))).astype(np.float16)
    ref = TensorRef.of(layouts.to_stored(a, order, "NC1HWC0", 16), "NC1HWC0")
    if by == "header":
        ref = ref.seen_as(a.shape, order)
    mapping = dm.mapping(
        dm.op("x", "Data", (), [dm.out(shape=(1, 16, 16, 16))], index=0),
        dm.op("relu", "Relu", ["x:0"], [dm.out("relu", original=a.shape, original_layout=order)], ("relu",)),
    ) if by == "mapping" else None
    dump = Dump({Port("relu", "output", 0): ref}, {"relu": DumpedOp("relu", "Relu")})
    report = acccmp.compare(graph, dump, mapping=mapping, inputs={"x": a.astype(np.float32)})
    row = report["relu"]
    assert row.npu is not None
    np.testing.assert_array_equal(row.npu.numpy(), a)
    part = acccmp.slice_model(graph, "abs", "abs", dump=dump, mapping=mapping)
    np.testing.assert_array_equal(part.fed_with("a"), a.astype(np.float32))
    told = [note for note in row.notes if "ambiguous" in note]
    assert bool(told) == (by == "nobody")
    assert bool([line for line in part.log if "ambiguous" in line]) == (by == "nobody")


def test_a_transposed_tensor_is_in_goldens_order_in_a_stored_report_too(net: Graph, tmp_path: Path) -> None:
    golden = acccmp.golden_run(net, {"x": X}, tmp_path / "golden")
    relu1 = golden[Port("relu1", "output", 0)].numpy()
    mapping = dm.mapping(
        dm.op("first", "Conv2D", ["x:0"], [dm.out("relu1")], ("conv1", "bn1", "relu1")),
        dm.op("turn", "Transpose", ["first:0"], [dm.out(layout="ND")], (), perm=(0, 2, 3, 1)),
    )
    np.save(tmp_path / "turn.npy", relu1.transpose(0, 2, 3, 1))
    there = acccmp.read_dump(tmp_path / "turn.npy")[Port("turn", "output", 0)]
    dump = Dump({Port("turn", "output", 0): there}, {"turn": DumpedOp("turn", "Transpose")})
    report = acccmp.compare(golden, dump, mapping=mapping)
    assert report["turn"].verdict is Verdict.MATCH
    again = from_json(to_json(report))
    assert again["turn"].npu is not None
    np.testing.assert_array_equal(again["turn"].npu.numpy(), relu1)


def test_one_channel_in_another_order_is_read_in_goldens(samples: Path) -> None:
    """An image of one channel, NHWC for the mapping and NCHW for golden: its sizes differ by a 1 alone."""
    sample = samples / "digits_cnn"
    report = acccmp.compare(sample / "twin.onnx", sample / "npu", mapping=sample / "mapping.json")
    assert report.passed
    assert not report.warnings
    assert report["trans_TransData_2"].error == 0


# -- one build? --------------------------------------------------------------------------------------------------


def edited(mapping: Path, folder: Path, change: Any) -> Path:
    """The mapping with every op as `change` (of its name and its JSON) makes it."""
    model = json.loads(mapping.read_text())
    for op in model["graph"][0]["op"]:
        change(op["name"], op)
    folder.mkdir(exist_ok=True)
    (folder / "mapping.json").write_text(json.dumps(model))
    return folder / "mapping.json"


def belongs(*arguments: object) -> tuple[int, str]:
    """The exit code, and the first line under the headline: how well mapping, original and dump agree."""
    ran = run_cli("compare", *arguments, "--json")
    if ran.returncode == 2:
        return 2, ran.stderr
    subject = json.loads(ran.stdout)["subject"]
    assert next(iter(subject)) == "belongs"
    return ran.returncode, subject["belongs"]


def test_line_1_says_that_mapping_and_dump_are_of_one_build(net: Graph, healthy: tuple[Path, Path]) -> None:
    assert belongs(net.path, healthy[0], "--mapping", healthy[1]) == (
        0, "15 of 15 dumped ops are the mapping's; 20 of 20 tensors have the shapes and types that it says",
    )
    assert belongs(net.path, healthy[0]) == (
        0, "by names alone: 7 of 7 dumped ops stand for nodes of the original",
    )
    screen = run_cli("compare", net.path, healthy[0], "--mapping", healthy[1]).stdout.splitlines()
    assert next(line for line in screen[2:] if line.strip()).startswith("belongs")


def wider(name: str, op: dict[str, Any]) -> None:
    """conv2 and what follows it have 32 channels, as in another version of the net."""
    if name in ("conv2", "add", "relu2"):
        for desc in op["output_desc"]:
            desc["shape"]["dim"][1] = 3
            for attr in desc["attr"]:
                if attr["key"] == "origin_shape":
                    attr["value"]["list"]["i"][1] = 48


def test_a_mapping_of_another_build_is_refused_with_what_contradicts(
    net: Graph, healthy: tuple[Path, Path], tmp_path: Path,
) -> None:
    acccmp.golden_run(net, {"x": X}, tmp_path / "golden")
    code, said = belongs(tmp_path / "golden", healthy[0], "--mapping", edited(healthy[1], tmp_path, wider))
    assert code == 2
    assert "is of another build than the NPU dump" in said
    assert "the dump's header says shape 1x2x9x7x16, the mapping 1x3x9x7x16" in said
    with pytest.raises(MappingError, match="another build"):
        acccmp.slice_model(net, "conv2", "relu2", dump=healthy[0], mapping=tmp_path / "mapping.json")


def as_integers(name: str, op: dict[str, Any]) -> None:
    if name in ("add", "relu2"):
        op["output_desc"][0]["dtype"] = "DT_INT32"


def test_a_mapping_with_other_kinds_of_numbers_is_refused(
    net: Graph, healthy: tuple[Path, Path], tmp_path: Path,
) -> None:
    code, said = belongs(net.path, healthy[0], "--mapping", edited(healthy[1], tmp_path, as_integers))
    assert code == 2
    assert "the dump's header says float16, the mapping int32" in said


def one_wider(name: str, op: dict[str, Any]) -> None:
    if name == "fc":
        op["output_desc"][0]["dtype"] = "DT_INT32"


def test_one_op_that_contradicts_fails_its_row_and_costs_no_other(
    net: Graph, healthy: tuple[Path, Path], tmp_path: Path,
) -> None:
    code, said = belongs(net.path, healthy[0], "--mapping", edited(healthy[1], tmp_path, one_wider))
    assert code == 1
    assert "fc:output:0: the dump's header says float16, the mapping int32" in said
    report = acccmp.compare(net, healthy[0], mapping=tmp_path / "mapping.json")
    assert report["fc"].verdict is Verdict.DTYPE
    assert "are they of the same build?" in report["fc"].reason
    assert report["relu2"].verdict is Verdict.MATCH


def test_a_mapping_of_another_version_of_the_model_is_refused(
    net: Graph, healthy: tuple[Path, Path], tmp_path: Path,
) -> None:
    """The same names and other sizes, as exporters make them."""
    nodes = list(onnx.load(net.path).graph.node)
    info = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 18, 14]),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])]
    graph = helper.make_graph(nodes, "larger", info[:1], info[1:], list(onnx.load(net.path).graph.initializer))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, tmp_path / "larger.onnx")
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 18, 14), np.float32))
    given = ["--mapping", healthy[1], "--input", f"x={tmp_path / 'x.npy'}"]
    code, said = belongs(tmp_path / "larger.onnx", healthy[0], *given)
    assert code == 2
    assert "is of another version of the model 'larger'" in said


@pytest.mark.parametrize(("shift", "told"), [
    (lambda place: 0, "7 of 7 buffers lie where it has them"),
    (lambda place: place * place * 64, "none of 7 buffers lies where it has them: another build?"),
])
def test_line_1_says_whether_the_buffers_lie_where_the_model_has_them(
    net: Graph, healthy: tuple[Path, Path], tmp_path: Path, shift: Any, told: str,
) -> None:
    addresses = {
        name: op.addresses["output", 0] for name, op in acccmp.read_dump(healthy[0]).ops.items()
        if ("output", 0) in op.addresses
    }
    places = {name: place for place, name in enumerate(addresses)}

    def with_offsets(name: str, op: dict[str, Any]) -> None:
        if name in addresses and not name.startswith("trans"):
            op["output_i"] = [addresses[name] - min(addresses.values()) + shift(places[name])]

    code, said = belongs(net.path, healthy[0], "--mapping", edited(healthy[1], tmp_path, with_offsets))
    assert code == 0
    assert said.endswith(told)


def test_line_1_says_that_the_dump_calls_its_model_otherwise(net: Graph, tmp_path: Path) -> None:
    made = acccmp.emulate(net, {"x": X}, tmp_path, tree=True)
    model = json.loads(made.mapping.read_text())
    made.mapping.write_text(json.dumps({**model, "name": "release_7"}))
    code, said = belongs(net.path, made.dump, "--mapping", made.mapping)
    assert code == 0
    assert said.endswith("the dump's model is called 'residual', the mapping's 'release_7'")
