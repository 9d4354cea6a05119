"""The pages of docs/ and beside it say what is so: their examples run, their keys are the program's, their links lead
somewhere, and real outputs fit the schemas."""

from __future__ import annotations

import doctest
import json
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from conftest import ROOT
from referencing import Registry, Resource

from acccmp import Thresholds
from acccmp.cli import main
from acccmp.comparison.judging import FIXED

DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]
RESNET = ROOT / "sample_dumps" / "digits_resnet"
PAIR = [str(RESNET / "golden"), str(RESNET / "npu"), "--mapping", str(RESNET / "mapping.json")]

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Say:
    """Runs a command in an empty folder: its exit code and both streams."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    return run


# -- pages -------------------------------------------------------------------------------------------------------


def test_the_examples_of_the_concepts_give_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    ran = doctest.testfile(str(DOCS / "concepts.md"), module_relative=False)
    assert ran.failed == 0
    assert ran.attempted >= 12


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    headings = {
        path: {re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
               for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")}
        for path in PAGES
    }
    text = re.sub(r"```.*?```|`[^`\n]+`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)]+)\)", text):
        file, _, heading = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not heading or heading in headings[target], link


def test_what_contributing_names_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:acccmp|tests|benchmarks|docs)/[\w/.]+|\.ci/\w+|\.[\w-]+\.yaml)`", text):
        assert (ROOT / path).exists(), path
    for table, path in re.findall(r"`([A-Z_]+)` in `([\w/.]+)`", text):
        assert re.search(rf"^{table}\b", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), table
    commits = re.findall(r"`([0-9a-f]{7})` \|", text)
    assert len(commits) == 7
    if subprocess.run(["git", "-C", ROOT, "rev-parse", "--is-shallow-repository"], capture_output=True, text=True,
                      check=False).stdout.strip() != "false":
        pytest.skip("not in a clone with its history")
    for commit in commits:
        subprocess.run(["git", "-C", ROOT, "cat-file", "-e", f"{commit}^{{commit}}"], check=True)


def test_the_hooks_before_a_commit_are_those_of_make_lint_and_need_no_network() -> None:
    yaml = pytest.importorskip("yaml")
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in repos] == ["local"]
    hooks = repos[0]["hooks"]
    assert {hook["language"] for hook in hooks} == {"system"}
    lint = re.search(r"^lint:.*\n((?:\t.+\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert lint is not None
    lines = [line.strip().replace("$(BIN)", ".venv/bin").removesuffix(" .") for line in lint.group(1).splitlines()]
    assert [hook["entry"] for hook in hooks] == lines


# -- thresholds --------------------------------------------------------------------------------------------------


def judged_by(say: Say, text: str) -> str:
    """What `compare` complains of with these thresholds; "" when it takes them."""
    Path("t.toml").write_text(text)
    code, _, err = say("compare", *PAIR, "--thresholds", "t.toml", "--report-level", "line")
    assert (code == 2) == bool(err)
    return err


def test_the_keys_of_the_thresholds_page_are_those_of_the_program(say: Say) -> None:
    page = (DOCS / "thresholds.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert judged_by(say, example) == ""
    rows = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    known = judged_by(say, "nothing = 1").partition("there are: ")[2].strip().split(", ")
    assert {row.strip("[]") for row in rows} >= set(known)
    known = judged_by(say, "[[rule]]\nnothing = 1").partition("there are: ")[2].strip().split(", ")
    metrics = set(known) - set(rows)
    assert set(known) - metrics == {"op_type", "name", "dtype"}
    taken = {name for name in metrics if not judged_by(say, f'[[rule]]\n"{name}" = 0.5')}
    assert set(re.findall(r"`([^`]+)`", page.partition("Metrics that can be judged:")[2])) == taken
    told, default = tomllib.loads(example), Thresholds.default()  # where the page states defaults
    assert told["floor_factor"] == default.floor_factor == 4
    assert {dtype: FIXED[dtype] for dtype in told["fixed"]} == told["fixed"]


# -- schemas -----------------------------------------------------------------------------------------------------

REPORT = json.loads((ROOT / "acccmp" / "reports" / "report.schema.json").read_text())


def validator(name: str) -> Any:
    schema = json.loads((DOCS / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    registry = Registry().with_resource("acccmp.report/1", Resource.from_contents(REPORT))
    return jsonschema.Draft202012Validator(schema, registry=registry)


def test_every_schema_that_the_package_writes_is_on_the_page() -> None:
    written = {
        name for path in (ROOT / "acccmp").rglob("*.py")
        for name in re.findall(r'"(acccmp\.\w+/\d+)"', path.read_text(encoding="utf-8"))
    }
    page = (DOCS / "json.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(acccmp\.\w+/\d+)` \|.*\]\(([^)]+)\) \|$", page, re.MULTILINE))
    assert rows.keys() == written
    for name, link in rows.items():
        assert json.loads((DOCS / link).read_text(encoding="utf-8"))["$id"] == name
    assert {(DOCS / link).name for link in rows.values()} >= {path.name for path in (DOCS / "schemas").iterdir()}


def test_what_the_commands_print_and_write_fits_the_schemas(say: Say) -> None:
    model = RESNET / "resnet.onnx"
    faulty = [str(model), str(RESNET / "npu_faulty"), "--mapping", str(RESNET / "mapping.json")]
    cut = ["slice", model, "-s", "block1/conv1", "-e", "block1/relu1", *faulty[2:]]
    two = [word for name in ("a", "b") for word in ("--case", f"{name}={RESNET / 'golden'},{RESNET / 'npu'}")]
    for schema, arguments in (
        ("check", ["check", *faulty, "-b", "b", "--update", "--json"]),
        ("check", ["check", faulty[0], RESNET / "npu", *faulty[2:], "-b", "b", "--json"]),
        ("check", ["check", *two, *PAIR[2:], "-b", "two", "--update", "--json"]),
        ("check", ["check", *two, *PAIR[2:], "-b", "two", "--json"]),
        ("inspect", ["inspect", model, "--json"]),
        ("inspect", ["inspect", model, "--nodes", "--json"]),
        ("inspect", ["inspect", RESNET / "npu", "--json"]),
        ("inspect", ["inspect", RESNET / "npu", "--nodes", "--json"]),
        ("inspect", ["inspect", RESNET / "mapping.json", "--nodes", "--json"]),
        ("slice", [*cut, "-o", "s", "--json"]),
        ("slice", [*cut, "-d", RESNET / "npu", "-o", "d", "--zip", "--json"]),
        ("slice", [*cut, "-d", RESNET / "npu_faulty", "-o", "n", "--no-check", "--json"]),
        ("inspect", ["inspect", "d", "--json"]),
        ("compared_slice", ["compare", "d", RESNET / "npu", *faulty[2:], "--json"]),
        ("compared_slice", ["compare", "n", RESNET / "npu", *faulty[2:], "--json"]),
    ):
        code, out, err = say(*arguments)
        assert code in (0, 1, 3) or schema == "compared_slice", err
        validator(schema).validate(json.loads(out))
    for file in Path().glob("[sdn]/dump_result_*/manifest.json"):
        validator("slice").validate(json.loads(file.read_text()))
    for name in ("b", "two"):
        for line in Path(name).read_text().splitlines():
            validator("baseline").validate(json.loads(line))
    assert say("compare", *PAIR, "-o", "r")[0] == 0
    for release in ("1", "2"):
        assert say("history", "add", "h", "r/report.json", "--release", release)[0] == 0
    for more in ([], ["fc:output:0"]):
        validator("history").validate(json.loads(say("history", "show", "h", *more, "--json")[1]))
    for schema, folder, command in (
        ("golden", "g", ["run", model, "-i", f"image={RESNET / 'inputs' / 'image.npy'}"]),
        ("converted", "c", ["convert", RESNET / "npu"]),
    ):
        assert say(*command, "-o", folder)[0] == 0
        told = json.loads(next(Path(folder).glob("*.json")).read_text())
        validator(schema).validate(told)
        with pytest.raises(jsonschema.ValidationError):
            validator(schema).validate({**told, "schema": f"acccmp.{schema}/0"})


@pytest.mark.parametrize(("schema", "broken"), [
    ("check", {"passed": "yes"}), ("check", {"exit_code": 2}), ("check", {"changes": [{"port": "a:output:0"}]}),
    ("check", {"more": 1}),
])
def test_a_schema_refuses_what_the_command_does_not_print(say: Say, schema: str, broken: dict[str, Any]) -> None:
    told = json.loads(say("check", *PAIR, "--no-floor", "-b", "b", "--update", "--json")[1])
    validator(schema).validate(told)
    with pytest.raises(jsonschema.ValidationError):
        validator(schema).validate({**told, **broken})
