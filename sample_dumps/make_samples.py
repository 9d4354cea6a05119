"""Makes the samples: models from the committed weights, golden runs, and the dumps of an emulated device.

    python sample_dumps/make_samples.py                  everything anew, byte for byte, from weights/*.npz
    python sample_dumps/make_samples.py --only NAME      one network
    python sample_dumps/make_samples.py --out DIR        into another folder
    python sample_dumps/make_samples.py --train          new weights first (needs TensorFlow and scikit-learn)

The ONNX sample needs onnxruntime; the Caffe one OpenCV, the frozen graph TensorFlow besides.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import io
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # one order of summation in TensorFlow, whatever the processor
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import networks  # noqa: E402
import training  # noqa: E402

from acccmp.core.dump import Dump  # noqa: E402
from acccmp.core.graph import Graph  # noqa: E402
from acccmp.emulator.emulate import Fault, Twin, emulate  # noqa: E402
from acccmp.models.load import load  # noqa: E402
from acccmp.runners.run import golden_run, run  # noqa: E402

GOLDEN_TIME = 1_690_000_000_000_000  # microseconds: the time stamp of the first golden tensor
SUMS, MADE_ON = "SHA256SUMS", "MADE_ON.json"


@dataclass(frozen=True)
class Sample:
    """One network: how its files are made, and the fault that is planted in it. `first_bad` is the device op that a
    comparison must name first."""

    name: str
    files: Callable[[Mapping[str, np.ndarray]], dict[str, bytes]]
    model: str
    fault: str
    first_bad: str
    weights: str | None = None
    twin_file: str | None = None
    twin: Twin | None = None
    layout: str = "NCHW"


def _lenet_files(weights: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    text, stored = networks.lenet(weights)
    return {"lenet.prototxt": text.encode(), "lenet.caffemodel": stored, "twin.onnx": networks.lenet_twin(weights)}


SAMPLES = {
    sample.name: sample for sample in (
        Sample(
            "digits_resnet", lambda weights: {"resnet.onnx": networks.resnet(weights)}, "resnet.onnx",
            "op=block2/conv2,kind=scale,factor=0.25", "block2/conv2block2/bn2",
        ),
        Sample(
            "digits_lenet", _lenet_files, "lenet.prototxt", "op=pool1,kind=ceil-mode", "pool1", "lenet.caffemodel",
            "twin.onnx", networks.LENET_TWIN,
        ),
        Sample(
            "digits_cnn", lambda weights: {"cnn.pb": networks.cnn(weights), "twin.onnx": networks.cnn_twin(weights)},
            "cnn.pb", "op=conv3/Conv2D,kind=bad-weight,factor=0.25", "conv3/Conv2Dconv3/BiasAddconv3/Relu", None,
            "twin.onnx", networks.CNN_TWIN, "NHWC",
        ),
    )
}


def make(sample: Sample, images: np.ndarray, weights: Mapping[str, np.ndarray], out: Path) -> list[Path]:
    """Everything of one sample in `out/<name>`; returns the files. `images` are 4 pictures, N H W C, from 0 to 1.

    Raises SystemExit when an ONNX twin does not agree with its original.
    """
    folder = out / sample.name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "inputs").mkdir(parents=True)
    for name, raw in sample.files(weights).items():
        (folder / name).write_bytes(raw)
    here = Path.cwd()
    os.chdir(folder)  # so that no path of this machine gets into a manifest
    try:
        _make_here(sample, images)
    finally:
        os.chdir(here)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _make_here(sample: Sample, images: np.ndarray) -> None:
    graph = load(sample.model, sample.weights)
    feed = Path("inputs", graph.inputs[0].removesuffix(":0") + ".npy")
    channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    np.save(feed, images if sample.layout == "NHWC" else channels_first, allow_pickle=False)
    golden = golden_run(graph, {graph.inputs[0]: feed}, "golden", wanted=_defined(graph), time_us=GOLDEN_TIME)
    device = load(sample.twin_file) if sample.twin_file else graph
    feeds = {device.inputs[0]: channels_first}
    if sample.twin_file:
        _check_twin(sample, golden, device, feeds)
    # A device adds up in an order of its own, so its dumps are not the very run that precision floors come from.
    healthy = emulate(device, feeds, ".", twin=sample.twin, summation=1)
    mapping = healthy.mapping.read_bytes()
    fault = Fault.parse(sample.fault)
    emulate(device, feeds, ".", faults=[fault], name="npu_faulty", twin=sample.twin, summation=1)
    if healthy.mapping.read_bytes() != mapping:
        sys.exit(f"{sample.name}: the fault changed the mapping")
    truth = {"fault": str(fault), "first_bad": sample.first_bad, "device": "emulated by acccmp, float16 storage"}
    Path("FAULT.json").write_text(json.dumps(truth, indent=1) + "\n")


def _defined(graph: Graph) -> list[str] | None:
    """The tensors whose value is defined (None: all): TensorFlow's FusedBatchNormV3 has outputs that inference leaves
    unwritten, so that they are another run's memory."""
    if graph.format != "tensorflow":
        return None
    return [
        tensor for node in graph.nodes for index, tensor in enumerate(node.outputs)
        if node.op_type != "FusedBatchNormV3" or index < 3
    ]


def _check_twin(sample: Sample, golden: Dump, twin: Graph, feeds: Mapping[str, np.ndarray]) -> None:
    """Every tensor that twin and original have under one name must agree to 1e-4 (of the tensor's largest number)."""
    found, compared = run(twin, feeds), 0
    for port, ref in golden.refs.items():
        if port not in found:
            continue
        exact, other = ref.numpy(), found[port].numpy()
        if exact.ndim == other.ndim == 4 and sample.layout == "NHWC":
            other = other.transpose(0, 2, 3, 1)
        off = float(np.abs(other.reshape(exact.shape) - exact).max() / np.abs(exact).max())
        if off > 1e-4:
            sys.exit(f"{sample.name}: {port} of the ONNX twin is off by {off:g}")
        compared += 1
    if compared < 10:
        sys.exit(f"{sample.name}: only {compared} tensors of the ONNX twin have the original's names")


def save_weights(path: Path, weights: Mapping[str, np.ndarray]) -> None:
    """An npz without dates, so that the same weights are the same bytes."""
    np.savez(path, **dict(sorted(weights.items())))


def read_weights(path: Path) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as held:
        return {name: held[name] for name in held.files}


def sums(files: list[Path], out: Path) -> str:
    """A line `<sha256>  <path>` for each file."""
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(out).as_posix()}\n" for path in files
    )


def made_on() -> dict[str, Any]:
    """What the last bits of float32 sums depend on: versions of what computes, and what the processor can do."""
    from importlib import metadata

    def version(package: str) -> str:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return "not installed"

    features = importlib.import_module("numpy._core._multiarray_umath").__cpu_features__
    packages = ("numpy", "onnx", "onnxruntime", "opencv-python-headless", "tensorflow-cpu")
    return {
        "packages": {package: version(package) for package in packages},
        "processor": [platform.machine(), *(name for name in ("AVX2", "FMA3", "AVX512F") if features.get(name))],
    }


def train_all(only: list[str]) -> None:
    """New weights for the named networks, and the pictures that the samples are fed with."""
    for name in only:
        save_weights(HERE / "weights" / f"{name}.npz", training.train(name))
    _, _, test, _ = training.digits()
    np.save(HERE / "weights" / "images.npy", test[:4], allow_pickle=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", action="store_true", help="train first")
    parser.add_argument("--only", choices=sorted(SAMPLES), action="append", help="this network only")
    parser.add_argument("--out", type=Path, default=HERE, help="where the samples go")
    options = parser.parse_args()
    names = options.only or list(SAMPLES)
    if options.train:
        train_all(names)
    images = np.load(HERE / "weights" / "images.npy", allow_pickle=False)
    made = []
    for name in names:
        made += make(SAMPLES[name], images, read_weights(HERE / "weights" / f"{name}.npz"), options.out)
    kept = []
    listing = options.out / SUMS
    if options.only and listing.is_file():
        kept = [line for line in listing.read_text().splitlines() if line.split("  ")[1].split("/")[0] not in names]
    lines = sorted([*kept, *sums(made, options.out).splitlines()], key=lambda line: line.split("  ")[1])
    listing.write_text("\n".join(lines) + "\n")
    (options.out / MADE_ON).write_text(json.dumps(made_on(), indent=1) + "\n")
    print(f"{len(made)} files, {sum(path.stat().st_size for path in made) / 1e6:.2f} MB in {options.out}")


if __name__ == "__main__":
    main()
