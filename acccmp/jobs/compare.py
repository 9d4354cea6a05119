"""The main job: an original and what the device dumped go in, a report comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from acccmp.comparison.compare import compare as compare_dumps
from acccmp.comparison.judging import Thresholds
from acccmp.core.dump import Dump, Port
from acccmp.core.graph import Graph
from acccmp.core.identify import identify
from acccmp.diagnosis.causes.hints import explained
from acccmp.diagnosis.profile import FALSE_ALARM, flushing
from acccmp.dumps.arrays import sha256, sound
from acccmp.dumps.read import read_dump
from acccmp.emulator.emulate import TWICE, floors
from acccmp.errors import AcccmpError, InputError
from acccmp.jobs.feeding import _feeds
from acccmp.jobs.sources import Options, device_map_of, npu_dump_of
from acccmp.mapping.compose import compose, compose_unfused, with_scales
from acccmp.mapping.device_map import DeviceMap
from acccmp.mapping.laid_out import laid_out
from acccmp.models.load import load
from acccmp.models.neighbours import look_beside
from acccmp.reports.report import Report
from acccmp.runners.run import run, runner_for
from acccmp.version import VERSION


def compare(
    golden: Graph | Dump | str | Path,
    npu: Dump | str | Path,
    *,
    mapping: DeviceMap | Graph | str | Path | None = None,
    mapping_unfused: DeviceMap | Graph | str | Path | None = None,
    quant_rule: DeviceMap | Graph | str | Path | None = None,
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
    the device model (.om, ATC's JSON or a build graph). An ONNX, TensorFlow or Caffe model at hand
    (`golden` or `model`) gives each tensor its precision floor. `changes` are fields of `Options`.

    Raises InputError, FormatError, MappingError or RunError when the job as a whole cannot be done; a bad pair of
    tensors is a verdict in the Report.
    """
    options = replace(options or Options(), **changes)
    device = device_map_of(mapping)
    options.progress("reading")
    npu_dump = laid_out(npu_dump_of(npu, options), device)
    device = with_scales(device, npu_dump)
    notes: list[str] = []
    if device is not None and device.graph.compiled.soc == "emulated":
        notes.append("the NPU dump is of an emulated device: nothing here was measured on an NPU")
    graph, golden_dump = _golden(golden, weights)
    if graph is None and model is not None:
        graph = load(model, weights) if isinstance(model, str | Path) else model
    _check_order(golden, golden_dump, npu_dump)
    if golden_dump is not None:
        golden_dump = laid_out(golden_dump, device)
    feeds: dict[str, Any] = {}
    if golden_dump is None:
        assert graph is not None
        runner_for(graph, options.runner)  # before its inputs are looked for
        feeds, told = _feeds(graph, inputs, npu_dump, device)
        notes += told
        options.progress("running the original")
        golden_dump = run(graph, feeds, runner=options.runner)
    elif inputs:
        raise InputError("--input feeds a model, but GOLDEN is a dump folder; leave it out or give the model as GOLDEN")
    if graph is None:
        graph = _model_of(golden_dump)
    options.progress("precision floors")
    floors, told = _floors(graph, feeds, golden_dump, npu_dump, options)
    notes += told
    if options.flush_subnormals and floors is None:
        why = "; ".join(told) or "they are computed with the original, give it as GOLDEN or with --model"
        raise InputError(f"--flush-subnormals is for precision floors, and there are none here: {why}")
    if device is None and golden_dump.kind == "golden" and npu_dump.path is not None:
        notes.append(look_beside([npu_dump.path, *([graph.path] if graph is not None and graph.path else [])]).advice)
    return explained(compare_dumps(
        golden_dump, npu_dump, mapping=_composed(device, mapping_unfused, quant_rule), model=graph, floors=floors,
        thresholds=thresholds, valid=options.valid, min_coverage=options.min_coverage, strict=options.strict,
        executor=options.executor, progress=options.progress, notes=tuple(notes),
        subject=_subject(golden, npu, mapping, graph, golden_dump, npu_dump),
    ))


# -- what was given ----------------------------------------------------------------------------------------------


def _golden(golden: Graph | Dump | str | Path, weights: str | Path | None) -> tuple[Graph | None, Dump | None]:
    """The model to run, or the dump that was made already."""
    if isinstance(golden, Graph):
        return golden, None
    if isinstance(golden, Dump):
        return None, golden
    found = identify(golden)
    if found.kind.role == "device":
        raise InputError(
            f"{golden} is {found.words}, which cannot run here; "
            "GOLDEN is the original model or a golden dump, --mapping takes this file"
        )
    if found.kind.role == "original":
        return load(golden, weights), None
    if found.kind.role == "slice":
        raise InputError(f"{golden} is the folder of a slice: `acccmp compare` judges what a device gave for it "
                         "(in Python: acccmp.jobs.compare_slice)")
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


def _composed(
    mapping: DeviceMap | None, unfused: DeviceMap | Graph | str | Path | None,
    quant_rule: DeviceMap | Graph | str | Path | None,
) -> DeviceMap | None:
    if unfused is None and quant_rule is None:
        return mapping
    if mapping is None:
        raise InputError("--mapping-unfused and --quant-rule refine a mapping; give --mapping too")
    if quant_rule is not None:
        rule = device_map_of(quant_rule)
        assert rule is not None
        mapping = compose(mapping, rule)
    if unfused is not None:
        other = device_map_of(unfused)
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
        subject["mapping"] = str(mapping if isinstance(mapping, str | Path) else device_map_of(mapping))
    if graph is not None:
        subject["model"] = f"{graph.name} ({graph.format}, {len(graph)} nodes)"
    if golden_dump.run.runner:
        subject["runner"] = f"{golden_dump.run.runner} {golden_dump.run.version}".strip()
    return subject


# -- what the model is fed with ----------------------------------------------------------------------------------


# -- the precision floor -----------------------------------------------------------------------------------------


def _floors(
    graph: Graph | None, feeds: Mapping[str, Any], golden: Dump, npu: Dump, options: Options,
) -> tuple[dict[Port, float] | None, list[str]]:
    if not options.floor or graph is None or graph.format not in TWICE or golden.kind != "golden":
        return None, []
    precision = stored_precision(npu)
    if precision is None:
        return None, ["the NPU stored no float16 or bfloat16 tensors: no precision floor is needed"]
    if not feeds:
        ports = {tensor: graph.producer(tensor) or Port(tensor, "output", 0) for tensor in graph.inputs}
        if any(port not in golden for port in ports.values()):
            return None, ["the golden dump holds no model inputs: limits are fixed, a floor would be sharper"]
        feeds = {tensor: golden[port].numpy() for tensor, port in ports.items()}
    flushes, notes = _flushes(npu, options)
    try:
        return floors(graph, feeds, precision, flush_subnormals=flushes), notes
    except AcccmpError as error:
        return None, [*notes, f"no precision floor, limits are fixed: {error}"]


def _flushes(npu: Dump, options: Options) -> tuple[bool, list[str]]:
    """Does the chip turn subnormal numbers into 0? As the user says, else as the dump shows."""
    if options.flush_subnormals is not None:
        return options.flush_subnormals, []
    found = flushing(npu)
    if not found.is_seen:
        return False, []
    return True, [
        f"the chip turns subnormal numbers into 0, and so do the floors: of {found.normal} small numbers that it "
        f"computed none is subnormal (where a chip keeps them, less than once in {1 / FALSE_ALARM:,.0f} dumps; "
        "--keep-subnormals says that it does)"
    ]


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
    if not golden.run.model_path or golden.path is None:
        return None
    named = Path(golden.run.model_path)
    for path in (named, golden.path / named, golden.path.parent / named.name):
        if not path.is_file():
            continue
        if sha256(path) == golden.run.model_sha256:
            return load(path)
    return None
