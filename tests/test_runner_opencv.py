"""Golden runs of Caffe nets: every tensor of every layer, equal to the definitions in numpy, up to unknown layers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from caffe_nets import V2_SHAPES, random_inputs, random_weights, v1_net, v2_net, write_net
from caffe_numpy import execute
from hypothesis import given, settings
from hypothesis import strategies as st

from acccmp.core.dump import Port
from acccmp.core.graph import Graph
from acccmp.errors import InputError, MissingExtra, RunError, UnknownName
from acccmp.models.caffe import load, with_input_shapes
from acccmp.runners.opencv import run, run_parts, trimmed
from acccmp.runners.runner import Captured, Part

pytest.importorskip("cv2")

DET1, RFB = "MTCNNv2__det1", "Linzaer_Ultra-Light-Fast-Generic-Face-Detector-1MB__RFB-320"
HEAD = 'input: "data" input_dim: 2 input_dim: 4 input_dim: 7 input_dim: 8\n'


def real(shared: Path, name: str) -> Graph:
    return load(shared / "caffe" / f"{name}.prototxt", shared / "caffe" / f"{name}.caffemodel")


def by_tensor(graph: Graph, captured: Captured) -> dict[str, np.ndarray]:
    return {str(graph.tensor(port)): array for port, array in captured.tensors.items()}


def assert_equal(graph: Graph, captured: Captured, expected: dict[str, np.ndarray], limit: float = 1e-4) -> None:
    found = by_tensor(graph, captured)
    assert found.keys() == expected.keys()
    for tensor, values in expected.items():
        assert found[tensor].dtype == np.float32
        assert found[tensor].shape == values.shape, tensor
        assert np.abs(found[tensor] - values).max(initial=0) <= limit, tensor


@pytest.mark.parametrize("build", [v1_net, v2_net])
def test_every_layer_of_a_net_with_in_place_chains_equals_the_numpy_computation(tmp_path: Path, build) -> None:
    graph = load(*build(tmp_path))
    inputs = random_inputs(graph)
    captured = run(graph, inputs)
    judged = {node.name for node in graph.nodes if node.op_type in ("Accuracy", "MemoryData")}
    expected = execute(graph.keep(node.name for node in graph.nodes if node.name not in judged), inputs)
    assert_equal(graph, captured, expected, 1e-5)
    assert set(captured.skipped) == ({"accuracy"} if judged else set())


def test_before_and_after_an_in_place_layer_are_two_tensors(tmp_path: Path) -> None:
    graph = load(*v1_net(tmp_path))
    captured = run(graph, random_inputs(graph))
    before, after = captured[Port("conv1", "output", 0)], captured[Port("relu1", "output", 0)]
    assert before.min() < 0
    np.testing.assert_array_equal(np.maximum(before, 0), after)


def test_a_later_output_of_a_layer_survives_the_in_place_layer_behind_it(tmp_path: Path) -> None:
    graph = load(*v2_net(tmp_path))
    found = by_tensor(graph, run(graph, random_inputs(graph)))
    np.testing.assert_array_equal(found["back"], found["norm"][:, 3:])
    np.testing.assert_allclose(found["back@cutsig"], 1 / (1 + np.exp(-found["back"])), rtol=1e-6)


def test_inputs_come_first_and_layers_follow_in_order(tmp_path: Path) -> None:
    graph = load(*v1_net(tmp_path))
    inputs = random_inputs(graph)
    captured = run(graph, inputs)
    ports = list(captured.tensors)
    assert ports[0] == Port("test", "output", 0)
    np.testing.assert_array_equal(captured[ports[0]], inputs["data"])
    assert [port.node for port in ports] == sorted((p.node for p in ports), key=graph.depth.__getitem__)
    assert (captured.runner, captured.version[0]) == ("opencv", "4")


def test_the_same_run_twice_and_with_another_number_of_threads_is_bit_equal(shared: Path) -> None:
    import cv2

    graph = real(shared, RFB)
    inputs = random_inputs(graph)
    before = cv2.getNumThreads()
    runs = []
    try:
        for threads in (1, 2, 2):
            cv2.setNumThreads(threads)
            runs.append(run(graph, inputs))
    finally:
        cv2.setNumThreads(before)
    for other in runs[1:]:
        for port, array in runs[0].tensors.items():
            np.testing.assert_array_equal(array, other[port])


def test_only_what_was_asked_for_is_kept(tmp_path: Path) -> None:
    graph = load(*v1_net(tmp_path))
    inputs = random_inputs(graph)
    captured = run(graph, inputs, wanted=["conv1@relu1", "data"])
    assert [str(port) for port in captured.tensors] == ["test:output:0", "relu1:output:0"]
    np.testing.assert_array_equal(
        captured[Port("relu1", "output", 0)], run(graph, inputs)[Port("relu1", "output", 0)],
    )
    with pytest.raises(UnknownName, match=r"no tensor named 'conv1@relu'.*did you mean conv1@relu1"):
        run(graph, inputs, wanted=["conv1@relu"])


def test_a_net_runs_on_another_batch_and_image_size(shared: Path) -> None:
    graph = real(shared, DET1)
    inputs = {"data": np.random.default_rng(1).uniform(-1, 1, (3, 3, 31, 40)).astype("f4")}
    captured = run(graph, inputs)
    assert captured[Port("prob1", "output", 0)].shape == (3, 2, 11, 15)
    assert_equal(graph, captured, execute(graph, inputs))


def test_parts_run_side_by_side_each_on_values_of_its_own(tmp_path: Path) -> None:
    """As many as there are, overlapping, with other values of one tensor; what one cannot do harms no other."""
    graph = load(*v2_net(tmp_path))
    whole = by_tensor(graph, run(graph, random_inputs(graph)))
    unknown = HEAD + 'layer { name: "up" type: "Odd" bottom: "data" top: "up" }'
    odd = load(*write_net(tmp_path, unknown, {"none": []}, "odd"))
    cells = load(*write_net(tmp_path, HEAD + '''layer { name: "first" type: "TanH" bottom: "data" top: "data" }
      layer { name: "cut" type: "Reorg" bottom: "data" top: "cut" reorg_param { stride: 2 } }
      layer { name: "last" type: "ReLU" bottom: "cut" top: "cut" }''', {"none": []}, "cells"))
    data, image = np.ones((1, 4, 4, 6), "f4"), whole["image"]
    parts = [
        Part(graph.keep(["conv"]), {"image": image}), Part(odd, {"data": data}),
        Part(graph.keep(["conv", "bn", "scale"]), {"image": 2 * image}, ["conv@scale"]), Part(cells, {"data": data}),
    ]
    found = run_parts(parts)
    alone = [run(part.graph, part.inputs, part.wanted) for part in parts]
    assert [list(map(str, one.tensors)) for one in found] == [
        ["image:output:0", "conv:output:0"], ["data:output:0"], ["scale:output:0"],
        ["data:output:0", "first:output:0", "cut:output:0", "last:output:0"],
    ]
    for one, other in zip(found, alone, strict=True):
        assert (one.skipped, one.notes) == (other.skipped, other.notes)
        for port, array in one.tensors.items():
            np.testing.assert_array_equal(array, other[port])
    assert found[1].skipped == {"up": "OpenCV cannot run up (Odd): it does not know this type"}
    np.testing.assert_array_equal(found[0][Port("conv", "output", 0)], whole["conv"])
    assert not np.array_equal(found[2][Port("scale", "output", 0)], whole["conv@scale"])


# -- the frontier ------------------------------------------------------------------------------------------------

ODD = """
layer { name: "a" type: "ReLU" bottom: "data" top: "a" }
layer { name: "odd" type: "FancyNMS" bottom: "a" top: "b" top: "c" fancy_param { x: 1 inner { deep { y: 2 } } } }
layer { name: "d" type: "TanH" bottom: "c" top: "c" }
layer { name: "e" type: "Eltwise" bottom: "c" bottom: "a" top: "e" }
layer { name: "f" type: "Sigmoid" bottom: "a" top: "f" }
layer { name: "odd2" type: "Other" bottom: "f" top: "g" }
"""


def odd(folder: Path, text: str, weights: dict | None = None) -> Graph:
    return load(*write_net(folder, HEAD + text, weights or {"none": []}))


def test_unknown_layers_stop_only_what_depends_on_them(tmp_path: Path) -> None:
    graph = odd(tmp_path, ODD)
    inputs = random_inputs(graph)
    captured = run(graph, inputs)
    assert set(by_tensor(graph, captured)) == {"data", "a", "f"}
    assert captured.skipped == {
        "b": "OpenCV cannot run odd (FancyNMS): it knows no such type with 2 outputs",
        "c": "OpenCV cannot run odd (FancyNMS): it knows no such type with 2 outputs",
        "c@d": "below c: OpenCV cannot run odd (FancyNMS): it knows no such type with 2 outputs",
        "e": "below c: OpenCV cannot run odd (FancyNMS): it knows no such type with 2 outputs",
        "g": "OpenCV cannot run odd2 (Other): it does not know this type",
    }
    np.testing.assert_array_equal(by_tensor(graph, captured)["a"], np.maximum(inputs["data"], 0))


def test_a_layer_that_opencv_fails_on_without_naming_it_is_found(tmp_path: Path) -> None:
    graph = odd(tmp_path, """
      layer { name: "a" type: "ReLU" bottom: "data" top: "a" }
      layer { name: "b" type: "TanH" bottom: "a" top: "b" }
      layer { name: "s" type: "Pooling" bottom: "b" top: "s" pooling_param { pool: STOCHASTIC kernel_size: 2 } }
      layer { name: "t" type: "ReLU" bottom: "s" top: "t" }
      layer { name: "u" type: "Sigmoid" bottom: "b" top: "u" }""")
    captured = run(graph, random_inputs(graph))
    assert set(by_tensor(graph, captured)) == {"data", "a", "b", "u"}
    assert captured.skipped["s"] == "OpenCV cannot run s (Pooling): Not implemented"
    assert captured.skipped["t"].startswith("below s: ")


def test_the_reasons_are_one_short_line_and_nothing_goes_to_stderr(tmp_path: Path, capfd) -> None:
    graph = odd(tmp_path, 'layer { name: "r" type: "Tile" bottom: "data" top: "r" tile_param { tiles: 2 } }')
    captured = run(graph, random_inputs(graph))
    assert "\n" not in captured.skipped["r"]
    assert "/io/" not in captured.skipped["r"]
    assert capfd.readouterr().err == ""


def test_an_opencv_message_is_trimmed() -> None:
    text = "OpenCV(4.14.0) /io/x.cpp:9: error: (-2:Unspecified error) FAILED: a thing\nis  wrong in function 'f'\n"
    assert trimmed(text) == "FAILED: a thing is wrong"
    assert len(trimmed("layer { " * 500)) == 160


# -- where OpenCV goes its own way -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ('type: "LRN" lrn_param { local_size: 3 alpha: 0.5 beta: 0.6 k: 2 }', {}),
        ('type: "Pooling" pooling_param { kernel_size: 2 stride: 2 round_mode: FLOOR }', {}),
        ('type: "Pooling" pooling_param { kernel_size: 2 stride: 2 fork_field: 3 }', {}),
        ('type: "Concat" bottom: "data" concat_param { concat_dim: 2 }', {}),
        ('type: "Slice" top: "x" slice_param { slice_dim: 2 slice_point: 3 }', {}),
        ('type: "ReLU" fork_param { why: "so" inner { n: 1 } }', {}),
        ('type: "Convolution" convolution_param { num_output: 4 kernel_size: 3 fork: 1 }', {"c": [(4, 4, 3, 3), (4,)]}),
        ('type: "Scale" scale_param { axis: 2 num_axes: 2 }', {"c": [(7, 8)]}),
        ('type: "InnerProduct" inner_product_param { num_output: 5 axis: -1 }', {"c": [(5, 8), (5,)]}),
        ('type: "PReLU" prelu_param { channel_shared: true }', {"c": [(1,)]}),
        ('type: "Flatten" flatten_param { axis: 1 end_axis: 2 }', {}),
    ],
)
def test_parameters_that_opencv_reads_in_another_way_mean_what_caffe_means(
    tmp_path: Path, text: str, weights: dict,
) -> None:
    graph = odd(
        tmp_path, f'layer {{ name: "c" bottom: "data" top: "c" {text} }}', random_weights(weights) or {"none": []},
    )
    inputs = random_inputs(graph)
    captured = run(graph, inputs)
    assert captured.skipped == {}
    assert_equal(graph, captured, execute(graph, inputs), 1e-5)


@pytest.mark.parametrize(
    ("text", "weights", "what"),
    [
        ('type: "InnerProduct" inner_product_param { num_output: 5 transpose: true }', {"c": [(224, 5), (5,)]},
         "transpose: True"),
        ('type: "Deconvolution" convolution_param { num_output: 4 kernel_size: 3 dilation: 2 bias_term: false }',
         {"c": [(4, 4, 3, 3)]}, "dilation: (2,)"),
        ('type: "Swish" swish_param { beta: 2 }', {}, "beta: 2.0"),
        ('type: "MVN" mvn_param { eps: 0.1 }', {}, "eps: 0.1"),
        ('type: "Log" log_param { base: 2 }', {}, "base: 2.0"),
    ],
)
def test_parameters_that_opencv_would_ignore_are_refused_not_computed_wrongly(
    tmp_path: Path, text: str, weights: dict, what: str,
) -> None:
    graph = odd(
        tmp_path, f'layer {{ name: "c" bottom: "data" top: "c" {text} }}', random_weights(weights) or {"none": []},
    )
    captured = run(graph, random_inputs(graph))
    assert captured.skipped == {"c": f"OpenCV cannot run c ({graph['c'].op_type}): it takes no notice of {what}"}


@settings(max_examples=40)
@given(st.data())
def test_any_convolution_and_pooling_has_caffes_size_and_values(tmp_path_factory, data) -> None:
    kernel, stride = (data.draw(st.integers(1, 4)) for _ in range(2))
    pad, group = data.draw(st.integers(0, kernel - 1)), data.draw(st.sampled_from([1, 2, 4]))
    dilation = data.draw(st.integers(1, 2)) if kernel <= 3 else 1
    window = f"kernel_size: {kernel} stride: {stride} pad: {pad}"
    method = data.draw(st.sampled_from(["MAX", "AVE"]))
    pooling = f"pooling_param {{ pool: {method} kernel_size: {kernel} stride: {min(stride, kernel)} pad: {pad} }}"
    text = f"""layer {{ name: "c" type: "Convolution" bottom: "data" top: "c"
      convolution_param {{ num_output: 4 group: {group} dilation: {dilation} {window} }} }}
      layer {{ name: "d" type: "Deconvolution" bottom: "data" top: "d"
      convolution_param {{ num_output: 4 group: {group} {window} }} }}
      layer {{ name: "p" type: "Pooling" bottom: "data" top: "p" {pooling} }}"""
    blobs = [(4, 4 // group, kernel, kernel), (4,)]
    weights = random_weights({"c": blobs, "d": blobs})
    graph = odd(tmp_path_factory.mktemp("net"), text, weights)
    inputs = random_inputs(graph)
    captured = run(graph, inputs)
    assert captured.notes == ()
    assert_equal(graph, captured, execute(graph, inputs), 1e-5)
    for tensor, array in by_tensor(graph, captured).items():
        assert graph.spec(tensor).shape == array.shape


# -- what goes in ------------------------------------------------------------------------------------------------


def test_inputs_of_a_wrong_name_shape_or_kind_are_refused(shared: Path) -> None:
    graph = real(shared, DET1)
    good = np.zeros((1, 3, 12, 12), np.float32)
    with pytest.raises(UnknownName, match="no input named 'date' in PNet; did you mean data"):
        run(graph, {"date": good})
    with pytest.raises(InputError, match=r"the input 'data' of PNet \(shape \(1, 3, 12, 12\)\) was not given"):
        run(graph, {})
    with pytest.raises(InputError, match=r"has shape \(1, 12, 12, 3\), PNet takes \(1, 3, 12, 12\)"):
        run(graph, {"data": np.zeros((1, 12, 12, 3), np.float32)})
    with pytest.raises(InputError, match="real numbers"):
        run(graph, {"data": good.astype(np.complex64)})
    with pytest.raises(InputError, match="has shape"):
        run(graph, {"data": good[:0]})


def test_flat_and_integer_inputs_are_taken_as_what_they_are(shared: Path) -> None:
    graph = real(shared, DET1)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 12, 12))
    expected = run(graph, {"data": pixels.astype(np.float32)})
    for given_ in (pixels.astype(np.uint8), pixels.ravel().astype(np.float64)):
        captured = run(graph, {"data": given_})
        for port, array in expected.tensors.items():
            np.testing.assert_array_equal(captured[port], array)


def test_a_net_without_weights_says_where_they_go(tmp_path: Path) -> None:
    model, weights = v2_net(tmp_path)
    weights.unlink()
    graph = load(model)
    with pytest.raises(RunError, match=r"Zoo has no weights: give the \.caffemodel too \(--weights FILE\)"):
        run(graph, random_inputs(graph))


def test_layers_without_their_weights_are_left_out_before_opencv_sees_them(tmp_path: Path) -> None:
    model, _ = v2_net(tmp_path)
    shapes = {name: V2_SHAPES[name] for name in V2_SHAPES if name not in ("prelu", "up")}
    graph = load(*write_net(tmp_path, model.read_text(), random_weights(shapes)))
    assert graph.notes == tuple(f"net.caffemodel has no weights for the layer {name!r}" for name in ("prelu", "up"))
    captured = run(graph, random_inputs(graph))
    assert set(by_tensor(graph, captured)) == {"image", "conv", "conv@bn", "conv@scale"}
    assert captured.skipped["conv@prelu"] == "'prelu' (PReLU) has no weights where 1 are due"
    assert captured.skipped["power"].startswith("below conv@")


def test_a_picture_of_another_size_is_told_where_it_no_longer_fits_the_weights(tmp_path: Path) -> None:
    text = """layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 dim: 3 dim: 4 } } }
      layer { name: "r" type: "ReLU" bottom: "x" top: "r" }
      layer { name: "ip" type: "InnerProduct" bottom: "r" top: "ip" inner_product_param { num_output: 5 } }"""
    graph = load(*write_net(tmp_path, text, random_weights({"ip": [(5, 24), (5,)]})))
    captured = run(graph, {"x": np.ones((1, 2, 3, 5), "f4")})
    assert set(by_tensor(graph, captured)) == {"x", "r"}
    assert captured.skipped["ip"] == "the weight ip.0 is stored with shape (5, 24), the net needs (5, 30)"


def test_a_trained_net_runs_without_its_labels(shared: Path) -> None:
    graph = load(shared / "caffe/MTCNNv2__det1.caffemodel")
    data = np.random.default_rng(2).uniform(-1, 1, (2, 3, 12, 12)).astype("f4")
    captured = run(graph, {"data12face": data})
    known = real(shared, DET1)
    deployed = run(known, {"data": data})
    np.testing.assert_array_equal(
        captured[Port("conv4-2", "output", 0)], deployed[Port("conv4-2", "output", 0)],
    )
    assert captured.skipped["loss1"] == "SoftmaxWithLoss is for training"
    assert "an input that was not given" in captured.skipped["label1"]
    assert with_input_shapes(graph, {"data12face": data.shape}).spec("conv4-1").shape == (2, 2, 1, 1)


def test_a_part_runs_on_the_tensors_at_its_entrance(tmp_path: Path) -> None:
    graph = load(*v1_net(tmp_path))
    whole = by_tensor(graph, run(graph, random_inputs(graph)))
    part = graph.keep(["pool1", "conv2", "relu2"])
    assert part.inputs == ("conv1@drop1",)
    captured = run(part, {"conv1@drop1": whole["conv1@drop1"]})
    assert next(iter(captured.tensors)) == Port("conv1@drop1", "output", 0)
    for tensor, array in by_tensor(part, captured).items():
        np.testing.assert_array_equal(array, whole[tensor])


def test_without_opencv_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = load(*v1_net(tmp_path))
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtra, match=r"opencv-python-headless, which .*: pip install 'acccmp\[caffe\]'"):
        run(graph, {})
