"""Every metric of a pair of tensors: read block by block, summed by the kernel, finished by the rows of the table.

Tensors are cut into blocks by their shape alone, so a result does not depend on threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from acccmp.comparison.kernel import Array, How, combine, fitting_scale, partial
from acccmp.core import layout as layouts
from acccmp.core.layout import Shape, squeezed
from acccmp.core.metrics import Metric, Partial, computed
from acccmp.core.tensor import DType, TensorRef

READ = 1 << 20  # elements read from each side at a time
CHUNK = 1 << 16  # elements computed at a time: the temporaries stay in the cache


@dataclass(frozen=True)
class Measured:
    """What was found in one pair of tensors.

    `metrics` has every computed row of the table of metrics by name; one that is not defined for the kind (KL of
    complex numbers, anything but counts and MismatchRatio of bools) or for the data (no finite position) is NaN.
    `sums` are those of the whole, counts and extremes among them; the places are in golden's coordinates.
    """

    metrics: Mapping[str, float]
    sums: Partial = field(default_factory=Partial)
    max_error_index: tuple[int, ...] | None = None
    first_overflow: tuple[int, ...] | None = None
    first_nonfinite: tuple[int, ...] | None = None


def measure(
    golden: TensorRef,
    npu: TensorRef,
    *,
    extent: Shape | None = None,
    npu_dtype: DType | None = None,
) -> Measured:
    """Every metric of a pair of numeric tensors of one shape, dimensions of 1 apart.

    `extent` restricts the comparison to the first so many elements along each of golden's axes (a valid region);
    the NPU's tensor may be larger then. `npu_dtype` is the dtype whose largest value decides about overflow, the NPU's
    stored one if not given. Integers of 64 bits are subtracted exactly; complex numbers are compared as such. An empty
    pair has zero counts and NaN metrics.

    Raises FormatError for files that are too short and types without a meaning, LayoutError when a stored shape cannot
    hold the original, ValueError when the shapes differ, InputError for a metric of others that fails.
    """
    pair = _Pair(golden, npu, tuple(golden.own_shape if extent is None else extent), extent is None)
    how = How.of(golden.dtype, npu.dtype, npu_dtype or npu.dtype)
    with np.errstate(all="ignore"):
        parts = [partial(*block, how) for block in pair.chunks()]
        scale = fitting_scale(parts, how)
        if scale != 1.0:
            how = replace(how, scale=scale)
            parts = [partial(*block, how) for block in pair.chunks()]
        sums = combine(parts)
        metrics = _metrics(pair, sums, how)

    def at(place: int) -> tuple[int, ...] | None:
        return tuple(int(n) for n in np.unravel_index(place, pair.extent)) if place >= 0 else None

    return Measured(metrics, sums, at(sums.max_place), at(sums.first_overflow), at(sums.first_nonfinite))


def _metrics(pair: _Pair, sums: Partial, how: How) -> dict[str, float]:
    rows = computed()
    is_numeric = bool(sums.finite) and how.kind != "bool"
    walked = {name: row for name, row in rows.items() if row.block is not None} if (
        is_numeric and how.kind != "complex") else {}
    parts: dict[str, list[list[float]]] = {name: [] for name in walked}
    for golden, npu in pair.finite() if walked else ():
        for name, row in walked.items():
            parts[name].append(row.part(golden, npu, sums))

    def value(name: str, row: Metric) -> float:
        defined = row.everything or (is_numeric and (row.block is None or name in walked))
        return row.value(sums, parts.get(name, ())) if defined else math.nan

    return {name: value(name, row) for name, row in rows.items()}


@dataclass
class _Pair:
    """The two sides, read block by block in golden's order; small pairs are read once."""

    golden: TensorRef
    npu: TensorRef
    extent: Shape
    is_whole: bool
    kept: list[tuple[Array, Array]] = field(default_factory=list)
    by_place: bool = True

    def __post_init__(self) -> None:
        own, other = self.golden.own_shape, self.npu.own_shape
        if len(self.extent) != len(own) or any(n > m for n, m in zip(self.extent, own, strict=True)):
            raise ValueError(f"no region {self.extent} in a tensor of shape {own}")
        self.by_place = len(other) == len(self.extent) and all(
            n == m or (n < m and not self.is_whole) for n, m in zip(self.extent, other, strict=True)
        )
        if not self.by_place and squeezed(other) != squeezed(self.extent):
            raise ValueError(f"shapes differ: golden {own}, npu {other}")

    def blocks(self) -> Iterator[tuple[Array, Array]]:
        """(golden, npu) as flat blocks."""
        if self.kept:
            yield from self.kept
            return
        small = math.prod(self.extent) <= READ
        for region in layouts.regions(self.extent, READ):
            golden, npu = self.golden.read(region).reshape(-1), self._npu(region).reshape(-1)
            if small:
                self.kept.append((golden, npu))
            yield golden, npu

    def chunks(self) -> Iterator[tuple[Array, Array]]:
        for golden, npu in self.blocks():
            for start in range(0, golden.size, CHUNK):
                yield golden[start : start + CHUNK], npu[start : start + CHUNK]

    def finite(self) -> Iterator[tuple[Array, Array]]:
        """The same as float64 that nobody can change, of the positions where both are finite."""
        for one, other in self.chunks():
            golden, npu = one.astype(np.float64), other.astype(np.float64)
            ok = np.isfinite(golden) & np.isfinite(npu)
            if not ok.all():
                golden, npu = golden[ok], npu[ok]
            for array in (golden, npu):
                array.setflags(write=False)
            if golden.size:
                yield golden, npu

    def _npu(self, region: layouts.Region) -> Array:
        shape = self.npu.own_shape
        if self.by_place:
            return self.npu.read(region)
        moving = iter([part for part, n in zip(region, self.extent, strict=True) if n != 1])
        return self.npu.read(tuple(slice(0, 1) if n == 1 else next(moving) for n in shape))
