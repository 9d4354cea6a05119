"""DeviceMap: which device op stands for which original nodes, and the other way round.

The one place that answers this, for comparing, for slicing and for feeding. It is made from a device model (an .om,
ATC's JSON, a build graph), or from names alone (`acccmp.mapping.names`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Protocol, TypeVar

from acccmp.core.dump import Port, flatten_name
from acccmp.core.graph import Graph, ModelTensor, Node, TensorSpec
from acccmp.core.names import op_of
from acccmp.errors import InputError, UnknownName
from acccmp.mapping.trace import QUANTISING, Trail, trail
from acccmp.models.device_graph import INPUT_OPS, TASKLESS, all_nodes, split_input

_QUANT = re.compile(r"_quant_layer|/AscendQuant|/AscendWeightQuant|\.quant|\.weight_quant")
_DEQUANT = re.compile(r"_dequant_layer|_anti_quant_layer|/AscendDequant|/AntiQuant|\.dequant|\.anti_quant")

Key = TypeVar("Key")
Thing = TypeVar("Thing")


class Originals(Protocol):
    """What is known of the original network: a model, or the golden dump of one."""

    def knows(self, name: str) -> bool:
        """Is `name` an op (or a tensor) of the original?"""
        ...

    def depth(self, name: str) -> int | None:
        """Its place in execution, or None."""
        ...


@dataclass(frozen=True)
class _Model:
    """A model as `Originals`; without one, every name counts as known."""

    graph: Graph | None

    def knows(self, name: str) -> bool:
        graph = self.graph
        return graph is None or name in graph or name in graph.inputs or graph.producer(name) is not None

    def depth(self, name: str) -> int | None:
        return self.graph.depth.get(name) if self.graph is not None else None


def _grouped(pairs: Iterable[tuple[Key, Thing]]) -> dict[Key, tuple[Thing, ...]]:
    """All things of each key, in their order."""
    found: dict[Key, list[Thing]] = {}
    for key, thing in pairs:
        found.setdefault(key, []).append(thing)
    return {key: tuple(things) for key, things in found.items()}


@dataclass(frozen=True, eq=False)
class DeviceMap:
    """A device model's ops and tensors tied to those of an original, its sub-graphs opened.

    `graph` is the device model; `known` is the original (see `beside`), without one every name counts as known.
    `is_by_name`: names alone made it. `of_device`: its originals are ops of another device model (a build without
    fusion).

    >>> acccmp.DeviceMap(acccmp.load("mapping.json"))
    DeviceMap(20 ops that stand for 32 originals, from mapping.json)
    """

    graph: Graph
    known: Originals = _Model(None)
    is_by_name: bool = False
    of_device: bool = False

    def __repr__(self) -> str:
        originals = len(set().union(*self.groups.values()))
        return f"DeviceMap({len(self.groups)} ops that stand for {originals} originals, from {self})"

    def __str__(self) -> str:
        return str(self.graph.path or self.graph.name)

    def beside(self, original: Graph | Originals) -> DeviceMap:
        """The same with its names looked up in an original: a model, or whatever else knows the names."""
        return replace(self, known=_Model(original) if isinstance(original, Graph) else original)

    @property
    def model(self) -> Graph | None:
        """The original model, where that is what its names are looked up in."""
        return self.known.graph if isinstance(self.known, _Model) else None

    # -- the device model ----------------------------------------------------------------------------------------

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """All device ops in the device's order, those of sub-graphs behind their owners."""
        return tuple(all_nodes(self.graph))

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        return {node.name: node for node in self.nodes}

    def node(self, name: str) -> Node | None:
        """The device op of this name, which may be flattened; None if there is none or if it could be several."""
        found = self._flattened.get(name, ())
        return self.by_name.get(name) or (found[0] if len(found) == 1 else None)

    @cached_property
    def _flattened(self) -> Mapping[str, tuple[Node, ...]]:
        return _grouped((flatten_name(node.name), node) for node in self.nodes)

    @cached_property
    def order(self) -> Mapping[str, int]:
        """Device op -> its place."""
        return {node.name: place for place, node in enumerate(self.nodes)}

    def tensor(self, port: Port, inputs: int = 0) -> str:
        """The device tensor at a port of a dump; "" where the mapping has none.

        `inputs` is how many inputs the dump has of the op: optional ones that were not given may be left out there.
        """
        node = self.node(port.node)
        if node is None:
            return ""
        if port.side == "output":
            return f"{node.name}:{port.index}"
        tensors = node.inputs if inputs == len(node.inputs) else tuple(filter(None, node.inputs))
        return tensors[port.index] if port.index < len(tensors) else ""

    @cached_property
    def redirect(self) -> Mapping[str, str]:
        """Tensors at the border of sub-graphs -> the tensor on the other side of it."""
        found: dict[str, str] = {}
        for node in self.nodes:
            for inner in node.subgraphs.values():
                for part in inner.nodes:
                    index = part.attrs.get("_parent_node_index", part.attrs.get("index"))
                    is_input = part.op_type in INPUT_OPS and bool(part.outputs)
                    if is_input and isinstance(index, int) and index < len(node.inputs):
                        found[part.outputs[0]] = node.inputs[index]
                if len(node.subgraphs) == 1:
                    found.update((f"{node.name}:{place}", tensor) for place, tensor in enumerate(inner.outputs))
        return found

    @cached_property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Tensors of all graphs of the device model."""
        graphs = [self.graph, *(inner for node in self.nodes for inner in node.subgraphs.values())]
        return {name: spec for graph in reversed(graphs) for name, spec in graph.tensors.items()}

    def spec(self, tensor: str) -> TensorSpec | None:
        """What the device model says of a tensor of any of its graphs."""
        return self.specs.get(tensor) or self.specs.get(self.redirect.get(tensor, ""))

    @cached_property
    def hints(self) -> Mapping[str, ModelTensor]:
        """What is written about the model's outputs, by the device tensor."""
        told = self.graph.io.outputs
        return dict(zip(self.graph.outputs, told, strict=True)) if len(told) == len(self.graph.outputs) else {}

    # -- ops -----------------------------------------------------------------------------------------------------

    @cached_property
    def group(self) -> Mapping[str, int]:
        """Device op -> number of its group: the ops that together implement the same originals (specs, 5.2)."""
        keys: dict[object, int] = {}
        found = {}
        for node in self.nodes:
            l1 = node.attrs.get("_L1_fusion_sub_graph_no")
            key: object = node.origins or node.name
            if l1 not in (None, ""):
                key = ("L1", l1)
            elif node.origins and len(node.origins) == 1:
                key = node.origins[0]
            found[node.name] = keys.setdefault(key, len(keys))
        return found

    @cached_property
    def members(self) -> Mapping[int, tuple[Node, ...]]:
        """Number of a group -> its ops."""
        return _grouped((self.group[node.name], node) for node in self.nodes)

    def originals(self, node: Node) -> tuple[str, ...]:
        """Names of the original nodes that a device op implements; its own where the compiler wrote nothing."""
        if node.origins is not None:
            return tuple(name for name in node.origins if name)
        return (node.name,) if self.known.knows(node.name) else ()

    def group_originals(self, node: Node) -> tuple[str, ...]:
        """The originals that the group of `node` implements; () for a compiler-made op."""
        if node.origins == ():
            return ()
        found: dict[str, None] = {}
        for member in self.members[self.group[node.name]]:
            found.update(dict.fromkeys(member.origins if member.origins is not None else (member.name,)))
        return tuple(found)

    @cached_property
    def groups(self) -> Mapping[str, frozenset[str]]:
        """Device op -> the nodes of the original that it implements, for ops that implement any."""
        found = {}
        for node in self.nodes:
            names = frozenset(n for name in self.originals(node) if (n := self._node(name)) is not None)
            if names:
                found[node.name] = names
        return found

    def _node(self, name: str) -> str | None:
        """The model's node for a name that the compiler wrote: a node's, or that of what a node makes."""
        if self.model is None or name in self.model:
            return name
        made = self.model.producer(name)
        return made.node if made is not None and made.node in self.model else None

    def original_of(self, name: str, at: Literal["start", "end"]) -> str:
        """What a name from any screen (device op, port, node, tensor) stands for in the original model.

        Of a device op that implements several nodes it is the one that runs first (`start`) or last. Names of the
        original are given back as they are. Raises UnknownName, and InputError for an op that the compiler made and
        that carries no tensor of the original.
        """
        graph, op = self.model, op_of(name)
        assert graph is not None, "beside a model"
        if self._is_of(graph, name):
            return name
        if op in self.groups:
            choose = min if at == "start" else max
            return choose(self.groups[op], key=lambda member: graph.depth.get(member, -1))
        if op in self.by_name:
            way = self.arrival(Port(op, "output", 0))
            carried = self._tensor(*way.key)[0] if way is not None and way.key is not None else ""
            if carried in graph or carried in graph.inputs:
                return carried
            raise InputError(f"the device op {op!r} was made by the compiler and stands for nothing in {graph.name}; "
                             "name the op before or after it")
        made = (tensor for node in graph.nodes for tensor in node.outputs if tensor)
        raise UnknownName(
            "node, tensor or device op", name, [*graph.depth, *made, *self.groups], graph.name or "the model",
        )

    def _is_of(self, graph: Graph, name: str) -> bool:
        if name in graph or name in graph.inputs or name in graph.weights or name in graph.aliases:
            return True
        return op_of(name) in graph or any(graph.producer(tensor) is not None for tensor in (name, f"{name}:0"))

    def ops_of(self, names: Collection[str]) -> tuple[str, ...]:
        """Device ops that implement any of these original nodes, in the device's order."""
        wanted = set(names)
        return tuple(op for op, members in self.groups.items() if members & wanted)

    def implementers(self, original: str) -> tuple[Node, ...]:
        """The device ops that say that they implement an original; its name may be flattened."""
        return self._implementers.get(original) or self._implementers.get(flatten_name(original), ())

    @cached_property
    def _implementers(self) -> Mapping[str, tuple[Node, ...]]:
        return _grouped(
            (key, node) for node in self.nodes for name in (node.origins if node.origins is not None else (node.name,))
            for key in {name, flatten_name(name)}
        )

    @cached_property
    def wanted_originals(self) -> frozenset[str]:
        """Originals that the outputs of device ops name; all originals where no output names any."""
        named = {spec.origin.node for spec in self.specs.values() if spec.origin and spec.origin.node}
        own = {
            name for node in self.nodes if node.op_type not in TASKLESS
            for name in (node.origins if node.origins is not None else (node.name,))
        }
        return frozenset(named or own)

    @cached_property
    def quantised(self) -> frozenset[str]:
        """Ops that make quantised values: those that quantise, and all after them up to those that dequantise."""
        made: set[str] = set()
        for node in self.nodes:
            names = " ".join([node.name, *(node.origins or ())])
            spec = self.spec(node.outputs[0]) if node.outputs else None
            dtype = spec.dtype if spec is not None else None
            if (node.op_type in QUANTISING or _QUANT.search(names)) and (dtype is None or dtype.name == "int8"):
                made.add(node.name)
            elif node.op_type == "AscendDequant" or _DEQUANT.search(names):
                continue
            elif (dtype is None or dtype.kind == "int") and any(
                split_input(tensor)[0] in made for tensor in node.inputs if tensor
            ):
                made.add(node.name)
        return frozenset(made)

    @cached_property
    def after_quantisation(self) -> frozenset[str]:
        """Ops whose numbers come, near or far, from those that were stored as 8-bit integers."""
        found: set[str] = set()
        for node in self.nodes:
            spec = self.spec(node.outputs[0]) if node.outputs else None
            is_int8 = spec is not None and spec.dtype is not None and spec.dtype.name == "int8"
            feeds = (split_input(self.redirect.get(tensor, tensor))[0] for tensor in node.inputs if tensor)
            if node.op_type in QUANTISING or (is_int8 and node.name in self.quantised) or found.intersection(feeds):
                found.add(node.name)
        return frozenset(found)

    # -- tensors -------------------------------------------------------------------------------------------------

    def arrival(self, port: Port) -> Trail | None:
        """How an original tensor, quantised or not, came to a device port; None where none can be traced to it."""
        return self._arrivals.get(port)

    def carriers(self, original: Port) -> tuple[Port, ...]:
        """Every device port where the original's output port `original` can be found, in the device's order."""
        return self._carriers.get(original, ())

    @cached_property
    def _arrivals(self) -> Mapping[Port, Trail]:
        found: dict[Port, Trail] = {}
        for node in self.nodes:
            ports = [(Port(node.name, "input", i), tensor) for i, tensor in enumerate(node.inputs) if tensor]
            ports += [(Port(node.name, "output", i), tensor) for i, tensor in enumerate(node.outputs) if tensor]
            for port, tensor in ports:
                way = self.trail(tensor)
                if way.key is not None:
                    found[port] = way
        return found

    def _tensor(self, name: str, index: int) -> tuple[str, int]:
        """(node, output index) of the model for what the compiler wrote: it may have named the tensor itself."""
        if self.model is not None and name not in self.model:
            made = self.model.producer(name)
            if made is not None:
                return made.node, made.index
        return name, index

    @cached_property
    def _carriers(self) -> Mapping[Port, tuple[Port, ...]]:
        traced = ((self._tensor(*way.key), port) for port, way in self._arrivals.items() if way.key is not None)
        return _grouped((Port(name, "output", index), port) for (name, index), port in traced)

    def trail(self, tensor: str) -> Trail:
        """The way from a device tensor back to its original; see `acccmp.mapping.trace`."""
        return trail(self, tensor)
