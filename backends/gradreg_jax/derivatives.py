"""Loss and gradients of a portable network, as NumPy arrays: what agreement with other backends is measured on."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradreg_core.networks import Network
from gradreg_core.spec import Regularizer
from gradreg_jax import api
from gradreg_jax.networks import apply

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
    with jax.enable_x64(dtype == "float64"):
        arrays = {path: jnp.asarray(value, dtype) for path, value in params.items()}
        weights = {path: arrays[path] for path in network.weights()}
        labels = jnp.asarray(np.asarray(y))

        def total(weights: Any, x: Any) -> Any:
            model = lambda x: apply(network, arrays | weights, x)  # noqa: E731
            return api.loss(model, x, labels, reg, step=step, params=weights, batch_norm="allow")[0]

        inputs = jnp.asarray(np.asarray(x), dtype)
        value, (found, by_input) = jax.jit(jax.value_and_grad(total, (0, 1)))(weights, inputs)
        gradients = {path: np.asarray(each, np.float64) for path, each in (found | {"x": by_input}).items()}
        return float(value), gradients
