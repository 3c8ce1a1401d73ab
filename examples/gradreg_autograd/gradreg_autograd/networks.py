"""Portable networks in autograd."""

import math
from collections.abc import Mapping
from typing import Any

import autograd.numpy as anp
from autograd.scipy.special import erf, expit

from gradreg_autograd.backend import AutogradBackend
from gradreg_core.portable import networks as portable

__all__ = ["RULES", "apply"]

Array = Any
Arrays = Mapping[str, Array]

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
    """The sum over the kernel's positions of the shifted image times the weights there."""
    size = kernel.shape[0]
    if padding == "same":
        before = size // 2
        x = anp.pad(x, ((0, 0), (before, before), (before, before), (0, 0)), "constant")
    height, width = x.shape[1] - size + 1, x.shape[2] - size + 1
    places = [(i, j) for i in range(size) for j in range(size)]
    return sum(anp.matmul(x[:, i : i + height, j : j + width], kernel[i, j]) for i, j in places)


def _windows(x: Array, size: int) -> list[Array]:
    """The elements of each size x size window in row-major order, one array per position in the window."""
    batch, height, width, channels = x.shape
    rows, columns = height // size, width // size
    cut = anp.reshape(x[:, : rows * size, : columns * size], (batch, rows, size, columns, size, channels))
    return [cut[:, :, i, :, j] for i in range(size) for j in range(size)]


def _max_pool(x: Array, size: int) -> Array:
    """Maximum over windows; among equals, the first has the whole derivative."""
    best, *others = _windows(x, size)
    for other in others:
        best = anp.where(best >= other, best, other)
    return best


def _moments(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    mean = anp.mean(x, axis=axes, keepdims=True)
    return mean, anp.mean((x - mean) * (x - mean), axis=axes, keepdims=True)


def _standardize(x: Array, mean: Array, variance: Array, eps: float) -> Array:
    return (x - mean) / anp.sqrt(variance + eps)


def _scaled(x: Array, weight: Arrays) -> Array:
    return x * weight["weight"] + weight["bias"]


def _attention(layer: portable.Attention, weight: Arrays, x: Array) -> Array:
    batch, time, channels = x.shape
    heads, size = layer.heads, channels // layer.heads

    def split(name: str) -> Array:
        return anp.swapaxes(anp.reshape(anp.matmul(x, weight[name]), (batch, time, heads, size)), 1, 2)

    scores = anp.matmul(split("query"), anp.swapaxes(split("key"), 2, 3)) / math.sqrt(size)
    mixed = anp.swapaxes(anp.matmul(_softmax(scores), split("value")), 1, 2)
    return anp.matmul(anp.reshape(mixed, (batch, time, channels)), weight["out"])


def _dense(layer: portable.Dense, weight: Arrays, x: Array) -> Array:
    product = anp.matmul(x, weight["weight"])
    return product + weight["bias"] if layer.bias else product


def _batch_norm(layer: portable.BatchNorm, weight: Arrays, x: Array) -> Array:
    axes = tuple(range(x.ndim - 1))
    moments = _moments(x, axes) if layer.training else (weight["mean"], weight["variance"])
    return _scaled(_standardize(x, *moments, layer.eps), weight)


def _layer_norm(layer: portable.LayerNorm, weight: Arrays, x: Array) -> Array:
    return _scaled(_standardize(x, *_moments(x, (-1,)), layer.eps), weight)


def _group_norm(layer: portable.GroupNorm, weight: Arrays, x: Array) -> Array:
    grouped = anp.reshape(x, (x.shape[0], -1, layer.groups, x.shape[-1] // layer.groups))
    standardized = _standardize(grouped, *_moments(grouped, (1, 3)), layer.eps)
    return _scaled(anp.reshape(standardized, x.shape), weight)


RULES: portable.Rules = {
    portable.Dense: _dense,
    portable.Conv2D: lambda layer, weight, x: _conv(x, weight["weight"], layer.padding) + weight["bias"],
    portable.MaxPool: lambda layer, weight, x: _max_pool(x, layer.size),
    portable.AvgPool: lambda layer, weight, x: sum(_windows(x, layer.size)) / layer.size**2,
    portable.Flatten: lambda layer, weight, x: anp.reshape(x, (x.shape[0], -1)),
    portable.Activation: lambda layer, weight, x: _ACTIVATIONS[layer.kind](x),
    portable.BatchNorm: _batch_norm,
    portable.LayerNorm: _layer_norm,
    portable.GroupNorm: _group_norm,
    portable.Attention: _attention,
}


def apply(network: portable.Network, arrays: Arrays, x: Array) -> Array:
    """The network's outputs for inputs x of shape (B, *network.input_shape)."""
    return portable.interpret(RULES, network, arrays, x)
