"""Drop-in replacements for regularizers of other packages."""

import torch
from torch import Tensor, nn

from gradreg_core.errors import InputError
from gradreg_core.presets import HoffmanReg
from gradreg_torch.calls import calls

__all__ = ["JacobianReg"]


class JacobianReg(nn.Module):
    """``JacobianReg(n)(x, y)`` with the signature of facebookresearch/jacobian_regularizer.

    1/2 * mean_i ||dy_i/dx_i||_F^2 without a weight, from outputs y that were computed from x (Hoffman, Roberts, Yaida
    2019): exact for n = -1, otherwise estimated from n random directions. For n = -1, value and gradient equal that
    package's. For n > 0 their expectations are equal; the draws are gradreg's own and depend on `seed` and the number
    of calls in training mode, not on PyTorch's generator.

    Args:
        n: the number of random directions, or -1 for the exact norm.
        seed: the seed of the draws.
    """

    calls: Tensor

    def __init__(self, n: int = 1, *, seed: int = 0) -> None:
        super().__init__()
        self.n = n
        self.reg = HoffmanReg(1.0, projections=None if n == -1 else n, seed=seed)
        # Kept out of the state_dict, which is empty in the other package too.
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The penalty for inputs x (B, ...) and outputs y (B, C) = model(x), a scalar.

        Raises:
            InputError: x does not require a gradient, or y was not computed from it.
        """
        if not x.requires_grad:
            raise InputError("JacobianReg: x must require a gradient; call x.requires_grad_() before the forward pass.")
        step = self.calls.clone()
        if self.training:
            self.calls.add_(1)
        return calls.penalty(lambda _: y, x, None, self.reg, step=step)
