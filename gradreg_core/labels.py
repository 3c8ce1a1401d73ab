"""Labels that fit the outputs: class indices or distributions, and the positions that are ignored."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradreg_core.backend import Array, Backend
from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.layout import Layout, is_floating, is_integer, one_hot
from gradreg_core.scalars import converted, require_narrow

__all__ = ["Target", "ignored", "prepare_target"]

_SOFT_LABEL_TOLERANCE = 1e-3
"""Soft labels may be rounded to half precision by the caller: a sum of 1000 such terms is 1 to about 1e-3."""

_UNSIGNED = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}


@dataclass
class Target:
    """Labels that fit the outputs, as given and as a distribution over the classes at each position."""

    ops: Backend
    call: str
    labels: Array
    """(B, positions...) class indices if there are several classes and `hard`, else (B, positions, classes)."""
    canonical: tuple[int, int, int]
    """(B, positions, classes)."""
    hard: bool
    """Whether they were given as integers."""
    checked: bool
    """Whether their values were read and are in range."""
    dtype: str
    """The dtype of the distribution."""
    _made: list[Array] = field(default_factory=list, init=False, repr=False)

    @property
    def distribution(self) -> Array:
        """(B, positions, classes), NaN where a label is out of range; computed once, on demand."""
        if not self._made:  # functools.cached_property has a lock, which torch.compile does not take
            self._made.append(self._distribution())
        return self._made[0]

    def _distribution(self) -> Array:
        ops, classes = self.ops, self.canonical[2]
        if classes == 1:
            probability = ops.astype(self.labels, self.dtype)
            return ops.where((probability >= 0) & (probability <= 1), probability, math.nan)
        if not self.hard:
            return self._soft(ops.astype(self.labels, self.dtype))
        basis = ops.reshape(one_hot(ops, self.labels, classes, self.dtype), self.canonical)
        return basis if self.checked else ops.where(ops.sum(basis, -1, keepdims=True) > 0, basis, math.nan)

    def _soft(self, p: Array) -> Array:
        """Soft labels, NaN where they are not a distribution and could not be read."""
        ops = self.ops
        if self.checked:
            return p
        excess = ops.sum(p, -1, keepdims=True) - 1
        right = (excess * excess <= _SOFT_LABEL_TOLERANCE**2) & (
            ops.sum(ops.where(p < 0, p, 0.0), -1, keepdims=True) == 0
        )
        return ops.where(right, p, math.nan)

    def basis(self, asker: str) -> Array:
        """The basis vector of the true class; ones if there is a single logit.

        Raises:
            InputError: the labels are soft.
        """
        if not self.hard:
            raise InputError(f"{self.call}: {asker} needs integer class labels, got soft labels (floating point).")
        if self.canonical[2] == 1:
            return self.distribution * 0 + 1
        return self.distribution


def _check_values(ops: Backend, call: str, labels: Array, hard: bool, classes: int) -> bool:
    """Refuse label values out of range if reading them is free; otherwise (False) they turn into NaN."""
    values = ops.values_if_free(labels)
    if values is None:
        return False
    if values.size == 0:
        return True
    top = max(classes - 1, 1)
    if hard:
        if not _in_range(values, top):
            raise InputError(
                f"{call}: labels must lie in 0..{top} for {classes} outputs, got values from {values.min()} to "
                f"{values.max()}. Relabel them; or leave padded or unlabelled positions out with ignore_index="
                f"{_likely_ignored(values, top)}."
            )
    elif not (values >= 0).all() or (classes == 1 and not (values <= 1).all()):
        raise InputError(
            f"{call}: soft labels must be probabilities, got values from {values.min()} to {values.max()}."
        )
    elif classes > 1 and abs(values.sum(-1) - 1).max() > _SOFT_LABEL_TOLERANCE:
        raise InputError(
            f"{call}: soft labels must sum to 1 over the classes, got sums such as {values.sum(-1).min()}."
        )
    return True


def _in_range(values: np.ndarray, top: int) -> bool:
    """Whether all integers are in 0..top."""
    bits = 8 * values.dtype.itemsize
    if top < 2 ** (bits - 1):  # then a negative one, read without its sign, is among the largest
        return 0 <= int(values.item(values.view(_UNSIGNED[bits]).argmax())) <= top
    return bool(values.min() >= 0 and values.max() <= top)


def _likely_ignored(values: Any, top: int) -> int:
    return int(values.min() if values.min() < 0 else values.max())


def ignored(ops: Backend, call: str, y: Any, layout: Layout, like: Array, index: int) -> Array:
    """0 where the label is `index` and 1 elsewhere, (B, positions), in the dtype of `like`.

    Raises:
        InputError: `y` is not one array of integers, one for each position.
    """
    shape = layout.position_shape(call, "ignore_index")
    labels = None if y is None or isinstance(y, dict | str) else converted(ops, call, "y", y, like)
    came = None if labels is None else ops.shape(labels)
    fits = came == shape or (came == layout.shape and layout.canonical[2] == 1)
    if labels is None or not fits or not is_integer(ops.dtype(labels)):
        got = type(y).__name__ if labels is None else f"{ops.dtype(labels)} of shape {came}"
        raise InputError(
            f"{call}: ignore_index={index} needs integer labels of shape {shape}, one for each position, got {got}. "
            f"For other labels pass position_weight=, 0 at the positions to leave out."
        )
    labels = _whole(ops, labels, like)
    return ops.astype(ops.reshape(labels, layout.canonical[:2]) != index, ops.dtype(like))


def _whole(ops: Backend, labels: Array, like: Array) -> Array:
    """Integer labels in a type that any `ignore_index` can be compared with."""
    return ops.int32(labels, like) if ops.dtype(labels) in ("bool", "int8", "uint8", "int16", "uint16") else labels


def prepare_target(
    ops: Backend, call: str, y: Any, layout: Layout, like: Array, asker: str, ignore_index: int | None = None
) -> Target:
    """Labels `y`, their distribution in the dtype of `like`, the canonical logits.

    Integers name a class at each position: shape (B,) or the outputs' shape without its class axis (a single logit
    takes 0 and 1, with or without the axis of length 1). Floats are distributions of the outputs' own shape, or
    probabilities of shape (B,) for a single logit. An integer label of `ignore_index` counts as class 0; its position
    has weight 0, see `ignored`. If values cannot be read without synchronising a device, a label out of range makes
    the result NaN: never a silently masked sample.

    Raises:
        InputError: `y` is missing, or its shape or values do not fit.
        InputTypeError: `y` is not an array of numbers.
    """
    without = layout.position_shape(call, asker)
    batch, positions, classes = layout.canonical
    if y is None:
        raise InputError(f"{call}: {asker} needs labels, but y is None; pass y.")
    if isinstance(y, np.ndarray) or not ops.is_array(y):
        require_narrow(call, "labels", y)
    try:
        labels = ops.asarray(y, like)
        dtype, shape = ops.dtype(labels), ops.shape(labels)
    except (TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise InputTypeError(f"{call}: y must be an array of labels, got {type(y).__name__}.") from error
    hard = is_integer(dtype)
    if not hard and not is_floating(dtype):
        raise InputTypeError(f"{call}: labels must be integers or floating-point probabilities, got dtype {dtype}.")
    if classes == 1 and shape in (layout.shape, without):
        canonical = ops.reshape(labels, (batch, positions, 1))
    elif hard and shape == without:
        canonical = labels
    elif not hard and shape == layout.shape:
        canonical = layout.to_canonical(ops, labels)
    else:
        wanted = f"{without}" if hard or classes == 1 else f"{layout.shape}"
        kind = "integer class labels" if hard else "soft labels"
        hint = "" if hard or shape != without else " Class labels must be of an integer type."
        raise InputError(
            f"{call}: expected {kind} of shape {wanted} for outputs of shape {layout.shape}, got {shape}.{hint}"
        )
    if hard and ignore_index is not None:
        canonical = _whole(ops, canonical, like)
        canonical = ops.where(canonical != ignore_index, canonical, 0)
    checked = _check_values(ops, call, canonical, hard, classes)
    return Target(ops, call, canonical, layout.canonical, hard, checked, ops.dtype(like))
