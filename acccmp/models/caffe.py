"""Caffe models: prototxt and caffemodel <-> Graph, all three generations, without Caffe.

A layer becomes a Node, a blob a tensor. A layer that works in place writes its blob again: here each writing is a
tensor of its own, `conv1` and then `conv1@relu1`, and a reader gets the latest one before it in file order. V1 types
appear under their V2 names. What only matters for training (phase rules) is applied for TEST and then gone.
Field numbers and rules: ../shared/specs/caffe_fields.md and model_formats.md, section d.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from acccmp.core.graph import Graph, Node, Shape, TensorSpec
from acccmp.core.tensor import TensorRef
from acccmp.errors import AcccmpError, FormatError, InputError
from acccmp.models import caffe_shapes as shapes
from acccmp.models.caffe_text import Block, parse, quoted, render, unquoted
from acccmp.models.caffe_weights import (
    FLOAT32,
    StoredBlob,
    StoredLayer,
    StoredNet,
    first_bytes,
    is_text,
    plain_field,
    read_caffemodel,
    replacing,
    unknown_fields,
    write_caffemodel,
)

LARGEST_TEXT = 256 << 20  # bytes of a prototxt; real ones have up to a few hundred kB

# V1 type -> V2 type, where the V2 name is not the V1 name in CamelCase
V1_NAMES = {
    "NONE": "", "ABSVAL": "AbsVal", "ARGMAX": "ArgMax", "BNLL": "BNLL", "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output", "IM2COL": "Im2col", "INFOGAIN_LOSS": "InfogainLoss", "LRN": "LRN", "MVN": "MVN",
    "RELU": "ReLU", "SOFTMAX_LOSS": "SoftmaxWithLoss", "TANH": "TanH",
}

# What a layer's block says beside its parameters; phase rules have done their work when the graph is there.
WIRING = ("name", "type", "bottom", "top", "blobs")
RULES = ("include", "exclude", "phase")

# They judge a net in training. What they read counts as the net's output, what they make does not.
EVALUATION = frozenset({*shapes.LOSSES, "Accuracy", "Silence", "HDF5Output"})
# Layers without bottoms that bring data from elsewhere: the net's inputs. Any unknown type without bottoms is one too.
NOT_INPUTS = frozenset({"Parameter", "DummyData"})


@dataclass(frozen=True)
class CaffeLayer:
    """What the file says of one layer: `Node.source`.

    `block` is the layer as text, less its wiring and phase rules; `type_text` its type as spelled. `bottoms` and
    `tops` are blob names. `declared`: an input that was not a layer but an `input:` line of the net.
    """

    block: Block
    type_text: str
    bottoms: tuple[str, ...] = ()
    tops: tuple[str, ...] = ()
    declared: bool = False
    stored: StoredLayer | None = None


@dataclass(frozen=True)
class CaffeNet:
    """What the file says of the whole net: `Graph.source`. `extra` are its own fields (force_backward, ...)."""

    generation: str
    extra: Block = field(default_factory=Block)


def load(path: str | Path, weights: str | Path | None = None) -> Graph:
    """The Graph of a prototxt, with the weights of a caffemodel if one is given; or of a caffemodel alone.

    A caffemodel alone holds the net as it was trained: parameters of layers that only forks know are missing then,
    and blobs that only a training layer makes become inputs (the notes say which). Weights stay in their file.

    Raises FormatError for damaged files and nets that contradict themselves, InputError for files in the wrong place.
    """
    path = Path(path)
    if is_text(first_bytes(path)):
        block = _prototxt(path)
        stored = None if weights is None else read_caffemodel(Path(weights))
        return _Builder(block, path, stored).graph()
    if weights is not None:
        swapped = is_text(first_bytes(Path(weights)))
        raise InputError(
            f"{path.name} is a caffemodel, given as the model"
            + (f", and {Path(weights).name} is text, given as weights: exchange the two" if swapped else
               "; give the prototxt as the model and the caffemodel as weights")
        )
    stored = read_caffemodel(path)
    return _Builder(_regenerated(stored), path, stored, alone=True).graph()


def _prototxt(path: Path) -> Block:
    size = path.stat().st_size
    if size > LARGEST_TEXT:
        raise FormatError(f"{path.name}: {size} bytes of text are too many for a prototxt")
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return parse(text, path.name)


def _regenerated(stored: StoredNet) -> Block:
    """The prototxt that a caffemodel implies: its messages as text, without the weights."""
    from google.protobuf.message import DecodeError

    from acccmp.schemas import caffe_pb2

    def text(message: Any, raw: bytes, what: str) -> Block:
        from google.protobuf import text_format

        try:
            message.ParseFromString(raw)
        except DecodeError as error:
            raise FormatError(f"{stored.path.name}: {what} cannot be decoded; the file is damaged ({error})") from None
        return parse(text_format.MessageToString(message, as_utf8=True), stored.path.name)

    fields: list[tuple[str, str | Block]] = list(text(caffe_pb2.NetParameter(), stored.header, "the net").fields)
    for layer in stored.layers:
        if layer.generation == "V2":
            fields.append(("layer", text(caffe_pb2.LayerParameter(), layer.header, f"layer {layer.name!r}")))
            continue
        block = text(caffe_pb2.V1LayerParameter(), layer.header, f"layer {layer.name!r}")
        if layer.v1_type is not None and not block.strings("type"):  # a number of a fork
            block = replace(block, fields=(*block.fields, ("type", str(layer.v1_type))))
        fields.append(("layers", block))
    return Block(tuple(fields), 1)


# -- types and parameters ----------------------------------------------------------------------------------------


@cache
def _v1_numbers() -> Mapping[int, str]:
    from acccmp.schemas import caffe_pb2

    return {number: name for name, number in caffe_pb2.V1LayerParameter.LayerType.items()}


def v2_type(v1: str) -> str:
    """The V2 name of a V1 type: `INNER_PRODUCT` (or its number) gives `InnerProduct`; a fork's word stays as it is."""
    name = _v1_numbers().get(int(v1), f"V1_{v1}") if v1.isdigit() else v1
    if name in V1_NAMES:
        return V1_NAMES[name]
    return "".join(part.capitalize() for part in name.split("_")) if name in _v1_numbers().values() else name


_NUMBERS: dict[str, Any] = {"true": True, "false": False}


def _guess(scalar: str) -> Any:
    """The value of a scalar that no schema describes, from how it is spelled."""
    if scalar[:1] in ('"', "'"):
        return unquoted(scalar)
    if scalar in _NUMBERS:
        return _NUMBERS[scalar]
    for kind in (lambda text: int(text, 0), lambda text: float(text.rstrip("fF") or "x")):
        try:
            return kind(scalar)
        except ValueError:
            continue
    return scalar


def _known(scalar: str, about: Any) -> Any:
    """The value of a scalar that the schema describes. ValueError if it is of another kind."""
    if about.enum_type is not None:
        names = about.enum_type.values_by_number
        return names[int(scalar)].name if scalar.isdigit() and int(scalar) in names else scalar
    if about.cpp_type in (about.CPPTYPE_FLOAT, about.CPPTYPE_DOUBLE):
        return float(scalar if scalar.lower().lstrip("-") in ("inf", "infinity") else scalar.rstrip("fF"))
    if about.cpp_type == about.CPPTYPE_BOOL:
        return {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}[scalar.lower()]
    if about.cpp_type == about.CPPTYPE_STRING:
        return unquoted(scalar)
    return int(scalar, 8) if scalar.lstrip("-").startswith("0") and scalar.strip("-0").isdigit() else int(scalar, 0)


def values(block: Block, about: Any, where: str) -> dict[str, Any]:
    """The fields of a block as Python values, in file order: repeated ones (and those that come twice) as tuples.

    `about` is the schema's descriptor, or None for blocks that only a fork knows. Raises FormatError for values of
    another kind than the schema says.
    """
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for name, _ in block.fields):
        row = about.fields_by_name.get(name) if about is not None else None
        given = [_value(value, row, f"{where}: {name}") for value in block.all(name)]
        repeated = row.is_repeated if row is not None else len(given) > 1
        found[name] = tuple(given) if repeated else given[-1]
    return found


def _value(value: str | Block, row: Any, where: str) -> Any:
    if isinstance(value, Block):
        if row is not None and row.message_type is None:
            raise FormatError(f"{where} is a block (line {value.line}) where one value is due")
        return values(value, row.message_type if row is not None else None, where)
    if row is None:
        return _guess(value)
    if row.message_type is not None:
        raise FormatError(f"{where} is {value}, a block in braces is due")
    try:
        return _known(value, row)
    except (ValueError, KeyError):
        raise FormatError(f"{where} is {value}, which is no {_KINDS.get(row.cpp_type, 'number')}") from None


_KINDS = {8: "true or false", 9: "string"}


# -- older generations -------------------------------------------------------------------------------------------

# V0: what the flat fields of a layer are called in V1. type -> (V1 type, block, {V0 field: V1 field})
_POOL_OR_CONV = {"pad": "pad", "stride": "stride", "kernelsize": "kernel_size"}
_V0_DATA = {
    "source": "source", "batchsize": "batch_size", "rand_skip": "rand_skip", "scale": "scale", "meanfile": "mean_file",
    "cropsize": "crop_size", "mirror": "mirror",
}
_FILLERS = {"weight_filler": "weight_filler", "bias_filler": "bias_filler", "biasterm": "bias_term"}
V0_LAYERS: dict[str, tuple[str, str, dict[str, str]]] = {
    "accuracy": ("ACCURACY", "", {}),
    "bnll": ("BNLL", "", {}),
    "concat": ("CONCAT", "concat_param", {"concat_dim": "concat_dim"}),
    "conv": ("CONVOLUTION", "convolution_param", {
        "num_output": "num_output", **_FILLERS, **_POOL_OR_CONV, "group": "group",
    }),
    "data": ("DATA", "data_param", _V0_DATA),
    "dropout": ("DROPOUT", "dropout_param", {"dropout_ratio": "dropout_ratio"}),
    "euclidean_loss": ("EUCLIDEAN_LOSS", "", {}),
    "flatten": ("FLATTEN", "", {}),
    "hdf5_data": ("HDF5_DATA", "hdf5_data_param", {"source": "source", "batchsize": "batch_size"}),
    "hdf5_output": ("HDF5_OUTPUT", "", {}),
    "im2col": ("IM2COL", "convolution_param", _POOL_OR_CONV),
    "images": ("IMAGE_DATA", "image_data_param", {
        **_V0_DATA, "shuffle_images": "shuffle", "new_height": "new_height", "new_width": "new_width",
    }),
    "infogain_loss": ("INFOGAIN_LOSS", "infogain_loss_param", {"source": "source"}),
    "innerproduct": ("INNER_PRODUCT", "inner_product_param", {"num_output": "num_output", **_FILLERS}),
    "lrn": ("LRN", "lrn_param", {"local_size": "local_size", "alpha": "alpha", "beta": "beta", "k": "k"}),
    "multinomial_logistic_loss": ("MULTINOMIAL_LOGISTIC_LOSS", "", {}),
    "pool": ("POOLING", "pooling_param", {"pool": "pool", **_POOL_OR_CONV}),
    "relu": ("RELU", "", {}),
    "sigmoid": ("SIGMOID", "", {}),
    "softmax": ("SOFTMAX", "", {}),
    "softmax_loss": ("SOFTMAX_LOSS", "", {}),
    "split": ("SPLIT", "", {}),
    "tanh": ("TANH", "", {}),
    "window_data": ("WINDOW_DATA", "window_data_param", {
        **_V0_DATA, "det_fg_threshold": "fg_threshold", "det_bg_threshold": "bg_threshold",
        "det_fg_fraction": "fg_fraction", "det_context_pad": "context_pad", "det_crop_mode": "crop_mode",
    }),
}
_V0_KEPT = ("blobs_lr", "weight_decay", "hdf5_output_param")


def _from_v0(layers: Sequence[Block], where: str) -> list[Block]:
    """V0 layers as V1 layers. Padding was a layer of its own then; it becomes the `pad` of what reads it."""
    padded: dict[str, tuple[str, str]] = {}  # top of a padding layer -> (its bottom, its pad)
    found = []
    for layer in layers:
        old = layer.block("layer")
        kind = old.string("type")
        bottoms, tops = layer.strings("bottom"), layer.strings("top")
        if kind == "padding":
            padded.update((top, (bottoms[0] if bottoms else "", old.string("pad", "0"))) for top in tops)
            continue
        if kind not in V0_LAYERS:
            raise FormatError(f"{where}: line {layer.line}: {kind!r} is no layer type of the first (V0) generation")
        v1, block, names = V0_LAYERS[kind]
        inside = [(names[name], value) for name, value in old.fields if name in names]
        fields: list[tuple[str, str | Block]] = [("name", quoted(old.string("name"))), ("type", v1)]
        for bottom in bottoms:
            if bottom in padded:
                bottom, pad = padded[bottom]
                inside = [*(pair for pair in inside if pair[0] != "pad"), ("pad", pad)]
            fields.append(("bottom", quoted(bottom)))
        fields += [("top", quoted(top)) for top in tops]
        fields += [pair for pair in old.fields if pair[0] in _V0_KEPT]
        if inside:
            fields.append((block, Block(tuple(inside), layer.line)))
        fields += [pair for pair in layer.fields if pair[0] in RULES]
        found.append(Block(tuple(fields), layer.line))
    return found


# -- phase rules -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _State:
    level: int
    stages: frozenset[str]

    def meets(self, rule: Block) -> bool:
        """Does a rule hold in TEST? One that names no phase holds in any."""
        if rule.string("phase", "TEST") not in ("TEST", "1"):
            return False
        if not int(rule.string("min_level", str(self.level))) <= self.level <= int(
            rule.string("max_level", str(self.level))
        ):
            return False
        return self.stages.issuperset(rule.strings("stage")) and self.stages.isdisjoint(rule.strings("not_stage"))

    def keeps(self, layer: Block, where: str) -> bool:
        included, excluded = layer.blocks("include"), layer.blocks("exclude")
        if included and excluded:
            raise FormatError(
                f"{where}: layer {layer.string('name')!r} (line {layer.line}) has both include and exclude rules; "
                "Caffe allows one kind"
            )
        try:
            if included:
                return any(self.meets(rule) for rule in included)
            return not any(self.meets(rule) for rule in excluded)
        except ValueError:
            raise FormatError(
                f"{where}: a phase rule of layer {layer.string('name')!r} (line {layer.line}) has a level "
                "that is no number"
            ) from None


# -- from text to Graph ------------------------------------------------------------------------------------------


class _Builder:
    """Walks the layers in file order and keeps what the Graph is made of."""

    def __init__(self, net: Block, path: Path, stored: StoredNet | None, alone: bool = False) -> None:
        self.net, self.path, self.stored, self.alone = net, path, stored, alone
        self.where = path.name
        self.nodes: list[Node] = []
        self.specs: dict[str, TensorSpec] = {}
        self.weights: dict[str, TensorRef] = {}
        self.current: dict[str, str] = {}  # blob -> the tensor that a reader gets here
        self.same_as: dict[str, str] = {}  # top of a Split that Caffe put in -> the blob it copies
        self.aliases: dict[str, list[str]] = {}
        self.notes: list[str] = []
        self.inputs: list[str] = []
        self.dropped: dict[str, str] = {}  # blob -> the layer that makes it in another phase
        v1, v2 = net.blocks("layers"), net.blocks("layer")
        if v1 and v2:
            raise FormatError(f"{self.where}: has old `layers` and new `layer` blocks; a net has one kind")
        self.generation = "V1" if v1 else "V2"
        self.layers = v1 or v2
        if any(layer.blocks("layer") for layer in v1):
            self.layers = _from_v0(v1, self.where)
            self.notes.append("a net of the first (V0) generation, read and written as V1")
        if not self.layers:
            raise FormatError(f"{self.where}: no Caffe net: it has no layers")
        self.taken = {layer.string("name") for layer in self.layers}
        self.pool = self._stored_by_name()

    def _stored_by_name(self) -> dict[str, list[StoredLayer]]:
        pool: dict[str, list[StoredLayer]] = {}
        for layer in self.stored.layers if self.stored else ():
            pool.setdefault(layer.name, []).append(layer)
        return pool

    def graph(self) -> Graph:
        self._declared_inputs()
        for layer in self._kept():
            self._add(layer)
        self._check_weights()
        outputs = self._outputs()
        net, stored = self.net, self.stored
        if self.alone:
            self.notes.insert(0, "the net was taken from the weights: it is the one that was trained")
            self._note_unknown()
        return Graph(
            name=net.string("name") or self.path.stem,
            format="caffe",
            nodes=tuple(self.nodes),
            inputs=tuple(self.inputs),
            outputs=outputs,
            tensors=self.specs,
            weights=self.weights,
            aliases={name: tuple(found) for name, found in self.aliases.items() if len(found) > 1},
            path=self.path,
            meta={"generation": self.generation, **({"weights": str(stored.path)} if stored else {})},
            notes=tuple(self.notes),
            source=CaffeNet(
                self.generation,
                net.without("name", "layer", "layers", "input", "input_dim", "input_shape", "state"),
            ),
        )

    # what the net is made of

    def _kept(self) -> list[Block]:
        """The layers of phase TEST."""
        state = self.net.block("state")
        try:
            here = _State(int(state.string("level", "0")), frozenset(state.strings("stage")))
        except ValueError:
            raise FormatError(f"{self.where}: the level of the net's state is no number") from None
        kept = []
        for layer in self.layers:
            if here.keeps(layer, self.where):
                kept.append(layer)
            else:
                self.dropped.update((top, layer.string("name")) for top in layer.strings("top"))
        return kept

    def _declared_inputs(self) -> None:
        net = self.net
        names, dims = net.strings("input"), net.strings("input_dim")
        shaped = [tuple(shape.strings("dim")) for shape in net.blocks("input_shape")]
        if dims and not shaped:
            if len(dims) != 4 * len(names):
                raise FormatError(
                    f"{self.where}: {len(names)} inputs need {4 * len(names)} input_dim lines, {len(dims)} are there"
                )
            shaped = [tuple(dims[place : place + 4]) for place in range(0, len(dims), 4)]
        if shaped and len(shaped) not in (1, len(names)):
            raise FormatError(f"{self.where}: {len(names)} inputs have {len(shaped)} input_shape blocks")
        if len(shaped) == 1:
            shaped *= len(names)
        for place, name in enumerate(names):
            fields = tuple(("dim", dim) for dim in (shaped[place] if shaped else ()))
            inner = (("input_param", Block((("shape", Block(fields)),))),) if fields else ()
            node = name if name not in self.taken else self._free(f"{name}_input")
            self.taken.add(node)
            source = CaffeLayer(Block(inner), '"Input"', (), (name,), declared=True)
            self._append(node, "Input", source, Block(inner))

    def _add(self, layer: Block) -> None:
        bottoms = tuple(self.same_as.get(name, name) for name in layer.strings("bottom"))
        tops = tuple(layer.strings("top"))
        name, spelled = layer.string("name"), next((v for v in layer.all("type") if isinstance(v, str)), "")
        kind = v2_type(unquoted(spelled)) if self.generation == "V1" else unquoted(spelled)
        if not kind:
            raise FormatError(f"{self.where}: layer {name!r} (line {layer.line}) has no type")
        if self.alone and kind == "Split" and len(bottoms) == 1 and _is_implicit(name, tops):
            for top in tops:
                self.same_as[top] = bottoms[0]
            return
        node = name
        if not name:
            node = self._free(f"{kind}_{len(self.nodes)}")
        elif name in self.aliases:
            node = self._free(name, 2)
        self.taken.add(node)
        if name:
            self.aliases.setdefault(name, []).append(node)
            if len(self.aliases[name]) > 1:
                self.notes.append(f"two layers are named {name!r}; the later one is called {node!r} here")
        block = layer.without(*WIRING, *RULES)
        source = CaffeLayer(block, spelled, bottoms, tops, stored=self._weights_of(name))
        self._append(node, kind, source, block)

    def _free(self, name: str, first: int | None = None) -> str:
        found, count = name if first is None else f"{name}_{first}", first or 1
        while found in self.taken:
            count += 1
            found = f"{name}_{count}"
        return found

    def _append(self, name: str, kind: str, source: CaffeLayer, block: Block) -> None:
        inputs = tuple(self._reads(name, blob) for blob in source.bottoms)
        outputs = tuple(self._makes(name, blob, source.bottoms) for blob in source.tops)
        about = _schema(self.generation if not source.declared else "V2")
        attrs = values(block, about, f"{self.where}: layer {name!r}")
        owned = []
        for place, blob in enumerate(source.stored.blobs if source.stored else ()):
            self.weights[f"{name}.{place}"] = blob.ref
            self.specs[f"{name}.{place}"] = TensorSpec(f"{name}.{place}", blob.ref.dtype, blob.ref.shape)
            owned.append(f"{name}.{place}")
        below = [self.specs[tensor].shape if tensor in self.specs else None for tensor in inputs]
        above, problem = shapes.top_shapes(kind, attrs, below, len(outputs))
        if problem:
            self.notes.append(f"the shape that {name!r} ({kind}) makes is unknown: {problem}")
        for tensor, shape in zip(outputs, above, strict=True):
            self.specs[tensor] = _spec(tensor, shape)
        if not inputs and outputs and kind not in NOT_INPUTS:
            self.inputs += outputs
            unclear = [tensor for tensor in outputs if not self.specs[tensor].is_static]
            if unclear:
                self.notes.append(f"the file does not give the whole shape of {', '.join(unclear)}, made by the layer "
                                  f"{name!r} ({kind})")
        self.nodes.append(Node(name, kind, inputs, outputs, attrs, weights=tuple(owned), source=source))

    def _reads(self, node: str, blob: str) -> str:
        if blob in self.current:
            return self.current[blob]
        if self.alone:
            self.current[blob] = blob
            self.specs[blob] = _spec(blob, None)
            self.inputs.append(blob)
            self.notes.append(f"no layer makes {blob!r}, which {node!r} reads: it is an input of unknown shape")
            return blob
        hint = ""
        if blob in self.dropped:
            hint = f"; {self.dropped[blob]!r} makes it, in another phase than TEST"
        else:
            close = difflib.get_close_matches(blob, self.current, n=3, cutoff=0.5)
            hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise FormatError(f"{self.where}: layer {node!r} reads the blob {blob!r}, which no layer before it makes{hint}")

    def _makes(self, node: str, blob: str, bottoms: tuple[str, ...]) -> str:
        tensor = blob
        if blob in self.current:
            if blob not in bottoms:
                maker = next(n.name for n in reversed(self.nodes) if self.current[blob] in n.outputs)
                raise FormatError(
                    f"{self.where}: the blob {blob!r} is made by {maker!r} and again by {node!r}, which does not "
                    "work in place"
                )
            tensor = f"{blob}@{node}"
        while tensor in self.specs:
            tensor += "@"
        self.current[blob] = tensor
        self.specs[tensor] = TensorSpec(tensor)
        return tensor

    # weights

    def _weights_of(self, name: str) -> StoredLayer | None:
        """The stored layer of this name; of several the next one, so that layers that share a name stay apart."""
        found = self.pool.get(name)
        return found.pop(0) if found else None

    def _check_weights(self) -> None:
        if self.stored is None:
            self.notes.append("no weights were given (the .caffemodel): the graph can be seen, not run")
            return
        wanting, matched = [], False
        for node in self.nodes:
            below = [self.specs[tensor].shape for tensor in node.inputs]
            expected = shapes.weight_shapes(node.op_type, node.attrs, below)
            found = [self.weights[name] for name in node.weights]
            matched |= bool(found)
            if expected is None:
                continue
            if not found:
                wanting.append(node.name)
            elif len(found) < len(expected):
                self.notes.append(
                    f"{node.name!r} ({node.op_type}) has {len(found)} weights where {len(expected)} are due"
                )
            for name, ref, shape in zip(node.weights, found, expected, strict=False):
                if not shapes.fits(ref.shape, shape):
                    self.notes.append(f"the weight {name} is stored with shape {ref.shape}, the net needs {shape}")
        file = self.stored.path.name
        if wanting and not matched:
            held = [layer.name for layer in self.stored.layers if layer.blobs]
            raise InputError(
                f"{file} has weights for {', '.join(held[:4]) or 'no layer'}{', ...' if len(held) > 4 else ''}, "
                f"{self.where} needs them for {', '.join(wanting[:4])}{', ...' if len(wanting) > 4 else ''}: "
                "do the two belong together?"
            )
        self.notes += [f"{file} has no weights for the layer {name!r}" for name in wanting]

    def _note_unknown(self) -> None:
        names = [node.name for node in self.nodes if node.source.stored and _unknown(node.source.stored)]
        if names:
            self.notes.append(
                f"parameters that only a fork of Caffe knows are in {', '.join(names[:6])}"
                f"{', ...' if len(names) > 6 else ''}; give the prototxt to see them"
            )

    # ends

    def _outputs(self) -> tuple[str, ...]:
        """Tensors that nobody reads; layers that judge a net in training do not count as readers, nor as makers."""
        judging = [node for node in self.nodes if node.op_type in EVALUATION]
        if len(judging) == len(self.nodes):
            judging = []
        names = {node.name for node in judging}
        read = {tensor for node in self.nodes if node.name not in names for tensor in node.inputs}
        judged = {tensor for node in judging for tensor in node.inputs}
        made = {tensor for node in self.nodes if node.name not in names for tensor in node.outputs}
        brought = set(self.inputs)
        if judging:
            self.notes.append(
                f"{', '.join(node.name for node in judging)}: for training; what they read is taken as output, "
                "not what they make"
            )
        self.inputs = [
            tensor for tensor in self.inputs if tensor in read or (tensor not in judged) or not judging
        ]
        return tuple(
            tensor for node in self.nodes for tensor in node.outputs
            if tensor in made and tensor not in read and tensor not in brought and not _passes(node, brought, read)
        )


def _passes(node: Node, brought: Collection[str], read: Collection[str]) -> bool:
    """Does a layer only cut up or copy an input that judging layers read (labels)?"""
    return node.op_type in ("Slice", "Split") and set(node.inputs) <= set(brought) and not set(node.outputs) & set(read)


def _is_implicit(name: str, tops: Sequence[str]) -> bool:
    """Was this Split put in by Caffe itself? Then it is named after its blob, and its tops after it."""
    return name.endswith("_split") and all(top == f"{name}_{place}" for place, top in enumerate(tops))


def _spec(tensor: str, shape: Shape | None) -> TensorSpec:
    return TensorSpec(tensor, FLOAT32, shape, "NCHW" if shape is not None and len(shape) == 4 else None)


@cache
def _schema(generation: str) -> Any:
    from acccmp.schemas import caffe_pb2

    message = caffe_pb2.LayerParameter if generation == "V2" else caffe_pb2.V1LayerParameter
    return message.DESCRIPTOR


def _unknown(stored: StoredLayer) -> bytes:
    known = _schema("V2" if stored.generation == "V2" else "V1").fields_by_number
    return unknown_fields(stored.header, known)


def with_input_shapes(graph: Graph, given: Mapping[str, Sequence[int]]) -> Graph:
    """The graph with these shapes for its inputs, and every shape below worked out anew (Caffe nets can be resized).

    Problems leave shapes unknown; they do not raise.
    """
    known = dict(graph.tensors)
    known.update((tensor, _spec(tensor, tuple(shape))) for tensor, shape in given.items())
    for node in graph.nodes:
        if any(tensor in given for tensor in node.outputs):
            continue
        below = [known[tensor].shape if tensor in known else None for tensor in node.inputs]
        above, _ = shapes.top_shapes(node.op_type, node.attrs, below, len(node.outputs))
        known.update((tensor, _spec(tensor, shape)) for tensor, shape in zip(node.outputs, above, strict=True))
    return replace(graph, tensors=known)


# -- from Graph to text ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AddedInput:
    """An input of a part that no layer of it makes: the layer that stands for it in the file.

    `tensor` is its name in the Graph, `blob` what the layer makes, `shape` its sizes as far as they are known.
    """

    layer: str
    blob: str
    tensor: str
    shape: Shape | None

    @property
    def block(self) -> Block:
        """Its parameters; empty when the shape is not wholly known."""
        if self.shape is None or not all(isinstance(dim, int) for dim in self.shape):
            return Block()
        dims = Block(tuple(("dim", str(dim)) for dim in self.shape))
        return Block((("input_param", Block((("shape", dims),))),))

    @property
    def text(self) -> str:
        """The layer as prototxt."""
        return _layer_text("layer", self.layer, '"Input"', (), (self.blob,), self.block)


def added_inputs(graph: Graph, blobs: Mapping[str, str] | None = None) -> tuple[AddedInput, ...]:
    """The Input layers that `save` adds, in the order of `graph.inputs`: named `<first reader>_input_<number>`."""
    blobs = blob_names(graph) if blobs is None else blobs
    made = {tensor for node in graph.nodes for tensor in node.outputs}
    taken, count = {node.name for node in graph.nodes}, dict[str, int]()
    found = []
    for tensor in graph.inputs:
        if tensor in made:
            continue
        readers = graph.consumers(tensor)
        start = readers[0].node if readers else tensor
        name = f"{start}_input_{count.get(start, 0)}"
        count[start] = count.get(start, 0) + 1
        while name in taken:
            name += "_"
        taken.add(name)
        found.append(AddedInput(name, blobs[tensor], tensor, graph.spec(tensor).shape))
    return tuple(found)


def blob_names(graph: Graph) -> dict[str, str]:
    """Tensor -> the blob it is in the file: the file's own blob, so that in-place layers stay in place.

    Where a cut has taken a layer away and two versions of a blob would meet (`conv1` made inside, `conv1@relu1` an
    input), all versions of that blob are written under their tensor names.
    """
    own: dict[str, str] = {}
    for node in graph.nodes:
        own.update(zip(node.inputs, node.source.bottoms, strict=True))
        own.update(zip(node.outputs, node.source.tops, strict=True))
    for tensor in graph.inputs:
        own.setdefault(tensor, tensor)
    clashing = _clashes(graph, own)
    if clashing:
        own = {tensor: tensor if blob in clashing else blob for tensor, blob in own.items()}
        if _clashes(graph, own):
            own = {tensor: tensor for tensor in own}
    return own


def _clashes(graph: Graph, blobs: Mapping[str, str]) -> set[str]:
    """Blobs of which a reader would get another version than the Graph says."""
    made = {tensor for node in graph.nodes for tensor in node.outputs}
    current: dict[str, str] = {}
    found = set()
    for tensor in graph.inputs:
        if tensor not in made:
            if blobs[tensor] in current:
                found.add(blobs[tensor])
            current[blobs[tensor]] = tensor
    for node in graph.nodes:
        read = {blobs[tensor] for tensor in node.inputs}
        found |= {blobs[tensor] for tensor in node.inputs if current.get(blobs[tensor]) != tensor}
        for tensor in node.outputs:
            if blobs[tensor] in current and blobs[tensor] not in read:
                found.add(blobs[tensor])
            current[blobs[tensor]] = tensor
    return found


def _layer_text(
    key: str, name: str, spelled: str, bottoms: Iterable[str], tops: Iterable[str], block: Block,
) -> str:
    fields: list[tuple[str, str | Block]] = [("name", quoted(name)), ("type", spelled)]
    fields += [("bottom", quoted(blob)) for blob in bottoms]
    fields += [("top", quoted(blob)) for blob in tops]
    return render(Block(((key, Block((*fields, *block.fields))),)))


def _net_fields(graph: Graph, blobs: Mapping[str, str]) -> list[tuple[str, str | Block]]:
    """The net's own fields: name, what forks add, and in V1 its inputs, which are no layers there."""
    net: CaffeNet = graph.source
    fields: list[tuple[str, str | Block]] = [("name", quoted(graph.name)), *net.extra.fields]
    if net.generation == "V2":
        return fields
    inputs = [(node.source.tops[0], graph.spec(node.outputs[0]).shape) for node in graph.nodes if node.source.declared]
    inputs += [(added.blob, added.shape) for added in added_inputs(graph, blobs)]
    known = [all(isinstance(dim, int) for dim in shape) if shape is not None else False for _, shape in inputs]
    fields += [("input", quoted(blob)) for blob, _ in inputs]
    if all(known) and all(len(shape or ()) == 4 for _, shape in inputs):
        return fields + [("input_dim", str(dim)) for _, shape in inputs for dim in shape or ()]
    if any(known):
        for (_, shape), whole in zip(inputs, known, strict=True):
            dims = tuple(("dim", str(dim)) for dim in (shape or ())) if whole else ()
            fields.append(("input_shape", Block(dims)))
    return fields


def _net(graph: Graph) -> CaffeNet:
    if graph.format != "caffe" or not isinstance(graph.source, CaffeNet):
        raise InputError(f"{graph.name} is a {graph.format} graph; only one that was read from Caffe files is written "
                         "as Caffe")
    return graph.source


def prototxt(graph: Graph, blobs: Mapping[str, str] | None = None) -> str:
    """The graph as prototxt, without phase rules, in the generation it came from.

    `blobs` names the blob of each tensor (default: `blob_names`). Inputs that no layer makes are declared: as
    `Input` layers in V2, as `input:` lines in V1.
    """
    net = _net(graph)
    blobs = blob_names(graph) if blobs is None else blobs
    pieces = [render(Block(tuple(_net_fields(graph, blobs))))]
    added = [piece.text for piece in added_inputs(graph, blobs)] if net.generation == "V2" else []
    for node in graph.nodes:
        if added and node.op_type != "Input":
            pieces += added
            added = []
        source: CaffeLayer = node.source
        if source.declared and net.generation == "V1":
            continue
        pieces.append(_layer_text(
            "layers" if net.generation == "V1" else "layer", node.name, source.type_text,
            (blobs[tensor] for tensor in node.inputs), (blobs[tensor] for tensor in node.outputs), source.block,
        ))
    return "".join(pieces + added)


# -- and to bytes ------------------------------------------------------------------------------------------------


def caffemodel_layers(
    graph: Graph, blobs: Mapping[str, str] | None = None,
) -> list[tuple[str, bytes, list[StoredBlob]]]:
    """(generation, layer message without its weights, weights) of each layer, as `write_caffemodel` wants them."""
    net = _net(graph)
    blobs = blob_names(graph) if blobs is None else blobs
    rows: list[tuple[str, bytes, list[StoredBlob]]] = []
    added = list(added_inputs(graph, blobs)) if net.generation == "V2" else []
    for node in graph.nodes:
        if node.op_type != "Input":
            rows += [("V2", _message("V2", piece.layer, '"Input"', (), (piece.blob,), piece.block), [])
                     for piece in added]
            added = []
        source: CaffeLayer = node.source
        if source.declared and net.generation == "V1":
            continue
        header = _message(
            net.generation, node.name, source.type_text, [blobs[tensor] for tensor in node.inputs],
            [blobs[tensor] for tensor in node.outputs], source.block, source.stored,
        )
        old = source.stored.blobs if source.stored else ()
        stored = [
            StoredBlob(graph.weights[name], place < len(old) and old[place].legacy)
            for place, name in enumerate(node.weights)
        ]
        rows.append((net.generation, header, stored))
    return rows


def _message(
    generation: str, name: str, spelled: str, bottoms: Sequence[str], tops: Sequence[str], block: Block,
    stored: StoredLayer | None = None,
) -> bytes:
    """A layer as bytes, without weights: what the text says in the schema's terms, and the stored unknown fields."""
    from google.protobuf import text_format

    from acccmp.schemas import caffe_pb2

    kind = caffe_pb2.LayerParameter if generation == "V2" else caffe_pb2.V1LayerParameter
    message = kind()
    try:
        text_format.Parse(render(block), message, allow_unknown_field=True)
    except text_format.ParseError:  # a fork's word for a choice: the prototxt has it
        message = kind()
    message.name = name
    message.bottom.extend(bottoms)
    message.top.extend(tops)
    extra = b""
    if generation == "V2":
        message.type = unquoted(spelled)
    else:
        word, types = unquoted(spelled), caffe_pb2.V1LayerParameter.LayerType
        if word.isdigit():
            extra = plain_field(5, int(word))
        elif word in types.keys():  # noqa: SIM118  # an enum wrapper has no `in` of its own
            message.type = types.Value(word)
        elif stored is not None and stored.v1_type is not None:
            extra = plain_field(5, stored.v1_type)
    if stored is not None and (stored.generation == "V2") == (generation == "V2") and stored.generation != "V0":
        extra += _unknown(stored)
    return bytes(message.SerializeToString()) + extra


def net_message(graph: Graph, blobs: Mapping[str, str] | None = None) -> bytes:
    """The net's own fields as bytes."""
    from google.protobuf import text_format

    from acccmp.schemas import caffe_pb2

    blobs = blob_names(graph) if blobs is None else blobs
    message = caffe_pb2.NetParameter()
    try:
        text_format.Parse(render(Block(tuple(_net_fields(graph, blobs)))), message, allow_unknown_field=True)
    except text_format.ParseError:
        message = caffe_pb2.NetParameter(name=graph.name)
    return bytes(message.SerializeToString())


def save(graph: Graph, folder: str | Path, stem: str = "dump") -> list[Path]:
    """Write `<stem>.prototxt`, and `<stem>.caffemodel` where the graph was read with weights; the files written.

    Read again they give the same nodes, edges and weights, and an Input node for each input that the part does not
    make itself: its blob is the one it replaces. Raises InputError for graphs of another format and folders that
    cannot be written to.
    """
    _net(graph)
    folder = Path(folder)
    if Path(stem).name != stem:
        raise InputError(f"{stem!r} is no plain file name")
    blobs = blob_names(graph)
    files = [folder / f"{stem}.prototxt"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(files[0]) as file:
            file.write(prototxt(graph, blobs).encode())
        if graph.meta.get("weights"):
            files.append(folder / f"{stem}.caffemodel")
            write_caffemodel(files[1], net_message(graph, blobs), caffemodel_layers(graph, blobs))
    except (OSError, AcccmpError) as error:
        files[0].unlink(missing_ok=True)
        if isinstance(error, AcccmpError):
            raise
        raise InputError(f"{folder}: cannot be written to: {error.strerror or error}") from error
    return files
