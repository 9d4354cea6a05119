"""acccmp: find the layer where a network that was moved to an NPU stops agreeing with its original.

    import acccmp

    report = acccmp.compare("model.onnx", "npu_dump/", mapping="model.json")
    report.first_bad            # where error first crosses its limit
    report.plot()
    part = report.slice("conv3", "relu5")
    part.save("dump_result/")

A model, a dump, a mapping, a report is given as a path or as the noun that `load`, `read_dump`, ... made of it.

Everything below is bound when it is first used: `import acccmp` opens no file and imports no framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from acccmp.version import VERSION as __version__

_WHERE = {
    # what the command line does, too
    "check": "acccmp.jobs.check",
    "compare": "acccmp.jobs.compare",
    "compare_slice": "acccmp.jobs.compare_slice",
    "compare_weights": "acccmp.comparison.weights",
    "convert": "acccmp.jobs.convert",
    "draw": "acccmp.jobs.inspect",
    "emulate": "acccmp.emulator.emulate",
    "fits": "acccmp.jobs.inspect",
    "golden_run": "acccmp.runners.run",
    "history": "acccmp.releases.history",
    "inspect": "acccmp.jobs.inspect",
    "run": "acccmp.runners.run",
    "slice_model": "acccmp.jobs.slice",
    # reading and drawing
    "load": "acccmp.models.load",
    "plot_series": "acccmp.reports.series_plot",
    "random_inputs": "acccmp.inputs.files",
    "read_dump": "acccmp.dumps.read",
    "read_inputs": "acccmp.inputs.files",
    "read_report": "acccmp.reports.report_json",
    # nouns
    "Check": "acccmp.releases.drift",
    "Comparison": "acccmp.reports.report",
    "DeviceMap": "acccmp.mapping.device_map",
    "Dump": "acccmp.core.dump",
    "Fault": "acccmp.emulator.faults",
    "Graph": "acccmp.core.graph",
    "Node": "acccmp.core.graph",
    "Port": "acccmp.core.dump",
    "Report": "acccmp.reports.report",
    "Rows": "acccmp.reports.report",
    "Slice": "acccmp.slicing.cut",
    "TensorRef": "acccmp.core.tensor",
    "TensorSpec": "acccmp.core.graph",
    "Thresholds": "acccmp.comparison.judging",
    "Verdict": "acccmp.reports.pair",
    # tables that take rows of yours
    "Layout": "acccmp.core.layout",
    "Metric": "acccmp.core.metrics",
    "add_layout": "acccmp.core.layout",
    "add_metric": "acccmp.core.metrics",
    # errors
    "AcccmpError": "acccmp.errors",
    "FormatError": "acccmp.errors",
    "InputError": "acccmp.errors",
    "LayoutError": "acccmp.errors",
    "MappingError": "acccmp.errors",
    "MissingExtra": "acccmp.errors",
    "RunError": "acccmp.errors",
    "SliceError": "acccmp.errors",
    "UnknownName": "acccmp.errors",
}
_MODULES = ("history",)  # names that stand for a module of functions

__all__ = [
    "AcccmpError", "Check", "Comparison", "DeviceMap", "Dump", "Fault", "FormatError", "Graph", "InputError", "Layout",
    "LayoutError", "MappingError", "Metric", "MissingExtra", "Node", "Port", "Report", "Rows", "RunError", "Slice",
    "SliceError", "TensorRef", "TensorSpec", "Thresholds", "UnknownName", "Verdict", "__version__",
    "add_layout", "add_metric", "check", "compare", "compare_slice", "compare_weights", "convert", "draw", "emulate",
    "fits", "golden_run", "history", "inspect", "load", "plot_series", "random_inputs", "read_dump", "read_inputs",
    "read_report", "run",
    "slice_model",
]

if TYPE_CHECKING:
    from acccmp.comparison.judging import Thresholds
    from acccmp.comparison.weights import compare_weights
    from acccmp.core.dump import Dump, Port
    from acccmp.core.graph import Graph, Node, TensorSpec
    from acccmp.core.layout import Layout, add_layout
    from acccmp.core.metrics import Metric, add_metric
    from acccmp.core.tensor import TensorRef
    from acccmp.dumps.read import read_dump
    from acccmp.emulator.emulate import emulate
    from acccmp.emulator.faults import Fault
    from acccmp.errors import (
        AcccmpError,
        FormatError,
        InputError,
        LayoutError,
        MappingError,
        MissingExtra,
        RunError,
        SliceError,
        UnknownName,
    )
    from acccmp.inputs.files import random_inputs, read_inputs
    from acccmp.jobs.check import check
    from acccmp.jobs.compare import compare
    from acccmp.jobs.compare_slice import compare_slice
    from acccmp.jobs.convert import convert
    from acccmp.jobs.inspect import draw, fits, inspect
    from acccmp.jobs.slice import slice_model
    from acccmp.mapping.device_map import DeviceMap
    from acccmp.models.load import load
    from acccmp.releases import history
    from acccmp.releases.drift import Check
    from acccmp.reports.pair import Verdict
    from acccmp.reports.report import Comparison, Report, Rows
    from acccmp.reports.report_json import read_report
    from acccmp.reports.series_plot import plot_series
    from acccmp.runners.run import golden_run, run
    from acccmp.slicing.cut import Slice


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'acccmp' has no attribute {name!r}")
    module = importlib.import_module(_WHERE[name])
    return module if name in _MODULES else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
