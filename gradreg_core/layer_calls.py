"""Detects calls of libraries' layers that normalise over the batch, however a model calls them."""

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

__all__ = ["KERAS", "WatchedLayer", "layer_calls"]

_seen: "ContextVar[Callable[[Any], None] | None]" = ContextVar("gradreg_layer_calls", default=None)
"""Called with a layer in training mode."""


@dataclass(frozen=True)
class WatchedLayer:
    """A class of layers, and how to tell that one is in training mode.

    Args:
        module, name: where the class is. A module that is not imported yet is skipped.
        method: the method that calls the layer.
        mode: the argument of the method that gives the mode.
        training: the value of `mode` in training.
        attribute: whether the layer's attribute of that name gives the mode if the argument does not.
        trained: the attribute that is False if a layer is frozen and uses its running averages; "" for none.
    """

    module: str
    name: str
    method: str
    mode: str
    training: bool
    attribute: bool = True
    trained: str = ""

    def watch(self) -> None:
        """Make the layers report their calls; done once per class."""
        layer = getattr(sys.modules.get(self.module), self.name, None)
        original = getattr(layer, self.method, None)
        if original is not None and not hasattr(original, "gradreg_watched"):
            setattr(layer, self.method, self._watched(original))

    def _watched(self, original: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(original)

        @functools.wraps(original)
        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            seen = _seen.get()
            if seen is not None:
                given = signature.bind_partial(layer, *args, **kwargs).arguments.get(self.mode)
                chosen = getattr(layer, self.mode, None) if given is None and self.attribute else given
                if bool(chosen) is self.training and (not self.trained or getattr(layer, self.trained)):
                    seen(layer)
            return original(layer, *args, **kwargs)

        call.gradreg_watched = True  # type: ignore[attr-defined]
        return call


KERAS = WatchedLayer(
    "keras.layers", "BatchNormalization", "call", "training", True, attribute=False, trained="trainable"
)
"""The layers of Keras, on whichever framework it runs."""


@contextmanager
def layer_calls(layers: Iterable[WatchedLayer], seen: Callable[[Any], None]) -> Iterator[None]:
    """Pass each of these layers that is called inside, in training mode, to `seen`."""
    for layer in layers:
        layer.watch()
    token = _seen.set(seen)
    try:
        yield
    finally:
        _seen.reset(token)
