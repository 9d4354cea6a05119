"""Slices: cut out of a model, closed, with the device's tensors at the entrance, and proven before they ship."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from acccmp.core.dump import Dump, DumpedOp, Port, flatten_name
from acccmp.core.graph import Graph, Node
from acccmp.core.tensor import DTYPES, TensorRef
from acccmp.dumps.read import read_dump
from acccmp.emulator.emulate import Fault, emulate
from acccmp.errors import InputError, MappingError, SliceError, UnknownName
from acccmp.jobs import slice as handover
from acccmp.jobs.compare_slice import compare_slice
from acccmp.mapping.device_map import DeviceMap
from acccmp.mapping.reading import dequantised
from acccmp.mapping.trace import Quantisation
from acccmp.models.load import load
from acccmp.reports.pair import Verdict
from acccmp.runners.run import run
from acccmp.slicing import bundle
from acccmp.slicing.cut import cut

CLI = [sys.executable, "-m", "acccmp"]


def residual_net(path: Path, names: dict[str, str] | None = None) -> Graph:
    """conv1 - bn1 - relu1 - conv2 - add(relu1) - relu2 - pool - fc, with names that can be changed."""
    rng = np.random.default_rng(11)
    n = {k: (names or {}).get(k, k) for k in ("conv1", "bn1", "relu1", "conv2", "add", "relu2", "pool", "flat", "fc")}

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((rng.standard_normal(shape) * 0.3).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], n["conv1"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c1", "s", "b", "m", "v"], ["n1"], n["bn1"]),
        helper.make_node("Relu", ["n1"], ["r1"], n["relu1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], n["conv2"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "r1"], ["a"], n["add"]),
        helper.make_node("Relu", ["a"], ["r2"], n["relu2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"], n["pool"]),
        helper.make_node("Flatten", ["p"], ["f"], n["flat"]),
        helper.make_node("MatMul", ["f", "w3"], ["y"], n["fc"]),
    ]
    ones = numpy_helper.from_array(np.ones(20, np.float32), "s")
    var = numpy_helper.from_array(np.full(20, 1.5, np.float32), "v")
    graph = helper.make_graph(
        nodes, "residual",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 9, 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        [weight("w1", 20, 3, 3, 3), ones, weight("b", 20), weight("m", 20), var, weight("w2", 20, 20, 3, 3),
         weight("w3", 20, 5)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, path)
    return load(path)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return residual_net(tmp_path_factory.mktemp("net") / "residual.onnx")


@pytest.fixture(scope="module")
def device(net: Graph, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, np.ndarray]:
    """A healthy emulated device dump of the net, its mapping, and what it was fed with."""
    x = np.random.default_rng(2).standard_normal((1, 3, 9, 7)).astype(np.float32)
    made = emulate(net, {"x": x}, tmp_path_factory.mktemp("device"))
    return made.dump, made.mapping, x


def run_cli(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CLI, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, check=False)


# -- the cut -----------------------------------------------------------------------------------------------------


def test_the_nodes_on_any_path_from_start_to_end_are_cut(net: Graph) -> None:
    part = cut(net, "conv2", "relu2")
    assert [node.name for node in part.graph.nodes] == ["conv2", "add", "relu2"]
    assert part.graph.inputs == ("r1",)
    assert part.graph.outputs == ("r2",)
    assert set(part.graph.weights) == {"w2"}


def test_names_of_tensors_do_as_well_and_several_starts_and_ends(net: Graph) -> None:
    assert [node.name for node in cut(net, "c2", "r2").graph.nodes] == ["conv2", "add", "relu2"]
    part = cut(net, ["conv1", "conv2"], ["relu1", "add"])
    assert [node.name for node in part.graph.nodes] == ["conv1", "bn1", "relu1", "conv2", "add"]
    assert part.graph.outputs == ("r1", "a")


def test_a_cut_in_the_middle_of_the_skip_connection_makes_the_skip_an_input(net: Graph) -> None:
    part = cut(net, "add", "relu2")
    assert part.graph.inputs == ("c2", "r1")


def test_all_outputs_gives_every_tensor_that_leaves(net: Graph) -> None:
    assert cut(net, "conv1", "conv2").graph.outputs == ("c2",)
    assert cut(net, "conv1", "conv2", all_outputs=True).graph.outputs == ("r1", "c2")


def test_around_a_node_takes_what_is_near(net: Graph) -> None:
    assert [node.name for node in cut(net, around="add", radius=1).graph.nodes] == ["relu1", "conv2", "add", "relu2"]


def test_an_end_above_its_start_and_a_missing_path_are_said(net: Graph) -> None:
    with pytest.raises(InputError, match="exchange --start and --end"):
        cut(net, "relu2", "conv1")
    with pytest.raises(InputError, match="no path leads from the start 'conv2'"):
        cut(net, ["conv1", "conv2"], "bn1")


def test_an_unknown_name_is_answered_with_close_ones(net: Graph) -> None:
    with pytest.raises(UnknownName, match="did you mean conv"):
        cut(net, "con1", "relu2")


def test_a_wrong_name_of_a_model_of_30000_nodes_is_answered_at_once_and_as_well() -> None:
    names = [f"encoder/layer_{place // 40}/attention_{place % 7}/dense_{place}/BiasAdd" for place in range(30_000)]
    large = Graph("large", "onnx", tuple(Node(name, "Add", (), (f"{name}:0",)) for name in names))
    begun = time.process_time()
    for place in (120, 17_004, 29_999):
        with pytest.raises(UnknownName) as told:
            large.node(names[place].replace("attention", "atention"))
        assert names[place] in str(told.value).partition("; did you mean ")[2]
    assert time.process_time() - begun < 5  # difflib alone takes 10 s for each


def test_a_name_that_exists_twice_is_not_guessed(tmp_path: Path) -> None:
    graph = residual_net(tmp_path / "twice.onnx", {"relu1": "relu", "relu2": "relu"})
    with pytest.raises(InputError, match="names 2 nodes"):
        cut(graph, "relu", "fc")
    first, second = graph.aliases["relu"]
    assert cut(graph, first, second).graph.outputs == ("r2",)


def test_slices_of_a_slice_narrow_it_down(net: Graph) -> None:
    part = cut(net, "conv1", "relu2")
    assert [node.name for node in cut(part.graph, "conv2", "add").graph.nodes] == ["conv2", "add"]


# -- with a dump -------------------------------------------------------------------------------------------------


def test_a_start_inside_a_fused_op_grows_to_its_border_and_exact_refuses(
    net: Graph, device: tuple[Path, Path, np.ndarray],
) -> None:
    npu, mapping = read_dump(device[0]), DeviceMap(load(device[1]))
    part = cut(net, "bn1", "conv2", dump=npu, mapping=mapping)
    assert part.graph.nodes[0].name == "conv1"
    assert any("fused device op" in line for line in part.log)
    with pytest.raises(InputError, match="lies inside the fused device op"):
        cut(net, "bn1", "conv2", dump=npu, mapping=mapping, exact=True)


def test_the_device_tensor_at_the_entrance_is_the_models_own_with_layout_undone(
    net: Graph, device: tuple[Path, Path, np.ndarray],
) -> None:
    part = cut(net, "conv2", "relu2", dump=read_dump(device[0]), mapping=DeviceMap(load(device[1])))
    ref = part.inputs[Port("relu1", "output", 0)]
    assert ref.layout == "NC1HWC0"
    import onnxruntime

    whole = onnx.load(net.path)
    whole.graph.output.append(helper.make_empty_tensor_value_info("r1"))
    session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    golden = session.run(["r1"], {"x": device[2]})[0]
    assert ref.numpy().shape == (1, 20, 9, 7)
    assert np.abs(ref.numpy().astype(np.float32) - golden).max() < 2e-3 * np.abs(golden).max()


def without(dump: Dump, *nodes: str) -> Dump:
    return replace(dump, refs={port: ref for port, ref in dump.refs.items() if port.node not in nodes})


def test_slice_names_the_tensor_that_was_not_dumped_and_widen_pulls_its_producer_in(net: Graph) -> None:
    golden = run(net, {"x": np.zeros((1, 3, 9, 7), np.float32)})
    npu = without(replace(golden, kind="npu"), "relu1", "conv2", "bn1")
    with pytest.raises(SliceError, match=r"c2 \(conv2:output:0\), r1 \(relu1:output:0\)"):
        cut(net, "add", "relu2", dump=npu)
    part = cut(net, "add", "relu2", dump=npu, widen=True)
    assert part.graph.inputs == ("c1",)
    assert [node.name for node in part.graph.nodes] == ["bn1", "relu1", "conv2", "add", "relu2"]


def test_outputs_only_dumps_give_the_producers_output(
    net: Graph, tmp_path: Path, device: tuple[Path, Path, np.ndarray],
) -> None:
    made = emulate(net, {"x": device[2]}, tmp_path, dump_mode="output")
    part = cut(net, "conv2", "relu2", dump=read_dump(made.dump), mapping=DeviceMap(load(made.mapping)))
    assert {port.side for port in part.taken_from.values()} == {"output"}
    both = cut(net, "conv2", "relu2", dump=read_dump(device[0]), mapping=DeviceMap(load(device[1])))
    port = Port("relu1", "output", 0)
    np.testing.assert_array_equal(part.inputs[port].numpy(), both.inputs[port].numpy())


def test_a_tensor_of_another_shape_than_the_model_says_is_refused(net: Graph) -> None:
    refs = {Port("relu1", "output", 0): TensorRef.of(np.zeros((1, 20, 9, 8), np.float16))}
    with pytest.raises(SliceError, match="another version of the model"):
        cut(net, "conv2", "conv2", dump=Dump(refs))


def test_a_mapping_and_a_dump_of_another_model_are_noticed(
    net: Graph, device: tuple[Path, Path, np.ndarray], tmp_path: Path,
) -> None:
    names = ("conv1", "bn1", "relu1", "conv2", "add", "relu2", "pool", "flat", "fc")
    other = residual_net(tmp_path / "other.onnx", {name: f"other_{name}" for name in names})
    with pytest.raises(MappingError, match=r"residual.*other"):
        handover.slice_model(other, "other_conv2", "other_relu2", dump=device[0], mapping=device[1])
    with pytest.raises(MappingError, match="only 0 of its 1 ops"):
        handover.slice_model(other, "other_conv2", "other_relu2", dump=Dump(
            {Port("alien", "output", 0): TensorRef.of(np.zeros(3))}, ops={"alien": DumpedOp("alien", "Conv2D")},
        ))


# -- the folder --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def handed_over(
    net: Graph, device: tuple[Path, Path, np.ndarray], tmp_path_factory: pytest.TempPathFactory,
) -> bundle.Bundle:
    part = handover.slice_model(net, "conv2", "relu2", dump=device[0], mapping=device[1])
    return handover.export_slice(part, tmp_path_factory.mktemp("out"), zip=True)


def test_the_folder_holds_what_the_next_tool_needs(handed_over: bundle.Bundle) -> None:
    folder = handed_over.path
    assert folder.name.startswith("dump_result_")
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {
        "dump.onnx", "manifest.json", "README.txt", "reproduce.py", "log.txt", "inputs/00_r1.npy", "inputs/00_r1.bin",
        "inputs/00_r1.dumped.bin", "expected/golden/00_r2.npy", "expected/npu/00_r2.npy",
    } <= found
    assert any(name.startswith("dump_data/Conv2D.conv2") for name in found)


def test_every_hash_and_size_in_the_manifest_is_true(handed_over: bundle.Bundle) -> None:
    manifest = json.loads((handed_over.path / "manifest.json").read_text())
    entries = [*manifest["slice"]["files"]]
    for facts in (*manifest["inputs"], *manifest["outputs"]):
        entries += [facts[form] for form in ("npy", "bin", "dumped", "golden", "npu") if facts.get(form)]
    assert len(entries) >= 6
    for entry in entries:
        data = (handed_over.path / entry["file"]).read_bytes()
        assert entry["bytes"] == len(data)
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()


def test_the_bin_is_float16_and_the_conversion_line_says_so_exactly_then(
    net: Graph, device: tuple[Path, Path, np.ndarray], tmp_path: Path, handed_over: bundle.Bundle,
) -> None:
    npy = np.load(handed_over.path / "inputs/00_r1.npy")
    raw = np.fromfile(handed_over.path / "inputs/00_r1.bin", np.float16).reshape(npy.shape)
    assert npy.dtype == np.float32
    np.testing.assert_array_equal(raw.astype(np.float32), npy)
    assert '--input_fp16_nodes="r1"' in handed_over.manifest.atc
    assert '--input_shape="r1:1,20,9,7"' in handed_over.manifest.atc
    assert "no AIPP" in (handed_over.path / "README.txt").read_text()
    part = handover.slice_model(net, "conv2", "relu2", dump=device[0], mapping=device[1])
    wide = handover.export_slice(part, tmp_path, dtype="float32")
    assert "fp16" not in wide.manifest.atc
    assert wide.manifest.inputs[0].bin.bytes == 4 * npy.size


def test_the_self_test_is_bit_equal_and_the_stretchs_own_error_is_told_from_what_it_inherited(
    net: Graph, device: tuple[Path, Path, np.ndarray], tmp_path: Path,
) -> None:
    made = emulate(net, {"x": device[2]}, tmp_path / "dev", faults=(Fault.parse("op=conv1,kind=scale,factor=1.5"),))
    part = handover.slice_model(net, "conv2", "relu2", dump=made.dump, mapping=made.mapping)
    manifest = handover.export_slice(part, tmp_path).manifest
    assert manifest.self_test.status == "passed"
    assert [row.error for row in manifest.self_test.outputs] == [0.0]
    (own,) = manifest.device.outputs
    assert own.verdict is Verdict.MATCH, "this stretch is healthy"
    assert own.error < 5e-3
    assert manifest.device.totals[own.port] > 0.1, "what it was fed with is not"


def test_a_slice_that_does_not_give_the_golden_result_is_kept_and_marked_failed(
    net: Graph, device: tuple[Path, Path, np.ndarray], tmp_path: Path,
) -> None:
    golden = run(net, {"x": device[2]})
    port = Port("relu2", "output", 0)
    wrong = replace(golden, refs={**golden.refs, port: TensorRef.of(golden[port].numpy() * np.float32(1.01))})
    part = handover.slice_model(net, "conv2", "relu2", dump=device[0], mapping=device[1])
    made = handover.export_slice(part, tmp_path, golden=wrong)
    assert made.exit_code == 1
    assert made.manifest.self_test.outputs[0].port.node == "relu2"
    assert made.manifest.atc == "", "what does not give the model's results is not converted"
    assert "relu2" in (made.path / "FAILED").read_text()


def test_reproduce_runs_from_the_zip_in_an_empty_folder(handed_over: bundle.Bundle, tmp_path: Path) -> None:
    assert handed_over.zip is not None
    with zipfile.ZipFile(handed_over.zip) as archive:
        archive.extractall(tmp_path)
    folder = next(tmp_path.iterdir())
    ran = subprocess.run([sys.executable, "reproduce.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "self-test  r2: distance to the full model 0 " in ran.stdout
    assert "device     r2: this stretch's own error" in ran.stdout
    np.save(folder / "expected/golden/00_r2.npy", np.load(folder / "expected/golden/00_r2.npy") + 1)
    again = subprocess.run([sys.executable, "reproduce.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "self-test: FAILED" in again.stdout


def test_the_log_speaks_the_engineers_words(handed_over: bundle.Bundle) -> None:
    log = (handed_over.path / "log.txt").read_text()
    assert 'layer { name: "conv2_input_0" type: "Input" top: "r1" input_param { shape { dim: 1 dim: 20' in log
    assert "dump data path:" in log
    assert "exported layers: conv2, add, relu2" in log
    assert "answers conv2" in log


def test_the_loop_closes_the_slice_runs_on_the_device_and_is_judged_against_both_goldens(
    handed_over: bundle.Bundle, tmp_path: Path,
) -> None:
    part = load(handed_over.path / "dump.onnx")
    fed = np.load(handed_over.path / "inputs/00_r1.npy")
    again = emulate(part, {"r1": fed}, tmp_path / "healthy")
    judged = compare_slice(handed_over.path, again.dump, mapping=again.mapping)
    assert judged.own.passed
    assert judged.full is not None
    assert judged.full.passed
    assert judged.exit_code == 0
    faulty = emulate(part, {"r1": fed}, tmp_path / "faulty", faults=(Fault.parse("op=conv2,kind=scale,factor=1.5"),))
    judged = compare_slice(handed_over.path.parent, faulty.dump, mapping=faulty.mapping)
    assert judged.own.first_bad is not None
    assert "conv2" in judged.own.first_bad.originals
    assert judged.full is not None
    assert not judged.full.passed
    assert judged.exit_code == 1


def test_a_model_with_a_layer_nobody_can_run_is_cut_and_said_to_be_not_runnable(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "first"),
        helper.make_node("Mystery", ["a"], ["b"], "strange", domain="com.nobody"),
        helper.make_node("Relu", ["b"], ["y"], "last"),
    ]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in ("x", "b", "y")]
    graph = helper.make_graph(nodes, "custom", info[:1], info[2:], value_info=[info[1]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13), helper.make_opsetid("com.nobody", 1)])
    model.ir_version = 8
    onnx.save(model, tmp_path / "custom.onnx")
    loaded = load(tmp_path / "custom.onnx")
    strange = handover.export_slice(handover.slice_model(loaded, "strange", "last"), tmp_path)
    assert strange.exit_code == 3, "not runnable is neither proven nor failed"
    assert strange.manifest.self_test.status == "not runnable"
    assert "Mystery" in strange.manifest.self_test.reason
    upstream = handover.export_slice(handover.slice_model(loaded, "first", "first"), tmp_path)
    assert upstream.manifest.self_test.status == "passed", "golden-run up to the frontier"


def test_integers_are_never_cast_and_what_a_cast_makes_infinite_or_subnormal_is_counted() -> None:
    values = np.array([1e6, 1e-6, 1.0, 0.0, np.inf], np.float32)
    raw, facts = bundle.to_bin(values, DTYPES["float16"], DTYPES["float32"])
    assert np.frombuffer(raw, np.float16)[0] == np.inf
    assert facts == bundle.Cast("float16", 1, 1)
    raw, facts = bundle.to_bin(np.array([1, -2], np.int64), DTYPES["float16"], DTYPES["int64"])
    assert facts == bundle.Cast("int64")
    assert np.frombuffer(raw, np.int64).tolist() == [1, -2]


def test_an_int8_island_keeps_its_int8_bin_and_its_scale_is_in_the_facts() -> None:
    ref = TensorRef.of(np.array([[-3, 5]], np.int8))
    from acccmp.core.graph import TensorSpec

    spec = TensorSpec("t", DTYPES["float32"], (1, 2))
    real, facts = dequantised(ref, spec, Quantisation(2.0, 1.0))
    np.testing.assert_allclose(real, [[-2.0, 2.0]])
    assert facts["quantised"] == {"scale": 2.0, "offset": 1.0}
    same, facts = dequantised(ref, spec, None)
    assert same.dtype == np.int8
    assert facts["quantised"]["scale"] is None


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b/../../c", "n" * 300, "new\nline\x1b[31m", "C:\\x", "..", ""])
def test_hostile_names_stay_inside_the_folder(tmp_path: Path, name: str) -> None:
    graph = residual_net(tmp_path / "model.onnx", {"conv2": name})
    node = graph.nodes[3].name
    made = handover.export_slice(handover.slice_model(graph, node, node), tmp_path / "out")
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(made.path)]
    assert outside == [tmp_path / "model.onnx"]
    assert all(character.isprintable() or character == "\n" for character in (made.path / "log.txt").read_text())
    assert made.manifest.self_test.status == "passed"


FULL_DISK = """
import resource, sys
from acccmp.jobs import slice as handover
from acccmp.jobs.compare_slice import compare_slice
part = handover.slice_model(sys.argv[1], "conv2", "relu2")
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    handover.export_slice(part, sys.argv[2])
except Exception as error:
    print(type(error).__name__)
"""


def test_a_full_disk_half_way_leaves_nothing_behind(net: Graph, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, net.path, tmp_path]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.strip(), "the disk was full, and that was said"
    assert list(tmp_path.iterdir()) == []


# -- the command -------------------------------------------------------------------------------------------------


def test_the_command_prints_both_figures_and_the_conversion_line(
    net: Graph, device: tuple[Path, Path, np.ndarray], tmp_path: Path,
) -> None:
    where = ["--dump", device[0], "--mapping", device[1], "-o", tmp_path]
    ran = run_cli("slice", net.path, "--start", "conv2", "--end", "relu2", *where)
    assert ran.returncode == 0, ran.stderr
    assert "self-test: passed" in ran.stdout
    assert "device: agrees" in ran.stdout
    assert "this stretch's own error" in ran.stdout
    assert "--input_fp16_nodes" in ran.stdout


def test_golden_folders_say_which_runner_made_them(
    net: Graph, device: tuple[Path, Path, np.ndarray], tmp_path: Path,
) -> None:
    np.save(tmp_path / "x.npy", device[2])
    ran = run_cli("run", net.path, "--input", f"x={tmp_path / 'x.npy'}", "-o", tmp_path / "golden")
    assert ran.returncode == 0, ran.stderr
    onnxruntime = {"name": "onnxruntime", "version": importlib.metadata.version("onnxruntime")}
    assert json.loads((tmp_path / "golden" / "manifest.json").read_text())["runner"] == onnxruntime
    for place, given in enumerate((["--golden", tmp_path / "golden"], [])):
        out = tmp_path / str(place)
        ran = run_cli("slice", net.path, "--start", "conv2", "--end", "relu2", *given, "-o", out)
        assert ran.returncode == 0, ran.stderr
        manifest = next(out.glob("*/golden/manifest.json"))
        assert json.loads(manifest.read_text())["runner"] == onnxruntime


def test_the_command_says_no_in_one_line_and_leaves_nothing(net: Graph, tmp_path: Path) -> None:
    for arguments in (["--start", "relu2", "--end", "conv1"], ["--start", "nosuch", "--end", "relu2"], [],
                      ["--start", "conv1", "--end", "relu1", "--dump", tmp_path / "missing"]):
        ran = run_cli("slice", net.path, *arguments, "-o", tmp_path / "out")
        assert ran.returncode == 2
        assert len(ran.stderr.strip().splitlines()) == 1
        assert ran.stderr.startswith("acccmp: ")
    assert not (tmp_path / "out").exists()


def test_flat_golden_names_are_found(net: Graph, tmp_path: Path) -> None:
    """A golden folder of another tool: no manifest, names flattened."""
    golden = run(net, {"x": np.ones((1, 3, 9, 7), np.float32)})
    for port, ref in golden.items():
        np.save(tmp_path / f"{flatten_name(port.node)}.{port.index}.1700000000000000.npy", ref.numpy())
    part = handover.slice_model(net, "conv2", "relu2")
    made = handover.export_slice(part, tmp_path / "out", golden=tmp_path)
    assert made.manifest.self_test.status == "passed"


def test_slices_of_real_models_equal_the_whole_model(shared: Path) -> None:
    """A seeded handful; `make measure` tries 200 pairs of each model."""
    from benchmarks.slices import MODELS, SAMPLES, tally_model

    tried = 0
    for root, models in ((shared, MODELS), (Path(__file__).parent.parent, SAMPLES)):
        for name, weights in models.items():
            if name.startswith("tensorflow") or name.endswith(".pb"):
                continue  # in test_slicing_tensorflow.py: TensorFlow takes its time to import
            if not (root / name).exists():
                continue
            tally = tally_model(root / name, root / weights if weights else None, 6, seed=3)
            assert tally.bad == [], name
            assert tally.equal > 0
            tried += tally.tried
    assert tried >= 40

