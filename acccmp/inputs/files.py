"""What a model is fed with: files and arrays, checked against the model's inputs before anything runs."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from acccmp.core import reading
from acccmp.core.graph import Graph, TensorSpec, agrees, shape_text
from acccmp.core.tensor import TensorRef, dtype_of
from acccmp.dumps import arrays
from acccmp.errors import FormatError, InputError, UnknownName
from acccmp.models.load import MODEL
from acccmp.plugins import need

Array = NDArray[Any]
Feed = ArrayLike | os.PathLike[str]  # an array, or the path of a file
Inputs = Mapping[str, Feed] | Feed

_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"GIF8", b"II*\x00", b"MM\x00*", b"RIFF")
_CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}
_LARGEST_IMAGE = 1 << 28  # pixels
_LARGEST_RANDOM = 1 << 28  # numbers of a random input
_MOST_AXES = 64  # numpy's own limit


@dataclass(frozen=True, eq=False)
class Feeds:
    """Arrays by input name, where each came from, and what was done to them."""

    arrays: dict[str, Array]
    sources: dict[str, str]
    notes: tuple[str, ...] = ()


def by_name(graph: Graph, inputs: Inputs) -> Mapping[str, Feed]:
    """What was given, by the model's input names: as it is, or for its only input. InputError where it has others."""
    if isinstance(inputs, Mapping):
        return inputs
    if len(graph.inputs) != 1:
        raise InputError(f"{graph.name or 'the model'} has the inputs {', '.join(graph.inputs) or 'none'}: say which "
                         "one this is, as {NAME: array or file}")
    return {graph.inputs[0]: inputs}


def read_inputs(model: Graph | reading.FilePath, inputs: Inputs) -> dict[str, Array]:
    """Arrays for all inputs of a model (a Graph or a file), in their order, dtypes and shapes.

    `inputs` are arrays or files by the model's input names, or the only one. A file is npy, npz (its only member, or
    the one of the input's name), an image (pixel values 0 to 255 in the input's axis order, not scaled, never resized),
    or raw bytes of the input's dtype and shape, one unknown size being filled in from their number. Equal numbers of
    elements in another shape are reshaped; dtypes change only where every value survives.

    Raises InputError (no such file, missing input, another dtype or size), UnknownName, FormatError (damaged file),
    MissingExtra (images need Pillow).

    >>> image = acccmp.read_inputs("resnet.onnx", "inputs/image.npy")["image"]
    >>> image.shape, image.dtype
    ((4, 1, 8, 8), dtype('float32'))
    """
    return prepare(MODEL.of(model), inputs).arrays


def prepare(graph: Graph, inputs: Inputs) -> Feeds:
    """Arrays for all of `graph.inputs`, where each came from, and what was done to it; see `read_inputs`."""
    given = {_input_name(graph, name): value for name, value in by_name(graph, inputs).items()}
    missing = [name for name in graph.inputs if name not in given]
    if missing:
        wanted = "; ".join(f"{name}: {told(graph.spec(name))}" for name in missing[:5])
        raise InputError(f"{graph.name or 'the model'} also needs {wanted}")
    out = Feeds({}, {})
    notes: list[str] = []
    for name in graph.inputs:
        value, spec = given[name], graph.spec(name)
        _refuse_axes(name, spec)
        if isinstance(value, str | os.PathLike):
            array, told_of_file = _from_file(Path(value), name, spec)
            notes += told_of_file
            out.sources[name] = str(value)
        else:
            array = np.asarray(value)
            out.sources[name] = "<array>"
        out.arrays[name], told_of_shape = _fitted(array, name, spec, out.sources[name])
        notes += told_of_shape
    check_symbols(graph, out.arrays)
    return replace(out, notes=tuple(notes))


def fed(graph: Graph, inputs: Inputs) -> Feeds:
    """The same for a model that is run: files are read here, arrays are left to the runner, which may know more sizes
    than the model declares."""
    named = by_name(graph, inputs)
    if any(isinstance(value, str | os.PathLike) for value in named.values()):
        return prepare(graph, named)
    return Feeds({name: np.asarray(value) for name, value in named.items()}, dict.fromkeys(named, "<array>"))


def says_its_size(start: bytes, path: Path) -> bool:
    """Is it a file that says what it holds (a picture, an archive, a text), so that its own size tells nothing?"""
    return _is_image(start) or start.startswith(b"PK\x03\x04") or path.suffix == ".txt"


def read_one(path: Path, spec: TensorSpec) -> Array:
    """A file as the array of one input; see `prepare`, also for what is raised."""
    return _fitted(_from_file(path, spec.name, spec)[0], spec.name, spec, str(path))[0]


def told(spec: TensorSpec) -> str:
    """`float32 1x3x?x?`: what an input wants to be."""
    return f"{spec.dtype or 'any dtype'} {shape_text(spec.shape)}"


def _input_name(graph: Graph, name: str) -> str:
    if name in graph.inputs:
        return name
    if f"{name}:0" in graph.inputs:
        return f"{name}:0"
    if name == "" and len(graph.inputs) == 1:
        return graph.inputs[0]
    raise UnknownName("input", name, graph.inputs, graph.name or "the model")


# -- files -------------------------------------------------------------------------------------------------------


def _from_file(path: Path, name: str, spec: TensorSpec) -> tuple[Array, tuple[str, ...]]:
    if path.is_dir():
        raise InputError(f"{path}: is a folder, where a file for the input {name} is wanted")
    if not path.exists():
        raise InputError(f"{path}: no such file (for the input {name})")
    start = reading.first_bytes(path, 12)
    if start.startswith(b"\x93NUMPY"):
        return _numbers(arrays.read_npy(path), spec), ()
    if start.startswith(b"PK\x03\x04"):
        return _member(path, name, spec), ()
    if _is_image(start):
        return _image(path, name, spec)
    if path.suffix == ".txt":
        values: Array = arrays.read_txt(path).numpy()
        if spec.dtype is not None and spec.dtype.numpy is not None:
            values = values.astype(spec.dtype.numpy)
        return values, ()
    if path.suffix in (".npy", ".npz"):
        raise FormatError(f"{path}: is no {path.suffix[1:]} file, whatever its name says")
    return _raw(path, name, spec), ()


def _is_image(start: bytes) -> bool:
    return start.startswith(_IMAGES) and (not start.startswith(b"RIFF") or start[8:12] == b"WEBP")


def _numbers(ref: TensorRef, spec: TensorSpec) -> Array:
    """The array; bytes that numpy could not name (ml_dtypes saved as npy) are read as the input's dtype."""
    if ref.dtype.name == "undefined" and spec.dtype is not None and spec.dtype.numpy is not None:
        count = int(ref.count / spec.dtype.itemsize)
        return replace(ref, dtype=spec.dtype, shape=(count,)).numpy()
    return ref.numpy()


def _member(path: Path, name: str, spec: TensorSpec) -> Array:
    refs, wrong = arrays.read_npz(path)
    bare = name.removesuffix(":0")
    picked = next((key for key in (name, bare) if key in refs or key in wrong), None)
    if picked is None and len(refs) + len(wrong) == 1:
        picked = next(iter({**refs, **wrong}))
    if picked is None:
        raise InputError(f"{path}: has no member named {name}; it holds {', '.join(sorted({**refs, **wrong}))[:200]}")
    if picked in wrong:
        raise FormatError(wrong[picked])
    return _numbers(refs[picked], spec)


def _raw(path: Path, name: str, spec: TensorSpec) -> Array:
    size = path.stat().st_size
    if spec.dtype is None or spec.dtype.numpy is None or spec.shape is None:
        raise InputError(
            f"{path}: raw bytes cannot be read for the input {name} ({told(spec)}): its dtype or shape is not known; "
            "give it as npy"
        )
    count = size * 8 // spec.dtype.bits
    if spec.dtype.nbytes(count) != size:
        raise InputError(f"{path}: {size} bytes are no whole number of {spec.dtype} elements (the input {name})")
    shape = _filled(spec.shape, count)
    if shape is None:
        need = math.prod(dim for dim in spec.shape if isinstance(dim, int))
        wanted = f"{spec.dtype.nbytes(need)} bytes" if spec.is_static else f"a multiple of {spec.dtype.nbytes(need)}"
        more = "" if spec.is_static else "; where several sizes are open give it as npy"
        raise InputError(f"{path}: has {size} bytes, the input {name} ({told(spec)}) wants {wanted}{more}")
    return TensorRef(str(path), spec.dtype, shape).numpy()


def _filled(shape: Sequence[int | str | None], count: int) -> tuple[int, ...] | None:
    """The shape with its one open size filled in so that it has `count` elements; None if there is no such size."""
    known = math.prod(dim for dim in shape if isinstance(dim, int))
    openings = {dim if isinstance(dim, str) else index for index, dim in enumerate(shape) if not isinstance(dim, int)}
    times = sum(not isinstance(dim, int) for dim in shape)
    if not openings:
        return tuple(dim for dim in shape if isinstance(dim, int)) if known == count else None
    if len(openings) > 1 or known == 0 or count % known:
        return None
    size = round((count // known) ** (1 / times))
    if known * size**times != count:
        return None
    return tuple(dim if isinstance(dim, int) else size for dim in shape)


def _image(path: Path, name: str, spec: TensorSpec) -> tuple[Array, tuple[str, ...]]:
    """The pixels, and a note that says what was not done to them."""
    shape = spec.shape
    if shape is None or len(shape) not in (3, 4):
        raise InputError(f"{path}: an image, but the input {name} is {told(spec)}; give it as npy")
    axes = list(shape[-3:])
    first, last = axes[0] in _CHANNELS, axes[2] in _CHANNELS
    if spec.layout in ("NCHW", "NHWC"):
        first = spec.layout == "NCHW"
    elif first == last:
        raise InputError(f"{path}: an image, but which axis of the input {name} ({told(spec)}) the channels are on "
                         "is not clear; give it as npy")
    channels, height, width = (axes[0], axes[1], axes[2]) if first else (axes[2], axes[0], axes[1])
    if channels not in _CHANNELS:
        raise InputError(f"{path}: an image cannot have the {channels} channels of the input {name}; give it as npy")
    pillow = need("PIL.Image", "reading an image")
    try:
        with reading.opened(path) as file, pillow.open(file) as image:
            if image.width * image.height > _LARGEST_IMAGE:
                raise FormatError(f"{path}: an image of {image.width}x{image.height} pixels")
            pixels = np.asarray(image.convert(_CHANNELS[int(str(channels))]))
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        raise FormatError(f"{path}: a damaged image: {error}") from None
    if not agrees((height, width), pixels.shape[:2]):
        wanted = " and ".join(
            f"{size} pixels {what}" for what, size in (("wide", width), ("high", height)) if isinstance(size, int)
        )
        raise InputError(
            f"{path}: the image is {pixels.shape[1]} pixels wide and {pixels.shape[0]} high, the input {name} "
            f"({told(spec)}) wants {wanted}; resize it as your pre-processing does"
        )
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    values: Array = pixels.transpose(2, 0, 1) if first else pixels
    if len(shape) == 4:
        values = values[None]
    if spec.dtype is not None and spec.dtype.numpy is not None:
        if spec.dtype.name == "int8":
            raise InputError(f"{path}: pixel values 0 to 255 do not fit the int8 input {name}; give it as npy")
        values = values.astype(spec.dtype.numpy)
    order = f"{'NCHW' if first else 'NHWC'}, {_CHANNELS[int(str(channels))]} order"
    return np.asarray(values, order="C"), (
        f"{name}: the pixels of {path} as {order}, 0 to 255, neither scaled nor shifted",
    )


# -- fitting -----------------------------------------------------------------------------------------------------


def _fitted(array: Array, name: str, spec: TensorSpec, source: str) -> tuple[Array, tuple[str, ...]]:
    """The array in the input's dtype and shape, and a note where its own shape was another one."""
    array = _of_dtype(array, name, spec, source)
    shape = spec.shape
    if shape is None or agrees(shape, array.shape):
        return array, ()
    found = shape_text(array.shape)
    filled = _filled(shape, array.size)
    if filled is None or not array.size:
        raise InputError(f"{source}: has the shape {found} ({array.size} elements), the input {name} is {told(spec)}")
    return array.reshape(filled), (f"{name}: {source} has the shape {found} and is read as {shape_text(filled)}",)


def _of_dtype(array: Array, name: str, spec: TensorSpec, source: str) -> Array:
    wanted = spec.dtype
    if wanted is None or wanted.numpy is None:
        return array
    try:
        found = dtype_of(array.dtype.newbyteorder("<"))
    except (KeyError, TypeError):
        raise InputError(f"{source}: is {array.dtype}, the input {name} is {told(spec)}") from None
    if found == wanted or array.dtype == wanted.numpy:
        return array
    if found.numpy is not None and np.can_cast(found.numpy, wanted.numpy, "safe") and found.kind == wanted.kind:
        return array.astype(wanted.numpy)
    raise InputError(f"{source}: is {found}, the input {name} is {told(spec)}; convert it first")


def check_symbols(graph: Graph, feeds: Mapping[str, Array]) -> None:
    """Sizes of one symbolic name must be equal. Raises InputError."""
    sizes: dict[str, tuple[int, str]] = {}
    for name, array in feeds.items():
        for dim, size in zip(graph.spec(name).shape or (), array.shape, strict=False):
            if isinstance(dim, str) and sizes.setdefault(dim, (size, name))[0] != size:
                before, other = sizes[dim]
                raise InputError(f"the size {dim!r} is {before} in the input {other}, and {size} in {name}")


# -- random ------------------------------------------------------------------------------------------------------


def random_inputs(
    model: Graph | reading.FilePath, seed: int = 0, shapes: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Array]:
    """Seeded random arrays for all inputs of a model: normal for floats, 0 to 255 for uint8, 0 or 1 for other integers.

    Open sizes come from `shapes` (input name -> shape), else the first axis is 1, space is 64 and others are 16; sizes
    of one symbolic name are equal. Raises InputError for inputs whose rank or dtype is not known.

    >>> acccmp.random_inputs("resnet.onnx", seed=1)["image"].shape
    (1, 1, 8, 8)
    """
    graph = MODEL.of(model)
    chance = np.random.default_rng(seed)
    out = {}
    symbols: dict[str, int] = {}
    for name in graph.inputs:
        spec = graph.spec(name)
        _refuse_axes(name, spec)
        if spec.dtype is None or spec.dtype.numpy is None:
            raise InputError(f"no random input for {name}: its dtype is {spec.dtype or 'not known'}")
        if shapes and name in shapes:
            shape = tuple(int(n) for n in shapes[name])
            if not agrees(spec.shape, shape):
                raise InputError(f"the shape {list(shape)} does not fit the input {name}: {told(spec)}")
        elif spec.shape is None:
            raise InputError(f"no random input for {name}: its shape is not known; give one")
        else:
            shape = tuple(_size(dim, axis, len(spec.shape), symbols) for axis, dim in enumerate(spec.shape))
        if math.prod(shape) > _LARGEST_RANDOM:
            raise InputError(f"no random input for {name}: {told(spec)} has {math.prod(shape)} numbers; give a file")
        out[name] = _random(chance, spec, shape)
    return out


def _refuse_axes(name: str, spec: TensorSpec) -> None:
    if spec.shape is not None and len(spec.shape) > _MOST_AXES:
        raise InputError(f"the input {name} has {len(spec.shape)} axes; arrays here have at most {_MOST_AXES}")


def _size(dim: int | str | None, axis: int, rank: int, symbols: dict[str, int]) -> int:
    if isinstance(dim, int):
        return dim
    size = 1 if axis == 0 else 64 if rank >= 4 and axis >= rank - 2 else 16
    return size if dim is None else symbols.setdefault(dim, size)


def _random(chance: np.random.Generator, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    assert spec.dtype is not None
    row = spec.dtype
    if row.kind == "complex":
        return (chance.standard_normal(shape) + 1j * chance.standard_normal(shape)).astype(row.numpy)
    if row.kind == "float":
        values = chance.standard_normal(shape)
        if row.name not in ("float16", "float32", "float64"):  # what is stored narrowly must survive that
            values = np.round(values * 2) / 2
        return np.asarray(values, row.numpy)
    high = 256 if row.name == "uint8" else 2
    return np.asarray(chance.integers(0, high, shape), row.numpy)
