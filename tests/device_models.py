"""Small device models and dumps, made in memory for the tests of pairing and comparing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from acccmp.core.dump import Broken, Dump, DumpedOp, Port
from acccmp.core.graph import Graph, Node, TensorSpec
from acccmp.core.tensor import TensorRef
from acccmp.mapping.device_map import DeviceMap
from acccmp.models.device_graph import DeviceModel, DeviceOp, DeviceTensor, device_graph
from acccmp.models.om_io import model_io

ABSENT = object()


def out(
    origin: str | None = None, index: int = 0, *, shape: Sequence[int] | None = None, layout: str | None = None,
    original: Sequence[int] | None = None, original_layout: str | None = None, dtype: str = "DT_FLOAT16",
) -> DeviceTensor:
    """An output's descriptor; `origin` None leaves the original's name out, "" writes it empty."""
    attrs: dict[str, Any] = {}
    if origin is not None:
        attrs = {"_datadump_origin_name": origin, "_datadump_origin_output_index": index}
    if original is not None:
        attrs["origin_shape"] = tuple(original)
    if original_layout is not None:
        attrs["origin_format"] = original_layout
    return DeviceTensor(dtype, layout, tuple(shape) if shape is not None else None, attrs)


def op(
    name: str, op_type: str, inputs: Sequence[str] = (), outputs: Sequence[DeviceTensor] = (),
    originals: Any = ABSENT, **attrs: Any,
) -> DeviceOp:
    """An op; without `originals` the compiler wrote nothing about them."""
    if originals is not ABSENT:
        attrs["_datadump_original_op_names"] = originals
    return DeviceOp(name, op_type, 0, tuple(inputs), (), tuple(outputs), attrs)


def mapping(*ops: DeviceOp, **options: Any) -> DeviceMap:
    """The mapping that a device model of these ops, in this order, is."""
    numbered = [
        DeviceOp(o.name, o.op_type, place, o.inputs, o.input_descs, o.output_descs, o.attrs, o.subgraphs)
        for place, o in enumerate(ops)
    ]
    io = model_io(numbered, options.get("attrs") or {})
    return DeviceMap(device_graph(DeviceModel("net", numbered, **options), io))


def _refs(tensors: Mapping[str, Any]) -> dict[Port, TensorRef]:
    refs = {}
    for text, tensor in tensors.items():
        port = Port.parse(text) if text.rpartition(":")[2].isdigit() else Port(text, "output", 0)
        refs[port] = tensor if isinstance(tensor, TensorRef) else TensorRef.of(np.asarray(tensor))
    return refs


def golden(tensors: Mapping[str, Any], **options: Any) -> Dump:
    """A golden dump; keys are ports as text, or op names for their first output."""
    return Dump(_refs(tensors), kind="golden", **options)


def npu(
    tensors: Mapping[str, Any], broken: Sequence[Broken] = (), types: Mapping[str, str] | None = None, **options: Any,
) -> Dump:
    refs = _refs(tensors)
    ops = {port.node: DumpedOp(port.node, (types or {}).get(port.node, "")) for port in refs}
    return Dump(refs, options.pop("ops", ops), tuple(broken), **options)


def original(*nodes: tuple[str, Sequence[str], Sequence[str]], inputs: Sequence[str], outputs: Sequence[str]) -> Graph:
    """An original model of (name, inputs, outputs)."""
    made = tuple(Node(name, "Op", tuple(reads), tuple(makes)) for name, reads, makes in nodes)
    tensors = {tensor: TensorSpec(tensor) for node in made for tensor in node.outputs}
    return Graph("original", "onnx", made, tuple(inputs), tuple(outputs), tensors)
