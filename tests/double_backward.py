"""Values of PyTorch compared with those of double backward written by hand, gradients included."""

import torch
from torch import Tensor, nn

__all__ = ["equal_with_gradients"]

EXACT = 1e-12
"""Relative, of float64 sums of a few dozen to a few hundred products."""


def equal_with_gradients(ours: Tensor, wanted: Tensor, model: nn.Module, atol: float = 1e-15) -> None:
    """Equal values, and equal gradients of every parameter; `atol` is for gradients whose right value is 0."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    torch.testing.assert_close(ours, wanted, rtol=EXACT, atol=0)
    gradients = [
        torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
        for value in (ours, wanted)
    ]
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second, rtol=EXACT, atol=atol)
