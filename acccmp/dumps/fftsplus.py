"""Merging the sliced dumps of FFTS+ ops: several files of one op, one for each thread or slice, become one op.

Specs of the Ascend dump formats, section 1.6. The header of each file has an attribute whose value is a JSON object:
`threadMode` (0: slices named `_lxsliceN`, 1: threads numbered in the file name), `slice_instance_num` (how many files
there should be), `outputCutList` (per output the number of cuts of each axis) and `output_tensor_slice`
(`[thread][output][axis]` with `lower` and `higher`).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acccmp.core import layout as layouts
from acccmp.core.dump import Broken, Port
from acccmp.core.layout import Region
from acccmp.core.reading import parse_json
from acccmp.core.tensor import TensorRef
from acccmp.dumps import names
from acccmp.dumps.content import FileContent
from acccmp.errors import FormatError

AUTOMATIC = 1
_LONGEST_ATTRIBUTE = 4 << 20


@dataclass(frozen=True)
class JoinedRef(TensorRef):
    """A tensor that lies in pieces in several files: `parts`, joined along stored axis `axis`, read when asked for.

    `path` and `offset` are those of the first piece.
    """

    parts: tuple[TensorRef, ...] = ()
    axis: int = 0

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, {len(self.parts)} pieces along axis {self.axis})"

    def raw(self) -> bytes:
        """The bytes that the joined tensor would have in one file. FormatError when a piece cannot be read."""
        from acccmp.core.tensor import encode

        return encode(self._joined(), self.dtype)

    def _joined(self) -> NDArray[np.generic]:
        return np.concatenate([part.stored() for part in self.parts], axis=self.axis)

    def _decoded(self, region: Region | None) -> NDArray[np.generic]:
        return np.ascontiguousarray(self._cut(self._joined(), region))


def merge(contents: Sequence[FileContent]) -> tuple[list[FileContent], list[str]]:
    """`contents` with the slices of each FFTS+ op made one op, and what is to be said about it.

    The op gets its name without the slice's. Where pieces are missing, or do not have the size that the header says,
    the output is broken; inputs are those of the first piece. An op without an axis that is cut keeps its newest file.
    """
    plain: list[FileContent] = []
    sliced: dict[str, list[tuple[FileContent, Mapping[str, Any]]]] = {}
    for content in contents:
        told = slicing(content)
        if told is None:
            plain.append(content)
        else:
            sliced.setdefault(names.unsliced(content.op.name), []).append((content, told))
    notes: list[str] = []
    for name, pieces in sliced.items():
        plain.append(_merged(name, pieces))
    if sliced:
        notes.append(f"{len(sliced)} ops were put together from {sum(map(len, sliced.values()))} slices")
    return plain, notes


def slicing(content: FileContent) -> Mapping[str, Any] | None:
    """The slicing that a file's header tells of, or None for an op that is whole."""
    for value in content.op.attrs.values():
        if "slice_instance_num" not in value or len(value) > _LONGEST_ATTRIBUTE:
            continue
        try:
            told = parse_json(value, content.op.path)
        except FormatError:
            return None
        if isinstance(told, dict):
            return told
    return None


def _thread(content: FileContent) -> int:
    """Number of a piece: the thread of its file name, or N of `_lxsliceN`."""
    by_name = re.search(r"_lxslice([0-9]{1,9})$", content.op.name) or re.search(
        r"_lxslice([0-9]{1,9})\.", os.path.basename(content.op.path))
    if by_name:
        return int(by_name[1])
    return content.op.thread or 0


def _merged(name: str, pieces: list[tuple[FileContent, Mapping[str, Any]]]) -> FileContent:
    newest: dict[int, tuple[FileContent, Mapping[str, Any]]] = {}
    for content, told in sorted(pieces, key=lambda piece: piece[0].op.time):
        newest[_thread(content)] = (content, told)
    ordered = [newest[thread] for thread in sorted(newest)]
    first, told = ordered[0]
    cuts = told.get("outputCutList")
    axes = [_cut_axis(cut) for cut in cuts] if isinstance(cuts, list) else []
    if all(axis is None for axis in axes):
        last = max((content for content, _ in ordered), key=lambda content: content.op.time)
        note = f"{name}: its slices are cut along no axis; only the newest of {len(ordered)} was used"
        return replace(_renamed(last, name), notes=(*last.notes, *([note] if len(ordered) > 1 else [])))
    wanted = told.get("slice_instance_num")
    missing = "" if wanted == len(ordered) else f"{len(ordered)} of its {wanted} slices are there"
    op = replace(first.op, name=name, time=max(content.op.time for content, _ in ordered))
    whole = _renamed(first, name)
    refs = {port: ref for port, ref in whole.refs.items() if port.side == "input"}
    broken = [item for item in whole.broken if item.port is not None and item.port.side == "input"]
    outputs = sorted({p.index for content, _ in ordered for p in (*content.refs, *(b.port for b in content.broken if
                     b.port is not None)) if p.side == "output"})
    for index in outputs:
        port = Port(name, "output", index)
        try:
            refs[port] = _output(ordered, index, axes[index] if index < len(axes) else None, missing)
        except FormatError as error:
            broken.append(Broken(name, first.op.path, f"output {index}: {error}", op.op_type, port))
    return replace(
        first, op=op, refs=refs, broken=tuple(broken), notes=tuple(n for c, _ in ordered for n in c.notes),
        unread=sum(c.unread for c, _ in ordered),
    )


def _output(
    ordered: Sequence[tuple[FileContent, Mapping[str, Any]]], index: int, axis: int | None, missing: str,
) -> TensorRef:
    """Output `index`, joined; FormatError when a piece is missing or has another size than it should."""
    first, _ = ordered[0]
    if axis is None:  # the same in every thread
        ref = first.refs.get(Port(first.op.name, "output", index))
        if ref is None:
            raise FormatError(_why_broken(first, index))
        return ref
    if missing:
        raise FormatError(missing)
    parts = []
    for place, (content, told) in enumerate(ordered):
        ref = content.refs.get(Port(content.op.name, "output", index))
        if ref is None:
            raise FormatError(f"slice {place}: {_why_broken(content, index)}")
        parts.append(_piece(ref, told, place, index))
    shapes = {part.shape[:axis] + part.shape[axis + 1 :] for part in parts if axis < len(part.shape)}
    if len(shapes) != 1 or any(axis >= len(part.shape) for part in parts) or len({p.dtype for p in parts}) != 1:
        raise FormatError(f"its slices do not fit together along axis {axis}: {[list(p.shape) for p in parts]}")
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    whole = JoinedRef(
        parts[0].path, parts[0].dtype, tuple(shape), parts[0].offset, parts[0].dtype.nbytes(math.prod(shape)),
        parts[0].layout, groups=parts[0].groups, parts=tuple(parts), axis=axis,
    )
    own = first.refs[Port(first.op.name, "output", index)]
    if own.original_shape is not None and layouts.fits(
        own.layout, whole.shape, own.original_layout, own.original_shape, own.groups,
    ):
        return replace(whole, original_shape=own.original_shape, original_layout=own.original_layout)
    return whole


def _piece(ref: TensorRef, told: Mapping[str, Any], thread: int, index: int) -> TensorRef:
    """One piece in the shape that the slicing says (threads), or that the file says (named slices)."""
    bare = replace(ref, original_shape=None, original_layout=None)
    if told.get("threadMode") != AUTOMATIC:
        return bare
    try:
        bounds = told["output_tensor_slice"][thread][index]
        shape = tuple(int(axis["higher"]) - int(axis["lower"]) for axis in bounds)
    except (KeyError, IndexError, TypeError, ValueError):
        raise FormatError(f"its header does not say which part slice {thread} is") from None
    if any(n < 0 for n in shape) or len(shape) > 32 or ref.dtype.nbytes(math.prod(shape)) > (ref.size or ref.nbytes):
        raise FormatError(f"slice {thread} should be {list(shape)}, its file holds {list(ref.shape)}")
    return replace(bare, shape=shape)


def _why_broken(content: FileContent, index: int) -> str:
    for item in content.broken:
        if item.port is not None and item.port.side == "output" and item.port.index == index:
            return item.reason
    return f"{os.path.basename(content.op.path)} has no output {index}"


def _cut_axis(cuts: Any) -> int | None:
    """The first axis that is cut, or None where every count is 1."""
    if not isinstance(cuts, list):
        return None
    return next((axis for axis, count in enumerate(cuts) if isinstance(count, int) and count != 1), None)


def _renamed(content: FileContent, name: str) -> FileContent:
    return replace(
        content, op=replace(content.op, name=name),
        refs={port._replace(node=name): ref for port, ref in content.refs.items()},
        broken=tuple(replace(b, name=name, port=b.port and b.port._replace(node=name)) for b in content.broken),
    )
