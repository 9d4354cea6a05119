"""What Caffe's layers make of shapes: a row for each type. Unknown types, sizes and ranks stay unknown.

A function takes the layer's parameters (`Params`), the shapes of its bottoms and the number of its tops, and gives
the shapes of its tops. A size is an int or None; a shape is a tuple of sizes, or None when even the rank is unknown.
Formulas: Caffe's public layer definitions (pooling rounds up, crop and slice take whole axes, and so on).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from acccmp.core.graph import Dim, Node, Shape
from acccmp.core.tensor import TensorRef

Shapes = list[Shape | None]
Rule = Callable[["Params", Shapes, int], Shapes]


# What Yolo's detections are chosen by, as Ascend's operators have it when the file is silent.
_FOUND: dict[str, Any] = {
    "coords": 4, "relative": True, "obj_threshold": 0.5, "score_threshold": 0.5, "iou_threshold": 0.45,
    "pre_nms_topn": 512, "post_nms_topn": 512,
}

# Parameters that only forks of Caffe have: name -> what they are when the file leaves them out.
FORK_DEFAULTS: dict[str, dict[str, Any]] = {
    "permute_param": {"order": ()},
    "prior_box_param": {"min_size": (), "max_size": (), "aspect_ratio": (), "flip": True},
    "upsample_param": {
        "scale": None, "stride": None, "stride_h": None, "stride_w": None, "upsample_h": None, "upsample_w": None,
    },
    "reorg_param": {"stride": 2, "reverse": False},
    "pass_through_param": {"stride": 2, "reverse": False},
    "yolo_param": {
        "boxes": None, "coords": 4, "classes": 80, "yolo_version": "V3", "softmax": False, "background": False,
    },
    "region_param": {
        "boxes": None, "num": None, "coords": 4, "classes": 20, "softmax": None, "background": False,
        "boxes_of_each_grid": None,
    },
    "yolov2_detection_output_param": {**_FOUND, "biases": (), "boxes": 5},
    "yolov3_detection_output_param": {
        **_FOUND, "biases": (), "biases_low": (), "biases_mid": (), "biases_high": (), "boxes": 3,
        "resize_origin_img_to_net": False,
    },
    "detection_output_param": {
        "num_classes": None, "share_location": True, "background_label_id": 0, "nms_param": None,
        "code_type": "CORNER", "variance_encoded_in_target": False, "keep_top_k": -1, "confidence_threshold": None,
    },
    "ssddetectionoutput_param": {
        "num_classes": 2, "share_location": True, "background_label_id": 0, "iou_threshold": 0.45, "top_k": 400,
        "eta": 1.0, "code_type": "CENTER_SIZE", "variance_encoded_in_target": False, "keep_top_k": 200,
        "confidence_threshold": 0.01,
    },
    "nms_param": {"nms_threshold": 0.3, "top_k": -1, "eta": 1.0},
    "roi_pooling_param": {"pooled_h": None, "pooled_w": None},
    "psroi_pooling_param": {"output_dim": None, "group_size": None},
    "shuffle_channel_param": {"group": 1},
    "norm_param": {"across_spatial": True, "channel_shared": True},
    "pooling_param": {"ceil_mode": True},
    "dropout_param": {"scale_train": True},
}


@cache
def defaults() -> Mapping[str, Mapping[str, Any]]:
    """Block -> field -> the value of a field that is left out; () for repeated ones, None where there is no default."""
    from acccmp.schemas import caffe_pb2

    table: dict[str, dict[str, Any]] = {}
    for block in caffe_pb2.LayerParameter.DESCRIPTOR.fields:
        if block.message_type is not None:
            table[block.name] = {field.name: _default(field) for field in block.message_type.fields}
    for name, fields in FORK_DEFAULTS.items():
        table.setdefault(name, {}).update(fields)
    return table


def _default(field: Any) -> Any:
    if field.is_repeated:
        return ()
    if field.enum_type is not None:
        return field.enum_type.values_by_number[field.default_value].name
    return field.default_value if field.has_default_value else None


class Params:
    """A layer's parameters with Caffe's defaults: `params("pooling_param", "stride")`."""

    def __init__(self, attrs: Mapping[str, Any]) -> None:
        self.attrs = attrs

    def __call__(self, block: str, field: str) -> Any:
        """The value of `field`, Caffe's default where the file is silent, None without one. Repeated ones: a tuple."""
        default = defaults().get(block, {}).get(field)
        value = self.block(block).get(field, default)
        return (value,) if isinstance(default, tuple) and not isinstance(value, tuple) else value

    def block(self, name: str) -> Mapping[str, Any]:
        """A block as the file has it; empty if it is absent."""
        value = self.attrs.get(name)
        if isinstance(value, tuple):
            value = value[0] if value else None
        return value if isinstance(value, Mapping) else {}


# -- arithmetic with unknowns ------------------------------------------------------------------------------------


def _product(sizes: Sequence[Dim]) -> Dim:
    return math.prod(sizes) if all(isinstance(size, int) for size in sizes) else None  # type: ignore[arg-type]


def _axis(axis: int, rank: int) -> int:
    """An axis counted from the front. IndexError beyond the rank."""
    if not -rank <= axis < rank:
        raise IndexError(f"axis {axis} of a tensor of rank {rank}")
    return axis % rank


def _replaced(shape: Shape, axis: int, size: Dim) -> Shape:
    return (*shape[:axis], size, *shape[axis + 1 :])


def _spatial(params: Params, block: str, what: str, h: str, w: str, count: int, missing: int | None) -> list[int]:
    """Kernel, stride, pad or dilation of each spatial axis."""
    given = params.block(block)
    if count == 2 and (h in given or w in given):
        values = [given.get(h, missing), given.get(w, missing)]
    else:
        listed = params(block, what)
        listed = listed if isinstance(listed, tuple) else () if listed is None else (listed,)
        values = list(listed) * count if len(listed) == 1 else list(listed) if listed else [missing] * count
    if len(values) != count or any(value is None for value in values):
        raise ValueError(f"{what} is not given for {count} axes")
    return [int(value) for value in values]


# -- one function a family ---------------------------------------------------------------------------------------


def _from_first(shape_of: Callable[[Params, Shape], Shape | None], rank: int | None = None) -> Rule:
    """A layer whose tops have one shape, which follows from that of its first bottom: of `rank`, or any."""
    def rule(params: Params, bottoms: Shapes, tops: int) -> Shapes:
        shape = bottoms[0]
        return [None if shape is None or rank not in (None, len(shape)) else shape_of(params, shape)] * tops
    return rule


def _same(params: Params, shape: Shape) -> Shape:
    return shape


def _window(params: Params, count: int, block: str = "convolution_param") -> tuple[list[int], ...]:
    return (
        _spatial(params, block, "kernel_size", "kernel_h", "kernel_w", count, None),
        _spatial(params, block, "stride", "stride_h", "stride_w", count, 1),
        _spatial(params, block, "pad", "pad_h", "pad_w", count, 0),
        _spatial(params, block, "dilation", "", "", count, 1),
    )


def _convolved(params: Params, shape: Shape, size: Callable[[int, int, int, int, int], int]) -> Shape:
    axis = _axis(params("convolution_param", "axis"), len(shape))
    first = axis + 1
    out: list[Dim] = [*shape[:axis], params("convolution_param", "num_output")]
    window = _window(params, len(shape) - first)
    for n, kernel, stride, pad, dilation in zip(shape[first:], *window, strict=True):
        out.append(size(n, kernel, stride, pad, dilation) if isinstance(n, int) else None)
    return tuple(out)


def _convolution(params: Params, bottoms: Shapes, tops: int) -> Shapes:
    def size(n: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
        return (n + 2 * pad - (dilation * (kernel - 1) + 1)) // stride + 1

    return [None if shape is None else _convolved(params, shape, size) for shape in bottoms[:tops]]


def _deconvolution(params: Params, bottoms: Shapes, tops: int) -> Shapes:
    def size(n: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
        return stride * (n - 1) + dilation * (kernel - 1) + 1 - 2 * pad

    return [None if shape is None else _convolved(params, shape, size) for shape in bottoms[:tops]]


def pooled(n: int, kernel: int, stride: int, pad: int, ceil: bool) -> int:
    """Size of a pooled axis: rounded up, but the last window begins inside the input or its front padding."""
    steps = (n + 2 * pad - kernel) / stride
    out = (math.ceil(steps) if ceil else math.floor(steps)) + 1
    if pad and (out - 1) * stride >= n + pad:
        out -= 1
    return out


def _pooling(params: Params, shape: Shape) -> Shape:
    if params("pooling_param", "global_pooling"):
        return (*shape[:2], 1, 1)
    ceil = params("pooling_param", "round_mode") == "CEIL" and params("pooling_param", "ceil_mode")
    window = _window(params, 2, "pooling_param")[:3]
    return (*shape[:2], *(
        pooled(n, kernel, stride, pad, ceil) if isinstance(n, int) else None
        for n, kernel, stride, pad in zip(shape[2:], *window, strict=True)
    ))


def _inner_product(params: Params, shape: Shape) -> Shape:
    axis = _axis(params("inner_product_param", "axis"), len(shape))
    return (*shape[:axis], params("inner_product_param", "num_output"))


def _flatten(params: Params, shape: Shape) -> Shape:
    start, end = (_axis(params("flatten_param", name), len(shape)) for name in ("axis", "end_axis"))
    return (*shape[:start], _product(shape[start : end + 1]), *shape[end + 1 :])


def _reshape(params: Params, bottoms: Shapes, tops: int) -> Shapes:
    wanted = params.block("reshape_param").get("shape")
    wanted = tuple(wanted.get("dim", ())) if isinstance(wanted, Mapping) else ()
    axis, count = params("reshape_param", "axis"), params("reshape_param", "num_axes")
    shape = bottoms[0]
    if shape is None:
        whole = axis == 0 and count == -1 and wanted and all(dim > 0 for dim in wanted)
        return [wanted if whole else None]
    start = axis if axis >= 0 else len(shape) + 1 + axis
    end = len(shape) if count == -1 else start + count
    if not 0 <= start <= end <= len(shape):
        raise IndexError("axes beyond the rank")
    middle: list[Dim] = [shape[start + place] if dim == 0 else dim for place, dim in enumerate(wanted)]
    if -1 in middle:
        known = _product([dim for dim in middle if dim != -1])
        total = _product(shape[start:end])
        free: Dim = None
        if isinstance(known, int) and isinstance(total, int):
            if known == 0 or total % known:
                raise ValueError(f"{total} elements cannot take the shape {wanted}")
            free = total // known
        middle[middle.index(-1)] = free
    out = (*shape[:start], *middle, *shape[end:])
    before, after = _product(shape), _product(out)
    if isinstance(before, int) and isinstance(after, int) and before != after:
        raise ValueError(f"{before} elements cannot take the shape {out}")
    return [out]


def _concat(params: Params, bottoms: Shapes, tops: int) -> Shapes:
    block = params.block("concat_param")
    shapes = [shape for shape in bottoms if shape is not None]
    if len(shapes) < len(bottoms) or not shapes or len({len(shape) for shape in shapes}) > 1:
        return [None]
    axis = _axis(block["concat_dim"] if "concat_dim" in block else params("concat_param", "axis"), len(shapes[0]))
    sizes = [shape[axis] for shape in shapes]
    total: Dim = sum(sizes) if all(isinstance(size, int) for size in sizes) else None  # type: ignore[arg-type]
    return [_replaced(_agreed(shapes, axis), axis, total)]


def _agreed(shapes: Sequence[Shape], but: int | None = None) -> Shape:
    """One shape from several of one rank: the known sizes. ValueError where they disagree (axis `but` apart)."""
    out: list[Dim] = []
    for axis, sizes in enumerate(zip(*shapes, strict=True)):
        known = {size for size in sizes if size is not None}
        if len(known) > 1 and axis != but:
            raise ValueError(f"the bottoms have sizes {sizes} on axis {axis}")
        out.append(next(iter(known)) if known else None)
    return tuple(out)


def _slice(params: Params, bottoms: Shapes, tops: int) -> Shapes:
    shape, block = bottoms[0], params.block("slice_param")
    if shape is None:
        return [None] * tops
    axis = _axis(block["slice_dim"] if "slice_dim" in block else params("slice_param", "axis"), len(shape))
    size, points = shape[axis], params("slice_param", "slice_point")
    if not isinstance(size, int):
        return [_replaced(shape, axis, None)] * tops
    if points:
        edges = [0, *points, size]
    elif size % tops:
        raise ValueError(f"{size} cannot be cut into {tops} equal pieces")
    else:
        edges = [size // tops * place for place in range(tops + 1)]
    pieces = [b - a for a, b in itertools.pairwise(edges)]
    if len(pieces) != tops or min(pieces) <= 0:
        raise ValueError(f"{size} cannot be cut at {points} into {tops} pieces")
    return [_replaced(shape, axis, piece) for piece in pieces]


def _crop(params: Params, bottoms: Shapes, tops: int) -> Shapes:
    shape, like = bottoms[0], bottoms[1]
    if shape is None or like is None:
        return [None]
    axis = _axis(params("crop_param", "axis"), len(shape))
    return [(*shape[:axis], *like[axis:])]


def _eltwise(params: Params, bottoms: Shapes, tops: int) -> Shapes:
    known = [shape for shape in bottoms if shape is not None]
    if not known:
        return [None]
    if len({len(shape) for shape in known}) > 1:
        raise ValueError("the bottoms have different ranks")
    return [_agreed(known)]


def _permute(params: Params, shape: Shape) -> Shape:
    order = params("permute_param", "order")
    full = [*order, *(axis for axis in range(len(shape)) if axis not in order)]
    if sorted(full) != list(range(len(shape))):
        raise ValueError(f"{order} is no order of {len(shape)} axes")
    return tuple(shape[axis] for axis in full)


def _prior_box(params: Params, shape: Shape) -> Shape | None:
    if "prior_box_param" not in params.attrs:
        return None
    ratios = [1.0]
    for ratio in params("prior_box_param", "aspect_ratio"):
        if not any(abs(ratio - known) < 1e-6 for known in ratios):
            ratios += [ratio, 1 / ratio] if params("prior_box_param", "flip") else [ratio]
    boxes = len(ratios) * len(params("prior_box_param", "min_size")) + len(params("prior_box_param", "max_size"))
    cells = _product(shape[2:])
    return (1, 2, cells * boxes * 4 if isinstance(cells, int) else None)


def _tile(params: Params, shape: Shape) -> Shape:
    axis, tiles = _axis(params("tile_param", "axis"), len(shape)), params("tile_param", "tiles")
    size = shape[axis]
    return _replaced(shape, axis, size * tiles if isinstance(size, int) and tiles is not None else None)


def _reduction(params: Params, shape: Shape) -> Shape:
    return shape[: _axis(params("reduction_param", "axis"), len(shape) or 1)]


def _argmax(params: Params, shape: Shape) -> Shape:
    axis, top_k = params("argmax_param", "axis"), params("argmax_param", "top_k")
    if axis is not None:
        return _replaced(shape, _axis(axis, len(shape)), top_k)
    return (shape[0], 2 if params("argmax_param", "out_max_val") else 1, top_k, *(1,) * (len(shape) - 3))


def _embed(params: Params, shape: Shape) -> Shape:
    return (*shape, params("embed_param", "num_output"))


def _recurrent(params: Params, shape: Shape) -> Shape | None:
    if len(shape) < 2 or params("recurrent_param", "expose_hidden"):
        return None
    return (*shape[:2], params("recurrent_param", "num_output"))


def _loss(params: Params, bottoms: Shapes, tops: int) -> Shapes:
    return [(), *[bottoms[0]] * (tops - 1)]


def _accuracy(params: Params, bottoms: Shapes, tops: int) -> Shapes:
    return [(), *[None] * (tops - 1)]


def _second(params: Params, bottoms: Shapes, tops: int) -> Shapes:
    return [bottoms[1]]


def magnified(params: Params) -> tuple[int, int] | None:
    """How many times higher and wider Upsample makes its input; None where the file does not say.

    Ascend's layer has a stride, and what it calls scale multiplies the values; in older forks scale is the size.
    """
    strides = [params("upsample_param", f"stride_{side}") or params("upsample_param", "stride") for side in "hw"]
    if any(strides):
        return strides[0] or 2, strides[1] or 2
    scale = params("upsample_param", "scale")
    return (int(scale), int(scale)) if scale and scale == int(scale) else None


def _upsample(params: Params, shape: Shape) -> Shape | None:
    height, width = params("upsample_param", "upsample_h"), params("upsample_param", "upsample_w")
    if height and width:
        return (*shape[:2], height, width)
    times = magnified(params)
    if times is None:
        return None
    return (*shape[:2], *(n * by if isinstance(n, int) else None for n, by in zip(shape[2:], times, strict=True)))


# -- detectors (Darknet's layers; Ascend's definitions where it says so) --------------------------------------------


def reordering(params: Params) -> tuple[int, bool]:
    """Stride and direction of Reorg and PassThrough."""
    block = "reorg_param" if params.block("reorg_param") else "pass_through_param"
    return params(block, "stride"), params(block, "reverse")


def _reorg(params: Params, shape: Shape) -> Shape | None:
    stride, reverse = reordering(params)
    if not all(isinstance(size, int) for size in shape[1:]):
        return None
    c, h, w = (int(size or 0) for size in shape[1:])
    if (reverse and c % stride**2) or (not reverse and (h % stride or w % stride)):
        raise ValueError(f"a stride of {stride} does not divide {shape}")
    if reverse:
        return (shape[0], c // stride**2, h * stride, w * stride)
    return (shape[0], c * stride**2, h // stride, w // stride)


@dataclass(frozen=True)
class Anchors:
    """What each cell of a Yolo or Region layer predicts: `boxes` times (x, y, w, h, object, each class).

    `softmax`: classes exclude each other; with `background` the object is one of them, else it is a sigmoid.
    """

    boxes: int
    classes: int
    softmax: bool
    background: bool


def anchors(params: Params, op_type: str, channels: int) -> Anchors:
    """The anchors of a Yolo or Region layer that reads so many channels. ValueError where they contradict these, or
    the file does not say what forks understand differently."""
    block = "region_param" if op_type == "Region" else "yolo_param"
    if params("region_param", "boxes_of_each_grid") is not None:
        raise ValueError("boxes_of_each_grid is of a fork whose Region is another layer")
    classes, coords = params(block, "classes"), params(block, "coords")
    boxes = params(block, "boxes") or params(block, "num") or channels // (coords + 1 + classes)
    if coords != 4 or boxes * (coords + 1 + classes) != channels:
        raise ValueError(
            f"{boxes} boxes of {coords} coordinates, an object and {classes} classes are not {channels} channels"
        )
    if params(block, "softmax") is None:
        raise ValueError("region_param does not say whether the classes go through a softmax, and forks differ")
    second = op_type == "Region" or str(params(block, "yolo_version")).upper() == "V2"
    return Anchors(boxes, classes, second and params(block, "softmax"), second and params(block, "background"))


def padded(count: int) -> int:
    """The length that Ascend's Yolo layers give `count` values of a row: room for 16 more, in whole blocks of 16."""
    return in_blocks(count + 16, 16)


def in_blocks(count: int, block: int) -> int:
    """`count` values or rows in whole blocks. ValueError for none."""
    if count < 1:
        raise ValueError(f"there is no room for {count} values or rows")
    return -(-count // block) * block


def _predicted(op_type: str, params: Params, bottoms: Shapes, tops: int) -> Shapes:
    shape = bottoms[0]
    if shape is None or len(shape) != 4 or not all(isinstance(size, int) for size in shape[1:]):
        return [None] * tops
    c, h, w = (int(size or 0) for size in shape[1:])
    made = anchors(params, op_type, c)
    if tops == 1:  # Darknet's: in its place
        return [shape]
    if tops != 3:
        raise ValueError(f"{tops} outputs, where one, or coordinates, objects and classes are due")
    each, every = padded(h * w), padded(made.boxes * h * w)
    return [(shape[0], 4 * made.boxes, each), (shape[0], every), (shape[0], made.classes, every)]


def _detections(block: str, params: Params, bottoms: Shapes, tops: int) -> Shapes:
    batch = next((shape[0] for shape in bottoms if shape), None)
    made: Shapes = [(batch, 6 * params(block, "post_nms_topn")), (batch, 8)]
    return made[:tops]


def _ssd_detections(params: Params, bottoms: Shapes, tops: int) -> Shapes:
    """Of Ascend's layer: how many there are of each image, and rows of 8 numbers."""
    batch = bottoms[0][0] if bottoms[0] else None
    made: Shapes = [(batch, 8), (batch, in_blocks(params("ssddetectionoutput_param", "keep_top_k"), 128), 8)]
    return made[:tops]


def _detection_output(params: Params, bottoms: Shapes, tops: int) -> Shapes:
    return [(1, 1, None, 7)]  # a row for each detection


def _roi_pooling(params: Params, bottoms: Shapes, tops: int) -> Shapes:
    shape, rois = bottoms[0], bottoms[1]
    if shape is None or len(shape) != 4:
        return [None]
    size = (params("roi_pooling_param", "pooled_h"), params("roi_pooling_param", "pooled_w"))
    return [(rois[0] if rois else None, shape[1], *size)]


def _psroi_pooling(params: Params, bottoms: Shapes, tops: int) -> Shapes:
    rois, size = bottoms[1], params("psroi_pooling_param", "group_size")
    return [(rois[0] if rois else None, params("psroi_pooling_param", "output_dim"), size, size)]


# -- layers that begin a net -------------------------------------------------------------------------------------


def _listed(value: Any) -> list[Shape]:
    shapes = value if isinstance(value, tuple) else () if value is None else (value,)
    return [tuple(shape.get("dim", ())) for shape in shapes]


def _input(params: Params, bottoms: Shapes, tops: int) -> Shapes:
    shapes: Shapes = [shape or None for shape in _listed(params.block("input_param").get("shape"))]
    if len(shapes) == 1:
        return shapes * tops
    return shapes if len(shapes) == tops else [None] * tops


def _dummy_data(params: Params, bottoms: Shapes, tops: int) -> Shapes:
    block = params.block("dummy_data_param")
    shapes: Shapes = list(_listed(block.get("shape")))
    if not shapes:
        sizes = [params("dummy_data_param", name) for name in ("num", "channels", "height", "width")]
        most = max(map(len, sizes))
        if not most or not all(sizes):
            return [None] * tops
        shapes = [tuple(size[place % len(size)] for size in sizes) for place in range(most)]
    return shapes * tops if len(shapes) == 1 else shapes if len(shapes) == tops else [None] * tops


def _memory_data(params: Params, bottoms: Shapes, tops: int) -> Shapes:
    sizes = tuple(params("memory_data_param", name) for name in ("batch_size", "channels", "height", "width"))
    return [sizes, *[(sizes[0],)] * (tops - 1)]


def _data(params: Params, bottoms: Shapes, tops: int) -> Shapes:
    batch = params("data_param", "batch_size")
    crop = params("transform_param", "crop_size") or params("data_param", "crop_size") or None
    return [(batch, None, crop, crop), *[(batch,)] * (tops - 1)]


def _image_data(params: Params, bottoms: Shapes, tops: int) -> Shapes:
    get = params.block("image_data_param").get
    batch, colour = params("image_data_param", "batch_size"), params("image_data_param", "is_color")
    crop = params("transform_param", "crop_size") or get("crop_size") or None
    height, width = crop or get("new_height") or None, crop or get("new_width") or None
    return [(batch, 3 if colour else 1, height, width), *[(batch,)] * (tops - 1)]


def _parameter(params: Params, bottoms: Shapes, tops: int) -> Shapes:
    return [shape or None for shape in _listed(params.block("parameter_param").get("shape"))] or [None]


def _unknown(params: Params, bottoms: Shapes, tops: int) -> Shapes:
    return [None] * tops


SAME = (
    "ReLU", "PReLU", "ELU", "Sigmoid", "TanH", "AbsVal", "Power", "Exp", "Log", "BNLL", "Threshold", "Dropout",
    "BatchNorm", "Scale", "Bias", "LRN", "MVN", "Softmax", "Swish", "Clip", "Normalize", "Split", "BN", "ReLU6",
    "ShuffleChannel", "HardSwish", "Mish", "Quant", "DeQuant", "AntiQuant",
)
LOSSES = (
    "SoftmaxWithLoss", "EuclideanLoss", "HingeLoss", "ContrastiveLoss", "InfogainLoss", "MultinomialLogisticLoss",
    "SigmoidCrossEntropyLoss",
)

RULES: dict[str, Rule] = {
    **dict.fromkeys(SAME, _from_first(_same)),
    **dict.fromkeys(LOSSES, _loss),
    "Convolution": _convolution,
    "ConvolutionDepthwise": _convolution,
    "DepthwiseConvolution": _convolution,
    "Deconvolution": _deconvolution,
    "Pooling": _from_first(_pooling, 4),
    "InnerProduct": _from_first(_inner_product),
    "Flatten": _from_first(_flatten),
    "Reshape": _reshape,
    "Concat": _concat,
    "Slice": _slice,
    "Crop": _crop,
    "Eltwise": _eltwise,
    "Axpy": _second,
    "Permute": _from_first(_permute),
    "PriorBox": _from_first(_prior_box, 4),
    "Tile": _from_first(_tile),
    "Reduction": _from_first(_reduction),
    "ArgMax": _from_first(_argmax),
    "Embed": _from_first(_embed),
    "LSTM": _from_first(_recurrent),
    "RNN": _from_first(_recurrent),
    "Accuracy": _accuracy,
    "Upsample": _from_first(_upsample, 4),
    "Reorg": _from_first(_reorg, 4),
    "PassThrough": _from_first(_reorg, 4),
    "Yolo": partial(_predicted, "Yolo"),
    "Region": partial(_predicted, "Region"),
    "YoloV2DetectionOutput": partial(_detections, "yolov2_detection_output_param"),
    "YoloV3DetectionOutput": partial(_detections, "yolov3_detection_output_param"),
    "SSDDetectionOutput": _ssd_detections,
    "DetectionOutput": _detection_output,
    "ROIPooling": _roi_pooling,
    "PSROIPooling": _psroi_pooling,
    "Input": _input,
    "DummyData": _dummy_data,
    "MemoryData": _memory_data,
    "Data": _data,
    "ImageData": _image_data,
    "Parameter": _parameter,
}

# Tops that hold whole numbers: (type, place) -> dtype. Every other blob is float32.
INTEGERS = {
    ("YoloV2DetectionOutput", 1): "int32", ("YoloV3DetectionOutput", 1): "int32", ("SSDDetectionOutput", 0): "int32",
    ("Quant", 0): "int8",
}


def top_shapes(op_type: str, attrs: Mapping[str, Any], bottoms: Shapes, tops: int) -> tuple[Shapes, str]:
    """Shapes of a layer's tops, and why they could not be worked out ("" when they could, or nothing is known).

    Never raises: parameters that contradict the bottoms give unknown shapes and the reason.
    """
    try:
        shapes = RULES.get(op_type, _unknown)(Params(attrs), bottoms, tops)
    except (ArithmeticError, IndexError, KeyError, TypeError, ValueError) as error:
        return [None] * tops, str(error) or type(error).__name__
    shapes = (shapes + [None] * tops)[:tops]
    for shape in shapes:
        if shape is not None and any(isinstance(size, int) and size < 1 for size in shape):
            return [None] * tops, f"it would make a tensor of shape {shape}"
    return shapes, ""


# -- what its weights should look like ---------------------------------------------------------------------------


def weight_shapes(op_type: str, attrs: Mapping[str, Any], bottoms: Shapes) -> list[Shape | None] | None:
    """Shapes that the weights of a layer should have: None for types without weights or of unknown ones."""
    try:
        return _weights(Params(attrs), op_type, bottoms)
    except (ArithmeticError, IndexError, KeyError, TypeError, ValueError):
        return None


def _weights(params: Params, op_type: str, bottoms: Shapes) -> list[Shape | None] | None:
    shape = bottoms[0] if bottoms else None
    if op_type in ("Convolution", "ConvolutionDepthwise", "DepthwiseConvolution", "Deconvolution"):
        filters, group = params("convolution_param", "num_output"), params("convolution_param", "group")
        rank = len(shape) if shape is not None else 4
        axis = params("convolution_param", "axis")
        channels = shape[_axis(axis, rank)] if shape is not None else None
        if op_type.startswith("Depthwise") or op_type.endswith("Depthwise"):
            group = channels
        kernel = _window(params, rank - axis % rank - 1)[0]
        outer, inner = (channels, filters) if op_type == "Deconvolution" else (filters, channels)
        inner = inner // group if isinstance(inner, int) and isinstance(group, int) else None
        bias = [(filters,)] if params("convolution_param", "bias_term") else []
        return [(outer, inner, *kernel), *bias]
    if op_type == "InnerProduct":
        out = params("inner_product_param", "num_output")
        inputs = None if shape is None else _product(shape[_axis(params("inner_product_param", "axis"), len(shape)) :])
        matrix = (inputs, out) if params("inner_product_param", "transpose") else (out, inputs)
        return [matrix, *([(out,)] if params("inner_product_param", "bias_term") else [])]
    channels = shape[1] if shape is not None and len(shape) > 1 else None
    if op_type == "BatchNorm":
        return [(channels,), (channels,), (1,)]
    if op_type == "PReLU":
        return [(1,) if params("prelu_param", "channel_shared") else (channels,)]
    if op_type == "Normalize":
        return [(1,) if params("norm_param", "channel_shared") else (channels,)]
    if op_type in ("Scale", "Bias"):
        block = f"{op_type.lower()}_param"
        both = op_type == "Scale" and params(block, "bias_term")
        own: list[Shape | None] = [None] if len(bottoms) == 1 else []
        if shape is not None and own:
            first, count = _axis(params(block, "axis"), len(shape)), params(block, "num_axes")
            own = [shape[first:] if count == -1 else shape[first : first + count]]
        return [*own, *((own or [None]) if both else [])] or None
    if op_type == "Embed":
        words, out = params("embed_param", "input_dim"), params("embed_param", "num_output")
        return [(words, out), *([(out,)] if params("embed_param", "bias_term") else [])]
    if op_type in ("LSTM", "RNN", "Parameter"):
        return [None] * {"LSTM": 3, "RNN": 5, "Parameter": 1}[op_type]
    return None


def misfits(node: Node, below: Shapes, weights: Mapping[str, TensorRef]) -> list[str] | None:
    """What is wrong with the weights of a layer that reads tensors of these shapes; None for one that needs none."""
    due = weight_shapes(node.op_type, node.attrs, below)
    if due is None:
        return None
    found = [name for name in node.weights if name in weights]
    wrong = []
    if len(found) < len(due) or (len(found) > len(due) and None not in due):
        many = f"{len(found) or 'no'} weight{'s' * (len(found) != 1)}"
        wrong.append(f"{node.name!r} ({node.op_type}) has {many} where {len(due)} are due")
    return wrong + [
        f"the weight {name} is stored with shape {weights[name].shape}, the net needs {shape}"
        for name, shape in zip(found, due, strict=False) if not fits(weights[name].shape, shape)
    ]


def fits(stored: Sequence[int], wanted: Shape | None) -> bool:
    """Is a stored weight of the wanted shape, sizes of 1 apart (old files store four sizes)?"""
    if wanted is None:
        return True
    if None not in wanted:
        return [size for size in stored if size != 1] == [size for size in wanted if size != 1]
    have = list(stored)[-len(wanted) :]
    return len(have) == len(wanted) and all(b is None or a == b for a, b in zip(have, wanted, strict=True))
