"""Faults that can be planted in an emulated device: what each does, to which ops, and what its factor means.

Everything downstream is computed from the faulty tensor, so that a faulty dump looks as a faulty device's would.
Choices that a fault leaves open (which element, which channel) are drawn from its seed: the same fault is the same
numbers every time.
"""

from __future__ import annotations

import difflib
import math
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acccmp.core.graph import Graph, Node
from acccmp.core.tensor import DType, decode, encode
from acccmp.emulator.fusion import Plan, Step, attribute
from acccmp.errors import InputError

Array = NDArray[Any]

NORMS = frozenset({"BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization"})
POOLS = frozenset({"MaxPool", "AveragePool"})


@dataclass(frozen=True)
class Kind:
    """A row of the table of faults. `changes` is what it acts on; `factor` is the default, None where none is taken."""

    changes: str  # "output", "weights", "op"
    factor: float | None
    meaning: str
    fits: str


_FLOATING = "floating outputs"

KINDS: Mapping[str, Kind] = {
    "overflow": Kind(
        "output", 0.01, "share of the elements, the largest ones, whose sum passed the largest number", _FLOATING,
    ),
    "scale": Kind("output", 1.1, "the output is multiplied by this (a wrong quantisation scale)", _FLOATING),
    "zero": Kind("output", 0.25, "share of the channels, the last ones, that were never written", "any output"),
    "transpose": Kind(
        "output", None, "the last two axes are written in the wrong order", "outputs of two elements or more",
    ),
    "stale": Kind(
        "output", 1.0, "share of the elements, the last ones, left over from the frame before (the inputs mirrored)",
        "any output",
    ),
    "bitflip": Kind(
        "output", 14, "which bit of one stored element flips (15 is the sign, 14 the highest bit of the exponent)",
        _FLOATING,
    ),
    "noise": Kind(
        "output", 0.05, "standard deviation of added noise, as a share of the output's root mean square", _FLOATING,
    ),
    "bn-eps": Kind(
        "op", 1e-3, "epsilon that the device uses (where the model has this one too: 1e-5)",
        "normalisations and the fused ops that contain one",
    ),
    "ceil-mode": Kind(
        "op", None, "windows are laid for the other rounding mode",
        "MaxPool and AveragePool whose size depends on the rounding mode",
    ),
    "bad-weight": Kind(
        "weights", 0.25, "share of the output channels that got their neighbour's weights",
        "ops with constant floating weights",
    ),
}


@dataclass(frozen=True)
class Fault:
    """A fault to plant on the original op `op`, or on the fused op that contains it; see `KINDS`.

    >>> acccmp.Fault.parse("op=block2/conv2,kind=scale,factor=0.25")
    Fault(op='block2/conv2', kind='scale', factor=0.25, seed=0)
    """

    op: str
    kind: str
    factor: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            close = difflib.get_close_matches(self.kind, KINDS, n=2, cutoff=0.5)
            hint = f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(KINDS)}"
            raise InputError(f"no kind of fault named {self.kind!r}; {hint}")
        if self.factor is not None:
            self._check_factor(self.factor)

    def _check_factor(self, factor: float) -> None:
        default = KINDS[self.kind].factor
        if default is None:
            raise InputError(f"a {self.kind} fault takes no factor, got {factor:g}; leave it out")
        share = self.kind in ("overflow", "zero", "stale", "bad-weight")
        if not math.isfinite(factor) or (share and not 0 < factor <= 1) or (self.kind == "noise" and factor <= 0):
            raise InputError(f"factor={factor:g} makes no sense for {self.kind}: {KINDS[self.kind].meaning}")
        if self.kind == "bitflip" and (factor != int(factor) or not 0 <= factor <= 15):
            raise InputError(f"factor={factor:g} is no bit of a 16-bit number: bitflip takes 0 to 15")
        if self.kind == "bn-eps" and factor <= 0:
            raise InputError(f"factor={factor:g} is no epsilon: bn-eps takes a positive number")

    @classmethod
    def parse(cls, text: str) -> Fault:
        """`op=NAME,kind=KIND[,factor=F][,seed=N]`, in any order; a name may contain commas and equal signs.

        Raises InputError.
        """
        cut = re.split(r"(?:^|,)(op|kind|factor|seed)=", text)
        keys, values = cut[1::2], cut[2::2]
        found = dict(zip(keys, values, strict=True))
        if cut[0] or len(found) != len(keys) or not {"op", "kind"} <= found.keys():
            raise InputError(
                f"a fault is op=NAME,kind=KIND[,factor=F][,seed=N], got {text!r}; kinds: {', '.join(KINDS)}"
            )
        try:
            factor = float(found["factor"]) if "factor" in found else None
            seed = int(found.get("seed", "0"))
        except ValueError:
            raise InputError(f"factor and seed of a fault are numbers, got {text!r}") from None
        return cls(found["op"], found["kind"], factor, seed)

    def __str__(self) -> str:
        more = f",factor={self.factor:g}" if self.factor is not None else ""
        return f"op={self.op},kind={self.kind}{more}" + (f",seed={self.seed}" if self.seed else "")

    @property
    def strength(self) -> float:
        """The factor, or the default of its kind; NaN for kinds that take none."""
        given = self.factor if self.factor is not None else KINDS[self.kind].factor
        return math.nan if given is None else given

    def random(self) -> np.random.Generator:
        """The source of the choices that the fault leaves open: its own seed, op and kind, nothing else."""
        return np.random.default_rng([self.seed, zlib.crc32(f"{self.op}\0{self.kind}".encode())])


def place(faults: tuple[Fault, ...], graph: Graph, plan: Plan) -> dict[str, list[Fault]]:
    """The faults of each step, by step name; an op may be given by its name, its output's or that of the fused op.

    Raises UnknownName for ops that the model does not have, and InputError for one that the compiler folds away or
    that the kind cannot apply to.
    """
    found: dict[str, list[Fault]] = {}
    fused = {step.name: step.nodes[0].name for step in plan.steps}
    for fault in faults:
        node = graph.node(fused.get(fault.op, fault.op))
        step = plan.step_of(node.name)
        fault = replace(fault, op=node.name)
        if step.folded:
            raise InputError(
                f"no fault can be planted on {fault.op}: it is computed at compile time, no device op runs it"
            )
        if not _fits(fault, node, step, plan):
            able = [
                other.nodes[0].name for other in plan.steps
                if not other.folded and any(_fits(fault, member, other, plan) for member in other.nodes)
            ]
            which = f"such as {', '.join(able[:5])}" if able else "and this model has none"
            raise InputError(
                f"a {fault.kind} fault cannot be planted on {fault.op} ({node.op_type}); "
                f"it fits {KINDS[fault.kind].fits}, {which}"
            )
        found.setdefault(step.name, []).append(fault)
    return found


def _fits(fault: Fault, node: Node, step: Step, plan: Plan) -> bool:
    if fault.kind == "bn-eps":
        return normalisation(fault, step) is not None
    if fault.kind == "ceil-mode":
        return node.op_type in POOLS
    if fault.kind == "bad-weight":
        return any(tensor in plan.constants for member in step.nodes for tensor in member.inputs)
    return True


# -- what a fault does to an output ------------------------------------------------------------------------------


def check_output(fault: Fault, array: Array) -> None:
    """Raises InputError when the kind cannot apply to an output like this one."""
    floating = array.dtype.kind == "f"
    if not floating and KINDS[fault.kind].fits == _FLOATING:
        raise InputError(
            f"a {fault.kind} fault cannot be planted on {fault.op}: its output is {array.dtype}; "
            f"it fits {KINDS[fault.kind].fits}"
        )
    if fault.kind == "transpose" and array.size < 2:
        raise InputError(f"a transpose fault cannot be planted on {fault.op}: its output has {array.size} elements")


def spoil(fault: Fault, array: Array, before: Array | None, dtype: DType) -> Array:
    """`array` (the op's output, not yet rounded) as the fault leaves it; `before` is the output of the earlier frame.

    Raises InputError when the kind cannot apply to an output like this one.
    """
    check_output(fault, array)
    if array.size == 0:
        return array
    if fault.kind == "stale":
        assert before is not None
        return _stale(fault, array, before)
    if fault.kind == "bitflip":
        return _bitflip(fault, array, dtype)
    return _SPOILERS[fault.kind](fault, array)


def _overflow(fault: Fault, array: Array) -> Array:
    count = max(1, round(fault.strength * array.size))
    out = array.copy().reshape(-1)
    largest = np.argsort(-np.abs(np.nan_to_num(out)), kind="stable")[:count]
    out[largest] = np.copysign(np.inf, out[largest])
    return out.reshape(array.shape)


def _scale(fault: Fault, array: Array) -> Array:
    out: Array = (array * array.dtype.type(fault.strength)).astype(array.dtype)
    return out


def _zero(fault: Fault, array: Array) -> Array:
    out = array.copy()
    axis = channel_axis(array.ndim)
    if axis is None:
        return np.zeros_like(array)
    channels = array.shape[axis]
    count = max(1, round(fault.strength * channels))
    out[(slice(None),) * axis + (slice(channels - count, None),)] = 0
    return out


def _transpose(fault: Fault, array: Array) -> Array:
    long_axes = [axis for axis, size in enumerate(array.shape) if size > 1]
    if len(long_axes) >= 2:
        turned = np.swapaxes(array, *long_axes[-2:]).reshape(array.shape)
        if not np.array_equal(turned, array, equal_nan=array.dtype.kind == "f"):
            return np.ascontiguousarray(turned)
    # A vector is stored as rows of a matrix; read column by column.
    width = max(2, math.isqrt(array.size))
    order = np.arange(-(-array.size // width) * width).reshape(-1, width).T.reshape(-1)
    return np.ascontiguousarray(array.reshape(-1)[order[order < array.size]].reshape(array.shape))


def _stale(fault: Fault, array: Array, before: Array) -> Array:
    if before.shape != array.shape:
        raise InputError(f"a stale fault cannot be planted on {fault.op}: its output's shape depends on the values")
    out = array.copy().reshape(-1)
    first = out.size - max(1, round(fault.strength * out.size))
    out[first:] = before.reshape(-1)[first:]
    return out.reshape(array.shape)


def _bitflip(fault: Fault, array: Array, dtype: DType) -> Array:
    codes = np.frombuffer(encode(array, dtype), "<u2").copy()
    there = np.flatnonzero(array.reshape(-1))
    one = int(fault.random().choice(there if there.size else np.arange(array.size)))
    codes[one] ^= np.uint16(1 << int(fault.strength))
    return decode(codes.view(np.uint8), dtype, array.size).astype(array.dtype).reshape(array.shape)


def _noise(fault: Fault, array: Array) -> Array:
    finite = array[np.isfinite(array)].astype(np.float64)
    level = math.sqrt(float(np.mean(finite**2))) if finite.size else 0.0
    return (array + fault.strength * level * fault.random().standard_normal(array.shape)).astype(array.dtype)


_SPOILERS: Mapping[str, Callable[[Fault, Array], Array]] = {
    "overflow": _overflow, "scale": _scale, "zero": _zero, "transpose": _transpose, "noise": _noise,
}


def channel_axis(rank: int) -> int | None:
    """Where the channels are: axis 1 of pictures and sequences (N C ...), the last axis of matrices and vectors."""
    return None if rank == 0 else 1 if rank >= 3 else rank - 1


def mirrored(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The frame before, for stale outputs: every input mirrored along its last axis."""
    return {name: np.ascontiguousarray(array[..., ::-1]) if array.ndim else array for name, array in inputs.items()}


# -- what a fault does to weights and attributes -----------------------------------------------------------------


def normalisation(fault: Fault, step: Step) -> Node | None:
    """The normalisation that a bn-eps fault is for: the named node itself, else the one its fused op contains."""
    able = [node for node in step.nodes if node.op_type in NORMS]
    return next((node for node in able if node.name == fault.op), able[0] if able else None)


def wrong_epsilon(fault: Fault, node: Node) -> float:
    """The epsilon that the faulty device uses in a normalisation."""
    own = float(attribute(node, "epsilon", 1e-5))
    if fault.factor is None and math.isclose(own, fault.strength, rel_tol=1e-3):
        return 1e-5
    return fault.strength


def weight_axis(node: Node, slot: int, rank: int) -> int:
    """The axis of output channels of a weight tensor."""
    if node.op_type == "ConvTranspose" and slot == 1:
        return min(1, rank - 1)
    if node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transB", 0)):
        return rank - 1
    return 0


def spoil_weights(fault: Fault, array: Array, axis: int) -> Array:
    """`array` where a share of the output channels has the weights of its neighbour; a lone channel is halved."""
    channels = array.shape[axis] if array.ndim else 1
    if channels < 2:
        halved: Array = (array * array.dtype.type(0.5)).astype(array.dtype)
        return halved
    count = max(1, round(fault.strength * channels))
    chosen = np.sort(fault.random().choice(channels, size=count, replace=False))
    order = np.arange(channels)
    order[chosen] = (chosen + 1) % channels
    return np.take(array, order, axis)


@dataclass(frozen=True)
class Misplaced:
    """How a pool whose windows are laid for the other rounding mode is to be run: with these `pads` (as it is: None);
    then each spatial axis is cut to `sizes`, and its last `missing` places are zero because no window was laid there.
    """

    sizes: tuple[int, ...]
    missing: tuple[int, ...]
    pads: tuple[int, ...] | None = None


def other_rounding(fault: Fault, node: Node, shape: tuple[int, ...]) -> Misplaced:
    """What a ceil-mode fault makes of a pool that reads a tensor of `shape`.

    A pool that rounds down gets the padding that rounding up would add, in front of the data (every window moves); one
    that rounds up loses the windows that reach over the edge. Raises InputError where the two modes agree.
    """
    kernel = [int(k) for k in node.attrs["kernel_shape"]]
    rank = len(kernel)
    strides = [int(s) for s in attribute(node, "strides", [1] * rank)]
    dilations = [int(d) for d in attribute(node, "dilations", [1] * rank)]
    pads = [int(p) for p in attribute(node, "pads", [0] * 2 * rank)]
    auto = attribute(node, "auto_pad", "NOTSET")
    if (auto.decode() if isinstance(auto, bytes) else auto) not in ("NOTSET", "VALID"):
        raise InputError(
            f"a ceil-mode fault cannot be planted on {fault.op}: its padding is automatic, nothing is rounded"
        )
    spans = [dilations[axis] * (kernel[axis] - 1) + 1 for axis in range(rank)]
    room = [shape[2 + axis] + pads[axis] + pads[rank + axis] - spans[axis] for axis in range(rank)]
    rest = tuple(room[axis] % strides[axis] for axis in range(rank))
    down = tuple(room[axis] // strides[axis] + 1 for axis in range(rank))
    moved = tuple(
        pads[axis] + min(-room[axis] % strides[axis], kernel[axis] - 1 - pads[axis]) for axis in range(rank)
    )
    if attribute(node, "ceil_mode", 0) and any(rest):
        up = tuple(size + bool(left) for size, left in zip(down, rest, strict=True))
        return Misplaced(up, tuple(int(left > 0) for left in rest))
    if any(rest) and moved != tuple(pads[:rank]):
        return Misplaced(down, (0,) * rank, moved + tuple(pads[rank:]))
    raise InputError(
        f"a ceil-mode fault cannot be planted on {fault.op}: its windows divide {tuple(shape[2:])} evenly, "
        "so both rounding modes agree"
    )
