"""`make test-all`: the whole suite in another order each time, with its coverage; the suite under every other Python of
this machine; every long measurement that fits; and at the end, loudly, what was not tried.

    python .ci/test_all.py [MINUTES that one measurement may take, 15 by default]
"""

import importlib.util
import os
import random
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / ".ci")]

# Environments that are too heavy to be installed by `make`: module -> what is not tried without it.
HEAVY = {"mindspore": "runs of MindIR originals", "torch": "captures by hooks"}
KILLS = "60"  # rounds of the tests that kill a writing process, where `make test` has 6


def suite(seed: int) -> tuple[int, str, list[str]]:
    """pytest's exit code for the tests in the order of this seed, the coverage of the package in this process and its
    workers (not in those that tests start as users do), and why tests were skipped."""
    with tempfile.TemporaryDirectory() as folder:
        told, environment = Path(folder) / "junit.xml", {**os.environ, "COVERAGE_FILE": f"{folder}/coverage"}
        code = subprocess.run(
            [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "-p", "randomly",
             f"--randomly-seed={seed}", "--cov", "--cov-report=", f"--junitxml={told}"], cwd=ROOT,
            env={**environment, "ACCCMP_KILLS": KILLS}, check=False,
        ).returncode
        covered = subprocess.run(
            [sys.executable, "-m", "coverage", "report", "--format=total"], cwd=ROOT, env=environment,
            capture_output=True, text=True, check=False,
        ).stdout.strip()
        reasons = Counter(skip.get("message", "") for skip in ET.parse(told).iter("skipped")) if told.exists() else {}
    return code, covered, [f"{count} tests: {reason}" for reason, count in reasons.items()]


def main(minutes: float) -> int:
    import pythons
    from measure import run_all

    seed = random.SystemRandom().randrange(10_000)
    code, covered, left_out = suite(seed)
    bad, more = pythons.main()
    left_out += more
    failed, stopped = run_all((), seconds=60 * minutes)
    left_out += [f"the measurement {name}: stopped after {minutes:g} minutes" for name in stopped]
    missing = [name for name in HEAVY if importlib.util.find_spec(name) is None]
    left_out += [f"{HEAVY[name]}: {name} is not installed" for name in missing]
    print("\n" + "=" * 100)
    print("NOT TRIED:" if left_out else "NOTHING WAS LEFT OUT")
    for line in left_out:
        print(f"  - {line}")
    print(f"the suite in the order of --randomly-seed={seed}: {'passed' if code == 0 else 'FAILED'}")
    print(f"coverage of acccmp (lines and branches): {covered or '?'} %")
    print(f"other Pythons that failed: {', '.join(bad) or 'none'}")
    print(f"measurements that failed: {', '.join(failed) or 'none'}")
    return 1 if code or failed or bad else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 15))
