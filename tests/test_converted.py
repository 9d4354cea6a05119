"""A dump that was converted to plain arrays is still the dump that it was: by its list, and else by the mapping."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dump_bytes import BF16, FLOAT, FLOAT16, FRACTAL_NZ, NC1HWC0, ND, big, blob, header, input_, number, output, put
from test_dump_fftsplus import AUTOMATIC, new, report, slices

from acccmp import cli
from acccmp.core import layout as L
from acccmp.core.dump import Dump, Port
from acccmp.core.tensor import DTYPES, ConvertedRef, TensorRef
from acccmp.dumps.convert import convert
from acccmp.dumps.read import read_dump
from acccmp.emulator.emulate import emulate
from acccmp.errors import FormatError
from acccmp.models.load import load
from acccmp.reports.report_json import from_json

T = 1700000000001000
MODELS = {"digits_resnet": "resnet.onnx", "digits_lenet": "twin.onnx", "digits_cnn": "twin.onnx"}
WAYS = {
    "npy": [], "bin": ["--to", "bin"], "stored": ["--layout", "stored"], "NHWC": ["--layout", "NHWC"],
    "wider": ["--dtype", "float32"], "bin NCHW": ["--to", "bin", "--layout", "NCHW"],
}


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def compared(sample: Path, npu: Path, out: Path) -> tuple[int, dict[str, Any]]:
    """Exit code, and the report's JSON by port, without where the files lie."""
    code = command("compare", sample / MODELS[sample.name], npu, "--mapping", sample / "mapping.json", "-o", out)
    rows = json.loads((out / "report.json").read_text())["comparisons"]
    for row in rows:
        for side in ("golden", "npu"):
            for key in ("path", "offset", "size", "base", "stored_as"):
                (row[side] or {}).pop(key, None)
    return code, {row["port"]: row for row in rows}


@pytest.mark.parametrize("name", MODELS)
def test_a_converted_healthy_dump_is_judged_port_by_port_as_the_dump_itself(
    samples: Path, tmp_path: Path, name: str,
) -> None:
    before = compared(samples / name, samples / name / "npu", tmp_path / "before")
    assert before[0] == 0
    for way, options in WAYS.items():
        assert command("convert", samples / name / "npu", "-o", tmp_path / way, *options) == 0
        assert compared(samples / name, tmp_path / way, tmp_path / f"{way}.report") == before, way


@pytest.mark.parametrize("name", MODELS)
def test_without_its_list_the_mapping_says_how_a_converted_dump_lies(samples: Path, tmp_path: Path, name: str) -> None:
    _, before = compared(samples / name, samples / name / "npu", tmp_path / "before")
    for way in set(WAYS) - {"wider"}:  # nothing says of a wider array what it was
        command("convert", samples / name / "npu", "-o", tmp_path / way, *WAYS[way])
        (tmp_path / way / "converted.json").unlink()
        code, after = compared(samples / name, tmp_path / way, tmp_path / f"{way}.report")
        assert code == 0, way
        for port, row in before.items():
            assert [after[port][key] for key in ("verdict", "error", "limit")] == [
                row[key] for key in ("verdict", "error", "limit")], (way, port)


@pytest.mark.parametrize("kind", ["npy", "nchw", "bin"])
def test_folders_that_the_vendor_converted_compare_as_the_dump_itself(
    shared: Path, tmp_path: Path, kind: str,
) -> None:
    fusion = shared / "peer_results" / "fusion"
    counts = {}
    for name in ("npu", f"expected_convert_{kind}"):
        assert command("compare", fusion / "golden", fusion / name, "--mapping", fusion / "fusion.json",
                       "-o", tmp_path / name) == 0
        counts[name] = json.loads((tmp_path / name / "report.json").read_text())["counts"]
    assert counts["npu"] == counts[f"expected_convert_{kind}"]
    assert counts["npu"]["match"] == 30


def test_a_faulty_dump_is_no_better_for_being_converted(samples: Path, tmp_path: Path) -> None:
    sample = samples / "digits_lenet"
    command("convert", sample / "npu_faulty", "-o", tmp_path / "arrays")
    before = compared(sample, sample / "npu_faulty", tmp_path / "before")
    assert before[0] == 1
    assert compared(sample, tmp_path / "arrays", tmp_path / "after") == before


def test_bfloat16_keeps_its_limits_though_npy_has_no_such_type(samples: Path, tmp_path: Path) -> None:
    sample = samples / "digits_resnet"
    picture = np.load(sample / "inputs" / "image.npy")[:1]
    emulate(load(sample / "resnet.onnx"), {"image": picture}, tmp_path / "d", precision="bfloat16")
    command("convert", tmp_path / "d", "-o", tmp_path / "arrays")
    mapping = next((tmp_path / "d").glob("*.json"))
    reports = []
    for npu in ("d", "arrays"):
        out = tmp_path / f"{npu}.report"
        assert command("compare", sample / "resnet.onnx", tmp_path / npu, "--mapping", mapping, "-o", out) == 0
        reports.append(from_json((out / "report.json").read_text()))
    for before, after in zip(reports[0].comparisons, reports[1].comparisons, strict=True):
        assert (after.port, after.verdict, after.limit) == (before.port, before.verdict, before.limit) or (
            after.port == before.port and np.isnan(before.limit) and np.isnan(after.limit))
        if before.npu is not None:
            assert after.npu is not None
            assert (after.npu.dtype, after.npu.shape) == (before.npu.dtype, before.npu.shape)
            assert np.array_equal(after.npu.numpy(), before.npu.numpy())  # also from the report of a converted dump


# -- everything that a dump can hold -----------------------------------------------------------------------------


def everything(folder: Path) -> Path:
    """Blocks in two layouts, narrow floats, an origin, an ambiguous order, slices, an overflow, what is cut off,
    what is no dump, and an older file."""
    x = np.random.default_rng(0).standard_normal((1, 20, 3, 5)).astype("<f2")
    square = np.random.default_rng(1).standard_normal((1, 4, 4, 4)).astype("<f2")
    matrix = np.random.default_rng(2).standard_normal((20, 30)).astype("<f2")
    blocks = L.to_stored(x, "NCHW", "NC1HWC0")
    origin = blob(1, "model/relu:x") + number(2, 1) + number(3, FLOAT) + number(4, 0)
    told = output(FLOAT16, NC1HWC0, blocks.shape, blocks.nbytes, x.shape, origin=origin, extra=number(9, 4096))
    put(folder, f"Conv2D.m_conv.3.1.{T}", big(header("m/conv", (told,)), blocks.tobytes()))
    put(folder, f"Conv2D.m_conv.3.1.{T - 5}", big(header("m/conv", (told,)), blocks.tobytes()))
    blocks = L.to_stored(square, "NCHW", "NC1HWC0")
    told = input_(FLOAT16, NC1HWC0, blocks.shape, blocks.nbytes, square.shape)
    put(folder, f"Relu.square.4.1.{T + 1}", big(header("square", (), (told,)), blocks.tobytes()))
    blocks = L.to_stored(matrix, "ND", "FRACTAL_NZ")
    narrow = np.array([1, -2, 3.140625], "<f4").view("<u4") >> 16
    put(folder, f"MatMul.mm.5.1.{T + 2}", big(header("mm", (
        output(FLOAT16, FRACTAL_NZ, blocks.shape, blocks.nbytes, matrix.shape), output(BF16, ND, (3,), 6),
    )), blocks.tobytes(), narrow.astype("<u2").tobytes()))
    slices(folder, 1, AUTOMATIC, ["conv1"] * 3)
    report(folder, new(0, 1, 1, 5, 0, 65535, 65535, 0x10, 0x20, 2, 5, 0x800000))
    put(folder, f"Add.cut.6.1.{T + 4}", big(header("cut", (output(FLOAT16, ND, (9,), 18),)), bytes(7)))
    put(folder, f"Add.garbage.7.1.{T + 5}", b"garbage" * 9)
    return folder


def facts(dump: Dump) -> dict[str, Any]:
    """All that a comparison can ask of a dump, padding and places aside."""
    return {
        "ports": [
            (str(port), ref.dtype, ref.shape, ref.layout, ref.original_shape, ref.original_layout,
             ref.numpy().tolist()) for port, ref in dump.items()
        ],
        "ops": [
            (op.name, op.op_type, op.time, op.task, op.stream, op.thread, dict(op.attrs), dict(op.origins),
             dict(op.addresses)) for op in dump.ops.values()
        ],
        "broken": [(item.name, item.op_type, item.port, item.reason) for item in dump.broken],
        "overflows": [(item.op, item.unit, dict(item.fields)) for item in dump.overflows],
        "flat": dump.flat_names,
    }


@pytest.mark.parametrize("options", [
    {}, {"layout": "stored"}, {"layout": "NHWC"}, {"to": "bin"}, {"to": "bin", "layout": "NCHW"},
], ids=str)
def test_all_that_a_dump_holds_comes_back_from_its_arrays(tmp_path: Path, options: dict[str, Any]) -> None:
    folder = everything(tmp_path / "d")
    convert(folder, tmp_path / "arrays", **options)
    wanted = facts(read_dump(folder))
    assert len(wanted["ports"]) == 7
    assert len(wanted["broken"]) == 2
    assert facts(read_dump(tmp_path / "arrays")) == wanted


def test_arrays_become_arrays_and_dumps_again(tmp_path: Path) -> None:
    wanted = facts(read_dump(everything(tmp_path / "d")))
    convert(tmp_path / "d", tmp_path / "npy")
    convert(tmp_path / "npy", tmp_path / "bin", to="bin", layout="NHWC")
    again = facts(read_dump(tmp_path / "bin"))
    wanted["broken"] = again["broken"] = []  # the file that was no dump has no arrays
    assert again == wanted
    convert(tmp_path / "bin", tmp_path / "dump", to="dump")
    before, after = read_dump(tmp_path / "d"), read_dump(tmp_path / "dump")
    assert list(after) == list(before)
    for port, ref in before.items():
        assert after[port].raw() == ref.raw(), port  # pads are zero in these


def test_a_second_conversion_into_one_folder_keeps_the_first_ones_facts(tmp_path: Path) -> None:
    folder = everything(tmp_path / "d")
    for file in sorted(folder.iterdir()):
        convert(file, tmp_path / "arrays")
    assert facts(read_dump(tmp_path / "arrays"))["ports"] == facts(read_dump(folder))["ports"]
    (one,) = (tmp_path / "arrays").glob(f"*m_conv*{T}.output.0.npy")
    convert(one, tmp_path / "alone")
    (ref,) = read_dump(tmp_path / "alone").values()
    assert (ref.layout, ref.shape) == ("NC1HWC0", (1, 2, 3, 5, 16))


# -- one tensor --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lies", ["stored", "NCHW", "NHWC", "HWCN"])
@pytest.mark.parametrize("stored", ["NC1HWC0", "FRACTAL_Z", "FRACTAL_NZ", "C1HWNC0", "NHWC"])
@pytest.mark.parametrize("own", ["NCHW", "NHWC", "HWCN"])
def test_an_array_reads_as_the_devices_tensor_in_every_order_and_part(own: str, stored: str, lies: str) -> None:
    x = np.random.default_rng(5).standard_normal((2, 3, 5, 18)).astype("<f2")
    blocks = L.to_stored(x, own, stored)
    ref = TensorRef("", DTYPES["float16"], blocks.shape, 0, None, stored, x.shape, own, array=blocks)
    if lies == "stored":
        base = TensorRef.of(blocks.astype("<f4"), stored)
    elif stored == "FRACTAL_NZ":
        base = TensorRef.of(x.astype("<f4"))
    else:
        base = TensorRef.of(L.to_stored(x, own, lies).astype("<f4"), lies)
    found = ConvertedRef.lying_in(base, ref.dtype, ref.shape, stored, x.shape, own)
    assert found.numpy().dtype == x.dtype
    assert np.array_equal(found.numpy(), x)
    assert found.raw() == ref.raw()
    part = (slice(1, 2), slice(0, 2), slice(2, 5), slice(3, 17))
    assert np.array_equal(found.read(part), x[part])
    assert np.array_equal(np.concatenate(list(found.blocks(50))), x.reshape(-1))
    for order in ("NCHW", "NHWC", "HWCN", None):
        if L.fits(stored, ref.shape, order, x.shape):
            assert np.array_equal(found.seen_as(x.shape, order).numpy(), ref.seen_as(x.shape, order).numpy())


# -- damage ------------------------------------------------------------------------------------------------------


def test_an_array_that_was_put_in_place_of_another_is_unreadable_and_the_rest_is_not(tmp_path: Path) -> None:
    convert(everything(tmp_path / "d"), tmp_path / "arrays")
    (path,) = (tmp_path / "arrays").glob(f"*m_conv*{T}.output.0.npy")
    np.save(path, np.zeros((2, 2), "f4"))
    dump = read_dump(tmp_path / "arrays")
    (broken,) = (item for item in dump.broken if item.port == Port("m/conv", "output", 0))
    assert "the files were mixed up" in broken.reason
    assert len(dump) == 6


def spoilt(told: Any) -> Iterator[Any]:
    """`told` with each of its values replaced by things that do not belong there."""
    for key in list(told) if isinstance(told, dict) else range(len(told)):
        old = told[key]
        for bad in (None, -1, 10**400, "../x", [], {}, [[1, None]], True, 1.5):
            told[key] = bad
            yield told
        told[key] = old
        if isinstance(old, dict | list):
            for _ in spoilt(old):
                yield told


def test_a_damaged_list_is_one_clear_error_or_an_unreadable_tensor(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    told = output(FLOAT16, ND, (2,), 4, origin=blob(1, "o"))
    head = header("a", (told,), (), blob(7, blob(1, "k") + blob(2, "v")))
    put(folder, f"A.a.1.1.{T}", big(head, struct.pack("<2e", 1, 2)))
    convert(folder, tmp_path / "arrays")
    path = tmp_path / "arrays" / "converted.json"
    listed = json.loads(path.read_text())
    refused = []
    for bad in spoilt(listed):
        path.write_text(json.dumps(bad))
        try:
            for ref in read_dump(tmp_path / "arrays").values():
                ref.numpy()
        except L.LayoutError:
            pass  # an original shape that does not fit is told when the numbers are read, as with a device's header
        except FormatError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert [text for text in refused if "\n" in text or not ("converted.json" in text or ".npy" in text)] == []
    path.write_text("[" * 100_000)
    assert command("inspect", tmp_path / "arrays") == 2
