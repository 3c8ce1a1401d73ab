"""Names operations without a second derivative in gradreg's call; PyTorch raises only in the caller's backward pass.

A selective checkpoint returns its saved results only once, and is refused here too.

gradreg checks the graph of a penalty once per model, which costs about a microsecond per node, and in every call
if torch.compile may have compiled a part of the model.
"""

import functools
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from types import FunctionType
from typing import Any
from weakref import WeakSet

from torch import Tensor, nn
from torch.utils import checkpoint

from gradreg_core.errors import InputError
from gradreg_torch.diagnose import double_backward

__all__ = ["require_differentiable", "require_trainable"]

_COMPILED = "CompiledFunctionBackwardBackward"
_ONCE = "torch::autograd::Error"
_FAILING = ("torch::autograd::NotImplemented", "CdistBackwardBackward0", "PdistBackwardBackward0", _COMPILED)
"""Nodes that raise when a backward pass reaches them."""
_COMPILER = "torch._functorch.aot_autograd"
"""The module that is loaded if anything was compiled this way. An optimizer imports torch._dynamo, but not this."""
_FORWARD = re.compile(r"(ScaledDot\w+|Cudnn\w+|Miopen\w+|CtcLoss\w*|EmbeddingBag\w*|_?C?dist|_?P?dist)Backward\d")
"""The nodes of operations whose backward pass has no derivative, and for which there is a remedy."""

_models: WeakSet[Any] = WeakSet()
"""Models whose graph has been checked: modules, and the code of functions."""


def require_differentiable(call: str, model: Any, value: Tensor) -> None:
    """Refuse a penalty that a backward pass could not differentiate.

    Args:
        call: the call's name, for messages.
        model: the model.
        value: the penalty.

    Raises:
        DoubleBackwardError: the graph of `value` has an operation without a second derivative and with parameters
            behind it, a compiled backward pass, or a selective checkpoint.
    """
    key = model if isinstance(model, nn.Module) else getattr(model, "__code__", None)
    known = key is not None and key in _models
    if value.grad_fn is None or (known and _COMPILER not in sys.modules):
        return
    forward = ""
    for node in (nodes := list(_behind(value.grad_fn))):
        name = node.name()
        if name == _ONCE:  # it raises in total.backward(), but autograd.grad(total, weights) skips it
            _refuse(call, "trying to differentiate twice a function that was marked with @once_differentiable")
        if name == _COMPILED:
            _refuse(call, "torch.compile with aot_autograd does not support double backward")
        forward = forward or (_FORWARD.match(name) or [""])[0]
    for node in nodes:
        if node.name() in _FAILING and any(map(_is_parameter, _behind(node))):
            _refuse(call, f"the derivative of {_snake(forward) or 'a backward pass'} is not implemented")
    if any(map(_is_used_up, nodes)):
        _refuse(call, "a region under selective activation checkpoint can be differentiated only once")
    if key is not None:
        _models.add(key)


def require_trainable(call: str, model: Any, value: Tensor) -> None:
    """Refuse a penalty that a backward pass could not differentiate, or that no parameter of the model reaches.

    Raises:
        DoubleBackwardError: see :func:`require_differentiable`.
        InputError: the model has parameters to train, and the penalty, which is not 0, depends on none of them.
    """
    require_differentiable(call, model, value)
    if value.requires_grad or not isinstance(model, nn.Module):
        return
    if any(parameter.requires_grad for parameter in model.parameters()) and bool(value != 0):
        raise InputError(
            f"{call}: the penalty has no gradient: the model's parameters do not reach it. Look for .detach(), .data "
            f"or torch.no_grad() in the model, or call under torch.no_grad() if only the value is wanted."
        )


def _refuse(call: str, cause: str) -> None:
    error = RuntimeError(cause)
    raise double_backward(call, error) from error


def _behind(node: Any) -> Iterator[Any]:
    """The node and all nodes that a backward pass reaches from it, each once."""
    seen: set[Any] = {node}
    todo: list[Any] = [node]
    while todo:
        node = todo.pop()
        yield node
        new = {following for following, _ in node.next_functions if following is not None} - seen
        seen |= new
        todo += new


@functools.cache
def _names_of_saved(kind: type) -> list[str]:
    """The attributes in which nodes of a type keep saved tensors."""
    return [name for name in dir(kind) if name.startswith("_raw_saved_")]


def _is_used_up(node: Any) -> bool:
    """Whether a selective checkpoint has already returned what the node needs in the caller's backward pass.

    Older versions of PyTorch do not show it.
    """
    kind: Any = type(node)
    for name in _names_of_saved(kind):
        saved = getattr(node, name)
        for tensor in saved if isinstance(saved, tuple) else (saved,):
            hook = getattr(tensor, "unpack_hook", None)
            if hook is not None and any(map(_has_given, _of_recomputation(hook))):
                return True
    return False


def _of_recomputation(hook: Any) -> list[Any]:
    """The values that a checkpoint's recomputing function refers to."""
    recomputed = [getattr(frame, "recompute_fn", None) for frame in _closed_over(hook)]
    values = [value for function in recomputed for value in _closed_over(function)]
    return [*values, *(inner for value in values for inner in _closed_over(value))]  # if a mode wraps it


def _has_given(context: Any) -> bool:
    """Whether a value is the context of a selective checkpoint that has returned a result."""
    consumed, storage = getattr(checkpoint, "_CONSUMED", None), getattr(context, "storage", None)
    if (
        consumed is None
        or not isinstance(context, checkpoint._CachedTorchDispatchMode)
        or not isinstance(storage, dict)
    ):
        return False
    return any(result is consumed for results in storage.values() for result in results.values())


def _closed_over(function: Any) -> list[Any]:
    """The variables that a function closes over; empty for other values."""
    values = []
    for cell in (function.__closure__ or ()) if isinstance(function, FunctionType) else ():
        with suppress(ValueError):  # an empty cell
            values.append(cell.cell_contents)
    return values


def _is_parameter(node: Any) -> bool:
    return isinstance(getattr(node, "variable", None), nn.Parameter)


def _snake(name: str) -> str:
    """``ScaledDotProductAttentionBackward0`` as ``scaled_dot_product_attention_backward``."""
    return re.sub(r"(?<=[a-z])([A-Z])", r"_\1", name.rstrip("0123456789")).lower().removesuffix("_backward")
