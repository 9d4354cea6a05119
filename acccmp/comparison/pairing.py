"""Which golden tensor stands beside which NPU tensor.

An original and a device meet through the mapping (`by_mapping`), two devices op by op (`by_op`). The rules are those of
the specs of the Ascend dumps, section 5.3. Nothing is read here but names, shapes and layouts. `pair` gives every port
one `Pair`; those without a verdict are measured and judged by `compare.compare_pair`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from acccmp.comparison.by_mapping import by_mapping
from acccmp.comparison.by_op import by_op
from acccmp.comparison.lookup import Dumped, Golden
from acccmp.comparison.outputs import mark_outputs, restrict
from acccmp.core.dump import Dump, Port, flatten_name
from acccmp.core.graph import Graph
from acccmp.core.tensor import DTYPES
from acccmp.mapping.belongs import check_belongs
from acccmp.mapping.device_map import DeviceMap
from acccmp.mapping.names import by_names
from acccmp.models.device_graph import split_input
from acccmp.reports.pair import Pair, Pairing


def pair(
    golden: Dump,
    npu: Dump,
    mapping: DeviceMap | None = None,
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
    notes: list[str] = []
    belongs = ""
    if golden.kind == "npu" and not (mapping is not None and mapping.of_device):
        gold = Golden(golden, model, ())
        if mapping is not None:
            belongs = check_belongs(mapping, model, npu)
            notes.append("both dumps are of the device: ops are paired by name, the mapping says what they stand for")
        ends = [Port(name, "output", i) for name, i in map(split_input, mapping.graph.outputs)] if mapping else []
        rows, told = mark_outputs(by_op(gold, dumped, mapping), gold, model, None, ends)
    else:
        if mapping is None:
            mapping = by_names(npu, model if model is not None else golden)
            notes.append("without a mapping, ops are paired by name; fused ops of other names have no partner then")
        asked = mapping.wanted_originals if not mapping.is_by_name else () if npu.flat_names else dumped.names
        gold = Golden(golden, model, asked)
        belongs = check_belongs(mapping, golden if model is None or mapping.is_by_name else model, npu)
        device = mapping.beside(gold)
        rows, said = by_mapping(device, gold, dumped)
        notes += said
        rows, told = mark_outputs(rows, gold, model, device, [])
    notes += told
    rows = _with_floors(rows, floors or {})
    if coarse := sum(row.coarsest is DTYPES["int8"] and row.verdict is None for row in rows):
        notes.append(f"{coarse} ports depend on numbers that were stored as int8: their limits are fixed")
    rows = restrict(rows, valid, gold)
    rows.sort(key=lambda row: (row.order, row.port.side == "output"))
    return Pairing(tuple(rows), tuple(dict.fromkeys(notes)), belongs)


def _with_floors(rows: list[Pair], floors: Mapping[Port, float]) -> list[Pair]:
    """`rows` with the floor of the original that stands beside each; names may be flattened on one side."""
    flattened = {port._replace(node=flatten_name(port.node)): floor for port, floor in floors.items()}
    found = []
    for row in rows:
        port = row.golden_port
        if port is not None and floors and row.coarsest is not DTYPES["int8"]:  # storage alone explains less
            floor = floors.get(port, flattened.get(port._replace(node=flatten_name(port.node)), math.nan))
            row = replace(row, floor=floor)
        found.append(row)
    return found
