"""The result is scaled, moved or put in the wrong place."""

from __future__ import annotations

import math

import numpy as np
from encoder import from_bytes, stored_bytes
from habits import Array
from program import Twist
from site_of_fault import Site, along, bounds, kind, tile


@kind
def scale(site: Site) -> Twist | None:
    factor = 1 + site.amount()
    return Twist({"factor": factor}, result=lambda x: x * x.dtype.type(factor)) if site.is_float else None


@kind
def offset(site: Site) -> Twist | None:
    shift = site.amount() * site.rms
    return Twist({"shift": shift}, result=lambda x: x + x.dtype.type(shift)) if site.is_float else None


def _per_channel(site: Site) -> tuple[int, Array, Array] | None:
    if not site.is_float or site.y.ndim < 2:
        return None
    axis = site.channel_axis()
    count = site.y.shape[axis]
    if count < 4:
        return None
    chosen = site.some_channels(count)
    values = np.zeros(count)
    values[chosen] = np.clip(site.amount() * math.sqrt(count / len(chosen)), -0.9, 3)
    return axis, chosen, values


@kind
def channel_scale(site: Site) -> Twist | None:
    found = _per_channel(site)
    if found is None:
        return None
    axis, chosen, values = found
    factors = (1 + values).astype(np.float32)
    params = {"axis": axis, "channels": chosen.tolist(), "factor": float(factors[chosen[0]])}
    return Twist(params, result=lambda x: x * along(x, axis, factors))


@kind
def channel_offset(site: Site) -> Twist | None:
    found = _per_channel(site)
    if found is None:
        return None
    axis, chosen, values = found
    shifts = (values * site.rms).astype(np.float32)
    params = {"axis": axis, "channels": chosen.tolist(), "shift": float(shifts[chosen[0]])}
    return Twist(params, result=lambda x: x + along(x, axis, shifts))


@kind
def block_scale(site: Site) -> Twist | None:
    cut = tile(site)
    if cut is None or not site.is_float:
        return None
    share = site.y[cut].size / site.y.size
    factor = 1 + float(np.clip(site.amount() / math.sqrt(share), -0.9, 3))

    def result(x: Array) -> Array:
        x = x.copy()
        x[cut] *= x.dtype.type(factor)
        return x

    return Twist({"block": bounds(cut), "factor": factor}, result=result)


@kind
def transposed(site: Site) -> Twist | None:
    shape = site.y.shape
    if not site.is_float or len(shape) < 2 or min(shape[-2:]) < 2 or not site.computes:
        return None
    return Twist({"axes": [-2, -1]}, result=lambda x: x.swapaxes(-1, -2).reshape(x.shape))


@kind
def layout(site: Site) -> Twist | None:
    """Written in one order, taken for another: channels last for channels first, or blocks with C0 in front."""
    t, y = site.tensor, site.y
    if not site.is_float or y.ndim < 3 or y.shape[1] < 2 or math.prod(y.shape[2:]) < 2:
        return None
    if t.layout == "NC1HWC0" and site.rng.random() < 0.6:
        n, c, h, w = y.shape
        blocks = -(-c // 16)

        def blocked(x: Array) -> Array:
            raw = from_bytes(stored_bytes(x, t), t.dtype, (n, blocks, 16, h, w))
            return np.ascontiguousarray(raw.reshape(n, blocks * 16, h, w)[:, :c])

        return Twist({"read as": "N C1 C0 H W"}, stored=blocked)
    first = bool(site.rng.random() < 0.5)

    def mixed(x: Array) -> Array:
        if first:
            return np.moveaxis(x, 1, -1).reshape(x.shape)
        return np.moveaxis(x.reshape(x.shape[0], *x.shape[2:], x.shape[1]), -1, 1)

    return Twist({"written": "channels last" if first else "channels first, read as last"}, stored=mixed)


@kind
def permuted(site: Site) -> Twist | None:
    axis = site.channel_axis()
    count = site.y.shape[axis] if site.y.ndim > 1 else 0
    if not site.is_float or count < 4 or not site.computes:
        return None
    manner = site.one_of(["rolled", "reversed", "interleaved", "two exchanged", "shuffled"])
    order = np.arange(count)
    if manner == "rolled":
        order = np.roll(order, int(site.rng.integers(1, count)))
    elif manner == "reversed":
        order = order[::-1]
    elif manner == "interleaved" and count % 2 == 0:
        order = order.reshape(2, -1).T.ravel()
    elif manner == "two exchanged":
        i, j = site.rng.choice(count, 2, replace=False)
        order[[i, j]] = order[[j, i]]
    else:
        order = site.rng.permutation(count)
    return Twist({"axis": axis, "manner": manner}, result=lambda x: np.take(x, order, axis=axis))


@kind
def shifted(site: Site) -> Twist | None:
    y = site.y
    if not site.is_float or y.ndim < 3 or y.shape[-1] < 4:
        return None
    if site.rng.random() < 0.5:
        step = int(site.one_of([-2, -1, 1, 2, 16]))
        return Twist({"memory elements": step}, stored=lambda x: np.roll(x.ravel(), step).reshape(x.shape))
    axis = int(site.one_of([y.ndim - 1, y.ndim - 2]))
    step = int(site.one_of([-2, -1, 1, 2]))
    if y.shape[axis] < 4:
        return None

    def result(x: Array) -> Array:
        moved = np.roll(x, step, axis=axis)
        gap = [slice(None)] * x.ndim
        gap[axis] = slice(0, step) if step > 0 else slice(step, None)
        moved[tuple(gap)] = 0
        return moved

    return Twist({"axis": axis, "step": step}, result=result)
