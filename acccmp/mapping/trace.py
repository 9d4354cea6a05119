"""The way from a device tensor back to the original tensor that it stands for.

The rules are those of the specs of the Ascend dumps, 5.2 and 5.3: the written name counts first; without one the way
leads back through what the compiler made.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from acccmp.core.dump import Origin
from acccmp.core.graph import Node, TensorSpec
from acccmp.core.tensor import DType
from acccmp.models.device_graph import CONSTANTS, split_input

if TYPE_CHECKING:
    from acccmp.mapping.device_map import DeviceMap

# Compiler-made ops that hand on the values of their first input, maybe in another dtype, layout or order.
PASSING = frozenset({
    "Cast", "TransData", "Transpose", "TransposeD", "Identity", "MemcpyAsync", "Reshape", "Squeeze", "Unsqueeze",
    "SqueezeV2", "UnsqueezeV2", "SqueezeV3", "UnsqueezeV3", "ExpandDims", "Flatten", "FlattenV2", "ReFormat",
    "TransDataRNN",
})
RESHAPING = PASSING - {"Cast", "TransData", "Identity", "MemcpyAsync"}  # the golden shape may be another one then
QUANTISING = frozenset({"AscendQuant", "AscendQuantV2"})


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


def trail(device: DeviceMap, tensor: str) -> Trail:
    """The way from a device tensor back to its original (specs, 5.3: the written name first, then back through
    what the compiler made, quantising ops that are none of the original's included)."""
    way = _Way(device, tensor)
    while True:
        while tensor in device.redirect and tensor not in way.visited:
            way.visited.append(tensor)
            tensor = device.redirect[tensor]
        if tensor in way.visited:
            return way.end(None, "the mapping goes round in a circle")
        way.visited.append(tensor)
        name, index = split_input(tensor)
        node = device.by_name.get(name)
        if node is None:
            return way.end(None, f"the mapping has no op {name}")
        spec = device.spec(tensor)
        way.pass_by(node, spec)
        goes_on = node.op_type in QUANTISING and not any(
            map(device.known.knows, (name,) if node.origins is None else node.origins)
        )
        if spec is not None and spec.origin is not None and spec.origin.node:
            if not goes_on or device.known.knows(spec.origin.node):
                return way.end((spec.origin.node, spec.origin.index))
        elif node.origins is None and not goes_on:
            if device.known.knows(name):
                return way.end((name, index))
            return way.end(None, f"{name} is no op of the original")
        elif node.origins and not goes_on:
            return way.end(*_unnamed(device, node, index))
        feeds = [feed for feed in node.inputs if feed]
        if node.op_type == "Aipp" and feeds:
            way.steps.append(node.name)
            return way.end((split_input(feeds[0])[0], 0))
        if not feeds or not (goes_on or node.op_type in PASSING):
            return way.end(None, f"made by the compiler ({node.op_type})")
        way.step(node)
        tensor = feeds[0]


def _unnamed(device: DeviceMap, node: Node, index: int) -> tuple[tuple[str, int] | None, str, str]:
    """(key, reason, note) for an output without a written name, of an op with originals."""
    assert node.origins
    claimed = {
        (spec.origin.node, spec.origin.index)
        for tensor in node.outputs if (spec := device.spec(tensor)) and spec.origin and spec.origin.node
    }
    members = device.members[device.group[node.name]]
    what = ", ".join(node.origins[:3]) + (", ..." if len(node.origins) > 3 else "")
    if len(members) > 1 and not claimed and (node.attrs.get("_datadump_is_multiop") or node is not members[-1]):
        return None, f"an inner part of {what}", ""
    if len(node.origins) == 1:
        key = (node.origins[0], index)
        return (None, f"{what} has no such output", "") if key in claimed else (key, "", "")
    if claimed:
        return None, f"no original of {what} is named for it", ""
    last, note = _last(device, node.origins)
    return (last, index), "", note


def _last(device: DeviceMap, names: Iterable[str]) -> tuple[str, str]:
    """Of fused originals the one that runs last; the compiler's list is in no order."""
    names = tuple(names)
    depths = {name: depth for name in names if (depth := device.known.depth(name)) is not None}
    if depths:
        return max(depths, key=lambda name: depths[name]), ""
    return names[-1], "the mapping does not say which original its output is; the last of its list was taken"


class _Way:
    """What is met on the way back from one device tensor."""

    def __init__(self, device: DeviceMap, start: str) -> None:
        self.device, self.start = device, start
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
        device = self.device
        hint = device.hints.get(self.start)
        if key is None and hint is not None and hint.made_by is not None and device.known.knows(hint.made_by.node):
            key, reason = (hint.made_by.node, hint.made_by.index), ""
        elif key is None and hint is not None and hint.original and device.known.knows(hint.original):
            key, reason = (hint.original, 0), ""
        spec = device.spec(self.start)
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
    if str(node.attrs.get("sqrt_mode", "")).lower() in ("1", "true"):
        scale *= scale  # the scale is stored as its square root then
    return Quantisation(scale, offset) if 0 < abs(scale) < float("inf") and abs(offset) < float("inf") else None
