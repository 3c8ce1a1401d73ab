"""Observes Keras layers when they are called, also from inside a plain function."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from gradreg_tensorflow.replace import Function, replaced

__all__ = ["layer_calls"]

_Observer = tuple[Callable[[Any], None], Callable[[Any, Any], Any]]
_observers: "ContextVar[tuple[_Observer, ...]]" = ContextVar("gradreg_layer_calls", default=())


@contextmanager
def layer_calls(
    before: Callable[[Any], None] = lambda layer: None, after: Callable[[Any, Any], Any] = lambda layer, output: output
) -> Iterator[None]:
    """Pass each Keras layer that this thread calls inside to `before`, and with its output to `after`.

    The layer's caller gets what `after` returns. If contexts are nested, each of them sees each call.
    """
    layers = getattr(sys.modules.get("keras"), "layers", None)
    if layers is None:
        yield
        return
    token = _observers.set((*_observers.get(), (before, after)))
    try:
        with replaced("layer_calls", [(layers.Layer, "__call__", _observed)]):
            yield
    finally:
        _observers.reset(token)


def _observed(original: Function) -> Function:
    def call(layer: Any, *args: Any, **keywords: Any) -> Any:
        observers = _observers.get()
        for before, _ in observers:
            before(layer)
        output = original(layer, *args, **keywords)
        for _, after in observers:
            output = after(layer, output)
        return output

    return call
