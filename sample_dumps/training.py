"""Trains the three sample networks on scikit-learn's handwritten digits (needs TensorFlow, and a minute on a laptop).

The weights that were committed came from one such run; training again gives other weights of about the same accuracy.
Everything behind the weights is reproduced byte for byte by `make_samples.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Weights = dict[str, np.ndarray]


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(train images, train labels, test images, test labels): 1347 and 450 pictures of 8 x 8, NHWC, from 0 to 1."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    found = load_digits()
    images = (found.images / 16).astype(np.float32)[..., None]
    train, test, train_labels, test_labels = train_test_split(
        images, found.target, test_size=450, random_state=0, stratify=found.target,
    )
    return train, train_labels, test, test_labels


class Parameters:
    """The variables of one network, made when they are first asked for; batch norms keep their running statistics."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.variables: dict[str, Any] = {}
        self.statistics: dict[str, np.ndarray] = {}
        self.training = True

    def get(self, name: str, shape: tuple[int, ...], fan_in: int) -> Any:
        import tensorflow as tf

        if name not in self.variables:
            spread = np.sqrt(2 / fan_in) if fan_in else 0.0
            start = self.random.standard_normal(shape) * spread + (1.0 if name.endswith("gamma") else 0.0)
            self.variables[name] = tf.Variable(start.astype(np.float32))
        return self.variables[name]

    def conv(self, x: Any, name: str, channels: int, size: int = 3, bias: bool = False, padding: str = "SAME") -> Any:
        import tensorflow as tf

        into = int(x.shape[-1])
        y = tf.nn.conv2d(x, self.get(f"{name}/weight", (size, size, into, channels), size * size * into), 1, padding)
        return y + self.get(f"{name}/bias", (channels,), 0) if bias else y

    def norm(self, x: Any, name: str, epsilon: float = 1e-5) -> Any:
        import tensorflow as tf

        channels = int(x.shape[-1])
        gamma, beta = self.get(f"{name}/gamma", (channels,), 0), self.get(f"{name}/beta", (channels,), 0)
        mean, var = (self.statistics.setdefault(f"{name}/{what}", np.full(channels, start, np.float32))
                     for what, start in (("mean", 0.0), ("var", 1.0)))
        if self.training:
            mean_now, var_now = tf.nn.moments(x, [0, 1, 2])
            for what, now in (("mean", mean_now), ("var", var_now)):
                self.statistics[f"{name}/{what}"] = 0.95 * self.statistics[f"{name}/{what}"] + 0.05 * now.numpy()
            mean, var = mean_now, var_now
        return tf.nn.batch_normalization(x, mean, var, beta, gamma, epsilon)

    def dense(self, x: Any, name: str, units: int) -> Any:
        import tensorflow as tf

        into = int(x.shape[-1])
        return tf.matmul(x, self.get(f"{name}/weight", (into, units), into)) + self.get(f"{name}/bias", (units,), 0)


def resnet(x: Any, p: Parameters) -> Any:
    """Three residual blocks; the ONNX sample."""
    import tensorflow as tf

    x = tf.nn.relu(p.norm(p.conv(x, "stem/conv", 16), "stem/bn"))
    x = _block(x, p, "block1", 16)
    x = tf.nn.max_pool2d(x, 3, 2, [[0, 0], [1, 1], [1, 1], [0, 0]])
    x = _block(x, p, "block2", 24)
    x = _block(x, p, "block3", 24)
    return p.dense(tf.reduce_mean(x, [1, 2]), "fc", 10)


def _block(x: Any, p: Parameters, name: str, channels: int) -> Any:
    import tensorflow as tf

    y = tf.nn.relu(p.norm(p.conv(x, f"{name}/conv1", channels), f"{name}/bn1"))
    y = p.norm(p.conv(y, f"{name}/conv2", channels), f"{name}/bn2")
    if int(x.shape[-1]) != channels:
        x = p.norm(p.conv(x, f"{name}/proj", channels, 1), f"{name}/bnp")
    return tf.nn.relu(x + y)


def lenet(x: Any, p: Parameters) -> Any:
    """A LeNet with one batch norm; the Caffe sample. Caffe's pooling rounds up."""
    import tensorflow as tf

    x = tf.nn.relu(p.norm(p.conv(x, "conv1", 20, bias=True), "bn1"))
    x = tf.nn.max_pool2d(x, 3, 2, "SAME")  # 8 -> 4: the last window hangs over the edge, as rounding up makes it
    x = tf.nn.relu(p.conv(x, "conv2", 32, bias=True))
    x = tf.nn.avg_pool2d(x, 2, 2, "VALID")
    x = tf.reshape(tf.transpose(x, [0, 3, 1, 2]), [-1, 128])  # Caffe flattens N C H W
    return p.dense(tf.nn.relu(p.dense(x, "ip1", 64)), "ip2", 10)


def cnn(x: Any, p: Parameters) -> Any:
    """Three convolutions in TensorFlow's own order; the frozen-graph sample."""
    import tensorflow as tf

    x = tf.nn.relu(p.conv(x, "conv1", 16, bias=True))
    x = tf.nn.relu(p.norm(p.conv(x, "conv2", 32), "conv2/bn", 1e-3))
    x = tf.nn.max_pool2d(x, 3, 2, "VALID")  # 8 -> 3
    x = tf.nn.relu(p.conv(x, "conv3", 40, bias=True))
    x = tf.reshape(x, [-1, 360])
    return p.dense(tf.nn.relu(p.dense(x, "dense1", 48)), "logits", 10)


NETWORKS: dict[str, Callable[[Any, Parameters], Any]] = {
    "digits_resnet": resnet, "digits_lenet": lenet, "digits_cnn": cnn,
}


def train(name: str, epochs: int = 60, batch: int = 64, seed: int = 1) -> Weights:
    """Weights of a network, by `layer/what` (convolutions H W in out), trained with Adam and shifted pictures."""
    import tensorflow as tf

    images, labels, _, _ = digits()
    p = Parameters(seed)
    network = NETWORKS[name]
    network(tf.constant(images[:2]), p)
    variables = list(p.variables.values())
    moments = [[np.zeros(v.shape, np.float32), np.zeros(v.shape, np.float32)] for v in variables]
    step = 0
    for epoch in range(epochs):
        rate = 2e-3 * 0.5 * (1 + np.cos(np.pi * epoch / epochs))
        order = p.random.permutation(len(images))
        for start in range(0, len(order), batch):
            chosen = order[start:start + batch]
            with tf.GradientTape() as tape:
                logits = network(tf.constant(_shifted(images[chosen], p.random)), p)
                loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels[chosen], logits))
            step += 1
            for variable, gradient, held in zip(variables, tape.gradient(loss, variables), moments, strict=True):
                held[0] = 0.9 * held[0] + 0.1 * gradient.numpy()
                held[1] = 0.999 * held[1] + 0.001 * gradient.numpy() ** 2
                move = held[0] / (1 - 0.9**step) / (np.sqrt(held[1] / (1 - 0.999**step)) + 1e-8)
                variable.assign_sub((rate * (move + 1e-3 * variable.numpy())).astype(np.float32))
    return {**{k: v.numpy() for k, v in p.variables.items()}, **p.statistics}


def _shifted(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Each picture moved by up to one pixel, filled with zeros."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = np.empty_like(images)
    for place, (row, column) in enumerate(random.integers(0, 3, (len(images), 2))):
        out[place] = padded[place, row:row + 8, column:column + 8]
    return out
