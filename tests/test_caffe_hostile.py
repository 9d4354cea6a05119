"""Caffe files that were made to hang a reader, or that contradict themselves: one clear answer, in seconds."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from dump_bytes import varint

import acccmp
from acccmp import AcccmpError

SIZE = 360_000  # bytes of a file; a reader that is quadratic in them takes minutes
SECONDS = 40.0  # far more than is needed, for busy machines
HEAD = 'input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8\n'


def field(number: int, body: bytes, wire: int = 2) -> bytes:
    return varint(number << 3 | wire) + (varint(len(body)) if wire == 2 else b"") + body


def layer(*more: bytes, name: bytes = b"relu", bottom: bytes = b"data", top: bytes = b"relu") -> bytes:
    return field(100, field(1, name) + field(2, b"ReLU") + field(3, bottom) + field(4, top) + b"".join(more))


def caffemodel(*fields: bytes) -> bytes:
    return field(1, b"net") + b"".join(fields)


Words = TypeVar("Words", str, bytes)


def many(piece: Callable[[int], Words], empty: Words) -> Words:
    pieces: list[Words] = []
    size = 0
    while size < SIZE:
        pieces.append(piece(len(pieces)))
        size += len(pieces[-1])
    return empty.join(pieces)


def acccmp_says(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "acccmp", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)


NO_UTF8 = b"\xff" * 4 * SIZE
ONE = struct.pack("<f", 1.0)


@pytest.mark.parametrize(
    "content",
    [
        caffemodel(layer(name=NO_UTF8)),
        caffemodel(layer(top=NO_UTF8)),
        caffemodel(layer(field(107, field(1, NO_UTF8)))),
        caffemodel(field(3, NO_UTF8), layer()),
        caffemodel(field(2, field(4, NO_UTF8) + b"\x28\x12" + field(2, b"data") + field(3, b"x"))),
    ],
    ids=["layer name", "blob name", "parameter", "input name", "layer name of a V1 net"],
)
def test_a_caffemodel_whose_names_are_no_utf8_is_inspected_in_seconds(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(content)
    ran = acccmp_says("inspect", path)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_name_that_is_no_utf8_is_the_same_alone_and_as_weights(tmp_path: Path) -> None:
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(
        layer(field(7, field(7, field(1, b"\x03")) + field(5, ONE * 3)), name=b"\xffrel\xc3\xa9"),
    ))
    alone = acccmp.load(tmp_path / "net.caffemodel")
    (tmp_path / "net.prototxt").write_bytes(
        HEAD.encode() + b'layer { name: "\xffrel\xc3\xa9" type: "ReLU" bottom: "data" top: "relu" }'
    )
    given = acccmp.load(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    assert [node.name for node in alone.nodes] == [node.name for node in given.nodes][1:] == ["ÿrelÃ©"]
    assert list(given.weights) == list(alone.weights) == ["ÿrelÃ©.0"]


MIXED = "".join(chr(0x4E00 + int(n)) for n in np.random.default_rng(1).integers(0, 150, SIZE // 4))

REPEATED: dict[str, tuple[str | bytes, str]] = {
    "stored layers of one name": (caffemodel(many(lambda i: layer(name=b"n", top=b"x%d" % i), b"")), "nodes"),
    "one top many times": (
        HEAD + 'layer{name:"a" type:"Split" bottom:"data"' + many(lambda i: 'top:"data" ', "") + "}",
        "layer 'a' makes the blob 'data' twice",
    ),
    "many tops": (
        HEAD + 'layer{name:"a" type:"Slice" bottom:"data"' + many(lambda i: f'top:"t{i}" ', "") + "}", "nodes",
    ),
    "many fields": (
        HEAD + 'layer{name:"a" type:"ReLU" bottom:"data" top:"b" ' + many(lambda i: f"f{i}:1 ", "") + "}", "nodes",
    ),
    "weights in pieces of one": (
        caffemodel(layer(field(7, many(lambda i: field(5, ONE, 5) + field(12, b"\x01", 0), b"")))), "nodes",
    ),
    "a shape of many sizes": (
        caffemodel(layer(field(7, many(lambda i: field(7, b"\x08\x01"), b"")))), "its shape has more than 32 sizes",
    ),
    "a long blob name that is not there, but nearly": (
        HEAD + f'layer{{name:"a" type:"ReLU" bottom:"data" top:"{MIXED}"}}\n'
        f'layer{{name:"z" type:"ReLU" bottom:"{MIXED[::-1]}" top:"z"}}', "layer 'z' reads the blob",
    ),
}


@pytest.mark.parametrize("name", REPEATED)
def test_a_caffe_file_that_says_one_thing_very_often_is_inspected_in_seconds(tmp_path: Path, name: str) -> None:
    content, says = REPEATED[name]
    path = tmp_path / ("net.prototxt" if isinstance(content, str) else "net.caffemodel")
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    ran = acccmp_says("inspect", path, "--json")
    assert says in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("kind", ["Unheard{i}", "Unheard", "Tile"])
def test_a_net_of_many_layers_that_opencv_refuses_is_run_in_seconds(tmp_path: Path, kind: str) -> None:
    text = HEAD + "".join(
        f'layer {{ name: "a{i}" type: "{kind.format(i=i)}" bottom: "data" top: "b{i}" tile_param {{ tiles: 2 }} }}\n'
        for i in range(2500)
    )
    (tmp_path / "net.prototxt").write_text(text + 'layer { name: "r" type: "ReLU" bottom: "data" top: "r" }')
    np.save(tmp_path / "x.npy", np.ones((1, 3, 8, 8), "f4"))
    out = tmp_path / "golden"
    ran = acccmp_says("run", tmp_path / "net.prototxt", "-i", f"data={tmp_path / 'x.npy'}", "-o", out)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert set(map(str, acccmp.read_dump(out))) == {"data:output:0", "r:output:0"}


def test_layers_of_a_fork_in_an_old_net_are_run_or_left_out_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(
        HEAD + "layers { name: 'm' type: Mish bottom: 'data' top: 'm' }"
        "layers { name: 'u' type: Unheard bottom: 'm' top: 'u' } layers { name: 'r' type: RELU bottom: 'm' top: 'r' }"
    )
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype("f4")
    np.save(tmp_path / "x.npy", x)
    ran = acccmp_says("run", tmp_path / "net.prototxt", "-i", f"data={tmp_path / 'x.npy'}", "-o", tmp_path / "golden")
    assert (ran.returncode, ran.stderr) == (0, "")
    golden = {str(port): ref.numpy() for port, ref in acccmp.read_dump(tmp_path / "golden").items()}
    assert set(golden) == {"data:output:0", "m:output:0", "r:output:0"}
    np.testing.assert_allclose(golden["m:output:0"], x * np.tanh(np.log1p(np.exp(x))), atol=1e-6)


def test_a_caffemodel_alone_that_makes_a_blob_after_it_was_read_says_so(tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(caffemodel(
        layer(name=b"reader", bottom=b"late", top=b"a"), layer(name=b"maker", bottom=b"a", top=b"late"),
    ))
    says = "'reader' reads the blob 'late', which only 'maker' behind it makes; is the file damaged?"
    ran = acccmp_says("inspect", path)
    assert (ran.returncode, ran.stderr) == (2, f"acccmp: net.caffemodel: {says}\n")
    with pytest.raises(AcccmpError, match="which only 'maker' behind it makes"):
        acccmp.load(path)
