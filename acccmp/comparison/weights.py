"""The weights check: is what a compiled model (or a checkpoint) stores what the original has? Nothing is run.

Each weight of the original is looked for among those of the device: first by what the ops that read it stand for, then
by name, and last by shape and content alone. Layouts are undone; one rounding to the stored type is allowed; a
BatchNorm that was folded into the layer before it is recognised by folding it again.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acccmp.comparison.folding import CONVOLUTIONS, PASSING, find_fold, find_norm
from acccmp.comparison.measure import measure
from acccmp.core.dump import Port
from acccmp.core.graph import Graph, Node
from acccmp.core.layout import squeezed
from acccmp.core.reading import FilePath
from acccmp.core.tensor import DType, TensorRef, TurnedRef
from acccmp.errors import FormatError, InputError, LayoutError
from acccmp.models.load import STORED
from acccmp.reports.pair import Pair, Verdict
from acccmp.reports.report import Comparison, Report

Array = NDArray[Any]

_LARGEST_SEARCH = 4096  # weights that are tried by content alone
_SAMPLE = 4096  # elements looked at before a whole weight is


@dataclass(frozen=True)
class Weight:
    """One weight of a model: `layers` are the (original) layers that use it, `slot` is where the first one reads it."""

    name: str
    ref: TensorRef
    layers: frozenset[str] = frozenset()
    op_types: frozenset[str] = frozenset()
    slot: int | None = None
    owner: str = ""

    @property
    def count(self) -> int:
        return math.prod(self.ref.own_shape)


@dataclass(frozen=True)
class _Fit:
    """How an NPU weight equals a golden one: the axes of the golden in the NPU's order, and what is to be said.

    `error` is the largest difference of two numbers, in roundings to the stored type: at most 1.
    """

    axes: tuple[int, ...] | None = None
    how: str = ""
    error: float = 0.0


@dataclass
class _Found:
    """A golden weight's counterpart so far."""

    npu: Weight
    fit: _Fit | None
    notes: list[str] = field(default_factory=list)


def compare_weights(
    golden: Graph | FilePath, npu: Graph | FilePath, *, weights: FilePath | None = None, min_coverage: float = 0.9,
) -> Report:
    """Compare each weight of the original with what `npu` (a device model, a checkpoint, another model) stores.

    Both are Graphs or files; `weights` is the caffemodel of `golden`. Nothing is run.

    A port is `<weight name>:output:0`. `match`: equal after undoing the layout and at most one rounding to the stored
    type per number, or after folding a BatchNorm that follows. `drift`: the layer's weight is there, with other
    numbers. `fused`: it was folded away (shape arguments, BatchNorm parameters). `no_npu`: nothing on the device fits.
    `not_comparable`: stored as integers without a known scale. Raises InputError when a side has no weights at all,
    FormatError for a damaged file.

    >>> acccmp.compare_weights("resnet.onnx", "resnet.onnx")
    Report(passed: 42 match)
    """
    golden, npu = STORED.of(golden, weights=weights), STORED.of(npu)
    mine, theirs = weights_of(golden), weights_of(npu)
    for side, graph, found in (("GOLDEN", golden, mine), ("NPU", npu, theirs)):
        if not found:
            raise InputError(
                f"{graph.path or graph.name}: {side} holds no weights to compare"
                + ("; mappings as JSON or text have none, give the .om" if graph.format == "om" else "")
            )
    job = _Job(golden, mine, theirs)
    rows = [job.row(weight, order) for order, weight in enumerate(mine)]
    rows = _folded_away(rows, job)
    left = [weight.name for weight in theirs if weight.name not in job.used]
    told = [*golden.notes]
    if left:
        told.append(
            f"{len(left)} of {len(theirs)} weights of the NPU side stand for none of the original's (made by the "
            f"compiler, or left over): {', '.join(left[:3])}{', ...' if len(left) > 3 else ''}"
        )
    by_content = sum(1 for row in rows if any("by shape and content" in note for note in row.notes))
    if by_content:
        told.append(f"{by_content} weights were paired by shape and content alone")
    return Report(
        tuple(rows), {
            "golden": str(golden.path or golden.name), "npu": str(npu.path or npu.name), "compared": "weight",
            "model": f"{golden.name} ({golden.format}, {len(mine)} weights)",
            "thresholds": "one rounding to the stored type for each number",
        },
        tuple(told), min_coverage,
    )


# -- the weights of a model --------------------------------------------------------------------------------------


def weights_of(graph: Graph) -> list[Weight]:
    """Every weight with the layers that use it, graphs inside of graphs included; integers of 64 bits too.

    A weight of an inner graph has that graph's name in front when an outer one is called the same.
    """
    found: dict[str, Weight] = {}
    graphs, seen = [("", graph)], {id(graph)}
    while graphs:
        inside, one = graphs.pop(0)
        for weight in _weights(one):
            name = f"{inside}/{weight.name}" if weight.name in found else weight.name
            found.setdefault(name, replace(weight, name=name))
        for node in one.nodes:
            for name, inner in node.subgraphs.items():
                if id(inner) not in seen:
                    seen.add(id(inner))
                    graphs.append((name, inner))
    return list(found.values())


def _weights(graph: Graph) -> Iterator[Weight]:
    """The weights of one graph, those inside of it left aside."""
    owners = {name: node for node in graph.nodes for name in node.weights}
    for name, ref in graph.weights.items():
        owner = owners.get(name)
        if owner is not None:
            yield Weight(
                name, ref, _originals(owner), frozenset({owner.op_type}), owner.weights.index(name), owner.name,
            )
            continue
        readers = list(_readers(graph, name))
        layers = {layer for node, _ in readers for layer in _originals(node)}
        maker = graph.producer(name)
        if maker is not None and maker.node in graph:
            layers |= _originals(graph[maker.node])
        first = readers[0] if readers else None
        yield Weight(
            name, ref, frozenset(layers), frozenset(node.op_type for node, _ in readers),
            first[1] if first else None, first[0].name if first else "",
        )


def _originals(node: Node) -> frozenset[str]:
    """The original layers that a node stands for: itself, unless a compiler says otherwise."""
    return frozenset({node.name} if node.origins is None else (name for name in node.origins if name))


def _readers(graph: Graph, tensor: str, depth: int = 6) -> Iterator[tuple[Node, int]]:
    """Nodes that use a tensor, through those that only hand it on."""
    for port in graph.consumers(tensor):
        node = graph[port.node]
        yield node, port.index
        if depth and (node.op_type in PASSING or node.origins == ()):
            for made in node.outputs:
                if made:
                    yield from _readers(graph, made, depth - 1)


# -- the search --------------------------------------------------------------------------------------------------


class _Job:
    """The pairing of two models' weights: indexes, and which of the NPU's are taken."""

    def __init__(self, golden: Graph, mine: Sequence[Weight], theirs: Sequence[Weight]) -> None:
        self.golden = golden
        self.theirs = theirs
        self.used: set[str] = set()
        self.mine = {weight.name: weight.ref for weight in mine}
        self.by_layer: dict[str, list[Weight]] = {}
        self.by_name: dict[str, list[Weight]] = {}
        self.by_count: dict[int, list[Weight]] = {}
        for weight in theirs:
            for layer in weight.layers:
                self.by_layer.setdefault(layer, []).append(weight)
            for key in _keys(weight.name):
                self.by_name.setdefault(key, []).append(weight)
            self.by_count.setdefault(weight.count, []).append(weight)
        # BatchNorm parameter -> what became of it, once that is proven.
        self.folded: dict[str, str] = {}
        # The last few weights that were read (a ref is no key: two in memory can look alike).
        self._kept: dict[int, tuple[TensorRef, Array]] = {}

    def array(self, ref: TensorRef) -> Array:
        """The numbers of a weight, in its own shape."""
        if id(ref) not in self._kept:
            while len(self._kept) > 3:
                self._kept.pop(next(iter(self._kept)))
            self._kept[id(ref)] = ref, ref.numpy()
        return self._kept[id(ref)][1]

    def row(self, weight: Weight, order: int) -> Comparison:
        """The verdict of one weight of the original."""
        port = Port(weight.name, "output", 0)
        pair = Pair(
            port, golden_port=port, golden=weight.ref, order=order, op_type=next(iter(sorted(weight.op_types)), ""),
            originals=tuple(sorted(weight.layers)),
        )
        try:
            found = self._find(weight)
            if found is None:
                return self._absent(weight, Comparison(pair, Verdict.FUSED))
            self.used.add(found.npu.name)
            return self._judged(weight, found, pair)
        except (FormatError, LayoutError) as error:
            return Comparison(replace(pair, is_output=True), Verdict.UNREADABLE, reason=str(error))

    def _find(self, weight: Weight) -> _Found | None:
        """The best counterpart: equal ones of the same layers, of the same name, of any; then unequal ones."""
        if weight.ref.dtype.numpy is None:
            return None
        of_layer = self._of_layers(weight)
        named = [w for key in _keys(weight.name)[:2] for w in self.by_name.get(key, ())]
        for candidates in (of_layer, named):
            for candidate in candidates:
                fit = self._fit(weight, candidate)
                if fit is not None:
                    return _Found(candidate, fit)
        for candidate in of_layer:
            found = self._folded(weight, candidate)
            if found is not None:
                return found
        if self._restated(weight, of_layer):
            return None
        alone = [w for w in self.by_count.get(weight.count, ()) if w not in of_layer]
        if len(alone) <= _LARGEST_SEARCH and weight.count > 1:
            fitting = [(w, fit) for w in alone if (fit := self._fit(weight, w)) is not None]
            if len(fitting) == 1:
                candidate, fit = fitting[0]
                return _Found(candidate, fit, ["paired by shape and content alone"])
        near = [w for w in [*named, *of_layer] if w.name not in self.used and weight.count == w.count]
        by_slot = [w for w in near if w.slot == weight.slot]
        for candidate in [*by_slot, *near]:
            if len(near) == 1 or candidate in named or candidate in by_slot:
                return _Found(candidate, None)
        return None

    def _of_layers(self, weight: Weight) -> list[Weight]:
        found = {w.name: w for layer in weight.layers for w in self.by_layer.get(layer, ())}
        return sorted(found.values(), key=lambda w: (w.name in self.used, w.slot != weight.slot))

    def _fit(self, weight: Weight, candidate: Weight) -> _Fit | None:
        """How the two are equal; None when they are not."""
        if candidate.ref.dtype.numpy is None or candidate.ref.dtype.kind not in (weight.ref.dtype.kind, "float"):
            return None
        if weight.count not in (candidate.count, 1) or not candidate.count:
            return None
        if weight.ref.dtype.kind not in ("float", "int", "bool", "complex"):
            return None
        return fit(self.array(weight.ref), self.array(candidate.ref), candidate.ref.dtype)

    def _folded(self, weight: Weight, candidate: Weight) -> _Found | None:
        """Is the candidate this weight (or bias) with the BatchNorm behind its layer folded in?"""
        if weight.count != candidate.count:
            return None
        for layer in sorted(weight.layers):
            if layer not in self.golden or self.golden[layer].op_type not in CONVOLUTIONS:
                continue
            fold = find_fold(self.golden, self.golden[layer])
            if fold is None:
                continue
            made = fold.of(self.mine, weight.name)
            found = fit(made, self.array(candidate.ref), candidate.ref.dtype) if made is not None else None
            if found is not None:
                for name in fold.norm.parameters:
                    self.folded[name] = f"folded into {weight.name}, which was recomputed and is equal"
                note = f"equal once the BatchNorm {fold.norm.node} is folded in"
                return _Found(candidate, replace(found, how=f"{note}; {found.how}".rstrip("; ")))
        return None

    def _restated(self, weight: Weight, candidates: Sequence[Weight]) -> bool:
        """Is the weight a parameter of a BatchNorm whose device op has a scale and an offset computed from it?"""
        for layer in sorted(weight.layers):
            found = [find_norm(self.golden, node) for node in self._norms(layer)]
            for norm in found:
                if norm is None or weight.name not in norm.parameters:
                    continue
                scales, offsets = norm.forms(self.mine)
                scale = self._stored_among(scales, candidates)
                offset = self._stored_among(offsets, candidates)
                if scale is not None and offset is not None:
                    self.used |= {scale.name, offset.name}
                    reason = f"computed into the scale and offset of {scale.owner}; recomputed, both are equal"
                    self.folded.update(dict.fromkeys(norm.parameters, reason))
                    return True
        return False

    def _norms(self, layer: str) -> Iterator[Node]:
        if layer in self.golden:
            node = self.golden[layer]
            yield node
            if node.op_type == "Scale":
                made = self.golden.producer(node.inputs[0]) if node.inputs else None
                if made is not None and made.node in self.golden:
                    yield self.golden[made.node]

    def _stored_among(self, forms: Iterable[Array], candidates: Sequence[Weight]) -> Weight | None:
        for form in forms:
            for weight in candidates:
                if weight.ref.dtype.kind != "float" or not form.size == weight.count > 1:
                    continue
                if fit(form, self.array(weight.ref), weight.ref.dtype) is not None:
                    return weight
        return None

    def _absent(self, weight: Weight, base: Comparison) -> Comparison:
        if weight.ref.dtype.numpy is None:
            return replace(base, verdict=Verdict.NOT_COMPARABLE, reason=f"{weight.ref.dtype} has no numbers to compare")
        if weight.ref.dtype.kind != "float" or weight.count <= 1 or not weight.layers:
            return replace(base, reason="an argument of an op (shape, axis, constant): the compiler folded it away")
        if weight.name in self.folded:
            return replace(base, reason=self.folded[weight.name])
        if self.by_layer and not any(layer in self.by_layer for layer in weight.layers):
            return replace(base, reason="no weight of the device belongs to its layer: the layer was folded away")
        return replace(
            base, verdict=Verdict.NO_NPU, reason=f"no weight of the device fits {weight.ref.own_shape} of this layer",
        )

    def _judged(self, weight: Weight, found: _Found, pair: Pair) -> Comparison:
        npu, how = found.npu, found.fit
        notes = [*found.notes, *([how.how] if how and how.how else [])]
        pair = replace(pair, npu=npu.ref, npu_ops=tuple(filter(None, (npu.owner, npu.name))), is_output=True)
        row = Comparison(
            pair, Verdict.MATCH, limit=1.0, judged_by="roundings to the stored type", notes=tuple(notes),
        )
        folded = how is not None and "BatchNorm" in how.how
        if not folded and weight.count == npu.count:
            row = replace(row, **_numbers(weight.ref, npu.ref, how.axes if how else None))
        if how is not None:
            return replace(row, error=how.error)
        if npu.ref.dtype.kind != weight.ref.dtype.kind:
            kinds = f"stored as {npu.ref.dtype}, the original is {weight.ref.dtype}"
            return replace(row, verdict=Verdict.NOT_COMPARABLE, reason=f"{kinds}; its scale is not known")
        return self._unequal(weight, npu, row)

    def _unequal(self, weight: Weight, npu: Weight, row: Comparison) -> Comparison:
        golden, stored = self.array(weight.ref), self.array(npu.ref)
        if np.isfinite(golden).all() and not np.isfinite(stored).all():
            beyond = np.abs(golden).max() > npu.ref.dtype.largest
            verdict = Verdict.OVERFLOW if beyond else Verdict.NONFINITE
            return replace(row, verdict=verdict, reason=f"{int((~np.isfinite(stored)).sum())} numbers are not finite")
        apart = roundings(golden.reshape(-1), stored.reshape(-1), npu.ref.dtype)
        share = float(np.mean(apart > 1))
        # Of those that differ, the middle one: a single number near zero is easily billions of roundings off.
        return replace(
            row, verdict=Verdict.DRIFT, error=float(np.median(apart[apart > 1])),
            reason=f"{share:.1%} of its numbers differ from the original by more than one rounding to "
            f"{npu.ref.dtype}: a wrong or stale weight (compiled from another file?)",
        )


def _folded_away(rows: list[Comparison], job: _Job) -> list[Comparison]:
    """Parameters of BatchNorms whose fold was proven later than their own turn."""
    return [
        replace(row, pair=replace(row.pair, is_output=False), verdict=Verdict.FUSED, reason=job.folded[row.port.node])
        if row.port.node in job.folded and row.verdict in (Verdict.NO_NPU, Verdict.FUSED, Verdict.DRIFT) else row
        for row in rows
    ]


def _numbers(golden: TensorRef, npu: TensorRef, axes: tuple[int, ...] | None) -> dict[str, Any]:
    """Metrics of a pair, as fields of a Comparison; shapes that differ otherwise than by 1s are lined up flat."""
    if squeezed(golden.own_shape) != squeezed(npu.own_shape) and axes is None:
        golden, npu = (TensorRef.of(ref.numpy().reshape(-1), name=ref.path) for ref in (golden, npu))
    if axes is not None and len(axes) != len(npu.own_shape):  # they are those of the tensors without their 1s
        return {}
    found = measure(golden, npu if axes is None else TurnedRef.turned(npu, axes))
    return {"metrics": dict(found.metrics), "max_error_index": found.max_error_index}


# -- names -------------------------------------------------------------------------------------------------------

_TAIL = re.compile(r"(_Initializer_\d+|:\d+|/read)$")


def _keys(name: str) -> list[str]:
    """A weight's name, and how others write it: without graph prefix, output index and separators."""
    plain = _TAIL.sub("", _TAIL.sub("", name))
    bare = plain.partition(":")[2] if re.match(r"[\w$-]+:\D", plain) else plain
    loose = re.sub(r"[./_:\s]+", ".", bare).strip(".").lower()
    return list(dict.fromkeys((plain, bare, loose)))


# -- equality ----------------------------------------------------------------------------------------------------


def fit(golden: Array, npu: Array, stored: DType) -> _Fit | None:
    """How `npu` (stored as `stored`) equals `golden`: as it is, reshaped, transposed, or one number repeated.

    Equal means within one rounding to the stored type, number by number; NaN equals NaN. None when it does not.
    """
    if golden.size == 1 and npu.size > 1:
        flat = npu.reshape(-1)
        error = _apart(np.broadcast_to(golden.reshape(-1), flat.shape), flat, stored)
        return _Fit(None, "one number, stored once for each channel", error) if error <= 1 else None
    if golden.size != npu.size:
        return None
    mine, theirs = np.squeeze(golden), np.squeeze(npu)
    if mine.shape == theirs.shape and (error := _apart(mine, theirs, stored)) <= 1:
        return _Fit(error=error)
    for axes in itertools.permutations(range(mine.ndim)) if 2 <= mine.ndim <= 5 else ():
        if axes == tuple(range(mine.ndim)) or tuple(mine.shape[a] for a in axes) != theirs.shape:
            continue
        if (error := _apart(mine.transpose(axes), theirs, stored)) <= 1:
            same_rank = golden.ndim == npu.ndim == mine.ndim
            return _Fit(axes if same_rank else None, f"stored transposed by {axes}", error)
    if mine.shape != theirs.shape and (error := _apart(mine.reshape(-1), theirs.reshape(-1), stored)) <= 1:
        return _Fit(None, f"stored as {npu.shape}", error)
    return None


def _apart(golden: Array, npu: Array, stored: DType) -> float:
    """The largest difference in roundings; of large arrays a sample is looked at first."""
    step = max(1, golden.size // _SAMPLE)
    if step > 1 and golden.ndim:
        first = float(roundings(golden.flat[::step], npu.flat[::step], stored).max())
        if first > 1:
            return first
    return float(roundings(golden, npu, stored).max(initial=0.0))


def roundings(golden: Array, npu: Array, stored: DType) -> NDArray[np.float64]:
    """How far apart each two numbers are, in roundings to the stored type: at most 1 if only that happened to them.

    Below the type's smallest normal number, roundings are those of that number. Two NaNs and equal infinities are 0
    apart, other infinities and NaNs, and different integers, infinitely far.
    """
    if golden.dtype.kind in "iub" and npu.dtype.kind in "iub":
        return np.where(golden == npu, 0.0, np.inf)
    with np.errstate(all="ignore"):
        mine = golden.astype(np.complex128 if golden.dtype.kind == "c" else np.float64)
        theirs = npu.astype(mine.dtype)
        room = stored.epsilon * np.maximum(np.abs(mine), stored.smallest_normal)
        found = np.abs(theirs - mine) / room
        same = (mine == theirs) | (np.isnan(mine) & np.isnan(theirs))
        return np.where(same, 0.0, np.where(np.isnan(found), np.inf, found))
