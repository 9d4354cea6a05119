"""MindSpore's files: models (.mindir) as Graphs, checkpoints (.ckpt) as Graphs without nodes; encrypted ones are told.

Source: ../shared/specs/model_formats.md, b. The graph itself is read in `mindspore_graph`, checkpoints in
`mindspore_checkpoint`.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from acccmp.core.graph import Graph
from acccmp.core.reading import first_bytes
from acccmp.errors import FormatError
from acccmp.models import mindspore_checkpoint, mindspore_graph
from acccmp.models.facts import node_facts, tensor_facts, weight_facts
from acccmp.models.sniff import CIPHERS


def load(path: str | Path) -> Graph:
    """The Graph (format "mindspore") of a .mindir file; weights stay in it, or in the files beside it.

    Nodes have the names of their scope (`Default/conv1-Conv2d/Conv2D-op1`), which dumps use too. Nodes that only pass
    values on (Load, Depend, UpdateState, MakeTuple, TupleGetItem) are gone, primitives are looked up. `weights` is not
    used. Raises FormatError for encrypted files, damaged ones and others.
    """
    where = Path(path)
    _refuse_encrypted(where)
    return mindspore_graph.read(where)


def load_checkpoint(path: str | Path) -> Graph:
    """The tensors of a .ckpt file as a Graph (format "checkpoint") without nodes; nothing of them is read.

    Tensors cut into pieces are joined, dims of [0] are scalars. Raises FormatError for encrypted and damaged files,
    strategy files, and the checkpoints of other frameworks, each with what it is.
    """
    where = Path(path)
    _refuse_encrypted(where)
    return mindspore_checkpoint.read(where)


def cipher_of(path: Path) -> str | None:
    """What a file is encrypted with, by its first bytes; None for a plain one."""
    start = first_bytes(path, 4)
    return CIPHERS.get(struct.unpack("<I", start)[0]) if len(start) == 4 else None


def _refuse_encrypted(path: Path) -> None:
    cipher = cipher_of(path)
    if cipher:
        raise FormatError(
            f"{path}: encrypted by MindSpore ({cipher}); export it again without a key (`enc_key`), "
            "or decrypt it with MindSpore first"
        )


def describe(path: str | Path) -> dict[str, Any]:
    """What is in a .mindir file as JSON-able facts; of an encrypted one, that it is and with what.

    Keys: `format`, `encrypted`, `name`, `made by`, `inputs`, `outputs`, `nodes`, `edges`, `ops`, `sub-graphs`,
    `weights`, `notes`. Raises FormatError as `load`.
    """
    where = Path(path)
    if cipher := cipher_of(where):
        return _encrypted(where, cipher)
    graph = mindspore_graph.read(where)
    return {
        "format": "mindspore", "encrypted": "", "name": graph.name,
        "made by": {key: str(value) for key, value in graph.meta.items() if value not in ("", None)},
        "inputs": [tensor_facts(graph.spec(name)) for name in graph.inputs],
        "outputs": [tensor_facts(graph.spec(name)) for name in graph.outputs],
        **node_facts(graph.nodes), "weights": weight_facts(graph.weights.values()), "notes": list(graph.notes),
    }


def describe_checkpoint(path: str | Path) -> dict[str, Any]:
    """What is in a .ckpt file, as `describe`. Keys: `format`, `encrypted`, `name`, `weights`, `tensors`, `checksum`,
    `notes`."""
    where = Path(path)
    if cipher := cipher_of(where):
        return _encrypted(where, cipher)
    graph = mindspore_checkpoint.read(where)
    return {
        "format": "checkpoint", "encrypted": "", "name": graph.name, "weights": weight_facts(graph.weights.values()),
        "tensors": [
            {"name": name, "dtype": ref.dtype.name, "shape": list(ref.shape), "bytes": ref.nbytes}
            for name, ref in graph.weights.items()
        ],
        "checksum": mindspore_checkpoint.checksum(where), "notes": list(graph.notes),
    }


def _encrypted(path: Path, cipher: str) -> dict[str, Any]:
    return {
        "format": "mindspore", "encrypted": cipher, "name": path.stem, "bytes": path.stat().st_size,
        "notes": [f"encrypted ({cipher}): nothing can be read without the key"],
    }
