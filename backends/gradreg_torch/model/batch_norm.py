"""Finds batch normalisation in training mode, which couples the samples of a batch."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from gradreg_core.callers import levels_to_caller
from gradreg_core.errors import BatchNormError, BatchNormWarning, batch_norm_message
from gradreg_torch.model.module_calls import module_calls

__all__ = ["batch_norm_policy"]


@contextmanager
def batch_norm_policy(call: str, model: Any, policy: str) -> Iterator[None]:
    """Raise or warn, as `policy` says, if the model normalises over the batch.

    A module is searched before the forward pass. Modules behind a plain function are seen when it calls them.

    Raises:
        BatchNormError: the policy is "error".
    """
    if policy == "allow":
        yield
    elif isinstance(model, nn.Module):
        for name, module in model.named_modules():
            if _couples(module):
                _report(call, name or "the model", module, policy)
                break
        yield
    else:
        coupling: list[nn.Module] = []

        def look(module: nn.Module) -> None:
            if _couples(module):
                coupling.append(module)
                if policy == "error":
                    _report(call, "a layer", module, policy)

        with module_calls(look):
            yield
        if coupling:
            _report(call, "a layer", coupling[0], policy)


def _couples(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None)


def _report(call: str, name: str, module: nn.Module, policy: str) -> None:
    remedy = "GroupNorm or LayerNorm, put the module in eval mode"
    message = batch_norm_message(call, f"{name} ({type(module).__name__})", remedy)
    if policy == "error":
        raise BatchNormError(message)
    warnings.warn(message, BatchNormWarning, stacklevel=levels_to_caller(("gradreg_torch", "torch")))
