"""Damaged files through the command: what once went wrong does not again, and a seeded piece of `make fuzz` stays calm.

Both run in a process of their own: a process that has run models cannot be forked."""

from __future__ import annotations

import subprocess
import sys

from conftest import ROOT, with_path

from acccmp.kinds import KINDS


def fuzz(*arguments: str) -> list[str]:
    ran = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "fuzz.py"), *arguments], capture_output=True, text=True,
        errors="replace", timeout=1200, env=with_path(), check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout.splitlines()


def test_what_once_went_wrong_does_not_again() -> None:
    lines = fuzz("--corpus")
    assert len(lines) > 45
    assert all(line.startswith("ok ") for line in lines)


def test_every_reader_is_a_target() -> None:
    damaged = {kind for line in fuzz("--kinds") for kind in line.partition(": ")[2].split()}
    assert damaged >= {kind.name for kind in KINDS if kind.load}


def test_a_piece_of_the_long_run_has_no_exceptions_takes_no_time_and_no_memory() -> None:
    lines = fuzz("--count", "250", "--seed", "11", "--jobs", "1")
    total = next(line for line in lines if line.startswith("all ")).split()
    cases, read, refused, exceptions, slow, large = map(int, total[1:7])
    assert cases >= 250
    assert min(read, refused) > 50, "both happen, or nothing was damaged"
    assert exceptions == slow == large == 0
