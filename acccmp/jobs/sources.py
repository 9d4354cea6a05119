"""What was given to a job: a model, a dump, a device model; by its bytes, never by its name."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

from acccmp.core.dump import Dump
from acccmp.core.graph import Graph
from acccmp.dumps.read import read_dump
from acccmp.errors import FormatError, InputError
from acccmp.models.identify import identify
from acccmp.models.load import load

MODEL_KINDS = ("onnx", "caffe", "tensorflow")
DEVICE_KINDS = ("om", "atc_json", "build_pbtxt")


@dataclass(frozen=True)
class Options:
    """Which run of a dump is taken, and how the comparison is judged. The defaults are those of the command line.

    `floor`: emulate the NPU's storage to know each tensor's precision floor; `flush_subnormals`: of a chip that turns
    subnormal numbers into 0.
    """

    run: str | None = None
    device: str | None = None
    npu_model: str | None = None
    step: str | None = None
    valid: tuple[str, ...] = ()
    min_coverage: float = 0.9
    strict: bool = False
    floor: bool = True
    flush_subnormals: bool = False
    runner: str | None = None
    executor: Executor | None = field(default=None, repr=False)
    progress: Callable[[int, int], None] | None = field(default=None, repr=False)


def npu_dump_of(npu: Dump | str | Path, options: Options, role: str = "NPU") -> Dump:
    if isinstance(npu, Dump):
        return npu
    kind = kind_at(npu)
    if kind != "dump":
        advice = ""
        if kind in DEVICE_KINDS:
            advice = "; --mapping takes this file"
        elif role == "NPU":
            advice = "; the order is GOLDEN NPU"
        raise InputError(f"{npu} is {words_for(kind)}, but {role} must be what the device dumped{advice}")
    return read_dump(
        npu, run=options.run, device=options.device, model=options.npu_model, step=options.step,
    )


_WORDS = {
    "onnx": "an ONNX model", "caffe": "a Caffe model", "caffemodel": "Caffe weights",
    "tensorflow": "a TensorFlow model", "om": "a model compiled for the device (.om)",
    "atc_json": "a compiled model as JSON",
    "build_pbtxt": "a build graph of a compiled model", "dump": "a dump",
}


def words_for(kind: str) -> str:
    """A kind of file for people."""
    return _WORDS.get(kind, f"a {kind} file")


def load_original(path: str | Path, weights: str | Path | None = None) -> Graph:
    """Load a model that can be run or cut here. Raises InputError for compiled models and for dumps."""
    kind = kind_at(path)
    if kind in DEVICE_KINDS:
        raise InputError(
            f"{path} is {words_for(kind)}, which cannot run here; MODEL is the original, --mapping takes this file"
        )
    if kind == "dump":
        raise InputError(f"{path} is a folder without a model in it; MODEL is the file of the original model")
    return load(path, weights)


def kind_at(path: str | Path) -> str:
    """What lies at `path` by its bytes; "dump" for folders that are no model. Raises InputError when it is missing."""
    if not Path(path).exists():
        raise InputError(f"{path}: no such file or folder")
    try:
        return identify(path)
    except FormatError:
        if Path(path).is_dir():
            return "dump"
        raise


def device_model_of(mapping: Graph | str | Path | None) -> Graph | None:
    if mapping is None or isinstance(mapping, Graph):
        return mapping
    kind = kind_at(mapping)
    if kind not in DEVICE_KINDS:
        raise InputError(
            f"{mapping} is {words_for(kind)}, but --mapping wants the device's model: the .om, its JSON "
            "(atc --mode=1) or ge_*_Build.pbtxt"
        )
    return load(mapping)
