"""load: any model file or folder, by what its bytes say, as a Graph."""

from __future__ import annotations

import os
from pathlib import Path

from acccmp.core.graph import Graph
from acccmp.core.identify import identify
from acccmp.core.nouns import Noun
from acccmp.errors import InputError


def load(path: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None) -> Graph:
    """The model at `path`, whatever its format; `weights` is the file of weights that belongs to it
    (a prototxt's caffemodel).

    Raises InputError when nothing is there or it is no model (a dump, an array), and FormatError when it is damaged
    or of no known kind.

    >>> acccmp.load("resnet.onnx")
    Graph('resnet', onnx, 31 nodes, inputs ['image'], outputs ['prob_output'])
    """
    path = Path(path)
    found = identify(path)
    if found.kind.role in ("dump", "record"):
        raise InputError(f"{path}: is {found.words}, not a model; `acccmp inspect` shows what is in it")
    if weights is None:
        return _checked(found.kind.function("load")(path))
    if not found.kind.weights:
        raise InputError(f"{path}: is {found.words}, which holds its own weights; leave out the weights {weights}")
    given = identify(weights)
    if given.kind.name != found.kind.weights:
        raise InputError(
            f"{weights}: is {given.words}, where the weights of {path.name} ({found.kind.words}) are wanted"
        )
    return _checked(found.kind.function("load")(path, weights))


STORED = Noun(Graph, load)  # whatever a Graph can be made of
# A model that can be run or cut here.
MODEL = Noun(
    Graph, load, ("original", "parts"), "; MODEL is the file of the original model",
    {"device": ", which cannot run here; MODEL is the original, --mapping takes this file"},
)


def _checked(graph: object) -> Graph:
    assert isinstance(graph, Graph)
    return graph
