"""One contract, run over every row of kinds.py: sniffed, loaded, described, saved and loaded again."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import om_bytes
import pytest
from caffe_nets import v2_net
from conftest import ROOT
from dump_bytes import blob, number, put, simple
from google.protobuf import text_format
from report_factory import make_report
from test_cambricon import TEXT as TWINS
from test_dump_msprobe import probe
from test_mindspore_dumps import folder as mindspore_folder
from test_om import small

import acccmp
from acccmp.core.dump import Dump, Port
from acccmp.core.graph import Graph
from acccmp.core.identify import identify
from acccmp.errors import FormatError
from acccmp.jobs.inspect import inspect
from acccmp.kinds import KINDS, RUNNERS, Kind, suffixes
from acccmp.models.load import load
from acccmp.releases import baseline, history
from acccmp.schemas import mindir_pb2

RESNET = ROOT / "sample_dumps" / "digits_resnet"
CHECKPOINT = blob(1, blob(1, "conv.weight") + blob(2, number(1, 2) + blob(2, "Float32") + blob(3, bytes(8))))
GRAPH_DEF = b"""
node { name: "x" op: "Placeholder" attr { key: "dtype" value { type: DT_FLOAT } }
  attr { key: "shape" value { shape { dim { size: 2 } } } } }
node { name: "y" op: "Relu" input: "x" attr { key: "T" value { type: DT_FLOAT } } }
"""


def _slice(folder: Path) -> Path:
    part = acccmp.slice_model(RESNET / "resnet.onnx", "block1/conv1", "block1/conv1", dump=RESNET / "npu",
                              mapping=RESNET / "mapping.json")
    return Path(part.save(folder / "s", check=False).path)


def _om(folder: Path) -> Path:
    model, weights, _, _ = small()
    return put(folder, "net.om", om_bytes.om((0, model.SerializeToString()), (1, weights)))


def _build_pbtxt(folder: Path) -> Path:
    return put(folder, "ge_Build.pbtxt", text_format.MessageToString(small()[0]).encode())


def _mindir(folder: Path) -> Path:
    model = mindir_pb2.ModelProto(ir_version="0.1.1", producer_name="MindSpore", model_version="2.3.0")
    model.graph.name = "g"
    model.graph.input.add(name="g:x").tensor.add(dims=[2, 4], data_type=1)
    model.graph.node.add(op_type="ReLU", input=["g:x"], output=["g:y"], name="g:y")
    model.graph.output.add(name="g:y")
    return put(folder, "net.mindir", model.SerializeToString())


def _msprobe(folder: Path) -> Path:
    probe(folder)
    return folder


def _array(folder: Path) -> Path:
    np.save(folder / "conv.npy", np.ones(3, "f4"))
    return folder / "conv.npy"


def _npz(folder: Path) -> Path:
    np.savez(folder / "all.npz", **{"conv:output:0": np.ones(3, "f4")})
    return folder / "all.npz"


def _ascend(folder: Path) -> Path:
    put(folder, "Conv2D.conv1.3.1.1700000000001000", simple("conv1"))
    return folder


def _report(folder: Path) -> Path:
    make_report().save(folder / "report")
    return folder / "report" / "report.json"


def _baseline(folder: Path) -> Path:
    entries = baseline.entries_of({"cat": make_report()}, ["conv0:output:0"])
    baseline.write(baseline.Baseline("net", entries), folder / "good.jsonl")
    return folder / "good.jsonl"


def _history(folder: Path) -> Path:
    history.add(folder / "past.db", {"cat": make_report()}, release="1.0")
    return folder / "past.db"


# A file or folder of each kind: a row without one fails.
SAMPLES: dict[str, Callable[[Path], Path]] = {
    "report": _report, "baseline": _baseline, "history": _history,
    "slice": _slice, "om": _om, "build_pbtxt": _build_pbtxt, "mindir": _mindir, "msprobe": _msprobe,
    "mindspore_dump": mindspore_folder, "npz": _npz, "array": _array, "ascend": _ascend,
    "atc_json": lambda _: RESNET / "mapping.json", "onnx": lambda _: RESNET / "resnet.onnx",
    "golden": lambda _: RESNET / "golden", "caffe": lambda folder: v2_net(folder)[0],
    "tensorflow": lambda folder: put(folder, "net.pb", GRAPH_DEF),
    "ckpt": lambda folder: put(folder, "net.ckpt", CHECKPOINT),
    "cambricon": lambda folder: put(folder, "net.cambricon_twins", TWINS.encode()),
    "unread": lambda folder: put(folder, "net.h5", b"\x89HDF\r\n\x1a\n"),
}


NO_NODES = ("ckpt", "report", "baseline", "history")


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def row(request: pytest.FixtureRequest) -> Kind:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def sample(row: Kind, tmp_path: Path) -> Path:
    return SAMPLES[row.name](tmp_path)


def test_each_row_knows_its_own_and_says_what_it_is(row: Kind, sample: Path) -> None:
    if row.role == "unread":
        with pytest.raises(FormatError, match="; export "):
            identify(sample)
        return
    found = identify(sample)
    assert found.kind is row
    assert found.words.split()[0] in ("a", "an", "the")
    assert row.words.split()[0] in ("a", "an")


def test_each_loader_gives_a_noun_that_keeps_its_promises(row: Kind, sample: Path) -> None:
    if row.role in ("unread", "record"):
        assert not row.load
    elif row.role == "dump":
        assert_is_a_dump(acccmp.read_dump(sample))
    else:
        assert_is_a_graph(load(sample), row)


def assert_is_a_dump(dump: Dump) -> None:
    assert isinstance(dump, Dump)
    assert len(dump) > 0
    assert not dump.broken
    for port, ref in dump.items():
        assert Port.parse(str(port)) == port
        assert port.side in ("input", "output")
        assert ref.numpy().size == ref.count
    assert {port.node for port in dump} <= dump.ops.keys()


def assert_is_a_graph(graph: Graph, row: Kind) -> None:
    assert isinstance(graph, Graph)
    assert graph.path is not None
    assert graph.path.exists()
    assert graph.name
    assert row.role != "original" or graph.nodes
    assert len({node.name for node in graph.nodes}) == len(graph.nodes)
    made = {*graph.inputs, *graph.weights}
    for node in graph.nodes:
        if row.role == "original":
            assert {tensor for tensor in node.slots if tensor} <= made  # in an order of execution, nothing from nowhere
        made |= set(node.outputs)
        for index, tensor in enumerate(node.outputs):
            assert not tensor or graph.producer(tensor) == Port(node.name, "output", index)
    for ref in graph.weights.values():
        assert ref.numpy().shape == tuple(ref.own_shape)
    assert [node.name for node in graph.keep([node.name for node in graph.nodes]).nodes] == [
        node.name for node in graph.nodes
    ]


def test_each_kind_is_described_as_plain_json(row: Kind, sample: Path) -> None:
    if row.role == "unread":
        return
    facts = inspect(sample)
    assert facts["kind"] == ("dump" if row.role == "dump" else row.name)
    assert facts["path"] == str(sample)
    json.dumps(facts, allow_nan=False)


def keys_of(facts: object, where: str = "") -> Iterator[tuple[str, str]]:
    """(what it is a fact of, key) of every key, but of those that count things by their names in the file."""
    if isinstance(facts, dict):
        for key, value in facts.items():
            yield where, key
            yield from keys_of(value, key) if key not in ("ops", "dtypes", "layouts", "sides", "opset") else ()
    elif isinstance(facts, list):
        for value in facts:
            yield from keys_of(value, where)


@pytest.mark.parametrize("nodes", [(), ("--nodes",)])
def test_inspect_gives_machines_a_schema_and_plain_keys(row: Kind, sample: Path, nodes: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "acccmp", "inspect", str(sample), *nodes, "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if row.role == "unread" or (nodes and row.name in NO_NODES):
        assert (ran.returncode, ran.stdout, len(ran.stderr.splitlines())) == (2, "", 1)
        return
    assert ran.returncode == 0, ran.stderr
    facts = json.loads(ran.stdout)
    assert facts["schema"] == "acccmp.inspect/1"
    assert [pair for pair in keys_of(facts) if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", pair[1])] == []


@pytest.mark.parametrize("row", [kind for kind in KINDS if kind.save], ids=lambda kind: kind.name)
def test_what_is_saved_is_of_its_kind_and_loads_the_same(row: Kind, tmp_path: Path) -> None:
    sample = SAMPLES[row.name](tmp_path)
    weights = [path for path in tmp_path.glob("*.caffemodel") if row.weights]
    graph = load(sample, *weights[:1])
    assert graph.format == row.name
    files = row.function("save")(graph, tmp_path / "again", "net")
    assert {identify(path).kind.name for path in files} <= {row.name, row.weights}
    again = load(*files)
    assert [(node.name, node.op_type) for node in again.nodes] == [(node.name, node.op_type) for node in graph.nodes]
    assert (again.inputs, again.outputs) == (graph.inputs, graph.outputs)
    assert again.weights.keys() == graph.weights.keys()
    for name, ref in graph.weights.items():
        assert ref.numpy().tobytes() == again.weights[name].numpy().tobytes()


def test_runners_and_weights_that_rows_name_are_there(row: Kind) -> None:
    assert not row.runner or row.runner in RUNNERS
    assert not row.weights or row.weights in {kind.name for kind in KINDS}
    assert all(ending.startswith(".") for ending in row.suffixes)
    assert set(row.suffixes) <= set(suffixes(row.role))


def test_a_slice_written_into_its_dumps_own_folder_leaves_the_dump_a_dump(tmp_path: Path) -> None:
    npu = Path(shutil.copytree(RESNET / "npu", tmp_path / "npu"))
    before = acccmp.read_dump(npu)
    part = acccmp.slice_model(RESNET / "resnet.onnx", "block1/conv1", "block1/conv1", dump=npu,
                              mapping=RESNET / "mapping.json")
    bundle = part.save(npu, check=False)
    assert list(acccmp.read_dump(npu)) == list(before)
    assert inspect(bundle.path)["kind"] == "slice"


@pytest.mark.parametrize("name", ["report", "baseline", "history"])
def test_what_acccmp_wrote_itself_is_shown_and_taken_for_nothing_else(name: str, tmp_path: Path) -> None:
    def acccmp_(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "acccmp", *map(str, arguments)], capture_output=True, text=True,
                              check=False)

    path = SAMPLES[name](tmp_path)
    shown = acccmp_("inspect", path)
    assert shown.returncode == 0, shown.stderr
    assert f"is a {name} of acccmp" in re.sub(r"\s+", " ", shown.stdout)
    assert "drift" in shown.stdout or name == "history"
    for command in (("compare", path, RESNET / "npu"), ("run", path, "-o", tmp_path / "out"),
                    ("compare", RESNET / "resnet.onnx", path), ("inspect", path, "--graph", tmp_path / "x.png")):
        ran = acccmp_(*command)
        assert (ran.returncode, ran.stdout, len(ran.stderr.splitlines())) == (2, "", 1), command
        assert name in ran.stderr
