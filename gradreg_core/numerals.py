"""Python's own numbers from numbers of any type: NumPy's, fractions, decimals, 0-d arrays."""

import math
import numbers
from decimal import Decimal
from typing import Any

import numpy as np

__all__ = ["integer", "of_array", "real"]

_REAL = (numbers.Real, np.integer, np.floating, Decimal)
_BOOLEAN = (bool, np.bool_)
_NOT_REAL = (*_BOOLEAN, np.timedelta64)
"""Types that register as numbers but are not: NumPy's durations are a subclass of its integers."""


def real(value: Any) -> float | None:
    """`value` as a float, infinite if it overflows; None if it is not a real number: bool, complex, text, array.

    Arrays of a framework are None too; see :func:`of_array`.
    """
    if type(value) in (int, float):  # symbolic numbers of a compiler too
        return value if type(value) is float else _as_float(value)
    if isinstance(value, np.ndarray) and value.shape == ():
        value = value[()]
    return None if isinstance(value, _NOT_REAL) or not isinstance(value, _REAL) else _as_float(value)


def of_array(value: Any) -> float | None:
    """Like :func:`real`, but also reads the value of 0-d arrays of any framework."""
    if not _is_scalar_array(value):
        return real(value)
    try:
        return float(value)
    except Exception:  # the error of a framework for a traced array
        return None


def integer(value: Any) -> int | None:
    """`value` as an int; None if it is not an integer, such as a bool or 1.0. 0-d arrays are read."""
    if type(value) is int:
        return value
    if isinstance(value, _BOOLEAN) or (hasattr(value, "dtype") and not _is_scalar_array(value)):
        return None
    try:
        return int(value.__index__())
    except Exception:  # the error of a framework for an array that is not an integer, or is traced
        return None


def _is_scalar_array(value: Any) -> bool:
    """Whether `value` is a 0-d array of a real number, of any framework."""
    if isinstance(value, type) or not hasattr(value, "dtype") or not _has_no_axes(value):
        return False
    name = str(getattr(value.dtype, "name", value.dtype)).rpartition(".")[2]
    return name.startswith(("int", "uint", "float", "bfloat"))


def _has_no_axes(value: Any) -> bool:
    try:
        return tuple(getattr(value, "shape", (0,))) == ()
    except Exception:  # the error of nested and sparse arrays, which have no shape
        return False


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except (OverflowError, ValueError):  # a signaling NaN of decimal
        return math.nan if isinstance(value, Decimal) else math.inf if value > 0 else -math.inf
