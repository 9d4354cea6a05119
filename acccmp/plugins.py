"""Lazy names: where a function is, what to install for it, and what other packages add. Nothing is imported before it
is asked for.

A row is `name -> "module:attribute"`. `Rows` is a table of nouns that other packages add to through entry points:
kinds, metrics, layouts. What a row of theirs must be is said where the table is.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Generic, Protocol, TypeVar

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


class Named(Protocol):
    """What a row of a table must have."""

    @property
    def name(self) -> str: ...


Row = TypeVar("Row", bound=Named)


class Rows(Generic[Row]):
    """Rows by name: ours, those of other packages (each entry point of `acccmp.<group>` names one), and what was added
    here. Entry points are loaded when a row is first asked for. InputError for one that cannot be loaded, is no such
    row, or has a name that is taken."""

    def __init__(self, group: str, sort: type[Row], own: Iterable[Row]) -> None:
        self._group, self._sort = group, sort
        self.own: Mapping[str, Row] = {row.name: row for row in own}
        self._added: dict[str, Row] = {}

    @cached_property
    def others(self) -> Mapping[str, Row]:
        """The rows of other packages."""
        found: dict[str, Row] = {}
        for point in points(self._group):
            row = self._checked(loaded(point), f"the entry point {told(point)}", found)
            found[row.name] = row
        return found

    @cached_property
    def all(self) -> Mapping[str, Row]:
        """Every row: ours, then theirs."""
        return {**self.own, **self.others, **self._added}

    def add(self, row: Row) -> None:
        """One more row for this process; one of the same name that was added so before gives way."""
        self._added[row.name] = self._checked(row, "what is added", self.others)
        self.__dict__.pop("all", None)

    def _checked(self, row: Any, what: str, others: Mapping[str, Row]) -> Row:
        if not isinstance(row, self._sort):
            found = f"{self._sort.__module__}.{self._sort.__name__}, but {type(row).__name__}"
            raise InputError(f"{what} is no {found}")
        for owner, rows in (("acccmp", self.own), ("another package", others)):
            if row.name in rows:
                raise InputError(f"{what} has the name of a {self._group.removesuffix('s')} of {owner}, {row.name!r}; "
                                 "give it another name")
        return row


def need(module: str, what_for: str) -> ModuleType:
    """Import an optional package, or raise MissingExtra with the pip line."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        package = module.partition(".")[0]
        raise MissingExtra(package, EXTRAS.get(package, package), what_for) from None
