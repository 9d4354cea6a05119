"""Device models put one after the other: what a quantised or unfused model stands for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from acccmp.core.dump import Dump, Origin
from acccmp.core.graph import Graph, Node
from acccmp.mapping.device_map import DeviceMap
from acccmp.mapping.trace import QUANTISING


def compose(mapping: DeviceMap, rule: DeviceMap) -> DeviceMap:
    """`mapping` with its originals, which are ops of a quantised model, replaced by what `rule` says they stand for.

    `rule` is the quantisation tool's JSON, read like a mapping: quantised op -> ops of the float model.
    """
    def node_origins(name: str) -> tuple[str, ...]:
        if name not in rule.graph:
            return (name,)
        found = rule.graph[name].origins
        return (name,) if found is None else found

    def tensor_origin(origin: Origin) -> Origin:
        if origin.node not in rule.graph:
            return origin
        written = rule.graph.spec(f"{origin.node}:{origin.index}").origin
        if written is not None and written.node:
            return replace(written, layout=written.layout or origin.layout, shape=written.shape or origin.shape)
        names = node_origins(origin.node)
        return replace(origin, node=names[0] if len(names) == 1 else "")

    def told(node: Node) -> Mapping[str, Any]:
        named = (name for name in (node.name, *(node.origins or ())) if name in rule.graph)
        return next((attrs for name in named if "scale" in (attrs := rule.graph[name].attrs)), {})

    scaled = _scaled(mapping.graph, told)
    return replace(mapping, graph=_rewritten(scaled, node_origins, tensor_origin))


def with_scales(mapping: DeviceMap | None, npu: Dump) -> DeviceMap | None:
    """`mapping` with the scales of quantising ops that the headers of a dump tell and it does not."""
    def told(node: Node) -> Mapping[str, Any]:
        return npu.ops[node.name].attrs if node.name in npu.ops else {}

    return replace(mapping, graph=_scaled(mapping.graph, told)) if mapping is not None else None


def _scaled(graph: Graph, told: Callable[[Node], Mapping[str, Any]]) -> Graph:
    """The graph with `scale`, `offset` and `sqrt_mode` of quantising ops as `told` where it lacks them."""
    def attrs(node: Node) -> Mapping[str, Any]:
        if node.op_type not in QUANTISING or "scale" in node.attrs:
            return node.attrs
        found = told(node)
        return {**node.attrs, **{key: found[key] for key in ("scale", "offset", "sqrt_mode") if key in found}}

    return replace(graph, nodes=tuple(
        replace(node, attrs=attrs(node), subgraphs={n: _scaled(inner, told) for n, inner in node.subgraphs.items()})
        for node in graph.nodes
    ))


def compose_unfused(mapping: DeviceMap, unfused: DeviceMap) -> DeviceMap:
    """`mapping` with its originals replaced by the ops of `unfused`, a device model built with fusion switched off.

    A comparison with the dump of that model (both dumps are of the device then) goes through the result.
    """
    carriers: dict[str, list[str]] = {}
    outputs: dict[tuple[str, int], tuple[str, int]] = {}
    for node in unfused.nodes:
        for name in node.origins if node.origins is not None else (node.name,):
            carriers.setdefault(name, []).append(node.name)
        for place, tensor in enumerate(node.outputs):
            spec = unfused.spec(tensor)
            if spec is not None and spec.origin is not None and spec.origin.node:
                outputs[spec.origin.node, spec.origin.index] = (node.name, place)
            elif node.origins is None or len(node.origins) == 1:
                outputs.setdefault(((node.origins or (node.name,))[0], place), (node.name, place))

    def tensor_origin(origin: Origin) -> Origin:
        node, index = outputs.get((origin.node, origin.index), ("", origin.index))
        return replace(origin, node=node, index=index)

    def node_origins(name: str) -> tuple[str, ...]:
        return tuple(carriers.get(name, ()))

    return replace(mapping, graph=_rewritten(mapping.graph, node_origins, tensor_origin), of_device=True)


def _rewritten(
    mapping: Graph, node_origins: Callable[[str], tuple[str, ...]], tensor_origin: Callable[[Origin], Origin],
) -> Graph:
    nodes = []
    tensors = dict(mapping.tensors)
    for node in mapping.nodes:
        subgraphs = {name: _rewritten(inner, node_origins, tensor_origin) for name, inner in node.subgraphs.items()}
        if node.origins is None:
            origins = None if node_origins(node.name) == (node.name,) else node_origins(node.name)
        else:
            origins = tuple(dict.fromkeys(new for old in node.origins for new in node_origins(old)))
        nodes.append(replace(node, origins=origins, subgraphs=subgraphs))
        for tensor in node.outputs:
            spec = tensors.get(tensor)
            if spec is not None and spec.origin is not None and spec.origin.node:
                tensors[tensor] = replace(spec, origin=tensor_origin(spec.origin))
    return replace(mapping, nodes=tuple(nodes), tensors=tensors)
