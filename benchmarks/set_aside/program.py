"""A network compiled for one habit: device ops, their stored tensors, and how they run.

Every device op reads the device's own stored tensors. Casts and layout changes are inserted where a compiler would.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from habits import EXACT, Array, Habit
from kernels import KERNELS, Attrs, Kernel
from nets import Block, Net, Node

FLOATS = {"float16": "DT_FLOAT16", "bfloat16": "DT_BF16", "float32": "DT_FLOAT"}
VIEWS = {"reshape", "flatten"}
WANTS_BLOCKED = {"conv", "maxpool", "averagepool", "globalaveragepool", "resize", "instancenormalization"}
TAKES_BLOCKED = {
    "silu", "mish", "gelu", "relu", "leaky", "prelu", "hardswish", "clip", "elu", "add", "sub", "mul", "sigmoid",
    "softplus", "tanh", "fakequant", "div", "exp",
}  # fmt: skip
DEVICE_TYPES = {
    "silu": "Swish", "mish": "Mish", "gelu": "Gelu", "layernorm": "LayerNorm", "l2norm": "L2Normalize",
    "gate": "AutomaticBufferFusionOp",
    "fakequant": "AscendQuantDequant", "matmul": "BatchMatMulV2", "gemm": "MatMulV2", "relu": "Relu",
    "leaky": "LeakyRelu", "prelu": "PRelu", "hardswish": "HardSwish", "clip": "ClipByValueV2", "elu": "Elu",
    "maxpool": "MaxPoolV3", "averagepool": "AvgPoolV2", "globalaveragepool": "GlobalAveragePool",
    "instancenormalization": "InstanceNorm", "softmax": "SoftmaxV2", "concat": "ConcatD", "slice": "StridedSliceD",
    "split": "SplitVD", "transpose": "TransposeD", "gather": "GatherV2", "argmax": "ArgMaxD", "topk": "TopKV2",
    "reducemean": "ReduceMeanD", "quantizelinear": "AscendQuant", "dequantizelinear": "AscendDequant",
    "reshape": "Reshape", "flatten": "Flatten",
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """A tensor in the device's memory; `original` names the tensor of the network that it should equal."""

    name: str  # "device op:output index"
    original: str
    shape: tuple[int, ...]
    dtype: str
    layout: str  # "NC1HWC0", "NCHW" or "ND"
    producer: str  # original node and its output index; empty for inserted ops
    index: int


@dataclass(frozen=True)
class DeviceOp:
    """One op of the device's graph, in execution order."""

    name: str
    kind: str  # "data", "cast", "trans", "view", "compute" or "end"
    device_type: str
    block: str
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]  # stored tensors
    outputs: tuple[str, ...]  # stored tensors


@dataclass(frozen=True)
class Program:
    """The compiled network."""

    net: Net
    habit: Habit
    ops: tuple[DeviceOp, ...]
    tensors: dict[str, Stored]

    def op(self, name: str) -> DeviceOp:
        return next(op for op in self.ops if op.name == name)


@dataclass
class Twist:
    """What goes wrong in one device op. Everything left at its default means: as it should be."""

    params: dict[str, Any] = field(default_factory=dict)
    habit: Habit | None = None
    attrs: dict[str, Attrs] = field(default_factory=dict)  # by node name
    consts: dict[str, Array] = field(default_factory=dict)  # by constant name, before batch norm is folded
    kernels: dict[str, Kernel] = field(default_factory=dict)  # by node name
    reads: Callable[[dict[str, Array]], dict[str, Array]] | None = None  # what the kernel reads, by original name
    result: Callable[[Array], Array] | None = None  # first result before it is stored
    stored: Callable[[Array], Array] | None = None  # first result as stored
    wrong_in_memory: bool = False  # wrong constants are wrong in memory too, hence in the dump
    dumped_inputs: dict[str, Array] = field(default_factory=dict)  # stored tensor -> what this op found there
    also: list[str] = field(default_factory=list)  # other device ops that may rightly be named


@dataclass
class Result:
    """What one device op left behind."""

    inputs: list[Array]
    consts: dict[str, Array]
    outputs: list[Array]


# --- compiling ---------------------------------------------------------------------------------------------------


def merged_blocks(net: Net, habit: Habit) -> list[Block]:
    """Blocks as this habit's compiler sees them: split into nodes, or joined with the activation behind them."""
    uses: dict[str, int] = {}
    for block in net.blocks:
        for name in {i for node in block.nodes for i in node.inputs} - {o for n in block.nodes for o in n.outputs}:
            uses[name] = uses.get(name, 0) + 1
    out: list[Block] = []
    for block in net.blocks:
        last = out[-1] if out else None
        joins = last is not None and last.kind in ("conv", "matmul") and block.kind in habit.conv_takes
        if joins and last is not None:
            y = last.nodes[-1].outputs[0]
            if y in block.nodes[0].inputs and uses[y] == 1 and y not in net.outputs:
                out[-1] = Block(last.kind, last.nodes + block.nodes)
                continue
        if len(block.nodes) > 1 and block.kind not in habit.fuses and block.kind not in ("conv", "matmul"):
            out += [Block(node.kind.lower(), (node,)) for node in block.nodes]
        else:
            out.append(block)
    return out


def device_name(nodes: tuple[Node, ...], habit: Habit, number: int) -> str:
    names = [node.name.lstrip("/") for node in nodes]
    if habit.naming == "called":
        return f"PartitionedCall_/{names[-1]}_{number}"
    if habit.naming == "joined" and len(names) > 1:
        return "".join(names[:1] + [name.split("/")[-1] for name in names[1:]]) + f"_{number}"
    if len(names) > 1 and nodes[0].kind not in ("Conv", "ConvTranspose", "MatMul", "Gemm", "Pad"):
        return f"/{names[-1]}_fused"
    return next((n.name for n in nodes if n.kind != "Pad"), nodes[0].name)


def device_type(block: Block) -> str:
    first = next(node for node in block.nodes if node.kind != "Pad" or len(block.nodes) == 1)
    if first.kind == "Conv":
        group = first.attrs.get("group", 1)
        return "DepthwiseConv2D" if group > 8 else "Conv2D"
    if first.kind == "ConvTranspose":
        return "Conv2DTransposeD"
    if first.kind == "Resize":
        return "ResizeBilinearV2" if first.attrs["mode"] == "linear" else "ResizeNearestNeighborV2"
    return DEVICE_TYPES.get(block.kind, first.kind)


class Compiler:
    """Collects device ops and stored tensors."""

    def __init__(self, net: Net, habit: Habit) -> None:
        self.net, self.habit = net, habit
        self.ops: list[DeviceOp] = []
        self.tensors: dict[str, Stored] = {}
        self.place: dict[str, str] = {}  # original tensor -> stored tensor
        self.copies: dict[tuple[str, str], str] = {}
        self.number = 0

    def plain(self, shape: tuple[int, ...]) -> str:
        return "NCHW" if len(shape) == 4 else "ND"

    def add(self, op: DeviceOp, tensors: list[Stored]) -> None:
        self.ops.append(op)
        self.tensors.update({t.name: t for t in tensors})

    def inserted(self, kind: str, source: str, dtype: str, layout: str) -> str:
        """A Cast or TransData after `source`; the stored tensor it makes."""
        old = self.tensors[source]
        name = f"trans_{'Cast' if kind == 'cast' else 'TransData'}_{self.number}"
        self.number += 1
        new = replace(old, name=f"{name}:0", dtype=dtype, layout=layout, producer=old.producer, index=old.index)
        self.add(DeviceOp(name, kind, name.split("_")[1], kind, (), (source,), (new.name,)), [new])
        return new.name

    def in_layout(self, source: str, layout: str) -> str:
        if self.tensors[source].layout == layout:
            return source
        if (source, layout) not in self.copies:
            self.copies[source, layout] = self.inserted("trans", source, self.tensors[source].dtype, layout)
        return self.copies[source, layout]

    def data(self, name: str) -> None:
        shape, kind = self.net.samples[name].shape, self.net.samples[name].dtype.kind
        first = Stored(f"{name}:0", name, shape, "float32" if kind == "f" else "int64", self.plain(shape), name, 0)
        self.add(DeviceOp(name, "data", "Data", "data", (), (), (first.name,)), [first])
        wanted = self.habit.storage if kind == "f" else "int32"
        source = first.name
        self.place[name] = source if wanted == first.dtype else self.inserted("cast", source, wanted, first.layout)

    def layout_for(self, block: Block, runtime: list[str]) -> str:
        """Layout this block's inputs and outputs have: blocked only for four axes and only where a kernel exists."""
        shape = self.tensors[self.place[runtime[0]]].shape
        if not self.habit.blocked or len(shape) != 4:
            return "plain"
        if block.kind in WANTS_BLOCKED:
            return "NC1HWC0"
        layouts = [self.tensors[self.place[name]].layout for name in runtime]
        if block.kind in TAKES_BLOCKED and layouts[0] == "NC1HWC0":
            return "NC1HWC0"
        if block.kind == "concat":
            whole = all(self.tensors[self.place[name]].shape[1] % 16 == 0 for name in runtime)
            return "NC1HWC0" if whole and set(layouts) == {"NC1HWC0"} else "plain"
        return "plain"

    def block(self, block: Block) -> None:
        made = {o for node in block.nodes for o in node.outputs}
        runtime = list(dict.fromkeys(i for n in block.nodes for i in n.inputs if i in self.place and i not in made))
        layout = self.layout_for(block, runtime)
        inputs = []
        for name in runtime:
            source = self.place[name]
            plain = self.plain(self.tensors[source].shape)
            inputs.append(self.in_layout(source, plain if layout == "plain" else layout))
        name = device_name(block.nodes, self.habit, len(self.ops))
        outputs = []
        last = block.nodes[-1]
        for index, out in enumerate(last.outputs):
            value = self.net.samples[out]
            dtype = {"f": self.habit.storage, "i": "int32", "u": "uint8"}[value.dtype.kind]
            shape = value.shape
            here = "NC1HWC0" if layout == "NC1HWC0" and len(shape) == 4 else self.plain(shape)
            outputs.append(Stored(f"{name}:{index}", out, shape, dtype, here, last.name, index))
            self.place[out] = outputs[-1].name
        kind = "view" if block.kind in VIEWS else "compute"
        op = DeviceOp(name, kind, device_type(block), block.kind, block.nodes, tuple(inputs),
                      tuple(t.name for t in outputs))  # fmt: skip
        self.add(op, outputs)

    def finish(self) -> Program:
        ends = []
        for name in self.net.outputs:
            source = self.place[name]
            source = self.in_layout(source, self.plain(self.tensors[source].shape))
            wanted = "float32" if self.net.samples[name].dtype.kind == "f" else "int64"
            if self.tensors[source].dtype != wanted:
                source = self.inserted("cast", source, wanted, self.tensors[source].layout)
            ends.append(source)
        self.add(DeviceOp("Node_Output", "end", "NetOutput", "end", (), tuple(ends), ()), [])
        return Program(self.net, self.habit, tuple(self.ops), self.tensors)


def compiled(net: Net, habit: Habit) -> Program:
    compiler = Compiler(net, habit)
    for name in net.inputs:
        compiler.data(name)
    for block in merged_blocks(net, habit):
        compiler.block(block)
    return compiler.finish()


# --- running -----------------------------------------------------------------------------------------------------


def folded(nodes: list[Node], consts: dict[str, Array]) -> tuple[list[Node], dict[str, Array]]:
    """Batch norm behind a convolution goes into its weight and bias, computed in float64."""
    out: list[Node] = []
    consts = dict(consts)
    for node in nodes:
        before = out[-1] if out else None
        if node.kind != "BatchNormalization" or before is None or before.kind not in ("Conv", "ConvTranspose"):
            out.append(node)
            continue
        gamma, beta, mean, var = (consts[name].astype(np.float64) for name in node.inputs[1:])
        scale = gamma / np.sqrt(var + node.attrs["epsilon"])
        weight = consts[before.inputs[1]].astype(np.float64)
        old = consts[before.inputs[2]].astype(np.float64) if len(before.inputs) > 2 else 0.0
        axis = (-1, 1, 1, 1)[: weight.ndim] if before.kind == "Conv" else (1, -1, 1, 1)
        names = (before.inputs[1], f"{before.inputs[1]}.folded_bias")
        consts[names[0]] = weight * scale.reshape(axis)
        consts[names[1]] = beta + (old - mean) * scale
        out[-1] = replace(before, inputs=(before.inputs[0], *names), outputs=node.outputs)
    return out, consts


def used_consts(nodes: list[Node], consts: dict[str, Array]) -> list[str]:
    """Constants that lie in the device's memory: float and of more than one element, in order of use."""
    names = [name for node in nodes for name in node.inputs if name in consts and node.kind != "Resize"]
    return list(dict.fromkeys(n for n in names if consts[n].dtype.kind == "f" and consts[n].size > 1))


def op_consts(op: DeviceOp, net: Net, habit: Habit, twist: Twist) -> tuple[list[Node], dict[str, Array]]:
    """The op's nodes and constants as this device runs them."""
    nodes = [replace(node, attrs={**node.attrs, **twist.attrs.get(node.name, {})}) for node in op.nodes]
    consts = {name: net.consts[name] for node in nodes for name in node.inputs if name in net.consts}
    consts.update({name: value for name, value in twist.consts.items() if name in consts})
    if habit.folds:
        nodes, consts = folded(nodes, consts)
    return nodes, {name: habit.constant(value) for name, value in consts.items()}


def raw_results(op: DeviceOp, net: Net, habit: Habit, reads: dict[str, Array], twist: Twist) -> list[Array]:
    """The op's results before they are stored; `reads` holds its inputs by original name."""
    habit = twist.habit or habit
    nodes, consts = op_consts(op, net, habit, twist)
    env = dict(twist.reads(dict(reads)) if twist.reads else reads)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for node in nodes:
            args = [consts.get(name, env.get(name)) if name else None for name in node.inputs]
            kernel = twist.kernels.get(node.name, KERNELS[node.kind])
            env.update(zip(node.outputs, kernel(habit, args, node.attrs), strict=True))
        results = [env[name] for name in op.nodes[-1].outputs]
        if twist.result:
            results[0] = twist.result(results[0])
    return results


def as_stored(value: Array, tensor: Stored, habit: Habit) -> Array:
    """What memory holds after writing value: float32 with the values of the type, or integers."""
    if tensor.dtype in FLOATS:
        return habit.store(value) if tensor.dtype == habit.storage else value.astype(np.float32)
    return value.astype(tensor.dtype)


def run_op(program: Program, op: DeviceOp, values: dict[str, Array], twist: Twist | None = None) -> Result:
    """Runs one device op on stored values; `values` is not changed."""
    twist = twist or Twist()
    habit = program.habit
    inputs = [twist.dumped_inputs.get(name, values[name]) for name in op.inputs]
    outs = [program.tensors[name] for name in op.outputs]
    consts: dict[str, Array] = {}
    if op.kind == "compute":
        reads = {program.tensors[n].original: v for n, v in zip(op.inputs, inputs, strict=True)}
        raw = raw_results(op, program.net, habit, reads, twist)
        clean = Twist() if not twist.wrong_in_memory else twist
        nodes, kept = op_consts(op, program.net, habit, clean)
        consts = {name: kept[name] for name in used_consts(nodes, kept)}
    elif op.kind == "view":
        raw = [inputs[0].reshape(outs[0].shape)]
    elif op.kind in ("cast", "trans"):
        raw = [inputs[0] if twist.result is None else twist.result(inputs[0])]
    else:
        return Result(inputs, {}, [])
    storing = twist.habit or habit
    if storing.storage != habit.storage:
        storing = replace(storing, storage=habit.storage)
    outputs = [as_stored(value, tensor, storing) for value, tensor in zip(raw, outs, strict=True)]
    if twist.stored:
        outputs[0] = twist.stored(outputs[0]).astype(outputs[0].dtype)
    return Result(inputs, consts, outputs)


@dataclass
class Run:
    """All stored values of one inference and what every op read and left."""

    values: dict[str, Array]
    results: dict[str, Result]


def run(program: Program, fed: dict[str, Array], planted: str = "", twist: Twist | None = None,
        before: Run | None = None) -> Run:  # fmt: skip
    """One inference. With `before`, ops ahead of the planted one are taken from that run, for they are the same."""
    values: dict[str, Array] = {}
    results: dict[str, Result] = {}
    reached = not planted
    for op in program.ops:
        if op.kind == "data":
            values[op.outputs[0]] = fed[op.name]
            continue
        reached = reached or op.name == planted
        if before is not None and not reached:
            results[op.name] = before.results[op.name]
        else:
            results[op.name] = run_op(program, op, values, twist if op.name == planted else None)
        values.update(zip(op.outputs, results[op.name].outputs, strict=True))
    return Run(values, results)


def exact_outputs(program: Program, op: DeviceOp, inputs: list[Array]) -> list[Array]:
    """The op's original nodes in float64 with the network's own constants on the given inputs."""
    if op.kind != "compute":
        return [inputs[0].astype(np.float64).reshape(program.tensors[op.outputs[0]].shape)]
    reads = {
        program.tensors[n].original: v.astype(np.float64) if v.dtype.kind == "f" else v
        for n, v in zip(op.inputs, inputs, strict=True)
    }
    return raw_results(op, program.net, EXACT, reads, Twist())


def relative(true: Array, other: Array) -> float:
    """Relative Euclidean distance over elements that are finite on both sides; 0 if both are all zero."""
    with np.errstate(invalid="ignore"):  # a signalling NaN may stand in a damaged tensor
        a, b = true.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    good = np.isfinite(a) & np.isfinite(b)
    norm = float(np.linalg.norm(a[good]))
    apart = float(np.linalg.norm((a - b)[good]))
    return apart / norm if norm else (math.inf if apart else 0.0)
