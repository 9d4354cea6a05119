"""Self-check: cases are made again, decoded by a reader of its own and held against onnx's own arithmetic.

Healthy ops are computed once more in float64 by onnx's reference evaluator (pools, Resize and ConvTranspose by
onnxruntime in float32, for speed) from the dumped inputs, with the names taken from device.json alone.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import cases
import numpy as np
import onnx
import onnxruntime as ort
import reader
from cases import Case, Played
from onnx.reference import ReferenceEvaluator

# Relative Euclidean distance that a healthy op of each habit may be away from float64: about twice the worst seen.
ALLOWED = {"half": 2e-3, "quick": 2e-3, "brain": 1.5e-2, "tensor32": 1e-3}
BY_RUNTIME = {"Resize", "MaxPool", "AveragePool", "ConvTranspose"}


class Problem(Exception):
    """What a check found wrong."""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def decoded(folder: Path) -> dict[str, reader.Dump]:
    """Every dump below a folder, by op name."""
    dumps = [reader.read(p) for p in sorted((folder / "dump").rglob("*")) if p.is_file()]
    return {dump.op_name: dump for dump in dumps}


def same(a: np.ndarray, b: np.ndarray) -> bool:
    with np.errstate(invalid="ignore"):
        return bool(np.array_equal(a.astype(np.float64), b.astype(np.float64), equal_nan=True))


class Reference:
    """The original model, one node at a time."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.opsets = model.opset_import
        self.nodes = {node.name: node for node in model.graph.node}
        self.order = {node.name: i for i, node in enumerate(model.graph.node)}
        self.consts = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant":
                self.consts[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)

    def compute(self, node: onnx.NodeProto, env: dict[str, np.ndarray]) -> list[np.ndarray]:
        given = {n: env[n] if n in env else self.consts[n] for n in node.input if n}
        if node.op_type in BY_RUNTIME:
            feeds = {n: v.astype(np.float32) if v.dtype == np.float64 else v for n, v in given.items()}
            kinds = {n: onnx.helper.np_dtype_to_tensor_dtype(v.dtype) for n, v in feeds.items()}
            ins = [onnx.helper.make_tensor_value_info(n, kinds[n], v.shape) for n, v in feeds.items()]
            outs = [onnx.helper.make_empty_tensor_value_info(n) for n in node.output]
            graph = onnx.helper.make_graph([node], "one", ins, outs)
            model = onnx.helper.make_model(graph, opset_imports=self.opsets, ir_version=8)
            options = ort.SessionOptions()
            options.intra_op_num_threads = 1
            return list(ort.InferenceSession(model.SerializeToString(), options).run(None, feeds))
        wide = {n: v.astype(np.float64) if v.dtype == np.float32 else v for n, v in given.items()}
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            wide = {n: v.astype(np.float32) if v.dtype == np.float64 else v for n, v in wide.items()}
        results = ReferenceEvaluator(node, opsets={"": self.opsets[0].version}).run(None, wide)
        return [np.asarray(r) for r in results]


def original_of(mapping: dict[str, dict[str, Any]], source: str, reference: Reference) -> str:
    """The original tensor that a device tensor "op:index" equals, by the device model alone."""
    name, index = source.rsplit(":", 1)
    op = mapping[name]
    attrs = {a["key"]: a["value"] for a in op["output_desc"][int(index)]["attr"]}
    if "_datadump_origin_name" in attrs:
        node = reference.nodes[attrs["_datadump_origin_name"]["s"]]
        return str(node.output[attrs["_datadump_origin_output_index"]["i"]])
    return name if op["type"] == "Data" else original_of(mapping, op["input"][0], reference)


def check_against_reference(played: Played, folder: Path, dumps: dict[str, reader.Dump]) -> float:
    """Largest distance of a healthy op from the reference, as a share of what its habit may have."""
    reference = Reference(onnx.load(folder / "model.onnx"))
    ops = json.loads((folder / "device.json").read_text())["graph"][0]["op"]
    mapping = {op["name"]: op for op in ops}
    worst = 0.0
    for name, dump in dumps.items():
        op = mapping[name]
        found = [a["value"]["list"] for a in op["attr"] if a["key"] == "_datadump_original_op_names"]
        originals = sorted(found[0].get("s", []) if found else [name], key=reference.order.__getitem__)
        if not originals:
            continue
        sources = [s for s in op["input"] if mapping[s.rsplit(":", 1)[0]]["type"] != "Const"]
        values = [d.values for d, s in zip(dump.inputs, op["input"], strict=False) if s in sources]
        if not values:
            values = list(played.run.results[name].inputs)
        env: dict[str, np.ndarray] = {}
        for source, value in zip(sources, values, strict=True):
            tensor = original_of(mapping, source, reference)
            kind = {"f": np.float64, "i": np.int64}.get(value.dtype.kind, np.uint8)
            env[tensor] = value.astype(kind)
        for original in originals:
            node = reference.nodes[original]
            env.update(zip(node.output, reference.compute(node, env), strict=True))
        last = reference.nodes[originals[-1]]
        for tensor, output in zip(last.output, dump.outputs, strict=True):
            true, mine = env[tensor].astype(np.float64), output.values.astype(np.float64)
            if true.shape != mine.shape:
                raise Problem(f"{name}: shape {mine.shape}, the original has {true.shape}")
            away = float(np.linalg.norm(true - mine)) / max(float(np.linalg.norm(true)), 1e-30)
            share = away / ALLOWED[played.case.habit] if output.values.dtype.kind == "f" else away * 100
            worst = max(worst, share)
            if share > 1 or not np.isfinite(share):
                raise Problem(f"{name}: {away:.2e} away from {tensor}")
    return worst


def check_fault(played: Played, dumps: dict[str, reader.Dump]) -> None:
    """The fault shows in the planted op and in nothing before it."""
    case, program = played.case, played.program
    if case.op in played.fed:
        first = next(op for op in program.ops if f"{case.op}:0" in op.inputs)
        if same(played.run.results[first.name].inputs[0], played.fed[case.op]):
            raise Problem("the input is as it should be")
        return
    for op in program.ops:
        if op.name not in dumps:
            continue
        was, dump = played.healthy.results[op.name], dumps[op.name]
        equal = all(same(a.values, b) for a, b in zip(dump.outputs, was.outputs, strict=True))
        if op.name == case.op:
            if equal:
                raise Problem(f"{op.name}: nothing changed")
            if dump.inputs and case.kind != "overwritten":
                given = played.run.results[op.name].inputs
                if not all(same(a, b) for a, b in zip(given, was.inputs, strict=True)):
                    raise Problem(f"{op.name}: its inputs changed too")
            return
        if not equal:
            raise Problem(f"{op.name}: changed before the planted op")
    raise Problem("the planted op has no dump")


def check_case(case: Case) -> dict[str, float]:
    """All checks of one case; raises Problem."""
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        began = time.perf_counter()
        played = cases.play(case)
        cases.write(played, Path(first))
        took = time.perf_counter() - began
        cases.healthy_run.cache_clear()
        cases.built.cache_clear()
        cases.write(cases.play(case), Path(second))
        if contents(Path(first)) != contents(Path(second)):
            raise Problem("two runs of make.py wrote different bytes")
        dumps = decoded(Path(first))
        for op in played.program.ops:
            if op.kind not in ("compute", "cast", "trans"):
                continue
            result, dump = played.run.results[op.name], dumps[op.name]
            if len(dump.outputs) != len(result.outputs):
                raise Problem(f"{op.name}: {len(dump.outputs)} outputs were decoded")
            weights = list(result.consts.values())
            given = [*weights, *result.inputs] if op.block == "gather" else [*result.inputs, *weights]
            pairs = list(zip(dump.outputs, result.outputs, strict=True))
            pairs += [] if case.dump == "output" else list(zip(dump.inputs, given, strict=True))
            if not all(same(a.values, b) for a, b in pairs):
                raise Problem(f"{op.name}: decoded values are not what the device stored")
        if case.kind == "healthy":
            worst = check_against_reference(played, Path(first), dumps)
            return {"seconds": took, "worst": worst}
        check_fault(played, dumps)
        return {"seconds": took, "worst": 0.0}


def check(every: list[Case], count: int) -> int:
    """Checks `count` cases chosen at random (all if 0); the exit code."""
    rng = np.random.default_rng()
    chosen = every if not count else [every[int(i)] for i in sorted(rng.permutation(len(every))[:count])]
    bad, seconds, worst = 0, [], 0.0
    for case in chosen:
        try:
            found = check_case(case)
        except (Problem, ValueError) as problem:
            bad += 1
            print(f"{case.name} {case.net} {case.habit} {case.kind}: {problem}")
            continue
        seconds.append(found["seconds"])
        worst = max(worst, found["worst"])
    print(f"{len(chosen)} cases checked, {bad} bad")
    print(f"made in {np.mean(seconds or [0]):.2f} s on average, {max(seconds or [0]):.2f} s at most")
    print(f"the worst healthy op used {worst:.0%} of the rounding its habit may have")
    return 1 if bad else 0
