"""The array primitives that :class:`gradreg_core.random.Draws` is written over, in NumPy. No autodiff, no engine."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradreg_core.random import Draws
from gradreg_numpy.functions import Array

__all__ = ["DrawOps", "draws"]


class DrawOps:
    """The subset of :class:`gradreg_core.backend.Backend` that draws need.

    int32 arithmetic on arrays wraps around in NumPy without a warning; on scalars it would warn, so every method gives
    an array of the shape it is asked for, and `Draws` gives each scalar three axes.
    """

    name = "numpy"

    def shape(self, array: Array) -> tuple[int, ...]:
        """The shape."""
        return array.shape

    def constant(self, values: Any, dtype: str, like: Array) -> Array:
        """An array of Python numbers."""
        return np.asarray(values, dtype=dtype)

    def int32(self, value: Any, like: Array) -> Array:
        """A Python int in [-2**31, 2**31), or an integer array, as int32, wrapped."""
        return np.asarray(value).astype(np.int32)

    def arange(self, stop: int, like: Array) -> Array:
        """0 .. stop-1 as int32."""
        return np.arange(stop, dtype=np.int32)

    def astype(self, array: Array, dtype: str) -> Array:
        """`array` converted to `dtype`."""
        return array.astype(dtype)

    def reshape(self, array: Array, shape: Sequence[int]) -> Array:
        """`array` in a new shape."""
        return np.reshape(array, tuple(shape))

    def concat(self, arrays: Sequence[Array], axis: int) -> Array:
        """`arrays` joined along an axis that exists."""
        return np.concatenate(list(arrays), axis)

    def take(self, array: Array, indices: Array) -> Array:
        """Rows of `array` at integer `indices` of any shape."""
        return np.asarray(array[indices])

    def bitwise_left_shift(self, array: Array, bits: Any) -> Array:
        """int32 << bits."""
        return np.asarray(np.left_shift(array, bits))

    def bitwise_right_shift(self, array: Array, bits: Any) -> Array:
        """int32 >> bits, arithmetic."""
        return np.asarray(np.right_shift(array, bits))

    def where(self, condition: Array, if_true: Any, if_false: Any) -> Array:
        """Element by element choice."""
        return np.asarray(np.where(condition, if_true, if_false))


def draws(seed: int, step: int, sample_ids: Array) -> Draws:
    """The draws of a term with `seed` at `step` for samples with `sample_ids` (B,), any integer type."""
    return Draws(DrawOps(), seed, step, sample_ids.astype(np.int32))  # type: ignore[arg-type]
