"""Makes one case of the set-aside benchmark, or checks some: see README.md.

make.py CASE FOLDER     writes one case, the same bytes every time
make.py --list          names of all cases
make.py --check N       self-check of N cases chosen at random (0: all)
make.py --draw          draws the list anew (it is fixed: never after the first run)
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import cases
import check

LIST_SEED = 20261125


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="?")
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--list", action="store_true", help="print the names of all cases")
    parser.add_argument("--check", type=int, metavar="N", help="check N cases (0: all)")
    parser.add_argument("--draw", action="store_true", help="draw list.json")
    args = parser.parse_args()
    if args.draw:
        drawn = cases.draw(LIST_SEED, per_kind=3, healthy_per_pair=4)
        body = ",\n".join("  " + json.dumps(asdict(case)) for case in drawn)
        cases.LIST.write_text(f'{{"seed": {LIST_SEED}, "cases": [\n{body}\n]}}\n')
        return 0
    every = {case.name: case for case in cases.listed()}
    if args.list:
        print("\n".join(every))
        return 0
    if args.check is not None:
        return check.check(list(every.values()), args.check)
    if args.case not in every or args.folder is None:
        counts = Counter(case.kind == "healthy" for case in every.values())
        print(f"Name a case and a folder: {counts[False]} faulty (f000 ...), {counts[True]} healthy (h000 ...).")
        return 2
    cases.write(cases.play(every[args.case]), args.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
