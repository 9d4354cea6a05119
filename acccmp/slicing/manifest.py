"""What a written slice says of itself: the dataclasses of its manifest, to JSON and back.

The keys of the JSON are the names of the fields. Numbers that JSON has not are told as in a report: NaN is null,
infinities are texts.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from acccmp.core.dump import Port
from acccmp.core.reading import parse_json
from acccmp.core.tensor import DTYPES
from acccmp.errors import FormatError
from acccmp.mapping.trace import Quantisation
from acccmp.reports.pair import BAD, Verdict
from acccmp.reports.report import Comparison
from acccmp.reports.report_json import number_of, number_to_json, row_of, row_to_json

SCHEMA = "acccmp.slice/2"
MOST_AXES = 64


# -- what was proven ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SelfTest:
    """Does the slice give what the full model gives, fed with the full model's own tensors at its boundary?

    `outputs` are the slice's outputs against the full model's, each with the limit that it had to keep. It passes only
    when every output was compared and matches. "not runnable" and "skipped" say why in `reason`, and name the layer or
    the missing extra.
    """

    status: Literal["passed", "FAILED", "not runnable", "skipped"]
    reason: str = ""
    outputs: tuple[Comparison, ...] = ()

    @property
    def holds(self) -> bool:
        return self.status == "passed"

    @property
    def exit_code(self) -> int:
        """0 proven, 1 it does not hold, 3 nothing is proven."""
        return {"passed": 0, "FAILED": 1}.get(self.status, 3)


@dataclass(frozen=True)
class DeviceSide:
    """What the device gave at the end of the slice, against the slice run here on the device's own inputs.

    `outputs` are judged as in any comparison; those that could not be run here have only their limit. `totals` are the
    outputs' errors against the full model: what the device inherited is part of them. `reason`: why nothing was judged.
    """

    outputs: tuple[Comparison, ...] = ()
    totals: Mapping[Port, float] = field(default_factory=dict)
    reason: str = ""

    @property
    def status(self) -> Literal["agrees", "DIFFERS", "not judged"]:
        """It agrees when every output was judged and matches."""
        if any(row.verdict in BAD for row in self.outputs):
            return "DIFFERS"
        if self.outputs and all(row.verdict is Verdict.MATCH for row in self.outputs):
            return "agrees"
        return "not judged"

    @property
    def why(self) -> str:
        """Why nothing is known; "" when every output was judged."""
        rows = (f"{row.port}: {row.reason}" for row in self.outputs if not row.is_judged)
        return self.reason or "; ".join(rows)


# -- what was written --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """A file of the folder: its place in it, its size and its hash."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class AsDumped(Written):
    """The very bytes that the device dumped, and how they are to be read."""

    dtype: str
    layout: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Raw(Written):
    """What the device is fed with; `inf` and `subnormal` count what the cast to `dtype` made."""

    dtype: str
    inf: int
    subnormal: int


@dataclass(frozen=True)
class End:
    """A tensor at an end of the slice: `tensor` and `port` are its true names in the original.

    `is_quantised`: the device holds integer codes where the model has floats; `quantisation` turns them back.
    """

    order: int
    tensor: str
    port: Port
    layout: str | None
    shape: tuple[int | str | None, ...] | None
    dtype: str | None
    golden: Written | None
    is_quantised: bool
    quantisation: Quantisation | None


@dataclass(frozen=True)
class Input(End):
    """`name` is what the input is called in the sub-model's file, `layer` what makes it there (an Input layer, a
    Placeholder; for ONNX the name again). `taken_from` is the device's port, `npy` the tensor in the model's own shape
    and dtype, `bin` what the device is fed with."""

    name: str
    layer: str
    taken_from: Port | None
    dumped_file: str
    dumped: AsDumped | None
    npy: Written | None
    bin: Raw | None


@dataclass(frozen=True)
class Output(End):
    """`golden` and `npu` are what the original and the device gave."""

    npu: Written | None


@dataclass(frozen=True)
class DumpFile:
    """A copied dump file: of an op inside the slice or of one that feeds it; `damaged` says why it cannot be read."""

    file: str
    op: str
    role: Literal["inside", "feeds"]
    damaged: str = ""


@dataclass(frozen=True)
class Model:
    """The full model."""

    name: str
    format: str
    path: str
    sha256: str


@dataclass(frozen=True)
class Part:
    """The sub-model."""

    format: str
    files: tuple[Written, ...]
    start: tuple[str, ...]
    end: tuple[str, ...]
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """All that a slice's folder says of itself.

    `golden_from` tells what the full model was fed with, `floors` what storage in `precision` alone does to the full
    model's tensors on that input. `atc` is the command that converts the slice, "" where `no_atc` says why there is
    none.
    """

    made: str
    model: Model
    slice: Part
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    golden_from: str
    precision: str
    floors: Mapping[Port, float] = field(repr=False)
    mapping: str | None
    device_ops: tuple[str, ...]
    dump: str | None
    dump_data: tuple[DumpFile, ...]
    atc: str
    no_atc: str
    self_test: SelfTest
    device: DeviceSide
    log: tuple[str, ...] = field(repr=False)

    def as_json(self) -> dict[str, Any]:
        """For `json.dumps`; `device` has its `status` too, for readers without acccmp."""
        told = {"schema": SCHEMA, **_told(self)}
        told["device"]["status"] = self.device.status
        return told

    @classmethod
    def of(cls, text: bytes, where: str) -> Manifest | None:
        """The manifest that `as_json` gave; None for JSON of another kind. FormatError where it is damaged."""
        found = parse_json(text, where)
        schema = found.get("schema") if isinstance(found, dict) else None
        if not str(schema).startswith("acccmp.slice/"):
            return None
        if schema != SCHEMA:
            raise FormatError(f"{where}: of schema {schema!r}, this version reads {SCHEMA!r}; write the slice again")
        try:
            manifest: Manifest = _read(cls, found, where)
        except FormatError as error:
            raise FormatError(f"{error}; write the slice again") from None
        for end in manifest.inputs:
            _check(end, f"{where}: the input {end.order}")
        return manifest


def _check(end: Input, where: str) -> None:
    if end.bin is not None and end.bin.dtype not in DTYPES:
        raise FormatError(f"{where} is of an unknown dtype {end.bin.dtype!r:.40}; write the slice again")
    sizes = [dim for dim in end.shape or () if isinstance(dim, int)]
    if len(end.shape or ()) > MOST_AXES or any(not 0 <= size < 1 << 63 for size in sizes):
        raise FormatError(f"{where} has no shape of a tensor; write the slice again")


# -- dataclasses and JSON ----------------------------------------------------------------------------------------


def _told(value: Any) -> Any:
    if isinstance(value, Comparison):
        return row_to_json(value)
    if isinstance(value, Port):
        return str(value)
    if is_dataclass(value):
        return {item.name: _told(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _told(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_told(item) for item in value]
    return number_to_json(value) if isinstance(value, float) else value


def _read(kind: Any, value: Any, where: str) -> Any:
    """`value`, as JSON has it, as a `kind`: a dataclass, a tuple, a mapping, a choice, a plain value."""
    origin, choices = get_origin(kind), get_args(kind)
    if kind is Comparison:
        return row_of(value, where)
    if origin is types.UnionType:
        fitting = [one for one in choices if one is not types.NoneType and _is_like(one, value)]
        return None if value is None and types.NoneType in choices else _read((fitting or choices)[0], value, where)
    if not _is_like(kind, value) or (origin is Literal and value not in choices):
        raise FormatError(f"{where} is not as it should be: {value!r:.60}")
    if kind is float:
        return number_of(value, where)
    if kind is Port:
        try:
            return Port.parse(value)
        except ValueError as error:
            raise FormatError(f"{where}: {error}") from None
    if origin is tuple:
        return tuple(_read(choices[0], item, f"{where}[{place}]") for place, item in enumerate(value))
    if origin is Mapping:
        key_kind, item_kind = choices
        return {_read(key_kind, key, where): _read(item_kind, item, f"{where}: {key}") for key, item in value.items()}
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind)
        lost = next((item.name for item in fields(kind) if item.name not in value), None)
        if lost is not None:
            raise FormatError(f"{where}: {lost} is missing")
        return kind(**{item.name: _read(hints[item.name], value[item.name], f"{where}: {item.name}")
                       for item in fields(kind)})
    return value


def _is_like(kind: Any, value: Any) -> bool:
    """Has JSON such a value for this kind?"""
    if kind is float:
        return value is None or isinstance(value, int | float | str)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if is_dataclass(kind) or get_origin(kind) is Mapping:
        return isinstance(value, dict)
    if get_origin(kind) is tuple:
        return isinstance(value, list)
    return isinstance(value, kind if kind in (bool, str) else str)
