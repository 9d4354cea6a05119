"""The main job: an original and what the device dumped go in, a report comes out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from acccmp.comparison.compare import compare as compare_dumps
from acccmp.comparison.judging import Thresholds
from acccmp.core import layout as layouts
from acccmp.core.dump import Dump, Port, flatten_name
from acccmp.core.graph import Graph
from acccmp.core.tensor import TensorRef
from acccmp.dumps.arrays import sha256, sound
from acccmp.dumps.read import read_dump
from acccmp.errors import AcccmpError, FormatError, InputError, MappingError
from acccmp.inputs.files import read_inputs
from acccmp.mapping.trace import Trace
from acccmp.models.identify import identify
from acccmp.models.load import load
from acccmp.models.neighbours import look_beside
from acccmp.reports.report import Report
from acccmp.runners.run import run
from acccmp.slicing.bundle import is_slice
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
    npu_dump = npu_dump_of(npu, options)
    device = device_model_of(mapping)
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


def npu_dump_of(npu: Dump | str | Path, options: Options, role: str = "NPU") -> Dump:
    if isinstance(npu, Dump):
        return npu
    kind = kind_at(npu)
    if kind != "dump":
        advice = ""
        if kind in DEVICE_KINDS:
            advice = "; --mapping takes this file"
        elif role == "NPU":
            advice = "; the order is GOLDEN NPU"
        raise InputError(f"{npu} is {words_for(kind)}, but {role} must be what the device dumped{advice}")
    return read_dump(
        npu, run=options.run, device=options.device, model=options.npu_model, step=options.step,
    )


_WORDS = {
    "onnx": "an ONNX model", "caffe": "a Caffe model", "caffemodel": "Caffe weights",
    "tensorflow": "a TensorFlow model", "om": "a model compiled for the device (.om)",
    "atc_json": "a compiled model as JSON",
    "build_pbtxt": "a build graph of a compiled model", "dump": "a dump",
}


def words_for(kind: str) -> str:
    """A kind of file for people."""
    return _WORDS.get(kind, f"a {kind} file")


def load_original(path: str | Path, weights: str | Path | None = None) -> Graph:
    """Load a model that can be run or cut here. Raises InputError for compiled models and for dumps."""
    kind = kind_at(path)
    if kind in DEVICE_KINDS:
        raise InputError(
            f"{path} is {words_for(kind)}, which cannot run here; MODEL is the original, --mapping takes this file"
        )
    if kind == "dump":
        raise InputError(f"{path} is a folder without a model in it; MODEL is the file of the original model")
    return load(path, weights)


def kind_at(path: str | Path) -> str:
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
    kind = kind_at(golden)
    if kind in DEVICE_KINDS:
        raise InputError(
            f"{golden} is {words_for(kind)}, which cannot run here; "
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


def device_model_of(mapping: Graph | str | Path | None) -> Graph | None:
    if mapping is None or isinstance(mapping, Graph):
        return mapping
    kind = kind_at(mapping)
    if kind not in DEVICE_KINDS:
        raise InputError(
            f"{mapping} is {words_for(kind)}, but --mapping wants the device's model: the .om, its JSON "
            "(atc --mode=1) or ge_*_Build.pbtxt"
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
        rule = device_model_of(quant_rule)
        assert rule is not None
        mapping = compose(mapping, rule)
    if unfused is not None:
        other = device_model_of(unfused)
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
        from acccmp.inputs.preflight import check_inputs

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
    from acccmp.emulator.emulate import floors

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
