"""Layers computed in NumPy in float64 from a description, so that a suspected mistake can be tried on recorded arrays.

Arrays are channels-first here. A dense kernel is (out, in), a convolution's (out, in / groups, *window), a transposed
convolution's (in, out / groups, *window). Nothing is taken from a framework: the layer's own result is the check.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from gradreg_validation.forms import FORMS
from gradreg_validation.heads import attend
from gradreg_validation.layer import Layer
from gradreg_validation.recurrent import run

__all__ = ["emulate", "pads_of"]


def emulate(layer: Layer, x: np.ndarray) -> np.ndarray | None:
    """The layer's output on x, in the layer's own layout; None where the description does not fit the input."""
    x = np.asarray(x, np.float64 if x.dtype.kind == "f" else x.dtype)
    try:
        moved = np.moveaxis(x, -1, 1) if layer.channels_last and x.ndim > 2 else x
        with np.errstate(all="ignore"):
            y = _KINDS[layer.kind](layer, moved)
            if layer.activation is not None:
                y = FORMS[layer.activation](y)
        return np.moveaxis(y, 1, -1) if layer.channels_last and y.ndim > 2 else y
    except (KeyError, ValueError, IndexError, TypeError, ZeroDivisionError):
        return None


def _dense(layer: Layer, x: np.ndarray) -> np.ndarray:
    y = x @ layer.params["kernel"].T
    return y + layer.params["bias"] if "bias" in layer.params else y


def _channel(array: np.ndarray, ndim: int) -> np.ndarray:
    return array.reshape(-1, *([1] * (ndim - 2)))


def pads_of(options: dict[str, Any], sizes: tuple[int, ...], window: tuple[int, ...]) -> list[tuple[int, int]]:
    """The zeros before and after each axis: "same" puts the odd one at the end, "valid" has none.

    With the option "ceil" there are as many after it as the last window needs, which has to begin within the input.
    """
    padding, strides, dilation = options["padding"], options["strides"], options["dilation"]
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, window, strict=True)]
    if padding == "same":
        totals = [
            max((math.ceil(n / s) - 1) * s + span - n, 0) for n, s, span in zip(sizes, strides, spans, strict=True)
        ]
        return [(total // 2, total - total // 2) for total in totals]
    if padding == "same-low":
        totals = [
            max((math.ceil(n / s) - 1) * s + span - n, 0) for n, s, span in zip(sizes, strides, spans, strict=True)
        ]
        return [(total - total // 2, total // 2) for total in totals]
    if padding == "causal":
        return [(span - 1, 0) for span in spans]
    if padding == "valid":
        return [(0, 0)] * len(window)
    pads: list[tuple[int, int]] = [tuple(pair) for pair in padding]
    if options.get("ceil"):
        for axis, ((before, after), n, s, span) in enumerate(zip(pads, sizes, strides, spans, strict=True)):
            extra = -(n + before + after - span) % s
            if extra and n + before + after + extra - span < n + before:
                pads[axis] = (before, after + extra)
    return pads


def _windows(x: np.ndarray, window: tuple[int, ...], options: dict[str, Any], fill: float) -> np.ndarray:
    """(B, C, *out, *window)."""
    pads = pads_of(options, x.shape[2:], window)
    mode = options.get("padding_mode", "zeros")
    width = [(0, 0), (0, 0), *pads]
    if mode == "zeros":
        x = np.pad(x, width, constant_values=fill)
    else:
        modes: dict[str, Any] = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
        x = np.pad(x, width, mode=modes[mode])
    spans = tuple(d * (k - 1) + 1 for d, k in zip(options["dilation"], window, strict=True))
    axes = tuple(range(2, x.ndim))
    view = np.lib.stride_tricks.sliding_window_view(x, spans, axes)
    steps = tuple(slice(None, None, s) for s in options["strides"])
    inner = tuple(slice(None, None, d) for d in options["dilation"])
    return view[(slice(None), slice(None), *steps, *inner)]


def _conv(layer: Layer, x: np.ndarray) -> np.ndarray:
    kernel, groups = layer.params["kernel"], layer.options.get("groups", 1)
    window = kernel.shape[2:]
    view = _windows(x, window, layer.options, 0.0)
    n = len(window)
    parts = []
    for part, weights in zip(np.split(view, groups, 1), np.split(kernel, groups, 0), strict=True):
        axes = ([1, *range(2 + n, 2 + 2 * n)], [1, *range(2, 2 + n)])
        parts.append(np.moveaxis(np.tensordot(part, weights, axes), -1, 1))
    y = np.concatenate(parts, 1)
    return y + _channel(layer.params["bias"], y.ndim) if "bias" in layer.params else y


def _conv_transpose(layer: Layer, x: np.ndarray) -> np.ndarray:
    kernel, strides, options = layer.params["kernel"], layer.options["strides"], layer.options
    window, n = kernel.shape[2:], kernel.ndim - 2
    dilation, groups = options.get("dilation", (1,) * n), options.get("groups", 1)
    full = [(m - 1) * s + d * (k - 1) + 1 for m, s, d, k in zip(x.shape[2:], strides, dilation, window, strict=True)]
    out = kernel.shape[1] * groups
    y = np.zeros((len(x), out, *(size + 16 for size in full)))
    for place in itertools.product(*map(range, window)):
        index: Any = (..., *place)
        parts = [
            np.moveaxis(np.tensordot(part, weights[index], ([1], [0])), -1, 1)
            for part, weights in zip(np.split(x, groups, 1), np.split(kernel, groups, 0), strict=True)
        ]
        where = tuple(
            slice(p * d, p * d + m * s, s) for p, d, m, s in zip(place, dilation, x.shape[2:], strides, strict=True)
        )
        y[(slice(None), slice(None), *where)] += np.concatenate(parts, 1)
    crops = options["crops"]  # (before, size) by axis
    if crops == "same":
        crops = [(max(size - m * s, 0) // 2, m * s) for size, m, s in zip(full, x.shape[2:], strides, strict=True)]
    elif crops == "same-low":
        crops = [
            (max(size - m * s, 0) - max(size - m * s, 0) // 2, m * s)
            for size, m, s in zip(full, x.shape[2:], strides, strict=True)
        ]
    elif crops == "valid":
        crops = [(0, max(size, m * s)) for size, m, s in zip(full, x.shape[2:], strides, strict=True)]
    elif isinstance(crops[0][1], str):  # (padding, "torch", output padding)
        crops = [(p, size - 2 * p + extra) for (p, _, extra), size in zip(crops, full, strict=True)]
    y = y[(slice(None), slice(None), *(slice(before, before + size) for before, size in crops))]
    return y + _channel(layer.params["bias"], y.ndim) if "bias" in layer.params else y


def _normalised(x: np.ndarray, axes: tuple[int, ...], layer: Layer) -> np.ndarray:
    options = layer.options
    mean = 0.0 if options.get("centre") is False else x.mean(axes, keepdims=True)
    size = math.prod(x.shape[axis] for axis in axes)
    variance = ((x - mean) ** 2).sum(axes, keepdims=True) / (size - options.get("ddof", 0))
    if options.get("eps_outside"):
        return (x - mean) / (np.sqrt(variance) + options["eps"])
    return (x - mean) / np.sqrt(variance + options["eps"])


def _scaled(y: np.ndarray, layer: Layer, shape: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    if "scale" in layer.params:
        y = y * (shape(layer.params["scale"]) + layer.options.get("scale_offset", 0.0))
    return y + shape(layer.params["bias"]) if "bias" in layer.params else y


def _layer_norm(layer: Layer, x: np.ndarray) -> np.ndarray:
    if layer.options.get("axes") == "channels":
        return _scaled(_normalised(x, (1,), layer), layer, lambda array: _channel(array, x.ndim))
    count = layer.options.get("count", 1)
    return _scaled(_normalised(x, tuple(range(-count, 0)), layer), layer, lambda array: array)


def _batch_norm(layer: Layer, x: np.ndarray) -> np.ndarray:
    def shape(array: np.ndarray) -> np.ndarray:
        return _channel(array, x.ndim)

    if layer.options["training"]:
        axes = tuple(axis for axis in range(x.ndim) if axis != 1)
        return _scaled(_normalised(x, axes, layer), layer, shape)
    spread = np.sqrt(shape(layer.params["variance"]) + layer.options["eps"])
    return _scaled((x - shape(layer.params["mean"])) / spread, layer, shape)


def _group_norm(layer: Layer, x: np.ndarray) -> np.ndarray:
    groups, batch, channels = layer.options["groups"], len(x), x.shape[1]
    if layer.options.get("interleaved"):
        order = np.arange(channels).reshape(-1, groups).T.ravel()
        inner = replace(layer, params={}, options={**layer.options, "interleaved": False})
        y = np.empty_like(x)
        y[:, order] = _group_norm(inner, x[:, order])
    else:
        split = x.reshape(batch, groups, channels // groups, *x.shape[2:])
        y = _normalised(split, tuple(range(2, split.ndim)), layer).reshape(x.shape)
    return _scaled(y, layer, lambda array: _channel(array, x.ndim))


def _embedding(layer: Layer, x: np.ndarray) -> np.ndarray:
    table = layer.params["kernel"]
    y = np.take(table, np.clip(x + layer.options.get("shift", 0), 0, len(table) - 1), 0) * layer.options.get(
        "scale", 1.0
    )
    padding = layer.options.get("padding_index")
    return y if padding is None else np.where((x == padding)[..., None], 0.0, y)


def _pool(layer: Layer, x: np.ndarray) -> np.ndarray:
    window, maximum = layer.options["window"], layer.options["maximum"]
    axes = tuple(range(-len(window), 0))
    view = _windows(x, window, layer.options, -np.inf if maximum else 0.0)
    if maximum:
        return view.max(axes)
    total = view.sum(axes)
    if layer.options.get("counts_padding"):
        return total / math.prod(window)
    return total / _windows(np.ones_like(x), window, layer.options, 0.0).sum(axes)


def _prelu(layer: Layer, x: np.ndarray) -> np.ndarray:
    slope = layer.params["slope"]
    if slope.ndim > 1:
        slope = np.moveaxis(slope, -1, 0) if layer.channels_last else slope
    elif slope.size > 1:
        slope = _channel(slope, x.ndim)
    return np.where(x > 0, x, slope * x)


_KINDS: dict[str, Callable[[Layer, np.ndarray], np.ndarray]] = {
    "attention": attend,
    "dense": _dense,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "layer_norm": _layer_norm,
    "batch_norm": _batch_norm,
    "group_norm": _group_norm,
    "embedding": _embedding,
    "pool": _pool,
    "prelu": _prelu,
    "lstm": run,
    "gru": run,
    "rnn": run,
}
