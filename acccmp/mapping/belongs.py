"""Do a model, a mapping and a dump belong together?"""

from __future__ import annotations

import math

from acccmp.core import layout as layouts
from acccmp.core.dump import Dump, flatten_name
from acccmp.core.graph import Graph
from acccmp.core.tensor import TensorRef
from acccmp.errors import MappingError
from acccmp.mapping.trace import PASSING


def _check_names(golden: Dump, npu: Dump) -> None:
    """Raises MappingError for two dumps of different models: few names in common, and those of other sizes."""
    mine = {flatten_name(port.node): ref for port, ref in golden.items() if port.side == "output" and not port.index}
    theirs = {flatten_name(port.node): ref for port, ref in npu.items() if port.side == "output" and not port.index}
    common = mine.keys() & theirs.keys()
    if not common or 2 * len(common) >= min(len(mine), len(theirs)):
        return
    odd = [name for name in common if not _could_be(mine[name], theirs[name])]
    if 2 * len(odd) > len(common):
        raise MappingError(
            f"the NPU dump {npu.path} is not of the model of the golden dump {golden.path}: only {len(common)} of its "
            f"{len(theirs)} ops have a name of golden's, and {len(odd)} of those cannot hold golden's tensor "
            f"(such as {sorted(odd)[0]!r})"
        )


def _could_be(golden: TensorRef, npu: TensorRef) -> bool:
    """Could the NPU's tensor hold golden's, by their sizes?"""
    if layouts.is_plain(npu.layout) or npu.original_shape is not None:
        return math.prod(golden.own_shape) == math.prod(npu.own_shape)
    return bool(layouts.candidates(npu.layout, npu.shape, golden.own_shape))


def check_belongs(graph: Graph, mapping: Graph | None, npu: Dump | None) -> list[str]:
    """Do mapping and dump belong to this model? Raises MappingError when fewer than half of the original names exist.

    Only another model name gives a note.
    """
    notes = []
    if mapping is not None:
        named = {name for node in mapping.nodes for name in (node.origins or ())}
        known = {name for name in named if name in graph or name in graph.inputs}
        if named and len(known) * 2 < len(named):
            raise MappingError(
                f"the mapping is of the model {mapping.name!r}, not of {graph.name!r}: only {len(known)} of its "
                f"{len(named)} original ops exist in the model; give the mapping that belongs to it"
            )
        if mapping.name and graph.name and mapping.name != graph.name:
            notes.append(f"the mapping calls its model {mapping.name!r}, this one is {graph.name!r}; their ops agree")
    if npu is not None and mapping is not None and npu.ops:
        device = {flatten_name(node.name) for node in mapping.nodes}
        strangers = [name for name in npu.ops if flatten_name(name) not in device]
        if len(strangers) * 2 > len(npu.ops):
            raise MappingError(
                f"the dump at {npu.path} is not of the mapping's model {mapping.name!r}: "
                f"{len(strangers)} of its {len(npu.ops)} ops are unknown to it (such as {strangers[0]!r})"
            )
    elif npu is not None and npu.ops:
        mine = {flatten_name(node.name) for node in graph.nodes} | {flatten_name(name) for name in graph.inputs}
        computing = [name for name, op in npu.ops.items() if op is None or op.op_type not in PASSING] or list(npu.ops)
        found = [name for name in computing if flatten_name(name) in mine]
        if len(found) * 2 < len(computing):
            raise MappingError(
                f"the dump at {npu.path} ({npu.model or 'no model name'}) is not of the model {graph.name!r}: "
                f"only {len(found)} of the dump's {len(computing)} ops have a name of its nodes; "
                "give the device's model as --mapping, or the dump of this model"
            )
    return notes
