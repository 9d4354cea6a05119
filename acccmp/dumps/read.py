"""read_dump: a dump folder, a tree of runs, a golden folder or a single file, told apart by content, as one Dump."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from acccmp import kinds
from acccmp.core import reading
from acccmp.core.dump import Broken, Dump, DumpedOp, Port
from acccmp.core.identify import Found, identify
from acccmp.core.names import few
from acccmp.core.tensor import TensorRef
from acccmp.dumps import arrays, ascend, converted, fftsplus, mindspore_dumps, names, opdebug, tree
from acccmp.dumps.content import FileContent, lost
from acccmp.errors import FormatError, InputError

# Names that belong beside dumps and are none. Models get their own message.
_BESIDE = (".csv", ".txt", ".md", ".json", ".log", ".zip", ".gz", ".png", ".html", ".py", ".xml", ".toml", ".yaml")


def read_dump(
    path: str | os.PathLike[str], *, run: str | None = None, device: str | int | None = None,
    model: str | int | None = None, step: str | int | None = None,
) -> Dump:
    """Read a dump: headers only, whatever its size.

    `path` is a folder of device dumps, a tree `time/device/model/id/step` of them (see `acccmp.dumps.tree`: one run
    is chosen, `run`, `device`, `model` and `step` choose another), a golden folder, a folder of msprobe
    (`step*/rank*/dump.json`), or one file: a device dump, npy, npz, bin or txt. Files that cannot be read are in
    `Dump.broken`; what was ignored, chosen or odd is in `Dump.notes`. Overflow files (`Opdebug.*`) are decoded into
    `Dump.overflows`.

    Raises InputError when it is no dump, when the folder is empty or holds something else, or when a choice is not
    there, and FormatError when a single file cannot be read.

    >>> acccmp.read_dump("npu_faulty")
    Dump(73 tensors of 27 ops from npu_faulty)
    """
    path = Path(path)
    choice = tree.Choice(*(None if c is None else str(c) for c in (run, device, model, step)))
    if not path.exists():
        raise InputError(f"no dump at {path}: there is no such file or folder")
    if not path.is_dir() and not path.is_file():
        raise InputError(f"{path}: neither a file nor a folder")
    if not path.is_dir() and choice.asked:
        raise InputError(f"{path}: {choice.asked} chooses within a folder, this is a file")
    return _read(path, identify(path), choice)


def _read(path: Path, found: Found, choice: tree.Choice) -> Dump:
    if found.kind.role != "dump":
        raise InputError(f"{path}: is {found.words}, where a dump folder or file is wanted")
    dump = found.kind.function("load")(path, choice)
    assert isinstance(dump, Dump)
    return dump


# -- readers of `acccmp.kinds` -----------------------------------------------------------------------------------


def golden(path: Path, choice: tree.Choice) -> Dump:
    choice.refuse(path, "a golden dump")
    return arrays.read_golden(path)


def mindspore(path: Path, choice: tree.Choice) -> Dump:
    choice.refuse(path, "a single iteration")
    return mindspore_dumps.read_folder(path)


def npz(path: Path, choice: tree.Choice) -> Dump:
    return arrays.npz_dump(path)


def ascend_dump(path: Path, choice: tree.Choice) -> Dump:
    """A device's file, a folder of such files, or the one folder that is read of a tree; it may be of another kind."""
    if path.is_file():
        content = ascend.read_file(path, names.real_name(path.name, names.read_mapping(path.parent)))
        return _overflow_only(content, path) if opdebug.is_overflow(content.op) else _from_contents([content], path)
    leaf, notes = tree.find_leaf(path, choice)
    found = None if leaf == path else identify(leaf)
    if found is None or found.kind.role != "dump" or found.kind.name == "ascend":
        dump = _folder(leaf, path)
    else:
        dump = _read(leaf, found, tree.Choice())
    return _with_place(replace(dump, notes=(*notes, *dump.notes)), path, leaf)


def _with_place(dump: Dump, root: Path, leaf: Path) -> Dump:
    """`dump` with the model's name, as far as the folders say it."""
    place = tree.place_of(root, leaf)
    return replace(dump, model=dump.model or place.model, place=place)


def one_array(path: Path, choice: tree.Choice) -> Dump:
    """One tensor, named by its file."""
    ref = arrays.read_array(path)
    converted = names.parse_converted(path.name)
    golden = names.parse_golden(path.name)
    told = converted or golden or names.TensorName(DumpedOp(path.stem), Port(path.stem, "output", 0))
    op = replace(told.op, path=str(path))
    dump = Dump({told.port: arrays.as_named(ref, told)}, {op.name: op}, (), path, flat_names=told is golden)
    return replace(dump, flat_names=True, bare=True) if converted else replace(dump, kind="golden")


def _overflow_only(content: FileContent, path: Path) -> Dump:
    return Dump({}, {}, content.broken, path, "npu", overflows=opdebug.read_overflow(content))


# -- a folder of files -------------------------------------------------------------------------------------------


def _sort(folder: Path, root: Path) -> dict[str, list[str]]:
    """The names in one folder by what `_look` says of them."""
    mapping = names.read_mapping(folder)
    found: dict[str, list[str]] = {what: [] for what in ("dump", "converted", "npy", "npz", "stray")}
    for entry in reading.listed(folder):
        if not entry.is_folder and entry.name not in (names.MAPPING_FILE, names.FAILED_LIST):
            found[_look(Path(entry.path), mapping, root)].append(entry.name)
    return found


def _look(path: Path, mapping: Mapping[str, str], root: Path) -> str:
    """What a file is by its name: a dump, a converted tensor, npy, npz, or a stray. Names outside the grammar (hashed
    ones without a mapping, other suffixes) are dumps when their header can be read."""
    real = names.real_name(path.name, mapping)
    if path.name.startswith("."):
        return "stray"
    if names.parse_converted(real) is not None:
        return "converted"
    if path.suffix in (".npy", ".npz"):
        return path.suffix[1:]
    if real.endswith(_BESIDE):
        return "stray"
    if names.parse_device(real) is not None or path.name in mapping:
        return "dump"
    try:
        ascend.read_file(path, inside=root)
    except FormatError:
        return "stray"
    return "dump"


def _folder(folder: Path, root: Path) -> Dump:
    """The dump in `folder`, which lies in the folder `root` that was given: no file is read that lies outside of it."""
    listed = converted.read(folder)
    if listed is not None:
        return _listed_folder(folder, listed)
    files = _sort(folder, root)
    unnamed = names.mapping_problem(folder)
    stray = [*files["stray"], *files["npz"]]
    if files["dump"]:
        stray += [*files["converted"], *files["npy"]]
        dump = _device_folder(folder, root, files["dump"])
    elif files["converted"]:
        stray += files["npy"]
        dump = _converted_folder(folder, root, files["converted"])
    elif files["npy"]:
        dump = arrays.read_flat_golden(folder, files["npy"], root)
    else:
        raise InputError(_nothing(folder, files["npz"], files["stray"]))
    ignored = [_ignored(folder, sorted(stray))] if stray else []
    return replace(dump, notes=(*([unnamed] if unnamed else []), *dump.notes, *ignored))


def _listed_folder(folder: Path, listed: converted.Converted) -> Dump:
    """Converted tensors with the list of what the device had."""
    dump = _from_files(folder, [item.content for item in listed.sources])
    known = {*listed.files, converted.LIST, names.MAPPING_FILE, names.FAILED_LIST}
    stray = [entry.name for entry in reading.listed(folder) if entry.name not in known and not entry.is_folder]
    told = (*dump.notes, _ignored(folder, stray)) if stray else dump.notes
    return replace(dump, model=listed.model, notes=told)


def _ignored(folder: Path, stray: list[str]) -> str:
    return f"{folder}: {len(stray)} files beside the dumps were ignored: {few(stray)}"


# Names of files that other tools dump -> what they are. None of them is read; msprobe can dump the same runs.
_FOREIGN = (
    (re.compile(r"(?:in|out)tensor[0-9]+\.bin"), "tensors of ATB operations"),
    (re.compile(r".+\.pt"), "PyTorch tensors without the dump.json that describes them (acl_save of an aclgraph run?)"),
)


def _nothing(folder: Path, npz: list[str], stray: list[str]) -> str:
    of_models = kinds.suffixes("original", "device", "parts", "unread")
    models = [name for name in stray if name.endswith(of_models) and not name.endswith(_BESIDE)]
    if npz:
        return f"{folder}: holds npz archives ({few(npz)}); give one of them itself"
    if models:
        return f"{folder}: holds a model ({few(models)}) and no dump; give the dump's folder"
    below = [
        str((place / entry.name).relative_to(folder)) for place, entries in reading.walked(folder, tree.DEEPEST)
        for entry in entries if not entry.is_folder and not entry.name.startswith(".")
    ]
    for pattern, what in _FOREIGN:
        found = [name for name in below if pattern.fullmatch(Path(name).name)]
        if found:
            return (f"{folder}: holds {what}, which are not read here ({few(found)}); dump the run with msprobe and "
                    'task "tensor" instead: it writes step*/rank*/dump.json beside the tensors')
    if stray:
        return f"{folder}: none of its {len(stray)} files is a dump: {few(stray)}"
    if below:
        return f"{folder}: none of the {len(below)} files below it is a dump: {few(below)}"
    return f"{folder}: an empty folder, no dump in it"


def _device_folder(folder: Path, root: Path, files: Iterable[str]) -> Dump:
    mapping = names.read_mapping(folder)
    contents = []
    for name in files:
        path, real = os.path.join(folder, name), names.real_name(name, mapping)
        try:
            contents.append(ascend.read_file(path, real, root))
        except FormatError as error:
            contents.append(lost(path, real, str(error)))
    return _from_files(folder, contents)


def _from_files(folder: Path, files: Sequence[FileContent]) -> Dump:
    """One Dump of what the files of a folder hold; overflow reports are told apart."""
    unread: dict[str, int] = {}  # flat op name -> time of its newest unreadable file
    for op in (content.op for content in files if content.is_lost and content.op.thread is None):
        unread[op.name] = max(op.time, unread.get(op.name, 0))
    read = [content for content in files if not content.is_lost]
    overflow = [content for content in read if opdebug.is_overflow(content.op)]
    every = [content for content in read if not opdebug.is_overflow(content.op)]
    outdated = {c.op.path for c in every if unread.get(names.device_flat(c.op.name), 0) > c.op.time}
    contents = [content for content in every if content.op.path not in outdated]
    notes = []
    if outdated:  # an older file does not stand in for the newest one
        notes.append(f"{folder}: {len(outdated)} files are older than unreadable ones of the same op and were not "
                     f"used: {few(map(os.path.basename, sorted(outdated)))}")
    dump = _from_contents(contents, folder, [item for content in files if content.is_lost for item in content.broken])
    found = opdebug.read_all(overflow, [content.op for content in contents])
    reported = []
    if overflow:
        first = f", the first: {found[0]}" if found else ""
        reported.append(f"{folder}: {len(found)} overflows reported{first}")
    return replace(dump, overflows=found, notes=(*notes, *dump.notes, *reported))


def _from_contents(
    contents: Iterable[FileContent], path: Path, broken: Iterable[Broken] = (),
) -> Dump:
    """One Dump of many files: FFTS+ slices merged, the newest file of an op kept, in the order of their times."""
    merged, merge_notes = fftsplus.merge(list(contents))
    kept, older = _newest(merged, path)
    told = [*merge_notes, *older]
    refs: dict[Port, TensorRef] = {}
    ops: dict[str, DumpedOp] = {}
    bad = list(broken)
    for content in kept:
        ops[content.op.name] = content.op
        refs.update(content.refs)
        bad += content.broken
        told += content.notes
    buffers = sum(content.unread for content in kept)
    if buffers:
        told.append(f"{path}: {buffers} buffers and workspaces were passed over")
    flat = bool(kept) and not any(content.is_named for content in kept)
    return Dump(refs, ops, tuple(bad), path, "npu", "", flat, tuple(told))


def _newest(
    contents: list[FileContent], path: Path,
) -> tuple[list[FileContent], tuple[str, ...]]:
    """Of several files of one op the newest, as the vendor does, sorted by time; and a note that counts the others."""
    by_name: dict[str, list[FileContent]] = {}
    for content in contents:
        by_name.setdefault(content.op.name, []).append(content)
    older: list[str] = []
    tasks: list[str] = []
    kept = []
    for name, same in by_name.items():
        same.sort(key=_age)
        kept.append(same[-1])
        older += [os.path.basename(content.op.path) for content in same[:-1]]
        if len({content.op.task for content in same}) > 1:
            tasks.append(name)
    twice = f"; different tasks share the name {few(tasks)}" if tasks else ""
    told = f"{path}: {len(older)} files are older than others of the same op and were not used: {few(older)}{twice}"
    return sorted(kept, key=_age), (told,) if older else ()


def _age(content: FileContent) -> tuple[int, str]:
    return content.op.time, content.op.path


def _converted_folder(folder: Path, root: Path, files: Iterable[str]) -> Dump:
    """Tensors that were converted from device dumps, one npy or bin each; names stay flattened."""
    mapping = names.read_mapping(folder)
    found = [(str(folder / file), names.parse_converted(names.real_name(file, mapping))) for file in files]
    tensors = [(path, told) for path, told in found if told is not None and not opdebug.is_overflow(told.op)]
    return replace(arrays.tensors_in(folder, tensors, root), bare=True)
