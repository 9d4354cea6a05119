"""The NPU's tensor of a pair read in the shape and order of golden's; or the reason why it cannot be."""

from __future__ import annotations

from dataclasses import replace

from acccmp.core import layout as layouts
from acccmp.core.dump import Origin
from acccmp.core.tensor import DequantisedRef, TensorRef
from acccmp.mapping.belongs import contradiction
from acccmp.mapping.reading import read_as
from acccmp.mapping.trace import Trail
from acccmp.reports.pair import Pair, Verdict


def fitted(row: Pair, trail: Trail, layout: str | None = None) -> Pair:
    """`row` with the NPU's tensor read as golden's shape and order, or with the reason why it cannot be.

    `trail` is how the original came to the port, `layout` the model's word on the order of golden's axes.
    """
    assert row.golden is not None
    assert row.npu is not None
    golden, npu, spec, notes = row.golden, row.npu, trail.spec, row.notes
    if spec is not None and (told := contradiction(npu, spec)):
        is_dtype = spec.dtype is not None and spec.dtype.kind != npu.dtype.kind
        reason = f"{told}: are they of the same build?"
        return replace(row, verdict=Verdict.DTYPE if is_dtype else Verdict.SHAPE, reason=reason)
    if spec is not None and spec.dtype not in (None, npu.dtype) and npu.dtype.name != "undefined":
        notes = (*notes, f"the dump's header says {npu.dtype}, the mapping {spec.dtype}")
    if not layouts.is_plain(golden.layout):
        golden, said = _device_golden(golden, npu, trail.written)
        notes = (*notes, *said)
        if golden.original_shape is None and (golden.layout, golden.shape) == (npu.layout, npu.shape):
            return replace(row, notes=(*notes, "original shape unknown: compared as stored, padding included"))
    own = golden.original_layout if golden.original_shape is not None else golden.layout
    found = read_as(npu, golden.own_shape, own if own not in (None, "ND") else layout, trail)
    if found.is_lost:
        return replace(row, verdict=Verdict.INSERTED, reason=f"made by the compiler, {found.reason}")
    row = replace(
        row, golden=golden, notes=(*notes, *found.notes), coarsest=trail.coarsest if trail.steps else None,
    )
    if found.ref is None:
        return replace(row, misfit=found.reason)
    if not trail.is_quantised or golden.dtype.kind == "int":
        return replace(row, npu=found.ref)
    rule = trail.quantisation
    if rule is None:
        steps = ", ".join(trail.steps[:3]) or row.port.node
        return replace(row, verdict=Verdict.NOT_COMPARABLE, reason=f"quantised by {steps}, and nothing tells its scale")
    told = f"dequantised: (q - {rule.offset:g}) / {rule.scale:g}"
    npu = DequantisedRef.of_codes(found.ref, rule.scale, rule.offset) if found.ref.dtype.kind == "int" else found.ref
    return replace(row, npu=npu, notes=(*row.notes, told), quantised=False)


def _device_golden(golden: TensorRef, npu: TensorRef, written: Origin | None) -> tuple[TensorRef, tuple[str, ...]]:
    """A blocked tensor of another device, as the golden side, in its original's shape and order where known."""
    stated = golden.original_shape or (written.shape if written is not None else None) or npu.original_shape
    if (golden.original_shape is not None and golden.original_layout is not None) or stated is None:
        return golden, ()
    hints = [written.layout if written is not None else None, npu.original_layout]
    found = read_as(golden, stated, next((hint for hint in hints if hint is not None), None))
    return found.ref or golden, found.notes
