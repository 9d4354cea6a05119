"""Writes what a device leaves behind: dump files in the vendor's binary format and the device model as JSON.

Written from the description of the format alone. The addresses come from a small memory planner that reuses space.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from habits import Array
from program import FLOATS, DeviceOp, Program, Run, Stored

# name -> (number in the dump's protobuf, name in the JSON model, bytes)
DTYPES = {
    "float32": (1, "DT_FLOAT", 4),
    "float16": (2, "DT_FLOAT16", 2),
    "uint8": (4, "DT_UINT8", 1),
    "int32": (7, "DT_INT32", 4),
    "int64": (9, "DT_INT64", 8),
    "bfloat16": (27, "DT_BF16", 2),
}
FORMATS = {"NCHW": 0, "ND": 2, "NC1HWC0": 3, "FRACTAL_Z": 4, "FRACTAL_NZ": 29}
TENSOR_BASE, WEIGHT_BASE = 0x1240_4000_0000, 0x1240_C000_0000
C0 = 16


# --- layouts -----------------------------------------------------------------------------------------------------


def to_nc1hwc0(x: Array) -> Array:
    n, c, h, w = x.shape
    blocks = -(-c // C0)
    wide = np.zeros((n, blocks * C0, h, w), x.dtype)
    wide[:, :c] = x
    return np.ascontiguousarray(wide.reshape(n, blocks, C0, h, w).transpose(0, 1, 3, 4, 2))


def to_fractal_z(w: Array, groups: int) -> Array:
    """(groups * cout, cin, kh, kw) as (rows, N1, 16, C0); several groups share one block where they fit."""
    cout, cin = w.shape[0] // groups, w.shape[1]
    share = 1
    if groups > 1:
        share = min(math.lcm(math.lcm(cin, C0) // cin, math.lcm(cout, 16) // cout), groups)
    c_blocks, n_blocks = -(-share * cin // C0), -(-share * cout // 16)
    kh, kw = w.shape[2:]
    rows = -(-groups // share) * c_blocks * kh * kw
    out = np.zeros((rows, n_blocks, 16, C0), w.dtype)
    place = np.arange(kh * kw)
    for g in range(groups):
        for c in range(cin):
            ci = g % share * cin + c
            start = ((g // share) * c_blocks + ci // C0) * kh * kw
            for k in range(cout):
                co = g % share * cout + k
                out[start + place, co // 16, co % 16, ci % C0] = w[g * cout + k, c].ravel()
    return out


def to_fractal_nz(x: Array) -> Array:
    m, n = x.shape
    wide = np.zeros((-(-m // 16) * 16, -(-n // C0) * C0), x.dtype)
    wide[:m, :n] = x
    return np.ascontiguousarray(wide.reshape(wide.shape[0] // 16, 16, wide.shape[1] // C0, C0).transpose(2, 0, 1, 3))


def in_layout(x: Array, layout: str, groups: int = 1) -> Array:
    if layout == "NC1HWC0":
        return to_nc1hwc0(x)
    if layout == "FRACTAL_Z":
        return to_fractal_z(x, groups)
    return to_fractal_nz(x) if layout == "FRACTAL_NZ" else x


def to_bytes(x: Array, dtype: str) -> bytes:
    if dtype == "bfloat16":
        return (np.ascontiguousarray(x, np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    return np.ascontiguousarray(x).astype(np.dtype(dtype).newbyteorder("<")).tobytes()


def from_bytes(raw: bytes, dtype: str, shape: tuple[int, ...]) -> Array:
    """The values of plain bytes: float32 for every float type."""
    if dtype == "bfloat16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    x = np.frombuffer(raw, np.dtype(dtype).newbyteorder("<")).reshape(shape)
    return x.astype(np.float32) if dtype in FLOATS else x.copy()


def stored_bytes(x: Array, tensor: Stored) -> bytes:
    return to_bytes(in_layout(x, tensor.layout), tensor.dtype)


def logical_values(raw: bytes, tensor: Stored) -> Array:
    """Values of a stored tensor in its original shape: the inverse of `stored_bytes`."""
    if tensor.layout != "NC1HWC0":
        return from_bytes(raw, tensor.dtype, tensor.shape)
    n, c, h, w = tensor.shape
    blocks = -(-c // C0)
    x = from_bytes(raw, tensor.dtype, (n, blocks, h, w, C0))
    return np.ascontiguousarray(x.transpose(0, 1, 4, 2, 3).reshape(n, blocks * C0, h, w)[:, :c])


# --- protobuf ----------------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(no: int, value: int) -> bytes:
    return varint(no << 3) + varint(value) if value else b""


def chunk(no: int, body: bytes) -> bytes:
    return varint(no << 3 | 2) + varint(len(body)) + body


def dims(no: int, shape: tuple[int, ...]) -> bytes:
    packed = b"".join(varint(n) for n in shape)
    return chunk(no, chunk(1, packed) if packed else b"")


@dataclass(frozen=True)
class Part:
    """One tensor of a dump file."""

    dtype: str
    layout: str
    shape: tuple[int, ...]
    original_shape: tuple[int, ...]
    address: int
    payload: bytes
    groups: int = 1
    origin: tuple[str, int, str, str] | None = None  # original op, output index, its type and format

    def as_input(self) -> bytes:
        body = number(1, DTYPES[self.dtype][0]) + number(2, FORMATS[self.layout]) + dims(3, self.shape)
        body += number(5, len(self.payload)) + dims(6, self.original_shape)
        return body + number(7, self._sub_format()) + number(8, self.address)

    def as_output(self) -> bytes:
        body = number(1, DTYPES[self.dtype][0]) + number(2, FORMATS[self.layout]) + dims(3, self.shape)
        if self.origin:
            name, index, dtype, layout = self.origin
            inner = chunk(1, name.encode()) + number(2, index) + number(3, DTYPES[dtype][0])
            body += chunk(4, inner + number(4, FORMATS[layout]))
        body += number(6, len(self.payload)) + dims(7, self.original_shape)
        return body + number(8, self._sub_format()) + number(9, self.address)

    def _sub_format(self) -> int:
        return self.groups if self.groups > 1 else 0


def dump_file(op_name: str, time: int, inputs: list[Part], outputs: list[Part]) -> bytes:
    """A whole big dump: length, header, payloads of the inputs, payloads of the outputs."""
    header = chunk(1, b"2.0") + number(2, time)
    header += b"".join(chunk(3, part.as_output()) for part in outputs)
    header += b"".join(chunk(4, part.as_input()) for part in inputs)
    header += chunk(6, op_name.encode())
    payload = b"".join(part.payload for part in [*inputs, *outputs])
    return struct.pack("<Q", len(header)) + header + payload


# --- memory ------------------------------------------------------------------------------------------------------


def addresses(program: Program, same: dict[str, str] | None = None) -> dict[str, int]:
    """Device address of every stored tensor; space is reused after the last reader. `same` puts one onto another."""
    owner: dict[str, str] = {}
    last: dict[str, int] = {}
    for step, op in enumerate(program.ops):
        for name in op.inputs:
            last[owner[name]] = step
        for name in op.outputs:
            owner[name] = owner[op.inputs[0]] if op.kind == "view" else name
            last.setdefault(owner[name], step)
    free: list[tuple[int, int]] = [(0, 1 << 40)]
    where: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for step, op in enumerate(program.ops):
        for name in op.outputs:
            if owner[name] != name:
                where[name] = where[owner[name]]
                continue
            sizes[name] = -(-size_of(program.tensors[name]) // 512) * 512 + 512
            spot = next(i for i, (_, room) in enumerate(free) if room >= sizes[name])
            start, room = free[spot]
            where[name] = start
            free[spot] = (start + sizes[name], room - sizes[name])
        for name in [n for n in sizes if last[n] == step]:
            free.append((where[name], sizes[name]))
            last[name] = -1
        merged: list[tuple[int, int]] = []
        for start, room in sorted(piece for piece in free if piece[1]):
            if merged and merged[-1][0] + merged[-1][1] == start:
                merged[-1] = (merged[-1][0], merged[-1][1] + room)
            else:
                merged.append((start, room))
        free = merged
    for name, other in (same or {}).items():
        where[name] = where[other]
    return {name: TENSOR_BASE + start for name, start in where.items()}


def stored_shape(tensor: Stored) -> tuple[int, ...]:
    if tensor.layout != "NC1HWC0":
        return tensor.shape
    n, c, h, w = tensor.shape
    return (n, -(-c // C0), h, w, C0)


def size_of(tensor: Stored) -> int:
    return math.prod(stored_shape(tensor)) * DTYPES[tensor.dtype][2]


def reads_table_first(op: DeviceOp) -> bool:
    """Inputs are listed as the device's op lists them: the table of a Gather comes before its indices."""
    return op.block == "gather"


# --- the files ---------------------------------------------------------------------------------------------------


@dataclass
class Writer:
    """Writes one run of one program."""

    program: Program
    run: Run
    seed: int
    outputs_only: bool = False
    same: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.where = addresses(self.program, self.same)
        self.weight_places: dict[str, int] = {}
        self.time = 1_770_000_000_000_000 + self.seed % 9_000_000 * 1_000_003

    def plain(self, shape: tuple[int, ...]) -> str:
        return "NCHW" if len(shape) == 4 else "ND"

    def tensor_part(self, name: str, value: Array, with_origin: bool) -> Part:
        t = self.program.tensors[name]
        origin = None
        if with_origin:
            kind = {"float16": "float32", "bfloat16": "float32", "int32": "int64"}.get(t.dtype, t.dtype)
            origin = (t.producer, t.index, kind, self.plain(t.shape))
        return Part(t.dtype, t.layout, stored_shape(t), t.shape, self.where[name], stored_bytes(value, t), 1, origin)

    def const_layout(self, op: DeviceOp, name: str, shape: tuple[int, ...]) -> tuple[str, int]:
        """Layout and group count of a constant of an op."""
        node = next(n for n in op.nodes if name in n.inputs or f"{n.inputs[1 % len(n.inputs)]}.folded_bias" == name)
        if node.kind == "Conv" and len(shape) == 4 and self.program.habit.blocked:
            return "FRACTAL_Z", node.attrs.get("group", 1)
        if node.kind == "MatMul" and len(shape) == 2 and self.program.habit.naming == "called":
            return "FRACTAL_NZ", 1
        return self.plain(shape), 1

    def const_part(self, op: DeviceOp, name: str, value: Array) -> Part:
        layout, groups = self.const_layout(op, name, value.shape)
        data = in_layout(value, layout, groups)
        dtype = self.program.habit.storage
        place = self.weight_places.setdefault(f"{op.name}:{name}", WEIGHT_BASE + len(self.weight_places) * 0x40000)
        return Part(dtype, layout, data.shape, value.shape, place, to_bytes(data, dtype), groups)

    def files(self) -> dict[str, bytes]:
        """File name -> bytes of every dump file, in the order of execution."""
        out: dict[str, bytes] = {}
        clock = self.time
        streams = 2 if self.program.habit.naming == "joined" else 1
        for step, op in enumerate(self.program.ops):
            clock += 37 + len(op.name) * 3
            if op.kind not in ("compute", "cast", "trans"):
                continue
            result = self.run.results[op.name]
            runtime = [self.tensor_part(n, v, False) for n, v in zip(op.inputs, result.inputs, strict=True)]
            weights = [self.const_part(op, n, v) for n, v in result.consts.items()]
            inputs = weights + runtime if reads_table_first(op) else runtime + weights
            named = op.kind == "compute"
            outputs = [self.tensor_part(n, v, named) for n, v in zip(op.outputs, result.outputs, strict=True)]
            safe = op.name
            for letter in " ./\\":
                safe = safe.replace(letter, "_")
            name = f"{op.device_type}.{safe}.{3 + step // streams}.{7 + step % streams}.{clock}"
            out[name] = dump_file(op.name, clock, [] if self.outputs_only else inputs, outputs)
        return out

    def folder(self) -> str:
        """Path of the dump files below the dump path."""
        moment = datetime.fromtimestamp(self.time // 1_000_000, UTC).strftime("%Y%m%d%H%M%S")
        return f"{moment}/0/{self.program.net.name}_{self.program.habit.storage}/1/0"

    def mapping(self) -> dict[str, Any]:
        """The device model as ATC prints it."""
        ops: list[dict[str, Any]] = []
        for op in self.program.ops:
            entry = self._op_entry(op)
            if op.kind == "compute":
                weights = [self._const_entry(op, n, v) for n, v in self.run.results[op.name].consts.items()]
                ops += weights
                place = 0 if reads_table_first(op) else len(op.inputs)
                entry["input"][place:place] = [f"{weight['name']}:0" for weight in weights]
                entry["input_desc"][place:place] = [weight["output_desc"][0] for weight in weights]
            ops.append(entry)
        for index, entry in enumerate(ops):
            if index:
                entry["id"] = index
        net = self.program.net
        ends = self.program.ops[-1].inputs
        names = [f"{end}:{self.program.tensors[end].original}" for end in ends]
        model = f"{net.name}_{self.program.habit.storage}"
        command = f"atc --model={net.name}.onnx --framework=5 --output={model} --soc_version=Emulated"
        return {
            "attr": [
                {"key": "atc_cmdline", "value": {"s": command}},
                {"key": "soc_version", "value": {"s": "Emulated"}},
                {"key": "attr_model_out_nodes_name", "value": _strings(names)},
                {"key": "tasks", "value": None},
            ],
            "graph": [{"attr": [], "input": [f"{n}:0" for n in net.inputs], "name": model, "op": ops}],
            "name": model,
            "version": 2,
        }

    def _desc(self, dtype: str, layout: str, shape: tuple[int, ...], full: tuple[int, ...],
              origin: tuple[str, int] | None) -> dict[str, Any]:  # fmt: skip
        plain = self.plain(full)
        attrs = [
            {"key": "origin_format", "value": {"s": plain}},
            {"key": "origin_shape", "value": {"list": {"i": list(full), "val_type": "VT_LIST_INT"}}},
            {"key": "shape_range", "value": None},
        ]
        if origin:
            attrs += [
                {"key": "_datadump_origin_name", "value": {"s": origin[0]}},
                {"key": "_datadump_origin_output_index", "value": {"i": origin[1]}},
                {"key": "_datadump_origin_format", "value": {"s": plain}},
                {"key": "_datadump_origin_data_type", "value": {"s": "DT_FLOAT"}},
            ]
        return {
            "attr": attrs,
            "device_type": "NPU",
            "dtype": DTYPES[dtype][1],
            "layout": layout,
            "shape": {"dim": list(shape)},
        }

    def _op_entry(self, op: DeviceOp) -> dict[str, Any]:
        tensors = self.program.tensors
        attrs: list[dict[str, Any]] = [{"key": "_is_custom_op", "value": {"b": False}}]
        originals = [node.name for node in op.nodes]
        if op.kind in ("cast", "trans", "end"):
            attrs.append({"key": "_datadump_original_op_names", "value": _strings([])})
        elif op.kind != "data" and originals != [op.name]:
            attrs.append({"key": "_datadump_original_op_names", "value": _strings(originals)})
        outputs = []
        for name in op.outputs:
            t = tensors[name]
            origin = (t.producer, t.index) if op.kind in ("compute", "view") else None
            outputs.append(self._desc(t.dtype, t.layout, stored_shape(t), t.shape, origin))
        return {
            "name": op.name,
            "type": op.device_type,
            "input": list(op.inputs),
            "input_desc": [
                self._desc(tensors[n].dtype, tensors[n].layout, stored_shape(tensors[n]), tensors[n].shape, None)
                for n in op.inputs
            ],
            "output_desc": outputs,
            "output_i": [self.where[name] - TENSOR_BASE for name in op.outputs],
            "attr": attrs,
        }

    def _const_entry(self, op: DeviceOp, name: str, value: Array) -> dict[str, Any]:
        part = self.const_part(op, name, value)
        desc = self._desc(part.dtype, part.layout, part.shape, part.original_shape, None)
        attrs = [{"key": "_datadump_original_op_names", "value": _strings([])}]
        return {
            "name": f"{op.name}_const_{name}", "type": "Const", "input": [], "input_desc": [],
            "output_desc": [desc], "output_i": [part.address - WEIGHT_BASE], "attr": attrs,
        }  # fmt: skip

    def write(self, folder: Path) -> None:
        """dump/, device.json and model.onnx below `folder`."""
        target = folder / "dump" / self.folder()
        target.mkdir(parents=True, exist_ok=True)
        for name, raw in self.files().items():
            (target / name).write_bytes(raw)
        (folder / "device.json").write_text(json.dumps(self.mapping(), indent=1) + "\n")
        (folder / "model.onnx").write_bytes(self.program.net.model)


def _strings(names: list[str]) -> dict[str, Any]:
    inner: dict[str, Any] = {"s": names} if names else {}
    return {"list": {**inner, "val_type": "VT_LIST_STRING"}}
