"""Golden runs of Caffe models with OpenCV: every tensor of every layer in one forward pass.

OpenCV is used as a plain reference: fusion and Winograd off (they move results, or return other layers' memory), one
`forward` for all layers. Each tensor is written as a blob of its own, so that what a layer made stays what it was
when an in-place layer follows. One layer that OpenCV does not know stops a whole net; here the net is run up to such
layers, and what depends on them is named in `skipped`. The number of threads does not change the results (measured:
bit-equal with 1 and 2 threads on the nets of ../shared/data).
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from acccmp.core.dump import Port
from acccmp.core.graph import Graph, Node
from acccmp.errors import InputError, MissingExtra, RunError, UnknownName
from acccmp.models import caffe_writing
from acccmp.models.caffe import with_input_shapes
from acccmp.models.caffe_layers import EVALUATION, NOT_INPUTS
from acccmp.models.caffe_shapes import fits, weight_shapes
from acccmp.models.caffe_weights import caffemodel
from acccmp.runners.captured import Captured

Arrays = dict[str, np.ndarray]


def run(graph: Graph, inputs: Mapping[str, np.ndarray], wanted: Collection[str] | None = None) -> Captured:
    """Run a Caffe graph (or a part of one) on `inputs` (tensor name -> array) and keep every tensor, or the `wanted`.

    Values are float32, as in Caffe. Inputs may have another size than the file says, as long as rank and channels
    agree. Layers that OpenCV cannot run, layers without weights and layers that only judge a net in training are
    left out with everything below them: `skipped` has a reason for each of their tensors.

    Raises MissingExtra without OpenCV 4, InputError for inputs that are missing, unknown or of a wrong shape,
    UnknownName for wanted tensors that are not there, RunError when the graph has no weights at all.
    """
    cv2 = _opencv()
    feeds = _feeds(graph, inputs)
    graph = with_input_shapes(graph, {tensor: array.shape for tensor, array in feeds.items()})
    todo, unfed = _fed(graph, _needed(graph, wanted), feeds)
    todo, bare = _runnable(graph, todo)
    made, unknown = _frontier(cv2, graph, todo, feeds)
    made, notes = _in_caffes_shapes(graph, made)
    skipped = {**unknown, **bare, **unfed}
    keep = None if wanted is None else set(wanted)
    tensors: dict[Port, np.ndarray] = {}
    for tensor in graph.inputs:
        if tensor in feeds and (keep is None or tensor in keep):
            tensors[graph.producer(tensor) or Port(tensor, "output", 0)] = feeds[tensor]
    for node in graph.nodes:
        for index, tensor in enumerate(node.outputs):
            if tensor in made and (keep is None or tensor in keep):
                tensors[Port(node.name, "output", index)] = made[tensor]
    if keep is not None:
        skipped = {tensor: reason for tensor, reason in skipped.items() if tensor in keep}
    return Captured(tensors, "opencv", str(cv2.__version__), skipped, tuple(notes))


def _opencv() -> Any:
    try:
        import cv2
    except ModuleNotFoundError:
        raise MissingExtra("opencv-python-headless", "caffe", "running a Caffe model") from None
    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        raise MissingExtra(
            "opencv-python-headless below version 5", "caffe",
            f"running a Caffe model (OpenCV {cv2.__version__} cannot read Caffe any more)",
        )
    return cv2


# -- what goes in ------------------------------------------------------------------------------------------------


def _feeds(graph: Graph, inputs: Mapping[str, np.ndarray]) -> Arrays:
    """The inputs as float32 arrays in the shape that the net takes."""
    feeds: Arrays = {}
    for name, given in inputs.items():
        if name not in graph.inputs:
            raise UnknownName("input", name, graph.inputs, graph.name)
        array = np.asarray(given)
        if array.dtype.kind not in "fiub":
            raise InputError(f"the input {name!r} is {array.dtype}; Caffe takes real numbers (float32)")
        shape = graph.spec(name).shape
        if shape is not None and not _could_be(array.shape, shape):
            sizes = tuple(dim for dim in shape if isinstance(dim, int))
            if len(sizes) < len(shape) or array.size != np.prod(sizes, dtype=np.int64):
                raise InputError(
                    f"the input {name!r} has shape {array.shape}, {graph.name} takes {shape} "
                    "(other heights and widths are fine, another rank or number of channels is not)"
                )
            array = array.reshape(sizes)
        feeds[name] = np.ascontiguousarray(array, np.float32)
    return feeds


def _could_be(given: Sequence[int], wanted: Sequence[Any]) -> bool:
    """Can the net take this shape? Batch and, of 4-D inputs, height and width may differ from the file's."""
    if len(given) != len(wanted) or 0 in given:
        return False
    free = {0, 2, 3} if len(wanted) == 4 else {0}
    return all(
        axis in free or not isinstance(size, int) or size == have
        for axis, (have, size) in enumerate(zip(given, wanted, strict=True))
    )


def _needed(graph: Graph, wanted: Collection[str] | None) -> list[Node]:
    """The nodes that compute something that was asked for, in order; layers that bring data from elsewhere apart."""
    given = set(graph.inputs)
    nodes = [node for node in graph.nodes if node.outputs and not given.issuperset(node.outputs) and not _brings(node)]
    if wanted is None:
        return nodes
    known = {tensor for node in graph.nodes for tensor in node.outputs} | given
    for name in wanted:
        if name not in known:
            raise UnknownName("tensor", name, known, graph.name)
    below, kept = set(wanted), []
    for node in reversed(nodes):
        if below.intersection(node.outputs):
            below.update(node.inputs)
            kept.append(node)
    return kept[::-1]


def _brings(node: Node) -> bool:
    """Is it a layer that brings data from elsewhere? (Its labels are no inputs of the net.)"""
    return not node.inputs and node.op_type not in NOT_INPUTS


# -- what is left out --------------------------------------------------------------------------------------------


def _below(todo: Sequence[Node], lost: Mapping[str, str]) -> tuple[list[Node], dict[str, str]]:
    """The nodes that neither make nor need a lost tensor; and a reason for each tensor that is lost with the others.

    `lost` maps tensors to reasons; what depends on them gets the reason of the first.
    """
    why, kept = dict(lost), []
    for node in todo:
        first = next((tensor for tensor in node.inputs if tensor in why), None)
        if first is None and not any(tensor in why for tensor in node.outputs):
            kept.append(node)
        elif first is not None:
            reason = why[first] if why[first].startswith("below ") else f"below {first}: {why[first]}"
            why = {**dict.fromkeys(node.outputs, reason), **why}
    return kept, why


def _fed(graph: Graph, todo: list[Node], feeds: Arrays) -> tuple[list[Node], dict[str, str]]:
    """The nodes whose inputs were given. InputError when one is missing that a model output needs."""
    made = {tensor for node in todo for tensor in node.outputs}
    read = dict.fromkeys(tensor for node in todo for tensor in node.inputs)
    missing = [tensor for tensor in read if tensor not in made and tensor not in feeds]
    for tensor in missing:
        if set(_below(todo, {tensor: ""})[1]).intersection(graph.outputs):
            shape = graph.spec(tensor).shape
            raise InputError(
                f"the input {tensor!r} of {graph.name}{f' (shape {shape})' if shape else ''} was not given: "
                f"--input {tensor}=FILE"
            )
    return _below(todo, dict.fromkeys(missing, "an input that was not given"))


def _runnable(graph: Graph, todo: list[Node]) -> tuple[list[Node], dict[str, str]]:
    """The nodes that have weights of the right sizes (OpenCV does not check them), and are not for training."""
    lost: dict[str, str] = {}
    bare = False
    for node in todo:
        if node.op_type in EVALUATION:
            lost.update(dict.fromkeys(node.outputs, f"{node.op_type} is for training"))
            continue
        due = weight_shapes(node.op_type, node.attrs, [graph.spec(tensor).shape for tensor in node.inputs])
        if due is None:
            continue
        found = [name for name in node.weights if name in graph.weights]
        bare |= not found
        reason = ""
        if len(found) < len(due):
            reason = f"{len(found) or 'none'} of the {len(due)} weights of {node.name} ({node.op_type}) are there"
        for name, shape in zip(found, due, strict=False):
            if not fits(graph.weights[name].shape, shape):
                reason = f"the weight {name} has shape {graph.weights[name].shape}, {shape} is due"
        if reason:
            lost.update(dict.fromkeys(node.outputs, reason))
    if bare and not graph.weights:
        raise RunError(f"{graph.name} has no weights: give the .caffemodel too (--weights FILE)")
    return _below(todo, lost)


# -- OpenCV ------------------------------------------------------------------------------------------------------


@contextmanager
def _quiet(cv2: Any) -> Iterator[None]:
    """OpenCV tells stderr about every failing layer; the reasons are in `skipped`."""
    logging = cv2.utils.logging
    before = logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(before)


def _frontier(
    cv2: Any, graph: Graph, todo: list[Node], feeds: Arrays,
) -> tuple[Arrays, dict[str, str]]:
    """Run as much of `todo` as OpenCV can. Each layer that it cannot run is found, left out, and the rest run again."""
    names = _own_names(graph)
    part = graph.keep(node.name for node in todo)
    rows = [row for row in caffe_writing.caffemodel_layers(part, names) if row[2]]  # found by name; others are not needed
    weights = np.frombuffer(b"".join(caffemodel(caffe_writing.net_message(part, names), rows)), np.uint8)
    why: dict[str, str] = {}
    with _quiet(cv2):
        while todo:
            try:
                return _forward(cv2, graph, todo, feeds, weights), why
            except cv2.error as error:
                stopper, reason = _stopper(cv2, graph, todo, feeds, weights, str(error))
                lost = dict.fromkeys(stopper.outputs, f"OpenCV cannot run {stopper.name} ({stopper.op_type}): {reason}")
                todo, below = _below(todo, lost)
                why.update(below)
    return {}, why


def _own_names(graph: Graph) -> dict[str, str]:
    """Every tensor as a blob of its own name: no layer works in place."""
    names = {tensor: tensor for node in graph.nodes for tensor in (*node.inputs, *node.outputs)}
    names.update((tensor, tensor) for tensor in graph.inputs)
    return names


def _forward(cv2: Any, graph: Graph, todo: Sequence[Node], feeds: Arrays, weights: np.ndarray) -> Arrays:
    """One forward of just these nodes: tensor -> array. cv2.error when any of them cannot be run."""
    part = graph.keep(node.name for node in todo)
    text = np.frombuffer(caffe_writing.prototxt(part, _own_names(part)).encode(), np.uint8)  # bytes would be taken for a path
    net = cv2.dnn.readNetFromCaffe(text, weights) if weights.size else cv2.dnn.readNetFromCaffe(text)
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    net.setPreferableTarget(cv2.dnn.DNN_TARGET_CPU)
    net.enableFusion(False)
    net.enableWinograd(False)
    for tensor in part.inputs:
        net.setInput(feeds[tensor], tensor)
    outputs = net.forwardAndRetrieve([node.name for node in todo])
    return {
        tensor: np.asarray(array)
        for node, arrays in zip(todo, outputs, strict=True)
        for tensor, array in zip(node.outputs, arrays, strict=False)
    }


def _in_caffes_shapes(graph: Graph, made: Arrays) -> tuple[Arrays, list[str]]:
    """The arrays in the shapes that Caffe's rules give them; and a note on each that cannot have it."""
    shaped, notes = dict(made), []
    for tensor, array in made.items():
        spec = graph.spec(tensor)
        shape = tuple(dim for dim in spec.shape or () if isinstance(dim, int))
        if not spec.is_static or shape == array.shape:
            continue
        if array.size == math.prod(shape):
            shaped[tensor] = array.reshape(shape)
        else:
            notes.append(f"OpenCV makes {tensor} of shape {array.shape}, Caffe's rules say {shape}")
    return shaped, notes


def _stopper(
    cv2: Any, graph: Graph, todo: Sequence[Node], feeds: Arrays, weights: np.ndarray, text: str,
) -> tuple[Node, str]:
    """The first layer that OpenCV cannot run, and its reason: named in the message, else searched for by halving."""
    named = re.search(r'layer "(.*?)" of type', text, re.DOTALL)
    if named is not None:
        for node in todo:
            if node.name == named[1]:
                return node, "it does not know this type"
    good, bad = 0, len(todo)  # the first `good` nodes run, the first `bad` do not
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            _forward(cv2, graph, todo[:middle], feeds, weights)
            good = middle
        except cv2.error as problem:
            bad, text = middle, str(problem)
    return todo[bad - 1], trimmed(text)


def trimmed(message: str) -> str:
    """What an OpenCV message says, without place, code and the prototxt that it quotes; one line."""
    pattern = r"error: \(-?\d+:(?P<kind>[^)]*)\)\s*(?P<what>.*?)(?: in function '[^']*')?\s*$"
    found = re.search(pattern, message, re.DOTALL)
    text = message if found is None else found["what"] or found["kind"]
    line = " ".join(text.split())
    return line if len(line) <= 160 else line[:157] + "..."
