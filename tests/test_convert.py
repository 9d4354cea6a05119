"""Conversions: dump -> npy -> bin -> dump, in chosen layouts and dtypes, whole folders, and what could not be done."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from dump_bytes import FLOAT16, NC1HWC0, ND, big, header, output, put, simple, split

from acccmp.core import layout as L
from acccmp.core.dump import DumpedOp, Port
from acccmp.core.tensor import DTYPES, TensorRef
from acccmp.dumps.arrays import write_golden
from acccmp.dumps.ascend import write_file
from acccmp.dumps.convert import cast, convert
from acccmp.dumps.read import read_dump
from acccmp.errors import InputError

T = 1700000000001000
NAME = f"Conv2D.conv1.3.1.{T}"


def a_dump(folder: Path) -> np.ndarray:
    """conv1: a 5-D half tensor, an int32, a bfloat16; returns the first in NCHW."""
    x = np.random.default_rng(0).standard_normal((1, 20, 3, 5)).astype("<f2")
    stored = L.to_stored(x, "NCHW", "NC1HWC0", 16)
    ref = TensorRef("", DTYPES["float16"], stored.shape, 0, None, "NC1HWC0", x.shape, "NCHW", array=stored)
    ints = np.arange(6, dtype="<i4").reshape(2, 3)
    bf = TensorRef("", DTYPES["bfloat16"], (3,), array=np.array([1, 2.5, -3], "f4"))
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder, DumpedOp("conv1", "Conv2D", "", T, 3, 1), [ints], [ref, bf])
    return x


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(("options", "wanted"), [
    ({}, lambda x: x), ({"layout": "NHWC"}, lambda x: x.transpose(0, 2, 3, 1)),
    ({"layout": "stored"}, lambda x: L.to_stored(x, "NCHW", "NC1HWC0", 16)),
    ({"dtype": "float32"}, lambda x: x.astype("<f4")),
])
def test_npy_has_the_tensors_own_shape_or_the_one_that_was_asked_for_under_one_name(
    tmp_path: Path, options: dict[str, str], wanted: Callable[[np.ndarray], np.ndarray],
) -> None:
    x = a_dump(tmp_path / "d")
    result = convert(tmp_path / "d", tmp_path / "out", **options)
    assert result.failed == ()
    assert {path.name for path in result.written} == names(tmp_path / "out") - {"converted.json"} == {
        f"{NAME}.input.0.npy", f"{NAME}.output.0.npy", f"{NAME}.output.1.npy"}
    got = np.load(tmp_path / "out" / f"{NAME}.output.0.npy")
    assert got.dtype == wanted(x).dtype
    assert np.array_equal(got, wanted(x))
    assert np.load(tmp_path / "out" / f"{NAME}.output.1.npy").tolist() == [1, 2.5, -3]


def test_bin_has_the_true_shape_in_its_name_where_the_vendor_prints_the_flat_length(tmp_path: Path) -> None:
    x = a_dump(tmp_path / "d")
    result = convert(tmp_path / "d", tmp_path / "out", to="bin", layout="NCHW", dtype="float32")
    assert names(tmp_path / "out") - {"converted.json"} == {
        f"{NAME}.input.0.2_3.int32.ND.bin", f"{NAME}.output.0.1_20_3_5.float32.NCHW.bin",
        f"{NAME}.output.1.3.float32.ND.bin"}
    raw = (tmp_path / "out" / f"{NAME}.output.0.1_20_3_5.float32.NCHW.bin").read_bytes()
    assert raw == x.astype("<f4").tobytes()
    assert result.notes == ("one tensor was kept as int32: integers are not turned into float32",)


def test_stored_bytes_go_into_a_bin_untouched(tmp_path: Path) -> None:
    a_dump(tmp_path / "d")
    convert(tmp_path / "d" / NAME, tmp_path / "out", to="bin", layout="stored")
    payload = split((tmp_path / "d" / NAME).read_bytes())[1]
    parts = [f"{NAME}.input.0.2_3.int32.ND.bin", f"{NAME}.output.0.1_2_3_5_16.float16.NC1HWC0.bin",
             f"{NAME}.output.1.3.bfloat16.ND.bin"]
    assert b"".join((tmp_path / "out" / part).read_bytes() for part in parts) == payload


def test_dump_to_bin_to_dump_is_a_round_trip(tmp_path: Path) -> None:
    a_dump(tmp_path / "d")
    convert(tmp_path / "d", tmp_path / "bins", to="bin")
    result = convert(tmp_path / "bins", tmp_path / "again", to="dump")
    assert [path.name for path in result.written] == [NAME]
    before, after = read_dump(tmp_path / "d"), read_dump(tmp_path / "again")
    assert list(before) == list(after)
    for port, ref in before.items():
        assert after[port].raw() == ref.raw()
        assert (after[port].dtype, after[port].layout, after[port].shape) == (ref.dtype, ref.layout, ref.shape)


def test_dump_to_npy_in_nchw_to_dump_in_nc1hwc0_is_a_round_trip(tmp_path: Path) -> None:
    x = a_dump(tmp_path / "d")
    convert(tmp_path / "d", tmp_path / "npy", layout="NCHW")
    convert(tmp_path / "npy", tmp_path / "again", to="dump", layout="NC1HWC0")
    ref = read_dump(tmp_path / "again")[Port("conv1", "output", 0)]
    assert (ref.layout, ref.shape) == ("NC1HWC0", (1, 2, 3, 5, 16))
    assert np.array_equal(ref.numpy(), x)
    assert ref.raw() == read_dump(tmp_path / "d")[Port("conv1", "output", 0)].raw()


def test_plain_arrays_become_dumps_and_bins(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 5)).astype("f4")
    np.save(tmp_path / "image.npy", x)
    convert(tmp_path / "image.npy", tmp_path / "out", to="bin", dtype="float16")
    assert (tmp_path / "out" / "image.1_3_4_5.float16.ND.bin").read_bytes() == x.astype("<f2").tobytes()
    (path,) = convert(tmp_path / "image.npy", tmp_path / "out", to="dump", dtype="float16", layout="NHWC").written
    ref = read_dump(path)[Port("image", "output", 0)]
    assert (ref.layout, ref.own_shape) == ("NHWC", (1, 3, 4, 5))
    assert np.array_equal(ref.stored(), x.astype("<f2").transpose(0, 2, 3, 1))
    assert np.array_equal(ref.numpy(), x.astype("<f2"))


def test_int8_gets_blocks_of_32_and_c04_layouts_blocks_of_4(tmp_path: Path) -> None:
    np.save(tmp_path / "q.0.5.npy", np.ones((1, 40, 2, 2), np.int8))
    (path,) = convert(tmp_path / "q.0.5.npy", tmp_path / "a", to="dump", layout="NC1HWC0").written
    assert read_dump(path)[Port("q", "output", 0)].shape == (1, 2, 2, 2, 32)
    (path,) = convert(tmp_path / "q.0.5.npy", tmp_path / "b", to="dump", layout="NC1HWC0_C04").written
    assert read_dump(path)[Port("q", "output", 0)].shape == (1, 10, 2, 2, 4)


def test_a_golden_folder_becomes_dumps_with_true_names_and_all_outputs_of_an_op(tmp_path: Path) -> None:
    tensors = [(Port("a/b", "output", 0), np.arange(3)), (Port("a.b", "output", 0), np.arange(4)),
               (Port("split", "output", 0), np.ones(2, "f4")), (Port("split", "output", 1), np.zeros(3, "f4"))]
    write_golden(tmp_path / "g", tensors, {}, time_us=T)
    assert len(convert(tmp_path / "g", tmp_path / "out", to="dump").written) == 3
    dump = read_dump(tmp_path / "out")
    assert {port: ref.numpy().tolist() for port, ref in dump.items()} == {p: a.tolist() for p, a in tensors}
    (tmp_path / "g" / "manifest.json").unlink()
    convert(tmp_path / "g", tmp_path / "flat", to="dump")
    assert set(read_dump(tmp_path / "flat").refs) == {
        Port("a_b", "output", 0), Port("split", "output", 0), Port("split", "output", 1)}


def test_an_npz_gives_one_file_a_member(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{"m/x": np.zeros(3), "y": np.ones(2)})
    result = convert(tmp_path / "a.npz", tmp_path / "out")
    assert len(result.written) == 2
    assert len(convert(tmp_path / "a.npz", tmp_path / "dumps", to="dump").written) == 2
    assert set(read_dump(tmp_path / "dumps").refs) == {Port("m/x", "output", 0), Port("y", "output", 0)}


def test_infinities_and_subnormals_that_a_cast_makes_are_counted(tmp_path: Path) -> None:
    x = np.array([1e30, -1e30, np.inf, 1e-6, 1e-5, 6.2e-5, 1e-30, 0, np.nan, 2], "f4")
    write_file(tmp_path / NAME, DumpedOp("conv1", time=T), [], [x])
    result = convert(tmp_path / NAME, tmp_path / "out", to="bin", dtype="float16")
    (item,) = result.casts
    assert (item.infinite, item.subnormal, item.zero) == (2, 2, 1)
    assert (result.infinite, result.subnormal) == (2, 2)
    assert item.path == result.written[0]


def test_a_cast_of_two_planes_counts_both() -> None:
    got, counts = cast(np.array([1e30 + 1j, 1 + 1e30j], "c16"), DTYPES["complex128"], DTYPES["complex32"])
    assert counts.infinite == 2
    assert got.dtype == np.complex64


@pytest.mark.parametrize(("values", "dtype", "says"), [
    (np.array([1.5], "f4"), "int8", "needs a scale"),
    (np.array([300], "i4"), "int8", "do not fit"),
    (np.array([1j], "c8"), "float32", "kinds differ"),
])
def test_a_cast_that_would_lose_what_numbers_mean_fails_alone(
    tmp_path: Path, values: np.ndarray, dtype: str, says: str,
) -> None:
    write_file(tmp_path / NAME, DumpedOp("conv1", time=T), [], [values, np.array([True])])
    result = convert(tmp_path / NAME, tmp_path / "out", dtype=dtype)
    assert len(result.written) == 1
    assert says in result.failed[0].reason
    assert "output 0" in result.failed[0].reason


def test_integers_are_never_turned_into_floats_silently(tmp_path: Path) -> None:
    write_file(tmp_path / NAME, DumpedOp("conv1", time=T), [], [np.array([16777217], "<i4"), np.array([True])])
    result = convert(tmp_path / NAME, tmp_path / "out", dtype="float16")
    assert np.load(tmp_path / "out" / f"{NAME}.output.0.npy").tolist() == [16777217]
    assert result.notes == ("one tensor was kept as int32: integers are not turned into float16",
                            "one tensor was kept as bool: integers are not turned into float16")


def test_files_that_fail_are_listed_and_the_others_written(tmp_path: Path) -> None:
    a_dump(tmp_path / "d")
    put(tmp_path / "d", f"Relu.bad.4.1.{T}", b"garbage" * 5)
    put(tmp_path / "d", f"Relu.cut.5.1.{T}", simple("cut")[:-1])
    put(tmp_path / "d", f"Relu.csv.5.1.{T}.csv", b"1,2")
    result = convert(tmp_path / "d", tmp_path / "out")
    assert len(result.written) == 3
    assert [Path(item.path).name for item in result.failed] == [f"Relu.bad.4.1.{T}", f"Relu.cut.5.1.{T}"]
    listed = (tmp_path / "out" / "convert_failed_file_list.txt").read_text().splitlines()
    assert len(listed) == 2
    assert "cut off" in listed[1]
    convert(tmp_path / "d" / NAME, tmp_path / "out")
    assert not (tmp_path / "out" / "convert_failed_file_list.txt").exists()


def test_folders_are_converted_in_parallel_with_the_same_result(tmp_path: Path) -> None:
    for n in range(30):
        put(tmp_path / "d", f"Op.op{n}.{n}.1.{T + n}", simple(f"op{n}", bytes([n]) * 24))
    plain = convert(tmp_path / "d", tmp_path / "a", dtype="float32")
    with ThreadPoolExecutor(4) as pool:
        parallel = convert(tmp_path / "d", tmp_path / "b", dtype="float32", executor=pool)
    assert [p.name for p in plain.written] == [p.name for p in parallel.written]
    for path in plain.written:
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize(("options", "says"), [
    ({"to": "hdf5"}, "cannot convert to 'hdf5'"), ({"layout": "NWHC"}, "no layout 'NWHC'"),
    ({"layout": "NC1HWC0"}, "no layout 'NC1HWC0' for npy"), ({"dtype": "float15"}, "no data type named 'float15'"),
    ({"dtype": "hifloat4"}, "no defined meaning"),
])
def test_a_wish_that_cannot_be_met_is_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, str], says: str,
) -> None:
    a_dump(tmp_path / "d")
    with pytest.raises(InputError, match=says):
        convert(tmp_path / "d", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_nothing_to_convert_and_two_files_of_one_name_are_errors(tmp_path: Path) -> None:
    a_dump(tmp_path / "d")
    a_dump(tmp_path / "e")
    with pytest.raises(InputError, match=f"2 sources are named {re.escape(NAME)}"):
        convert([tmp_path / "d", tmp_path / "e"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="nothing to convert"):
        convert(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(InputError, match="no such file"):
        convert(tmp_path / "nowhere", tmp_path / "out")


def test_long_names_go_into_mapping_csv(tmp_path: Path) -> None:
    name = f"Conv2D.{'n' * 215}.3.1.{T}"
    put(tmp_path, name, simple())
    (path,) = convert(tmp_path / name, tmp_path / "out", to="bin").written
    assert len(path.name) < 60
    (port,) = read_dump(tmp_path / "out")
    assert port == Port("n" * 215, "output", 0)


def test_a_dump_cast_to_another_type_keeps_its_layout(tmp_path: Path) -> None:
    x = a_dump(tmp_path / "d")
    convert(tmp_path / "d", tmp_path / "out", to="dump", dtype="float32")
    ref = read_dump(tmp_path / "out")[Port("conv1", "output", 0)]
    assert (ref.layout, ref.dtype.name) == ("NC1HWC0", "float32")
    assert np.array_equal(ref.numpy(), x.astype("f4"))


def test_a_blocked_tensor_without_an_original_shape_keeps_its_padding(tmp_path: Path) -> None:
    x = np.arange(32, dtype="<f2").reshape(1, 1, 1, 2, 16)
    put(tmp_path, NAME, big(header("", (output(FLOAT16, NC1HWC0, x.shape, 64),)), x.tobytes()))
    convert(tmp_path / NAME, tmp_path / "out", layout="NCHW")
    got = np.load(tmp_path / "out" / f"{NAME}.output.0.npy")
    assert np.array_equal(got[0, :, 0, :], x[0, 0, 0].T)


def test_bytes_of_an_undefined_type_go_into_a_bin_but_not_into_an_npy(tmp_path: Path) -> None:
    put(tmp_path, NAME, big(header("", (output(0, ND, (4,), 16),)), bytes(range(16))))
    assert "convert it to bin" in convert(tmp_path / NAME, tmp_path / "a").failed[0].reason
    (path,) = convert(tmp_path / NAME, tmp_path / "b", to="bin").written
    assert path.read_bytes() == bytes(range(16))


# -- against the vendor's recorded results -----------------------------------------------------------------------


def test_npy_files_are_those_of_the_vendor(shared: Path, tmp_path: Path) -> None:
    fusion = shared / "peer_results" / "fusion"
    convert(fusion / "npu", tmp_path / "out", layout="stored")
    wanted = {p.name: np.load(p) for p in (fusion / "expected_convert_npy").glob("*.npy")}
    assert names(tmp_path / "out") - {"converted.json"} == wanted.keys()
    for name, want in wanted.items():
        got = np.load(tmp_path / "out" / name)
        assert got.dtype == want.dtype
        assert np.array_equal(got, want), name


def test_npy_files_in_nchw_are_those_of_the_vendor(shared: Path, tmp_path: Path) -> None:
    fusion = shared / "peer_results" / "fusion"
    convert(fusion / "npu", tmp_path / "out", layout="NCHW")
    wanted = {re.sub(r"[.][0-9x]+[.]npy", ".npy", p.name) if "x" in p.name.split(".")[-2] else p.name: np.load(p)
              for p in (fusion / "expected_convert_nchw").glob("*.npy")}
    assert names(tmp_path / "out") - {"converted.json"} == wanted.keys()
    for name, want in wanted.items():
        assert np.array_equal(np.load(tmp_path / "out" / name), want), name


def test_bin_files_are_those_of_the_vendor_but_for_the_flat_shape_in_their_names(shared: Path, tmp_path: Path) -> None:
    fusion = shared / "peer_results" / "fusion"
    convert(fusion / "npu", tmp_path / "out", to="bin", layout="stored")
    wanted = {p.name: p.read_bytes() for p in (fusion / "expected_convert_bin").glob("*.bin")}
    got = {re.sub(r"\.1_(1_6_6_16|16_6_6)\.float", ".576.float", p.name): p.read_bytes()
           for p in (tmp_path / "out").glob("*.bin")}
    assert got == wanted
