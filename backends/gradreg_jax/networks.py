"""Portable networks in JAX, in full precision on every device."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gradreg_core.portable import networks as portable
from gradreg_jax.convolution import conv_general_dilated

__all__ = ["apply"]

Array = jax.Array
Arrays = Mapping[str, Any]
Convolve = Callable[..., Array]

_HIGHEST = lax.Precision.HIGHEST
_ACTIVATIONS = {
    "relu": jax.nn.relu,
    "leaky_relu": lambda x: jnp.where(x > 0, x, portable.LEAKY_SLOPE * x),
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


def _matmul(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=_HIGHEST)


def _windows(x: Array, size: int) -> list[Array]:
    """The elements of each size x size window in row-major order, one array per position in the window."""
    batch, height, width, channels = x.shape
    rows, columns = height // size, width // size
    cut = x[:, : rows * size, : columns * size].reshape(batch, rows, size, columns, size, channels)
    return [cut[:, :, i, :, j] for i in range(size) for j in range(size)]


def _max_pool(x: Array, size: int) -> Array:
    """Maximum over windows; among equals the first has the whole derivative, and a NaN stays NaN."""
    best, *others = _windows(x, size)
    for other in others:
        best = jnp.where((best >= other) | (best != best), best, other)
    return best


def _standardize(x: Array, mean: Array, variance: Array, eps: float) -> Array:
    return (x - mean) * lax.rsqrt(variance + eps)


def _scaled(x: Array, weight: Arrays) -> Array:
    return x * weight["weight"] + weight["bias"]


def _moments(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    mean = x.mean(axes, keepdims=True)
    return mean, ((x - mean) ** 2).mean(axes, keepdims=True)


def _attention(layer: portable.Attention, weight: Arrays, x: Array) -> Array:
    batch, time, channels = x.shape
    heads, size = layer.heads, channels // layer.heads

    def split(name: str) -> Array:
        return _matmul(x, weight[name]).reshape(batch, time, heads, size).swapaxes(1, 2)

    scores = _matmul(split("query"), split("key").swapaxes(2, 3)) / math.sqrt(size)
    mixed = _matmul(jax.nn.softmax(scores), split("value"))
    return _matmul(mixed.swapaxes(1, 2).reshape(batch, time, channels), weight["out"])


def _dense(layer: portable.Dense, weight: Arrays, x: Array) -> Array:
    product = _matmul(x, weight["weight"])
    return product + weight["bias"] if layer.bias else product


def _convolution(convolve: Convolve, layer: portable.Conv2D, weight: Arrays, x: Array) -> Array:
    axes, padding = ("NHWC", "HWIO", "NHWC"), layer.padding.upper()
    product = convolve(x, weight["weight"], (1, 1), padding, dimension_numbers=axes, precision=_HIGHEST)
    return product + weight["bias"]


def _batch_norm(layer: portable.BatchNorm, weight: Arrays, x: Array) -> Array:
    mean, variance = _moments(x, tuple(range(x.ndim - 1))) if layer.training else (weight["mean"], weight["variance"])
    return _scaled(_standardize(x, mean, variance, layer.eps), weight)


def _layer_norm(layer: portable.LayerNorm, weight: Arrays, x: Array) -> Array:
    return _scaled(_standardize(x, *_moments(x, (-1,)), layer.eps), weight)


def _group_norm(layer: portable.GroupNorm, weight: Arrays, x: Array) -> Array:
    grouped = x.reshape(len(x), -1, layer.groups, x.shape[-1] // layer.groups)
    return _scaled(_standardize(grouped, *_moments(grouped, (1, 3)), layer.eps).reshape(x.shape), weight)


_RULES: portable.Rules = {
    portable.Dense: _dense,
    portable.MaxPool: lambda layer, weight, x: _max_pool(x, layer.size),
    portable.AvgPool: lambda layer, weight, x: sum(_windows(x, layer.size)) / layer.size**2,
    portable.Flatten: lambda layer, weight, x: x.reshape(x.shape[0], -1),
    portable.Activation: lambda layer, weight, x: _ACTIVATIONS[layer.kind](x),
    portable.BatchNorm: _batch_norm,
    portable.LayerNorm: _layer_norm,
    portable.GroupNorm: _group_norm,
    portable.Attention: _attention,
}


def apply(
    network: portable.Network,
    params: Arrays,
    x: Array,
    masks: Arrays | None = None,
    convolve: Convolve = conv_general_dilated,
) -> Array:
    """The network's outputs for x; see :func:`gradreg_core.portable.networks.interpret`.

    `convolve` is a function with the arguments of `jax.lax.conv_general_dilated`.
    """
    rules: portable.Rules = {**_RULES, portable.Conv2D: partial(_convolution, convolve)}
    outputs: Array = portable.interpret(rules, network, params, jnp.asarray(x), masks)
    return outputs
