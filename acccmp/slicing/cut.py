"""The cut: from start and end nodes to a closed part of a Graph, and the dumped tensors at its entrance."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from acccmp.core import layout as layouts
from acccmp.core.dump import Dump, Port
from acccmp.core.graph import Graph, Node
from acccmp.core.tensor import TensorRef
from acccmp.errors import InputError, SliceError
from acccmp.models.tracing import Trace


@dataclass(frozen=True, eq=False)
class Slice:
    """A part of a model that can run alone, with the tensors at its entrance.

    `graph` is the part, `whole` the model it was cut from. `inputs` holds, for each of `graph.inputs` that was dumped,
    the device's tensor under the original's output port (seen in the model's own shape and layout); it is empty when
    no dump was given. `golden` and `npu` hold the expected outputs of the part in the same way, as far as known.
    `log` tells in order what was snapped, widened and taken from where; `device_ops` are the device ops inside.
    """

    graph: Graph
    whole: Graph = field(repr=False)
    start: tuple[str, ...]
    end: tuple[str, ...]
    inputs: Dump = field(default_factory=lambda: Dump({}))
    golden: Dump = field(default_factory=lambda: Dump({}), repr=False)
    npu: Dump = field(default_factory=lambda: Dump({}), repr=False)
    taken_from: Mapping[Port, Port] = field(default_factory=dict, repr=False)
    dump: Dump | None = field(default=None, repr=False)
    mapping: Graph | None = field(default=None, repr=False)
    device_ops: tuple[str, ...] = field(default=(), repr=False)
    feeding_ops: tuple[str, ...] = field(default=(), repr=False)
    log: tuple[str, ...] = field(default=(), repr=False)

    @property
    def expected(self) -> Dump:
        """What the part should give: golden outputs."""
        return self.golden

    def input_port(self, tensor: str) -> Port:
        """The original's output port of an input tensor of the part."""
        return self.whole.producer(tensor) or Port(tensor, "output", 0)

    def run(self, inputs: Mapping[str, Any] | None = None, **options: Any) -> Dump:
        """Run the part on this machine, fed with `inputs` (tensor name -> array), else with its dumped inputs."""
        from acccmp.plugins import find

        ran: Dump = find("methods", "Slice.run")(self, inputs, **options)
        return ran

    def save(self, folder: Any = None, **options: Any) -> Any:
        """Write the part, its inputs and what it should give; see `acccmp.slicing.bundle.save_slice`."""
        from acccmp.plugins import find

        return find("methods", "Slice.save")(self, folder, **options)

    def _repr_html_(self) -> str:
        from acccmp.plugins import find

        return str(find("notebook", "Slice")(self))


def cut(
    graph: Graph,
    start: str | Sequence[str] = (),
    end: str | Sequence[str] = (),
    *,
    around: str | None = None,
    radius: int = 1,
    dump: Dump | None = None,
    mapping: Graph | None = None,
    widen: bool = False,
    exact: bool = False,
    all_outputs: bool = False,
) -> Slice:
    """Cut the nodes on any path from `start` to `end` out of `graph`, closed: every tensor it reads is made inside,
    is a weight, or is an input of the slice that the dump holds.

    Start and end are names of nodes or tensors, one or several; or `around` one node, everything within `radius` steps.
    With a `mapping`, a region that begins or ends inside a fused device op grows to that op's border (`exact` refuses
    instead). Without a `dump` the slice has no inputs to feed. `widen` pulls in producers of tensors that were not
    dumped, up to the next dumped ones. Outputs are those of the end nodes, with `all_outputs` every tensor that leaves.

    Raises UnknownName, InputError (no path; start inside a fused op with `exact`), SliceError (tensors not dumped).
    """
    starts, ends, region = (
        _around(graph, around, radius) if around is not None else _between(graph, _names(start), _names(end))
    )
    log: list[str] = []
    trace = Trace(mapping, graph) if mapping is not None else None
    if trace is not None:
        region = _snap(graph, region, trace, exact, log)
    region = _closed(graph, _whole_loops(graph, region, (*starts, *ends)))
    if dump is not None and len(dump):
        region, inputs, taken = _with_inputs(graph, region, dump, trace, widen, log)
    else:
        inputs, taken = {}, {}
    inner = [node for node in graph.nodes if node.name in region]
    last = _last_nodes(graph, region, ends)
    outputs = None if all_outputs or around is not None else _outputs_of(graph, last)
    part = graph.keep((node.name for node in inner), outputs)
    device = trace.ops_of(region - graph.constants) if trace is not None else ()
    given = _dumped_outputs(graph, part, dump, trace) if dump is not None else {}
    feeding = tuple(dict.fromkeys(port.node for port in taken.values() if port.node not in device))
    where = dump.path if dump is not None else None
    return Slice(
        part, graph, starts, ends,
        inputs=Dump(inputs, kind="npu", path=where), npu=Dump(given, kind="npu", path=where), taken_from=taken,
        dump=dump, mapping=mapping, device_ops=device, feeding_ops=feeding, log=tuple(log),
    )


def _names(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


# -- the region --------------------------------------------------------------------------------------------------


def _data_edges(graph: Graph) -> Any:
    """The networkx view without control edges: paths run along data."""
    import networkx

    view = graph.nx
    return networkx.subgraph_view(view, filter_edge=lambda a, b, key: view.edges[a, b, key]["tensor"] is not None)


def _between(
    graph: Graph, start: tuple[str, ...], end: tuple[str, ...],
) -> tuple[tuple[str, ...], tuple[str, ...], set[str]]:
    import networkx

    if not start or not end:
        raise InputError("a slice needs a start and an end: --start A --end B (or --around NODE --radius N)")
    starts = tuple(dict.fromkeys(name for given in start for name in _start_nodes(graph, given)))
    ends = tuple(dict.fromkeys(graph.node(name).name for name in end))
    view = _data_edges(graph)
    below = set(starts).union(*(networkx.descendants(view, name) for name in starts))
    above = set(ends).union(*(networkx.ancestors(view, name) for name in ends))
    region = below & above
    for name in ends:
        if name not in below:
            raise InputError(
                f"the end {name!r} does not lie below the start {_listed(starts)}: {_which_way(view, starts, name)}"
            )
    for name in starts:
        if name not in above:
            raise InputError(
                f"no path leads from the start {name!r} to the end {_listed(ends)}; leave it out or add its end"
            )
    return starts, ends, region


def _start_nodes(graph: Graph, name: str) -> tuple[str, ...]:
    """A model input that is no node stands for the nodes that read it."""
    if name not in graph and name in graph.inputs and graph.consumers(name) and name not in graph.aliases:
        producer = graph.producer(name)
        if producer is None or producer.node not in graph:
            return tuple(dict.fromkeys(port.node for port in graph.consumers(name)))
    return (graph.node(name).name,)


def _which_way(view: Any, starts: Iterable[str], end: str) -> str:
    import networkx

    if any(end in networkx.ancestors(view, start) for start in starts):
        return "it lies above it; exchange --start and --end"
    return "no path joins them"


def _around(graph: Graph, name: str, radius: int) -> tuple[tuple[str, ...], tuple[str, ...], set[str]]:
    if radius < 0:
        raise InputError(f"a radius of {radius} was asked for; it must be 0 or more")
    import networkx

    centre = graph.node(name).name
    near = set(networkx.ego_graph(_data_edges(graph).to_undirected(as_view=True), centre, radius=radius))
    near -= graph.constants - {centre}
    return (centre,), (centre,), near


def _snap(graph: Graph, region: set[str], trace: Trace, exact: bool, log: list[str]) -> set[str]:
    """Grow the region until it holds all or nothing of every fused device op."""
    while True:
        grown = set(region)
        for op, members in trace.groups.items():
            inside, outside = members & region, members - region - graph.constants
            if not inside or not outside:
                continue
            text = f"{_listed(sorted(inside, key=graph.depth.__getitem__))} lies inside the fused device op {op!r}"
            if exact:
                raise InputError(
                    f"{text}, which also implements {_listed(sorted(outside, key=graph.depth.__getitem__))}; "
                    "leave --exact away to take all of it"
                )
            log.append(f"{text}: the region grows by {_listed(sorted(outside, key=graph.depth.__getitem__))}")
            grown |= outside
        grown = _convex(graph, grown)
        if grown == region:
            return region
        region = grown


def _whole_loops(graph: Graph, region: set[str], borders: tuple[str, ...]) -> set[str]:
    """A cut around V1 loops and conds of TensorFlow takes them whole, with the counter and the other branch that lie
    on no path. A border inside a loop is left to the writer, which refuses it and says why."""
    if graph.format != "tensorflow" or any("frame" in graph[name].attrs for name in borders):
        return region
    from acccmp.models.tensorflow_write import whole_control_flow

    return whole_control_flow(graph, region)


def _convex(graph: Graph, region: set[str]) -> set[str]:
    """The region with every node that lies on a path from it back into it."""
    import networkx

    view = _data_edges(graph)
    moving = region - graph.constants
    below = set().union(*(networkx.descendants(view, name) for name in moving)) if moving else set()
    above = set().union(*(networkx.ancestors(view, name) for name in moving)) if moving else set()
    return region | (below & above)


def _closed(graph: Graph, region: set[str]) -> set[str]:
    """The region with the constants that it reads, and what those are made of."""
    closed = set(region)
    waiting = [node for node in graph.nodes if node.name in region]
    while waiting:
        node = waiting.pop()
        for tensor in node.slots:
            port = graph.producer(tensor) if tensor else None
            if port is not None and port.node in graph.constants and port.node not in closed:
                closed.add(port.node)
                waiting.append(graph[port.node])
    return closed


def _last_nodes(graph: Graph, region: set[str], ends: tuple[str, ...]) -> list[str]:
    """The end nodes; where a fused op carried the region on below one, what it ends in now."""
    last = []
    for node in graph.nodes:
        if node.name not in region or node.name in graph.constants:
            continue
        readers = {port.node for tensor in node.outputs if tensor for port in graph.consumers(tensor)}
        if node.name in ends or not readers & region:
            last.append(node.name)
    moved_on = [name for name in last if name not in ends]
    if moved_on:
        return [name for name in last if name not in ends or not _reads_inside(graph, graph[name], region)]
    return last


def _reads_inside(graph: Graph, node: Node, region: set[str]) -> bool:
    return any(port.node in region for tensor in node.outputs if tensor for port in graph.consumers(tensor))


def _outputs_of(graph: Graph, last: Iterable[str]) -> list[str]:
    """The outputs of these nodes that anybody reads (all of them where nobody reads any)."""
    outputs: list[str] = []
    for name in last:
        made = [tensor for tensor in graph[name].outputs if tensor]
        read = [tensor for tensor in made if graph.consumers(tensor) or tensor in graph.outputs]
        outputs += read or made[:1]
    return outputs


# -- its inputs --------------------------------------------------------------------------------------------------


def _with_inputs(
    graph: Graph, region: set[str], dump: Dump, trace: Trace | None, widen: bool, log: list[str],
) -> tuple[set[str], dict[Port, TensorRef], dict[Port, Port]]:
    """The region (widened if asked), the device tensor for each tensor at its entrance, and where each was taken."""
    while True:
        part = graph.keep(region)
        found: dict[Port, TensorRef] = {}
        taken: dict[Port, Port] = {}
        missing: list[str] = []
        for tensor in part.inputs:
            at = find_dumped(graph, tensor, region, dump, trace)
            port = graph.producer(tensor) or Port(tensor, "output", 0)
            if at is None:
                missing.append(tensor)
            else:
                found[port], taken[port] = seen_as_original(graph, tensor, dump[at], trace, at), at
        if not missing:
            return region, found, taken
        pulled = {
            made.node
            for tensor in missing
            if (made := graph.producer(tensor)) is not None and made.node in graph and made.node not in region
        }
        if not widen or not pulled:
            raise SliceError(_not_dumped(graph, missing, region, widen))
        log.append(f"{_listed(missing)} not dumped: the region grows by {_listed(sorted(pulled))}")
        region = _closed(graph, _convex(graph, region | pulled))


def _dumped_outputs(graph: Graph, part: Graph, dump: Dump, trace: Trace | None) -> dict[Port, TensorRef]:
    """What the device gave at the exit of the part, as far as it was dumped."""
    found = {}
    for tensor in part.outputs:
        port = graph.producer(tensor)
        if port is None:
            continue
        carriers = [p for p in trace.carriers(port) if p.side == "output"] if trace is not None else [port]
        at = next((p for p in carriers if p in dump), None)
        if at is not None:
            found[port] = seen_as_original(graph, tensor, dump[at], trace, at)
    return found


def _not_dumped(graph: Graph, missing: Sequence[str], region: Collection[str], widen: bool) -> str:
    first = next((node.name for node in graph.nodes if node.name in region and node.name not in graph.constants), "")
    each = ", ".join(f"{tensor} ({graph.producer(tensor) or Port(tensor, 'output', 0)})" for tensor in missing)
    advice = "dump them" if widen else "dump them, or use --widen to start at the next dumped tensors"
    return f"the slice from {first} also needs tensors that were not dumped: {each}; {advice}"


def find_dumped(
    graph: Graph, tensor: str, region: Collection[str], dump: Dump, trace: Trace | None, outputs_first: bool = False,
) -> Port | None:
    """The dump's port that holds `tensor`: the input section of the device op that reads it inside the region, else
    its producer's output, else any inserted Cast/TransData's output that carries it; None if it was not dumped.

    `outputs_first` looks at outputs before inputs: a model input as it was fed, before the device cast it."""
    producer = graph.producer(tensor) or Port(tensor, "output", 0)
    readers = [port for port in graph.consumers(tensor) if port.node in region]
    if trace is not None:
        inside = set(trace.ops_of({port.node for port in readers}))
        carriers = trace.carriers(producer)
        ordered = [port for port in carriers if port.side == "input" and port.node in inside]
        ordered += [port for port in carriers if port.side == "output"]
        ordered += [port for port in carriers if port.side == "input" and port.node not in inside]
        if outputs_first:
            ordered.sort(key=lambda port: port.side == "input")
        known = next((port for port in ordered if port in dump), None)
        if known is not None:
            return known
    by_name = [*readers, producer, *(port for port in graph.consumers(tensor) if port.node not in region)]
    shape = graph.spec(tensor)
    for at in by_name:
        if at not in dump or (trace is not None and at.node in trace.device_names):
            continue
        if at.side == "output" or not shape.is_static or _could_hold(dump[at], shape.shape):
            return at
    return None


def _could_hold(ref: TensorRef, shape: Any) -> bool:
    """Has the stored tensor room for `shape`? (A device op's input slots are not always the original's.)"""
    need, own = math.prod(shape), math.prod(ref.own_shape)
    return own == need or (ref.original_shape is None and own >= need and not layouts.is_plain(ref.layout))


def seen_as_original(graph: Graph, tensor: str, ref: TensorRef, trace: Trace | None, at: Port) -> TensorRef:
    """The dumped tensor seen in the model's own shape and layout. Raises SliceError when the shapes disagree."""
    spec = graph.spec(tensor)
    shape = tuple(d for d in spec.shape if isinstance(d, int)) if spec.is_static and spec.shape else None
    layout = spec.layout
    origin = trace.origin(at) if trace is not None else None
    if shape is None:
        shape = (origin.shape if origin is not None else None) or ref.original_shape
    if shape is None:
        return ref
    for plain in dict.fromkeys((layout, origin.layout if origin else None, ref.original_layout)):
        if plain is not None and layouts.fits(ref.layout, ref.shape, plain, shape, ref.groups):
            return ref.seen_as(shape, plain)
    found = layouts.candidates(ref.layout, ref.shape, shape)
    if found:
        return ref.seen_as(shape, found[0])
    if ref.count == math.prod(shape) and layouts.is_plain(ref.layout):
        return replace(ref, layout="ND", original_shape=shape, original_layout=layout)
    raise SliceError(
        f"{tensor} was dumped at {at} as {ref.layout} {ref.shape}, which cannot hold the model's {shape}; "
        "was the dump made from another version of the model?"
    )


def _listed(names: Iterable[str], most: int = 6) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
