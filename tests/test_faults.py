"""Planted faults: each changes what it should, downstream follows, upstream stays, and misuse is told in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from emulated_nets import Array, device_outputs, model_file, picture, residual_weights
from onnx import helper

from acccmp.comparison.compare import compare
from acccmp.core.dump import Dump, Port, RunFacts
from acccmp.core.graph import Graph
from acccmp.core.tensor import TensorRef
from acccmp.dumps.read import read_dump
from acccmp.emulator.emulate import Fault, emulate, floors
from acccmp.emulator.faults import KINDS
from acccmp.errors import InputError
from acccmp.mapping.device_map import DeviceMap
from acccmp.models.atc_json import load as load_mapping
from acccmp.models.onnx import load
from acccmp.reports.report import Report
from acccmp.runners.onnxruntime import run

# The device ops of `pooled`, in order, by their originals' last name.
ORDER = ("relu1", "pool", "bn2", "relu2", "fc")


def pooled(folder: Path) -> Path:
    """conv1-bn1-relu1, pool (3 x 3, stride 2, on 8 x 8), conv2-bn2, relu2, flatten, fc."""
    weights = residual_weights()
    weights |= {"wf": picture(10, 54), "bf": picture(10)}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c1", "g1", "b1", "m1", "v1"], ["n1"], name="bn1"),
        helper.make_node("Relu", ["n1"], ["r1"], name="relu1"),
        helper.make_node("MaxPool", ["r1"], ["p"], name="pool", kernel_shape=[3, 3], strides=[2, 2]),
        helper.make_node("Conv", ["p", "w2"], ["c2"], name="conv2", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c2", "g2", "b2", "m2", "v2"], ["n2"], name="bn2"),
        helper.make_node("Tanh", ["n2"], ["r2"], name="relu2"),
        helper.make_node("Add", ["r2", "n2"], ["s"], name="sum"),
        helper.make_node("Flatten", ["s"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "wf", "bf"], ["y"], name="fc", transB=1),
    ]
    return model_file(folder, nodes, {"x": (2, 3, 8, 8)}, ["y"], weights)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Graph, dict[str, Array], dict[str, Array]]:
    folder = tmp_path_factory.mktemp("network")
    graph, feeds = load(pooled(folder)), {"x": picture(2, 3, 8, 8)}
    emulate(graph, feeds, folder)
    return graph, feeds, device_outputs(folder)


def spoilt(network: tuple[Graph, dict[str, Array], dict[str, Array]], folder: Path, text: str) -> dict[str, Array]:
    emulate(network[0], network[1], folder, faults=[Fault.parse(text)])
    return device_outputs(folder)


def golden_of(graph: Graph, feeds: dict[str, Array]) -> Dump:
    refs = {port: TensorRef.of(array) for port, array in run(graph, feeds).tensors.items()}
    outputs = tuple(port for tensor in graph.outputs if (port := graph.producer(tensor)) is not None)
    return Dump(refs, kind="golden", run=RunFacts(outputs=outputs))


def judged(graph: Graph, feeds: dict[str, Array], folder: Path) -> Report:
    return compare(
        golden_of(graph, feeds), read_dump(folder / "npu"), model=graph,
        mapping=DeviceMap(load_mapping(folder / "mapping.json")), floors=floors(graph, feeds),
    )


# (fault kind and factor, ops to plant it on, the tensors that change first)
CASES = [
    ("overflow", {"conv1": "relu1", "pool": "pool", "bn2": "bn2", "relu2": "relu2", "fc": "fc"}),
    ("scale", {"relu1": "relu1", "pool": "pool", "conv2": "bn2", "relu2": "relu2", "fc": "fc"}),
    ("zero", {"conv1": "relu1", "pool": "pool", "conv2": "bn2", "relu2": "relu2", "fc": "fc"}),
    ("transpose", {"conv1": "relu1", "pool": "pool", "conv2": "bn2", "relu2": "relu2", "fc": "fc"}),
    ("stale", {"conv1": "relu1", "pool": "pool", "conv2": "bn2", "relu2": "relu2", "fc": "fc"}),
    ("bitflip", {"conv1": "relu1", "pool": "pool", "conv2": "bn2", "relu2": "relu2", "fc": "fc"}),
    ("noise", {"conv1": "relu1", "pool": "pool", "conv2": "bn2", "relu2": "relu2", "fc": "fc"}),
    ("bn-eps,factor=0.5", {"conv1": "relu1", "bn1": "relu1", "conv2": "bn2", "bn2": "bn2"}),
    ("ceil-mode", {"pool": "pool"}),
    ("bad-weight", {"conv1": "relu1", "relu1": "relu1", "conv2": "bn2", "fc": "fc"}),
]


PLANTED = [(kind, op, first) for kind, ops in CASES for op, first in ops.items()]


@pytest.mark.parametrize(("kind", "op", "first"), PLANTED)
def test_a_fault_changes_its_op_and_what_comes_after_and_nothing_before(
    network: tuple[Graph, dict[str, Array], dict[str, Array]], tmp_path: Path, kind: str, op: str, first: str,
) -> None:
    graph, feeds, healthy = network
    found = spoilt(network, tmp_path, f"op={op},kind={kind}")
    for name in ORDER[:ORDER.index(first)]:
        np.testing.assert_array_equal(found[name], healthy[name], err_msg=name)
    assert not np.array_equal(found[first], healthy[first], equal_nan=True)
    if kind != "bitflip":  # one element can be lost in a maximum or a tanh
        assert not np.array_equal(found["fc"], healthy["fc"], equal_nan=True)
    report = judged(graph, feeds, tmp_path)
    assert report.first_bad is not None
    assert report.first_bad.golden_port == Port(first, "output", 0)
    assert report.first_bad.port.side == "output"


def test_the_healthy_device_passes(network: tuple[Graph, dict[str, Array], dict[str, Array]], tmp_path: Path) -> None:
    graph, feeds, _ = network
    emulate(graph, feeds, tmp_path)
    report = judged(graph, feeds, tmp_path)
    assert report.passed
    assert report.first_bad is None
    assert report.coverage == 1.0


def test_downstream_is_computed_from_the_faulty_tensor(
    network: tuple[Graph, dict[str, Array], dict[str, Array]], tmp_path: Path,
) -> None:
    found = spoilt(network, tmp_path, "op=conv2,kind=scale,factor=2")
    with np.errstate(over="ignore"):
        tanh = np.tanh(found["bn2"].astype(np.float64)).astype(np.float16)
    np.testing.assert_allclose(found["relu2"], tanh, rtol=2e-3)


# -- each kind does what its factor says -------------------------------------------------------------------------

Network = tuple[Graph, dict[str, Array], dict[str, Array]]


def test_scale_multiplies(network: Network, tmp_path: Path) -> None:
    found = spoilt(network, tmp_path, "op=conv2,kind=scale,factor=0.5")
    np.testing.assert_allclose(found["bn2"], network[2]["bn2"] / 2, rtol=2e-3, atol=1e-6)


def test_overflow_takes_the_largest_elements(network: Network, tmp_path: Path) -> None:
    found, healthy = spoilt(network, tmp_path, "op=pool,kind=overflow,factor=0.1")["pool"], network[2]["pool"]
    lost = np.isinf(found)
    assert lost.sum() == round(0.1 * found.size)
    assert np.abs(healthy[lost]).min() >= np.abs(healthy[~lost]).max()
    emulate(network[0], network[1], tmp_path / "s", overflow="saturate", faults=[Fault("pool", "overflow", 0.1)])
    np.testing.assert_array_equal(device_outputs(tmp_path / "s")["pool"][lost], 65504)


def test_zero_takes_the_last_channels(network: Network, tmp_path: Path) -> None:
    found = spoilt(network, tmp_path, "op=pool,kind=zero,factor=0.5")["pool"]
    np.testing.assert_array_equal(found[:, :3], network[2]["pool"][:, :3])
    assert not found[:, 3:].any()


def test_transpose_turns_the_pictures(network: Network, tmp_path: Path) -> None:
    found = spoilt(network, tmp_path, "op=pool,kind=transpose")["pool"]
    np.testing.assert_array_equal(found, network[2]["pool"].swapaxes(2, 3))


def test_transpose_moves_a_vector_too(network: Network, tmp_path: Path) -> None:
    path = model_file(tmp_path, [helper.make_node("Relu", ["x"], ["y"], name="r")], {"x": (1, 7)}, ["y"], {})
    x = np.arange(1, 8, dtype=np.float32)[None]
    emulate(load(path), {"x": x}, tmp_path, faults=[Fault("r", "transpose")])
    found = device_outputs(tmp_path)["r"]
    assert sorted(found[0]) == sorted(x[0])
    assert not np.array_equal(found, x)


def test_stale_is_the_frame_before(network: Network, tmp_path: Path) -> None:
    graph, feeds, healthy = network
    emulate(graph, {"x": np.ascontiguousarray(feeds["x"][..., ::-1])}, tmp_path / "before")
    before = device_outputs(tmp_path / "before")["bn2"]
    found = spoilt(network, tmp_path, "op=conv2,kind=stale")["bn2"]
    np.testing.assert_array_equal(found, before)
    half = spoilt(network, tmp_path / "half", "op=conv2,kind=stale,factor=0.5")["bn2"]
    np.testing.assert_array_equal(half[0], healthy["bn2"][0])
    np.testing.assert_array_equal(half[1], before[1])


def test_bitflip_flips_one_bit_of_one_element(network: Network, tmp_path: Path) -> None:
    found = spoilt(network, tmp_path, "op=conv2,kind=bitflip,factor=3")["bn2"].astype(np.float16)
    flipped = found.view(np.uint16) ^ network[2]["bn2"].astype(np.float16).view(np.uint16)
    assert sorted(set(flipped.reshape(-1).tolist())) == [0, 1 << 3]
    assert (flipped > 0).sum() == 1


def test_noise_has_the_size_it_says_and_its_seed(network: Network, tmp_path: Path) -> None:
    healthy = network[2]["bn2"].astype(np.float64)
    one = spoilt(network, tmp_path / "1", "op=conv2,kind=noise,factor=0.3")["bn2"] - healthy
    two = spoilt(network, tmp_path / "2", "op=conv2,kind=noise,factor=0.3,seed=2")["bn2"] - healthy
    assert np.sqrt(np.mean(one**2)) == pytest.approx(0.3 * np.sqrt(np.mean(healthy**2)), rel=0.2)
    assert not np.array_equal(one, two)


def test_bn_eps_is_the_network_with_another_epsilon(network: Network, tmp_path: Path) -> None:
    import onnx

    found = spoilt(network, tmp_path, "op=conv1,kind=bn-eps,factor=0.25")
    model = onnx.load(str(network[0].path))
    (norm,) = (node for node in model.graph.node if node.name == "bn1")
    norm.attribute.append(helper.make_attribute("epsilon", 0.25))
    other = tmp_path / "other.onnx"
    other.write_bytes(model.SerializeToString())
    emulate(load(other), network[1], tmp_path / "other")
    expected = device_outputs(tmp_path / "other")
    for name in ORDER:
        np.testing.assert_array_equal(found[name], expected[name])


def test_ceil_mode_moves_the_windows_of_a_pool_that_rounds_down(network: Network, tmp_path: Path) -> None:
    found = spoilt(network, tmp_path, "op=pool,kind=ceil-mode")["pool"]
    padded = np.pad(network[2]["relu1"], ((0, 0), (0, 0), (1, 0), (1, 0)), constant_values=-np.inf)
    for i, j in np.ndindex(3, 3):
        window = padded[:, :, 2 * i:2 * i + 3, 2 * j:2 * j + 3]
        np.testing.assert_array_equal(found[:, :, i, j], window.max((2, 3)))


def test_ceil_mode_loses_the_last_windows_of_a_pool_that_rounds_up(tmp_path: Path) -> None:
    node = helper.make_node("MaxPool", ["x"], ["y"], name="p", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    path = model_file(tmp_path, [node], {"x": (1, 1, 8, 7)}, ["y"], {})
    x = picture(1, 1, 8, 7)
    emulate(load(path), {"x": x}, tmp_path / "a")
    emulate(load(path), {"x": x}, tmp_path / "b", faults=[Fault("p", "ceil-mode")])
    healthy, found = device_outputs(tmp_path / "a")["p"], device_outputs(tmp_path / "b")["p"]
    assert healthy.shape == found.shape == (1, 1, 4, 3)
    np.testing.assert_array_equal(found[:, :, :3], healthy[:, :, :3])  # 7 columns divide evenly, 8 rows do not
    assert not found[:, :, 3].any()


def test_bad_weight_gives_some_channels_their_neighbours_filters(network: Network, tmp_path: Path) -> None:
    found, healthy = spoilt(network, tmp_path, "op=fc,kind=bad-weight,factor=0.3")["fc"], network[2]["fc"]
    changed = (found != healthy).any(0)
    assert changed.sum() == 3
    bias = picture(10).astype(np.float16).astype(np.float32)
    for channel in np.flatnonzero(changed):
        other = (channel + 1) % 10
        np.testing.assert_allclose(found[:, channel] - bias[channel], healthy[:, other] - bias[other], atol=0.03)


def test_two_faults_at_once(network: Network, tmp_path: Path) -> None:
    graph, feeds, healthy = network
    emulate(graph, feeds, tmp_path, faults=[Fault("fc", "scale", 3.0), Fault("pool", "zero")])
    found = device_outputs(tmp_path)
    np.testing.assert_array_equal(found["relu1"], healthy["relu1"])
    assert not found["pool"][:, -1].any()


# -- misuse ------------------------------------------------------------------------------------------------------


def told(text: str) -> str:
    with pytest.raises(InputError) as caught:
        Fault.parse(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_fault_is_parsed_from_its_text_and_printed_again() -> None:
    fault = Fault.parse("kind=scale,op=block/a,b=c:1,factor=1.5,seed=3")
    assert fault == Fault("block/a,b=c:1", "scale", 1.5, 3)
    assert Fault.parse(str(fault)) == fault
    assert Fault.parse("op=x,kind=zero").strength == KINDS["zero"].factor


def test_an_unknown_kind_lists_close_ones() -> None:
    assert "did you mean bitflip" in told("op=a,kind=bit-flip")
    assert "overflow, scale" in told("op=a,kind=qqqqq")


@pytest.mark.parametrize("text", ["", "op=a", "kind=zero", "a,kind=zero", "op=a,kind=zero,op=b"])
def test_half_a_fault_is_told_how_a_whole_one_looks(text: str) -> None:
    assert "op=NAME,kind=KIND" in told(text)


@pytest.mark.parametrize(("text", "words"), [
    ("op=a,kind=zero,factor=2", "factor=2 makes no sense"),
    ("op=a,kind=zero,factor=x", "are numbers"),
    ("op=a,kind=scale,factor=nan", "makes no sense"),
    ("op=a,kind=bitflip,factor=16", "no bit"),
    ("op=a,kind=bn-eps,factor=0", "no epsilon"),
    ("op=a,kind=transpose,factor=2", "takes no factor"),
])
def test_a_factor_out_of_range_is_refused(text: str, words: str) -> None:
    assert words in told(text)


@pytest.mark.parametrize(("text", "words"), [
    ("op=conv9,kind=zero", "did you mean conv"),
    ("op=pool,kind=bn-eps", "(MaxPool); it fits normalisations"),
    ("op=conv1,kind=ceil-mode", "(Conv); it fits MaxPool and AveragePool"),
    ("op=relu2,kind=bad-weight", "(Tanh); it fits ops with constant floating weights"),
])
def test_a_kind_that_does_not_fit_an_op_says_which_do(network: Network, tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        emulate(network[0], network[1], tmp_path, faults=[Fault.parse(text)])
    assert words in str(caught.value)
    if "fits" in words:
        assert "such as" in str(caught.value)
    assert not (tmp_path / "npu").exists()


def test_a_pool_that_divides_evenly_and_a_folded_op_cannot_be_ill(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MaxPool", ["x"], ["p"], name="even", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Shape", ["p"], ["s"], name="shape"),
        helper.make_node("Reshape", ["x", "s2"], ["y"], name="y"),
        helper.make_node("Mul", ["s", "s"], ["s1"], name="mul"),
        helper.make_node("Identity", ["s1"], ["s2"], name="id"),
        helper.make_node("ArgMax", ["x"], ["best"], name="best"),
    ]
    nodes = [nodes[0], nodes[1], nodes[3], nodes[4], nodes[5]]
    graph = load(model_file(tmp_path, nodes, {"x": (1, 1, 4, 4)}, ["p", "best"], {}, types={"best": 7}))
    for text, words in (
        ("op=even,kind=ceil-mode", "evenly"), ("op=shape,kind=zero", "compile time"), ("op=best,kind=scale", "int64"),
    ):
        with pytest.raises(InputError, match=words):
            emulate(graph, {"x": picture(1, 1, 4, 4)}, tmp_path / "out", faults=[Fault.parse(text)])
