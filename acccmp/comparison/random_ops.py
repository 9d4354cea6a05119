"""Random ops: golden and device draw other numbers, and nothing behind them can agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from acccmp.core.dump import Port
from acccmp.core.graph import Graph, Node
from acccmp.mapping.device_map import DeviceMap
from acccmp.models.device_graph import split_input
from acccmp.reports.pair import Verdict
from acccmp.reports.report import Comparison

# Op types that draw numbers, of all formats and of devices.
RANDOM = frozenset({
    # ONNX
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli",
    # TensorFlow, and the same names on devices
    "RandomStandardNormal", "RandomUniformInt", "TruncatedNormal", "ParameterizedTruncatedNormal",
    "RandomGamma", "RandomPoisson", "RandomPoissonV2", "RandomShuffle", "RandomCrop", "StatelessRandomNormal",
    "StatelessRandomNormalV2", "StatelessRandomUniform", "StatelessRandomUniformV2", "StatelessRandomUniformInt",
    "StatelessRandomUniformIntV2", "StatelessTruncatedNormal", "StatelessTruncatedNormalV2", "StatelessMultinomial",
    "StatelessRandomBinomial", "StatelessRandomPoisson", "StatelessRandomGammaV2",
    # devices
    "DropOutGenMask", "DropOutGenMaskV3", "StatelessDropOutGenMask", "MultinomialWithReplacement",
    "RandomChoiceWithMask",
})
# What these give depends on no number.
_SHAPES = frozenset({"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike"})


def behind_random(model: Graph | None, device: DeviceMap | None) -> Mapping[str, str]:
    """Ops whose numbers depend on a random op -> that op: of the model, or of the device where there is no model."""
    found: dict[str, str] = {}
    for name, node, feeds in _of_model(model) if model is not None else _of_device(device) if device else ():
        if _draws(node):
            found[name] = name
        elif node.op_type not in _SHAPES:
            source = next((found[feed] for feed in feeds if feed in found), None)
            if source is not None:
                found[name] = source
    return found


def _draws(node: Node) -> bool:
    if node.op_type == "DummyData":  # Caffe's: it draws where its filler does
        fillers = node.attrs.get("dummy_data_param", {}).get("data_filler", ())
        return any(filler.get("type", "constant") != "constant" for filler in fillers)
    kind = str(node.attrs.get("original_type", node.op_type))  # what a device hands on to the host
    return kind in RANDOM or any(_draws(inner) for graph in node.subgraphs.values() for inner in graph.nodes)


def _of_model(model: Graph) -> Iterable[tuple[str, Node, list[str]]]:
    for node in model.nodes:
        made = (model.producer(tensor) for tensor in node.slots if tensor)
        yield node.name, node, [port.node for port in made if port is not None]


def _of_device(device: DeviceMap) -> Iterable[tuple[str, Node, list[str]]]:
    for node in device.nodes:
        yield node.name, node, [split_input(device.redirect.get(t, t))[0] for t in node.inputs if t]


def set_aside(rows: Sequence[Comparison], model: Graph | None, device: DeviceMap | None) -> list[Comparison]:
    """`rows` with those not judged that depend on other random numbers: what depends on a random op of the model (of
    the device, without a model). Where golden and device drew the same numbers, all is judged."""
    behind = behind_random(model, device)
    sources: dict[Port | None, str] = {}
    same: dict[str, bool] = {}
    for row in rows if behind else ():
        if row.golden_port is None or (model is None and row.port.side == "input"):
            continue
        op = row.golden_port.node if model is not None else row.port.node
        if op in behind:
            sources[row.golden_port] = behind[op]
        if behind.get(op) == op and row.is_judged:
            same[op] = same.get(op, True) and row.verdict is Verdict.MATCH
    out = []
    for row in rows:
        source = sources.get(row.golden_port)
        if source is not None and not same.get(source) and row.verdict in (Verdict.MATCH, Verdict.DRIFT):
            row = replace(row, verdict=Verdict.NOT_COMPARABLE, reason=(
                f"depends on the random op {source}, which drew other numbers here and there: only its own error tells"
            ))
        out.append(row)
    return out
