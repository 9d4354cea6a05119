"""ATC's JSON as a device Graph: a real file of CANN 5.1, the vendor's test cases, and the oddities of the format."""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from acccmp.core.dump import Port
from acccmp.core.graph import Graph
from acccmp.errors import FormatError
from acccmp.models.atc_json import load
from acccmp.models.device_graph import dtype_from, split_input, split_layout

REAL = "Ascend_msprobe__model.json"


@pytest.fixture(scope="module")
def real(shared: Path) -> Graph:
    return load(shared / "atc_json" / REAL)


def written(tmp_path: Path, *ops: Any, **model: Any) -> Graph:
    path = tmp_path / "mapping.json"
    path.write_text(json.dumps({"name": "m", "graph": [{"name": "m", "op": list(ops)}], **model}))
    return load(path)


def attr(key: str, **value: Any) -> dict[str, Any]:
    return {"key": key, "value": value or None}


def test_real_file_has_its_ops_in_id_order_and_its_edges(real: Graph, shared: Path) -> None:
    raw = json.loads((shared / "atc_json" / REAL).read_text())["graph"][0]["op"]
    by_id = sorted(raw, key=lambda op: op.get("id", 0))
    assert [node.name for node in real.nodes] == [op["name"] for op in by_id]
    for node, op in zip(real.nodes, by_id, strict=True):
        wanted = [text for text in op.get("input", []) if text and not text.endswith(":-1")]
        assert [tensor for tensor in node.inputs if tensor] == wanted
        assert node.op_type == op["type"]
    assert all(real.producer(tensor) is not None for node in real.nodes for tensor in node.inputs if tensor)


def test_real_file_tells_inputs_outputs_and_how_it_was_made(real: Graph) -> None:
    assert real.format == "om"
    assert real.inputs == ("boxes_all:0", "scores_all:0")
    assert real.outputs == ("trans_Cast_6:0", "trans_Cast_7:0", "Cast_1206:0")
    assert (real.io.outputs[0].original, real.io.outputs[0].made_by) == ("output0", Port("Cast_1219", "output", 0))
    assert [tensor.original for tensor in real.io.outputs] == ["output0", "output2", "output1"]
    assert real.compiled.soc == "Ascend310"
    assert "--framework=5" in real.compiled.command


def test_real_file_tells_inserted_ops_from_unfused_ones(real: Graph) -> None:
    assert real["trans_Cast_0"].origins == ()  # written, and empty: made by the compiler
    assert real["boxes_all"].origins is None  # not written: its own name
    origin = real.spec("trans_Cast_0:0").origin
    assert origin is not None
    assert (origin.node, origin.shape, origin.layout) == ("boxes_all", (1000, 80, 4), "NCHW")
    assert str(origin.dtype) == "float32"
    assert str(real.spec("trans_Cast_0:0").dtype) == "float16"


def test_vendors_cases_have_every_relation(shared: Path) -> None:
    graph = load(shared / "peer_results" / "fusion" / "fusion.json")
    assert graph["convbnrelu"].origins == ("conv", "bn", "relu")
    assert graph["trans_0"].origins == ()
    assert graph["softmax_p1"].attrs["_datadump_is_multiop"] is True
    split = graph.spec("split:1").origin
    assert split is not None
    assert (split.node, split.index) == ("split", 1)
    assert "_L1_fusion_sub_graph_no" in graph["l1a"].attrs


def test_null_values_and_lists_with_only_a_type_are_present_and_empty(tmp_path: Path) -> None:
    graph = written(
        tmp_path,
        {"name": "a", "type": "Cast", "attr": [attr("_datadump_original_op_names")]},
        {"name": "b", "type": "Cast", "id": "1", "attr": [
            attr("_datadump_original_op_names", list={"val_type": "VT_LIST_STRING"}),
        ]},
        {"name": "c", "type": "Cast", "id": 2, "attr": [attr("_datadump_original_op_names", list={"s": [""]})]},
        {"name": "d", "type": "Relu", "id": 3},
        {"name": "e", "type": "Relu", "id": 4, "attr": [
            attr("_datadump_original_op_names", list={"val_type": 1, "s": ["x", "y", "x"]}),
        ]},
    )
    assert [node.origins for node in graph.nodes] == [(), (), (), None, ("x", "y")]


def test_output_without_attributes_keeps_its_place(tmp_path: Path) -> None:
    """The vendor's reader drops such an entry, and all later outputs shift."""
    graph = written(tmp_path, {"name": "s", "type": "Split", "output_desc": [
        {"dtype": "DT_FLOAT16", "layout": "NCHW", "shape": {"dim": [1, 2]}},
        {"dtype": "DT_FLOAT", "attr": [attr("_datadump_origin_name", s="orig")]},
        None,
    ]})
    assert graph["s"].outputs == ("s:0", "s:1", "s:2")
    assert graph.spec("s:0").origin is None
    origin = graph.spec("s:1").origin
    assert origin is not None
    assert (origin.node, origin.index) == ("orig", 1)  # no index written: the place in the list


def test_control_edges_absent_inputs_and_names_with_colons(tmp_path: Path) -> None:
    graph = written(
        tmp_path,
        {"name": "a:b/c:1", "type": "Relu"},
        {"name": "d", "type": "Add", "id": 1, "input": ["a:b/c:1:0", "", "a:b/c:1:2", "a:b/c:1:-1", ""]},
    )
    assert graph["d"].inputs == ("a:b/c:1:0", "", "a:b/c:1:2")
    assert graph["d"].control == ("a:b/c:1",)
    assert graph["a:b/c:1"].outputs == ("a:b/c:1:0", "a:b/c:1:1", "a:b/c:1:2")
    assert split_input("x") == ("x", 0)


def test_values_of_every_kind_are_decoded(tmp_path: Path) -> None:
    graph = written(tmp_path, {"name": "a", "type": "X", "attr": [
        attr("s", s="text"), attr("i", i="83886083"), attr("f", f="0.5"), attr("b", b=False),
        attr("ints", list={"i": ["1", 2], "val_type": "VT_LIST_INT"}), attr("floats", list={"f": ["1e-3"]}),
        attr("lists", list_list_int={"list_list_i": [{"list_i": [1, "2"]}, {}]}),
        attr("named", func={"name": "f", "attr": [attr("inner", i=3)]}),
        attr("tensor", t={"desc": {"dtype": "DT_INT32", "attr": [attr("k", s="v")]}}), attr("none"), {"no": "key"},
    ]})
    assert graph["a"].attrs == {
        "s": "text", "i": 83886083, "f": 0.5, "b": False, "ints": (1, 2), "floats": (1e-3,), "lists": ((1, 2), ()),
        "named": {"name": "f", "attr": {"inner": 3}}, "tensor": {"desc": {"dtype": "DT_INT32", "attr": {"k": "v"}}},
        "none": None,
    }


def test_dynamic_sizes_and_ranks_stay_unknown(tmp_path: Path) -> None:
    graph = written(tmp_path, {"name": "a", "type": "X", "output_desc": [
        {"shape": {"dim": [-1, "3"]}}, {"shape": {"dim": [-2]}}, {"shape": {}}, {},
    ]})
    assert [graph.spec(f"a:{i}").shape for i in range(4)] == [(None, 3), None, (), None]


def test_op_without_a_type_is_kept_and_noted(tmp_path: Path) -> None:
    graph = written(tmp_path, {"name": "a"})
    assert graph["a"].op_type == ""
    assert "op a has no type" in graph.notes[0]


def test_names_used_twice_are_told_apart(tmp_path: Path) -> None:
    graph = written(tmp_path, {"name": "a", "type": "X"}, {"name": "a", "type": "X", "id": 1})
    assert [node.name for node in graph.nodes] == ["a", "a@2"]
    assert graph.aliases == {"a": ("a", "a@2")}
    assert graph.notes


def test_graphs_inside_ops_are_graphs(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps({"graph": [
        {"name": "main", "op": [{"name": "call", "type": "PartitionedCall", "subgraph_name": ["body", "gone"]}]},
        {"name": "body", "op": [{"name": "relu", "type": "Relu"}, {"name": "again", "type": "If",
                                                                  "subgraph_name": ["body"]}]},
    ]}))
    graph = load(path)
    assert list(graph["call"].subgraphs) == ["body"]
    assert [node.name for node in graph["call"].subgraphs["body"].nodes] == ["relu", "again"]
    assert graph["call"].subgraphs["body"]["again"].subgraphs == {}  # a graph inside itself is cut
    assert graph.name == "main"


@pytest.mark.parametrize(("text", "told"), [
    ("", "not JSON"),
    ("{", "not JSON"),
    ("[1]", "no object"),
    ("{}", '"graph"'),
    ('{"graph": [3]}', '"graph"'),
    ('{"graph": [{"op": [{"type": "X"}]}]}', "op 0 of graph '' has no name"),
    ('{"graph": [{"op": ["x"]}]}', "has no name"),
    ("[" * 100_000, "nested too deeply"),
    ('{"graph":[{"op":[{"name":"a","attr":[{"key":"k","value":' + '{"func":' * 4000 + "0" + "}" * 4000 + "}]}]}]}", ""),
])
def test_what_is_no_mapping_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(FormatError) as error:
        load(path)
    assert told in str(error.value)
    assert "x.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_fusion_result_is_told_from_a_mapping(shared: Path) -> None:
    with pytest.raises(FormatError, match="fusion_result"):
        load(shared / "atc_json" / "Ascend_ModelZoo-TensorFlow__hh_om_fusion_result.json")


def test_missing_file_is_one_line() -> None:
    with pytest.raises(FormatError, match="cannot be read"):
        load("nowhere.json")


def test_damaged_bytes_never_crash(shared: Path, tmp_path: Path) -> None:
    """Flipped bytes either still load or are refused with our error."""
    raw = bytearray((shared / "peer_results" / "fusion" / "fusion.json").read_bytes())
    rng = random.Random(4)
    path = tmp_path / "d.json"
    for _ in range(150):
        damaged = bytearray(raw)
        for _ in range(rng.randint(1, 6)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(bytes(damaged[: rng.choice([len(damaged), rng.randrange(len(damaged))])]))
        with contextlib.suppress(FormatError):
            assert load(path).format == "om"


@pytest.mark.parametrize(("text", "name"), [
    ("DT_FLOAT", "float32"), ("DT_FLOAT16", "float16"), ("DT_BF16", "bfloat16"), ("DT_BFLOAT16", "bfloat16"),
    ("DT_DOUBLE", "float64"), ("DT_INT8", "int8"), ("DT_BOOL", "bool"), (2, "float16"), (27, "bfloat16"),
    ("DT_UINT1", "uint1"), ("DT_FLOAT8_E4M3FN", "float8_e4m3fn"), ("RESERVED", None), (99, None), (None, None),
])
def test_dtypes_by_text_and_by_number(text: Any, name: str | None) -> None:
    found = dtype_from(text)
    assert (found.name if found else None) == name


def test_layout_text_may_hold_a_group_count() -> None:
    assert split_layout("FRACTAL_Z:288") == ("FRACTAL_Z", 288)
    assert split_layout("NC1HWC0") == ("NC1HWC0", 1)
    assert split_layout("") == (None, 1)
