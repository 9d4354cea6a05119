"""The graph in a .mindir file: primitives looked up, plumbing collapsed, weights left where they are.

Source: ../shared/specs/model_formats.md, b.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from acccmp.core.graph import Dim, Graph, Node, TensorSpec, shape_text
from acccmp.core.reading import is_inside, mapped
from acccmp.core.tensor import DTYPES, DType, TensorRef
from acccmp.core.wire import Payload, PayloadTable, message, text_of
from acccmp.errors import FormatError

# Where weights and constants lie in a ModelProto; attributes and graphs are in each other.
_TENSOR = PayloadTable({9: None})
_ATTRIBUTE = PayloadTable({6: _TENSOR, 12: _TENSOR})
_GRAPH = PayloadTable({1: PayloadTable({5: _ATTRIBUTE, 8: _ATTRIBUTE, 9: _ATTRIBUTE}), 3: _TENSOR, 8: _ATTRIBUTE})
_ATTRIBUTE.update({7: _GRAPH, 13: _GRAPH, 17: _ATTRIBUTE})
_PAYLOADS = PayloadTable({7: _GRAPH, 8: _GRAPH, 12: PayloadTable({3: _ATTRIBUTE})})

DTYPE_NUMBERS = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16",
    17: "float64",
}
# Fields of TensorProto that hold numbers one by one.
_TYPED = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
_COMPRESSED = {1: "indexing", 2: "sparse", 3: "FSE", 4: "bit packing", 5: "FSE of integers", 6: "FSE for inference"}

_TUPLE, _LIST = 20, 21
_UMONAD, _IOMONAD, _NONE = 23, 24, 25
DEEPEST = 32
_MOST_OUTPUTS = 4096


@dataclass(frozen=True)
class _Tuple:
    """Values that are handed on together."""

    items: tuple[Any, ...]


@dataclass(frozen=True)
class _Value:
    """A constant that is no tensor: a number, a text, a tuple of numbers; None for monads."""

    value: Any


@dataclass
class _Op:
    """A node that stays, before its outputs are known."""

    proto: Any
    op_type: str
    attrs: dict[str, Any]
    inputs: list[Any]
    output: str
    function: str = ""
    taken: int = -1  # highest output that a TupleGetItem took


def read(path: Path) -> Graph:
    """The Graph of a plain .mindir. Raises FormatError for damaged files and others."""
    from acccmp.schemas import mindir_pb2

    with mapped(path) as buffer:
        what = f"{path}: not a MindIR model, or damaged"
        model = message(mindir_pb2.ModelProto, buffer, 0, len(buffer), _PAYLOADS, what)
    if not model.HasField("graph") or not (model.graph.node or model.graph.parameter):
        raise FormatError(f"{path}: not a MindIR model: there is no graph in it")
    reader = _Model(path, model)
    graph = _GraphReader(reader, model.graph, 0).graph()
    meta = {
        "MindIR": text_of(model.ir_version), "MindIR number": model.mind_ir_version or "",
        "producer": text_of(model.producer_name), "MindSpore": text_of(model.model_version),
    }
    return Graph(
        graph.name or path.stem, "mindspore", graph.nodes, graph.inputs, graph.outputs, graph.tensors,
        graph.weights, graph.aliases, path, meta, tuple(dict.fromkeys(reader.notes)),
    )


class _Model:
    """What all graphs of a file share: primitives, functions, where weights may lie."""

    def __init__(self, path: Path, model: Any) -> None:
        self.path = path
        self.primitives = {text_of(p.name): p for p in model.primitives}
        self.functions = {text_of(g.name): g for g in model.functions}
        self.little = not model.HasField("little_endian") or model.little_endian
        self.notes = [] if self.little else ["the weights are stored big-endian: they are left out"]
        self.built: dict[str, Graph] = {}

    def function(self, name: str, depth: int) -> Graph | None:
        """A function graph by name, built once; None for a loop of calls that is too deep."""
        if name not in self.built:
            if depth >= DEEPEST:
                return None
            self.built[name] = Graph(name, "mindspore", ())  # what a function that calls itself sees
            self.built[name] = _GraphReader(self, self.functions[name], depth + 1).graph()
        return self.built[name]

    def tensor(self, name: str, tensor: Any) -> TensorRef | None:
        """Where a TensorProto's numbers lie; None (and a note) when they cannot be read."""
        dtype = dtype_of(tensor)
        shape = tuple(tensor.dims)
        if dtype is None or dtype.numpy is None or any(n < 0 for n in shape):
            what = f"its type {tensor.data_type} has no numbers, or its shape {shape_text(shape)} is not known"
            self._left_out(name, what)
            return None
        if tensor.compression_type:
            how = _COMPRESSED.get(tensor.compression_type, str(tensor.compression_type))
            self._left_out(name, f"it is compressed ({how})")
            return None
        if not self.little:
            return None
        need = dtype.nbytes(math.prod(shape))
        if tensor.HasField("external_data"):
            return self._external(name, tensor.external_data, dtype, shape, need)
        payload = Payload.of(tensor.raw_data) if tensor.HasField("raw_data") else Payload(0, 0)
        if payload.size >= need and payload.size:
            return TensorRef(str(self.path), dtype, shape, payload.offset, payload.size)
        return self._typed(name, tensor, dtype, shape)

    def _typed(self, name: str, tensor: Any, dtype: DType, shape: tuple[int, ...]) -> TensorRef | None:
        """Numbers that are stored one by one: few, so they are kept in memory."""
        count = math.prod(shape)
        for part in _TYPED:
            values = getattr(tensor, part)
            if len(values) == count and count:
                array = np.array(values).reshape(shape)
                if part == "int32_data" and dtype.name in ("float16", "bfloat16"):  # their bits, as numbers
                    bits = array.astype("<u2")
                    array = bits.view("<f2") if dtype.name == "float16" else (bits.astype("<u4") << 16).view("<f4")
                elif dtype.numpy is not None:
                    array = array.astype(dtype.numpy)
                return TensorRef(str(self.path), dtype, shape, 0, dtype.nbytes(count), array=array)
        if count:
            self._left_out(name, f"{count} numbers are due, and none or others are there")
            return None
        return TensorRef(str(self.path), dtype, shape, 0, 0, array=np.zeros(shape, dtype.numpy))

    def _external(
        self, name: str, where: Any, dtype: DType, shape: tuple[int, ...], need: int,
    ) -> TensorRef | None:
        named = text_of(where.location)
        parts = PurePosixPath(named.replace("\\", "/")).parts
        file = self.path.parent.joinpath(*parts) if parts else self.path
        outside = not parts or named.startswith("/") or ".." in parts or not is_inside(
            file, self.path.parent, self.path.resolve().parent)
        if outside or not file.is_file():
            self._left_out(name, f"its file {named!r} is not beside the model")
            return None
        room = file.stat().st_size - where.offset
        if where.offset < 0 or room < need:
            self._left_out(name, f"{need} bytes at {where.offset} of {named} are due, {max(room, 0)} are there")
            return None
        return TensorRef(str(file), dtype, shape, where.offset, need)

    def _left_out(self, name: str, why: str) -> None:
        self.notes.append(f"the weight {name} is left out: {why}")


@dataclass
class _GraphReader:
    """Turns one GraphProto into a Graph."""

    model: _Model
    proto: Any
    depth: int
    names: dict[str, str] = field(default_factory=dict)  # name in the file -> name in the Graph
    taken: set[str] = field(default_factory=set)
    values: dict[str, Any] = field(default_factory=dict)  # name in the file -> tensor name, _Tuple, _Value or _Op
    weights: dict[str, TensorRef] = field(default_factory=dict)
    tensors: dict[str, TensorSpec] = field(default_factory=dict)

    def graph(self) -> Graph:
        inputs = [self._input(info) for info in self.proto.input]
        for parameter in self.proto.parameter:
            self._weight(text_of(parameter.name), parameter)
        ops = [found for node in self.proto.node if (found := self._node(node)) is not None]
        ends = [end for info in self.proto.output for end in _names(self._of(text_of(info.name)))]
        nodes = self._nodes(ops)
        for info in self.proto.output:
            self._output(info)
        return Graph(
            text_of(self.proto.name), "mindspore", tuple(nodes), tuple(inputs), tuple(dict.fromkeys(ends)),
            self.tensors, self.weights, path=self.model.path,
        )

    # -- names -------------------------------------------------------------------------------------------------------

    def _name(self, full: str) -> str:
        """The name without its graph's (`<graph>:conv1.weight`), as long as nothing else has it."""
        if full not in self.names:
            prefix = f"{text_of(self.proto.name)}:"
            short = full.removeprefix(prefix)
            unique, again = (full if short in self.taken else short), 2
            while unique in self.taken:
                unique, again = f"{full}@{again}", again + 1
            self.names[full] = unique
            self.taken.add(unique)
        return self.names[full]

    def _of(self, full: str) -> Any:
        """What stands behind a name; a name that nothing makes is a tensor from outside."""
        return self.values[full] if full in self.values else self._name(full)

    # -- what goes in ------------------------------------------------------------------------------------------------

    def _input(self, info: Any) -> str:
        name = self._name(text_of(info.name))
        self.values[text_of(info.name)] = name
        self.tensors[name] = _spec(name, info.tensor)
        return name

    def _output(self, info: Any) -> None:
        """Shapes of the model's outputs, where the nodes do not tell them."""
        for name, tensor in zip(_names(self._of(text_of(info.name))), info.tensor, strict=False):
            if self.tensors.get(name, TensorSpec(name)).shape is None:
                self.tensors[name] = _spec(name, [tensor])

    def _weight(self, full: str, tensor: Any) -> str:
        name = self._name(full)
        self.values[full] = name
        ref = self.model.tensor(name, tensor)
        self.tensors[name] = TensorSpec(name, dtype_of(tensor), tuple(tensor.dims))
        if ref is not None:
            self.weights[name] = ref
        return name

    # -- nodes -------------------------------------------------------------------------------------------------------

    def _node(self, node: Any) -> _Op | None:
        """A node that stays; None for one that only hands values on, whose outputs are looked up from then on."""
        kind, attrs, function = self._kind(node)
        full = text_of(node.output[0]) if node.output else text_of(node.name)
        inputs = [self._of(text_of(name)) for name in node.input]
        if kind == "Constant":
            self.values[full] = self._constant(full, node)
            return None
        handed_on = self._handed_on(kind, inputs)
        if handed_on is not None:
            self.values[full] = handed_on
            return None
        op = _Op(node, kind, attrs, inputs, self._name(full), function)
        self.values[full] = op
        return op

    def _kind(self, node: Any) -> tuple[str, dict[str, Any], str]:
        """Type, attributes, and the function that is called."""
        kind = text_of(node.op_type)
        attrs = _attributes(node.attribute)
        attrs.pop("shape", None)
        if not kind.startswith("REF::"):
            return kind, attrs, ""
        name = kind.removeprefix("REF::")
        if name in self.model.primitives:
            primitive = self.model.primitives[name]
            return text_of(primitive.op_type), _attributes(primitive.attribute) | attrs, ""
        if name in self.model.functions:
            return "Call", attrs, name
        return name.rpartition("::")[2], attrs, ""

    def _handed_on(self, kind: str, inputs: list[Any]) -> Any:
        """The value that a node of plumbing hands on; None for a real op."""
        if kind in ("Load", "Depend", "Return") and inputs:
            return inputs[0]
        if kind == "UpdateState":
            return _Value(None)
        if kind in ("MakeTuple", "MakeList"):
            return _Tuple(tuple(inputs))
        if kind in ("TupleGetItem", "ListGetItem") and len(inputs) == 2 and isinstance(inputs[1], _Value):
            return self._item(inputs[0], inputs[1].value)
        return None

    def _item(self, of: Any, index: Any) -> Any:
        if not isinstance(index, int) or not -_MOST_OUTPUTS < index < _MOST_OUTPUTS:
            return None
        if isinstance(of, _Tuple):
            return of.items[index] if -len(of.items) <= index < len(of.items) else None
        if isinstance(of, _Op) and index >= 0:
            of.taken = max(of.taken, index)
            return _Item(of, index)
        return None

    def _constant(self, full: str, node: Any) -> Any:
        """A constant: a tensor is a weight, anything else a value."""
        for attribute in node.attribute:
            if attribute.type in (_UMONAD, _IOMONAD, _NONE):
                return _Value(None)
            tensors = [*attribute.tensors, *([attribute.t] if attribute.HasField("t") else [])]
            if len(tensors) == 1 and attribute.type not in (_TUPLE, _LIST):
                return self._weight(full, tensors[0])
        return _Value(next(iter(_attributes(node.attribute).values()), None))

    def _nodes(self, ops: list[_Op]) -> list[Node]:
        scopes: dict[str, int] = {}
        found = []
        for place, op in enumerate(ops):
            name = text_of(op.proto.domain) or op.output or f"{op.op_type}_{place}"
            scopes[name] = scopes.get(name, 0) + 1
            if scopes[name] > 1:
                name = f"{name}@{scopes[name]}"
            outputs = self._outputs(op)
            attrs, inputs = dict(op.attrs), []
            for slot, value in enumerate(op.inputs):
                if isinstance(value, _Value):
                    if value.value is not None:
                        attrs[f"input_{slot}"] = value.value
                        inputs.append("")
                else:
                    inputs += _names(value)
            while inputs and not inputs[-1]:
                inputs.pop()
            inner = self.model.function(op.function, self.depth) if op.function else None
            found.append(Node(
                name, op.op_type, tuple(inputs), outputs, attrs,
                subgraphs={op.function: inner} if inner is not None else {},
            ))
        return found

    def _outputs(self, op: _Op) -> tuple[str, ...]:
        """Output names; an op whose parts were taken one by one has several, each with its shape."""
        told = (a for a in op.proto.attribute if text_of(a.name) in ("shape", "") and (a.tensors or a.values))
        shapes = next(told, None)
        if op.taken < 0:
            self.tensors[op.output] = _spec(op.output, shapes.tensors if shapes is not None else ())
            return (op.output,)
        names = tuple(f"{op.output}[{i}]" for i in range(op.taken + 1))
        parts = list(shapes.values) if shapes is not None else []
        for i, name in enumerate(names):
            self.tensors[name] = _spec(name, parts[i].tensors if i < len(parts) else ())
        return names


@dataclass(frozen=True)
class _Item:
    """One output of an op with several."""

    op: _Op
    index: int


def _names(value: Any, depth: int = 0) -> list[str]:
    """The tensors that a value stands for: several for values that are handed on together, none for constants."""
    if isinstance(value, _Tuple):
        return [name for item in value.items if depth < DEEPEST for name in _names(item, depth + 1)]
    if isinstance(value, _Item):
        return [f"{value.op.output}[{value.index}]"]
    if isinstance(value, _Op):
        return [value.output if value.taken < 0 else f"{value.output}[0]"]
    return [value] if isinstance(value, str) and value else []


def _spec(name: str, tensors: Iterable[Any]) -> TensorSpec:
    tensor = next(iter(tensors), None)
    if tensor is None:
        return TensorSpec(name)
    shape: tuple[Dim, ...] | None = tuple(n if n >= 0 else None for n in tensor.dims)
    if -2 in tensor.dims:  # unknown rank
        shape = None
    return TensorSpec(name, dtype_of(tensor), shape)


def dtype_of(tensor: Any) -> DType | None:
    return DTYPES.get(DTYPE_NUMBERS.get(tensor.data_type, ""))


def _attributes(found: Iterable[Any]) -> dict[str, Any]:
    """AttributeProtos as plain values; texts as str, lists as tuples, tensors as their shapes."""
    return {text_of(a.name): _value(a) for a in found if text_of(a.name)}


def _value(a: Any, depth: int = 0) -> Any:
    if depth > DEEPEST:
        return None
    if a.type in (_TUPLE, _LIST) or a.values:
        return tuple(_value(item, depth + 1) for item in a.values)
    for many in ("floats", "doubles", "ints", "strings"):
        listed = tuple(text_of(item) if many == "strings" else item for item in getattr(a, many))
        if listed:  # a single one inside of a tuple is written as a list of one
            return listed[0] if depth and len(listed) == 1 else listed
    if a.tensors or a.HasField("t"):
        return tuple(tuple(tensor.dims) for tensor in (*a.tensors, *([a.t] if a.HasField("t") else [])))
    for one in ("s", "i", "f", "d"):
        if a.HasField(one):
            value = getattr(a, one)
            return text_of(value) if one == "s" else value
    return None

