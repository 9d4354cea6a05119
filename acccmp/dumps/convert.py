"""Conversions between dumps and plain arrays: dump -> npy or bin in a chosen layout and dtype, and back.

File names are the vendor's (specs of the Ascend dump formats, section 2.4), with the true shape where the vendor
prints the flat length.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from acccmp.core import layout as layouts
from acccmp.core import reading
from acccmp.core.dump import DumpedOp, Port, Side
from acccmp.core.layout import Shape
from acccmp.core.tensor import DType, TensorRef, decode, dtype_of, encode
from acccmp.core.writing import append, make_folder, remove, replacing, write_text
from acccmp.dumps import arrays, ascend, names, tree
from acccmp.errors import FormatError, InputError, LayoutError

Target = Literal["npy", "bin", "dump"]
FAILED_LIST = "convert_failed_file_list.txt"
_BATCH = 8  # files a task, so that a cluster is worth its round trip


@dataclass(frozen=True)
class Cast:
    """What a cast did to the values of one tensor: finite ones that became infinite, normal ones that became
    subnormal, and non-zero ones that became zero."""

    path: Path
    infinite: int = 0
    subnormal: int = 0
    zero: int = 0


@dataclass(frozen=True)
class Failure:
    """A file, or one tensor of it, that could not be converted, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class ConvertResult:
    """Files written, what failed, what casts did (only where they did something), and what is worth a note."""

    written: tuple[Path, ...] = ()
    failed: tuple[Failure, ...] = ()
    casts: tuple[Cast, ...] = ()
    notes: tuple[str, ...] = field(default=(), repr=False)

    @property
    def infinite(self) -> int:
        """Finite values that a cast made infinite, over all files."""
        return sum(item.infinite for item in self.casts)

    @property
    def subnormal(self) -> int:
        """Normal values that a cast made subnormal, over all files."""
        return sum(item.subnormal for item in self.casts)


@dataclass(frozen=True)
class _Job:
    """One source file, or all converted tensors of one dump, to be converted."""

    path: str
    name: str  # the name that its tensors get
    parts: tuple[str, ...] = ()  # files whose tensors make one dump
    ports: tuple[Port, ...] = ()  # of golden tensors, which do not say theirs in their names


def convert(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], out: str | os.PathLike[str], *,
    to: Target = "npy", layout: str | None = None, dtype: str | DType | None = None, executor: Executor | None = None,
) -> ConvertResult:
    """Convert dumps and arrays, and write the results into the folder `out`.

    `paths` are dump files, npy, npz or bin files, or folders of them (of a tree of runs, the run that `read_dump`
    would take). `to` is "npy", "bin" or "dump". `layout` puts tensors whose axes have that many letters into that
    order, padding removed (for "dump": into any stored layout); others stay as they are. Without it the stored shape
    is kept. `dtype` casts floating-point tensors: integers and bools keep their type (a note counts them), and floats
    are never turned into integers (that fails: it would need a scale). Files that fail are in `failed` and in
    `out/convert_failed_file_list.txt`; the others are written all the same.

    Raises InputError for an unknown target, layout or dtype, for paths that are not there, and when two sources would
    be written to one file.
    """
    wanted = _checked(to, layout, dtype)
    out = Path(out)
    jobs = list(_jobs([paths] if isinstance(paths, (str, os.PathLike)) else list(paths), to))
    if not jobs:
        raise InputError("nothing to convert: no dump and no array at the paths that were given")
    name, count = Counter(job.name for job in jobs).most_common(1)[0]
    if count > 1:
        raise InputError(f"{count} sources are named {name}: convert them into different folders")
    make_folder(out)
    work = partial(_convert_batch, out=str(out), to=to, layout=layout, dtype=wanted)
    batches = [jobs[start : start + _BATCH] for start in range(0, len(jobs), _BATCH)]
    done = list(executor.map(work, batches) if executor is not None else map(work, batches))
    result = ConvertResult(
        tuple(path for part in done for path in part.written), tuple(item for part in done for item in part.failed),
        tuple(item for part in done for item in part.casts), tuple(note for part in done for note in part.notes),
    )
    _write_lists(out, result)
    return replace(result, notes=tuple(_summed(result.notes)))


def _checked(to: str, layout: str | None, dtype: str | DType | None) -> DType | None:
    if to not in ("npy", "bin", "dump"):
        raise InputError(f"cannot convert to {to!r}; there are npy, bin and dump")
    known = (*layouts.PLAIN, *layouts.STORED_AS, "C1HWNCoC0") if to == "dump" else layouts.PLAIN
    if layout is not None and layout not in known:
        raise InputError(f"no layout {layout!r} for {to}; there are {', '.join(dict.fromkeys(known))}")
    if dtype is None:
        return None
    try:
        row = dtype_of(dtype)
    except (KeyError, TypeError):
        raise InputError(f"no data type named {dtype!r}") from None
    if row.numpy is None:
        raise InputError(f"{row.name} has no defined meaning as numbers")
    return row


# -- what there is to do -----------------------------------------------------------------------------------------


def _jobs(paths: Sequence[str | os.PathLike[str]], to: Target) -> Iterator[_Job]:
    for given in paths:
        path = Path(given)
        if path.is_dir():
            folder, _ = tree.find_leaf(path, tree.Choice())
            yield from _folder_jobs(folder, to)
        elif path.exists():
            yield _job(path, names.read_mapping(path.parent))
        else:
            raise InputError(f"nothing to convert at {path}: there is no such file or folder")


def _job(path: Path, mapping: dict[str, str]) -> _Job:
    real = names.real_name(path.name, mapping)
    converted = names.parse_converted(real)
    if converted is not None:
        return _Job(str(path), real, (str(path),))
    for suffix in (".npy", ".npz", ".bin", ".txt"):
        if real.endswith(suffix):
            return _Job(str(path), real.removesuffix(suffix))
    return _Job(str(path), real)


def _folder_jobs(folder: Path, to: Target) -> Iterator[_Job]:
    mapping = names.read_mapping(folder)
    together: dict[str, list[str]] = {}
    golden = _golden_ports(folder, mapping) if to == "dump" else {}
    by_op: dict[str, list[tuple[Port, str]]] = {}
    for file, port in golden.items():
        by_op.setdefault(port.node, []).append((port, str(folder / file)))
    for op, tensors in by_op.items():
        yield _Job(tensors[0][1], op, tuple(path for _, path in tensors), tuple(port for port, _ in tensors))
    for entry in reading.listed(folder):
        if entry.is_folder or entry.name.startswith(".") or entry.name in (names.MAPPING_FILE, FAILED_LIST, *golden):
            continue
        real = names.real_name(entry.name, mapping)
        converted = names.parse_converted(real)
        if converted is not None and to == "dump":
            together.setdefault(str(converted.dump), []).append(entry.path)
        elif converted is not None or real.endswith((".npy", ".npz", ".bin")):
            yield _job(Path(entry.path), mapping)
        elif names.parse_device(real) is not None and not real.endswith((".csv", ".txt", ".json", ".md")):
            yield _Job(entry.path, real)
    for name, parts in together.items():
        yield _Job(parts[0], name, tuple(parts))


def _golden_ports(folder: Path, mapping: dict[str, str]) -> dict[str, Port]:
    """Golden file -> its port, by the manifest if there is one, else by name; of one port the newest file."""
    told = arrays.read_manifest(folder)
    if told is not None:
        dump = arrays.read_golden(folder)
        return {os.path.basename(ref.path): port for port, ref in dump.refs.items()}
    found: dict[Port, tuple[int, str]] = {}
    for entry in reading.listed(folder):
        golden = names.parse_golden(names.real_name(entry.name, mapping))
        if golden is not None and names.parse_converted(names.real_name(entry.name, mapping)) is None:
            port = Port(golden.op, "output", golden.index)
            found[port] = max((golden.time, entry.name), found.get(port, (0, "")))
    return {file: port for port, (_, file) in found.items()}


# -- doing it ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tensor:
    """One tensor on its way: where it came from, the name it gets, its ref."""

    port: Port
    name: str
    ref: TensorRef


def _convert_batch(
    jobs: Sequence[_Job], *, out: str, to: Target, layout: str | None, dtype: DType | None,
) -> ConvertResult:
    parts = [_convert_one(job, Path(out), to, layout, dtype) for job in jobs]
    return ConvertResult(
        tuple(path for part in parts for path in part.written), tuple(item for part in parts for item in part.failed),
        tuple(item for part in parts for item in part.casts), tuple(note for part in parts for note in part.notes),
    )


def _convert_one(job: _Job, out: Path, to: Target, layout: str | None, dtype: DType | None) -> ConvertResult:
    notes: list[str] = []
    try:
        op, tensors, failed = _open(job)
        if layout is not None and (job.parts or job.path.endswith((".npy", ".npz", ".bin", ".txt"))):
            tensors = [_with_axes(tensor, notes) for tensor in tensors]
        if to == "dump":
            return _to_dump(job, op, tensors, failed, out, layout, dtype, notes)
    except (FormatError, InputError, LayoutError) as error:
        return ConvertResult(failed=(Failure(job.path, str(error)),))
    written, casts = [], []
    for tensor in tensors:
        try:
            path, cast_, note = _write_one(tensor, out, to, layout, dtype)
        except (FormatError, InputError, LayoutError) as error:
            failed.append(Failure(job.path, f"{tensor.port.side} {tensor.port.index}: {error}"))
            continue
        written.append(path)
        casts += [cast_] if cast_ else []
        notes += note
    return ConvertResult(tuple(written), tuple(failed), tuple(casts), tuple(notes))


def _open(job: _Job) -> tuple[DumpedOp, list[_Tensor], list[Failure]]:
    """The tensors of a job, each with the stem of the name that its file gets."""
    if job.ports:
        golden = names.parse_golden(os.path.basename(job.path))
        op = DumpedOp(job.ports[0].node, "Op", job.path, golden.time if golden else 0)
        return op, [_Tensor(port, "", arrays.read_array(part))
                    for port, part in zip(job.ports, job.parts, strict=True)], []
    if job.parts:
        found = []
        op = DumpedOp(job.name)
        mapping = names.read_mapping(Path(job.path).parent)
        for part in job.parts:
            real = names.real_name(os.path.basename(part), mapping)
            told = names.parse_converted(real)
            if told is None:
                raise FormatError(f"{part}: not the name of a converted tensor")
            op = ascend.named_op(part, told.dump)
            stem = f"{told.dump}.{told.side}.{told.index}"
            found.append(_Tensor(Port(op.name, told.side, told.index), stem, arrays.read_array(part)))
        return op, found, []
    if job.path.endswith(".npz"):
        refs, wrong = arrays.read_npz(job.path)
        stem = Path(job.path).stem
        return DumpedOp(stem, path=job.path), [
            _Tensor(Port(name, "output", 0), names.golden_name(name, "output", 0, 0).removesuffix(".npy"), ref)
            for name, ref in refs.items()
        ], [Failure(job.path, why) for why in wrong.values()]
    if job.path.endswith((".npy", ".bin", ".txt")):
        golden = names.parse_golden(f"{job.name}.npy")
        op_name = golden.op if golden else job.name
        op = DumpedOp(op_name, "Op", job.path, golden.time if golden else 0)
        return op, [_Tensor(Port(op_name, "output", golden.index if golden else 0), job.name,
                            arrays.read_array(job.path))], []
    content = ascend.read_file(job.path, job.name)
    return content.op, [
        _Tensor(port, f"{job.name}.{port.side}.{port.index}", ref) for port, ref in content.refs.items()
    ], [Failure(job.path, item.reason) for item in content.broken]


def _write_one(
    tensor: _Tensor, out: Path, to: Target, layout: str | None, dtype: DType | None,
) -> tuple[Path, Cast | None, list[str]]:
    ref = tensor.ref
    notes: list[str] = []
    values: NDArray[Any] | None = None
    row, order = ref.dtype, ref.layout
    moved = layout is not None and _can_be(ref, layout)
    if layout is not None and moved:
        values, order = in_layout(ref, layout), layout
    counts: Cast | None = None
    target = _cast_to(row, dtype, notes)
    if target is not row:
        values = ref.stored() if values is None else values
        values, counts = cast(values, row, target)
        row = target
    shape = ref.shape if values is None else values.shape
    if to == "npy":
        tail = f".{'x'.join(map(str, shape))}" if layout is not None and moved and shape else ""
        if row.numpy is None:
            raise FormatError(f"{row.name} has no defined meaning as numbers; convert it to bin")
        path = _place(out, f"{tensor.name}{tail}.npy")
        _write_bytes(path, _npy_pieces(ref, row, shape, values))
    else:
        text = "_".join(map(str, shape)) or "1"
        path = _place(out, f"{tensor.name}.{text}.{row.name}.{order}.bin")
        _write_bytes(path, ascend.pieces(ref) if values is None else iter([encode(values, row)]))
    return path, None if counts is None else replace(counts, path=path), notes


def _npy_pieces(ref: TensorRef, row: DType, shape: Shape, values: NDArray[Any] | None) -> Iterator[bytes]:
    assert row.numpy is not None
    yield arrays.npy_header(row.numpy, shape)
    plain = row.bits >= 8 and not row.name.startswith(("bfloat16", "float8", "hifloat", "complex32", "bool"))
    if values is None and plain:  # the stored bytes are numpy's
        yield from ascend.pieces(ref)
        return
    whole = ref.stored() if values is None else decode(np.frombuffer(encode(values, row), np.uint8), row, values.size)
    yield np.ascontiguousarray(whole).tobytes()


def _cast_to(row: DType, dtype: DType | None, notes: list[str]) -> DType:
    """The type that a tensor of type `row` gets when `dtype` was asked for."""
    if dtype is None or dtype is row or row.numpy is None:
        return row
    if dtype.kind in ("float", "complex") and row.kind in ("int", "bool"):
        notes.append(f"kept as {row.name}: integers are not turned into {dtype.name}")
        return row
    return dtype


def cast(values: NDArray[Any], row: DType, target: DType) -> tuple[NDArray[Any], Cast]:
    """`values` of type `row` rounded to `target`, as decoded numbers, and what that did to them.

    Infinities that were there already are not counted. Raises InputError for float to integer, complex to real, and
    integers that do not fit.
    """
    if row.kind != target.kind and not (row.kind == "bool" and target.kind == "int"):
        raise InputError(f"{row.name} is not cast to {target.name}: "
                         f"{'that needs a scale' if target.kind == 'int' else 'their kinds differ'}")
    if target.kind == "int":
        info = decoded_range(target)
        if values.size and (int(values.min()) < info[0] or int(values.max()) > info[1]):
            raise InputError(f"values from {values.min()} to {values.max()} do not fit into {target.name}")
    got = decode(np.frombuffer(encode(values, target), np.uint8), target, values.size).reshape(values.shape)
    if target.kind not in ("float", "complex"):
        return got, Cast(Path())
    infinite = subnormal = zero = 0
    planes = [(values.real, got.real), (values.imag, got.imag)] if target.kind == "complex" else [(values, got)]
    for before, after in planes:
        size, now = np.abs(np.asarray(before, np.float64)), np.abs(np.asarray(after, np.float64))
        infinite += int(np.count_nonzero(np.isfinite(size) & ~np.isfinite(now)))
        zero += int(np.count_nonzero((size > 0) & (now == 0)))
        subnormal += int(np.count_nonzero((size >= row.smallest_normal) & (now > 0) & (now < target.smallest_normal)))
    return got, Cast(Path(), infinite, subnormal, zero)


def decoded_range(row: DType) -> tuple[int, int]:
    """Smallest and largest integer of an integer type."""
    assert row.numpy is not None
    signed = row.numpy.kind == "i"
    return (-(1 << (row.bits - 1)), (1 << (row.bits - 1)) - 1) if signed else (0, (1 << row.bits) - 1)


def _can_be(ref: TensorRef, layout: str) -> bool:
    """Does asking for `layout` mean anything for this tensor? Not for a matrix when a 4-D order was asked for, nor
    for a tensor whose axes have no names."""
    shape, own = original_of(ref)
    row = layouts.STORED_AS.get(layout, "N C H W")  # C1HWNCoC0 has these letters, too
    if layout == "ND" or row.startswith("..."):
        return True
    return own != "ND" and len({word.strip("()")[0] for word in row.split()}) == len(shape)


_AXES = {4: "NCHW", 5: "NCDHW"}


def _with_axes(tensor: _Tensor, notes: list[str]) -> _Tensor:
    """A plain array has no layout: one of four or five axes is taken as NCHW or NCDHW, and a note says so."""
    order = _AXES.get(len(tensor.ref.shape))
    if tensor.ref.layout != "ND" or order is None:
        return tensor
    notes.append(f"taken as {order}: arrays do not say their layout")
    return replace(tensor, ref=replace(tensor.ref, layout=order))


def original_of(ref: TensorRef) -> tuple[Shape, str]:
    """Shape and plain layout of the tensor that a ref holds.

    As its header says; where that states no layout, the first of NCHW, NHWC, HWCN in which the shape fits what is
    stored. Without an original shape the padding stays. Raises LayoutError when that cannot be told.
    """
    shape = ref.original_shape
    if shape is None:
        shape = _padded(ref)
    if ref.original_layout is not None:
        return shape, ref.original_layout
    if layouts.is_plain(ref.layout) and (shape == ref.shape):
        return shape, ref.layout
    fitting = layouts.candidates(ref.layout, ref.shape, shape)
    return shape, fitting[0] if fitting else "ND"


def _padded(ref: TensorRef) -> Shape:
    """The original shape of a blocked tensor of which only the stored one is known, padding included."""
    stored = ref.shape
    if ref.layout in ("ND", *layouts.PLAIN):
        return stored
    if ref.layout.startswith("FRACTAL_NZ") and len(stored) >= 4:
        return (*stored[:-4], stored[-3] * stored[-2], stored[-4] * stored[-1])
    if ref.layout == "FRACTAL_ZZ" and len(stored) >= 4:
        return (*stored[:-4], stored[-4] * stored[-2], stored[-3] * stored[-1])
    if ref.layout.startswith("NC1HWC0") and len(stored) == 5:
        return (stored[0], stored[1] * stored[4], stored[2], stored[3])
    if ref.layout == "NDC1HWC0" and len(stored) == 6:
        return (stored[0], stored[2] * stored[5], stored[1], stored[3], stored[4])
    raise LayoutError(f"{ref.layout} {stored} without an original shape: height and width cannot be told")


def in_layout(ref: TensorRef, layout: str) -> NDArray[Any]:
    """The tensor in the plain order `layout`, padding removed. Raises LayoutError when the shapes do not fit."""
    shape, own = original_of(ref)
    values = ref.seen_as(shape, own).numpy()
    if layout in ("ND", own):
        return values
    return np.ascontiguousarray(layouts.to_stored(values, own, layout))


def _to_dump(
    job: _Job, op: DumpedOp, tensors: Sequence[_Tensor], failed: list[Failure], out: Path, layout: str | None,
    dtype: DType | None, notes: list[str],
) -> ConvertResult:
    casts: list[Cast] = []
    made = [(tensor.port, _stored_as(tensor.ref, layout, dtype, casts, notes)) for tensor in tensors]
    if job.path.endswith(".npz"):  # one op each
        written = [
            ascend.write_file(out, replace(op, name=port.node, op_type="Op", time=place), (), [ref])
            for place, (port, ref) in enumerate(made, 1)
        ]
    else:
        sides: dict[Side, dict[int, TensorRef]] = {"input": {}, "output": {}}
        for port, ref in made:
            sides[port.side][port.index] = ref
        lists = [[side.get(i) for i in range(max(side, default=-1) + 1)] for side in sides.values()]
        told = names.parse_device(job.name)
        where = out / names.fitting(job.name) if told is not None and len(job.name) < 200 else out
        written = [ascend.write_file(where, op, lists[0], lists[1])]
    return ConvertResult(tuple(written), tuple(failed), tuple(replace(c, path=written[0]) for c in casts), tuple(notes))


def _stored_as(
    ref: TensorRef, layout: str | None, dtype: DType | None, casts: list[Cast], notes: list[str],
) -> TensorRef:
    """The tensor as a device would store it in `layout` and `dtype`."""
    target = _cast_to(ref.dtype, dtype, notes)
    if layout is not None and not _can_be(ref, layout):
        layout = None
    if target is ref.dtype and (layout is None or layout == ref.layout):
        return ref
    if layout is None or layout == ref.layout:
        values, counts = cast(ref.stored(), ref.dtype, target)
        casts.append(counts)
        return replace(ref, dtype=target, array=values, fortran=False, size=None)
    shape, own = original_of(ref)
    values = ref.seen_as(shape, own).numpy()
    if target is not ref.dtype:
        values, counts = cast(values, ref.dtype, target)
        casts.append(counts)
    stored = layouts.to_stored(values, own, layout, _c0(layout, target), ref.groups)
    return TensorRef(ref.path, target, stored.shape, 0, None, layout, shape, own, ref.groups, array=stored)


def _c0(layout: str, dtype: DType) -> int:
    """Edge of a device's blocks: 32 bytes, but never fewer than 16 elements; 4 for the C04 layouts."""
    if layout.endswith("_C04"):
        return 4
    if layout.startswith("FRACTAL_NZ_C0_"):
        return int(layout.rpartition("_")[2])
    return max(16, 256 // dtype.bits)


# -- files -------------------------------------------------------------------------------------------------------


def _place(out: Path, name: str) -> Path:
    """A path in `out` for `name`, which came from a file name and may still be too long."""
    safe = name.replace("/", "_").replace("\\", "_").replace("\0", "_")
    fitting = names.fitting(safe, os.path.splitext(safe)[1])
    if fitting != safe:
        append(out / names.MAPPING_FILE, f"{fitting},{safe}\n")
    return out / fitting


def _write_bytes(path: Path, pieces: Iterator[bytes]) -> None:
    with replacing(path) as file:
        for piece in pieces:
            file.write(piece)


def _write_lists(out: Path, result: ConvertResult) -> None:
    path = out / FAILED_LIST
    if result.failed:
        write_text(path, "".join(f"{item.path}\t{item.reason}\n" for item in result.failed))
    else:
        remove(path)


def _summed(notes: Sequence[str]) -> Iterator[str]:
    for note in dict.fromkeys(notes):
        count = notes.count(note)
        yield f"{count} tensors were {note}" if count > 1 else f"one tensor was {note}"
