"""Golden runs of TensorFlow graphs: every tensor that has a value outside loops and functions, in one session run.

TensorFlow is imported when the first graph is run. Its graph rewriting (grappler) is off, so that every tensor is
there to be fetched, and so is oneDNN, whose results differ by rounding; but graphs in NCHW only run with oneDNN on a
CPU. Both switches of oneDNN belong to the process: the first graph decides.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import uuid
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from acccmp.core.dump import Port
from acccmp.core.graph import Graph, Node
from acccmp.core.reading import check_tree
from acccmp.core.writing import scratch, write_bytes
from acccmp.errors import FormatError, InputError, MissingExtra, RunError, SliceError, UnknownName
from acccmp.models.tensorflow import graph_def, load
from acccmp.models.tensorflow_write import STANDS_FOR, called_in, loop_around
from acccmp.runners.runner import Captured, check_shape, installed

Arrays = dict[str, np.ndarray[Any, Any]]

_SWITCHES = ("Switch", "RefSwitch")
_WINDOWED = ("Conv", "Pool", "FusedBatchNorm", "Depthwise")  # ops that Eigen's CPU kernels have in NHWC only


def run(graph: Graph, inputs: Mapping[str, Any], wanted: Collection[str] | None = None) -> Captured:
    """Run `graph`, fed with `inputs` (tensor or Placeholder name -> array), and bring home every tensor it computes.

    Left out, with the reason in `skipped`: tensors inside V1 loops (only what leaves through Exit has a value), dead
    branches of V1 conds, strings and handles, and what hangs on ops that this TensorFlow does not have. Random ops
    without a seed get one made from their name, so that a part of the model draws the same numbers as the whole. A
    SavedModel, or a graph with functions, is run as it is and once more with its functions inlined: tensors of bodies
    are then there under the names that freezing gives them (`call/inner:0`).

    `wanted` are the tensor names to bring home (None: all). Raises MissingExtra, InputError (inputs that are missing or
    do not fit), UnknownName, RunError.
    """
    if graph.format != "tensorflow":
        raise RunError(f"{graph.name}: a {graph.format} graph does not run in TensorFlow")
    asked = None if wanted is None else {name if ":" in name else f"{name}:0" for name in wanted}
    feeds = _feeds(graph, inputs)
    tf, notes = _tensorflow(graph)
    if graph.source.tags is None and not graph.source.functions:
        return _run_plain(tf, graph, feeds, asked, notes)
    with scratch() as folder:
        return _run_inlined(tf, graph, feeds, asked, notes, folder)


def version() -> str:
    return installed("tensorflow-cpu", "tensorflow")


def freeze(graph: Graph, path: str | Path) -> Path:
    """Write a SavedModel (or a graph with functions) as a frozen `.pb` at `path`: variables as constants, functions
    inlined, trimmed to what its outputs need. That is the form to slice. Raises MissingExtra, RunError."""
    tf, _ = _tensorflow(graph)
    target = Path(path)
    message = _without_variables(tf, graph)
    if message.library.function:
        message = _inlined(tf, message, graph)
    write_bytes(target, message.SerializeToString(deterministic=True))
    return target


# -- TensorFlow itself -------------------------------------------------------------------------------------------


def _tensorflow(graph: Graph) -> tuple[Any, list[str]]:
    """The module, quiet, with oneDNN as this graph needs it; and what there is to say about that."""
    channels_first = any(
        str(node.attrs.get("data_format", "")).startswith("NC") and any(word in node.op_type for word in _WINDOWED)
        for node in graph.nodes
    )
    notes = []
    if "tensorflow" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1" if channels_first else "0")
    try:
        import tensorflow as tf
    except ModuleNotFoundError as error:
        if error.name != "tensorflow":
            raise
        raise MissingExtra("tensorflow-cpu", "tf", f"running {graph.name}") from None
    one_dnn = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1") != "0"
    if channels_first and one_dnn:
        notes.append("the graph is NCHW, which a CPU only runs with oneDNN: results differ from others by rounding")
    elif channels_first:
        notes.append(
            "the graph is NCHW, which a CPU only runs with oneDNN, and oneDNN is off in this process; "
            "run it in a process of its own, or with TF_ENABLE_ONEDNN_OPTS=1"
        )
    return tf, notes


@contextmanager
def _session(tf: Any, message: Any) -> Iterator[Any]:
    """A new session for a GraphDef of TensorFlow's, with every rewriting off, on the CPU."""
    config = tf.compat.v1.ConfigProto(device_count={"GPU": 0})
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    with tf.Graph().as_default() as native:
        tf.import_graph_def(message, name="")
        with tf.compat.v1.Session(graph=native, config=config) as session:
            yield session


@contextmanager
def _quiet() -> Iterator[None]:
    """TensorFlow's own logger kept to errors (freezing a SavedModel warns of ways that still work)."""
    logger = logging.getLogger("tensorflow")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _one_line(error: BaseException) -> str:
    text = str(getattr(error, "message", "") or error)
    told = re.search(r"Node: '[^']*'\n(.*)|\(0\) \w+: (.*)", text)  # what failed, after pages about where
    text = next((part for part in told.groups() if part), text) if told else text
    text = re.split(r"\n\n|\nErrors may have originated|\n\t ?\[\[|\[\[\{\{|\n\nOriginal stack|Defined at", text)[0]
    text = re.sub(r"\{\{function_node [^}]*\}\}|\{\{node ([^}]*)\}\}", r"\1", text)
    return " ".join(text.split())[:300]


def _failed_at(error: BaseException, graph: Graph) -> str:
    """` at NODE (OP)` if the error says where."""
    named = getattr(getattr(error, "op", None), "name", None)
    found = [named] if named else re.findall(r"\{\{node ([^}]+)\}\}", str(error))
    name = next((name for name in found if name in graph), None)
    return f" at {name} ({graph[name].op_type})" if name else ""


# -- one graph ---------------------------------------------------------------------------------------------------


def _run_plain(tf: Any, graph: Graph, feeds: Arrays, asked: set[str] | None, notes: list[str]) -> Captured:
    if asked is not None:
        for name in asked:
            if graph.producer(name) is None:
                raise UnknownName("tensor", name, graph.tensors, graph.name)
    part, skipped = _runnable(tf, graph)
    try:
        ours = graph_def(part)
    except SliceError as error:
        raise RunError(f"{graph.name}: cannot be run: {error}") from None
    notes = notes + _seeded(ours)
    message = tf.compat.v1.GraphDef.FromString(ours.SerializeToString())
    native = {
        node.attr[STANDS_FOR].s.decode(): f"{node.name}:0" for node in ours.node if STANDS_FOR in node.attr
    }
    fed = {native.get(name, name): array for name, array in feeds.items()}
    try:
        with _session(tf, message) as session:
            counts = {op.name: [out.dtype for out in op.outputs] for op in session.graph.get_operations()}
            dead = _dead(part, session, fed, native)
    except (tf.errors.OpError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"{graph.name}: TensorFlow fails{_failed_at(error, graph)}: {_one_line(error)}") from None
    fetch: list[str] = []
    for node in part.nodes:
        for index, tensor in enumerate(node.outputs):
            if tensor in feeds or (asked is not None and tensor not in asked):
                continue
            reason = _reason(tf, part, node, index, counts.get(node.name, []), tensor in dead)
            if reason:
                skipped[tensor] = reason
            else:
                fetch.append(tensor)
    values, lost = _fetched(tf, graph, message, fetch, fed, native)
    values |= feeds
    skipped |= lost
    found = {}
    for name in graph.inputs:
        if name in feeds and (asked is None or name in asked):
            found[graph.producer(name) or Port(name, "output", 0)] = feeds[name]
    for node in graph.nodes:
        for index, tensor in enumerate(node.outputs):
            if tensor in values and (asked is None or tensor in asked):
                found[Port(node.name, "output", index)] = _plain(values[tensor])
    if asked is not None:
        skipped = {name: reason for name, reason in skipped.items() if name in asked}
    return Captured(found, "tensorflow", tf.__version__, skipped, tuple(notes))


def _plain(array: Any) -> np.ndarray[Any, Any]:
    values = np.asarray(array)
    if values.dtype.names:  # quantised types come as records of one number
        values = values.view(values.dtype[0])
    return values


def _reason(tf: Any, graph: Graph, node: Node, index: int, dtypes: Sequence[Any], is_dead: bool) -> str:
    """Why an output cannot be fetched; empty if it can."""
    frame = loop_around(graph, node, "output")
    if frame is not None:
        return f"inside the V1 loop {frame!r}: it has no value outside a run of the loop"
    if index >= len(dtypes):
        return f"TensorFlow gives {node.op_type} {len(dtypes)} outputs"
    if node.op_type.startswith("FusedBatchNorm") and index >= 3 and not node.attrs.get("is_training", True):
        return "left unwritten in inference (reserve space of the gradient)"
    dtype = dtypes[index].base_dtype
    if dtype in (tf.resource, tf.variant):
        return f"a handle ({dtype.name}), no numbers"
    if dtype == tf.string:
        return "strings, no numbers"
    return "in the branch of a cond that was not taken" if is_dead else ""


def _fetched(
    tf: Any, graph: Graph, message: Any, names: Sequence[str], fed: Mapping[str, Any], native: Mapping[str, str],
) -> tuple[dict[str, Any], dict[str, str]]:
    """All of `names` in one run; where some turn out to have no value, in halves until they are found; and why those
    have none."""
    if not names:
        return {}, {}
    try:
        with _session(tf, message) as session:  # a new one each time: random ops begin anew
            values = session.run([native.get(name, name) for name in names], fed)
        return dict(zip(names, values, strict=True)), {}
    except tf.errors.OpError as error:
        if not re.search(r"does not have value|Retval\[\d+\]|has already been set", str(error)):
            raise RunError(f"{graph.name}: TensorFlow fails{_failed_at(error, graph)}: {_one_line(error)}") from None
        if len(names) == 1:
            return {}, {names[0]: f"without a value in this run ({_one_line(error)})"}
    except (ValueError, TypeError, MemoryError) as error:
        raise RunError(f"{graph.name}: TensorFlow fails: {_one_line(error)}") from None
    half = len(names) // 2
    first, lost = _fetched(tf, graph, message, names[:half], fed, native)
    rest, more = _fetched(tf, graph, message, names[half:], fed, native)
    return first | rest, lost | more


# -- what goes in ------------------------------------------------------------------------------------------------


def _feeds(graph: Graph, inputs: Mapping[str, Any]) -> Arrays:
    """Arrays by tensor name, in the inputs' dtypes. Raises InputError for what is missing or does not fit."""
    optional = [node.outputs[0] for node in graph.nodes if node.op_type == "PlaceholderWithDefault"]
    known = dict.fromkeys([*graph.inputs, *optional])
    given = {}
    for name, array in inputs.items():
        tensor = name if name in known else f"{name}:0"
        if tensor not in known:
            raise UnknownName("input", name, [*known], graph.name)
        given[tensor] = np.asarray(array)
    missing = [name for name in graph.inputs if name not in given and graph.consumers(name)]
    if missing:
        has = ", ".join(given) or "nothing"
        raise InputError(f"{graph.name} needs an array for {', '.join(missing)}; given: {has}")
    return {name: _fitted(graph, name, array) for name, array in given.items()}


def _fitted(graph: Graph, name: str, array: Any) -> np.ndarray[Any, Any]:
    spec = graph.spec(name)
    check_shape(spec, array)
    if spec.dtype is None or spec.dtype.numpy is None or spec.dtype.name == array.dtype.name:
        return array  # type: ignore[no-any-return]
    if spec.dtype.name == "bfloat16":
        import ml_dtypes

        return array.astype(ml_dtypes.bfloat16)  # type: ignore[no-any-return]
    if not np.can_cast(array.dtype, spec.dtype.numpy, "same_kind"):
        raise InputError(f"{name} is {spec.dtype.name}, the array given for it is {array.dtype.name}")
    return array.astype(spec.dtype.numpy)  # type: ignore[no-any-return]


def _seeded(message: Any) -> list[str]:
    """Give random ops without a seed one made from their name; says which."""
    drawn = []
    library = [node for function in message.library.function for node in function.node_def]
    for node in [*message.node, *library]:
        if "seed" in node.attr and "seed2" in node.attr and not node.attr["seed"].i and not node.attr["seed2"].i:
            node.attr["seed"].i = zlib.crc32(node.name.encode()) + 1
            drawn.append(node.name)
    if not drawn:
        return []
    more = f" and {len(drawn) - 3} more" if len(drawn) > 3 else ""
    return [f"random ops without a seed were given one made from their names: {', '.join(drawn[:3])}{more}"]


# -- what can run ------------------------------------------------------------------------------------------------


def _runnable(tf: Any, graph: Graph) -> tuple[Graph, dict[str, str]]:
    """The graph without ops that this TensorFlow does not have and what hangs on them; why each tensor is left out.

    Raises RunError if nothing is left but constants and inputs.
    """
    from tensorflow.python.framework import op_def_registry

    own = set(graph.source.functions)
    missing = {op for op in {node.op_type for node in graph.nodes} - own if op_def_registry.get(op) is None}
    if not missing:
        return graph, {}
    because: dict[str, str] = {}
    for _ in range(2):  # twice: a loop carries it back to its Merge
        for node in graph.nodes:
            above = [port.node for tensor in node.inputs if (port := graph.producer(tensor)) is not None]
            reason = next((because[name] for name in (*above, *node.control) if name in because), None)
            if node.op_type in missing:
                reason = f"needs {node.name}, an op {node.op_type} that TensorFlow {tf.__version__} does not have"
            if reason:
                because.setdefault(node.name, reason)
    kept = [node for node in graph.nodes if node.name not in because]
    if not any(node.name not in graph.constants and node.op_type != "Placeholder" for node in kept):
        raise RunError(f"{graph.name}: {next(iter(because.values()), '')}; nothing is left to run")
    part = graph.keep(node.name for node in kept)
    return part, {
        tensor: because[node.name] for node in graph.nodes if node.name in because for tensor in node.outputs
    }


def _dead(graph: Graph, session: Any, fed: Mapping[str, Any], native: Mapping[str, str]) -> set[str]:
    """Tensors of branches that V1 conds did not take, from the values of their predicates (outer conds first)."""
    predicates = {
        node.name: node.inputs[1]
        for node in graph.nodes
        if node.op_type in _SWITCHES and "frame" not in node.attrs and len(node.inputs) == 2
    }
    if not predicates:
        return set()
    values: dict[str, bool] = {}
    while True:
        state = _alive(graph, predicates, values)
        asked = list(dict.fromkeys(
            tensor for tensor in predicates.values() if tensor not in values and state.get(tensor, True) is True
        ))
        if not asked:
            return {tensor for tensor, alive in state.items() if alive is False}
        for tensor, value in zip(asked, session.run([native.get(t, t) for t in asked], fed), strict=True):
            values[tensor] = bool(value)


def _alive(graph: Graph, predicates: Mapping[str, str], values: Mapping[str, bool]) -> dict[str, bool | None]:
    """For each tensor: has it a value (True), has it none (False), or is that not known yet (None)?"""
    state: dict[str, bool | None] = {}
    of_node: dict[str, bool | None] = {}
    for node in graph.nodes:
        data = [state.get(tensor, True) for tensor in node.inputs]
        if node.op_type in ("Merge", "RefMerge"):
            alive = _any(data)
        else:
            alive = _all([*data, *(of_node.get(name, True) for name in node.control)])
        of_node[node.name] = alive
        outputs = [alive] * len(node.outputs)
        if node.name in predicates and alive is not False:
            taken = values.get(predicates[node.name]) if alive else None
            outputs[:2] = [None, None] if taken is None else [not taken, taken]
        state.update(zip(node.outputs, outputs, strict=True))
    return state


def _all(states: Iterable[bool | None]) -> bool | None:
    known = set(states)
    return False if False in known else None if None in known else True


def _any(states: Iterable[bool | None]) -> bool | None:
    known = set(states)
    return True if True in known or not known else None if None in known else False


# -- functions and variables -------------------------------------------------------------------------------------


def _run_inlined(
    tf: Any, graph: Graph, feeds: Arrays, asked: set[str] | None, notes: list[str], folder: Path,
) -> Captured:
    """The graph itself, and what its functions hold, from a copy with variables as constants and functions inlined."""
    message = _without_variables(tf, graph)
    flat = _loaded(message, folder / "flat.pb", graph)
    top = _run_plain(tf, flat, _only(flat, feeds), None, notes)
    tensors, skipped = dict(top.tensors), dict(top.skipped)
    notes = list(top.notes)
    if message.library.function:
        try:
            inner = _loaded(_inlined(tf, message, graph), folder / "inlined.pb", graph)
        except RunError as error:
            notes.append(f"tensors inside functions are not there: {error}")
        else:
            more = _run_plain(tf, inner, _only(inner, feeds), None, [])
            tensors |= {port: array for port, array in more.tensors.items() if port.node not in flat}
            skipped |= {name: why for name, why in more.skipped.items() if flat.producer(name) is None}
            notes += more.notes
    names = {port: f"{port.node}:{port.index}" for port in tensors}
    for node in graph.nodes:
        for tensor in node.outputs:
            if flat.producer(tensor) is None:
                skipped.setdefault(tensor, "no output depends on it: left out by freezing")
    if asked is not None:
        for name in asked:
            if name not in names.values() and name not in skipped:
                raise UnknownName("tensor", name, [*names.values()], graph.name)
        tensors = {port: array for port, array in tensors.items() if names[port] in asked}
        skipped = {name: why for name, why in skipped.items() if name in asked}
    return Captured(tensors, "tensorflow", tf.__version__, skipped, tuple(notes))


def _only(graph: Graph, feeds: Arrays) -> Arrays:
    return {name: array for name, array in feeds.items() if name in graph.inputs}


def _loaded(message: Any, path: Path, graph: Graph) -> Graph:
    write_bytes(path, message.SerializeToString(deterministic=True))
    try:
        return load(path)
    except FormatError as error:
        raise RunError(f"{graph.name}: what TensorFlow froze cannot be read: {error}") from None


def _without_variables(tf: Any, graph: Graph) -> Any:
    """TensorFlow's GraphDef of the graph; a whole SavedModel's with its variables as constants."""
    if graph.source.tags is None:
        return tf.compat.v1.GraphDef.FromString(graph_def(graph).SerializeToString())
    if len(graph.nodes) != graph.source.nodes or graph.path is None:
        raise RunError(
            f"{graph.name}: a part of a SavedModel has no variables with it; "
            "freeze the whole first (acccmp.runners.tensorflow.freeze) and cut that"
        )
    folder = graph.path if graph.path.is_dir() else graph.path.parent
    check_tree(folder)
    v1 = tf.compat.v1
    try:
        config = v1.ConfigProto(device_count={"GPU": 0})
        with _quiet(), tf.Graph().as_default(), v1.Session(config=config) as session:
            loaded = v1.saved_model.loader.load(session, list(graph.source.tags), str(folder))
            outputs = list(dict.fromkeys(tensor.rpartition(":")[0] for tensor in graph.outputs))
            frozen = v1.graph_util.convert_variables_to_constants(session, loaded.graph_def, outputs)
    except (tf.errors.OpError, OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise RunError(f"{graph.name}: TensorFlow cannot load the SavedModel: {_one_line(error)}") from None
    return frozen


def _inlined(tf: Any, message: Any, graph: Graph) -> Any:
    """The GraphDef with its functions inlined, cond and while included. Raises RunError where TensorFlow cannot."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    message = _renamed(tf, message, f"acccmp_{uuid.uuid4().hex[:12]}_")
    try:
        with _quiet():
            wrapped = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(message, name=""), [])
            inside = {node.name for node in message.node}
            feeds = [wrapped.graph.as_graph_element(t) for t in graph.inputs if t.rpartition(":")[0] in inside]
            fetches = [wrapped.graph.as_graph_element(t) for t in graph.outputs if t.rpartition(":")[0] in inside]
            frozen = convert_variables_to_constants_v2(wrapped.prune(feeds, fetches))
        return frozen.graph.as_graph_def()
    except (tf.errors.OpError, ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        raise RunError(f"{graph.name}: its functions cannot be inlined: {_one_line(error)}") from None


def _renamed(tf: Any, message: Any, prefix: str) -> Any:
    """The GraphDef with every function named anew: TensorFlow keeps functions by name for the whole process, and one of
    another graph may have the same."""
    out = tf.compat.v1.GraphDef()
    out.CopyFrom(message)
    old = {function.signature.name for function in out.library.function}

    nodes = [*out.node, *(node for function in out.library.function for node in function.node_def)]
    for node in nodes:
        if node.op in old:
            node.op = prefix + node.op
    for holder in (*nodes, *out.library.function):
        for called in called_in(holder):
            if called.name in old:
                called.name = prefix + called.name
    for function in out.library.function:
        function.signature.name = prefix + function.signature.name
    for entry in out.library.gradient:
        entry.function_name, entry.gradient_func = prefix + entry.function_name, prefix + entry.gradient_func
    for entry in out.library.registered_gradients:
        entry.gradient_func = prefix + entry.gradient_func
    return out
