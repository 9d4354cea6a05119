"""The device's tensors seen as the original's: which dumped tensor stands at the entrance of a slice, in the model's
own shape, order and numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from acccmp.core import layout as layouts
from acccmp.core.dump import Dump, Port
from acccmp.core.graph import Graph, TensorSpec, agrees, shape_text
from acccmp.core.tensor import TensorRef
from acccmp.errors import SliceError
from acccmp.mapping.device_map import DeviceMap
from acccmp.mapping.reading import could_hold, read_as, sizes_of
from acccmp.mapping.trace import Quantisation, Trail


@dataclass(frozen=True)
class Entrance:
    """A dumped tensor that stands for a tensor of the model: the port it was dumped at, the tensor in the model's own
    shape and order, how its numbers were quantised (None: not at all), and what is to be said of how it is read."""

    at: Port
    ref: TensorRef
    quantisation: Quantisation | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Search:
    """What was found for a tensor; without `entrance` the reasons why what was dumped of it cannot be used."""

    entrance: Entrance | None
    reasons: tuple[str, ...] = ()


def find_entrance(
    graph: Graph, tensor: str, region: Collection[str], dump: Dump, device: DeviceMap, *, outputs_first: bool = False,
) -> Search:
    """The dumped tensor for `tensor` at the entrance of `region`: the input section of the device op that reads it
    inside, else its producer's output, else what an inserted op made of it, else what readers outside were fed with.

    Behind an inserted Transpose it is turned back; one that cannot be turned back, or that is quantised without a
    known scale, is not used. `outputs_first` looks at outputs before inputs: a model input as it was fed, before the
    device cast it. Raises SliceError when the tensor was dumped in a shape that contradicts the model's.
    """
    reasons: list[str] = []
    spec = graph.spec(tensor)
    for at in _candidates(graph, tensor, region, dump, device, outputs_first):
        trail, sizes = device.arrival(at), sizes_of(spec.shape)
        by_name = trail is None or device.is_by_name
        if by_name and at.side == "input" and sizes is not None and not could_hold(dump[at], sizes):
            continue  # a device op's input slots are not always the original's
        reason = _why_not(spec, dump[at], trail)
        if not reason:
            found = read_as(dump[at], spec.shape, spec.layout, trail)
            if found.ref is not None and agrees(spec.shape, found.ref.own_shape):
                rule = trail.quantisation if trail is not None else None
                return Search(Entrance(at, found.ref, rule, found.notes))
            if not found.is_lost:
                raise SliceError(misfit(graph, tensor, dump[at], at))
            reason = found.reason
        reasons.append(f"at {at} {reason}")
    return Search(None, tuple(reasons))


def _candidates(
    graph: Graph, tensor: str, region: Collection[str], dump: Dump, device: DeviceMap, outputs_first: bool,
) -> Iterator[Port]:
    producer = graph.producer(tensor) or Port(tensor, "output", 0)
    readers = [port for port in graph.consumers(tensor) if port.node in region]
    inside = set(device.ops_of({port.node for port in readers}))
    carriers = device.carriers(producer)
    ordered = [port for port in carriers if port.side == "input" and port.node in inside]
    ordered += [port for port in carriers if port.side == "output"]
    ordered += [port for port in carriers if port.side == "input" and port.node not in inside]
    if outputs_first:
        ordered.sort(key=lambda port: port.side == "input")
    yield from (port for port in ordered if port in dump)
    by_name = [*readers, producer, *(port for port in graph.consumers(tensor) if port.node not in region)]
    if outputs_first:
        by_name.sort(key=lambda port: port.side == "input")
    yield from (at for at in by_name if at in dump and device.node(at.node) is None)


def _why_not(spec: TensorSpec, ref: TensorRef, trail: Trail | None) -> str:
    """Why this tensor cannot stand for the original's; "" if it can."""
    if ref.dtype.kind == "opaque":
        return f"as {ref.dtype}, which has no meaning as numbers"
    wanted = spec.dtype.kind if spec.dtype is not None else None
    if wanted == "float" and ref.dtype.kind != "float":
        if trail is None or trail.quantisation is None:
            return f"as {ref.dtype} only, without the scale that makes it {spec.dtype} again"
    elif wanted in ("int", "bool") and ref.dtype.kind not in ("int", "bool"):
        return f"as {ref.dtype}, where the model has {spec.dtype}"
    return ""


def misfit(graph: Graph, tensor: str, ref: TensorRef, at: Port) -> str:
    """That a dumped tensor cannot be the model's."""
    is_stored = ref.original_shape is not None and not layouts.is_plain(ref.layout)
    own = f" of {shape_text(ref.original_shape)}" if is_stored else ""
    told = shape_text(graph.spec(tensor).shape, "unknown shape")
    return (
        f"{tensor} was dumped at {at} as {ref.layout} {shape_text(ref.shape)}{own}, which cannot hold the model's "
        f"{told}; was the dump made from another version of the model?"
    )
