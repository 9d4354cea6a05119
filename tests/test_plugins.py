"""What docs/plugins.md says is true: a model format, a dump format, a layout, a metric and a runner of another package
are used by every command, and an entry point that is wrong is one line."""

from __future__ import annotations

import csv
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
TOML, SHELL = (
    re.findall(rf"^```{kind}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)[0] for kind in ("toml", "sh")
)
# module -> code; each section of the page ends in one
MODULES = dict(re.findall(r"In `(\w+)\.py`:\n\n```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
X = np.float32([-1, 2, -3, 4, 5])


def install(site: Path, name: str, points: str, modules: dict[str, str]) -> None:
    """As pip would: the modules, and a dist-info folder with the entry points."""
    about = site / f"{name}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(points)
    for module, code in modules.items():
        (site / f"{module}.py").write_text(code)


def points_of(toml: str) -> str:
    groups = tomllib.loads(toml)["project"]["entry-points"].items()
    return "\n".join(f"[{group}]\n" + "\n".join(map(" = ".join, rows.items())) for group, rows in groups)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the documented package beside it, a toy network, its input, and a device's dump of it."""
    install(tmp_path / "site", "toys", points_of(TOML), MODULES)
    (tmp_path / "net.toy").write_text("TOYNET\nx\nrelu Relu x\ny Double relu\n")
    np.save(tmp_path / "x.npy", X)
    right = {"relu": [[0, 0, 5], [2, 4, 0]], "y": [[0, 0, 10], [4, 8, 0]]}  # dealt out to two, the last one is padding
    (tmp_path / "npu.json").write_text(json.dumps({"toydump": right, "channels": 5}))
    wrong = {**right, "y": [[0, 0, 10], [4, -8, 0]]}
    (tmp_path / "faulty.json").write_text(json.dumps({"toydump": wrong, "channels": 5}))
    return tmp_path


def acccmp(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "acccmp", *arguments], cwd=folder, env=with_path(folder / "site"),
        capture_output=True, text=True, check=False,
    )


def python(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=with_path(folder / "site"), capture_output=True, text=True,
        check=False,
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


def compared(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return acccmp(project, "compare", "net.toy", "faulty.json", "--input", "x=x.npy", *arguments)


def test_a_fault_in_the_toy_dump_is_found(project: Path) -> None:
    ran = compared(project, "--json")
    assert ran.returncode == 1, ran.stderr
    rows = {row["port"]: row for row in json.loads(ran.stdout)["comparisons"]}
    assert rows["relu:output:0"]["verdict"] == "match"
    assert rows["y:output:0"]["verdict"] == "drift"
    assert rows["y:output:0"]["max_error_index"] == [3]  # the layout is undone: 8 stands at [1, 1] of what is stored
    assert rows["y:output:0"]["npu"]["layout"] == "TOYDEALT"
    assert rows["y:output:0"]["metrics"]["SignFlips"] == 1
    assert rows["y:output:0"]["metrics"]["Bias"] == pytest.approx(-16 / 5)


def test_a_metric_of_others_stands_in_every_report_behind_ours(project: Path) -> None:
    compared(project, "-o", "report")
    with (project / "report" / "report.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header[-4:] == ["Floor", "ErrorOverFloor", "Bias", "SignFlips"]
    assert [row[-2:] for row in rows] == [["0", "0"], ["-3.2", "1"]]
    for page in ("report.md", "report.html"):
        assert "errors of both signs: they cancel" in (project / "report" / page).read_text()


def test_a_metric_of_others_is_judged_by_and_drawn(project: Path) -> None:
    (project / "flips.toml").write_text('[[rule]]\nop_type = "Double"\nSignFlips = 0\n')
    ran = compared(project, "--thresholds", "flips.toml")
    assert "SignFlips 1 (limit 0)" in ran.stdout
    (project / "flips.toml").write_text('[[rule]]\nop_type = "Double"\nSignFlips = 1\n')
    assert compared(project, "--thresholds", "flips.toml").returncode == 0
    (project / "flips.toml").write_text('[[rule]]\nop_type = "Double"\nBias = 1\n')
    assert "Bias: tells nothing of a difference" in compared(project, "--thresholds", "flips.toml").stderr
    script = """
import acccmp
report = acccmp.compare("net.toy", "faulty.json", inputs={"x": "x.npy"})
print(report.to_frame()[["SignFlips", "Bias"]].dtypes.tolist())
print(report.plot("Bias").axes[0].get_ylabel())
"""
    assert python(project, script).stdout.splitlines() == ["[Int64Dtype(), dtype('float64')]", "mean of npu - golden"]


def test_lines_that_each_of_the_five_needs() -> None:
    counted = {name: sum(bool(line.strip()) for line in code.splitlines()) for name, code in MODULES.items()}
    print(counted)
    assert counted.keys() == {"toynet", "toyrun", "toydump", "toydealt", "toymetrics"}
    assert max(counted.values()) <= 20
    assert (counted["toydealt"], counted["toymetrics"]) == (2, 8)


def test_a_golden_folder_of_the_runner_is_used_again_and_made_anew_by_another_version(project: Path) -> None:
    command = ("run", "net.toy", "--input", "x=x.npy", "-o", "golden")
    assert acccmp(project, *command).returncode == 0
    assert "is used as it is" in acccmp(project, *command).stdout
    code = project / "site" / "toyrun.py"
    code.write_text(code.read_text().replace("return np.__version__", 'return "2.0-toy"'))
    assert "installed is 2.0-toy" in acccmp(project, *command).stderr


@pytest.mark.parametrize(("points", "told"), [
    ("[acccmp.kinds]\nbad = nowhere:KIND\n", "bad = nowhere:KIND (of bad) cannot be loaded: ModuleNotFoundError"),
    ("[acccmp.kinds]\nbad = bad:NUMBER\n", "bad = bad:NUMBER (of bad) is no acccmp.kinds.Kind, but int"),
    ("[acccmp.kinds]\nbad = bad:ONNX\n", "bad = bad:ONNX (of bad) has the name of a kind of acccmp, 'onnx'"),
])
def test_an_entry_point_that_is_wrong_is_named(tmp_path: Path, points: str, told: str) -> None:
    code = 'from acccmp.kinds import Kind\nNUMBER = 7\nONNX = Kind("onnx", "mine", "original", "bad:no")\n'
    install(tmp_path / "site", "bad", points, {"bad": code})
    ran = acccmp(tmp_path, "inspect", str(ROOT / "README.md"))
    assert ran.returncode == 2
    assert told in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize(("points", "told"), [
    ("[acccmp.metrics]\nbad = bad:COSINE\n", "has the name of a metric of acccmp, 'CosineSimilarity'; give it another"),
    ("[acccmp.metrics]\nbad = bad:NUMBER\n", "is no acccmp.core.metrics.Metric, but int"),
    ("[acccmp.metrics]\nbad = bad:LOST\n", "cannot be loaded: AttributeError"),
    ("[acccmp.metrics]\nbad = bad:FAILS\n", "the metric Fails cannot be computed: TypeError"),
    ("[acccmp.layouts]\nbad = bad:PLAIN\n", "has the name of a layout of acccmp, 'NCHW'; give it another name"),
])
def test_a_wrong_metric_or_layout_of_others_is_named_when_comparing(tmp_path: Path, points: str, told: str) -> None:
    install(tmp_path / "site", "bad", points, {"bad": """
from acccmp import Layout, Metric
NUMBER = 7
COSINE = Metric("CosineSimilarity", "higher", 1.0, "mine", "all", of=lambda sums: 1.0)
FAILS = Metric("Fails", "lower", 0.0, "mine", "all", of=lambda sums: None)
PLAIN = Layout("NCHW", "N C W H")
"""})
    dump = ROOT / "sample_dumps" / "digits_resnet"
    ran = acccmp(tmp_path, "compare", str(dump / "golden"), str(dump / "npu"), "-o", "report")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert told in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(("runner", "told"), [
    ("nothing", "no runner named 'nothing'; there are: onnxruntime, opencv, tensorflow, command, toyrun"),
    ("toyrun:fast", "the runner 'toyrun' takes nothing behind its name, but 'fast' was given"),
    ("command", "the runner 'command' needs to be told more: --runner 'command:...'"),
])
def test_a_runner_that_is_not_there_or_told_too_much_or_little(project: Path, runner: str, told: str) -> None:
    ran = acccmp(project, "run", "net.toy", "--input", "x=x.npy", "-o", "golden", "--runner", runner)
    assert (ran.returncode, ran.stderr.strip()) == (2, f"acccmp: {told}")
    assert not (project / "golden").exists()
