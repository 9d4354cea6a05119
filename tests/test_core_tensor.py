"""Data types against ml_dtypes and against their formulas written anew; TensorRefs against numpy."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acccmp.core import layout as L
from acccmp.core.tensor import BY_GE, BY_PROTO, DTYPES, TensorRef, decode, dtype_of, encode
from acccmp.errors import FormatError

ALL_CODES = np.arange(256, dtype=np.uint8)

ML = {
    "float8_e5m2": ml_dtypes.float8_e5m2, "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e8m0": ml_dtypes.float8_e8m0fnu,
}
SMALL_ML = {
    "float6_e3m2": ml_dtypes.float6_e3m2fn, "float6_e2m3": ml_dtypes.float6_e2m3fn,
    "float4_e2m1": ml_dtypes.float4_e2m1fn,
}


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal bit for bit, apart from the payload of NaNs."""
    with np.errstate(invalid="ignore"):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return bool(np.all((a == b) & (np.signbit(a) == np.signbit(b)) | np.isnan(a) & np.isnan(b)))


@pytest.mark.parametrize("name", ML)
def test_spec8_07_all_256_codes_of_an_8_bit_float_are_those_of_ml_dtypes(name: str) -> None:
    assert same(decode(ALL_CODES, DTYPES[name], 256), ALL_CODES.view(ML[name]).astype(np.float32))


def test_spec8_07_e4m3_has_its_nan_and_e5m2_its_negative_infinity() -> None:
    assert math.isnan(decode(np.array([0x7F], np.uint8), DTYPES["float8_e4m3fn"], 1)[0])
    assert decode(np.array([0xFC], np.uint8), DTYPES["float8_e5m2"], 1)[0] == -math.inf


def hifloat8(code: int) -> float:
    """The value of a HiFloat8 code, read bit by bit from a string: the rules of the format, not our table."""
    bits = f"{code:08b}"
    named = {"00000000": 0.0, "10000000": math.nan, "01101111": math.inf, "11101111": -math.inf}
    if bits in named:
        return named[bits]
    sign, rest = (-1 if bits[0] == "1" else 1), bits[1:]
    for prefix, exponent_bits in (("11", 4), ("10", 3), ("01", 2), ("001", 1), ("0001", 0)):
        if rest.startswith(prefix):
            exponent, mantissa = rest[len(prefix):][:exponent_bits], rest[len(prefix) + exponent_bits:]
            power = 0
            if exponent:
                power = int("1" + exponent[1:], 2) * (-1 if exponent[0] == "1" else 1)
            return sign * 2.0**power * (1 + int(mantissa, 2) / 2 ** len(mantissa))
    return sign * 2.0 ** (int(rest[4:], 2) - 23)


def test_spec8_06_hifloat8_08_is_one_and_10_is_two() -> None:
    values = decode(np.array([0x08, 0x10, 0x88], np.uint8), DTYPES["hifloat8"], 3)
    assert values.tolist() == [1.0, 2.0, -1.0]


def test_spec8_06_all_256_codes_of_hifloat8() -> None:
    assert same(decode(ALL_CODES, DTYPES["hifloat8"], 256), np.array([hifloat8(code) for code in range(256)]))


def pack(codes: list[int], bits: int) -> np.ndarray:
    """Codes one after the other from the low bit of the first byte on."""
    number = sum(code << (i * bits) for i, code in enumerate(codes))
    return np.frombuffer(number.to_bytes(-(-len(codes) * bits // 8), "little"), np.uint8)


@pytest.mark.parametrize("name", SMALL_ML)
def test_6_and_4_bit_floats_are_those_of_ml_dtypes(name: str) -> None:
    bits = DTYPES[name].bits
    codes = np.arange(1 << bits, dtype=np.uint8)
    got = decode(pack(codes.tolist(), bits), DTYPES[name], codes.size)
    assert same(got, codes.view(SMALL_ML[name]).astype(np.float32))


def test_float4_e1m2_is_a_quarter_step_scale_up_to_one_and_three_quarters() -> None:
    got = decode(pack(list(range(16)), 4), DTYPES["float4_e1m2"], 16)
    ladder = np.arange(8) / 4  # exponent 0: m/4; exponent 1: 1 + m/4
    assert same(got, np.concatenate([ladder, -ladder]))


def test_spec8_07_int4_is_signed_and_its_low_nibble_comes_first() -> None:
    got = decode(np.array([0x21, 0x8F], np.uint8), DTYPES["int4"], 4)
    assert got.tolist() == [1, 2, -1, -8]
    assert got.dtype == np.int8


def test_spec8_07_two_bit_integers_come_low_bits_first() -> None:
    raw = np.array([0b11_10_01_00], np.uint8)
    assert decode(raw, DTYPES["uint2"], 4).tolist() == [0, 1, 2, 3]
    assert decode(raw, DTYPES["int2"], 4).tolist() == [0, 1, -2, -1]


def test_uint1_comes_high_bit_first_and_its_last_byte_may_be_partly_used() -> None:
    raw = np.array([0b1010_0000, 0b1100_0000], np.uint8)
    assert decode(raw, DTYPES["uint1"], 10).tolist() == [1, 0, 1, 0, 0, 0, 0, 0, 1, 1]


def test_spec8_07_complex32_is_two_halves() -> None:
    raw = np.frombuffer(struct.pack("<4e", 1.5, -2, 65504, 0.25), np.uint8)
    assert decode(raw, DTYPES["complex32"], 2).tolist() == [1.5 - 2j, 65504 + 0.25j]


@pytest.mark.parametrize("name", ["qint8", "quint8", "qint16", "quint16", "qint32"])
def test_spec8_07_quantised_integers_are_read_as_their_integers(name: str) -> None:
    row = DTYPES[name]
    assert row.quantised
    values = np.array([1, 2, 100], row.numpy)
    assert decode(np.frombuffer(values.tobytes(), np.uint8), row, 3).tolist() == [1, 2, 100]


def test_bfloat16_is_the_upper_half_of_a_float32_for_all_65536_codes() -> None:
    codes = np.arange(1 << 16, dtype="<u2")
    got = decode(codes.view(np.uint8), DTYPES["bfloat16"], 1 << 16)
    assert got.dtype == np.float32
    assert same(got, codes.view(ml_dtypes.bfloat16).astype(np.float32))


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=50))
def test_writing_bfloat16_rounds_to_the_nearest_even(values: list[float]) -> None:
    got = decode(np.frombuffer(encode(np.array(values, np.float32), DTYPES["bfloat16"]), np.uint8),
                 DTYPES["bfloat16"], len(values))
    with np.errstate(over="ignore"):
        assert same(got, np.array(values, np.float32).astype(ml_dtypes.bfloat16).astype(np.float32))


DEFINED = [row for row in DTYPES.values() if row.numpy is not None]


@pytest.mark.parametrize("row", DEFINED, ids=str)
@given(data=st.binary(min_size=16, max_size=64))
def test_what_was_decoded_encodes_to_the_same_values(row: object, data: bytes) -> None:
    raw = np.frombuffer(data[: len(data) // 16 * 16], np.uint8)
    count = raw.size * 8 // row.bits
    values = decode(raw, row, count)
    again = decode(np.frombuffer(encode(values, row), np.uint8), row, count)
    if row.kind == "complex":
        assert same(again.real, values.real)
        assert same(again.imag, values.imag)
    elif row.kind == "float":
        assert same(again, values)
    else:
        assert np.array_equal(again, values)


@pytest.mark.parametrize("row", [row for row in DEFINED if row.kind in ("int", "bool")], ids=str)
def test_integers_come_back_bit_for_bit(row: object) -> None:
    raw = np.random.default_rng(3).integers(0, 2 if row.kind == "bool" else 256, 32).astype(np.uint8)
    count = raw.size * 8 // row.bits
    assert encode(decode(raw, row, count), row) == raw.tobytes()


@pytest.mark.parametrize("name", [*ML, "hifloat8"])
def test_writing_an_8_bit_float_takes_the_nearest_code(name: str) -> None:
    row = DTYPES[name]
    codes = decode(ALL_CODES, row, 256)
    finite = np.unique(codes[np.isfinite(codes)])
    values = np.concatenate([finite[:-1] + (finite[1:] - finite[:-1]) * 0.26, finite[:-1] * 0.27 + finite[1:] * 0.73])
    got = decode(np.frombuffer(encode(values, row), np.uint8), row, values.size)
    distance = np.abs(values[:, None].astype(np.float64) - finite[None, :]).min(axis=1)
    assert np.allclose(np.abs(got - values), distance, rtol=1e-6, atol=0)


def test_numbers_of_the_two_enums_differ_where_the_vendor_says() -> None:
    # spec section 3.1: (name, protobuf, GE)
    for name, proto, ge in [
        ("undefined", 0, 28), ("float32", 1, 0), ("float16", 2, 1), ("int8", 3, 2), ("uint8", 4, 4), ("int16", 5, 6),
        ("uint16", 6, 7), ("int32", 7, 3), ("int64", 8, 9), ("uint32", 9, 8), ("uint64", 10, 10), ("bool", 11, 12),
        ("float64", 12, 11), ("string", 13, 13), ("bfloat16", 27, 27), ("int4", 28, 29), ("uint1", 29, 30),
        ("complex32", 32, 33), ("hifloat8", 33, 34), ("float8_e5m2", 34, 35), ("float8_e4m3fn", 35, 36),
        ("float8_e8m0", 36, 37), ("float6_e3m2", 37, 38), ("float4_e1m2", 40, 41), ("hifloat4", 41, 42),
    ]:
        assert BY_PROTO[proto].name == name
        assert BY_GE[ge].name == name


@pytest.mark.parametrize("name", ["undefined", "string", "resource", "variant", "hifloat4"])
def test_a_type_without_a_meaning_says_so(name: str) -> None:
    with pytest.raises(FormatError, match=name):
        decode(np.zeros(16, np.uint8), DTYPES[name], 1)


@pytest.mark.parametrize(("name", "largest", "normal", "epsilon"), [
    ("float16", 65504, 2.0**-14, 2.0**-10), ("float32", np.finfo("f4").max, 2.0**-126, 2.0**-23),
    ("bfloat16", float(ml_dtypes.finfo(ml_dtypes.bfloat16).max), 2.0**-126, 2.0**-7),
    ("float8_e4m3fn", 448, 2.0**-6, 2.0**-3), ("float8_e5m2", 57344, 2.0**-14, 2.0**-2), ("int8", 127, 1, 0),
    ("hifloat8", 32768, 2.0**-15, 2.0**-3), ("uint1", 1, 1, 0), ("int4", 7, 1, 0),
])
def test_limits_of_a_type(name: str, largest: float, normal: float, epsilon: float) -> None:
    row = DTYPES[name]
    assert (row.largest, row.smallest_normal, row.epsilon) == (largest, normal, epsilon)


# -- TensorRef ---------------------------------------------------------------------------------------------------


def a_file(folder: Path, data: bytes, offset: int = 0) -> str:
    path = folder / "data"
    path.write_bytes(b"\xee" * offset + data)
    return str(path)


@pytest.mark.parametrize("offset", [0, 3, 4097, 70001])
def test_a_tensor_is_read_from_any_offset(tmp_path: Path, offset: int) -> None:
    x = np.random.default_rng(0).standard_normal((3, 5, 7)).astype("<f2")
    ref = TensorRef(a_file(tmp_path, x.tobytes(), offset), DTYPES["float16"], (3, 5, 7), offset)
    assert np.array_equal(ref.numpy(), x)
    assert np.array_equal(ref.read((slice(1, 2), slice(0, 5, 2), slice(3, 4))), x[1:2, 0:5:2, 3:4])
    assert ref.raw() == x.tobytes()
    assert np.array_equal(np.concatenate(list(ref.blocks(10))), x.reshape(-1))


@pytest.mark.parametrize("name", ["float32", "bfloat16", "int8", "int4", "uint1", "bool", "complex64", "float8_e4m3fn"])
def test_a_blocked_tensor_of_any_type_comes_back_in_its_own_order(tmp_path: Path, name: str) -> None:
    row = DTYPES[name]
    x = np.random.default_rng(0).integers(0, 2, (2, 19, 3, 5)).astype(row.numpy)
    stored = L.to_stored(x, "NCHW", "NC1HWC0", 16)
    path = a_file(tmp_path, encode(stored, row), 5)
    ref = TensorRef(path, row, stored.shape, 5, None, "NC1HWC0", (2, 19, 3, 5), "NCHW")
    assert np.array_equal(ref.numpy(), x)
    assert np.array_equal(ref.stored(), stored)
    region = (slice(0, 1), slice(15, 18), slice(1, 3), slice(0, 5))
    assert np.array_equal(ref.read(region), x[region])


def test_looking_at_a_ref_opens_no_file() -> None:
    ref = TensorRef("/nowhere/at/all", DTYPES["float32"], (1 << 20, 1 << 20))
    assert "float32" in repr(ref)
    assert ref.nbytes == 1 << 42
    assert ref.own_shape == (1 << 20, 1 << 20)


def test_a_claim_of_two_to_the_sixty_elements_fails_before_anything_is_allocated(tmp_path: Path) -> None:
    ref = TensorRef(a_file(tmp_path, bytes(16)), DTYPES["float32"], (1 << 30, 1 << 30))
    for act in (ref.numpy, ref.raw, ref.stored, lambda: ref.read((slice(0, 1), slice(0, 1)))):
        with pytest.raises(FormatError, match=r"needs \d+ bytes at offset 0, found 16"):
            act()
    with pytest.raises(FormatError):
        decode(np.zeros(8, np.uint8), DTYPES["int4"], 1 << 60)


def test_a_missing_file_is_our_error() -> None:
    with pytest.raises(FormatError, match="cannot be read"):
        TensorRef("/nowhere/at/all", DTYPES["float32"], (1,)).numpy()


def test_an_empty_tensor_reads_as_one(tmp_path: Path) -> None:
    ref = TensorRef(a_file(tmp_path, b""), DTYPES["float32"], (0, 3))
    assert ref.numpy().shape == (0, 3)
    assert list(ref.blocks()) == []


@pytest.mark.parametrize(
    "dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, np.float16, bool],
)
def test_an_array_in_memory_is_a_tensor_like_any_other(dtype: type) -> None:
    x = np.array([[0, 1, 1.5, -2]]).astype(dtype)
    ref = TensorRef.of(x)
    assert ref.dtype is dtype_of(x.dtype)
    assert same(ref.numpy(), x.astype(np.float32))
    assert ref.raw() == x.tobytes()


def test_fortran_order_is_undone(tmp_path: Path) -> None:
    x = np.arange(24, dtype="<i4").reshape(2, 3, 4)
    ref = TensorRef(a_file(tmp_path, x.tobytes("F")), DTYPES["int32"], x.shape, fortran=True)
    assert np.array_equal(ref.numpy(), x)
    assert np.array_equal(np.concatenate(list(ref.blocks(5))), x.reshape(-1))
