"""Kills writers at random moments: is a baseline or a history ever anything but old or new?

    python benchmarks/kills.py [N]          N kills of each (200)

Runs the two tests that do it, with N rounds each, and prints what they found.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
TESTS = {
    "baseline": "tests/test_baseline.py::test_killed_at_random_moments_the_baseline_is_always_the_old_or_the_new_one",
    "history": "tests/test_history.py::test_killed_at_random_moments_the_history_holds_whole_releases_only",
}


def main() -> int:
    count = sys.argv[1] if len(sys.argv) > 1 else "200"
    worst = 0
    for what, test in TESTS.items():
        began = time.monotonic()
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-n", "0", test], cwd=ROOT, capture_output=True, text=True,
            env={**os.environ, "ACCCMP_KILLS": count}, check=False,
        )
        told = "always the old or the new state" if ran.returncode == 0 else f"FAILED\n{ran.stdout}"
        print(f"{what}: {count} kills in {time.monotonic() - began:.0f} s: {told}", flush=True)
        worst = max(worst, ran.returncode)
    return worst


if __name__ == "__main__":
    sys.exit(main())
