"""A loss module that counts its own steps."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from gradreg_core.errors import InputTypeError
from gradreg_core.results import Parts
from gradreg_core.selection import Selector
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

    In eval mode the total is the loss alone, for validation, and ``parts.penalty`` holds a zero per term. It works in
    ``torch.inference_mode()``. `loss` and `penalty` give the penalties of a model in eval mode.

    Args:
        loss_fn: ``loss_fn(outputs, y)`` -> one loss per sample, or None for cross-entropy.
        reg: a regularizer, or None.
        seed: see `loss`, as for all other arguments; they are the defaults of each call.
        outputs: which of the model's outputs count.
        ignore_index: the label of positions that count for nothing.
        normalizer: a divisor in place of the batch's size.
        class_axis: the axis of the outputs that holds the classes.
        target: the Jacobian that SobolevReg compares with: a teacher, or an array.
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
        outputs: Selector = None,
        ignore_index: int | None = None,
        normalizer: Any = None,
        class_axis: int | None = None,
        target: Any = None,
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
            "outputs": outputs,
            "ignore_index": ignore_index,
            "normalizer": normalizer,
            "class_axis": class_axis,
            "target": target,
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
        outputs: Selector = None,
        sample_ids: Any = None,
        sample_weight: Any = None,
        position_weight: Any = None,
        ignore_index: int | None = None,
        normalizer: Any = None,
        class_axis: int | None = None,
        directions: Any = None,
        target: Any = None,
        params: Any = None,
        chunk_size: int | None = None,
        batch_norm: str | None = None,
    ) -> tuple[Tensor, Parts]:
        """(total, parts) at the current step; in training mode the step then increases by one. In eval mode the loss.

        Arguments other than None replace the criterion's own.

        Raises:
            InputError, InputTypeError: as `loss`.
        """
        given = {
            "seed": seed,
            "outputs": outputs,
            "sample_ids": sample_ids,
            "sample_weight": sample_weight,
            "position_weight": position_weight,
            "ignore_index": ignore_index,
            "normalizer": normalizer,
            "class_axis": class_axis,
            "directions": directions,
            "target": target,
            "params": params,
            "chunk_size": chunk_size,
            "batch_norm": batch_norm,
        }
        options = self.options | {name: value for name, value in given.items() if value is not None}
        step = self.step.clone()
        if self.training:
            result = calls.loss(model, x, y, self.reg, step=step, loss_fn=self.loss_fn, **options)
            self.step.add_(1)
            return result
        options["target"] = None  # of a penalty, as directions are
        total, parts = calls.loss(model, x, y, None, step=step, loss_fn=self.loss_fn, **options)
        terms = () if self.reg is None else self.reg.terms
        return total, parts._replace(penalty=tuple(torch.zeros_like(parts.loss) for _ in terms))

    if TYPE_CHECKING:  # PyTorch declares that every module takes any arguments

        @_typed_like(forward)
        def __call__(self, *args: Any, **keywords: Any) -> Any: ...

    def extra_repr(self) -> str:
        return f"loss_fn={self.loss_fn}, reg={self.reg}"
