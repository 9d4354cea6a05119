"""Lazy names: where a function is, what to install for it, and what other packages add. Nothing is imported before it
is asked for.

A row is `name -> "module:attribute"`. What other packages may add through entry points (`acccmp.kinds`,
`acccmp.runners`) is said where the tables are: `acccmp.kinds`.
"""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from acccmp.errors import InputError, MissingExtra

TABLES: dict[str, dict[str, str]] = {
    # methods of nouns that reach upward
    "methods": {
        "Graph.plot": "acccmp.reports.plots:plot_graph",
        "Report.plot": "acccmp.reports.plots:plot_report",
        "Report.plot_layer": "acccmp.reports.plots:plot_layer",
        "Report.plot_heatmap": "acccmp.reports.plots:plot_heatmap",
        "Report.to_frame": "acccmp.reports.report_csv:to_frame",
        "Report.to_csv": "acccmp.reports.report_csv:to_csv",
        "Report.to_json": "acccmp.reports.report_json:to_json",
        "Report.save": "acccmp.reports.files:write_report",
        "Report.slice": "acccmp.jobs.slice:slice_report",
        "Slice.run": "acccmp.jobs.slice:run_slice",
        "Slice.save": "acccmp.jobs.slice:export_slice",
    },
    "notebook": {
        "Graph": "acccmp.ui.notebook:graph_html",
        "Dump": "acccmp.ui.notebook:dump_html",
        "Slice": "acccmp.ui.notebook:slice_html",
        "Report": "acccmp.ui.notebook:report_html",
        "Rows": "acccmp.ui.notebook:rows_html",
        "TensorRef": "acccmp.ui.notebook:tensor_html",
    },
}

# extra of pyproject.toml that brings a package
EXTRAS = {
    "onnxruntime": "ort",
    "cv2": "caffe",
    "tensorflow": "tf",
    "matplotlib": "plot",
    "PIL": "images",
}


def find(kind: str, name: str) -> Any:
    """The function that row `name` of table `kind` stands for; its module is imported now."""
    return attribute(TABLES[kind][name])


def attribute(where: str) -> Any:
    """What "module:name" stands for; "module" is the module itself."""
    module, _, name = where.partition(":")
    found = importlib.import_module(module)
    return getattr(found, name) if name else found


def points(kind: str) -> tuple[EntryPoint, ...]:
    """What other packages add to `acccmp.<kind>`, by name."""
    return tuple(sorted(entry_points(group=f"acccmp.{kind}"), key=lambda point: (point.name, point.value)))


def told(point: EntryPoint) -> str:
    """An entry point in words: `toy = toy.files:TOY (of toy-files)`."""
    return f"{point.name} = {point.value}" + (f" (of {point.dist.name})" if point.dist is not None else "")


def loaded(point: EntryPoint) -> Any:
    """What an entry point names. InputError, with the package to mend, where that cannot be imported."""
    try:
        return point.load()
    except Exception as error:  # code of others: anything can be wrong with it
        what = f"{type(error).__name__}: {error}"
        raise InputError(f"the entry point {told(point)} cannot be loaded: {what}; mend or uninstall it") from error


def need(module: str, what_for: str) -> ModuleType:
    """Import an optional package, or raise MissingExtra with the pip line."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        package = module.partition(".")[0]
        raise MissingExtra(package, EXTRAS.get(package, package), what_for) from None
