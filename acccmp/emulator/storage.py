"""How the emulated device stores floating tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acccmp.core.tensor import DTYPES, DType, decode, encode
from acccmp.errors import InputError

Array = NDArray[Any]


@dataclass(frozen=True)
class Storage:
    """How the device stores floating tensors. `round` is idempotent.

    `overflow` "keep" leaves Inf and NaN as they are; "saturate" makes of Inf the largest finite number and of NaN a 0,
    as chips in saturation mode do. `flush_subnormals` makes of numbers below the smallest normal one a 0.
    """

    precision: str = "float16"
    overflow: str = "keep"
    flush_subnormals: bool = False

    def __post_init__(self) -> None:
        if self.precision not in ("float16", "bfloat16"):
            raise InputError(f"an emulated device stores float16 or bfloat16, not {self.precision!r}")
        if self.overflow not in ("keep", "saturate"):
            raise InputError(f"overflow is 'keep' or 'saturate', not {self.overflow!r}")

    @property
    def dtype(self) -> DType:
        return DTYPES[self.precision]

    def round(self, array: Array) -> Array:
        """`array` as it reads back once stored: same dtype and shape; integers, bools and texts are left alone."""
        if array.dtype.kind != "f":
            return array
        with np.errstate(over="ignore", invalid="ignore"):
            stored: Array
            if self.precision == "float16":
                stored = array.astype(np.float16)
            else:
                stored = decode(
                    np.frombuffer(encode(array, self.dtype), np.uint8), self.dtype, array.size,
                ).reshape(array.shape)
            if self.overflow == "saturate":
                stored = np.nan_to_num(stored, nan=0.0, posinf=self.dtype.largest, neginf=-self.dtype.largest)
            if self.flush_subnormals:
                stored = np.where(np.abs(stored) < self.dtype.smallest_normal, stored.dtype.type(0), stored)
            return np.asarray(stored.astype(array.dtype), order="C")
