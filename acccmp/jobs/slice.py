"""A slice's way: cut out of a model, proven against it, judged where the device's own tensors are, handed over."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from acccmp.comparison.compare import compare_pair
from acccmp.comparison.judging import FIXED, Thresholds
from acccmp.core.distance import distance
from acccmp.core.dump import Dump, Port
from acccmp.core.graph import Graph
from acccmp.core.identify import identify
from acccmp.core.tensor import Array, DType, TensorRef
from acccmp.diagnosis.causes.hints import with_hint
from acccmp.dumps.arrays import sound
from acccmp.dumps.read import read_dump
from acccmp.errors import InputError, MissingExtra, RunError, SliceError
from acccmp.inputs.files import random_inputs
from acccmp.jobs.compare import _floors, stored_precision
from acccmp.jobs.feeding import feeds_from_dump, given_inputs
from acccmp.jobs.sources import Options, device_map_of, load_original, npu_dump_of
from acccmp.mapping.belongs import check_belongs
from acccmp.mapping.compose import with_scales
from acccmp.mapping.device_map import DeviceMap
from acccmp.mapping.laid_out import laid_out
from acccmp.mapping.names import by_names
from acccmp.mapping.reading import dequantised
from acccmp.mapping.trace import Quantisation
from acccmp.reports.pair import Pair, Verdict
from acccmp.reports.report import Comparison
from acccmp.runners.pieces import LARGE, run_lean, weight_bytes
from acccmp.runners.run import run
from acccmp.runners.runner import needed
from acccmp.slicing.bundle import Bundle, Proof, save_slice
from acccmp.slicing.cut import Slice, cut
from acccmp.slicing.manifest import DeviceSide, SelfTest

# -- cutting and running ------------------------------------------------------------------------------------------


def slice_model(
    graph: Graph | str | Path,
    start: str | Sequence[str] = (),
    end: str | Sequence[str] = (),
    *,
    dump: Dump | str | Path | None = None,
    mapping: DeviceMap | Graph | str | Path | None = None,
    golden: Dump | str | Path | None = None,
    weights: str | Path | None = None,
    inputs: Mapping[str, Any] | None = None,
    options: Options | None = None,
    **cutting: Any,
) -> Slice:
    """Cut `start`..`end` out of a model, with the tensors that the device dumped at its boundary.

    Arguments may be nouns or paths. `cutting` goes to `acccmp.slicing.cut.cut` (`around`, `radius`, `widen`, `exact`,
    `all_outputs`). With `golden` the slice also holds what it should give. `inputs` (arrays or files by name) stand for
    model inputs that the dump does not hold. Raises what `cut` raises, and MappingError
    when mapping or dump belong to another model.
    """
    graph = load_original(graph, weights) if isinstance(graph, str | Path) else graph
    device = device_map_of(mapping)
    npu = laid_out(npu_dump_of(dump, options or Options(), "--dump"), device) if dump is not None else None
    device = with_scales(device, npu) if npu is not None else device
    belongs = ""
    if npu is not None or device is not None:
        device = device or by_names(npu or Dump({}), graph)
        belongs = check_belongs(device, graph, npu)
    fed = {name: TensorRef.of(array) for name, array in given_inputs(graph, inputs).arrays.items()} if inputs else None
    part = cut(graph, start, end, dump=npu, mapping=device, fed=fed, **cutting)
    if golden is not None:
        kept = _golden_dump(golden)
        ports = {graph.producer(t) or Port(t, "output", 0) for t in (*part.graph.outputs, *part.graph.inputs)}
        part = replace(part, golden=replace(kept, refs={p: kept[p] for p in sorted(ports) if p in kept}))
    return replace(part, log=(*graph.notes, *([belongs] if belongs else []), *part.log))


def run_slice(
    part: Slice, inputs: Mapping[str, Any] | None = None, *, runner: str | None = None,
    wanted: Sequence[str] | None = None,
) -> Dump:
    """Run a slice alone on this machine, fed with `inputs` (tensor name -> array), else with its dumped inputs.

    `wanted` are the tensors to keep, all by default. Raises InputError naming inputs that are missing, and RunError
    when the slice cannot run.
    """
    feeds = dict(inputs or {})
    for tensor in part.graph.inputs:
        if tensor in feeds:
            continue
        array = part.fed_with(tensor)
        if array is None:
            raise InputError(f"the slice has nothing to feed {tensor} with; give inputs={{{tensor!r}: array}}")
        feeds[tensor] = array
    if wanted is None:
        return run(part.graph, feeds, runner=runner)
    return run_lean(part.graph, feeds, runner=runner, wanted=wanted)


# -- proving and writing ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Reference:
    """The full model's tensors at the boundary and inside of a slice. `source` tells what the full model was fed with,
    `feeds` are those arrays as far as they are known; `reason` says why there are no tensors."""

    golden: Dump
    source: str = ""
    feeds: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


def export_slice(
    part: Slice,
    folder: str | Path | None = None,
    *,
    golden: Dump | str | Path | None = None,
    inputs: Mapping[str, Any] | None = None,
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
    if check or golden is not None or inputs:
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
    golden: Dump | str | Path | None = None,
    inputs: Mapping[str, Any] | None = None,
    seed: int = 0,
    runner: str | None = None,
) -> Reference:
    """The full model's tensors at the boundary and inside of a slice: from a golden dump, or from a run."""
    moving = [node for node in part.graph.nodes if node.name not in part.whole.constants]
    tensors = [*part.graph.inputs, *(tensor for node in moving for tensor in node.outputs if tensor)]
    ports = {_port(part.whole, tensor): None for tensor in tensors}
    if golden is not None:
        given = _golden_dump(golden)
        mine = _only(given, ports)
        if not len(mine):
            raise InputError(
                f"the golden dump {given.path or '(in memory)'} holds no tensor of this slice of {part.whole.name!r}; "
                "is it of another model?"
            )
        fed = {tensor: _port(part.whole, tensor) for tensor in part.whole.inputs}
        feeds = {tensor: given[port].numpy() for tensor, port in fed.items() if port in given}
        return Reference(mine, f"the golden dump {given.path}", feeds)
    if inputs:
        feeds, source = given_inputs(part.whole, inputs).arrays, "the given inputs"
    else:
        feeds, source = _any_feeds(part, seed)
    try:
        return Reference(_only(run_lean(part.whole, feeds, runner=runner, wanted=tensors), ports), source, feeds)
    except (RunError, MissingExtra) as error:
        return Reference(Dump({}, kind="golden"), reason=f"the full model does not run here: {error}")


def _port(graph: Graph, tensor: str) -> Port:
    return graph.producer(tensor) or Port(tensor, "output", 0)


def _golden_dump(golden: Dump | str | Path) -> Dump:
    """Golden tensors from a folder, its files checked against its manifest."""
    if isinstance(golden, Dump):
        return golden
    found = identify(golden)
    if found.kind.role != "dump":
        raise InputError(f"{golden} is {found.words}, but --golden must be a golden dump; `acccmp run` makes one")
    dump = sound(read_dump(golden))
    if dump.kind != "golden":
        raise InputError(f"{golden} is a device dump, but --golden must be of the original model; --dump takes this")
    return dump


def _only(dump: Dump, ports: Mapping[Port, None]) -> Dump:
    """The part of a dump that holds these ports, under their true names."""
    return replace(dump, refs={port: dump[port] for port in ports if port in dump}, flat_names=False)


def _any_feeds(part: Slice, seed: int) -> tuple[dict[str, Any], str]:
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
        feeds = {tensor: part.fed_with(tensor) for tensor in part.graph.inputs}
        given = run_slice(part, feeds, runner=runner, wanted=part.graph.outputs)
        floors = _floors(part.graph, feeds, given, part.dump, Options())[0] or {}
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
    floors = _floors(above, feeds, reference.golden, part.dump, Options())[0] or {}
    return precision, {port: floor for port, floor in floors.items() if port in reference.golden}
