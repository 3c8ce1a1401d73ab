"""Function modes that replace operations: how they work with other modes, checkpoints and tensor subclasses."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gradreg_core.errors import UnsupportedError
from gradreg_torch.versions import HIDDEN_HOOKS, innermost_hooks, keep_from_compiling

__all__ = ["ReplacingMode", "beneath", "overriding"]


class ReplacingMode(TorchFunctionMode):
    """A mode that replaces some functions, also when a checkpoint computes them a second time."""

    def __init__(self) -> None:
        super().__init__()
        self._checkpoints: WeakSet[Any] = WeakSet()

    def hold_in_recomputation(self) -> None:
        """Extend the mode to the recomputation of checkpoints recorded inside, in any backward pass and thread.

        Raises:
            UnsupportedError: hooks of saved tensors are on, and this version of PyTorch does not show whose.
        """
        innermost = innermost_hooks()
        if innermost == HIDDEN_HOOKS:
            raise UnsupportedError(
                f"PyTorch {torch.__version__} does not show whether hooks of saved tensors are a checkpoint's, whose "
                f"recomputation would take other functions in the backward pass. Switch checkpoints and save_on_cpu "
                f"off for this call, or install PyTorch 2.8 or newer."
            )
        if innermost is None or _checkpoint(innermost) in self._checkpoints:
            return
        for frame in map(_checkpoint, _saved_tensors_hooks()):
            if hasattr(frame, "recompute_fn") and frame not in self._checkpoints:
                frame.recompute_fn = self._inside(frame.recompute_fn)
                self._checkpoints.add(frame)

    def _inside(self, recompute: Callable[..., None]) -> Callable[..., None]:
        def in_mode(*args: Any) -> None:
            with self:
                recompute(*args)

        return in_mode


def _checkpoint(hooks: tuple[Any, Any]) -> Any:
    """The checkpoint that the hooks of saved tensors belong to; for others, such as save_on_cpu, the hook itself."""
    names = getattr(getattr(hooks[0], "__code__", None), "co_freevars", ())
    return hooks[0].__closure__[names.index("frame")].cell_contents if "frame" in names else hooks[0]


def _saved_tensors_hooks() -> list[tuple[Any, Any]]:
    """All hooks that are on, for nested checkpoints; PyTorch shows only the innermost."""
    autograd, taken = torch._C._autograd, []
    while (hooks := autograd._top_saved_tensors_default_hooks(True)) is not None:
        taken.append(hooks)
        autograd._pop_saved_tensors_default_hooks()
    for pack, unpack in reversed(taken):
        autograd._push_saved_tensors_default_hooks(pack, unpack)
    return taken


def overriding(types: Any) -> list[str]:
    """The names of the tensor subclasses that override functions."""
    plain = Tensor.__torch_function__.__func__  # type: ignore[attr-defined]
    return [kind.__name__ for kind in types if kind.__torch_function__.__func__ is not plain]


def beneath(mode: TorchFunctionMode) -> AbstractContextManager[Any]:
    """A context with `mode` below the modes that are already on, so they see the model's functions first, as usual.

    PyTorch places its mode for the default device in the same way.
    """
    if torch.compiler.is_compiling():
        return mode
    if "torch._dynamo" in sys.modules:
        # If a model has compiled parts, frames of gradreg that run inside them are not compiled separately.
        keep_from_compiling(type(mode).__torch_function__)
    return _beneath(mode) if torch._C._len_torch_function_stack() else mode


@contextmanager
def _beneath(mode: TorchFunctionMode) -> Iterator[Any]:
    above = _lifted(0)
    mode.__enter__()
    _put_back(above)
    try:
        yield mode
    finally:
        above = _lifted(1)
        mode.__exit__(None, None, None)
        _put_back(above)


def _lifted(keep: int) -> list[Any]:
    """Remove all modes but the lowest `keep`, and return them, the highest first."""
    return [torch.overrides._pop_mode() for _ in range(torch._C._len_torch_function_stack() - keep)]


def _put_back(modes: list[Any]) -> None:
    for mode in reversed(modes):
        torch.overrides._push_mode(mode)
