"""The house stands as drawn: a module imports only from lower floors and from its own folder."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "acccmp"

FLOOR = {
    "errors": 0, "version": 0, "plugins": 0, "kinds": 0, "schemas": 0, "core": 1, "models": 2, "dumps": 2, "reports": 2,
    "mapping": 3, "inputs": 3, "releases": 3, "comparison": 4, "slicing": 4, "runners": 4, "devices": 4,
    "emulator": 5, "diagnosis": 6, "jobs": 7, "ui": 8, "cli": 9, "demo": 9, "__init__": 9, "__main__": 9,
}
HEAVY = ("onnx", "google.protobuf", "onnxruntime", "tensorflow", "cv2", "pandas", "matplotlib", "scipy", "networkx")


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if not path.name.endswith("_pb2.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


# What a noun's method that reaches upward gives or takes is named for type checkers only: never imported at run time.
FOR_TYPES = {
    ("core/graph.py", "reports"): "what Graph.plot draws the verdicts of",
    ("reports/report.py", "mapping"): "what a report was made with",
    ("reports/report.py", "slicing"): "what Report.slice gives",
}


def parts_for_types(tree: ast.AST) -> list[ast.AST]:
    """What stands below `if TYPE_CHECKING:`."""
    return [
        inner for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for part in node.body for inner in ast.walk(part)
    ]


def imported(path: Path, for_types: bool | None = None) -> list[str]:
    """Rooms of acccmp that a module imports, anywhere in it (or only, or not, for types); `acccmp` itself counts as
    `__init__`."""
    found = []
    tree = ast.parse(path.read_text())
    typed = parts_for_types(tree)
    for node in ast.walk(tree):
        if for_types is not None and for_types != (node in typed):
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides where a name comes from"
            whole = node.module == "acccmp"
            found += [f"acccmp.{alias.name}" for alias in node.names] if whole else [str(node.module)]
    parts = [name.split(".") for name in found if name.split(".")[0] == "acccmp"]
    return [name[1] if len(name) > 1 and name[1] in FLOOR else "__init__" for name in parts]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_looks_down_never_up_nor_sideways(path: Path) -> None:
    here = room(path)
    assert here in FLOOR, f"{here} has no floor in the table above"
    for there in imported(path):
        same_folder = there == here or FLOOR[there] == FLOOR[here] in (0, 9)
        allowed = FLOOR[there] < FLOOR[here] or (same_folder and FLOOR[there] <= FLOOR[here])
        named = str(path.relative_to(PACKAGE)), there
        allowed = allowed or (named in FOR_TYPES and there not in imported(path, for_types=False))
        assert allowed, f"{path.name}: {here} -> {there}"


def test_types_from_above_are_still_needed() -> None:
    for name, there in FOR_TYPES:
        assert there in imported(PACKAGE / name, for_types=True), f"{name} needs no type of {there} any more"


def test_importing_acccmp_loads_no_framework() -> None:
    code = "import sys, json, acccmp; print(json.dumps(sorted(sys.modules)))"
    loaded = set(json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout))
    assert not loaded & set(HEAVY)


def test_only_the_command_line_prints_and_exits() -> None:
    talk = ("print", "echo", "Console", "exit", "SystemExit")
    talkers = {
        room(path)
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and (node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")) in talk
    }
    assert talkers == {"cli", "demo", "__main__"}


MODULE_OF = {"protobuf": "google", "opencv-python-headless": "cv2", "tensorflow-cpu": "tensorflow", "Pillow": "PIL"}


def asked_for(*extras: str) -> set[str]:
    """The modules of what pyproject.toml makes pip install: with these extras, or with none."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    lines = [line for extra in extras for line in project["optional-dependencies"][extra]] or project["dependencies"]
    names = {re.split(r"[<>=\[]", line)[0] for line in lines}
    return {MODULE_OF.get(name, name) for name in names}


def imported_from_others() -> set[str]:
    """Top-level modules that the package imports, by `import` or by `need`."""
    found = set()
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module))
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "need":
                found |= {str(argument.value) for argument in node.args[:1] if isinstance(argument, ast.Constant)}
    return {name.split(".")[0] for name in found} - {"acccmp"} - sys.stdlib_module_names


def test_what_is_installed_is_imported_and_what_is_imported_is_installed() -> None:
    hard, optional = asked_for(), asked_for("ort", "caffe", "tf", "plot", "images")
    used = imported_from_others() | {"google"}  # by the generated schemas
    assert hard - used == set()
    assert optional - used == set()
    assert used - hard - optional == set()


def test_every_extra_is_named_where_its_package_is_missing() -> None:
    from acccmp.plugins import EXTRAS

    extras = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS.values()) == extras.keys() - {"all", "dev"}
    assert re.findall(r"\w+", extras["all"][0]) == ["acccmp", *(name for name in extras if name not in ("all", "dev"))]


# -- two doors to the disk ---------------------------------------------------------------------------------------

DOORS = ("core/reading.py", "core/writing.py")
# What opens, lists, parses or writes files, by the last parts of the name that is called.
ENTRANCES = {
    *("open", "os.open", "os.fdopen", "io.open", "np.load", "np.loadtxt", "np.fromfile", "np.memmap", "np.genfromtxt"),
    *("mmap.mmap", "json.load", "json.loads", "tomllib.load", "tomllib.loads", "sqlite3.connect", "zipfile.ZipFile"),
    *("tarfile.open", "gzip.open", "onnx.load", "onnx.load_model", "os.scandir", "os.listdir", "os.walk", "glob.glob"),
    *("*.read_text", "*.read_bytes", "*.iterdir", "*.rglob", "*.glob", "*.open"),
}
EXITS = {
    *("os.replace", "os.rename", "os.remove", "os.unlink", "os.mkdir", "os.makedirs", "os.rmdir", "os.link"),
    *("shutil.copyfile", "shutil.copy", "shutil.copy2", "shutil.copytree", "shutil.move", "shutil.rmtree", "json.dump"),
    *("np.save", "np.savez", "np.savez_compressed", "np.savetxt", "tempfile.mkdtemp", "tempfile.mkstemp"),
    *("tempfile.TemporaryDirectory", "tempfile.NamedTemporaryFile", "tempfile.TemporaryFile", "onnx.save"),
    *("onnx.save_model", "*.write_text", "*.write_bytes", "*.unlink", "*.mkdir", "*.rmdir", "*.rename", "*.touch"),
    *("*.tofile", "*.savefig", "*.symlink_to"),
}
# The few that may, each with its reason.
ALLOWED = {
    ("__main__.py", "os.open"): "/dev/null in the place of a stream that is closed",
    ("cli/printing.py", "os.open"): "/dev/null in the place of a pipe that is broken",
    ("cli/compare.py", "json.loads"): "the text of a report that was made a line above",
    ("demo.py", "json.loads"): "a file of this repository",
    ("demo.py", "*.read_text"): "a file of this repository",
    ("dumps/arrays.py", "np.loadtxt"): "is given lines of text, no file",
    ("dumps/msprobe.py", "*.glob"): "a pattern over two levels; each folder found is asked for where it lies",
    ("inputs/files.py", "*.open"): "Pillow, which is given a file that the door has opened",
    ("releases/history.py", "sqlite3.connect"): "SQLite opens its file by itself; the door is asked about it before",
    ("reports/canvas.py", "*.savefig"): "matplotlib, which is given a file of the writer, or memory",
    ("slicing/bundle.py", "zipfile.ZipFile"): "packs into a file of the writer",
    ("slicing/bundle.py", "*.read_text"): "the package's own script, from its resources",
    ("slicing/bundle.py", "*.glob"): "one pattern; whatever it finds is opened through the door",
}


def entrances(path: Path) -> set[str]:
    """The rows of ENTRANCES and EXITS that a module calls."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name):
            found.add(node.func.id)
        elif isinstance(node.func, ast.Attribute):
            of = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            named = f"{of}.{node.func.attr}"
            if of not in ("reading", "writing"):
                found.add(named if named in ENTRANCES | EXITS else f"*.{node.func.attr}")
    return found & (ENTRANCES | EXITS)


def test_only_the_two_doors_open_and_write_files() -> None:
    called = {
        (name, call) for path in modules() if (name := str(path.relative_to(PACKAGE))) not in DOORS
        for call in entrances(path)
    }
    assert called - ALLOWED.keys() == set(), "open files through acccmp.core.reading, write them through core.writing"
    assert ALLOWED.keys() - called == set(), "these need no exception any more"


def test_no_key_of_a_graphs_meta_is_read() -> None:
    """It is shown as it is; what a module asks for is a field of Graph or of the format's own source."""
    asked = [
        f"{path.relative_to(PACKAGE)}: {line.strip()}" for path in modules() for line in path.read_text().splitlines()
        if re.search(r"\.meta(\[|\.get\()", line)
    ]
    assert asked == []
