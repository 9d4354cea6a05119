"""Random damage to dump folders: truncations, byte flips and swapped files, and what the reader makes of each.

    python benchmarks/damage.py FOLDER... [--count 1000] [--seed 0]

Each trial damages a copy of one folder, reads it as a whole, decodes every tensor, and puts the file back. It fails
when anything but an error of acccmp comes out, when a tensor of another file is missing or other than before, or when
a tensor of the damaged file is missing without being listed as broken or noted.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from acccmp.core.dump import Dump, Port
from acccmp.core.layout import LayoutError
from acccmp.core.tensor import TensorRef
from acccmp.dumps.names import MAPPING_FILE
from acccmp.dumps.read import read_dump
from acccmp.errors import AcccmpError

KINDS = ("truncated", "flipped", "swapped", "emptied", "grown", "header flipped")


@dataclass
class Outcome:
    """Trials by kind and result, the slowest of them in seconds, and what failed."""

    trials: Counter[tuple[str, str]] = field(default_factory=Counter)
    slowest: float = 0.0
    failures: list[str] = field(default_factory=list)

    def table(self) -> str:
        """One line for each kind of damage and result."""
        rows = [f"{kind:15} {result:12} {count:6}" for (kind, result), count in sorted(self.trials.items())]
        return "\n".join([*rows, f"slowest trial {self.slowest * 1000:.1f} ms, {len(self.failures)} failures"])


def damage(folder: Path, count: int, seed: int = 0) -> Outcome:
    """Damage a copy of `folder` `count` times, one file (or pair of files) at a time."""
    rng = random.Random(seed)
    outcome = Outcome()
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "dump"
        shutil.copytree(folder, copy)
        whole = read_dump(copy)
        before = {port: content_of(ref) for port, ref in whole.items()}
        files = sorted({Path(op.path) for op in whole.ops.values()} | {Path(ref.path) for ref in whole.values()})
        files = [path for path in files if path.name != MAPPING_FILE]
        for trial in range(count):
            kind = rng.choice(KINDS)
            touched = damaged_files(files, kind, rng)
            kept = {path: path.read_bytes() for path in touched}
            for path, data in touched.items():
                path.write_bytes(data)
            began = time.perf_counter()
            result, problems = judge(copy, whole, before, set(touched))
            outcome.slowest = max(outcome.slowest, time.perf_counter() - began)
            for path, data in kept.items():
                path.write_bytes(data)
            outcome.trials[kind, result] += 1
            outcome.failures += [f"trial {trial} ({kind}, {', '.join(p.name for p in touched)}): {p}" for p in problems]
    return outcome


def damaged_files(files: list[Path], kind: str, rng: random.Random) -> dict[Path, bytes]:
    """Path -> its damaged bytes."""
    path = rng.choice(files)
    data = bytearray(path.read_bytes())
    if kind == "swapped" and len(files) > 1:
        other = rng.choice([file for file in files if file != path])
        return {path: other.read_bytes(), other: bytes(data)}
    if kind == "emptied":
        return {path: b""}
    if kind == "grown":
        return {path: bytes(data) + rng.randbytes(rng.randint(1, 100))}
    if kind == "truncated":
        return {path: bytes(data[: rng.randrange(len(data))])}
    reach = min(len(data), 200) if kind == "header flipped" else len(data)
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(reach)] = rng.randrange(256)
    return {path: bytes(data)}


def judge(
    folder: Path, whole: Dump, before: dict[Port, tuple[object, ...]], touched: set[Path],
) -> tuple[str, list[str]]:
    """What became of the dump ("read", "broken", "refused"), and what is wrong with that."""
    try:
        dump = read_dump(folder)
    except AcccmpError as error:
        single = len({ref.path for ref in whole.values()}) <= len(touched)
        return "refused", [] if single or "manifest" in str(error) else [f"the whole folder was refused: {error}"]
    except Exception as error:  # the point of the exercise
        return "refused", [f"{type(error).__name__}: {error}"]
    problems = []
    for port, ref in whole.items():
        mine = Path(ref.path) in touched
        if port not in dump.refs:
            listed = any(b.name == port.node or b.path in map(str, touched) for b in dump.broken)
            noted = any(str(path) in note for note in dump.notes for path in touched)
            if not mine or not (listed or noted):
                problems.append(f"{port} is missing without a word")
        elif not mine and content_of(dump.refs[port]) != before[port]:
            problems.append(f"{port} is another tensor")
    for port, ref in dump.items():
        try:
            ref.numpy()
        except (AcccmpError, LayoutError):
            continue
        except Exception as error:
            problems.append(f"{port}: {type(error).__name__}: {error}")
    return "broken" if dump.broken else "read", problems


def content_of(ref: TensorRef) -> tuple[object, ...]:
    """What must not change in a tensor of a file that was not touched."""
    return ref.dtype, ref.shape, ref.layout, ref.own_shape, ref.raw()


def main(arguments: list[str]) -> Iterator[str]:
    """The lines that are printed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    for folder in options.folders:
        outcome = damage(folder, options.count, options.seed)
        if options.json:
            trials = {f"{kind}: {result}": count for (kind, result), count in sorted(outcome.trials.items())}
            yield json.dumps({"folder": folder.name, "trials": trials, "slowest_ms": outcome.slowest * 1000,
                              "failures": outcome.failures})
        else:
            yield f"{folder}: {options.count} trials\n{outcome.table()}"
            yield from outcome.failures[:20]


if __name__ == "__main__":
    for line in main(sys.argv[1:]):
        print(line)
