"""What a layer of a Caffe file says: types of all generations, parameters as values, the first generation upgraded.

Field numbers and rules: ../shared/specs/caffe_fields.md and model_formats.md, section d.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from acccmp.core.graph import Node
from acccmp.core.reading import is_number
from acccmp.errors import FormatError
from acccmp.models import caffe_shapes as shapes
from acccmp.models.caffe_text import Block, quoted, unquoted
from acccmp.models.caffe_weights import StoredLayer, unknown_fields

# V1 type -> V2 type, where the V2 name is not the V1 name in CamelCase
V1_NAMES = {
    "NONE": "", "ABSVAL": "AbsVal", "ARGMAX": "ArgMax", "BNLL": "BNLL", "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output", "IM2COL": "Im2col", "INFOGAIN_LOSS": "InfogainLoss", "LRN": "LRN", "MVN": "MVN",
    "RELU": "ReLU", "SOFTMAX_LOSS": "SoftmaxWithLoss", "TANH": "TanH",
}

# What a layer's block says beside its parameters; phase rules have done their work when the graph is there.
WIRING = ("name", "type", "bottom", "top", "blobs")
RULES = ("include", "exclude", "phase")

# They judge a net in training. What they read counts as the net's output, what they make does not.
EVALUATION = frozenset({*shapes.LOSSES, "Accuracy", "Silence", "HDF5Output"})
# Layers without bottoms that bring data from elsewhere: the net's inputs. Any unknown type without bottoms is one too.
NOT_INPUTS = frozenset({"Parameter", "DummyData"})


@dataclass(frozen=True)
class CaffeLayer:
    """What the file says of one layer: `Node.source`.

    `block` is the layer as text, less its wiring and phase rules; `type_text` its type as spelled. `bottoms` and
    `tops` are blob names. `declared`: an input that was not a layer but an `input:` line of the net.
    """

    block: Block
    type_text: str
    bottoms: tuple[str, ...] = ()
    tops: tuple[str, ...] = ()
    declared: bool = False
    stored: StoredLayer | None = None


@dataclass(frozen=True)
class CaffeNet:
    """What the file says of the whole net: `Graph.source`. `extra` are its own fields (force_backward, ...), `weights`
    the caffemodel that it was loaded with."""

    generation: str
    extra: Block = field(default_factory=Block)
    weights: Path | None = None


# -- types and parameters ----------------------------------------------------------------------------------------


@cache
def _v1_numbers() -> Mapping[int, str]:
    from acccmp.schemas import caffe_pb2

    return {number: name for name, number in caffe_pb2.V1LayerParameter.LayerType.items()}


def v2_type(v1: str) -> str:
    """The V2 name of a V1 type: `INNER_PRODUCT` (or its number) gives `InnerProduct`; a fork's word stays as it is."""
    name = _v1_numbers().get(int(v1), f"V1_{v1}") if is_number(v1) else v1
    if name in V1_NAMES:
        return V1_NAMES[name]
    return "".join(part.capitalize() for part in name.split("_")) if name in _v1_numbers().values() else name


_NUMBERS: dict[str, Any] = {"true": True, "false": False}


def _guess(scalar: str) -> Any:
    """The value of a scalar that no schema describes, from how it is spelled."""
    if scalar[:1] in ('"', "'"):
        return unquoted(scalar)
    if scalar in _NUMBERS:
        return _NUMBERS[scalar]
    for kind in (lambda text: int(text, 0), lambda text: float(text.rstrip("fF") or "x")):
        try:
            return kind(scalar)
        except ValueError:
            continue
    return scalar


def _known(scalar: str, about: Any) -> Any:
    """The value of a scalar that the schema describes. ValueError if it is of another kind."""
    if about.enum_type is not None:
        names = about.enum_type.values_by_number
        return names[int(scalar)].name if is_number(scalar) and int(scalar) in names else scalar
    if about.cpp_type in (about.CPPTYPE_FLOAT, about.CPPTYPE_DOUBLE):
        return float(scalar if scalar.lower().lstrip("-") in ("inf", "infinity") else scalar.rstrip("fF"))
    if about.cpp_type == about.CPPTYPE_BOOL:
        return {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}[scalar.lower()]
    if about.cpp_type == about.CPPTYPE_STRING:
        return unquoted(scalar)
    return int(scalar, 8) if scalar.lstrip("-").startswith("0") and is_number(scalar.strip("-0")) else int(scalar, 0)


def values(block: Block, about: Any, where: str) -> dict[str, Any]:
    """The fields of a block as Python values, in file order: repeated ones (and those that come twice) as tuples.

    `about` is the schema's descriptor, or None for blocks that only a fork knows. Raises FormatError for values of
    another kind than the schema says.
    """
    found: dict[str, Any] = {}
    by_name: dict[str, list[str | Block]] = {}
    for name, value in block.fields:
        by_name.setdefault(name, []).append(value)
    for name, listed in by_name.items():
        row = about.fields_by_name.get(name) if about is not None else None
        given = [_value(value, row, f"{where}: {name}") for value in listed]
        repeated = row.is_repeated if row is not None else len(given) > 1
        found[name] = tuple(given) if repeated else given[-1]
    return found


def _value(value: str | Block, row: Any, where: str) -> Any:
    if isinstance(value, Block):
        if row is not None and row.message_type is None:
            raise FormatError(f"{where} is a block (line {value.line}) where one value is due")
        return values(value, row.message_type if row is not None else None, where)
    if row is None:
        return _guess(value)
    if row.message_type is not None:
        raise FormatError(f"{where} is {value}, a block in braces is due")
    try:
        return _known(value, row)
    except (ValueError, KeyError):
        raise FormatError(f"{where} is {value}, which is no {_KINDS.get(row.cpp_type, 'number')}") from None


_KINDS = {8: "true or false", 9: "string"}


def with_parameter(node: Node, block: str, field: str, scalar: str) -> Node:
    """The layer with this value of a parameter, spelled as in a prototxt, whatever its file says of it."""
    source: CaffeLayer = node.source
    inside = Block((*source.block.block(block).without(field).fields, (field, scalar)))
    whole = Block((*source.block.without(block).fields, (block, inside)), source.block.line)
    return replace(
        node, attrs=values(whole, schema("V2"), node.name), source=replace(source, block=whole),
    )


# -- older generations -------------------------------------------------------------------------------------------

# V0: what the flat fields of a layer are called in V1. type -> (V1 type, block, {V0 field: V1 field})
_POOL_OR_CONV = {"pad": "pad", "stride": "stride", "kernelsize": "kernel_size"}
_V0_DATA = {
    "source": "source", "batchsize": "batch_size", "rand_skip": "rand_skip", "scale": "scale", "meanfile": "mean_file",
    "cropsize": "crop_size", "mirror": "mirror",
}
_FILLERS = {"weight_filler": "weight_filler", "bias_filler": "bias_filler", "biasterm": "bias_term"}
V0_LAYERS: dict[str, tuple[str, str, dict[str, str]]] = {
    "accuracy": ("ACCURACY", "", {}),
    "bnll": ("BNLL", "", {}),
    "concat": ("CONCAT", "concat_param", {"concat_dim": "concat_dim"}),
    "conv": ("CONVOLUTION", "convolution_param", {
        "num_output": "num_output", **_FILLERS, **_POOL_OR_CONV, "group": "group",
    }),
    "data": ("DATA", "data_param", _V0_DATA),
    "dropout": ("DROPOUT", "dropout_param", {"dropout_ratio": "dropout_ratio"}),
    "euclidean_loss": ("EUCLIDEAN_LOSS", "", {}),
    "flatten": ("FLATTEN", "", {}),
    "hdf5_data": ("HDF5_DATA", "hdf5_data_param", {"source": "source", "batchsize": "batch_size"}),
    "hdf5_output": ("HDF5_OUTPUT", "", {}),
    "im2col": ("IM2COL", "convolution_param", _POOL_OR_CONV),
    "images": ("IMAGE_DATA", "image_data_param", {
        **_V0_DATA, "shuffle_images": "shuffle", "new_height": "new_height", "new_width": "new_width",
    }),
    "infogain_loss": ("INFOGAIN_LOSS", "infogain_loss_param", {"source": "source"}),
    "innerproduct": ("INNER_PRODUCT", "inner_product_param", {"num_output": "num_output", **_FILLERS}),
    "lrn": ("LRN", "lrn_param", {"local_size": "local_size", "alpha": "alpha", "beta": "beta", "k": "k"}),
    "multinomial_logistic_loss": ("MULTINOMIAL_LOGISTIC_LOSS", "", {}),
    "pool": ("POOLING", "pooling_param", {"pool": "pool", **_POOL_OR_CONV}),
    "relu": ("RELU", "", {}),
    "sigmoid": ("SIGMOID", "", {}),
    "softmax": ("SOFTMAX", "", {}),
    "softmax_loss": ("SOFTMAX_LOSS", "", {}),
    "split": ("SPLIT", "", {}),
    "tanh": ("TANH", "", {}),
    "window_data": ("WINDOW_DATA", "window_data_param", {
        **_V0_DATA, "det_fg_threshold": "fg_threshold", "det_bg_threshold": "bg_threshold",
        "det_fg_fraction": "fg_fraction", "det_context_pad": "context_pad", "det_crop_mode": "crop_mode",
    }),
}
_V0_KEPT = ("blobs_lr", "weight_decay", "hdf5_output_param")


def from_v0(layers: Sequence[Block], where: str) -> list[Block]:
    """V0 layers as V1 layers. Padding was a layer of its own then; it becomes the `pad` of what reads it."""
    padded: dict[str, tuple[str, str]] = {}  # top of a padding layer -> (its bottom, its pad)
    found = []
    for layer in layers:
        old = layer.block("layer")
        kind = old.string("type")
        bottoms, tops = layer.strings("bottom"), layer.strings("top")
        if kind == "padding":
            padded.update((top, (bottoms[0] if bottoms else "", old.string("pad", "0"))) for top in tops)
            continue
        if kind not in V0_LAYERS:
            raise FormatError(f"{where}: line {layer.line}: {kind!r} is no layer type of the first (V0) generation")
        v1, block, names = V0_LAYERS[kind]
        inside = [(names[name], value) for name, value in old.fields if name in names]
        fields: list[tuple[str, str | Block]] = [("name", quoted(old.string("name"))), ("type", v1)]
        for bottom in bottoms:
            if bottom in padded:
                bottom, pad = padded[bottom]
                inside = [*(pair for pair in inside if pair[0] != "pad"), ("pad", pad)]
            fields.append(("bottom", quoted(bottom)))
        fields += [("top", quoted(top)) for top in tops]
        fields += [pair for pair in old.fields if pair[0] in _V0_KEPT]
        if inside:
            fields.append((block, Block(tuple(inside), layer.line)))
        fields += [pair for pair in layer.fields if pair[0] in RULES]
        found.append(Block(tuple(fields), layer.line))
    return found


# -- the schema ----------------------------------------------------------------------------------------------------


@cache
def schema(generation: str) -> Any:
    """The descriptor of a layer message."""
    from acccmp.schemas import caffe_pb2

    message = caffe_pb2.LayerParameter if generation == "V2" else caffe_pb2.V1LayerParameter
    return message.DESCRIPTOR


def unknown_to_schema(stored: StoredLayer) -> bytes:
    """The fields of a stored layer that the schema does not know, as bytes."""
    known = schema("V2" if stored.generation == "V2" else "V1").fields_by_number
    return unknown_fields(stored.header, known)
