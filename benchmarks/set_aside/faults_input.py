"""The network's input is prepared wrongly."""

from __future__ import annotations

from typing import Any

import numpy as np
from habits import Array


def wrong_input(name: str, x: Array, rng: np.random.Generator) -> tuple[Array, dict[str, Any]] | None:
    """The network's input as a wrong preparation would make it, or None if this input cannot have the fault."""
    if x.dtype.kind != "f":
        return None
    channels = x.shape[1]
    shape = (1, -1, *[1] * (x.ndim - 2))
    if name == "input_channel_order":
        order = np.arange(channels)[::-1] if x.ndim == 4 else rng.permutation(channels)
        return x[:, order].copy(), {"order": order.tolist()}
    if name == "input_mean":
        mean = np.asarray(rng.choice([-1, 1]) * rng.uniform(0.05, 2.0, size=channels), dtype=np.float32)
        return x + mean.reshape(shape), {"mean added": mean.tolist()}
    if name == "input_scale":
        factor = np.float32(rng.choice([1 / 255, 255 / 256, 0.225, 2.0, 1.06]))
        return x * factor, {"factor": float(factor)}
    if x.ndim != 4 or name not in ("input_layout", "input_resize"):
        return None
    if name == "input_layout":
        if rng.random() < 0.5:
            return x.transpose(0, 2, 3, 1).reshape(x.shape).copy(), {"fed": "NHWC for NCHW"}
        return x.swapaxes(2, 3).copy(), {"fed": "height and width exchanged"}
    size = x.shape[2]
    manner = ["nearest", "shifted", "cropped"][int(rng.integers(3))]
    if manner == "nearest":
        rows = np.arange(size) // 2 * 2
    elif manner == "shifted":
        rows = np.minimum(np.arange(size) + 1, size - 1)
    else:
        rows = np.clip(np.rint(np.linspace(size * 0.06, size * 0.94 - 1, size)), 0, size - 1).astype(int)
    return np.ascontiguousarray(x[:, :, rows][:, :, :, rows]), {"manner": manner}
