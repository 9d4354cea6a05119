"""ONNX Runtime: every tensor of every layer in one run, with its optimisations off.

Optimised or not moves inner tensors by up to 2.5e-4; asking for all of them moves nothing. So all node outputs are made
outputs of the model, and the model is run once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acccmp.core.dump import Port
from acccmp.core.graph import Graph, Node
from acccmp.core.tensor import dtype_of
from acccmp.errors import InputError, RunError
from acccmp.inputs.files import check_symbols
from acccmp.models.onnx import TYPE_NUMBER, model_proto, source_of
from acccmp.models.onnx_file import follow_links
from acccmp.plugins import need
from acccmp.runners.runner import Captured, asked, check_names, check_shape, installed, needed

Array = NDArray[Any]

NAME = "onnxruntime"

_MOST_TRIES = 64  # kinds of operators that one model may have and onnxruntime not

# Types that numpy lacks: fetched through a Cast to the first, given back as the second (a name in ml_dtypes).
_THROUGH = {
    "tensor(bfloat16)": (1, "bfloat16"), "tensor(float8e4m3fn)": (1, "float8_e4m3fn"),
    "tensor(float8e5m2)": (1, "float8_e5m2"), "tensor(float8e4m3fnuz)": (1, "float8_e4m3fnuz"),
    "tensor(float8e5m2fnuz)": (1, "float8_e5m2fnuz"), "tensor(float8e8m0)": (1, "float8_e8m0fnu"),
    "tensor(float4e2m1)": (1, "float4_e2m1fn"), "tensor(int4)": (3, "int4"), "tensor(uint4)": (2, "uint4"),
    "tensor(int2)": (3, "int2"), "tensor(uint2)": (2, "uint2"),
}


def run(
    graph: Graph, inputs: Mapping[str, Array], wanted: Collection[str] | None = None,
) -> Captured:
    """Run an ONNX model, or a part of one, and capture the tensors `wanted` (None: all), in order of execution.

    `inputs` maps each of `graph.inputs` to an array. Only nodes that `wanted` depends on are run. Values inside the
    bodies of If, Loop, Scan and functions, sequences and texts are in `skipped` with the reason. Nodes that
    onnxruntime cannot run, and everything below them, are left out and in `skipped` as well; they are a RunError that
    names domain and op when nothing that is wanted can be computed. Raises MissingExtra, InputError, RunError.
    """
    ort = onnxruntime()
    feeds = checked_inputs(graph, inputs)
    check_names(graph, inputs, wanted)
    targets = asked(graph, wanted)
    above = needed(graph, targets)
    plan = _Plan(
        tuple(node for node in graph.nodes if node.name in above), dict(_hidden(graph) if wanted is None else ()),
    )
    plan, values = _computed(ort, graph, plan, feeds, targets)
    return _captured(ort, graph, plan, feeds, values, targets)


def version() -> str:
    return installed("onnxruntime", "onnxruntime-gpu")


def onnxruntime(what_for: str = "running an ONNX model") -> Any:
    """The package. MissingExtra without it."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return need("onnxruntime", what_for)


# -- inputs ------------------------------------------------------------------------------------------------------


def checked_inputs(graph: Graph, inputs: Mapping[str, Any]) -> dict[str, Array]:
    """`inputs` as arrays of the model's dtypes, in the order of `graph.inputs`.

    A dtype is changed only where every value survives (float16 to float32, int32 to int64). Sizes of the same symbolic
    name must agree. Raises InputError where an input is missing, not known, of another dtype or of another shape.
    """
    check_names(graph, inputs)
    feeds = {}
    for name in graph.inputs:
        array = _of_dtype(graph, name, np.asarray(inputs[name]))
        check_shape(graph.spec(name), array)
        feeds[name] = array
    check_symbols(graph, feeds)
    return feeds


def _of_dtype(graph: Graph, name: str, array: Array) -> Array:
    wanted = graph.spec(name).dtype
    if wanted is None:
        return array
    try:
        found = dtype_of(array.dtype)
    except KeyError:
        if wanted.name == "string":
            return array.astype(object)
        raise InputError(f"the input {name} is {array.dtype}, wanted is {wanted}") from None
    if found == wanted:
        return np.asarray(array, order="C")
    if wanted.name == "bfloat16" and array.dtype == np.float32:
        import ml_dtypes

        narrow = array.astype(ml_dtypes.bfloat16)
        if np.array_equal(narrow.astype(np.float32), array, equal_nan=True):
            return narrow
    if wanted.numpy is None or not np.can_cast(array.dtype, wanted.numpy, "safe") or wanted.name == "bfloat16":
        raise InputError(f"the input {name} is {found}, wanted is {wanted}; convert it first")
    return np.asarray(array.astype(wanted.numpy), order="C")


# -- what is run -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """The nodes that are run, and why tensors are not captured."""

    nodes: tuple[Node, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    through: Mapping[str, str] = field(default_factory=dict)  # tensor -> its type, where numpy lacks it
    not_tensors: Mapping[str, str] = field(default_factory=dict)

    @property
    def makes(self) -> set[str]:
        return {tensor for node in self.nodes for tensor in node.outputs if tensor}


def _hidden(graph: Graph) -> Iterator[tuple[str, str]]:
    """Tensors that lie inside nodes, and why they cannot be captured."""
    for node in graph.nodes:
        for which, body in node.subgraphs.items():
            where = f"inside the function {node.op_type} that {node.name} calls" if _is_call(node) else (
                f"inside the {which} of {node.name} ({node.op_type})"
            )
            for tensor in _inside(body):
                yield f"{node.name}/{which}/{tensor}", f"{where}: onnxruntime gives no tensors from there"


def _is_call(node: Node) -> bool:
    """Does the node call a local function? (Loop, Scan and SequenceMap have a body of their own.)"""
    return "body" in node.subgraphs and (bool(node.domain) or node.op_type not in ("Loop", "Scan", "SequenceMap"))


def _inside(body: Graph) -> Iterator[str]:
    for node in body.nodes:
        yield from (tensor for tensor in node.outputs if tensor)
        for which, inner in node.subgraphs.items():
            yield from (f"{node.name}/{which}/{tensor}" for tensor in _inside(inner))


def _without(plan: _Plan, bad: Collection[str], reason: str) -> _Plan:
    """The plan without the nodes `bad` and what depends on them."""
    lost = dict(plan.skipped)
    gone: dict[str, str] = {}
    kept = []
    for node in plan.nodes:
        if node.name in bad:
            why = f"{_op(node)} {node.name}: {reason}"
        else:
            above = next((gone[tensor] for tensor in node.slots if tensor in gone), None)
            if above is None:
                kept.append(node)
                continue
            why = above
        for tensor in node.outputs:
            if tensor:
                gone[tensor] = why if why.startswith("below ") else f"below {why}"
                lost[tensor] = why
    return replace(plan, nodes=tuple(kept), skipped=lost)


def _op(node: Node) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


# -- running it --------------------------------------------------------------------------------------------------


def _computed(
    ort: Any, graph: Graph, plan: _Plan, feeds: Mapping[str, Array], targets: Collection[str],
) -> tuple[_Plan, dict[str, Any]]:
    """The values of the targets that can be computed; the plan says which cannot, and why."""
    for _ in range(_MOST_TRIES):
        asked = [tensor for tensor in targets if tensor in plan.makes and tensor not in plan.not_tensors]
        if not asked:
            if targets and any(tensor in plan.skipped for tensor in targets):
                first = next(plan.skipped[tensor] for tensor in targets if tensor in plan.skipped)
                raise RunError(f"{graph.name}: nothing of what is wanted can be computed: {first}")
            return plan, {}
        try:
            session = _session(ort, graph, plan, asked, feeds)
        except (RunError, NameError, AttributeError):
            raise  # ours, or a mistake of ours
        except Exception as error:  # onnxruntime's errors have no common parent below Exception
            bad = _unknown_nodes(plan, str(error))
            why = _why(str(error))
            if not bad:
                raise RunError(f"{graph.name}: onnxruntime cannot load it: {why}") from error
            node = next(node for node in plan.nodes if node.name in bad)
            plan = _without(plan, bad, "onnxruntime has no such operator, or not for its types")
            plan = replace(plan, notes=(*plan.notes, f"not run: {len(bad)} nodes of type {_op(node)}, which "
                                                     "onnxruntime does not have, and what lies below them"))
            continue
        again = _retyped(session, plan, asked)
        if again is not None:
            plan = again
            continue
        return plan, _values(ort, graph, plan, session, asked, feeds)
    raise RunError(f"{graph.name}: more than {_MOST_TRIES} kinds of operators are not known to onnxruntime")


_NO_OP = re.compile(r"(?:([\w.\-]*):)?([\w.\-]+)\((?:-1|\d+)\) is not a registered function/op")
_NO_KERNEL = re.compile(
    r"(?:Could not find an implementation for|NOT_IMPLEMENTED.*?) ([\w.\-]+)\(\d+\) node with name '([^']*)'"
)
_NO_DOMAIN = re.compile(r"(?:[Nn]o opset import for domain|opset import for domain)\W+'?([\w.\-]+)")
_NEWEST_IR = re.compile(r"max supported IR version: (\d+)")


def _unknown_nodes(plan: _Plan, message: str) -> set[str]:
    """The nodes that an error of onnxruntime is about: an operator that it does not have."""
    kernel = _NO_KERNEL.search(message)
    if kernel is not None:
        by_name = {node.name for node in plan.nodes if node.name == kernel[2]}
        return by_name or {node.name for node in plan.nodes if _has(node, None, kernel[1])}
    missing = _NO_OP.search(message)
    if missing is not None:
        return {node.name for node in plan.nodes if _has(node, missing[1] or "", missing[2])}
    domain = _NO_DOMAIN.search(message)
    if domain is not None:
        return {node.name for node in plan.nodes if _has(node, domain[1], None)}
    return set()


def _has(node: Node, domain: str | None, op_type: str | None) -> bool:
    """Is it such a node, or does it hold one in a body? `None` is any."""
    domain = "" if domain == "ai.onnx" else domain
    if domain in (None, node.domain) and op_type in (None, node.op_type) and not _is_call(node):
        return True
    return any(_has(inner, domain, op_type) for body in node.subgraphs.values() for inner in body.nodes)


def _why(message: str) -> str:
    """The part of an error of onnxruntime that says something, in one line."""
    text = " ".join(message.split())
    for noise in (r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", r"Load model from .*? failed:", r"^Exception during \w+: ",
                  r"/[\w/.\-]+\.(cc|h|hpp):\d+ ", r"onnxruntime::[\w:<>]+\([^)]*\) "):
        text = re.sub(noise, "", text)
    return text[:300]


def _session(ort: Any, graph: Graph, plan: _Plan, asked: Sequence[str], feeds: Mapping[str, Array]) -> Any:
    import onnx

    made = plan.makes
    names = [node.name for node in plan.nodes]
    part = graph if len(names) == len(graph.nodes) else graph.keep(names, outputs=())
    model = model_proto(replace(part, inputs=tuple(t for t in graph.inputs if t in feeds), outputs=()))
    for value in model.graph.input:
        kind = value.type.tensor_type
        if value.name in feeds and not value.type.WhichOneof("value"):
            kind.elem_type = element_type(feeds[value.name])
    for tensor in asked:
        if tensor in plan.through:
            number, _ = _THROUGH[plan.through[tensor]]
            cast = onnx.helper.make_node("Cast", [tensor], [_fetched(tensor, made)], to=number)
            model.graph.node.append(cast)
        model.graph.output.add(name=_fetched(tensor, made) if tensor in plan.through else tensor)
    return opened(ort, model, follow_links(model, source_of(graph).path))


def opened(ort: Any, model: Any, folder: Path, threads: int = 0) -> Any:
    """A session of a model in memory whose external data lie in `folder`, nothing in it optimised.

    One of `threads` = 1 adds up in the same order on every machine; 0 takes as many as there are.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.add_session_config_entry(*_external_folder(folder))
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common parent below Exception
        newest = _NEWEST_IR.search(str(error))
        if newest is None:
            raise
        model.ir_version = int(newest[1])  # a newer exporter; the operators are those of the opset all the same
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _external_folder(folder: Path) -> tuple[str, str]:
    """The setting of a session that says where the data of a model lie that comes from memory itself. (Where a name is
    no text for onnxruntime, `acccmp.models.onnx_file` leaves no data in the file.)"""
    return "session.model_external_initializers_file_folder_path", str(folder).encode("utf-8", "replace").decode()


def _fetched(tensor: str, made: Collection[str]) -> str:
    name = f"{tensor}/as numbers"
    while name in made:
        name += "_"
    return name


def element_type(array: Array) -> int:
    """ONNX's number for the dtype of an array."""
    try:
        return TYPE_NUMBER[dtype_of(array.dtype).name]
    except KeyError:
        return 8  # text


def _retyped(session: Any, plan: _Plan, asked: Sequence[str]) -> _Plan | None:
    """The plan with what the session tells of types that cannot be fetched as they are; None if it tells nothing."""
    through, others = dict(plan.through), dict(plan.not_tensors)
    skipped = dict(plan.skipped)
    for tensor, output in zip(asked, session.get_outputs(), strict=True):
        if tensor in plan.through:
            continue
        if output.type in _THROUGH:
            through[tensor] = output.type
        elif not output.type.startswith("tensor(") or output.type == "tensor(string)":
            others[tensor] = output.type
            skipped[tensor] = f"is a {output.type}, not a tensor of numbers"
    if (through, others) == (plan.through, plan.not_tensors):
        return None
    return replace(plan, through=through, not_tensors=others, skipped=skipped)


def _values(
    ort: Any, graph: Graph, plan: _Plan, session: Any, asked: Sequence[str], feeds: Mapping[str, Array],
) -> dict[str, Any]:
    names = [output.name for output in session.get_outputs()]
    wanted = {value.name for value in session.get_inputs()}
    try:
        results = session.run(names, {name: _feed(ort, array) for name, array in feeds.items() if name in wanted})
    except Exception as error:  # onnxruntime's errors have no common parent below Exception
        raise RunError(f"{graph.name}: {_failed_node(str(error))}{_why(str(error))}") from error
    out = {}
    for tensor, value in zip(asked, results, strict=True):
        if tensor in plan.through:
            value = _back(value, _THROUGH[plan.through[tensor]][1])
        out[tensor] = value
    return out


def _feed(ort: Any, array: Array) -> Any:
    if array.dtype.kind == "V" or array.dtype.name == "bfloat16":  # numpy's own types are fed as they are
        kind = element_type(array)
        raw = array.view(np.uint8 if array.dtype.itemsize == 1 else np.uint16)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(raw, kind)
    return array


def _back(array: Array, name: str) -> Array:
    import ml_dtypes

    kind = getattr(ml_dtypes, name, None)
    return array if kind is None else array.astype(kind)


def _failed_node(message: str) -> str:
    found = re.search(r"while running (\w+) node\. Name:'([^']*)'", message)
    if found is None:
        return "onnxruntime cannot run it: "
    return f"onnxruntime cannot run {found[2]} ({found[1]}): "


# -- what comes home ---------------------------------------------------------------------------------------------


def _captured(
    ort: Any, graph: Graph, plan: _Plan, feeds: Mapping[str, Array], values: Mapping[str, Any], targets: Iterable[str],
) -> Captured:
    tensors: dict[Port, Array] = {Port(name, "output", 0): array for name, array in feeds.items()}
    skipped = dict(plan.skipped)
    for tensor in targets:
        port = graph.producer(tensor)
        if tensor not in values or port is None:
            continue
        if values[tensor] is None:
            skipped[tensor] = "is empty: an optional value that was not given"
        else:
            tensors[port] = np.asarray(values[tensor])
    return Captured(tensors, NAME, str(ort.__version__), skipped, plan.notes)
