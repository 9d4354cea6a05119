"""A Caffe net as a device stores it: op after op, each fed with what those before it stored, with weights as they are
deployed.

What is stored narrowly are the results of fused ops, not what is inside of them, and every weight. Batch norms and
their scales are folded into the weights before these are stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acccmp.core.dump import Port
from acccmp.core.graph import Graph, Node
from acccmp.core.tensor import TensorRef
from acccmp.emulator.fusion import EXACT_WEIGHTS, Step, plan
from acccmp.emulator.storage import Storage
from acccmp.models.caffe_layers import EVALUATION, with_parameter
from acccmp.models.caffe_shapes import Params
from acccmp.runners.opencv import run, run_parts
from acccmp.runners.runner import Part

Array = NDArray[Any]


def run_twice(
    graph: Graph, inputs: Mapping[str, Array], storage: Storage,
) -> Iterator[tuple[Port, Array, Array]]:
    """Each tensor that can be computed here, as the original has it and as the device would store it, inner tensors of
    fused ops included. Raises as the runner does.
    """
    captured = run(graph, inputs).tensors
    exact = {graph.tensor(port) or port.node: array for port, array in captured.items()}
    specs = {name: replace(graph.spec(name), shape=array.shape) for name, array in exact.items()}
    # A device has no layers for training: a tensor that only these read beside another layer can be fused away.
    served = [node.name for node in graph.nodes if node.op_type not in EVALUATION]
    device = replace(graph.keep(served, graph.outputs), tensors={**graph.tensors, **specs})
    stored = {name: storage.round(exact[name]) for name in graph.inputs if name in exact}
    yield from ((port, exact[name], stored[name]) for name in stored if (port := graph.producer(name)) is not None)
    for steps in _side_by_side(plan(device).steps):
        able = [step for step in steps if stored.keys() >= set(step.reads) and exact.keys() >= set(step.makes)]
        parts = [
            Part(part, {name: stored[name] for name in part.inputs}, [t for node in part.nodes for t in node.outputs])
            for step in able for part in _deployed(device, step, storage)
        ]
        made = {
            part.graph.tensor(port) or port.node: storage.round(array)
            for part, found in zip(parts, run_parts(parts), strict=True) for port, array in found.tensors.items()
        }
        stored.update((name, made[name]) for step in able for name in step.makes if name in made)
        yield from ((port, exact[name], made[name]) for name in made if (port := graph.producer(name)) is not None)


def _side_by_side(steps: Sequence[Step]) -> list[list[Step]]:
    """The steps that make something anew, in groups that can be run at once: none reads what another one makes."""
    groups: dict[int, list[Step]] = {}
    depth: dict[str, int] = {}
    for step in steps:
        if step.reads:
            place = max(depth.get(name, 0) for name in step.reads)
            depth.update(dict.fromkeys(step.makes, place + 1))
            groups.setdefault(place, []).append(step)
    return list(groups.values())


def _deployed(graph: Graph, step: Step, storage: Storage) -> list[Graph]:
    """The step with its weights as they are stored. Where batch norms went into these, also what they hide, with the
    convolution's own weights stored."""
    whole = _stored(graph.keep(node.name for node in step.nodes), storage)
    if not step.norms:
        return [whole]
    last = step.nodes.index(step.norms[-1])
    hidden = [node.name for node in step.nodes[:last]]
    folded, weights = _folded(graph, step)
    deployed = {name: TensorRef.of(storage.round(array)) for name, array in weights.items()}
    return [
        replace(whole, nodes=(folded, *step.nodes[last + 1:]), weights={**whole.weights, **deployed}),
        whole.keep(hidden),
    ]


def _stored(part: Graph, storage: Storage) -> Graph:
    narrow = {name for node in part.nodes if node.op_type not in EXACT_WEIGHTS for name in node.weights}
    return replace(part, weights={
        name: TensorRef.of(storage.round(ref.numpy())) if name in narrow else ref
        for name, ref in part.weights.items()
    })


def _folded(graph: Graph, step: Step) -> tuple[Node, dict[str, Array]]:
    """The convolution of a step with the work of its batch norms done by its weights and its bias, not yet rounded."""
    convolution = step.nodes[0]
    scale, shift = _scale_and_shift(graph, step.norms)
    weight, *bias = (graph.weights[name].numpy() for name in convolution.weights)
    filters = len(scale)
    view = (1, 1, filters, -1)
    if convolution.op_type == "Deconvolution":  # each group of the channels that are read has filters of its own
        groups = Params(convolution.attrs)("convolution_param", "group")
        view = (groups, len(weight) // groups, filters // groups, -1)
    folded = (weight.reshape(view) * scale.reshape(view[0], 1, view[2], 1)).reshape(weight.shape)
    shifted = shift + (bias[0].reshape(-1) * scale if bias else 0)
    weights = {f"{step.name}/weights": folded.astype(np.float32), f"{step.name}/bias": shifted.astype(np.float32)}
    node = with_parameter(convolution, "convolution_param", "bias_term", "true")
    return replace(node, outputs=step.norms[-1].outputs, weights=tuple(weights)), weights


def _scale_and_shift(graph: Graph, norms: Sequence[Node]) -> tuple[Array, Array]:
    """Batch norms one after the other as y = x * scale + shift, in float64, per channel."""
    scale, shift = np.ones(1), np.zeros(1)
    for norm in norms:
        numbers = [graph.weights[name].numpy().astype(np.float64).reshape(-1) for name in norm.weights]
        if norm.op_type == "BatchNorm":
            mean, variance, (count,) = numbers
            mean, variance = (sums / count if count else 0 * sums for sums in (mean, variance))
            with np.errstate(all="ignore"):  # a damaged variance is NaN here as in the runner
                factor = 1 / np.sqrt(variance + Params(norm.attrs)("batch_norm_param", "eps"))
            scale, shift = scale * factor, (shift - mean) * factor
        else:
            factor, *offset = numbers
            scale, shift = scale * factor, shift * factor + sum(offset)
    return scale, shift
