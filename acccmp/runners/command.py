"""Your own command as a runner: it is given the model and the inputs as files, and writes npy files into a folder."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acccmp.core.dump import Dump, Port, flatten_name
from acccmp.core.graph import Graph
from acccmp.core.reading import is_number, walked
from acccmp.core.writing import make_folder, scratch, write_text
from acccmp.dumps import arrays
from acccmp.errors import FormatError, InputError, RunError
from acccmp.kinds import find_kind
from acccmp.runners.runner import Captured, asked, check_names

TIMEOUT = 3600.0  # seconds
_LONGEST_NAME = 150
_PLACES = ("{model}", "{weights}", "{inputs}", "{output}")


@dataclass(frozen=True)
class Command:
    """The `Runner` that calls `template`, a command line, and captures the tensors that it writes.

    In the template `{model}` stands for the model's file (written anew in its own format), `{weights}` for a second
    file where the format has one, `{inputs}` for a folder with one npy file for each input and `inputs.json` (input
    name -> file), `{output}` for an empty folder. The command writes npy files there, named by tensor, by node, or as
    golden dumps are (`<node>.<index>.<time>.npy`); `/` and `.` may be flattened to `_`; or a golden folder with our
    manifest. No shell is used. Files that belong to no tensor are a note; tensors that were not written are `skipped`.
    Raises InputError for a template that is none, and RunError when the command fails, takes longer than `timeout`
    seconds, or writes nothing.
    """

    template: str
    timeout: float = TIMEOUT

    def version(self) -> str:
        return _words(self.template)[0]

    def run(
        self, graph: Graph, inputs: Mapping[str, NDArray[Any]], wanted: Collection[str] | None = None,
    ) -> Captured:
        words = _words(self.template)
        check_names(graph, inputs, wanted)
        return _run(graph, inputs, wanted, words, self.timeout)


def _run(
    graph: Graph, inputs: Mapping[str, NDArray[Any]], wanted: Collection[str] | None, words: list[str], timeout: float,
) -> Captured:
    with scratch() as folder:
        output = folder / "output"
        make_folder(output)
        filled = {"{inputs}": str(_write_inputs(folder / "inputs", inputs)), "{output}": str(output)}
        if any("{model}" in word or "{weights}" in word for word in words):
            files = find_kind(graph.format).function("save")(graph, folder / "model", "model")
            filled["{model}"] = str(files[0])
            filled["{weights}"] = str(files[1]) if len(files) > 1 else ""
        _call([_fill(word, filled) for word in words], timeout)
        tensors, notes = _collect(graph, output, inputs, wanted)
    skipped = {
        tensor: "the command did not write it" for tensor in asked(graph, wanted)
        if graph.producer(tensor) not in tensors
    }
    return Captured(tensors, "command", words[0], skipped, tuple(notes))


def _words(template: str) -> list[str]:
    try:
        words = shlex.split(template)
    except ValueError as error:
        raise InputError(f"the command {template!r} is not a command line: {error}") from None
    if not words or not any("{output}" in word for word in words):
        raise InputError(
            f"the command {template!r} does not say where its npy files go; an example: "
            "--runner 'command:python infer.py {model} {inputs} {output}'"
        )
    return words


def _fill(word: str, filled: Mapping[str, str]) -> str:
    for place in _PLACES:
        word = word.replace(place, filled.get(place, ""))
    return word


def _call(words: list[str], timeout: float) -> None:
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=timeout, check=False,
        )
    except subprocess.TimeoutExpired:
        raise RunError(f"the command {words[0]} was stopped after {timeout:g} seconds") from None
    except OSError as error:
        raise RunError(f"the command {words[0]} cannot be started: {error.strerror or error}") from error
    if done.returncode:
        lines = done.stdout.decode("utf-8", "replace").strip().splitlines() or ["it said nothing"]
        raise RunError(f"the command {words[0]} ended with exit code {done.returncode}: {lines[-1][:300]}")


def _write_inputs(folder: Path, inputs: Mapping[str, NDArray[Any]]) -> Path:
    table = {}
    for index, (name, array) in enumerate(inputs.items()):
        safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:_LONGEST_NAME]
        table[name] = f"{index}_{safe}.npy"
        arrays.write_npy(folder / table[name], np.asarray(array))
    write_text(folder / "inputs.json", json.dumps(table, indent=1))
    return folder


# -- what it wrote -----------------------------------------------------------------------------------------------


def _collect(
    graph: Graph, output: Path, inputs: Mapping[str, NDArray[Any]], wanted: Collection[str] | None,
) -> tuple[dict[Port, NDArray[Any]], list[str]]:
    ports = {port: None for tensor in asked(graph, wanted) if (port := graph.producer(tensor)) is not None}
    found: dict[Port, NDArray[Any]] = {}
    strange: list[str] = []
    table = _ports(graph)
    for names, read in _written(output):
        port = next((table[key] for name in names for key in (name, flatten_name(name)) if key in table), None)
        if port is None:
            strange.append(names[0])
        elif port in ports:
            found[port] = read
    if not found and not strange:
        raise RunError("the command wrote no npy files into the folder {output}")
    if not found:
        raise RunError(f"the command wrote {len(strange)} npy files, of which none is named after a tensor or node of "
                       f"{graph.name}: {', '.join(strange[:3])}")
    tensors = {Port(name, "output", 0): np.asarray(array) for name, array in inputs.items()}
    tensors = {graph.producer(port.node) or port: array for port, array in tensors.items()}
    tensors.update({port: found[port] for port in ports if port in found})
    notes = [f"{len(strange)} files of the command belong to no tensor: {', '.join(strange[:3])}"] if strange else []
    return tensors, notes


def _written(output: Path) -> Iterator[tuple[list[str], NDArray[Any]]]:
    """The names that each array may go by, most exact first, and the array."""
    if arrays.read_manifest(output) is not None:
        dump: Dump = arrays.read_golden(output)
        for port, ref in dump.items():
            yield [str(port)], ref.numpy()
        return
    written = (Path(entry.path) for _, entries in walked(output, 8) for entry in entries if not entry.is_folder)
    for path in sorted(path for path in written if path.suffix == ".npy"):
        try:
            array = arrays.read_npy(path, output).numpy()
        except FormatError as error:
            raise RunError(f"the command wrote a damaged file: {error}") from error
        stem = str(path.relative_to(output))[: -len(".npy")]
        parts = stem.rsplit(".", 2)
        vendor = len(parts) == 3 and is_number(parts[1]) and is_number(parts[2])
        yield [stem, *([f"{parts[0]}:output:{parts[1]}"] if vendor else [])], array


def _ports(graph: Graph) -> dict[str, Port]:
    """What a file may be named after: a tensor, a port, a node (its first output); then the same names flattened."""
    exact: dict[str, Port] = {}
    for node in graph.nodes:
        for index, tensor in enumerate(node.outputs):
            if tensor:
                port = Port(node.name, "output", index)
                exact.setdefault(tensor, port)
                exact.setdefault(str(port), port)
    for node in graph.nodes:
        if node.outputs and node.outputs[0]:
            exact.setdefault(node.name, Port(node.name, "output", 0))
    flat: dict[str, Port] = {}
    for name, port in exact.items():
        flat.setdefault(flatten_name(name), port)
    return {**flat, **exact}
