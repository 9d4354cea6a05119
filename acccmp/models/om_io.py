"""Inputs and outputs of a device model as its user sees them: names, shapes, sizes, gears of dynamic models, AIPP.

They are told by the graph (its Data ops and NetOutput), and in newer files by a partition of their own. Source of the
attribute names and records: ../shared/specs/model_formats.md, a.7.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from acccmp.core.dump import Port
from acccmp.core.graph import Dims, Gear, ModelIO, ModelTensor, shape_text
from acccmp.core.layout import FORMATS
from acccmp.core.reading import is_number
from acccmp.core.tensor import BY_GE, DType
from acccmp.models.device_graph import (
    INPUT_OPS,
    DeviceOp,
    DeviceTensor,
    attr_text,
    attr_texts,
    dtype_from,
    split_input,
    split_layout,
)

DYNAMIC_KINDS = {1: "batch", 2: "image size", 3: "dimensions"}

# Records of the partition MODEL_INOUT_INFO that are read; 5 and 6 are texts about shapes of outputs and their order.
INPUTS, OUTPUTS, BATCHES, IMAGE_SIZES, DIMENSIONS = range(5)
_RECORD = struct.Struct("<QiiIIII")
MOST_TENSORS = 65536


def model_io(ops: Sequence[DeviceOp], attrs: Mapping[str, Any], stored: ModelIO | None = None) -> ModelIO:
    """Inputs and outputs by the graph, completed with what the file's own list of them says (`stored`)."""
    found = _inputs(ops)
    outs = _outputs(ops, attrs)
    gears, dynamic = _gears(ops, found)
    notes: list[str] = []
    if stored is not None:
        found, note = _completed(found, stored.inputs, "inputs")
        notes += note
        outs, note = _completed(outs, stored.outputs, "outputs")
        notes += [*note, *stored.notes]
        if not gears:
            gears, dynamic = _with_shapes(stored.gears, found, _order(ops, found)), stored.dynamic
    return ModelIO(tuple(found), tuple(outs), tuple(gears), dynamic, tuple(notes))


# -- by the graph ------------------------------------------------------------------------------------------------


def _inputs(ops: Sequence[DeviceOp]) -> list[ModelTensor]:
    by_place: list[tuple[int, ModelTensor]] = []
    for op in ops:
        if op.op_type not in INPUT_OPS:
            continue
        index = op.attrs.get("index")
        by_place.append((index if isinstance(index, int) else len(by_place), _input(op, ops)))
    return [tensor for _, tensor in sorted(by_place, key=lambda pair: pair[0])]


def _input(op: DeviceOp, ops: Sequence[DeviceOp]) -> ModelTensor:
    desc = (op.input_descs or op.output_descs or (DeviceTensor(),))[0]
    told = ("_mbatch_origin_input_dims", "_dynamic_aipp_input_dims")
    shape = next((dims for key in told if (dims := _dims(op.attrs.get(key)))), desc.shape)
    dtype, layout = dtype_from(desc.dtype), split_layout(desc.layout)[0]
    aipp = _aipp(op, ops)
    if aipp.get("mode") == "static":
        shape = _dims(op.attrs.get("input_dims")) or shape
    return ModelTensor(op.name, dtype, shape, layout, _nbytes(dtype, shape), aipp=aipp)


def _nbytes(dtype: DType | None, shape: Dims | None) -> int | None:
    if dtype is None or shape is None or any(n < 0 for n in shape):
        return None
    return dtype.nbytes(math.prod(shape))


def _dims(value: Any) -> Dims | None:
    """A list of sizes; texts such as `1,3,224,224` count too. None for anything else and for an empty one."""
    if isinstance(value, str):
        value = tuple(value.split(","))
    try:
        return tuple(int(n) for n in value) or None
    except (TypeError, ValueError):
        return None


def _outputs(ops: Sequence[DeviceOp], attrs: Mapping[str, Any]) -> list[ModelTensor]:
    """Inputs of NetOutput, in their order, under the names that the runtime gives them.

    The model's `attr_model_out_nodes_name` has `node:index` or `node:index:tensor`; it alone tells where a graph has no
    NetOutput.
    """
    found: list[ModelTensor] = []
    places: list[int] = []
    for op in ops:
        if op.op_type != "NetOutput":
            continue
        data = [text for text in op.inputs if text and split_input(text)[1] >= 0]
        for place, text in enumerate(data):
            desc = op.input_descs[place] if place < len(op.input_descs) else DeviceTensor()
            dtype, layout = dtype_from(desc.dtype), split_layout(desc.layout)[0]
            source, index = split_input(text)
            places.append(index)
            found.append(ModelTensor(
                f"output_{len(found)}_{source}_{index}", dtype, desc.shape, layout, _nbytes(dtype, desc.shape),
                attr_text(desc.attrs.get("_origin_output_tensor_name")),
            ))
    names = attr_texts(attrs.get("attr_model_out_nodes_name"))
    found = found or [ModelTensor("") for _ in names]
    if len(names) != len(found):
        return found
    told = []
    for tensor, name, index in zip(found, names, places or [0] * len(names), strict=True):
        port, original = _output_name(name)
        called = name if ":" in name else f"{name}:{index}"
        told.append(replace(tensor, name=called, original=tensor.original or original, made_by=port))
    return told


def _output_name(text: str) -> tuple[Port, str]:
    """`Cast_9:0:logits` is output 0 of Cast_9, called logits; `Cast_9:0` has no name; names may contain ':'."""
    parts = text.split(":")
    for place in range(1, len(parts)):
        if is_number(parts[place]):
            return Port(":".join(parts[:place]), "output", int(parts[place])), ":".join(parts[place + 1:])
    return Port(text, "output", 0), ""


def _order(ops: Sequence[DeviceOp], inputs: Sequence[ModelTensor]) -> tuple[str, ...]:
    """Inputs in the order in which the user named them; their dynamic sizes follow this order in each gear."""
    for op in ops:
        named = op.attrs.get("user_designate_shape_order")
        if isinstance(named, tuple) and named:
            return tuple(name for name in named if isinstance(name, str))
    return tuple(tensor.name for tensor in inputs)


def _gears(ops: Sequence[DeviceOp], inputs: Sequence[ModelTensor]) -> tuple[tuple[Gear, ...], str]:
    """The gears of the Case op that picks a branch by the batch, the image size or the dimensions."""
    for op in ops:
        count = op.attrs.get("_batch_num")
        if op.op_type not in ("Case", "StatelessCase") or not isinstance(count, int):
            continue
        gears = []
        for place in range(min(max(count, 0), MOST_TENSORS)):
            values = _dims(op.attrs.get(f"_pred_value_{place}"))
            if values is None:
                break
            gears.append(Gear(values, op.subgraphs[place] if place < len(op.subgraphs) else ""))
        kind = op.attrs.get("mbatch_dynamic_type")
        dynamic = DYNAMIC_KINDS.get(kind, "") if isinstance(kind, int) else ""
        return _with_shapes(tuple(gears), inputs, _order(ops, inputs)), dynamic
    return (), ""


def _with_shapes(gears: tuple[Gear, ...], inputs: Sequence[ModelTensor], order: Sequence[str]) -> tuple[Gear, ...]:
    """The gears with the input shapes that each stands for.

    A gear with as many values as there are unknown sizes fills them one by one, in `order`; else the same values fill
    the unknown sizes of every input (one batch for all).
    """
    shapes = {tensor.name: tensor.shape for tensor in inputs if tensor.shape and min(tensor.shape) < 0}
    ordered = [name for name in order if name in shapes] + [name for name in shapes if name not in order]
    unknown = sum(1 for name in ordered for n in shapes[name] or () if n < 0)
    found = []
    for gear in gears:
        rest = list(gear.values) if len(gear.values) == unknown else None
        filled: dict[str, Dims] = {}
        for name in ordered:
            own = rest if rest is not None else list(gear.values)
            shape = shapes[name] or ()
            if sum(1 for n in shape if n < 0) <= len(own):
                filled[name] = tuple(own.pop(0) if n < 0 else n for n in shape)
        found.append(replace(gear, inputs=filled))
    return tuple(found)


# -- AIPP: pre-processing that was compiled into the model --------------------------------------------------------

_AIPP_KEYS = (
    "input_format", "src_image_size_w", "src_image_size_h", "crop", "load_start_pos_w", "load_start_pos_h",
    "crop_size_w", "crop_size_h", "resize", "resize_output_w", "resize_output_h", "padding", "csc_switch",
    "rbuv_swap_switch", "ax_swap_switch", "mean_chn_0", "mean_chn_1", "mean_chn_2", "mean_chn_3", "min_chn_0",
    "min_chn_1", "min_chn_2", "min_chn_3", "var_reci_chn_0", "var_reci_chn_1", "var_reci_chn_2", "var_reci_chn_3",
    "related_input_rank", "max_src_image_size",
)
# Numbers of `aipp_mode` and `input_format` in AIPP configurations.
_AIPP_MODES = {1: "static", 2: "dynamic"}
_AIPP_FORMATS = {
    1: "YUV420SP_U8", 2: "XRGB8888_U8", 3: "RGB888_U8", 4: "YUV400_U8", 5: "NC1HWC0DI_FP16", 6: "NC1HWC0DI_S8",
    7: "ARGB8888_U8", 8: "YUYV_U8", 9: "YUV422SP_U8", 10: "AYUV444_U8", 11: "RAW10", 12: "RAW12", 13: "RAW16",
    14: "RAW24",
}


def _aipp(op: DeviceOp, ops: Sequence[DeviceOp]) -> dict[str, Any]:
    """What is known of the pre-processing of an input: by the Data op itself, or by the Aipp op that reads it."""
    aipps = [other for other in ops if other.op_type == "Aipp"]
    readers = [other for other in aipps if any(split_input(text)[0] == op.name for text in other.inputs if text)]
    found: dict[str, Any] = {}
    mode = op.attrs.get("_data_related_aipp_mode")
    if isinstance(mode, str) and mode:
        found["mode"] = {"static_aipp": "static", "dynamic_aipp": "dynamic"}.get(mode, mode)
    for owner in (op, *readers):
        settings = owner.attrs.get("aipp")
        named = settings.get("attr", {}) if isinstance(settings, Mapping) else {}
        if named:
            number = named.get("aipp_mode")
            found.setdefault("mode", _AIPP_MODES.get(number, number) if isinstance(number, int) else "static")
            found |= {key: named[key] for key in _AIPP_KEYS if named.get(key) not in (None, (), "")}
            found |= {key: value for key, value in named.items() if key.startswith("matrix_r")}
    if isinstance(found.get("input_format"), int):
        found["input_format"] = _AIPP_FORMATS.get(found["input_format"], found["input_format"])
    for key, name in (("_aipp_inputs", "takes"), ("_aipp_outputs", "gives")):
        told = op.attrs.get(key)
        records = [parse_aipp_record(text) for text in told if isinstance(text, str)] if isinstance(told, tuple) else []
        if any(records):
            found[name] = [record for record in records if record]
    related = op.attrs.get("_data_aipp_data_name_map")
    if isinstance(related, str) and related:
        found["settings input"] = related
    if found:
        found.setdefault("mode", "static")
    return found


def parse_aipp_record(text: str) -> dict[str, Any]:
    """`FORMAT:DTYPE:name:size:dimnum:d0,d1,..` as facts; {} for anything else. The name may contain ':'."""
    parts = text.split(":")
    if len(parts) < 6 or not is_number(parts[-3]) or not is_number(parts[-2]):
        return {}
    dims = _dims(parts[-1])
    return {
        "layout": parts[0], "dtype": str(dtype_from(parts[1]) or parts[1]), "name": ":".join(parts[2:-3]),
        "bytes": int(parts[-3]), "shape": list(dims or ()),
    }


# -- by the partition MODEL_INOUT_INFO ----------------------------------------------------------------------------


def parse_inout_info(raw: bytes) -> ModelIO:
    """The partition's records; a damaged one is noted, and what comes before it is kept."""
    found: dict[int, Any] = {}
    notes: list[str] = []
    at = 0
    while at + 8 <= len(raw):
        kind, size = struct.unpack_from("<II", raw, at)
        body = raw[at + 8 : at + 8 + size]
        try:
            if len(body) < size:
                raise ValueError(f"a record of type {kind} is cut off")
            if kind in (INPUTS, OUTPUTS):
                found[kind] = _tensors(body)
            elif kind == BATCHES:
                (count,) = struct.unpack_from("<I", body)
                found[kind] = [(n,) for n in _u64(body, 4, count)]
            elif kind in (IMAGE_SIZES, DIMENSIONS):
                found[kind] = _parts_of_numbers(body)
        except (ValueError, struct.error) as error:
            notes.append(f"the list of inputs and outputs in the file is damaged: {error}")
            break
        at += 8 + size
    kinds = [kind for kind in (BATCHES, IMAGE_SIZES, DIMENSIONS) if found.get(kind)]
    gears = tuple(Gear(values) for kind in kinds[:1] for values in found[kind])
    dynamic = DYNAMIC_KINDS[kinds[0] - 1] if kinds else ""
    return ModelIO(tuple(found.get(INPUTS, ())), tuple(found.get(OUTPUTS, ())), gears, dynamic, tuple(notes))


def _tensors(body: bytes) -> list[ModelTensor]:
    (count,) = struct.unpack_from("<I", body)
    if count > min(MOST_TENSORS, len(body) // _RECORD.size):
        raise ValueError(f"{count} tensors in {len(body)} bytes")
    at = 4
    found = []
    for _ in range(count):
        size, layout, dtype, name_len, dims_len, second_len, range_len = _RECORD.unpack_from(body, at)
        at += _RECORD.size
        pieces = []
        for length in (name_len, dims_len, second_len, range_len):
            if length > len(body) - at:
                raise ValueError("a tensor's name or shape is cut off")
            pieces.append(body[at : at + length])
            at += length
        shape, visible, bounds = (_i64(piece) for piece in pieces[1:])
        ranges = tuple(zip(bounds[::2], bounds[1::2], strict=False))
        kind, dims = BY_GE.get(dtype), visible or shape
        found.append(ModelTensor(
            pieces[0].split(b"\0")[0].decode("utf-8", "replace"), kind, dims,
            FORMATS.get(layout & 0xFF) if layout >= 0 else None, size or _nbytes(kind, dims), ranges=ranges,
        ))
    return found


def _i64(piece: bytes) -> Dims:
    return struct.unpack(f"<{len(piece) // 8}q", piece[: len(piece) // 8 * 8])


def _u64(body: bytes, at: int, count: int) -> Dims:
    if count * 8 > len(body) - at:
        raise ValueError(f"{count} numbers in {len(body) - at} bytes")
    return struct.unpack_from(f"<{count}Q", body, at)


def _parts_of_numbers(body: bytes) -> list[Dims]:
    (count,) = struct.unpack_from("<I", body)
    if count * 4 > len(body) - 4:
        raise ValueError(f"{count} parts in {len(body)} bytes")
    sizes = struct.unpack_from(f"<{count}I", body, 4)
    numbers = iter(_u64(body, 4 + 4 * count, sum(sizes)))
    return [tuple(itertools.islice(numbers, size)) for size in sizes]


def _completed(
    by_graph: list[ModelTensor], stored: Sequence[ModelTensor], what: str,
) -> tuple[list[ModelTensor], list[str]]:
    """What the graph says, with sizes and ranges as the file's own list has them."""
    if not stored:
        return by_graph, []
    if not by_graph:
        return list(stored), []
    if len(stored) != len(by_graph):
        return by_graph, [f"the file lists {len(stored)} {what}, its graph has {len(by_graph)}"]
    out, notes = [], []
    for mine, theirs in zip(by_graph, stored, strict=True):
        if (what == "inputs" and mine.name != theirs.name) or (mine.dtype, mine.shape) != (theirs.dtype, theirs.shape):
            notes.append(
                f"the file's list of {what} has {theirs.name} {theirs.dtype} {shape_text(theirs.shape)}, "
                f"its graph {mine.name} {mine.dtype} {shape_text(mine.shape)}; the list counts"
            )
        out.append(replace(
            theirs, original=mine.original, made_by=mine.made_by, aipp=mine.aipp, ranges=theirs.ranges or mine.ranges,
        ))
    return out, notes
