"""The metrics against numpy's own arithmetic, with exact integers, extreme values and what is not finite."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from acccmp.comparison import measure as measuring
from acccmp.comparison.measure import Measured, measure
from acccmp.core import layout as layouts
from acccmp.core.metrics import METRICS, all_metrics
from acccmp.core.tensor import DTYPES, TensorRef, TurnedRef

ROOT = Path(__file__).parent.parent


def measured(golden: Any, npu: Any, **options: Any) -> Measured:
    return measure(TensorRef.of(np.asarray(golden)), TensorRef.of(np.asarray(npu)), **options)


def by_the_book(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """The vendor's formulas word by word, x the NPU's and y golden's, in long doubles."""
    x, y = x.astype(np.longdouble).ravel(), y.astype(np.longdouble).ravel()
    d = np.abs(x - y)
    relative = np.where(np.abs(y) > 2.220446e-16, np.abs(x / np.where(y == 0, 1, y) - 1), 0)
    p = np.maximum((x - x.min()) / (x.max() - x.min()), np.longdouble(np.finfo(np.float32).eps))
    q = np.maximum((y - y.min()) / (y.max() - y.min()), np.longdouble(np.finfo(np.float32).eps))
    p, q = p / p.sum(), q / q.sum()
    return {
        "CosineSimilarity": float((x * y).sum() / np.sqrt((x * x).sum()) / np.sqrt((y * y).sum())),
        "MaxAbsoluteError": float(d.max()),
        "AccumulatedRelativeError": float(relative.sum()),
        "RelativeEuclideanDistance": float(np.sqrt((d * d).sum() / (y * y).sum())),
        "KullbackLeiblerDivergence": float((p * np.log(p / q)).sum()),
        "MeanNpu": float(x.mean()), "StdNpu": float(x.std()),
        "MeanGolden": float(y.mean()), "StdGolden": float(y.std()),
        "MeanAbsoluteError": float(d.mean()),
        "RootMeanSquareError": float(np.sqrt((d * d).mean())),
        "MaxRelativeError": float(relative.max()),
        "MeanRelativeError": float(relative.mean()),
        "SNR(dB)": float(10 * np.log10((y * y).sum() / (d * d).sum())),
        "MismatchRatio": float((d > 1e-3 + 1e-2 * np.abs(y)).mean()),
    }


def test_metrics_agree_with_the_formulas_in_long_doubles() -> None:
    rng = np.random.default_rng(7)
    y = rng.normal(size=(3, 50, 41)).astype(np.float32)
    x = (y + rng.normal(size=y.shape) * 1e-3).astype(np.float16)
    found = measured(y, x).metrics
    for name, value in by_the_book(x, y).items():
        assert math.isclose(found[name], value, rel_tol=1e-9, abs_tol=1e-12), name


def test_vendors_names_come_first_and_in_its_order() -> None:
    assert tuple(dict.fromkeys(metric.column or metric.name for metric in METRICS if metric.vendor)) == (
        "CosineSimilarity", "MaxAbsoluteError", "AccumulatedRelativeError", "RelativeEuclideanDistance",
        "KullbackLeiblerDivergence", "StandardDeviation", "MeanAbsoluteError", "RootMeanSquareError",
        "MaxRelativeError", "MeanRelativeError",
    )
    assert [metric.name for metric in METRICS if not metric.vendor] == [
        "NanNpu", "NanGolden", "InfNpu", "InfGolden", "Fp16Overflow", "MaxErrorIndex", "SNR(dB)", "MismatchRatio",
        "Floor", "ErrorOverFloor",
    ]
    assert all(metric.says and metric.blind_to for metric in METRICS)
    assert list(measured([1.0], [1.0]).metrics) == [metric.name for metric in METRICS if not metric.held]


def test_result_does_not_depend_on_how_the_tensor_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    y = rng.normal(size=(1, 40, 33, 17)).astype(np.float32)
    x = (y * (1 + rng.normal(size=y.shape) * 1e-3)).astype(np.float32)
    stored = layouts.to_stored(x, "NCHW", "NC1HWC0", 16)
    npu = TensorRef.of(stored, "NC1HWC0").seen_as(y.shape, "NCHW")
    whole = measure(TensorRef.of(y), npu)
    for read, chunk in ((1000, 77), (4096, 4096), (1, 1 << 16)):
        monkeypatch.setattr(measuring, "READ", read)
        monkeypatch.setattr(measuring, "CHUNK", chunk)
        cut = measure(TensorRef.of(y), npu)
        assert cut.max_error_index == whole.max_error_index
        for name, value in whole.metrics.items():
            assert math.isclose(cut.metrics[name], value, rel_tol=1e-12, abs_tol=1e-15), name


@given(
    hnp.arrays(np.float32, hnp.array_shapes(max_dims=4, max_side=6), elements=st.floats(-1e4, 1e4, width=32)),
    st.integers(0, 2**32 - 1),
)
def test_identical_tensors_have_no_error_whatever_they_hold(values: np.ndarray, seed: int) -> None:
    found = measured(values, values.copy())
    for name in ("MaxAbsoluteError", "RelativeEuclideanDistance", "MeanRelativeError", "MismatchRatio"):
        assert found.metrics[name] == 0
    assert found.metrics["KullbackLeiblerDivergence"] == 0
    assert math.isclose(found.metrics["CosineSimilarity"], 1, rel_tol=1e-12)
    assert found.metrics["SNR(dB)"] == math.inf


@given(
    hnp.arrays(np.int64, 20, elements=st.integers(-(2**63), 2**63 - 1)),
    hnp.arrays(np.int64, 20, elements=st.integers(-(2**63), 2**63 - 1)),
)
def test_differences_of_64_bit_integers_are_exact(golden: np.ndarray, npu: np.ndarray) -> None:
    found = measured(golden, npu)
    exact = [abs(int(a) - int(b)) for a, b in zip(golden, npu, strict=True)]
    assert found.metrics["MaxAbsoluteError"] == float(max(exact))
    assert found.sums.mismatches == sum(d != 0 for d in exact)


@pytest.mark.parametrize(("golden", "npu", "error"), [
    (np.int64(2**62), np.int64(2**62 + 1), 1),
    (np.uint64(2**64 - 1), np.uint64(2**64 - 3), 2),
    (np.uint64(2**64 - 1), np.int64(-1), 2**64),
    (np.int64(-(2**63)), np.int64(2**63 - 1), 2**64 - 1),
    (np.int64(2**53 + 1), np.int32(7), 2**53 - 6),
])
def test_integers_beyond_2_to_53_are_subtracted_exactly(golden: Any, npu: Any, error: int) -> None:
    found = measured([golden], [npu])
    assert found.metrics["MaxAbsoluteError"] == float(error)
    assert found.sums.mismatches == 1


def test_unsigned_bytes_do_not_wrap() -> None:
    found = measured(np.array([1, 0, 255], np.uint8), np.array([0, 1, 255], np.uint8))
    assert found.metrics["MaxAbsoluteError"] == 1
    assert found.metrics["MeanAbsoluteError"] == 2 / 3
    assert found.metrics["MismatchRatio"] == 2 / 3


@pytest.mark.parametrize("factor", [1e200, 1e-200, 1e300, 5e-310])
def test_extreme_float64_values_neither_overflow_nor_vanish(factor: float) -> None:
    y = np.array([1.0, -2.0, 3.0, 0.5]) * factor
    same = measured(y, y.copy()).metrics
    assert same["RelativeEuclideanDistance"] == 0
    assert math.isclose(same["CosineSimilarity"], 1, rel_tol=1e-12)
    off = measured(y, y * 1.25).metrics
    assert math.isclose(off["RelativeEuclideanDistance"], 0.25, rel_tol=1e-6)
    assert math.isclose(off["MeanRelativeError"], 0.25, rel_tol=1e-6)
    assert math.isclose(off["MaxAbsoluteError"], 0.75 * factor, rel_tol=1e-6)
    assert math.isclose(off["MeanGolden"], y.mean(), rel_tol=1e-6)


def test_scaling_both_sides_changes_no_relative_metric() -> None:
    rng = np.random.default_rng(1)
    y, e = rng.normal(size=500), rng.normal(size=500) * 1e-2
    small = measured(y * 2.0**-900, (y + e) * 2.0**-900).metrics
    plain = measured(y, y + e).metrics
    for name in ("CosineSimilarity", "RelativeEuclideanDistance", "SNR(dB)", "KullbackLeiblerDivergence"):
        assert math.isclose(small[name], plain[name], rel_tol=1e-9), name


def test_complex_numbers_are_compared_as_such() -> None:
    y = np.array([1 + 2j, -3j, 2, 4 - 1j], np.complex64)
    x = y + np.array([0, 0.5j, 0, 0], np.complex64)
    found = measured(y, x)
    assert found.metrics["MaxAbsoluteError"] == 0.5
    assert math.isclose(found.metrics["RelativeEuclideanDistance"], 0.5 / np.linalg.norm(y), rel_tol=1e-6)
    assert found.max_error_index == (1,)
    assert math.isnan(found.metrics["KullbackLeiblerDivergence"])
    turned = measured(y, y * 1j)  # same magnitudes, other phase
    assert abs(turned.metrics["CosineSimilarity"]) < 1e-6
    assert turned.metrics["MismatchRatio"] == 1


def test_bools_have_a_mismatch_count_and_nothing_else() -> None:
    found = measured([[True, False], [True, True]], [[True, True], [True, False]])
    assert found.sums.mismatches == 2
    assert found.metrics["MismatchRatio"] == 0.5
    assert found.max_error_index == (0, 1)
    assert math.isnan(found.metrics["CosineSimilarity"])


def test_positions_that_are_not_finite_are_counted_and_left_out() -> None:
    y = np.array([1, np.nan, np.inf, 4, np.nan, -np.inf, 7, 8], np.float32)
    x = np.array([1, np.nan, np.inf, np.nan, 5, np.inf, 7.5, np.inf], np.float32)
    found = measured(y, x)
    assert (found.sums.count, found.sums.finite, found.sums.agreeing, found.sums.nonfinite) == (8, 2, 2, 4)
    assert found.first_nonfinite == (3,)
    assert [found.metrics[name] for name in ("NanNpu", "NanGolden", "InfNpu", "InfGolden")] == [2, 2, 3, 2]
    assert found.metrics["MaxAbsoluteError"] == 0.5
    assert math.isclose(found.metrics["RelativeEuclideanDistance"], 0.5 / math.sqrt(50))
    assert found.metrics["MismatchRatio"] == 5 / 8


def test_nothing_finite_gives_nan_and_counts() -> None:
    found = measured(np.full(3, np.nan, np.float32), np.zeros(3, np.float32))
    assert (found.sums.finite, found.sums.nonfinite) == (0, 3)
    assert math.isnan(found.metrics["CosineSimilarity"])


def test_empty_tensors_give_nan_and_zero_counts() -> None:
    found = measured(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float16))
    assert found.sums.count == 0
    assert math.isnan(found.metrics["RelativeEuclideanDistance"])


def test_saturated_and_infinite_places_are_overflow_only_where_golden_lies_beyond() -> None:
    y = np.array([70000, -80000, 65504, 65504, 70000, 100], np.float32)
    x = np.array([65504, -np.inf, 65504, np.inf, -65504, 100], np.float16)
    found = measured(y, x)
    assert (found.sums.overflow, found.first_overflow) == (2, (0,))
    assert (found.sums.nonfinite, found.first_nonfinite) == (1, (3,))
    assert found.metrics["Fp16Overflow"] == 3  # every Inf of float16, and 65504 where golden is larger


@pytest.mark.parametrize(("dtype", "golden"), [("bfloat16", 3.4e38), ("float8_e4m3fn", 500.0), ("hifloat8", 40000.0)])
def test_overflow_is_told_by_the_dtypes_own_largest_value(dtype: str, golden: float) -> None:
    row = DTYPES[dtype]
    x = TensorRef("<memory>", row, (2,), array=np.array([1.0, row.largest], np.float32))
    assert measure(TensorRef.of(np.array([1.0, golden])), x).sums.overflow == 1
    assert measure(TensorRef.of(np.array([1.0, row.largest])), x).sums.overflow == 0


def test_all_zero_golden_is_infinitely_far_from_anything_else() -> None:
    y, x = np.zeros(4, np.float32), np.array([0, 0, 0.1, 0], np.float32)
    found = measured(y, x).metrics
    assert found["RelativeEuclideanDistance"] == found["MaxRelativeError"] == found["MeanRelativeError"] == math.inf
    assert found["SNR(dB)"] == -math.inf
    assert math.isnan(found["CosineSimilarity"])
    assert math.isnan(found["KullbackLeiblerDivergence"])
    both = measured(y, y).metrics
    assert both["RelativeEuclideanDistance"] == 0
    assert both["CosineSimilarity"] == 1


def test_tiny_golden_has_relative_errors_of_its_own_size() -> None:
    y = np.array([1e-20, 2e-20], np.float32)
    assert math.isclose(measured(y, 2 * y).metrics["MaxRelativeError"], 1, rel_tol=1e-6)
    assert math.isclose(measured(y, 2 * y).metrics["RelativeEuclideanDistance"], 1, rel_tol=1e-6)


def test_place_of_the_largest_error_is_in_goldens_coordinates() -> None:
    y = np.zeros((1, 20, 3, 5), np.float32)
    x = y.copy()
    x[0, 17, 2, 1] = 3
    npu = TensorRef.of(layouts.to_stored(x, "NCHW", "NC1HWC0", 16), "NC1HWC0").seen_as(y.shape, "NCHW")
    assert measure(TensorRef.of(y), npu).max_error_index == (0, 17, 2, 1)


def test_dimensions_of_one_may_stand_anywhere() -> None:
    y = np.arange(24, dtype=np.float32).reshape(1, 4, 6)
    assert measured(y, y.reshape(4, 1, 6, 1)).metrics["MaxAbsoluteError"] == 0
    assert measured(y[0, 0], y[0, :1].T).metrics["MaxAbsoluteError"] == 0
    with pytest.raises(ValueError, match="shapes differ"):
        measured(y, y.reshape(6, 4))


def test_transposed_side_is_read_in_goldens_order() -> None:
    y = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    there = TensorRef.of(np.ascontiguousarray(y.transpose(2, 0, 1)))
    found = measure(TensorRef.of(y), TurnedRef.turned(there, (2, 0, 1)))
    assert found.metrics["MaxAbsoluteError"] == 0


def test_valid_region_leaves_the_padding_out() -> None:
    y = np.arange(12, dtype=np.float32).reshape(3, 4)
    x = np.full((5, 4), 1e6, np.float32)
    x[:3] = y
    assert measured(y, x[:3] * np.array([[1], [1], [9]]), extent=(2, 4)).metrics["MaxAbsoluteError"] == 0
    assert measured(x, x, extent=(2, 4)).sums.count == 8


def test_no_warning_of_numpy_gets_out() -> None:
    y = np.array([0, 1e300, np.nan, np.inf, -1e300, 1e-320])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measured(y, -y)
        measured(np.array([1j, complex(np.nan, 1), complex(1, np.inf), 1e300, 1e-300j, 0]), y)
        measured(np.zeros(3), np.ones(3))
        measured(np.array([2**63 - 1, -(2**63)]), np.array([-(2**63), 2**63 - 1]))


def test_blind_spots_are_as_the_table_tells() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=200) + 0.1
    twice = measured(y, 2 * y).metrics
    assert math.isclose(twice["CosineSimilarity"], 1, rel_tol=1e-12)
    assert "scale" in all_metrics()["CosineSimilarity"].blind_to
    assert abs(twice["KullbackLeiblerDivergence"]) < 1e-12
    assert abs(measured(y, y + 1).metrics["KullbackLeiblerDivergence"]) < 1e-12
    assert "offset" in all_metrics()["KullbackLeiblerDivergence"].blind_to
    shuffled = measured(y, rng.permutation(y)).metrics
    assert math.isclose(shuffled["StdNpu"], shuffled["StdGolden"], rel_tol=1e-12)
    assert twice["RelativeEuclideanDistance"] == 1


def test_large_pair_is_compared_in_little_memory(tmp_path: Path) -> None:
    """64 MiB a side in files, in a process of its own: the peak stays far below the sum of both."""
    script = ROOT / "benchmarks" / "memory_compare.py"
    run = subprocess.run(
        [sys.executable, str(script), "--mib", "64", "--folder", str(tmp_path)],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )
    assert "match" in run.stdout
    grown = float(run.stdout.split("grew by")[1].split()[0])
    assert grown < 64, run.stdout
