"""Keras layers seen where they are called, however a function comes to call them."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from gradreg_tensorflow.replace import Function, replaced

__all__ = ["layer_calls"]

_Watcher = tuple[Callable[[Any], None], Callable[[Any, Any], None]]
_watchers: "ContextVar[tuple[_Watcher, ...]]" = ContextVar("gradreg_layer_calls", default=())


@contextmanager
def layer_calls(
    before: Callable[[Any], None] = lambda layer: None, after: Callable[[Any, Any], None] = lambda layer, output: None
) -> Iterator[None]:
    """Pass each Keras layer that is called inside to `before`, and with its output to `after`.

    Nested contexts see each call all of them.
    """
    layers = getattr(sys.modules.get("keras"), "layers", None)
    if layers is None:
        yield
        return
    token = _watchers.set((*_watchers.get(), (before, after)))
    try:
        with replaced("layer_calls", [(layers.Layer, "__call__", _watched)]):
            yield
    finally:
        _watchers.reset(token)


def _watched(original: Function) -> Function:
    def call(layer: Any, *args: Any, **keywords: Any) -> Any:
        watchers = _watchers.get()
        for before, _ in watchers:
            before(layer)
        output = original(layer, *args, **keywords)
        for _, after in watchers:
            after(layer, output)
        return output

    return call
