"""The device's own model, an .om file, without the vendor's toolkit: as a Graph that is also the mapping.

Which op came from which original layer, what goes in and out, where the weights lie. The outside of the file is read
in `om_container`, attributes in `om_attrs`, inputs and outputs in `om_io`, the oldest generation in `om_domi`, zip
archives (OM2) in `om_archive`; what attributes mean is in `device_graph`.
Source: ../shared/specs/model_formats.md, a.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import acccmp.core.layout as layouts
from acccmp.core.graph import Graph, Node, shape_text
from acccmp.core.reading import is_inside, mapped
from acccmp.core.tensor import TensorRef
from acccmp.core.wire import Buffer, message, text_of
from acccmp.errors import FormatError
from acccmp.models import om_archive, om_domi
from acccmp.models.device_graph import (
    DeviceModel,
    DeviceOp,
    DeviceTensor,
    all_nodes,
    device_graph,
    dtype_from,
    split_layout,
)
from acccmp.models.facts import node_facts, weight_facts
from acccmp.models.om_attrs import Dictionary, plain_attrs
from acccmp.models.om_container import INOUT_INFO, MODEL_DEF, MODEL_TYPES, WEIGHTS, Container, Partition, open_container
from acccmp.models.om_io import model_io, parse_inout_info

_CONST_TYPES = ("Const", "Constant")
# Model attributes that inspect shows, by the name it shows them under.
_COMPILE_FACTS = {
    "soc_version": "SoC", "atc_version": "compiler version", "opp_version": "operator package version",
    "framework_type": "made from", "atc_cmdline": "command line", "target_type": "target", "core_type": "core type",
    "memory_size": "memory bytes", "weight_size": "weight bytes", "stream_num": "streams", "event_num": "events",
    "host_env_os": "host system", "host_env_cpu": "host processor",
}
_GIVEN_UP = "it is encrypted: nothing but its header can be read; ask whoever compiled it for a plain .om or its JSON"


def load(path: str | Path) -> Graph:
    """The device Graph (format "om") of an .om file; `weights` is not used, the file has its own.

    `Graph.weights` are refs into the file: nothing of them is read. `Graph.io` has the inputs, outputs and gears as
    the user of the model sees them. Models inside of a flow or bundle that no op owns
    are nodes of type `SubModel`. Raises FormatError for what is no .om, is damaged, or is encrypted.
    """
    return _graph(_read(Path(path))[0], Path(path))


def describe(path: str | Path) -> dict[str, Any]:
    """Everything that can be told of an .om file as JSON-able facts; encrypted files give those of their header.

    Keys: `variant`, `name`, `header`, `partitions`, `models`, `inputs`, `outputs`, `dynamic`, `gears`, `compiled`,
    `ops`, `nodes`, `edges`, `sub-graphs`, `weights`, `mapping`, `encrypted`, `unknown`, `notes`. Raises FormatError for
    what is no .om and for damaged files.
    """
    where = Path(path)
    model, container = _read(where, encrypted_too=True)
    facts: dict[str, Any] = {
        "format": "om", "variant": container.variant if container else om_archive.VARIANT,
        "name": (container.header.name if container else "") or (model.name if model else ""),
        "encrypted": container is not None and container.header.is_encrypted,
    }
    if container is not None:
        facts |= _container_facts(container)
    if model is not None:
        facts |= _model_facts(model, where)
    else:
        facts["notes"] = list(container.notes) if container else []
    return facts


# -- from bytes to models ----------------------------------------------------------------------------------------


def _read(path: Path, encrypted_too: bool = False) -> tuple[Any, Container | None]:
    """The model and its container (None for OM2); the model is None for an encrypted file, if those are wanted."""
    with mapped(path) as buffer:
        if om_archive.is_archive(buffer):
            return om_archive.read(path), None
        container = open_container(buffer, path)
        if container.header.is_encrypted:
            if encrypted_too:
                return None, container
            raise FormatError(f"{path}: {_GIVEN_UP}")
        return _model(buffer, container), container


def _model(buffer: Buffer, container: Container) -> DeviceModel:
    """The model of a container, with the models inside of it."""
    if container.body is not None:
        model, ops, refs, notes = om_domi.read(buffer, container.body, container.path)
        return DeviceModel(
            text_of(model.name) or container.header.name, tuple(ops),
            {"memory_size": model.memory_size, "weight_size": model.weight_size, "stream_num": model.stream_num},
            weights=refs, meta={"variant": container.variant, "version": model.version},
            notes=(*container.notes, *notes),
        )
    inner = []
    for found in container.inner:
        model, problem = None, found.problem
        if found.container is not None and found.container.header.is_encrypted:
            problem = "encrypted"
        elif found.container is not None:
            try:
                model = _model(buffer, found.container)
            except FormatError as error:
                problem = str(error).removeprefix(f"{container.path}: ")
        inner.append((found.name, found.kind, model, problem))
    notes = [*container.notes, *(f"the model {name} inside is left out: {why}" for name, _, m, why in inner if not m)]
    if container.variant == "bundle":
        name = container.header.name or container.path.stem
        return DeviceModel(name, meta={"variant": container.variant}, notes=tuple(notes), inner=tuple(inner))
    root, dictionary = _decoded(buffer, container, 0, None)
    graphs, inner_weights = dict(root.subgraphs), dict(root.inner_weights)
    for block in range(1, len(container.blocks)):
        # The sub-models with known shapes; they are more than the sketch of them in the root model.
        try:
            part, _ = _decoded(buffer, container, block, dictionary)
        except FormatError as error:
            notes.append(f"sub-model {block} is left out: {str(error).removeprefix(f'{container.path}: ')}")
            continue
        graphs[part.name] = part.ops
        inner_weights[part.name] = part.weights
        notes += part.notes
    return replace(
        root, subgraphs=graphs, inner_weights=inner_weights, inner=tuple(inner), notes=(*notes, *root.notes),
    )


def _decoded(
    buffer: Buffer, container: Container, block: int, above: Dictionary | None,
) -> tuple[DeviceModel, Dictionary | None]:
    """`_one_model`; names of attributes that are no text (protobuf cannot hand them out) become our error."""
    try:
        return _one_model(buffer, container, block, above)
    except UnicodeDecodeError as error:
        raise FormatError(f"{container.path}: damaged: the name of an attribute is no text ({error.reason})") from None


def _one_model(
    buffer: Buffer, container: Container, block: int, above: Dictionary | None,
) -> tuple[DeviceModel, Dictionary | None]:
    """The ModelDef of one block of partitions, and what its attributes were decoded with."""
    from acccmp.schemas import ge_pb2

    path, part = container.path, container.find(MODEL_DEF, block)
    if part is None:
        names = ", ".join(found.name for found in container.blocks[block])
        raise FormatError(f"{path}: no graph in it (no MODEL_DEF partition, only {names})")
    what = f"{path}: damaged: MODEL_DEF at byte {part.offset}"
    model = message(ge_pb2.ModelDef, buffer, part.offset, part.offset + part.size, {}, f"{what} cannot be read")
    if not model.graph:
        raise FormatError(f"{what} holds no graph")
    dictionary = Dictionary.of(model.attr, above)
    reader = _Reader(path, container.find(WEIGHTS, block), dictionary)
    parts = [(text_of(graph.name), reader.graph(graph)) for graph in model.graph]
    info = container.find(INOUT_INFO, block)
    stored = parse_inout_info(bytes(buffer[info.offset : info.offset + info.size])) if info is not None else None
    lists = ("attr_name_enum", "attr_value_enum", "attrs_use_string_value")
    attrs = {key: value for key, value in plain_attrs(model.attr).items() if key not in lists}
    main, (ops, refs) = parts[0]
    meta = {"variant": container.variant, "version": model.version, "custom_version": text_of(model.custom_version)}
    return DeviceModel(
        text_of(model.name) or container.header.name or main, ops, attrs, {name: of for name, (of, _) in parts[1:]},
        refs, {name: of for name, (_, of) in parts[1:]}, stored, meta, tuple(reader.notes),
    ), dictionary


class _Reader:
    """Reads the graphs of one ModelDef; collects what is to be said about them."""

    def __init__(self, path: Path, weights: Partition | None, dictionary: Dictionary | None) -> None:
        self.path, self.partition, self.dictionary = path, weights, dictionary
        self.notes: list[str] = []

    def graph(self, graph: Any) -> tuple[tuple[DeviceOp, ...], dict[str, TensorRef]]:
        ops = []
        refs: dict[str, TensorRef] = {}
        for place, op in enumerate(graph.op):
            found = self._op(op, place)
            ops.append(found)
            ref = None
            if found.op_type in _CONST_TYPES:
                ref = self._constant(op, found)
            elif found.op_type == "FileConstant":
                ref = self._external(found)
            if ref is not None:
                refs[f"{found.name}:0"] = ref
        return tuple(ops), refs

    def _op(self, op: Any, place: int) -> DeviceOp:
        return DeviceOp(
            text_of(op.name) or f"op_{place}", text_of(op.type), op.id, tuple(text_of(text) for text in op.input),
            tuple(self._desc(desc) for desc in op.input_desc), tuple(self._desc(desc) for desc in op.output_desc),
            plain_attrs(op.attr, self.dictionary), tuple(text_of(name) for name in op.subgraph_name),
            offsets=tuple(op.output_i),
        )

    def _desc(self, desc: Any) -> DeviceTensor:
        return DeviceTensor(
            desc.dtype, text_of(desc.layout) or None, tuple(desc.shape.dim), plain_attrs(desc.attr, self.dictionary),
            desc.size or None,
        )

    def _constant(self, op: Any, found: DeviceOp) -> TensorRef | None:
        tensor = next((attr.t for attr in op.attr.values() if attr.WhichOneof("value") == "t"), None)
        if tensor is None:
            return None
        desc = self._desc(tensor.desc)
        size, offset = tensor.desc.weight_size, tensor.desc.data_offset
        merged = desc.attrs.get("merged_offset")
        if isinstance(merged, int) and merged:
            offset = merged
        if tensor.data:
            return self._inline(found.name, desc, tensor.data)
        if size <= 0:
            return None
        if self.partition is None or offset < 0 or offset + size > self.partition.size:
            room = self.partition.size if self.partition else 0
            self.notes.append(f"the weight {found.name} is left out: bytes {offset}+{size} of {room} of weights")
            return None
        return self._ref(found.name, desc, str(self.path), self.partition.offset + offset, size)

    def _inline(self, name: str, desc: DeviceTensor, data: bytes) -> TensorRef | None:
        """A weight inside of the graph's message: a small one, kept in memory."""
        import numpy as np

        from acccmp.core.tensor import decode

        ref = self._ref(name, desc, str(self.path), 0, len(data))
        if ref is None or ref.dtype.numpy is None:
            return None
        values = decode(np.frombuffer(data, np.uint8), ref.dtype, ref.count)
        return replace(ref, array=values.reshape(ref.shape))

    def _external(self, op: DeviceOp) -> TensorRef | None:
        """A weight in a file beside the model (`--external_weight`)."""
        desc = op.output_descs[0] if op.output_descs else DeviceTensor()
        named = next((v for k in ("location", "file_path") if isinstance(v := op.attrs.get(k), str) and v), "")
        offset, length = op.attrs.get("offset", 0), op.attrs.get("length", 0)
        file = beside(self.path, named)
        if file is None or not isinstance(offset, int) or offset < 0:
            what = named or op.attrs.get("file_id") or "without a name"
            self.notes.append(f"the weight {op.name} is kept in a file ({what}) that is not beside the model")
            return None
        room = file.stat().st_size - offset
        size = length if isinstance(length, int) and 0 < length <= room else room
        return self._ref(op.name, desc, str(file), offset, size)

    def _ref(self, name: str, desc: DeviceTensor, path: str, offset: int, size: int) -> TensorRef | None:
        """A lazy ref of the stored shape, with the original's shape where the layout can be undone."""
        dtype = dtype_from(desc.dtype)
        layout, groups = split_layout(desc.layout)
        shape = desc.shape or ()
        if dtype is None or any(n < 0 for n in shape):
            self.notes.append(f"the weight {name} is left out: its type or shape is not known")
            return None
        if dtype.nbytes(math.prod(shape)) > size:
            self.notes.append(f"the weight {name} is left out: {shape_text(shape)} {dtype} in {size} bytes")
            return None
        ref = TensorRef(path, dtype, shape, offset, size, layout or "ND", groups=groups)
        original = desc.attrs.get("origin_shape")
        if not isinstance(original, tuple) or original == shape or not all(isinstance(n, int) for n in original):
            return ref
        plain = desc.attrs.get("origin_format")
        plain = plain if isinstance(plain, str) and layouts.is_plain(plain) else None
        if min(original, default=0) < 0 or not layouts.fits(ref.layout, shape, plain, original, groups):
            return ref
        return ref.seen_as(original, plain)


def beside(model: Path, named: str) -> Path | None:
    """The file `named` in a model: in its folder or in `weight/` there. None if there is none, or if it is elsewhere.

    Absolute names and `..` are taken by their last part only: a model does not point out of its folder.
    """
    parts = PurePosixPath(named.replace("\\", "/")).parts
    if not parts:
        return None
    places = [model.parent / "weight" / parts[-1], model.parent / parts[-1]]
    if not named.startswith("/") and ".." not in parts:
        places.insert(0, model.parent.joinpath(*parts))
    homes = (model.parent, model.resolve().parent)
    return next((place for place in places if place.is_file() and is_inside(place, *homes)), None)


# -- from models to graphs ---------------------------------------------------------------------------------------


def _graph(model: DeviceModel, path: Path) -> Graph:
    io = model_io(model.ops, model.attrs, model.io)
    graph = device_graph(replace(model, notes=(*model.notes, *io.notes)), io, path)
    owned = {name for node in graph.nodes for name in node.subgraphs}
    nodes = list(graph.nodes)
    for name, kind, inner, _ in model.inner:
        if inner is not None and name not in owned:
            unique = name if name not in graph else f"{name}@model"
            nodes.append(Node(unique, "SubModel", attrs={"kind": kind}, subgraphs={name: _graph(inner, path)}))
    return replace(graph, nodes=tuple(nodes))


# -- facts -------------------------------------------------------------------------------------------------------


def _container_facts(container: Container) -> dict[str, Any]:
    header, kind = container.header, container.header.model_type
    return {
        "header": {
            "version": f"{header.version:#010x}", "model type": MODEL_TYPES.get(kind, f"unknown ({kind})"),
            "name": header.name, "payload bytes": header.payload, "models": header.model_num,
            "ir version": header.ir_version, "platform version": header.platform_version,
            "encrypted": header.is_encrypted, "checksum": header.has_checksum, "made online": header.is_online,
            "dynamic shapes": header.is_dynamic, "checks the host": header.checks_host,
        },
        "partitions": [
            {"model": block, "name": part.name, "offset": part.offset, "bytes": part.size}
            for block, parts in enumerate(container.blocks) for part in parts
        ] or ([{"model": 0, "name": "domi.ModelDef", "offset": container.body.offset, "bytes": container.body.size}]
              if container.body else []),
        "unknown": [
            {"partition": part.name, "offset": part.offset, "bytes": part.size}
            for parts in container.blocks for part in parts if part.name.startswith("unknown")
        ],
        "models": [
            {"name": inner.name, "kind": inner.kind, "variant": inner.container.variant if inner.container else None,
             "problem": inner.problem} for inner in container.inner
        ],
    }


def _model_facts(model: DeviceModel, path: Path) -> dict[str, Any]:
    graph = _graph(model, path)
    io, nodes = graph.io, list(all_nodes(graph))
    parts = [graph, *(inner for node in nodes for inner in node.subgraphs.values())]
    implemented = [set(node.origins) if node.origins is not None else None for node in nodes]
    originals: set[str] = set().union(*(names for names in implemented if names))
    facts: dict[str, Any] = {
        "inputs": [tensor.facts() for tensor in io.inputs], "outputs": [tensor.facts() for tensor in io.outputs],
        "dynamic": io.dynamic,
        "gears": [
            {"values": list(gear.values), "branch": gear.branch,
             "inputs": {name: list(shape) for name, shape in gear.inputs.items()}} for gear in io.gears
        ],
        "compiled": {
            told: value for key, told in _COMPILE_FACTS.items()
            if isinstance(value := model.attrs.get(key), str | int) and value != ""
        },
        **node_facts(nodes), "weights": weight_facts([ref for part in parts for ref in part.weights.values()]),
        "mapping": {
            "device ops with originals": sum(1 for names in implemented if names), "originals": len(originals),
            "fused ops": sum(1 for names in implemented if names and len(names) > 1),
            "made by the compiler": sum(1 for names in implemented if names is not None and not names),
            "ops that say nothing": sum(1 for names in implemented if names is None),
        },
        "notes": list(graph.notes),
    }
    if model.inner:
        facts["models"] = []
        for name, kind, inner, problem in model.inner:
            own = _model_facts(inner, path) if inner else {}
            facts["models"].append({"name": name, "kind": kind, "problem": problem} | own)
    return facts
