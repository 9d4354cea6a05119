"""A slice's way: cut out of a model, proven against it, handed over, and judged when its dump comes back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from acccmp.comparison.compare import compare as compare_dumps
from acccmp.comparison.judging import Thresholds
from acccmp.comparison.metrics import measure
from acccmp.core.dump import Dump, Port
from acccmp.core.graph import Graph
from acccmp.core.identify import identify
from acccmp.core.tensor import DTYPES, TensorRef
from acccmp.diagnosis.causes.hints import explained
from acccmp.dumps.arrays import read_npy, sha256, sound
from acccmp.dumps.read import read_dump
from acccmp.errors import FormatError, InputError, MissingExtra, RunError, SliceError
from acccmp.inputs.files import random_inputs
from acccmp.jobs.compare import compare
from acccmp.jobs.feeding import feeds_from_dump, given_inputs
from acccmp.jobs.sources import Options, device_map_of, load_original, npu_dump_of
from acccmp.mapping.belongs import check_belongs
from acccmp.mapping.device_map import DeviceMap
from acccmp.mapping.laid_out import laid_out
from acccmp.mapping.names import by_names
from acccmp.reports.report import Report
from acccmp.runners.pieces import run_lean
from acccmp.runners.run import run
from acccmp.slicing.bundle import Bundle, read_manifest, save_slice
from acccmp.slicing.bundle import load as load_bundled
from acccmp.slicing.cut import Slice, cut

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
    """Cut `start`..`end` out of a model, with the tensors that the device dumped at its entrance.

    Arguments may be nouns or paths. `cutting` goes to `acccmp.slicing.cut.cut` (`around`, `radius`, `widen`, `exact`,
    `all_outputs`). With `golden` the slice also holds what it should give. `inputs` (arrays or files by name) stand for
    model inputs that the dump does not hold. Raises what `cut` raises, and MappingError
    when mapping or dump belong to another model.
    """
    graph = load_original(graph, weights) if isinstance(graph, str | Path) else graph
    device = device_map_of(mapping)
    npu = laid_out(npu_dump_of(dump, options or Options(), "--dump"), device) if dump is not None else None
    if npu is not None or device is not None:
        device = device or by_names(npu or Dump({}), graph)
        check_belongs(device, graph, npu)
    fed = {name: TensorRef.of(array) for name, array in given_inputs(graph, inputs).items()} if inputs else None
    part = cut(graph, start, end, dump=npu, mapping=device, fed=fed, **cutting)
    if golden is not None:
        kept = _golden_dump(golden)
        ports = {graph.producer(t) or Port(t, "output", 0) for t in (*part.graph.outputs, *part.graph.inputs)}
        part = replace(part, golden=replace(kept, refs={p: kept[p] for p in sorted(ports) if p in kept}))
    return part


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
    expected, source = golden_for(part, golden, inputs, seed, runner) if check or golden or inputs else (Dump({}), "")
    checked = self_test(part, expected, runner) if check else {"status": "skipped", "reason": "--no-check"}
    return save_slice(
        part, folder, dtype=dtype, zip=zip, check=checked, golden=expected, golden_from=source,
        when=when,
    )


def golden_for(
    part: Slice,
    golden: Dump | str | Path | None = None,
    inputs: Mapping[str, Any] | None = None,
    seed: int = 0,
    runner: str | None = None,
) -> tuple[Dump, str]:
    """The full model's tensors at the entrance and inside of a slice, and where they come from.

    Empty when the full model cannot run here: the text then says why.
    """
    moving = [node for node in part.graph.nodes if node.name not in part.whole.constants]
    tensors = [*part.graph.inputs, *(tensor for node in moving for tensor in node.outputs if tensor)]
    ports = {part.whole.producer(tensor) or Port(tensor, "output", 0): None for tensor in tensors}
    if golden is not None:
        given = _golden_dump(golden)
        mine = _only(given, ports)
        if not len(mine):
            raise InputError(
                f"the golden dump {given.path or '(in memory)'} holds no tensor of this slice of {part.whole.name!r}; "
                "is it of another model?"
            )
        return mine, f"the golden dump {given.path}"
    if inputs:
        feeds, source = given_inputs(part.whole, inputs), "the given inputs"
    else:
        feeds, source = _any_feeds(part, seed)
    try:
        return _only(run_lean(part.whole, feeds, runner=runner, wanted=tensors), ports), source
    except (RunError, MissingExtra) as error:
        return Dump({}, kind="golden"), f"not runnable: {error}"


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


def self_test(part: Slice, golden: Dump, runner: str | None = None) -> dict[str, Any]:
    """Does the slice give what the full model gives? And what is this stretch's own error on the device?

    Fed with the golden tensors at its entrance, it must reproduce the golden tensors at its exit: bit-equal for ONNX
    Runtime, within a relative Euclidean distance of 1e-6 otherwise. Fed with the device's tensors it gives the isolated
    result: `own` is the device's distance to that, `total` its distance to the full model.
    `status` is passed, FAILED, not runnable or skipped.
    """
    limit = 0.0 if (runner or part.graph.format) in ("onnx", "onnxruntime") else 1e-6
    checked: dict[str, Any] = {"status": "skipped", "limit": limit, "outputs": {}, "isolated": {}}
    entrance = {tensor: part.input_port(tensor) for tensor in part.graph.inputs}
    try:
        if all(port in golden for port in entrance.values()):
            feeds = {tensor: golden[port].numpy() for tensor, port in entrance.items()}
            _check_exit(part, golden, run_lean(part.graph, feeds, runner=runner, wanted=part.graph.outputs), checked)
        else:
            missing = [tensor for tensor, port in entrance.items() if port not in golden]
            checked["reason"] = f"no golden tensors at the entrance: {', '.join(missing[:5])}"
        if part.inputs and all(port in part.inputs for port in entrance.values()):
            _isolate(part, golden, run_slice(part, runner=runner, wanted=part.graph.outputs), checked)
    except (RunError, MissingExtra) as error:
        return {**checked, "status": "not runnable", "reason": str(error)}
    return checked


def _check_exit(part: Slice, golden: Dump, given: Dump, checked: dict[str, Any]) -> None:
    worst: tuple[float, str] = (-1.0, "")
    for tensor in part.graph.outputs:
        port = part.whole.producer(tensor) or Port(tensor, "output", 0)
        if port not in golden or port not in given:
            continue
        error = distance(golden[port], given[port])
        checked["outputs"][tensor] = error
        worst = max(worst, (math.inf if math.isnan(error) else error, port.node))
    if not checked["outputs"]:
        checked["reason"] = "no golden tensors at the exit"
    elif worst[0] > checked["limit"]:
        checked.update(
            status="FAILED", layer=worst[1],
            reason=f"{worst[1]} differs from the full model by {worst[0]:.3g} (limit {checked['limit']:g})",
        )
    else:
        checked["status"] = "passed"


def _isolate(part: Slice, golden: Dump, given: Dump, checked: dict[str, Any]) -> None:
    for tensor in part.graph.outputs:
        port = part.whole.producer(tensor) or Port(tensor, "output", 0)
        if port in part.npu and port in given:
            own = distance(given[port], part.npu[port])
            total = distance(golden[port], part.npu[port]) if port in golden else None
            checked["isolated"][tensor] = {"own": own, "total": total}


def distance(golden: TensorRef, other: TensorRef) -> float:
    """Relative Euclidean distance of two tensors; 0 only when they are equal (NaN at the same places counts)."""
    a, b = golden.numpy(), other.numpy()
    if a.size != b.size:
        return math.inf
    b = b.reshape(a.shape)
    if a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"):
        return 0.0
    return float(measure(TensorRef.of(a), TensorRef.of(b)).metrics["RelativeEuclideanDistance"])


# -- what comes back from the device ------------------------------------------------------------------------------


def compare_slice(
    folder: str | Path,
    npu: Dump | str | Path,
    *,
    mapping: DeviceMap | Graph | str | Path | None = None,
    thresholds: Thresholds | None = None,
    options: Options | None = None,
) -> tuple[Report, Report | None]:
    """Judge what the device dumped for a slice: against the slice's own golden run (its own error), and against the
    full model's golden tensors (what it inherited included; None when the slice was written without them).

    Model, inputs and golden tensors come from the slice's manifest. The slice is fed with what the device was fed
    with: the raw `.bin` inputs.
    """
    options = options or Options()
    (path, manifest), graph = read_manifest(folder), load_bundled(folder)
    device = device_map_of(mapping)
    npu_dump = laid_out(npu_dump_of(npu, options), device)
    feeds = bundled_inputs(path, manifest, graph)
    own = compare(
        graph, npu_dump, mapping=device, inputs=feeds or None, thresholds=thresholds, options=options,
    )
    own = replace(own, subject={**own.subject, "golden": f"{path} (the slice alone)"})
    if not (path / "golden").is_dir():
        return own, None
    golden = _with_entrance(sound(read_dump(path / "golden")), manifest, graph)
    inherited = {  # what the slice was fed with is not the full model's tensor; that much is no fault of its inputs
        port: distance(golden[port], TensorRef.of(feeds[tensor]))
        for tensor in graph.inputs
        if (port := graph.producer(tensor)) is not None and port in golden and tensor in feeds
    }
    full = explained(compare_dumps(
        golden, npu_dump, mapping=device, model=graph, floors=inherited, thresholds=thresholds,
        valid=options.valid, min_coverage=options.min_coverage, executor=options.executor,
        subject={**own.subject, "golden": f"{path / 'golden'} (the full model)"},
        notes=("against the full model: what this stretch inherited is part of the error",),
    ))
    return own, full


def _with_entrance(golden: Dump, manifest: Mapping[str, Any], graph: Graph) -> Dump:
    """The full model's golden tensors, those at the entrance under the names of the slice's inputs."""
    refs = dict(golden.refs)
    for facts in manifest["inputs"]:
        before, now = Port.parse(str(facts["port"])), graph.producer(str(facts["name"]))
        if now is not None and before in refs:
            refs[now] = refs.pop(before)
    outputs = tuple(port for tensor in graph.outputs if (port := graph.producer(tensor)) is not None)
    return replace(golden, refs=refs, run=replace(golden.run, outputs=outputs))


def bundled_inputs(folder: Path, manifest: Mapping[str, Any], graph: Graph) -> dict[str, Any]:
    """The inputs of a written slice as arrays in the model's dtype: the `.bin` that the device is fed with, else the
    golden tensor at the entrance. Raises FormatError for files that were changed after the manifest was written."""
    feeds: dict[str, Any] = {}
    for facts in manifest["inputs"]:
        tensor = str(facts["name"])
        wanted = spec.dtype.numpy if (spec := graph.spec(tensor)).dtype is not None else None
        form = "bin" if "bin" in facts and "quantised" not in facts else "npy" if "npy" in facts else "golden"
        if form not in facts:
            continue
        file = folder / "inputs" / Path(str(facts[form]["file"])).name
        if sha256(file) != facts[form].get("sha256"):
            raise FormatError(
                f"{file}: its SHA-256 is not that of manifest.json: it was changed after the slice was written"
            )
        if form == "bin":
            shape = tuple(int(n) for n in facts["shape"])
            array = TensorRef(str(file), DTYPES[str(facts["bin"]["dtype"])], shape).numpy()
        else:
            array = read_npy(file).numpy()
        feeds[tensor] = array if wanted is None else array.astype(wanted)
    return feeds
