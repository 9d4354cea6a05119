"""Shape arithmetic of ONNX models: what older exporters compute with nodes (Shape, Gather, Concat, ... -> Reshape) and
ONNX's own inference does not follow in every opset. Only small tensors that are certain are computed, nothing else, by
ONNX's reference implementation in numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

Array = NDArray[Any]

MOST = 1024  # elements of a tensor that is computed
FOLDED = frozenset({
    "Constant", "Identity", "Gather", "Concat", "Unsqueeze", "Squeeze", "Slice", "Cast", "Reshape", "ConstantOfShape",
    "Range", "Expand", "Add", "Sub", "Mul", "Div", "Neg", "Floor", "Ceil", "Min", "Max", "Equal", "Where",
})


def fold(model: onnx.ModelProto) -> int:
    """Replace nodes whose output is certain by Constants, in place; returns how many. Value types that `model` has are
    believed. Order and number of the nodes stay, bodies of control flow are left alone."""
    import onnx
    from onnx import numpy_helper

    graph = model.graph
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 1)
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if _is_small(tensor)}
    shapes = _static_shapes(graph)
    for tensor in graph.initializer:
        shapes.setdefault(tensor.name, tuple(int(n) for n in tensor.dims))
    done = 0
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or len(node.output) != 1:
            continue
        result = _value(node, known, shapes, opset)
        if result is None or result.size > MOST:
            continue
        known[node.output[0]] = result
        if node.op_type != "Constant":
            name, output = node.name, node.output[0]
            node.CopyFrom(onnx.helper.make_node("Constant", [], [output], name, value=numpy_helper.from_array(result)))
            done += 1
    return done


def _is_small(tensor: onnx.TensorProto) -> bool:
    """Numbers, few, and in the message itself."""
    return int(tensor.data_location) == 0 and tensor.data_type != 8 and bool(0 <= np.prod(tensor.dims) <= MOST)


def _static_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    found = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        kind = value.type
        if kind.WhichOneof("value") == "tensor_type" and kind.tensor_type.HasField("shape"):
            dims = kind.tensor_type.shape.dim
            if all(dim.HasField("dim_value") and dim.dim_value >= 0 for dim in dims):
                found[value.name] = tuple(int(dim.dim_value) for dim in dims)
    return found


def _value(
    node: onnx.NodeProto, known: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]], opset: int,
) -> Array | None:
    """The node's only output, or None when it is not certain."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    names = [name for name in node.input if name]
    if node.op_type == "Shape" and names and names[0] in shapes:
        attrs = {a.name: a.i for a in node.attribute}
        return np.array(shapes[names[0]][attrs.get("start", 0) : attrs.get("end")], np.int64)
    inside = [a.t for a in node.attribute if a.HasField("t")]
    if node.op_type not in FOLDED or not known.keys() >= set(names) or not all(map(_is_small, inside)):
        return None
    inputs = {name: known[name] for name in names}
    opsets = [onnx.helper.make_opsetid("", opset)]
    alone = onnx.helper.make_function("", "alone", list(inputs), node.output, [node], opsets)
    alone.node[0].ClearField("domain")
    try:
        if _is_long(node.op_type, [known[name] for name in names]):
            return None
        with np.errstate(all="ignore", divide="raise"):
            results: Any = ReferenceEvaluator(alone).run(None, inputs, attributes={"": None})
            return np.asarray(results[0])
    except Exception:  # whatever numpy says to a model that is wrong in this place; onnxruntime will say it better
        return None


def _is_long(op_type: str, inputs: Sequence[Array]) -> bool:
    """Does it make much from little?"""
    if op_type in ("ConstantOfShape", "Expand"):
        return bool(np.prod(inputs[-1].astype(np.float64)) > MOST)
    if op_type == "Range":
        start, limit, delta = (float(part.reshape(-1)[0]) for part in inputs)
        return (limit - start) / delta > MOST
    return False
