"""The emulated device: an ONNX model with narrow storage after every fused op, its dumps, and its precision floors.

Each op of the device computes in float32 from what is stored, and what it makes is rounded to the device's dtype.
Weights are stored narrowly too (batch norm goes into them first). What steers an op (shapes, scales of a resize, limits
of a clip) stays exact, and so do integers and bools. It stands for no particular chip: it shows what storage in this
dtype alone does, and what a fault on top of it looks like.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acccmp import plugins
from acccmp.core.distance import distance
from acccmp.core.dump import Port
from acccmp.core.graph import Graph, Node
from acccmp.core.nouns import Noun
from acccmp.core.progress import Progress, counted, no_progress
from acccmp.core.reading import FilePath
from acccmp.core.writing import together
from acccmp.devices.device import DeviceRun
from acccmp.emulator import faults as faulty
from acccmp.emulator.dump_writer import DeviceFiles, Twin
from acccmp.emulator.faults import Fault
from acccmp.emulator.fusion import Plan, Step, attribute, plan
from acccmp.emulator.storage import Storage
from acccmp.errors import AcccmpError, InputError, RunError
from acccmp.inputs.files import Inputs, fed
from acccmp.models.load import MODEL
from acccmp.models.onnx import source_of
from acccmp.runners.onnxruntime import checked_inputs, element_type, onnxruntime, opened

__all__ = ["TWICE", "Fault", "Twin", "emulate", "floors"]
FAULT = Noun(Fault, Fault.parse)

Array = NDArray[Any]
Twice = Callable[[Graph, Mapping[str, Array], Storage], Iterator[tuple[Port, Array, Array]]]

# What runs a model of a format exactly and with narrow storage.
TWICE = {
    "onnx": "acccmp.emulator.emulate:run_twice", "tensorflow": "acccmp.emulator.stored_tensorflow:run_twice",
    "caffe": "acccmp.emulator.stored_caffe:run_twice",
}


def emulate(
    model: Graph | FilePath, inputs: Inputs, folder: FilePath, *, precision: str = "float16", overflow: str = "keep",
    flush_subnormals: bool = False, faults: Fault | str | Sequence[Fault | str] = (), dump_mode: str = "all",
    layout: str = "device", tree: bool = False, fuse: bool = True, name: str = "npu", summation: int | None = None,
    twin: Twin | None = None, progress: Progress = no_progress,
) -> DeviceRun:
    """Run an ONNX model (a Graph or a file) as a device would, and write what it would have dumped: the `Device` that
    is always at hand.

    `inputs` are arrays or files by the model's input names, or the only one. Every tensor is stored as `precision`
    (float16 or bfloat16); `overflow` "keep" keeps Inf and NaN, "saturate" makes them the largest number and 0;
    `faults` are planted: `Fault`s or their texts (`op=NAME,kind=KIND[,factor=F]`).

    Makes `folder/npu/` with one dump file per device op (`dump_mode` "output" leaves out the inputs; `tree` puts them
    into the folders time/device/model/id/step as a device does) and `folder/mapping.json` in the shape of ATC's JSON.
    `layout` "nd" keeps every tensor in its plain order, `fuse=False` every node its own op, `name` calls the dump
    folder otherwise. `summation` seeds another order of the sums in convolutions and matrix products. `twin` says what
    the nodes stand for when `model` is the ONNX twin of another one. The files are the same byte for byte every time.

    Raises InputError (inputs that do not fit, a fault that cannot be planted, a dump folder that is not empty) and
    RunError (an op that onnxruntime cannot run).

    >>> made = acccmp.emulate("resnet.onnx", "inputs/image.npy", "emulated", faults="op=fc,kind=zero")
    >>> acccmp.compare("resnet.onnx", made.dump, mapping=made.mapping).first_bad
    Comparison(fc:output:0, drift, error 0.545, limit 0.00312)
    """
    graph = MODEL.of(model)
    storage = Storage(precision, overflow, flush_subnormals)
    if dump_mode not in ("all", "output"):
        raise InputError(f"a dump mode is 'all' or 'output', not {dump_mode!r}")
    if layout not in ("device", "nd"):
        raise InputError(f"layout is 'device' or 'nd', not {layout!r}")
    machine = Machine(graph, plan(graph, fuse=fuse), summation)
    given = [faults] if isinstance(faults, Fault | str) else faults
    planted = faulty.place(tuple(FAULT.of(one) for one in given), graph, machine.plan)
    feeds = checked_inputs(graph, fed(graph, inputs).arrays)
    with together() as result:
        files = DeviceFiles(
            result, graph, Path(folder), storage.dtype, name=name, tree=tree, with_inputs=dump_mode == "all",
            blocked=layout == "device", twin=twin,
        )
        for tensor in graph.inputs:
            files.model_input(tensor, feeds[tensor], storage.round(feeds[tensor]))
        running = counted(machine.run(feeds, storage, planted), "emulating", len(machine.plan.steps), progress)
        for place, done in enumerate(running):
            if not done.step.folded:
                files.op(done.step, done.feeds, done.outputs)
            files.forget(tensor for tensor in done.step.reads if machine.last_use[tensor] <= place)
        outputs = {tensor: machine.left[tensor] for tensor in graph.outputs}
        files.model_outputs(outputs)
        dump, mapping = files.finish()
    return DeviceRun(dump, mapping, outputs, tuple(files.notes))


def floors(
    graph: Graph, inputs: Mapping[str, Array], precision: str = "float16", *, flush_subnormals: bool = False,
) -> dict[Port, float]:
    """What storage in `precision` alone does to each floating tensor of the original, on these inputs.

    The distance of a healthy emulated run from the exact run, for every output port and model input; NaN where no
    position is finite and where the golden is all zero and did not stay so (there is no relative floor). Tensors
    inside of fused ops are rounded for the measurement only. A chip that flushes subnormals has higher floors where
    weights are tiny, and must be asked for. Raises as the runner of the format does, and InputError for other formats.
    """
    if graph.format not in TWICE:
        raise InputError(f"{graph.name or 'this'} is {graph.format}: storage is emulated for {', '.join(TWICE)} only")
    storage = Storage(precision, flush_subnormals=flush_subnormals)
    twice: Twice = plugins.attribute(TWICE[graph.format])
    found = {
        port: distance(exact, npu)
        for port, exact, npu in twice(graph, inputs, storage) if exact.dtype.kind == "f"
    }
    return {port: math.nan if math.isinf(floor) else floor for port, floor in found.items()}


def run_twice(
    graph: Graph, inputs: Mapping[str, Array], storage: Storage,
) -> Iterator[tuple[Port, Array, Array]]:
    """Every output port and model input: exactly, and as the device would store it."""
    machine = Machine(graph, plan(graph))
    feeds = checked_inputs(graph, inputs)
    yield from ((Port(tensor, "output", 0), feeds[tensor], storage.round(feeds[tensor])) for tensor in graph.inputs)
    for golden, npu in machine.run_twice(feeds, storage):
        for node in golden.step.nodes:
            for index, tensor in enumerate(node.outputs):
                if tensor and tensor in golden.outputs:
                    yield Port(node.name, "output", index), golden.outputs[tensor], npu.outputs[tensor]


# -- running steps -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """A step that has run: what it read (constants as stored, batch norms folded into them) and what it made."""

    step: Step
    feeds: Mapping[str, Array]
    outputs: Mapping[str, Array]


class Machine:
    """Runs the steps of a plan one after the other; each step is a small ONNX model of its own.

    `last_use` is the place of the last step that reads a tensor; after a run, `left` holds the model's outputs.
    """

    def __init__(self, graph: Graph, steps: Plan, summation: int | None = None) -> None:
        if graph.format != "onnx":
            raise InputError(
                f"only ONNX models can be emulated, {graph.name or 'this'} is {graph.format}; "
                "make an ONNX twin with the same weights and layer names"
            )
        self.graph = graph
        self.plan = steps
        self.summation = summation
        self.left: dict[str, Array] = {}
        self._sessions = _Sessions(graph)
        self.last_use = {tensor: place for place, step in enumerate(steps.steps) for tensor in step.reads}
        self.last_use.update(dict.fromkeys(graph.outputs, len(steps.steps)))

    def run(
        self, feeds: Mapping[str, Array], storage: Storage, planted: Mapping[str, list[Fault]] | None = None,
        until: str | None = None,
    ) -> Iterator[Done]:
        """Each step with what it read and made, rounded; stops after the step named `until`."""
        planted = planted or {}
        values = {tensor: storage.round(array) for tensor, array in feeds.items()}
        constants: dict[str, Array] = {}
        for place, step in enumerate(self.plan.steps):
            if step.folded:
                made = self._folded(step, values, constants)
                yield Done(step, {}, made)
            else:
                ills = planted.get(step.name, [])
                ready = self._feeds(step, values, constants, storage, ills)
                made = self._sessions.run(step, ready, ills, step.makes)
                for fault in ills:
                    if faulty.KINDS[fault.kind].changes == "output":
                        before = self._before(step, feeds, storage) if fault.kind == "stale" else {}
                        made = {
                            tensor: faulty.spoil(fault, array, before.get(tensor), storage.dtype)
                            for tensor, array in made.items()
                        }
                made = {tensor: storage.round(array) for tensor, array in made.items()}
                values.update(made)
                yield Done(step, ready, made)
                if step.name == until:
                    return
            self._forget(values, constants, place)
        self.left = {tensor: values.get(tensor, feeds.get(tensor, np.empty(0))) for tensor in self.graph.outputs}

    def run_twice(self, feeds: Mapping[str, Array], storage: Storage) -> Iterator[tuple[Done, Done]]:
        """Each step run exactly and run as the device would, inner tensors of fused ops stored as well.

        What the model itself has as float16 is exact in float32: its own rounding is no less an error.
        """
        exact = {tensor: _widened(array) for tensor, array in feeds.items()}
        values = {tensor: storage.round(array) for tensor, array in feeds.items()}
        constants: dict[str, Array] = {}
        for place, step in enumerate(self.plan.steps):
            if step.folded:
                made = self._folded(step, exact, constants)
                yield Done(step, {}, made), Done(step, {}, {name: storage.round(made[name]) for name in made})
            else:
                inner = tuple(tensor for node in step.nodes for tensor in node.outputs if tensor)
                plain = Step(step.name, step.nodes)
                golden = self._sessions.run_wide(plain, self._exact(plain, exact, constants), inner)
                ready = self._feeds(step, values, constants, storage, [])
                npu = self._sessions.run(step, ready, [], inner)
                if step.hidden:  # a folded batch norm hides what the convolution made: run that part unfolded
                    alone = Step(f"{step.name} unfolded", (step.nodes[0], *step.norms[:-1]))
                    unfolded = self._feeds(alone, values, constants, storage, [])
                    npu.update(self._sessions.run(alone, unfolded, [], tuple(step.hidden)))
                npu = {tensor: storage.round(array) for tensor, array in npu.items()}
                yield Done(step, {}, golden), Done(step, ready, npu)
                exact.update({tensor: golden[tensor] for tensor in step.makes})
                values.update({tensor: npu[tensor] for tensor in step.makes})
            self._forget(values, constants, place)
            self._forget(exact, {}, place)

    # what a step is fed with

    def _constant(self, tensor: str, constants: Mapping[str, Array]) -> Array:
        if tensor in constants:
            return constants[tensor]
        if tensor not in self.graph.weights:
            raise RunError(f"{self.graph.name}: {tensor!r} is read, but no node, input or weight makes it")
        return np.asarray(self.graph.weights[tensor].numpy(), order="C")

    def _folded(self, step: Step, values: Mapping[str, Array], constants: dict[str, Array]) -> dict[str, Array]:
        made = self._sessions.run(step, self._exact(step, values, constants), [], step.makes)
        constants.update(made)
        return made

    def _exact(self, step: Step, values: Mapping[str, Array], constants: Mapping[str, Array]) -> dict[str, Array]:
        return {t: values[t] if t in values else self._constant(t, constants) for t in step.reads}

    def _feeds(
        self, step: Step, values: Mapping[str, Array], constants: Mapping[str, Array], storage: Storage,
        ills: Sequence[Fault],
    ) -> dict[str, Array]:
        """Everything that the step reads, as the device has it: constants spoilt, folded, rounded, in this order."""
        ready = self._exact(step, values, constants)
        fixed = [tensor for tensor in step.reads if tensor not in values]
        for fault in ills:
            if fault.kind == "bad-weight":
                tensor, axis = self._weight(fault, step, {tensor: ready[tensor] for tensor in fixed})
                ready[tensor] = faulty.spoil_weights(fault, ready[tensor], axis)
        for norm in step.norms:
            ready = _fold_norm(step, norm, ready, _epsilon(step, norm, ills))
        fixed = [tensor for tensor in ready if tensor not in values]
        for tensor in fixed:
            if not step.steers(tensor):
                ready[tensor] = storage.round(ready[tensor])
        if self.summation is not None:
            _reorder(step, ready, self.summation)
        return ready

    def _weight(self, fault: Fault, step: Step, fixed: Mapping[str, Array]) -> tuple[str, int]:
        """The largest constant floating tensor of the named node (else of its fused op), and its channel axis."""
        named = [node for node in step.nodes if node.name == fault.op]
        for nodes in (named, step.nodes):
            able = [
                (fixed[tensor].size, -slot, tensor, faulty.weight_axis(node, slot, fixed[tensor].ndim))
                for node in nodes for slot, tensor in enumerate(node.slots)
                if tensor in fixed and fixed[tensor].dtype.kind == "f" and not step.steers(tensor)
            ]
            if able:
                _, _, tensor, axis = max(able)
                return tensor, axis
        raise InputError(
            f"a bad-weight fault cannot be planted on {fault.op}: it has no floating weights; "
            f"it fits {faulty.KINDS['bad-weight'].fits}"
        )

    def _before(self, step: Step, feeds: Mapping[str, Array], storage: Storage) -> Mapping[str, Array]:
        """What `step` made for the frame before; nothing is remembered of that run."""
        other = Machine(self.graph, self.plan)
        last: Mapping[str, Array] = {}
        for done in other.run(faulty.mirrored(feeds), storage, until=step.name):
            last = done.outputs
        return last

    def _forget(self, values: dict[str, Array], constants: dict[str, Array], place: int) -> None:
        for held in (values, constants):
            for tensor in [t for t in held if self.last_use.get(t, -1) <= place]:
                del held[tensor]


def _scale_and_shift(norm: Node, ready: Mapping[str, Array], epsilon: float | None = None) -> tuple[Array, Array]:
    """A batch norm as y = x * scale + shift, in float64, per channel."""
    gamma, beta, mean, variance = (ready[tensor].astype(np.float64) for tensor in norm.inputs[1:5])
    scale = gamma / np.sqrt(variance + (float(attribute(norm, "epsilon", 1e-5)) if epsilon is None else epsilon))
    return scale, beta - mean * scale


def folded_bias(step: Step) -> str:
    """Name of the bias of a convolution that a batch norm was folded into."""
    convolution = step.nodes[0]
    own = convolution.inputs[2] if len(convolution.inputs) > 2 else ""
    return own or f"{convolution.outputs[0]}/bias"


def _fold_norm(step: Step, norm: Node, ready: Mapping[str, Array], epsilon: float | None) -> dict[str, Array]:
    """What the step reads once `norm` went into the weights and the bias of its convolution."""
    convolution = step.nodes[0]
    scale, shift = _scale_and_shift(norm, ready, epsilon)
    weight = ready[convolution.inputs[1]]
    bias_name = folded_bias(step)
    bias = ready[bias_name].astype(np.float64) if bias_name in ready else np.zeros_like(shift)
    axis = faulty.weight_axis(convolution, 1, weight.ndim)
    shape = tuple(-1 if place == axis else 1 for place in range(weight.ndim))
    later = {tensor for other in step.norms[step.norms.index(norm) + 1:] for tensor in other.inputs[1:]}
    out = {t: array for t, array in ready.items() if t not in norm.inputs[1:] or t in later}
    out[convolution.inputs[1]] = (weight * scale.reshape(shape)).astype(weight.dtype)
    out[bias_name] = (bias * scale + shift).astype(weight.dtype)
    return out


def _epsilon(step: Step, norm: Node, ills: Sequence[Fault]) -> float | None:
    """The epsilon of `norm` when a fault changes it."""
    for fault in ills:
        if fault.kind == "bn-eps" and faulty.normalisation(fault, step) is norm:
            return faulty.wrong_epsilon(fault, norm)
    return None


def _reorder(step: Step, ready: dict[str, Array], seed: int) -> None:
    """Shuffle the axis that is summed over, on both sides alike: the same sum in another order."""
    node = step.nodes[0]
    if node.op_type not in ("Conv", "MatMul", "Gemm") or len(node.inputs) < 2:
        return
    one, two = (ready[tensor] for tensor in node.inputs[:2])
    if node.op_type == "Conv":
        if attribute(node, "group", 1) != 1:
            return
        axes = (1, 1)
    elif node.op_type == "Gemm":
        axes = (0 if attribute(node, "transA", 0) else 1, 1 if attribute(node, "transB", 0) else 0)
    elif one.ndim >= 2 and two.ndim >= 2:
        axes = (one.ndim - 1, two.ndim - 2)
    else:
        return
    if node.inputs[0] == node.inputs[1]:
        return
    order = np.random.default_rng(seed).permutation(one.shape[axes[0]])
    ready[node.inputs[0]] = np.ascontiguousarray(np.take(one, order, axes[0]))
    ready[node.inputs[1]] = np.ascontiguousarray(np.take(two, order, axes[1]))


# -- onnxruntime -------------------------------------------------------------------------------------------------


class _Sessions:
    """Makes and runs the small models of steps."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def run(
        self, step: Step, feeds: Mapping[str, Array], ills: Sequence[Fault], wanted: Sequence[str],
    ) -> dict[str, Array]:
        """The tensors `wanted` of a step, not rounded. RunError where onnxruntime cannot run it."""
        changed = {fault.kind: fault for fault in ills if faulty.KINDS[fault.kind].changes == "op"}
        pool = next((n for n in step.nodes if n.op_type in faulty.POOLS), None)
        moved = None
        if "ceil-mode" in changed and pool is not None:
            moved = faulty.other_rounding(changed["ceil-mode"], pool, feeds[pool.inputs[0]].shape)
        names = tuple(name for name in wanted if name not in step.hidden)
        types = tuple((tensor, element_type(array)) for tensor, array in feeds.items())
        try:
            session = self._session(step, types, names, changed, moved)
            results = session.run(list(names), dict(feeds))
        except AcccmpError:
            raise
        except Exception as error:  # onnxruntime's errors have no common parent below Exception
            ops = ", ".join(f"{node.name} ({node.op_type})" for node in step.nodes)
            raise RunError(f"{ops} could not be run by onnxruntime: {_first_line(error)}") from error
        out = dict(zip(names, results, strict=True))
        for tensor, array in out.items():
            if not isinstance(array, np.ndarray):
                raise RunError(f"{step.nodes[-1].name} makes {tensor}, which is no tensor: it cannot be emulated")
        if moved is not None:
            out = {tensor: _cut_pool(array, moved) for tensor, array in out.items()}
        return out

    def run_wide(self, step: Step, feeds: Mapping[str, Array], wanted: Sequence[str]) -> dict[str, Array]:
        """The tensors `wanted` of a step, computed in float32 where the model has float16.

        A step that cannot be widened (its bodies or attributes say float16) is run as it is. RunError as in `run`.
        """
        given = {tensor: _widened(array) for tensor, array in feeds.items()}
        narrow = {
            tensor: array.astype(np.float16) for tensor, array in given.items()
            if array.dtype == np.float32 and self._is_half(tensor)
        }
        if not narrow:
            return self.run(step, given, [], wanted)
        try:
            types = tuple((tensor, element_type(array)) for tensor, array in given.items())
            results = self._session(step, types, wanted, {}, None, wide=True).run(list(wanted), given)
            return dict(zip(wanted, results, strict=True))
        except Exception:  # as in `run`
            made = self.run(step, {**given, **narrow}, [], wanted)
            return {tensor: _widened(array) for tensor, array in made.items()}

    def _is_half(self, tensor: str) -> bool:
        dtype = self._graph.spec(tensor).dtype
        return dtype is not None and dtype.name == "float16"

    def _session(
        self, step: Step, types: Sequence[tuple[str, int]], names: Sequence[str], changed: Mapping[str, Fault],
        moved: faulty.Misplaced | None, wide: bool = False,
    ) -> Any:
        import onnx

        nodes = []
        for node in step.nodes:
            if any(node is norm for norm in step.norms):
                continue
            proto = onnx.NodeProto()
            proto.CopyFrom(node.source)
            if "bn-eps" in changed and node is faulty.normalisation(changed["bn-eps"], step):
                _set_attribute(proto, "epsilon", faulty.wrong_epsilon(changed["bn-eps"], node))
            if moved is not None and moved.pads is not None and node.op_type in faulty.POOLS:
                _set_attribute(proto, "pads", list(moved.pads))
                _set_attribute(proto, "auto_pad", "NOTSET")
            if wide and node.op_type == "Cast" and attribute(node, "to", 1) == onnx.TensorProto.FLOAT16:
                _set_attribute(proto, "to", onnx.TensorProto.FLOAT)
            nodes.append(proto)
        if step.norms:
            first = nodes[0]
            del first.input[2:]
            first.input.append(folded_bias(step))
            first.output[0] = step.norms[-1].outputs[0]
        graph = onnx.GraphProto(name="step", node=nodes)
        for tensor, kind in types:
            graph.input.add(name=tensor).type.tensor_type.elem_type = kind
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        own = source_of(self._graph)
        model = onnx.ModelProto(ir_version=min(own.model.ir_version, 10), graph=graph)
        model.opset_import.extend(own.model.opset_import)
        model.functions.extend(own.model.functions)
        return opened(onnxruntime("emulating a device"), model, own.path.parent, threads=1)


def _widened(array: Array) -> Array:
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _set_attribute(proto: Any, name: str, value: Any) -> None:
    import onnx

    kept = [item for item in proto.attribute if item.name != name]
    del proto.attribute[:]
    proto.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])


def _cut_pool(array: Array, moved: faulty.Misplaced) -> Array:
    out = array[(slice(None), slice(None), *(slice(0, size) for size in moved.sizes))].copy()
    for axis, lost in enumerate(moved.missing):
        if lost:
            out[(slice(None),) * (2 + axis) + (slice(out.shape[2 + axis] - lost, None),)] = 0
    return out


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
