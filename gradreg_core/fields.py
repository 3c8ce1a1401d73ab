"""Checks of plain Python values, and of a specification's fields, which carry their checks in their annotations."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from gradreg_core.errors import SpecError

__all__ = [
    "Boolean",
    "Checked",
    "Choice",
    "Instance",
    "Integer",
    "Number",
    "OptionalInteger",
    "Schedule",
    "require_integer",
    "require_number",
]


def require_number(
    owner: str, name: str, value: Any, *, minimum: float, maximum: float = math.inf, open_minimum: bool = False
) -> float:
    """Return `value` as a float in [minimum, maximum], or (minimum, maximum] with `open_minimum`.

    Raises:
        SpecError: it is not a real number, is NaN or infinite, or lies outside the range.
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
        SpecError: it is not an integer, or lies outside the range.
    """
    top = "" if maximum is None else f" and at most {maximum}"
    index = getattr(value, "__index__", None)
    number = None if index is None or isinstance(value, bool) else int(index())
    if number is None or number < minimum or (maximum is not None and number > maximum):
        raise SpecError(f"{owner}: {name} must be an integer of at least {minimum}{top}, got {value!r}.")
    return number


@dataclass(frozen=True, repr=False)
class Number:
    """A finite number in [minimum, maximum], or (minimum, maximum] with `open_minimum`; stored as a float."""

    minimum: float
    maximum: float = math.inf
    open_minimum: bool = False

    def __repr__(self) -> str:
        top = f" and <= {self.maximum:g}" if self.maximum < math.inf else ""
        return f"{type(self).__name__} {'>' if self.open_minimum else '>='} {self.minimum:g}{top}"

    def __call__(self, owner: str, name: str, value: Any) -> float:
        return require_number(
            owner, name, value, minimum=self.minimum, maximum=self.maximum, open_minimum=self.open_minimum
        )


@dataclass(frozen=True, repr=False)
class Schedule(Number):
    """A number, or a function of the step that returns one."""

    def __call__(self, owner: str, name: str, value: Any) -> Any:
        return value if callable(value) else super().__call__(owner, name, value)


@dataclass(frozen=True, repr=False)
class Integer:
    """An integer in [minimum, maximum]; stored as an int."""

    minimum: int
    maximum: int | None = None

    def __repr__(self) -> str:
        top = "" if self.maximum is None else f" and <= {self.maximum}"
        return f"{type(self).__name__} >= {self.minimum}{top}"

    def __call__(self, owner: str, name: str, value: Any) -> int | None:
        return require_integer(owner, name, value, minimum=self.minimum, maximum=self.maximum)


@dataclass(frozen=True, repr=False)
class OptionalInteger(Integer):
    """An integer in [minimum, maximum], or None."""

    def __call__(self, owner: str, name: str, value: Any) -> int | None:
        return None if value is None else super().__call__(owner, name, value)


@dataclass(frozen=True)
class Boolean:
    """True or False."""

    def __call__(self, owner: str, name: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise SpecError(f"{owner}: {name} must be True or False, got {value!r}.")
        return value


@dataclass(frozen=True)
class Choice:
    """One of several strings."""

    choices: tuple[str, ...]

    def __call__(self, owner: str, name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in self.choices:
            listed = ", ".join(map(repr, self.choices))
            raise SpecError(f"{owner}: {name} must be one of {listed}, got {value!r}.")
        return value


@dataclass(frozen=True, repr=False)
class Instance:
    """A value that `accepts` holds for; `expected` says which, for the message."""

    accepts: Callable[[Any], bool]
    expected: str

    def __repr__(self) -> str:
        return self.expected

    def __call__(self, owner: str, name: str, value: Any) -> Any:
        if not self.accepts(value):
            raise SpecError(f"{owner}: {name} must be {self.expected}, got {value!r}.")
        return value


class Checked:
    """A frozen dataclass whose fields are checked, and converted, by the checks in their annotations.

    A field is declared with its check: ``k: Annotated[int, Integer(minimum=1)] = 1``.
    """

    def __post_init__(self) -> None:
        owner = type(self).__name__
        for field in fields(self):  # type: ignore[arg-type]
            for check in getattr(field.type, "__metadata__", ()):
                object.__setattr__(self, field.name, check(owner, field.name, getattr(self, field.name)))
