"""Arrays in files: npy, npz, bin and txt, read as TensorRefs, and golden folders, written and read.

A golden folder holds one npy file for each tensor under the vendor's naming and a `manifest.json` with what that
naming loses: true names, the model, the runner, hashes. Nothing is ever unpickled, and no size that a file claims is
believed before the bytes are there.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
import os
import re
import struct
import time as clock
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from acccmp.core import reading
from acccmp.core.dump import Broken, Dump, DumpedOp, Port, RunFacts, flatten_name
from acccmp.core.layout import FORMAT_NUMBERS
from acccmp.core.names import few
from acccmp.core.tensor import DTYPES, ConvertedRef, DType, TensorRef, dtype_of
from acccmp.core.writing import replacing, write_text
from acccmp.dumps import names
from acccmp.errors import FormatError, InputError

SCHEMA = "acccmp.golden/1"
MANIFEST = "manifest.json"

NPY = b"\x93NUMPY"
SUFFIXES = (".npy", ".npz", ".bin", ".txt")  # of files that hold arrays
_LONGEST_HEADER = 1 << 16  # bytes of an npy header's dictionary
_LARGEST_PACKED = 1 << 30  # bytes that a compressed member of an npz may unpack to
_LARGEST_TEXT = 64 << 20


@dataclass(frozen=True)
class NpyHeader:
    """An npy header: numpy's dtype (None: nothing we can hold), shape, order, and where the data begin."""

    dtype: np.dtype[Any] | None
    shape: tuple[int, ...]
    fortran: bool
    start: int
    descr: str

    @property
    def row(self) -> DType | None:
        """The row of the dtype table, in little-endian order; None where there is none."""
        try:
            return None if self.dtype is None else dtype_of(self.dtype.newbyteorder("<"))
        except (KeyError, TypeError):
            return None


# -- one file ----------------------------------------------------------------------------------------------------


def read_npy(path: str | os.PathLike[str], inside: reading.FilePath | None = None) -> TensorRef:
    """A ref to the array of an npy file; the data stay there. Trailing bytes are allowed, missing ones are not.

    Big-endian arrays are read at once. Raises FormatError for damaged files and for Python objects, text and records.
    """
    path = os.fspath(path)
    with reading.opened(path, inside) as file:
        return _npy_ref(path, file, reading.size_of(file), 0)


def _npy_ref(path: str, file: IO[bytes], size: int, base: int) -> TensorRef:
    """The array whose npy bytes are the next `size` ones of `file`, which begin at byte `base` of `path`."""
    header = npy_told(path, file, size)
    if header.dtype is None:
        raise FormatError(f"{path}: holds {header.descr}, which is no array of numbers (nothing is unpickled)")
    if len(header.shape) > 32:
        raise FormatError(f"{path}: an array of {len(header.shape)} axes")
    row: DType | None = header.row
    shape = header.shape
    if header.dtype.kind == "V":  # ml_dtypes saves its types as plain bytes
        row = DTYPES["undefined"]
        shape = (math.prod(shape) * header.dtype.itemsize,)
    if row is None:
        raise FormatError(f"{path}: the data type {header.descr} is not supported")
    need = row.nbytes(math.prod(shape))
    there = max(0, size - header.start)
    if there < need:
        raise FormatError(
            f"{path}: {header.shape} {header.descr} needs {need} bytes, found {there}: the file is cut off"
        )
    if header.dtype.byteorder == ">" or (header.dtype.byteorder == "=" and not np.little_endian):
        raw = np.frombuffer(file.read(need), header.dtype).astype(header.dtype.newbyteorder("<"))
        array = raw.reshape(header.shape, order="F" if header.fortran else "C")
        return TensorRef(path, row, shape, base + header.start, need, array=np.ascontiguousarray(array))
    return TensorRef(path, row, shape, base + header.start, need, fortran=header.fortran and len(shape) > 1)


def npy_told(path: str, file: IO[bytes], size: int) -> NpyHeader:
    """The header of the npy file whose `size` bytes come next. FormatError where it is damaged."""
    start = file.read(8)
    if start[:6] != NPY or len(start) < 8:
        raise FormatError(f"{path}: not an npy file (it begins with {start[:6]!r})")
    wide = start[6] >= 2
    if start[6] not in (1, 2, 3):
        raise FormatError(f"{path}: npy version {start[6]} is not known")
    raw = file.read(4 if wide else 2)
    if len(raw) != (4 if wide else 2):
        raise FormatError(f"{path}: cut off in its header")
    (length,) = struct.unpack("<I" if wide else "<H", raw)
    if length > min(_LONGEST_HEADER, size):
        raise FormatError(f"{path}: an npy header of {length} bytes")
    text = file.read(length)
    if len(text) != length:
        raise FormatError(f"{path}: cut off in its header")
    try:
        told = ast.literal_eval(text.decode("utf-8" if start[6] == 3 else "latin1").strip())
        shape = tuple(told["shape"])
        if not all(isinstance(n, int) and 0 <= n < 1 << 63 for n in shape):
            raise ValueError("no shape")
        if not isinstance(told["descr"], (str, list)):
            raise ValueError("no type")
        dtype = np.dtype(told["descr"]) if isinstance(told["descr"], str) else None
        fortran = bool(told["fortran_order"])
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise FormatError(f"{path}: its npy header is damaged ({type(error).__name__})") from None
    if dtype is not None and (dtype.hasobject or dtype.kind in "OSUmM" or dtype.itemsize == 0):
        dtype = None
    descr = "Python objects" if "O" in str(told["descr"]) else f"the data type {told['descr']!s:.40}"
    return NpyHeader(dtype, shape, fortran, 8 + len(raw) + length, descr if dtype is None else str(dtype))


@dataclass(frozen=True)
class PackedRef(TensorRef):
    """A tensor in a compressed member of an archive, in which `offset` counts; unpacked when it is asked for."""

    member: str = ""

    __repr__ = TensorRef.__repr__

    def _map(self) -> AbstractContextManager[NDArray[np.uint8]]:
        with reading.archive(self.path) as archive, archive.member(self.member) as stream:
            stream.read(self.offset)
            raw = stream.read(self.nbytes)
        if len(raw) != self.nbytes:
            raise FormatError(f"{self.path}: {self.member!r} needs {self.nbytes} bytes, found {len(raw)}")
        return nullcontext(np.frombuffer(raw, np.uint8))


def read_npz(
    path: str | os.PathLike[str], inside: reading.FilePath | None = None,
) -> tuple[dict[str, TensorRef], dict[str, str]]:
    """The arrays of an npz file by member name, and why the others cannot be read.

    Data stay in the file; compressed members are unpacked when they are asked for, up to 1 GiB each. Raises FormatError
    when the file is no zip archive.
    """
    path = os.fspath(path)
    refs: dict[str, TensorRef] = {}
    wrong: dict[str, str] = {}
    with reading.archive(path, inside) as archive:
        for member in archive.members:
            name = member.removesuffix(".npy")
            try:
                refs[name] = _member_ref(path, archive, member)
            except FormatError as error:
                wrong[name] = str(error)
    return refs, wrong


def _member_ref(path: str, archive: reading.Archive, member: str) -> TensorRef:
    at = archive.stored_at(member)
    if at is not None:
        archive.file.seek(at[0])
        return _npy_ref(path, archive.file, at[1], at[0])
    size = archive.members[member].file_size
    if size > _LARGEST_PACKED:
        raise FormatError(
            f"{path}: the member {member!r} unpacks to {size} bytes, more than the {_LARGEST_PACKED} that are allowed; "
            "save it with numpy.savez, which does not compress"
        )
    with archive.member(member) as stream:
        ref = _npy_ref(path, stream, size, 0)
    if ref.array is not None:
        return ref
    return PackedRef(path, ref.dtype, ref.shape, ref.offset, ref.size, fortran=ref.fortran, member=member)


def read_bin(
    path: str | os.PathLike[str], dtype: DType | None = None, shape: tuple[int, ...] | None = None,
    layout: str = "ND", inside: reading.FilePath | None = None,
) -> TensorRef:
    """A ref to raw bytes: as told, else as the vendor's file name says
    (`<name>.<shape joined by _>.<dtype>.<layout>.bin`), else bytes without a meaning.

    Raises FormatError when there are fewer bytes than the shape needs.
    """
    path = os.fspath(path)
    with reading.opened(path, inside) as file:
        size = reading.size_of(file)
    if dtype is None:
        parts = os.path.basename(path).split(".")
        if len(parts) >= 5 and parts[-1] == "bin" and re.fullmatch(r"[0-9]{1,18}(_[0-9]{1,18})*", parts[-4]):
            try:
                dtype = dtype_of(parts[-3])
            except (KeyError, TypeError):
                dtype = None
            shape = tuple(int(n) for n in parts[-4].split("_")) if shape is None else shape
            layout = parts[-2] if parts[-2] in FORMAT_NUMBERS else layout
    if dtype is None:
        return TensorRef(path, DTYPES["undefined"], (size,), 0, size)
    if shape is None:
        count = size * 8 // dtype.bits
        if dtype.nbytes(count) != size:
            raise FormatError(f"{path}: {size} bytes are no whole number of {dtype.name} elements")
        shape = (count,)
    need = dtype.nbytes(math.prod(shape))
    if need > size:
        raise FormatError(f"{path}: {list(shape)} {dtype.name} needs {need} bytes, found {size}")
    # The vendor writes the flat length for the shape; a layout of blocks cannot be read from that.
    return TensorRef(path, dtype, shape, 0, size, layout if len(shape) > 1 else "ND")


def read_txt(path: str | os.PathLike[str], inside: reading.FilePath | None = None) -> TensorRef:
    """The numbers of a text file as float64, as numpy.loadtxt reads them. FormatError if it holds anything else."""
    path = os.fspath(path)
    lines = reading.read_text(path, _LARGEST_TEXT, inside).splitlines()
    try:
        values = np.loadtxt(lines, dtype=np.float64, ndmin=1)
    except ValueError as error:
        raise FormatError(f"{path}: not a table of numbers: {error}") from None
    return replace(TensorRef.of(values), path=path)


def read_array(path: str | os.PathLike[str], inside: reading.FilePath | None = None) -> TensorRef:
    """The array in one file, whatever it is: npy (told by its bytes), txt and bin (told by their names).

    Raises FormatError for damaged files, InputError for archives of several arrays.
    """
    path = os.fspath(path)
    start = reading.first_bytes(path, 6, inside)
    if start == NPY or path.endswith(".npy"):
        return read_npy(path, inside)
    if start[:4] == b"PK\x03\x04":
        refs, wrong = read_npz(path, inside)
        if len(refs) != 1 or wrong:
            raise InputError(f"{path}: an archive of {len(refs) + len(wrong)} arrays, where one array is wanted")
        return next(iter(refs.values()))
    if path.endswith(".txt"):
        return read_txt(path, inside)
    return read_bin(path, inside=inside)


# -- writing -----------------------------------------------------------------------------------------------------


def write_npy(path: str | os.PathLike[str], array: NDArray[Any]) -> str:
    """Write one array, under a temporary name first, and return the SHA-256 of the file.

    Types that npy does not know (bfloat16 and the 8-bit floats) are written as the float32 they decode to. Raises
    InputError for Python objects and text, and when the disk says no.
    """
    path = Path(path)
    array = plain(array)
    with replacing(path) as file:
        # The same array gives the same bytes with every numpy: the header is ours.
        file.write(npy_header(array.dtype, array.shape))
        flat = np.ascontiguousarray(array).reshape(-1)
        for start in range(0, flat.size, 1 << 21):
            file.write(flat[start : start + (1 << 21)].tobytes())
    return sha256(path)


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The bytes of an npy file (version 1.0) that stand before the data in C order."""
    text = f"{{'descr': {dtype.str!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return NPY + b"\x01\x00" + struct.pack("<H", len(text)) + text.encode("latin1")


def plain(array: Any) -> NDArray[Any]:
    """`array` in a little-endian type of numpy itself that holds all its values. InputError for what is no number."""
    values = np.asarray(array)
    try:
        row = dtype_of(values.dtype.newbyteorder("<") if values.dtype.byteorder == ">" else values.dtype)
    except (KeyError, TypeError):
        row = DTYPES["undefined"]
    if row.numpy is None:
        raise InputError(f"an array of {values.dtype} is not an array of numbers")
    return values if values.dtype == row.numpy else values.astype(row.numpy)


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hexadecimal. FormatError if it cannot be read."""
    digest = hashlib.sha256()
    with reading.opened(path) as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


# -- golden folders ----------------------------------------------------------------------------------------------


def write_golden(
    folder: str | os.PathLike[str], tensors: Iterable[tuple[Port, NDArray[Any]]], manifest: Mapping[str, Any], *,
    tensor_names: Mapping[Port, str] | None = None, layouts: Mapping[Port, str] | None = None,
    time_us: int | None = None,
) -> Dump:
    """Write a golden folder and return it as a Dump.

    `tensors` come in the order of execution and may be made one by one; each gets the time stamp `time_us` (now by
    default) plus its place, so that files sort in that order and flattened names that collide stay apart. `manifest`
    is what the caller knows (`model`, `runner`, `inputs`, `outputs`, `skipped`, anything else that JSON holds); the
    list of tensors is made here, with the tensor's name in the model from `tensor_names` and its layout from
    `layouts` ("ND" by default). Arrays that are no numbers go to `skipped`. The manifest is written last: a folder
    without one was not finished.
    """
    folder = Path(folder)
    stamp = clock.time_ns() // 1000 if time_us is None else time_us
    rows: list[dict[str, Any]] = []
    skipped = dict(manifest.get("skipped") or {})
    long_names: list[str] = []
    for place, (port, array) in enumerate(tensors):
        tensor = (tensor_names or {}).get(port, port.node)
        try:
            values = plain(array)
        except InputError as error:
            skipped[tensor] = str(error)
            continue
        real = names.golden_name(port.node, port.side, port.index, stamp + place)
        name = names.fitting(real, ".npy")
        if name != real:
            long_names.append(f"{name},{real}\n")
        digest = write_npy(folder / name, values)
        rows.append({
            "file": name, "port": str(port), "tensor": tensor, "dtype": dtype_of(values.dtype).name,
            "shape": list(values.shape), "layout": (layouts or {}).get(port, "ND"), "sha256": digest,
        })
    if long_names:
        write_text(folder / names.MAPPING_FILE, "".join(long_names))
    told = {"schema": SCHEMA, **{k: v for k, v in manifest.items() if k not in ("schema", "tensors", "skipped")}}
    told["tensors"] = rows
    told["skipped"] = skipped
    write_text(folder / MANIFEST, json.dumps(told, indent=1, default=str, ensure_ascii=False) + "\n")
    return read_golden(folder)


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The manifest of a golden folder, or None where there is none of ours. FormatError if it is damaged."""
    told = reading.read_table(folder, MANIFEST, SCHEMA)
    if told is not None and not isinstance(told.get("tensors"), list):
        raise FormatError(f"{Path(folder) / MANIFEST}: has no list of tensors")
    return told


def read_golden(folder: str | os.PathLike[str]) -> Dump:
    """Read a golden folder that has our manifest: true names, in the order of execution.

    Headers are checked against the manifest now, hashes when `check_golden` is asked.
    Raises FormatError when there is no manifest or it is damaged.
    """
    folder = Path(folder)
    told = read_manifest(folder)
    if told is None:
        raise FormatError(f"{folder}: no golden folder of ours: {MANIFEST} is missing")
    refs: dict[Port, TensorRef] = {}
    broken: list[Broken] = []
    ops: dict[str, DumpedOp] = {}
    tensors: dict[Port, str] = {}
    hashes: dict[Port, str] = {}
    known = {MANIFEST, names.MAPPING_FILE}
    for row in told["tensors"]:
        if not isinstance(row, dict) or not isinstance(row.get("file"), str) or not isinstance(row.get("port"), str):
            raise FormatError(f"{folder / MANIFEST}: a row of its tensors is damaged: {str(row)[:80]}")
        name = row["file"]
        try:
            port = Port.parse(row["port"])
        except ValueError as error:
            raise FormatError(f"{folder / MANIFEST}: {error}") from None
        if not name or os.path.basename(name) != name or name in (".", ".."):
            raise FormatError(f"{folder / MANIFEST}: {name!r} is no file name")
        known.add(name)
        path = folder / name
        parsed = names.parse_golden(name)
        ops.setdefault(port.node, DumpedOp(port.node, "", str(path), parsed.op.time if parsed else 0))
        tensors[port] = str(row.get("tensor", port.node))
        if isinstance(row.get("sha256"), str):
            hashes[port] = row["sha256"]
        try:
            refs[port] = _as_told(read_npy(path, folder), row)
        except FormatError as error:
            broken.append(Broken(port.node, str(path), str(error), "", port))
    others = [e.name for e in reading.listed(folder) if e.name not in known and not e.name.startswith(".")]
    notes = [f"{folder}: {len(others)} files that the manifest does not list were ignored: {few(others)}"]
    return Dump(
        refs, ops, tuple(broken), folder, "golden", _text(told, "model", "name"), False,
        tuple(notes) if others else (), _run_facts(told, tensors, hashes),
    )


def _run_facts(told: Mapping[str, Any], tensors: Mapping[Port, str], hashes: Mapping[Port, str]) -> RunFacts:
    """What a manifest says of its run; of what has another form than ours nothing is taken."""
    outputs = told.get("outputs")
    inputs, skipped = told.get("inputs"), told.get("skipped")
    return RunFacts(
        _text(told, "runner", "name"), _text(told, "runner", "version"), _text(told, "model", "path"),
        _text(told, "model", "sha256"), tuple(inputs) if isinstance(inputs, dict) else (),
        tuple(p for p in map(_port_or_none, outputs if isinstance(outputs, list) else ()) if p is not None),
        tensors, hashes, {k: str(v) for k, v in skipped.items()} if isinstance(skipped, dict) else {},
    )


def _text(told: Mapping[str, Any], table: str, key: str) -> str:
    found = told.get(table)
    value = found.get(key) if isinstance(found, dict) else None
    return value if isinstance(value, str) else ""


def _as_told(ref: TensorRef, row: Mapping[str, Any]) -> TensorRef:
    """`ref` with the layout that the manifest gives; FormatError when it holds something else than that says."""
    told = row.get("shape")
    if isinstance(told, list) and tuple(told) != ref.shape:
        raise FormatError(f"{ref.path}: holds {list(ref.shape)}, the manifest says {told}: the files were mixed up")
    if isinstance(row.get("dtype"), str) and row["dtype"] != ref.dtype.name:
        raise FormatError(f"{ref.path}: holds {ref.dtype.name}, the manifest says {row['dtype']}")
    layout = row.get("layout")
    return replace(ref, layout=layout) if isinstance(layout, str) and layout in FORMAT_NUMBERS else ref


def _port_or_none(text: Any) -> Port | None:
    try:
        return Port.parse(text)
    except (ValueError, AttributeError, TypeError):
        return None


def check_golden(dump: Dump) -> list[str]:
    """What is wrong with the files of a golden folder, by the hashes in its manifest; empty if nothing is.

    Reads every file whole. A Dump without a manifest has nothing to be checked against: empty as well.
    """
    if not dump.run.sha256:
        return []
    problems = [f"{item.path}: {item.reason}" for item in dump.broken]
    return problems + [f"{item.path}: {item.reason} ({item.port})" for item in _changed(dump)]


def sound(dump: Dump) -> Dump:
    """`dump` with the tensors whose files are not what the manifest's hashes say among its `broken` ones.

    Reads every file whole; a Dump without a manifest is given back as it is.
    """
    changed = _changed(dump)
    if not changed:
        return dump
    gone = {item.port for item in changed}
    refs = {port: ref for port, ref in dump.refs.items() if port not in gone}
    return replace(dump, refs=refs, broken=(*dump.broken, *changed))


def _changed(dump: Dump) -> list[Broken]:
    """Tensors whose files were changed after the manifest was written."""
    hashes = dump.run.sha256
    found: list[Broken] = []
    for port, ref in dump.refs.items():
        if ref.array is not None or port not in hashes:
            continue
        reason = "was changed after it was written: its SHA-256 is not the manifest's"
        try:
            if sha256(ref.path) == hashes[port]:
                continue
        except FormatError as error:
            reason = str(error)
        found.append(Broken(port.node, ref.path, reason, "", port))
    return found


def read_flat_golden(folder: Path, files: Iterable[str], inside: reading.FilePath | None = None) -> Dump:
    """Read golden npy files that no manifest describes: op names stay flattened (`flat_names`).

    `input_X.i` is an input of X when X has an output among the files, else the output of an op of that name. Files
    that do not follow the naming are reported in one note.
    """
    mapping = names.read_mapping(folder)
    found = {file: names.parse_golden(names.real_name(file, mapping)) for file in files}
    strange = [file for file, told in found.items() if told is None]
    with_outputs = {told.op.name for told in found.values() if told is not None}
    tensors = []
    for file, told in found.items():
        if told is None:
            continue
        op, port = told.op.name, told.port
        if op.startswith("input_") and op[6:] in with_outputs:
            op, port = op[6:], port._replace(side="input")
        op = flatten_name(op)
        named = names.TensorName(replace(told.op, name=op), port._replace(node=op))
        tensors.append((str(folder / file), named))
    dump = tensors_in(folder, tensors, inside or folder)
    if strange:
        note = f"{folder}: {len(strange)} npy files are not named <op>.<index>.<time>.npy: {few(strange)}"
        dump = replace(dump, notes=(*dump.notes, note))
    return replace(dump, kind="golden")


def tensors_in(folder: Path, files: Iterable[tuple[str, names.TensorName]], inside: reading.FilePath) -> Dump:
    """The Dump of files that hold one tensor each, as their names say; in the order of their times, names flattened.

    Of several files of one tensor the newest counts, and a note says so. Damaged ones are in `broken`.
    """
    ordered = sorted(files, key=lambda item: (item[1].op.time, item[0]))
    newest = {told.port: path for path, told in ordered}
    older = [os.path.basename(path) for path, told in ordered if newest[told.port] != path]
    refs: dict[Port, TensorRef] = {}
    ops: dict[str, DumpedOp] = {}
    broken: list[Broken] = []
    for path, told in ordered:
        if newest[told.port] != path:
            continue
        ops[told.port.node] = replace(told.op, path=path)
        try:
            ref = read_npy(path, inside) if path.endswith(".npy") else read_array(path, inside)
            refs[told.port] = as_named(ref, told)
        except (FormatError, InputError) as error:
            broken.append(Broken(told.port.node, path, str(error), told.op.op_type, told.port))
    note = f"{folder}: {len(older)} files are older than others of the same tensor: {few(older)}"
    return Dump(refs, ops, tuple(broken), folder, flat_names=True, notes=(note,) if older else ())


def as_named(ref: TensorRef, told: names.TensorName) -> TensorRef:
    """A plain array in the layout and the device's type that its file's name says (`...output.0.NCHW.bfloat16.npy`)."""
    layout = told.layout if told.layout and ref.layout == "ND" else ref.layout
    return narrowed(replace(ref, layout=layout), told.dtype)


def narrowed(ref: TensorRef, dtype: DType | None) -> TensorRef:
    """An array that was saved in a wider type than the device's `dtype`, because npy has none such (bfloat16, int4)."""
    if dtype is None or dtype.numpy is None or dtype.numpy != ref.dtype.numpy or dtype.bits >= ref.dtype.bits:
        return ref
    return ConvertedRef.lying_in(ref, dtype, ref.shape, ref.layout)


def npz_dump(path: Path) -> Dump:
    """An npz file as a golden Dump. A member is named by its port (`conv1:output:0`), or `name:index`, or an op."""
    refs: dict[Port, TensorRef] = {}
    members, wrong = read_npz(path)
    ops = {}
    for name, ref in members.items():
        port = _member_port(name)
        refs[port] = ref
        ops[port.node] = DumpedOp(port.node, "", str(path))
    broken = tuple(
        Broken(_member_port(name).node, str(path), why, "", _member_port(name)) for name, why in wrong.items()
    )
    return Dump(refs, ops, broken, path, "golden")


def _member_port(name: str) -> Port:
    port = _port_or_none(name)
    if port is not None:
        return port
    node, colon, index = name.rpartition(":")
    if colon and node and index.isascii() and index.isdigit():
        return Port(node, "output", int(index))
    return Port(name, "output", 0)
