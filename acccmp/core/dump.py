"""Dump: the tensors of one run, wherever they were written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from typing import Literal, NamedTuple

from acccmp.core.reading import is_number
from acccmp.core.tensor import DType, TensorRef
from acccmp.errors import UnknownName
from acccmp.plugins import find

Side = Literal["input", "output"]
_FLATTENED = re.compile(r"[ ./\\]")


class Port(NamedTuple):
    """One end of one operator: `conv1:output:0`.

    >>> acccmp.Port.parse("block2/conv1:output:0")
    Port(node='block2/conv1', side='output', index=0)
    >>> str(acccmp.Port("block2/conv1", "output", 0))
    'block2/conv1:output:0'
    """

    node: str
    side: Side
    index: int  # type: ignore[assignment]  # a field, where tuples have a method of this name

    def __str__(self) -> str:
        return f"{self.node}:{self.side}:{self.index}"

    @classmethod
    def parse(cls, text: str) -> Port:
        """The inverse of `str`; names may contain ':'. ValueError if `text` is not a port."""
        parts = text.rsplit(":", 2)
        if len(parts) != 3 or parts[1] not in ("input", "output") or not is_number(parts[2]):
            raise ValueError(f"not a port: {text!r} (wanted NAME:input|output:INDEX)")
        return cls(parts[0], parts[1], int(parts[2]))  # type: ignore[arg-type]


def flatten_name(name: str) -> str:
    """An operator's name as file names have it: space, `.`, `/` and `\\` become `_`. Different names can collide."""
    return _FLATTENED.sub("_", name)


@dataclass(frozen=True)
class Origin:
    """The tensor of the original model that a device tensor stands for, as the compiler wrote it down."""

    node: str
    index: int = 0
    layout: str | None = None
    shape: tuple[int, ...] | None = None
    dtype: DType | None = None


@dataclass(frozen=True)
class DumpedOp:
    """One operator of a dump, as its file says. `time` is in microseconds since 1970 (0 if unknown).

    `task_type`, `context`, `thread` and `device` are those of FFTS+ ops. `addresses` are the tensors' on the device,
    `origins` what the outputs (by index) stand for, `attrs` and `dfx_message` the header's own texts.
    """

    name: str
    op_type: str = ""
    path: str = ""
    time: int = 0
    task: int | None = None
    stream: int | None = None
    task_type: str | None = None
    context: int | None = None
    thread: int | None = None
    device: int | None = None
    addresses: Mapping[tuple[Side, int], int] = field(default_factory=dict, repr=False, hash=False)
    origins: Mapping[int, Origin] = field(default_factory=dict, repr=False, hash=False)
    attrs: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    dfx_message: str = field(default="", repr=False)


@dataclass(frozen=True)
class Broken:
    """A file of a dump that could not be read: which op it should be (as far as the file name tells), and why.

    `port` is set when it is one tensor of the file; the others of that file are readable then.
    """

    name: str
    path: str
    reason: str
    op_type: str = ""
    port: Port | None = None


@dataclass(frozen=True)
class Place:
    """Where in a tree of runs a folder of dumps lies: the time folder, the device, the model's name and id, the step;
    "" for what the path does not say."""

    run: str = ""
    device: str = ""
    model: str = ""
    model_id: str = ""
    step: str = ""


@dataclass(frozen=True)
class RunFacts:
    """What a run tells of itself, as its runner or its manifest has it; empty where that says nothing.

    `inputs` are the names of what was fed, `outputs` the ports of the model's outputs, `tensors` the tensors' names in
    the model, `sha256` the hashes of their files, `skipped` why a tensor (by name) is not there.
    """

    runner: str = ""
    version: str = ""
    model_path: str = ""
    model_sha256: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[Port, ...] = ()
    tensors: Mapping[Port, str] = field(default_factory=dict, repr=False, hash=False)
    sha256: Mapping[Port, str] = field(default_factory=dict, repr=False, hash=False)
    skipped: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)


@dataclass(frozen=True)
class Overflow:
    """One overflow report: which unit raised it, its fields as numbers, and the op it belongs to.

    `op` is None when no dump of the same task lies beside the report; `problem` says why a report cannot be decoded.
    """

    path: str
    time: int
    unit: str = ""
    fields: Mapping[str, int] = field(default_factory=dict, hash=False)
    op: str | None = None
    op_path: str | None = None
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return f"{PurePath(self.path).name}: {self.problem}"
        where = ", ".join(f"{name.removesuffix('_id')} {self.fields[name]}" for name in ("task_id", "stream_id")
                          if name in self.fields)
        return f"{self.op or 'an op that was not dumped'} ({self.unit}, {where}, status {self.fields['status']:#x})"


@dataclass(frozen=True)
class Statistics:
    """What the device counted of one tensor, under the names of its file (`Max Value`, `L2Norm Value`, ...).

    None or NaN for what it did not count.
    """

    port: Port
    dtype: DType | None
    shape: tuple[int, ...] | None
    nbytes: int | None
    op_type: str
    values: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Dump(Mapping[Port, TensorRef]):
    """The tensors of one run: a mapping of Port to TensorRef, in the order of execution as far as it is known.

    `flat_names` says that op names are as file names have them (`/` and `.` flattened), because nothing beside the
    files holds the true ones; look-ups then flatten too. `bare` says that its files are plain arrays, which tell
    neither how the device stored a tensor nor the original's shape. `broken` are the files that could not be read;
    they are part of what was dumped and are judged. `notes` tells what was ignored, chosen and found odd. `run` is
    what the run tells of itself, `overflows` and `statistics` are what the device reported beside the tensors.

    >>> dump = acccmp.read_dump("npu")
    >>> dump["pool1:output:0"]
    TensorRef(float16 NC1HWC0 (4, 1, 4, 4, 16) of NCHW (4, 16, 4, 4) in 'npu/MaxPool.pool1...' at ...)
    >>> "pool1:output:0" in dump, len(dump)
    (True, 73)
    >>> [str(port) for port in dump if port.node == "pool1"]
    ['pool1:input:0', 'pool1:output:0']
    """

    refs: Mapping[Port, TensorRef] = field(repr=False)
    ops: Mapping[str, DumpedOp] = field(default_factory=dict, repr=False, hash=False)
    broken: tuple[Broken, ...] = field(default=(), repr=False)
    path: Path | None = None
    kind: Literal["golden", "npu"] = "npu"
    model: str = ""
    flat_names: bool = False
    bare: bool = field(default=False, repr=False, kw_only=True)
    notes: tuple[str, ...] = field(default=(), repr=False)
    run: RunFacts = field(default=RunFacts(), repr=False)
    place: Place = field(default=Place(), repr=False)
    overflows: tuple[Overflow, ...] = field(default=(), repr=False)
    statistics: Mapping[Port, Statistics] = field(default_factory=dict, repr=False, hash=False)

    def _found(self, key: object) -> TensorRef | None:
        """The tensor at a port, which may be a text."""
        if isinstance(key, str):
            try:
                key = Port.parse(key)
            except ValueError:
                return None
        found: TensorRef | None = self.refs.get(key)  # type: ignore[call-overload]  # a plain tuple is equal to a Port
        if found is None and self.flat_names and isinstance(key, Port):
            found = self.refs.get(key._replace(node=flatten_name(key.node)))
        return found

    def __getitem__(self, key: Port | str) -> TensorRef:
        """The tensor at a port: a Port, or its text (`conv1:output:0`). Raises UnknownName (a KeyError, with close
        matches)."""
        if (ref := self._found(key)) is not None:
            return ref
        where = f"the dump{f' {self.path}' if self.path else ''}"
        raise UnknownName("port", str(key), map(str, self.refs), where, "iterating over the dump lists its ports")

    def __contains__(self, key: object) -> bool:
        return self._found(key) is not None

    def __iter__(self) -> Iterator[Port]:
        return iter(self.refs)

    def _ipython_key_completions_(self) -> list[str]:
        return [str(port) for port in self.refs]

    @cached_property
    def inputs(self) -> Mapping[str, int]:
        """Op -> how many of its inputs were dumped, up to the last one."""
        found: dict[str, int] = {}
        for port in self.refs:
            if port.side == "input":
                found[port.node] = max(port.index + 1, found.get(port.node, 0))
        return found

    def __len__(self) -> int:
        return len(self.refs)

    def __repr__(self) -> str:
        where = f" from {self.path}" if self.path else ""
        broken = f", {len(self.broken)} unreadable files" if self.broken else ""
        return f"Dump({len(self.refs)} tensors of {len({p.node for p in self.refs})} ops{broken}{where})"

    def _repr_html_(self) -> str:
        return str(find("notebook", "Dump")(self))
