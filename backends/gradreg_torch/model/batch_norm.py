"""Finds batch normalisation in training mode, which couples the samples of a batch."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import nn

from gradreg_core.callers import levels_to_caller
from gradreg_core.errors import BatchNormError, BatchNormWarning, batch_norm_message
from gradreg_core.layer_calls import KERAS, layer_calls
from gradreg_torch.model.module_calls import module_calls

__all__ = ["batch_norm_policy", "report_coupling"]


@contextmanager
def batch_norm_policy(call: str, model: Any, policy: str) -> Iterator[None]:
    """Raise or warn, as `policy` says, if the model normalises over the batch.

    A module is searched before the forward pass. Modules behind a plain function, and Keras layers, whose mode is an
    argument, are seen when they are called.

    Raises:
        BatchNormError: the policy is "error".
    """
    if policy == "allow":
        yield
        return
    coupling: list[nn.Module] = []

    def seen(module: nn.Module) -> None:
        coupling.append(module)
        if policy == "error":
            _report(call, _name(module), module, policy)

    def look(module: nn.Module) -> None:
        if _couples(module):
            seen(module)

    if isinstance(model, nn.Module):
        report_coupling(call, model, policy)
    with nullcontext() if isinstance(model, nn.Module) else module_calls(look), layer_calls([KERAS], seen):
        yield
    if coupling:
        _report(call, _name(coupling[0]), coupling[0], policy)


def report_coupling(call: str, model: nn.Module, policy: str) -> None:
    """Raise or warn, as `policy` says, if a module in `model` normalises over the batch.

    This runs at every call, on modules as they are now, so the loop makes no Python call per module.

    Raises:
        BatchNormError: the policy is "error".
    """
    todo: list[nn.Module] = [model]
    seen: set[int] = set()
    while todo:
        module = todo.pop()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and _couples(module):
            name = next(name for name, other in model.named_modules() if other is module)
            _report(call, name or "the model", module, policy)
            return
        if module._modules:
            for child in reversed(module._modules.values()):
                if child is not None and id(child) not in seen:
                    seen.add(id(child))
                    todo.append(child)


def _couples(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None)


def _name(module: nn.Module) -> str:
    """Keras' layers know their names."""
    return str(getattr(module, "name", "a layer"))


def _report(call: str, name: str, module: nn.Module, policy: str) -> None:
    remedy = "GroupNorm or LayerNorm, put the module in eval mode"
    message = batch_norm_message(call, f"{name} ({type(module).__name__})", remedy)
    if policy == "error":
        error = BatchNormError(message)
        error._keras_call_info_injected = True  # type: ignore[attr-defined] # or Keras would rewrite the message
        raise error
    warnings.warn(message, BatchNormWarning, stacklevel=levels_to_caller(("gradreg_torch", "keras", "torch")))
