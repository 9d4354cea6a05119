"""Pairs by name, for dumps without a mapping and for the dumps of two devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from acccmp.comparison.fitting import fitted
from acccmp.comparison.lookup import Dumped, Golden, why
from acccmp.core.dump import Port
from acccmp.core.graph import Graph
from acccmp.mapping.trace import PASSING
from acccmp.reports.pair import Pair, Verdict


def by_name(
    gold: Golden, dumped: Dumped, model: Graph | None, order: Sequence[str], notes: list[str],
) -> list[Pair]:
    """Ops of one name belong together; what a device header says about its original counts before its name."""
    if gold.dump.kind == "golden" and dumped.dump.kind == "npu":
        notes.append("without a mapping, ops are paired by name; fused ops have no partner then")
    place = {name: i for i, name in enumerate(order)} if order else _places(gold, dumped, model)
    rows: list[Pair] = []
    both_device = gold.dump.kind == "npu"
    for group, name in enumerate([*dumped.ports, *(n for n in dumped.broken if n not in dumped.ports)]):
        op = dumped.dump.ops.get(name)
        base = Pair(
            Port(name, "output", 0), op_type=op.op_type if op else "", npu_ops=(name,), group=group,
            order=place.get(name, len(place)),
        )
        for port in dumped.ports.get(name, {}).values():
            row = replace(base, port=port, npu=dumped.dump[port], address=dumped.address(name, port.side, port.index))
            rows.append(_named(gold, dumped, model, row, both_device))
        for broken in dumped.broken.get(name, ()):
            op_type = base.op_type or broken.op_type
            row = replace(base, verdict=Verdict.UNREADABLE, reason=why(broken), op_type=op_type)
            golden_name = gold.name_of(name)
            ports = [broken.port] if broken.port else [
                Port(name, "output", index) for index in gold.indices(golden_name, "output")
            ] or [row.port]
            for port in ports:
                found = gold.find(name, port.index) if port.side == "output" else None
                rows.append(replace(row, port=port, golden_port=found.port if found else None,
                                    golden=found.ref if found else None))
    used = {row.golden_port for row in rows}
    for port in gold.dump:
        if port in used or (port.side == "input" and not both_device) or gold.is_input(port.node):
            continue
        if gold.is_constant(port.node):
            continue
        rows.append(Pair(
            port, port, gold.dump[port], verdict=Verdict.NO_NPU, reason="the device dumped nothing of this name",
            originals=(port.node,), order=place.get(port.node, len(place)), group=-1,
            op_type=model[port.node].op_type if model is not None and port.node in model else "",
        ))
    for broken in gold.dump.broken:
        port = broken.port or Port(broken.name, "output", 0)
        if port not in used and not any(row.golden_port == port for row in rows):
            rows.append(Pair(port, port, verdict=Verdict.UNREADABLE, reason=why(broken), originals=(port.node,),
                             order=place.get(port.node, len(place)), group=-1))
    return rows


def _places(gold: Golden, dumped: Dumped, model: Graph | None) -> dict[str, int]:
    """Execution order of all names: the model's or golden's; a device op without partner comes after the one before."""
    known = list(model.depth) if model is not None else list(gold.ports)
    place = {name: i * 2 for i, name in enumerate(known)}
    for name in gold.ports:
        place.setdefault(name, 0)
    last = 0
    for name in dumped.ports:
        partner = gold.name_of(name)
        if name in place:
            last = place[name]
        elif partner in place:
            last = place[name] = place[partner]
        else:
            place[name] = last + 1
    return place


def _named(gold: Golden, dumped: Dumped, model: Graph | None, row: Pair, both_device: bool) -> Pair:
    name, side, index = row.port
    if side == "input":
        return _named_input(gold, model, row, both_device)
    written = dumped.written_origin(name, index)
    keys = [(written.node, written.index)] if written is not None else []
    reason = ""
    for key in [*keys, (name, index)]:
        found = gold.find(*key)
        if found.ref is not None:
            row = replace(row, golden_port=found.port, golden=found.ref, originals=(found.port.node,))
            return fitted(row, written, None, None)
        if found.is_broken:
            return replace(row, golden_port=found.port, verdict=Verdict.UNREADABLE, reason=found.reason)
        reason = found.reason or reason
    if not both_device and not gold.knows(name) and (
        row.op_type in ("TransData", "Aipp") or (row.op_type in PASSING and name.startswith("trans_"))
    ):
        return replace(row, verdict=Verdict.INSERTED, reason=f"made by the compiler ({row.op_type})")
    return replace(row, verdict=Verdict.NO_GOLDEN, reason=reason or f"no golden tensor for {row.port}")


def _named_input(gold: Golden, model: Graph | None, row: Pair, both_device: bool) -> Pair:
    """An input by name: the same input of the other device dump, or the output that the model says feeds it."""
    name, _, index = row.port
    golden_name = gold.name_of(name)
    ref = gold.ref(golden_name, "input", index)
    if ref is not None and golden_name is not None:
        return fitted(replace(row, golden_port=Port(golden_name, "input", index), golden=ref), None, None, None)
    if both_device:
        return replace(row, verdict=Verdict.NO_GOLDEN, reason=f"no golden tensor for {row.port}")
    if model is not None and name in model:
        slots = [tensor for tensor in model[name].inputs if tensor]
        made = model.producer(slots[index]) if index < len(slots) else None
        if made is not None and made.node not in model.constants:
            found = gold.find(made.node, made.index)
            if found.ref is not None:
                return fitted(replace(row, golden_port=found.port, golden=found.ref), None, None, None)
            if found.is_broken:
                return replace(row, golden_port=found.port, verdict=Verdict.UNREADABLE, reason=found.reason)
        if index < len(slots):
            return replace(row, verdict=Verdict.INSERTED, reason="a constant; golden dumps have no weights")
    return replace(row, verdict=Verdict.INSERTED, reason="without a mapping nothing says what feeds it")
