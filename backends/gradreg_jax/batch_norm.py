"""Batch normalisation in training mode couples the samples of a batch: notice it in the layer's own call."""

import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from gradreg_core.callers import levels_to_caller
from gradreg_core.errors import BatchNormError, BatchNormWarning, batch_norm_message

__all__ = ["batch_norm_policy"]

_REMEDY = "GroupNorm or LayerNorm, use running averages (model.eval(), training=False and the like)"
_seen: "ContextVar[Callable[[str], None] | None]" = ContextVar("gradreg_batch_norm_seen", default=None)
"""Called with the name of a layer in training mode."""

_LAYERS = (
    ("flax.nnx", "BatchNorm", "__call__", "use_running_average", False),
    ("flax.linen", "BatchNorm", "__call__", "use_running_average", False),
    ("equinox.nn", "BatchNorm", "__call__", "inference", False),
    ("haiku", "BatchNorm", "__call__", "is_training", True),
    ("keras.layers", "BatchNormalization", "call", "training", True),
)
"""(module, class, method, its argument or field that says the mode, the value of that in training)."""


@contextmanager
def batch_norm_policy(call: str, policy: str, names: list[str]) -> Iterator[None]:
    """Raise at once, or warn at the end, if a batch normalisation is in training mode, however it is called.

    Layers of Flax, Equinox, Haiku and Keras are noticed when they are called.

    Args:
        call: the name of the gradreg call, for messages.
        policy: "error", "warn" (once) or "allow".
        names: of layers that are known to be in training mode.

    Raises:
        BatchNormError: one is, and the policy is "error".
    """
    if policy == "allow":
        yield
        return
    layers: list[str] = []

    def seen(name: str) -> None:
        layers.append(name)
        if policy == "error":
            error = BatchNormError(batch_norm_message(call, name, _REMEDY))
            error._keras_call_info_injected = True  # type: ignore[attr-defined] # or Keras would rewrite the message
            raise error

    _watch()
    for name in names:
        seen(f"{name} (BatchNorm)")
    token = _seen.set(seen)
    try:
        yield
    finally:
        _seen.reset(token)
    if layers:
        warnings.warn(
            batch_norm_message(call, layers[0], _REMEDY),
            BatchNormWarning,
            stacklevel=levels_to_caller(("gradreg_jax",)),
        )


def _watch() -> None:
    """Let the layers of the libraries in use tell when they are called; done once for each class."""
    for module, name, method, mode, in_training in _LAYERS:
        layer = getattr(sys.modules.get(module), name, None)
        if layer is not None and not hasattr(getattr(layer, method), "gradreg_watched"):
            setattr(layer, method, _watched(getattr(layer, method), mode, in_training))


def _watched(original: Callable[..., Any], mode: str, in_training: bool) -> Callable[..., Any]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen = _seen.get()
        if seen is not None:
            given = signature.bind_partial(self, *args, **kwargs).arguments.get(mode)
            chosen = getattr(self, mode, None) if given is None else given
            if bool(chosen) is in_training:
                seen(f"{getattr(self, 'name', None) or 'a layer'} ({type(self).__name__})")
        return original(self, *args, **kwargs)

    call.gradreg_watched = True  # type: ignore[attr-defined]
    return call
