"""Cambricon's `.cambricon_twins`: the text beside an offline model that tells its inputs and outputs.

The model itself (`.cambricon`, first bytes 7F 4D 45 46) is machine code without a graph. Source:
../shared/specs/model_formats.md, c: ten real files of MLU220 and MLU270.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from acccmp.core import reading
from acccmp.core.graph import Graph, Node, TensorSpec
from acccmp.core.tensor import DTYPES, DType
from acccmp.errors import FormatError
from acccmp.models.facts import tensor_facts

LARGEST = 64 << 20  # bytes; real files have some hundred
MODEL_MAGIC = b"\x7fMEF"

_DTYPES = {
    "CNRT_FLOAT16": "float16", "CNRT_FLOAT32": "float32", "CNRT_FLOAT64": "float64", "CNRT_INT4": "int4",
    "CNRT_INT8": "int8", "CNRT_INT16": "int16", "CNRT_INT32": "int32", "CNRT_INT64": "int64", "CNRT_UINT8": "uint8",
    "CNRT_UINT16": "uint16", "CNRT_UINT32": "uint32", "CNRT_BOOL": "bool", "CNRT_QUANT8": "quint8",
    "CNRT_STRING": "string",
}
# Types whose `Quantize position` and `scale` mean something; for the others these are uninitialised memory.
_QUANTISED = ("CNRT_INT8", "CNRT_INT16", "CNRT_INT4", "CNRT_QUANT8")


Record = dict[str, str]  # key of the file -> what stands behind it


@dataclass(frozen=True)
class Function:
    """One function of the model, as its records in the file say. `kernels` are the headers of its machine code."""

    name: str
    facts: Record = field(default_factory=dict)
    inputs: list[Record] = field(default_factory=list)
    outputs: list[Record] = field(default_factory=list)
    kernels: list[Record] = field(default_factory=list)

    def tensors(self, side: str) -> Iterator[tuple[TensorSpec, Record]]:
        """Its tensors at the side "input" or "output", told apart by their index: real files give them no names."""
        for place, record in enumerate(self.inputs if side == "input" else self.outputs):
            dtype, shape = dtype_of(record), _shape(record)
            size = dtype.nbytes(math.prod(shape)) if dtype is not None and shape is not None else None
            layout = record.get("Dim Order", "").removeprefix("CNRT_") or None
            yield TensorSpec(f"{self.name}:{side}:{place}", dtype, shape, layout, nbytes=size), record


@dataclass(frozen=True)
class Twins:
    """A whole file; `model` is the file that it says it describes (renamed copies exist)."""

    model: str
    functions: tuple[Function, ...]
    notes: tuple[str, ...] = ()

    @property
    def cores(self) -> int | None:
        """Cores that the model was made for, by its kernels; None where nothing is said."""
        found = [
            int(kernel[key]) for function in self.functions for kernel in function.kernels
            for key in ("Model Parallelism", "Core limit") if reading.is_number(kernel.get(key, ""))
        ]
        return max(found, default=None)


def load(path: str | Path) -> Graph:
    """The inputs and outputs as a Graph (format "cambricon"): a node for each function, no weights.

    Tensors are `<function>:input:0`, `<function>:output:0`; layouts are the dim order of the file. `weights` is not
    used. Raises FormatError for what is no twins file, and for the machine code that it belongs to.
    """
    where = Path(path)
    return _graph(read(where), where)


def _graph(twins: Twins, path: Path) -> Graph:
    nodes: list[Node] = []
    tensors: dict[str, TensorSpec] = {}
    for function in twins.functions:
        inputs, outputs = ({s.name: s for s, _ in function.tensors(side)} for side in ("input", "output"))
        nodes.append(Node(function.name, "Function", tuple(inputs), tuple(outputs), dict(function.facts)))
        tensors |= inputs | outputs
    cores = {"cores": twins.cores} if twins.cores else {}
    return Graph(
        Path(twins.model).stem or path.stem, "cambricon", tuple(nodes), tuple(t for node in nodes for t in node.inputs),
        tuple(t for node in nodes for t in node.outputs), tensors, path=path, meta={"model": twins.model, **cores},
        notes=twins.notes,
    )


def describe(path: str | Path) -> dict[str, Any]:
    """A twins file as JSON-able facts.

    Keys: `describes`, `cores`, `functions`, `inputs`, `outputs`, `quantised`, `notes`. Raises FormatError as `load`.
    """
    where = Path(path)
    twins = read(where)
    graph = _graph(twins, where)
    return {
        "format": "cambricon", "name": graph.name, "describes": twins.model, "cores": twins.cores,
        "functions": [{"name": f.name, **f.facts, "kernels": f.kernels} for f in twins.functions],
        "inputs": [tensor_facts(graph.spec(name)) for name in graph.inputs],
        "outputs": [tensor_facts(graph.spec(name)) for name in graph.outputs],
        "quantised": [
            {"name": spec.name, "position": record.get("Quantize position", ""),
             "scale": record.get("Quantize scale", "")}
            for function in twins.functions for side in ("input", "output")
            for spec, record in function.tensors(side) if record.get("Data type") in _QUANTISED
        ],
        "notes": list(twins.notes),
    }


def dtype_of(record: Mapping[str, str]) -> DType | None:
    """The dtype for `CNRT_FLOAT32` and its like."""
    return DTYPES.get(_DTYPES.get(record.get("Data type", ""), ""))


def _shape(record: Mapping[str, str]) -> tuple[int, ...] | None:
    parts = record.get("Shape(dim)", "").split()
    good = 0 < len(parts) <= 16 and all(reading.is_number(part) and len(part) < 19 for part in parts)
    return tuple(map(int, parts)) if good else None


# -- reading -----------------------------------------------------------------------------------------------------

# Two keys can stand on one line, with blanks between.
_PAIR = re.compile(r"(Data type|Dim Order|[A-Z][^:]*?)\s*:\s?(.*?)(?=\s{2,}[A-Z][A-Za-z ]*:|$)")
_BEGINS = re.compile(r"(Function|Input|Output|Kernel header) #(\d+)")
_NUMBERS = ("Function number", "Input number", "Output number")


def read(path: Path) -> Twins:
    """The records of a twins file. Raises FormatError for anything else."""
    if reading.first_bytes(path, 64).startswith(MODEL_MAGIC):
        raise FormatError(
            f"{path}: a Cambricon offline model (machine code without a graph); give the .cambricon_twins file beside "
            "it, which tells its inputs and outputs"
        )
    text = reading.read_text(path, LARGEST, errors="replace")
    found = re.match(r'\s*This is the Twins File of "([^"\n]*)"', text)
    if not found:
        raise FormatError(f"{path}: not a Cambricon twins file (it does not begin with its usual sentence)")
    functions, announced = _functions(text)
    if not functions:
        raise FormatError(f"{path}: damaged: a twins file without a function")
    notes = list(_odd(functions, announced))
    if found[1] and Path(found[1]).stem != path.name.partition(".cambricon")[0]:
        notes.append(f"the text says that it describes {found[1]}: this file was renamed or copied")
    return Twins(found[1], tuple(_named(functions)), tuple(dict.fromkeys(notes)))


def _functions(text: str) -> tuple[list[Function], Record]:
    """The records, and how many of them the file says it has: the numbers of a function with its place in front.

    What stands before the first record of a function, or behind all, is the function's.
    """
    functions: list[Function] = []
    announced: Record = {}
    into: Record = {}
    for line in map(str.strip, text.splitlines()[1:]):
        begins = _BEGINS.match(line)
        if begins and (begins[1] == "Function" or not functions):
            functions.append(Function(f"function{begins[2] if begins[1] == 'Function' else 0}"))
        last = functions[-1] if functions else Function("")
        if begins and begins[1] != "Function":
            into = {}
            {"Input": last.inputs, "Output": last.outputs}.get(begins[1], last.kernels).append(into)
        elif begins or line == "}":
            into = last.facts
        else:
            for pair in _PAIR.finditer(line):
                key, value = pair[1].strip(), pair[2].strip()
                if key in _NUMBERS:
                    into = last.facts
                    announced[key if key == "Function number" else f"{len(functions) - 1} {key}"] = value
                else:
                    into[key] = value
    return functions, announced


def _odd(functions: list[Function], announced: Record) -> Iterator[str]:
    """What cannot be read of the records, and numbers of records that are not as announced."""
    for place, function in enumerate(functions):
        for record in (*function.inputs, *function.outputs):
            if dtype_of(record) is None:
                yield f"the type {record.get('Data type', '')!r} is not known"
            if _shape(record) is None:
                yield f"the shape {record.get('Shape(dim)')!r} cannot be read"
        for key, listed in (("Input number", function.inputs), ("Output number", function.outputs)):
            due = announced.get(f"{place} {key}", "")
            if reading.is_number(due) and int(due) != len(listed):
                name = function.facts.get("Name") or function.name
                yield f"{name}: {key} is given as {due}, {len(listed)} are described"
    due = announced.get("Function number", "")
    if reading.is_number(due) and int(due) != len(functions):
        yield f"{due} functions are announced, {len(functions)} are described"


def _named(functions: list[Function]) -> Iterator[Function]:
    """The functions under the names that they give themselves; where several have one, their places tell them apart."""
    names = [function.facts.get("Name") or function.name for function in functions]
    for place, (name, function) in enumerate(zip(names, functions, strict=True)):
        facts = {key: value for key, value in function.facts.items() if key != "Name"}
        yield replace(function, name=name if names.count(name) == 1 else f"{name}#{place}", facts=facts)
