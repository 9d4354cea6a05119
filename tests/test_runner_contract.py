"""One contract, run over every runner: what `acccmp.runners.runner.Runner` promises."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caffe_nets import v2_net
from conftest import ROOT, with_path
from test_kinds import GRAPH_DEF, RESNET

from acccmp.core.graph import Graph
from acccmp.errors import InputError, UnknownName
from acccmp.inputs.files import random_inputs
from acccmp.kinds import KINDS, RUNNERS
from acccmp.models.load import load
from acccmp.runners.runner import Captured, Runner, find_runner

# What a user's own program does: every tensor of the tests' model, by another runner of ours.
PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
from acccmp.models.load import load
from acccmp.runners.onnxruntime import run
model, inputs, output = map(Path, sys.argv[1:])
files = json.loads((inputs / "inputs.json").read_text())
done = run(load(model), {name: np.load(inputs / file) for name, file in files.items()})
for port, array in done.tensors.items():
    np.save(output / f"{str(port).replace('/', '_')}.npy", array)
"""


def _onnx(_: Path) -> Graph:
    return load(RESNET / "resnet.onnx")


def _caffe(folder: Path) -> Graph:
    return load(*v2_net(folder))


def _tensorflow(folder: Path) -> Graph:
    (folder / "net.pb").write_bytes(GRAPH_DEF)
    return load(folder / "net.pb")


# What each is run on: a runner without an original here fails.
ORIGINALS: dict[str, Callable[[Path], Graph]] = {
    "onnxruntime": _onnx, "opencv": _caffe, "tensorflow": _tensorflow, "command": _onnx,
}
NEEDS = {"onnxruntime": "onnxruntime", "opencv": "cv2", "tensorflow": "tensorflow", "command": "onnxruntime"}


@pytest.fixture(params=RUNNERS)
def name(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(NEEDS[request.param])
    return str(request.param)


@pytest.fixture
def runner(name: str, tmp_path: Path) -> Runner:
    if name != "command":
        return find_runner(name)
    (tmp_path / "program.py").write_text(PROGRAM)
    program = f"env PYTHONPATH={with_path()['PYTHONPATH']} {sys.executable} {tmp_path / 'program.py'}"
    return find_runner(f"command:{program} {{model}} {{inputs}} {{output}}")


@pytest.fixture
def graph(name: str, tmp_path: Path) -> Graph:
    return ORIGINALS[name](tmp_path)


@pytest.fixture
def inputs(graph: Graph) -> Mapping[str, Any]:
    return random_inputs(graph, 0)


def test_every_tensor_comes_home_in_order_under_the_ports_of_the_graph(
    runner: Runner, graph: Graph, inputs: Mapping[str, Any],
) -> None:
    done = runner.run(graph, inputs)
    assert isinstance(done, Captured)
    assert done.runner
    made = [graph.producer(tensor) for node in graph.nodes for tensor in node.outputs if tensor]
    given = [graph.producer(tensor) for tensor in graph.inputs]
    expected = list(dict.fromkeys([*given, *made]))
    skipped = {graph.producer(tensor) for tensor in done.skipped}
    assert list(done.tensors) == [port for port in expected if port not in skipped]
    assert len(done.tensors) > len(given)
    for name, array in inputs.items():
        port = graph.producer(name)
        assert port is not None
        assert np.array_equal(done[port], array)


def test_the_same_inputs_give_the_same_bits(runner: Runner, graph: Graph, inputs: Mapping[str, Any]) -> None:
    first, again = runner.run(graph, inputs), runner.run(graph, inputs)
    assert first.tensors.keys() == again.tensors.keys()
    for port in first.tensors:
        assert first[port].tobytes() == again[port].tobytes()


def test_what_is_wanted_comes_and_nothing_else(runner: Runner, graph: Graph, inputs: Mapping[str, Any]) -> None:
    whole = runner.run(graph, inputs)
    wanted = [graph.inputs[0], graph.nodes[-1].outputs[0]]
    done = runner.run(graph, inputs, wanted)
    assert list(done.tensors) == [graph.producer(tensor) for tensor in wanted]
    for port, array in done.tensors.items():
        assert whole[port].tobytes() == array.tobytes()


def test_inputs_and_tensors_that_are_not_there_are_named(
    runner: Runner, graph: Graph, inputs: Mapping[str, Any],
) -> None:
    with pytest.raises(InputError, match=graph.inputs[0]):
        runner.run(graph, {})
    with pytest.raises(UnknownName, match="no input named 'nobody'"):
        runner.run(graph, {**inputs, "nobody": np.ones(1, "f4")})
    with pytest.raises(UnknownName, match=r"no tensor named 'nobody(:0)?'"):
        runner.run(graph, inputs, ["nobody"])


def test_the_version_is_known_before_anything_runs_or_is_imported(
    name: str, runner: Runner, graph: Graph, inputs: Mapping[str, Any],
) -> None:
    assert runner.version().startswith(runner.run(graph, inputs).version)
    if name != "command":
        code = (
            "import sys; from acccmp.runners.runner import find_runner; "
            f"assert find_runner({name!r}).version(); assert {NEEDS[name]!r} not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_original_with_a_runner_is_run_by_one_of_the_table() -> None:
    assert {kind.runner for kind in KINDS if kind.runner} <= RUNNERS.keys()
    assert ORIGINALS.keys() == RUNNERS.keys()
