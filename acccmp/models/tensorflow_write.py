"""Graph -> GraphDef: writing TensorFlow files, whole or as a part with its own inputs. TensorFlow itself is not needed.

Written files carry two attributes of ours where they are needed. `_acccmp_tensor` on a Placeholder: it stands for this
tensor (`split:1`) of the model it was cut from, under which name it is loaded again; a Placeholder without it stands
for the tensor `NAME:0`. `_acccmp_outputs` on a node: these outputs of it are the graph's, which could not be seen
otherwise because something inside reads them too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from acccmp.core.graph import Graph, Node
from acccmp.core.names import free_name
from acccmp.core.writing import write_bytes
from acccmp.errors import SliceError
from acccmp.models.tensorflow_files import TensorFlowGraph
from acccmp.models.tensorflow_ops import SIDE_OUTPUTS
from acccmp.models.tensorflow_values import content, data_type_number, split_name

STANDS_FOR = "_acccmp_tensor"
MARKED_OUTPUTS = "_acccmp_outputs"

_HANDLES = ("resource", "variant")
_VARIABLES = ("VarHandleOp", "VariableV2", "Variable")


def save(graph: Graph, folder: str | Path, stem: str = "dump") -> list[Path]:
    """Write the graph, or a part of one, as `<stem>.pb` (binary GraphDef) in `folder`. See `graph_def`.

    Loaded again it is the same Graph, with a Placeholder more for each input that the part does not make itself.
    """
    target = Path(folder) / f"{stem}.pb"
    variable = next((node.name for node in graph.nodes if node.op_type in _VARIABLES), None)
    if variable is not None:
        raise SliceError(
            f"{graph.name} reads variables ({variable}), whose values a .pb cannot hold; "
            "freeze it first (acccmp convert SAVED_MODEL --to pb -o DIR) and take that"
        )
    message = graph_def(graph)
    try:
        raw = message.SerializeToString(deterministic=True)
    except ValueError as error:
        raise SliceError(f"{graph.name}: too large for one .pb file: {error}") from None
    write_bytes(target, raw)
    return [target]


def graph_def(graph: Graph) -> Any:
    """The graph as a GraphDef message of our schema, complete: with the bytes of constants and the functions it uses.

    Each input that no node makes becomes a Placeholder of its dtype and shape. For `node:0` it is named `node`, so that
    readers find it as before; for `split:1` it gets a new name and says what it stands for (see the module's head).
    Weights whose node is not in the part become Const nodes. Control edges and placement hints that lead out of the
    part are dropped; versions and everything else of the file stay.

    Raises SliceError for a cut through a V1 loop, between the branches of a V1 cond or between what writes and what
    reads a TensorArray, for an input of unknown dtype, for a handle as input, and for a graph that was not read from a
    TensorFlow file.
    """
    from acccmp.schemas import tensorflow_pb2 as schema

    if not isinstance(graph.source, TensorFlowGraph):
        raise SliceError(f"{graph.name}: a {graph.format} graph cannot be written as a TensorFlow file")
    made = {tensor for node in graph.nodes for tensor in node.outputs}
    _refuse_cut_loops(graph, made)
    _refuse_cut_branches(graph, made)
    _refuse_cut_arrays(graph)
    out = schema.GraphDef()
    out.CopyFrom(graph.source.rest)
    references = _placeholders(graph, made, out)
    _constants_of_others(graph, made, out)
    inside = {node.name for node in graph.nodes}
    for node in graph.nodes:
        written = out.node.add()
        written.CopyFrom(node.source)
        written.ClearField("input")
        slots = iter(node.inputs)
        for original in node.source.input:
            if original.startswith("^"):
                if original[1:] in inside:
                    written.input.append(original)
            else:
                tensor = next(slots)
                written.input.append(references.get(tensor, original))
        _keep_hints(written, inside | set(references.values()))
        if node.op_type == "Const":
            value = written.attr["value"].tensor
            ref = graph.weights.get(node.outputs[0])
            if ref is not None and ref.array is None and not value.tensor_content:
                value.tensor_content = content(ref)
    _mark_outputs(graph, out)
    _keep_functions(out)
    return out


def _placeholders(graph: Graph, made: Collection[str], out: Any) -> dict[str, str]:
    """Add a Placeholder for each input that no node makes; how readers refer to those with another name than before."""
    inside = {node.name for node in graph.nodes}
    taken = inside | {split_name(t)[0] for t in (*graph.inputs, *graph.weights)}
    references = {}
    for tensor in graph.inputs:
        if tensor in made:
            continue
        spec = graph.spec(tensor)
        if spec.dtype is None:
            raise SliceError(f"{tensor} cannot become an input: its dtype is not known; start above it")
        if spec.dtype.name in _HANDLES:
            raise SliceError(
                f"{tensor} cannot become an input: it is a handle ({spec.dtype.name}), which only a run has; "
                "start above it"
            )
        name, index = split_name(tensor)
        if index or name in inside:
            name = _free_name(f"{name}_{index}", taken)
            taken.add(name)
            references[tensor] = name
        node = out.node.add(name=name, op="Placeholder")
        node.attr["dtype"].type = data_type_number(spec.dtype)
        _write_shape(node.attr["shape"].shape, spec.shape)
        if references.get(tensor):
            node.attr[STANDS_FOR].s = tensor.encode()
        # its shape attribute alone means unknown rank
        if spec.shape == () and graph.source.rest.versions.producer <= 21:
            _write_shape(node.attr["_output_shapes"].list.shape.add(), ())
    return references


def _free_name(wanted: str, taken: Collection[str]) -> str:
    return free_name(re.sub(r"[^A-Za-z0-9_.\\/>-]", "_", wanted).lstrip("_/\\>-") or "input", taken)


def _write_shape(proto: Any, shape: Any) -> None:
    if shape is None:
        proto.unknown_rank = True
        return
    for size in shape:
        proto.dim.add(size=size if isinstance(size, int) else -1)
    proto.SetInParent()


def _constants_of_others(graph: Graph, made: Collection[str], out: Any) -> None:
    """Add a Const for each weight that is read and whose node is not in the part."""
    read = {tensor for node in graph.nodes for tensor in node.inputs}
    for tensor, ref in graph.weights.items():
        if tensor in made or tensor not in read or tensor in graph.inputs:
            continue
        name = split_name(tensor)[0]
        node = out.node.add(name=name, op="Const")
        node.attr["dtype"].type = data_type_number(ref.dtype)
        value = node.attr["value"].tensor
        value.dtype = data_type_number(ref.dtype)
        _write_shape(value.tensor_shape, ref.own_shape)
        value.tensor_content = content(ref)


def _keep_hints(node: Any, inside: Collection[str]) -> None:
    """Keep the placement hints that name nodes of the part; TensorFlow refuses others."""
    if "_class" not in node.attr:
        return
    hints = node.attr["_class"].list.s
    kept = [hint for hint in hints if not hint.startswith(b"loc:@") or hint[5:].decode("utf-8", "replace") in inside]
    if len(kept) == len(hints):
        return
    if kept:
        del hints[:]
        hints.extend(kept)
    else:
        del node.attr["_class"]


def _mark_outputs(graph: Graph, out: Any) -> None:
    """Say on the nodes what the outputs are, where loading could not tell."""
    by_name = {node.name: node for node in out.node}
    plain = replace(graph, nodes=tuple(
        replace(node, source=_without_mark(by_name[node.name])) for node in graph.nodes
    ))
    if set(results(plain)) == set(graph.outputs):
        return
    for node in graph.nodes:
        places = [index for index, tensor in enumerate(node.outputs) if tensor in graph.outputs]
        if places:
            by_name[node.name].attr[MARKED_OUTPUTS].list.i.extend(places)


def _without_mark(node: Any) -> Any:
    if MARKED_OUTPUTS in node.attr:
        del node.attr[MARKED_OUTPUTS]
    return node


def _keep_functions(out: Any) -> None:
    """Keep the functions that the nodes use, those that these use, and their gradients."""
    library = out.library
    functions = {function.signature.name: function for function in library.function}
    gradients: dict[str, list[str]] = {}
    for entry in library.gradient:
        gradients.setdefault(entry.function_name, []).append(entry.gradient_func)
    registered = {entry.registered_op_type: entry.gradient_func for entry in library.registered_gradients}
    used: set[str] = set()
    asked: set[str] = set()
    waiting = list(out.node)
    while waiting:
        node = waiting.pop()
        names = {node.op} | {called.name for called in called_in(node)}
        if "_gradient_op_type" in node.attr:
            kind = node.attr["_gradient_op_type"].s.decode("utf-8", "replace")
            if kind in registered:
                asked.add(kind)
                names.add(registered[kind])
        new = (names & functions.keys()) - used
        while new:
            name = new.pop()
            used.add(name)
            waiting.extend(functions[name].node_def)
            more = {called.name for called in called_in(functions[name])} | set(gradients.get(name, ()))
            new |= (more & functions.keys()) - used
    _drop(library.function, [entry.signature.name not in used for entry in library.function])
    _drop(library.gradient, [entry.function_name not in used for entry in library.gradient])
    _drop(library.registered_gradients, [e.registered_op_type not in asked for e in library.registered_gradients])
    if not library.function and not library.gradient and not library.registered_gradients:
        out.ClearField("library")


def _drop(entries: Any, gone: Sequence[bool]) -> None:
    for index in reversed(range(len(gone))):
        if gone[index]:
            del entries[index]


def called_in(holder: Any) -> Iterator[Any]:
    """The functions (NameAttrLists) in the attributes of a NodeDef or a function, those within others too."""
    for value in holder.attr.values():
        kind = value.WhichOneof("value")
        for called in [value.func] if kind == "func" else value.list.func if kind == "list" else []:
            yield called
            yield from called_in(called)


_NO_RESULT = ("Const", "Placeholder", "PlaceholderWithDefault", "NoOp", "Assert", "VarHandleOp", "VariableV2")


def results(graph: Graph) -> tuple[str, ...]:
    """Outputs of nodes that nothing reads, control edges included; inside V1 frames there are none."""
    marked = {
        node.outputs[index]
        for node in graph.nodes
        if MARKED_OUTPUTS in node.source.attr
        for index in node.source.attr[MARKED_OUTPUTS].list.i
        if 0 <= index < len(node.outputs)
    }
    if marked:
        return tuple(tensor for node in graph.nodes for tensor in node.outputs if tensor in marked)
    waited_for = {name for node in graph.nodes for name in node.control}
    loose = [
        node for node in graph.nodes
        if node.op_type not in _NO_RESULT and node.outputs
        and loop_around(graph, node, "output") is None
        and not any(graph.consumers(tensor) for tensor in node.outputs)
        and not _is_pivot(graph, node)
    ]
    free = [node for node in loose if node.name not in waited_for] or loose
    return tuple(
        tensor for node in free for tensor in (node.outputs[:1] if node.op_type in SIDE_OUTPUTS else node.outputs)
    )


def _is_pivot(graph: Graph, node: Node) -> bool:
    """Is it the Identity that a V1 cond hangs the constants of a branch on? (Its Switch chooses the predicate.)"""
    port = graph.producer(node.inputs[0]) if node.op_type == "Identity" and node.inputs else None
    if port is None or port.node not in graph:
        return False
    above = graph[port.node]
    return above.op_type in ("Switch", "RefSwitch") and len(set(above.inputs)) == 1 == len(above.inputs) - 1


# -- cuts that cannot be -----------------------------------------------------------------------------------------


def whole_control_flow(graph: Graph, names: Iterable[str]) -> set[str]:
    """`names`, with every V1 loop that has a node among them taken whole, every V1 cond whose Merge is among them from
    its Switches on (loops and conds inside them too), and what makes and fills the TensorArrays and lists they read.

    What a region needs that runs past a loop or cond: the counter, the condition and the other branch lie on no path
    from its start to its end, and a handle (TensorArray, TensorList) cannot be an input.
    """
    region = set(names)
    parents: Mapping[str, str] = graph.source.around
    while True:
        frames = {str(graph[name].attrs["frame"]) for name in region if "frame" in graph[name].attrs}
        while inner := {frame for frame, around in parents.items() if around in frames} - frames:
            frames |= inner
        grown = region | {node.name for node in graph.nodes if node.attrs.get("frame") in frames}
        for name in sorted(grown):
            if _joins(graph[name]):
                grown |= _branches(graph, name)
            for tensor in graph[name].inputs:
                port, dtype = graph.producer(tensor), graph.spec(tensor).dtype
                if dtype is not None and dtype.name in _HANDLES and port is not None and port.node in graph:
                    grown.add(port.node)
            grown |= _contents(graph, graph[name])[0]
        if grown == region:
            return region
        region = grown


def loop_around(graph: Graph, node: Node, side: str) -> str | None:
    """Frame of the V1 loop that the tensors at the "input" or "output" side of a node lie inside of, where they have no
    value outside a run of the loop. An Enter's inputs and an Exit's outputs lie in what is around their loop."""
    if graph.format != "tensorflow" or "frame" not in node.attrs:
        return None
    frame = str(node.attrs["frame"])
    if node.op_type in (("Enter", "RefEnter") if side == "input" else ("Exit", "RefExit")):
        parents: Mapping[str, str] = graph.source.around
        return parents.get(frame)
    return frame


def refuse_ends_inside_loops(graph: Graph, starts: Iterable[str], ends: Iterable[str]) -> None:
    """A part may start at the Enters of a V1 loop and end at its Exits, not between them. Raises SliceError."""
    for names, side, way in (
        (starts, "input", "start at what goes into it or below it"), (ends, "output", "end at what leaves it or above"),
    ):
        for name in names:
            frame = loop_around(graph, graph[name], side)
            if frame is not None:
                raise SliceError(
                    f"the {way.split()[0]} {name!r} lies inside the V1 loop {frame!r}, where no tensor has a value "
                    f"outside a run of the loop; {way} (a loop is cut whole or not at all)"
                )


def _joins(node: Node) -> bool:
    return node.op_type in ("Merge", "RefMerge") and "frame" not in node.attrs


def _chooses(node: Node) -> bool:
    return node.op_type in ("Switch", "RefSwitch") and "frame" not in node.attrs


def _branches(graph: Graph, merge: str) -> set[str]:
    """What lies between a cond's Merge and its Switches, the Switches included."""
    found: set[str] = set()
    seen: set[tuple[str, int]] = set()
    waiting = [(merge, 0)]  # a node, and how many conds are open below it
    while waiting:
        name, depth = waiting.pop()
        if (name, depth) in seen or name not in graph:
            continue
        seen.add((name, depth))
        found.add(name)
        node = graph[name]
        depth += _joins(node) - _chooses(node)
        if depth > 0:
            above = [port.node for tensor in node.inputs if (port := graph.producer(tensor)) is not None]
            waiting += [(source, depth) for source in (*above, *node.control)]
    return found


_PASS_ON = ("Identity", "Enter", "Exit", "Switch", "Merge", "NextIteration")


def _contents(graph: Graph, node: Node) -> tuple[set[str], list[str]]:
    """Where the contents of the TensorArray that a node reads come from: the nodes on the way up to what wrote to it,
    and the tensors that lead out of the graph. Its last input (the flow) stands for the contents; it holds no data."""
    found: set[str] = set()
    outside: list[str] = []
    kind = node.op_type
    if not re.fullmatch(r"TensorArray\w+V3", kind) or kind in ("TensorArrayCloseV3", "TensorArrayGradV3"):
        return found, outside
    waiting = list(node.inputs[-1:])
    while waiting:
        tensor = waiting.pop()
        port = graph.producer(tensor)
        if port is None or port.node not in graph or graph[port.node].op_type == "Placeholder":
            outside.append(tensor)
        elif port.node not in found:
            found.add(port.node)
            above = graph[port.node]
            if above.op_type in _PASS_ON:
                waiting += above.inputs if above.op_type == "Merge" else above.inputs[:1]
    return found, outside


def _refuse_cut_arrays(graph: Graph) -> None:
    for node in graph.nodes:
        _, outside = _contents(graph, node)
        if outside:
            raise SliceError(
                f"the cut runs through a TensorArray: {node.name!r} reads what was written to it above {outside[0]!r}, "
                "outside the part; start above that, or below what reads it"
            )


def _refuse_cut_loops(graph: Graph, made: Collection[str]) -> None:
    """A V1 loop is cut whole or not at all: what is inside its frame has no value outside a run of the loop."""
    sizes: Mapping[str, int] = graph.source.frames
    inside = {node.name for node in graph.nodes}
    counts: dict[str, int] = {}
    for node in graph.nodes:
        frame = node.attrs.get("frame")
        if frame is None:
            continue
        counts[frame] = counts.get(frame, 0) + 1
        around = loop_around(graph, node, "input")
        if around is None:
            continue
        missing = next((tensor for tensor in node.inputs if tensor not in made), None)
        if missing is None and not node.inputs and node.source.input:
            missing = next((name for name in node.control if name not in inside), None)
        if missing is not None:
            raise SliceError(
                f"the cut runs through the V1 loop {around!r}: {node.name!r} lies inside, {missing!r} outside the "
                "part; take the whole loop or nothing of it"
            )
    for tensor in graph.outputs:
        port = graph.producer(tensor)
        if port is None or port.node not in inside:
            continue
        node = graph[port.node]
        frame = node.attrs.get("frame")
        if frame is None or loop_around(graph, node, "output") is None:
            continue
        if counts[frame] < sizes.get(frame, 0):
            raise SliceError(
                f"the cut runs through the V1 loop {frame!r}: {node.name!r} has {counts[frame]} of the loop's "
                f"{sizes[frame]} nodes with it; take the whole loop or nothing of it"
            )


def _refuse_cut_branches(graph: Graph, made: set[str]) -> None:
    """A Merge outside loops takes the branch that its Switch chose; without the Switch both would seem to be alive."""
    inside = {node.name for node in graph.nodes}
    if all(made >= set(node.inputs) and inside >= set(node.control) for node in graph.nodes):
        return
    conds: dict[str, int] = {}  # node -> how many conds of the part its value is inside of
    for node in graph.nodes:
        above = [conds.get(port.node, 0) if (port := graph.producer(t)) is not None else 0 for t in node.inputs]
        before = [conds.get(name, 0) for name in node.control]
        if not _joins(node):
            conds[node.name] = max([*above, *before], default=0) + _chooses(node)
            continue
        if 0 in above:
            raise SliceError(
                f"the cut runs through a V1 cond: {node.name!r} joins its branches, but the Switch above "
                f"{node.inputs[above.index(0)]!r} is not in the part; start above the Switch or below the Merge"
            )
        conds[node.name] = min(above, default=1) - 1
