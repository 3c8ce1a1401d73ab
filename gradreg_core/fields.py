"""Checks of plain Python values, shared by everything that is validated at construction."""

import math
from typing import Any

from gradreg_core.errors import SpecError

__all__ = ["require_bool", "require_choice", "require_integer", "require_number"]


def require_number(
    owner: str, name: str, value: Any, *, minimum: float, maximum: float = math.inf, open_minimum: bool = False
) -> float:
    """Return `value` as a float in [minimum, maximum], or (minimum, maximum] with `open_minimum`.

    Raises:
        SpecError: it is no real number, is NaN or infinite, or lies outside the range.
    """
    bound = f"greater than {minimum:g}" if open_minimum else f"at least {minimum:g}"
    expected = f"a finite number {bound}" + (f" and at most {maximum:g}" if maximum < math.inf else "")
    number: float | None = None
    if not isinstance(value, bool | str | bytes | complex):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = None
    good = number is not None and math.isfinite(number) and minimum <= number <= maximum
    if number is None or not good or (open_minimum and number == minimum):
        raise SpecError(f"{owner}: {name} must be {expected}, got {value!r}.")
    return number


def require_integer(owner: str, name: str, value: Any, *, minimum: int, maximum: int | None = None) -> int:
    """Return `value` as an int in [minimum, maximum].

    Raises:
        SpecError: it is no integer or lies outside the range.
    """
    top = "" if maximum is None else f" and at most {maximum}"
    index = getattr(value, "__index__", None)
    number = None if index is None or isinstance(value, bool) else int(index())
    if number is None or number < minimum or (maximum is not None and number > maximum):
        raise SpecError(f"{owner}: {name} must be an integer of at least {minimum}{top}, got {value!r}.")
    return number


def require_bool(owner: str, name: str, value: Any) -> bool:
    """Return `value` if it is a bool.

    Raises:
        SpecError: it is not.
    """
    if not isinstance(value, bool):
        raise SpecError(f"{owner}: {name} must be True or False, got {value!r}.")
    return value


def require_choice(owner: str, name: str, value: Any, choices: tuple[str, ...]) -> str:
    """Return `value` if it is one of `choices`.

    Raises:
        SpecError: it is not.
    """
    if not isinstance(value, str) or value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise SpecError(f"{owner}: {name} must be one of {listed}, got {value!r}.")
    return value
