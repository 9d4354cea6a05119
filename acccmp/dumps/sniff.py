"""What dumps look like: a sniff function for each row of `acccmp.kinds`."""

from __future__ import annotations

import re
import struct

from acccmp.core import reading
from acccmp.core.identify import Evidence, Top
from acccmp.dumps import arrays, ascend, mindspore_dumps, names
from acccmp.dumps import msprobe as probes

_LOOKED_AT = 100  # names of a folder


def golden(evidence: Evidence) -> str:
    return "a golden dump" if evidence.is_folder and arrays.read_manifest(evidence.path) is not None else ""


def msprobe(evidence: Evidence) -> str:
    return "a dump of msprobe" if evidence.is_folder and probes.is_in(evidence.path) else ""


def mindspore(evidence: Evidence) -> str:
    """Only the folder of one iteration itself; device dumps beside its table make it a device's folder."""
    folder = evidence.path
    if not evidence.has(mindspore_dumps.STATISTICS) and not (folder / mindspore_dumps.CONSTANTS).is_dir():
        return ""
    is_own = mindspore_dumps.looks_like_mindspore(folder) and not _holds_device_files(evidence)
    return "a dump of MindSpore" if is_own else ""


def _holds_device_files(evidence: Evidence) -> bool:
    mapping = names.read_mapping(evidence.path)
    real = (names.real_name(entry.name, mapping) for entry in reading.listed(evidence.path))
    return any(names.parse_device(name) is not None and names.parse_converted(name) is None for name in real)


def npz(evidence: Evidence) -> str:
    members = evidence.members
    return "an npz archive of arrays" if members and all(name.endswith(".npy") for name in members) else ""


def ascend_dump(evidence: Evidence) -> str:
    """Device files by their bytes; damaged ones by their names; any folder, for a tree of runs may lie below it."""
    if evidence.is_folder:
        return _folder(evidence)
    head = evidence.head
    if len(head) >= 12 and struct.unpack_from("<I", head, 8)[0] == ascend.NANO_MAGIC:
        return "a device dump (nano)"
    if _has_dump_header(evidence):
        return "a device dump"
    if _is_dump_data(evidence, evidence.message):
        return "a device dump (whole-file protobuf)"
    path = evidence.path
    real = names.real_name(path.name, names.read_mapping(path.parent))
    by_name = names.parse_device(real) and not real.endswith(arrays.SUFFIXES) and not head.startswith(arrays.NPY)
    return "a device dump by its name" if by_name else ""


def _folder(evidence: Evidence) -> str:
    entries = [entry.name for entry in reading.listed(evidence.path)]
    if any(names.parse_device(name) is not None for name in entries[:_LOOKED_AT]):
        return "a folder of device dumps"
    holds = ", ".join(entries[:3]) + (", ..." if len(entries) > 3 else "") if entries else "nothing"
    return f"a folder without a model in it (it holds {holds})"


def _has_dump_header(evidence: Evidence) -> bool:
    """A big dump: u64 length of the header, then a DumpData message of exactly that length."""
    if len(evidence.buffer) < 8:
        return False
    (length,) = struct.unpack_from("<Q", evidence.head)
    if not 0 < length <= len(evidence.buffer) - 8:
        return False
    top = evidence.top(8, 8 + length)
    return not top.strange and top.cut is None and _is_dump_data(evidence, top)


def _is_dump_data(evidence: Evidence, top: Top) -> bool:
    # 1 version "2.0", 2 time (varint), 3 output, 4 input, 5 buffer, 6 op_name, 7 attr, 8 space, 9 dfx_message
    if not top.found or top.numbers(0) - {2} or top.numbers(2) - {1, 3, 4, 5, 6, 7, 8, 9} or top.first(2, 2):
        return False
    version = evidence.string(top.first(1), 16)
    told = version is not None and re.fullmatch(r"[0-9]+(\.[0-9]+)*", version) is not None
    described = [f for f in (top.first(3), top.first(4)) if f is not None]
    return (told or top.first(2, 0) is not None) and (told or bool(described))


def array(evidence: Evidence) -> str:
    """npy by its bytes; raw bytes and tables of numbers have nothing but their names."""
    if evidence.head.startswith(arrays.NPY):
        return "an npy array"
    if evidence.is_folder:
        return ""
    told = {".npy": "a damaged npy file", ".bin": "a file of raw bytes", ".txt": "a text file"}
    return told.get(evidence.path.suffix, "")
