"""Slices of a model with 3 GiB of external weights, made on the spot: wall time and peak memory of each command.

    python benchmarks/big_slice.py [GIB]

The weights file is sparse: only the first rows of each matrix hold numbers. Exit code 1 if a command needs more than
500 MB.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

SIDE = 4096  # of each square matrix: 64 MiB of float32
ROWS = 4  # of each matrix that hold numbers
LIMIT = 500  # MB of peak resident memory


def make(folder: Path, gib: float) -> Path:
    """`big.onnx` (mm0 - relu0 - mm1 - ...) and `big.data`."""
    count = max(4, round(gib * 1024 / 64))
    rng = np.random.default_rng(1)
    nodes, weights, before = [], [], "x"
    with open(folder / "big.data", "wb") as data:
        for place in range(count):
            name, offset, length = f"w{place}", data.tell(), SIDE * SIDE * 4
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[SIDE, SIDE])
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", "big.data"), ("offset", offset), ("length", length)):
                tensor.external_data.add(key=key, value=str(value))
            weights.append(tensor)
            data.write(rng.standard_normal((ROWS, SIDE)).astype(np.float32).tobytes())
            data.seek(offset + length)
            nodes += [
                helper.make_node("MatMul", [before, name], [f"m{place}"], f"mm{place}"),
                helper.make_node("Relu", [f"m{place}"], [f"r{place}"], f"relu{place}"),
            ]
            before = f"r{place}"
        data.truncate()
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, SIDE]) for name in ("x", before)]
    model = helper.make_model(
        helper.make_graph(nodes, "big", info[:1], info[1:], weights), opset_imports=[helper.make_opsetid("", 13)],
    )
    model.ir_version = 8
    (folder / "big.onnx").write_bytes(model.SerializeToString())
    return folder / "big.onnx"


def golden(folder: Path, model: Path, wanted: list[str]) -> Path:
    """Golden tensors of some layers, computed with numpy: only the rows that hold numbers count."""
    out = folder / "golden"
    out.mkdir()
    value = np.random.default_rng(2).standard_normal((1, SIDE)).astype(np.float32)
    with open(model.with_name("big.data"), "rb") as data:
        for place in range(int(wanted[-1].removeprefix("relu")) + 1):
            data.seek(place * SIDE * SIDE * 4)
            rows = np.frombuffer(data.read(ROWS * SIDE * 4), np.float32).reshape(ROWS, SIDE)
            value = np.maximum(value[:, :ROWS] @ rows, 0) / np.float32(1)
            if f"relu{place}" in wanted:
                np.save(out / f"relu{place}.0.1700000000000000.npy", value)
    return out


def measured(command: list[str]) -> tuple[int, float, float]:
    """(exit code, seconds, peak resident MB) of a command."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    return os.waitstatus_to_exitcode(status), time.perf_counter() - begun, usage.ru_maxrss / 1024


def main() -> int:
    gib = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = make(folder, gib)
        last = round(gib * 1024 / 64) - 1
        middle = last // 2
        kept = golden(folder, model, [f"relu{middle - 1}", f"relu{middle + 1}"])
        size = model.with_name("big.data").stat().st_size / (1 << 30)
        print(f"{size:.2f} GiB of external weights, {2 * (last + 1)} nodes")
        part = ["--start", f"mm{middle}", "--end", f"relu{middle + 1}"]
        most = ["--start", "mm1", "--end", f"relu{last - 1}"]
        commands = {
            "nothing but `--help`": ["slice", "--help"],
            "two layers (128 MiB), no self-test": ["slice", model, *part, "--no-check"],
            "two layers, self-test with golden tensors at hand": ["slice", model, *part, "--golden", kept],
            f"all but two layers ({size * (last - 1) / (last + 1):.2f} GiB), no self-test":
                ["slice", model, *most, "--no-check"],
            "two layers, self-test that runs the full model up to there": ["slice", model, *part],
            "all but two layers, with that self-test": ["slice", model, *most],
        }
        print(f"{'':62}{'seconds':>9}{'peak MB':>9}  exit")
        worst = 0.0
        for place, (what, command) in enumerate(commands.items()):
            where = [] if place == 0 else ["-o", str(folder / f"out{place}")]
            code, seconds, peak = measured([sys.executable, "-m", "acccmp", *map(str, command), *where])
            print(f"{what:62}{seconds:9.2f}{peak:9.0f}  {code}", flush=True)
            expected = 3 if "--no-check" in command else 0  # written, but not proven
            worst = max(worst, peak, 0 if code == expected else LIMIT + 1)
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
