"""The mask that Keras attaches to a tensor: the next layers read it there, so a copy of the tensor needs it too."""

import sys
from collections.abc import Callable, Iterable
from typing import Any

from gradreg_core.errors import InputError

__all__ = ["keras_mask", "require_unmasked", "with_keras_mask"]


def keras_mask(array: Any) -> Any:
    """The mask from Embedding(mask_zero=True), Masking or a layer behind one of them; None if there is none."""
    mask = getattr(array, "_keras_mask", None)
    jax = sys.modules.get("jax")
    if mask is None and jax is not None and isinstance(array, jax.Array) and (backend := _backend()) is not None:
        mask = backend.get_keras_mask(array)  # JAX's arrays take no attribute: Keras keeps their masks in a table
    return mask


def with_keras_mask(array: Any, source: Any, cut: Callable[[Any], Any] | None = None) -> Any:
    """`array` itself, with the mask of `source` attached; `cut` selects its samples if `array` has only some."""
    if array is not source and (mask := keras_mask(source)) is not None:
        _backend().set_keras_mask(array, mask if cut is None else cut(mask))
    return array


def require_unmasked(call: str, outputs: Iterable[Any]) -> None:
    """Refuse masked outputs for a loss of Keras.

    Raises:
        InputError: an output has a mask.
    """
    if any(keras_mask(output) is not None for output in outputs):
        raise InputError(
            f"{call}: the outputs carry a mask of Keras. Its losses leave out the positions that are masked, and "
            f"gradreg's means and penalties count them. Pass position_weight= with the mask as 0 and 1; in a model "
            f"for fit, do so in your own train_step."
        )


def _backend() -> Any:
    """Keras' functions for its framework, if Keras is loaded completely."""
    backend = getattr(getattr(sys.modules.get("keras"), "src", None), "backend", None)
    return backend if hasattr(backend, "get_keras_mask") else None
