"""Golden runs of Caffe models with OpenCV: every tensor of every layer in one forward pass.

OpenCV is used as a plain reference: fusion and Winograd off (they move results, or return other layers' memory), one
`forward` for all layers. Each tensor is written as a blob of its own, so that what a layer made stays what it was
when an in-place layer follows. One layer that OpenCV does not know stops a whole net; here the net is run up to such
layers, and what depends on them is named in `skipped`. The number of threads does not change the results (measured:
bit-equal with 1 and 2 threads on the nets of ../shared/data).
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from acccmp.core.dump import Port
from acccmp.core.graph import Graph, Node
from acccmp.errors import InputError, MissingExtra, RunError, UnknownName
from acccmp.models import caffe_writing
from acccmp.models.caffe import with_input_shapes
from acccmp.models.caffe_layers import EVALUATION, NOT_INPUTS
from acccmp.models.caffe_shapes import Params, defaults, fits, weight_shapes
from acccmp.models.caffe_text import Block, quoted
from acccmp.models.caffe_weights import caffemodel
from acccmp.runners import detectors
from acccmp.runners.runner import Captured, installed

Arrays = dict[str, np.ndarray]

# Where OpenCV goes its own way without a word (measured, 4.14, against Caffe's definitions in numpy).
# It spells a parameter in another way: (type, block, field) -> its field, and its words for the values.
RESPELLED: dict[tuple[str, str, str], tuple[str, Mapping[str, str]]] = {
    ("LRN", "lrn_param", "k"): ("bias", {}),
    ("Concat", "concat_param", "concat_dim"): ("axis", {}),
    ("Slice", "slice_param", "slice_dim"): ("axis", {}),
    ("Pooling", "pooling_param", "round_mode"): (
        "ceil_mode", {"CEIL": "true", "0": "true", "FLOOR": "false", "1": "false"},
    ),
}
# It takes no notice of a parameter: such a layer cannot be run unless the parameter has the value that OpenCV uses.
DEAF: dict[str, tuple[str, Mapping[str, Collection[Any]]]] = {
    "InnerProduct": ("inner_product_param", {"transpose": (False,)}),
    "Deconvolution": ("convolution_param", {"dilation": ((), (1,), (1, 1))}),
    "MVN": ("mvn_param", {"eps": (1e-9, 9.999999717180685e-10)}),
    "Swish": ("swish_param", {"beta": (1.0,)}),
    "Log": ("log_param", {"base": (-1.0,), "scale": (1.0,), "shift": (0.0,)}),
}
# Fields of forks that it understands; any other unknown field makes it forget the whole block it stands in.
UNDERSTOOD = {
    "pooling_param": ("ceil_mode",),
}
BLOCKS_UNDERSTOOD = frozenset({
    "permute_param", "prior_box_param", "norm_param", "roi_pooling_param",
    "psroi_pooling_param", "proposal_param",
})

# Types that make several tensors there. Of any other type it writes one; the others would be memory as it was.
SEVERAL_OUTPUTS = frozenset({"Convolution", "Pooling", "Proposal", "Slice", "Split"})


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
    graph = replace(graph, nodes=tuple(map(_respelled, graph.nodes)), source=replace(graph.source, generation="V2"))
    graph = with_input_shapes(graph, {tensor: array.shape for tensor, array in feeds.items()})
    todo, bare = _runnable(graph, _needed(graph, wanted))
    todo, unfed = _fed(graph, todo, feeds)
    with _quiet(cv2):
        made, skipped = _computed(cv2, graph.keep(node.name for node in todo), feeds, {**bare, **unfed})
    made, odd = _in_caffes_shapes(graph, made)
    notes = [*odd, *detectors.notes([node for node in graph.nodes if not made.keys().isdisjoint(node.outputs)])]
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


def version() -> str:
    extra = "opencv-contrib-python"
    return installed("opencv-python-headless", "opencv-python", f"{extra}-headless", extra)


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
            # Only flat values and dimensions of 1 are reshaped: (1, 12, 12, 3) is not (1, 3, 12, 12).
            same = array.ndim == 1 or [n for n in array.shape if n != 1] == [n for n in sizes if n != 1]
            if not same or len(sizes) < len(shape) or array.size != math.prod(sizes):
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
        if (deaf := _deaf_to(node)):
            lost.update(dict.fromkeys(node.outputs, f"OpenCV cannot run {node.name} ({node.op_type}): {deaf}"))
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


# -- what OpenCV makes of parameters -----------------------------------------------------------------------------


def _deaf_to(node: Node) -> str:
    """What of a layer OpenCV would leave out of account: a parameter, or all outputs but one; "" if nothing."""
    if node.op_type in detectors.LAYERS:
        return ""
    average = node.op_type == "Pooling" and Params(node.attrs)("pooling_param", "pool") != "MAX"
    if len(node.outputs) > 1 and (average or node.op_type not in SEVERAL_OUTPUTS):
        return f"it knows no such type with {len(node.outputs)} outputs"
    block, fields = DEAF.get(node.op_type, ("", {}))
    params = Params(node.attrs)
    for field, fine in fields.items():
        if params(block, field) not in fine:
            return f"it takes no notice of {field}: {params(block, field)}"
    return ""


def _respelled(node: Node) -> Node:
    """The node as V2 with its parameters as OpenCV spells them, and without those that its parser trips over.

    A type that only a fork knows is a word in V2; in V1 it is no type at all, and the whole text is refused.
    """
    source = node.source
    fields: list[tuple[str, str | Block]] = []
    for name, value in source.block.fields:
        if not isinstance(value, Block):
            fields.append((name, value))
        elif name in defaults():
            fields.append((name, Block(tuple(_inside(node.op_type, name, value)))))
        elif name in BLOCKS_UNDERSTOOD or not any(isinstance(inner, Block) for _, inner in value.fields):
            fields.append((name, value))
    return replace(node, source=replace(source, type_text=quoted(node.op_type), block=Block(tuple(fields))))


def _inside(op_type: str, block: str, given: Block) -> Iterator[tuple[str, str | Block]]:
    for name, value in given.fields:
        row = RESPELLED.get((op_type, block, name))
        if row is not None and isinstance(value, str):
            yield row[0], row[1].get(value, value)
        elif name in UNDERSTOOD.get(block, ()) or block in BLOCKS_UNDERSTOOD or name in defaults()[block]:
            yield name, value


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


def _computed(cv2: Any, part: Graph, feeds: Arrays, lost: dict[str, str]) -> tuple[Arrays, dict[str, str]]:
    """What can be computed of `part`, in stretches of OpenCV's layers and of those in numpy; and what is lost."""
    made: Arrays = {}
    for ours, nodes in itertools.groupby(part.nodes, key=lambda node: node.op_type in detectors.LAYERS):
        stretch, given = part.keep(node.name for node in nodes), {**feeds, **made}
        more, lost = _in_numpy(stretch, given, lost) if ours else _in_opencv(cv2, stretch, given, lost)
        made.update(more)
    return made, lost


def _in_numpy(part: Graph, feeds: Arrays, lost: dict[str, str]) -> tuple[Arrays, dict[str, str]]:
    known = dict(feeds)
    for node in part.nodes:
        todo, lost = _below([node], lost)
        if not todo:
            continue
        try:
            known.update(zip(node.outputs, detectors.compute(node, [known[name] for name in node.inputs]), strict=True))
        except ValueError as error:
            lost.update(dict.fromkeys(node.outputs, f"cannot run {node.name} ({node.op_type}): {error}"))
    return {tensor: array for tensor, array in known.items() if tensor not in feeds}, lost


def _in_opencv(cv2: Any, part: Graph, feeds: Arrays, lost: dict[str, str]) -> tuple[Arrays, dict[str, str]]:
    """What OpenCV can compute of `part`, and what is lost: the layers that it cannot run are found by halving.

    Each half is fed with what the one before it made, so that many bad layers cost no more than a few good runs.
    """
    todo, lost = _below(part.nodes, lost)
    if not todo:
        return {}, lost
    part = part.keep(node.name for node in todo)
    try:
        return _forward(cv2, part, feeds), lost
    except cv2.error as error:
        if len(todo) == 1:
            return {}, {**lost, **dict.fromkeys(todo[0].outputs, _refused(todo[0], str(error)))}
    middle = len(todo) // 2
    first, lost = _in_opencv(cv2, part.keep(node.name for node in todo[:middle]), feeds, lost)
    second, lost = _in_opencv(cv2, part.keep(node.name for node in todo[middle:]), {**feeds, **first}, lost)
    return {**first, **second}, lost


def _refused(node: Node, message: str) -> str:
    unknown = re.search(r'layer ".*?" of type', message, re.DOTALL) is not None
    return f"OpenCV cannot run {node.name} ({node.op_type}): " + (
        "it does not know this type" if unknown else trimmed(message)
    )


def _named_by_outputs(part: Graph) -> Graph:
    """Each layer under the name of the first tensor it makes: OpenCV calls a Convolution so, whatever its name is."""
    return replace(part, nodes=tuple(replace(node, name=node.outputs[0]) for node in part.nodes))


def _own_names(graph: Graph) -> dict[str, str]:
    """Every tensor as a blob of its own name: no layer works in place."""
    names = {tensor: tensor for node in graph.nodes for tensor in (*node.inputs, *node.outputs)}
    names.update((tensor, tensor) for tensor in graph.inputs)
    return names


def _forward(cv2: Any, part: Graph, feeds: Arrays) -> Arrays:
    """One forward of all layers of a part: tensor -> array. cv2.error when any of them cannot be run."""
    part = _named_by_outputs(part)
    names = _own_names(part)
    copies, asked = _asked_for(part)
    # Arrays: OpenCV takes `bytes` for a path. It finds weights by the layer's name; layers without need not be there.
    text = np.frombuffer((caffe_writing.prototxt(part, names) + copies).encode(), np.uint8)
    stored = caffe_writing.caffemodel_layers(replace(part, nodes=tuple(n for n in part.nodes if n.weights)), names)
    rows = [row for row in stored if row[2]]
    weights = np.frombuffer(b"".join(caffemodel(caffe_writing.net_message(part, names), rows)), np.uint8)
    net = cv2.dnn.readNetFromCaffe(text, weights) if weights.size else cv2.dnn.readNetFromCaffe(text)
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    net.setPreferableTarget(cv2.dnn.DNN_TARGET_CPU)
    net.enableFusion(False)
    net.enableWinograd(False)
    for tensor in part.inputs:
        net.setInput(feeds[tensor], tensor)
    outputs = net.forwardAndRetrieve(list(asked.values()))
    return {tensor: np.asarray(arrays[0]) for tensor, arrays in zip(asked, outputs, strict=True)}


def _asked_for(part: Graph) -> tuple[str, dict[str, str]]:
    """The layer whose first output is asked for each tensor; and those of them that are added at the end, as text.

    OpenCV keeps the first output of a layer that is asked for. The memory of a later one it gives away as soon as
    nobody needs to read it any more: to an in-place layer, to the next added layer (measured: every middle output of
    a Slice held its neighbour's values). So each output of a layer with several has a copy, which is a first output.
    """
    taken = {*part.inputs, *(tensor for node in part.nodes for tensor in node.outputs)}
    prefix = "copy"
    while any(name.startswith(prefix) for name in taken):
        prefix += "_"
    asked: dict[str, str] = {}
    text = ""
    for node in part.nodes:
        if len(node.outputs) == 1:
            asked[node.outputs[0]] = node.outputs[0]
            continue
        for tensor in node.outputs:
            asked[tensor] = f"{prefix}{len(asked)}"
            top = quoted(asked[tensor])
            text += f'layer {{ name: {top} type: "Split" bottom: {quoted(tensor)} top: {top} }}\n'
    return text, asked


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


def trimmed(message: str) -> str:
    """What an OpenCV message says, without place, code and the prototxt that it quotes; one line."""
    pattern = r"error: \(-?\d+:(?P<kind>[^)]*)\)\s*(?P<what>.*?)(?: in function '[^']*')?\s*$"
    found = re.search(pattern, message, re.DOTALL)
    text = message if found is None else found["what"] or found["kind"]
    line = " ".join(text.split())
    return line if len(line) <= 160 else line[:157] + "..."
