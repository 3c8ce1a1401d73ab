"""Loss and gradients of a portable network, as NumPy arrays: what agreement with other backends is measured on."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from gradreg_core.networks import Network
from gradreg_core.spec import Regularizer
from gradreg_torch import api
from gradreg_torch.networks import Module

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
    module = Module(network, params, getattr(torch, dtype)).eval()
    inputs = torch.tensor(np.asarray(x), dtype=getattr(torch, dtype), requires_grad=True)
    total, _ = api.loss(module, inputs, torch.as_tensor(np.asarray(y)), reg, step=step, batch_norm="allow")
    weights = {path: each for path, each in module.named_arrays().items() if path in network.weights()}
    found = torch.autograd.grad(total, [*weights.values(), inputs], allow_unused=True, materialize_grads=True)
    return total.item(), dict(zip([*weights, "x"], (each.double().numpy() for each in found), strict=True))
