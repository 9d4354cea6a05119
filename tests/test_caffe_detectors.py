"""Detectors: the layers that Ascend's converter knows and Caffe does not. Their goldens, and slices through them.

The answers here are plain loops, written from Darknet's, SSD's and Ascend's definitions; nothing is shared with the
package but the files.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caffe_nets import write_net
from yolo_nets import REGION, SSD_ASCEND, SSD_CAFFE, V2, V3, yolo_inputs, yolo_net

import acccmp
from acccmp import Dump, Graph, Port

pytest.importorskip("cv2")

BIASES = {"V2": [0.6, 0.7, 1.9, 2.1, 3.3, 1.5, 1.1, 3.5],
          "V3": [40, 90, 56, 18, 73, 26, 30, 61, 62, 45, 59, 20, 10, 13, 16, 30, 33, 23]}


# -- plain answers -----------------------------------------------------------------------------------------------


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def darknet_reorg(x: np.ndarray, stride: int, reverse: bool) -> np.ndarray:
    n, c, h, w = x.shape
    out_c = c // stride**2
    out = np.zeros((n, c * h * w))
    for b in range(n):
        flat = x[b].reshape(-1)
        for k, j, i in np.ndindex(c, h, w):
            inside = i + w * (j + h * k)
            c2, offset = k % out_c, k // out_c
            outside = i * stride + offset % stride + w * stride * (j * stride + offset // stride + h * stride * c2)
            if reverse:
                out[b, outside] = flat[inside]
            else:
                out[b, inside] = flat[outside]
    shape = (n, out_c, h * stride, w * stride) if reverse else (n, c * stride**2, h // stride, w // stride)
    return out.reshape(shape)


def pass_through(x: np.ndarray, stride: int, reverse: bool) -> np.ndarray:
    """Space to depth as Ascend's operator has it, for which channels come last."""
    n, c, h, w = x.shape
    if reverse:
        out = np.zeros((n, c // stride**2, h * stride, w * stride))
        for b, k, y, z in np.ndindex(*out.shape):
            out[b, k, y, z] = x[b, (y % stride * stride + z % stride) * out.shape[1] + k, y // stride, z // stride]
        return out
    out = np.zeros((n, c * stride**2, h // stride, w // stride))
    for b, k, y, z in np.ndindex(*x.shape):
        out[b, (y % stride * stride + z % stride) * c + k, y // stride, z // stride] = x[b, k, y, z]
    return out


def up(count: int) -> int:
    """Ascend's length of a row of `count` values: CeilX(2 * count + 32, 32) / 2."""
    return math.ceil((2 * count + 32) / 32) * 32 // 2


def yolo(x: np.ndarray, boxes: int, classes: int, softmax: bool = False, background: bool = False) -> list[np.ndarray]:
    n, _, h, w = x.shape
    coords = np.zeros((n, 4 * boxes, up(h * w)))
    objects, chances = np.zeros((n, up(boxes * h * w))), np.zeros((n, classes, up(boxes * h * w)))
    for b, box, row, column in np.ndindex(n, boxes, h, w):
        at, place = row * w + column, (box * h + row) * w + column
        cell = x[b, box * (5 + classes) : (box + 1) * (5 + classes), row, column]
        for number, value in enumerate((sigmoid(cell[0]), sigmoid(cell[1]), cell[3], cell[2])):
            coords[b, number * boxes + box, at] = value
        if softmax and background:
            e = np.exp(cell[4:])
            objects[b, place], chances[b, :, place] = e[0] / e.sum(), e[1:] / e.sum()
            continue
        objects[b, place] = cell[4] if background else sigmoid(cell[4])
        e = np.exp(cell[5:])
        chances[b, :, place] = e / e.sum() if softmax else [sigmoid(one) for one in cell[5:]]
    return [coords, objects, chances]


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    both = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def yolo_detections(
    scales: list[tuple[np.ndarray, np.ndarray, np.ndarray]], grids: list[tuple[int, int]], biases: list[float],
    boxes: int, info: np.ndarray, objects_above: float, scores_above: float, most: int, v2: bool,
    resized: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    batch = len(info)
    out, counts = np.zeros((batch, 6 * most)), np.zeros((batch, 8))
    for b in range(batch):
        net_h, net_w, high, wide = info[b]
        if net_w / wide < net_h / high:
            new_w, new_h = net_w, high * net_w / wide
        else:
            new_w, new_h = wide * net_h / high, net_h
        if resized:
            new_w, new_h = net_w, net_h
        found: list[tuple[list[float], float, np.ndarray]] = []
        for scale, ((coords, objects, chances), (rows, columns)) in enumerate(zip(scales, grids, strict=True)):
            for box, row, column in np.ndindex(boxes, rows, columns):
                at, place = row * columns + column, (box * rows + row) * columns + column
                if not objects[b, place] > objects_above:
                    continue
                x, y, h, w = (coords[b, number * boxes + box, at] for number in range(4))
                bias_w, bias_h = biases[2 * (scale * boxes + box) : 2 * (scale * boxes + box) + 2]
                x = ((x + column) / columns - (net_w - new_w) / 2 / net_w) / (new_w / net_w)
                y = ((y + row) / rows - (net_h - new_h) / 2 / net_h) / (new_h / net_h)
                h = math.exp(h) * bias_h / (rows if v2 else net_h) * (net_h / new_h)
                w = math.exp(w) * bias_w / (columns if v2 else net_w) * (net_w / new_w)
                found.append(([x - w / 2, y - h / 2, x + w / 2, y + h / 2], objects[b, place], chances[b, :, place]))
        rows_out: list[list[float]] = []
        for label in range(scales[0][2].shape[1]):
            mine = [(corners, sure * each[label]) for corners, sure, each in found if sure * each[label] > scores_above]
            mine.sort(key=lambda one: -one[1])
            kept: list[tuple[list[float], float]] = []
            for corners, score in mine:
                if all(overlap(corners, other) <= 0.45 for other, _ in kept):
                    kept.append((corners, score))
            for (x1, y1, x2, y2), score in kept:
                rows_out.append([
                    max(x1 * wide, 0), max(y1 * high, 0), min(x2 * wide, wide - 1), min(y2 * high, high - 1), score,
                    label,
                ])
        rows_out = rows_out[:most]
        counts[b, 0] = len(rows_out)
        for number in range(6):
            for place, values in enumerate(rows_out):
                out[b, number * len(rows_out) + place] = values[number]
    return out, counts


# -- through the command -----------------------------------------------------------------------------------------


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "acccmp", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def fed(folder: Path, inputs: dict[str, np.ndarray]) -> list[str]:
    words = []
    for name, array in inputs.items():
        np.save(folder / f"{name}.npy", array)
        words += ["--input", f"{name}={folder / name}.npy"]
    return words


def golden(folder: Path, text: str) -> tuple[Graph, dict[str, np.ndarray]]:
    """The graph, and every tensor that `acccmp run` writes for it."""
    model, weights = yolo_net(folder, text)
    ran = command("run", model, "--weights", weights, *fed(folder, yolo_inputs()), "-o", folder / "golden")
    assert (ran.returncode, ran.stderr) == (0, "")
    graph, dump = acccmp.load(model, weights), acccmp.read_dump(folder / "golden")
    assert not dump.run.skipped
    assert not [note for note in graph.notes if "unknown" in note]
    return graph, {graph.tensor(port): ref.numpy() for port, ref in dump.items()}


def assert_close(found: np.ndarray, expected: np.ndarray, limit: float = 1e-5) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= limit * max(1, np.abs(expected).max())


def test_each_detector_layer_of_a_yolov2_net_is_what_its_definition_says(tmp_path: Path) -> None:
    graph, found = golden(tmp_path, V2)
    np.testing.assert_array_equal(found["reorg"], darknet_reorg(found["c3@c3_act"], 2, False))
    coords, objects, chances = yolo(found["last"].astype("f8"), 4, 3, softmax=True)
    assert_close(found["coords"], coords)
    assert_close(found["obj"], objects)
    assert_close(found["classes"], chances)
    out, counts = yolo_detections(
        [(coords, objects, chances)], [(4, 6)], BIASES["V2"], 4, yolo_inputs()["img_info"], 0.5, 0.25, 64, v2=True,
    )
    assert counts[:, 0].min() > 3
    assert counts[:, 0].max() < 64, "some detections, and not only what there is room for"
    np.testing.assert_array_equal(found["box_out_num"], counts)
    assert found["box_out_num"].dtype == np.int32
    assert_close(found["box_out"], out)
    assert {tensor: graph.spec(tensor).shape for tensor in ("coords", "obj", "classes", "box_out", "box_out_num")} == {
        "coords": (2, 16, 48), "obj": (2, 112), "classes": (2, 3, 112), "box_out": (2, 384), "box_out_num": (2, 8),
    }


def test_each_detector_layer_of_a_yolov3_net_is_what_its_definition_says(tmp_path: Path) -> None:
    graph, found = golden(tmp_path, V3)
    for source, tensor in (("n1@n1_act", "up1"), ("route1", "up2")):
        n, c, h, w = found[source].shape
        larger = np.array([[[[found[source][b, k, y // 2, x // 2] for x in range(2 * w)] for y in range(2 * h)]
                            for k in range(c)] for b in range(n)])
        np.testing.assert_array_equal(found[tensor], larger)
    grids, scales = [(2, 3), (4, 6), (8, 12)], []
    for number, grid in enumerate(grids, 1):
        x = found[f"last{number}"].astype("f8")
        assert x.shape[2:] == grid
        scales.append(yolo(x, 3, 2))
        for tensor, expected in zip(("coords", "obj", "classes"), scales[-1], strict=True):
            assert_close(found[f"{tensor}{number}"], expected)
    info = yolo_inputs()["img_info"]
    out, counts = yolo_detections(scales, grids, BIASES["V3"], 3, info, 0.6, 0.38, 128, v2=False)
    assert counts[:, 0].min() > 3
    assert counts[:, 0].max() < 128
    np.testing.assert_array_equal(found["box_out_num"], counts)
    assert_close(found["box_out"], out)
    assert all(graph.spec(tensor).is_static for node in graph.nodes for tensor in node.outputs)


def test_detections_beyond_the_room_for_them_and_of_a_resized_picture(tmp_path: Path) -> None:
    text = V3.replace("post_nms_topn: 128", "post_nms_topn: 7 resize_origin_img_to_net: true")
    _, found = golden(tmp_path, text)
    scales = [tuple(found[f"{tensor}{n}"].astype("f8") for tensor in ("coords", "obj", "classes")) for n in (1, 2, 3)]
    info = yolo_inputs()["img_info"]
    out, counts = yolo_detections(
        scales, [(2, 3), (4, 6), (8, 12)], BIASES["V3"], 3, info, 0.6, 0.38, 7, v2=False, resized=True,
    )
    assert counts[:, 0].tolist() == [7, 7]
    np.testing.assert_array_equal(found["box_out_num"], counts)
    assert_close(found["box_out"], out)


def test_a_region_layer_is_darknets_in_the_place_of_its_input(tmp_path: Path) -> None:
    graph, found = golden(tmp_path, REGION)
    x = found["last"].astype("f8")
    cells = x.reshape(2, 4, 8, 4, 6).copy()
    cells[:, :, [0, 1, 4]] = 1 / (1 + np.exp(-cells[:, :, [0, 1, 4]]))
    cells[:, :, 5:] = np.exp(cells[:, :, 5:]) / np.exp(cells[:, :, 5:]).sum(axis=2, keepdims=True)
    assert_close(found["region"], cells.reshape(x.shape))
    assert graph.spec("region").shape == (2, 32, 4, 6)


def prior_boxes(shape: tuple[int, ...], least: float, most: float | None, ratios: list[float], clip: bool) -> Any:
    """Boxes around the centre of each cell of a feature map, as shares of a picture of 64 x 96; and the variances."""
    rows: list[float] = []
    for row, column in np.ndindex(*shape[2:]):
        x, y = (column + 0.5) / shape[3], (row + 0.5) / shape[2]
        sizes = [(least, least), *([] if most is None else [(math.sqrt(least * most),) * 2])]
        sizes += [(least * math.sqrt(ratio), least / math.sqrt(ratio)) for ratio in ratios]
        for w, h in sizes:
            rows += [x - w / 96 / 2, y - h / 64 / 2, x + w / 96 / 2, y + h / 64 / 2]
    boxes = np.clip(rows, 0, 1) if clip else np.array(rows)
    return np.stack([boxes, np.tile([0.1, 0.1, 0.2, 0.2], len(rows) // 4)])[None]


def test_each_detector_layer_of_an_ssd_net_is_what_its_definition_says(tmp_path: Path) -> None:
    data = {"data": yolo_inputs()["data"]}
    graphs = [acccmp.load(*yolo_net(tmp_path, text)) for text in (SSD_CAFFE, SSD_ASCEND)]
    dumps = [acccmp.run(graph, data) for graph in graphs]
    assert [dump.run.skipped for dump in dumps] == [{}, {}]
    found = {graphs[0].tensor(port): ref.numpy() for port, ref in dumps[0].items()}
    assert_close(found["prior1"], prior_boxes(found["c3"].shape, 20, 35, [2, 1 / 2], True))
    assert_close(found["prior2"], prior_boxes(found["c4"].shape, 45, None, [2], False))
    assert graphs[0].spec("prior").shape == found["prior"].shape
    of = {"num_classes": 4, "code_type": "CENTER_SIZE", "confidence_threshold": 0.3, "top_k": 100, "keep_top_k": 40,
          "nms_threshold": 0.45}
    rows = ssd(*(found[name].astype("f8") for name in ("loc", "flat", "prior")), of)
    assert_close(found["found"], rows)
    numbers = [int((rows[0, 0, :, 0] == image).sum()) for image in (0, 1)]
    assert min(numbers) > 5
    counts, y = (dumps[1][Port("detection_out", "output", place)].numpy() for place in (0, 1))
    assert counts.dtype == np.int32
    assert counts.tolist() == [[number, *[0] * 7] for number in numbers]
    expected = np.zeros((2, 128, 8))
    for image, number in enumerate(numbers):
        expected[image, :number, :7] = rows[0, 0, rows[0, 0, :, 0] == image]
    assert_close(y, expected)
    assert (graphs[1].spec("out_boxnum").shape, graphs[1].spec("y").shape) == ((2, 8), (2, 128, 8))


SLICES = [
    ("V2", "c4", "yolo"), ("V2", "reorg", "last"), ("V2", "reorg", "reorg"), ("V2", "last", "detection_out"),
    ("V2", "yolo", "yolo"), ("V2", "detection_out", "detection_out"), ("V3", "c4", "yolo1"), ("V3", "up1", "route1"),
    ("V3", "up2", "yolo3"), ("V3", "yolo1", "detection_out"), ("V3", "last2", "detection_out"),
    ("V3", "detection_out", "detection_out"), ("V3", "c1", "detection_out"), ("REGION", "reorg", "region"),
    ("SSD", "detection_out", "detection_out"), ("SSD", "c4", "detection_out"), ("SSD", "prior1", "detection_out"),
    ("SSD", "c1", "detection_out"), ("ASCEND", "detection_out", "detection_out"), ("ASCEND", "c4", "detection_out"),
]


@pytest.mark.parametrize("row", SLICES, ids=lambda row: "-".join(row))
def test_a_slice_through_detector_layers_is_proven(tmp_path: Path, row: tuple[str, str, str]) -> None:
    text = {"V2": V2, "V3": V3, "REGION": REGION, "SSD": SSD_CAFFE, "ASCEND": SSD_ASCEND}[row[0]]
    model, weights = yolo_net(tmp_path, text)
    inputs = {name: array for name, array in yolo_inputs().items() if f'"{name}"' in text}
    ran = command("slice", model, "--weights", weights, "--start", row[1], "--end", row[2],
                  *fed(tmp_path, inputs), "-o", tmp_path / "out", "--json")
    assert (ran.returncode, ran.stderr) == (0, "")
    folder = Path(json.loads(ran.stdout)["folder"])
    checked = json.loads((folder / "manifest.json").read_text())["self_test"]
    assert checked["status"] == "passed"
    part = acccmp.load(folder / "dump.prototxt", *folder.glob("dump.caffemodel"))
    of_the_end = {str(Port(row[2], "output", place)) for place in range(len(part.node(row[2]).outputs))}
    assert {judged["port"] for judged in checked["outputs"] if judged["error"] == 0.0} >= of_the_end
    assert all(part.spec(tensor).is_static for node in part.nodes for tensor in node.outputs if tensor != "found")


# -- each layer by itself ----------------------------------------------------------------------------------------


def one_layer(folder: Path, text: str, inputs: dict[str, np.ndarray]) -> tuple[Graph, Dump]:
    declared = "".join(
        f"input: '{name}' input_shape {{ {' '.join(f'dim: {size}' for size in array.shape)} }}\n"
        for name, array in inputs.items()
    )
    graph = acccmp.load(write_net(folder, declared + f'layer {{ name: "it" {text} }}', {"none": []})[0])
    return graph, acccmp.run(graph, inputs)


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("kind", "block"), [
    ("Reorg", "reorg_param"), ("PassThrough", "reorg_param"), ("PassThrough", "pass_through_param"),
])
def test_reorg_and_pass_through_in_both_directions(
    tmp_path: Path, kind: str, block: str, stride: int, reverse: bool,
) -> None:
    x = np.random.default_rng(stride).standard_normal((2, 2 * stride**2, 2 * stride, 3 * stride)).astype("f4")
    text = f'type: "{kind}" bottom: "x" top: "y" {block} {{ stride: {stride} reverse: {str(reverse).lower()} }}'
    graph, dump = one_layer(tmp_path, text, {"x": x})
    expected = (darknet_reorg if kind == "Reorg" else pass_through)(x, stride, reverse)
    np.testing.assert_array_equal(dump[Port("it", "output", 0)].numpy(), expected)
    assert graph.spec("y").shape == expected.shape
    assert [note for note in dump.notes if "Darknet's order" in note] == list(dump.notes)
    assert bool(dump.notes) is (kind == "Reorg" and not reverse)


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("version", ["V2", "V3"])
def test_each_way_of_a_yolo_layer(tmp_path: Path, version: str, softmax: bool, background: bool) -> None:
    x = np.random.default_rng(1).standard_normal((2, 2 * 9, 3, 5)).astype("f4")
    text = f"""type: "Yolo" bottom: "x" top: "a" top: "b" top: "c" yolo_param {{ boxes: 2 coords: 4 classes: 4
      yolo_version: "{version}" softmax: {str(softmax).lower()} background: {str(background).lower()} }}"""
    _, dump = one_layer(tmp_path, text, {"x": x})
    v2 = version == "V2"
    expected = yolo(x.astype("f8"), 2, 4, softmax and v2, background and v2)
    for place, values in enumerate(expected):
        assert_close(dump[Port("it", "output", place)].numpy(), values)


@pytest.mark.parametrize(
    ("param", "times", "by"),
    [
        ("scale: 1 stride: 2", (2, 2), 1), ("scale: 3", (3, 3), 1), ("scale: 0.5 stride: 2", (2, 2), 0.5),
        ("stride_h: 2 stride_w: 3", (2, 3), 1), ("stride: 3", (3, 3), 1), ("upsample_h: 8 upsample_w: 8", None, 1),
        ("", None, 1),
    ],
)
def test_each_way_of_an_upsample_layer(tmp_path: Path, param: str, times: tuple[int, int] | None, by: float) -> None:
    x = np.random.default_rng(1).standard_normal((2, 3, 4, 5)).astype("f4")
    text = f'type: "Upsample" bottom: "x" top: "y" upsample_param {{ {param} }}'
    graph, dump = one_layer(tmp_path, text, {"x": x})
    if times is None:
        assert dump.run.skipped["y"].startswith("cannot run it (Upsample): ")
        return
    n, c, h, w = x.shape
    expected = np.zeros((n, c, h * times[0], w * times[1]))
    for place in np.ndindex(*expected.shape):
        expected[place] = by * x[place[0], place[1], place[2] // times[0], place[3] // times[1]]
    assert_close(dump[Port("it", "output", 0)].numpy(), expected)
    assert graph.spec("y").shape == expected.shape


def ssd(loc: np.ndarray, conf: np.ndarray, prior: np.ndarray, of: dict[str, Any]) -> np.ndarray:
    """SSD's DetectionOutput: decode, suppress class by class, keep the surest, in the order of the classes."""
    kinds, priors, variances = of["num_classes"], prior[0, 0].reshape(-1, 4), prior[0, 1].reshape(-1, 4)
    rows = []
    for image in range(len(loc)):
        scores, found = conf[image].reshape(-1, kinds), []
        for label in range(kinds):
            if label == of.get("background_label_id", 0):
                continue
            shared = of.get("share_location", True)
            places = loc[image].reshape(len(priors), 1 if shared else kinds, 4)[:, 0 if shared else label]
            order = [p for p in np.argsort(-scores[:, label]) if scores[p, label] > of["confidence_threshold"]]
            kept: list[tuple[float, int, list[float]]] = []
            limit = of.get("nms_threshold", 0.3)
            for p in order[: of["top_k"] if of["top_k"] > -1 else None]:
                x1, y1, x2, y2 = priors[p]
                a, b, c, d = places[p] * (1 if of.get("variance_encoded_in_target") else variances[p])
                if of["code_type"] == "CENTER_SIZE":
                    x, y = (x1 + x2) / 2 + a * (x2 - x1), (y1 + y2) / 2 + b * (y2 - y1)
                    w, h = math.exp(c) * (x2 - x1), math.exp(d) * (y2 - y1)
                    corners = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
                elif of["code_type"] == "CORNER_SIZE":
                    corners = [x1 + a * (x2 - x1), y1 + b * (y2 - y1), x2 + c * (x2 - x1), y2 + d * (y2 - y1)]
                else:
                    corners = [x1 + a, y1 + b, x2 + c, y2 + d]
                if all(overlap(corners, other) <= limit for _, _, other in kept):
                    kept.append((scores[p, label], label, corners))
                    limit *= of.get("eta", 1) if limit > 0.5 else 1
            found += kept
        if -1 < of["keep_top_k"] < len(found):
            least = sorted((score for score, _, _ in found), reverse=True)[of["keep_top_k"] - 1]
            found = [one for one in found if one[0] >= least]
        rows += [[image, label, score, *corners] for score, label, corners in found]
    return np.array(rows or [[image, *[-1] * 6] for image in range(len(loc))]).reshape(1, 1, -1, 7)


SSD = {"num_classes": 4, "code_type": "CENTER_SIZE", "confidence_threshold": 0.2, "top_k": 25, "keep_top_k": 15}


@pytest.mark.parametrize(
    "change",
    [
        {}, {"keep_top_k": -1}, {"keep_top_k": 500}, {"code_type": "CORNER"}, {"code_type": "CORNER_SIZE"},
        {"top_k": -1}, {"background_label_id": 2}, {"variance_encoded_in_target": True}, {"nms_threshold": 0.7},
        {"nms_threshold": 0.8, "eta": 0.8}, {"share_location": False}, {"confidence_threshold": 2},
    ],
    ids=lambda change: "-".join(map(str, change.items())) or "usual",
)
def test_each_way_of_an_ssd_detection_output(tmp_path: Path, change: dict[str, Any]) -> None:
    of = {**SSD, **change}
    rng, count = np.random.default_rng(4), 60
    centre, half = rng.uniform(0.1, 0.9, (count, 2)), rng.uniform(0.05, 0.3, (count, 2))
    corners = np.concatenate([centre - half, centre + half], axis=1).reshape(-1)
    conf = rng.uniform(0, 1, (2, count, 4))
    inputs = {
        "loc": rng.standard_normal((2, count * 4 * (1 if of.get("share_location", True) else 4))),
        "conf": (conf / conf.sum(axis=2, keepdims=True)).reshape(2, -1),
        "prior": np.stack([corners, np.tile([0.1, 0.1, 0.2, 0.2], count)])[None],
    }
    nms = " ".join(f"{key}: {of[key]}" for key in ("nms_threshold", "top_k", "eta") if key in of)
    others = {key: value for key, value in of.items() if key not in ("nms_threshold", "top_k", "eta")}
    words = " ".join(f"{key}: {str(value).lower() if value is True or value is False else value}"
                     for key, value in others.items())
    text = f"""type: "DetectionOutput" bottom: "loc" bottom: "conf" bottom: "prior" top: "found"
      detection_output_param {{ {words} nms_param {{ {nms} }} }}"""
    arrays = {name: array.astype("f4") for name, array in inputs.items()}
    graph, dump = one_layer(tmp_path, text, arrays)
    expected = ssd(*(array.astype("f8") for array in arrays.values()), of)
    assert_close(dump[Port("it", "output", 0)].numpy(), expected)
    assert graph.spec("found").shape == (1, 1, None, 7)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('type: "Yolo" bottom: "x" top: "a" top: "b" top: "c" yolo_param { boxes: 3 classes: 80 }',
         "cannot run it (Yolo): 3 boxes of 4 coordinates, an object and 80 classes are not 16 channels"),
        ('type: "Yolo" bottom: "x" top: "a" top: "b" yolo_param { boxes: 2 classes: 3 }', "makes 3 outputs, not 2"),
        ('type: "Region" bottom: "x" top: "a" region_param { num: 2 classes: 3 }', "does not say whether"),
        ('type: "Region" bottom: "x" top: "a" region_param { classes: 3 boxes_of_each_grid: 2 softmax: true }',
         "boxes_of_each_grid is of a fork"),
        ('type: "Reorg" bottom: "x" top: "a" reorg_param { stride: 0 }', "cannot run it (Reorg): "),
        ('type: "Reorg" bottom: "x" top: "a" reorg_param { stride: "two" }', "cannot run it (Reorg): "),
        ('type: "Reorg" bottom: "x" top: "a" reorg_param { stride: 3 }', "cannot run it (Reorg): "),
        ('type: "Upsample" bottom: "x" top: "a" upsample_param { scale: -1 }', "cannot run it (Upsample): "),
        ('type: "Upsample" bottom: "x" bottom: "i" top: "a" upsample_param { scale: 2 }', "another layer kept"),
        ('type: "YoloV2DetectionOutput" bottom: "x" bottom: "x" bottom: "x" bottom: "i" top: "a" '
         "yolov2_detection_output_param { boxes: 1 biases: 1 biases: 2 }", "img_info is [3.5, 2.0, 1.0, 1.0], where"),
        ('type: "YoloV2DetectionOutput" bottom: "x" bottom: "i" top: "a"', "2 inputs, where three of each scale"),
        ('type: "YoloV2DetectionOutput" bottom: "x" bottom: "x" bottom: "x" bottom: "i" top: "a" '
         "yolov2_detection_output_param { boxes: 1 biases: 1 biases: 2 post_nms_topn: 9999999999 }", "post_nms_topn"),
        ('type: "SSDDetectionOutput" bottom: "x" bottom: "i" bottom: "x" top: "a" top: "b" '
         "ssddetectionoutput_param { keep_top_k: 9999999999 }", "keep_top_k is 9999999999, where 1 to 1024"),
        ('type: "DetectionOutput" bottom: "x" bottom: "i" top: "a"', "2 inputs, where places, scores and prior boxes"),
        ('type: "DetectionOutput" bottom: "x" bottom: "x" bottom: "x" top: "a"', "cannot run it (DetectionOutput): "),
    ],
)
def test_a_detector_layer_whose_parameters_do_not_fit_is_left_out_with_the_reason(
    tmp_path: Path, text: str, says: str,
) -> None:
    x = np.random.default_rng(0).standard_normal((1, 16, 4, 4)).astype("f4")
    graph, dump = one_layer(tmp_path, text, {"x": x, "i": np.array([[3.5, 2, 1, 1]], "f4")})
    tops = re.findall(r'top: "(\w)"', text)
    assert set(dump.run.skipped) == set(tops)
    assert says in dump.run.skipped[tops[0]]
    assert not [tensor for tensor in tops if Port("it", "output", tops.index(tensor)) in dump], graph.name
