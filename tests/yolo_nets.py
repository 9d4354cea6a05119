"""Small networks built as YOLOv2, YOLOv3 and SSD are for Ascend's converter, with random weights."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from caffe_nets import write_net

# An image of 64 x 96, and what the detector is told of it: the net's height and width, then the picture's.
INPUTS = """
input: "data" input_shape { dim: 2 dim: 3 dim: 64 dim: 96 }
input: "img_info" input_shape { dim: 2 dim: 4 }
"""
IMAGES = np.array([[64, 96, 120, 200], [64, 96, 150, 110]], np.float32)


def conv(name: str, bottom: str, channels: int, stride: int = 1, kernel: int = 3) -> str:
    return f"""layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}"
      convolution_param {{ num_output: {channels} kernel_size: {kernel} pad: {kernel // 2} stride: {stride} }} }}
layer {{ name: "{name}_act" type: "ReLU" bottom: "{name}" top: "{name}" relu_param {{ negative_slope: 0.1 }} }}
"""


def head(name: str, bottom: str, channels: int) -> str:
    return f"""layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}"
      convolution_param {{ num_output: {channels} kernel_size: 1 }} }}
"""


BACKBONE = conv("c1", "data", 4, 2) + conv("c2", "c1", 6, 2) + conv("c3", "c2", 8, 2)  # 32x48, 16x24, 8x12

V2 = INPUTS + BACKBONE + conv("c4", "c3", 8, 2) + """
layer { name: "reorg" type: "Reorg" bottom: "c3" top: "reorg" reorg_param { stride: 2 } }
layer { name: "route" type: "Concat" bottom: "reorg" bottom: "c4" top: "route" }
""" + head("last", "route", 4 * (5 + 3)) + """
layer { name: "yolo" type: "Yolo" bottom: "last" top: "coords" top: "obj" top: "classes"
  yolo_param { boxes: 4 coords: 4 classes: 3 yolo_version: "V2" softmax: true background: false } }
layer { name: "detection_out" type: "YoloV2DetectionOutput" bottom: "coords" bottom: "obj" bottom: "classes"
  bottom: "img_info" top: "box_out" top: "box_out_num"
  yolov2_detection_output_param { boxes: 4 classes: 3 relative: true obj_threshold: 0.5 score_threshold: 0.25
    iou_threshold: 0.45 pre_nms_topn: 512 post_nms_topn: 64
    biases: 0.6 biases: 0.7 biases: 1.9 biases: 2.1 biases: 3.3 biases: 1.5 biases: 1.1 biases: 3.5 } }
"""

V3 = INPUTS + BACKBONE + conv("c4", "c3", 8, 2) + conv("c5", "c4", 10, 2) + head("last1", "c5", 3 * 7) + conv(
    "n1", "c5", 4, kernel=1,
) + """
layer { name: "up1" type: "Upsample" bottom: "n1" top: "up1" upsample_param { scale: 1 stride: 2 } }
layer { name: "route1" type: "Concat" bottom: "up1" bottom: "c4" top: "route1" }
""" + head("last2", "route1", 3 * 7) + """
layer { name: "up2" type: "Upsample" bottom: "route1" top: "up2" upsample_param { scale: 2 } }
layer { name: "route2" type: "Concat" bottom: "up2" bottom: "c3" top: "route2" }
""" + head("last3", "route2", 3 * 7) + "".join(f"""
layer {{ name: "yolo{i}" type: "Yolo" bottom: "last{i}" top: "coords{i}" top: "obj{i}" top: "classes{i}"
  yolo_param {{ boxes: 3 coords: 4 classes: 2 yolo_version: "V3" softmax: true background: false }} }}"""
    for i in (1, 2, 3)) + """
layer { name: "detection_out" type: "YoloV3DetectionOutput"
  bottom: "coords1" bottom: "coords2" bottom: "coords3" bottom: "obj1" bottom: "obj2" bottom: "obj3"
  bottom: "classes1" bottom: "classes2" bottom: "classes3" bottom: "img_info" top: "box_out" top: "box_out_num"
  yolov3_detection_output_param { boxes: 3 classes: 2 relative: true obj_threshold: 0.6 score_threshold: 0.38
    iou_threshold: 0.45 pre_nms_topn: 512 post_nms_topn: 128
    biases_high: 10 biases_high: 13 biases_high: 16 biases_high: 30 biases_high: 33 biases_high: 23
    biases_mid: 30 biases_mid: 61 biases_mid: 62 biases_mid: 45 biases_mid: 59 biases_mid: 20
    biases_low: 40 biases_low: 90 biases_low: 56 biases_low: 18 biases_low: 73 biases_low: 26 } }
"""

# The same net before it was made ready for Ascend: Darknet's last layer, one tensor in and out.
REGION = V2[: V2.index('layer { name: "yolo"')] + """
layer { name: "region" type: "Region" bottom: "last" top: "region"
  region_param { classes: 3 coords: 4 num: 4 softmax: true anchors: "0.6,0.7, 1.9,2.1, 3.3,1.5, 1.1,3.5" } }
"""

# A net as SSD's: two scales, four and two prior boxes to a cell, three classes and the background.
SSD = INPUTS.splitlines()[1] + "\n" + BACKBONE + conv("c4", "c3", 8, 2) + "".join(
    head(f"loc{scale}", bottom, 4 * boxes) + head(f"conf{scale}", bottom, 4 * boxes) + "".join(f"""
layer {{ name: "{kind}{scale}_p" type: "Permute" bottom: "{kind}{scale}" top: "{kind}{scale}_p"
  permute_param {{ order: 0 order: 2 order: 3 order: 1 }} }}
layer {{ name: "{kind}{scale}_f" type: "Flatten" bottom: "{kind}{scale}_p" top: "{kind}{scale}_f" }}"""
        for kind in ("loc", "conf")) + f"""
layer {{ name: "prior{scale}" type: "PriorBox" bottom: "{bottom}" bottom: "data" top: "prior{scale}"
  prior_box_param {{ min_size: {least} {more} aspect_ratio: 2 clip: {clip}
    variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 }} }}
""" for scale, bottom, boxes, least, more, clip in (
        (1, "c3", 4, 20, "max_size: 35 flip: true", "true"), (2, "c4", 2, 45, "flip: false", "false"),
    )) + """
layer { name: "loc" type: "Concat" bottom: "loc1_f" bottom: "loc2_f" top: "loc" }
layer { name: "conf" type: "Concat" bottom: "conf1_f" bottom: "conf2_f" top: "conf" }
layer { name: "prior" type: "Concat" bottom: "prior1" bottom: "prior2" top: "prior" concat_param { axis: 2 } }
layer { name: "rows" type: "Reshape" bottom: "conf" top: "rows" reshape_param { shape { dim: 0 dim: -1 dim: 4 } } }
layer { name: "soft" type: "Softmax" bottom: "rows" top: "soft" softmax_param { axis: 2 } }
layer { name: "flat" type: "Flatten" bottom: "soft" top: "flat" }
"""
SSD_CAFFE = SSD + """
layer { name: "detection_out" type: "DetectionOutput" bottom: "loc" bottom: "flat" bottom: "prior" top: "found"
  detection_output_param { num_classes: 4 code_type: CENTER_SIZE keep_top_k: 40 confidence_threshold: 0.3
    nms_param { nms_threshold: 0.45 top_k: 100 } } }
"""
SSD_ASCEND = SSD + """
layer { name: "detection_out" type: "SSDDetectionOutput" bottom: "loc" bottom: "flat" bottom: "prior"
  top: "out_boxnum" top: "y" ssddetectionoutput_param { num_classes: 4 share_location: true iou_threshold: 0.45
    top_k: 100 eta: 1.0 code_type: 2 keep_top_k: 40 confidence_threshold: 0.3 } }
"""


def yolo_net(folder: Path, text: str, seed: int = 0) -> tuple[Path, Path]:
    """`net.prototxt` and `net.caffemodel`, with weights that make detections: some, not all, and overlapping ones."""
    rng = np.random.default_rng(seed)
    channels = {"data": 3}
    weights: dict[str, list[np.ndarray]] = {}
    for block in text.split("layer {")[1:]:
        name, kind = re.search(r'name: "(\w+)" type: "(\w+)"', block).groups()
        bottoms, top = re.findall(r'bottom: "(\w+)"', block), re.search(r'top: "(\w+)"', block)[1]
        inside = channels.get(bottoms[0], 0)
        if kind == "Convolution":
            filters = int(re.search(r"num_output: (\d+)", block)[1])
            size = int(re.search(r"kernel_size: (\d+)", block)[1])
            scale = (1.5 if name.startswith("last") else 1.2) / np.sqrt(inside * size * size)
            weights[name] = [
                (scale * rng.standard_normal((filters, inside, size, size))).astype(np.float32),
                (0.3 * rng.standard_normal(filters)).astype(np.float32),
            ]
            channels[top] = filters
        elif kind == "Concat":
            channels[top] = sum(channels[bottom] for bottom in bottoms)
        elif kind == "Reorg":
            channels[top] = inside * 4
        else:
            channels[top] = inside
    return write_net(folder, text, weights)


def yolo_inputs(seed: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"data": rng.uniform(-2, 2, (2, 3, 64, 96)).astype(np.float32), "img_info": IMAGES}
