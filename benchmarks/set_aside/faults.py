"""Faults: for each kind a function that plants it in one device op, or says (None) that the op cannot have it.

A fault changes what the op computes, reads, keeps as constants or writes. Where a size exists it is drawn from 2 to
1,000 times the op's own rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from encoder import from_bytes, logical_values, size_of, stored_bytes, to_bytes
from habits import Array, Habit, keep_bits, round_to
from kernels import KERNELS, Attrs, Kernel, pad_spatial
from nets import Node
from program import DeviceOp, Program, Run, Stored, Twist, exact_outputs, relative

EPS = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24}


@dataclass
class Site:
    """The device op a fault is to be planted in, and what is known about its healthy run."""

    program: Program
    op: DeviceOp
    run: Run
    rng: np.random.Generator
    another_run: Callable[[], Run]  # the same program on another input, for stale results

    @property
    def habit(self) -> Habit:
        return self.program.habit

    @property
    def tensor(self) -> Stored:
        return self.program.tensors[self.op.outputs[0]]

    @property
    def y(self) -> Array:
        """First result as the healthy device stored it."""
        return self.run.results[self.op.name].outputs[0]

    @property
    def inputs(self) -> list[Array]:
        return self.run.results[self.op.name].inputs

    @property
    def is_float(self) -> bool:
        return self.y.dtype.kind == "f"

    @property
    def computes(self) -> bool:
        return self.op.kind == "compute"

    @cached_property
    def rounding(self) -> float:
        """Relative distance of the healthy result from the float64 result on the same inputs; never quite zero."""
        exact = exact_outputs(self.program, self.op, self.inputs)[0]
        own = max(relative(exact, self.y), EPS.get(self.tensor.dtype, 2.0**-24) / 4)
        return float(f"{own:.3g}")  # few digits, so that the last bit of a library's sum does not matter

    @property
    def rms(self) -> float:
        finite = self.y[np.isfinite(self.y)].astype(np.float64)
        return float(f"{np.sqrt(np.mean(finite**2)):.5g}") if finite.size else 0.0

    def amount(self) -> float:
        """A relative error, 2 to 1,000 times the op's rounding but not above 0.7, of either sign."""
        times = math.exp(self.rng.uniform(math.log(2.0), math.log(1000.0)))
        return float(min(times * self.rounding, 0.7) * self.rng.choice([-1.0, 1.0]))

    def one_of(self, options: list[Any]) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def nodes(self, *kinds: str) -> list[Node]:
        return [node for node in self.op.nodes if node.kind in kinds]

    def const_of(self, name: str) -> Array:
        return self.program.net.consts[name]

    def channel_axis(self) -> int:
        """The axis that counts features: the second for pictures and series, the last for tokens."""
        if self.y.ndim == 4 or (self.y.ndim == 3 and self.program.net.name == "gates"):
            return 1
        return self.y.ndim - 1

    def some_channels(self, count: int) -> Array:
        """Between one and half of the channels."""
        k = int(self.rng.integers(1, max(count // 2, 1) + 1)) if self.rng.random() < 0.5 else 1
        return np.sort(self.rng.choice(count, size=k, replace=False))


Plant = Callable[[Site], Twist | None]
KINDS: dict[str, Plant] = {}
INSERTED_TOO = {"layout", "shifted", "stale", "zero", "partly_written", "bit_flip", "dtype_cast"}
SETUP = {"input_channel_order", "input_mean", "input_scale", "input_layout", "input_resize"}


def kind(plant: Plant) -> Plant:
    """Registers a fault under its function's name (without a trailing underscore)."""
    KINDS[plant.__name__.strip("_")] = plant
    return plant


def along(x: Array, axis: int, values: Array) -> Array:
    """values shaped to broadcast along one axis of x."""
    return values.reshape([-1 if i == axis else 1 for i in range(x.ndim)])


# --- the result is scaled, moved or put in the wrong place ----------------------------------------------------


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


def _tile(site: Site) -> tuple[slice, ...] | None:
    """A block that one core would compute: some rows, or sixteen channels, of one batch element."""
    shape = site.y.shape
    if len(shape) < 3:
        return None
    batch = int(site.rng.integers(shape[0]))
    axis = int(site.rng.integers(1, len(shape)))
    if shape[axis] < 4:
        return None
    size = 16 if axis == 1 and shape[1] > 16 else max(shape[axis] // int(site.rng.integers(2, 9)), 1)
    start = int(site.rng.integers(0, -(-shape[axis] // size))) * size
    cut = [slice(None)] * len(shape)
    cut[0] = slice(batch, batch + 1)
    cut[axis] = slice(start, min(start + size, shape[axis]))
    return tuple(cut)


def _text(cut: tuple[slice, ...]) -> list[list[int | None]]:
    return [[part.start, part.stop] for part in cut]


@kind
def block_scale(site: Site) -> Twist | None:
    cut = _tile(site)
    if cut is None or not site.is_float:
        return None
    share = site.y[cut].size / site.y.size
    factor = 1 + float(np.clip(site.amount() / math.sqrt(share), -0.9, 3))

    def result(x: Array) -> Array:
        x = x.copy()
        x[cut] *= x.dtype.type(factor)
        return x

    return Twist({"block": _text(cut), "factor": factor}, result=result)


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


# --- the geometry of convolutions and pools ---------------------------------------------------------------------


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


# --- norms, activations and operands ----------------------------------------------------------------------------


@kind
def epsilon(site: Site) -> Twist | None:
    norms = site.nodes("BatchNormalization", "InstanceNormalization")
    options = [0.0, 1e-12, 1e-6, 1e-4, 1e-3, 1e-2, 0.1, 1.0]
    if norms:
        value = site.one_of([o for o in options if o != norms[0].attrs["epsilon"]])
        return Twist({"epsilon": value}, attrs={norms[0].name: {"epsilon": value}})
    for node in site.nodes("Add"):
        for name in node.inputs:
            if name in ("eps", "tiny"):
                value = site.one_of([o for o in options if o != float(site.const_of(name))])
                return Twist({"epsilon": value}, consts={name: np.float32(value).reshape(())})
    return None


@kind
def batch_norm_mean(site: Site) -> Twist | None:
    norms = site.nodes("BatchNormalization")
    if not norms:
        return None
    name = norms[0].inputs[3]
    mean = site.const_of(name)
    manner = site.one_of(["left out", "scaled", "rolled"])
    wrong = {"left out": mean * 0, "scaled": mean * np.float32(1 + site.amount()), "rolled": np.roll(mean, 1)}[manner]
    return Twist({"manner": manner}, consts={name: wrong}, wrong_in_memory=bool(site.rng.random() < 0.5))


Shape = Callable[[Habit, Array], Array]


def _gelu_tanh(h: Habit, x: Array) -> Array:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x.astype(np.float64) ** 3)
    return h.vec(0.5 * x * (1 + h.function("tanh", inner)))


def _times(gate: Shape) -> Shape:
    return lambda h, x: h.vec(x * gate(h, x))


def _hard_gate(h: Habit, x: Array) -> Array:
    return np.clip(x / x.dtype.type(6) + x.dtype.type(0.5), 0, 1)


def _elu(h: Habit, x: Array) -> Array:
    return np.where(x > 0, x, h.vec(h.function("exp", np.minimum(x, 0)) - 1))


SHAPES: dict[str, Shape] = {
    "relu": lambda h, x: np.maximum(x, 0),
    "relu6": lambda h, x: np.clip(x, 0, 6),
    "leaky": lambda h, x: np.where(x < 0, h.vec(x * x.dtype.type(0.01)), x),
    "silu": _times(lambda h, x: h.function("sigmoid", x)),
    "gelu": _times(lambda h, x: h.vec(0.5 + 0.5 * h.function("erf", x / math.sqrt(2)))),
    "gelu by tanh": _gelu_tanh,
    "gelu by sigmoid": _times(lambda h, x: h.function("sigmoid", h.vec(x * x.dtype.type(1.702)))),
    "mish": _times(lambda h, x: h.function("tanh", h.function("softplus", x))),
    "hard sigmoid": _hard_gate,
    "hard swish": _times(_hard_gate),
    "sigmoid": lambda h, x: h.function("sigmoid", x),
    "tanh": lambda h, x: h.function("tanh", x),
    "hard tanh": lambda h, x: np.clip(x, -1, 1),
    "tanh by fraction": lambda h, x: np.clip(h.vec(x * (27 + x * x) / (27 + 9 * x * x)), -1, 1),
    "softsign": lambda h, x: h.vec(x / (1 + np.abs(x))),
    "softplus": lambda h, x: h.function("softplus", x),
    "softplus by parabola": lambda h, x: h.vec(np.where(np.abs(x) < 2.77, (x + 2.77) ** 2 / 11.09, np.maximum(x, 0))),
    "elu": _elu,
}
OTHERS = {
    "silu": ["relu", "gelu", "mish"], "gelu": ["relu", "silu", "elu"], "mish": ["silu", "relu", "softplus"],
    "Relu": ["relu6", "leaky", "silu"], "HardSwish": ["relu", "relu6", "silu"], "Tanh": ["softsign", "sigmoid"],
    "Sigmoid": ["tanh", "softplus"], "Softplus": ["relu", "elu"], "Elu": ["relu", "silu", "softplus"],
    "Clip": ["relu", "silu", "sigmoid"], "LeakyRelu": ["elu", "silu"], "PRelu": ["elu", "gelu"],
}  # fmt: skip
CHEAPER = {
    "silu": ["hard swish"], "gelu": ["gelu by tanh", "gelu by sigmoid"], "mish": ["hard swish"],
    "Sigmoid": ["hard sigmoid"], "Tanh": ["tanh by fraction", "hard tanh"], "Softplus": ["softplus by parabola"],
}  # fmt: skip


def _activation(site: Site) -> tuple[str, dict[str, Callable[[Shape], Kernel]]] | None:
    """The op's activation and, by node name, how to put another function in its place."""
    nodes = {node.kind: node for node in site.op.nodes}
    if site.op.block == "gate":
        node = nodes[site.one_of(["Tanh", "Sigmoid"])]
        return node.kind, {node.name: lambda f: lambda h, args, attrs: [f(h, args[0])]}
    if "Erf" in nodes and "Div" in nodes:
        gated = next(n for n in site.nodes("Mul") if any("/Add_output" in i for i in n.inputs))
        return "gelu", {gated.name: lambda f: lambda h, args, attrs: [2 * f(h, args[0])]}
    if "Softplus" in nodes and "Tanh" in nodes:
        return "mish", {site.nodes("Mul")[-1].name: lambda f: lambda h, args, attrs: [f(h, args[0])]}
    if "Sigmoid" in nodes and "Mul" in nodes:
        return "silu", {site.nodes("Mul")[-1].name: lambda f: lambda h, args, attrs: [f(h, args[0])]}
    for name, node in nodes.items():
        if name in OTHERS:
            return name, {node.name: lambda f: lambda h, args, attrs: [f(h, args[0])]}
    return None


def _with_function(site: Site, options: dict[str, list[str]]) -> Twist | None:
    found = _activation(site)
    if found is None or found[0] not in options:
        return None
    chosen = site.one_of(options[found[0]])
    kernels = {name: place(SHAPES[chosen]) for name, place in found[1].items()}
    return Twist({"instead of": found[0], "used": chosen}, kernels=kernels)


@kind
def activation_left_out(site: Site) -> Twist | None:
    found = _activation(site)
    if found is None:
        return None
    return Twist({"left out": found[0]}, kernels={name: place(lambda h, x: x) for name, place in found[1].items()})


@kind
def other_activation(site: Site) -> Twist | None:
    return _with_function(site, OTHERS)


@kind
def activation_slope(site: Site) -> Twist | None:
    for node in site.nodes("LeakyRelu", "Elu", "HardSigmoid"):
        old = float(node.attrs["alpha"])
        new = site.one_of([0.0, 0.01, old / 2, old * 1.1, old * 2, 1.0 if node.kind != "Elu" else old * 1.5, -old])
        return Twist({"alpha": new}, attrs={node.name: {"alpha": new}})
    for node in site.nodes("PRelu"):
        slopes = site.const_of(node.inputs[1])
        manner = site.one_of(["mean", "rolled", "half", "scaled"])
        wrong = {
            "mean": np.full_like(slopes, slopes.mean()),
            "rolled": np.roll(slopes, 1, axis=0),
            "half": slopes / 2,
            "scaled": slopes * np.float32(1 + site.amount()),
        }[manner]
        return Twist({"slopes": manner}, consts={node.inputs[1]: wrong}, wrong_in_memory=bool(site.rng.random() < 0.5))
    return None


@kind
def approximation(site: Site) -> Twist | None:
    """A cheaper function, or the right one from a coarse table."""
    curved = site.nodes("Exp", "Softmax", "Sigmoid", "Tanh", "Softplus", "Erf", "Elu")
    if not curved:
        return None
    if site.rng.random() < 0.5:
        twist = _with_function(site, CHEAPER)
        if twist is not None:
            return twist
    entries = int(site.one_of([1, 2, 4] if site.habit.functions == "exact" else [1, 2]))
    return Twist({"table entries": entries}, habit=replace(site.habit, functions="table", table=entries))


def _joins_two(site: Site, *kinds: str) -> Node | None:
    """A node of the given kinds both of whose operands are not constants and that is no part of an activation."""
    for node in site.nodes(*kinds):
        runtime = [name for name in node.inputs if name and name not in site.program.net.consts]
        if len(runtime) == 2 and site.op.block not in ("silu", "mish", "gelu", "conv"):
            return node
    return None


@kind
def operand_left_out(site: Site) -> Twist | None:
    node = _joins_two(site, "Add", "Mul", "Sub", "Concat")
    if node is None or site.op.block == "layernorm":
        return None
    which = int(site.rng.integers(2))

    def kernel(h: Habit, args: list[Any], attrs: Attrs) -> list[Array]:
        neutral = np.ones_like if node.kind == "Mul" else np.zeros_like
        kept = [neutral(value) if i == which else value for i, value in enumerate(args)]
        return KERNELS[node.kind](h, kept, attrs)

    return Twist({"operand": which}, kernels={node.name: kernel})


@kind
def operands_exchanged(site: Site) -> Twist | None:
    if site.op.block == "gate":
        names = [node.inputs[0] for node in site.nodes("Tanh", "Sigmoid")]
        return Twist({"node": "Mul"}, reads=lambda given: {names[0]: given[names[1]], names[1]: given[names[0]]})
    node = _joins_two(site, "Sub", "Div", "Concat")
    if node is None:
        return None
    kernel: Kernel = lambda h, args, attrs: KERNELS[node.kind](h, args[::-1], attrs)  # noqa: E731
    return Twist({"node": node.kind}, kernels={node.name: kernel})


@kind
def axis(site: Site) -> Twist | None:
    for node in site.nodes("Softmax"):
        options = [a for a in range(site.y.ndim - 1) if site.y.shape[a] > 1]
        chosen = int(site.one_of(options))
        return Twist({"axis": chosen}, attrs={node.name: {"axis": chosen}})
    for node in site.nodes("InstanceNormalization"):
        options = [[1, 2, 3], [0, 2, 3], [3], [2]]
        chosen_axes = tuple(site.one_of(options))
        return Twist({"axes": list(chosen_axes)}, attrs={node.name: {"axes": chosen_axes}})
    if site.op.block == "layernorm":
        names = [node.name for node in site.nodes("ReduceMean")]
        return Twist({"axis": -2}, attrs={name: {"axes": [-2]} for name in names})
    if site.op.block == "l2norm":
        return Twist({"axis": 2}, attrs={site.nodes("ReduceSum")[0].name: {"axes": [2]}})
    return None


# --- weights ----------------------------------------------------------------------------------------------------


def _weight(site: Site) -> tuple[str, Array, int, int] | None:
    """Name and values of the op's weight, its axis of outputs and its axis of inputs."""
    for node in site.nodes("Conv", "ConvTranspose", "MatMul", "Gemm"):
        if node.inputs[1] in site.program.net.consts:
            rows, columns = (0, 1) if node.kind in ("Conv", "Gemm") else (1, 0)
            return node.inputs[1], site.const_of(node.inputs[1]), rows, columns
    return None


def _in_memory(site: Site) -> bool:
    return bool(site.rng.random() < 0.5)


@kind
def weight_scale(site: Site) -> Twist | None:
    found = _weight(site)
    if found is None:
        return None
    name, w, _, _ = found
    factor = float(site.one_of([0.5, 2.0])) if site.rng.random() < 0.25 else 1 + site.amount()
    return Twist({"factor": factor}, consts={name: w * np.float32(factor)}, wrong_in_memory=_in_memory(site))


def _weight_part(site: Site, along_rows: bool) -> Twist | None:
    found = _weight(site)
    if found is None:
        return None
    name, w, rows, columns = found
    where = rows if along_rows else columns
    count = w.shape[where]
    if count < 4:
        return None
    chosen = site.some_channels(count)
    manner = site.one_of(["zero", "exchanged", "scaled"])
    moved = np.moveaxis(w.copy(), where, 0)
    if manner == "zero":
        moved[chosen] = 0
    elif manner == "exchanged":
        moved[chosen] = moved[(chosen + 1 + int(site.rng.integers(count - 1))) % count]
    else:
        moved[chosen] *= np.float32(np.clip(1 + site.amount() * math.sqrt(count / len(chosen)), 0.05, 4))
    params = {"manner": manner, "rows" if along_rows else "channels": chosen.tolist()}
    return Twist(params, consts={name: np.moveaxis(moved, 0, where)}, wrong_in_memory=_in_memory(site))


@kind
def weight_rows(site: Site) -> Twist | None:
    return _weight_part(site, True)


@kind
def weight_channels(site: Site) -> Twist | None:
    return _weight_part(site, False)


@kind
def weight_of_other_layer(site: Site) -> Twist | None:
    found = _weight(site)
    if found is None:
        return None
    name, w, _, _ = found
    others = [
        n for n, v in site.program.net.consts.items()
        if n != name and n.endswith(".weight") and v.ndim >= 2 and v.size >= w.size
    ]  # fmt: skip
    same = [n for n in others if site.const_of(n).shape == w.shape]
    if not others:
        return None
    other = site.one_of(same or others)
    wrong = site.const_of(other).ravel()[: w.size].reshape(w.shape)
    return Twist({"from": other}, consts={name: wrong}, wrong_in_memory=_in_memory(site))


@kind
def bias(site: Site) -> Twist | None:
    found = _weight(site)
    if found is None:
        return None
    consts = site.program.net.consts
    cube = site.nodes("Conv", "ConvTranspose", "MatMul", "Gemm")[0]
    names = [n for n in cube.inputs[2:] if n in consts]
    for node in site.nodes("BatchNormalization"):
        names.append(node.inputs[2])
    for node in site.nodes("Add"):
        names += [n for n in node.inputs if n.endswith(".bias")]
    if not names:
        return None
    value = consts[names[-1]]
    manner = site.one_of(["left out", "scaled", "rolled", "twice"])
    wrong = {
        "left out": value * 0,
        "scaled": value * np.float32(1 + 3 * site.amount()),
        "rolled": np.roll(value, int(site.rng.integers(1, value.size))),
        "twice": value * 2,
    }[manner]
    return Twist({"manner": manner}, consts={names[-1]: wrong}, wrong_in_memory=_in_memory(site))


# --- memory -----------------------------------------------------------------------------------------------------


@kind
def stale(site: Site) -> Twist | None:
    old = site.another_run().results[site.op.name].outputs[0]
    return Twist({"from": "the inference before"}, stored=lambda x: old.copy())


@kind
def zero(site: Site) -> Twist | None:
    return Twist({}, stored=lambda x: np.zeros_like(x))


@kind
def constant(site: Site) -> Twist | None:
    if not site.is_float or not site.computes:
        return None
    values = site.y.ravel()
    value = float(site.one_of([1.0, float(values[0]), float(values.max()), float(values.mean()), -1.0]))
    return Twist({"value": value}, result=lambda x: np.full_like(x, value))


@kind
def partly_written(site: Site) -> Twist | None:
    """Part of the output's memory still holds what was there before."""
    good = stored_bytes(site.y, site.tensor)
    unit = 32
    if len(good) < 8 * unit:
        return None
    count = len(good) // unit
    size = max(int(count * site.rng.uniform(0.01, 0.6)), 1)
    start = int(site.one_of([0, count - size, int(site.rng.integers(0, count - size + 1))]))
    manner = site.one_of(["zero", "another tensor", "the inference before"])
    old = bytes(len(good))
    if manner == "another tensor":
        earlier = [t for t in site.run.values if site.program.tensors[t].dtype == site.tensor.dtype]
        earlier = [t for t in earlier if t not in site.op.outputs]
        name = site.one_of(earlier)
        other = stored_bytes(site.run.values[name], site.program.tensors[name])
        old = (other * (len(good) // len(other) + 1))[: len(good)]
    elif manner == "the inference before":
        old = stored_bytes(site.another_run().results[site.op.name].outputs[0], site.tensor)
    low, high = start * unit, (start + size) * unit

    def stored(x: Array) -> Array:
        new = stored_bytes(x, site.tensor)
        return logical_values(new[:low] + old[low:high] + new[high:], site.tensor)

    return Twist({"bytes": [low, high], "of": len(good), "holds": manner}, stored=stored)


@kind
def batch_duplicated(site: Site) -> Twist | None:
    if not site.is_float or site.y.ndim < 2 or site.y.shape[0] < 2 or not site.computes:
        return None
    return Twist({"batch": 0}, result=lambda x: np.repeat(x[:1], x.shape[0], axis=0))


@kind
def bit_flip(site: Site) -> Twist | None:
    dtype = site.tensor.dtype
    if dtype not in EPS:
        return None
    width = 32 if dtype == "float32" else 16
    word = np.uint32 if width == 32 else np.uint16
    bit = int(site.rng.integers(width // 2, width))
    every = int(site.one_of([0, 0, 16, 64, 1024]))
    size = site.y.size
    if every and size > every:
        chosen = np.arange(int(site.rng.integers(every)), size, every)
    else:
        chosen = site.rng.choice(size, size=min(int(site.rng.integers(1, 9)), size), replace=False)

    def stored(x: Array) -> Array:
        raw = np.frombuffer(to_bytes(x, dtype), word).copy()
        raw[chosen] ^= word(1 << bit)
        return from_bytes(raw.tobytes(), dtype, x.shape)

    return Twist({"bit": bit, "elements": len(chosen), "every": every}, stored=stored)


@kind
def overwritten(site: Site) -> Twist | None:
    """Another op wrote over one of this op's inputs between its making and this op's reading."""
    program, ops = site.program, list(site.program.ops)
    if not site.computes:
        return None
    here = ops.index(site.op)
    for name in site.op.inputs:
        maker = next(i for i, op in enumerate(ops) if name in op.outputs)
        readers = [i for i, op in enumerate(ops) if name in op.inputs]
        if ops[maker].kind in ("view", "data") or any(ops[i].kind == "view" for i in readers):
            continue
        first = max([maker, *(i for i in readers if i < here)])
        tensor = program.tensors[name]
        old = stored_bytes(site.run.values[name], tensor)
        between = [op for op in ops[first + 1 : here] if op.kind in ("compute", "trans")]
        between = [op for op in between if size_of(program.tensors[op.outputs[0]]) <= len(old) + 512]
        if not between or any(i > here for i in readers):
            continue
        writer = site.one_of(between)
        other = program.tensors[writer.outputs[0]]
        new = stored_bytes(site.run.values[writer.outputs[0]], other)
        found = logical_values((new + old[len(new) :])[: len(old)], tensor)
        params = {"tensor": name, "writer": writer.name, "bytes": min(len(new), len(old)), "of": len(old),
                  "writer output": writer.outputs[0]}  # fmt: skip
        return Twist(params, dumped_inputs={name: found}, also=[writer.name, ops[maker].name])
    return None


# --- arithmetic -------------------------------------------------------------------------------------------------


@kind
def nonfinite(site: Site) -> Twist | None:
    if not site.is_float or site.habit.saturates or not site.computes:
        return None
    cut = _tile(site)
    few = site.rng.choice(site.y.size, size=min(3, site.y.size), replace=False)

    def result(x: Array) -> Array:
        x = x.copy()
        endless = np.full_like(x, np.inf)
        lost = endless - endless
        if cut is not None and few[0] % 2:
            x[cut] = lost[cut]
        else:
            x.ravel()[few] = lost.ravel()[few]
        return x

    return Twist({"few": bool(cut is None or few[0] % 2 == 0)}, result=result)


def _limit(site: Site) -> float:
    """A magnitude that 0.1 to 5 percent of the healthy results exceed."""
    size = np.abs(site.y[np.isfinite(site.y)])
    share = math.exp(site.rng.uniform(math.log(1e-3), math.log(0.05)))
    return float(np.quantile(size, 1 - share)) if size.size else 0.0


@kind
def overflow(site: Site) -> Twist | None:
    """An intermediate in float16 whose largest values become infinite."""
    limit = _limit(site) if site.is_float else 0.0
    if limit <= 0 or site.habit.saturates or not site.computes:
        return None
    factor = 65504.0 / limit

    def result(x: Array) -> Array:
        inner = round_to(x * factor, "float16")
        kept = x if site.habit.storage == "float32" else inner / factor
        return np.where(np.isinf(inner), inner, kept).astype(x.dtype)

    return Twist({"limit": limit}, result=result)


@kind
def saturation(site: Site) -> Twist | None:
    limit = _limit(site) if site.is_float else 0.0
    if limit <= 0 or not site.computes or site.nodes("Clip"):
        return None
    return Twist({"limit": limit}, result=lambda x: np.clip(x, -limit, limit).astype(x.dtype))


@kind
def flush_to_zero(site: Site) -> Twist | None:
    if not site.is_float or not site.computes:
        return None
    limit = 2.0 ** int(site.rng.integers(-12 if site.habit.flush else -14, -9))
    if np.count_nonzero((np.abs(site.y) < limit) & (site.y != 0)) < 64:
        return None
    return Twist({"limit": limit}, result=lambda x: np.where(np.abs(x) < limit, x.dtype.type(0), x))


@kind
def float16_accumulation(site: Site) -> Twist | None:
    if site.nodes("Conv", "ConvTranspose", "MatMul", "Gemm"):
        return Twist({"unit": "cube"}, habit=replace(site.habit, accumulator="float16"))
    sums = ("Softmax", "ReduceMean", "ReduceSum", "GlobalAveragePool", "AveragePool", "InstanceNormalization")
    if site.nodes(*sums) and site.habit.reduction == "float32":
        return Twist({"unit": "vector"}, habit=replace(site.habit, reduction="float16"))
    return None


@kind
def truncation(site: Site) -> Twist | None:
    if not site.is_float or not site.computes:
        return None
    if site.habit.storage == "float32" and not site.nodes("Conv", "ConvTranspose", "MatMul", "Gemm"):
        return None
    return Twist({"toward": "zero"}, habit=replace(site.habit, rounding="zero"))


def _quantizer(site: Site, name: str, change: Callable[[list[Any], Attrs], tuple[list[Any], Attrs]],
               params: dict[str, Any]) -> Twist:  # fmt: skip
    def kernel(h: Habit, args: list[Any], attrs: Attrs) -> list[Array]:
        return KERNELS["QuantizeLinear"](h, *change(args, attrs))

    return Twist(params, kernels={name: kernel})


@kind
def quantisation_scale(site: Site) -> Twist | None:
    nodes = site.nodes("QuantizeLinear")
    factor = float(site.one_of([0.5, 2.0, 1 + site.rng.uniform(0.03, 0.5), 1 - site.rng.uniform(0.03, 0.4)]))
    if not nodes:
        return None
    return _quantizer(site, nodes[0].name, lambda a, t: ([a[0], a[1] * factor, a[2]], t), {"factor": factor})


@kind
def quantisation_zero_point(site: Site) -> Twist | None:
    nodes = site.nodes("QuantizeLinear")
    step = int(site.one_of([-16, -3, -1, 1, 2, 8]))
    if not nodes:
        return None
    return _quantizer(site, nodes[0].name, lambda a, t: ([a[0], a[1], np.uint8(int(a[2]) + step)], t), {"step": step})


@kind
def quantisation_clip(site: Site) -> Twist | None:
    nodes = site.nodes("QuantizeLinear")
    if not nodes:
        return None
    zero_point = int(site.const_of(nodes[0].inputs[2]))
    limits = site.one_of([(0, 127), (zero_point - 16, zero_point + 15), (zero_point - 8, zero_point + 7),
                          (zero_point, 255), (1, 150), (zero_point - 32, zero_point + 31)])  # fmt: skip
    return _quantizer(site, nodes[0].name, lambda a, t: (a, {**t, "limits": limits}), {"limits": list(limits)})


@kind
def dtype_cast(site: Site) -> Twist | None:
    """The result went through a narrower type on its way."""
    if not site.is_float:
        return None
    options: dict[str, Callable[[Array], Array]] = {
        "float8 e4m3": lambda x: np.clip(keep_bits(x, 3), -448, 448),
        "float8 e5m2": lambda x: keep_bits(x, 2),
        "int32": lambda x: np.trunc(x),
        "int8": lambda x: np.clip(np.trunc(x), -128, 127),
    }
    if site.habit.storage != "bfloat16":
        options["bfloat16"] = lambda x: keep_bits(x, 7)
    if site.habit.storage == "float32":
        options["float16"] = lambda x: round_to(x, "float16")
    chosen = site.one_of(list(options))
    return Twist({"through": chosen}, result=lambda x: options[chosen](x).astype(x.dtype))


@kind
def index_tie(site: Site) -> Twist | None:
    nodes = site.nodes("ArgMax", "TopK")
    return Twist({"takes": "last"}, attrs={nodes[0].name: {"select_last_index": 1}}) if nodes else None


@kind
def unknown(site: Site) -> Twist | None:
    """Something that is none of the kinds: a smooth, value-dependent ripple with a random weight per element."""
    if not site.is_float or not site.computes or site.y.ndim < 3:
        return None
    size = abs(site.amount()) * site.rms
    pace = float(site.rng.uniform(0.5, 4) / max(site.rms, 1e-12))
    weights = site.rng.normal(0, 1, size=site.y.shape)
    return Twist({"size": size}, result=lambda x: (x + size * weights * np.cos(pace * x)).astype(x.dtype))


def alike(site: Site, name: str, params: dict[str, Any]) -> list[str]:
    """Other kinds that leave exactly the same mark in this op, so that no dump could tell them apart."""
    cube = site.nodes("Conv", "ConvTranspose", "MatMul", "Gemm")
    ends_linear = bool(cube) and site.op.nodes[-1].kind in ("Conv", "ConvTranspose", "MatMul", "Gemm", "Add",
                                                            "BatchNormalization")  # fmt: skip
    weighted = ends_linear and cube[0].inputs[1] in site.program.net.consts
    normed = bool(site.nodes("BatchNormalization"))
    shifted_too = normed or len(cube[0].inputs) > 2 or bool(site.nodes("Add")) if cube else False
    marks: dict[str, list[str]] = {}
    if weighted:
        if shifted_too:
            marks["channel_offset"] = ["bias", *(["batch_norm_mean"] if normed else [])]
            marks["bias"] = ["channel_offset", *(["batch_norm_mean"] if normed else [])]
            marks["batch_norm_mean"] = ["channel_offset", "bias"]
        else:
            marks |= {"scale": ["weight_scale"], "weight_scale": ["scale"], "channel_scale": ["weight_rows"]}
            marks["weight_rows"] = ["channel_scale"] if params.get("manner") == "scaled" else []
    if name == "operands_exchanged":
        marks[name] = {"Concat": ["permuted"], "Sub": ["scale"]}.get(params["node"], [])
    marks |= {"zero": ["constant"], "slice_offset": ["shifted"], "quantisation_zero_point": ["offset"]}
    return marks.get(name, [])


# --- the input is prepared wrongly ------------------------------------------------------------------------------


def wrong_input(name: str, x: Array, rng: np.random.Generator) -> tuple[Array, dict[str, Any]] | None:
    """The network's input as a wrong preparation would make it, or None if this input cannot have the fault."""
    if x.dtype.kind != "f":
        return None
    channels = x.shape[1]
    shape = (1, -1, *[1] * (x.ndim - 2))
    if name == "input_channel_order":
        order = np.arange(channels)[::-1] if x.ndim == 4 else rng.permutation(channels)
        return x[:, order].copy(), {"order": order.tolist()}
    if name == "input_mean":
        mean = rng.choice([-1, 1]) * rng.uniform(0.05, 2.0, size=channels).astype(np.float32)
        return x + mean.reshape(shape).astype(np.float32), {"mean added": mean.tolist()}
    if name == "input_scale":
        factor = np.float32(rng.choice([1 / 255, 255 / 256, 0.225, 2.0, 1.06]))
        return x * factor, {"factor": float(factor)}
    if x.ndim != 4 or name not in ("input_layout", "input_resize"):
        return None
    if name == "input_layout":
        if rng.random() < 0.5:
            return x.transpose(0, 2, 3, 1).reshape(x.shape).copy(), {"fed": "NHWC for NCHW"}
        return x.swapaxes(2, 3).copy(), {"fed": "height and width exchanged"}
    size = x.shape[2]
    manner = ["nearest", "shifted", "cropped"][int(rng.integers(3))]
    if manner == "nearest":
        rows = np.arange(size) // 2 * 2
    elif manner == "shifted":
        rows = np.minimum(np.arange(size) + 1, size - 1)
    else:
        rows = np.clip(np.rint(np.linspace(size * 0.06, size * 0.94 - 1, size)), 0, size - 1).astype(int)
    return np.ascontiguousarray(x[:, :, rows][:, :, :, rows]), {"manner": manner}

