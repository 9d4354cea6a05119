"""One contract, run over every device: what `acccmp.devices.device.Device` promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_kinds import RESNET

from acccmp.core.dump import Dump
from acccmp.devices.device import Device, DeviceRun
from acccmp.dumps.read import read_dump
from acccmp.emulator.emulate import emulate
from acccmp.errors import InputError
from acccmp.inputs.files import random_inputs
from acccmp.models.load import load

pytest.importorskip("onnxruntime")


@pytest.fixture(params=[emulate], ids=["emulator"])
def device(request: pytest.FixtureRequest) -> Device:
    return request.param  # type: ignore[no-any-return]


def test_a_run_leaves_a_dump_that_is_read_and_a_mapping_to_the_original(device: Device, tmp_path: Path) -> None:
    graph = load(RESNET / "resnet.onnx")
    ran = device(graph, random_inputs(graph, 0), tmp_path)
    assert isinstance(ran, DeviceRun)
    assert ran.dump.is_relative_to(tmp_path)
    dump = read_dump(ran.dump)
    assert isinstance(dump, Dump)
    assert (dump.kind, dump.broken) == ("npu", ())
    assert ran.outputs.keys() == set(graph.outputs)
    assert ran.mapping is not None
    mapping = load(ran.mapping)
    known = {node.name for node in graph.nodes}
    assert {name for node in mapping.nodes for name in node.origins or ()} <= known
    stored = [ref.numpy().astype("f4").ravel() for port, ref in dump.items() if port.side == "output"]
    for array in ran.outputs.values():
        assert any(np.array_equal(array.ravel(), other) for other in stored)


def test_a_folder_with_a_dump_is_refused_and_left_as_it_is(device: Device, tmp_path: Path) -> None:
    graph = load(RESNET / "resnet.onnx")
    ran = device(graph, random_inputs(graph, 0), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=ran.dump.name):
        device(graph, random_inputs(graph, 1), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_inputs_that_do_not_fit_leave_nothing(device: Device, tmp_path: Path) -> None:
    graph = load(RESNET / "resnet.onnx")
    for inputs in ({}, {**random_inputs(graph, 0), "nobody": np.ones(1, "f4")}, {graph.inputs[0]: np.ones(3, "f4")}):
        with pytest.raises(InputError):
            device(graph, inputs, tmp_path / "out")
        assert not (tmp_path / "out").exists()
