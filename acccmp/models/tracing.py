"""Which original tensor a device tensor stands for, by what the compiler wrote down; and the other way round."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property

from acccmp.core.dump import Port
from acccmp.core.graph import Graph, Node, Origin


class Trace:
    """A device model's ops and tensors tied to those of an original model.

    `mapping` is the device model as a Graph (from an .om, ATC's JSON or a build graph), `model` the original; without
    one, every original name counts as known.
    """

    def __init__(self, mapping: Graph, model: Graph | None = None) -> None:
        self.mapping = mapping
        self.model = model

    @cached_property
    def device_names(self) -> frozenset[str]:
        return frozenset(node.name for node in self.mapping.nodes)

    def originals(self, node: Node) -> tuple[str, ...]:
        """Names of the original nodes that a device op implements; its own where the compiler wrote nothing."""
        if node.origins is not None:
            return tuple(name for name in node.origins if name)
        return (node.name,) if self._is_original(node.name) else ()

    def _is_original(self, name: str) -> bool:
        return self.model is None or name in self.model or name in self.model.inputs

    @cached_property
    def groups(self) -> Mapping[str, frozenset[str]]:
        """Device op -> the nodes of the original that it implements, for ops that implement any."""
        found = {}
        for node in self.mapping.nodes:
            names = frozenset(n for n in self.originals(node) if self.model is None or n in self.model)
            if names:
                found[node.name] = names
        return found

    def ops_of(self, names: Collection[str]) -> tuple[str, ...]:
        """Device ops that implement any of these original nodes, in the device's order."""
        wanted = set(names)
        return tuple(op for op, members in self.groups.items() if members & wanted)

    def origin(self, port: Port) -> Origin | None:
        """The original tensor that stands at a device port; None if it cannot be traced to one.

        An output's own `_datadump_origin_name` counts first. Without one, ops that the compiler made (original names
        present and empty) pass on what they were fed with; an op with originals stands for its last one. An input is
        the output that feeds it.
        """
        if port.node not in self.mapping:
            return None
        node, index = self.mapping[port.node], port.index
        seen: set[str] = set()
        if port.side == "input":
            if index >= len(node.inputs) or not node.inputs[index]:
                return None
            before = self.mapping.producer(node.inputs[index])
            if before is None or before.node not in self.mapping:
                return None
            node, index = self.mapping[before.node], before.index
        while node.name not in seen:
            seen.add(node.name)
            tensor = node.outputs[index] if index < len(node.outputs) else ""
            written = self.mapping.spec(tensor).origin if tensor else None
            if written is not None and written.node:
                return written
            names = self.originals(node)
            if names:
                name = self._last(names)
                return Origin(name, index, *((written.layout, written.shape, written.dtype) if written else ()))
            feeds = [tensor for tensor in node.inputs if tensor]
            if node.origins is None or len(feeds) != 1:
                return None
            before = self.mapping.producer(feeds[0])
            if before is None or before.node not in self.mapping:
                return None
            node, index = self.mapping[before.node], before.index
        return None

    def _last(self, names: tuple[str, ...]) -> str:
        """Of several originals the one that runs last (the compiler's list is in no order)."""
        if self.model is None:
            return names[-1]
        depth = self.model.depth
        return max(names, key=lambda name: depth.get(name, -1))

    @cached_property
    def _carriers(self) -> Mapping[Port, tuple[Port, ...]]:
        found: dict[Port, list[Port]] = {}
        for node in self.mapping.nodes:
            ports = [Port(node.name, "input", i) for i in range(len(node.inputs))]
            ports += [Port(node.name, "output", i) for i in range(len(node.outputs))]
            for port in ports:
                origin = self.origin(port)
                if origin is not None:
                    found.setdefault(Port(origin.node, "output", origin.index), []).append(port)
        return {port: tuple(ports) for port, ports in found.items()}

    def carriers(self, original: Port) -> tuple[Port, ...]:
        """Every device port where the original's output port `original` can be found, in the device's order."""
        return self._carriers.get(original, ())
