"""The objects that a model refers to, by name: it is often a function that closes over a module or parameters."""

import functools
import inspect
from collections.abc import Iterator
from typing import Any

__all__ = ["references"]

_DEEPEST = 4
"""How many levels of functions inside functions are inspected."""


def references(model: Any) -> Iterator[tuple[str, Any]]:
    """(name, object) of the model and of what its functions close over, each object once, the outer ones first.

    Looks into closures, globals that the code names, defaults, partials, bound objects and attributes of objects that
    are called. Containers and modules are not taken apart.
    """
    seen: set[int] = set()
    pending = [("", model, 0)]
    while pending:
        name, value, depth = pending.pop(0)
        if id(value) in seen or isinstance(value, type) or inspect.ismodule(value):
            continue
        seen.add(id(value))
        yield name, value
        if depth < _DEEPEST:
            pending += [(inner, child, depth + 1) for inner, child in _children(name, value)]


def _children(name: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, functools.partial):
        arguments = [(f"{name}[{index}]", argument) for index, argument in enumerate(value.args)]
        return [(name, value.func), *arguments, *value.keywords.items()]
    if inspect.ismethod(value):
        return [(name, value.__self__), (name, value.__func__)]
    if inspect.isfunction(value):
        return _of_function(name, value)
    if callable(value):
        wrapped = [(name, value.__wrapped__)] if hasattr(value, "__wrapped__") else []
        return [*wrapped, *getattr(value, "__dict__", {}).items()]
    return []


def _of_function(name: str, function: Any) -> list[tuple[str, Any]]:
    wrapped = [(name, function.__wrapped__)] if hasattr(function, "__wrapped__") else []
    parameters = inspect.signature(function, follow_wrapped=False).parameters.values()
    defaults = [(parameter.name, parameter.default) for parameter in parameters]
    try:
        variables = inspect.getclosurevars(function)
    except ValueError:  # a cell that is still empty
        return wrapped
    return [*wrapped, *variables.nonlocals.items(), *variables.globals.items(), *defaults]
