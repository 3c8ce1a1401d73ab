"""The transpose of a convolution, with derivatives that use the kernels of an ordinary backward pass.

    y = conv(x, w)                   the layer
    dx = conv^T(g, w)                its transpose, for the cotangent g of y
    d/dg: v -> conv(v, w)            for the cotangent v of dx
    d/dw: v -> corr(v, g)            the weight gradient of the layer at the input v

PyTorch's own double backward computes the weight gradient as a convolution with a kernel as large as the output.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

__all__ = ["Geometry", "input_gradient"]

_FEW_CHANNELS = 4


class Geometry(NamedTuple):
    """How a kernel moves over its input, one number per spatial axis."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @classmethod
    def of(cls, weight: Tensor, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> "Geometry":
        """From the arguments of `torch.nn.functional.conv2d` and its siblings, with numeric padding."""
        axes = weight.dim() - 2

        def per_axis(value: Any) -> tuple[int, ...]:
            values = tuple(value) if isinstance(value, Sequence) else (value,)
            return values * axes if len(values) == 1 else values

        return cls(per_axis(stride), per_axis(padding), per_axis(dilation), groups)


def input_gradient(g: Tensor, weight: Tensor, like: Tensor, geometry: Geometry) -> Tensor:
    """conv^T(g, weight), differentiable in both.

    Args:
        g: the cotangent of the layer's output.
        weight: the kernel.
        like: an array of the shape of the layer's input.
        geometry: how the kernel moves.
    """
    gradient: Tensor = _InputGradient.apply(g, weight, like.detach(), geometry)
    return gradient


def _backward_kernel(g: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, of: int) -> Tensor:
    """PyTorch's gradient with respect to x (`of` = 0) or weight (`of` = 1)."""
    stride, padding, dilation, groups = geometry
    no_output_padding = [0] * len(stride)
    wanted = [of == 0, of == 1, False]
    gradients = torch.ops.aten.convolution_backward(
        g, x, weight, None, stride, padding, dilation, False, no_output_padding, groups, wanted
    )
    gradient: Tensor = gradients[of]
    return gradient


def _folds(g: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether a matrix product and a sum over windows beats PyTorch's kernel, fast for many input channels only."""
    outputs, channels = weight.shape[:2]
    few = channels == 1 or (channels <= _FEW_CHANNELS and outputs >= 16 * channels)
    return few and geometry.groups == 1 and weight.dim() == 4 and g.device.type == "cpu"


class _InputGradient(Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, weight: Tensor, like: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(g, weight)
        ctx.geometry = geometry
        if not _folds(g, weight, geometry):
            return _backward_kernel(g, like, weight, geometry, of=0)
        columns = weight.flatten(1).t() @ g.flatten(2)
        stride, padding, dilation, _ = geometry
        return F.fold(columns, like.shape[2:], weight.shape[2:], dilation, padding, stride)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:
        g, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        to_g = to_weight = None
        if ctx.needs_input_grad[0]:
            no_output_padding = [0] * len(stride)
            to_g = torch.convolution(v, weight, None, stride, padding, dilation, False, no_output_padding, groups)
        if ctx.needs_input_grad[1]:
            to_weight = _backward_kernel(g, v, weight.detach(), ctx.geometry, of=1)
        return to_g, to_weight, None, None
