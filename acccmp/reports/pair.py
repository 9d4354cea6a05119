"""Pair: one port of the device or of the original, with the two tensors that stand for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from acccmp.core.dump import Port
from acccmp.core.layout import Shape
from acccmp.core.tensor import DType, TensorRef

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Pair:
    """One port, with the two tensors if both are there. `verdict` None: it is to be measured.

    `port` is the device's (the original's for `fused` and for what no device op has). `misfit` is why the shapes
    cannot be compared. `extent`: only so many elements along
    each of golden's axes are valid; along the axes `cut` the NPU's tensor may be larger. `coarsest`: the dtype that
    fixed limits go by. `quantised`: inside a quantised part of the network. `order` is the place in execution; `group`
    numbers the ops that implement the same originals (the vendor's Index).
    """

    port: Port
    golden_port: Port | None = None
    golden: TensorRef | None = field(default=None, repr=False)
    npu: TensorRef | None = field(default=None, repr=False)
    verdict: Verdict | None = None
    reason: str = ""
    notes: tuple[str, ...] = ()
    misfit: str = ""
    op_type: str = ""
    originals: tuple[str, ...] = ()
    npu_ops: tuple[str, ...] = ()
    order: int = 0
    group: int = 0
    is_output: bool = False
    floor: float = math.nan
    extent: Shape | None = None
    cut: frozenset[int] = frozenset()
    coarsest: DType | None = None
    quantised: bool = False
    address: int | None = None


@dataclass(frozen=True)
class Pairing:
    """All ports in execution order, what is to be said about the pairing as a whole, and in a line how well mapping,
    original and dump agree."""

    pairs: tuple[Pair, ...]
    notes: tuple[str, ...] = ()
    belongs: str = ""


class Verdict(StrEnum):
    """What became of one port; where several apply, the first in this order.

    >>> acccmp.Verdict("drift") is acccmp.Verdict.DRIFT
    True
    """

    UNREADABLE = "unreadable"
    DTYPE = "dtype"
    SHAPE = "shape"
    OVERFLOW = "overflow"
    NONFINITE = "nonfinite"
    DRIFT = "drift"
    MATCH = "match"
    NO_NPU = "no_npu"
    NO_GOLDEN = "no_golden"
    NOT_COMPARABLE = "not_comparable"
    FUSED = "fused"
    INSERTED = "inserted"


# Judged: the port counts for coverage. Fatal: it fails the report wherever it is. Bad: it is worth a look.
JUDGED = frozenset({
    Verdict.UNREADABLE, Verdict.DTYPE, Verdict.SHAPE, Verdict.OVERFLOW, Verdict.NONFINITE, Verdict.DRIFT, Verdict.MATCH,
})
FATAL = frozenset({Verdict.UNREADABLE, Verdict.DTYPE, Verdict.SHAPE, Verdict.OVERFLOW, Verdict.NONFINITE})
BAD = FATAL | {Verdict.DRIFT}
# Bad, and nothing is known of the numbers.
UNCOMPARED = frozenset({Verdict.UNREADABLE, Verdict.DTYPE, Verdict.SHAPE})
# Not expected of the device at all.
LISTED = frozenset({Verdict.FUSED, Verdict.INSERTED})
# Not part of coverage: those, and what cannot be compared by design.
UNDUE = LISTED | {Verdict.NOT_COMPARABLE}
