"""Names of the package that nothing uses (vulture); what only looks dead is below, with the reason.

Names in "module:name" rows (kinds.py, plugins.py, RUNNERS) are used. A reason that is not needed any more fails too.
"""

import re
import sys
from pathlib import Path

from vulture import Vulture

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "acccmp"
DECORATORS = ["@*.command", "@*.group", "@_rule"]  # what they decorate is in a table

ALIVE = {
    "__getattr__": "Python calls it: names of the package, bound late",
    "__dir__": "Python calls it",
    "__call__": "Python calls it",
    "_ipython_key_completions_": "Jupyter calls it",
    "_repr_png_": "Jupyter calls it",
    "graph_optimization_level": "an option that onnxruntime reads",
    "intra_op_num_threads": "an option that onnxruntime reads",
    "log_severity_level": "an option that onnxruntime reads",
    "text_factory": "an option that sqlite3 reads",
    "dumped_file": "a field of a slice's manifest, written and read by name",
    "damaged": "a field of a slice's manifest, written and read by name",
    "dump_data": "a field of a slice's manifest, written and read by name",
    "disable_meta_optimizer": "an option that TensorFlow reads",
    "overflows": "for notebooks: what the device reported, on a Dump",
    "op_path": "for notebooks: the file beside an overflow report",
    "cosine": "a column of the baseline file: its rows are read and written by name",
    "sniff": "a column of the table of kinds, asked through `Kind.function`",
    "max_abs": "a column of the baseline file: its rows are read and written by name",
}


def main() -> int:
    found = Vulture(ignore_decorators=DECORATORS)
    for path in sorted(PACKAGE.rglob("*.py")):
        if not path.name.endswith("_pb2.py"):
            found.scan(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))
    rows = "\n".join(path.read_text(encoding="utf-8") for path in (PACKAGE / "kinds.py", PACKAGE / "plugins.py"))
    found.scan("\n".join(set(re.findall(r'"acccmp\.[\w.]+:(\w+)"', rows))), "rows")
    unused = found.get_unused_code(min_confidence=60)
    dead = [item for item in unused if item.name not in ALIVE]
    for item in dead:
        print(f"{item.filename}:{item.first_lineno}: nothing uses the {item.typ} {item.name}")
    stale = ALIVE.keys() - {item.name for item in unused}
    for name in sorted(stale):
        print(f"{Path(__file__).name}: {name} is used, or gone: take it out of the list")
    return 1 if dead or stale else 0


if __name__ == "__main__":
    sys.exit(main())
