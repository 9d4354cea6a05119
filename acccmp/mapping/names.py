"""Names of ops as models, compilers and file names have them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from acccmp.core.graph import Graph
from acccmp.models.device_graph import TASKLESS, all_nodes

_FLATTENED = re.compile(r"[ ./\\]")


def flat(name: str) -> str:
    """A name as file names have it: space, `.`, `/` and `\\` become `_`."""
    return _FLATTENED.sub("_", name)


def node_names(mapping: Graph) -> set[str]:
    return {node.name for node in all_nodes(mapping)}


def wanted_originals(mapping: Graph) -> set[str]:
    """Originals that the outputs of device ops name; all originals where no output names any."""
    named = {
        spec.origin.node
        for graph in _graphs(mapping) for spec in graph.tensors.values() if spec.origin and spec.origin.node
    }
    own = {
        name for node in all_nodes(mapping) if node.op_type not in TASKLESS
        for name in (node.origins if node.origins is not None else (node.name,))
    }
    return named or own


def _graphs(graph: Graph) -> Iterable[Graph]:
    yield graph
    for node in graph.nodes:
        for inner in node.subgraphs.values():
            yield from _graphs(inner)


def share(wanted: Iterable[str], known: Iterable[str]) -> float:
    """Share of `wanted` that is in `known`, flattened names allowed; 1 for nothing wanted."""
    names = set(known)
    flattened = {flat(name) for name in names}
    found = [name in names or flat(name) in flattened for name in wanted]
    return sum(found) / len(found) if found else 1.0
