"""What people give by mistake: each gets its own line, exit code 2 (or 3), and nothing half-written is left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import with_path

from acccmp.cli import main

Say = Callable[..., "Said"]


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """Its one line on stderr."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("acccmp: ")
        assert "Traceback" not in self.err
        assert "add --debug" not in self.err, "nobody thought of this case"
        return lines[0]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command line in this process."""

    def run(*arguments: object) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return Said(int(left.value.code or 0), told.out, told.err)

    return run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder in which nothing may be left behind but what the test put there."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    left = {path.name for path in tmp_path.rglob("*")}
    assert not any(name.endswith(".part") or name.startswith(".") for name in left)
    assert "out" not in left


@dataclass(frozen=True)
class Sample:
    """Paths of one sample network."""

    model: Path
    golden: Path
    npu: Path
    mapping: Path


@pytest.fixture
def resnet(samples: Path) -> Sample:
    root = samples / "digits_resnet"
    return Sample(root / "resnet.onnx", root / "golden", root / "npu", root / "mapping.json")


@pytest.fixture
def lenet(samples: Path) -> Sample:
    root = samples / "digits_lenet"
    return Sample(root / "lenet.prototxt", root / "golden", root / "npu", root / "mapping.json")


LFS = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d7a' * 16}\nsize 12345\n"
CUT = ("--start", "block1/conv1", "--end", "block1/relu1", "-o", "out")


# -- arguments in the wrong place --------------------------------------------------------------------------------


def test_golden_and_npu_exchanged_is_said_with_the_right_order(say: Say, here: Path, resnet: Sample) -> None:
    for golden in (resnet.golden, resnet.model):
        said = say("compare", resnet.npu, golden)
        assert said.code == 2
        assert "the order is GOLDEN NPU" in said.line
    said = say("compare", resnet.golden, resnet.golden)
    assert said.code == 2
    assert "NPU must be a device dump" in said.line


def test_a_model_where_a_dump_belongs_is_named_as_what_it_is(say: Say, here: Path, resnet: Sample) -> None:
    said = say("compare", resnet.golden, resnet.model)
    assert said.code == 2
    assert "is an ONNX model, but NPU must be what the device dumped" in said.line
    for option in ("--dump", "--golden"):
        said = say("slice", resnet.model, *CUT, option, resnet.model)
        assert said.code == 2
        assert f"is an ONNX model, but {option} must be" in said.line


def test_a_compiled_model_where_the_original_or_a_dump_belongs_is_sent_to_mapping(
    say: Say, here: Path, resnet: Sample,
) -> None:
    commands = (
        ("compare", resnet.mapping, resnet.npu), ("compare", resnet.golden, resnet.mapping),
        ("slice", resnet.mapping, *CUT), ("run", resnet.mapping, "-o", "out"), ("emulate", resnet.mapping, "-o", "out"),
        ("slice", resnet.model, *CUT, "--dump", resnet.mapping),
    )
    for command in commands:
        said = say(*command)
        assert said.code == 2
        assert "--mapping takes this file" in said.line


def test_a_dump_where_the_model_belongs(say: Say, here: Path, resnet: Sample) -> None:
    for command in (("slice", *CUT), ("run", "-o", "out"), ("emulate", "-o", "out")):
        said = say(command[0], resnet.npu, *command[1:])
        assert said.code == 2
        assert "MODEL is the file of the original model" in said.line
    said = say("slice", resnet.model, *CUT, "--golden", resnet.npu)
    assert said.code == 2
    assert "is a device dump, but --golden must be of the original model" in said.line


# -- the wrong folder or mapping ---------------------------------------------------------------------------------


def test_an_empty_folder_is_called_empty(say: Say, here: Path, resnet: Sample) -> None:
    (here / "nothing").mkdir()
    commands = (
        ("compare", resnet.model, "nothing"), ("compare", "nothing", resnet.npu), ("inspect", "nothing"),
        ("slice", resnet.model, *CUT, "--dump", "nothing"), ("slice", resnet.model, *CUT, "--golden", "nothing"),
    )
    for command in commands:
        said = say(*command)
        assert said.code == 2
        assert "nothing: an empty folder, no dump in it" in said.line


def test_dumps_of_different_models_are_no_comparison(say: Say, here: Path, resnet: Sample, lenet: Sample) -> None:
    said = say("compare", lenet.golden, resnet.npu)
    assert said.code == 2
    assert "is not of the model of the golden dump" in said.line
    said = say("compare", resnet.golden, lenet.npu)
    assert said.code in (2, 3)
    said = say("slice", resnet.model, *CUT, "--dump", lenet.npu)
    assert said.code == 2
    assert "is not of the model 'resnet'" in said.line
    said = say("slice", resnet.model, *CUT, "--golden", lenet.golden)
    assert said.code == 2
    assert "holds no tensor of this slice of 'resnet'" in said.line


def test_a_model_that_the_dump_has_no_inputs_for(say: Say, here: Path, resnet: Sample, lenet: Sample) -> None:
    said = say("compare", lenet.model, resnet.npu, "--weights", lenet.model.with_suffix(".caffemodel"))
    assert said.code == 2
    assert "holds nothing to feed data with" in said.line
    assert "--input" in said.line


def test_a_mapping_of_another_model_is_noticed_with_both_names(
    say: Say, here: Path, resnet: Sample, lenet: Sample,
) -> None:
    said = say("compare", resnet.golden, resnet.npu, "--mapping", lenet.mapping)
    assert said.code == 2
    assert str(lenet.mapping) in said.line
    assert str(resnet.model) in said.line
    said = say("slice", resnet.model, *CUT, "--dump", resnet.npu, "--mapping", lenet.mapping)
    assert said.code == 2
    assert "not of the model 'resnet'" in said.line


def test_a_mapping_that_is_none(say: Say, here: Path, resnet: Sample) -> None:
    (here / "text.txt").write_text("hello")
    (here / "list.json").write_text("[1, 2]")
    for given, told in (
        ("text.txt", "text.txt"), ("list.json", "list.json"), (resnet.model, "is an ONNX model, but --mapping wants"),
        (resnet.npu, "is a folder of device dumps, but --mapping wants"),
        ("missing.json", "missing.json: no such file"),
        (resnet.golden / "manifest.json", "not a compiled model as JSON"),
    ):
        for command in (("compare", resnet.golden, resnet.npu), ("slice", resnet.model, *CUT, "--dump", resnet.npu)):
            said = say(*command, "--mapping", given)
            assert said.code == 2
            assert told in said.line


# -- inputs ------------------------------------------------------------------------------------------------------


def test_an_input_that_does_not_fit_is_explained(say: Say, here: Path, lenet: Sample) -> None:
    model = ("--weights", lenet.model.with_suffix(".caffemodel"))
    shape = np.load(next(lenet.golden.glob("data.0.*.npy"))).shape
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    x.astype(np.float16).tofile(here / "half.bin")
    x[:, :, :-1].tofile(here / "short.bin")
    np.save(here / "whole.npy", (x * 9).astype(np.int64))
    np.save(here / "shape.npy", x[:, :, :, :-1])
    cases = (("half.bin", "float16"), ("short.bin", "bytes"), ("whole.npy", "int64"), ("shape.npy", "holds"))
    for file, told in cases:
        for command in (("run", lenet.model, *model, "-o", "out"), ("compare", lenet.model, lenet.npu, *model),
                        ("slice", lenet.model, *model, "-s", "conv1", "-e", "conv1", "-o", "out")):
            said = say(*command, "--input", f"data={file}")
            assert said.code == 2, (command[0], file, said)
            assert told in said.line, (command[0], file)
            assert "data" in said.line


def test_an_input_of_another_name_a_missing_one_and_none(say: Say, here: Path, resnet: Sample) -> None:
    np.save(here / "x.npy", np.zeros((4, 1, 8, 8), np.float32))
    for given, told in (("imagine=x.npy", "no input named 'imagine'"), ("image=gone.npy", "gone.npy: no such file"),
                        ("x.npy", "should read NAME=FILE")):
        for command in (("compare", resnet.model, resnet.npu), ("run", resnet.model, "-o", "out"),
                        ("slice", resnet.model, *CUT)):
            said = say(*command, "--input", given)
            assert said.code == 2
            assert told in said.line
    said = say("run", resnet.model, "-o", "out")
    assert said.code == 2
    assert "--input image=FILE" in said.line
    said = say("compare", resnet.golden, resnet.npu, "--input", "image=x.npy")
    assert said.code == 2
    assert "GOLDEN is a dump folder" in said.line


# -- files that are not what they should be ----------------------------------------------------------------------


def test_pointers_truncated_and_missing_files(say: Say, here: Path, resnet: Sample) -> None:
    (here / "lfs.onnx").write_text(LFS)
    (here / "cut.onnx").write_bytes(resnet.model.read_bytes()[:3000])
    (here / "text.onnx").write_text("a text\n")
    for file, told in (("lfs.onnx", "git lfs pull"), ("cut.onnx", "cut"), ("gone.onnx", "gone.onnx: no such file"),
                       ("text.onnx", "text.onnx")):
        for command in (("compare", file, resnet.npu), ("slice", file, *CUT), ("inspect", file),
                        ("run", file, "-o", "out"), ("compare", resnet.golden, resnet.npu, "--model", file)):
            said = say(*command)
            assert said.code == 2, command
            assert told in said.line
    said = say("compare", resnet.model, "gone")
    assert said.code == 2
    assert "gone: no such file or folder" in said.line


def test_weights_that_are_none(say: Say, here: Path, lenet: Sample, resnet: Sample) -> None:
    np.save(here / "x.npy", np.load(next(lenet.golden.glob("data.0.*.npy"))))
    for weights, told in ((lenet.model, "is text, not binary weights"), (resnet.model, "is an ONNX model"),
                          ("gone.caffemodel", "gone.caffemodel: no such file")):
        said = say("run", lenet.model, "--weights", weights, "--input", "data=x.npy", "-o", "out")
        assert said.code == 2
        assert told in said.line


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's right to read everything. Modules that were not imported before may be out of reach."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def test_a_file_that_may_not_be_read(say: Say, resnet: Sample) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        locked, hidden = Path(folder) / "locked", Path(folder) / "hidden.onnx"
        golden = shutil.copytree(resnet.golden, Path(folder) / "golden")  # this clone may be closed to others as well
        locked.mkdir()
        shutil.copy(resnet.model, locked / "model.onnx")
        shutil.copy(resnet.model, hidden)
        commands = [
            (*command, file) for file in (hidden, locked / "model.onnx", locked)
            for command in (("inspect",), ("compare", golden), ("slice", *CUT[:4], "-o", "/proc/none"))
        ][:-1]  # a folder is no model anyway
        for command in commands:
            say(*command)  # imports what it needs
        os.chmod(hidden, 0)
        os.chmod(locked, 0)
        try:
            for command in commands:
                with as_nobody():
                    said = say(*command)
                assert said.code == 2, (command, said)
                assert str(command[-1]) in said.line, command
                assert "ermission denied" in said.line, command
        finally:
            os.chmod(locked, 0o755)


# -- options -----------------------------------------------------------------------------------------------------


def test_nonsense_thresholds(say: Say, here: Path, resnet: Sample) -> None:
    (here / "torn.toml").write_text("x = [")
    (here / "odd.toml").write_text("[nonsense]\nfoo = 1\n")
    (here / "kind.toml").write_text('floor_factor = "four"\n')
    for file in ("torn.toml", "odd.toml", "kind.toml", "gone.toml", "."):
        said = say("compare", resnet.golden, resnet.npu, "--thresholds", file)
        assert said.code == 2
        assert f"thresholds {file}" in said.line


def test_nonsense_options(say: Say, here: Path, resnet: Sample) -> None:
    compare = ("compare", resnet.golden, resnet.npu, "--mapping", resnet.mapping)
    run = ("compare", resnet.model, resnet.npu, "--mapping", resnet.mapping)
    for command, told in (
        ((*compare, "--valid", "fc"), "write NAME=AXIS:N"), ((*compare, "--valid", "fc=0:99"), "--valid fc=0:99"),
        ((*compare, "--valid", "nosuch=0:1"), "no compared tensor"), ((*run, "--runner", "nosuch"), "nosuch"),
        (("slice", resnet.model, *CUT, "--runner", "nosuch"), "nosuch"),
        ((*compare, "--min-coverage", "7"), "7"), ((*compare, "--jobs", "0"), "--jobs"),
        ((*compare, "--nosuch"), "--nosuch"), (("nosuch",), "nosuch"), (("compare",), "GOLDEN"),
        ((*compare, "--run", "nosuch"), "no run 'nosuch'"), ((*compare, "--device", "77"), "no device '77'"),
        (("slice", resnet.model, *CUT, "--dump", resnet.npu, "--dtype", "int8"), "--dtype int8"),
        (("slice", resnet.model, *CUT, "--dump", resnet.npu, "--dtype", "nosuch"), "--dtype nosuch"),
        (("slice", resnet.model, "-o", "out"), "--start A --end B"),
        (("slice", resnet.model, "--around", "nosuch", "-o", "out"), "nosuch"),
        ((*compare, "--quant-rule", resnet.model), "is an ONNX model"),
    ):
        said = say(*command)
        assert said.code == 2, command
        assert told in said.line


def test_places_that_cannot_be_written(say: Say, here: Path, resnet: Sample) -> None:
    (here / "file").write_text("in the way")
    np.save(here / "x.npy", np.zeros((4, 1, 8, 8), np.float32))
    for command in (
        ("slice", resnet.model, *CUT[:4]), ("compare", resnet.golden, resnet.npu),
        ("run", resnet.model, "--input", "image=x.npy"), ("emulate", resnet.model), ("convert", resnet.npu),
    ):
        for place in ("file", "file/deeper"):
            said = say(*command, "-o", place)
            assert said.code == 2, command
            assert "file" in said.line
    assert sorted(path.name for path in here.iterdir()) == ["file", "x.npy"]


def test_debug_gives_the_traceback(here: Path, resnet: Sample) -> None:
    command = [sys.executable, "-m", "acccmp", "compare", str(resnet.npu), str(resnet.golden)]
    ran = subprocess.run([*command, "--debug"], capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert "Traceback" in ran.stderr
    assert "the order is GOLDEN NPU" in ran.stderr
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert len(ran.stderr.splitlines()) == 1


# -- what is not installed ---------------------------------------------------------------------------------------

BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {name!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""


@pytest.mark.parametrize(("package", "extra"), [("onnxruntime", "ort"), ("cv2", "caffe"), ("tensorflow", "tf")])
def test_a_missing_package_is_named_with_what_to_install(
    package: str, extra: str, here: Path, samples: Path,
) -> None:
    (here / "site").mkdir()
    (here / "site" / "sitecustomize.py").write_text(BLOCK.format(name=package))
    model, name, options = {
        "onnxruntime": ("digits_resnet/resnet.onnx", "image", []),
        "cv2": ("digits_lenet/lenet.prototxt", "data", ["--weights", samples / "digits_lenet" / "lenet.caffemodel"]),
        "tensorflow": ("digits_cnn/cnn.pb", "image", []),
    }[package]
    given = next((samples / model).parent.glob("inputs/*.npy"))
    command = ["run", samples / model, *options, "--input", f"{given.stem or name}={given}", "-o", "out"]
    ran = subprocess.run(
        [sys.executable, "-m", "acccmp", *map(str, command)], capture_output=True, text=True, check=False,
        env=with_path(here / "site"),
    )
    said = Said(ran.returncode, ran.stdout, ran.stderr)
    assert said.code == 2
    assert f"pip install 'acccmp[{extra}]'" in said.line


# -- golden files that were changed ------------------------------------------------------------------------------


def test_a_golden_file_that_its_manifest_does_not_know_is_unreadable_and_fails(
    say: Say, here: Path, resnet: Sample,
) -> None:
    import json

    shutil.copytree(resnet.golden, here / "golden")
    shutil.copy(resnet.model, here / "resnet.onnx")
    file = next((here / "golden").glob("fc.0.*.npy"))
    np.save(file, np.load(file) + np.float32(1e-7))
    told = json.loads(say("compare", "golden", resnet.npu, "--mapping", resnet.mapping, "--json").out)
    rows = {row["port"]: row for row in told["comparisons"]}
    bad = [row for row in rows.values() if row["verdict"] == "unreadable"]
    assert bad, "a changed file is no golden"
    assert all(file.name in row["reason"] and "SHA-256" in row["reason"] for row in bad)
    assert sum(row["verdict"] == "match" for row in rows.values()) > 20, "the other rows are there"
    assert say("compare", "golden", resnet.npu, "--mapping", resnet.mapping).code == 1
