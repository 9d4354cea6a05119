"""Writing a Caffe graph, or a part of one: prototxt and caffemodel, in the generation that it came from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acccmp.core.graph import Graph, Node, Shape
from acccmp.core.wire import number_field
from acccmp.core.writing import together
from acccmp.errors import InputError
from acccmp.models.caffe_layers import CaffeLayer, CaffeNet, unknown_to_schema
from acccmp.models.caffe_text import Block, quoted, render, unquoted
from acccmp.models.caffe_weights import StoredBlob, StoredLayer, caffemodel

# -- from Graph to text ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AddedInput:
    """An input of a part that no layer of it makes: the layer that stands for it in the file.

    `tensor` is its name in the Graph, `blob` what the layer makes, `shape` its sizes as far as they are known.
    """

    layer: str
    blob: str
    tensor: str
    shape: Shape | None

    @property
    def block(self) -> Block:
        """Its parameters; empty when the shape is not wholly known."""
        if self.shape is None or not all(isinstance(dim, int) for dim in self.shape):
            return Block()
        dims = Block(tuple(("dim", str(dim)) for dim in self.shape))
        return Block((("input_param", Block((("shape", dims),))),))

    @property
    def text(self) -> str:
        """The layer as prototxt."""
        return self.row.text("layer")

    @property
    def row(self) -> _Row:
        return _Row(self.layer, '"Input"', (), (self.blob,), self.block)


def added_inputs(graph: Graph, blobs: Mapping[str, str] | None = None) -> tuple[AddedInput, ...]:
    """The Input layers that `save` adds, in the order of `graph.inputs`: named `<first reader>_input_<number>`."""
    blobs = blob_names(graph) if blobs is None else blobs
    made = {tensor for node in graph.nodes for tensor in node.outputs}
    taken, count = {node.name for node in graph.nodes}, dict[str, int]()
    found = []
    for tensor in graph.inputs:
        if tensor in made:
            continue
        readers = graph.consumers(tensor)
        start = readers[0].node if readers else tensor
        name = re.sub(r"[^A-Za-z0-9_./-]", "_", f"{start}_input_{count.get(start, 0)}")  # ATC's command line names it
        count[start] = count.get(start, 0) + 1
        while name in taken:
            name += "_"
        taken.add(name)
        found.append(AddedInput(name, blobs[tensor], tensor, graph.spec(tensor).shape))
    return tuple(found)


def blob_names(graph: Graph) -> dict[str, str]:
    """Tensor -> the blob it is in the file: the file's own blob, so that in-place layers stay in place.

    Where a cut has taken a layer away and two versions of a blob would meet (`conv1` made inside, `conv1@relu1` an
    input), all versions of that blob are written under their tensor names.
    """
    own: dict[str, str] = {}
    for node in graph.nodes:
        own.update(zip(node.inputs, node.source.bottoms, strict=True))
        own.update(zip(node.outputs, node.source.tops, strict=True))
    for tensor in graph.inputs:
        own.setdefault(tensor, tensor)
    clashing = _clashes(graph, own)
    if clashing:
        own = {tensor: tensor if blob in clashing else blob for tensor, blob in own.items()}
        if _clashes(graph, own):
            own = {tensor: tensor for tensor in own}
    return own


def _clashes(graph: Graph, blobs: Mapping[str, str]) -> set[str]:
    """Blobs of which a reader would get another version than the Graph says."""
    made = {tensor for node in graph.nodes for tensor in node.outputs}
    current: dict[str, str] = {}
    found = set()
    for tensor in graph.inputs:
        if tensor not in made:
            if blobs[tensor] in current:
                found.add(blobs[tensor])
            current[blobs[tensor]] = tensor
    for node in graph.nodes:
        read = {blobs[tensor] for tensor in node.inputs}
        found |= {blobs[tensor] for tensor in node.inputs if current.get(blobs[tensor]) != tensor}
        for tensor in node.outputs:
            if blobs[tensor] in current and blobs[tensor] not in read:
                found.add(blobs[tensor])
            current[blobs[tensor]] = tensor
    return found


@dataclass(frozen=True)
class _Row:
    """A layer as the file has it; `node` is the one it stands for, None where an input was added."""

    name: str
    type_text: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    block: Block
    node: Node | None = None

    def text(self, key: str) -> str:
        """As prototxt."""
        fields: list[tuple[str, str | Block]] = [("name", quoted(self.name)), ("type", self.type_text)]
        fields += [("bottom", quoted(blob)) for blob in self.bottoms]
        fields += [("top", quoted(blob)) for blob in self.tops]
        return render(Block(((key, Block((*fields, *self.block.fields))),)))


def _rows(graph: Graph, blobs: Mapping[str, str]) -> list[_Row]:
    """The layers of the file in its order. What V1 declares in `input:` lines is none; else added inputs come in front,
    behind those of the net's own."""
    old = _net(graph).generation == "V1"
    rows = [
        _Row(
            node.name, node.source.type_text, tuple(blobs[tensor] for tensor in node.inputs),
            tuple(blobs[tensor] for tensor in node.outputs), node.source.block, node,
        )
        for node in graph.nodes if not (old and node.source.declared)
    ]
    own = next((place for place, node in enumerate(graph.nodes) if node.op_type != "Input"), len(rows))
    return rows if old else [*rows[:own], *(added.row for added in added_inputs(graph, blobs)), *rows[own:]]


def _net_fields(graph: Graph, blobs: Mapping[str, str]) -> list[tuple[str, str | Block]]:
    """The net's own fields: name, what forks add, and in V1 its inputs, which are no layers there."""
    net: CaffeNet = graph.source
    fields: list[tuple[str, str | Block]] = [("name", quoted(graph.name)), *net.extra.fields]
    if net.generation == "V2":
        return fields
    inputs = [(node.source.tops[0], graph.spec(node.outputs[0]).shape) for node in graph.nodes if node.source.declared]
    inputs += [(added.blob, added.shape) for added in added_inputs(graph, blobs)]
    known = [all(isinstance(dim, int) for dim in shape) if shape is not None else False for _, shape in inputs]
    fields += [("input", quoted(blob)) for blob, _ in inputs]
    if all(known) and all(len(shape or ()) == 4 for _, shape in inputs):
        return fields + [("input_dim", str(dim)) for _, shape in inputs for dim in shape or ()]
    if any(known):
        for (_, shape), whole in zip(inputs, known, strict=True):
            dims = tuple(("dim", str(dim)) for dim in (shape or ())) if whole else ()
            fields.append(("input_shape", Block(dims)))
    return fields


def _net(graph: Graph) -> CaffeNet:
    if graph.format != "caffe" or not isinstance(graph.source, CaffeNet):
        raise InputError(f"{graph.name} is a {graph.format} graph; only one that was read from Caffe files is written "
                         "as Caffe")
    return graph.source


def prototxt(graph: Graph, blobs: Mapping[str, str] | None = None) -> str:
    """The graph as prototxt, without phase rules, in the generation it came from.

    `blobs` names the blob of each tensor (default: `blob_names`). Inputs that no layer makes are declared: as
    `Input` layers in V2, as `input:` lines in V1.
    """
    key = "layers" if _net(graph).generation == "V1" else "layer"
    blobs = blob_names(graph) if blobs is None else blobs
    return render(Block(tuple(_net_fields(graph, blobs)))) + "".join(row.text(key) for row in _rows(graph, blobs))


# -- and to bytes ------------------------------------------------------------------------------------------------


def _stored(graph: Graph, row: _Row) -> tuple[str, bytes, list[StoredBlob]]:
    """(generation, layer message without its weights, weights) of a layer, as `caffemodel` wants them."""
    generation = _net(graph).generation
    if row.node is None:
        return generation, _message(generation, row, None), []
    source: CaffeLayer = row.node.source
    old = source.stored.blobs if source.stored else ()
    stored = [
        StoredBlob(graph.weights[name], place < len(old) and old[place].legacy)
        for place, name in enumerate(row.node.weights)
    ]
    return generation, _message(generation, row, source.stored), stored


def _message(generation: str, row: _Row, stored: StoredLayer | None) -> bytes:
    """A layer as bytes, without weights: what the text says in the schema's terms, and the stored unknown fields."""
    from acccmp.schemas import caffe_pb2

    kind = caffe_pb2.LayerParameter if generation == "V2" else caffe_pb2.V1LayerParameter
    message = _parsed(row.block, kind)  # of a fork's word for a choice only the prototxt knows
    message.name = row.name
    message.bottom.extend(row.bottoms)
    message.top.extend(row.tops)
    extra, word = b"", unquoted(row.type_text)
    if generation == "V2":
        message.type = word
    elif word.isdigit():
        extra = number_field(5, int(word))
    elif word in caffe_pb2.V1LayerParameter.LayerType.keys():  # noqa: SIM118  # an enum wrapper has no `in` of its own
        message.type = caffe_pb2.V1LayerParameter.LayerType.Value(word)
    elif stored is not None and stored.v1_type is not None:
        extra = number_field(5, stored.v1_type)
    if stored is not None and (stored.generation == "V2") == (generation == "V2") and stored.generation != "V0":
        extra += unknown_to_schema(stored)
    return bytes(message.SerializeToString()) + extra


def _parsed(block: Block, kind: Any) -> Any:
    """The message that says what the text does; an empty one where the schema does not know its words."""
    from google.protobuf import text_format

    try:
        return text_format.Parse(render(block), kind(), allow_unknown_field=True)
    except text_format.ParseError:
        return kind()


def _net_message(graph: Graph, blobs: Mapping[str, str]) -> bytes:
    """The net's own fields as bytes."""
    from acccmp.schemas import caffe_pb2

    message = _parsed(Block(tuple(_net_fields(graph, blobs))), caffe_pb2.NetParameter)
    message.name = graph.name
    return bytes(message.SerializeToString())


def save(graph: Graph, folder: str | Path, stem: str = "dump") -> list[Path]:
    """Write `<stem>.prototxt`, and `<stem>.caffemodel` where the graph was read with weights; the files written.

    Read again they give the same nodes, edges and weights, and an Input node for each input that the part does not
    make itself: its blob is the one it replaces. Raises InputError for graphs of another format and folders that
    cannot be written to.
    """
    net, folder = _net(graph), Path(folder)
    if Path(stem).name != stem:
        raise InputError(f"{stem!r} is no plain file name")
    blobs = blob_names(graph)
    files = [folder / f"{stem}.prototxt"]
    with together() as result:
        result.file(files[0]).write(prototxt(graph, blobs).encode())
        if net.weights:
            files.append(folder / f"{stem}.caffemodel")
            stored = [_stored(graph, row) for row in _rows(graph, blobs)]
            result.file(files[1]).writelines(caffemodel(_net_message(graph, blobs), stored))
    return files
