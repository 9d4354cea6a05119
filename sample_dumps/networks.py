"""The three sample networks as model files, and the ONNX twins of the two that are not ONNX. Weights in, bytes out.

A twin has the same weights and the same layer names as its original. Inner products are convolutions over the whole
picture in a twin, as they are on a device, so that no layer exists that the original does not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from acccmp.emulator.emulate import Twin

Weights = Mapping[str, np.ndarray]


class OnnxNet:
    """An ONNX model in the making: nodes by name, each with one output tensor `<name>_output`."""

    def __init__(self, name: str, feed: str, shape: list[Any], weights: Weights) -> None:
        self.name, self.feed, self.shape, self.weights = name, feed, shape, weights
        self.nodes: list[Any] = []
        self.initializers: dict[str, np.ndarray] = {}

    def add(self, op: str, name: str, *inputs: str, **attrs: Any) -> str:
        import onnx

        self.nodes.append(onnx.helper.make_node(op, list(inputs), [f"{name}_output"], name=name, **attrs))
        return f"{name}_output"

    def constant(self, name: str, array: np.ndarray) -> str:
        self.initializers[name] = np.ascontiguousarray(array, np.float32)
        return name

    def filters(self, name: str) -> str:
        """A convolution's weights: stored H W in out, wanted out in H W."""
        return self.constant(f"{name}.weight", self.weights[f"{name}/weight"].transpose(3, 2, 0, 1))

    def conv(self, name: str, x: str, pad: int = 1, bias: bool = False) -> str:
        more = [self.constant(f"{name}.bias", self.weights[f"{name}/bias"])] if bias else []
        return self.add("Conv", name, x, self.filters(name), *more, pads=[pad] * 4)

    def norm(self, name: str, x: str) -> str:
        names = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "var": "running_var"}
        numbers = [
            self.constant(f"{name}.{their}", self.weights[f"{name}/{own}"]) for own, their in names.items()
        ]
        return self.add("BatchNormalization", name, x, *numbers, epsilon=1e-5)

    def bytes(self, outputs: Mapping[str, list[Any]]) -> bytes:
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        graph = helper.make_graph(
            self.nodes, self.name, [helper.make_tensor_value_info(self.feed, TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            [numpy_helper.from_array(array, name) for name, array in self.initializers.items()],
        )
        model = helper.make_model(
            graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)], producer_name="acccmp sample_dumps",
        )
        onnx.checker.check_model(model)
        raw: bytes = model.SerializeToString(deterministic=True)
        return raw


# -- the ONNX sample ---------------------------------------------------------------------------------------------


def resnet(weights: Weights) -> bytes:
    net = OnnxNet("digits_resnet", "image", ["batch", 1, 8, 8], weights)
    x = net.norm("stem/bn", net.conv("stem/conv", "image"))
    x = _block(net, "block1", net.add("Relu", "stem/relu", x))
    x = net.add("MaxPool", "pool1", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    x = _block(net, "block2", x)
    x = _block(net, "block3", x)
    x = net.add("Flatten", "flatten", net.add("GlobalAveragePool", "pool2", x))
    weight = net.constant("fc.weight", weights["fc/weight"].T)
    x = net.add("Gemm", "fc", x, weight, net.constant("fc.bias", weights["fc/bias"]), transB=1)
    return net.bytes({net.add("Softmax", "prob", x, axis=1): ["batch", 10]})


def _block(net: OnnxNet, name: str, x: str) -> str:
    y = net.norm(f"{name}/bn1", net.conv(f"{name}/conv1", x))
    y = net.add("Relu", f"{name}/relu1", y)
    y = net.norm(f"{name}/bn2", net.conv(f"{name}/conv2", y))
    if f"{name}/proj/weight" in net.weights:
        x = net.norm(f"{name}/bnp", net.conv(f"{name}/proj", x, pad=0))
    return net.add("Relu", f"{name}/relu2", net.add("Add", f"{name}/add", y, x))


# -- the Caffe sample --------------------------------------------------------------------------------------------

LENET = """\
name: "digits_lenet"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 1 dim: 8 dim: 8 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 20 kernel_size: 3 pad: 1 } }
layer { name: "bn1" type: "BatchNorm" bottom: "conv1" top: "conv1"
  batch_norm_param { use_global_stats: true eps: 1e-5 } }
layer { name: "scale1" type: "Scale" bottom: "conv1" top: "conv1" scale_param { bias_term: true } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
  pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: "conv2" type: "Convolution" bottom: "pool1" top: "conv2"
  convolution_param { num_output: 32 kernel_size: 3 pad: 1 } }
layer { name: "relu2" type: "ReLU" bottom: "conv2" top: "conv2" }
layer { name: "pool2" type: "Pooling" bottom: "conv2" top: "pool2"
  pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
layer { name: "ip1" type: "InnerProduct" bottom: "pool2" top: "ip1" inner_product_param { num_output: 64 } }
layer { name: "relu3" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2" inner_product_param { num_output: 10 } }
layer { name: "prob" type: "Softmax" bottom: "ip2" top: "prob" }
"""

LENET_TWIN = Twin()


def lenet(weights: Weights) -> tuple[str, bytes]:
    """The prototxt and the caffemodel."""
    from acccmp.schemas import caffe_pb2

    net = caffe_pb2.NetParameter(name="digits_lenet")
    channels = weights["bn1/gamma"].shape
    blobs = {
        "conv1": [weights["conv1/weight"].transpose(3, 2, 0, 1), weights["conv1/bias"]],
        "bn1": [weights["bn1/mean"], weights["bn1/var"], np.ones(1)],
        "scale1": [weights["bn1/gamma"], weights["bn1/beta"]],
        "conv2": [weights["conv2/weight"].transpose(3, 2, 0, 1), weights["conv2/bias"]],
        "ip1": [weights["ip1/weight"].T, weights["ip1/bias"]],
        "ip2": [weights["ip2/weight"].T, weights["ip2/bias"]],
    }
    assert channels == (20,)
    for name, kind in (
        ("conv1", "Convolution"), ("bn1", "BatchNorm"), ("scale1", "Scale"), ("conv2", "Convolution"),
        ("ip1", "InnerProduct"), ("ip2", "InnerProduct"),
    ):
        layer = net.layer.add(name=name, type=kind)
        for array in blobs[name]:
            blob = layer.blobs.add()
            blob.shape.dim.extend(array.shape)
            blob.data.extend(np.ascontiguousarray(array, np.float32).reshape(-1).tolist())
    return LENET, net.SerializeToString(deterministic=True)


def lenet_twin(weights: Weights) -> bytes:
    net = OnnxNet("digits_lenet", "data", [4, 1, 8, 8], weights)
    ones, zeros = np.ones(20), np.zeros(20)
    x = net.conv("conv1", "data", bias=True)
    x = net.add(
        "BatchNormalization", "bn1", x, net.constant("bn1.one", ones), net.constant("bn1.zero", zeros),
        net.constant("bn1.mean", weights["bn1/mean"]), net.constant("bn1.var", weights["bn1/var"]), epsilon=1e-5,
    )
    x = net.add(
        "BatchNormalization", "scale1", x, net.constant("scale1.weight", weights["bn1/gamma"]),
        net.constant("scale1.bias", weights["bn1/beta"]), net.constant("scale1.zero", zeros),
        net.constant("scale1.one", ones), epsilon=0.0,
    )
    x = net.add("MaxPool", "pool1", net.add("Relu", "relu1", x), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    x = net.add("Relu", "relu2", net.conv("conv2", x, bias=True))
    x = net.add("AveragePool", "pool2", x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    whole = net.constant("ip1.weight", weights["ip1/weight"].T.reshape(64, 32, 2, 2))
    x = net.add("Conv", "ip1", x, whole, net.constant("ip1.bias", weights["ip1/bias"]))
    one = net.constant("ip2.weight", weights["ip2/weight"].T.reshape(10, 64, 1, 1))
    x = net.add("Conv", "ip2", net.add("Relu", "relu3", x), one, net.constant("ip2.bias", weights["ip2/bias"]))
    return net.bytes({net.add("Softmax", "prob", x, axis=1): [4, 10, 1, 1]})


# -- the TensorFlow sample ---------------------------------------------------------------------------------------

# What each node of the twin stands for. A device does the reshape as part of the matrix product.
CNN_TWIN = Twin({"dense1/MatMul": ("flatten/Reshape", "dense1/MatMul")}, "NHWC")


class FrozenGraph:
    """A TensorFlow GraphDef in the making."""

    def __init__(self) -> None:
        from acccmp.schemas import tensorflow_pb2

        self.schema = tensorflow_pb2
        self.graph = tensorflow_pb2.GraphDef(versions=tensorflow_pb2.VersionDef(producer=27))

    def add(self, op: str, name: str, *inputs: str, **attrs: Any) -> str:
        node = self.graph.node.add(name=name, op=op, input=list(inputs))
        kinds = {"Const": ("dtype",), "Placeholder": ("dtype",)}.get(op, ("T",))
        for kind in kinds:
            node.attr[kind].type = attrs.pop("dtype", self.schema.DT_FLOAT)
        for key, value in attrs.items():
            if isinstance(value, bool):
                node.attr[key].b = value
            elif isinstance(value, float):
                node.attr[key].f = value
            elif isinstance(value, str):
                node.attr[key].s = value.encode()
            elif isinstance(value, int):
                node.attr[key].type = value
            else:
                node.attr[key].list.i.extend(value)
        return name

    def constant(self, name: str, array: np.ndarray) -> str:
        kind = self.schema.DT_INT32 if array.dtype.kind == "i" else self.schema.DT_FLOAT
        values = np.ascontiguousarray(array, np.int32 if array.dtype.kind == "i" else np.float32)
        self.add("Const", name, dtype=kind)
        tensor = self.graph.node[-1].attr["value"].tensor
        tensor.dtype = kind
        for size in values.shape:
            tensor.tensor_shape.dim.add(size=size)
        tensor.tensor_content = values.tobytes()
        return name

    def bytes(self) -> bytes:
        raw: bytes = self.graph.SerializeToString(deterministic=True)
        return raw


def cnn(weights: Weights) -> bytes:
    g = FrozenGraph()
    g.add("Placeholder", "image")
    shape = g.graph.node[-1].attr["shape"].shape
    for size in (4, 8, 8, 1):
        shape.dim.add(size=size)

    def conv(name: str, x: str) -> str:
        return g.add(
            "Conv2D", f"{name}/Conv2D", x, g.constant(f"{name}/weights", weights[f"{name}/weight"]),
            strides=[1, 1, 1, 1], padding="SAME", data_format="NHWC",
        )

    def biased(name: str, x: str) -> str:
        return g.add(
            "BiasAdd", f"{name}/BiasAdd", x, g.constant(f"{name}/biases", weights[f"{name}/bias"]), data_format="NHWC",
        )

    def dense(name: str, x: str) -> str:
        x = g.add("MatMul", f"{name}/MatMul", x, g.constant(f"{name}/weights", weights[f"{name}/weight"]))
        return biased(name, x)

    x = g.add("Relu", "conv1/Relu", biased("conv1", conv("conv1", "image")))
    x = conv("conv2", x)
    norm = [g.constant(f"conv2/bn/{name}", weights[f"conv2/bn/{name}"]) for name in ("gamma", "beta", "mean", "var")]
    x = g.add(
        "FusedBatchNormV3", "conv2/bn/FusedBatchNormV3", x, *norm, epsilon=1e-3, is_training=False, data_format="NHWC",
        U=g.schema.DT_FLOAT,
    )
    x = g.add("Relu", "conv2/Relu", x)
    x = g.add(
        "MaxPool", "pool1/MaxPool", x, ksize=[1, 3, 3, 1], strides=[1, 2, 2, 1], padding="VALID", data_format="NHWC",
    )
    x = g.add("Relu", "conv3/Relu", biased("conv3", conv("conv3", x)))
    shape_of_rows = g.constant("flatten/shape", np.array([4, 360]))
    x = g.add("Reshape", "flatten/Reshape", x, shape_of_rows, Tshape=g.schema.DT_INT32)
    x = g.add("Relu", "dense1/Relu", dense("dense1", x))
    g.add("Softmax", "prob", dense("logits", x))
    return g.bytes()


def cnn_twin(weights: Weights) -> bytes:
    net = OnnxNet("digits_cnn", "image", [4, 1, 8, 8], weights)

    def biased(name: str, x: str) -> str:
        bias = net.constant(f"{name}/biases", weights[f"{name}/bias"][:, None, None])
        return net.add("Add", f"{name}/BiasAdd", x, bias)

    def conv(name: str, x: str) -> str:
        return net.add("Conv", f"{name}/Conv2D", x, net.filters(name), pads=[1] * 4)

    def dense(name: str, x: str, rows: int, into: int) -> str:
        weight = weights[f"{name}/weight"].reshape(rows, rows, into, -1).transpose(3, 2, 0, 1)
        return biased(name, net.add("Conv", f"{name}/MatMul", x, net.constant(f"{name}/weights", weight)))

    x = net.add("Relu", "conv1/Relu", biased("conv1", conv("conv1", "image")))
    norm = [net.constant(f"conv2/bn/{name}", weights[f"conv2/bn/{name}"]) for name in ("gamma", "beta", "mean", "var")]
    x = net.add("BatchNormalization", "conv2/bn/FusedBatchNormV3", conv("conv2", x), *norm, epsilon=1e-3)
    x = net.add("MaxPool", "pool1/MaxPool", net.add("Relu", "conv2/Relu", x), kernel_shape=[3, 3], strides=[2, 2])
    x = net.add("Relu", "conv3/Relu", biased("conv3", conv("conv3", x)))
    x = net.add("Relu", "dense1/Relu", dense("dense1", x, 3, 40))
    return net.bytes({net.add("Softmax", "prob", dense("logits", x, 1, 48), axis=1): [4, 10, 1, 1]})
