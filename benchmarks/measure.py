"""All long measurements, one after the other: `make measure`. Each is a script of this folder that can be run alone.

    python benchmarks/measure.py [NAME ...]
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

# name -> script and arguments; what it shows is in each script's docstring
MEASUREMENTS: dict[str, list[str]] = {
    "import": ["import_time.py"],
    "floors": ["floors.py"],
    "faults": ["faults_table.py"],
    "memory": ["memory_compare.py", "--mib", "1024"],
    "slices": ["slices.py", "200"],
    "slice-time": ["slice_time.py"],
    "big-slice": ["big_slice.py"],
    "damage": [
        "damage.py", *(f"sample_dumps/{net}/{dump}" for net in ("digits_resnet", "digits_lenet", "digits_cnn")
                       for dump in ("npu", "npu_faulty", "golden")), "--count", "1000",
    ],
    "damage-compare": ["damage_compare.py", "1000"],
    "fuzz": ["fuzz.py", "--count", "20000"],
    "device-files": ["device_files.py"],
    "big-om": ["big_om.py"],
    "false-alarms": ["false_alarms.py", "100"],
    "kills": ["kills.py", "200"],
}


def run_all(names: Sequence[str], seconds: float | None = None) -> tuple[list[str], list[str]]:
    """Run these measurements (all without any), each for at most `seconds`: which failed, which were stopped."""
    failed, stopped = [], []
    for name in names or MEASUREMENTS:
        script, *arguments = MEASUREMENTS[name]
        print(f"\n== {name}: python benchmarks/{script} {' '.join(arguments)}", flush=True)
        begun, command = time.perf_counter(), [sys.executable, str(HERE / script), *arguments]
        try:
            code = subprocess.run(command, cwd=ROOT, check=False, timeout=seconds).returncode
        except subprocess.TimeoutExpired:
            stopped.append(name)
            print(f"== {name}: stopped after {seconds:g} s", flush=True)
            continue
        print(f"== {name}: {time.perf_counter() - begun:.1f} s, exit code {code}", flush=True)
        if code:
            failed.append(name)
    return failed, stopped


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in MEASUREMENTS]
    if unknown:
        print(f"no measurement named {unknown[0]!r}; there are: {', '.join(MEASUREMENTS)}", file=sys.stderr)
        return 2
    failed, _ = run_all(names)
    if failed:
        print(f"\nfailed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
