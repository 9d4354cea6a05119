"""ONNX files larger than memory: read without the weights, written by streaming them from where they lie.

A model is parsed as a *skeleton*: the raw data of larger initializers stay in the file, and the skeleton has them as
external data whose location is the model file itself. So inner and external weights are one case, onnxruntime maps
both, and nobody holds them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, BinaryIO

from acccmp.core import reading
from acccmp.core.wire import (
    CutOff,
    Damaged,
    FileBytes,
    Payload,
    PayloadTable,
    TooLarge,
    bytes_field,
    bytes_head,
    thin,
)
from acccmp.core.writing import together
from acccmp.errors import FormatError, InputError

if TYPE_CHECKING:
    import onnx

INLINE = 1024  # bytes of raw data up to which an initializer is part of the skeleton
LARGEST_SKELETON = 1 << 30  # bytes; what is left of a model without its weights
LARGEST_FILE = 2_000_000_000  # protobuf ends at 2 GiB; beyond this, weights go to a file of their own
_CHUNK = 4 << 20

_GRAPH, _INITIALIZER, _RAW = 7, 5, 9  # onnx.proto: ModelProto.graph, GraphProto.initializer, TensorProto.raw_data
_PAYLOADS = PayloadTable({_GRAPH: PayloadTable({_INITIALIZER: PayloadTable({_RAW: None})})})


# -- reading -----------------------------------------------------------------------------------------------------


def read_skeleton(path: Path) -> onnx.ModelProto:
    """The model in `path` without the raw data of larger initializers.

    Raises FormatError when the file is cut off or damaged.
    """
    import onnx
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    is_named = _is_text(path) and _is_text(path.resolve())
    try:
        with reading.opened(path) as file:
            buffer = FileBytes(file)
            model.ParseFromString(thin(buffer, 0, len(buffer), _PAYLOADS, LARGEST_SKELETON))
            inside = 0
            for tensor in model.graph.initializer:
                if not tensor.HasField("raw_data"):
                    continue
                raw = Payload.of(tensor.raw_data)
                if raw.size > INLINE and is_named:
                    set_place(tensor, path.name, *raw)
                    continue
                inside += raw.size
                if inside > LARGEST_SKELETON:
                    raise TooLarge
                tensor.raw_data = buffer[raw.offset : raw.offset + raw.size]
    except CutOff as error:
        raise FormatError(
            f"{path}: an ONNX model that is cut off: a part of {error.need} bytes at offset {error.at} does not end "
            f"within its {os.path.getsize(path)} bytes; fetch or export it again"
        ) from None
    except TooLarge:
        raise FormatError(
            f"{path}: more than {LARGEST_SKELETON >> 20} MiB besides its initializers; export large constants as "
            "initializers"
        ) from None
    except (Damaged, DecodeError) as error:
        raise FormatError(f"{path}: an ONNX model that is damaged: {str(error).splitlines()[0]}") from None
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
    return model


def _is_text(path: Path) -> bool:
    """Can a model name this file as the place of its data? Protobuf's and onnxruntime's texts are UTF-8."""
    return str(path).encode("utf-8", "replace").decode() == str(path)


# -- where external data are -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Bytes of a file: `path`, `offset` and `size` (None: to its end)."""

    path: Path
    offset: int
    size: int | None


def is_external(tensor: onnx.TensorProto) -> bool:
    return int(tensor.data_location) == 1


def place_of(tensor: onnx.TensorProto, model: Path) -> Place:
    """Where the external data of a tensor of the model file `model` are.

    Raises FormatError for locations outside the model's folder and for numbers that are none.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    what = f"{model}: the external data of {tensor.name!r}"
    parts = PurePosixPath(location).parts
    if not location or "\0" in location or PurePosixPath(location).is_absolute() or ".." in parts or (
        PureWindowsPath(location).drive or "\\" in location
    ):
        raise FormatError(f"{what} lie at {location!r}, which is not a path inside the model's folder")
    path = model.parent / location
    if not reading.is_inside(path, model.parent, model.resolve().parent):
        raise FormatError(f"{what} lie at {location!r}, which leads out of the model's folder")
    if path.exists() and (wrong := reading.refusal(path)):
        raise FormatError(f"{what} lie at {location!r}, which {wrong}")
    try:
        offset, size = int(entries.get("offset") or 0), int(entries["length"]) if entries.get("length") else None
    except ValueError:
        raise FormatError(f"{what}: offset or length is not a number") from None
    if offset < 0 or (size is not None and size < 0):
        raise FormatError(f"{what}: offset {offset} and length {size} are not both positive")
    return Place(path, offset, size)


def set_place(tensor: onnx.TensorProto, location: str, offset: int, size: int) -> None:
    """Make the data of `tensor` external, at `location` relative to the model's folder."""
    del tensor.external_data[:]
    tensor.ClearField("raw_data")
    tensor.data_location = 1  # type: ignore[assignment]
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(size))):
        tensor.external_data.add(key=key, value=value)


def follow_links(model: onnx.ModelProto, source: Path) -> Path:
    """Point every external tensor of `model` (read from `source`) at the file that links lead to, and give the folder
    that these places are relative to; onnxruntime takes a link for an escape from the model's folder."""
    tensors = [t for t in (*_of_graph(model.graph), *_of_functions(model)) if is_external(t)]
    places = [place_of(tensor, source) for tensor in tensors]
    homes = {place.path.resolve().parent for place in places} | {source.resolve().parent}
    home = Path(os.path.commonpath(homes))
    for tensor, place in zip(tensors, places, strict=True):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = place.path.resolve().relative_to(home).as_posix()
    return home


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in the attributes of a node: the branches of an If, the body of a Loop."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _of_functions(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for function in model.functions:
        yield from _of_nodes(function.node)


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Any) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
        for body in bodies(node):
            yield from _of_graph(body)


# -- writing -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Copy:
    """A piece of a file that goes to byte `to` of the new data file."""

    place: Place
    size: int
    to: int


def write_model(model: onnx.ModelProto, source: Path, folder: Path, stem: str) -> list[Path]:
    """Write `model`, whose external data are relative to the model file `source`, as `<stem>.onnx` in `folder`.

    Weights that lay in the model file lie in the new one, unless that would pass 2 GB; external ones go to
    `<stem>.onnx.data`. All are copied in pieces. `model` is changed on the way. Files appear whole or not at all:
    raises FormatError when the source's data are missing, and InputError when the disk says no.
    """
    target, data = folder / f"{stem}.onnx", folder / f"{stem}.onnx.data"
    if target.resolve() == source.resolve():
        raise InputError(f"{target}: is the model that this one comes from; choose another folder or name")
    places = [place_of(t, source) if is_external(t) else None for t in model.graph.initializer]
    size = model.ByteSize() + sum(_length(place) for place in places if place is not None and place.path == source)
    inline = [place if size <= LARGEST_FILE and place and place.path == source else None for place in places]
    moved = [t for t, stays in zip(model.graph.initializer, inline, strict=True) if is_external(t) and not stays]
    moved += [t for t in _of_nodes(model.graph.node) if is_external(t)]
    moved += [t for t in _of_functions(model) if is_external(t)]
    copies: list[_Copy] = []
    end = 0
    for tensor in moved:
        place = place_of(tensor, source)
        length = _length(place)
        step = 4096 if length >= 1 << 20 else 64  # large ones can be mapped by pages
        to = -(-end // step) * step
        set_place(tensor, data.name, to, length)
        copies.append(_Copy(place, length, to))
        end = to + length
    with together() as result:
        if copies:
            file = result.file(data)
            for copy in copies:
                file.seek(copy.to)
                _stream(copy.place, copy.size, file)
        _write(model, result.file(target), inline)
    return [target, data] if copies else [target]


def _length(place: Place) -> int:
    if place.size is not None:
        return place.size
    try:
        return max(0, place.path.stat().st_size - place.offset)
    except OSError as error:
        raise FormatError(f"{place.path}: cannot be read: {error.strerror or error}") from error


def _write(model: onnx.ModelProto, file: BinaryIO, places: Sequence[Place | None]) -> None:
    """The model's bytes with the data of `places` in their initializers."""
    heads: list[tuple[bytes, Place | None]] = []
    for tensor, place in zip(model.graph.initializer, places, strict=True):
        if place is not None:
            del tensor.external_data[:]
            tensor.ClearField("data_location")
        body = tensor.SerializeToString(deterministic=True)
        if place is None:
            heads.append((bytes_field(_INITIALIZER, body), None))
        else:
            body += bytes_head(_RAW, _length(place))
            total = len(body) + _length(place)
            heads.append((bytes_head(_INITIALIZER, total) + body, place))
    del model.graph.initializer[:]
    graph = model.graph.SerializeToString(deterministic=True)
    model.ClearField("graph")
    file.write(model.SerializeToString(deterministic=True))
    size = len(graph) + sum(len(head) + (_length(place) if place else 0) for head, place in heads)
    file.write(bytes_head(_GRAPH, size) + graph)
    for head, place in heads:
        file.write(head)
        if place is not None:
            _stream(place, _length(place), file)


def _stream(place: Place, size: int, into: BinaryIO) -> None:
    with reading.opened(place.path) as source:
        source.seek(place.offset)
        left = size
        while left:
            piece = source.read(min(_CHUNK, left))
            if not piece:
                raise FormatError(f"{place.path}: {size} bytes are wanted at offset {place.offset}, {left} are missing")
            into.write(piece)
            left -= len(piece)
