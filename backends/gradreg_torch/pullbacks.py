"""Pullbacks: on the graph of an eager forward pass, and by torch.func inside compilers and transforms."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from gradreg_core.backend import Pullback
from gradreg_core.errors import InputError
from gradreg_torch import first_layer
from gradreg_torch.compiled import require_second_derivatives, seen_to_require_grad
from gradreg_torch.diagnose import WRITES
from gradreg_torch.first_layer import FirstLayer
from gradreg_torch.function_modes import beneath
from gradreg_torch.shared_models import before_backward, is_shared, joined, require_double_backward

__all__ = [
    "in_transform",
    "joined_pullback",
    "on_graph",
    "pullback_of",
    "transformed",
    "unchanged",
    "values_of",
]


def transformed(
    flatten: Callable[[Any], tuple[Any, Any]], fn: Callable[[Tensor], tuple[Tensor, Any]], x: Tensor
) -> tuple[Tensor, Any, Pullback]:
    """`vjp_with_aux` by torch.func. Tensors that the model returns beside the outputs leave through `aux`."""
    rebuilt: list[Callable[[Sequence[Any]], Any]] = []

    def with_tensors(point: Tensor) -> tuple[Tensor, list[Tensor]]:
        outputs, aux = fn(seen_to_require_grad(point))
        leaves, rebuild = flatten(aux)
        is_tensor = [isinstance(leaf, Tensor) for _, leaf in leaves]

        def rebuild_all(tensors: Sequence[Any]) -> Any:
            given = iter(tensors)
            return rebuild([next(given) if flag else leaf for flag, (_, leaf) in zip(is_tensor, leaves, strict=True)])

        rebuilt.append(rebuild_all)
        return outputs, [leaf for flag, (_, leaf) in zip(is_tensor, leaves, strict=True) if flag]

    outputs, pull, tensors = torch.func.vjp(with_tensors, x, has_aux=True)  # type: ignore[misc] # its stub has two
    require_second_derivatives()
    return outputs, rebuilt[-1](tensors), lambda w: pull(w)[0]


def in_transform() -> bool:
    """Whether a torch.func transform is running, or forward mode: autograd.grad does not work inside either."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def unchanged(x: Tensor, fn: Callable[[Tensor], Any]) -> Any:
    """fn(x), refused if it writes into x: the derivative would be with respect to the new values."""
    version = x._version
    result = fn(x)
    if x._version != version:
        raise InputError(WRITES)
    return result


def on_graph(x: Tensor, fn: Callable[[Tensor], Any]) -> tuple[Any, Tensor, FirstLayer | None]:
    """(fn(point), point, gate) for a point of the values of x that requires a gradient only for the inner pass."""
    point = x.detach().requires_grad_()
    if x.numel() < first_layer.GATED_FROM:
        return unchanged(point, fn), point, None
    layer = FirstLayer(point)
    with beneath(layer):
        return unchanged(point, fn), point, layer


def pullback_of(outputs: Any, x: Any, name: str, layer: FirstLayer | None = None) -> Pullback:
    """The map w -> J^T w on the graph from x to outputs, differentiable and repeatable; the gate of `layer` is open."""

    def pullback(w: Tensor) -> Tensor:
        if not isinstance(outputs, Tensor) or not outputs.requires_grad:
            raise InputError(
                f"{name} does not reach the outputs: the model detaches them or computes without gradient."
            )
        shared = is_shared()
        if shared:
            require_double_backward()
        if layer is None:
            (gradient,) = torch.autograd.grad(outputs, x, w, create_graph=True, allow_unused=True)
        else:
            before, layer.open = layer.open, True
            try:
                (gradient,) = torch.autograd.grad(outputs, x, w, create_graph=True, allow_unused=True)
            finally:
                layer.open = before
        if gradient is None:
            raise InputError(f"{name} does not reach the outputs: they do not depend on it differentiably.")
        return before_backward(gradient) if shared else gradient

    return pullback


def values_of(array: Tensor) -> np.ndarray | None:
    """The values of a tensor in memory; None for a placeholder such as a fake tensor."""
    array = array.detach() if array.requires_grad else array
    try:
        return (array.float() if array.dtype == torch.bfloat16 else array).numpy()
    except (RuntimeError, TypeError):
        return None


def joined_pullback(pullback: Pullback, returned: Callable[[], Any]) -> Pullback:
    """`pullback`; if processes share the model, its results are joined to what the model returned."""
    return lambda w: joined(pullback(w), returned)
