"""Writing a Caffe graph, or a part of one: prototxt and caffemodel, in the generation that it came from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from acccmp.core.graph import Graph, Shape
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
        return _layer_text("layer", self.layer, '"Input"', (), (self.blob,), self.block)


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


def _layer_text(
    key: str, name: str, spelled: str, bottoms: Iterable[str], tops: Iterable[str], block: Block,
) -> str:
    fields: list[tuple[str, str | Block]] = [("name", quoted(name)), ("type", spelled)]
    fields += [("bottom", quoted(blob)) for blob in bottoms]
    fields += [("top", quoted(blob)) for blob in tops]
    return render(Block(((key, Block((*fields, *block.fields))),)))


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
    net = _net(graph)
    blobs = blob_names(graph) if blobs is None else blobs
    pieces = [render(Block(tuple(_net_fields(graph, blobs))))]
    added = [piece.text for piece in added_inputs(graph, blobs)] if net.generation == "V2" else []
    for node in graph.nodes:
        if added and node.op_type != "Input":
            pieces += added
            added = []
        source: CaffeLayer = node.source
        if source.declared and net.generation == "V1":
            continue
        pieces.append(_layer_text(
            "layers" if net.generation == "V1" else "layer", node.name, source.type_text,
            (blobs[tensor] for tensor in node.inputs), (blobs[tensor] for tensor in node.outputs), source.block,
        ))
    return "".join(pieces + added)


# -- and to bytes ------------------------------------------------------------------------------------------------


def caffemodel_layers(
    graph: Graph, blobs: Mapping[str, str] | None = None,
) -> list[tuple[str, bytes, list[StoredBlob]]]:
    """(generation, layer message without its weights, weights) of each layer, as `caffemodel` wants them."""
    net = _net(graph)
    blobs = blob_names(graph) if blobs is None else blobs
    rows: list[tuple[str, bytes, list[StoredBlob]]] = []
    added = list(added_inputs(graph, blobs)) if net.generation == "V2" else []
    for node in graph.nodes:
        if node.op_type != "Input":
            rows += [("V2", _message("V2", piece.layer, '"Input"', (), (piece.blob,), piece.block), [])
                     for piece in added]
            added = []
        source: CaffeLayer = node.source
        if source.declared and net.generation == "V1":
            continue
        header = _message(
            net.generation, node.name, source.type_text, [blobs[tensor] for tensor in node.inputs],
            [blobs[tensor] for tensor in node.outputs], source.block, source.stored,
        )
        old = source.stored.blobs if source.stored else ()
        stored = [
            StoredBlob(graph.weights[name], place < len(old) and old[place].legacy)
            for place, name in enumerate(node.weights)
        ]
        rows.append((net.generation, header, stored))
    return rows


def _message(
    generation: str, name: str, spelled: str, bottoms: Sequence[str], tops: Sequence[str], block: Block,
    stored: StoredLayer | None = None,
) -> bytes:
    """A layer as bytes, without weights: what the text says in the schema's terms, and the stored unknown fields."""
    from google.protobuf import text_format

    from acccmp.schemas import caffe_pb2

    kind = caffe_pb2.LayerParameter if generation == "V2" else caffe_pb2.V1LayerParameter
    message = kind()
    try:
        text_format.Parse(render(block), message, allow_unknown_field=True)
    except text_format.ParseError:  # a fork's word for a choice: the prototxt has it
        message = kind()
    message.name = name
    message.bottom.extend(bottoms)
    message.top.extend(tops)
    extra = b""
    if generation == "V2":
        message.type = unquoted(spelled)
    else:
        word, types = unquoted(spelled), caffe_pb2.V1LayerParameter.LayerType
        if word.isdigit():
            extra = number_field(5, int(word))
        elif word in types.keys():  # noqa: SIM118  # an enum wrapper has no `in` of its own
            message.type = types.Value(word)
        elif stored is not None and stored.v1_type is not None:
            extra = number_field(5, stored.v1_type)
    if stored is not None and (stored.generation == "V2") == (generation == "V2") and stored.generation != "V0":
        extra += unknown_to_schema(stored)
    return bytes(message.SerializeToString()) + extra


def net_message(graph: Graph, blobs: Mapping[str, str] | None = None) -> bytes:
    """The net's own fields as bytes."""
    from google.protobuf import text_format

    from acccmp.schemas import caffe_pb2

    blobs = blob_names(graph) if blobs is None else blobs
    message = caffe_pb2.NetParameter()
    try:
        text_format.Parse(render(Block(tuple(_net_fields(graph, blobs)))), message, allow_unknown_field=True)
    except text_format.ParseError:
        message = caffe_pb2.NetParameter(name=graph.name)
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
            result.file(files[1]).writelines(caffemodel(net_message(graph, blobs), caffemodel_layers(graph, blobs)))
    return files
