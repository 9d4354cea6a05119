"""A Caffe graph, or a part of it, written and read again is the same graph, and other tools run it."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from caffe_nets import random_inputs, v1_net, v2_net, write_net

from acccmp.core.graph import Graph
from acccmp.core.tensor import TensorRef
from acccmp.errors import AcccmpError, FormatError, InputError
from acccmp.models.caffe import load, save
from acccmp.models.caffe_text import parse
from acccmp.models.caffe_weights import read_caffemodel
from acccmp.models.caffe_writing import added_inputs, blob_names, prototxt
from acccmp.runners.opencv import run
from acccmp.schemas import caffe_pb2
from acccmp.slicing.cut import cut

RFB = "Linzaer_Ultra-Light-Fast-Generic-Face-Detector-1MB__RFB-320"
REAL = {
    "det1": ("MTCNNv2__det1", "MTCNNv2__det1"), "det2": ("MTCNNv2__det2", "MTCNNv2__det2"),
    "lenet": ("everpeace_caffe__lenet", "everpeace_caffe__lenet_iter_10000"), "RFB": (RFB, RFB),
}
ALL = [*REAL, "V1", "V2"]


def model(name: str, shared: Path, folder: Path) -> Graph:
    if name in REAL:
        prototxt_, weights = REAL[name]
        return load(shared / "caffe" / f"{prototxt_}.prototxt", shared / "caffe" / f"{weights}.caffemodel")
    return load(*(v1_net if name == "V1" else v2_net)(folder))


def assert_same(part: Graph, again: Graph) -> None:
    """Names, ops, attributes, edges, weights and shapes; inputs that the part did not make are Input nodes now."""
    renamed = {added.tensor: added.blob for added in added_inputs(part)}
    names = {node.name for node in part.nodes}
    kept = [node for node in again.nodes if node.name in names]
    assert [(n.name, n.op_type, n.attrs, n.weights) for n in kept] == [
        (n.name, n.op_type, n.attrs, n.weights) for n in part.nodes
    ]
    for old, new in zip(part.nodes, kept, strict=True):
        assert new.inputs == tuple(renamed.get(tensor, tensor) for tensor in old.inputs)
        assert new.outputs == old.outputs
    for node in again.nodes:
        assert node.name in names or node.op_type == "Input"
    assert again.inputs == tuple(renamed.get(tensor, tensor) for tensor in part.inputs)
    for tensor in (*part.inputs, *(t for node in part.nodes for t in node.outputs)):
        assert again.spec(renamed.get(tensor, tensor)).shape == part.spec(tensor).shape, tensor
    assert again.weights.keys() == part.weights.keys()
    for name, ref in part.weights.items():
        assert again.weights[name].shape == ref.shape
        np.testing.assert_array_equal(again.weights[name].numpy(), ref.numpy())
    assert again.meta["generation"] == part.meta["generation"]


@pytest.mark.parametrize("name", ALL)
def test_a_whole_model_written_and_read_again_is_the_same(name: str, shared: Path, tmp_path: Path) -> None:
    graph = model(name, shared, tmp_path)
    again = load(*save(graph, tmp_path / "out"))
    assert_same(graph, again)
    assert again.nodes == graph.nodes
    assert (again.outputs, again.name) == (graph.outputs, graph.name)
    assert not [note for note in again.notes if note not in graph.notes]


@pytest.mark.parametrize("name", ["det1", "lenet", "V1"])
def test_the_written_weights_alone_give_the_net_too(name: str, shared: Path, tmp_path: Path) -> None:
    graph = model(name, shared, tmp_path)
    alone = load(save(graph, tmp_path / "out")[1])
    assert [(n.name, n.op_type, n.inputs, n.outputs, n.attrs) for n in alone.nodes] == [
        (n.name, n.op_type, n.inputs, n.outputs, n.attrs) for n in graph.nodes
    ]


def random_parts(graph: Graph, count: int, seed: int) -> list[Graph]:
    rng = random.Random(seed)
    names = [node.name for node in graph.nodes if node.inputs and node.op_type != "Accuracy"]
    parts: list[Graph] = []
    for _ in range(20 * count):
        try:
            parts.append(cut(graph, rng.choice(names), rng.choice(names)).graph)
        except InputError:
            continue  # the end does not lie below the start
        if len(parts) == count:
            break
    assert len(parts) == count
    return parts


def run_with_opencv(files: list[Path], feeds: dict[str, np.ndarray], part: Graph) -> dict[str, np.ndarray]:
    """The written files as any other program would run them with OpenCV."""
    import cv2

    net = cv2.dnn.readNetFromCaffe(*map(str, files))
    net.enableFusion(False)
    net.enableWinograd(False)
    for blob, array in feeds.items():
        net.setInput(array, blob)
    nodes = [node for node in part.nodes if set(node.outputs) & set(part.outputs)]
    outputs = net.forwardAndRetrieve([node.name for node in nodes])
    return {
        tensor: array
        for node, arrays in zip(nodes, outputs, strict=True)
        for tensor, array in zip(node.outputs, arrays, strict=False)  # OpenCV's pooling gives a mask too
        if tensor in part.outputs
    }


@pytest.mark.parametrize("name", ALL)
def test_random_cuts_written_and_run_give_the_whole_models_tensors(name: str, shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    graph = model(name, shared, tmp_path)
    inputs = random_inputs(graph)
    whole = {graph.tensor(port): array for port, array in run(graph, inputs).tensors.items()}
    for place, part in enumerate(random_parts(graph, 12, seed=20)):
        files = save(part, tmp_path / str(place))
        again = load(*files)
        assert_same(part, again)
        blobs = blob_names(part)
        feeds = {blobs[tensor]: whole[tensor] for tensor in part.inputs}
        results = [{again.tensor(port): array for port, array in run(again, feeds).tensors.items()}]
        if name != "V2":  # OpenCV alone reads some parameters of that net in its own way
            results.append(run_with_opencv(files, feeds, part))
        for found in results:
            for tensor in part.outputs:
                error = np.linalg.norm(found[tensor] - whole[tensor])
                assert error <= 1e-6 * np.linalg.norm(whole[tensor]), f"{part.nodes[0].name}..{part.nodes[-1].name}"


# -- where the cut goes ------------------------------------------------------------------------------------------


def test_the_added_input_is_named_after_the_start_and_its_top_after_the_blob(shared: Path, tmp_path: Path) -> None:
    graph = model("det1", shared, tmp_path)
    part = cut(graph, "pool1", "conv2").graph
    (added,) = added_inputs(part)
    assert (added.layer, added.blob, added.tensor) == ("pool1_input_0", "conv1", "conv1@PReLU1")
    assert " ".join(added.text.split()) == (
        'layer { name: "pool1_input_0" type: "Input" top: "conv1" '
        "input_param { shape { dim: 1 dim: 10 dim: 10 dim: 10 } } }"
    )
    files = save(part, tmp_path, "dump")
    assert [path.name for path in files] == ["dump.prototxt", "dump.caffemodel"]
    assert added.text in files[0].read_text()
    assert [layer.name for layer in read_caffemodel(files[1]).layers if layer.blobs] == ["conv2"]


def test_an_in_place_chain_is_cut_between_its_layers(tmp_path: Path) -> None:
    graph = load(*v1_net(tmp_path))
    below = load(*save(graph.keep(["relu1", "drop1", "pool1"]), tmp_path / "below"))
    assert [(node.name, node.inputs, node.outputs) for node in below.nodes] == [
        ("conv1", (), ("conv1",)), ("relu1", ("conv1",), ("conv1@relu1",)),
        ("drop1", ("conv1@relu1",), ("conv1@drop1",)), ("pool1", ("conv1@drop1",), ("pool1",)),
    ]
    above = load(*save(graph.keep(["test", "conv1"], ["conv1"]), tmp_path / "above"))
    assert above.outputs == ("conv1",)
    middle = load(*save(graph.keep(["drop1"]), tmp_path / "middle"))
    assert [(node.name, node.inputs, node.outputs) for node in middle.nodes] == [
        ("conv1", (), ("conv1",)), ("drop1", ("conv1",), ("conv1@drop1",)),
    ]


@pytest.mark.parametrize(
    ("kept", "inputs"),
    [
        # conv2 is made inside, what sig2 made of it comes from outside
        (["conv2", "side", "ip1"], ("pool1", "conv2@sig2")),
        # two versions of one blob, both from outside
        (["side", "ip1"], ("conv2", "conv2@sig2")),
        # the chain has a hole
        (["conv2", "side", "sig2", "ip1"], ("pool1", "conv2@relu2")),
    ],
)
def test_two_versions_of_a_blob_that_meet_in_a_part_keep_their_names(
    tmp_path: Path, kept: list[str], inputs: tuple[str, ...],
) -> None:
    graph = load(*v1_net(tmp_path))
    part = graph.keep(kept)
    assert part.inputs == inputs
    again = load(*save(part, tmp_path / "out"))
    assert again.inputs == inputs
    assert_same(part, again)


def test_several_inputs_of_one_layer_are_numbered(tmp_path: Path) -> None:
    graph = load(*v2_net(tmp_path))
    part = graph.keep(["sum", "most", "times"])
    assert [(added.layer, added.tensor) for added in added_inputs(part)] == [
        ("sum_input_0", "glue"), ("sum_input_1", "norm"),
    ]
    assert load(*save(part, tmp_path / "out")).inputs == ("glue", "norm")


def test_a_part_that_is_nothing_but_the_input_can_be_written_too(shared: Path, tmp_path: Path) -> None:
    for name in ("det1", "lenet"):
        part = model(name, shared, tmp_path).keep(["data"])
        again = load(*save(part, tmp_path / name))
        assert_same(part, again)
        data = random_inputs(part)["data"]
        (found,) = run(again, {"data": data}).tensors.values()
        np.testing.assert_array_equal(found, data)


def test_an_old_net_stays_old_and_declares_its_inputs_the_old_way(tmp_path: Path) -> None:
    graph = load(*v1_net(tmp_path))
    files = save(graph.keep(["conv2", "relu2", "sig2", "ip1"]), tmp_path / "out")
    tree = parse(files[0].read_text(), "x")
    assert tree.strings("input") == ["pool1"]
    assert tree.strings("input_dim") == ["2", "4", "6", "7"]
    assert not tree.blocks("layer")
    assert [layer.string("type") for layer in tree.blocks("layers")] == [
        "CONVOLUTION", "RELU", "SIGMOID", "INNER_PRODUCT",
    ]
    message = caffe_pb2.NetParameter()
    message.ParseFromString(files[1].read_bytes())
    assert not message.layer
    assert list(message.input_dim) == [2, 4, 6, 7]
    blob = message.layers[3].blobs[0]
    assert (blob.num, blob.channels, blob.height, blob.width, blob.HasField("shape")) == (1, 1, 5, 48, False)
    assert message.layers[0].type == caffe_pb2.V1LayerParameter.CONVOLUTION


def test_inputs_of_other_ranks_are_declared_the_old_way_too(tmp_path: Path) -> None:
    graph = load(*v1_net(tmp_path))
    part = graph.keep(["relu3", "ip2", "prob"])
    text = prototxt(part)
    assert parse(text, "x").block("input_shape").strings("dim") == ["2", "5"]
    assert_same(part, load(*save(part, tmp_path / "out")))


def test_phase_rules_are_gone_and_training_does_not_come_back(tmp_path: Path) -> None:
    graph = load(*v1_net(tmp_path))
    files = save(graph, tmp_path / "out")
    for word in ("include", "exclude", "phase", "TRAIN", "loss"):
        assert word not in files[0].read_text()
    message = caffe_pb2.NetParameter()
    message.ParseFromString(files[1].read_bytes())
    assert not any(layer.include or layer.exclude for layer in message.layers)


# -- nothing is lost ---------------------------------------------------------------------------------------------


def test_words_that_only_a_fork_knows_come_out_as_they_went_in(tmp_path: Path) -> None:
    fork = """fancy_param { mode: SHARP ratio: 0.10 ratio: 2e-3 label: "a\\"b" inner { deep { n: 0x1F } } } extra: 7"""
    text = f"""force_backward: true fork_net_param {{ a: 1 }}
      layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ dim: 1 dim: 3 }} }} }}
      layer {{ name: "odd" type: "FancyNMS" bottom: "x" top: "a" top: "b" {fork} }}
      layer {{ name: "p" type: "PReLU" bottom: "b" top: "b" own: KEPT }}"""
    graph = load(*write_net(tmp_path, text, {"p": [np.ones(3, "f4")]}))
    files = save(graph.keep(["odd", "p"]), tmp_path / "out")
    tree = parse(files[0].read_text(), "x")
    odd = next(layer for layer in tree.blocks("layer") if layer.string("name") == "odd")
    assert odd.without("name", "type", "bottom", "top") == parse(fork, "x")
    assert tree.string("force_backward") == "true"
    assert tree.block("fork_net_param") == parse("a: 1", "x")
    assert load(*files).nodes[-2:] == graph.nodes[-2:]


def test_bytes_that_only_a_fork_knows_stay_in_the_weights_file(tmp_path: Path) -> None:
    secret = b"\xe2\x0c\x05abcde"  # field 204, five bytes
    layer = caffe_pb2.LayerParameter(name="p", type="PReLU").SerializeToString() + secret
    blob = caffe_pb2.BlobProto(data=[1, 2, 3])
    blob.shape.dim.append(3)
    layer += b"\x3a" + bytes([blob.ByteSize()]) + blob.SerializeToString()
    (tmp_path / "w.caffemodel").write_bytes(b"\xa2\x06" + bytes([len(layer)]) + layer)
    (tmp_path / "m.prototxt").write_text(
        'input: "x" input_shape { dim: 1 dim: 3 } layer { name: "p" type: "PReLU" bottom: "x" top: "y" }'
    )
    graph = load(tmp_path / "m.prototxt", tmp_path / "w.caffemodel")
    assert secret in save(graph, tmp_path / "out")[1].read_bytes()


def test_an_old_type_number_of_a_fork_survives(tmp_path: Path) -> None:
    # V1 layer: bottom 2, top 3, name 4, type 5 = 87
    layer = b"\x12\x01x\x1a\x01y\x22\x01q\x28\x57\x32\x0c\x08\x01\x10\x01\x18\x01\x20\x01\x2a\x04\x00\x00\x80\x3f"
    layer = layer.replace(b"\x32\x0c", b"\x32\x0e")
    (tmp_path / "w.caffemodel").write_bytes(b"\x12" + bytes([len(layer)]) + layer)
    graph = load(tmp_path / "w.caffemodel")
    assert graph["q"].op_type == "V1_87"
    files = save(graph, tmp_path / "out")
    for again in (load(*files), load(files[1])):
        assert again["q"].op_type == "V1_87"
        assert again.weights["q.0"].numpy().ravel().tolist() == [1.0]


def test_doubles_stay_doubles_and_weights_in_memory_are_written(tmp_path: Path) -> None:
    graph = load(*v2_net(tmp_path))
    exact = np.array([1 / 3] * 8)
    changed = replace(graph, weights={**graph.weights, "prelu.0": TensorRef.of(exact)})
    again = load(*save(changed, tmp_path / "out"))
    assert again.weights["prelu.0"].dtype.name == "float64"
    np.testing.assert_array_equal(again.weights["prelu.0"].numpy(), exact)


def test_a_net_without_weights_is_written_as_prototxt_alone(tmp_path: Path) -> None:
    model, weights = v2_net(tmp_path)
    weights.unlink()
    graph = load(model)
    files = save(graph, tmp_path / "out")
    assert [path.name for path in files] == ["dump.prototxt"]
    assert load(*files).nodes == graph.nodes


def test_inputs_of_unknown_shape_are_declared_without_one(tmp_path: Path) -> None:
    text = """input: "x" layer { name: "a" type: "Odd" bottom: "x" top: "a" }
      layer { name: "b" type: "ReLU" bottom: "a" top: "b" }"""
    (tmp_path / "m.prototxt").write_text(text)
    part = load(tmp_path / "m.prototxt").keep(["b"])
    again = load(*save(part, tmp_path / "out"))
    assert again.spec("b").shape is None
    assert again.inputs == ("a",)


def test_layers_of_one_name_are_written_under_the_names_they_have_here(tmp_path: Path) -> None:
    text = """input: "x" input_shape { dim: 1 dim: 3 } layer { name: "r" type: "ReLU" bottom: "x" top: "a" }
      layer { name: "r" type: "TanH" bottom: "a" top: "b" }"""
    (tmp_path / "m.prototxt").write_text(text)
    again = load(*save(load(tmp_path / "m.prototxt").keep(["r_2"]), tmp_path / "out"))
    assert "r_2" in again


# -- when it cannot be written -----------------------------------------------------------------------------------


def test_nothing_half_written_is_left_when_the_weights_cannot_be_read(tmp_path: Path) -> None:
    model_, weights = v2_net(tmp_path)
    graph = load(model_, weights)
    weights.write_bytes(weights.read_bytes()[:2000])
    out = tmp_path / "out"
    with pytest.raises(FormatError, match=r"net\.caffemodel"):
        save(graph, out)
    assert not out.exists()


def test_a_place_that_cannot_be_written_to_and_a_stem_with_a_path(tmp_path: Path) -> None:
    graph = load(*v2_net(tmp_path))
    with pytest.raises(InputError, match="cannot be written"):
        save(graph, tmp_path / "net.prototxt")
    with pytest.raises(InputError, match="no plain file name"):
        save(graph, tmp_path, "../dump")
    with pytest.raises(AcccmpError, match="only one that was read from Caffe"):
        save(Graph("m", "onnx", ()), tmp_path)
