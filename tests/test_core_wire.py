"""The walk over protobuf's wire format, on bytes built by the format's definition and by protobuf itself."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest
from dump_bytes import blob, number, varint
from hypothesis import given
from hypothesis import strategies as st

from acccmp.core import wire
from acccmp.core.reading import mapped
from acccmp.core.wire import CutOff, Damaged, FileBytes, Payload, PayloadTable, fields, thin
from acccmp.errors import FormatError
from acccmp.schemas import dump_pb2

_FIELDS = st.lists(st.tuples(st.integers(1, 1 << 28), st.one_of(st.integers(0, 2**64 - 1), st.binary(max_size=40))))


def message(items: list[tuple[int, int | bytes]]) -> bytes:
    return b"".join(number(n, v) if isinstance(v, int) else blob(n, v) for n, v in items)


@given(_FIELDS)
def test_the_walker_finds_every_field_where_it_is(items: list[tuple[int, int | bytes]]) -> None:
    raw = message(items)
    found = list(fields(raw, 0, len(raw)))
    assert [f.number for f in found] == [n for n, _ in items]
    assert b"".join(raw[f.tag : f.end] for f in found) == raw
    for field, (_, value) in zip(found, items, strict=True):
        assert value == (field.value if field.wire == 0 else raw[field.start : field.start + field.size])


@given(_FIELDS.filter(bool), st.data())
def test_the_walker_says_where_a_message_is_cut_off(items: list[tuple[int, int | bytes]], data: st.DataObject) -> None:
    head, tail = message(items[:-1]), message(items[-1:])
    raw = head + tail[: data.draw(st.integers(1, len(tail) - 1))]
    with pytest.raises(CutOff) as caught:
        list(fields(raw, 0, len(raw)))
    assert caught.value.at == len(head)
    if caught.value.field is not None:
        assert caught.value.field.end == len(head + tail)


@given(_FIELDS, st.binary(max_size=20))
def test_what_is_written_is_what_the_definition_says(items: list[tuple[int, int | bytes]], payload: bytes) -> None:
    written = b"".join(wire.number_field(n, v) if isinstance(v, int) else wire.bytes_field(n, v) for n, v in items)
    assert written == message(items)
    assert wire.bytes_head(9, len(payload)) + payload == blob(9, payload)


@pytest.mark.parametrize(("raw", "told"), [
    (b"\x00\x01", "field number 0 at byte 0"),
    (varint(1 << 32) + b"\x00", "field number 536870912"),
    (b"\x0b\x0c", "wire type 3"),  # a group
    (b"\x0e", "wire type 6"),
    (b"\x08" + b"\xff" * 10 + b"\x01", "more than ten bytes at 1"),
    (b"\x80" * 11, "more than ten bytes at 0"),
])
def test_bytes_that_no_message_has_are_refused_with_their_place(raw: bytes, told: str) -> None:
    with pytest.raises(Damaged, match=told) as caught:
        list(fields(raw, 0, len(raw)))
    assert not isinstance(caught.value, CutOff)


def test_numbers_of_ten_bytes_stay_within_64_bits() -> None:
    raw = b"\x08" + b"\xff" * 9 + b"\x7f"
    assert next(fields(raw, 0, len(raw))).value == 2**64 - 1


@pytest.mark.parametrize("place", [(0, 5), (-1, 4), (3, 2)])
def test_a_message_outside_of_its_buffer_is_damage_not_an_index_error(place: tuple[int, int]) -> None:
    with pytest.raises(Damaged, match="4 bytes are there"):
        list(fields(b"\x08\x01\x08\x01", *place))


def test_a_length_of_an_exabyte_costs_nothing(tmp_path: Path) -> None:
    raw = number(2, 7) + varint(3 << 3 | 2) + varint(1 << 60) + b"rest"
    (tmp_path / "f").write_bytes(raw)
    with mapped(tmp_path / "f") as view:
        for walk in (lambda: list(fields(view, 0, len(raw))), lambda: thin(view, 0, len(raw), PayloadTable({3: None}))):
            with pytest.raises(CutOff) as caught:
                walk()
            assert (caught.value.at, caught.value.need) == (2, 1 << 60)


def test_a_thin_message_has_all_but_its_payloads_and_tells_where_they_are(tmp_path: Path) -> None:
    whole = dump_pb2.DumpData(version="2.0", op_name="a/b")
    for size in (0, 5, 300):
        entry = whole.output.add(data_type=1, size=size, data=bytes([size % 251]) * size)
        entry.shape.dim.extend([size])
    path = tmp_path / "f"
    path.write_bytes(b"head" + whole.SerializeToString())
    with mapped(path) as view:
        raw = thin(view, 4, len(view), PayloadTable({3: PayloadTable({5: None})}))
        found = dump_pb2.DumpData.FromString(raw)
        for entry, was in zip(found.output, whole.output, strict=True):
            offset, size = Payload.of(entry.data)
            assert view[offset : offset + size] == was.data
            entry.data = was.data
    assert found == whole


def test_what_is_left_of_a_message_is_bounded_before_it_is_copied(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with open(path, "wb") as file:  # 64 GB on paper, in a field that is no payload
        file.write(varint(1 << 3 | 2) + varint(1 << 36))
        file.truncate(file.tell() + (1 << 36))
    with mapped(path) as view, pytest.raises(Damaged, match="more than 1000 bytes besides its payloads"):
        thin(view, 0, len(view), PayloadTable({3: None}), 1000)


def test_messages_within_messages_have_a_bound() -> None:
    table = PayloadTable()
    table[1] = table
    raw = b""
    for _ in range(wire.DEEPEST + 2):
        raw = blob(1, raw + b"\x10\x01")
    with pytest.raises(Damaged, match=f"nested deeper than {wire.DEEPEST}"):
        thin(raw, 0, len(raw), table)


@given(_FIELDS, st.binary(max_size=2000))
def test_a_file_read_by_seeking_is_walked_like_its_bytes(
    tmp_path_factory: pytest.TempPathFactory, items: list[tuple[int, int | bytes]], long: bytes,
) -> None:
    raw = message([*items, (7, long), *items])
    path = tmp_path_factory.mktemp("f") / "f"
    path.write_bytes(raw)
    with open(path, "rb") as file:
        buffer = FileBytes(file)
        assert list(fields(buffer, 0, len(buffer))) == list(fields(raw, 0, len(raw)))
        assert thin(buffer, 0, len(buffer), PayloadTable({7: None})) == thin(raw, 0, len(raw), PayloadTable({7: None}))
        assert buffer[len(raw) // 2 :] == raw[len(raw) // 2 :]


def test_a_file_that_shrinks_while_it_is_walked_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(blob(1, bytes(5000)) * 3)
    with open(path, "rb") as file:
        buffer = FileBytes(file)
        walk = fields(buffer, 0, len(buffer))
        next(walk)
        os.truncate(path, 5000)
        with pytest.raises(Damaged, match="became shorter"):
            list(walk)


def test_a_file_is_mapped_or_one_line_says_why_not(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "two").write_bytes(b"\x08\x01")
    with mapped(tmp_path / "two") as view:
        assert isinstance(view, mmap.mmap)
        assert view[:] == b"\x08\x01"
    assert view.closed
    for name, told in (("empty", "is empty"), ("missing", "No such file"), (".", "is a folder")):
        with pytest.raises(FormatError, match=told), mapped(tmp_path / name):
            pass
