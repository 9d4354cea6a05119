"""The device's arithmetic as its own dump shows it: habits that are no fault, and that the precision floors know.

So far one: does the chip turn subnormal numbers into 0?
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acccmp.core.dump import Dump
from acccmp.core.tensor import TensorRef
from acccmp.errors import FormatError, LayoutError
from acccmp.mapping.trace import PASSING
from acccmp.models.device_graph import CONSTANTS, INPUT_OPS

# Of the numbers below twice the smallest normal one, at least this share is subnormal where a chip keeps them: the two
# halves are equally wide, and values crowd around 0. Measured: 0.60 and more on tuning networks, 0.50 and more on those
# that were put aside (benchmarks/flushing.py).
SHARE = 0.25
FALSE_ALARM = 1e-6  # that a chip which keeps subnormals shows none, at that share
ENOUGH = int(np.ceil(np.log(FALSE_ALARM) / np.log(1 - SHARE)))  # so many small numbers without a subnormal one

_IDLE = PASSING | INPUT_OPS | CONSTANTS  # what moves numbers only shows nothing of arithmetic


@dataclass(frozen=True)
class Flushing:
    """Small numbers in the dump: `normal` within one octave above the smallest normal one, and any `subnormal` below.

    Each counts once for a tensor, and for all tensors that share them.
    """

    normal: int = 0
    subnormal: int = 0

    @property
    def is_seen(self) -> bool:
        """Does the chip flush subnormals? False, too, where there are too few small numbers to tell."""
        return not self.subnormal and self.normal >= ENOUGH


def flushing(dump: Dump, most: int = 0) -> Flushing:
    """The small numbers that the device computed; reading stops behind the first tensor with more than `most`
    subnormal ones. Tensors that cannot be read are passed over."""
    normal = subnormal = 0
    seen: set[bytes] = set()
    for ref in _computed(dump):
        try:
            small = _small(ref)
        except (FormatError, LayoutError, MemoryError):
            continue
        least = ref.dtype.smallest_normal
        key = small.tobytes()
        if key in seen:  # the same tensor, moved
            continue
        seen.add(key)
        below = int(np.count_nonzero(small < least))
        normal, subnormal = normal + small.size - below, subnormal + below
        if subnormal > most:
            break
    return Flushing(normal, subnormal)


def _computed(dump: Dump) -> Iterator[TensorRef]:
    """Floating outputs of ops that compute."""
    for port, ref in dump.items():
        op = dump.ops.get(port.node)
        is_idle = op is not None and op.op_type in _IDLE
        if port.side == "output" and ref.dtype.name in ("float16", "bfloat16") and not is_idle:
            yield ref


def _small(ref: TensorRef) -> NDArray[np.float32]:
    """The different magnitudes above 0 and below twice the smallest normal number, sorted; none of a tensor that stays
    on one side of 0 without touching it, as behind a sigmoid: it may end above the subnormals."""
    least = ref.dtype.smallest_normal
    found = [np.empty(0, np.float32)]
    has = np.zeros(3, bool)  # zeros, negative and positive small numbers
    for block in ref.blocks():
        wide = block.astype(np.float32, copy=False)
        near = wide[np.abs(wide) < 2 * least]
        has |= [bool((near == 0).any()), bool((near < 0).any()), bool((near > 0).any())]
        found.append(np.unique(np.abs(near[near != 0])))
    small: NDArray[np.float32] = np.unique(np.concatenate(found))
    return small if has[0] or (has[1] and has[2]) else small[small < least]
