"""Outputs in one layout: (B, positions, classes), whatever axes the model's outputs have."""

import math
from typing import Any

from gradreg_core.backend import Array, Backend
from gradreg_core.errors import InputError, InputTypeError

__all__ = [
    "FLOATING",
    "HALF",
    "Layout",
    "is_floating",
    "is_half",
    "is_integer",
    "one_hot",
    "require_integer_scalar",
    "widened",
]

FLOATING = ("float16", "bfloat16", "float32", "float64")
"""The real floating-point types of 16 bits or more."""
HALF = ("float16", "bfloat16")
"""The floating-point types of 16 bits."""


def is_integer(dtype: str) -> bool:
    """Whether a dtype name is an integer type or bool."""
    return dtype.startswith(("int", "uint", "bool"))


def require_integer_scalar(ops: Backend, call: str, argument: str, value: Any) -> None:
    """Refuse a value that is not a 0-d array of integers.

    Raises:
        InputTypeError: it is not an array, not of integers, or has axes.
    """
    if not ops.is_array(value):
        raise InputTypeError(f"{call}: {argument} must be an integer, got {value!r}.")
    if not is_integer(ops.dtype(value)) or ops.shape(value):
        raise InputTypeError(
            f"{call}: {argument} must be an integer or a 0-d array of integers, got {ops.dtype(value)} of "
            f"shape {ops.shape(value)}."
        )


def is_floating(dtype: str) -> bool:
    """Whether a dtype name is a real floating-point type of 16 bits or more: frameworks do not compute in fewer."""
    return dtype in FLOATING


def is_half(dtype: str) -> bool:
    """Whether a dtype name is a floating-point type of 16 bits."""
    return dtype in HALF


def widened(ops: Backend, array: Array) -> Array:
    """Half precision as float32, so that squares of small gradients do not underflow."""
    return ops.astype(array, "float32") if ops.dtype(array) in HALF else array


def one_hot(ops: Backend, indices: Array, size: int, dtype: str) -> Array:
    """Integer `indices` of any shape as basis vectors of length `size` in a new last axis."""
    shape, wide = ops.shape(indices), ops.dtype(indices)
    if wide in ("int64", "uint32", "uint64"):  # in int32 a large index would wrap around to a small one
        spread, numbers = ops.reshape(indices, (*shape, 1)), ops.astype(ops.arange(size, indices), wide)
    else:
        spread, numbers = ops.reshape(ops.int32(indices, indices), (*shape, 1)), ops.arange(size, indices)
    # Equal ranks, for settings that forbid rank promotion.
    return ops.astype(spread == ops.reshape(numbers, (*[1] * len(shape), size)), dtype)


class Layout:
    """The view of outputs of shape (B, ...) as (B, positions, classes).

    (B,) and (B, 1) are one logit; (B, m) is one position of m classes; with more axes `class_axis` says which of them
    holds the classes. Without it all components of a sample count as one vector. That is enough for a projection of the
    logits; probabilities and labels refuse it.

    Args:
        shape: of the outputs.
        class_axis: counted from the last axis if below 0; None if it is not known.
    """

    def __init__(self, shape: tuple[int, ...], class_axis: int | None) -> None:
        self.shape, self.class_axis = shape, class_axis
        components = math.prod(shape[1:])
        classes = components if class_axis is None else shape[class_axis] if len(shape) > 1 else 1
        self.canonical = shape[0], components // classes, classes
        """(B, positions, classes)."""

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
        if 0 in shape:
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

    def position_shape(self, call: str, asker: str) -> tuple[int, ...]:
        """The shape of the outputs without their class axis: (B, positions...), and (B,) for one position.

        Raises:
            InputError: the axis that holds the classes is not known.
        """
        if self.class_axis is None:
            self.require_classes(call, asker)
        if len(self.shape) <= 2:
            return self.shape[:1]
        axis = (self.class_axis or -1) + len(self.shape)
        return (*self.shape[:axis], *self.shape[axis + 1 :])

    def without_classes(self) -> "Layout":
        """The layout in which all components of a sample are one vector."""
        return Layout(self.shape, None)

    def require_classes(self, call: str, asker: str) -> None:
        """Refuse `asker`, which needs classes, if the axis that holds them is not known.

        Raises:
            InputError: the outputs have more than two axes and no class axis was given, or there are several outputs.
        """
        if self.class_axis is None and len(self.shape) <= 2:
            raise InputError(
                f"{call}: {asker} needs classes, and several outputs that count together have none. Select one output, "
                f"or pass loss_fn=, which gets the list of selected outputs."
            )
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
