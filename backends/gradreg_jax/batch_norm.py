"""Detects batch normalisation in training mode, which couples the samples of a batch, in the layer's own call."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gradreg_core.callers import levels_to_caller
from gradreg_core.errors import BatchNormError, BatchNormWarning, batch_norm_message
from gradreg_core.layer_calls import KERAS, WatchedLayer, layer_calls

__all__ = ["batch_norm_policy"]

_REMEDY = "GroupNorm or LayerNorm, use running averages (model.eval(), training=False and the like)"
_LAYERS = (
    WatchedLayer("flax.nnx", "BatchNorm", "__call__", "use_running_average", False),
    WatchedLayer("flax.linen", "BatchNorm", "__call__", "use_running_average", False),
    WatchedLayer("equinox.nn", "BatchNorm", "__call__", "inference", False),
    WatchedLayer("haiku", "BatchNorm", "__call__", "is_training", True),
    KERAS,
)


@contextmanager
def batch_norm_policy(call: str, policy: str, names: list[str]) -> Iterator[None]:
    """Raise at once, or warn at the end, if a batch normalisation is in training mode, wherever it is called from.

    Layers of Flax, Equinox, Haiku and Keras are detected when they are called.

    Args:
        call: the name of the gradreg call, for messages.
        policy: "error", "warn" (once) or "allow".
        names: the names of layers known to be in training mode.

    Raises:
        BatchNormError: a layer is in training mode, and the policy is "error".
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

    for name in names:
        seen(f"{name} (BatchNorm)")
    with layer_calls(_LAYERS, lambda layer: seen(_named(layer))):
        yield
    if layers:
        warnings.warn(
            batch_norm_message(call, layers[0], _REMEDY),
            BatchNormWarning,
            stacklevel=levels_to_caller(("gradreg_jax",)),
        )


def _named(layer: Any) -> str:
    return f"{getattr(layer, 'name', None) or 'a layer'} ({type(layer).__name__})"
