"""A slice is proven or not, and the device agrees or not: two lines, on every screen and in every exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from test_slicing import residual_net, run_cli

from acccmp.core.dump import DumpedOp
from acccmp.core.graph import Graph
from acccmp.devices.device import DeviceRun
from acccmp.dumps.ascend import write_file
from acccmp.dumps.read import read_dump
from acccmp.emulator.emulate import Fault, emulate
from acccmp.jobs.compare_slice import bundled_inputs
from acccmp.models.load import load
from acccmp.slicing.bundle import read_manifest

X = np.random.default_rng(2).standard_normal((1, 3, 9, 7)).astype(np.float32)
STRETCH = ("--start", "conv2", "--end", "relu2")


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """conv1 - bn1 - relu1 - conv2 - add(relu1) - relu2 - pool - flat - fc"""
    return residual_net(tmp_path_factory.mktemp("net") / "residual.onnx")


def cut_out(net: Graph, made: DeviceRun, out: Path, *more: object) -> tuple[subprocess.CompletedProcess[str], Path]:
    """`acccmp slice` of conv2 .. relu2, and the folder that it wrote."""
    where = ("--dump", made.dump, "--mapping", made.mapping, "-o", out)
    ran = run_cli("slice", net.path, *STRETCH, *where, *more)
    return ran, next(out.glob("dump_result_*"))


def reproduce(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "reproduce.py"], cwd=folder, capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin"},
    )


def again(folder: Path, where: Path, *faults: str) -> DeviceRun:
    """The written slice on the emulated device, fed with the folder's raw inputs."""
    part = load(folder)
    feeds = bundled_inputs(*read_manifest(folder), part)
    return emulate(part, feeds, where, faults=[Fault.parse(fault) for fault in faults])


# -- proven or not -----------------------------------------------------------------------------------------------


def test_a_slice_without_a_self_test_is_not_proven(net: Graph, tmp_path: Path) -> None:
    ran = run_cli("slice", net.path, *STRETCH, "--no-check", "-o", tmp_path)
    assert ran.returncode == 3
    assert "self-test: skipped (--no-check)" in ran.stdout
    assert "convert it (the slice is not proven):" in ran.stdout


def custom(path: Path) -> Path:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "first"),
        helper.make_node("Mystery", ["a"], ["b"], "strange", domain="com.nobody"),
        helper.make_node("Relu", ["b"], ["y"], "last"),
    ]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in ("x", "b", "y")]
    graph = helper.make_graph(nodes, "custom", info[:1], info[2:], value_info=[info[1]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13), helper.make_opsetid("com.nobody", 1)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(("start", "end"), [("strange", "strange"), ("last", "last"), ("first", "last")])
def test_a_layer_that_cannot_run_here_is_named_and_the_slice_is_not_proven(
    tmp_path: Path, start: str, end: str,
) -> None:
    model = custom(tmp_path / "custom.onnx")
    ran = run_cli("slice", model, "--start", start, "--end", end, "-o", tmp_path / "out", "--json")
    assert ran.returncode == 3, ran.stderr
    told = json.loads(ran.stdout)["self_test"]
    assert told["status"] == "not runnable"
    assert "Mystery" in told["reason"]
    ran = run_cli("slice", model, "--start", "first", "--end", "first", "-o", tmp_path / "upstream")
    assert ran.returncode == 0, "what lies above it is proven"


WITHOUT = """
import sys
sys.modules[sys.argv[1]] = None
from acccmp.cli import main
main(sys.argv[2:])
"""


def test_a_missing_extra_is_named_and_the_slice_is_not_proven(net: Graph, tmp_path: Path) -> None:
    command = ["slice", str(net.path), *STRETCH, "-o", str(tmp_path)]
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT, "onnxruntime", *command], capture_output=True, text=True, check=False,
    )
    assert ran.returncode == 3, ran.stderr
    assert "self-test: not runnable" in ran.stdout
    assert "pip install 'acccmp[ort]'" in " ".join(ran.stdout.split())


def test_a_slice_that_gives_something_else_exits_1_and_is_not_to_be_converted(net: Graph, tmp_path: Path) -> None:
    golden = tmp_path / "golden"
    np.save(tmp_path / "x.npy", X)
    assert run_cli("run", net.path, "--input", f"x={tmp_path / 'x.npy'}", "-o", golden).returncode == 0
    (golden / "manifest.json").unlink()  # as another tool leaves it: no hashes
    file = next(golden.glob("relu2.0.*.npy"))
    np.save(file, np.load(file) * np.float32(1.01))
    ran = run_cli("slice", net.path, *STRETCH, "--golden", golden, "-o", tmp_path / "out")
    assert ran.returncode == 1, ran.stderr
    assert "self-test: FAILED (relu2 differs from the full model" in ran.stdout
    assert "not to be converted: its self-test does not hold" in ran.stdout
    assert "atc " not in ran.stdout
    folder = next((tmp_path / "out").iterdir())
    assert "relu2" in (folder / "FAILED").read_text()
    assert "atc " not in (folder / "README.txt").read_text()


def test_golden_tensors_that_were_changed_prove_nothing(net: Graph, tmp_path: Path) -> None:
    golden = tmp_path / "golden"
    np.save(tmp_path / "x.npy", X)
    assert run_cli("run", net.path, "--input", f"x={tmp_path / 'x.npy'}", "-o", golden).returncode == 0
    file = next(golden.glob("relu2.0.*.npy"))
    np.save(file, np.load(file) * np.float32(1.01))
    ran = run_cli("slice", net.path, *STRETCH, "--golden", golden, "-o", tmp_path / "out", "--json")
    assert ran.returncode == 3, ran.stderr
    told = json.loads(ran.stdout)["self_test"]
    assert told["status"] == "not runnable"
    assert "SHA-256" in told["reason"]


def test_a_slice_without_weights_has_no_conversion_command(samples: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.prototxt"
    alone.write_bytes((samples / "digits_lenet" / "lenet.prototxt").read_bytes())
    ran = run_cli("slice", alone, "--start", "conv2", "--end", "pool2", "-o", tmp_path / "out")
    assert ran.returncode == 3, ran.stderr
    assert "not to be converted: there are no weights for conv2" in ran.stdout
    assert "atc " not in ran.stdout
    folder = next((tmp_path / "out").iterdir())
    assert json.loads((folder / "manifest.json").read_text())["atc"] == ""
    assert "atc " not in (folder / "README.txt").read_text()
    ran = run_cli("slice", alone, "--start", "pool2", "--end", "pool2", "-o", tmp_path / "pool", "--json")
    assert "--model=dump.prototxt" in json.loads(ran.stdout)["atc"], "a pooling layer needs none"


# -- the device agrees or not ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def overflowing(net: Graph, tmp_path_factory: pytest.TempPathFactory) -> DeviceRun:
    """A device whose float16 cannot hold what conv2 gives."""
    made = emulate(net, {"x": X * 8000}, tmp_path_factory.mktemp("overflow"))
    stored = next(ref for port, ref in read_dump(made.dump).items() if str(port) == "relu2:output:0")
    assert np.isinf(stored.numpy()).sum() > 5
    return made


def test_a_slice_of_an_overflowing_layer_is_not_called_healthy(
    net: Graph, overflowing: DeviceRun, tmp_path: Path,
) -> None:
    ran, folder = cut_out(net, overflowing, tmp_path)
    assert ran.returncode == 0, "the slice itself is proven"
    assert "self-test: passed" in ran.stdout
    assert "device: DIFFERS" in ran.stdout
    assert "r2: overflow" in ran.stdout
    told = json.loads((folder / "manifest.json").read_text())
    assert told["self_test"]["status"] == "passed"
    assert told["device"]["status"] == "DIFFERS"
    assert told["device"]["outputs"][0]["verdict"] == "overflow"
    assert "device: DIFFERS" in (folder / "README.txt").read_text()
    ran = reproduce(folder)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "NaN or Inf on one side" in ran.stdout
    assert ran.stdout.endswith("self-test: passed\ndevice: DIFFERS\n")


def test_reproduce_says_by_its_exit_code_whether_the_device_agrees(net: Graph, tmp_path: Path) -> None:
    healthy = emulate(net, {"x": X}, tmp_path / "healthy")
    ran, folder = cut_out(net, healthy, tmp_path / "a")
    assert "device: agrees" in ran.stdout
    ran = reproduce(folder)
    assert (ran.returncode, ran.stdout.splitlines()[-2:]) == (0, ["self-test: passed", "device: agrees"])
    faulty = emulate(net, {"x": X}, tmp_path / "faulty", faults=[Fault.parse("op=conv2,kind=scale,factor=1.01")])
    ran, folder = cut_out(net, faulty, tmp_path / "b")
    assert ran.returncode == 0
    assert "r2: drift" in ran.stdout, "one per cent is beyond what float16 explains"
    ran = reproduce(folder)
    assert (ran.returncode, ran.stdout.splitlines()[-2:]) == (1, ["self-test: passed", "device: DIFFERS"])


def test_reproduce_exits_2_when_nothing_can_be_said(net: Graph, tmp_path: Path) -> None:
    assert run_cli("slice", net.path, *STRETCH, "-o", tmp_path / "a").returncode == 0
    folder = next((tmp_path / "a").iterdir())
    ran = reproduce(folder)
    assert ran.returncode == 2
    assert ran.stdout.endswith("self-test: passed\ndevice: not judged\n"), "there is nothing of the device to judge"
    golden = next((folder / "expected" / "golden").iterdir())
    np.save(golden, np.load(golden) + 1)
    assert reproduce(folder).returncode == 2
    (folder / "manifest.json").write_text("{}")
    ran = reproduce(folder)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert len(ran.stderr.splitlines()) == 1


def test_comparing_a_slice_says_by_its_exit_code_whether_the_device_agrees(net: Graph, tmp_path: Path) -> None:
    _, folder = cut_out(net, emulate(net, {"x": X}, tmp_path / "device"), tmp_path / "out")
    healthy = again(folder, tmp_path / "healthy")
    ran = run_cli("compare", folder, healthy.dump, "--mapping", healthy.mapping)
    assert (ran.returncode, ran.stdout.splitlines()[-2:]) == (0, ["self-test: passed", "device: agrees"])
    faulty = again(folder, tmp_path / "faulty", "op=conv2,kind=scale,factor=1.01")
    ran = run_cli("compare", folder, faulty.dump, "--mapping", faulty.mapping)
    assert (ran.returncode, ran.stdout.splitlines()[-2:]) == (1, ["self-test: passed", "device: DIFFERS"])
    golden = next((folder / "golden").glob("relu2.*.npy"))
    np.save(golden, np.load(golden) + 1)
    for dump in (healthy, faulty):
        ran = run_cli("compare", folder, dump.dump, "--mapping", dump.mapping, "--json")
        told = json.loads(ran.stdout)
        assert ran.returncode == told["exit_code"] == 2, "what is not proven says nothing of the device"
        assert "SHA-256" in told["self_test"]["reason"]


def lose(folder: Path, *patterns: str) -> None:
    """Remove the dump files of what gives a tensor, and of all that carries it on."""
    for file in [file for pattern in patterns for file in folder.glob(pattern)]:
        file.unlink()


def test_an_output_that_was_not_dumped_is_not_judged(net: Graph, tmp_path: Path) -> None:
    """Neither agreement nor difference: exit code 2, for reproduce.py and compare alike."""
    made = emulate(net, {"x": X}, tmp_path / "device")
    lose(made.dump, "*.relu2.*", "*.pool.*")
    ran, folder = cut_out(net, made, tmp_path / "out")
    assert ran.returncode == 0, "the slice is proven"
    assert "device: not judged" in ran.stdout
    assert "r2: no_npu, it was not dumped" in ran.stdout
    ran = reproduce(folder)
    assert (ran.returncode, ran.stdout.splitlines()[-2:]) == (2, ["self-test: passed", "device: not judged"])
    device = again(folder, tmp_path / "again")
    lose(device.dump, "*.relu2.*", "TransData.*", "Cast.*", "NetOutput.*")
    ran = run_cli("compare", folder, device.dump, "--mapping", device.mapping)
    assert (ran.returncode, ran.stdout.splitlines()[-2:]) == (2, ["self-test: passed", "device: not judged"])


def test_a_slice_that_was_never_proven_says_nothing_of_the_device(net: Graph, tmp_path: Path) -> None:
    _, folder = cut_out(net, emulate(net, {"x": X}, tmp_path / "device"), tmp_path / "out", "--no-check")
    healthy = again(folder, tmp_path / "healthy")
    ran = run_cli("compare", folder, healthy.dump, "--mapping", healthy.mapping)
    assert ran.returncode == 2
    assert "self-test: skipped (the slice was written without golden tensors (--no-check))" in ran.stdout
    assert reproduce(folder).returncode == 2


# -- against the full model --------------------------------------------------------------------------------------


def test_what_was_inherited_begins_at_the_boundary_and_accuses_no_layer(net: Graph, tmp_path: Path) -> None:
    """A fault above the slice: its own layers are sound, and the boundary tensor has a real floor."""
    faulty = emulate(net, {"x": X}, tmp_path / "device", faults=[Fault.parse("op=conv1,kind=scale,factor=1.7")])
    _, folder = cut_out(net, faulty, tmp_path / "out")
    device = again(folder, tmp_path / "again")
    ran = run_cli("compare", folder, device.dump, "--mapping", device.mapping, "--json")
    told = json.loads(ran.stdout)
    assert ran.returncode == 0, "the slice's own layers are sound"
    full = told["full_model"]
    rows = {row["port"]: row for row in full["comparisons"]}
    boundary = rows["r1:output:0"]
    assert boundary["verdict"] == "drift"
    assert boundary["error"] > 0.5
    assert boundary["floor"] < 1e-3 < boundary["limit"] < 5e-3, "what storage alone does, not the device's own error"
    assert all(rows[f"{name}:output:0"]["floor"] < 1e-3 for name in ("conv2", "add", "relu2")), "the slice is ONNX"
    assert full["first_bad"] == "r1:output:0"
    assert "suspect" not in ran.stdout


def test_a_healthy_device_matches_the_full_model_deep_inside_it(samples: Path, tmp_path: Path) -> None:
    """The rounding of all layers above is part of the floor at the boundary."""
    root = samples / "digits_resnet"
    ran = run_cli(
        "slice", root / "resnet.onnx", "--start", "block3/conv1", "--end", "block3/relu2", "--dump", root / "npu",
        "--mapping", root / "mapping.json", "-o", tmp_path / "out",
    )
    assert ran.returncode == 0, ran.stderr
    folder = next((tmp_path / "out").iterdir())
    device = again(folder, tmp_path / "again")
    ran = run_cli("compare", folder, device.dump, "--mapping", device.mapping, "--json")
    told = json.loads(ran.stdout)
    assert ran.returncode == 0
    assert told["full_model"]["counts"].keys() <= {"match", "inserted", "fused"}
    assert told["full_model"]["passed"]


def test_coverage_counts_the_ports_of_the_slice_only(net: Graph, tmp_path: Path) -> None:
    """The full model's dump and mapping, held against a slice of it."""
    made = emulate(net, {"x": X}, tmp_path / "device")
    where = ("--dump", made.dump, "--mapping", made.mapping, "-o", tmp_path / "out")
    assert run_cli("slice", net.path, "--start", "conv1", "--end", "relu2", *where).returncode == 0
    ran = run_cli("compare", tmp_path / "out", made.dump, "--mapping", made.mapping, "--json")
    told = json.loads(ran.stdout)
    assert ran.returncode == 0, ran.stderr
    for report in (told["slice"], told["full_model"]):
        assert report["coverage"] == 1.0
        assert "no_golden" not in report["counts"]
        assert [row["originals"] for row in report["comparisons"] if row["is_output"]] == [["relu2"]]
        assert not any("fc" in row["originals"] for row in report["comparisons"])


@pytest.mark.parametrize("dump_mode", ["all", "output"])
def test_a_small_part_of_a_model_is_judged_with_the_full_models_dump_and_mapping(
    samples: Path, tmp_path: Path, dump_mode: str,
) -> None:
    """Three layers of thirty; the boundary tensor is found under its name in the full model."""
    graph = load(samples / "digits_resnet" / "resnet.onnx")
    image = np.load(next((samples / "digits_resnet" / "golden").glob("image.0.*.npy")))
    faulty = emulate(graph, {"image": image}, tmp_path / "device", dump_mode=dump_mode,
                     faults=[Fault.parse("op=block1/conv1,kind=scale,factor=1.5")])
    ran = run_cli("slice", graph.path, "--start", "block3/conv1", "--end", "block3/relu1", "--dump", faulty.dump,
                  "--mapping", faulty.mapping, "-o", tmp_path / "out")
    assert ran.returncode == 0, ran.stderr
    ran = run_cli("compare", tmp_path / "out", faulty.dump, "--mapping", faulty.mapping, "--json")
    told = json.loads(ran.stdout)
    assert ran.returncode == 0, "the fault lies above this stretch"
    assert told["slice"]["coverage"] == told["full_model"]["coverage"] == 1.0
    rows = told["full_model"]["comparisons"]
    first = next(row for row in rows if row["port"] == told["full_model"]["first_bad"])
    assert first["golden_port"] == "block2/relu2:output:0", "what was inherited begins at the boundary"
    assert {name for row in rows for name in row["originals"]} <= {
        "block2/conv2", "block2/bn2", "block2/add", "block2/relu2", "block3/conv1", "block3/bn1", "block3/relu1",
        "block3/conv2", "block3/bn2", "block3/add", "block3/downsample",
    }


def test_a_golden_of_zeros_is_judged_alike_everywhere(tmp_path: Path) -> None:
    """Beside all zeros any relative distance is infinite: the absolute error decides, for acccmp and reproduce.py."""
    nodes = [
        helper.make_node("Neg", ["x"], ["n"], "minus"), helper.make_node("Relu", ["n"], ["r"], "zero"),
        helper.make_node("Identity", ["r"], ["y"], "out"),
    ]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 8]) for name in ("x", "y")]
    model = helper.make_model(
        helper.make_graph(nodes, "zeros", info[:1], info[1:]), opset_imports=[helper.make_opsetid("", 13)],
    )
    model.ir_version = 8
    onnx.save(model, tmp_path / "zeros.onnx")
    minus = -np.abs(X.reshape(-1)[:16].reshape(2, 8)).astype(np.float16)
    for name, given, code in (("same", 0.0, 0), ("tiny", 2e-5, 0), ("wrong", 0.5, 1)):
        dump = tmp_path / name
        dump.mkdir()
        write_file(dump, DumpedOp("minus", "Neg", time=1700000000000000, task=1, stream=1), [], [minus])
        zero = np.full((2, 8), given, np.float16)
        write_file(dump, DumpedOp("zero", "Relu", time=1700000000000001, task=2, stream=1), [], [zero])
        ran = run_cli("slice", tmp_path / "zeros.onnx", "-s", "zero", "-e", "zero", "--dump", dump, "-o", dump / "out",
                      "--json")
        told = json.loads(ran.stdout)
        assert ran.returncode == 0, ran.stderr
        assert told["device"]["outputs"][0]["judged_by"] == "MaxAbsoluteError"
        assert told["device"]["status"] == ("DIFFERS" if code else "agrees")
        assert told["device"]["outputs"][0]["metrics"]["RelativeEuclideanDistance"] == ("Infinity" if given else 0)
        assert reproduce(Path(told["folder"])).returncode == code
