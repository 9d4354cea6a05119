"""A device tensor read in the original's own shape, order and numbers.

Nothing is read here but shapes and layouts, and no reading is ever chosen because it gives the better numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from acccmp.core import graph as graphs
from acccmp.core import layout as layouts
from acccmp.core.dump import Origin
from acccmp.core.graph import TensorSpec, agrees, shape_text
from acccmp.core.layout import Shape, squeezed
from acccmp.core.tensor import Array, DequantisedRef, TensorRef, TurnedRef
from acccmp.mapping.trace import Quantisation, Trail


@dataclass(frozen=True)
class Reading:
    """A device tensor read as the original's; without `ref`, `reason` says why it cannot be.

    `is_lost`: compiler-made ops stand in between, and nothing tells how to undo what they did. `notes` are what is to
    be said of the reading that was taken.
    """

    ref: TensorRef | None
    reason: str = ""
    is_lost: bool = False
    notes: tuple[str, ...] = ()


def read_as(
    ref: TensorRef, shape: graphs.Shape | None, layout: str | None = None, trail: Trail | None = None,
) -> Reading:
    """`ref` in the shape and order of the original's tensor.

    `shape` and `layout` are the original's; sizes may be open, the layout unknown. `trail` is how the tensor came to
    the device port (None: by its name alone). The order of the axes is what the mapping says, else the dump's header,
    else the original; else the only one that fits. Where several fit and nobody says which, the header's is taken and
    a note says so. A tensor that is larger than the original along some axes is read in its own size.
    """
    axes = trail.axes if trail is not None else None
    steps = ", ".join(trail.steps[:3]) if trail is not None else ""
    if trail is not None and (trail.is_reordered or (axes is not None and trail.is_reshaped)):
        return Reading(None, f"in an order behind {steps} that nothing tells how to undo", is_lost=True)
    told = _told(ref, trail.written if trail is not None else None)
    stated = told.shape
    if axes is not None and stated is not None:
        stated = _turned_back(stated, axes)
    wanted = _sizes(shape, ref, stated, told.layout or layout)
    if wanted is None:
        return Reading(None, f"stored as {ref.layout} {shape_text(ref.shape)}, which cannot hold the model's sizes")
    there = wanted
    if axes is not None and len(axes) == len(wanted):
        there = tuple(wanted[axis] for axis in axes)
    found = _in_order(ref, there, _plain(layout) if axes is None else None, told)
    seen = found.ref
    if (axes is not None and (len(axes) != len(wanted) or seen is None or len(seen.own_shape) != len(axes))) or (
        trail is not None and trail.is_reshaped and (seen is None or seen.own_shape != there)
    ):
        return Reading(None, f"in another shape behind {steps}", is_lost=True)
    return found if axes is None or seen is None else replace(found, ref=TurnedRef.turned(seen, axes))


@dataclass(frozen=True)
class _Told:
    """What mapping or header state of the original: its shape, its order, and which of the two says so."""

    shape: Shape | None
    layout: str | None
    by: str


def _told(ref: TensorRef, written: Origin | None) -> _Told:
    layout = _plain(written.layout) if written is not None else None
    if written is not None and written.shape is not None:
        return _Told(written.shape, layout, "the mapping")
    if ref.original_shape is not None:
        return _Told(ref.original_shape, layout or _plain(ref.original_layout), "the dump's header")
    return _Told(None, layout, "the mapping")


def _sizes(
    shape: graphs.Shape | None, ref: TensorRef, stated: Shape | None, layout: str | None,
) -> Shape | None:
    """The original's sizes: its own; where they are open, what mapping or dump say, in their order or the original's;
    None if nobody does or if they contradict each other."""
    known = sizes_of(shape)
    if known is not None:
        return known
    if stated is None and layouts.is_plain(ref.layout):
        stated = ref.shape
    elif stated is None and shape is not None and ref.layout.startswith("NC1HWC0"):
        stated = _unblocked(shape, ref.shape, layout or "NCHW")
    if stated is None:
        return None
    return next((sizes for sizes in (stated, *_moved(stated, layout).values()) if agrees(shape, sizes)), None)


def could_hold(ref: TensorRef, shape: tuple[int, ...]) -> bool:
    """Has the stored tensor as many elements as `shape`, padding apart?"""
    if layouts.is_plain(ref.layout) or ref.original_shape is not None:
        return math.prod(ref.own_shape) == math.prod(shape)
    return bool(layouts.candidates(ref.layout, ref.shape, shape))


def sizes_of(shape: graphs.Shape | None) -> Shape | None:
    """A shape whose sizes are all known; else None."""
    sizes = tuple(n for n in shape or () if isinstance(n, int) and n >= 0)
    return sizes if shape is not None and len(sizes) == len(shape) else None


def _unblocked(shape: graphs.Shape, stored: Shape, layout: str) -> Shape | None:
    """N, H and W of a blocked tensor from how it is stored; its number of channels must be the model's."""
    if len(shape) != 4 or len(stored) != 5 or sorted(layout) != sorted("NCHW"):
        return None
    channels = shape[layout.index("C")]
    if not isinstance(channels, int):
        return None
    sizes = {"N": stored[0], "C": channels, "H": stored[2], "W": stored[3]}
    return tuple(sizes[letter] for letter in layout)


def _turned_back(shape: Shape, axes: tuple[int, ...]) -> Shape | None:
    if len(shape) != len(axes):
        return None
    return tuple(shape[axes.index(axis)] for axis in range(len(axes)))


# -- the order of the axes ---------------------------------------------------------------------------------------


def _in_order(ref: TensorRef, shape: Shape, layout: str | None, told: _Told) -> Reading:
    """`ref` read as `shape`; `layout` is the original's own word on its order."""
    order = told.layout or layout
    notes: tuple[str, ...] = ()
    wanted = shape
    if told.shape is not None and told.shape != shape:
        other = next((name for name, sizes in _moved(told.shape, order).items() if sizes == shape), None)
        if other is not None:
            notes = (f"golden is in {other} where {told.by} says {order or 'nothing'}",)
            order = other
        elif squeezed(told.shape) != squeezed(shape):
            return _larger(ref, told.shape, order, shape, told.by)
        else:
            notes = (f"shapes differ by dimensions of 1: golden {shape_text(shape)}, npu {shape_text(told.shape)}",)
            if len(told.shape) == len(shape) or not layouts.fits(ref.layout, ref.shape, order, shape, ref.groups):
                shape = told.shape  # sizes in the order that they are told in
    if not layouts.is_known(ref.layout):
        if squeezed(ref.shape) != squeezed(shape):
            return Reading(None, f"stored as {ref.layout} {shape_text(ref.shape)}, a layout that is not known")
        notes = (*notes, f"the layout {ref.layout} is not known: read as stored")
        return Reading(replace(ref, layout="ND").seen_as(shape, None), notes=notes)
    if ref.layout == "ND":
        return _flat(ref, shape, order, wanted, told, notes)
    for plain, note in ((order, ()), (layout, (f"golden is in {layout} where {told.by} says {order}",))):
        if plain is not None and layouts.fits(ref.layout, ref.shape, plain, shape, ref.groups):
            return Reading(ref.seen_as(shape, plain), notes=(*notes, *note))
    found = _guessed(ref, shape, wanted, order)
    return replace(found, notes=(*notes, *found.notes))


def _flat(
    ref: TensorRef, shape: Shape, order: str | None, wanted: Shape, told: _Told, notes: tuple[str, ...],
) -> Reading:
    """A tensor that is stored in its own order, whichever that is."""
    if squeezed(ref.shape) != squeezed(shape):
        if math.prod(ref.shape) != math.prod(shape):
            return _larger(ref, ref.shape, None, wanted, "the dump")
        if told.shape is None:
            return Reading(None, f"golden is {shape_text(wanted)}, npu {shape_text(ref.shape)}")
    elif ref.shape != shape and told.shape is None:
        notes = (f"shapes differ by dimensions of 1: golden {shape_text(wanted)}, npu {shape_text(ref.shape)}",)
    return Reading(ref.seen_as(shape, order), notes=notes)


def _guessed(ref: TensorRef, shape: Shape, wanted: Shape, order: str | None) -> Reading:
    """The order of the original from shapes alone. Several that fit are ambiguous: the header's is taken."""
    found = [
        name for name in layouts.candidates(ref.layout, ref.shape, shape)
        if layouts.fits(ref.layout, ref.shape, name, shape, ref.groups)
    ]
    if not found and layouts.fits(ref.layout, ref.shape, None, shape, ref.groups):
        return Reading(ref.seen_as(shape, None))
    if not found and layouts.is_plain(ref.layout) and squeezed(ref.shape) == squeezed(shape):
        return Reading(replace(ref, layout="ND").seen_as(shape, None))
    if not found:
        told = f", original {order}" if order else ""
        return Reading(
            None, f"golden is {shape_text(wanted)}, npu {ref.layout} {shape_text(ref.shape)}{told}: they do not fit",
        )
    usual = [ref.original_layout, ref.layout, "NCHW", "NCDHW", found[0]]
    taken = next(name for name in usual if name in found)
    several = f"ambiguous: {' and '.join(found)} fit {shape_text(shape)}; the header's order was taken ({taken})"
    return Reading(ref.seen_as(shape, taken), notes=(several,) if len(found) > 1 else ())


def _larger(ref: TensorRef, stated: Shape, order: str | None, wanted: Shape, by: str) -> Reading:
    """A tensor of another size than the original: in its own size if it is larger, for a part to be cut from it."""
    is_larger = len(stated) == len(wanted) and all(n >= m for n, m in zip(stated, wanted, strict=True))
    if is_larger and layouts.is_known(ref.layout) and layouts.fits(ref.layout, ref.shape, order, stated, ref.groups):
        return Reading(ref.seen_as(stated, order))
    return Reading(None, f"golden is {shape_text(wanted)}, {by} says {shape_text(stated)} for the npu's")


def _moved(stated: Shape, layout: str | None) -> dict[str, Shape]:
    """The sizes `stated`, which are in `layout`, in the other usual order: in NHWC for NCHW, in NCHW for NHWC."""
    if len(stated) != 4:
        return {}
    n, a, b, c = stated
    return {"NHWC": (n, b, c, a)} if layout in (None, "NCHW") else {"NCHW": (n, c, a, b)} if layout == "NHWC" else {}


def _plain(layout: str | None) -> str | None:
    """`layout` if it says something about the order of an original's axes."""
    return layout if layout is not None and layout != "ND" and layouts.is_plain(layout) else None


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
    real = DequantisedRef.of_codes(ref, rule.scale, rule.offset).numpy().astype(wanted.numpy)
    return real, {"quantised": {"scale": rule.scale, "offset": rule.offset}}
