"""The first generation of .om files (2019): one message `domi.ModelDef` behind the header, weights inside of it.

Edges are op names, shapes are those of the original (NCHW), weights lie in FRACTAL_Z. Numbers of formats and data
types are GE's. Source: ../shared/specs/model_formats.md, a.10; field 800 measured on a real file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import acccmp.core.layout as layouts
from acccmp.core.graph import shape_text
from acccmp.core.layout import FORMATS
from acccmp.core.tensor import BY_GE, TensorRef
from acccmp.core.wire import Buffer, Payload, PayloadTable, message, text_of
from acccmp.errors import FormatError, LayoutError
from acccmp.models.device_graph import DeviceOp, DeviceTensor
from acccmp.models.om_container import Partition

_WEIGHT = PayloadTable({4: None})
_PAYLOADS = PayloadTable({20: PayloadTable({
    14: _WEIGHT, 300: PayloadTable({40: _WEIGHT, 41: _WEIGHT}), 800: PayloadTable({1: _WEIGHT, 2: _WEIGHT}),
})})
C0 = 16  # float16 is the only float type of these devices


def read(
    buffer: Buffer, body: Partition, path: Path,
) -> tuple[Any, list[DeviceOp], dict[str, TensorRef], list[str]]:
    """The model message without weights, its ops, its weights by tensor name (`conv1:filter`), and notes."""
    from acccmp.schemas import domi_pb2

    what = f"{path}: damaged: its model (domi.ModelDef) cannot be read"
    model = message(domi_pb2.ModelDef, buffer, body.offset, body.offset + body.size, _PAYLOADS, what)
    if not model.op:
        raise FormatError(f"{path}: not a model: there are no ops behind the header")
    notes: list[str] = []
    weights: dict[str, TensorRef] = {}
    ops = []
    for place, op in enumerate(model.op):
        owned = []
        for name, weight in _weights(op):
            ref = _ref(weight, path)
            if isinstance(ref, TensorRef):
                weights[name] = ref
                owned.append(name)
            else:
                notes.append(f"the weight {name} {ref}")
        ops.append(_op(op, place, tuple(owned)))
    return model, ops, weights, notes


def _op(op: Any, place: int, owned: tuple[str, ...]) -> DeviceOp:
    index = list(op.src_index) + [0] * len(op.src_name)
    # What NetOutput gives is what the user gets; what it takes still has the device's layout.
    takes = op.output_desc if op.type == "NetOutput" and len(op.output_desc) == len(op.src_name) else op.input_desc
    return DeviceOp(
        text_of(op.name) or f"op_{place}", text_of(op.type), op.id if op.HasField("id") else place,
        tuple(f"{text_of(name)}:{i}" for name, i in zip(op.src_name, index, strict=False)),
        tuple(map(_desc, takes)), tuple(map(_desc, op.output_desc)), weights=owned,
    )


def _desc(desc: Any) -> DeviceTensor:
    """The shape is the original's even where the layout is the device's, so it is also told as `origin_shape`."""
    dtype = BY_GE.get(desc.data_type)
    layout = FORMATS.get(desc.format)
    attrs: dict[str, Any] = {"origin_shape": tuple(desc.dim), "origin_format": "NCHW"} if len(desc.dim) == 4 else {}
    shape = tuple(desc.dim)
    if layout and not layouts.is_plain(layout) and layouts.is_known(layout) and attrs and min(shape) > 0:
        shape = layouts.stored_shape(layout, "NCHW", shape, C0)
    return DeviceTensor(dtype.proto if dtype else None, layout, shape, attrs, desc.size or None)


def _weights(op: Any) -> Iterator[tuple[str, Any]]:
    for place, weight in enumerate(op.weights):
        yield f"{op.name}:weight_{place}", weight
    for params in ("convolution", "full_connection"):
        if op.HasField(params):
            for part in ("filter", "bias"):
                if getattr(op, params).HasField(part):
                    yield f"{op.name}:{part}", getattr(getattr(op, params), part)


def _ref(weight: Any, path: Path) -> TensorRef | str:
    """The weight; or why it is left out."""
    payload = Payload.of(weight.data)
    dtype = BY_GE.get(weight.data_type)
    layout = FORMATS.get(weight.format, "ND")
    original = tuple(weight.shape.dim)
    if dtype is None or not payload.size or any(n <= 0 for n in original):
        return "has no bytes or no known type: it is left out"
    stored = original
    if not layouts.is_plain(layout):
        try:
            stored = layouts.stored_shape(layout, "NCHW", original, C0)
        except LayoutError as error:
            return f"is left out: {error}"
    if dtype.nbytes(math.prod(stored)) > payload.size:
        return f"is left out: {shape_text(stored)} {dtype} in {payload.size} bytes"
    ref = TensorRef(str(path), dtype, stored, payload.offset, payload.size, layout)
    return ref if stored == original else ref.seen_as(original, "NCHW" if len(original) == 4 else None)

