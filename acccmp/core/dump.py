"""Dump: the tensors of one run, wherever they were written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from acccmp.core.tensor import TensorRef

Side = Literal["input", "output"]


class Port(NamedTuple):
    """One end of one operator: `conv1:output:0`."""

    node: str
    side: Side
    index: int  # type: ignore[assignment]  # a field, where tuples have a method of this name

    def __str__(self) -> str:
        return f"{self.node}:{self.side}:{self.index}"

    @classmethod
    def parse(cls, text: str) -> Port:
        """The inverse of `str`; names may contain ':'. ValueError if `text` is not a port."""
        parts = text.rsplit(":", 2)
        if len(parts) != 3 or parts[1] not in ("input", "output") or not parts[2].isdigit():
            raise ValueError(f"not a port: {text!r} (wanted NAME:input|output:INDEX)")
        return cls(parts[0], parts[1], int(parts[2]))  # type: ignore[arg-type]


def flatten_name(name: str) -> str:
    """An operator's name as golden file names have it: `/` and `.` become `_`. Different names can collide."""
    return name.replace("/", "_").replace(".", "_")


@dataclass(frozen=True)
class DumpedOp:
    """One operator of a dump, as its file says. `time` is in microseconds since 1970 (0 if unknown)."""

    name: str
    op_type: str = ""
    path: str = ""
    time: int = 0
    task: int | None = None
    stream: int | None = None
    attrs: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)


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


@dataclass(frozen=True, eq=False)
class Dump(Mapping[Port, TensorRef]):
    """The tensors of one run: a mapping of Port to TensorRef, in the order of execution as far as it is known.

    `flat_names` says that op names are as file names have them (`/` and `.` flattened), because nothing beside the
    files holds the true ones; look-ups then flatten too. `broken` are the files that could not be read; they are part
    of what was dumped and are judged. `notes` tells what was ignored, chosen and found odd.
    """

    refs: Mapping[Port, TensorRef] = field(repr=False)
    ops: Mapping[str, DumpedOp] = field(default_factory=dict, repr=False, hash=False)
    broken: tuple[Broken, ...] = field(default=(), repr=False)
    path: Path | None = None
    kind: Literal["golden", "npu"] = "npu"
    model: str = ""
    flat_names: bool = False
    notes: tuple[str, ...] = field(default=(), repr=False)
    meta: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)

    def __getitem__(self, port: Port) -> TensorRef:
        if port in self.refs:
            return self.refs[port]
        if self.flat_names:
            return self.refs[port._replace(node=flatten_name(port.node))]
        raise KeyError(port)

    def __iter__(self) -> Iterator[Port]:
        return iter(self.refs)

    def __len__(self) -> int:
        return len(self.refs)

    def __repr__(self) -> str:
        where = f" from {self.path}" if self.path else ""
        broken = f", {len(self.broken)} unreadable files" if self.broken else ""
        return f"Dump({len(self.refs)} tensors of {len({p.node for p in self.refs})} ops{broken}{where})"

    def _repr_html_(self) -> str:
        from acccmp.plugins import find

        return str(find("notebook", "Dump")(self))
