"""Checks of the numbers and arrays that a call gets, of any type, by name."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from gradreg_core.backend import Array, Backend
from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.numerals import integer, real

__all__ = ["converted", "integer_option", "positive_scalar", "require_narrow", "weights"]

_NARROW = range(-(2**31), 2**31)


def positive_scalar(ops: Backend, call: str, name: str, value: Any, like: Array) -> Any:
    """A finite number above 0, checked: a Python number, or an array, through which gradients flow.

    It has the dtype of `like`, or float32. If its value cannot be read at no cost, a wrong one becomes NaN.

    Raises:
        InputTypeError: it is neither a real number nor a 0-d array.
        InputError: it is not above 0, not finite, or NaN.
    """
    number, array = real(value), None
    if number is None and ops.is_array(value):
        dtype = ops.dtype(value)
        if ops.shape(value) == () and dtype.startswith(("int", "uint", "float", "bfloat")):
            array = ops.astype(value, "float64" if ops.dtype(like) == "float64" else "float32")
            read = ops.values_if_free(value)
            if read is None:
                return ops.where((array > 0) & (array < math.inf), array, math.nan)
            number = real(np.asarray(read))
    if number is None:
        raise InputTypeError(f"{call}: {name} must be a number, got {value!r}.")
    if not 0 < number < math.inf:
        raise InputError(f"{call}: {name} must be a finite number above 0, got {value!r}.")
    return number if array is None else array


def converted(ops: Backend, call: str, name: str, value: Any, like: Array) -> Array:
    """`value` as an array on the device of `like`.

    Raises:
        InputTypeError: it cannot be converted.
    """
    require_narrow(call, name, value)
    try:
        array = ops.asarray(value, like)
    except (TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise InputTypeError(f"{call}: {name} must be an array or a list of numbers, got {value!r}: {error}") from error
    if not ops.is_array(array):
        raise InputTypeError(f"{call}: {name} must be an array of numbers. {ops.conversion(value)}")
    return array


def require_narrow(call: str, name: str, value: Any) -> None:
    """Refuse integers of Python and NumPy that some frameworks silently narrow to 32 bits.

    Raises:
        InputError: they need more than 32 bits.
    """
    if isinstance(value, np.ndarray):
        wide = value.dtype.kind in "iu" and not np.can_cast(value.dtype, np.int32) and value.size > 0
        ends = [int(value.min()), int(value.max())] if wide else []
    else:
        ends = [number for number in _integers(value) if number not in _NARROW]
    if ends and (min(ends) < -(2**31) or max(ends) >= 2**31):
        raise InputError(
            f"{call}: {name} must lie in [-2**31, 2**31), got values from {_short(min(ends))} to {_short(max(ends))}."
        )


def _integers(value: Any) -> Iterator[int]:
    """The integers of Python and NumPy in nested lists."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _integers(item)
    elif type(value) is int or isinstance(value, np.integer):
        yield int(value)


def _short(number: int) -> str:
    return str(number) if abs(number) < 10**30 else f"about {'-' if number < 0 else ''}2**{number.bit_length() - 1}"


def weights(ops: Backend, call: str, name: str, array: Array, dtype: str) -> Array:
    """Weights in `dtype`: finite and at least 0. If they cannot be read at no cost, a wrong one becomes NaN.

    Raises:
        InputTypeError: they are not real numbers.
        InputError: one is negative, infinite or NaN.
    """
    if not ops.dtype(array).startswith(("float", "bfloat", "int", "uint", "bool")):
        raise InputTypeError(f"{call}: {name} must be real numbers, got {ops.dtype(array)}.")
    values = ops.values_if_free(array)
    wide = ops.astype(array, dtype)
    if values is None:
        return ops.where((wide >= 0) & (wide < math.inf), wide, math.nan)
    narrow = ops.values_if_free(wide)  # a large number of 64 bits may be infinite in 32
    if not ((values >= 0) & (values < math.inf)).all() or (narrow is not None and not (narrow < math.inf).all()):
        raise InputError(f"{call}: {name} must be finite and at least 0 everywhere.")
    return wide


def integer_option(call: str, name: str, value: Any, minimum: int | None = None) -> int | None:
    """An integer or None, converted to an int.

    Raises:
        InputTypeError: it is not an integer.
        InputError: it is below the minimum, or needs more than 32 bits.
    """
    if value is None:
        return None
    expected = "an integer" if minimum is None else f"an integer of at least {minimum}"
    number = integer(value)
    if number is None:
        raise InputTypeError(f"{call}: {name} must be {expected}, got {value!r}.")
    if minimum is not None and number < minimum:
        raise InputError(f"{call}: {name} must be {expected}, got {_short(number)}.")
    if number not in _NARROW:
        raise InputError(f"{call}: {name} must lie in [-2**31, 2**31), got {_short(number)}.")
    return number
