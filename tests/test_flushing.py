"""A chip that turns subnormal numbers into 0 is known by its dump: its floors know, and no layer is blamed for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulated_nets import model_file
from onnx import helper

from acccmp import cli

FAULT = ["--fault", "op=conv2,kind=scale,factor=1.2"]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two convolutions of faint numbers, some of them subnormal in float16."""
    folder, random = tmp_path_factory.mktemp("net"), np.random.default_rng(3)
    weights = {"w1": random.standard_normal((8, 3, 3, 3)) * 0.2, "w2": random.standard_normal((8, 8, 3, 3)) * 0.2}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="conv1"),
        helper.make_node("Relu", ["a"], ["b"], name="relu1"),
        helper.make_node("Conv", ["b", "w2"], ["y"], name="conv2"),
    ]
    path = model_file(folder, nodes, {"x": (1, 3, 24, 24)}, ["y"],
                      {name: array.astype(np.float32) for name, array in weights.items()})
    np.save(folder / "x.npy", (random.standard_normal((1, 3, 24, 24)) * 1e-3).astype(np.float32))
    return path


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def compared(net: Path, folder: Path, emulated: list[str], options: list[str]) -> tuple[int, dict[str, Any]]:
    """A device of this kind, compared with the model: exit code and report."""
    fed = ["--input", f"x={net.parent / 'x.npy'}"]
    assert command("emulate", net, *fed, "-o", folder, *emulated) == 0
    code = command("compare", net, folder / "npu", "--mapping", folder / "mapping.json", *fed, "-o", folder / "report",
                   *options)
    return code, json.loads((folder / "report" / "report.json").read_text())


def told(report: dict[str, Any]) -> list[str]:
    return [note for note in report["notes"] if "turns subnormal numbers into 0" in note]


def test_a_flushing_chip_is_healthy_and_the_report_says_why(net: Path, tmp_path: Path) -> None:
    code, report = compared(net, tmp_path, ["--flush-subnormals"], [])
    assert code == 0
    assert report["counts"].get("drift", 0) == 0
    (note,) = told(report)
    assert "none is subnormal" in note


def test_a_user_who_says_that_the_chip_keeps_them_is_believed(net: Path, tmp_path: Path) -> None:
    code, report = compared(net, tmp_path, ["--flush-subnormals"], ["--keep-subnormals"])
    assert code == 1
    assert report["first_bad"].startswith("trans_Cast_1")  # the first op that flushes is blamed
    assert told(report) == []


def test_on_a_flushing_chip_the_faulty_layer_is_named_and_not_the_first(net: Path, tmp_path: Path) -> None:
    code, report = compared(net, tmp_path, ["--flush-subnormals", *FAULT], [])
    assert code == 1
    assert report["first_bad"].startswith("conv2")


@pytest.mark.parametrize("emulated", [[], ["--overflow", "saturate"], FAULT, ["--precision", "bfloat16"]], ids=str)
def test_a_chip_that_keeps_subnormals_is_not_taken_for_a_flushing_one(
    net: Path, tmp_path: Path, emulated: list[str],
) -> None:
    _, report = compared(net, tmp_path, emulated, [])
    assert told(report) == []


def test_too_few_small_numbers_say_nothing(samples: Path, tmp_path: Path) -> None:
    sample = samples / "digits_resnet"
    fed = ["--input", f"image={sample / 'inputs' / 'image.npy'}"]
    assert command("emulate", sample / "resnet.onnx", *fed, "-o", tmp_path, "--flush-subnormals") == 0
    command("compare", sample / "resnet.onnx", tmp_path / "npu", "--mapping", tmp_path / "mapping.json", *fed, "-o",
            tmp_path / "report")
    assert told(json.loads((tmp_path / "report" / "report.json").read_text())) == []
