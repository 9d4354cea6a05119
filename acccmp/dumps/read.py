"""read_dump: a dump folder, a tree of runs, a golden folder or a single file, told apart by content, as one Dump."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from acccmp import kinds
from acccmp.core import reading
from acccmp.core.dump import Broken, Dump, DumpedOp, Overflow, Port
from acccmp.core.identify import Found, identify
from acccmp.core.layout import FORMAT_NUMBERS
from acccmp.core.tensor import TensorRef
from acccmp.dumps import arrays, ascend, converted, fftsplus, mindspore_dumps, names, opdebug, tree
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
    told = names.parse_golden(path.name)
    one = names.parse_converted(path.name)
    if one is not None:
        op = ascend.named_op(str(path), one.dump)
        port = Port(op.name, one.side, one.index)
        ref = _in_format(ref, one)
        return Dump({port: ref}, {op.name: op}, (), path, "npu", "", True, bare=True)
    name, index, time = (told.op, told.index, told.time) if told else (path.stem, 0, 0)
    return Dump({Port(name, "output", index): ref}, {name: DumpedOp(name, "", str(path), time)}, (), path, "golden",
                "", told is not None)


def _overflow_only(content: ascend.FileContent, path: Path) -> Dump:
    return Dump({}, {}, content.broken, path, "npu", overflows=opdebug.read_overflow(content))


# -- a folder of files -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sorted:
    """The files of one folder by what they look like."""

    dumps: tuple[tuple[str, str], ...]  # (name in the folder, real name)
    converted: tuple[str, ...]
    npy: tuple[str, ...]
    npz: tuple[str, ...]
    stray: tuple[str, ...]
    models: tuple[str, ...]


def _sort(folder: Path, root: Path) -> _Sorted:
    mapping = names.read_mapping(folder)
    of_models = kinds.suffixes("original", "device", "parts", "unread")
    dumps, converted, npy, npz, stray, models = [], [], [], [], [], []
    for entry in reading.listed(folder):
        name = entry.name
        if entry.is_folder:
            continue
        real = names.real_name(name, mapping)
        if name.startswith(".") or name in (names.MAPPING_FILE, "convert_failed_file_list.txt"):
            if name.startswith("."):
                stray.append(name)
        elif names.parse_converted(real) is not None:
            converted.append(name)
        elif name.endswith(".npy"):
            npy.append(name)
        elif name.endswith(".npz"):
            npz.append(name)
        elif real.endswith(_BESIDE):
            stray.append(name)
        elif names.parse_device(real) is not None or name in mapping or _begins_like_a_dump(folder / name, root):
            dumps.append((name, real))
        elif name.endswith(of_models):
            models.append(name)
        else:
            stray.append(name)
    return _Sorted(tuple(dumps), tuple(converted), tuple(npy), tuple(npz), tuple(stray), tuple(models))


def _begins_like_a_dump(path: Path, root: Path) -> bool:
    """For names outside the grammar (hashed ones without a mapping, other suffixes): can its header be read?"""
    try:
        ascend.read_file(path, inside=root)
    except FormatError:
        return False
    return True


def _folder(folder: Path, root: Path) -> Dump:
    """The dump in `folder`, which lies in the folder `root` that was given: no file is read that lies outside of it."""
    listed = converted.read(folder)
    if listed is not None:
        return _listed_folder(folder, listed)
    files = _sort(folder, root)
    unnamed = names.mapping_problem(folder)
    stray = [*files.stray, *files.models, *files.npz]
    if files.dumps:
        stray += [*files.converted, *files.npy]
        dump = _device_folder(folder, root, files.dumps)
    elif files.converted:
        stray += files.npy
        dump = _converted_folder(folder, root, files.converted)
    elif files.npy:
        dump = arrays.read_flat_golden(folder, files.npy, root)
    else:
        raise InputError(_nothing(folder, files))
    ignored = [_ignored(folder, sorted(stray))] if stray else []
    return replace(dump, notes=(*([unnamed] if unnamed else []), *dump.notes, *ignored))


def _listed_folder(folder: Path, listed: converted.Converted) -> Dump:
    """Converted tensors with the list of what the device had."""
    lost = [_Lost(item.name, item.content.op.path, item.reason) for item in listed.sources if item.reason]
    dump = _from_files(folder, (item.content for item in listed.sources if not item.reason), lost)
    known = {*listed.files, converted.LIST, names.MAPPING_FILE, "convert_failed_file_list.txt"}
    stray = [entry.name for entry in reading.listed(folder) if entry.name not in known and not entry.is_folder]
    told = (*dump.notes, _ignored(folder, stray)) if stray else dump.notes
    return replace(dump, model=listed.model, notes=told)


def _ignored(folder: Path, stray: list[str]) -> str:
    return f"{folder}: {len(stray)} files beside the dumps were ignored: {few(stray)}"


def few(items: list[str], most: int = 3) -> str:
    """The first of a list, and how many more there are."""
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + rest


# Names of files that other tools dump -> what they are. None of them is read; msprobe can dump the same runs.
_FOREIGN = (
    (re.compile(r"(?:in|out)tensor[0-9]+\.bin"), "tensors of ATB operations"),
    (re.compile(r".+\.pt"), "PyTorch tensors without the dump.json that describes them (acl_save of an aclgraph run?)"),
)


def _nothing(folder: Path, files: _Sorted) -> str:
    if files.npz:
        return f"{folder}: holds npz archives ({few(list(files.npz))}); give one of them itself"
    if files.models:
        return f"{folder}: holds a model ({few(list(files.models))}) and no dump; give the dump's folder"
    below = [
        str((place / entry.name).relative_to(folder)) for place, entries in reading.walked(folder, tree.DEEPEST)
        for entry in entries if not entry.is_folder and not entry.name.startswith(".")
    ]
    for pattern, what in _FOREIGN:
        found = [name for name in below if pattern.fullmatch(Path(name).name)]
        if found:
            return (f"{folder}: holds {what}, which are not read here ({few(found)}); dump the run with msprobe and "
                    'task "tensor" instead: it writes step*/rank*/dump.json beside the tensors')
    if files.stray:
        return f"{folder}: none of its {len(files.stray)} files is a dump: {few(list(files.stray))}"
    if below:
        return f"{folder}: none of the {len(below)} files below it is a dump: {few(below)}"
    return f"{folder}: an empty folder, no dump in it"


def _device_folder(folder: Path, root: Path, files: Iterable[tuple[str, str]]) -> Dump:
    contents: list[ascend.FileContent] = []
    lost: list[_Lost] = []
    for name, real in files:
        path = os.path.join(folder, name)
        try:
            contents.append(ascend.read_file(path, real, root))
        except FormatError as error:
            lost.append(_Lost(real, path, str(error).removeprefix(f"{path}: ")))
    return _from_files(folder, contents, lost)


@dataclass(frozen=True)
class _Lost:
    """A file that cannot be read at all: the name that it would have had, where it is, and why."""

    name: str
    path: str
    reason: str


def _from_files(folder: Path, files: Iterable[ascend.FileContent], lost: Iterable[_Lost]) -> Dump:
    """One Dump of what the files of a folder hold; overflow reports are told apart."""
    broken: list[Broken] = []
    unread: dict[str, int] = {}  # flat op name -> time of its newest unreadable file
    for item in lost:
        told = names.parse_device(item.name)
        broken.append(Broken(
            told.op_name if told else os.path.basename(item.path), item.path, item.reason, told.op_type if told else "",
        ))
        if told is not None and told.thread is None:
            unread[told.op_name] = max(told.time, unread.get(told.op_name, 0))
    contents: list[ascend.FileContent] = []
    overflow: list[ascend.FileContent] = []
    notes = []
    for content in files:
        (overflow if opdebug.is_overflow(content.op) else contents).append(content)
    outdated = [c for c in contents if unread.get(names.device_flat(c.op.name), 0) > c.op.time]
    if outdated:  # an older file does not stand in for the newest one
        left_out = [os.path.basename(content.op.path) for content in outdated]
        notes.append(f"{folder}: {len(outdated)} files are older than unreadable ones of the same op and were not "
                     f"used: {few(left_out)}")
        contents = [c for c in contents if unread.get(names.device_flat(c.op.name), 0) <= c.op.time]
    dump = _from_contents(contents, folder, broken)
    found: tuple[Overflow, ...] = ()
    reported = []
    if overflow:
        found = opdebug.read_all(overflow, [content.op for content in contents])
        first = f", the first: {found[0]}" if found else ""
        reported.append(f"{folder}: {len(found)} overflows reported{first}")
    return replace(dump, overflows=found, notes=(*notes, *dump.notes, *reported))


def _from_contents(
    contents: Iterable[ascend.FileContent], path: Path, broken: Iterable[Broken] = (),
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
    buffers = sum(content.buffers + content.spaces for content in kept)
    if buffers:
        told.append(f"{path}: {buffers} buffers and workspaces were passed over")
    flat = bool(kept) and not any(content.is_named for content in kept)
    return Dump(refs, ops, tuple(bad), path, "npu", "", flat, tuple(told))


def _newest(
    contents: list[ascend.FileContent], path: Path,
) -> tuple[list[ascend.FileContent], tuple[str, ...]]:
    """Of several files of one op the newest, as the vendor does, sorted by time; and a note that counts the others."""
    by_name: dict[str, list[ascend.FileContent]] = {}
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


def _age(content: ascend.FileContent) -> tuple[int, str]:
    return content.op.time, content.op.path


def _in_format(ref: TensorRef, told: names.ConvertedName) -> TensorRef:
    """`ref` in the layout that frameworks write behind the index (`...output.0.NC1HWC0.npy`)."""
    layout = told.rest[-1] if told.rest else ""
    return replace(ref, layout=layout) if layout in FORMAT_NUMBERS and ref.layout == "ND" else ref


def _converted_folder(folder: Path, root: Path, files: Iterable[str]) -> Dump:
    """Tensors that were converted from device dumps, one npy or bin each; names stay flattened."""
    mapping: Mapping[str, str] = names.read_mapping(folder)
    refs: dict[Port, TensorRef] = {}
    ops: dict[str, DumpedOp] = {}
    broken: dict[Port, Broken] = {}
    parsed = []
    for file in files:
        told = names.parse_converted(names.real_name(file, mapping))
        if told is not None:
            parsed.append((told, file))
    for told, file in sorted(parsed, key=lambda item: (item[0].dump.time, item[1])):
        path = str(folder / file)
        op = ascend.named_op(path, told.dump)
        if opdebug.is_overflow(op):
            continue
        port = Port(op.name, told.side, told.index)
        ops[op.name] = op
        refs.pop(port, None)
        broken.pop(port, None)
        try:
            refs[port] = _in_format(arrays.read_array(path, root), told)
        except (FormatError, InputError) as error:
            broken[port] = Broken(op.name, path, str(error), op.op_type, port)
    return Dump(refs, ops, tuple(broken.values()), folder, "npu", "", True, bare=True)
