"""Outputs and labels in one layout: (B, positions, classes), whatever axes the model's outputs have."""

import math
from dataclasses import dataclass, field
from typing import Any

from gradreg_core.backend import Array, Backend
from gradreg_core.errors import InputError, InputTypeError

__all__ = [
    "Layout",
    "Target",
    "is_floating",
    "is_half",
    "is_integer",
    "one_hot",
    "prepare_target",
    "require_integer_scalar",
    "widened",
]

_SOFT_LABEL_TOLERANCE = 1e-3
"""Soft labels may be rounded to half precision by the caller: a sum of 1000 such terms is 1 to about 1e-3."""


def is_integer(dtype: str) -> bool:
    """Whether a dtype name is an integer type or bool."""
    return dtype.startswith(("int", "uint", "bool"))


def require_integer_scalar(ops: Backend, call: str, argument: str, value: Any) -> None:
    """Refuse a value that is not an array of one integer without axes.

    Raises:
        InputTypeError: it is not an array, not of integers, or has axes.
    """
    if not ops.is_array(value):
        raise InputTypeError(f"{call}: {argument} must be an integer, got {value!r}.")
    if not is_integer(ops.dtype(value)) or ops.shape(value):
        raise InputTypeError(
            f"{call}: {argument} must be an integer or an array of one integer without axes, got {ops.dtype(value)} of "
            f"shape {ops.shape(value)}."
        )


def is_floating(dtype: str) -> bool:
    """Whether a dtype name is a real floating-point type."""
    return dtype.startswith(("float", "bfloat"))


def is_half(dtype: str) -> bool:
    """Whether a dtype name is a floating-point type of 16 bits."""
    return dtype in ("float16", "bfloat16")


def widened(ops: Backend, array: Array) -> Array:
    """Half precision as float32, so that squares of small gradients do not underflow."""
    return ops.astype(array, "float32") if is_half(ops.dtype(array)) else array


def one_hot(ops: Backend, indices: Array, size: int, dtype: str) -> Array:
    """Integer `indices` of any shape as basis vectors of length `size` in a new last axis."""
    shape = ops.shape(indices)
    spread = ops.reshape(ops.int32(indices, indices), (*shape, 1))
    return ops.astype(spread == ops.arange(size, indices), dtype)


@dataclass(frozen=True)
class Layout:
    """The view of outputs of shape (B, ...) as (B, positions, classes).

    (B,) and (B, 1) are one logit; (B, m) is one position of m classes; with more axes `class_axis` says which of them
    holds the classes. Without it all components of a sample count as one vector. That is enough for a projection of the
    logits; probabilities and labels refuse it.
    """

    shape: tuple[int, ...]
    class_axis: int | None

    @classmethod
    def of(cls, call: str, shape: tuple[int, ...], batch: int, class_axis: int | None) -> "Layout":
        """The layout of outputs of `shape` for a batch of `batch` samples.

        Raises:
            InputError: the outputs have no batch axis, no component, or no such class axis.
        """
        if not shape or shape[0] != batch:
            raise InputError(
                f"{call}: expected outputs of shape ({batch}, ...), one row for each of the {batch} samples of x, got "
                f"{shape}. Keep the batch axis first; a model that averages over the batch has no per-sample Jacobian."
            )
        if math.prod(shape) == 0:
            raise InputError(f"{call}: the outputs are empty, shape {shape}.")
        if class_axis is None:
            return cls(shape, -1 if len(shape) <= 2 else None)
        axis = class_axis + len(shape) if class_axis < 0 else class_axis
        if len(shape) == 1 and class_axis in (-1, 1):
            return cls(shape, -1)
        if not 1 <= axis < len(shape):
            raise InputError(
                f"{call}: class_axis={class_axis} must name an axis after the first of outputs of shape {shape}; count "
                f"from 1, or from -1 for the last."
            )
        return cls(shape, axis - len(shape))

    @property
    def canonical(self) -> tuple[int, int, int]:
        """(B, positions, classes)."""
        batch, components = self.shape[0], math.prod(self.shape[1:])
        if self.class_axis is None:
            return batch, 1, components
        classes = self.shape[self.class_axis] if len(self.shape) > 1 else 1
        return batch, components // classes, classes

    def require_classes(self, call: str, asker: str) -> None:
        """Refuse `asker`, which needs classes, if nobody said which axis holds them.

        Raises:
            InputError: the outputs have more than two axes and no class axis was given.
        """
        if self.class_axis is None:
            raise InputError(
                f"{call}: {asker} needs to know which axis of the outputs {self.shape} holds the classes; "
                f"pass class_axis=-1 (last) or class_axis=1 (PyTorch's convention)."
            )

    def to_canonical(self, ops: Backend, outputs: Array) -> Array:
        """Outputs (or anything of their shape) as (B, positions, classes)."""
        if len(self.shape) > 2 and self.class_axis not in (None, -1):
            outputs = ops.moveaxis(outputs, self.class_axis or 0, -1)
        return ops.reshape(outputs, self.canonical)

    def from_canonical(self, ops: Backend, array: Array) -> Array:
        """The inverse of `to_canonical`."""
        if len(self.shape) > 2 and self.class_axis not in (None, -1):
            axis = (self.class_axis or 0) + len(self.shape)
            moved = (*self.shape[:axis], *self.shape[axis + 1 :], self.shape[axis])
            return ops.moveaxis(ops.reshape(array, moved), -1, axis)
        return ops.reshape(array, self.shape)


@dataclass(frozen=True)
class Target:
    """Labels that fit the outputs, as they came and as a distribution over the classes at each position."""

    ops: Backend
    call: str
    labels: Array
    """(B, positions) class indices where there are several classes and `hard`, else (B, positions, classes)."""
    classes: int
    hard: bool
    """Whether they came as integers."""
    checked: bool
    """Whether their values were read, and are in range."""
    dtype: str
    """Of the distribution."""
    _made: list[Array] = field(default_factory=list, init=False, repr=False)

    @property
    def distribution(self) -> Array:
        """(B, positions, classes), NaN where a label is out of range; made once, where it is asked for."""
        if not self._made:  # functools.cached_property has a lock, which torch.compile does not take
            self._made.append(self._distribution())
        return self._made[0]

    def _distribution(self) -> Array:
        ops = self.ops
        if self.classes == 1:
            probability = ops.astype(self.labels, self.dtype)
            return ops.where((probability >= 0) & (probability <= 1), probability, math.nan)
        if not self.hard:
            return ops.astype(self.labels, self.dtype)
        basis = one_hot(ops, self.labels, self.classes, self.dtype)
        return basis if self.checked else ops.where(ops.sum(basis, -1, keepdims=True) > 0, basis, math.nan)

    def basis(self, asker: str) -> Array:
        """The basis vector of the true class; ones where there is a single logit.

        Raises:
            InputError: the labels are soft.
        """
        if not self.hard:
            raise InputError(f"{self.call}: {asker} needs integer class labels, got soft labels (floating point).")
        if self.classes == 1:
            return self.distribution * 0 + 1
        return self.distribution


def _check_values(ops: Backend, call: str, labels: Array, hard: bool, classes: int) -> bool:
    """Refuse label values out of range where reading them is free; elsewhere (False) they turn into NaN."""
    values = ops.values_if_free(labels)
    if values is None:
        return False
    if values.size == 0:
        return True
    top = max(classes - 1, 1)
    if hard:
        if values.min() < 0 or values.max() > top:
            raise InputError(
                f"{call}: labels must lie in 0..{top} for {classes} outputs, got values from {values.min()} to "
                f"{values.max()}. Relabel them, or mask padded samples with sample_weight=."
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


def prepare_target(ops: Backend, call: str, y: Any, layout: Layout, like: Array, asker: str) -> Target:
    """Labels `y`, their distribution in the dtype of `like`, the canonical logits.

    Integers name a class at each position: shape (B,) or the outputs' shape without its class axis (a single logit
    takes 0 and 1, with or without the axis of length 1). Floats are distributions of the outputs' own shape, or
    probabilities of shape (B,) for a single logit. Where values cannot be read without synchronising a device, a label
    out of range makes the result NaN: never a silently masked sample.

    Raises:
        InputError: `y` is missing, or its shape or values do not fit.
        InputTypeError: `y` is not an array of numbers.
    """
    layout.require_classes(call, asker)
    batch, positions, classes = layout.canonical
    if y is None:
        raise InputError(f"{call}: {asker} needs labels, but y is None; pass y.")
    try:
        labels = ops.asarray(y, like)
        dtype, shape = ops.dtype(labels), ops.shape(labels)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputTypeError(f"{call}: y must be an array of labels, got {type(y).__name__}.") from error
    hard = is_integer(dtype)
    if not hard and not is_floating(dtype):
        raise InputTypeError(f"{call}: labels must be integers or floating-point probabilities, got dtype {dtype}.")
    axis = layout.class_axis or -1
    without = layout.shape[: len(layout.shape) + axis] + (layout.shape[axis:][1:] if axis < -1 else ())
    without = layout.shape if len(layout.shape) == 1 else without
    if classes == 1 and shape in (layout.shape, without):
        canonical = ops.reshape(labels, (batch, positions, 1))
    elif hard and shape == without:
        canonical = ops.reshape(labels, (batch, positions))
    elif not hard and shape == layout.shape:
        canonical = layout.to_canonical(ops, labels)
    else:
        wanted = f"{without}" if hard or classes == 1 else f"{layout.shape}"
        kind = "integer class labels" if hard else "soft labels"
        hint = "" if hard or shape != without else " Class labels must be of an integer type."
        raise InputError(
            f"{call}: expected {kind} of shape {wanted} for outputs of shape {layout.shape}, got {shape}.{hint}"
        )
    checked = _check_values(ops, call, canonical, hard, classes)
    return Target(ops, call, canonical, classes, hard, checked, ops.dtype(like))
