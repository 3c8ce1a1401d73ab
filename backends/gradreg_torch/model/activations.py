"""Activations by the names of the modules that compute them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradreg_core.errors import InputError
from gradreg_torch.model.replay import as_module

__all__ = ["forward_with_activations"]


def forward_with_activations(
    model: Any, x: Tensor, names: Sequence[str | None]
) -> tuple[Tensor, dict[str | None, Tensor]]:
    """The outputs for x, and the output of each named module on the way; None names x itself.

    Raises:
        InputError: a name is unknown, or its module is not called exactly once or does not return a differentiable
            tensor.
    """
    module = as_module(model)
    if module is None:
        raise InputError(f"at={names[-1]!r}: only a torch.nn.Module has named layers, got {type(model).__name__}.")
    if torch.compiler.is_compiling():
        raise InputError("at= does not work inside torch.compile; pass the head of the network and its input.")
    modules = dict(module.named_modules())
    kept: dict[str | None, Tensor] = {None: x}
    unknown = next((name for name in names if name is not None and name not in modules), None)
    if unknown is not None:
        known = ", ".join(sorted(filter(None, modules))[:20])
        raise InputError(f"at={unknown!r}: the model has no module of that name; it has {known}.")
    hooks = [modules[name].register_forward_hook(_keeper(kept, name)) for name in names if name is not None]
    try:
        outputs = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    missing = [name for name in names if name not in kept]
    if missing:
        raise InputError(f"at={missing[0]!r}: the module was not called in the forward pass.")
    return outputs, kept


def _keeper(kept: dict[str | None, Tensor], name: str) -> Callable[..., Tensor]:
    def keep(module: nn.Module, inputs: Any, output: Any) -> Tensor:
        if name in kept:
            raise InputError(f"at={name!r}: the module is called more than once in a forward pass.")
        if not isinstance(output, Tensor) or not output.requires_grad:
            raise InputError(f"at={name!r}: the module's output is not a differentiable tensor.")
        kept[name] = output
        return output.clone()  # the next module may work in place

    return keep
