"""Which original tensor a device tensor stands for, by what the compiler wrote down; and the other way round.

The one place that answers this, for comparing and for slicing. The rules are those of the specs of the Ascend dumps,
5.2 and 5.3: the written name counts first; without one the way leads back through what the compiler made.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from acccmp.core.dump import Origin, Port
from acccmp.core.graph import Graph, ModelTensor, Node, TensorSpec
from acccmp.core.tensor import DType
from acccmp.models.device_graph import CONSTANTS, INPUT_OPS, all_nodes, split_input

# Compiler-made ops that hand on the values of their first input, maybe in another dtype, layout or order.
PASSING = frozenset({
    "Cast", "TransData", "Transpose", "TransposeD", "Identity", "MemcpyAsync", "Reshape", "Squeeze", "Unsqueeze",
    "SqueezeV2", "UnsqueezeV2", "SqueezeV3", "UnsqueezeV3", "ExpandDims", "Flatten", "FlattenV2", "ReFormat",
    "TransDataRNN",
})
RESHAPING = PASSING - {"Cast", "TransData", "Identity", "MemcpyAsync"}  # the golden shape may be another one then
QUANTISING = frozenset({"AscendQuant", "AscendQuantV2"})
_QUANT = re.compile(r"_quant_layer|/AscendQuant|/AscendWeightQuant|\.quant|\.weight_quant")
_DEQUANT = re.compile(r"_dequant_layer|_anti_quant_layer|/AscendDequant|/AntiQuant|\.dequant|\.anti_quant")


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


@dataclass(frozen=True)
class Quantisation:
    """How a quantising op stored a number: q = round(x * scale) + offset."""

    scale: float
    offset: float = 0.0


@dataclass(frozen=True)
class Trail:
    """From a device tensor back to the original tensor that it stands for.

    `key` is (original, output index) or None with a `reason`. `written` and `spec` are what the compiler says of the
    device tensor itself. `steps` are the compiler-made ops in between; on the way the tensor may have been transposed
    by `axes` (device = original transposed by them), reshaped, or reordered in a way that nothing tells. `coarsest` is
    the float type with the fewest digits on the way. `is_quantised` where a quantising op stands on the way;
    `quantisation` is its rule where the mapping has it.
    """

    key: tuple[str, int] | None
    written: Origin | None
    spec: TensorSpec | None
    reason: str = ""
    steps: tuple[str, ...] = ()
    visited: tuple[str, ...] = ()
    axes: tuple[int, ...] | None = None
    is_reshaped: bool = False
    is_reordered: bool = False
    coarsest: DType | None = None
    is_constant: bool = False
    note: str = ""
    is_quantised: bool = False
    quantisation: Quantisation | None = None


class Trace:
    """A device model's ops and tensors tied to those of an original, its sub-graphs opened.

    `mapping` is the device model as a Graph (from an .om, ATC's JSON or a build graph), `model` the original, or
    whatever else knows its names; without one, every original name counts as known.
    """

    def __init__(self, mapping: Graph, model: Graph | Originals | None = None) -> None:
        self.mapping = mapping
        self.model = model if isinstance(model, Graph) else None
        self.known: Originals = _Model(model) if model is None or isinstance(model, Graph) else model
        self.nodes = tuple(all_nodes(mapping))
        self.by_name = {node.name: node for node in self.nodes}
        self.specs: dict[str, TensorSpec] = {}
        self.redirect: dict[str, str] = {}
        self._open(mapping)
        self.hints = self._output_hints()
        self.members: dict[int, list[Node]] = {}
        self.group: dict[str, int] = {}
        self._group()

    def _open(self, graph: Graph) -> None:
        self.specs.update({name: spec for name, spec in graph.tensors.items() if name not in self.specs})
        for node in graph.nodes:
            for inner in node.subgraphs.values():
                self._open(inner)
                for part in inner.nodes:
                    index = part.attrs.get("_parent_node_index", part.attrs.get("index"))
                    is_input = part.op_type in INPUT_OPS and bool(part.outputs)
                    if is_input and isinstance(index, int) and index < len(node.inputs):
                        self.redirect[part.outputs[0]] = node.inputs[index]
                if len(node.subgraphs) == 1:
                    for place, tensor in enumerate(inner.outputs):
                        self.redirect[f"{node.name}:{place}"] = tensor

    def _output_hints(self) -> dict[str, ModelTensor]:
        told = self.mapping.io.outputs
        if len(told) != len(self.mapping.outputs):
            return {}
        return dict(zip(self.mapping.outputs, told, strict=True))

    def _group(self) -> None:
        keys: dict[Any, int] = {}
        for node in self.nodes:
            l1 = node.attrs.get("_L1_fusion_sub_graph_no")
            key: Any
            if l1 not in (None, ""):
                key = ("L1", l1)
            elif node.origins is None or not node.origins:
                key = node.name
            else:
                key = node.origins[0] if len(node.origins) == 1 else node.origins
            number = keys.setdefault(key, len(keys))
            self.group[node.name] = number
            self.members.setdefault(number, []).append(node)

    def spec(self, tensor: str) -> TensorSpec | None:
        """What the device model says of a tensor of any of its graphs."""
        return self.specs.get(tensor)

    # -- ops ---------------------------------------------------------------------------------------------------------

    @cached_property
    def device_names(self) -> frozenset[str]:
        """Names of all device ops."""
        return frozenset(self.by_name)

    def originals(self, node: Node) -> tuple[str, ...]:
        """Names of the original nodes that a device op implements; its own where the compiler wrote nothing."""
        if node.origins is not None:
            return tuple(name for name in node.origins if name)
        return (node.name,) if self.known.knows(node.name) else ()

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

    def ops_of(self, names: Collection[str]) -> tuple[str, ...]:
        """Device ops that implement any of these original nodes, in the device's order."""
        wanted = set(names)
        return tuple(op for op, members in self.groups.items() if members & wanted)

    @cached_property
    def quantised(self) -> frozenset[str]:
        """Ops that make quantised values: those that quantise, and all after them up to those that dequantise."""
        made: set[str] = set()
        for node in self.nodes:
            names = " ".join([node.name, *(node.origins or ())])
            spec = self.spec(node.outputs[0]) if node.outputs else None
            dtype = spec.dtype if spec is not None else None
            if (node.op_type == "AscendQuant" or _QUANT.search(names)) and (dtype is None or dtype.name == "int8"):
                made.add(node.name)
            elif node.op_type == "AscendDequant" or _DEQUANT.search(names):
                continue
            elif (dtype is None or dtype.kind == "int") and any(
                split_input(tensor)[0] in made for tensor in node.inputs if tensor
            ):
                made.add(node.name)
        return frozenset(made)

    # -- tensors -----------------------------------------------------------------------------------------------------

    def origin(self, port: Port) -> Origin | None:
        """The original tensor that stands at a device port, quantised or not; None if it cannot be traced to one.

        Shape, layout and dtype are those that the compiler wrote for the device tensor itself.
        """
        return self._found.get(port, (None, None))[0]

    def arrival(self, port: Port) -> Trail | None:
        """How the original tensor of `origin` came to a device port; None where there is none."""
        return self._found.get(port, (None, None))[1]

    def carriers(self, original: Port) -> tuple[Port, ...]:
        """Every device port where the original's output port `original` can be found, in the device's order."""
        return self._carriers.get(original, ())

    @cached_property
    def _found(self) -> Mapping[Port, tuple[Origin, Trail]]:
        found: dict[Port, tuple[Origin, Trail]] = {}
        for node in self.nodes:
            ports = [(Port(node.name, "input", i), tensor) for i, tensor in enumerate(node.inputs) if tensor]
            ports += [(Port(node.name, "output", i), tensor) for i, tensor in enumerate(node.outputs) if tensor]
            for port, tensor in ports:
                trail = self.trail(tensor, through_quantisation=True)
                if trail.key is not None:
                    name, index = self._tensor(*trail.key)
                    written = trail.written
                    facts = (written.layout, written.shape, written.dtype) if written else ()
                    found[port] = (Origin(name, index, *facts), trail)
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
        found: dict[Port, list[Port]] = {}
        for port, (origin, _) in self._found.items():
            found.setdefault(Port(origin.node, "output", origin.index), []).append(port)
        return {port: tuple(ports) for port, ports in found.items()}

    def trail(self, tensor: str, *, through_quantisation: bool = False) -> Trail:
        """The way from a device tensor back to its original (specs, 5.3: the written name first, then back through
        what the compiler made). `through_quantisation` goes on through quantising ops, too, that are none of the
        original's."""
        way = _Way(self, tensor)
        while True:
            while tensor in self.redirect and tensor not in way.visited:
                way.visited.append(tensor)
                tensor = self.redirect[tensor]
            if tensor in way.visited:
                return way.end(None, "the mapping goes round in a circle")
            way.visited.append(tensor)
            name, index = split_input(tensor)
            node = self.by_name.get(name)
            if node is None:
                return way.end(None, f"the mapping has no op {name}")
            spec = self.spec(tensor)
            way.pass_by(node, spec)
            goes_on = through_quantisation and node.op_type in QUANTISING
            if spec is not None and spec.origin is not None and spec.origin.node:
                if not goes_on or self.known.knows(spec.origin.node):
                    return way.end((spec.origin.node, spec.origin.index))
            elif node.origins is None and not goes_on:
                if self.known.knows(name):
                    return way.end((name, index))
                return way.end(None, f"{name} is no op of the original")
            elif node.origins and not goes_on:
                return way.end(*self._unnamed(node, index))
            feeds = [feed for feed in node.inputs if feed]
            if node.op_type == "Aipp" and feeds:
                way.steps.append(node.name)
                return way.end((split_input(feeds[0])[0], 0))
            if not feeds or not (goes_on or node.op_type in PASSING):
                return way.end(None, f"made by the compiler ({node.op_type})")
            way.step(node)
            tensor = feeds[0]

    def _unnamed(self, node: Node, index: int) -> tuple[tuple[str, int] | None, str, str]:
        """(key, reason, note) for an output without a written name, of an op with originals."""
        assert node.origins
        claimed = {
            (spec.origin.node, spec.origin.index)
            for tensor in node.outputs if (spec := self.spec(tensor)) and spec.origin and spec.origin.node
        }
        members = self.members[self.group[node.name]]
        what = ", ".join(node.origins[:3]) + (", ..." if len(node.origins) > 3 else "")
        if len(members) > 1 and not claimed and (node.attrs.get("_datadump_is_multiop") or node is not members[-1]):
            return None, f"an inner part of {what}", ""
        if len(node.origins) == 1:
            key = (node.origins[0], index)
            return (None, f"{what} has no such output", "") if key in claimed else (key, "", "")
        if claimed:
            return None, f"no original of {what} is named for it", ""
        last, note = self._last(node.origins)
        return (last, index), "", note

    def _last(self, names: Iterable[str]) -> tuple[str, str]:
        """Of fused originals the one that runs last; the compiler's list is in no order."""
        names = tuple(names)
        depths = {name: depth for name in names if (depth := self.known.depth(name)) is not None}
        if depths:
            return max(depths, key=lambda name: depths[name]), ""
        return names[-1], "the mapping does not say which original its output is; the last of its list was taken"


class _Way:
    """What is met on the way back from one device tensor."""

    def __init__(self, trace: Trace, start: str) -> None:
        self.trace, self.start = trace, start
        self.steps: list[str] = []
        self.visited: list[str] = []
        self.axes: tuple[int, ...] | None = None
        self.is_reshaped = self.is_reordered = self.is_constant = self.is_quantised = False
        self.coarsest: DType | None = None
        self.quantisation: Quantisation | None = None

    def pass_by(self, node: Node, spec: TensorSpec | None) -> None:
        """Note the dtype here, and whether this op quantises."""
        dtype = spec.dtype if spec is not None else None
        if dtype is not None and dtype.kind in ("float", "complex") and (
            self.coarsest is None or dtype.epsilon > self.coarsest.epsilon
        ):
            self.coarsest = dtype
        self.is_constant = node.op_type in CONSTANTS
        if node.op_type in QUANTISING:
            self.quantisation = None if self.is_quantised else quantisation(node)  # twice: nobody can undo that
            self.is_quantised = True

    def step(self, node: Node) -> None:
        """Go through a compiler-made op."""
        self.steps.append(node.name)
        if node.op_type in ("Transpose", "TransposeD"):
            perm = node.attrs.get("perm")
            if isinstance(perm, tuple) and perm and sorted(perm) == list(range(len(perm))):
                self.is_reordered |= self.axes is not None and len(self.axes) != len(perm)
                self.axes = tuple(perm) if self.axes is None or self.is_reordered else tuple(perm[a] for a in self.axes)
            else:
                self.is_reordered = True
        elif node.op_type in RESHAPING:
            self.is_reshaped = True

    def end(self, key: tuple[str, int] | None, reason: str = "", note: str = "") -> Trail:
        trace = self.trace
        hint = trace.hints.get(self.start)
        if key is None and hint is not None and hint.made_by is not None and trace.known.knows(hint.made_by.node):
            key, reason = (hint.made_by.node, hint.made_by.index), ""
        elif key is None and hint is not None and hint.original and trace.known.knows(hint.original):
            key, reason = (hint.original, 0), ""
        spec = trace.spec(self.start)
        return Trail(
            key, spec.origin if spec else None, spec, reason, tuple(self.steps), tuple(self.visited), self.axes,
            self.is_reshaped, self.is_reordered, self.coarsest, self.is_constant, note, self.is_quantised,
            self.quantisation,
        )


def quantisation(node: Node) -> Quantisation | None:
    """The rule of a quantising op; None when its attributes do not have one."""
    try:
        scale, offset = float(node.attrs["scale"]), float(node.attrs.get("offset") or 0.0)
    except (KeyError, TypeError, ValueError):
        return None
    if node.attrs.get("sqrt_mode"):
        scale *= scale  # the scale is stored as its square root then
    return Quantisation(scale, offset) if 0 < abs(scale) < float("inf") and abs(offset) < float("inf") else None
