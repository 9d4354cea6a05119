"""Pairs by the mapping: every port of every device op, then the originals that no device tensor stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from acccmp.comparison.fitting import fitted
from acccmp.comparison.lookup import Dumped, Found, Golden, why
from acccmp.core.dump import Port
from acccmp.core.graph import Graph, Node
from acccmp.mapping.names import flat
from acccmp.mapping.trace import Trace, Trail
from acccmp.models.device_graph import TASKLESS, split_input
from acccmp.reports.pair import Pair, Verdict


def by_mapping(device: Device, gold: Golden, dumped: Dumped, notes: list[str]) -> list[Pair]:
    """Every port that was dumped or should have been, and every golden tensor; `notes` gets what is to be said."""
    rows: list[Pair] = []
    seen: set[str] = set()
    with_inputs = any(port.side == "input" for port in dumped.dump)
    for node in device.nodes:
        if node.op_type == "Aipp" or node.attrs.get("aipp") or node.attrs.get("_aipp_inputs"):
            notes.append(
                f"pre-processing (AIPP) is compiled into the device model at {node.name}: golden must have been fed "
                "with that op's output, and a fault in the pre-processing itself shows only at its own row"
            )
        name = dumped.name_of(node.name)
        if name is not None:
            seen.add(name)
        is_broken = name in dumped.broken
        if name is None and node.op_type in TASKLESS:
            continue
        data = [tensor for tensor in node.inputs if tensor]
        inputs = dumped.indices(name, "input")
        if inputs and len(node.inputs) == inputs[-1] + 1:
            data = list(node.inputs)
        if is_broken and with_inputs and not inputs:
            inputs = list(range(len(data)))
        for index in inputs:
            port = Port(node.name, "input", index)
            trail = device.trail(data[index]) if index < len(data) and data[index] else Trail(
                None, None, None, "the mapping lists no such input",
            )
            rows += _row(device, gold, dumped, node, port, name, trail)
        before = len(rows)
        count = max([len(node.outputs), *(index + 1 for index in dumped.indices(name, "output"))])
        for index in range(count):
            rows += _row(device, gold, dumped, node, Port(node.name, "output", index), name,
                         device.trail(f"{node.name}:{index}"))
        told = {row.reason for row in rows[before:] if row.verdict is Verdict.UNREADABLE}
        for broken in dumped.broken.get(name or "", ()):
            if why(broken) not in told and (broken.port is None or broken.port.side == "output"):
                rows.append(replace(
                    _base(device, dumped, node, broken.port or Port(node.name, "output", 0), name),
                    verdict=Verdict.UNREADABLE, reason=why(broken),
                ))
    rows += _unknown_ops(gold, dumped, seen, len(device.nodes), len(device.members))
    rows += _golden_only(device, gold, rows)
    used = {row.golden_port.node for row in rows if row.golden_port is not None}
    for broken in gold.dump.broken:
        if (broken.port.node if broken.port else broken.name) not in used:
            notes.append(f"golden: {why(broken)} (no device tensor stands for it)")
    return rows


def _row(
    device: Device, gold: Golden, dumped: Dumped, node: Node, port: Port, name: str | None, trail: Trail,
) -> list[Pair]:
    """The row of one device port; none for ports that nobody expects to be dumped."""
    ref = dumped.ref(name, port.side, port.index)
    base = replace(_base(device, dumped, node, port, name), npu=ref, notes=(trail.note,) if trail.note else ())
    found = gold.find(*trail.key) if trail.key is not None else None
    if found is not None:
        base = replace(base, golden_port=found.port, golden=found.ref)
    if ref is None:
        reason = dumped.why_broken(name, port.side, port.index)
        if reason:
            return [replace(base, verdict=Verdict.UNREADABLE, reason=reason)]
        return _missing(device, node, port, name, trail, found, base)
    if found is None:
        told = "a constant of the device model; golden dumps have no weights" if trail.is_constant else trail.reason
        return [replace(base, verdict=Verdict.INSERTED, reason=told)]
    if found.ref is None:
        if found.is_broken:
            return [replace(base, verdict=Verdict.UNREADABLE, reason=found.reason)]
        if trail.is_constant or gold.is_constant(found.port.node):
            return [replace(base, verdict=Verdict.INSERTED, golden_port=None,
                            reason="a constant; golden dumps have no weights")]
        return [replace(base, verdict=Verdict.NO_GOLDEN,
                        reason=found.reason or f"no golden tensor for {found.port}")]
    return [fitted(base, trail.written, trail.spec, trail)]


def _base(device: Device, dumped: Dumped, node: Node, port: Port, name: str | None) -> Pair:
    return Pair(
        port, op_type=node.op_type, originals=device.group_originals(node) if node.origins != () else (),
        npu_ops=tuple(member.name for member in device.members[device.group[node.name]]),
        order=device.order[node.name], group=device.group[node.name],
        address=dumped.address(name, port.side, port.index), quantised=_is_quantised(device, node, port),
    )


def _missing(
    device: Device, node: Node, port: Port, name: str | None, trail: Trail, found: Found | None, base: Pair,
) -> list[Pair]:
    """What to say of a port that was not dumped. Inputs are their producers' outputs, so nobody misses them."""
    if port.side == "input" or found is None or node.op_type in TASKLESS or trail.steps:
        return []
    if node.attrs.get("_L1_fusion_sub_graph_no") not in (None, "") and node is not device.members[base.group][-1]:
        return [replace(base, verdict=Verdict.FUSED, reason="stays in the core's own memory (L1 fusion)")]
    if name is not None and found.ref is None:
        return []
    what = "the op was not dumped" if name is None else "this output was not dumped"
    return [replace(base, verdict=Verdict.NO_NPU, reason=what)]


def _is_quantised(device: Device, node: Node, port: Port) -> bool:
    if port.side == "output":
        return node.name in device.quantised
    return port.index < len(node.inputs) and split_input(node.inputs[port.index])[0] in device.quantised


def _unknown_ops(gold: Golden, dumped: Dumped, seen: set[str], order: int, group: int) -> list[Pair]:
    """Ops of the dump that the mapping does not know."""
    rows = []
    for extra, name in enumerate(sorted(dumped.names - seen)):
        op = dumped.dump.ops.get(name)
        base = Pair(
            Port(name, "output", 0), op_type=op.op_type if op else "", npu_ops=(name,), order=order,
            group=group + extra,
        )
        for broken in dumped.broken.get(name, ()):
            rows.append(replace(base, port=broken.port or base.port, verdict=Verdict.UNREADABLE, reason=why(broken)))
        for port in dumped.ports.get(name, {}).values():
            rows.append(replace(
                base, port=port, npu=dumped.dump[port], verdict=Verdict.NO_GOLDEN,
                reason="the mapping does not know this op",
            ))
    return rows


def _golden_only(device: Device, gold: Golden, rows: Sequence[Pair]) -> list[Pair]:
    """Golden tensors that no device tensor stands for: fused or folded away."""
    used = {row.golden_port for row in rows}
    found = []
    last = 0
    for port in gold.dump:
        if port.side != "output" or port in used or gold.is_input(port.node):
            continue
        if any(split_input(tensor)[0] in (port.node, flat(port.node)) for tensor in device.mapping.inputs):
            continue
        nodes = device.implementers.get(port.node) or device.implementers.get(flat(port.node), [])
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


class Device(Trace):
    """A Trace whose originals are those of a golden dump (and of its model, if it is at hand)."""

    def __init__(self, mapping: Graph, gold: Golden) -> None:
        super().__init__(mapping, gold)
        self.gold = gold
        self.order = {node.name: place for place, node in enumerate(self.nodes)}

    def group_originals(self, node: Node) -> tuple[str, ...]:
        """The originals that the group of `node` implements; () for a compiler-made op."""
        found: dict[str, None] = {}
        for member in self.members[self.group[node.name]]:
            found.update(dict.fromkeys(member.origins if member.origins is not None else (member.name,)))
        return tuple(found)

    @cached_property
    def implementers(self) -> dict[str, list[Node]]:
        """Original name, also flattened -> the device ops that implement it."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.origins if node.origins is not None else (node.name,):
                for key in {name, flat(name)}:
                    found.setdefault(key, []).append(node)
        return found
