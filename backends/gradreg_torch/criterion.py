"""A loss module that counts its own steps."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.inputs import Inputs
from gradreg_core.results import Parts
from gradreg_core.scalars import integer_option
from gradreg_core.selection import Selector
from gradreg_core.signatures import with_named_errors
from gradreg_core.spec import Regularizer
from gradreg_core.structures import flatten, read_once
from gradreg_torch.calls import calls

__all__ = ["Criterion"]

if TYPE_CHECKING:
    _Function = TypeVar("_Function")

    def _typed_like(function: _Function) -> Callable[[object], _Function]: ...


class Criterion(nn.Module):
    """`loss` with the step kept inside: ``total, parts = criterion(model, x, y)``.

    The step is a buffer. It counts the calls in training mode (`accumulate` calls are one step), is saved in the
    state_dict, and moves with ``.to``. A run that resumes from its state_dict therefore continues with the draws of an
    uninterrupted run.

    Samples are numbered over the calls of one step: the first call starts at 0, the second continues from there. A
    batch split in order has the draws of the whole batch if the parts are equal and each call's total is divided by
    `accumulate`, as in loops that accumulate gradients. With ``sample_ids="rank"`` the ranks of torch.distributed share
    the numbers: in each call rank 0 has the first samples, rank 1 those after them, and so on. The ranks' batches have
    the same size, as a DistributedSampler makes them. A sample's number depends only on the rank, the sizes of the
    batches and its position.

    In eval mode the total is the loss alone, for validation, and ``parts.penalty`` holds a zero per term. This works in
    ``torch.inference_mode()``. For the penalties of a model in eval mode call `loss` or `penalty`.

    Args:
        loss_fn: ``loss_fn(outputs, y)`` -> one loss per sample, or None for cross-entropy.
        reg: a regularizer, or None.
        accumulate: how many calls make one step of the optimizer.
        sample_ids: None, or ``"rank"`` if each process has a part of the batch.
        seed: see `loss`, as for all other arguments; they are the defaults of every call.
        outputs: selects the outputs to penalise from what the model returns.
        ignore_index: the label of positions to ignore.
        normalizer: a divisor in place of the batch's size.
        class_axis: the axis of the outputs that holds the classes.
        target: a teacher or an array: the Jacobian that SobolevReg compares with.
        params: parameters for WeightDecay, if the model is a plain function.
        chunk_size: rows of an exact Jacobian that are pulled back at a time.
        batch_norm: "error", "warn" or "allow".

    Raises:
        InputTypeError: loss_fn is a regularizer, or `accumulate` is not an integer.
        InputError: `accumulate` is less than 1, or `sample_ids` is anything else.
    """

    step: Tensor
    calls_of_step: Tensor
    """The number of calls so far in the current step."""
    samples_of_step: Tensor
    """The number of samples so far in the current step, in this process."""

    @with_named_errors(name="Criterion")
    def __init__(
        self,
        loss_fn: Callable[[Tensor, Any], Tensor] | None = None,
        reg: Regularizer | None = None,
        *,
        accumulate: int = 1,
        sample_ids: str | None = None,
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
        if not (sample_ids is None or (isinstance(sample_ids, str) and sample_ids == "rank")):
            raise InputError(
                f"Criterion: sample_ids must be None or 'rank', got {sample_ids!r}. Pass one batch's numbers as an "
                f"argument of the call: criterion(model, x, y, sample_ids=ids)."
            )
        self.loss_fn = loss_fn
        self.reg = reg
        self.accumulate = integer_option("Criterion", "accumulate", accumulate, minimum=1) or 1
        self.by_rank = sample_ids == "rank"
        self.options: dict[str, Any] = {
            "seed": seed,
            "outputs": outputs,
            "ignore_index": ignore_index,
            "normalizer": normalizer,
            "class_axis": class_axis,
            "target": target,
            "params": read_once(params),
            "chunk_size": chunk_size,
            "batch_norm": batch_norm,
        }
        for name in ("step", "calls_of_step", "samples_of_step"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))
        self.register_load_state_dict_pre_hook(_of_one_counter)

    @with_named_errors(name="Criterion")
    def forward(
        self,
        model: Any,
        x: Tensor,
        y: Any,
        *,
        step: int | None = None,
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
        """Return (total, parts) at the current step. Training mode counts the call; eval mode has the loss alone.

        `step` is the optimizer's step, from loops that count it, such as Lightning's ``global_step``. It replaces the
        count of calls, and all calls with the same step are parts of one batch. Other arguments: see `loss`; those that
        are not None replace the criterion's own.

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
        now: Any = self.step.clone() if step is None else step
        if self.training:
            if step is not None:
                self._go_to(step)
            size = _batch_size(x)
            if sample_ids is None and (self.by_rank or self.accumulate > 1 or step is not None):
                options["sample_ids"] = self._numbers(size)
            result = calls.loss(model, x, y, self.reg, step=now, loss_fn=self.loss_fn, **options)
            self._count(size, self.accumulate if step is None else None)
            return result
        options["target"] = None  # an argument of penalties, as directions are
        total, parts = calls.loss(model, x, y, None, step=now, loss_fn=self.loss_fn, **options)
        terms = () if self.reg is None else self.reg.terms
        return total, parts._replace(penalty=tuple(torch.zeros_like(parts.loss) for _ in terms))

    def _numbers(self, size: int) -> Tensor:
        """The samples' numbers in the batch of the current step."""
        rank, ranks = _place() if self.by_rank else (0, 1)
        return self.samples_of_step * ranks + rank * size + torch.arange(size, device=self.step.device)

    def _go_to(self, step: int) -> None:
        """Start the step, or continue it."""
        goes_on = self.step == step
        self.step.fill_(step)
        self.calls_of_step.mul_(goes_on)
        self.samples_of_step.mul_(goes_on)

    def _count(self, size: int, accumulate: int | None) -> None:
        """Count one call of `size` samples; `accumulate` calls end the step, unless the loop passes its own step."""
        self.calls_of_step.add_(1)
        self.samples_of_step.add_(size)
        if accumulate is not None:
            ends = self.calls_of_step >= accumulate
            self.step.add_(ends)
            self.calls_of_step.mul_(~ends)
            self.samples_of_step.mul_(~ends)

    if TYPE_CHECKING:  # PyTorch declares that every module takes any arguments

        @_typed_like(forward)
        def __call__(self, *args: Any, **keywords: Any) -> Any: ...

    def extra_repr(self) -> str:
        return f"loss_fn={self.loss_fn}, reg={self.reg}"


def _batch_size(x: Any) -> int:
    """The length of the batch axis; 0 if `loss` will refuse the input."""
    if isinstance(x, Tensor):
        return x.shape[0] if x.dim() else 0
    structure = [*x.args, *x.kwargs.values()] if isinstance(x, Inputs) else x
    leaves, _ = flatten(structure, lambda value: isinstance(value, Tensor))
    return next((leaf.shape[0] for _, leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()), 0)


def _place() -> tuple[int, int]:
    """The rank of this process and the number of processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def _of_one_counter(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Load a state_dict from before the other counts existed as the start of a step."""
    if f"{prefix}step" in state:
        for name in ("calls_of_step", "samples_of_step"):
            state.setdefault(f"{prefix}{name}", torch.zeros_like(state[f"{prefix}step"]))
