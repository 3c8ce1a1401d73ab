"""Calls a model again from the same random numbers, buffers and attributes."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from gradreg_core.backend import Apply
from gradreg_core.errors import UnsupportedError
from gradreg_torch.model.attributes import Kept, attributes_kept
from gradreg_torch.model.module_calls import module_calls

__all__ = ["as_module", "call_twice", "repeatable", "same_draws", "without_state_changes"]


@contextmanager
def repeatable(model: Any) -> Iterator[None]:
    """Make random layers draw the same in each such context; restore buffers and generators afterwards."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    buffers = [buffer for module in modules for buffer in module.buffers(recurse=False)]
    values = [buffer.detach().clone() for buffer in buffers]
    names = [(module, dict(module._buffers)) for module in modules if not isinstance(module, torch.jit.ScriptModule)]
    own = attributes_kept(modules) if isinstance(model, nn.Module) else _copied_buffers()
    try:
        with torch.random.fork_rng(), own:
            torch.manual_seed(0)
            yield
    finally:
        for module, before in names:  # a model may put other tensors in their place
            module._buffers.update(before)
        with torch.no_grad():
            for buffer, value in zip(buffers, values, strict=True):
                buffer.copy_(value)


def call_twice(model: Any, apply: Apply, x: Tensor, moved: Tensor) -> tuple[Tensor, Any, Tensor]:
    """(outputs, what the model returned, outputs at `moved`) from one state of the generators and buffers.

    The buffers end as they are after the pass at x.

    Raises:
        UnsupportedError: inside torch.compile, where the generator cannot be set back, the model has dropout or is a
            function that may have some; or autocast is on, and its rounding is coarser than the difference.
    """
    if torch.is_autocast_enabled(x.device.type):
        raise UnsupportedError(
            "method='difference' needs both passes in float32: autocast's rounding errors are divided by h. Use "
            "method='jvp', or switch autocast off for the penalty."
        )
    if torch.compiler.is_compiling():
        module = as_module(model)
        if module is None or any(map(_draws_masks, module.modules())):
            raise UnsupportedError(
                "method='difference' cannot repeat a dropout mask inside torch.compile, nor see whether a plain "
                "function has any. Use method='jvp', pass the nn.Module itself, or compile the model alone."
            )
        return *apply(model, x), apply(without_state_changes(model), moved)[0]
    with same_draws(x):
        moved_outputs, _ = apply(without_state_changes(model), moved)
    return *apply(model, x), moved_outputs


def same_draws(x: Tensor) -> AbstractContextManager[None]:
    """A context that restores the generators on the device of x; it does nothing inside a compiler."""
    if torch.compiler.is_compiling():
        return nullcontext()
    return torch.random.fork_rng([x.device] if x.device.type == "cuda" else [])


def _draws_masks(module: nn.Module) -> bool:
    """Whether the module draws masks: dropout layers, and attention, recurrent and residual layers with a rate."""
    rates = (getattr(module, name, None) for name in ("p", "dropout", "drop_prob"))
    return module.training and any(isinstance(rate, int | float) and rate > 0 for rate in rates)


def without_state_changes(model: Any) -> Any:
    """The model as a function that works on copies of the buffers.

    Restoring the buffers afterwards would not do: a backward pass may need the values that a forward pass read, and
    nothing shows which buffers changed, since batch normalisation does not increase their version counters.
    """
    return model if isinstance(model, _OnCopies) else _OnCopies(model)


def as_module(model: Any) -> nn.Module | None:
    """The module behind `model`, also if it works on copies; None for other functions."""
    inner = model.model if isinstance(model, _OnCopies) else model
    return inner if isinstance(inner, nn.Module) else None


class _OnCopies:
    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        model = self.model
        if not isinstance(model, nn.Module):
            if torch.compiler.is_compiling():
                return model(*args, **kwargs)
            with _copied_buffers():
                return model(*args, **kwargs)
        if torch.compiler.is_compiling():
            return _call_on_copies(model, args, kwargs)
        with attributes_kept(model.modules()):
            return _call_on_copies(model, args, kwargs)


def _call_on_copies(model: nn.Module, args: Any, kwargs: Any) -> Any:
    copies = {name: buffer.clone() for name, buffer in model.named_buffers()}
    if not copies:
        return model(*args, **kwargs)
    if isinstance(model, torch.jit.ScriptModule):
        with _scripted_on(model, copies):
            return model(*args, **kwargs)
    return torch.func.functional_call(model, copies, args, kwargs)


@contextmanager
def _scripted_on(model: nn.Module, copies: dict[str, Tensor]) -> Iterator[None]:
    """A scripted module, which `functional_call` does not accept, on copies of its buffers."""
    own, parts = dict(model.named_buffers()), dict(model.named_modules())

    def put(buffers: dict[str, Tensor]) -> None:
        for path, buffer in buffers.items():
            owner, _, name = path.rpartition(".")
            setattr(parts[owner], name, buffer)

    try:
        put(copies)
        yield
    finally:
        put(own)


@contextmanager
def _copied_buffers() -> Iterator[None]:
    """Modules called inside see copies of their buffers, also if a plain function calls them.

    Their plain attributes are restored afterwards.
    """
    kept = Kept()
    copies: dict[Tensor, Tensor] = {}
    """Buffer -> copy, and each copy -> itself: a module may be called again inside its own call."""
    replaced: list[dict[str, Tensor]] = []

    def before(module: nn.Module) -> None:
        kept.see(module)
        own = {name: buffer for name, buffer in module._buffers.items() if buffer is not None}
        for name, buffer in own.items():
            if buffer not in copies:
                copy = buffer.detach().clone()
                copies[buffer] = copies[copy] = copy
            module._buffers[name] = copies[buffer]
        replaced.append(own)

    def after(module: nn.Module) -> None:
        if replaced:
            module._buffers.update(replaced.pop())

    try:
        with module_calls(before, after):
            yield
    finally:
        kept.put_back()
