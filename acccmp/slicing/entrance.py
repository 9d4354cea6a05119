"""The device's tensors seen as the original's: which dumped tensor stands at the entrance of a slice, in the model's
own shape, order and numbers."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from acccmp.core import layout as layouts
from acccmp.core.dump import Dump, Port
from acccmp.core.graph import Graph, TensorSpec
from acccmp.core.tensor import TensorRef
from acccmp.errors import SliceError
from acccmp.mapping.reading import _seen, _sizes
from acccmp.mapping.trace import Quantisation, Trace, Trail


@dataclass(frozen=True)
class Entrance:
    """A dumped tensor that stands for a tensor of the model: the port it was dumped at, the tensor in the model's own
    shape and order, and how its numbers were quantised (None: not at all)."""

    at: Port
    ref: TensorRef
    quantisation: Quantisation | None = None


@dataclass(frozen=True)
class Search:
    """What was found for a tensor; without `entrance` the reasons why what was dumped of it cannot be used."""

    entrance: Entrance | None
    reasons: tuple[str, ...] = ()


def find_entrance(
    graph: Graph, tensor: str, region: Collection[str], dump: Dump, trace: Trace | None, *, outputs_first: bool = False,
) -> Search:
    """The dumped tensor for `tensor` at the entrance of `region`: the input section of the device op that reads it
    inside, else its producer's output, else what an inserted op made of it, else what readers outside were fed with.

    Behind an inserted Transpose it is turned back; one that cannot be turned back, or that is quantised without a
    known scale, is not used. `outputs_first` looks at outputs before inputs: a model input as it was fed, before the
    device cast it. Raises SliceError when the tensor was dumped in a shape that contradicts the model's.
    """
    reasons: list[str] = []
    spec = graph.spec(tensor)
    for at in _candidates(graph, tensor, region, dump, trace, outputs_first):
        trail = trace.arrival(at) if trace is not None else None
        by_name = trail is None
        if by_name and at.side == "input" and spec.is_static and not _could_hold(dump[at], _sizes(spec) or ()):
            continue  # a device op's input slots are not always the original's
        reason = _why_not(spec, dump[at], trail)
        if not reason:
            seen = _seen(graph, tensor, dump[at], trail)
            if seen is not None:
                return Search(Entrance(at, seen, trail.quantisation if trail is not None else None))
            if trail is None or not (trail.is_reshaped or trail.axes):
                raise SliceError(_misfit(graph, tensor, dump[at], at))
            reason = f"in another shape behind {', '.join(trail.steps[:3])}"
        reasons.append(f"at {at} {reason}")
    return Search(None, tuple(reasons))


def _candidates(
    graph: Graph, tensor: str, region: Collection[str], dump: Dump, trace: Trace | None, outputs_first: bool,
) -> Iterator[Port]:
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
        yield from (port for port in ordered if port in dump)
    by_name = [*readers, producer, *(port for port in graph.consumers(tensor) if port.node not in region)]
    if outputs_first:
        by_name.sort(key=lambda port: port.side == "input")
    yield from (at for at in by_name if at in dump and (trace is None or at.node not in trace.device_names))


def _why_not(spec: TensorSpec, ref: TensorRef, trail: Trail | None) -> str:
    """Why this tensor cannot stand for the original's; "" if it can."""
    if ref.dtype.kind == "opaque":
        return f"as {ref.dtype}, which has no meaning as numbers"
    if trail is not None and (trail.is_reordered or (trail.axes is not None and trail.is_reshaped)):
        return f"in an order behind {', '.join(trail.steps[:3])} that nothing tells how to undo"
    wanted = spec.dtype.kind if spec.dtype is not None else None
    if wanted == "float" and ref.dtype.kind != "float":
        if trail is None or trail.quantisation is None:
            return f"as {ref.dtype} only, without the scale that makes it {spec.dtype} again"
    elif wanted in ("int", "bool") and ref.dtype.kind not in ("int", "bool"):
        return f"as {ref.dtype}, where the model has {spec.dtype}"
    return ""


def _could_hold(ref: TensorRef, shape: tuple[int, ...]) -> bool:
    """Has the stored tensor room for `shape`?"""
    need, own = math.prod(shape), math.prod(ref.own_shape)
    return own == need or (ref.original_shape is None and own >= need and not layouts.is_plain(ref.layout))


def _misfit(graph: Graph, tensor: str, ref: TensorRef, at: Port) -> str:
    shape = graph.spec(tensor).shape
    own = f" of {ref.original_shape}" if ref.original_shape is not None and not layouts.is_plain(ref.layout) else ""
    told = "unknown shape" if shape is None else f"({', '.join('?' if d is None else str(d) for d in shape)})"
    return (
        f"{tensor} was dumped at {at} as {ref.layout} {ref.shape}{own}, which cannot hold the model's {told}; "
        "was the dump made from another version of the model?"
    )


def seen_as_original(graph: Graph, tensor: str, ref: TensorRef, trace: Trace | None, at: Port) -> TensorRef:
    """The dumped tensor of port `at` seen in the model's own shape and order. SliceError when the shapes disagree."""
    seen = _seen(graph, tensor, ref, trace.arrival(at) if trace is not None else None)
    if seen is None:
        raise SliceError(_misfit(graph, tensor, ref, at))
    return seen


# -- shapes and order --------------------------------------------------------------------------------------------


# -- numbers -----------------------------------------------------------------------------------------------------


