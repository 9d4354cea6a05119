"""A TensorFlow graph as a device stores it: in one session, with casts to the narrow type and back where tensors are
stored, and with weights as they are deployed.

What is stored narrowly are the results of fused ops, not what is inside of them, and every constant that takes part in
the arithmetic. Batch norms are folded into the weights before these are stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acccmp.core.dump import Port
from acccmp.core.graph import Graph, Node
from acccmp.core.tensor import DTYPES, dtype_of
from acccmp.core.writing import scratch, write_bytes
from acccmp.emulator.fusion import BATCH_NORMS, Plan, Step, attribute, plan, unique
from acccmp.emulator.storage import Storage
from acccmp.errors import RunError
from acccmp.models.tensorflow import graph_def, load
from acccmp.models.tensorflow_values import data_type_number
from acccmp.runners.tensorflow import freeze, run

Array = NDArray[Any]

# They pass on what was stored before, and a loop's way back must not lead through anything else. TensorArrays too: what
# they call flow is no data.
_PASS_ON = frozenset(
    f"{ref}{name}" for ref in ("", "Ref") for name in ("Switch", "Merge", "Enter", "Exit", "NextIteration")
)
_EPSILON = 1e-4  # what FusedBatchNorm takes where the file says nothing
_HALF, _FLOAT = (data_type_number(DTYPES[name]) for name in ("float16", "float32"))


def run_twice(
    graph: Graph, inputs: Mapping[str, Array], storage: Storage,
) -> Iterator[tuple[Port, Array, Array]]:
    """Each floating tensor as the original has it and as the device would store it, inner tensors of fused ops
    included.

    What the model itself has as float16 is float32 in both: its own rounding is no less an error. A SavedModel, or a
    graph with functions, is frozen first. Raises as the runner does.
    """
    original = graph
    inputs = {name if name in graph.inputs else f"{name}:0": array for name, array in inputs.items()}
    with scratch() as folder:
        if graph.source.tags is not None or graph.source.functions:
            graph = load(freeze(graph, folder / "frozen.pb"))
            inputs = {name: array for name, array in inputs.items() if name in graph.inputs}
        graph = _widened(graph, folder / "wide.pb")
        captured = run(graph, inputs).tensors
        exact = {graph.tensor(port) or port.node: array for port, array in captured.items()}
        device = _loaded(_Device(graph, plan(graph), storage, exact).message, folder / "stored.pb")
        made = {tensor for node in device.nodes for tensor in node.outputs}
        wanted = [tensor for tensor, array in exact.items() if array.dtype.kind == "f" and tensor in made]
        rounded = {name: storage.round(np.asarray(array)) for name, array in inputs.items()}
        for port, array in run(device, rounded, wanted).tensors.items():
            tensor = device.tensor(port) or port.node
            yield original.producer(tensor) or graph.producer(tensor) or port, exact[tensor], storage.round(array)


def _loaded(message: Any, path: Path) -> Graph:
    try:
        raw = message.SerializeToString(deterministic=True)
    except ValueError as error:  # over 2 GB
        raise RunError(f"with casts and folded weights it is too large for one session: {error}") from None
    write_bytes(path, raw)
    return load(path)


def _widened(graph: Graph, path: Path) -> Graph:
    """The graph in float32 where it has float16."""
    if not any(spec.dtype is not None and spec.dtype.name == "float16" for spec in graph.tensors.values()):
        return graph
    message = graph_def(graph)
    for node in message.node:
        for name, value in node.attr.items():
            if value.WhichOneof("value") == "tensor" and value.tensor.dtype == _HALF:
                _put(value.tensor, graph.weights[f"{node.name}:0"].numpy().astype(np.float32))
            elif value.type == _HALF:
                node.attr[name].type = _FLOAT
            elif _HALF in value.list.type:
                value.list.type[:] = [_FLOAT if kind == _HALF else kind for kind in value.list.type]
    return _loaded(message, path)


def _put(proto: Any, array: Array) -> None:
    """An array as TensorFlow's TensorProto."""
    proto.Clear()
    proto.dtype = data_type_number(dtype_of(array.dtype))
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    proto.tensor_content = np.ascontiguousarray(array).tobytes()


class _Device:
    """The graph's message with the casts and the folded weights of a device. `values` are the tensors of an exact run
    (constants among them)."""

    def __init__(self, graph: Graph, steps: Plan, storage: Storage, values: Mapping[str, Array]) -> None:
        self.message = graph_def(graph)
        self._graph, self._storage, self._values = graph, storage, values
        self._nodes = {node.name: node for node in self.message.node}
        self._names = set(self._nodes)
        self._stored: dict[str, str] = {}  # tensor -> how readers refer to it once it was stored
        kept = {
            tensor for step in steps.steps if not step.folded and not _passes_on(step.nodes[-1])
            for tensor in step.makes if self._float(tensor)
        } - set(graph.inputs)
        for step in steps.steps:
            if step.folded:
                continue
            fixed = {t for t in step.reads if t in steps.constants and self._float(t) and not step.steers(t)}
            for node in step.nodes:
                self._read(node, kept | fixed)
            if step.norms:
                self._fold(step)

    def _float(self, tensor: str) -> bool:
        dtype = self._graph.spec(tensor).dtype
        return dtype is not None and dtype.name in ("float32", "float64")

    def _read(self, node: Node, stored: set[str]) -> None:
        """Let `node` read those tensors of its inputs that are `stored` as they are stored."""
        written = self._nodes[node.name]
        data = [place for place, name in enumerate(written.input) if not name.startswith("^")]
        for tensor, place in zip(node.inputs, data, strict=True):
            if tensor in stored:
                written.input[place] = self._as_stored(tensor, written.input[place])

    def _as_stored(self, tensor: str, reference: str) -> str:
        if tensor not in self._stored:
            self._stored[tensor] = self._casts(tensor, reference)
        return self._stored[tensor]

    def _casts(self, tensor: str, reference: str) -> str:
        """Nodes that make of a tensor what it is once stored; the name of the last one."""
        own = data_type_number(self._graph.spec(tensor).dtype or DTYPES["float32"])
        narrow = data_type_number(self._storage.dtype)
        base = reference.replace(":", "_")
        there = self._add("Cast", f"{base}/narrow", reference, SrcT=own, DstT=narrow)
        back = self._add("Cast", f"{base}/stored", there, SrcT=narrow, DstT=own)
        if not self._storage.flush_subnormals:
            return back
        least = np.asarray(self._storage.dtype.smallest_normal, np.float32 if own == _FLOAT else np.float64)
        size = self._add("Abs", f"{base}/size", back, T=own)
        limit = self._constant(f"{base}/least", least, f"^{size}")  # the edge puts it into the same loop
        normal = self._add("GreaterEqual", f"{base}/normal", size, limit, T=own)
        factor = self._add("Cast", f"{base}/factor", normal, SrcT=data_type_number(DTYPES["bool"]), DstT=own)
        return self._add("Mul", f"{base}/flushed", back, factor, T=own)

    def _fold(self, step: Step) -> None:
        """The last batch norm of a step becomes the bias of its convolution, whose weights are folded. What a device
        never makes stays as it was, with weights stored unfolded, and so does a step inside of a loop."""
        convolution, last = step.nodes[0], step.norms[-1]
        before = step.nodes[1:step.nodes.index(last) + 1]
        constants = [convolution.inputs[1], *(tensor for node in before for tensor in node.inputs[1:])]
        if any(tensor not in self._values for tensor in constants):
            return
        scale, shift = self._scale_and_shift(before)
        weight = self._values[convolution.inputs[1]]
        axes = weight.shape[-2:] if convolution.op_type.startswith("Depthwise") else weight.shape[-1:]
        folded = (weight * scale.reshape(axes)).astype(weight.dtype)
        alone = self.message.node.add()
        alone.CopyFrom(self._nodes[convolution.name])
        alone.name = unique(f"{last.name}/folded", self._names)
        alone.input[1] = self._constant(f"{last.name}/weights", self._storage.round(folded))
        bias = self._constant(f"{last.name}/bias", self._storage.round(shift.astype(weight.dtype)))
        written = self._nodes[last.name]
        written.op = "BiasAdd"
        written.input[:] = [alone.name, bias, *(name for name in written.input if name.startswith("^"))]
        for name in [name for name in written.attr if name not in ("T", "data_format")]:
            del written.attr[name]

    def _scale_and_shift(self, nodes: Sequence[Node]) -> tuple[Array, Array]:
        """Biases and batch norms one after the other as y = x * scale + shift, in float64, per channel."""
        scale, shift = np.ones(1), np.zeros(1)
        for node in nodes:
            numbers = [self._values[tensor].astype(np.float64) for tensor in node.inputs[1:]]
            if node.op_type in BATCH_NORMS:
                gamma, beta, mean, variance = numbers
                factor = gamma / np.sqrt(variance + attribute(node, "epsilon", _EPSILON))
                scale, shift = scale * factor, (shift - mean) * factor + beta
            else:
                shift = shift + numbers[0]
        return scale, shift

    def _add(self, op: str, name: str, *inputs: str, **types: int) -> str:
        node = self.message.node.add(op=op, name=unique(name, self._names), input=inputs)
        for key, number in types.items():
            node.attr[key].type = number
        return str(node.name)

    def _constant(self, name: str, array: Array, *control: str) -> str:
        name = self._add("Const", name, *control, dtype=data_type_number(dtype_of(array.dtype)))
        _put(self.message.node[-1].attr["value"].tensor, array)
        return name


def _passes_on(node: Node) -> bool:
    return node.op_type in _PASS_ON or "TensorArray" in node.op_type
