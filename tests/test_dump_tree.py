"""Trees of runs: one folder is read, never a mix; and what is said of the others."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from dump_bytes import put, simple

from acccmp.core.dump import Dump, Port
from acccmp.dumps.ascend import read_file
from acccmp.dumps.read import read_dump
from acccmp.errors import FormatError, InputError

T = 1700000000000000
OPS = ("data", "conv1", "relu1", "conv2", "relu2", "pool", "fc", "softmax", "argmax", "out")


def run(root: Path, place: str, ops: tuple[str, ...] = OPS, at: int = T, mark: int = 0) -> Path:
    """A folder of dumps; `mark` is in every tensor, so that a mix of two runs would show."""
    for index, op in enumerate(ops):
        put(root / place, f"Op.{op}.{index}.1.{at + index}", simple(op, bytes([mark]) * 24))
    return root / place


def marks(dump: Dump) -> set[int]:
    return {ref.raw()[0] for ref in dump.values()}


def test_of_two_whole_runs_the_newest_is_read(tmp_path: Path) -> None:
    run(tmp_path, "20260101000000/0/net/1/0", mark=1)
    new = run(tmp_path, "20260102000000/0/net/1/0", mark=2)
    dump = read_dump(tmp_path)
    assert marks(dump) == {2}
    assert len(dump) == len(OPS)
    assert dump.path == new
    assert dump.model == "net"
    assert dump.place.run == "20260102000000"
    assert any("20260101000000" in note for note in dump.notes)


def test_a_run_that_died_half_way_is_passed_over_and_reported(tmp_path: Path) -> None:
    run(tmp_path, "20260101000000/0/net/1/0", mark=1)
    run(tmp_path, "20260102000000/0/net/1/0", OPS[:4], mark=2)
    dump = read_dump(tmp_path)
    assert marks(dump) == {1}
    assert any("20260102000000" in note and "ends after 4 of the 10 ops" in note for note in dump.notes)
    assert marks(read_dump(tmp_path, run="20260102000000")) == {2}


def test_a_run_whose_last_file_is_cut_off_is_passed_over(tmp_path: Path) -> None:
    run(tmp_path, "20260101000000/0/net/1/0", mark=1)
    new = run(tmp_path, "20260102000000/0/net/1/0", mark=2)
    last = new / f"Op.out.9.1.{T + 9}"
    last.write_bytes(last.read_bytes()[:-5])
    dump = read_dump(tmp_path)
    assert marks(dump) == {1}
    assert any("its last file is cut off" in note for note in dump.notes)


def test_a_newer_model_with_fewer_ops_is_not_a_dead_run(tmp_path: Path) -> None:
    run(tmp_path, "20260101000000/0/net/1/0", mark=1)
    run(tmp_path, "20260102000000/0/net/1/0", (*OPS[:3], "fused", *OPS[5:]), mark=2)
    assert marks(read_dump(tmp_path)) == {2}


def test_a_run_that_lost_one_file_in_the_middle_is_still_the_newest(tmp_path: Path) -> None:
    many = tuple(f"op{i}" for i in range(30))
    run(tmp_path, "20260101000000/0/net/1/0", many, mark=1)
    run(tmp_path, "20260102000000/0/net/1/0", many[:10] + many[11:], mark=2)
    assert marks(read_dump(tmp_path)) == {2}


def test_the_largest_step_is_chosen_as_a_number_not_as_text(tmp_path: Path) -> None:
    for step in (2, 9, 10):
        run(tmp_path, f"20260101000000/0/net/1/{step}", mark=step)
    assert marks(read_dump(tmp_path)) == {10}
    assert marks(read_dump(tmp_path, step=9)) == {9}
    assert marks(read_dump(tmp_path / "20260101000000" / "0" / "net" / "1", step="2")) == {2}
    with pytest.raises(InputError, match="no step '3'; there are: 10, 2, 9"):
        read_dump(tmp_path, step=3)


def test_when_no_run_is_complete_the_newest_is_read_with_a_note(tmp_path: Path) -> None:
    for day, mark in (("01", 1), ("02", 2)):
        folder = run(tmp_path, f"202601{day}000000/0/net/1/0", mark=mark)
        (folder / f"Op.out.9.1.{T + 9}").write_bytes(b"")
    dump = read_dump(tmp_path)
    assert marks(dump) == {2}
    assert any("no run is complete" in note for note in dump.notes)
    assert [b.name for b in dump.broken] == ["out"]


def test_two_devices_of_one_run_must_be_chosen_between(tmp_path: Path) -> None:
    for device in (0, 1):
        run(tmp_path, f"20260101000000/{device}/net/1/0", mark=device)
    with pytest.raises(InputError, match=r"2 devices \(0, 1\); say which: device=0"):
        read_dump(tmp_path)
    assert marks(read_dump(tmp_path, device=1)) == {1}
    assert marks(read_dump(tmp_path / "20260101000000" / "0")) == {0}


def test_two_models_of_one_run_must_be_chosen_between(tmp_path: Path) -> None:
    run(tmp_path, "20260101000000/0/net/1/0", mark=1)
    run(tmp_path, "20260101000000/0/other/2/0", mark=2)
    with pytest.raises(InputError, match=r"2 models \(net, other\)"):
        read_dump(tmp_path)
    assert marks(read_dump(tmp_path, model="other")) == {2}
    assert marks(read_dump(tmp_path, model="net/1")) == {1}
    with pytest.raises(InputError, match="no model 'nte'"):
        read_dump(tmp_path, model="nte")


def test_single_op_dumps_lie_right_below_the_device(tmp_path: Path) -> None:
    run(tmp_path, "20260101000000/3", mark=3)
    dump = read_dump(tmp_path)
    assert marks(dump) == {3}
    assert dump.place.device == "3"


def test_frameworks_write_rank_folders_without_a_time(tmp_path: Path) -> None:
    for rank in (0, 1):
        run(tmp_path, f"rank_{rank}/Net/0/5", mark=rank)
    assert marks(read_dump(tmp_path, device=1)) == {1}
    assert read_dump(tmp_path, device=1).model == "Net"


def test_stragglers_outside_of_the_runs_are_reported_not_mixed_in(tmp_path: Path) -> None:
    run(tmp_path, "20260101000000/0/net/1/0", mark=1)
    run(tmp_path, "20260101000000", ("conv9",), mark=9)
    run(tmp_path, ".", ("conv8",), mark=8)
    dump = read_dump(tmp_path)
    assert marks(dump) == {1}
    assert any("2 files lie outside of the runs" in note for note in dump.notes)


def test_folders_that_are_no_runs_are_listed_not_guessed(tmp_path: Path) -> None:
    run(tmp_path, "before", mark=1)
    run(tmp_path, "after", mark=2)
    with pytest.raises(InputError, match=r"2 folders of dumps \(after, before\)"):
        read_dump(tmp_path)
    assert marks(read_dump(tmp_path, run="before")) == {1}


def test_a_lonely_folder_below_is_found(tmp_path: Path) -> None:
    run(tmp_path, "a/b/c", mark=5)
    assert marks(read_dump(tmp_path)) == {5}


def test_the_same_op_twice_keeps_the_newest_and_says_so(tmp_path: Path) -> None:
    run(tmp_path, ".", ("conv1",), T, 1)
    run(tmp_path, ".", ("conv1",), T + 100, 2)
    dump = read_dump(tmp_path)
    assert marks(dump) == {2}
    assert any("1 files are older than others of the same op" in note for note in dump.notes)
    assert not any("different tasks" in note for note in dump.notes)


def test_an_older_file_does_not_stand_in_for_an_unreadable_newest_one(tmp_path: Path) -> None:
    run(tmp_path, ".", ("conv1", "relu1"), T, 1)
    put(tmp_path, f"Op.conv1.0.1.{T + 100}", b"damaged header" * 3)
    dump = read_dump(tmp_path)
    assert list(dump.ops) == ["relu1"]
    assert [b.name for b in dump.broken] == ["conv1"]
    assert any("older than unreadable ones" in note for note in dump.notes)


def test_tensors_that_a_framework_wrote_as_npy_have_the_layout_of_their_names(tmp_path: Path) -> None:
    x = np.zeros((1, 2, 3, 3, 16), np.float16)
    np.save(tmp_path / f"Conv2D.Default_net_conv1.3.1.{T}.output.0.NC1HWC0.npy", x)
    np.save(tmp_path / f"Conv2D.Default_net_conv1.3.1.{T}.input.1.ND.npy", x[0])
    (tmp_path / f"Conv2D.Default_net_conv1.3.1.{T}.output.1.NCHW.npy").write_bytes(b"damaged")
    dump = read_dump(tmp_path)
    assert (dump.kind, dump.flat_names) == ("npu", True)
    assert dump[Port("Default/net/conv1", "output", 0)].layout == "NC1HWC0"
    assert dump[Port("Default/net/conv1", "input", 1)].layout == "ND"
    assert [b.port for b in dump.broken] == [Port("Default_net_conv1", "output", 1)]


def test_two_tasks_of_one_name_keep_the_newest_as_the_vendor_does(shared: Path) -> None:
    dump = read_dump(shared / "peer_results" / "fusion" / "npu")
    assert dump.ops["twice"].task == 18
    assert dump[Port("twice", "output", 0)].raw() != bytes(1152)
    assert any("different tasks share the name twice" in note for note in dump.notes)


def test_spec8_18_stray_files_get_one_note(tmp_path: Path) -> None:
    run(tmp_path, ".")
    for name in (f"Op.conv1.1.1.{T}.csv", "README.md", "log.txt", ".hidden", "net.onnx", "convert_failed_file_list.txt",
                 "odd"):
        put(tmp_path, name, b"1,2,3\n")
    dump = read_dump(tmp_path)
    assert len(dump) == len(OPS)
    (note,) = dump.notes
    assert "6 files beside the dumps were ignored" in note


@pytest.mark.parametrize(("files", "says"), [
    ({}, "an empty folder"),
    ({"net.onnx": b"x"}, r"holds a model \(net\.onnx\) and no dump"),
    ({"a.md": b"x", "b.log": b"y"}, "none of its 2 files is a dump: a.md, b.log"),
    ({"a.npz": b"x"}, "holds npz archives"),
])
def test_a_folder_without_dumps_says_what_it_holds(tmp_path: Path, files: dict[str, bytes], says: str) -> None:
    for name, data in files.items():
        put(tmp_path, name, data)
    with pytest.raises(InputError, match=says):
        read_dump(tmp_path)


def test_a_path_that_is_not_there_or_a_model_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        read_dump(tmp_path / "nowhere")
    with pytest.raises(FormatError, match="its name is that of an ONNX model"):
        read_dump(put(tmp_path, "net.onnx", b"\x08\x0a"))
    with pytest.raises(InputError, match="step '1' chooses within a folder"):
        read_dump(put(tmp_path, f"Op.a.1.1.{T}", simple("a")), step=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no run 'x': there is no dump in it"):
        read_dump(tmp_path / "empty", run="x")


def test_a_tree_of_links_in_a_circle_ends(tmp_path: Path) -> None:
    run(tmp_path, "20260101000000/0/net/1/0", mark=1)
    (tmp_path / "20260101000000" / "again").symlink_to(tmp_path)
    assert marks(read_dump(tmp_path)) == {1}


def test_spec8_20_paths_with_spaces_colons_and_plus_are_read(tmp_path: Path) -> None:
    run(tmp_path, "my dump: a+b (1)", mark=4)
    assert marks(read_dump(tmp_path / "my dump: a+b (1)")) == {4}


def test_spec8_22_nothing_of_the_vendors_toolkit_is_needed(
    shared: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "")
    monkeypatch.setenv("ASCEND_TOOLKIT_HOME", "/nowhere")
    assert len(read_dump(shared / "peer_results" / "net_fp16_5hd_fused3" / "npu")) == 8


def test_a_file_that_cannot_be_opened_loses_itself_only(tmp_path: Path) -> None:
    run(tmp_path, ".", ("conv1", "relu1"))
    (tmp_path / f"Op.gone.5.1.{T}").symlink_to(tmp_path / "nowhere")
    dump = read_dump(tmp_path)
    assert len(dump) == 2
    assert [b.name for b in dump.broken] == ["gone"]


def test_a_pipe_among_the_files_is_not_waited_for(tmp_path: Path) -> None:
    run(tmp_path, ".", ("conv1", "relu1"))
    os.mkfifo(tmp_path / f"Op.pipe.5.1.{T + 9}")
    dump = read_dump(tmp_path)
    assert len(dump) == 2
    assert [(b.name, "is a named pipe" in b.reason) for b in dump.broken] == [("pipe", True)]
    with pytest.raises(InputError, match="neither a file nor a folder"):
        read_dump(tmp_path / f"Op.pipe.5.1.{T + 9}")


def test_ops_come_in_the_order_of_their_time_stamps(tmp_path: Path) -> None:
    for place, op in enumerate(reversed(OPS)):
        put(tmp_path, f"Op.{op}.{place}.1.{T + 100 - place}", simple(op))
    assert list(read_dump(tmp_path).ops) == list(OPS)


def test_spec8_28_each_dump_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    run(tmp_path, ".")
    opened: list[str] = []
    plain = builtins.open

    def counting(path: object, *args: object, **kwargs: object) -> object:
        opened.append(str(path))
        return plain(path, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(builtins, "open", counting)
    read_dump(tmp_path)
    monkeypatch.undo()
    dumps = [path for path in opened if "/Op." in path]
    assert sorted(dumps) == sorted(set(dumps))
    assert len(dumps) == len(OPS)


def test_a_link_to_itself_is_our_error(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to("x")
    with pytest.raises(FormatError, match="cannot be read"):
        read_file(tmp_path / "x")


def test_a_file_of_a_deep_folder_costs_no_more_than_one_of_a_shallow_folder(tmp_path: Path) -> None:
    """Where a folder really lies is found out once, not for each of its 20,000 files."""
    def seconds(folder: Path) -> float:
        folder.mkdir(parents=True)
        for place in range(300):
            np.save(folder / f"op{place}.0.{T + place}.npy", np.zeros(2, "f4"))
        found = []
        for _ in range(3):
            begun = time.process_time()
            assert len(read_dump(folder)) == 300
            found.append(time.process_time() - begun)
        return min(found)

    assert seconds(tmp_path / Path(*"abcdefghij" * 10)) < 4 * seconds(tmp_path / "flat")


def test_a_link_that_leads_to_the_next_run_by_now_is_followed_anew(tmp_path: Path) -> None:
    latest = tmp_path / "latest"
    for step in ("1", "2"):
        place = tmp_path / "runs" / step
        run(place, "20260101000000/0/net/1/0", mark=int(step))
        latest.unlink(missing_ok=True)
        latest.symlink_to(place)
        dump = read_dump(latest)
        assert not dump.broken
        assert marks(dump) == {int(step)}
