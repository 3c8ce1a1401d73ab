"""Every layer of a portable network: its value, and its Jacobian-vector product derived by hand.

`linearize(layer, weights, x)` gives the layer's output for x of shape (B, *sample), and its tangent map. The map takes
tangents dx of shape (T, B, *sample), T directions at once, to tangents of the output: d layer(x + t dx_n) / dt at t = 0
for each n. Both also hold for complex x, dx and weights: they are holomorphic off the kinks, where the real part
decides. `weights` holds the layer's own arrays by name ("weight", "bias", "mean", ...), and "mask" for a dropout mask.
"""

import math
from collections.abc import Callable, Mapping
from functools import singledispatch

import numpy as np

from gradreg_core.errors import UnsupportedError
from gradreg_core.portable.networks import (
    LEAKY_SLOPE,
    Activation,
    Attention,
    AvgPool,
    BatchNorm,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GroupNorm,
    Layer,
    LayerNorm,
    MaxPool,
)
from gradreg_numpy.functions import Array, erf, sigmoid, softmax, softplus

__all__ = ["ACTIVATIONS", "Linearized", "linearize"]

Weights = Mapping[str, Array]
Linearized = tuple[Array, Callable[[Array], Array]]
"""A value, and its tangents as a function of the input's tangents."""


@singledispatch
def linearize(layer: Layer, weights: Weights, x: Array) -> Linearized:
    """The output for x of shape (B, *sample), and the tangent map (T, B, *sample) -> (T, B, *output).

    Raises:
        UnsupportedError: the layer has no rule.
    """
    raise UnsupportedError(f"gradreg_numpy: no rule for {layer!r}; use the layers of gradreg_core.portable.networks.")


# --- linear maps ------------------------------------------------------------------------------------------------------
@linearize.register
def _(layer: Dense, weights: Weights, x: Array) -> Linearized:
    product = x @ weights["weight"]
    return product + weights["bias"] if layer.bias else product, lambda dx: dx @ weights["weight"]


def _correlate(layer: Conv2D, kernel: Array, x: Array) -> Array:
    """Sum over offsets (a, b) of x[..., i + a, j + b, :] @ kernel[a, b]; zeros outside for "same"."""
    if layer.padding == "same":
        border = (layer.kernel // 2, layer.kernel // 2)
        x = np.pad(x, [(0, 0)] * (x.ndim - 3) + [border, border, (0, 0)])
    height, width = (size - layer.kernel + 1 for size in x.shape[-3:-1])
    return sum(
        (
            x[..., a : a + height, b : b + width, :] @ kernel[a, b]
            for a in range(layer.kernel)
            for b in range(layer.kernel)
        ),
        start=np.zeros(()),
    )


@linearize.register
def _(layer: Conv2D, weights: Weights, x: Array) -> Linearized:
    kernel = weights["weight"]
    return _correlate(layer, kernel, x) + weights["bias"], lambda dx: _correlate(layer, kernel, dx)


@linearize.register
def _(layer: Flatten, weights: Weights, x: Array) -> Linearized:
    return x.reshape(len(x), -1), lambda dx: dx.reshape(*dx.shape[:2], -1)


@linearize.register
def _(layer: Dropout, weights: Weights, x: Array) -> Linearized:
    mask = weights.get("mask")
    return (x, lambda dx: dx) if mask is None else (x * mask, lambda dx: dx * mask)


# --- pooling ----------------------------------------------------------------------------------------------------------
def _windows(x: Array, size: int) -> Array:
    """(..., H, W, C) as (..., H // size, W // size, C, size^2): each window in row-major order, in the last axis."""
    height, width = x.shape[-3] // size, x.shape[-2] // size
    cut = x[..., : height * size, : width * size, :]
    split = cut.reshape(*x.shape[:-3], height, size, width, size, x.shape[-1])
    ordered = np.moveaxis(split, (-4, -2), (-2, -1))
    return ordered.reshape(*ordered.shape[:-2], size * size)


@linearize.register
def _(layer: MaxPool, weights: Weights, x: Array) -> Linearized:
    windows = _windows(x, layer.size)
    first = windows.real.argmax(axis=-1)[..., None]
    return (
        np.take_along_axis(windows, first, axis=-1)[..., 0],
        lambda dx: np.take_along_axis(_windows(dx, layer.size), first[None], axis=-1)[..., 0],
    )


@linearize.register
def _(layer: AvgPool, weights: Weights, x: Array) -> Linearized:
    def mean(values: Array) -> Array:
        return np.asarray(_windows(values, layer.size).mean(axis=-1))

    return mean(x), mean


# --- elementwise functions --------------------------------------------------------------------------------------------
_GELU_TANH_SCALE = math.sqrt(2 / math.pi)
_GELU_TANH_CUBIC = 0.044715


def _rectifier_slope(x: Array, slope: float) -> Array:
    """1 above 0, and `slope` at and below 0."""
    return np.where(np.real(x) > 0, 1.0, slope)


def _normal_cdf(x: Array) -> Array:
    return 0.5 * (1 + erf(x / math.sqrt(2)))


def _gelu_derivative(x: Array) -> Array:
    density = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return _normal_cdf(x) + x * density


def _gelu_tanh_inner(x: Array) -> Array:
    return np.asarray(np.tanh(_GELU_TANH_SCALE * (x + _GELU_TANH_CUBIC * x * x * x)))


def _gelu_tanh_derivative(x: Array) -> Array:
    t = _gelu_tanh_inner(x)
    inner = _GELU_TANH_SCALE * (1 + 3 * _GELU_TANH_CUBIC * x * x)
    return np.asarray(0.5 * (1 + t) + 0.5 * x * (1 - t * t) * inner)


ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "relu": (lambda x: _rectifier_slope(x, 0.0) * x, lambda x: _rectifier_slope(x, 0.0)),
    "leaky_relu": (lambda x: _rectifier_slope(x, LEAKY_SLOPE) * x, lambda x: _rectifier_slope(x, LEAKY_SLOPE)),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "sigmoid": (sigmoid, lambda x: sigmoid(x) * sigmoid(-x)),
    "softplus": (softplus, sigmoid),
    "gelu": (lambda x: x * _normal_cdf(x), _gelu_derivative),
    "gelu_tanh": (lambda x: 0.5 * x * (1 + _gelu_tanh_inner(x)), _gelu_tanh_derivative),
}
"""The value and the derivative of each activation."""


@linearize.register
def _(layer: Activation, weights: Weights, x: Array) -> Linearized:
    value, derivative = ACTIVATIONS[layer.kind]
    return value(x), lambda dx: derivative(x) * dx


# --- normalisation ----------------------------------------------------------------------------------------------------
def _mean(x: Array, axes: tuple[int, ...]) -> Array:
    return np.asarray(x.mean(axis=axes, keepdims=True))


def _standardized(x: Array, axes: tuple[int, ...], eps: float) -> Linearized:
    """(x - mean) / sqrt(variance + eps), with moments over `axes`, which count from the end."""
    centred = x - _mean(x, axes)
    deviation = np.sqrt(_mean(centred * centred, axes) + eps)

    def tangent(dx: Array) -> Array:
        d_centred = dx - _mean(dx, axes)
        d_deviation = _mean(centred * d_centred, axes) / deviation
        return np.asarray(d_centred / deviation - centred * d_deviation / deviation**2)

    return centred / deviation, tangent


def _scaled(weights: Weights, standardized: Linearized) -> Linearized:
    """The standardized values times weight plus bias."""
    value, tangent = standardized
    return value * weights["weight"] + weights["bias"], lambda dx: tangent(dx) * weights["weight"]


@linearize.register
def _(layer: LayerNorm, weights: Weights, x: Array) -> Linearized:
    return _scaled(weights, _standardized(x, (-1,), layer.eps))


@linearize.register
def _(layer: BatchNorm, weights: Weights, x: Array) -> Linearized:
    if layer.training:
        return _scaled(weights, _standardized(x, tuple(range(-x.ndim, -1)), layer.eps))
    deviation = np.sqrt(weights["variance"] + layer.eps)
    return _scaled(weights, ((x - weights["mean"]) / deviation, lambda dx: dx / deviation))


@linearize.register
def _(layer: GroupNorm, weights: Weights, x: Array) -> Linearized:
    def grouped(values: Array, batch: tuple[int, ...]) -> Array:
        """(*batch, *positions, channels) as (*batch, positions, groups, channels of a group)."""
        return values.reshape(*batch, -1, layer.groups, x.shape[-1] // layer.groups)

    value, tangent = _standardized(grouped(x, x.shape[:1]), (-3, -1), layer.eps)
    return _scaled(weights, (value.reshape(x.shape), lambda dx: tangent(grouped(dx, dx.shape[:2])).reshape(dx.shape)))


# --- attention --------------------------------------------------------------------------------------------------------
def _split_heads(x: Array, heads: int) -> Array:
    """(..., time, channels) as (..., heads, time, channels / heads)."""
    return np.moveaxis(x.reshape(*x.shape[:-1], heads, -1), -2, -3)


def _merge_heads(x: Array) -> Array:
    """The inverse of `_split_heads`."""
    moved = np.moveaxis(x, -3, -2)
    return moved.reshape(*moved.shape[:-2], -1)


@linearize.register
def _(layer: Attention, weights: Weights, x: Array) -> Linearized:
    def projected(x: Array) -> tuple[Array, Array, Array]:
        """Queries divided by sqrt(channels / heads), keys transposed, and values, by head; linear in x."""
        query, key, value = (_split_heads(x @ weights[name], layer.heads) for name in ("query", "key", "value"))
        return query / math.sqrt(query.shape[-1]), np.swapaxes(key, -1, -2), value

    query, key, value = projected(x)
    attention = softmax(query @ key)

    def tangent(dx: Array) -> Array:
        d_query, d_key, d_value = projected(dx)
        d_scores = d_query @ key + query @ d_key
        d_attention = attention * (d_scores - (attention * d_scores).sum(axis=-1, keepdims=True))
        return _merge_heads(d_attention @ value + attention @ d_value) @ weights["out"]

    return _merge_heads(attention @ value) @ weights["out"], tangent
