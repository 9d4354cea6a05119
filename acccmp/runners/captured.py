"""Captured: what a runner brings home from one run of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acccmp.core.dump import Port


@dataclass(frozen=True, eq=False)
class Captured:
    """Every tensor of one run, in the order of execution; model inputs come first, as output ports.

    `tensors` hold the values as the runner computed them (types that numpy lacks come as ml_dtypes arrays). `runner`
    and `version` say who computed. `skipped` maps a tensor's name to the reason why it is not there; `notes` is what
    else the runner has to say.
    """

    tensors: Mapping[Port, NDArray[Any]] = field(repr=False)
    runner: str
    version: str
    skipped: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.tensors)

    def __getitem__(self, port: Port) -> NDArray[Any]:
        return self.tensors[port]

    @property
    def nbytes(self) -> int:
        """Bytes of all captured values."""
        return sum(np.asarray(array).nbytes for array in self.tensors.values())
