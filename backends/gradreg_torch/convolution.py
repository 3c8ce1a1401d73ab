"""Convolution with a double backward made of the three kernels of its first backward.

A convolution y = conv(x, w) is bilinear, and so are its two gradients. Each derivative of one of the three maps is
another of them, to any order:

    forward           y  = conv(x, w)           d/dx: input gradient      d/dw: weight gradient
    input gradient    dx = conv^T(g, w)         d/dg: forward             d/dw: weight gradient (of dx's cotangent, g)
    weight gradient   dw = corr(x, g)           d/dx: input gradient      d/dg: forward

PyTorch's own double backward computes the weight gradient as a convolution whose kernel is as large as the output.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

__all__ = ["Geometry", "convolution", "input_gradient"]

_backward = torch.ops.aten.convolution_backward
_FEW_CHANNELS = 4


class Geometry(NamedTuple):
    """How a kernel moves over its input, one number for each spatial axis."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @classmethod
    def of(cls, weight: Tensor, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> "Geometry":
        """From the arguments of `torch.nn.functional.conv2d` and its siblings, padding in numbers."""
        axes = weight.dim() - 2

        def each(value: Any) -> tuple[int, ...]:
            values = tuple(value) if isinstance(value, Sequence) else (value,)
            return values * axes if len(values) == 1 else values

        return cls(each(stride), each(padding), each(dilation), groups)


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """The cross-correlation of x (B, C, ...) with weight (O, C / groups, ...), plus bias (O,)."""
    result: Tensor = _Forward.apply(x, weight, bias, geometry)
    return result


def input_gradient(g: Tensor, weight: Tensor, like: Tensor, geometry: Geometry) -> Tensor:
    """The gradient with respect to an input of the shape of `like` for the cotangent g of the output."""
    result: Tensor = _InputGradient.apply(g, weight, like.detach(), geometry)
    return result


def _kernels(g: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, mask: list[bool]) -> Any:
    zeros = [0] * (weight.dim() - 2)
    stride, padding, dilation, groups = geometry
    bias = [weight.shape[0]] if mask[2] else None
    return _backward(g, x, weight, bias, stride, padding, dilation, False, zeros, groups, mask)


def _folds(g: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether a matrix product and a sum over windows beats the library's kernel, which wants many input channels."""
    outputs, channels = weight.shape[:2]
    few = channels == 1 or (channels <= _FEW_CHANNELS and outputs >= 16 * channels)
    return few and geometry.groups == 1 and weight.dim() == 4 and g.device.type == "cpu"


def _pull(g: Tensor, weight: Tensor, like: Tensor, geometry: Geometry) -> Tensor:
    """conv^T(g, w), by whichever kernel is faster."""
    if _folds(g, weight, geometry):
        columns = weight.flatten(1).t() @ g.flatten(2)
        stride, padding, dilation, _ = geometry
        return F.fold(columns, like.shape[2:], weight.shape[2:], dilation, padding, stride)
    gradient: Tensor = _kernels(g, like, weight, geometry, [True, False, False])[0]
    return gradient


class _Forward(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        stride, padding, dilation, groups = geometry
        zeros = [0] * (weight.dim() - 2)
        return torch.ops.aten.convolution(x, weight, bias, stride, padding, dilation, False, zeros, groups)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x, weight), needs, geometry = ctx.saved_tensors, ctx.needs_input_grad, ctx.geometry
        if not torch.is_grad_enabled() and not (needs[0] and _folds(g, weight, geometry)):
            return (*_kernels(g, x, weight, geometry, list(needs[:3])), None)
        return (
            input_gradient(g, weight, x, geometry) if needs[0] else None,
            _WeightGradient.apply(x, g, weight.detach(), geometry) if needs[1] else None,
            g.sum((0, *range(2, g.dim()))) if needs[2] else None,
            None,
        )


class _InputGradient(Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, weight: Tensor, like: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(g, weight)
        ctx.geometry = geometry
        return _pull(g, weight, like, geometry)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:
        (g, weight), needs = ctx.saved_tensors, ctx.needs_input_grad
        return (
            convolution(v, weight, None, ctx.geometry) if needs[0] else None,
            _WeightGradient.apply(v, g, weight.detach(), ctx.geometry) if needs[1] else None,
            None,
            None,
        )


class _WeightGradient(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, g: Tensor, like: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(x, g)
        ctx.geometry = geometry
        gradient: Tensor = _kernels(g, x, like, geometry, [False, True, False])[1]
        return gradient

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:
        (x, g), needs = ctx.saved_tensors, ctx.needs_input_grad
        return (
            input_gradient(g, v, x, ctx.geometry) if needs[0] else None,
            convolution(x, v, None, ctx.geometry) if needs[1] else None,
            None,
            None,
        )
