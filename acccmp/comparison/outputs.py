"""Which ports stand for the model's outputs, and which part of a tensor is valid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from acccmp.comparison.lookup import Golden
from acccmp.core.dump import Port, Side
from acccmp.core.graph import Graph, shape_text
from acccmp.errors import InputError
from acccmp.mapping.device_map import DeviceMap
from acccmp.models.device_graph import split_input
from acccmp.reports.pair import Pair, Verdict


def mark_outputs(
    rows: list[Pair], gold: Golden, model: Graph | None, device: DeviceMap | None, ends: Sequence[Port],
    notes: list[str],
) -> list[Pair]:
    """`rows` with those marked that stand for the model's outputs; outputs that nothing stands for are added.

    `ends` are the golden ports that a mapping names when both dumps are of the device.
    """
    is_whole = device is not None and all(
        key is None or gold.has_in_model(key[0]) for key in (device.trail(t).key for t in device.graph.outputs)
    )
    if device is not None and device.graph.outputs and is_whole:
        return _mark_by_mapping(rows, gold, device)
    wanted = list(ends) or _outputs_of_golden(gold, model, device.graph if device is not None and is_whole else None)
    if not wanted:
        names = [port.node for port in gold.dump if port.side == "output"]
        if not names:
            return rows
        wanted = [port for port in gold.dump if port.side == "output" and port.node == names[-1]]
        notes.append(
            f"nothing says which tensors the model's outputs are: those of the last golden op ({names[-1]}) are taken"
        )
    return _marked(rows, gold, wanted)


def _outputs_of_golden(gold: Golden, model: Graph | None, mapping: Graph | None) -> list[Port]:
    found: list[Port] = []
    for tensor in mapping.io.outputs if mapping is not None else ():
        if tensor.made_by is not None:
            found.append(gold.find(tensor.made_by.node, tensor.made_by.index).port)
    if found:
        return found
    found = [gold.find(port.node, port.index).port for port in gold.dump.run.outputs]
    if not found and model is not None:
        made = [model.producer(tensor) for tensor in model.outputs]
        found = [gold.find(port.node, port.index).port for port in made if port is not None]
    return list(dict.fromkeys(found))


def _marked(rows: list[Pair], gold: Golden, wanted: Iterable[Port]) -> list[Pair]:
    """Rows whose golden tensor is an output: the last one that has an NPU tensor, else a missing one."""
    out = list(rows)
    for port in wanted:
        places = [i for i, row in enumerate(out) if row.golden_port == port and row.port.side == "output"]
        better = [i for i in places if out[i].npu is not None or out[i].verdict is Verdict.UNREADABLE]
        places = better or [i for i in places if out[i].verdict is not Verdict.FUSED] or places
        if not places:
            ref = gold.ref(port.node, "output", port.index)
            reason = "no device tensor stands for this model output"
            out.append(Pair(
                port, port, ref, verdict=Verdict.NO_NPU, reason=reason, originals=(port.node,), is_output=True,
                order=max((row.order for row in rows), default=0), group=-1,
            ))
            continue
        for i in places:
            out[i] = replace(out[i], is_output=True)
            if out[i].verdict is Verdict.FUSED:
                out[i] = replace(out[i], verdict=Verdict.NO_NPU, reason=f"a model output, but {out[i].reason}")
    return out


def _mark_by_mapping(rows: list[Pair], gold: Golden, device: DeviceMap) -> list[Pair]:
    out = list(rows)
    for place, tensor in enumerate(device.graph.outputs):
        trail = device.trail(tensor)
        by_port: dict[Port, int] = {}
        for i, row in enumerate(out):  # a fused original may have the name of a device op, whose row comes first
            by_port.setdefault(row.port, i)
        ports = [Port(*_output_port(step)) for step in trail.visited]
        ports += [
            Port(node.name, "input", place) for node in device.graph.nodes
            if node.op_type == "NetOutput" and place < len(node.inputs) and node.inputs[place] == tensor
        ]
        there = [by_port[port] for port in ports if port in by_port]
        judged = [i for i in there if out[i].npu is not None or out[i].verdict is Verdict.UNREADABLE]
        if judged or there:
            i = (judged or there)[0]
            out[i] = replace(out[i], is_output=True)
            if out[i].verdict is Verdict.FUSED:
                out[i] = replace(out[i], verdict=Verdict.NO_NPU, reason=f"a model output, but {out[i].reason}")
        elif trail.key is not None:
            out = _marked(out, gold, [gold.find(*trail.key).port])
        else:
            port = Port(*_output_port(tensor))
            out.append(Pair(
                port, verdict=Verdict.NO_NPU, reason="a model output that was not dumped", is_output=True,
                order=device.order.get(port.node, len(device.nodes)), group=device.group.get(port.node, -1),
            ))
    return out


def _output_port(tensor: str) -> tuple[str, Side, int]:
    name, index = split_input(tensor)
    return name, "output", index


@dataclass(frozen=True)
class _Valid:
    pattern: str
    axis: int
    count: int


def restrict(rows: list[Pair], valid: Sequence[str], gold: Golden) -> list[Pair]:
    """`rows` with the valid regions that `valid` sets. Raises InputError for what cannot be understood or met."""
    for text in valid:
        rule = _parse_valid(text)
        hit = False
        for place, row in enumerate(rows):
            if row.golden is None or row.npu is None or row.verdict is not None:
                continue
            names = {row.port.node, str(row.port)}
            if row.golden_port is not None:
                names |= {row.golden_port.node, str(row.golden_port)}
            if gold.model is not None and row.golden_port is not None:
                names.add(gold.model.tensor(row.golden_port) or "")
            if not any(name and fnmatchcase(name, rule.pattern) for name in names):
                continue
            hit = True
            shape = row.extent or row.golden.own_shape
            axis = rule.axis + len(shape) if rule.axis < 0 else rule.axis
            if not 0 <= axis < len(shape) or rule.count > row.golden.own_shape[axis]:
                raise InputError(f"--valid {text}: {row.golden_port} is {shape_text(row.golden.own_shape)}")
            extent = (*shape[:axis], rule.count, *shape[axis + 1:])
            note = f"only the first {rule.count} along axis {rule.axis} are compared"
            rows[place] = replace(row, extent=extent, cut=row.cut | {axis}, notes=(*row.notes, note))
        if not hit:
            raise InputError(f"--valid {text}: no compared tensor has this name")
    return rows


def _parse_valid(text: str) -> _Valid:
    name, equals, rest = text.rpartition("=")
    axis, colon, count = rest.partition(":")
    try:
        if not (name and equals and colon) or int(count) < 1:
            raise ValueError
        return _Valid(name, int(axis), int(count))
    except ValueError:
        raise InputError(f"--valid {text!r}: write NAME=AXIS:N, for example logits=0:4") from None
