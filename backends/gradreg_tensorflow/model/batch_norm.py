"""Detects batch normalisation in training mode, which couples the samples of a batch, in the layer's own call."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from gradreg_core.callers import levels_to_caller
from gradreg_core.errors import BatchNormError, BatchNormWarning, batch_norm_message
from gradreg_tensorflow.replace import Function, replaced

__all__ = ["batch_norm_policy"]

_LIBRARIES = ("gradreg_tensorflow", "keras", "tensorflow")
_policy: "ContextVar[tuple[str, str]]" = ContextVar("gradreg_batch_norm_policy")
"""The name of the gradreg call and its policy, "told" after the warning."""


@contextmanager
def batch_norm_policy(call: str, policy: str) -> Iterator[None]:
    """Raise or warn when this thread calls a Keras BatchNormalization layer in training mode.

    The way to the layer makes no difference: `lambda x: model(x, training=True)`, a functools.partial, or a
    tf.Module that holds it.

    Args:
        call: the name of the gradreg call, for messages.
        policy: "error", "warn" (once per context) or "allow".
    """
    layers = getattr(sys.modules.get("keras"), "layers", None)
    if policy == "allow" or layers is None:
        yield
        return
    token = _policy.set((call, policy))
    try:
        with replaced(f"batch_norm_{policy}", [(layers.BatchNormalization, "call", _observed)]):
            yield
    finally:
        _policy.reset(token)


def _observed(original: Function) -> Function:
    def call(layer: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        if layer.trainable and training is not None and training is not False:
            _report(layer)
        return original(layer, inputs, training, mask)

    return call


def _report(layer: Any) -> None:
    name, policy = _policy.get()
    if policy == "told":
        return
    remedy = "GroupNormalization or LayerNormalization, call the model with training=False"
    message = batch_norm_message(name, f"{layer.name} ({type(layer).__name__})", remedy)
    if policy == "error":
        error = BatchNormError(message)
        error._keras_call_info_injected = True  # type: ignore[attr-defined] # or Keras would rewrite the message
        raise error
    warnings.warn(message, BatchNormWarning, stacklevel=levels_to_caller(_LIBRARIES))
    _policy.set((name, "told"))
