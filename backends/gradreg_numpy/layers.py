"""Every layer of a portable network: its value, and its Jacobian-vector product derived by hand.

`forward(layer, weights, x)` takes x of shape (B, *sample). `tangent(layer, weights, x, dx)` takes tangents dx of shape
(T, B, *sample), T directions at once, and gives those of the output: d forward(x + t dx_n) / dt at t = 0 for each n.
Both hold for complex x, dx and weights as well: they are holomorphic off the kinks, where the real part decides.
`weights` names the layer's own arrays ("weight", "bias", "mean", ...); `mask` is a dropout mask.
"""

import math
from collections.abc import Mapping
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

__all__ = ["forward", "tangent"]

Weights = Mapping[str, Array]

_GELU_TANH_SCALE = math.sqrt(2 / math.pi)
_GELU_TANH_CUBIC = 0.044715


@singledispatch
def forward(layer: Layer, weights: Weights, x: Array, mask: Array | None = None) -> Array:
    """The output for x of shape (B, *sample).

    Raises:
        UnsupportedError: a layer without a rule.
    """
    raise UnsupportedError(
        f"gradreg_numpy: no rule for the layer {layer!r}; use those of gradreg_core.portable.networks."
    )


@singledispatch
def tangent(layer: Layer, weights: Weights, x: Array, dx: Array, mask: Array | None = None) -> Array:
    """The output's tangents for tangents dx (T, B, *sample) at x (B, *sample).

    Raises:
        UnsupportedError: a layer without a rule.
    """
    raise UnsupportedError(
        f"gradreg_numpy: no rule for the layer {layer!r}; use those of gradreg_core.portable.networks."
    )


# --- linear maps ------------------------------------------------------------------------------------------------------
@forward.register
def _(layer: Dense, weights: Weights, x: Array, mask: Array | None = None) -> Array:
    product = x @ weights["weight"]
    return product + weights["bias"] if layer.bias else product


@tangent.register
def _(layer: Dense, weights: Weights, x: Array, dx: Array, mask: Array | None = None) -> Array:
    return dx @ weights["weight"]


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


@forward.register
def _(layer: Conv2D, weights: Weights, x: Array, mask: Array | None = None) -> Array:
    return _correlate(layer, weights["weight"], x) + weights["bias"]


@tangent.register
def _(layer: Conv2D, weights: Weights, x: Array, dx: Array, mask: Array | None = None) -> Array:
    return _correlate(layer, weights["weight"], dx)


@forward.register
def _(layer: Flatten, weights: Weights, x: Array, mask: Array | None = None) -> Array:
    return x.reshape(x.shape[0], -1)


@tangent.register
def _(layer: Flatten, weights: Weights, x: Array, dx: Array, mask: Array | None = None) -> Array:
    return dx.reshape(*dx.shape[:2], -1)


@forward.register
def _(layer: Dropout, weights: Weights, x: Array, mask: Array | None = None) -> Array:
    return x if mask is None else x * mask


@tangent.register
def _(layer: Dropout, weights: Weights, x: Array, dx: Array, mask: Array | None = None) -> Array:
    return dx if mask is None else dx * mask


# --- pooling ----------------------------------------------------------------------------------------------------------
def _windows(x: Array, size: int) -> Array:
    """(..., H, W, C) as (..., H // size, W // size, C, size^2): each window in row-major order, in the last axis."""
    height, width = x.shape[-3] // size, x.shape[-2] // size
    cut = x[..., : height * size, : width * size, :]
    split = cut.reshape(*x.shape[:-3], height, size, width, size, x.shape[-1])
    ordered = np.moveaxis(split, (-4, -2), (-2, -1))
    return ordered.reshape(*ordered.shape[:-2], size * size)


def _winners(x: Array, size: int) -> Array:
    """Index within each window of its first maximum, with a last axis of length 1."""
    return np.asarray(_windows(x, size).real.argmax(axis=-1)[..., None])


@forward.register
def _(layer: MaxPool, weights: Weights, x: Array, mask: Array | None = None) -> Array:
    return np.take_along_axis(_windows(x, layer.size), _winners(x, layer.size), axis=-1)[..., 0]


@tangent.register
def _(layer: MaxPool, weights: Weights, x: Array, dx: Array, mask: Array | None = None) -> Array:
    return np.take_along_axis(_windows(dx, layer.size), _winners(x, layer.size)[None], axis=-1)[..., 0]


@forward.register
def _(layer: AvgPool, weights: Weights, x: Array, mask: Array | None = None) -> Array:
    return np.asarray(_windows(x, layer.size).mean(axis=-1))


@tangent.register
def _(layer: AvgPool, weights: Weights, x: Array, dx: Array, mask: Array | None = None) -> Array:
    return np.asarray(_windows(dx, layer.size).mean(axis=-1))


# --- elementwise functions --------------------------------------------------------------------------------------------
def _slope(layer: Activation, x: Array) -> Array:
    """The factor of a piecewise linear function: 1 above 0, and at and below 0 what the function has there."""
    return np.where(np.real(x) > 0, 1.0, 0.0 if layer.kind == "relu" else LEAKY_SLOPE)


def _normal_cdf(x: Array) -> Array:
    return 0.5 * (1 + erf(x / math.sqrt(2)))


def _gelu_tanh_argument(x: Array) -> Array:
    return _GELU_TANH_SCALE * (x + _GELU_TANH_CUBIC * x * x * x)


@forward.register
def _(layer: Activation, weights: Weights, x: Array, mask: Array | None = None) -> Array:
    match layer.kind:
        case "relu" | "leaky_relu":
            return _slope(layer, x) * x
        case "tanh":
            return np.tanh(x)
        case "sigmoid":
            return sigmoid(x)
        case "softplus":
            return softplus(x)
        case "gelu":
            return x * _normal_cdf(x)
        case "gelu_tanh":
            return np.asarray(0.5 * x * (1 + np.tanh(_gelu_tanh_argument(x))))
    raise UnsupportedError(f"gradreg_numpy: no rule for the activation {layer.kind!r}.")


def _derivative(layer: Activation, x: Array) -> Array:
    match layer.kind:
        case "relu" | "leaky_relu":
            return _slope(layer, x)
        case "tanh":
            return 1 - np.tanh(x) ** 2
        case "sigmoid":
            return sigmoid(x) * sigmoid(-x)
        case "softplus":
            return sigmoid(x)
        case "gelu":
            density = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
            return _normal_cdf(x) + x * density
        case "gelu_tanh":
            t = np.tanh(_gelu_tanh_argument(x))
            inner = _GELU_TANH_SCALE * (1 + 3 * _GELU_TANH_CUBIC * x * x)
            return np.asarray(0.5 * (1 + t) + 0.5 * x * (1 - t * t) * inner)
    raise UnsupportedError(f"gradreg_numpy: no rule for the activation {layer.kind!r}.")


@tangent.register
def _(layer: Activation, weights: Weights, x: Array, dx: Array, mask: Array | None = None) -> Array:
    return _derivative(layer, x) * dx


# --- normalisation ----------------------------------------------------------------------------------------------------
def _axes(layer: LayerNorm, x: Array) -> tuple[int, ...]:
    """The axes that moments are taken over, from the end: the last, or all of x but the last (the batch's own, too)."""
    return tuple(range(-x.ndim, -1)) if isinstance(layer, BatchNorm) else (-1,)


def _mean(x: Array, axes: tuple[int, ...]) -> Array:
    return np.asarray(x.mean(axis=axes, keepdims=True))


def _frozen(layer: LayerNorm) -> bool:
    return isinstance(layer, BatchNorm) and not layer.training


@forward.register
def _(layer: LayerNorm, weights: Weights, x: Array, mask: Array | None = None) -> Array:
    axes = _axes(layer, x)
    mean = weights["mean"] if _frozen(layer) else _mean(x, axes)
    centred = x - mean
    variance = weights["variance"] if _frozen(layer) else _mean(centred * centred, axes)
    return centred / np.sqrt(variance + layer.eps) * weights["weight"] + weights["bias"]


def _d_standardized(x: Array, dx: Array, axes: tuple[int, ...], eps: float) -> Array:
    """The tangents of (x - mean) / sqrt(variance + eps), moments over `axes`."""
    centred, d_centred = x - _mean(x, axes), dx - _mean(dx, axes)
    deviation = np.sqrt(_mean(centred * centred, axes) + eps)
    d_deviation = _mean(centred * d_centred, axes) / deviation
    return np.asarray(d_centred / deviation - centred * d_deviation / deviation**2)


@tangent.register
def _(layer: LayerNorm, weights: Weights, x: Array, dx: Array, mask: Array | None = None) -> Array:
    if _frozen(layer):
        return dx / np.sqrt(weights["variance"] + layer.eps) * weights["weight"]
    return _d_standardized(x, dx, _axes(layer, x), layer.eps) * weights["weight"]


def _grouped(layer: GroupNorm, x: Array, batch: tuple[int, ...]) -> Array:
    """(*batch, *positions, channels) as (*batch, positions, groups, channels of a group)."""
    return x.reshape(*batch, -1, layer.groups, x.shape[-1] // layer.groups)


@forward.register
def _(layer: GroupNorm, weights: Weights, x: Array, mask: Array | None = None) -> Array:
    grouped = _grouped(layer, x, x.shape[:1])
    centred = grouped - _mean(grouped, (-3, -1))
    standardized = centred / np.sqrt(_mean(centred * centred, (-3, -1)) + layer.eps)
    return standardized.reshape(x.shape) * weights["weight"] + weights["bias"]


@tangent.register
def _(layer: GroupNorm, weights: Weights, x: Array, dx: Array, mask: Array | None = None) -> Array:
    grouped, d_grouped = _grouped(layer, x, x.shape[:1]), _grouped(layer, dx, dx.shape[:2])
    return _d_standardized(grouped, d_grouped, (-3, -1), layer.eps).reshape(dx.shape) * weights["weight"]


# --- attention --------------------------------------------------------------------------------------------------------
def _split_heads(x: Array, heads: int) -> Array:
    """(..., time, channels) as (..., heads, time, channels / heads)."""
    return np.moveaxis(x.reshape(*x.shape[:-1], heads, -1), -2, -3)


def _merge_heads(x: Array) -> Array:
    """The inverse of `_split_heads`."""
    moved = np.moveaxis(x, -3, -2)
    return moved.reshape(*moved.shape[:-2], -1)


def _projected(layer: Attention, weights: Weights, x: Array) -> tuple[Array, Array, Array]:
    """Queries divided by sqrt(channels / heads), keys transposed, and values, by head; linear in x."""
    query, key, value = (_split_heads(x @ weights[name], layer.heads) for name in ("query", "key", "value"))
    return query / math.sqrt(query.shape[-1]), np.swapaxes(key, -1, -2), value


@forward.register
def _(layer: Attention, weights: Weights, x: Array, mask: Array | None = None) -> Array:
    query, key, value = _projected(layer, weights, x)
    return _merge_heads(softmax(query @ key) @ value) @ weights["out"]


@tangent.register
def _(layer: Attention, weights: Weights, x: Array, dx: Array, mask: Array | None = None) -> Array:
    query, key, value = _projected(layer, weights, x)
    d_query, d_key, d_value = _projected(layer, weights, dx)
    attention = softmax(query @ key)
    d_scores = d_query @ key + query @ d_key
    d_attention = attention * (d_scores - (attention * d_scores).sum(axis=-1, keepdims=True))
    return _merge_heads(d_attention @ value + attention @ d_value) @ weights["out"]
