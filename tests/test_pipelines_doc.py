"""Every shell line of docs/pipelines.md is run: the sh blocks, and the steps inside the GitHub and GitLab snippets."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, with_path

from acccmp.releases.drift import ALPHA, PAIRED_CASES, Tolerance

TEXT = (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(sh|yaml)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
SHELL = [text for kind, text in BLOCKS if kind == "sh"]
YAML = [text for kind, text in BLOCKS if kind == "yaml"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy in which the commands may write: the samples linked, and the names that the snippets use."""
    (tmp_path / "sample_dumps").symlink_to(ROOT / "sample_dumps")
    sample = ROOT / "sample_dumps" / "digits_resnet"
    for name, target in (("model.onnx", "resnet.onnx"), ("model.json", "mapping.json")):
        shutil.copy(sample / target, tmp_path / name)
    (tmp_path / "npu_dump").symlink_to(sample / "npu")
    return tmp_path


def run(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The lines in a shell that stops at the first failure, with `acccmp` on the path."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "acccmp").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m acccmp "$@"\n')
    (tools / "acccmp").chmod(0o755)
    environment = {
        **with_path(), "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "GITHUB_STEP_SUMMARY": str(folder / "step_summary.md"),
    }
    return subprocess.run(
        ["sh", "-e", "-c", text], cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )


def steps(text: str) -> list[str]:
    """The shell lines of a YAML snippet, without installations."""
    github = re.findall(r"^ +(?:- )?run: (.+)$", text, re.MULTILINE)
    script = re.search(r"^  script:\n((?:    - .+\n)+)", text, re.MULTILINE)
    gitlab = re.findall(r"^    - (.+)$", script.group(1), re.MULTILINE) if script else []
    return [line for line in (*github, *gitlab) if not line.startswith("pip install")]


def test_the_shell_blocks_run_one_after_another(project: Path) -> None:
    assert len(SHELL) >= 4
    for text in SHELL:
        ran = run(text, project)
        assert ran.returncode == 0, f"{text}\n{ran.stdout}{ran.stderr}"
    made = {path.name for path in project.iterdir()}
    assert {"digits.baseline", "junit.xml", "acccmp.sarif", "summary.md", "report", "drift.db", "drift.csv"} <= made
    assert len((project / "drift.csv").read_text().splitlines()) == 1 + 2 * 55


def test_the_snippets_steps_run(project: Path) -> None:
    assert len(YAML) == 2
    first = "acccmp check model.onnx npu_dump/ --mapping model.json --baseline model.baseline --update"
    assert run(first, project).returncode == 0
    for text in YAML:
        lines = steps(text)
        assert any(line.startswith("acccmp check") for line in lines)
        ran = run("\n".join(lines), project)
        assert ran.returncode == 0, f"{lines}\n{ran.stdout}{ran.stderr}"
    assert "## acccmp: PASSED" in (project / "step_summary.md").read_text()


def test_the_snippets_keep_what_their_commands_write() -> None:
    """Each file that a later step or artefact names is written by the check."""
    for text in YAML:
        check = next(line for line in steps(text) if line.startswith("acccmp check"))
        for pattern in (r"sarif_file: ([\w.]+)", r"junit: ([\w.]+)", r"path: ([\w.]+)", r"cat ([\w.]+)"):
            for name in re.findall(pattern, text):
                assert f" {name}" in check


def test_the_snippets_are_yaml() -> None:
    yaml = pytest.importorskip("yaml")
    github, gitlab = (yaml.safe_load(text) for text in YAML)
    runs = [step["run"] for step in github["jobs"]["accuracy"]["steps"] if "run" in step]
    assert [line for line in runs if not line.startswith("pip")] == steps(YAML[0])
    assert [line for line in gitlab["accuracy"]["script"] if not line.startswith("pip")] == steps(YAML[1])


def test_the_tolerance_that_the_text_states_is_the_default() -> None:
    default = Tolerance()
    plain = " ".join(TEXT.split())
    assert f"times {default.over_floor:g} (errors in floors" in plain
    assert f"or {default.error:g} (without floors)" in plain
    assert f"exp({default.few:g} / sqrt(n))" in plain
    factors = default.factor(True, 1000), default.factor(True, 10)
    assert f"x1.3 is x{factors[0]:.2f} at 1000 elements and x{factors[1]:.1f} at 10" in plain
    assert f"the median ratio is over {default.paired:g}" in plain
    assert f"From {PAIRED_CASES} common cases" in plain
    assert 800 * 2.0**-PAIRED_CASES < ALPHA < 850 * 2.0**-PAIRED_CASES, "up to 800 tensors"
    assert f"Errors below {default.nothing:.0e}".replace("e-06", "e-6") in plain
