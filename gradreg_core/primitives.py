"""The array operations that random draws use, and the types of a backend's values."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from gradreg_core import threefry

__all__ = ["Array", "DrawPrimitives", "Model", "Pullback"]

Array = Any
"""An array of the framework that the backend belongs to."""
Model = Callable[[Array], Array]
Pullback = Callable[[Array], Array]


class DrawPrimitives(ABC):
    """The operations that random draws use; see :mod:`gradreg_core.random`."""

    @abstractmethod
    def shape(self, array: Array) -> tuple[int, ...]:
        """The static shape."""

    @abstractmethod
    def dtype(self, array: Array) -> str:
        """The dtype's name, such as ``"float32"`` or ``"int64"``."""

    @abstractmethod
    def constant(self, values: Any, dtype: str, like: Array) -> Array:
        """An array of Python numbers on the device of `like`."""

    @abstractmethod
    def int32(self, value: Any, like: Array) -> Array:
        """A Python int in [-2**31, 2**31) or a (traced) integer array, as int32 on the device of `like`, wrapped."""

    @abstractmethod
    def arange(self, stop: int, like: Array) -> Array:
        """0 .. stop-1 as int32."""

    @abstractmethod
    def astype(self, array: Array, dtype: str) -> Array:
        """`array` converted to `dtype`, differentiably."""

    @abstractmethod
    def reshape(self, array: Array, shape: Sequence[int]) -> Array:
        """`array` in a new shape, in which one length may be -1."""

    @abstractmethod
    def concat(self, arrays: Sequence[Array], axis: int) -> Array:
        """`arrays` joined along an existing axis."""

    @abstractmethod
    def take(self, array: Array, indices: Array) -> Array:
        """Rows of `array` (axis 0) at integer `indices` of any shape, differentiably."""

    @abstractmethod
    def where(self, condition: Array, if_true: Any, if_false: Any) -> Array:
        """Elementwise choice; one of the two choices may be a Python number, and takes the other's dtype."""

    @abstractmethod
    def bitwise_left_shift(self, array: Array, bits: Any) -> Array:
        """int32 << bits (a Python int, or an int32 array)."""

    @abstractmethod
    def bitwise_right_shift(self, array: Array, bits: Any) -> Array:
        """Integers >> bits, arithmetic if signed: copies the sign bit in. For int32, and int64 if available."""

    def threefry2x32(self, key: threefry.Pair, counter: threefry.Pair) -> threefry.Pair:
        """Two random words from int32 arrays that broadcast; see :func:`gradreg_core.threefry.rounds`.

        Override it if a primitive of the framework gives the same bits faster.
        """

        def rotate_left(words: Array, bits: int) -> Array:
            low = self.bitwise_right_shift(words, 32 - bits) & ((1 << bits) - 1)
            return self.bitwise_left_shift(words, bits) | low

        return threefry.rounds(key, counter, rotate_left)
