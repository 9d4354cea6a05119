"""Overflow files (`Opdebug.Node_OpDebug.*`): decoded, and tied to the op that overflowed.

Specs of the Ascend dump formats, section 6.10.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence

from acccmp.core.dump import DumpedOp, Overflow, Port
from acccmp.dumps.content import FileContent
from acccmp.errors import FormatError

MAGIC = 0x5A5A5A5A
NONE = 65535  # a context or thread that is not there
_LONGEST = 1 << 16  # bytes of a report that we are ready to read

UNITS = {0: "AIC", 1: "AIV", 2: "AICPU", 3: "SDMA"}  # acc_type
_CORE = ("model_id", "stream_id", "task_id", "task_type", "context_id", "thread_id", "pc_start", "para_base",
         "core_id", "block_id", "status")
# u64 fields of the new report, by unit.
FIELDS: dict[str, tuple[str, ...]] = {
    "AIC": _CORE,
    "AIV": _CORE,
    "AICPU": ("model_id", "stream_id", "task_id", "task_type", "context_id", "cpu_id", "thread_id", "status"),
    "SDMA": ("model_id", "stream_id", "task_id", "task_type", "context_id", "thread_id", "src_addr", "dst_addr",
             "channel_id", "status"),
}
# The old report of 2048 bytes: (unit, where its task is, where its state is, names of the state's u64).
_TASK = ("model_id", "stream_id", "task_id", "task_type", "pc_start", "para_base")
OLD = (
    ("DHA atomic add", 0, 512, ("status",)),
    ("L2 atomic add", 128, 768, ("status",)),
    ("AI core", 256, 1024, ("kernel_code", "block_idx", "status")),
)
_OLD_SIZE = 2048


def is_overflow(op: DumpedOp) -> bool:
    """Is it the file of an overflow report, not of an op?"""
    return op.op_type.lower() == "opdebug"


def read_all(contents: Iterable[FileContent], ops: Sequence[DumpedOp]) -> tuple[Overflow, ...]:
    """Every report, oldest first, each tied to its op among `ops`."""
    found = [report for content in contents for report in read_overflow(content, ops)]
    return tuple(sorted(found, key=lambda report: (report.time, report.path)))


def read_overflow(content: FileContent, ops: Sequence[DumpedOp] = ()) -> tuple[Overflow, ...]:
    """The reports in one file (the old form has up to three units), tied to the op of the same task and stream.

    Of several ops with that task the oldest is taken, as the vendor does. A report that cannot be decoded is one
    Overflow with its `problem`.
    """
    path, time = content.op.path, content.op.time
    try:
        records = decode(_payload(content))
    except FormatError as error:
        return (Overflow(path, time, problem=str(error)),)
    found = []
    for unit, fields in records:
        op = _op_of(fields, ops)
        found.append(Overflow(path, time, unit, fields, op.name if op else None, op.path if op else None))
    return tuple(found)


def _payload(content: FileContent) -> bytes:
    ref = content.refs.get(Port(content.op.name, "output", 0))
    if ref is None:
        raise FormatError("; ".join(item.reason for item in content.broken) or "has no output")
    if ref.nbytes > _LONGEST:
        raise FormatError(f"a report of {ref.nbytes} bytes")
    return ref.raw()


def decode(raw: bytes) -> list[tuple[str, dict[str, int]]]:
    """(unit, fields) of each overflow in a report, the new form or the old one of 2048 bytes.

    In the old form a unit whose status is 0 did not overflow. Raises FormatError for anything else.
    """
    if len(raw) >= 24 and struct.unpack_from("<I", raw)[0] == MAGIC:
        return [_new(raw)]
    if len(raw) < _OLD_SIZE:
        raise FormatError(f"{len(raw)} bytes are no overflow report")
    found = []
    for unit, task_at, state_at, state in OLD:
        fields = dict(zip(_TASK, struct.unpack_from("<6Q", raw, task_at), strict=True))
        fields |= dict(zip(state, struct.unpack_from(f"<{len(state)}Q", raw, state_at), strict=True))
        if fields["status"]:
            found.append((unit, fields))
    return found


def _new(raw: bytes) -> tuple[str, dict[str, int]]:
    _, version, _, kind, _, _ = struct.unpack_from("<6I", raw)
    unit = UNITS.get(kind)
    if unit is None:
        raise FormatError(f"an overflow of unit {kind}, which is not known")
    names = FIELDS[unit]
    if len(raw) < 24 + 8 * len(names):
        raise FormatError(f"an overflow report of {unit} has {8 * len(names)} bytes of fields, found {len(raw) - 24}")
    fields = dict(zip(names, struct.unpack_from(f"<{len(names)}Q", raw, 24), strict=True))
    if version == 1 and unit in ("AIC", "AIV"):  # status is four words
        more = struct.unpack_from("<3Q", raw, 24 + 8 * len(names)) if len(raw) >= 24 + 8 * (len(names) + 3) else ()
        fields |= {f"status_{place}": word for place, word in enumerate(more, 1)}
    return unit, fields


def _op_of(fields: Mapping[str, int], ops: Sequence[DumpedOp]) -> DumpedOp | None:
    """The oldest op of the same task and stream, and of the same context and thread where the report has them."""
    found = []
    for op in ops:
        if op.task != fields.get("task_id") or (op.stream is not None and op.stream != fields.get("stream_id")):
            continue
        told = ((op.context, fields.get("context_id", NONE)), (op.thread, fields.get("thread_id", NONE)))
        if all(mine is None or theirs in (NONE, mine) for mine, theirs in told):
            found.append(op)
    return min(found, key=lambda op: (op.time, op.path), default=None)
