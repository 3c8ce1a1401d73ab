"""Smooth stand-ins for piecewise linear functions, used by `check` alone.

A penalty on the gradient jumps where a rectifier switches, so finite differences over many rectifiers do not converge
to its derivative, even if it is correct. With the switches rounded off they converge, and everything else in the model
is tested as it is.
"""
# ruff: noqa: A001, A002 - the arguments have PyTorch's own names

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gradreg_torch.function_modes import ReplacingMode, overriding

__all__ = ["Smoothed"]

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def _ramp(x: Tensor) -> Tensor:
    """max(x, 0), rounded off over the scale of x itself."""
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    square = wide * wide
    return (0.5 * (wide + (square + square.mean() + 1e-30).sqrt())).to(x.dtype)


def _relu(input: Tensor, inplace: bool = False) -> Tensor:
    return _ramp(input)


def _leaky_relu(input: Tensor, negative_slope: Any = 0.01, inplace: bool = False) -> Tensor:
    return negative_slope * input + (1 - negative_slope) * _ramp(input)


def _prelu(input: Tensor, weight: Tensor) -> Tensor:
    return _leaky_relu(input, weight.reshape(1, -1, *(1,) * (input.dim() - 2)) if input.dim() >= 2 else weight)


def _abs(input: Tensor) -> Tensor:
    return 2 * _ramp(input) - input


def _elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    return _ramp(input) + alpha * (-_ramp(-input)).expm1()


def _celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    return _ramp(input) + alpha * (-_ramp(-input) / alpha).expm1()


def _selu(input: Tensor, inplace: bool = False) -> Tensor:
    return _SELU_SCALE * _elu(input, _SELU_ALPHA)


def _softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    return _ramp(input - lambd) - _ramp(-input - lambd)


def _clamp(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    smooth = input if min is None else _maximum(input, min)
    return smooth if max is None else _minimum(smooth, max)


def _clamp_max(input: Tensor, max: Any) -> Tensor:
    return _clamp(input, None, max)


def _hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    return _clamp(input, min_val, max_val)


def _relu6(input: Tensor, inplace: bool = False) -> Tensor:
    return _clamp(input, 0.0, 6.0)


def _maximum(input: Tensor, other: Any) -> Tensor:
    """The larger of two, rounded off over the spread of their difference: a distant bound changes nothing."""
    apart = input - other
    wide = apart.float() if apart.dtype in (torch.float16, torch.bfloat16) else apart
    spread = (wide - wide.mean()).square().mean() + 1e-30
    excess = 0.5 * spread / ((wide * wide + spread).sqrt() + wide.abs())
    return torch.where(apart > 0, input, other) + excess.to(apart.dtype)


def _minimum(input: Tensor, other: Any) -> Tensor:
    return -_maximum(-input, -other)


def _amax(input: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    """The scale of the finite components times log sum exp(x / scale)."""
    finite = input.masked_fill(~input.isfinite(), 0)
    scale = (finite * finite).mean().sqrt() + 1e-30
    return scale * (input / scale).logsumexp(dim if dim != () else tuple(range(input.dim())), keepdim)


def _amin(input: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    return -_amax(-input, dim, keepdim)


def _max(input: Tensor, *args: Any, **keywords: Any) -> Any:
    """The maximum of all components, of two arrays, or over an axis together with the indices."""
    if not args and not keywords:
        return _amax(input)
    if isinstance(args[0] if args else keywords.get("other"), Tensor):
        return _maximum(input, *args, **keywords)
    return torch.return_types.max((_amax(input, *args, **keywords), torch.max(input, *args, **keywords).indices))


def _max_pool(axes: int) -> Callable[..., Tensor | None]:
    """Max pooling over the last `axes` axes; None if the layer stays as it is."""

    def max_pool(
        input: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Tensor | None:
        if ceil_mode or return_indices or set(_per_axis(dilation, axes)) != {1} or input.dim() != axes + 2:
            return None
        sizes, steps = _per_axis(kernel_size, axes), _per_axis(stride or kernel_size, axes)
        pads = _per_axis(padding, axes)
        if any(pads):  # repeating the edge adds no new maximum: the window holds the original too
            input = F.pad(input, [pad for pad in reversed(pads) for _ in range(2)], mode="replicate")
        windows = input
        for axis in range(axes):
            windows = windows.unfold(axis + 2, sizes[axis], steps[axis])
        offsets: Iterable[tuple[Any, ...]] = product(*map(range, sizes))
        best, *others = (windows[(..., *offset)] for offset in offsets)
        for other in others:
            best = _maximum(other, best)
        return best

    return max_pool


def _adaptive_max_pool(axes: int) -> Callable[..., Tensor | None]:
    """Adaptive max pooling over the last `axes` axes; None unless all windows have the same size."""

    def adaptive_max_pool(input: Tensor, output_size: Any, return_indices: bool = False) -> Tensor | None:
        sizes = input.shape[2:]
        targets = [
            size if target is None else target for size, target in zip(sizes, _per_axis(output_size, axes), strict=True)
        ]
        if any(size % target for size, target in zip(sizes, targets, strict=True)):
            return None
        windows = tuple(size // target for size, target in zip(sizes, targets, strict=True))
        return _max_pool(axes)(input, windows, return_indices=return_indices)

    return adaptive_max_pool


def _per_axis(value: Any, axes: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, tuple | list) else (value,)
    return values * axes if len(values) == 1 else values


_SMOOTH: dict[Any, Callable[..., Tensor | None]] = {
    **dict.fromkeys((F.relu, torch.relu, Tensor.relu), _relu),
    F.relu6: _relu6,
    F.hardtanh: _hardtanh,
    F.leaky_relu: _leaky_relu,
    **dict.fromkeys((F.prelu, torch.prelu, Tensor.prelu), _prelu),
    F.elu: _elu,
    **dict.fromkeys((F.celu, torch.celu), _celu),
    **dict.fromkeys((F.selu, torch.selu), _selu),
    F.softshrink: _softshrink,
    **dict.fromkeys((torch.abs, Tensor.abs, Tensor.__abs__), _abs),
    **dict.fromkeys((torch.clamp, Tensor.clamp, torch.clip, Tensor.clip, torch.clamp_min, Tensor.clamp_min), _clamp),
    **dict.fromkeys((torch.clamp_max, Tensor.clamp_max), _clamp_max),
    **dict.fromkeys((torch.maximum, Tensor.maximum), _maximum),
    **dict.fromkeys((torch.minimum, Tensor.minimum), _minimum),
    **dict.fromkeys((torch.amax, Tensor.amax), _amax),
    **dict.fromkeys((torch.amin, Tensor.amin), _amin),
    **dict.fromkeys((torch.max, Tensor.max), _max),
    **dict.fromkeys((F.max_pool1d, torch.max_pool1d), _max_pool(1)),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), _max_pool(2)),
    **dict.fromkeys((F.max_pool3d, torch.max_pool3d), _max_pool(3)),
    **dict.fromkeys((F.adaptive_max_pool1d, torch.adaptive_max_pool1d), _adaptive_max_pool(1)),
    F.adaptive_max_pool2d: _adaptive_max_pool(2),
    F.adaptive_max_pool3d: _adaptive_max_pool(3),
}
_WRITING = {
    getattr(owner, f"{function.__name__}_"): smooth
    for function, smooth in _SMOOTH.items()
    for owner in (torch, F, Tensor)
    if hasattr(owner, f"{function.__name__}_")
}
"""The functions that write into their input, such as relu_."""
_MAY_WRITE = frozenset({_relu, _relu6, _leaky_relu, _elu, _celu, _selu, _hardtanh})
"""Those with an argument `inplace`, the last one."""


class Smoothed(ReplacingMode):
    """A context in which rectifiers, maxima and absolute values are smooth, in this thread.

    Functions that a tensor subclass overrides stay as they are.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        smooth = _SMOOTH.get(func) or _WRITING.get(func)
        if smooth is None or not all(not isinstance(arg, Tensor) or arg.is_floating_point() for arg in args):
            return func(*args, **kwargs)
        if not torch.compiler.is_compiling():
            if overriding(types):
                return func(*args, **kwargs)
            self.hold_in_recomputation()
        writes = func in _WRITING or (smooth in _MAY_WRITE and (kwargs.get("inplace", False) or args[-1] is True))
        if writes and args:
            return args[0].copy_(smooth(args[0].clone(), *args[1:], **kwargs))
        value = smooth(*args, **kwargs)
        return func(*args, **kwargs) if value is None else value
