"""Facts of a model as plain data, told alike for every format: what `inspect` shows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from acccmp.core.graph import Node, TensorSpec
from acccmp.core.tensor import TensorRef


def tensor_facts(spec: TensorSpec) -> dict[str, Any]:
    """`bytes` are what the file says, else what dtype and sizes come to; left out where nothing tells them."""
    facts: dict[str, Any] = {
        "name": spec.name, "dtype": spec.dtype.name if spec.dtype else None,
        "shape": None if spec.shape is None else list(spec.shape), "layout": spec.layout,
    }
    if spec.nbytes is not None:
        facts["bytes"] = spec.nbytes
    elif spec.dtype is not None and spec.is_static:
        facts["bytes"] = spec.dtype.nbytes(math.prod(dim for dim in spec.shape or () if isinstance(dim, int)))
    return facts


def weight_facts(refs: Collection[TensorRef]) -> dict[str, Any]:
    return {
        "tensors": len(refs), "elements": sum(math.prod(ref.own_shape) for ref in refs),
        "bytes": sum(ref.nbytes for ref in refs), "dtypes": dict(Counter(ref.dtype.name for ref in refs)),
    }


def node_facts(nodes: Sequence[Node]) -> dict[str, Any]:
    return {
        "nodes": len(nodes), "edges": sum(1 for node in nodes for tensor in node.inputs if tensor),
        "ops": dict(Counter(node.op_type for node in nodes).most_common()),
        "sub-graphs": sum(len(node.subgraphs) for node in nodes),
    }
