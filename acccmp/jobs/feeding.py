"""What a model is fed with: what was given, else what the device itself was fed with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from acccmp.core.dump import Dump, Port, flatten_name
from acccmp.core.graph import Graph
from acccmp.core.tensor import Array
from acccmp.errors import AcccmpError, FormatError, InputError, SliceError
from acccmp.inputs.files import Feeds, Inputs, by_name, prepare
from acccmp.mapping.device_map import DeviceMap
from acccmp.mapping.names import by_names
from acccmp.mapping.reading import dequantised, read_as
from acccmp.slicing.entrance import Entrance, find_entrance, misfit


def _feeds(
    graph: Graph, inputs: Inputs | None, npu: Dump, mapping: DeviceMap | None,
) -> tuple[Mapping[str, Array], list[str]]:
    if inputs is not None:
        fed = given_inputs(graph, inputs)
        return fed.arrays, list(fed.notes)
    return feeds_from_dump(graph, npu, mapping)


def given_inputs(graph: Graph, inputs: Inputs) -> Feeds:
    """The arrays or files given for the model's inputs, read and checked, with what is to be said of them.

    Raises InputError; where a file does not fit, the error says what its bytes likely are.
    """
    try:
        return prepare(graph, inputs)
    except (InputError, FormatError) as error:
        from acccmp.inputs.preflight import check_inputs

        named = by_name(graph, inputs).items()
        files = {name: Path(what) for name, what in named if isinstance(what, str | os.PathLike)}
        files = {name: path for name, path in files.items() if path.is_file()}
        try:
            bad = [fit for fit in check_inputs(graph, files) if not fit.fits and fit.found is not None]
        except AcccmpError:
            bad = []
        if not bad:
            raise
        told = "; ".join(line.strip() for line in bad[0].lines[:3])
        raise InputError(f"--input {bad[0].name}={files.get(bad[0].name, '')} does not fit: {told}") from error


def feeds_from_dump(graph: Graph, npu: Dump, mapping: DeviceMap | None = None) -> tuple[dict[str, Array], list[str]]:
    """Arrays for the model's inputs, taken from the device's dump, and what is to be said about that.

    The dumped model inputs are taken, or what an Aipp op made of them (pre-processing compiled in), or else the inputs
    of the first ops. Raises InputError with advice when an input was not dumped.
    """
    device = (mapping or by_names(npu, graph)).beside(graph)
    feeds: dict[str, Array] = {}
    sources: list[str] = []
    notes: list[str] = []
    missing: list[str] = []
    everything = {node.name for node in graph.nodes}
    for tensor in graph.inputs:
        at, spec = _aipp_port(tensor, npu, device), graph.spec(tensor)
        if at is not None:
            seen = read_as(npu[at], spec.shape, spec.layout, device.arrival(at))
            if seen.ref is None:
                raise SliceError(misfit(graph, tensor, npu[at], at))
            found = Entrance(at, seen.ref, None, seen.notes)
        else:
            search = find_entrance(graph, tensor, everything, npu, device, outputs_first=True)
            if search.entrance is None:
                missing.append(f"{tensor} ({'; '.join(search.reasons[:2])})" if search.reasons else tensor)
                continue
            found = search.entrance
        array, _ = dequantised(found.ref, spec, found.quantisation)
        if spec.dtype is not None and spec.dtype.numpy is not None and array.dtype != spec.dtype.numpy:
            array = array.astype(spec.dtype.numpy)
        feeds[tensor] = array
        sources.append(f"{tensor} from {found.at}")
        notes += [f"{tensor}: {note}" for note in found.notes]
    if missing:
        raise InputError(
            f"the dump at {npu.path} holds nothing to feed {', '.join(missing)} with; "
            "give the input that the device was fed with: --input NAME=FILE.npy"
        )
    return feeds, [
        f"the model was fed with the device's own dumped inputs ({', '.join(sources)}): "
        "faults of pre-processing stay invisible", *notes,
    ]


def _aipp_port(tensor: str, npu: Dump, device: DeviceMap) -> Port | None:
    """Output of the Aipp op that prepares this input on the device, if there is one and it was dumped."""
    for node in device.nodes:
        if node.op_type != "Aipp":
            continue
        fed_by = [device.graph.producer(t) for t in node.inputs if t]
        port = Port(node.name, "output", 0)
        if port in npu and any(p is not None and _same(p.node, tensor) for p in fed_by):
            return port
    return None


def _same(a: str, b: str) -> bool:
    return a == b or flatten_name(a) == flatten_name(b)
