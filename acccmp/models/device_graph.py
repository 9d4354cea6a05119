"""From the decoded operators of a device model (an .om file or ATC's JSON) to a Graph that is also the mapping.

The readers of the two file kinds decode their bytes to `DeviceOp`s with plain Python attributes; what the attributes
mean is written down here, once. Source: specs of the model formats, a.4 to a.9, and of the Ascend dumps, 5.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from acccmp.core.dump import Origin
from acccmp.core.graph import Compiled, Graph, ModelIO, Node, TensorSpec
from acccmp.core.reading import is_number
from acccmp.core.tensor import BY_PROTO, DTYPES, DType, TensorRef

DEEPEST = 32  # graphs inside of graphs; real models have two or three levels

INPUT_OPS = frozenset({"Data", "AippData", "AnnData", "RefData"})
CONSTANTS = frozenset({"Const", "Constant", "FileConstant", "Variable", "ConstPlaceHolder"})
# Ops without a task of their own: nothing is dumped for them, and nobody misses it.
TASKLESS = INPUT_OPS | CONSTANTS | frozenset({
    "NetOutput", "StreamActive", "StreamSwitch", "StreamMerge", "StreamSwitchN", "Send", "Recv", "SendMem", "RecvMem",
    "NoOp", "LabelSet", "LabelGoto", "LabelGotoEx", "LabelSwitch", "LabelSwitchByIndex", "PhonyConcat", "PhonySplit",
    "PartitionedCall", "StatefulPartitionedCall", "If", "StatelessIf", "While", "StatelessWhile", "Case",
    "StatelessCase", "EndGraph", "NextIteration", "Enter", "Exit", "LoopCond", "ControlTrigger", "AtomicAddrClean",
    "MemSet",
})

# Spellings of data types in texts (`DT_FLOAT`) that are not just our name in capitals.
_DTYPE_TEXTS = {
    "FLOAT": "float32", "DOUBLE": "float64", "BF16": "bfloat16", "HIF8": "hifloat8", "HIF4": "hifloat4",
}

# Attributes of the model that are worth showing, copied to `Graph.meta` under the same names.
_META = ("atc_version", "opp_version", "framework_type", "target_type", "core_type", "attr_model_out_nodes_name")


@dataclass(frozen=True)
class DeviceTensor:
    """A tensor descriptor: `dtype` as text (`DT_FLOAT16`) or number of ge.proto, `layout` as text (`FRACTAL_Z:16`)."""

    dtype: str | int | None = None
    layout: str | None = None
    shape: tuple[int, ...] | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    nbytes: int | None = None


@dataclass(frozen=True)
class DeviceOp:
    """One operator as the compiler wrote it, its attributes decoded to plain values.

    An attribute that is present without a value (`"value": null`, a list with only its type) is None or an empty
    tuple; absence from `attrs` means that it was not written. `inputs` are `producer:index`, `producer:-1` for control
    edges, "" for absent optional inputs.
    """

    name: str
    op_type: str
    id: int = 0
    inputs: tuple[str, ...] = ()
    input_descs: tuple[DeviceTensor, ...] = ()
    output_descs: tuple[DeviceTensor, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)
    subgraphs: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()  # tensors that it owns without reading them as inputs
    offsets: tuple[int, ...] = ()  # where its outputs lie in the model's memory


@dataclass(frozen=True)
class DeviceModel:
    """A compiled model, decoded from whatever file.

    `ops` are those of its main graph, `subgraphs` those of the others by graph name (an op names those it owns);
    `weights` are refs by tensor name, `inner_weights` those of the other graphs by graph name. `attrs` are the model's
    attributes, `io` is the file's own list of inputs and outputs, `meta` what else there is to show. `inner` are the
    models that it is made of: name, kind, model, and what is wrong where there is none.
    """

    name: str
    ops: Sequence[DeviceOp] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)
    subgraphs: Mapping[str, Sequence[DeviceOp]] = field(default_factory=dict)
    weights: Mapping[str, TensorRef] = field(default_factory=dict)
    inner_weights: Mapping[str, Mapping[str, TensorRef]] = field(default_factory=dict)
    io: ModelIO | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    inner: tuple[tuple[str, str, DeviceModel | None, str], ...] = ()


def device_graph(model: DeviceModel, io: ModelIO, path: Path | None = None) -> Graph:
    """The Graph of a device model: nodes in id order, tensors `op:index`, origins of ops and of their outputs.

    `io` is what its user sees of it (`om_io.model_io`). Names that the file uses twice get a suffix `@2` and an alias.
    """
    attrs = model.attrs
    facts = {"model": model.name, **{key: attrs[key] for key in _META if attrs.get(key) is not None}, **model.meta}
    graph = _Graphs(model, path).graph(model.name, model.ops, model.weights, frozenset())
    return replace(
        graph, meta=facts, notes=(*graph.notes, *model.notes), io=io,
        compiled=Compiled(*(str(attrs.get(key) or "") for key in ("soc_version", "atc_cmdline"))),
    )


def dtype_from(what: str | int | None) -> DType | None:
    """The dtype for a text (`DT_FLOAT`, `DT_BF16`, `RESERVED`) or a ge.proto number; None where there is none."""
    if what is None or isinstance(what, bool):
        return None
    if isinstance(what, int):
        return BY_PROTO.get(what)
    text = what.removeprefix("DT_")
    if is_number(text):
        return BY_PROTO.get(int(text))
    return DTYPES.get(_DTYPE_TEXTS.get(text, text.lower()))


def split_layout(text: str | None) -> tuple[str | None, int]:
    """`FRACTAL_Z:288` -> ("FRACTAL_Z", 288); without a number the group count is 1."""
    if not text:
        return None, 1
    name, _, groups = text.partition(":")
    return name, int(groups) if is_number(groups) and int(groups) > 0 else 1


def split_input(text: str) -> tuple[str, int]:
    """`producer:index` cut at the last ':'; without an index it is 0."""
    name, colon, index = text.rpartition(":")
    if not colon or not is_number(index.lstrip("-")):
        return text, 0
    return name, int(index)


def origins_of(attrs: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The originals that an op implements: None when nothing was written, () for an op that the compiler made."""
    if "_datadump_original_op_names" not in attrs:
        return None
    return tuple(dict.fromkeys(text for text in attr_texts(attrs["_datadump_original_op_names"]) if text))


def origin_of(desc: DeviceTensor, place: int) -> Origin | None:
    """What the compiler wrote about the original of an output; None when it wrote nothing at all.

    The index defaults to the output's `place`. `node` is "" where only layout or shape are known.
    """
    attrs = desc.attrs
    node = attr_text(attrs.get("_datadump_origin_name"))
    layout = _layout(attrs.get("_datadump_origin_format")) or _layout(attrs.get("origin_format"))
    shape = attrs.get("origin_shape")
    listed = tuple(shape) if isinstance(shape, tuple | list) else (None,)
    sizes = listed if all(isinstance(n, int) and n >= 0 for n in listed) else None
    dtype = dtype_from(attr_text(attrs.get("_datadump_origin_data_type")) or None)
    if dtype is None:
        dtype = dtype_from(attr_text(attrs.get("origin_data_type")) or None)
    index = attrs.get("_datadump_origin_output_index")
    if not node and layout is None and sizes is None and dtype is None:
        return None
    return Origin(node, int(index) if isinstance(index, int) else place, layout, sizes, dtype)


# -- inside ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Graphs:
    """The graphs of a model; those that ops own are built once each."""

    model: DeviceModel
    path: Path | None
    built: dict[str, Graph] = field(default_factory=dict)

    def owned(self, name: str, above: frozenset[str]) -> Graph:
        if name not in self.built:
            ops, weights = self.model.subgraphs[name], self.model.inner_weights.get(name, {})
            self.built[name] = self.graph(name, ops, weights, above | {name})
        return self.built[name]

    def graph(
        self, name: str, ops: Sequence[DeviceOp], weights: Mapping[str, TensorRef], above: frozenset[str],
    ) -> Graph:
        """One graph; `above` are the graphs that it is inside of (a loop of owners is cut)."""
        ordered = sorted(ops, key=lambda op: op.id)
        unique, aliases = _unique_names(ordered)
        twice = ", ".join(sorted(aliases)[:5])
        notes = (f"op names used more than once (a suffix @2 tells them apart): {twice}",) if twice else ()
        reads = _highest_index(ordered)
        nodes: list[Node] = []
        tensors: dict[str, TensorSpec] = {}
        inputs: list[tuple[int, str]] = []
        outputs: list[str] = []
        for op, own in zip(ordered, unique, strict=True):
            data, control = _edges(op)
            made = _outputs(op, own, reads.get(op.name, -1))
            for spec in made:
                tensors[spec.name] = spec
            if op.op_type in INPUT_OPS and made:
                index = op.attrs.get("index", op.attrs.get("_parent_node_index"))
                inputs.append((index if isinstance(index, int) else len(inputs), made[0].name))
            if op.op_type == "NetOutput":
                outputs += [tensor for tensor in data if tensor]
            inner = [n for n in op.subgraphs if n in self.model.subgraphs and n not in above and len(above) < DEEPEST]
            nodes.append(Node(
                own, op.op_type, data, tuple(spec.name for spec in made), dict(op.attrs), control,
                weights=op.weights, subgraphs={n: self.owned(n, above) for n in inner}, origins=origins_of(op.attrs),
            ))
        if not any(node.op_type == "NetOutput" for node in nodes):
            read = {tensor for node in nodes for tensor in node.inputs}
            outputs = [t for node in nodes if node.inputs for t in node.outputs if t not in read]
        first_inputs = tuple(tensor for _, tensor in sorted(inputs, key=lambda pair: pair[0]))
        return Graph(
            name, "om", tuple(nodes), first_inputs, tuple(dict.fromkeys(outputs)), tensors,
            dict(weights), aliases, self.path, {"model": name}, notes,
        )


def _unique_names(ops: Sequence[DeviceOp]) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    seen: dict[str, list[str]] = {}
    unique = []
    for op in ops:
        used = seen.setdefault(op.name, [])
        used.append(op.name if not used else f"{op.name}@{len(used) + 1}")
        unique.append(used[-1])
    return unique, {name: tuple(names) for name, names in seen.items() if len(names) > 1}


def _highest_index(ops: Sequence[DeviceOp]) -> dict[str, int]:
    """The highest output index of each op that another one reads; descriptors of outputs can be missing."""
    highest: dict[str, int] = {}
    for op in ops:
        for text in op.inputs:
            name, index = split_input(text)
            if text and index < 4096:  # an index from a damaged file makes no list of a billion tensors
                highest[name] = max(highest.get(name, -1), index)
    return highest


def _edges(op: DeviceOp) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Tensors read ("" for absent optional ones, as long as something follows) and ops that must run before."""
    data: list[str] = []
    control: list[str] = []
    for text in op.inputs:
        if not text:
            data.append("")
            continue
        name, index = split_input(text)
        if index < 0:
            control.append(name)
        else:
            data.append(f"{name}:{index}")
    while data and not data[-1]:
        data.pop()
    return tuple(data), tuple(control)


def _outputs(op: DeviceOp, name: str, highest: int) -> list[TensorSpec]:
    descs: Sequence[DeviceTensor] = op.output_descs
    if op.op_type == "NetOutput":  # has no outputs of its own; some compilers describe them all the same
        descs = ()
    elif not descs and op.op_type in INPUT_OPS:
        descs = op.input_descs[:1] or (DeviceTensor(),)
    count = max(len(descs), highest + 1)
    offsets = (*op.offsets, *[None] * count)
    return [_spec(f"{name}:{i}", descs[i] if i < len(descs) else DeviceTensor(), i, offsets[i]) for i in range(count)]


def _spec(name: str, desc: DeviceTensor, place: int, offset: int | None) -> TensorSpec:
    layout, _ = split_layout(desc.layout)
    shape: tuple[int | None, ...] | None = None
    if desc.shape is not None and -2 not in desc.shape:  # -2 stands for an unknown rank, -1 for an unknown size
        shape = tuple(n if n >= 0 else None for n in desc.shape)
    return TensorSpec(name, dtype_from(desc.dtype), shape, layout, origin_of(desc, place), desc.nbytes, offset)


def _layout(value: Any) -> str | None:
    name, _ = split_layout(attr_text(value))
    return None if name in (None, "RESERVED", "NULL", "ALL", "MAX") else name


def attr_text(value: Any) -> str:
    """A text as text, "" for anything else."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""


def attr_texts(value: Any) -> tuple[str, ...]:
    """A list of texts, whether it was written as a list, as one text or not at all."""
    if isinstance(value, str | bytes):
        value = (value,)
    return tuple(attr_text(item) for item in value) if isinstance(value, tuple | list) else ()


def all_nodes(graph: Graph) -> Iterator[Node]:
    """The nodes of a device graph and of the graphs inside of it, each owner before what it owns."""
    for node in graph.nodes:
        yield node
        for inner in node.subgraphs.values():
            yield from all_nodes(inner)
