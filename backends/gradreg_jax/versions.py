"""Names that JAX has moved, from the oldest version that gradreg supports."""

from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any

import jax

__all__ = ["enable_x64", "get_opaque_trace_state"]


def _moved(name: str, *modules: str) -> Any:
    """The object with this name in the first module that has it."""
    for module in modules:
        if hasattr(import_module(module), name):
            return getattr(import_module(module), name)
    raise ImportError(f"JAX {jax.__version__} has no {name} in any of {', '.join(modules)}.")


get_opaque_trace_state = _moved("get_opaque_trace_state", "jax.extend.core", "jax.core")
_enable_x64 = _moved("enable_x64", "jax", "jax.experimental")


def enable_x64(enabled: bool = True) -> AbstractContextManager[Any]:
    """A context with 64-bit types on or off in this thread."""
    context: AbstractContextManager[Any] = _enable_x64(enabled)
    return context
