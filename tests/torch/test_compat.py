"""The drop-in for facebookresearch/jacobian_regularizer."""

import numpy as np
import pytest
import torch

from gradreg_core.errors import InputError
from gradreg_torch.compat import JacobianReg
from torch_cases import batch, gradients, make


def reference_jacobian_regularizer(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The published algorithm for n = -1: one backward pass per output, 1/2 * sum of squares / B."""
    total = torch.zeros((), dtype=y.dtype)
    for k in range(y.shape[1]):
        v = torch.zeros_like(y)
        v[:, k] = 1
        (row,) = torch.autograd.grad(y, x, v, retain_graph=True, create_graph=True)
        total = total + y.shape[1] * row.norm() ** 2 / (y.shape[1] * y.shape[0])
    return 0.5 * total


def test_the_drop_in_equals_the_original_package() -> None:
    model, (x, _) = make(), batch()
    x.requires_grad_()
    value, wanted = JacobianReg(n=-1)(x, model(x)), reference_jacobian_regularizer(x, model(x))
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(gradients(value, model), gradients(wanted, model))
    y = model(x)
    for n in (1, 2):
        estimate = JacobianReg(n)
        draws = np.array([estimate(x, y).item() for _ in range(300)])
        assert abs(draws.mean() - wanted.item()) < 5 * draws.std() / np.sqrt(300)  # five standard errors
        assert draws.std() > 0
        assert estimate.state_dict() == {}
    with pytest.raises(InputError, match=r"x must require a gradient; call x\.requires_grad_"):
        JacobianReg()(x.detach(), y)
    with pytest.raises(InputError, match="x does not reach the outputs"):
        JacobianReg()(x, model(x.detach().clone()))
