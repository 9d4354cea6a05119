"""The grammar of dump file names, both ways. Specs of the Ascend dump formats, section 2.

    device      <op type>.<op name>.<task>[.<stream>].<time us>[.<task type>.<context>.<thread>.<device>]
    exception   exception_info.<stream>.<task>.<YYYYmmddHHMMSSmmm>
    converted   <device name>.<input|output>.<index>[.<more>].<npy|bin>
    golden      <flattened op>.<index>.<time>.npy, inputs as input_<flattened op>.<index>.<time>.npy

Names of files are made of op names that anybody may have written, so a name made here is always one plain path
component of at most 255 bytes.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from acccmp.core import reading
from acccmp.core.dump import Side, flatten_name
from acccmp.errors import FormatError

MAPPING_FILE = "mapping.csv"
LONGEST = 255  # bytes of a file name on the file systems in use
_DEVICE_FLATTENED = re.compile(r"[ ./\\]")  # what the device writer replaces by "_"; everything else it keeps
_UNSAFE = re.compile(r"[\x00-\x1f\x7f/\\]")
_TASK_TYPES = {"0": "AICORE", "1": "AICPU", "2": "DEBUG", "3": "HCCL", "4": "FFTSPLUS"}
_BIGGEST_MAPPING = 64 << 20  # bytes of a mapping.csv that we are ready to read


@dataclass(frozen=True)
class DeviceName:
    """What the name of a device dump tells. `time` is in microseconds since 1970 unless its digits are not 16.

    `task_type`, `context`, `thread` and `device` are None where the name has no such part.
    """

    op_type: str
    op_name: str
    task: int = 0
    stream: int | None = None
    time: int = 0
    task_type: str | None = None
    context: int | None = None
    thread: int | None = None
    device: int | None = None

    def __str__(self) -> str:
        parts = [device_flat(self.op_type), device_flat(self.op_name), str(self.task)]
        if self.stream is not None:
            parts.append(str(self.stream))
        parts.append(f"{self.time:016d}")
        if self.task_type is not None:
            parts += [self.task_type, str(self.context or 0), str(self.thread or 0), str(self.device or 0)]
        return ".".join(parts)


@dataclass(frozen=True)
class ConvertedName:
    """The name of one tensor that was converted from a device dump. `rest` is what stands between index and suffix."""

    dump: DeviceName
    side: Side
    index: int
    rest: tuple[str, ...] = ()


@dataclass(frozen=True)
class GoldenName:
    """The name of one golden tensor: its op as flattened in the name, the output index, the time (any digits)."""

    op: str
    index: int
    time: int


def device_flat(name: str) -> str:
    """An op name as the device writer puts it into a file name: space, `.`, `/` and `\\` become `_`."""
    return _DEVICE_FLATTENED.sub("_", name)


def parse_device(name: str) -> DeviceName | None:
    """Take the name of a device dump apart; None if it is not one.

    Op names may contain anything but `.`; names with dots, which other writers leave in, are understood when the time
    stamp has its 16 digits.
    """
    parts = name.split(".")
    if parts[0] == "exception_info" and len(parts) == 4 and all(_is_number(part) for part in parts[1:]):
        return DeviceName("exception_info", "exception_info", int(parts[2]), int(parts[1]), int(parts[3]))
    tail = 4 if len(parts) >= 8 and parts[-4] in _TASK_TYPES and all(map(_is_number, parts[-4:])) else 0
    extra = parts[len(parts) - tail :] if tail else []
    body = parts[: len(parts) - tail]
    if len(body) not in (4, 5):
        body = _rejoined(body)
    if len(body) not in (4, 5) or not body[0] or not body[1] or not all(map(_is_number, body[2:])):
        return None
    found = DeviceName(
        body[0], body[1], int(body[2]), int(body[3]) if len(body) == 5 else None, int(body[-1]),
    )
    if not extra:
        return found
    return DeviceName(
        found.op_type, found.op_name, found.task, found.stream, found.time,
        extra[0], int(extra[1]), int(extra[2]), int(extra[3]),
    )


def _rejoined(parts: list[str]) -> list[str]:
    """A name whose op name has dots in it, as five (or four) parts; unchanged if it cannot be one."""
    if len(parts) < 6 or not (_is_number(parts[-1]) and len(parts[-1]) == 16 and _is_number(parts[-2])):
        return parts
    numbers = 3 if _is_number(parts[-3]) else 2
    return [parts[0], ".".join(parts[1:-numbers]), *parts[-numbers:]]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 255


def parse_converted(name: str) -> ConvertedName | None:
    """Take the name of a converted tensor (`.npy` or `.bin`) apart; None if it is not one."""
    parts = name.split(".")
    if parts[-1] not in ("npy", "bin"):
        return None
    for place in range(len(parts) - 2, 3, -1):
        if parts[place] in ("input", "output") and _is_number(parts[place + 1]):
            dump = parse_device(".".join(parts[:place]))
            if dump is not None:
                side: Side = "input" if parts[place] == "input" else "output"
                return ConvertedName(dump, side, int(parts[place + 1]), tuple(parts[place + 2 : -1]))
    return None


def parse_golden(name: str) -> GoldenName | None:
    """Take the name of a golden tensor apart, from its end, so that the op may contain dots; None if it is not one."""
    parts = name.split(".")
    if len(parts) < 4 or parts[-1] != "npy" or not _is_number(parts[-2]) or not _is_number(parts[-3]):
        return None
    op = ".".join(parts[:-3])
    return GoldenName(op, int(parts[-3]), int(parts[-2])) if op else None


def golden_name(op: str, side: Side, index: int, time: int) -> str:
    """File name of a golden tensor: the vendor's for outputs; for inputs `input_` is put before the op."""
    flat = _UNSAFE.sub("_", flatten_name(op))
    return f"{'input_' if side == 'input' else ''}{flat}.{index}.{time:016d}.npy"


def device_name(name: DeviceName) -> str:
    """File name of a device dump, safe as one path component; it may be longer than a file system takes."""
    return _UNSAFE.sub("_", str(name))


def fitting(name: str, suffix: str = "") -> str:
    """`name` itself, or, when it is longer than a file system takes, an all-digit name made of its hash + `suffix`.

    The caller then owes a line in `mapping.csv`.
    """
    if len(name.encode("utf-8", "surrogateescape")) <= LONGEST:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return str(int.from_bytes(digest[:8], "little")) + suffix


def read_mapping(folder: Path) -> dict[str, str]:
    """Hashed name -> real name, from the folder's `mapping.csv`; empty where there is none.

    Lines that are not two columns are passed over. Real names are cut to their last path component.
    """
    try:
        text = reading.read_text(folder / MAPPING_FILE, _BIGGEST_MAPPING, folder, "surrogateescape")
    except FormatError:  # `mapping_problem` says why
        return {}
    found = {}
    for line in text.splitlines():
        hashed, comma, real = line.partition(",")
        if not comma:
            continue
        real = real.strip()
        if real[:1] == '"' and len(real) < csv.field_size_limit():
            real = next(csv.reader([real]), [""])[0]
        real = real.replace("\\", "/").rpartition("/")[2] if "/" in real else real
        if hashed.strip() and real:
            found[hashed.strip().strip('"')] = real
    return found


def mapping_problem(folder: Path) -> str:
    """Why a `mapping.csv` that is there is not read; "" where it is read, and where there is none."""
    path = folder / MAPPING_FILE
    try:
        if os.path.lexists(path):
            reading.opened(path, folder, _BIGGEST_MAPPING).close()
    except FormatError as error:
        return f"{error}; files with long names keep the names that they have there"
    return ""


def real_name(name: str, mapping: Mapping[str, str]) -> str:
    """The name that a file would have had, through `mapping`; its own where the mapping does not know it."""
    if name in mapping:
        return mapping[name]
    stem, dot, suffix = name.rpartition(".")
    if dot and stem in mapping:
        real = mapping[stem]
        return real if real.endswith(f".{suffix}") else f"{real}.{suffix}"
    return name


def agrees(name: DeviceName, in_header: str) -> bool:
    """Can the file of this name hold the op that its header calls `in_header`?

    The writer flattens names, appends `Debug` for overflow files, and numbers the slices of FFTS+ ops
    (`sgt_graph_N_` before, `_lxsliceN` behind). An empty header name agrees with everything, and
    so do the names of exception dumps, which do not say any op.
    """
    if not in_header or name.op_type == "exception_info":
        return True
    file_op, header_op = (_UNSAFE.sub("_", device_flat(text)) for text in (name.op_name, in_header))
    if file_op in (header_op, f"{header_op}Debug"):
        return True
    return unsliced(file_op) == unsliced(header_op)


def unsliced(name: str) -> str:
    """An op name without what FFTS+ slicing adds to it: `sgt_graph_N_` (and all before) and a final `_lxsliceN`."""
    return re.sub(r"_lxslice[0-9]+$", "", re.sub(r"^.*sgt_graph_[0-9]+[_/]", "", name))
