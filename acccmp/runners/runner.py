"""Runner: what runs an original here, and Captured, what it brings home. They are rows of `acccmp.kinds.RUNNERS`, or
entry points of other packages in the group `acccmp.runners`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Protocol

from numpy.typing import NDArray

from acccmp import plugins
from acccmp.core.dump import Port
from acccmp.core.graph import Graph, TensorSpec, agrees, shape_text
from acccmp.errors import InputError, UnknownName
from acccmp.kinds import RUNNERS


@dataclass(frozen=True, eq=False)
class Captured:
    """Every tensor of one run, in the order of execution; model inputs come first, as output ports.

    `tensors` hold the values as the runner computed them (types that numpy lacks come as ml_dtypes arrays). `runner`
    and `version` say who computed. `skipped` maps a tensor's name to the reason why it is not there; `notes` is what
    else the runner has to say.
    """

    tensors: Mapping[Port, NDArray[Any]] = field(repr=False)
    runner: str
    version: str
    skipped: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.tensors)

    def __getitem__(self, port: Port) -> NDArray[Any]:
        return self.tensors[port]


@dataclass(frozen=True, eq=False)
class Part:
    """A graph, or a part of one, and what it is fed with (tensor name -> array); all its tensors are kept, or the
    `wanted`."""

    graph: Graph
    inputs: Mapping[str, NDArray[Any]]
    wanted: Collection[str] | None = None


class Runner(Protocol):
    """What runs an original here: a module or an object with these two.

    A runner that takes an argument (`--runner NAME:ARGUMENT`) is a function from that text to such an object.
    """

    def run(
        self, graph: Graph, inputs: Mapping[str, NDArray[Any]], wanted: Collection[str] | None = None, /,
    ) -> Captured:
        """Run `graph` and capture the tensors `wanted` (names; None: all that it can), no more than these.

        `inputs` maps each of `graph.inputs` to an array. Each tensor is under the port that `graph.producer` gives, a
        model input under its own. What was wanted and cannot be computed is in `skipped` with the reason. The same
        inputs give the same bits every time. Raises InputError for inputs that are missing, unknown or do not fit,
        UnknownName for wanted tensors that are not there, MissingExtra, and RunError when nothing can be computed.
        """
        ...

    def version(self) -> str:
        """What `Captured.version` would say, without importing or running anything; "" if that is not known before."""
        ...


def find_runner(text: str) -> Runner:
    """The runner `NAME` or `NAME:ARGUMENT`. Raises InputError for an unknown name, and for an argument too many or few.
    """
    name, colon, argument = text.partition(":")
    found = _entry(name)
    takes = not hasattr(found, "run") or isinstance(found, type)
    if takes and not colon:
        raise InputError(f"the runner {name!r} needs to be told more: --runner '{name}:...'")
    if colon and not takes:
        raise InputError(f"the runner {name!r} takes nothing behind its name, but {argument!r} was given")
    runner: Runner = found(argument) if takes else found
    return runner


def _entry(name: str) -> Any:
    if name in RUNNERS:
        return plugins.attribute(RUNNERS[name])
    others = plugins.points("runners")
    for point in others:
        if point.name == name:
            return plugins.loaded(point)
    known = [*RUNNERS, *(point.name for point in others)]
    raise InputError(f"no runner named {name!r}; there are: {', '.join(dict.fromkeys(known))}")


def check_names(graph: Graph, inputs: Collection[str], wanted: Collection[str] | None = None) -> None:
    """Are all inputs given that a model has, and no others, and does it have what is wanted? As `Runner.run` raises."""
    where = graph.name or "the model"
    for name in inputs:
        if name not in graph.inputs:
            raise UnknownName("input", name, graph.inputs, where)
    missing = [name for name in graph.inputs if name not in inputs]
    if missing:
        raise InputError(f"{where} also needs the input{'s' * (len(missing) > 1)} {', '.join(missing[:5])}"
                         f"{', ...' * (len(missing) > 5)}")
    known = {*graph.inputs, *graph.weights, *(tensor for node in graph.nodes for tensor in node.outputs)}
    for name in wanted or ():
        if name not in known:
            raise UnknownName("tensor", name, known, where)


def check_shape(spec: TensorSpec, array: NDArray[Any]) -> None:
    """Raises InputError for an array that does not have the shape of an input."""
    if not agrees(spec.shape, array.shape):
        found, wanted = shape_text(array.shape), shape_text(spec.shape)
        raise InputError(f"the input {spec.name} has the shape {found}, wanted is {wanted}")


def asked(graph: Graph, wanted: Collection[str] | None = None) -> list[str]:
    """The tensors that nodes make, in their order; of these the `wanted`."""
    chosen = None if wanted is None else set(wanted)
    return [t for node in graph.nodes for t in node.outputs if t and (chosen is None or t in chosen)]


def needed(graph: Graph, wanted: Collection[str]) -> set[str]:
    """The nodes that make `wanted`, and all above them."""
    found: set[str] = set()
    waiting = list(wanted)
    while waiting:
        port = graph.producer(waiting.pop())
        if port is not None and port.node in graph and port.node not in found:
            found.add(port.node)
            waiting += [tensor for tensor in graph[port.node].slots if tensor]
    return found


def installed(*packages: str) -> str:
    """The version of the first of these packages (as pip names them) that is installed; "" if none is."""
    for package in packages:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return ""
