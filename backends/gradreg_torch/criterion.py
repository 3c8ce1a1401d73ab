"""A loss module that counts its own steps."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gradreg_core.calls import Calls
from gradreg_core.results import Parts
from gradreg_core.spec import Regularizer
from gradreg_torch.backend import TorchBackend

__all__ = ["Criterion"]

_calls = Calls(TorchBackend())


class Criterion(nn.Module):
    """`loss` with the step kept inside: ``total, parts = criterion(model, x, y)``.

    The step is a buffer. It counts the calls in training mode, travels in the state_dict, and moves with ``.to``, so a
    run that resumes from its state_dict goes on with the draws of an uninterrupted one.

    Args:
        loss_fn: ``loss_fn(outputs, y)`` -> one loss for each sample, or None for cross-entropy.
        reg: a regularizer, or None.
        options: further arguments of `loss`, such as `class_axis` or `batch_norm`.
    """

    step: Tensor

    def __init__(
        self, loss_fn: Callable[[Tensor, Any], Tensor] | None = None, reg: Regularizer | None = None, **options: Any
    ) -> None:
        super().__init__()
        self.loss_fn = loss_fn
        self.reg = reg
        self.options = options
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, model: Any, x: Tensor, y: Any, **options: Any) -> tuple[Tensor, Parts]:
        """(total, parts) at the current step; in training mode the step then goes up by one.

        Raises:
            InputError, InputTypeError: as `loss`.
        """
        step = self.step.clone()
        result = _calls.loss(model, x, y, self.reg, step=step, loss_fn=self.loss_fn, **(self.options | options))
        if self.training:
            self.step.add_(1)
        return result

    def extra_repr(self) -> str:
        return f"loss_fn={self.loss_fn}, reg={self.reg}"
