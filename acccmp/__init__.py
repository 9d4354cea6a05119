"""acccmp: find the layer where a network that was moved to an NPU stops agreeing with its original.

    import acccmp

    report = acccmp.compare("model.onnx", "npu_dump/", mapping="model.json")
    report.first_bad            # where error first crosses its limit
    report.plot()
    part = acccmp.slice_model("model.onnx", start="conv3", end="relu5", dump="npu_dump/", mapping="model.json")
    part.save("dump_result/")

Everything below is bound when it is first used: `import acccmp` opens no file and imports no framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from acccmp.version import VERSION as __version__

_WHERE = {
    "load": "acccmp.models.load",
    "read_dump": "acccmp.dumps.read",
    "run": "acccmp.runners.run",
    "golden_run": "acccmp.runners.run",
    "read_inputs": "acccmp.inputs.files",
    "emulate": "acccmp.emulator.emulate",
    "compare": "acccmp.jobs.compare",
    "slice_model": "acccmp.jobs.slice",
    "DeviceMap": "acccmp.mapping.device_map",
    "Graph": "acccmp.core.graph",
    "Node": "acccmp.core.graph",
    "TensorSpec": "acccmp.core.graph",
    "TensorRef": "acccmp.core.tensor",
    "Dump": "acccmp.core.dump",
    "Port": "acccmp.core.dump",
    "Slice": "acccmp.slicing.cut",
    "Report": "acccmp.reports.report",
    "Comparison": "acccmp.reports.report",
    "Verdict": "acccmp.reports.pair",
    "Thresholds": "acccmp.comparison.judging",
    "Layout": "acccmp.core.layout",
    "Metric": "acccmp.core.metrics",
    "add_layout": "acccmp.core.layout",
    "add_metric": "acccmp.core.metrics",
    "AcccmpError": "acccmp.errors",
}

__all__ = [
    "AcccmpError", "Comparison", "DeviceMap", "Dump", "Graph", "Layout", "Metric", "Node", "Port", "Report", "Slice",
    "TensorRef", "TensorSpec", "Thresholds", "Verdict", "__version__",
    "add_layout", "add_metric", "compare", "emulate", "golden_run", "load", "read_dump", "read_inputs", "run",
    "slice_model",
]

if TYPE_CHECKING:
    from acccmp.comparison.judging import Thresholds
    from acccmp.core.dump import Dump, Port
    from acccmp.core.graph import Graph, Node, TensorSpec
    from acccmp.core.layout import Layout, add_layout
    from acccmp.core.metrics import Metric, add_metric
    from acccmp.core.tensor import TensorRef
    from acccmp.dumps.read import read_dump
    from acccmp.emulator.emulate import emulate
    from acccmp.errors import AcccmpError
    from acccmp.inputs.files import read_inputs
    from acccmp.jobs.compare import compare
    from acccmp.jobs.slice import slice_model
    from acccmp.mapping.device_map import DeviceMap
    from acccmp.models.load import load
    from acccmp.reports.pair import Verdict
    from acccmp.reports.report import Comparison, Report
    from acccmp.runners.run import golden_run, run
    from acccmp.slicing.cut import Slice


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'acccmp' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
