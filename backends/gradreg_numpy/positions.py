"""Weights of the positions of a sample: tokens, pixels.

A sample's loss is sum_p w_ip M_ip / sum_p w_ip. In every mean over samples its weight is sum_p w_ip, times its own
weight. Penalties leave out positions of weight 0.
"""

from typing import Any

import numpy as np

from gradreg_core.errors import InputError
from gradreg_numpy.functions import Array
from gradreg_numpy.layout import View

__all__ = ["kept", "mean_over_positions", "position_weights", "shares", "spread", "without_ignored"]


def position_weights(call: str, given: Any, ignore_index: int | None, y: Any, view: View, batch: int) -> Array | None:
    """The weight of each position, (B, positions): the call's weight, and 0 where the label is `ignore_index`.

    None if all positions have equal weight.

    Raises:
        InputError: the weights do not fit the outputs or are not finite numbers >= 0, or the labels are not integers,
            one per position.
    """
    if given is None and ignore_index is None:
        return None
    view.require_classes(call, "position_weight or ignore_index")
    shape = (batch, *view.label_axes)
    weight = np.ones(shape) if given is None else np.asarray(given, dtype=np.float64)
    if weight.shape != shape or not ((weight >= 0) & np.isfinite(weight)).all():
        raise InputError(f"{call}: position_weight must be finite numbers >= 0 of shape {shape}, got {given!r}.")
    if ignore_index is not None:
        labels = np.asarray(y)
        if labels.shape not in (shape, (*shape, 1)) or labels.dtype.kind not in "biu":
            raise InputError(
                f"{call}: ignore_index needs integer labels of shape {shape}, got {labels.dtype} of shape "
                f"{labels.shape}."
            )
        weight = np.where(labels.reshape(shape) == ignore_index, 0.0, weight)
    return weight.reshape(batch, view.positions)


def without_ignored(y: Array | None, ignore_index: int | None) -> Array | None:
    """The labels, class 0 in place of `ignore_index`: their positions have weight 0."""
    return y if y is None or ignore_index is None else np.where(y == ignore_index, 0, y)


def shares(weight: Array | None, positions: int) -> Array:
    """Each position's part of its sample's loss, (B or 1, positions); all 0 if all its positions have weight 0."""
    if weight is None:
        return np.full((1, positions), 1 / positions)
    total = weight.sum(axis=1, keepdims=True)
    return np.asarray(weight / np.where(total > 0, total, 1.0))


def mean_over_positions(weight: Array | None, values: Array) -> Array:
    """The weighted mean of values (B, positions), shape (B,)."""
    share = shares(weight, values.shape[1])
    return np.asarray((share * np.where(share > 0, values, 0.0)).sum(axis=1))


def kept(weight: Array | None, batch: int, size: int) -> Array:
    """1 for the components of a sample whose position has a weight above 0, else 0; (B, size)."""
    if weight is None:
        return np.ones((batch, size))
    return np.repeat((weight > 0).astype(np.float64), size // weight.shape[1], axis=1)


def spread(call: str, weight: Array | None, label_axes: tuple[int, ...], shape: tuple[int, ...]) -> Array | None:
    """The weights of the components of an activation of `shape` (B, positions..., ...), (B, size).

    Raises:
        InputError: the activation does not begin with the positions.
    """
    if weight is None:
        return None
    if shape[1 : 1 + len(label_axes)] != label_axes:
        raise InputError(f"{call}: an activation of shape {shape} does not have the positions {label_axes} first.")
    wide = weight.reshape(*shape[: 1 + len(label_axes)], *[1] * (len(shape) - 1 - len(label_axes)))
    return np.asarray(np.broadcast_to(wide, shape)).reshape(shape[0], -1)
