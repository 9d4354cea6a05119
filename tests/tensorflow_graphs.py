"""Small TensorFlow graphs, written through our own schema: no TensorFlow is needed to build or to load them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from acccmp.core.graph import Graph, Node
from acccmp.schemas import tensorflow_pb2 as schema

FLOAT, INT32, BOOL = schema.DT_FLOAT, schema.DT_INT32, schema.DT_BOOL
NUMBERS = {"float32": FLOAT, "int32": INT32, "bool": BOOL, "int64": schema.DT_INT64, "float64": schema.DT_DOUBLE}


class Kind(int):
    """A DataType as an attribute's value."""


class Sizes(tuple[Any, ...]):
    """A shape as an attribute's value; -1 is unknown."""


class Calls(str):
    """A function's name as an attribute's value."""


F = Kind(FLOAT)
X = np.arange(8, dtype=np.float32).reshape(2, 4) - 3  # a feed for `loop`, `cond` and others of two rows of four

# real models, in the folder tensorflow of the shared data
HH = "Ascend_ModelZoo-TensorFlow__hh.pb"
MTCNN = "blaueck_tf-mtcnn__mtcnn.pb"
FC = "tf2onnx__fc-layers.frozen.pb"


def node(name: str, op: str, *inputs: str, **attrs: Any) -> Any:
    made = schema.NodeDef(name=name, op=op, input=inputs)
    for key, value in attrs.items():
        put(made.attr[key], value)
    return made


def put(attr: Any, value: Any) -> None:
    if isinstance(value, Kind):
        attr.type = int(value)
    elif isinstance(value, Calls):
        attr.func.name = str(value)
    elif isinstance(value, Sizes):
        attr.shape.SetInParent()
        for size in value:
            attr.shape.dim.add(size=size)
    elif isinstance(value, bool):
        attr.b = value
    elif isinstance(value, int):
        attr.i = value
    elif isinstance(value, float):
        attr.f = value
    elif isinstance(value, str):
        attr.s = value.encode()
    elif isinstance(value, np.ndarray):
        attr.tensor.dtype = NUMBERS[value.dtype.name]
        for size in value.shape:
            attr.tensor.tensor_shape.dim.add(size=size)
        attr.tensor.tensor_shape.SetInParent()
        attr.tensor.tensor_content = value.tobytes()
    elif value and isinstance(value[0], Kind):
        attr.list.type.extend(int(kind) for kind in value)
    elif value and isinstance(value[0], str):
        attr.list.s.extend(item.encode() for item in value)
    else:
        attr.list.i.extend(value)


def const(name: str, values: Any, *control: str) -> Any:
    array = np.asarray(values)
    return node(name, "Const", *control, dtype=Kind(NUMBERS[array.dtype.name]), value=array)


def placeholder(name: str, *shape: int, kind: int = FLOAT) -> Any:
    return node(name, "Placeholder", dtype=Kind(kind), shape=Sizes(shape))


def graph_def(*nodes: Any, functions: Any = (), producer: int = 1087) -> Any:
    made = schema.GraphDef(node=nodes)
    made.versions.producer = producer
    made.library.function.extend(functions)
    return made


def write(path: Path, *nodes: Any, **options: Any) -> Path:
    path.write_bytes(graph_def(*nodes, **options).SerializeToString())
    return path


def function(name: str, inputs: dict[str, int], outputs: dict[str, tuple[int, str]], *nodes: Any) -> Any:
    """A FunctionDef; `outputs` maps a result's name to its type and the tensor `node:argument:index`."""
    made = schema.FunctionDef(node_def=nodes)
    made.signature.name = name
    for argument, kind in inputs.items():
        made.signature.input_arg.add(name=argument, type=kind)
    for result, (kind, tensor) in outputs.items():
        made.signature.output_arg.add(name=result, type=kind)
        made.ret[result] = tensor
    return made


def loop(limit: int = 3, frame: str = "loop/frame") -> list[Any]:
    """a = 2x; `limit` times: v = v + a, beginning with v = a; y = -v. A V1 while loop as TensorFlow 1 wrote them."""
    f, i = F, Kind(INT32)
    return [
        placeholder("x", -1, 4),
        const("two", np.float32(2)),
        node("a", "Mul", "x", "two", T=f),
        const("zero", np.int32(0)),
        node("loop/Enter", "Enter", "zero", T=i, frame_name=frame, is_constant=False, parallel_iterations=10),
        node("loop/Enter_1", "Enter", "a", T=f, frame_name=frame, is_constant=False, parallel_iterations=10),
        node("loop/Merge", "Merge", "loop/Enter", "loop/Next", T=i, N=2),
        node("loop/Merge_1", "Merge", "loop/Enter_1", "loop/Next_1", T=f, N=2),
        const("loop/limit", np.int32(limit), "^loop/Merge"),
        node("loop/Less", "Less", "loop/Merge", "loop/limit", T=i),
        node("loop/LoopCond", "LoopCond", "loop/Less"),
        node("loop/Switch", "Switch", "loop/Merge", "loop/LoopCond", T=i),
        node("loop/Switch_1", "Switch", "loop/Merge_1", "loop/LoopCond", T=f),
        node("loop/Identity", "Identity", "loop/Switch:1", T=i),
        const("loop/one", np.int32(1), "^loop/Identity"),
        node("loop/count", "AddV2", "loop/Identity", "loop/one", T=i),
        node("loop/same", "Enter", "a", T=f, frame_name=frame, is_constant=True, parallel_iterations=10),
        node("loop/add", "AddV2", "loop/Switch_1:1", "loop/same", T=f),
        node("loop/Next", "NextIteration", "loop/count", T=i),
        node("loop/Next_1", "NextIteration", "loop/add", T=f),
        node("loop/Exit", "Exit", "loop/Switch_1", T=f),
        node("y", "Neg", "loop/Exit", T=f),
    ]


LOOP_NODES = {"loop/Enter", "loop/Enter_1", "loop/Merge", "loop/Merge_1", "loop/limit", "loop/Less", "loop/LoopCond",
              "loop/Switch", "loop/Switch_1", "loop/Identity", "loop/one", "loop/count", "loop/same", "loop/add",
              "loop/Next", "loop/Next_1", "loop/Exit"}


def cond() -> list[Any]:
    """y = x * x where the sum of x is above zero, else -x - 1; as V1 wrote tf.cond."""
    f, b = F, Kind(BOOL)
    return [
        placeholder("x", -1, 4),
        const("axes", np.array([0, 1], np.int32)),
        node("sum", "Sum", "x", "axes", T=f, Tidx=Kind(INT32), keep_dims=False),
        const("limit", np.float32(0)),
        node("above", "Greater", "sum", "limit", T=f),
        node("cond/Switch", "Switch", "above", "above", T=b),
        node("cond/switch_t", "Identity", "cond/Switch:1", T=b),
        node("cond/switch_f", "Identity", "cond/Switch", T=b),
        node("cond/then", "Switch", "x", "above", T=f),
        node("cond/square", "Square", "cond/then:1", T=f),
        const("cond/one", np.float32(1), "^cond/switch_f"),
        node("cond/negative", "Neg", "cond/then", T=f),
        node("cond/less", "Sub", "cond/negative", "cond/one", T=f),
        node("cond/Merge", "Merge", "cond/less", "cond/square", T=f, N=2),
        node("y", "Identity", "cond/Merge", T=f),
    ]


def values(graph: Graph, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What TensorFlow computes for every tensor that can be captured, by name."""
    from acccmp.runners.tensorflow import run

    return {graph.tensor(port) or port.node: array for port, array in run(graph, feeds).tensors.items()}


def seen(one: Node, names: set[str]) -> tuple[Any, ...]:
    """What must be the same of a node after writing and loading; control edges that lead out of `names` are gone."""
    control = tuple(name for name in one.control if name in names)
    return one.name, one.op_type, one.inputs, one.outputs, dict(one.attrs), control, sorted(one.subgraphs)


def assert_same(part: Graph, again: Graph) -> None:
    """`again` is `part`, with a Placeholder or Const more for each tensor that the part only reads."""
    names = {one.name for one in part.nodes}
    wanted = {one.name: seen(one, names) for one in part.nodes}
    found = {one.name: seen(one, names) for one in again.nodes}
    assert {name: found[name] for name in wanted} == wanted
    assert all(again[name].op_type in ("Placeholder", "Const") for name in found.keys() - wanted.keys())
    assert set(again.inputs) == set(part.inputs)
    assert set(again.outputs) == set(part.outputs)
    for tensor in part.inputs:
        assert again.spec(tensor).shape == part.spec(tensor).shape
        assert again.spec(tensor).dtype == part.spec(tensor).dtype
    read = {tensor for one in part.nodes for tensor in (*one.inputs, *one.outputs)}
    for tensor in part.weights.keys() & read:
        assert np.array_equal(part.weights[tensor].numpy(), again.weights[tensor].numpy(), equal_nan=True)
