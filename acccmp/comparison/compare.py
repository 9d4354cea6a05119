"""Two dumps in, a Report out: pair, measure, judge."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import zip_longest

from acccmp.comparison.judging import Thresholds, judge, judge_dtypes
from acccmp.comparison.measure import Measured, measure
from acccmp.comparison.outputs import names_of
from acccmp.comparison.pairing import pair
from acccmp.comparison.random_ops import set_aside
from acccmp.core.dump import Dump, Port
from acccmp.core.graph import Graph
from acccmp.core.layout import squeezed
from acccmp.core.progress import Progress, counted, no_progress
from acccmp.core.tensor import TensorRef
from acccmp.errors import FormatError, InputError, LayoutError
from acccmp.mapping.device_map import DeviceMap
from acccmp.reports.pair import Pair, Verdict
from acccmp.reports.report import Comparison, Report, Source

BATCH = 8  # pairs handed to a worker at a time


def compare(
    golden: Dump,
    npu: Dump,
    *,
    mapping: DeviceMap | None = None,
    model: Graph | None = None,
    floors: Mapping[Port, float] | None = None,
    thresholds: Thresholds | None = None,
    valid: Sequence[str] = (),
    min_coverage: float = 0.9,
    strict: bool = False,
    executor: Executor | None = None,
    subject: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    progress: Progress = no_progress,
) -> Report:
    """Compare a golden dump with the device's, port by port.

    `mapping` is the device model; without it ops are paired by name. `model` is the original; it tells constants,
    execution order and outputs. `floors` are, by the original's output port, the relative Euclidean distances that
    storage in the NPU's dtype alone explains. `valid` are `NAME=axis:n` (see `pairing.pair`). `executor` maps the
    pairs in batches; the result does not depend on it. `progress` is told of each pair.

    A bad pair is a verdict. Raises InputError (no tensors at all, dumps in the wrong order, a `valid` that names
    nothing) and MappingError (a mapping of another model or dump).
    """
    if golden.kind == "npu" and npu.kind == "golden":
        raise InputError(
            f"the golden side ({golden.path or golden!r}) is a device dump and the NPU side ({npu.path or npu!r}) "
            "a golden one: exchange them, golden comes first"
        )
    for side, dump in (("golden", golden), ("npu", npu)):
        if not dump and not dump.broken:
            raise InputError(f"the {side} dump {dump.path or '(in memory)'} has no tensors: nothing to compare")
    thresholds = thresholds or Thresholds.default()
    pairing = pair(golden, npu, mapping, model, floors=floors, valid=valid)
    done: list[Comparison] = []
    for row in counted(_compared(pairing.pairs, thresholds, executor), "comparing", len(pairing.pairs), progress):
        done.append(row)
    done = set_aside(done, model, mapping)
    return Report(
        tuple(done), {
            **({"belongs": pairing.belongs} if pairing.belongs else {}),
            **_subject(golden, npu, mapping, model, thresholds, subject),
        },
        tuple(dict.fromkeys([*notes, *_told(golden, npu, mapping), *pairing.notes, *_limit_notes(done, thresholds)])),
        min_coverage, strict, source=Source(model, golden, npu, mapping),
    )


def compare_pair(pair: Pair, thresholds: Thresholds | None = None) -> Comparison:
    """One port: measured and judged, or passed on with the verdict that the pairing gave. Never raises for bad data."""
    base = Comparison(pair, pair.verdict or Verdict.UNREADABLE, reason=pair.reason, notes=pair.notes)
    if pair.verdict is not None or pair.golden is None or pair.npu is None:
        return base
    thresholds = thresholds or Thresholds.default()
    golden, npu = pair.golden.dtype, pair.npu.dtype
    verdict = judge_dtypes(golden, npu)
    if verdict is not None and verdict.verdict is Verdict.DTYPE and pair.quantised and {golden.kind, npu.kind} == {
        "int", "float",
    }:
        verdict = replace(
            verdict, verdict=Verdict.NOT_COMPARABLE,
            reason=f"{npu.name} inside a quantised part, golden is {golden.name}: no meaning without its scale",
        )
    misfit = pair.misfit or _misfit(pair)
    if verdict is not None:
        found = None if misfit or "opaque" in (golden.kind, npu.kind) else _measured(pair)
        metrics = found.metrics if isinstance(found, Measured) else {}
        return replace(base, verdict=verdict.verdict, reason=verdict.reason, metrics=metrics)
    if misfit:
        return replace(base, verdict=Verdict.SHAPE, reason=misfit)
    measured = _measured(pair)
    if not isinstance(measured, Measured):
        return replace(base, verdict=measured[0], reason=measured[1])
    judged = judge(
        measured, golden, npu, thresholds, names=names_of(pair), op_type=pair.op_type, floor=pair.floor,
        coarsest=pair.coarsest,
    )
    notes = [*pair.notes, *_padding(pair.npu)]
    if squeezed(pair.golden.own_shape) == squeezed(pair.npu.own_shape) and (
        pair.golden.own_shape != pair.npu.own_shape
    ):
        notes.append(f"shapes differ by dimensions of 1: golden {pair.golden.own_shape}, npu {pair.npu.own_shape}")
    return replace(
        base, verdict=judged.verdict, reason=judged.reason, metrics=measured.metrics, error=judged.error,
        limit=judged.limit, judged_by=judged.judged_by, max_error_index=measured.max_error_index,
        notes=(*notes, *judged.notes),
    )


def _padding(ref: TensorRef) -> list[str]:
    """What is to be said of the padding of a blocked tensor, which nothing else looks at: it should be all zero."""
    dirt = ref.dirt()
    if not dirt.nonzero:
        return []
    odd = f", {dirt.nonfinite} of them NaN or Inf" if dirt.nonfinite else ""
    return [f"{dirt.nonzero} of the {dirt.size} numbers in its padding are not 0{odd}"]


def _misfit(pair: Pair) -> str:
    """Why the shapes cannot be compared; "" if they can."""
    assert pair.golden is not None
    assert pair.npu is not None
    golden, npu = pair.golden.own_shape, pair.npu.own_shape
    wanted = pair.extent or golden
    if squeezed(wanted) == squeezed(npu):
        return ""
    if len(wanted) == len(npu) and all(
        n == m or (n < m and axis in pair.cut) for axis, (n, m) in enumerate(zip(wanted, npu, strict=True))
    ):
        return ""
    told = "" if pair.extent is None else f", of which {wanted} are valid"
    return f"golden is {golden}{told}, npu {npu}"


def _measured(pair: Pair) -> Measured | tuple[Verdict, str]:
    assert pair.golden is not None
    assert pair.npu is not None
    try:
        return measure(pair.golden, pair.npu, extent=pair.extent)
    except FormatError as error:
        return Verdict.UNREADABLE, str(error)
    except LayoutError as error:
        return Verdict.SHAPE, f"{pair.npu.path}: {error}"
    except ValueError as error:
        return Verdict.SHAPE, str(error)
    except MemoryError:
        return Verdict.UNREADABLE, f"{pair.npu.path}: not enough memory for {pair.npu!r}"


# -- many pairs --------------------------------------------------------------------------------------------------


def _compared(pairs: Sequence[Pair], thresholds: Thresholds, executor: Executor | None) -> Iterator[Comparison]:
    """`pairs` compared, in their order, whoever does it."""
    if executor is None:
        yield from map(partial(compare_pair, thresholds=thresholds), pairs)
        return
    batches = [pairs[start : start + BATCH] for start in range(0, len(pairs), BATCH)]
    futures: list[Future[list[Comparison]]] = []
    with suppress(BrokenExecutor):
        for batch in batches:
            futures.append(executor.submit(compare_batch, batch, thresholds))
    for batch, future in zip_longest(batches, futures):
        try:
            yield from future.result() if future is not None else _lost(batch)
        except (BrokenExecutor, MemoryError):
            yield from _lost(batch)


def compare_batch(pairs: Iterable[Pair], thresholds: Thresholds) -> list[Comparison]:
    """What a worker does."""
    return [compare_pair(pair, thresholds) for pair in pairs]


def _lost(pairs: Iterable[Pair]) -> list[Comparison]:
    """Rows of a batch whose worker process died."""
    return [
        compare_pair(pair if pair.verdict is not None else replace(
            pair, verdict=Verdict.UNREADABLE, reason="the worker process died (out of memory?): try --jobs 1",
        )) for pair in pairs
    ]


# -- what is said about the whole --------------------------------------------------------------------------------


def _subject(
    golden: Dump, npu: Dump, mapping: DeviceMap | None, model: Graph | None, thresholds: Thresholds,
    given: Mapping[str, str] | None,
) -> dict[str, str]:
    found = {"golden": str(golden.path or golden), "npu": str(npu.path or npu)}
    if mapping is not None:
        found["mapping"] = str(mapping)
    if model is not None:
        found["model"] = str(model.path or model.name)
    found["thresholds"] = thresholds.name
    return {**found, **(given or {})}


def _told(golden: Dump, npu: Dump, mapping: DeviceMap | None) -> list[str]:
    return [
        *(f"golden: {note}" for note in golden.notes), *(f"npu: {note}" for note in npu.notes),
        *(f"mapping: {note}" for note in (mapping.graph.notes if mapping is not None else ())),
    ]


def _limit_notes(rows: Sequence[Comparison], thresholds: Thresholds) -> list[str]:
    """That fixed limits are blunt, where any were used."""
    by_distance = [row for row in rows if row.verdict in (Verdict.MATCH, Verdict.DRIFT)
                   and row.judged_by == "RelativeEuclideanDistance"]
    fixed = [row for row in by_distance if math.isnan(row.floor)]
    if thresholds.limits is not None or not fixed:
        return []
    whole = "limits are" if len(fixed) == len(by_distance) else f"limits of {len(fixed)} ports are"
    return [f"{whole} fixed by stored dtype: a floor would be sharper (give the original as a model that runs here)"]
