"""Graph: a network as frozen nodes in execution order, whatever file it came from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from acccmp.core.dump import Origin, Port
from acccmp.core.names import op_of
from acccmp.core.reading import FilePath
from acccmp.core.tensor import DType, TensorRef
from acccmp.errors import InputError, UnknownName
from acccmp.plugins import find

if TYPE_CHECKING:
    import networkx
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from acccmp.reports.report import Report

Dim = int | str | None  # a size, the name of a symbolic size, or unknown
Shape = tuple[Dim, ...]
Dims = tuple[int, ...]


def shape_text(shape: Sequence[Dim] | None, unknown: str = "of any shape", times: str = "x") -> str:
    """A shape for people: `1x3x?xW`, "scalar" without axes; `unknown` where not even their number is known."""
    return unknown if shape is None else times.join("?" if dim is None else str(dim) for dim in shape) or "scalar"


def agrees(shape: Shape | None, sizes: Dims) -> bool:
    """Are these the sizes of a tensor whose shape may be open?"""
    return shape is None or (len(shape) == len(sizes) and all(
        not isinstance(dim, int) or dim < 0 or dim == size for dim, size in zip(shape, sizes, strict=True)
    ))


def _few(names: Sequence[str], most: int = 5) -> str:
    """The first of some names, as a list that is cut."""
    return f"[{', '.join([*map(repr, names[:most]), *([f'{len(names) - most} more'] if len(names) > most else [])])}]"


@dataclass(frozen=True)
class TensorSpec:
    """What is known of a tensor without running anything. Unknown stays None, never a guess.

    `shape` None means unknown rank. `origin`, `nbytes` and `offset` (in the model's memory) are filled for device
    models only.

    >>> acccmp.load("resnet.onnx").spec("image")
    TensorSpec(name='image', dtype=float32, shape=('batch', 1, 8, 8), layout='NCHW', origin=None, nbytes=None,
    offset=None)
    """

    name: str
    dtype: DType | None = None
    shape: Shape | None = None
    layout: str | None = None
    origin: Origin | None = None
    nbytes: int | None = None
    offset: int | None = None

    @property
    def is_static(self) -> bool:
        return self.shape is not None and all(isinstance(dim, int) and dim >= 0 for dim in self.shape)


@dataclass(frozen=True)
class ModelTensor:
    """One input or output of a compiled model.

    A dynamic size is -1 in `shape`; `nbytes`, what the runtime wants or gives, is None then. `original` is the name of
    the original model's tensor and `made_by` its output port there, where the compiler wrote them. `ranges` are (least,
    most) of each dimension. `aipp` is what the compiled-in pre-processing does, empty without one.
    """

    name: str
    dtype: DType | None = None
    shape: Dims | None = None
    layout: str | None = None
    nbytes: int | None = None
    original: str = ""
    made_by: Port | None = None
    ranges: tuple[tuple[int, int], ...] = ()
    aipp: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def facts(self) -> dict[str, Any]:
        """As JSON-able facts; what is not known is None or left out."""
        found: dict[str, Any] = {
            "name": self.name, "dtype": self.dtype.name if self.dtype else None,
            "shape": None if self.shape is None else list(self.shape), "layout": self.layout, "bytes": self.nbytes,
        }
        if self.original:
            found["original"] = self.original
        if self.ranges:
            found["ranges"] = [list(pair) for pair in self.ranges]
        if self.aipp:
            found["aipp"] = dict(self.aipp)
        return found


@dataclass(frozen=True)
class Gear:
    """One setting that a dynamic model was compiled for: its values, the graph that answers it, the input shapes."""

    values: Dims
    branch: str = ""
    inputs: Mapping[str, Dims] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class ModelIO:
    """What goes into a compiled model and comes out, as its user sees it.

    `dynamic` says what varies between the gears: batch, image size or dimensions.
    """

    inputs: tuple[ModelTensor, ...] = ()
    outputs: tuple[ModelTensor, ...] = ()
    gears: tuple[Gear, ...] = ()
    dynamic: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Compiled:
    """What a device model says of how it was made: for which chip, by which command line; "" where it says nothing."""

    soc: str = ""
    command: str = ""


@dataclass(frozen=True)
class Node:
    """One operator. `inputs` and `outputs` are tensor names ("" is an absent optional input).

    `captures` are outer tensors that its sub-graphs (If/Loop bodies, functions) read; they come after the inputs as
    slots. `control` names nodes that must run before. `weights` names the tensors that it owns without having them as
    inputs (Caffe blobs). `origins` is None when the compiler wrote nothing (the op keeps its original's name), and ()
    for an op that the compiler made; it is used by device models only.

    >>> acccmp.load("resnet.onnx")["block2/conv1"]
    Node('block2/conv1', Conv, inputs ['pool1_output', 'block2/conv1.weight'], outputs ['block2/conv1_output'])
    """

    name: str
    op_type: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)
    control: tuple[str, ...] = ()
    captures: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    subgraphs: Mapping[str, Graph] = field(default_factory=dict, repr=False, hash=False)
    domain: str = ""
    origins: tuple[str, ...] | None = None
    source: Any = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        return f"Node({self.name!r}, {self.op_type}, inputs {_few(self.inputs)}, outputs {_few(self.outputs)})"

    @property
    def slots(self) -> tuple[str, ...]:
        """Every tensor it reads, by input slot; captured ones follow the inputs."""
        return self.inputs + self.captures


@dataclass(frozen=True, eq=False)
class Graph:
    """A network: nodes in execution order, what is known of each tensor, and where the weights are.

    `inputs` and `outputs` are tensor names. In Caffe, TensorFlow and device models an input is also the output of a
    node (`Input`, `Placeholder`, `Data`); in ONNX it is not. `weights` maps tensor names to refs. `aliases` maps names
    that the file used more than once to the unique names given here. `io` and `compiled` are filled for device models
    only. `meta` is what else the file says, to be shown: nothing of acccmp reads a key of it. `source` is the format's
    own; only the modules of that format look inside. `notes` is what the loader has to say.

    >>> graph = acccmp.load("resnet.onnx")
    >>> graph
    Graph('resnet', onnx, 31 nodes, inputs ['image'], outputs ['prob_output'])
    >>> [node.op_type for node in graph][:3]
    ['Conv', 'BatchNormalization', 'Relu']
    >>> graph["block2/conv9"]
    Traceback (most recent call last):
    acccmp.errors.UnknownName: no node named 'block2/conv9' in resnet; did you mean block2/conv2, ...
    """

    name: str
    format: str
    nodes: tuple[Node, ...] = field(repr=False)
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    tensors: Mapping[str, TensorSpec] = field(default_factory=dict, repr=False, hash=False)
    weights: Mapping[str, TensorRef] = field(default_factory=dict, repr=False, hash=False)
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False, hash=False)
    path: Path | None = None
    meta: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)
    notes: tuple[str, ...] = field(default=(), repr=False)
    source: Any = field(default=None, repr=False, compare=False)
    io: ModelIO = field(default=ModelIO(), repr=False)
    compiled: Compiled = field(default=Compiled(), repr=False)

    def __repr__(self) -> str:
        return (
            f"Graph({self.name!r}, {self.format}, {len(self.nodes)} nodes, "
            f"inputs {_few(self.inputs)}, outputs {_few(self.outputs)})"
        )

    def __len__(self) -> int:
        return len(self.nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._by_name)

    # -- looking things up ---------------------------------------------------------------------------------------

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def _producer(self) -> dict[str, Port]:
        made = {name: Port(name, "output", 0) for name in self.inputs}
        for node in self.nodes:
            for index, tensor in enumerate(node.outputs):
                if tensor:
                    made[tensor] = Port(node.name, "output", index)
        return made

    @cached_property
    def _consumers(self) -> dict[str, tuple[Port, ...]]:
        readers: dict[str, list[Port]] = {}
        for node in self.nodes:
            for slot, tensor in enumerate(node.slots):
                if tensor:
                    readers.setdefault(tensor, []).append(Port(node.name, "input", slot))
        return {tensor: tuple(ports) for tensor, ports in readers.items()}

    @cached_property
    def depth(self) -> Mapping[str, int]:
        """Place of each node in execution order, from 0."""
        return MappingProxyType({node.name: place for place, node in enumerate(self.nodes)})

    def __getitem__(self, name: str) -> Node:
        """The node of exactly this name. Raises UnknownName (a KeyError, with close matches) otherwise."""
        if name not in self._by_name:
            raise UnknownName("node", name, self._by_name, self.name or "the model")
        return self._by_name[name]

    def node(self, name: str) -> Node:
        """The node of this name, or the one that makes the tensor of this name, or that has this port.

        Raises UnknownName (with close matches), or InputError when the file uses the name more than once.
        """
        if name in self.aliases and len(self.aliases[name]) > 1:
            raise InputError(
                f"{name!r} names {len(self.aliases[name])} nodes of {self.name}; "
                f"say which: {', '.join(self.aliases[name])}"
            )
        if name in self._by_name:
            return self._by_name[name]
        port = self._producer.get(name) or self._producer.get(f"{name}:0")
        if port is not None and port.node in self._by_name:
            return self._by_name[port.node]
        if (op := op_of(name)) in self._by_name:
            return self._by_name[op]
        raise UnknownName("node or tensor", name, [*self._by_name, *self._producer], self.name or "the model")

    def producer(self, tensor: str) -> Port | None:
        """The output port that makes `tensor`: a node's, or `input:output:0` for a model input; None for a weight."""
        return self._producer.get(tensor)

    def consumers(self, tensor: str) -> tuple[Port, ...]:
        """The input ports that read `tensor`, in execution order."""
        return self._consumers.get(tensor, ())

    def tensor(self, port: Port) -> str | None:
        """Name of the tensor at `port`, or None if the port is absent."""
        if port.node not in self._by_name:
            return port.node if port.node in self.inputs and port.side == "output" else None
        node = self._by_name[port.node]
        names = node.outputs if port.side == "output" else node.slots
        return (names[port.index] or None) if port.index < len(names) else None

    def spec(self, tensor: str) -> TensorSpec:
        """What is known of `tensor`; an empty spec where nothing is."""
        return self.tensors.get(tensor) or TensorSpec(tensor)

    # -- shape of the network ------------------------------------------------------------------------------------

    @cached_property
    def nx(self) -> networkx.MultiDiGraph:
        """The node names as a networkx graph: one edge for each (tensor, input slot), with `tensor=`, `slot=` and
        `shape=`; control edges have `tensor=None` and `control=True`."""
        import networkx

        view = networkx.MultiDiGraph(name=self.name)
        for node in self.nodes:
            view.add_node(node.name, op_type=node.op_type)
        for node in self.nodes:
            for slot, tensor in enumerate(node.slots):
                made_by = self._producer.get(tensor) if tensor else None
                if made_by is not None and made_by.node in self._by_name:
                    view.add_edge(
                        made_by.node, node.name, key=(tensor, slot),
                        tensor=tensor, slot=slot, shape=self.spec(tensor).shape,
                    )
            for before in node.control:
                if before in self._by_name:
                    view.add_edge(before, node.name, key=("^", before), tensor=None, control=True, shape=None)
        return networkx.freeze(view)

    @cached_property
    def constants(self) -> frozenset[str]:
        """Names of nodes whose outputs depend on no model input (constants and what is folded from them)."""
        varying = set(self.inputs)
        while True:  # once more whenever a loop carries something back to a node that came before
            before = len(varying)
            fixed = set()
            for node in self.nodes:
                moves = any(tensor in varying for tensor in node.slots if tensor)
                starts = bool(node.outputs) and any(tensor in varying for tensor in node.outputs)
                if moves or starts:
                    varying.update(tensor for tensor in node.outputs if tensor)
                else:
                    fixed.add(node.name)
            if len(varying) == before:
                return frozenset(fixed)

    def keep(self, names: Iterable[str], outputs: Collection[str] | None = None) -> Graph:
        """The part with just the nodes `names`: a Graph again, with execution order kept.

        Its inputs are the tensors that it reads and does not make (weights apart); its outputs are `outputs`, else
        the tensors that are read outside, were model outputs, or are read by nobody. Raises UnknownName.
        """
        wanted = set(names)
        for name in wanted - self._by_name.keys():
            raise UnknownName("node", name, self._by_name, self.name or "the model")
        nodes = tuple(node for node in self.nodes if node.name in wanted)
        made = {tensor for node in nodes for tensor in node.outputs if tensor}
        read = dict.fromkeys(tensor for node in nodes for tensor in node.slots if tensor)
        owned = {tensor for node in nodes for tensor in node.weights}
        placeholders = [tensor for tensor in self.inputs if tensor in made]
        inputs = placeholders + [t for t in read if t not in made and t not in self.weights]
        if outputs is None:
            ends = [
                tensor
                for node in nodes
                for tensor in node.outputs
                if tensor and (
                    tensor in self.outputs
                    or not self.consumers(tensor)
                    or any(port.node not in wanted for port in self.consumers(tensor))
                )
            ]
        else:
            ends = list(outputs)
        weights = {t: ref for t, ref in self.weights.items() if t in read or t in owned or t in made}
        known = {t: s for t, s in self.tensors.items() if t in made or t in read or t in weights}
        return replace(
            self, nodes=nodes, inputs=tuple(inputs), outputs=tuple(dict.fromkeys(ends)),
            tensors=known, weights=weights,
            aliases={a: kept for a, of in self.aliases.items() if (kept := tuple(n for n in of if n in wanted))},
        )

    # -- showing itself ------------------------------------------------------------------------------------------

    def plot(
        self, report: Report | FilePath | None = None, ax: Axes | None = None, *, around: str | None = None,
        radius: int = 3,
    ) -> Figure:
        """The network in layers by depth, with the verdicts of a report; see `acccmp.reports.graph_plot.plot_graph`."""
        figure: Figure = find("methods", "Graph.plot")(self, report, ax, around=around, radius=radius)
        return figure

    def _repr_html_(self) -> str:
        return str(find("notebook", "Graph")(self))
