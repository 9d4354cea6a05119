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
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from acccmp.core import layout as layouts
from acccmp.core import reading
from acccmp.core.dump import Broken, Dump, DumpedOp, Port, Side
from acccmp.core.layout import Shape
from acccmp.core.progress import Progress, counted, no_progress
from acccmp.core.tensor import DType, TensorRef, decode, dtype_of, encode
from acccmp.core.writing import append, make_folder, one_line, remove, replacing, write_text
from acccmp.dumps import arrays, ascend, converted, fftsplus, names, tree
from acccmp.dumps.content import FileContent
from acccmp.errors import FormatError, InputError, LayoutError

Target = Literal["npy", "bin", "dump"]
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
    """One source that is converted: a file, or the arrays of one op.

    `content` is what is known of its tensors already. `is_device`: a device's dump file, or what was made of one, with
    its list.
    """

    path: str
    name: str  # the name that its tensors get
    is_device: bool = False
    content: FileContent | None = None


def convert(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], out: str | os.PathLike[str], *,
    to: Target = "npy", layout: str | None = None, dtype: str | DType | None = None, executor: Executor | None = None,
    progress: Progress = no_progress,
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
    working = executor.map(work, batches) if executor is not None else map(work, batches)
    done = list(counted(working, f"converting {len(jobs)} files", len(batches), progress))
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
    known = ("stored", *layouts.PLAIN, *(layouts.all_layouts() if to == "dump" else ()))
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
            real = names.real_name(path.name, names.read_mapping(path.parent))
            yield next(_listed_jobs(path.parent, path.name), None) or _file_job(str(path), real)
        else:
            raise InputError(f"nothing to convert at {path}: there is no such file or folder")


def _listed_jobs(folder: Path, file: str = "") -> Iterator[_Job]:
    """The dump files whose tensors lie converted in a folder; of one array's `file` alone if it is named."""
    listed = converted.read(folder)
    for source in listed.sources if listed is not None else ():
        content = source.content
        if content.is_lost or (file and file not in source.files.values()):
            continue
        if file:
            only = {port for port, name in source.files.items() if name == file}
            content = replace(
                content, refs={port: ref for port, ref in content.refs.items() if port in only},
                broken=tuple(item for item in content.broken if item.port in only),
            )
        yield _Job(content.op.path, source.name, True, content)


def _file_job(path: str, real: str) -> _Job:
    told = names.parse_converted(real)
    if told is not None:
        return _Job(path, f"{names.device_name(told.op)}.{told.port.side}.{told.port.index}")
    stem, suffix = os.path.splitext(real)
    return _Job(path, stem) if suffix in arrays.SUFFIXES else _Job(path, real, True)


def _folder_jobs(folder: Path, to: Target) -> Iterator[_Job]:
    mapping = names.read_mapping(folder)
    told = converted.read(folder)
    done = {names.MAPPING_FILE, names.FAILED_LIST, *(told.files if told is not None else ())}
    if to == "dump":
        for content in _golden_ops(folder, mapping):
            yield _Job(content.op.path, content.op.name, content=content)
            paths = [*(ref.path for ref in content.refs.values()), *(item.path for item in content.broken)]
            done |= {os.path.basename(path) for path in paths}
    together: dict[str, list[tuple[str, names.TensorName]]] = {}
    for entry in reading.listed(folder):
        if entry.is_folder or entry.name.startswith(".") or entry.name in done:
            continue
        real = names.real_name(entry.name, mapping)
        one = names.parse_converted(real)
        if one is not None and to == "dump":
            together.setdefault(names.device_name(one.op), []).append((entry.path, one))
        elif one is not None or real.endswith((".npy", ".npz", ".bin")):
            yield _file_job(entry.path, real)
        elif names.parse_device(real) is not None and not real.endswith((".csv", ".txt", ".json", ".md")):
            yield _Job(entry.path, real, True)
    for name, files in together.items():
        for content in _ops_of(arrays.tensors_in(folder, files, folder)):
            yield _Job(content.op.path, name, content=content)


def _golden_ops(folder: Path, mapping: Mapping[str, str]) -> Iterator[FileContent]:
    """The ops whose golden tensors lie in a folder, by its manifest if there is one, else by the files' names."""
    if arrays.read_manifest(folder) is not None:
        return _ops_of(arrays.read_golden(folder))
    real = {entry.name: names.real_name(entry.name, mapping) for entry in reading.listed(folder)}
    golden = [file for file, name in real.items() if names.parse_golden(name) and not names.parse_converted(name)]
    return _ops_of(arrays.read_flat_golden(folder, golden))


def _ops_of(dump: Dump) -> Iterator[FileContent]:
    """A Dump of arrays, op by op."""
    refs: dict[str, dict[Port, TensorRef]] = {}
    broken: dict[str, list[Broken]] = {}
    for port, ref in dump.refs.items():
        refs.setdefault(port.node, {})[port] = ref
    for item in dump.broken:
        broken.setdefault(item.name, []).append(item)
    for name, op in dump.ops.items():
        yield FileContent(replace(op, op_type=op.op_type or "Op"), refs.get(name, {}), tuple(broken.get(name, ())))


# -- doing it ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Wish:
    """What was asked for, for all files."""

    to: Target
    layout: str | None
    dtype: DType | None


class _Made(NamedTuple):
    """A tensor in the form that was asked for, what a cast did to it, what is to be said."""

    ref: TensorRef
    cast: Cast | None
    notes: tuple[str, ...]


def _convert_batch(jobs: Sequence[_Job], *, out: str, wish: _Wish) -> ConvertResult:
    return _together([_convert_one(job, Path(out), wish) for job in jobs])


def _convert_one(job: _Job, out: Path, wish: _Wish) -> ConvertResult:
    notes: list[str] = []
    try:
        content = _content(job)
        if wish.layout not in (None, "stored") and not job.is_device:
            content, notes = _with_axes(content)
        if wish.to == "dump":
            return _to_dump(job, content, out, wish, notes)
    except (FormatError, InputError, LayoutError) as error:
        reason = str(error)
        is_lost = job.is_device and job.content is None
        rows = [converted.lost_row(job.name, reason.removeprefix(f"{job.path}: "))] if is_lost else []
        return ConvertResult(failed=(Failure(job.path, reason),), rows=tuple(rows))
    is_slice = job.is_device and fftsplus.slicing(content) is not None
    made: dict[Port, _Made] = {}
    wrong: dict[Port, str] = {}
    for port, ref in content.refs.items():
        try:
            made[port] = _write_one(ref, _name_of(job, port), out, wish, is_slice)
        except (FormatError, InputError, LayoutError) as error:
            wrong[port] = str(error)
    rows = []
    if job.is_device:
        rows = [converted.row_of(job.name, content, {port: item.ref for port, item in made.items()}, wrong)]
    return ConvertResult(
        tuple(Path(item.ref.path) for item in made.values()),
        (*_broken(job, content), *(Failure(job.path, f"{p.side} {p.index}: {why}") for p, why in wrong.items())),
        tuple(item.cast for item in made.values() if item.cast is not None),
        (*notes, *(note for item in made.values() for note in item.notes)), tuple(rows),
    )


def _content(job: _Job) -> FileContent:
    """The tensors of a job, and what of it cannot be read."""
    if job.content is not None:
        return job.content
    if job.is_device:
        return ascend.read_file(job.path, job.name)
    if job.path.endswith(".npz"):
        dump = arrays.npz_dump(Path(job.path))
        return FileContent(DumpedOp(job.name, path=job.path), dump.refs, dump.broken)
    file = f"{job.name}.npy"
    told = names.parse_converted(file) or names.parse_golden(file) or names.TensorName(
        DumpedOp(job.name), Port(job.name, "output", 0))
    op = replace(told.op, op_type=told.op.op_type or "Op", path=job.path)
    return FileContent(op, {told.port: arrays.read_array(job.path)})


def _broken(job: _Job, content: FileContent) -> tuple[Failure, ...]:
    return tuple(Failure(item.path or job.path, item.reason) for item in content.broken)


def _name_of(job: _Job, port: Port) -> str:
    """What the array of a tensor is called, but for its ending."""
    if job.is_device:
        return f"{job.name}.{port.side}.{port.index}"
    if job.path.endswith(".npz"):
        return names.golden_name(port.node, port.side, port.index, 0).removesuffix(".npy")
    return job.name


def _write_one(ref: TensorRef, name: str, out: Path, wish: _Wish, is_slice: bool) -> _Made:
    """Write one array; its ref, as it lies now."""
    lying, notes = _ordered(ref, wish.layout, is_slice)
    made = _rounded(lying, wish.dtype, notes)
    row, shape, order = made.ref.dtype, made.ref.shape, made.ref.layout
    if wish.to == "npy":
        if row.numpy is None:
            raise FormatError(f"{row.name} has no defined meaning as numbers; convert it to bin")
        path, pieces = _place(out, f"{name}.npy"), _npy_pieces(made.ref, row.numpy)
    else:
        text = "_".join(map(str, shape)) or "1"
        path, pieces = _place(out, f"{name}.{text}.{row.name}.{order}.bin"), ascend.pieces(made.ref)
    with replacing(path) as file:
        file.writelines(pieces)
    counts = None if made.cast is None else replace(made.cast, path=path)
    return _Made(TensorRef(str(path), row, shape, layout=order), counts, made.notes)


def _npy_pieces(ref: TensorRef, dtype: np.dtype[Any]) -> Iterator[bytes]:
    yield arrays.npy_header(dtype, ref.shape)
    if ref.array is None and dtype.itemsize == ref.dtype.itemsize and ref.dtype.kind != "bool":
        yield from ascend.pieces(ref)  # the stored bytes are numpy's
    else:
        yield np.ascontiguousarray(ref.stored()).tobytes()


def _ordered(ref: TensorRef, layout: str | None, is_slice: bool) -> tuple[TensorRef, tuple[str, ...]]:
    """The tensor stored in the order that was asked for (itself where it lies so already), and what is to be said."""
    if layout == "stored" or ref.dtype.numpy is None:
        return ref, ()
    if is_slice:  # it was cut along an axis of what is stored
        return ref, ("kept as stored: a slice of an FFTS+ op",)
    if layout is not None and _can_be(ref, layout):
        return _in_memory(ref, in_layout(ref, layout), layout), ()
    if layouts.is_plain(ref.layout) and ref.original_shape in (None, ref.shape):
        return ref, ()
    order = _own_order(ref)
    if order is None:
        return ref, (f"kept as stored ({ref.layout}): the header does not tell the original's order",)
    return _in_memory(ref, ref.seen_as(ref.original_shape, order).numpy(), order), ()


def _in_memory(
    ref: TensorRef, values: NDArray[Any], layout: str, original_shape: Shape | None = None,
    original_layout: str | None = None,
) -> TensorRef:
    """Other numbers in place of those of `ref`, which are stored in `layout`."""
    return TensorRef(ref.path, ref.dtype, values.shape, 0, None, layout, original_shape, original_layout, ref.groups,
                     array=values)


def _rounded(ref: TensorRef, dtype: DType | None, notes: tuple[str, ...] = ()) -> _Made:
    """The tensor, where it lies, in the type that was asked for."""
    target, more = _cast_to(ref.dtype, dtype)
    if target is ref.dtype:
        return _Made(ref, None, (*notes, *more))
    values, counts = cast(ref.stored(), ref.dtype, target)
    made = _in_memory(ref, values, ref.layout, ref.original_shape, ref.original_layout)
    return _Made(replace(made, dtype=target), counts, (*notes, *more))


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
    if layout == "ND" or layouts.is_positional(layout):
        return True
    axes = layouts.find_layout(layout).axes or "N C H W"  # C1HWNCoC0 has these letters, too
    return own != "ND" and len({word.strip("()")[0] for word in axes.split()}) == len(shape)


_AXES = {4: "NCHW", 5: "NCDHW"}


def _with_axes(content: FileContent) -> tuple[FileContent, list[str]]:
    """Plain arrays have no layout: those of four or five axes are taken as NCHW or NCDHW, and notes say so."""
    notes, refs = [], {}
    for port, ref in content.refs.items():
        order = _AXES.get(len(ref.shape))
        if ref.layout == "ND" and order is not None:
            notes.append(f"taken as {order}: arrays do not say their layout")
            ref = replace(ref, layout=order)
        refs[port] = ref
    return replace(content, refs=refs), notes


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


def _to_dump(job: _Job, content: FileContent, out: Path, wish: _Wish, notes: Sequence[str]) -> ConvertResult:
    """One dump file for each op; only an npz has several."""
    written, casts = [], []
    told = list(notes)
    for place, name in enumerate(dict.fromkeys(port.node for port in content.refs), 1):
        sides: dict[Side, dict[int, TensorRef]] = {"input": {}, "output": {}}
        done = []
        for port, ref in content.refs.items():
            if port.node == name:
                made = _stored_as(ref, wish)
                sides[port.side][port.index] = made.ref
                done += [made.cast] if made.cast is not None else []
                told += made.notes
        inputs, outputs = ([side.get(i) for i in range(max(side, default=-1) + 1)] for side in sides.values())
        op = content.op if name == content.op.name else DumpedOp(name, "Op", time=place)
        is_name = names.parse_device(job.name) is not None and len(job.name) < 200
        path = ascend.write_file(out / names.fitting(job.name) if is_name else out, op, inputs, outputs)
        written.append(path)
        casts += [replace(counts, path=path) for counts in done]
    return ConvertResult(tuple(written), _broken(job, content), tuple(casts), tuple(told))


def _stored_as(ref: TensorRef, wish: _Wish) -> _Made:
    """The tensor as a device would store it in the layout and dtype that were asked for."""
    layout = wish.layout
    if layout not in (None, "stored", ref.layout) and _can_be(ref, layout):
        shape, own = original_of(ref)
        target, _ = _cast_to(ref.dtype, wish.dtype)
        edge = layouts.find_layout(layout).edge(target.bits)
        there = layouts.to_stored(ref.seen_as(shape, own).numpy(), own, layout, edge, ref.groups)
        ref = _in_memory(ref, there, layout, shape, own)
    return _rounded(ref, wish.dtype)


# -- files -------------------------------------------------------------------------------------------------------


def _place(out: Path, name: str) -> Path:
    """A path in `out` for `name`, which came from a file name and may still be too long."""
    safe = name.replace("/", "_").replace("\\", "_").replace("\0", "_")
    fitting = names.fitting(safe, os.path.splitext(safe)[1])
    if fitting != safe:
        append(out / names.MAPPING_FILE, f"{fitting},{safe}\n")
    return out / fitting


def _write_lists(out: Path, result: ConvertResult) -> None:
    path = out / names.FAILED_LIST
    if result.failed:
        write_text(path, "".join(
            f"{one_line(item.path)}\t{one_line(item.reason)}\n" for item in result.failed))
    else:
        remove(path)


def _summed(notes: Sequence[str]) -> Iterator[str]:
    for note in dict.fromkeys(notes):
        count = notes.count(note)
        yield f"{count} tensors were {note}" if count > 1 else f"one tensor was {note}"
