"""Caffe models: prototxt and caffemodel -> Graph, all three generations, without Caffe.

A layer becomes a Node, a blob a tensor. A layer that works in place writes its blob again: here each writing is a
tensor of its own, `conv1` and then `conv1@relu1`, and a reader gets the latest one before it in file order. V1 types
appear under their V2 names. What only matters for training (phase rules) is applied for TEST and then gone.
Rules: ../shared/specs/model_formats.md, section d. The way back is in `caffe_writing`.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from acccmp.core.graph import Graph, Node, Shape, TensorSpec
from acccmp.core.reading import listed, read_bytes
from acccmp.core.tensor import DTYPES, DType, TensorRef
from acccmp.errors import FormatError, InputError
from acccmp.models import caffe_shapes as shapes
from acccmp.models.caffe_layers import (
    EVALUATION,
    NOT_INPUTS,
    RULES,
    WIRING,
    CaffeLayer,
    CaffeNet,
    from_v0,
    schema,
    unknown_to_schema,
    v2_type,
    values,
)
from acccmp.models.caffe_text import Block, parse, unquoted
from acccmp.models.caffe_weights import (
    FLOAT32,
    StoredLayer,
    StoredNet,
    check_layers,
    first_bytes,
    is_text,
    read_caffemodel,
)
from acccmp.models.caffe_writing import save

__all__ = ["load", "save", "with_input_shapes"]

MOST_HINTS = 500  # names that a wrong name is compared with, and characters of it: comparing is quadratic in both
MOST_BESIDE = 100  # caffemodels of a folder that are looked at
NO_WEIGHTS = "no weights were given (the .caffemodel): the graph can be seen, not run"
LARGEST_TEXT = 256 << 20  # bytes of a prototxt; real ones have up to a few hundred kB


def load(path: str | Path, weights: str | Path | None = None) -> Graph:
    """The Graph of a prototxt, with the weights of a caffemodel if one is given; or of a caffemodel alone.

    A prototxt alone takes the caffemodel that lies beside it, when there is exactly one that fits: a note says which.
    A caffemodel alone holds the net as it was trained: parameters of layers that only forks know are missing then,
    and blobs that only a training layer makes become inputs (the notes say which). Weights stay in their file.

    Raises FormatError for damaged files and nets that contradict themselves, InputError for files in the wrong place
    and for weights that do not fit the net.
    """
    path = Path(path)
    if is_text(first_bytes(path)):
        block = _prototxt(path)
        if weights is None:
            return _with_weights_beside(_Builder(block, path, None))
        return _Builder(block, path, read_caffemodel(Path(weights))).graph()
    if weights is not None:
        swapped = is_text(first_bytes(Path(weights)))
        raise InputError(
            f"{path.name} is a caffemodel, given as the model"
            + (f", and {Path(weights).name} is text, given as weights: exchange the two" if swapped else
               "; give the prototxt as the model and the caffemodel as weights")
        )
    stored = read_caffemodel(path)
    return _Builder(_regenerated(stored), path, stored, alone=True).graph()


def _with_weights_beside(bare: _Builder) -> Graph:
    """The graph of a prototxt with the only caffemodel of its folder that fits it; without any where several do."""
    graph = bare.graph()
    if not bare.bare_layers:
        return graph
    folder = bare.path.parent
    try:
        found = [entry for entry in listed(folder, folder) if entry.name.endswith(".caffemodel")]
    except FormatError:  # a folder that may not be listed
        found = []
    found = [entry for entry in found if not entry.is_folder and not entry.outside]
    fitting: dict[str, Graph] = {}
    for entry in found[:MOST_BESIDE]:
        try:
            builder = _Builder(bare.net, bare.path, read_caffemodel(Path(entry.path)))
            filled = builder.graph()
        except (FormatError, InputError):
            continue
        if not builder.bare_layers:
            fitting[entry.name] = filled
    if len(fitting) == 1:
        ((name, filled),) = fitting.items()
        taken = f"its weights are those of {name}, the only caffemodel beside it that fits"
        return replace(filled, notes=(taken, *filled.notes))
    told = ""
    if fitting:
        told = f"; {_named(list(fitting))} beside it fit: say which, --weights FILE"
    elif found:
        told = f"; {_named([entry.name for entry in found])} beside it do{'' if found[1:] else 'es'} not fit"
    return replace(graph, notes=tuple(f"{note}{told}" if note == NO_WEIGHTS else note for note in graph.notes))


def _prototxt(path: Path) -> Block:
    raw = read_bytes(path, LARGEST_TEXT)
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
        # as_utf8 would be quadratic in what is no UTF-8; `parse` reads the escapes.
        return parse(text_format.MessageToString(message, as_utf8=False), stored.path.name)

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
        self.generation = "V2" if v2 else "V1"
        self.layers = v1 or v2
        check_layers(len(self.layers), self.where)
        if any(layer.blocks("layer") for layer in v1):
            self.layers = from_v0(v1, self.where)
            self.notes.append("a net of the first (V0) generation, read and written as V1")
        if not self.layers and not net.strings("input"):
            raise FormatError(f"{self.where}: no Caffe net: it has no layers")
        self.taken = {layer.string("name") for layer in self.layers}
        self.bare_layers: list[str] = []  # that need weights and have none
        self.counted: dict[str, int] = {}  # name -> the last number that was put behind it
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
                stored.path if stored else None,
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
            node = self._free(name, again=True)
        self.taken.add(node)
        if name:
            self.aliases.setdefault(name, []).append(node)
            if len(self.aliases[name]) > 1:
                self.notes.append(f"two layers are named {name!r}; the later one is called {node!r} here")
        block = layer.without(*WIRING, *RULES)
        source = CaffeLayer(block, spelled, bottoms, tops, stored=self._weights_of(name))
        self._append(node, kind, source, block)

    def _free(self, name: str, again: bool = False) -> str:
        """The name, or with a number behind it where it is taken, or used `again`."""
        found, count = name, self.counted.get(name, 1)
        while again or found in self.taken:
            again, count = False, count + 1
            found = f"{name}_{count}"
        self.counted[name] = count
        return found

    def _append(self, name: str, kind: str, source: CaffeLayer, block: Block) -> None:
        inputs = tuple(self._reads(name, blob) for blob in source.bottoms)
        twice = [blob for blob, count in Counter(source.tops).items() if count > 1]
        if twice:
            raise FormatError(f"{self.where}: layer {name!r} makes the blob {twice[0]!r} twice")
        outputs = tuple(self._makes(name, blob, source.bottoms) for blob in source.tops)
        about = schema(self.generation if not source.declared else "V2")
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
        self.specs.update(_specs(kind, outputs, above))
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
            near = list(self.current)[-MOST_HINTS:] if len(blob) <= MOST_HINTS else []
            close = difflib.get_close_matches(blob, near, n=3, cutoff=0.5)
            hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise FormatError(f"{self.where}: layer {node!r} reads the blob {blob!r}, which no layer before it makes{hint}")

    def _makes(self, node: str, blob: str, bottoms: tuple[str, ...]) -> str:
        tensor = blob
        if blob in self.current:
            if blob not in bottoms:
                raise self._made_again(blob, node)
            tensor = f"{blob}@{node}"
        while tensor in self.specs:
            tensor += "@"
        self.current[blob] = tensor
        self.specs[tensor] = TensorSpec(tensor)
        return tensor

    def _made_again(self, blob: str, node: str) -> FormatError:
        for other in reversed(self.nodes):
            if self.current[blob] in other.outputs:
                return FormatError(
                    f"{self.where}: the blob {blob!r} is made by {other.name!r} and again by {node!r}, which does not "
                    "work in place"
                )
        reader = next(other.name for other in self.nodes if self.current[blob] in other.inputs)
        return FormatError(
            f"{self.where}: {reader!r} reads the blob {blob!r}, which only {node!r} behind it makes; "
            "is the file damaged?"
        )

    # weights

    def _weights_of(self, name: str) -> StoredLayer | None:
        """The stored layer of this name; of several the next one, so that layers that share a name stay apart."""
        found = self.pool.get(name)
        return found.pop(0) if found else None

    def _check_weights(self) -> None:
        """Notes on weights that are missing. InputError when those that were given are of another net."""
        wrong, needing = self._misfits()
        if self.stored is None:
            self.notes += [NO_WEIGHTS] if needing else []
            return
        file = self.stored.path.name
        missing = [f"{file} has no weights for the layer {name!r}" for name in self.bare_layers]
        # Of layers that are new in a net, Caffe makes the weights up: a few may be missing.
        if not self.alone and (wrong or 2 * len(self.bare_layers) > needing):
            held = [layer.name for layer in self.stored.layers if layer.blobs]
            told = wrong or [
                f"it has weights for {_named(held) or 'no layer'}, the net needs them for {_named(self.bare_layers)}"
            ]
            more = f" (and {len(told) - 1} more)" if told[1:] else ""
            raise InputError(f"{file} does not fit {self.where}: {told[0]}{more}; do the two belong together?")
        self.notes += [*wrong, *missing]

    def _misfits(self) -> tuple[list[str], int]:
        """What of the stored weights contradicts the net, and how many layers need weights."""
        wrong: list[str] = []
        needing = 0
        for node in self.nodes:
            below = [self.specs[tensor].shape for tensor in node.inputs]
            found = shapes.misfits(node, below, self.weights)
            needing += found is not None or bool(node.weights)
            if found is not None and not node.weights:
                self.bare_layers.append(node.name)
            else:
                wrong += found or []
        return wrong, needing

    def _note_unknown(self) -> None:
        names = [node.name for node in self.nodes if node.source.stored and unknown_to_schema(node.source.stored)]
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
                f"layers for training ({', '.join(node.name for node in judging)}): what they read is taken as output, "
                "not what they make"
            )
        unread = judged - read
        for node in self.nodes:
            if node.op_type != "Input" and brought.issuperset(node.outputs):  # labels that nobody reads are no inputs
                unread.update(set(node.outputs[1:]) - read)
        self.inputs = [tensor for tensor in self.inputs if tensor not in unread]
        return tuple(
            tensor for node in self.nodes if not _passes(node, brought, read) for tensor in node.outputs
            if tensor in made and tensor not in read and tensor not in brought
        )


def _passes(node: Node, brought: set[str], read: set[str]) -> bool:
    """Does a layer only cut up or copy an input that judging layers read (labels)?"""
    return node.op_type in ("Slice", "Split") and brought.issuperset(node.inputs) and read.isdisjoint(node.outputs)


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _is_implicit(name: str, tops: Sequence[str]) -> bool:
    """Was this Split put in by Caffe itself? Then it is named after its blob, and its tops after it."""
    return name.endswith("_split") and all(top == f"{name}_{place}" for place, top in enumerate(tops))


def _spec(tensor: str, shape: Shape | None, dtype: DType = FLOAT32) -> TensorSpec:
    return TensorSpec(tensor, dtype, shape, "NCHW" if shape is not None and len(shape) == 4 else None)


def _specs(op_type: str, outputs: Sequence[str], made: Sequence[Shape | None]) -> dict[str, TensorSpec]:
    """The specs of what a layer of this type makes."""
    return {
        tensor: _spec(tensor, shape, DTYPES[shapes.INTEGERS.get((op_type, place), "float32")])
        for place, (tensor, shape) in enumerate(zip(outputs, made, strict=True))
    }


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
        known.update(_specs(node.op_type, node.outputs, above))
    return replace(graph, tensors=known)
