"""The public names: which there are, that each is explained with an example that runs, and that nothing is hidden in
`**options` or `Any`."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import with_path

import acccmp
from acccmp.cli import cli

NOUNS = (
    "Check", "Comparison", "DeviceMap", "Dump", "Fault", "Graph", "Layout", "Metric", "Node", "Port", "Report", "Rows",
    "Slice", "TensorRef", "TensorSpec", "Thresholds", "Verdict",
)
ERRORS = (
    "AcccmpError", "FormatError", "InputError", "LayoutError", "MappingError", "MissingExtra", "RunError", "SliceError",
    "UnknownName",
)
FUNCTIONS = (
    "add_layout", "add_metric",
    "check", "compare", "compare_slice", "compare_weights", "convert", "draw", "emulate", "fits", "golden_run",
    "inspect", "load", "plot_series", "random_inputs", "read_dump", "read_inputs", "read_report", "run", "slice_model",
)
MODULES = {"history": ("add", "runs", "series", "latest_jumps", "to_csv")}
# What a command calls: in a notebook it is a function of this name.
COMMANDS = {
    "check": ("check",), "compare": ("compare", "compare_slice", "compare_weights"), "convert": ("convert",),
    "emulate": ("emulate",), "history": ("history", "plot_series"), "run": ("golden_run",),
    "inspect": ("inspect", "fits", "draw"), "slice": ("slice_model",),
}


def test_these_are_the_public_names() -> None:
    assert sorted(acccmp.__all__) == sorted((*NOUNS, *ERRORS, *FUNCTIONS, *MODULES, "__version__"))
    assert dir(acccmp) == sorted(acccmp.__all__)


def test_every_command_has_its_public_functions_and_calls_them() -> None:
    assert set(cli.commands) == set(COMMANDS)
    for command, names in COMMANDS.items():
        module = importlib.import_module(f"acccmp.cli.{command}")
        told = Path(str(module.__file__)).read_text(encoding="utf-8")
        for name in names:
            found = getattr(acccmp, name)
            where = found.__name__ if isinstance(found, ModuleType) else f"{found.__module__}.{name}"
            room, _, last = where.rpartition(".")
            assert re.search(rf"from {re.escape(room)} import [^\n]*\b{last}\b", told), f"acccmp {command}: {where}"


def public_functions() -> Iterator[tuple[str, Any]]:
    """Every public function by its name, and every public method of a noun."""
    for name in FUNCTIONS:
        yield name, getattr(acccmp, name)
    for module, names in MODULES.items():
        for name in names:
            yield f"{module}.{name}", getattr(getattr(acccmp, module), name)
    for noun in NOUNS:
        for name, found in vars(getattr(acccmp, noun)).items():
            found = found.__func__ if isinstance(found, classmethod) else found
            if not name.startswith("_") and inspect.isfunction(found):
                yield f"{noun}.{name}", found


@pytest.mark.parametrize(("name", "function"), list(public_functions()), ids=[name for name, _ in public_functions()])
def test_every_argument_has_a_name_and_every_result_a_type(name: str, function: Any) -> None:
    told = inspect.signature(function)
    hidden = [one for one in told.parameters.values() if one.kind in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]
    assert not hidden, f"{name} hides arguments in {hidden}"
    assert str(told.return_annotation) not in ("Any", ""), f"{name} does not say what it gives"
    untyped = [one.name for one in told.parameters.values() if one.annotation == inspect.Parameter.empty]
    assert set(untyped) <= {"self", "cls"}, f"{name}: {untyped}"
    assert function.__doc__, f"{name} says nothing of itself"


@pytest.mark.parametrize("name", [*FUNCTIONS, *(f"history.{name}" for name in MODULES["history"])])
def test_every_function_says_what_it_raises(name: str) -> None:
    module, _, last = name.rpartition(".")
    told = inspect.getdoc(getattr(getattr(acccmp, module) if module else acccmp, last)) or ""
    assert re.search(r"\b[Rr]aise", told), f"{name} does not say what it raises"


@pytest.fixture
def sample(tmp_path: Path, samples: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a sample to write beside, as the current folder."""
    here = shutil.copytree(samples / "digits_resnet", tmp_path / "digits_resnet")
    monkeypatch.chdir(here)
    return here


LASTING = ("add_layout", "add_metric")  # what they add stays for the process: their examples have one of their own


@pytest.mark.parametrize("name", LASTING)
def test_its_example_gives_what_it_says_in_a_process_of_its_own(name: str, sample: Path) -> None:
    script = f"""
import doctest, inspect, sys, acccmp, numpy as np
docs = inspect.getdoc(acccmp.{name})
example = doctest.DocTestParser().get_doctest(docs, {{"acccmp": acccmp, "np": np}}, "{name}", None, 0)
sys.exit(not example.examples or doctest.DocTestRunner().run(example).failed)
"""
    ran = subprocess.run([sys.executable, "-c", script], cwd=sample, env=with_path(), capture_output=True, text=True,
                         check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("name", [*NOUNS, *(name for name in FUNCTIONS if name not in LASTING), *MODULES])
def test_its_example_gives_what_it_says(name: str, sample: Path) -> None:
    found = getattr(acccmp, name)
    if isinstance(found, ModuleType):
        docs = "\n\n".join(inspect.getdoc(getattr(found, inner)) or "" for inner in MODULES[name])
        assert all(re.search(rf">>> .*acccmp\.{name}\.{inner}\(", docs) for inner in MODULES[name])
    else:
        docs = inspect.getdoc(found) or ""
    example = doctest.DocTestParser().get_doctest(docs, {"acccmp": acccmp, "np": np}, name, None, 0)
    assert example.examples, f"{name} has no example"
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    report: list[str] = []
    doctest.DocTestRunner(optionflags=flags, verbose=False).run(example, out=report.append)
    assert not report, "".join(report)
