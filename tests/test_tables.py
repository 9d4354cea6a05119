"""A report as a frame, as the vendor's CSV, as JSON and as Markdown, read back with readers that are not ours."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_factory import changed, comparison, make_report, ref_on_disk

from acccmp.core.dump import Port
from acccmp.core.metrics import METRICS, computed
from acccmp.errors import FormatError
from acccmp.reports import markdown, report_csv, report_json, terminal
from acccmp.reports.legend import LOOKS
from acccmp.reports.pair import Verdict
from acccmp.reports.report import Report

SCHEMA = Path(report_csv.__file__).with_name("report.schema.json")
EMPTY = Report((), {"golden": "a", "npu": "b"})


def cells(report: Report) -> list[list[str]]:
    return list(csv.reader(io.StringIO(report_csv.to_csv(report))))


# -- CSV ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["fusion", "net_fp16_nchw", "net_fp16_5hd_fused3"])
def test_csv_begins_with_the_columns_of_a_real_vendor_file(shared: Path, case: str) -> None:
    with open(shared / "peer_results" / case / "expected" / "result.csv", newline="") as file:
        vendor = next(csv.reader(file))
    ours = cells(make_report())[0]
    assert ours[: len(vendor)] == vendor
    assert ours[len(vendor):] == [
        "Verdict", "Reason", "NanNpu", "NanGolden", "InfNpu", "InfGolden", "Fp16Overflow", "MaxErrorIndex", "SNR(dB)",
        "MismatchRatio", "Floor", "ErrorOverFloor",
    ]


def test_a_matching_row_prints_as_the_vendor_prints_it() -> None:
    row = comparison("conv0", 1, error=1e-3, originals=("conv0", "bias0", "relu0"), npu_ops=("conv0bias0relu0",))
    header, line = cells(Report((row,)))
    assert line[:9] == [
        "1", "Conv2D", "conv0bias0relu0", "float16", "20615843024896", "conv0,bias0,relu0", "float32", "conv0:output:0",
        "[1,8,6,6]",
    ]
    named = dict(zip(header[9:], line[9:], strict=True))
    assert named["RelativeEuclideanDistance"] == "0.001000"
    assert named["StandardDeviation"] == "(0.000;1.022),(-0.029;1.022)"  # -0.0004 is below what the vendor shows
    assert named["CompareFailReason"] == ""
    assert (named["Verdict"], named["NanNpu"], named["MaxErrorIndex"]) == ("match", "0", "[0,3,2,1]")
    assert (named["SNR(dB)"], named["Floor"], named["ErrorOverFloor"]) == ("60.000000", "0.00125", "0.8")


def test_not_computed_is_told_apart_from_nan_and_infinity() -> None:
    metrics = {"CosineSimilarity": math.nan, "MaxAbsoluteError": math.inf, "MaxRelativeError": -math.inf}
    header, line = cells(Report((comparison("a", 0, Verdict.NONFINITE, metrics=metrics),)))
    found = dict(zip(header, line, strict=True))
    assert found["CosineSimilarity"] == "nan"
    assert found["MaxAbsoluteError"] == "inf"
    assert found["MaxRelativeError"] == "-inf"
    assert found["MeanAbsoluteError"] == found["StandardDeviation"] == found["NanNpu"] == "NaN"


def test_what_was_not_compared_says_so_in_the_vendors_column() -> None:
    for line in cells(make_report())[1:]:
        failed, verdict, reason = line[19], line[20], line[21]
        assert bool(failed) == (verdict not in ("match", "drift", "overflow", "nonfinite")), line
        assert failed in ("", reason)


def test_csv_rows_go_by_the_vendors_index() -> None:
    report = make_report()
    shuffled = replace(report, comparisons=tuple(reversed(report.comparisons)))
    index = [int(line[0]) for line in cells(shuffled)[1:]]
    assert index == sorted(index)
    assert len(index) == len(report)


def test_pandas_reads_the_csv_with_its_numbers() -> None:
    report = make_report()
    frame = pd.read_csv(io.StringIO(report_csv.to_csv(report)))
    by_port = frame.set_index("TensorIndex")
    for row in report.judged:
        read = by_port.loc[str(row.port)]
        assert read["Verdict"] == row.verdict
        if "CosineSimilarity" in row.metrics:
            assert read["CosineSimilarity"] == pytest.approx(row.metrics["CosineSimilarity"], abs=1e-6)
    assert frame["DataType"].iloc[0] == "float16"  # the NPU's
    assert frame["DataType.1"].iloc[0] == "float32"  # golden's


# -- pandas ------------------------------------------------------------------------------------------------------


def test_the_frame_is_tidy_one_row_per_port_with_types() -> None:
    report = make_report()
    frame = report.to_frame()
    assert len(frame) == len(report)
    assert frame["port"].is_unique
    assert list(frame["verdict"].cat.categories) == [str(v) for v in Verdict]
    assert frame["verdict"].value_counts().loc["drift"] == report.counts[Verdict.DRIFT]
    counts = [name for name, metric in computed().items() if metric.prints == "count"]
    for name in (*(name for name in computed() if name not in counts), "error", "limit", "floor"):
        assert frame[name].dtype == np.float64, name
    for name in (*counts, "order", "elements"):
        assert frame[name].dtype == pd.Int64Dtype(), name
    assert frame["address"].dtype == pd.UInt64Dtype()
    assert frame.loc[frame["verdict"] == "fused", "error"].isna().all()
    worst = frame.loc[frame["error"].idxmax()]
    assert worst["verdict"] == "overflow"


def test_an_empty_report_has_the_same_columns_with_the_same_types() -> None:
    full, empty = report_csv.to_frame(make_report()), report_csv.to_frame(EMPTY)
    assert len(empty) == 0
    assert dict(empty.dtypes) == dict(full.dtypes)


def test_a_frame_keeps_addresses_beyond_63_bits() -> None:
    frame = report_csv.to_frame(Report((comparison("a", 0, address=2**64 - 1),)))
    assert frame["address"].iloc[0] == 2**64 - 1


# -- JSON --------------------------------------------------------------------------------------------------------


def same(a: Report, b: Report) -> None:
    """Equal in every field; NaN equals NaN."""
    def plain(value: object) -> object:
        if isinstance(value, float) and math.isnan(value):
            return "NaN"
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return value

    for name in ("subject", "notes", "min_coverage", "strict", "extra_failures"):
        assert getattr(a, name) == getattr(b, name), name
    assert len(a) == len(b)
    for one, other in zip(a.comparisons, b.comparisons, strict=True):
        for name in one.__dataclass_fields__:
            assert plain(getattr(one, name)) == plain(getattr(other, name)), (one.port, name)


def test_json_gives_the_same_report_back() -> None:
    report = replace(make_report(), strict=True, min_coverage=0.5, extra_failures=("one", "two"))
    back = report_json.from_json(report_json.to_json(report))
    same(report, back)
    assert (back.passed, back.failures, back.counts) == (report.passed, report.failures, report.counts)


def test_json_keeps_where_the_tensors_lie() -> None:
    row = comparison("conv", 0, npu=ref_on_disk())
    back = report_json.from_json(report_json.to_json(Report((row,))))
    assert back.comparisons[0].npu == ref_on_disk()


@given(st.floats(), st.text(), st.integers(0, 2**64 - 1))
def test_json_keeps_every_float_text_and_address(number: float, text: str, address: int) -> None:
    row = comparison("a", 0, error=1.0, metrics={text: number}, reason=text, address=address, notes=(text,))
    row = changed(row, error=number, limit=-number, port=Port(text, "input", 7))
    report = Report((row,), {text: text}, (text,))
    same(report, report_json.from_json(report_json.to_json(report)))


def test_json_is_strict_and_fits_its_schema() -> None:
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    for report in (make_report(), EMPTY, make_report(3, None, False)):
        text = report_json.to_json(report)
        assert text.isascii()
        jsonschema.validate(json.loads(text, parse_constant=pytest.fail), schema)


def test_the_schema_refuses_what_no_report_says() -> None:
    schema = json.loads(SCHEMA.read_text())
    good = json.loads(report_json.to_json(make_report(2, None, False)))
    for broken in (
        {**good, "schema": "acccmp.report/2"},
        {**good, "passed": "yes"},
        {k: v for k, v in good.items() if k != "comparisons"},
        {**good, "comparisons": [{**good["comparisons"][0], "verdict": "fine"}]},
        {**good, "comparisons": [{**good["comparisons"][0], "error": "small"}]},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, schema)


def test_a_report_that_claims_to_have_passed_is_not_believed() -> None:
    stored = json.loads(report_json.to_json(make_report()))
    stored |= {"passed": True, "exit_code": 0, "failures": []}
    assert not report_json.from_json(json.dumps(stored)).passed


@pytest.mark.parametrize(("where", "value", "message"), [
    (("schema",), "acccmp.report/9", "acccmp.report/9"),
    (("comparisons",), {}, "should be list"),
    (("comparisons", 0), 3, "comparison 0 should be dict"),
    (("comparisons", 0, "verdict"), "splendid", "unknown verdict 'splendid'"),
    (("comparisons", 0, "port"), "conv1", "not a port"),
    (("comparisons", 0, "error"), "NaN", "should be a number"),
    (("comparisons", 0, "error"), True, "should be a number"),
    (("comparisons", 0, "order"), 1.5, "should be int"),
    (("comparisons", 0, "npu", "dtype"), "float17", "unknown dtype"),
    (("comparisons", 0, "npu", "shape"), [-1], "not the shape"),
    (("comparisons", 0, "npu", "offset"), -4, "not a size"),
    (("notes",), ["a", 3], "notes should be str"),
])
def test_nonsense_in_json_is_named_in_one_line(where: tuple[str | int, ...], value: object, message: str) -> None:
    stored = json.loads(report_json.to_json(make_report(2, None, False)))
    inside = stored
    for step in where[:-1]:
        inside = inside[step]
    inside[where[-1]] = value
    with pytest.raises(FormatError, match=message) as caught:
        report_json.from_json(json.dumps(stored))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", "{", "[" * 100_000, b"\xff\xfe\x00", '{"schema": 1e999}'])
def test_text_that_is_no_report_is_a_format_error(text: str | bytes) -> None:
    with pytest.raises(FormatError):
        report_json.from_json(text)


def test_damaged_json_never_crashes_with_anything_but_our_error() -> None:
    text = report_json.to_json(make_report(3))
    rng = np.random.default_rng(5)
    for _ in range(300):
        raw = bytearray(text.encode())
        for _ in range(int(rng.integers(1, 4))):
            raw[int(rng.integers(len(raw)))] = int(rng.integers(256))
        with contextlib.suppress(FormatError):
            report_json.from_json(bytes(raw[: int(rng.integers(1, len(raw)))] if rng.random() < 0.3 else raw))


# -- Markdown ----------------------------------------------------------------------------------------------------


def rendered(markdown: str) -> str:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark").enable("table").render(markdown)


def test_markdown_renders_with_the_first_bad_layer_and_the_worst_ones() -> None:
    report = make_report(every_verdict=False)
    page = rendered(markdown.to_markdown(report))
    assert "<h2>NOT PASSED</h2>" in page
    assert "<code>stage1/block2/conv9:output:0</code>" in page
    assert "it may be inherited" in page
    assert page.count("<table>") == 3
    assert "emulated device" in page


def test_markdown_of_ten_thousand_rows_fits_a_comment() -> None:
    rows = [
        comparison(f"{'long/' * 60}conv{i}", i, Verdict.DRIFT, 0.5, reason="because " * 80, op_type="T" * 300)
        for i in range(50)
    ]
    many = tuple(changed(rows[i % 50], order=i, is_output=i % 3 == 0) for i in range(10_000))
    subject = {f"key {'k' * 90}{i}": "v" * 4000 for i in range(200)}
    noisy = Report(many, subject, tuple("note " * 200 for _ in range(500)))
    assert len(markdown.to_markdown(noisy).encode()) < 60_000


def test_every_verdict_and_every_metric_column_is_in_the_legend() -> None:
    assert set(LOOKS) == set(Verdict)
    assert len({(look.colour, look.marker) for look in LOOKS.values()}) == len(LOOKS)
    header = cells(EMPTY)[0]
    assert [*header[9:19], *header[22:]] == list(dict.fromkeys(metric.column or metric.name for metric in METRICS))
    assert all(metric.name in markdown.to_markdown(EMPTY) for metric in METRICS)


def test_an_empty_report_never_looks_like_a_pass() -> None:
    assert "NOTHING WAS COMPARED" in markdown.to_markdown(EMPTY)
    assert terminal.one_line(EMPTY).startswith("NOT PASSED")
    assert len(cells(EMPTY)) == 1
    stored = json.loads(report_json.to_json(EMPTY))
    assert (stored["passed"], stored["exit_code"], stored["coverage"]) == (False, 3, None)
