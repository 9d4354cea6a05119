"""Device models written byte by byte for the tests of readers, after ../shared/specs/model_formats.md."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from acccmp.schemas import ge_pb2

NEW, OLD = 0x20000000, 0x10000000


def header(
    payload: int, *, version: int = NEW, wide: bool = True, model_type: int = 0, name: str = "net", models: int = 1,
    encrypted: bool = False, dynamic: bool = False,
) -> bytes:
    """The 256 bytes in front; in the old version the platform stands where the number of models is later."""
    raw = bytearray(256)
    raw[0:4] = b"IMOD"
    struct.pack_into("<II", raw, 4, 256, version)
    struct.pack_into("<I", raw, 76, 0 if wide else payload)
    raw[80], raw[82] = int(encrypted), model_type
    raw[84 : 84 + len(name)] = name.encode()
    struct.pack_into("<I", raw, 152, 2)
    if version == OLD:
        raw[156:164] = b"1.11.z.0"
        return bytes(raw)
    struct.pack_into("<I", raw, 156, models)
    raw[160:168] = b"1.11.z.0"
    if wide:
        struct.pack_into("<Q", raw, 184, payload)
    raw[193] = int(dynamic)
    return bytes(raw)


def block(partitions: Sequence[tuple[int, bytes]], wide: bool = True, gap: int = 0) -> bytes:
    """A table of (type, content) and the contents, each after `gap` unused bytes."""
    rows, body = b"", b""
    for kind, content in partitions:
        body += b"\xee" * gap
        rows += struct.pack("<IIQQ" if wide else "<III", *((kind, 0, len(body), len(content)) if wide else
                                                          (kind, len(body), len(content))))
        body += content
    return struct.pack("<II" if wide else "<I", *((len(partitions), 0) if wide else (len(partitions),))) + rows + body


def om(*partitions: tuple[int, bytes], wide: bool = True, gap: int = 0, **options: Any) -> bytes:
    """A file with one model."""
    body = block(partitions, wide, gap)
    return header(len(body), wide=wide, **options) + body


def set_attrs(target: Any, attrs: Mapping[str, Any]) -> None:
    """Fill a protobuf map of attributes from plain values."""
    for key, value in attrs.items():
        slot = target[key]
        if isinstance(value, bool):
            slot.b = value
        elif isinstance(value, int):
            slot.i = value
        elif isinstance(value, str):
            slot.s = value.encode()
        elif isinstance(value, list) and value and isinstance(value[0], bool):
            slot.list.b.extend(value)
        elif isinstance(value, list) and value and isinstance(value[0], int):
            slot.list.i.extend(value)
            slot.list.val_type = 2
        elif isinstance(value, list):
            slot.list.s.extend(text.encode() for text in value)
            slot.list.val_type = 1
        elif isinstance(value, dict):
            slot.func.name = ""
            set_attrs(slot.func.attr, value)
        else:
            raise TypeError(key)


def add_op(
    graph: Any, name: str, kind: str, inputs: Sequence[str] = (), *, out: Sequence[Any] = (), takes: Sequence[Any] = (),
    subgraphs: Sequence[str] = (), **attrs: Any,
) -> Any:
    """An op; `out` and `takes` are (dtype number, layout, shape[, attrs])."""
    op = graph.op.add(name=name, type=kind, input=list(inputs), id=len(graph.op))
    op.subgraph_name.extend(subgraphs)
    for field, descs in (("output_desc", out), ("input_desc", takes)):
        for dtype, layout, shape, *more in descs:
            desc = getattr(op, field).add(dtype=dtype, layout=layout)
            desc.shape.dim.extend(shape)
            set_attrs(desc.attr, more[0] if more else {})
    set_attrs(op.attr, attrs)
    return op


def add_const(
    graph: Any, name: str, offset: int, size: int, desc: tuple[int, str, Sequence[int]], **attrs: Any,
) -> None:
    """A weight at a place of the partition of weights."""
    op = add_op(graph, name, "Const", out=[desc], _datadump_original_op_names=[])
    tensor = op.attr["value"].t
    tensor.desc.dtype, tensor.desc.layout = desc[0], desc[1]
    tensor.desc.shape.dim.extend(desc[2])
    tensor.desc.data_offset, tensor.desc.weight_size = offset, size
    set_attrs(tensor.desc.attr, attrs)


def fractal_z(filters: np.ndarray) -> np.ndarray:
    """NCHW filters as FRACTAL_Z, element by element by the index formula of the specs."""
    n, c, h, w = filters.shape
    out = np.zeros((-(-c // 16) * h * w, -(-n // 16), 16, 16), filters.dtype)
    for i, j, k, m in np.ndindex(n, c, h, w):
        out[(j // 16) * h * w + k * w + m, i // 16, i % 16, j % 16] = filters[i, j, k, m]
    return out


def conv_model(filters: np.ndarray, bias: np.ndarray, originals: Sequence[str] = ("conv",)) -> tuple[Any, bytes]:
    """A ModelDef of one convolution with its weights in fp16, and the bytes of its partition of weights."""
    model = ge_pb2.ModelDef(name="net", version=2)
    set_attrs(model.attr, {
        "soc_version": "Ascend310P3", "atc_version": "7.6", "atc_cmdline": "atc --model=net.onnx",
        "attr_model_out_nodes_name": ["conv:0:y"], "framework_type": "Onnx",
    })
    graph = model.graph.add(name="net_0", input=["x:0"])
    n, c = filters.shape[:2]
    image, made = (1, "NCHW", [1, c, 8, 8]), [1, n, 8, 8]
    add_op(graph, "x", "Data", [""], out=[image], takes=[image], index=0)
    add_op(graph, "cast", "Cast", ["x:0"], out=[(2, "NCHW", [1, c, 8, 8])], _datadump_original_op_names=[])
    stored = fractal_z(filters.astype("f2"))
    weights = b"\0" * 512 + stored.tobytes()
    weights += b"\0" * (-len(weights) % 512)
    add_const(graph, "w", 512, stored.nbytes, (2, "FRACTAL_Z", stored.shape),
              origin_shape=list(filters.shape), origin_format="NCHW")
    add_const(graph, "b", len(weights), 2 * n, (2, "ND", [n]), origin_shape=[n], origin_format="ND")
    weights += bias.astype("f2").tobytes()
    add_op(
        graph, "conv", "Conv2D", ["cast:0", "w:0", "b:0", "", "cast:-1"],
        out=[(2, "NC1HWC0", [1, -(-n // 16), 8, 8, 16], {
            "_datadump_origin_name": originals[-1], "_datadump_origin_output_index": 0,
            "_datadump_origin_format": "NCHW", "_datadump_origin_data_type": "DT_FLOAT", "origin_shape": made,
        })], _datadump_original_op_names=list(originals),
    )
    add_op(graph, "back", "Cast", ["conv:0"], out=[(1, "NCHW", made)], _datadump_original_op_names=[])
    add_op(graph, "Node_Output", "NetOutput", ["back:0"], takes=[
        (1, "NCHW", made, {"_origin_output_tensor_name": "y"}),
    ], _datadump_original_op_names=[])
    return model, weights


def inout_record(name: str, shape: Sequence[int], ge_dtype: int, layout: int, size: int, second: Sequence[int] = (),
                 ranges: Sequence[int] = ()) -> bytes:
    """A tensor of MODEL_INOUT_INFO: 32 bytes, then name, dims, second dims and ranges."""
    parts = [name.encode(), *(struct.pack(f"<{len(p)}q", *p) for p in (shape, second, ranges))]
    return struct.pack("<QiiIIII", size, layout, ge_dtype, *map(len, parts)) + b"".join(parts)


def tlv(kind: int, body: bytes) -> bytes:
    return struct.pack("<II", kind, len(body)) + body


def om2(path: Path, constants: bytes, op_attr: Mapping[str, Any], text: str = "") -> None:
    """An OM2 archive with one model of one input and one output, one directory deep."""
    meta = {
        "name": "net", "root_graph_name": "net_0", "dynamic_type": 1, "dynamic_batch_info": [1, 4],
        "inputs": [{"name": "x", "index": 0, "shape": [-1, 3, 8, 8], "data_type": "DT_FLOAT", "format": "NCHW",
                    "size": 0, "shape_range": []}],
        "outputs": [{"name": "y", "index": 0, "shape": [-1, 4], "data_type": "DT_FLOAT", "format": "ND", "size": 0}],
    }
    config = {"internal_weight_size": len(constants), "consts": {"w": {
        "index": 0, "type": "INTERNAL", "file_name": "constant_0", "offset": 0, "size": len(constants), "op_name": "w",
    }}}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/manifest.json", json.dumps(
            {"om2_version": "0", "model_num": 1, "atc_command": "atc --model=net.onnx"}))
        archive.writestr("net/data/model_0/model_meta.json", json.dumps(meta))
        if op_attr:
            archive.writestr("net/data/model_0/debug/op_attr.json", json.dumps(op_attr))
        if text:
            archive.writestr("net/data/model_0/debug/ge_proto_00000000_graph_0.txt", text)
        archive.writestr("net/data/constants/model_0_constants_config.json", json.dumps(config))
        archive.writestr(zipfile.ZipInfo("net/data/constants/constant_0"), constants)  # stored, not packed
