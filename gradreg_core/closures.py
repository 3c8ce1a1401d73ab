"""Whether a model may hold arrays of the batch itself: masks, conditions, the edges of a graph.

A part of the batch can be passed through a model alone only if the model takes everything that belongs to the samples
from its arguments. What a function closes over, or an object has in its attributes, would stay whole.
"""

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

__all__ = ["holds_samples", "referred"]

_MOST_OBJECTS = 20_000
"""Objects inspected before a model counts as one that may hold samples."""
_PASSED_OVER = (type, types.ModuleType, types.BuiltinFunctionType, str, bytes, bool, int, float, complex, type(None))


def holds_samples(model: Any, batch: int, is_array: Callable[[Any], bool], is_parameter: Callable[[Any], bool]) -> bool:
    """Whether anything that `model` refers to has `batch` as its first length and is not a parameter.

    Looks into closures, globals that the code names, defaults, partials, bound objects, attributes and containers. Also
    True if the model refers to too much to inspect.
    """
    pending, seen = [model], set[int]()
    while pending:
        value = pending.pop()
        if isinstance(value, _PASSED_OVER) or id(value) in seen or is_parameter(value):
            continue
        seen.add(id(value))
        if len(seen) > _MOST_OBJECTS:
            return True
        if is_array(value) or isinstance(value, np.ndarray):
            if tuple(getattr(value, "shape", ()))[:1] == (batch,):
                return True
            continue
        if isinstance(value, types.FunctionType) and _numbers_of_samples(value, batch):
            return True
        pending.extend(referred(value))
    return False


def referred(value: Any) -> Iterable[Any]:
    """The objects that a value refers to."""
    if isinstance(value, types.FunctionType):
        return _of_function(value)
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, types.MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    slots = [name for cls in type(value).__mro__ for name in _slots(cls)]
    own = [getattr(value, name) for name in slots if hasattr(value, name)]
    buffers = ("_parameters", "_buffers") if "_parameters" in getattr(value, "__dict__", {}) else ()
    own += [held for name, held in getattr(value, "__dict__", {}).items() if name not in buffers]
    call = getattr(type(value), "__call__", None)  # noqa: B004 - the function, whose globals count
    return [*own, call] if isinstance(call, types.FunctionType) else own


def _slots(cls: type) -> list[str]:
    slots = cls.__dict__.get("__slots__", ())
    names = [slots] if isinstance(slots, str) else list(slots)
    return [name for name in names if not name.startswith("__")]


def _of_function(function: types.FunctionType) -> list[Any]:
    try:
        names = inspect.getclosurevars(function)
    except ValueError:  # a cell that is still empty
        return [function.__wrapped__] if hasattr(function, "__wrapped__") else []
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return [*names.nonlocals.values(), *names.globals.values(), *defaults, *vars(function).values()]


def _numbers_of_samples(function: types.FunctionType, batch: int) -> bool:
    """Whether a function closes over a list of as many numbers as there are samples."""
    return any(
        isinstance(value, list | tuple)
        and len(value) == batch > 1
        and all(isinstance(item, int | float) and not isinstance(item, bool) for item in value)
        for value in _of_function(function)
    )
