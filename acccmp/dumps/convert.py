"""Conversions between dumps and plain arrays: dump -> npy or bin in a chosen layout and dtype, and back.

File names are the vendor's (specs of the Ascend dump formats, section 2.4), with the true shape where the vendor
prints the flat length, and none where the vendor puts one behind the index of an npy: a name does not depend on the
options. What arrays lose of a device's dump is kept beside them (see `acccmp.dumps.converted`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from acccmp.core.writing import append, make_folder, one_line, remove, replacing, write_text
from acccmp.dumps import arrays, ascend, converted, fftsplus, names, tree
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
    rows: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)  # for the list of converted tensors

    def __repr__(self) -> str:
        return f"ConvertResult({len(self.written)} files written, {len(self.failed)} failed)"

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
    source: converted.Source | None = None  # a dump file that was converted before


def convert(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], out: str | os.PathLike[str], *,
    to: Target = "npy", layout: str | None = None, dtype: str | DType | None = None, executor: Executor | None = None,
) -> ConvertResult:
    """Convert dumps and arrays, and write the results into the folder `out`.

    `paths` are dump files, npy, npz or bin files, or folders of them (of a tree of runs, the run that `read_dump`
    would take). `to` is "npy", "bin" or "dump". Arrays get the tensor's own shape and order, padding removed, as far
    as the header tells them (others stay as stored, and a note counts them); dumps keep the stored one. `layout` puts
    tensors whose axes have that many letters into that order (for "dump": into any stored layout); "stored" keeps the
    device's blocks. `dtype` casts floating-point tensors: integers and bools keep their type (a note counts them), and
    floats are never turned into integers (that fails: it would need a scale). Files that fail are in `failed` and in
    `out/convert_failed_file_list.txt`; the others are written all the same.

    Raises InputError for an unknown target, layout or dtype, for paths that are not there, and when two sources would
    be written to one file; FormatError when the list of converted tensors in `out` is damaged.
    """
    wanted = _checked(to, layout, dtype)
    out = Path(out)
    given = [Path(path) for path in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)]
    jobs = list(_jobs(given, to))
    if not jobs:
        raise InputError("nothing to convert: no dump and no array at the paths that were given")
    name, count = Counter(job.name for job in jobs).most_common(1)[0]
    if count > 1:
        raise InputError(f"{count} sources are named {name}: convert them into different folders")
    converted.read(out)
    make_folder(out)
    work = partial(_convert_batch, out=str(out), wish=_Wish(to, layout, wanted))
    batches = [jobs[start : start + _BATCH] for start in range(0, len(jobs), _BATCH)]
    done = list(executor.map(work, batches) if executor is not None else map(work, batches))
    result = _together(done)
    _write_lists(out, result)
    if result.rows:
        converted.write(out, result.rows, _model(given))
    return replace(result, notes=tuple(_summed(result.notes)), rows=())


def _model(paths: Sequence[Path]) -> str:
    """The name of the model whose dump is converted, as far as the folders say it."""
    if len(paths) != 1 or not paths[0].is_dir():
        return ""
    leaf, _ = tree.find_leaf(paths[0], tree.Choice())
    listed = converted.read(leaf)
    return listed.model if listed is not None else tree.place_of(paths[0], leaf).model


def _together(done: Sequence[ConvertResult]) -> ConvertResult:
    return ConvertResult(
        tuple(path for part in done for path in part.written), tuple(item for part in done for item in part.failed),
        tuple(item for part in done for item in part.casts), tuple(note for part in done for note in part.notes),
        tuple(row for part in done for row in part.rows),
    )


def _checked(to: str, layout: str | None, dtype: str | DType | None) -> DType | None:
    if to not in ("npy", "bin", "dump"):
        raise InputError(f"cannot convert to {to!r}; there are npy, bin and dump")
    known = ("stored", *layouts.PLAIN, *([*layouts.STORED_AS, "C1HWNCoC0"] if to == "dump" else []))
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


def _jobs(paths: Sequence[Path], to: Target) -> Iterator[_Job]:
    for path in paths:
        if path.is_dir():
            folder, _ = tree.find_leaf(path, tree.Choice())
            yield from _listed_jobs(folder)
            yield from _folder_jobs(folder, to)
        elif path.exists():
            yield next(_listed_jobs(path.parent, path.name), None) or _job(path, names.read_mapping(path.parent))
        else:
            raise InputError(f"nothing to convert at {path}: there is no such file or folder")


def _listed_jobs(folder: Path, file: str = "") -> Iterator[_Job]:
    """The dump files whose tensors lie converted in a folder; of one array's `file` alone if it is named."""
    listed = converted.read(folder)
    for source in listed.sources if listed is not None else ():
        content = source.content
        if source.reason or (file and file not in source.files.values()):
            continue
        if file:
            only = {port for port, name in source.files.items() if name == file}
            content = replace(
                content, refs={port: ref for port, ref in content.refs.items() if port in only},
                broken=tuple(item for item in content.broken if item.port in only),
            )
        yield _Job(content.op.path, source.name, source=replace(source, content=content))


def _job(path: Path, mapping: dict[str, str]) -> _Job:
    real = names.real_name(path.name, mapping)
    if names.parse_converted(real) is not None:
        return _Job(str(path), real, (str(path),))
    for suffix in (".npy", ".npz", ".bin", ".txt"):
        if real.endswith(suffix):
            return _Job(str(path), real.removesuffix(suffix))
    return _Job(str(path), real)


def _folder_jobs(folder: Path, to: Target) -> Iterator[_Job]:
    mapping = names.read_mapping(folder)
    together: dict[str, list[str]] = {}
    told = converted.read(folder)
    listed = told.files if told is not None else frozenset()
    golden = _golden_ports(folder, mapping) if to == "dump" else {}
    by_op: dict[str, list[tuple[Port, str]]] = {}
    for file, port in golden.items():
        by_op.setdefault(port.node, []).append((port, str(folder / file)))
    for op, tensors in by_op.items():
        yield _Job(tensors[0][1], op, tuple(path for _, path in tensors), tuple(port for port, _ in tensors))
    for entry in reading.listed(folder):
        if entry.is_folder or entry.name.startswith(".") or entry.name in (names.MAPPING_FILE, FAILED_LIST, *golden):
            continue
        if entry.name in listed:
            continue
        real = names.real_name(entry.name, mapping)
        one = names.parse_converted(real)
        if one is not None and to == "dump":
            together.setdefault(str(one.dump), []).append(entry.path)
        elif one is not None or real.endswith((".npy", ".npz", ".bin")):
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
class _Wish:
    """What was asked for, for all files."""

    to: Target
    layout: str | None
    dtype: DType | None


@dataclass(frozen=True)
class _Tensor:
    """One tensor on its way: where it came from, the name it gets, its ref."""

    port: Port
    name: str
    ref: TensorRef


@dataclass(frozen=True)
class _Opened:
    """The tensors of a job and what of it cannot be read; `content` where they are a device's."""

    op: DumpedOp
    tensors: list[_Tensor]
    failed: tuple[Failure, ...] = ()
    content: ascend.FileContent | None = None


@dataclass(frozen=True)
class _Made:
    """One array that was written: how it lies there, what a cast did, what is to be said."""

    path: Path
    held: converted.Held
    cast: Cast | None
    notes: tuple[str, ...]


def _convert_batch(jobs: Sequence[_Job], *, out: str, wish: _Wish) -> ConvertResult:
    return _together([_convert_one(job, Path(out), wish) for job in jobs])


def _convert_one(job: _Job, out: Path, wish: _Wish) -> ConvertResult:
    is_dump = job.source is None and not job.parts and not job.path.endswith((".npy", ".npz", ".bin", ".txt"))
    notes: list[str] = []
    try:
        opened = _open(job)
        if wish.layout not in (None, "stored") and opened.content is None:
            opened, notes = _with_axes(opened)
        if wish.to == "dump":
            return _to_dump(job, opened, out, wish, notes)
    except (FormatError, InputError, LayoutError) as error:
        reason = str(error)
        rows = [converted.lost_row(job.name, reason.removeprefix(f"{job.path}: "))] if is_dump else []
        return ConvertResult(failed=(Failure(job.path, reason),), rows=tuple(rows))
    is_slice = opened.content is not None and fftsplus.slicing(opened.content) is not None
    made: dict[Port, _Made] = {}
    wrong: dict[Port, str] = {}
    for tensor in opened.tensors:
        try:
            made[tensor.port] = _write_one(tensor, out, wish, is_slice)
        except (FormatError, InputError, LayoutError) as error:
            wrong[tensor.port] = str(error)
    rows = []
    if opened.content is not None:
        held = {port: item.held for port, item in made.items()}
        rows = [converted.row_of(job.name, opened.content, held, wrong)]
    return ConvertResult(
        tuple(item.path for item in made.values()),
        (*opened.failed, *(Failure(job.path, f"{port.side} {port.index}: {why}") for port, why in wrong.items())),
        tuple(item.cast for item in made.values() if item.cast is not None),
        (*notes, *(note for item in made.values() for note in item.notes)), tuple(rows),
    )


def _open(job: _Job) -> _Opened:
    """The tensors of a job, each with the stem of the name that its file gets."""
    if job.source is not None:
        return _device_file(job, job.source.content)
    if job.ports:
        golden = names.parse_golden(os.path.basename(job.path))
        op = DumpedOp(job.ports[0].node, "Op", job.path, golden.time if golden else 0)
        return _Opened(op, [_Tensor(port, "", arrays.read_array(part))
                            for port, part in zip(job.ports, job.parts, strict=True)])
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
        return _Opened(op, found)
    if job.path.endswith(".npz"):
        refs, wrong = arrays.read_npz(job.path)
        stem = Path(job.path).stem
        return _Opened(DumpedOp(stem, path=job.path), [
            _Tensor(Port(name, "output", 0), names.golden_name(name, "output", 0, 0).removesuffix(".npy"), ref)
            for name, ref in refs.items()
        ], tuple(Failure(job.path, why) for why in wrong.values()))
    if job.path.endswith((".npy", ".bin", ".txt")):
        golden = names.parse_golden(f"{job.name}.npy")
        op_name = golden.op if golden else job.name
        op = DumpedOp(op_name, "Op", job.path, golden.time if golden else 0)
        port = Port(op_name, "output", golden.index if golden else 0)
        return _Opened(op, [_Tensor(port, job.name, arrays.read_array(job.path))])
    return _device_file(job, ascend.read_file(job.path, job.name))


def _device_file(job: _Job, content: ascend.FileContent) -> _Opened:
    return _Opened(
        content.op,
        [_Tensor(port, f"{job.name}.{port.side}.{port.index}", ref) for port, ref in content.refs.items()],
        tuple(Failure(job.path, item.reason) for item in content.broken), content,
    )


def _write_one(tensor: _Tensor, out: Path, wish: _Wish, is_slice: bool) -> _Made:
    ref = tensor.ref
    values, order, notes = _ordered(ref, wish.layout, is_slice)
    row, told = _cast_to(ref.dtype, wish.dtype)
    counts: Cast | None = None
    if row is not ref.dtype:
        values, counts = cast(ref.stored() if values is None else values, ref.dtype, row)
    shape = ref.shape if values is None else values.shape
    if wish.to == "npy":
        if row.numpy is None:
            raise FormatError(f"{row.name} has no defined meaning as numbers; convert it to bin")
        path = _place(out, f"{tensor.name}.npy")
        _write_bytes(path, _npy_pieces(ref, row, shape, values))
    else:
        text = "_".join(map(str, shape)) or "1"
        path = _place(out, f"{tensor.name}.{text}.{row.name}.{order}.bin")
        _write_bytes(path, ascend.pieces(ref) if values is None else iter([encode(values, row)]))
    return _Made(
        path, converted.Held(path.name, row, shape, order), None if counts is None else replace(counts, path=path),
        (*notes, *told),
    )


def _ordered(
    ref: TensorRef, layout: str | None, is_slice: bool,
) -> tuple[NDArray[Any] | None, str, tuple[str, ...]]:
    """The numbers in the order that was asked for, None where the file has them so; that order; what is to be said."""
    if layout == "stored" or ref.dtype.numpy is None:
        return None, ref.layout, ()
    if is_slice:  # it was cut along an axis of what is stored
        return None, ref.layout, ("kept as stored: a slice of an FFTS+ op",)
    if layout is not None and _can_be(ref, layout):
        return in_layout(ref, layout), layout, ()
    if layouts.is_plain(ref.layout) and ref.original_shape in (None, ref.shape):
        return None, ref.layout, ()
    order = _own_order(ref)
    if order is None:
        return None, ref.layout, (f"kept as stored ({ref.layout}): the header does not tell the original's order",)
    return ref.seen_as(ref.original_shape, order).numpy(), order, ()


def _own_order(ref: TensorRef) -> str | None:
    """The order of the original's axes as the header states it, or the only one in which its shape fits; else None."""
    shape = ref.original_shape
    if shape is None:
        return None
    orders = [ref.original_layout] if ref.original_layout is not None else [
        *layouts.candidates(ref.layout, ref.shape, shape), *([] if len(shape) > 3 else ["ND"]),
    ]
    fitting = [name for name in orders if layouts.fits(ref.layout, ref.shape, name, shape, ref.groups)]
    if fitting and layouts.is_positional(ref.layout):
        return "ND"
    return fitting[0] if len(set(fitting)) == 1 else None


def _npy_pieces(ref: TensorRef, row: DType, shape: Shape, values: NDArray[Any] | None) -> Iterator[bytes]:
    assert row.numpy is not None
    yield arrays.npy_header(row.numpy, shape)
    plain = row.bits >= 8 and not row.name.startswith(("bfloat16", "float8", "hifloat", "complex32", "bool"))
    if values is None and plain:  # the stored bytes are numpy's
        yield from ascend.pieces(ref)
        return
    whole = ref.stored() if values is None else decode(np.frombuffer(encode(values, row), np.uint8), row, values.size)
    yield np.ascontiguousarray(whole).tobytes()


def _cast_to(row: DType, dtype: DType | None) -> tuple[DType, tuple[str, ...]]:
    """The type that a tensor of type `row` gets when `dtype` was asked for, and what is to be said about it."""
    if dtype is None or dtype is row or row.numpy is None:
        return row, ()
    if dtype.kind in ("float", "complex") and row.kind in ("int", "bool"):
        return row, (f"kept as {row.name}: integers are not turned into {dtype.name}",)
    return dtype, ()


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


def _with_axes(opened: _Opened) -> tuple[_Opened, list[str]]:
    """Plain arrays have no layout: those of four or five axes are taken as NCHW or NCDHW, and notes say so."""
    notes, tensors = [], []
    for tensor in opened.tensors:
        order = _AXES.get(len(tensor.ref.shape))
        if tensor.ref.layout == "ND" and order is not None:
            notes.append(f"taken as {order}: arrays do not say their layout")
            tensor = replace(tensor, ref=replace(tensor.ref, layout=order))
        tensors.append(tensor)
    return replace(opened, tensors=tensors), notes


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


def _to_dump(job: _Job, opened: _Opened, out: Path, wish: _Wish, notes: Sequence[str]) -> ConvertResult:
    stored = {tensor.port: _stored_as(tensor.ref, wish) for tensor in opened.tensors}
    made = [(port, item.ref) for port, item in stored.items()]
    casts = [item.cast for item in stored.values() if item.cast is not None]
    op = opened.op
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
    return ConvertResult(
        tuple(written), opened.failed, tuple(replace(c, path=written[0]) for c in casts),
        (*notes, *(note for item in stored.values() for note in item.notes)),
    )


@dataclass(frozen=True)
class _Stored:
    """A tensor as a device would store it, what a cast did, what is to be said."""

    ref: TensorRef
    cast: Cast | None = None
    notes: tuple[str, ...] = ()


def _stored_as(ref: TensorRef, wish: _Wish) -> _Stored:
    """The tensor as a device would store it in the layout and dtype that were asked for."""
    target, notes = _cast_to(ref.dtype, wish.dtype)
    layout = ref.layout if wish.layout in (None, "stored") or not _can_be(ref, wish.layout or "") else wish.layout
    if target is ref.dtype and layout == ref.layout:
        return _Stored(ref, None, notes)
    counts: Cast | None = None
    if layout == ref.layout:
        values, counts = cast(ref.stored(), ref.dtype, target)
        stored = TensorRef(ref.path, target, ref.shape, 0, None, layout, array=values, groups=ref.groups)
        return _Stored(stored.seen_as(ref.original_shape, ref.original_layout), counts, notes)
    shape, own = original_of(ref)
    values = ref.seen_as(shape, own).numpy()
    if target is not ref.dtype:
        values, counts = cast(values, ref.dtype, target)
    there = layouts.to_stored(values, own, layout, _c0(layout, target), ref.groups)
    return _Stored(
        TensorRef(ref.path, target, there.shape, 0, None, layout, shape, own, ref.groups, array=there), counts, notes,
    )


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
        write_text(path, "".join(
            f"{one_line(item.path)}\t{one_line(item.reason)}\n" for item in result.failed))
    else:
        remove(path)


def _summed(notes: Sequence[str]) -> Iterator[str]:
    for note in dict.fromkeys(notes):
        count = notes.count(note)
        yield f"{count} tensors were {note}" if count > 1 else f"one tensor was {note}"
