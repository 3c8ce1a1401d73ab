"""Saves the computation of the input's gradient in the caller's `backward()`, which does not need it.

A penalty needs the input's gradient once, in the inner pass, so the input is a leaf that requires a gradient. The
caller's `backward()` would then compute the loss's gradient with respect to it too, through the whole first layer, and
throw it away: f of the 6 - f units of work per step, where f is the first layer's share of a forward pass.

Here the first linear or convolutional layer treats the input as a constant, and is followed by a gate that knows the
layer's transpose. The gate is open during the forward pass (a model may differentiate itself) and the inner pass:

    y = W x + b           forward, x a constant
    gate open:            g -> g, W^T g        differentiable in g and W, as the stock layer is
    gate closed:          g -> g, no gradient for x
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

from gradreg_torch.convolution import Geometry, input_gradient
from gradreg_torch.versions import innermost_hooks

__all__ = ["GATED_FROM", "FirstLayer"]

GATED_FROM = 2**14
"""The size of x from which the gate saves more than the mode's Python calls cost.

Measured on the CPU, forward and backward: a step on 8192 numbers with a first layer of 512 is 8 % slower with the
gate, one on 50176 numbers is 5 % faster.
"""

_VIEWS = frozenset(
    {
        torch.flatten,
        torch.reshape,
        torch.unsqueeze,
        torch.squeeze,
        torch.permute,
        torch.transpose,
        torch.movedim,
        Tensor.flatten,
        Tensor.reshape,
        Tensor.view,
        Tensor.unsqueeze,
        Tensor.squeeze,
        Tensor.permute,
        Tensor.transpose,
        Tensor.movedim,
        Tensor.contiguous,
    }
)
_PRODUCTS = frozenset({torch.matmul, Tensor.matmul, Tensor.__matmul__})
_CONVOLUTIONS = frozenset({torch.conv1d, torch.conv2d, torch.conv3d})
_LAYERS = _PRODUCTS | _CONVOLUTIONS | {F.linear}
_Transpose = Callable[[Tensor, Tensor], Tensor]
"""(g, W) -> W^T g, differentiable in both."""


class FirstLayer(TorchFunctionMode):
    """A mode for the forward pass that gates the layers applied to x or to views of x.

    Args:
        x: a leaf that requires a gradient only for the inner pass.
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.open = False
        """Also true during an inner pass."""
        self._inputs = [x]

    def __enter__(self) -> "FirstLayer":
        self.open = True
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.open = False
        super().__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # A compiler would treat the gate's state as a constant. (`is_compiling` makes two calls per operation.)
        if torch.compiler.is_dynamo_compiling():
            return func(*args, **kwargs)
        is_input = False
        for known_input in self._inputs:
            is_input = is_input or (len(args) > 0 and args[0] is known_input)
        if not is_input or torch.compiler.is_compiling():
            return func(*args, **kwargs)
        if func in _VIEWS:
            view = func(*args, **kwargs)
            self._inputs.append(view)
            return view
        is_layer = func in _LAYERS and len(args) > 1 and _is_plain(args[0])
        transpose = _transpose(func, *args, **kwargs) if is_layer else None
        if transpose is None:
            return func(*args, **kwargs)
        x, weight, *others = args
        return _Gate.apply(func(x.detach(), weight, *others, **kwargs), x, weight, transpose, self)


def _is_plain(x: Tensor) -> bool:
    """Whether no checkpoint, autocast, transform or tensor subclass changes what is saved or which function runs."""
    kind = x.device.type
    autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    transform = torch._C._functorch.peek_interpreter_stack() is not None
    return (
        type(x) is Tensor and innermost_hooks() is None and torch.is_grad_enabled() and not autocast and not transform
    )


def _transpose(func: Any, x: Tensor, weight: Any = None, bias: Any = None, *args: Any, **kwargs: Any) -> Any:
    """The transpose of the layer, or None if it gets no gate."""
    if type(weight) not in (Tensor, nn.Parameter) or weight.dtype != x.dtype:
        return None
    if func is F.linear and weight.dim() == 2:
        return lambda g, w: g @ w
    if func in _PRODUCTS and weight.dim() == 2 and x.dim() >= 2:
        return lambda g, w: g @ w.t()
    if func in _CONVOLUTIONS and x.dim() == weight.dim() and _is_numeric(*args, **kwargs):
        like, geometry = x.detach(), Geometry.of(weight, *args, **kwargs)
        return lambda g, w: input_gradient(g, w, like, geometry)
    return None


def _is_numeric(stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: Any = 1) -> bool:
    return not isinstance(padding, str)


class _Gate(Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, weight: Tensor, transpose: _Transpose, layer: FirstLayer) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.transpose, ctx.layer = transpose, layer
        ctx.mark_dirty(y)  # not a view: the next layer may work in place
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (weight,) = ctx.saved_tensors
        wanted = ctx.layer.open and ctx.needs_input_grad[1]
        return g, ctx.transpose(g, weight) if wanted else None, None, None, None
