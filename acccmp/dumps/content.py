"""What one dump file holds, whatever its form: its op, its tensors as refs, and those whose bytes are not all there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from acccmp.core import layout as layouts
from acccmp.core.dump import Broken, DumpedOp, Port, Side
from acccmp.core.layout import Shape
from acccmp.core.tensor import DTYPES, DType, TensorRef
from acccmp.dumps import names

MOST_AXES = 32
_NO_LAYOUT = {40: "ND", 41: "ND", 42: "ND", 255: "ND"}  # RESERVED, ALL, NULL, MAX: no order is stated


@dataclass(frozen=True)
class FileContent:
    """What one dump file holds. `broken` lists tensors whose bytes are not all there, `unread` counts the L1 buffers
    and workspaces that were passed over. `is_named`: the op's name is the true one, not as file names have it."""

    op: DumpedOp
    refs: Mapping[Port, TensorRef]
    broken: tuple[Broken, ...] = ()
    notes: tuple[str, ...] = ()
    unread: int = 0
    is_named: bool = False

    @property
    def is_lost(self) -> bool:
        """Could nothing of the file be read?"""
        return any(item.port is None for item in self.broken)


@dataclass(frozen=True)
class Entry:
    """One tensor as a header describes it, before anybody looked whether its bytes are there.

    `dtype` None: the number `code` stands for no data type. `original_layout` None: the header does not state it.
    """

    side: Side
    index: int
    offset: int
    size: int
    dtype: DType | None
    code: int
    layout: str
    shape: Shape
    original_shape: Shape | None = None
    original_layout: str | None = None
    groups: int = 1


def layout_name(number: int) -> str:
    """Name of a format number; of a whole GE format word only the low byte counts."""
    low = number & 0xFF
    return _NO_LAYOUT.get(low) or layouts.FORMATS.get(low, f"FORMAT_{low}")


def named_op(path: str, by_name: DumpedOp | None, true_name: str = "") -> DumpedOp:
    """The op of a file, by what its name tells; `true_name` (from a header) replaces the flattened one."""
    op = by_name or DumpedOp(os.path.basename(path))
    return replace(op, path=path, name=true_name or op.name)


def lost(path: str, name: str, reason: str) -> FileContent:
    """What is left of a file that cannot be read at all; `name` is the one that it would have had."""
    op = named_op(path, names.parse_device(name))
    return FileContent(op, {}, (Broken(op.name, path, reason.removeprefix(f"{path}: "), op.op_type),))


def checked(op: DumpedOp, entries: Iterable[Entry], size: int, trailing: int) -> FileContent:
    """The tensors of a file of `size` bytes: those whose bytes lie in it as refs, the others as Broken."""
    refs: dict[Port, TensorRef] = {}
    broken: list[Broken] = []
    notes: list[str] = []
    for entry in entries:
        port = Port(op.name, entry.side, entry.index)
        ref = _ref(op.path, entry, size)
        if isinstance(ref, TensorRef):
            refs[port] = ref
        elif ref:
            broken.append(Broken(op.name, op.path, f"{entry.side} {entry.index}: {ref}", op.op_type, port))
    if not refs and not broken:
        notes.append(f"{op.path}: holds no input and no output")
    if trailing > 0:
        notes.append(f"{op.path}: {trailing} bytes follow the last tensor and were not read")
    elif trailing < 0 and not broken:
        notes.append(f"{op.path}: ends {-trailing} bytes before its header says, though no tensor lacks any")
    return FileContent(op, refs, tuple(broken), tuple(notes))


def _ref(path: str, entry: Entry, file_size: int) -> TensorRef | str:
    """The tensor's ref; or why it cannot be read; or "" for an optional tensor that the op was not given."""
    if entry.size == 0 and not entry.shape and (entry.dtype is None or entry.dtype.name == "undefined"):
        return ""
    if entry.dtype is None:
        return f"the data type {entry.code} is not known"
    axes = max(len(entry.shape), len(entry.original_shape or ()))
    if axes > MOST_AXES:
        return f"a shape of {axes} axes"
    ref = TensorRef(
        path, entry.dtype, entry.shape, entry.offset, entry.size, entry.layout, entry.original_shape,
        entry.original_layout or _order_of(entry), entry.groups,
    )
    if ref.dtype.numpy is None and ref.nbytes != entry.size:  # bytes without a meaning: as many as there are
        ref = replace(ref, dtype=ref.dtype if ref.dtype.bits == 8 else DTYPES["undefined"], shape=(entry.size,),
                      original_shape=None, original_layout=None)
    there = max(0, file_size - entry.offset)
    if ref.nbytes > entry.size:
        return f"{ref.dtype.name} {list(ref.shape)} needs {ref.nbytes} bytes, its header gives it {entry.size}"
    if ref.nbytes > there:
        return (f"{ref.dtype.name} {list(ref.shape)} needs {ref.nbytes} bytes at offset {entry.offset}, found "
                f"{there}: the file is cut off")
    return ref


def _order_of(entry: Entry) -> str | None:
    """The order of the original's axes where the header does not state it: the stored one if nothing was done to the
    tensor; of a blocked one, when the usual order (NCHW, NCDHW) does not fit, the only other one that does."""
    layout, shape, original = entry.layout, entry.shape, entry.original_shape
    if layouts.is_plain(layout):
        return layout if original == shape else None
    if len(original or ()) not in (4, 5) or layouts.fits(layout, shape, None, original or (), entry.groups):
        return None
    found = [name for name in layouts.PLAIN if len(name) == len(original or ()) and name.isupper()
             and layouts.fits(layout, shape, name, original or (), entry.groups)]
    return found[0] if len(found) == 1 else None
