"""`acccmp check` on the real command line: a baseline's life, drift, acceptance, files for pipelines, bad baselines."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import ROOT, with_path
from junitparser import JUnitXml
from report_factory import HOSTILE, hostile_report

from acccmp import cli
from acccmp.cli.check import PipelineFiles, show_check, write_pipeline_files
from acccmp.emulator.emulate import Fault, emulate
from acccmp.models.load import load
from acccmp.releases import baseline, drift


@dataclass(frozen=True)
class Ran:
    """What a command gave: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


@pytest.fixture
def acccmp(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command line in this process, as the console script does."""
    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return Ran(int(ended.value.code or 0), told.out, told.err)

    return run


@pytest.fixture(scope="module")
def dumps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dumps of an emulated device, a picture each: healthy ones, and a release with one noisy layer within limits."""
    folder = tmp_path_factory.mktemp("dumps")
    sample = ROOT / "sample_dumps" / "digits_resnet"
    pictures, graph = np.load(sample / "inputs" / "image.npy"), load(sample / "resnet.onnx")
    noisy = [Fault.parse("op=block2/conv2,kind=noise,factor=0.003")]
    for i in range(len(pictures)):
        for name, faults, summation in (("healthy", [], i), ("again", [], 10 + i), ("noisy", noisy, 20 + i)):
            emulate(
                graph, {"image": pictures[i : i + 1]}, folder / f"{name}{i}", faults=faults, summation=summation,
                name="npu",
            )
    shutil.copy(sample / "resnet.onnx", folder / "model.onnx")
    shutil.copy(folder / "healthy0" / "mapping.json", folder / "mapping.json")
    return folder


def one(dumps: Path, name: str = "healthy0") -> list[object]:
    return ["check", dumps / "model.onnx", dumps / name / "npu", "--mapping", dumps / "mapping.json"]


def cases(dumps: Path, name: str) -> list[object]:
    given: list[object] = ["check", "--mapping", dumps / "mapping.json"]
    for i in range(4):
        given += ["--case", f"picture{i}={dumps / 'model.onnx'},{dumps / f'{name}{i}' / 'npu'}"]
    return given


# -- a baseline's life -------------------------------------------------------------------------------------------


def test_without_a_baseline_it_says_how_to_make_one(acccmp: Any, dumps: Path, tmp_path: Path) -> None:
    ran = acccmp(*one(dumps), "--baseline", tmp_path / "b")
    assert ran.code == 2
    assert "no baseline there" in ran.err
    assert "--update" in ran.err
    assert ran.err.count("\n") == 1


def test_made_checked_and_checked_again(acccmp: Any, dumps: Path, tmp_path: Path) -> None:
    made = acccmp(*one(dumps), "--baseline", tmp_path / "b", "--update")
    assert made.code == 0
    assert "55 new" in made.out
    before = (tmp_path / "b").read_bytes()
    checked = acccmp(*one(dumps), "--baseline", tmp_path / "b")
    assert checked.code == 0
    assert "55 unchanged" in checked.out
    assert (tmp_path / "b").read_bytes() == before
    again = acccmp(*one(dumps), "--baseline", tmp_path / "b", "--update")
    assert "0 lines changed, 0 new, 0 gone" in again.out
    assert (tmp_path / "b").read_bytes() == before


def test_a_layer_within_its_limits_that_became_worse_fails_and_is_named_first(
    acccmp: Any, dumps: Path, tmp_path: Path,
) -> None:
    compared = acccmp("compare", *one(dumps, "noisy0")[1:], "--report-level", "line")
    assert compared.code == 0, "the limits alone say nothing"
    acccmp(*one(dumps), "--baseline", tmp_path / "b", "--update")
    ran = acccmp(*one(dumps, "noisy0"), "--baseline", tmp_path / "b")
    assert ran.code == 1
    first = next(line for line in ran.out.splitlines() if ":output:0" in line or ":input:0" in line)
    assert "block2/conv2block2/bn2:output:0: error 3." in first


def test_an_update_takes_the_drift_over_and_prints_it(acccmp: Any, dumps: Path, tmp_path: Path) -> None:
    acccmp(*one(dumps), "--baseline", tmp_path / "b", "--update")
    ran = acccmp(*one(dumps, "noisy0"), "--baseline", tmp_path / "b", "--update")
    assert ran.code == 0
    assert "block2/conv2block2/bn2:output:0" in ran.out
    assert "was rewritten" in ran.out
    assert acccmp(*one(dumps, "noisy0"), "--baseline", tmp_path / "b").code == 0
    back = acccmp(*one(dumps), "--baseline", tmp_path / "b")
    assert back.code == 0
    assert "improved" in back.out


def test_a_layer_beyond_its_limits_fails_even_when_updated_until_each_port_is_accepted(
    acccmp: Any, samples: Path, tmp_path: Path,
) -> None:
    sample = samples / "digits_resnet"
    faulty = ["check", sample / "resnet.onnx", sample / "npu_faulty", "--mapping", sample / "mapping.json"]
    b = tmp_path / "b"
    assert acccmp(*faulty, "--baseline", b, "--update").code == 1
    listed = json.loads(acccmp(*faulty, "--baseline", b, "--json").out)
    assert not listed["changes"]
    bad = [line.split(" is drift")[0] for line in listed["failures"]]
    assert len(bad) == 31
    some = acccmp(*faulty, "--baseline", b, "--accept", bad[0])
    assert some.code == 1, "thirty are left"
    options = [word for port in bad for word in ("--accept", port)]
    assert acccmp(*faulty, "--baseline", b, *options).code == 0
    assert b.read_text().count('"accepted": true') == 31
    after = acccmp(*faulty, "--baseline", b)
    assert after.code == 0
    assert "accepted although beyond their limits" in after.out


def test_accepting_one_port_takes_over_nothing_else(acccmp: Any, dumps: Path, tmp_path: Path) -> None:
    b = tmp_path / "b"
    acccmp(*one(dumps), "--baseline", b, "--update")
    before = b.read_text().splitlines()
    ran = acccmp(*one(dumps, "noisy0"), "--baseline", b, "--accept", "block2/conv2block2/bn2:output:0")
    assert ran.code == 1, "the layers behind it drifted, too"
    changed = [new for old, new in zip(before, b.read_text().splitlines(), strict=True) if old != new]
    assert [json.loads(line)["port"] for line in changed] == ["block2/conv2block2/bn2:output:0"]


def test_an_accepted_layer_that_gets_worse_fails_again(acccmp: Any, samples: Path, tmp_path: Path) -> None:
    sample, b = samples / "digits_resnet", tmp_path / "b"
    graph = load(sample / "resnet.onnx")
    feeds = {"image": np.load(sample / "inputs" / "image.npy")}
    for name, factor in (("bad", 0.9), ("worse", 0.5)):
        emulate(graph, feeds, tmp_path / name, faults=[Fault("prob", "scale", factor)])
    check = ["check", sample / "resnet.onnx", "{}", "--mapping", tmp_path / "bad" / "mapping.json", "--baseline", b]

    def on(name: str, *more: str) -> Ran:
        return acccmp(*[tmp_path / name / "npu" if word == "{}" else word for word in check], *more)

    ports = [line.split(" is drift")[0] for line in json.loads(on("bad", "--update", "--json").out)["failures"]]
    assert "prob:output:0" in ports
    accept = [word for port in ports for word in ("--accept", port)]
    assert on("bad", *accept).code == 0
    assert on("bad").code == 0
    worse = on("worse")
    assert worse.code == 1
    assert "prob:output:0" in worse.out
    assert on("worse", "--update").code == 1, "an update takes no worse error as accepted"
    assert on("worse").code == 1


def test_accepting_what_is_not_there_is_an_error(acccmp: Any, dumps: Path, tmp_path: Path) -> None:
    acccmp(*one(dumps), "--baseline", tmp_path / "b", "--update")
    ran = acccmp(*one(dumps), "--baseline", tmp_path / "b", "--accept", "conv9:output:0")
    assert ran.code == 2
    assert "--accept: no port, op or node named 'conv9:output:0' in the report; did you mean " in ran.err


# -- several cases -----------------------------------------------------------------------------------------------


def test_several_cases_are_compared_with_the_spread_of_all(acccmp: Any, dumps: Path, tmp_path: Path) -> None:
    made = acccmp(*cases(dumps, "healthy"), "--baseline", tmp_path / "b", "--update")
    assert made.code == 0
    assert "220 new" in made.out
    assert {case for _, case in baseline.read(tmp_path / "b").entries} == {f"picture{n}" for n in range(4)}
    assert acccmp(*cases(dumps, "again"), "--baseline", tmp_path / "b").code == 0
    ran = acccmp(*cases(dumps, "noisy"), "--baseline", tmp_path / "b", "--json")
    assert ran.code == 1
    told = json.loads(ran.out)
    widest = told["spread"][0]
    assert widest["largest"] >= widest["median"] >= widest["least"]
    assert {row["port"] for row in told["spread"]} == {port for port, _ in baseline.read(tmp_path / "b").entries}
    drifted = {(c["port"], c["case"]) for c in told["changes"] if c["kind"] == "drift"}
    assert {("block2/conv2block2/bn2:output:0", f"picture{i}") for i in range(4)} <= drifted
    assert not any(port.startswith(("stem", "block1", "block2/conv1")) for port, _ in drifted), "nothing before it"


def test_an_update_of_one_case_keeps_the_others(acccmp: Any, dumps: Path, tmp_path: Path) -> None:
    acccmp(*cases(dumps, "healthy"), "--baseline", tmp_path / "b", "--update")
    only: list[object] = ["--case", f"picture1={dumps / 'model.onnx'},{dumps / 'noisy1' / 'npu'}"]
    only += ["--mapping", dumps / "mapping.json", "--baseline", tmp_path / "b"]
    assert acccmp("check", *only, "--update").code == 0
    known = baseline.read(tmp_path / "b")
    stored = {case for _, case in known.entries}
    assert len(stored) == 4
    errors = {case: known.entries["block2/conv2block2/bn2:output:0", case].over_floor for case in stored}
    assert [case for case, error in errors.items() if error and error > 2] == ["picture1"]


@pytest.mark.parametrize(("given", "message"), [
    ([], "GOLDEN NPU, or --case"),
    (["golden"], "GOLDEN NPU, or --case"),
    (["g", "n", "--case", "a=g,n"], "GOLDEN NPU, or --case"),
    (["--case", "nonsense"], "NAME=GOLDEN,NPU"),
    (["--case", "a=g,n", "--case", "a=g,n"], "given twice"),
    (["g", "n", "--history", "h.db"], "--release"),
])
def test_nonsense_on_the_command_line_is_exit_code_2(acccmp: Any, given: list[str], message: str) -> None:
    ran = acccmp("check", *given, "--baseline", "b")
    assert ran.code == 2
    assert message in ran.err


# -- files -------------------------------------------------------------------------------------------------------


def test_pipeline_files_say_what_the_exit_code_says(acccmp: Any, dumps: Path, tmp_path: Path) -> None:
    acccmp(*cases(dumps, "healthy"), "--baseline", tmp_path / "b", "--update")
    files = ["--junit", tmp_path / "deep" / "j.xml", "--sarif", tmp_path / "s.sarif", "--markdown", tmp_path / "m.md",
             "-o", tmp_path / "out"]
    for name, code in (("again", 0), ("noisy", 1)):
        assert acccmp(*cases(dumps, name), "--baseline", tmp_path / "b", *files).code == code
        junit = JUnitXml.fromfile(str(tmp_path / "deep" / "j.xml"))
        assert [suite.name for suite in junit] == [f"picture{i}" for i in range(4)]
        failed = {test.name for suite in junit for test in suite if test.result}
        results = json.loads((tmp_path / "s.sarif").read_text())["runs"][0]["results"]
        summary = (tmp_path / "m.md").read_text()
        if code == 0:
            assert not any("Failure" in type(r).__name__ for s in junit for t in s for r in t.result)
            assert not [result for result in results if result["level"] == "error"]
            assert "## acccmp: PASSED" in summary
        else:
            assert "block2/conv2block2/bn2" in failed
            assert any("block2/conv2block2/bn2:output:0" in r["message"]["text"] for r in results)
            assert "NOT PASSED" in summary
            assert "`block2/conv2block2/bn2:output:0`" in summary
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"picture{i}" for i in range(4)]
    assert (tmp_path / "out" / "picture0" / "report.html").is_file()


def test_cases_whose_names_read_alike_do_not_overwrite_each_other(acccmp: Any, dumps: Path, tmp_path: Path) -> None:
    both: list[object] = []
    for name in ("a/b", "a_b", "A:b", "../x"):
        both += ["--case", f"{name}={dumps / 'model.onnx'},{dumps / 'healthy0' / 'npu'}"]
    out = tmp_path / "out"
    both += ["--mapping", dumps / "mapping.json"]
    ran = acccmp("check", *both, "--baseline", tmp_path / "b", "--update", "-o", out)
    assert ran.code == 0
    assert sorted(path.name for path in out.iterdir()) == ["A_b-3", "___x", "a_b", "a_b-2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "out"]


def test_json_is_json_and_has_a_schema(acccmp: Any, dumps: Path, tmp_path: Path) -> None:
    ran = acccmp(*one(dumps), "--baseline", tmp_path / "b", "--update", "--json")
    told = json.loads(ran.out, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    assert told["schema"] == "acccmp.check/1"
    assert told["passed"] is True
    assert "was written" in told["baseline"]


def test_a_check_can_be_kept_in_a_history(acccmp: Any, dumps: Path, tmp_path: Path) -> None:
    h = tmp_path / "h.db"
    for release in ("1", "2"):
        more = ["--history", h, "--release", release]
        acccmp(*one(dumps), "--baseline", tmp_path / "b", "--update", *more)
    told = json.loads(acccmp("history", "show", h, "--json").out)
    assert [run["release"] for run in told["runs"]] == ["1", "2"]


def test_a_file_that_cannot_be_written_leaves_the_baseline_alone(acccmp: Any, dumps: Path, tmp_path: Path) -> None:
    b = tmp_path / "b"
    acccmp(*one(dumps), "--baseline", b, "--update")
    before = b.read_bytes()
    (tmp_path / "file").write_text("")
    ran = acccmp(*one(dumps, "noisy0"), "--baseline", b, "--update", "--junit", tmp_path / "file" / "j.xml")
    assert ran.code == 2
    assert b.read_bytes() == before


# -- baselines that are none -------------------------------------------------------------------------------------

HEADER = '{"schema": "acccmp.baseline/1", "model": "resnet"}\n'


@pytest.mark.parametrize(("text", "message"), [
    ('{"schema": "acccmp.baseline/0", "model": "net"}\n', "older schema 0"),
    (HEADER + "<<<<<<< HEAD\n", "line 2 is no JSON object"),
    (HEADER + '{"port": "p", "case": "a", "verdict": "match", "error": "small"}\n', "error = 'small'"),
    (HEADER + '{"port": "p", "case": "a", "verdict": "fine"}\n', "verdict 'fine'"),
    ("", "line 1 is empty"),
])
def test_a_damaged_or_older_baseline_is_exit_code_2_and_the_named_command_makes_a_new_one(
    acccmp: Any, dumps: Path, tmp_path: Path, text: str, message: str,
) -> None:
    (tmp_path / "b").write_text(text)
    ran = acccmp(*one(dumps), "--baseline", tmp_path / "b")
    assert ran.code == 2
    assert message in ran.err
    assert ran.err.rstrip().endswith(f"--baseline {tmp_path / 'b'} --update")
    assert (tmp_path / "b").read_text() == text
    again = acccmp(*one(dumps), "--baseline", tmp_path / "b", "--update")
    assert again.code == 0
    assert "given up" in again.err
    assert acccmp(*one(dumps), "--baseline", tmp_path / "b").code == 0


@pytest.mark.parametrize("text", [
    "print('precious')\n", '{"schema": "acccmp.baseline/99"}\n', '{"a": 1}\n', "\x00\x01ELF",
])
def test_a_file_that_is_no_baseline_is_never_overwritten(
    acccmp: Any, dumps: Path, tmp_path: Path, text: str,
) -> None:
    (tmp_path / "b").write_text(text)
    for more in ((), ("--update",)):
        ran = acccmp(*one(dumps), "--baseline", tmp_path / "b", *more)
        assert ran.code == 2
        assert "delete it or give another name" in ran.err
    assert (tmp_path / "b").read_text() == text


def test_a_baseline_of_another_model_is_exit_code_2(acccmp: Any, dumps: Path, samples: Path, tmp_path: Path) -> None:
    other = samples / "digits_cnn"
    made = acccmp(
        "check", other / "golden", other / "npu", "--mapping", other / "mapping.json", "--baseline", tmp_path / "b",
        "--update",
    )
    assert made.code == 0
    for more in ((), ("--update",)):
        ran = acccmp(*one(dumps), "--baseline", tmp_path / "b", *more)
        assert ran.code == 2
        assert "--update in another file" in ran.err


def test_a_baseline_of_other_sizes_is_of_another_model(acccmp: Any, dumps: Path, samples: Path, tmp_path: Path) -> None:
    acccmp(*one(dumps), "--baseline", tmp_path / "b", "--update")  # one picture; the sample has four
    sample = samples / "digits_resnet"
    ran = acccmp(
        "check", sample / "resnet.onnx", sample / "npu", "--mapping", sample / "mapping.json", "--baseline",
        tmp_path / "b",
    )
    assert ran.code == 2
    assert "another size" in ran.err


def test_the_table_of_changes_folds_no_short_cell_at_80_columns(
    acccmp: Any, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    folder = samples / "digits_resnet"
    for npu, more in (("npu_faulty", ["--update"]), ("npu", [])):
        ran = acccmp("check", folder / "resnet.onnx", folder / npu, "--mapping", folder / "mapping.json", "--baseline",
                     tmp_path / "b", *more)
    lines = ran.out.partition("changes (31)")[2].splitlines()[1:]
    assert lines[0].split() == ["port", "change", "before", "now", "ratio", "moved"], "one case needs no column"
    assert max(map(len, lines[:-2])) <= 80
    (row,) = [line for line in lines if line.startswith("block2/add:output:0 ")]
    assert row.split()[1:3] == ["better", "verdict"]
    assert "... 7 more (--json lists them)" in lines


def test_check_shows_what_its_comparisons_noted(acccmp: Any, dumps: Path, tmp_path: Path) -> None:
    emulated = "the NPU dump is of an emulated device: nothing here was measured on an NPU"
    compared = acccmp("compare", *one(dumps)[1:]).out
    ran = acccmp(*one(dumps), "--baseline", tmp_path / "b", "--update")
    noted = [line for line in compared.splitlines() if line.startswith("note: ")]
    assert f"note: {emulated}" in noted
    assert [line for line in ran.out.splitlines() if line.startswith("note: ")] == noted
    told = json.loads(acccmp(*one(dumps), "--baseline", tmp_path / "b", "--json").out)["notes"]
    assert emulated in told
    given = ["check", "--case", f"model={dumps / 'model.onnx'},{dumps / 'healthy0' / 'npu'}",
             "--case", f"again={dumps / 'healthy0' / 'npu'},{dumps / 'again0' / 'npu'}",
             "--mapping", dumps / "mapping.json", "--baseline", tmp_path / "two", "--update"]
    noted = [line for line in acccmp(*given).out.splitlines() if line.startswith("note: ")]
    assert noted.count(f"note: {emulated}") == 1, "what all cases noted is told once"
    assert any(line.startswith(("note: model: ", "note: again: ")) for line in noted)


def test_hostile_names_come_back_and_steer_nothing(acccmp: Any, tmp_path: Path) -> None:
    """Operator names out of an untrusted model, through every output of a check."""
    report = hostile_report()
    known = baseline.Baseline("net", baseline.entries_of({"default": report}))
    worse = replace(report, comparisons=tuple(
        replace(row, error=row.error * 4) if row.is_judged else row for row in report.comparisons
    ))
    checked = drift.check({"default": worse}, known)
    write_pipeline_files(checked, PipelineFiles(*(str(tmp_path / name) for name in "jsmo")))
    assert {change.port.rpartition(":output")[0] for change in checked.drifts} >= set(HOSTILE)
    ElementTree.parse(tmp_path / "j")
    assert "<script>" not in (tmp_path / "m").read_text().replace("`<script>", "")
    show_check(checked, "b", "")


def test_hostile_names_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    report = hostile_report()
    checked = drift.check({"\x1b[31mcase": report}, None)
    show_check(checked, "\x1b[2Jb", "\x1b[2J was written")
    out = capsys.readouterr().out
    assert not any(ord(c) < 32 and c != "\n" for c in out)
    assert "\u202e" not in out


def test_as_a_program_of_its_own(dumps: Path, tmp_path: Path) -> None:
    """One run through a new process: console encoding, lazy imports, exit codes."""
    environment = {**with_path(), "PYTHONIOENCODING": "ascii:backslashreplace"}

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "acccmp", *map(str, arguments)], capture_output=True, text=True, cwd=tmp_path,
            env=environment, check=False,
        )

    assert run(*one(dumps), "--baseline", "b").returncode == 2
    assert run(*one(dumps), "--baseline", "b", "--update").returncode == 0
    assert run(*one(dumps, "noisy0"), "--baseline", "b").returncode == 1


# -- --report-level ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "sample", "lines"), [
    ("short", "npu", 1), ("line", "npu", 1), ("line", "npu_faulty", 1), ("short", "npu_faulty", None),
    ("full", "npu", None),
])
def test_a_log_is_one_line_when_all_is_well(
    acccmp: Any, samples: Path, tmp_path: Path, level: str, sample: str, lines: int | None,
) -> None:
    folder = samples / "digits_resnet"
    ran = acccmp(
        "compare", folder / "resnet.onnx", folder / sample, "--mapping", folder / "mapping.json", "--report-level",
        level, "-o", tmp_path / "out",
    )
    assert ran.code == (0 if sample == "npu" else 1)
    assert ran.err == ""
    if lines is None:
        assert ran.out.count("\n") > 10
    else:
        assert ran.out.count("\n") == lines
        assert ran.out.startswith("PASSED: 55 ports judged" if sample == "npu" else "NOT PASSED: 55 ports judged")
    assert (tmp_path / "out" / "report.json").is_file(), "the report is written all the same"


def test_short_tells_all_when_an_inner_layer_warns(acccmp: Any, samples: Path, tmp_path: Path) -> None:
    """The outputs match, but a layer on the way is beyond its limit: a short log must not hide that."""
    sample = samples / "digits_resnet"
    graph = load(sample / "resnet.onnx")
    feeds = {"image": np.load(sample / "inputs" / "image.npy")}
    # rounds of noise that the softmax of a sure answer swallows
    emulate(graph, feeds, tmp_path, faults=[Fault("pool1", "noise", 0.0025)])
    compare = ["compare", sample / "resnet.onnx", tmp_path / "npu", "--mapping", tmp_path / "mapping.json"]
    ran = acccmp(*compare, "--report-level", "short")
    assert "pool1" in ran.out
    assert ran.code == 0
    assert ran.out.count("\n") > 10


# -- too little --------------------------------------------------------------------------------------------------


def test_too_little_covered_is_exit_code_3_and_no_pass(acccmp: Any, dumps: Path, tmp_path: Path) -> None:
    shutil.copytree(dumps / "healthy0" / "npu", tmp_path / "npu")
    for file in (tmp_path / "npu").iterdir():
        if "block" in file.name:
            file.unlink()
    check = ["check", dumps / "model.onnx", tmp_path / "npu", "--mapping", dumps / "mapping.json"]
    made = acccmp(*check, "--baseline", tmp_path / "b", "--update", "--markdown", tmp_path / "m.md")
    assert made.code == 3
    assert "NOT PASSED" in made.out
    assert "too little was covered" in made.out
    assert "## acccmp: NOT PASSED" in (tmp_path / "m.md").read_text()
    assert acccmp(*check, "--baseline", tmp_path / "b", "--min-coverage", "0.1").code == 0


def test_layers_that_are_not_dumped_any_more_fail(acccmp: Any, dumps: Path, tmp_path: Path) -> None:
    acccmp(*one(dumps), "--baseline", tmp_path / "b", "--update")
    shutil.copytree(dumps / "healthy0" / "npu", tmp_path / "npu")
    next((tmp_path / "npu").glob("MaxPool.*")).unlink()
    check = ["check", dumps / "model.onnx", tmp_path / "npu", "--mapping", dumps / "mapping.json"]
    ran = acccmp(*check, "--baseline", tmp_path / "b")
    assert ran.code == 1
    assert "pool1:output:0: was compared before, is not any more" in ran.out


def test_nothing_compared_never_replaces_a_baseline(acccmp: Any, dumps: Path, tmp_path: Path) -> None:
    acccmp(*one(dumps), "--baseline", tmp_path / "b", "--update")
    before = (tmp_path / "b").read_bytes()
    (tmp_path / "empty").mkdir()
    check = ["check", dumps / "model.onnx", tmp_path / "empty", "--mapping", dumps / "mapping.json"]
    assert acccmp(*check, "--baseline", tmp_path / "b", "--update").code in (2, 3)
    assert (tmp_path / "b").read_bytes() == before
