"""Differences between PyTorch's versions, from the oldest version that gradreg supports."""

from typing import Any, TypeVar

import torch

__all__ = ["COMPILES", "HIDDEN_HOOKS", "innermost_hooks", "keep_from_compiling", "outside_of_compiled"]

COMPILES = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 11)
"""Whether torch.compile can trace gradreg's calls."""

Kind = TypeVar("Kind")

HIDDEN_HOOKS = (None, None)
"""Stands for hooks that are on but that this version of PyTorch does not show."""


def innermost_hooks() -> tuple[Any, Any] | None:
    """The innermost hooks of saved tensors, such as a checkpoint's, as (pack, unpack); None if none are on."""
    autograd = torch._C._autograd
    if hasattr(autograd, "_top_saved_tensors_default_hooks"):
        hooks: tuple[Any, Any] | None = autograd._top_saved_tensors_default_hooks(True)
        return hooks
    # Before PyTorch 2.8. Hooks cannot be switched off while some are on; while they are switched off, none are on.
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
    """Make torch.compile run this function, and what it calls, uncompiled."""
    from torch._C._dynamo import eval_frame

    if hasattr(eval_frame, "_FrameAction"):
        skip = eval_frame._FrameAction.SKIP
        eval_frame.set_code_exec_strategy(function.__code__, eval_frame._FrameExecStrategy(skip, skip))
    else:  # PyTorch 2.6, which still compiles what the frame calls
        eval_frame.skip_code(function.__code__)  # type: ignore[attr-defined]


def outside_of_compiled(kind: type[Kind], *methods: str) -> type[Kind]:
    """A class whose methods torch.compile traces from PyTorch 2.11 on; before, it breaks the graph and calls them."""
    if COMPILES:
        return kind
    return type(kind.__name__, (kind,), {name: torch.compiler.disable(getattr(kind, name)) for name in methods})
