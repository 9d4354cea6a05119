"""Which golden tensor is put beside which NPU tensor: the cases that compilers make, each as a small network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from device_models import golden, mapping, npu, op, original, out

from acccmp.comparison.pairing import pair
from acccmp.core import layout as layouts
from acccmp.core.dump import Broken, Dump, DumpedOp, Origin, Port, RunFacts
from acccmp.core.graph import Graph
from acccmp.core.tensor import TensorRef
from acccmp.errors import InputError, MappingError
from acccmp.mapping.compose import compose, compose_unfused
from acccmp.mapping.device_map import DeviceMap
from acccmp.reports.pair import Pair, Verdict

ONE = np.ones((2, 3), np.float32)


def rows(gold: Dump, dumped: Dump, *args: DeviceMap | Graph | None, **options: object) -> dict[str, Pair]:
    found = pair(gold, dumped, *args, **options).pairs  # type: ignore[arg-type]
    ports = [str(row.port) for row in found]
    assert len(ports) == len(set(ports)), "a port has two rows"
    return {str(row.port): row for row in found}


def beside(found: dict[str, Pair]) -> dict[str, str]:
    """Device port -> golden port, of those that will be measured."""
    return {port: str(row.golden_port) for port, row in found.items() if row.verdict is None}


DATA = op("x", "Data", (), [out(shape=(2, 3))], index=0)
NET = mapping(
    DATA,
    op("trans_0", "TransData", ["x:0"], [out()], originals=()),
    op("convrelu", "Conv2D", ["trans_0:0", "w:0"], [out("relu")], originals=("conv", "bn", "relu")),
    op("w", "Const", (), [out()], originals=()),
    op("trans_1", "Cast", ["convrelu:0"], [out(dtype="DT_FLOAT")], originals=()),
    op("Node_Output", "NetOutput", ["trans_1:0"]),
)
GOLD = {"x": ONE, "conv": ONE, "bn": ONE, "relu": ONE}


def test_fused_op_is_compared_with_the_original_that_its_output_names() -> None:
    found = rows(golden(GOLD), npu({"convrelu": ONE}), NET)
    assert beside(found) == {"convrelu:output:0": "relu:output:0"}
    assert found["conv:output:0"].verdict is Verdict.FUSED
    assert found["bn:output:0"].verdict is Verdict.FUSED
    assert "convrelu" in found["bn:output:0"].reason
    assert found["convrelu:output:0"].originals == ("conv", "bn", "relu")


def test_output_of_the_model_is_what_feeds_net_output_or_the_tensor_before_an_inserted_cast() -> None:
    found = rows(golden(GOLD), npu({"convrelu": ONE}), NET)
    assert [port for port, row in found.items() if row.is_output] == ["convrelu:output:0"]
    found = rows(golden(GOLD), npu({"convrelu": ONE, "trans_1": ONE}), NET)
    assert [port for port, row in found.items() if row.is_output] == ["trans_1:output:0"]
    assert beside(found)["trans_1:output:0"] == "relu:output:0"


def test_output_that_was_not_dumped_is_a_missing_output() -> None:
    net = mapping(
        DATA, op("a", "Relu", ["x:0"], [out("a")], originals=("a",)),
        op("b", "Relu", ["a:0"], [out("b")], originals=("b",)), op("end", "NetOutput", ["b:0"]),
    )
    found = rows(golden({"a": ONE, "b": ONE}), npu({"a": ONE}), net)
    assert found["b:output:0"].verdict is Verdict.NO_NPU
    assert found["b:output:0"].is_output


def test_fused_original_may_have_the_name_of_the_device_op() -> None:
    net = mapping(
        DATA, op("conv", "Conv2D", ["x:0"], [out("relu")], originals=("conv", "relu")),
        op("end", "NetOutput", ["conv:0"]),
    )
    found = pair(golden({"conv": ONE, "relu": ONE}), npu({"conv": ONE}), net).pairs
    assert [(str(row.port), str(row.golden_port), row.verdict, row.is_output) for row in found] == [
        ("conv:output:0", "relu:output:0", None, True), ("conv:output:0", "conv:output:0", Verdict.FUSED, False),
    ]


def test_inputs_are_compared_with_what_their_producers_stand_for() -> None:
    dumped = {"convrelu:input:0": ONE, "convrelu:input:1": ONE, "convrelu": ONE, "trans_1:input:0": ONE, "trans_1": ONE}
    found = rows(golden(GOLD), npu(dumped), NET)
    assert beside(found) == {
        "convrelu:input:0": "x:output:0", "convrelu:output:0": "relu:output:0",
        "trans_1:input:0": "relu:output:0", "trans_1:output:0": "relu:output:0",
    }
    assert found["convrelu:input:1"].verdict is Verdict.INSERTED
    assert "constant" in found["convrelu:input:1"].reason


def test_outputs_only_dump_misses_no_inputs() -> None:
    found = rows(golden(GOLD), npu({"convrelu": ONE, "trans_1": ONE}), NET)
    assert not any(row.verdict is Verdict.NO_NPU for row in found.values())


def test_data_and_inserted_ops_that_were_not_dumped_are_missed_by_nobody() -> None:
    found = rows(golden(GOLD), npu({"convrelu": ONE}), NET)
    assert set(found) == {"convrelu:output:0", "conv:output:0", "bn:output:0"}


def test_without_a_written_name_the_last_original_in_the_models_order_counts() -> None:
    net = mapping(DATA, op("fused", "X", ["x:0"], [out()], originals=("relu", "conv")))
    model = original(("conv", ["x"], ["c"]), ("relu", ["c"], ["r"]), inputs=["x"], outputs=["r"])
    found = rows(golden({"conv": ONE, "relu": ONE}), npu({"fused": ONE}), net, model)
    assert beside(found) == {"fused:output:0": "relu:output:0"}
    assert found["fused:output:0"].is_output
    # without the model, the order of the golden dump
    assert beside(rows(golden({"conv": ONE, "relu": ONE}), npu({"fused": ONE}), net)) == {
        "fused:output:0": "relu:output:0",
    }


def test_split_original_is_compared_at_the_part_that_names_it() -> None:
    net = mapping(
        DATA,
        op("p1", "P1", ["x:0"], [out("")], originals=("softmax",), _datadump_is_multiop=True),
        op("p2", "P2", ["p1:0"], [out("softmax")], originals=("softmax",), _datadump_is_multiop=True),
    )
    found = rows(golden({"softmax": ONE}), npu({"p1": ONE, "p2:input:0": ONE, "p2": ONE}), net)
    assert beside(found) == {"p2:output:0": "softmax:output:0"}
    assert found["p1:output:0"].verdict is Verdict.INSERTED
    assert found["p2:input:0"].verdict is Verdict.INSERTED
    assert found["p1:output:0"].npu_ops == ("p1", "p2")
    assert found["p1:output:0"].group == found["p2:output:0"].group


def test_many_to_many_follows_the_written_names() -> None:
    net = mapping(
        DATA,
        op("m1", "M1", ["x:0"], [out("q")], originals=("p", "q", "s"), _datadump_is_multiop=True),
        op("m2", "M2", ["m1:0"], [out("s")], originals=("p", "q", "s"), _datadump_is_multiop=True),
    )
    found = rows(golden({"p": ONE, "q": ONE, "s": ONE}), npu({"m1": ONE, "m2": ONE}), net)
    assert beside(found) == {"m1:output:0": "q:output:0", "m2:output:0": "s:output:0"}
    assert found["p:output:0"].verdict is Verdict.FUSED


def test_l1_fused_ops_share_a_group_and_inner_ones_need_no_dump() -> None:
    net = mapping(
        DATA,
        op("a", "Conv2D", ["x:0"], [out("a")], originals=("a",), _L1_fusion_sub_graph_no="3"),
        op("b", "Conv2D", ["a:0"], [out("b")], originals=("b",), _L1_fusion_sub_graph_no="3"),
    )
    found = rows(golden({"x": ONE, "a": ONE, "b": ONE}), npu({"a:input:0": ONE, "b": ONE}), net)
    assert beside(found) == {"a:input:0": "x:output:0", "b:output:0": "b:output:0"}
    assert found["a:output:0"].verdict is Verdict.FUSED
    assert found["a:output:0"].group == found["b:output:0"].group
    assert found["b:output:0"].originals == ("a", "b")


def test_renamed_op_gets_its_one_original() -> None:
    net = mapping(DATA, op("new_name", "Relu", ["x:0"], [out("")], originals=("old/name",)))
    found = rows(golden({"old_name": ONE}, flat_names=True), npu({"new_name": ONE}), net)
    assert beside(found) == {"new_name:output:0": "old_name:output:0"}


def test_written_index_decides_and_not_the_place_of_the_output() -> None:
    net = mapping(DATA, op("s", "Split", ["x:0"], [out("split", 1), out("split", 0)], originals=("split",)))
    gold = golden({"split:output:0": ONE, "split:output:1": ONE})
    found = rows(gold, npu({"s:output:0": ONE, "s:output:1": ONE}), net)
    assert beside(found) == {"s:output:0": "split:output:1", "s:output:1": "split:output:0"}


def test_original_cast_is_an_op_like_any_other() -> None:
    """Known tools step back through every Cast; only compiler-made ones are passed through."""
    net = mapping(
        DATA, op("a", "Relu", ["x:0"], [out("a")], originals=("a",)),
        op("cast", "Cast", ["a:0"], [out("")], originals=("cast",)),
    )
    found = rows(golden({"a": ONE, "cast": ONE}), npu({"a": ONE, "cast": ONE}), net)
    assert beside(found)["cast:output:0"] == "cast:output:0"


def test_quantised_tensor_without_a_scale_is_not_comparable() -> None:
    net = mapping(
        DATA, op("a", "Relu", ["x:0"], [out("a")], originals=("a",)),
        op("quant", "AscendQuant", ["a:0"], [out()], originals=()),
    )
    found = rows(golden({"a": ONE}), npu({"a": ONE, "quant": ONE}), net)
    assert found["quant:output:0"].verdict is Verdict.NOT_COMPARABLE
    assert found["quant:output:0"].reason == "quantised by quant, and nothing tells its scale"


def test_inserted_op_that_computes_is_not_traced() -> None:
    net = mapping(
        DATA, op("a", "Relu", ["x:0"], [out("a")], originals=("a",)),
        op("pad", "PadD", ["a:0"], [out()], originals=()),
    )
    found = rows(golden({"a": ONE}), npu({"a": ONE, "pad": ONE}), net)
    assert found["pad:output:0"].verdict is Verdict.INSERTED
    assert "PadD" in found["pad:output:0"].reason


def test_inserted_transpose_is_compared_in_goldens_order() -> None:
    net = mapping(
        DATA, op("a", "Relu", ["x:0"], [out("a")], originals=("a",)),
        op("t", "TransposeD", ["a:0"], [out(shape=(4, 2, 3))], originals=(), perm=(2, 0, 1)),
        op("u", "Transpose", ["a:0"], [out()], originals=()),
    )
    y = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    found = rows(golden({"a": y}), npu({"a": y, "t": y.transpose(2, 0, 1), "u": y}), net)
    assert found["t:output:0"].verdict is None
    assert found["t:output:0"].npu is not None
    np.testing.assert_array_equal(found["t:output:0"].npu.numpy(), y)
    assert found["u:output:0"].verdict is Verdict.INSERTED  # nothing says how it was transposed


def test_op_without_attributes_is_its_own_original_if_the_original_has_it() -> None:
    net = mapping(DATA, op("a", "Relu", ["x:0"], [out()]), op("extra", "AtomicX", ["a:0"], [out()]))
    found = rows(golden({"a": ONE}), npu({"a": ONE, "extra": ONE}), net)
    assert beside(found) == {"a:output:0": "a:output:0"}
    assert found["extra:output:0"].verdict is Verdict.INSERTED


def test_named_original_without_a_golden_tensor_is_no_golden_and_nothing_else_is_taken() -> None:
    found = rows(golden({"x": ONE, "conv": ONE, "bn": ONE}), npu({"convrelu": ONE}), NET)
    assert found["convrelu:output:0"].verdict is Verdict.NO_GOLDEN
    assert "relu:output:0" in found["convrelu:output:0"].reason


def test_constants_of_the_original_are_not_counted() -> None:
    model = original(
        ("const", [], ["k"]), ("shape", ["k"], ["s"]), ("relu", ["x"], ["r"]), inputs=["x"], outputs=["r"],
    )
    gold = golden({"const": ONE, "shape": ONE, "relu": ONE})
    net = mapping(DATA, op("relu", "Relu", ["x:0"], [out("relu")], originals=("relu",)))
    found = rows(gold, npu({"relu": ONE}), net, model)
    assert {row.verdict for port, row in found.items() if port != "relu:output:0"} == {Verdict.FUSED}
    by_name = rows(gold, npu({"relu": ONE}), None, model)
    assert set(by_name) == {"relu:output:0"}


def test_unreadable_file_is_a_row_for_every_port_of_its_op() -> None:
    net = mapping(
        DATA, op("a/s", "Split", ["x:0"], [out("s", 0), out("s", 1)], originals=("s",)),
        op("b", "Relu", ["a/s:0"], [out("b")], originals=("b",)),
    )
    broken = Broken("a_s", "/dump/Split.a_s.1.1.17", "truncated: 12 of 40 bytes", "Split")
    gold = golden({"s:output:0": ONE, "s:output:1": ONE, "b": ONE})
    found = rows(gold, npu({"b": ONE, "b:input:0": ONE}, [broken]), net)
    for port in ("a/s:input:0", "a/s:output:0", "a/s:output:1"):
        assert found[port].verdict is Verdict.UNREADABLE
        assert found[port].reason == "Split.a_s.1.1.17: truncated: 12 of 40 bytes"
    assert found["b:output:0"].verdict is None


def test_unreadable_file_of_an_op_that_no_mapping_knows_is_a_row_too() -> None:
    broken = Broken("alien", "/dump/X.alien.1.1.17", "empty")
    found = rows(golden(GOLD), npu({"convrelu": ONE}, [broken]), NET)
    assert found["alien:output:0"].verdict is Verdict.UNREADABLE
    by_name = rows(golden({"a": ONE}), npu({"a": ONE}, [broken]))
    assert by_name["alien:output:0"].verdict is Verdict.UNREADABLE


def test_unreadable_golden_file_is_the_row_of_the_port_that_needs_it() -> None:
    broken = Broken("relu", "/g/relu.0.1.npy", "not an npy file", port=Port("relu", "output", 0))
    gold = Dump({Port("x", "output", 0): TensorRef.of(ONE)}, broken=(broken,), kind="golden")
    found = rows(gold, npu({"convrelu": ONE}), NET)
    assert found["convrelu:output:0"].verdict is Verdict.UNREADABLE
    assert "relu.0.1.npy" in found["convrelu:output:0"].reason


def test_mapping_of_another_model_is_noticed_with_both_names() -> None:
    other = mapping(*(op(f"n{i}", "Relu", (), [out(f"n{i}")], originals=(f"n{i}",)) for i in range(4)))
    with pytest.raises(MappingError, match=r"net .*golden dump"):
        pair(golden(GOLD), npu({"n1": ONE, "n2": ONE}), other)
    model = original(("conv", ["x"], ["c"]), inputs=["x"], outputs=["c"])
    with pytest.raises(MappingError, match="original"):
        pair(golden({"n0": ONE}), npu({"n1": ONE}), other, model)


def test_mapping_of_another_dump_is_noticed() -> None:
    with pytest.raises(MappingError, match="not of the NPU dump"):
        pair(golden(GOLD), npu({"foreign": ONE, "strange": ONE, "convrelu": ONE}), NET)


def test_golden_dump_of_a_few_layers_is_no_other_model() -> None:
    net = mapping(*(op(f"n{i}", "Relu", (), [out(f"n{i}")], originals=(f"n{i}",)) for i in range(9)))
    found = rows(golden({"n8": ONE}), npu({f"n{i}": ONE for i in range(9)}), net)
    assert beside(found) == {"n8:output:0": "n8:output:0"}


# -- by name -----------------------------------------------------------------------------------------------------


def test_without_a_mapping_true_names_come_before_flattened_ones() -> None:
    gold = golden({"a/b": ONE, "a_b": ONE, "c.d": ONE})
    found = rows(gold, npu({"a_b": ONE, "a/b": ONE, "c_d": ONE}))
    assert beside(found) == {
        "a_b:output:0": "a_b:output:0", "a/b:output:0": "a/b:output:0", "c_d:output:0": "c.d:output:0",
    }


def test_names_that_flatten_alike_are_not_guessed() -> None:
    gold = golden({"a_b": ONE}, flat_names=True)
    found = rows(gold, npu({"a/b": ONE, "a.b": ONE}))
    for port in ("a/b:output:0", "a.b:output:0"):
        assert found[port].verdict is Verdict.NO_GOLDEN
        assert "a.b, a/b" in found[port].reason


def test_by_name_what_only_one_side_has_is_listed() -> None:
    dumped = npu({"a": ONE, "z": ONE, "trans_1": ONE}, types={"trans_1": "TransData"})
    found = rows(golden({"a": ONE, "b": ONE}), dumped)
    assert found["b:output:0"].verdict is Verdict.NO_NPU
    assert found["z:output:0"].verdict is Verdict.NO_GOLDEN
    assert found["trans_1:output:0"].verdict is Verdict.INSERTED


def test_by_name_the_header_of_the_dump_may_name_the_original() -> None:
    ops = {"fused": DumpedOp("fused", "Conv2D", origins={0: Origin("relu")})}
    found = rows(golden({"conv": ONE, "relu": ONE}), npu({"fused": ONE}, ops=ops))
    assert beside(found) == {"fused:output:0": "relu:output:0"}


def test_by_name_the_model_says_what_feeds_an_input() -> None:
    model = original(("a", ["x"], ["t1"]), ("b", ["t1"], ["t2"]), inputs=["x"], outputs=["t2"])
    dumped = npu({"b:input:0": ONE, "a:input:0": ONE, "b": ONE})
    found = rows(golden({"x": ONE, "a": ONE, "b": ONE}), dumped, None, model)
    assert beside(found) == {
        "b:input:0": "a:output:0", "a:input:0": "x:output:0", "b:output:0": "b:output:0",
    }
    assert [port for port, row in found.items() if row.is_output] == ["b:output:0"]


def test_by_name_tensor_names_of_the_model_are_names_too() -> None:
    model = original(("Conv_0", ["x"], ["features"]), inputs=["x"], outputs=["features"])
    found = rows(golden({"Conv_0": ONE}), npu({"features": ONE}), None, model)
    assert beside(found) == {"features:output:0": "Conv_0:output:0"}


def test_two_device_dumps_are_paired_port_by_port() -> None:
    gold = npu({"a:input:0": ONE, "a": ONE, "b": ONE})
    found = rows(gold, npu({"a:input:0": ONE, "a": ONE, "c": ONE}))
    assert beside(found) == {"a:input:0": "a:input:0", "a:output:0": "a:output:0"}
    assert found["b:output:0"].verdict is Verdict.NO_NPU
    assert found["c:output:0"].verdict is Verdict.NO_GOLDEN


def test_two_device_dumps_with_the_one_mapping_are_paired_by_name_in_its_order() -> None:
    net = mapping(
        DATA, op("b", "Relu", ["x:0"], [out("orig_b")], originals=("orig_b",)),
        op("a", "Relu", ["b:0"], [out("orig_a")], originals=("orig_a",)), op("end", "NetOutput", ["a:0"]),
    )
    found = rows(npu({"a": ONE, "b": ONE}), npu({"a": ONE, "b": ONE}), net)
    assert list(beside(found)) == ["b:output:0", "a:output:0"]
    assert [port for port, row in found.items() if row.is_output] == ["a:output:0"]


def test_outputs_without_any_word_on_them_are_those_of_the_last_op_and_a_note_says_so() -> None:
    found = pair(golden({"a": ONE, "b": ONE}), npu({"a": ONE, "b": ONE}))
    assert [str(row.port) for row in found.pairs if row.is_output] == ["b:output:0"]
    assert any("last golden op (b)" in note for note in found.notes)


def test_outputs_come_from_the_golden_dump_and_else_from_the_model() -> None:
    gold = golden({"a": ONE, "b": ONE}, run=RunFacts(outputs=(Port("a", "output", 0),)))
    found = pair(gold, npu({"a": ONE, "b": ONE}))
    assert [str(row.port) for row in found.pairs if row.is_output] == ["a:output:0"]
    model = original(("a", ["x"], ["t"]), ("b", ["x"], ["u"]), inputs=["x"], outputs=["t", "u"])
    found = pair(golden({"a": ONE, "b": ONE}), npu({"a": ONE}), None, model)
    assert [(str(row.port), row.verdict) for row in found.pairs if row.is_output] == [
        ("a:output:0", None), ("b:output:0", Verdict.NO_NPU),
    ]


# -- quantised, AIPP, composed -----------------------------------------------------------------------------------


def test_part_between_quantise_and_dequantise_is_marked() -> None:
    net = mapping(
        DATA, op("q", "AscendQuant", ["x:0"], [out(dtype="DT_INT8")], originals=()),
        op("conv", "Conv2D", ["q:0"], [out("conv", dtype="DT_INT32")], originals=("conv",)),
        op("dq", "AscendDequant", ["conv:0"], [out("relu")], originals=("relu",)),
    )
    acc = np.ones((2, 3), np.int32)
    found = rows(golden({"conv": ONE, "relu": ONE}), npu({"conv": acc, "conv:input:0": ONE, "dq": ONE}), net)
    assert found["conv:output:0"].quantised
    assert found["conv:input:0"].verdict is Verdict.INSERTED
    assert not found["dq:output:0"].quantised


def test_quantisation_rule_is_composed_into_the_mapping() -> None:
    device = mapping(
        op("fused", "Conv2D", ["x:0"], [out("conv_dequant", 0)], originals=("conv_q", "conv_dequant")),
        op("same", "Relu", ["fused:0"], [out("same")], originals=("same",)),
    )
    rule = mapping(
        op("conv_q", "Conv2D", [], [out("")], originals=("conv",)),
        op("conv_dequant", "AscendDequant", [], [out("conv", 0)], originals=()),
    )
    composed = compose(device, rule)
    assert composed.by_name["fused"].origins == ("conv",)
    assert composed.by_name["same"].origins == ("same",)
    found = rows(golden({"conv": ONE, "same": ONE}), npu({"fused": ONE, "same": ONE}), composed)
    assert beside(found) == {"fused:output:0": "conv:output:0", "same:output:0": "same:output:0"}


def test_model_built_without_fusion_is_composed_and_its_dump_is_golden() -> None:
    fused = mapping(op("convrelu", "Conv2D", ["x:0"], [out("relu", 0)], originals=("conv", "relu")))
    unfused = mapping(
        op("conv_u", "Conv2D", ["x:0"], [out("conv", 0)], originals=("conv",)),
        op("relu_u", "Relu", ["conv_u:0"], [out("other", 0), out("relu", 0)], originals=("relu",)),
    )
    composed = compose_unfused(fused, unfused)
    assert composed.by_name["convrelu"].origins == ("conv_u", "relu_u")
    gold = npu({"conv_u": ONE, "relu_u:output:0": ONE, "relu_u:output:1": ONE})
    found = rows(gold, npu({"convrelu": ONE}), composed)
    assert beside(found) == {"convrelu:output:0": "relu_u:output:1"}


def test_pre_processing_is_noted_and_its_output_stands_beside_the_models_input() -> None:
    net = mapping(
        DATA, op("aipp", "Aipp", ["x:0"], [out()], originals=()),
        op("conv", "Conv2D", ["aipp:0"], [out("conv")], originals=("conv",)),
    )
    found = pair(golden({"x": ONE, "conv": ONE}), npu({"aipp": ONE, "conv": ONE}), net)
    assert {str(row.port): str(row.golden_port) for row in found.pairs} == {
        "aipp:output:0": "x:output:0", "conv:output:0": "conv:output:0",
    }
    assert any("AIPP" in note for note in found.notes)


def test_graph_inside_an_op_is_opened() -> None:
    inner = [
        op("inner_data", "Data", (), [out()], _parent_node_index=0),
        op("inner_relu", "Relu", ["inner_data:0"], [out("relu")], originals=("relu",)),
        op("inner_end", "NetOutput", ["inner_relu:0"]),
    ]
    call = replace(op("call", "PartitionedCall", ["x:0"], [out()], originals=()), subgraphs=("body",))
    net = mapping(DATA, call, op("last", "Relu", ["call:0"], [out("last")], originals=("last",)),
                  subgraphs={"body": inner})
    dumped = npu({"inner_relu:input:0": ONE, "inner_relu": ONE, "last:input:0": ONE, "last": ONE})
    found = rows(golden({"x": ONE, "relu": ONE, "last": ONE}), dumped, net)
    assert beside(found) == {
        "inner_relu:input:0": "x:output:0", "inner_relu:output:0": "relu:output:0",
        "last:input:0": "relu:output:0", "last:output:0": "last:output:0",
    }


# -- shapes and layouts ------------------------------------------------------------------------------------------


def stored(array: np.ndarray, layout: str, original_layout: str = "NCHW", c0: int = 16) -> TensorRef:
    """A device tensor whose header says nothing about its original."""
    return TensorRef.of(layouts.to_stored(array, original_layout, layout, c0), layout)


def one(gold: np.ndarray, device: TensorRef, net: DeviceMap | None = None) -> Pair:
    (found,) = pair(golden({"a": gold}), npu({"a": device}), net).pairs
    return found


def picture(*shape: int) -> np.ndarray:
    return np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)


def test_layout_of_the_original_comes_from_the_mapping() -> None:
    y = picture(1, 8, 8, 8)  # every order fits
    written = out("a", original=(1, 8, 8, 8), original_layout="NHWC", dtype="DT_FLOAT")
    net = mapping(op("a", "Relu", (), [written], originals=("a",)))
    row = one(y, stored(y, "NC1HWC0", "NHWC"), net)
    assert row.npu is not None
    assert (row.npu.numpy() == y).all()
    assert not row.notes


def test_without_a_mapping_the_only_order_that_fits_is_taken() -> None:
    for shape, order in (((1, 20, 5, 7), "NCHW"), ((1, 5, 7, 20), "NHWC")):
        y = picture(*shape)
        row = one(y, stored(y, "NC1HWC0", order))
        assert row.npu is not None
        assert (row.npu.numpy() == y).all()
        assert not any("ambiguous" in note for note in row.notes)


def test_several_orders_that_fit_are_ambiguous_and_the_best_score_decides_nothing() -> None:
    y = picture(1, 16, 16, 16)
    row = one(y, stored(y, "NC1HWC0", "NHWC"))  # NHWC would give a perfect match
    assert row.npu is not None
    assert any("ambiguous" in note and "NHWC" in note for note in row.notes)
    assert row.npu.original_layout == "NCHW"
    assert not (row.npu.numpy() == y).all()


def test_order_of_the_header_is_taken_where_it_has_one() -> None:
    y = picture(1, 16, 16, 16)
    row = one(y, stored(y, "NC1HWC0", "NHWC").seen_as((1, 16, 16, 16), "NHWC"))
    assert row.npu is not None
    assert (row.npu.numpy() == y).all()


def test_golden_in_nhwc_of_a_mapping_in_nchw_is_read_in_nhwc() -> None:
    y = picture(1, 5, 7, 20)
    net = mapping(op("a", "Relu", (), [out("a", original=(1, 20, 5, 7), original_layout="NCHW")], originals=("a",)))
    row = one(y, stored(y.transpose(0, 3, 1, 2), "NC1HWC0"), net)
    assert row.npu is not None
    assert (row.npu.numpy() == y).all()
    assert any("NHWC" in note for note in row.notes)


@pytest.mark.parametrize(("shape", "layout"), [
    ((1, 10), "NC1HWC0"), ((3, 40), "FRACTAL_NZ"), ((2, 5, 40), "FRACTAL_NZ"), ((40,), "FRACTAL_NZ"),
    ((2, 3, 4), "ND"), ((1, 3, 4, 5, 6), "NDC1HWC0"), ((20, 5, 3, 3), "FRACTAL_Z"), ((), "ND"),
])
def test_shapes_of_every_rank_find_their_way_back(shape: tuple[int, ...], layout: str) -> None:
    y = picture(*shape)
    order = "NCDHW" if len(shape) == 5 else "NCHW" if len(shape) == 4 else None
    row = one(y, TensorRef.of(layouts.to_stored(y, order, layout, 16), layout))
    assert row.npu is not None, row.misfit
    assert not row.misfit
    assert (row.npu.numpy().reshape(shape) == y).all()


def test_two_devices_may_store_one_tensor_in_different_layouts() -> None:
    y = picture(1, 5, 7, 20)  # in NHWC, and neither header says so
    blocked = stored(y, "NC1HWC0", "NHWC").seen_as(y.shape, None)
    wide = stored(y, "NC1HWC0", "NHWC", 32)
    for gold, device in ((blocked, wide), (wide, blocked)):
        (row,) = pair(npu({"a": gold}), npu({"a": device})).pairs
        assert row.golden is not None
        assert row.npu is not None
        assert not row.misfit
        assert (row.golden.numpy() == y).all()
        assert (row.npu.numpy() == y).all()


def test_two_devices_without_a_word_on_the_original_are_compared_as_stored() -> None:
    ref = stored(picture(1, 20, 5, 7), "NC1HWC0")
    (row,) = pair(npu({"a": ref}), npu({"a": ref})).pairs
    assert not row.misfit
    assert any("padding included" in note for note in row.notes)


def test_tensor_that_cannot_hold_golden_is_a_misfit_with_both_shapes() -> None:
    row = one(picture(1, 20, 5, 7), stored(picture(1, 3, 5, 7), "NC1HWC0"))
    assert "1x20x5x7" in row.misfit
    assert "1x1x5x7x16" in row.misfit


def test_dump_and_mapping_that_disagree_on_the_shape_are_a_misfit() -> None:
    net = mapping(op("a", "Relu", (), [out("a", shape=(1, 2, 5, 7, 16), original=(1, 20, 5, 7))], originals=("a",)))
    row = one(picture(1, 20, 5, 7), stored(picture(1, 20, 6, 7), "NC1HWC0"), net)
    assert row.verdict is Verdict.SHAPE
    assert "1x2x6x7x16" in row.reason
    assert "1x2x5x7x16" in row.reason


def test_dump_and_mapping_that_disagree_on_the_kind_of_number_are_a_wrong_dtype() -> None:
    net = mapping(op("a", "Relu", (), [out("a", dtype="DT_FLOAT16")], originals=("a",)))
    assert one(ONE, TensorRef.of(ONE.astype(np.int16)), net).verdict is Verdict.DTYPE
    row = one(ONE, TensorRef.of(ONE), net)
    assert row.verdict is None
    assert row.notes == ("the dump's header says float32, the mapping float16",)


def test_valid_region_is_set_by_name_pattern_and_axis() -> None:
    gold, dumped = golden({"a": picture(2, 5), "b": picture(2, 5)}), npu({"a": picture(4, 5), "b": picture(2, 5)})
    found = rows(gold, dumped, valid=["a=0:2"])
    assert found["a:output:0"].extent == (2, 5)
    assert not found["a:output:0"].misfit
    assert found["b:output:0"].extent is None
    assert rows(gold, npu({"b": picture(2, 5)}), valid=["*=-1:3"])["b:output:0"].extent == (2, 3)


@pytest.mark.parametrize("text", ["a", "a=0", "a=x:2", "a=0:0", "=0:1", "nothing=0:1", "a=7:1", "a=0:9"])
def test_valid_region_that_makes_no_sense_is_one_line(text: str) -> None:
    with pytest.raises(InputError, match="--valid") as error:
        pair(golden({"a": ONE}), npu({"a": ONE}), valid=[text])
    assert "\n" not in str(error.value)


def test_floors_are_given_to_the_ports_of_their_originals_flattened_names_too() -> None:
    floors = {Port("blk/relu", "output", 0): 0.25}
    net = mapping(op("c", "Conv2D", (), [out("blk/relu")], originals=("blk/relu",)))
    (row,) = pair(golden({"blk_relu": ONE}, flat_names=True), npu({"c": ONE}), net, floors=floors).pairs
    assert row.floor == 0.25
