"""Four networks with seeded weights: what the emulated devices run.

While a network is built, every node is also computed in float64 on one sample, so that batch norms get the
statistics they would have learnt and values stay in a sane range. Nodes come in blocks (a convolution with its
batch norm, a GELU of five nodes): what compilers like to fuse.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from habits import EXACT, Array
from kernels import KERNELS
from onnx import TensorProto, helper, numpy_helper


@dataclass(frozen=True)
class Node:
    """One original op."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: dict[str, Any]


@dataclass(frozen=True)
class Block:
    """Nodes that belong together, in order."""

    kind: str
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Net:
    """A network: its blocks in execution order, constants, shapes and the model file's bytes."""

    name: str
    blocks: tuple[Block, ...]
    consts: dict[str, Array]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    samples: dict[str, Array]  # every tensor's float64 (or integer) values on the sample the net was built with
    model: bytes


@dataclass
class Builder:
    """Writes nodes one after the other and computes them at once."""

    name: str
    rng: np.random.Generator
    values: dict[str, Array]
    inputs: list[str] = field(default_factory=list)
    consts: dict[str, Array] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)
    open_block: list[Node] = field(default_factory=list)
    scope: str = ""

    def const(self, name: str, value: Any, kind: Any = np.float32) -> str:
        self.consts[name] = np.asarray(value, dtype=kind)
        return name

    def node(self, kind: str, part: str, inputs: list[str], outputs: int = 1, **attrs: Any) -> str:
        """Adds a node named after the current scope; the name of its first result is given back."""
        name = f"/{self.scope}/{part}" if part.endswith(kind) else f"/{self.scope}/{part}/{kind}"
        outs = tuple(f"{name}_output_{i}" for i in range(outputs))
        node = Node(name, kind, tuple(inputs), outs, attrs)
        self.open_block.append(node)
        given: list[Array | None] = []
        for each in inputs:
            value = self.consts.get(each, self.values.get(each))
            given.append(value.astype(np.float64) if value is not None and value.dtype.kind == "f" else value)
        results = KERNELS[kind](EXACT, given, attrs)
        self.values.update(zip(outs, results, strict=True))
        return outs[0]

    def close(self, kind: str) -> None:
        """Makes a block of the nodes written since the last one."""
        self.blocks.append(Block(kind, tuple(self.open_block)))
        self.open_block = []

    def one(self, kind: str, part: str, inputs: list[str], block: str = "", outputs: int = 1, **attrs: Any) -> str:
        """A block of one node."""
        out = self.node(kind, part, inputs, outputs, **attrs)
        self.close(block or kind.lower())
        return out

    def weights(self, name: str, shape: tuple[int, ...], fan_in: int) -> str:
        """Normal weights with a few large channels, as trained ones have."""
        rows = np.exp(self.rng.normal(0, 0.25, size=(shape[0], *[1] * (len(shape) - 1))))
        return self.const(name, self.rng.normal(0, 1, size=shape) * rows / math.sqrt(fan_in))

    def vector(self, name: str, size: int, mean: float, spread: float) -> str:
        return self.const(name, mean + spread * self.rng.normal(0, 1, size=size))

    def conv(self, x: str, part: str, channels: int, kernel: int, bn: bool = True, before: bool = False,
             **attrs: Any) -> str:  # fmt: skip
        """Convolution (with bias if no batch norm follows); `before` leaves the block open behind a Pad node."""
        spatial = self.values[x].ndim - 2
        group = attrs.get("group", 1)
        cin = self.values[x].shape[1]
        shape = (channels, cin // group, *[kernel] * spatial)
        args = [x, self.weights(f"{self.scope}.{part}.weight", shape, cin // group * kernel**spatial)]
        if not bn:
            args.append(self.vector(f"{self.scope}.{part}.bias", channels, 0.1, 0.3))
        attrs.setdefault("kernel_shape", [kernel] * spatial)
        y = self.node("Conv", f"{part}/Conv", args, **attrs)
        return self.norm(y, part, channels) if bn else self.ended(y, "conv")

    def deconv(self, x: str, part: str, channels: int, kernel: int, **attrs: Any) -> str:
        cin = self.values[x].shape[1]
        shape = (cin, channels, kernel, kernel)
        args = [x, self.weights(f"{self.scope}.{part}.weight", shape, cin * kernel * kernel // 4)]
        y = self.node("ConvTranspose", f"{part}/ConvTranspose", args, kernel_shape=[kernel] * 2, **attrs)
        return self.norm(y, part, channels)

    def norm(self, y: str, part: str, channels: int) -> str:
        """Batch norm with the statistics of the sample, rounded to a few digits and a little off."""
        value = self.values[y]
        axes = (0, *range(2, value.ndim))
        mean = value.mean(axis=axes) + self.rng.normal(0, 0.05, size=channels)
        var = value.var(axis=axes) * np.exp(self.rng.normal(0, 0.1, size=channels)) + 1e-3
        prefix = f"{self.scope}.{part}.bn"
        args = [
            y,
            self.vector(f"{prefix}.weight", channels, 1.0, 0.2),
            self.vector(f"{prefix}.bias", channels, 0.2, 0.3),
            self.const(f"{prefix}.mean", np.round(mean * 512) / 512),
            self.const(f"{prefix}.var", np.round(var * 4096) / 4096 + 2.0**-12),
        ]
        return self.ended(self.node("BatchNormalization", f"{part}/bn/BatchNormalization", args, epsilon=1e-3), "conv")

    def ended(self, y: str, kind: str) -> str:
        self.close(kind)
        return y

    def silu(self, x: str, part: str) -> str:
        gate = self.node("Sigmoid", part, [x])
        return self.ended(self.node("Mul", part, [x, gate]), "silu")

    def mish(self, x: str, part: str) -> str:
        soft = self.node("Softplus", part, [x])
        return self.ended(self.node("Mul", part, [x, self.node("Tanh", part, [soft])]), "mish")

    def gelu(self, x: str, part: str) -> str:
        root = self.const("sqrt_two", math.sqrt(2))
        inner = self.node("Erf", part, [self.node("Div", part, [x, root])])
        gate = self.node("Add", part, [inner, self.const("one", 1.0)])
        twice = self.node("Mul", part, [x, gate])
        return self.ended(self.node("Mul", f"{part}/half", [twice, self.const("half", 0.5)]), "gelu")

    def layer_norm(self, x: str, part: str) -> str:
        size = self.values[x].shape[-1]
        mean = self.node("ReduceMean", part, [x], axes=[-1])
        apart = self.node("Sub", part, [x, mean])
        square = self.node("Pow", part, [apart, self.const("two", 2.0)])
        var = self.node("ReduceMean", f"{part}/var", [square], axes=[-1])
        safe = self.node("Add", part, [var, self.const("eps", 1e-5)])
        normal = self.node("Div", part, [apart, self.node("Sqrt", part, [safe])])
        scaled = self.node("Mul", part, [normal, self.vector(f"{self.scope}.{part}.weight", size, 1.0, 0.2)])
        bias = self.vector(f"{self.scope}.{part}.bias", size, 0.0, 0.2)
        return self.ended(self.node("Add", f"{part}/shift", [scaled, bias]), "layernorm")

    def linear(self, x: str, part: str, size: int) -> str:
        inner = self.values[x].shape[-1]
        w = self.weights(f"{self.scope}.{part}.weight", (inner, size), inner)
        y = self.node("MatMul", part, [x, w])
        return self.ended(self.node("Add", part, [y, self.vector(f"{self.scope}.{part}.bias", size, 0, 0.2)]), "matmul")

    def fake_quant(self, x: str, part: str, step: float, zero: int) -> str:
        args = [self.const(f"{self.scope}.{part}.scale", step), self.const(f"{self.scope}.{part}.zero", zero, np.uint8)]
        q = self.node("QuantizeLinear", part, [x, *args])
        return self.ended(self.node("DequantizeLinear", part, [q, *args]), "fakequant")

    def finish(self, outputs: list[str]) -> Net:
        nodes = [node for block in self.blocks for node in block.nodes]
        scalars = {n for n in ("sqrt_two", "one", "half", "two", "eps") if n in self.consts}
        protos = [
            helper.make_node("Constant", [], [n], f"/Constant_{n}", value=numpy_helper.from_array(self.consts[n]))
            for n in sorted(scalars)
        ]
        protos += [helper.make_node(n.kind, n.inputs, n.outputs, n.name, **n.attrs) for n in nodes]
        kept = [numpy_helper.from_array(v, n) for n, v in self.consts.items() if n not in scalars]
        graph = helper.make_graph(
            protos, self.name, [_info(n, self.values[n]) for n in self.inputs],
            [_info(n, self.values[n]) for n in outputs], kept,
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="set aside")
        model.ir_version = 8
        onnx.checker.check_model(model)
        return Net(self.name, tuple(self.blocks), self.consts, tuple(self.inputs), tuple(outputs), self.values,
                   model.SerializeToString(deterministic=True))  # fmt: skip


def _info(name: str, value: Array) -> onnx.ValueInfoProto:
    kind = TensorProto.FLOAT if value.dtype.kind == "f" else TensorProto.INT64
    return helper.make_tensor_value_info(name, kind, list(value.shape))


# --- what the networks are fed -----------------------------------------------------------------------------------


def picture(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Soft waves, boxes with hard edges and a little noise, normalised like an ordinary image."""
    n, c, height, width = shape
    rows, columns = np.mgrid[0:height, 0:width]
    out = np.zeros(shape)
    for i in range(n):
        for _ in range(6):
            pace = rng.uniform(0.02, 0.5, size=2)
            wave = np.cos(pace[0] * rows + pace[1] * columns + rng.uniform(0, 6))
            out[i] += rng.normal(0, 0.35, size=(c, 1, 1)) * wave
        for _ in range(4):
            top, left = rng.integers(0, height - 6), rng.integers(0, width - 6)
            box = rng.normal(0, 0.9, size=(c, 1, 1))
            out[i, :, top : top + rng.integers(5, height // 2), left : left + rng.integers(5, width // 2)] += box
    out += np.array([0.4, 0.1, -0.3, 0.2])[:c].reshape(1, c, 1, 1)
    return (out + rng.normal(0, 0.05, size=shape)).astype(np.float32)


def series(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Sums of sines with slow drifts and some spikes."""
    n, c, length = shape
    time = np.arange(length)
    out = np.cumsum(rng.normal(0, 0.05, size=shape), axis=-1)
    for _ in range(5):
        out += rng.normal(0, 0.5, size=(n, c, 1)) * np.sin(rng.uniform(0.01, 0.8) * time + rng.uniform(0, 6))
    spikes = (rng.random(shape) < 0.01) * rng.normal(0, 2, size=shape)
    return (out + spikes).astype(np.float32)


def tokens(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.minimum(rng.zipf(1.4, size=shape) + rng.integers(0, 40, size=shape), 299).astype(np.int64)


# --- the networks ------------------------------------------------------------------------------------------------


def _start(name: str, seed: int) -> Builder:
    rng = np.random.default_rng([seed, len(name), ord(name[0])])
    fed = FEEDS[name](np.random.default_rng([seed, 77]))
    return Builder(name, rng, dict(fed), inputs=list(fed))


def silunet(seed: int) -> Net:
    """A small convolution net in the manner of EfficientNet: SiLU, batch norm, squeeze and excite, residuals."""
    b = _start("silunet", seed)
    b.scope = "stem"
    y = b.silu(b.conv("image", "conv", 24, 3, strides=[2, 2], pads=[0, 0, 1, 1]), "act")
    b.scope = "block1"
    skip = y
    y = b.silu(b.conv(y, "expand", 64, 1), "act1")
    y = b.silu(b.conv(y, "dw", 64, 3, pads=[1] * 4, group=64), "act2")
    s = b.one("GlobalAveragePool", "se", [y])
    s = b.silu(b.conv(s, "se_down", 16, 1, bn=False), "act3")
    s = b.one("Sigmoid", "se", [b.conv(s, "se_up", 64, 1, bn=False)])
    y = b.one("Mul", "se", [y, s])
    y = b.one("Add", "residual", [b.conv(y, "project", 24, 1), skip])
    b.scope = "block2"
    y = b.one("MaxPool", "pool", [y], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    long = b.silu(b.conv(y, "conv1", 64, 3, pads=[1] * 4, group=2), "act1")
    long = b.conv(long, "conv2", 64, 3, pads=[1] * 4)
    y = b.one("Add", "residual", [long, b.conv(y, "shortcut", 64, 1)])
    y = b.silu(y, "act2")
    b.scope = "block3"
    y = b.one("HardSwish", "act", [b.conv(y, "conv", 96, 3, pads=[2] * 4, dilations=[2, 2])], block="hardswish")
    y = b.one("AveragePool", "pool", [y], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, ceil_mode=0)
    y = b.silu(b.conv(y, "mix", 128, 1), "act2")
    b.scope = "head"
    y = b.one("Flatten", "flat", [b.one("GlobalAveragePool", "gap", [y])], axis=1)
    args = [y, b.weights("head.fc.weight", (20, 128), 16), b.vector("head.fc.bias", 20, 0.0, 0.3)]
    y = b.one("Softmax", "prob", [b.one("Gemm", "fc", args, transB=1)], axis=-1)
    return b.finish([y])


def encoder(seed: int) -> Net:
    """A transformer encoder of two layers: embedding, layer norm, attention, GELU by Erf, a classifier with TopK."""
    b = _start("encoder", seed)
    width, heads, length = 96, 4, b.values["ids"].shape[1]
    b.scope = "embed"
    table = b.const("embed.table", b.rng.normal(0, 0.6, size=(300, width)))
    y = b.one("Gather", "tokens", [table, "ids"], axis=0)
    y = b.one("Add", "position", [y, b.const("embed.position", b.rng.normal(0, 0.3, size=(1, length, width)))])
    for layer in range(2):
        b.scope = f"layer.{layer}"
        skip, y = y, b.layer_norm(y, "norm1")
        parts = []
        for part in ("query", "key", "value"):
            z = b.linear(y, part, width)
            shape = b.const("heads.shape", [0, 0, heads, width // heads], np.int64)
            z = b.one("Reshape", part, [z, shape])
            parts.append(b.one("Transpose", part, [z], perm=[0, 2, 3, 1] if part == "key" else [0, 2, 1, 3]))
        scores = b.one("MatMul", "scores", parts[:2], block="matmul")
        factor = b.const(f"{b.scope}.scale", 2 / math.sqrt(width / heads))
        scores = b.one("Mul", "scale", [scores, factor])
        z = b.one("MatMul", "mix", [b.one("Softmax", "attention", [scores], axis=-1), parts[2]], block="matmul")
        z = b.one("Transpose", "back", [z], perm=[0, 2, 1, 3])
        z = b.one("Reshape", "back", [z, b.const("flat.shape", [0, 0, width], np.int64)])
        y = b.one("Add", "residual1", [skip, b.linear(z, "out", width)])
        z = b.gelu(b.linear(b.layer_norm(y, "norm2"), "up", 2 * width), "act")
        y = b.one("Add", "residual2", [y, b.linear(z, "down", width)])
    b.scope = "head"
    y = b.one("ReduceMean", "pool", [b.layer_norm(y, "norm")], axes=[1], keepdims=0)
    y = b.one("Tanh", "pooler", [b.linear(y, "pooler", width)])
    y = b.linear(y, "classes", 40)
    probabilities = b.one("Softmax", "prob", [y], axis=-1)
    best = b.one("TopK", "top", [b.fake_quant(y, "logits", 0.125, 128), b.const("top.k", [5], np.int64)], outputs=2,
                 axis=-1)  # fmt: skip
    return b.finish([probabilities, best, best.replace("_output_0", "_output_1")])


def segment(seed: int) -> Net:
    """A segmentation net: strided encoder, depthwise and dilated convolutions, Resize, ConvTranspose, Concat."""
    b = _start("segment", seed)
    b.scope = "enc1"
    edge = b.const("enc1.pads", [0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    y = b.node("Pad", "pad", ["image", edge], mode="constant")
    first = b.one("LeakyRelu", "act", [b.conv(y, "conv", 32, 3)], block="leaky", alpha=0.1)
    b.scope = "enc2"
    y = b.conv(first, "dw", 32, 3, strides=[2, 2], pads=[1] * 4, group=32)
    y = b.one("Clip", "act1", [y, b.const("zero", 0.0), b.const("six", 6.0)], block="clip")
    y = b.conv(y, "pw", 48, 1)
    slopes = b.const("enc2.slope", np.abs(b.rng.normal(0.25, 0.1, size=(48, 1, 1))))
    second = b.one("PRelu", "act2", [y, slopes], block="prelu")
    b.scope = "enc3"
    y = b.one("MaxPool", "pool", [second], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    y = b.one("Relu", "act1", [b.conv(y, "group", 64, 3, pads=[1] * 4, group=4)])
    wide = b.conv(y, "dilated", 64, 3, pads=[2] * 4, dilations=[2, 2])
    args = [wide, b.vector("enc3.in.weight", 64, 1.0, 0.2), b.vector("enc3.in.bias", 64, 0.1, 0.3)]
    wide = b.one("Elu", "act2", [b.one("InstanceNormalization", "in", args, epsilon=1e-5)], alpha=1.0)
    y = b.one("Add", "residual", [y, wide])
    b.scope = "dec2"
    sizes = b.const("dec2.sizes", [2, 64, *b.values[second].shape[2:]], np.int64)
    y = b.one("Resize", "up", [y, "", "", sizes], mode="linear", coordinate_transformation_mode="half_pixel")
    y = b.one("Concat", "cat", [y, second], axis=1)
    y = b.one("Relu", "act", [b.conv(y, "conv", 48, 3, pads=[1] * 4)])
    y = b.one("AveragePool", "smooth", [y], kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4, count_include_pad=1)
    b.scope = "dec1"
    y = b.one("Relu", "act1", [b.deconv(y, "deconv", 32, 4, strides=[2, 2], pads=[1] * 4)])
    y = b.one("Concat", "cat", [y, first], axis=1)
    y = b.one("Sigmoid", "gate", [b.conv(y, "conv", 24, 3, pads=[1] * 4)])
    scales = b.const("dec1.scales", [1.0, 1.0, 2.0, 2.0])
    y = b.one("Resize", "up", [y, "", scales], mode="nearest", coordinate_transformation_mode="asymmetric",
              nearest_mode="floor")  # fmt: skip
    cut = [b.const(f"dec1.{n}", v, np.int64) for n, v in (("starts", [2, 3]), ("ends", [62, 61]), ("axes", [2, 3]))]
    y = b.one("Slice", "crop", [y, *cut])
    b.scope = "head"
    scores = b.conv(y, "scores", 6, 1, bn=False)
    mask = b.one("Sigmoid", "mask", [scores])
    labels = b.one("ArgMax", "label", [b.fake_quant(scores, "quant", 0.0625, 96)], axis=1, keepdims=1)
    return b.finish([mask, labels])


def gates(seed: int) -> Net:
    """A gated net over time series: dilated 1-D convolutions, Tanh times Sigmoid, Mish, Softplus, an L2 norm."""
    b = _start("gates", seed)
    b.scope = "in"
    y = b.mish(b.conv("series", "conv", 32, 5, pads=[2, 2]), "act")
    total = ""
    for i, gap in enumerate((1, 2, 4)):
        b.scope = f"cell{i}"
        skip = y
        z = b.conv(y, "conv", 64, 3, pads=[2 * gap, 0], dilations=[gap])
        sizes = b.const("cell.sizes", [32, 32], np.int64)
        z = b.one("Split", "halves", [z, sizes], outputs=2, axis=1)
        left = b.node("Tanh", "filter", [z])
        right = b.node("Sigmoid", "gate", [z.replace("_output_0", "_output_1")])
        z = b.ended(b.node("Mul", "gated", [left, right]), "gate")
        z = b.conv(z, "mix", 32, 1, bn=False)
        total = b.one("Add", "skip", [total, z]) if total else z
        y = b.one("Add", "residual", [z, skip])
    b.scope = "mid"
    y = b.one("Softplus", "act", [b.one("Sub", "less", [total, y])])
    y = b.one("AveragePool", "pool", [y], kernel_shape=[4], strides=[2], pads=[1, 1])
    y = b.one("Elu", "bend", [b.conv(y, "group", 64, 3, pads=[1, 1], group=4)], alpha=0.7)
    square = b.node("Mul", "square", [y, y])
    length = b.node("ReduceSum", "norm", [square, b.const("norm.axes", [1], np.int64)])
    safe = b.node("Add", "safe", [length, b.const("tiny", 1e-4)])
    y = b.ended(b.node("Div", "unit", [y, b.node("Sqrt", "norm", [safe])]), "l2norm")
    y = b.fake_quant(y, "quant", 0.0078125, 128)
    y = b.mish(b.conv(y, "deep", 64, 3, pads=[1, 1], strides=[2]), "act2")
    b.scope = "out"
    y = b.one("Transpose", "steps", [y], perm=[0, 2, 1])
    y = b.gelu(b.linear(y, "fc1", 48), "act")
    y = b.one("LeakyRelu", "act2", [b.linear(y, "fc2", 16)], block="leaky", alpha=0.2)
    strength = b.one("Exp", "rate", [b.one("Mul", "less", [y, b.const("quarter", 0.25)])])
    return b.finish([strength, b.one("Softmax", "prob", [y], axis=-1)])


Feed = Callable[[np.random.Generator], dict[str, Array]]
FEEDS: dict[str, Feed] = {
    "silunet": lambda rng: {"image": picture(rng, (2, 3, 64, 64))},
    "encoder": lambda rng: {"ids": tokens(rng, (2, 72))},
    "segment": lambda rng: {"image": picture(rng, (2, 3, 32, 32))},
    "gates": lambda rng: {"series": series(rng, (3, 8, 400))},
}
NETS: dict[str, Callable[[int], Net]] = {"silunet": silunet, "encoder": encoder, "segment": segment, "gates": gates}
