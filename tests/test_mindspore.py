"""MindSpore models and checkpoints: real files, and what they can also contain, written by hand."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import acccmp
from acccmp.errors import FormatError
from acccmp.models import mindspore
from acccmp.schemas import ckpt_pb2, mindir_pb2


def real(shared: Path, pattern: str) -> Path:
    return next((shared / "mindspore").glob(pattern))


# -- real files --------------------------------------------------------------------------------------------------


def test_primitives_are_looked_up_and_plumbing_is_gone(shared: Path) -> None:
    graph = mindspore.load(real(shared, "*ori_net*"))
    assert [node.op_type for node in graph.nodes] == [
        *("Conv2D", "ReLU", "MaxPool") * 2, "Reshape", "MatMul", "ReLU", "MatMul", "ReLU", "MatMul",
    ]
    first = graph["Default/conv1-Conv2d/Conv2D-op1"]
    assert first.inputs == ("x", "conv1.weight")
    assert first.attrs["kernel_size"] == (5, 5)
    assert first.attrs["group"] == 1
    assert graph.outputs == ("x:23",)
    assert graph.spec("x:23").shape == (1, 10)
    assert graph["Default/flatten-Flatten/Reshape-op8"].attrs["input_1"] == (1, -1)
    assert graph.spec("x").shape == (1, 1, 32, 32)  # a constant of the file is called x too


def test_weights_stay_in_the_file_and_read_as_protobuf_has_them(shared: Path) -> None:
    path = real(shared, "*ori_net*")
    graph = mindspore.load(path)
    model = mindir_pb2.ModelProto.FromString(path.read_bytes())
    for parameter in model.graph.parameter:
        ref = graph.weights[parameter.name.partition(":")[2]]
        assert ref.array is None
        assert np.array_equal(ref.numpy().ravel(), np.frombuffer(parameter.raw_data, "<f4"))
    assert len(graph.weights) == 5  # two parameters, three constants


def test_the_older_form_names_types_directly(shared: Path) -> None:
    graph = mindspore.load(real(shared, "*relu*"))
    assert [(node.name, node.op_type) for node in graph.nodes] == [("Default/relu-ReLU/ReLU-op188", "ReLU")]


def test_an_encrypted_model_is_told_with_its_cipher(shared: Path) -> None:
    path = real(shared, "*encrpty*")
    with pytest.raises(FormatError, match=r"AES-GCM.*without a key"):
        mindspore.load(path)
    assert mindspore.describe(path)["encrypted"] == "AES-GCM"


def test_a_real_checkpoint_gives_its_tensors_and_scalars(shared: Path) -> None:
    path = real(shared, "*lenet*")
    graph = mindspore.load_checkpoint(path)
    values = {value.tag: value.tensor for value in ckpt_pb2.Checkpoint.FromString(path.read_bytes()).value}
    assert list(graph.weights) == list(values)
    for tag, ref in graph.weights.items():
        assert ref.raw() == values[tag].tensor_content
    assert graph.weights["learning_rate"].shape == ()
    assert graph.weights["learning_rate"].numpy() == pytest.approx(0.001)
    assert any("optimiser" in note for note in graph.notes)
    json.dumps(mindspore.describe_checkpoint(path))


def test_a_strategy_file_parses_to_nothing_and_is_told_apart(shared: Path) -> None:
    with pytest.raises(FormatError, match="strategy file"):
        mindspore.load_checkpoint(real(shared, "*strategy*"))


# -- checkpoints by hand -----------------------------------------------------------------------------------------


def value(tag: str, dims: list[int], kind: str, content: bytes) -> bytes:
    found = ckpt_pb2.Checkpoint()
    item = found.value.add(tag=tag)
    item.tensor.dims.extend(dims)
    item.tensor.tensor_type, item.tensor.tensor_content = kind, content
    return found.SerializeToString()


def test_a_tensor_cut_into_pieces_is_joined_without_reading_it(tmp_path: Path) -> None:
    whole = np.arange(60, dtype="<f4").reshape(5, 4, 3)
    raw = whole.tobytes()
    path = tmp_path / "big.ckpt"
    # Cut in the middle of a number, too.
    path.write_bytes(b"".join(value("w", [5, 4, 3], "Float32", raw[a:b]) for a, b in ((0, 98), (98, 160), (160, 240)))
                     + value("b", [2], "Float32", struct.pack("<2f", 1, 2)))
    graph = mindspore.load_checkpoint(path)
    ref = graph.weights["w"]
    assert ref.array is None
    assert np.array_equal(ref.numpy(), whole)
    assert np.array_equal(ref.read((slice(1, 3), slice(2, 4), slice(0, 2))), whole[1:3, 2:4, :2])
    assert np.array_equal(np.concatenate(list(ref.blocks(7))), whole.ravel())
    assert ref.raw() == raw
    assert graph.weights["b"].numpy().tolist() == [1, 2]


@pytest.mark.parametrize(("kind", "numpy", "content", "expected"), [
    ("BFloat16", "f4", b"\x80\x3f\x00\x40", [1.0, 2.0]), ("Bool", "?", b"\1\0", [True, False]),
    ("Int8", "i1", b"\xff\x01", [-1, 1]), ("UInt16", "u2", b"\x01\x00\xff\xff", [1, 65535]),
    ("Float64", "f8", struct.pack("<2d", 0.5, -1), [0.5, -1.0]),
])
def test_types_of_checkpoints(tmp_path: Path, kind: str, numpy: str, content: bytes, expected: list[Any]) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(value("t", [2], kind, content))
    found = mindspore.load_checkpoint(path).weights["t"].numpy()
    assert found.dtype == np.dtype(numpy)
    assert found.tolist() == expected


def test_a_checksum_at_the_end_is_stripped_and_checked(tmp_path: Path) -> None:
    body = value("w", [1], "Float32", struct.pack("<f", 3))
    path = tmp_path / "a.ckpt"
    path.write_bytes(body + b"crc_num" + zlib.crc32(body).to_bytes(10, "big"))
    assert mindspore.load_checkpoint(path).weights["w"].numpy() == 3
    assert mindspore.describe_checkpoint(path)["checksum"] == "right"
    path.write_bytes(body + b"crc_num" + (7).to_bytes(10, "big"))
    assert mindspore.describe_checkpoint(path)["checksum"] == "wrong"


def test_map_tensors_and_texts(tmp_path: Path) -> None:
    found = ckpt_pb2.Checkpoint()
    item = found.value.add(tag="table")
    for content in (b"\1\0\0\0", b"\0\0\x80\x3f", b"\2\0\0\0"):
        kind = "Float32" if content[2] else "Int32"
        item.maptensor.tensor.add(dims=[1], tensor_type=kind, tensor_content=content)
    path = tmp_path / "a.ckpt"
    others = value("name", [1], "str", b"abc") + value("short", [9], "Int32", b"1234")
    path.write_bytes(found.SerializeToString() + others)
    graph = mindspore.load_checkpoint(path)
    assert {name: ref.numpy().item() for name, ref in graph.weights.items()} == {
        "table.key": 1, "table.value": 1.0, "table.status": 2,
    }
    assert sum("left out" in note for note in graph.notes) == 2


@pytest.mark.parametrize(("raw", "message"), [
    (b"\x80\x02}q\x00.", "pickle"), (b"model_checkpoint_path: \"model\"\n", "TensorFlow"),
    (b"\0" * 40 + bytes.fromhex("57fb808b247547db"), "TensorFlow checkpoint"),
    (b"\x89HDF\r\n\x1a\n" + b"\0" * 64, "HDF5"),
    (b"\x02\0\0\0\0\0\0\0{}", "safetensors"), (b"", "empty"), (b"\x0a\xff\xff\xff\xff\x0f", "cut off"),
    (b"\xd8\x5e\x3a\x7f" + b"\0" * 40, "AES-GCM"), (b"\xda\x5e\x3a\x7f" + b"\0" * 40, "SM4-CBC"),
])
def test_what_others_call_a_checkpoint_is_refused_in_one_line(tmp_path: Path, raw: bytes, message: str) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(raw)
    with pytest.raises(FormatError, match=message) as caught:
        acccmp.load(path)
    assert "\n" not in str(caught.value)


def test_a_pytorch_archive_is_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")
    with pytest.raises(FormatError, match="PyTorch"):
        acccmp.load(path)


# -- models by hand ----------------------------------------------------------------------------------------------


def model() -> Any:
    found = mindir_pb2.ModelProto(ir_version="0.1.1", producer_name="MindSpore", model_version="2.3.0")
    found.graph.name = "g"
    found.graph.input.add(name="g:x").tensor.add(dims=[2, 4], data_type=1)
    return found


def node(graph: Any, output: str, kind: str, *inputs: str, domain: str = "") -> Any:
    return graph.node.add(op_type=kind, input=inputs, output=[output], name=output, domain=domain)


def constant(graph: Any, name: str, number: int) -> None:
    attribute = node(graph, name, "Constant").attribute.add(name="value", i=number, type=7)
    assert attribute.i == number


def test_external_weights_stay_in_their_files_and_never_outside_of_the_folder(tmp_path: Path) -> None:
    values = np.arange(8, dtype="<f4")
    (tmp_path / "net_variables").mkdir()
    (tmp_path / "net_variables" / "data_0").write_bytes(b"\1" + b"\0" * 63 + values.tobytes())
    found = model()
    places = {"w": "net_variables/data_0", "evil": "../../../etc/passwd", "gone": "net_variables/data_9"}
    for name, location in places.items():
        parameter = found.graph.parameter.add(name=f"g:{name}", dims=[4, 2], data_type=1)
        parameter.external_data.location, parameter.external_data.offset = location, 64
        parameter.external_data.length = 32
    node(found.graph, "g:y", "MatMul", "g:x", "g:w")
    found.graph.output.add(name="g:y")
    path = tmp_path / "net_graph.mindir"
    path.write_bytes(found.SerializeToString())
    graph = mindspore.load(path)
    assert np.array_equal(graph.weights["w"].numpy().ravel(), values)
    assert set(graph.weights) == {"w"}
    assert sum("not beside the model" in note for note in graph.notes) == 2


def test_outputs_taken_one_by_one_become_outputs_of_the_op(tmp_path: Path) -> None:
    found = model()
    split = node(found.graph, "g:s", "Split", "g:x", domain="Default/Split-op1")
    shapes = split.attribute.add(name="shape", type=20)
    for width in (1, 3):
        shapes.values.add(type=19).tensors.add(dims=[2, width], data_type=1)
    constant(found.graph, "zero", 0)
    constant(found.graph, "one", 1)
    node(found.graph, "g:a", "TupleGetItem", "g:s", "zero")
    node(found.graph, "g:b", "TupleGetItem", "g:s", "one")
    node(found.graph, "g:r", "ReLU", "g:b", domain="Default/ReLU-op2")
    node(found.graph, "g:t", "MakeTuple", "g:a", "g:r")
    node(found.graph, "g:u", "UpdateState", "g:x", "g:t")
    node(found.graph, "g:d", "Depend", "g:t", "g:u")
    found.graph.output.add(name="g:d")
    path = tmp_path / "net.mindir"
    path.write_bytes(found.SerializeToString())
    graph = mindspore.load(path)
    assert graph["Default/Split-op1"].outputs == ("s[0]", "s[1]")
    assert graph["Default/ReLU-op2"].inputs == ("s[1]",)
    assert graph.outputs == ("s[0]", "r")
    assert graph.spec("s[1]").shape == (2, 3)


def test_calls_of_functions_hold_their_graphs_and_recursion_ends(tmp_path: Path) -> None:
    found = model()
    inner = found.functions.add(name="loop")
    inner.input.add(name="loop:p")
    node(inner, "loop:q", "REF::loop", "loop:p")
    inner.output.add(name="loop:q")
    node(found.graph, "g:y", "REF::loop", "g:x", domain="Default/call")
    node(found.graph, "g:z", "REF::MetaFuncGraph::hyper_add", "g:y", domain="Default/add")
    found.graph.output.add(name="g:z")
    path = tmp_path / "net.mindir"
    path.write_bytes(found.SerializeToString())
    graph = mindspore.load(path)
    assert graph["Default/call"].op_type == "Call"
    assert graph["Default/call"].subgraphs["loop"].inputs == ("p",)
    assert graph["Default/add"].op_type == "hyper_add"


def test_typed_numbers_compression_and_open_sizes(tmp_path: Path) -> None:
    found = model()
    found.graph.input.add(name="g:open").tensor.add(dims=[-1, 4], data_type=10)
    half = found.graph.parameter.add(name="g:half", dims=[2], data_type=10)
    half.int32_data.extend([0x3C00, 0xC000])
    found.graph.parameter.add(name="g:packed", dims=[2], data_type=3, raw_data=b"\1", compression_type=4)
    node(found.graph, "g:y", "Add", "g:x", "g:half")
    path = tmp_path / "net.mindir"
    path.write_bytes(found.SerializeToString())
    graph = mindspore.load(path)
    assert graph.weights["half"].numpy().tolist() == [1.0, -2.0]
    assert graph.spec("open").shape == (None, 4)
    assert any("bit packing" in note for note in graph.notes)


@pytest.mark.parametrize("raw", [b"\x0a\x050.1.1", b"\x3a\x02\x12\x00", b"\x08\x01" * 40, b"no model"])
def test_what_is_no_mindir_is_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "net.mindir"
    path.write_bytes(raw)
    with pytest.raises(FormatError, match="not a MindIR"):
        mindspore.load(path)
