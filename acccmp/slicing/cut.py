"""The cut: from start and end nodes to a closed part of a Graph, and the dumped tensors at its entrance."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from acccmp.core.dump import Dump, Port
from acccmp.core.graph import Graph
from acccmp.core.reading import FilePath
from acccmp.core.tensor import Array, TensorRef
from acccmp.errors import InputError, SliceError
from acccmp.inputs.files import Inputs
from acccmp.mapping.device_map import DeviceMap
from acccmp.mapping.names import by_names
from acccmp.mapping.reading import dequantised
from acccmp.mapping.trace import Quantisation
from acccmp.models.tensorflow_write import loop_around, refuse_ends_inside_loops, whole_control_flow
from acccmp.plugins import find
from acccmp.slicing.entrance import Entrance, find_entrance

if TYPE_CHECKING:
    from acccmp.slicing.bundle import Bundle


@dataclass(frozen=True, eq=False)
class Slice:
    """A part of a model that can run alone, with the tensors at its entrance.

    `graph` is the part, `whole` the model it was cut from. `inputs` holds, for each of `graph.inputs` that was dumped,
    the device's tensor under the original's output port (seen in the model's own shape and layout); it is empty when
    no dump was given. `taken_from` says at which device port each was dumped, `quantisation` how its numbers are to be
    read where they are quantised. `golden` and `npu` hold the expected outputs of the part in the same way, as far as
    known. `log` tells in order what was snapped, widened and taken from where; `device_ops` are the device ops inside.

    >>> part = acccmp.slice_model("resnet.onnx", "block2/conv1", "block2/relu2")
    >>> part
    Slice(7 nodes of resnet, block2/conv1 to block2/relu2, without dumped inputs)
    >>> bundle = part.save("cut_out")
    >>> bundle.manifest.self_test.status
    'passed'
    """

    graph: Graph
    whole: Graph = field(repr=False)
    start: tuple[str, ...]
    end: tuple[str, ...]
    inputs: Dump = field(default_factory=lambda: Dump({}))
    golden: Dump = field(default_factory=lambda: Dump({}), repr=False)
    npu: Dump = field(default_factory=lambda: Dump({}), repr=False)
    taken_from: Mapping[Port, Port] = field(default_factory=dict, repr=False)
    quantisation: Mapping[Port, Quantisation] = field(default_factory=dict, repr=False)
    dump: Dump | None = field(default=None, repr=False)
    mapping: DeviceMap | None = field(default=None, repr=False)
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

    def fed_with(self, tensor: str) -> Array | None:
        """The device's tensor at the input `tensor`, in the model's own dtype, quantisation undone; None if there is
        none."""
        port = self.input_port(tensor)
        if port not in self.inputs:
            return None
        return dequantised(self.inputs[port], self.graph.spec(tensor), self.quantisation.get(port))[0]

    def __repr__(self) -> str:
        ends = " to ".join(", ".join(names) for names in (self.start, self.end) if names) or "the whole"
        fed = f"fed with {len(self.inputs)} dumped tensors" if len(self.inputs) else "without dumped inputs"
        return f"Slice({len(self.graph)} nodes of {self.whole.name}, {ends}, {fed})"

    def run(
        self, inputs: Inputs | None = None, *, runner: str | None = None, wanted: Sequence[str] | None = None,
    ) -> Dump:
        """Run the part on this machine, fed with `inputs` (arrays or files by tensor name), else with the dumped ones.

        `wanted` are the tensors to keep, all by default. Raises InputError naming inputs that are missing, and RunError
        when the part cannot run.
        """
        ran: Dump = find("methods", "Slice.run")(self, inputs, runner=runner, wanted=wanted)
        return ran

    def save(
        self, folder: FilePath | None = None, *, golden: Dump | FilePath | None = None, inputs: Inputs | None = None,
        seed: int = 0, dtype: str = "float16", zip: bool = False, check: bool = True, runner: str | None = None,
        when: datetime | None = None,
    ) -> Bundle:
        """Check the part against the whole model, and write it with its inputs and what it should give into
        `folder/dump_result_<time>/` (in the current folder without one); see `acccmp.jobs.slice.export_slice`.

        `dtype` is what the raw `.bin` inputs are stored as. Raises InputError for a folder that cannot be written and
        FormatError for a dumped tensor that cannot be read; nothing is left behind then.
        """
        written: Bundle = find("methods", "Slice.save")(
            self, folder, golden=golden, inputs=inputs, seed=seed, dtype=dtype, zip=zip, check=check, runner=runner,
            when=when,
        )
        return written

    def _repr_html_(self) -> str:
        return str(find("notebook", "Slice")(self))


def cut(
    graph: Graph,
    start: str | Sequence[str] = (),
    end: str | Sequence[str] = (),
    *,
    around: str | None = None,
    radius: int = 1,
    dump: Dump | None = None,
    mapping: DeviceMap | None = None,
    fed: Mapping[str, TensorRef] | None = None,
    widen: bool = False,
    exact: bool = False,
    all_outputs: bool = False,
) -> Slice:
    """Cut the nodes on any path from `start` to `end` out of `graph`, closed: every tensor it reads is made inside,
    is a weight, or is an input of the slice that the dump holds.

    Start and end are names of nodes, tensors, ports or (with a `mapping` or a `dump`) device ops, one or several; or
    `around` one node, everything within `radius` steps.
    With a `mapping` (without one: by the names of the dumped ops), a region that begins or ends inside a fused device
    op grows to that op's border (`exact` refuses instead). V1 loops and conds of TensorFlow that the region passes are
    taken whole. Without a `dump` the slice has no inputs to feed. `fed` are tensors of model inputs, taken where the
    dump does not have them. `widen` pulls in producers of tensors that were not dumped, up to the next dumped ones.
    Outputs are those of the end nodes, with `all_outputs` every tensor that leaves.

    Raises UnknownName, InputError (no path; start inside a fused op with `exact`), SliceError (tensors not dumped, a
    start or an end inside a V1 loop).
    """
    if mapping is None and dump is not None:
        mapping = by_names(dump, graph)
    device = mapping.beside(graph) if mapping is not None else None
    if around is not None:
        starts, ends, region = _around(graph, device.original_of(around, "end") if device else around, radius)
    else:
        starts, ends, region = _between(
            graph, tuple(device.original_of(name, "start") if device else name for name in _names(start)),
            tuple(device.original_of(name, "end") if device else name for name in _names(end)),
        )
        refuse_ends_inside_loops(graph, starts, ends)
    region, log = _complete(graph, region, device, exact)
    found: dict[str, Entrance] = {}
    given = {tensor: Entrance(Port(tensor, "output", 0), ref) for tensor, ref in (fed or {}).items()}
    if dump is not None and device is not None and len(dump):
        region, found, more = _with_inputs(graph, region, dump, device, given, widen, exact)
        log += more
    log += [f"{tensor}: {note}" for tensor, entrance in found.items() for note in entrance.notes]
    if all_outputs or around is not None:
        inner = {t for name in region if loop_around(graph, graph[name], "output") for t in graph[name].outputs}
        outputs = [tensor for tensor in graph.keep(region).outputs if tensor not in inner]
    else:
        outputs, more = _outputs(graph, region, ends, device)
        log += more
    part = graph.keep(region, outputs)
    inside = device.ops_of(region - graph.constants) if device is not None else ()
    if dump is not None and device is not None and device.is_by_name:
        there = {port.node for port in dump} | {broken.name for broken in dump.broken}
        inside = tuple(op for op in inside if op in there)
    at_exit = _dumped_outputs(graph, part, dump, device) if dump is not None and device is not None else {}
    ports = {tensor: graph.producer(tensor) or Port(tensor, "output", 0) for tensor in (*found, *at_exit)}
    taken = {ports[tensor]: entrance.at for tensor, entrance in found.items() if tensor not in given}
    every = {**at_exit, **found}
    where = dump.path if dump is not None else None
    return Slice(
        part, graph, starts, ends,
        inputs=Dump({ports[tensor]: e.ref for tensor, e in found.items()}, kind="npu", path=where),
        npu=Dump({ports[tensor]: e.ref for tensor, e in at_exit.items()}, kind="npu", path=where),
        taken_from=taken,
        quantisation={ports[tensor]: e.quantisation for tensor, e in every.items() if e.quantisation is not None},
        dump=dump, mapping=device, device_ops=inside,
        feeding_ops=_feeding(graph, part, device, taken.values(), inside),
        log=tuple(log),
    )


def _feeding(
    graph: Graph, part: Graph, device: DeviceMap | None, taken: Iterable[Port], inside: Collection[str],
) -> tuple[str, ...]:
    """The ops of the dump that make what stands at the entrance, and those where it was found."""
    makers = [port.node for tensor in part.inputs if (port := graph.producer(tensor)) is not None]
    ops = device.ops_of(makers) if device is not None else makers
    return tuple(dict.fromkeys(name for name in (*ops, *(port.node for port in taken)) if name not in inside))


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
    ends = tuple(dict.fromkeys(_named(graph, name, "end") for name in end))
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
    return (_named(graph, name, "start"),)


def _named(graph: Graph, name: str, role: str) -> str:
    """The node of this name, or the one that makes this tensor. Raises UnknownName, or InputError."""
    if name not in graph and name not in graph.aliases:
        if name in graph.inputs and (made := graph.producer(name)) is not None and made.node not in graph:
            raise InputError(f"the {role} {name!r} is an input of the model; name a node or a tensor that a node makes")
        if name in graph.weights:
            readers = _listed(port.node for port in graph.consumers(name))
            raise InputError(f"the {role} {name!r} is a weight; name the node that reads it ({readers or 'none does'})")
    return graph.node(name).name


def _which_way(view: Any, starts: Iterable[str], end: str) -> str:
    import networkx

    if any(end in networkx.ancestors(view, start) for start in starts):
        return "it lies above it; exchange --start and --end"
    return "no path joins them"


def _around(graph: Graph, name: str, radius: int) -> tuple[tuple[str, ...], tuple[str, ...], set[str]]:
    if radius < 0:
        raise InputError(f"a radius of {radius} was asked for; it must be 0 or more")
    import networkx

    centre = _named(graph, name, "centre")
    still = graph.constants - {centre}
    moving = networkx.subgraph_view(_data_edges(graph), filter_node=lambda node: node not in still)
    near = set(networkx.ego_graph(moving.to_undirected(as_view=True), centre, radius=radius))
    return (centre,), (centre,), near


def _complete(
    graph: Graph, region: set[str], device: DeviceMap | None, exact: bool,
) -> tuple[set[str], list[str]]:
    """The region grown until it holds all or nothing of every fused device op and of every V1 loop and cond of
    TensorFlow that it passes, with its constants; and what it grew by."""
    notes: list[str] = []
    while True:
        grown, more = _snapped(graph, region, device, exact) if device is not None else (region, [])
        notes += more
        if graph.format == "tensorflow" and (parts := whole_control_flow(graph, grown) - grown):
            notes.append(f"V1 loops and conds are taken whole: the region grows by {_in_order(graph, parts)}")
            grown = grown | parts
        if grown == region:
            return _closed(graph, region), notes
        region = _convex(graph, grown)


def _snapped(graph: Graph, region: set[str], device: DeviceMap, exact: bool) -> tuple[set[str], list[str]]:
    """The region with the rest of each fused device op of which it holds a part. Raises InputError with `exact`."""
    grown, notes = set(region), []
    for op, members in device.groups.items():
        inside, outside = members & region, members - region - graph.constants
        if not inside or not outside:
            continue
        text = f"{_in_order(graph, inside)} lies inside the fused device op {op!r}"
        if exact:
            raise InputError(
                f"{text}, which also implements {_in_order(graph, outside)}; leave --exact away to take all of it"
            )
        notes.append(f"{text}: the region grows by {_in_order(graph, outside)}")
        grown |= outside
    return grown, notes


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


def _outputs(
    graph: Graph, region: set[str], ends: Iterable[str], device: DeviceMap | None,
) -> tuple[list[str], list[str]]:
    """What the end nodes give, and notes. An end whose tensor stays inside a fused device op moves on to where that op
    ends."""
    outputs: list[str] = []
    notes: list[str] = []
    for end in ends:
        moved = _device_exit(graph, end, region, device) if device is not None else ()
        if moved:
            notes.append(f"the end {end} lies inside a fused device op: the outputs are those of {_listed(moved)}")
        outputs += _outputs_of(graph, moved or (end,))
    return outputs, notes


def _device_exit(graph: Graph, end: str, region: set[str], device: DeviceMap) -> tuple[str, ...]:
    """The originals in which the fused device op ends that `end` lies inside of; () where `end` has a tensor itself."""
    exits: dict[str, None] = {}
    for op in device.ops_of({end}):
        members = (device.groups[op] & region) - graph.constants
        if len(members) < 2:
            return ()
        here = [name for name in members if any(
            port.node == op and port.side == "output"
            for index in range(len(graph[name].outputs)) for port in device.carriers(Port(name, "output", index))
        )]
        exits.update(dict.fromkeys(here or [max(members, key=graph.depth.__getitem__)]))
    return () if end in exits else tuple(sorted(exits, key=graph.depth.__getitem__))


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
    graph: Graph, region: set[str], dump: Dump, device: DeviceMap, given: Mapping[str, Entrance], widen: bool,
    exact: bool,
) -> tuple[set[str], dict[str, Entrance], list[str]]:
    """The region (widened if asked), the tensor for each tensor at its entrance, and notes."""
    notes: list[str] = []
    while True:
        found: dict[str, Entrance] = {}
        missing: dict[str, tuple[str, ...]] = {}
        for tensor in graph.keep(region).inputs:
            search = find_entrance(graph, tensor, region, dump, device)
            if search.entrance is not None:
                found[tensor] = search.entrance
            elif tensor in given:
                found[tensor] = given[tensor]
                notes.append(f"{tensor}: not dumped; taken from the given input")
            else:
                missing[tensor] = search.reasons
        if not missing:
            return region, found, notes
        pulled = {
            made.node
            for tensor in missing
            if (made := graph.producer(tensor)) is not None and made.node in graph and made.node not in region
        }
        if not widen or not pulled:
            raise SliceError(_not_dumped(graph, missing, region, widen))
        notes.append(f"{_listed(missing)} not dumped: the region grows by {_listed(sorted(pulled))}")
        region, more = _complete(graph, _convex(graph, region | pulled), device, exact)
        notes += more


def _dumped_outputs(graph: Graph, part: Graph, dump: Dump, device: DeviceMap) -> dict[str, Entrance]:
    """What the device gave at the exit of the part, as far as it was dumped and can be read as the original's."""
    found = {}
    for tensor in part.outputs:
        search = find_entrance(graph, tensor, (), dump, device, outputs_first=True)
        if search.entrance is not None:
            found[tensor] = search.entrance
    return found


def _not_dumped(graph: Graph, missing: Mapping[str, Sequence[str]], region: Collection[str], widen: bool) -> str:
    first = next((node.name for node in graph.nodes if node.name in region and node.name not in graph.constants), "")
    each = ", ".join(
        f"{tensor} ({graph.producer(tensor) or Port(tensor, 'output', 0)}{''.join(f'; dumped {r}' for r in why[:2])})"
        for tensor, why in missing.items()
    )
    advice = "dump them" if widen else "dump them, or use --widen to start at the next dumped tensors"
    if all(tensor in graph.inputs for tensor in missing):
        advice = f"dump them, or give them: {' '.join(f'--input {tensor}=FILE' for tensor in missing)}"
    return f"the slice from {first} also needs tensors that were not dumped: {each}; {advice}"


def _listed(names: Iterable[str], most: int = 6) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _in_order(graph: Graph, names: Iterable[str]) -> str:
    return _listed(sorted(names, key=graph.depth.__getitem__))
