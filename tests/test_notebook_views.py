"""What the nouns show in Jupyter: whole HTML that says what matters, reads no file and survives nbconvert."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import nbformat
import numpy as np
import pytest
from nbconvert import HTMLExporter
from report_factory import HOSTILE, comparison, hostile_report, make_graph, make_report, ref_on_disk
from test_html import KNOWN_TAGS, Page

from acccmp.core.dump import Broken, Dump, Port
from acccmp.core.graph import Graph
from acccmp.core.tensor import TensorRef
from acccmp.reports.pair import Verdict
from acccmp.reports.report import Report
from acccmp.ui.notebook import MOST_ROWS, dump_html, graph_html, report_html, slice_html, tensor_html


@dataclass(frozen=True)
class Part:
    """The shape of a Slice that its view needs."""

    graph: Graph
    inputs: Dump
    expected: Dump | None
    start: tuple[str, ...]
    end: tuple[str, ...]


def make_dump(count: int = 3, name: str = "conv{}", **more: Any) -> Dump:
    return Dump({Port(name.format(i), "output", 0): ref_on_disk() for i in range(count)}, **more)


def make_slice() -> Part:
    graph = make_graph(8)
    part = graph.keep([node.name for node in graph.nodes[2:5]])
    return Part(part, Dump({Port(graph.nodes[1].name, "output", 0): ref_on_disk()}), None, ("conv2",), ("conv4",))


VIEWS = {
    "graph": lambda: graph_html(make_graph()), "dump": lambda: dump_html(make_dump()),
    "slice": lambda: slice_html(make_slice()), "report": lambda: report_html(make_report()),
    "tensor": lambda: tensor_html(ref_on_disk()),
}


@pytest.mark.parametrize("view", VIEWS)
def test_each_view_is_whole_static_html(view: str) -> None:
    page = Page(VIEWS[view]())
    assert set(page.tags) <= KNOWN_TAGS
    assert not [name for _, name, _ in page.attributes if name.startswith("on") or name in ("src", "href", "id")]


@pytest.mark.parametrize("view", VIEWS)
def test_each_view_survives_nbconvert(view: str) -> None:
    source = VIEWS[view]()
    output = nbformat.v4.new_output("display_data", data={"text/html": source, "text/plain": "plain"})
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("noun", outputs=[output])])
    nbformat.validate(notebook)
    page, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    before, after = Page(source), Page(page)
    assert [cell for cell in after.cells if cell in before.cells] == before.cells
    assert all(after.tags[tag] >= count for tag, count in before.tags.items())
    assert ".acccmp" in page  # the style came along


def test_the_nouns_show_these_views_by_themselves() -> None:
    for noun in (make_graph(), make_dump(), make_report(), ref_on_disk()):
        assert noun._repr_html_().startswith('<div class="acccmp">')


def test_a_graph_shows_its_ends_with_shapes_and_unknown_ones_as_unknown() -> None:
    graph = make_graph(20)
    page = Page(graph_html(graph))
    start = page.cells.index("input")
    assert page.cells[start : start + 4] == ["input", "image", "float32", "batch×3×32×32"]
    assert "20, 22 edges" in page.cells
    assert "18 Conv, 2 Add" in page.cells
    assert "unknown" in page.cells  # the shape of t3
    for node in graph.nodes:
        assert node.name in page.cells


def test_long_tables_are_folded_and_cut() -> None:
    for source in (graph_html(make_graph(5000)), dump_html(make_dump(5000))):
        page = Page(source)
        assert f"(5000, the first {MOST_ROWS} are here)" in page.text
        assert len(source) < 120_000
        assert not [value for tag, name, value in page.attributes if (tag, name) == ("details", "open")]


def test_a_dump_shows_unreadable_files_openly() -> None:
    dump = make_dump(broken=(Broken("conv9", "Conv2D.conv9.1.2", "needs 48 bytes at offset 0, found 24"),))
    page = Page(dump_html(dump))
    assert "needs 48 bytes at offset 0, found 24" in page.cells
    assert ("details", "open", None) in page.attributes


def test_a_dump_shows_how_much_there_is_without_reading_it() -> None:
    page = Page(dump_html(make_dump(3, path=None, model="resnet")))
    assert "3 of 3 ops, 6.75 KiB" in page.cells  # 3 x 1152 float16
    assert "3 float16" in page.cells
    assert "3 NC1HWC0" in page.cells
    assert "1×20×6×6" in page.cells


def test_a_slice_says_what_feeds_it_and_what_it_should_give() -> None:
    part = make_slice()
    page = Page(slice_html(part))
    assert "conv2" in page.cells
    assert "1 dumped tensors" in page.cells
    assert "unknown: there are no golden outputs" in page.cells
    golden = replace(part, expected=make_dump(2))
    assert "2 golden tensors" in Page(slice_html(golden)).cells
    alone = replace(part, inputs=Dump({}))
    assert "nothing: no dump was given" in Page(slice_html(alone)).cells


def test_a_real_slice_shows_itself() -> None:
    from acccmp.slicing.cut import cut

    graph = make_graph(8)
    part = cut(graph, graph.nodes[2].name, graph.nodes[4].name)
    page = Page(part._repr_html_())
    assert graph.nodes[2].name in page.cells
    assert graph.nodes[5].name not in page.cells


def test_a_tensor_in_a_file_is_never_read_and_one_in_memory_shows_its_range() -> None:
    assert ".numpy() reads it" in tensor_html(ref_on_disk())  # its file does not exist
    page = Page(tensor_html(TensorRef.of(np.array([1, np.nan, 3, -5], np.float32))))
    assert "-5 .. 3, mean -0.3333, 1 not finite" in page.cells
    assert "in memory" in page.cells
    for odd in (np.zeros((0, 3), np.float32), np.full(3, np.nan), np.array(True), np.ones(2, np.complex64)):
        Page(tensor_html(TensorRef.of(odd)))


def test_a_report_is_collapsed_to_what_matters() -> None:
    report = make_report(400)
    source = report_html(report)
    page = Page(source)
    assert "NOT PASSED" in page.text
    assert "it may be inherited" in page.text
    ports = [cell for cell in page.cells if re.search(r":(input|output):\d$", cell)]
    assert len(ports) == 10
    assert len(source) < 200_000


def test_an_empty_noun_shows_itself_too() -> None:
    for source in (graph_html(Graph("", "onnx", ())), dump_html(Dump({})), report_html(Report(()))):
        Page(source)


def test_hostile_names_stay_text_in_every_view() -> None:
    nodes = tuple(replace(make_graph(1).nodes[0], name=name, op_type=name, outputs=(name,)) for name in HOSTILE)
    graph = Graph(HOSTILE[0], "onnx", nodes, (HOSTILE[0],), (HOSTILE[1],), notes=HOSTILE, meta={HOSTILE[0]: HOSTILE[0]})
    dump = Dump({Port(name, "output", 0): ref_on_disk() for name in HOSTILE}, notes=HOSTILE, model=HOSTILE[0],
                broken=tuple(Broken(name, name, name) for name in HOSTILE))
    part = Part(graph, dump, dump, HOSTILE, HOSTILE)
    odd = replace(ref_on_disk(), path=HOSTILE[0], layout=HOSTILE[0])
    row = comparison(HOSTILE[0], 0, Verdict.DRIFT)
    for source in (
        graph_html(graph), dump_html(dump), slice_html(part), report_html(hostile_report()), tensor_html(odd),
        report_html(Report((row,))),
    ):
        page = Page(source)
        assert set(page.tags) <= KNOWN_TAGS
        assert "<script>alert(1)</script>" in page.text
        assert "\u202e" not in source
        assert "\x1b" not in source
