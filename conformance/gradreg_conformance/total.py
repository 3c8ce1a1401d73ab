"""Loss plus penalty of a portable network, and its gradients, by any backend and as NumPy arrays."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np

from gradreg_conformance.harness import Arrays, Harness
from gradreg_core.portable.networks import Network
from gradreg_core.spec import Regularizer

__all__ = ["total_and_gradients"]


def total_and_gradients(
    harness: Harness,
    network: Network,
    params: Mapping[str, Any],
    x: Any,
    y: Any,
    reg: Regularizer,
    *,
    step: int = 0,
    dtype: str = "float64",
    mode: str = "",
) -> tuple[float, dict[str, np.ndarray]]:
    """The total loss, and its gradients by path and with respect to the input ("x"), in float64 arrays.

    Args:
        harness: of the backend.
        network: the description; dropout is off.
        params: weights and statistics by path.
        x: inputs, channels last.
        y: integer labels.
        reg: a regularizer.
        step: of the draws.
        dtype: that everything is computed in.
        mode: one of the harness's modes; empty for its first.
    """
    device = harness.devices[0]
    with getattr(harness, "session", nullcontext)():
        given = {path: harness.array(np.asarray(each), dtype, device) for path, each in [*params.items(), ("x", x)]}
        arrays = {path: given[path] for path in [*network.weights(), "x"]}
        labels = harness.array(np.asarray(y), "int64", device)

        def total(arrays: Arrays) -> Any:
            weights = {path: arrays[path] for path in network.weights()}
            options = {"step": step, "params": weights, "batch_norm": "allow"}
            model = lambda x: harness.apply(network, given | weights, x)  # noqa: E731 - statistics are constants
            return harness.calls.loss(model, arrays["x"], labels, reg, **options)[0]

        value, found = harness.value_and_gradients(total, arrays, mode or harness.modes[0])
        gradients = {name: np.asarray(harness.numpy(found[name]), np.float64) for name in arrays}
        return float(np.asarray(harness.numpy(value), np.float64)), gradients
