"""What a job is given: a noun, or a path that becomes one by its bytes, never by its name. A row each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

from acccmp.comparison.judging import Thresholds
from acccmp.core.dump import Dump
from acccmp.core.graph import Graph
from acccmp.core.nouns import Noun
from acccmp.core.reading import FilePath
from acccmp.dumps.arrays import sound
from acccmp.dumps.read import read_dump
from acccmp.errors import InputError
from acccmp.mapping.device_map import DeviceMap
from acccmp.models.load import MODEL, load
from acccmp.releases.baseline import Baseline, read


def _golden_folder(path: FilePath) -> Dump:
    """Golden tensors from a folder, its files checked against its manifest."""
    dump = sound(read_dump(path))
    if dump.kind != "golden":
        raise InputError(f"{path} is a device dump, but --golden must be of the original model; --dump takes this")
    return dump


NPU = Noun(
    Dump, read_dump, ("dump",), ", but NPU must be what the device dumped; the order is GOLDEN NPU",
    {"device": ", but NPU must be what the device dumped; --mapping takes this file"},
)
ORIGINAL = replace(
    MODEL, takes=("original",), otherwise=", where the original model or a golden dump is wanted", instead={
        "device": ", which cannot run here; GOLDEN is the original model or a golden dump, --mapping takes this file",
        "slice": ": `acccmp compare` judges what a device gave for it (in Python: acccmp.compare_slice)",
    },
)
DUMPED = replace(
    NPU, otherwise=", but --dump must be what the device dumped",
    instead={"device": ", but --dump must be what the device dumped; --mapping takes this file"},
)
GOLDEN = Noun(
    Dump, _golden_folder, ("dump",), ", but --golden must be a golden dump; `acccmp run` makes one",
)
MAPPING = Noun(
    DeviceMap, lambda path: DeviceMap(load(path)), ("device",),
    ", but --mapping wants the device's model: the .om, its JSON (atc --mode=1) or ge_*_Build.pbtxt",
    made_from={Graph: DeviceMap},
)
THRESHOLDS = Noun(Thresholds, Thresholds.named)
BASELINE = Noun(Baseline, read)


@contextmanager
def workers(jobs: int | None) -> Iterator[Executor | None]:
    """Threads to work with: `jobs` of them, by default one for each of up to four CPUs; None for one."""
    count = jobs if jobs is not None else min(4, os.cpu_count() or 1)
    if count < 1:
        raise InputError(f"jobs={jobs}: a number of threads from 1 is wanted")
    if count == 1:
        yield None
        return
    with ThreadPoolExecutor(count) as pool:
        try:
            yield pool
        except BaseException:  # Ctrl-C does not wait for what has not begun
            pool.shutdown(wait=False, cancel_futures=True)
            raise
