"""Copies a model with everything that it holds, including what its functions close over."""

import functools
import types
from collections.abc import Callable
from copy import deepcopy
from typing import Any

__all__ = ["copied"]

_DEEPEST = 6


def copied(model: Any, is_live: Callable[[Any], bool]) -> Any:
    """`model` on copies: modules and parameters are copied; functions, methods and partials are rebuilt over them.

    Args:
        model: a module, or a function that closes over modules or parameters.
        is_live: whether an object holds weights, so that it is copied; each object is copied once.

    Raises:
        Exception: the error of an object that cannot be copied.
    """
    return _copied(model, is_live, {}, 0)


def _copied(value: Any, is_live: Callable[[Any], bool], memo: dict[int, Any], depth: int) -> Any:
    if depth > _DEEPEST or isinstance(value, type | types.ModuleType | types.BuiltinFunctionType):
        return value
    if is_live(value):
        return deepcopy(value, memo)

    def below(child: Any) -> Any:
        return _copied(child, is_live, memo, depth + 1)

    if isinstance(value, types.FunctionType):
        return _function(value, below)
    if isinstance(value, types.MethodType):
        owner = below(value.__self__)
        return value if owner is value.__self__ else types.MethodType(value.__func__, owner)
    if isinstance(value, functools.partial):
        return functools.partial(below(value.func), *map(below, value.args), **_values(value.keywords, below))
    if type(value) not in (list, tuple, dict):
        return value
    new = _values(value, below) if type(value) is dict else type(value)(map(below, value))
    return value if _same(value, new) else new  # the model may write into its own list


def _values(named: dict[Any, Any], below: Callable[[Any], Any]) -> dict[Any, Any]:
    return {name: below(value) for name, value in named.items()}


def _function(function: types.FunctionType, below: Callable[[Any], Any]) -> Any:
    """The function over copies; itself if it refers to nothing that is copied."""
    closure = function.__closure__ or ()
    contents = [cell.cell_contents for cell in closure]
    names = [name for name in function.__code__.co_names if name in function.__globals__]
    own = {name: function.__globals__[name] for name in names}
    new_contents, new_own = list(map(below, contents)), _values(own, below)
    defaults = tuple(map(below, function.__defaults__ or ()))
    pairs = [*zip(contents, new_contents, strict=True), *((own[name], new_own[name]) for name in own)]
    pairs += zip(function.__defaults__ or (), defaults, strict=True)
    if all(_same(before, after) for before, after in pairs):
        return function
    made = types.FunctionType(
        function.__code__,
        {**function.__globals__, **new_own},
        function.__name__,
        defaults or None,
        tuple(map(types.CellType, new_contents)),
    )
    made.__kwdefaults__ = function.__kwdefaults__
    made.__dict__.update(function.__dict__)
    return made


def _same(before: Any, after: Any) -> bool:
    """Whether nothing in a value was copied."""
    if before is after:
        return True
    if type(before) in (list, tuple):
        return all(_same(*pair) for pair in zip(before, after, strict=True))
    if type(before) is dict:
        return all(_same(before[name], after[name]) for name in before)
    return False
