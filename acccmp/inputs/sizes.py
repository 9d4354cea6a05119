"""Readings of data whose size does not fit: type, batch, picture size, device layout, padding, a header in front.

Each reading costs what it must assume; values that make no sense under its type cost most. The cheapest comes first.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from acccmp.core.graph import TensorSpec, shape_text
from acccmp.core.layout import PLAIN
from acccmp.core.tensor import DTYPES, DType, decode
from acccmp.dumps.arrays import NPY, NpyHeader, npy_told
from acccmp.errors import FormatError

MOST_READINGS = 6
ALIGNMENTS = (32, 64, 512)
_HEADERS = {64: "a header of 64 bytes", 80: "a header of 80 bytes", 96: "a header of 96 bytes",
            128: "an npy header of 128 bytes", 256: "a header of 256 bytes"}
# Types that data files have, and what each costs as an assumption when the model wants another.
_TYPE_COSTS = {"float32": 1.0, "float16": 1.2, "float64": 1.4, "uint8": 1.5, "int8": 2.0, "int32": 2.2, "int64": 2.2,
               "bfloat16": 2.5}
_ASPECTS = {(4, 3): 0.8, (16, 9): 0.8, (3, 2): 1.0, (2, 1): 1.0, (3, 4): 1.0, (9, 16): 1.0, (1, 2): 1.2}
# Bits of a type -> channels in a block of the device's layouts, and the cost of each.
_BLOCKS = {16: {16: 0.0, 4: 0.6}, 32: {16: 0.1, 8: 0.2, 4: 0.6}, 8: {32: 0.0, 4: 0.3}}
# Edges of pictures that detectors and classifiers are often made for.
_USUAL_EDGES = frozenset({
    112, 128, 160, 192, 224, 256, 299, 300, 320, 352, 384, 416, 448, 480, 512, 608, 640, 768, 1024,
})
_FAR = 8.0  # cost of values that make no sense at all


@dataclass(frozen=True)
class Reading:
    """One way to read the bytes: what they are then, as a sentence; its cost; and what is to be done.

    `shape` and `dtype` are those of the data under this reading. Costs only rank readings of one input.
    """

    what: str
    shape: tuple[int, ...]
    dtype: DType
    cost: float
    fix: str
    kind: str

    def __str__(self) -> str:
        return f"{self.what}; {self.fix}"


# -- npy headers -------------------------------------------------------------------------------------------------


def npy_header(sample: bytes, path: Path) -> NpyHeader | None:
    """What an npy file says about itself; None where the data are none."""
    return npy_told(str(path), io.BytesIO(sample), len(sample)) if sample.startswith(NPY) else None


# -- the size explainer ------------------------------------------------------------------------------------------


def explain_size(
    spec: TensorSpec, nbytes: int, sample: bytes = b"", *, original: TensorSpec | None = None,
    known: tuple[int, ...] | None = None,
) -> list[Reading]:
    """What `nbytes` bytes could be that do not fit the input `spec`: readings, likeliest first, at most six.

    `sample` is the beginning of the data: a type under which its values are not finite, huge or tiny is unlikely.
    `original` is the input of the model that was compiled: its sample shape is the likeliest. `known` is the shape that
    the file itself tells. An empty list when nothing fits, or when the type or the shape of the input are not known.
    """
    if spec.dtype is None or spec.shape is None or nbytes <= 0:
        return []
    shape = tuple(n if isinstance(n, int) else 1 for n in spec.shape)
    found: list[Reading] = []
    for cost, offset, prefix in _fronts(nbytes, sample):
        for dtype in _types(spec.dtype):
            bits = (nbytes - offset) * 8
            if bits <= 0 or bits % dtype.bits:
                continue
            count = bits // dtype.bits
            extra = cost + (0.0 if dtype is spec.dtype else _TYPE_COSTS.get(dtype.name, 3.0))
            extra += _strangeness(sample[offset:], dtype)
            for reading in _readings(spec, shape, dtype, count, original, known, behind=offset > 0):
                what = f"{reading.what}{prefix}"
                fix = reading.fix if not offset else f"{_without_header(offset, dtype)}, then: {reading.fix}"
                if offset and reading.kind == "same":
                    fix = _without_header(offset, dtype)
                found.append(replace(reading, what=what, fix=fix, cost=reading.cost + extra))
    found += _aligned(spec, shape, nbytes, sample)
    best: dict[tuple[int, tuple[int, ...]], Reading] = {}
    for reading in sorted(found, key=lambda r: r.cost):
        best.setdefault((reading.dtype.bits, reading.shape), reading)
    ranked = sorted(best.values(), key=lambda r: r.cost)
    return ranked[:MOST_READINGS]


def _types(wanted: DType) -> list[DType]:
    return [wanted, *(DTYPES[name] for name in _TYPE_COSTS if name != wanted.name)]


def _fronts(nbytes: int, sample: bytes) -> Iterator[tuple[float, int, str]]:
    """(cost, bytes in front of the data, what is said of them)."""
    try:
        held = npy_header(sample, Path("data"))
    except FormatError:
        held = None
    if held is not None:
        yield 0.0, held.start, f" behind an npy header of {held.start} bytes"
        return
    if len(sample) > 8:
        (length,) = struct.unpack_from("<Q", sample)
        if 16 < length + 8 < min(nbytes, 1 << 20) and sample[8:9] in (b"\x0a", b"\x10"):
            yield 0.5, length + 8, f" behind the header of a device dump ({length + 8} bytes)"
    yield 0.0, 0, ""
    for offset, what in _HEADERS.items():
        yield 3.5, offset, f" behind {what}"


def _strangeness(sample: bytes, dtype: DType) -> float:
    """How little the first values look like data: 0 for sensible ones or none, up to 8."""
    count = min(len(sample) * 8 // dtype.bits, 4096)
    if count < 16 or dtype.numpy is None:
        return 0.0
    with np.errstate(all="ignore"):
        values = decode(np.frombuffer(sample, np.uint8), dtype, count).astype(np.float64)
        size = np.abs(values)
        if dtype.kind != "float":
            return _FAR / 2 * float(np.mean(size > 1e7)) if dtype.bits >= 32 else 0.0
        odd = ~np.isfinite(values) | (size > 1e6) | ((size > 0) & (size < 1e-7))
    return _FAR * float(odd.mean())


def _readings(
    spec: TensorSpec, shape: tuple[int, ...], dtype: DType, count: int, original: TensorSpec | None,
    known: tuple[int, ...] | None, behind: bool,
) -> Iterator[Reading]:
    """Readings of `count` numbers of `dtype`; their costs leave the type and the header aside.

    `behind` a header that is only assumed, nothing but whole samples counts.
    """
    row = math.prod(shape[1:])
    if known is not None:
        yield Reading(samples_of(known, dtype), known, dtype, 0.0, _recompile(spec, known), "known")
        return
    if count == math.prod(shape):
        what = f"{shape_text(shape)} {dtype}" + ("" if dtype is spec.dtype else f", the model wants {spec.dtype}")
        yield Reading(what, shape, dtype, 0.0, _cast(dtype, spec.dtype), "same")
    theirs = _sample_shape(original)
    if theirs and count % math.prod(theirs) == 0 and theirs != shape[1:]:
        own = (count // math.prod(theirs), *theirs)
        yield Reading(samples_of(own, dtype), own, dtype, 0.2, _recompile(spec, own), "original")
    if len(shape) > 1 and row and count % row == 0 and count // row != shape[0]:
        own = (count // row, *shape[1:])
        yield Reading(samples_of(own, dtype), own, dtype, 0.5, _recompile(spec, own), "batch")
    if behind:
        return
    yield from _blocked(spec, shape, dtype, count)
    if len(shape) == 4:
        yield from _images(spec, shape, dtype, count)
    elif len(shape) > 1 and count % shape[0] == 0 and row:
        own = (shape[0], *shape[1:-1], count // math.prod(shape[:-1])) if count % math.prod(shape[:-1]) == 0 else ()
        if own and own != shape:
            yield Reading(samples_of(own, dtype), own, dtype, 3.0, _recompile(spec, own), "last")


def _sample_shape(spec: TensorSpec | None) -> tuple[int, ...]:
    """The shape of one sample: without the batch; () when it is not fixed."""
    if spec is None or spec.shape is None or len(spec.shape) < 2:
        return ()
    rest = spec.shape[1:]
    return tuple(n for n in rest if isinstance(n, int) and n > 0) if all(isinstance(n, int) for n in rest) else ()


def _blocked(spec: TensorSpec, shape: tuple[int, ...], dtype: DType, count: int) -> Iterator[Reading]:
    """The device's own layout: channels in blocks of C0, the last one padded."""
    if len(shape) != 4 or spec.layout not in (*PLAIN, None):
        return
    n, c, h, w = shape if spec.layout != "NHWC" else (shape[0], shape[3], shape[1], shape[2])
    for c0, cost in _BLOCKS.get(dtype.bits, {}).items():
        blocks = -(-c // c0)
        if c % c0 and n * blocks * h * w * c0 == count:
            own = (n, blocks, h, w, c0)
            fix = f"undo the layout: acccmp convert DATA -o OUT --layout {spec.layout or 'NCHW'}"
            padded = f"channels padded from {c} to {blocks * c0}"
            what = f"{shape_text(own)} {dtype} in the device's layout NC1HWC0 ({padded})"
            yield Reading(what, own, dtype, 0.6 + cost, fix, "layout")


def _images(spec: TensorSpec, shape: tuple[int, ...], dtype: DType, count: int) -> Iterator[Reading]:
    """The same channels with another image size: square ones first, and those as large as there are many."""
    last = spec.layout == "NHWC"
    channels = shape[3] if last else shape[1]
    if channels <= 0 or count % channels:
        return
    rest = count // channels
    for n in _divisors(rest):
        area = rest // n
        side = math.isqrt(area)
        if side * side == area and side >= 8:
            # Without other knowledge: batch and edges of like size, round numbers.
            spread = abs(math.log(n / side)) * 0.25
            roundness = 0.0 if side % 8 == 0 or side % 10 == 0 else 0.6
            usual = (1.4 if n == shape[0] else 0.0) + (0.4 if side in _USUAL_EDGES else 0.0)
            yield _image(spec, dtype, (n, channels, side, side), last, 2.5 + spread + roundness - usual)
        for (wide, high), cost in _ASPECTS.items():
            unit = math.isqrt(area // (wide * high)) if area % (wide * high) == 0 else 0
            if unit * unit * wide * high == area and unit * high >= 8:
                spread = abs(math.log(n / (unit * high))) * 0.25
                yield _image(spec, dtype, (n, channels, unit * high, unit * wide), last, 3.5 + cost + spread)


def _image(spec: TensorSpec, dtype: DType, nchw: tuple[int, int, int, int], last: bool, cost: float) -> Reading:
    n, c, h, w = nchw
    own = (n, h, w, c) if last else nchw
    return Reading(samples_of(own, dtype), own, dtype, cost, _recompile(spec, own), "image")


def _divisors(number: int) -> list[int]:
    """All divisors of a number, at most some thousand; numbers beyond 10^12 are not taken apart."""
    if not 0 < number <= 10**12:
        return []
    low = [n for n in range(1, math.isqrt(min(number, 10**12)) + 1) if number % n == 0]
    return sorted({*low, *(number // n for n in low)})


def _aligned(spec: TensorSpec, shape: tuple[int, ...], nbytes: int, sample: bytes) -> list[Reading]:
    """The right numbers with some bytes behind them that only fill up to a border."""
    assert spec.dtype is not None
    wanted = spec.dtype.nbytes(math.prod(shape))
    found = []
    for edge in ALIGNMENTS:
        full = -(-wanted // edge) * edge
        for size, what in ((full, f"padded to {edge} bytes"), (full + 32, f"padded to {edge} bytes, and 32 more")):
            if size == nbytes and size > wanted:
                fix = f"cut it: head -c {wanted} DATA > new.bin"
                cost = 0.8 + _strangeness(sample, spec.dtype)
                told = f"{shape_text(shape)} {spec.dtype}, {what}"
                found.append(Reading(told, shape, spec.dtype, cost, fix, "alignment"))
    return found[:1]


# -- words -------------------------------------------------------------------------------------------------------


def samples_of(shape: tuple[int, ...], dtype: DType) -> str:
    if len(shape) < 2:
        return f"{shape_text(shape)} {dtype}"
    return f"{shape[0]} sample{'s' if shape[0] != 1 else ''} of {shape_text(shape[1:])} {dtype}"


def _recompile(spec: TensorSpec, shape: tuple[int, ...]) -> str:
    return f'recompile with --input_shape="{spec.name.removesuffix(":0")}:{",".join(map(str, shape))}"'


def _cast(dtype: DType, wanted: DType | None) -> str:
    """A line of numpy that turns a file of one type into one of another."""
    if dtype.name == "bfloat16":
        read = '(np.fromfile("data.bin", "<u2").astype("<u4") << 16).view("<f4")'
    else:
        read = f'np.fromfile("data.bin", "{dtype}")'
    scaled = " (and is the scaling of pixel values missing?)" if dtype.name == "uint8" and wanted != dtype else ""
    return f'{read}.astype("{wanted}").tofile("new.bin"){scaled}'


def _without_header(offset: int, dtype: DType) -> str:
    if offset == 128:
        return 'take the header off: np.load("data.npy").tofile("new.bin")'
    return f'take the header off: np.fromfile("data.bin", "{dtype}", offset={offset}).tofile("new.bin")'
