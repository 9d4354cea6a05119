"""The hint at the first bad layer is true, and every face of the report shows it."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from acccmp import cli
from acccmp.reports.report_json import from_json
from benchmarks.hints_table import measure

SAMPLE = ROOT / "sample_dumps" / "digits_resnet"
HINT = "the NPU's is golden x 1.1, to within its limit"


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A device whose second block scales what it makes."""
    folder = tmp_path_factory.mktemp("device")
    fault = ["--fault", "op=block2/conv1,kind=scale,factor=1.1"]
    fed = ["--input", f"image={SAMPLE / 'inputs' / 'image.npy'}"]
    assert command("emulate", SAMPLE / "resnet.onnx", *fed, "-o", folder, *fault) == 0
    return folder


def against(device: Path, *options: object) -> list[object]:
    return [SAMPLE / "resnet.onnx", device / "npu", "--mapping", device / "mapping.json",
            "--input", f"image={SAMPLE / 'inputs' / 'image.npy'}", *options]


def test_every_face_of_a_report_shows_the_hint(
    device: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    assert command("compare", *against(device, "-o", tmp_path)) == 1
    assert HINT in " ".join(capsys.readouterr().out.split())
    report = from_json((tmp_path / "report.json").read_text())
    assert report.first_bad is not None
    assert report.first_bad.hint == HINT
    assert "block2/conv1" in report.first_bad.originals
    with (tmp_path / "report.csv").open(newline="") as file:
        reasons = {row["TensorIndex"]: row["Reason"] for row in csv.DictReader(file)}
    assert HINT in reasons[str(report.first_bad.port)]
    page = (tmp_path / "report.html").read_text()
    assert HINT.replace("'", "&#x27;") in page or HINT in page
    assert any(HINT in reason for reason in report.to_frame()["reason"])


def test_every_face_of_a_check_shows_the_hint(device: Path, tmp_path: Path) -> None:
    baseline = ["--baseline", tmp_path / "baseline"]
    healthy = [SAMPLE / "npu", "--mapping", SAMPLE / "mapping.json"]
    assert command("check", SAMPLE / "resnet.onnx", *healthy, *baseline, "--update") == 0
    files = {"--junit": "junit.xml", "--sarif": "sarif.json", "--markdown": "summary.md"}
    wanted = [part for option, name in files.items() for part in (option, tmp_path / name)]
    assert command("check", *against(device, *baseline, *wanted)) == 1
    for name in files.values():
        text = (tmp_path / name).read_text().replace("&apos;", "'")
        assert HINT in text, name


def test_a_slice_tells_what_its_device_output_looks_like(
    device: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    command("slice", SAMPLE / "resnet.onnx", "--start", "block2/conv1", "--end", "block2/conv1", "--dump",
            device / "npu", "--mapping", device / "mapping.json", "-o", tmp_path / "slice")
    assert "golden x 1.1" in capsys.readouterr().out
    folder = next(path.parent for path in tmp_path.rglob("README.txt"))
    assert "golden x 1.1" in (folder / "README.txt").read_text()
    told = json.loads((folder / "manifest.json").read_text())
    assert "golden x 1.1" in json.dumps(told["device"])


@pytest.mark.parametrize("damage", ["cut off", "another shape"])
def test_beside_what_could_not_be_compared_nothing_is_said_of_its_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str,
) -> None:
    """It said that error first crosses its limit here, and that the layer itself is suspect."""
    fed = ["--input", f"image={SAMPLE / 'inputs' / 'image.npy'}"]
    assert command("emulate", SAMPLE / "resnet.onnx", *fed, "-o", tmp_path) == 0
    (path,) = tmp_path.glob("npu/*stem_convstem*")
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[:-40])
    else:
        dump = tmp_path / "arrays"
        assert command("convert", tmp_path / "npu", "-o", dump) == 0
        (dump / "converted.json").unlink()
        (array,) = dump.glob("*stem_convstem*output.0.npy")
        np.save(array, np.load(array)[:, :, :-1])
    capsys.readouterr()
    npu = tmp_path / ("npu" if damage == "cut off" else "arrays")
    assert command("compare", SAMPLE / "resnet.onnx", npu, "--mapping", tmp_path / "mapping.json", *fed) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "Nothing is known of its numbers" in told
    assert "crosses its limit" not in told
    assert "suspect" not in told


def test_of_forty_drawn_faults_every_sentence_that_was_said_is_true(tf: Any) -> None:
    found = list(measure(40, seed=3))
    said: Counter[Any] = Counter(item.sentence for item in found)
    assert len(said) >= 6  # five sentences and silence
    assert [item for item in found if item.sentence and not item.is_true] == []
