"""Peak memory of comparing two large tensors: golden as NCHW float32, the NPU's as NC1HWC0 float32.

    python benchmarks/memory_compare.py [--mib 1024] [--folder DIR]

Prints the time and the peak resident memory of the process, and by how much the comparison raised it.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from acccmp.comparison.compare import compare_pair
from acccmp.core.dump import Port
from acccmp.core.tensor import DTYPES, TensorRef
from acccmp.reports.pair import Pair


def peak() -> float:
    """Peak resident memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write(golden: Path, npu: Path, channels: int) -> None:
    """Two files of `channels` x 64 x 1024 float32, written in pieces of 16 channels (one block of NC1HWC0)."""
    rng = np.random.default_rng(0)
    with golden.open("wb") as plain, npu.open("wb") as blocked:
        for _ in range(channels // 16):
            block = rng.standard_normal((16, 64, 1024), np.float32)
            plain.write(block.tobytes())
            blocked.write((block + np.float32(1e-4)).transpose(1, 2, 0).tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024, help="size of each tensor, a multiple of 4")
    parser.add_argument("--folder", type=Path, help="where the two files are written (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        channels = options.mib * 4
        golden, npu = Path(folder) / "golden.bin", Path(folder) / "npu.bin"
        write(golden, npu, channels)
        shape = (1, channels, 64, 1024)
        pair = Pair(
            Port("conv", "output", 0), Port("conv", "output", 0),
            TensorRef(str(golden), DTYPES["float32"], shape, layout="NCHW"),
            TensorRef(str(npu), DTYPES["float32"], (1, channels // 16, 64, 1024, 16), layout="NC1HWC0",
                      original_shape=shape, original_layout="NCHW"),
        )
        before, start = peak(), time.perf_counter()
        row = compare_pair(pair)
        print(f"two tensors of {options.mib} MiB: {row.verdict}, {time.perf_counter() - start:.1f} s, "
              f"peak {peak():.0f} MiB, grew by {peak() - before:.0f} MiB")


if __name__ == "__main__":
    main()
