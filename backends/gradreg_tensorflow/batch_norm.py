"""Finds batch normalisation in training mode where it happens: in the call of the layer."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any

from gradreg_core.errors import BatchNormError, BatchNormWarning, batch_norm_message
from gradreg_tensorflow.replace import Function, replaced

__all__ = ["batch_norm_policy"]

_NOT_THE_CALLER = frozenset({"contextlib", "gradreg_core", "gradreg_tensorflow", "keras", "tensorflow"})
_policy: "ContextVar[tuple[str, str]]" = ContextVar("gradreg_batch_norm_policy")


@contextmanager
def batch_norm_policy(call: str, policy: str) -> Iterator[None]:
    """Raise or warn when a Keras BatchNormalization layer is called in training mode by this thread.

    The layer's own call is watched, so it makes no difference how it is reached: `lambda x: model(x, training=True)`,
    a functools.partial, a layer inside a tf.Module.

    Args:
        call: the name of the call, for messages.
        policy: "error", "warn" (once a context) or "allow".
    """
    layers = getattr(sys.modules.get("keras"), "layers", None)
    if policy == "allow" or layers is None:
        yield
        return
    token = _policy.set((call, policy))
    try:
        with replaced(f"batch_norm_{policy}", [(layers.BatchNormalization, "call", _watched)]):
            yield
    finally:
        _policy.reset(token)


def _watched(original: Function) -> Function:
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
    warnings.warn(message, BatchNormWarning, stacklevel=_levels_to_caller())
    _policy.set((name, "told"))


def _levels_to_caller() -> int:
    """How far up the stack the user's code is."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and _is_passed(frame):
        frame, level = frame.f_back, level + 1
    return level


def _is_passed(frame: FrameType) -> bool:
    """Whether the frame is of a library, or of code that AutoGraph made."""
    package = frame.f_globals.get("__name__", "").partition(".")[0]
    return package in _NOT_THE_CALLER or "__autograph_generated_file" in frame.f_code.co_filename
