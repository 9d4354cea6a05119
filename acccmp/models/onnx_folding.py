"""Shape arithmetic of ONNX models: what older exporters compute with nodes (Shape, Gather, Concat, ... -> Reshape) and
ONNX's own inference does not follow in every opset. Only small tensors that are certain are computed, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

Array = NDArray[Any]

MOST = 1024  # elements of a tensor that is computed


def fold(model: onnx.ModelProto) -> int:
    """Replace nodes whose output is certain by Constants, in place; returns how many. Value types that `model` has are
    believed. Order and number of the nodes stay, bodies of control flow are left alone."""
    import onnx
    from onnx import numpy_helper

    graph = model.graph
    known: dict[str, Array] = {}
    for tensor in graph.initializer:
        if int(tensor.data_location) == 0 and tensor.data_type != 8 and 0 <= np.prod(tensor.dims) <= MOST:
            known[tensor.name] = numpy_helper.to_array(tensor)
    shapes = _static_shapes(graph)
    for tensor in graph.initializer:
        shapes.setdefault(tensor.name, tuple(int(n) for n in tensor.dims))
    done = 0
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or len(node.output) != 1:
            continue
        result = _value(node, known, shapes)
        if result is None or result.size > MOST:
            continue
        known[node.output[0]] = result
        if node.op_type != "Constant":
            name, output = node.name, node.output[0]
            node.CopyFrom(onnx.helper.make_node("Constant", [], [output], name, value=numpy_helper.from_array(result)))
            done += 1
    return done


def _static_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    found = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        kind = value.type
        if kind.WhichOneof("value") == "tensor_type" and kind.tensor_type.HasField("shape"):
            dims = kind.tensor_type.shape.dim
            if all(dim.HasField("dim_value") and dim.dim_value >= 0 for dim in dims):
                found[value.name] = tuple(int(dim.dim_value) for dim in dims)
    return found


def _value(node: onnx.NodeProto, known: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]) -> Array | None:
    """The node's only output, or None when it is not certain."""
    import onnx

    attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if not a.ref_attr_name}
    try:
        if node.op_type == "Shape":
            shape = shapes.get(node.input[0])
            if shape is None and node.input[0] in known:
                shape = known[node.input[0]].shape
            return None if shape is None else np.array(shape[attrs.get("start", 0) : attrs.get("end")], np.int64)
        if node.op_type == "Constant":
            return _constant(attrs)
        compute = _COMPUTE.get(node.op_type)
        if compute is None or any(name and name not in known for name in node.input):
            return None
        with np.errstate(all="ignore"):
            result = compute([known[name] if name else None for name in node.input], attrs)
        return np.asarray(result)
    except (ValueError, IndexError, TypeError, KeyError, OverflowError, MemoryError, ZeroDivisionError):
        return None  # a model that is wrong in this place; onnxruntime will say so


def _constant(attrs: Mapping[str, Any]) -> Array | None:
    from onnx import numpy_helper

    if "value" in attrs:
        tensor = attrs["value"]
        small = int(tensor.data_location) == 0 and tensor.data_type != 8 and 0 <= np.prod(tensor.dims) <= MOST
        return numpy_helper.to_array(tensor) if small else None
    for name, dtype in (("value_int", np.int64), ("value_ints", np.int64), ("value_float", np.float32),
                        ("value_floats", np.float32)):
        if name in attrs:
            return np.array(attrs[name], dtype)
    return None


Inputs = Sequence[Any]
Attrs = Mapping[str, Any]


def _axes(inputs: Inputs, attrs: Attrs, slot: int) -> list[int] | None:
    """Axes, which are an attribute in older opsets and an input in newer ones."""
    if "axes" in attrs:
        return [int(n) for n in attrs["axes"]]
    if len(inputs) > slot and inputs[slot] is not None:
        return [int(n) for n in inputs[slot].reshape(-1)]
    return None


def _unsqueeze(inputs: Inputs, attrs: Attrs) -> Array:
    axes = _axes(inputs, attrs, 1)
    return np.asarray(np.expand_dims(inputs[0], tuple(axes or ())))


def _squeeze(inputs: Inputs, attrs: Attrs) -> Array:
    axes = _axes(inputs, attrs, 1)
    return np.asarray(np.squeeze(inputs[0], None if axes is None else tuple(axes)))


def _slice(inputs: Inputs, attrs: Attrs) -> Array:
    data = inputs[0]
    if "starts" in attrs:
        starts, ends, steps = list(attrs["starts"]), list(attrs["ends"]), None
        axes = list(attrs.get("axes", range(len(starts))))
    else:
        starts, ends = inputs[1].reshape(-1).tolist(), inputs[2].reshape(-1).tolist()
        given = len(inputs) > 3 and inputs[3] is not None
        axes = inputs[3].reshape(-1).tolist() if given else list(range(len(starts)))
        steps = inputs[4].reshape(-1).tolist() if len(inputs) > 4 and inputs[4] is not None else None
    cut = [slice(None)] * data.ndim
    for place, axis in enumerate(axes):
        step = steps[place] if steps else 1
        end = None if step < 0 and ends[place] < -data.shape[axis] else ends[place]
        cut[axis] = slice(starts[place], end, step)
    return np.asarray(data[tuple(cut)])


def _divide(inputs: Inputs, attrs: Attrs) -> Array:
    one, two = inputs
    if one.dtype.kind == "f":
        return np.asarray(one / two)
    if not np.all(two):
        raise ZeroDivisionError
    return np.asarray((np.abs(one) // np.abs(two)) * np.sign(one) * np.sign(two)).astype(one.dtype)  # as C does


def _cast(inputs: Inputs, attrs: Attrs) -> Array:
    import onnx.helper

    kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(attrs["to"]))
    if kind.kind not in "biuf":
        raise TypeError(kind)
    return np.asarray(inputs[0]).astype(kind)


def _reshape(inputs: Inputs, attrs: Attrs) -> Array:
    shape = inputs[1].tolist()
    if not attrs.get("allowzero"):
        shape = [inputs[0].shape[i] if n == 0 else n for i, n in enumerate(shape)]
    return np.asarray(inputs[0].reshape(shape))


def _constant_of_shape(inputs: Inputs, attrs: Attrs) -> Array:
    from onnx import numpy_helper

    shape = [int(n) for n in inputs[0]]
    if min(shape, default=0) < 0 or np.prod(shape) > MOST:
        raise ValueError(shape)
    value = numpy_helper.to_array(attrs["value"]) if "value" in attrs else np.zeros(1, np.float32)
    return np.full(shape, value.reshape(-1)[0], value.dtype)


def _range(inputs: Inputs, attrs: Attrs) -> Array:
    start, limit, delta = (float(part.reshape(-1)[0]) for part in inputs)
    if (limit - start) / delta > MOST:
        raise ValueError
    return np.asarray(np.arange(start, limit, delta).astype(inputs[0].dtype))


def _expand(inputs: Inputs, attrs: Attrs) -> Array:
    shape = np.broadcast_shapes(inputs[0].shape, tuple(int(n) for n in inputs[1]))
    if np.prod(shape) > MOST:
        raise ValueError(shape)
    return np.broadcast_to(inputs[0], shape)


_COMPUTE: dict[str, Callable[[Inputs, Attrs], Any]] = {
    "Identity": lambda i, a: i[0],
    "Gather": lambda i, a: np.take(i[0], i[1], a.get("axis", 0)),
    "Concat": lambda i, a: np.concatenate(i, a["axis"]),
    "Unsqueeze": _unsqueeze, "Squeeze": _squeeze, "Slice": _slice, "Cast": _cast, "Reshape": _reshape,
    "ConstantOfShape": _constant_of_shape, "Range": _range, "Expand": _expand,
    "Add": lambda i, a: i[0] + i[1], "Sub": lambda i, a: i[0] - i[1], "Mul": lambda i, a: i[0] * i[1], "Div": _divide,
    "Neg": lambda i, a: -i[0], "Floor": lambda i, a: np.floor(i[0]), "Ceil": lambda i, a: np.ceil(i[0]),
    "Min": lambda i, a: np.minimum.reduce(list(i)), "Max": lambda i, a: np.maximum.reduce(list(i)),
    "Equal": lambda i, a: i[0] == i[1], "Where": lambda i, a: np.where(i[0], i[1], i[2]),
}
