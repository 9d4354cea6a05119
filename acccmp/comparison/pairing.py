"""Which golden tensor stands beside which NPU tensor: by mapping (the device model), or by name without one.

The rules are those of the specs of the Ascend dumps, section 5.3. Nothing is read here but names, shapes and layouts.
`pair` gives every port one `Pair`; those without a verdict are measured and judged by `compare.compare_pair`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from acccmp.comparison.metrics import squeezed
from acccmp.core import layout as layouts
from acccmp.core.dump import Broken, Dump, Port, Side
from acccmp.core.graph import Graph, Node, Origin, TensorSpec
from acccmp.core.layout import Shape
from acccmp.core.tensor import DType, TensorRef
from acccmp.errors import InputError, MappingError
from acccmp.models.device_graph import INPUT_OPS, all_nodes, split_input
from acccmp.reports.report import Verdict

# Compiler-made ops that hand on the values of their first input, maybe in another dtype, layout or order.
PASSING = frozenset({
    "Cast", "TransData", "Transpose", "TransposeD", "Identity", "MemcpyAsync", "Reshape", "Squeeze", "Unsqueeze",
    "SqueezeV2", "UnsqueezeV2", "SqueezeV3", "UnsqueezeV3", "ExpandDims", "Flatten", "FlattenV2", "ReFormat",
    "TransDataRNN",
})
RESHAPING = PASSING - {"Cast", "TransData", "Identity", "MemcpyAsync"}  # the golden shape may be another one then
CONSTANTS = frozenset({"Const", "Constant", "FileConstant", "Variable", "ConstPlaceHolder"})
# Ops without a task of their own: nothing is dumped for them, and nobody misses it.
TASKLESS = INPUT_OPS | CONSTANTS | frozenset({
    "NetOutput", "StreamActive", "StreamSwitch", "StreamMerge", "StreamSwitchN", "Send", "Recv", "SendMem", "RecvMem",
    "NoOp", "LabelSet", "LabelGoto", "LabelGotoEx", "LabelSwitch", "LabelSwitchByIndex", "PhonyConcat", "PhonySplit",
    "PartitionedCall", "StatefulPartitionedCall", "If", "StatelessIf", "While", "StatelessWhile", "Case",
    "StatelessCase", "EndGraph",
    "NextIteration", "Enter", "Exit", "LoopCond", "ControlTrigger", "AtomicAddrClean", "MemSet",
})
_QUANT = re.compile(r"_quant_layer|/AscendQuant|/AscendWeightQuant|\.quant|\.weight_quant")
_DEQUANT = re.compile(r"_dequant_layer|_anti_quant_layer|/AscendDequant|/AntiQuant|\.dequant|\.anti_quant")
_FLATTENED = re.compile(r"[ ./\\]")


@dataclass(frozen=True)
class Pair:
    """One port, with the two tensors if both are there. `verdict` None: it is to be measured.

    `port` is the device's (the original's for `fused` and for what no device op has). `misfit` is why the shapes
    cannot be compared. `axes`: the NPU's tensor is golden transposed by them. `extent`: only so many elements along
    each of golden's axes are valid. `coarsest`: the dtype that fixed limits go by. `quantised`: inside a quantised
    part of the network.
    """

    port: Port
    golden_port: Port | None = None
    golden: TensorRef | None = None
    npu: TensorRef | None = None
    verdict: Verdict | None = None
    reason: str = ""
    notes: tuple[str, ...] = ()
    misfit: str = ""
    op_type: str = ""
    originals: tuple[str, ...] = ()
    npu_ops: tuple[str, ...] = ()
    order: int = 0
    group: int = 0
    is_output: bool = False
    floor: float = math.nan
    axes: tuple[int, ...] | None = None
    extent: Shape | None = None
    coarsest: DType | None = None
    quantised: bool = False
    address: int | None = None


@dataclass(frozen=True)
class Pairing:
    """All ports in execution order, and what is to be said about the pairing as a whole."""

    pairs: tuple[Pair, ...]
    notes: tuple[str, ...] = ()


def pair(
    golden: Dump,
    npu: Dump,
    mapping: Graph | None = None,
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
    gold = _Golden(golden, model, mapping)
    dumped = _Dumped(npu)
    notes: list[str] = []
    order: list[str] = []
    if mapping is not None and golden.kind == "npu" and (
        _share(gold.names, _node_names(mapping)) >= 0.5 > _share(_wanted_originals(mapping), gold.names)
    ):
        notes.append("both dumps are of the device: ops are paired by name, the mapping gives their order")
        order = [node.name for node in all_nodes(mapping)]
        mapping = None
    if mapping is None:
        rows = _by_name(gold, dumped, model, order, notes)
    else:
        _check_mapping(mapping, gold, dumped, model)
        rows = _by_mapping(_Device(mapping, gold, model), gold, dumped, notes)
    rows = _mark_outputs(rows, gold, model, mapping, notes)
    known = floors or {}
    rows = [replace(row, floor=known.get(row.golden_port, math.nan)) if row.golden_port else row for row in rows]
    rows = _restrict(rows, valid, gold)
    rows.sort(key=lambda row: (row.order, row.port.side == "output"))
    return Pairing(tuple(rows), tuple(dict.fromkeys(notes)))


def compose(mapping: Graph, rule: Graph) -> Graph:
    """`mapping` with its originals, which are ops of a quantised model, replaced by what `rule` says they stand for.

    `rule` is the quantisation tool's JSON, read like a mapping: quantised op -> ops of the float model.
    """
    def node_origins(name: str) -> tuple[str, ...]:
        if name not in rule:
            return (name,)
        found = rule[name].origins
        return (name,) if found is None else found

    def tensor_origin(origin: Origin) -> Origin:
        if origin.node not in rule:
            return origin
        written = rule.spec(f"{origin.node}:{origin.index}").origin
        if written is not None and written.node:
            return replace(written, layout=written.layout or origin.layout, shape=written.shape or origin.shape)
        names = node_origins(origin.node)
        return replace(origin, node=names[0] if len(names) == 1 else "")

    return _rewritten(mapping, node_origins, tensor_origin)


def compose_unfused(mapping: Graph, unfused: Graph) -> Graph:
    """`mapping` with its originals replaced by the ops of `unfused`, a device model built with fusion switched off.

    A comparison with the dump of that model (both dumps are of the device then) goes through the result.
    """
    carriers: dict[str, list[str]] = {}
    outputs: dict[tuple[str, int], tuple[str, int]] = {}
    for node in all_nodes(unfused):
        for name in node.origins if node.origins is not None else (node.name,):
            carriers.setdefault(name, []).append(node.name)
        for place, tensor in enumerate(node.outputs):
            origin = unfused.spec(tensor).origin
            if origin is not None and origin.node:
                outputs[origin.node, origin.index] = (node.name, place)
            elif node.origins is None or len(node.origins) == 1:
                outputs.setdefault(((node.origins or (node.name,))[0], place), (node.name, place))

    def tensor_origin(origin: Origin) -> Origin:
        node, index = outputs.get((origin.node, origin.index), ("", origin.index))
        return replace(origin, node=node, index=index)

    def node_origins(name: str) -> tuple[str, ...]:
        return tuple(carriers.get(name, ()))

    return _rewritten(mapping, node_origins, tensor_origin)


def _rewritten(mapping: Graph, node_origins: Any, tensor_origin: Any) -> Graph:
    nodes = []
    tensors = dict(mapping.tensors)
    for node in mapping.nodes:
        subgraphs = {name: _rewritten(inner, node_origins, tensor_origin) for name, inner in node.subgraphs.items()}
        if node.origins is None:
            origins = None if node_origins(node.name) == (node.name,) else node_origins(node.name)
        else:
            origins = tuple(dict.fromkeys(new for old in node.origins for new in node_origins(old)))
        nodes.append(replace(node, origins=origins, subgraphs=subgraphs))
        for tensor in node.outputs:
            spec = tensors.get(tensor)
            if spec is not None and spec.origin is not None and spec.origin.node:
                tensors[tensor] = replace(spec, origin=tensor_origin(spec.origin))
    return replace(mapping, nodes=tuple(nodes), tensors=tensors)


# -- the two dumps, by name --------------------------------------------------------------------------------------


def flat(name: str) -> str:
    """A name as file names have it: space, `.`, `/` and `\\` become `_`."""
    return _FLATTENED.sub("_", name)


@dataclass(frozen=True)
class _Found:
    """A golden tensor that was looked up: where it should be, the tensor if it is there, why not otherwise."""

    port: Port
    ref: TensorRef | None
    reason: str = ""
    is_broken: bool = False


class _Dumped:
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
            self._flat.setdefault(flat(name), []).append(name)

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(self.ports) | frozenset(self.broken)

    def name_of(self, name: str) -> str | None:
        """The name that this dump has for the op `name`, None if it has none or several that could be it."""
        if name in self.ports or name in self.broken:
            return name
        found = self._flat.get(flat(name), [])
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
                return broken.reason
        return ""

    def address(self, name: str | None, side: Side, index: int) -> int | None:
        op = self.dump.ops.get(name or "")
        text = op.attrs.get(f"address:{side}:{index}", "") if op is not None else ""
        return int(text) if text.isdigit() else None

    def written_origin(self, name: str, index: int) -> Origin | None:
        """The original that the dump's own header names for an output, as its reader noted it."""
        op = self.dump.ops.get(name)
        text = op.attrs.get(f"origin:{index}", "") if op is not None else ""
        if op is None or not text:
            return None
        node, place = split_input(text)
        return Origin(node, max(place, 0), op.attrs.get(f"origin_layout:{index}")) if node else None


class _Golden(_Dumped):
    """The golden dump, looked up by original name and output index."""

    def __init__(self, dump: Dump, model: Graph | None, mapping: Graph | None) -> None:
        super().__init__(dump)
        self.model = model
        self.place = {name: i for i, name in enumerate(self.ports)}
        self.tensors: dict[str, Port] = {}
        for row in dump.meta.get("tensors", ()) or ():
            if isinstance(row, Mapping) and isinstance(row.get("tensor"), str) and isinstance(row.get("port"), str):
                try:
                    self.tensors[row["tensor"]] = Port.parse(row["port"])
                except ValueError:
                    continue
        known: dict[str, set[str]] = {}
        for name in [*(n.name for n in model.nodes)] if model else _wanted_originals(mapping) if mapping else []:
            known.setdefault(flat(name), set()).add(name)
        self._collisions = {key: names for key, names in known.items() if len(names) > 1}

    def find(self, name: str, index: int) -> _Found:
        """The golden tensor of output `index` of the original `name` (a node, or a tensor by its own name)."""
        named = self.name_of(name)
        if self.dump.flat_names and flat(name) in self._collisions:
            others = ", ".join(sorted(self._collisions[flat(name)]))
            return _Found(Port(name, "output", index), None, f"its file could belong to any of: {others}")
        if named is None:
            alias = self._alias(name, index)
            if alias is None:
                return _Found(Port(name, "output", index), None)
            named, index = self.name_of(alias.node), alias.index
            if named is None:
                return _Found(alias, None)
        ref = self.ref(named, "output", index)
        port = Port(named, "output", index)
        if ref is None:
            reason = self.why_broken(named, "output", index)
            return _Found(port, None, reason, bool(reason))
        return _Found(port, ref)

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

    def is_input(self, name: str) -> bool:
        listed = self.dump.meta.get("inputs")
        if isinstance(listed, Mapping) and name in listed:
            return True
        if self.model is None:
            return False
        made = (self.model.producer(tensor) for tensor in self.model.inputs)
        return name in self.model.inputs or any(port is not None and port.node == name for port in made)

    def is_constant(self, name: str) -> bool:
        return self.model is not None and (name in self.model.constants or name in self.model.weights)

    def depth(self, name: str) -> int | None:
        """Place in execution: the model's, else the golden dump's; None if neither knows the name."""
        if self.model is not None and name in self.model:
            return self.model.depth[name]
        if self.model is not None:
            return None
        found = self.name_of(name)
        return self.place.get(found) if found is not None else None


# -- by mapping --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Trail:
    """From a device tensor back to the original tensor that it stands for.

    `key` is (original, output index) or None with a `reason`. `steps` are the compiler-made ops in between.
    """

    key: tuple[str, int] | None
    written: Origin | None
    spec: TensorSpec | None
    reason: str = ""
    steps: tuple[str, ...] = ()
    visited: tuple[str, ...] = ()
    axes: tuple[int, ...] | None = None
    is_reshaped: bool = False
    coarsest: DType | None = None
    is_constant: bool = False
    note: str = ""


class _Device:
    """The device model with its sub-graphs opened: nodes in order, groups, and the way back to the originals."""

    def __init__(self, mapping: Graph, gold: _Golden, model: Graph | None) -> None:
        self.mapping = mapping
        self.gold = gold
        self.model = model
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

    def trace(self, tensor: str) -> _Trail:
        """The original that `tensor` stands for (specs, 5.3: the written name first, then back through what the
        compiler made)."""
        start = tensor
        steps: list[str] = []
        visited: list[str] = []
        axes: tuple[int, ...] | None = None
        reshaped = False
        coarsest: DType | None = None

        def trail(key: tuple[str, int] | None, reason: str = "", note: str = "", constant: bool = False) -> _Trail:
            spec = self.spec(start)
            hint = self.hints.get(start)
            if key is None and hint is not None and hint[1] and self.gold.knows(hint[1]):
                key, reason = (hint[1], hint[2]), ""
            elif key is None and hint is not None and hint[0] and self.gold.knows(hint[0]):
                key, reason = (hint[0], 0), ""
            return _Trail(
                key, spec.origin if spec else None, spec, reason, tuple(steps), tuple(visited), axes, reshaped,
                coarsest, constant, note,
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
                    axes = tuple(perm) if axes is None else tuple(perm[axis] for axis in axes)
                else:
                    reshaped = True
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


def _by_mapping(device: _Device, gold: _Golden, dumped: _Dumped, notes: list[str]) -> list[Pair]:
    rows: list[Pair] = []
    seen: set[str] = set()
    with_inputs = any(port.side == "input" for port in dumped.dump)
    for node in device.nodes:
        if node.op_type == "Aipp" or node.attrs.get("aipp") or node.attrs.get("_aipp_inputs"):
            notes.append(
                f"pre-processing (AIPP) is compiled into the device model at {node.name}: golden must have been fed "
                "with that op's output, and a fault in the pre-processing itself shows only at its own row"
            )
        name = dumped.name_of(node.name)
        if name is not None:
            seen.add(name)
        is_broken = name in dumped.broken
        if name is None and node.op_type in TASKLESS:
            continue
        data = [tensor for tensor in node.inputs if tensor]
        inputs = dumped.indices(name, "input")
        if inputs and len(node.inputs) == inputs[-1] + 1:
            data = list(node.inputs)
        if is_broken and with_inputs and not inputs:
            inputs = list(range(len(data)))
        for index in inputs:
            port = Port(node.name, "input", index)
            trail = device.trace(data[index]) if index < len(data) and data[index] else _Trail(
                None, None, None, "the mapping lists no such input",
            )
            rows += _row(device, gold, dumped, node, port, name, trail)
        count = max([len(node.outputs), *(index + 1 for index in dumped.indices(name, "output"))])
        for index in range(count):
            rows += _row(device, gold, dumped, node, Port(node.name, "output", index), name,
                         device.trace(f"{node.name}:{index}"))
    rows += _unknown_ops(gold, dumped, seen, len(device.nodes), len(device.members))
    rows += _golden_only(device, gold, rows)
    return rows


def _row(
    device: _Device, gold: _Golden, dumped: _Dumped, node: Node, port: Port, name: str | None, trail: _Trail,
) -> list[Pair]:
    """The row of one device port; none for ports that nobody expects to be dumped."""
    ref = dumped.ref(name, port.side, port.index)
    base = Pair(
        port, npu=ref, op_type=node.op_type, originals=device.originals(node) if node.origins != () else (),
        npu_ops=tuple(member.name for member in device.members[device.group[node.name]]),
        order=device.order[node.name], group=device.group[node.name],
        address=dumped.address(name, port.side, port.index), quantised=_is_quantised(device, node, port),
        notes=(trail.note,) if trail.note else (),
    )
    found = gold.find(*trail.key) if trail.key is not None else None
    if found is not None:
        base = replace(base, golden_port=found.port, golden=found.ref)
    if ref is None:
        why = dumped.why_broken(name, port.side, port.index)
        if why:
            return [replace(base, verdict=Verdict.UNREADABLE, reason=why)]
        return _missing(device, node, port, name, trail, found, base)
    if found is None:
        told = "a constant of the device model; golden dumps have no weights" if trail.is_constant else trail.reason
        return [replace(base, verdict=Verdict.INSERTED, reason=told)]
    if found.ref is None:
        if found.is_broken:
            return [replace(base, verdict=Verdict.UNREADABLE, reason=found.reason)]
        if trail.is_constant or gold.is_constant(found.port.node):
            return [replace(base, verdict=Verdict.INSERTED, golden_port=None,
                            reason="a constant; golden dumps have no weights")]
        return [replace(base, verdict=Verdict.NO_GOLDEN,
                        reason=found.reason or f"no golden tensor for {found.port}")]
    return [_fitted(base, trail.written, trail.spec, trail)]


def _missing(
    device: _Device, node: Node, port: Port, name: str | None, trail: _Trail, found: _Found | None, base: Pair,
) -> list[Pair]:
    """What to say of a port that was not dumped. Inputs are their producers' outputs, so nobody misses them."""
    if port.side == "input" or found is None or node.op_type in TASKLESS or trail.steps:
        return []
    if node.attrs.get("_L1_fusion_sub_graph_no") not in (None, "") and node is not device.members[base.group][-1]:
        return [replace(base, verdict=Verdict.FUSED, reason="stays in the core's own memory (L1 fusion)")]
    if name is not None and found.ref is None:
        return []
    what = "the op was not dumped" if name is None else "this output was not dumped"
    return [replace(base, verdict=Verdict.NO_NPU, reason=what)]


def _is_quantised(device: _Device, node: Node, port: Port) -> bool:
    if port.side == "output":
        return node.name in device.quantised
    return port.index < len(node.inputs) and split_input(node.inputs[port.index])[0] in device.quantised


def _unknown_ops(gold: _Golden, dumped: _Dumped, seen: set[str], order: int, group: int) -> list[Pair]:
    """Ops of the dump that the mapping does not know."""
    rows = []
    for extra, name in enumerate(sorted(dumped.names - seen)):
        op = dumped.dump.ops.get(name)
        base = Pair(
            Port(name, "output", 0), op_type=op.op_type if op else "", npu_ops=(name,), order=order,
            group=group + extra,
        )
        for broken in dumped.broken.get(name, ()):
            rows.append(replace(base, port=broken.port or base.port, verdict=Verdict.UNREADABLE, reason=broken.reason))
        for port in dumped.ports.get(name, {}).values():
            rows.append(replace(
                base, port=port, npu=dumped.dump[port], verdict=Verdict.NO_GOLDEN,
                reason="the mapping does not know this op",
            ))
    return rows


def _golden_only(device: _Device, gold: _Golden, rows: Sequence[Pair]) -> list[Pair]:
    """Golden tensors that no device tensor stands for: fused or folded away."""
    used = {row.golden_port for row in rows}
    found = []
    last = 0
    for port in gold.dump:
        if port.side != "output" or port in used or gold.is_input(port.node):
            continue
        if any(split_input(tensor)[0] in (port.node, flat(port.node)) for tensor in device.mapping.inputs):
            continue
        nodes = device.implementers.get(port.node) or device.implementers.get(flat(port.node), [])
        if nodes:
            into = nodes[-1]
            last = device.order[into.name]
            reason = f"fused into {', '.join(node.name for node in nodes[:3])}"
        else:
            into = None
            kind = "a constant" if gold.is_constant(port.node) else "folded away"
            reason = f"{kind}: no op of the device model implements it"
        found.append(Pair(
            port, port, gold.dump[port], verdict=Verdict.FUSED, reason=reason, order=last,
            originals=device.originals(into) if into else (port.node,), op_type=into.op_type if into else "",
            npu_ops=tuple(n.name for n in nodes), group=device.group[into.name] if into else -1,
        ))
    return found


# -- does the mapping belong here? -------------------------------------------------------------------------------


def _node_names(mapping: Graph) -> set[str]:
    return {node.name for node in all_nodes(mapping)}


def _wanted_originals(mapping: Graph) -> set[str]:
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


def _share(wanted: Iterable[str], known: Iterable[str]) -> float:
    """Share of `wanted` that is in `known`, flattened names allowed; 1 for nothing wanted."""
    names = set(known)
    flattened = {flat(name) for name in names}
    found = [name in names or flat(name) in flattened for name in wanted]
    return sum(found) / len(found) if found else 1.0


def _check_mapping(mapping: Graph, gold: _Golden, dumped: _Dumped, model: Graph | None) -> None:
    """Raises MappingError when fewer than half of the names agree."""
    named = str(mapping.path or mapping.name)
    wanted = _wanted_originals(mapping)
    if model is not None:
        known: set[str] = {*(node.name for node in model.nodes), *model.inputs, *model.weights, *gold.names}
        known |= {tensor for node in model.nodes for tensor in node.outputs}
        other = f"the model {model.path or model.name}"
    else:
        known = {*gold.names, *gold.tensors}
        other = f"the golden dump {gold.dump.path or gold.dump.model or '(in memory)'}"
    share = _share(wanted, known)
    every = {name for node in all_nodes(mapping) for name in (node.origins or (node.name,))} | wanted
    back = _share(gold.names, every)  # a golden dump of a few layers only is no other model's
    if share < 0.5 and (model is not None or back < 0.5):
        raise MappingError(
            f"the mapping {named} is not of {other}: {share:.0%} of the originals that it names are in it; "
            "give the mapping of the model that was dumped"
        )
    if dumped.names and _share(dumped.names, _node_names(mapping)) < 0.5:
        raise MappingError(
            f"the mapping {named} is not of the NPU dump {dumped.dump.path or '(in memory)'}: it has "
            f"{_share(dumped.names, _node_names(mapping)):.0%} of the dumped ops; "
            "give the mapping of the model that ran"
        )


# -- by name -----------------------------------------------------------------------------------------------------


def _by_name(
    gold: _Golden, dumped: _Dumped, model: Graph | None, order: Sequence[str], notes: list[str],
) -> list[Pair]:
    """Ops of one name belong together; what a device header says about its original counts before its name."""
    if gold.dump.kind == "golden" and dumped.dump.kind == "npu":
        notes.append("without a mapping, ops are paired by name; fused ops have no partner then")
    place = {name: i for i, name in enumerate(order)} if order else _places(gold, dumped, model)
    rows: list[Pair] = []
    both_device = gold.dump.kind == "npu"
    for group, name in enumerate([*dumped.ports, *(n for n in dumped.broken if n not in dumped.ports)]):
        op = dumped.dump.ops.get(name)
        base = Pair(
            Port(name, "output", 0), op_type=op.op_type if op else "", npu_ops=(name,), group=group,
            order=place.get(name, len(place)),
        )
        for port in dumped.ports.get(name, {}).values():
            row = replace(base, port=port, npu=dumped.dump[port], address=dumped.address(name, port.side, port.index))
            rows.append(_named(gold, dumped, model, row, both_device))
        for broken in dumped.broken.get(name, ()):
            op_type = base.op_type or broken.op_type
            row = replace(base, verdict=Verdict.UNREADABLE, reason=broken.reason, op_type=op_type)
            golden_name = gold.name_of(name)
            ports = [broken.port] if broken.port else [
                Port(name, "output", index) for index in gold.indices(golden_name, "output")
            ] or [row.port]
            for port in ports:
                found = gold.find(name, port.index) if port.side == "output" else None
                rows.append(replace(row, port=port, golden_port=found.port if found else None,
                                    golden=found.ref if found else None))
    used = {row.golden_port for row in rows}
    for port in gold.dump:
        if port in used or (port.side == "input" and not both_device) or gold.is_input(port.node):
            continue
        if gold.is_constant(port.node):
            continue
        rows.append(Pair(
            port, port, gold.dump[port], verdict=Verdict.NO_NPU, reason="the device dumped nothing of this name",
            originals=(port.node,), order=place.get(port.node, len(place)), group=-1,
            op_type=model[port.node].op_type if model is not None and port.node in model else "",
        ))
    for broken in gold.dump.broken:
        port = broken.port or Port(broken.name, "output", 0)
        if port not in used and not any(row.golden_port == port for row in rows):
            rows.append(Pair(port, port, verdict=Verdict.UNREADABLE, reason=broken.reason, originals=(port.node,),
                             order=place.get(port.node, len(place)), group=-1))
    return rows


def _places(gold: _Golden, dumped: _Dumped, model: Graph | None) -> dict[str, int]:
    """Execution order of all names: the model's or golden's; a device op without partner comes after the one before."""
    known = list(model.depth) if model is not None else list(gold.ports)
    place = {name: i * 2 for i, name in enumerate(known)}
    for name in gold.ports:
        place.setdefault(name, 0)
    last = 0
    for name in dumped.ports:
        partner = gold.name_of(name)
        if name in place:
            last = place[name]
        elif partner in place:
            last = place[name] = place[partner]
        else:
            place[name] = last + 1
    return place


def _named(gold: _Golden, dumped: _Dumped, model: Graph | None, row: Pair, both_device: bool) -> Pair:
    name, side, index = row.port
    if side == "input":
        return _named_input(gold, model, row, both_device)
    written = dumped.written_origin(name, index)
    keys = [(written.node, written.index)] if written is not None else []
    for key in [*keys, (name, index)]:
        found = gold.find(*key)
        if found.ref is not None:
            row = replace(row, golden_port=found.port, golden=found.ref, originals=(found.port.node,))
            return _fitted(row, written, None, None)
        if found.is_broken:
            return replace(row, golden_port=found.port, verdict=Verdict.UNREADABLE, reason=found.reason)
    if not both_device and not gold.knows(name) and (
        row.op_type in ("TransData", "Aipp") or (row.op_type in PASSING and name.startswith("trans_"))
    ):
        return replace(row, verdict=Verdict.INSERTED, reason=f"made by the compiler ({row.op_type})")
    return replace(row, verdict=Verdict.NO_GOLDEN, reason=f"no golden tensor for {row.port}")


def _named_input(gold: _Golden, model: Graph | None, row: Pair, both_device: bool) -> Pair:
    """An input by name: the same input of the other device dump, or the output that the model says feeds it."""
    name, _, index = row.port
    golden_name = gold.name_of(name)
    ref = gold.ref(golden_name, "input", index)
    if ref is not None and golden_name is not None:
        return _fitted(replace(row, golden_port=Port(golden_name, "input", index), golden=ref), None, None, None)
    if both_device:
        return replace(row, verdict=Verdict.NO_GOLDEN, reason=f"no golden tensor for {row.port}")
    if model is not None and name in model:
        slots = [tensor for tensor in model[name].inputs if tensor]
        made = model.producer(slots[index]) if index < len(slots) else None
        if made is not None and made.node not in model.constants:
            found = gold.find(made.node, made.index)
            if found.ref is not None:
                return _fitted(replace(row, golden_port=found.port, golden=found.ref), None, None, None)
            if found.is_broken:
                return replace(row, golden_port=found.port, verdict=Verdict.UNREADABLE, reason=found.reason)
        if index < len(slots):
            return replace(row, verdict=Verdict.INSERTED, reason="a constant; golden dumps have no weights")
    return replace(row, verdict=Verdict.INSERTED, reason="without a mapping nothing says what feeds it")


# -- shapes and layouts ------------------------------------------------------------------------------------------


def _fitted(row: Pair, written: Origin | None, spec: TensorSpec | None, trail: _Trail | None) -> Pair:
    """`row` with the NPU's tensor read as golden's shape and order, or with the reason why it cannot be."""
    assert row.golden is not None
    assert row.npu is not None
    golden, npu = row.golden, row.npu
    notes = list(row.notes)
    axes = trail.axes if trail is not None else None
    if spec is not None and spec.shape is not None and spec.is_static and npu.dtype.kind != "opaque":
        stated = tuple(int(n) for n in spec.shape if isinstance(n, int))
        if squeezed(stated) != squeezed(npu.shape):
            return replace(row, misfit=(
                f"the dump's header says shape {_text(npu.shape)}, the mapping {_text(stated)}: "
                "are they of the same build?"
            ))
    if golden.original_shape is None and golden.layout != "ND" and not layouts.is_plain(golden.layout):
        if written is not None and written.shape is not None:
            golden = golden.seen_as(written.shape, written.layout)  # a device tensor as the golden side
        elif (golden.layout, golden.shape) == (npu.layout, npu.shape):
            return replace(row, notes=(*notes, "original shape unknown: compared as stored, padding included"))
    wanted = golden.own_shape
    if axes is not None and len(axes) == len(wanted):
        wanted = tuple(wanted[axis] for axis in axes)
    elif axes is not None:
        axes = None
    seen = _seen(npu, wanted, golden, written, axes is not None, notes)
    if trail is not None and trail.is_reshaped and (isinstance(seen, str) or seen.own_shape != wanted):
        return replace(row, verdict=Verdict.INSERTED, reason=(
            f"made by the compiler ({', '.join(trail.steps[:3])}), in another shape or order than its original"
        ))
    coarsest = trail.coarsest if trail is not None and trail.steps else None
    row = replace(row, golden=golden, notes=tuple(notes), coarsest=coarsest)
    if isinstance(seen, str):
        return replace(row, misfit=seen)
    return replace(row, npu=seen, axes=axes)


def _seen(
    npu: TensorRef, wanted: Shape, golden: TensorRef, written: Origin | None, is_moved: bool, notes: list[str],
) -> TensorRef | str:
    """The NPU's tensor read in golden's shape and order; or why it cannot be."""
    golden_layout = _plain(golden.original_layout if golden.original_shape is not None else golden.layout)
    written_layout = _plain(written.layout) if written is not None else None
    stated, by = None, ""
    if written is not None and written.shape is not None:
        stated, by = written.shape, "the mapping"
    elif npu.original_shape is not None:
        stated, by = npu.original_shape, "the dump's header"
    layout = written_layout or (npu.original_layout if by == "the dump's header" else None) or (
        None if is_moved else golden_layout
    )
    shape = wanted
    if stated is not None and stated != wanted:
        if squeezed(stated) == squeezed(wanted):
            shape = stated
        else:
            other = _other_order(stated, layout, wanted)
            if other is None:
                return _by_valid(npu, stated, layout, wanted, by)
            notes.append(f"golden is in {other} where {by} says {layout or 'nothing'}")
            layout = other
    if not layouts.is_known(npu.layout):
        if squeezed(npu.shape) == squeezed(shape):
            notes.append(f"the layout {npu.layout} is not known: read as stored")
            return replace(npu, layout="ND").seen_as(shape, None)
        return f"stored as {npu.layout} {_text(npu.shape)}, a layout that is not known"
    if npu.layout == "ND":
        if squeezed(npu.shape) != squeezed(shape) and math.prod(npu.shape) != math.prod(shape):
            return _by_valid(npu, npu.shape, None, wanted, "the dump")
        if squeezed(npu.shape) != squeezed(shape) and stated is None:
            return f"golden is {_text(wanted)}, npu {_text(npu.shape)}"
        return npu.seen_as(shape, layout)
    if layout is not None and layouts.fits(npu.layout, npu.shape, layout, shape, npu.groups):
        return npu.seen_as(shape, layout)
    if layout is not None and golden_layout and layouts.fits(npu.layout, npu.shape, golden_layout, shape, npu.groups):
        notes.append(f"golden is in {golden_layout} where {by or 'the mapping'} says {layout}")
        return npu.seen_as(shape, golden_layout)
    return _guessed(npu, shape, wanted, layout, notes)


def _guessed(npu: TensorRef, shape: Shape, wanted: Shape, layout: str | None, notes: list[str]) -> TensorRef | str:
    """The order of the original from shapes alone. Several that fit are ambiguous: the header's is taken."""
    found = [
        name for name in layouts.candidates(npu.layout, npu.shape, shape)
        if layouts.fits(npu.layout, npu.shape, name, shape, npu.groups)
    ]
    if not found and layouts.fits(npu.layout, npu.shape, None, shape, npu.groups):
        return npu.seen_as(shape, None)
    if not found and layouts.is_plain(npu.layout) and squeezed(npu.shape) == squeezed(shape):
        return replace(npu, layout="ND").seen_as(shape, None)
    if not found:
        told = f", original {layout}" if layout else ""
        return f"golden is {_text(wanted)}, npu {npu.layout} {_text(npu.shape)}{told}: the one does not fit the other"
    if len(found) == 1:
        return npu.seen_as(shape, found[0])
    usual = [npu.original_layout, npu.layout, "NCHW", "NCDHW", found[0]]
    taken = next(name for name in usual if name in found)
    notes.append(f"ambiguous: {' and '.join(found)} all fit {_text(shape)}; the header's order was taken ({taken})")
    return npu.seen_as(shape, taken)


def _by_valid(npu: TensorRef, stated: Shape, layout: str | None, wanted: Shape, by: str) -> TensorRef | str:
    """A tensor of another size than golden: kept in its own size, so that a valid region can be cut from it."""
    is_larger = len(stated) == len(wanted) and all(n >= m for n, m in zip(stated, wanted, strict=True))
    if is_larger and layouts.is_known(npu.layout) and layouts.fits(
        npu.layout, npu.shape, layout, stated, npu.groups,
    ):
        return npu.seen_as(stated, layout)  # `_restrict` and the shape check of `compare_pair` decide
    return f"golden is {_text(wanted)}, {by} says {_text(stated)} for the npu's"


def _other_order(stated: Shape, layout: str | None, wanted: Shape) -> str | None:
    """NHWC for a golden whose sizes are those of `stated` in NCHW moved to NHWC, and the other way round."""
    if len(stated) != 4 or len(wanted) != 4:
        return None
    n, a, b, c = stated
    if layout in (None, "NCHW") and wanted == (n, b, c, a):
        return "NHWC"
    if layout == "NHWC" and wanted == (n, c, a, b):
        return "NCHW"
    return None


def _plain(layout: str | None) -> str | None:
    """`layout` if it says something about the order of an original's axes."""
    return layout if layout is not None and layout != "ND" and layouts.is_plain(layout) else None


def _text(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


# -- outputs of the model, valid regions -------------------------------------------------------------------------


def _mark_outputs(
    rows: list[Pair], gold: _Golden, model: Graph | None, mapping: Graph | None, notes: list[str],
) -> list[Pair]:
    """`rows` with those marked that stand for the model's outputs; outputs that nothing stands for are added."""
    if mapping is not None and mapping.outputs:
        return _mark_by_mapping(rows, gold, _Device(mapping, gold, model))
    wanted = _outputs_of_golden(gold, model, mapping)
    if not wanted:
        names = [port.node for port in gold.dump if port.side == "output"]
        if not names:
            return rows
        wanted = [port for port in gold.dump if port.side == "output" and port.node == names[-1]]
        notes.append(
            f"nothing says which tensors the model's outputs are: those of the last golden op ({names[-1]}) are taken"
        )
    return _marked(rows, gold, wanted)


def _outputs_of_golden(gold: _Golden, model: Graph | None, mapping: Graph | None) -> list[Port]:
    found: list[Port] = []
    for _, node, index in mapping.meta.get("outputs", ()) if mapping is not None else ():
        if node:
            found.append(gold.find(node, index).port)
    if found:
        return found
    for item in gold.dump.meta.get("outputs", ()) or ():
        try:
            port = item if isinstance(item, Port) else Port.parse(str(item))
        except ValueError:
            continue
        found.append(gold.find(port.node, port.index).port)
    if not found and model is not None:
        made = [model.producer(tensor) for tensor in model.outputs]
        found = [gold.find(port.node, port.index).port for port in made if port is not None]
    return list(dict.fromkeys(found))


def _marked(rows: list[Pair], gold: _Golden, wanted: Iterable[Port]) -> list[Pair]:
    """Rows whose golden tensor is an output: the last one that has an NPU tensor, else a missing one."""
    out = list(rows)
    for port in wanted:
        places = [i for i, row in enumerate(out) if row.golden_port == port and row.port.side == "output"]
        better = [i for i in places if out[i].npu is not None or out[i].verdict is Verdict.UNREADABLE]
        places = better or [i for i in places if out[i].verdict is not Verdict.FUSED] or places
        if not places:
            ref = gold.ref(port.node, "output", port.index)
            reason = "no device tensor stands for this model output"
            out.append(Pair(
                port, port, ref, verdict=Verdict.NO_NPU, reason=reason, originals=(port.node,), is_output=True,
                order=max((row.order for row in rows), default=0), group=-1,
            ))
            continue
        for i in places:
            out[i] = replace(out[i], is_output=True)
            if out[i].verdict is Verdict.FUSED:
                out[i] = replace(out[i], verdict=Verdict.NO_NPU, reason=f"a model output, but {out[i].reason}")
    return out


def _mark_by_mapping(rows: list[Pair], gold: _Golden, device: _Device) -> list[Pair]:
    out = list(rows)
    for place, tensor in enumerate(device.mapping.outputs):
        trail = device.trace(tensor)
        by_port = {row.port: i for i, row in enumerate(out)}
        ports = [Port(*_output_port(step)) for step in trail.visited]
        ports += [
            Port(node.name, "input", place) for node in device.mapping.nodes
            if node.op_type == "NetOutput" and place < len(node.inputs) and node.inputs[place] == tensor
        ]
        there = [by_port[port] for port in ports if port in by_port]
        judged = [i for i in there if out[i].npu is not None or out[i].verdict is Verdict.UNREADABLE]
        if judged or there:
            i = (judged or there)[0]
            out[i] = replace(out[i], is_output=True)
            if out[i].verdict is Verdict.FUSED:
                out[i] = replace(out[i], verdict=Verdict.NO_NPU, reason=f"a model output, but {out[i].reason}")
        elif trail.key is not None:
            out = _marked(out, gold, [gold.find(*trail.key).port])
        else:
            port = Port(*_output_port(tensor))
            out.append(Pair(
                port, verdict=Verdict.NO_NPU, reason="a model output that was not dumped", is_output=True,
                order=device.order.get(port.node, len(device.nodes)), group=device.group.get(port.node, -1),
            ))
    return out


def _output_port(tensor: str) -> tuple[str, Side, int]:
    name, index = split_input(tensor)
    return name, "output", index


@dataclass(frozen=True)
class _Valid:
    pattern: str
    axis: int
    count: int
    text: str = field(compare=False, default="")


def _restrict(rows: list[Pair], valid: Sequence[str], gold: _Golden) -> list[Pair]:
    """`rows` with the valid regions that `valid` sets. Raises InputError for what cannot be understood or met."""
    from fnmatch import fnmatchcase

    for text in valid:
        rule = _parse_valid(text)
        hit = False
        for place, row in enumerate(rows):
            if row.golden is None or row.npu is None or row.verdict is not None:
                continue
            names = {row.port.node, str(row.port)}
            if row.golden_port is not None:
                names |= {row.golden_port.node, str(row.golden_port)}
            if gold.model is not None and row.golden_port is not None:
                names.add(gold.model.tensor(row.golden_port) or "")
            if not any(name and fnmatchcase(name, rule.pattern) for name in names):
                continue
            hit = True
            shape = row.extent or row.golden.own_shape
            axis = rule.axis + len(shape) if rule.axis < 0 else rule.axis
            if not 0 <= axis < len(shape) or rule.count > row.golden.own_shape[axis]:
                raise InputError(f"--valid {text}: {row.golden_port} is {_text(row.golden.own_shape)}")
            extent = (*shape[:axis], rule.count, *shape[axis + 1:])
            note = f"only the first {rule.count} along axis {rule.axis} are compared"
            rows[place] = replace(row, extent=extent, notes=(*row.notes, note))
        if not hit:
            raise InputError(f"--valid {text}: no compared tensor has this name")
    return rows


def _parse_valid(text: str) -> _Valid:
    name, equals, rest = text.rpartition("=")
    axis, colon, count = rest.partition(":")
    try:
        if not (name and equals and colon) or int(count) < 1:
            raise ValueError
        return _Valid(name, int(axis), int(count), text)
    except ValueError:
        raise InputError(f"--valid {text!r}: write NAME=AXIS:N, for example logits=0:4") from None
