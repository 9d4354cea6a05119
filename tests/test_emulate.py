"""The emulated device against numpy, against the file format written out by hand, and against the mapping rules."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dump_bytes
import numpy as np
import onnx
import pytest
from dump_bytes import FLOAT, FLOAT16, NC1HWC0, blob, number
from emulated_nets import Array, device_outputs, model_file, picture, residual
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from acccmp.core.dump import Port
from acccmp.core.graph import Graph
from acccmp.core.tensor import TensorRef
from acccmp.dumps.read import read_dump
from acccmp.emulator.emulate import Fault, Twin, emulate
from acccmp.emulator.fusion import plan
from acccmp.emulator.storage import Storage
from acccmp.errors import InputError, RunError
from acccmp.models.atc_json import load as load_mapping
from acccmp.models.onnx import load


def half(array: Array) -> Array:
    return np.asarray(array).astype(np.float16).astype(np.float64)


def bfloat(array: Array) -> Array:
    """Rounded to bfloat16, by bits: nearest, ties to even."""
    bits = np.asarray(array, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16
    return rounded.astype(np.uint32).view(np.float32).astype(np.float64)


def conv3x3(x: Array, w: Array) -> Array:
    """Convolution with a padding of 1, written as loops, in float64."""
    n, _, height, width = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    out = np.zeros((n, w.shape[0], height, width))
    for i in range(height):
        for j in range(width):
            out[:, :, i, j] = np.einsum("nchw,ochw->no", padded[:, :, i:i + 3, j:j + 3], w)
    return out


def by_hand(x: Array, weights: dict[str, Array], store: Callable[[Array], Array]) -> dict[str, Array]:
    """What a device stores for `residual`: batch norm in the weights, one rounding for each fused op."""
    def fold(n: str) -> tuple[Array, Array]:
        g, b, m, v = (weights[f"{k}{n}"].astype(np.float64) for k in "gbmv")
        scale = g / np.sqrt(v + 1e-3)
        return store(weights[f"w{n}"] * scale[:, None, None, None]), store(b - m * scale)

    (w1, b1), (w2, b2) = fold("1"), fold("2")
    stored = {"x": store(x)}
    stored["relu1"] = store(np.maximum(conv3x3(stored["x"], w1) + b1[:, None, None], 0))
    stored["bn2"] = store(conv3x3(stored["relu1"], w2) + b2[:, None, None])
    stored["add"] = store(stored["bn2"] + stored["relu1"])
    stored["relu2"] = store(np.maximum(stored["add"], 0))
    return stored


@pytest.mark.parametrize(("precision", "store"), [("float16", half), ("bfloat16", bfloat)])
def test_an_independent_numpy_emulation_gives_the_same_numbers(
    tmp_path: Path, precision: str, store: Callable[[Array], Array],
) -> None:
    path, weights = residual(tmp_path)
    x = picture(2, 3, 5, 7)
    emulate(load(path), {"x": x}, tmp_path, precision=precision)
    found, expected = device_outputs(tmp_path), by_hand(x, weights, store)
    unit = 2.0**-10 if precision == "float16" else 2.0**-7
    for name in ("relu1", "bn2", "add", "relu2"):
        off = np.abs(found[name].astype(np.float64) - expected[name])
        ulp = unit * 2.0 ** np.floor(np.log2(np.maximum(np.abs(expected[name]), 2.0**-14)))
        # float32 sums can fall on the other side of a rounding border, rarely, and then the ops behind differ a little.
        assert (off <= 2 * ulp).mean() > 0.995, name
        assert np.mean(off == 0) > 0.9, name
    first = np.abs(found["relu1"].astype(np.float64) - expected["relu1"])
    assert (first <= unit * 2.0 ** np.floor(np.log2(np.maximum(expected["relu1"], 2.0**-14)))).all()


def test_bfloat16_needs_no_newer_opset(tmp_path: Path) -> None:
    path, weights = residual(tmp_path, opset=9)
    x = picture(2, 3, 5, 7)
    emulate(load(path), {"x": x}, tmp_path, precision="bfloat16")
    expected = by_hand(x, weights, bfloat)["relu1"]
    assert np.abs(device_outputs(tmp_path)["relu1"] - expected).max() <= 2.0**-7 * np.abs(expected).max()


def test_every_stored_number_is_a_float16(tmp_path: Path) -> None:
    path, _ = residual(tmp_path)
    emulate(load(path), {"x": picture(2, 3, 5, 7)}, tmp_path)
    for port, ref in read_dump(tmp_path / "npu").refs.items():
        if ref.dtype.name == "float32":  # the model's own input and output
            assert port.node in ("x", "Node_Output") or "Cast" in port.node
        else:
            assert ref.dtype.name == "float16"


# -- storage -----------------------------------------------------------------------------------------------------

EDGES = np.array([
    65504, 65519.99, 65520, -65520, 1e38, np.inf, -np.inf, np.nan, 2.0**-14, 2.0**-15, 2.0**-24, -(2.0**-24), 2.0**-25,
    0.0, -0.0, 1.0009765, 3.0,
], np.float32)


def test_overflow_is_kept_as_infinity() -> None:
    with np.errstate(over="ignore"):
        expected = EDGES.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(Storage().round(EDGES), expected)
    assert np.isinf(Storage().round(EDGES)[[2, 3, 4, 5, 6]]).all()


def test_saturation_makes_65504_of_infinity_and_0_of_nan() -> None:
    found = Storage(overflow="saturate").round(EDGES)
    np.testing.assert_array_equal(found[:8], [65504, 65504, 65504, -65504, 65504, 65504, -65504, 0])
    np.testing.assert_array_equal(found[8:], Storage().round(EDGES)[8:])


def test_saturation_of_bfloat16_stops_at_its_own_largest_number() -> None:
    found = Storage("bfloat16", "saturate").round(np.array([3.4e38, -np.inf, np.nan, 1e30], np.float32))
    np.testing.assert_array_equal(found[:3], np.array([2.0**127 * (2 - 2.0**-7), -(2.0**127) * (2 - 2.0**-7), 0]))
    assert found[3] == pytest.approx(1e30, rel=2**-8)


def test_subnormals_are_kept_or_flushed() -> None:
    kept, flushed = Storage().round(EDGES), Storage(flush_subnormals=True).round(EDGES)
    np.testing.assert_array_equal(kept[8:12], [2.0**-14, 2.0**-15, 2.0**-24, -(2.0**-24)])
    np.testing.assert_array_equal(flushed[8:12], [2.0**-14, 0, 0, 0])
    np.testing.assert_array_equal(flushed[12:], kept[12:])


@given(st.lists(st.floats(width=32), max_size=50), st.sampled_from(["float16", "bfloat16"]),
       st.sampled_from(["keep", "saturate"]), st.booleans())
def test_what_is_stored_once_reads_back_the_same(
    numbers: list[float], precision: str, overflow: str, flush: bool,
) -> None:
    storage = Storage(precision, overflow, flush)
    once = storage.round(np.array(numbers, np.float32))
    np.testing.assert_array_equal(storage.round(once), once)


def test_integers_and_scalars_are_left_alone() -> None:
    whole = np.array([2**40 + 1, -3])
    assert Storage().round(whole) is whole
    assert Storage().round(np.array(1.0009765, np.float32)).shape == ()


def test_a_device_in_saturation_mode_dumps_65504_where_the_other_has_infinity(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "k"], ["big"], name="big"),
        helper.make_node("Sub", ["big", "big"], ["nan"], name="nan"),
    ]
    path = model_file(tmp_path, nodes, {"x": (1, 4)}, ["big", "nan"], {"k": np.array([60000], np.float32)})
    x = np.array([[1, 2, -2, 0.5]], np.float32)
    emulate(load(path), {"x": x}, tmp_path / "keep")
    emulate(load(path), {"x": x}, tmp_path / "saturate", overflow="saturate")
    keep, saturate = device_outputs(tmp_path / "keep"), device_outputs(tmp_path / "saturate")
    np.testing.assert_array_equal(keep["big"], [[60000, np.inf, -np.inf, 30000]])
    np.testing.assert_array_equal(saturate["big"], [[60000, 65504, -65504, 30000]])
    np.testing.assert_array_equal(keep["nan"], [[0, np.nan, np.nan, 0]])
    np.testing.assert_array_equal(saturate["nan"], [[0, 0, 0, 0]])


# -- fusion ------------------------------------------------------------------------------------------------------


def steps_of(path: Path, **options: Any) -> list[str]:
    return [step.name for step in plan(load(path), **options).steps if not step.folded]


def test_a_convolution_takes_batch_norm_and_activation_with_it(tmp_path: Path) -> None:
    path, _ = residual(tmp_path)
    assert steps_of(path) == ["conv1bn1relu1", "conv2bn2", "add", "relu2"]
    assert len(steps_of(path, fuse=False)) == 7


def test_a_tensor_with_two_readers_or_a_model_output_is_never_fused_away(tmp_path: Path) -> None:
    w = np.ones((4, 4, 1, 1), np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="c"),
        helper.make_node("Relu", ["c"], ["r"], name="r"),
        helper.make_node("Sigmoid", ["c"], ["s"], name="s"),
        helper.make_node("Conv", ["r", "w"], ["d"], name="d"),
        helper.make_node("Relu", ["d"], ["e"], name="e"),
    ]
    assert steps_of(model_file(tmp_path, nodes, {"x": (1, 4, 2, 2)}, ["s", "d", "e"], {"w": w})) == list("crsde")


def test_bias_slope_and_identity_join_and_shapes_are_folded(tmp_path: Path) -> None:
    weights = {
        "w": np.ones((4, 4), np.float32), "b": np.ones(4, np.float32), "slope": np.ones(1, np.float32),
        "one": np.array([-1], np.int64),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="m"),
        helper.make_node("Add", ["b", "m"], ["a"], name="a"),
        helper.make_node("PRelu", ["a", "slope"], ["p"], name="p"),
        helper.make_node("Identity", ["p"], ["i"], name="i"),
        helper.make_node("Shape", ["x"], ["shape"], name="shape"),
        helper.make_node("Concat", ["one", "shape"], ["joined"], name="joined", axis=0),
        helper.make_node("Reshape", ["i", "joined"], ["y"], name="y"),
    ]
    path = model_file(tmp_path, nodes, {"x": (3, 4)}, ["y"], weights)
    assert steps_of(path) == ["mapi", "y"]
    emulate(load(path), {"x": picture(3, 4)}, tmp_path)
    assert device_outputs(tmp_path)["y"].shape == (1, 3, 4)


def test_a_sum_of_two_activations_is_no_bias(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="m"), helper.make_node("Add", ["m", "x"], ["y"], name="y"),
    ]
    assert steps_of(model_file(tmp_path, nodes, {"x": (4, 4)}, ["y"], {"w": np.ones((4, 4), np.float32)})) == ["m", "y"]


# -- files -------------------------------------------------------------------------------------------------------


def test_a_dump_file_is_the_bytes_that_the_format_says(tmp_path: Path) -> None:
    """A Relu of 2 channels in NC1HWC0: length, header with the field numbers of the format, payloads."""
    path = model_file(
        tmp_path, [helper.make_node("MaxPool", ["x"], ["y"], name="a/pool.1", kernel_shape=[1, 1])],
        {"x": (1, 2, 1, 2)}, ["y"], {},
    )
    x = np.array([[[[1, 2]], [[3, 4]]]], np.float32)
    made = emulate(load(path), {"x": x}, tmp_path)
    (file,) = made.dump.glob("MaxPool.*")
    assert file.name == "MaxPool.a_pool_1.3.1.1700000000003000"
    raw = file.read_bytes()
    stored = np.zeros((1, 1, 1, 2, 16), "<f2")
    stored[0, 0, 0, :, 0], stored[0, 0, 0, :, 1] = [1, 2], [3, 4]
    address = {key: int(value) for key, value in addresses(file).items()}
    output = dump_bytes.output(
        FLOAT16, NC1HWC0, (1, 1, 1, 2, 16), 64, (1, 2, 1, 2),
        origin=blob(1, b"a/pool.1") + number(3, FLOAT),  # name, index 0 and NCHW (0: not written), DT_FLOAT
        extra=number(9, address["output"]),
    )
    fed = dump_bytes.input_(FLOAT16, NC1HWC0, (1, 1, 1, 2, 16), 64, (1, 2, 1, 2)) + number(8, address["input"])
    header = dump_bytes.header("a/pool.1", (output,), (fed,), time=1_700_000_000_003_000)
    assert raw == dump_bytes.big(header, stored.tobytes() * 2)


def addresses(file: Path) -> dict[str, int]:
    """The device addresses of the first input and output: the one thing in a header that is ours to choose."""
    from acccmp.schemas import dump_pb2

    raw = file.read_bytes()
    header = dump_pb2.DumpData.FromString(raw[8:8 + struct.unpack("<Q", raw[:8])[0]])
    return {"input": header.input[0].address, "output": header.output[0].address}


def test_stored_tensors_have_zero_padding_and_the_order_of_their_layout(tmp_path: Path) -> None:
    path, _ = residual(tmp_path)
    emulate(load(path), {"x": picture(2, 3, 5, 7)}, tmp_path)
    dump = read_dump(tmp_path / "npu")
    ref = dump[Port("conv1bn1relu1", "output", 0)]
    assert (ref.layout, ref.shape) == ("NC1HWC0", (2, 1, 5, 7, 16))
    stored, plain = ref.stored(), device_outputs(tmp_path)["relu1"]
    for n, c, h, w in np.ndindex(2, 16, 5, 7):
        assert stored[n, c // 16, h, w, c % 16] == (plain[n, c, h, w] if c < 6 else 0)
    weight = dump[Port("conv1bn1relu1", "input", 1)]
    assert (weight.layout, weight.shape) == ("FRACTAL_Z", (9, 1, 16, 16))
    nz = dump[Port("conv1bn1relu1", "input", 2)]
    assert (nz.layout, nz.shape) == ("ND", (6,))


def test_matrices_are_stored_in_blocks_and_come_back_plain(tmp_path: Path) -> None:
    weights = {"w": picture(20, 5)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="m")]
    path = model_file(tmp_path, nodes, {"x": (3, 20)}, ["y"], weights)
    x = picture(3, 20)
    emulate(load(path), {"x": x}, tmp_path)
    ref = read_dump(tmp_path / "npu")[Port("m", "output", 0)]
    assert (ref.layout, ref.shape) == ("FRACTAL_NZ", (1, 1, 16, 16))
    expected = (half(x) @ half(weights["w"])).astype(np.float16)
    for i, j in np.ndindex(3, 5):
        assert ref.stored()[j // 16, i // 16, i % 16, j % 16] == pytest.approx(expected[i, j], rel=2**-10)
    emulate(load(path), {"x": x}, tmp_path / "plain", layout="nd")
    dump = read_dump(tmp_path / "plain" / "npu")
    assert {ref.layout for ref in dump.refs.values()} == {"ND"}
    assert not [op for op in dump.ops if "TransData" in op]


def test_the_mapping_has_the_shape_of_atcs_json(tmp_path: Path) -> None:
    path, _ = residual(tmp_path)
    emulate(load(path), {"x": picture(2, 3, 5, 7)}, tmp_path)
    model = json.loads((tmp_path / "mapping.json").read_text())
    ops = {op["name"]: op for op in model["graph"][0]["op"]}
    assert [op["id"] for op in ops.values()] == list(range(len(ops)))
    assert next(op["type"] for op in ops.values()) == "Data"
    fused = ops["conv1bn1relu1"]
    attrs = {item["key"]: item["value"] for item in fused["attr"]}
    assert fused["type"] == "Conv2D"
    assert attrs["_datadump_original_op_names"]["list"]["s"] == ["conv1", "bn1", "relu1"]
    described = fused["output_desc"][0]
    assert (described["dtype"], described["layout"]) == ("DT_FLOAT16", "NC1HWC0")
    assert described["shape"]["dim"] == [2, 1, 5, 7, 16]
    told = {item["key"]: item["value"] for item in described["attr"]}
    assert told["_datadump_origin_name"] == {"s": "relu1"}
    assert told["_datadump_origin_output_index"] == {"i": 0}
    assert told["_datadump_origin_format"] == {"s": "NCHW"}
    assert told["origin_shape"]["list"]["i"] == [2, 6, 5, 7]
    inserted = [op for op in ops.values() if op["type"] in ("Cast", "TransData")]
    assert len(inserted) == 4  # in and out: the cast and the change of layout
    for op in inserted:
        originals = {item["key"]: item["value"] for item in op["attr"]}["_datadump_original_op_names"]
        assert "s" not in originals["list"]
    assert list(ops.values())[-1]["type"] == "NetOutput"


def test_every_op_with_a_file_is_in_the_mapping_and_edges_name_existing_outputs(tmp_path: Path) -> None:
    path, _ = residual(tmp_path)
    emulate(load(path), {"x": picture(2, 3, 5, 7)}, tmp_path)
    mapping, dump = load_mapping(tmp_path / "mapping.json"), read_dump(tmp_path / "npu")
    assert set(dump.ops) == {node.name for node in mapping.nodes if node.op_type != "Const"}
    for node in mapping.nodes:
        for tensor in node.inputs:
            assert mapping.producer(tensor) is not None, (node.name, tensor)
    for node in mapping.nodes:  # an input is what its producer made
        for slot, tensor in enumerate(node.inputs):
            before, here = mapping.producer(tensor), Port(node.name, "input", slot)
            assert before is not None
            if before in dump:
                assert dump[here].raw() == dump[before].raw()


def test_an_op_whose_result_nobody_reads_holds_the_output_back_by_a_control_edge(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["y"], name="y"), helper.make_node("Sigmoid", ["x"], ["loose"], name="loose"),
    ]
    emulate(load(model_file(tmp_path, nodes, {"x": (2, 2)}, ["y"], {})), {"x": picture(2, 2)}, tmp_path)
    end = load_mapping(tmp_path / "mapping.json").nodes[-1]
    assert (end.op_type, end.control) == ("NetOutput", ("loose",))


def test_output_mode_leaves_the_inputs_out(tmp_path: Path) -> None:
    path, _ = residual(tmp_path)
    emulate(load(path), {"x": picture(2, 3, 5, 7)}, tmp_path / "a")
    emulate(load(path), {"x": picture(2, 3, 5, 7)}, tmp_path / "b", dump_mode="output")
    both, outputs = read_dump(tmp_path / "a" / "npu"), read_dump(tmp_path / "b" / "npu")
    assert set(outputs) == {port for port in both if port.side == "output"}


def test_a_tree_has_the_folders_of_a_device(tmp_path: Path) -> None:
    path, _ = residual(tmp_path)
    made = emulate(load(path), {"x": picture(2, 3, 5, 7)}, tmp_path, tree=True)
    (file,) = made.dump.rglob("Conv2D.conv2bn2.*")
    assert file.relative_to(made.dump).parts[:-1] == ("20231114221320", "0", "net", "1", "0")
    assert len(read_dump(made.dump)) > 10


def digest(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    path, _ = residual(tmp_path)
    faults = [Fault("conv2", "noise", seed=5)]
    for name in "ab":
        emulate(load(path), {"x": picture(2, 3, 5, 7)}, tmp_path / name, faults=faults)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_another_order_of_summation_changes_little_and_something(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="m")]
    path = model_file(tmp_path, nodes, {"x": (64, 300)}, ["y"], {"w": picture(300, 64)})
    x = picture(64, 300)
    emulate(load(path), {"x": x}, tmp_path / "a")
    emulate(load(path), {"x": x}, tmp_path / "b", summation=1)
    a, b = (device_outputs(tmp_path / n)["m"].astype(np.float64) for n in "ab")
    assert 0 < np.abs(a - b).max() <= 2.0**-10 * np.abs(a).max()


def test_integers_bools_and_control_flow_pass_through(tmp_path: Path) -> None:
    def branch(name: str, op: str) -> onnx.GraphProto:
        return helper.make_graph(
            [helper.make_node(op, ["x", "k"], [f"{name}_y"], name=name)], name, [],
            [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)],
        )

    branches = {"then_branch": branch("t", "Add"), "else_branch": branch("e", "Mul")}
    nodes = [
        helper.make_node("If", ["flag"], ["y"], name="choose", **branches),
        helper.make_node("ArgMax", ["y"], ["best"], name="best", axis=1),
        helper.make_node("Not", ["flag"], ["other"], name="other"),
    ]
    path = model_file(
        tmp_path, nodes, {"x": (2, 3), "flag": ()}, ["y", "best", "other"], {"k": np.array([0.1], np.float32)},
        types={"flag": TensorProto.BOOL, "best": TensorProto.INT64, "other": TensorProto.BOOL},
    )
    x = picture(2, 3)
    emulate(load(path), {"x": x, "flag": np.array(True)}, tmp_path)
    found = device_outputs(tmp_path)
    expected = (half(x) + half(np.float32(0.1))).astype(np.float16)
    np.testing.assert_array_equal(found["choose"], expected)
    np.testing.assert_array_equal(found["best"][:, 0], expected.argmax(1))
    assert found["best"].dtype == np.int64
    assert found["other"] == np.array(False)


# -- twins -------------------------------------------------------------------------------------------------------


def test_a_twin_speaks_of_the_original_in_its_order(tmp_path: Path) -> None:
    path, _ = residual(tmp_path)
    twin = Twin({"conv1": ("scope/Pad", "scope/Conv2D"), "relu2": ("out/Relu",)}, "NHWC")
    x = picture(2, 3, 5, 7)
    emulate(load(path), {"x": x}, tmp_path / "plain")
    emulate(load(path), {"x": x}, tmp_path / "twin", twin=twin)
    mapping = load_mapping(tmp_path / "twin" / "mapping.json")
    assert mapping["conv1bn1relu1"].origins == ("scope/Pad", "scope/Conv2D", "bn1", "relu1")
    assert mapping.spec("x:0").shape == (2, 5, 7, 3)
    plain, twins = device_outputs(tmp_path / "plain"), device_outputs(tmp_path / "twin")
    np.testing.assert_array_equal(twins["out/Relu"], plain["relu2"].transpose(0, 2, 3, 1))
    filters = read_dump(tmp_path / "twin" / "npu")[Port("conv1bn1relu1", "input", 1)]
    same = read_dump(tmp_path / "plain" / "npu")[Port("conv1bn1relu1", "input", 1)]
    assert (filters.raw(), filters.original_shape) == (same.raw(), (3, 3, 3, 6))


# -- bad input ---------------------------------------------------------------------------------------------------


def refused(path: Path, inputs: dict[str, Array], folder: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        emulate(load(path), inputs, folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_wrong_inputs_are_told_by_name(tmp_path: Path) -> None:
    path, _ = residual(tmp_path)
    x = picture(2, 3, 5, 7)
    assert "'xx'" in refused(path, {"xx": x}, tmp_path)
    assert "also needs the input x" in refused(path, {}, tmp_path)
    assert "1x3x5x7, wanted is 2x3x5x7" in refused(path, {"x": x[:1]}, tmp_path)
    assert "wanted is float32" in refused(path, {"x": x.astype(np.int64)}, tmp_path)
    assert "bfloat16, not 'int8'" in refused(path, {"x": x}, tmp_path, precision="int8")
    assert "'wrap'" in refused(path, {"x": x}, tmp_path, overflow="wrap")
    assert "'some'" in refused(path, {"x": x}, tmp_path, dump_mode="some")
    assert not (tmp_path / "npu").exists()


def test_a_dump_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    path, _ = residual(tmp_path)
    emulate(load(path), {"x": picture(2, 3, 5, 7)}, tmp_path)
    before = digest(tmp_path)
    assert "is there already" in refused(path, {"x": picture(2, 3, 5, 7)}, tmp_path)
    assert digest(tmp_path) == before


def test_an_op_that_cannot_be_run_is_named_and_leaves_nothing_behind(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="fine"),
        helper.make_node("Frobnicate", ["r"], ["y"], name="odd", domain="somebody"),
    ]
    path = model_file(tmp_path, nodes, {"x": (1, 2)}, ["y"], {})
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("somebody", 1))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(RunError, match=r"odd \(Frobnicate\)"):
        emulate(load(path), {"x": picture(1, 2)}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_onnx_models_are_emulated(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ONNX twin"):
        emulate(Graph("net", "caffe", ()), {}, tmp_path)


def test_names_that_are_long_or_odd_still_reach_the_dump(tmp_path: Path) -> None:
    long = "block/" * 60 + "conv:0(1)"
    nodes = [helper.make_node("Relu", ["x"], ["y"], name=long)]
    emulate(load(model_file(tmp_path, nodes, {"x": (1, 2)}, ["y"], {})), {"x": picture(1, 2)}, tmp_path)
    ref = read_dump(tmp_path / "npu")[Port(long, "output", 0)]
    assert isinstance(ref, TensorRef)
    np.testing.assert_array_equal(ref.numpy(), np.maximum(picture(1, 2).astype(np.float16), 0))
