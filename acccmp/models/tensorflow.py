"""TensorFlow graph files <-> Graph: frozen `.pb` (binary and text) and SavedModels. TensorFlow itself is not needed.

Tensors are named `node:index`. A `Const` is a node and its tensor is a weight too; the bytes of large ones stay in the
file. `Node.source` is the NodeDef (without those bytes), `Graph.source` a GraphDef without its nodes: the function
library, the versions, and whatever else the file holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from acccmp.core.graph import Graph, Node, TensorSpec
from acccmp.core.reading import is_number
from acccmp.core.tensor import TensorRef
from acccmp.core.wire import Payload
from acccmp.errors import FormatError
from acccmp.models.order import in_order
from acccmp.models.tensorflow_files import Parsed, TensorFlowGraph, read
from acccmp.models.tensorflow_ops import declared_outputs, outputs_of
from acccmp.models.tensorflow_shapes import infer
from acccmp.models.tensorflow_values import attribute, constant, data_type, split_name
from acccmp.models.tensorflow_write import MARKED_OUTPUTS, STANDS_FOR, graph_def, results, save

__all__ = ["graph_def", "load", "save"]

MOST_OUTPUTS = 4_000_000  # of a whole graph; a damaged count must not fill the memory
_HIDDEN = (STANDS_FOR, MARKED_OUTPUTS, "_class")  # `_class` places nodes together; it says nothing of what they compute


def load(path: str | Path, weights: str | Path | None = None) -> Graph:
    """Read a frozen graph (`.pb`, binary or text), a SavedModel folder or its `saved_model.pb`.

    Nodes come in an execution order (file order where that is one) with the edges from NextIteration to Merge taken as
    the way back of a loop. Inputs are the Placeholders (a SavedModel's: those of its signature), outputs the tensors of
    nodes that nothing reads. Nodes of a V1 loop have its frame's name as attribute `frame`; `Graph.source` lists the
    frames. Bodies of functions are sub-graphs of the nodes that call them, with tensors named `node:index` too.

    Raises FormatError with one line: an LFS pointer, another format, damage, an edge to a node that is not there.
    """
    asked = Path(path)
    parsed, file = read(asked)
    return _graph(parsed, file, asked)


# -- file -> Graph -----------------------------------------------------------------------------------------------


def _graph(parsed: Parsed, file: Path, path: Path) -> Graph:
    defs: dict[str, Any] = {}
    for node in parsed.nodes:
        if node.name in defs:
            raise FormatError(f"{file}: two nodes are named {node.name!r}")
        defs[node.name] = node
    ops = parsed.meta.meta_info_def.stripped_op_list.op if parsed.meta is not None else ()
    declared = {op.name: declared_outputs(op) for op in ops}
    library = _Library(parsed.rest.library, declared, str(file))
    attrs = {name: _attributes(node) for name, node in defs.items()}
    weights = _constants(defs, file, str(file), parsed.places)
    inputs, control = _edges(defs, file)
    outputs = _outputs(defs, attrs, inputs, declared, file)
    names = _tensor_names(defs, outputs)
    order = _execution_order(defs, inputs, control, file)
    frames, parents = _frames(defs, order, inputs, control)
    for name, frame in frames.items():
        attrs[name]["frame"] = frame
    nodes = [
        Node(
            name, defs[name].op, tuple(names[source] for source in inputs[name]),
            tuple(names[name, index] for index in range(len(outputs[name]))), attrs[name], tuple(control[name]),
            subgraphs=library.bodies(defs[name]), source=defs[name],
        )
        for name in order
    ]
    producer = parsed.rest.versions.producer
    specs = infer(((n.op_type, _as_declared(n, producer), n.inputs, n.outputs) for n in nodes), weights)
    graph = Graph(
        path.name if path.name != "saved_model.pb" else path.parent.name, "tensorflow", tuple(nodes),
        tensors=specs, weights=weights, path=path, notes=parsed.notes, source=_source(parsed, frames, parents),
        meta=_meta(parsed, frames),
    )
    ins, outs = _ends(graph, parsed.meta, names)
    return replace(graph, inputs=ins, outputs=outs)


def _attributes(node: Any) -> dict[str, Any]:
    return {
        name: attribute(node.attr[name])
        for name in sorted(node.attr)
        if name not in _HIDDEN and not (name == "value" and node.op == "Const")
    }


def _as_declared(node: Node, producer: int) -> Mapping[str, Any]:
    # Up to version 21 a Placeholder could not say "unknown rank" and wrote a scalar's shape instead.
    if node.op_type == "Placeholder" and producer <= 21 and node.attrs.get("shape") == ():
        return {**node.attrs, "shape": None}
    return node.attrs


def _constants(
    defs: Mapping[str, Any], where: object, path: str, places: Mapping[str, Payload] | None = None,
) -> dict[str, TensorRef]:
    """The weights of a graph or function; `places` are those of the large ones, which were left in the file `path`."""
    found = {}
    for name, node in defs.items():
        if node.op != "Const":
            continue
        if "value" not in node.attr:
            raise FormatError(f"{where}: the constant {name!r} has no value")
        try:
            ref = constant(node.attr["value"].tensor, path, (places or {}).get(name))
        except FormatError as error:
            raise FormatError(f"{where}: constant {name!r}: {error}") from None
        if ref is not None:
            found[f"{name}:0"] = ref
    return found


def _edges(
    defs: Mapping[str, Any], file: Path,
) -> tuple[dict[str, list[tuple[str, int]]], dict[str, list[str]]]:
    data: dict[str, list[tuple[str, int]]] = {}
    control: dict[str, list[str]] = {}
    for name, node in defs.items():
        data[name], control[name] = [], []
        for reference in node.input:
            if reference.startswith("^"):
                source, before = (reference[1:], 0), True
            else:
                source, before = split_name(reference), False
            if source[0] not in defs:
                raise FormatError(
                    f"{file}: node {name!r} reads {reference!r}, but there is no node {source[0]!r}; "
                    "is the file whole?"
                )
            if before:
                control[name].append(source[0])
            else:
                data[name].append(source)
        control[name] = list(dict.fromkeys(control[name]))
    return data, control


def _outputs(
    defs: Mapping[str, Any], attrs: Mapping[str, Mapping[str, Any]], inputs: Mapping[str, list[tuple[str, int]]],
    declared: Mapping[str, Any], file: Path,
) -> dict[str, list[str]]:
    """Output arguments of each node: what its op is known to give, and more where something reads more."""
    found: dict[str, list[str]] = {}
    room = MOST_OUTPUTS
    for name, node in defs.items():
        found[name] = outputs_of(node.op, attrs[name], declared.get(node.op))
        room -= len(found[name])
        if room < 0:
            raise FormatError(f"{file}: more than {MOST_OUTPUTS} tensors, the last {len(found[name])} of {name!r}")
    for reader, sources in inputs.items():
        for source, index in sources:
            missing = index + 1 - len(found[source])
            if missing > 0:
                room -= missing
                if room < 0:
                    raise FormatError(f"{file}: node {reader!r} reads '{source}:{index}', an output that no node has")
                found[source] += [""] * missing
    return found


class _Names(dict[tuple[str, int], str]):
    """(node, index) -> tensor name: `node:index`, unless the node is a Placeholder that stands for another tensor."""

    def __missing__(self, key: tuple[str, int]) -> str:
        return f"{key[0]}:{key[1]}"


def _tensor_names(defs: Mapping[str, Any], outputs: Mapping[str, Sequence[str]]) -> _Names:
    names = _Names()
    taken: set[str] = set()
    for name, node in defs.items():
        if node.op != "Placeholder" or STANDS_FOR not in node.attr:
            continue
        wanted = node.attr[STANDS_FOR].s.decode("utf-8", "replace")
        of, index = split_name(wanted)
        free = of not in defs or index >= len(outputs[of])
        if free and wanted not in taken and wanted == f"{of}:{index}":
            names[name, 0] = wanted
            taken.add(wanted)
    return names


def _execution_order(
    defs: Mapping[str, Any], inputs: Mapping[str, list[tuple[str, int]]], control: Mapping[str, list[str]], file: Path,
) -> list[str]:
    """Node names so that each comes after what it reads, in file order where possible; loops are cut open at the edge
    from NextIteration to Merge. Raises FormatError on any other cycle."""
    place = {name: index for index, name in enumerate(defs)}
    needs = []
    for name, node in defs.items():
        loops = node.op in ("Merge", "RefMerge")
        needs.append({place[before] for before in control[name]} | {
            place[source] for source, _ in inputs[name]
            if not (loops and defs[source].op in ("NextIteration", "RefNextIteration"))
        })
    order, names = in_order(needs), list(defs)
    if len(order) < len(names):
        stuck = names[min(set(range(len(names))) - set(order))]
        raise FormatError(f"{file}: the nodes run in a circle that is no loop, through {stuck!r} or above it")
    return [names[index] for index in order]


def _frames(
    defs: Mapping[str, Any], order: Iterable[str], inputs: Mapping[str, list[tuple[str, int]]],
    control: Mapping[str, list[str]],
) -> tuple[dict[str, str], dict[str, str]]:
    """Frame of each node that is part of a V1 loop (its Enter and Exit nodes too), and the frame around each frame."""
    inside: dict[str, tuple[str, ...]] = {}  # frames around the output of a node, outermost first
    frames: dict[str, str] = {}
    parents: dict[str, str] = {}
    for name in order:
        node = defs[name]
        sources = [inside.get(source, ()) for source in (*(s for s, _ in inputs[name]), *control[name])]
        stack = max(sources, key=len, default=())
        if node.op in ("Enter", "RefEnter"):
            frame = node.attr["frame_name"].s.decode("utf-8", "replace") if "frame_name" in node.attr else ""
            if stack and frame not in stack:
                parents[frame] = stack[-1]
            stack = (*stack, frame or name)
        if stack:
            frames[name] = stack[-1]
        inside[name] = stack[:-1] if node.op in ("Exit", "RefExit") else stack
    return frames, parents


def _source(parsed: Parsed, frames: Mapping[str, str], around: Mapping[str, str]) -> TensorFlowGraph:
    tags = None if parsed.meta is None else tuple(parsed.meta.meta_info_def.tags)
    return TensorFlowGraph(parsed.rest, Counter(frames.values()), around, tags, len(parsed.nodes))


def _meta(parsed: Parsed, frames: Mapping[str, str]) -> dict[str, Any]:
    versions = parsed.rest.versions
    meta: dict[str, Any] = {
        "producer": versions.producer, "min_consumer": versions.min_consumer,
        "functions": tuple(function.signature.name for function in parsed.rest.library.function),
        "frames": tuple(dict.fromkeys(frames.values())),
    }
    if parsed.meta is not None:
        meta["kind"] = "SavedModel"
        meta["tags"] = tuple(parsed.meta.meta_info_def.tags)
        meta["signatures"] = tuple(sorted(parsed.meta.signature_def))
        meta["tensorflow"] = parsed.meta.meta_info_def.tensorflow_version
    return meta


def _ends(graph: Graph, meta: Any, names: _Names) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The graph's inputs and outputs: those of a SavedModel's signature, else Placeholders and what nothing reads."""
    signature = _signature(meta)
    if signature is not None:
        ins = [names[split_name(info.name)] for _, info in sorted(signature.inputs.items()) if info.name]
        outs = [names[split_name(info.name)] for _, info in sorted(signature.outputs.items()) if info.name]
        ins, outs = ([t for t in dict.fromkeys(ends) if graph.producer(t) is not None] for ends in (ins, outs))
        if outs:
            return tuple(ins), tuple(outs)
    given = [node.outputs[0] for node in graph.nodes if node.op_type == "Placeholder"]
    if not given:
        given = [node.outputs[0] for node in graph.nodes if node.op_type == "PlaceholderWithDefault"]
    return tuple(given), results(graph)


def _signature(meta: Any) -> Any:
    if meta is None:
        return None
    known = [name for name in sorted(meta.signature_def) if not name.startswith("__")]
    if "serving_default" in known:
        return meta.signature_def["serving_default"]
    return meta.signature_def[known[0]] if known else None


# -- functions ---------------------------------------------------------------------------------------------------


class _Library:
    """The functions of a file as Graphs, each built once, when the first call of it is met."""

    def __init__(self, library: Any, declared: Mapping[str, Any], path: str) -> None:
        self._functions = {function.signature.name: function for function in library.function}
        called = {name: declared_outputs(function.signature) for name, function in self._functions.items()}
        self._declared = {**declared, **called}
        self._path = path
        self._built: dict[str, Graph | None] = {}

    def bodies(self, node: Any) -> Mapping[str, Graph]:
        """Sub-graphs of a node by attribute (`body`, `then_branch`, `f`, ...); by `op` if that is a function."""
        if not self._functions:
            return {}
        found: dict[str, Graph] = {}
        if node.op in self._functions:
            self._add(found, "op", node.op)
        for name in sorted(node.attr):
            value = node.attr[name]
            kind = value.WhichOneof("value")
            if kind == "func":
                self._add(found, name, value.func.name)
            elif kind == "list":
                for index, function in enumerate(value.list.func):
                    self._add(found, f"{name}[{index}]", function.name)
        return found

    def _add(self, found: dict[str, Graph], key: str, name: str) -> None:
        if name not in self._built and name in self._functions:
            self._built[name] = None  # a function that calls itself is shown once, not for ever
            self._built[name] = self._graph(self._functions[name])
        graph = self._built.get(name)
        if graph is not None:
            found[key] = graph

    def _graph(self, function: Any) -> Graph:
        """A function's body. Its tensors `node:argument:index` become `node:index`; its arguments are inputs."""
        signature = function.signature
        where = f"{self._path}: function {signature.name!r}"
        arguments = [argument.name for argument in signature.input_arg]
        defs = {node.name: node for node in function.node_def}
        attrs = {name: _attributes(node) for name, node in defs.items()}
        kinds = {name: outputs_of(node.op, attrs[name], self._declared.get(node.op)) for name, node in defs.items()}

        def named(reference: str, reader: str) -> str:
            parts = reference.split(":")
            if parts[0] not in defs:
                if parts[0] in arguments:
                    return parts[0]
                raise FormatError(f"{where}: {reader!r} reads {reference!r}, but there is no node {parts[0]!r}")
            of, index = kinds[parts[0]], int(parts[2]) if len(parts) > 2 and is_number(parts[2]) else 0
            if len(parts) == 2 and is_number(parts[1]):
                at = int(parts[1])
            elif len(parts) > 1 and parts[1] in of:
                at = of.index(parts[1]) + index
            elif len(parts) > 1 and "" in of:  # an op without a row: its outputs in the order in which they are read
                at = of.index("") + index
                of[of.index("")] = parts[1]
                of.append("")
            else:
                at = index
            if at >= 1 << 16:
                raise FormatError(f"{where}: {reader!r} reads {reference!r}, an output that no node has")
            of += [""] * (at + 1 - len(of))
            return f"{parts[0]}:{at}"

        inputs = {
            name: tuple(named(reference, name) for reference in node.input if not reference.startswith("^"))
            for name, node in defs.items()
        }
        results = tuple(
            named(function.ret[argument.name], signature.name)
            for argument in signature.output_arg if argument.name in function.ret
        )
        read = {tensor for tensors in inputs.values() for tensor in tensors} | set(results)
        for name, of in kinds.items():
            while len(of) > 1 and of[-1] == "" and f"{name}:{len(of) - 1}" not in read:
                of.pop()
        control = {
            name: [r[1:] for r in node.input if r.startswith("^") and r[1:] in defs] for name, node in defs.items()
        }
        sources = {
            name: [split_name(tensor) for tensor in tensors if split_name(tensor)[0] in defs]
            for name, tensors in inputs.items()
        }
        order = _execution_order(defs, sources, control, Path(where))
        nodes = tuple(
            Node(
                name, defs[name].op, inputs[name], tuple(f"{name}:{i}" for i in range(len(kinds[name]))),
                attrs[name], tuple(control[name]), subgraphs=self.bodies(defs[name]), source=defs[name],
            )
            for name in order
        )
        weights = _constants(defs, where, self._path)
        given = {
            argument.name: TensorSpec(argument.name, data_type(argument.type)) for argument in signature.input_arg
        }
        specs = infer(((n.op_type, n.attrs, n.inputs, n.outputs) for n in nodes), weights, given)
        return Graph(
            signature.name, "tensorflow", nodes, tuple(arguments), tuple(dict.fromkeys(results)), specs, weights,
        )

