"""Norms, activations and operands that are not the right ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from habits import Array, Habit
from kernels import KERNELS, Attrs, Kernel
from nets import Node
from program import Twist
from site_of_fault import Site, kind


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
    scaled = np.asarray(mean * np.float32(1 + site.amount()))
    wrong = {"left out": np.zeros_like(mean), "scaled": scaled, "rolled": np.roll(mean, 1)}[manner]
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
        chosen_axes = site.one_of([(1, 2, 3), (0, 2, 3), (3,), (2,)])
        return Twist({"axes": list(chosen_axes)}, attrs={node.name: {"axes": chosen_axes}})
    if site.op.block == "layernorm":
        names = [node.name for node in site.nodes("ReduceMean")]
        return Twist({"axis": -2}, attrs={name: {"axes": [-2]} for name in names})
    if site.op.block == "l2norm":
        return Twist({"axis": 2}, attrs={site.nodes("ReduceSum")[0].name: {"axes": [2]}})
    return None
