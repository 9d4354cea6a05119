"""Directory trees of dumps, and the choice of one run among them. Specs of the Ascend dump formats, section 2.2.

    <dump path>/<YYYYmmddHHMMSS>/<device>/<model name>/<model id>/<step>/<files>      a model
    <dump path>/<YYYYmmddHHMMSS>/<device>/<files>                                    single ops
    <dump path>/rank_<device>/<model name>/<model id>/<step>/<files>                  frameworks

A Dump is made of the files of exactly one folder, never of two runs. Which one, when nobody says: the newest complete
one. A folder is *complete* unless
- the last file that was written to it is cut off, or
- another folder of the same model has all of its ops and more, and the missing ones are those that ran last (the job
  died half-way), or a tenth or more of them all.
A folder that lacks a few ops in the middle is complete: what is missing there is the comparison's business.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from acccmp.core import reading
from acccmp.core.dump import DumpedOp, Place
from acccmp.core.names import few
from acccmp.dumps import ascend, names
from acccmp.errors import FormatError, InputError

_TIME = re.compile(r"[0-9]{14}")
_DEVICE = re.compile(r"(?:rank_|device_?)?([0-9]{1,5})")
DEEPEST = 8
_LOOKED_AT = 12  # folders of one model whose completeness is found out, newest first


@dataclass(frozen=True)
class Choice:
    """What the user chose; None leaves the choice to us. `model` is a model's name or its id."""

    run: str | None = None
    device: str | None = None
    model: str | None = None
    step: str | None = None

    @property
    def asked(self) -> str:
        """The choices in words, "" without any."""
        return ", ".join(f"{key} {value!r}" for key, value in vars(self).items() if value is not None)

    def refuse(self, path: Path, what: str) -> None:
        """InputError when a choice was asked for where `path`, which is `what`, has none."""
        if self.asked:
            raise InputError(f"{path}: {self.asked} chooses among the runs of a device, this is {what}")


@dataclass(frozen=True, eq=False)
class Leaf:
    """A folder with dump files, and what its path says. Its run is the time folder, else the path below the root."""

    path: Path
    place: Place
    files: tuple[str, ...] = ()

    @property
    def is_placed(self) -> bool:
        """Does it lie where the writer of a tree puts files?"""
        return bool(self.place.device)

    @cached_property
    def dumped(self) -> tuple[DumpedOp, ...]:
        """What the names of its device files tell; `path` is the name of the file."""
        mapping = names.read_mapping(self.path)
        told = ((file, names.parse_device(names.real_name(file, mapping))) for file in self.files)
        return tuple(replace(op, path=file) for file, op in told if op is not None)

    @cached_property
    def ops(self) -> dict[str, int]:
        """Op -> time stamp of its newest file, by file names alone."""
        found: dict[str, int] = {}
        for op in self.dumped:
            key = f"{op.op_type}.{op.name}"
            found[key] = max(op.time, found.get(key, 0))
        return found

    @cached_property
    def is_cut_off(self) -> bool:
        """Is the file that was written last shorter than its header says?"""
        last = max(self.dumped, key=lambda op: (op.time, op.path), default=None)
        if last is None:
            return False
        try:
            real = names.real_name(last.path, names.read_mapping(self.path))
            return bool(ascend.read_file(self.path / last.path, real).broken)
        except FormatError as error:
            return "cut off" in str(error) or "no dump" in str(error)


def find_leaf(root: Path, choice: Choice) -> tuple[Path, list[str]]:
    """The one folder at or below `root` that is read, and what is to be said about the choice.

    `root` itself when nothing looks like a dump: the reader then says what is wrong. Raises InputError when the
    choice is not there, or when several models or devices of one run are and nothing chooses between them.
    """
    leaves, notes = find_leaves(root)
    if not leaves:
        if choice.asked:
            raise InputError(f"{root}: no {choice.asked}: there is no dump in it")
        return root, notes
    if len(leaves) == 1 and not choice.asked:
        return leaves[0].path, notes
    placed = [leaf for leaf in leaves if leaf.is_placed]
    own = next((leaf for leaf in leaves if leaf.path == root), None)
    if own is not None and not choice.asked and len(own.files) >= max((len(p.files) for p in placed), default=0):
        notes.append(f"{root}: {len(leaves) - 1} folders of dumps below it were not read")
        return root, notes
    if placed and len(placed) < len(leaves):
        others = [leaf for leaf in leaves if not leaf.is_placed]
        count = sum(len(leaf.files) for leaf in others)
        notes.append(f"{root}: {count} files lie outside of the runs and were not read: "
                     f"{few(str(leaf.path.relative_to(root)) or '.' for leaf in others)}")
        leaves = placed
    chosen = asked_for(root, leaves, choice)
    leaf, told = _newest_complete(root, chosen)
    return leaf.path, [*notes, *told]


def find_leaves(root: Path) -> tuple[list[Leaf], list[str]]:
    """Every folder at or below `root` that holds files which could be dumps, by path; and which links to folders were
    not followed because they lead out of `root`."""
    found: list[Leaf] = []
    notes: list[str] = []
    for folder, entries in reading.walked(root, DEEPEST):
        notes += [f"{entry.path}: a link that leads out of {root}, to {entry.outside}, was not followed"
                  for entry in entries if entry.outside and os.path.isdir(entry.outside)]
        mapping = names.read_mapping(folder) if any(entry.name == names.MAPPING_FILE for entry in entries) else {}
        files = [entry.name for entry in entries if not entry.is_folder and _could_be_dump(entry.name, mapping)]
        if files:
            found.append(Leaf(folder, place_of(root, folder), tuple(files)))
    return sorted(found, key=lambda leaf: str(leaf.path)), notes


def _could_be_dump(name: str, mapping: dict[str, str]) -> bool:
    real = names.real_name(name, mapping)
    if name == names.MAPPING_FILE or real.endswith((".csv", ".txt", ".json", ".md")):
        return name == "manifest.json"
    return names.parse_device(real) is not None or real.endswith(".npy") or names.parse_converted(real) is not None


def place_of(root: Path, leaf: Path) -> Place:
    """Where the folder `leaf` stands, read from its whole path, so that `root` may be any level of the tree."""
    parts = leaf.resolve().parts
    times = [i for i, part in enumerate(parts) if _TIME.fullmatch(part)]
    inside = os.path.relpath(leaf, root)
    if times:
        rest = parts[times[-1] + 1 :]
        run = parts[times[-1]]
        device = _DEVICE.fullmatch(rest[0]) if rest else None
        if device is not None and len(rest) == 1:
            return Place(run, device[1])
        if device is not None and len(rest) == 4 and reading.is_number(rest[2]) and reading.is_number(rest[3]):
            return Place(run, device[1], rest[1], rest[2], rest[3])
        return Place(run)
    if len(parts) >= 5 and reading.is_number(parts[-1]) and reading.is_number(parts[-2]):
        device = _DEVICE.fullmatch(parts[-4])
        if device is not None:
            return Place(_first(inside, 4), device[1], parts[-3], parts[-2], parts[-1])
    if reading.is_number(inside):  # a model's steps, without the folders above
        return Place(step=inside)
    return Place("" if inside == "." else inside)


def _first(inside: str, last: int) -> str:
    """The part of a relative path above its last `last` components, as the name of a run."""
    parts = Path(inside).parts
    return "/".join(parts[:-last]) if len(parts) > last else ""


def asked_for(root: Path, leaves: Sequence[Leaf], choice: Choice) -> list[Leaf]:
    """The leaves that the user's choice leaves. InputError that lists what there is, if that is none."""
    left = list(leaves)
    for key, wanted in vars(choice).items():
        if wanted is None:
            continue
        kept = [leaf for leaf in left if wanted in _answers(leaf, key, root)]
        if not kept:
            there = sorted({getattr(leaf.place, key) for leaf in left if getattr(leaf.place, key)})
            raise InputError(f"{root}: no {key} {wanted!r}; there {'is' if len(there) == 1 else 'are'}: "
                             f"{', '.join(there) or 'none'}")
        left = kept
    return left


def _answers(leaf: Leaf, key: str, root: Path) -> tuple[str, ...]:
    """The texts by which the user may ask for this leaf."""
    if key == "model":
        return (leaf.place.model, leaf.place.model_id, f"{leaf.place.model}/{leaf.place.model_id}")
    if key == "run":
        inside = leaf.path.relative_to(root) if leaf.path.is_relative_to(root) else Path()
        return (leaf.place.run, str(inside), *inside.parts[:1])
    return (str(getattr(leaf.place, key)),)


def _newest_complete(root: Path, leaves: Sequence[Leaf]) -> tuple[Leaf, list[str]]:
    """The newest complete leaf, and what is to be said about the others; InputError where two models or devices of its
    run could be meant."""
    notes = []
    runs = sorted({leaf.place.run for leaf in leaves})
    if len(runs) > 1 and not any(leaf.is_placed for leaf in leaves):
        raise InputError(f"{root}: holds {len(runs)} folders of dumps ({few(run or '.' for run in runs)}) that are no "
                         f"runs of one tree; give one of them, or run={runs[-1]}")
    ranked = sorted(leaves, key=_age, reverse=True)
    looked_at = ranked[:_LOOKED_AT]
    why_not = {
        leaf: _incomplete(leaf, [
            other for other in looked_at if other.place.model == leaf.place.model and other is not leaf
        ]) for leaf in looked_at
    }
    chosen = next((leaf for leaf in looked_at if not why_not[leaf]), None)
    if chosen is None:
        chosen = looked_at[0]
        notes.append(f"{root}: no run is complete; the newest was read ({_label(chosen)}: {why_not[chosen]})")
    same_run = [leaf for leaf in leaves if leaf.place.run == chosen.place.run]
    for key, option in (("device", "device="), ("model", "model=")):
        there = sorted({getattr(leaf.place, key) for leaf in same_run})
        if len(there) > 1:
            raise InputError(f"{root}: run {chosen.place.run or '.'} has dumps of {len(there)} {key}s "
                             f"({', '.join(t or '-' for t in there)}); say which: {option}{there[0]}")
    passed = [leaf for leaf in looked_at[: looked_at.index(chosen)] if why_not[leaf]]
    notes += [f"{root}: {_label(leaf)} was not read: {why_not[leaf]}" for leaf in passed[:3]]
    others = [leaf for leaf in leaves if leaf is not chosen]
    if others:
        notes.append(f"{root}: {_label(chosen)} was read, of {len(leaves)} that are there (also "
                     f"{few(_label(leaf) for leaf in ranked if leaf is not chosen)})")
    return chosen, notes


def _age(leaf: Leaf) -> tuple[str, int, int, int, str]:
    """Newest last: by time folder, model id, step, newest file."""
    run, model_id, step = leaf.place.run, leaf.place.model_id, leaf.place.step
    return (
        run if _TIME.fullmatch(run) else "", int(model_id) if reading.is_number(model_id) else 0,
        int(step) if reading.is_number(step) else 0, max(leaf.ops.values(), default=0), str(leaf.path),
    )


def _incomplete(leaf: Leaf, siblings: Iterable[Leaf]) -> str:
    """Why a leaf is not complete (see the module's text); "" if it is."""
    if leaf.is_cut_off:
        return "its last file is cut off"
    own = leaf.ops.keys()
    for other in siblings:
        missing = other.ops.keys() - own
        if not missing or not own <= other.ops.keys():
            continue
        order = sorted(other.ops, key=lambda op: other.ops[op])
        at_the_end = missing == set(order[-len(missing):])
        if at_the_end or len(missing) * 10 >= len(order):
            died = "it ends after" if at_the_end else "it has"
            return f"{died} {len(own)} of the {len(order)} ops that {_label(other)} has"
    return ""


def _label(leaf: Leaf) -> str:
    place = leaf.place
    parts = [place.run or leaf.path.name]
    parts += [f"{name} {value}" for name, value in (
        ("device", place.device), ("model", place.model), ("id", place.model_id), ("step", place.step)) if value]
    return " ".join(parts)
