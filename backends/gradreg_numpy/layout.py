"""Outputs as (B, positions, classes), and labels as distributions over the classes.

A single class is binary: the label is a probability of 1.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradreg_core.errors import InputError, InputTypeError
from gradreg_numpy.functions import Array

__all__ = ["Labels", "View", "labels_of"]

_SOFT_LABEL_TOLERANCE = 1e-3
"""Labels may come rounded to half precision."""


@dataclass(frozen=True)
class View:
    """How outputs (B, *own) are seen as (B, positions, classes).

    Without a class axis, (B,) and (B, m) are one position of 1 or m classes; outputs with more axes are one vector
    with unknown classes.
    """

    own: tuple[int, ...]
    label_axes: tuple[int, ...]
    """The outputs' own axes without the class axis: the shape of one sample's class labels."""
    classes: int
    order: Array
    """Where each component, in the order (positions, classes), is in the flattened output."""
    knows_classes: bool

    @classmethod
    def of(cls, call: str, own: tuple[int, ...], class_axis: int | None) -> "View":
        """The view of outputs of shape (B, *own); `class_axis` includes the batch axis, or counts from the end.

        Raises:
            InputError: the outputs have no such axis.
        """
        order = np.arange(math.prod(own))
        rank = 1 + len(own)
        if rank == 1 and class_axis in (None, 1, -1):
            return cls(own, (), 1, order, True)
        if class_axis is None and rank > 2:
            return cls(own, own, order.size, order, False)
        given = -1 if class_axis is None else class_axis
        axis = given + rank if given < 0 else given
        if not 1 <= axis < rank:
            raise InputError(
                f"{call}: class_axis={class_axis} is not an axis of outputs of shape (B, {', '.join(map(str, own))}) "
                f"after the first."
            )
        order = np.moveaxis(order.reshape(own), axis - 1, -1).ravel()
        return cls(own, own[: axis - 1] + own[axis:], own[axis - 1], order, True)

    @property
    def size(self) -> int:
        """m, the number of components of one sample's output."""
        return self.order.size

    @property
    def positions(self) -> int:
        """The number of positions, each with a distribution over the classes."""
        return self.size // self.classes

    def require_classes(self, call: str, needed_by: str) -> None:
        """Refuse `needed_by` if the classes are unknown.

        Raises:
            InputError: the outputs have more than two axes, and no class axis was given.
        """
        if not self.knows_classes:
            raise InputError(
                f"{call}: {needed_by} needs to know which axis of the outputs (B, {', '.join(map(str, self.own))}) "
                f"holds the classes; pass class_axis=."
            )

    def canonical(self, outputs: Array) -> Array:
        """Outputs (B, *own) as (B, positions, classes)."""
        flat = outputs.reshape(len(outputs), -1)[:, self.order]
        return flat.reshape(len(outputs), self.positions, self.classes)


@dataclass(frozen=True)
class Labels:
    """Labels as distributions (B, positions, classes); for one class, probabilities of 1. `hard`: they were indices."""

    distribution: Array
    hard: bool


def labels_of(call: str, y: Any, view: View, batch: int, needed_by: str) -> Labels:
    """Labels `y` of a batch of `batch` samples.

    Integers (or bools) name a class, shape (B, *own without the class axis). Floats are distributions in the outputs'
    own shape. For one class, both kinds may be with or without the class axis, and lie in [0, 1].

    Raises:
        InputError: `y` is missing, its shape does not fit, or a value is out of range.
        InputTypeError: `y` is not an array of numbers.
    """
    view.require_classes(call, needed_by)
    if y is None:
        raise InputError(f"{call}: {needed_by} needs labels, but y is None; pass y.")
    given = np.asarray(y)
    if given.dtype.kind not in "biuf":
        raise InputTypeError(f"{call}: labels must be integers or probabilities, got dtype {given.dtype}.")
    hard, classes = given.dtype.kind in "biu", view.classes
    bare, full = (batch, *view.label_axes), (batch, *view.own)
    allowed = {bare, full} if classes == 1 else {bare} if hard else {full}
    if given.shape not in allowed:
        kind = "integer class labels" if hard else "soft labels"
        raise InputError(
            f"{call}: expected {kind} of shape {' or '.join(map(str, sorted(allowed, key=len)))} for outputs of shape "
            f"{full}, got {given.shape}."
        )
    top = max(classes - 1, 1)
    if hard and (given.min() < 0 or given.max() > top):
        raise InputError(f"{call}: labels must lie in 0..{top}, got values from {given.min()} to {given.max()}.")
    if hard and classes > 1:
        return Labels(np.eye(classes)[given.astype(np.int64).reshape(batch, view.positions)], hard)
    values = given.astype(np.float64)
    if not ((values >= 0).all() and (values <= 1 + _SOFT_LABEL_TOLERANCE * (classes > 1)).all()):
        raise InputError(f"{call}: soft labels must be probabilities, got {values.min()} to {values.max()}.")
    distribution = values.reshape(batch, -1, 1) if classes == 1 else view.canonical(values)
    if classes > 1 and np.abs(distribution.sum(axis=-1) - 1).max() > _SOFT_LABEL_TOLERANCE:
        sums = distribution.sum(axis=-1)
        raise InputError(f"{call}: soft labels must sum to 1 over the classes, got sums such as {sums.min()}.")
    return Labels(distribution, hard)
