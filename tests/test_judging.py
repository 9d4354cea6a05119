"""Verdicts: their order, their limits, and that nothing which cannot be judged passes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import acccmp
from acccmp.comparison.judging import FIXED, Judgement, Rule, Thresholds, judge, judge_dtypes
from acccmp.comparison.measure import measure
from acccmp.core.dump import Dump, Port
from acccmp.core.tensor import DTYPES, DType, TensorRef
from acccmp.errors import InputError
from acccmp.reports.pair import Verdict


def judged(
    golden: Any, npu: Any, thresholds: Thresholds | None = None, *, dtype: str | None = None, **options: Any,
) -> Judgement:
    y, x = TensorRef.of(np.asarray(golden)), TensorRef.of(np.asarray(npu))
    row = DTYPES[dtype] if dtype else x.dtype
    return judge(
        measure(y, x, npu_dtype=row), y.dtype, row, thresholds or Thresholds.default(), **options,
    )


@pytest.mark.parametrize(("golden", "npu", "verdict"), [
    ("float32", "float16", None),
    ("float64", "bfloat16", None),
    ("int64", "int32", None),
    ("uint8", "int64", None),
    ("bool", "bool", None),
    ("complex64", "complex32", None),
    ("float32", "int8", Verdict.NOT_COMPARABLE),
    ("float32", "int16", Verdict.NOT_COMPARABLE),
    ("float32", "uint8", Verdict.NOT_COMPARABLE),
    ("float32", "int4", Verdict.NOT_COMPARABLE),
    ("float32", "qint32", Verdict.NOT_COMPARABLE),
    ("float32", "int32", Verdict.DTYPE),
    ("int64", "float16", None),
    ("bool", "int8", None),
    ("uint8", "bool", None),
    ("bool", "int32", Verdict.DTYPE),
    ("bool", "float16", Verdict.DTYPE),
    ("qint8", "float16", Verdict.NOT_COMPARABLE),
    ("complex64", "float32", Verdict.DTYPE),
    ("resource", "resource", Verdict.NOT_COMPARABLE),
    ("float32", "undefined", Verdict.DTYPE),
    ("float32", "hifloat4", Verdict.DTYPE),
])
def test_widths_may_differ_and_kinds_may_not(golden: str, npu: str, verdict: Verdict | None) -> None:
    found = judge_dtypes(DTYPES[golden], DTYPES[npu])
    assert (found.verdict if found else None) == verdict
    assert found is None or golden in found.reason or npu in found.reason


def with_distance(distance: float, dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray]:
    y = np.ones(1000, np.float64)
    return y, (y * (1 + distance)).astype(dtype)


@pytest.mark.parametrize(("dtype", "limit"), [
    ("float32", 1e-3), ("float16", 5e-2), ("bfloat16", 2e-1), ("float8_e4m3fn", 2e-1), ("hifloat8", 2e-1),
])
def test_limits_without_a_floor_are_fixed_by_stored_dtype(dtype: str, limit: float) -> None:
    assert FIXED[dtype] == limit
    below, above = with_distance(limit * 0.9), with_distance(limit * 1.1)
    assert judged(*below, dtype=dtype).verdict is Verdict.MATCH
    found = judged(*above, dtype=dtype)
    assert found.verdict is Verdict.DRIFT
    assert found.limit == limit
    assert math.isclose(found.error, limit * 1.1, rel_tol=1e-4)


def test_limit_with_a_floor_is_four_times_the_floor_but_at_least_the_dtypes_epsilon() -> None:
    y, x = with_distance(1e-2, np.float16)
    assert judged(y, x, floor=2e-3).verdict is Verdict.DRIFT
    assert judged(y, x, floor=2.6e-3).verdict is Verdict.MATCH
    assert judged(y, x, floor=2e-3).limit == 8e-3
    assert judged(y, x, floor=0.0).limit == DTYPES["float16"].epsilon == 2.0**-10
    assert "floor" in judged(y, x, floor=2e-3).reason


@pytest.mark.parametrize("row", [row for row in DTYPES.values() if row.kind in ("float", "complex")], ids=str)
@pytest.mark.parametrize("thresholds", [None, Thresholds("mine", fixed={"float16": 0.04})], ids=["default", "mine"])
def test_every_float_dtype_has_a_limit(row: DType, thresholds: Thresholds | None) -> None:
    golden = TensorRef.of(np.array([1, 1], row.numpy))
    off = TensorRef("<memory>", row, (2,), array=np.array([1, 2], row.numpy))
    dumps = [Dump({Port("op", "output", 0): ref}, kind=kind) for kind, ref in (("golden", golden), ("npu", off))]
    (found,) = acccmp.compare(*dumps, thresholds=thresholds).comparisons
    assert found.verdict is Verdict.DRIFT
    assert 0 < found.limit < found.error
    assert f"is over the limit {found.limit:.3g}" in found.reason


def test_a_limit_of_a_dtype_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="unknown float17"):
        Thresholds("mine", fixed={"float17": 0.1})


def test_cast_back_to_float32_is_judged_by_the_dtype_it_came_from() -> None:
    y, x = with_distance(1e-2)
    assert judged(y, x).verdict is Verdict.DRIFT
    assert judged(y, x, coarsest=DTYPES["float16"]).verdict is Verdict.MATCH


def test_integers_and_bools_must_be_equal() -> None:
    y = np.arange(10)
    assert judged(y, y.astype(np.int32)).verdict is Verdict.MATCH
    off = y.copy()
    off[3] += 1
    found = judged(y, off)
    assert (found.verdict, found.judged_by, found.limit) == (Verdict.DRIFT, "MismatchRatio", 0)
    assert "1 of 10" in found.reason
    assert "[3]" in found.reason
    assert judged([True, False], [True, True]).verdict is Verdict.DRIFT
    assert judged([True, False], [True, False]).verdict is Verdict.MATCH


def test_overflow_comes_before_nonfinite_and_nonfinite_before_drift() -> None:
    y = np.array([70000, 1, 1, 1], np.float32)
    assert judged(y, np.array([np.inf, np.nan, 9, 1], np.float16)).verdict is Verdict.OVERFLOW
    assert judged(y, np.array([7000, np.nan, 9, 1], np.float16)).verdict is Verdict.NONFINITE
    assert judged(y, np.array([7000, 1, 9, 1], np.float16)).verdict is Verdict.DRIFT


def test_saturation_is_overflow_only_where_golden_lies_beyond() -> None:
    """Chips that saturate store +-65504 for Inf; on others 65504 is a number like any other."""
    assert judged([70000.0, 1], np.array([65504, 1], np.float16)).verdict is Verdict.OVERFLOW
    assert judged([-1e30, 1], np.array([-65504, 1], np.float16)).verdict is Verdict.OVERFLOW
    assert judged([np.inf, 1], np.array([65504, 1], np.float16)).verdict is Verdict.OVERFLOW
    assert judged([65504.0, 1], np.array([65504, 1], np.float16)).verdict is Verdict.MATCH
    assert judged([65000.0, 1], np.array([65504, 1], np.float16)).verdict is Verdict.MATCH


def test_inf_where_golden_is_within_range_is_nonfinite_and_not_overflow() -> None:
    found = judged([100.0, 1], np.array([np.inf, 1], np.float16))
    assert found.verdict is Verdict.NONFINITE
    assert "Inf on the NPU" in found.reason
    assert "[0]" in found.reason


def test_zero_where_golden_is_nan_is_nonfinite() -> None:
    """Chips that saturate turn NaN into 0."""
    assert judged([np.nan, 1.0], np.array([0, 1], np.float16)).verdict is Verdict.NONFINITE


def test_nan_at_the_same_places_matches_with_a_note() -> None:
    found = judged([np.nan, 1.0, np.inf], np.array([np.nan, 1, np.inf], np.float16))
    assert found.verdict is Verdict.MATCH
    assert "2 NaN or Inf at the same places" in found.notes[0]
    assert judged([np.nan, 1.0], np.array([1, np.nan], np.float16)).verdict is Verdict.NONFINITE


def test_nothing_finite_on_both_sides_is_no_match() -> None:
    assert judged([np.nan, np.nan], np.array([np.nan, np.nan], np.float16)).verdict is Verdict.NONFINITE


def test_zero_golden_is_judged_by_the_dtypes_smallest_normal() -> None:
    y = np.zeros(4, np.float32)
    found = judged(y, np.array([0, 6e-5, 0, 0], np.float16))
    assert (found.verdict, found.judged_by) == (Verdict.MATCH, "MaxAbsoluteError")
    assert found.limit == 2.0**-14
    assert judged(y, np.array([0, 7e-5, 0, 0], np.float16)).verdict is Verdict.DRIFT
    assert judged(y, np.ones(4, np.float16)).verdict is Verdict.DRIFT
    assert judged(y + 1e-6, y.astype(np.float16)).verdict is Verdict.MATCH  # too small for float16 to hold
    assert judged(y + 1e-6, y).verdict is Verdict.DRIFT  # not for float32


def test_empty_tensors_match_with_a_note() -> None:
    found = judged(np.zeros((0, 4)), np.zeros((0, 4)))
    assert found.verdict is Verdict.MATCH
    assert found.notes == ("both tensors are empty",)


def test_vendors_rule_of_five() -> None:
    vendor = Thresholds.vendor()
    rng = np.random.default_rng(0)
    y = rng.normal(size=1000)
    assert judged(y, y * 1.001, vendor).verdict is Verdict.MATCH
    found = judged(y, y + rng.normal(size=1000) * 0.06, vendor)
    assert found.verdict is Verdict.DRIFT
    assert "RelativeEuclideanDistance" in found.reason
    assert judged(y * 1000, y * 1000 + 2, vendor).reason.startswith("RootMeanSquareError")
    assert judged(y, -y, vendor).verdict is Verdict.DRIFT


def test_vendors_rule_fails_on_nan_where_the_vendors_tool_passes_it() -> None:
    found = judged(np.zeros(4), np.array([1e-9, 0, 0, 0]), Thresholds.vendor())
    assert found.verdict is Verdict.DRIFT
    assert "CosineSimilarity nan" in found.reason
    assert judged([np.nan, 1.0], [1.0, 1.0], Thresholds.vendor()).verdict is Verdict.NONFINITE


def thresholds(tmp_path: Path, text: str) -> Thresholds:
    path = tmp_path / "limits.toml"
    path.write_text(text)
    return Thresholds.from_toml(path)


def test_file_sets_limits_by_op_type_name_and_dtype(tmp_path: Path) -> None:
    found = thresholds(tmp_path, """
        floor_factor = 8
        [fixed]
        float16 = 0.5
        [[rule]]
        op_type = "Soft*"
        MaxAbsoluteError = 0.25
        [[rule]]
        name = "head/*"
        dtype = "float16"
        CosineSimilarity = 0.9
    """)
    y, x = with_distance(0.3, np.float16)
    assert judged(y, x, found).verdict is Verdict.MATCH  # the table [fixed]
    softmax = judged(y, x, found, op_type="SoftmaxV2")
    assert (softmax.verdict, softmax.judged_by) == (Verdict.DRIFT, "MaxAbsoluteError")
    both = judged(y, x, found, op_type="SoftmaxV2", names=("head/softmax",))
    assert both.judged_by == "MaxAbsoluteError"
    head = judged(y, x, found, names=("head/conv",))
    assert (head.verdict, head.judged_by) == (Verdict.MATCH, "CosineSimilarity")
    turned = judged(y, -x, found, names=("head/conv",))
    assert turned.verdict is Verdict.DRIFT
    assert turned.error > turned.limit
    assert judged(y, x, found, floor=0.05).limit == 0.4


def test_a_rule_holds_for_integers_too() -> None:
    given = Thresholds("t", rules=(Rule({"MismatchRatio": 0.5}),))
    assert judged([1, 2, 3], [1, 2, 4], given).verdict is Verdict.MATCH
    assert judged([True, False], [True, True], given).verdict is Verdict.MATCH


def test_file_may_build_on_the_vendors_rule(tmp_path: Path) -> None:
    found = thresholds(tmp_path, 'base = "vendor"')
    y, x = with_distance(0.06)
    assert judged(y, x, found).verdict is Verdict.DRIFT


@pytest.mark.parametrize(("text", "told"), [
    ("flor_factor = 2", "flor_factor"),
    ('[[rule]]\nop = "Conv"\nCosineSimilarity = 0.9', "unknown op"),
    ("[[rule]]\nCosine = 0.9", "unknown Cosine"),
    ('[[rule]]\nop_type = "Conv"', "sets no metric"),
    ("[[rule]]\nMaxAbsoluteError = -1", "must be from 0 to below"),
    ("[[rule]]\nMeanNpu = 3", "tells nothing of a difference"),
    ("floor_factor = 0", "floor_factor: must be above 0, at most 1000, found 0"),
    ('[[rule]]\nMaxAbsoluteError = "much"', "must be a number"),
    ("[[rule]]\nop_type = 3\nMaxAbsoluteError = 1", "must be a text"),
    ("[fixed]\nfloat17 = 1", "unknown float17"),
    ('base = "strict"', '"vendor"'),
    ("not toml", "not TOML"),
    ("rule = 3", "[[rule]]"),
])
def test_file_that_cannot_be_understood_says_what(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(InputError, match=told.replace("[", r"\[")) as error:
        thresholds(tmp_path, text)
    assert "limits.toml" in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_is_one_line() -> None:
    with pytest.raises(InputError, match="cannot be read"):
        Thresholds.from_toml("nowhere.toml")


def test_the_documented_example_is_valid(tmp_path: Path) -> None:
    text = (Thresholds.from_toml.__doc__ or "").partition("from a file:")[2].partition("Raises")[0]
    found = thresholds(tmp_path, "\n".join(line.strip() for line in text.splitlines()))
    assert len(found.rules) == 1
