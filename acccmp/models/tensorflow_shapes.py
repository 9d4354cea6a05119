"""What each TensorFlow op gives, without TensorFlow: how many outputs, of which dtype, shape and layout.

Three tables by op type: `OUTPUTS` (names and counts of the outputs of ops that have not exactly one), `DTYPES_OF`
(dtypes of outputs that are not simply the attribute T), and the shape rules. An op without a row keeps its shape
unknown. Small integer tensors are followed by value (Shape, StridedSlice, Pack, ...), so that a Reshape whose target
is computed in the graph is known as far as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from acccmp.core.graph import Dim, Shape, TensorSpec
from acccmp.core.tensor import DTYPES, DType, TensorRef

# -- outputs -----------------------------------------------------------------------------------------------------

# op -> (name of the output argument, how many tensors it is): a number, the attribute that says it, or the attribute
# that lists their types. Ops that are not here have one output.
OUTPUTS: dict[str, tuple[tuple[str, int | str], ...]] = {
    "Split": (("output", "num_split"),), "SplitV": (("output", "num_split"),), "Unpack": (("output", "num"),),
    "Unstack": (("output", "num"),), "ShapeN": (("output", "N"),), "IdentityN": (("output", "T"),),
    "TopK": (("values", 1), ("indices", 1)), "TopKV2": (("values", 1), ("indices", 1)),
    "FusedBatchNorm": tuple((n, 1) for n in (
        "y", "batch_mean", "batch_variance", "reserve_space_1", "reserve_space_2")),
    "FusedBatchNormV2": tuple((n, 1) for n in (
        "y", "batch_mean", "batch_variance", "reserve_space_1", "reserve_space_2")),
    "FusedBatchNormV3": tuple((n, 1) for n in (
        "y", "batch_mean", "batch_variance", "reserve_space_1", "reserve_space_2", "reserve_space_3")),
    "Switch": (("output_false", 1), ("output_true", 1)), "RefSwitch": (("output_false", 1), ("output_true", 1)),
    "Merge": (("output", 1), ("value_index", 1)), "RefMerge": (("output", 1), ("value_index", 1)),
    "Unique": (("y", 1), ("idx", 1)), "UniqueV2": (("y", 1), ("idx", 1)),
    "UniqueWithCounts": (("y", 1), ("idx", 1), ("count", 1)), "ListDiff": (("out", 1), ("idx", 1)),
    "NonMaxSuppressionV4": (("selected_indices", 1), ("valid_outputs", 1)),
    "NonMaxSuppressionV5": (("selected_indices", 1), ("selected_scores", 1), ("valid_outputs", 1)),
    "CombinedNonMaxSuppression": tuple((n, 1) for n in (
        "nmsed_boxes", "nmsed_scores", "nmsed_classes", "valid_detections")),
    "While": (("output", "T"),), "StatelessWhile": (("output", "T"),),
    "If": (("output", "Tout"),), "StatelessIf": (("output", "Tout"),),
    "Case": (("output", "Tout"),), "StatelessCase": (("output", "Tout"),),
    "PartitionedCall": (("output", "Tout"),), "StatefulPartitionedCall": (("output", "Tout"),),
    "SymbolicGradient": (("output", "Tout"),), "RemoteCall": (("output", "Tout"),), "PyFunc": (("output", "Tout"),),
    "BatchNormWithGlobalNormalization": (("result", 1),), "MaxPoolWithArgmax": (("output", 1), ("argmax", 1)),
    "TensorArrayV3": (("handle", 1), ("flow", 1)), "TensorArrayV2": (("handle", 1),),
    "TensorArrayConcatV3": (("value", 1), ("lengths", 1)), "TensorArrayGradV3": (("grad_handle", 1), ("flow_out", 1)),
    "TensorListPopBack": (("output_handle", 1), ("tensor", 1)),
    "TensorListConcatV2": (("tensor", 1), ("lengths", 1)), "TensorListConcat": (("tensor", 1), ("lengths", 1)),
    "IteratorGetNext": (("components", "output_types"),), "Moments": (("mean", 1), ("variance", 1)),
    "Svd": (("s", 1), ("u", 1), ("v", 1)), "Qr": (("q", 1), ("r", 1)), "SelfAdjointEigV2": (("e", 1), ("v", 1)),
    "SoftmaxCrossEntropyWithLogits": (("loss", 1), ("backprop", 1)),
    "SparseSoftmaxCrossEntropyWithLogits": (("loss", 1), ("backprop", 1)),
    "QuantizeV2": (("output", 1), ("output_min", 1), ("output_max", 1)),
    "QuantizedConv2D": (("output", 1), ("min_output", 1), ("max_output", 1)),
    "QuantizedMatMul": (("out", 1), ("min_out", 1), ("max_out", 1)),
    "Requantize": (("output", 1), ("output_min", 1), ("output_max", 1)),
    "QuantizedRelu": (("activations", 1), ("min_activations", 1), ("max_activations", 1)),
    "QuantizedReshape": (("output", 1), ("output_min", 1), ("output_max", 1)),
    "RequantizationRange": (("output_min", 1), ("output_max", 1)),
    "BlockLSTM": tuple((n, 1) for n in ("i", "cs", "f", "o", "ci", "co", "h")),
    "LSTMBlockCell": tuple((n, 1) for n in ("i", "cs", "f", "o", "ci", "co", "h")),
    "GRUBlockCell": (("r", 1), ("u", 1), ("c", 1), ("h", 1)),
    "CTCGreedyDecoder": tuple((n, 1) for n in ("decoded_indices", "decoded_values", "decoded_shape",
    "log_probability")),
    "SparseReshape": (("output_indices", 1), ("output_shape", 1)),
    "StringSplit": (("indices", 1), ("values", 1), ("shape", 1)),
    "LookupTableExportV2": (("keys", 1), ("values", 1)), "RestoreV2": (("tensors", "dtypes"),),
    "NoOp": (), "Assert": (), "ControlTrigger": (), "Abort": (), "PrintV2": (), "SaveV2": (), "MergeV2Checkpoints": (),
    "AssignVariableOp": (), "AssignAddVariableOp": (), "AssignSubVariableOp": (), "DestroyResourceOp": (),
    "InitializeTable": (), "InitializeTableV2": (), "InitializeTableFromTextFileV2": (), "LookupTableImportV2": (),
    "LookupTableInsertV2": (), "TensorArrayClose": (), "TensorArrayCloseV2": (), "TensorArrayCloseV3": (),
    "StackCloseV2": (), "QueueCloseV2": (), "QueueEnqueueV2": (), "_Send": (), "DeleteIterator": (),
    "ShardedFilename": (("filename", 1),), "_Retval": (), "ResourceScatterUpdate": (), "ResourceScatterAdd": (),
}

# Outputs after the first of these are there for training; they are no results when nobody reads them.
SIDE_OUTPUTS = {"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "Merge", "RefMerge", "MaxPoolWithArgmax"}


def outputs_of(
    op: str, attrs: Mapping[str, Any], declared: Sequence[tuple[str, int | str]] | None = None,
) -> list[str]:
    """Name of the output argument of each output tensor, in order. `declared` is an OpDef's list where one is known."""
    names: list[str] = []
    for name, much in declared if declared is not None else OUTPUTS.get(op, (("", 1),)):
        count = much if isinstance(much, int) else attrs.get(much, 1)
        count = len(count) if isinstance(count, tuple) else count
        names += [name] * min(max(int(count), 0) if isinstance(count, int) else 1, 1 << 16)
    return names


# -- dtypes ------------------------------------------------------------------------------------------------------

# op -> dtype of each output (the last one goes on): "@attr" reads an attribute, "@attr=default" with its default.
DTYPES_OF: dict[str, tuple[str, ...]] = {
    "Cast": ("@DstT",), "Bitcast": ("@type",), "Shape": ("@out_type=int32",), "ShapeN": ("@out_type=int32",),
    "Size": ("@out_type=int32",), "Rank": ("int32",), "Where": ("int64",), "ArgMax": ("@output_type=int64",),
    "ArgMin": ("@output_type=int64",), "TopK": ("@T", "int32"), "TopKV2": ("@T", "@index_type=int32"),
    "Gather": ("@Tparams",), "GatherV2": ("@Tparams",), "GatherNd": ("@Tparams",), "ResourceGather": ("@dtype",),
    "Range": ("@Tidx=int32",), "LoopCond": ("bool",), "Merge": ("@T", "int32"), "RefMerge": ("@T", "int32"),
    "FusedBatchNormV2": ("@T", "@U"), "FusedBatchNormV3": ("@T", "@U"), "BatchMatMulV3": ("@Tout",),
    "Unique": ("@T", "@out_idx=int32"), "UniqueV2": ("@T", "@out_idx=int32"),
    "UniqueWithCounts": ("@T", "@out_idx=int32"), "ListDiff": ("@T", "@out_idx=int32"),
    "MaxPoolWithArgmax": ("@T", "@Targmax=int64"), "NonMaxSuppression": ("int32",), "NonMaxSuppressionV2": ("int32",),
    "NonMaxSuppressionV3": ("int32",), "NonMaxSuppressionV4": ("int32",), "NonMaxSuppressionV5": ("int32", "@T",
    "int32"),
    "CombinedNonMaxSuppression": ("float32", "float32", "float32", "int32"),
    "CropAndResize": ("float32",), "ResizeBilinear": ("float32",), "ResizeBicubic": ("float32",),
    "ResizeArea": ("float32",),
    "Multinomial": ("@output_dtype=int64",), "RandomUniformInt": ("@Tout",), "RandomShuffle": ("@T",),
    "Dequantize": ("@dtype=float32",), "QuantizeV2": ("@T", "float32"), "QuantizedConv2D": ("@out_type=qint32",
    "float32"),
    "QuantizedMatMul": ("@Toutput=qint32", "float32"), "Requantize": ("@out_type=quint8", "float32"),
    "QuantizedRelu": ("@out_type=quint8", "float32"), "QuantizedReshape": ("@T", "float32"),
    "RequantizationRange": ("float32",), "Bucketize": ("int32",), "SparseToDense": ("@Tvalues",), "OneHot": ("@T",),
    "TensorArrayV3": ("resource", "float32"), "TensorArrayV2": ("string",), "TensorArray": ("string",),
    "TensorArrayReadV3": ("@dtype",), "TensorArrayGatherV3": ("@dtype",), "TensorArrayConcatV3": ("@dtype", "int64"),
    "TensorArraySizeV3": ("int32",), "TensorArrayWriteV3": ("float32",), "TensorArrayScatterV3": ("float32",),
    "TensorArraySplitV3": ("float32",), "TensorArrayGradV3": ("resource", "float32"),
    "TensorListReserve": ("variant",), "TensorListFromTensor": ("variant",), "TensorListSetItem": ("variant",),
    "TensorListPushBack": ("variant",), "TensorListStack": ("@element_dtype",),
    "TensorListGetItem": ("@element_dtype",),
    "TensorListPopBack": ("variant", "@element_dtype"), "TensorListLength": ("int32",), "EmptyTensorList": ("variant",),
    "VarHandleOp": ("resource",), "HashTableV2": ("resource",), "MutableHashTableV2": ("resource",),
    "VarIsInitializedOp": ("bool",), "IsVariableInitialized": ("bool",), "ReadVariableOp": ("@dtype",),
    "LookupTableFindV2": ("@Tout",), "ComplexAbs": ("@Tout=float32",), "Real": ("@Tout=float32",),
    "Imag": ("@Tout=float32",), "Angle": ("@Tout=float32",), "Complex": ("@Tout=complex64",),
    "FFT": ("@Tcomplex=complex64",),
    "RFFT": ("@Tcomplex=complex64",), "IRFFT": ("@Treal=float32",), "DecodeJpeg": ("uint8",),
    "DecodeRaw": ("@out_type",),
    "StringJoin": ("string",), "ShardedFilename": ("string",), "AsString": ("string",), "EncodeJpeg": ("string",),
    "BroadcastGradientArgs": ("@T=int32",), "AudioSpectrogram": ("float32",), "Mfcc": ("float32",),
    "DecodeWav": ("float32", "int32"), "Print": ("@T",), "HashTable": ("string",), "RestoreV2": ("@dtypes",),
}
_BOOL = (
    "Equal", "NotEqual", "Less", "LessEqual", "Greater", "GreaterEqual", "ApproximateEqual", "LogicalAnd", "LogicalOr",
    "LogicalNot", "All", "Any", "IsNan", "IsInf", "IsFinite", "InTopK", "InTopKV2",
)
DTYPES_OF.update(dict.fromkeys(_BOOL, ("bool",)))


def dtypes_of(op: str, attrs: Mapping[str, Any], count: int) -> list[DType | None]:
    """Dtype of each of `count` outputs: by the table, else by a list of types, else attribute `dtype`, else T."""
    row = DTYPES_OF.get(op)
    if row is None:
        listed = next((attrs[a] for a in ("Tout", "output_types", "dtypes", "T") if _is_types(attrs.get(a))), None)
        if listed is not None:
            row = listed
        else:
            row = (next((f"@{a}" for a in ("dtype", "T") if isinstance(attrs.get(a), str)), ""),)
    return [_dtype(row[min(i, len(row) - 1)], attrs, i) for i in range(count)]


def _is_types(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(isinstance(item, str) for item in value)


def _dtype(what: str, attrs: Mapping[str, Any], index: int) -> DType | None:
    if what.startswith("@"):
        name, _, default = what[1:].partition("=")
        given = attrs.get(name, default)
        what = given[min(index, len(given) - 1)] if _is_types(given) else given
    return DTYPES.get(what) if isinstance(what, str) else None


# -- shapes ------------------------------------------------------------------------------------------------------

Value = tuple[int | None, ...] | int | None  # a small integer vector or scalar, as far as it is known
SMALL = 64  # longest vector that is followed by value


@dataclass(frozen=True)
class Call:
    """One node as a shape rule sees it. `shapes` and `values` are those of its inputs; `count` is its outputs'."""

    op: str
    attrs: Mapping[str, Any]
    shapes: tuple[Shape | None, ...]
    values: tuple[Value, ...]
    count: int = 1

    def shape(self, slot: int) -> Shape | None:
        return self.shapes[slot] if slot < len(self.shapes) else None

    def value(self, slot: int) -> Value:
        return self.values[slot] if slot < len(self.values) else None

    def vector(self, slot: int) -> tuple[int, ...] | None:
        """The value of an input if every element is known; a scalar counts as a vector of one."""
        value = self.value(slot)
        value = (value,) if isinstance(value, int) else value
        return None if value is None or None in value else value  # type: ignore[return-value]

    @property
    def channels_first(self) -> bool:
        return str(self.attrs.get("data_format", "NHWC")).startswith("NC")


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
    "QuantizeAndDequantizeV2",
    "QuantizeAndDequantizeV3", "ZerosLike", "OnesLike", "IsNan", "IsInf", "IsFinite", "Cumsum", "Cumprod",
    "ClipByValue",
    "ReverseV2", "Reverse", "ReverseSequence", "Roll", "InvertPermutation", "Enter", "Exit", "NextIteration",
    "LoopCond",
    "Switch", "RefSwitch", "RefIdentity", "RefEnter", "Print", "DebugIdentity", "EnsureShape", "Real", "Imag", "Conj",
    "ComplexAbs", "PlaceholderWithDefault", "MatrixInverse", "Cholesky", "ScatterUpdate", "TensorScatterUpdate",
)
BROADCAST = (
    "Add", "AddV2", "Sub", "Mul", "Div", "RealDiv", "FloorDiv", "TruncateDiv", "DivNoNan", "Mod", "FloorMod", "Maximum",
    "Minimum", "Pow", "SquaredDifference", "Equal", "NotEqual", "Less", "LessEqual", "Greater", "GreaterEqual",
    "LogicalAnd", "LogicalOr", "ApproximateEqual", "Atan2", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Xdivy", "Xlogy",
    "MulNoNan", "SelectV2",
)
KEEPS_LAYOUT = frozenset(SAME) | frozenset(BROADCAST) | {
    "Pad", "PadV2", "MirrorPad", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "AddN", "Select",
    "ConcatV2", "Concat", "Merge", "ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic",
}


@_rule(*SAME)
def _same(call: Call) -> list[Shape | None]:
    return [call.shape(0)] * call.count


@_rule(*BROADCAST)
def _broadcast(call: Call) -> Shape | None:
    shape = call.shape(0)
    for other in call.shapes[1:]:
        shape = broadcast(shape, other)
    return shape


def broadcast(a: Shape | None, b: Shape | None) -> Shape | None:
    """Shape of an elementwise result. An unknown size against n > 1 is n; shapes that do not fit give None."""
    if a is None or b is None:
        return None
    rank = max(len(a), len(b))
    out: list[Dim] = []
    for x, y in zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True):
        if x == 1 or y == 1:
            out.append(y if x == 1 else x)
        elif x is None or y is None:
            out.append(y if x is None else x)
        elif x != y:
            return None
        else:
            out.append(x)
    return tuple(out)


def joined(shapes: Iterable[Shape | None]) -> Shape | None:
    """What is known of a tensor that has one of these shapes."""
    known = list(shapes)
    if not known or any(s is None or len(s) != len(known[0] or ()) for s in known):
        return None
    return tuple(dims[0] if len(set(dims)) == 1 else None for dims in zip(*known, strict=True))


@_rule("Merge", "RefMerge")
def _merge(call: Call) -> list[Shape | None]:
    return [joined(call.shapes), ()]


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


def _window(size: Dim, window: Dim, stride: int, dilation: int, padding: str, pads: tuple[int, int]) -> Dim:
    """Size after a sliding window: SAME is ceil(n / stride), VALID ceil((n - reach + 1) / stride)."""
    if not isinstance(size, int) or (padding != "SAME" and not isinstance(window, int)) or stride < 1:
        return None
    if padding == "SAME":
        return -(-size // stride)
    assert isinstance(window, int)
    if padding == "EXPLICIT":
        size += sum(pads)
    return max(-(-(size - (window - 1) * dilation) // stride), 0)


def _spatial(call: Call, rank: int) -> slice:
    return slice(2, rank) if call.channels_first else slice(1, rank - 1)


def _windowed(call: Call, shape: Shape | None, window: Sequence[Dim], channels: Dim, rank: int) -> Shape | None:
    """Shape after windows of sizes `window` (by spatial axis); a `channels` of -1 keeps the input's."""
    if shape is None:
        shape = (None,) * rank
    if len(shape) != rank:
        return None
    at = _spatial(call, rank)
    ones = (1,) * rank
    strides = call.attrs.get("strides") or ones
    dilations = call.attrs.get("dilations") or ones
    explicit = call.attrs.get("explicit_paddings") or (0,) * (2 * rank)
    if len(strides) != rank or len(dilations) != rank or len(explicit) != 2 * rank:
        return None
    pads = list(zip(explicit[::2], explicit[1::2], strict=True))
    padding = str(call.attrs.get("padding", ""))
    sizes = [
        _window(n, w, s, d, padding, p)
        for n, w, s, d, p in zip(shape[at], window, strides[at], dilations[at], pads[at], strict=True)
    ]
    if channels == -1:
        channels = shape[1] if call.channels_first else shape[-1]
    return (shape[0], channels, *sizes) if call.channels_first else (shape[0], *sizes, channels)


@_rule("Conv2D", "Conv3D", "DepthwiseConv2dNative")
def _convolution(call: Call) -> Shape | None:
    rank = 5 if call.op == "Conv3D" else 4
    kernel = call.shape(1) or (None,) * rank
    if len(kernel) != rank:
        return None
    channels = kernel[-1]
    if call.op == "DepthwiseConv2dNative":
        ins, times = kernel[-2:]
        channels = ins * times if isinstance(ins, int) and isinstance(times, int) else None
    return _windowed(call, call.shape(0), kernel[: rank - 2], channels, rank)


@_rule("MaxPool", "AvgPool", "MaxPool3D", "AvgPool3D", "MaxPoolWithArgmax")
def _pool(call: Call) -> list[Shape | None]:
    rank = 5 if call.op.endswith("3D") else 4
    window = call.attrs.get("ksize") or ()
    if len(window) != rank:
        return [None] * call.count
    return [_windowed(call, call.shape(0), window[_spatial(call, rank)], -1, rank)] * call.count


@_rule("Conv2DBackpropInput", "DepthwiseConv2dNativeBackpropInput", "Conv3DBackpropInputV2")
def _transposed_convolution(call: Call) -> Shape | None:
    return _target(call.value(0))


@_rule("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
def _batch_norm(call: Call) -> list[Shape | None]:
    scale = call.shape(1)
    return [call.shape(0), *[scale if i < 4 else None for i in range(call.count - 1)]]


@_rule("ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "ResizeArea")
def _resize(call: Call) -> Shape | None:
    shape, size = call.shape(0) or (None,) * 4, call.value(1)
    if len(shape) != 4:
        return None
    size = size if isinstance(size, tuple) and len(size) == 2 else (None, None)
    return (shape[0], *size, shape[3])


@_rule("CropAndResize")
def _crop(call: Call) -> Shape | None:
    image, boxes, size = call.shape(0), call.shape(1), call.value(3)
    size = size if isinstance(size, tuple) and len(size) == 2 else (None, None)
    return (boxes[0] if boxes else None, *size, image[3] if image is not None and len(image) == 4 else None)


@_rule("SpaceToDepth", "DepthToSpace")
def _blocks(call: Call) -> Shape | None:
    shape, block = call.shape(0), call.attrs.get("block_size")
    if shape is None or len(shape) != 4 or not isinstance(block, int) or block < 1:
        return None
    if call.attrs.get("data_format", "NHWC") not in ("NHWC", "NCHW"):
        return None
    n, c, h, w = shape if call.channels_first else (shape[0], shape[3], shape[1], shape[2])
    if call.op == "SpaceToDepth":
        c, h, w = _times(c, block * block), _over(h, block), _over(w, block)
    else:
        c, h, w = _over(c, block * block), _times(h, block), _times(w, block)
    return (n, c, h, w) if call.channels_first else (n, h, w, c)


def _times(dim: Dim, by: int) -> Dim:
    return dim * by if isinstance(dim, int) else None


def _over(dim: Dim, by: int) -> Dim:
    return dim // by if isinstance(dim, int) and dim % by == 0 else None


# .. products ..


@_rule("MatMul")
def _matmul(call: Call) -> Shape | None:
    a, b = call.shape(0), call.shape(1)
    if (a is not None and len(a) != 2) or (b is not None and len(b) != 2):
        return None
    a, b = a or (None, None), b or (None, None)
    return (a[1] if call.attrs.get("transpose_a") else a[0], b[0] if call.attrs.get("transpose_b") else b[1])


@_rule("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")
def _batch_matmul(call: Call) -> Shape | None:
    a, b = call.shape(0), call.shape(1)
    if a is None or b is None or len(a) < 2 or len(b) < 2:
        return None
    batch = broadcast(a[:-2], b[:-2])
    if batch is None:
        return None
    return (*batch, a[-1] if call.attrs.get("adj_x") else a[-2], b[-2] if call.attrs.get("adj_y") else b[-1])


# .. axes ..


def _axis(value: Value, rank: int) -> int | None:
    if isinstance(value, tuple):
        value = value[0] if len(value) == 1 else None
    return value % rank if isinstance(value, int) and -rank <= value < rank else None


def _target(value: Value) -> Shape | None:
    """A shape given as a tensor's value."""
    if not isinstance(value, tuple):
        return None
    return tuple(size if size is not None and size >= 0 else None for size in value)


@_rule("Reshape")
def _reshape(call: Call) -> Shape | None:
    wanted, shape = call.value(1), call.shape(0)
    if not isinstance(wanted, tuple):
        target = call.shape(1)  # its length is the rank, which is all that can be said
        rank = target[0] if target is not None and len(target) == 1 else None
        return (None,) * rank if isinstance(rank, int) and rank < SMALL else None
    out: list[Dim] = [size if size is None or size >= 0 else -1 for size in wanted]
    if out.count(-1) == 1 and None not in out and shape is not None and all(isinstance(n, int) for n in shape):
        rest = math.prod(n for n in out if isinstance(n, int) and n != -1)
        total = math.prod(n for n in shape if isinstance(n, int))
        if rest and total % rest == 0:
            out[out.index(-1)] = total // rest
    return tuple(None if size == -1 else size for size in out)


@_rule("Transpose")
def _transpose(call: Call) -> Shape | None:
    order, shape = call.vector(1), call.shape(0)
    if order is None:
        return None if shape is None else (None,) * len(shape)
    if shape is None:
        return (None,) * len(order)
    return tuple(shape[axis] for axis in order) if sorted(order) == list(range(len(shape))) else None


@_rule("ConcatV2", "Concat")
def _concat(call: Call) -> Shape | None:
    parts, at = (call.shapes[:-1], call.value(len(call.shapes) - 1)) if call.op == "ConcatV2" else (
        call.shapes[1:], call.value(0))
    ranks = {len(shape) for shape in parts if shape is not None}
    if len(ranks) != 1:
        return None
    rank = ranks.pop()
    axis = _axis(at, rank)
    if axis is None:
        return (None,) * rank
    whole = [shape if shape is not None else (None,) * rank for shape in parts]
    out: list[Dim] = []
    for place in range(rank):
        sizes = [shape[place] for shape in whole]
        known = [size for size in sizes if isinstance(size, int)]
        if place == axis:
            out.append(sum(known) if len(known) == len(sizes) else None)
        else:
            out.append(known[0] if known else None)
    return tuple(out)


@_rule("Pack")
def _pack(call: Call) -> Shape | None:
    shape = next((shape for shape in call.shapes if shape is not None), None)
    if shape is None:
        return None
    axis = _axis(call.attrs.get("axis", 0), len(shape) + 1)
    return None if axis is None else (*shape[:axis], len(call.shapes), *shape[axis:])


@_rule("Unpack")
def _unpack(call: Call) -> list[Shape | None]:
    shape = call.shape(0)
    axis = _axis(call.attrs.get("axis", 0), len(shape)) if shape else None
    if shape is None or axis is None:
        return [None] * call.count
    return [shape[:axis] + shape[axis + 1 :]] * call.count


@_rule("Split", "SplitV")
def _split(call: Call) -> list[Shape | None]:
    at, of = (0, 1) if call.op == "Split" else (2, 0)
    shape = call.shape(of)
    axis = _axis(call.value(at), len(shape)) if shape else None
    if shape is None or axis is None:
        return [None if shape is None else (None,) * len(shape)] * call.count
    size = shape[axis]
    sizes: Sequence[Dim] = [_over(size, call.count) if call.count else None] * call.count
    if call.op == "SplitV":
        given = call.vector(1)
        if given is None or len(given) != call.count:
            sizes = [None] * call.count
        else:
            rest = size - sum(n for n in given if n >= 0) if isinstance(size, int) else None
            sizes = [n if n >= 0 else rest for n in given]
    return [(*shape[:axis], n, *shape[axis + 1 :]) for n in sizes]


@_rule("Pad", "PadV2", "MirrorPad")
def _pad(call: Call) -> Shape | None:
    shape, flat = call.shape(0), call.value(1)
    if shape is None or not isinstance(flat, tuple) or len(flat) != 2 * len(shape):
        return None if shape is None else (None,) * len(shape)
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return tuple(
        n + a + b if isinstance(n, int) and a is not None and b is not None else None
        for n, (a, b) in zip(shape, pairs, strict=True)
    )


@_rule("Mean", "Sum", "Max", "Min", "Prod", "All", "Any", "EuclideanNorm")
def _reduce(call: Call) -> Shape | None:
    shape, axes = call.shape(0), call.vector(1)
    keep = bool(call.attrs.get("keep_dims"))
    if shape is None:
        return None
    if axes is None:
        return (None,) * len(shape) if keep else None
    gone = {_axis(axis, len(shape)) for axis in axes} if shape else set()
    if None in gone:
        return None
    return tuple(1 if i in gone else n for i, n in enumerate(shape) if keep or i not in gone)


@_rule("ArgMax", "ArgMin")
def _arg(call: Call) -> Shape | None:
    shape = call.shape(0)
    axis = _axis(call.value(1), len(shape)) if shape else None
    return None if shape is None or axis is None else shape[:axis] + shape[axis + 1 :]


@_rule("Squeeze")
def _squeeze(call: Call) -> Shape | None:
    shape, axes = call.shape(0), call.attrs.get("squeeze_dims") or ()
    if shape is None:
        return None
    if axes:
        gone = {_axis(axis, len(shape)) for axis in axes}
        return None if None in gone else tuple(n for i, n in enumerate(shape) if i not in gone)
    return None if None in shape else tuple(n for n in shape if n != 1)


@_rule("ExpandDims")
def _expand(call: Call) -> Shape | None:
    shape = call.shape(0)
    axis = None if shape is None else _axis(call.value(1), len(shape) + 1)
    return None if shape is None or axis is None else (*shape[:axis], 1, *shape[axis:])


@_rule("StridedSlice")
def _strided_slice(call: Call) -> Shape | None:
    shape = call.shape(0)
    taken = strided(call, (None,) * len(shape) if shape is not None else None)
    if shape is None or taken is None:
        return None
    out: list[Dim] = []
    for axis, cut in taken:
        if axis is None:
            out.append(1)
            continue
        if cut == "one":
            continue
        size = shape[axis]
        if cut is None:
            out.append(None)
        elif isinstance(size, int):
            out.append(len(range(*cut.indices(size))))
        else:
            whole = cut.start is None and cut.stop is None and cut.step in (None, 1)
            out.append(size if whole else None)
    return tuple(out)


def strided(call: Call, shape: Shape | None) -> list[tuple[int | None, Any]] | None:
    """(axis, what is taken of it) for each entry of a StridedSlice: a slice, "one" (the axis goes), None (unknown); a
    new axis is (None, None). None where begin is not known."""
    begin, end, strides = call.value(1), call.value(2), call.value(3)
    length = next((len(v) for v in (begin, end, strides) if isinstance(v, tuple)), None)
    if length is None or shape is None:
        return None
    blank = (None,) * length
    begin, end = (v if isinstance(v, tuple) and len(v) == length else blank for v in (begin, end))
    strides = strides if isinstance(strides, tuple) and len(strides) == length else blank
    masks = ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    mask = {name: int(call.attrs.get(f"{name}_mask", 0)) for name in masks}
    used = sum(1 for i in range(length) if not (mask["new_axis"] | mask["ellipsis"]) >> i & 1)
    if used > len(shape):
        return None
    taken: list[tuple[int | None, Any]] = []
    axis = 0
    for i in range(length):
        has = {name: bool(bits >> i & 1) for name, bits in mask.items()}
        if has["ellipsis"]:
            for _ in range(len(shape) - used):
                taken.append((axis, slice(None)))
                axis += 1
        elif has["new_axis"]:
            taken.append((None, None))
        else:
            known = strides[i] not in (None, 0) and all(
                has[name] or value is not None for name, value in (("begin", begin[i]), ("end", end[i])))
            cut: Any = slice(
                None if has["begin"] else begin[i], None if has["end"] else end[i], strides[i]) if known else None
            taken.append((axis, "one" if has["shrink_axis"] else cut))
            axis += 1
    taken += [(rest, slice(None)) for rest in range(axis, len(shape))]
    return taken


@_rule("Slice")
def _slice(call: Call) -> Shape | None:
    shape, begin, size = call.shape(0), call.value(1), call.value(2)
    if shape is None or not isinstance(size, tuple) or len(size) != len(shape):
        return None if shape is None else (None,) * len(shape)
    begin = begin if isinstance(begin, tuple) and len(begin) == len(shape) else (None,) * len(shape)
    out: list[Dim] = []
    for n, b, s in zip(shape, begin, size, strict=True):
        if s is not None and s >= 0:
            out.append(s)
        else:
            out.append(n - b if isinstance(n, int) and b is not None and s == -1 else None)
    return tuple(out)


@_rule("Gather", "GatherV2")
def _gather(call: Call) -> Shape | None:
    of, at = call.shape(0), call.shape(1)
    if of is None or at is None or not of or call.attrs.get("batch_dims"):
        return None
    axis = 0 if call.op == "Gather" else _axis(call.value(2), len(of))
    return None if axis is None else of[:axis] + at + of[axis + 1 :]


@_rule("GatherNd")
def _gather_nd(call: Call) -> Shape | None:
    of, at = call.shape(0), call.shape(1)
    if of is None or not at or not isinstance(at[-1], int) or at[-1] > len(of):
        return None
    return at[:-1] + of[at[-1] :]


@_rule("Tile")
def _tile(call: Call) -> Shape | None:
    shape, times = call.shape(0), call.value(1)
    if shape is None or not isinstance(times, tuple) or len(times) != len(shape):
        return None if shape is None else (None,) * len(shape)
    return tuple(n * t if isinstance(n, int) and t is not None else None for n, t in zip(shape, times, strict=True))


@_rule("Fill", "RandomStandardNormal", "RandomUniform", "TruncatedNormal", "RandomUniformInt", "Empty")
def _filled(call: Call) -> Shape | None:
    return _target(call.value(0))


@_rule("BroadcastTo")
def _broadcast_to(call: Call) -> Shape | None:
    return _target(call.value(1))


@_rule("Shape")
def _shape(call: Call) -> Shape | None:
    shape = call.shape(0)
    return (None if shape is None else len(shape),)


@_rule("ShapeN")
def _shape_n(call: Call) -> list[Shape | None]:
    return [(None if shape is None else len(shape),) for shape in call.shapes]


@_rule("Rank", "Size", "VarHandleOp", "TensorArraySizeV3", "TensorArrayWriteV3")
def _scalar(call: Call) -> Shape | None:
    return ()


@_rule("TensorArrayV3")
def _tensor_array(call: Call) -> list[Shape | None]:
    return [(2,), ()]


@_rule("Range")
def _range(call: Call) -> Shape | None:
    ends = [call.value(slot) for slot in range(3)]
    if all(isinstance(value, int) for value in ends) and ends[2]:
        return (len(range(*ends)),)  # type: ignore[arg-type]
    return (None,)


@_rule("Where")
def _where(call: Call) -> Shape | None:
    shape = call.shape(0)
    return (None, None if shape is None else len(shape))


@_rule("NonMaxSuppression", "NonMaxSuppressionV2", "NonMaxSuppressionV3")
def _nms(call: Call) -> Shape | None:
    return (None,)


@_rule("TopK", "TopKV2")
def _top_k(call: Call) -> list[Shape | None]:
    shape = call.shape(0)
    most: Any = call.attrs.get("k") if call.op == "TopK" else call.value(1)
    if not shape:
        return [None] * call.count
    return [(*shape[:-1], most if isinstance(most, int) else None)] * call.count


@_rule("OneHot")
def _one_hot(call: Call) -> Shape | None:
    shape, depth = call.shape(0), call.value(1)
    axis = call.attrs.get("axis", -1)
    if shape is None or not isinstance(axis, int):
        return None
    axis = len(shape) if axis == -1 else axis
    return (*shape[:axis], depth if isinstance(depth, int) else None, *shape[axis:])


# .. values ..


def _value(call: Call, out: Shape | None) -> Value:
    """The value of the first output where it is a small integer tensor that can be followed."""
    first = call.value(0)
    if call.op in ("Identity", "Cast", "StopGradient", "Squeeze", "ExpandDims", "Reshape", "Snapshot"):
        return _reshaped(first, out)
    if call.op == "Shape":
        shape = call.shape(0)
        return None if shape is None else tuple(n if isinstance(n, int) else None for n in shape)
    if call.op == "Rank":
        shape = call.shape(0)
        return None if shape is None else len(shape)
    if call.op == "Pack" and all(not isinstance(value, tuple) for value in call.values) and out and len(out) == 1:
        return call.values  # type: ignore[return-value]
    if call.op == "ConcatV2" and out is not None and len(out) == 1:
        parts = [
            value if isinstance(value, tuple) else _unknown(shape)
            for value, shape in zip(call.values[:-1], call.shapes[:-1], strict=True)
        ]
        return None if None in parts else tuple(n for part in parts for n in part)  # type: ignore[union-attr]
    flat = isinstance(first, tuple) and len(call.shape(0) or ()) == 1
    if call.op in ("StridedSlice", "Slice", "Gather", "GatherV2") and flat and isinstance(first, tuple):
        return _part(call, first)
    if call.op == "Prod" and flat and isinstance(first, tuple) and None not in first and out == ():
        return math.prod(n for n in first if n is not None)
    if call.op in _ARITHMETIC and len(call.values) == 2 and out is not None and len(out) <= 1:
        return _arithmetic(_ARITHMETIC[call.op], *call.values)
    return None


def _reshaped(value: Value, out: Shape | None) -> Value:
    if out == () and isinstance(value, tuple):
        return value[0] if len(value) == 1 else None
    if out is not None and len(out) == 1 and isinstance(value, int):
        return (value,)
    return value if out is not None and len(out) <= 1 else None


def _unknown(shape: Shape | None) -> tuple[None, ...] | None:
    size = shape[0] if shape is not None and len(shape) == 1 else None
    return (None,) * size if isinstance(size, int) and size <= SMALL else None


def _part(call: Call, vector: tuple[int | None, ...]) -> Value:
    if call.op == "StridedSlice":
        taken = strided(call, (len(vector),))
        begin = call.value(1)
        if taken is None or len(taken) != 1 or not isinstance(begin, tuple):
            return None
        _, cut = taken[0]
        if cut == "one":
            at = begin[0]
            return vector[at] if at is not None and -len(vector) <= at < len(vector) else None
        return vector[cut] if isinstance(cut, slice) else None
    if call.op == "Slice":
        begin, size = call.vector(1), call.vector(2)
        if begin is None or size is None or len(begin) != 1 or len(size) != 1:
            return None
        return vector[begin[0] :] if size[0] == -1 else vector[begin[0] : begin[0] + size[0]]
    picked = call.value(1)
    if isinstance(picked, int):
        return vector[picked] if 0 <= picked < len(vector) else None
    if isinstance(picked, tuple):
        return tuple(vector[i] if i is not None and 0 <= i < len(vector) else None for i in picked)
    return None


_ARITHMETIC: dict[str, Callable[[int, int], int | None]] = {
    "Add": lambda a, b: a + b, "AddV2": lambda a, b: a + b, "Sub": lambda a, b: a - b, "Mul": lambda a, b: a * b,
    "FloorDiv": lambda a, b: a // b if b else None, "Maximum": max, "Minimum": min,
    "FloorMod": lambda a, b: a % b if b else None,
}


def _arithmetic(rule: Callable[[int, int], int | None], a: Value, b: Value) -> Value:
    if a is None or b is None:
        return None
    if isinstance(a, int) and isinstance(b, int):
        return rule(a, b)
    length = max(len(v) if isinstance(v, tuple) else 1 for v in (a, b))
    wide_a, wide_b = (v if isinstance(v, tuple) else (v,) for v in (a, b))
    wide_a, wide_b = (v * length if len(v) == 1 else v for v in (wide_a, wide_b))
    if len(wide_a) != len(wide_b):
        return None
    return tuple(None if x is None or y is None else rule(x, y) for x, y in zip(wide_a, wide_b, strict=True))


def small_value(ref: TensorRef | None) -> Value:
    """A constant as a Value: integers of at most `SMALL` elements (row by row, whatever their rank)."""
    if ref is None or ref.array is None or ref.dtype.kind != "int" or ref.count > SMALL:
        return None
    flat = tuple(int(n) for n in ref.numpy().reshape(-1))
    return flat[0] if ref.shape == () else flat


# -- the whole graph ---------------------------------------------------------------------------------------------

Place = tuple[str, Mapping[str, Any], tuple[str, ...], tuple[str, ...]]  # op, attributes, inputs, outputs


def infer(
    places: Iterable[Place], constants: Mapping[str, TensorRef], given: Mapping[str, TensorSpec] | None = None,
) -> dict[str, TensorSpec]:
    """What is known of each output tensor of nodes in execution order. `given` are tensors known beforehand."""
    specs: dict[str, TensorSpec] = dict(given or {})
    values: dict[str, Value] = {}
    ordered = list(places)
    for op, attrs, inputs, outputs in ordered:
        call = Call(
            op, attrs, tuple(specs[t].shape if t in specs else None for t in inputs),
            tuple(values.get(t) for t in inputs), len(outputs),
        )
        dtypes = dtypes_of(op, attrs, len(outputs))
        shapes: list[Shape | None] = [None] * len(outputs)
        rule = _RULES.get(op)
        if rule is not None:
            found = rule(call)
            shapes = (list(found) if isinstance(found, list) else [found]) + shapes
        written = attrs.get("_output_shapes")
        for index, tensor in enumerate(outputs):
            shape, dtype = shapes[index], dtypes[index]
            if tensor in constants and index == 0:
                shape, dtype = constants[tensor].shape, constants[tensor].dtype
                values[tensor] = small_value(constants[tensor])
            elif index == 0:
                value = _value(call, shape)
                values[tensor] = value if not isinstance(value, tuple) or len(value) <= SMALL else None
            if isinstance(written, tuple) and index < len(written):
                shape = _sharper(shape, written[index])
            specs[tensor] = TensorSpec(tensor, dtype, shape)
    layouts = _layouts(ordered, specs)
    return {
        name: TensorSpec(name, spec.dtype, spec.shape, layouts.get(name)) for name, spec in specs.items()
    }


def _sharper(ours: Shape | None, written: Any) -> Shape | None:
    if not isinstance(written, tuple):
        return ours
    if ours is None or len(ours) != len(written):
        return written
    return tuple(a if a is not None else b for a, b in zip(ours, written, strict=True))


_FIXED_RANK = (
    "Conv2D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "MaxPool", "AvgPool", "FusedBatchNorm",
    "FusedBatchNormV2",
    "FusedBatchNormV3", "Conv3D", "MaxPool3D", "AvgPool3D", "SpaceToDepth", "DepthToSpace",
)
_KERNELS = {"Conv2D": "HWCN", "Conv3D": "DHWCN"}
_ALWAYS_NHWC = ("ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "ResizeArea", "CropAndResize")


def _layouts(places: list[Place], specs: Mapping[str, TensorSpec]) -> dict[str, str]:
    """Layouts as `data_format` tells them, carried along through elementwise ops, forward and then backward."""
    known: dict[str, str] = {}

    def rank(tensor: str) -> int | None:
        spec = specs.get(tensor)
        return None if spec is None or spec.shape is None else len(spec.shape)

    def tell(tensor: str, layout: str | None) -> None:
        if layout is not None and tensor and rank(tensor) in (None, len(layout)):
            known.setdefault(tensor, layout)

    for op, attrs, inputs, outputs in places:
        layout = attrs.get("data_format")
        if op in _ALWAYS_NHWC:
            layout = "NHWC"
        if layout not in ("NHWC", "NCHW", "NDHWC", "NCDHW"):
            continue
        if op in _FIXED_RANK or op in _ALWAYS_NHWC or (outputs and rank(outputs[0]) == len(layout)):
            slot = 2 if "Backprop" in op else 0
            for tensor in (*outputs[:1], *inputs[slot : slot + 1]):
                tell(tensor, layout)
        if op in _KERNELS and len(inputs) > 1:
            tell(inputs[1], _KERNELS[op])
    for op, _, inputs, outputs in places:
        if op in KEEPS_LAYOUT and outputs and rank(outputs[0]) is not None:
            from_inputs = [known[t] for t in inputs if t in known and rank(t) == rank(outputs[0])]
            if from_inputs and op not in ("Switch", "RefSwitch"):
                tell(outputs[0], from_inputs[0])
            elif from_inputs:
                for tensor in outputs:
                    tell(tensor, from_inputs[0])
    for op, _, inputs, outputs in reversed(places):
        if op in KEEPS_LAYOUT and outputs and outputs[0] in known:
            for tensor in inputs:
                if rank(tensor) is not None and rank(tensor) == rank(outputs[0]):
                    tell(tensor, known[outputs[0]])
    return known
