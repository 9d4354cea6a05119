"""What the device dumped of a slice: judged against the slice run here, and against the full model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from acccmp.comparison.compare import compare as compare_dumps
from acccmp.comparison.judging import Thresholds
from acccmp.core.dump import Dump, Port
from acccmp.core.graph import Graph
from acccmp.core.progress import Progress, no_progress
from acccmp.core.reading import FilePath
from acccmp.core.tensor import DTYPES, Array, TensorRef
from acccmp.diagnosis.causes.hints import explained
from acccmp.dumps.arrays import read_npy, sha256, sound
from acccmp.dumps.read import read_dump
from acccmp.errors import FormatError, InputError
from acccmp.jobs.compare import _floors, compare, stored_precision
from acccmp.jobs.slice import Reference, self_test
from acccmp.jobs.sources import MAPPING, NPU, THRESHOLDS, workers
from acccmp.mapping.compose import with_scales
from acccmp.mapping.device_map import DeviceMap
from acccmp.mapping.laid_out import laid_out
from acccmp.reports.pair import BAD
from acccmp.reports.report import Report
from acccmp.slicing.bundle import Bundle, load, read_manifest
from acccmp.slicing.cut import Slice
from acccmp.slicing.manifest import Manifest, SelfTest


@dataclass(frozen=True, eq=False)
class SliceReports:
    """What a device made of a slice. `self_test` is that of the folder as it lies there, on this machine; `own` judges
    against the slice run here (its own error), `full` against the full model's golden tensors, what the stretch
    inherited included (None where the slice was written without them)."""

    self_test: SelfTest
    own: Report
    full: Report | None

    def __repr__(self) -> str:
        full = "" if self.full is None else f"; against the full model: {self.full}"
        return f"SliceReports(device {self.device}, self-test {self.self_test.status}; own: {self.own}{full})"

    @property
    def device(self) -> str:
        """"agrees", "DIFFERS", or "not judged" where an output was not dumped, nothing paired or too little covered."""
        if self.own.exit_code == 0:
            return "agrees"
        bad = any(row.verdict in BAD for row in self.own.comparisons)
        return "DIFFERS" if bad and self.own.exit_code == 1 else "not judged"

    @property
    def exit_code(self) -> int:
        """0: the self-test holds and the device agrees; 1: it holds and the device differs; 2: otherwise."""
        return {"agrees": 0, "DIFFERS": 1}.get(self.device, 2) if self.self_test.holds else 2


def compare_slice(
    folder: Bundle | FilePath,
    npu: Dump | FilePath,
    *,
    mapping: DeviceMap | Graph | FilePath | None = None,
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
) -> SliceReports:
    """Judge what the device dumped for a slice: against the slice's own golden run (its own error), and against the
    full model's golden tensors.

    `folder` is what `Slice.save` (or `acccmp slice`) wrote: model, inputs and golden tensors come from its manifest.
    The slice is fed with what the device was fed with: the raw `.bin` inputs. The other arguments are those of
    `compare`, and so is what is raised.

    >>> part = acccmp.slice_model("resnet.onnx", "block2/conv1", "block2/relu2", dump="npu_faulty",
    ...                           mapping="mapping.json")
    >>> handed_over = part.save("handover")
    >>> judged = acccmp.compare_slice(handed_over, "npu_faulty", mapping="mapping.json")
    >>> judged.device, judged.self_test.status
    ('DIFFERS', 'passed')
    >>> judged.own
    Report(not passed: 7 drift, 2 match, 3 fused, 6 inserted; first bad block2/conv2block2/bn2:output:0)
    """
    if isinstance(folder, Slice):
        raise InputError("a Slice in memory has no raw inputs that a device could have been fed with: save it, and "
                         "give what Slice.save gives back")
    (path, manifest), graph = read_manifest(folder), load(folder)
    mapped = MAPPING.maybe(mapping)
    npu_dump = laid_out(NPU.of(npu, run=run, device=device, model=npu_model, step=step), mapped)
    mapped, rules = with_scales(mapped, npu_dump), THRESHOLDS.maybe(thresholds)
    own = compare(
        graph, npu_dump, mapping=mapped, inputs=bundled_inputs(path, manifest, graph) or None, runner=runner,
        thresholds=rules, valid=valid, min_coverage=min_coverage, strict=strict, floor=floor,
        flush_subnormals=flush_subnormals, jobs=jobs, progress=progress,
    )
    own = _of_slice(replace(own, subject={**own.subject, "golden": f"{path} (the slice alone)"}), manifest, graph)
    if not (path / "golden").is_dir():
        why = manifest.self_test.reason or manifest.self_test.status
        return SliceReports(SelfTest("skipped", f"the slice was written without golden tensors ({why})"), own, None)
    golden = _at_boundary(sound(read_dump(path / "golden")), manifest, graph)
    floors = _full_floors(graph, golden, npu_dump, manifest, flush_subnormals) if floor else None
    with workers(jobs) as executor:
        full = explained(compare_dumps(
            golden, npu_dump, mapping=mapped, model=graph, floors=floors, thresholds=rules, valid=valid,
            min_coverage=min_coverage, strict=strict, executor=executor,
            progress=progress,
            subject={**own.subject, "golden": f"{path / 'golden'} (the full model)"},
            notes=("against the full model: what this stretch inherited is part of the error",),
        ))
    return SliceReports(_self_test(golden, graph, runner), own, _of_slice(full, manifest, graph))


def _self_test(golden: Dump, graph: Graph, runner: str | None) -> SelfTest:
    """The self-test once more, of the files as they are now."""
    if golden.broken:
        return SelfTest("not runnable", f"{golden.broken[0].path}: {golden.broken[0].reason}")
    return self_test(Slice(graph, graph, (), ()), Reference(golden), runner)


def _at_boundary(golden: Dump, manifest: Manifest, graph: Graph) -> Dump:
    """The full model's golden tensors, those at the boundary also under the names of the slice's inputs: a mapping of
    the slice knows these, one of the full model the others."""
    refs = {**golden.refs, **_boundary(golden, manifest, graph)}
    outputs = tuple(port for tensor in graph.outputs if (port := graph.producer(tensor)) is not None)
    return replace(golden, refs=refs, run=replace(golden.run, outputs=outputs))


def _full_floors(
    graph: Graph, golden: Dump, npu: Dump, manifest: Manifest, flush_subnormals: bool | None,
) -> Mapping[Port, float] | None:
    """The floors of the full model's tensors, as the slice's folder has them; without those the slice's own, which
    know nothing of the rounding above."""
    if not manifest.floors or manifest.precision != stored_precision(npu):
        return _floors(graph, {}, golden, npu, flush_subnormals)[0]
    return {**manifest.floors, **_boundary(manifest.floors, manifest, graph)}


T = TypeVar("T")


def _boundary(of: Mapping[Port, T], manifest: Manifest, graph: Graph) -> dict[Port, T]:
    """What is known of the boundary by the full model's ports, by the ports of the slice's inputs."""
    ports = {end.port: graph.producer(end.name) for end in manifest.inputs if end.port in of}
    return {now: of[before] for before, now in ports.items() if now is not None}


def _of_slice(report: Report, manifest: Manifest, graph: Graph) -> Report:
    """The rows that are about this slice; a dump and a mapping of the full model have many more."""
    mine = {*(node.name for node in graph.nodes), *graph.inputs}
    mine |= {port.node for tensor in graph.inputs if (port := graph.producer(tensor)) is not None}
    above = {end.port for end in manifest.inputs}  # the boundary as the full model names it
    rows = [
        row for row in report.comparisons
        if mine.intersection(row.originals) or (row.golden_port is not None and row.golden_port.node in mine)
        or (row.golden_port in above and row.golden is not None and row.npu is not None)
    ]
    return replace(report, comparisons=tuple(rows))


def bundled_inputs(folder: Path, manifest: Manifest, graph: Graph) -> dict[str, Array]:
    """The inputs of a written slice as arrays in the model's dtype: the `.bin` that the device is fed with, else the
    golden tensor at the boundary. Raises FormatError for files that were changed after the manifest was written."""
    feeds: dict[str, Array] = {}
    for end in manifest.inputs:
        raw = end.bin if not end.is_quantised else None
        written = raw or end.npy or end.golden
        if written is None:
            continue
        file = folder / "inputs" / Path(written.file).name
        if sha256(file) != written.sha256:
            raise FormatError(
                f"{file}: its SHA-256 is not that of manifest.json: it was changed after the slice was written"
            )
        if raw is not None:
            shape = tuple(dim for dim in end.shape or () if isinstance(dim, int))
            array = TensorRef(str(file), DTYPES[raw.dtype], shape).numpy()
        else:
            array = read_npy(file).numpy()
        wanted = spec.dtype.numpy if (spec := graph.spec(end.name)).dtype is not None else None
        feeds[end.name] = array if wanted is None else array.astype(wanted)
    return feeds
