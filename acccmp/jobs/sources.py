"""What was given to a job: a model, a dump, a device model; by its bytes, never by its name."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

from acccmp.core.dump import Dump
from acccmp.core.graph import Graph
from acccmp.core.identify import identify
from acccmp.core.progress import Progress, no_progress
from acccmp.dumps.read import read_dump
from acccmp.errors import InputError
from acccmp.mapping.device_map import DeviceMap
from acccmp.models.load import load


@dataclass(frozen=True)
class Options:
    """Which run of a dump is taken, and how the comparison is judged. The defaults are those of the command line.

    `floor`: emulate the NPU's storage to know each tensor's precision floor; `flush_subnormals`: of a chip that turns
    subnormal numbers into 0 (None: as its dump shows).
    """

    run: str | None = None
    device: str | None = None
    npu_model: str | None = None
    step: str | None = None
    valid: tuple[str, ...] = ()
    min_coverage: float = 0.9
    strict: bool = False
    floor: bool = True
    flush_subnormals: bool | None = None
    runner: str | None = None
    executor: Executor | None = field(default=None, repr=False)
    progress: Progress = field(default=no_progress, repr=False)


def npu_dump_of(npu: Dump | str | Path, options: Options, role: str = "NPU") -> Dump:
    if isinstance(npu, Dump):
        return npu
    found = identify(npu)
    if found.kind.role != "dump":
        advice = ""
        if found.kind.role == "device":
            advice = "; --mapping takes this file"
        elif role == "NPU":
            advice = "; the order is GOLDEN NPU"
        raise InputError(f"{npu} is {found.words}, but {role} must be what the device dumped{advice}")
    return read_dump(
        npu, run=options.run, device=options.device, model=options.npu_model, step=options.step,
    )


def load_original(path: str | Path, weights: str | Path | None = None) -> Graph:
    """Load a model that can be run or cut here. Raises InputError for compiled models and for dumps."""
    found = identify(path)
    if found.kind.role == "device":
        raise InputError(
            f"{path} is {found.words}, which cannot run here; MODEL is the original, --mapping takes this file"
        )
    if found.kind.role in ("dump", "slice"):
        raise InputError(f"{path} is {found.words}; MODEL is the file of the original model")
    return load(path, weights)


def device_map_of(mapping: DeviceMap | Graph | str | Path | None) -> DeviceMap | None:
    """A mapping as a noun: from the device's model, loaded or as a file."""
    if mapping is None or isinstance(mapping, DeviceMap):
        return mapping
    if isinstance(mapping, Graph):
        return DeviceMap(mapping)
    found = identify(mapping)
    if found.kind.role != "device":
        raise InputError(
            f"{mapping} is {found.words}, but --mapping wants the device's model: the .om, its JSON "
            "(atc --mode=1) or ge_*_Build.pbtxt"
        )
    return DeviceMap(load(mapping))
