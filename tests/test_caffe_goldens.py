"""Goldens of Caffe nets, every output of every layer, against numpy: several outputs, random nets, real ones.

OpenCV reuses memory of what it thinks nobody reads any more. What is asserted here is that no golden tensor is such
memory, whatever the net looks like.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from caffe_nets import random_inputs, random_net, write_net
from caffe_numpy import execute

import acccmp
from acccmp import Dump, Graph

pytest.importorskip("cv2")

DATA = "input: 'data' input_dim: 2 input_dim: 8 input_dim: 7 input_dim: 6\n"
SPREAD = 'layer { name: "first" type: "Power" bottom: "data" top: "first" power_param { scale: 2 shift: 1 } }\n'
BEHIND = {
    "Convolution": 'convolution_param { num_output: 2 kernel_size: 3 pad: 1 bias_term: false }',
    "Pooling": "pooling_param { kernel_size: 3 stride: 2 }",
    "ReLU": "",
}


def loaded(folder: Path, text: str, weights: dict[str, list[np.ndarray]] | None = None) -> Graph:
    prototxt, caffemodel = write_net(folder, text, weights or {"none": []})
    return acccmp.load(prototxt, caffemodel if weights else None)


def assert_golden(graph: Graph, limit: float = 1e-4, seed: int = 3) -> Dump:
    """Every tensor that numpy gives is there, in its shape, within `limit` of its largest value."""
    inputs = random_inputs(graph, seed)
    found = acccmp.run(graph, inputs)
    assert found.run.skipped == {}
    expected = execute(graph, inputs)
    assert {graph.tensor(port) for port in found} == set(expected)
    for port, ref in found.items():
        values = expected[graph.tensor(port)]
        assert ref.shape == values.shape, port
        assert np.abs(ref.numpy() - values).max(initial=0) <= limit * max(1.0, np.abs(values).max(initial=0)), port
    return found


# -- layers with several outputs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [*BEHIND, "in place", "nothing"])
@pytest.mark.parametrize("pieces", [3, 5, 8])
def test_every_output_of_a_slice_layer_is_that_piece_of_its_input(tmp_path: Path, pieces: int, behind: str) -> None:
    text = f"input: 'data' input_dim: 2 input_dim: {2 * pieces} input_dim: 7 input_dim: 6\n" + SPREAD
    tops = " ".join(f'top: "s{place}"' for place in range(pieces))
    text += f'layer {{ name: "cut" type: "Slice" bottom: "first" {tops} slice_param {{ axis: 1 }} }}\n'
    weights = {}
    for place in range(pieces):
        if behind in BEHIND:
            text += (f'layer {{ name: "next{place}" type: "{behind}" bottom: "s{place}" top: "n{place}" '
                     f"{BEHIND[behind]} }}\n")
        elif behind == "in place":
            text += f'layer {{ name: "next{place}" type: "TanH" bottom: "s{place}" top: "s{place}" }}\n'
        if behind == "Convolution":
            weights[f"next{place}"] = [np.random.default_rng(place).standard_normal((2, 2, 3, 3)).astype("f4")]
    found = assert_golden(loaded(tmp_path, text, weights))
    whole = found[acccmp.Port("first", "output", 0)].numpy()
    for place in range(pieces):
        piece = found[acccmp.Port("cut", "output", place)].numpy()
        np.testing.assert_array_equal(piece, whole[:, 2 * place : 2 * place + 2])


@pytest.mark.parametrize(
    ("layer", "weights"),
    [
        ('type: "Slice" bottom: "first" top: "a" top: "b" top: "c" top: "d" '
         "slice_param { axis: 2 slice_point: 1 slice_point: 3 slice_point: 4 }", {}),
        ('type: "Split" bottom: "first" top: "a" top: "b" top: "c" top: "d"', {}),
        ('type: "Pooling" bottom: "first" top: "a" top: "b" pooling_param { kernel_size: 3 stride: 2 pad: 1 }', {}),
        ('type: "Convolution" bottom: "first" bottom: "data" bottom: "first" top: "a" top: "b" top: "c" '
         "convolution_param { num_output: 4 kernel_size: 3 group: 2 }", {"many": [(4, 4, 3, 3), (4,)]}),
    ],
    ids=["Slice", "Split", "Pooling", "Convolution"],
)
def test_every_output_of_every_layer_with_several_survives_what_follows(
    tmp_path: Path, layer: str, weights: dict[str, list[tuple[int, ...]]],
) -> None:
    text = DATA + SPREAD + f'layer {{ name: "many" {layer} }}\n'
    for top in "abcd":
        if f'top: "{top}"' in layer:
            text += f'layer {{ name: "in_place_{top}" type: "Sigmoid" bottom: "{top}" top: "{top}" }}\n'
            text += f'layer {{ name: "more_{top}" type: "TanH" bottom: "{top}" top: "more_{top}" }}\n'
    rng = np.random.default_rng(1)
    arrays = {name: [rng.uniform(-0.5, 0.5, size).astype("f4") for size in sizes] for name, sizes in weights.items()}
    assert_golden(loaded(tmp_path, text, arrays))


def test_every_output_of_a_slice_layer_of_an_old_net_is_that_piece(tmp_path: Path) -> None:
    tops = " ".join(f'top: "s{place}"' for place in range(4))
    assert_golden(loaded(tmp_path, DATA + f"""
        layers {{ name: "cut" type: SLICE bottom: "data" {tops} slice_param {{ slice_dim: 1 }} }}
        layers {{ name: "behind" type: SIGMOID bottom: "s1" top: "s1" }}"""))


@pytest.mark.parametrize("kind", ["AbsVal", "MVN", "Dropout", "Softmax", "Pooling", "BatchNorm"])
def test_an_output_that_opencv_does_not_write_is_left_out_not_handed_over_as_it_lies_in_memory(
    tmp_path: Path, kind: str,
) -> None:
    weights = {"odd": [np.ones(8, "f4"), np.ones(8, "f4"), np.ones(1, "f4")]} if kind == "BatchNorm" else {}
    method = "pooling_param { pool: AVE kernel_size: 2 }" if kind == "Pooling" else ""
    text = DATA + SPREAD + f'layer {{ name: "odd" type: "{kind}" bottom: "first" top: "a" top: "b" top: "c" {method} }}'
    graph = loaded(tmp_path, text, weights)
    found = acccmp.run(graph, random_inputs(graph))
    assert {graph.tensor(port) for port in found} == {"data", "first"}
    assert found.run.skipped == dict.fromkeys(
        "abc", f"OpenCV cannot run odd ({kind}): it knows no such type with 3 outputs",
    )


def test_a_convolution_whose_output_has_another_name_than_the_layer_is_run(tmp_path: Path) -> None:
    text = DATA + """
    layer { name: "conv" type: "Convolution" bottom: "data" top: "feature"
            convolution_param { num_output: 3 kernel_size: 2 } }
    layer { name: "feature" type: "ReLU" bottom: "feature" top: "conv" }"""
    weights = {"conv": [np.random.default_rng(0).standard_normal(size).astype("f4") for size in ((3, 8, 2, 2), (3,))]}
    assert_golden(loaded(tmp_path, text, weights))


def test_the_command_writes_every_piece_of_a_slice_layer(tmp_path: Path) -> None:
    tops = " ".join(f'top: "s{place}"' for place in range(4))
    text = DATA + f'layer {{ name: "cut" type: "Slice" bottom: "data" {tops} }}\n'
    prototxt, _ = write_net(tmp_path, text, {"none": []})
    data = np.random.default_rng(2).standard_normal((2, 8, 7, 6)).astype("f4")
    np.save(tmp_path / "data.npy", data)
    command = [sys.executable, "-m", "acccmp", "run", str(prototxt), "--input", f"data={tmp_path / 'data.npy'}"]
    ran = subprocess.run([*command, "-o", str(tmp_path / "golden")], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    golden = acccmp.read_dump(tmp_path / "golden")
    for place in range(4):
        piece = golden[acccmp.Port("cut", "output", place)].numpy()
        np.testing.assert_array_equal(piece, data[:, 2 * place : 2 * place + 2])


# -- parameters that OpenCV understands otherwise, or not at all ----------------------------------------------------


@pytest.mark.parametrize("k", ["", "k: 1", "k: 2", "k: 0.25"])
@pytest.mark.parametrize("size", [3, 5])
def test_an_lrn_layer_within_channels_adds_one_whatever_its_k(tmp_path: Path, size: int, k: str) -> None:
    text = DATA + f'''layer {{ name: "lrn" type: "LRN" bottom: "data" top: "lrn"
      lrn_param {{ local_size: {size} alpha: 0.7 beta: 0.6 {k} norm_region: WITHIN_CHANNEL }} }}
      layer {{ name: "across" type: "LRN" bottom: "data" top: "across"
      lrn_param {{ local_size: {size} alpha: 0.7 beta: 0.6 {k} }} }}'''
    assert_golden(loaded(tmp_path, text), 1e-6)


@pytest.mark.parametrize("layer", ["layer", "layers"])
def test_a_dropout_layer_that_did_not_scale_in_training_scales_now(tmp_path: Path, layer: str) -> None:
    kind = '"Dropout"' if layer == "layer" else "DROPOUT"
    text = DATA + "".join(
        f'{layer} {{ name: "{name}" type: {kind} bottom: "data" top: "{name}" dropout_param {{ {param} }} }}\n'
        for name, param in (
            ("plain", "dropout_ratio: 0.3"), ("late", "dropout_ratio: 0.3 scale_train: false"),
            ("half", "scale_train: false"), ("early", "dropout_ratio: 0.3 scale_train: true"),
        )
    )
    found = assert_golden(loaded(tmp_path, text), 1e-6)
    data = found[acccmp.Port("data", "output", 0)].numpy()
    np.testing.assert_allclose(found[acccmp.Port("late", "output", 0)].numpy(), 0.7 * data, rtol=1e-6)


# -- whole nets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_every_output_of_a_random_net_equals_the_numpy_computation(tmp_path: Path, seed: int) -> None:
    assert_golden(acccmp.load(*random_net(tmp_path, seed)), 1e-3, seed)


RFB = "Linzaer_Ultra-Light-Fast-Generic-Face-Detector-1MB__RFB-320"
# prototxt, caffemodel, tensors that it makes (its inputs among them)
SHARED = [
    ("MTCNNv2__det1", "MTCNNv2__det1", 11), ("MTCNNv2__det2", "MTCNNv2__det2", 14),
    ("everpeace_caffe__lenet", "everpeace_caffe__lenet_iter_10000", 9), (RFB, RFB, 111),
]


def test_no_shared_caffe_model_is_left_out(shared: Path) -> None:
    assert sorted(path.stem for path in shared.glob("caffe/*.prototxt")) == sorted(row[0] for row in SHARED)


@pytest.mark.parametrize("row", SHARED, ids=lambda row: row[0][:14])
def test_every_output_of_a_real_net_that_the_command_writes_equals_the_numpy_computation(
    shared: Path, tmp_path: Path, row: tuple[str, str, int],
) -> None:
    model, weights = shared / "caffe" / f"{row[0]}.prototxt", shared / "caffe" / f"{row[1]}.caffemodel"
    graph = acccmp.load(model, weights)
    inputs = random_inputs(graph)
    command = [sys.executable, "-m", "acccmp", "run", str(model), "--weights", str(weights)]
    for name, array in inputs.items():
        np.save(tmp_path / f"{name}.npy", array)
        command += ["--input", f"{name}={tmp_path / name}.npy"]
    ran = subprocess.run([*command, "-o", str(tmp_path / "golden")], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    golden = acccmp.read_dump(tmp_path / "golden")
    expected = execute(graph, inputs)
    assert len(golden) == len(expected) == row[2]
    for port, ref in golden.items():
        values = expected[graph.tensor(port)]
        assert ref.shape == values.shape, port
        assert np.linalg.norm(ref.numpy() - values) <= 1e-5 * np.linalg.norm(values), port
