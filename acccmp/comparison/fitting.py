"""The NPU's tensor read in the shape and order of golden's; or the reason why it cannot be.

Nothing is read here but shapes and layouts, and no reading is ever chosen because it gives the better numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from acccmp.core import layout as layouts
from acccmp.core.dump import Origin
from acccmp.core.graph import TensorSpec
from acccmp.core.layout import Shape, squeezed
from acccmp.core.tensor import TensorRef
from acccmp.mapping.trace import Trail
from acccmp.reports.pair import Pair, Verdict


def fitted(row: Pair, written: Origin | None, spec: TensorSpec | None, trail: Trail | None) -> Pair:
    """`row` with the NPU's tensor read as golden's shape and order, or with the reason why it cannot be."""
    assert row.golden is not None
    assert row.npu is not None
    golden, npu = row.golden, row.npu
    notes = list(row.notes)
    axes = trail.axes if trail is not None else None
    if spec is not None and spec.dtype is not None and spec.dtype != npu.dtype and npu.dtype.name != "undefined":
        told = f"the dump's header says {npu.dtype}, the mapping {spec.dtype}"
        if spec.dtype.kind != npu.dtype.kind:
            return replace(row, verdict=Verdict.DTYPE, reason=f"{told}: are they of the same build?")
        notes.append(told)
    if spec is not None and spec.shape is not None and spec.is_static and npu.dtype.kind != "opaque":
        stated = tuple(int(n) for n in spec.shape if isinstance(n, int))
        if squeezed(stated) != squeezed(npu.shape):
            return replace(row, misfit=(
                f"the dump's header says shape {shape_text(npu.shape)}, the mapping {shape_text(stated)}: "
                "are they of the same build?"
            ))
    if not layouts.is_plain(golden.layout):
        golden = _device_golden(golden, npu, written, notes)
        if golden.original_shape is None and (golden.layout, golden.shape) == (npu.layout, npu.shape):
            return replace(row, notes=(*notes, "original shape unknown: compared as stored, padding included"))
    wanted = golden.own_shape
    is_lost = trail is not None and trail.is_reordered
    if axes is not None and len(axes) == len(wanted):
        wanted = tuple(wanted[axis] for axis in axes)
    elif axes is not None:
        is_lost = True
    seen = _seen(npu, wanted, golden, written, axes is not None, notes)
    if trail is not None and trail.is_reshaped and (isinstance(seen, str) or seen.own_shape != wanted):
        is_lost = True
    if is_lost and trail is not None:
        return replace(row, verdict=Verdict.INSERTED, reason=(
            f"made by the compiler ({', '.join(trail.steps[:3])}), in another shape or order than its original"
        ))
    coarsest = trail.coarsest if trail is not None and trail.steps else None
    row = replace(row, golden=golden, notes=tuple(notes), coarsest=coarsest)
    if isinstance(seen, str):
        return replace(row, misfit=seen)
    return replace(row, npu=seen, axes=axes)


def _device_golden(golden: TensorRef, npu: TensorRef, written: Origin | None, notes: list[str]) -> TensorRef:
    """A blocked tensor of another device, as the golden side, in its original's shape and order where known."""
    if golden.original_shape is not None and golden.original_layout is not None:
        return golden
    shape = golden.original_shape or (written.shape if written is not None else None) or npu.original_shape
    if shape is None:
        return golden
    for layout in (written.layout if written is not None else None, npu.original_layout):
        if layout is not None and layouts.fits(golden.layout, golden.shape, layout, shape, golden.groups):
            return golden.seen_as(shape, layout)
    guessed = _guessed(golden, shape, shape, None, notes)
    return golden if isinstance(guessed, str) else guessed


def _seen(
    npu: TensorRef, wanted: Shape, golden: TensorRef, written: Origin | None, is_moved: bool, notes: list[str],
) -> TensorRef | str:
    """The NPU's tensor read in golden's shape and order; or why it cannot be."""
    golden_layout = _plain(golden.original_layout if golden.original_shape is not None else golden.layout)
    written_layout = _plain(written.layout) if written is not None else None
    stated, by = None, ""
    if written is not None and written.shape is not None:
        stated, by = written.shape, "the mapping"
    elif npu.original_shape is not None:
        stated, by = npu.original_shape, "the dump's header"
    layout = written_layout or (npu.original_layout if by == "the dump's header" else None) or (
        None if is_moved else golden_layout
    )
    shape = wanted
    if stated is not None and stated != wanted:
        if squeezed(stated) == squeezed(wanted):
            shape = stated
        else:
            other = _other_order(stated, layout, wanted)
            if other is None:
                return _by_valid(npu, stated, layout, wanted, by)
            notes.append(f"golden is in {other} where {by} says {layout or 'nothing'}")
            layout = other
    if not layouts.is_known(npu.layout):
        if squeezed(npu.shape) == squeezed(shape):
            notes.append(f"the layout {npu.layout} is not known: read as stored")
            return replace(npu, layout="ND").seen_as(shape, None)
        return f"stored as {npu.layout} {shape_text(npu.shape)}, a layout that is not known"
    if npu.layout == "ND":
        if squeezed(npu.shape) != squeezed(shape) and math.prod(npu.shape) != math.prod(shape):
            return _by_valid(npu, npu.shape, None, wanted, "the dump")
        if squeezed(npu.shape) != squeezed(shape) and stated is None:
            return f"golden is {shape_text(wanted)}, npu {shape_text(npu.shape)}"
        if npu.shape != shape and stated is None:
            notes.append(
                f"shapes differ by dimensions of 1: golden {shape_text(wanted)}, npu {shape_text(npu.shape)}"
            )
        return npu.seen_as(shape, layout)
    if layout is not None and layouts.fits(npu.layout, npu.shape, layout, shape, npu.groups):
        return npu.seen_as(shape, layout)
    if layout is not None and golden_layout and layouts.fits(npu.layout, npu.shape, golden_layout, shape, npu.groups):
        notes.append(f"golden is in {golden_layout} where {by or 'the mapping'} says {layout}")
        return npu.seen_as(shape, golden_layout)
    return _guessed(npu, shape, wanted, layout, notes)


def _guessed(npu: TensorRef, shape: Shape, wanted: Shape, layout: str | None, notes: list[str]) -> TensorRef | str:
    """The order of the original from shapes alone. Several that fit are ambiguous: the header's is taken."""
    found = [
        name for name in layouts.candidates(npu.layout, npu.shape, shape)
        if layouts.fits(npu.layout, npu.shape, name, shape, npu.groups)
    ]
    if not found and layouts.fits(npu.layout, npu.shape, None, shape, npu.groups):
        return npu.seen_as(shape, None)
    if not found and layouts.is_plain(npu.layout) and squeezed(npu.shape) == squeezed(shape):
        return replace(npu, layout="ND").seen_as(shape, None)
    if not found:
        told = f", original {layout}" if layout else ""
        return f"golden is {shape_text(wanted)}, npu {npu.layout} {shape_text(npu.shape)}{told}: they do not fit"
    if len(found) == 1:
        return npu.seen_as(shape, found[0])
    usual = [npu.original_layout, npu.layout, "NCHW", "NCDHW", found[0]]
    taken = next(name for name in usual if name in found)
    notes.append(f"ambiguous: {' and '.join(found)} fit {shape_text(shape)}; the header's order was taken ({taken})")
    return npu.seen_as(shape, taken)


def _by_valid(npu: TensorRef, stated: Shape, layout: str | None, wanted: Shape, by: str) -> TensorRef | str:
    """A tensor of another size than golden: kept in its own size, so that a valid region can be cut from it."""
    is_larger = len(stated) == len(wanted) and all(n >= m for n, m in zip(stated, wanted, strict=True))
    if is_larger and layouts.is_known(npu.layout) and layouts.fits(
        npu.layout, npu.shape, layout, stated, npu.groups,
    ):
        return npu.seen_as(stated, layout)  # `restrict` and the shape check of `compare_pair` decide
    return f"golden is {shape_text(wanted)}, {by} says {shape_text(stated)} for the npu's"


def _other_order(stated: Shape, layout: str | None, wanted: Shape) -> str | None:
    """NHWC for a golden whose sizes are those of `stated` in NCHW moved to NHWC, and the other way round."""
    if len(stated) != 4 or len(wanted) != 4:
        return None
    n, a, b, c = stated
    if layout in (None, "NCHW") and wanted == (n, b, c, a):
        return "NHWC"
    if layout == "NHWC" and wanted == (n, c, a, b):
        return "NCHW"
    return None


def _plain(layout: str | None) -> str | None:
    """`layout` if it says something about the order of an original's axes."""
    return layout if layout is not None and layout != "ND" and layouts.is_plain(layout) else None


def shape_text(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"
