"""Calling a model again as if nothing had happened: the same random numbers, the same buffers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gradreg_core.errors import UnsupportedError

__all__ = ["both", "repeatable"]


@contextmanager
def repeatable(model: Any) -> Iterator[None]:
    """Random layers draw the same inside each such context; buffers and generators are as before afterwards."""
    buffers = list(model.buffers()) if isinstance(model, nn.Module) else []
    before = [each.detach().clone() for each in buffers]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    with torch.no_grad():
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)


def both(model: Any, x: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
    """(model(x), model(moved)) from the same state of the generators; buffers end as after model(x).

    Raises:
        UnsupportedError: dropout inside torch.compile, where the generator cannot be set back.
    """
    if torch.compiler.is_compiling():
        if isinstance(model, nn.Module) and any(map(_draws, model.modules())):
            raise UnsupportedError(
                "method='difference' cannot repeat a dropout mask inside torch.compile; use method='jvp', or compile "
                "the model alone."
            )
        return model(x), _aside(model, moved)
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        other = _aside(model, moved)
    return model(x), other


def _draws(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0


def _aside(model: Any, x: Tensor) -> Tensor:
    """model(x) with copies in the place of the buffers.

    Their values could not be put back afterwards: a backward pass may need what a pass read from them, and which ones a
    pass changed cannot be told, since batch normalisation leaves their version counters alone.
    """
    buffers = dict(model.named_buffers()) if isinstance(model, nn.Module) else {}
    if not buffers:
        return model(x)
    return torch.func.functional_call(model, {name: each.clone() for name, each in buffers.items()}, (x,))
