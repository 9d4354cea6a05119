"""Convolutions, pools, Resize and Slice with the wrong geometry."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from habits import Array, Habit
from kernels import KERNELS, Attrs, pad_spatial
from nets import Node
from program import Twist
from site_of_fault import Site, kind


def _spatial(site: Site) -> tuple[Node, list[int]] | None:
    found = site.nodes("Conv", "ConvTranspose", "MaxPool", "AveragePool")
    if not found:
        return None
    count = len(found[0].attrs["kernel_shape"])
    return found[0], list(found[0].attrs.get("pads", [0] * 2 * count))


@kind
def padding(site: Site) -> Twist | None:
    """The same amount of padding, but on the wrong sides."""
    found = _spatial(site)
    if found is None:
        return None
    node, pads = found
    edge = next((n for n in site.nodes("Pad")), None)
    if edge is not None:
        whole = site.const_of(edge.inputs[1]).copy()
        pads = [int(p) for p in (*whole[2:4], *whole[6:8])]
    half = len(pads) // 2
    if not any(pads):
        return None
    moved = list(pads)
    for i in range(half):
        both = pads[i] + pads[half + i]
        moved[i] = site.one_of([p for p in range(both + 1) if p != pads[i]] or [pads[i]])
        moved[half + i] = both - moved[i]
    if edge is not None:
        whole[2:4], whole[6:8] = moved[:2], moved[2:]
        return Twist({"pads": moved}, consts={edge.inputs[1]: whole})
    return Twist({"pads": moved}, attrs={node.name: {"pads": moved}})


@kind
def pad_value(site: Site) -> Twist | None:
    found = _spatial(site)
    if found is None:
        return None
    node, pads = found
    if site.nodes("Pad"):
        node, pads = site.nodes("Pad")[0], [1]
    if not any(pads) or node.kind == "ConvTranspose":
        return None
    spread = float(np.abs(site.inputs[0]).max())
    value = 0.0 if node.kind == "MaxPool" else float(site.rng.choice([-1, 1]) * spread * site.rng.uniform(0.02, 1.0))
    return Twist({"value": value}, attrs={node.name: {"pad_value": value}})


@kind
def stride(site: Site) -> Twist | None:
    """Steps of one instead of two; the output keeps its size, so it shows the first part of the picture enlarged."""
    found = _spatial(site)
    if found is None or found[0].kind == "ConvTranspose":
        return None
    node = found[0]
    strides = node.attrs.get("strides", [1])
    if max(strides) < 2:
        return None
    smaller = list(strides)
    axis = int(site.rng.integers(-1, len(strides)))
    smaller = [1 if axis in (-1, i) else s for i, s in enumerate(strides)]

    def kernel(h: Habit, args: list[Any], attrs: Attrs) -> list[Array]:
        good = KERNELS[node.kind](h, args, attrs)[0].shape
        y = KERNELS[node.kind](h, args, {**attrs, "strides": smaller})[0]
        return [y[tuple(slice(0, n) for n in good)]]

    return Twist({"strides": smaller}, kernels={node.name: kernel})


@kind
def dilation(site: Site) -> Twist | None:
    convs = site.nodes("Conv")
    if not convs or max(convs[0].attrs["kernel_shape"]) < 3 or site.nodes("Pad"):
        return None
    node = convs[0]
    count = len(node.attrs["kernel_shape"])
    old = node.attrs.get("dilations", [1] * count)
    new = [max(d + int(site.one_of([-1, 1])), 1) for d in old]
    if new == old:
        new = [d + 1 for d in old]
    pads = list(node.attrs.get("pads", [0] * 2 * count))
    for i in range(count):
        more = (node.attrs["kernel_shape"][i] - 1) * (new[i] - old[i])
        pads[i] += more // 2
        pads[count + i] += more - more // 2
        if min(pads[i], pads[count + i]) < 0:
            pads[i], pads[count + i] = max(pads[i] + pads[count + i], 0), 0
    return Twist({"dilations": new, "pads": pads}, attrs={node.name: {"dilations": new, "pads": pads}})


@kind
def ceil_mode(site: Site) -> Twist | None:
    """The other rounding of the output size; memory keeps its size, so a border is missing or lines are too long."""
    pools = site.nodes("MaxPool", "AveragePool")
    if not pools or len(pools[0].attrs["kernel_shape"]) != 2:
        return None
    node = pools[0]
    wrong = 0 if node.attrs.get("ceil_mode") else 1

    def kernel(h: Habit, args: list[Any], attrs: Attrs) -> list[Array]:
        good = KERNELS[node.kind](h, args, attrs)[0].shape
        y = KERNELS[node.kind](h, args, {**attrs, "ceil_mode": wrong})[0]
        if y.shape == good:
            return [y]
        if wrong:
            lines = y.reshape(*good[:2], -1)[:, :, : math.prod(good[2:])]
            return [lines.reshape(good)]
        ends = [a - b for a, b in zip(good[2:], y.shape[2:], strict=True)]
        return [pad_spatial(y, [0, 0, *ends], 0.0)]

    return Twist({"ceil_mode": wrong}, kernels={node.name: kernel})


@kind
def count_include_pad(site: Site) -> Twist | None:
    pools = site.nodes("AveragePool")
    if not pools or not any(pools[0].attrs.get("pads", [0])):
        return None
    value = 0 if pools[0].attrs.get("count_include_pad") else 1
    return Twist({"count_include_pad": value}, attrs={pools[0].name: {"count_include_pad": value}})


@kind
def resize_mode(site: Site) -> Twist | None:
    nodes = site.nodes("Resize")
    if not nodes:
        return None
    places = ["half_pixel", "asymmetric", "align_corners"]
    options: list[Attrs] = [{"coordinate_transformation_mode": p} for p in places]
    options += [{"mode": "nearest" if nodes[0].attrs["mode"] == "linear" else "linear"}, {"nearest_mode": "floor"}]
    chosen = site.one_of([o for o in options if {**nodes[0].attrs, **o} != nodes[0].attrs])
    return Twist(dict(chosen), attrs={nodes[0].name: chosen})


@kind
def slice_offset(site: Site) -> Twist | None:
    cuts, splits = site.nodes("Slice"), site.nodes("Split")
    if splits:
        step = int(site.one_of([-2, -1, 1, 2]))
        axis = splits[0].attrs["axis"]

        def reads(given: dict[str, Array]) -> dict[str, Array]:
            return {name: np.roll(value, step, axis=axis) for name, value in given.items()}

        return Twist({"step": step}, reads=reads)
    if not cuts:
        return None
    starts, ends = (site.const_of(name).copy() for name in cuts[0].inputs[1:3])
    i = int(site.rng.integers(len(starts)))
    room = site.inputs[0].shape[int(site.const_of(cuts[0].inputs[3])[i])] - ends[i]
    step = int(site.one_of([s for s in (-2, -1, 1, 2) if s <= room and starts[i] + s >= 0]))
    starts[i] += step
    ends[i] += step
    return Twist({"starts": starts.tolist()}, consts=dict(zip(cuts[0].inputs[1:3], (starts, ends), strict=True)))


@kind
def group_order(site: Site) -> Twist | None:
    convs = [node for node in site.nodes("Conv") if node.attrs.get("group", 1) > 1]
    if not convs:
        return None
    groups = convs[0].attrs["group"]
    order = np.roll(np.arange(groups), int(site.rng.integers(1, groups)))
    if site.rng.random() < 0.5:
        order = np.arange(groups)[::-1]

    def kernel(h: Habit, args: list[Any], attrs: Attrs) -> list[Array]:
        x = args[0].reshape(args[0].shape[0], groups, -1, *args[0].shape[2:])
        return KERNELS["Conv"](h, [x[:, order].reshape(args[0].shape), *args[1:]], attrs)

    return Twist({"groups read as": order.tolist()}, kernels={convs[0].name: kernel})
