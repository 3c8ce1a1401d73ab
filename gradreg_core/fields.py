"""Checks of plain Python values, and of a specification's fields, which carry their checks in their annotations."""

import math
from abc import ABCMeta
from collections.abc import Callable
from dataclasses import dataclass, fields
from inspect import Signature, signature
from typing import Any

from gradreg_core.errors import SpecError
from gradreg_core.numerals import integer, of_array
from gradreg_core.signatures import refuse_misfit

__all__ = ["Boolean", "Checked", "Choice", "Instance", "Integer", "Number", "OptionalInteger", "Schedule"]


@dataclass(frozen=True, repr=False)
class Number:
    """A finite number in [minimum, maximum], or (minimum, maximum] with `open_minimum`; converted to a float."""

    minimum: float
    maximum: float = math.inf
    open_minimum: bool = False

    def __repr__(self) -> str:
        top = f" and at most {self.maximum:g}" if self.maximum < math.inf else ""
        return f"a finite number {'greater than' if self.open_minimum else 'at least'} {self.minimum:g}{top}"

    def __call__(self, owner: str, name: str, value: Any) -> Any:
        """`value` as a float; `owner` and `name` identify it in the message.

        Raises:
            SpecError: it is not a real number, is NaN or infinite, or lies outside the range.
        """
        read = of_array(value)
        number = math.nan if read is None else read
        inside = self.minimum < number if self.open_minimum else self.minimum <= number
        if not (math.isfinite(number) and inside and number <= self.maximum):
            raise SpecError(f"{owner}: {name} must be {self!r}, got {value!r}.")
        return number


class Schedule(Number):
    """A number, or a function of the step that returns one."""

    def __call__(self, owner: str, name: str, value: Any) -> Any:
        if callable(value):
            return value
        if getattr(value, "requires_grad", False) or getattr(value, "trainable", False):
            raise SpecError(
                f"{owner}: {name} must be {self!r}, or a schedule. Of {value!r} the number would be read once, without "
                f"its gradient. Give `lambda step: {name}` to follow it, or its number: float({name}), in PyTorch "
                f"{name}.item()."
            )
        return super().__call__(owner, name, value)


@dataclass(frozen=True, repr=False)
class Integer:
    """An integer in [minimum, maximum]; converted to an int."""

    minimum: int
    maximum: int | None = None

    def __repr__(self) -> str:
        top = "" if self.maximum is None else f" and at most {self.maximum}"
        return f"an integer of at least {self.minimum}{top}"

    def __call__(self, owner: str, name: str, value: Any) -> Any:
        """`value` as an int; `owner` and `name` identify it in the message.

        Raises:
            SpecError: it is not an integer, or lies outside the range.
        """
        number = integer(value)
        if number is None or number < self.minimum or (self.maximum is not None and number > self.maximum):
            raise SpecError(f"{owner}: {name} must be {self!r}, got {value!r}.")
        return number


class OptionalInteger(Integer):
    """An integer in [minimum, maximum], or None."""

    def __call__(self, owner: str, name: str, value: Any) -> Any:
        return None if value is None else super().__call__(owner, name, value)


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


def Boolean() -> Instance:  # noqa: N802 - a check, like the classes next to it
    """True or False."""
    return Instance(lambda value: isinstance(value, bool), "True or False")


def Choice(choices: tuple[str, ...]) -> Instance:  # noqa: N802
    """One of several strings."""
    return Instance(
        lambda value: isinstance(value, str) and value in choices, f"one of {', '.join(map(repr, choices))}"
    )


class _Named(ABCMeta):
    """Makes classes refuse arguments that do not fit, with gradreg's own error."""

    def __call__(cls, *args: Any, **options: Any) -> Any:
        try:
            signature(cls.__init__).bind(None, *args, **options)  # type: ignore[misc]
        except TypeError:
            parameters = tuple(signature(cls.__init__).parameters.values())[1:]  # type: ignore[misc]
            refuse_misfit(cls.__name__, parameters, args, options)
        return super().__call__(*args, **options)

    @property
    def __signature__(cls) -> Signature:
        """For ``help()`` and editors: the fields and their types, without the checks, instead of this call's own."""
        own = signature(cls.__init__)  # type: ignore[misc]
        parameters = [
            parameter.replace(annotation=parameter.annotation.__origin__)
            if hasattr(parameter.annotation, "__metadata__")
            else parameter
            for parameter in list(own.parameters.values())[1:]
        ]
        return own.replace(parameters=parameters, return_annotation=Signature.empty)


class Checked(metaclass=_Named):
    """A frozen dataclass whose fields are checked, and converted, by the checks in their annotations.

    A field is declared with its check: ``k: Annotated[int, Integer(minimum=1)] = 1``.
    """

    def __post_init__(self) -> None:
        owner = type(self).__name__
        for field in fields(self):  # type: ignore[arg-type]
            for check in getattr(field.type, "__metadata__", ()):
                object.__setattr__(self, field.name, check(owner, field.name, getattr(self, field.name)))
