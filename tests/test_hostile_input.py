"""Hostile and damaged input through the command: nothing hangs, nothing leaks, nothing is half-written, one line says
what is wrong."""

from __future__ import annotations

import fcntl
import json
import os
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import with_path
from onnx import TensorProto, helper

T = 1700000000001000
PORT_OF_RESNET = ("--start", "block1/conv1", "--end", "block1/relu1")

Run = subprocess.CompletedProcess[str]


def acccmp(
    *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None, seconds: float = 180,
    first: Callable[[], None] | None = None, **streams: Any,
) -> Run:
    """The command in a process of its own; TimeoutExpired when it hangs. `first` is done there before anything."""
    return subprocess.run(
        [sys.executable, "-m", "acccmp", *map(str, arguments)], cwd=cwd, timeout=seconds, preexec_fn=first,
        env={**with_path(), **(env or {})}, text=True, errors="surrogateescape",
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **streams},
    )


def line_of(said: Run) -> str:
    """Its one line on stderr, of a command that could not be done."""
    lines = said.stderr.splitlines()
    assert said.returncode == 2, said
    assert len(lines) == 1, said
    assert lines[0].startswith("acccmp: ")
    assert "add --debug" not in lines[0], "nobody thought of this case"
    return lines[0]


def copied(source: Path, target: Path) -> Path:
    target.mkdir(parents=True)
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


@pytest.fixture
def resnet(samples: Path) -> Path:
    return samples / "digits_resnet"


# -- B2: pipes ---------------------------------------------------------------------------------------------------


PIPES = {
    "the model": ("inspect", "PIPE"), "the dump": ("compare", "GOLDEN", "PIPE"), "golden": ("compare", "PIPE", "NPU"),
    "the mapping": ("compare", "GOLDEN", "NPU", "--mapping", "PIPE"),
    "the unfused mapping": ("compare", "GOLDEN", "NPU", "--mapping", "MAPPING", "--mapping-unfused", "PIPE"),
    "the rule": ("compare", "GOLDEN", "NPU", "--mapping", "MAPPING", "--quant-rule", "PIPE"),
    "the original": ("compare", "GOLDEN", "NPU", "--model", "PIPE"),
    "the weights": ("inspect", "PROTOTXT", "--weights", "PIPE"),
    "the thresholds": ("compare", "GOLDEN", "NPU", "--thresholds", "PIPE"),
    "an input": ("run", "MODEL", "--input", "image=PIPE", "-o", "out"),
    "an input to look at": ("inspect", "MODEL", "--input", "image=PIPE"),
    "an input of emulate": ("emulate", "MODEL", "--input", "image=PIPE", "-o", "out"),
    "the baseline": ("check", "GOLDEN", "NPU", "--baseline", "PIPE"),
    "the baseline to renew": ("check", "GOLDEN", "NPU", "--baseline", "PIPE", "--update"),
    "a report": ("history", "add", "h.db", "PIPE", "--release", "1"),
    "the history": ("history", "show", "PIPE"),
    "a history to write": ("check", "GOLDEN", "NPU", "-b", "b", "--update", "--history", "PIPE", "--release", "1"),
    "JUnit": ("check", "GOLDEN", "NPU", "-b", "b", "--update", "--junit", "PIPE"),
    "the golden of a slice": ("slice", "MODEL", *PORT_OF_RESNET, "--golden", "PIPE", "-o", "out"),
    "the dump of a slice": ("slice", "MODEL", *PORT_OF_RESNET, "--dump", "PIPE", "-o", "out"),
    "a picture": ("inspect", "MODEL", "--graph", "pipe.dot"),
    "what is converted": ("convert", "PIPE", "-o", "out"),
}


@pytest.mark.parametrize("what", PIPES)
def test_b2_a_pipe_is_not_waited_for(what: str, tmp_path: Path, samples: Path, resnet: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.dot")
    places = {
        "PIPE": "pipe", "GOLDEN": resnet / "golden", "NPU": resnet / "npu", "MODEL": resnet / "resnet.onnx",
        "MAPPING": resnet / "mapping.json", "PROTOTXT": samples / "digits_lenet" / "lenet.prototxt",
    }
    arguments = [str(places.get(word, word)).replace("=PIPE", "=pipe") for word in PIPES[what]]
    said = acccmp(*arguments, cwd=tmp_path)
    assert "pipe" in (said.stderr if what == "what is converted" else line_of(said))
    assert said.returncode == 2
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("name", ["mapping.csv", "manifest.json", f"Relu.relu.1.1.{T}", "x.npy"])
def test_b2_a_pipe_in_a_folder_of_dumps_loses_no_other_row(name: str, tmp_path: Path, resnet: Path) -> None:
    npu = copied(resnet / "npu", tmp_path / "npu")
    os.mkfifo(npu / name)
    said = acccmp("compare", resnet / "golden", npu, "--mapping", resnet / "mapping.json", "--json")
    report = json.loads(said.stdout)
    assert sum(row["verdict"] == "match" for row in report["comparisons"]) >= 40
    if name == "mapping.csv":
        assert any("mapping.csv: is a named pipe" in note for note in report["notes"])


def test_b2_a_listed_golden_that_is_a_pipe_is_unreadable_and_no_other(tmp_path: Path, resnet: Path) -> None:
    golden = copied(resnet / "golden", tmp_path / "golden")
    row = json.loads((golden / "manifest.json").read_text())["tensors"][3]
    (golden / row["file"]).unlink()
    os.mkfifo(golden / row["file"])
    said = acccmp("compare", golden, resnet / "npu", "--mapping", resnet / "mapping.json", "--json")
    bad = [r for r in json.loads(said.stdout)["comparisons"] if r["verdict"] == "unreadable"]
    assert bad
    assert all("is a named pipe" in row["reason"] for row in bad)


def test_b2_a_models_own_data_that_are_a_pipe_are_not_waited_for(tmp_path: Path, resnet: Path, tf: Any) -> None:
    onnx.save(onnx.load(resnet / "resnet.onnx"), tmp_path / "m.onnx", save_as_external_data=True, location="m.data",
              size_threshold=0)
    (tmp_path / "m.data").unlink()
    os.mkfifo(tmp_path / "m.data")
    for command in (("inspect", "m.onnx"), ("emulate", "m.onnx", "-o", "out")):
        assert "'m.data', which is a named pipe" in line_of(acccmp(*command, cwd=tmp_path))
    saved = saved_model(tf, tmp_path / "saved")
    data = next((saved / "variables").glob("*.data-*"))
    data.unlink()
    os.mkfifo(data)
    said = acccmp("convert", saved, "--to", "pb", "-o", tmp_path / "out", seconds=300)
    assert f"{data.name}: is a named pipe" in line_of(said)


# -- B3: links ---------------------------------------------------------------------------------------------------


def test_b3_a_dump_file_that_is_a_link_out_of_the_folder_is_refused_and_never_handed_over(
    tmp_path: Path, resnet: Path,
) -> None:
    npu = copied(resnet / "npu", tmp_path / "npu")
    secret = tmp_path / "secret"
    secret.write_text("the password is swordfish\n" * 9)
    links = [path for path in npu.iterdir() if "block1_conv1" in path.name or "block1_relu1" in path.name]
    assert links
    for path in links:
        path.unlink()
        path.symlink_to(secret)
    said = acccmp("compare", resnet / "golden", npu, "--mapping", resnet / "mapping.json", "--json")
    reasons = [row["reason"] for row in json.loads(said.stdout)["comparisons"] if row["verdict"] == "unreadable"]
    assert reasons
    assert all("is a link that leads out of" in reason and str(secret) in reason for reason in reasons)
    acccmp("slice", resnet / "resnet.onnx", *PORT_OF_RESNET, "--dump", npu, "--mapping", resnet / "mapping.json",
           "-o", tmp_path / "out", "--zip")
    for path in tmp_path.joinpath("out").rglob("*") if (tmp_path / "out").exists() else ():
        assert path.is_dir() or b"swordfish" not in path.read_bytes()


def test_b3_a_link_within_the_folder_and_a_link_to_the_folder_are_fine(tmp_path: Path, resnet: Path) -> None:
    npu = copied(resnet / "npu", tmp_path / "npu")
    for path in sorted(npu.iterdir())[:5]:
        (npu / "kept").mkdir(exist_ok=True)
        path.rename(npu / "kept" / f"{path.name}.bak")
        path.symlink_to(Path("kept") / f"{path.name}.bak")
    (tmp_path / "link").symlink_to(npu)
    said = acccmp("compare", resnet / "golden", tmp_path / "link", "--mapping", resnet / "mapping.json")
    assert said.returncode == 0, said


def test_b3_a_folder_of_a_tree_that_is_a_link_out_of_it_is_named_and_not_read(tmp_path: Path, resnet: Path) -> None:
    copied(resnet / "npu", tmp_path / "tree" / "20260101000000" / "0" / "resnet" / "1" / "0")
    (tmp_path / "tree" / "20270101000000").symlink_to(copied(resnet / "npu_faulty", tmp_path / "elsewhere"))
    said = acccmp("compare", resnet / "golden", tmp_path / "tree", "--mapping", resnet / "mapping.json", "--json")
    notes = json.loads(said.stdout)["notes"]
    assert said.returncode == 0, said
    assert any("20270101000000: a link that leads out of" in note for note in notes)


# -- B4: names that are commands to a pipeline -------------------------------------------------------------------


COMMAND = re.compile(r"(?im)^\s*::|##\[|##vso\[|##teamcity\[|section_(?:start|end):|\r|\x1b")
HOSTILE = "x\n::error::pwned\r##[error]a\x1b[31m##vso[task.complete]section_start:1:a\r\x1b[0K::warning::"


def test_b4_a_dump_folder_with_a_hostile_name_prints_one_line_without_a_command(tmp_path: Path, resnet: Path) -> None:
    npu = copied(resnet / "npu", tmp_path / HOSTILE)
    base = ("compare", resnet / "golden", npu, "--mapping", resnet / "mapping.json")
    one = acccmp(*base, "--report-level", "line")
    assert len(one.stdout.splitlines()) == 1
    for said in (one, acccmp(*base), acccmp(*base, "--thresholds", tmp_path / HOSTILE), acccmp("inspect", npu)):
        assert not COMMAND.search(said.stdout + said.stderr)
    told = acccmp(*base, "--json")
    assert not COMMAND.search(told.stdout)
    assert HOSTILE in json.loads(told.stdout)["subject"]["npu"]


def hostile_model(path: Path) -> Path:
    shape = [1, 4]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["::error::y"], name="::error file=a::b"),
         helper.make_node("Exp", ["::error::y"], ["z"], name=f"{'long' * 21} ##[group]::warning::")], HOSTILE,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("columns", ["60", "80", "100", "133"])
def test_b4_operators_with_hostile_names_stay_text_in_tables_of_any_width(columns: str, tmp_path: Path) -> None:
    model = hostile_model(tmp_path / "m.onnx")
    width = {"COLUMNS": columns}
    assert acccmp("emulate", model, "-o", tmp_path / "e", "--fault", "op=::error file=a::b,kind=scale,factor=3",
                  env=width).returncode == 0
    for command in (
        ("compare", model, tmp_path / "e" / "npu", "--mapping", tmp_path / "e" / "mapping.json"), ("inspect", model),
        ("inspect", tmp_path / "e" / "mapping.json"), ("inspect", tmp_path / "e" / "npu"),
        ("inspect", model, "--nodes", "*"),
    ):
        said = acccmp(*command, env=width)
        assert said.stdout
        assert not COMMAND.search(said.stdout + said.stderr), command


def test_b4_converts_list_of_failures_has_a_line_for_each_file(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"Op.a\n::error::x\x1b[31m.1.1.{T}").write_bytes(b"junk")
    said = acccmp("convert", tmp_path / "in", "-o", tmp_path / "out")
    assert said.returncode == 2
    assert len(said.stderr.splitlines()) == 1
    assert not COMMAND.search(said.stdout + said.stderr)
    assert len((tmp_path / "out" / "convert_failed_file_list.txt").read_text().splitlines()) == 1


# -- B6, B7 ------------------------------------------------------------------------------------------------------


def test_b6_a_looping_link_does_not_lose_the_dump(tmp_path: Path, resnet: Path) -> None:
    npu = copied(resnet / "npu", tmp_path / "npu")
    (npu / "loop").symlink_to("loop")
    (npu / f"Relu.loop.1.1.{T}").symlink_to(f"Relu.loop.1.1.{T}")
    for root in (npu, tmp_path):
        said = acccmp("compare", resnet / "golden", root, "--mapping", resnet / "mapping.json", "--json")
        assert sum(row["verdict"] == "match" for row in json.loads(said.stdout)["comparisons"]) >= 40


def within(mebibytes: int) -> Callable[[], None]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (mebibytes << 20, mebibytes << 20))

    return limit


def test_b7_an_npz_of_zeros_takes_no_memory_until_it_is_asked_for(tmp_path: Path) -> None:
    zeros = np.zeros((1 << 18, 256), np.float32)
    np.savez_compressed(tmp_path / "z.npz", **{f"a{place}": zeros for place in range(6)})
    assert (tmp_path / "z.npz").stat().st_size < 3 << 20
    said = acccmp("inspect", tmp_path / "z.npz", first=within(700), env={"OPENBLAS_NUM_THREADS": "1"})
    assert said.returncode == 0, said
    assert "262144x256" in said.stdout


# -- B8, B11, B13: how it ends -----------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("compare", "GOLDEN", "NPU"), ("--help",), ("inspect", "GOLDEN", "--json")])
def test_b8_a_broken_pipe_ends_with_2_and_says_nothing(arguments: tuple[str, ...], resnet: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    places = {"GOLDEN": resnet / "golden", "NPU": resnet / "npu"}
    said = acccmp(*(places.get(word, word) for word in arguments), stdout=writer)
    os.close(writer)
    assert (said.returncode, said.stderr) == (2, "")


def test_b11_a_closed_or_full_standard_output_is_one_line(resnet: Path) -> None:
    compare = ("compare", resnet / "golden", resnet / "npu")
    said = acccmp(*compare, stdout=None, first=lambda: os.close(1))
    assert "the standard output is closed" in line_of(said)
    with open("/dev/full", "w") as full:
        assert "the standard output: No space left on device" in line_of(acccmp(*compare, stdout=full))
    said = acccmp(*compare, "--mapping", resnet / "mapping.json", stderr=None, first=lambda: os.close(2))
    assert said.returncode == 0


def heard() -> None:
    """Ctrl-C as a terminal sends it: not ignored, as it is under nohup and in some pipelines."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_b13_ctrl_c_while_modules_are_imported_is_one_line_and_2(tmp_path: Path) -> None:
    for module in ("click", "acccmp.cli.check", "acccmp.cli.slice"):
        folder = tmp_path / module
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(
            "import sys, os, signal, importlib.abc\n"
            "class Finder(importlib.abc.MetaPathFinder):\n"
            "    def find_spec(self, name, path, target=None):\n"
            f"        if name == {module!r}: os.kill(os.getpid(), signal.SIGINT)\n"
            "sys.meta_path.insert(0, Finder())\n")
        said = acccmp("--version", env=with_path(folder), first=heard)
        assert line_of(said) == "acccmp: interrupted", module


def test_b13_ctrl_c_in_the_middle_is_one_line_and_leaves_nothing(tmp_path: Path, resnet: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "acccmp", "emulate", str(resnet / "resnet.onnx"), "-o", str(tmp_path / "out")],
        stderr=subprocess.PIPE, text=True, env=with_path(),
        preexec_fn=heard,
    )
    while not list(tmp_path.rglob("*.part")) and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, told) in ((2, "acccmp: interrupted\n"), (0, ""))
    # Nothing is in its place; a name that the signal hit while it was being made is swept by whoever writes there next.
    assert process.returncode == 0 or not [path for path in (tmp_path / "out").rglob("*") if path.suffix != ".part"]
    again = tmp_path / "out" if process.returncode else tmp_path / "again"
    assert acccmp("emulate", resnet / "resnet.onnx", "-o", again).returncode == 0
    assert not list(tmp_path.rglob("*.part"))


def test_b13_every_error_is_in_the_tree() -> None:
    from acccmp.core.layout import stored_shape
    from acccmp.errors import AcccmpError

    with pytest.raises(AcccmpError):
        stored_shape("NC1HWC0", "NCHW", (1, 2, 3, 4, 5, 6), 16)


# -- B9: history -------------------------------------------------------------------------------------------------


@pytest.fixture
def history(tmp_path: Path, resnet: Path) -> Path:
    report = ("compare", resnet / "golden", resnet / "npu", "--mapping", resnet / "mapping.json")
    assert acccmp(*report, "-o", tmp_path / "r").returncode == 0
    for release in ("=1+1", "b"):
        added = acccmp("history", "add", tmp_path / "h.db", tmp_path / "r" / "report.json", "--release", release)
        assert added.returncode == 0
    return tmp_path / "h.db"


ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
CRAFTED = {
    "an endless view": "DROP TABLE ports; CREATE VIEW ports (port, run, verdict, error, error_limit, floor, place) AS "
                       f"{ENDLESS} SELECT 'a', 1, 'match', x, 1.0, 1.0, x FROM c",
    "a trigger": "CREATE TRIGGER t AFTER INSERT ON runs BEGIN DELETE FROM runs; END",
    "a computed column": "ALTER TABLE ports ADD COLUMN y GENERATED ALWAYS AS (error * 2)",
    "a text for a number": "UPDATE ports SET error = 'much'",
    "bytes for a number": "UPDATE ports SET floor = x'00ff'",
    "bytes for a name": "UPDATE ports SET port = x'00ff' WHERE run = 1 AND port = (SELECT min(port) FROM ports)",
    "bytes for a release": "UPDATE runs SET release = x'00ff'",
    "a text for the coverage": "UPDATE runs SET coverage = 'all'",
    "a missing port": "CREATE TABLE p AS SELECT * FROM ports; DROP TABLE ports; ALTER TABLE p RENAME TO ports; "
                      "UPDATE ports SET port = NULL; CREATE INDEX ports_by_name ON ports (port, run)",
    "a version of the past": "PRAGMA user_version = 1",
    "a version before the first": "PRAGMA user_version = -3",
}


@pytest.mark.parametrize("how", CRAFTED)
def test_b9_a_crafted_history_neither_hangs_nor_crashes(how: str, history: Path, resnet: Path) -> None:
    with closing(sqlite3.connect(history)) as connection:
        connection.executescript(CRAFTED[how])
        connection.commit()
    asked = [("show",), ("show", "fc:output:0"), ("export",), ("show", "--json")]
    said = [acccmp("history", word, history, *more, seconds=90) for word, *more in asked]
    said.append(acccmp("history", "add", history, history.parent / "r" / "report.json", "--release", "c", seconds=90))
    for one in said:
        assert one.returncode in (0, 2), one
        assert one.returncode == 0 or str(history) in line_of(one)
    assert any(one.returncode == 2 for one in said)


def test_b9_the_historys_csv_guards_formulas_as_report_csv_does(history: Path) -> None:
    lines = acccmp("history", "export", history).stdout.splitlines()
    assert any(",'=1+1," in line for line in lines)
    assert not any(re.search(r"(^|[,;\t])\s*[=+@＝＋－＠]", line) for line in lines)


# -- B11: numbers and nesting ------------------------------------------------------------------------------------


DEEP, LONG = "[" * 5000, "9" * 400


@pytest.mark.parametrize("text", [
    f"x = {DEEP}", f"floor_factor = {LONG}", f"floor_factor = {LONG * 13}", f"[fixed]\nfloat16 = {LONG}",
    f"[[rule]]\nCosineSimilarity = {LONG}", "x = " + "{a=" * 3000,
])
def test_b11_toml_that_is_too_deep_or_too_long_is_one_line(text: str, tmp_path: Path, resnet: Path) -> None:
    (tmp_path / "t.toml").write_text(text)
    said = acccmp("compare", resnet / "golden", resnet / "npu", "--thresholds", tmp_path / "t.toml")
    assert "t.toml" in line_of(said)


def test_b11_a_baseline_that_is_too_deep_or_too_long_is_one_line(tmp_path: Path, resnet: Path) -> None:
    check = ("check", resnet / "golden", resnet / "npu", "--mapping", resnet / "mapping.json", "--baseline")
    good = tmp_path / "good"
    assert acccmp(*check, good, "--update").returncode == 0
    lines = good.read_text().splitlines()
    for place, told in ((0, DEEP), (1, DEEP), (1, re.sub(r'"count": \d+', f'"count": {LONG}', lines[1])),
                        (1, re.sub(r'"error": [^,]+', f'"error": {LONG}', lines[1]))):
        bad = tmp_path / "bad"
        bad.write_text("\n".join([*lines[:place], told, *lines[place + 1:]]))
        assert f"bad: line {place + 1}" in line_of(acccmp(*check, bad))


def test_b11_a_report_that_is_too_deep_or_too_long_is_one_line(history: Path) -> None:
    text = (history.parent / "r" / "report.json").read_text()
    for bad in (DEEP, re.sub(r'"order": \d+', f'"order": {LONG}', text), text.replace('"npu": {', f'"npu": {DEEP}{{'),
                re.sub(r'"order": \d+', f'"order": {(1 << 64) - 1}', text)):
        (history.parent / "bad.json").write_text(bad)
        assert "bad.json" in line_of(acccmp("history", "add", history, history.parent / "bad.json", "--release", "c"))


def test_b11_a_mapping_whose_origin_shape_has_a_hole_is_read(tmp_path: Path, resnet: Path) -> None:
    told = json.loads((resnet / "mapping.json").read_text())
    for op in told["graph"][0]["op"]:
        for desc in (*op.get("input_desc", ()), *op.get("output_desc", ())):
            for attr in desc.get("attr", ()):
                if attr["key"] == "origin_shape":
                    attr["value"] = {"list": {"i": [1, None, 3], "val_type": 2}}
    (tmp_path / "m.json").write_text(json.dumps(told))
    assert acccmp("inspect", tmp_path / "m.json").returncode == 0
    said = acccmp("compare", resnet / "golden", resnet / "npu", "--mapping", tmp_path / "m.json")
    assert "add --debug" not in said.stderr


def strange_model(path: Path, *nodes: onnx.NodeProto, axes: int = 2) -> Path:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1] * axes) for name in "xy")
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    path.write_bytes(model.SerializeToString())
    return path


def test_b11_emulate_names_a_missing_tensor_a_node_without_outputs_and_too_many_axes(tmp_path: Path) -> None:
    relu = helper.make_node("Relu", ["x"], ["y"], name="r")
    for told, model in (
        ("'gone' is read", strange_model(tmp_path / "a.onnx", helper.make_node("Add", ["x", "gone"], ["y"], name="a"))),
        ("a (Relu)", strange_model(tmp_path / "b.onnx", helper.make_node("Relu", ["x"], [], name="a"), relu)),
        ("70 axes", strange_model(tmp_path / "c.onnx", relu, axes=70)),
    ):
        assert told in line_of(acccmp("emulate", model, "-o", tmp_path / "out"))
        assert not (tmp_path / "out").exists()
        assert acccmp("inspect", model).returncode == 0


def test_b11_paths_that_are_no_utf8_go_through_every_command(tmp_path: Path, resnet: Path) -> None:
    odd = tmp_path / os.fsdecode(b"n\xffu")
    npu = copied(resnet / "npu", odd / "npu")
    model = odd / os.fsdecode(b"m\xff.onnx")
    model.write_bytes((resnet / "resnet.onnx").read_bytes())
    mapping = ("--mapping", resnet / "mapping.json")
    for command in (
        ("compare", model, npu, *mapping, "-o", odd / "r"), ("compare", resnet / "golden", npu, *mapping, "--json"),
        ("inspect", model), ("inspect", npu, "--json"), ("convert", npu, "-o", odd / "c"),
        ("emulate", model, "-o", odd / "e"), ("slice", model, *PORT_OF_RESNET, "-d", npu, *mapping, "-o", odd / "s"),
        ("check", resnet / "golden", npu, *mapping, "-b", odd / "b", "--update", "--junit", odd / "j", "--sarif",
         odd / "sarif", "--markdown", odd / "md", "--history", odd / "h.db", "--release", "1"),
        ("history", "show", odd / "h.db"),
        ("history", "add", odd / "h.db", odd / "r" / "report.json", "--release", "2"),
    ):
        said = acccmp(*command)
        assert said.returncode == 0, (command, said.stderr)


def test_b11_without_utf8_in_the_locale_names_are_told_or_refused_in_one_line(tmp_path: Path, resnet: Path) -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    npu = copied(resnet / "npu", tmp_path / "né")
    compare = ("compare", resnet / "golden", npu, "--mapping", resnet / "mapping.json")
    said = acccmp(*compare, "-o", tmp_path / "é", env=plain)
    assert said.returncode == 0, said
    golden = copied(resnet / "golden", tmp_path / "golden")
    told = json.loads((golden / "manifest.json").read_text())
    (golden / told["tensors"][3]["file"]).rename(golden / "é.npy")
    told["tensors"][3]["file"] = "é.npy"
    (golden / "manifest.json").write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")
    said = acccmp("compare", golden, resnet / "npu", "--mapping", resnet / "mapping.json", "--json", env=plain)
    assert "add --debug" not in said.stderr
    assert sum(row["verdict"] == "match" for row in json.loads(said.stdout)["comparisons"]) >= 40


# -- B12: full disks and killed runs -----------------------------------------------------------------------------


def files_of(mebibytes: float) -> Callable[[], None]:
    """No file of more than so many: what a full disk says, without a disk."""
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(mebibytes * (1 << 20)),) * 2)

    return limit


def left(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_b12_a_full_disk_names_the_file_and_leaves_nothing(tmp_path: Path, resnet: Path, samples: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 1, 8, 8), np.float32))
    model, mapping = resnet / "resnet.onnx", ("--mapping", resnet / "mapping.json")
    check = ("check", resnet / "golden", resnet / "npu", *mapping, "-b", tmp_path / "b", "--update")
    assert acccmp(*check).returncode == 0
    before = left(tmp_path)
    for limit, told, command in (
        (0.01, "report.csv", ("compare", resnet / "golden", resnet / "npu", *mapping, "-o", tmp_path / "o")),
        (0.001, "/b: cannot be written", check),
        (0.001, "j.xml", (*check, "--junit", tmp_path / "j.xml")),
        (0.001, "npu", ("emulate", model, "-o", tmp_path / "o")),
        (0.001, "dump.onnx", ("slice", model, *PORT_OF_RESNET, "-d", resnet / "npu", *mapping, "-o", tmp_path / "o")),
        (0.0001, "g.dot", ("inspect", model, "--graph", tmp_path / "g.dot")),
    ):
        line = line_of(acccmp(*command, first=files_of(limit)))
        assert told in line, command
        assert "File too large" in line
        assert left(tmp_path) == before, command
        assert not (tmp_path / "o").exists()
    said = acccmp("run", model, "--input", f"image={tmp_path / 'x.npy'}", "-o", tmp_path / "o", first=files_of(0.001))
    assert "cannot be written: File too large" in line_of(said)
    assert not list(tmp_path.rglob("*.part"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 8 KiB, where this process may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(disk)]
    can = os.geteuid() == 0 and shutil.which("mount") is not None
    if not can or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_b12_a_real_disk_that_is_full_names_the_file_and_holds_nothing(
    small_disk: Path, resnet: Path, samples: Path,
) -> None:
    pair, mapping = (resnet / "golden", resnet / "npu"), ("--mapping", resnet / "mapping.json")
    for command, file in (
        (("compare", *pair, *mapping, "-o", small_disk / "o"), "o/report."),
        (("check", *pair, *mapping, "-b", small_disk / "b", "--update"), "/b: "),
        (("slice", resnet / "resnet.onnx", *PORT_OF_RESNET, "-o", small_disk / "o"), "dump.onnx"),
        (("emulate", resnet / "resnet.onnx", "-o", small_disk / "o"), "o/npu/"),
        (("convert", samples / "digits_cnn" / "cnn.pb", "--to", "pb", "-o", small_disk / "o"), "o/cnn.pb"),
    ):
        line = line_of(acccmp(*command))
        assert line.startswith(f"acccmp: {small_disk}/"), command
        assert file in line
        assert line.endswith(": cannot be written: No space left on device"), command
        assert not list(small_disk.iterdir()), command


def saved_model(tf: Any, folder: Path) -> Path:
    """A SavedModel with a variable."""
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
        x = tf.compat.v1.placeholder(tf.float32, [1, 64], name="x")
        w = tf.compat.v1.get_variable("w", [64, 64])
        y = tf.matmul(x, w, name="y")
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.saved_model.simple_save(session, str(folder), {"x": x}, {"y": y})
    return folder


def test_b12_freezing_on_a_full_disk_names_the_file_and_leaves_nothing(tf: Any, tmp_path: Path) -> None:
    freeze = ("convert", saved_model(tf, tmp_path / "saved"), "--to", "pb", "-o", tmp_path / "out")
    said = acccmp(*freeze, first=files_of(0.005), seconds=300)
    assert "saved.pb: cannot be written: File too large" in line_of(said)
    assert not (tmp_path / "out").exists()


def test_b12_a_new_csv_never_stands_beside_an_old_json(tmp_path: Path, resnet: Path) -> None:
    def compare(npu: str, **more: Any) -> Run:
        return acccmp("compare", resnet / "golden", resnet / npu, "--mapping", resnet / "mapping.json", "-o",
                      tmp_path / "r", **more)

    assert compare("npu").returncode == 0
    before = left(tmp_path)
    sizes = sorted(len(raw) for raw in before.values())
    for size in sizes:  # the first, the second, ... file is one too many
        assert compare("npu_faulty", first=files_of((size - 100) / (1 << 20))).returncode == 2
        assert left(tmp_path) == before
    (tmp_path / "r" / "report.json").unlink()
    (tmp_path / "r" / "report.json").mkdir()
    kept = left(tmp_path)
    assert "report.json: cannot be written: a folder is there" in line_of(compare("npu_faulty"))
    assert left(tmp_path) == kept


def test_b12_what_a_killed_run_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path: Path, resnet: Path) -> None:
    out = tmp_path / "r"
    out.mkdir()
    dead, folder, living, foreign = (out / name for name in (
        f".acccmp-{'0' * 16}.part", f".acccmp-{'1' * 16}.part", f".acccmp-{'2' * 16}.part", ".other.part"))
    folder.mkdir()
    for path in (dead, folder / "x.npy", living, foreign):
        path.write_bytes(b"half")
    with open(living, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert acccmp("compare", resnet / "golden", resnet / "npu", "--mapping", resnet / "mapping.json", "-o",
                      out).returncode == 0
    names = {path.name for path in out.iterdir()}
    assert names == {living.name, foreign.name, "report.csv", "report.json", "report.md", "report.html"}


def test_b12_a_planted_link_is_replaced_not_followed(tmp_path: Path, resnet: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    out = tmp_path / "r"
    out.mkdir()
    for name in ("report.csv", "report.csv.part", "report.json", ".b.part", "b"):
        (out / name).symlink_to(victim)
    mapping = ("--mapping", resnet / "mapping.json")
    acccmp("compare", resnet / "golden", resnet / "npu", *mapping, "-o", out)
    (out / "b").unlink()
    (out / "b").symlink_to(tmp_path / "nowhere")
    acccmp("check", resnet / "golden", resnet / "npu", *mapping, "-b", out / "b", "--update")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()
    assert not (out / "report.csv").is_symlink()


def test_b12_a_device_is_no_place_for_a_file(tmp_path: Path, resnet: Path) -> None:
    check = ("check", resnet / "golden", resnet / "npu", "--mapping", resnet / "mapping.json", "-b", tmp_path / "b")
    assert "/dev/null: cannot be written" in line_of(acccmp(*check, "--update", "--junit", "/dev/null"))
    assert Path("/dev/null").is_char_device()
