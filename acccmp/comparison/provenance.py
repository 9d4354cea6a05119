"""From a tensor of the device back to the original tensor that it stands for, by what the compiler wrote down.

The rules are those of the specs of the Ascend dumps, 5.2 and 5.3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from acccmp.comparison.lookup import Golden, flat
from acccmp.core.graph import Graph, Node, Origin, TensorSpec
from acccmp.core.tensor import DType
from acccmp.models.device_graph import CONSTANTS, INPUT_OPS, all_nodes, split_input

# Compiler-made ops that hand on the values of their first input, maybe in another dtype, layout or order.
PASSING = frozenset({
    "Cast", "TransData", "Transpose", "TransposeD", "Identity", "MemcpyAsync", "Reshape", "Squeeze", "Unsqueeze",
    "SqueezeV2", "UnsqueezeV2", "SqueezeV3", "UnsqueezeV3", "ExpandDims", "Flatten", "FlattenV2", "ReFormat",
    "TransDataRNN",
})
RESHAPING = PASSING - {"Cast", "TransData", "Identity", "MemcpyAsync"}  # the golden shape may be another one then
_QUANT = re.compile(r"_quant_layer|/AscendQuant|/AscendWeightQuant|\.quant|\.weight_quant")
_DEQUANT = re.compile(r"_dequant_layer|_anti_quant_layer|/AscendDequant|/AntiQuant|\.dequant|\.anti_quant")


@dataclass(frozen=True)
class Trail:
    """From a device tensor back to the original tensor that it stands for.

    `key` is (original, output index) or None with a `reason`. `steps` are the compiler-made ops in between; on the way
    the tensor may have been transposed by `axes`, reshaped, or reordered in a way that nothing tells.
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


class Device:
    """The device model with its sub-graphs opened: nodes in order, groups, and the way back to the originals."""

    def __init__(self, mapping: Graph, gold: Golden) -> None:
        self.mapping = mapping
        self.gold = gold
        self.nodes = tuple(all_nodes(mapping))
        self.by_name = {node.name: node for node in self.nodes}
        self.order = {node.name: place for place, node in enumerate(self.nodes)}
        self.specs: dict[str, TensorSpec] = {}
        self.redirect: dict[str, str] = {}
        self._open(mapping)
        self.hints = self._output_hints()
        self._group()
        self.quantised = self._quantised()

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

    def _output_hints(self) -> dict[str, tuple[str, str, int]]:
        listed = self.mapping.meta.get("outputs", ())
        if len(listed) != len(self.mapping.outputs):
            return {}
        return {tensor: tuple(row) for tensor, row in zip(self.mapping.outputs, listed, strict=True)}

    def _group(self) -> None:
        keys: dict[Any, int] = {}
        self.members: dict[int, list[Node]] = {}
        self.group: dict[str, int] = {}
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

    def originals(self, node: Node) -> tuple[str, ...]:
        """The originals that the group of `node` implements; () for a compiler-made op."""
        found: dict[str, None] = {}
        for member in self.members[self.group[node.name]]:
            found.update(dict.fromkeys(member.origins if member.origins is not None else (member.name,)))
        return tuple(found)

    def spec(self, tensor: str) -> TensorSpec | None:
        return self.specs.get(tensor)

    @cached_property
    def implementers(self) -> dict[str, list[Node]]:
        """Original name, also flattened -> the device ops that implement it."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.origins if node.origins is not None else (node.name,):
                for key in {name, flat(name)}:
                    found.setdefault(key, []).append(node)
        return found

    def _quantised(self) -> frozenset[str]:
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

    # -- the way back --

    def trace(self, tensor: str) -> Trail:
        """The original that `tensor` stands for (specs, 5.3: the written name first, then back through what the
        compiler made)."""
        start = tensor
        steps: list[str] = []
        visited: list[str] = []
        axes: tuple[int, ...] | None = None
        reshaped = reordered = False
        coarsest: DType | None = None

        def trail(key: tuple[str, int] | None, reason: str = "", note: str = "", constant: bool = False) -> Trail:
            spec = self.spec(start)
            hint = self.hints.get(start)
            if key is None and hint is not None and hint[1] and self.gold.knows(hint[1]):
                key, reason = (hint[1], hint[2]), ""
            elif key is None and hint is not None and hint[0] and self.gold.knows(hint[0]):
                key, reason = (hint[0], 0), ""
            return Trail(
                key, spec.origin if spec else None, spec, reason, tuple(steps), tuple(visited), axes, reshaped,
                reordered, coarsest, constant, note,
            )

        while True:
            while tensor in self.redirect and tensor not in visited:
                visited.append(tensor)
                tensor = self.redirect[tensor]
            if tensor in visited:
                return trail(None, "the mapping goes round in a circle")
            visited.append(tensor)
            name, index = split_input(tensor)
            node = self.by_name.get(name)
            if node is None:
                return trail(None, f"the mapping has no op {name}")
            spec = self.spec(tensor)
            dtype = spec.dtype if spec is not None else None
            if dtype is not None and dtype.kind in ("float", "complex") and (
                coarsest is None or dtype.epsilon > coarsest.epsilon
            ):
                coarsest = dtype
            constant = node.op_type in CONSTANTS
            if spec is not None and spec.origin is not None and spec.origin.node:
                return trail((spec.origin.node, spec.origin.index), constant=constant)
            if node.origins is None:
                if self.gold.knows(name):
                    return trail((name, index), constant=constant)
                return trail(None, f"{name} is no op of the original", constant=constant)
            if node.origins:
                return trail(*self._unnamed(node, index))
            feeds = [feed for feed in node.inputs if feed]
            if node.op_type == "Aipp" and feeds:
                steps.append(node.name)
                return trail((split_input(feeds[0])[0], 0))
            if node.op_type not in PASSING or not feeds:
                return trail(None, f"made by the compiler ({node.op_type})", constant=constant)
            steps.append(node.name)
            if node.op_type in ("Transpose", "TransposeD"):
                perm = node.attrs.get("perm")
                if isinstance(perm, tuple) and perm and sorted(perm) == list(range(len(perm))):
                    reordered |= axes is not None and len(axes) != len(perm)
                    axes = tuple(perm) if axes is None or reordered else tuple(perm[axis] for axis in axes)
                else:
                    reordered = True
            elif node.op_type in RESHAPING:
                reshaped = True
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

    def _last(self, names: tuple[str, ...]) -> tuple[str, str]:
        """Of fused originals the one that runs last; the compiler's list is in no order."""
        depths = {name: depth for name in names if (depth := self.gold.depth(name)) is not None}
        if depths:
            return max(depths, key=lambda name: depths[name]), ""
        return names[-1], "the mapping does not say which original its output is; the last of its list was taken"
