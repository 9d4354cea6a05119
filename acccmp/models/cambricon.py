"""Cambricon's `.cambricon_twins`: the text beside an offline model that tells its inputs and outputs.

The model itself (`.cambricon`, first bytes 7F 4D 45 46) is machine code without a graph. Source:
../shared/specs/model_formats.md, c: ten real files of MLU220 and MLU270.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from acccmp.core import reading
from acccmp.core.graph import Graph, Node, TensorSpec
from acccmp.core.tensor import DTYPES, DType
from acccmp.errors import FormatError

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


@dataclass(frozen=True)
class Tensor:
    """An input or output of a function. `name` is empty in every real file: they are told apart by their index."""

    name: str = ""
    shape: tuple[int, ...] | None = None
    dtype: str = ""
    order: str = ""
    id: str = ""
    position: str = ""
    scale: str = ""

    @property
    def is_quantised(self) -> bool:
        return self.dtype in _QUANTISED


@dataclass(frozen=True)
class Function:
    """One function of the model. `kernels` are the headers of its machine code, by the keys of the file."""

    name: str = ""
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    facts: dict[str, str] = field(default_factory=dict, hash=False)
    kernels: tuple[dict[str, str], ...] = ()


@dataclass(frozen=True)
class Twins:
    """A whole file; `model` is the file that it says it describes (renamed copies exist)."""

    model: str
    functions: tuple[Function, ...]
    notes: tuple[str, ...] = ()


def load(path: str | Path) -> Graph:
    """The inputs and outputs as a Graph (format "cambricon"): a node for each function, no weights.

    Tensors are `<function>:input:0`, `<function>:output:0`; layouts are the dim order of the file. `weights` is not
    used. Raises FormatError for what is no twins file, and for the machine code that it belongs to.
    """
    where = Path(path)
    twins = read(where)
    nodes: list[Node] = []
    tensors: dict[str, TensorSpec] = {}
    inputs: list[str] = []
    outputs: list[str] = []
    for function in twins.functions:
        for side, listed, names in (("input", function.inputs, inputs), ("output", function.outputs, outputs)):
            for place, tensor in enumerate(listed):
                spec = _spec(f"{function.name}:{side}:{place}", tensor)
                tensors[spec.name] = spec
                names.append(spec.name)
        nodes.append(Node(
            function.name, "Function", tuple(inputs[len(inputs) - len(function.inputs):]),
            tuple(outputs[len(outputs) - len(function.outputs):]), dict(function.facts),
        ))
    meta = {"model": twins.model, **({"cores": cores} if (cores := cores_of(twins)) else {})}
    return Graph(
        Path(twins.model).stem or where.stem, "cambricon", tuple(nodes), tuple(inputs), tuple(outputs), tensors,
        path=where, meta=meta, notes=twins.notes,
    )


def describe(path: str | Path) -> dict[str, Any]:
    """A twins file as JSON-able facts.

    Keys: `describes`, `cores`, `functions`, `inputs`, `outputs`, `quantised`, `notes`. Raises FormatError as `load`.
    """
    where = Path(path)
    twins = read(where)
    graph = load(where)
    return {
        "format": "cambricon", "name": graph.name, "describes": twins.model, "cores": cores_of(twins),
        "functions": [
            {"name": function.name, **function.facts, "kernels": [dict(kernel) for kernel in function.kernels]}
            for function in twins.functions
        ],
        "inputs": [_facts(graph.spec(name)) for name in graph.inputs],
        "outputs": [_facts(graph.spec(name)) for name in graph.outputs],
        "quantised": [
            {"name": f"{function.name}:{side}:{place}", "position": tensor.position, "scale": tensor.scale}
            for function in twins.functions
            for side, listed in (("input", function.inputs), ("output", function.outputs))
            for place, tensor in enumerate(listed) if tensor.is_quantised
        ],
        "notes": list(twins.notes),
    }


def _facts(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name, "dtype": spec.dtype.name if spec.dtype else None,
        "shape": None if spec.shape is None else list(spec.shape), "layout": spec.layout, "bytes": spec.nbytes,
    }


def _spec(name: str, tensor: Tensor) -> TensorSpec:
    dtype = dtype_of(tensor.dtype)
    size = dtype.nbytes(math.prod(tensor.shape)) if dtype is not None and tensor.shape is not None else None
    return TensorSpec(name, dtype, tensor.shape, tensor.order.removeprefix("CNRT_") or None, nbytes=size)


def dtype_of(name: str) -> DType | None:
    """The dtype for `CNRT_FLOAT32` and its like."""
    return DTYPES.get(_DTYPES.get(name, ""))


def cores_of(twins: Twins) -> int | None:
    """Cores that the model was made for, by its kernels; None where nothing is said."""
    found = [
        int(kernel[key]) for function in twins.functions for kernel in function.kernels
        for key in ("Model Parallelism", "Core limit") if reading.is_number(kernel.get(key, ""))
    ]
    return max(found, default=None)


# -- reading -----------------------------------------------------------------------------------------------------

# Two keys can stand on one line, with blanks between.
_PAIR = re.compile(r"(Data type|Dim Order|[A-Z][^:]*?)\s*:\s?(.*?)(?=\s{2,}[A-Z][A-Za-z ]*:|$)")
_BEGINS = re.compile(r"(Function|Input|Output|Kernel header) #(\d+)")


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
    reader = _Reader(path)
    for line in text.splitlines()[1:]:
        reader.line(line)
    return reader.twins(found[1])


class _Reader:
    """Collects records line by line; what is before the first record of a function belongs to the function."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.functions: list[Function] = []
        self.announced: dict[str, int] = {}
        self.notes: list[str] = []
        self.record: tuple[str, dict[str, str]] | None = None

    def line(self, line: str) -> None:
        begins = _BEGINS.match(line.strip())
        if begins:
            self._close()
            if begins[1] == "Function":
                self.functions.append(Function(f"function{begins[2]}"))
            else:
                self.record = begins[1], {}
            return
        if line.strip() == "}":
            self._close()
            return
        for key, value in _pairs(line):
            self._pair(key, value)

    def _pair(self, key: str, value: str) -> None:
        if key in ("Input number", "Output number", "Function number"):
            self._close()
            where = f"{len(self.functions) - 1} {key}" if key != "Function number" else key
            if reading.is_number(value):
                self.announced[where] = int(value)
        elif self.record is not None:
            self.record[1][key] = value
        elif self.functions:
            last = self.functions[-1]
            if key == "Name":
                self.functions[-1] = replace(last, name=value or last.name)
            else:
                self.functions[-1] = replace(last, facts=last.facts | {key: value})

    def _close(self) -> None:
        if self.record is None:
            return
        kind, found = self.record
        self.record = None
        if not self.functions:
            self.functions.append(Function("function0"))
        last = self.functions[-1]
        if kind == "Kernel header":
            self.functions[-1] = replace(last, kernels=(*last.kernels, found))
            return
        tensor = Tensor(
            found.get("Name", ""), self._shape(found.get("Shape(dim)")), found.get("Data type", ""),
            found.get("Dim Order", ""), found.get("Id", ""), found.get("Quantize position", ""),
            found.get("Quantize scale", ""),
        )
        if dtype_of(tensor.dtype) is None:
            self.notes.append(f"the type {tensor.dtype!r} is not known")
        if kind == "Input":
            self.functions[-1] = replace(last, inputs=(*last.inputs, tensor))
        else:
            self.functions[-1] = replace(last, outputs=(*last.outputs, tensor))

    def _shape(self, text: str | None) -> tuple[int, ...] | None:
        parts = (text or "").split()
        if not parts or len(parts) > 16 or not all(reading.is_number(part) and len(part) < 19 for part in parts):
            self.notes.append(f"the shape {text!r} cannot be read")
            return None
        return tuple(map(int, parts))

    def twins(self, model: str) -> Twins:
        self._close()
        if not self.functions:
            raise FormatError(f"{self.path}: damaged: a twins file without a function")
        for place, function in enumerate(self.functions):
            for key, listed in (("Input number", function.inputs), ("Output number", function.outputs)):
                due = self.announced.get(f"{place} {key}")
                if due is not None and due != len(listed):
                    self.notes.append(f"{function.name}: {key} is given as {due}, {len(listed)} are described")
        due = self.announced.get("Function number")
        if due is not None and due != len(self.functions):
            self.notes.append(f"{due} functions are announced, {len(self.functions)} are described")
        if model and Path(model).stem != self.path.name.partition(".cambricon")[0]:
            self.notes.append(f"the text says that it describes {model}: this file was renamed or copied")
        unique = [function.name for function in self.functions]
        named = [
            replace(f, name=f.name if unique.count(f.name) == 1 else f"{f.name}#{place}")
            for place, f in enumerate(self.functions)
        ]
        return Twins(model, tuple(named), tuple(dict.fromkeys(self.notes)))


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    for found in _PAIR.finditer(line.strip()):
        yield found[1].strip(), found[2].strip()


# -- against the original ----------------------------------------------------------------------------------------


def differences(original: Graph, device: Graph) -> list[str]:
    """What does not fit between an original model's inputs and outputs and those of a twins file; [] when all does.

    Shapes are compared in the device's dim order: an original NCHW shape is turned to NHWC first. Sizes that differ
    only by channels padded at the end are told as padding, other types as what they are.
    """
    found = []
    for side, mine, theirs in (("input", original.inputs, device.inputs), ("output", original.outputs, device.outputs)):
        if len(mine) != len(theirs):
            found.append(f"the original has {len(mine)} {side}s, the device model {len(theirs)}")
        for name, other in zip(mine, theirs, strict=False):
            found += _difference(original.spec(name), device.spec(other), f"{side} {name}")
    return found


def _difference(mine: TensorSpec, theirs: TensorSpec, what: str) -> Iterator[str]:
    if mine.dtype is not None and theirs.dtype is not None and mine.dtype is not theirs.dtype:
        yield f"{what}: {mine.dtype} in the original, the device takes or gives {theirs.dtype}"
    if mine.shape is None or theirs.shape is None or not theirs.is_static:
        return
    shape = tuple(mine.shape)
    if len(shape) == 4 and theirs.layout == "NHWC" and mine.layout != "NHWC":
        shape = (shape[0], shape[2], shape[3], shape[1])
    device = tuple(theirs.shape)
    if len(shape) != len(device):
        shape = (shape[0], *(1,) * (len(device) - len(shape)), *shape[1:]) if 0 < len(shape) < len(device) else shape
    if len(shape) == len(device) and all(a == b or not isinstance(a, int) for a, b in zip(shape, device, strict=True)):
        return
    if len(shape) == len(device) and shape[:-1] == device[:-1] and _more(device[-1], shape[-1]):
        yield f"{what}: {device[-1]} channels on the device, {shape[-1]} in the original: the rest is padding"
        return
    yield f"{what}: {list(mine.shape)} in the original, {list(theirs.shape)} ({theirs.layout}) on the device"


def _more(a: object, b: object) -> bool:
    return isinstance(a, int) and isinstance(b, int) and a > b
