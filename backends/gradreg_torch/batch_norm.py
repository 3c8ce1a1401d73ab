"""Batch normalisation in training mode couples the samples of a batch: find it."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from gradreg_core.errors import BatchNormError, BatchNormWarning

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
        with _watched(call, policy) as seen:
            yield
        if seen:
            _report(call, "a layer", seen[0], policy)


@contextmanager
def _watched(call: str, policy: str) -> Iterator[list[nn.Module]]:
    seen: list[nn.Module] = []
    thread = get_ident()

    def before(module: nn.Module, inputs: Any) -> None:
        if not torch.compiler.is_compiling() and get_ident() == thread and _couples(module):
            seen.append(module)
            if policy == "error":
                _report(call, "a layer", module, policy)

    hook = register_module_forward_pre_hook(before)
    try:
        yield seen
    finally:
        hook.remove()


def _couples(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None)


def _report(call: str, name: str, module: nn.Module, policy: str) -> None:
    message = (
        f"{call}: {name} ({type(module).__name__}) is in training mode and couples the samples of a batch, so each "
        f"sample's penalty also counts its effect on the others. Use GroupNorm or LayerNorm, put the module in eval "
        f"mode, or pass batch_norm='allow' if that is meant."
    )
    if policy == "error":
        raise BatchNormError(message)
    warnings.warn(message, BatchNormWarning, stacklevel=7)
