"""Function modes that replace operations: how they meet other modes, checkpoints and tensor subclasses."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["ReplacingMode", "beneath", "overriding"]


class ReplacingMode(TorchFunctionMode):
    """A mode that calls other functions in place of some, also where a checkpoint computes them a second time."""

    def __init__(self) -> None:
        super().__init__()
        self._checkpoints: WeakSet[Any] = WeakSet()

    def hold_in_recomputation(self) -> None:
        """While a checkpoint records: its recomputation, in whichever backward pass and thread, is in the mode too."""
        hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
        pack: Any = hooks[0] if hooks else None
        names = getattr(getattr(pack, "__code__", None), "co_freevars", ())
        if "frame" not in names:  # no checkpoint, but hooks that change nothing, such as save_on_cpu
            return
        frame = pack.__closure__[names.index("frame")].cell_contents
        recompute = getattr(frame, "recompute_fn", None)
        if recompute is None or frame in self._checkpoints:
            return

        def in_mode(*args: Any) -> Any:
            with self:
                return recompute(*args)

        frame.recompute_fn = in_mode
        self._checkpoints.add(frame)


def overriding(types: Any) -> list[str]:
    """The names of those of the tensor subclasses that have functions of their own."""
    plain = Tensor.__torch_function__.__func__  # type: ignore[attr-defined]
    return [kind.__name__ for kind in types if kind.__torch_function__.__func__ is not plain]


def beneath(mode: TorchFunctionMode) -> AbstractContextManager[Any]:
    """A context with `mode` below the modes that are on already, which see the model's functions first, as they would.

    PyTorch places its own default device so.
    """
    if torch.compiler.is_compiling():
        return mode
    if "torch._dynamo" in sys.modules:
        _keep_from_compiling(type(mode).__torch_function__)
    return _beneath(mode) if torch._C._len_torch_function_stack() else mode


def _keep_from_compiling(function: Any) -> None:
    """Where a model has compiled parts, frames of gradreg that run inside of them are not compiled for themselves."""
    from torch._C._dynamo import eval_frame

    skip = eval_frame._FrameAction.SKIP
    eval_frame.set_code_exec_strategy(function.__code__, eval_frame._FrameExecStrategy(skip, skip))


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
    """All modes but the lowest `keep`, taken off, the highest first."""
    return [torch.overrides._pop_mode() for _ in range(torch._C._len_torch_function_stack() - keep)]


def _put_back(modes: list[Any]) -> None:
    for mode in reversed(modes):
        torch.overrides._push_mode(mode)
