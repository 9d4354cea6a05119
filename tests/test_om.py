"""Device models (.om) read without the vendor's toolkit: real files, and each variant written by hand."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import om_bytes as made
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from acccmp.core.graph import Graph
from acccmp.core.tensor import DTYPES
from acccmp.errors import FormatError
from acccmp.models import atc_json, build_pbtxt, om
from acccmp.models.device_graph import all_nodes
from acccmp.models.load import load
from acccmp.models.neighbours import look_beside
from acccmp.models.om_attrs import Dictionary, number_of
from acccmp.schemas import ge_pb2

LANENET = "a-ircle_atlas200i-line-tracking-car__my_122_anenet.om"
HH = "Ascend_ModelZoo-TensorFlow__hh_om.om"
TRIO = "hicann_ge__dynamic_and_static_graph_without_unfold.om"
FLOW = "hicann_ge__flow_model.om"
VANILLA = "sth1002_atlas200DK__vanillacnn.om"

# variant, models in the header, ops, weights, SoC, first input (name, shape, bytes)
REAL = {
    LANENET: ("G3", 1, 547, 393, "Ascend310B4", ("input_image", [1, 3, 256, 512], 1572864)),
    HH: ("G2b", 1, 46, 17, "Ascend310", ("input", [100, 784], 313600)),
    TRIO: ("G3", 3, 14, 2, None, ("data_1", [2, 2], 16)),
    FLOW: ("flow", 1, 11, 0, None, ("_arg_0", [16], 64)),
    VANILLA: ("G1", 1, 21, 12, None, ("data", [4, 3, 40, 40], 76800)),
}


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(raw: bytes, name: str = "net.om") -> Path:
        path = tmp_path / name
        path.write_bytes(raw)
        return path
    return write


def small() -> tuple[Any, bytes, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    filters, bias = rng.normal(size=(20, 3, 3, 3)).astype("f4"), rng.normal(size=20).astype("f4")
    model, weights = made.conv_model(filters, bias)
    return model, weights, filters, bias


# -- real files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REAL)
def test_every_real_file_is_described_whole_and_as_plain_json(shared: Path, name: str) -> None:
    variant, models, ops, weights, soc, first = REAL[name]
    facts = om.describe(shared / "om" / name)
    json.dumps(facts)
    assert (facts["variant"], facts["header"]["models"], facts["nodes"]) == (variant, models, ops)
    assert facts["weights"]["tensors"] == weights
    assert facts["compiled"].get("SoC") == soc
    entry = facts["inputs"][0]
    assert (entry["name"], entry["shape"], entry["bytes"]) == first
    assert not facts["encrypted"]
    assert not facts["unknown"]


def test_all_355_references_of_a_real_model_resolve_in_its_onnx(shared: Path) -> None:
    onnx = pytest.importorskip("onnx")
    original = onnx.load(next((shared / "onnx").glob("a-ircle*")), load_external_data=False)
    names = {node.name for node in original.graph.node}
    graph = om.load(shared / "om" / LANENET)
    references = {name for node in graph.nodes for name in node.origins or ()}
    assert len(references) == 355
    assert references <= names
    assert {tensor.original: str(tensor.made_by) for tensor in graph.io.outputs} == {
        "binary_logits": "PartitionedCall_/binary_transposed_conv/ConvTranspose_Conv2DTranspose_53:output:0",
        "instance_embedding": "PartitionedCall_/embedding_transposed_conv/ConvTranspose_Conv2DTranspose_61:output:0",
    }


def test_all_124_convolution_weights_of_a_real_model_equal_the_onnx_ones_in_fp16(shared: Path) -> None:
    onnx = pytest.importorskip("onnx")
    original = onnx.load(next((shared / "onnx").glob("a-ircle*")))
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in original.graph.initializer}
    # Weights that several layers share come through an Identity.
    behind = {node.output[0]: node.input[0] for node in original.graph.node if node.op_type == "Identity"}
    by_node = {node.name: node for node in original.graph.node}
    graph = om.load(shared / "om" / LANENET)
    equal: set[str] = set()
    different: set[str] = set()
    for node in graph.nodes:
        if node.op_type != "Conv2D" or len(node.inputs) < 2:
            continue
        ref = graph.weights.get(node.inputs[1])
        convs = [by_node[name] for name in node.origins or () if by_node[name].op_type == "Conv"]
        if ref is None or ref.layout != "FRACTAL_Z" or len(convs) != 1:
            continue
        name = behind.get(convs[0].input[1], convs[0].input[1])
        theirs = arrays[name].astype("f2")
        n, c, h, w = theirs.shape
        raw = np.frombuffer(ref.raw(), "<f2").reshape(-(-c // 16), h, w, -(-n // 16), 16, 16)
        by_hand = raw.transpose(3, 4, 0, 5, 1, 2).reshape(-(-n // 16) * 16, -(-c // 16) * 16, h, w)[:n, :c]
        assert np.array_equal(by_hand, ref.numpy())
        (equal if np.array_equal(ref.numpy(), theirs) else different).add(name)
    assert len(equal) == 124
    assert not different


def test_all_25_references_of_an_older_model_resolve_in_its_tensorflow_graph(shared: Path) -> None:
    raw = next((shared / "tensorflow").glob("*hh.pb")).read_bytes()
    references = {name for node in om.load(shared / "om" / HH).nodes for name in node.origins or ()}
    assert len(references) == 25
    assert all(f"\n{chr(len(name))}{name}".encode() in raw for name in references)  # NodeDef.name, field 1


def test_known_shape_submodels_decode_with_their_own_dictionary_and_then_the_roots(shared: Path) -> None:
    graph = om.load(shared / "om" / TRIO)
    inner = graph["known_op"].subgraphs["sub_1"]
    assert inner["data_i"].attrs["_parent_node_index"] == 0
    assert inner["add"].attrs["_ge_attr_op_kernel_lib_name"] == "aicpu_ascend_kernel"
    assert not any(key.startswith("\0") for node in all_nodes(graph) for key in node.attrs)
    assert inner.weights["const_1:0"].numpy().shape == (2, 2)


def test_models_inside_of_a_flow_are_read_and_told_apart(shared: Path) -> None:
    graph = om.load(shared / "om" / FLOW)
    inside = {node.name: node for node in graph.nodes if node.op_type == "SubModel"}
    assert {name: node.attrs["kind"] for name, node in inside.items()} == {"graph1": "NPU", "graph2": "HOST_CPU"}
    assert len(inside["graph1"].subgraphs["graph1"]) == 3


def test_the_first_generation_has_names_as_edges_and_its_weights_inside(shared: Path) -> None:
    graph = om.load(shared / "om" / VANILLA)
    assert graph["Conv2"].inputs == ("Pool1:0",)
    filters = graph.weights["Conv1:filter"]
    assert filters.own_shape == (16, 3, 5, 5)
    raw = np.frombuffer(filters.raw(), "<f2").reshape(25, 16, 16)
    assert not raw[:, :, 3:].any()  # channels beyond the third are padding
    assert np.array_equal(filters.numpy(), raw[:, :, :3].transpose(1, 2, 0).reshape(16, 3, 5, 5))


def _decoded_by_hand(model: Any) -> Any:
    """A copy of a ModelDef with attribute names written out, by the rule of the specs, independent of the reader."""
    plain = ge_pb2.ModelDef.FromString(model.SerializeToString())
    if "om_compress_version" not in model.attr:
        return plain
    names, values, texts = (model.attr[k].list for k in
                            ("attr_name_enum", "attr_value_enum", "attrs_use_string_value"))

    def expand(attrs: Any) -> None:
        for key in [key for key in attrs if key.startswith("\0")]:
            index = sum((ord(char) - 1) * 127**place for place, char in enumerate(key[1:]))
            value = ge_pb2.AttrDef.FromString(attrs[key].SerializeToString())
            if texts.b[index]:
                if value.WhichOneof("value") == "i":
                    value.s = values.s[value.i]
                elif value.list.i:
                    numbers = list(value.list.i)
                    value.list.Clear()
                    value.list.s.extend(values.s[n] for n in numbers)
                    value.list.val_type = 1
            del attrs[key]
            attrs[names.s[index].decode()].CopyFrom(value)

    for graph in plain.graph:
        for op in graph.op:
            expand(op.attr)
            for desc in (*op.input_desc, *op.output_desc):
                expand(desc.attr)
    return plain


def _as_atc_prints(model: Any) -> str:
    """A ModelDef as `atc --mode=1` prints it: maps as lists of pairs, enums as names, 64-bit integers as they are."""
    names = {row.proto: f"DT_{ {'float32': 'FLOAT', 'float64': 'DOUBLE'}.get(row.name, row.name.upper()) }"
             for row in DTYPES.values()}

    def value(attr: Any) -> Any:
        kind = attr.WhichOneof("value")
        if kind is None:
            return None
        inner = getattr(attr, kind)
        if kind == "list":
            for field in ("s", "i", "f", "b"):
                items = list(getattr(inner, field))
                if items:
                    items = [item.decode("latin-1") if isinstance(item, bytes) else item for item in items]
                    return {"list": {field: items, "val_type": inner.val_type}}
            return {"list": {"val_type": inner.val_type}}
        if kind == "s":
            return {"s": inner.decode("utf-8")}
        if kind in ("i", "b", "dt"):
            return {kind: inner}
        if kind == "f":
            return {"f": f"{inner:.9g}"}
        return {kind: {}}

    def attrs(found: Any) -> list[Any]:
        return [{"key": key, "value": value(found[key])} for key in found]

    def desc(found: Any) -> Any:
        return {"dtype": names[found.dtype], "layout": found.layout, "shape": {"dim": list(found.shape.dim)},
                "size": str(found.size), "attr": attrs(found.attr)}

    return json.dumps({"name": model.name, "version": model.version, "attr": attrs(model.attr), "graph": [
        {"name": graph.name, "op": [
            {"name": op.name, "type": op.type, "id": op.id, "input": list(op.input),
             "input_desc": [desc(d) for d in op.input_desc], "output_desc": [desc(d) for d in op.output_desc],
             "attr": attrs(op.attr), "subgraph_name": list(op.subgraph_name)} for op in graph.op]}
        for graph in model.graph]})


def _message(path: Path) -> Any:
    """The ModelDef of a file with one model, cut out by the offsets of the specs."""
    raw = path.read_bytes()
    wide = struct.unpack_from("<Q", raw, 184)[0] != 0
    count = struct.unpack_from("<I", raw, 256)[0]
    head, row = (264, 24) if wide else (260, 12)
    for place in range(count):
        kind, *rest = struct.unpack_from("<I4xQQ" if wide else "<III", raw, head + place * row)
        if kind == 0:
            start = head + count * row + rest[0]
            return ge_pb2.ModelDef.FromString(raw[start : start + rest[1]])
    raise AssertionError("no model in the file")


def _mapping(graph: Graph) -> dict[str, Any]:
    return {
        node.name: (node.op_type, node.inputs, node.control, node.origins,
                    tuple((s.dtype, s.shape, s.layout, s.origin) for s in map(graph.spec, node.outputs)))
        for node in all_nodes(graph)
    }


@pytest.mark.parametrize("name", [LANENET, HH])
def test_the_mapping_from_the_om_is_that_of_atcs_json(shared: Path, tmp_path: Path, name: str) -> None:
    path = shared / "om" / name
    printed = tmp_path / "model.json"
    printed.write_text(_as_atc_prints(_decoded_by_hand(_message(path))))
    mine, theirs = om.load(path), atc_json.load(printed)
    assert _mapping(mine) == _mapping(theirs)
    assert [(t.original, t.made_by) for t in mine.io.outputs] == [(t.original, t.made_by) for t in theirs.io.outputs]
    assert (mine.inputs, mine.outputs) == (theirs.inputs, theirs.outputs)


@pytest.mark.parametrize("name", [LANENET, HH])
def test_the_mapping_from_a_build_graph_in_text_form_is_that_of_the_om(
    shared: Path, tmp_path: Path, name: str,
) -> None:
    path = shared / "om" / name
    message = _decoded_by_hand(_message(path))
    for key in list(message.attr):
        if key not in ("attr_model_out_nodes_name", "soc_version"):
            del message.attr[key]
    text = tmp_path / "ge_proto_00000000_graph_1_Build.txt"
    text.write_text(text_format.MessageToString(message))
    assert _mapping(build_pbtxt.load(text)) == _mapping(om.load(path))


@given(st.integers(0, 127**3 - 1))
def test_coded_names_are_numbers_of_base_127(index: int) -> None:
    digits, rest = [], index
    while rest or not digits:
        rest, digit = divmod(rest, 127)
        digits.append(chr(digit + 1))
    key = "\0" + "".join(digits)
    assert number_of(key) == index
    names = Dictionary([f"name{i}" for i in range(300)], ["a", "b"], [True] * 300)
    known = index < 300
    assert names.decoded(key, (1, 0, 7)) == ((f"name{index}", ("b", "a", 7)) if known else (key, (1, 0, 7)))
    assert names.decoded("plain", 1) == ("plain", 1)


# -- variants written by hand ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "variant"), [
    ({"wide": True}, "G3"), ({"wide": False}, "G2b"), ({"wide": False, "version": made.OLD}, "G2a"),
    ({"wide": True, "gap": 48}, "G3"),
])
def test_each_layout_of_the_file_gives_the_same_model(written: Any, options: dict[str, Any], variant: str) -> None:
    model, weights, filters, bias = small()
    path = written(made.om((0, model.SerializeToString()), (1, weights), **options))
    graph = om.load(path)
    assert graph.meta["variant"] == variant
    assert np.array_equal(graph.weights["w:0"].numpy(), filters.astype("f2"))
    assert np.array_equal(graph.weights["b:0"].numpy(), bias.astype("f2"))
    facts = om.describe(path)
    assert facts["header"]["models"] == 1  # in old headers the platform's version stands there: "1.11" as a number
    assert facts["header"]["platform version"] == "1.11.z.0"


def test_control_edges_and_absent_inputs_are_kept_apart(written: Any) -> None:
    model, weights, *_ = small()
    graph = om.load(written(made.om((0, model.SerializeToString()), (1, weights))))
    conv = graph["conv"]
    assert conv.inputs == ("cast:0", "w:0", "b:0")
    assert conv.control == ("cast",)
    assert conv.origins == ("conv",)
    assert graph["cast"].origins == ()
    assert graph["x"].origins is None
    origin = graph.spec("conv:0").origin
    assert origin is not None
    assert (origin.node, origin.index, origin.layout, origin.dtype) == ("conv", 0, "NCHW", DTYPES["float32"])
    assert graph.io.outputs[0].original == "y"


def test_a_dynamic_model_says_which_branch_answers_which_batch(written: Any) -> None:
    model = ge_pb2.ModelDef(name="net")
    graph = model.graph.add(name="root")
    open_image = (1, "NCHW", [-1, 3, 8, 8])
    made.add_op(graph, "x", "Data", [""], out=[open_image], takes=[open_image], index=0,
                _mbatch_origin_input_dims=[-1, 3, 8, 8])
    made.add_op(graph, "pick", "Data", [""], out=[(7, "ND", [1])], takes=[(7, "ND", [1])], index=1)
    case = made.add_op(
        graph, "case", "Case", ["pick:0", "x:0"], out=[(1, "ND", [-1, 4])], subgraphs=["batch_1", "batch_8"],
        _batch_num=2, mbatch_dynamic_type=1, user_designate_shape_order=["x"],
    )
    made.set_attrs(case.attr, {"_pred_value_0": [1], "_pred_value_1": [8]})
    made.add_op(graph, "Node_Output", "NetOutput", ["case:0"], takes=[(1, "ND", [-1, 4])])
    for batch in (1, 8):
        branch = model.graph.add(name=f"batch_{batch}")
        made.add_op(branch, f"d{batch}", "Data", [""], out=[(1, "NCHW", [batch, 3, 8, 8])], _parent_node_index=1)
    facts = om.describe(written(made.om((0, model.SerializeToString()), dynamic=True)))
    assert facts["dynamic"] == "batch"
    assert facts["gears"] == [
        {"values": [1], "branch": "batch_1", "inputs": {"x": [1, 3, 8, 8]}},
        {"values": [8], "branch": "batch_8", "inputs": {"x": [8, 3, 8, 8]}},
    ]
    assert facts["inputs"][0]["bytes"] is None


def test_the_files_own_list_of_inputs_counts_and_brings_gears(written: Any) -> None:
    model, weights, *_ = small()
    body = made.tlv(0, struct.pack("<I", 1) + made.inout_record("x", [-1, 3, 8, 8], 0, 0, 3072, ranges=[1, 4, 3, 3]))
    body += made.tlv(1, struct.pack("<I", 1) + made.inout_record("conv:0:y", [-1, 20, 8, 8], 0, 0, 20480))
    body += made.tlv(2, struct.pack("<I2Q", 2, 1, 4)) + made.tlv(99, b"something new")
    facts = om.describe(written(made.om((8, body), (0, model.SerializeToString()), (1, weights))))
    assert facts["inputs"][0]["bytes"] == 3072
    assert facts["inputs"][0]["ranges"] == [[1, 4], [3, 3]]
    assert facts["outputs"][0]["name"] == "conv:0:y"
    assert [gear["inputs"] for gear in facts["gears"]] == [{"x": [1, 3, 8, 8]}, {"x": [4, 3, 8, 8]}]


def test_dynamic_image_sizes_and_dimensions_come_as_lists_of_numbers(written: Any) -> None:
    from acccmp.models.om_io import parse_inout_info

    image = made.tlv(3, struct.pack("<I2I", 2, 2, 2) + struct.pack("<4Q", 224, 224, 448, 448))
    dims = made.tlv(4, struct.pack("<I1I", 1, 3) + struct.pack("<3Q", 1, 2, 3))
    assert [gear.values for gear in parse_inout_info(image).gears] == [(224, 224), (448, 448)]
    assert parse_inout_info(dims).gears[0].values == (1, 2, 3)
    assert "damaged" in parse_inout_info(made.tlv(0, struct.pack("<I", 9))).notes[0]
    assert "cut off" in parse_inout_info(image[:-3]).notes[0]


def test_compiled_in_pre_processing_is_told(written: Any) -> None:
    model = ge_pb2.ModelDef(name="net")
    graph = model.graph.add(name="root")
    desc = (4, "NHWC", [1, 224, 224, 3])
    made.add_op(
        graph, "x", "Data", [""], out=[desc], takes=[desc], index=0, _data_related_aipp_mode="static_aipp",
        input_dims=[1, 336, 224], _aipp_inputs=["NHWC:DT_UINT8:x:75264:3:1,336,224"],
        aipp={"aipp_mode": 1, "input_format": 1, "src_image_size_w": 224, "csc_switch": True, "matrix_r0c0": 298},
    )
    entry = om.describe(written(made.om((0, model.SerializeToString()))))["inputs"][0]
    assert entry["shape"] == [1, 336, 224]
    assert entry["bytes"] == 336 * 224
    aipp = entry["aipp"]
    assert (aipp["mode"], aipp["input_format"], aipp["src_image_size_w"]) == ("static", "YUV420SP_U8", 224)
    assert aipp["takes"][0] == {"layout": "NHWC", "dtype": "uint8", "name": "x", "bytes": 75264, "shape": [1, 336, 224]}


def test_a_bundle_counts_from_its_table_and_holds_whole_models(written: Any) -> None:
    model, weights, filters, _ = small()
    first = made.om((0, model.SerializeToString()), (1, weights), name="prefill")
    second = made.om((0, model.SerializeToString()), (1, weights), name="decode")
    table_size = 8 + 3 * 24
    rows, at = b"", table_size
    for kind, content in ((25, b"\0" * 8), (24, first), (24, second)):
        rows += struct.pack("<I4xQQ", kind, at, len(content))
        at += len(content)
    raw = struct.pack("<I4x", 3) + rows + b"\0" * 8 + first + second
    graph = om.load(written(made.header(len(raw) + 256, model_type=5) + raw))
    assert not [note for note in graph.notes if "payload" in note]
    assert [node.name for node in graph.nodes] == ["prefill", "decode"]
    inner = graph["decode"].subgraphs["decode"]
    assert np.array_equal(inner.weights["w:0"].numpy(), filters.astype("f2"))


def test_models_nested_too_deeply_are_named_not_followed(written: Any) -> None:
    raw = made.om((0, small()[0].SerializeToString()))
    for level in range(12):
        sub = ge_pb2.SubmodelDef(model_name=f"level{level}", model_type="NPU", om_data=raw)
        outer = ge_pb2.ModelDef(name=f"flow{level}")
        made.add_op(outer.graph.add(name="g"), "x", "Data", [""], out=[(1, "ND", [1])])
        raw = made.om((0, outer.SerializeToString()), (6, b""), (7, sub.SerializeToString()), model_type=3)
    facts = om.describe(written(raw))
    assert "nested deeper" in json.dumps(facts)


def test_the_newest_form_is_a_zip_archive_whose_constants_stay_in_it(tmp_path: Path) -> None:
    values = np.arange(6, dtype="<f4")
    path = tmp_path / "net.om"
    made.om2(path, values.tobytes(), {"conv": {
        "_datadump_original_op_names": {"type": "list", "value": ["conv_1", "relu_1"]}}})
    graph = om.load(path)
    assert graph["conv"].origins == ("conv_1", "relu_1")
    assert graph.weights["w:0"].raw() == values.tobytes()
    facts = om.describe(path)
    assert facts["variant"] == "OM2"
    assert facts["dynamic"] == "batch"
    assert [gear["inputs"] for gear in facts["gears"]] == [{"x": [1, 3, 8, 8]}, {"x": [4, 3, 8, 8]}]
    assert any("no edges" in note for note in facts["notes"])


def test_an_archive_that_kept_its_graph_gives_edges_and_typed_weights(tmp_path: Path) -> None:
    model, weights, *_ = small()
    path = tmp_path / "net.om"
    made.om2(path, weights[512 : 512 + 9216], {}, text_format.MessageToString(model))
    graph = om.load(path)
    assert graph["conv"].inputs == ("cast:0", "w:0", "b:0")
    assert graph.weights["w:0"].layout == "FRACTAL_Z"


def test_a_zip_archive_that_is_no_model_and_one_that_would_explode_are_refused(tmp_path: Path) -> None:
    import zipfile

    path = tmp_path / "net.om"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(FormatError, match="not a device model"):
        om.load(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", " " * (16 << 20))
    with pytest.raises(FormatError, match="would unpack"):
        om.load(path)


def test_weights_in_files_beside_the_model_are_found_and_never_outside_of_its_folder(
    written: Any, tmp_path: Path,
) -> None:
    (tmp_path / "weight").mkdir()
    values = np.arange(8, dtype="<f4")
    (tmp_path / "weight" / "w.bin").write_bytes(b"\0" * 16 + values.tobytes())
    model = ge_pb2.ModelDef(name="net")
    graph = model.graph.add(name="g")
    desc = [(1, "ND", [8])]
    made.add_op(graph, "near", "FileConstant", out=desc, location="w.bin", offset=16, length=32)
    made.add_op(graph, "far", "FileConstant", out=desc, location="../../etc/passwd", offset=0, length=32)
    found = om.load(written(made.om((0, model.SerializeToString()))))
    assert np.array_equal(found.weights["near:0"].numpy(), values)
    assert "far:0" not in found.weights
    assert any("far" in note and "not beside" in note for note in found.notes)


# -- what is no model, or only a part of one ---------------------------------------------------------------------


def test_an_encrypted_model_is_named_and_its_header_still_told(written: Any) -> None:
    path = written(made.om((0, b"ciphertext"), encrypted=True, name="secret"))
    with pytest.raises(FormatError, match="encrypted"):
        om.load(path)
    facts = om.describe(path)
    assert facts["encrypted"]
    assert facts["name"] == "secret"
    assert "encrypted" in facts["notes"][0]


@pytest.mark.parametrize(("raw", "message"), [
    (b"", "empty"), (b"IMOD" + b"\0" * 12, "cut off"), (b"PICO" + b"\1" * 300, "SVP"),
    (b"/home/user/models/net.om\n", "text"), (b"\x08\x01" * 200, "its name is that of an Ascend device model"),
    (b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
    (made.header(4) + b"\xff\xff\xff\xff", "damaged"), (made.om((1, b"weights")), "no graph"),
    (made.om((0, b"\x3a\xff\xff")), "damaged"),
])
def test_what_is_no_model_is_refused_with_what_it_is(written: Any, raw: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        load(written(raw))
    assert "\n" not in str(caught.value)


def test_a_file_cut_in_its_kernels_is_refused_and_unknown_partitions_are_named(written: Any) -> None:
    model, weights, *_ = small()
    parts = ((0, model.SerializeToString()), (1, weights), (31, b"from the future"))
    facts = om.describe(written(made.om(*parts)))
    assert facts["unknown"][0]["partition"] == "unknown type 31"
    assert any("unknown type 31" in note for note in facts["notes"])
    with pytest.raises(FormatError, match="damaged"):
        om.load(written(made.om(*parts)[:-40]))
    longer = om.load(written(made.om(*parts) + b"tail"))
    assert any("longer than its header says" in note for note in longer.notes)


def test_a_weight_beyond_its_partition_is_left_out_and_said(written: Any) -> None:
    model, weights, *_ = small()
    graph = om.load(written(made.om((0, model.SerializeToString()), (1, weights[:1024]))))
    assert not graph.weights
    assert sum("left out" in note for note in graph.notes) == 2


def test_a_graph_that_owns_itself_ends(written: Any) -> None:
    model = ge_pb2.ModelDef(name="net")
    made.add_op(model.graph.add(name="root"), "a", "PartitionedCall", out=[(1, "ND", [1])], subgraphs=["one"])
    inner = model.graph.add(name="one")
    for place in range(3):
        made.add_op(inner, f"b{place}", "PartitionedCall", out=[(1, "ND", [1])], subgraphs=["one", "root"])
    assert len(om.load(written(made.om((0, model.SerializeToString()))))) == 1


def test_names_that_are_no_utf8_do_not_hide_the_model(written: Any) -> None:
    model, weights, *_ = small()
    raw = model.SerializeToString().replace(b"\n\x04cast", b"\n\x04\xd6\xd0\xce\xc4")  # a name in GBK
    graph = om.load(written(made.om((0, raw), (1, weights))))
    assert "ÖÐÎÄ" in graph


def test_the_onnx_like_text_of_build_graphs_has_descriptors_as_attributes(tmp_path: Path) -> None:
    path = tmp_path / "ge_onnx_00000000_graph_0_Build.pbtxt"
    path.write_text('''
ir_version: 3
graph {
  name: "net"
  node {
    output: "x:0" name: "x" op_type: "ge:Data"
    attribute { name: "index" i: 0 type: INT }
    attribute { name: "output_desc_dtype:0" s: "DT_FLOAT" type: STRING }
    attribute { name: "output_desc_layout:0" s: "NCHW" type: STRING }
    attribute { name: "output_desc_shape:0" ints: 1 ints: 3 ints: 8 ints: 8 type: INTS }
  }
  node {
    input: "x:0" input: "x:-1" output: "conv:0" name: "conv" op_type: "ge:Conv2D"
    attribute { name: "_datadump_original_op_names" strings: "conv_1" strings: "relu_1" type: STRINGS }
    attribute { name: "output_desc_dtype:0" s: "DT_FLOAT16" type: STRING }
    attribute { name: "output_desc_layout:0" s: "NC1HWC0" type: STRING }
    attribute { name: "output_desc_shape:0" ints: 1 ints: 1 ints: 8 ints: 8 ints: 16 type: INTS }
    attribute { name: "output_desc_origin_shape:0" ints: 1 ints: 16 ints: 8 ints: 8 type: INTS }
    attribute { name: "output_desc_origin_layout:0" s: "NCHW" type: STRING }
    attribute { name: "output_desc_attr__datadump_origin_name:0" s: "relu_1" type: STRING }
    attribute { name: "output_desc_attr__datadump_origin_output_index:0" i: 0 type: INT }
  }
}
''')
    graph = load(path)  # its kind is told by its text
    conv = graph["conv"]
    assert (conv.op_type, conv.inputs, conv.control, conv.origins) == ("Conv2D", ("x:0",), ("x",), ("conv_1", "relu_1"))
    spec = graph.spec("conv:0")
    assert (spec.shape, spec.layout, spec.dtype) == ((1, 1, 8, 8, 16), "NC1HWC0", DTYPES["float16"])
    assert spec.origin is not None
    assert (spec.origin.node, spec.origin.shape) == ("relu_1", (1, 16, 8, 8))
    assert graph.inputs == ("x:0",)


def test_a_build_graph_without_originals_says_which_stage_has_them(tmp_path: Path) -> None:
    path = tmp_path / "ge_proto_00000001_graph_0_PreRunBegin.txt"
    path.write_text('name: "net" graph { name: "g" op { name: "a" type: "Relu" } }')
    assert "stage Build" in build_pbtxt.load(path).notes[0]
    path.write_text('layer { name: "conv" type: "Convolution" }')
    with pytest.raises(FormatError, match="not a graph of the device"):
        build_pbtxt.load(path)


def test_a_large_model_is_described_without_reading_its_weights(tmp_path: Path) -> None:
    model = ge_pb2.ModelDef(name="net")
    graph = model.graph.add(name="g")
    size = 64 << 20
    made.add_const(graph, "w", 512, size - 512, (2, "ND", [(size - 512) // 2]))
    message = model.SerializeToString()
    table = 8 + 2 * 24
    path = tmp_path / "net.om"
    with open(path, "wb") as file:
        file.write(made.header(table + len(message) + size))
        file.write(struct.pack("<I4xI4xQQI4xQQ", 2, 0, 0, len(message), 1, len(message), size))
        file.write(message)
        file.truncate(256 + table + len(message) + size)
    code = (
        "import resource, sys; from acccmp.models import om; om.load(sys.argv[2]); "
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; facts = om.describe(sys.argv[1]); "
        "print(facts['weights']['bytes'], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    warm = tmp_path / "warm.om"
    warm.write_bytes(made.om((0, small()[0].SerializeToString()), (1, small()[1])))
    out = subprocess.run([sys.executable, "-c", code, str(path), str(warm)], capture_output=True, text=True, check=True)
    held, grown = map(int, out.stdout.split())
    assert held == size - 512
    assert grown < 8192  # KiB; the weights have 65536


def test_what_lies_beside_a_dump_is_offered_as_mapping_or_said_to_be_missing(written: Any, tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    dump.mkdir()
    assert "no device model lies beside" in look_beside([dump]).advice
    (tmp_path / "fusion_result.json").write_text('{"graph_fusion": {}}')
    (tmp_path / "manifest.json").write_text('{"schema": "x"}')
    assert "only counts what was fused" in look_beside([dump]).advice
    model, weights, *_ = small()
    path = written(made.om((0, model.SerializeToString()), (1, weights)), "net.om")
    (dump / "damaged.om").write_bytes(b"IM")
    found = look_beside([dump])
    assert found.mappings == (path,)
    assert f"--mapping {path}" in found.advice
