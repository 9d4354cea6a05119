"""One function per original op type, written for any habit: what the device computes, instruction by instruction.

A kernel takes the habit, the argument arrays (None where an optional one is absent) and the attributes, and gives
the list of its results. `pad_value` is an attribute of ours that only a fault sets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from habits import Array, Habit

Attrs = dict[str, Any]
Kernel = Callable[[Habit, list[Any], Attrs], list[Array]]


def windows(x: Array, kernel: list[int], strides: list[int], dilations: list[int]) -> Array:
    """Sliding windows over the trailing axes: (N, C, *positions, *kernel)."""
    spatial = len(kernel)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(x, spans, axis=tuple(range(2, 2 + spatial)))
    steps = (slice(None), slice(None), *(slice(None, None, s) for s in strides))
    return view[steps + tuple(slice(None, None, d) for d in dilations)]


def pad_spatial(x: Array, pads: list[int], value: float) -> Array:
    """x with ONNX pads (all begins, then all ends) around its trailing axes."""
    half = len(pads) // 2
    width = [(0, 0), (0, 0), *zip(pads[:half], pads[half:], strict=True)]
    return np.pad(x, width, constant_values=value)


def conv(h: Habit, args: list[Any], attrs: Attrs) -> list[Array]:
    x, w = args[0], args[1]
    bias = args[2] if len(args) > 2 else None
    spatial = x.ndim - 2
    group = attrs.get("group", 1)
    kernel = list(w.shape[2:])
    strides, dilations = attrs.get("strides", [1] * spatial), attrs.get("dilations", [1] * spatial)
    x = pad_spatial(x, attrs.get("pads", [0] * 2 * spatial), attrs.get("pad_value", 0.0))
    view = windows(x, kernel, strides, dilations)
    n, c = view.shape[:2]
    places = view.shape[2 : 2 + spatial]
    k = c // group * math.prod(kernel)
    columns = view.reshape(n, group, c // group, *places, *kernel)
    order = [0, 1, *range(3, 3 + spatial), 2, *range(3 + spatial, 3 + 2 * spatial)]
    columns = columns.transpose(order).reshape(n, group, math.prod(places), k)
    weights = w.reshape(group, w.shape[0] // group, k).transpose(0, 2, 1)
    y = h.cube(columns, weights)
    y = y.transpose(0, 1, 3, 2).reshape(n, w.shape[0], *places)
    if bias is not None:
        y = y + bias.reshape(-1, *[1] * spatial).astype(y.dtype)
    return [y]


def conv_transpose(h: Habit, args: list[Any], attrs: Attrs) -> list[Array]:
    """Zeros are put between the inputs, then an ordinary convolution runs with the turned kernel (one group)."""
    x, w = args[0], args[1]
    spatial = x.ndim - 2
    strides = attrs.get("strides", [1] * spatial)
    pads = attrs.get("pads", [0] * 2 * spatial)
    extra = attrs.get("output_padding", [0] * spatial)
    spread = np.zeros([*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], strides, strict=True))], x.dtype)
    spread[(slice(None), slice(None), *(slice(None, None, s) for s in strides))] = x
    reach = [k - 1 for k in w.shape[2:]]
    around = [r - p for r, p in zip(reach, pads[:spatial], strict=True)]
    around += [r - p + e for r, p, e in zip(reach, pads[spatial:], extra, strict=True)]
    turned = np.flip(w, axis=tuple(range(2, w.ndim))).swapaxes(0, 1)
    return conv(h, [spread, turned, *args[2:]], {"pads": around})


def batch_norm(h: Habit, args: list[Any], attrs: Attrs) -> list[Array]:
    x, gamma, beta, mean, var = args
    wide = [side.astype(np.float64) for side in (gamma, beta, mean, var)]
    scale = wide[0] / np.sqrt(wide[3] + attrs.get("epsilon", 1e-5))
    shift = wide[1] - wide[2] * scale
    shape = (-1, *[1] * (x.ndim - 2))
    return [h.vec(h.vec(x * h.vec(scale).reshape(shape)) + h.vec(shift).reshape(shape))]


def instance_norm(h: Habit, args: list[Any], attrs: Attrs) -> list[Array]:
    x, gamma, beta = args
    axes = attrs.get("axes") or tuple(range(2, x.ndim))
    shape = (-1, *[1] * (x.ndim - 2))
    mean = mean_of(h, x, axes)
    apart = h.vec(x - mean)
    spread = mean_of(h, h.vec(apart * apart), axes)
    down = h.function("sqrt", h.vec(spread + attrs.get("epsilon", 1e-5)))
    return [h.vec(h.vec(h.vec(apart / down) * gamma.reshape(shape)) + beta.reshape(shape))]


def mean_of(h: Habit, x: Array, axes: tuple[int, ...], keepdims: bool = True) -> Array:
    """The sum is divided last: dividing every element first would push small ones below what float16 holds."""
    count = math.prod(x.shape[axis] for axis in axes)
    return h.vec(h.total(x, axes, keepdims) * h.vec(np.asarray(1.0 / count)))


def matmul(h: Habit, args: list[Any], _: Attrs) -> list[Array]:
    return [h.cube(args[0], args[1])]


def gemm(h: Habit, args: list[Any], attrs: Attrs) -> list[Array]:
    b = args[1].T if attrs.get("transB") else args[1]
    y = h.cube(args[0], b)
    return [y + args[2].astype(y.dtype) if len(args) > 2 else y]


def softmax(h: Habit, args: list[Any], attrs: Attrs) -> list[Array]:
    x, axis = args[0], attrs.get("axis", -1)
    powers = h.function("exp", h.vec(x - x.max(axis=axis, keepdims=True)))
    return [h.vec(powers / h.total(powers, (axis,)))]


def pool_places(x: Array, attrs: Attrs) -> tuple[list[int], list[int], list[int]]:
    """Strides, pads and the extra padding at the ends that ceil_mode needs."""
    spatial = x.ndim - 2
    kernel, strides = attrs["kernel_shape"], attrs.get("strides", [1] * spatial)
    pads = attrs.get("pads", [0] * 2 * spatial)
    extra = [0] * spatial
    if attrs.get("ceil_mode"):
        for i in range(spatial):
            room = x.shape[2 + i] + pads[i] + pads[spatial + i] - kernel[i]
            extra[i] = -room % strides[i]
    return strides, pads, extra


def max_pool(h: Habit, args: list[Any], attrs: Attrs) -> list[Array]:
    x = args[0]
    strides, pads, extra = pool_places(x, attrs)
    spatial = len(extra)
    padded = pad_spatial(x, pads, attrs.get("pad_value", -np.inf))
    padded = pad_spatial(padded, [0] * spatial + extra, -np.inf)
    view = windows(padded, attrs["kernel_shape"], strides, attrs.get("dilations", [1] * spatial))
    return [view.max(axis=tuple(range(2 + spatial, 2 + 2 * spatial)))]


def average_pool(h: Habit, args: list[Any], attrs: Attrs) -> list[Array]:
    x = args[0]
    strides, pads, extra = pool_places(x, attrs)
    spatial = len(extra)
    inside = np.ones((1, 1, *x.shape[2:]), dtype=np.float64)
    counted = pad_spatial(inside, pads, 1.0 if attrs.get("count_include_pad") else 0.0)
    ends = [0] * spatial + extra
    last = tuple(range(2 + spatial, 2 + 2 * spatial))
    ones = [1] * spatial
    counts = windows(pad_spatial(counted, ends, 0.0), attrs["kernel_shape"], strides, ones).sum(axis=last)
    padded = pad_spatial(pad_spatial(x, pads, attrs.get("pad_value", 0.0)), ends, 0.0)
    sums = h.total(windows(padded, attrs["kernel_shape"], strides, ones), last, keepdims=False)
    return [h.vec(sums * h.vec(1 / counts))]


def resize(h: Habit, args: list[Any], attrs: Attrs) -> list[Array]:
    """Nearest or linear, one axis after the other; the target shape is the fourth argument or comes from the third."""
    x = args[0]
    if len(args) > 3 and args[3] is not None:
        sizes = [int(n) for n in args[3]]
    else:
        sizes = [math.floor(n * s) for n, s in zip(x.shape, args[2], strict=True)]
    for axis in range(2, x.ndim):
        if sizes[axis] != x.shape[axis]:
            x = resize_axis(h, x, axis, sizes[axis], attrs)
    return [x]


def resize_axis(h: Habit, x: Array, axis: int, size: int, attrs: Attrs) -> Array:
    old = x.shape[axis]
    place = np.arange(size, dtype=np.float64)
    manner = attrs.get("coordinate_transformation_mode", "half_pixel")
    if manner == "align_corners":
        place = place * (old - 1) / max(size - 1, 1)
    elif manner == "asymmetric":
        place = place * old / size
    else:
        place = (place + 0.5) * old / size - 0.5
    if attrs.get("mode", "nearest") == "nearest":
        rule = attrs.get("nearest_mode", "round_prefer_floor")
        whole = np.floor(place) if rule == "floor" else np.ceil(place - 0.5)
        return np.take(x, np.clip(whole.astype(int), 0, old - 1), axis=axis)
    place = np.clip(place, 0, old - 1)
    low = np.floor(place).astype(int)
    share = h.vec((place - low).reshape([-1 if i == axis else 1 for i in range(x.ndim)]))
    left = np.take(x, low, axis=axis)
    right = np.take(x, np.minimum(low + 1, old - 1), axis=axis)
    return h.vec(h.vec(left * h.vec(1 - share)) + h.vec(right * share))


def reduce_mean(h: Habit, args: list[Any], attrs: Attrs) -> list[Array]:
    axes = tuple(attrs["axes"])
    return [mean_of(h, args[0], axes, bool(attrs.get("keepdims", 1)))]


def reduce_sum(h: Habit, args: list[Any], attrs: Attrs) -> list[Array]:
    axes = tuple(attrs["axes"]) if "axes" in attrs else tuple(int(a) for a in args[1])
    return [h.total(args[0], axes, bool(attrs.get("keepdims", 1)))]


def global_average_pool(h: Habit, args: list[Any], _: Attrs) -> list[Array]:
    return [mean_of(h, args[0], tuple(range(2, args[0].ndim)))]


def slice_(h: Habit, args: list[Any], _: Attrs) -> list[Array]:
    x, starts, ends, axes = args[:4]
    cut = [slice(None)] * x.ndim
    for start, end, axis in zip(starts, ends, axes, strict=True):
        cut[int(axis)] = slice(int(start), int(end))
    return [x[tuple(cut)]]


def split(h: Habit, args: list[Any], attrs: Attrs) -> list[Array]:
    ends = np.cumsum([int(n) for n in args[1]])
    return list(np.split(args[0], ends[:-1], axis=attrs["axis"]))


def pad(h: Habit, args: list[Any], attrs: Attrs) -> list[Array]:
    x, pads = args[0], [int(p) for p in args[1]]
    width = list(zip(pads[: x.ndim], pads[x.ndim :], strict=True))
    if attrs.get("mode", "constant") == "constant":
        return [np.pad(x, width, constant_values=attrs.get("pad_value", 0.0))]
    return [np.pad(x, width, mode=attrs["mode"])]


def arg_max(h: Habit, args: list[Any], attrs: Attrs) -> list[Array]:
    x, axis = args[0], attrs["axis"]
    if attrs.get("select_last_index"):
        index = x.shape[axis] - 1 - np.argmax(np.flip(x, axis), axis)
    else:
        index = np.argmax(x, axis)
    return [np.expand_dims(index, axis) if attrs.get("keepdims", 1) else index]


def top_k(h: Habit, args: list[Any], attrs: Attrs) -> list[Array]:
    x, k = args[0], int(np.asarray(args[1]).reshape(-1)[0])
    last = bool(attrs.get("select_last_index"))
    position = np.broadcast_to(np.arange(x.shape[-1]), x.shape)
    order = np.lexsort((-position if last else position, -x.astype(np.float64)), axis=-1)[..., :k]
    return [np.take_along_axis(x, order, axis=-1), order]


def quantize(h: Habit, args: list[Any], attrs: Attrs) -> list[Array]:
    x, scale, zero = args
    limits = np.iinfo(zero.dtype)
    low, high = attrs.get("limits", (int(limits.min), int(limits.max)))
    ratio = x.astype(np.float32) / np.float32(scale)
    return [np.clip(np.rint(ratio).astype(np.int64) + int(zero), low, high).astype(zero.dtype)]


def dequantize(h: Habit, args: list[Any], _: Attrs) -> list[Array]:
    x, scale, zero = args
    return [h.vec((x.astype(np.int64) - int(zero)) * np.float64(scale))]


def hard_sigmoid_values(h: Habit, x: Array, alpha: float, beta: float) -> Array:
    return np.clip(h.vec(h.vec(x * x.dtype.type(alpha)) + x.dtype.type(beta)), 0, 1)


def elu(h: Habit, args: list[Any], attrs: Attrs) -> list[Array]:
    x, alpha = args[0], attrs.get("alpha", 1.0)
    bent = h.vec(h.vec(h.function("exp", np.minimum(x, 0)) - 1) * x.dtype.type(alpha))
    return [np.where(x > 0, x, bent)]


def p_relu(h: Habit, args: list[Any], _: Attrs) -> list[Array]:
    return [np.where(args[0] < 0, h.vec(args[0] * args[1]), args[0])]


def leaky_relu(h: Habit, args: list[Any], attrs: Attrs) -> list[Array]:
    x = args[0]
    return [np.where(x < 0, h.vec(x * x.dtype.type(attrs.get("alpha", 0.01))), x)]


def clip(h: Habit, args: list[Any], _: Attrs) -> list[Array]:
    return [np.clip(args[0], args[0].dtype.type(args[1]), args[0].dtype.type(args[2]))]


def power(h: Habit, args: list[Any], _: Attrs) -> list[Array]:
    return [h.vec(args[0] * args[0]) if float(args[1]) == 2 else h.vec(np.power(args[0], args[1]))]


def transpose(h: Habit, args: list[Any], attrs: Attrs) -> list[Array]:
    return [np.transpose(args[0], attrs["perm"])]


def reshape(h: Habit, args: list[Any], _: Attrs) -> list[Array]:
    return [args[0].reshape([int(n) if n else args[0].shape[i] for i, n in enumerate(args[1])])]


def flatten(h: Habit, args: list[Any], _: Attrs) -> list[Array]:
    return [args[0].reshape(args[0].shape[0], -1)]


def _function(name: str) -> Kernel:
    return lambda h, args, attrs: [h.function(name, args[0])]


KERNELS: dict[str, Kernel] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "BatchNormalization": batch_norm,
    "InstanceNormalization": instance_norm,
    "MatMul": matmul,
    "Gemm": gemm,
    "Softmax": softmax,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "Resize": resize,
    "ReduceMean": reduce_mean,
    "ReduceSum": reduce_sum,
    "Slice": slice_,
    "Split": split,
    "Pad": pad,
    "ArgMax": arg_max,
    "TopK": top_k,
    "QuantizeLinear": quantize,
    "DequantizeLinear": dequantize,
    "Elu": elu,
    "PRelu": p_relu,
    "LeakyRelu": leaky_relu,
    "Clip": clip,
    "Pow": power,
    "Transpose": transpose,
    "Reshape": reshape,
    "Flatten": flatten,
    "Concat": lambda h, args, attrs: [np.concatenate(args, axis=attrs["axis"])],
    "Gather": lambda h, args, attrs: [np.take(args[0], args[1].astype(int), axis=attrs.get("axis", 0))],
    "Add": lambda h, args, attrs: [h.vec(args[0] + args[1])],
    "Sub": lambda h, args, attrs: [h.vec(args[0] - args[1])],
    "Mul": lambda h, args, attrs: [h.vec(args[0] * args[1])],
    "Div": lambda h, args, attrs: [h.vec(args[0] / args[1])],
    "Relu": lambda h, args, attrs: [np.maximum(args[0], 0)],
    "HardSigmoid": lambda h, args, attrs: [
        hard_sigmoid_values(h, args[0], attrs.get("alpha", 0.2), attrs.get("beta", 0.5))
    ],
    "HardSwish": lambda h, args, attrs: [h.vec(args[0] * hard_sigmoid_values(h, args[0], 1 / 6, 0.5))],
    "Exp": _function("exp"),
    "Log": _function("log"),
    "Sqrt": _function("sqrt"),
    "Tanh": _function("tanh"),
    "Sigmoid": _function("sigmoid"),
    "Softplus": _function("softplus"),
    "Erf": _function("erf"),
}
