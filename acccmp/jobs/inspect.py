"""What is this file or folder? Facts as plain data, their keys in words for people (`acccmp.ui.screens` shows them);
`plain_keys` makes the keys for machines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from acccmp.core.dump import Dump, Port
from acccmp.core.graph import Graph, Node, shape_text
from acccmp.core.identify import identify
from acccmp.core.names import is_like
from acccmp.core.reading import FilePath, read_bytes
from acccmp.core.writing import write_text
from acccmp.dumps.read import read_dump
from acccmp.errors import InputError
from acccmp.inputs.preflight import Fit, check_inputs, input_specs
from acccmp.mapping.device_map import DeviceMap
from acccmp.models.device_graph import all_nodes
from acccmp.models.facts import tensor_facts, weight_facts
from acccmp.models.load import STORED, load
from acccmp.releases.baseline import read as read_baseline
from acccmp.releases.history import runs
from acccmp.reports.canvas import save_figure
from acccmp.reports.report_json import MOST_BYTES, from_json, plain
from acccmp.reports.summary import headline
from acccmp.slicing.bundle import read_manifest

MOST_ROWS = 400  # ops of a dump that are listed one by one


def inspect(
    path: FilePath, weights: FilePath | None = None, *, nodes: str | None = None, run: str | None = None,
    device: str | int | None = None, model: str | int | None = None, step: str | int | None = None,
) -> dict[str, Any]:
    """What lies at `path`, as JSON-able facts; `kind` says what it is.

    With `nodes` the names instead: every node whose name (or an output's) is like this pattern with `*` and `?`, or
    has it as a part, in order of execution, with its tensors. `run`, `device`, `model` and `step` pick one run of a
    dump tree. Sizes are in bytes. Raises InputError when nothing is there, or no node of such a name, FormatError when
    it is damaged or of no known kind.

    >>> facts = acccmp.inspect("resnet.onnx")
    >>> facts["kind"], facts["nodes"], facts["inputs"][0]["shape"]
    ('onnx', 31, ['batch', 1, 8, 8])
    >>> [node["name"] for node in acccmp.inspect("resnet.onnx", nodes="block2/conv")["nodes"]]
    ['block2/conv1', 'block2/conv2']
    """
    def dump() -> Dump:
        return read_dump(path, run=run, device=device, model=model, step=step)

    if nodes is not None:
        return _nodes(path, nodes, weights, dump)
    kind = identify(path).kind
    if kind.role == "dump":
        return {"kind": "dump", "path": str(path), "format": kind.words, **dump_facts(dump())}
    facts = kind.function("describe")(path) if kind.describe else graph_facts(load(path, weights))
    return {"kind": kind.name, "path": str(path), **facts}


# Facts whose keys are names out of the file.
_NAMED = frozenset({"ops", "dtypes", "layouts", "sides", "opset"})


def plain_keys(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The same facts for machines: `command line` is `command_line`, `SoC` is `soc`. Names of ops, dtypes, layouts
    stay as they are."""
    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return plain_keys(value)
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return {
        re.sub(r"[^a-z0-9]+", "_", str(key).lower()).strip("_"): value if key in _NAMED else plain(value)
        for key, value in facts.items()
    }


def _nodes(
    path: FilePath, pattern: str, weights: FilePath | None, dump: Callable[[], Dump],
) -> dict[str, Any]:
    """The names at `path`: every node, or op of a dump, with its tensors (for a dump: its ports) and what it stands for
    in the original where that is written."""
    kind = identify(path).kind
    if kind.role == "dump":
        rows = _dumped_nodes(dump())
    else:
        rows = [_node_facts(graph, node) for graph in [load(path, weights)] for node in all_nodes(graph)]
    kept = [row for row in rows if any(
        is_like(name, pattern) for name in (row["name"], *(tensor["name"] for tensor in row["outputs"]))
    )]
    if not kept:
        raise InputError(f"{path}: none of its {len(rows)} nodes has a name like {pattern!r}" if rows else
                         f"{path}: is {kind.words}, which holds no nodes")
    return {"kind": kind.name if kind.role != "dump" else "dump", "path": str(path), "nodes": kept}


def _node_facts(graph: Graph, node: Node) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "name": node.name, "type": node.op_type, "inputs": list(node.inputs),
        "outputs": [tensor_facts(graph.spec(tensor)) for tensor in node.outputs if tensor],
    }
    return facts if node.origins is None else {**facts, "originals": list(node.origins)}


def _dumped_nodes(dump: Dump) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for port, ref in dump.items():
        op = dump.ops.get(port.node)
        row = rows.setdefault(port.node, {
            "name": port.node, "type": op.op_type if op else "", "inputs": [], "outputs": [],
        })
        if port.side == "input":
            row["inputs"].append(str(port))
        else:
            row["outputs"].append({
                "name": str(port), "dtype": ref.dtype.name, "shape": list(ref.shape), "layout": ref.layout,
            })
    return list(rows.values())


def graph_facts(graph: Graph) -> dict[str, Any]:
    """Facts of a model: inputs and outputs with shapes, dtypes and sizes, ops by type, parameters."""
    facts: dict[str, Any] = {
        "name": graph.name, "format": graph.format, "nodes": len(graph.nodes),
        "edges": sum(1 for node in graph.nodes for tensor in node.slots if tensor and _made_inside(graph, tensor)),
        "inputs": [tensor_facts(graph.spec(name)) for name in graph.inputs],
        "outputs": [tensor_facts(graph.spec(name)) for name in graph.outputs],
        "ops": dict(Counter(node.op_type for node in graph.nodes).most_common()),
        "weights": weight_facts(graph.weights.values()),
        "sub-graphs": sum(len(node.subgraphs) for node in graph.nodes),
    }
    if graph.format == "om":
        groups = DeviceMap(graph).groups
        facts["mapping"] = {
            "device ops with originals": len(groups),
            "originals": len(set().union(*groups.values())) if groups else 0,
            "fused ops": sum(1 for members in groups.values() if len(members) > 1),
            "made by the compiler": sum(1 for node in graph.nodes if node.origins == ()),
        }
    if graph.compiled.soc or graph.compiled.command:
        facts["compiled"] = {"SoC": graph.compiled.soc, "command line": graph.compiled.command}
    facts["meta"] = {key: _plain(value) for key, value in graph.meta.items() if value not in (None, "", (), {})}
    facts["notes"] = list(graph.notes)
    return facts


def _made_inside(graph: Graph, tensor: str) -> bool:
    port = graph.producer(tensor)
    return port is not None and port.node in graph


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def dump_facts(dump: Dump) -> dict[str, Any]:
    """Facts of a dump: whose it is, its ops and tensors by dtype and layout, what is damaged."""
    by_op: dict[str, list[Port]] = {}
    for port in dump:
        by_op.setdefault(port.node, []).append(port)
    rows = [
        {"port": str(port), "op_type": dump.ops[name].op_type if name in dump.ops else "",
         "dtype": dump[port].dtype.name, "layout": dump[port].layout, "shape": list(dump[port].shape),
         "bytes": dump[port].nbytes}
        for name, ports in list(by_op.items())[:MOST_ROWS] for port in ports
    ]
    return {
        "of": "an original model (golden)" if dump.kind == "golden" else "a device", "folder": str(dump.path),
        "model": dump.model, "ops": len(by_op), "tensors": len(dump),
        "bytes": sum(ref.nbytes for ref in dump.refs.values()),
        "dtypes": dict(Counter(ref.dtype.name for ref in dump.refs.values()).most_common()),
        "layouts": dict(Counter(ref.layout for ref in dump.refs.values()).most_common()),
        "sides": dict(Counter(port.side for port in dump)),
        "unreadable": [{"op": b.name, "file": b.path, "reason": b.reason} for b in dump.broken],
        "rows": rows, "rows left out": max(0, len(dump) - len(rows)), "notes": list(dump.notes),
    }


def slice_facts(path: FilePath) -> dict[str, Any]:
    folder, manifest = read_manifest(path)
    told = manifest.as_json()
    test, device = manifest.self_test, manifest.device
    keys = ("made", "model", "slice", "inputs", "outputs", "golden_from", "device_ops", "dump", "atc", "no_atc", "log")
    return {
        "folder": str(folder), **{key: told[key] for key in keys},
        "self_test": {"status": test.status, "reason": test.reason},
        "device": {"status": device.status, "reason": device.why},
    }


def report_facts(path: str | Path) -> dict[str, Any]:
    """Facts of a report.json: its result, what was compared, its verdicts."""
    report = from_json(read_bytes(Path(path), MOST_BYTES), path)
    first = report.first_bad
    return plain({
        "result": headline(report), "passed": report.passed, "failures": list(report.failures[:MOST_ROWS]),
        "first bad": None if first is None else str(first.port), "ports": len(report), "judged": len(report.judged),
        "coverage": report.coverage, "verdicts": {str(verdict): count for verdict, count in report.counts.items()},
        "subject": dict(report.subject), "notes": list(report.notes),
    })


def baseline_facts(path: str | Path) -> dict[str, Any]:
    """Facts of a baseline file: its model, cases and verdicts."""
    baseline = read_baseline(path)
    entries = baseline.entries.values()
    return {
        "model": baseline.model, "cases": sorted({case for _, case in baseline.entries}), "entries": len(entries),
        "accepted": sum(entry.accepted for entry in entries),
        "verdicts": dict(Counter(entry.verdict for entry in entries).most_common()),
    }


def history_facts(path: str | Path) -> dict[str, Any]:
    """Facts of a history: its runs, oldest first."""
    found = runs(path)
    return {
        "releases": len({run.release for run in found}), "cases": sorted({run.case for run in found}),
        "runs": [plain(asdict(run)) for run in found],
    }


def fits(
    model: Graph | FilePath, given: FilePath | Mapping[str, FilePath], weights: FilePath | None = None,
) -> tuple[Fit, ...]:
    """Do these files (by input name, or for the only input) fit a model, a compiled one too? One answer for each.

    An answer has `fits`, and in `lines` what was wanted and found and how the bytes could be read otherwise. Raises
    UnknownName for an input that the model does not have, InputError when the one that is meant is not clear.

    >>> answer, = acccmp.fits("resnet.onnx", "inputs/image.npy")
    >>> answer.name, answer.fits
    ('image', True)
    """
    graph, path = STORED.of(model, weights=weights), model
    files = {name: str(file) for name, file in (given if isinstance(given, Mapping) else {"": given}).items()}
    if "" in files:
        names = [spec.name for spec in input_specs(graph)]
        if len(names) != 1:
            raise InputError(f"{path} has the inputs {', '.join(names) or 'none'}: write --input NAME=FILE")
        files = {names[0]: files[""], **{name: file for name, file in files.items() if name}}
    return check_inputs(graph, files)


def fit_facts(fit: Fit) -> dict[str, Any]:
    """A fit for machines."""
    return {
        "input": fit.name, "fits": fit.fits, "wanted bytes": fit.wanted, "found bytes": fit.found,
        "lines": list(fit.lines), "readings": [str(reading) for reading in fit.readings],
    }


# -- drawing -----------------------------------------------------------------------------------------------------


def draw(model: Graph | FilePath, target: FilePath, weights: FilePath | None = None) -> Path:
    """Draw the graph of a model into a .dot, .svg, .png or .pdf file; returns that.

    Raises InputError for other endings and for files without a graph, MissingExtra without matplotlib.

    >>> acccmp.draw("resnet.onnx", "resnet.dot").read_text().splitlines()[0]
    'digraph "resnet" {'
    """
    out = Path(target)
    if out.suffix not in (".dot", ".svg", ".png", ".pdf"):
        raise InputError(f"--graph {target}: wanted a name that ends in .dot, .svg, .png or .pdf")
    graph = STORED.of(model, weights=weights)
    if not graph.nodes:
        raise InputError(f"{model}: holds no graph to draw")
    if out.suffix == ".dot":
        write_text(out, "\n".join(dot_lines(graph)) + "\n")
        return out
    return save_figure(graph.plot(), out, "--graph")


def dot_lines(graph: Graph) -> Iterable[str]:
    """The graph in Graphviz's language, shapes on the edges."""
    yield f"digraph {_dot(graph.name or 'model')} {{"
    yield "  rankdir=TB; node [shape=box, fontsize=10]; edge [fontsize=8];"
    for name in graph.inputs:
        port = graph.producer(name)
        if port is None or port.node not in graph:
            yield f"  {_dot(name)} [shape=ellipse];"
    for node in graph.nodes:
        label = node.name if node.name == node.op_type else f"{node.name}\n{node.op_type}"
        yield f"  {_dot(node.name)} [label={_dot(label)}];"
        for tensor in node.slots:
            made = graph.producer(tensor) if tensor else None
            if made is not None:
                label = _dot(shape_text(graph.spec(tensor).shape, ""))
                yield f"  {_dot(made.node)} -> {_dot(node.name)} [label={label}];"
        for before in node.control:
            yield f"  {_dot(before)} -> {_dot(node.name)} [style=dashed];"
    yield "}"


def _dot(text: str) -> str:
    plain = "".join(c if c.isprintable() or c == "\n" else "?" for c in text)[:200]
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
