"""What docs/plugins.md says is true: a model format, a dump format and a runner of another package are used by every
command, and an entry point that is wrong is one line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, with_path

TEXT = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
TOML, PYTHON, SHELL = (
    re.findall(rf"^```{kind}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)[0] for kind in ("toml", "python", "sh")
)
X = np.float32([-1, 2, -3, 4])


def install(site: Path, name: str, points: str, code: str) -> None:
    """As pip would: the module, and a dist-info folder with its entry points."""
    about = site / f"{name}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(points)
    (site / f"{name}.py").write_text(code)


def points_of(toml: str) -> str:
    groups = tomllib.loads(toml)["project"]["entry-points"].items()
    return "\n".join(f"[{group}]\n" + "\n".join(map(" = ".join, rows.items())) for group, rows in groups)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the documented package beside it, a toy network, its input, and a device's dump of it."""
    install(tmp_path / "site", "toynet", points_of(TOML), PYTHON)
    (tmp_path / "net.toy").write_text("TOYNET\nx\nrelu Relu x\ny Double relu\n")
    np.save(tmp_path / "x.npy", X)
    right = {"relu": [0, 2, 0, 4], "y": [0, 4, 0, 8]}
    (tmp_path / "npu.json").write_text(json.dumps({"toydump": right}))
    (tmp_path / "faulty.json").write_text(json.dumps({"toydump": {**right, "y": [0, 4, 0, 9]}}))
    return tmp_path


def acccmp(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "acccmp", *arguments], cwd=folder, env=with_path(folder / "site"),
        capture_output=True, text=True, check=False,
    )


def test_the_documented_package_is_used_by_every_command(project: Path) -> None:
    said = []
    for line in SHELL.splitlines():
        ran = acccmp(project, *line.split()[1:])
        assert ran.returncode == 0, (line, ran.stdout, ran.stderr)
        said.append(ran.stdout)
    assert "a toy network" in said[0]
    assert "3 tensors of net" in said[1]
    assert all("PASSED" in text for text in said[2:4])
    assert "self-test: passed" in said[4]
    assert "ATC takes no model of format 'toynet'" in said[4]
    script = next((project / "slices").glob("*/reproduce.py"))
    alone = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert (alone.returncode, len(alone.stderr.splitlines())) == (2, 1)
    assert "nothing here runs a toynet model" in alone.stderr
    told = json.loads((project / "golden" / "manifest.json").read_text())
    assert told["runner"] == {"name": "toyrun", "version": np.__version__}


def test_a_fault_in_the_toy_dump_is_found(project: Path) -> None:
    ran = acccmp(project, "compare", "net.toy", "faulty.json", "--input", "x=x.npy", "--json")
    assert ran.returncode == 1, ran.stderr
    rows = {row["port"]: row["verdict"] for row in json.loads(ran.stdout)["comparisons"]}
    assert rows["relu:output:0"] == "match"
    assert rows["y:output:0"] == "drift"


def test_a_golden_folder_of_the_runner_is_used_again_and_made_anew_by_another_version(project: Path) -> None:
    command = ("run", "net.toy", "--input", "x=x.npy", "-o", "golden")
    assert acccmp(project, *command).returncode == 0
    assert "is used as it is" in acccmp(project, *command).stdout
    code = project / "site" / "toynet.py"
    code.write_text(code.read_text().replace("return np.__version__", 'return "2.0-toy"'))
    assert "installed is 2.0-toy" in acccmp(project, *command).stderr


@pytest.mark.parametrize(("points", "told"), [
    ("[acccmp.kinds]\nbad = nowhere:KIND\n", "bad = nowhere:KIND (of bad) cannot be loaded: ModuleNotFoundError"),
    ("[acccmp.kinds]\nbad = bad:NUMBER\n", "bad = bad:NUMBER (of bad) is no acccmp.kinds.Kind, but int"),
    ("[acccmp.kinds]\nbad = bad:ONNX\n", "bad = bad:ONNX (of bad) has the name of a kind of acccmp, 'onnx'"),
])
def test_an_entry_point_that_is_wrong_is_named(tmp_path: Path, points: str, told: str) -> None:
    code = 'from acccmp.kinds import Kind\nNUMBER = 7\nONNX = Kind("onnx", "mine", "original", "bad:no")\n'
    install(tmp_path / "site", "bad", points, code)
    ran = acccmp(tmp_path, "inspect", str(ROOT / "README.md"))
    assert ran.returncode == 2
    assert told in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize(("runner", "told"), [
    ("nothing", "no runner named 'nothing'; there are: onnxruntime, opencv, tensorflow, command, toyrun"),
    ("toyrun:fast", "the runner 'toyrun' takes nothing behind its name, but 'fast' was given"),
    ("command", "the runner 'command' needs to be told more: --runner 'command:...'"),
])
def test_a_runner_that_is_not_there_or_told_too_much_or_little(project: Path, runner: str, told: str) -> None:
    ran = acccmp(project, "run", "net.toy", "--input", "x=x.npy", "-o", "golden", "--runner", runner)
    assert (ran.returncode, ran.stderr.strip()) == (2, f"acccmp: {told}")
    assert not (project / "golden").exists()
