"""The three notebooks read like articles, run from a clean kernel, and their outputs survive being made into HTML."""

from __future__ import annotations

import re
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import ROOT, with_path
from nbclient import NotebookClient
from nbconvert import HTMLExporter

import acccmp

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
WIDEST = 100  # characters: wider code is cut off on a printed page


@pytest.fixture(scope="module")
def executed() -> dict[str, Any]:
    """Each notebook run once, from a clean kernel, beside the committed file (which is not touched)."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", with_path()["PYTHONPATH"])
        for path in NOTEBOOKS:
            notebook = nbformat.read(path, 4)
            resources = {"metadata": {"path": str(path.parent)}}
            began = time.monotonic()
            NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
            print(f"{path.name}: {time.monotonic() - began:.1f} s")
            made[path.stem[0]] = notebook
    return made


def texts(notebook: Any) -> str:
    """All text that the cells printed or returned. A busy machine tears what one cell printed into several outputs:
    those of one stream that follow each other are one."""
    told: list[tuple[str, str]] = []
    for cell in notebook.cells:
        for place, out in enumerate(cell.get("outputs", ())):
            stream, text = out.get("name", ""), str(out.get("text") or out.get("data", {}).get("text/plain", ""))
            if place and stream and told[-1][0] == stream:
                told[-1] = (stream, told[-1][1] + text)
            else:
                told.append((stream, text))
    return "\n".join(text for _, text in told)


def test_torn_streams_are_put_together_again() -> None:
    torn = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=[
        nbformat.v4.new_output("stream", text=text) for text in ("passed - 220 po", "rts unchanged", "\n")
    ])])
    assert texts(torn) == "passed - 220 ports unchanged\n"


def test_there_are_three() -> None:
    assert [path.stem[0] for path in NOTEBOOKS] == ["1", "2", "3"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_without_outputs_and_says_that_the_device_is_emulated(path: Path) -> None:
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs"), "clear the outputs before committing"
        assert cell.get("execution_count") is None
        if cell.cell_type == "code":
            assert max(map(len, cell.source.splitlines())) <= WIDEST
    words = " ".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "emulated device" in words
    assert "no NPU was involved" in words.lower().replace("npu", "NPU")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_uses_public_names_only(path: Path) -> None:
    code = "\n".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code")
    assert not re.search(r"\b(from|import) acccmp\.|from acccmp import", code), "everything is in `import acccmp`"
    assert set(re.findall(r"\bacccmp\.(\w+)", code)) <= set(acccmp.__all__)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_reads_like_an_article(path: Path) -> None:
    cells = nbformat.read(path, 4).cells
    assert cells[0].source.startswith("# ")
    words = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert len(re.findall("^## ", words, re.MULTILINE)) >= 4
    bare = sum(a.cell_type == b.cell_type == "code" for a, b in pairwise(cells))
    assert bare <= 2, "code wants a sentence before it"


def test_the_notebooks_run_without_a_warning(executed: dict[str, Any]) -> None:
    for number, notebook in executed.items():
        loud = [out.text for cell in notebook.cells for out in cell.get("outputs", ()) if out.get("name") == "stderr"]
        assert not loud, f"notebook {number}: {loud}"


def test_the_first_finds_the_planted_layer(executed: dict[str, Any]) -> None:
    assert re.search(r"planted: op=block2/conv2,.*\nfound: +block2/conv2block2/bn2", texts(executed["1"]))


def test_the_second_tells_the_blocks_own_error_from_the_inherited_one(executed: dict[str, Any]) -> None:
    said = texts(executed["2"])
    rows = {name: (float(own), float(total)) for name, own, total in re.findall(r"(block\d) +(\S+) +(\S+)\n", said)}
    assert rows["block1"][0] < 1e-3
    assert rows["block2"][0] > 0.1
    assert rows["block3"][0] < 1e-3 < 0.1 < rows["block3"][1], "the third block inherits, and adds nothing"
    assert "self-test: passed - distance to the full model: 0.0" in said
    assert "first bad layer: block2/conv2block2/bn2" in said
    assert "\npassed - the worst tensor" in said


def test_the_third_sees_a_drift_below_the_limits(executed: dict[str, Any]) -> None:
    said = texts(executed["3"])
    assert re.search(r"^passed - 220 ports unchanged", said, re.MULTILINE), "the healthy release"
    assert len(re.findall(r"^\w+ +passed, worst tensor", said, re.MULTILINE)) == 4
    assert "\nnot passed\nblock2/conv2block2/bn2:output:0 (" in said
    assert "['2026.05', '2026.06']" in said, "where the history jumped"


@pytest.mark.parametrize(("number", "pictures"), [("1", 3), ("2", 2), ("3", 1)])
def test_the_outputs_survive_as_static_html(executed: dict[str, Any], number: str, pictures: int) -> None:
    html, _ = HTMLExporter(template_name="classic").from_notebook_node(executed[number])
    drawn = [out.data["image/png"] for cell in executed[number].cells for out in cell.get("outputs", ())
             if "image/png" in out.get("data", {})]
    assert len(drawn) == pictures
    assert all("".join(png.split())[:200] in html for png in drawn)
    shown = "".join(
        out.get("data", {}).get("text/html", "") for cell in executed[number].cells for out in cell.get("outputs", ())
    )
    assert "<script" not in shown.lower(), "nothing that a viewer has to run"
    if number == "1":
        assert "First bad layer" in shown
        assert "Graph resnet" in shown
