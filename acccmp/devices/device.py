"""Device: what runs a model where it will be used, and DeviceRun, what it brings home."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from acccmp.core.graph import Graph


@dataclass(frozen=True)
class DeviceRun:
    """One run on a device: the folder of its dump files, the device model that says what its ops stand for (None where
    there is none), the model's outputs by name, and what could not be dumped."""

    dump: Path
    mapping: Path | None
    outputs: Mapping[str, NDArray[Any]] = field(default_factory=dict, repr=False, hash=False, compare=False)
    notes: tuple[str, ...] = ()


class Device(Protocol):
    """Runs a model on a device and brings home what it dumped: a function, or an object that is called."""

    def __call__(self, graph: Graph, inputs: Mapping[str, NDArray[Any]], folder: Path, /) -> DeviceRun:
        """Run `graph` on `inputs` (one array for each of `graph.inputs`) and leave everything in `folder`.

        The dump there is read by `read_dump` as one of kind "npu" without broken files; the mapping is loaded by
        `load`, and its originals are nodes of `graph`. Whole or not at all: when it fails, nothing is left. Raises
        InputError for inputs that do not fit and for a folder that holds a dump already, RunError for a model that
        the device cannot run.
        """
        ...
