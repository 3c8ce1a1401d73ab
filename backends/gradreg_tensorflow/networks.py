"""Portable networks in TensorFlow, in operations that differentiate twice."""

import math
from collections.abc import Callable, Mapping

import tensorflow as tf

from gradreg_core.portable import networks as portable
from gradreg_tensorflow.second_order import pool_axis

__all__ = ["apply"]

Arrays = Mapping[str, tf.Tensor]


def _gelu(x: tf.Tensor) -> tf.Tensor:
    """Exact GELU, x Phi(x); TensorFlow's own has constants of single precision."""
    return 0.5 * x * (1 + tf.math.erf(x * math.sqrt(0.5)))


def _leaky_relu(x: tf.Tensor) -> tf.Tensor:
    """TensorFlow's own has a slope of single precision."""
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
    """(B, H, W, C) as (B, H / size, size, W / size, size, C), the incomplete last windows left out."""
    _, height, width, channels = x.shape
    rows, columns = height // size, width // size
    return tf.reshape(x[:, : rows * size, : columns * size], (-1, rows, size, columns, size, channels))


def _normalise(x: tf.Tensor, axes: list[int], eps: float) -> tf.Tensor:
    centred = x - tf.reduce_mean(x, axes, keepdims=True)
    return centred / tf.sqrt(tf.reduce_mean(centred * centred, axes, keepdims=True) + eps)


def _attention(x: tf.Tensor, weight: dict[str, tf.Tensor], heads: int) -> tf.Tensor:
    _, time, channels = x.shape
    size = channels // heads

    def split(name: str) -> tf.Tensor:
        return tf.transpose(tf.reshape(x @ weight[name], (-1, time, heads, size)), (0, 2, 1, 3))

    scores = tf.matmul(split("query"), split("key"), transpose_b=True) / math.sqrt(size)
    mixed = tf.nn.softmax(scores) @ split("value")
    return tf.reshape(tf.transpose(mixed, (0, 2, 1, 3)), (-1, time, channels)) @ weight["out"]


def _layer(layer: portable.Layer, path: str, params: Arrays, masks: Arrays, x: tf.Tensor) -> tf.Tensor:
    weight = {name[len(path) + 1 :]: value for name, value in params.items() if name.startswith(f"{path}.")}
    match layer:
        case portable.Dense():
            x = x @ weight["weight"]
            return x + weight["bias"] if layer.bias else x
        case portable.Conv2D():
            return tf.nn.conv2d(x, weight["weight"], 1, layer.padding.upper()) + weight["bias"]
        case portable.MaxPool():
            return pool_axis(pool_axis(x, 2, layer.size, layer.size), 1, layer.size, layer.size)
        case portable.AvgPool():
            return tf.reduce_mean(_windows(x, layer.size), (2, 4))
        case portable.Flatten():
            return tf.reshape(x, (x.shape[0], -1))
        case portable.Activation():
            return _ACTIVATIONS[layer.kind](x)
        case portable.BatchNorm():
            if layer.training:
                normed = _normalise(x, list(range(len(x.shape) - 1)), layer.eps)
            else:
                normed = (x - weight["mean"]) / tf.sqrt(weight["variance"] + layer.eps)
            return normed * weight["weight"] + weight["bias"]
        case portable.LayerNorm():
            return _normalise(x, [-1], layer.eps) * weight["weight"] + weight["bias"]
        case portable.GroupNorm():
            channels = x.shape[-1]
            grouped = tf.reshape(x, (x.shape[0], -1, layer.groups, channels // layer.groups))
            normed = tf.reshape(_normalise(grouped, [1, 3], layer.eps), tf.shape(x))
            return normed * weight["weight"] + weight["bias"]
        case portable.Dropout():
            return x * masks[path] if path in masks else x
        case portable.Attention():
            return _attention(x, weight, layer.heads)
        case portable.Residual():
            return x + _layers(layer.layers, f"{path}.", params, masks, x)
    raise TypeError(f"{layer!r} is no portable layer.")


def _layers(layers: tuple[portable.Layer, ...], prefix: str, params: Arrays, masks: Arrays, x: tf.Tensor) -> tf.Tensor:
    for index, layer in enumerate(layers):
        x = _layer(layer, f"{prefix}{index}", params, masks, x)
    return x


def apply(network: portable.Network, params: Arrays, x: tf.Tensor, masks: Arrays | None = None) -> tf.Tensor:
    """The network's outputs for inputs x of shape (B, *network.input_shape).

    Args:
        network: the description.
        params: weights and statistics by path, tensors or variables.
        x: inputs, channels last.
        masks: dropout masks by path, (B, *sample); without them dropout is the identity.
    """
    return _layers(network.layers, "", params, masks or {}, x)
