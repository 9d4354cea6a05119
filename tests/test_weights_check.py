"""The weights check: original weights against what a compiled model or a checkpoint stores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import om_bytes as made
import pytest

from acccmp.comparison.weights import compare_weights, fit, roundings
from acccmp.core.graph import Graph, Node
from acccmp.core.tensor import DTYPES, TensorRef
from acccmp.errors import InputError
from acccmp.models import mindspore, om
from acccmp.models.load import load
from acccmp.reports.pair import Verdict

F16 = DTYPES["float16"]


def original(weights: dict[str, np.ndarray], nodes: list[Node], fmt: str = "onnx") -> Graph:
    return Graph("net", fmt, tuple(nodes), ("x",), (nodes[-1].outputs[0],),
                 weights={name: TensorRef.of(array) for name, array in weights.items()})


def conv_net(rng: Any, **more: np.ndarray) -> tuple[dict[str, np.ndarray], list[Node]]:
    weights = {"conv.w": rng.normal(size=(20, 3, 3, 3)).astype("f4"), "conv.b": rng.normal(size=20).astype("f4")}
    return weights | more, [Node("conv", "Conv", ("x", "conv.w", "conv.b"), ("y",))]


def compiled(path: Path, filters: np.ndarray, bias: np.ndarray, originals: tuple[str, ...] = ("conv",)) -> Graph:
    model, weights = made.conv_model(filters, bias, originals)
    path.write_bytes(made.om((0, model.SerializeToString()), (1, weights)))
    return om.load(path)


def test_every_weight_of_a_real_model_is_found_equal_or_proven_folded(shared: Path) -> None:
    golden = load(next((shared / "onnx").glob("a-ircle*")))
    report = compare_weights(golden, load(next((shared / "om").glob("a-ircle*"))))
    assert report.passed
    assert report.counts == {Verdict.MATCH: 383, Verdict.FUSED: 20}  # 20: parameters of five BatchNorms
    convs = [row for row in report.comparisons if row.op_type == "Conv" and len(row.golden.own_shape) == 4]
    assert len(convs) == 124
    assert all(np.array_equal(row.golden.numpy().astype("f2"), row.npu.numpy()) for row in convs)
    folded = [row for row in report.comparisons if any("BatchNorm" in note for note in row.notes)]
    assert [row.op_type for row in folded] == ["ConvTranspose"] * 4


def test_all_five_filters_and_matrices_of_a_tensorflow_model_are_equal_within_fp16(shared: Path) -> None:
    golden = load(next((shared / "tensorflow").glob("*hh.pb")))
    report = compare_weights(golden, load(next((shared / "om").glob("*hh_om*"))))
    assert report.passed
    rows = [row for row in report.comparisons if len(row.golden.own_shape) in (2, 4) and row.verdict is Verdict.MATCH]
    assert {row.npu.layout for row in rows} == {"FRACTAL_Z", "FRACTAL_NZ"}
    by_type = {"Conv2D": 0, "MatMul": 0, "Identity": 0, "Conv2DBackpropInput": 0}
    for row in rows:
        assert np.allclose(row.npu.numpy(), row.golden.numpy().astype("f2"), rtol=1e-3, atol=1e-7)
        by_type[row.op_type] += 1
    assert sum(by_type.values()) == 7  # 2 convolutions and 3 matrices, as recorded, and 2 transposed convolutions


def test_a_stale_weight_is_drift_and_a_fresh_one_matches(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    weights, nodes = conv_net(rng)
    stale = weights["conv.w"].copy()
    stale[7] *= 1.01
    fresh = compare_weights(original(weights, nodes), compiled(tmp_path / "a.om", weights["conv.w"], weights["conv.b"]))
    assert fresh.passed
    assert [row.verdict for row in fresh.comparisons] == [Verdict.MATCH, Verdict.MATCH]
    report = compare_weights(original(weights, nodes), compiled(tmp_path / "b.om", stale, weights["conv.b"]))
    row = report["conv.w:output:0"]
    assert row.verdict is Verdict.DRIFT
    assert "5.0% of its numbers" in row.reason  # 1 of 20 filters
    assert "stale" in row.reason
    by_hand = np.linalg.norm(stale.astype("f2") - weights["conv.w"].astype("f8")) / np.linalg.norm(weights["conv.w"])
    assert row.metrics["RelativeEuclideanDistance"] == pytest.approx(by_hand, rel=1e-6)
    assert row.error > row.limit == 1  # in roundings: 1 % is some ten of float16's
    assert report.failures == ("weight conv.w:output:0 is drift",)
    assert report.exit_code == 1


def test_a_folded_batchnorm_is_recognised_by_folding_it_again_and_a_wrong_fold_is_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    norm = {"bn.g": rng.uniform(0.5, 2, 20), "bn.b": rng.normal(size=20), "bn.m": rng.normal(size=20),
            "bn.v": rng.uniform(0.1, 3, 20)}
    weights, nodes = conv_net(rng, **{name: array.astype("f4") for name, array in norm.items()})
    nodes.append(Node("bn", "BatchNormalization", ("y", "bn.g", "bn.b", "bn.m", "bn.v"), ("z",), {"epsilon": 1e-3}))
    slope = norm["bn.g"] / np.sqrt(norm["bn.v"] + 1e-3)
    filters = weights["conv.w"] * slope[:, None, None, None]
    bias = (weights["conv.b"] - norm["bn.m"]) * slope + norm["bn.b"]
    golden = original(weights, nodes)
    report = compare_weights(golden, compiled(tmp_path / "a.om", filters, bias, ("conv", "bn")))
    assert report.passed
    assert [row.verdict for row in report.comparisons] == [Verdict.MATCH] * 2 + [Verdict.FUSED] * 4
    assert "BatchNorm bn is folded in" in report["conv.w:output:0"].notes[0]
    wrong = weights["conv.w"] * (norm["bn.g"] / np.sqrt(norm["bn.v"] + 1e-1))[:, None, None, None]
    report = compare_weights(golden, compiled(tmp_path / "b.om", wrong, bias, ("conv", "bn")))
    assert report["conv.w:output:0"].verdict is Verdict.DRIFT


def test_caffes_batchnorm_and_scale_fold_with_their_divisor(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    gamma, beta, mean, var = (rng.uniform(0.5, 2, 20).astype("f4") for _ in range(4))
    weights, _ = conv_net(rng)
    blobs = {"conv.w": weights["conv.w"], "bn.m": mean * 4, "bn.v": var * 4, "bn.f": np.array([4], "f4"),
             "scale.g": gamma, "scale.b": beta}
    nodes = [
        Node("conv", "Convolution", ("x",), ("y",), weights=("conv.w",)),
        Node("bn", "BatchNorm", ("y",), ("z",), weights=("bn.m", "bn.v", "bn.f")),
        Node("scale", "Scale", ("z",), ("s",), weights=("scale.g", "scale.b")),
    ]
    slope = gamma.astype("f8") / np.sqrt(var.astype("f8") + 1e-5)
    npu = compiled(tmp_path / "a.om", weights["conv.w"] * slope[:, None, None, None], -mean * slope + beta,
                   ("conv", "bn", "scale"))
    report = compare_weights(original(blobs, nodes, "caffe"), npu)
    assert report["conv.w:output:0"].verdict is Verdict.MATCH
    assert {row.verdict for row in report.comparisons[1:]} == {Verdict.FUSED}


def test_a_weight_beyond_the_stored_type_is_overflow(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    weights, nodes = conv_net(rng)
    weights["conv.w"][0, 0, 0, 0] = 1e6
    with np.errstate(over="ignore"):
        npu = compiled(tmp_path / "a.om", weights["conv.w"], weights["conv.b"])
    assert compare_weights(original(weights, nodes), npu)["conv.w:output:0"].verdict is Verdict.OVERFLOW


def test_arguments_are_fused_and_a_missing_weight_is_not_a_pass(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    weights, nodes = conv_net(rng, shape=np.array([1, -1], "i8"), lost=rng.normal(size=33).astype("f4"))
    nodes += [Node("reshape", "Reshape", ("y", "shape"), ("r",)), Node("conv2", "Conv", ("r", "lost"), ("end",))]
    npu = compiled(tmp_path / "a.om", weights["conv.w"], weights["conv.b"], ("conv", "conv2"))
    report = compare_weights(original(weights, nodes), npu)
    assert report["shape:output:0"].verdict is Verdict.FUSED
    assert report["lost:output:0"].verdict is Verdict.NO_NPU
    assert report.exit_code != 0


def test_without_names_a_unique_equal_weight_is_taken_and_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(10)
    weights, nodes = conv_net(rng)
    npu = compiled(tmp_path / "a.om", weights["conv.w"], weights["conv.b"], ("other_name",))
    report = compare_weights(original(weights, nodes), npu)
    assert all("by shape and content" in row.notes[0] for row in report.comparisons)
    assert any("2 weights were paired by shape and content alone" in note for note in report.notes)


def test_checkpoints_are_compared_by_tag(shared: Path) -> None:
    path = next((shared / "mindspore").glob("*lenet*"))
    mine = mindspore.load_checkpoint(path)
    assert compare_weights(mine, mine).passed
    other = dict(mine.weights)
    other["fc1.weight"] = TensorRef.of(other["fc1.weight"].numpy() + np.float32(0.5))
    del other["moments.fc2.bias"]
    report = compare_weights(mine, replace(mine, weights=other))
    assert report["fc1.weight:output:0"].verdict is Verdict.DRIFT
    assert report["fc2.weight:output:0"].verdict is Verdict.MATCH
    assert not report.passed


def test_a_mindir_model_is_compared_with_weights_of_other_names(shared: Path) -> None:
    golden = mindspore.load(next((shared / "mindspore").glob("*ori_net*")))
    exported = {f"onnx.{i}": TensorRef.of(ref.numpy().T.copy() if ref.numpy().ndim == 2 else ref.numpy())
                for i, ref in enumerate(golden.weights.values())}
    report = compare_weights(golden, Graph("net", "onnx", (), weights=exported))
    assert report.passed
    assert sum("transposed" in " ".join(row.notes) for row in report.comparisons) == 3


def test_a_mapping_without_weights_is_an_error_with_advice(tmp_path: Path) -> None:
    weights, nodes = conv_net(np.random.default_rng(1))
    with pytest.raises(InputError, match=r"give the \.om"):
        compare_weights(original(weights, nodes), Graph("net", "om", ()))


@pytest.mark.parametrize(("stored", "fits"), [
    (lambda w: w.astype("f2"), True), (lambda w: w.transpose(2, 3, 1, 0).astype("f2"), True),
    (lambda w: w.reshape(6, -1).astype("f2"), True), (lambda w: (w * 1.01).astype("f2"), False),
    (lambda w: w[::-1].astype("f2"), False), (lambda w: np.where(w == w.max(), np.nan, w).astype("f2"), False),
])
def test_fit_knows_roundings_and_transpositions_from_other_numbers(stored: Any, fits: bool) -> None:
    weight = np.random.default_rng(2).normal(size=(6, 4, 3, 5)).astype("f4")
    assert (fit(weight, stored(weight), F16) is not None) is fits


def test_differences_are_counted_in_roundings_of_the_stored_type() -> None:
    golden = np.array([1.0, 1.0, 1e-12, np.nan, np.inf, 1e6, 2.0])
    npu = np.array([1.0, 1.0 + 2**-10, 0.0, np.nan, np.inf, np.inf, 2.0 + 3 * 2**-9])
    assert roundings(golden, npu, F16).tolist() == pytest.approx([0, 1, 1e-12 / 2**-24, 0, 0, np.inf, 3])
    assert roundings(np.array([1, 2]), np.array([1, 3]), DTYPES["int32"]).tolist() == [0, np.inf]


def test_one_number_stored_for_each_channel_fits() -> None:
    found = fit(np.float32([[0.25]]), np.full(16, 0.25, "f2"), F16)
    assert found is not None
    assert "each channel" in found.how
    assert fit(np.float32([[0.25]]), np.float16([0.25, 0.5]), F16) is None
