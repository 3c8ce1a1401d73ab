"""Portable networks in autograd."""

import math
from collections.abc import Mapping
from typing import Any

import autograd.numpy as anp
from autograd.scipy.special import erf, expit

from gradreg_autograd.backend import AutogradBackend
from gradreg_core.portable import networks as portable

__all__ = ["LAYERS", "apply"]

Array = Any
Arrays = Mapping[str, Array]

LAYERS: frozenset[type[portable.Layer]] = frozenset(
    {
        portable.Dense,
        portable.Conv2D,
        portable.MaxPool,
        portable.AvgPool,
        portable.Flatten,
        portable.Activation,
        portable.LayerNorm,
        portable.BatchNorm,
        portable.GroupNorm,
        portable.Dropout,
        portable.Attention,
        portable.Residual,
    }
)

_softmax = AutogradBackend().softmax
_ACTIVATIONS = {
    "relu": lambda x: anp.where(x > 0, x, 0.0),
    "leaky_relu": lambda x: anp.where(x > 0, x, portable.LEAKY_SLOPE * x),
    "tanh": anp.tanh,
    "sigmoid": expit,
    "softplus": lambda x: anp.logaddexp(x, 0.0),
    "gelu": lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + anp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))),
}


def _conv(x: Array, kernel: Array, padding: str) -> Array:
    """The sum over the places of the kernel of the shifted image times the weights there."""
    size = kernel.shape[0]
    if padding == "same":
        before = size // 2
        x = anp.pad(x, ((0, 0), (before, before), (before, before), (0, 0)), "constant")
    height, width = x.shape[1] - size + 1, x.shape[2] - size + 1
    places = [(i, j) for i in range(size) for j in range(size)]
    return sum(anp.matmul(x[:, i : i + height, j : j + width], kernel[i, j]) for i, j in places)


def _windows(x: Array, size: int) -> list[Array]:
    """The elements of each size x size window in row-major order, one array for each place in the window."""
    batch, height, width, channels = x.shape
    rows, columns = height // size, width // size
    cut = anp.reshape(x[:, : rows * size, : columns * size], (batch, rows, size, columns, size, channels))
    return [cut[:, :, i, :, j] for i in range(size) for j in range(size)]


def _max_pool(x: Array, size: int) -> Array:
    """Maximum over windows; among equals the first has the whole derivative."""
    best, *others = _windows(x, size)
    for each in others:
        best = anp.where(best >= each, best, each)
    return best


def _moments(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    mean = anp.mean(x, axis=axes, keepdims=True)
    return mean, anp.mean((x - mean) * (x - mean), axis=axes, keepdims=True)


def _normalize(x: Array, mean: Array, variance: Array, weight: Arrays, eps: float) -> Array:
    return (x - mean) / anp.sqrt(variance + eps) * weight["weight"] + weight["bias"]


def _attention(x: Array, weight: Arrays, heads: int) -> Array:
    batch, time, channels = x.shape
    size = channels // heads

    def split(name: str) -> Array:
        return anp.swapaxes(anp.reshape(anp.matmul(x, weight[name]), (batch, time, heads, size)), 1, 2)

    scores = anp.matmul(split("query"), anp.swapaxes(split("key"), 2, 3)) / math.sqrt(size)
    mixed = anp.swapaxes(anp.matmul(_softmax(scores), split("value")), 1, 2)
    return anp.matmul(anp.reshape(mixed, (batch, time, channels)), weight["out"])


def _layer(layer: portable.Layer, path: str, arrays: Arrays, x: Array) -> Array:
    weight = {name[len(path) + 1 :]: value for name, value in arrays.items() if name.startswith(f"{path}.")}
    match layer:
        case portable.Dense():
            x = anp.matmul(x, weight["weight"])
            return x + weight["bias"] if layer.bias else x
        case portable.Conv2D():
            return _conv(x, weight["weight"], layer.padding) + weight["bias"]
        case portable.MaxPool():
            return _max_pool(x, layer.size)
        case portable.AvgPool():
            return sum(_windows(x, layer.size)) / layer.size**2
        case portable.Flatten():
            return anp.reshape(x, (x.shape[0], -1))
        case portable.Activation():
            return _ACTIVATIONS[layer.kind](x)
        case portable.BatchNorm():
            axes = tuple(range(x.ndim - 1))
            moments = _moments(x, axes) if layer.training else (weight["mean"], weight["variance"])
            return _normalize(x, *moments, weight, layer.eps)
        case portable.LayerNorm():
            return _normalize(x, *_moments(x, (-1,)), weight, layer.eps)
        case portable.GroupNorm():
            grouped = anp.reshape(x, (x.shape[0], -1, layer.groups, x.shape[-1] // layer.groups))
            mean, variance = _moments(grouped, (1, 3))
            normed = anp.reshape((grouped - mean) / anp.sqrt(variance + layer.eps), x.shape)
            return normed * weight["weight"] + weight["bias"]
        case portable.Dropout():
            return x
        case portable.Attention():
            return _attention(x, weight, layer.heads)
        case portable.Residual():
            return x + _layers(layer.layers, f"{path}.", arrays, x)
    raise TypeError(f"{layer!r} is no portable layer.")


def _layers(layers: tuple[portable.Layer, ...], prefix: str, arrays: Arrays, x: Array) -> Array:
    for index, layer in enumerate(layers):
        x = _layer(layer, f"{prefix}{index}", arrays, x)
    return x


def apply(network: portable.Network, arrays: Arrays, x: Array) -> Array:
    """The network's outputs for inputs x of shape (B, *network.input_shape)."""
    return _layers(network.layers, "", arrays, x)
