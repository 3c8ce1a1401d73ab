"""Puts a model in evaluation mode temporarily; modes, state and generators are restored afterwards."""

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from gradreg_core.preflight.references import references

__all__ = ["undisturbed", "unwrapped"]

_MODES = {"deterministic": True, "use_running_average": True}
"""Attributes of Flax NNX modules, and their values in evaluation."""


def unwrapped(model: Any) -> Any:
    """The module inside DataParallel, DistributedDataParallel and torch.compile; other models unchanged.

    A forward pass of DistributedDataParallel makes it expect a backward pass, and a compiled module has no second
    derivative.
    """
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(model, torch.nn.Module):
        return model
    if isinstance(model, torch.nn.parallel.DistributedDataParallel | torch.nn.DataParallel):
        return unwrapped(model.module)
    inner = vars(model).get("_modules", {}).get("_orig_mod")
    return model if inner is None else unwrapped(inner)


@contextmanager
def undisturbed(model: Any, evaluation: bool) -> Iterator[None]:
    """A context with modules in evaluation mode if `evaluation`, in which derivatives can be taken.

    It restores modes and the generators of Python and NumPy; the backend restores the model's state
    (`gradreg_core.backend.Backend.repeatable`).
    """
    with ExitStack() as stack:
        stack.enter_context(_host_generators())
        torch = sys.modules.get("torch")
        if torch is not None:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
        if evaluation:
            stack.enter_context(_evaluation_mode([owner for _, owner in references(model)]))
        yield


@contextmanager
def _host_generators() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global one, which models may use
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def _evaluation_mode(owners: list[Any]) -> Iterator[None]:
    """The modules among the owners, and those inside them, one by one: `train()` may do more than set the mode."""
    before: list[tuple[Any, str, Any]] = []
    try:
        for module, name, value in _modes(owners):
            if getattr(module, name) != value:
                before.append((module, name, getattr(module, name)))
                setattr(module, name, value)
        yield
    finally:
        for module, name, value in reversed(before):
            setattr(module, name, value)


def _modes(owners: list[Any]) -> Iterator[tuple[Any, str, bool]]:
    """(module, attribute, its value in evaluation)."""
    torch, nnx = sys.modules.get("torch"), sys.modules.get("flax.nnx")
    for owner in owners:
        if torch is not None and isinstance(owner, torch.nn.Module):
            yield from ((module, "training", False) for module in owner.modules())
        elif nnx is not None and isinstance(owner, nnx.Module):
            for _, module in nnx.iter_modules(owner):
                yield from (
                    (module, name, on) for name, on in _MODES.items() if isinstance(vars(module).get(name), bool)
                )
