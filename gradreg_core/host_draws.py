"""The primitives of random draws in NumPy, for draws whose seed, step and sample ids the host knows.

Draws are some forty operations on a few hundred numbers, which a framework takes longer to dispatch than to compute.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradreg_core import threefry
from gradreg_core.backend import DrawPrimitives

__all__ = ["HostPrimitives"]

Array = np.ndarray[Any, Any]


class HostPrimitives(DrawPrimitives):
    """See :class:`gradreg_core.backend.DrawPrimitives`.

    NumPy's int32 arithmetic wraps around without a warning on arrays, but warns on scalars, so every method returns
    an array.
    """

    def shape(self, array: Array) -> tuple[int, ...]:
        return tuple(array.shape)

    def dtype(self, array: Array) -> str:
        return str(array.dtype)

    def constant(self, values: Any, dtype: str, like: Array) -> Array:
        return np.asarray(values, dtype=dtype)

    def int32(self, value: Any, like: Array) -> Array:
        return np.asarray(value).astype(np.int32)

    def arange(self, stop: int, like: Array) -> Array:
        return np.arange(stop, dtype=np.int32)

    def astype(self, array: Array, dtype: str) -> Array:
        return array.astype(dtype)

    def reshape(self, array: Array, shape: Sequence[int]) -> Array:
        return array.reshape(tuple(shape))

    def concat(self, arrays: Sequence[Array], axis: int) -> Array:
        return np.concatenate(list(arrays), axis)

    def take(self, array: Array, indices: Array) -> Array:
        return np.asarray(array[indices])

    def where(self, condition: Array, if_true: Any, if_false: Any) -> Array:
        return np.asarray(np.where(condition, if_true, if_false))

    def bitwise_left_shift(self, array: Array, bits: Any) -> Array:
        return np.asarray(np.left_shift(array, bits))

    def bitwise_right_shift(self, array: Array, bits: Any) -> Array:
        return np.asarray(np.right_shift(array, bits))

    def threefry2x32(self, key: threefry.Pair, counter: threefry.Pair) -> threefry.Pair:
        words = threefry.uint32_rounds(
            (key[0].view(np.uint32), key[1].view(np.uint32)), (counter[0].view(np.uint32), counter[1].view(np.uint32))
        )
        return words[0].view(np.int32), words[1].view(np.int32)
