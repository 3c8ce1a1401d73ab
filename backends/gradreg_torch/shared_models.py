"""Models that processes share: what their wrappers need in order to synchronise and gather in a double backward pass.

* DistributedDataParallel averages gradients once a backward pass reaches every parameter of the outputs, fully_shard
  once it reaches the inputs of each module. A penalty alone may do neither (it does not depend on the
  last bias, say), so it is joined to the outputs with a gradient of zero.
* fully_shard frees the gathered parameters after the inner pass and gathers them again when the backward pass reaches
  the outputs of a module. The second derivatives come first, so all parameters are gathered where they begin.
* DistributedDataParallel(static_graph=True) and FullyShardedDataParallel treat the inner pass as the whole backward
  pass. gradreg refuses them.
* Layers that are split between processes (parallelize_module) lose the input's gradient. gradreg refuses them.
* `check` changes single weights, which the storage of fully_shard does not allow. gradreg refuses it.
"""

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gradreg_core.errors import InputTypeError, UnsupportedError
from gradreg_torch.model.module_calls import module_calls

__all__ = [
    "before_backward",
    "is_shared",
    "joined",
    "on_this_process",
    "require_checkable",
    "require_double_backward",
    "shared_models",
]

_here = threading.local()


@dataclass
class _Shared:
    """The wrappers around the models of one call."""

    call: str
    differentiable: bool
    """Whether the caller may differentiate the result."""
    replicated: list[DistributedDataParallel] = field(default_factory=list)
    sharded: list[Any] = field(default_factory=list)
    """Modules with fully_shard."""
    flattened: list[nn.Module] = field(default_factory=list)
    """FullyShardedDataParallel."""
    split: list[str] = field(default_factory=list)
    """The classes of layers that ran on a part of a parameter."""

    def add(self, module: nn.Module) -> None:
        from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

        if isinstance(module, DistributedDataParallel):
            self.replicated.append(module)
        elif isinstance(module, FSDPModule) and module not in self.sharded:
            self.sharded.append(module)
        elif isinstance(module, FullyShardedDataParallel):
            self.flattened.append(module)

    def add_split(self, module: nn.Module) -> None:
        """Called after a module: fully_shard has gathered its parameters by then, other DTensors are still split."""
        if not self.split and any(map(_is_distributed, module._parameters.values())):
            self.split.append(type(module).__name__)

    def require_checkable(self) -> None:
        """Refuse `check` of a sharded model.

        Raises:
            UnsupportedError: the call is `check`, and fully_shard or FullyShardedDataParallel holds the parameters.
        """
        if self.call == "check" and (self.sharded or self.flattened):
            name = "fully_shard" if self.sharded else "FullyShardedDataParallel"
            raise UnsupportedError(
                f"check: it changes weights and restores them, and {name} holds shards of them. Check the model before "
                f"{name} is applied to it, in one process: training then uses the same penalty."
            )


def require_checkable(model: Any) -> None:
    """Refuse `check` of a sharded model.

    Raises:
        UnsupportedError: fully_shard or FullyShardedDataParallel holds the parameters.
    """
    if isinstance(model, nn.Module) and dist.is_available() and dist.is_initialized():
        shared = _Shared("check", differentiable=True)
        for module in model.modules():
            shared.add(module)
        shared.require_checkable()


@contextmanager
def shared_models(call: str, model: Any, differentiable: bool, arrays: Sequence[Tensor] = ()) -> Iterator[None]:
    """The context of a call, in which the functions below know the wrappers of the models that it runs.

    Args:
        call: the call's name, for messages.
        model: a module or a function.
        differentiable: whether the caller may differentiate the result.
        arrays: the call's arrays.

    Raises:
        InputTypeError: one of the arrays is a DTensor.
        UnsupportedError: `check` of a sharded model.
    """
    if not (dist.is_available() and dist.is_initialized()):
        yield
        return
    if any(map(_is_distributed, arrays)):
        raise InputTypeError(
            f"{call}: expected local tensors, got a DTensor. Pass x.to_local() and y.to_local(), and "
            f"the numbers of these samples in the whole batch as sample_ids=."
        )
    before, _here.shared = getattr(_here, "shared", None), (shared := _Shared(call, differentiable))
    try:
        if isinstance(model, nn.Module):
            for module in model.modules():
                shared.add(module)
            shared.require_checkable()
            with module_calls(_pass_by, shared.add_split) if _has_parts(model) else nullcontext():
                yield
        else:
            with module_calls(shared.add, shared.add_split):
                yield
    finally:
        _here.shared = before
        for module in shared.sharded:
            module.reshard()


def is_shared() -> bool:
    """Whether processes may share the model of the current call."""
    return getattr(_here, "shared", None) is not None


def require_double_backward() -> None:
    """Refuse wrappers that would give a wrong result, before an inner pass whose result may be differentiated.

    Raises:
        UnsupportedError: DistributedDataParallel with a static graph, FullyShardedDataParallel, or a layer that is
            split between processes.
    """
    shared: _Shared | None = getattr(_here, "shared", None)
    if shared is None:
        return
    shared.require_checkable()
    if shared.split:
        raise UnsupportedError(
            f"{shared.call}: the parameters of a {shared.split[0]} are DTensors that are split between processes "
            f"(parallelize_module); such layers lose the gradient of their input. Split the batch: "
            f"DistributedDataParallel or fully_shard; or use side='input' with method='difference', which needs no "
            f"gradient."
        )
    if not shared.differentiable:
        return
    if any(wrapper.static_graph for wrapper in shared.replicated):
        raise UnsupportedError(
            f"{shared.call}: DistributedDataParallel(static_graph=True) does not average gradients after an inner "
            f"backward pass. Leave static_graph out, or use side='input' with method='difference', without one."
        )
    if shared.flattened:
        raise UnsupportedError(
            f"{shared.call}: FullyShardedDataParallel treats an inner backward pass as the whole, and frees parameters "
            f"that the second derivative needs. Use torch.distributed.fsdp.fully_shard or DistributedDataParallel, or "
            f"side='input' with method='difference', which makes no inner pass."
        )


def before_backward(gradient: Tensor) -> Tensor:
    """The result of an inner pass. A backward pass that reaches it gathers sharded parameters first."""
    shared: _Shared | None = getattr(_here, "shared", None)
    if shared is not None and shared.sharded and gradient.requires_grad:
        gradient.register_hook(lambda _: _gather(shared.sharded))
    return gradient


def _gather(modules: Iterable[Any]) -> None:
    for module in modules:
        module.unshard()


def joined(value: Tensor, leaves: Callable[[], tuple[Any, Any]]) -> Tensor:
    """`value` plus an empty sum of what the model returned: so every parameter gets a gradient, zero if need be.

    Args:
        value: a result of an inner pass.
        leaves: returns the leaves of what the model returned, with their paths, and an auxiliary value.
    """
    shared: _Shared | None = getattr(_here, "shared", None)
    if shared is None or not (shared.differentiable and (shared.replicated or shared.sharded)):
        return value
    for _, leaf in leaves()[0]:
        if isinstance(leaf, Tensor) and leaf.requires_grad and leaf.is_floating_point():
            value = value + leaf.flatten()[:0].sum().to(value.dtype)
    return value


def on_this_process(parameters: Iterable[Any]) -> list[Any]:
    """The parameters, and in place of each DTensor its whole value, through which gradients flow back to the shards."""
    return [parameter.full_tensor() if _is_distributed(parameter) else parameter for parameter in parameters]


def _has_parts(model: nn.Module) -> bool:
    return any(map(_is_distributed, model.parameters()))


def _is_distributed(value: Any) -> bool:
    """Whether the value is a DTensor. The module that defines DTensor is loaded if there are any."""
    tensors = sys.modules.get("torch.distributed.tensor")
    return tensors is not None and isinstance(value, tensors.DTensor)


def _pass_by(module: nn.Module) -> None:
    """Do nothing before the module runs."""
