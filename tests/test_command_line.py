"""What holds for every command: options that a way does not honour are refused, names and reports go everywhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import acccmp
from acccmp.errors import InputError

SAMPLE = ROOT / "sample_dumps" / "digits_resnet"


def test_a_report_writes_in_python_what_the_command_writes(tmp_path: Path) -> None:
    pair = [str(SAMPLE / "resnet.onnx"), str(SAMPLE / "npu_faulty")]
    report = acccmp.compare(*pair, mapping=str(SAMPLE / "mapping.json"))
    written = report.save(tmp_path / "by_hand")
    subprocess.run(
        [sys.executable, "-m", "acccmp", "compare", *pair, "--mapping", str(SAMPLE / "mapping.json"),
         "-o", str(tmp_path / "by_command")], capture_output=True, check=False,
    )
    assert [path.name for path in written] == ["report.csv", "report.json", "report.md", "report.html"]
    for path in written:
        assert path.read_bytes() == (tmp_path / "by_command" / path.name).read_bytes()
    (tmp_path / "a_file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        report.save(tmp_path / "a_file")
