"""load: any model file or folder, by what its bytes say, as a Graph."""

from __future__ import annotations

import os
from pathlib import Path

from acccmp import plugins
from acccmp.core.graph import Graph
from acccmp.errors import InputError
from acccmp.models.identify import examine, identify


def load(path: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None) -> Graph:
    """The model at `path`, whatever its format; `weights` is the caffemodel that belongs to a prototxt.

    Raises InputError when nothing is there or it is no model (a dump, an array), and FormatError when it is damaged
    or of no known kind.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    kind = identify(path)
    if kind not in plugins.names("models"):
        raise InputError(f"{path}: is {examine(path).what}, not a model; `acccmp inspect` shows what is in it")
    if weights is None:
        return _checked(plugins.find("models", kind)(path))
    if kind != "caffe":
        raise InputError(
            f"{path}: is {examine(path).what}, which holds its own weights; leave out the weights {weights}"
        )
    if not Path(weights).exists():
        raise InputError(f"{weights}: no such file")
    of = identify(weights)
    if of != "caffe":
        raise InputError(f"{weights}: is {examine(weights).what}, where the caffemodel of {path.name} is wanted")
    return _checked(plugins.find("models", kind)(path, weights))


def _checked(graph: object) -> Graph:
    assert isinstance(graph, Graph)
    return graph
