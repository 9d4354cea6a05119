"""MindSpore's files: models (.mindir) as Graphs, checkpoints (.ckpt) as Graphs without nodes; encrypted ones are told.

Source: ../shared/specs/model_formats.md, b. The graph itself is read in `mindspore_graph`, checkpoints in
`mindspore_checkpoint`.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from pathlib import Path
from typing import Any

from acccmp.core.graph import Graph
from acccmp.core.reading import first_bytes, mapped
from acccmp.errors import FormatError
from acccmp.models import mindspore_checkpoint, mindspore_graph

CIPHERS = {0x7F3A5ED8: "AES-GCM", 0x7F3A5ED9: "AES-CBC", 0x7F3A5EDA: "SM4-CBC"}


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
    """What is in a .mindir or .ckpt file as JSON-able facts; of an encrypted one, that it is and with what.

    Keys: `format`, `encrypted`, `name`, `made by`, `inputs`, `outputs`, `nodes`, `edges`, `ops`, `sub-graphs`,
    `weights`, `largest weights`, `checksum`, `notes`. Raises FormatError as `load`.
    """
    where = Path(path)
    cipher = cipher_of(where)
    if cipher:
        return {
            "format": "mindspore", "encrypted": cipher, "name": where.stem, "bytes": where.stat().st_size,
            "notes": [f"encrypted ({cipher}): nothing can be read without the key"],
        }
    with mapped(where) as buffer:
        is_model = mindspore_graph.looks_like_a_model(buffer)
    if not is_model:
        graph = mindspore_checkpoint.read(where)
        return {
            "format": "checkpoint", "encrypted": "", "name": graph.name, "weights": _weight_facts(graph),
            "tensors": [
                {"name": name, "dtype": ref.dtype.name, "shape": list(ref.shape), "bytes": ref.nbytes}
                for name, ref in graph.weights.items()
            ],
            "checksum": mindspore_checkpoint.checksum(where), "notes": list(graph.notes),
        }
    graph = mindspore_graph.read(where)
    return {
        "format": "mindspore", "encrypted": "", "name": graph.name,
        "made by": {key: str(value) for key, value in graph.meta.items() if value not in ("", None)},
        "inputs": [_tensor_facts(graph, name) for name in graph.inputs],
        "outputs": [_tensor_facts(graph, name) for name in graph.outputs],
        "nodes": len(graph.nodes), "edges": sum(1 for node in graph.nodes for tensor in node.inputs if tensor),
        "ops": dict(Counter(node.op_type for node in graph.nodes).most_common()),
        "sub-graphs": sum(len(node.subgraphs) for node in graph.nodes), "weights": _weight_facts(graph),
        "notes": list(graph.notes),
    }


def _weight_facts(graph: Graph) -> dict[str, Any]:
    refs = graph.weights.values()
    return {
        "tensors": len(refs), "elements": sum(math.prod(ref.own_shape) for ref in refs),
        "bytes": sum(ref.nbytes for ref in refs), "dtypes": dict(Counter(ref.dtype.name for ref in refs)),
    }


def _tensor_facts(graph: Graph, name: str) -> dict[str, Any]:
    spec = graph.spec(name)
    sizes = [n for n in spec.shape or () if isinstance(n, int)]
    return {
        "name": name, "dtype": spec.dtype.name if spec.dtype else None,
        "shape": None if spec.shape is None else list(spec.shape), "layout": spec.layout,
        "bytes": spec.dtype.nbytes(math.prod(sizes)) if spec.dtype and spec.is_static else None,
    }
