"""Graphs that the compiler writes out while it works (`DUMP_GE_GRAPH`), as the mapping: both text forms.

`ge_proto_*.txt` is ge.proto's ModelDef as protobuf text. `ge_onnx_*.pbtxt` has the same ops as ONNX's text form:
descriptors are flattened into attributes there (`output_desc_dtype:0`, `output_desc_attr_<name>:0`). The last one
(`..._Build`) has the ops that run. Source: ../shared/specs/model_formats.md, a.4; names of the flattened attributes
from GE's `ge_ir_utils`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from acccmp.core.graph import Graph
from acccmp.core.reading import read_text
from acccmp.errors import FormatError
from acccmp.models.atc_json import decode, graph_of, number, real
from acccmp.models.caffe_text import Block, parse, unquoted
from acccmp.models.device_graph import DeviceModel, DeviceOp, DeviceTensor

LARGEST = 1 << 29  # bytes of text

_DESC = re.compile(r"(input|output)_desc_(.+):([0-9]{1,9})$", re.DOTALL)
_MOST_DESCS = 65536


def load(path: str | Path) -> Graph:
    """The device Graph (format "om") of a build graph in text form; `weights` is not used: the text has none.

    Raises FormatError for text of another kind, and for a graph dumped without its attributes (`DUMP_GE_GRAPH=3` writes
    no names of originals) only a note.
    """
    where = Path(path)
    return graph_of(ops_of(read_text(where, LARGEST, errors="replace"), where), where)


def ops_of(text: str, path: Path) -> DeviceModel:
    """The ops in the text of a build graph. Raises FormatError as `load`."""
    from acccmp.schemas import ge_pb2

    tree = parse(text, str(path))
    graphs = tree.blocks("graph")
    if any(graph.blocks("op") for graph in graphs):
        found = decode(_json(tree, ge_pb2.ModelDef.DESCRIPTOR), path)
    elif any(graph.blocks("node") for graph in graphs):
        found = _onnx_form(tree, graphs, path)
    else:
        raise FormatError(f"{path}: text, but not a graph of the device's compiler (no graph with ops in it)")
    all_ops = [*found.ops, *(op for ops in found.subgraphs.values() for op in ops)]
    if all_ops and not any("_datadump_original_op_names" in op.attrs for op in all_ops):
        note = (
            "no op names its originals (this graph was written before fusion, or without attributes); "
            "the graph of the stage Build, written with DUMP_GE_GRAPH=2, has them"
        )
        found = replace(found, notes=(*found.notes, note))
    return found


# -- ge.proto as text --------------------------------------------------------------------------------------------

def _json(block: Block, about: Any) -> dict[str, Any]:
    """A block as ATC prints it as JSON; `about` is the descriptor of its message, None where the schema has none."""
    found: dict[str, Any] = {}
    for name, value in block.fields:
        row = about.fields_by_name.get(name) if about is not None else None
        inner = row.message_type if row is not None else None
        plain = _json(value, inner) if isinstance(value, Block) else _scalar(value)
        if row is not None and row.is_repeated:
            found.setdefault(name, []).append(plain)
        else:
            found[name] = plain
    return found


def _scalar(text: str) -> Any:
    if text[:1] in ('"', "'"):
        return unquoted(text)
    return {"true": True, "false": False}.get(text, text)


# -- ONNX as text ------------------------------------------------------------------------------------------------


def _onnx_form(tree: Block, graphs: list[Block], path: Path) -> DeviceModel:
    graph = graphs[0]
    ops = [_node(node, place) for place, node in enumerate(graph.blocks("node"))]
    # Graphs inside of graphs are nodes of type `subgraph` in front of the ops that own them.
    inner: dict[str, list[DeviceOp]] = {}
    for node in graph.blocks("node"):
        for attribute in node.blocks("attribute"):
            for held in attribute.blocks("g"):
                name = held.string("name") or attribute.string("name")
                inner[name] = [_node(found, place) for place, found in enumerate(held.blocks("node"))]
    return DeviceModel(
        graph.string("name") or path.stem, [op for op in ops if op.op_type != "subgraph"], subgraphs=inner,
        meta={"producer": tree.string("producer_name")},
    )


def _node(node: Block, place: int) -> DeviceOp:
    attrs: dict[str, Any] = {}
    descs: dict[str, dict[int, dict[str, Any]]] = {"input": {}, "output": {}}
    for attribute in node.blocks("attribute"):
        name, value = attribute.string("name"), _value(attribute)
        found = _DESC.match(name)
        if found is None:
            attrs[name] = value
        elif int(found[3]) < _MOST_DESCS:
            descs[found[1]].setdefault(int(found[3]), {})[found[2]] = value
    own = attrs.pop("id", place)
    inner = [name for key in ("subgraph_name", "_subgraph_name") for name in _texts(attrs.get(key))]
    inner += [held.string("name") for a in node.blocks("attribute") for held in a.blocks("g")]
    return DeviceOp(
        node.string("name") or f"op_{place}", node.string("op_type").removeprefix("ge:"),
        own if isinstance(own, int) else place, tuple(node.strings("input")),
        _descs(descs["input"]), _descs(descs["output"]), attrs, tuple(dict.fromkeys(inner)),
    )


def _texts(value: Any) -> tuple[str, ...]:
    value = value if isinstance(value, tuple) else (value,)
    return tuple(item for item in value if isinstance(item, str))


def _descs(found: dict[int, dict[str, Any]]) -> tuple[DeviceTensor, ...]:
    return tuple(_desc(found.get(place, {})) for place in range(max(found, default=-1) + 1))


def _desc(fields: dict[str, Any]) -> DeviceTensor:
    attrs = {name.removeprefix("attr_"): value for name, value in fields.items() if name.startswith("attr_")}
    for told, name in (("origin_shape", "origin_shape"), ("origin_layout", "origin_format"),
                       ("origin_dtype", "origin_data_type")):
        if told in fields:
            attrs.setdefault(name, fields[told])
    dtype, layout, shape, size = (fields.get(name) for name in ("dtype", "layout", "shape", "size"))
    return DeviceTensor(
        dtype if isinstance(dtype, str) else None, layout if isinstance(layout, str) else None,
        shape if isinstance(shape, tuple) else () if "dtype" in fields else None, attrs,
        size if isinstance(size, int) and size > 0 else None,
    )


def _value(attribute: Block) -> Any:
    """The value of an ONNX attribute by its type; lists are tuples, and an empty list has only its type."""
    kind = attribute.string("type")
    if kind in ("INTS", "7") or attribute.all("ints"):
        return tuple(number(text) for text in attribute.strings("ints"))
    if kind in ("STRINGS", "8") or attribute.all("strings"):
        return tuple(attribute.strings("strings"))
    if kind in ("FLOATS", "6") or attribute.all("floats"):
        return tuple(real(text) for text in attribute.strings("floats"))
    if attribute.all("s"):
        return attribute.string("s")
    if attribute.all("i"):
        return number(attribute.string("i"))
    if attribute.all("f"):
        return real(attribute.string("f"))
    return "" if kind in ("STRING", "3") else None

