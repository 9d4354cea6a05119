"""What is this file or folder? Facts as plain data, their keys in words for people (`acccmp.ui.screens` shows them);
`plain_keys` makes the keys for machines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from acccmp.core.dump import Dump, Port
from acccmp.core.graph import Graph, Node, shape_text
from acccmp.core.identify import identify
from acccmp.core.reading import read_bytes
from acccmp.core.writing import write_text
from acccmp.dumps.read import read_dump
from acccmp.errors import InputError
from acccmp.inputs.preflight import Fit, check_inputs, input_specs
from acccmp.mapping.device_map import DeviceMap
from acccmp.models.device_graph import all_nodes
from acccmp.models.facts import tensor_facts, weight_facts
from acccmp.models.load import load
from acccmp.releases.baseline import read as read_baseline
from acccmp.releases.history import runs
from acccmp.reports.canvas import save_figure
from acccmp.reports.report_json import MOST_BYTES, from_json, plain
from acccmp.reports.summary import headline
from acccmp.slicing.bundle import read_manifest

MOST_ROWS = 400  # ops of a dump that are listed one by one


def describe(path: str | Path, weights: str | Path | None = None, **chosen: str | None) -> dict[str, Any]:
    """What lies at `path`, as JSON-able facts; `kind` says what it is.

    `chosen` (run, device, model, step) picks one run of a dump tree. Raises InputError when nothing is there,
    FormatError when it is damaged or of no known kind.
    """
    kind = identify(path).kind
    if kind.role == "dump":
        return {"kind": "dump", "path": str(path), "format": kind.words, **dump_facts(read_dump(path, **chosen))}
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


def describe_nodes(
    path: str | Path, pattern: str = "*", weights: str | Path | None = None, **chosen: str | None,
) -> dict[str, Any]:
    """The names at `path`, as JSON-able facts: every node, or op of a dump, in order of execution, with its tensors
    (for a dump: its ports) and what it stands for in the original where that is written. `pattern` (with `*` and `?`,
    else a part of the name) keeps those where it fits the node's name or one of its outputs'."""
    kind = identify(path).kind
    if kind.role == "dump":
        rows = _dumped_nodes(read_dump(path, **chosen))
    else:
        rows = [_node_facts(graph, node) for graph in [load(path, weights)] for node in all_nodes(graph)]
    wanted = pattern if set("*?[") & set(pattern) else f"*{pattern}*"
    kept = [row for row in rows if any(
        fnmatchcase(name, wanted) for name in (row["name"], *(tensor["name"] for tensor in row["outputs"]))
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


def slice_facts(path: str | Path) -> dict[str, Any]:
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


def fits(path: str | Path, given: Mapping[str, str], weights: str | Path | None = None) -> tuple[Fit, ...]:
    """Do these files (by input name; "" stands for the only input) fit the model at `path`? See `preflight`."""
    graph = load(path, weights)
    if "" in given:
        names = [spec.name for spec in input_specs(graph)]
        if len(names) != 1:
            raise InputError(f"{path} has the inputs {', '.join(names) or 'none'}: write --input NAME=FILE")
        given = {names[0]: given[""], **{name: file for name, file in given.items() if name}}
    return check_inputs(graph, given)


def fit_facts(fit: Fit) -> dict[str, Any]:
    """A fit for machines."""
    return {
        "input": fit.name, "fits": fit.fits, "wanted bytes": fit.wanted, "found bytes": fit.found,
        "lines": list(fit.lines), "readings": [str(reading) for reading in fit.readings],
    }


# -- drawing -----------------------------------------------------------------------------------------------------


def draw(path: str | Path, target: str | Path, weights: str | Path | None = None) -> Path:
    """Draw the graph of a model file into a .dot, .svg, .png or .pdf file.

    Raises InputError for other endings and for files without a graph.
    """
    out = Path(target)
    if out.suffix not in (".dot", ".svg", ".png", ".pdf"):
        raise InputError(f"--graph {target}: wanted a name that ends in .dot, .svg, .png or .pdf")
    graph = load(path, weights)
    if not graph.nodes:
        raise InputError(f"{path}: holds no graph to draw")
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
