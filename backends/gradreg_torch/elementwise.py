"""Activations and max pooling whose double backward does nothing but its own arithmetic.

PyTorch's ReLU and max pooling give their input a second-order gradient of zeros, made, added and propagated; it takes
GELU's second derivative from a dozen elementwise operations.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

__all__ = ["gelu", "max_pool", "relu"]

_aten = torch.ops.aten
_DENSITY = 0.3989422804014327  # 1 / sqrt(2 pi)


def relu(x: Tensor) -> Tensor:
    """max(x, 0), derivative 0 at 0; what is kept is where x <= 0, one byte an element."""
    return torch.where(x <= 0, 0.0, x)


def gelu(x: Tensor) -> Tensor:
    """X Phi(x), exactly; the second derivative is phi(x) (2 - x^2) (Hendrycks, Gimpel 2016)."""
    result: Tensor = _Gelu.apply(x)
    return result


class _Gelu(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return F.gelu(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        result: Tensor = _GeluGradient.apply(g, x)
        return result


class _GeluGradient(Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(g, x)
        result: Tensor = _aten.gelu_backward(g, x)
        return result

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:
        g, x = ctx.saved_tensors
        dg = _GeluGradient.apply(v, x) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return dg, None
        square = x * x
        return dg, torch.exp(-0.5 * square) * (2 - square) * (v * g * _DENSITY)


def max_pool(x: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> Tensor:
    """As `torch.nn.functional.max_pool2d`: a choice of elements, whose derivatives to any order are choices too."""
    result: Tensor = _Pool.apply(x, (kernel, stride or kernel, padding, dilation, ceil))
    return result


class _Pool(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, windows: Any) -> Tensor:
        y, chosen = _aten.max_pool2d_with_indices(x, *map(_pair, windows[:4]), windows[4])
        ctx.save_for_backward(chosen)
        ctx.windows, ctx.shape = windows, x.shape
        result: Tensor = y
        return result

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (chosen,) = ctx.saved_tensors
        return _Spread.apply(g, chosen, ctx.shape, ctx.windows), None


class _Spread(Function):
    """Each element of g to where it was chosen; the transpose of `_Choose`."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, chosen: Tensor, shape: torch.Size, windows: Any) -> Tensor:
        ctx.save_for_backward(chosen)
        ctx.shape, ctx.windows = shape, windows
        placeholder = g.new_empty(shape)
        spread: Tensor = _aten.max_pool2d_with_indices_backward(
            g.contiguous(), placeholder, *map(_pair, windows[:4]), windows[4], chosen
        )
        return spread

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:
        (chosen,) = ctx.saved_tensors
        return _Choose.apply(v, chosen, ctx.windows), None, None, None


class _Choose(Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, chosen: Tensor, windows: Any) -> Tensor:
        ctx.save_for_backward(chosen)
        ctx.shape, ctx.windows = v.shape, windows
        return v.flatten(-2).gather(-1, chosen.flatten(-2)).view(chosen.shape)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (chosen,) = ctx.saved_tensors
        return _Spread.apply(g, chosen, ctx.shape, ctx.windows), None, None


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
