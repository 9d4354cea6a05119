"""The one relative distance: how far two arrays are apart, as a share of the golden one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 20  # elements at a time


def relative(error: float, golden: float) -> float:
    """||npu - golden|| / ||golden|| from the two sums of squares.

    A golden tensor that is all zero has no scale of its own: 0 if the other is all zero too, else Inf.
    """
    return math.sqrt(error) / math.sqrt(golden) if golden > 0 else (math.inf if error > 0 else 0.0)


def distance(golden: NDArray[Any], npu: NDArray[Any]) -> float:
    """||npu - golden|| / ||golden|| in float64, over the positions where both are finite; see `relative`.

    0 for empty arrays, NaN where no position is finite on both sides, Inf where shapes differ.
    """
    if golden.shape != npu.shape:
        return math.inf
    if not golden.size:
        return 0.0
    error = norm = 0.0
    left, right = golden.reshape(-1), npu.reshape(-1)
    some = False
    for start in range(0, left.size, CHUNK):
        with np.errstate(invalid="ignore"):  # a flipped bit can make a signalling NaN
            g = left[start:start + CHUNK].astype(np.float64)
            n = right[start:start + CHUNK].astype(np.float64)
        both = np.isfinite(g) & np.isfinite(n)
        if not both.all():
            g, n = g[both], n[both]
        some = some or bool(g.size)
        n -= g
        error += float(n @ n)
        norm += float(g @ g)
    return relative(error, norm) if some else math.nan
