"""Sliced FFTS+ ops become one op; overflow reports are decoded and tied to their op."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from dump_bytes import FLOAT16, ND, big, blob, header, input_, output, put

from acccmp.core.dump import Dump, DumpedOp, Port
from acccmp.dumps import opdebug
from acccmp.dumps.ascend import write_file
from acccmp.dumps.read import read_dump
from acccmp.errors import FormatError

T = 1700000000001000
WHOLE = np.arange(2 * 7 * 3, dtype="<f2").reshape(2, 7, 3)
CUTS = [(0, 3), (3, 6), (6, 7)]


def bounds(low: int, high: int) -> list[dict[str, int]]:
    return [{"lower": 0, "higher": 2}, {"lower": low, "higher": high}, {"lower": 0, "higher": 3}]


def attribute(mode: int, count: int = 3, cut: list[int] | None = None) -> bytes:
    told = {"threadMode": mode, "slice_instance_num": count, "outputCutList": [cut or [1, 3, 1], [1, 1]],
            "output_tensor_slice": [[bounds(*c), [{"lower": 0, "higher": 4}]] for c in CUTS]}
    return blob(7, blob(1, "ffts") + blob(2, json.dumps(told)))


def slices(folder: Path, mode: int, names: list[str], op: list[str], **options: object) -> None:
    """One file for each slice; automatic ones are dumped flat, so that only the attribute tells their shape."""
    for place, (name, op_name) in enumerate(zip(names, op, strict=True)):
        piece = WHOLE[:, slice(*CUTS[place])]
        dims = (piece.size,) if mode == 1 else piece.shape
        common = np.full(4, 9, "<f2")
        head = header(op_name, (output(FLOAT16, ND, dims, piece.nbytes), output(FLOAT16, ND, (4,), 8)),
                      (input_(FLOAT16, ND, (1,), 2),), attribute(mode, **options))
        put(folder, name, big(head, struct.pack("<e", place), piece.tobytes(), common.tobytes()))


AUTOMATIC = [f"Conv2D.conv1.3.1.{T}.4.5.{thread}.0" for thread in range(3)]
MANUAL = [f"Conv2D.conv1_lxslice{n}.{n}.1.{T}" for n in range(3)]


def check(dump: Dump) -> None:
    assert list(dump.ops) == ["conv1"]
    ref = dump[Port("conv1", "output", 0)]
    assert ref.shape == (2, 7, 3)
    assert np.array_equal(ref.numpy(), WHOLE)
    assert np.array_equal(ref.read((slice(1, 2), slice(2, 7), slice(0, 1))), WHOLE[1:2, 2:7, :1])
    assert np.array_equal(np.concatenate(list(ref.blocks(8))), WHOLE.reshape(-1))
    assert ref.raw() == WHOLE.tobytes()
    assert dump[Port("conv1", "output", 1)].numpy().tolist() == [9] * 4
    assert dump[Port("conv1", "input", 0)].numpy() == 0  # of the first slice
    assert any("1 ops were put together from 3 slices" in note for note in dump.notes)


def test_automatic_threads_are_joined_in_the_shape_of_their_attribute(tmp_path: Path) -> None:
    slices(tmp_path, 1, AUTOMATIC, ["conv1"] * 3)
    dump = read_dump(tmp_path)
    check(dump)
    path = write_file(tmp_path / "whole", dump.ops["conv1"], [], [dump[Port("conv1", "output", 0)]])
    assert path.read_bytes().endswith(WHOLE.tobytes())


def test_named_slices_are_joined_in_their_stored_shape(tmp_path: Path) -> None:
    slices(tmp_path, 0, MANUAL, [f"conv1_lxslice{n}" for n in range(3)])
    check(read_dump(tmp_path))


def test_more_than_ten_slices_are_ordered_as_numbers(tmp_path: Path) -> None:
    cut = {"threadMode": 0, "slice_instance_num": 12, "outputCutList": [[12]]}
    for n in range(12):
        head = header("", (output(FLOAT16, ND, (1,), 2),), (), blob(7, blob(2, json.dumps(cut))))
        put(tmp_path, f"A.a_lxslice{n}.{n}.1.{T}", big(head, struct.pack("<e", n)))
    assert read_dump(tmp_path)[Port("a", "output", 0)].numpy().tolist() == list(range(12))


def test_a_missing_slice_breaks_the_output_and_says_so(tmp_path: Path) -> None:
    slices(tmp_path, 1, AUTOMATIC, ["conv1"] * 3)
    (tmp_path / AUTOMATIC[1]).unlink()
    dump = read_dump(tmp_path)
    assert [b.port for b in dump.broken] == [Port("conv1", "output", 0)]
    assert "2 of its 3 slices are there" in dump.broken[0].reason
    assert Port("conv1", "output", 1) in dump  # not cut: every slice has it


def test_a_cut_off_slice_breaks_the_output(tmp_path: Path) -> None:
    slices(tmp_path, 0, MANUAL, [""] * 3)
    path = tmp_path / MANUAL[2]
    path.write_bytes(path.read_bytes()[:-9])
    dump = read_dump(tmp_path)
    assert [b.port for b in dump.broken] == [Port("conv1", "output", 0)]
    assert "slice 2" in dump.broken[0].reason


def test_slices_that_are_cut_nowhere_leave_the_newest(tmp_path: Path) -> None:
    slices(tmp_path, 0, MANUAL, [""] * 3, cut=[1, 1, 1])
    dump = read_dump(tmp_path)
    assert list(dump.ops) == ["conv1"]
    assert any("cut along no axis" in note for note in dump.notes)


@pytest.mark.parametrize("value", ['{"slice_instance_num": ', '["slice_instance_num"]', '{"slice_instance_num": 3}',
                                   '{"slice_instance_num":2,"threadMode":1,"outputCutList":[[2]]}',
                                   '{"slice_instance_num":' * 5000])
def test_a_damaged_attribute_never_stops_the_reader(tmp_path: Path, value: str) -> None:
    for n in range(2):
        head = header("", (output(FLOAT16, ND, (1,), 2),), (), blob(7, blob(2, value)))
        put(tmp_path, f"A.a.{n}.1.{T + n}.4.0.{n}.0", big(head, bytes(2)))
    dump = read_dump(tmp_path)
    assert list(dump.ops) == ["a"]


# -- overflow ----------------------------------------------------------------------------------------------------


def report(folder: Path, payload: bytes, time: int = T + 50, name: str = "Opdebug.Node_OpDebug.9.9") -> Path:
    told = output(4, ND, (len(payload),), len(payload))
    return put(folder, f"{name}.{time}", big(header("Node_Op", (told,)), payload))


def new(kind: int, *fields: int, version: int = 0) -> bytes:
    raw = struct.pack("<6I", 0x5A5A5A5A, version, 1, kind, 0, 8 * len(fields))
    raw += struct.pack(f"<{len(fields)}Q", *fields)
    return raw + bytes(2048 - len(raw))


def ops(folder: Path) -> None:
    for task, name in ((3, "conv1"), (4, "conv2")):
        put(folder, f"Conv2D.{name}.{task}.7.{T + task}", big(header(name, (output(FLOAT16, ND, (1,), 2),)), bytes(2)))


def test_an_overflow_is_tied_to_the_op_of_its_task(tmp_path: Path) -> None:
    ops(tmp_path)
    report(tmp_path, new(0, 1, 7, 4, 0, 65535, 65535, 0x10, 0x20, 2, 5, 0x800000))
    dump = read_dump(tmp_path)
    assert list(dump.ops) == ["conv1", "conv2"]
    (found,) = dump.overflows
    assert (found.op, found.unit, found.fields["core_id"], found.fields["status"]) == ("conv2", "AIC", 2, 0x800000)
    assert found.op_path.endswith(f"Conv2D.conv2.4.7.{T + 4}")
    assert any("1 overflows reported, the first: conv2 (AIC, task 4, stream 7, status 0x800000)" in n
               for n in dump.notes)


@pytest.mark.parametrize(("kind", "unit", "fields", "name", "value"), [
    (1, "AIV", (1, 7, 3, 0, 0, 0, 1, 2, 3, 4, 99), "status", 99),
    (2, "AICPU", (1, 7, 3, 0, 65535, 6, 65535, 77), "cpu_id", 6),
    (3, "SDMA", (1, 7, 3, 0, 0, 0, 11, 12, 13, 14), "dst_addr", 12),
])
def test_each_unit_has_its_own_fields(kind: int, unit: str, fields: tuple[int, ...], name: str, value: int) -> None:
    ((got, told),) = opdebug.decode(new(kind, *fields))
    assert (got, told[name], told["task_id"]) == (unit, value, 3)


def test_version_one_has_a_status_of_four_words() -> None:
    ((_, told),) = opdebug.decode(new(0, *range(1, 12), 100, 101, 102, version=1))
    assert [told[key] for key in ("status", "status_1", "status_2", "status_3")] == [11, 100, 101, 102]


def test_the_old_report_names_each_unit_that_overflowed() -> None:
    raw = bytearray(2048)
    struct.pack_into("<6Q", raw, 256, 1, 7, 4, 0, 0x10, 0x20)
    struct.pack_into("<3Q", raw, 1024, 5, 6, 8)
    assert opdebug.decode(bytes(raw)) == [("AI core", {
        "model_id": 1, "stream_id": 7, "task_id": 4, "task_type": 0, "pc_start": 16, "para_base": 32,
        "kernel_code": 5, "block_idx": 6, "status": 8})]
    struct.pack_into("<Q", raw, 512, 3)
    assert [unit for unit, _ in opdebug.decode(bytes(raw))] == ["DHA atomic add", "AI core"]


def test_a_report_that_cannot_be_decoded_is_kept_with_its_problem(tmp_path: Path) -> None:
    ops(tmp_path)
    report(tmp_path, new(7, 1, 2))
    report(tmp_path, bytes(40), T + 60)
    report(tmp_path, new(0, 1, 7, 99, 0, 65535, 65535, 0, 0, 0, 0, 1), T + 40)
    found = read_dump(tmp_path).overflows
    assert [item.problem for item in found] == ["", "an overflow of unit 7, which is not known",
                                                "40 bytes are no overflow report"]
    assert str(found[0]).startswith("an op that was not dumped")
    with pytest.raises(FormatError):
        opdebug.decode(b"")


def test_of_ops_with_one_task_the_thread_decides_else_the_oldest(tmp_path: Path) -> None:
    common = {"op_type": "A", "task": 3, "stream": 7}
    known = [DumpedOp("late", time=5, thread=1, **common), DumpedOp("b", time=3, thread=2, **common),
             DumpedOp("early", time=1, thread=1, **common)]
    report(tmp_path, new(0, 1, 7, 3, 0, 65535, 1, 0, 0, 0, 0, 1))
    from acccmp.dumps.ascend import read_file

    (found,) = opdebug.read_overflow(read_file(next(tmp_path.iterdir())), known)
    assert found.op == "early"


def test_an_overflow_file_alone_is_read(tmp_path: Path) -> None:
    dump = read_dump(report(tmp_path, new(0, 1, 7, 4, 0, 65535, 65535, 0, 0, 0, 0, 1)))
    assert len(dump) == 0
    assert dump.overflows[0].fields["task_id"] == 4
