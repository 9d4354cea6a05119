"""The sample dumps: what their README says is true, and their script makes them again."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from acccmp.comparison.compare import compare
from acccmp.core.dump import Port
from acccmp.dumps.arrays import check_golden
from acccmp.dumps.read import read_dump
from acccmp.emulator.emulate import floors
from acccmp.mapping.device_map import DeviceMap
from acccmp.models.load import load
from acccmp.reports.pair import Verdict
from acccmp.reports.report import Report
from acccmp.runners.run import run

NAMES = ("digits_resnet", "digits_lenet", "digits_cnn")
RUNNER = {"digits_resnet": "onnxruntime", "digits_lenet": "cv2", "digits_cnn": "tensorflow"}


@pytest.fixture(scope="module")
def script(samples: Path) -> ModuleType:
    """sample_dumps/make_samples.py as a module."""
    sys.path.insert(0, str(samples))
    try:
        return importlib.import_module("make_samples")
    finally:
        sys.path.remove(str(samples))


def judged(folder: Path, side: str, with_floors: bool = False) -> Report:
    model = load(folder / "resnet.onnx") if with_floors else None
    feeds = {"image": np.load(folder / "inputs" / "image.npy")} if with_floors else {}
    return compare(
        read_dump(folder / "golden"), read_dump(folder / side), model=model,
        mapping=DeviceMap(load(folder / "mapping.json")),
        floors=floors(model, feeds) if model is not None else None,
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_healthy_device_passes(samples: Path, name: str) -> None:
    report = judged(samples / name, "npu")
    assert report.passed
    assert report.first_bad is None
    assert report.coverage == 1.0
    assert {Verdict.MATCH, Verdict.FUSED, Verdict.INSERTED} == set(report.counts)


@pytest.mark.parametrize("name", NAMES)
def test_the_planted_layer_is_named_first(samples: Path, name: str) -> None:
    truth = json.loads((samples / name / "FAULT.json").read_text())
    report = judged(samples / name, "npu_faulty")
    assert not report.passed
    assert report.first_bad is not None
    assert str(report.first_bad.port) == f"{truth['first_bad']}:output:0"
    planted = truth["fault"].split(",")[0].removeprefix("op=")
    assert planted in report.first_bad.originals


def test_with_floors_healthy_passes_and_the_fault_stands_out(samples: Path) -> None:
    folder = samples / "digits_resnet"
    healthy, faulty = judged(folder, "npu", True), judged(folder, "npu_faulty", True)
    assert healthy.passed
    assert max(row.error / row.limit for row in healthy.judged if row.limit > 0) < 0.5
    assert faulty.first_bad is not None
    assert faulty.first_bad.port.node == "block2/conv2block2/bn2"
    assert faulty.first_bad.error_over_floor > 50


@pytest.mark.parametrize("name", NAMES)
def test_upstream_of_the_fault_both_devices_dumped_the_same_bytes(samples: Path, name: str) -> None:
    folder = samples / name
    first_bad = json.loads((folder / "FAULT.json").read_text())["first_bad"]
    healthy = {path.name: path.read_bytes() for path in (folder / "npu").iterdir()}
    faulty = {path.name: path.read_bytes() for path in (folder / "npu_faulty").iterdir()}
    assert healthy.keys() == faulty.keys()
    different = sorted((key for key in healthy if healthy[key] != faulty[key]), key=lambda key: key.rsplit(".", 1)[1])
    assert different[0].split(".")[1] == first_bad.replace("/", "_")
    planted_at = different[0].rsplit(".", 1)[1]
    assert all(key.rsplit(".", 1)[1] >= planted_at for key in different)


@pytest.mark.parametrize("name", NAMES)
def test_golden_files_are_those_of_their_manifest_and_name_no_machine(samples: Path, name: str) -> None:
    golden = read_dump(samples / name / "golden")
    assert check_golden(golden) == []
    assert len(golden) >= 13
    told = json.loads((samples / name / "golden" / "manifest.json").read_text())
    assert "/" not in told["model"]["path"]
    assert all(row["from"].startswith("inputs/") for row in told["inputs"].values())


@pytest.mark.parametrize("name", NAMES)
def test_accuracy_on_pictures_held_out_is_what_the_readme_says(samples: Path, script: ModuleType, name: str) -> None:
    """The twins stand for their originals, which the next test ties to them."""
    pytest.importorskip("sklearn")
    onnxruntime = pytest.importorskip("onnxruntime")
    _, _, images, labels = script.training.digits()
    sample = script.SAMPLES[name]
    session = onnxruntime.InferenceSession(str(samples / name / (sample.twin_file or sample.model)))
    feed = session.get_inputs()[0].name
    right = 0
    for start in range(0, 448, 4):
        batch = np.ascontiguousarray(images[start:start + 4].transpose(0, 3, 1, 2))
        right += int((session.run(None, {feed: batch})[0].reshape(4, 10).argmax(1) == labels[start:start + 4]).sum())
    assert right / 448 >= 0.975
    (line,) = [line for line in (samples / "README.md").read_text().splitlines() if line.startswith(f"| `{name}` |")]
    assert f"| {100 * right / 448:.1f} % |" in line
    np.testing.assert_array_equal(np.load(samples / "weights" / "images.npy"), images[:4])


@pytest.mark.parametrize("name", ["digits_lenet", "digits_cnn"])
def test_a_twin_agrees_with_the_original_in_every_tensor(samples: Path, script: ModuleType, name: str) -> None:
    golden = read_dump(samples / name / "golden")
    twin = load(samples / name / "twin.onnx")
    pictures = np.load(samples / "weights" / "images.npy").transpose(0, 3, 1, 2)
    found = run(twin, {twin.inputs[0]: np.ascontiguousarray(pictures)})
    compared = 0
    for node in twin.nodes:
        port = Port(node.name, "output", 0)
        exact, other = golden[port].numpy(), found[port].numpy()
        if name == "digits_cnn":
            other = other.transpose(0, 2, 3, 1)
        assert np.abs(exact - other.reshape(exact.shape)).max() <= 1e-4 * np.abs(exact).max(), node.name
        compared += 1
    assert compared >= 12


@pytest.mark.parametrize("name", NAMES)
def test_the_script_makes_the_same_files_again(samples: Path, script: ModuleType, tmp_path: Path, name: str) -> None:
    """Byte for byte where versions and processor are those of MADE_ON.json; else the same files and numbers."""
    if importlib.util.find_spec(RUNNER[name]) is None:
        pytest.skip(f"{RUNNER[name]} is not installed")
    # In a process of its own: TensorFlow takes its settings once, from whatever asked for it first.
    command = [sys.executable, samples / "make_samples.py", "--only", name, "--out", tmp_path]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("TF_")}
    subprocess.run(command, check=True, capture_output=True, env=clean)
    listed = dict(reversed(line.split("  ")) for line in (samples / script.SUMS).read_text().splitlines())
    expected = {path: digest for path, digest in listed.items() if path.startswith(f"{name}/")}
    made = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
    found = dict(reversed(line.split("  ")) for line in script.sums(made, tmp_path).splitlines())
    assert found.keys() == expected.keys()
    if script.made_on() == json.loads((samples / script.MADE_ON).read_text()):
        assert found == expected
        return
    fixed = [path for path in expected if path.count("/") == 1 or "/inputs/" in path]
    assert {path: found[path] for path in fixed} == {path: expected[path] for path in fixed}
    for part in ("golden", "npu"):
        ours, theirs = read_dump(tmp_path / name / part), read_dump(samples / name / part)
        assert set(ours) == set(theirs)
        for port, ref in theirs.refs.items():
            exact = ref.numpy().astype(np.float64)
            assert np.abs(ours[port].numpy() - exact).max() <= 5e-3 * np.abs(exact).max(initial=1e-6), port


def test_sums_name_every_file_and_the_folder_stays_small(samples: Path) -> None:
    files = [path for name in NAMES for path in (samples / name).rglob("*") if path.is_file()]
    lines = (samples / "SHA256SUMS").read_text().splitlines()
    expected = {
        path.relative_to(samples).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }
    assert dict(reversed(line.split("  ")) for line in lines) == expected
    assert sum(path.stat().st_size for path in samples.rglob("*") if path.is_file()) < 5_000_000


def test_the_three_say_the_same_digits(samples: Path) -> None:
    def best(name: str) -> Any:
        return read_dump(samples / name / "golden")[Port("prob", "output", 0)].numpy().reshape(4, 10).argmax(1).tolist()

    assert [best(name) for name in NAMES] == [[2, 0, 4, 9]] * 3
