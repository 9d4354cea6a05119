"""How long `import acccmp` takes and what it loads, in fresh processes (median of 15; the interpreter alone beside it).

    python benchmarks/import_time.py
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time


def seconds(code: str) -> float:
    """Median wall time of a fresh interpreter that runs `code`."""
    taken = []
    for _ in range(15):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def main() -> int:
    bare, numpy, ours = seconds("pass"), seconds("import numpy"), seconds("import acccmp")
    whole = seconds("import acccmp; acccmp.Graph; acccmp.Report")
    print(f"python alone {bare * 1e3:.0f} ms; import numpy +{(numpy - bare) * 1e3:.0f} ms; "
          f"import acccmp +{(ours - bare) * 1e3:.0f} ms; and its nouns +{(whole - bare) * 1e3:.0f} ms")
    code = (
        "import sys, json; before = set(sys.modules); import acccmp; "
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    print(f"modules that `import acccmp` loads ({len(loaded)}): {', '.join(loaded)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
