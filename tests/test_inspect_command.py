"""`acccmp inspect`: what is this file? For people on a screen, for machines as JSON, drawn as a graph."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from acccmp.errors import FormatError, InputError
from acccmp.jobs import inspect as inspection


def inspect(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "acccmp", "inspect", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# file -> what the screen must say; files that hold nothing to inspect -> the one line
REAL = {
    "om/Ascend_ModelZoo-TensorFlow__hh_om.om": ("an Ascend device model", "Ascend310", "100x784"),
    "om/hicann_ge__flow_model.om": ("an Ascend device model", "flow", "graph2"),
    "om/sth1002_atlas200DK__vanillacnn.om": ("an Ascend device model", "G1", "4x3x40x40"),
    "atc_json/Ascend_msprobe__model.json": ("a device model as JSON", "originals 13"),
    "mindspore/mindspore-ai_mindspore_test__ori_net.mindir": ("a MindSpore model", "1x1x32x32"),
    "mindspore/mindspore-ai_mindarmour__checkpoint_lenet-10_1875.ckpt": ("a MindSpore checkpoint", "conv1.weight"),
    "mindspore/mindspore-ai_mindspore_test__add_encrpty_key_0123456789ABCDEF.mindir": ("encrypted", "AES-GCM"),
    "cambricon/CambriconECO_Pytorch_Yolov5_Inference__yolov5s.cambricon_twins": ("Cambricon", "1x640x640x3"),
    "onnx/microsoft_onnxruntime-inference-examples__mnist.onnx": ("an ONNX model", "1x1x28x28"),
    "caffe/MTCNNv2__det1.prototxt": ("a Caffe model", "1x3x12x12"),
    "tensorflow/tf2onnx__fc-layers.frozen.pb": ("a TensorFlow model", "?x784"),
}
REFUSED = {
    "atc_json/Ascend_ModelZoo-TensorFlow__hh_om_fusion_result.json": "fusion_result.json",
    "mindspore/mindspore-ai_golden-stick__ckpt_strategy_rank_0.ckpt": "strategy file",
}


@pytest.mark.parametrize("name", REAL)
def test_one_screen_says_what_a_real_file_is(shared: Path, name: str) -> None:
    ran = inspect(shared / name)
    assert ran.returncode == 0, ran.stderr
    screen = re.sub(r"\s+", " ", ran.stdout)
    for words in REAL[name]:
        assert words in screen
    assert max(map(len, ran.stdout.splitlines())) <= 100


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_look_alike_are_told_apart_in_one_line(shared: Path, name: str) -> None:
    ran = inspect(shared / name)
    assert ran.returncode == 2
    assert REFUSED[name] in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", REAL)
def test_json_has_everything_and_is_strict(shared: Path, name: str) -> None:
    ran = inspect(shared / name, "--json")
    facts = json.loads(ran.stdout, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert facts["kind"]
    assert facts["path"] == str(shared / name)


def test_a_dump_a_slice_folder_and_nothing_are_told_apart(samples: Path, tmp_path: Path) -> None:
    facts = inspection.inspect(samples / "digits_resnet" / "npu_faulty")
    assert (facts["kind"], facts["tensors"], facts["unreadable"]) == ("dump", 73, [])
    assert sum(row["bytes"] for row in facts["rows"]) == facts["bytes"]
    golden = inspection.inspect(samples / "digits_resnet" / "golden")
    assert golden["of"] == "an original model (golden)"
    with pytest.raises(InputError, match="no such file"):
        inspection.inspect(tmp_path / "nothing")
    (tmp_path / "noise").write_bytes(b"\x99" * 100)
    with pytest.raises(FormatError):
        inspection.inspect(tmp_path / "noise")


@pytest.mark.parametrize("ending", ["dot", "svg", "png"])
def test_a_graph_is_drawn_into_the_format_that_its_name_says(shared: Path, tmp_path: Path, ending: str) -> None:
    target = tmp_path / f"graph.{ending}"
    ran = inspect(shared / "caffe" / "MTCNNv2__det1.prototxt", "--graph", target)
    assert ran.returncode == 0, ran.stderr
    data = target.read_bytes()
    if ending == "dot":
        text = data.decode()
        assert text.count("->") == 10
        assert '"conv1" -> "PReLU1" [label="1x10x10x10"]' in text
    elif ending == "svg":
        assert ET.fromstring(data).tag.endswith("svg")
    else:
        assert data.startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [target]


def test_hostile_names_do_not_break_out_of_the_dot_file(tmp_path: Path) -> None:
    name = 'a"]; evil [label="x\\'
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["m"], name), helper.make_node("Relu", ["m"], ["y"], "b")], "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, tmp_path / "net.onnx")
    inspection.draw(tmp_path / "net.onnx", tmp_path / "net.dot")
    for line in (tmp_path / "net.dot").read_text().splitlines():
        outside = re.sub(r'"(?:[^"\\]|\\.)*"', "", line)
        assert "evil" not in outside
        assert outside.count('"') == 0


def test_another_ending_and_a_file_without_a_graph_are_refused(shared: Path, tmp_path: Path) -> None:
    model = shared / "caffe" / "MTCNNv2__det1.prototxt"
    assert ".dot, .svg" in inspect(model, "--graph", tmp_path / "graph.txt").stderr
    checkpoint = shared / "mindspore" / "mindspore-ai_mindarmour__checkpoint_lenet-10_1875.ckpt"
    assert "no graph to draw" in inspect(checkpoint, "--graph", tmp_path / "graph.svg").stderr
    assert list(tmp_path.iterdir()) == []


def test_the_size_of_an_input_is_explained_with_the_command_that_fixes_it(tmp_path: Path) -> None:
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2, 2, 8192]) for name in ("input", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["input"], ["y"], "relu")], "net", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, tmp_path / "net.onnx")
    np.random.default_rng(0).standard_normal((100, 2, 100, 100)).astype(np.float32).tofile(tmp_path / "batch.bin")
    ran = inspect(tmp_path / "net.onnx", "--input", tmp_path / "batch.bin")
    told = re.sub(r"\s+", " ", ran.stdout)
    assert ran.returncode == 1
    assert 'likely: 100 samples of 2x100x100 float32; recompile with --input_shape="input:100,2,100,100"' in told
    assert "262144 bytes" in told
    assert "check all batches" in told
    fits = inspect(tmp_path / "net.onnx", "--input", f"input={tmp_path / 'batch.bin'}", "--json")
    assert json.loads(fits.stdout)["fits"][0]["found_bytes"] == 8_000_000
