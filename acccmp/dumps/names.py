"""The grammar of dump file names, both ways. Specs of the Ascend dump formats, section 2.

    device      <op type>.<op name>.<task>[.<stream>].<time us>[.<task type>.<context>.<thread>.<device>]
    exception   exception_info.<stream>.<task>.<YYYYmmddHHMMSSmmm>
    converted   <device name>.<input|output>.<index>[.<more>].<npy|bin>, by the vendor's tools, MindSpore and others
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
from dataclasses import dataclass, replace
from pathlib import Path

from acccmp.core import reading
from acccmp.core.dump import DumpedOp, Port, Side, flatten_name
from acccmp.core.layout import FORMAT_NUMBERS, is_known
from acccmp.core.reading import is_number
from acccmp.core.tensor import DTYPES, DType
from acccmp.errors import FormatError

MAPPING_FILE = "mapping.csv"
FAILED_LIST = "convert_failed_file_list.txt"
LONGEST = 255  # bytes of a file name on the file systems in use
_DEVICE_FLATTENED = re.compile(r"[ ./\\]")  # what the device writer replaces by "_"; everything else it keeps
_UNSAFE = re.compile(r"[\x00-\x1f\x7f/\\]")
_TORCH = {"half": "float16", "float": "float32", "double": "float64", "long": "int64", "int": "int32",
          "short": "int16"}
_TASK_TYPES = {"0": "AICORE", "1": "AICPU", "2": "DEBUG", "3": "HCCL", "4": "FFTSPLUS"}
_BIGGEST_MAPPING = 64 << 20  # bytes of a mapping.csv that we are ready to read


@dataclass(frozen=True)
class TensorName:
    """What the name of a file with one tensor tells: its op, its port, its layout ("" where it does not say one) and
    the type that the device had. The op of a golden name has nothing but its name, as flattened, and its time."""

    op: DumpedOp
    port: Port
    layout: str = ""
    dtype: DType | None = None


def device_flat(name: str) -> str:
    """An op name as the device writer puts it into a file name: space, `.`, `/` and `\\` become `_`."""
    return _DEVICE_FLATTENED.sub("_", name)


def parse_device(name: str) -> DumpedOp | None:
    """Take the name of a device dump apart; None if it is not one. The time is in microseconds if it has 16 digits.

    Op names may contain anything but `.`; names with dots, which other writers leave in, are understood when the time
    stamp has its 16 digits.
    """
    parts = name.split(".")
    if parts[0] == "exception_info" and len(parts) == 4 and all(is_number(part) for part in parts[1:]):
        return DumpedOp("exception_info", "exception_info", "", int(parts[3]), int(parts[2]), int(parts[1]))
    tail = 4 if len(parts) >= 8 and parts[-4] in _TASK_TYPES and all(map(is_number, parts[-4:])) else 0
    body, extra = parts[: len(parts) - tail], parts[len(parts) - tail :]
    if len(body) not in (4, 5):
        body = _rejoined(body)
    if len(body) not in (4, 5) or not body[0] or not body[1] or not all(map(is_number, body[2:])):
        return None
    op = DumpedOp(body[1], body[0], "", int(body[-1]), int(body[2]), int(body[3]) if len(body) == 5 else None)
    if not extra:
        return op
    context, thread, device = map(int, extra[1:])
    return replace(op, task_type=extra[0], context=context, thread=thread, device=device)


def _rejoined(parts: list[str]) -> list[str]:
    """A name whose op name has dots in it, as five (or four) parts; unchanged if it cannot be one."""
    if len(parts) < 6 or not (is_number(parts[-1]) and len(parts[-1]) == 16 and is_number(parts[-2])):
        return parts
    numbers = 3 if is_number(parts[-3]) else 2
    return [parts[0], ".".join(parts[1:-numbers]), *parts[-numbers:]]


def parse_converted(name: str) -> TensorName | None:
    """Take the name of a converted tensor (`.npy` or `.bin`) apart; None if it is not one."""
    parts = name.split(".")
    if parts[-1] not in ("npy", "bin"):
        return None
    for place in range(len(parts) - 2, 3, -1):
        if parts[place] in ("input", "output") and is_number(parts[place + 1]):
            op = parse_device(".".join(parts[:place]))
            if op is not None:
                port = Port.parse(f"{op.name}:{parts[place]}:{parts[place + 1]}")
                more = parts[place + 2 : -1]  # `<layout>[.<dtype>]` of frameworks, `<shape>.<dtype>.<layout>`
                layout = next((word for word in more if word in FORMAT_NUMBERS or is_known(word)), "")
                return TensorName(op, port, layout, next(filter(None, map(dtype_named, more)), None))
    return None


def dtype_named(word: str) -> DType | None:
    """`float16`, `Float32`, `torch.half` or `mindspore.BFloat16` as a row of the table of data types."""
    name = word.lower().rpartition(".")[2]
    return DTYPES.get(_TORCH.get(name, name))


def parse_golden(name: str) -> TensorName | None:
    """Take the name of a golden tensor apart, from its end, so that the op may contain dots; None if it is not one."""
    parts = name.split(".")
    if len(parts) < 4 or parts[-1] != "npy" or not is_number(parts[-2]) or not is_number(parts[-3]):
        return None
    op = ".".join(parts[:-3])
    return TensorName(DumpedOp(op, time=int(parts[-2])), Port(op, "output", int(parts[-3]))) if op else None


def golden_name(op: str, side: Side, index: int, time: int) -> str:
    """File name of a golden tensor: the vendor's for outputs; for inputs `input_` is put before the op."""
    flat = _UNSAFE.sub("_", flatten_name(op))
    return f"{'input_' if side == 'input' else ''}{flat}.{index}.{time:016d}.npy"


def device_name(op: DumpedOp) -> str:
    """File name of the device dump of an op, safe as one path component; it may be longer than a file system takes."""
    parts = [device_flat(op.op_type or "Op"), device_flat(op.name or "op"), str(op.task or 0)]
    if op.stream is not None:
        parts.append(str(op.stream))
    parts.append(f"{op.time:016d}")
    if op.task_type is not None:
        parts += [op.task_type, str(op.context or 0), str(op.thread or 0), str(op.device or 0)]
    return _UNSAFE.sub("_", ".".join(parts))


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


def agrees(name: DumpedOp, in_header: str) -> bool:
    """Can the file of this name hold the op that its header calls `in_header`?

    The writer flattens names, appends `Debug` for overflow files, and numbers the slices of FFTS+ ops
    (`sgt_graph_N_` before, `_lxsliceN` behind). An empty header name agrees with everything, and
    so do the names of exception dumps, which do not say any op.
    """
    if not in_header or name.op_type == "exception_info":
        return True
    file_op, header_op = (_UNSAFE.sub("_", device_flat(text)) for text in (name.name, in_header))
    if file_op in (header_op, f"{header_op}Debug"):
        return True
    return unsliced(file_op) == unsliced(header_op)


def unsliced(name: str) -> str:
    """An op name without what FFTS+ slicing adds to it: `sgt_graph_N_` (and all before) and a final `_lxsliceN`."""
    return re.sub(r"_lxslice[0-9]+$", "", re.sub(r"^.*sgt_graph_[0-9]+[_/]", "", name))
