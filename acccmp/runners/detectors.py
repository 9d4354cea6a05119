"""Layers of detectors that OpenCV has not, or has otherwise, in numpy: Darknet's, and those of Ascend's converter.

Reorg and Region are what the Caffe forks took over from Darknet, DetectionOutput is that of SSD. PassThrough, Upsample
with a stride, Yolo with three outputs and Yolo's detections are as the documents of Ascend's operators define them.
Sums and functions are taken in float64, as of a reference; what they make is float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acccmp.core.graph import Node
from acccmp.models.caffe_shapes import INTEGERS, Params, anchors, in_blocks, magnified, padded, reordering

Array = NDArray[Any]

MOST_OBJECTS = 1024  # that are looked at of one image, and that are found in it


def compute(node: Node, bottoms: Sequence[Array]) -> list[Array]:
    """What the layer makes of its bottoms. ValueError when its parameters and these do not fit."""
    inputs = [np.asarray(x, np.float64) for x in bottoms]
    try:
        with np.errstate(all="ignore"):
            made = LAYERS[node.op_type](Params(node.attrs), inputs, len(node.outputs))
    except (ArithmeticError, LookupError, MemoryError, TypeError) as error:  # parameters that no such layer has
        raise ValueError(str(error) or type(error).__name__) from error
    if len(made) != len(node.outputs):
        raise ValueError(f"it makes {len(made)} outputs, not {len(node.outputs)}")
    return [
        np.ascontiguousarray(array, np.int32 if (node.op_type, place) in INTEGERS else np.float32)
        for place, array in enumerate(made)
    ]


# -- other places ------------------------------------------------------------------------------------------------


def _four(x: Array) -> tuple[int, int, int, int]:
    if x.ndim != 4:
        raise ValueError(f"an input of shape {x.shape}, where N, C, H, W is due")
    n, c, h, w = x.shape
    return n, c, h, w


def _space_to_depth(x: Array, stride: int, reverse: bool) -> Array:
    """Each square of pixels behind one another in the channels: (y, x, channel); `reverse` undoes it."""
    n, c, h, w = _four(x)
    if reverse:
        squares = x.reshape(n, stride, stride, c // stride**2, h, w)
        return squares.transpose(0, 3, 4, 1, 5, 2).reshape(n, -1, h * stride, w * stride)
    squares = x.reshape(n, c, h // stride, stride, w // stride, stride)
    return squares.transpose(0, 3, 5, 1, 2, 4).reshape(n, -1, h // stride, w // stride)


def _pass_through(params: Params, bottoms: Sequence[Array], tops: int) -> list[Array]:
    return [_space_to_depth(bottoms[0], *reordering(params))]


def _reorg(params: Params, bottoms: Sequence[Array], tops: int) -> list[Array]:
    """Darknet's reorg. Forward it cuts squares out of the input as if that had stride times the height and width, and
    so fewer channels: its networks were trained with this."""
    (stride, reverse), (n, c, h, w) = reordering(params), _four(bottoms[0])
    if reverse:
        return [_space_to_depth(bottoms[0], stride, True)]
    taken = _space_to_depth(bottoms[0].reshape(n, c // stride**2, h * stride, w * stride), stride, False)
    return [taken.reshape(n, c * stride**2, h // stride, w // stride)]


def _upsample(params: Params, bottoms: Sequence[Array], tops: int) -> list[Array]:
    """The nearest pixel."""
    if len(bottoms) != 1 or params("upsample_param", "upsample_h") or params("upsample_param", "upsample_w"):
        raise ValueError("pixels go to places that another layer kept")
    times = magnified(params)
    if times is None:
        raise ValueError("it does not say how many times larger its output is")
    _four(bottoms[0])
    larger = bottoms[0].repeat(times[0], axis=2).repeat(times[1], axis=3)
    has_stride = any(params("upsample_param", name) for name in ("stride", "stride_h", "stride_w"))
    by = params("upsample_param", "scale") if has_stride else None
    return [larger if by is None else larger * by]


# -- what each cell predicts ---------------------------------------------------------------------------------------


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _softmax(x: Array, axis: int) -> Array:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(e / e.sum(axis=axis, keepdims=True))


def _predicted(op_type: str, params: Params, bottoms: Sequence[Array], tops: int) -> list[Array]:
    """Yolo and Region: with one output Darknet's, in the order of the input; with three as Ascend hands them on."""
    n, c, h, w = _four(bottoms[0])
    about = anchors(params, op_type, c)
    x = bottoms[0].reshape(n, about.boxes, 5 + about.classes, h * w)
    places, sizes, objects, classes = x[:, :, :2], x[:, :, 2:4], x[:, :, 4:5], x[:, :, 5:]
    places = _sigmoid(places)
    if about.softmax and about.background:
        both = _softmax(x[:, :, 4:], 2)
        objects, classes = both[:, :, :1], both[:, :, 1:]
    else:
        objects = objects if about.background else _sigmoid(objects)
        classes = _softmax(classes, 2) if about.softmax else _sigmoid(classes)
    if tops == 1:
        return [np.concatenate([places, sizes, objects, classes], axis=2).reshape(n, c, h, w)]
    coords = np.concatenate([places, sizes[:, :, ::-1]], axis=2)  # x, y, h, w
    return [
        _filled_up(coords.transpose(0, 2, 1, 3).reshape(n, 4 * about.boxes, h * w)),
        _filled_up(objects.reshape(n, about.boxes * h * w)),
        _filled_up(classes.transpose(0, 2, 1, 3).reshape(n, about.classes, about.boxes * h * w)),
    ]


def _filled_up(rows: Array) -> Array:
    """With zeros, to the length that Ascend's operators have."""
    count = rows.shape[-1]
    return np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, padded(count) - count)])


# -- and what is found -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Image:
    """A row of img_info: the net's height and width, and those of the picture; and how the one was put in the other."""

    net: tuple[int, int]
    picture: tuple[float, float]
    resized: bool

    @classmethod
    def of(cls, row: Array, resized: bool) -> _Image:
        if row.shape != (4,) or not (row >= 1).all() or (row[:2] % 1).any():
            raise ValueError(f"img_info is {row.tolist()}, where the height and width of the net and of the picture "
                             "are due")
        return cls((int(row[0]), int(row[1])), (float(row[2]), float(row[3])), resized)

    @property
    def filled(self) -> tuple[float, float]:
        """Which share of the net's height and width the picture takes: it is not stretched, unless it was resized."""
        if self.resized:
            return 1.0, 1.0
        by = min(net / size for net, size in zip(self.net, self.picture, strict=True))
        return self.picture[0] * by / self.net[0], self.picture[1] * by / self.net[1]

    def grid(self, coords: int, objects: int, boxes: int) -> tuple[int, int]:
        """Rows and columns of cells, from the lengths of a Yolo layer's outputs: the one grid of square cells."""
        height, width = self.net
        fitting = [
            (height // side, width // side) for side in range(1, min(self.net) + 1)
            if height % side == width % side == 0
            and padded(cells := height // side * width // side) == coords and padded(boxes * cells) == objects
        ]
        if len(fitting) != 1:
            raise ValueError(
                f"{len(fitting)} grids of a net of {height} x {width} have the {coords} and {objects} values that "
                "Yolo's outputs have"
            )
        return fitting[0]


def _detections(block: str, params: Params, bottoms: Sequence[Array], tops: int) -> list[Array]:
    """YoloV2DetectionOutput and YoloV3DetectionOutput: coordinates of each scale, objects, classes, and img_info.

    The first output has six runs (x1, y1, x2, y2, score, class), each as long as there are detections; then zeros.
    """
    scales = (len(bottoms) - 1) // 3
    if len(bottoms) != 3 * scales + 1 or not scales:
        raise ValueError(f"{len(bottoms)} inputs, where three of each scale and img_info are due")
    if not params(block, "relative"):
        raise ValueError("relative is false, which Ascend's operator does not take")
    boxes, most = params(block, "boxes"), _room(params(block, "post_nms_topn"), "post_nms_topn")
    biases = np.array(params(block, "biases") or [
        bias for name in ("low", "mid", "high") for bias in params(block, f"biases_{name}") or ()
    ], np.float64)
    if biases.size != 2 * boxes * scales:
        raise ValueError(f"{biases.size} biases, where two for each of {boxes} boxes and {scales} scales are due")
    batch = len(bottoms[0])
    found, counts = np.zeros((batch, 6 * most)), np.zeros((batch, 8))
    for image in range(batch):
        about = _Image.of(bottoms[-1].reshape(batch, -1)[image], bool(params(block, "resize_origin_img_to_net")))
        rows = [
            _corners(about, coords[image], objects[image], anchor, in_cells=block.startswith("yolov2"))
            for coords, objects, anchor in zip(
                bottoms[:scales], bottoms[scales : 2 * scales], biases.reshape(scales, boxes, 2), strict=True,
            )
        ]
        classes = [
            scores[image][:, : len(corners)]
            for scores, (corners, _) in zip(bottoms[2 * scales : -1], rows, strict=True)
        ]
        kept = _chosen(
            partial(params, block), np.concatenate([corners for corners, _ in rows]),
            np.concatenate([objects for _, objects in rows]), np.concatenate(classes, axis=1),
        )[:most]
        kept[:, :4] *= [*about.picture[::-1], *about.picture[::-1]]
        kept[:, :2] = np.maximum(kept[:, :2], 0)
        kept[:, 2:4] = np.minimum(kept[:, 2:4], [about.picture[1] - 1, about.picture[0] - 1])
        found[image, : kept.size], counts[image, 0] = kept.T.reshape(-1), len(kept)
    return [found, counts][:tops]


def _room(most: int, name: str) -> int:
    if not 0 < most <= MOST_OBJECTS:
        raise ValueError(f"{name} is {most}, where 1 to {MOST_OBJECTS} are found")
    return most


def _corners(
    image: _Image, coords: Array, objects: Array, biases: Array, in_cells: bool,
) -> tuple[Array, Array]:
    """x1, y1, x2, y2 of each box of one scale, as shares of the picture, and its object; in the order of Yolo's rows.

    `biases`: width and height of each anchor, in cells (YOLOv2) or in pixels of the net.
    """
    boxes = len(biases)
    rows, columns = image.grid(coords.shape[-1], objects.shape[-1], boxes)
    cells = rows * columns
    x, y, h, w = coords[:, :cells].reshape(4, boxes, rows, columns)
    share_h, share_w = image.filled
    whole_h, whole_w = (rows, columns) if in_cells else image.net
    x = ((x + np.arange(columns)) / columns - (1 - share_w) / 2) / share_w
    y = ((y + np.arange(rows)[:, None]) / rows - (1 - share_h) / 2) / share_h
    half_w = np.exp(w) * biases[:, 0, None, None] / whole_w / share_w / 2
    half_h = np.exp(h) * biases[:, 1, None, None] / whole_h / share_h / 2
    corners = np.stack([x - half_w, y - half_h, x + half_w, y + half_h], axis=-1)
    return corners.reshape(-1, 4), objects[: boxes * cells]


def _chosen(param: Callable[[str], Any], corners: Array, objects: Array, classes: Array) -> Array:
    """The detections, class after class, the surest first: rows of corners, score and class."""
    sure = np.flatnonzero(objects > param("obj_threshold"))[:MOST_OBJECTS]
    found = []
    for label, chances in enumerate(classes):
        scores = chances[sure] * objects[sure]
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] > param("score_threshold")][: param("pre_nms_topn")]
        best = _apart(corners[sure[order]], param("iou_threshold"))[: param("post_nms_topn")]
        found += [[*corners[sure[order[one]]], scores[order[one]], label] for one in best]
    return np.array(found, np.float64).reshape(-1, 6)[:MOST_OBJECTS]


def _apart(corners: Array, most: float, eta: float = 1.0) -> list[int]:
    """Which boxes stay, in their order, when one goes that overlaps one before it by more than `most` (IoU).

    With `eta` below 1 each one that stays makes the next ones' limit smaller, down to a half.
    """
    sizes = np.maximum(corners[:, 2:] - corners[:, :2], 0)
    areas = sizes[:, 0] * sizes[:, 1]
    kept: list[int] = []
    for place, box in enumerate(corners):
        common = np.minimum(corners[kept, 2:], box[2:]) - np.maximum(corners[kept, :2], box[:2])
        both = np.maximum(common, 0).prod(axis=1)
        if (both <= most * (areas[kept] + areas[place] - both)).all():
            kept.append(place)
            most *= eta if most > 0.5 else 1
    return kept


def _ssd(params: Params, bottoms: Sequence[Array], tops: int) -> list[Array]:
    """DetectionOutput of SSD: a row of image, class, score and corners for each detection.

    (OpenCV's orders them otherwise, and dies of a keep_top_k of -1.)
    """
    param = partial(params, "detection_output_param")
    nms = Params({"nms_param": param("nms_param") or {}})
    limit, top_k, eta = (nms("nms_param", name) for name in ("nms_threshold", "top_k", "eta"))
    rows = [row for found in _ssd_rows(param, limit, top_k, eta, bottoms) for row in found]
    if not rows:  # Caffe's sign for "nothing": a row of -1 for each image
        rows = [[image, *[-1.0] * 6] for image in range(len(bottoms[0]))]
    return [np.array(rows, np.float64).reshape(1, 1, -1, 7)]


def _ssd_of_ascend(params: Params, bottoms: Sequence[Array], tops: int) -> list[Array]:
    """SSDDetectionOutput: how many detections each image has, and the same rows, each with a zero behind it; then
    zeros."""
    param = partial(params, "ssddetectionoutput_param")
    room = _room(param("keep_top_k"), "keep_top_k")
    found = _ssd_rows(param, param("iou_threshold"), param("top_k"), param("eta"), bottoms)
    counts = np.zeros((len(found), 8))
    made = np.zeros((len(found), in_blocks(room, 128), 8))
    for image, rows in enumerate(found):
        counts[image, 0] = len(rows)
        made[image, : len(rows), :7] = np.array(rows).reshape(-1, 7)
    return [counts, made]


def _ssd_rows(
    param: Callable[[str], Any], limit: float, top_k: int, eta: float, bottoms: Sequence[Array],
) -> list[list[list[float]]]:
    """What is found in each image: rows of image, class, score and corners, class after class, the surest first."""
    if len(bottoms) != 3:
        raise ValueError(f"{len(bottoms)} inputs, where places, scores and prior boxes are due")
    lowest = -np.inf if param("confidence_threshold") is None else param("confidence_threshold")
    priors, variances = bottoms[2].reshape(2, -1, 4)
    batch, kinds = len(bottoms[0]), param("num_classes")
    places = bottoms[0].reshape(batch, len(priors), 1 if param("share_location") else kinds, 4)
    scores = bottoms[1].reshape(batch, len(priors), kinds)
    rows = []
    for image in range(batch):
        found = []
        for label in range(kinds):
            if label == param("background_label_id"):
                continue
            chances = scores[image, :, label]
            order = np.argsort(-chances, kind="stable")
            order = order[chances[order] > lowest][: None if top_k < 0 else top_k]
            boxes = _decoded(param, places[image, order, min(label, places.shape[2] - 1)], priors[order],
                             variances[order])
            found += [[image, label, chances[order[one]], *boxes[one]] for one in _apart(boxes, limit, eta)]
        if -1 < param("keep_top_k") < len(found):
            surest = sorted(range(len(found)), key=lambda place: -found[place][2])[: param("keep_top_k")]
            found = [found[place] for place in sorted(surest)]
        rows.append(found)
    return rows


def _decoded(param: Callable[[str], Any], places: Array, priors: Array, variances: Array) -> Array:
    """Corners from what the net says of each prior box."""
    if not param("variance_encoded_in_target"):
        places = places * variances
    sizes = priors[:, 2:] - priors[:, :2]
    code = {1: "CORNER", 2: "CENTER_SIZE", 3: "CORNER_SIZE"}.get(param("code_type"), param("code_type"))
    if code == "CORNER":
        return np.asarray(priors + places)
    if code == "CORNER_SIZE":
        return np.asarray(priors + places * np.tile(sizes, 2))
    if code != "CENTER_SIZE":
        raise ValueError(f"no code_type {code}")
    centres = priors[:, :2] + sizes / 2 + places[:, :2] * sizes
    halves = np.exp(places[:, 2:]) * sizes / 2
    return np.concatenate([centres - halves, centres + halves], axis=1)


LAYERS: Mapping[str, Callable[[Params, Sequence[Array], int], list[Array]]] = {
    "PassThrough": _pass_through,
    "Reorg": _reorg,
    "Upsample": _upsample,
    "Yolo": partial(_predicted, "Yolo"),
    "Region": partial(_predicted, "Region"),
    "DetectionOutput": _ssd,
    "SSDDetectionOutput": _ssd_of_ascend,
    "YoloV2DetectionOutput": partial(_detections, "yolov2_detection_output_param"),
    "YoloV3DetectionOutput": partial(_detections, "yolov3_detection_output_param"),
}


def notes(nodes: Sequence[Node]) -> tuple[str, ...]:
    """What is to be known of goldens that these layers made."""
    forward = [
        node.name for node in nodes if node.op_type == "Reorg" and not Params(node.attrs)("reorg_param", "reverse")
    ]
    if not forward:
        return ()
    return (
        f"{', '.join(forward[:4])} (Reorg): in Darknet's order, with which such networks were trained; a device that "
        "runs it as PassThrough (space to depth) orders the same values otherwise",
    )
