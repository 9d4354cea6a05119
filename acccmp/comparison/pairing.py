"""Which golden tensor stands beside which NPU tensor: by mapping (the device model), or by name without one.

The rules are those of the specs of the Ascend dumps, section 5.3. Nothing is read here but names, shapes and layouts.
`pair` gives every port one `Pair`; those without a verdict are measured and judged by `compare.compare_pair`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from acccmp.comparison.by_mapping import Device, by_mapping
from acccmp.comparison.by_name import by_name
from acccmp.comparison.lookup import Dumped, Golden
from acccmp.comparison.outputs import mark_outputs, restrict
from acccmp.core.dump import Dump, Port
from acccmp.core.graph import Graph
from acccmp.errors import MappingError
from acccmp.mapping.names import flat, node_names, share, wanted_originals
from acccmp.models.device_graph import all_nodes, split_input
from acccmp.reports.pair import Pair, Pairing


def pair(
    golden: Dump,
    npu: Dump,
    mapping: Graph | None = None,
    model: Graph | None = None,
    *,
    floors: Mapping[Port, float] | None = None,
    valid: Sequence[str] = (),
) -> Pairing:
    """Every port of the device and of the original, each once; tensors are not read.

    `floors` are relative Euclidean distances by the original's output port. `valid` are `NAME=axis:n`: of the tensors
    of this op or port (patterns allowed) only the first n elements along that axis are compared.

    Raises MappingError when the mapping is of another model or of another dump, InputError for a `valid` that cannot
    be understood or names nothing.
    """
    dumped = Dumped(npu)
    asked = wanted_originals(mapping) if mapping is not None else () if npu.flat_names else dumped.names
    gold = Golden(golden, model, asked)
    notes: list[str] = []
    order: list[str] = []
    ends: list[Port] = []
    if mapping is not None and golden.kind == "npu" and (
        share(gold.names, node_names(mapping)) >= 0.5 > share(wanted_originals(mapping), gold.names)
    ):
        notes.append("both dumps are of the device: ops are paired by name, the mapping gives their order")
        order = [node.name for node in all_nodes(mapping)]
        ends = [Port(name, "output", index) for name, index in map(split_input, mapping.outputs)]
        mapping = None
    device = None
    if mapping is None:
        rows = by_name(gold, dumped, model, order, notes)
    else:
        _check_mapping(mapping, gold, dumped, model)
        device = Device(mapping, gold)
        rows = by_mapping(device, gold, dumped, notes)
    rows = mark_outputs(rows, gold, model, device, ends, notes)
    rows = _with_floors(rows, floors or {})
    rows = restrict(rows, valid, gold)
    rows.sort(key=lambda row: (row.order, row.port.side == "output"))
    return Pairing(tuple(rows), tuple(dict.fromkeys(notes)))


def _with_floors(rows: list[Pair], floors: Mapping[Port, float]) -> list[Pair]:
    """`rows` with the floor of the original that stands beside each; names may be flattened on one side."""
    flattened = {port._replace(node=flat(port.node)): floor for port, floor in floors.items()}
    found = []
    for row in rows:
        port = row.golden_port
        if port is not None and floors:
            floor = floors.get(port, flattened.get(port._replace(node=flat(port.node)), math.nan))
            row = replace(row, floor=floor)
        found.append(row)
    return found


def _check_mapping(mapping: Graph, gold: Golden, dumped: Dumped, model: Graph | None) -> None:
    """Raises MappingError when fewer than half of the names agree."""
    named = str(mapping.path or mapping.name)
    wanted = wanted_originals(mapping)
    if model is not None:
        known: set[str] = {*(node.name for node in model.nodes), *model.inputs, *model.weights, *gold.names}
        known |= {tensor for node in model.nodes for tensor in node.outputs}
        other = f"the model {model.path or model.name}"
    else:
        known = {*gold.names, *gold.tensors}
        other = f"the golden dump {gold.dump.path or gold.dump.model or '(in memory)'}"
    part = share(wanted, known)
    every = {name for node in all_nodes(mapping) for name in (node.origins or (node.name,))} | wanted
    back = share(gold.names, every)  # a golden dump of a few layers only is no other model's
    if part < 0.5 and (model is not None or back < 0.5):
        raise MappingError(
            f"the mapping {named} is not of {other}: {part:.0%} of the originals that it names are in it; "
            "give the mapping of the model that was dumped"
        )
    if dumped.names and share(dumped.names, node_names(mapping)) < 0.5:
        raise MappingError(
            f"the mapping {named} is not of the NPU dump {dumped.dump.path or '(in memory)'}: it has "
            f"{share(dumped.names, node_names(mapping)):.0%} of the dumped ops; "
            "give the mapping of the model that ran"
        )
