"""Caffe's layers in numpy, written from their definitions: the independent answer for the tests, and nothing else.

Only the graph's wiring, attributes and weights are used; no formula is shared with the package. Plain and slow on
purpose.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from acccmp.core.graph import Graph, Node

Array = np.ndarray


def execute(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Every tensor of the graph, by name, computed in float64."""
    made = {name: np.asarray(array, np.float64) for name, array in inputs.items()}
    for node in graph.nodes:
        if all(tensor in made for tensor in node.outputs):
            continue
        weights = [graph.weights[name].numpy().astype(np.float64) for name in node.weights]
        outputs = LAYERS[node.op_type](node, [made[tensor] for tensor in node.inputs], weights)
        made.update(zip(node.outputs, outputs if isinstance(outputs, list) else [outputs], strict=True))
    return made


def param(node: Node, block: str, name: str, default: Any) -> Any:
    return node.attrs.get(block, {}).get(name, default)


def pair(node: Node, block: str, name: str, default: int) -> tuple[int, int]:
    """Height and width of kernel, stride, pad or dilation, however it is spelled."""
    stem = name.split("_")[0]
    given = node.attrs.get(block, {})
    if f"{stem}_h" in given or f"{stem}_w" in given:
        return given.get(f"{stem}_h", default), given.get(f"{stem}_w", default)
    value = given.get(name, default)
    values = list(value) if isinstance(value, Sequence) else [value]
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


def with_bias(out: Array, weights: list[Array]) -> Array:
    return out + weights[1].reshape(1, -1, *[1] * (out.ndim - 2)) if len(weights) > 1 else out


def convolution(node: Node, bottoms: list[Array], weights: list[Array]) -> list[Array]:
    """Several bottoms go through the same filters, each to its own top."""
    return [convolved(node, x, weights) for x in bottoms]


def convolved(node: Node, x: Array, weights: list[Array]) -> Array:
    groups = param(node, "convolution_param", "group", 1)
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = (
        pair(node, "convolution_param", name, default)
        for name, default in (("kernel_size", 0), ("stride", 1), ("pad", 0), ("dilation", 1))
    )
    filters = param(node, "convolution_param", "num_output", 0)
    w = weights[0].reshape(filters, x.shape[1] // groups, kh, kw)
    padded = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    oh = (padded.shape[2] - dh * (kh - 1) - 1) // sh + 1
    ow = (padded.shape[3] - dw * (kw - 1) - 1) // sw + 1
    out = np.zeros((x.shape[0], filters, oh, ow))
    cin, cout = x.shape[1] // groups, filters // groups
    for group, i, j in itertools.product(range(groups), range(kh), range(kw)):
        seen = padded[:, group * cin : (group + 1) * cin, i * dh :, j * dw :][:, :, : sh * oh : sh, : sw * ow : sw]
        seen = seen[:, :, :oh, :ow]
        taps = w[group * cout : (group + 1) * cout, :, i, j]
        out[:, group * cout : (group + 1) * cout] += np.einsum("oc,nchw->nohw", taps, seen)
    return with_bias(out, weights)


def deconvolution(node: Node, bottoms: list[Array], weights: list[Array]) -> Array:
    x = bottoms[0]
    groups = param(node, "convolution_param", "group", 1)
    (kh, kw), (sh, sw), (ph, pw) = (
        pair(node, "convolution_param", name, default)
        for name, default in (("kernel_size", 0), ("stride", 1), ("pad", 0))
    )
    filters = param(node, "convolution_param", "num_output", 0)
    w = weights[0].reshape(x.shape[1], filters // groups, kh, kw)
    n, c, h, wide = x.shape
    full = np.zeros((n, filters, (h - 1) * sh + kh, (wide - 1) * sw + kw))
    cin, cout = c // groups, filters // groups
    for group, row, column in itertools.product(range(groups), range(h), range(wide)):
        piece = np.einsum(
            "nc,coij->noij", x[:, group * cin : (group + 1) * cin, row, column], w[group * cin : (group + 1) * cin],
        )
        full[:, group * cout : (group + 1) * cout, row * sh : row * sh + kh, column * sw : column * sw + kw] += piece
    out = full[:, :, ph : full.shape[2] - ph, pw : full.shape[3] - pw]
    return with_bias(out, weights)


def pooling(node: Node, bottoms: list[Array], weights: list[Array]) -> list[Array]:
    """Caffe rounds the size up; an average divides by the window cut to the padded size, padding counted.

    The second top of a maximum is the place of the largest value in its channel, h * width + w.
    """
    x = bottoms[0]
    n, c, h, w = x.shape
    average = param(node, "pooling_param", "pool", "MAX") == "AVE"
    if param(node, "pooling_param", "global_pooling", False):
        places = x.reshape(n, c, -1).argmax(axis=2).reshape(n, c, 1, 1)
        return [(x.mean if average else x.max)(axis=(2, 3), keepdims=True), places][: len(node.outputs)]
    (kh, kw), (sh, sw), (ph, pw) = (
        pair(node, "pooling_param", name, default)
        for name, default in (("kernel_size", 0), ("stride", 1), ("pad", 0))
    )
    rounded = math.floor if param(node, "pooling_param", "round_mode", "CEIL") == "FLOOR" else math.ceil

    def size(length: int, kernel: int, stride: int, pad: int) -> int:
        count = rounded((length + 2 * pad - kernel) / stride) + 1
        return count - 1 if pad and (count - 1) * stride >= length + pad else count

    oh, ow = size(h, kh, sh, ph), size(w, kw, sw, pw)
    out, places = np.zeros((n, c, oh, ow)), np.zeros((n, c, oh, ow))
    for row, column in itertools.product(range(oh), range(ow)):
        top, left = row * sh - ph, column * sw - pw
        bottom, right = min(top + kh, h + ph), min(left + kw, w + pw)
        area = (bottom - top) * (right - left)
        window = x[:, :, max(top, 0) : min(bottom, h), max(left, 0) : min(right, w)]
        out[:, :, row, column] = window.sum(axis=(2, 3)) / area if average else window.max(axis=(2, 3))
        first = window.reshape(n, c, -1).argmax(axis=2)
        down, across = first // window.shape[3], first % window.shape[3]
        places[:, :, row, column] = (max(top, 0) + down) * w + max(left, 0) + across
    return [out, places][: len(node.outputs)]


def inner_product(node: Node, bottoms: list[Array], weights: list[Array]) -> Array:
    x = bottoms[0]
    axis = param(node, "inner_product_param", "axis", 1) % x.ndim
    flat = x.reshape(*x.shape[:axis], -1)
    out = param(node, "inner_product_param", "num_output", 0)
    if param(node, "inner_product_param", "transpose", False):
        matrix = weights[0].reshape(flat.shape[-1], out)
    else:
        matrix = weights[0].reshape(out, flat.shape[-1]).T
    made = flat @ matrix
    return made + weights[1].reshape(-1) if len(weights) > 1 else made


def relu(node: Node, bottoms: list[Array], weights: list[Array]) -> Array:
    slope = param(node, "relu_param", "negative_slope", 0.0)
    return np.where(bottoms[0] > 0, bottoms[0], slope * bottoms[0])


def prelu(node: Node, bottoms: list[Array], weights: list[Array]) -> Array:
    x = bottoms[0]
    slope = weights[0].reshape(-1) if weights[0].size == 1 else weights[0].reshape(1, -1, *[1] * (x.ndim - 2))
    return np.where(x > 0, x, slope * x)


def batch_norm(node: Node, bottoms: list[Array], weights: list[Array]) -> Array:
    x = bottoms[0]
    mean, variance, count = (blob.reshape(-1) for blob in weights)
    by = 0.0 if count[0] == 0 else 1 / count[0]
    shape = (1, -1, *[1] * (x.ndim - 2))
    eps = param(node, "batch_norm_param", "eps", 1e-5)
    return (x - (mean * by).reshape(shape)) / np.sqrt((variance * by).reshape(shape) + eps)


def scale(node: Node, bottoms: list[Array], weights: list[Array]) -> Array:
    x = bottoms[0]
    axis = param(node, "scale_param", "axis", 1)
    factors = [*bottoms[1:], *weights]

    def broad(blob: Array) -> Array:
        count = param(node, "scale_param", "num_axes", 1)
        count = blob.ndim if len(bottoms) > 1 else x.ndim - axis if count == -1 else count
        return blob.reshape(*[1] * axis, *x.shape[axis : axis + count], *[1] * (x.ndim - axis - count))

    out = x * broad(factors[0])
    return out + broad(factors[1]) if param(node, "scale_param", "bias_term", False) else out


def eltwise(node: Node, bottoms: list[Array], weights: list[Array]) -> Array:
    operation = param(node, "eltwise_param", "operation", "SUM")
    if operation == "PROD":
        return np.prod(bottoms, axis=0)
    if operation == "MAX":
        return np.max(bottoms, axis=0)
    factors = param(node, "eltwise_param", "coeff", ()) or [1.0] * len(bottoms)
    return sum(factor * x for factor, x in zip(factors, bottoms, strict=True))


def concat(node: Node, bottoms: list[Array], weights: list[Array]) -> Array:
    axis = param(node, "concat_param", "axis", param(node, "concat_param", "concat_dim", 1))
    return np.concatenate(bottoms, axis=axis)


def slices(node: Node, bottoms: list[Array], weights: list[Array]) -> list[Array]:
    axis = param(node, "slice_param", "axis", param(node, "slice_param", "slice_dim", 1))
    points = param(node, "slice_param", "slice_point", ())
    return np.split(bottoms[0], list(points) or len(node.outputs), axis=axis)


def softmax(node: Node, bottoms: list[Array], weights: list[Array]) -> Array:
    axis = param(node, "softmax_param", "axis", 1)
    e = np.exp(bottoms[0] - bottoms[0].max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def lrn(node: Node, bottoms: list[Array], weights: list[Array]) -> Array:
    x = bottoms[0]
    size, alpha, beta, k = (
        param(node, "lrn_param", name, default)
        for name, default in (("local_size", 5), ("alpha", 1.0), ("beta", 0.75), ("k", 1.0))
    )
    total = np.zeros_like(x)
    if param(node, "lrn_param", "norm_region", "ACROSS_CHANNELS") == "WITHIN_CHANNEL":
        for row, column in np.ndindex(*x.shape[2:]):
            near = x[:, :, max(0, row - size // 2) : row + size // 2 + 1,
                     max(0, column - size // 2) : column + size // 2 + 1]
            total[:, :, row, column] = (near**2).sum(axis=(2, 3))
        return x / (1 + alpha / size**2 * total) ** beta  # an average with padding, to which 1 is added, not k
    for channel in range(x.shape[1]):
        near = x[:, max(0, channel - size // 2) : channel + size // 2 + 1]
        total[:, channel] = (near**2).sum(axis=1)
    return x / (k + alpha / size * total) ** beta


def flatten(node: Node, bottoms: list[Array], weights: list[Array]) -> Array:
    x = bottoms[0]
    start = param(node, "flatten_param", "axis", 1) % x.ndim
    end = param(node, "flatten_param", "end_axis", -1) % x.ndim
    return x.reshape(*x.shape[:start], -1, *x.shape[end + 1 :])


def reshape(node: Node, bottoms: list[Array], weights: list[Array]) -> Array:
    x = bottoms[0]
    wanted = node.attrs["reshape_param"]["shape"]["dim"]
    return x.reshape([x.shape[place] if dim == 0 else dim for place, dim in enumerate(wanted)])


def permute(node: Node, bottoms: list[Array], weights: list[Array]) -> Array:
    order = node.attrs["permute_param"]["order"]
    return bottoms[0].transpose(*order, *[axis for axis in range(bottoms[0].ndim) if axis not in order])


def power(node: Node, bottoms: list[Array], weights: list[Array]) -> Array:
    exponent, factor, shift = (
        param(node, "power_param", name, default) for name, default in (("power", 1.0), ("scale", 1.0), ("shift", 0.0))
    )
    return (shift + factor * bottoms[0]) ** exponent


def mvn(node: Node, bottoms: list[Array], weights: list[Array]) -> Array:
    x = bottoms[0]
    axes = tuple(range(1 if param(node, "mvn_param", "across_channels", False) else 2, x.ndim))
    out = x - x.mean(axis=axes, keepdims=True)
    if param(node, "mvn_param", "normalize_variance", True):
        out = out / (x.std(axis=axes, keepdims=True) + param(node, "mvn_param", "eps", 1e-9))
    return out


def dropout(node: Node, bottoms: list[Array], weights: list[Array]) -> Array:
    """Training drops a share of the values. It multiplies the rest to make up for it, or (`scale_train` false, of a
    fork) test multiplies all."""
    kept = 1 - param(node, "dropout_param", "dropout_ratio", 0.5)
    return bottoms[0] * (1 if param(node, "dropout_param", "scale_train", True) else kept)


def same(node: Node, bottoms: list[Array], weights: list[Array]) -> Any:
    return [bottoms[0]] * len(node.outputs)


LAYERS: dict[str, Any] = {
    "Convolution": convolution,
    "Deconvolution": deconvolution,
    "Pooling": pooling,
    "InnerProduct": inner_product,
    "ReLU": relu,
    "PReLU": prelu,
    "Sigmoid": lambda node, bottoms, weights: 1 / (1 + np.exp(-bottoms[0])),
    "TanH": lambda node, bottoms, weights: np.tanh(bottoms[0]),
    "BatchNorm": batch_norm,
    "Scale": scale,
    "Eltwise": eltwise,
    "Concat": concat,
    "Slice": slices,
    "Softmax": softmax,
    "LRN": lrn,
    "Flatten": flatten,
    "Reshape": reshape,
    "Permute": permute,
    "Power": power,
    "MVN": mvn,
    "AbsVal": lambda node, bottoms, weights: np.abs(bottoms[0]),
    "ELU": lambda node, bottoms, weights: np.where(bottoms[0] > 0, bottoms[0], np.expm1(bottoms[0])),
    "Dropout": dropout,
    "Split": same,
}
