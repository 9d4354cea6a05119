"""Open an .om of a gigabyte that is made on the spot: seconds and peak memory of a fresh process.

    python benchmarks/big_om.py [GIGABYTES] [CONSTS]

The weights are a hole in the file (they take no room on disk), so nothing but the reader can make them cost anything.
Prints what `describe` and `load` took, imports included and left aside, and the peak resident memory.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from acccmp.schemas import ge_pb2

ROOT = Path(__file__).parent.parent

_CHILD = """
import json, resource, sys, time
start = time.perf_counter()
from acccmp.models import om
from acccmp.schemas import ge_pb2
imported = time.perf_counter()
facts = om.describe(sys.argv[1])
described = time.perf_counter()
graph = om.load(sys.argv[1])
loaded = time.perf_counter()
last = list(graph.weights.values())[-1]
print(json.dumps({
    "imports": imported - start, "describe": described - imported, "load": loaded - described,
    "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "weights": facts["weights"],
    "ops": facts["nodes"], "last offset": last.offset,
}))
"""


def write(path: Path, size: int, consts: int) -> None:
    """An .om (G3) of `size` bytes of float16 weights, dealt to `consts` Const ops, each read by a MatMul."""
    model = ge_pb2.ModelDef(name="big", version=2)
    model.attr["soc_version"].s = b"Ascend310P3"
    graph = model.graph.add(name="big_0")
    each = size // consts // 512 * 512
    data = graph.op.add(name="x", type="Data", id=0, input=[""])
    data.attr["index"].i = 0
    for descs in (data.input_desc, data.output_desc):
        descs.add(dtype=2, layout="ND").shape.dim.extend([1, each // 2])
    for place in range(consts):
        const = graph.op.add(name=f"w{place}", type="Const", id=2 * place + 1)
        const.attr["_datadump_original_op_names"].list.val_type = 1
        for desc in (const.attr["value"].t.desc, const.output_desc.add()):
            desc.dtype, desc.layout = 2, "ND"
            desc.shape.dim.extend([each // 2])
            desc.data_offset, desc.weight_size = place * each, each
        op = graph.op.add(name=f"mul{place}", type="Mul", id=2 * place + 2,
                          input=["x:0" if not place else f"mul{place - 1}:0", f"w{place}:0"])
        op.attr["_datadump_original_op_names"].list.s.append(f"layer{place}".encode())
        op.output_desc.add(dtype=2, layout="ND").shape.dim.extend([1, each // 2])
    message = model.SerializeToString()
    table = 8 + 2 * 24
    header = bytearray(256)
    header[0:4] = b"IMOD"
    struct.pack_into("<II", header, 4, 256, 0x20000000)
    struct.pack_into("<I", header, 156, 1)
    struct.pack_into("<Q", header, 184, table + len(message) + size)
    with open(path, "wb") as file:
        file.write(header)
        file.write(struct.pack("<I4xI4xQQI4xQQ", 2, 0, 0, len(message), 1, len(message), size))
        file.write(message)
        file.truncate(256 + table + len(message) + size)


def measure(size: int, consts: int) -> dict[str, object]:
    """What the fresh process says."""
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "big.om"
        write(path, size, consts)
        out = subprocess.run(
            [sys.executable, "-c", _CHILD, str(path)], capture_output=True, text=True, check=True, cwd=ROOT,
        )
    found: dict[str, object] = json.loads(out.stdout)
    return found


def main() -> None:
    gigabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    consts = int(sys.argv[2]) if len(sys.argv) > 2 else 400
    for key, value in measure(int(gigabytes * (1 << 30)), consts).items():
        print(f"{key:12} {value:.3f}" if isinstance(value, float) else f"{key:12} {value}")


if __name__ == "__main__":
    main()
