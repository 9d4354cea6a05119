"""The outside of an .om file: which variant it is, its header, its partitions, and the files inside of files.

Nothing but headers and tables is read here; a partition is a place in the file. Source of all offsets and numbers:
../shared/specs/model_formats.md, a.0 to a.3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from acccmp.core.wire import BYTES, Buffer, fields
from acccmp.errors import FormatError

HEADER_SIZE = 256
MAGIC = b"IMOD"
OLD_VERSION, NEW_VERSION = 0x10000000, 0x20000000
DEEPEST = 8  # files inside of files; real ones have one level
MOST_PARTITIONS = 4096
MOST_MODELS = 4096

MODEL_DEF, WEIGHTS, FLOW_SUBMODEL, INOUT_INFO, BUNDLE_MODEL = 0, 1, 7, 8, 24
PARTITION_NAMES = {
    0: "MODEL_DEF", 1: "WEIGHTS_DATA", 2: "TASK_INFO", 3: "TBE_KERNELS", 4: "CUST_AICPU_KERNELS", 5: "SO_BINS",
    6: "FLOW_MODEL", 7: "FLOW_SUBMODEL", 8: "MODEL_INOUT_INFO", 9: "STATIC_TASK_DESC", 10: "DYNAMIC_TASK_DESC",
    11: "TASK_PARAM", 12: "TILING_DATA", 20: "PRE_MODEL_DESC", 21: "PRE_MODEL_SQE", 22: "PRE_KERNEL_ARGS",
    23: "PRE_MODEL_DESC_EXTEND", 24: "BUNDLE_MODEL_INFO", 25: "BUNDLE_MODEL_VAR_INFO", 26: "CUSTOM_OPS",
}
FLOW_TYPE, BUNDLE_TYPE = 3, 5
MODEL_TYPES = {0: "IR model", 1: "standard", 2: "OM-tiny", 3: "flow", 4: "lite", 5: "bundle"}


@dataclass(frozen=True)
class Header:
    """The 256 bytes at the beginning. `payload` is how many bytes the header says that follow."""

    version: int
    model_type: int
    payload: int
    is_encrypted: bool
    has_checksum: bool
    is_online: bool
    name: str
    ir_version: int
    model_num: int
    platform_version: str
    checks_host: bool
    is_dynamic: bool
    is_wide: bool


@dataclass(frozen=True)
class Partition:
    """One part of a model: `offset` counts from the beginning of the file on disk."""

    type: int
    offset: int
    size: int

    @property
    def name(self) -> str:
        return PARTITION_NAMES.get(self.type, f"unknown type {self.type}")


@dataclass(frozen=True)
class Inner:
    """A model inside of a flow or bundle: either its container, or what is wrong with it (or where it is kept)."""

    name: str
    kind: str
    container: Container | None = None
    problem: str = ""


@dataclass(frozen=True)
class Container:
    """An .om file, or one inside of another: bytes [start, end) of the file on disk.

    `variant` is G1, G2a, G2b, G3, flow or bundle. `blocks` are the partition tables: the root model's first, then
    those of its sub-models with known shapes. `body` is the payload of a G1 file, which has no table.
    """

    variant: str
    path: Path
    start: int
    end: int
    header: Header
    blocks: tuple[tuple[Partition, ...], ...] = ()
    body: Partition | None = None
    inner: tuple[Inner, ...] = ()
    notes: tuple[str, ...] = ()

    def find(self, type_: int, block: int = 0) -> Partition | None:
        """The first partition of this type in a block."""
        if block >= len(self.blocks):
            return None
        return next((part for part in self.blocks[block] if part.type == type_), None)


def refuse_what_is_no_om(start: bytes, size: int, path: Path) -> None:
    """Raises FormatError unless `start` (the first bytes) begins an .om file."""
    if not start.startswith(MAGIC):
        raise FormatError(f"{path}: not an .om model: it begins with {start[:4].hex(' ')}, not with IMOD")
    if size < HEADER_SIZE:
        raise FormatError(f"{path}: cut off: an .om begins with {HEADER_SIZE} bytes of header, found {size}")


def open_container(buffer: Buffer, path: Path, start: int = 0, end: int | None = None, depth: int = 0) -> Container:
    """The container in buffer[start:end]. Raises FormatError for what is no .om and for tables that do not fit."""
    end = len(buffer) if end is None else end
    refuse_what_is_no_om(bytes(buffer[start : min(end, start + HEADER_SIZE)]), end - start, path)
    header, notes = _header(bytes(buffer[start : start + HEADER_SIZE]), path)
    body = start + HEADER_SIZE
    there = end - body
    # A bundle counts its header too.
    said = header.payload - HEADER_SIZE if header.model_type == BUNDLE_TYPE else header.payload
    if header.payload and said != there:
        what = "cut off" if there < said else "longer than its header says"
        notes.append(f"the file is {what}: {said} bytes of payload are announced, {there} are there")
    if header.is_encrypted:
        notes.append("the payload is encrypted: nothing but the header can be read")
        return Container("encrypted", path, start, end, header, notes=tuple(notes))
    if header.model_type == BUNDLE_TYPE:
        return replace(_bundle(buffer, path, start, end, header, depth), notes=tuple(notes))
    first = _table(buffer, body, end, header.is_wide)
    if first is None:
        if there and buffer[body] == 0x0A:  # field 1 of a protobuf message: no table, the message itself
            return Container(
                "G1", path, start, end, header, body=Partition(MODEL_DEF, body, there), notes=tuple(notes),
            )
        raise FormatError(
            f"{path}: damaged: there is neither a table of partitions nor a model behind the header (byte {body})"
        )
    blocks = [first]
    for _ in range(1, min(header.model_num, MOST_MODELS)):
        at = max((part.offset + part.size for part in blocks[-1]), default=end)
        following = _table(buffer, at, end, header.is_wide) if at < end else None
        if following is None:
            notes.append(f"{header.model_num} models are announced, {len(blocks)} could be found")
            break
        blocks.append(following)
    for block in blocks:
        for part in block:
            if part.type not in PARTITION_NAMES:
                notes.append(f"a partition of unknown type {part.type} ({part.size} bytes) is left alone")
    variant = "flow" if header.model_type == FLOW_TYPE else _generation(header)
    inner = tuple(_submodels(buffer, path, blocks[0], depth)) if header.model_type == FLOW_TYPE else ()
    return Container(variant, path, start, end, header, tuple(blocks), None, inner, tuple(notes))


def _generation(header: Header) -> str:
    if header.version == OLD_VERSION:
        return "G2a"
    return "G3" if header.is_wide else "G2b"


def _header(raw: bytes, path: Path) -> tuple[Header, list[str]]:
    notes: list[str] = []
    (size, version) = struct.unpack_from("<II", raw, 4)
    if size != HEADER_SIZE:
        raise FormatError(f"{path}: damaged: the header's size is given as {size}, always {HEADER_SIZE} in .om files")
    if version not in (OLD_VERSION, NEW_VERSION):
        notes.append(f"the header's version {version:#010x} is unknown; it is read like {NEW_VERSION:#010x}")
    model_type = raw[82]
    if model_type not in MODEL_TYPES:
        notes.append(f"the model type {model_type} is unknown")
    # Older headers have no number of models: the platform's version stands in its place.
    old = version == OLD_VERSION
    (length,) = struct.unpack_from("<I", raw, 76)
    (ir_version,) = struct.unpack_from("<I", raw, 152)
    model_num = 1 if old else struct.unpack_from("<I", raw, 156)[0]
    model_length = 0 if old else struct.unpack_from("<Q", raw, 184)[0]
    platform = raw[156:176] if old else raw[160:180]
    return Header(
        version, model_type, model_length or length, raw[80] == 1, raw[81] == 1, raw[83] == 1, _text(raw[84:116]),
        ir_version, max(model_num, 1), _text(platform), not old and raw[192] == 1, not old and raw[193] == 1,
        model_type in (FLOW_TYPE, BUNDLE_TYPE) or model_length != 0,
    ), notes


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("utf-8", "replace")


def _table(buffer: Buffer, at: int, end: int, wide: bool, from_table: bool = False) -> tuple[Partition, ...] | None:
    """The table of partitions at byte `at`; None where no table that fits into the file can be read.

    Offsets count from the table's end, or from its beginning (`from_table`, in bundles).
    """
    head, row = (8, 24) if wide else (4, 12)
    if end - at < head:
        return None
    (count,) = struct.unpack("<I", buffer[at : at + 4])
    if not 0 < count <= MOST_PARTITIONS or at + head + count * row > end:
        return None
    base = at if from_table else at + head + count * row
    parts = []
    for place in range(count):
        raw = buffer[at + head + place * row : at + head + (place + 1) * row]
        type_, offset, size = struct.unpack("<I4xQQ" if wide else "<III", raw)
        if base + offset + size > end:
            return None
        parts.append(Partition(type_, base + offset, size))
    return tuple(parts)


def _bundle(
    buffer: Buffer, path: Path, start: int, end: int, header: Header, depth: int,
) -> Container:
    table = _table(buffer, start + HEADER_SIZE, end, True, from_table=True)
    if table is None:
        raise FormatError(f"{path}: damaged: a bundle without a table of models that fits into the file")
    inner = []
    for place, part in enumerate(p for p in table if p.type == BUNDLE_MODEL):
        inner.append(_inner(buffer, path, f"model {place}", "bundle", part.offset, part.offset + part.size, depth))
    return Container("bundle", path, start, end, header, (table,), None, tuple(inner))


def _submodels(buffer: Buffer, path: Path, table: tuple[Partition, ...], depth: int) -> Iterator[Inner]:
    """The models inside of a flow model; where `SubmodelDef.om_data` lies is told without copying it."""
    for place, part in enumerate(p for p in table if p.type == FLOW_SUBMODEL):
        name, kind, elsewhere, at = "", "", "", (0, 0)
        try:
            for field in fields(buffer, part.offset, part.offset + part.size):
                if field.wire != BYTES:
                    continue
                if field.number == 3:
                    at = (field.start, field.end)
                elif field.number in (1, 2, 9):
                    text = bytes(buffer[field.start : min(field.end, field.start + 4096)]).decode("utf-8", "replace")
                    name = text if field.number == 1 else name
                    kind = text if field.number == 2 else kind
                    elsewhere = text if field.number == 9 else elsewhere
        except ValueError as error:
            yield Inner(name or f"sub-model {place}", kind, problem=f"damaged: {error}")
            continue
        name = name or f"sub-model {place}"
        if at[1] > at[0]:
            yield _inner(buffer, path, name, kind, at[0], at[1], depth)
        else:
            yield Inner(name, kind, problem=f"kept in another file ({elsewhere})" if elsewhere else "holds no model")


def _inner(buffer: Buffer, path: Path, name: str, kind: str, start: int, end: int, depth: int) -> Inner:
    if depth >= DEEPEST:
        return Inner(name, kind, problem=f"models are nested deeper than {DEEPEST}")
    try:
        found = open_container(buffer, path, start, end, depth + 1)
    except FormatError as error:
        return Inner(name, kind, problem=str(error).removeprefix(f"{path}: "))
    return Inner(found.header.name or name if kind == "bundle" else name, kind, found)
