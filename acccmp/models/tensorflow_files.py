"""A TensorFlow file's bytes -> its NodeDefs and the rest of it: frozen graphs and SavedModels, binary and text.

Nodes are read one by one, and the bytes of large constants are left in the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from acccmp.core.reading import mapped
from acccmp.core.wire import BYTES, VARINT, Buffer, CutOff, Damaged, Payload, PayloadTable, fields, message
from acccmp.errors import FormatError

LAZY = 1024  # bytes from which on a constant stays in the file


@dataclass(frozen=True)
class TensorFlowGraph:
    """What the file says of the whole graph: `Graph.source`.

    `rest` is the GraphDef without its nodes: versions and the function library. `frames` are the V1 loops with how
    many nodes each has, `around` a loop's frame -> the one around it. `tags` are those of a SavedModel, None for any
    other file; `nodes` is how many it had.
    """

    rest: Any
    frames: Mapping[str, int] = field(default_factory=dict)
    around: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] | None = None
    nodes: int = 0

    @property
    def functions(self) -> tuple[str, ...]:
        """Names of the functions in its library."""
        return tuple(function.signature.name for function in self.rest.library.function)


@dataclass(frozen=True)
class Parsed:
    """A file taken apart: NodeDefs without the bytes of large constants, and where those bytes are."""

    nodes: list[Any]
    rest: Any  # the GraphDef without its nodes
    places: Mapping[str, Payload] = field(default_factory=dict)
    meta: Any = None  # the MetaGraphDef of a SavedModel, without its graph
    notes: tuple[str, ...] = ()


def read(path: Path) -> tuple[Parsed, Path]:
    """A file or SavedModel folder taken apart, and the file that was read. Raises FormatError with one line."""
    file = file_of(path)
    with mapped(file) as data:
        parsed = _parse_text(bytes(data), file) if _is_text(data) else _parse_binary(data, file)
    if not parsed.nodes:
        raise FormatError(f"{file}: a TensorFlow graph without a single node")
    return parsed, file


def file_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in ("saved_model.pb", "saved_model.pbtxt"):
        if (path / name).is_file():
            return path / name
    raise FormatError(f"{path}: a folder without saved_model.pb is no SavedModel")


def _is_text(data: Buffer) -> bool:
    head = bytes(data[:4096])
    return not any(byte < 9 or 13 < byte < 32 for byte in head)


def _parse_text(raw: bytes, file: Path) -> Parsed:
    from google.protobuf import text_format

    from acccmp.schemas import tensorflow_pb2 as schema

    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"{file}: not a TensorFlow graph: neither binary nor text (byte {error.start})") from None
    saved = re.search(r"^\s*(saved_model_schema_version|meta_graphs)\b", text, re.MULTILINE) is not None
    if not saved and not re.search(r"^\s*(node|library|versions)\s*:?\s*\{", text, re.MULTILINE):
        raise FormatError(f"{file}: text, but no TensorFlow graph (no `node {{` in it)")
    text, unknown = _known_enums(text, schema)
    tree = schema.SavedModel() if saved else schema.GraphDef()
    try:
        text_format.Parse(text, tree, allow_unknown_field=True)
    except (text_format.ParseError, RecursionError, ValueError) as error:
        raise FormatError(f"{file}: text of a graph that is damaged: {' '.join(str(error).split())[:200]}") from None
    notes = (f"types that no schema here knows were read as unknown: {', '.join(unknown)}",) if unknown else ()
    if not saved:
        return _taken_apart(tree, None, notes)
    meta, note = _chosen([graph.meta_info_def.tags for graph in tree.meta_graphs], file)
    chosen = tree.meta_graphs[meta]
    parsed = _taken_apart(chosen.graph_def, chosen, notes + note)
    chosen.ClearField("graph_def")
    return parsed


def _taken_apart(graph_def: Any, meta: Any, notes: tuple[str, ...]) -> Parsed:
    nodes = list(graph_def.node)
    rest = type(graph_def)()
    rest.CopyFrom(graph_def)
    rest.ClearField("node")
    return Parsed(nodes, rest, meta=meta, notes=notes)


def _known_enums(text: str, schema: Any) -> tuple[str, list[str]]:
    """The text with names of types that are not in our enums made unknown; what a number would be is known already."""
    enums = {"DT": set(schema.DataType.keys()), "TFT": set(schema.FullTypeId.keys())}
    first = {"DT": "DT_INVALID", "TFT": "TFT_UNSET"}
    unknown: dict[str, None] = {}

    def known(found: re.Match[str]) -> str:
        name, kind = found[0], found[1]
        if kind is None or name in enums[kind]:
            return name
        unknown[name] = None
        return first[kind]

    # Quoted strings are matched first, so that names inside them stay.
    swapped = re.sub(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|\b(DT|TFT)_[A-Z0-9_]+\b', known, text)
    return swapped, list(unknown)


def _parse_binary(data: Buffer, file: Path) -> Parsed:
    try:
        if data[0] == 0x08:  # a number as field 1: the version of a SavedModel
            return _parse_saved_model(data, file)
        return _parse_graph(data, 0, len(data), file)
    except CutOff as error:
        raise FormatError(f"{file}: truncated TensorFlow graph? {error}") from None
    except Damaged as error:
        raise FormatError(f"{file}: not a TensorFlow graph ({error})") from None


def _parse_graph(data: Buffer, start: int, end: int, file: Path) -> Parsed:
    from acccmp.schemas import tensorflow_pb2 as schema

    nodes: list[Any] = []
    places: dict[str, Payload] = {}
    others: list[bytes] = []
    try:
        for found in fields(data, start, end):
            if found.number > 16 or (found.wire != BYTES and found.number in (1, 2, 4)):
                hint = " (a Caffe model?)" if found.number == 100 else ""
                raise Damaged(f"field {found.number} at byte {found.tag} is no part of a graph{hint}")
            if found.number == 1:
                what = f"{file}: not a TensorFlow graph (node {len(nodes)} at byte {found.tag} is no NodeDef)"
                node = message(schema.NodeDef, data, found.start, found.end, _CONTENT, what)
                if not node.name or not node.op:
                    raise FormatError(what)
                places |= _contents_left(node, data)
                nodes.append(node)
            else:
                others.append(bytes(data[found.tag : found.end]))
    except CutOff as error:
        if not nodes:
            raise
        raise FormatError(f"{file}: truncated after node {nodes[-1].name!r} ({len(nodes)} read): {error}") from None
    rest = b"".join(others)
    what = f"{file}: its function library or versions are damaged"
    return Parsed(nodes, message(schema.GraphDef, rest, 0, len(rest), {}, what), places)


# NodeDef.attr["..."].tensor.tensor_content
_CONTENT = PayloadTable({5: PayloadTable({2: PayloadTable({8: PayloadTable({4: None})})})})


def _contents_left(node: Any, data: Buffer) -> dict[str, Payload]:
    """Where the bytes of a large constant lie, by the node's name; those of all other tensors are put in."""
    left = {}
    for name, value in node.attr.items():
        if value.WhichOneof("value") != "tensor" or not value.tensor.tensor_content:
            continue
        place = Payload.of(value.tensor.tensor_content)
        if node.op == "Const" and name == "value" and place.size >= LAZY:
            left[node.name] = place
            value.tensor.ClearField("tensor_content")
        else:
            value.tensor.tensor_content = bytes(data[place.offset : place.offset + place.size])
    return left


def _parse_saved_model(data: Buffer, file: Path) -> Parsed:
    from acccmp.schemas import tensorflow_pb2 as schema

    metas, places = [], []
    for found in fields(data, 0, len(data)):
        if (found.number, found.wire) not in ((1, VARINT), (2, BYTES)):
            raise Damaged(f"field {found.number} is no part of a SavedModel")
        if found.number == 2:
            parts = list(fields(data, found.start, found.end))
            places.append([part for part in parts if (part.number, part.wire) == (2, BYTES)])
            shell = b"".join(bytes(data[part.tag : part.end]) for part in parts if part not in places[-1])
            what = f"{file}: a SavedModel whose description is damaged"
            metas.append(message(schema.MetaGraphDef, shell, 0, len(shell), {}, what))
    chosen, note = _chosen([meta.meta_info_def.tags for meta in metas], file)
    if not places[chosen]:
        raise FormatError(f"{file}: a SavedModel without a graph")
    graph = places[chosen][-1]
    return replace(_parse_graph(data, graph.start, graph.end, file), meta=metas[chosen], notes=note)


def _chosen(tags: Sequence[Iterable[str]], file: Path) -> tuple[int, tuple[str, ...]]:
    if not tags:
        raise FormatError(f"{file}: a SavedModel without a graph")
    served = [index for index, given in enumerate(tags) if "serve" in given]
    index = served[0] if served else 0
    if len(tags) == 1:
        return index, ()
    return index, (f"the SavedModel has {len(tags)} graphs; the one tagged {', '.join(tags[index])!r} is shown",)

