"""run: a model and its inputs in, every tensor of every layer out, in memory or as a golden folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acccmp.core import reading
from acccmp.core.dump import Dump, Port, RunFacts
from acccmp.core.graph import Graph
from acccmp.core.progress import Progress, counted, no_progress
from acccmp.core.tensor import TensorRef, dtype_of
from acccmp.core.writing import remove, write_text
from acccmp.dumps import arrays
from acccmp.errors import FormatError, InputError
from acccmp.inputs.files import Feeds, Inputs, fed
from acccmp.kinds import all_kinds
from acccmp.models.load import MODEL
from acccmp.runners.runner import Captured, Runner, find_runner

# In a golden folder while it is being written: what the run is of, so that a run that died is gone on with.
STARTED = ".acccmp-run.json"
_LARGEST_MARK = 1 << 24  # bytes


def default_runner(graph: Graph) -> str:
    """The runner for a model's format. InputError for models that cannot run on this machine."""
    name = next((kind.runner for kind in all_kinds() if kind.name == graph.format), "")
    if not name:
        raise InputError(
            f"{graph.name or 'this'} is a model of format {graph.format!r}, which cannot run here; give the original "
            "model, or a golden dump that was made of it"
        )
    return name


def run(
    model: Graph | reading.FilePath, inputs: Inputs, *, weights: reading.FilePath | None = None,
    runner: str | None = None, wanted: Collection[str] | None = None,
) -> Dump:
    """Run a model and keep the tensors `wanted` (None: all) in memory, as a golden Dump in the order of execution.

    `model` is a Graph or a file, `weights` the caffemodel of a prototxt. `inputs` are arrays or files by the model's
    input names, or the only one (see `read_inputs`). `runner` is a row of the runners' table, by default that of the
    format; "command:TEMPLATE" calls a program (see `acccmp.runners.command`). Tensors have the dtypes that the model
    gives them, and its layout. Raises InputError, MissingExtra, RunError.

    >>> golden = acccmp.run("resnet.onnx", "inputs/image.npy")
    >>> golden
    Dump(32 tensors of 32 ops)
    >>> golden["prob:output:0"].numpy().argmax(axis=1)
    array([2, 0, 4, 9])
    """
    graph = MODEL.of(model, weights=weights)
    feeds = fed(graph, inputs)
    captured = runner_for(graph, runner).run(graph, feeds.arrays, wanted)
    return _dump(graph, captured, feeds)


def _dump(graph: Graph, captured: Captured, feeds: Feeds) -> Dump:
    where = f"<{captured.runner}>"
    return Dump(
        {port: TensorRef.of(array, _layout(graph, port, array), where) for port, array in captured.tensors.items()},
        kind="golden", model=graph.name, notes=(*graph.notes, *feeds.notes, *captured.notes),
        run=RunFacts(
            captured.runner, captured.version, outputs=_outputs(graph), tensors=_tensors(graph, captured),
            skipped=dict(captured.skipped),
        ),
    )


def runner_for(graph: Graph, runner: str | None = None) -> Runner:
    """What runs this model: the runner of this name, else that of its format. InputError when nothing here does."""
    return find_runner(runner or default_runner(graph))


def _outputs(graph: Graph) -> tuple[Port, ...]:
    return tuple(port for tensor in graph.outputs if (port := graph.producer(tensor)) is not None)


def _tensors(graph: Graph, captured: Captured) -> dict[Port, str]:
    return {port: graph.tensor(port) or port.node for port in captured.tensors}


def _layout(graph: Graph, port: Port, array: NDArray[Any]) -> str:
    spec = graph.spec(graph.tensor(port) or port.node)
    return spec.layout if spec.layout and spec.shape is not None and len(spec.shape) == array.ndim else "ND"


# -- golden folders ----------------------------------------------------------------------------------------------


def golden_run(
    model: Graph | reading.FilePath, inputs: Inputs, folder: reading.FilePath, *,
    weights: reading.FilePath | None = None, runner: str | None = None, wanted: Collection[str] | None = None,
    overwrite: bool = False, time_us: int | None = None, progress: Progress = no_progress,
) -> Dump:
    """`run`, with every tensor written as an npy file into a golden folder with a manifest; returns it as a Dump.

    A folder that holds this very run (same model by its bytes, inputs, runner and version) is used as it is when all
    hashes match; tensors that are missing or damaged are made again under their old names, and so is a run that died
    half-way. A folder that holds anything else is an InputError, unless `overwrite` removes the tensors of the other
    run. `time_us` is the time stamp of the file names (microseconds since 1970; now by default). Raises InputError,
    MissingExtra, RunError.

    >>> acccmp.golden_run("resnet.onnx", "inputs/image.npy", "my_golden")
    Dump(32 tensors of 32 ops from my_golden)
    """
    graph, folder = MODEL.of(model, weights=weights), Path(folder)
    feeds = fed(graph, inputs)
    about = _about(graph, feeds, runner or default_runner(graph), wanted)
    stamp, again = time_us, ""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file, where a folder for the golden dump is wanted")
    told = arrays.read_manifest(folder) if folder.is_dir() else None
    if told is not None:
        other = _difference(told, about, runner_for(graph, runner).version())
        if other and not overwrite:
            raise InputError(
                f"{folder}: holds the golden dump of {other}; choose another folder, or overwrite it with --force"
            )
        if other:
            _remove(folder, told)
        else:
            old = arrays.read_golden(folder)
            problems = arrays.check_golden(old)
            if not problems:
                return replace(old, notes=(*old.notes, f"{folder}: holds this run already and is used as it is"))
            stamp = told.get("time_us") if isinstance(told.get("time_us"), int) else stamp
            again = f"{folder}: {len(problems)} tensors were missing or damaged and are made again"
    elif folder.is_dir():
        stamp, again = _unfinished(folder, about, overwrite, stamp)
    return _write(graph, feeds, folder, runner, wanted, about, stamp, again, progress)


def _write(
    graph: Graph, feeds: Feeds, folder: Path, runner: str | None, wanted: Collection[str] | None,
    about: Mapping[str, Any], stamp: int | None, again: str, progress: Progress,
) -> Dump:
    import time

    progress(f"running {len(graph)} layers")
    captured = runner_for(graph, runner).run(graph, feeds.arrays, wanted)
    told = (*graph.notes, *feeds.notes, *captured.notes)
    stamp = time.time_ns() // 1000 if stamp is None else stamp
    write_text(folder / STARTED, json.dumps({**about, "time_us": stamp}))
    manifest = {
        **about, "runner": {"name": captured.runner, "version": captured.version}, "time_us": stamp,
        "outputs": [str(port) for port in _outputs(graph)], "skipped": dict(captured.skipped),
        "notes": list(told),
    }
    layouts = {port: _layout(graph, port, array) for port, array in captured.tensors.items()}
    tensors = counted(captured.tensors.items(), "writing", len(captured.tensors), progress)
    dump = arrays.write_golden(
        folder, tensors, manifest, tensor_names=_tensors(graph, captured), layouts=layouts, time_us=stamp,
    )
    remove(folder / STARTED)
    return replace(dump, notes=(*dump.notes, *told, *([again] if again else [])), model=graph.name)


def _about(graph: Graph, feeds: Feeds, runner: str, wanted: Collection[str] | None) -> dict[str, Any]:
    """What makes a run this run, as JSON."""
    return {
        "model": {
            "path": str(graph.path or ""), "name": graph.name, "format": graph.format, "nodes": len(graph.nodes),
            **_hashes(graph),
        },
        "asked": {"runner": runner, "wanted": None if wanted is None else sorted(wanted)},
        "inputs": {
            name: {
                "sha256": _hash(array), "shape": list(array.shape), "dtype": _dtype(array),
                "from": feeds.sources.get(name, "<array>"),
            }
            for name, array in feeds.arrays.items()
        },
    }


def _dtype(array: NDArray[Any]) -> str:
    try:
        return dtype_of(array.dtype).name
    except KeyError:
        return str(array.dtype)


def _hash(array: NDArray[Any]) -> str:
    raw = repr(array.tolist()).encode() if array.dtype.hasobject else np.asarray(array, order="C").tobytes()
    return hashlib.sha256(f"{array.dtype} {array.shape} ".encode() + raw).hexdigest()


def _hashes(graph: Graph) -> dict[str, Any]:
    """SHA-256 of the model's file, of each other file that holds weights, and of what part of the model this is."""
    part = hashlib.sha256()
    for node in graph.nodes:
        part.update(repr((node.name, node.op_type, node.inputs, node.outputs)).encode("utf-8", "surrogateescape"))
    part.update(repr((graph.inputs, graph.outputs)).encode("utf-8", "surrogateescape"))
    files = {Path(ref.path) for ref in graph.weights.values() if ref.path}
    more = sorted(path for path in files if path != graph.path and path.is_file())
    return {
        "sha256": "" if graph.path is None else _file_hash(graph.path), "part": part.hexdigest(),
        "weights": {path.name: arrays.sha256(path) for path in more},
    }


def _file_hash(path: Path) -> str:
    if not path.is_dir():
        return arrays.sha256(path) if path.is_file() else ""
    digest = hashlib.sha256()
    inside = (Path(entry.path) for _, entries in reading.walked(path, 8) for entry in entries if not entry.is_folder)
    for inner in sorted(inside):
        digest.update(f"{inner.relative_to(path)} {arrays.sha256(inner)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _difference(told: Mapping[str, Any], about: Mapping[str, Any], version: str) -> str:
    """In what another run differs from this one, by a runner of this version, in words; "" when it does not."""
    def entry(table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        found = table.get(key)
        return found if isinstance(found, Mapping) else {}

    theirs, ours = entry(told, "model"), entry(about, "model")
    if any(theirs.get(key) != ours[key] for key in ("sha256", "part", "weights")):
        return f"another model ({theirs.get('name', '?')}; this is {ours['name']})"
    for name in {**entry(told, "inputs"), **entry(about, "inputs")}:
        if entry(entry(told, "inputs"), name).get("sha256") != entry(entry(about, "inputs"), name).get("sha256"):
            return f"another input {name}"
    if told.get("asked") != about["asked"]:
        return "another runner, or another choice of tensors"
    made = entry(told, "runner")
    if made and version and not version.startswith(str(made.get("version"))):
        return f"{made.get('name')} {made.get('version')} (installed is {version})"
    return ""


def _unfinished(folder: Path, about: Mapping[str, Any], overwrite: bool, stamp: int | None) -> tuple[int | None, str]:
    """The time stamp to go on with in a folder without a manifest, and what to say about it."""
    entries = [entry for entry in reading.listed(folder) if not entry.name.startswith(".")]
    marker = folder / STARTED
    try:
        started = reading.parse_json(reading.read_bytes(marker, _LARGEST_MARK, folder), marker)
    except FormatError:
        started = None
    if isinstance(started, dict) and isinstance(started.get("time_us"), int):
        other = _difference(started, about, "")
        if not other:
            return started["time_us"], f"{folder}: a run that died half-way was made again"
        if not overwrite:
            raise InputError(f"{folder}: holds a run that died half-way, of {other}; choose another folder, or --force")
        for entry in entries:
            if not entry.is_folder and entry.name.endswith(".npy"):
                remove(folder / entry.name)
        return stamp, ""
    if entries and not overwrite:
        raise InputError(
            f"{folder}: holds {len(entries)} other files ({entries[0].name}, ...); choose an empty folder, or write "
            "beside them with --force"
        )
    return stamp, ""


def _remove(folder: Path, told: Mapping[str, Any]) -> None:
    """Remove the tensors that another run's manifest lists, and the manifest."""
    names = [row.get("file") for row in told["tensors"] if isinstance(row, Mapping)]
    for name in [*names, "mapping.csv", arrays.MANIFEST]:
        if isinstance(name, str) and name and os.path.basename(name) == name:
            remove(folder / name)

