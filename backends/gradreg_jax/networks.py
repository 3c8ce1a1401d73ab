"""Portable networks in JAX, in full precision on every device."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gradreg_core.portable import networks as portable
from gradreg_jax.layers import conv_general_dilated

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
    """The elements of each size x size window in row-major order, one array for each place in the window."""
    batch, height, width, channels = x.shape
    rows, columns = height // size, width // size
    cut = x[:, : rows * size, : columns * size].reshape(batch, rows, size, columns, size, channels)
    return [cut[:, :, i, :, j] for i in range(size) for j in range(size)]


def _max_pool(x: Array, size: int) -> Array:
    """Maximum over windows; among equals the first has the whole derivative, and a NaN stays one."""
    best, *others = _windows(x, size)
    for each in others:
        best = jnp.where((best >= each) | (best != best), best, each)
    return best


def _normalize(x: Array, mean: Array, variance: Array, weight: Arrays, eps: float) -> Array:
    return (x - mean) * lax.rsqrt(variance + eps) * weight["weight"] + weight["bias"]


def _moments(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    mean = x.mean(axes, keepdims=True)
    return mean, ((x - mean) ** 2).mean(axes, keepdims=True)


def _attention(x: Array, weight: Arrays, heads: int) -> Array:
    batch, time, channels = x.shape
    size = channels // heads

    def split(name: str) -> Array:
        return _matmul(x, weight[name]).reshape(batch, time, heads, size).swapaxes(1, 2)

    scores = _matmul(split("query"), split("key").swapaxes(2, 3)) / math.sqrt(size)
    mixed = _matmul(jax.nn.softmax(scores), split("value"))
    return _matmul(mixed.swapaxes(1, 2).reshape(batch, time, channels), weight["out"])


def _layer(layer: portable.Layer, path: str, params: Arrays, masks: Arrays, x: Array, convolve: Convolve) -> Array:
    weight = {name[len(path) + 1 :]: value for name, value in params.items() if name.startswith(f"{path}.")}
    match layer:
        case portable.Dense():
            x = _matmul(x, weight["weight"])
            return x + weight["bias"] if layer.bias else x
        case portable.Conv2D():
            axes = ("NHWC", "HWIO", "NHWC")
            padding = layer.padding.upper()
            x = convolve(x, weight["weight"], (1, 1), padding, dimension_numbers=axes, precision=_HIGHEST)
            return x + weight["bias"]
        case portable.MaxPool():
            return _max_pool(x, layer.size)
        case portable.AvgPool():
            return sum(_windows(x, layer.size)) / layer.size**2
        case portable.Flatten():
            return x.reshape(x.shape[0], -1)
        case portable.Activation():
            return _ACTIVATIONS[layer.kind](x)
        case portable.BatchNorm():
            moments = _moments(x, tuple(range(x.ndim - 1))) if layer.training else (weight["mean"], weight["variance"])
            return _normalize(x, *moments, weight, layer.eps)
        case portable.LayerNorm():
            return _normalize(x, *_moments(x, (-1,)), weight, layer.eps)
        case portable.GroupNorm():
            grouped = x.reshape(len(x), -1, layer.groups, x.shape[-1] // layer.groups)
            mean, variance = _moments(grouped, (1, 3))
            normed = ((grouped - mean) * lax.rsqrt(variance + layer.eps)).reshape(x.shape)
            return normed * weight["weight"] + weight["bias"]
        case portable.Dropout():
            return x * masks[path] if path in masks else x
        case portable.Attention():
            return _attention(x, weight, layer.heads)
        case portable.Residual():
            return x + _layers(layer.layers, f"{path}.", params, masks, x, convolve)
    raise TypeError(f"{layer!r} is no portable layer.")


def _layers(
    layers: tuple[portable.Layer, ...], prefix: str, params: Arrays, masks: Arrays, x: Array, convolve: Convolve
) -> Array:
    for index, layer in enumerate(layers):
        x = _layer(layer, f"{prefix}{index}", params, masks, x, convolve)
    return x


def apply(
    network: portable.Network,
    params: Arrays,
    x: Array,
    masks: Arrays | None = None,
    convolve: Convolve = conv_general_dilated,
) -> Array:
    """The network's outputs for inputs x of shape (B, *network.input_shape).

    Args:
        network: the description.
        params: weights and statistics by path.
        x: inputs, channels last.
        masks: dropout masks by path, (B, *sample); without them dropout is the identity.
        convolve: a function with the arguments of `jax.lax.conv_general_dilated`.
    """
    return _layers(network.layers, "", params, masks or {}, jnp.asarray(x), convolve)
