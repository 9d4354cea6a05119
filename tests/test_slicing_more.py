"""Slices where it gets difficult: fused regions, names of every kind, odd dumps, odd dtypes and layouts, bad places."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from device_models import mapping, op, out
from onnx import TensorProto, helper, numpy_helper
from test_slicing import residual_net, run_cli

from acccmp.core import layout as layouts
from acccmp.core.dump import Dump, DumpedOp, Port
from acccmp.core.graph import Graph
from acccmp.core.tensor import DTYPES, TensorRef, encode
from acccmp.dumps.ascend import write_file
from acccmp.dumps.read import read_dump
from acccmp.emulator.emulate import emulate
from acccmp.errors import InputError, SliceError
from acccmp.jobs import slice as handover
from acccmp.jobs.compare_slice import bundled_inputs
from acccmp.mapping.trace import Quantisation
from acccmp.models.load import load
from acccmp.runners.run import run
from acccmp.slicing.bundle import read_manifest
from acccmp.slicing.cut import cut

X = np.random.default_rng(2).standard_normal((1, 3, 9, 7)).astype(np.float32)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """conv1 - bn1 - relu1 - conv2 - add(relu1) - relu2 - pool - flat - fc"""
    return residual_net(tmp_path_factory.mktemp("net") / "residual.onnx")


@pytest.fixture(scope="module")
def golden(net: Graph) -> Dump:
    return run(net, {"x": X})


@pytest.fixture(scope="module")
def device(net: Graph, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    made = emulate(net, {"x": X}, tmp_path_factory.mktemp("device"))
    return made.dump, made.mapping


FUSED = mapping(
    op("x", "Data", (), [out(shape=(1, 3, 9, 7))], index=0),
    op("first", "Conv2D", ["x:0"], [out("relu1")], originals=("relu1", "conv1", "bn1")),
    op("second", "Conv2D", ["first:0", "first:0"], [out("relu2")], originals=("conv2", "add", "relu2")),
    op("pool", "Pooling", ["second:0"], [out("pool")], originals=("pool",)),
    op("fc", "MatMul", ["pool:0"], [out("fc")], originals=("flat", "fc")),
    op("Node_Output", "NetOutput", ["fc:0"]),
)


def half(dump: Dump, names: dict[str, str]) -> Dump:
    """A device dump in float16: outputs of the originals under device ports."""
    refs = {
        Port.parse(at): TensorRef.of(dump[Port(name, "output", 0)].numpy().astype(np.float16))
        for at, name in names.items()
    }
    return Dump(refs, {port.node: DumpedOp(port.node) for port in refs}, kind="npu")


@pytest.fixture(scope="module")
def fused_dump(golden: Dump) -> Dump:
    return half(golden, {
        "x:output:0": "x", "first:input:0": "x", "first:output:0": "relu1", "second:input:0": "relu1",
        "second:input:1": "relu1", "second:output:0": "relu2", "pool:input:0": "relu2", "pool:output:0": "pool",
        "fc:output:0": "fc",
    })


def layers(part: object) -> list[str]:
    return [node.name for node in part.graph.nodes]  # type: ignore[attr-defined]


# -- fused device ops --------------------------------------------------------------------------------------------


def test_an_end_inside_a_fused_op_moves_on_to_what_the_op_gives_and_the_log_says_so(
    net: Graph, fused_dump: Dump,
) -> None:
    part = cut(net, "conv1", "conv1", dump=fused_dump, mapping=FUSED)
    assert layers(part) == ["conv1", "bn1", "relu1"]
    assert part.graph.outputs == ("r1",), "the list of a fused op is in no order: relu1 runs last"
    assert "the end conv1 lies inside a fused device op: the outputs are those of relu1" in part.log
    assert part.npu[Port("relu1", "output", 0)].dtype.name == "float16"


def test_a_residual_block_fused_into_its_convolution_is_taken_whole(net: Graph, fused_dump: Dump) -> None:
    for start, end in (("conv2", "conv2"), ("add", "add"), ("add", "relu2"), ("conv2", "add")):
        part = cut(net, start, end, dump=fused_dump, mapping=FUSED)
        assert layers(part) == ["conv2", "add", "relu2"]
        assert part.graph.inputs == ("r1",)
        assert part.graph.outputs == ("r2",)
        assert part.device_ops == ("second",)
        with pytest.raises(InputError, match="lies inside the fused device op 'second'"):
            cut(net, start, end, dump=fused_dump, mapping=FUSED, exact=True)


def test_of_several_ends_only_those_inside_a_fused_op_move(net: Graph, fused_dump: Dump) -> None:
    part = cut(net, ["conv1", "conv2"], ["relu1", "add"], dump=fused_dump, mapping=FUSED)
    assert part.graph.outputs == ("r1", "r2")
    part = cut(net, "conv1", ["bn1", "relu1", "pool"], dump=fused_dump, mapping=FUSED)
    assert part.graph.outputs == ("r1", "p")


def test_all_outputs_and_around_keep_fused_ops_whole(net: Graph, fused_dump: Dump) -> None:
    part = cut(net, "conv1", "conv2", dump=fused_dump, mapping=FUSED, all_outputs=True)
    assert layers(part) == ["conv1", "bn1", "relu1", "conv2", "add", "relu2"]
    assert part.graph.outputs == ("r2",), "r1 does not leave the region any more"
    part = cut(net, around="relu1", radius=0, dump=fused_dump, mapping=FUSED)
    assert layers(part) == ["conv1", "bn1", "relu1"]
    part = cut(net, around="relu2", radius=1, dump=fused_dump, mapping=FUSED)
    assert layers(part) == ["conv2", "add", "relu2", "pool"]
    assert layers(cut(net, around="r2", radius=1)) == ["add", "relu2", "pool"]
    with pytest.raises(InputError, match="radius"):
        cut(net, around="relu2", radius=-1)


# -- names -------------------------------------------------------------------------------------------------------


def test_model_inputs_start_a_slice_and_weights_and_inputs_are_no_ends(net: Graph) -> None:
    assert layers(cut(net, "x", "bn1")) == ["conv1", "bn1"]
    with pytest.raises(InputError, match=r"'w1' is a weight; name the node that reads it \(conv1"):
        cut(net, "w1", "bn1")
    with pytest.raises(InputError, match="the end 'x' is an input of the model"):
        cut(net, "conv1", "x")


def test_caffe_blobs_and_tensorflow_ports_are_names(samples: Path) -> None:
    root = samples / "digits_lenet"
    lenet = load(root / "lenet.prototxt", root / "lenet.caffemodel")
    versioned = next(tensor for node in lenet.nodes for tensor in node.outputs if "@" in tensor)
    blob, _, layer = versioned.partition("@")
    assert blob in lenet, "a layer and a blob have this name"
    assert cut(lenet, blob, blob).graph.outputs == (blob,), "the layer, not what an in-place layer made of its blob"
    assert layers(cut(lenet, versioned, versioned)) == [layer]
    assert "Input" in {node.op_type for node in cut(lenet, lenet.inputs[0], blob).graph.nodes}
    cnn = load(samples / "digits_cnn" / "cnn.pb")
    node = next(node for node in cnn.nodes if node.op_type == "Relu")
    assert layers(cut(cnn, f"{node.name}:0", node.name)) == layers(cut(cnn, node.name, f"{node.name}:0"))
    assert cnn.inputs[0] in cut(cnn, cnn.inputs[0].removesuffix(":0"), node.name).graph.inputs


TWO_INPUTS = """
name: "two"
layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 1 dim: 2 dim: 4 dim: 4 } } }
layer { name: "b_in" type: "Input" top: "b" input_param { shape { dim: 1 dim: 2 dim: 4 dim: 4 } } }
layer { name: "pb" type: "Pooling" bottom: "b" top: "pb" pooling_param { pool: MAX kernel_size: 1 stride: 1 } }
layer { name: "pa" type: "Pooling" bottom: "a" top: "pa" pooling_param { pool: MAX kernel_size: 1 stride: 1 } }
layer { name: "ra" type: "ReLU" bottom: "pa" top: "pa" }
layer { name: "sum" type: "Eltwise" bottom: "pa" bottom: "pb" top: "sum" }
layer { name: "sig" type: "Sigmoid" bottom: "sum" top: "sum" }
layer { name: "mul" type: "Eltwise" bottom: "sum" bottom: "b" top: "mul" eltwise_param { operation: PROD } }
"""


@pytest.mark.parametrize(("start", "end", "fed"), [
    (["a"], ["mul"], {"a": "a", "sum_input_0": "pb", "mul_input_0": "b"}),
    (["b"], ["mul"], {"b_in": "b", "sum_input_0": "pa"}),
    (["ra"], ["sig"], {"ra_input_0": "pa", "sum_input_0": "pb"}), (["a", "b"], ["mul"], {"a": "a", "b_in": "b"}),
])
def test_atc_gets_the_input_layers_of_the_file_in_their_order(
    tmp_path: Path, start: list[str], end: list[str], fed: dict[str, str],
) -> None:
    from acccmp.schemas import caffe_pb2

    net = caffe_pb2.NetParameter(name="two")
    net.layer.add(name="pa", type="Pooling")
    (tmp_path / "two.caffemodel").write_bytes(net.SerializeToString())
    (tmp_path / "two.prototxt").write_text(TWO_INPUTS)
    graph = load(tmp_path / "two.prototxt", tmp_path / "two.caffemodel")
    x = {name: np.random.default_rng(5).standard_normal((1, 2, 4, 4)).astype(np.float32) for name in graph.inputs}
    made = handover.export_slice(handover.slice_model(graph, start, end), tmp_path / "out", inputs=x)
    assert made.manifest.self_test.status == "passed"
    text = (made.path / "dump.prototxt").read_text()
    in_file = re.findall(r'name: "(\w+)"\s+type: "Input"\s+top: "(\w+)"', text)
    assert dict(in_file) == fed
    shapes = ";".join(f"{layer}:1,2,4,4" for layer, _ in in_file)
    assert f'--input_shape="{shapes}"' in made.manifest.atc
    assert [(end.layer, end.name) for end in made.manifest.inputs] == in_file


# -- what was dumped ---------------------------------------------------------------------------------------------


def test_widening_goes_up_to_the_models_inputs_dumped_or_given(net: Graph, golden: Dump, tmp_path: Path) -> None:
    late = half(golden, {"fc:output:0": "fc", "x:output:0": "x"})
    part = cut(net, "pool", "fc", dump=late, widen=True)
    assert part.graph.inputs == ("x",)
    assert layers(part)[0] == "conv1"
    nothing = half(golden, {"fc:output:0": "fc"})
    with pytest.raises(SliceError, match=r"x \(x:output:0\); dump them, or give them: --input x=FILE"):
        cut(net, "pool", "fc", dump=nothing, widen=True)
    part = cut(net, "pool", "fc", dump=nothing, widen=True, fed={"x": TensorRef.of(X)})
    assert part.graph.inputs == ("x",)
    np.testing.assert_array_equal(part.fed_with("x"), X)
    assert part.taken_from == {}
    assert any("x: not dumped; taken from the given input" in line for line in part.log)


def test_side_branches_come_from_the_dump_and_without_a_mapping_names_decide(net: Graph, golden: Dump) -> None:
    by_name = half(golden, {"conv2:output:0": "conv2", "relu1:output:0": "relu1"})
    part = cut(net, "add", "relu2", dump=by_name)
    assert part.taken_from == {
        Port("conv2", "output", 0): Port("conv2", "output", 0), Port("relu1", "output", 0): Port("relu1", "output", 0),
    }
    inputs = half(golden, {"add:input:0": "conv2", "add:input:1": "relu1"})
    part = cut(net, "add", "relu2", dump=inputs)
    assert [str(at) for at in part.taken_from.values()] == ["add:input:0", "add:input:1"]
    with pytest.raises(SliceError, match=r"also needs tensors that were not dumped: r1 \(relu1:output:0\)"):
        cut(net, "add", "relu2", dump=half(golden, {"conv2:output:0": "conv2"}))


def turned(perm: tuple[int, ...] | None) -> Graph:
    attrs = {"perm": perm} if perm is not None else {}
    return mapping(
        op("first", "Conv2D", ["x:0"], [out("relu1")], originals=("conv1", "bn1", "relu1")),
        op("turn", "Transpose", ["first:0"], [out(layout="ND")], originals=(), **attrs),
        op("second", "Conv2D", ["turn:0"], [out("conv2")], originals=("conv2",)),
    )


def test_a_tensor_behind_an_inserted_transpose_is_turned_back(net: Graph, golden: Dump) -> None:
    relu1 = golden[Port("relu1", "output", 0)].numpy().astype(np.float16)
    there = TensorRef.of(np.ascontiguousarray(relu1.transpose(0, 2, 3, 1)))
    dump = Dump({Port("second", "input", 0): there}, {"second": DumpedOp("second")})
    part = cut(net, "conv2", "conv2", dump=dump, mapping=turned((0, 2, 3, 1)))
    ref = part.inputs[Port("relu1", "output", 0)]
    np.testing.assert_array_equal(ref.numpy(), relu1)
    np.testing.assert_array_equal(ref.read((slice(0, 1), slice(3, 9), slice(2, 5), slice(0, 7))), relu1[:, 3:9, 2:5])
    assert ref.raw() == there.raw(), "as dumped stays as dumped"
    np.testing.assert_array_equal(np.concatenate(list(ref.blocks(100))), relu1.reshape(-1))


def test_what_cannot_be_turned_back_is_no_entrance(net: Graph, golden: Dump) -> None:
    relu1 = golden[Port("relu1", "output", 0)].numpy().astype(np.float16)
    there = TensorRef.of(np.ascontiguousarray(relu1.transpose(0, 1, 3, 2)))
    dump = Dump({Port("second", "input", 0): there}, {"second": DumpedOp("second")})
    with pytest.raises(SliceError, match="at second:input:0 in an order behind turn that nothing tells how to undo"):
        cut(net, "conv2", "conv2", dump=dump, mapping=turned(None))
    both = replace(dump, refs={**dump.refs, Port("first", "output", 0): TensorRef.of(relu1)})
    part = cut(net, "conv2", "conv2", dump=both, mapping=turned(None))
    assert list(part.taken_from.values()) == [Port("first", "output", 0)]


def island(**attrs: object) -> Graph:
    return mapping(
        op("first", "Conv2D", ["x:0"], [out("relu1")], originals=("conv1", "bn1", "relu1")),
        op("quant", "AscendQuant", ["first:0"], [out(dtype="DT_INT8")], originals=(), **attrs),
        op("second", "Conv2D", ["quant:0"], [out("conv2")], originals=("conv2", "conv2_dequant_layer")),
    )


def test_an_int8_island_stays_int8_and_runs_in_real_numbers(net: Graph, golden: Dump, tmp_path: Path) -> None:
    relu1 = golden[Port("relu1", "output", 0)].numpy()
    scale = 127 / float(np.abs(relu1).max())
    codes = np.round(relu1 * scale).astype(np.int8)
    dump = Dump({Port("second", "input", 0): TensorRef.of(codes)}, {"second": DumpedOp("second")})
    part = handover.slice_model(net, "conv2", "conv2", dump=dump, mapping=island(scale=scale, offset=0.0))
    made = handover.export_slice(part, tmp_path, inputs={"x": X})
    facts = made.manifest.inputs[0]
    assert facts.quantisation == Quantisation(scale, 0.0)
    assert facts.bin.dtype == "int8"
    assert (made.path / facts.bin.file).read_bytes() == codes.tobytes()
    real = np.load(made.path / facts.npy.file)
    np.testing.assert_allclose(real, codes / scale, rtol=1e-6)
    assert "fp16" not in made.manifest.atc
    fed = part.fed_with("r1")
    assert fed is not None
    assert np.linalg.norm(fed - relu1) < 0.02 * np.linalg.norm(relu1)
    own = part.run()[Port("conv2", "output", 0)].numpy()
    there = golden[Port("conv2", "output", 0)].numpy()
    assert np.linalg.norm(own - there) < 0.03 * np.linalg.norm(there), "int8 codes are not fed as if they were values"


def test_what_the_device_gave_as_int8_is_judged_on_its_grid(net: Graph, golden: Dump, tmp_path: Path) -> None:
    """The floor is what the grid of the scale alone does; a wrong scale is beyond it, for reproduce.py too."""
    relu1 = golden[Port("relu1", "output", 0)].numpy()
    scale = 127 / float(np.abs(relu1).max())
    for wrong, status, code in ((1.0, "agrees", 0), (1.1, "DIFFERS", 1)):
        codes = np.clip(np.round(relu1 * scale * wrong), -128, 127).astype(np.int8)
        ports = {Port("quant", "output", 0): TensorRef.of(codes)}
        dump = Dump(ports, {"quant": DumpedOp("quant")})
        mapped = island(scale=scale, offset=0.0)
        part = handover.slice_model(net, "conv1", "relu1", dump=dump, mapping=mapped, inputs={"x": X})
        made = handover.export_slice(part, tmp_path)
        (row,) = made.manifest.device.outputs
        assert made.manifest.device.status == status, row
        assert 1e-3 < row.floor < 2e-2
        assert made.manifest.outputs[0].quantisation == Quantisation(scale, 0.0)
        ran = subprocess.run([sys.executable, "reproduce.py"], cwd=made.path, capture_output=True, check=False)
        assert ran.returncode == code, ran.stdout


def test_int8_without_a_scale_is_no_entrance(net: Graph) -> None:
    codes = TensorRef.of(np.zeros((1, 20, 9, 7), np.int8))
    dump = Dump({Port("second", "input", 0): codes}, {"second": DumpedOp("second")})
    with pytest.raises(SliceError, match="at second:input:0 as int8 only, without the scale"):
        cut(net, "conv2", "conv2", dump=dump, mapping=island())
    with pytest.raises(SliceError, match="as int8 only, without the scale"):
        cut(net, "conv2", "conv2", dump=Dump({Port("conv2", "input", 0): codes}))


def test_ops_inside_a_graph_of_the_device_model_are_found(net: Graph, golden: Dump) -> None:
    inner = (
        op("in", "Data", (), [out()], index=0, _parent_node_index=0),
        op("first", "Conv2D", ["in:0"], [out("relu1")], originals=("conv1", "bn1", "relu1")),
        op("end", "NetOutput", ["first:0"]),
    )
    call = replace(op("call", "PartitionedCall", ["x:0"], [out()]), subgraphs=("inner",))
    device = mapping(
        op("x", "Data", (), [out()], index=0), call, op("second", "Conv2D", ["call:0"], [out("conv2")],
        originals=("conv2",)), op("Node_Output", "NetOutput", ["second:0"]), subgraphs={"inner": inner},
    )
    for at in ("first:output:0", "second:input:0"):
        part = cut(net, "conv2", "conv2", dump=half(golden, {at: "relu1"}), mapping=device)
        assert [str(port) for port in part.taken_from.values()] == [at]
    part = cut(net, "bn1", "conv2", dump=half(golden, {"first:input:0": "x"}), mapping=device)
    assert layers(part) == ["conv1", "bn1", "relu1", "conv2"]
    assert part.device_ops == ("first", "second")


# -- dtypes, layouts, shapes -------------------------------------------------------------------------------------


def test_bfloat16_dumps_are_exact_and_their_bins_are_counted(net: Graph, golden: Dump, tmp_path: Path) -> None:
    values = golden[Port("relu1", "output", 0)].numpy() * np.float32(1e6)
    raw = encode(values, DTYPES["bfloat16"])
    file = tmp_path / "tensor.bin"
    file.write_bytes(raw)
    ref = TensorRef(str(file), DTYPES["bfloat16"], (1, 20, 9, 7), 0, len(raw))
    part = handover.slice_model(net, "conv2", "relu2", dump=Dump({Port("relu1", "output", 0): ref}))
    made = handover.export_slice(part, tmp_path / "out", check=False)
    npy = np.load(next((made.path / "inputs").glob("*r1.npy")))
    assert npy.dtype == np.float32
    assert npy.view(np.uint32)[0, 0, 0, 0] == (np.frombuffer(raw, "<u2")[0].astype(np.uint32) << 16)
    assert made.manifest.inputs[0].bin.inf == int((npy > 65519).sum()) > 0
    assert (made.path / "inputs" / "00_r1.dumped.bin").read_bytes() == raw
    wide = handover.export_slice(part, tmp_path / "wide", check=False, dtype="bfloat16")
    assert (wide.path / "inputs" / "00_r1.bin").read_bytes() == raw


@pytest.mark.parametrize("stored", ["NC1HWC0", "NHWC", "NCHW"])
def test_layouts_of_four_axes_become_the_models_own(net: Graph, golden: Dump, stored: str) -> None:
    relu1 = golden[Port("relu1", "output", 0)].numpy().astype(np.float16)
    shape = layouts.stored_shape(stored, "NCHW", relu1.shape, 16)
    ref = TensorRef.of(layouts.to_stored(relu1, "NCHW", stored).reshape(shape), stored)
    part = cut(net, "conv2", "conv2", dump=Dump({Port("relu1", "output", 0): ref}))
    np.testing.assert_array_equal(part.inputs[Port("relu1", "output", 0)].numpy(), relu1)


def test_fractal_matrices_become_the_models_own(net: Graph, golden: Dump) -> None:
    pool = np.random.default_rng(3).standard_normal((1, 20)).astype(np.float16)
    ref = TensorRef.of(layouts.to_stored(pool, None, "FRACTAL_NZ"), "FRACTAL_NZ")
    assert len(ref.shape) == 4
    part = cut(net, "fc", "fc", dump=Dump({Port("flat", "output", 0): ref}))
    np.testing.assert_array_equal(part.inputs[Port("flat", "output", 0)].numpy(), pool)


def odd_net(path: Path) -> Graph:
    """Gather with int64 indices, Where with a bool, Add of a scalar; the batch has no fixed size."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], "gather"),
        helper.make_node("Greater", ["rows", "zero"], ["mask"], "greater"),
        helper.make_node("Not", ["mask"], ["rest"], "not"),
        helper.make_node("Where", ["rest", "rows", "level"], ["picked"], "where"),
        helper.make_node("Relu", ["picked"], ["y"], "relu"),
    ]
    info = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", 3]),
        helper.make_tensor_value_info("level", TensorProto.FLOAT, []),
    ]
    graph = helper.make_graph(
        nodes, "odd", info, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.random.default_rng(1).standard_normal((9, 4)).astype(np.float32), "table"),
         numpy_helper.from_array(np.float32(0), "zero")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, path)
    return load(path)


def test_integers_bools_scalars_and_open_sizes(tmp_path: Path) -> None:
    graph = odd_net(tmp_path / "odd.onnx")
    ids, level = np.array([[1, 2, 8], [0, 3, 5]], np.int64), np.float32(0.25)
    golden = run(graph, {"ids": ids, "level": level})
    mask = golden[Port("greater", "output", 0)].numpy()
    dump = Dump({
        Port("gather", "input", 1): TensorRef.of(ids.astype(np.int32)),
        Port("where", "input", 2): TensorRef.of(np.array([level], np.float16)),
        Port("greater", "output", 0): TensorRef.of(mask.astype(np.uint8)),
        Port("gather", "output", 0): TensorRef.of(golden[Port("gather", "output", 0)].numpy().astype(np.float16)),
    }, {name: DumpedOp(name) for name in ("gather", "where", "greater")})
    part = handover.slice_model(graph, "gather", "where", dump=dump)
    made = handover.export_slice(part, tmp_path / "a", inputs={"ids": ids, "level": level})
    facts = {end.tensor: end for end in made.manifest.inputs}
    assert facts["ids"].shape == (2, 3), "the open size is what was dumped"
    assert facts["ids"].bin.dtype == "int64"
    assert (made.path / facts["ids"].bin.file).read_bytes() == ids.tobytes()
    assert facts["level"].shape == ()
    assert facts["level"].bin.bytes == 2
    assert 'input_shape="ids:2,3"' in made.manifest.atc
    assert '--input_fp16_nodes="level"' in made.manifest.atc
    assert made.manifest.self_test.status == "passed"
    part = handover.slice_model(graph, "not", "where", dump=dump)
    made = handover.export_slice(part, tmp_path / "b", inputs={"ids": ids, "level": level})
    facts = {end.tensor: end for end in made.manifest.inputs}
    assert np.load(made.path / facts["mask"].npy.file).dtype == np.bool_
    assert facts["mask"].bin.bytes == mask.size
    assert facts["rows"].shape == (2, 3, 4)
    assert made.manifest.self_test.status == "passed"
    assert part.run()[Port("where", "output", 0)].numpy().shape == (2, 3, 4)


def test_open_sizes_of_a_blocked_tensor_come_from_how_it_is_stored(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"], "relu"), helper.make_node("Abs", ["a"], ["y"], "abs")]
    shape = ["n", 5, "h", "w"]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "a", "y")]
    model = helper.make_model(
        helper.make_graph(nodes, "open", info[:1], info[2:], value_info=info[1:2]),
        opset_imports=[helper.make_opsetid("", 13)],
    )
    model.ir_version = 8
    onnx.save(model, tmp_path / "open.onnx")
    graph = load(tmp_path / "open.onnx")
    a = np.random.default_rng(1).standard_normal((2, 5, 3, 4)).astype(np.float16)
    ref = TensorRef.of(layouts.to_stored(a, "NCHW", "NC1HWC0"), "NC1HWC0")
    part = cut(graph, "abs", "abs", dump=Dump({Port("relu", "output", 0): ref}))
    np.testing.assert_array_equal(part.inputs[Port("relu", "output", 0)].numpy(), a)
    other = TensorRef.of(np.zeros((2, 6, 3, 4), np.float16))
    with pytest.raises(SliceError, match="cannot hold the model's nx5xhxw"):
        cut(graph, "abs", "abs", dump=Dump({Port("relu", "output", 0): other}))


# -- the folder --------------------------------------------------------------------------------------------------


def test_all_pieces_of_a_sliced_op_and_damaged_files_travel_along(net: Graph, golden: Dump, tmp_path: Path) -> None:
    relu1 = golden[Port("relu1", "output", 0)].numpy().astype(np.float16)
    told = {"threadMode": 0, "slice_instance_num": 2, "outputCutList": [[1, 2, 1, 1]]}
    source = tmp_path / "dump"
    source.mkdir()
    for number in range(2):
        part = np.ascontiguousarray(relu1[:, 10 * number:10 * number + 10])
        attrs = {"_ffts": json.dumps(told)}
        stamp = 1700000000000000 + number
        piece = DumpedOp(f"relu1_lxslice{number}", "Relu", time=stamp, task=1, stream=1, attrs=attrs)
        write_file(source, piece, [], [part])
    write_file(source, DumpedOp("conv2", "Conv2D", time=1700000000000005, task=2, stream=1), [], [relu1])
    broken = next(source.glob("Conv2D.*"))
    broken.write_bytes(broken.read_bytes()[:20])
    dump = read_dump(source)
    assert len(getattr(dump[Port("relu1", "output", 0)], "parts", ())) == 2
    part = handover.slice_model(net, "conv2", "relu2", dump=dump)
    made = handover.export_slice(part, tmp_path / "out")
    np.testing.assert_array_equal(np.load(made.path / "inputs" / "00_r1.npy"), relu1.astype(np.float32))
    copied = {path.name: path.read_bytes() for path in (made.path / "dump_data").iterdir()}
    assert copied == {path.name: path.read_bytes() for path in source.iterdir()}
    roles = {file.op: file.role for file in made.manifest.dump_data}
    assert roles == {"relu1": "feeds", "conv2": "inside"}
    assert any(file.damaged for file in made.manifest.dump_data)
    again = read_dump(made.path / "dump_data")
    np.testing.assert_array_equal(again[Port("relu1", "output", 0)].numpy(), relu1)


def test_dumps_with_long_names_can_be_read_from_the_folder_again(tmp_path: Path) -> None:
    long = "block/" * 60 + "relu"
    graph = residual_net(tmp_path / "long.onnx", {"relu1": long})
    relu1 = run(graph, {"x": X})[Port(long, "output", 0)].numpy().astype(np.float16)
    (tmp_path / "dump").mkdir()
    write_file(tmp_path / "dump", DumpedOp(long, "Relu", time=1700000000000000, task=1, stream=1), [], [relu1])
    assert (tmp_path / "dump" / "mapping.csv").exists()
    part = handover.slice_model(graph, "conv2", "relu2", dump=tmp_path / "dump")
    made = handover.export_slice(part, tmp_path / "out")
    again = read_dump(made.path / "dump_data")
    np.testing.assert_array_equal(again[Port(long, "output", 0)].numpy(), relu1)


def test_two_slices_in_one_second_are_two_folders_and_the_zip_holds_one(net: Graph, tmp_path: Path) -> None:
    from datetime import datetime

    when = datetime(2026, 11, 21, 12, 0, 0)
    part = handover.slice_model(net, "conv2", "relu2")
    made = [part.save(tmp_path, when=when, zip=True) for _ in range(3)]
    name = "dump_result_2026_11_21_12_00_00"
    assert [bundle.path.name for bundle in made] == [name, f"{name}_2", f"{name}_3"]
    for bundle in made:
        with zipfile.ZipFile(bundle.zip) as archive:
            assert {Path(entry).parts[0] for entry in archive.namelist()} == {bundle.path.name}
            assert archive.testzip() is None
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [bundle.path.name + end for bundle in made for end in ("", ".zip")]
    )


FULL = """
import resource, sys
from acccmp.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
main(sys.argv[2:])
"""


@pytest.mark.parametrize("size", [200, 10000, 20000])
def test_a_full_disk_is_one_line_and_nothing_is_left(net: Graph, tmp_path: Path, size: int) -> None:
    """Files cannot grow beyond a size: at 20,000 bytes all fit but the zip."""
    command = ["slice", str(net.path), "--start", "conv2", "--end", "relu2", "--zip", "-o", str(tmp_path / "a" / "b")]
    ran = subprocess.run(
        [sys.executable, "-c", FULL, str(size), *command], capture_output=True, text=True, check=False,
    )
    assert ran.returncode == 2
    assert len(ran.stderr.splitlines()) == 1, ran.stderr
    assert "cannot be written" in ran.stderr
    assert list(tmp_path.iterdir()) == []


SLOW = """
import sys, time
import acccmp.slicing.bundle as bundle
slow = bundle.readme
def readme(*args):
    print("now", flush=True)
    time.sleep(30)
    return slow(*args)
bundle.readme = readme
from acccmp.cli import main
main(sys.argv[1:])
"""


def test_ctrl_c_leaves_nothing(net: Graph, tmp_path: Path) -> None:
    command = ["slice", str(net.path), "--start", "conv2", "--end", "relu2", "-o", str(tmp_path / "out")]
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored under nohup, and then by the child
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        assert list(tmp_path.iterdir()), "it was in the middle of it"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    assert process.returncode == 2
    assert told.split("\n")[-2] == "acccmp: interrupted"
    assert "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


def test_a_large_model_is_run_in_pieces_with_the_same_numbers(net: Graph, golden: Dump) -> None:
    from acccmp.runners.pieces import run_lean

    wanted = ["r1", "c2", "r2", "y", "x"]
    for piece in (1, 5000, 1 << 20):
        given = run_lean(net, {"x": X}, wanted=wanted, piece=piece, large=0)
        assert set(given) == {net.producer(tensor) for tensor in wanted}
        for port, ref in given.items():
            np.testing.assert_array_equal(ref.numpy(), golden[port].numpy())
    assert set(run_lean(net, {"x": X}, wanted=["r1"], large=0)) == {Port("x", "output", 0), Port("relu1", "output", 0)}


def test_the_folder_holds_the_dumps_of_what_feeds_the_start(
    net: Graph, device: tuple[Path, Path], tmp_path: Path,
) -> None:
    part = handover.slice_model(net, "conv2", "relu2", dump=device[0], mapping=device[1])
    made = handover.export_slice(part, tmp_path)
    feeds = [file.file for file in made.manifest.dump_data if file.role == "feeds"]
    assert len(feeds) == 1
    fed_by = read_dump(made.path / feeds[0])
    entrance = part.inputs[Port("relu1", "output", 0)]
    assert any(port.side == "output" and ref.raw() == entrance.raw() for port, ref in fed_by.items())


def test_a_slice_shows_itself_in_a_notebook(net: Graph, fused_dump: Dump) -> None:
    shown = cut(net, "conv2", "relu2", dump=fused_dump, mapping=FUSED)._repr_html_()
    assert "relu1:output:0" in shown
    assert "<script" not in shown


# -- the loop, for all three formats -----------------------------------------------------------------------------


def device_run(part: Graph, feeds: dict[str, np.ndarray], folder: Path, wrong: str = "") -> Path:
    """What a device would dump of a slice: our own run in float16, files named by layer; `wrong` is off by half."""
    folder.mkdir()
    given: dict[str, list[np.ndarray]] = {}
    for port, ref in run(part, feeds).items():
        if port.node not in part.constants or port.node in part.inputs:
            array = ref.numpy() * np.float32(1.5 if port.node == wrong else 1)
            given.setdefault(port.node, []).append(array.astype(np.float16))
    for place, (name, arrays) in enumerate(given.items()):
        kind = part[name].op_type if name in part else "Data"
        write_file(folder, DumpedOp(name, kind, time=1700000000000000 + place, task=1, stream=1), [], arrays)
    return folder


@pytest.mark.parametrize(("model", "start", "end"), [
    ("digits_lenet/lenet.prototxt", "pool1", "conv2"), ("digits_cnn/cnn.pb", None, None),
])
def test_the_loop_closes_for_caffe_and_tensorflow_too(
    samples: Path, tmp_path: Path, model: str, start: str | None, end: str | None,
) -> None:
    if model.endswith(".pb"):
        pytest.importorskip("tensorflow")
    root = (samples / model).parent
    weights = root / "lenet.caffemodel" if model.endswith(".prototxt") else None
    graph = load(samples / model, weights)
    if start is None or end is None:
        relus = [node.name for node in graph.nodes if node.op_type == "Relu"]
        convolutions = [node.name for node in graph.nodes if node.op_type == "Conv2D"]
        start, end = convolutions[1], relus[1]
    options = ["--weights", weights] if weights else []
    where = ["--dump", root / "npu", "--mapping", root / "mapping.json", "-o", tmp_path / "handed"]
    ran = run_cli("slice", samples / model, *options, "--start", start, "--end", end, *where)
    assert ran.returncode == 0, ran.stderr
    handed = next((tmp_path / "handed").iterdir())
    _, manifest = read_manifest(handed)
    assert manifest.self_test.status == "passed"
    ran = subprocess.run([sys.executable, "reproduce.py"], cwd=handed, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    sliced = load(handed)
    feeds = bundled_inputs(handed, manifest, sliced)
    healthy = device_run(sliced, feeds, tmp_path / "healthy")
    ran = run_cli("compare", handed, healthy)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "the full model" in ran.stdout
    last = sliced.producer(sliced.outputs[0])
    assert last is not None
    bad = device_run(sliced, feeds, tmp_path / "bad", wrong=last.node)
    ran = run_cli("compare", handed, bad, "--json")
    assert ran.returncode == 1
    rows = json.loads(ran.stdout)["slice"]["comparisons"]
    assert next(row["originals"] for row in rows if row["verdict"] == "drift") == [last.node]


def test_a_slice_whose_inputs_were_changed_is_not_compared(
    net: Graph, device: tuple[Path, Path], tmp_path: Path,
) -> None:
    part = handover.slice_model(net, "conv2", "relu2", dump=device[0], mapping=device[1])
    made = handover.export_slice(part, tmp_path)
    file = made.path / "inputs" / "00_r1.bin"
    file.write_bytes(bytes(file.stat().st_size))
    ran = run_cli("compare", made.path, device[0])
    assert ran.returncode == 2
    assert "00_r1.bin" in ran.stderr
    assert "SHA-256" in ran.stderr


def test_a_damaged_manifest_is_one_line(net: Graph, device: tuple[Path, Path], tmp_path: Path) -> None:
    made = handover.export_slice(handover.slice_model(net, "conv2", "relu2"), tmp_path, check=False)
    manifest = json.loads((made.path / "manifest.json").read_text())
    for damaged in ({**manifest, "slice": 3}, {**manifest, "inputs": {"a": 1}}, {**manifest, "slice": {"files": [7]}},
                    {**manifest, "inputs": [{"name": "r1", "port": "x", "bin": {"file": "/etc/passwd"}}]}):
        (made.path / "manifest.json").write_text(json.dumps(damaged))
        ran = run_cli("compare", made.path, device[0])
        assert ran.returncode == 2
        assert len(ran.stderr.splitlines()) == 1
        assert "manifest.json" in ran.stderr, ran.stderr
