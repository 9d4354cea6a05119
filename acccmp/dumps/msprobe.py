"""Folders that msprobe dumps from PyTorch or MindSpore: `step*/rank*/dump.json` + `dump_tensor_data/`.

Specs of the Ascend dump formats, section 2.5. File names are `<api>.<forward|backward>.<input|output>.<argument>` or,
for modules, `<module>.<forward|backward>.<call>.<input|output>.<argument>`, with `.npy` or `.pt`. A `.pt` file is a zip
archive of a pickle and the raw bytes: the bytes are read where they lie, with the dtype and shape that `dump.json`
states; nothing is unpickled.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from acccmp.core import reading
from acccmp.core.dump import Broken, Dump, DumpedOp, Place, Port, Side
from acccmp.core.tensor import TensorRef
from acccmp.dumps import arrays, names
from acccmp.dumps.tree import Choice, Leaf, asked_for
from acccmp.errors import FormatError, InputError

INDEX = "dump.json"
TENSORS = "dump_tensor_data"
_NAME = re.compile(r"(?P<op>.+\.(?:forward|backward)(?:\.[0-9]+)?)\.(?P<side>input|output)\.(?P<arg>[^/]+)\.(?:npy|pt)")
_LARGEST_INDEX = 512 << 20


def is_in(root: Path) -> bool:
    """Is this such a folder, or does it hold them?"""
    return (root / INDEX).is_file() or any(_ranks(root))


def _ranks(root: Path, inside: bool = True) -> Iterator[Path]:
    """The folders of ranks that lie in `root`; or those that links from there lead out to."""
    for pattern in ("rank*", "step*", "step*/rank*"):
        yield from (folder for folder in sorted(root.glob(pattern))
                    if (folder / INDEX).is_file() and reading.is_inside(folder, root) == inside)


def load(path: Path, choice: Choice) -> Dump:
    folder, notes = _find(path, choice)
    dump = _read(folder)
    return replace(dump, notes=(*notes, *dump.notes))


def _find(root: Path, choice: Choice) -> tuple[Path, list[str]]:
    """The folder with a `dump.json` that is read, and what is to be said of the choice.

    Of several steps the last is taken; ranks must be chosen between. Raises InputError when the choice is not there.
    """
    if (root / INDEX).is_file():
        choice.refuse(root, "a single rank")
        return root, []
    ranks = [Leaf(folder, Place("", _part(folder, root, "rank"), step=_part(folder, root, "step")))
             for folder in _ranks(root)]
    notes = [f"{folder}: a link that leads out of {root} was not followed" for folder in _ranks(root, False)]
    left = asked_for(root, ranks, choice)
    step = max((leaf.place.step for leaf in left), key=lambda text: int(text) if reading.is_number(text) else -1)
    chosen = [leaf for leaf in left if leaf.place.step == step]
    if len(chosen) > 1:
        devices = ", ".join(leaf.place.device or "-" for leaf in chosen)
        raise InputError(f"{root}: step {step or '-'} has dumps of {len(chosen)} devices ({devices}); "
                         f"say which: device={chosen[0].place.device}")
    if len(left) > 1:
        notes.append(f"{root}: step {step} was read, of {len(left)} that are there")
    return chosen[0].path, notes


def _part(folder: Path, root: Path, word: str) -> str:
    """The number behind `step` or `rank` in the path of a folder, "" without one."""
    for part in folder.relative_to(root).parts:
        if part.startswith(word):
            return part.removeprefix(word).strip("_")
    return ""


def _read(folder: Path) -> Dump:
    """Read the folder of one rank: ops in the order of `dump.json`, arguments numbered in the order of their names.

    Parameters and their gradients are counted in a note. Raises FormatError when `dump.json` is damaged, and
    InputError when only statistics were dumped.
    """
    told = _index(folder)
    described = dict(_described(told.get("data")))
    tensors = folder / TENSORS
    if not tensors.is_dir():
        raise InputError(f"{folder}: msprobe dumped statistics only ({INDEX}, no {TENSORS}); dump with task \"tensor\"")
    found: dict[tuple[str, Side], list[tuple[list[Any], str]]] = {}
    others: list[str] = []
    for entry in reading.listed(tensors):
        match = _NAME.fullmatch(entry.name)
        if match is None:
            others.append(entry.name)
            continue
        side: Side = "input" if match["side"] == "input" else "output"
        found.setdefault((match["op"], side), []).append((_natural(match["arg"]), entry.name))
    order = {name: place for place, name in enumerate(told.get("data") or {})}
    refs: dict[Port, TensorRef] = {}
    ops: dict[str, DumpedOp] = {}
    broken: list[Broken] = []
    for (op, side), files in sorted(found.items(), key=lambda item: (order.get(item[0][0], len(order)), item[0])):
        ops.setdefault(op, DumpedOp(op, op.split(".")[-3] if op[-1].isdigit() else op.split(".")[1], str(folder)))
        for index, (_, name) in enumerate(sorted(files)):
            port = Port(op, side, index)
            path = str(tensors / name)
            try:
                refs[port] = _tensor(path, described.get(name), folder)
            except FormatError as error:
                broken.append(Broken(op, path, str(error), "", port))
    note = f"{tensors}: {len(others)} files are parameters, gradients or other things and were not read"
    return Dump(refs, ops, tuple(broken), folder, notes=(note,) if others else ())


def _index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    told = reading.parse_json(reading.read_bytes(path, _LARGEST_INDEX, folder), path)
    if not isinstance(told, dict) or not isinstance(told.get("data", {}), (dict, type(None))):
        raise FormatError(f"{path}: not the index of a dump")
    return told


def _described(data: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """File name -> what the index says of the tensor in it, at whatever depth."""
    todo = [data]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            name = item.get("data_name")
            if isinstance(name, str):
                yield name, item
            todo += item.values()
        elif isinstance(item, list):
            todo += item


def _natural(text: str) -> list[Any]:
    """A sort key by which argument 10 comes after argument 9, and positions before names."""
    return [(0, int(part), "") if reading.is_number(part) else (1, 0, part) for part in text.split(".")]


def _tensor(path: str, told: Mapping[str, Any] | None, folder: Path) -> TensorRef:
    row, shape = names.dtype_named(str((told or {}).get("dtype", ""))), (told or {}).get("shape")
    if path.endswith(".npy"):
        return arrays.narrowed(arrays.read_npy(path, folder), row)
    if row is None or not isinstance(shape, list) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise FormatError(f"{path}: {INDEX} does not say its data type and shape, and nothing is unpickled")
    offset, size = _storage(path, folder)
    need = row.nbytes(math.prod(shape))
    if size != need:
        raise FormatError(f"{path}: {row.name} {shape} needs {need} bytes, its storage has {size}")
    return TensorRef(path, row, tuple(shape), offset, size)


def _storage(path: str, folder: Path) -> tuple[int, int]:
    """Offset and bytes of the only storage in a `.pt` file."""
    with reading.archive(path, folder) as archive:
        found = [name for name in archive.members if re.search(r"(^|/)data/[0-9]+$", name)]
        at = archive.stored_at(found[0]) if len(found) == 1 else None
        if at is None:
            raise FormatError(f"{path}: holds {len(found)} storages, one is wanted, not packed")
        if at[1] < archive.members[found[0]].file_size:
            raise FormatError(f"{path}: its storage is cut off")
        return at
