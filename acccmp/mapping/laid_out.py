"""Plain arrays of a device's tensors, laid out as the device model says that the device had them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from acccmp.core import layout as layouts
from acccmp.core.dump import Dump, Port
from acccmp.core.graph import TensorSpec
from acccmp.core.tensor import ConvertedRef, TensorRef
from acccmp.errors import LayoutError
from acccmp.mapping.device_map import DeviceMap


def laid_out(dump: Dump, mapping: DeviceMap | None) -> Dump:
    """A `bare` dump with the device's layouts, types and stored shapes, by shapes alone; others as they are.

    An array may lie as the device stored it (maybe flat), or in an original's shape, its padding removed. One that
    fits neither stays an array.
    """
    if mapping is None or not dump.bare:
        return dump
    refs = dict(dump.refs)
    for port, spec in _described(dump, mapping):
        refs[port] = _as_told(refs[port], spec)
    return replace(dump, refs=refs, bare=False)


def _described(dump: Dump, device: DeviceMap) -> Iterator[tuple[Port, TensorSpec]]:
    """The ports of which the device model says how they are stored."""
    inputs = dump.inputs
    for port in dump:
        spec = device.spec(device.tensor(port, inputs.get(port.node, 0)))
        if spec is not None and spec.shape is not None and spec.is_static and spec.layout is not None:
            yield port, spec


def _as_told(ref: TensorRef, spec: TensorSpec) -> TensorRef:
    shape, layout = tuple(int(n) for n in spec.shape or () if isinstance(n, int)), spec.layout or "ND"
    if ref.original_shape is not None or (ref.layout, ref.shape) == (layout, shape):
        return ref
    if len(ref.shape) == 1 and len(shape) > 1 and ref.count == math.prod(shape):
        ref = replace(ref, shape=shape)
    order = ref.layout
    if order == "ND":
        fitting = [layout] if ref.shape == shape else layouts.candidates(layout, shape, ref.shape)
        if not fitting or layout == "ND":
            return ref
        order = fitting[0]
    dtype = ref.dtype
    if spec.dtype is not None and spec.dtype.numpy == dtype.numpy:  # arrays hold bfloat16 as float32
        dtype = spec.dtype
    own = (None, None) if (order, ref.shape) == (layout, shape) else (ref.shape, order)
    try:
        return ConvertedRef.lying_in(replace(ref, layout=order), dtype, shape, layout, *own)
    except LayoutError:
        return ref
