"""What compilers make of a BatchNorm: folded into the layer before it, or restated as one scale and one offset.

y = (x - mean) / sqrt(var + eps) * gamma + beta; the formulas of each format and of what is stored of it are here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acccmp.core.graph import Graph, Node
from acccmp.core.tensor import TensorRef

Array = NDArray[Any]
Weights = Mapping[str, TensorRef]

CONVOLUTIONS = frozenset({
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Conv2D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "Convolution",
    "Deconvolution", "InnerProduct", "Dense", "MatMulV2", "Conv2DTranspose", "Conv3D",
})
# Axis of the output channels in a weight; all others have it first.
_OUTPUT_AXIS = {"ConvTranspose": 1, "Deconvolution": 1, "Conv2D": -1, "MatMul": -1, "Conv2DBackpropInput": -2}
BATCH_NORMS = frozenset({
    "BatchNormalization", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "BatchNorm", "SpatialBN",
})
# Ops that hand a weight on: the layer that uses it comes behind them.
PASSING = frozenset({
    "Identity", "Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "QuantizeLinear", "DequantizeLinear",
    "TransData", "TransposeD", "Load", "Split", "Bitcast", "ReFormat", "ExpandDims",
})

@dataclass(frozen=True)
class Norm:
    """A BatchNorm of the original: names of its parameters ("" without one). `factor` divides mean and variance."""

    node: str
    scale: str
    offset: str
    mean: str
    variance: str
    factor: str
    epsilon: float

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.scale, self.offset, self.mean, self.variance, self.factor)))

    def numbers(self, weights: Weights) -> tuple[Array, Array, Array, Array] | None:
        """slope = gamma / sqrt(var + eps), beta, mean and var, in float64; None when one of them is no weight."""
        if any(name not in weights for name in self.parameters):
            return None
        factor = float(float64(weights, self.factor, 1.0).reshape(-1)[0])
        by = 1 / factor if factor else 0.0  # Caffe's own rule for a factor of 0
        mean, variance = float64(weights, self.mean, 0.0) * by, float64(weights, self.variance, 1.0) * by
        with np.errstate(all="ignore"):
            slope = float64(weights, self.scale, 1.0) / np.sqrt(variance + self.epsilon)
        return np.asarray(slope), float64(weights, self.offset, 0.0), mean, variance

    def forms(self, weights: Weights) -> tuple[list[Array], list[Array]]:
        """What compilers store of a BatchNorm that stays an op: forms of its scale, and of its offset."""
        found = self.numbers(weights)
        if found is None:
            return [], []
        slope, beta, mean, variance = found
        with np.errstate(all="ignore"):
            return (
                [slope, np.asarray(1 / np.sqrt(variance + self.epsilon))],
                [np.asarray(beta - mean * slope), np.asarray(beta / slope - mean), -mean],
            )


@dataclass(frozen=True)
class Fold:
    """A BatchNorm behind a layer: names of the layer's weight and bias ("" without one), axis of its outputs."""

    norm: Norm
    weight: str
    bias: str
    axis: int

    def of(self, weights: Weights, name: str) -> Array | None:
        """The layer's weight W * slope, or its bias (b - mean) * slope + beta."""
        found = self.norm.numbers(weights)
        if found is None or self.weight not in weights or (self.bias and self.bias not in weights):
            return None
        slope, beta, mean, _ = found
        if name == self.bias:
            return np.asarray((float64(weights, self.bias, 0.0) - mean) * slope + beta)
        weight = weights[self.weight].numpy().astype(np.float64)
        if name != self.weight or weight.ndim < 2 or weight.shape[self.axis] != np.size(slope):
            return None
        shape = [1] * weight.ndim
        shape[self.axis] = np.size(slope)
        return np.asarray(weight * slope.reshape(shape))


def find_norm(graph: Graph, node: Node) -> Norm | None:
    """The parameters of a BatchNorm node, with those of Caffe's Scale behind it; None for any other node."""
    if node.op_type not in BATCH_NORMS:
        return None
    parameters = _arguments(graph, node)
    epsilon = node.attrs.get("epsilon", node.attrs.get("eps"))
    epsilon = float(epsilon) if isinstance(epsilon, int | float) else 1e-5
    if node.op_type == "BatchNorm":  # Caffe: mean, variance, their common divisor; gamma and beta in a Scale layer
        scale = _only_reader(graph, node)
        affine = _arguments(graph, scale) if scale is not None and scale.op_type == "Scale" else ()
        gamma, beta = [*affine, "", ""][:2]
        mean, variance, factor = [*parameters, "", "", ""][:3]
    else:
        gamma, beta, mean, variance = [*parameters, "", "", "", ""][:4]
        factor = ""
    return Norm(node.name, gamma, beta, mean, variance, factor, epsilon) if variance else None


def find_fold(graph: Graph, layer: Node) -> Fold | None:
    """The BatchNorm that alone reads what `layer` makes; None if there is none."""
    behind = _only_reader(graph, layer)
    norm = find_norm(graph, behind) if behind is not None else None
    own = _arguments(graph, layer)
    if norm is None or not own:
        return None
    axis = _OUTPUT_AXIS.get(layer.op_type, 0)
    if layer.op_type == "Gemm" and not layer.attrs.get("transB"):
        axis = 1
    return Fold(norm, own[0], own[1] if len(own) > 1 else "", axis)


def _only_reader(graph: Graph, node: Node) -> Node | None:
    readers = graph.consumers(node.outputs[0]) if node.outputs else ()
    return graph[readers[0].node] if len(readers) == 1 else None


def _arguments(graph: Graph, node: Node) -> tuple[str, ...]:
    """The weights that a node uses, in the order of its slots; those that come through an Identity too."""
    if node.weights:
        return node.weights
    return tuple(found for tensor in node.slots if tensor and (found := _weight_behind(graph, tensor, graph.weights)))


def _weight_behind(graph: Graph, tensor: str, weights: Mapping[str, TensorRef], depth: int = 4) -> str:
    if tensor in weights:
        return tensor
    made = graph.producer(tensor)
    if made is None or made.node not in graph or not depth:
        return ""
    node = graph[made.node]
    feeds = [name for name in node.inputs if name]
    if node.op_type not in PASSING or not feeds:
        return ""
    return _weight_behind(graph, feeds[0], weights, depth - 1)


def float64(weights: Weights, name: str, default: float) -> Array:
    """The numbers of a weight, flat; `default` without a name."""
    return np.asarray(weights[name].numpy().astype(np.float64).reshape(-1) if name else default)
