"""OM2, the newest form of device models (2026): a zip archive of JSON files, raw constants and a compiled library.

Source: ../shared/specs/model_formats.md, a.11. No real file was public when this was written; tests build one by hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from acccmp.core import reading
from acccmp.core.graph import Gear, ModelIO, ModelTensor
from acccmp.core.tensor import DTYPES, TensorRef
from acccmp.core.wire import Buffer
from acccmp.errors import FormatError
from acccmp.models.atc_json import list_of
from acccmp.models.device_graph import DeviceModel, DeviceOp, DeviceTensor, dtype_from

VARIANT = "OM2"
ZIP_MAGIC = b"PK\x03\x04"
MOST_MEMBERS = 100_000
LARGEST_TEXT = 256 << 20  # bytes of one JSON file, unpacked
LARGEST_RATIO = 200  # unpacked / packed; JSON reaches some 20


def is_archive(buffer: Buffer) -> bool:
    return bytes(buffer[:4]) == ZIP_MAGIC


def read(path: Path) -> DeviceModel:
    """The archive's first model: its inputs, outputs, ops with their originals, constants. Raises FormatError for any
    other zip file."""
    with reading.archive(path, members=MOST_MEMBERS) as archive:
        return _read(archive, path)


def _read(archive: reading.Archive, path: Path) -> DeviceModel:
    names = archive.members
    manifests = [name for name in names if name == "manifest.json" or name.count("/") == 1 == name.count("/manifest.")]
    manifest = _json(archive, manifests[0], path) if manifests else None
    if not isinstance(manifest, dict) or "om2_version" not in manifest:
        raise FormatError(f"{path}: a zip archive, but not a device model (no manifest.json with om2_version in it)")
    root = manifests[0].removesuffix("manifest.json")
    notes: list[str] = []
    count = manifest.get("model_num", 1)
    if isinstance(count, int) and count > 1:
        notes.append(f"the archive holds {count} models: the first one is read")
    base = f"{root}data/model_0/"
    meta = _json(archive, f"{base}model_meta.json", path)
    meta = meta if isinstance(meta, dict) else {}
    if not meta:
        notes.append("the archive says nothing about inputs and outputs (data/model_0/model_meta.json)")
    model = _graph(archive, base, path)
    return replace(
        model, name=str(meta.get("name") or path.stem), io=_io(meta), weights=_weights(archive, root, model.ops, path),
        attrs={**model.attrs, "atc_cmdline": str(manifest.get("atc_command") or "")}, meta={"variant": VARIANT},
        notes=(*notes, *model.notes),
    )


def _json(archive: reading.Archive, name: str, path: Path) -> Any:
    """A JSON file of the archive; None if there is none. Sizes are bounded before anything is unpacked."""
    raw = _bytes(archive, name, path)
    return None if raw is None else reading.parse_json(raw, f"{path}: damaged: {name}")


def _bytes(archive: reading.Archive, name: str, path: Path) -> bytes | None:
    info = archive.members.get(name)
    if info is None:
        return None
    if info.file_size > min(LARGEST_TEXT, max(1 << 20, info.compress_size * LARGEST_RATIO)):
        raise FormatError(f"{path}: {name} would unpack to {info.file_size} bytes, which is no model's text")
    with archive.member(name) as member:
        return member.read(info.file_size)


def _graph(archive: reading.Archive, base: str, path: Path) -> DeviceModel:
    """Ops of the graph kept for debugging; without one, names and originals alone, and a note."""
    from acccmp.models import build_pbtxt

    folder = f"{base}debug/"
    for name in sorted(archive.members):
        if not name.startswith(folder) or "/ge_proto_" not in name or not name.endswith(".txt"):
            continue
        raw = _bytes(archive, name, path)
        if raw:
            return build_pbtxt.ops_of(raw.decode("utf-8", "replace"), path)
    listed = _json(archive, f"{folder}op_attr.json", path)
    if not isinstance(listed, dict):
        why = "the graph is not in the archive (no debug files): no op can be traced to the original"
        return DeviceModel("", notes=(why,))
    ops = []
    for place, (name, attrs) in enumerate(listed.items()):
        plain = {key: _attr(value) for key, value in attrs.items()} if isinstance(attrs, dict) else {}
        ops.append(DeviceOp(str(name), str(plain.get("type") or ""), place, attrs=plain))
    return DeviceModel("", ops, notes=("the archive keeps the ops' attributes only: no edges, no shapes",))


def _attr(value: Any) -> Any:
    """{"type", "value"} as the value; lists become tuples."""
    value = value.get("value") if isinstance(value, dict) else value
    return tuple(value) if isinstance(value, list) else value


def _io(meta: Mapping[str, Any]) -> ModelIO:
    gears = []
    for entry in list_of(meta.get("dynamic_batch_info")):
        values = entry if isinstance(entry, list) else [entry]
        if all(isinstance(n, int) and not isinstance(n, bool) for n in values):
            gears.append(Gear(tuple(values)))
    kind = meta.get("dynamic_type")
    dynamic = {1: "batch", 2: "image size", 3: "dimensions"}.get(kind, "") if isinstance(kind, int) else ""
    return ModelIO(
        tuple(_tensor(entry, meta.get("aipp")) for entry in _indexed(meta.get("inputs"))),
        tuple(_tensor(entry) for entry in _indexed(meta.get("outputs"))), tuple(gears), dynamic,
    )


def _indexed(value: Any) -> list[Mapping[str, Any]]:
    entries = [entry for entry in list_of(value) if isinstance(entry, dict)]
    return sorted(entries, key=lambda entry: entry["index"] if isinstance(entry.get("index"), int) else 0)


def _tensor(entry: Mapping[str, Any], aipp: Any = None) -> ModelTensor:
    def ints(key: str) -> tuple[int, ...] | None:
        values = entry.get(key)
        good = isinstance(values, list) and all(isinstance(n, int) for n in values)
        return tuple(values) if good and values else None

    size, name = entry.get("size"), str(entry.get("name") or "")
    ranges = [tuple(pair) for pair in list_of(entry.get("shape_range")) if isinstance(pair, list) and len(pair) == 2]
    return ModelTensor(
        name, dtype_from(str(entry.get("data_type") or "") or None),
        ints("origin_input_dims") or ints("shape_v2") or ints("shape") or (), str(entry.get("format") or "") or None,
        size if isinstance(size, int) and size > 0 else None, ranges=tuple(ranges),
        aipp=aipp if isinstance(aipp, dict) and aipp.get("name", name) == name else {},
    )


def _weights(
    archive: reading.Archive, root: str, ops: Sequence[DeviceOp], path: Path,
) -> dict[str, TensorRef]:
    """Refs to the constants that lie in the archive as they are; packed ones cannot be left where they are."""
    config = _json(archive, f"{root}data/constants/model_0_constants_config.json", path)
    listed = config.get("consts") if isinstance(config, dict) else None
    descs = {op.name: op.output_descs[0] for op in ops if op.output_descs}
    found: dict[str, TensorRef] = {}
    for name, entry in listed.items() if isinstance(listed, dict) else ():
        if not isinstance(entry, dict) or entry.get("type") != "INTERNAL":
            continue
        op = str(entry.get("op_name") or name)
        at = _place(archive, f"{root}data/constants/{entry.get('file_name')}", entry)
        if at is not None:
            found[f"{op}:0"] = _ref(str(path), descs.get(op, DeviceTensor()), *at)
    return found


def _place(archive: reading.Archive, name: str, entry: Mapping[str, Any]) -> tuple[int, int] | None:
    """First byte in the zip file and size of a constant of an unpacked member; None if it does not fit."""
    offset, size = entry.get("offset", 0), entry.get("size", 0)
    at = archive.stored_at(name) if name in archive.members else None
    if at is None or not isinstance(offset, int) or not isinstance(size, int):
        return None
    if offset < 0 or size <= 0 or offset + size > at[1]:
        return None
    return at[0] + offset, size


def _ref(path: str, desc: DeviceTensor, offset: int, size: int) -> TensorRef:
    dtype = dtype_from(desc.dtype)
    shape = desc.shape
    if dtype is None or shape is None or min(shape, default=0) < 0 or dtype.nbytes(math.prod(shape)) > size:
        return TensorRef(path, DTYPES["uint8"], (size,), offset, size)  # bytes without a known meaning
    return TensorRef(path, dtype, shape, offset, size, desc.layout or "ND")
