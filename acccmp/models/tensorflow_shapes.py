"""What TensorFlow's ops make of shapes, values and layouts, without TensorFlow: a rule for each op type.

An op without a rule keeps its shape unknown. Small integer tensors are followed by value (Shape, StridedSlice, Pack,
...), so that a Reshape whose target is computed in the graph is known as far as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acccmp.core.graph import Dim, Shape, TensorSpec
from acccmp.core.tensor import TensorRef
from acccmp.models.dims import axis_of, concatenated, product, replaced, total, with_free_size
from acccmp.models.tensorflow_ops import dtypes_of

Value = NDArray[np.float64]  # a small integer tensor; NaN for each number that is not known
Numbers = tuple[int | None, ...]
SMALL = 64  # elements of the largest tensor that is followed by value


class Unknown(ValueError):
    """A rule raises it where what it needs is not known; so do other errors of a rule count."""


@dataclass(frozen=True)
class Call:
    """One node as a shape rule sees it. `shapes` and `values` are those of its inputs; `count` is its outputs'."""

    op: str
    attrs: Mapping[str, Any]
    shapes: tuple[Shape | None, ...]
    values: tuple[Value | None, ...]
    count: int = 1

    def shape(self, slot: int) -> Shape | None:
        return self.shapes[slot] if slot < len(self.shapes) else None

    def known(self, slot: int) -> Shape:
        """The shape of an input. Raises Unknown where nothing is known of it."""
        shape = self.shape(slot)
        if shape is None:
            raise Unknown
        return shape

    def of_rank(self, slot: int, rank: int) -> Shape:
        """The shape of an input that has so many axes; open sizes where nothing is known. Unknown for another rank."""
        shape = self.shape(slot)
        if shape is not None and len(shape) != rank:
            raise Unknown
        return shape or (None,) * rank

    def value(self, slot: int) -> Value:
        """The value of an input, as far as it is known. Unknown for large tensors and open shapes."""
        value = self.values[slot] if slot < len(self.values) else None
        if value is not None:
            return value
        size = product(shape := self.known(slot))
        if not isinstance(size, int) or size > SMALL:
            raise Unknown
        return np.full(shape, np.nan)  # type: ignore[arg-type]

    def numbers(self, slot: int, count: int | None = None) -> Numbers:
        """The value of an input, row by row: `count` numbers, where that is told and another number cannot be."""
        try:
            found = _numbers(self.value(slot))
        except Unknown:
            if count is None:
                raise
            found = ()
        return found if count in (None, len(found)) else (None,) * (count or 0)

    def number(self, slot: int) -> int | None:
        """The one number in an input."""
        return self.numbers(slot, 1)[0]

    def axis(self, slot: int, rank: int) -> int:
        """The axis that an input names. Raises an error where it is not known, or beyond the rank."""
        return axis_of(self.number(slot), rank)  # type: ignore[arg-type]

    @property
    def channels_first(self) -> bool:
        return str(self.attrs.get("data_format", "NHWC")).startswith("NC")


def _numbers(value: Value) -> Numbers:
    return tuple(None if np.isnan(number) else int(number) for number in value.reshape(-1))


Rule = Callable[[Call], "Shape | list[Shape | None] | None"]
_RULES: dict[str, Rule] = {}


def _rule(*ops: str) -> Callable[[Rule], Rule]:
    def add(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(ops, rule))
        return rule

    return add


SAME = (
    "Identity", "Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Softplus", "Softsign", "Sigmoid", "Tanh", "Softmax",
    "LogSoftmax", "Abs", "Neg", "Square", "Sqrt", "Rsqrt", "Exp", "Expm1", "Log", "Log1p", "Floor", "Ceil", "Round",
    "Rint", "Sign", "Reciprocal", "Inv", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Erf", "Erfc",
    "LogicalNot", "Cast", "BiasAdd", "BiasAddV1", "StopGradient", "PreventGradient", "CheckNumerics", "Snapshot", "LRN",
    "FakeQuantWithMinMaxArgs", "FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxVarsPerChannel",
    "QuantizeAndDequantizeV2", "QuantizeAndDequantizeV3", "ZerosLike", "OnesLike", "IsNan", "IsInf", "IsFinite",
    "Cumsum", "Cumprod", "ClipByValue", "ReverseV2", "Reverse", "ReverseSequence", "Roll", "InvertPermutation", "Enter",
    "Exit", "NextIteration", "LoopCond", "Switch", "RefSwitch", "RefIdentity", "RefEnter", "Print", "DebugIdentity",
    "EnsureShape", "Real", "Imag", "Conj", "ComplexAbs", "PlaceholderWithDefault", "MatrixInverse", "Cholesky",
    "ScatterUpdate", "TensorScatterUpdate",
)
BROADCAST = (
    "Add", "AddV2", "Sub", "Mul", "Div", "RealDiv", "FloorDiv", "TruncateDiv", "DivNoNan", "Mod", "FloorMod", "Maximum",
    "Minimum", "Pow", "SquaredDifference", "Equal", "NotEqual", "Less", "LessEqual", "Greater", "GreaterEqual",
    "LogicalAnd", "LogicalOr", "ApproximateEqual", "Atan2", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Xdivy", "Xlogy",
    "MulNoNan", "SelectV2",
)
KEEPS_LAYOUT = {
    *SAME, *BROADCAST, "Pad", "PadV2", "MirrorPad", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "AddN",
    "Select", "ConcatV2", "Concat", "Merge", "ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic",
}


@_rule(*SAME)
def _same(call: Call) -> list[Shape | None]:
    return [call.shape(0)] * call.count


@_rule(*BROADCAST)
def _broadcast(call: Call) -> Shape | None:
    return reduce(broadcast, map(call.known, range(len(call.shapes))))


def broadcast(a: Shape, b: Shape) -> Shape:
    """Shape of an elementwise result; an unknown size against n > 1 is n. Unknown for shapes that do not fit."""
    rank = max(len(a), len(b))
    out: list[Dim] = []
    for pair in zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True):
        sizes = {size for size in pair if size not in (1, None)}
        if len(sizes) > 1:
            raise Unknown
        out.append(sizes.pop() if sizes else None if None in pair else 1)
    return tuple(out)


@_rule("Merge", "RefMerge")
def _merge(call: Call) -> list[Shape | None]:
    """What is known of a tensor that has one of these shapes."""
    shapes = [shape for shape in call.shapes if shape is not None]
    if len(shapes) < len(call.shapes) or len(set(map(len, shapes))) != 1:
        return [None, ()]
    return [tuple(sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*shapes, strict=True)), ()]


@_rule("AddN", "AccumulateNV2")
def _add_n(call: Call) -> Shape | None:
    known = [shape for shape in call.shapes if shape is not None]
    return next((shape for shape in known if None not in shape), known[0] if known else None)


@_rule("Select")
def _select(call: Call) -> Shape | None:
    return call.shape(1) or call.shape(2)


@_rule("Placeholder", "VariableV2", "Variable", "TensorArrayReadV3")
def _declared(call: Call) -> Shape | None:
    shape = call.attrs.get("shape")
    return shape if isinstance(shape, tuple) else None


# .. windows ..


def _window(size: Dim, window: Dim, stride: int, dilation: int, padding: str, pads: int) -> Dim:
    """Size after a sliding window: SAME is ceil(n / stride), VALID ceil((n - reach + 1) / stride)."""
    if not isinstance(size, int) or stride < 1:
        return None
    if padding == "SAME":
        return -(-size // stride)
    if not isinstance(window, int):
        return None
    return max(-(-(size + pads - (window - 1) * dilation) // stride), 0)


def _spatial(call: Call, rank: int) -> slice:
    return slice(2, rank) if call.channels_first else slice(1, rank - 1)


def _windowed(call: Call, window: Sequence[Dim], channels: Dim = None) -> Shape:
    """Shape after windows of sizes `window` (by spatial axis); without `channels` those of the input stay."""
    rank = len(window) + 2
    shape, at, padding = call.of_rank(0, rank), _spatial(call, rank), str(call.attrs.get("padding", ""))
    strides = call.attrs.get("strides") or (1,) * rank
    dilations = call.attrs.get("dilations") or (1,) * rank
    pads = (0,) * rank
    if padding == "EXPLICIT":
        explicit = call.attrs["explicit_paddings"]
        pads = tuple(before + after for before, after in zip(explicit[::2], explicit[1::2], strict=True))
    axes = zip(shape[at], window, strides[at], dilations[at], pads[at], strict=True)
    sizes = [_window(n, w, s, d, padding, p) for n, w, s, d, p in axes]
    return (shape[0], channels, *sizes) if call.channels_first else (shape[0], *sizes, channels)


@_rule("Conv2D", "Conv3D", "DepthwiseConv2dNative")
def _convolution(call: Call) -> Shape:
    *window, ins, outs = call.of_rank(1, 5 if call.op == "Conv3D" else 4)
    return _windowed(call, window, product((ins, outs)) if call.op == "DepthwiseConv2dNative" else outs)


@_rule("MaxPool", "AvgPool", "MaxPool3D", "AvgPool3D", "MaxPoolWithArgmax")
def _pool(call: Call) -> list[Shape | None]:
    rank = 5 if call.op.endswith("3D") else 4
    channels = call.of_rank(0, rank)[1 if call.channels_first else -1]
    return [_windowed(call, call.attrs["ksize"][_spatial(call, rank)], channels)] * call.count


@_rule("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
def _batch_norm(call: Call) -> list[Shape | None]:
    return [call.shape(0), *[call.shape(1)] * 4]


@_rule("ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "ResizeArea")
def _resize(call: Call) -> Shape:
    shape = call.of_rank(0, 4)
    return (shape[0], *call.numbers(1, 2), shape[3])


@_rule("CropAndResize")
def _crop(call: Call) -> Shape:
    boxes = call.shape(1)
    return (boxes[0] if boxes else None, *call.numbers(3, 2), call.of_rank(0, 4)[3])


@_rule("SpaceToDepth", "DepthToSpace")
def _blocks(call: Call) -> Shape:
    call.known(0)
    shape, block = call.of_rank(0, 4), call.attrs["block_size"]
    n, c, h, w = shape if call.channels_first else (shape[0], shape[3], shape[1], shape[2])
    if call.op == "SpaceToDepth":
        c, h, w = _times(c, block * block), _over(h, block), _over(w, block)
    else:
        c, h, w = _over(c, block * block), _times(h, block), _times(w, block)
    return (n, c, h, w) if call.channels_first else (n, h, w, c)


def _times(dim: Dim, by: Dim) -> Dim:
    return product((dim, by))


def _over(dim: Dim, by: int) -> Dim:
    return dim // by if isinstance(dim, int) and dim % by == 0 else None


# .. products ..


@_rule("MatMul")
def _matmul(call: Call) -> Shape:
    a, b = call.of_rank(0, 2), call.of_rank(1, 2)
    return (a[1] if call.attrs.get("transpose_a") else a[0], b[0] if call.attrs.get("transpose_b") else b[1])


@_rule("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")
def _batch_matmul(call: Call) -> Shape:
    a, b = call.known(0), call.known(1)
    last = (a[-1] if call.attrs.get("adj_x") else a[-2], b[-2] if call.attrs.get("adj_y") else b[-1])
    return broadcast(a[:-2], b[:-2]) + last


# .. axes ..


def _target(sizes: Iterable[Dim]) -> Shape:
    """A shape given as a tensor's value."""
    return tuple(size if isinstance(size, int) and size >= 0 else None for size in sizes)


@_rule("Fill", "RandomStandardNormal", "RandomUniform", "TruncatedNormal", "RandomUniformInt", "Empty",
       "Conv2DBackpropInput", "DepthwiseConv2dNativeBackpropInput", "Conv3DBackpropInputV2")
def _sized_by_first(call: Call) -> Shape:
    return _target(call.numbers(0))


@_rule("BroadcastTo")
def _broadcast_to(call: Call) -> Shape:
    return _target(call.numbers(1))


@_rule("Reshape")
def _reshape(call: Call) -> Shape:
    wanted, shape = call.numbers(1), call.shape(0)
    return _target(with_free_size(wanted, None if shape is None else product(shape)))


@_rule("Transpose")
def _transpose(call: Call) -> Shape:
    shape = call.shape(0)
    order = call.numbers(1, None if shape is None else len(shape))
    shape = call.of_rank(0, len(order))
    if None not in order and sorted(order) != list(range(len(shape))):  # type: ignore[type-var]
        raise Unknown
    return tuple(None if axis is None else shape[axis] for axis in order)


@_rule("ConcatV2", "Concat")
def _concat(call: Call) -> Shape:
    last = len(call.shapes) - 1
    parts, at = (call.shapes[:-1], last) if call.op == "ConcatV2" else (call.shapes[1:], 0)
    rank = next((len(shape) for shape in parts if shape is not None), None)
    if rank is None:
        raise Unknown
    axis = call.number(at)
    whole = [shape if shape is not None else (None,) * rank for shape in parts]
    return (None,) * rank if axis is None else concatenated(whole, axis_of(axis, rank))


@_rule("Pack")
def _pack(call: Call) -> Shape:
    shape = next((shape for shape in call.shapes if shape is not None), None)
    if shape is None:
        raise Unknown
    axis = axis_of(call.attrs.get("axis", 0), len(shape) + 1)
    return (*shape[:axis], len(call.shapes), *shape[axis:])


@_rule("Unpack")
def _unpack(call: Call) -> list[Shape | None]:
    shape = call.known(0)
    return [replaced(shape, axis_of(call.attrs.get("axis", 0), len(shape)))] * call.count


@_rule("Split", "SplitV")
def _split(call: Call) -> list[Shape | None]:
    at, of = (0, 1) if call.op == "Split" else (2, 0)
    shape, axis = call.known(of), call.number(at)
    if axis is None:
        return [(None,) * len(shape)] * call.count
    axis = axis_of(axis, len(shape))
    sizes: Sequence[Dim] = [_over(shape[axis], call.count)] * call.count
    if call.op == "SplitV":
        given = call.numbers(1, call.count)
        known = total(size for size in given if size != -1)
        rest = total((shape[axis], -known)) if isinstance(known, int) else None
        sizes = [rest if size == -1 else size for size in given]
    return [replaced(shape, axis, size) for size in sizes]


@_rule("Pad", "PadV2", "MirrorPad")
def _pad(call: Call) -> Shape:
    shape = call.known(0)
    flat = call.numbers(1, 2 * len(shape))
    return tuple(map(total, zip(shape, flat[::2], flat[1::2], strict=True)))


@_rule("Mean", "Sum", "Max", "Min", "Prod", "All", "Any", "EuclideanNorm")
def _reduce(call: Call) -> Shape:
    shape, axes, keep = call.known(0), call.numbers(1), call.attrs.get("keep_dims")
    if keep and None in axes:
        return (None,) * len(shape)
    gone = {axis_of(axis, len(shape)) for axis in axes}  # type: ignore[arg-type]
    return tuple(1 if axis in gone else size for axis, size in enumerate(shape) if keep or axis not in gone)


@_rule("ArgMax", "ArgMin")
def _arg(call: Call) -> Shape:
    shape = call.known(0)
    return replaced(shape, call.axis(1, len(shape)))


@_rule("Squeeze")
def _squeeze(call: Call) -> Shape:
    shape, axes = call.known(0), call.attrs.get("squeeze_dims")
    if not axes and None in shape:
        raise Unknown
    gone = {axis_of(axis, len(shape)) for axis in axes or ()}
    return tuple(size for axis, size in enumerate(shape) if (axis not in gone if axes else size != 1))


@_rule("ExpandDims")
def _expand(call: Call) -> Shape:
    shape = call.known(0)
    axis = call.axis(1, len(shape) + 1)
    return (*shape[:axis], 1, *shape[axis:])


@_rule("StridedSlice")
def _strided_slice(call: Call) -> Shape:
    shape = call.known(0)
    sizes = iter(shape)
    out: list[Dim] = []
    for cut in _cuts(call, len(shape)):
        size = 1 if cut is None else next(sizes)
        if cut is None or cut in (slice(None), slice(None, None, 1)):
            out.append(size)
        elif cut is _SOME:
            out.append(None)
        elif isinstance(cut, slice):
            out.append(len(range(*cut.indices(size))) if isinstance(size, int) else None)
    return tuple(out)


_ONE, _SOME = "one", "some"


def _cuts(call: Call, rank: int) -> list[Any]:
    """What a StridedSlice takes, as numpy is told it: a slice or a number for each axis, None for a new one; an
    unknown number is "one" and an unknown part "some"."""
    begin = call.numbers(1)
    end, step = call.numbers(2, len(begin)), call.numbers(3, len(begin))

    def has(mask: str, place: int) -> int:
        return int(call.attrs.get(f"{mask}_mask", 0)) >> place & 1

    used = sum(not has("new_axis", place) and not has("ellipsis", place) for place in range(len(begin)))
    cuts: list[Any] = []
    for place, (first, last, by) in enumerate(zip(begin, end, step, strict=True)):
        if has("ellipsis", place):
            cuts += [slice(None)] * (rank - used)
        elif has("new_axis", place):
            cuts.append(None)
        elif has("shrink_axis", place):
            cuts.append(_ONE if first is None else first)
        else:
            ends = {mask: number for mask, number in (("begin", first), ("end", last)) if not has(mask, place)}
            known = by not in (None, 0) and None not in ends.values()
            cuts.append(slice(ends.get("begin"), ends.get("end"), by) if known else _SOME)
    left = rank - sum(cut is not None for cut in cuts)
    if left < 0:
        raise Unknown
    return cuts + [slice(None)] * left


@_rule("Slice")
def _slice(call: Call) -> Shape:
    shape = call.known(0)
    rows = zip(shape, call.numbers(1, len(shape)), call.numbers(2, len(shape)), strict=True)
    return tuple(
        size if size != -1 else n - begin if isinstance(n, int) and begin is not None else None
        for n, begin, size in rows
    )


@_rule("Gather", "GatherV2")
def _gather(call: Call) -> Shape:
    of, at = call.known(0), call.known(1)
    if call.attrs.get("batch_dims"):
        raise Unknown
    return replaced(of, 0 if call.op == "Gather" else call.axis(2, len(of)), *at)


@_rule("GatherNd")
def _gather_nd(call: Call) -> Shape:
    of, at = call.known(0), call.known(1)
    if not isinstance(at[-1], int) or at[-1] > len(of):
        raise Unknown
    return at[:-1] + of[at[-1] :]


@_rule("Tile")
def _tile(call: Call) -> Shape:
    shape = call.known(0)
    return tuple(map(_times, shape, call.numbers(1, len(shape))))


@_rule("Shape")
def _shape(call: Call) -> Shape:
    shape = call.shape(0)
    return (None if shape is None else len(shape),)


@_rule("ShapeN")
def _shape_n(call: Call) -> list[Shape | None]:
    return [(None if shape is None else len(shape),) for shape in call.shapes]


@_rule("Rank", "Size", "VarHandleOp", "TensorArraySizeV3", "TensorArrayWriteV3")
def _scalar(call: Call) -> Shape:
    return ()


@_rule("TensorArrayV3")
def _tensor_array(call: Call) -> list[Shape | None]:
    return [(2,), ()]


@_rule("Range")
def _range(call: Call) -> Shape:
    ends = [call.number(slot) for slot in range(3)]
    return (None if None in ends else len(range(*ends)),)  # type: ignore[arg-type]


@_rule("Where")
def _where(call: Call) -> Shape:
    shape = call.shape(0)
    return (None, None if shape is None else len(shape))


@_rule("NonMaxSuppression", "NonMaxSuppressionV2", "NonMaxSuppressionV3")
def _nms(call: Call) -> Shape:
    return (None,)


@_rule("TopK", "TopKV2")
def _top_k(call: Call) -> list[Shape | None]:
    most = call.attrs["k"] if call.op == "TopK" else call.number(1)
    shape = call.known(0)
    return [replaced(shape, len(shape) - 1, most)] * call.count


@_rule("OneHot")
def _one_hot(call: Call) -> Shape:
    shape = call.known(0)
    axis = axis_of(call.attrs.get("axis", -1), len(shape) + 1)
    return (*shape[:axis], call.number(1), *shape[axis:])


# .. values ..


def _whole(call: Call, slot: int) -> NDArray[np.int64]:
    """The value of an input all of which is known."""
    value = call.value(slot)
    if np.isnan(value).any():
        raise Unknown
    return value.astype(np.int64)


def _sliced(call: Call) -> Value:
    begin, size = _whole(call, 1), _whole(call, 2)
    ends = np.where(size < 0, call.value(0).shape, begin + size)
    return call.value(0)[tuple(map(slice, begin, ends))]


def _packed(call: Call) -> Value:
    like = next(value for value in call.values if value is not None)
    rows = [np.full_like(like, np.nan) if value is None else value for value in call.values]
    return np.stack(rows, call.attrs.get("axis", 0))


def _elementwise(of: Callable[[Value, Value], Value]) -> Callable[[Call], Value]:
    return lambda call: of(call.value(0), call.value(1))


# What of small integer tensors is followed by value; what a row gives is put into the output's shape.
_VALUES: dict[str, Callable[[Call], Any]] = {
    **dict.fromkeys(
        ("Identity", "Cast", "StopGradient", "Snapshot", "Squeeze", "ExpandDims", "Reshape"), lambda call: call.value(0)
    ),
    "Shape": lambda call: [np.nan if size is None else size for size in call.known(0)],
    "Rank": lambda call: len(call.known(0)),
    "Pack": _packed,
    "ConcatV2": lambda call: np.concatenate(
        list(map(call.value, range(len(call.shapes) - 1))), call.number(len(call.shapes) - 1)),
    "Slice": _sliced,
    "StridedSlice": lambda call: call.value(0)[tuple(_cuts(call, call.value(0).ndim))],
    "Gather": lambda call: call.value(0)[_whole(call, 1)],
    "GatherV2": lambda call: call.value(0).take(_whole(call, 1), call.number(2)),
    "Prod": lambda call: call.value(0).prod(tuple(_whole(call, 1).reshape(-1))),
    **dict.fromkeys(("Add", "AddV2"), _elementwise(np.add)), "Sub": _elementwise(np.subtract),
    "Mul": _elementwise(np.multiply), "FloorDiv": _elementwise(np.floor_divide), "FloorMod": _elementwise(np.mod),
    "Maximum": _elementwise(np.maximum), "Minimum": _elementwise(np.minimum),
}


def _value(call: Call, out: Shape | None) -> Value | None:
    """The value of the first output, as far as it can be followed."""
    if call.op not in _VALUES or (call.op not in ("Shape", "Rank") and all(value is None for value in call.values)):
        return None
    with np.errstate(all="ignore"):
        found = np.asarray(_tried(_VALUES[call.op], call), np.float64)
    if found.size > SMALL or (found.ndim == 0 and np.isnan(found)):
        return None
    found = np.where(np.isfinite(found), found, np.nan)
    if out is None or None in out:
        return found
    return found.reshape(out) if product(out) == found.size else None  # type: ignore[arg-type]


def _tried(rule: Callable[[Call], Any], call: Call) -> Any:
    """What a rule gives, None where it cannot tell, or is given what no model of TensorFlow can have."""
    try:
        return rule(call)
    except (ArithmeticError, IndexError, KeyError, TypeError, ValueError):
        return None


def small_value(ref: TensorRef | None) -> Value | None:
    """A constant as a Value: integers of at most `SMALL` elements."""
    if ref is None or ref.array is None or ref.dtype.kind != "int" or ref.count > SMALL:
        return None
    return ref.numpy().astype(np.float64)


# -- the whole graph ---------------------------------------------------------------------------------------------

Place = tuple[str, Mapping[str, Any], tuple[str, ...], tuple[str, ...]]  # op, attributes, inputs, outputs


def infer(
    places: Iterable[Place], constants: Mapping[str, TensorRef], given: Mapping[str, TensorSpec] | None = None,
) -> dict[str, TensorSpec]:
    """What is known of each output tensor of nodes in execution order. `given` are tensors known beforehand."""
    specs: dict[str, TensorSpec] = dict(given or {})
    values: dict[str, Value | None] = {}
    ordered = list(places)
    for op, attrs, inputs, outputs in ordered:
        shapes = tuple(specs[tensor].shape if tensor in specs else None for tensor in inputs)
        call = Call(op, attrs, shapes, tuple(map(values.get, inputs)), len(outputs))
        dtypes, found = dtypes_of(op, attrs, len(outputs)), _shapes(call)
        written = attrs.get("_output_shapes")
        for index, tensor in enumerate(outputs):
            shape, dtype = found[index], dtypes[index]
            if tensor in constants and index == 0:
                shape, dtype = constants[tensor].shape, constants[tensor].dtype
                values[tensor] = small_value(constants[tensor])
            elif index == 0:
                values[tensor] = _value(call, shape)
            if isinstance(written, tuple) and index < len(written):
                shape = _sharper(shape, written[index])
            specs[tensor] = TensorSpec(tensor, dtype, shape)
    layouts = _layouts(ordered, specs)
    return {name: replace(spec, layout=layouts.get(name)) for name, spec in specs.items()}


def _shapes(call: Call) -> list[Shape | None]:
    """The shape of each output, by the rule of the op."""
    found = _tried(_RULES.get(call.op, lambda call: None), call)
    shapes = (found if isinstance(found, list) else [found]) + [None] * call.count
    return [None if shape and any(isinstance(n, int) and n < 0 for n in shape) else shape for shape in shapes]


def _sharper(ours: Shape | None, written: Any) -> Shape | None:
    if not isinstance(written, tuple):
        return ours
    if ours is None or len(ours) != len(written):
        return written
    return tuple(a if a is not None else b for a, b in zip(ours, written, strict=True))


_KERNELS = {"Conv2D": "HWCN", "Conv3D": "DHWCN"}
_ALWAYS_NHWC = ("ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "ResizeArea", "CropAndResize")
_OF_ANY_RANK = ("BiasAdd",)  # they have a `data_format` whatever they are given


def _layouts(places: list[Place], specs: Mapping[str, TensorSpec]) -> dict[str, str]:
    """Layouts as `data_format` tells them, carried along through elementwise ops, forward and then backward."""
    known: dict[str, str] = {}

    def rank(tensor: str) -> int | None:
        spec = specs.get(tensor)
        return None if spec is None or spec.shape is None else len(spec.shape)

    def tell(tensors: Iterable[str], layout: str) -> None:
        for tensor in tensors:
            if tensor and rank(tensor) in (None, len(layout)):
                known.setdefault(tensor, layout)

    for op, attrs, inputs, outputs in places:
        layout = "NHWC" if op in _ALWAYS_NHWC else attrs.get("data_format")
        if layout not in ("NHWC", "NCHW", "NDHWC", "NCDHW"):
            continue
        if op not in _OF_ANY_RANK or (outputs and rank(outputs[0]) == len(layout)):
            slot = 2 if "Backprop" in op else 0
            tell((*outputs[:1], *inputs[slot : slot + 1]), layout)
        if op in _KERNELS:
            tell(inputs[1:2], _KERNELS[op])
    for op, _, inputs, outputs in places:
        if op in KEEPS_LAYOUT and outputs and rank(outputs[0]) is not None:
            carried = next((known[t] for t in inputs if t in known and rank(t) == rank(outputs[0])), None)
            if carried is not None:
                tell(outputs if op in ("Switch", "RefSwitch") else outputs[:1], carried)
    for op, _, inputs, outputs in reversed(places):
        if op in KEEPS_LAYOUT and outputs and outputs[0] in known:
            same = (tensor for tensor in inputs if rank(tensor) is not None and rank(tensor) == rank(outputs[0]))
            tell(same, known[outputs[0]])
    return known
