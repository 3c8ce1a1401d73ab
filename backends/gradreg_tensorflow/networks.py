"""Portable networks in TensorFlow, in operations that differentiate twice."""

import math
from collections.abc import Callable, Mapping

import tensorflow as tf

from gradreg_core.portable import networks as portable
from gradreg_tensorflow.second_order import pool_axis

__all__ = ["apply"]

Arrays = Mapping[str, tf.Tensor]


def _gelu(x: tf.Tensor) -> tf.Tensor:
    """Exact GELU, x Phi(x); TensorFlow's has single-precision constants."""
    return 0.5 * x * (1 + tf.math.erf(x * math.sqrt(0.5)))


def _leaky_relu(x: tf.Tensor) -> tf.Tensor:
    """Leaky ReLU; TensorFlow's has a single-precision slope."""
    return tf.where(x > 0, x, portable.LEAKY_SLOPE * x)


def _gelu_tanh(x: tf.Tensor) -> tf.Tensor:
    return 0.5 * x * (1 + tf.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


_ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "relu": tf.nn.relu,
    "leaky_relu": _leaky_relu,
    "tanh": tf.tanh,
    "sigmoid": tf.sigmoid,
    "softplus": tf.math.softplus,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
}


def _windows(x: tf.Tensor, size: int) -> tf.Tensor:
    """(B, H, W, C) as (B, H / size, size, W / size, size, C), without the incomplete last windows."""
    _, height, width, channels = x.shape
    rows, columns = height // size, width // size
    return tf.reshape(x[:, : rows * size, : columns * size], (-1, rows, size, columns, size, channels))


def _normalise(x: tf.Tensor, axes: list[int], eps: float) -> tf.Tensor:
    centred = x - tf.reduce_mean(x, axes, keepdims=True)
    return centred / tf.sqrt(tf.reduce_mean(centred * centred, axes, keepdims=True) + eps)


def _attention(layer: portable.Attention, weight: Arrays, x: tf.Tensor) -> tf.Tensor:
    _, time, channels = x.shape
    heads, size = layer.heads, channels // layer.heads

    def split(name: str) -> tf.Tensor:
        return tf.transpose(tf.reshape(x @ weight[name], (-1, time, heads, size)), (0, 2, 1, 3))

    scores = tf.matmul(split("query"), split("key"), transpose_b=True) / math.sqrt(size)
    mixed = tf.nn.softmax(scores) @ split("value")
    return tf.reshape(tf.transpose(mixed, (0, 2, 1, 3)), (-1, time, channels)) @ weight["out"]


def _dense(layer: portable.Dense, weight: Arrays, x: tf.Tensor) -> tf.Tensor:
    product = x @ weight["weight"]
    return product + weight["bias"] if layer.bias else product


def _convolution(layer: portable.Conv2D, weight: Arrays, x: tf.Tensor) -> tf.Tensor:
    return tf.nn.conv2d(x, weight["weight"], 1, layer.padding.upper()) + weight["bias"]


def _batch_norm(layer: portable.BatchNorm, weight: Arrays, x: tf.Tensor) -> tf.Tensor:
    if layer.training:
        normed = _normalise(x, list(range(len(x.shape) - 1)), layer.eps)
    else:
        normed = (x - weight["mean"]) / tf.sqrt(weight["variance"] + layer.eps)
    return normed * weight["weight"] + weight["bias"]


def _layer_norm(layer: portable.LayerNorm, weight: Arrays, x: tf.Tensor) -> tf.Tensor:
    return _normalise(x, [-1], layer.eps) * weight["weight"] + weight["bias"]


def _group_norm(layer: portable.GroupNorm, weight: Arrays, x: tf.Tensor) -> tf.Tensor:
    grouped = tf.reshape(x, (x.shape[0], -1, layer.groups, x.shape[-1] // layer.groups))
    return tf.reshape(_normalise(grouped, [1, 3], layer.eps), tf.shape(x)) * weight["weight"] + weight["bias"]


_RULES: portable.Rules = {
    portable.Dense: _dense,
    portable.Conv2D: _convolution,
    portable.MaxPool: lambda layer, weight, x: pool_axis(
        pool_axis(x, 2, layer.size, layer.size), 1, layer.size, layer.size
    ),
    portable.AvgPool: lambda layer, weight, x: tf.reduce_mean(_windows(x, layer.size), (2, 4)),
    portable.Flatten: lambda layer, weight, x: tf.reshape(x, (x.shape[0], -1)),
    portable.Activation: lambda layer, weight, x: _ACTIVATIONS[layer.kind](x),
    portable.BatchNorm: _batch_norm,
    portable.LayerNorm: _layer_norm,
    portable.GroupNorm: _group_norm,
    portable.Attention: _attention,
}


def apply(network: portable.Network, params: Arrays, x: tf.Tensor, masks: Arrays | None = None) -> tf.Tensor:
    """The network's outputs for x; see :func:`gradreg_core.portable.networks.interpret`."""
    return portable.interpret(_RULES, network, params, x, masks)
