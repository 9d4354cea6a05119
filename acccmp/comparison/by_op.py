"""Pairs of two device dumps: device op beside device op; a mapping says what an op stands for and in which order."""

from __future__ import annotations

from dataclasses import replace

from acccmp.comparison.fitting import fitted
from acccmp.comparison.lookup import Dumped, why
from acccmp.core.dump import Port
from acccmp.mapping.device_map import DeviceMap
from acccmp.mapping.trace import Trail
from acccmp.reports.pair import Pair, Verdict


def by_op(gold: Dumped, dumped: Dumped, device: DeviceMap | None) -> list[Pair]:
    """Every port of either dump; ports of ops of one name belong together."""
    rows: list[Pair] = []
    taken: set[str | None] = set()
    places = _places(gold, dumped)
    for name in [*dumped.ports, *(name for name in dumped.broken if name not in dumped.ports)]:
        other = gold.name_of(name)
        taken.add(other)
        base = _base(dumped, name, device, places[name])
        theirs = [port._replace(node=name) for port in gold.ports.get(other or "", {}).values()]
        ports = dict.fromkeys([*dumped.ports.get(name, {}).values(), *theirs])
        for port in ports:
            _, side, index = port
            ref, npu = gold.ref(other, side, index), dumped.ref(name, side, index)
            row = replace(base, port=port, golden=ref, npu=npu, address=dumped.address(name, side, index),
                          golden_port=port._replace(node=other) if other is not None and ref is not None else None)
            damage = dumped.why_broken(name, side, index) if npu is None else gold.why_broken(other, side, index)
            if damage and (npu is None or ref is None):
                row = replace(row, verdict=Verdict.UNREADABLE, reason=damage)
            elif npu is None:
                row = replace(row, verdict=Verdict.NO_NPU, reason="the NPU side dumped no such tensor")
            elif ref is None:
                row = replace(row, verdict=Verdict.NO_GOLDEN, reason=f"no golden tensor for {port}")
            else:
                row = fitted(row, _trail(dumped, device, port))
            rows.append(row)
        for broken in () if ports else dumped.broken[name]:
            rows.append(replace(base, port=broken.port or base.port, verdict=Verdict.UNREADABLE, reason=why(broken)))
    for name in [*gold.ports, *(name for name in gold.broken if name not in gold.ports)]:
        if name in taken:
            continue
        base = _base(gold, name, device, places[name])
        for port in gold.ports.get(name, {}).values():
            rows.append(replace(base, port=port, golden_port=port, golden=gold.dump[port], verdict=Verdict.NO_NPU,
                                reason="the device dumped nothing of this name"))
        for broken in gold.broken.get(name, ()):
            port = broken.port or base.port
            rows.append(replace(base, port=port, golden_port=port, verdict=Verdict.UNREADABLE, reason=why(broken)))
    return rows


def _places(gold: Dumped, dumped: Dumped) -> dict[str, int]:
    """Places of all ops: golden's; an op that only the NPU side has comes after the one before it."""
    places = {name: 2 * place for place, name in enumerate(dict.fromkeys([*gold.ports, *gold.broken]))}
    last = 0
    for name in [*dumped.ports, *dumped.broken]:
        last = places.get(gold.name_of(name) or "", last)
        places.setdefault(name, last if gold.name_of(name) is not None else last + 1)
    return places


def _base(dumped: Dumped, name: str, device: DeviceMap | None, place: int) -> Pair:
    op = dumped.dump.ops.get(name)
    node = device.node(name) if device is not None else None
    row = Pair(Port(name, "output", 0), op_type=op.op_type if op else "", npu_ops=(name,), order=place, group=place)
    if device is None or node is None:
        return row
    return replace(
        row, op_type=node.op_type, originals=device.group_originals(node), order=device.order[node.name],
        group=device.group[node.name],
    )


def _trail(dumped: Dumped, device: DeviceMap | None, port: Port) -> Trail:
    """What mapping and header say of the tensor at a port; nothing stands between two ops of one name."""
    node = device.node(port.node) if device is not None else None
    if device is None or node is None:
        written = dumped.written_origin(port.node, port.index) if port.side == "output" else None
        return Trail(None, written, None)
    tensor = device.tensor(port, dumped.dump.inputs.get(port.node, 0))
    way = device.trail(tensor) if tensor else Trail(None, None, None)
    return Trail(None, way.written, way.spec, steps=way.steps, coarsest=way.coarsest)
