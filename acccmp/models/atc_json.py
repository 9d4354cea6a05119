"""The compiled model as JSON, as `atc --mode=1 --om=model.om --json=out.json` writes it: the mapping to the original.

It is the protobuf message `ge.proto.ModelDef` printed as JSON: maps are lists of {"key", "value"}, enums are names or
numbers, 64-bit integers may be texts. Source: specs of the Ascend dumps, 5.1, and of the model formats, a.12.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from acccmp.core.graph import Graph
from acccmp.core.reading import parse_json, read_bytes
from acccmp.errors import FormatError
from acccmp.models.device_graph import DeviceModel, DeviceOp, DeviceTensor, device_graph
from acccmp.models.om_io import model_io

LARGEST = 1 << 30  # bytes; the JSON of a large language model's graph has some 100 MB


def load(path: str | Path) -> Graph:
    """The device Graph (format "om") in ATC's JSON: see `device_graph`. `weights` is not used: the JSON has none.

    Attributes are decoded to plain values; one that was printed as null, or as a list with nothing but its type, is
    None or (). Raises FormatError for text that is not JSON, JSON of another kind (a `fusion_result.json`, ...), and
    ops without a name; an op without a type is kept and noted.
    """
    where = Path(path)
    return graph_of(decode(parse_json(read_bytes(where, LARGEST), where), where), where)


def graph_of(model: DeviceModel, path: Path) -> Graph:
    """The device Graph of a model whose file lists no inputs and outputs apart from its ops."""
    return device_graph(model, model_io(model.ops, model.attrs), path)


def decode(model: Any, path: Path) -> DeviceModel:
    """The ops in the parsed JSON, or in anything of the same shape (the text form of build graphs)."""
    if not isinstance(model, dict):
        raise FormatError(f"{path}: not a compiled model as JSON: the outermost value is no object")
    graphs = model.get("graph")
    if not isinstance(graphs, list) or not graphs or not all(isinstance(graph, dict) for graph in graphs):
        if "graph_fusion" in model or "ub_fusion" in model:
            raise FormatError(
                f"{path}: this is a fusion_result.json (counts of fusion passes), not a mapping; "
                "make one with `atc --mode=1 --om=MODEL.om --json=OUT.json`"
            )
        raise FormatError(f'{path}: not a compiled model as JSON: there is no list "graph" in it')
    try:
        attrs = _attrs(model.get("attr"))
        parts = [(str(graph.get("name", "")), [
            _op(op, place, str(graph.get("name", "")), path) for place, op in enumerate(list_of(graph.get("op")))
        ]) for graph in graphs]
    except RecursionError:
        raise FormatError(f"{path}: not a model: attributes are nested too deeply") from None
    return DeviceModel(
        str(model.get("name") or parts[0][0] or path.stem), parts[0][1], attrs, dict(parts[1:]),
        meta={"version": number(model.get("version")), "custom_version": str(model.get("custom_version") or "")},
        notes=tuple(f"op {op.name} has no type in {path.name}" for _, ops in parts for op in ops if not op.op_type),
    )


def _op(op: Any, place: int, graph: str, path: Path) -> DeviceOp:
    if not isinstance(op, dict) or not isinstance(op.get("name"), str) or not op["name"]:
        raise FormatError(f"{path}: op {place} of graph {graph!r} has no name")
    op_type = op.get("type")
    return DeviceOp(
        op["name"], op_type if isinstance(op_type, str) else "", number(op.get("id")) or 0,
        tuple(text for text in list_of(op.get("input")) if isinstance(text, str)),
        tuple(_tensor(desc) for desc in list_of(op.get("input_desc"))),
        tuple(_tensor(desc) for desc in list_of(op.get("output_desc"))),
        _attrs(op.get("attr")),
        tuple(text for text in list_of(op.get("subgraph_name")) if isinstance(text, str)),
        offsets=tuple(number(n) or 0 for n in list_of(op.get("output_i"))),
    )


def _tensor(desc: Any) -> DeviceTensor:
    """A descriptor; one without anything in it keeps its place in the list."""
    if not isinstance(desc, dict):
        return DeviceTensor()
    dtype = desc.get("dtype")
    shape = desc.get("shape")
    dims = tuple(number(n) for n in list_of(shape.get("dim"))) if isinstance(shape, dict) else None
    layout = desc.get("layout")
    return DeviceTensor(
        dtype if isinstance(dtype, str) or (isinstance(dtype, int) and not isinstance(dtype, bool)) else None,
        layout if isinstance(layout, str) else None,
        None if dims is None or None in dims else tuple(n for n in dims if n is not None),
        _attrs(desc.get("attr")), number(desc.get("size")),
    )


def _attrs(pairs: Any) -> dict[str, Any]:
    """A map printed as a list of {"key", "value"}; older tools print it as an object."""
    if isinstance(pairs, dict):
        return {str(key): _value(value) for key, value in pairs.items()}
    return {
        str(pair["key"]): _value(pair.get("value"))
        for pair in list_of(pairs) if isinstance(pair, dict) and "key" in pair
    }


def _value(value: Any) -> Any:
    """An AttrDef as a plain value: the one field that is set; None when none is."""
    if not isinstance(value, dict):
        return value
    for kind, inner in value.items():
        if kind == "i":
            return number(inner)
        if kind == "f":
            return real(inner)
        if kind == "list":
            return _values(inner)
        if kind in ("func", "t", "td", "g", "na"):
            return _nested(inner)
        if kind == "list_list_int":
            return _rows(inner, "list_list_i", "list_i", number)
        if kind == "list_list_float":
            return _rows(inner, "list_list_f", "list_f", real)
        if kind != "val_type":
            return inner
    return None


def _rows(value: Any, rows: str, items: str, convert: Callable[[Any], Any]) -> tuple[tuple[Any, ...], ...]:
    """A list of lists, each of which is a message of its own."""
    return tuple(tuple(map(convert, list_of(_get(row, items)))) for row in list_of(_get(value, rows)))


def _values(listed: Any) -> tuple[Any, ...]:
    """An AttrDef.ListValue: the items of the field that is set; () when only the type is there."""
    if isinstance(listed, list):
        return tuple(listed)
    if not isinstance(listed, dict):
        return ()
    for kind, items in listed.items():
        if kind == "val_type":
            continue
        convert = {"i": number, "f": real}.get(kind)
        return tuple(convert(item) if convert else _nested(item) for item in list_of(items))
    return ()


def _nested(value: Any) -> Any:
    """A message inside an attribute (a tensor, a named list of attributes), its maps as dicts."""
    if not isinstance(value, dict):
        return value
    return {
        key: _attrs(inner) if key == "attr" else _nested(inner) if isinstance(inner, Mapping) else inner
        for key, inner in value.items()
    }


def number(value: Any) -> int | None:
    """64-bit integers are printed as texts by some tools."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def real(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def list_of(value: Any) -> list[Any]:
    """The list; an empty one for anything else."""
    return value if isinstance(value, list) else []


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None
