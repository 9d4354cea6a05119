"""Single dump files: big dumps, whole-file protobuf and nano, from bytes that were built by hand."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from dump_bytes import (
    BF16,
    FLOAT,
    FLOAT16,
    FRACTAL_Z,
    INT8,
    INT32,
    NC1HWC0,
    NCHW,
    ND,
    NHWC,
    UNDEFINED,
    big,
    blob,
    header,
    input_,
    nano,
    nano_input,
    nano_output,
    number,
    output,
    put,
    simple,
    split,
    varint,
)

import acccmp
from acccmp.core.dump import DumpedOp, Origin, Port
from acccmp.core.tensor import DTYPES, TensorRef
from acccmp.dumps.ascend import read_file, write_file
from acccmp.dumps.read import read_dump
from acccmp.errors import FormatError, InputError

NAME = "Conv2D.conv1.3.1.1700000000001000"


def halves(*shape: int) -> np.ndarray:
    return np.arange(1, np.prod(shape) + 1, dtype="<f2").reshape(shape)


def test_payloads_follow_the_header_as_inputs_outputs_buffers_spaces(tmp_path: Path) -> None:
    a, b, c = halves(2, 3), np.arange(4, dtype="<i4"), halves(5)
    head = header(
        "conv1", (output(FLOAT16, ND, (2, 3), 12, (2, 3)), output(FLOAT16, ND, (5,), 10, (5,))),
        (input_(INT32, ND, (4,), 16, (4,)),),
        blob(5, number(1, 0) + number(3, 7)) + blob(8, number(1, 0) + number(3, 9)),
    )
    path = put(tmp_path, NAME, big(head, b.tobytes(), a.tobytes(), c.tobytes(), bytes(7), bytes(9)))
    content = read_file(path)
    assert content.op == DumpedOp("conv1", "Conv2D", str(path), 1700000000001000, 3, 1)
    assert list(content.refs) == [Port("conv1", "input", 0), Port("conv1", "output", 0), Port("conv1", "output", 1)]
    assert np.array_equal(content.refs[Port("conv1", "input", 0)].numpy(), b)
    assert np.array_equal(content.refs[Port("conv1", "output", 0)].numpy(), a)
    assert np.array_equal(content.refs[Port("conv1", "output", 1)].numpy(), c)
    assert (content.unread, content.notes, content.broken) == (2, (), ())


def test_padding_and_layout_of_a_five_dimensional_tensor_are_undone_by_its_original_shape(tmp_path: Path) -> None:
    stored = halves(1, 2, 3, 3, 16)
    path = put(tmp_path, NAME, big(
        header("conv1", (output(FLOAT16, NC1HWC0, (1, 2, 3, 3, 16), 576, (1, 20, 3, 3)),)), stored.tobytes()))
    ref = read_dump(path)[Port("conv1", "output", 0)]
    want = stored.transpose(0, 1, 4, 2, 3).reshape(1, 32, 3, 3)[:, :20]
    assert (ref.shape, ref.layout, ref.own_shape) == ((1, 2, 3, 3, 16), "NC1HWC0", (1, 20, 3, 3))
    assert np.array_equal(ref.numpy(), want)


def test_block_size_comes_from_the_stored_shape_not_from_a_constant(tmp_path: Path) -> None:
    stored = np.arange(1 * 1 * 2 * 2 * 32, dtype=np.int8).reshape(1, 1, 2, 2, 32)
    path = put(tmp_path, "Quant.q.3.1.1700000000001000", big(
        header("q", (output(INT8, NC1HWC0, (1, 1, 2, 2, 32), 128, (1, 20, 2, 2)),)), stored.tobytes()))
    want = stored.transpose(0, 1, 4, 2, 3).reshape(1, 32, 2, 2)[:, :20]
    assert np.array_equal(read_dump(path)[Port("q", "output", 0)].numpy(), want)


def test_a_stored_nhwc_tensor_is_not_taken_for_nchw(tmp_path: Path) -> None:
    x = halves(1, 6, 6, 16)
    path = put(tmp_path, NAME, big(header("", (output(FLOAT16, NHWC, x.shape, x.nbytes, x.shape),)), x.tobytes()))
    assert np.array_equal(read_file(path).refs[Port("conv1", "output", 0)].numpy(), x)


def test_group_count_is_read_from_sub_format(tmp_path: Path) -> None:
    path = put(tmp_path, NAME, big(
        header("", (output(FLOAT16, FRACTAL_Z, (9, 4, 16, 16), 18432, (64, 1, 3, 3), sub_format=64),)), bytes(18432)))
    assert read_file(path).refs[Port("conv1", "output", 0)].groups == 64


def test_unpacked_dims_unknown_fields_and_a_whole_format_word_are_accepted(tmp_path: Path) -> None:
    x = halves(2, 3)
    told = output(FLOAT16, ND | 4 << 24 | 2 << 8, (2, 3), 12, (2, 3), packed=False,
                  extra=number(77, 5) + blob(78, b"later") + varint(79 << 3 | 1) + bytes(8))
    head = header("", (told,), extra=blob(99, b"??") + number(100, 1))
    ref = read_file(put(tmp_path, NAME, big(head, x.tobytes()))).refs[Port("conv1", "output", 0)]
    assert (ref.layout, ref.groups) == ("ND", 2)
    assert np.array_equal(ref.numpy(), x)


def test_spec8_13_the_shape_of_an_nd_tensor_stays_and_addresses_of_64_bits_are_numbers(tmp_path: Path) -> None:
    x = halves(2, 3, 4)
    told = output(FLOAT16, ND, (2, 3, 4), 48, (2, 3, 4), extra=number(9, 0xFFFF_8000_0000_1000))
    content = read_file(put(tmp_path, NAME, big(header("conv1", (told,)), x.tobytes())))
    assert content.refs[Port("conv1", "output", 0)].own_shape == (2, 3, 4)
    assert content.op.addresses["output", 0] == 0xFFFF_8000_0000_1000


def test_a_size_larger_than_needed_is_accepted_and_the_next_tensor_begins_behind_it(tmp_path: Path) -> None:
    a, b = halves(5), halves(3) * 2
    head = header("", (output(FLOAT16, ND, (5,), 32), output(FLOAT16, ND, (3,), 6)))
    refs = read_file(put(tmp_path, NAME, big(head, a.tobytes() + bytes(22), b.tobytes()))).refs
    assert np.array_equal(refs[Port("conv1", "output", 0)].numpy(), a)
    assert np.array_equal(refs[Port("conv1", "output", 1)].numpy(), b)


def test_spec8_21_trailing_bytes_are_a_note_not_an_empty_dump(tmp_path: Path) -> None:
    path = put(tmp_path, NAME, simple("conv1") + b"more")
    content = read_file(path)
    assert content.refs[Port("conv1", "output", 0)].numpy().shape == (3, 4)
    assert content.broken == ()
    assert "4 bytes follow" in content.notes[0]


def test_spec8_17_a_truncated_payload_names_the_tensor_and_leaves_the_others(tmp_path: Path) -> None:
    a, b = halves(4), halves(2, 50)
    head = header("", (output(FLOAT16, ND, (4,), 8), output(FLOAT16, ND, (2, 50), 200)))
    path = put(tmp_path, NAME, big(head, a.tobytes(), b.tobytes())[:-30])
    dump = read_dump(path)
    assert np.array_equal(dump[Port("conv1", "output", 0)].numpy(), a)
    assert Port("conv1", "output", 1) not in dump
    (broken,) = dump.broken
    assert (broken.name, broken.port, broken.op_type) == ("conv1", Port("conv1", "output", 1), "Conv2D")
    assert "output 1" in broken.reason
    assert "needs 200 bytes" in broken.reason
    assert "found 170: the file is cut off" in broken.reason


@pytest.mark.parametrize(("data", "says"), [
    (b"", "an empty file"),
    (b"\x01\x02", "2 bytes"),
    (struct.pack("<Q", 1 << 60) + bytes(50), "does not fit"),
    (struct.pack("<Q", 0) + bytes(50), "header of 0 bytes"),
    (struct.pack("<Q", 40) + b"\xff" * 60, "header is damaged"),
    (b"MZ" + bytes(range(200)), "no dump"),
    (simple()[:20], "cut off"),
])
def test_spec8_17_an_empty_garbage_or_beheaded_file_says_what_is_wrong_with_it(
    tmp_path: Path, data: bytes, says: str,
) -> None:
    path = put(tmp_path, NAME, data)
    with pytest.raises(FormatError, match=says) as caught:
        read_dump(path)
    assert str(caught.value).startswith(str(path))


def test_spec8_15_a_payload_that_is_no_multiple_of_the_item_size_breaks_one_tensor(tmp_path: Path) -> None:
    put(tmp_path, NAME, big(header("conv1", (output(FLOAT, ND, (3,), 11),)), bytes(11)))
    put(tmp_path, "Relu.relu1.4.1.1700000000002000", simple("relu1"))
    dump = read_dump(tmp_path)
    assert list(dump) == [Port("relu1", "output", 0)]
    assert "needs 12 bytes, its header gives it 11" in dump.broken[0].reason


@pytest.mark.parametrize("dims", [(1 << 60,), (1 << 40, 1 << 40), (1 << 63, 1 << 63, 3), (2,) * 40])
def test_a_header_that_claims_more_than_there_is_fails_at_once(tmp_path: Path, dims: tuple[int, ...]) -> None:
    content = read_file(put(tmp_path, NAME, big(header("", (output(FLOAT, ND, dims, (1 << 64) - 1),)), bytes(64))))
    assert not content.refs
    assert content.broken[0].port == Port("conv1", "output", 0)


def test_an_unknown_data_type_is_named(tmp_path: Path) -> None:
    content = read_file(put(tmp_path, NAME, big(header("", (output(99, ND, (4,), 8),)), bytes(8))))
    assert "data type 99 is not known" in content.broken[0].reason


def test_spec8_07_bytes_of_an_undefined_type_are_kept_as_bytes(tmp_path: Path) -> None:
    content = read_file(put(tmp_path, NAME, big(header("", (output(UNDEFINED, ND, (4,), 16),)), bytes(range(16)))))
    ref = content.refs[Port("conv1", "output", 0)]
    assert (ref.dtype.name, ref.shape) == ("undefined", (16,))
    assert ref.raw() == bytes(range(16))
    with pytest.raises(FormatError, match="no defined meaning"):
        ref.numpy()


def test_an_optional_input_that_was_not_given_keeps_the_numbers_of_the_others(tmp_path: Path) -> None:
    x = halves(3)
    head = header("", (), (b"", input_(FLOAT16, ND, (3,), 6)))
    assert list(read_file(put(tmp_path, NAME, big(head, x.tobytes()))).refs) == [Port("conv1", "input", 1)]


def test_an_op_without_tensors_is_read_but_payload_without_tensors_is_damage(tmp_path: Path) -> None:
    dump = read_dump(put(tmp_path, NAME, big(header("conv1"))))
    assert list(dump.ops) == ["conv1"]
    assert "holds no input and no output" in dump.notes[0]
    with pytest.raises(FormatError, match="lists no tensor"):
        read_dump(put(tmp_path, NAME, big(header("conv1"), bytes(8))))


def test_a_scalar_has_no_axes(tmp_path: Path) -> None:
    path = put(tmp_path, NAME, big(header("", (output(FLOAT, ND, (), 4, ()),)), struct.pack("<f", 2.5)))
    assert read_file(path).refs[Port("conv1", "output", 0)].numpy() == 2.5


def test_exception_dumps_write_their_generic_inputs_last(tmp_path: Path) -> None:
    first, generic, second, out = (halves(n) * n for n in (3, 4, 5, 6))
    head = header("conv1", (output(FLOAT16, ND, (6,), 12),), (
        input_(FLOAT16, ND, (3,), 6), input_(FLOAT16, ND, (4,), 8, input_type=1),
        input_(FLOAT16, ND, (5,), 10, input_type=2),
    ), extra=blob(8, number(3, 20)) + blob(9, "aicore exception"))
    path = put(tmp_path, "exception_info.1.3.20260101101112345", big(
        head, first.tobytes(), second.tobytes(), out.tobytes(), bytes(20), generic.tobytes()))
    content = read_file(path)
    for index, want in enumerate((first, generic, second)):
        assert np.array_equal(content.refs[Port("conv1", "input", index)].numpy(), want)
    assert np.array_equal(content.refs[Port("conv1", "output", 0)].numpy(), out)
    assert content.op.dfx_message == "aicore exception"
    assert (content.op.task, content.op.stream) == (3, 1)


def test_the_original_of_an_output_is_kept_for_pairing(tmp_path: Path) -> None:
    x = halves(1, 1, 2, 2, 16)
    origin = blob(1, "model/relu:x") + number(2, 1) + number(3, FLOAT) + number(4, NHWC)
    path = put(tmp_path, NAME, big(
        header("", (output(FLOAT16, NC1HWC0, x.shape, x.nbytes, (1, 2, 2, 9), origin=origin),)), x.tobytes()))
    content = read_file(path)
    assert content.op.origins == {0: Origin("model/relu:x", 1, "NHWC", None, DTYPES["float32"])}
    ref = content.refs[Port("conv1", "output", 0)]
    assert ref.original_layout == "NHWC"
    assert np.array_equal(ref.numpy(), x.transpose(0, 2, 3, 1, 4).reshape(1, 2, 2, 16)[..., :9])


def test_a_file_whose_header_names_another_op_is_unreadable(tmp_path: Path) -> None:
    put(tmp_path, "Conv2D.conv1.3.1.1700000000001000", simple("relu1"))
    put(tmp_path, "Relu.relu1.4.1.1700000000002000", simple("conv1"))
    put(tmp_path, "Relu.relu2.5.1.1700000000003000", simple("relu2"))
    dump = read_dump(tmp_path)
    assert list(dump) == [Port("relu2", "output", 0)]
    assert {(b.name, "'conv1'" in b.reason and "'relu1'" in b.reason) for b in dump.broken} == {
        ("conv1", True), ("relu1", True)}


@pytest.mark.parametrize(("in_name", "in_header"), [
    ("model_conv_1_a", "model/conv.1 a"), ("a_b", "a\\b"), ("conv1", ""), ("conv1_lxslice3", "conv1"),
    ("sgt_graph_0_conv1", "conv1"), ("Node_OpDebug", "Node_Op"), ("a:b(c)+%1", "a:b(c)+%1"),
])
def test_flattened_sliced_and_nameless_headers_do_not_disagree(
    tmp_path: Path, in_name: str, in_header: str,
) -> None:
    content = read_file(put(tmp_path, f"Conv2D.{in_name}.3.1.1700000000001000", simple(in_header)))
    assert content.op.name == (in_header or in_name)


# -- whole-file protobuf -----------------------------------------------------------------------------------------


def test_an_old_whole_file_protobuf_has_its_payloads_inside(tmp_path: Path) -> None:
    a, b = halves(2, 3), halves(1, 1, 2, 2, 16)
    raw = blob(1, "1.0") + number(2, 1700000000001000)
    raw += blob(3, output(FLOAT16, NC1HWC0, b.shape, b.nbytes, (1, 5, 2, 2), data=b.tobytes()))
    raw += blob(4, input_(FLOAT16, ND, (2, 3), 12, (2, 3), data=a.tobytes())) + blob(6, "conv1")
    raw += blob(5, number(1, 0) + blob(2, bytes(5)) + number(3, 5))
    path = put(tmp_path, NAME, raw)
    content = read_file(path)
    assert content.unread == 1
    assert np.array_equal(content.refs[Port("conv1", "input", 0)].numpy(), a)
    want = b.transpose(0, 1, 4, 2, 3).reshape(1, 16, 2, 2)[:, :5]
    assert np.array_equal(content.refs[Port("conv1", "output", 0)].numpy(), want)


def test_a_cut_off_whole_file_protobuf_is_unreadable(tmp_path: Path) -> None:
    raw = header("conv1", (output(FLOAT16, ND, (300,), 600, data=bytes(600)),))
    with pytest.raises(FormatError, match="cut off"):
        read_file(put(tmp_path, NAME, raw[:-50]))


def test_other_protobuf_files_are_not_taken_for_dumps(shared: Path) -> None:
    for path in [*(shared / "onnx").glob("*.onnx"), *(shared / "caffe").glob("*.caffemodel"),
                 *(shared / "tensorflow").glob("*.pb"), *(shared / "om").glob("*.om")]:
        with pytest.raises((FormatError, InputError)) as caught:
            read_dump(path)
        assert len(str(caught.value).splitlines()) == 1


# -- nano --------------------------------------------------------------------------------------------------------


def test_a_nano_dump_has_the_numbers_of_ge(tmp_path: Path) -> None:
    a, b = np.arange(6, dtype="<f4"), halves(1, 2, 2, 2, 16)
    path = put(tmp_path, NAME, nano(
        [(nano_input(0, ND, 24, (2, 3), (2, 3)), a.tobytes())],  # GE: 0 is float32
        [(nano_output(1, NC1HWC0, 256, (1, 2, 2, 2, 16), (1, 17, 2, 2), "relu", 2, 0, NCHW), b.tobytes())],
    ))
    content = read_file(path)
    assert content.op.name == "conv1"
    assert np.array_equal(content.refs[Port("conv1", "input", 0)].numpy(), a.reshape(2, 3))
    want = b.transpose(0, 1, 4, 2, 3).reshape(1, 32, 2, 2)[:, :17]
    assert np.array_equal(content.refs[Port("conv1", "output", 0)].numpy(), want)
    assert content.op.origins[0] == Origin("relu", 2, "NCHW", None, DTYPES["float32"])


def test_a_nano_dump_may_have_outputs_only(tmp_path: Path) -> None:
    x = np.arange(4, dtype="<i8")
    path = put(tmp_path, NAME, nano([], [(nano_output(9, ND, 32, (4,), None), x.tobytes())]))
    assert np.array_equal(read_file(path).refs[Port("conv1", "output", 0)].numpy(), x)


@pytest.mark.parametrize(("change", "says"), [
    (lambda raw: raw[:40], "does not fit"),
    (lambda raw: raw[:20] + b"\xff\xff\xff\x7f" + raw[24:], "damaged"),
    (lambda raw: struct.pack("<Q", 4) + raw[8:], "does not fit"),
])
def test_a_damaged_nano_header_is_unreadable(tmp_path: Path, change: object, says: str) -> None:
    raw = nano([(nano_input(0, ND, 24, (2, 3), (2, 3)), bytes(24))])
    with pytest.raises(FormatError, match=says):
        read_file(put(tmp_path, NAME, change(raw)))  # type: ignore[operator]


def test_a_file_that_ends_before_its_header_says_gets_a_note_even_where_no_tensor_suffers(tmp_path: Path) -> None:
    x = halves(3)
    content = read_file(put(tmp_path, NAME, big(header("", (output(FLOAT16, ND, (3,), 32),)), x.tobytes())))
    assert np.array_equal(content.refs[Port("conv1", "output", 0)].numpy(), x)
    assert "ends 26 bytes before its header says" in content.notes[0]


def test_a_list_of_a_nano_header_with_an_unknown_tag_gets_a_note(tmp_path: Path) -> None:
    raw = bytearray(nano([(nano_input(0, ND, 24, (2, 3), (2, 3)), bytes(24))]))
    raw[16] = 9
    content = read_file(put(tmp_path, NAME, bytes(raw)))
    assert not content.refs
    assert any("of its header were not understood" in note for note in content.notes)


def test_a_truncated_nano_payload_is_one_broken_tensor(tmp_path: Path) -> None:
    raw = nano([(nano_input(0, ND, 24, (2, 3), (2, 3)), bytes(24))], [(nano_output(1, ND, 8, (4,), None), bytes(8))])
    content = read_file(put(tmp_path, NAME, raw[:-3]))
    assert list(content.refs) == [Port("conv1", "input", 0)]
    assert "needs 8 bytes" in content.broken[0].reason
    assert "3 bytes follow" in read_file(put(tmp_path, NAME, raw + bytes(3))).notes[0]


# -- writing -----------------------------------------------------------------------------------------------------


def test_a_written_file_has_the_fields_of_the_specs(tmp_path: Path) -> None:
    stored = halves(1, 2, 3, 3, 16)
    ref = TensorRef("", DTYPES["float16"], stored.shape, 0, None, "NC1HWC0", (1, 20, 3, 3), "NCHW", array=stored)
    op = DumpedOp(
        "m/conv.1", "Conv2D", "", 1700000000001000, 3, 7, addresses={("output", 0): 4096},
        origins={0: Origin("relu", 1, "NHWC", None, DTYPES["float32"])},
    )
    path = write_file(tmp_path, op, [np.arange(4, dtype=np.int64)], [ref])
    assert path.name == "Conv2D.m_conv_1.3.7.1700000000001000"
    fields, payload = split(path.read_bytes())
    assert fields == [
        (1, b"2.0"), (2, 1700000000001000),
        (3, [(1, 2), (2, 3), (3, [(1, (1, 2, 3, 3, 16))]), (4, [(1, b"relu"), (2, 1), (3, 1), (4, 1)]), (6, 576),
             (7, [(1, (1, 20, 3, 3))]), (9, 4096)]),
        (4, [(1, 8), (2, 2), (3, [(1, (4,))]), (5, 32)]),
        (6, b"m/conv.1"),
    ]
    assert payload == np.arange(4, dtype=np.int64).tobytes() + stored.tobytes()
    assert not list(tmp_path.glob(".*"))


def test_bfloat16_and_packed_types_are_written_as_they_are_stored(tmp_path: Path) -> None:
    import ml_dtypes

    x = np.array([1, -2, 3.140625], ml_dtypes.bfloat16)
    ints = TensorRef("", DTYPES["int4"], (3,), array=np.array([1, -1, 7], np.int8))
    path = write_file(tmp_path, DumpedOp("a", "A", time=1), [], [x, ints])
    fields, payload = split(path.read_bytes())
    assert payload == x.tobytes() + bytes([0xF1, 0x07])
    assert [dict(value)[1] for field, value in fields if field == 3] == [BF16, 28]


def test_every_dump_of_another_encoder_comes_back_field_for_field(shared: Path, tmp_path: Path) -> None:
    files = sorted((shared / "peer_results").glob("*/npu/*"))
    assert len(files) >= 25
    for file in files:
        content = read_file(file)
        refs = content.refs
        sides = {side: [refs[p] for p in refs if p.side == side] for side in ("input", "output")}
        path = write_file(tmp_path, content.op, sides["input"], sides["output"])
        assert path.name == file.name
        assert split(path.read_bytes()) == split(file.read_bytes()), file.name


def test_a_name_longer_than_a_file_system_takes_goes_into_mapping_csv(tmp_path: Path) -> None:
    name = "block/" * 60 + "conv"
    path = write_file(tmp_path, DumpedOp(name, "Conv2D", "", 1700000000001000, 1, 1), [], [halves(3)])
    assert path.name.isdigit()
    dump = read_dump(tmp_path)
    assert list(dump) == [Port(name, "output", 0)]
    assert dump.ops[name].op_type == "Conv2D"


def test_a_full_disk_or_missing_folder_is_our_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "no").write_text("in the way")
    with pytest.raises(InputError, match="no/file: cannot be written"):
        write_file(tmp_path / "no" / "file", DumpedOp("a", "A", time=1), [], [halves(3)])


def test_reading_a_header_reads_no_payload(tmp_path: Path) -> None:
    head = header("conv1", (output(FLOAT, ND, (1 << 28,), 1 << 30),))
    path = tmp_path / NAME
    with open(path, "wb") as file:  # a sparse file of one gigabyte
        file.write(struct.pack("<Q", len(head)) + head)
        file.truncate(8 + len(head) + (1 << 30))
    ref = read_dump(path)[Port("conv1", "output", 0)]
    assert ref.count == 1 << 28
    assert ref.read((slice(1 << 27, (1 << 27) + 3),)).tolist() == [0, 0, 0]


def test_an_original_that_can_only_be_nhwc_or_hwcn_reads_as_such(samples: Path) -> None:
    """Headers do not say the order of an original's axes; where shapes leave one reading, `numpy()` takes it."""
    dump = read_dump(samples / "digits_cnn" / "npu")
    golden = read_dump(samples / "digits_cnn" / "golden")
    found = dump[Port("pool1/MaxPool", "input", 0)].numpy()
    expected = golden[Port("conv2/Relu", "output", 0)].numpy()
    assert found.shape == expected.shape == (4, 8, 8, 32)
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-2)
    assert all(ref.numpy().shape == ref.own_shape for ref in dump.refs.values())


def test_a_blocked_tensor_larger_than_its_original_in_height_and_width_is_not_cut_to_it(tmp_path: Path) -> None:
    """Only channels are padded to blocks: 6x6 for 4x4 is another tensor, or a wrong header."""
    x = np.random.default_rng(0).standard_normal((1, 1, 6, 6, 16)).astype("<f2")
    raw = big(header("conv1", (output(FLOAT16, NC1HWC0, x.shape, x.nbytes, (1, 5, 4, 4)),)), x.tobytes())
    put(tmp_path / "npu", NAME, raw)
    (tmp_path / "golden").mkdir()
    np.save(tmp_path / "golden" / "conv1.0.1700000000001000.npy",
            x[0, 0, :4, :4, :5].transpose(2, 0, 1)[None].astype("f4"))
    report = acccmp.compare(tmp_path / "golden", tmp_path / "npu")
    (row,) = report.comparisons
    assert str(row.verdict) == "shape"
    assert row.reason == "golden is 1x5x4x4, npu NC1HWC0 1x1x6x6x16: they do not fit"
    assert not report.passed
