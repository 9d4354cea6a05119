"""Networks that AMCT quantised: healthy ones are green, int8 tensors are compared as the numbers they stand for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import device_models as dm
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import acccmp
from acccmp.core.dump import Dump, Port
from acccmp.core.graph import Graph
from acccmp.mapping.device_map import DeviceMap
from acccmp.reports.pair import Verdict
from acccmp.reports.report_json import from_json, to_json

RANDOM = np.random.default_rng(8)
W1, W2 = (RANDOM.standard_normal((40, 40)).astype(np.float32) * 0.2 for _ in range(2))
X = RANDOM.standard_normal((16, 40)).astype(np.float32)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """x - fc1 - relu1 - fc2 - relu2 - y, in float."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], "fc1"), helper.make_node("Relu", ["a"], ["b"], "relu1"),
        helper.make_node("MatMul", ["b", "w2"], ["c"], "fc2"), helper.make_node("Relu", ["c"], ["y"], "relu2"),
    ]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [16, 40]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "float", info[:1], info[1:], [
        numpy_helper.from_array(W1, "w1"), numpy_helper.from_array(W2, "w2"),
    ])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    path = tmp_path_factory.mktemp("net") / "float.onnx"
    onnx.save(model, path)
    return acccmp.load(path)


def codes(array: np.ndarray, scale: float) -> np.ndarray:
    return np.clip(np.round(array * scale), -128, 127).astype(np.int8)


SCALES = {"fc1": 127 / float(np.abs(X).max()), "fc2": 127 / 4.0}


def device(fault: float = 1.0) -> dict[str, np.ndarray]:
    """What a device with int8 weights and int8 inputs of both layers makes; `fault` scales what fc2 is fed with."""
    made: dict[str, np.ndarray] = {"x": X}
    values = X
    for number, weight in ((1, W1), (2, W2)):
        scale, by = SCALES[f"fc{number}"], 127 / np.abs(weight).max(0)
        quantised = codes(values * (fault if number == 2 else 1.0), scale)
        sums = quantised.astype(np.int32) @ np.round(weight * by).astype(np.int32)
        values = np.maximum((sums / (scale * by)).astype(np.float16), np.float16(0))
        made |= {
            f"quant{number}": quantised, f"fc{number}": sums, f"fc{number}:input:0": quantised,
            f"deq{number}": values,
        }
    return made


def mapping(scales: bool = True) -> DeviceMap:
    ops = [dm.op("x", "Data", (), [dm.out(dtype="DT_FLOAT")], index=0)]
    for number, before in ((1, "x:0"), (2, "deq1:0")):
        attrs = {"scale": SCALES[f"fc{number}"], "offset": 0.0} if scales else {}
        ops += [
            dm.op(f"quant{number}", "AscendQuant", [before], [dm.out(dtype="DT_INT8")], (), **attrs),
            dm.op(f"fc{number}", "MatMulV2", [f"quant{number}:0"], [dm.out(f"fc{number}", dtype="DT_INT32")],
                  (f"fc{number}",)),
            dm.op(f"deq{number}", "AscendDequant", [f"fc{number}:0"], [dm.out(f"relu{number}")], (f"relu{number}",)),
        ]
    return dm.mapping(*ops, dm.op("end", "NetOutput", ["deq2:0"]))


def test_a_healthy_quantised_network_is_green(net: Graph) -> None:
    report = acccmp.compare(net, dm.npu(device()), mapping=mapping(), inputs={"x": X})
    verdicts = {str(row.port): row.verdict for row in report.comparisons}
    assert [verdicts[f"quant{n}:output:0"] for n in (1, 2)] == [Verdict.MATCH] * 2
    assert [verdicts[f"fc{n}:input:0"] for n in (1, 2)] == [Verdict.MATCH] * 2
    assert [verdicts[f"fc{n}:output:0"] for n in (1, 2)] == [Verdict.NOT_COMPARABLE] * 2, "sums of 32 bits"
    assert [verdicts[f"deq{n}:output:0"] for n in (1, 2)] == [Verdict.MATCH] * 2
    assert report.coverage == 1
    assert report.passed
    assert report.exit_code == 0
    row = report["quant2"]
    assert row.npu is not None
    np.testing.assert_allclose(row.npu.numpy(), device()["quant2"] / SCALES["fc2"], rtol=1e-6)
    assert any("dequantised" in note for note in row.notes)
    again = from_json(to_json(report))["quant2"].npu
    assert again is not None
    assert (type(again), again.own_shape) == (type(row.npu), row.npu.own_shape)
    assert any("their limits are fixed" in note for note in report.notes)


def test_a_wrong_scale_is_seen_in_the_quantised_tensor_itself(net: Graph) -> None:
    report = acccmp.compare(net, dm.npu(device(fault=1.5)), mapping=mapping(), inputs={"x": X})
    assert not report.passed
    assert report.first_bad is not None
    assert report.first_bad.port == Port("quant2", "output", 0)


def test_without_a_scale_it_is_not_comparable_and_costs_no_coverage(net: Graph) -> None:
    report = acccmp.compare(net, dm.npu(device()), mapping=mapping(scales=False), inputs={"x": X})
    assert report["quant1"].verdict is Verdict.NOT_COMPARABLE
    assert "nothing tells its scale" in report["quant1"].reason
    assert report.coverage == 1
    assert report.passed


def test_the_scale_may_stand_in_the_rule_of_the_quantisation_tool(net: Graph) -> None:
    rule = dm.mapping(*(
        dm.op(f"quant{n}", "AscendQuant", (), [dm.out("")], (), scale=SCALES[f"fc{n}"], offset=0.0) for n in (1, 2)
    ))
    report = acccmp.compare(
        net, dm.npu(device()), mapping=mapping(scales=False), quant_rule=rule, inputs={"x": X},
    )
    assert report["quant1"].verdict is Verdict.MATCH
    assert report["quant2"].verdict is Verdict.MATCH


def test_the_scale_may_stand_in_the_headers_of_the_dump(net: Graph) -> None:
    dump = dm.npu(device())
    ops = {
        name: replace(op, attrs={"scale": f"{SCALES['fc' + name[-1]]:.9g}", "offset": "0"}) if "quant" in name else op
        for name, op in dump.ops.items()
    }
    report = acccmp.compare(net, replace(dump, ops=ops), mapping=mapping(scales=False), inputs={"x": X})
    assert report["quant1"].verdict is Verdict.MATCH
    part = acccmp.slice_model(net, "fc2", "fc2", dump=replace(dump, ops=ops), mapping=mapping(scales=False))
    fed = part.fed_with("b")
    assert fed is not None
    np.testing.assert_allclose(fed, device()["quant2"] / SCALES["fc2"], rtol=1e-6)


def test_a_healthy_unquantised_network_keeps_its_sharp_limits(net: Graph) -> None:
    golden = acccmp.run(net, {"x": X})
    dump = dm.npu({name: golden[Port(name, "output", 0)].numpy().astype(np.float16) for name in ("relu1", "relu2")})
    report = acccmp.compare(net, dump, inputs={"x": X})
    assert all(row.limit < 0.01 for row in report.judged)


# -- the models that AMCT writes ---------------------------------------------------------------------------------


def deployed(path: Path, domain: str = "") -> Graph:
    """x - quant - conv (int8 weights) - dequant - relu - antiquant of int8 - y."""
    nodes = [
        helper.make_node("AscendQuant", ["x"], ["q"], "quant", domain=domain, scale=10.0, offset=0.0, quant_bits=8),
        helper.make_node("AscendWeightQuant", ["w", "o"], ["wq"], "wquant", domain=domain),
        helper.make_node("Conv", ["q", "wq"], ["s"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("MaxPool", ["s"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("AscendDequant", ["p", "d"], ["r"], "dequant", domain=domain),
        helper.make_node("Relu", ["r"], ["y"], "relu"),
    ]
    graph = helper.make_graph(
        nodes, "deployed", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in (
            ("w", np.ones((4, 3, 3, 3), np.int8)), ("o", np.zeros(4, np.int8)), ("d", np.ones(4, np.uint64)),
        )],
    )
    imports = [helper.make_opsetid("", 13), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(graph, opset_imports=imports)
    model.ir_version = 8
    onnx.save(model, path)
    return acccmp.load(path)


@pytest.mark.parametrize("domain", ["", "amct.customop"])
def test_shapes_and_types_go_on_behind_the_operators_of_amct_in_onnx(tmp_path: Path, domain: str) -> None:
    graph = deployed(tmp_path / "deployed.onnx", domain)
    found = {name: (graph.spec(name).shape, str(graph.spec(name).dtype)) for name in ("q", "wq", "s", "p", "r", "y")}
    assert found == {
        "q": ((1, 3, 8, 8), "int8"), "wq": ((4, 3, 3, 3), "int8"), "s": ((1, 4, 8, 8), "int32"),
        "p": ((1, 4, 4, 4), "int32"), "r": ((1, 4, 4, 4), "float32"), "y": ((1, 4, 4, 4), "float32"),
    }
    assert [node.op_type for node in graph.nodes][:2] == ["AscendQuant", "AscendWeightQuant"]


CAFFE = """
name: "deployed"
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "quant" type: "Quant" bottom: "x" top: "q" }
layer { name: "conv" type: "Convolution" bottom: "q" top: "s"
        convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }
layer { name: "dequant" type: "DeQuant" bottom: "s" top: "r" }
layer { name: "anti" type: "AntiQuant" bottom: "r" top: "t" }
layer { name: "pool" type: "Pooling" bottom: "t" top: "y" pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
"""


def test_shapes_and_types_go_on_behind_the_layers_of_amct_in_caffe(tmp_path: Path) -> None:
    (tmp_path / "deployed.prototxt").write_text(CAFFE)
    graph = acccmp.load(tmp_path / "deployed.prototxt")
    found = {name: (graph.spec(name).shape, str(graph.spec(name).dtype)) for name in ("q", "s", "r", "t", "y")}
    assert found == {
        "q": ((1, 3, 8, 8), "int8"), "s": ((1, 4, 8, 8), "float32"), "r": ((1, 4, 8, 8), "float32"),
        "t": ((1, 4, 8, 8), "float32"), "y": ((1, 4, 4, 4), "float32"),
    }


def test_a_quantised_dump_is_a_dump(tmp_path: Path) -> None:
    """The parts of these tests fit together: the device's own numbers are within 4 % of the float network's."""
    made: dict[str, Any] = device()
    exact = np.maximum(np.maximum(X @ W1, 0) @ W2, 0)
    assert 0.001 < np.linalg.norm(made["deq2"] - exact) / np.linalg.norm(exact) < 0.04
    assert isinstance(dm.npu(made), Dump)
