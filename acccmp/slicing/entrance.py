"""The device's tensors seen as the original's: which dumped tensor stands at the entrance of a slice, in the model's
own shape, order and numbers."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from acccmp.core import layout as layouts
from acccmp.core.dump import Dump, Port
from acccmp.core.graph import Graph, TensorSpec
from acccmp.core.layout import Region
from acccmp.core.tensor import Array, TensorRef
from acccmp.errors import SliceError
from acccmp.mapping.trace import Quantisation, Trace, Trail


@dataclass(frozen=True)
class TurnedRef(TensorRef):
    """A tensor that lies in `base` with its axes in another order: base = this one transposed by `axes`.

    Everything stored (path, bytes, layout) is the base's; `numpy()` gives the order of the original.
    """

    base: TensorRef | None = field(default=None, repr=False)
    axes: tuple[int, ...] = ()

    @classmethod
    def turned(cls, base: TensorRef, axes: tuple[int, ...], layout: str | None) -> TurnedRef:
        """`base`, whose own order is the original's transposed by `axes`, in the original's order and `layout`."""
        own = base.own_shape
        shape = tuple(own[axes.index(axis)] for axis in range(len(axes)))
        return cls(
            base.path, base.dtype, base.shape, base.offset, base.size, base.layout, shape, layout, base.groups,
            base.fortran, base.array, base, axes,
        )

    def raw(self) -> bytes:
        assert self.base is not None
        return self.base.raw()

    def _decoded(self, region: Region | None) -> Array:
        assert self.base is not None
        if region is None:
            return self.base.stored()
        there = self.base.read(tuple(region[axis] for axis in self.axes))
        return np.ascontiguousarray(there.transpose(np.argsort(self.axes)))


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


def _sizes(spec: TensorSpec) -> tuple[int, ...] | None:
    if not spec.is_static or spec.shape is None:
        return None
    return tuple(dim for dim in spec.shape if isinstance(dim, int))


def _seen(graph: Graph, tensor: str, ref: TensorRef, trail: Trail | None) -> TensorRef | None:
    """`ref` in the model's own shape and order; None where it cannot be read so."""
    spec = graph.spec(tensor)
    axes = trail.axes if trail is not None else None
    written = trail.written if trail is not None else None
    stated = (written.shape if written is not None else None) or ref.original_shape
    stated_layout = written.layout if written is not None else None
    if axes is not None:
        if stated is not None:
            stated = _turned_back(stated, axes)
        shape = _wanted(spec, ref, stated, None)
        if shape is None or len(shape) != len(axes):
            return None
        there = tuple(shape[axis] for axis in axes)
        base = _fitted(ref, there, (stated_layout, ref.original_layout))
        return None if base is None else TurnedRef.turned(base, axes, spec.layout)
    shape = _wanted(spec, ref, stated, stated_layout or spec.layout)
    if shape is None:
        return None
    return _fitted(ref, shape, (spec.layout, stated_layout, ref.original_layout))


def _turned_back(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...] | None:
    if len(shape) != len(axes):
        return None
    return tuple(shape[axes.index(axis)] for axis in range(len(axes)))


def _wanted(
    spec: TensorSpec, ref: TensorRef, stated: tuple[int, ...] | None, layout: str | None,
) -> tuple[int, ...] | None:
    """The original's shape: the model's; where that leaves sizes open, what mapping or dump say; None if nobody does
    or if they contradict each other."""
    shape = _sizes(spec)
    if shape is not None:
        return shape
    if stated is None:
        if layouts.is_plain(ref.layout):
            stated = ref.shape
        elif ref.layout.startswith("NC1HWC0") and spec.shape is not None and len(ref.shape) == 5:
            stated = _unblocked(spec.shape, ref.shape, layout or "NCHW")
    if stated is None or not _agree(spec.shape, stated):
        return None
    return stated


def _agree(open_shape: Any, shape: tuple[int, ...]) -> bool:
    if open_shape is None:
        return True
    return len(open_shape) == len(shape) and all(
        not isinstance(a, int) or a < 0 or a == b for a, b in zip(open_shape, shape, strict=True)
    )


def _unblocked(open_shape: Any, stored: tuple[int, ...], layout: str) -> tuple[int, ...] | None:
    """N, H and W of a blocked tensor from how it is stored; its number of channels must be the model's."""
    if len(open_shape) != 4 or sorted(layout) != sorted("NCHW"):
        return None
    sizes = {"N": stored[0], "C": open_shape[layout.index("C")], "H": stored[2], "W": stored[3]}
    if not isinstance(sizes["C"], int):
        return None
    return tuple(sizes[letter] for letter in layout)


def _fitted(ref: TensorRef, shape: tuple[int, ...], plains: tuple[str | None, ...]) -> TensorRef | None:
    """`ref` read as an original of `shape`, in the first of the orders that fits."""
    for plain in dict.fromkeys(plains):
        if plain is not None and layouts.fits(ref.layout, ref.shape, plain, shape, ref.groups):
            return ref.seen_as(shape, plain)
    found = layouts.candidates(ref.layout, ref.shape, shape)
    if found:
        return ref.seen_as(shape, found[0])
    if layouts.fits(ref.layout, ref.shape, None, shape, ref.groups):
        return ref.seen_as(shape, None)
    if ref.count == math.prod(shape) and layouts.is_plain(ref.layout):
        return replace(ref, layout="ND", original_shape=shape, original_layout=plains[0])
    return None


# -- numbers -----------------------------------------------------------------------------------------------------


def dequantised(
    ref: TensorRef, spec: TensorSpec, rule: Quantisation | None,
) -> tuple[Array, dict[str, Any]]:
    """The tensor in the model's own dtype, and what its manifest says about quantisation (nothing for floats).

    Quantised numbers are turned back, (q - offset) / scale; integers where the model has floats and no rule is known
    stay as they are, and the manifest says so.
    """
    array = ref.numpy()
    wanted = spec.dtype
    if wanted is None or wanted.numpy is None:
        return array, {}
    if wanted.kind == ref.dtype.kind or wanted.kind == "bool" or (wanted.kind == "int" and ref.dtype.kind == "bool"):
        return array.astype(wanted.numpy), {}
    if wanted.kind != "float" or ref.dtype.kind != "int":
        return array, {}
    if rule is None:
        return array, {"quantised": {"scale": None, "note": "the mapping holds no scale for this tensor"}}
    real = ((array.astype(np.float64) - rule.offset) / rule.scale).astype(wanted.numpy)
    return real, {"quantised": {"scale": rule.scale, "offset": rule.offset}}
