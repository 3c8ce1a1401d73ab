"""Layers with a fast double backward: the same values and gradients as PyTorch's own, to any order.

    with gradreg_torch.fast_layers():                       # any model, unchanged
        total, parts = gradreg_torch.loss(model, x, y, reg)

    from gradreg_torch.layers import GroupNorm              # or drop-ins; state_dicts fit

Inside `torch.compile`, `torch.func` transforms, autocast and checkpointing, and for arguments that have no fast form,
PyTorch's own are used.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gradreg_torch.normalisation import affine_batch_norm, group_norm

__all__ = ["BatchNorm2d", "GroupNorm", "fast_layers"]


class fast_layers(TorchFunctionMode):  # noqa: N801 - a context, named for what is inside it
    """GroupNorm, and BatchNorm with given statistics, with fewer passes over memory in their double backward.

    Convolution, ReLU, GELU, max pooling and LayerNorm stay PyTorch's own: forms of them made of the kernels of their
    first backward were measured, and were no faster.

    Only the forward pass must be inside: what a backward pass does was decided by the forward pass.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        fast = _FAST.get(func)
        if fast is not None and args and _is_plain(args[0]):
            result = fast(*args, **kwargs)
            if result is not None:
                return result
        return func(*args, **kwargs)


def _is_plain(x: Any) -> bool:
    """Whether x is an ordinary tensor of full precision, with nothing between it and autograd."""
    return (
        type(x) in (Tensor, nn.Parameter)
        and x.dtype in (torch.float32, torch.float64)
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled(x.device.type)
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch._C._autograd._top_saved_tensors_default_hooks(True) is None
    )


def _group_norm(
    input: Tensor,  # noqa: A002
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor | None:
    if weight is not None and weight.dtype != input.dtype:
        return None
    return group_norm(input, num_groups, weight, bias, eps)


def _batch_norm(
    input: Tensor,  # noqa: A002
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    if training or running_mean is None or running_var is None:
        return None
    return affine_batch_norm(input, running_mean, running_var, weight, bias, eps)


_FAST: dict[Any, Callable[..., Tensor | None]] = {F.group_norm: _group_norm, F.batch_norm: _batch_norm}


class _Fast(nn.Module):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with fast_layers():
            return super().forward(*args, **kwargs)


class GroupNorm(_Fast, nn.GroupNorm):
    """`nn.GroupNorm` with a fused double backward."""


class BatchNorm2d(_Fast, nn.BatchNorm2d):
    """`nn.BatchNorm2d` that is a plain affine map in eval mode."""
