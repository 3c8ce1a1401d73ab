"""GroupNorm with a double backward made of the kernels of the first.

Over the n elements of a group, with x^ = (x - mean) r, r = 1 / sqrt(variance + eps), and h = weight * g:

    gradient          dx = r P h,   P h = h - <h> - x^ <h x^>,   <a> the mean over the group (Wu, He 2018)

P is symmetric and dr = -r^2 <x^ dx>, dx^ = r P dx, so that for the cotangent v of dx, and p = r P v:

    with respect to g         weight * p
    with respect to weight    sum of g p
    with respect to x         -r (<v dx> x^ + <h x^> p + <v x^> dx)

PyTorch builds the second derivative of GroupNorm from some thirty elementwise operations.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

__all__ = ["affine_batch_norm", "group_norm"]

_aten = torch.ops.aten


class _Groups:
    """GroupNorm: statistics of each sample over groups of channels."""

    def __init__(self, x: Tensor, groups: int, eps: float) -> None:
        self.groups, self.eps = groups, eps
        self.sizes = (x.shape[0], x.shape[1], x[0, 0].numel(), groups)
        self.summed = (0, *range(2, x.dim()))
        self.affine = (1, -1, *[1] * (x.dim() - 2))

    def forward(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Any:
        return _aten.native_group_norm(x, weight, bias, *self.sizes, self.eps)

    def backward(self, g: Tensor, x: Tensor, mean: Tensor, r: Tensor, weight: Any, mask: list[bool]) -> Any:
        return _aten.native_group_norm_backward(g.contiguous(), x, mean, r, weight, *self.sizes, mask)

    def rows(self, array: Tensor) -> Tensor:
        return array.reshape(self.sizes[0] * self.groups, -1)


def group_norm(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """As `torch.nn.functional.group_norm`, for x of shape (B, C, ...)."""
    result: Tensor = _Normalise.apply(x.contiguous(), weight, bias, _Groups(x, groups, eps))
    return result


def affine_batch_norm(
    x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Batch normalisation with given statistics: x * scale + shift in each channel (axis 1)."""
    shape = (1, -1, *[1] * (x.dim() - 2))
    scale = (variance + eps).rsqrt()
    scale = scale if weight is None else weight * scale
    shift = -mean * scale if bias is None else bias - mean * scale
    return torch.addcmul(shift.view(shape), x, scale.view(shape))


class _Normalise(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, kind: _Groups) -> Tensor:
        y, mean, r = kind.forward(x, weight, bias)
        ctx.save_for_backward(x, weight, mean, r)
        ctx.kind = kind
        result: Tensor = y
        return result

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x, weight, mean, r), kind, needs = ctx.saved_tensors, ctx.kind, ctx.needs_input_grad
        if not torch.is_grad_enabled():
            return (*kind.backward(g, x, mean, r, weight, list(needs[:3])), None)
        dx = _InputGradient.apply(g, x, weight, mean, r, kind) if needs[0] else None
        dweight = (g * _elementary(kind, x)).sum(kind.summed) if needs[1] else None
        return dx, dweight, g.sum(kind.summed) if needs[2] else None, None


class _InputGradient(Function):
    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, r: Tensor, kind: _Groups
    ) -> Tensor:
        dx: Tensor = kind.backward(g, x, mean, r, weight, [True, False, False])[0]
        ctx.save_for_backward(g, x, weight, mean, r, dx)
        ctx.kind = kind
        return dx

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:
        (g, x, weight, mean, r, dx), kind, needs = ctx.saved_tensors, ctx.kind, ctx.needs_input_grad
        if torch.is_grad_enabled():
            return (*_higher(kind, g, x, weight, v, needs), None, None, None)
        p = kind.backward(v, x, mean, r, None, [True, False, False])[0]
        affine = None if weight is None else weight.reshape(kind.affine)
        return (
            (p if affine is None else p * affine) if needs[0] else None,
            _second(kind, v, g if affine is None else g * affine, x, p, dx, mean, r) if needs[1] else None,
            (g * p).sum(kind.summed) if needs[2] else None,
            None,
            None,
            None,
        )


def _second(kind: _Groups, v: Tensor, h: Tensor, x: Tensor, p: Tensor, dx: Tensor, mean: Tensor, r: Tensor) -> Tensor:
    """-r (<v dx> x^ + <h x^> p + <v x^> dx), in as few passes over memory as there are."""
    v, h, p, dx, rows = (kind.rows(each) for each in (v, h, p, dx, x))
    mean, r = mean.reshape(-1, 1), r.reshape(-1, 1)
    normed = (rows - mean).mul_(r)
    scale = r / -rows.shape[1]

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(1, keepdim=True).mul_(scale)

    first, second, third = dot(v, dx), dot(h, normed), dot(v, normed)
    return normed.mul_(first).addcmul_(p, second).addcmul_(dx, third).view(x.shape)


def _elementary(kind: _Groups, x: Tensor) -> Tensor:
    """x^, in operations that PyTorch differentiates to any order."""
    rows = kind.rows(x)
    centred = rows - rows.mean(1, keepdim=True)
    return (centred * ((centred * centred).mean(1, keepdim=True) + kind.eps).rsqrt()).view(x.shape)


def _higher(kind: _Groups, g: Tensor, x: Tensor, weight: Tensor | None, v: Tensor, needs: Sequence[bool]) -> Any:
    """The same as a graph of elementary operations, for a third derivative."""
    inputs = [each for each, needed in zip((g, x, weight), needs, strict=False) if needed]
    x = x if x.requires_grad else x.detach().requires_grad_()
    normed = _elementary(kind, x)
    normed = normed if weight is None else normed * weight.reshape(kind.affine)
    (dx,) = torch.autograd.grad(normed, x, g, create_graph=True)
    found = iter(torch.autograd.grad(dx, inputs, v, create_graph=True, allow_unused=True))
    return [next(found) if needed else None for needed in needs[:3]]
