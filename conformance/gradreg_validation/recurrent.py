"""Recurrent layers in NumPy: LSTM, GRU and the plain one, with kernels (gates * units, inputs)."""

from dataclasses import replace

import numpy as np

from gradreg_validation.forms import FORMS
from gradreg_validation.layer import Layer

__all__ = ["run"]


_BACKWARD = "backward "


def run(layer: Layer, x: np.ndarray) -> np.ndarray:
    """The states (B, T, units) of a batch (B, T, inputs), or the last alone; those of both directions joined."""
    options, params = layer.options, layer.params
    other = {name.removeprefix(_BACKWARD): array for name, array in params.items() if name.startswith(_BACKWARD)}
    if other:
        own = {name: array for name, array in params.items() if not name.startswith(_BACKWARD)}
        forward = run(replace(layer, params=own), x)
        realigned = options.get("realigned", True)
        backward = run(replace(layer, params=other, options={**options, "reverse": True, "realigned": realigned}), x)
        joined = options.get("joined", "forward, backward")
        if joined in ("sum", "mean", "product"):
            return {"sum": forward + backward, "mean": (forward + backward) / 2, "product": forward * backward}[joined]
        both = (forward, backward) if joined == "forward, backward" else (backward, forward)
        return np.concatenate(both, -1)
    if options.get("time_first"):
        x = np.moveaxis(x, 0, 1)
    kernel, inner = params["kernel"], params["recurrent"]
    units = inner.shape[1]
    bias = params.get("bias", np.zeros(len(kernel)))
    inner_bias = params.get("recurrent_bias", np.zeros(len(inner)))
    h, c, states = np.zeros((len(x), units)), np.zeros((len(x), units)), []
    sigmoid, tanh = FORMS[options.get("gate", "sigmoid")], FORMS[options.get("activation", "tanh")]
    for t in reversed(range(x.shape[1])) if options.get("reverse") else range(x.shape[1]):
        left = x[:, t] @ kernel.T + bias
        if layer.kind == "lstm":
            parts = dict(zip(options["order"], np.split(left + h @ inner.T + inner_bias, 4, 1), strict=True))
            forget = sigmoid(parts["f"] + options.get("forget_bias", 0.0))
            c = forget * c + sigmoid(parts["i"]) * tanh(parts["g"])
            h = sigmoid(parts["o"]) * tanh(c)
        elif layer.kind == "gru":
            h = _gru(layer, left, h, inner, inner_bias)
        else:
            h = tanh(left + h @ inner.T + inner_bias)
        states.append(h)
    if options.get("last"):
        return states[-1]
    if options.get("reverse") and options.get("realigned", True):
        states = states[::-1]
    return np.stack(states, 0 if options.get("time_first") else 1)


def _gru(layer: Layer, left: np.ndarray, h: np.ndarray, inner: np.ndarray, inner_bias: np.ndarray) -> np.ndarray:
    options, order = layer.options, layer.options["order"]
    sigmoid, tanh = FORMS[options.get("gate", "sigmoid")], FORMS[options.get("activation", "tanh")]
    given = dict(zip(order, np.split(left, 3, 1), strict=True))
    weights = dict(zip(order, np.split(inner, 3, 0), strict=True))
    biases = dict(zip(order, np.split(inner_bias, 3), strict=True))
    reset = sigmoid(given["r"] + h @ weights["r"].T + biases["r"])
    update = sigmoid(given["z"] + h @ weights["z"].T + biases["z"])
    if options.get("reset_after", True):
        candidate = tanh(given["n"] + reset * (h @ weights["n"].T + biases["n"]))
    else:
        candidate = tanh(given["n"] + (reset * h) @ weights["n"].T + biases["n"])
    return (
        update * h + (1 - update) * candidate if not options.get("swapped") else (1 - update) * h + update * candidate
    )
