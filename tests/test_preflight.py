"""Pre-flight: does an input fit, and what are the bytes likely when it does not."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import om_bytes as made
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acccmp.core.graph import Graph, TensorSpec
from acccmp.core.tensor import DTYPES
from acccmp.errors import FormatError, InputError
from acccmp.inputs.preflight import check_input, check_inputs, input_specs
from acccmp.inputs.sizes import explain_size
from acccmp.models import om
from acccmp.schemas import ge_pb2

F32, F16, U8 = DTYPES["float32"], DTYPES["float16"], DTYPES["uint8"]
CLASSIC = TensorSpec("input", F32, (2, 2, 2, 8192), "NCHW")
IMAGES = TensorSpec("images", F32, (1, 3, 224, 224), "NCHW")
SIZE = 3 * 224 * 224 * 4


def noise(dtype: str, count: int = 4096) -> bytes:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, count) if dtype == "u1" else rng.normal(size=count)
    return values.astype(dtype).tobytes()


def test_the_classic_case_reads_well() -> None:
    fit = check_input(CLASSIC, 8_000_000)
    assert not fit.fits
    assert (fit.wanted, fit.found) == (262_144, 8_000_000)
    lines = fit.text.splitlines()
    assert lines[0] == (
        "input: the model was compiled for 2x2x2x8192 (262144 bytes) of float32; the data has 8000000 bytes, "
        "30.52 times that"
    )
    assert lines[1] == (
        'likely: 100 samples of 2x100x100 float32; recompile with --input_shape="input:100,2,100,100"'
    )
    assert lines[2].startswith("or:     ")
    assert "check all batches, the last one may be short" in fit.text
    assert '--input_shape="input:-1,2,100,100" --dynamic_batch_size="1,100"' in fit.text
    assert len(fit.readings) == 6


def test_a_static_original_must_be_exported_again_first() -> None:
    original = TensorSpec("input", F32, (1, 2, 100, 100))
    fit = check_input(CLASSIC, 8_000_000, original=original)
    assert "100 samples of 2x100x100" in fit.lines[1]
    assert "fixed at 1x2x100x100: export it again at 100x2x100x100" in fit.text
    open_batch = TensorSpec("input", F32, ("n", 2, 100, 100))
    fit = check_input(CLASSIC, 8_000_000, original=open_batch)
    assert "100 samples of 2x100x100" in fit.lines[1]
    assert "export it again" not in fit.text


@pytest.mark.parametrize(("nbytes", "sample", "kind", "shape", "dtype", "fix"), [
    (SIZE * 8, b"", "batch", (8, 3, 224, 224), "float32", 'recompile with --input_shape="images:8,3,224,224"'),
    (SIZE // 2, noise("f2"), "same", (1, 3, 224, 224), "float16", "astype"),
    (SIZE // 4, noise("u1"), "same", (1, 3, 224, 224), "uint8", "pixel values"),
    (SIZE * 2, noise("f8"), "same", (1, 3, 224, 224), "float64", "astype"),
    (SIZE * 2, noise("f4"), "batch", (2, 3, 224, 224), "float32", "recompile"),
    (SIZE + 128, b"", "same", (1, 3, 224, 224), "float32", "header off"),
    (SIZE // 3 * 16 // 2, noise("f2"), "layout", (1, 1, 224, 224, 16), "float16", "--layout NCHW"),
    (SIZE // 3 * 16, noise("f4"), "layout", (1, 1, 224, 224, 16), "float32", "--layout NCHW"),
    (SIZE + 32, b"", "alignment", (1, 3, 224, 224), "float32", f"head -c {SIZE}"),
    (3 * 640 * 640 * 4, b"", "image", (1, 3, 640, 640), "float32", "recompile"),
])
def test_the_likeliest_reading_comes_first(
    nbytes: int, sample: bytes, kind: str, shape: tuple[int, ...], dtype: str, fix: str,
) -> None:
    first = explain_size(IMAGES, nbytes, sample)[0]
    assert (first.kind, first.shape, first.dtype.name) == (kind, shape, dtype)
    assert fix in first.fix


def test_padding_to_borders_is_told_for_sizes_that_are_not_round() -> None:
    spec = TensorSpec("x", F32, (1, 1001))
    for edge, size in ((32, 4032), (512, 4096)):
        first = explain_size(spec, size)[0]
        assert (first.kind, first.shape) == ("alignment", (1, 1001))
        assert f"padded to {edge} bytes" in first.what


def test_values_that_make_no_sense_move_a_reading_down() -> None:
    halves = noise("f2", 8192)
    ranked = [(r.dtype.name, r.kind) for r in explain_size(IMAGES, SIZE * 8, halves)]
    assert ranked[0] == ("float16", "batch")
    assert next((r.dtype.name, r.kind) for r in explain_size(IMAGES, SIZE * 8, noise("f4"))) == ("float32", "batch")


def test_an_npy_file_is_compared_by_what_it_says(tmp_path: Path) -> None:
    def fit(array: np.ndarray) -> tuple[bool, str]:
        np.save(tmp_path / "x.npy", array)
        found = check_input(IMAGES, tmp_path / "x.npy")
        return found.fits, found.text

    assert fit(np.zeros((1, 3, 224, 224), "f4"))[0]
    good, text = fit(np.zeros((1, 224, 224, 3), "f4"))
    assert good
    assert "order of the axes" in text
    good, text = fit(np.zeros((1, 3, 224, 224), "f2"))
    assert not good
    assert 'astype("float32")' in text
    good, text = fit(np.zeros((4, 3, 224, 224), "f4"))
    assert not good
    assert '--input_shape="images:4,3,224,224"' in text
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00\xff\xff{")
    with pytest.raises(FormatError, match="an npy header of"):
        check_input(IMAGES, tmp_path / "x.npy")


def test_raw_files_are_compared_by_size_and_npy_headers_given_raw_are_seen(tmp_path: Path) -> None:
    raw = tmp_path / "x.bin"
    raw.write_bytes(b"\0" * SIZE)
    assert check_input(IMAGES, raw).fits
    with pytest.raises(InputError, match="no such file"):
        check_input(IMAGES, tmp_path / "none.bin")
    header = struct.pack("<Q", 40) + b"\x0a\x03" + b"2.0" + b"\0" * 35
    first = explain_size(IMAGES, SIZE + 48, header + noise("f4"))[0]
    assert "header of a device dump (48 bytes)" in first.what


def test_a_real_model_tells_what_it_wants(shared: Path, tmp_path: Path) -> None:
    model = om.load(next((shared / "om").glob("*hh_om*")))
    good, short = tmp_path / "x.bin", tmp_path / "short.bin"
    good.write_bytes(b"\0" * 313600)
    short.write_bytes(b"\0" * 3136)
    assert check_inputs(model, {"input": good})[0].fits
    fit = check_inputs(model, {"input": short})[0]
    assert not fit.fits
    assert fit.readings[0].shape == (1, 784)
    assert [spec.nbytes for spec in input_specs(model)] == [313600]  # not the 313632 that the device reserves
    with pytest.raises(InputError, match="no input named 'images'"):
        check_inputs(model, {"images": good})


def test_a_dynamic_model_takes_any_of_its_gears(tmp_path: Path) -> None:
    path = tmp_path / "net.om"
    made.om2(path, b"\0" * 8, {"x": {}})
    model = om.load(path)
    for batch in (1, 4):
        assert check_inputs(model, {"x": batch * 3 * 8 * 8 * 4})[0].fits
    fit = check_inputs(model, {"x": 3 * 3 * 8 * 8 * 4})[0]
    assert not fit.fits
    assert "1x3x8x8 (768 bytes) or 4x3x8x8 (3072 bytes)" in fit.lines[0]
    assert "fill it up with zeros to 4x3x8x8 (3072 bytes)" in fit.text


def test_a_model_with_pre_processing_compiled_in_wants_raw_pictures(tmp_path: Path) -> None:
    model = ge_pb2.ModelDef(name="net")
    desc = (4, "NHWC", [1, 224, 224, 3])
    made.add_op(model.graph.add(name="g"), "x", "Data", [""], out=[desc], takes=[desc], index=0,
                aipp={"aipp_mode": 1, "input_format": 3})
    path = tmp_path / "net.om"
    path.write_bytes(made.om((0, model.SerializeToString())))
    fit = check_inputs(om.load(path), {"x": 224 * 224 * 3 * 4})[0]
    assert not fit.fits
    assert "AIPP, static, RGB888_U8): it takes raw pictures" in fit.text


def test_open_sizes_must_be_filled() -> None:
    model = Graph("net", "onnx", (), ("x",), tensors={"x": TensorSpec("x", F32, ("n", 3, 8, 8))})
    assert check_inputs(model, {"x": 768 * 7})[0].fits
    fit = check_inputs(model, {"x": 1000})[0]
    assert not fit.fits
    assert "multiples of 768 bytes" in fit.text
    assert check_input(TensorSpec("y"), 12).fits  # nothing is known: nothing is wrong


def test_hopeless_sizes_say_so() -> None:
    fit = check_input(IMAGES, 7)
    assert fit.readings == ()
    assert "is it the right file?" in fit.text
    assert explain_size(IMAGES, 0) == []
    assert explain_size(TensorSpec("x"), 100) == []


@given(st.tuples(*[st.integers(1, 40)] * 4), st.integers(2, 60), st.sampled_from(["float32", "float16", "uint8"]))
def test_a_batch_of_whole_samples_is_always_among_the_readings(
    shape: tuple[int, ...], batch: int, dtype: str,
) -> None:
    spec = TensorSpec("x", DTYPES[dtype], shape, "NCHW")
    size = DTYPES[dtype].nbytes(math.prod(shape[1:]) * batch)
    if batch == shape[0]:
        assert check_input(spec, size).fits
        return
    readings = explain_size(spec, size)
    assert any(r.shape == (batch, *shape[1:]) and r.dtype.name == dtype for r in readings)


@given(st.integers(1, 1 << 40), st.binary(max_size=200))
def test_no_size_and_no_sample_makes_it_stumble(nbytes: int, sample: bytes) -> None:
    readings = explain_size(CLASSIC, nbytes, sample)
    assert len(readings) <= 6
    assert [r.cost for r in readings] == sorted(r.cost for r in readings)
    assert all(r.kind in ("layout", "alignment", "same") or "recompile" in r.fix for r in readings)
