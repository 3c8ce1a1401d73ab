"""Models that processes share: what their wrappers need in order to synchronise and gather in a double backward pass.

* DistributedDataParallel averages gradients once every parameter that the outputs depend on is reached, fully_shard
  once a backward pass comes to the inputs of each module. A penalty alone may do neither (it does not depend on the
  last bias, say), so it is joined to the outputs with a gradient of zero.
* fully_shard frees the gathered parameters after the inner pass and gathers them again when the backward pass comes to
  the outputs of a module. The second derivatives come before that, so all are gathered where they begin.
* DistributedDataParallel(static_graph=True) and FullyShardedDataParallel take the inner pass for the whole backward
  pass. They are refused.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gradreg_core.errors import UnsupportedError
from gradreg_torch.model.module_calls import module_calls

__all__ = ["before_backward", "joined", "require_double_backward", "shared_models"]

_here = threading.local()


@dataclass
class _Shared:
    """The wrappers of one call."""

    call: str
    differentiable: bool
    """Whether the caller may differentiate the result."""
    replicated: list[DistributedDataParallel] = field(default_factory=list)
    sharded: list[Any] = field(default_factory=list)
    """Modules of fully_shard."""
    flattened: list[nn.Module] = field(default_factory=list)
    """FullyShardedDataParallel."""

    def add(self, module: nn.Module) -> None:
        from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

        if isinstance(module, DistributedDataParallel):
            self.replicated.append(module)
        elif isinstance(module, FSDPModule) and module not in self.sharded:
            self.sharded.append(module)
        elif isinstance(module, FullyShardedDataParallel):
            self.flattened.append(module)


def _active() -> _Shared | None:
    shared: _Shared | None = getattr(_here, "shared", None)
    return shared


@contextmanager
def shared_models(call: str, model: Any, differentiable: bool) -> Iterator[None]:
    """A call, in which the wrappers of the model, or of what a plain function calls, are known to the functions below.

    Args:
        call: its name, for messages.
        model: a module or a function.
        differentiable: whether the caller may differentiate the result.
    """
    if not (dist.is_available() and dist.is_initialized()):
        yield
        return
    before, _here.shared = _active(), (shared := _Shared(call, differentiable))
    try:
        if isinstance(model, nn.Module):
            for module in model.modules():
                shared.add(module)
            yield
        else:
            with module_calls(shared.add):
                yield
    finally:
        _here.shared = before
        for module in shared.sharded:
            module.reshard()


def require_double_backward() -> None:
    """Refuse wrappers that would be wrong, before an inner pass whose result may be differentiated.

    Raises:
        UnsupportedError: DistributedDataParallel with a static graph, or FullyShardedDataParallel.
    """
    shared = _active()
    if shared is None or not shared.differentiable:
        return
    if any(wrapper.static_graph for wrapper in shared.replicated):
        raise UnsupportedError(
            f"{shared.call}: DistributedDataParallel(static_graph=True) does not average gradients after an inner "
            f"backward pass. Leave static_graph out, or use side='input' with method='difference', which makes none."
        )
    if shared.flattened:
        raise UnsupportedError(
            f"{shared.call}: FullyShardedDataParallel takes an inner backward pass for the whole, and frees parameters "
            f"that the second derivative needs. Use torch.distributed.fsdp.fully_shard or DistributedDataParallel, or "
            f"side='input' with method='difference', which makes no inner pass."
        )


def before_backward(gradient: Tensor) -> Tensor:
    """The result of an inner pass. Where a backward pass reaches it, sharded parameters are gathered first."""
    shared = _active()
    if shared is not None and shared.sharded and gradient.requires_grad:
        gradient.register_hook(lambda _: _gather(shared.sharded))
    return gradient


def _gather(modules: Iterable[Any]) -> None:
    for module in modules:
        module.unshard()


def joined(value: Tensor, leaves: Callable[[], tuple[Any, Any]]) -> Tensor:
    """`value` plus an empty sum of what the model returned: all parameters are reached, with zeros where need be.

    Args:
        value: a result of an inner pass.
        leaves: gives the leaves of what the model returned, with their paths, and something more.
    """
    shared = _active()
    if shared is None or not (shared.differentiable and (shared.replicated or shared.sharded)):
        return value
    for _, leaf in leaves()[0]:
        if isinstance(leaf, Tensor) and leaf.requires_grad and leaf.is_floating_point():
            value = value + leaf.flatten()[:0].sum().to(value.dtype)
    return value
