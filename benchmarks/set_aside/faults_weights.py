"""Wrong weights and biases."""

from __future__ import annotations

import math

import numpy as np
from habits import Array
from program import Twist
from site_of_fault import Site, kind


def _weight(site: Site) -> tuple[str, Array, int, int] | None:
    """Name and values of the op's weight, its axis of outputs and its axis of inputs."""
    for node in site.nodes("Conv", "ConvTranspose", "MatMul", "Gemm"):
        if node.inputs[1] in site.program.net.consts:
            rows, columns = (0, 1) if node.kind in ("Conv", "Gemm") else (1, 0)
            return node.inputs[1], site.const_of(node.inputs[1]), rows, columns
    return None


def _in_memory(site: Site) -> bool:
    return bool(site.rng.random() < 0.5)


@kind
def weight_scale(site: Site) -> Twist | None:
    found = _weight(site)
    if found is None:
        return None
    name, w, _, _ = found
    factor = float(site.one_of([0.5, 2.0])) if site.rng.random() < 0.25 else 1 + site.amount()
    return Twist({"factor": factor}, consts={name: w * np.float32(factor)}, wrong_in_memory=_in_memory(site))


def _weight_part(site: Site, along_rows: bool) -> Twist | None:
    found = _weight(site)
    if found is None:
        return None
    name, w, rows, columns = found
    where = rows if along_rows else columns
    count = w.shape[where]
    if count < 4:
        return None
    chosen = site.some_channels(count)
    manner = site.one_of(["zero", "exchanged", "scaled"])
    moved = np.moveaxis(w.copy(), where, 0)
    if manner == "zero":
        moved[chosen] = 0
    elif manner == "exchanged":
        moved[chosen] = moved[(chosen + 1 + int(site.rng.integers(count - 1))) % count]
    else:
        moved[chosen] *= np.float32(np.clip(1 + site.amount() * math.sqrt(count / len(chosen)), 0.05, 4))
    params = {"manner": manner, "rows" if along_rows else "channels": chosen.tolist()}
    return Twist(params, consts={name: np.moveaxis(moved, 0, where)}, wrong_in_memory=_in_memory(site))


@kind
def weight_rows(site: Site) -> Twist | None:
    return _weight_part(site, True)


@kind
def weight_channels(site: Site) -> Twist | None:
    return _weight_part(site, False)


@kind
def weight_of_other_layer(site: Site) -> Twist | None:
    found = _weight(site)
    if found is None:
        return None
    name, w, _, _ = found
    others = [
        n for n, v in site.program.net.consts.items()
        if n != name and n.endswith(".weight") and v.ndim >= 2 and v.size >= w.size
    ]  # fmt: skip
    same = [n for n in others if site.const_of(n).shape == w.shape]
    if not others:
        return None
    other = site.one_of(same or others)
    wrong = site.const_of(other).ravel()[: w.size].reshape(w.shape)
    return Twist({"from": other}, consts={name: wrong}, wrong_in_memory=_in_memory(site))


@kind
def bias(site: Site) -> Twist | None:
    found = _weight(site)
    if found is None:
        return None
    consts = site.program.net.consts
    cube = site.nodes("Conv", "ConvTranspose", "MatMul", "Gemm")[0]
    names = [n for n in cube.inputs[2:] if n in consts]
    for node in site.nodes("BatchNormalization"):
        names.append(node.inputs[2])
    for node in site.nodes("Add"):
        names += [n for n in node.inputs if n.endswith(".bias")]
    if not names:
        return None
    value = consts[names[-1]]
    manner = site.one_of(["left out", "scaled", "rolled", "twice"])
    wrong = {
        "left out": value * 0,
        "scaled": value * np.float32(1 + 3 * site.amount()),
        "rolled": np.roll(value, int(site.rng.integers(1, value.size))),
        "twice": value * 2,
    }[manner]
    return Twist({"manner": manner}, consts={names[-1]: wrong}, wrong_in_memory=_in_memory(site))
