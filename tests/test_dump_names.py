"""The grammar of dump file names, both ways."""

from __future__ import annotations

from pathlib import Path

import pytest
from dump_bytes import put, simple
from hypothesis import given
from hypothesis import strategies as st

from acccmp.core.dump import DumpedOp, Port
from acccmp.dumps import names
from acccmp.dumps.read import read_dump

T = 1700000000001000


@pytest.mark.parametrize(("name", "want"), [
    (f"Conv2D.conv1.3.7.{T}", DumpedOp("conv1", "Conv2D", "", T, 3, 7)),
    (f"Conv2D.conv1.3.{T}", DumpedOp("conv1", "Conv2D", "", T, 3, None)),
    (f"Conv2D.conv1.3.7.{T}.4.11.12.0", DumpedOp("conv1", "Conv2D", "", T, 3, 7, "4", 11, 12, 0)),
    (f"Conv2D.conv1.3.{T}.4.11.12.0", DumpedOp("conv1", "Conv2D", "", T, 3, None, "4", 11, 12, 0)),
    (f"Conv2D.a:b(c)+%1@.3.7.{T}", DumpedOp("a:b(c)+%1@", "Conv2D", "", T, 3, 7)),
    (f"Conv2D.17.3.7.{T}", DumpedOp("17", "Conv2D", "", T, 3, 7)),
    (f"Conv2D.model.conv.1.3.7.{T}", DumpedOp("model.conv.1", "Conv2D", "", T, 3, 7)),
    (f"Opdebug.Node_OpDebug.3.7.{T}", DumpedOp("Node_OpDebug", "Opdebug", "", T, 3, 7)),
    ("exception_info.7.3.20260101101112345",
     DumpedOp("exception_info", "exception_info", "", 20260101101112345, 3, 7)),
])
def test_a_device_name_says_type_op_task_stream_and_time(name: str, want: DumpedOp) -> None:
    assert names.parse_device(name) == want


@pytest.mark.parametrize("name", [
    "conv1", "README.md", "", "a.b.c", f"Conv2D..3.7.{T}", f".conv.3.7.{T}", "Conv2D.conv1.x.7.8", "1.2.3",
    "Conv2D.conv1.3.7." + "9" * 300, "Conv2D.conv1.٣.7.8",
])
def test_other_names_are_none(name: str) -> None:
    assert names.parse_device(name) is None


words = st.text(st.characters(blacklist_characters="./\\ \0", blacklist_categories=("Cs", "Cc")), min_size=1)


@given(words, words, st.integers(0, 99), st.none() | st.integers(0, 99), st.integers(10**15, 10**16 - 1), st.booleans())
def test_a_device_name_reads_back(kind: str, op: str, task: int, stream: int | None, time: int, sliced: bool) -> None:
    if kind == "exception_info":
        return
    name = DumpedOp(op, kind, "", time, task, stream, *("4", 5, 6, 7) if sliced else ())
    assert names.parse_device(names.device_name(name)) == name


def test_only_space_dot_slash_and_backslash_are_flattened_by_the_device() -> None:
    assert names.device_flat("a b.c/d\\e:f(g)") == "a_b_c_d_e:f(g)"


@pytest.mark.parametrize("op", ["../../etc/passwd", "a\0b", "x" * 400, "a\nb\x1b[31m", "..", "ü" * 200, "a/b\\c"])
def test_a_name_that_is_written_is_one_safe_path_component(op: str, tmp_path: Path) -> None:
    for name in (names.fitting(names.golden_name(op, "output", 0, T), ".npy"),
                 names.fitting(names.device_name(DumpedOp(op, "Conv2D", "", T, 1, 1)))):
        assert "/" not in name
        assert name not in (".", "..")
        assert len(name.encode()) <= 255
        assert not any(ord(c) < 32 for c in name)
        (tmp_path / name).write_bytes(b"")


@pytest.mark.parametrize(("name", "want"), [
    ("relu1.0.1700000000001000.npy", ("relu1", 0, T)),
    ("a.b.c.12.5.npy", ("a.b.c", 12, 5)),
    ("a:b.0.5.npy", ("a:b", 0, 5)),
    ("relu1.0.npy", None), ("relu1.x.5.npy", None), (".0.5.npy", None), ("relu1.0.5.bin", None),
])
def test_a_golden_name_is_read_from_its_end(name: str, want: tuple[str, int, int] | None) -> None:
    told = names.parse_golden(name)
    assert (told and (told.op.name, told.port.index, told.op.time)) == want


def test_spec8_19_op_names_with_colons_are_matched(tmp_path: Path) -> None:
    for place, op in enumerate(("model:conv", "a(b)", "x+y", "%12", "=cmd", "@at")):
        put(tmp_path, f"Conv2D.{op}.{place}.1.{T + place}", simple(op))
    assert [str(port) for port in read_dump(tmp_path)] == [
        "model:conv:output:0", "a(b):output:0", "x+y:output:0", "%12:output:0", "=cmd:output:0", "@at:output:0"]


def test_spec8_26_hashed_names_are_looked_up_in_mapping_csv_never_computed(tmp_path: Path) -> None:
    real = f"Conv2D.{'deep_' * 60}conv,1.3.1.{T}"
    put(tmp_path, "13876543210987654321", simple())
    put(tmp_path, "99999999999999999", simple("from/its.header"))  # not in the mapping
    (tmp_path / "mapping.csv").write_text(f"13876543210987654321,/dump/path/{real}\n\nbroken line\n5,\n")
    dump = read_dump(tmp_path)
    assert set(dump.refs) == {Port("deep_" * 60 + "conv,1", "output", 0), Port("from/its.header", "output", 0)}
    assert dump.ops["deep_" * 60 + "conv,1"].op_type == "Conv2D"
    assert not any("mapping" in note for note in dump.notes)


def test_the_header_has_the_true_name_of_an_op(tmp_path: Path) -> None:
    put(tmp_path, f"Conv2D.model_layer_1_conv.3.1.{T}", simple("model/layer.1/conv"))
    dump = read_dump(tmp_path)
    assert Port("model/layer.1/conv", "output", 0) in dump
    assert not dump.flat_names


def test_a_mapping_csv_of_odd_bytes_and_quotes_is_read(tmp_path: Path) -> None:
    (tmp_path / "mapping.csv").write_bytes(b'1,"a,b ""c"""\n2,\xff\xfe\n"3",x\n')
    found = names.read_mapping(tmp_path)
    assert found["1"] == 'a,b "c"'
    assert found["3"] == "x"
    assert names.real_name("3.npy", found) == "x.npy"
    assert names.read_mapping(tmp_path / "nowhere") == {}
