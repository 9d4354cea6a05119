"""A few seeded sums of a tensor: what a baseline keeps of it, so that a later release can be held against it."""

from __future__ import annotations

import base64
import math

import numpy as np

from acccmp.core.tensor import TensorRef

SKETCH_ROWS = 32
SKETCH_KEY = 0x5EED_ACC  # fixed: sketches of different releases must be comparable
SKETCH_MOST = 1 << 20  # elements; of larger tensors an evenly spaced part is taken


def _short(value: float) -> float | None:
    """Six digits: enough to judge by, and the same text on every machine. None for NaN; infinities stay."""
    return None if math.isnan(value) else float(f"{value:.6g}")


def sketch(ref: TensorRef) -> tuple[float, str]:
    """Norm of a tensor (or of an evenly spaced part of a large one) and its 32 signed sums, as base64 of float16
    fractions of the norm. Non-finite elements count as 0; complex ones by their magnitude."""
    flat = ref.numpy().reshape(-1)
    flat = flat[:: max(1, -(-flat.size // SKETCH_MOST))]
    values = np.abs(flat) if flat.dtype.kind == "c" else flat.astype(np.float64)
    values = np.where(np.isfinite(values), values, 0.0)
    norm = float(np.linalg.norm(values))
    bits = np.random.Philox(key=SKETCH_KEY)
    sums = np.zeros(SKETCH_ROWS)
    for start in range(0, values.size, 1 << 15):
        block = values[start : start + (1 << 15)]
        raw = bits.random_raw(block.size).astype("<u8").view(np.uint8).reshape(block.size, 8)[:, : SKETCH_ROWS // 8]
        signs = np.unpackbits(raw, axis=1).astype(np.float64) * 2 - 1
        sums += block @ signs
    parts = (sums / norm if norm else sums).astype("<f2")
    return _short(norm) or 0.0, base64.b64encode(parts.tobytes()).decode("ascii")
