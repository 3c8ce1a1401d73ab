"""Observes modules when they are called, also from inside a plain function."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import (
    _global_forward_hooks,
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

__all__ = ["module_calls"]

Visitor = Callable[[nn.Module], None]


@contextmanager
def module_calls(before: Visitor, after: Visitor = lambda module: None) -> Iterator[None]:
    """Pass each module that this thread calls inside to `before`, and to `after` when the call ends.

    Calls that torch.compile traces are left out.
    """
    thread = get_ident()

    def mine() -> bool:
        return not torch.compiler.is_compiling() and get_ident() == thread

    def enter(module: nn.Module, inputs: Any) -> None:
        if mine():
            before(module)

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        if mine():
            after(module)

    hooks = register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)
    # Contexts nest, so the one entered last exits first.
    _global_forward_hooks.move_to_end(hooks[1].id, last=False)  # type: ignore[attr-defined] # an OrderedDict
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
