"""A slice's way: cut out of a model, proven against it, judged where the device's own tensors are, handed over."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np

from acccmp.comparison.compare import compare_pair
from acccmp.comparison.judging import FIXED, Thresholds
from acccmp.core.distance import distance
from acccmp.core.dump import Dump, Port
from acccmp.core.graph import Graph
from acccmp.core.reading import FilePath
from acccmp.core.tensor import Array, DType, TensorRef
from acccmp.diagnosis.causes.hints import with_hint
from acccmp.errors import InputError, MissingExtra, RunError, SliceError
from acccmp.inputs.files import Inputs, by_name, fed, random_inputs
from acccmp.jobs.compare import _floors, stored_precision
from acccmp.jobs.feeding import feeds_from_dump, given_inputs
from acccmp.jobs.sources import DUMPED, GOLDEN, MAPPING
from acccmp.mapping.belongs import check_belongs
from acccmp.mapping.compose import with_scales
from acccmp.mapping.device_map import DeviceMap
from acccmp.mapping.laid_out import laid_out
from acccmp.mapping.names import by_names
from acccmp.mapping.reading import dequantised
from acccmp.mapping.trace import Quantisation
from acccmp.models.load import MODEL
from acccmp.reports.pair import Pair, Verdict
from acccmp.reports.report import Comparison, Report
from acccmp.runners.pieces import LARGE, run_lean, weight_bytes
from acccmp.runners.run import run as run_model
from acccmp.runners.runner import needed
from acccmp.slicing.bundle import Bundle, Proof, save_slice
from acccmp.slicing.cut import Slice, cut
from acccmp.slicing.manifest import DeviceSide, SelfTest

# -- cutting and running ------------------------------------------------------------------------------------------


def slice_model(
    model: Graph | FilePath,
    start: str | Sequence[str] = (),
    end: str | Sequence[str] = (),
    *,
    dump: Dump | FilePath | None = None,
    mapping: DeviceMap | Graph | FilePath | None = None,
    golden: Dump | FilePath | None = None,
    weights: FilePath | None = None,
    inputs: Inputs | None = None,
    around: str | None = None,
    radius: int = 1,
    widen: bool = False,
    exact: bool = False,
    all_outputs: bool = False,
    run: str | None = None,
    device: str | int | None = None,
    npu_model: str | int | None = None,
    step: str | int | None = None,
) -> Slice:
    """Cut `start`..`end` out of a model, with the tensors that the device dumped at its boundary.

    - `model`: the original; `weights`: its caffemodel. `start` and `end`: names of nodes, tensors, ports or device ops,
      one or several; or `around` one node, everything within `radius` steps.
    - `dump`: what the device dumped; of a tree of runs `run`, `device`, `npu_model` and `step` choose one. `inputs`
      (arrays or files) stand for model inputs that it does not hold. `widen`: where an input of the slice was not
      dumped, begin at the next tensors that were.
    - `mapping`: the device model. A stretch that begins or ends inside a fused op grows to its border; `exact` refuses.
    - `golden`: a golden dump of the full model; the slice then holds what it should give.
    - `all_outputs`: every tensor that leaves is an output, not only those of the end nodes.

    Raises UnknownName, InputError (no path from start to end), SliceError (tensors that were not dumped, by name) and
    MappingError when mapping or dump belong to another model.

    >>> part = acccmp.slice_model("resnet.onnx", "block2/conv1", "block2/relu2", dump="npu_faulty",
    ...                           mapping="mapping.json", golden="golden")
    >>> part
    Slice(7 nodes of resnet, block2/conv1 to block2/relu2, fed with 2 dumped tensors)
    >>> part.run()["block2/relu2:output:0"].numpy().shape
    (4, 24, 4, 4)
    """
    graph, mapped = MODEL.of(model, weights=weights), MAPPING.maybe(mapping)
    npu = DUMPED.maybe(dump, run=run, device=device, model=npu_model, step=step)
    if npu is not None:
        npu = laid_out(npu, mapped)
        mapped = with_scales(mapped, npu)
    belongs = ""
    if npu is not None or mapped is not None:
        mapped = mapped or by_names(npu or Dump({}), graph)
        belongs = check_belongs(mapped, graph, npu)
    given = None if inputs is None else {
        name: TensorRef.of(one) for name, one in given_inputs(graph, inputs).arrays.items()
    }
    part = cut(
        graph, start, end, around=around, radius=radius, dump=npu, mapping=mapped, fed=given, widen=widen, exact=exact,
        all_outputs=all_outputs,
    )
    if golden is not None:
        kept = GOLDEN.of(golden)
        ports = {graph.producer(t) or Port(t, "output", 0) for t in (*part.graph.outputs, *part.graph.inputs)}
        part = replace(part, golden=replace(kept, refs={p: kept[p] for p in sorted(ports) if p in kept}))
    return replace(part, log=(*graph.notes, *([belongs] if belongs else []), *part.log))


def slice_report(
    report: Report, start: Comparison | str | Sequence[str] = (), end: Comparison | str | Sequence[str] = (), *,
    around: str | None = None, radius: int = 1, widen: bool = False, exact: bool = False, all_outputs: bool = False,
) -> Slice:
    """What `Report.slice` does."""
    of = report.source
    if of is None or of.model is None:
        why = "was made without the original model" if of is not None else "was read from a file, which has no model"
        raise InputError(f"the report {why}: acccmp.slice_model(MODEL, start, end, dump=NPU, mapping=...) cuts it")
    end = start if end == () else end
    names = [at.port.node if isinstance(at, Comparison) else at for at in (start, end)]
    return slice_model(
        of.model, *names, dump=of.npu, mapping=of.mapping, golden=of.golden if of.golden.kind == "golden" else None,
        around=around, radius=radius, widen=widen, exact=exact, all_outputs=all_outputs,
    )


def run_slice(
    part: Slice, inputs: Inputs | None = None, *, runner: str | None = None, wanted: Sequence[str] | None = None,
) -> Dump:
    """What `Slice.run` does; only the tensors `wanted` are kept, all by default."""
    feeds = dict(by_name(part.graph, inputs)) if inputs is not None else {}
    for tensor in part.graph.inputs:
        if tensor in feeds:
            continue
        array = part.fed_with(tensor)
        if array is None:
            raise InputError(f"the slice has nothing to feed {tensor} with; give inputs={{{tensor!r}: array}}")
        feeds[tensor] = array
    if wanted is None:
        return run_model(part.graph, feeds, runner=runner)
    return run_lean(part.graph, fed(part.graph, feeds).arrays, runner=runner, wanted=wanted)


# -- proving and writing ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Reference:
    """The full model's tensors at the boundary and inside of a slice. `source` tells what the full model was fed with,
    `feeds` are those arrays as far as they are known; `reason` says why there are no tensors."""

    golden: Dump
    source: str = ""
    feeds: Mapping[str, Array] = field(default_factory=dict)
    reason: str = ""


def export_slice(
    part: Slice,
    folder: FilePath | None = None,
    *,
    golden: Dump | FilePath | None = None,
    inputs: Inputs | None = None,
    seed: int = 0,
    dtype: str = "float16",
    zip: bool = False,
    check: bool = True,
    runner: str | None = None,
    when: datetime | None = None,
) -> Bundle:
    """Check a slice and write it as a folder; see `acccmp.slicing.bundle.save_slice`.

    The full model's golden tensors come from `golden`, else from a run on `inputs`, else on the model inputs found in
    the dump, else on seeded random inputs; the manifest says which. With `check` the self-test runs before.
    """
    reference = Reference(Dump({}, kind="golden"))
    if check or golden is not None or inputs is not None:
        reference = golden_for(part, golden, inputs, seed, runner)
    precision, floors = full_floors(part, reference) if check else ("", {})
    proof = Proof(
        self_test(part, reference, runner) if check else SelfTest("skipped", "--no-check"),
        device_side(part, reference.golden, runner) if check else DeviceSide(reason="--no-check"),
        reference.golden, reference.source, precision, floors,
    )
    return save_slice(part, folder, dtype=dtype, zip=zip, proof=proof, when=when)


def golden_for(
    part: Slice,
    golden: Dump | FilePath | None = None,
    inputs: Inputs | None = None,
    seed: int = 0,
    runner: str | None = None,
) -> Reference:
    """The full model's tensors at the boundary and inside of a slice: from a golden dump, or from a run."""
    moving = [node for node in part.graph.nodes if node.name not in part.whole.constants]
    tensors = [*part.graph.inputs, *(tensor for node in moving for tensor in node.outputs if tensor)]
    ports = {_port(part.whole, tensor): None for tensor in tensors}
    if golden is not None:
        given = GOLDEN.of(golden)
        mine = _only(given, ports)
        if not len(mine):
            raise InputError(
                f"the golden dump {given.path or '(in memory)'} holds no tensor of this slice of {part.whole.name!r}; "
                "is it of another model?"
            )
        fed = {tensor: _port(part.whole, tensor) for tensor in part.whole.inputs}
        feeds = {tensor: given[port].numpy() for tensor, port in fed.items() if port in given}
        return Reference(mine, f"the golden dump {given.path}", feeds)
    if inputs is not None:
        feeds, source = given_inputs(part.whole, inputs).arrays, "the given inputs"
    else:
        feeds, source = _any_feeds(part, seed)
    try:
        return Reference(_only(run_lean(part.whole, feeds, runner=runner, wanted=tensors), ports), source, feeds)
    except (RunError, MissingExtra) as error:
        return Reference(Dump({}, kind="golden"), reason=f"the full model does not run here: {error}")


def _port(graph: Graph, tensor: str) -> Port:
    return graph.producer(tensor) or Port(tensor, "output", 0)


def _only(dump: Dump, ports: Mapping[Port, None]) -> Dump:
    """The part of a dump that holds these ports, under their true names."""
    return replace(dump, refs={port: dump[port] for port in ports if port in dump}, flat_names=False)


def _any_feeds(part: Slice, seed: int) -> tuple[dict[str, Array], str]:
    if part.dump is not None:
        try:
            feeds, _ = feeds_from_dump(part.whole, part.dump, part.mapping)
            return feeds, "the model inputs found in the dump"
        except (InputError, SliceError):
            pass
    return random_inputs(part.whole, seed), f"random inputs (seed {seed})"


# -- the two sides of a proof ------------------------------------------------------------------------------------


def self_test(part: Slice, reference: Reference, runner: str | None = None) -> SelfTest:
    """Does the slice give what the full model gives? Fed with the full model's tensors at its boundary, it must
    reproduce those at its exit: bit-equal for ONNX Runtime, within a relative distance of 1e-6 otherwise."""
    golden = reference.golden
    if reference.reason:
        return SelfTest("not runnable", reference.reason)
    boundary = {part.input_port(tensor): tensor for tensor in part.graph.inputs}
    ends = {_port(part.whole, tensor): tensor for tensor in part.graph.outputs}
    for ports, where in ((boundary, "boundary"), (ends, "exit")):
        if any(port not in golden for port in ports):
            return _nothing_of(golden, ports, f"no golden tensors at the {where}")
    try:
        feeds = {tensor: golden[port].numpy() for port, tensor in boundary.items()}
        given = run_lean(part.graph, feeds, runner=runner, wanted=part.graph.outputs)
    except (RunError, MissingExtra) as error:
        return SelfTest("not runnable", str(error))
    if any(port not in given for port in ends):
        return _nothing_of(given, ends, "the slice does not give")
    exact = (runner or part.graph.format) in ("onnx", "onnxruntime")
    return tested([_pair(port, golden[port], given[port]) for port in ends], exact)


def tested(pairs: Sequence[Pair], exact: bool) -> SelfTest:
    """The self-test of a slice's outputs, each paired with what the full model gave."""
    limit = 0.0 if exact else 1e-6
    rule = Thresholds("self-test", {"RelativeEuclideanDistance": limit})
    rows = tuple(_equal(pair, limit) or compare_pair(pair, rule) for pair in pairs)
    bad = [row for row in rows if row.verdict is not Verdict.MATCH]
    if not bad:
        return SelfTest("passed", "", rows)
    worst = max(bad, key=lambda row: row.badness)
    return SelfTest("FAILED", f"{worst.port.node} differs from the full model: {worst.verdict}, {worst.reason}", rows)


def _equal(pair: Pair, limit: float) -> Comparison | None:
    """The match of two tensors that are equal bit by bit, NaN and all; a measurement would find nothing finite in some
    of them."""
    assert pair.golden is not None
    assert pair.npu is not None
    a, b = pair.golden.numpy(), pair.npu.numpy()
    same = a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
    return Comparison(pair, Verdict.MATCH, error=0.0, limit=limit) if same else None


def _nothing_of(dump: Dump, ports: Mapping[Port, str], what: str) -> SelfTest:
    """A self-test that could not be made for want of some of these tensors; the run may say why they are not there."""
    missing = {port: tensor for port, tensor in ports.items() if port not in dump}
    reasons = [dump.run.skipped[tensor] for tensor in missing.values() if tensor in dump.run.skipped]
    reasons += [broken.reason for broken in dump.broken if broken.port in missing]
    why = f" ({reasons[0]})" if reasons else ""
    return SelfTest("not runnable" if reasons else "skipped", f"{what}: {', '.join([*missing.values()][:5])}{why}")


def _pair(port: Port, golden: TensorRef | None, npu: TensorRef | None, **more: Any) -> Pair:
    return Pair(port, port, golden, npu, originals=(port.node,), is_output=True, **more)


def device_side(part: Slice, golden: Dump, runner: str | None = None) -> DeviceSide:
    """What the device gave at the end of a slice, against the slice run here on the device's own inputs: this
    stretch's own error. With `golden`, also against the full model."""
    if part.dump is None:
        return DeviceSide(reason="the slice was cut without what the device dumped")
    if any(part.input_port(tensor) not in part.inputs for tensor in part.graph.inputs):
        return DeviceSide(reason="the dump holds nothing of the slice's inputs")
    ports = [_port(part.whole, tensor) for tensor in part.graph.outputs]
    reason, floors = "", dict[Port, float]()
    given = Dump({}, kind="golden")
    try:
        feeds = {tensor: array for tensor in part.graph.inputs if (array := part.fed_with(tensor)) is not None}
        given = run_slice(part, feeds, runner=runner, wanted=part.graph.outputs)
        floors = _floors(part.graph, feeds, given, part.dump)[0] or {}
    except (RunError, MissingExtra) as error:
        reason = str(error)
    rows = tuple(_device_row(part, port, given, floors, reason) for port in ports)
    totals = {
        port: compare_pair(_pair(port, golden[port], _real(part, port, part.npu[port]))).error
        for port in ports if port in golden and port in part.npu
    }
    return DeviceSide(rows, totals)


def _device_row(part: Slice, port: Port, given: Dump, floors: Mapping[Port, float], reason: str) -> Comparison:
    if port not in part.npu:
        return compare_pair(_pair(port, given.get(port), None, verdict=Verdict.NO_NPU, reason="it was not dumped"))
    npu, rule = part.npu[port], part.quantisation.get(port)
    if port not in given:
        why = reason or "the slice does not give it here"
        row = compare_pair(_pair(port, None, npu, verdict=Verdict.NO_GOLDEN, reason=why))
        return replace(row, limit=FIXED.get(npu.dtype.name, math.nan))
    real, floor = _real(part, port, npu), floors.get(port, math.nan)
    if real is not npu and rule is not None:
        exact = given[port].numpy()
        floor = distance(exact, on_grid(exact, rule, npu.dtype))
    return with_hint(compare_pair(_pair(port, given[port], real, floor=floor)))


def _real(part: Slice, port: Port, ref: TensorRef) -> TensorRef:
    """A tensor of the device in the model's numbers: integer codes of a known scale are turned back."""
    rule, tensor = part.quantisation.get(port), part.whole.tensor(port)
    if rule is None or tensor is None:
        return ref
    array, quantised = dequantised(ref, part.whole.spec(tensor), rule)
    return TensorRef.of(array) if quantised else ref


def on_grid(array: Array, rule: Quantisation, dtype: DType) -> Array:
    """What is left of real numbers that are stored as integer codes of `dtype`."""
    lowest = -dtype.largest - 1 if dtype.numpy is not None and dtype.numpy.kind == "i" else 0
    codes = np.clip(np.round(array.astype(np.float64) * rule.scale) + rule.offset, lowest, dtype.largest)
    real: Array = ((codes - rule.offset) / rule.scale).astype(array.dtype)
    return real


def full_floors(part: Slice, reference: Reference) -> tuple[str, dict[Port, float]]:
    """What storage alone does to the full model's tensors of this slice: (the device's precision, floor by port).

    Only then can be told later what the slice inherited beyond rounding. Nothing where no device dump tells the
    precision, where the model's inputs are not known, or where the model is too large or cannot be emulated.
    """
    whole, tensors = part.whole, (*part.graph.inputs, *part.graph.outputs)
    precision = stored_precision(part.dump) if part.dump is not None else None
    if precision is None or part.dump is None or weight_bytes(whole) > LARGE:
        return "", {}
    above = whole.keep(needed(whole, tensors), tensors)
    if any(tensor not in reference.feeds for tensor in above.inputs):
        return "", {}
    feeds = {tensor: reference.feeds[tensor] for tensor in above.inputs}
    floors = _floors(above, feeds, reference.golden, part.dump)[0] or {}
    return precision, {port: floor for port, floor in floors.items() if port in reference.golden}
