"""Which ports stand for the model's outputs, and which part of a tensor is valid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from acccmp.comparison.lookup import Golden
from acccmp.core.dump import Port, Side
from acccmp.core.graph import Graph, shape_text
from acccmp.errors import InputError
from acccmp.mapping.device_map import DeviceMap
from acccmp.models.device_graph import split_input
from acccmp.reports.pair import Pair, Verdict


def mark_outputs(
    rows: Sequence[Pair], gold: Golden, model: Graph | None, device: DeviceMap | None, ends: Sequence[Port],
) -> tuple[list[Pair], list[str]]:
    """`rows` with those marked that stand for the model's outputs; outputs that nothing stands for are added. And what
    is to be said of it.

    `ends` are the golden ports that a mapping names when both dumps are of the device.
    """
    is_whole = device is not None and all(
        key is None or gold.has_in_model(key[0]) for key in (device.trail(t).key for t in device.graph.outputs)
    )
    if device is not None and device.graph.outputs and is_whole:
        return _mark_by_mapping(rows, gold, device), []
    wanted = list(ends) or _outputs_of_golden(gold, model, device.graph if device is not None and is_whole else None)
    made = [port for port in gold.dump if port.side == "output"]
    if wanted or not made:
        return _marked(rows, gold, wanted), []
    last = made[-1].node
    note = f"nothing says which tensors the model's outputs are: those of the last golden op ({last}) are taken"
    return _marked(rows, gold, [port for port in made if port.node == last]), [note]


def _outputs_of_golden(gold: Golden, model: Graph | None, mapping: Graph | None) -> list[Port]:
    named = [tensor.made_by for tensor in mapping.io.outputs if tensor.made_by is not None] if mapping else []
    if found := [gold.find(made.node, made.index).port for made in named]:
        return found
    ends = gold.dump.run.outputs or ([model.producer(tensor) for tensor in model.outputs] if model is not None else [])
    return list(dict.fromkeys(gold.find(port.node, port.index).port for port in ends if port is not None))


def _marked(rows: Sequence[Pair], gold: Golden, wanted: Iterable[Port]) -> list[Pair]:
    """Rows whose golden tensor is an output: the last one that has an NPU tensor, else a missing one."""
    out = list(rows)
    for port in wanted:
        places = [i for i, row in enumerate(out) if row.golden_port == port and row.port.side == "output"]
        places = [i for i in places if _is_there(out[i])] or [
            i for i in places if out[i].verdict is not Verdict.FUSED] or places
        for i in places:
            out[i] = _as_output(out[i])
        if not places:
            ref = gold.ref(port.node, "output", port.index)
            reason = "no device tensor stands for this model output"
            out.append(Pair(
                port, port, ref, verdict=Verdict.NO_NPU, reason=reason, originals=(port.node,), is_output=True,
                order=max((row.order for row in rows), default=0), group=-1,
            ))
    return out


def _is_there(row: Pair) -> bool:
    """Was it dumped, readable or not?"""
    return row.npu is not None or row.verdict is Verdict.UNREADABLE


def _as_output(row: Pair) -> Pair:
    row = replace(row, is_output=True)
    if row.verdict is not Verdict.FUSED:
        return row
    return replace(row, verdict=Verdict.NO_NPU, reason=f"a model output, but {row.reason}")


def _mark_by_mapping(rows: Sequence[Pair], gold: Golden, device: DeviceMap) -> list[Pair]:
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
        if there:
            i = next((i for i in there if _is_there(out[i])), there[0])
            out[i] = _as_output(out[i])
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


def restrict(rows: Sequence[Pair], valid: Sequence[str], gold: Golden) -> list[Pair]:
    """`rows` with the valid regions that `valid` sets. Raises InputError for what cannot be understood or met."""
    out = list(rows)
    for text in valid:
        pattern, along, count = _parse_valid(text)
        hit = False
        for place, row in enumerate(out):
            if row.golden is None or row.npu is None or row.verdict is not None:
                continue
            known = gold.model.tensor(row.golden_port) if gold.model is not None and row.golden_port else None
            if not any(fnmatchcase(name, pattern) for name in (*names_of(row), known) if name):
                continue
            hit = True
            shape = row.extent or row.golden.own_shape
            axis = along + len(shape) if along < 0 else along
            if not 0 <= axis < len(shape) or count > row.golden.own_shape[axis]:
                raise InputError(f"--valid {text}: {row.golden_port} is {shape_text(row.golden.own_shape)}")
            extent = (*shape[:axis], count, *shape[axis + 1:])
            note = f"only the first {count} along axis {along} are compared"
            out[place] = replace(row, extent=extent, cut=row.cut | {axis}, notes=(*row.notes, note))
        if not hit:
            raise InputError(f"--valid {text}: no compared tensor has this name")
    return out


def names_of(row: Pair) -> tuple[str, ...]:
    """What options and rules may call a port: by its op, by itself, and by golden's."""
    ports = (row.port,) if row.golden_port is None else (row.port, row.golden_port)
    return tuple(name for port in ports for name in (port.node, str(port)))


def _parse_valid(text: str) -> tuple[str, int, int]:
    """(pattern, axis, how many along it)"""
    name, equals, rest = text.rpartition("=")
    axis, colon, count = rest.partition(":")
    try:
        if not (name and equals and colon) or int(count) < 1:
            raise ValueError
        return name, int(axis), int(count)
    except ValueError:
        raise InputError(f"--valid {text!r}: write NAME=AXIS:N, for example logits=0:4") from None
