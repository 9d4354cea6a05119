"""Before anything runs: does this input fit the model? And when its size is wrong: what are these bytes, likely?

The readings of data that does not fit are searched and ranked in `acccmp.inputs.sizes`; here they are told,
with the command that fixes the likeliest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from acccmp.core.graph import Graph, TensorSpec, agrees, shape_text
from acccmp.core.reading import first_bytes
from acccmp.core.tensor import DTYPES
from acccmp.dumps.arrays import NpyHeader
from acccmp.errors import AcccmpError, InputError
from acccmp.inputs.files import read_one, says_its_size
from acccmp.inputs.sizes import Reading, explain_size, npy_header

SAMPLE = 1 << 16  # bytes of the data that are looked at


@dataclass(frozen=True)
class Fit:
    """Does a piece of data fit an input? `lines` is what to tell the user; `readings` are ranked, likeliest first.

    `found` are the bytes of the data; None where those of the file say nothing about it (a picture, an archive).
    """

    name: str
    fits: bool
    wanted: int | None
    found: int | None
    lines: tuple[str, ...] = ()
    readings: tuple[Reading, ...] = ()

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


# -- does it fit -------------------------------------------------------------------------------------------------


def check_inputs(
    model: Graph, data: Mapping[str, str | Path | int], original: Graph | None = None,
) -> tuple[Fit, ...]:
    """Check every piece of data against the input of its name; `original` is the model that was compiled.

    Of a device model the sizes are those its user feeds: dynamic models take any of their gears. Raises InputError for
    names that the model does not have.
    """
    specs = {spec.name: spec for spec in input_specs(model)}
    mine = {spec.name: spec for spec in input_specs(original)} if original is not None else {}
    found = []
    for name, what in data.items():
        wanted = name if name in specs else next((key for key in specs if key.partition(":")[0] == name), None)
        if wanted is None:
            raise InputError(f"no input named {name!r} in {model.name}; it has {', '.join(specs) or 'none'}")
        shapes = [gear.inputs[wanted] for gear in model.io.gears if wanted in gear.inputs]
        fit = check_input(specs[wanted], what, original=mine.get(wanted), gears=shapes)
        found.append(fit if fit.fits else replace(fit, lines=(*fit.lines, *_aipp_advice(model, wanted))))
    return tuple(found)


def _aipp_advice(model: Graph, name: str) -> list[str]:
    """What is to be said of pre-processing that was compiled into the model."""
    for tensor in model.io.inputs:
        if tensor.name == name and tensor.aipp:
            takes = tensor.aipp.get("input_format")
            return [
                f"pre-processing is compiled into the model (AIPP, {tensor.aipp.get('mode')}"
                + (f", {takes}" if takes else "") + "): it takes raw pictures, not prepared numbers"
            ]
    return []


def input_specs(model: Graph) -> list[TensorSpec]:
    """The inputs as the user feeds them: of a device model without what is added for the device."""
    if not model.io.inputs:
        return [model.spec(name) for name in model.inputs]
    return [
        TensorSpec(
            t.name, t.dtype, None if t.shape is None else tuple(n if n >= 0 else None for n in t.shape), t.layout,
            nbytes=t.nbytes,
        ) for t in model.io.inputs
    ]


def check_input(
    spec: TensorSpec, data: str | Path | int, *, original: TensorSpec | None = None,
    gears: Sequence[tuple[int, ...]] = (),
) -> Fit:
    """Does `data` (a file, or a number of bytes) fit the input `spec`?

    An npy file is compared by its type and shape, a picture, an archive or a text by what is read out of it, anything
    else by its size. `original` is the same input of the model
    that was compiled, `gears` are the shapes a dynamic model was compiled for. Raises InputError for a missing file and
    FormatError for an npy file whose header is damaged.
    """
    held, sample, name = None, b"", ""
    if isinstance(data, int):
        nbytes = data
    else:
        path = Path(data)
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        nbytes, name = path.stat().st_size, path.name
        sample = first_bytes(path, SAMPLE)
        held = npy_header(sample, path)
        if held is None and says_its_size(sample, path):
            return _fit_read(spec, path)
    shapes = [shape for shape in gears if all(n >= 0 for n in shape)]
    if spec.is_static:
        shapes.append(_static(spec))
    if held is not None:
        return _fit_array(spec, held, name, shapes, nbytes, original)
    wanted = _wanted(spec)
    sizes = {spec.dtype.nbytes(math.prod(shape)): shape for shape in shapes} if spec.dtype else {}
    if wanted is not None:
        sizes.setdefault(wanted, _static(spec) if spec.is_static else ())
    if nbytes in sizes:
        how = f"{shape_text(sizes[nbytes])} {spec.dtype}" if sizes[nbytes] else f"{nbytes} bytes"
        return Fit(spec.name, True, nbytes, nbytes, (f"{spec.name}: fits: {how} ({nbytes} bytes)",))
    if not sizes and spec.shape is not None and spec.dtype is not None:
        return _fit_open(spec, nbytes, sample, original)
    if not sizes:
        told = f"{spec.name}: the model does not say what it wants here; the data has {nbytes} bytes"
        return Fit(spec.name, True, None, nbytes, (told,))
    readings = explain_size(spec, nbytes, sample, original=original)
    lines = _told(spec, nbytes, sizes, readings, original)
    return Fit(spec.name, False, wanted or min(sizes), nbytes, tuple(lines), tuple(readings))


def _fit_read(spec: TensorSpec, path: Path) -> Fit:
    try:
        array = read_one(path, spec)
    except AcccmpError as error:
        return Fit(spec.name, False, _wanted(spec), None, (f"{spec.name}: {error}",))
    told = f"{spec.name}: {path.name} holds {shape_text(array.shape)} {array.dtype}: fits"
    return Fit(spec.name, True, _wanted(spec), array.nbytes, (told,))


def _wanted(spec: TensorSpec) -> int | None:
    if spec.nbytes is not None:
        return spec.nbytes
    return spec.dtype.nbytes(math.prod(_static(spec))) if spec.is_static and spec.dtype is not None else None


def _static(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(n for n in spec.shape or () if isinstance(n, int))


def _fit_open(spec: TensorSpec, nbytes: int, sample: bytes, original: TensorSpec | None) -> Fit:
    """An input with open sizes: the data fits when it fills whole rows of what is fixed."""
    assert spec.dtype is not None
    row = spec.dtype.nbytes(math.prod(_static(spec)))
    open_sizes = sum(1 for n in spec.shape or () if not isinstance(n, int))
    shape = shape_text(spec.shape)
    if row and nbytes % row == 0 and nbytes:
        many = f"{nbytes // row} times {row} bytes" if open_sizes == 1 else f"{nbytes} bytes"
        return Fit(spec.name, True, None, nbytes, (f"{spec.name}: fits {shape} {spec.dtype}: {many}",))
    readings = explain_size(spec, nbytes, sample, original=original)
    lines = [f"{spec.name}: {nbytes} bytes do not fill {shape} {spec.dtype} (multiples of {row} bytes)"]
    return Fit(spec.name, False, None, nbytes, (*lines, *_listed(readings)), tuple(readings))


# -- npy files ----------------------------------------------------------------------------------------------------


def _fit_array(
    spec: TensorSpec, held: NpyHeader, name: str, shapes: Sequence[tuple[int, ...]], nbytes: int,
    original: TensorSpec | None,
) -> Fit:
    wanted = _wanted(spec)
    told = f"{spec.name}: {name} holds {shape_text(held.shape)} {held.descr}"
    matching = [shape for shape in shapes if shape == held.shape]
    if not shapes and agrees(spec.shape, held.shape):
        matching = [held.shape]
    same_count = [shape for shape in shapes if math.prod(shape) == math.prod(held.shape)]
    if held.row is not None and (spec.dtype is None or held.row is spec.dtype):
        if matching:
            return Fit(spec.name, True, wanted, nbytes, (f"{told}: fits",))
        if same_count:
            note = f"{told}: as many numbers as {shape_text(same_count[0])}; check that the order of the axes is right"
            return Fit(spec.name, True, wanted, nbytes, (note,))
    if matching or same_count:
        shape = (matching or same_count)[0]
        fix = f'np.save("new.npy", np.load("{name}").astype("{spec.dtype}"))'
        wants = f"{told}, the model wants {shape_text(shape)} {spec.dtype}: {fix}"
        return Fit(spec.name, False, wanted, nbytes, (wants,))
    dtype = held.row or DTYPES["float32"]
    readings = explain_size(
        replace(spec, dtype=dtype), dtype.nbytes(math.prod(held.shape)), b"", original=original, known=held.shape,
    )
    lines = [f"{told}, the model wants {shape_text(spec.shape)} {spec.dtype}"]
    return Fit(spec.name, False, wanted, nbytes, (*lines, *_listed(readings)), tuple(readings))


# -- words --------------------------------------------------------------------------------------------------------


def _told(
    spec: TensorSpec, nbytes: int, sizes: Mapping[int, tuple[int, ...]], readings: Sequence[Reading],
    original: TensorSpec | None,
) -> list[str]:
    wants = " or ".join(
        f"{shape_text(shape)} ({size} bytes)" if shape else f"{size} bytes" for size, shape in sizes.items()
    )
    wanted = next(iter(sizes))
    lines = [
        f"{spec.name}: the model was compiled for {wants} of {spec.dtype}; the data has {nbytes} bytes, "
        + _compared(nbytes, wanted),
        *_listed(readings),
    ]
    if not readings:
        return lines
    larger = [size for size in sizes if size > nbytes]
    if len(sizes) > 1 and larger:
        size = min(larger)
        lines.append(f"or fill it up with zeros to {shape_text(sizes[size])} ({size} bytes), the next size it takes")
    first = readings[0]
    if first.kind in ("batch", "image", "original", "last", "known"):
        lines += _batch_advice(spec, first, original)
    return lines


def _compared(nbytes: int, wanted: int) -> str:
    if abs(nbytes - wanted) < 4096:
        return f"{abs(nbytes - wanted)} {'more' if nbytes > wanted else 'fewer'}"
    return f"{nbytes / wanted:.4g} times that" if nbytes > wanted > 0 else f"{nbytes / max(wanted, 1):.2%} of that"


def _listed(readings: Sequence[Reading]) -> list[str]:
    if not readings:
        return ["no reading of the data fits this input: is it the right file?"]
    lines = [f"likely: {readings[0]}"]
    for place, reading in enumerate(readings[1:]):
        lines.append(f"{'or:    ' if not place else '       '} {reading}")
    return lines


def _batch_advice(spec: TensorSpec, first: Reading, original: TensorSpec | None) -> list[str]:
    lines = []
    if original is not None and original.is_static and _static(original) != first.shape:
        lines.append(
            f"the original model itself is fixed at {shape_text(original.shape)}: export it again at "
            f"{shape_text(first.shape)} (or with an open batch) first, then recompile"
        )
    if len(first.shape) > 1 and first.shape[0] != 1:
        name = spec.name.removesuffix(":0")
        rest = ",".join(map(str, first.shape[1:]))
        lines.append(
            "one batch that does not fit does not show the loader's batch size: check all batches, the last one may "
            "be short"
        )
        lines.append(
            f"alternatives: pad the last batch, or compile a dynamic batch: --input_shape=\"{name}:-1,{rest}\" "
            f'--dynamic_batch_size="1,{first.shape[0]}"'
        )
    return lines
