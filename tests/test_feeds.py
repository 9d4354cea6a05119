"""What a model is fed with: each kind of file, each kind of mistake."""

from __future__ import annotations

import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from acccmp.core.graph import Graph, TensorSpec
from acccmp.core.tensor import DTYPES
from acccmp.errors import FormatError, InputError, MissingExtra, UnknownName
from acccmp.inputs.files import prepare, random_inputs, read_inputs


def graph(**inputs: tuple) -> Graph:
    """A model with these inputs (dtype, shape[, layout]) and nothing else."""
    specs = {
        name: TensorSpec(name, DTYPES[what[0]] if what[0] else None, what[1], *what[2:])
        for name, what in inputs.items()
    }
    return Graph("net", "onnx", (), tuple(inputs), (), specs)


X = np.arange(24, dtype="f4").reshape(2, 3, 4)


def test_npy_npz_and_bin_give_the_same_array(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "one.npz", anything=X)
    np.savez_compressed(tmp_path / "many.npz", x=X, other=X[:1])
    X.tofile(tmp_path / "x.bin")
    X.tofile(tmp_path / "x.raw")
    net = graph(x=("float32", (2, 3, 4)))
    for file in ("x.npy", "one.npz", "many.npz", "x.bin", "x.raw"):
        read = read_inputs(net, {"x": tmp_path / file})["x"]
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, X)


@pytest.mark.parametrize(("shape", "seen"), [
    ((2, 3, 4), (2, 3, 4)), (("n", 3, 4), (2, 3, 4)), ((None, 12), (2, 12)), ((None,), (24,)), ((2, "w", 4), (2, 3, 4)),
    (("s", "s", 6), (2, 2, 6)),
])
def test_one_open_size_of_raw_bytes_is_filled_in(shape: tuple, seen: tuple, tmp_path: Path) -> None:
    X.tofile(tmp_path / "x.bin")
    read = read_inputs(graph(x=("float32", shape)), {"x": tmp_path / "x.bin"})["x"]
    np.testing.assert_array_equal(read, X.reshape(seen))


@pytest.mark.parametrize(("spec", "told"), [
    (("float32", (2, 3, 5)), "has 96 bytes, the input x .float32 2x3x5. wants 120 bytes"),
    (("float32", ("h", "w", 3)), "several sizes are open give it as npy"),
    (("float32", ("n", 5)), "wants a multiple of 20"),
    (("complex128", (7,)), "wants 112"),
    (("float32", None), "its dtype or shape is not known"),
    ((None, (24,)), "its dtype or shape is not known"),
])
def test_raw_bytes_that_do_not_fit_say_how_many_are_wanted(spec: tuple, told: str, tmp_path: Path) -> None:
    X.tofile(tmp_path / "x.bin")
    with pytest.raises(InputError, match=told):
        read_inputs(graph(x=spec), {"x": tmp_path / "x.bin"})


def test_the_stored_dtype_of_raw_bytes_is_the_models(tmp_path: Path) -> None:
    half = X.astype(ml_dtypes.bfloat16)
    (tmp_path / "x.bin").write_bytes(half.tobytes())
    np.testing.assert_array_equal(read_inputs(graph(x=("bfloat16", (2, 3, 4))), {"x": tmp_path / "x.bin"})["x"], X)
    np.save(tmp_path / "x.npy", half)  # numpy writes such types as plain bytes
    np.testing.assert_array_equal(read_inputs(graph(x=("bfloat16", (2, 3, 4))), {"x": tmp_path / "x.npy"})["x"], X)


def test_another_shape_of_as_many_elements_is_reshaped_and_said(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    feeds = prepare(graph(x=("float32", (1, 24))), {"x": tmp_path / "x.npy"})
    assert feeds.arrays["x"].shape == (1, 24)
    assert "2x3x4" in feeds.notes[0]
    assert feeds.sources["x"] == str(tmp_path / "x.npy")
    with pytest.raises(InputError, match=r"2x3x4 \(24 elements\), the input x is float32 1x25"):
        prepare(graph(x=("float32", (1, 25))), {"x": X})


@pytest.mark.parametrize(("given", "wanted", "fits"), [
    ("float16", "float32", True), ("int32", "int64", True), ("uint8", "int32", True), ("float32", "float32", True),
    ("float64", "float32", False), ("int64", "float32", False), ("uint8", "float32", False),
    ("float32", "int32", False),
    ("int64", "int32", False), ("bool", "float32", False), ("complex64", "float32", False),
])
def test_a_dtype_changes_only_where_every_value_survives(given: str, wanted: str, fits: bool) -> None:
    net = graph(x=(wanted, (2, 3, 4)))
    array = X.astype(given)
    if fits:
        read = read_inputs(net, {"x": array})["x"]
        assert read.dtype.name == wanted
        np.testing.assert_array_equal(read, array)
    else:
        with pytest.raises(InputError, match=f"is {given}, the input x is {wanted} 2x3x4; convert it first"):
            read_inputs(net, {"x": array})


def test_names_are_checked_with_close_matches() -> None:
    net = graph(image=("float32", (1,)), **{"scale:0": ("float32", ())})
    fed = read_inputs(net, {"scale": np.float32(2), "image": np.ones(1, "f4")})
    assert list(fed) == ["image", "scale:0"], "in the model's order"
    with pytest.raises(UnknownName, match="did you mean image"):
        read_inputs(net, {"imgae": X})
    with pytest.raises(InputError, match="also needs scale:0: float32 scalar"):
        read_inputs(net, {"image": np.ones(1, "f4")})
    with pytest.raises(InputError, match="no such file"):
        read_inputs(graph(x=("float32", (1,))), {"x": "nowhere.npy"})
    with pytest.raises(InputError, match="is a folder"):
        read_inputs(graph(x=("float32", (1,))), {"x": Path(__file__).parent})


def test_one_symbol_is_one_size() -> None:
    net = graph(a=("float32", ("n", 2)), b=("float32", ("n",)))
    with pytest.raises(InputError, match="'n' is 3 in the input a, and 4 in b"):
        read_inputs(net, {"a": np.ones((3, 2), "f4"), "b": np.ones(4, "f4")})


def test_archives_without_the_input_say_what_they_hold(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", left=X, right=X)
    with pytest.raises(InputError, match="holds left, right"):
        read_inputs(graph(x=("float32", None)), {"x": tmp_path / "a.npz"})


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_a_file_that_lies_about_its_kind(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(bytes(96))
    with pytest.raises(FormatError, match="whatever its name says"):
        read_inputs(graph(x=("float32", (24,))), {"x": tmp_path / name})


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object))
    with pytest.raises(FormatError, match="Python objects"):
        read_inputs(graph(x=("float32", (1,))), {"x": tmp_path / "x.npy"})


# -- images ------------------------------------------------------------------------------------------------------

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(PIXELS).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_an_image_is_laid_out_as_the_input_wants_it(photo: Path) -> None:
    chw = prepare(graph(x=("float32", (1, 3, 5, 7))), {"x": photo})
    np.testing.assert_array_equal(chw.arrays["x"], PIXELS.transpose(2, 0, 1)[None].astype("f4"))
    assert "NCHW" in chw.notes[0]
    assert "neither scaled nor shifted" in chw.notes[0]
    hwc = read_inputs(graph(x=("uint8", (None, None, None, 3))), {"x": photo})["x"]
    np.testing.assert_array_equal(hwc, PIXELS[None])
    bare = read_inputs(graph(x=("float16", (5, 7, 3))), {"x": photo})["x"]
    np.testing.assert_array_equal(bare, PIXELS.astype("f2"))
    told = read_inputs(graph(x=("float32", ("n", 3, "h", 3), "NCHW")), {"x": cropped(photo, 3)})["x"]
    assert told.shape == (1, 3, 5, 3)


def cropped(photo: Path, width: int) -> Path:
    cut = photo.with_name("cut.png")
    Image.fromarray(np.ascontiguousarray(PIXELS[:, :width])).save(cut)
    return cut


def test_a_grey_input_gets_a_grey_image(photo: Path) -> None:
    grey = read_inputs(graph(x=("float32", (1, 1, 5, 7))), {"x": photo})["x"]
    np.testing.assert_array_equal(grey[0, 0], np.asarray(Image.fromarray(PIXELS).convert("L")))


@pytest.mark.parametrize(("spec", "told"), [
    (("float32", (1, 3, 8, 7)), "5 high, the input x .float32 1x3x8x7. wants 7 pixels wide and 8 pixels high; resize"),
    (("float32", (1, 3, 5, 9)), "7 pixels wide"),
    (("float32", (1, 3, 5, 3)), "not clear"),
    (("float32", (1, 8, 5, 7)), "not clear"),
    (("float32", (1, 8, 5, 7), "NCHW"), "the 8 channels"),
    (("float32", (105,)), "give it as npy"),
    (("int8", (1, 3, 5, 7)), "do not fit the int8"),
])
def test_an_image_that_does_not_fit_is_never_bent(spec: tuple, told: str, photo: Path) -> None:
    with pytest.raises(InputError, match=told):
        read_inputs(graph(x=spec), {"x": photo})


def test_a_damaged_image_and_a_missing_pillow(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo.write_bytes(photo.read_bytes()[:60])
    with pytest.raises(FormatError, match="damaged image"):
        read_inputs(graph(x=("float32", (1, 3, 5, 7))), {"x": photo})
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingExtra, match="pip install"):
        read_inputs(graph(x=("float32", (1, 3, 5, 7))), {"x": photo})


# -- random ------------------------------------------------------------------------------------------------------


def test_random_inputs_depend_on_the_seed_alone() -> None:
    net = graph(
        x=("float32", ("n", 3, "h", "w")), y=("uint8", ("n", 2)), i=("int64", (5,)), s=("int64", ()),
        b=("bool", (None,)), c=("complex64", (2,)), h=("bfloat16", (9,)),
    )
    one, two, other = random_inputs(net, 7), random_inputs(net, 7), random_inputs(net, 8)
    assert {name: array.shape for name, array in one.items()} == {
        "x": (1, 3, 64, 64), "y": (1, 2), "i": (5,), "s": (), "b": (1,), "c": (2,), "h": (9,),
    }
    for name, array in one.items():
        np.testing.assert_array_equal(array, two[name])
    assert not np.array_equal(one["x"], other["x"])
    assert set(np.unique(one["i"])) <= {0, 1}
    assert abs(one["x"].mean()) < 0.05
    assert abs(one["x"].std() - 1) < 0.05
    np.testing.assert_array_equal(one["h"], one["h"].astype(ml_dtypes.bfloat16).astype("f4"))


def test_random_inputs_take_shapes_and_say_what_they_miss() -> None:
    net = graph(x=("float32", ("n", 3)))
    assert random_inputs(net, 0, {"x": (4, 3)})["x"].shape == (4, 3)
    with pytest.raises(InputError, match="does not fit"):
        random_inputs(net, 0, {"x": (4, 5)})
    with pytest.raises(InputError, match="shape is not known"):
        random_inputs(graph(x=("float32", None)))
    with pytest.raises(InputError, match="dtype is not known"):
        random_inputs(graph(x=(None, (3,))))
