"""The device model as pairing needs it: its ops in order, in groups, and tied to the names of the golden dump."""

from __future__ import annotations

from functools import cached_property

from acccmp.comparison.lookup import Golden
from acccmp.core.graph import Graph, Node
from acccmp.mapping.names import flat
from acccmp.mapping.trace import Trace


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
