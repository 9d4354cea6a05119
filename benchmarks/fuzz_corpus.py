"""What once hung, crashed, or took more memory than there is: small files made here, replayed by `make test`.

Each row puts its files into a folder and gives the commands that are run there. What must be true of each is what
`benchmarks/fuzz.py` asks of every damaged file. A defect that the fuzzer finds gets a row when it is mended.
"""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

RESNET = Path(__file__).resolve().parent.parent / "sample_dumps" / "digits_resnet"
LENET = RESNET.parent / "digits_lenet"
DEEP, LONG = "[" * 5000, "9" * 400
T = 1700000000001000

Commands = list[tuple[str, ...]]
_PAIR = ("compare", str(RESNET / "golden"), str(RESNET / "npu"))
_WITH = (*_PAIR, "--mapping", str(RESNET / "mapping.json"), "--no-floor")


def _thresholds(text: str) -> Callable[[Path], Commands]:
    def make(folder: Path) -> Commands:
        (folder / "t.toml").write_text(text)
        return [(*_WITH, "--thresholds", "t.toml")]

    return make


def _mapping(text: str) -> Callable[[Path], Commands]:
    def make(folder: Path) -> Commands:
        (folder / "m.json").write_text(text)
        return [("inspect", "m.json"), (*_PAIR, "--mapping", "m.json"), (*_WITH, "--quant-rule", "m.json")]

    return make


def _attribute(value: str) -> Callable[[Path], Commands]:
    return _mapping('{"graph": [{"name": "g", "op": [{"name": "a", "type": "Relu", "id": 1, "attr": [{"key": "k", '
                    f'"value": {value}}}]}}]}}]}}')


def _origin_shape(folder: Path) -> Commands:
    told = json.loads((RESNET / "mapping.json").read_text())
    for op in told["graph"][0]["op"]:
        for desc in (*op.get("input_desc", ()), *op.get("output_desc", ())):
            for attr in desc.get("attr", ()):
                if attr["key"] == "origin_shape":
                    attr["value"] = {"list": {"i": [1, None, 3], "val_type": 2}}
    return _mapping(json.dumps(told))(folder)


def _baseline(*lines: str) -> Callable[[Path], Commands]:
    def make(folder: Path) -> Commands:
        (folder / "b").write_text("\n".join(lines) + "\n")
        return [("check", *_PAIR[1:], "--baseline", "b"), ("check", *_PAIR[1:], "--baseline", "b", "--update")]

    return make


_HEAD = '{"schema": "acccmp.baseline/1", "model": "resnet"}'


def _entry(key: str, value: str) -> str:
    told = {"port": '"a:output:0"', "case": '"default"', "verdict": '"match"', "error": "0.1", "floor": "0.1",
            "cosine": "1.0", "max_abs": "0.1", "count": "3", "hash": '""', "norm": "1.0", "sketch": '""', key: value}
    return "{" + ", ".join(f'"{name}": {text}' for name, text in told.items()) + "}"


def _report(text: str) -> Callable[[Path], Commands]:
    def make(folder: Path) -> Commands:
        (folder / "r.json").write_text(text)
        return [("history", "add", "h.db", "r.json", "--release", "1")]

    return make


def _order(value: str) -> Callable[[Path], Commands]:
    """A report that was written by the command, in which every row has this `order`."""
    def make(folder: Path) -> Commands:
        import re

        from acccmp.jobs.compare import compare
        from acccmp.reports.report_json import to_json

        text = to_json(compare(RESNET / "golden", RESNET / "npu", mapping=RESNET / "mapping.json"))
        return _report(re.sub(r'"order": \d+', f'"order": {value}', text))(folder)

    return make


def _history(*statements: str) -> Callable[[Path], Commands]:
    def make(folder: Path) -> Commands:
        from acccmp.releases.history import APPLICATION_ID, MIGRATIONS, VERSION

        with closing(sqlite3.connect(folder / "h.db")) as connection:
            for step in MIGRATIONS:
                for statement in step:
                    connection.execute(statement)
            connection.execute("INSERT INTO runs (id, made, release, case_name, model, npu, passed, coverage) "
                               "VALUES (1, '2026-01-01', 'r', 'c', 'm', 'n', 1, 1.0)")
            connection.execute("INSERT INTO ports (run, port, place, verdict, error, error_limit, floor) "
                               "VALUES (1, 'fc:output:0', 0, 'match', 0.1, 0.2, 0.1)")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.commit()
            for statement in statements:
                connection.executescript(statement)
            connection.commit()
        return [("history", "show", "h.db"), ("history", "show", "h.db", "fc:output:0"), ("history", "export", "h.db")]

    return make


_ENDLESS = ("DROP TABLE ports; CREATE VIEW ports (run, port, place, verdict, error, error_limit, floor) AS WITH "
            "RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT 1, 'a', x, 'match', x, 1.0, 1.0 FROM c")


def _model(*nodes: onnx.NodeProto, axes: int = 2, sizes: Any = 1) -> Callable[[Path], Commands]:
    def make(folder: Path) -> Commands:
        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [sizes] * axes) for name in "xy")
        model = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=[helper.make_opsetid("", 13)])
        model.ir_version = 8
        (folder / "m.onnx").write_bytes(model.SerializeToString())
        return [("inspect", "m.onnx"), ("emulate", "m.onnx", "-o", "e")]

    return make


_RELU = helper.make_node("Relu", ["x"], ["y"], name="r")


def _zeros(folder: Path) -> Commands:
    np.savez_compressed(folder / "z.npz", **{f"a{place}": np.zeros((1 << 18, 256), np.float32) for place in range(4)})
    return [("inspect", "z.npz")]


def _npy(told: bytes, data: bytes = b"") -> Callable[[Path], Commands]:
    """An npy file with this text for a header."""
    def make(folder: Path) -> Commands:
        (folder / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(told)) + told + data)
        return [("inspect", "x.npy"), ("convert", "x.npy", "-o", "c"),
                ("inspect", str(RESNET / "resnet.onnx"), "--input", "image=x.npy"),
                ("run", str(RESNET / "resnet.onnx"), "--input", "image=x.npy", "-o", "g")]

    return make


def _archive(method: int) -> Callable[[Path], Commands]:
    def make(folder: Path) -> Commands:
        np.save(folder / "x.npy", np.ones(3, np.float32))
        with zipfile.ZipFile(folder / "x.npz", "w", method) as archive:
            archive.write(folder / "x.npy", "x.npy")
        return [("inspect", "x.npz"), ("convert", "x.npz", "-o", "c")]

    return make


def _nameless(folder: Path) -> Commands:
    """An archive with a member that has no name."""
    commands = _archive(zipfile.ZIP_STORED)(folder)
    with zipfile.ZipFile(folder / "x.npz", "a") as archive:
        archive.writestr(zipfile.ZipInfo(""), b"")
    return commands


def _damaged_schema(folder: Path) -> Commands:
    """A history that SQLite finds damaged at a table whose name is no text."""
    commands = _history()(folder)
    raw = (folder / "h.db").read_bytes().replace(b"CREATE TABLE ports", b"CREATE TABL! ports")
    (folder / "h.db").write_bytes(raw.replace(b"tableportsports", b"tablepor\x80sports"))
    return commands


def _names(*names: str) -> Callable[[Path], Commands]:
    """A device's dump with files of these names beside it."""
    def make(folder: Path) -> Commands:
        (folder / "npu").mkdir()
        for path in sorted((RESNET / "npu").iterdir())[:4]:
            (folder / "npu" / path.name).write_bytes(path.read_bytes())
        for name in names:
            (folder / "npu" / name).write_bytes(b"\x08\0\0\0\0\0\0\0\x0a\x032.0\x10\x01zz")
        return [("inspect", "npu"), ("compare", str(RESNET / "golden"), "npu"), ("convert", "npu", "-o", "c")]

    return make


def _list_of_names(text: str) -> Callable[[Path], Commands]:
    def make(folder: Path) -> Commands:
        commands = _names("123456789")(folder)
        (folder / "npu" / "mapping.csv").write_text(text)
        return commands

    return make


def _links(folder: Path) -> Commands:
    commands = _names()(folder)
    (folder / "npu" / "loop").symlink_to("loop")
    (folder / "npu" / "up").symlink_to("..")
    (folder / "npu" / f"Relu.gone.1.1.{T}").symlink_to("nowhere")
    os.mkfifo(folder / "npu" / f"Relu.pipe.1.1.{T}")
    os.mkfifo(folder / "npu" / "mapping.csv")
    return commands


def _golden(text: str) -> Callable[[Path], Commands]:
    def make(folder: Path) -> Commands:
        (folder / "g").mkdir()
        (folder / "g" / "manifest.json").write_text(text)
        return [("inspect", "g"), ("compare", "g", str(RESNET / "npu"))]

    return make


def _caffemodel(name: bytes) -> Callable[[Path], Commands]:
    """A caffemodel of one layer of this name, without a prototxt."""
    def make(folder: Path) -> Commands:
        from acccmp.core.wire import bytes_field

        layer = bytes_field(1, name) + bytes_field(2, b"ReLU") + bytes_field(3, b"data") + bytes_field(4, b"out")
        (folder / "n.caffemodel").write_bytes(bytes_field(1, b"net") + bytes_field(100, layer))
        return [("inspect", "n.caffemodel"), ("inspect", str(LENET / "lenet.prototxt"), "--weights", "n.caffemodel")]

    return make


def _many(fields: Callable[[int], bytes], count: int, first: bytes = b"") -> Callable[[Path], Commands]:
    """A caffemodel of so many small fields of the net; with `first`, of one layer."""
    def make(folder: Path) -> Commands:
        from acccmp.core.wire import bytes_field

        told = first + b"".join(map(fields, range(count)))
        (folder / "n.caffemodel").write_bytes(bytes_field(1, b"net") + (bytes_field(100, told) if first else told))
        return [("inspect", "n.caffemodel"), ("inspect", str(LENET / "lenet.prototxt"), "--weights", "n.caffemodel")]

    return make


def _relu(number: int) -> bytes:
    """A layer of a caffemodel that works in place."""
    from acccmp.core.wire import bytes_field

    name = bytes_field(1, b"r%d" % number)
    return bytes_field(100, name + bytes_field(2, b"ReLU") + bytes_field(3, b"d") + bytes_field(4, b"d"))


def _twins(folder: Path) -> Commands:
    (folder / "n.cambricon_twins").write_text(
        'This is the Twins File of "n.cambricon".\nFunction number: 1\nFunction #0\n{\nInput #0\n{\n'
        f"Data type: CNRT_FLOAT32\nShape: {LONG * 13} x ²\n}}\nKernel header #0\n{{\nCore limit: {LONG * 13}\n}}\n}}\n")
    return [("inspect", "n.cambricon_twins")]


def _build_graph(folder: Path) -> Commands:
    (folder / "g.pbtxt").write_text(
        'name: "g"\ngraph {\n name: "g"\n op {\n  name: "a"\n  type: "Relu"\n  output_desc {\n   dtype: '
        f'{LONG * 13}\n   layout: "FRACTAL_Z:{LONG * 13}"\n  }}\n  input: "b:{LONG * 13}"\n }}\n}}\n')
    return [("inspect", "g.pbtxt")]


ROWS: dict[str, Callable[[Path], Commands]] = {
    "thresholds: deep": _thresholds(f"x = {DEEP}"),
    "thresholds: deep tables": _thresholds("x = " + "{a=" * 3000),
    "thresholds: 400 digits": _thresholds(f"floor_factor = {LONG}"),
    "thresholds: 5,200 digits": _thresholds(f"floor_factor = {LONG * 13}"),
    "thresholds: 400 digits in a rule": _thresholds(f"[[rule]]\nCosineSimilarity = {LONG}"),
    "mapping: deep": _mapping(DEEP * 20), "mapping: 5,200 digits": _mapping(f'{{"graph": {LONG * 13}}}'),
    "mapping: deep attribute": _attribute('{"func":' * 4000 + "0" + "}" * 4000),
    "mapping: 400 digits": _attribute(f'{{"i": {LONG}}}'), "mapping: no number": _attribute('{"i": "²"}'),
    "mapping: a hole in origin_shape": _origin_shape,
    "baseline: deep": _baseline(DEEP * 20), "baseline: deep line": _baseline(_HEAD, DEEP * 20),
    "baseline: 400 digits": _baseline(_HEAD, _entry("error", LONG)),
    "baseline: 400 digits of a count": _baseline(_HEAD, _entry("count", LONG)),
    "baseline: a sketch that is none": _baseline(_HEAD, _entry("sketch", '"é"')),
    "report: deep": _report(DEEP * 20), "report: 400 digits": _order(LONG),
    "report: 64 bits": _order(str((1 << 64) - 1)),
    "history: an endless view": _history(_ENDLESS),
    "history: a text for a number": _history("UPDATE ports SET error = 'much'"),
    "history: bytes for a name": _history("UPDATE ports SET port = x'00ff'", "UPDATE runs SET made = x'ff'"),
    "history: no port": _history("CREATE TABLE p AS SELECT * FROM ports", "DROP TABLE ports",
                                 "ALTER TABLE p RENAME TO ports", "UPDATE ports SET port = NULL"),
    "history: a version before the first": _history("PRAGMA user_version = -3"),
    "onnx: a missing tensor": _model(helper.make_node("Add", ["x", "gone"], ["y"], name="a")),
    "onnx: a node without outputs": _model(helper.make_node("Relu", ["x"], [], name="a"), _RELU),
    "onnx: 70 axes": _model(_RELU, axes=70), "onnx: sizes beyond all memory": _model(_RELU, axes=4, sizes=1 << 20),
    "npz: zeros": _zeros, "npz: packed with lzma": _archive(zipfile.ZIP_LZMA),
    "npz: a member without a name": _nameless, "history: a table's name that is no text": _damaged_schema,
    "npz: packed with bzip2": _archive(zipfile.ZIP_BZIP2),
    "npy: an open bracket": _npy(b"{'descr': '<f4', 'shape': (1, 2\n"),
    "npy: deep": _npy(b"(" * 9000), "npy: 5,200 digits": _npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (" +
                                                          LONG.encode() * 13 + b",)}"),
    "npy: empty and endless": _npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (0, 4611686018427387904)}"),
    "npy: many axes": _npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"1," * 70 + b")}", bytes(4)),
    "dump: digits that are none": _names(
        f"Relu.a.²...{T}", f"Relu.a.1.²....{T}", "Relu.a.1.1.²" + "³" * 15, f"a.²....{T}.npy", f"a.0.{'²' * 16}.npy",
        f"Op.a.1.1.{T}.output.².npy", "²", f"Relu.a.{'9' * 120}.1.{T}"),
    "dump: an open quote in mapping.csv": _list_of_names('123456789,"Relu.a' + "x" * 200_000),
    "dump: a line break in mapping.csv": _list_of_names(f'123456789,"Relu.a\n.1.1.{T}"\n,\n123456789,\0\n'),
    "dump: links in circles and pipes": _links,
    "golden: deep": _golden(DEEP * 20), "golden: a list": _golden("[1]"),
    "golden: zero bytes in a name": _golden(
        '{"schema": "acccmp.golden/1", "tensors": [{"file": "a\\u0000.npy", "port": "a:output:0"}]}'),
    "golden: no index": _golden('{"schema": "acccmp.golden/1", "tensors": [{"file": "a.npy", "port": "a:output:²"}]}'),
    "golden: 5,200 digits": _golden(f'{{"schema": "acccmp.golden/1", "tensors": [{{"file": "a.npy", "port": '
                                    f'"a:output:{LONG * 13}"}}]}}'),
    "twins: 5,200 digits": _twins, "build graph: 5,200 digits": _build_graph,
    "caffemodel: a long name that is no text": _caffemodel(b"\xff" * 360_000),
    "caffemodel: alone": _caffemodel(b"r"),
    "caffemodel: 150,000 layers": _many(_relu, 150_000),
    "caffemodel: a layer that reads 200,000 blobs": _many(
        lambda number: b"\x1a\x07" + b"x%06d" % number, 200_000, b"\x0a\x01r\x12\x04ReLU"),
}
