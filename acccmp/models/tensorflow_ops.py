"""What each TensorFlow op gives, without TensorFlow: how many outputs, of which names and dtypes.

Two tables, each from what is given to the ops that give it. An op without a row has one output, whose dtype is what
its attributes say (see `dtypes_of`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from acccmp.core.tensor import DTYPES, DType


def _by_op(rows: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    return {op: tuple(given.split()) for given, ops in rows.items() for op in ops.split()}


# -- outputs -----------------------------------------------------------------------------------------------------

# Names of the output arguments. One that is several tensors has, behind ":", the attribute that is their number, or
# that lists their types.
OUTPUTS = _by_op({
    "": """
        NoOp Assert ControlTrigger Abort PrintV2 SaveV2 MergeV2Checkpoints AssignVariableOp AssignAddVariableOp
        AssignSubVariableOp DestroyResourceOp InitializeTable InitializeTableV2 InitializeTableFromTextFileV2
        LookupTableImportV2 LookupTableInsertV2 TensorArrayClose TensorArrayCloseV2 TensorArrayCloseV3 StackCloseV2
        QueueCloseV2 QueueEnqueueV2 _Send DeleteIterator _Retval ResourceScatterUpdate ResourceScatterAdd
    """,
    "output:num_split": "Split SplitV",
    "output:num": "Unpack Unstack",
    "output:N": "ShapeN",
    "output:T": "IdentityN While StatelessWhile",
    "output:Tout": """
        If StatelessIf Case StatelessCase PartitionedCall StatefulPartitionedCall SymbolicGradient RemoteCall PyFunc
    """,
    "components:output_types": "IteratorGetNext",
    "tensors:dtypes": "RestoreV2",
    "output_false output_true": "Switch RefSwitch",
    "output value_index": "Merge RefMerge",
    "y batch_mean batch_variance reserve_space_1 reserve_space_2": "FusedBatchNorm FusedBatchNormV2",
    "y batch_mean batch_variance reserve_space_1 reserve_space_2 reserve_space_3": "FusedBatchNormV3",
    "output argmax": "MaxPoolWithArgmax",
    "mean variance": "Moments",
    "values indices": "TopK TopKV2",
    "y idx": "Unique UniqueV2",
    "y idx count": "UniqueWithCounts",
    "out idx": "ListDiff",
    "selected_indices valid_outputs": "NonMaxSuppressionV4",
    "selected_indices selected_scores valid_outputs": "NonMaxSuppressionV5",
    "nmsed_boxes nmsed_scores nmsed_classes valid_detections": "CombinedNonMaxSuppression",
    "handle flow": "TensorArrayV3",
    "grad_handle flow_out": "TensorArrayGradV3",
    "value lengths": "TensorArrayConcatV3",
    "output_handle tensor": "TensorListPopBack",
    "tensor lengths": "TensorListConcat TensorListConcatV2",
    "s u v": "Svd",
    "q r": "Qr",
    "e v": "SelfAdjointEigV2",
    "loss backprop": "SoftmaxCrossEntropyWithLogits SparseSoftmaxCrossEntropyWithLogits",
    "output output_min output_max": "QuantizeV2 QuantizedReshape Requantize",
    "output min_output max_output": "QuantizedConv2D",
    "out min_out max_out": "QuantizedMatMul",
    "activations min_activations max_activations": "QuantizedRelu",
    "output_min output_max": "RequantizationRange",
    "i cs f o ci co h": "BlockLSTM LSTMBlockCell",
    "r u c h": "GRUBlockCell",
    "decoded_indices decoded_values decoded_shape log_probability": "CTCGreedyDecoder",
    "output_indices output_shape": "SparseReshape",
    "indices values shape": "StringSplit",
    "keys values": "LookupTableExportV2",
})

# Outputs after the first of these are there for training; they are no results when nobody reads them.
SIDE_OUTPUTS = {"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "Merge", "RefMerge", "MaxPoolWithArgmax"}

MOST_OF_ONE = 1 << 16  # tensors of one output argument


def declared_outputs(op_def: Any) -> tuple[str, ...]:
    """The outputs of an OpDef, as a row of `OUTPUTS` has them."""
    return tuple(
        ":".join(filter(None, (arg.name, arg.number_attr or arg.type_list_attr))) for arg in op_def.output_arg
    )


def outputs_of(op: str, attrs: Mapping[str, Any], declared: Sequence[str] | None = None) -> list[str]:
    """Name of the output argument of each output tensor, in order. `declared` are `declared_outputs` where there are
    any."""
    names: list[str] = []
    for argument in OUTPUTS.get(op, ("",)) if declared is None else declared:
        name, _, attr = argument.partition(":")
        count = attrs.get(attr, 1)
        count = len(count) if isinstance(count, tuple) else count
        names += [name] * min(max(int(count), 0) if isinstance(count, int) else 1, MOST_OF_ONE)
    return names


# -- dtypes ------------------------------------------------------------------------------------------------------

# Dtype of each output (the last one goes on): "@attr" reads an attribute, "@attr=default" with its default. There are
# rows for what is not simply the attribute `dtype` or `T`.
DTYPES_OF = _by_op({
    "bool": """
        Equal NotEqual Less LessEqual Greater GreaterEqual ApproximateEqual LogicalAnd LogicalOr LogicalNot All Any
        IsNan IsInf IsFinite InTopK InTopKV2 LoopCond VarIsInitializedOp IsVariableInitialized
    """,
    "int32": """
        Rank Bucketize NonMaxSuppression NonMaxSuppressionV2 NonMaxSuppressionV3 NonMaxSuppressionV4 TensorArraySizeV3
        TensorListLength
    """,
    "int64": "Where",
    "uint8": "DecodeJpeg",
    "float32": """
        CropAndResize ResizeBilinear ResizeBicubic ResizeArea RequantizationRange TensorArrayWriteV3
        TensorArrayScatterV3 TensorArraySplitV3 AudioSpectrogram Mfcc
    """,
    "string": "TensorArray TensorArrayV2 HashTable StringJoin ShardedFilename AsString EncodeJpeg",
    "resource": "VarHandleOp HashTableV2 MutableHashTableV2",
    "variant": "EmptyTensorList TensorListReserve TensorListFromTensor TensorListSetItem TensorListPushBack",
    "@DstT": "Cast",
    "@type": "Bitcast",
    "@Tout": "BatchMatMulV3 RandomUniformInt LookupTableFindV2",
    "@Tparams": "Gather GatherV2 GatherNd",
    "@Tvalues": "SparseToDense",
    "@element_dtype": "TensorListStack TensorListGetItem",
    "@out_type": "DecodeRaw",
    "@out_type=int32": "Shape ShapeN Size",
    "@output_type=int64": "ArgMax ArgMin",
    "@output_dtype=int64": "Multinomial",
    "@Tidx=int32": "Range",
    "@T=int32": "BroadcastGradientArgs",
    "@dtype=float32": "Dequantize",
    "@Tout=float32": "ComplexAbs Real Imag Angle",
    "@Tout=complex64": "Complex",
    "@Tcomplex=complex64": "FFT RFFT",
    "@Treal=float32": "IRFFT",
    "@T int32": "TopK Merge RefMerge",
    "@T float32": "QuantizeV2 QuantizedReshape",
    "@T @U": "FusedBatchNormV2 FusedBatchNormV3",
    "@T @index_type=int32": "TopKV2",
    "@T @out_idx=int32": "Unique UniqueV2 UniqueWithCounts ListDiff",
    "@T @Targmax=int64": "MaxPoolWithArgmax",
    "int32 @T int32": "NonMaxSuppressionV5",
    "float32 float32 float32 int32": "CombinedNonMaxSuppression",
    "float32 int32": "DecodeWav",
    "@out_type=qint32 float32": "QuantizedConv2D",
    "@Toutput=qint32 float32": "QuantizedMatMul",
    "@out_type=quint8 float32": "Requantize QuantizedRelu",
    "resource float32": "TensorArrayV3 TensorArrayGradV3",
    "@dtype int64": "TensorArrayConcatV3",
    "variant @element_dtype": "TensorListPopBack",
})


def dtypes_of(op: str, attrs: Mapping[str, Any], count: int) -> list[DType | None]:
    """Dtype of each of `count` outputs: by the table, else by a list of types, else attribute `dtype`, else T."""
    lists = (attrs[name] for name in ("Tout", "output_types", "dtypes", "T") if _is_types(attrs.get(name)))
    single = (f"@{name}" for name in ("dtype", "T") if isinstance(attrs.get(name), str))
    row = DTYPES_OF.get(op) or next(lists, None) or (next(single, ""),)
    return [_dtype(row[min(i, len(row) - 1)], attrs, i) for i in range(count)]


def _is_types(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(isinstance(item, str) for item in value)


def _dtype(what: str, attrs: Mapping[str, Any], index: int) -> DType | None:
    if what.startswith("@"):
        name, _, default = what[1:].partition("=")
        given = attrs.get(name, default)
        what = given[min(index, len(given) - 1)] if _is_types(given) else given
    return DTYPES.get(what) if isinstance(what, str) else None
