"""Calling a model again as if nothing had happened: the same random numbers, the same buffers."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from gradreg_core.errors import UnsupportedError
from gradreg_torch.model.module_calls import module_calls

__all__ = ["as_module", "aside", "both", "repeatable"]


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
        whole = as_module(model)
        if whole is None or any(map(_draws, whole.modules())):
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


def as_module(model: Any) -> nn.Module | None:
    """The module that the model is, aside or not; None for other functions."""
    whole = model.model if isinstance(model, _Aside) else model
    return whole if isinstance(whole, nn.Module) else None


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
    """Buffer -> copy, and each copy -> itself: a module may be called again inside its own call."""
    calls: list[dict[str, Tensor]] = []

    def before(module: nn.Module) -> None:
        own = {name: each for name, each in module._buffers.items() if each is not None}
        for name, buffer in own.items():
            if buffer not in copies:
                copy = buffer.detach().clone()
                copies[buffer] = copies[copy] = copy
            module._buffers[name] = copies[buffer]
        calls.append(own)

    def after(module: nn.Module) -> None:
        if calls:
            module._buffers.update(calls.pop())

    with module_calls(before, after):
        yield
