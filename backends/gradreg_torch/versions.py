"""What PyTorch's versions do in different ways, for the oldest version that gradreg takes and for those after it."""

from typing import Any, TypeVar

import torch

__all__ = ["COMPILES", "HIDDEN_HOOKS", "innermost_hooks", "keep_from_compiling", "outside_of_compiled"]

COMPILES = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 11)
"""Whether torch.compile can trace gradreg's calls."""

Kind = TypeVar("Kind")

HIDDEN_HOOKS = (None, None)
"""Stands for hooks that are on, but which this version of PyTorch does not show."""


def innermost_hooks() -> tuple[Any, Any] | None:
    """The innermost hooks of saved tensors, such as a checkpoint's, as (pack, unpack); None if none are on."""
    autograd = torch._C._autograd
    if hasattr(autograd, "_top_saved_tensors_default_hooks"):
        hooks: tuple[Any, Any] | None = autograd._top_saved_tensors_default_hooks(True)
        return hooks
    # Before PyTorch 2.8. Hooks cannot be switched off while some are on, and are not while they are switched off.
    if autograd._saved_tensors_hooks_get_disabled_error_message() is not None:
        return None
    try:
        autograd._saved_tensors_hooks_disable("hooks are on")
    except RuntimeError:
        return HIDDEN_HOOKS
    finally:
        autograd._saved_tensors_hooks_enable()
    return None


def keep_from_compiling(function: Any) -> None:
    """Frames of this function, and what they call, run as they are where torch.compile meets them."""
    from torch._C._dynamo import eval_frame

    if hasattr(eval_frame, "_FrameAction"):
        skip = eval_frame._FrameAction.SKIP
        eval_frame.set_code_exec_strategy(function.__code__, eval_frame._FrameExecStrategy(skip, skip))
    else:  # PyTorch 2.6, which goes on to compile what the frame calls
        eval_frame.skip_code(function.__code__)  # type: ignore[attr-defined]


def outside_of_compiled(kind: type[Kind], *methods: str) -> type[Kind]:
    """A class whose methods torch.compile traces from PyTorch 2.11 on, and calls as they are before: graph breaks."""
    if COMPILES:
        return kind
    return type(kind.__name__, (kind,), {name: torch.compiler.disable(getattr(kind, name)) for name in methods})
