"""Damaged files of every kind through the command, each in a process of its own: `make fuzz`.

    python benchmarks/fuzz.py [--count 20000] [--seed 1] [--jobs 2] [--target NAME ...] [--keep FOLDER]
    python benchmarks/fuzz.py --corpus          what once went wrong, again

For each target (a reader of the package, and small healthy files for it) files are damaged in a copy, and the commands
of the target are run on it. Each case may take 10 seconds of processor time and 512 MB; it must end with an exit code
of the command and, where it could not be done, one line. What does not is printed and kept, with the command that shows
it again. The exit code is 1 then.

Damage is seeded: the same seed and number give the same files on every machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
SAMPLES = ROOT / "sample_dumps"
SHARED = Path(os.environ.get("ACCCMP_SHARED_DATA", ROOT.parent / "shared" / "data"))
SECONDS, MEBIBYTES, PATIENCE = 10, 512, 120  # of processor time; of memory; on the clock, for machines with other work
LARGEST = 300 << 10  # bytes of a real file that is taken as a seed

Arguments = tuple[str, ...]


@dataclass(frozen=True)
class Target:
    """A reader: `make` puts healthy files into a folder, `victims` are patterns of those that are damaged, `commands`
    are run in that folder."""

    name: str
    make: Callable[[Path], Any]
    victims: tuple[str, ...]
    commands: tuple[Arguments, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of one case: the commands' exit codes, `wrong` in words ("" when all is well)."""

    codes: tuple[int, ...]
    wrong: str
    seconds: float
    mebibytes: float


# -- healthy files -----------------------------------------------------------------------------------------------


def _kind(name: str) -> Callable[[Path], None]:
    """The sample that the contract of kinds.py is tested with."""
    def make(folder: Path) -> None:
        from test_kinds import SAMPLES as OF_KIND

        made = OF_KIND[name](folder)
        if not made.is_relative_to(folder):
            (shutil.copytree if made.is_dir() else shutil.copy)(made, folder / made.name)

    return make


def _net(net: str, *names: str) -> Callable[[Path], None]:
    """Files and folders of a sample network; links where they are not damaged."""
    def make(folder: Path) -> None:
        for name in names:
            source = SAMPLES / net / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)

    return make


def _onnx(folder: Path) -> None:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.arange(600, dtype=np.float32).reshape(2, 300)
    body = helper.make_graph([helper.make_node("Neg", ["h"], ["n"])], "body", [], [
        helper.make_tensor_value_info("n", TensorProto.FLOAT, [1, 2])])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "mul"),
        helper.make_node("If", ["c"], ["y"], "if", then_branch=body, else_branch=body),
        helper.make_node("Add", ["y", "b"], ["z"], "add"),
    ]
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 300])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights.T.copy(), "w"), numpy_helper.from_array(np.array(True), "c"),
         numpy_helper.from_array(np.float16([1, 2]).astype("f4"), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, folder / "in.onnx")
    onnx.save(model, folder / "out.onnx", save_as_external_data=True, location="out.data", size_threshold=0)
    shutil.copy(SAMPLES / "digits_resnet" / "resnet.onnx", folder)


def _tensorflow(folder: Path) -> None:
    from google.protobuf import text_format
    from tensorflow_graphs import cond, loop, write

    from acccmp.schemas import tensorflow_pb2

    write(folder / "loop.pb", *loop())
    write(folder / "cond.pb", *cond())
    graph = tensorflow_pb2.GraphDef.FromString((folder / "loop.pb").read_bytes())
    (folder / "text.pb").write_text(text_format.MessageToString(graph))
    saved = tensorflow_pb2.SavedModel(saved_model_schema_version=1)
    saved.meta_graphs.add().graph_def.CopyFrom(graph)
    (folder / "saved").mkdir()
    (folder / "saved" / "saved_model.pb").write_bytes(saved.SerializeToString())
    shutil.copy(SAMPLES / "digits_cnn" / "cnn.pb", folder)


def _om(folder: Path) -> None:
    import numpy as np
    import om_bytes
    from google.protobuf import text_format
    from test_om import small

    model, weights, *_ = small()
    raw = model.SerializeToString()
    (folder / "net.om").write_bytes(om_bytes.om((0, raw), (1, weights)))
    (folder / "narrow.om").write_bytes(om_bytes.om((0, raw), (1, weights), wide=False))
    values = np.arange(6, dtype="<f4").tobytes()
    om_bytes.om2(folder / "zip.om", values, {"conv": {
        "_datadump_original_op_names": {"type": "list", "value": ["conv_1", "relu_1"]}}})
    om_bytes.om2(folder / "text.om", weights[512 : 512 + 9216], {}, text_format.MessageToString(model))


def _containers(folder: Path) -> None:
    from test_dump_damage import all_kinds
    from test_dump_fftsplus import AUTOMATIC, new, report, slices

    all_kinds(folder / "npu")
    slices(folder / "npu", 1, AUTOMATIC, ["conv9"] * 3)
    report(folder / "npu", new(0, 1, 7, 4, 0, 65535, 65535, 0x10, 0x20, 2, 5, 0x800000))
    (folder / "npu" / "mapping.csv").write_text("123456789,Relu.a_very_long_name.9.1.1700000000001009\n")


def _arrays(folder: Path) -> None:
    import numpy as np

    x = np.arange(300, dtype=np.float32).reshape(1, 300)
    np.save(folder / "x.npy", x)
    np.save(folder / "big.npy", x.astype(">f8"))
    np.save(folder / "order.npy", np.asfortranarray(x))
    np.savez(folder / "stored.npz", **{"x": x, "conv:output:0": x.astype("f2")})
    np.savez_compressed(folder / "packed.npz", **{"x": x, "conv:output:0": x.astype("f2")})
    np.savetxt(folder / "x.txt", x[0])
    x.tofile(folder / "Conv2D.conv1.3.1.1700000000001000.output.0.1_300.float32.ND.bin")
    x.tofile(folder / "x.bin")
    _onnx(folder)


def _images(folder: Path) -> None:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper
    from PIL import Image

    pixels = np.arange(12 * 9 * 3, dtype=np.uint8).reshape(12, 9, 3)
    Image.fromarray(pixels).save(folder / "rgb.png")
    Image.fromarray(pixels[:, :, 0]).save(folder / "grey.png")
    Image.fromarray(pixels).convert("P").save(folder / "palette.png")
    Image.fromarray(pixels).save(folder / "rgb.jpg")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 12, 9]) for name in "xy")
    model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y]),
                              opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, folder / "image.onnx")


def _converted(folder: Path) -> None:
    from acccmp.dumps.convert import convert

    convert(SAMPLES / "digits_resnet" / "npu", folder / "converted")


def _baseline(folder: Path) -> None:
    assert _answers(("check", *_RESNET, "-b", str(folder / "baseline"), "--update")) == 0
    assert _answers(("compare", *_RESNET, "-o", str(folder / "r"))) == 0
    assert _answers(("history", "add", str(folder / "h.db"), str(folder / "r" / "report.json"), "--release", "1")) == 0
    (folder / "thresholds.toml").write_text(
        'base = "default"\nfloor_factor = 4.0\n\n[fixed]\nfloat16 = 0.05\n\n[[rule]]\nop_type = "Softmax*"\n'
        'name = "head/*"\nRelativeEuclideanDistance = 0.02\nCosineSimilarity = 0.995\n')


def _slice(folder: Path) -> None:
    model = str(SAMPLES / "digits_resnet" / "resnet.onnx")
    stretch = ("-s", "block1/conv1", "-e", "block1/relu1")
    assert _answers(("slice", model, *stretch, "-d", _NPU, "--mapping", _MAPPING, "-o", str(folder))) == 0
    next(folder.glob("dump_result_*")).rename(folder / "slice")


def _rule(folder: Path) -> None:
    """A quantisation tool's rule: ops with quantised names, and what they stand for."""
    told = json.loads((SAMPLES / "digits_resnet" / "mapping.json").read_text())
    told["graph"][0]["op"] = told["graph"][0]["op"][:12]
    (folder / "rule.json").write_text(json.dumps(told))


def _real(room: str, *patterns: str) -> Callable[[Path], None]:
    """Real files that are small enough; nothing where there are none."""
    def make(folder: Path) -> None:
        for pattern in patterns:
            for path in sorted((SHARED / room).glob(pattern)):
                if path.stat().st_size <= LARGEST:
                    shutil.copy(path, folder)

    return make


_GOLDEN, _NPU, _MAPPING = (str(SAMPLES / "digits_resnet" / name) for name in ("golden", "npu", "mapping.json"))
_RESNET = (_GOLDEN, _NPU, "--mapping", _MAPPING, "--no-floor")


TARGETS = (
    Target("onnx", _onnx, ("*.onnx", "*.data"), (
        ("inspect", "VICTIM", "--json"), ("emulate", "VICTIM", "-o", "e"), ("emulate", "out.onnx", "-o", "out"),
        ("slice", "VICTIM", "--start", "mul", "--end", "add", "-o", "s", "--no-check"))),
    Target("prototxt", _net("digits_lenet", "lenet.prototxt", "lenet.caffemodel"), ("*.prototxt",), (
        ("inspect", "VICTIM"), ("inspect", "VICTIM", "--weights", "lenet.caffemodel", "--json"),
        ("slice", "VICTIM", "-w", "lenet.caffemodel", "-s", "conv1", "-e", "pool1", "-o", "s", "--no-check"))),
    Target("caffemodel", _net("digits_lenet", "lenet.prototxt", "lenet.caffemodel"), ("*.caffemodel",), (
        ("inspect", "VICTIM"), ("inspect", "lenet.prototxt", "--weights", "VICTIM", "--json"),
        ("slice", "lenet.prototxt", "-w", "VICTIM", "-s", "conv1", "-e", "pool1", "-o", "s", "--no-check"))),
    Target("tensorflow", _tensorflow, ("*.pb", "saved/*.pb"), (
        ("inspect", "VICTIM", "--json"), ("inspect", "saved"),
        ("slice", "VICTIM", "--around", "loop/add", "-o", "s", "--no-check"))),
    Target("om", _om, ("*.om",), (
        ("inspect", "VICTIM", "--json"), ("compare", _GOLDEN, _NPU, "--mapping", "VICTIM", "--no-floor"))),
    Target("atc json", _net("digits_resnet", "mapping.json"), ("*.json",), (
        ("inspect", "VICTIM", "--json"), ("compare", _GOLDEN, _NPU, "--mapping", "VICTIM", "--no-floor", "--json"))),
    Target("build graph", _kind("build_pbtxt"), ("*",), (("inspect", "VICTIM", "--json"),)),
    Target("mindir", _kind("mindir"), ("*",), (("inspect", "VICTIM", "--json"),)),
    Target("ckpt", _kind("ckpt"), ("*",), (("inspect", "VICTIM", "--json"),)),
    Target("cambricon", _kind("cambricon"), ("*",), (("inspect", "VICTIM", "--json"),)),
    Target("device dump", _containers, ("npu/*",), (
        ("inspect", "npu", "--json"), ("convert", "npu", "-o", "c", "--layout", "NCHW"), ("compare", "npu", "npu"))),
    Target("device dump, compared", _net("digits_resnet", "npu"), ("npu/*",), (
        ("compare", _GOLDEN, "npu", "--mapping", _MAPPING, "--no-floor", "--json"),)),
    Target("images", _images, ("*.png", "*.jpg"), (
        ("inspect", "image.onnx", "--input", "x=VICTIM"), ("emulate", "image.onnx", "-i", "x=VICTIM", "-o", "e"))),
    Target("golden", _net("digits_resnet", "golden"), ("golden/*.npy",), (
        ("inspect", "golden", "--json"), ("compare", "golden", _NPU, "--mapping", _MAPPING, "--no-floor"))),
    Target("golden manifest", _net("digits_resnet", "golden"), ("golden/manifest.json",), (
        ("inspect", "golden", "--json"), ("compare", "golden", _NPU, "--mapping", _MAPPING, "--no-floor"))),
    Target("msprobe", _kind("msprobe"), ("dump.json", "dump_tensor_data/*"), (
        ("inspect", ".", "--json"), ("compare", ".", "."))),
    Target("mindspore dump", _kind("mindspore_dump"), ("rank_0/**/*.*",), (
        ("inspect", "rank_0", "--json"), ("inspect", "VICTIM"), ("compare", "rank_0", "rank_0"))),
    Target("converted dump", _converted, ("converted/*",), (
        ("inspect", "converted", "--json"), ("convert", "converted", "-o", "c", "--to", "dump"),
        ("compare", _GOLDEN, "converted", "--mapping", _MAPPING, "--no-floor"))),
    Target("arrays", _arrays, ("*.npy", "*.npz", "*.txt", "*.bin"), (
        ("inspect", "VICTIM", "--json"), ("convert", "VICTIM", "-o", "c"),
        ("inspect", "in.onnx", "--input", "x=VICTIM"),
        ("emulate", "in.onnx", "-i", "x=VICTIM", "-o", "e"))),
    Target("baseline", _baseline, ("baseline",), (
        ("check", *_RESNET, "-b", "VICTIM"), ("check", *_RESNET, "-b", "VICTIM", "--update"))),
    Target("history", _baseline, ("h.db",), (
        ("history", "show", "VICTIM"), ("history", "show", "VICTIM", "fc:output:0"), ("history", "export", "VICTIM"),
        ("history", "add", "VICTIM", "r/report.json", "--release", "2"))),
    Target("thresholds", _baseline, ("*.toml",), (("compare", *_RESNET, "--thresholds", "VICTIM"),)),
    Target("report.json", _baseline, ("r/report.json",), (
        ("history", "add", "new.db", "VICTIM", "--release", "1"), ("history", "show", "new.db"))),
    Target("slice", _slice, ("slice/*.json",) * 3 + ("slice/*.onnx", "slice/inputs/*", "slice/golden/*"), (
        ("inspect", "slice", "--json"), ("compare", "slice", _NPU, "--mapping", _MAPPING))),
    Target("quant rule", _rule, ("rule.json",), (("compare", *_RESNET, "--quant-rule", "VICTIM"),)),
    Target("real device models", _real("om", "*.om"), ("*",), (("inspect", "VICTIM", "--json"),)),
    Target("real models", _real("onnx", "*.onnx"), ("*",), (("inspect", "VICTIM", "--json"),)),
    Target("real mindspore", _real("mindspore", "*.mindir", "*.ckpt"), ("*",), (("inspect", "VICTIM", "--json"),)),
    Target("real twins", _real("cambricon", "*"), ("*",), (("inspect", "VICTIM", "--json"),)),
    Target("real tensorflow", _real("tensorflow", "*.pb"), ("*",), (("inspect", "VICTIM", "--json"),)),
    Target("real caffe", _real("caffe", "*"), ("*",), (("inspect", "VICTIM", "--json"),)),
)


# -- damage ------------------------------------------------------------------------------------------------------

HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0, 1 << 31, 1 << 63, 10**40, 10**400, 1e308, float("nan"), float("inf"), "", "\ud800",
    "a" * 10_000,
    "::error::x", "x\ny", "../../../etc/passwd", "/dev/zero", "\0", "²", [], {}, [None] * 3, [1, None, 3], [[[[[]]]]],
    [1] * 70, {"a": {"b": []}}, "1" * 5000,
)
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_WORDS = (
    b"9" * 400, b"-1", b"0", b"1e999", b"nan", b"18446744073709551616", b"[" * 300, b"{" * 300, b'"' * 3, b"\xff\xfe",
    b"1" * 5000,
)


def damaged(raw: bytes, other: bytes, rng: random.Random) -> bytes:
    """The bytes of a file with one or a few kinds of damage; `other` are those of another file of its kind."""
    if raw[:1] in b"{[" and rng.random() < 0.7:
        found = _damaged_json(raw, rng)
        if found is not None:
            return found
    is_text = not any(byte < 9 for byte in raw[:4096])
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        if not data:
            break
        if is_text and rng.random() < 0.6:
            data = _damaged_text(data, rng)
        else:
            data = _damaged_bytes(data, other, rng)
    return bytes(data)


def _damaged_bytes(data: bytearray, other: bytes, rng: random.Random) -> bytearray:
    # headers and tables are near the beginning
    at = rng.randrange(min(len(data), 600)) if rng.random() < 0.4 else rng.randrange(len(data))
    what = rng.randrange(11)
    if what == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif what == 1:
        data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
    elif what == 2:
        del data[at:]
    elif what == 3:
        del data[at : at + rng.randrange(1, 64)]
    elif what == 4:
        data[at:at] = rng.randbytes(rng.randrange(1, 32))
    elif what == 5:
        data[at : at + 8] = struct.pack("<Q", rng.choice((0, 1 << 20, 1 << 31, 1 << 40, 1 << 63, (1 << 64) - 1)))
    elif what == 6:
        data[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 1 << 16, 1 << 28, 1 << 31, (1 << 32) - 1)))
    elif what == 7:
        data[at:at] = data[at : at + rng.randrange(1, 4096)] * rng.choice((1, 1, 50))
    elif what == 8:
        data[at : at + 5] = b"\xff\xff\xff\xff\x0f"  # the length of four gigabytes, as protobuf writes it
    elif what == 9:
        begin = rng.randrange(len(other) + 1)
        data[at : at + rng.randrange(64)] = other[begin : begin + rng.randrange(1, 512)]
    else:
        size = rng.randrange(1, 200)
        data[at : at + size] = bytes(min(size, len(data) - at))
    return data


def _damaged_text(data: bytearray, rng: random.Random) -> bytearray:
    text = bytes(data)
    numbers = list(_NUMBER.finditer(text))
    what = rng.randrange(4)
    if what == 0 and numbers:
        found = rng.choice(numbers)
        return bytearray(text[: found.start()] + rng.choice(_WORDS) + text[found.end() :])
    lines = text.split(b"\n")
    place = rng.randrange(len(lines))
    if what == 1:
        lines[place] = rng.choice(_WORDS)
    elif what == 2:
        lines[place:place] = [lines[rng.randrange(len(lines))]] * rng.choice((1, 1, 300))
    else:
        del lines[place]
    return bytearray(b"\n".join(lines))


def _damaged_json(raw: bytes, rng: random.Random) -> bytes | None:
    """JSON of which one value is another one, or gone, or deep; None for what is no JSON. (JSON lines: one line.)"""
    lines = [raw]
    if raw.count(b"\n{") > 2 and not raw.rstrip().endswith(b"]\n}"):
        lines = raw.split(b"\n")
    place = rng.randrange(len(lines))
    try:
        told = json.loads(lines[place])
    except ValueError:
        return None
    for _ in range(rng.choice((1, 1, 2, 4))):
        told = _one_other(told, rng)
    try:
        text = json.dumps(told, indent=1 if len(lines) == 1 else None)
    except (ValueError, RecursionError):
        return None
    lines[place] = text.replace('"DEEP"', "[" * 200 + "]" * 200).encode()
    return b"\n".join(lines)


def _one_other(told: Any, rng: random.Random) -> Any:
    """`told` with another value at a random place of it."""
    at, way = told, []
    while isinstance(at, dict | list) and at and (len(way) < 1 or rng.random() < 0.85):
        way.append((at, rng.choice(list(at)) if isinstance(at, dict) else rng.randrange(len(at))))
        at = at[way[-1][1]]
    if not way:
        return rng.choice(HOSTILE)
    holder, key = way[-1]
    what = rng.random()
    if what < 0.15:
        del holder[key]
    elif what < 0.25 and isinstance(holder, list):
        holder.extend([holder[key]] * rng.choice((1, 100)))
    elif what < 0.35:
        holder[key] = "DEEP"
    elif what < 0.45:
        source, other = rng.choice(way)
        holder[key] = json.loads(json.dumps(source[other]))
    else:
        holder[key] = rng.choice(HOSTILE)
    return told


# -- one case ----------------------------------------------------------------------------------------------------


def _answers(arguments: Arguments) -> int:
    from acccmp import cli

    return cli.run(arguments)


def case(target: Target, healthy: Path, seed: int, number: int, scratch: Path) -> tuple[Outcome, Path, list[Arguments]]:
    """Damage and run: what became of it, its folder and commands."""
    rng = random.Random(zlib.crc32(f"{seed} {target.name} {number}".encode()))
    folder = scratch / f"{target.name.replace(' ', '-')}-{seed}-{number}"
    shutil.copytree(healthy, folder)
    victims = [path for pattern in target.victims for path in sorted(folder.glob(pattern)) if path.is_file()]
    chosen = rng.choice(victims)
    for victim in {chosen, *(rng.choice(victims) for _ in range(rng.choice((0, 0, 0, 2))))}:
        victim.write_bytes(damaged(victim.read_bytes(), rng.choice(victims).read_bytes(), rng))
    here = str(chosen.relative_to(folder))
    commands = [tuple(word.replace("VICTIM", here) for word in command) for command in target.commands]
    return run(folder, commands), folder, commands


def run(folder: Path, commands: Sequence[Arguments]) -> Outcome:
    """The commands one after the other in a child of this process, which has imported all that they need."""
    told = folder.with_name(f"{folder.name}.told")
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _child(folder, commands, told)
    patience = PATIENCE
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() - began > patience:
            os.kill(child, signal.SIGKILL)
            patience = 10**6
        time.sleep(0.002)
    lines = told.read_text(errors="replace").splitlines() if told.exists() else []
    told.unlink(missing_ok=True)
    seconds, mebibytes = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
    codes = tuple(int(line.partition(" ")[2]) for line in lines if line.startswith("CODE "))
    return Outcome(codes, _wrong(status, codes, lines, seconds, mebibytes, patience > PATIENCE), seconds, mebibytes)


def _child(folder: Path, commands: Sequence[Arguments], told: Path) -> None:
    """Never returns. What is told on stderr, and the codes, go into a file."""
    code = 99
    try:
        os.chdir(folder)
        out = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 0)
        os.dup2(nowhere, 1)
        os.dup2(out, 2)
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + (MEBIBYTES << 20),) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 2))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for command in commands:
            answer = _answers(command)
            sys.stderr.flush()
            os.write(2, f"CODE {answer}\n".encode())
        code = 0
    except BaseException:
        import traceback

        os.write(2, f"UNCAUGHT {' | '.join(traceback.format_exc().splitlines()[-5:])}\n".encode())
    os._exit(code)


def _wrong(
    status: int, codes: tuple[int, ...], lines: list[str], seconds: float, mebibytes: float, is_hanging: bool,
) -> str:
    for line in lines:
        if "add --debug" in line or line.startswith("UNCAUGHT "):
            return line
        if "there is not enough memory" in line:
            return f"over {MEBIBYTES} MB: {line}"
    if is_hanging or (os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)):
        return f"over {SECONDS} s" if seconds >= SECONDS or not is_hanging else f"waits for ever ({seconds:.1f} s used)"
    if os.WIFSIGNALED(status):
        return f"ended by signal {os.WTERMSIG(status)}"
    if os.WEXITSTATUS(status) or not set(codes) <= {0, 1, 2, 3}:
        return f"exit {os.WEXITSTATUS(status)}, codes {codes}"
    if seconds > SECONDS:
        return f"over {SECONDS} s"
    if mebibytes > MEBIBYTES:
        return f"over {MEBIBYTES} MB: {mebibytes:.0f}"
    said = [line for line in lines if not line.startswith("CODE ")]
    strange = [line for line in said if not line.startswith(("acccmp: ", "failed: "))]
    return f"a line of somebody else: {strange[0]}" if strange else ""


def replayed() -> Iterator[tuple[str, Outcome]]:
    """Every past defect and what becomes of it today."""
    _ready()
    from benchmarks.fuzz_corpus import ROWS

    with tempfile.TemporaryDirectory(prefix="acccmp-fuzz-") as scratch:
        for number, (name, make) in enumerate(ROWS.items()):
            folder = Path(scratch) / str(number)
            folder.mkdir()
            yield name, run(folder, make(folder))


# -- all of them -------------------------------------------------------------------------------------------------


def _ready() -> None:
    """Import what the commands need once, so that a case costs a fork; no thread may have been started before that."""
    os.environ.update({"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "100"})
    import importlib
    import pkgutil

    import onnxruntime  # noqa: F401

    import acccmp

    for module in pkgutil.walk_packages(acccmp.__path__, "acccmp."):
        if not module.name.endswith(("__main__", "_pb2")):
            importlib.import_module(module.name)


def healthy_files(scratch: Path, targets: Sequence[Target]) -> dict[str, Path]:
    """Target -> the folder of its healthy files; targets without any are left out."""
    made = {}
    for target in targets:
        folder = scratch / "healthy" / target.name.replace(" ", "-")
        folder.mkdir(parents=True)
        child = os.fork()  # running a model starts threads, and what has threads cannot be forked any more
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            target.make(folder)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            raise SystemExit(f"the healthy files of {target.name!r} could not be made")
        if any(path.is_file() for pattern in target.victims for path in folder.glob(pattern)):
            made[target.name] = folder
    return made


def kinds_of(targets: Sequence[Target]) -> dict[str, list[str]]:
    """Target -> the rows of kinds.py whose files it damages: what its victims are, and the folders that they lie in."""
    from acccmp.core.identify import identify
    from acccmp.errors import AcccmpError

    with tempfile.TemporaryDirectory(prefix="acccmp-fuzz-") as scratch:
        found: dict[str, set[str]] = {}
        for name, folder in healthy_files(Path(scratch), targets).items():
            target = next(target for target in targets if target.name == name)
            victims = [path for pattern in target.victims for path in folder.glob(pattern) if path.is_file()]
            above = {parent for path in victims for parent in path.parents if parent.is_relative_to(folder)}
            for place in {*victims, *above}:
                with suppress(AcccmpError):
                    found.setdefault(name, set()).add(identify(place).kind.name)
    return {name: sorted(kinds) for name, kinds in found.items()}


def _batch(
    name: str, healthy: Path, seed: int, numbers: range, keep: Path,
) -> tuple[str, list[tuple[int, Outcome, str]]]:
    target = next(target for target in TARGETS if target.name == name)
    found = []
    with tempfile.TemporaryDirectory(prefix="acccmp-fuzz-") as scratch:
        for number in numbers:
            outcome, folder, commands = case(target, healthy, seed, number, Path(scratch))
            shown = ""
            if outcome.wrong:
                keep.mkdir(parents=True, exist_ok=True)
                shutil.copytree(folder, keep / folder.name, dirs_exist_ok=True)
                shown = f"cd {keep / folder.name} && " + "; ".join(f"acccmp {' '.join(c)}" for c in commands)
            shutil.rmtree(folder)
            found.append((number, outcome, shown))
    return name, found


def table(results: dict[str, list[Outcome]]) -> Iterator[str]:
    """A line for each target and one for all."""
    yield f"{'target':24}{'cases':>7}{'read':>7}{'refused':>9}{'exceptions':>12}{'over 10 s':>11}{'over 512 MB':>13}" \
          f"{'slowest s':>11}{'most MB':>9}"
    total: Counter[str] = Counter()
    worst = [0.0, 0.0]
    for name, outcomes in {**results, "all": []}.items():
        counts = total if name == "all" else Counter(_sort(outcome) for outcome in outcomes)
        times = [max((o.seconds for o in outcomes), default=0), max((o.mebibytes for o in outcomes), default=0)]
        worst = [max(pair) for pair in zip(worst, times, strict=True)]
        times = worst if name == "all" else times
        yield f"{name:24}{sum(counts.values()):7}{counts['read']:7}{counts['refused']:9}{counts['exception']:12}" \
              f"{counts['time']:11}{counts['memory']:13}{times[0]:11.2f}{times[1]:9.0f}"
        if name != "all":
            total += counts


def _sort(outcome: Outcome) -> str:
    if not outcome.wrong:
        return "refused" if 2 in outcome.codes else "read"
    if outcome.wrong.startswith((f"over {SECONDS} s", "waits")):
        return "time"
    return "memory" if outcome.wrong.startswith(f"over {MEBIBYTES} MB") else "exception"


def fuzz(
    count: int, seed: int, targets: Sequence[Target] = TARGETS, jobs: int = 1, keep: Path | None = None,
) -> Iterator[tuple[str, int, Outcome, str]]:
    """`count` cases over all targets alike: (target, number, outcome, how to see it again)."""
    _ready()
    with tempfile.TemporaryDirectory(prefix="acccmp-fuzz-") as scratch:
        healthy = healthy_files(Path(scratch), targets)
        kept = keep or Path(tempfile.gettempdir()) / "acccmp-fuzz-kept"
        each = -(-count // len(healthy))
        batches = [(name, range(start, min(each, start + 25))) for start in range(0, each, 25) for name in healthy]
        with ProcessPoolExecutor(jobs, get_context("fork")) as pool:
            waiting = [pool.submit(_batch, name, healthy[name], seed, numbers, kept) for name, numbers in batches]
            for batch in waiting:
                name, found = batch.result()
                for number, outcome, shown in found:
                    yield name, number, outcome, shown


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--target", action="append", choices=[target.name for target in TARGETS])
    parser.add_argument("--corpus", action="store_true", help="Only what once went wrong: benchmarks/fuzz_corpus.py.")
    parser.add_argument("--kinds", action="store_true", help="Only say which kinds of files each target damages.")
    parser.add_argument("--keep", type=Path, help="Where cases that went wrong are kept.")
    options = parser.parse_args(arguments)
    if options.corpus:
        wrong = 0
        for name, outcome in replayed():
            wrong += bool(outcome.wrong)
            print(f"{'WRONG' if outcome.wrong else 'ok':6} {name}: {outcome.wrong or outcome.codes}", flush=True)
        return 1 if wrong else 0
    targets = [target for target in TARGETS if not options.target or target.name in options.target]
    if options.kinds:
        print("\n".join(f"{name}: {' '.join(found)}" for name, found in kinds_of(targets).items()))
        return 0
    results: dict[str, list[Outcome]] = {}
    wrongs: Counter[str] = Counter()
    began = time.monotonic()
    for name, number, outcome, shown in fuzz(options.count, options.seed, targets, options.jobs, options.keep):
        results.setdefault(name, []).append(outcome)
        if outcome.wrong:
            key = re.sub(r"[\d'\"].*", "", outcome.wrong.partition("acccmp: ")[2] or outcome.wrong)[:60]
            wrongs[name + key] += 1
            if wrongs[name + key] <= 3:
                print(f"WRONG {name} {number}: {outcome.wrong[:300]}\n    {shown}", flush=True)
    print("\n".join(table({target.name: results[target.name] for target in targets if target.name in results})))
    for target in targets:
        if target.name not in results:
            print(f"{target.name}: left out, there is no file for it")
    print(f"seed {options.seed}, {time.monotonic() - began:.0f} s on the clock")
    return 1 if wrongs else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
