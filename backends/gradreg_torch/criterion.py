"""A loss module that counts its own steps."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from gradreg_core.errors import InputTypeError
from gradreg_core.results import Parts
from gradreg_core.spec import Regularizer
from gradreg_torch.calls import calls

__all__ = ["Criterion"]

if TYPE_CHECKING:
    _Function = TypeVar("_Function")

    def _typed_like(function: _Function) -> Callable[[object], _Function]: ...


class Criterion(nn.Module):
    """`loss` with the step kept inside: ``total, parts = criterion(model, x, y)``.

    The step is a buffer. It counts the calls in training mode, is saved in the state_dict, and moves with ``.to``. A
    run that resumes from its state_dict therefore continues with the draws of an uninterrupted run.

    Args:
        loss_fn: ``loss_fn(outputs, y)`` -> one loss per sample, or None for cross-entropy.
        reg: a regularizer, or None.
        seed: see `loss`, as for all other arguments; they are the defaults of each call.
        normalizer: a divisor in place of the batch's size.
        class_axis: the axis of the outputs that holds the classes.
        params: parameters for WeightDecay, where the model is a plain function.
        chunk_size: rows of an exact Jacobian that are pulled back at a time.
        batch_norm: "error", "warn" or "allow".

    Raises:
        InputTypeError: loss_fn is a regularizer.
    """

    step: Tensor

    def __init__(
        self,
        loss_fn: Callable[[Tensor, Any], Tensor] | None = None,
        reg: Regularizer | None = None,
        *,
        seed: Any = None,
        normalizer: Any = None,
        class_axis: int | None = None,
        params: Any = None,
        chunk_size: int | None = None,
        batch_norm: str = "warn",
    ) -> None:
        super().__init__()
        if isinstance(loss_fn, Regularizer):
            raise InputTypeError(
                f"Criterion: loss_fn must be a function of (outputs, y), got the regularizer {loss_fn!r}. Pass it as "
                f"reg=: Criterion(reg={loss_fn!r})."
            )
        self.loss_fn = loss_fn
        self.reg = reg
        self.options: dict[str, Any] = {
            "seed": seed,
            "normalizer": normalizer,
            "class_axis": class_axis,
            "params": tuple(params) if isinstance(params, Iterator) else params,
            "chunk_size": chunk_size,
            "batch_norm": batch_norm,
        }
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(
        self,
        model: Any,
        x: Tensor,
        y: Any,
        *,
        seed: Any = None,
        sample_ids: Any = None,
        sample_weight: Any = None,
        normalizer: Any = None,
        class_axis: int | None = None,
        directions: Any = None,
        params: Any = None,
        chunk_size: int | None = None,
        batch_norm: str | None = None,
    ) -> tuple[Tensor, Parts]:
        """(total, parts) at the current step; in training mode the step then increases by one.

        Arguments other than None replace the criterion's own.

        Raises:
            InputError, InputTypeError: as `loss`.
        """
        given = {
            "seed": seed,
            "sample_ids": sample_ids,
            "sample_weight": sample_weight,
            "normalizer": normalizer,
            "class_axis": class_axis,
            "directions": directions,
            "params": params,
            "chunk_size": chunk_size,
            "batch_norm": batch_norm,
        }
        options = self.options | {name: value for name, value in given.items() if value is not None}
        result = calls.loss(model, x, y, self.reg, step=self.step.clone(), loss_fn=self.loss_fn, **options)
        if self.training:
            self.step.add_(1)
        return result

    if TYPE_CHECKING:  # PyTorch declares that every module takes any arguments

        @_typed_like(forward)
        def __call__(self, *args: Any, **keywords: Any) -> Any: ...

    def extra_repr(self) -> str:
        return f"loss_fn={self.loss_fn}, reg={self.reg}"
