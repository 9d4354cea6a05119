"""Sizes that may be unknown: the arithmetic that the shape rules of several formats share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from acccmp.core.graph import Dim, Shape


def product(sizes: Iterable[Dim]) -> Dim:
    """None where one of the sizes is not known."""
    known = list(sizes)
    return math.prod(known) if all(isinstance(size, int) for size in known) else None  # type: ignore[arg-type]


def total(sizes: Iterable[Dim]) -> Dim:
    """None where one of the sizes is not known."""
    known = list(sizes)
    return sum(known) if all(isinstance(size, int) for size in known) else None  # type: ignore[arg-type]


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the front. IndexError beyond the rank."""
    if not -rank <= axis < rank:
        raise IndexError(f"axis {axis} of a tensor of rank {rank}")
    return axis % rank


def replaced(shape: Shape, axis: int, *sizes: Dim) -> Shape:
    """The shape with these sizes in the place of one axis; without any, the axis goes."""
    return (*shape[:axis], *sizes, *shape[axis + 1 :])


def agreed(shapes: Sequence[Shape], but: int | None = None) -> Shape:
    """One shape from several of one rank: the known sizes. ValueError where they disagree (axis `but` apart)."""
    out: list[Dim] = []
    for axis, sizes in enumerate(zip(*shapes, strict=True)):
        known = {size for size in sizes if size is not None}
        if len(known) > 1 and axis != but:
            raise ValueError(f"the inputs have sizes {sizes} on axis {axis}")
        out.append(next(iter(known)) if known else None)
    return tuple(out)


def concatenated(shapes: Sequence[Shape], axis: int) -> Shape:
    """The shape of tensors of one rank that are joined along an axis. ValueError where their other sizes disagree."""
    return replaced(agreed(shapes, axis), axis, total(shape[axis] for shape in shapes))


def with_free_size(sizes: Sequence[Dim], elements: Dim) -> Shape:
    """`sizes` of a tensor of so many elements, the one that is -1 worked out, or None where they do not tell it.

    ValueError where no size fits.
    """
    free: Dim = None
    known = product(size for size in sizes if size != -1)
    if -1 in sizes and isinstance(known, int) and isinstance(elements, int):
        if known == 0 or elements % known:
            raise ValueError(f"{elements} elements cannot take the shape {tuple(sizes)}")
        free = elements // known
    return tuple(free if size == -1 else size for size in sizes)
