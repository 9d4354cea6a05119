"""The two dumps and the mapping by name: true names first, flattened ones where they are unique."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath

from acccmp.core.dump import Broken, Dump, Origin, Port, Side, flatten_name
from acccmp.core.graph import Graph
from acccmp.core.tensor import TensorRef


def why(broken: Broken) -> str:
    """Which file could not be read, and what is wrong with it."""
    name = PurePath(broken.path).name
    return broken.reason if name in broken.reason or not name else f"{name}: {broken.reason}"


@dataclass(frozen=True)
class Found:
    """A golden tensor that was looked up: where it should be, the tensor if it is there, why not otherwise."""

    port: Port
    ref: TensorRef | None
    reason: str = ""
    is_broken: bool = False


class Dumped:
    """A dump by op name: true names first, flattened ones where they are unique."""

    def __init__(self, dump: Dump) -> None:
        self.dump = dump
        self.ports: dict[str, dict[tuple[str, int], Port]] = {}
        for port in dump:
            self.ports.setdefault(port.node, {})[port.side, port.index] = port
        self.broken: dict[str, list[Broken]] = {}
        for broken in dump.broken:
            self.broken.setdefault(broken.port.node if broken.port else broken.name, []).append(broken)
        self._flat: dict[str, list[str]] = {}
        for name in [*self.ports, *(name for name in self.broken if name not in self.ports)]:
            self._flat.setdefault(flatten_name(name), []).append(name)

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(self.ports) | frozenset(self.broken)

    def name_of(self, name: str) -> str | None:
        """The name that this dump has for the op `name`, None if it has none or several that could be it."""
        if name in self.ports or name in self.broken:
            return name
        found = self._flat.get(flatten_name(name), [])
        return found[0] if len(found) == 1 else None

    def ref(self, name: str | None, side: Side, index: int) -> TensorRef | None:
        port = self.ports.get(name or "", {}).get((side, index))
        return self.dump[port] if port is not None else None

    def indices(self, name: str | None, side: Side) -> list[int]:
        return sorted(index for found, index in self.ports.get(name or "", {}) if found == side)

    def why_broken(self, name: str | None, side: Side, index: int) -> str:
        """Why the file that should hold this port could not be read; "" if nothing says so."""
        for broken in self.broken.get(name or "", ()):
            if broken.port is None or (broken.port.side, broken.port.index) == (side, index):
                return why(broken)
        return ""

    def address(self, name: str | None, side: Side, index: int) -> int | None:
        op = self.dump.ops.get(name or "")
        return op.addresses.get((side, index)) if op is not None else None

    def written_origin(self, name: str, index: int) -> Origin | None:
        """The original that the dump's own header names for an output."""
        op = self.dump.ops.get(name)
        return op.origins.get(index) if op is not None else None


class Golden(Dumped):
    """The golden dump, looked up by original name and output index."""

    def __init__(self, dump: Dump, model: Graph | None, names: Iterable[str]) -> None:
        """`names` are the true names that will be asked for; those that flatten alike cannot be told apart."""
        super().__init__(dump)
        self.model = model
        self.place = {name: i for i, name in enumerate(self.ports)}
        self.tensors = {tensor: port for port, tensor in dump.run.tensors.items()}
        known: dict[str, set[str]] = {}
        for name in [node.name for node in model.nodes] if model is not None else names:
            known.setdefault(flatten_name(name), set()).add(name)
        self._collisions = {key: names for key, names in known.items() if len(names) > 1}

    def find(self, name: str, index: int) -> Found:
        """The golden tensor of output `index` of the original `name` (a node, or a tensor by its own name)."""
        named = self.name_of(name)
        if flatten_name(name) in self._collisions and (self.dump.flat_names or named != name):
            others = ", ".join(sorted(self._collisions[flatten_name(name)]))
            return Found(Port(name, "output", index), None, f"what is there of this name could be any of: {others}")
        if named is None:
            alias = self._alias(name, index)
            if alias is None:
                return Found(Port(name, "output", index), None)
            named, index = self.name_of(alias.node), alias.index
            if named is None:
                return Found(alias, None)
        ref = self.ref(named, "output", index)
        port = Port(named, "output", index)
        if ref is None:
            reason = self.why_broken(named, "output", index)
            return Found(port, None, reason, bool(reason))
        return Found(port, ref)

    def own_input(self, port: Port) -> Found | None:
        """The tensor at this same input port, where golden has its inputs too."""
        named = self.name_of(port.node)
        ref = self.ref(named, "input", port.index)
        return Found(port._replace(node=named), ref) if named is not None and ref is not None else None

    def _alias(self, name: str, index: int) -> Port | None:
        """What else `name` may mean: the model's other name for the node, or a tensor."""
        for text in (name, f"{name}:{index}"):
            if text in self.tensors:
                return self.tensors[text]
        if self.model is not None:
            made = self.model.producer(name)
            if made is not None and made.node != name:
                return made
            others = self.model.aliases.get(name, ())
            if len(others) == 1:
                return Port(others[0], "output", index)
        return None

    def knows(self, name: str) -> bool:
        """Is `name` an op (or a tensor) of the original? Without the model: is there anything golden of it?"""
        if self.model is not None and (name in self.model or self.model.producer(name) is not None):
            return True
        return self.name_of(name) is not None or name in self.tensors

    def has_in_model(self, name: str) -> bool:
        """Is `name` an op or a tensor of the model? Without the model: nothing speaks against it."""
        return self.model is None or self.knows(name)

    def is_input(self, name: str) -> bool:
        if name in self.dump.run.inputs:
            return True
        if self.model is None:
            return False
        made = (self.model.producer(tensor) for tensor in self.model.inputs)
        return name in self.model.inputs or any(port is not None and port.node == name for port in made)

    def is_constant(self, name: str) -> bool:
        return self.model is not None and (name in self.model.constants or name in self.model.weights)

    def layout(self, port: Port) -> str | None:
        """The order of a tensor's axes, as the model has it."""
        tensor = self.model.tensor(port) if self.model is not None else None
        return self.model.spec(tensor).layout if self.model is not None and tensor is not None else None

    def depth(self, name: str) -> int | None:
        """Place in execution: the model's, else the golden dump's; None if neither knows the name."""
        if self.model is not None and name in self.model:
            return self.model.depth[name]
        if self.model is not None:
            return None
        found = self.name_of(name)
        return self.place.get(found) if found is not None else None
