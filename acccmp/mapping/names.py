"""The mapping that names alone tell, where no device model is at hand.

An op of the dump stands for the node of its name; compilers call a fused op by the names of its nodes one behind the
other (`conv1relu1`, some may be left out), and a dump's header may name the original of an output. Every other node of
the original is taken for an op of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import cached_property

from acccmp.core.dump import Dump, Origin, Port, flatten_name
from acccmp.core.graph import Graph, Node, TensorSpec
from acccmp.mapping.device_map import DeviceMap
from acccmp.mapping.trace import PASSING

MOST_READINGS = 16  # ways to cut a name into names that are looked at
MOST_STEPS = 4  # nodes between two that a name holds
_CONSTANT = Node("(constant)", "Const", outputs=("(constant):0",), origins=())
_INSIDE = "(inside):0"  # a tensor that does not leave its op


def by_names(dump: Dump, original: Graph | Dump) -> DeviceMap:
    """The mapping from the ops of a device dump to an original model, or to the ops of a golden dump (which says
    nothing of what feeds them)."""
    names = _Names(dump, original)
    placed: list[tuple[int, Node]] = [(-1, _CONSTANT)]
    tensors: dict[str, TensorSpec] = {}
    depth = -1
    for op, members in names.stands_for.items():
        depth = names.depth[members[-1]] if members else depth
        kind = names.kinds.get(op, "")
        origins = members or (() if _is_inserted(op, kind) else None)
        placed.append((depth, Node(op, kind, names.inputs(members), tuple(names.outputs[op]), origins=origins)))
        tensors.update({tensor: TensorSpec(tensor, origin=origin) for tensor, origin in names.outputs[op].items()})
    placed.sort(key=lambda pair: pair[0])
    nodes = tuple(node for _, node in placed)
    return DeviceMap(Graph(dump.model, "om", nodes, tensors=tensors, path=dump.path), is_by_name=True)


def _is_inserted(op: str, kind: str) -> bool:
    """Is an op that stands for no node one that compilers make?"""
    return kind in ("TransData", "Aipp") or (kind in PASSING and op.startswith("trans_"))


class _Names:
    """Which nodes the ops of a dump stand for, by their names.

    `depth` are the original's nodes and inputs with their places, `counts` how many outputs each has.
    """

    def __init__(self, dump: Dump, original: Graph | Dump) -> None:
        self.dump = dump
        self.model = original if isinstance(original, Graph) else None
        self.counts: dict[str, int] = {}
        if isinstance(original, Graph):
            fed = [port.node for tensor in original.inputs if (port := original.producer(tensor)) is not None]
            self.depth = {**dict.fromkeys(fed, -1), **original.depth}
            self.counts = {node.name: len(node.outputs) for node in original.nodes}
        else:
            for port in original:
                if port.side == "output":
                    self.counts[port.node] = max(self.counts.get(port.node, 0), port.index + 1)
            self.depth = {name: place for place, name in enumerate(self.counts)}

    @cached_property
    def ops(self) -> Mapping[str, int]:
        """The dump's ops, unreadable ones too -> how many outputs were dumped."""
        found: dict[str, int] = {}
        for port in self.dump:
            least = port.index + 1 if port.side == "output" else 0
            found[port.node] = max(found.get(port.node, 0), least)
        for broken in self.dump.broken:
            found.setdefault(broken.port.node if broken.port else broken.name, 0)
        return found

    @cached_property
    def kinds(self) -> Mapping[str, str]:
        """Op types: the device's for dumped ops, the original's for the others."""
        found = {node.name: node.op_type for node in self.model.nodes} if self.model is not None else {}
        for broken in self.dump.broken:
            found.setdefault(broken.name, broken.op_type)
        return {**found, **{name: op.op_type for name, op in self.dump.ops.items()}}

    # -- names -------------------------------------------------------------------------------------------------------

    @cached_property
    def _flat(self) -> Mapping[str, str]:
        """Flattened names -> nodes, where only one is flattened so."""
        found: dict[str, str] = {}
        for name in self.depth:
            key = flatten_name(name)
            found[key] = name if key not in found else ""
        return {key: name for key, name in found.items() if name}

    def _node(self, name: str) -> str:
        """The original's node of this name, or that which makes the tensor of this name; "" without one."""
        if name in self.depth:
            return name
        made = self.model.producer(name) if self.model is not None else None
        return made.node if made is not None else self._flat.get(flatten_name(name), "")

    @cached_property
    def _own(self) -> Mapping[str, str]:
        """Ops that have the name of one node -> that node; a node that several could be is nobody's."""
        found = {op: node for op in self.ops if (node := self._node(op))}
        claims: dict[str, list[str]] = {}
        for op, node in found.items():
            claims.setdefault(node, []).append(op)
        return {op: node for op, node in found.items() if op == node or (claims[node] == [op])}

    @cached_property
    def stands_for(self) -> Mapping[str, tuple[str, ...]]:
        """Every op, those of the dump first -> the nodes that it stands for, in the original's order."""
        taken = set(self._own.values())
        found: dict[str, tuple[str, ...]] = {}
        for op in self.ops:
            members = {self._own[op]} if op in self._own else set(self._joined_name(flatten_name(op), taken))
            told = self.dump.ops[op].origins.values() if op in self.dump.ops else ()
            for node in filter(None, (self._node(origin.node) for origin in told)):
                members = members or self._first(op, taken)
                members = self._joined({*members, node}, taken - members) or {node}
            taken |= members
            found[op] = tuple(sorted(members, key=self.depth.__getitem__))
        return {**found, **{name: (name,) for name in self.depth if name not in taken and name not in found}}

    def _first(self, op: str, taken: Collection[str]) -> set[str]:
        """The node whose name an op's name begins with; compilers may put words of their own behind it."""
        text = flatten_name(op).removeprefix("PartitionedCall_")
        found = (self._flat[text[:end]] for end in range(len(text), 0, -1) if text[:end] in self._flat)
        return {node for node in [next(found, "")] if node and node not in taken}

    def _joined_name(self, text: str, taken: Collection[str]) -> Collection[str]:
        """The nodes whose names make up `text`, with those between them; none where it can be cut in several ways."""
        if self.model is None or not text:
            return ()
        found: set[frozenset[str]] = set()
        for count, parts in enumerate(self._cuts(text, taken)):
            if count == MOST_READINGS:
                return ()
            if len(set(parts)) == len(parts) and (joined := self._joined(set(parts), taken)):
                found.add(frozenset(joined))
        return found.pop() if len(found) == 1 else ()

    @cached_property
    def _lengths(self) -> tuple[int, ...]:
        return tuple(sorted({len(name) for name in self._flat}))

    def _cuts(self, text: str, taken: Collection[str]) -> Iterator[tuple[str, ...]]:
        """The ways to cut `text` into names of nodes."""
        steps: dict[int, list[tuple[int, str]]] = {}
        waiting = [0]
        while waiting:
            start = waiting.pop()
            if start in steps:
                continue
            steps[start] = [
                (start + n, node) for n in self._lengths if start + n <= len(text)
                and (node := self._flat.get(text[start : start + n])) is not None and node not in taken
            ]
            waiting += [end for end, _ in steps[start]]
        alive = {len(text)}  # places from which the end can be reached
        for start in sorted(steps, reverse=True):
            steps[start] = [(end, node) for end, node in steps[start] if end in alive]
            alive |= {start} if steps[start] else set()
        ways: list[tuple[int, tuple[str, ...]]] = [(0, ())]
        while ways:
            start, parts = ways.pop()
            if start == len(text):
                yield parts
            ways += [(end, (*parts, node)) for end, node in steps[start]]

    def _joined(self, members: set[str], taken: Collection[str]) -> set[str]:
        """`members` with the nodes on short ways between them; empty where they do not hang together.

        No way leads through nodes that are dumped ops themselves.
        """
        if len(members) == 1 or self.model is None:
            return members
        import networkx

        whole = set(members)
        joins = networkx.Graph()
        joins.add_nodes_from(members)
        for member in members:
            for way in self._ways(member, members, taken):
                whole.update(way)
                joins.add_edge(member, way[-1])
        return whole if networkx.is_connected(joins) else set()

    def _ways(self, start: str, ends: Collection[str], taken: Collection[str]) -> Iterator[tuple[str, ...]]:
        """Ways downstream from a node to the next of `ends`, without the start itself."""
        assert self.model is not None
        waiting: list[tuple[str, ...]] = [(start,)]
        while waiting:
            way = waiting.pop()
            tensors = self.model[way[-1]].outputs if way[-1] in self.model else (way[-1],)
            for name in dict.fromkeys(port.node for tensor in tensors for port in self.model.consumers(tensor)):
                if name in ends:
                    yield (*way[1:], name)
                elif len(way) <= MOST_STEPS and name not in taken:
                    waiting.append((*way, name))

    # -- tensors -----------------------------------------------------------------------------------------------------

    @cached_property
    def outputs(self) -> Mapping[str, Mapping[str, Origin]]:
        """Every op -> its tensors (`op:index`) and the originals that they are, as far as names tell."""
        found = {}
        for op, members in self.stands_for.items():
            last = members[-1] if members else ""
            told = self.dump.ops[op].origins if op in self.dump.ops else {}
            written = {i: origin for i, o in told.items() if (origin := self._known(o)) is not None}
            count = max(self.ops.get(op, 0), self.counts.get(last, 1) if last else 0)
            found[op] = {
                f"{op}:{i}": written.get(i) or Origin(last if not written else "", i) for i in range(count)
            }
        return found

    def _known(self, origin: Origin) -> Origin | None:
        node = self._node(origin.node)
        return Origin(node, origin.index, origin.layout, origin.shape, origin.dtype) if node else None

    @cached_property
    def _made(self) -> Mapping[Port, str]:
        """Original output ports -> the device tensors that they are."""
        return {
            Port(origin.node, "output", origin.index): tensor
            for outputs in self.outputs.values() for tensor, origin in outputs.items() if origin.node
        }

    def inputs(self, members: tuple[str, ...]) -> tuple[str, ...]:
        """The device tensors that the op of these nodes reads, in the order in which they read them."""
        if self.model is None:
            return ()
        inside = {tensor for name in members if name in self.model for tensor in self.model[name].outputs}
        read = [tensor for name in members if name in self.model for tensor in self.model[name].slots]
        if len(members) > 1:
            read = list(dict.fromkeys(tensor for tensor in read if tensor and tensor not in inside))
        return tuple(self._tensor(tensor) if tensor else "" for tensor in read)

    def _tensor(self, tensor: str) -> str:
        assert self.model is not None
        port = self.model.producer(tensor)
        if port is None or port.node in self.model.constants:
            return _CONSTANT.outputs[0]
        return self._made.get(port, _INSIDE)
