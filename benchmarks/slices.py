"""Random slices of a model against the model itself: saved, loaded, run alone, compared with the model's inner tensors.

    python benchmarks/slices.py [PAIRS] [MODEL ...]

`pairs tried = equal + refused`: anything else is a failure and makes the exit code 1.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import acccmp
from acccmp.core.dump import Port
from acccmp.core.graph import Graph
from acccmp.errors import AcccmpError, InputError, SliceError
from acccmp.inputs.files import random_inputs
from acccmp.kinds import find_kind
from acccmp.models.load import load
from acccmp.runners.run import run

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"

# model file -> weights file ("" for none), relative to the folder of real models or to this repository
MODELS = {
    "onnx/microsoft_onnxruntime-inference-examples__mnist.onnx": "",
    "onnx/Linzaer_Ultra-Light-Fast-Generic-Face-Detector-1MB__version-slim-320.onnx": "",
    "onnx/ShiqiYu_libfacedetection.train__yunet_n_320_320.onnx": "",
    "onnx/a-ircle_atlas200i-line-tracking-car__lanenet_epoch_122_batch_8_AUG.onnx": "",
    "onnx/snakers4_silero-vad__silero_vad_op18_ifless.onnx": "",
    "caffe/MTCNNv2__det1.prototxt": "caffe/MTCNNv2__det1.caffemodel",
    "caffe/MTCNNv2__det2.prototxt": "caffe/MTCNNv2__det2.caffemodel",
    "caffe/everpeace_caffe__lenet.prototxt": "caffe/everpeace_caffe__lenet_iter_10000.caffemodel",
    "caffe/Linzaer_Ultra-Light-Fast-Generic-Face-Detector-1MB__RFB-320.prototxt":
        "caffe/Linzaer_Ultra-Light-Fast-Generic-Face-Detector-1MB__RFB-320.caffemodel",
    "tensorflow/Ascend_ModelZoo-TensorFlow__hh.pb": "",
    "tensorflow/tf2onnx__fc-layers.frozen.pb": "",
    "tensorflow/blaueck_tf-mtcnn__mtcnn.pb": "",
}
SAMPLES = {
    "sample_dumps/digits_resnet/resnet.onnx": "",
    "sample_dumps/digits_lenet/lenet.prototxt": "sample_dumps/digits_lenet/lenet.caffemodel",
    "sample_dumps/digits_cnn/cnn.pb": "",
}
# Inputs that are settings rather than data: mtcnn's thresholds are so low that each of its conds takes the long way.
FEEDS: dict[str, dict[str, Any]] = {
    "mtcnn.pb": {
        "input:0": (np.random.default_rng(0).random((120, 160, 3)) * 255).astype(np.float32),
        "min_size:0": np.array(40, np.float32), "thresholds:0": np.array([0.05, 0, 0], np.float32),
        "factor:0": np.array(0.709, np.float32),
    },
}
# Inputs whose shape the model leaves open.
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "silero_vad": {"input": (1, 576), "state": (2, 1, 128), "sr": ()},
    "hh.pb": {}, "fc-layers": {},
}


@dataclass
class Tally:
    """What became of the pairs of one model; `bad` are those that were not equal, `grown` those cut larger than asked
    (V1 loops and conds of TensorFlow taken whole)."""

    tried: int = 0
    equal: int = 0
    grown: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)


def pairs(graph: Graph, most: int, seed: int) -> Iterator[tuple[str, str]]:
    """Up to `most` pairs (start, end) of nodes that a path joins, at random; all where there are fewer. What is inside
    of V1 loops of TensorFlow has no value of its own and is no start or end."""
    import networkx

    moving = [
        node.name for node in graph.nodes
        if node.name not in graph.constants and node.inputs and "frame" not in node.attrs
    ]
    data = networkx.DiGraph((a, b) for a, b, tensor in graph.nx.edges(data="tensor") if tensor is not None)
    data.add_nodes_from(moving)
    below = {name: networkx.descendants(data, name) | {name} for name in moving}
    every = [(a, b) for a in moving for b in moving if b in below[a]]
    chosen = random.Random(seed).sample(every, min(most, len(every)))
    yield from chosen


def try_pair(graph: Graph, golden: Any, start: str, end: str, tally: Tally) -> None:
    """Cut, save, load, run, compare; the outcome goes into `tally`."""
    tally.tried += 1
    try:
        part = acccmp.slice_model(graph, start, end)
        tally.grown += any("taken whole" in line for line in part.log)
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(path) for path in find_kind(graph.format).function("save")(part.graph, folder, "part")]
            model = next(path for path in files if path.suffix in (".onnx", ".prototxt", ".pb"))
            weights = next((path for path in files if path.suffix == ".caffemodel"), None)
            again = load(model, weights)
            feeds = {
                name: golden[part.input_port(tensor)].numpy()
                for name, tensor in zip(again.inputs, part.graph.inputs, strict=True)
            }
            given = run(again, feeds, wanted=part.graph.outputs)
    except (SliceError, InputError) as error:
        tally.refused[type(error).__name__ + ": " + str(error)[:60]] += 1
        return
    except KeyError as error:
        tally.refused[f"the whole model gave no {error}"] += 1
        return
    except (AcccmpError, AssertionError) as error:
        tally.bad.append(f"{start}..{end}: {error}")
        return
    for tensor in part.graph.outputs:
        port = graph.producer(tensor) or Port(tensor, "output", 0)
        if port not in golden:
            tally.refused["an exit that the whole model did not give"] += 1
            return
        if not agrees(golden[port].numpy(), given[port].numpy(), graph.format == "onnx"):
            tally.bad.append(f"{start}..{end}: {tensor} differs")
            return
    tally.equal += 1


def agrees(want: Any, got: Any, exactly: bool) -> bool:
    """Bit-equal, or within 1e-6 of the norm."""
    if want.shape != got.shape:
        return False
    if exactly or want.dtype.kind not in "fc":
        return bool(np.array_equal(want, got, equal_nan=want.dtype.kind in "fc"))
    a, b = want.astype(np.float64), got.astype(np.float64)
    if np.array_equal(a, b, equal_nan=True):
        return True
    return bool(np.linalg.norm(b - a) <= 1e-6 * np.linalg.norm(a))


def tally_model(path: Path, weights: Path | None, most: int, seed: int = 0) -> Tally:
    """Try up to `most` pairs of one model."""
    graph = load(path, weights)
    shapes = next((shapes for name, shapes in SHAPES.items() if name in path.name), None)
    feeds = next((given for name, given in FEEDS.items() if name in path.name), None)
    feeds = feeds or random_inputs(graph, seed, shapes or None)
    golden = run(graph, feeds)
    tally = Tally()
    for start, end in pairs(graph, most, seed):
        try_pair(graph, golden, start, end, tally)
    return tally


def main(arguments: list[str]) -> int:
    most = int(arguments[0]) if arguments else 200
    only = arguments[1:]
    failed = False
    print(f"{'model':70} {'tried':>6} {'equal':>6} {'refused':>8} {'bad':>4}")
    for root, models in ((SHARED, MODELS), (ROOT, SAMPLES)):
        for name, weights in models.items():
            path = root / name
            if not path.is_file() or (only and not any(word in name for word in only)):
                continue
            tally = tally_model(path, root / weights if weights else None, most)
            print(f"{name[-70:]:70} {tally.tried:6} {tally.equal:6} {sum(tally.refused.values()):8} {len(tally.bad):4}")
            for reason, count in tally.refused.most_common(5):
                print(f"    refused {count}: {reason}")
            for line in tally.bad[:10]:
                print(f"    BAD {line}")
            failed = failed or bool(tally.bad)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
