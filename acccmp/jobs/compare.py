"""The main job: an original and what the device dumped go in, a report comes out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from acccmp.comparison.compare import compare as compare_dumps
from acccmp.comparison.judging import Thresholds
from acccmp.core.dump import Dump, Port
from acccmp.core.graph import Graph
from acccmp.core.identify import identify
from acccmp.core.progress import Progress, no_progress
from acccmp.core.reading import FilePath
from acccmp.core.tensor import Array
from acccmp.diagnosis.causes.hints import explained
from acccmp.diagnosis.profile import FALSE_ALARM, flushing
from acccmp.dumps.arrays import sha256, sound
from acccmp.dumps.read import read_dump
from acccmp.emulator.emulate import TWICE, floors
from acccmp.errors import AcccmpError, InputError
from acccmp.inputs.files import Inputs
from acccmp.jobs.feeding import _feeds
from acccmp.jobs.sources import MAPPING, NPU, ORIGINAL, THRESHOLDS, workers
from acccmp.mapping.compose import compose, compose_unfused, with_scales
from acccmp.mapping.device_map import DeviceMap
from acccmp.mapping.laid_out import laid_out
from acccmp.models.load import MODEL, load
from acccmp.models.neighbours import look_beside
from acccmp.reports.report import Report
from acccmp.runners.run import run as run_model
from acccmp.runners.run import runner_for
from acccmp.version import VERSION


def compare(
    golden: Graph | Dump | FilePath,
    npu: Dump | FilePath,
    *,
    mapping: DeviceMap | Graph | FilePath | None = None,
    mapping_unfused: DeviceMap | Graph | FilePath | None = None,
    quant_rule: DeviceMap | Graph | FilePath | None = None,
    model: Graph | FilePath | None = None,
    weights: FilePath | None = None,
    inputs: Inputs | None = None,
    runner: str | None = None,
    thresholds: Thresholds | FilePath | None = None,
    valid: Sequence[str] = (),
    min_coverage: float = 0.9,
    strict: bool = False,
    floor: bool = True,
    flush_subnormals: bool | None = None,
    run: str | None = None,
    device: str | int | None = None,
    npu_model: str | int | None = None,
    step: str | int | None = None,
    jobs: int | None = None,
    progress: Progress = no_progress,
) -> Report:
    """Compare the original with what the NPU dumped, layer by layer.

    - `golden`: a model (run first, on `inputs`, by `runner`), a golden dump, or a device dump (NPU against NPU).
    - `npu`: what the device dumped; of a tree of runs `run`, `device`, `npu_model` and `step` choose one.
    - `mapping`: the device model (.om, ATC's JSON or a build graph); `mapping_unfused` (the same without fusion) and
      `quant_rule` (AMCT's JSON) refine it.
    - `model`: the original, where `golden` is a dump; `weights`: its caffemodel. A model at hand gives each tensor its
      precision floor, unless `floor` is False. `flush_subnormals`: does the chip turn subnormal numbers into 0? None:
      as the dump shows.
    - `inputs`: arrays or files by the model's input names, or the only one; without them the model is fed with the NPU
      dump's own model inputs.
    - `thresholds`: "default", "vendor", a TOML file or a `Thresholds`. `valid` are `NAME=AXIS:N`: only the first N
      along an axis count. `min_coverage` is a share from 0 to 1; with `strict` inner layers that drift fail the report.
    - `jobs` threads compare (by default up to four; the result does not depend on it); `progress` is told of
      each phase: (its name, done, all).

    Errors are relative Euclidean distances, ||npu - golden|| / ||golden||, of float64 sums; integers are judged by the
    share of elements that differ. Raises InputError, FormatError, MappingError or RunError when the job as a whole
    cannot be done; a bad pair of tensors is a verdict in the Report.

    >>> report = acccmp.compare("resnet.onnx", "npu_faulty", mapping="mapping.json")
    >>> report
    Report(not passed: 31 drift, 24 match, 12 fused, 18 inserted; first bad block2/conv2block2/bn2:output:0)
    >>> acccmp.compare("golden", "npu", mapping="mapping.json", thresholds="vendor", jobs=1).passed
    True
    """
    rules, mapped = THRESHOLDS.maybe(thresholds), MAPPING.maybe(mapping)
    progress("reading")
    npu_dump = laid_out(NPU.of(npu, run=run, device=device, model=npu_model, step=step), mapped)
    mapped = with_scales(mapped, npu_dump)
    composed = _composed(mapped, mapping_unfused, quant_rule)
    notes: list[str] = []
    if mapped is not None and mapped.graph.compiled.soc == "emulated":
        notes.append("the NPU dump is of an emulated device: nothing here was measured on an NPU")
    graph, golden_dump = _golden(golden, model, weights, runner)
    _check_order(golden, golden_dump, npu_dump)
    if golden_dump is not None:
        golden_dump = laid_out(golden_dump, mapped)
    feeds: Mapping[str, Array] = {}
    if golden_dump is None:
        assert graph is not None
        runner_for(graph, runner)  # before its inputs are looked for
        feeds, told = _feeds(graph, inputs, npu_dump, mapped)
        notes += told
        progress("running the original")
        golden_dump = run_model(graph, feeds, runner=runner)
    elif inputs is not None:
        raise InputError("--input feeds a model, but GOLDEN is a dump folder; leave it out or give the model as GOLDEN")
    if graph is None:
        graph = _model_of(golden_dump)
    progress("precision floors")
    floors, told = _floors(graph, feeds, golden_dump, npu_dump, flush_subnormals) if floor else (None, [])
    notes += told
    if flush_subnormals and floors is None:
        why = "; ".join(told) or "they are computed with the original, give it as GOLDEN or with --model"
        raise InputError(f"--flush-subnormals is for precision floors, and there are none here: {why}")
    if mapped is None and golden_dump.kind == "golden" and npu_dump.path is not None:
        notes.append(look_beside([npu_dump.path, *([graph.path] if graph is not None and graph.path else [])]).advice)
    with workers(jobs) as executor:
        return explained(compare_dumps(
            golden_dump, npu_dump, mapping=composed, model=graph, floors=floors, thresholds=rules, valid=valid,
            min_coverage=min_coverage, strict=strict, executor=executor, progress=progress, notes=tuple(notes),
            subject=_subject(golden, npu, mapping, graph, golden_dump, npu_dump),
        ))


# -- what was given ----------------------------------------------------------------------------------------------


def _golden(
    golden: Graph | Dump | FilePath, model: Graph | FilePath | None, weights: FilePath | None, runner: str | None,
) -> tuple[Graph | None, Dump | None]:
    """The model to run, or the dump that was made already and its model, as far as that was given."""
    if isinstance(golden, Dump) or (not isinstance(golden, Graph) and identify(golden).kind.role == "dump"):
        if runner is not None:
            raise InputError("runner: GOLDEN is a dump, no model is run; leave it out or give the model as GOLDEN")
        return MODEL.maybe(model, weights=weights), golden if isinstance(golden, Dump) else sound(read_dump(golden))
    if model is not None:
        raise InputError("model: GOLDEN is the model itself; leave it out")
    return ORIGINAL.of(golden, weights=weights), None


def _check_order(golden: object, golden_dump: Dump | None, npu: Dump) -> None:
    if golden_dump is not None and golden_dump.kind == "npu" and npu.kind == "golden":
        raise InputError(
            f"{golden} is a device dump and {npu.path} a golden dump: exchange them, the order is GOLDEN NPU"
        )
    if npu.kind == "golden" and (golden_dump is None or golden_dump.kind == "golden"):
        raise InputError(
            f"{npu.path} is a golden dump (npy files of an original model), but NPU must be a device dump"
        )


def _composed(
    mapping: DeviceMap | None, unfused: DeviceMap | Graph | FilePath | None,
    quant_rule: DeviceMap | Graph | FilePath | None,
) -> DeviceMap | None:
    if unfused is None and quant_rule is None:
        return mapping
    if mapping is None:
        raise InputError("--mapping-unfused and --quant-rule refine a mapping; give --mapping too")
    if quant_rule is not None:
        mapping = compose(mapping, MAPPING.of(quant_rule))
    return mapping if unfused is None else compose_unfused(mapping, MAPPING.of(unfused))


def _subject(
    golden: object, npu: object, mapping: object, graph: Graph | None, golden_dump: Dump, npu_dump: Dump,
) -> dict[str, str]:
    def told(what: object, dump: Dump) -> str:
        return str(what) if isinstance(what, str | os.PathLike) else str(dump.path or what)

    subject = {"golden": told(golden, golden_dump), "npu": told(npu_dump.path or npu, npu_dump), "acccmp": VERSION}
    if mapping is not None:
        subject["mapping"] = str(mapping if isinstance(mapping, str | os.PathLike) else MAPPING.of(mapping))
    if graph is not None:
        subject["model"] = f"{graph.name} ({graph.format}, {len(graph)} nodes)"
    if golden_dump.run.runner:
        subject["runner"] = f"{golden_dump.run.runner} {golden_dump.run.version}".strip()
    return subject


# -- the precision floor -----------------------------------------------------------------------------------------


def _floors(
    graph: Graph | None, feeds: Mapping[str, Array], golden: Dump, npu: Dump, flush_subnormals: bool | None = None,
) -> tuple[dict[Port, float] | None, list[str]]:
    if graph is None or graph.format not in TWICE or golden.kind != "golden":
        return None, []
    precision = stored_precision(npu)
    if precision is None:
        return None, ["the NPU stored no float16 or bfloat16 tensors: no precision floor is needed"]
    if not feeds:
        ports = {tensor: graph.producer(tensor) or Port(tensor, "output", 0) for tensor in graph.inputs}
        if any(port not in golden for port in ports.values()):
            return None, ["the golden dump holds no model inputs: limits are fixed, a floor would be sharper"]
        feeds = {tensor: golden[port].numpy() for tensor, port in ports.items()}
    flushes, notes = _flushes(npu, flush_subnormals)
    try:
        return floors(graph, feeds, precision, flush_subnormals=flushes), notes
    except AcccmpError as error:
        return None, [*notes, f"no precision floor, limits are fixed: {error}"]


def _flushes(npu: Dump, told: bool | None) -> tuple[bool, list[str]]:
    """Does the chip turn subnormal numbers into 0? As the user says, else as the dump shows."""
    if told is not None:
        return told, []
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
