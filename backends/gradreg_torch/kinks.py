"""Smooth stand-ins for piecewise linear functions, for the check alone.

A penalty on the gradient jumps where a rectifier switches, so finite differences over many rectifiers do not converge
to its derivative, however right that is. With the switches rounded off they do, and whatever else the model consists of
is tested as it stands.
"""

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["Smoothed"]

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def _ramp(x: Tensor) -> Tensor:
    """max(x, 0), rounded off over the scale of x itself."""
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    square = wide * wide
    return (0.5 * (wide + (square + square.mean() + 1e-30).sqrt())).to(x.dtype)


def _relu(input: Tensor, inplace: bool = False) -> Tensor:  # noqa: A002 - PyTorch's own names
    return _ramp(input)


def _hardtanh(
    input: Tensor,  # noqa: A002
    min_val: float = -1.0,
    max_val: float = 1.0,
    inplace: bool = False,
) -> Tensor:
    return _clamp(input, min_val, max_val)


def _relu6(input: Tensor, inplace: bool = False) -> Tensor:  # noqa: A002
    return _clamp(input, 0.0, 6.0)


def _leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:  # noqa: A002
    return negative_slope * input + (1 - negative_slope) * _ramp(input)


def _prelu(input: Tensor, weight: Tensor) -> Tensor:  # noqa: A002
    slope = weight.reshape(1, -1, *(1,) * (input.dim() - 2)) if input.dim() >= 2 else weight
    return slope * input + (1 - slope) * _ramp(input)


def _abs(input: Tensor) -> Tensor:  # noqa: A002
    return 2 * _ramp(input) - input


def _elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:  # noqa: A002
    return _ramp(input) + alpha * (-_ramp(-input)).expm1()


def _celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:  # noqa: A002
    return _ramp(input) + alpha * (-_ramp(-input) / alpha).expm1()


def _selu(input: Tensor, inplace: bool = False) -> Tensor:  # noqa: A002
    return _SELU_SCALE * _elu(input, _SELU_ALPHA)


def _softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:  # noqa: A002
    return _ramp(input - lambd) - _ramp(-input - lambd)


def _clamp(input: Tensor, min: Any = None, max: Any = None) -> Tensor:  # noqa: A002
    smooth = input if min is None else min + _ramp(input - min)
    return smooth if max is None else max - _ramp(max - smooth)


def _clamp_max(input: Tensor, max: Any) -> Tensor:  # noqa: A002
    return _clamp(input, None, max)


def _amax(input: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:  # noqa: A002
    """The scale of the finite components times log sum exp(x / scale)."""
    finite = input.masked_fill(~input.isfinite(), 0)
    scale = (finite * finite).mean().sqrt() + 1e-30
    return scale * (input / scale).logsumexp(dim if dim != () else tuple(range(input.dim())), keepdim)


def _amin(input: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:  # noqa: A002
    return -_amax(-input, dim, keepdim)


def _max(input: Tensor, *others: Any, **options: Any) -> Any:  # noqa: A002
    """Of two arrays, of all components, or over an axis, with the places."""
    if not others and not options:
        return _amax(input)
    if isinstance(others[0] if others else options.get("other"), Tensor):
        return _maximum(input, *others, **options)
    return torch.return_types.max((_amax(input, *others, **options), torch.max(input, *others, **options).indices))


def _maximum(input: Tensor, other: Tensor) -> Tensor:  # noqa: A002
    return other + _ramp(input - other)


def _minimum(input: Tensor, other: Tensor) -> Tensor:  # noqa: A002
    return other - _ramp(other - input)


def _adaptive_pool(axes: int) -> Callable[..., Tensor | None]:
    def adaptive_max_pool(input: Tensor, output_size: Any, return_indices: bool = False) -> Tensor | None:  # noqa: A002
        given = tuple(output_size) if isinstance(output_size, tuple | list) else (output_size,) * axes
        sizes = input.shape[2:]
        wanted = [size if each is None else each for size, each in zip(sizes, given, strict=True)]
        if any(size % each for size, each in zip(sizes, wanted, strict=True)):
            return None
        windows = tuple(size // each for size, each in zip(sizes, wanted, strict=True))
        return _pool(axes)(input, windows, return_indices=return_indices)

    return adaptive_max_pool


def _pool(axes: int) -> Callable[..., Tensor | None]:
    def max_pool(
        input: Tensor,  # noqa: A002
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Tensor | None:
        """None for what is left as it is."""

        def each(value: Any) -> tuple[int, ...]:
            values = tuple(value) if isinstance(value, tuple | list) else (value,)
            return values * axes if len(values) == 1 else values

        if ceil_mode or return_indices or set(each(dilation)) != {1} or input.dim() != axes + 2:
            return None
        sizes, steps, pads = each(kernel_size), each(stride or kernel_size), each(padding)
        if any(pads):  # the edge repeated, which is in the window with its copies
            input = F.pad(input, [pad for pad in reversed(pads) for _ in range(2)], mode="replicate")  # noqa: A001
        windows = input
        for axis in range(axes):
            windows = windows.unfold(axis + 2, sizes[axis], steps[axis])
        first, *others = (windows[..., *place] for place in product(*map(range, sizes)))
        for other in others:
            first = _maximum(other, first)
        return first

    return max_pool


_REPLACED: dict[Any, Callable[..., Tensor | None]] = {
    **dict.fromkeys((F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_), _relu),
    F.relu6: _relu6,
    **dict.fromkeys((F.hardtanh, F.hardtanh_), _hardtanh),
    **dict.fromkeys((F.leaky_relu, F.leaky_relu_), _leaky_relu),
    **dict.fromkeys((F.prelu, torch.prelu), _prelu),
    **dict.fromkeys((torch.abs, Tensor.abs, Tensor.__abs__), _abs),
    **dict.fromkeys((torch.maximum, Tensor.maximum), _maximum),
    **dict.fromkeys((F.elu, F.elu_), _elu),
    **dict.fromkeys((F.celu, F.celu_, torch.celu, torch.celu_), _celu),
    **dict.fromkeys((F.selu, F.selu_, torch.selu, torch.selu_), _selu),
    F.softshrink: _softshrink,
    **dict.fromkeys((torch.clamp, Tensor.clamp, torch.clip, Tensor.clip, torch.clamp_min, Tensor.clamp_min), _clamp),
    **dict.fromkeys((torch.clamp_max, Tensor.clamp_max), _clamp_max),
    **dict.fromkeys((torch.amax, Tensor.amax), _amax),
    **dict.fromkeys((torch.amin, Tensor.amin), _amin),
    **dict.fromkeys((torch.max, Tensor.max), _max),
    **dict.fromkeys((F.adaptive_max_pool1d, torch.adaptive_max_pool1d), _adaptive_pool(1)),
    F.adaptive_max_pool2d: _adaptive_pool(2),
    F.adaptive_max_pool3d: _adaptive_pool(3),
    **dict.fromkeys((torch.minimum, Tensor.minimum), _minimum),
    **dict.fromkeys((F.max_pool1d, torch.max_pool1d), _pool(1)),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), _pool(2)),
    **dict.fromkeys((F.max_pool3d, torch.max_pool3d), _pool(3)),
}


class Smoothed(TorchFunctionMode):
    """A context in which rectifiers, maxima and absolute values are smooth, for what this thread runs inside."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        smooth = _REPLACED.get(func)
        if smooth is not None and all(not isinstance(each, Tensor) or each.is_floating_point() for each in args):
            found = smooth(*args, **(kwargs or {}))
            if found is not None:
                return found
        return func(*args, **(kwargs or {}))
