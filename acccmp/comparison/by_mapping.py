"""Pairs of the original and a device: every port of every device op, then the originals that none stands for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from acccmp.comparison.fitting import fitted
from acccmp.comparison.lookup import Dumped, Found, Golden, why
from acccmp.core.dump import Port, flatten_name
from acccmp.core.graph import Node
from acccmp.core.tensor import DTYPES
from acccmp.mapping.device_map import DeviceMap
from acccmp.mapping.names import by_names
from acccmp.mapping.trace import Trail
from acccmp.models.device_graph import TASKLESS, split_input
from acccmp.reports.pair import Pair, Verdict


def by_mapping(device: DeviceMap, gold: Golden, dumped: Dumped) -> tuple[list[Pair], list[str]]:
    """Every port that was dumped or should have been, and every golden tensor; and what is to be said.

    Ops of the dump that the mapping does not know are paired by their names.
    """
    rows: list[Pair] = []
    notes: list[str] = []
    seen: set[str] = set()
    for node in device.nodes:
        if node.op_type == "Aipp" or node.attrs.get("aipp") or node.attrs.get("_aipp_inputs"):
            notes.append(
                f"pre-processing (AIPP) is compiled into the device model at {node.name}: golden must have been fed "
                "with that op's output, and a fault in the pre-processing itself shows only at its own row"
            )
        name = dumped.name_of(node.name)
        seen |= {name} if name is not None else set()
        rows += _op(device, gold, dumped, node, name)
    if dumped.names - seen:
        names = by_names(dumped.dump, gold.model if gold.model is not None else gold.dump).beside(gold)
        for node in names.nodes:
            if node.name in dumped.names - seen:
                rows += [
                    replace(row, order=len(device.nodes), group=len(device.members) + row.group)
                    for row in _op(names, gold, dumped, node, node.name)
                ]
    rows += _golden_only(device, gold, rows, seen)
    used = {row.golden_port.node for row in rows if row.golden_port is not None}
    for broken in gold.dump.broken:
        port = broken.port or Port(broken.name, "output", 0)
        if port.node not in used and device.is_by_name:
            order = device.order.get(port.node, len(device.nodes))
            rows.append(Pair(port, port, verdict=Verdict.UNREADABLE, reason=why(broken), originals=(port.node,),
                             order=order, group=-1))
        elif port.node not in used:
            notes.append(f"golden: {why(broken)} (no device tensor stands for it)")
    return rows, notes


def _op(device: DeviceMap, gold: Golden, dumped: Dumped, node: Node, name: str | None) -> list[Pair]:
    """The rows of one device op, which the dump calls `name` (None: it was not dumped)."""
    if name is None and (node.op_type in TASKLESS or device.is_by_name):
        return []
    rows: list[Pair] = []
    inputs = dumped.indices(name, "input")
    if name in dumped.broken and dumped.dump.inputs and not inputs:
        inputs = list(range(sum(1 for tensor in node.inputs if tensor)))
    for index in inputs:
        port = Port(node.name, "input", index)
        tensor = device.tensor(port, dumped.dump.inputs.get(name or "", 0))
        trail = device.trail(tensor) if tensor else Trail(None, None, None, "nothing says what feeds it")
        rows += _row(device, gold, dumped, node, port, name, trail)
    before = len(rows)
    for index in range(max([len(node.outputs), *(index + 1 for index in dumped.indices(name, "output"))])):
        port = Port(node.name, "output", index)
        rows += _row(device, gold, dumped, node, port, name, device.trail(f"{node.name}:{index}"))
    told = {row.reason for row in rows[before:] if row.verdict is Verdict.UNREADABLE}
    for broken in dumped.broken.get(name or "", ()):
        if why(broken) not in told and (broken.port is None or broken.port.side == "output"):
            rows.append(replace(
                _base(device, dumped, node, broken.port or Port(node.name, "output", 0), name),
                verdict=Verdict.UNREADABLE, reason=why(broken),
            ))
    return rows


def _row(
    device: DeviceMap, gold: Golden, dumped: Dumped, node: Node, port: Port, name: str | None, trail: Trail,
) -> list[Pair]:
    """The row of one device port; none for ports that nobody expects to be dumped."""
    ref = dumped.ref(name, port.side, port.index)
    base = replace(_base(device, dumped, node, port, name), npu=ref, notes=(trail.note,) if trail.note else ())
    found = gold.find(*trail.key) if trail.key is not None else None
    if found is None and device.is_by_name and port.side == "input":
        found = gold.own_input(port)
    if found is not None:
        base = replace(base, golden_port=found.port, golden=found.ref)
    if ref is None:
        reason = dumped.why_broken(name, port.side, port.index)
        if reason:
            return [replace(base, verdict=Verdict.UNREADABLE, reason=reason)]
        return _missing(device, gold, node, port, name, trail, found, base)
    if found is None:
        told = "a constant of the device model; golden dumps have no weights" if trail.is_constant else trail.reason
        is_missed = device.is_by_name and node.origins is None and port.side == "output"
        return [replace(base, verdict=Verdict.NO_GOLDEN if is_missed else Verdict.INSERTED, reason=told)]
    if found.ref is None:
        if found.is_broken:
            return [replace(base, verdict=Verdict.UNREADABLE, reason=found.reason)]
        if trail.is_constant or gold.is_constant(found.port.node):
            return [replace(base, verdict=Verdict.INSERTED, golden_port=None,
                            reason="a constant; golden dumps have no weights")]
        if (port.side == "input" or node.origins == ()) and not gold.has_in_model(found.port.node):
            return [replace(base, verdict=Verdict.INSERTED, golden_port=None,
                            reason=f"comes from {found.port.node}, outside of the model")]
        return [replace(base, verdict=Verdict.NO_GOLDEN,
                        reason=found.reason or f"no golden tensor for {found.port}")]
    row = fitted(base, trail, layout=gold.layout(found.port))
    made_by = node.name if port.side == "output" else split_input(trail.visited[0])[0]
    return [replace(row, coarsest=DTYPES["int8"]) if made_by in device.after_quantisation else row]


def _base(device: DeviceMap, dumped: Dumped, node: Node, port: Port, name: str | None) -> Pair:
    return Pair(
        port, op_type=node.op_type, originals=device.group_originals(node),
        npu_ops=tuple(member.name for member in device.members[device.group[node.name]]),
        order=device.order[node.name], group=device.group[node.name],
        address=dumped.address(name, port.side, port.index), quantised=_is_quantised(device, node, port),
    )


def _missing(
    device: DeviceMap, gold: Golden, node: Node, port: Port, name: str | None, trail: Trail, found: Found | None,
    base: Pair,
) -> list[Pair]:
    """What to say of a port that was not dumped. Inputs are their producers' outputs, so nobody misses them."""
    if port.side == "input" or found is None or node.op_type in TASKLESS or trail.steps:
        return []
    if node.attrs.get("_L1_fusion_sub_graph_no") not in (None, "") and node is not device.members[base.group][-1]:
        return [replace(base, verdict=Verdict.FUSED, reason="stays in the core's own memory (L1 fusion)")]
    if found.ref is None and (name is not None or not gold.has_in_model(found.port.node)):
        return []
    if name is None and node.attrs.get("_no_task") is True:
        feeds = ", ".join(dict.fromkeys(split_input(tensor)[0] for tensor in node.inputs if tensor))
        return [replace(base, verdict=Verdict.FUSED,
                        reason=f"has no task of its own: its data lie in the buffers of {feeds or 'others'}")]
    what = "the op was not dumped" if name is None else "this output was not dumped"
    return [replace(base, verdict=Verdict.NO_NPU, reason=what)]


def _is_quantised(device: DeviceMap, node: Node, port: Port) -> bool:
    if port.side == "output":
        return node.name in device.quantised
    return port.index < len(node.inputs) and split_input(node.inputs[port.index])[0] in device.quantised


def _golden_only(device: DeviceMap, gold: Golden, rows: Sequence[Pair], seen: Collection[str]) -> list[Pair]:
    """Golden tensors that no device tensor stands for: fused or folded away; missing where names alone tell."""
    used = {row.golden_port for row in rows}
    found = []
    last = 0
    for port in gold.dump:
        if port.side != "output" or port in used or gold.is_input(port.node):
            continue
        if any(split_input(tensor)[0] in (port.node, flatten_name(port.node)) for tensor in device.graph.inputs):
            continue
        nodes = device.implementers(port.node)
        if device.is_by_name and (gold.is_constant(port.node) or not any(node.name in seen for node in nodes)):
            if not gold.is_constant(port.node):
                found.append(_not_dumped(device, gold, port))
            continue
        if nodes:
            into = nodes[-1]
            last = device.order[into.name]
            reason = f"fused into {', '.join(node.name for node in nodes[:3])}"
        else:
            into = None
            kind = "a constant" if gold.is_constant(port.node) else "folded away"
            reason = f"{kind}: no op of the device model implements it"
        found.append(Pair(
            port, port, gold.dump[port], verdict=Verdict.FUSED, reason=reason, order=last,
            originals=device.group_originals(into) if into else (port.node,), op_type=into.op_type if into else "",
            npu_ops=tuple(n.name for n in nodes), group=device.group[into.name] if into else -1,
        ))
    return found


def _not_dumped(device: DeviceMap, gold: Golden, port: Port) -> Pair:
    order = device.order.get(port.node, len(device.nodes))
    return Pair(
        port, port, gold.dump[port], verdict=Verdict.NO_NPU, reason="the device dumped nothing of this name",
        originals=(port.node,), order=order, group=-1,
        op_type=device.nodes[order].op_type if order < len(device.nodes) else "",
    )
