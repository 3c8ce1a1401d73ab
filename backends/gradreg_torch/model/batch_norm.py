"""Batch normalisation in training mode couples the samples of a batch: find it."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from gradreg_core.errors import BatchNormError, BatchNormWarning, batch_norm_message
from gradreg_torch.model.module_calls import module_calls

__all__ = ["batch_norm_policy"]


@contextmanager
def batch_norm_policy(call: str, model: Any, policy: str) -> Iterator[None]:
    """Raise or warn, as `policy` says, if the model normalises over the batch.

    A module is looked through before the forward pass; what a plain function calls is seen when it is called.

    Raises:
        BatchNormError: the policy is "error".
    """
    if policy == "allow":
        yield
    elif isinstance(model, nn.Module):
        name, found = next(((name, each) for name, each in model.named_modules() if _couples(each)), ("", None))
        if found is not None:
            _report(call, name or "the model", found, policy)
        yield
    else:
        seen: list[nn.Module] = []

        def look(module: nn.Module) -> None:
            if _couples(module):
                seen.append(module)
                if policy == "error":
                    _report(call, "a layer", module, policy)

        with module_calls(look):
            yield
        if seen:
            _report(call, "a layer", seen[0], policy)


def _couples(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None)


def _report(call: str, name: str, module: nn.Module, policy: str) -> None:
    remedy = "GroupNorm or LayerNorm, put the module in eval mode"
    message = batch_norm_message(call, f"{name} ({type(module).__name__})", remedy)
    if policy == "error":
        raise BatchNormError(message)
    warnings.warn(message, BatchNormWarning, stacklevel=7)
