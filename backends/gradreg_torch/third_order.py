"""Normalisations in plain arithmetic, for the products J v, which are differentiated three times in total.

PyTorch 2.13 silently treats the statistics of layer, instance and (training) batch normalisation as constants in the
third derivative: the gradient of ||J v||^2 is then wrong by 10 to 90 %. Its second derivatives, which every other
penalty needs, are right.
"""
# ruff: noqa: A002 - the arguments have PyTorch's own names

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["ArithmeticNorms"]


def _normalized(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(variance + eps)


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    x = x if weight is None else x * weight.reshape(shape)
    return x if bias is None else x + bias.reshape(shape)


def _layer_norm(
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    axes = tuple(range(input.dim() - len(normalized_shape), input.dim()))
    return _scaled(_normalized(input, axes, eps), weight, bias, tuple(normalized_shape))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    if running_mean is not None:
        with torch.no_grad():  # updates the running statistics
            F.batch_norm(input, running_mean, running_var, weight, bias, True, momentum, eps)
    axes = (0, *range(2, input.dim()))
    return _scaled(_normalized(input, axes, eps), weight, bias, (-1, *(1,) * (input.dim() - 2)))


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    if not use_input_stats or running_mean is not None:
        return F.instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    axes = tuple(range(2, input.dim()))
    return _scaled(_normalized(input, axes, eps), weight, bias, (-1, *(1,) * (input.dim() - 2)))


_ARITHMETIC: dict[Any, Callable[..., Tensor]] = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.batch_norm: _batch_norm,
    torch.batch_norm: _batch_norm,
    F.instance_norm: _instance_norm,
    torch.instance_norm: _instance_norm,
}


class ArithmeticNorms(TorchFunctionMode):
    """A context in which these normalisations are computed from mean and variance by arithmetic, in this thread."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _ARITHMETIC.get(func, func)(*args, **(kwargs or {}))
