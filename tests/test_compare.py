"""Two dumps in, a Report out: verdicts, hints, workers, and that one bad pair loses nothing."""

from __future__ import annotations

import math
import os
import pickle
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from device_models import golden, mapping, npu, op, out

import acccmp
from acccmp.comparison.compare import compare, compare_pair
from acccmp.comparison.judging import Thresholds
from acccmp.comparison.pairing import pair
from acccmp.core import layout as layouts
from acccmp.core.dump import Dump, Port
from acccmp.core.tensor import DTYPES, TensorRef
from acccmp.errors import InputError
from acccmp.reports.pair import Pair, Verdict
from acccmp.reports.report import Comparison, Report

RNG = np.random.default_rng(11)
Y = RNG.normal(size=(1, 20, 6, 7)).astype(np.float32)


def chain(*arrays: np.ndarray, **options: object) -> Report:
    """A network of ops n0, n1, ... whose golden is Y each, and what the NPU made of them."""
    names = [f"n{i}" for i in range(len(arrays))]
    return compare(
        golden(dict.fromkeys(names, Y)), npu(dict(zip(names, arrays, strict=True))), **options,  # type: ignore[arg-type]
    )


def test_healthy_network_passes_and_says_that_floors_would_be_sharper() -> None:
    report = chain(Y.astype(np.float16), Y.astype(np.float16))
    assert report.passed
    assert report.exit_code == 0
    assert report.coverage == 1
    assert report.first_bad is None
    assert any("floor would be sharper" in note for note in report.notes)
    assert report.subject["thresholds"] == "default"


def test_floor_is_part_of_the_row_and_of_the_limit() -> None:
    half = Y.astype(np.float16)
    floors = {Port("n0", "output", 0): 2e-4, Port("n1", "output", 0): 1e-3}
    report = chain(half, half * np.float16(1.003), floors=floors)
    assert [row.verdict for row in report.comparisons] == [Verdict.MATCH, Verdict.MATCH]
    assert report["n1"].limit == 4e-3
    assert math.isclose(report["n1"].error_over_floor, report["n1"].error / 1e-3)
    assert not any("floor would be sharper" in note for note in report.notes)
    assert not chain(half, half * np.float16(1.01), floors=floors).passed


def test_first_bad_layer_is_the_first_in_execution_order() -> None:
    wrong = Y * np.float32(3)
    report = chain(Y, wrong, Y * np.float32(1.5), Y)
    assert report.first_bad is not None
    assert report.first_bad.port == Port("n1", "output", 0)
    assert [str(row.port) for row in report.worst(1)] == ["n1:output:0"]
    assert report.passed  # the output matches; inner drift is a warning
    assert [row.port.node for row in report.warnings] == ["n1", "n2"]
    assert not chain(Y, wrong, Y, strict=True).passed


def test_vendors_thresholds_judge_by_the_rule_of_five() -> None:
    report = chain(Y, Y * np.float32(1.06), thresholds=Thresholds.vendor())
    assert report["n1"].judged_by == "RelativeEuclideanDistance"
    assert report["n1"].limit == 0.05
    assert not report.passed


def test_int8_against_float_is_not_comparable_but_its_numbers_are_shown() -> None:
    report = chain(Y, np.clip(np.round(Y * 20), -128, 127).astype(np.int8), Y)
    row = report["n1"]
    assert row.verdict is Verdict.NOT_COMPARABLE
    assert row.metrics["CosineSimilarity"] > 0.99
    assert report.passed


def test_int32_inside_a_quantised_part_is_not_comparable_and_elsewhere_a_wrong_dtype() -> None:
    acc = np.round(Y * 1000).astype(np.int32)
    net = mapping(
        op("q", "AscendQuant", [], [out(dtype="DT_INT8")], originals=()),
        op("conv", "Conv2D", ["q:0"], [out("conv", dtype="DT_INT32")], originals=("conv",)),
        op("end", "AscendDequant", ["conv:0"], [out("relu")], originals=("relu",)),
    )
    report = compare(golden({"conv": Y, "relu": Y}), npu({"conv": acc, "end": Y}), mapping=net)
    assert report["conv"].verdict is Verdict.NOT_COMPARABLE
    assert report.passed
    assert chain(acc, Y)["n0"].verdict is Verdict.DTYPE


def test_dimensions_of_one_are_noted_and_other_shapes_are_a_verdict() -> None:
    report = chain(Y.reshape(20, 6, 1, 7), Y.reshape(20, 7, 6))
    assert report["n0"].verdict is Verdict.MATCH
    assert any("dimensions of 1" in note for note in report["n0"].notes)
    assert report["n1"].verdict is Verdict.SHAPE
    assert "20x7x6" in report["n1"].reason
    assert not report.passed


def test_valid_region_leaves_the_padding_of_a_batch_out() -> None:
    padded = np.concatenate([Y, Y * 100])
    assert chain(padded)["n0"].verdict is Verdict.SHAPE
    report = chain(padded, valid=["n0=0:1"])
    assert report["n0"].verdict is Verdict.MATCH
    assert any("only the first 1 along axis 0" in note for note in report["n0"].notes)
    blocked = TensorRef.of(layouts.to_stored(padded, "NCHW", "NC1HWC0", 16), "NC1HWC0")
    stated = blocked.seen_as(padded.shape, "NCHW")
    report = compare(golden({"n0": Y}), npu({"n0": stated}), valid=["n0=0:1"])
    assert report["n0"].verdict is Verdict.MATCH, report["n0"].reason


def test_empty_tensors_match_only_when_both_are_empty() -> None:
    nothing = np.zeros((0, 4), np.float32)
    report = compare(golden({"a": nothing, "b": nothing}), npu({"a": nothing, "b": np.zeros((1, 4), np.float32)}))
    assert report["a"].verdict is Verdict.MATCH
    assert report["b"].verdict is Verdict.SHAPE


def test_nothing_in_common_is_not_passed() -> None:
    report = compare(golden({"a": Y}), npu({"b": Y}))
    assert not report.passed
    assert report.exit_code == 3


def test_empty_dumps_and_exchanged_sides_are_one_line_errors() -> None:
    with pytest.raises(InputError, match=r"npu dump .* has no tensors"):
        compare(golden({"a": Y}), npu({}))
    with pytest.raises(InputError, match=r"golden dump .* has no tensors"):
        compare(golden({}), npu({"a": Y}))
    with pytest.raises(InputError, match="exchange them"):
        compare(npu({"a": Y}), golden({"a": Y}))


# -- damage ------------------------------------------------------------------------------------------------------


def on_disk(folder: Path, array: np.ndarray, name: str) -> TensorRef:
    path = folder / name
    path.write_bytes(array.tobytes())
    return TensorRef(str(path), DTYPES[array.dtype.name], array.shape)


def test_file_that_shrinks_after_it_was_listed_is_unreadable_and_the_others_stay(tmp_path: Path) -> None:
    refs = {f"n{i}": on_disk(tmp_path, Y, f"n{i}.bin") for i in range(4)}
    os.truncate(tmp_path / "n1.bin", 100)
    (tmp_path / "n2.bin").unlink()
    report = compare(golden(dict.fromkeys(refs, Y)), npu(refs))
    assert [row.verdict for row in report.comparisons] == [
        Verdict.MATCH, Verdict.UNREADABLE, Verdict.UNREADABLE, Verdict.MATCH,
    ]
    assert "n1.bin" in report["n1"].reason
    assert "n2.bin" in report["n2"].reason
    assert not report.passed


def test_layout_that_does_not_fit_is_the_row_of_that_pair_only() -> None:
    crooked = TensorRef("<memory>", DTYPES["float16"], (1, 2, 3, 3), layout="FRACTAL_NZ", array=np.zeros((1, 2, 3, 3)))
    report = compare(golden({"a": np.zeros((100, 100), np.float32), "b": Y}), npu({"a": crooked, "b": Y}))
    assert report["a"].verdict is Verdict.SHAPE
    assert report["b"].verdict is Verdict.MATCH


def test_type_without_a_meaning_is_a_verdict() -> None:
    ref = TensorRef("<memory>", DTYPES["hifloat4"], Y.shape)
    report = compare(golden({"a": Y, "b": Y}), npu({"a": ref, "b": Y}))
    assert report["a"].verdict is Verdict.DTYPE
    assert "hifloat4" in report["a"].reason


# -- workers -----------------------------------------------------------------------------------------------------


def many(count: int = 40) -> tuple[Dump, Dump]:
    rng = np.random.default_rng(5)
    device = {f"n{i}": (Y + rng.normal(size=Y.shape) * 0.02 * (i % 5)).astype(np.float16) for i in range(count)}
    return golden({f"n{i}": Y for i in range(count)}), npu(device)


def told(rows: tuple[Comparison, ...]) -> list[object]:
    return [(row.port, row.verdict, row.metrics, row.error, row.reason, row.notes) for row in rows]


@pytest.mark.parametrize("workers", [
    lambda: ThreadPoolExecutor(4), lambda: ProcessPoolExecutor(2),
], ids=["threads", "processes"])
def test_result_does_not_depend_on_who_computes_it(workers: object) -> None:
    gold, device = many()
    alone = compare(gold, device)
    with workers() as executor:  # type: ignore[operator]
        assert told(compare(gold, device, executor=executor).comparisons) == told(alone.comparisons)


def test_progress_counts_every_pair() -> None:
    seen: list[tuple[str, int, int]] = []
    gold, device = many(10)
    compare(gold, device, progress=lambda phase, done=0, total=0: seen.append((phase, done, total)))
    assert seen == [("comparing", i, 10) for i in range(11)]


def die(*_: object) -> None:
    os._exit(1)


class OneDies(ProcessPoolExecutor):
    """A pool in which the second batch kills its worker."""

    calls = 0

    def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]
        self.calls += 1
        return super().submit(die if self.calls == 2 else fn, *args, **kwargs)


def test_worker_that_dies_loses_no_rows() -> None:
    gold, device = many(40)
    with OneDies(1) as executor:
        report = compare(gold, device, executor=executor)
    assert len(report) == 40
    lost = [row for row in report.comparisons if row.verdict is Verdict.UNREADABLE]
    assert lost
    assert "worker process died" in lost[0].reason
    assert not report.passed


def test_pairs_travel_between_processes() -> None:
    (found,) = pair(golden({"a": Y}), npu({"a": Y})).pairs
    assert compare_pair(pickle.loads(pickle.dumps(found))).verdict is Verdict.MATCH


def test_executor_is_any_executor() -> None:
    assert issubclass(ThreadPoolExecutor, Executor)
    assert compare_pair(Pair(Port("a", "output", 0), verdict=Verdict.NO_NPU)).verdict is Verdict.NO_NPU


# -- hints -------------------------------------------------------------------------------------------------------


def hint(wrong: np.ndarray, gold: np.ndarray = Y) -> str:
    """What the report says of a second layer that comes out as `wrong`."""
    first = RNG.normal(size=gold.shape).astype(np.float32)
    report = acccmp.compare(golden({"n0": first, "n1": gold}), npu({"n0": first, "n1": wrong}))
    assert report["n1"].is_bad
    return report["n1"].hint


def test_hints_tell_what_the_numbers_show() -> None:
    assert hint(np.zeros_like(Y)) == "every element of the NPU's is 0"
    assert hint(np.full_like(Y, 3)) == "every element of the NPU's is 3"
    assert "golden x 0.5" in hint(Y * np.float32(0.5))
    assert "golden + 2" in hint(Y + np.float32(2))
    assert "outgrow float16" in hint(np.clip(Y * 1e6, -65504, 65504).astype(np.float16), Y * np.float32(1e6))
    few = Y.copy()
    few[0, 3, 2, 1] = 1e4
    assert "only 1 element is wrong of 840" in hint(few)
    big = RNG.normal(size=(1, 8, 8, 8)).astype(np.float32)
    assert "axes in the order (0, 1, 3, 2)" in hint(np.ascontiguousarray(big.transpose(0, 1, 3, 2)), big)
    assert "shifted by 1 along axis 3" in hint(np.roll(big, 1, 3), big)
    border = big.copy()
    border[..., 0, :] = border[..., :, -1] = 0
    assert "border" in hint(border, big)
    some = big.copy()
    some[:, 2] = big[:, 5]
    assert hint(some, big) == "only 1 of 8 channels (axis 1: 2) are wrong"
    some[:, 2] = 0
    assert "all 0 there" in hint(some, big)
    half = big.copy().reshape(-1)
    half[256:] = RNG.normal(size=256)
    assert "right up to element 256 of 512, wrong from there on" in hint(half.reshape(4, 128), big.reshape(4, 128))
    factors = np.linspace(0.5, 2, 8, dtype=np.float32)[None, :, None, None]
    assert "each channel" in hint(big * factors, big)


@pytest.mark.parametrize("error", ["noise", "one channel of noise", "low rank", "NaN", "slightly scaled noise"])
def test_where_the_numbers_show_nothing_certain_no_hint_is_given(error: str) -> None:
    big = RNG.normal(size=(1, 8, 16, 16)).astype(np.float32)
    wrong = big.copy()
    if error == "noise":
        wrong *= (1 + RNG.normal(size=big.shape) * 3e-3).astype(np.float32)
    elif error == "one channel of noise":  # it is told as that channel, never as rounding
        wrong[:, 3] += RNG.normal(size=(1, 16, 16)).astype(np.float32) * 0.01
    elif error == "low rank":
        wrong += (np.outer(RNG.normal(size=16), RNG.normal(size=16)) * 0.01).astype(np.float32)
    elif error == "NaN":
        wrong[0, 1, 2, 3] = np.nan
    else:
        wrong = (big * 1.002 + RNG.normal(size=big.shape) * 4e-3).astype(np.float32)
    said = hint(wrong, big)
    assert said == ("only 1 of 8 channels (axis 1: 3) are wrong" if error == "one channel of noise" else "")


def test_a_tensor_that_equals_what_feeds_it_is_called_no_stale_buffer() -> None:
    """A Concat of one, an Identity, a Relu of positive numbers."""
    first, second, third = (RNG.normal(size=(4, 5)).astype(np.float32) for _ in range(3))
    report = acccmp.compare(
        golden({"a": first, "b": second, "c": third}), npu({"a": first, "b": second, "c": first}),
    )
    assert report["c"].is_bad
    assert report["c"].hint == ""


def test_hints_change_no_verdict_and_stay_with_the_first_bad_layer() -> None:
    layers = {f"n{i}": Y for i in range(12)}
    scaled = {name: y * np.float32(2 + i) for i, (name, y) in enumerate(layers.items())}
    report = acccmp.compare(golden(layers), npu(scaled))
    assert [row.port.node for row in report.comparisons if row.hint] == ["n0"]
    assert {row.verdict for row in report.comparisons} == {Verdict.DRIFT}


# -- independent answers -----------------------------------------------------------------------------------------


def test_blocked_tensors_match_only_what_numpy_says_is_close() -> None:
    """Whatever order the NPU stores, the verdict is that of a plain numpy check of the decoded values."""
    rng = np.random.default_rng(23)
    for trial in range(30):
        shape = tuple(int(n) for n in rng.integers(1, 20, size=4))
        y = rng.normal(size=shape).astype(np.float32)
        x = y.astype(np.float16)
        if trial % 2:
            x = (y * (1 + rng.normal(size=shape) * 0.2)).astype(np.float16)
        ref = TensorRef.of(layouts.to_stored(x, "NCHW", "NC1HWC0", 16), "NC1HWC0").seen_as(shape, "NCHW")
        row = compare(golden({"a": y}), npu({"a": ref}))["a"]
        wide = x.astype(np.float64)
        expected = np.linalg.norm(wide - y) <= 5e-2 * np.linalg.norm(y)
        assert (row.verdict is Verdict.MATCH) == expected, shape
        assert row.max_error_index is not None
        assert math.isclose(abs(wide - y)[row.max_error_index], row.metrics["MaxAbsoluteError"], rel_tol=1e-12)


def test_report_keeps_the_tensors_in_goldens_order() -> None:
    ref = TensorRef.of(layouts.to_stored(Y, "NCHW", "NC1HWC0", 16), "NC1HWC0")
    row = compare(golden({"a": Y}), npu({"a": ref}))["a"]
    assert row.npu is not None
    assert (row.npu.numpy() == Y).all()
    assert replace(row, notes=()).golden is not None
