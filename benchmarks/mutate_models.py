"""Damage real device models, MindSpore files and twins files in many ways, and see that the readers stay calm.

    python benchmarks/mutate_models.py 2000 [SEED]

Each damaged file is described and loaded. It must give facts or one of acccmp's own errors (one line), within seconds,
without allocating more than twice the file's size beyond what the intact file needs. Prints a table; exit code 1 when
anything else happened.
"""

from __future__ import annotations

import random
import resource
import struct
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acccmp.core.graph import Graph
from acccmp.errors import AcccmpError
from acccmp.models import cambricon, mindspore, om

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
SLOW = 20.0  # seconds after which a file counts as hanging (with the tracer on)
SLACK = 1 << 20  # bytes of error messages, import caches and the like

Reader = Callable[[Path], Any]
READERS: dict[str, tuple[str, Reader, Reader]] = {
    "om": ("om", om.describe, om.load),
    "mindir": ("mindspore", mindspore.describe, mindspore.load),
    "ckpt": ("mindspore", mindspore.describe, mindspore.load_checkpoint),
    "cambricon_twins": ("cambricon", cambricon.describe, cambricon.load),
}


@dataclass(frozen=True)
class Outcome:
    """What became of one damaged file: "read", "refused" or what went wrong; the largest memory above the intact's."""

    kind: str
    result: str
    seconds: float
    peak: int
    size: int

    @property
    def is_calm(self) -> bool:
        return self.result in ("read", "refused") and self.seconds < SLOW and self.peak <= 2 * self.size + SLACK


def originals(folder: Path = SHARED, largest: int = 1 << 20) -> list[tuple[str, Path]]:
    """(kind, path) of the real files; those beyond `largest` bytes are left out (they only take longer)."""
    found = []
    for kind, (room, _, _) in READERS.items():
        found += [(kind, p) for p in sorted((folder / room).glob(f"*.{kind}")) if p.stat().st_size <= largest]
    return found


def damaged(raw: bytes, rng: random.Random) -> bytes:
    """The file with one or a few kinds of damage."""
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        if not data:
            break
        at = _place(data, rng)
        what = rng.randrange(8)
        if what == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif what == 2:
            del data[at:]
        elif what == 3:
            del data[at : at + rng.randrange(1, 64)]
        elif what == 4:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 32)))
        elif what == 5:
            data[at : at + 8] = struct.pack("<Q", rng.choice((0, 1 << 31, 1 << 40, (1 << 64) - 1)))
        elif what == 6:
            data[at:at] = data[at : at + rng.randrange(1, 4096)]
        else:
            data[at : at + 5] = b"\xff\xff\xff\xff\x0f"  # the length of four gigabytes, as protobuf writes it
    return bytes(data)


def _place(data: bytearray, rng: random.Random) -> int:
    """Often near the beginning, where headers and tables are."""
    return rng.randrange(min(len(data), 600)) if rng.random() < 0.4 else rng.randrange(len(data))


def peak_of(kind: str, path: Path) -> tuple[str, float, int]:
    """Describe and load one file, and read its first weights: what happened, seconds, largest traced memory."""
    _, describe, load = READERS[kind]
    result = "read"
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    start = time.perf_counter()
    for read in (describe, load):
        try:
            found = read(path)
            for ref in list(found.weights.values())[:8] if isinstance(found, Graph) else ():
                ref.raw()
        except AcccmpError as error:
            result = "refused" if "\n" not in str(error) else f"an error of several lines: {error!r}"
        except Exception as error:
            result = f"{type(error).__name__}: {error}"
    return result, time.perf_counter() - start, tracemalloc.get_traced_memory()[1] - before


def run(count: int, seed: int, folder: Path = SHARED, largest: int = 1 << 20) -> Iterator[tuple[Outcome, bytes]]:
    """`count` damaged files, of each kind alike, with what became of them."""
    rng = random.Random(seed)
    kinds: dict[str, list[Path]] = {}
    for kind, path in originals(folder, largest):
        kinds.setdefault(kind, []).append(path)
    tracemalloc.start()
    try:
        with tempfile.TemporaryDirectory() as work:
            intact = {}
            for kind, paths in kinds.items():
                for path in paths:
                    peak_of(kind, path)  # imports and caches
                    intact[path] = peak_of(kind, path)[2]
            for number in range(count):
                kind = list(kinds)[number % len(kinds)]
                path = rng.choice(kinds[kind])
                raw = damaged(path.read_bytes(), rng)
                target = Path(work) / f"damaged.{kind}"
                target.write_bytes(raw)
                result, seconds, peak = peak_of(kind, target)
                yield Outcome(kind, result, seconds, max(0, peak - intact[path]), len(raw)), raw
    finally:
        tracemalloc.stop()


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    table: Counter[tuple[str, str]] = Counter()
    slowest, most, bad = 0.0, 0.0, 0
    for outcome, raw in run(count, seed, largest=8 << 20):
        table[outcome.kind, outcome.result[:60]] += 1
        slowest = max(slowest, outcome.seconds)
        most = max(most, outcome.peak / max(outcome.size, 1) if outcome.peak > SLACK else 0.0)
        if not outcome.is_calm:
            bad += 1
            kept = Path(f"damaged_{bad}.{outcome.kind}")
            kept.write_bytes(raw)
            print(f"NOT CALM: {outcome} (kept as {kept})")
    for (kind, result), number in sorted(table.items()):
        print(f"{kind:16} {result:60} {number:6}")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{count} files, seed {seed}: {bad} not calm; slowest {slowest:.2f} s (memory tracer on), most memory beyond "
          f"the intact file's {most:.1f} x the file, the whole run grew by {grown >> 10} MB")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
