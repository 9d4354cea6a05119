"""What the vendor's tool gets wrong about comparing (specs of the Ascend dumps, section 8): a test for each line.

The number in a test's name is the line. Dump files are built here, byte by byte, from the tables of section 1.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import dump_bytes
import numpy as np
import pytest
from dump_bytes import big, header, number

from acccmp.comparison.compare import compare
from acccmp.comparison.judging import Thresholds
from acccmp.comparison.measure import measure
from acccmp.core import layout as layouts
from acccmp.core.tensor import DTYPES, TensorRef
from acccmp.dumps.read import read_dump
from acccmp.mapping.device_map import DeviceMap
from acccmp.models.atc_json import load
from acccmp.reports.pair import Verdict
from acccmp.reports.report import Report
from acccmp.reports.report_csv import to_csv

RNG = np.random.default_rng(8)
Y = RNG.normal(size=(1, 20, 6, 7)).astype(np.float32)
NUMBER = {"float32": 1, "float16": 2, "int8": 3, "uint8": 4, "int32": 7, "int64": 8, "bool": 11, "float64": 12,
          "complex64": 16, "string": 13}
FORMAT = {"NCHW": 0, "ND": 2, "NC1HWC0": 3, "FRACTAL_NZ": 29}


# -- a big dump, byte by byte ------------------------------------------------------------------------------------


def output(array: np.ndarray, layout: str = "ND", original: tuple[int, ...] | None = None, dtype: str = "",
           size: int | None = None, address: int = 0) -> bytes:
    """OpOutput, with 9 address."""
    return dump_bytes.output(
        NUMBER[dtype or array.dtype.name], FORMAT[layout], array.shape, array.nbytes if size is None else size,
        original, extra=number(9, address) if address else b"",
    )


def big_dump(name: str, array: np.ndarray, payload: bytes | None = None, **options: Any) -> bytes:
    """u64 header length, DumpData with one output, then the payload."""
    return big(header(name, (output(array, **options),)), array.tobytes() if payload is None else payload)


def file_name(name: str, op_type: str = "Relu", time: int = 1700000000000001) -> str:
    for character in " ./\\":
        name = name.replace(character, "_")
    return f"{op_type}.{name}.1.1.{time}"


def npu_folder(folder: Path, arrays: Mapping[str, np.ndarray | bytes]) -> Path:
    folder.mkdir(parents=True)
    for place, (name, array) in enumerate(arrays.items()):
        raw = array if isinstance(array, bytes) else big_dump(name, array)
        (folder / file_name(name, time=1700000000000001 + place)).write_bytes(raw)
    return folder


def golden_folder(folder: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True)
    for place, (name, array) in enumerate(arrays.items()):
        flat = name.replace("/", "_").replace(".", "_")
        np.save(folder / f"{flat}.0.{1700000000000001 + place}.npy", array)
    return folder


def compared(tmp_path: Path, golden: Mapping[str, np.ndarray], npu: Mapping[str, Any], **options: Any) -> Report:
    return compare(
        read_dump(golden_folder(tmp_path / "golden", golden)), read_dump(npu_folder(tmp_path / "npu", npu)), **options,
    )


def metrics(golden: np.ndarray, npu: np.ndarray) -> Mapping[str, float]:
    return measure(TensorRef.of(golden), TensorRef.of(npu)).metrics


# -- correctness -------------------------------------------------------------------------------------------------


def test_01_int64_is_not_rounded_to_float32(tmp_path: Path) -> None:
    y, x = np.array([16777216, 2**60], np.int64), np.array([16777217, 2**60 + 1], np.int64)
    report = compared(tmp_path, {"a": y}, {"a": x})
    assert report["a"].verdict is Verdict.DRIFT
    assert report["a"].metrics["MaxAbsoluteError"] == 1
    assert report["a"].metrics["MismatchRatio"] == 1


def test_01_identical_float64_of_1e200_has_no_nan(tmp_path: Path) -> None:
    y = np.array([1e200, -2e200, 3e200])
    row = compared(tmp_path, {"a": y}, {"a": y})["a"]
    assert row.verdict is Verdict.MATCH
    assert row.metrics["RelativeEuclideanDistance"] == 0
    assert not any(math.isnan(row.metrics[name]) for name in ("CosineSimilarity", "RootMeanSquareError", "StdNpu"))


def test_01_complex_keeps_its_imaginary_part(tmp_path: Path) -> None:
    y = np.array([1 + 1j, 2 - 3j], np.complex64)
    report = compared(tmp_path, {"a": y, "b": y}, {"a": y.conj(), "b": y})
    assert report["a"].verdict is Verdict.DRIFT
    assert report["a"].metrics["MaxAbsoluteError"] == 6
    assert report["b"].verdict is Verdict.MATCH


def test_02_zero_golden_against_random_npu_has_errors() -> None:
    found = metrics(np.zeros(100, np.float32), RNG.normal(size=100).astype(np.float32))
    assert found["RelativeEuclideanDistance"] == found["MaxRelativeError"] == found["MeanRelativeError"] == math.inf


def test_02_zero_golden_against_random_npu_is_drift(tmp_path: Path) -> None:
    report = compared(tmp_path, {"a": np.zeros_like(Y)}, {"a": Y})
    assert report["a"].verdict is Verdict.DRIFT
    assert not compare(
        read_dump(tmp_path / "golden"), read_dump(tmp_path / "npu"), thresholds=Thresholds.vendor(),
    ).passed


def test_02_nan_at_the_same_places_leaves_the_other_errors_visible() -> None:
    y = np.array([np.nan, 1, 2], np.float32)
    assert metrics(y, np.array([np.nan, 1, 3], np.float32))["MaxRelativeError"] == 0.5


def test_03_cosine_of_a_single_element_sees_its_sign() -> None:
    for dims in ((), (1,), (1, 1, 1, 1)):
        y, x = np.full(dims, 3, np.float32), np.full(dims, -7, np.float32)
        assert metrics(y, x)["CosineSimilarity"] == -1
        assert math.isclose(metrics(y, -x)["CosineSimilarity"], 1)


@pytest.mark.parametrize("thresholds", [Thresholds.default(), Thresholds.vendor()], ids=["default", "vendor"])
def test_04_an_op_whose_output_is_all_nan_is_never_fine(tmp_path: Path, thresholds: Thresholds) -> None:
    report = compared(
        tmp_path, {"a": Y, "b": Y}, {"a": np.full(Y.shape, np.nan, np.float16), "b": Y}, thresholds=thresholds,
    )
    assert report["a"].verdict is Verdict.NONFINITE
    assert report["a"].metrics["NanNpu"] == Y.size
    assert not report.passed
    assert report.first_bad is report["a"]


def test_05_scale_and_offset_that_kl_cannot_see_are_drift(tmp_path: Path) -> None:
    y = np.abs(Y) + 1
    report = compared(tmp_path, {"a": y, "b": y}, {"a": 2 * y, "b": y + np.float32(0.1)})
    for name in "ab":
        assert report[name].metrics["KullbackLeiblerDivergence"] < 1e-6
        assert report[name].verdict is Verdict.DRIFT


def test_10_bytes_do_not_wrap(tmp_path: Path) -> None:
    y, x = np.array([1, 0, 200], np.uint8), np.array([0, 1, 200], np.uint8)
    row = compared(tmp_path, {"a": y}, {"a": x})["a"]
    assert row.metrics["MaxAbsoluteError"] == 1
    assert metrics(y.astype(np.int8), x.astype(np.int8))["MaxAbsoluteError"] == 1


def test_10_the_worst_n_of_n_rows_are_n_rows(tmp_path: Path) -> None:
    report = compared(tmp_path, dict.fromkeys("abc", Y), {name: Y * np.float32(2) for name in "abc"})
    assert [len(report.worst(n)) for n in (1, 2, 3, 5)] == [1, 2, 3, 3]


def fusion_json(tmp_path: Path, *ops: Mapping[str, Any]) -> Path:
    path = tmp_path / "fusion.json"
    path.write_text(json.dumps({"name": "m", "graph": [{"name": "m", "op": list(ops)}]}))
    return path


def origin(name: str, index: int) -> dict[str, Any]:
    return {"attr": [
        {"key": "_datadump_origin_name", "value": {"s": name}},
        {"key": "_datadump_origin_output_index", "value": {"i": index}},
    ]}


def test_11_an_output_without_attributes_does_not_shift_the_later_ones(tmp_path: Path) -> None:
    rule = fusion_json(tmp_path, {
        "name": "s", "type": "Split", "id": 0, "attr": [
            {"key": "_datadump_original_op_names", "value": {"list": {"s": ["split"]}}},
        ],
        "output_desc": [{"dtype": "DT_FLOAT"}, origin("split", 1)],
    })
    first, second = RNG.normal(size=(2, 30)).astype(np.float32)
    raw = big(header("s", (output(first), output(second))), first.tobytes(), second.tobytes())
    npu = npu_folder(tmp_path / "npu", {"s": raw})
    golden = tmp_path / "golden"
    golden.mkdir()
    np.save(golden / "split.0.1700000000000001.npy", first)
    np.save(golden / "split.1.1700000000000002.npy", second)
    report = compare(read_dump(golden), read_dump(npu), mapping=DeviceMap(load(rule)))
    assert {str(row.port): str(row.golden_port) for row in report.comparisons} == {
        "s:output:0": "split:output:0", "s:output:1": "split:output:1",
    }
    assert [row.verdict for row in report.comparisons] == [Verdict.MATCH, Verdict.MATCH]


@pytest.mark.parametrize(("golden", "npu", "verdict"), [
    (70000.0, 65504.0, Verdict.OVERFLOW),  # a chip that saturates
    (70000.0, math.inf, Verdict.OVERFLOW),  # a chip that keeps Inf
    (-70000.0, -65504.0, Verdict.OVERFLOW),
    (65504.0, 65504.0, Verdict.MATCH),  # a number like any other
    (65000.0, 65504.0, Verdict.MATCH),
    (1000.0, math.inf, Verdict.NONFINITE),
    (math.nan, 0.0, Verdict.NONFINITE),  # saturation turns NaN into 0
])
def test_12_overflow_is_told_from_legal_values_by_golden(
    tmp_path: Path, golden: float, npu: float, verdict: Verdict,
) -> None:
    y, x = np.array([golden, 1, 2], np.float32), np.array([npu, 1, 2], np.float16)
    assert compared(tmp_path, {"a": y}, {"a": x})["a"].verdict is verdict


@pytest.mark.parametrize(("dtype", "golden"), [("bfloat16", 3.395e38), ("float32", 1e39)])
def test_12_overflow_counts_in_every_float_type(dtype: str, golden: float) -> None:
    ref = TensorRef("<memory>", DTYPES[dtype], (2,), array=np.array([np.inf, 1], np.float32))
    assert measure(TensorRef.of(np.array([golden, 1.0])), ref).sums.overflow == 1


def test_13_shapes_of_nd_tensors_are_not_flattened_and_addresses_are_whole(tmp_path: Path) -> None:
    y = RNG.normal(size=(2, 3, 4)).astype(np.float32)
    raw = big_dump("a", y, address=20615843020800)
    row = compared(tmp_path, {"a": y}, {"a": raw})["a"]
    assert row.npu is not None
    assert row.npu.own_shape == (2, 3, 4)
    assert row.pair.address == 20615843020800
    (line,) = csv.DictReader(io.StringIO(to_csv(compare(read_dump(tmp_path / "golden"), read_dump(tmp_path / "npu")))))
    assert line["Shape"] == "[2,3,4]"
    assert line["Address"] == "20615843020800"


def test_13_an_unknown_address_is_not_zero(tmp_path: Path) -> None:
    report = compared(tmp_path, {"a": Y}, {"a": Y})
    assert report["a"].pair.address is None


def test_14_the_whole_tensor_is_compared_not_its_first_elements(tmp_path: Path) -> None:
    y = np.ones(3_000_000, np.float32)
    x = y.copy()
    x[-1] = 4000
    row = compared(tmp_path, {"a": y}, {"a": x})["a"]
    assert row.verdict is Verdict.DRIFT
    assert row.max_error_index == (2_999_999,)


# -- robustness --------------------------------------------------------------------------------------------------


def test_15_a_payload_that_is_no_multiple_of_the_element_loses_only_its_own_row(tmp_path: Path) -> None:
    crooked = big_dump("b", Y, payload=Y.tobytes()[:-3])
    crooked_size = big_dump("c", Y, payload=Y.tobytes()[:-3], size=Y.nbytes - 3)
    report = compared(tmp_path, dict.fromkeys("abcd", Y), {"a": Y, "b": crooked, "c": crooked_size, "d": Y})
    assert [report[name].verdict for name in "abcd"] == [
        Verdict.MATCH, Verdict.UNREADABLE, Verdict.UNREADABLE, Verdict.MATCH,
    ]
    assert file_name("b", time=1700000000000002) in report["b"].reason
    assert not report.passed


def test_09_and_15_a_vector_in_fractal_nz_is_compared_and_kills_nothing(tmp_path: Path) -> None:
    y = RNG.normal(size=40).astype(np.float16)
    stored = layouts.to_stored(y, None, "FRACTAL_NZ", 16)
    raw = big_dump("a", stored, layout="FRACTAL_NZ", original=(40,))
    report = compared(tmp_path, {"a": y.astype(np.float32), "b": Y}, {"a": raw, "b": Y})
    assert [row.verdict for row in report.comparisons] == [Verdict.MATCH, Verdict.MATCH]


@pytest.mark.parametrize("name", ["%12", "+conv", "-conv", "=conv", "@conv"])
def test_16_any_op_name_can_be_written_and_no_later_row_is_lost(tmp_path: Path, name: str) -> None:
    report = compared(tmp_path, {"b": Y}, {name: Y, "b": Y})
    text = to_csv(report)
    assert sum(1 for _ in csv.reader(io.StringIO(text))) == 1 + len(report) == 3
    assert name in text
    assert "b:output:0" in text


def test_17_every_way_of_being_unreadable_has_its_own_reason(tmp_path: Path) -> None:
    bad = {
        "truncated": big_dump("truncated", Y, payload=Y.tobytes()[:100]),
        "garbage": bytes(RNG.integers(0, 256, 500, dtype=np.uint8)),
        "empty": b"",
    }
    report = compared(tmp_path, {**dict.fromkeys(bad, Y), "text": Y, "fine": Y}, {
        **bad, "text": big_dump("text", Y, dtype="string"), "fine": Y,
    })
    reasons = {name: report[name].reason for name in bad}
    assert all(report[name].verdict is Verdict.UNREADABLE for name in bad)
    assert len(set(reasons.values())) == 3
    assert all(reasons.values())
    assert report["text"].verdict in (Verdict.NOT_COMPARABLE, Verdict.DTYPE, Verdict.UNREADABLE)
    assert "string" in report["text"].reason
    assert report["fine"].verdict is Verdict.MATCH


def test_17_a_corrupt_golden_file_has_a_reason(tmp_path: Path) -> None:
    golden = golden_folder(tmp_path / "golden", {"a": Y, "b": Y})
    (golden / "a.0.1700000000000001.npy").write_bytes(b"\x93NUMPY garbage")
    report = compare(read_dump(golden), read_dump(npu_folder(tmp_path / "npu", {"a": Y, "b": Y})))
    assert report["a"].verdict is Verdict.UNREADABLE
    assert "a.0.1700000000000001.npy" in report["a"].reason
    assert report["b"].verdict is Verdict.MATCH


def test_18_an_op_without_a_type_in_the_mapping_still_pairs(tmp_path: Path) -> None:
    rule = fusion_json(tmp_path, {"name": "a", "id": 0, "output_desc": [origin("a", 0)]})
    report = compared(tmp_path, {"a": Y}, {"a": Y}, mapping=DeviceMap(load(rule)))
    assert report["a"].verdict is Verdict.MATCH
    assert any("a has no type" in note for note in report.notes)


@pytest.mark.parametrize("name", ["layer:0", "conv(2)", "a+b", "x[1]", "blk/conv.1"])
def test_19_names_outside_the_plain_letters_are_matched(tmp_path: Path, name: str) -> None:
    report = compared(tmp_path, {name: Y}, {name: Y})
    assert report[name].verdict is Verdict.MATCH


@pytest.mark.parametrize("folder", ["with space", "c:olon", "pl+us"])
def test_20_paths_may_hold_any_character(tmp_path: Path, folder: str) -> None:
    assert compared(tmp_path / folder, {"a": Y}, {"a": Y}).passed


def test_20_a_good_network_without_data_dumps_passes(tmp_path: Path) -> None:
    rule = fusion_json(
        tmp_path,
        {"name": "x", "type": "Data", "id": 0, "output_desc": [{}]},
        {"name": "a", "type": "Relu", "id": 1, "input": ["x:0"], "output_desc": [origin("a", 0)]},
    )
    report = compared(tmp_path, {"a": Y, "x": Y}, {"a": Y}, mapping=DeviceMap(load(rule)))
    assert report.passed
    assert report.exit_code == 0


def test_21_read_errors_of_the_golden_side_are_rows_when_both_are_devices(tmp_path: Path) -> None:
    golden = npu_folder(tmp_path / "golden", {"a": Y, "b": big_dump("b", Y, payload=b"short"), "c": Y})
    npu = npu_folder(tmp_path / "npu", {"a": Y, "b": Y, "c": Y})
    report = compare(read_dump(golden), read_dump(npu))
    assert [report[name].verdict for name in "abc"] == [Verdict.MATCH, Verdict.UNREADABLE, Verdict.MATCH]
    assert file_name("b", time=1700000000000002) in report["b"].reason


def test_21_a_wrong_size_is_never_an_empty_dump(tmp_path: Path) -> None:
    report = compared(tmp_path, {"a": Y, "b": Y}, {"a": big_dump("a", Y, payload=Y.tobytes()[:-1]), "b": Y})
    assert report["a"].verdict is Verdict.UNREADABLE
    assert not report.passed


def test_23_a_huge_golden_file_does_not_stop_the_workers(tmp_path: Path) -> None:
    """The size of a file decides nothing about how many work: memory does not grow with it."""
    y = np.zeros(8_000_000, np.float32)
    golden = golden_folder(tmp_path / "golden", {"a": y, "b": Y})
    npu = npu_folder(tmp_path / "npu", {"a": y.astype(np.float16), "b": Y})
    with ProcessPoolExecutor(1) as executor:
        report = compare(read_dump(golden), read_dump(npu), executor=executor)
    assert [row.verdict for row in report.comparisons] == [Verdict.MATCH, Verdict.MATCH]
