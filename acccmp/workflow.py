"""The jobs of the command line as functions: compare an original with a device dump, cut a slice, run it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from acccmp.comparison.compare import compare as compare_dumps
from acccmp.comparison.judging import Thresholds
from acccmp.comparison.metrics import measure
from acccmp.core import layout as layouts
from acccmp.core.dump import Dump, Port, flatten_name
from acccmp.core.graph import Graph
from acccmp.core.tensor import DTYPES, TensorRef
from acccmp.dumps.arrays import read_npy, sha256, sound
from acccmp.dumps.read import read_dump
from acccmp.errors import AcccmpError, FormatError, InputError, MappingError, MissingExtra, RunError, SliceError
from acccmp.models.identify import identify
from acccmp.models.load import load
from acccmp.models.neighbours import look_beside
from acccmp.models.tracing import PASSING, Trace
from acccmp.reports.report import Report
from acccmp.runners.feeds import random_inputs, read_inputs
from acccmp.runners.pieces import run_lean
from acccmp.runners.run import run
from acccmp.slicing.bundle import Bundle, is_slice, read_manifest, save_slice
from acccmp.slicing.cut import Slice, cut
from acccmp.slicing.entrance import Entrance, dequantised, find_entrance, seen_as_original
from acccmp.version import VERSION

MODEL_KINDS = ("onnx", "caffe", "tensorflow")
DEVICE_KINDS = ("om", "atc_json", "build_pbtxt")


@dataclass(frozen=True)
class Options:
    """Which run of a dump is taken, and how the comparison is judged. The defaults are those of the command line.

    `floor`: emulate the NPU's storage to know each tensor's precision floor; `flush_subnormals`: of a chip that turns
    subnormal numbers into 0.
    """

    run: str | None = None
    device: str | None = None
    npu_model: str | None = None
    step: str | None = None
    valid: tuple[str, ...] = ()
    min_coverage: float = 0.9
    strict: bool = False
    floor: bool = True
    flush_subnormals: bool = False
    runner: str | None = None
    executor: Executor | None = field(default=None, repr=False)
    progress: Callable[[int, int], None] | None = field(default=None, repr=False)


def compare(
    golden: Graph | Dump | str | Path,
    npu: Dump | str | Path,
    *,
    mapping: Graph | str | Path | None = None,
    mapping_unfused: Graph | str | Path | None = None,
    quant_rule: Graph | str | Path | None = None,
    model: Graph | str | Path | None = None,
    weights: str | Path | None = None,
    inputs: Mapping[str, Any] | None = None,
    thresholds: Thresholds | None = None,
    options: Options | None = None,
    **changes: Any,
) -> Report:
    """Compare the original with what the NPU dumped, layer by layer.

    `golden` is a model (run first), a golden dump, or a device dump (NPU against NPU), as a noun or a path. `inputs`
    maps input names to arrays or files; without them a model is fed with the NPU dump's own model inputs. `mapping` is
    the device model (.om, ATC's JSON or a build graph). An ONNX model at hand (`golden` or `model`) gives each tensor
    its precision floor. `changes` are fields of `Options`.

    Raises InputError, FormatError, MappingError or RunError when the job as a whole cannot be done; a bad pair of
    tensors is a verdict in the Report.
    """
    options = replace(options or Options(), **changes)
    npu_dump = _npu(npu, options)
    device = _device_model(mapping)
    notes: list[str] = []
    if device is not None and device.meta.get("soc_version") == "emulated":
        notes.append("the NPU dump is of an emulated device: nothing here was measured on an NPU")
    graph, golden_dump = _golden(golden, weights)
    if graph is None and model is not None:
        graph = load(model, weights) if isinstance(model, str | Path) else model
    _check_order(golden, golden_dump, npu_dump)
    if golden_dump is not None and device is None:
        _check_names(golden_dump, npu_dump)
    feeds: dict[str, Any] = {}
    if golden_dump is None:
        assert graph is not None
        feeds, told = _feeds(graph, inputs, npu_dump, device)
        notes += told
        golden_dump = run(graph, feeds, runner=options.runner)
        notes += golden_dump.notes
    elif inputs:
        raise InputError("--input feeds a model, but GOLDEN is a dump folder; leave it out or give the model as GOLDEN")
    if graph is None:
        graph = _model_of(golden_dump)
    floors, told = _floors(graph, feeds, golden_dump, npu_dump, options)
    notes += told
    if device is None and golden_dump.kind == "golden" and npu_dump.path is not None:
        notes.append(look_beside([npu_dump.path, *([graph.path] if graph is not None and graph.path else [])]).advice)
    return compare_dumps(
        golden_dump, npu_dump, mapping=_composed(device, mapping_unfused, quant_rule), model=graph, floors=floors,
        thresholds=thresholds, valid=options.valid, min_coverage=options.min_coverage, strict=options.strict,
        executor=options.executor, progress=options.progress, notes=tuple(notes),
        subject=_subject(golden, npu, mapping, graph, golden_dump, npu_dump),
    )


# -- what was given ----------------------------------------------------------------------------------------------


def _npu(npu: Dump | str | Path, options: Options, role: str = "NPU") -> Dump:
    if isinstance(npu, Dump):
        return npu
    kind = _kind(npu)
    if kind != "dump":
        advice = ""
        if kind in DEVICE_KINDS:
            advice = "; --mapping takes this file"
        elif role == "NPU":
            advice = "; the order is GOLDEN NPU"
        raise InputError(f"{npu} is {_words(kind)}, but {role} must be what the device dumped{advice}")
    return read_dump(
        npu, run=options.run, device=options.device, model=options.npu_model, step=options.step,
    )


_WORDS = {
    "onnx": "an ONNX model", "caffe": "a Caffe model", "caffemodel": "Caffe weights",
    "tensorflow": "a TensorFlow model", "om": "a model compiled for the device (.om)",
    "atc_json": "a compiled model as JSON",
    "build_pbtxt": "a build graph of a compiled model", "dump": "a dump",
}


def _words(kind: str) -> str:
    """A kind of file for people."""
    return _WORDS.get(kind, f"a {kind} file")


def load_original(path: str | Path, weights: str | Path | None = None) -> Graph:
    """Load a model that can be run or cut here. Raises InputError for compiled models and for dumps."""
    kind = _kind(path)
    if kind in DEVICE_KINDS:
        raise InputError(
            f"{path} is {_words(kind)}, which cannot run here; MODEL is the original, --mapping takes this file"
        )
    if kind == "dump":
        raise InputError(f"{path} is a folder without a model in it; MODEL is the file of the original model")
    return load(path, weights)


def _kind(path: str | Path) -> str:
    """What lies at `path` by its bytes; "dump" for folders that are no model. Raises InputError when it is missing."""
    if not Path(path).exists():
        raise InputError(f"{path}: no such file or folder")
    try:
        return identify(path)
    except FormatError:
        if Path(path).is_dir():
            return "dump"
        raise


def _golden(golden: Graph | Dump | str | Path, weights: str | Path | None) -> tuple[Graph | None, Dump | None]:
    """The model to run, or the dump that was made already."""
    if isinstance(golden, Graph):
        return golden, None
    if isinstance(golden, Dump):
        return None, golden
    kind = _kind(golden)
    if kind in DEVICE_KINDS:
        raise InputError(
            f"{golden} is {_words(kind)}, which cannot run here; "
            "GOLDEN is the original model or a golden dump, --mapping takes this file"
        )
    if kind in MODEL_KINDS:
        return load(golden, weights), None
    if is_slice(golden):
        raise InputError(f"{golden} is the folder of a slice: compare it with `compare_slice` (the command does so)")
    return None, sound(read_dump(golden))


def _check_order(golden: Any, golden_dump: Dump | None, npu: Dump) -> None:
    if golden_dump is not None and golden_dump.kind == "npu" and npu.kind == "golden":
        raise InputError(
            f"{golden} is a device dump and {npu.path} a golden dump: exchange them, the order is GOLDEN NPU"
        )
    if npu.kind == "golden" and (golden_dump is None or golden_dump.kind == "golden"):
        raise InputError(
            f"{npu.path} is a golden dump (npy files of an original model), but NPU must be a device dump"
        )


def _check_names(golden: Dump, npu: Dump) -> None:
    """Raises MappingError for two dumps of different models: few names in common, and those of other sizes."""
    mine = {flatten_name(port.node): ref for port, ref in golden.items() if port.side == "output" and not port.index}
    theirs = {flatten_name(port.node): ref for port, ref in npu.items() if port.side == "output" and not port.index}
    common = mine.keys() & theirs.keys()
    if not common or 2 * len(common) >= min(len(mine), len(theirs)):
        return
    odd = [name for name in common if not _could_be(mine[name], theirs[name])]
    if 2 * len(odd) > len(common):
        raise MappingError(
            f"the NPU dump {npu.path} is not of the model of the golden dump {golden.path}: only {len(common)} of its "
            f"{len(theirs)} ops have a name of golden's, and {len(odd)} of those cannot hold golden's tensor "
            f"(such as {sorted(odd)[0]!r})"
        )


def _could_be(golden: TensorRef, npu: TensorRef) -> bool:
    """Could the NPU's tensor hold golden's, by their sizes?"""
    if layouts.is_plain(npu.layout) or npu.original_shape is not None:
        return math.prod(golden.own_shape) == math.prod(npu.own_shape)
    return bool(layouts.candidates(npu.layout, npu.shape, golden.own_shape))


def _device_model(mapping: Graph | str | Path | None) -> Graph | None:
    if mapping is None or isinstance(mapping, Graph):
        return mapping
    kind = _kind(mapping)
    if kind not in DEVICE_KINDS:
        raise InputError(
            f"{mapping} is {_words(kind)}, but --mapping wants the device's model: the .om, its JSON (atc --mode=1) or "
            "ge_*_Build.pbtxt"
        )
    return load(mapping)


def _composed(
    mapping: Graph | None, unfused: Graph | str | Path | None, quant_rule: Graph | str | Path | None,
) -> Graph | None:
    if unfused is None and quant_rule is None:
        return mapping
    if mapping is None:
        raise InputError("--mapping-unfused and --quant-rule refine a mapping; give --mapping too")
    from acccmp.comparison.pairing import compose, compose_unfused

    if quant_rule is not None:
        rule = _device_model(quant_rule)
        assert rule is not None
        mapping = compose(mapping, rule)
    if unfused is not None:
        other = _device_model(unfused)
        assert other is not None
        mapping = compose_unfused(mapping, other)
    return mapping


def _subject(
    golden: Any, npu: Any, mapping: Any, graph: Graph | None, golden_dump: Dump, npu_dump: Dump,
) -> dict[str, str]:
    def told(what: Any, dump: Dump) -> str:
        return str(what) if isinstance(what, str | Path) else str(dump.path or what)

    subject = {"golden": told(golden, golden_dump), "npu": told(npu_dump.path or npu, npu_dump), "acccmp": VERSION}
    if mapping is not None:
        subject["mapping"] = str(mapping if isinstance(mapping, str | Path) else mapping.path or mapping.name)
    if graph is not None:
        subject["model"] = f"{graph.name} ({graph.format}, {len(graph)} nodes)"
    runner = golden_dump.meta.get("runner")
    if isinstance(runner, Mapping):  # a golden folder's manifest
        subject["runner"] = f"{runner.get('name', '')} {runner.get('version', '')}".strip()
    elif runner:
        subject["runner"] = f"{runner} {golden_dump.meta.get('version', '')}".strip()
    return subject


# -- what the model is fed with ----------------------------------------------------------------------------------


def _feeds(
    graph: Graph, inputs: Mapping[str, Any] | None, npu: Dump, mapping: Graph | None,
) -> tuple[dict[str, Any], list[str]]:
    if inputs:
        return given_inputs(graph, inputs), []
    return feeds_from_dump(graph, npu, mapping)


def given_inputs(graph: Graph, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays or files given for the model's inputs, read and checked.

    Raises InputError; where a file does not fit, the error says what its bytes likely are.
    """
    try:
        return read_inputs(graph, inputs)
    except (InputError, FormatError) as error:
        from acccmp.comparison.preflight import check_inputs

        files = {name: what for name, what in inputs.items() if isinstance(what, str | Path) and Path(what).is_file()}
        try:
            bad = [fit for fit in check_inputs(graph, files) if not fit.fits]
        except AcccmpError:
            bad = []
        if not bad:
            raise
        told = "; ".join(line.strip() for line in bad[0].lines[:3])
        raise InputError(f"--input {bad[0].name}={files.get(bad[0].name, '')} does not fit: {told}") from error


def feeds_from_dump(graph: Graph, npu: Dump, mapping: Graph | None = None) -> tuple[dict[str, Any], list[str]]:
    """Arrays for the model's inputs, taken from the device's dump, and what is to be said about that.

    The dumped model inputs are taken, or what an Aipp op made of them (pre-processing compiled in), or else the inputs
    of the first ops. Raises InputError with advice when an input was not dumped.
    """
    trace = Trace(mapping, graph) if mapping is not None else None
    feeds: dict[str, Any] = {}
    sources: list[str] = []
    missing: list[str] = []
    everything = {node.name for node in graph.nodes}
    for tensor in graph.inputs:
        at, spec = _aipp_port(tensor, npu, mapping), graph.spec(tensor)
        if at is not None:
            found = Entrance(at, seen_as_original(graph, tensor, npu[at], trace, at))
        else:
            search = find_entrance(graph, tensor, everything, npu, trace, outputs_first=True)
            if search.entrance is None:
                missing.append(f"{tensor} ({'; '.join(search.reasons[:2])})" if search.reasons else tensor)
                continue
            found = search.entrance
        array, _ = dequantised(found.ref, spec, found.quantisation)
        if spec.dtype is not None and spec.dtype.numpy is not None and array.dtype != spec.dtype.numpy:
            array = array.astype(spec.dtype.numpy)
        feeds[tensor] = array
        sources.append(f"{tensor} from {found.at}")
    if missing:
        raise InputError(
            f"the dump at {npu.path} holds nothing to feed {', '.join(missing)} with; "
            "give the input that the device was fed with: --input NAME=FILE.npy"
        )
    return feeds, [
        f"the model was fed with the device's own dumped inputs ({', '.join(sources)}): "
        "faults of pre-processing stay invisible"
    ]


def _aipp_port(tensor: str, npu: Dump, mapping: Graph | None) -> Port | None:
    """Output of the Aipp op that prepares this input on the device, if there is one and it was dumped."""
    if mapping is None:
        return None
    for node in mapping.nodes:
        if node.op_type != "Aipp":
            continue
        fed_by = [mapping.producer(t) for t in node.inputs if t]
        port = Port(node.name, "output", 0)
        if port in npu and any(p is not None and _same(p.node, tensor) for p in fed_by):
            return port
    return None


def _same(a: str, b: str) -> bool:
    return a == b or flatten_name(a) == flatten_name(b)


# -- the precision floor -----------------------------------------------------------------------------------------


def _floors(
    graph: Graph | None, feeds: Mapping[str, Any], golden: Dump, npu: Dump, options: Options,
) -> tuple[dict[Port, float] | None, list[str]]:
    if not options.floor or graph is None or graph.format != "onnx" or golden.kind != "golden":
        return None, []
    precision = stored_precision(npu)
    if precision is None:
        return None, ["the NPU stored no float16 or bfloat16 tensors: no precision floor is needed"]
    from acccmp.runners.emulate import floors

    if not feeds:
        ports = {tensor: graph.producer(tensor) or Port(tensor, "output", 0) for tensor in graph.inputs}
        if any(port not in golden for port in ports.values()):
            return None, ["the golden dump holds no model inputs: limits are fixed, a floor would be sharper"]
        feeds = {tensor: golden[port].numpy() for tensor, port in ports.items()}
    try:
        return floors(graph, feeds, precision, flush_subnormals=options.flush_subnormals), []
    except AcccmpError as error:
        return None, [f"no precision floor, limits are fixed: {error}"]


def stored_precision(npu: Dump) -> str | None:
    """The narrow float type in which most of the device's float tensors are stored, or None."""
    counted: dict[str, int] = {}
    for ref in npu.refs.values():
        if ref.dtype.kind == "float":
            counted[ref.dtype.name] = counted.get(ref.dtype.name, 0) + 1
    narrow = {name: count for name, count in counted.items() if name in ("float16", "bfloat16")}
    return max(narrow, key=lambda name: narrow[name]) if narrow else None


def _model_of(golden: Dump) -> Graph | None:
    """The model that made a golden dump, where its manifest names one that is still the same file; else None."""
    facts = golden.meta.get("model")
    if not isinstance(facts, Mapping) or not facts.get("path") or golden.path is None:
        return None
    named = Path(str(facts["path"]))
    for path in (named, golden.path / named, golden.path.parent / named.name):
        if not path.is_file():
            continue
        if sha256(path) == facts.get("sha256"):
            return load(path)
    return None


# -- slices ------------------------------------------------------------------------------------------------------


def slice_model(
    graph: Graph | str | Path,
    start: str | Sequence[str] = (),
    end: str | Sequence[str] = (),
    *,
    dump: Dump | str | Path | None = None,
    mapping: Graph | str | Path | None = None,
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
    device = _device_model(mapping)
    npu = _npu(dump, options or Options(), "--dump") if dump is not None else None
    notes = check_belongs(graph, device, npu)
    fed = {name: TensorRef.of(array) for name, array in given_inputs(graph, inputs).items()} if inputs else None
    part = cut(graph, start, end, dump=npu, mapping=device, fed=fed, **cutting)
    if golden is not None:
        kept = _golden_dump(golden)
        ports = {graph.producer(t) or Port(t, "output", 0) for t in (*part.graph.outputs, *part.graph.inputs)}
        part = replace(part, golden=replace(kept, refs={p: kept[p] for p in sorted(ports) if p in kept}))
    return replace(part, log=(*notes, *part.log))


def check_belongs(graph: Graph, mapping: Graph | None, npu: Dump | None) -> list[str]:
    """Do mapping and dump belong to this model? Raises MappingError when fewer than half of the original names exist.

    Only another model name gives a note.
    """
    notes = []
    if mapping is not None:
        named = {name for node in mapping.nodes for name in (node.origins or ())}
        known = {name for name in named if name in graph or name in graph.inputs}
        if named and len(known) * 2 < len(named):
            raise MappingError(
                f"the mapping is of the model {mapping.name!r}, not of {graph.name!r}: only {len(known)} of its "
                f"{len(named)} original ops exist in the model; give the mapping that belongs to it"
            )
        if mapping.name and graph.name and mapping.name != graph.name:
            notes.append(f"the mapping calls its model {mapping.name!r}, this one is {graph.name!r}; their ops agree")
    if npu is not None and mapping is not None and npu.ops:
        device = {flatten_name(node.name) for node in mapping.nodes}
        strangers = [name for name in npu.ops if flatten_name(name) not in device]
        if len(strangers) * 2 > len(npu.ops):
            raise MappingError(
                f"the dump at {npu.path} is not of the mapping's model {mapping.name!r}: "
                f"{len(strangers)} of its {len(npu.ops)} ops are unknown to it (such as {strangers[0]!r})"
            )
    elif npu is not None and npu.ops:
        mine = {flatten_name(node.name) for node in graph.nodes} | {flatten_name(name) for name in graph.inputs}
        computing = [name for name, op in npu.ops.items() if op is None or op.op_type not in PASSING] or list(npu.ops)
        found = [name for name in computing if flatten_name(name) in mine]
        if len(found) * 2 < len(computing):
            raise MappingError(
                f"the dump at {npu.path} ({npu.model or 'no model name'}) is not of the model {graph.name!r}: "
                f"only {len(found)} of the dump's {len(computing)} ops have a name of its nodes; "
                "give the device's model as --mapping, or the dump of this model"
            )
    return notes


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




# -- a slice that is handed over ---------------------------------------------------------------------------------


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
) -> Bundle:
    """Check a slice and write it as a folder; see `acccmp.slicing.bundle.save_slice`.

    The full model's golden tensors come from `golden`, else from a run on `inputs`, else on the model inputs found in
    the dump, else on seeded random inputs; the manifest says which. With `check` the self-test runs before.
    """
    expected, source = golden_for(part, golden, inputs, seed, runner) if check or golden or inputs else (Dump({}), "")
    checked = self_test(part, expected, runner) if check else {"status": "skipped", "reason": "--no-check"}
    return save_slice(
        part, folder, dtype=dtype, zip=zip, check=checked, golden=expected, golden_from=source,
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
    kind = _kind(golden)
    if kind != "dump":
        raise InputError(f"{golden} is {_words(kind)}, but --golden must be a golden dump; `acccmp run` makes one")
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


def compare_slice(
    folder: str | Path,
    npu: Dump | str | Path,
    *,
    mapping: Graph | str | Path | None = None,
    thresholds: Thresholds | None = None,
    options: Options | None = None,
) -> tuple[Report, Report | None]:
    """Judge what the device dumped for a slice: against the slice's own golden run (its own error), and against the
    full model's golden tensors (what it inherited included; None when the slice was written without them).

    Model, inputs and golden tensors come from the slice's manifest. The slice is fed with what the device was fed
    with: the raw `.bin` inputs.
    """
    options = options or Options()
    path, manifest = read_manifest(folder)
    files = {Path(str(f["file"])).suffix: path / Path(str(f["file"])).name for f in manifest["slice"]["files"]}
    model = next((files[s] for s in (".onnx", ".prototxt", ".pb") if s in files), None)
    if model is None:
        raise FormatError(f"{path / 'manifest.json'}: names no model file; write the slice again")
    graph = load(model, files.get(".caffemodel"))
    npu_dump, device = _npu(npu, options), _device_model(mapping)
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
    full = compare_dumps(
        golden, npu_dump, mapping=device, model=graph, floors=inherited, thresholds=thresholds,
        valid=options.valid, min_coverage=options.min_coverage, executor=options.executor,
        subject={**own.subject, "golden": f"{path / 'golden'} (the full model)"},
        notes=("against the full model: what this stretch inherited is part of the error",),
    )
    return own, full


def _with_entrance(golden: Dump, manifest: Mapping[str, Any], graph: Graph) -> Dump:
    """The full model's golden tensors, those at the entrance under the names of the slice's inputs."""
    refs = dict(golden.refs)
    for facts in manifest["inputs"]:
        before, now = Port.parse(str(facts["port"])), graph.producer(str(facts["name"]))
        if now is not None and before in refs:
            refs[now] = refs.pop(before)
    outputs = [str(port) for tensor in graph.outputs if (port := graph.producer(tensor)) is not None]
    return replace(golden, refs=refs, meta={**golden.meta, "outputs": outputs})


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
