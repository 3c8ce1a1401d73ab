"""Layers with a fast double backward: the same values and gradients as PyTorch's own, to any order.

    with gradreg_torch.fast_layers():                       # any model, unchanged
        total, parts = gradreg_torch.loss(model, x, y, reg)

    from gradreg_torch.layers import Conv2d, GroupNorm      # or drop-ins; state_dicts fit

Inside `torch.compile`, `torch.func` transforms, autocast and checkpointing, and for arguments that have no fast form,
PyTorch's own are used.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gradreg_torch.convolution import Geometry, convolution
from gradreg_torch.elementwise import gelu
from gradreg_torch.normalisation import affine_batch_norm, group_norm, layer_norm

__all__ = [
    "GELU",
    "BatchNorm2d",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "GroupNorm",
    "LayerNorm",
    "fast_layers",
]


class fast_layers(TorchFunctionMode):  # noqa: N801 - a context, named for what is inside it
    """Convolution, GELU, GroupNorm, LayerNorm, and BatchNorm with given statistics, made fast inside.

    PyTorch's ReLU and max pooling stay: forms that skip the zeros which their double backward makes are no faster.

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


def _gelu(input: Tensor, *, approximate: str = "none") -> Tensor | None:  # noqa: A002
    return gelu(input) if approximate == "none" else None


def _conv(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    if isinstance(padding, str) or not _is_plain(weight) or input.dim() != weight.dim() or weight.dtype != input.dtype:
        return None
    return convolution(input, weight, bias, Geometry.of(weight, stride, padding, dilation, groups))


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


def _layer_norm(
    input: Tensor,  # noqa: A002
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor | None:
    if weight is not None and weight.dtype != input.dtype:
        return None
    return layer_norm(input, normalized_shape, weight, bias, eps)


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


_FAST: dict[Any, Callable[..., Tensor | None]] = {
    F.gelu: _gelu,
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), _conv),
    F.group_norm: _group_norm,
    F.layer_norm: _layer_norm,
    F.batch_norm: _batch_norm,
}


class _Fast(nn.Module):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with fast_layers():
            return super().forward(*args, **kwargs)


class GELU(_Fast, nn.GELU):
    """`nn.GELU` with its second derivative in closed form."""


class Conv1d(_Fast, nn.Conv1d):
    """`nn.Conv1d` whose double backward consists of its three kernels."""


class Conv2d(_Fast, nn.Conv2d):
    """`nn.Conv2d` whose double backward consists of its three kernels."""


class Conv3d(_Fast, nn.Conv3d):
    """`nn.Conv3d` whose double backward consists of its three kernels."""


class GroupNorm(_Fast, nn.GroupNorm):
    """`nn.GroupNorm` with a fused double backward."""


class LayerNorm(_Fast, nn.LayerNorm):
    """`nn.LayerNorm` with a fused double backward."""


class BatchNorm2d(_Fast, nn.BatchNorm2d):
    """`nn.BatchNorm2d` that is a plain affine map in eval mode."""
