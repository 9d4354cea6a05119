"""What a device's tensors lose when they become plain arrays, kept beside the arrays in `converted.json`.

A row for each dump file: its op, and for each of its tensors the array's file, how the numbers lie in it, and how the
device had them. Read back, such a folder is the dump that it was made of, padding aside.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from acccmp.core import reading
from acccmp.core.dump import Broken, DumpedOp, Origin, Port, Side
from acccmp.core.layout import Shape
from acccmp.core.tensor import DTYPES, ConvertedRef, TensorRef
from acccmp.core.writing import write_text
from acccmp.dumps import arrays
from acccmp.dumps.content import MOST_AXES, FileContent, lost
from acccmp.errors import FormatError, LayoutError

SCHEMA = "acccmp.converted/1"
LIST = "converted.json"

_TEXTS = ("op_type", "task_type", "dfx_message")
_NUMBERS = ("time", "task", "stream", "context", "thread", "device")


@dataclass(frozen=True)
class Source:
    """A dump file that was converted: its name, its content with refs to the arrays, and the arrays' names."""

    name: str
    content: FileContent
    files: Mapping[Port, str] = field(default_factory=dict, hash=False)


# -- writing -----------------------------------------------------------------------------------------------------


def row_of(
    name: str, content: FileContent, made: Mapping[Port, TensorRef], wrong: Mapping[Port, str],
) -> dict[str, Any]:
    """The row of the dump file `name`. `made` are the arrays, `wrong` what could not be converted, and why."""
    op = content.op
    broken = [{"side": item.port.side, "index": item.port.index, "reason": item.reason}
              for item in content.broken if item.port is not None]
    return {
        "source": name, "op": op.name, "is_named": content.is_named,
        **{key: value for key in (*_TEXTS, *_NUMBERS) if (value := getattr(op, key)) not in (None, "")},
        "attrs": dict(op.attrs),
        "origins": [_origin_row(index, origin) for index, origin in op.origins.items()],
        "tensors": [
            _tensor_row(port, content.refs[port], there, op.addresses.get((port.side, port.index)))
            for port, there in made.items()
        ],
        "broken": broken + [{"side": p.side, "index": p.index, "reason": why} for p, why in wrong.items()],
    }


def lost_row(name: str, reason: str) -> dict[str, Any]:
    """The row of a dump file that could not be read at all."""
    return {"source": name, "reason": reason}


def _origin_row(index: int, origin: Origin) -> dict[str, Any]:
    return {
        "output": index, "node": origin.node, "index": origin.index, "layout": origin.layout,
        "shape": origin.shape, "dtype": None if origin.dtype is None else origin.dtype.name,
    }


def _tensor_row(port: Port, ref: TensorRef, there: TensorRef, address: int | None) -> dict[str, Any]:
    """How the array lies, and what the device had. A dtype that lost digits on the way is the device's no more."""
    dtype = there.dtype if there.dtype.epsilon > ref.dtype.epsilon else ref.dtype
    return {
        "side": port.side, "index": port.index, "file": os.path.basename(there.path),
        "lies": {"dtype": there.dtype.name, "shape": there.shape, "layout": there.layout},
        "dtype": dtype.name, "shape": ref.shape, "layout": ref.layout, "original_shape": ref.original_shape,
        "original_layout": ref.original_layout, "groups": ref.groups, "address": address,
    }


def write(folder: Path, rows: Iterable[Mapping[str, Any]], model: str) -> None:
    """Put rows into the folder's list; those of the same dump files are replaced."""
    rows = list(rows)
    new = {row["source"] for row in rows}
    told = _read(folder) or {"model": model, "sources": []}
    kept = [row for row in told["sources"] if isinstance(row, dict) and row.get("source") not in new]
    told = {"schema": SCHEMA, "model": model or told.get("model", ""), "sources": [*kept, *rows]}
    write_text(folder / LIST, json.dumps(told, indent=1, ensure_ascii=False) + "\n")


# -- reading -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Converted:
    """The list of a folder of converted tensors."""

    sources: tuple[Source, ...]
    model: str = ""

    @property
    def files(self) -> frozenset[str]:
        """Names of the arrays that it lists."""
        return frozenset(name for source in self.sources for name in source.files.values())


def read(folder: Path) -> Converted | None:
    """The list of a folder, its arrays as the device had them; None where there is none of ours.

    Arrays that are missing, or other ones than listed, are broken. FormatError when the list itself is damaged.
    """
    told = _read(folder)
    if told is None:
        return None
    try:
        sources = tuple(_source(folder, row) for row in told["sources"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{folder / LIST}: a row of it is damaged ({type(error).__name__}: {error!s:.80})") from None
    model = told.get("model")
    return Converted(sources, model if isinstance(model, str) else "")


def _read(folder: Path) -> dict[str, Any] | None:
    told = reading.read_table(folder, LIST, SCHEMA)
    if told is not None and not isinstance(told.get("sources"), list):
        raise FormatError(f"{folder / LIST}: lists no dump files")
    return told


def _source(folder: Path, row: Mapping[str, Any]) -> Source:
    name = _text(row["source"])
    where = str(folder / os.path.basename(name))
    if "reason" in row:
        return Source(name, lost(where, name, _text(row["reason"])))
    tensors = row["tensors"]
    if tensors:
        where = str(folder / _file_name(tensors[0]["file"]))
    op = DumpedOp(
        _text(row["op"]), path=where, **{key: _text(row[key]) for key in _TEXTS if key in row},  # type: ignore[arg-type]
        **{key: _size(row[key]) for key in _NUMBERS if key in row},  # type: ignore[arg-type]
        attrs={_text(key): _text(value) for key, value in row["attrs"].items()},
        origins={_size(item["output"]): _origin(item) for item in row["origins"]},
        addresses={(_side(t), _size(t["index"])): _size(t["address"], 64) for t in tensors if t["address"] is not None},
    )
    refs: dict[Port, TensorRef] = {}
    files: dict[Port, str] = {}
    broken = [
        Broken(op.name, where, _text(item["reason"]), op.op_type, Port(op.name, _side(item), _size(item["index"])))
        for item in row["broken"]
    ]
    for item in tensors:
        port = Port(op.name, _side(item), _size(item["index"]))
        files[port] = _file_name(item["file"])
        path = str(folder / files[port])
        try:
            refs[port] = _ref(path, item, folder)
        except (FormatError, LayoutError) as error:
            broken.append(Broken(op.name, path, str(error).removeprefix(f"{path}: "), op.op_type, port))
    content = FileContent(op, refs, tuple(broken), is_named=row["is_named"] is True)
    return Source(name, content, files)


def _ref(path: str, row: Mapping[str, Any], folder: Path) -> TensorRef:
    lies = row["lies"]
    dtype, shape, layout = DTYPES[lies["dtype"]], _shape(lies["shape"]), _text(lies["layout"])
    if path.endswith(".bin"):
        base = arrays.read_bin(path, dtype, shape, inside=folder)
    else:
        base = arrays.read_npy(path, folder)
        held = dtype.numpy if dtype.numpy is not None else None
        if base.shape != shape or base.dtype.numpy != held:
            raise FormatError(
                f"{path}: holds {base.dtype} {list(base.shape)}, {LIST} says {dtype} {list(shape)}: the files were "
                "mixed up"
            )
    original = row["original_shape"]
    return ConvertedRef.lying_in(
        replace(base, layout=layout), DTYPES[row["dtype"]], _shape(row["shape"]), _text(row["layout"]),
        None if original is None else _shape(original),
        None if row["original_layout"] is None else _text(row["original_layout"]), max(1, _size(row["groups"])),
    )


def _origin(row: Mapping[str, Any]) -> Origin:
    return Origin(
        _text(row["node"]), _size(row["index"]), None if row["layout"] is None else _text(row["layout"]),
        None if row["shape"] is None else _shape(row["shape"]), None if row["dtype"] is None else DTYPES[row["dtype"]],
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _size(value: Any, bits: int = 63) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << bits:
        raise ValueError(f"{value!r:.40} is no size")
    return value


def _shape(value: Any) -> Shape:
    if not isinstance(value, list) or len(value) > MOST_AXES:
        raise ValueError(f"{value!r:.40} is no shape")
    return tuple(_size(n) for n in value)


def _side(row: Mapping[str, Any]) -> Side:
    side: Side = "input" if row["side"] == "input" else "output"
    if row["side"] != side:
        raise ValueError(f"{row['side']!r:.40} is no side")
    return side


def _file_name(value: Any) -> str:
    name = _text(value)
    if not name or os.path.basename(name) != name or name in (".", ".."):
        raise ValueError(f"{name!r:.80} is no file name")
    return name
