"""Arrays in files, and golden folders: written, read, checked, and read without their manifest."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from dump_bytes import put, simple

from acccmp.core.dump import Port
from acccmp.dumps import arrays
from acccmp.dumps.read import read_dump
from acccmp.errors import FormatError, InputError

T = 1700000000001000
RNG = np.random.default_rng(0)


def npy(array: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)
    return file.getvalue()


ARRAYS = [
    RNG.standard_normal((3, 4)), RNG.standard_normal((3, 4)).astype("<f2"), np.arange(6).reshape(2, 3), np.array(7),
    np.array([True, False]), RNG.standard_normal(5).astype("c16"), np.zeros((0, 3), "f4"), np.arange(3, dtype="u1"),
    np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)), np.arange(4, dtype=">i4"), np.arange(24, dtype=">f8").reshape(
        2, 3, 4).T,
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype.str}{a.shape}")
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_an_npy_file_reads_as_numpy_reads_it(tmp_path: Path, array: np.ndarray, version: tuple[int, int]) -> None:
    ref = arrays.read_npy(put(tmp_path, "a.npy", npy(array, version=version)))
    assert ref.shape == array.shape
    assert np.array_equal(ref.numpy(), array)


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype.str}{a.shape}")
def test_numpy_reads_what_is_written(tmp_path: Path, array: np.ndarray) -> None:
    digest = arrays.write_npy(tmp_path / "a.npy", array)
    back = np.load(tmp_path / "a.npy", allow_pickle=False)
    assert back.shape == array.shape
    assert back.dtype == array.dtype.newbyteorder("<")
    assert np.array_equal(back, array)
    assert digest == arrays.sha256(tmp_path / "a.npy")
    assert (tmp_path / "a.npy").read_bytes() == npy(back)


@pytest.mark.parametrize(("data", "says"), [
    (npy(np.array([{}, None], object), allow_pickle=True), "Python objects"),
    (npy(np.array(["a", "b"])), "no array of numbers"),
    (npy(np.zeros(3, [("a", "f4"), ("b", "i4")])), "no array of numbers"),
    (npy(np.zeros(3, "M8[s]")), "no array of numbers"),
    (npy(np.zeros(100))[:-1], "needs 800 bytes, found 799"),
    (npy(np.zeros(2)).replace(b"(2,), }" + b" " * 18, b"(1152921504606846976,), }"), "needs 9223372036854775808 bytes"),
    (b"\x93NUMPY\x01\x00\xff\xffxx", "header"),
    (b"\x93NUMPY\x09\x00\x10\x00" + bytes(99), "version 9"),
    (npy(np.zeros(2)).replace(b"'descr'", b"__imp__"), "damaged"),
    (npy(np.zeros(2)).replace(b"False", b"open("), "damaged"),
    (b"PK nonsense", "not an npy"),
    (b"", "not an npy"),
    (pickle.dumps({"a": 1}), "not an npy"),
])
def test_a_damaged_npy_or_one_of_objects_says_so(tmp_path: Path, data: bytes, says: str) -> None:
    path = put(tmp_path, "a.npy", data)
    with pytest.raises(FormatError, match=says) as caught:
        arrays.read_npy(path)
    assert str(caught.value).startswith(str(path))


def test_an_npz_is_one_tensor_a_member(tmp_path: Path) -> None:
    members = {"conv1:output:0": np.arange(6.0).reshape(2, 3), "node:1": np.arange(3), "x": np.array(2, "f2")}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **members)
        dump = read_dump(tmp_path / "a.npz")
        assert dump.kind == "golden"
        assert list(dump) == [Port("conv1", "output", 0), Port("node", "output", 1), Port("x", "output", 0)]
        for ref, want in zip(dump.values(), members.values(), strict=True):
            assert np.array_equal(ref.numpy(), want)


def test_an_npz_member_of_objects_or_of_too_many_bytes_is_broken_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bad.npy", npy(np.array([None]), allow_pickle=True))
        archive.writestr("good.npy", npy(np.arange(3)))
        bomb = zipfile.ZipInfo("bomb.npy")
        bomb.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(bomb, npy(np.zeros(1000)))
    raw = bytearray(path.read_bytes())
    at = raw.rindex(b"bomb.npy") - 46  # its entry in the central directory claims three gigabytes
    raw[at + 24 : at + 28] = (3 << 30).to_bytes(4, "little")
    path.write_bytes(raw)
    dump = read_dump(path)
    assert list(dump) == [Port("good", "output", 0)]
    assert {b.name for b in dump.broken} == {"bad", "bomb"}
    assert any("unpacks to 3221225472 bytes" in b.reason for b in dump.broken)


def test_a_cut_off_npz_is_one_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros(100))
    path = put(tmp_path, "b.npz", (tmp_path / "a.npz").read_bytes()[:-40])
    with pytest.raises(FormatError, match=r"b\.npz: no zip archive that can be read"):
        read_dump(path)


def test_a_bin_is_told_by_the_vendors_name_or_is_bytes(tmp_path: Path) -> None:
    x = np.arange(6, dtype="<f2")
    path = put(tmp_path, f"Conv2D.conv1.3.1.{T}.output.0.1_2_3.float16.NHWC.bin", x.tobytes())
    ref = read_dump(path)[Port("conv1", "output", 0)]
    assert (ref.shape, ref.dtype.name, ref.layout) == ((1, 2, 3), "float16", "NHWC")
    plain = arrays.read_bin(put(tmp_path, "x.bin", bytes(7)))
    assert (plain.dtype.name, plain.shape) == ("undefined", (7,))
    with pytest.raises(FormatError, match="needs 12 bytes, found 11"):
        arrays.read_bin(put(tmp_path, "a.6.float16.ND.bin", bytes(11)))


def test_a_text_file_of_numbers_is_an_array(tmp_path: Path) -> None:
    path = put(tmp_path, "a.txt", b"1 2 3\n4 5 6\n")
    assert arrays.read_txt(path).numpy().tolist() == [[1, 2, 3], [4, 5, 6]]
    with pytest.raises(FormatError, match="not a table of numbers"):
        arrays.read_txt(put(tmp_path, "b.txt", b"hello world"))


# -- golden folders ----------------------------------------------------------------------------------------------

MANIFEST = {
    "model": {"path": "net.onnx", "sha256": "00", "format": "onnx", "name": "net"},
    "runner": {"name": "onnxruntime", "version": "1"}, "inputs": {}, "outputs": ["a/b.c:output:0"],
}
TENSORS = [
    (Port("x", "output", 0), np.arange(6.0).reshape(2, 3)), (Port("a/b.c", "output", 0), np.arange(3)),
    (Port("a.b/c", "output", 0), np.arange(4, dtype="f2")), (Port("n" * 300, "output", 1), np.array(True)),
    (Port("half", "output", 0), np.array([1, 2.5], ml_dtypes.bfloat16)),
]


def test_a_golden_folder_keeps_true_names_though_flattened_ones_collide(tmp_path: Path) -> None:
    written = arrays.write_golden(tmp_path / "g", iter(TENSORS), MANIFEST, tensor_names={Port("x", "output", 0): "x:0"},
                                  layouts={Port("x", "output", 0): "NC"}, time_us=T)
    dump = read_dump(tmp_path / "g")
    assert list(dump) == list(written) == [port for port, _ in TENSORS]
    for port, array in TENSORS:
        assert np.array_equal(dump[port].numpy(), array.astype("f4") if port.node == "half" else array)
    assert (dump.kind, dump.model, dump.flat_names) == ("golden", "net", False)
    assert dump.run.outputs == (Port("a/b.c", "output", 0),)
    assert dump.run.tensors[Port("x", "output", 0)] == "x:0"
    assert dump[Port("x", "output", 0)].layout == "NC"
    assert dump.notes == ()
    assert arrays.check_golden(dump) == []
    files = sorted(os.listdir(tmp_path / "g"))
    assert f"x.0.{T}.npy" in files
    assert {f"a_b_c.0.{T + 1}.npy", f"a_b_c.0.{T + 2}.npy"} <= set(files)
    assert not [file for file in files if file.endswith(".part")]


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        arrays.write_golden(tmp_path / name, TENSORS, MANIFEST, time_us=T)
    for file in os.listdir(tmp_path / "a"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_changed_golden_file_is_found_by_its_hash(tmp_path: Path) -> None:
    arrays.write_golden(tmp_path, TENSORS, MANIFEST, time_us=T)
    path = tmp_path / f"x.0.{T}.npy"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    (problem,) = arrays.check_golden(read_dump(tmp_path))
    assert str(path) in problem
    assert "x:output:0" in problem


def test_a_swapped_shortened_or_missing_golden_file_is_broken_alone(tmp_path: Path) -> None:
    arrays.write_golden(tmp_path, TENSORS, MANIFEST, time_us=T)
    x, c1, c2 = (tmp_path / f for f in (f"x.0.{T}.npy", f"a_b_c.0.{T + 1}.npy", f"a_b_c.0.{T + 2}.npy"))
    raw = x.read_bytes()
    x.write_bytes(c1.read_bytes())
    c1.write_bytes(raw)
    c2.unlink()
    dump = read_dump(tmp_path)
    assert {b.port for b in dump.broken} == {TENSORS[0][0], TENSORS[1][0], TENSORS[2][0]}
    assert len(dump) == 2
    assert any("manifest says" in b.reason for b in dump.broken)
    assert len(arrays.check_golden(dump)) == 3


def test_things_that_are_no_numbers_are_skipped_and_said_so(tmp_path: Path) -> None:
    arrays.write_golden(tmp_path, [(Port("s", "output", 0), np.array(["a"])), TENSORS[0]],
                        {"skipped": {"t": "unsupported"}})
    told = json.loads((tmp_path / "manifest.json").read_text())
    assert set(told["skipped"]) == {"s", "t"}
    assert [row["port"] for row in told["tensors"]] == ["x:output:0"]
    assert told["schema"] == "acccmp.golden/1"


@pytest.mark.parametrize("row", [
    {"file": "../../etc/passwd", "port": "a:output:0"}, {"file": "", "port": "a:output:0"}, {"file": "a.npy"},
    {"file": "a.npy", "port": "nonsense"}, 3, {"file": "/etc/passwd", "port": "a:output:0"},
])
def test_a_manifest_never_leads_out_of_its_folder(tmp_path: Path, row: object) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"schema": "acccmp.golden/1", "tensors": [row]}))
    with pytest.raises(FormatError, match=r"manifest\.json"):
        read_dump(tmp_path)


def test_a_manifest_of_a_later_version_or_cut_off_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"schema":"acccmp.golden/9","tensors":[]}')
    with pytest.raises(FormatError, match="golden/9"):
        read_dump(tmp_path)
    (tmp_path / "manifest.json").write_text('{"schema":"acccmp.gol')
    with pytest.raises(FormatError, match=r"manifest\.json: not JSON"):
        read_dump(tmp_path)


def test_files_that_the_manifest_does_not_list_get_one_note(tmp_path: Path) -> None:
    arrays.write_golden(tmp_path, TENSORS[:1], MANIFEST)
    put(tmp_path, "other.0.5.npy", npy(np.zeros(2)))
    put(tmp_path, "notes.txt", b"hello")
    dump = read_dump(tmp_path)
    assert len(dump) == 1
    assert len(dump.notes) == 1
    assert "2 files" in dump.notes[0]


def test_a_golden_folder_without_manifest_has_flat_names(tmp_path: Path) -> None:
    put(tmp_path, f"a_b_c.0.{T}.npy", npy(np.zeros(2)))
    put(tmp_path, f"a_b_c.0.{T + 5}.npy", npy(np.ones(3)))
    put(tmp_path, "dotted.name.1.5.npy", npy(np.ones(4)))
    put(tmp_path, "strange.npy", npy(np.ones(4)))
    put(tmp_path, "bad.0.7.npy", b"nothing")
    put(tmp_path, "read.me.md", b"x")
    dump = read_dump(tmp_path)
    assert dump.flat_names
    assert dump[Port("a/b.c", "output", 0)].shape == (3,)
    assert dump[Port("dotted_name", "output", 1)].shape == (4,)
    assert [b.port for b in dump.broken] == [Port("bad", "output", 0)]
    assert sum("are older than" in note for note in dump.notes) == 1
    assert sum("not named" in note for note in dump.notes) == 1


def test_inputs_as_msquickcmp_names_them_are_inputs_of_the_op_that_is_there(tmp_path: Path) -> None:
    put(tmp_path, f"Conv_0.0.{T}.npy", npy(np.zeros(2)))
    put(tmp_path, f"input_Conv_0.1.{T}.npy", npy(np.zeros(3)))
    put(tmp_path, f"input_image.0.{T}.npy", npy(np.zeros(4)))
    assert set(read_dump(tmp_path).refs) == {
        Port("Conv_0", "output", 0), Port("Conv_0", "input", 1), Port("input_image", "output", 0)}


def test_hashed_golden_names_come_from_mapping_csv(tmp_path: Path) -> None:
    long = "n" * 260
    put(tmp_path, "17000000000010003.npy", npy(np.zeros(3)))
    put(tmp_path, "mapping.csv", f"17000000000010003.npy,{long}.2.{T}.npy\n".encode())
    assert list(read_dump(tmp_path)) == [Port(long, "output", 2)]


def test_spec8_18_an_npy_among_device_dumps_is_reported_and_the_dumps_are_read(tmp_path: Path) -> None:
    put(tmp_path, f"Conv2D.conv1.3.1.{T}", simple("conv1"))
    put(tmp_path, f"conv1.0.{T}.npy", npy(np.zeros(3)))
    dump = read_dump(tmp_path)
    assert (dump.kind, list(dump)) == ("npu", [Port("conv1", "output", 0)])
    assert dump.notes == (f"{tmp_path}: 1 files beside the dumps were ignored: conv1.0.{T}.npy",)


def test_the_golden_folders_of_the_vendor_are_read(shared: Path) -> None:
    dump = read_dump(shared / "peer_results" / "fusion" / "golden")
    assert len(dump) == 18
    want = np.load(shared / "peer_results" / "fusion" / "golden" / "relu.0.1700000000006000.npy")
    assert np.array_equal(dump[Port("relu", "output", 0)].numpy(), want)


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    put(tmp_path, "file", b"")
    with pytest.raises(InputError, match="cannot be"):
        arrays.write_golden(tmp_path / "file", TENSORS, MANIFEST)
