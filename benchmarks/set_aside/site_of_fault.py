"""Where a fault is planted: what is known about one device op, and the register of kinds of faults."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from habits import Array, Habit
from nets import Node
from program import DeviceOp, Program, Run, Stored, Twist, exact_outputs, relative

EPS = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24}


@dataclass
class Site:
    """The device op a fault is to be planted in, and what is known about its healthy run."""

    program: Program
    op: DeviceOp
    run: Run
    rng: np.random.Generator
    another_run: Callable[[], Run]  # the same program on another input, for stale results

    @property
    def habit(self) -> Habit:
        return self.program.habit

    @property
    def tensor(self) -> Stored:
        return self.program.tensors[self.op.outputs[0]]

    @property
    def y(self) -> Array:
        """First result as the healthy device stored it."""
        return self.run.results[self.op.name].outputs[0]

    @property
    def inputs(self) -> list[Array]:
        return self.run.results[self.op.name].inputs

    @property
    def is_float(self) -> bool:
        return self.y.dtype.kind == "f"

    @property
    def computes(self) -> bool:
        return self.op.kind == "compute"

    @cached_property
    def rounding(self) -> float:
        """Relative distance of the healthy result from the float64 result on the same inputs; never quite zero."""
        exact = exact_outputs(self.program, self.op, self.inputs)[0]
        own = max(relative(exact, self.y), EPS.get(self.tensor.dtype, 2.0**-24) / 4)
        return float(f"{own:.3g}")  # few digits, so that the last bit of a library's sum does not matter

    @property
    def rms(self) -> float:
        finite = self.y[np.isfinite(self.y)].astype(np.float64)
        return float(f"{np.sqrt(np.mean(finite**2)):.5g}") if finite.size else 0.0

    def amount(self) -> float:
        """A relative error, 2 to 1,000 times the op's rounding but not above 0.7, of either sign."""
        times = math.exp(self.rng.uniform(math.log(2.0), math.log(1000.0)))
        return float(min(times * self.rounding, 0.7) * self.rng.choice([-1.0, 1.0]))

    def one_of(self, options: list[Any]) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def nodes(self, *kinds: str) -> list[Node]:
        return [node for node in self.op.nodes if node.kind in kinds]

    def const_of(self, name: str) -> Array:
        return self.program.net.consts[name]

    def channel_axis(self) -> int:
        """The axis that counts features: the second for pictures and series, the last for tokens."""
        if self.y.ndim == 4 or (self.y.ndim == 3 and self.program.net.name == "gates"):
            return 1
        return self.y.ndim - 1

    def some_channels(self, count: int) -> Array:
        """Between one and half of the channels."""
        k = int(self.rng.integers(1, max(count // 2, 1) + 1)) if self.rng.random() < 0.5 else 1
        return np.sort(self.rng.choice(count, size=k, replace=False))


Plant = Callable[[Site], Twist | None]
KINDS: dict[str, Plant] = {}


def kind(plant: Plant) -> Plant:
    """Registers a fault under its function's name (without a trailing underscore)."""
    KINDS[plant.__name__.strip("_")] = plant
    return plant


def along(x: Array, axis: int, values: Array) -> Array:
    """values shaped to broadcast along one axis of x."""
    return values.reshape([-1 if i == axis else 1 for i in range(x.ndim)])


def tile(site: Site) -> tuple[slice, ...] | None:
    """A block that one core would compute: some rows, or sixteen channels, of one batch element."""
    shape = site.y.shape
    if len(shape) < 3:
        return None
    batch = int(site.rng.integers(shape[0]))
    axis = int(site.rng.integers(1, len(shape)))
    if shape[axis] < 4:
        return None
    size = 16 if axis == 1 and shape[1] > 16 else max(shape[axis] // int(site.rng.integers(2, 9)), 1)
    start = int(site.rng.integers(0, -(-shape[axis] // size))) * size
    cut = [slice(None)] * len(shape)
    cut[0] = slice(batch, batch + 1)
    cut[axis] = slice(start, min(start + size, shape[axis]))
    return tuple(cut)


def bounds(cut: tuple[slice, ...]) -> list[list[int | None]]:
    return [[part.start, part.stop] for part in cut]
