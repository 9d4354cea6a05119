"""Running a model that is larger than the memory it may take: piece after piece, each with its own weights only."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from acccmp.core.dump import Dump, Port
from acccmp.core.graph import Graph
from acccmp.core.tensor import TensorRef
from acccmp.runners.run import run
from acccmp.runners.runner import needed

LARGE = 1 << 29  # bytes of weights from which a model is run in pieces
PIECE = 1 << 27  # bytes of weights in a piece (a single op may have more)


def weight_bytes(graph: Graph) -> int:
    """Bytes of all weights as they are stored."""
    return sum(ref.nbytes for ref in graph.weights.values())


def run_lean(
    graph: Graph, inputs: Mapping[str, Any], *, runner: str | None = None, wanted: Collection[str], piece: int = PIECE,
    large: int = LARGE,
) -> Dump:
    """`run`, for ONNX models with more than `large` bytes of weights in pieces of about `piece` bytes of them.

    Only what `wanted` needs is run. With optimisation off, as our runners have it, the numbers are the same.
    """
    if graph.format != "onnx" or weight_bytes(graph) <= large:
        return run(graph, inputs, runner=runner, wanted=wanted)
    above = needed(graph, wanted)
    values: dict[str, Any] = {}
    refs: dict[Port, TensorRef] = {}
    for tensor in graph.inputs:
        if tensor in inputs:
            values[tensor] = inputs[tensor]
            refs[graph.producer(tensor) or Port(tensor, "output", 0)] = TensorRef.of(inputs[tensor])
    ran = Dump({}, kind="golden")
    left = dict.fromkeys(node.name for node in graph.nodes if node.name in above)
    for names in _pieces(graph, left, piece):
        for name in names:
            left.pop(name, None)
        later = {tensor for name in left for tensor in graph[name].slots}
        made = [tensor for name in names for tensor in graph[name].outputs if tensor]
        outputs = [tensor for tensor in made if tensor in later or tensor in wanted]
        if not outputs:
            continue
        part = graph.keep({*names, *_constants_of(graph, names)}, outputs)
        ran = run(part, {tensor: values[tensor] for tensor in part.inputs}, runner=runner, wanted=outputs)
        for tensor in outputs:
            port = graph.producer(tensor)
            if port is not None and port in ran:
                values[tensor] = ran[port].numpy()
                if tensor in wanted:
                    refs[port] = ran[port]
        values = {tensor: array for tensor, array in values.items() if tensor in later}
    return replace(ran, refs=refs, run=replace(ran.run, outputs=()), notes=())


def _constants_of(graph: Graph, names: Collection[str]) -> set[str]:
    """The constant nodes that these nodes read, and what those are made of: some kernels want them as constants."""
    tensors = [tensor for name in names for tensor in graph[name].slots if tensor]
    return needed(graph, [t for t in tensors if (p := graph.producer(t)) is not None and p.node in graph.constants])


def _pieces(graph: Graph, names: Collection[str], limit: int) -> Iterator[list[str]]:
    """`names`, in execution order, cut where the weights read so far go beyond `limit` bytes."""
    piece: list[str] = []
    held: dict[str, int] = {}
    for name in list(names):
        node = graph[name]
        more = {t: graph.weights[t].nbytes for t in (*node.slots, *node.weights) if t in graph.weights}
        if piece and sum(held.values()) + sum(size for t, size in more.items() if t not in held) > limit:
            yield piece
            piece, held = [], {}
        piece.append(name)
        held.update(more)
    if piece:
        yield piece
