"""Damaged device files against the whole comparison: nothing crashes, no other row is lost, and no damaged tensor
is called a match that an independent reading of its bytes rejects.

    python benchmarks/damage_compare.py [COUNT] [SEED]

Each trial copies a sample's device dump, damages one file (cut short, a byte flipped, bytes overwritten, or swapped
with another op's file) and compares. The independent reading walks the header's protobuf by hand, undoes the two device
layouts with plain loops of numpy, and takes the smallest distance over all orders of axes.
"""

from __future__ import annotations

import itertools
import random
import shutil
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from acccmp.core.dump import Dump
from acccmp.core.graph import Graph
from acccmp.dumps.read import read_dump
from acccmp.jobs.compare import compare
from acccmp.models.load import load
from acccmp.reports.pair import Verdict
from acccmp.reports.report import Report

SAMPLES = Path(__file__).resolve().parent.parent / "sample_dumps"
NETS = ("digits_resnet", "digits_lenet", "digits_cnn")
DTYPES = {1: "<f4", 2: "<f2", 3: "i1", 4: "u1", 5: "<i2", 6: "<u2", 7: "<i4", 8: "<i8", 9: "<u4", 10: "<u8", 12: "<f8"}


@dataclass
class Tally:
    """What the trials of one dump gave; `bad` must stay empty."""

    trials: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)


# -- the independent reading -------------------------------------------------------------------------------------


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of a protobuf message, by hand. ValueError when it is damaged."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = varint(data, at)
            yield key >> 3, value
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            at += size
        elif kind == 2:
            size, at = varint(data, at)
            if at + size > len(data):
                raise ValueError("a field runs past the end")
            yield key >> 3, data[at : at + size]
            at += size
        else:
            raise ValueError(f"wire type {kind}")


def varint(data: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a number runs past the end")
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if not byte & 128:
            return value, at


def dims(message: bytes) -> tuple[int, ...]:
    found: list[int] = []
    for number, value in fields(message):
        if number == 1 and isinstance(value, bytes):
            at = 0
            while at < len(value):
                size, at = varint(value, at)
                found.append(size)
        elif number == 1:
            found.append(value)
    return tuple(found)


def tensor_by_hand(path: Path, side: str, index: int, wanted: tuple[int, ...]) -> list[np.ndarray[Any, Any]]:
    """The tensor at a port in NCHW order (or as stored), padding removed so that `wanted` can be there; each way that
    this can be done. ValueError, KeyError when it cannot be."""
    raw = path.read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    if length > len(raw) - 8:
        raise ValueError("the header runs past the end")
    header, at = raw[8 : 8 + length], 8 + length
    entries = [("input", v) for n, v in fields(header) if n == 4] + [("output", v) for n, v in fields(header) if n == 3]
    seen = Counter[str]()
    for kind, entry in entries:
        own = 7 if kind == "output" else 6
        # As protobuf has it, a field of the wrong wire type is an unknown one; without a shape the original's counts.
        told = {number: v for number, v in fields(entry) if isinstance(v, bytes) == (number in (3, own, 4))}
        shape = dims(told.get(3, b"")) or dims(told.get(own, b""))
        need = np.dtype(DTYPES.get(told.get(1, 0), "u1")).itemsize * int(np.prod(shape, dtype=object))
        size = told.get(6 if kind == "output" else 5, 0) or need  # a header that lost its size still has its shape
        if (kind, seen[kind]) == (side, index):
            dtype = np.dtype(DTYPES[told.get(1, 0)])
            if at + need > len(raw) or size < need:
                raise ValueError("the payload is too short")
            array = np.frombuffer(raw, dtype, int(np.prod(shape, dtype=object)), at).reshape(shape)
            return undone(array, told.get(2, 0), wanted)
        seen[kind] += 1
        at += size
    raise KeyError(f"{side}:{index}")


def undone(array: np.ndarray[Any, Any], layout: int, wanted: tuple[int, ...]) -> list[np.ndarray[Any, Any]]:
    if layout == 3 and array.ndim == 5:
        n, c1, h, w, c0 = array.shape
        array = array.transpose(0, 1, 4, 2, 3).reshape(n, c1 * c0, h, w)
        return [array[:, :c] for c in {*wanted, c1 * c0} if c1 * c0 - c0 < c <= c1 * c0]
    if layout == 29 and array.ndim >= 4:
        *lead, n1, m1, m0, n0 = array.shape
        array = np.moveaxis(array, -4, -2).reshape(*lead, m1 * m0, n1 * n0)
        return [array[..., :m, :n] for m, n in itertools.product({1, *wanted}, repeat=2)]
    return [array]


def rejects(golden: np.ndarray[Any, Any], readings: list[np.ndarray[Any, Any]], limit: float) -> bool:
    """Is the distance over the limit in every reading and in every order of axes?"""
    y = golden.astype(np.float64)
    best = np.inf
    shape = tuple(n for n in y.shape if n != 1)
    for reading in readings:
        x = reading.astype(np.float64).squeeze()
        for axes in itertools.permutations(range(x.ndim)):
            moved = x.transpose(axes)
            if moved.size != y.size or (moved.shape != shape and x.ndim == len(shape)):
                continue
            difference = float(np.linalg.norm(moved.reshape(-1) - y.reshape(-1)))
            best = min(best, np.inf if np.isnan(difference) else difference)
    norm = float(np.linalg.norm(y))
    return best > max(limit, 1e-12) * 1.001 * (norm or 1.0) + 1e-12


# -- the trials --------------------------------------------------------------------------------------------------


def damage(path: Path, others: list[Path], draw: random.Random) -> str:
    """Damage one file; what was done."""
    data = bytearray(path.read_bytes())
    kind = draw.choice(["cut", "flip", "flip", "header flip", "overwrite", "swap"])
    if kind == "swap":
        other = draw.choice([p for p in others if p != path])
        one, two = path.read_bytes(), other.read_bytes()
        path.write_bytes(two)
        other.write_bytes(one)
        return f"{path.name} and {other.name} swapped"
    if kind == "cut":
        del data[draw.randrange(len(data)):]
    elif kind == "overwrite":
        start = draw.randrange(len(data))
        for i in range(start, min(len(data), start + draw.randint(1, 64))):
            data[i] = draw.randrange(256)
    else:
        length = min(len(data), 8 + struct.unpack_from("<Q", data)[0]) if kind == "header flip" else len(data)
        data[draw.randrange(length)] ^= 1 << draw.randrange(8)
    path.write_bytes(data)
    return f"{path.name}: {kind}"


def trial(net: Path, golden: Dump, mapping: Graph, dump: str, whole: Report, seed: int, tally: Tally) -> None:
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "npu"
        shutil.copytree(net / dump, place)
        files = sorted(path for path in place.iterdir() if path.is_file())
        victim = draw.choice(files)
        before = {path: path.read_bytes() for path in files}
        done = damage(victim, files, draw)
        touched = {path.name for path in files if path.read_bytes() != before[path]}
        tally.trials += 1
        try:
            report = compare(golden, read_dump(place), mapping=mapping, floor=False)
        except Exception as error:
            tally.bad.append(f"seed {seed}, {done}: {type(error).__name__}: {error}")
            return
        names = {path.name.split(".")[1] for path in files if path.name in touched}
        check(report, whole, names, place, tally, f"seed {seed}, {done}")


def check(report: Report, whole: Report, touched: set[str], place: Path, tally: Tally, what: str) -> None:
    rows = {(str(row.port), row.golden_port): row for row in report.comparisons}
    for old in whole.comparisons:
        flat = old.port.node.replace("/", "_").replace(".", "_")
        new = rows.get((str(old.port), old.golden_port))
        if flat not in touched:
            if new is None or new.verdict is not old.verdict:
                tally.bad.append(f"{what}: the row {old.port} was {old.verdict}, is {new and new.verdict}")
            continue
        if new is None:
            if old.is_judged and not any(row.port.node == old.port.node for row in report.comparisons):
                tally.bad.append(f"{what}: every row of {old.port.node} is gone")
            continue
        tally.verdicts[str(new.verdict)] += 1
        if new.verdict is Verdict.MATCH and new.golden is not None:
            path = next(p for p in place.iterdir() if p.name.split(".")[1] == flat)
            try:
                golden = new.golden.numpy()
                readings = tensor_by_hand(path, new.port.side, new.port.index, golden.shape)
                wrong = rejects(golden, readings, new.limit)
            except (ValueError, KeyError, struct.error) as error:
                tally.bad.append(f"{what}: {new.port} is a match, read by hand: {error}")
                continue
            if wrong:
                tally.bad.append(f"{what}: {new.port} is a match, but by hand it is not")


def trials(net: str, dump: str, count: int, seed: int = 0) -> Tally:
    """`count` trials on one dump of one sample network."""
    folder = SAMPLES / net
    golden, mapping = read_dump(folder / "golden"), load(folder / "mapping.json")
    whole = compare(golden, read_dump(folder / dump), mapping=mapping, floor=False)
    tally = Tally()
    for number in range(count):
        trial(folder, golden, mapping, dump, whole, seed * 1_000_003 + number, tally)
    return tally


def main(arguments: list[str]) -> int:
    count, seed = (int(arguments[i]) if len(arguments) > i else default for i, default in ((0, 1000), (1, 1)))
    failed = False
    for net in NETS:
        for dump in ("npu", "npu_faulty"):
            tally = trials(net, dump, count, seed)
            told = ", ".join(f"{name} {n}" for name, n in tally.verdicts.most_common())
            print(f"{net}/{dump}: {tally.trials} trials, {len(tally.bad)} bad; rows of damaged files: {told}")
            for line in tally.bad[:10]:
                print(f"    BAD {line}")
            failed = failed or bool(tally.bad)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
