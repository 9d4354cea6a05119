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

from acccmp.core.graph import Graph, Node
from acccmp.core.wire import bytes_field
from acccmp.errors import InputError, MissingExtra, RunError, UnknownName
from acccmp.models import caffe_writing
from acccmp.models.caffe import with_input_shapes
from acccmp.models.caffe_layers import EVALUATION, NOT_INPUTS
from acccmp.models.caffe_shapes import Params, defaults, misfits
from acccmp.models.caffe_text import Block, quoted
from acccmp.models.caffe_weights import LAYER_FIELDS, StoredBlob, caffemodel
from acccmp.runners import detectors
from acccmp.runners.runner import Captured, Part, installed

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
    return run_parts([Part(graph, inputs, wanted)])[0]


def run_parts(parts: Sequence[Part]) -> list[Captured]:
    """`run` for several parts at once, each on inputs of its own: one net of all that OpenCV can run of them.

    Parts may overlap, and be fed with different values of one tensor. Raises as `run` does.
    """
    cv2 = _opencv()
    runs = [_Run(part) for part in parts]
    with _quiet(cv2):
        while any(one.todo for one in runs):
            for one in runs:
                _in_numpy(one, one.take(in_numpy=True))
            _in_opencv(cv2, [(one, one.take(in_numpy=False)) for one in runs])
    return [one.captured(str(cv2.__version__)) for one in runs]


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


class _Run:
    """A part while it is run: what is to be run still, the tensors known so far, and what is lost, with the reason."""

    def __init__(self, part: Part) -> None:
        self.wanted, self.values = part.wanted, _feeds(part.graph, part.inputs)
        graph = replace(
            part.graph, nodes=tuple(map(_respelled, part.graph.nodes)),
            source=replace(part.graph.source, generation="V2"),
        )
        self.graph = with_input_shapes(graph, {tensor: array.shape for tensor, array in self.values.items()})
        todo = _needed(self.graph, part.wanted)
        if not graph.weights and any(_misfits(graph, node) for node in todo if node.op_type not in EVALUATION):
            raise RunError(f"{graph.name} has no weights: give the .caffemodel too (--weights FILE)")
        self.lost: dict[str, str] = {}
        for node in todo:
            if reason := _left_out(self.graph, node):
                self.lose(node, reason)
        todo = self.possible(todo)
        self.lost.update(dict.fromkeys(_not_given(self.graph, todo, self.values), "an input that was not given"))
        self.todo = self.possible(todo)

    def take(self, in_numpy: bool) -> list[Node]:
        """The next nodes that are computed in numpy, or by OpenCV; they are no longer to do."""
        taken = list(itertools.takewhile(lambda node: (node.op_type in detectors.LAYERS) == in_numpy, self.todo))
        self.todo = self.todo[len(taken):]
        return taken

    def lose(self, node: Node, reason: str) -> None:
        self.lost.update(dict.fromkeys(node.outputs, reason))

    def possible(self, nodes: Sequence[Node]) -> list[Node]:
        """Those of them that depend on nothing that is lost. The others are lost too, for the reason of the first."""
        able = []
        for node in nodes:
            first = next((tensor for tensor in node.inputs if tensor in self.lost), None)
            if first is not None:
                why = self.lost[first]
                reason = why if why.startswith("below ") else f"below {first}: {why}"
                self.lost = {**dict.fromkeys(node.outputs, reason), **self.lost}
            elif self.lost.keys().isdisjoint(node.outputs):
                able.append(node)
        return able

    def captured(self, version: str) -> Captured:
        graph = self.graph
        values, odd = _in_caffes_shapes(graph, self.values)
        every = [*graph.inputs, *(tensor for node in graph.nodes for tensor in node.outputs)]
        keep = set(every if self.wanted is None else self.wanted)
        tensors = {
            port: values[tensor] for tensor in every
            if tensor in values and tensor in keep and (port := graph.producer(tensor)) is not None
        }
        skipped = {tensor: reason for tensor, reason in self.lost.items() if tensor in keep}
        told = detectors.notes([node for node in graph.nodes if not values.keys().isdisjoint(node.outputs)])
        return Captured(tensors, "opencv", version, skipped, (*odd, *told))


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
    """The nodes that compute something that was asked for, in order; layers that bring data from elsewhere apart (their
    labels are no inputs of the net)."""
    given = set(graph.inputs)
    nodes = [
        node for node in graph.nodes
        if not given.issuperset(node.outputs) and (node.inputs or node.op_type in NOT_INPUTS)
    ]
    if wanted is None:
        return nodes
    known = {tensor for node in graph.nodes for tensor in node.outputs} | given
    for name in wanted:
        if name not in known:
            raise UnknownName("tensor", name, known, graph.name)
    below, kept = set(wanted), []
    for node in reversed(nodes):
        if not below.isdisjoint(node.outputs):
            below.update(node.inputs)
            kept.append(node)
    return kept[::-1]


# -- what is left out --------------------------------------------------------------------------------------------


def _not_given(graph: Graph, todo: Sequence[Node], feeds: Arrays) -> list[str]:
    """The inputs of these nodes that were not given. InputError for one that a model output needs."""
    known = {tensor for node in todo for tensor in node.outputs} | feeds.keys()
    missing = [tensor for node in todo for tensor in node.inputs if tensor not in known]
    for tensor in missing:
        reached = {tensor}
        for node in todo:
            reached.update(node.outputs if not reached.isdisjoint(node.inputs) else ())
        if not reached.isdisjoint(graph.outputs):
            shape = graph.spec(tensor).shape
            raise InputError(
                f"the input {tensor!r} of {graph.name}{f' (shape {shape})' if shape else ''} was not given: "
                f"--input {tensor}=FILE"
            )
    return missing


def _misfits(graph: Graph, node: Node) -> list[str] | None:
    return misfits(node, [graph.spec(tensor).shape for tensor in node.inputs], graph.weights)


def _left_out(graph: Graph, node: Node) -> str:
    """Why a layer is not run: it is for training, OpenCV would compute something else, or its weights have not the
    right sizes (which OpenCV does not check); "" for one that is."""
    if node.op_type in EVALUATION:
        return f"{node.op_type} is for training"
    if deaf := _deaf_to(node):
        return f"OpenCV cannot run {node.name} ({node.op_type}): {deaf}"
    return next(iter(_misfits(graph, node) or ()), "")


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
    op_type, block = _as_opencv_has_it(node)
    fields: list[tuple[str, str | Block]] = []
    for name, value in block.fields:
        if not isinstance(value, Block):
            fields.append((name, value))
        elif name in defaults():
            fields.append((name, Block(tuple(_inside(op_type, name, value)))))
        elif name in BLOCKS_UNDERSTOOD or not any(isinstance(inner, Block) for _, inner in value.fields):
            fields.append((name, value))
    return replace(node, source=replace(node.source, type_text=quoted(op_type), block=Block(tuple(fields))))


def _as_opencv_has_it(node: Node) -> tuple[str, Block]:
    """The type and the parameters that make OpenCV compute what Caffe does."""
    params, block = Params(node.attrs), node.source.block
    if node.op_type == "Dropout" and not params("dropout_param", "scale_train"):
        kept = 1 - params("dropout_param", "dropout_ratio")  # what was not made up for in training is left out in use
        return "Power", Block((("power_param", Block((("scale", repr(kept)),))),))
    if node.op_type == "LRN" and params("lrn_param", "norm_region") == "WITHIN_CHANNEL":  # Caffe takes 1 for k there
        return "LRN", Block((*block.without("lrn_param").fields, ("lrn_param", block.block("lrn_param").without("k"))))
    return node.op_type, block


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


def _in_numpy(run: _Run, nodes: Sequence[Node]) -> None:
    for node in nodes:
        for able in run.possible([node]):
            try:
                made = detectors.compute(able, [run.values[name] for name in able.inputs])
                run.values.update(zip(able.outputs, made, strict=True))
            except ValueError as error:
                run.lose(able, f"cannot run {able.name} ({able.op_type}): {error}")


def _in_opencv(cv2: Any, stretches: Sequence[tuple[_Run, Sequence[Node]]]) -> None:
    """Run what OpenCV can run of these nodes: what it cannot is found by halving, and lost.

    Each half is fed with what the one before it made, so that many bad layers cost no more than a few good runs.
    """
    stretches = [(run, able) for run, nodes in stretches if (able := run.possible(nodes))]
    if not stretches:
        return
    run, nodes = stretches[0]
    try:
        made = _forward(cv2, [(one.graph.keep(node.name for node in able), one.values) for one, able in stretches])
        for (one, _), arrays in zip(stretches, made, strict=True):
            one.values.update(arrays)
    except cv2.error as error:
        alone = len(stretches) == 1
        if alone and len(nodes) == 1:
            run.lose(nodes[0], _refused(nodes[0], str(error)))
            return
        middle = (len(nodes) if alone else len(stretches)) // 2
        _in_opencv(cv2, [(run, nodes[:middle])] if alone else stretches[:middle])
        _in_opencv(cv2, [(run, nodes[middle:])] if alone else stretches[middle:])


def _refused(node: Node, message: str) -> str:
    unknown = re.search(r'layer ".*?" of type', message, re.DOTALL) is not None
    return f"OpenCV cannot run {node.name} ({node.op_type}): " + (
        "it does not know this type" if unknown else trimmed(message)
    )


def _as_one(graphs: Mapping[str, Graph]) -> Graph:
    """The graphs side by side as one; what each of them names has its key in front.

    Each layer gets the name of the first tensor it makes: OpenCV calls a Convolution so, whatever its name is.
    """
    nodes: list[Node] = []
    for mark, graph in graphs.items():
        for node in graph.nodes:
            inputs, outputs, weights = (
                tuple(mark + name for name in names) for names in (node.inputs, node.outputs, node.weights)
            )
            nodes.append(replace(node, name=outputs[0], inputs=inputs, outputs=outputs, weights=weights))
    return replace(
        next(iter(graphs.values())), nodes=tuple(nodes), outputs=(), aliases={},
        inputs=tuple(mark + name for mark, graph in graphs.items() for name in graph.inputs),
        tensors={mark + name: spec for mark, graph in graphs.items() for name, spec in graph.tensors.items()},
        weights={mark + name: ref for mark, graph in graphs.items() for name, ref in graph.weights.items()},
    )


def _forward(cv2: Any, parts: Sequence[tuple[Graph, Arrays]]) -> list[Arrays]:
    """One forward of all layers of the parts, each on arrays of its own: tensor -> array, for each part.

    cv2.error when any of them cannot be run.
    """
    marked = {f"{place}/" if parts[1:] else "": part for place, part in enumerate(parts)}
    whole = _as_one({mark: graph for mark, (graph, _) in marked.items()})
    names = {tensor: tensor for node in whole.nodes for tensor in (*node.inputs, *node.outputs)}  # none is in place
    copies, asked = _asked_for(whole)
    # Arrays: OpenCV takes `bytes` for a path. It finds weights by the layer's name; layers without need not be there.
    text = np.frombuffer((caffe_writing.prototxt(whole, names) + copies).encode(), np.uint8)
    name_field = LAYER_FIELDS["V2"][0]
    rows = [
        ("V2", bytes_field(name_field, node.name.encode()), [StoredBlob(whole.weights[name]) for name in node.weights])
        for node in whole.nodes if node.weights
    ]
    weights = np.frombuffer(b"".join(caffemodel(b"", rows)), np.uint8)
    net = cv2.dnn.readNetFromCaffe(text, weights) if weights.size else cv2.dnn.readNetFromCaffe(text)
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    net.setPreferableTarget(cv2.dnn.DNN_TARGET_CPU)
    net.enableFusion(False)
    net.enableWinograd(False)
    for mark, (graph, feeds) in marked.items():
        for tensor in graph.inputs:
            net.setInput(feeds[tensor], mark + tensor)
    made = dict(zip(asked, net.forwardAndRetrieve(list(asked.values())), strict=True))
    return [
        {tensor: np.asarray(made[mark + tensor][0]) for node in graph.nodes for tensor in node.outputs}
        for mark, (graph, _) in marked.items()
    ]


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
