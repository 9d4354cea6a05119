"""What an emulated device leaves behind: one dump file per op in the vendor's format, and the mapping in ATC's shape.

The device's graph is built here while the files are written: Data ops, the casts and layout changes that a compiler
inserts, the fused ops, NetOutput. Source: specs of the Ascend dump formats, sections 2 and 5.1. Time stamps, addresses
and numbers are counted, never taken from a clock, so that the same run gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acccmp.core import layout as layouts
from acccmp.core.dump import DumpedOp, Origin, Port, Side
from acccmp.core.graph import Graph, Node
from acccmp.core.tensor import DTYPES, DType, TensorRef, dtype_of
from acccmp.core.writing import Result, make_folder
from acccmp.dumps.ascend import write_file
from acccmp.emulator.fusion import EXACT_SLOTS, Step, attribute, unique
from acccmp.errors import InputError

Array = NDArray[Any]

EPOCH = 1_700_000_000_000_000  # microseconds since 1970: the time stamp of the first op
FOLDER_TIME = "20231114221320"  # the same moment (UTC), as device folders are named
DEVICE, MODEL_ID, STEP = "0", "1", "0"

# The device's word for an ONNX op, where it is another one.
DEVICE_OPS = {
    "Conv": "Conv2D", "ConvTranspose": "Conv2DTransposeD", "BatchNormalization": "BNInfer", "AveragePool": "AvgPool",
    "GlobalAveragePool": "GlobalAveragePool", "MatMul": "MatMulV2", "Gemm": "MatMulV2", "Softmax": "SoftmaxV2",
    "Concat": "ConcatD", "Transpose": "TransposeD", "Slice": "StridedSliceD", "Gather": "GatherV2", "Split": "SplitD",
    "Clip": "ClipByValue", "Div": "RealDiv", "Resize": "Resize", "ReduceMean": "ReduceMeanD", "ReduceSum": "ReduceSumD",
    "Max": "Maximum", "Min": "Minimum", "Pad": "PadD", "Tile": "TileD", "Expand": "ExpandD", "ArgMax": "ArgMaxD",
}

# Ops that work on blocks of channels, and ops that take whatever layout their inputs have.
_BLOCKED = frozenset({
    "Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "BatchNormalization",
    "Resize", "Upsample", "InstanceNormalization",
})
_ELEMENTWISE = frozenset({
    "Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Relu", "LeakyRelu", "PRelu", "Clip", "Elu", "Selu", "Sigmoid",
    "HardSigmoid", "HardSwish", "Tanh", "Softplus", "Exp", "Log", "Sqrt", "Abs", "Neg", "Reciprocal", "Floor", "Ceil",
    "Round", "Erf", "Gelu", "Mish", "Identity", "Dropout", "Cast",
})
_MATRIX = frozenset({"MatMul", "Gemm"})

_DTYPE_TEXTS = {"float32": "DT_FLOAT", "float64": "DT_DOUBLE", "bfloat16": "DT_BF16"}


@dataclass(frozen=True)
class Twin:
    """What an ONNX twin stands for: a model of another format that is emulated through one.

    `originals` says for a node of the twin which original nodes it does the work of, the last one making its output
    (by default the node of its own name). `layout` is the order of the original's pictures, "NHWC" for TensorFlow; the
    twin's are NCHW.
    """

    originals: Mapping[str, Sequence[str]] = field(default_factory=dict, hash=False)
    layout: str = "NCHW"

    def names(self, node: str) -> tuple[str, ...]:
        return tuple(self.originals.get(node, (node,)))


@dataclass(frozen=True)
class _Held:
    """A tensor on the device: which op's output it is, and how it is stored there. `array` is in its own order,
    which is called `own`."""

    op: str
    index: int
    dtype: DType
    layout: str
    array: Array = field(repr=False)
    own: str
    origin: Origin | None = None
    groups: int = 1

    @property
    def edge(self) -> str:
        return f"{self.op}:{self.index}"

    def ref(self) -> TensorRef:
        """The stored tensor; padding is zero. Blocked layouts have 16 channels to a block (2- and 4-byte types)."""
        stored = layouts.to_stored(self.array, self.own, self.layout, 16, self.groups)
        if stored.dtype.name != self.dtype.name and self.dtype.name != "bfloat16" and self.dtype.numpy is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                stored = stored.astype(self.dtype.numpy)
        return TensorRef(
            self.edge, self.dtype, stored.shape, 0, self.dtype.nbytes(stored.size), self.layout, self.array.shape,
            self.own, self.groups, array=stored,
        )


class DeviceFiles:
    """Writes an emulated run. `notes` tells what could not be dumped.

    They take their places when `result` does. Raises InputError when there is a dump already.
    """

    def __init__(
        self, result: Result, graph: Graph, folder: Path, dtype: DType, *, name: str = "npu", tree: bool = False,
        with_inputs: bool = True, blocked: bool = True, twin: Twin | None = None,
    ) -> None:
        self._graph, self._dtype, self._twin = graph, dtype, twin or Twin()
        self._with_inputs, self._blocked = with_inputs, blocked
        self._mapping = folder / "mapping.json"
        self._dump = folder / name
        if Path(name).name != name or name in ("", ".", "..", self._mapping.name):
            raise InputError(f"{name!r} is no name of a dump folder")
        self._result = result
        work = result.folder(self._dump)
        parts = [FOLDER_TIME, DEVICE, _safe(graph.name or "model"), MODEL_ID, STEP] if tree else []
        self._files = work.joinpath(*parts)
        make_folder(self._files)
        self._ops: list[dict[str, Any]] = []
        self._names: set[str] = set()
        self._held: dict[str, list[_Held]] = {}  # an original tensor, and the forms in which the device has it
        self._read: set[str] = set()  # ops whose outputs somebody reads
        self._outputs: list[str] = []
        self._address = 0x1000_0000_0000
        self.notes: list[str] = []

    # -- what happens on the device, in order

    def model_input(self, tensor: str, given: Array, stored: Array) -> None:
        """A Data op, and the cast to the device's dtype behind it."""
        if given.dtype.kind in "OUS":
            self.notes.append(f"{tensor}: texts are not dumped")
            return
        array, own = self._own(given), self._plain(given.ndim)
        origin = Origin(self._twin.names(tensor)[-1], 0, own, array.shape, dtype_of(given.dtype))
        held = _Held(self._unique(tensor), 0, dtype_of(given.dtype), own, array, own, origin)
        index = list(self._graph.inputs).index(tensor)
        self._write("Data", held.op, [], [held], None, [("index", {"i": index})])
        self._held[tensor] = [held]
        if given.dtype.kind == "f":
            self._held[tensor] = [self._cast(held, self._dtype, self._own(stored))]

    def op(self, step: Step, feeds: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """One device op: its inputs brought into the layout it wants, its files, its outputs."""
        first, last = step.nodes[0], step.nodes[-1]
        known = [tensor for tensor in step.reads if tensor in self._held]
        blocked = self._blocked and self._is_blocked(step, known, feeds, outputs)
        inputs: list[_Held] = []
        for tensor in feeds:
            if tensor in self._held:
                inputs.append(self._in_layout(tensor, self._layout(first, feeds[tensor], blocked)))
            elif _is_weight(step, tensor, feeds[tensor]):
                inputs.append(self._constant(first, tensor, feeds[tensor]))
        name = self._unique(step.name)
        made: list[_Held] = []
        for index, tensor in enumerate(last.outputs):
            if not tensor or tensor not in outputs:
                continue
            array = outputs[tensor]
            if array.dtype.kind in "OUS":
                self.notes.append(f"{tensor}: texts are not dumped")
                continue
            dtype = self._dtype if array.dtype.kind == "f" else dtype_of(array.dtype)
            spec = self._graph.spec(tensor)
            own, plain = self._own(array), self._plain(array.ndim)
            origin = Origin(
                self._twin.names(last.name)[-1], index, plain, own.shape, spec.dtype or dtype_of(array.dtype),
            )
            made.append(_Held(name, len(made), dtype, self._layout(first, array, blocked), own, plain, origin))
            self._held[tensor] = [made[-1]]
        control = [] if inputs else [f"{op['name']}:-1" for op in self._ops if op["type"] == "Data"][:1]
        device_op = DEVICE_OPS.get(first.op_type, first.op_type)
        if first.op_type == "Conv" and attribute(first, "group", 1) > 1 and blocked:
            device_op = "DepthwiseConv2D" if attribute(first, "group", 1) == feeds[known[0]].shape[1] else "Conv2D"
        if first.op_type == "MatMul" and max((held.array.ndim for held in inputs), default=0) > 2:
            device_op = "BatchMatMulV2"
        originals = [original for node in step.nodes for original in self._twin.names(node.name)]
        self._write(device_op, name, inputs, made, originals, control=control)

    def forget(self, tensors: Iterable[str]) -> None:
        """Nobody will read these tensors any more."""
        for tensor in tensors:
            self._held.pop(tensor, None)

    def model_outputs(self, outputs: Mapping[str, Array]) -> None:
        """NetOutput, with every output in plain order and in the model's own dtype."""
        ends: list[_Held] = []
        described = []
        for tensor in outputs:
            if tensor not in self._held:
                self.notes.append(f"the model output {tensor} is not on the device")
                continue
            held = self._in_layout(tensor, self._held[tensor][0].own)
            dtype = self._graph.spec(tensor).dtype or held.dtype
            if held.dtype.kind == "float" and dtype.kind == "float" and dtype is not held.dtype:
                held = self._cast(held, dtype)
            ends.append(held)
            described.append(tensor)
            port = self._graph.producer(tensor) or Port(tensor, "output", 0)
            self._outputs.append(f"{self._twin.names(port.node)[-1]}:{port.index}:{tensor}")
        dangling = [
            f"{op['name']}:-1" for op in self._ops
            if op["name"] not in self._read and op["name"] not in {held.op for held in ends} and op["type"] != "Data"
        ]
        self._write("NetOutput", self._unique("Node_Output"), ends, [], (), control=dangling, ends=described)

    def finish(self) -> tuple[Path, Path]:
        """Write the mapping; returns where it and the dump folder will be."""
        name = self._graph.name or "model"
        attrs = [
            _attr("atc_cmdline", {"s": "none: an emulated device of acccmp, not a compiled model"}),
            _attr("soc_version", {"s": "emulated"}),
            _attr("framework_type", {"s": "Onnx"}),
            _attr("attr_model_out_nodes_name", _texts(self._outputs)),
        ]
        lines = ",\n".join(_json(op) for op in self._ops)  # one op to a line
        model = (
            f'{{"attr": {_json(attrs)},\n"graph": [{{"name": {_json(name)}, "op": [\n{lines}\n]}}],\n'
            f'"name": {_json(name)}, "version": 1}}\n'
        )
        self._result.file(self._mapping).write(model.encode("utf-8", "surrogateescape"))
        return self._dump, self._mapping

    # -- layouts

    def _is_blocked(
        self, step: Step, known: Sequence[str], feeds: Mapping[str, Array], outputs: Mapping[str, Array],
    ) -> bool:
        """Does this op work on blocks of channels (5-D layouts)?"""
        node = step.nodes[0]
        ranks = {array.ndim for array in outputs.values()}
        ranks |= {feeds[tensor].ndim for tensor in known if feeds[tensor].dtype.kind == "f"}
        if not known or len(ranks) != 1 or not ranks <= {4, 5} or node.domain:
            return False
        if any(array.dtype.kind != "f" or not array.size for array in outputs.values()):
            return False
        if node.op_type in _BLOCKED:
            return True
        if any(self._held[tensor][0].layout not in ("NC1HWC0", "NDC1HWC0") for tensor in known):
            return False
        if node.op_type in _ELEMENTWISE:
            return len({feeds[tensor].shape[:2] for tensor in known}) == 1
        if node.op_type == "Concat":
            axis = int(attribute(node, "axis", 1)) % next(iter(ranks))
            return axis != 1 or all(feeds[tensor].shape[1] % 16 == 0 for tensor in known[:-1])
        return False

    def _layout(self, node: Node, array: Array, blocked: bool) -> str:
        if blocked and array.dtype.kind == "f":
            return {4: "NC1HWC0", 5: "NDC1HWC0"}.get(array.ndim, self._plain(array.ndim))
        if self._blocked and node.op_type in _MATRIX and array.ndim == 2 and array.size and array.dtype.kind == "f":
            return "FRACTAL_NZ"
        return self._plain(array.ndim)

    def _plain(self, rank: int) -> str:
        """The order of an original tensor, as a compiler names it: pictures NCHW or NHWC, volumes NCDHW, others ND."""
        return {4: self._twin.layout, 5: "NCDHW"}.get(rank, "ND")

    def _own(self, array: Array) -> Array:
        """An activation in the original's order."""
        if array.ndim == 4 and self._twin.layout == "NHWC":
            return np.ascontiguousarray(array.transpose(0, 2, 3, 1))
        return array

    def _in_layout(self, tensor: str, layout: str) -> _Held:
        """`tensor` in `layout`: as it is held, or through a TransData op that is inserted now."""
        forms = self._held[tensor]
        for held in forms:
            if held.layout == layout:
                return held
        plain = forms[0].own
        source = forms[0]
        if layout != plain and source.layout != plain:
            source = self._in_layout(tensor, plain)
        made = replace(source, op=self._inserted("TransData"), index=0, layout=layout)
        self._write("TransData", made.op, [source], [made], ())
        forms.append(made)
        return made

    def _cast(self, held: _Held, dtype: DType, values: Array | None = None) -> _Held:
        array = held.array if values is None else values
        made = replace(held, op=self._inserted("Cast"), index=0, dtype=dtype, array=array)
        self._write("Cast", made.op, [held], [made], ())
        return made

    def _constant(self, node: Node, tensor: str, array: Array) -> _Held:
        """A weight as the device has it: filters of convolutions in fractals. It has no dump file of its own."""
        own, groups = {4: "NCHW", 5: "NCDHW"}.get(array.ndim, "ND"), 1
        layout = own
        if self._blocked and node.op_type == "Conv" and tensor == node.inputs[1] and array.size:
            groups = int(attribute(node, "group", 1))
            if array.ndim == 4:
                layout = "FRACTAL_Z"
            elif array.ndim == 5 and groups == 1:
                layout = "FRACTAL_Z_3D"
        if self._blocked and node.op_type in _MATRIX and tensor in node.inputs[:2] and array.ndim == 2 and array.size:
            layout = "FRACTAL_NZ"
        if array.ndim == 4 and self._twin.layout == "NHWC":
            array, own = np.ascontiguousarray(array.transpose(2, 3, 1, 0)), "HWCN"
            layout = own if layout == "NCHW" else layout
        dtype = self._dtype if array.dtype.kind == "f" else dtype_of(array.dtype)
        name = self._unique(tensor)
        held = _Held(name, 0, dtype, layout, array, own, None, groups if layout == "FRACTAL_Z" else 1)
        self._describe("Const", name, [], [held], ())
        return held

    # -- writing down

    def _unique(self, name: str) -> str:
        return unique(name, self._names)

    def _inserted(self, kind: str) -> str:
        return self._unique(f"trans_{kind}_{len(self._ops)}")

    def _write(
        self, op_type: str, name: str, inputs: Sequence[_Held], outputs: Sequence[_Held],
        originals: Sequence[str] | None, attrs: Sequence[tuple[str, Any]] = (), control: Sequence[str] = (),
        ends: Sequence[str] = (),
    ) -> None:
        """One op: its place in the mapping and its dump file."""
        place = self._describe(op_type, name, inputs, outputs, originals, attrs, control, ends)
        dumped = list(inputs) if self._with_inputs else []
        if not dumped and not outputs:
            return
        origins = {i: held.origin for i, held in enumerate(outputs) if held.origin is not None} if originals else {}
        refs = [held.ref() for held in dumped], [held.ref() for held in outputs]
        addresses: dict[tuple[Side, int], int] = {}
        sides: tuple[Side, Side] = ("input", "output")
        for side, side_refs in zip(sides, refs, strict=True):
            for index, ref in enumerate(side_refs):
                addresses[side, index] = self._address
                self._address += -(-ref.nbytes // 512) * 512 + 512
        op = DumpedOp(name, op_type, "", EPOCH + 1000 * place, place, 1, addresses=addresses, origins=origins)
        write_file(self._files, op, *refs)

    def _describe(
        self, op_type: str, name: str, inputs: Sequence[_Held], outputs: Sequence[_Held],
        originals: Sequence[str] | None, attrs: Sequence[tuple[str, Any]] = (), control: Sequence[str] = (),
        ends: Sequence[str] = (),
    ) -> int:
        """Add an op to the mapping; returns its id. `originals` None: nothing is said, (): made by the compiler."""
        self._read.update(held.op for held in inputs)
        described = [_attr(key, value) for key, value in attrs]
        if originals is not None:
            described.append(_attr("_datadump_original_op_names", _texts(originals)))
        place = len(self._ops)
        self._ops.append({
            "attr": described,
            "id": place,
            "input": [held.edge for held in inputs] + list(control),
            "input_desc": [
                _description(held, [_attr("_origin_output_tensor_name", {"s": ends[i]})] if i < len(ends) else [])
                for i, held in enumerate(inputs)
            ],
            "name": name,
            "output_desc": [
                _description(held, _origin_attrs(held) if originals or op_type == "Data" else []) for held in outputs
            ],
            "type": op_type,
        })
        return place


def _is_weight(step: Step, tensor: str, array: Array) -> bool:
    """Is this constant an input on the device? Integers and what steers an op have become attributes."""
    steers = all(
        slot in EXACT_SLOTS.get(node.op_type, ()) and node.op_type != "BatchNormalization"
        for node in step.nodes for slot, name in enumerate(node.slots) if name == tensor
    )
    named = any(tensor in node.slots for node in step.nodes)
    return array.dtype.kind == "f" and not (named and steers)


def _description(held: _Held, attrs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    shape = layouts.stored_shape(held.layout, held.own, held.array.shape, 16, held.groups)
    name = f"{held.layout}:{held.groups}" if held.groups > 1 else held.layout
    return {
        "attr": [
            _attr("origin_format", {"s": held.own}), _attr("origin_shape", _numbers(held.array.shape)), *attrs,
        ],
        "device_type": "NPU",
        "dtype": _DTYPE_TEXTS.get(held.dtype.name, f"DT_{held.dtype.name.upper()}"),
        "layout": name,
        "shape": {"dim": [int(n) for n in shape]},
    }


def _origin_attrs(held: _Held) -> list[dict[str, Any]]:
    if held.origin is None:
        return []
    dtype = held.origin.dtype or DTYPES["undefined"]
    return [
        _attr("_datadump_origin_name", {"s": held.origin.node}),
        _attr("_datadump_origin_output_index", {"i": held.origin.index}),
        _attr("_datadump_origin_format", {"s": held.origin.layout or "ND"}),
        _attr("_datadump_origin_data_type", {"s": _DTYPE_TEXTS.get(dtype.name, f"DT_{dtype.name.upper()}")}),
    ]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _attr(key: str, value: Any) -> dict[str, Any]:
    return {"key": key, "value": value}


def _texts(values: Sequence[str]) -> dict[str, Any]:
    return {"list": {**({"s": list(values)} if values else {}), "val_type": "VT_LIST_STRING"}}


def _numbers(values: Sequence[int]) -> dict[str, Any]:
    return {"list": {**({"i": [int(n) for n in values]} if values else {}), "val_type": "VT_LIST_INT"}}


def _safe(name: str) -> str:
    """A model name as one folder: what the device replaces, and nothing that leaves the folder."""
    flat = "".join("_" if char in " ./\\" or ord(char) < 32 else char for char in name)
    return flat[:100] or "model"
