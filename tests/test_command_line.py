"""What holds for every command: whatever option is given has an effect or is refused by name, never ignored."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click
import numpy as np
import onnx
import pytest
from conftest import ROOT, with_path
from emulated_nets import model_file
from onnx import helper, numpy_helper
from report_factory import comparison

import acccmp
from acccmp.cli import cli, main
from acccmp.errors import InputError

SAMPLES = ROOT / "sample_dumps"


@dataclass(frozen=True)
class Ran:
    """What a command gave: exit code, both streams, and the files that it left by their hashes."""

    code: int
    out: str
    err: str
    files: Mapping[str, str]


Run = Callable[..., Ran]


@pytest.fixture
def acccmp_in(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in this process, in an empty folder of its own; dates and times are left out of what it gave."""
    times = re.compile("|".join((
        r"\d{4}-\d\d-\d\d[T ][\d:.]+(?:\+00:00|Z)?", r"(?<=dump_result_)[\d_]{19}", r"(?<=\.0\.)\d{16}\b",
        r'(?<=time_us": )\d+', r"\b[0-9a-f]{64}\b",
    )))

    def run(*arguments: object, before: Mapping[str, Path] | None = None) -> Ran:
        folder = tmp_path / f"{len(list(tmp_path.iterdir())):03}"
        folder.mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.setenv("COLUMNS", "400")  # no path is wrapped
        for name, source in (before or {}).items():
            shutil.copy(source, name)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        told = capsys.readouterr()


        def plain(text: str) -> str:
            return times.sub("", text).replace(str(folder), "")

        files = {
            plain(str(path)): hashlib.sha256(plain(path.read_bytes().decode("latin1")).encode()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()
        }
        return Ran(int(ended.value.code or 0), plain(told.out), plain(told.err), files)

    return run


# -- every option has an effect, or is refused -------------------------------------------------------------------


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network whose outputs are subnormal in float16, and of everything that a command takes one."""
    folder = tmp_path_factory.mktemp("house")
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"), helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Mul", ["r", "s"], ["m"], "mul"), helper.make_node("Sigmoid", ["m"], ["g"], "gate"),
        helper.make_node("Mul", ["m", "g"], ["y"], "last"),
    ]
    weights = {"w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32), "s": np.array([3e-6], np.float32)}
    model = model_file(folder, nodes, {"x": (1, 3, 8, 8)}, ["y"], weights)
    np.save(folder / "x.npy", rng.standard_normal((1, 3, 8, 8)).astype(np.float32))
    np.save(folder / "other.npy", rng.standard_normal((1, 3, 8, 8)).astype(np.float32))
    graph, feed = acccmp.load(model), {"x": np.load(folder / "x.npy")}
    acccmp.emulate(graph, feed, folder / "device", tree=True)
    acccmp.golden_run(graph, feed, folder / "golden")
    acccmp.golden_run(graph, {"x": np.load(folder / "other.npy")}, folder / "golden2")
    shutil.copy(folder / "device" / "mapping.json", folder / "mapping.json")
    dump = {"dump": folder / "device" / "npu", "mapping": folder / "mapping.json"}
    made = acccmp.slice_model(graph, "relu", "mul", **dump).save(folder / "slices")
    made.path.rename(folder / "slice")
    (folder / "limits.toml").write_text("floor_factor = 5\n")
    acccmp.compare(graph, dump["dump"], mapping=dump["mapping"]).save(folder / "report")
    for command in (
        ["history", "add", folder / "history", folder / "report" / "report.json", "--release", "first"],
        ["check", model, dump["dump"], "-m", dump["mapping"], "-b", folder / "b", "--update"],
    ):
        with pytest.raises(SystemExit, match="0"):
            main([str(argument) for argument in command])
    return folder


MISSING = "missing"
COMPARING = {  # for each option what is given to see whether it is honoured
    "mapping": ["--mapping", MISSING], "mapping_unfused": ["--mapping-unfused", MISSING],
    "quant_rule": ["--quant-rule", MISSING], "model": ["--model", MISSING], "valid": ["--valid", "nothing=0:1"],
    "weights": ["--weights", MISSING], "inputs": ["--input", "x={house}/other.npy"], "runner": ["--runner", "nobody"],
    "thresholds": ["--thresholds", "{house}/limits.toml"], "min_coverage": ["--min-coverage", "0.5"],
    "strict": ["--strict"], "floor": ["--no-floor"], "flush_subnormals": ["--flush-subnormals"],
    "run": ["--run", "no"], "device": ["--device", "no"], "npu_model": ["--npu-model", "no"], "step": ["--step", "no"],
    "as_json": ["--json"],
}
TRIES: dict[str, dict[str, list[str]]] = {
    "compare": {
        **COMPARING, "weights_only": ["--weights-only"], "out": ["--out", "elsewhere"],
        "level": ["--report-level", "line"],
    },
    "check": {
        **COMPARING, "cases": ["--case", f"a={MISSING},{MISSING}"], "baseline": ["--baseline", MISSING],
        "update": ["--update"], "accept": ["--accept", "relu:output:0"], "junit": ["--junit", "j"],
        "sarif": ["--sarif", "s"], "markdown": ["--markdown", "m"], "out": ["--out", "elsewhere"],
        "history": ["--history", "h2", "--release", "r"], "release": ["--release", "r2"],
    },
    "run": {
        "weights": ["--weights", MISSING], "inputs": ["--input", "x={house}/other.npy"],
        "runner": ["--runner", "nobody"], "out": ["--out", "elsewhere"], "force": ["--force"], "as_json": ["--json"],
    },
    "inspect": {
        "weights": ["--weights", MISSING], "inputs": ["--input", "x={house}/x.npy"], "drawn": ["--graph", "g.dot"],
        "nodes": ["--nodes", "r"],
        **{name: COMPARING[name] for name in ("run", "device", "npu_model", "step", "as_json")},
    },
    "convert": {
        "out": ["--out", "elsewhere"], "to": ["--to", "bin"], "layout": ["--layout", "NHWC"],
        "dtype": ["--dtype", "bfloat16"], "as_json": ["--json"],
    },
    "emulate": {
        "inputs": ["--input", "x={house}/other.npy"], "precision": ["--precision", "bfloat16"],
        "overflow": ["--overflow", "saturate"], "flush_subnormals": ["--flush-subnormals"],
        "faults": ["--fault", "op=relu,kind=scale,factor=2"], "dump_mode": ["--dump-mode", "output"],
        "seed": ["--seed", "5"], "out": ["--out", "elsewhere"], "as_json": ["--json"],
    },
    "slice": {
        "start": ["--start", "conv"], "end": ["--end", "last"], "around": ["--around", "conv"],
        "radius": ["--radius", "2"], "widen": ["--widen"], "exact": ["--exact"], "all_outputs": ["--all-outputs"],
        "weights": ["--weights", MISSING], "inputs": ["--input", "x={house}/other.npy"],
        "runner": ["--runner", "nobody"], "dump": ["--dump", MISSING], "mapping": ["--mapping", MISSING],
        "golden": ["--golden", "{house}/golden2"], "seed": ["--seed", "5"], "dtype": ["--dtype", "float32"],
        "no_check": ["--no-check"], "zipped": ["--zip"], "out": ["--out", "elsewhere"],
        **{name: COMPARING[name] for name in ("run", "device", "npu_model", "step", "as_json")},
    },
    "history add": {"release": ["--release", "r2"], "case": ["--case", "other"]},
    "history show": {"plotted": ["--plot", "p.png"], "as_json": ["--json"]},
    "history export": {"target": ["--csv", "f.csv"]},
}
UNSEEN = {"jobs": "only how fast"}
VACUOUS = {  # honoured, and there is nothing to see
    ("compare NPU", "floor"): "where there are no floors, --no-floor has what it asks for",
    ("run MODEL", "force"): "nothing is there to overwrite",
    ("slice --dump", "widen"): "every input was dumped",
    ("slice --dump", "seed"): "the dump has the model's inputs",
}
PAIR = ["{house}/device/npu", "--mapping", "{house}/mapping.json"]
WAYS: dict[str, list[str]] = {  # every way in which a command can be used; `{house}` is the folder above
    "compare MODEL": ["{house}/net.onnx", *PAIR, "-o", "out"],
    "compare MODEL --input": ["{house}/net.onnx", *PAIR, "-i", "x={house}/x.npy", "--json"],
    "compare MODEL --no-floor": ["{house}/net.onnx", *PAIR, "--no-floor", "-o", "out"],
    "compare GOLDEN": ["{house}/golden", *PAIR, "-o", "out"],
    "compare GOLDEN --model": ["{house}/golden", *PAIR, "--model", "{house}/net.onnx", "-o", "out"],
    "compare NPU": ["{house}/device/npu", *PAIR, "-o", "out"],
    "compare SLICE": ["{house}/slice", *PAIR, "-o", "out"],
    "compare SLICE --json": ["{house}/slice", *PAIR, "--json"],
    "compare --weights-only": ["{house}/net.onnx", "{house}/net.onnx", "--weights-only", "-o", "out"],
    "check MODEL": ["{house}/net.onnx", *PAIR, "-b", "b", "-o", "out"],
    "check GOLDEN": ["{house}/golden", *PAIR, "-b", "b", "-o", "out", "--history", "h", "--release", "r"],
    "check --case": ["--case", "one={house}/net.onnx,{house}/device/npu", *PAIR[1:], "-b", "b", "-o", "out"],
    "run MODEL": ["{house}/net.onnx", "-i", "x={house}/x.npy", "-o", "out"],
    "inspect MODEL": ["{house}/net.onnx"],
    "inspect DEVICE": ["{house}/mapping.json"],
    "inspect DUMP": ["{house}/device/npu"],
    "inspect SLICE": ["{house}/slice"],
    "inspect CAFFE": [str(SAMPLES / "digits_lenet" / "lenet.prototxt")],
    "convert DUMP": ["{house}/device/npu", "-o", "out"],
    "convert --to dump": ["{house}/golden", "-o", "out", "--to", "dump"],
    "convert --to pb": [str(SAMPLES / "digits_cnn" / "cnn.pb"), "-o", "out", "--to", "pb"],
    "emulate MODEL": ["{house}/net.onnx", "-o", "out", "--fault", "op=relu,kind=overflow"],
    "emulate MODEL --input": [
        "{house}/net.onnx", "-o", "out", "--fault", "op=relu,kind=overflow", "-i", "x={house}/x.npy",
    ],
    "slice --start --end": ["{house}/net.onnx", "-s", "relu", "-e", "gate"],
    "slice --around": ["{house}/net.onnx", "--around", "relu"],
    "slice --golden": ["{house}/net.onnx", "-s", "relu", "-e", "gate", "--golden", "{house}/golden"],
    "slice --no-check": ["{house}/net.onnx", "-s", "relu", "-e", "gate", "--no-check"],
    "slice --dump": ["{house}/net.onnx", "-s", "relu", "-e", "gate", "--dump", *PAIR],
    "history add": ["h", "{house}/report/report.json", "--release", "r"],
    "history show": ["{house}/history"],
    "history show PORT": ["{house}/history", "mul:output:0"],
    "history export": ["{house}/history"],
}


@cache
def command_of(way: str) -> tuple[str, click.Command]:
    """`history add` of "history add"; `compare` of "compare MODEL --input"."""
    first, *rest = way.split()
    found = cli.commands[first]
    if isinstance(found, click.Group):
        return f"{first} {rest[0]}", found.commands[rest[0]]
    return first, found


def options_of(way: str) -> list[click.Option]:
    return [param for param in command_of(way)[1].params if isinstance(param, click.Option)]


@pytest.mark.parametrize("way", WAYS)
def test_an_option_has_an_effect_or_is_refused_by_name(way: str, acccmp_in: Run, house: Path) -> None:
    """What was given changes the exit code, what is printed or what is written; else it exits 2 and says so."""
    name, _ = command_of(way)
    if "pb" in way:
        pytest.importorskip("tensorflow")
    plain = [*name.split(), *(argument.format(house=house) for argument in WAYS[way])]
    before = {"b": house / "b"} if name == "check" else {}
    base = acccmp_in(*plain, before=before)
    assert base.code != 2, base.err
    assert acccmp_in(*plain, before=before) == base, "the same command gives the same"
    swallowed = []
    for option in options_of(way):
        if (way, option.name) in VACUOUS:
            continue
        if option.is_flag and {*option.opts, *option.secondary_opts} & set(plain):
            continue  # given already
        unseen = option.name in UNSEEN
        given = [option.opts[0], "1"] if unseen else TRIES[name][str(option.name)]
        ran = acccmp_in(*plain, *(argument.format(house=house) for argument in given), before=before)
        assert "--debug" not in ran.err, f"{way} {' '.join(given)}: {ran.err}"
        if (ran == base) is not unseen and not refused(ran, option):
            swallowed.append(" ".join(given))
    assert not swallowed, way


def refused(ran: Ran, option: click.Option) -> bool:
    names = [*option.opts, *option.secondary_opts]
    return ran.code == 2 and ran.err.count("\n") == 1 and any(name in ran.err for name in names)


def test_no_command_and_no_option_is_left_out_of_these_tables() -> None:
    groups = [(name, found) for name, found in cli.commands.items()]
    commands = {
        f"{name} {inner}" if inner else name
        for name, found in groups for inner in (found.commands if isinstance(found, click.Group) else [""])
    }
    assert {command_of(way)[0] for way in WAYS} == commands == set(TRIES)
    for way in WAYS:
        known = {*TRIES[command_of(way)[0]], *UNSEEN}
        assert {str(option.name) for option in options_of(way)} <= known


def test_options_that_are_refused_are_named_in_one_line_with_the_reason(acccmp_in: Run, house: Path) -> None:
    ran = acccmp_in("compare", house / "net.onnx", house / "net.onnx", "--weights-only", "--step", "3", "--strict")
    assert ran.code == 2
    assert ran.err == (
        "acccmp: --strict, --step have no effect where weights are compared (nothing is run, no dump is read, each "
        "number may be rounded once); leave them out; see acccmp compare --help\n"
    )


def test_strict_holds_for_both_reports_of_a_slice(acccmp_in: Run, house: Path) -> None:
    ran = acccmp_in("compare", house / "slice", *(a.format(house=house) for a in PAIR), "--strict", "--json")
    both = json.loads(ran.out)
    assert both["slice"]["strict"]
    assert both["full_model"]["strict"]


def test_a_fault_of_pre_processing_fails_a_check_that_is_told_the_input(acccmp_in: Run, house: Path) -> None:
    """The device was fed with x.npy where other.npy was meant: without --input nobody can see that."""
    pair = [house / "net.onnx", *(a.format(house=house) for a in PAIR)]
    before = {"b": house / "b"}
    assert acccmp_in("check", *pair, "-b", "b", before=before).code == 0
    assert acccmp_in("check", *pair, "-b", "b", "-i", f"x={house}/x.npy", before=before).code == 0
    assert acccmp_in("check", *pair, "-b", "b", "-i", f"x={house}/other.npy", before=before).code == 1


def test_each_case_of_a_check_is_fed_with_its_own_input(acccmp_in: Run, house: Path) -> None:
    pair = f"{house}/net.onnx,{house}/device/npu"
    cases = ["check", "--case", f"cat={pair}", "--case", f"dog:2={pair}", *(a.format(house=house) for a in PAIR[1:])]
    own, other = f"{house}/x.npy", f"{house}/other.npy"
    ran = acccmp_in(*cases, "-b", "b", "--update", "-i", f"cat:x={own}", "-i", f"dog:2:x={other}", "-o", "out")
    assert ran.code == 1
    assert "x:output:0 in case dog:2 is drift" in ran.out
    assert "in case cat" not in ran.out
    ran = acccmp_in(*cases, "-b", "b", "--update", "-i", f"x={own}")
    assert ran.code == 2
    assert "of which case? There are 2: write --input CASE:x=" in ran.err


# -- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--mapping", "--dump"])
@pytest.mark.parametrize("name", [
    "convrelu", "convrelu:output:0", "relu", "conv", "relu:output:0", "conv:input:0", "r", "c",
])
def test_a_name_that_a_screen_prints_starts_ends_and_centres_a_slice(
    name: str, option: str, acccmp_in: Run, house: Path,
) -> None:
    """A device op (with and without its port), an original node, its port, a tensor; where the mapping tells what the
    device op stands for, and where the names of the dump's ops do."""
    told = house / ("mapping.json" if option == "--mapping" else "device/npu")
    cut = ["slice", house / "net.onnx", "--json", option, told]
    for given, layers in (
        (["--start", name, "--end", "mul"], ["conv", "relu", "mul"]), (["--start", "conv", "--end", name],
        ["conv", "relu"]), (["--around", name, "--radius", "0"], ["conv", "relu"]),
    ):
        ran = acccmp_in(*cut, *given)
        assert ran.code == 0, ran.err
        assert json.loads(ran.out)["slice"]["layers"] == layers


@pytest.mark.parametrize("name", ["convrelu", "convrelu:output:0", "relu", "conv", "relu:output:0"])
def test_a_name_that_a_screen_prints_finds_the_port_in_reports_baselines_and_histories(
    name: str, acccmp_in: Run, house: Path, tmp_path: Path,
) -> None:
    pair = [a.format(house=house) for a in PAIR]
    report = acccmp.compare(house / "net.onnx", pair[0], mapping=pair[2])
    assert str(report[name].port) == "convrelu:output:0"
    assert "convrelu:output:0: match" in report.plot_layer(name).axes[0].get_title(loc="left")
    report.plot_heatmap(name)
    acccmp_in("history", "add", tmp_path / "h", house / "report" / "report.json", "--release", "one")
    assert acccmp_in("history", "show", tmp_path / "h", name) == acccmp_in(
        "history", "show", tmp_path / "h", "convrelu:output:0")
    ran = acccmp_in("check", house / "net.onnx", *pair, "-i", f"x={house}/other.npy", "-b", tmp_path / "b", "--update",
                    "--accept", name, "--json")
    assert json.loads(ran.out)["accepted"] == ["convrelu:output:0"]


def test_a_name_of_several_ports_is_not_guessed(acccmp_in: Run, tmp_path: Path) -> None:
    """One original that the compiler split into two device ops."""
    halves = [comparison(f"dev{i}", i, originals=("split",)) for i in (1, 2)]
    acccmp.Report(tuple(halves)).save(tmp_path)
    acccmp_in("history", "add", tmp_path / "h", tmp_path / "report.json", "--release", "one")
    ran = acccmp_in("history", "show", tmp_path / "h", "split")
    assert ran.code == 2
    assert ran.err.endswith("h: split stands for 2 ports; say which: dev1:output:0, dev2:output:0\n")
    ran = acccmp_in("history", "show", tmp_path / "h", "splitt")
    assert ran.code == 2
    assert "no port, op or node named 'splitt' in" in ran.err
    assert ran.err.endswith("did you mean split?\n")


def test_inspect_lists_the_names_also_of_nodes_without_one(acccmp_in: Run, house: Path, tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Neg", ["r"], ["n"], "minus"),
             helper.make_node("Relu", ["n"], ["y"])]
    model = model_file(tmp_path, nodes, {"x": (1, 4)}, ["y"], {}, name="unnamed")
    listed = acccmp_in("inspect", model, "--nodes")
    assert [line.split()[:3] for line in listed.out.splitlines()] == [
        ["Relu_0", "Relu", "r"], ["minus", "Neg", "n"], ["Relu_2", "Relu", "y"],
    ]
    told = json.loads(acccmp_in("inspect", model, "--nodes", "Relu*", "--json").out)["nodes"]
    assert [node["name"] for node in told] == ["Relu_0", "Relu_2"]
    for name in ("Relu_0", "minus", "Relu_2"):
        assert acccmp_in("slice", model, "-s", name, "-e", name).code == 0
    ran = acccmp_in("slice", house / "net.onnx", "-s", "zzz", "-e", "last")
    assert "named 'zzz' in net; `acccmp inspect MODEL --nodes` lists the names" in ran.err
    ran = acccmp_in("inspect", house / "mapping.json", "--nodes", "convrelu")
    assert ran.out.rstrip().endswith("stands for conv, relu")
    ran = acccmp_in("inspect", house / "device" / "npu", "--nodes", "convrelu")
    assert "convrelu:output:0 float16 1x1x6x6x16" in ran.out
    ran = acccmp_in("inspect", house / "net.onnx", "--nodes", "zzz")
    assert ran.err == f"acccmp: {house}/net.onnx: none of its 5 nodes has a name like 'zzz'\n"


def test_an_input_that_is_read_in_another_shape_is_said(acccmp_in: Run, house: Path, tmp_path: Path) -> None:
    x = np.load(house / "x.npy")
    np.save(tmp_path / "flat.npy", x.reshape(1, -1))
    pair = ("compare", house / "net.onnx", house / "device" / "npu", "--mapping", house / "mapping.json", "--json")
    notes = json.loads(acccmp_in(*pair, "--input", f"x={tmp_path / 'flat.npy'}").out)["notes"]
    wanted = "x".join(map(str, x.shape))
    assert f"x: {tmp_path / 'flat.npy'} has the shape 1x{x.size} and is read as {wanted}" in notes


def test_nodes_takes_path_and_pattern_in_either_order(acccmp_in: Run, house: Path) -> None:
    net = house / "net.onnx"
    every, some = acccmp_in("inspect", net, "--nodes").out, acccmp_in("inspect", net, "--nodes", "relu").out
    assert every != some
    assert acccmp_in("inspect", "--nodes", net).out == every
    assert acccmp_in("inspect", "--nodes", "relu", net).out == some
    assert acccmp_in("inspect", "--nodes", net, "relu").out == some
    ran = acccmp_in("inspect", "--nodes", "gone.onnx")
    assert ran.code == 2
    assert ran.err == ("acccmp: which file or folder? acccmp inspect PATH [--nodes [PATTERN]] ('gone.onnx' was taken "
                       "for PATTERN: there is no such file); see acccmp inspect --help\n")
    assert acccmp_in("inspect").err.startswith("acccmp: which file or folder? acccmp inspect PATH")


def test_a_close_match_is_told_once(acccmp_in: Run, house: Path) -> None:
    """In Caffe a node and its tensor have one name."""
    ran = acccmp_in("slice", SAMPLES / "digits_lenet" / "lenet.prototxt", "-s", "conv22", "-e", "prob")
    assert ran.err.rstrip().endswith("did you mean conv2, conv1, conv2@relu2?")


@pytest.mark.parametrize("limits", [
    "floor_factor = inf", "floor_factor = 1e308", "floor_factor = -2", "[fixed]\nfloat16 = inf",
    "[fixed]\nfloat16 = 1e308", "[fixed]\nfloat16 = 1", "[[rule]]\nRelativeEuclideanDistance = inf",
    "[[rule]]\nRelativeEuclideanDistance = 1e308", "[[rule]]\nMaxAbsoluteError = 1e308",
    "[[rule]]\nMaxAbsoluteError = inf", "[[rule]]\nCosineSimilarity = -2", "[[rule]]\nCosineSimilarity = 0",
    '[[rule]]\n"SNR(dB)" = -2', '[[rule]]\n"SNR(dB)" = -inf', "[[rule]]\nMismatchRatio = 2", "[[rule]]\nNanNpu = inf",
    "[[rule]]\nRelativeEuclideanDistance = 1" + "0" * 400,
])
@pytest.mark.parametrize("command", ["compare", "check"])
def test_a_limit_that_nothing_could_be_beyond_is_refused(
    command: str, limits: str, acccmp_in: Run, tmp_path: Path,
) -> None:
    (tmp_path / "limits.toml").write_text(limits)
    sample = SAMPLES / "digits_resnet"
    ran = acccmp_in(command, sample / "golden", sample / "npu_faulty", "-m", sample / "mapping.json", "--thresholds",
                    tmp_path / "limits.toml", *(["-b", "b", "--update"] if command == "check" else []))
    assert ran.code == 2
    assert ran.err.startswith(f"acccmp: thresholds {tmp_path}/limits.toml")
    assert ran.err.count("\n") == 1
    assert "--debug" not in ran.err


def test_the_same_limits_are_refused_in_python() -> None:
    for wrong in (
        {"limits": {"CosineSimilarity": -2.0}}, {"fixed": {"float16": float("inf")}}, {"floor_factor": 1e308},
    ):
        with pytest.raises(InputError, match="must be"):
            acccmp.Thresholds("mine", **wrong)


# -- words -------------------------------------------------------------------------------------------------------


def test_a_picture_of_another_size_is_measured_in_pixels_not_in_bytes_of_its_file(
    acccmp_in: Run, house: Path,
) -> None:
    pillow = pytest.importorskip("PIL.Image")
    for size in ((30, 20), (8, 8)):
        pillow.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(house / f"{size[0]}.png")
    for command in (["run", house / "net.onnx", "-o", "out"], ["inspect", house / "net.onnx"]):
        ran = acccmp_in(*command, "-i", f"x={house}/30.png")
        assert ran.code == (2 if command[0] == "run" else 1)
        told = (ran.out + ran.err).splitlines()[-1]
        assert "30 pixels wide and 20 high, the input x (float32 1x3x8x8) wants 8 pixels wide and 8 pixels high" in told
        assert "bytes" not in told
        assert acccmp_in(*command, "-i", f"x={house}/8.png").code == 0


def test_a_model_that_cannot_run_here_is_told_so_before_anybody_looks_for_its_inputs(
    acccmp_in: Run, house: Path, shared: Path,
) -> None:
    model = shared / "mindspore" / "mindspore-ai_mindspore_test__relu.mindir"
    for command in (["run", model, "-o", "out"], ["compare", model, house / "device" / "npu"]):
        ran = acccmp_in(*command)
        assert ran.code == 2
        assert "is a model of format 'mindspore', which cannot run here; give the original" in ran.err


@pytest.mark.parametrize(("file", "what"), [
    ("tensors/0_123/0/3_LinearOperation/after/outtensor0.bin", "tensors of ATB operations"),
    ("act_0.pt", "PyTorch tensors without the dump.json that describes them (acl_save of an aclgraph run?)"),
])
def test_the_dump_of_another_tool_is_called_what_it_is_not_empty(
    file: str, what: str, acccmp_in: Run, house: Path, tmp_path: Path,
) -> None:
    dump = tmp_path / "other"
    (dump / file).parent.mkdir(parents=True)
    (dump / file).write_bytes(b"format=2\ndtype=1\ndims=2,2\n$End=1\n" + bytes(8))
    for command in (["inspect", dump], ["compare", house / "net.onnx", dump]):
        ran = acccmp_in(*command)
        assert ran.code == 2
        assert f"{dump}: holds {what}, which are not read here ({file}); dump the run with msprobe" in ran.err


def test_a_folder_is_called_empty_only_when_there_is_nothing_below_it(acccmp_in: Run, tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert "a: an empty folder, no dump in it" in acccmp_in("inspect", tmp_path / "a").err
    (tmp_path / "a" / "b" / "notes.dat").touch()
    assert "a: none of the 1 files below it is a dump: b/notes.dat" in acccmp_in("inspect", tmp_path / "a").err


def test_a_comparison_of_weights_speaks_of_weights_on_every_face(acccmp_in: Run, house: Path) -> None:
    same = acccmp_in("compare", house / "net.onnx", house / "net.onnx", "--weights-only", "-o", "same")
    assert same.code == 0
    assert same.out.startswith("PASSED\n  2 of 2 weights agree to one rounding\n")
    other = onnx.load(house / "net.onnx")
    scale = next(tensor for tensor in other.graph.initializer if tensor.name == "s")
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * 2, "s"))
    onnx.save(other, house / "other.onnx")
    bad = acccmp_in("compare", house / "net.onnx", house / "other.onnx", "--weights-only", "-o", "bad")
    assert bad.code == 1
    assert "1 of 2 weights agree to one rounding" in bad.out
    assert "first bad weight s:output:0" in bad.out
    for told in (same.out, bad.out, *(path.read_text() for path in Path.cwd().glob("bad/report.[hm]*"))):
        for wrong in ("model output", "layers before", "first bad layer", "First bad layer", "ports were judged"):
            assert wrong not in told


@pytest.mark.parametrize("columns", [80, 120])
def test_a_slice_is_shown_as_it_was_when_it_was_made(
    columns: int, acccmp_in: Run, house: Path,
) -> None:
    ran = acccmp_in("slice", house / "net.onnx", "-s", "relu", "-e", "mul", "--dump", *(
        a.format(house=house) for a in PAIR))
    folder = next(Path.cwd().glob("dump_result_*"))
    shown = subprocess.run(
        [sys.executable, "-m", "acccmp", "inspect", folder.name], capture_output=True, text=True, check=True,
        cwd=folder.parent, env={**with_path(), "COLUMNS": str(columns)},
    ).stdout.splitlines()
    assert shown[0] == ran.out.splitlines()[0]
    table = shown[shown.index(next(line for line in shown if line.startswith("inputs ("))) + 1 :]
    assert table[0].split() == ["input", "shape", "layout", "taken", "from", "bin", "Inf", "subnormal"]
    assert table[1].split()[:4] == ["x", "1x3x8x8", "NCHW", "convrelu:input:0"]
    assert len(shown) < 24


def test_the_headline_has_three_states(acccmp_in: Run, house: Path, tmp_path: Path) -> None:
    (tmp_path / "limits.toml").write_text('[[rule]]\nname = "convrelu:output:0"\nMaxAbsoluteError = 1e-9\n')
    pair = [house / "net.onnx", *(a.format(house=house) for a in PAIR)]
    strict_about_one = ["--thresholds", tmp_path / "limits.toml", "-o", "out"]
    for given, code, headline in (
        ([], 0, "PASSED"), (strict_about_one, 0, "PASSED with 1 warning"),
        ([*strict_about_one, "--strict"], 1, "NOT PASSED"),
    ):
        ran = acccmp_in("compare", *pair, *given)
        assert (ran.code, ran.out.splitlines()[0]) == (code, headline)
        if given:
            assert f"## {headline}\n" in Path("out/report.md").read_text()
            assert f"<h1>{headline}</h1>" in Path("out/report.html").read_text()


@pytest.mark.parametrize("name", TRIES)
def test_every_command_helps_with_an_example(name: str, acccmp_in: Run) -> None:
    ran = acccmp_in(*name.split(), "--help")
    assert ran.code == 0
    assert f"Example:\n    acccmp {name} " in ran.out


# -- reports -----------------------------------------------------------------------------------------------------


def test_a_report_writes_in_python_what_the_command_writes(tmp_path: Path) -> None:
    sample = SAMPLES / "digits_resnet"
    pair = [str(sample / "resnet.onnx"), str(sample / "npu_faulty")]
    report = acccmp.compare(*pair, mapping=str(sample / "mapping.json"))
    written = report.save(tmp_path / "by_hand")
    subprocess.run(
        [sys.executable, "-m", "acccmp", "compare", *pair, "--mapping", str(sample / "mapping.json"),
         "-o", str(tmp_path / "by_command")], capture_output=True, check=False,
    )
    assert [path.name for path in written] == ["report.csv", "report.json", "report.md", "report.html"]
    for path in written:
        assert path.read_bytes() == (tmp_path / "by_command" / path.name).read_bytes()
    (tmp_path / "a_file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        report.save(tmp_path / "a_file")
