"""Caffe files become Graphs: all generations, in-place layers, phase rules, weights left in their file, bad files."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from caffe_nets import V1_NET, random_weights, v1_net, v2_net, write_net
from dump_bytes import varint
from hypothesis import given
from hypothesis import strategies as st

from acccmp.core.dump import Port
from acccmp.errors import AcccmpError, FormatError, InputError
from acccmp.models.caffe import load, with_input_shapes
from acccmp.models.caffe_layers import v2_type
from acccmp.models.caffe_shapes import fits, pooled, top_shapes
from acccmp.models.caffe_text import Block, parse, quoted, render, unquoted
from acccmp.models.caffe_weights import read_caffemodel
from acccmp.schemas import caffe_pb2

RFB = "Linzaer_Ultra-Light-Fast-Generic-Face-Detector-1MB__RFB-320"
# prototxt, caffemodel, nodes, edges, weights, inputs, outputs: counted in the files by hand and with protobuf's parser
REAL = [
    ("MTCNNv2__det1", "MTCNNv2__det1", 11, 10, 13, ("data",), ("conv4-2", "prob1")),
    ("MTCNNv2__det2", "MTCNNv2__det2", 14, 13, 16, ("data",), ("conv5-2", "prob1")),
    ("everpeace_caffe__lenet", "everpeace_caffe__lenet_iter_10000", 9, 8, 8, ("data",), ("prob",)),
    (RFB, RFB, 111, 119, 104, ("input",), ("boxes", "scores")),
]


def net(folder: Path, text: str) -> Path:
    path = folder / "net.prototxt"
    path.write_text(text)
    return path


HEAD = 'input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8\n'


# -- real models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", REAL, ids=lambda row: row[0][:14])
def test_a_real_model_has_these_nodes_edges_and_shapes(shared: Path, row: tuple) -> None:
    name, weights, nodes, edges, blobs, inputs, outputs = row
    graph = load(shared / "caffe" / f"{name}.prototxt", shared / "caffe" / f"{weights}.caffemodel")
    assert (len(graph), graph.nx.number_of_edges(), len(graph.weights)) == (nodes, edges, blobs)
    assert (graph.inputs, graph.outputs, graph.notes) == (inputs, outputs, ())
    assert all(graph.spec(tensor).is_static for node in graph.nodes for tensor in node.outputs)


@pytest.mark.parametrize("row", REAL, ids=lambda row: row[0][:14])
def test_weights_stay_in_the_file_and_equal_what_protobuf_reads(shared: Path, row: tuple) -> None:
    path = shared / "caffe" / f"{row[1]}.caffemodel"
    graph = load(shared / "caffe" / f"{row[0]}.prototxt", path)
    message = caffe_pb2.NetParameter()
    message.ParseFromString(path.read_bytes())
    stored = {layer.name: layer.blobs for layer in (message.layer or message.layers)}
    assert graph.weights
    for name, ref in graph.weights.items():
        layer, _, place = name.rpartition(".")
        assert ref.path == str(path)
        assert ref.array is None
        np.testing.assert_array_equal(ref.numpy().ravel(), np.array(stored[layer][int(place)].data, np.float32))


def test_shapes_of_the_detector_are_those_its_authors_give(shared: Path) -> None:
    graph = load(shared / "caffe" / f"{RFB}.prototxt")
    # 4420 anchors of the 320x240 detector: (40*30*3 + 20*15*2 + 10*8*2 + 5*4*3)
    assert 40 * 30 * 3 + 20 * 15 * 2 + 10 * 8 * 2 + 5 * 4 * 3 == 4420
    assert graph.spec("boxes").shape == (1, 4420, 4)
    assert graph.spec("scores").shape == (1, 4420, 2)
    assert graph.spec("245").layout == "NCHW"
    assert graph.spec("boxes").layout is None


def test_the_old_lenet_keeps_its_old_shapes_and_gets_new_type_names(shared: Path) -> None:
    graph = load(
        shared / "caffe/everpeace_caffe__lenet.prototxt", shared / "caffe/everpeace_caffe__lenet_iter_10000.caffemodel",
    )
    assert [node.op_type for node in graph.nodes] == [
        "Input", "Convolution", "Pooling", "Convolution", "Pooling", "InnerProduct", "ReLU", "InnerProduct", "Softmax",
    ]
    assert graph.meta["generation"] == "V1"
    assert graph.weights["ip1.0"].shape == (1, 1, 500, 800)


def test_a_caffemodel_alone_shows_the_net_that_was_trained(shared: Path) -> None:
    graph = load(shared / "caffe/MTCNNv2__det1.caffemodel")
    assert graph["conv1"].attrs["convolution_param"]["num_output"] == 10
    assert not [node for node in graph.nodes if node.op_type == "Split"], "Splits that Caffe put in are no nodes"
    assert graph["conv4-1"].inputs == graph["conv4-2"].inputs == ("conv3@PReLU3",)
    assert graph.outputs == ("conv4-1", "conv4-2")
    assert any("data12face" in note and "unknown shape" in note for note in graph.notes)
    seen = with_input_shapes(graph, {"data12face": (1, 3, 12, 12)})
    assert seen.spec("conv4-2").shape == (1, 4, 1, 1)


def test_a_caffemodel_alone_says_which_parameters_only_the_prototxt_has(shared: Path) -> None:
    graph = load(shared / "caffe" / f"{RFB}.caffemodel")
    assert any("only a fork of Caffe knows" in note for note in graph.notes)
    permute = next(node for node in graph.nodes if node.op_type == "Permute")
    assert "permute_param" not in permute.attrs, "numbers of forks clash: nothing is read from them"


# -- wiring ------------------------------------------------------------------------------------------------------


def test_in_place_layers_make_tensors_of_their_own_and_readers_get_the_latest(tmp_path: Path) -> None:
    graph = load(*v1_net(tmp_path))
    assert graph["conv1"].outputs == ("conv1",)
    assert graph["relu1"].inputs == ("conv1",)
    assert graph["relu1"].outputs == ("conv1@relu1",)
    assert graph["drop1"].outputs == ("conv1@drop1",)
    assert graph["pool1"].inputs == ("conv1@drop1",)
    assert graph["side"].inputs == ("conv2",), "it stands before relu2 in the file"
    assert graph["ip1"].inputs == ("conv2@sig2",)
    assert graph.producer("conv1@relu1") == Port("relu1", "output", 0)


def test_phase_rules_are_applied_for_test_and_then_gone(tmp_path: Path) -> None:
    graph = load(*v1_net(tmp_path))
    names = [node.name for node in graph.nodes]
    assert not {"train", "loss", "drop3"} & set(names)
    assert {"test", "relu3", "accuracy", "prob"} <= set(names)
    assert not any({"include", "exclude", "phase"} & set(node.attrs) for node in graph.nodes)
    assert (graph.inputs, graph.outputs) == (("data",), ("side", "prob")), "labels and accuracy are for training"


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ("", True),
        ("include { phase: TEST }", True),
        ("include { phase: TRAIN }", False),
        ("include { phase: TRAIN } include { min_level: 0 }", True),
        ("include { min_level: 1 }", False),
        ("include { max_level: -1 }", False),
        ("include { phase: TEST stage: 'deploy' }", True),
        ("include { phase: TEST stage: 'deploy' stage: 'other' }", False),
        ("include { not_stage: 'deploy' }", False),
        ("exclude { phase: TEST }", False),
        ("exclude { phase: TRAIN }", True),
        ("exclude { stage: 'deploy' }", False),
        ("exclude { phase: TRAIN } exclude { stage: 'other' }", True),
    ],
)
def test_each_phase_rule(tmp_path: Path, rules: str, kept: bool) -> None:
    text = f'state {{ stage: "deploy" }} {HEAD} layer {{ name: "a" type: "ReLU" bottom: "data" top: "a" {rules} }}'
    text += ' layer { name: "b" type: "ReLU" bottom: "data" top: "b" }'
    assert ("a" in load(net(tmp_path, text))) is kept


@pytest.mark.parametrize(
    ("declared", "shape"),
    [
        (HEAD, (1, 3, 8, 8)),
        ('input: "data" input_shape { dim: 2 dim: 5 }', (2, 5)),
        ('layer { name: "in" type: "Input" top: "data" input_param { shape: { dim: [4, 3, 2] } } }', (4, 3, 2)),
        ('input: "data"', None),
    ],
)
def test_each_way_to_declare_an_input(tmp_path: Path, declared: str, shape: tuple | None) -> None:
    graph = load(net(tmp_path, declared + ' layer { name: "a" type: "TanH" bottom: "data" top: "a" }'))
    assert graph.inputs == ("data",)
    assert graph.nodes[0].op_type == "Input"
    assert graph.spec("a").shape == shape
    assert any("does not give the whole shape" in note for note in graph.notes) is (shape is None)


def test_data_layers_of_the_test_phase_are_inputs_with_what_is_known_of_their_shape(tmp_path: Path) -> None:
    text = """layer { name: "d" type: "Data" top: "data" top: "label" include { phase: TEST }
      transform_param { crop_size: 224 } data_param { batch_size: 50 source: "x" } }
      layer { name: "i" type: "ImageData" top: "img" image_data_param { batch_size: 2 new_height: 9 new_width: 7 } }
      layer { name: "p" type: "Python" top: "own" python_param { module: "m" layer: "L" } }
      layer { name: "s" type: "Eltwise" bottom: "data" bottom: "own" top: "s" }
      layer { name: "t" type: "TanH" bottom: "img" top: "t" }
      layer { name: "l" type: "SoftmaxWithLoss" bottom: "s" bottom: "label" top: "l" }"""
    graph = load(net(tmp_path, text))
    assert graph.inputs == ("data", "img", "own")
    assert graph.spec("data").shape == (50, None, 224, 224)
    assert graph.spec("label").shape == (50,)
    assert graph.spec("img").shape == (2, 3, 9, 7)
    assert graph.spec("own").shape is None
    assert graph.outputs == ("s", "t")
    assert any("own" in note for note in graph.notes)


def test_unknown_layers_keep_every_word_of_their_parameters(tmp_path: Path) -> None:
    text = HEAD + """layer { name: "odd" type: "FancyNMS" bottom: "data" top: "a" top: "b"
      fancy_param { mode: SHARP ratio: [0.1, 2e-3] flag: true label: "it's \\"x\\"" inner { deep { n: 0x1F } } }
      extra: 7 }
      layer { name: "tail" type: "ReLU" bottom: "b" top: "c" }"""
    graph = load(net(tmp_path, text))
    assert graph["odd"].op_type == "FancyNMS"
    assert graph["odd"].attrs == {
        "fancy_param": {
            "mode": "SHARP", "ratio": (0.1, 0.002), "flag": True, "label": 'it\'s "x"', "inner": {"deep": {"n": 31}},
        },
        "extra": 7,
    }
    assert graph.spec("a").shape is None, "unknown stays unknown"
    assert graph.spec("c").shape is None


def test_parameters_have_the_schemas_kinds(tmp_path: Path) -> None:
    text = HEAD + """layer { name: "c" type: "Convolution" bottom: "data" top: "c"
      param { lr_mult: 1 } param { lr_mult: 2 }
      convolution_param { num_output: 4 kernel_size: 3 bias_term: 0 engine: 1 weight_filler { type: "xavier" } } }"""
    assert load(net(tmp_path, text))["c"].attrs == {
        "param": ({"lr_mult": 1.0}, {"lr_mult": 2.0}),
        "convolution_param": {
            "num_output": 4, "kernel_size": (3,), "bias_term": False, "engine": "CAFFE",
            "weight_filler": {"type": "xavier"},
        },
    }


def test_layers_of_one_name_are_told_apart(tmp_path: Path) -> None:
    text = HEAD + """layer { name: "r" type: "ReLU" bottom: "data" top: "a" }
      layer { name: "r" type: "TanH" bottom: "a" top: "b" } layer { type: "AbsVal" bottom: "b" top: "c" }"""
    graph = load(net(tmp_path, text))
    assert [node.name for node in graph.nodes] == ["data", "r", "r_2", "AbsVal_3"]
    assert graph.aliases == {"r": ("r", "r_2")}
    with pytest.raises(InputError, match="names 2 nodes"):
        graph.node("r")


def test_layers_of_one_name_get_their_weights_one_after_the_other(tmp_path: Path) -> None:
    text = HEAD + """layer { name: "p" type: "PReLU" bottom: "data" top: "a" }
      layer { name: "p" type: "PReLU" bottom: "a" top: "b" }"""
    model = caffe_pb2.NetParameter()
    for value in (1.0, 2.0):
        blob = model.layer.add(name="p").blobs.add()
        blob.shape.dim.append(3)
        blob.data.extend([value] * 3)
    (tmp_path / "w.caffemodel").write_bytes(model.SerializeToString())
    graph = load(net(tmp_path, text), tmp_path / "w.caffemodel")
    assert graph.weights["p.0"].numpy().tolist() == [1, 1, 1]
    assert graph.weights["p_2.0"].numpy().tolist() == [2, 2, 2]


def test_a_net_of_the_first_generation_is_upgraded_with_its_padding_layers(tmp_path: Path) -> None:
    text = """name: "ancient" input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8
      layers { layer { name: "pad1" type: "padding" pad: 2 } bottom: "data" top: "pad1" }
      layers { layer { name: "conv1" type: "conv" num_output: 4 kernelsize: 5 stride: 1 biasterm: false
               weight_filler { type: "gaussian" std: 0.01 } blobs_lr: 1. } bottom: "pad1" top: "conv1" }
      layers { layer { name: "relu1" type: "relu" } bottom: "conv1" top: "conv1" }
      layers { layer { name: "pool1" type: "pool" pool: MAX kernelsize: 3 stride: 2 } bottom: "conv1" top: "pool1" }
      layers { layer { name: "fc" type: "innerproduct" num_output: 2 } bottom: "pool1" top: "fc" }"""
    model = caffe_pb2.NetParameter()
    old = model.layers.add().layer
    old.name, old.type = "conv1", "conv"
    old.blobs.add(num=4, channels=3, height=5, width=5, data=np.arange(300))
    (tmp_path / "w.caffemodel").write_bytes(model.SerializeToString())
    graph = load(net(tmp_path, text), tmp_path / "w.caffemodel")
    assert [node.op_type for node in graph.nodes] == ["Input", "Convolution", "ReLU", "Pooling", "InnerProduct"]
    assert graph["conv1"].inputs == ("data",)
    assert graph["conv1"].attrs["convolution_param"]["pad"] == (2,)
    assert graph.spec("pool1").shape == (1, 4, 4, 4)
    assert graph.weights["conv1.0"].numpy()[3, 2, 4, 4] == 299
    assert any("V0" in note for note in graph.notes)


@pytest.mark.parametrize("number", caffe_pb2.V1LayerParameter.LayerType.values())
def test_every_old_type_has_its_new_name_by_word_and_by_number(number: int) -> None:
    word = caffe_pb2.V1LayerParameter.LayerType.Name(number)
    name = v2_type(word)
    assert v2_type(str(number)) == name
    plain = name.replace("SoftmaxWithLoss", "SoftmaxLoss").upper()
    assert plain == ("" if word == "NONE" else word.replace("_", ""))


# -- shapes ------------------------------------------------------------------------------------------------------

IMAGE = (2, 12, 9, 11)


@pytest.mark.parametrize(
    ("kind", "attrs", "bottoms", "tops"),
    [
        ("Pooling", {"pooling_param": {"kernel_size": 3, "stride": 2}}, [(1, 4, 8, 7)], [(1, 4, 4, 3)]),
        ("Pooling", {"pooling_param": {"kernel_size": 3, "stride": 2, "round_mode": "FLOOR"}}, [(1, 4, 8, 7)],
         [(1, 4, 3, 3)]),
        ("Pooling", {"pooling_param": {"kernel_size": 2, "stride": 2, "pad": 1}}, [(1, 4, 5, 5)], [(1, 4, 3, 3)]),
        ("Pooling", {"pooling_param": {"global_pooling": True}}, [IMAGE], [(2, 12, 1, 1)]),
        ("Pooling", {"pooling_param": {"kernel_h": 2, "kernel_w": 3, "stride_w": 2}}, [IMAGE], [(2, 12, 8, 5)]),
        ("Pooling", {"pooling_param": {"kernel_size": 3}}, [(2, 12, None, 11)], [(2, 12, None, 9)]),
        ("Convolution", {"convolution_param": {"num_output": 5, "kernel_size": (3,), "stride": (2,), "dilation": (2,)}},
         [IMAGE], [(2, 5, 3, 4)]),
        ("Convolution", {"convolution_param": {"num_output": 5, "kernel_size": (3, 1), "pad": (1, 0)}}, [IMAGE],
         [(2, 5, 9, 11)]),
        ("Convolution", {"convolution_param": {"num_output": 5, "kernel_size": (3,)}}, [None], [None]),
        ("Convolution", {"convolution_param": {"num_output": 5}}, [IMAGE], [None]),
        ("Convolution", {"convolution_param": {"num_output": 5, "kernel_size": (30,)}}, [IMAGE], [None]),
        ("Deconvolution", {"convolution_param": {"num_output": 5, "kernel_size": (4,), "stride": (2,), "pad": (1,)}},
         [IMAGE], [(2, 5, 18, 22)]),
        ("InnerProduct", {"inner_product_param": {"num_output": 7}}, [IMAGE], [(2, 7)]),
        ("InnerProduct", {"inner_product_param": {"num_output": 7, "axis": -1}}, [IMAGE], [(2, 12, 9, 7)]),
        ("Flatten", {}, [IMAGE], [(2, 1188)]),
        ("Flatten", {"flatten_param": {"axis": 1, "end_axis": 2}}, [IMAGE], [(2, 108, 11)]),
        ("Flatten", {}, [(None, 12, 9, 11)], [(None, 1188)]),
        ("Reshape", {"reshape_param": {"shape": {"dim": (0, -1, 3)}}}, [IMAGE], [(2, 396, 3)]),
        ("Reshape", {"reshape_param": {"shape": {"dim": (4, -1)}, "axis": 1, "num_axes": 1}}, [IMAGE],
         [(2, 4, 3, 9, 11)]),
        ("Reshape", {"reshape_param": {"shape": {"dim": (1, 1)}, "axis": -1, "num_axes": 0}}, [IMAGE],
         [(2, 12, 9, 11, 1, 1)]),
        ("Reshape", {"reshape_param": {"shape": {"dim": (0, -1, 5)}}}, [IMAGE], [None]),
        ("Concat", {}, [(2, 3, 4), (2, 5, 4)], [(2, 8, 4)]),
        ("Concat", {"concat_param": {"axis": -1}}, [(2, 3, 4), (2, 3, None)], [(2, 3, None)]),
        ("Concat", {"concat_param": {"concat_dim": 2}}, [(2, 3, 4), (2, 3, 1)], [(2, 3, 5)]),
        ("Concat", {}, [(2, 3, 4), (2, 5, 6)], [None]),
        ("Concat", {}, [(2, 3, 4), None], [None]),
        ("Slice", {"slice_param": {"slice_point": (1, 5)}}, [IMAGE], [(2, 1, 9, 11), (2, 4, 9, 11), (2, 7, 9, 11)]),
        ("Slice", {}, [IMAGE], [(2, 6, 9, 11)] * 2),
        ("Slice", {"slice_param": {"axis": 2}}, [IMAGE], [None, None]),
        ("Crop", {"crop_param": {"axis": 2}}, [IMAGE, (1, 1, 5, 6)], [(2, 12, 5, 6)]),
        ("Permute", {"permute_param": {"order": (0, 2, 3)}}, [IMAGE], [(2, 9, 11, 12)]),
        ("Permute", {"permute_param": {"order": (0, 0)}}, [IMAGE], [None]),
        ("PriorBox", {"prior_box_param": {"min_size": 30.0, "max_size": 60.0, "aspect_ratio": (2.0, 3.0, 0.5)}},
         [IMAGE, IMAGE], [(1, 2, 9 * 11 * 6 * 4)]),
        ("PriorBox", {"prior_box_param": {"min_size": (30.0, 40.0), "aspect_ratio": 2.0, "flip": False}},
         [IMAGE, IMAGE], [(1, 2, 9 * 11 * 4 * 4)]),
        ("PriorBox", {}, [IMAGE, IMAGE], [None]),
        ("Softmax", {}, [(3, 4)], [(3, 4)]),
        ("Normalize", {}, [IMAGE], [IMAGE]),
        ("Eltwise", {}, [(2, None, 4), (None, 3, 4)], [(2, 3, 4)]),
        ("Eltwise", {}, [(2, 3), (2, 4)], [None]),
        ("Tile", {"tile_param": {"axis": 1, "tiles": 3}}, [(2, 3)], [(2, 9)]),
        ("Reduction", {"reduction_param": {"axis": 1}}, [IMAGE], [(2,)]),
        ("ArgMax", {"argmax_param": {"axis": 1}}, [IMAGE], [(2, 1, 9, 11)]),
        ("ArgMax", {"argmax_param": {"out_max_val": True, "top_k": 5}}, [IMAGE], [(2, 2, 5, 1)]),
        ("Embed", {"embed_param": {"num_output": 8, "input_dim": 9}}, [(3, 4)], [(3, 4, 8)]),
        ("LSTM", {"recurrent_param": {"num_output": 8}}, [(3, 4, 5), (3, 4)], [(3, 4, 8)]),
        ("DummyData", {"dummy_data_param": {"num": (2,), "channels": (3,), "height": (4,), "width": (5, 6)}}, [],
         [(2, 3, 4, 5), (2, 3, 4, 6)]),
        ("DetectionOutput", {}, [IMAGE], [(1, 1, None, 7)]),
    ],
)
def test_the_shape_that_a_layer_makes(kind: str, attrs: dict, bottoms: list, tops: list) -> None:
    found, problem = top_shapes(kind, attrs, bottoms, len(tops))
    assert found == tops
    assert problem == "" or tops == [None] * len(tops)


@given(
    st.integers(1, 40), st.integers(1, 7), st.integers(1, 5), st.data(),
)
def test_the_last_pooling_window_covers_the_end_and_begins_inside(n: int, kernel: int, stride: int, data) -> None:
    pad = data.draw(st.integers(0, kernel - 1))
    if n + 2 * pad < kernel:
        return
    count = pooled(n, kernel, stride, pad, ceil=True)
    end = (count - 1) * stride + kernel  # counted from the beginning of the padding
    if pad:
        assert (count - 1) * stride < n + pad, "the last window begins before the padding behind the input"
        assert end >= n + 2 * pad or count * stride >= n + pad, "another one would begin in it"
    else:
        assert end >= n > end - kernel - stride + 1
    fewer = pooled(n, kernel, stride, pad, ceil=False)
    assert (fewer - 1) * stride + kernel <= n + 2 * pad


def test_weights_of_other_sizes_are_refused_and_old_shapes_fit_new_ones(tmp_path: Path) -> None:
    weights = random_weights({"conv1": [(4, 3, 3, 3), (1, 1, 1, 4)], "conv2": [(6, 2, 3, 2), (1, 1, 1, 6)]})
    with pytest.raises(InputError) as error:
        load(*write_net(tmp_path, V1_NET, weights))
    assert str(error.value) == (
        "net.caffemodel does not fit net.prototxt: the weight conv2.0 is stored with shape (6, 2, 3, 2), "
        "the net needs (6, 2, 3, 1); do the two belong together?"
    )
    assert fits((1, 1, 5, 48), (5, 48))
    assert fits((1, 1, 1, 1), (1,))
    assert not fits((1, 1, 48, 5), (5, 48))
    assert fits((4, 3, 3, 3), (4, None, 3, 3))


# -- the weights file --------------------------------------------------------------------------------------------


def field(number: int, wire: int, body: bytes) -> bytes:
    tag = bytes([number << 3 | wire]) if number < 16 else bytes([number << 3 & 0x7F | 0x80 | wire, number >> 4])
    return tag + (varint(len(body)) if wire == 2 else b"") + body


def one_blob(blob: bytes) -> bytes:
    layer = field(1, 2, b"p") + field(2, 2, b"PReLU") + field(7, 2, blob)
    return field(1, 2, b"net\x00") + field(100, 2, layer)


NUMBERS = np.array([1.5, -2.0, 0.25, 1e-40, np.inf, 7.0], "<f4")
NEW_SHAPE = field(7, 2, field(1, 2, bytes([2, 3])))
LEGACY = b"".join(field(n, 0, varint(d)) for n, d in ((1, 1), (2, 1), (3, 2), (4, 3)))


@pytest.mark.parametrize(
    ("blob", "shape", "lazy"),
    [
        (NEW_SHAPE + field(5, 2, NUMBERS.tobytes()), (2, 3), True),
        (field(5, 2, NUMBERS.tobytes()) + LEGACY, (1, 1, 2, 3), True),
        (field(8, 2, NUMBERS.astype("<f8").tobytes()) + NEW_SHAPE, (2, 3), True),
        (NEW_SHAPE + b"".join(field(5, 5, struct.pack("<f", v)) for v in NUMBERS), (2, 3), False),
        (NEW_SHAPE + b"".join(field(8, 1, struct.pack("<d", v)) for v in NUMBERS), (2, 3), False),
        (field(5, 2, NUMBERS[:2].tobytes()) + field(5, 2, NUMBERS[2:].tobytes()) + NEW_SHAPE, (2, 3), False),
        (field(7, 2, field(1, 0, b"\x02") + field(1, 0, b"\x03")) + field(5, 2, NUMBERS.tobytes()), (2, 3), True),
        (field(5, 2, NUMBERS.tobytes()), (6,), True),
        (NEW_SHAPE + field(6, 2, bytes(24)) + field(5, 2, NUMBERS.tobytes()) + field(12, 2, b"fork"), (2, 3), True),
    ],
    ids=["packed", "legacy shape", "doubles", "unpacked", "unpacked doubles", "two pieces", "unpacked shape",
         "no shape", "diff and unknown fields"],
)
def test_each_way_to_store_a_blob(tmp_path: Path, blob: bytes, shape: tuple, lazy: bool) -> None:
    path = tmp_path / "w.caffemodel"
    path.write_bytes(one_blob(blob))
    ref = read_caffemodel(path).layers[0].blobs[0].ref
    assert ref.shape == shape
    assert (ref.array is None) is lazy
    np.testing.assert_array_equal(ref.numpy().astype("f4").ravel(), NUMBERS)


@given(st.integers(0, 10_000))
def test_a_damaged_caffemodel_is_an_error_of_ours_or_still_readable(tmp_path_factory, seed: int) -> None:
    rng = np.random.default_rng(seed)
    good = bytearray(one_blob(NEW_SHAPE + field(5, 2, NUMBERS.tobytes())) * 3)
    for place in rng.integers(0, len(good), rng.integers(1, 4)):
        good[place] = rng.integers(0, 256)
    path = tmp_path_factory.mktemp("damaged") / "w.caffemodel"
    path.write_bytes(bytes(good[: rng.integers(1, len(good) + 1)]))
    problem = ""
    try:
        for ref in load(path).weights.values():
            ref.numpy()
    except AcccmpError as error:
        problem = str(error)
    assert "\n" not in problem


@given(st.text("{}<>[]:;,#\"' \n\\abtype019.-", max_size=40))
def test_damaged_text_is_an_error_of_ours_or_a_tree(text: str) -> None:
    tree, problem = Block(), ""
    try:
        tree = parse(text, "x")
    except FormatError as error:
        problem = str(error)
    assert "\n" not in problem
    assert parse(render(tree), "x") == tree


# -- the text ----------------------------------------------------------------------------------------------------

words = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
scalars = st.one_of(
    st.text(max_size=8).filter(lambda t: "\r" not in t).map(quoted), st.integers(-99, 99).map(str),
    st.sampled_from(["MAX", "true", "1e-05", "-inf", "0.5f", "0x1F"]),
)
trees = st.recursive(
    st.lists(st.tuples(words, scalars), max_size=4).map(lambda f: Block(tuple(f))),
    lambda inner: st.lists(st.tuples(words, st.one_of(scalars, inner)), max_size=4).map(lambda f: Block(tuple(f))),
    max_leaves=12,
)


@given(trees)
def test_a_tree_written_and_parsed_is_the_same_tree(tree: Block) -> None:
    assert parse(render(tree), "x") == tree


@given(st.text())
def test_a_quoted_string_is_what_protobuf_reads_and_what_we_read(text: str) -> None:
    from google.protobuf import text_format

    assert unquoted(quoted(text)) == text
    message = caffe_pb2.LayerParameter()
    text_format.Parse(f"name: {quoted(text)}", message)
    assert message.name == text


def test_all_the_spellings_of_protobuf_text() -> None:
    tree = parse(
        """# a comment
        a: 'it''s' "two" ; b { c: -1, d: [1, 2,3] } e: < f: "\\x41\\102\\n" > g: { } # last""",
        "x",
    )
    assert tree.string("a") == "itstwo"
    assert tree.block("b").strings("d") == ["1", "2", "3"]
    assert tree.block("e").string("f") == "AB\n"
    assert tree.blocks("g") == [Block()]


# -- files in the wrong place, damaged, contradicting themselves ---------------------------------------------------

RELU = 'layer { name: "r" type: "ReLU" bottom: "data" top: "r" }'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "net.prototxt: the file is empty"),
        ('base_lr: 0.01 net: "train.prototxt"', "no Caffe net: it has no layers"),
        (HEAD + RELU[:-1], "the block 'layer' of line 2 is never closed; the file seems cut off"),
        (HEAD + "layer { name: ", "a value of 'name' is due; the file seems cut off"),
        (HEAD + 'layer { name: "r', "line 2: '\"r' is not protobuf text"),
        (HEAD + "layer { name = 3 }", "is not protobuf text"),
        (HEAD + 'layer { name: "r" type: "ReLU" bottom: "dat" top: "r" }',
         "layer 'r' reads the blob 'dat', which no layer before it makes; did you mean data?"),
        ('layer { name: "d" type: "Data" top: "data" include { phase: TRAIN } }' + RELU,
         "'d' makes it, in another phase than TEST"),
        (HEAD + RELU[:-1] + "include { phase: TEST } exclude { stage: 'x' } }",
         "layer 'r' (line 2) has both include and exclude rules"),
        (HEAD + RELU + RELU.replace('"r" type', '"s" type'),
         "the blob 'r' is made by 'r' and again by 's', which does not work in place"),
        (HEAD + RELU + 'layers { name: "s" type: RELU bottom: "r" top: "s" }', "has old `layers` and new `layer`"),
        ('input: "data" input_dim: 1 input_dim: 3 ' + RELU, "1 inputs need 4 input_dim lines, 2 are there"),
        (HEAD + 'layer { name: "r" bottom: "data" top: "r" }', "layer 'r' (line 2) has no type"),
        (HEAD + RELU[:-1] + "relu_param { negative_slope: steep } }",
         "layer 'r': relu_param: negative_slope is steep, which is no number"),
        (HEAD + RELU[:-1] + "relu_param: 3 }", "layer 'r': relu_param is 3, a block in braces is due"),
        (HEAD + RELU[:-1] + "relu_param { negative_slope { } } }", "is a block (line 2) where one value is due"),
        (HEAD + RELU[:-1] + "include { min_level: high } }", "has a level that is no number"),
        ('layers { layer { name: "x" type: "quantum" } top: "x" }', "'quantum' is no layer type of the first"),
        ("a {" * 80, "nested deeper than 64"),
    ],
)
def test_a_bad_prototxt_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FormatError) as error:
        load(net(tmp_path, text))
    assert message in str(error.value)
    assert str(error.value).startswith("net.prototxt")
    assert "\n" not in str(error.value)


def test_a_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"no\.prototxt: cannot be read: No such file"):
        load(tmp_path / "no.prototxt")


def test_weights_that_are_text_empty_or_cut_off(tmp_path: Path) -> None:
    model, weights = v2_net(tmp_path)
    whole = weights.read_bytes()
    for content, message in [
        (model.read_bytes(), "is text, not binary weights"),
        (b"", "the file is empty"),
        (whole[: len(whole) // 2], "cut off"),
        (whole[:-1], "cut off"),
        (b"\x08\x96\x01PK\x03\x04" + bytes(40), "no readable caffemodel"),
        (field(1, 2, b"net\x01"), "no caffemodel: it holds no layers"),
        (one_blob(NEW_SHAPE + field(5, 2, NUMBERS[:3].tobytes())), "needs 6 values, 3 are there"),
    ]:
        weights.write_bytes(content)
        with pytest.raises(FormatError) as error:
            load(model, weights)
        assert message in str(error.value)
        assert "net.caffemodel" in str(error.value)
        assert "\n" not in str(error.value)


def test_model_and_weights_exchanged(tmp_path: Path) -> None:
    model, weights = v2_net(tmp_path)
    with pytest.raises(InputError, match="exchange the two"):
        load(weights, model)
    with pytest.raises(InputError, match="give the prototxt as the model"):
        load(weights, weights)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    model, _ = v2_net(tmp_path)
    _, other = write_net(tmp_path, "layer {}", {"encoder": [np.zeros((2, 2), "f4")]}, "other")
    with pytest.raises(InputError, match=r"has weights for encoder, .* do the two belong together"):
        load(model, other)


def test_loading_and_looking_imports_no_caffe_and_no_opencv(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from acccmp.models.caffe import load; g = load(*sys.argv[1:]); repr(g.weights); "
        "print({'cv2', 'caffe', 'onnx', 'networkx'} & set(sys.modules) or 'none')"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *map(str, v2_net(tmp_path))], capture_output=True, text=True, check=True,
    )
    assert ran.stdout.strip() == "none"
