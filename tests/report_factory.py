"""Reports made by hand, with arrays behind every pair, for the tests of the views and for pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from acccmp.core.dump import Port
from acccmp.core.graph import Graph, Node, TensorSpec
from acccmp.core.tensor import DTYPES, TensorRef
from acccmp.reports.pair import Pair, Verdict
from acccmp.reports.report import Comparison, Report

HOSTILE = (
    "<script>alert(1)</script>",
    "=cmd()",
    "+1+1|' /C calc'!A0",
    "@SUM(1+1)",
    "-2+3",
    "\t=1+1",
    "\r=1+1",
    "a;=HYPERLINK(1)",
    'say "hi" & \'bye\'',
    "pipe|pipe||pipe",
    "two\nlines\r\nor three",
    "n" * 10_000,
    "evil\u202egnp.exe\u2066",
    "[red]not red[/red]",
    "\x1b[31mred\x1b[0m\x07\x9b2J",
    "100%12 and %s {0}",
    "back`tick``s`",
    "*bold* _it_ ~~gone~~ # @team #12 https://example.org www.example.org",
    "nul\x00 and \ud800 and \ufffe",
    "]]> <!-- --> ]]&gt; &lt;b&gt;",
    "![img](https://example.org/x.png) [a](javascript:alert(1))",
    "back\\slash\\",
    "' onmouseover='alert(1)",
    "日本語 שלום",
)


@dataclass(frozen=True)
class Change:
    """What became of a port since the baseline, as `acccmp.reports.ci` asks for it."""

    port: str
    case: str = ""
    reason: str = ""


def comparison(
    name: str, order: int, verdict: Verdict = Verdict.MATCH, error: float = 1e-3, **more: object,
) -> Comparison:
    """A row with small arrays behind it whose relative distance is about `error`."""
    rng = np.random.default_rng(order)
    golden = rng.standard_normal((1, 8, 6, 6)).astype(np.float32)
    npu = (golden * (1 + min(error, 1e3) * rng.standard_normal(golden.shape))).astype(np.float16)
    metrics = {
        "CosineSimilarity": 1 - error**2 / 2, "MaxAbsoluteError": 3 * error, "AccumulatedRelativeError": 288 * error,
        "RelativeEuclideanDistance": error, "KullbackLeiblerDivergence": error / 10,
        "MeanNpu": -0.0004, "StdNpu": 1.0221,
        "MeanGolden": -0.0289, "StdGolden": 1.0222, "MeanAbsoluteError": error * 0.7, "RootMeanSquareError": error,
        "MaxRelativeError": 5 * error, "MeanRelativeError": error, "NanNpu": 0.0, "NanGolden": 0.0, "InfNpu": 0.0,
        "InfGolden": 0.0, "Fp16Overflow": 0.0, "SNR(dB)": -20 * math.log10(error), "MismatchRatio": min(1.0, error),
    }
    values = {
        "op_type": "Conv2D", "originals": (name,), "npu_ops": (name,), "order": order, "group": order,
        "golden_port": Port(name, "output", 0),
        "golden": TensorRef.of(golden, "NCHW"), "npu": TensorRef.of(npu, "NCHW"),
        "error": error, "limit": 5e-3, "floor": 1.25e-3, "max_error_index": (0, 3, 2, 1), "metrics": metrics,
        "address": 20615843020800 + 4096 * order,
        "reason": "" if verdict is Verdict.MATCH else f"distance {error:.3g} is over the limit 0.005",
        **more,
    }
    return changed(Comparison(Pair(Port(name, "output", 0)), verdict), **values)


def changed(row: Comparison, **values: object) -> Comparison:
    """The row with other values, of its own or of its pair."""
    of_pair = {key: value for key, value in values.items() if key in Pair.__dataclass_fields__ and key not in _OWN}
    own = {key: value for key, value in values.items() if key not in of_pair}
    return replace(row, pair=replace(row.pair, **of_pair), **own)


_OWN = ("verdict", "reason", "notes")  # fields that a pair has as well
_NO_NUMBERS = {"error": math.nan, "limit": math.nan, "floor": math.nan, "metrics": {}, "max_error_index": None}


def make_report(layers: int = 20, fault: int | None = 9, every_verdict: bool = True, seed: int = 0) -> Report:
    """A network of `layers` layers: errors as storage gives them, a jump at layer `fault` that fades behind it, an
    input row for each op, and (with `every_verdict`) at least one row of each verdict. The last layer is the output."""
    rng = np.random.default_rng(seed)
    rows: list[Comparison] = []
    for i in range(layers):
        error = float(10 ** (-3.1 + 0.4 * i / layers + 0.12 * rng.standard_normal()))
        verdict = Verdict.MATCH
        if fault is not None and i >= fault:
            error = float(max(error, 0.8 * 0.55 ** (i - fault)))
            if i == layers - 1 or (i - fault) % 97 == 60:
                error = 0.04
            verdict = Verdict.DRIFT if error > 5e-3 else Verdict.MATCH
        name = f"stage{i * 4 // layers}/block{i % 7}/conv{i}"
        row = comparison(name, i, verdict, error, is_output=i == layers - 1)
        before = rows[-1] if rows else comparison("image", 0, error=1e-4)
        rows += [changed(before, port=Port(name, "input", 0), order=i, group=i, npu_ops=(name,), is_output=False), row]
    report = Report(
        tuple(rows),
        {"golden": "model.onnx", "npu": "npu_faulty", "mapping": "model.json", "model": f"net (onnx, {layers} nodes)",
         "thresholds": "default", "acccmp": "0.1.0"},
        ("the NPU dump is of an emulated device", "the model was fed with the device's own dumped inputs"),
    )
    return with_every_verdict(report) if every_verdict else report


def with_every_verdict(report: Report) -> Report:
    """The report with a row more for each verdict that it lacks, spread over its depth."""
    rows = list(report.comparisons)
    last = max(row.order for row in rows)
    missing = [v for v in Verdict if v not in report.counts]
    for place, verdict in enumerate(missing):
        order = (place + 1) * last // (len(missing) + 1)
        name = f"extra/{verdict}"
        row = comparison(name, order, verdict, 0.02, reason=f"made to be {verdict}")
        if verdict in (Verdict.UNREADABLE, Verdict.NO_NPU, Verdict.FUSED):
            row = changed(row, npu=None, **_NO_NUMBERS)
        elif verdict in (Verdict.NO_GOLDEN, Verdict.INSERTED):
            row = changed(row, golden=None, golden_port=None, originals=(), **_NO_NUMBERS)
        elif verdict is Verdict.SHAPE:
            row = changed(row, npu=TensorRef.of(np.zeros((1, 8, 6, 5), np.float16), "NCHW"), **_NO_NUMBERS)
        elif verdict is Verdict.DTYPE:
            row = changed(row, npu=TensorRef.of(np.zeros((1, 8, 6, 6), bool), "NCHW"), **_NO_NUMBERS)
        elif verdict is Verdict.NONFINITE:
            bad = row.npu.numpy().copy()
            bad[0, 2, 1:3, 1:4] = np.nan
            row = changed(row, npu=TensorRef.of(bad, "NCHW"), metrics={**row.metrics, "NanNpu": 6.0})
        elif verdict is Verdict.OVERFLOW:
            wild = {"InfNpu": 3.0, "RelativeEuclideanDistance": math.inf, "SNR(dB)": math.nan}
            row = changed(row, error=math.inf, metrics={**row.metrics, **wild})
        rows.append(row)
    rows.sort(key=lambda row: row.order)
    return replace(report, comparisons=tuple(rows))


def hostile_report() -> Report:
    """A report in which every name, reason, note and subject is hostile; each name drifts once and matches once."""
    rows = []
    for place, name in enumerate(HOSTILE):
        verdict, error = (Verdict.DRIFT, 0.02) if place % 2 == 0 else (Verdict.MATCH, 1e-3)
        rows.append(comparison(name, place, verdict, error, reason=f"because of {name}", op_type=name, notes=(name,)))
    rows.append(comparison("out", len(HOSTILE), Verdict.DRIFT, 0.03, is_output=True))
    subject = {"golden": HOSTILE[0], "npu": HOSTILE[14], "mapping": HOSTILE[12]}
    return Report(tuple(rows), subject, HOSTILE, extra_failures=HOSTILE)


def ref_on_disk() -> TensorRef:
    """A ref that names a file, with every field set (the file does not exist; nothing reads it)."""
    return TensorRef(
        "dump/Conv2D.conv.1.16", DTYPES["float16"], (1, 2, 6, 6, 16), 312, 2304, "NC1HWC0", (1, 20, 6, 6), "NCHW", 2,
    )


def make_graph(layers: int = 20) -> Graph:
    """The original that `make_report(layers)` is about: a chain with a branch around every seventh layer."""
    nodes, tensors = [], {"image": TensorSpec("image", DTYPES["float32"], ("batch", 3, 32, 32), "NCHW")}
    names = [f"stage{i * 4 // layers}/block{i % 7}/conv{i}" for i in range(layers)]
    for i, name in enumerate(names):
        inputs = [f"t{i - 1}" if i else "image"]
        if i % 7 == 6:
            inputs.append(f"t{i - 4}")
        nodes.append(Node(name, "Add" if len(inputs) == 2 else "Conv", tuple(inputs), (f"t{i}",)))
        tensors[f"t{i}"] = TensorSpec(f"t{i}", DTYPES["float32"], None if i == 3 else ("batch", 8, 6, 6), "NCHW")
    return Graph("net", "onnx", tuple(nodes), ("image",), (f"t{layers - 1}",), tensors)
