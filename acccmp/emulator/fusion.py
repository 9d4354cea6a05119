"""Fusion: which original nodes a device compiler makes into one op, and which it computes at compile time.

The rules are those that compilers for cube-and-vector NPUs share: batch norm goes into the weights of the convolution
before it, a bias and an activation are done before the result is stored, identities vanish, and whatever depends on
constants and static shapes alone is folded away. Only where an intermediate tensor has a single reader and is no model
output can it vanish, so every tensor that is left is one that was stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from acccmp.core.graph import Graph, Node
from acccmp.models.caffe_shapes import Params

# Ops that start a fused chain, and what may follow; each row is one optional link, in this order. The names are those
# of ONNX, TensorFlow and Caffe, which mean the same where they are the same.
CONVOLUTIONS = frozenset({
    "Conv", "ConvTranspose", "Conv2D", "Conv3D", "DepthwiseConv2dNative", "Convolution", "Deconvolution",
    "ConvolutionDepthwise", "DepthwiseConvolution",
})
STARTS = CONVOLUTIONS | {
    "MatMul", "Gemm", "Conv2DBackpropInput", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "InnerProduct",
}
OWN_BIAS = "BiasAdd"  # TensorFlow's convolutions have their bias behind them; a batch norm may follow it
# Caffe's batch norm is two layers: one with the statistics, one with the factors.
BATCH_NORMS = frozenset({
    "BatchNormalization", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "BatchNorm", "Scale",
})
BIAS = frozenset({"Add", "AddV2", OWN_BIAS, "Bias"})
ACTIVATIONS = frozenset({
    "Relu", "LeakyRelu", "Clip", "PRelu", "Elu", "Selu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Softplus",
    "Relu6", "ReLU", "PReLU", "ELU", "TanH", "ReLU6",
})
VANISHING = frozenset({"Identity", "Dropout", "StopGradient", "PreventGradient", "Snapshot"})

# Their value is known as soon as shapes are.
_SHAPE_OPS = frozenset({"Shape", "Size", "ShapeN", "Rank"})
_RANDOM = frozenset({
    "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli",
    "RandomStandardNormal", "RandomUniformInt", "TruncatedNormal", "RandomShuffle", "RandomGamma",
    "ParameterizedTruncatedNormal",
})

# Input slots that a compiler turns into attributes: numbers that steer an op and are never stored narrowly. The
# statistics of batch norm stay float32 on devices too (Caffe's are no inputs: EXACT_WEIGHTS names the layers).
EXACT_SLOTS: Mapping[str, tuple[int, ...]] = {
    "Resize": (1, 2, 3), "Upsample": (1,), "Clip": (1, 2), "Pad": (2,), "Dropout": (1, 2), "Range": (0, 1, 2),
    "QuantizeLinear": (1, 2), "DequantizeLinear": (1, 2), "BatchNormalization": (1, 2, 3, 4), "OneHot": (2,),
    "NonMaxSuppression": (2, 3, 4),
    "ClipByValue": (1, 2), "PadV2": (2,), "FusedBatchNorm": (1, 2, 3, 4), "FusedBatchNormV2": (1, 2, 3, 4),
    "FusedBatchNormV3": (1, 2, 3, 4), "FakeQuantWithMinMaxVars": (1, 2), "QuantizeV2": (1, 2),
    "NonMaxSuppressionV3": (3, 4), "NonMaxSuppressionV4": (3, 4), "NonMaxSuppressionV5": (3, 4, 5),
    "LinSpace": (0, 1),
}


EXACT_WEIGHTS = frozenset({"BatchNorm"})


@dataclass(frozen=True)
class Step:
    """One op of the emulated device: the original nodes that it implements, in order. Its outputs are the last one's.

    `norms` are the batch norms that go into the weights of `nodes[0]`. A `folded` step is computed at compile time:
    there is no device op.
    """

    name: str
    nodes: tuple[Node, ...]
    norms: tuple[Node, ...] = ()
    folded: bool = False

    @property
    def reads(self) -> tuple[str, ...]:
        """Tensors that it needs from outside, in the order of first use."""
        made = {tensor for node in self.nodes for tensor in node.outputs}
        return tuple(dict.fromkeys(t for node in self.nodes for t in node.slots if t and t not in made))

    @property
    def hidden(self) -> frozenset[str]:
        """Inner tensors that never come about, because batch norms went into the weights."""
        last = self.nodes.index(self.norms[-1]) if self.norms else 0
        return frozenset(node.outputs[0] for node in self.nodes[:last])

    def steers(self, tensor: str) -> bool:
        """Does `tensor` only steer the step (so that it is never stored narrowly)?"""
        if any(tensor in norm.inputs[1:] for norm in self.norms):
            return False
        slots = [(node, slot) for node in self.nodes for slot, name in enumerate(node.slots) if name == tensor]
        return bool(slots) and all(
            not node.domain and slot in EXACT_SLOTS.get(node.op_type, ()) for node, slot in slots
        )

    @property
    def makes(self) -> tuple[str, ...]:
        """Tensors that it stores, in the order of the last node's outputs."""
        return tuple(tensor for tensor in self.nodes[-1].outputs if tensor)


@dataclass(frozen=True)
class Plan:
    """A model as a device compiler sees it: steps in execution order. `constants` are the tensors known beforehand."""

    steps: tuple[Step, ...]
    constants: frozenset[str]

    def step_of(self, node: str) -> Step:
        """The step that implements an original node. KeyError if there is none."""
        for step in self.steps:
            if any(member.name == node for member in step.nodes):
                return step
        raise KeyError(node)


def plan(graph: Graph, *, fuse: bool = True) -> Plan:
    """The steps of `graph`, all shapes taken as static. `fuse=False` keeps every node its own op (folding stays)."""
    constants = set(graph.weights) - set(graph.inputs)
    folded = set()
    for node in graph.nodes:
        fixed = all(tensor in constants for tensor in node.slots if tensor) and node.op_type not in _RANDOM
        fixed = fixed and not any(tensor in graph.inputs for tensor in node.outputs)
        if (fixed or node.op_type in _SHAPE_OPS) and not any(tensor in graph.outputs for tensor in node.outputs):
            folded.add(node.name)
            constants.update(tensor for tensor in node.outputs if tensor)
    steps: list[Step] = []
    taken: set[str] = set()
    names: set[str] = set()
    for node in graph.nodes:
        if node.name in taken:
            continue
        if node.name in folded:
            steps.append(Step(node.name, (node,), folded=True))
            continue
        chain, norms = _chain(graph, node, constants) if fuse else ((node,), ())
        taken.update(member.name for member in chain)
        name = unique("".join(member.name for member in chain), names)
        steps.append(Step(name, chain, norms))
    return Plan(_in_order(graph, steps), frozenset(constants))


def unique(name: str, used: set[str]) -> str:
    """The name, with a number behind it where it is `used`; it is then."""
    candidate, count = name, 1
    while candidate in used:
        count += 1
        candidate = f"{name}_{count}"
    used.add(candidate)
    return candidate


def _in_order(graph: Graph, steps: list[Step]) -> tuple[Step, ...]:
    """Steps by the place of their last node: then every constant that a bias or slope needs is there."""
    return tuple(sorted(steps, key=lambda step: graph.depth[step.nodes[-1].name]))


def _chain(graph: Graph, start: Node, constants: set[str]) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
    chain = [start]
    norms: list[Node] = []
    if start.op_type in STARTS and not start.domain:
        after = _only_reader(graph, chain[-1])
        if after is not None and after.op_type == OWN_BIAS and _others_constant(after, chain[-1], constants):
            chain.append(after)
            after = _only_reader(graph, after)
        while after is not None and _folds(start, after, chain[-1], constants):
            norms.append(after)
            chain.append(after)
            after = _only_reader(graph, after)
        if after is not None and after.op_type in BIAS and _others_constant(after, chain[-1], constants):
            chain.append(after)
            after = _only_reader(graph, after)
        if after is not None and after.op_type in ACTIVATIONS and _others_constant(after, chain[-1], constants):
            chain.append(after)
    while (after := _only_reader(graph, chain[-1])) is not None and after.op_type in VANISHING:
        if sum(bool(tensor) for tensor in after.outputs) > 1 and graph.consumers(after.outputs[1]):
            break  # somebody wants the mask of the dropout
        chain.append(after)
    return tuple(chain), tuple(norms)


def _only_reader(graph: Graph, node: Node) -> Node | None:
    """The node that alone reads what `node` makes, if nothing else wants it."""
    made = [tensor for tensor in node.outputs if tensor]
    wanted = [tensor for tensor in made if graph.consumers(tensor) or tensor in graph.outputs]
    if not made or wanted != made[:1] or made[0] in graph.outputs:
        return None
    readers = graph.consumers(made[0])
    if len(readers) != 1 or made[0] in graph[readers[0].node].captures or graph[readers[0].node].domain:
        return None
    return graph[readers[0].node]


def _others_constant(node: Node, before: Node, constants: set[str]) -> bool:
    """Does `node` read what `before` made (in its first slot, or anywhere for a sum) and otherwise only constants?"""
    made = set(before.outputs)
    place = node.op_type in BIAS or node.slots[0] in made
    return place and all(tensor in constants for tensor in node.slots if tensor and tensor not in made)


def _folds(start: Node, norm: Node, before: Node, constants: set[str]) -> bool:
    """Can `norm`, which follows `before`, go into the weights of `start`? All its numbers must be constants."""
    if norm.op_type not in BATCH_NORMS or start.op_type not in CONVOLUTIONS:
        return False
    if not _is_per_channel(norm) or norm.inputs[0] not in before.outputs:
        return False
    if start.op_type == "ConvTranspose" and attribute(start, "group", 1) != 1:
        return False
    needs = [*start.inputs[1:], *norm.inputs[1:]]
    return all(tensor in constants for tensor in needs if tensor)


def _is_per_channel(norm: Node) -> bool:
    """Does it multiply and shift each channel by numbers that are known beforehand?"""
    if norm.op_type == "BatchNormalization":
        return not attribute(norm, "training_mode", 0)
    if norm.op_type == "BatchNorm":
        return Params(norm.attrs)("batch_norm_param", "use_global_stats") is not False
    if norm.op_type == "Scale":
        return (Params(norm.attrs)("scale_param", "axis"), Params(norm.attrs)("scale_param", "num_axes")) == (1, 1)
    return not attribute(norm, "is_training", True)


def attribute(node: Node, name: str, default: Any) -> Any:
    """An attribute of a node, or its default."""
    value = node.attrs.get(name, default)
    return default if value is None else value
