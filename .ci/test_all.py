"""`make test-all`: the whole suite, then every long measurement that fits, and at the end, loudly, what was not tried.

    python .ci/test_all.py [MINUTES that one measurement may take, 15 by default]
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

# Environments that are too heavy to be installed by `make`: module -> what is not tried without it.
HEAVY = {"mindspore": "runs of MindIR originals", "torch": "captures by hooks"}
KILLS = "60"  # rounds of the tests that kill a writing process, where `make test` has 6


def suite() -> tuple[int, list[str]]:
    """pytest's exit code, and why tests were skipped."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "junit.xml"
        code = subprocess.run(
            [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", f"--junitxml={told}"], cwd=ROOT,
            env={**os.environ, "ACCCMP_KILLS": KILLS}, check=False,
        ).returncode
        reasons = Counter(skip.get("message", "") for skip in ET.parse(told).iter("skipped")) if told.exists() else {}
    return code, [f"{count} tests: {reason}" for reason, count in reasons.items()]


def main(minutes: float) -> int:
    from measure import run_all

    code, left_out = suite()
    failed, stopped = run_all((), seconds=60 * minutes)
    left_out += [f"the measurement {name}: stopped after {minutes:g} minutes" for name in stopped]
    missing = [name for name in HEAVY if importlib.util.find_spec(name) is None]
    left_out += [f"{HEAVY[name]}: {name} is not installed" for name in missing]
    print("\n" + "=" * 100)
    print("NOT TRIED:" if left_out else "NOTHING WAS LEFT OUT")
    for line in left_out:
        print(f"  - {line}")
    print(f"the suite: {'passed' if code == 0 else 'FAILED'}; measurements that failed: {', '.join(failed) or 'none'}")
    return 1 if code or failed else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 15))
