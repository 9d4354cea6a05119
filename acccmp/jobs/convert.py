"""Files of one kind into files of another: dumps and arrays, and TensorFlow models into one file each."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from acccmp.core.progress import Progress, counted, no_progress
from acccmp.core.reading import FilePath
from acccmp.dumps.convert import ConvertResult, Target
from acccmp.dumps.convert import convert as convert_dumps
from acccmp.errors import InputError
from acccmp.jobs.sources import workers
from acccmp.models.load import MODEL


def convert(
    paths: FilePath | Iterable[FilePath], out: FilePath, *, to: Target | Literal["pb"] = "npy",
    layout: str | None = None, dtype: str | None = None, jobs: int | None = None, progress: Progress = no_progress,
) -> ConvertResult:
    """Convert dumps and arrays, and write the results into the folder `out`.

    `paths` are dump files, npy, npz or bin files, or folders of them (of a tree of runs, the run that `read_dump`
    would take). `to` is "npy", "bin" or "dump"; or "pb": TensorFlow models, frozen into one file each. `layout` (NCHW,
    NHWC, ...; "stored": the device's blocks) is by default the tensor's own, padding removed; `dtype` casts
    floating-point tensors only. `jobs` threads work, by default up to four. `progress` is told of each phase: (its
    name, done, all). What could not be converted is in `failed`; the others are written all the same.

    Raises InputError for an unknown target, layout or dtype, for paths that are not there, and when two sources would
    be written to one file; FormatError when the list of converted tensors in `out` is damaged.

    >>> made = acccmp.convert("npu", "arrays", layout="NCHW", dtype="float32")
    >>> len(made.written), made.failed
    (73, ())
    """
    progress("reading")
    if to != "pb":
        with workers(jobs) as executor:
            return convert_dumps(paths, out, to=to, layout=layout, dtype=dtype, executor=executor, progress=progress)
    if layout is not None or dtype is not None:
        raise InputError("layout and dtype are for tensors; they have no effect with to='pb', leave them out")
    from acccmp.runners.tensorflow import freeze

    given = [Path(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    graphs = {path: MODEL.of(path) for path in given}
    for path, graph in graphs.items():
        if graph.format != "tensorflow":
            raise InputError(f"{path} is a model of {graph.format}; --to pb freezes SavedModels of TensorFlow")
    stems = [path.resolve().name.removesuffix(".pb") for path in graphs]
    pairs = counted(zip(graphs.values(), stems, strict=True), "freezing", len(stems), progress)
    frozen = [freeze(graph, Path(out) / f"{stem}.pb") for graph, stem in pairs]
    return ConvertResult(tuple(frozen))
