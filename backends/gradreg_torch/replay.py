"""Calling a model again as if nothing had happened: the same random numbers, the same buffers."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from gradreg_core.errors import UnsupportedError

__all__ = ["aside", "both", "repeatable"]


@contextmanager
def repeatable(model: Any) -> Iterator[None]:
    """Random layers draw the same inside each such context; buffers and generators are as before afterwards."""
    buffers = list(model.buffers()) if isinstance(model, nn.Module) else []
    before = [each.detach().clone() for each in buffers]
    with torch.random.fork_rng(), nullcontext() if isinstance(model, nn.Module) else _copies():
        torch.manual_seed(0)
        yield
    with torch.no_grad():
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)


def both(model: Any, x: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
    """(model(x), model(moved)) from the same state of the generators; buffers end as after model(x).

    Raises:
        UnsupportedError: dropout, or a function that may have some, inside torch.compile, where the generator cannot be
            set back; or autocast, whose rounding is larger than the difference.
    """
    if torch.is_autocast_enabled(x.device.type):
        raise UnsupportedError(
            "method='difference' needs the passes in float32: under autocast their rounding enters divided by h. Use "
            "method='jvp', or leave autocast for the penalty."
        )
    if torch.compiler.is_compiling():
        whole = model.model if isinstance(model, _Aside) else model
        if not isinstance(whole, nn.Module) or any(map(_draws, whole.modules())):
            raise UnsupportedError(
                "method='difference' cannot repeat a dropout mask inside torch.compile, nor see whether a plain "
                "function has any; use method='jvp', pass the nn.Module itself, or compile the model alone."
            )
        return model(x), aside(model)(moved)
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        other = aside(model)(moved)
    return model(x), other


def _draws(module: nn.Module) -> bool:
    """Whether the module draws a mask: dropout layers, and attention, recurrent and residual ones with a rate."""
    rates = (getattr(module, name, None) for name in ("p", "dropout", "drop_prob"))
    return module.training and any(isinstance(rate, int | float) and rate > 0 for rate in rates)


def aside(model: Any) -> Any:
    """The model with copies in the place of the buffers.

    Their values could not be put back afterwards: a backward pass may need what a pass read from them, and which ones a
    pass changed cannot be told, since batch normalisation leaves their version counters alone.
    """
    return model if isinstance(model, _Aside) else _Aside(model)


class _Aside:
    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, x: Tensor) -> Tensor:
        model = self.model
        if not isinstance(model, nn.Module):
            if torch.compiler.is_compiling():
                return model(x)
            with _copies():
                return model(x)
        copies = {name: each.clone() for name, each in model.named_buffers()}
        return torch.func.functional_call(model, copies, (x,)) if copies else model(x)


@contextmanager
def _copies() -> Iterator[None]:
    """Modules that are called inside see copies of their buffers, however a plain function comes to call them."""
    copies: dict[Tensor, Tensor] = {}
    calls: list[dict[str, Tensor]] = []

    thread = get_ident()

    def elsewhere() -> bool:
        return torch.compiler.is_compiling() or get_ident() != thread

    def before(module: nn.Module, inputs: Any) -> None:
        if elsewhere():
            return
        made = set(copies.values())
        own = {name: each for name, each in module._buffers.items() if each is not None and each not in made}
        for name, buffer in own.items():
            copies.setdefault(buffer, buffer.detach().clone())
            module._buffers[name] = copies[buffer]
        calls.append(own)

    def after(module: nn.Module, inputs: Any, output: Any) -> None:
        if not elsewhere() and calls:
            module._buffers.update(calls.pop())

    hooks = register_module_forward_pre_hook(before), register_module_forward_hook(after, always_call=True)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
