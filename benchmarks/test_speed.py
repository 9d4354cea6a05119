"""Speed, compared within one run: each group has what we do beside a yardstick that anybody can understand.

    make bench        # or: python -m pytest benchmarks --benchmark-only --benchmark-group-by=group
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acccmp.comparison.measure import measure
from acccmp.core import layout
from acccmp.core.dump import Port
from acccmp.core.tensor import DTYPES, TensorRef, decode
from acccmp.dumps.read import read_dump
from acccmp.models.load import load
from acccmp.slicing.cut import cut

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "sample_dumps" / "digits_resnet"
ELEMENTS = 1 << 22


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[TensorRef, TensorRef]:
    """4 million elements as float32 and as float16, in files."""
    folder = tmp_path_factory.mktemp("pair")
    golden = np.random.default_rng(0).standard_normal(ELEMENTS).astype(np.float32)
    golden.tofile(folder / "golden")
    golden.astype(np.float16).tofile(folder / "npu")
    return (
        TensorRef(str(folder / "golden"), DTYPES["float32"], (ELEMENTS,)),
        TensorRef(str(folder / "npu"), DTYPES["float16"], (ELEMENTS,)),
    )


def naive(golden: TensorRef, npu: TensorRef) -> tuple[float, ...]:
    """The ten vendor metrics as one would write them in numpy, whole arrays at a time."""
    y = np.fromfile(golden.path, np.float32).astype(np.float64)
    x = np.fromfile(npu.path, np.float16).astype(np.float64)
    error = np.abs(x - y)
    relative = np.where(y != 0, error / np.where(y != 0, np.abs(y), 1), 0)
    p = np.maximum((x - x.min()) / (x.max() - x.min()), 1.19e-7)
    q = np.maximum((y - y.min()) / (y.max() - y.min()), 1.19e-7)
    p, q = p / p.sum(), q / q.sum()
    return (
        float(x @ y / np.linalg.norm(x) / np.linalg.norm(y)), float(error.max()), float(relative.sum()),
        float(np.linalg.norm(x - y) / np.linalg.norm(y)), float((p * np.log(p / q)).sum()), float(x.std()),
        float(y.std()), float(error.mean()), float(np.sqrt((error**2).mean())), float(relative.max()),
    )


@pytest.mark.benchmark(group="metrics of 4 M elements: all metrics / the vendor's ten in whole-array numpy")
def test_metrics(benchmark: Any, pair: tuple[TensorRef, TensorRef]) -> None:
    found = benchmark(measure, *pair)
    assert found.metrics["CosineSimilarity"] == pytest.approx(naive(*pair)[0], abs=1e-12)


@pytest.mark.benchmark(group="metrics of 4 M elements: all metrics / the vendor's ten in whole-array numpy")
def test_metrics_yardstick(benchmark: Any, pair: tuple[TensorRef, TensorRef]) -> None:
    assert benchmark(naive, *pair)[3] < 1e-3


@pytest.fixture(scope="module")
def blocked() -> np.ndarray:
    values = np.random.default_rng(1).standard_normal((4, 100, 128, 128)).astype(np.float16)
    return layout.to_stored(values, "NCHW", "NC1HWC0")


@pytest.mark.benchmark(group="NC1HWC0 to NCHW, 6.5 M elements: undone / copied as it is")
def test_layout_undone(benchmark: Any, blocked: np.ndarray) -> None:
    shape = (4, 100, 128, 128)
    whole = tuple(slice(0, size) for size in shape)
    out = benchmark(lambda: np.ascontiguousarray(layout.read_region(blocked, "NC1HWC0", "NCHW", shape, whole)))
    assert out.shape == shape


@pytest.mark.benchmark(group="NC1HWC0 to NCHW, 6.5 M elements: undone / copied as it is")
def test_layout_yardstick(benchmark: Any, blocked: np.ndarray) -> None:
    assert benchmark(blocked.copy).shape == blocked.shape


@pytest.mark.benchmark(group="8-bit floats, 4 M elements: decoded / copied as bytes")
def test_float8_decoded(benchmark: Any) -> None:
    codes = np.random.default_rng(2).integers(0, 256, ELEMENTS).astype(np.uint8)
    assert benchmark(decode, codes, DTYPES["float8_e4m3fn"], ELEMENTS).dtype == np.float32


@pytest.mark.benchmark(group="8-bit floats, 4 M elements: decoded / copied as bytes")
def test_float8_yardstick(benchmark: Any) -> None:
    codes = np.random.default_rng(2).integers(0, 256, ELEMENTS).astype(np.uint8)
    assert benchmark(codes.copy).size == ELEMENTS


@pytest.mark.benchmark(group="a dump folder: headers read / bytes of its files read")
def test_folder_read(benchmark: Any) -> None:
    assert Port("image", "output", 0) in benchmark(read_dump, SAMPLE / "npu")


@pytest.mark.benchmark(group="a dump folder: headers read / bytes of its files read")
def test_folder_yardstick(benchmark: Any) -> None:
    assert benchmark(lambda: sum(len(path.read_bytes()) for path in (SAMPLE / "npu").iterdir())) > 0


@pytest.mark.benchmark(group="a model: cut / loaded")
def test_cut(benchmark: Any) -> None:
    graph = load(SAMPLE / "resnet.onnx")
    names = [node.name for node in graph.nodes if node.op_type == "Conv"]
    assert len(benchmark(cut, graph, names[1], names[-1]).graph) > 1


@pytest.mark.benchmark(group="a model: cut / loaded")
def test_cut_yardstick(benchmark: Any) -> None:
    assert len(benchmark(load, SAMPLE / "resnet.onnx")) > 1
