"""Loss and gradients of a portable network, as NumPy arrays: what agreement with other backends is measured on."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from gradreg_core.networks import Network
from gradreg_core.spec import Regularizer
from gradreg_tensorflow import api
from gradreg_tensorflow.networks import apply

__all__ = ["total_and_gradients"]


def total_and_gradients(
    network: Network,
    params: Mapping[str, Any],
    x: Any,
    y: Any,
    reg: Regularizer,
    *,
    step: int = 0,
    dtype: str = "float64",
) -> tuple[float, dict[str, np.ndarray]]:
    """The total loss, and its gradients by path and with respect to the input ("x"), in float64 arrays.

    Args:
        network: the description; dropout is off.
        params: weights and statistics by path.
        x: inputs, channels last.
        y: integer labels.
        reg: a regularizer.
        step: of the draws.
        dtype: that everything is computed in.
    """
    arrays = {path: tf.constant(np.asarray(value), tf.as_dtype(dtype)) for path, value in params.items()}
    weights = {path: arrays[path] for path in network.weights()}
    inputs, labels = tf.constant(np.asarray(x), tf.as_dtype(dtype)), tf.constant(np.asarray(y))
    sources = [*weights.values(), inputs]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(sources)
        model = lambda x: apply(network, arrays, x)  # noqa: E731
        total, _ = api.loss(model, inputs, labels, reg, step=step, params=weights, batch_norm="allow")
    found = tape.gradient(total, sources, unconnected_gradients="zero")
    return float(total), dict(zip([*weights, "x"], (each.numpy().astype(np.float64) for each in found), strict=True))
