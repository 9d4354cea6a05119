"""Folders that MindSpore itself dumps: names, layouts, constants, statistics."""

from __future__ import annotations

import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import acccmp
from acccmp.core.dump import Port
from acccmp.core.tensor import DTYPES
from acccmp.dumps import mindspore_dumps as dumps
from acccmp.dumps import names
from acccmp.dumps.read import read_dump
from acccmp.errors import FormatError, InputError

CONV = "Default--network-Net--conv1-Conv2d--Conv2D-op12"


def folder(tmp_path: Path) -> Path:
    place = tmp_path / "rank_0" / "net" / "1" / "0"
    (place / "constants").mkdir(parents=True)
    x = np.arange(12, dtype="f4").reshape(1, 3, 2, 2)
    np.save(place / f"Conv2D.{CONV}.3.7.1623124369613540.input.0.NCHW.float32.npy", x)
    np.save(place / f"Conv2D.{CONV}.3.7.1623124369613540.output.0.DefaultFormat.bfloat16.npy", x + 1)
    np.save(place / "MatMul.Default--fc.v2-Dense--MatMul-op1.0.0.1623124369613550.output.1.FRACTAL_NZ.npy",
            np.zeros((1, 1, 16, 16), "f2"))
    np.save(place / "constants" / "Parameter.data-5.0.0.1623124369613000.output.0.DefaultFormat.int32.npy",
            np.int32([1, 2]))
    (place / "statistic.csv").write_text(
        "Op Type,Op Name,Task ID,Stream ID,Timestamp,IO,Slot,Data Size,Data Type,Shape,Max Value,Min Value,"
        "L2Norm Value\n"
        f'Conv2D,{CONV},3,7,1623124369613540,input,0,48,float32,"(1, 3, 2, 2)",11,0,22.494\n'
        f'Conv2D,{CONV},3,7,1623124369613540,output,0,24,bfloat16,"(1, 3, 2, 2)",12,1,nan\n'
        "Conv2D,broken row\n"
    )
    return place


def test_names_give_op_port_layout_and_the_original_type() -> None:
    told = names.parse_converted("Conv2D.Default--fc.v2--Conv2D-op1.3.7.1623124369613540.output.2.NC1HWC0.bfloat16.npy")
    assert told is not None
    assert told.port == Port("Default--fc.v2--Conv2D-op1", "output", 2)
    assert (told.op.op_type, told.op.task, told.op.stream, told.op.time) == ("Conv2D", 3, 7, 1623124369613540)
    assert (told.layout, told.dtype) == ("NC1HWC0", DTYPES["bfloat16"])


@pytest.mark.parametrize("name", [
    "conv1.0.1623124369613540.npy", "Conv2D.op.3.7.1623124369613540", "Conv2D.op.3.7.x.output.0.NCHW.npy",
    "Conv2D.op.3.7.1.sideways.0.NCHW.npy", "statistic.csv", "Functional.relu.0.forward.input.0.npy",
])
def test_other_names_are_none_of_its_own(name: str) -> None:
    assert names.parse_converted(name) is None


def test_a_folder_gives_tensors_constants_and_statistics(tmp_path: Path) -> None:
    place = folder(tmp_path)
    assert dumps.looks_like_mindspore(place)
    dump = read_dump(place)
    assert dump[Port(CONV, "output", 0)].numpy()[0, 0, 0, 0] == 1
    assert dump[Port("data-5", "output", 0)].numpy().tolist() == [1, 2]
    assert dump.ops["data-5"].op_type == "Parameter"
    assert dump[Port("Default--fc.v2-Dense--MatMul-op1", "output", 1)].layout == "FRACTAL_NZ"
    assert any("bfloat16 tensors were saved in a wider type" in note for note in dump.notes)
    row = dump.statistics[Port(CONV, "input", 0)]
    assert (row.dtype, row.shape, row.nbytes) == (DTYPES["float32"], (1, 3, 2, 2), 48)
    assert row.values["Max Value"] == 11
    assert math.isnan(dump.statistics[Port(CONV, "output", 0)].values["L2Norm Value"])


def test_a_tree_of_ranks_and_iterations_is_read_like_any_other(tmp_path: Path) -> None:
    folder(tmp_path)
    dump = read_dump(tmp_path)
    assert np.array_equal(dump[Port(CONV, "input", 0)].numpy().ravel(), np.arange(12))


def test_the_newest_of_two_dumps_of_an_op_counts_and_damage_is_kept(tmp_path: Path) -> None:
    for time, fill in ((1623124369613541, 1), (1623124369613542, 2)):
        np.save(tmp_path / f"Add.Default--Add-op1.0.0.{time}.output.0.NCHW.float32.npy", np.full(3, fill, "f4"))
    (tmp_path / "Mul.Default--Mul-op2.0.0.1623124369613541.output.0.NCHW.float32.npy").write_bytes(b"\x93NUMPY")
    dump = dumps.read_folder(tmp_path)
    assert dump[Port("Default--Add-op1", "output", 0)].numpy().tolist() == [2, 2, 2]
    assert any("older than others of the same tensor" in note for note in dump.notes)
    assert [broken.port for broken in dump.broken] == [Port("Default--Mul-op2", "output", 0)]


def test_statistics_alone_are_no_tensors_and_say_so(tmp_path: Path) -> None:
    place = folder(tmp_path)
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "statistic.csv").write_text((place / "statistic.csv").read_text())
    dump = dumps.read_folder(alone)
    assert len(dump) == 0
    assert len(dump.statistics) == 2
    assert "only statistics" in dump.notes[0]


def test_folders_and_tables_of_other_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no dump of MindSpore"):
        dumps.read_folder(tmp_path)
    assert not dumps.looks_like_mindspore(tmp_path)
    (tmp_path / "statistic.csv").write_text("a,b\n1,2\n")
    with pytest.raises(FormatError, match="no column 'Op Type'"):
        dumps.read_statistics(tmp_path / "statistic.csv")


@pytest.mark.parametrize("told_by", ["name", "statistics", "nothing"])
def test_bfloat16_that_was_saved_as_float32_has_the_limits_of_bfloat16(tmp_path: Path, told_by: str) -> None:
    """Its rounding (0.2 %) is far beyond float32's limit."""
    exact = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype("f4")
    device = exact.astype(ml_dtypes.bfloat16).astype("f4")
    np.save(tmp_path / "add.0.1623124369613540.npy", exact)
    place = tmp_path / "npu"
    (place / "constants").mkdir(parents=True)
    dtype = ".bfloat16" if told_by == "name" else ""
    np.save(place / f"Add.add.3.7.1623124369613540.output.0.NCHW{dtype}.npy", device)
    if told_by == "statistics":
        (place / "statistic.csv").write_text(
            "Op Type,Op Name,Task ID,Stream ID,Timestamp,IO,Slot,Data Size,Data Type,Shape\n"
            'Add,add,3,7,1623124369613540,output,0,192,bfloat16,"(2, 3, 4, 4)"\n')
    golden = tmp_path / "golden"
    golden.mkdir()
    (tmp_path / "add.0.1623124369613540.npy").rename(golden / "add.0.1623124369613540.npy")
    report = acccmp.compare(golden, place)
    (row,) = report.judged
    assert row.npu is not None
    assert np.array_equal(row.npu.numpy(), device)
    if told_by == "nothing":  # it cannot be known: said, not assumed
        assert (row.npu.dtype.name, row.limit) == ("float32", 1e-3)
        assert any("1 tensors are judged as float32: MindSpore saves bfloat16 as float32" in n for n in report.notes)
    else:
        assert (row.npu.dtype.name, row.limit, str(row.verdict)) == ("bfloat16", 0.2, "match")
        assert row.npu.raw() == device.astype(ml_dtypes.bfloat16).tobytes()
