"""Bars with phases: on the terminal of a person only, and never in what is kept."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, with_path

RESNET = ROOT / "sample_dumps" / "digits_resnet"
MODEL, NPU, MAPPING = (str(RESNET / name) for name in ("resnet.onnx", "npu", "mapping.json"))
IMAGE = str(next((RESNET / "inputs").glob("*.npy")))
CUT = ["slice", MODEL, "--start", "block1/conv1", "--end", "block1/relu1", "--dump", NPU, "--mapping", MAPPING]
COMMANDS: dict[str, tuple[list[str], list[str]]] = {  # what is typed, and the phases that are seen
    "compare": (["compare", MODEL, NPU, "-m", MAPPING],
                ["reading", "running the original", "precision floors", "comparing"]),
    "check": (["check", "--case", f"one={MODEL},{NPU}", "--case", f"two={MODEL},{NPU}", "-m", MAPPING, "-b", "b",
               "--update"], ["one: running the original", "two: comparing"]),
    "run": (["run", MODEL, "-i", f"image={IMAGE}", "-o", "g"], ["reading the model", "running", "writing"]),
    "slice": ([*CUT, "-o", "s"], ["reading and cutting the model", "proving and writing the slice"]),
    "convert": (["convert", NPU, "-o", "c"], ["reading", "converting"]),
    "emulate": (["emulate", MODEL, "-o", "e"], ["reading the model", "emulating"]),
    "inspect": (["inspect", NPU], ["reading"]),
}


def on_a_terminal(folder: Path, *arguments: str, **more: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """The command with its standard error on a terminal, its standard output in a file; and what the terminal got."""
    environment = {name: value for name, value in with_path().items() if name != "CI"}
    master, slave = pty.openpty()
    try:
        with (folder / "out").open("w") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "acccmp", *arguments], cwd=folder, stdin=slave, stdout=out, stderr=slave,
                env={**environment, "TERM": "xterm", "COLUMNS": "100", **more},
            )
            os.close(slave)
            told = b""
            while True:
                try:
                    more_told = os.read(master, 1 << 16)
                except OSError:  # the other end is closed
                    break
                if not more_told:
                    break
                told += more_told
        code = process.wait()
    finally:
        os.close(master)
    seen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", told.decode(errors="replace"))
    return subprocess.CompletedProcess(arguments, code, (folder / "out").read_text()), seen


@pytest.mark.parametrize("name", COMMANDS)
def test_a_person_at_a_terminal_sees_the_phases_and_the_output_is_as_without(name: str, tmp_path: Path) -> None:
    typed, phases = COMMANDS[name]
    ran, seen = on_a_terminal(tmp_path, *typed)
    assert ran.returncode in (0, 1), seen
    for phase in phases:
        assert phase in seen
    assert ran.stdout.strip()


def test_no_bar_for_machines(tmp_path: Path) -> None:
    typed, _ = COMMANDS["compare"]
    for number, (arguments, environment) in enumerate((
        ([*typed, "--json"], {}), (typed, {"CI": "true"}), (typed, {"TERM": "dumb"}),
    )):
        (tmp_path / str(number)).mkdir()
        ran, seen = on_a_terminal(tmp_path / str(number), *arguments, **environment)
        assert ran.returncode == 0
        assert seen == ""
    ran = subprocess.run(
        [sys.executable, "-m", "acccmp", *typed], cwd=tmp_path, env=with_path(), capture_output=True, text=True,
        check=True,
    )
    assert ran.stderr == ""
