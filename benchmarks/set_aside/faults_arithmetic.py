"""Types, sums and quantisation that are not what they should be."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from habits import Array, Habit, keep_bits, round_to
from kernels import KERNELS, Attrs
from program import Twist
from site_of_fault import Site, kind, tile


@kind
def nonfinite(site: Site) -> Twist | None:
    if not site.is_float or site.habit.saturates or not site.computes:
        return None
    cut = tile(site)
    few = site.rng.choice(site.y.size, size=min(3, site.y.size), replace=False)

    def result(x: Array) -> Array:
        x = x.copy()
        endless = np.full_like(x, np.inf)
        lost = endless - endless
        if cut is not None and few[0] % 2:
            x[cut] = lost[cut]
        else:
            x.ravel()[few] = lost.ravel()[few]
        return x

    return Twist({"few": bool(cut is None or few[0] % 2 == 0)}, result=result)


def _limit(site: Site) -> float:
    """A magnitude that 0.1 to 5 percent of the healthy results exceed."""
    size = np.abs(site.y[np.isfinite(site.y)])
    share = math.exp(site.rng.uniform(math.log(1e-3), math.log(0.05)))
    return float(np.quantile(size, 1 - share)) if size.size else 0.0


@kind
def overflow(site: Site) -> Twist | None:
    """An intermediate in float16 whose largest values become infinite."""
    limit = _limit(site) if site.is_float else 0.0
    if limit <= 0 or site.habit.saturates or not site.computes:
        return None
    factor = 65504.0 / limit

    def result(x: Array) -> Array:
        inner = round_to(x * factor, "float16")
        kept = x if site.habit.storage == "float32" else inner / factor
        return np.where(np.isinf(inner), inner, kept).astype(x.dtype)

    return Twist({"limit": limit}, result=result)


@kind
def saturation(site: Site) -> Twist | None:
    limit = _limit(site) if site.is_float else 0.0
    if limit <= 0 or not site.computes or site.nodes("Clip"):
        return None
    return Twist({"limit": limit}, result=lambda x: np.clip(x, -limit, limit).astype(x.dtype))


@kind
def flush_to_zero(site: Site) -> Twist | None:
    if not site.is_float or not site.computes:
        return None
    limit = 2.0 ** int(site.rng.integers(-12 if site.habit.flush else -14, -9))
    if np.count_nonzero((np.abs(site.y) < limit) & (site.y != 0)) < 64:
        return None
    return Twist({"limit": limit}, result=lambda x: np.where(np.abs(x) < limit, x.dtype.type(0), x))


@kind
def float16_accumulation(site: Site) -> Twist | None:
    if site.nodes("Conv", "ConvTranspose", "MatMul", "Gemm"):
        return Twist({"unit": "cube"}, habit=replace(site.habit, accumulator="float16"))
    sums = ("Softmax", "ReduceMean", "ReduceSum", "GlobalAveragePool", "AveragePool", "InstanceNormalization")
    if site.nodes(*sums) and site.habit.reduction == "float32":
        return Twist({"unit": "vector"}, habit=replace(site.habit, reduction="float16"))
    return None


@kind
def truncation(site: Site) -> Twist | None:
    if not site.is_float or not site.computes:
        return None
    if site.habit.storage == "float32" and not site.nodes("Conv", "ConvTranspose", "MatMul", "Gemm"):
        return None
    return Twist({"toward": "zero"}, habit=replace(site.habit, rounding="zero"))


def _quantizer(site: Site, name: str, change: Callable[[list[Any], Attrs], tuple[list[Any], Attrs]],
               params: dict[str, Any]) -> Twist:  # fmt: skip
    def kernel(h: Habit, args: list[Any], attrs: Attrs) -> list[Array]:
        return KERNELS["QuantizeLinear"](h, *change(args, attrs))

    return Twist(params, kernels={name: kernel})


@kind
def quantisation_scale(site: Site) -> Twist | None:
    nodes = site.nodes("QuantizeLinear")
    factor = float(site.one_of([0.5, 2.0, 1 + site.rng.uniform(0.03, 0.5), 1 - site.rng.uniform(0.03, 0.4)]))
    if not nodes:
        return None
    return _quantizer(site, nodes[0].name, lambda a, t: ([a[0], a[1] * factor, a[2]], t), {"factor": factor})


@kind
def quantisation_zero_point(site: Site) -> Twist | None:
    nodes = site.nodes("QuantizeLinear")
    step = int(site.one_of([-16, -3, -1, 1, 2, 8]))
    if not nodes:
        return None
    return _quantizer(site, nodes[0].name, lambda a, t: ([a[0], a[1], np.uint8(int(a[2]) + step)], t), {"step": step})


@kind
def quantisation_clip(site: Site) -> Twist | None:
    nodes = site.nodes("QuantizeLinear")
    if not nodes:
        return None
    zero_point = int(site.const_of(nodes[0].inputs[2]))
    limits = site.one_of([(0, 127), (zero_point - 16, zero_point + 15), (zero_point - 8, zero_point + 7),
                          (zero_point, 255), (1, 150), (zero_point - 32, zero_point + 31)])  # fmt: skip
    return _quantizer(site, nodes[0].name, lambda a, t: (a, {**t, "limits": limits}), {"limits": list(limits)})


@kind
def dtype_cast(site: Site) -> Twist | None:
    """The result went through a narrower type on its way."""
    if not site.is_float:
        return None
    options: dict[str, Callable[[Array], Array]] = {
        "float8 e4m3": lambda x: np.clip(keep_bits(x, 3), -448, 448),
        "float8 e5m2": lambda x: keep_bits(x, 2),
        "int32": lambda x: np.trunc(x),
        "int8": lambda x: np.clip(np.trunc(x), -128, 127),
    }
    if site.habit.storage != "bfloat16":
        options["bfloat16"] = lambda x: keep_bits(x, 7)
    if site.habit.storage == "float32":
        options["float16"] = lambda x: round_to(x, "float16")
    chosen = site.one_of(list(options))
    return Twist({"through": chosen}, result=lambda x: options[chosen](x).astype(x.dtype))


@kind
def index_tie(site: Site) -> Twist | None:
    nodes = site.nodes("ArgMax", "TopK")
    return Twist({"takes": "last"}, attrs={nodes[0].name: {"select_last_index": 1}}) if nodes else None


@kind
def unknown(site: Site) -> Twist | None:
    """Something that is none of the kinds: a smooth, value-dependent ripple with a random weight per element."""
    if not site.is_float or not site.computes or site.y.ndim < 3:
        return None
    size = abs(site.amount()) * site.rms
    pace = float(site.rng.uniform(0.5, 4) / max(site.rms, 1e-12))
    weights = site.rng.normal(0, 1, size=site.y.shape)
    return Twist({"size": size}, result=lambda x: (x + size * weights * np.cos(pace * x)).astype(x.dtype))
