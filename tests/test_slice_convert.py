"""The conversion command of a slice can be copied and used as it is."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_slicing import residual_net, run_cli

from acccmp.emulator.emulate import emulate
from acccmp.jobs.compare_slice import bundled_inputs
from acccmp.models.load import load
from acccmp.slicing.bundle import read_manifest

X = np.random.default_rng(4).standard_normal((2, 3)).astype(np.float32)


def odd_names(path: Path) -> Path:
    """Tensors as converters name them: `x:0`, `fused;relu:0`, a name that plain characters alone would make twice; one
    of them is read by the body of an If as well."""
    then, other = (
        helper.make_graph(
            [helper.make_node(kind, ["fused;relu:0"], ["out"], f"{kind}_inside")], kind, [],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, [2, 3])],
        )
        for kind in ("Neg", "Abs")
    )
    nodes = [
        helper.make_node("Relu", ["x:0"], ["fused;relu:0"], "first"),
        helper.make_node("Sigmoid", ["x:0"], ["fused_relu_0"], "second"),
        helper.make_node("Mul", ["fused;relu:0", "w"], ["m"], "scaled"),
        helper.make_node("If", ["yes"], ["i"], "choice", then_branch=then, else_branch=other),
        helper.make_node("Add", ["m", "i"], ["s"], "sum"),
        helper.make_node("Add", ["s", "fused_relu_0"], ["y"], "last"),
    ]
    graph = helper.make_graph(
        nodes, "odd", [helper.make_tensor_value_info("x:0", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])],
        [numpy_helper.from_array(np.array(array), name)
         for name, array in (("w", np.array([[1, 2, 3]], np.float32)), ("yes", True))],
        value_info=[
            helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in ("fused;relu:0", "m", "i", "s")
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


def argument(command: str, name: str) -> str:
    """One option of a command as a shell would hand it on."""
    return next(word.partition("=")[2] for word in shlex.split(command) if word.startswith(f"--{name}="))


def names_of(shapes: str) -> list[str]:
    """The inputs in `--input_shape`, read as ATC does: at `;`, then at the first `:`."""
    parts = [part.split(":") for part in shapes.split(";")]
    assert all(len(part) == 2 and re.fullmatch(r"-?\d+(,-?\d+)*", part[1]) for part in parts), shapes
    return [part[0] for part in parts]


def test_inputs_get_names_that_the_conversion_command_can_hold(tmp_path: Path) -> None:
    model = odd_names(tmp_path / "odd.onnx")
    np.save(tmp_path / "x.npy", X)
    given = f"x:0={tmp_path / 'x.npy'}"
    ran = run_cli("slice", model, "-s", "scaled", "-s", "choice", "-e", "last", "-i", given, "-o", tmp_path / "out")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    folder = next((tmp_path / "out").iterdir())
    told = json.loads((folder / "manifest.json").read_text())
    assert told["self_test"]["status"] == "passed"
    written = [value.name for value in onnx.load(folder / "dump.onnx").graph.input]
    assert written == names_of(argument(told["atc"], "input_shape")) == [end["name"] for end in told["inputs"]]
    assert len(set(written)) == 2
    assert all(re.fullmatch(r"\w+", name) for name in written)
    assert {end["tensor"] for end in told["inputs"]} == {"fused;relu:0", "fused_relu_0"}, "the true names are kept"
    assert "fused;relu:0 is the input fused_relu_0_2 of the sub-model" in (folder / "log.txt").read_text()
    onnx.checker.check_model(onnx.load(folder / "dump.onnx"))
    ran = subprocess.run([sys.executable, "reproduce.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert "self-test: passed" in ran.stdout, "the written model, body of the If and all, gives the model's result"


def test_a_slice_with_renamed_inputs_comes_back_under_the_true_ones(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("Conv", ["x:0", "w1"], ["c;1:0"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["c;1:0", "w2"], ["c;2:0"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c;2:0", "c;1:0"], ["y:0"], "add"),
    ]
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4, 6, 6]) for n in ("x:0", "y:0")]
    weights = [numpy_helper.from_array(rng.standard_normal((4, 4, 3, 3)).astype(np.float32), n) for n in ("w1", "w2")]
    model = helper.make_model(helper.make_graph(nodes, "odd", info[:1], info[1:], weights),
                              opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, tmp_path / "odd.onnx")
    x = rng.standard_normal((1, 4, 6, 6)).astype(np.float32)
    made = emulate(load(tmp_path / "odd.onnx"), {"x:0": x}, tmp_path / "device")
    ran = run_cli("slice", tmp_path / "odd.onnx", "-s", "conv2", "-e", "add", "--dump", made.dump,
                  "--mapping", made.mapping, "-o", tmp_path / "out")
    assert ran.returncode == 0, ran.stderr
    assert "device: agrees" in ran.stdout
    folder = next((tmp_path / "out").iterdir())
    told = json.loads((folder / "manifest.json").read_text())
    assert names_of(argument(told["atc"], "input_shape")) == ["c_1_0"]
    assert argument(told["atc"], "input_fp16_nodes") == "c_1_0"
    part = load(folder)
    again = emulate(part, bundled_inputs(*read_manifest(folder), part), tmp_path / "again")
    ran = run_cli("compare", folder, again.dump, "--mapping", again.mapping, "--json")
    assert ran.returncode == 0, ran.stderr
    full = json.loads(ran.stdout)["full_model"]
    assert any(row["golden_port"] == "c_1_0:output:0" and row["verdict"] == "match" for row in full["comparisons"])
    assert full["coverage"] == 1.0


def test_input_layers_of_a_caffe_slice_have_names_that_the_command_can_hold(tmp_path: Path) -> None:
    text = """name: "odd"
layer { name: "data;0:in" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 4 dim: 4 } } }
layer { name: "pool;1" type: "Pooling" bottom: "data" top: "p1" pooling_param { pool: MAX kernel_size: 1 stride: 1 } }
layer { name: "pool:2" type: "Pooling" bottom: "p1" top: "p2" pooling_param { pool: MAX kernel_size: 1 stride: 1 } }
layer { name: "sum" type: "Eltwise" bottom: "p2" bottom: "data" top: "sum" }
"""
    (tmp_path / "odd.prototxt").write_text(text)
    for start, names in (("pool:2", ["pool_2_input_0", "sum_input_0"]), ("data;0:in", ["data_0_in"])):
        ran = run_cli("slice", tmp_path / "odd.prototxt", "-s", start, "-e", "sum", "-o", tmp_path / "out", "--json")
        assert ran.returncode == 0, ran.stderr
        told = json.loads(ran.stdout)
        assert sorted(names_of(argument(told["atc"], "input_shape"))) == names
        layers = re.findall(r'name: "([^"]*)"\s+type: "Input"', (Path(told["folder"]) / "dump.prototxt").read_text())
        assert sorted(layers) == names
        ran = subprocess.run(
            [sys.executable, "reproduce.py"], cwd=told["folder"], capture_output=True, text=True, check=False,
        )
        assert "self-test: passed" in ran.stdout, ran.stderr


@pytest.mark.parametrize("columns", ["40", "80", "120"])
def test_the_screen_has_the_command_in_one_line_that_can_be_copied(tmp_path: Path, columns: str) -> None:
    net = residual_net(tmp_path / "net.onnx")
    ran = subprocess.run(
        [sys.executable, "-m", "acccmp", "slice", str(net.path), "-s", "conv2", "-e", "relu2", "-o", str(tmp_path)],
        capture_output=True, text=True, check=False, env={"COLUMNS": columns, "PYTHONPATH": ":".join(sys.path)},
    )
    assert ran.returncode == 0, ran.stderr
    command = next(line for line in ran.stdout.splitlines() if line.startswith("atc "))
    folder = next(tmp_path.glob("dump_result_*"))
    assert command == json.loads((folder / "manifest.json").read_text())["atc"]
    assert names_of(argument(command, "input_shape")) == ["r1"]


def test_the_chip_is_the_one_that_the_mapping_was_compiled_for(tmp_path: Path) -> None:
    net = residual_net(tmp_path / "net.onnx")
    x = np.random.default_rng(2).standard_normal((1, 3, 9, 7)).astype(np.float32)
    made = emulate(net, {"x": x}, tmp_path / "device")
    stored = json.loads(made.mapping.read_text())
    chips = {}
    for name, told in (
        ("soc", {"soc_version": "Ascend310P3"}), ("line", {"atc_cmdline": "atc --soc_version=Ascend910B4"}),
        ("emulated", {"soc_version": "emulated"}),
    ):
        for attr in stored["attr"]:
            if attr["key"] in ("soc_version", "atc_cmdline"):
                attr["value"]["s"] = told.get(attr["key"], "")
        mapping = tmp_path / f"{name}.json"
        mapping.write_text(json.dumps(stored))
        ran = run_cli("slice", net.path, "-s", "conv2", "-e", "relu2", "--dump", made.dump, "--mapping", mapping,
                      "-o", tmp_path / name, "--json")
        assert ran.returncode == 0, ran.stderr
        chips[name] = argument(json.loads(ran.stdout)["atc"], "soc_version")
    assert chips == {"soc": "Ascend310P3", "line": "Ascend910B4", "emulated": "YOUR_CHIP"}


def test_a_slice_of_a_model_with_external_weights_is_written_proven_and_judged(tmp_path: Path) -> None:
    model = onnx.load(residual_net(tmp_path / "net.onnx").path)
    (tmp_path / "big").mkdir()
    onnx.save(model, tmp_path / "big" / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    graph = load(tmp_path / "big" / "net.onnx")
    x = np.random.default_rng(2).standard_normal((1, 3, 9, 7)).astype(np.float32)
    made = emulate(graph, {"x": x}, tmp_path / "device")
    ran = run_cli("slice", graph.path, "-s", "conv2", "-e", "relu2", "--dump", made.dump, "--mapping", made.mapping,
                  "-o", tmp_path / "out")
    assert ran.returncode == 0, ran.stderr
    folder = next((tmp_path / "out").iterdir())
    assert (folder / "dump.onnx.data").exists()
    part = load(folder)
    again = emulate(part, bundled_inputs(*read_manifest(folder), part), tmp_path / "again")
    ran = run_cli("compare", folder, again.dump, "--mapping", again.mapping)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.endswith("self-test: passed\ndevice: agrees\n")
