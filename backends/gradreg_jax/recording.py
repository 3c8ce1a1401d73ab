"""Records the calls of the layers of NNX, Equinox and Linen modules."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from gradreg_validation.recording import Recorder

__all__ = ["named_modules", "recorded_modules"]


def named_modules(module: Any) -> dict[int, tuple[str, Any]]:
    """The submodules of an NNX or Equinox module, by identity, each with its path."""
    nnx, equinox = sys.modules.get("flax.nnx"), sys.modules.get("equinox")
    kinds = tuple(framework.Module for framework in (nnx, equinox) if framework is not None)
    modules: dict[int, tuple[str, Any]] = {}

    def visit(value: Any, path: str) -> None:
        if isinstance(value, kinds) and id(value) not in modules:
            modules[id(value)] = (path, value)
            children = vars(value).items()
        elif isinstance(value, dict):
            children = value.items()
        elif isinstance(value, list | tuple) or type(value).__name__ == "List":
            children = [(str(i), child) for i, child in enumerate(value)]
        else:
            return
        for name, child in children:
            if not str(name).startswith("_"):
                visit(child, f"{path}.{name}" if path else str(name))

    visit(module, "")
    return modules


@contextmanager
def recorded_modules(module: Any, recorder: Recorder) -> Iterator[None]:
    """A context that records the calls of a module's layers, and of all Linen modules."""
    with ExitStack() as stack:
        if module is not None:
            modules = named_modules(module)
            for cls in {type(layer) for _, layer in modules.values() if callable(layer)}:
                stack.enter_context(_patched(cls, modules, recorder))
        linen = sys.modules.get("flax.linen")
        if linen is not None:
            stack.enter_context(linen.intercept_methods(_interceptor(recorder)))
        yield


@contextmanager
def _patched(cls: Any, modules: dict[int, tuple[str, Any]], recorder: Recorder) -> Iterator[None]:
    own, original = "__call__" in vars(cls), cls.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = original(self, *args, **kwargs)
        name = modules.get(id(self), ("", None))[0]
        if name:
            recorder.add(name, self, args, kwargs, output)
        return output

    cls.__call__ = call
    try:
        yield
    finally:
        if own:
            cls.__call__ = original
        else:
            del cls.__call__


def _interceptor(recorder: Recorder) -> Callable[..., Any]:
    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        output = call(*args, **kwargs)
        path = ".".join(context.module.path)
        if context.method_name == "__call__" and path:
            recorder.add(path, context.module, args, kwargs, output)
        return output

    return intercept
