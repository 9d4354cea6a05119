"""The pictures: what is drawn where. How they look is for a person: benchmarks/pictures.py writes them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.path import Path
from report_factory import HOSTILE, comparison, hostile_report, make_graph, make_report

from acccmp.core.graph import Graph
from acccmp.core.tensor import TensorRef
from acccmp.errors import InputError, MissingExtra, UnknownName
from acccmp.reports import plots, summary
from acccmp.reports.legend import LOOKS
from acccmp.reports.pair import Verdict
from acccmp.reports.report import Report


def texts(figure: Figure) -> list[str]:
    figure.canvas.draw()
    return [text.get_text() for text in figure.findobj(lambda item: hasattr(item, "get_text")) if text.get_text()]


def boxes_of(figure: Figure, ax: object, size: float = 8) -> list[object]:
    """What the names of jumps cover, in pixels."""
    figure.canvas.draw()
    named = [text for text in ax.texts if text.get_fontsize() == size and "axis" not in text.get_text()]
    return [text.get_window_extent() for text in named]


# -- error by depth ----------------------------------------------------------------------------------------------


def test_every_layer_is_drawn_at_its_error_in_the_colour_of_its_verdict() -> None:
    report = make_report(every_verdict=False)
    ax = report.plot().axes[0]
    drawn = {}
    for points in ax.collections:
        for place, height in points.get_offsets():
            drawn[int(place)] = (height, to_hex(points.get_facecolor()[0]).upper())
    rows = summary.by_depth(report)
    assert len(drawn) == len(rows) == 20
    for place, row in enumerate(rows):
        assert drawn[place] == (pytest.approx(row.error), LOOKS[row.verdict].colour)
    assert ax.get_yscale() == "log"
    assert "||npu - golden||" in ax.get_ylabel()


def test_the_limit_of_each_layer_is_drawn() -> None:
    report = make_report(every_verdict=False)
    rows = tuple(replace(row, limit=0.001 * (1 + row.order)) for row in report.comparisons)
    ax = replace(report, comparisons=rows).plot().axes[0]
    limits = next(line for line in ax.lines if line.get_label() == "limit")
    assert limits.get_ydata()[::2] == pytest.approx([0.001 * (1 + i) for i in range(20)])


def test_layers_without_a_number_stand_above_the_axis_and_zero_on_its_edge() -> None:
    rows = [comparison(f"c{i}", i) for i in range(30)]
    rows[4] = replace(rows[4], error=0.0)
    rows[7] = replace(rows[7], verdict=Verdict.SHAPE, error=float("nan"))
    figure = Report(tuple(rows)).plot()
    ax = figure.axes[0]
    figure.canvas.draw()
    low, high = ax.bbox.y0, ax.bbox.y1
    at = {}
    for points in ax.collections:
        for x, y in points.get_offset_transform().transform(points.get_offsets()):
            at[round(ax.transData.inverted().transform((x, y))[0])] = y
    assert at[4] == pytest.approx(low, abs=1)
    assert at[7] > high
    assert len(at) == 30


@pytest.mark.parametrize("layers", [1, 20, 60, 400, 2000])
def test_names_of_jumps_never_cover_each_other_and_stay_inside(layers: int) -> None:
    figure = make_report(layers, fault=layers // 3).plot()
    ax = figure.axes[0]
    labels = boxes_of(figure, ax)
    assert labels
    for i, one in enumerate(labels):
        assert one.x0 >= 0
        assert one.x1 <= figure.bbox.width + 1
        for other in labels[i + 1:]:
            assert not one.overlaps(other)


def test_the_first_divergence_is_named_first_then_later_jumps() -> None:
    rows = [comparison(f"c{i}", i) for i in range(100)]
    for place, error in ((20, 0.02), (21, 0.02), (60, 0.5), (61, 0.5), (90, 0.03)):
        rows[place] = replace(rows[place], verdict=Verdict.DRIFT, error=error)
    report = Report(tuple(rows))
    assert summary.jumps(rows) == [20, 60, 90]
    shown = texts(report.plot())
    assert {"first: c20", "c60", "c90"} <= set(shown)
    assert not {"c21", "c61"} & set(shown)
    assert not {"c60", "c90"} & set(texts(report.plot(labels=0)))


def test_a_healthy_report_names_no_jump() -> None:
    assert summary.jumps(summary.by_depth(make_report(fault=None, every_verdict=False))) == []


@pytest.mark.parametrize("metric", ["error_over_limit", "error_over_floor", "CosineSimilarity", "SNR(dB)", "NanNpu"])
def test_any_metric_can_be_drawn(metric: str) -> None:
    ax = make_report().plot(metric).axes[0]
    assert ax.get_ylabel()
    if metric == "CosineSimilarity":
        assert ax.get_ylabel() == "1 - CosineSimilarity"
        assert ax.get_yscale() == "log"


def test_an_unknown_metric_is_named_with_close_ones() -> None:
    with pytest.raises(UnknownName, match="CosineSimilarity"):
        make_report().plot("CosinSimilarity")


def test_a_report_without_any_row_gives_an_empty_picture() -> None:
    assert "NOTHING WAS COMPARED" in " ".join(texts(Report(()).plot()))


def test_pictures_go_into_given_axes() -> None:
    figure = Figure(figsize=(12, 9))
    axes = figure.subplots(2, 2)
    report = make_report(30)
    assert report.plot(ax=axes[0][0]) is figure
    assert report.plot_layer("stage1/block2/conv9", ax=axes[0][1]) is figure
    assert report.plot_heatmap("stage1/block2/conv9", ax=axes[1][0]) is figure
    assert make_graph(30).plot(report=report, ax=axes[1][1]) is figure
    figure.canvas.draw()
    assert all(ax.get_title(loc="left") for row in axes for ax in row)


def test_drawing_never_imports_pyplot(tmp_path: object) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import report_factory as f\n"
        "from acccmp.reports import plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "r = f.make_report()\n"
        "for figure in (r.plot(), r.plot_layer('stage1/block2/conv9'),\n"
        "               r.plot_heatmap('stage1/block2/conv9'), f.make_graph().plot(report=r)):\n"
        "    figure.savefig(sys.argv[2])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(__file__).rsplit("/", 1)[0], f"{tmp_path}/a.png"], check=True)


def test_a_figure_shows_itself_in_a_notebook_as_png() -> None:
    assert make_report(5).plot()._repr_png_().startswith(b"\x89PNG")


def test_without_matplotlib_the_pip_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"pip install 'acccmp\[plot\]'"):
        make_report().plot()


# -- one layer ---------------------------------------------------------------------------------------------------


def pair(golden: np.ndarray, npu: np.ndarray, layout: str = "NCHW", **more: object) -> Report:
    refs = {"golden": TensorRef.of(golden, layout), "npu": TensorRef.of(npu, layout)}
    return Report((comparison("layer", 0, Verdict.DRIFT, **{**refs, **more}),))


def test_a_layer_lists_its_worst_positions_with_both_values() -> None:
    rng = np.random.default_rng(1)
    golden = rng.standard_normal((2, 3, 40, 50)).astype(np.float32)
    npu = golden.copy()
    npu[1, 2, 33, 7] += 4
    npu[0, 0, 5, 49] -= 3
    figure = pair(golden, npu).plot_layer("layer")
    table = next(text for text in texts(figure) if text.startswith("position")).splitlines()
    assert table[1].split()[0] == "[1,2,33,7]"
    assert table[2].split()[0] == "[0,0,5,49]"
    assert float(table[1].split()[3]) == pytest.approx(4, rel=1e-2)
    assert float(table[1].split()[1]) == pytest.approx(golden[1, 2, 33, 7], rel=1e-3)


def test_errors_are_counted_in_bins_of_powers_of_two_over_all_elements() -> None:
    golden = np.zeros((1, 4, 8, 8), np.float32)
    npu = golden.copy()
    npu[0, 0, 0, :3] = 0.75  # three in [2^-1, 2^0)
    npu[0, 1, 0, :5] = 4.0  # five at 2^2
    figure = pair(golden, npu).plot_layer("layer")
    bins = next(ax for ax in figure.findobj(type(figure.axes[0])) if "powers of two" in ax.get_title(loc="left"))
    assert "248 exactly equal" in bins.get_title(loc="left")
    values, edges, _ = bins.patches[0].get_data()
    assert dict(zip(edges[:-1].tolist(), values.tolist(), strict=True)) == {-1: 3, 0: 0, 1: 0, 2: 5}


def test_the_error_of_each_channel_is_its_root_mean_square() -> None:
    rng = np.random.default_rng(2)
    golden = rng.standard_normal((2, 5, 6, 7)).astype(np.float32)
    npu = golden + np.arange(5, dtype=np.float32)[None, :, None, None] * 0.1
    figure = pair(golden, npu).plot_layer("layer")
    panel = next(ax for ax in figure.findobj(type(figure.axes[0])) if ax.get_title(loc="left") == "by channel")
    heights = [bar.get_height() for bar in panel.patches]
    assert heights == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=1e-6)


def test_channels_are_found_in_the_last_axis_of_nhwc() -> None:
    golden = np.ones((1, 6, 7, 3), np.float32)
    panel = pair(golden, golden * 2, "NHWC").plot_layer("layer")
    assert "channel (axis 3)" in texts(panel)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 4), (2, 3, 4), (1, 1, 1, 1), (1, 2, 3, 4, 5), (0, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.bool_, np.complex64])
def test_tensors_of_any_rank_and_kind_can_be_drawn(shape: tuple[int, ...], dtype: type) -> None:
    rng = np.random.default_rng(3)
    golden = (rng.standard_normal(shape) * 3).astype(dtype)
    npu = (rng.standard_normal(shape) * 3).astype(dtype)
    report = pair(np.asarray(golden), np.asarray(npu), "ND")
    report.plot_layer("layer").canvas.draw()
    report.plot_heatmap("layer").canvas.draw()


def test_shapes_that_differ_by_dimensions_of_one_are_drawn() -> None:
    golden = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    report = pair(golden, golden.reshape(3, 4, 1, 1) + 1, "ND")
    assert any("12 elements" in text for text in texts(report.plot_layer("layer")))


def test_positions_that_are_not_finite_are_left_out_and_counted() -> None:
    golden = np.ones((1, 2, 4, 4), np.float32)
    npu = golden.copy()
    npu[0, 0, 0, :2] = np.nan
    golden[0, 1, 0, 0] = np.inf
    assert any("3 positions are not finite" in text for text in texts(pair(golden, npu).plot_layer("layer")))


def test_a_large_tensor_is_drawn_as_hexagons_of_a_sample() -> None:
    golden = np.random.default_rng(4).standard_normal((1, 64, 128, 128)).astype(np.float32)
    figure = pair(golden, golden * 1.01).plot_layer("layer")
    points = next(ax for ax in figure.findobj(type(figure.axes[0])) if "npu against" in ax.get_title(loc="left"))
    assert type(points.collections[0]).__name__ == "PolyCollection"
    assert "1048576 elements" in " ".join(texts(figure))


def test_a_layer_is_found_by_port_op_original_or_golden_port() -> None:
    row = comparison("fused_op", 0, originals=("conv", "bn", "relu"))
    report = Report((row,))
    for name in ("fused_op", "fused_op:output:0", "relu", "conv"):
        assert "fused_op" in " ".join(texts(report.plot_layer(name)))
    with pytest.raises(UnknownName, match="fused_op"):
        report.plot_layer("fused_opp")


def test_what_cannot_be_drawn_says_why() -> None:
    report = make_report()
    reasons = {"unreadable": "no npu tensor", "no_golden": "no golden tensor", "shape": r"\(1, 8, 6, 5\)"}
    for name, reason in reasons.items():
        with pytest.raises(InputError, match=reason):
            report.plot_layer(f"extra/{name}")
        with pytest.raises(InputError, match=reason):
            report.plot_heatmap(f"extra/{name}")


def test_a_report_read_back_says_that_its_arrays_are_gone() -> None:
    from acccmp.reports import report_json

    with pytest.raises(InputError, match="compare again"):
        report_json.from_json(report_json.to_json(make_report())).plot_layer("stage1/block2/conv9")


# -- heat map ----------------------------------------------------------------------------------------------------


def test_a_heat_map_is_the_largest_error_over_the_other_axes() -> None:
    rng = np.random.default_rng(5)
    golden = rng.standard_normal((2, 3, 9, 11)).astype(np.float32)
    npu = golden + rng.standard_normal(golden.shape).astype(np.float32)
    image = pair(golden, npu).plot_heatmap("layer").axes[0].images[0].get_array()
    assert np.asarray(image) == pytest.approx(np.abs(npu.astype(float) - golden).max(axis=(0, 1)))


def test_a_heat_map_of_a_large_matrix_keeps_every_largest_error() -> None:
    golden = np.zeros((1500, 2300), np.float32)
    npu = golden.copy()
    npu[1499, 2299], npu[700, 3] = 5, 3
    image = np.asarray(pair(golden, npu, "ND").plot_heatmap("layer").axes[0].images[0].get_array())
    assert image.shape == (750, 767)
    assert (image[749, 766], image[350, 1]) == (5, 3)


def test_an_nhwc_tensor_is_drawn_by_height_and_width() -> None:
    golden = np.zeros((1, 4, 6, 3), np.float32)
    npu = golden.copy()
    npu[0, 3, 1, 2] = 2
    figure = pair(golden, npu, "NHWC").plot_heatmap("layer")
    assert np.asarray(figure.axes[0].images[0].get_array())[3, 1] == 2
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("W (element)", "H (element)")


def test_places_that_are_not_finite_are_marked() -> None:
    figure = make_report().plot_heatmap("extra/nonfinite")
    overlay = np.asarray(figure.axes[0].images[1].get_array())
    assert overlay[..., 3].astype(bool).sum() == 6
    assert "vermilion: not finite" in " ".join(texts(figure))


# -- the graph ---------------------------------------------------------------------------------------------------


def test_the_graph_shows_names_types_shapes_and_verdicts() -> None:
    graph, report = make_graph(20), make_report(20, every_verdict=False)
    shown = texts(graph.plot(report=report))
    for node in graph.nodes:
        assert f"{node.name}\n{node.op_type}" in shown
    assert shown.count("batch×8×6×6") == 20  # 19 edges of the chain and 2 skips, less one whose shape is unknown
    assert shown.count("?") == 1
    assert {"match", "drift"} <= set(shown)


def test_a_large_graph_is_drawn_around_the_first_bad_layer() -> None:
    shown = " ".join(texts(make_graph(400).plot(report=make_report(400, every_verdict=False))))
    assert "within 3 steps of stage0/block2/conv9" in shown
    assert "conv12" in shown
    assert "conv17" not in shown


def test_around_takes_a_tensor_name_and_a_radius() -> None:
    graph = make_graph(50)
    shown = " ".join(texts(graph.plot(around="t20", radius=1)))
    assert "conv19" in shown
    assert "conv21" in shown
    assert "conv18" not in shown
    with pytest.raises(UnknownName):
        graph.plot(around="t2000")


def test_four_hundred_layers_are_all_drawn_as_dots() -> None:
    graph, report = make_graph(400), make_report(400, fault=None, every_verdict=False)
    ax = graph.plot(report=report).axes[0]
    spots = np.concatenate([points.get_offsets() for points in ax.collections])
    assert len(np.unique(spots, axis=0)) == 400


def test_a_fused_group_colours_every_original_inside() -> None:
    graph = make_graph(4)
    names = [node.name for node in graph.nodes]
    row = comparison("device_op", 0, Verdict.DRIFT, 0.5, originals=tuple(names[:3]), golden_port=None)
    shown = texts(graph.plot(report=Report((row,))))
    assert "drift" in shown
    from acccmp.reports.graph_plot import _verdicts

    assert _verdicts(graph, Report((row,))) == dict.fromkeys(names[:3], Verdict.DRIFT)


def test_an_empty_graph_gives_a_picture_that_says_so() -> None:
    assert "no nodes" in texts(Graph("none", "onnx", ()).plot())


# -- hostile names -----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.filterwarnings("ignore:Matplotlib currently does not support")
def test_hostile_names_are_drawn_as_they_are() -> None:
    report = hostile_report()
    shown = texts(report.plot(labels=30))
    assert any("<script>" in text for text in shown)
    for name in (*HOSTILE, "$\\frac{1}{2}$", "$x", "a_b^c"):
        row = comparison(name, 0, Verdict.DRIFT, 0.5, op_type=name)
        graph = Graph(name, "onnx", (replace(make_graph(1).nodes[0], name=name),), ("image",), ("t0",))
        Report((row,)).plot().canvas.draw()
        Report((row,)).plot_layer(f"{name}:output:0").canvas.draw()
        plots.plot_heatmap(Report((row,)), name).canvas.draw()
        graph.plot(report=Report((row,))).canvas.draw()


def test_constants_are_left_out_and_counted() -> None:
    graph = make_graph(3)
    weight = replace(graph.nodes[0], name="weight", op_type="Const", inputs=(), outputs=("w",))
    fed = replace(graph.nodes[0], inputs=("image", "w"))
    shown = " ".join(texts(replace(graph, nodes=(weight, fed, *graph.nodes[1:])).plot()))
    assert "3 of 4 nodes, without 1 constants" in shown
    assert "Const" not in shown


def test_an_edge_that_skips_layers_keeps_clear_of_the_boxes_between() -> None:
    figure = make_graph(8).plot()
    ax = figure.axes[0]
    figure.canvas.draw()
    arrows = [patch for patch in ax.patches if hasattr(patch, "get_arrowstyle")]
    skip = max(arrows, key=lambda arrow: arrow.get_path().get_extents().height)
    boxed = [text for text in ax.texts if "conv4" in text.get_text() or "conv5" in text.get_text()]
    inner = [text.get_window_extent() for text in boxed]
    way = Path(skip.get_path().to_polygons(closed_only=False)[0]).interpolated(40)
    spots = ax.transData.transform(way.vertices)
    assert len(inner) == 2
    assert not [spot for spot in spots for box in inner if box.contains(*spot)]
