"""Small Caffe nets for the tests, and their caffemodels written with protobuf's own encoder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

# An old (V1) net as people trained with it: one file for training and test, in-place chains, phase rules.
V1_NET = """
name: "OldNet"
layers { name: "train" type: DATA top: "data" top: "label" data_param { source: "lmdb" batch_size: 64 }
  include { phase: TRAIN } }
layers { name: "test" type: MEMORY_DATA top: "data" top: "label"
  memory_data_param { batch_size: 2 channels: 3 height: 11 width: 13 } include { phase: TEST } }
layers { name: "conv1" type: CONVOLUTION bottom: "data" top: "conv1" blobs_lr: 1 blobs_lr: 2
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }
layers { name: "relu1" type: RELU bottom: "conv1" top: "conv1" }
layers { name: "drop1" type: DROPOUT bottom: "conv1" top: "conv1" dropout_param { dropout_ratio: 0.3 } }
layers { name: "pool1" type: POOLING bottom: "conv1" top: "pool1"
  pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 } }
layers { name: "conv2" type: CONVOLUTION bottom: "pool1" top: "conv2"
  convolution_param { num_output: 6 group: 2 kernel_h: 3 kernel_w: 1 stride: 2 } }
layers { name: "side" type: POOLING bottom: "conv2" top: "side" pooling_param { pool: MAX kernel_size: 2 } }
layers { name: "relu2" type: RELU bottom: "conv2" top: "conv2" relu_param { negative_slope: 0.1 } }
layers { name: "sig2" type: SIGMOID bottom: "conv2" top: "conv2" }
layers { name: "ip1" type: INNER_PRODUCT bottom: "conv2" top: "ip1" inner_product_param { num_output: 5 } }
layers { name: "relu3" type: RELU bottom: "ip1" top: "ip1" exclude { phase: TRAIN stage: "bare" } }
layers { name: "drop3" type: DROPOUT bottom: "ip1" top: "ip1" exclude { phase: TEST } }
layers { name: "ip2" type: INNER_PRODUCT bottom: "ip1" top: "ip2" inner_product_param { num_output: 3 } }
layers { name: "loss" type: SOFTMAX_LOSS bottom: "ip2" bottom: "label" top: "loss" include { phase: TRAIN } }
layers { name: "accuracy" type: ACCURACY bottom: "ip2" bottom: "label" top: "accuracy"
  include { phase: TEST } include { phase: TRAIN stage: "watch" } }
layers { name: "prob" type: SOFTMAX bottom: "ip2" top: "prob" include { phase: TEST not_stage: "bare" } }
"""
V1_SHAPES = {
    "conv1": [(4, 3, 3, 3), (1, 1, 1, 4)], "conv2": [(6, 2, 3, 1), (1, 1, 1, 6)],
    "ip1": [(1, 1, 5, 48), (1, 1, 1, 5)], "ip2": [(1, 1, 3, 5), (1, 1, 1, 3)],
}

# A newer (V2) net with one of nearly every layer.
V2_NET = """
name: "Zoo"
layer { name: "image" type: "Input" top: "image" input_param { shape { dim: 2 dim: 6 dim: 15 dim: 17 } } }
layer { name: "conv" type: "Convolution" bottom: "image" top: "conv"
  convolution_param { num_output: 8 kernel_size: 3 pad: 2 stride: 1 dilation: 2 group: 2 bias_term: false } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" batch_norm_param { use_global_stats: true eps: 1e-3 } }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "prelu" type: "PReLU" bottom: "conv" top: "conv" }
layer { name: "max" type: "Pooling" bottom: "conv" top: "max" pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: "ave" type: "Pooling" bottom: "conv" top: "ave"
  pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 } }
layer { name: "norm" type: "LRN" bottom: "max" top: "norm" lrn_param { local_size: 3 alpha: 0.5 beta: 0.6 k: 2 } }
layer { name: "up" type: "Deconvolution" bottom: "norm" top: "up"
  convolution_param { num_output: 4 kernel_size: 3 stride: 2 group: 2 pad: 1 } }
layer { name: "cut" type: "Slice" bottom: "norm" top: "front" top: "back" slice_param { axis: 1 slice_point: 3 } }
layer { name: "cutsig" type: "Sigmoid" bottom: "back" top: "back" }
layer { name: "frontrelu" type: "ReLU" bottom: "front" top: "front" }
layer { name: "glue" type: "Concat" bottom: "back" bottom: "front" top: "glue" concat_param { axis: 1 } }
layer { name: "sum" type: "Eltwise" bottom: "glue" bottom: "norm" top: "sum"
  eltwise_param { operation: SUM coeff: 1 coeff: -0.5 } }
layer { name: "most" type: "Eltwise" bottom: "sum" bottom: "glue" top: "most" eltwise_param { operation: MAX } }
layer { name: "times" type: "Eltwise" bottom: "most" bottom: "norm" top: "times" eltwise_param { operation: PROD } }
layer { name: "tanh" type: "TanH" bottom: "times" top: "times" }
layer { name: "drop" type: "Dropout" bottom: "times" top: "times" dropout_param { dropout_ratio: 0.4 } }
layer { name: "global" type: "Pooling" bottom: "times" top: "global" pooling_param { pool: AVE global_pooling: true } }
layer { name: "flat" type: "Flatten" bottom: "ave" top: "flat" }
layer { name: "fc" type: "InnerProduct" bottom: "flat" top: "fc" inner_product_param { num_output: 6 } }
layer { name: "order" type: "Permute" bottom: "up" top: "order"
  permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "shape" type: "Reshape" bottom: "order" top: "shape" reshape_param { shape { dim: 0 dim: -1 dim: 2 } } }
layer { name: "soft" type: "Softmax" bottom: "shape" top: "soft" softmax_param { axis: 2 } }
layer { name: "floor" type: "Pooling" bottom: "times" top: "floor"
  pooling_param { pool: MAX kernel_size: 2 stride: 2 round_mode: FLOOR } }
layer { name: "power" type: "Power" bottom: "floor" top: "power" power_param { power: 2 scale: 0.5 shift: 1 } }
"""
V2_SHAPES = {
    "conv": [(8, 3, 3, 3)], "bn": [(8,), (8,), (1,)], "scale": [(8,), (8,)], "prelu": [(8,)],
    "up": [(8, 2, 3, 3), (4,)], "fc": [(6, 576), (6,)],
}


def random_weights(shapes: Mapping[str, Sequence[tuple[int, ...]]], seed: int = 7) -> dict[str, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    made = {
        layer: [rng.uniform(-0.5, 0.5, shape).astype(np.float32) for shape in sizes] for layer, sizes in shapes.items()
    }
    if "bn" in made:  # mean, variance and the count that both are divided by
        made["bn"][1] = np.abs(made["bn"][1]) + np.float32(0.3)
        made["bn"][2] = np.array([2.5], np.float32)
    return made


def write_net(
    folder: Path, text: str, weights: Mapping[str, Sequence[np.ndarray]], stem: str = "net",
) -> tuple[Path, Path]:
    """`net.prototxt` and `net.caffemodel`: V1 with old shapes (num, channels, height, width) if the text is V1."""
    from acccmp.schemas import caffe_pb2

    old = "layers" in text
    types = dict(re.findall(r'name: "([^"]*)" type: "([^"]*)"', text))
    net = caffe_pb2.NetParameter(name="trained")
    for name, arrays in weights.items():
        layer = (net.layers if old else net.layer).add(name=name)
        if not old:
            layer.type = types.get(name, "Unknown")
        for array in arrays:
            blob = layer.blobs.add()
            if old:
                blob.num, blob.channels, blob.height, blob.width = array.shape
            else:
                blob.shape.dim.extend(array.shape)
            blob.data.extend(array.reshape(-1).tolist())
    paths = folder / f"{stem}.prototxt", folder / f"{stem}.caffemodel"
    paths[0].write_text(text)
    paths[1].write_bytes(net.SerializeToString())
    return paths


def v1_net(folder: Path) -> tuple[Path, Path]:
    return write_net(folder, V1_NET, random_weights(V1_SHAPES))


def v2_net(folder: Path) -> tuple[Path, Path]:
    return write_net(folder, V2_NET, random_weights(V2_SHAPES))


def random_net(folder: Path, seed: int, layers: int = 25) -> tuple[Path, Path]:
    """A net of random layers on random blobs: many outputs, many readers, in-place chains anywhere."""
    rng = np.random.default_rng(seed)
    text = "input: 'data' input_dim: 2 input_dim: 8 input_dim: 9 input_dim: 7\n"
    shapes: dict[str, tuple[int, ...]] = {"data": (2, 8, 9, 7)}
    weights: dict[str, list[np.ndarray]] = {}

    def layer(kind: str, bottoms: Sequence[str], tops: Mapping[str, tuple[int, ...]], params: str = "") -> None:
        nonlocal text
        name = f"layer{len(weights)}"
        weights[name] = []
        bottom, top = ("".join(f' {word}: "{blob}"' for blob in blobs) for word, blobs in (("bottom", bottoms),
                                                                                          ("top", tops)))
        text += f'layer {{ name: "{name}" type: "{kind}"{bottom}{top} {params} }}\n'
        shapes.update(tops)

    def weighted(*sizes: tuple[int, ...]) -> None:
        weights[f"layer{len(weights) - 1}"] = [rng.uniform(-0.4, 0.4, size).astype(np.float32) for size in sizes]

    for place in range(layers):
        blob = str(rng.choice(list(shapes)))
        shape, new = shapes[blob], f"blob{place}"
        n, c, h, w = shape
        others = [name for name, size in shapes.items() if size == shape]
        choice = str(rng.choice(["slice", "split", "conv", "pool", "in place", "new", "eltwise", "concat", "mvn",
                                 "scale", "permute", "softmax"]))
        if choice == "slice" and c >= 2:
            pieces = int(rng.integers(2, min(c, 8) + 1))
            edges = np.sort(rng.choice(np.arange(1, c), pieces - 1, replace=False))
            points = " ".join(f"slice_point: {edge}" for edge in edges)
            sizes = np.diff([0, *edges, c])
            layer("Slice", [blob], {f"{new}_{i}": (n, int(size), h, w) for i, size in enumerate(sizes)},
                  f"slice_param {{ axis: 1 {points} }}")
        elif choice == "split":
            layer("Split", [blob], {f"{new}_{i}": shape for i in range(int(rng.integers(2, 5)))})
        elif choice == "conv" and min(h, w) >= 2:
            readers = [blob, *map(str, rng.choice(others, int(rng.integers(0, 3))))]
            layer("Convolution", readers, {f"{new}_{i}": (n, 4, h - 1, w - 1) for i in range(len(readers))},
                  "convolution_param { num_output: 4 kernel_size: 2 }")
            weighted((4, c, 2, 2), (4,))
        elif choice == "pool" and min(h, w) >= 2:
            tops = 2 if rng.random() < 0.5 else 1
            layer("Pooling", [blob], {f"{new}_{i}": (n, c, h - 1, w - 1) for i in range(tops)},
                  "pooling_param { pool: MAX kernel_size: 2 }")
        elif choice == "in place" and blob != "data":
            layer(str(rng.choice(["ReLU", "Sigmoid", "TanH", "Dropout", "AbsVal", "ELU"])), [blob], {blob: shape})
        elif choice == "new":
            layer(str(rng.choice(["ReLU", "Sigmoid", "TanH", "Dropout", "AbsVal"])), [blob], {new: shape})
        elif choice == "eltwise":
            method = str(rng.choice(["SUM", "MAX", "PROD"]))
            layer("Eltwise", [blob, str(rng.choice(others))], {new: shape}, f"eltwise_param {{ operation: {method} }}")
            layer("TanH", [new], {new: shape})
        elif choice == "concat" and c < 24:
            layer("Concat", [blob, str(rng.choice(others))], {new: (n, 2 * c, h, w)})
        elif choice == "mvn" and h * w > 4:
            layer("MVN", [blob], {new: shape}, "mvn_param { normalize_variance: false }")
        elif choice == "scale":
            layer("Scale", [blob], {new: shape}, "scale_param { bias_term: true }")
            weighted((c,), (c,))
        elif choice == "permute":
            layer("Permute", [blob], {new: (n, c, w, h)}, "permute_param { order: 0 order: 1 order: 3 order: 2 }")
        elif choice == "softmax":
            layer("Softmax", [blob], {new: shape})
    return write_net(folder, text, weights)


def random_inputs(graph, seed: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(-1, 1, graph.spec(name).shape).astype(np.float32) for name in graph.inputs}
