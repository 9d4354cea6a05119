"""Memory that was not written, written by another or damaged."""

from __future__ import annotations

import numpy as np
from encoder import from_bytes, logical_values, size_of, stored_bytes, to_bytes
from habits import Array
from program import Twist
from site_of_fault import EPS, Site, kind


@kind
def stale(site: Site) -> Twist | None:
    old = site.another_run().results[site.op.name].outputs[0]
    return Twist({"from": "the inference before"}, stored=lambda x: old.copy())


@kind
def zero(site: Site) -> Twist | None:
    return Twist({}, stored=lambda x: np.zeros_like(x))


@kind
def constant(site: Site) -> Twist | None:
    if not site.is_float or not site.computes:
        return None
    values = site.y.ravel()
    value = float(site.one_of([1.0, float(values[0]), float(values.max()), float(values.mean()), -1.0]))
    return Twist({"value": value}, result=lambda x: np.full_like(x, value))


@kind
def partly_written(site: Site) -> Twist | None:
    """Part of the output's memory still holds what was there before."""
    good = stored_bytes(site.y, site.tensor)
    unit = 32
    if len(good) < 8 * unit:
        return None
    count = len(good) // unit
    size = max(int(count * site.rng.uniform(0.01, 0.6)), 1)
    start = int(site.one_of([0, count - size, int(site.rng.integers(0, count - size + 1))]))
    manner = site.one_of(["zero", "another tensor", "the inference before"])
    old = bytes(len(good))
    if manner == "another tensor":
        earlier = [t for t in site.run.values if site.program.tensors[t].dtype == site.tensor.dtype]
        earlier = [t for t in earlier if t not in site.op.outputs]
        name = site.one_of(earlier)
        other = stored_bytes(site.run.values[name], site.program.tensors[name])
        old = (other * (len(good) // len(other) + 1))[: len(good)]
    elif manner == "the inference before":
        old = stored_bytes(site.another_run().results[site.op.name].outputs[0], site.tensor)
    low, high = start * unit, (start + size) * unit

    def stored(x: Array) -> Array:
        new = stored_bytes(x, site.tensor)
        return logical_values(new[:low] + old[low:high] + new[high:], site.tensor)

    return Twist({"bytes": [low, high], "of": len(good), "holds": manner}, stored=stored)


@kind
def batch_duplicated(site: Site) -> Twist | None:
    if not site.is_float or site.y.ndim < 2 or site.y.shape[0] < 2 or not site.computes:
        return None
    return Twist({"batch": 0}, result=lambda x: np.repeat(x[:1], x.shape[0], axis=0))


@kind
def bit_flip(site: Site) -> Twist | None:
    dtype = site.tensor.dtype
    if dtype not in EPS:
        return None
    width = 32 if dtype == "float32" else 16
    word = np.uint32 if width == 32 else np.uint16
    bit = int(site.rng.integers(width // 2, width))
    every = int(site.one_of([0, 0, 16, 64, 1024]))
    size = site.y.size
    if every and size > every:
        chosen = np.arange(int(site.rng.integers(every)), size, every)
    else:
        chosen = site.rng.choice(size, size=min(int(site.rng.integers(1, 9)), size), replace=False)

    def stored(x: Array) -> Array:
        raw = np.frombuffer(to_bytes(x, dtype), word).copy()
        raw[chosen] = raw[chosen] ^ word(1 << bit)
        return from_bytes(raw.tobytes(), dtype, x.shape)

    return Twist({"bit": bit, "elements": len(chosen), "every": every}, stored=stored)


@kind
def overwritten(site: Site) -> Twist | None:
    """Another op wrote over one of this op's inputs between its making and this op's reading."""
    program, ops = site.program, list(site.program.ops)
    if not site.computes:
        return None
    here = ops.index(site.op)
    for name in site.op.inputs:
        maker = next(i for i, op in enumerate(ops) if name in op.outputs)
        readers = [i for i, op in enumerate(ops) if name in op.inputs]
        if ops[maker].kind in ("view", "data") or any(ops[i].kind == "view" for i in readers):
            continue
        first = max([maker, *(i for i in readers if i < here)])
        tensor = program.tensors[name]
        old = stored_bytes(site.run.values[name], tensor)
        between = [op for op in ops[first + 1 : here] if op.kind in ("compute", "trans")]
        between = [op for op in between if size_of(program.tensors[op.outputs[0]]) <= len(old) + 512]
        if not between or any(i > here for i in readers):
            continue
        writer = site.one_of(between)
        other = program.tensors[writer.outputs[0]]
        new = stored_bytes(site.run.values[writer.outputs[0]], other)
        found = logical_values((new + old[len(new) :])[: len(old)], tensor)
        params = {"tensor": name, "writer": writer.name, "bytes": min(len(new), len(old)), "of": len(old),
                  "writer output": writer.outputs[0]}  # fmt: skip
        return Twist(params, dumped_inputs={name: found}, also=[writer.name, ops[maker].name])
    return None
