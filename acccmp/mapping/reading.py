"""A device tensor read in the original's own shape, order and numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from acccmp.core import layout as layouts
from acccmp.core.graph import Graph, TensorSpec
from acccmp.core.layout import Region
from acccmp.core.tensor import Array, TensorRef
from acccmp.mapping.trace import Quantisation, Trail


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
