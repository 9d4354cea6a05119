"""run, golden folders that can be gone on with, and your own command as a runner."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from acccmp.core.dump import Port
from acccmp.core.graph import Graph
from acccmp.dumps import arrays
from acccmp.dumps.read import read_dump
from acccmp.errors import InputError, RunError
from acccmp.models.load import load
from acccmp.runners.run import STARTED, default_runner, golden_run, run

FLOAT = TensorProto.FLOAT
X = np.random.default_rng(2).standard_normal((1, 2, 6, 6)).astype("f4")


def network(path: Path, scale: float = 1.0) -> Graph:
    """x -> a/conv -> a_conv (two names that flatten alike) -> fc, with a dot and a slash in the names."""
    weight = np.random.default_rng(4).standard_normal((3, 2, 3, 3)).astype("f4") * scale
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c/0"], "a/conv"), helper.make_node("Relu", ["c/0"], ["c.1"], "a_conv"),
         helper.make_node("Flatten", ["c.1"], ["f"], "flat"), helper.make_node("Split", ["f"], ["y", "z"], "split",
                                                                              axis=1, num_outputs=2)],
        "g", [helper.make_tensor_value_info("x", FLOAT, [1, 2, 6, 6])],
        [helper.make_tensor_value_info("z", FLOAT, [1, 24]), helper.make_tensor_value_info("y", FLOAT, [1, 24])],
        [numpy_helper.from_array(weight, "w")],
    )
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    )
    return load(path)


PORTS = [Port("x", "output", 0), Port("a/conv", "output", 0), Port("a_conv", "output", 0), Port("flat", "output", 0),
         Port("split", "output", 0), Port("split", "output", 1)]


def reference(graph: Graph) -> dict[Port, np.ndarray]:
    """The network in plain numpy."""
    w = graph.weights["w"].numpy().astype("f8")
    windows = np.lib.stride_tricks.sliding_window_view(X[0].astype("f8"), (3, 3), (1, 2))
    conv = np.einsum("chwij,kcij->khw", windows, w)[None]
    relu = np.maximum(conv, 0)
    flat = relu.reshape(1, -1)
    return dict(zip(PORTS, (X, conv, relu, flat, flat[:, :24], flat[:, 24:]), strict=True))


def test_a_run_in_memory_is_a_golden_dump_of_every_tensor(tmp_path: Path) -> None:
    graph = network(tmp_path / "m.onnx")
    dump = run(graph, {"x": X})
    assert list(dump) == PORTS
    for port, answer in reference(graph).items():
        np.testing.assert_allclose(dump[port].numpy(), answer, rtol=1e-4, atol=1e-4)
    assert (dump.kind, dump.model, dump.flat_names) == ("golden", "m", False)
    assert dump.run.outputs == (Port("split", "output", 1), Port("split", "output", 0))
    assert dump.run.runner == "onnxruntime"
    assert dump.run.tensors[PORTS[1]] == "c/0"
    assert dump[PORTS[1]].layout == "NCHW"
    assert list(run(graph, {"x": X}, wanted=["f"])) == [PORTS[0], PORTS[3]]


def test_files_are_inputs_too(tmp_path: Path) -> None:
    graph = network(tmp_path / "m.onnx")
    X.tofile(tmp_path / "x.bin")
    from_file, from_array = run(graph, {"x": tmp_path / "x.bin"}), run(graph, {"x": X})
    for port in PORTS:
        np.testing.assert_array_equal(from_file[port].numpy(), from_array[port].numpy())


def test_a_golden_folder_holds_what_the_run_gave_and_a_manifest(tmp_path: Path) -> None:
    import onnxruntime

    graph = network(tmp_path / "m.onnx")
    golden_run(graph, {"x": X}, tmp_path / "golden")
    dump = read_dump(tmp_path / "golden")
    assert list(dump) == PORTS
    assert not dump.broken
    for port, ref in run(graph, {"x": X}).items():
        np.testing.assert_array_equal(dump[port].numpy(), ref.numpy())
    told = json.loads((tmp_path / "golden" / "manifest.json").read_text())
    assert told["schema"] == "acccmp.golden/1"
    assert told["model"]["sha256"] == arrays.sha256(tmp_path / "m.onnx")
    assert told["runner"] == {"name": "onnxruntime", "version": onnxruntime.__version__}
    assert told["inputs"]["x"]["shape"] == [1, 2, 6, 6]
    assert told["inputs"]["x"]["dtype"] == "float32"
    assert told["outputs"] == ["split:output:1", "split:output:0"]
    assert [row["tensor"] for row in told["tensors"]] == ["x", "c/0", "c.1", "f", "y", "z"]
    assert not (tmp_path / "golden" / STARTED).exists()
    assert {p.suffix for p in (tmp_path / "golden").iterdir()} == {".npy", ".json"}


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir()}


def test_the_same_run_again_touches_nothing(tmp_path: Path) -> None:
    graph = network(tmp_path / "m.onnx")
    golden_run(graph, {"x": X}, tmp_path / "golden")
    before = state(tmp_path / "golden")
    again = golden_run(graph, {"x": X}, tmp_path / "golden")
    assert state(tmp_path / "golden") == before
    assert "used as it is" in again.notes[-1]
    assert list(again) == PORTS


@pytest.mark.parametrize("harm", ["missing", "changed", "short"])
def test_missing_and_damaged_tensors_are_made_again(harm: str, tmp_path: Path) -> None:
    graph = network(tmp_path / "m.onnx")
    golden_run(graph, {"x": X}, tmp_path / "golden")
    before = {name: raw for name, (_, raw) in state(tmp_path / "golden").items()}
    victim = sorted((tmp_path / "golden").glob("flat*.npy"))[0]
    raw = victim.read_bytes()
    victim.unlink()
    if harm != "missing":
        victim.write_bytes(raw[:-4] + b"\x00\x00\x80\x3f" if harm == "changed" else raw[:-4])
    dump = golden_run(graph, {"x": X}, tmp_path / "golden")
    assert {name: raw for name, (_, raw) in state(tmp_path / "golden").items()} == before
    assert "1 tensors were missing or damaged" in dump.notes[-1]
    assert arrays.check_golden(dump) == []


@pytest.mark.parametrize("other", ["model", "input", "part", "choice"])
def test_another_run_in_the_folder_is_kept_unless_it_may_be_overwritten(other: str, tmp_path: Path) -> None:
    golden_run(network(tmp_path / "m.onnx"), {"x": X}, tmp_path / "golden")
    before = state(tmp_path / "golden")
    graph = network(tmp_path / "m.onnx", 2.0 if other == "model" else 1.0)
    feeds = {"x": X * 2 if other == "input" else X}
    if other == "part":
        graph = graph.keep(["a/conv", "a_conv"])
    wanted = ["f"] if other == "choice" else None
    with pytest.raises(InputError, match="--force"):
        golden_run(graph, feeds, tmp_path / "golden", wanted=wanted)
    assert state(tmp_path / "golden") == before
    golden_run(graph, feeds, tmp_path / "golden", wanted=wanted, overwrite=True)
    dump = read_dump(tmp_path / "golden")
    assert not dump.notes, "no file of the other run is left"
    assert list(dump) == list(run(graph, feeds, wanted=wanted))


def test_a_run_that_died_half_way_is_made_again_under_the_same_names(tmp_path: Path) -> None:
    graph = network(tmp_path / "m.onnx")
    folder = tmp_path / "golden"
    golden_run(graph, {"x": X}, folder)
    whole = {name: raw for name, (_, raw) in state(folder).items()}
    told = json.loads((folder / "manifest.json").read_text())
    # what a killed process leaves: the mark, some tensors, no manifest
    (folder / "manifest.json").unlink()
    for path in sorted(folder.glob("*.npy"))[:3]:
        path.unlink()
    (folder / STARTED).write_text(json.dumps({key: told[key] for key in ("model", "asked", "inputs", "time_us")}))
    with pytest.raises(InputError, match="died half-way, of another input x"):
        golden_run(graph, {"x": X + 1}, folder)
    dump = golden_run(graph, {"x": X}, folder)
    assert {name: raw for name, (_, raw) in state(folder).items()} == whole
    assert "died half-way" in dump.notes[-1]


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    graph = network(tmp_path / "m.onnx")
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "cat.jpg").write_bytes(b"miaow")
    with pytest.raises(InputError, match=r"1 other files \(cat\.jpg"):
        golden_run(graph, {"x": X}, folder)
    golden_run(graph, {"x": X}, folder, overwrite=True)
    assert (folder / "cat.jpg").read_bytes() == b"miaow"
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="is a file"):
        golden_run(graph, {"x": X}, tmp_path / "file")


def test_a_fixed_time_gives_the_same_bytes(tmp_path: Path) -> None:
    graph = network(tmp_path / "m.onnx")
    for name in "ab":
        golden_run(graph, {"x": X}, tmp_path / name, time_us=1_700_000_000_000_000)
    one, two = (({n: raw for n, (_, raw) in state(tmp_path / name).items()}) for name in "ab")
    assert one == two
    assert "a_conv.0.1700000000000001.npy" in one
    assert "a_conv.0.1700000000000002.npy" in one


def test_a_device_model_is_not_run() -> None:
    with pytest.raises(InputError, match="cannot run here"):
        default_runner(Graph("net", "om", ()))
    with pytest.raises(InputError, match="no runner named 'gpu'"):
        run(Graph("net", "onnx", ()), {}, runner="gpu")


# -- your own command --------------------------------------------------------------------------------------------

INFER = """
import json, os, sys
import numpy as np
model, inputs, output = sys.argv[1:4]
table = json.load(open(os.path.join(inputs, "inputs.json")))
feeds = {name: np.load(os.path.join(inputs, file)) for name, file in table.items()}
assert open(model, "rb").read(1)
x = feeds["x"]
np.save(os.path.join(output, "c_0.npy"), x * 2)                              # a tensor's name, flattened
np.save(os.path.join(output, "a_conv.0.1700000000000000.npy"), x * 3)        # as golden dumps are named
np.save(os.path.join(output, "flat.npy"), x * 4)                             # a node's name
np.save(os.path.join(output, "nonsense.npy"), x)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "infer it.py").write_text(INFER)
    return tmp_path / "infer it.py"


def test_your_own_command_is_a_runner(tmp_path: Path, script: Path) -> None:
    graph = network(tmp_path / "m.onnx")
    template = f"{sys.executable} '{script}' {{model}} {{inputs}} {{output}}"
    dump = run(graph, {"x": X}, runner=f"command:{template}")
    assert list(dump) == PORTS[:4]
    for times, port in zip((1, 2, 3, 4), PORTS, strict=False):
        np.testing.assert_array_equal(dump[port].numpy(), X * np.float32(times))
    assert dump.run.skipped == {"y": "the command did not write it", "z": "the command did not write it"}
    assert "nonsense" in dump.notes[0]
    folder = golden_run(graph, {"x": X}, tmp_path / "golden", runner=f"command:{template}")
    assert list(folder) == PORTS[:4]


@pytest.mark.parametrize(("template", "error", "told"), [
    ("python infer.py {model}", InputError, "does not say where"),
    ("'python {output}", InputError, "not a command line"),
    ("no-such-program-anywhere {output}", RunError, "cannot be started"),
    (f"{sys.executable} -c 'import sys; sys.exit(\"no license\")' {{output}}", RunError, "exit code 1: no license"),
    (f"{sys.executable} -c pass {{output}}", RunError, "wrote no npy files"),
    (f"{sys.executable} -c 'import sys, numpy; numpy.save(sys.argv[1] + \"/q.npy\", 1)' {{output}}", RunError,
     "none is named after"),
    (f"{sys.executable} -c 'import sys; open(sys.argv[1] + \"/f.npy\", \"w\")' {{output}}", RunError, "damaged file"),
], ids=["no output", "quote", "missing", "fails", "silent", "strange", "damaged"])
def test_a_command_that_fails_says_how(template: str, error: type, told: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=told):
        run(network(tmp_path / "m.onnx"), {"x": X}, runner=f"command:{template}")


def test_a_command_that_hangs_is_stopped(tmp_path: Path) -> None:
    from acccmp.runners import command

    with pytest.raises(RunError, match="stopped after"):
        command.Command(f"{sys.executable} -c 'import time; time.sleep(60)' {{output}}", timeout=0.2).run(
            network(tmp_path / "m.onnx"), {"x": X},
        )


# -- real models -------------------------------------------------------------------------------------------------


def test_a_golden_run_of_a_real_model_up_to_its_custom_operator(shared: Path, tmp_path: Path) -> None:
    graph = load(next((shared / "onnx").glob("*superresolution*")))
    dump = golden_run(graph, {"image": np.arange(100, dtype="u1")}, tmp_path / "golden")
    assert len(dump) == 29
    told = json.loads((tmp_path / "golden" / "manifest.json").read_text())
    assert len(told["skipped"]) == 85
    assert any("com.microsoft.extensions.DecodeImage" in reason for reason in told["skipped"].values())
    assert read_dump(tmp_path / "golden").run.skipped == told["skipped"]
