"""Real numbers of any type: Python's, NumPy's, fractions, arrays of one number."""

import math
import numbers
from decimal import Decimal
from typing import Any

import numpy as np

from gradreg_core.backend import Array, Backend
from gradreg_core.errors import InputError, InputTypeError

__all__ = ["converted", "integer_option", "positive_scalar", "real", "require_narrow", "weights"]


def real(value: Any) -> float | None:
    """`value` as a float, infinite where it overflows; None if it is no real number: bool, complex, text, an array."""
    if type(value) in (int, float):  # symbolic numbers of a compiler too
        return value if type(value) is float else _as_float(value)
    if isinstance(value, np.ndarray) and value.shape == ():
        value = value[()]
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real | np.integer | np.floating | Decimal):
        return None
    return _as_float(value)


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def positive_scalar(ops: Backend, call: str, name: str, value: Any, like: Array) -> Any:
    """A finite number above 0, checked: a Python number, or an array in the dtype of `like`.

    Where the value of an array cannot be read without cost, a wrong one becomes NaN.

    Raises:
        InputTypeError: it is no real number and no array without axes.
        InputError: it is not above 0, not finite, or NaN.
    """
    number = real(value)
    if number is None and ops.is_array(value):
        dtype = ops.dtype(value)
        if ops.shape(value) == () and dtype.startswith(("int", "uint", "float", "bfloat")):
            read = ops.values_if_free(value)
            if read is None:
                array = ops.astype(value, ops.dtype(like))
                return ops.where((array > 0) & (array < math.inf), array, math.nan)
            number = real(np.asarray(read))
    if number is None:
        raise InputTypeError(f"{call}: {name} must be a number, got {value!r}.")
    if not 0 < number < math.inf:
        raise InputError(f"{call}: {name} must be a finite number above 0, got {value!r}.")
    return number


def converted(ops: Backend, call: str, name: str, value: Any, like: Array) -> Array:
    """`value` as an array on the device of `like`.

    Raises:
        InputTypeError: it cannot be converted.
    """
    require_narrow(call, name, value)
    try:
        return ops.asarray(value, like)
    except (TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise InputTypeError(f"{call}: {name} must be an array or a list of numbers, got {value!r}: {error}") from error


def require_narrow(call: str, name: str, value: Any) -> None:
    """Refuse integers of NumPy that some frameworks narrow to 32 bits without a word.

    Raises:
        InputError: they need more than 32 bits.
    """
    wide = isinstance(value, np.ndarray) and value.dtype.kind in "iu" and value.dtype.itemsize > 4 and value.size > 0
    if wide and not -(2**31) <= value.min() <= value.max() < 2**31:
        raise InputError(f"{call}: {name} must lie in [-2**31, 2**31), got values from {value.min()} to {value.max()}.")


def weights(ops: Backend, call: str, name: str, array: Array, dtype: str) -> Array:
    """Weights in `dtype`: finite and at least 0. Where they cannot be read without cost, a wrong one becomes NaN.

    Raises:
        InputTypeError: they are no real numbers.
        InputError: one is negative, infinite or NaN.
    """
    if not ops.dtype(array).startswith(("float", "bfloat", "int", "uint", "bool")):
        raise InputTypeError(f"{call}: {name} must be real numbers, got {ops.dtype(array)}.")
    values = ops.values_if_free(array)
    wide = ops.astype(array, dtype)
    if values is None:
        return ops.where((wide >= 0) & (wide < math.inf), wide, math.nan)
    if not ((values >= 0) & (values < math.inf)).all():
        raise InputError(f"{call}: {name} must be finite and at least 0 everywhere.")
    return wide


def integer_option(call: str, name: str, value: Any, minimum: int | None = None) -> int | None:
    """An integer or None, converted to an int.

    Raises:
        InputTypeError: it is no integer.
        InputError: it is below the minimum.
    """
    if value is None:
        return None
    expected = "an integer" if minimum is None else f"an integer of at least {minimum}"
    try:
        number = None if isinstance(value, bool | np.bool_) else int(value.__index__())
    except (AttributeError, TypeError):
        number = None
    if number is None:
        raise InputTypeError(f"{call}: {name} must be {expected}, got {value!r}.")
    if minimum is not None and number < minimum:
        raise InputError(f"{call}: {name} must be {expected}, got {value!r}.")
    return number
