"""What a file is, told from bytes that are built by hand from the formats' field tables, and from real files."""

from __future__ import annotations

import io
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from dump_bytes import blob, number
from hypothesis import given
from hypothesis import strategies as st

from acccmp.core.identify import identify
from acccmp.errors import FormatError, InputError
from acccmp.models.load import load

FOLDERS = {"onnx": {"onnx"}, "caffe": {"caffe"}, "tensorflow": {"tensorflow"}, "om": {"om"}, "atc_json": {"atc_json"},
           "mindspore": {"mindir", "ckpt"}, "cambricon": {"cambricon"}}


def test_every_real_model_is_what_it_is_whatever_its_name(shared: Path, tmp_path: Path) -> None:
    seen = 0
    for folder, kinds in FOLDERS.items():
        for path in sorted((shared / folder).iterdir()):
            assert identify(path).kind.name in kinds, path.name
            shutil.copyfile(path, tmp_path / "anything.bin")
            assert identify(tmp_path / "anything.bin") == identify(path)
            seen += 1
    assert seen == 32


def test_every_real_dump_is_a_dump(shared: Path) -> None:
    files = [p for p in (shared / "peer_results").rglob("*") if p.is_file() and p.parent.name in ("npu", "golden")]
    dumps = [path for path in files if path.suffix == ".npy" or path.suffix[1:].isdigit()]
    assert len(dumps) > 50
    assert {identify(path).kind.name for path in dumps} == {"array", "ascend"}


HEADER = blob(1, "2.0") + number(2, 1700000000000000) + blob(3, number(1, 1) + number(6, 4)) + blob(6, "conv1")

BY_HAND = {
    # onnx.proto: 1 ir_version, 7 graph {1 node {4 op_type}, 2 name}, 8 opset_import
    "onnx": number(1, 8) + blob(7, blob(1, blob(4, "Relu")) + blob(2, "g")) + blob(8, number(2, 17)),
    # a graph that comes before everything else, as other writers order it
    "onnx ": blob(7, blob(2, "g") + blob(5, number(1, 3) + number(2, 1))) + number(1, 4),
    # tensorflow graph.proto: 1 node {1 name, 2 op, 3 input}, 4 versions
    "tensorflow": blob(1, blob(1, "x") + blob(2, "Placeholder")) + blob(4, number(1, 21)),
    # caffe.proto: 1 name, 100 layer {1 name, 2 type, 3 bottom}; V1: 2 layers {4 name, 5 type}
    "caffe": blob(1, "LeNet") + blob(100, blob(1, "conv1") + blob(2, "Convolution") + blob(3, "data")),
    "caffe ": blob(1, "V1") + blob(2, blob(2, "data") + blob(3, "c") + blob(4, "conv1") + number(5, 4)),
    "caffe  ": blob(100, blob(1, "data") + blob(2, "Input")),
    # mind_ir.proto: 1 ir_version (text), 2 producer_name, 7 graph
    "mindir": blob(1, "0.1.1") + blob(2, "MindSpore") + blob(7, blob(2, "g")),
    # checkpoint.proto: 1 value {1 tag, 2 tensor {1 dims, 2 tensor_type, 3 content}}
    "ckpt": blob(1, blob(1, "conv.weight") + blob(2, number(1, 2) + blob(2, "Float32") + blob(3, bytes(8)))),
    # dump_data.proto: 1 version, 2 dump_time, 3 output {1 data_type, 5 data}, 6 op_name
    "ascend": blob(1, "2.0") + number(2, 1700000000000000)
            + blob(3, number(1, 1) + blob(5, bytes(16))) + blob(6, "conv1"),
    # a big dump: u64 length, header, payload
    "ascend ": struct.pack("<Q", len(HEADER)) + HEADER + bytes(4),
    # nano: u64 length, magic at byte 8
    "ascend  ": struct.pack("<QII", 64, 0x5A5A5A5A, 1) + bytes(60),
    "om": b"IMOD" + struct.pack("<II", 256, 0x20000000) + bytes(244),
    "mindir ": struct.pack("<I", 0x7F3A5ED8) + bytes(60),
    "atc_json": b' {"graph": [], "name": "x"}',
    "build_pbtxt": b'name: "ge_default"\ngraph {\n  name: "g"\n  op {\n    name: "Data"\n  }\n}\n',
    "tensorflow ": b'node {\n  name: "x"\n  op: "Placeholder"\n}\n',
    "caffe   ": b'# a comment with node { in it\nname: "n"\ninput: "data"\ninput_dim: 1\n',
    "caffe    ": b'name: "n" layers { name: "node {" type: RELU }',
    "cambricon": b'This is the Twins File of "a.cambricon".\nFunction number: 1\n',
}


@pytest.mark.parametrize("kind", BY_HAND, ids=lambda kind: kind.strip())
def test_bytes_built_by_hand_are_told_apart(kind: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(BY_HAND[kind])
    assert identify(tmp_path / "f").kind.name == kind.strip()


WHAT_ELSE = {
    "a Git-LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
    "an empty file": b"",
    "white space": b" \n\t\n",
    "a text file that is no model": b"Epoch 1: loss 0.3\n",
    "Python pickle": b"\x80\x04\x95\x00\x00",
    "HDF5": b"\x89HDF\r\n\x1a\n",
    "twins": b"\x7fMEF\x00\x00",
    "TensorFlow Lite": b"\x1c\x00\x00\x00TFL3" + bytes(20),
    "one tensor in ONNX": number(1, 2) + number(2, 1) + blob(9, bytes(8)) + blob(8, "t"),
    "inner file of a SavedModel": number(1, 1) + blob(2, blob(1, blob(5, "1.15")) + blob(2, blob(1, blob(1, "x")))),
    "in text form; write it as binary": b"ir_version: 8\ngraph {\n node { op_type: \"Relu\" }\n}\n",
    "no known format": b"\xfe\xff\x00\x01" * 30,
    "gzip": b"\x1f\x8b\x08\x00",
}


@pytest.mark.parametrize("told", WHAT_ELSE)
def test_what_is_no_model_is_told_in_one_line(told: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(WHAT_ELSE[told])
    with pytest.raises(FormatError, match=told) as caught:
        identify(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_archives_are_told_by_what_they_hold(tmp_path: Path) -> None:
    np.savez(tmp_path / "a", x=np.ones(2))
    assert identify(tmp_path / "a.npz").kind.name == "npz"
    for member, kind in (("manifest.json", "om"), ("archive/data.pkl", "PyTorch"), ("readme.md", "no model")):
        raw = io.BytesIO()
        with zipfile.ZipFile(raw, "w") as archive:
            archive.writestr(member, "{}")
        (tmp_path / "b").write_bytes(raw.getvalue())
        if kind == "om":
            assert identify(tmp_path / "b").kind.name == "om"
        else:
            with pytest.raises(FormatError, match=kind):
                identify(tmp_path / "b")


def test_folders_are_saved_models_or_nothing(tmp_path: Path) -> None:
    assert identify(tmp_path).kind.role == "dump"
    with pytest.raises(InputError, match="not a model"):
        load(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(WHAT_ELSE["inner file of a SavedModel"])
    assert identify(tmp_path).kind.name == "tensorflow"
    with pytest.raises(InputError, match="no such file"):
        identify(tmp_path / "nothing")


def test_load_says_what_was_given_where_a_model_belongs(tmp_path: Path, shared: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones(3))
    with pytest.raises(InputError, match="an npy array, not a model"):
        load(tmp_path / "x.npy")
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "y.onnx")
    onnx = next((shared / "onnx").glob("*mnist.onnx"))
    prototxt, caffemodel = (shared / "caffe" / f"MTCNNv2__det1.{end}" for end in ("prototxt", "caffemodel"))
    with pytest.raises(InputError, match="holds its own weights"):
        load(onnx, caffemodel)
    with pytest.raises(InputError, match="an ONNX model, where the weights of MTCNNv2__det1"):
        load(prototxt, onnx)
    with pytest.raises(InputError, match="no such file"):
        load(prototxt, tmp_path / "missing.caffemodel")


def test_a_truncated_model_keeps_its_kind_so_that_its_reader_can_say_more(shared: Path, tmp_path: Path) -> None:
    for path, kind in ((next((shared / "onnx").glob("*mnist.onnx")), "onnx"),
                       (shared / "caffe" / "MTCNNv2__det1.caffemodel", "caffe"),
                       (shared / "tensorflow" / "tf2onnx__fc-layers.frozen.pb", "tensorflow")):
        raw = path.read_bytes()
        for keep in (len(raw) // 3, len(raw) - 1):
            (tmp_path / "f").write_bytes(raw[:keep])
            assert identify(tmp_path / "f").kind.name == kind


@given(st.binary(min_size=1, max_size=300))
def test_any_bytes_are_named_or_refused(raw: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f"
        path.write_bytes(raw)
        try:
            told = identify(path).words
        except FormatError as error:
            told = str(error)
    assert told
    assert "\n" not in told
