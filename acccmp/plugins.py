"""Lazy tables: what can be plugged in, where it is, what to install for it. Nothing is imported before it is asked for.

A row is `name -> "module:attribute"`. Other packages add rows through entry points of the group `acccmp.<kind>`
(`[project.entry-points."acccmp.runners"]`); a row of ours wins over an entry point of the same name.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from acccmp.errors import InputError, MissingExtra

TABLES: dict[str, dict[str, str]] = {
    # what a model file is -> a function (path, weights=None) -> Graph
    "models": {
        "onnx": "acccmp.models.onnx:load",
        "caffe": "acccmp.models.caffe:load",
        "tensorflow": "acccmp.models.tensorflow:load",
        "om": "acccmp.models.om:load",
        "atc_json": "acccmp.models.atc_json:load",
        "build_pbtxt": "acccmp.models.build_pbtxt:load",
        "mindir": "acccmp.models.mindspore:load",
        "ckpt": "acccmp.models.mindspore:load_checkpoint",
        "cambricon": "acccmp.models.cambricon:load",
    },
    # format of a Graph -> a function (graph, folder, stem) -> files written
    "writers": {
        "onnx": "acccmp.models.onnx:save",
        "caffe": "acccmp.models.caffe:save",
        "tensorflow": "acccmp.models.tensorflow:save",
    },
    # name of a runner -> a function (graph, inputs, wanted) -> {Port: array}
    "runners": {
        "onnxruntime": "acccmp.runners.onnxruntime:run",
        "opencv": "acccmp.runners.opencv:run",
        "tensorflow": "acccmp.runners.tensorflow:run",
        "command": "acccmp.runners.command:run",
    },
    # methods of nouns that reach upward
    "methods": {
        "Graph.plot": "acccmp.reports.plots:plot_graph",
        "Report.plot": "acccmp.reports.plots:plot_report",
        "Report.plot_layer": "acccmp.reports.plots:plot_layer",
        "Report.plot_heatmap": "acccmp.reports.plots:plot_heatmap",
        "Report.to_frame": "acccmp.reports.report_csv:to_frame",
        "Report.save": "acccmp.reports.files:write_report",
        "Report.html": "acccmp.reports.html:report_html",
        "Slice.run": "acccmp.jobs.slice:run_slice",
        "Slice.save": "acccmp.jobs.slice:export_slice",
    },
    "notebook": {
        "Graph": "acccmp.ui.notebook:graph_html",
        "Dump": "acccmp.ui.notebook:dump_html",
        "Slice": "acccmp.ui.notebook:slice_html",
        "Report": "acccmp.ui.notebook:report_html",
        "TensorRef": "acccmp.ui.notebook:tensor_html",
    },
}

# extra of pyproject.toml that brings a package
EXTRAS = {
    "onnxruntime": "ort",
    "cv2": "caffe",
    "tensorflow": "tf",
    "matplotlib": "plot",
    "itables": "notebook",
    "anywidget": "notebook",
    "PIL": "plot",
    "dask": "distributed",
}


def names(kind: str) -> tuple[str, ...]:
    """All names known for `kind`, ours first."""
    found = dict.fromkeys(TABLES[kind])
    found.update(dict.fromkeys(point.name for point in entry_points(group=f"acccmp.{kind}")))
    return tuple(found)


def find(kind: str, name: str) -> Any:
    """The function that row `name` of table `kind` stands for; its module is imported now.

    Raises InputError for an unknown name.
    """
    row = TABLES[kind].get(name)
    if row is not None:
        module, _, attribute = row.partition(":")
        return getattr(importlib.import_module(module), attribute)
    for point in entry_points(group=f"acccmp.{kind}"):
        if point.name == name:
            return point.load()
    raise InputError(f"no {kind.rstrip('s')} named {name!r}; there are: {', '.join(names(kind))}")


def need(module: str, what_for: str) -> ModuleType:
    """Import an optional package, or raise MissingExtra with the pip line."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        package = module.partition(".")[0]
        raise MissingExtra(package, EXTRAS.get(package, package), what_for) from None
