"""ONNX models: a file as a Graph, and a Graph (a part of one, too) as a file.

`Node.source` is the NodeProto; `Graph.source` is an `OnnxSource`. Only this module, the runners and the emulator look
inside them.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from acccmp.core.graph import Graph, Node, Shape, TensorSpec, shape_text
from acccmp.core.names import free_name
from acccmp.core.tensor import DTYPES, DType, TensorRef
from acccmp.errors import FormatError, InputError
from acccmp.models import onnx_file
from acccmp.models.onnx_file import bodies
from acccmp.models.onnx_folding import fold
from acccmp.models.order import in_order

if TYPE_CHECKING:
    import onnx

# TensorProto.DataType -> row of the dtype table. Types without a row (uint4, uint2, the fnuz floats) are decoded.
DTYPE_OF = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16",
    17: "float8_e4m3fn", 19: "float8_e5m2", 22: "int4", 23: "float4_e2m1", 24: "float8_e8m0", 26: "int2",
}
TYPE_NUMBER = {name: number for number, name in DTYPE_OF.items()}

_SMALL = 4096  # bytes of an external tensor that may steer shapes
_ROUNDS = 8  # of folding and inference, one after the other
_DENSE = 1 << 28  # elements that a sparse initializer may have


@dataclass(frozen=True, eq=False)
class OnnxSource:
    """What a Graph of an ONNX file came from: the model without its larger weights (they are external data at the
    model file itself, see `onnx_file`), its folder, and every value type that is known."""

    model: onnx.ModelProto
    path: Path
    types: Mapping[str, onnx.TypeProto] = field(repr=False)


# -- loading -----------------------------------------------------------------------------------------------------


def load(path: str | os.PathLike[str]) -> Graph:
    """The model in an .onnx file. Weights stay where they are: in the file, or in the files beside it.

    Inputs are the graph's inputs without initializers; bodies of If, Loop and Scan and the bodies of local functions
    are `Node.subgraphs`. Shapes are inferred; what cannot be inferred stays None. Node names are made unique: unnamed
    nodes are `<op_type>_<index>`, names used more than once get `#1`, `#2`, ... and are in `aliases`.
    Raises FormatError for damaged and cut-off files, and for external data outside the model's folder. External files
    that are missing are a note; reading the weight fails then.
    """
    path = Path(path)
    model = onnx_file.read_skeleton(path)
    if not model.HasField("graph"):
        raise FormatError(f"{path}: an ONNX model without a graph; it may be cut off")
    _check_texts(model, path)
    inferred, why_not = _infer(model, path)
    builder = _Builder(model, path)
    graph = builder.graph(model.graph, inferred.graph, path.stem, set())
    source = OnnxSource(model, path, builder.types)
    return replace(
        graph, path=path, source=source, notes=(*why_not, *builder.notes),
        meta={
            "graph_name": model.graph.name, "ir_version": int(model.ir_version),
            "opset": {item.domain: int(item.version) for item in model.opset_import},
            "producer": " ".join(filter(None, (model.producer_name, model.producer_version))),
            "domain": model.domain, "model_version": int(model.model_version),
            "functions": tuple(f"{f.domain}.{f.name}" for f in model.functions),
            "properties": {item.key: item.value for item in model.metadata_props},
        },
    )


def _check_texts(model: onnx.ModelProto, path: Path) -> None:
    """Names that are no UTF-8 come out of protobuf as bytes; a file that has them is damaged."""
    for text in _texts_of_model(model):
        if not isinstance(text, str):
            raise FormatError(f"{path}: an ONNX model that is damaged: the name {bytes(text)[:40]!r} is no text")


def _texts_of_model(model: onnx.ModelProto) -> Iterator[Any]:
    yield from (model.producer_name, model.producer_version, model.domain)
    yield from (item.domain for item in model.opset_import)
    for item in model.metadata_props:
        yield from (item.key, item.value)
    yield from _texts_of_graph(model.graph)
    for function in model.functions:
        yield from (function.name, function.domain, *function.input, *function.output)
        yield from _texts_of(function.node)


def _texts_of_graph(graph: onnx.GraphProto) -> Iterator[Any]:
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield value.name
        yield from (dim.dim_param for dim in _dim_protos(value.type))
    for tensor in graph.initializer:
        yield tensor.name
        for entry in tensor.external_data:
            yield from (entry.key, entry.value)
    yield from (tensor.values.name for tensor in graph.sparse_initializer)
    yield graph.name
    yield from _texts_of(graph.node)


def _texts_of(nodes: Iterable[onnx.NodeProto]) -> Iterator[Any]:
    for node in nodes:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for attribute in node.attribute:
            yield from (attribute.name, attribute.ref_attr_name)
        for body in bodies(node):
            yield from _texts_of_graph(body)


def _infer(model: onnx.ModelProto, path: Path) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The model with every value type that ONNX's own shape inference finds, and a note where it finds none."""
    import onnx
    import onnx.shape_inference

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if any(_dims_of(value.type) and 0 in _dims_of(value.type) for value in copy.graph.input):
        # Some exporters write 0 for "any"; nothing may be computed from such a 0.
        for value in (*copy.graph.input, *copy.graph.output, *copy.graph.value_info):
            for dim in _dim_protos(value.type):
                if dim.HasField("dim_value") and dim.dim_value <= 0:
                    dim.ClearField("dim_value")
    for tensor in copy.graph.initializer:  # shapes that are stored as external data
        if onnx_file.is_external(tensor) and tensor.data_type in (6, 7) and math.prod(tensor.dims) * 8 <= _SMALL:
            try:
                raw = _lazy_ref(tensor, path).raw()
            except FormatError:
                continue
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            tensor.raw_data = raw
    for node in copy.graph.node:
        if node.op_type in _QUANTISED:  # for shapes they are casts
            del node.input[1:], node.attribute[:]
            node.attribute.append(onnx.helper.make_attribute("to", onnx.TensorProto.FLOAT))
            node.op_type, node.domain = "Cast", ""
    why = ""
    for data_prop in (True, False):
        try:
            inferred = onnx.shape_inference.infer_shapes(copy, check_type=False, strict_mode=False, data_prop=data_prop)
            for _ in range(_ROUNDS):
                if not _open_ends(inferred.graph) or not fold(inferred):
                    break
                inferred = onnx.shape_inference.infer_shapes(
                    inferred, check_type=False, strict_mode=False, data_prop=data_prop,
                )
            return inferred, ()
        except Exception as error:  # errors of the C++ side have no common parent below Exception
            why = why or str(error).strip().splitlines()[0][:200]
    return copy, (f"shapes could not be inferred: {why}",)


def _open_ends(graph: onnx.GraphProto) -> bool:
    """Is there a node output whose shape is not known at all, behind arithmetic that may tell it?"""
    told = {v.name for v in (*graph.value_info, *graph.output) if v.type.WhichOneof("value") == "tensor_type"
            and v.type.tensor_type.HasField("shape")}
    return any(t and t not in told for node in graph.node for t in node.output) and any(
        node.op_type == "Shape" for node in graph.node
    )


def _dim_protos(kind: onnx.TypeProto) -> Any:
    which = kind.WhichOneof("value")
    if which not in ("tensor_type", "sparse_tensor_type"):
        return ()
    tensor = getattr(kind, which)
    return tensor.shape.dim if tensor.HasField("shape") else ()


def _dims_of(kind: onnx.TypeProto) -> list[int]:
    return [int(dim.dim_value) if dim.HasField("dim_value") else -1 for dim in _dim_protos(kind)]


class _Builder:
    """Turns the protos of one file into Graphs; bodies of functions are made once each."""

    def __init__(self, model: onnx.ModelProto, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        self.types: dict[str, onnx.TypeProto] = {}
        self.symbols = _symbols(model)
        self.opsets = {item.domain or "ai.onnx": int(item.version) for item in model.opset_import}
        self.functions = {(f.domain, f.name, getattr(f, "overload", "")): f for f in model.functions}
        self._bodies: dict[tuple[str, str, str], Graph | None] = {}
        self._missing: set[str] = set()

    def graph(self, proto: onnx.GraphProto, inferred: onnx.GraphProto, name: str, outer: set[str]) -> Graph:
        """A graph or a body; `outer` are the names that a body may read from around it."""
        top = proto is not inferred and not outer
        weights, specs = self.weights(proto)
        types = {
            value.name: value.type for graph in (proto, inferred)
            for value in (*graph.value_info, *graph.input, *graph.output)
        }
        if top:
            self.types.update(types)
        specs = {**{n: self.spec(n, t) for n, t in types.items() if n and n not in weights}, **specs}
        inputs = tuple(v.name for v in proto.input if v.name and v.name not in weights)
        known = outer | set(weights) | {v.name for v in proto.input}
        nodes, aliases = self.nodes(proto.node, inferred.node, known, name)
        _bind_types(nodes, specs, self.opsets)
        _set_quantised(nodes, specs)
        _hint_layouts(nodes, specs)
        return Graph(
            name, "onnx", nodes, inputs, tuple(dict.fromkeys(v.name for v in proto.output if v.name)), specs, weights,
            aliases,
        )

    # nodes

    def nodes(
        self, protos: Sequence[onnx.NodeProto], inferred: Sequence[onnx.NodeProto], known: set[str], where: str,
    ) -> tuple[tuple[Node, ...], dict[str, tuple[str, ...]]]:
        order, told = _execution_order(protos, known, f"{self.path}: {where}")
        self.notes += told
        names, aliases = _unique_names(protos)
        made = known | {t for proto in protos for t in proto.output if t}
        matching = len(inferred) == len(protos)
        nodes = []
        for place in order:
            proto = protos[place]
            nodes.append(self.node(proto, inferred[place] if matching else proto, names[place], made))
        return tuple(nodes), aliases

    def node(self, proto: onnx.NodeProto, inferred: onnx.NodeProto, name: str, outer: set[str]) -> Node:
        attrs: dict[str, Any] = {}
        bodies: dict[str, Graph] = {}
        types = {a.name: a for a in inferred.attribute}
        for attribute in proto.attribute:
            other = types.get(attribute.name, attribute)
            if attribute.HasField("g"):
                bodies[attribute.name] = self.graph(attribute.g, other.g, attribute.name, outer)
            elif attribute.graphs:
                for index, body in enumerate(attribute.graphs):
                    same = other.graphs[index] if index < len(other.graphs) else body
                    bodies[f"{attribute.name}[{index}]"] = self.graph(body, same, attribute.name, outer)
            else:
                attrs[attribute.name] = self.value(attribute)
        captures = dict.fromkeys(t for body in bodies.values() for t in _free(body) if t in outer)
        called = self.body(proto)
        if called is not None:
            bodies["body"] = called
        return Node(
            name, proto.op_type, tuple(proto.input), tuple(proto.output), attrs, captures=tuple(captures),
            subgraphs=bodies, domain="" if proto.domain == "ai.onnx" else proto.domain, source=proto,
        )

    def body(self, proto: onnx.NodeProto) -> Graph | None:
        """The body of the local function that the node calls; None for other nodes."""
        import onnx

        key = (proto.domain, proto.op_type, getattr(proto, "overload", ""))
        function = self.functions.get(key)
        if function is None:
            return None
        if key in self._bodies:
            if self._bodies[key] is None:
                raise FormatError(f"{self.path}: the function {key[0]}.{key[1]} calls itself")
            return self._bodies[key]
        self._bodies[key] = None
        shell = onnx.GraphProto(name=function.name, node=function.node)
        shell.value_info.extend(getattr(function, "value_info", ()))
        shell.input.extend(onnx.ValueInfoProto(name=n) for n in function.input)
        shell.output.extend(onnx.ValueInfoProto(name=n) for n in function.output)
        made = self._bodies[key] = self.graph(shell, shell, function.name, set())
        return made

    def value(self, attribute: onnx.AttributeProto) -> Any:
        """The attribute as a plain value; tensors as refs; a reference to a function's attribute as "@name"."""
        import onnx

        if attribute.ref_attr_name:
            return f"@{attribute.ref_attr_name}"
        try:
            found = onnx.helper.get_attribute_value(attribute)
        except ValueError:  # a kind that is newer than this
            return f"<attribute of kind {attribute.type}>"
        return tuple(map(self.plain, found)) if isinstance(found, list) else self.plain(found)

    def plain(self, value: Any) -> Any:
        import onnx

        if isinstance(value, onnx.TensorProto):
            return self.ref(value)
        if isinstance(value, onnx.SparseTensorProto):
            return self.sparse(value)
        if isinstance(value, onnx.TypeProto):
            return str(value).strip()
        return _text(value) if isinstance(value, bytes) else value

    # tensors

    def weights(self, proto: onnx.GraphProto) -> tuple[dict[str, TensorRef], dict[str, TensorSpec]]:
        refs = {t.name: self.ref(t) for t in proto.initializer if t.name}
        for tensor in proto.sparse_initializer:
            refs[tensor.values.name] = self.sparse(tensor)
        return refs, {name: TensorSpec(name, ref.dtype, ref.own_shape) for name, ref in refs.items()}

    def ref(self, tensor: onnx.TensorProto) -> TensorRef:
        if not onnx_file.is_external(tensor):
            return _inner_ref(tensor, self.path)
        ref = _lazy_ref(tensor, self.path)
        if not os.path.exists(ref.path) and ref.path not in self._missing:
            self._missing.add(ref.path)
            self.notes.append(f"the file of weights {ref.path} is missing: the model can be shown, but not run")
        return ref

    def sparse(self, tensor: onnx.SparseTensorProto) -> TensorRef:
        """A sparse tensor, filled up with zeros."""
        name, shape = tensor.values.name, tuple(int(n) for n in tensor.dims)
        if min(shape, default=0) < 0 or math.prod(shape) > _DENSE:
            raise FormatError(f"{self.path}: the sparse tensor {name!r} has the shape {shape_text(shape)}")
        values, places = self.ref(tensor.values).numpy().reshape(-1), self.ref(tensor.indices).numpy()
        dense = np.zeros(shape, values.dtype)
        try:
            if places.ndim == 2:
                dense[tuple(places.T)] = values
            else:
                dense.reshape(-1)[places.astype(np.int64)] = values
        except (IndexError, ValueError) as error:
            raise FormatError(f"{self.path}: the sparse tensor {name!r} is damaged: {error}") from None
        return TensorRef.of(dense, name=str(self.path))

    def spec(self, name: str, kind: onnx.TypeProto) -> TensorSpec:
        """What a value type says; sequences, maps and optionals have neither dtype nor shape."""
        which = kind.WhichOneof("value")
        if which not in ("tensor_type", "sparse_tensor_type"):
            return TensorSpec(name)
        tensor = getattr(kind, which)
        row = DTYPE_OF.get(tensor.elem_type)
        shape: Shape | None = None
        if tensor.HasField("shape"):
            shape = tuple(self.dim(dim) for dim in tensor.shape.dim)
        return TensorSpec(name, DTYPES[row] if row else None, shape)

    def dim(self, dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
        if dim.HasField("dim_value"):
            return int(dim.dim_value) if dim.dim_value >= 0 else None
        # Inference makes up names (unk__7) for sizes that it does not know.
        return dim.dim_param if dim.dim_param in self.symbols else None


def _symbols(model: onnx.ModelProto) -> set[str]:
    """The names of sizes that the file itself uses."""
    graph = model.graph
    return {
        dim.dim_param for value in (*graph.input, *graph.output, *graph.value_info) for dim in _dim_protos(value.type)
        if dim.dim_param
    }


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw


def _shape_of(tensor: onnx.TensorProto, path: Path) -> tuple[int, ...]:
    shape = tuple(int(n) for n in tensor.dims)
    if min(shape, default=0) < 0 or len(shape) > 32:
        raise FormatError(f"{path}: the weight {tensor.name!r} has the shape {shape_text(shape)}")
    return shape


def _lazy_ref(tensor: onnx.TensorProto, path: Path) -> TensorRef:
    """A ref to data that lie in a file."""
    place, shape = onnx_file.place_of(tensor, path), _shape_of(tensor, path)
    row = DTYPES[DTYPE_OF.get(tensor.data_type, "undefined")]
    need = row.nbytes(math.prod(shape)) if row.kind != "opaque" else 0
    if place.size is not None and place.size < need:
        raise FormatError(
            f"{path}: the weight {tensor.name!r}, {shape_text(shape)} {row}, needs {need} bytes and has {place.size}"
        )
    if place.path.exists() and place.path.stat().st_size < place.offset + need:
        raise FormatError(
            f"{place.path}: the weight {tensor.name!r} needs {need} bytes at offset {place.offset}, the file ends at "
            f"{place.path.stat().st_size}"
        )
    if row.kind == "opaque":
        raise FormatError(f"{path}: the weight {tensor.name!r} is of type {tensor.data_type} and lies outside the file")
    return TensorRef(str(place.path), row, shape, place.offset, need)


def _inner_ref(tensor: onnx.TensorProto, path: Path) -> TensorRef:
    """A ref to data in the skeleton, which are in memory already."""
    import onnx.numpy_helper

    shape = _shape_of(tensor, path)
    name = str(path)
    if tensor.data_type == 8:
        return TensorRef(name, DTYPES["string"], shape, array=np.zeros(shape, np.uint8))
    try:
        array = onnx.numpy_helper.to_array(tensor)
    except Exception as error:  # ValueError, TypeError, KeyError, struct.error, by what is damaged
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FormatError(f"{path}: the weight {tensor.name!r} is damaged: {why}") from None
    try:
        return TensorRef.of(array, name=name)
    except KeyError:  # no row of the table: the numbers in a type that holds them
        return TensorRef.of(array.astype(np.uint8 if "uint" in array.dtype.name else np.float32), name=name)


# -- names and order ---------------------------------------------------------------------------------------------


def _unique_names(protos: Sequence[onnx.NodeProto]) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    """A name for each node that no other has, and what became of the names that several have."""
    count = Counter(proto.name for proto in protos if proto.name)
    taken = {name for name, times in count.items() if times == 1}
    names: list[str] = []
    aliases: dict[str, list[str]] = {}
    for index, proto in enumerate(protos):
        if proto.name and count[proto.name] == 1:
            names.append(proto.name)
            continue
        if proto.name:
            number = len(aliases.setdefault(proto.name, [])) + 1
            name = free_name(f"{proto.name}#{number}", taken)
            aliases[proto.name].append(name)
        else:
            name = free_name(f"{proto.op_type}_{index}", taken)
        taken.add(name)
        names.append(name)
    return names, {name: tuple(unique) for name, unique in aliases.items()}


def _execution_order(
    protos: Sequence[onnx.NodeProto], known: set[str], where: str,
) -> tuple[list[int], tuple[str, ...]]:
    """Places of the nodes such that producers come first, as near to the file's order as possible, and what is odd.

    Raises FormatError for tensors that are made twice, and for cycles.
    """
    made: dict[str, int] = {}
    for place, proto in enumerate(protos):
        for tensor in proto.output:
            if tensor in made:
                raise FormatError(f"{where} makes the tensor {tensor!r} twice")
            if tensor:
                made[tensor] = place
    needs = [{made[t] for t in _reads(proto) if t in made} - {place} for place, proto in enumerate(protos)]
    lost = dict.fromkeys(t for proto in protos for t in proto.input if t and t not in made and t not in known)
    notes = (f"{where} reads tensors that nothing makes: {', '.join(list(lost)[:5])}",) if lost else ()
    if any(place in needs[place] or (needs[place] and max(needs[place]) > place) for place in range(len(protos))):
        order = in_order(needs)
        if len(order) < len(needs):
            raise FormatError(f"{where} has a cycle of nodes")
        return order, (*notes, f"{where}: its nodes were not in the order of execution and are sorted")
    return list(range(len(protos))), notes


def _reads(proto: onnx.NodeProto) -> Iterator[str]:
    """Every name that a node reads, in its bodies too (names that the bodies make themselves are among them)."""
    yield from proto.input
    for body in bodies(proto):
        yield from (value.name for value in body.output)
        for node in body.node:
            yield from _reads(node)


def _free(body: Graph) -> Iterable[str]:
    """Names that a body reads and does not make."""
    own = set(body.weights) | set(body.inputs) | {t for node in body.nodes for t in node.outputs}
    read = dict.fromkeys(t for node in body.nodes for t in node.slots if t)
    return [t for t in (*read, *body.outputs) if t not in own]


# -- what is certain about tensors -------------------------------------------------------------------------------


def _bind_types(nodes: Sequence[Node], specs: dict[str, TensorSpec], opsets: Mapping[str, int]) -> None:
    """Fill in dtypes that an operator's definition leaves no choice about: a type that another slot has, or one type.

    Needed behind custom operators, where ONNX's inference stops.
    """
    import onnx.defs

    def known(tensor: str) -> DType | None:
        return specs[tensor].dtype if tensor in specs else None

    open_ = [node for node in nodes if any(t and known(t) is None for t in (*node.inputs, *node.outputs))]
    for _ in range(len(open_)):
        moved = False
        for node in open_:
            if not onnx.defs.has(node.op_type, node.domain) or node.subgraphs:
                continue
            version = opsets.get(node.domain or "ai.onnx")
            if version is None:
                continue
            try:
                schema = onnx.defs.get_schema(node.op_type, version, node.domain)
            except Exception:  # SchemaError: the operator is not part of this opset
                continue
            slots = [*_typed(node.inputs, schema.inputs), *_typed(node.outputs, schema.outputs)]
            bound = {kind: row for tensor, kind in slots if (row := known(tensor)) is not None}
            for tensor, kind in slots:
                row = bound.get(kind) or _only_type(kind)
                if row is not None and known(tensor) is None:
                    specs[tensor] = replace(specs.get(tensor) or TensorSpec(tensor), dtype=row)
                    moved = True
        if not moved:
            return


def _typed(tensors: Sequence[str], formal: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """Each tensor with the type variable (or the type) that the operator's definition gives it."""
    for slot, tensor in enumerate(tensors):
        if not formal or not tensor:
            continue
        definition = formal[min(slot, len(formal) - 1)]
        variadic = definition.option.name == "Variadic"
        if slot >= len(formal) and not variadic:
            continue
        if not variadic or definition.is_homogeneous:
            yield tensor, definition.type_str


def _only_type(kind: str) -> DType | None:
    if not kind.startswith("tensor("):
        return None
    name = {"float": "float32", "double": "float64"}.get(kind[7:-1], kind[7:-1])
    return DTYPES.get(name)


# Operators whose data input and output have the axes N, C and then space, by definition.
_CHANNEL_SECOND = frozenset({
    "Conv", "ConvInteger", "QLinearConv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool",
    "GlobalMaxPool", "GlobalLpPool", "BatchNormalization", "InstanceNormalization", "LRN", "MaxUnpool",
    "SpaceToDepth", "DepthToSpace",
})
_ELEMENTWISE = frozenset({
    "Relu", "LeakyRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Selu", "Celu", "Softplus",
    "Softsign", "Mish", "Gelu", "ThresholdedRelu", "Abs", "Neg", "Exp", "Log", "Sqrt", "Reciprocal", "Floor", "Ceil",
    "Round", "Erf", "Sign", "Identity", "Cast", "Dropout", "PRelu", "QuantizeLinear", "DequantizeLinear",
})
_SPATIAL = {3: "NCL", 4: "NCHW", 5: "NCDHW"}


# What AMCT's operators make: integers up to the next operator that makes real numbers of them again.
_QUANTISED = {
    "AscendQuant": "int8", "AscendWeightQuant": "int8", "AscendDequant": "float32", "AscendAntiQuant": "float32",
}
_SUMS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})  # of 8-bit integers they are sums of 32 bits


def _set_quantised(nodes: Sequence[Node], specs: dict[str, TensorSpec]) -> None:
    """Give AMCT's operators, and what lies between them, the types of a quantised network."""
    integers: dict[str, str] = {}
    for node in nodes:
        name = _QUANTISED.get(node.op_type)
        if name is None and (found := [integers[tensor] for tensor in node.inputs if tensor in integers]):
            name = "int32" if node.op_type in _SUMS else found[0]
        for tensor in node.outputs if name is not None else ():
            specs[tensor] = replace(specs.get(tensor) or TensorSpec(tensor), dtype=DTYPES[name or ""])
            if name != "float32":
                integers[tensor] = name or ""


def _hint_layouts(nodes: Sequence[Node], specs: dict[str, TensorSpec]) -> None:
    """Say NCHW and the like where an operator's definition leaves no doubt; element-wise operators pass it on."""

    def hint(tensor: str, only: str | None = None) -> None:
        spec = specs.get(tensor) or TensorSpec(tensor)
        layout = _SPATIAL.get(len(spec.shape or ()))
        if layout is not None and spec.layout is None and only in (None, layout):
            specs[tensor] = replace(spec, layout=layout)

    for node in nodes:
        if node.domain or not node.inputs or not node.outputs:
            continue
        source = specs.get(node.inputs[0])
        if node.op_type in _CHANNEL_SECOND:
            hint(node.inputs[0])
            hint(node.outputs[0])
        elif node.op_type in _ELEMENTWISE and source is not None and source.layout is not None:
            hint(node.outputs[0], source.layout)


# -- writing -----------------------------------------------------------------------------------------------------


def save(graph: Graph, folder: str | os.PathLike[str], stem: str = "dump") -> list[Path]:
    """Write `graph`, a whole ONNX model or a part of one, as `<stem>.onnx` in `folder`; returns the files written.

    Everything of the source that belongs to the part is kept: opset, ir_version, functions, bodies, metadata,
    quantisation annotations; external weights go to `<stem>.onnx.data`, in pieces, never held. Inputs are declared
    with the specs of the source; a shape that is not known is left out. Every node gets the name it has in the Graph.
    Raises InputError for graphs that came from no ONNX file, and when the disk says no.
    """
    return onnx_file.write_model(model_proto(graph), source_of(graph).path, Path(folder), stem)


def renamed(graph: Graph, names: Mapping[str, str]) -> Graph:
    """`graph` with inputs under other names, in the messages of its nodes too: what `save` writes has the new names."""
    source = source_of(graph)

    def called(tensor: str) -> str:
        return names.get(tensor, tensor)

    nodes = []
    for node in graph.nodes:
        if not names.keys().isdisjoint(node.slots):
            proto = type(node.source)()
            proto.CopyFrom(node.source)
            _rename_reads(proto, names)
            node = replace(
                node, inputs=tuple(map(called, node.inputs)), captures=tuple(map(called, node.captures)), source=proto,
            )
        nodes.append(node)
    return replace(
        graph, nodes=tuple(nodes), inputs=tuple(map(called, graph.inputs)),
        tensors={called(name): replace(spec, name=called(name)) for name, spec in graph.tensors.items()},
        source=replace(source, types={called(name): kind for name, kind in source.types.items()}),
    )


def _rename_reads(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Let a node, and the bodies in it, read tensors under other names."""
    for place, tensor in enumerate(node.input):
        node.input[place] = names.get(tensor, tensor)
    for body in bodies(node):
        own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
        own |= {tensor for inner in body.node for tensor in inner.output}
        outer = {old: new for old, new in names.items() if old not in own}
        for inner in body.node:
            _rename_reads(inner, outer)
        for value in body.output:
            value.name = outer.get(value.name, value.name)


def source_of(graph: Graph) -> OnnxSource:
    """What the graph came from. InputError for graphs that came from no ONNX file."""
    if not isinstance(graph.source, OnnxSource):
        raise InputError(f"{graph.name or 'this graph'} ({graph.format}) was not loaded from an ONNX file")
    return graph.source


def model_proto(graph: Graph) -> onnx.ModelProto:
    """`graph` as a message; the data of larger weights are external, relative to the folder of `source_of(graph)`."""
    import onnx

    source = source_of(graph)
    whole = source.model
    model = onnx.ModelProto()
    for descriptor, value in whole.ListFields():
        if descriptor.name in ("graph", "functions", "training_info"):
            continue
        if isinstance(value, int | float | str | bytes):
            setattr(model, descriptor.name, value)
        else:
            getattr(model, descriptor.name).extend(value)
    out = model.graph
    out.name, out.doc_string = whole.graph.name or graph.name, whole.graph.doc_string
    out.metadata_props.extend(whole.graph.metadata_props)
    for node in graph.nodes:
        proto = out.node.add()
        proto.CopyFrom(node.source)
        proto.name = node.name
    model.functions.extend(_called(out.node, whole.functions))
    made = {t for node in graph.nodes for t in node.outputs if t}
    kept = made | set(graph.inputs) | set(graph.weights)
    _weights(graph, source, out, kept)
    listed = {value.name: value for value in whole.graph.input}
    out.input.extend(_value_info(graph, source, name, listed) for name in graph.inputs)
    out.input.extend(value for name, value in listed.items() if name in graph.weights and name not in graph.inputs)
    results = {value.name: value for value in whole.graph.output}
    out.output.extend(_value_info(graph, source, name, results) for name in graph.outputs)
    told = {*graph.inputs, *graph.outputs}
    out.value_info.extend(v for v in whole.graph.value_info if v.name in kept and v.name not in told)
    if len(graph.nodes) < len(whole.graph.node):
        # What was inferred from the part that is cut away cannot be inferred again.
        told.update(v.name for v in whole.graph.value_info)
        more = (name for name in source.types if name in made and name not in told)
        out.value_info.extend(_value_info(graph, source, name, {}) for name in more)
    return model


def _weights(graph: Graph, source: OnnxSource, out: onnx.GraphProto, kept: set[str]) -> None:
    whole = source.model.graph
    for annotation in whole.quantization_annotation:
        if annotation.tensor_name in kept:
            out.quantization_annotation.add().CopyFrom(annotation)
    also = {item.value for a in out.quantization_annotation for item in a.quant_parameter_tensor_names}
    there = set()
    for tensor in whole.initializer:
        if tensor.name in graph.weights or tensor.name in also:
            there.add(tensor.name)
            ref = graph.weights.get(tensor.name)
            proto = out.initializer.add()
            proto.CopyFrom(tensor)
            if ref is not None and _was_replaced(ref, tensor, source.path):
                _fill(proto, ref)
    for sparse in whole.sparse_initializer:
        if sparse.values.name in graph.weights or sparse.values.name in also:
            there.add(sparse.values.name)
            out.sparse_initializer.add().CopyFrom(sparse)
    for name, ref in graph.weights.items():
        if name not in there:
            proto = out.initializer.add(name=name, data_type=TYPE_NUMBER.get(ref.dtype.name, 0))
            _fill(proto, ref)


def _was_replaced(ref: TensorRef, tensor: onnx.TensorProto, path: Path) -> bool:
    """Has somebody put another weight in the place of the file's?"""
    if onnx_file.is_external(tensor):
        return ref != _lazy_ref(tensor, path)
    if ref.array is None:
        return True
    mine = _inner_ref(tensor, path)
    return ref.dtype != mine.dtype or not np.array_equal(
        ref.array, np.asarray(mine.array), equal_nan=ref.dtype.kind in ("float", "complex")
    )


def _fill(proto: onnx.TensorProto, ref: TensorRef) -> None:
    name, kind = proto.name, TYPE_NUMBER.get(ref.dtype.name)
    if kind is None:
        raise InputError(f"the weight {name!r} is {ref.dtype}, which ONNX has no type for")
    raw = ref.raw()
    proto.Clear()
    proto.name, proto.data_type, proto.raw_data = name, kind, raw
    proto.dims.extend(ref.own_shape)


def _value_info(
    graph: Graph, source: OnnxSource, name: str, listed: Mapping[str, onnx.ValueInfoProto],
) -> onnx.ValueInfoProto:
    """How a tensor is declared: as in the file, else by what is known of it."""
    import onnx

    if name in listed:
        return listed[name]
    spec = graph.spec(name)
    info = onnx.ValueInfoProto(name=name)
    if spec.dtype is None or spec.dtype.name not in TYPE_NUMBER:
        if name in source.types:
            info.type.CopyFrom(source.types[name])
            for dim in _dim_protos(info.type):
                if dim.dim_param.startswith("unk__"):
                    dim.Clear()
        return info
    info.type.tensor_type.elem_type = TYPE_NUMBER[spec.dtype.name]
    if spec.shape is not None:
        info.type.tensor_type.shape.SetInParent()
        for size in spec.shape:
            dim = info.type.tensor_type.shape.dim.add()
            if isinstance(size, int):
                dim.dim_value = size
            elif size:
                dim.dim_param = size
    return info


def _called(nodes: Iterable[onnx.NodeProto], functions: Sequence[onnx.FunctionProto]) -> list[onnx.FunctionProto]:
    """The functions that `nodes` call, and those that they call in turn."""
    table = {(f.domain, f.name, getattr(f, "overload", "")): f for f in functions}
    found: set[tuple[str, str, str]] = set()

    def visit(protos: Iterable[onnx.NodeProto]) -> None:
        for proto in protos:
            key = (proto.domain, proto.op_type, getattr(proto, "overload", ""))
            if key in table and key not in found:
                found.add(key)
                visit(table[key].node)
            for body in bodies(proto):
                visit(body.node)

    visit(nodes)
    return [f for key, f in table.items() if key in found]
