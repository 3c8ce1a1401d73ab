"""Refuses arguments that do not fit a call's signature, with gradreg's own error and the nearest right keyword."""

import difflib
from collections.abc import Callable
from functools import wraps
from inspect import Parameter, signature
from typing import Any, ParamSpec, TypeVar, cast

from gradreg_core.errors import InputTypeError

__all__ = ["refuse_misfit", "with_named_errors"]

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def with_named_errors(
    *, bound: bool = True, name: str = "", options: tuple[str, ...] = (), per_sample: tuple[str, ...] = ()
) -> Callable[[Callable[_Parameters, _Result]], Callable[_Parameters, _Result]]:
    """A decorator for calls: an unknown, missing or repeated argument is an InputTypeError.

    Args:
        bound: whether the first parameter is `self`.
        name: of the call, for messages; default: the function's own.
        options: further keywords that the function takes as a dict.
        per_sample: keywords of other calls that have no meaning here, because each sample has its own result.
    """

    def decorate(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
        own = tuple(signature(function).parameters.values())[int(bound) :]
        named = [Parameter(option, Parameter.KEYWORD_ONLY, default=None) for option in options]
        parameters = (*(one for one in own if one.kind is not Parameter.VAR_KEYWORD), *named)
        known = frozenset(parameter.name for parameter in parameters)
        places = [parameter for parameter in parameters if parameter.kind is not Parameter.KEYWORD_ONLY]
        needed = tuple(parameter.name for parameter in places if parameter.default is Parameter.empty)
        most, named_places = len(places) + int(bound), tuple(parameter.name for parameter in places)
        further = known.difference(named_places)

        # Cheap, and traceable by torch.compile: loops, because a generator costs a call for each of its values.
        @wraps(function)
        def call(*args: _Parameters.args, **keywords: _Parameters.kwargs) -> _Result:
            if len(args) == most and further.issuperset(keywords):
                return function(*args, **keywords)
            given = len(args) - int(bound)
            fits = len(args) <= most
            for one in needed[max(0, given) :]:
                fits = fits and one in keywords
            for one in keywords:
                fits = fits and one in known
            for one in named_places[: max(0, given)]:
                fits = fits and one not in keywords
            if not fits:
                refuse_misfit(name or function.__name__, parameters, args[int(bound) :], keywords, per_sample)
            return function(*args, **keywords)

        return cast("Callable[_Parameters, _Result]", call)

    return decorate


def refuse_misfit(
    name: str, parameters: tuple[Parameter, ...], args: Any, options: dict[str, Any], per_sample: tuple[str, ...] = ()
) -> None:
    """Refuse arguments that do not fit.

    Args:
        name: of the call, for messages.
        parameters: of the call.
        args: the positional arguments.
        options: the keyword arguments.
        per_sample: see :func:`with_named_errors`.

    Raises:
        InputTypeError: an argument is unknown or missing, or there are too many.
    """
    known = [parameter.name for parameter in parameters]
    for option in options:
        if option in per_sample:
            raise InputTypeError(
                f"{name}: it takes no {option}=, because it gives one value for each sample. Leave {option}= out; "
                f"weigh or average the values that it returns."
            )
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"Did you mean {near[0]}=?" if near else f"It takes {', '.join(known)}."
            raise InputTypeError(f"{name}: got an unexpected keyword argument {option!r}. {hint}")
    places = [parameter for parameter in parameters if parameter.kind is not Parameter.KEYWORD_ONLY]
    if len(args) > len(places):
        further = [parameter.name for parameter in parameters if parameter.kind is Parameter.KEYWORD_ONLY]
        raise InputTypeError(
            f"{name}: takes {len(places)} arguments by position ({', '.join(p.name for p in places)}), got "
            f"{len(args)}." + (f" Pass the others by keyword: {', '.join(further)}." if further else "")
        )
    taken = {parameter.name for parameter in places[: len(args)]}
    lacking = [
        p.name for p in parameters if p.default is Parameter.empty and p.name not in taken and p.name not in options
    ]
    if lacking:
        raise InputTypeError(f"{name}: needs {', '.join(f'{one}=' for one in lacking)}, which is missing.")
    repeated = sorted(taken & set(options))
    if repeated:
        raise InputTypeError(f"{name}: got {repeated[0]} by position and by keyword. Leave one of them out.")
