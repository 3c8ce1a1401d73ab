"""Normalisations in plain arithmetic, for the products J v, which take three derivatives in total.

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

from gradreg_core.errors import UnsupportedError
from gradreg_torch.function_modes import ReplacingMode, overriding

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
    if not use_input_stats:
        return F.instance_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    if running_mean is not None:
        with torch.no_grad():  # updates the running statistics
            F.instance_norm(input, running_mean, running_var, weight, bias, True, momentum, eps)
    axes = tuple(range(2, input.dim()))
    return _scaled(_normalized(input, axes, eps), weight, bias, (-1, *(1,) * (input.dim() - 2)))


def _native_layer_norm(
    input: Tensor, normalized_shape: Any, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    _, *statistics = torch.native_layer_norm(input.detach(), normalized_shape, weight, bias, eps)
    mean, inverse = statistics
    return _layer_norm(input, normalized_shape, weight, bias, eps), mean, inverse


def _native_batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.no_grad():  # updates the running statistics
        outputs = torch.native_batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps)
    if not training:
        return torch.native_batch_norm(input, weight, bias, running_mean, running_var, False, momentum, eps)
    return _batch_norm(input, None, None, weight, bias, True, momentum, eps), outputs[1], outputs[2]


_ARITHMETIC: dict[Any, Callable[..., Any]] = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    torch.native_layer_norm: _native_layer_norm,
    F.batch_norm: _batch_norm,
    torch.batch_norm: _batch_norm,
    torch.native_batch_norm: _native_batch_norm,
    F.instance_norm: _instance_norm,
    torch.instance_norm: _instance_norm,
}


class ArithmeticNorms(ReplacingMode):
    """A context in which these normalisations are computed from mean and variance by arithmetic, in this thread.

    Raises:
        UnsupportedError: a normalisation of a tensor subclass that overrides its functions; the mode cannot replace it.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        arithmetic = _ARITHMETIC.get(func)
        if arithmetic is None:
            return func(*args, **(kwargs or {}))
        if not torch.compiler.is_compiling():
            if own := overriding(types):
                raise UnsupportedError(
                    f"side='input': {func.__name__} of the tensor subclass {own[0]}, which overrides its functions, "
                    f"may have a wrong derivative of third order. Use method='difference', or normalise a plain "
                    f"tensor: x.as_subclass(torch.Tensor)."
                )
            self.hold_in_recomputation()
        return arithmetic(*args, **(kwargs or {}))
