"""Functions of TensorFlow and Keras replaced for one thread and for a while."""

import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import CodeType, FunctionType
from typing import Any

from tensorflow.python.eager.polymorphic_function import polymorphic_function

__all__ = ["Function", "Replacement", "replaced"]

Function = Callable[..., Any]
Replacement = tuple[Any, str, Callable[[Function], Function]]
"""(owner, attribute, original -> replacement)."""

_entered: "ContextVar[tuple[str, ...]]" = ContextVar("gradreg_entered", default=())
"""The keys of the contexts that this thread is in, outermost first."""
_lock = threading.Lock()
_PLACE = "the gate"


class _Gate:
    """Stands in the place of a function while any thread is in a context that replaces it.

    A plain function is changed in place, by its code, so that references to it that others hold lead here too (such as
    `activation=tf.nn.relu`). In the place of any other function another is put.
    """

    def __init__(self, owner: Any, name: str) -> None:
        self.owner, self.name = owner, name
        self.open = 0
        self.replacements: dict[str, Function] = {}
        self.found = vars(owner)[name]
        self.code = self.found.__code__ if _is_plain(self.found) else None
        self.original = _copied_function(self.found) if self.code else self.found
        if self.code:
            self.found.__code__ = _leading_to(self.found, self)
        else:
            self.placed = functools.wraps(self.found)(lambda *args, **keywords: self(*args, **keywords))
            setattr(owner, name, self.placed)

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """The replacement of the outermost context that this thread is in, and the original in other threads."""
        for key in _entered.get():
            if key in self.replacements:
                return self.replacements[key](*args, **keywords)
        return self.original(*args, **keywords)

    def remove(self) -> None:
        """Put the function back as it was."""
        if self.code:
            self.found.__code__ = self.code
        elif vars(self.owner)[self.name] is self.placed:
            setattr(self.owner, self.name, self.found)


def _is_plain(function: Any) -> bool:
    """Whether all of a function is its code: positional parameters, no closure, no decorator."""
    if not isinstance(function, FunctionType) or function.__closure__ or hasattr(function, "__wrapped__"):
        return False
    code = function.__code__
    return not code.co_kwonlyargcount and not code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)


def _copied_function(function: FunctionType) -> FunctionType:
    copied = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__)
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


def _leading_to(function: FunctionType, gate: _Gate) -> CodeType:
    """Code with the function's own parameters that calls the gate."""
    count = function.__code__.co_argcount
    names = ", ".join(function.__code__.co_varnames[:count])
    namespace: dict[str, Any] = {}
    exec(f"def leading({names}):\n _gate = '{_PLACE}'\n return _gate({names})", namespace)  # noqa: S102 - only names
    code: CodeType = namespace["leading"].__code__
    constants = tuple(gate if each == _PLACE else each for each in code.co_consts)
    return code.replace(co_consts=constants, co_name=function.__name__)


_gates: dict[tuple[int, str], _Gate] = {}


def _place(owner: Any, name: str) -> tuple[int, str]:
    """What the gate of an attribute is filed under: a plain function has one, whatever attributes it is reached by."""
    function = vars(owner)[name]
    return (id(function), "") if _is_plain(function) else (id(owner), name)


@contextmanager
def replaced(key: str, rows: Sequence[Replacement]) -> Iterator[None]:
    """Replace the functions of `rows` in this thread. May be nested, and entered by several threads at once.

    Other threads pass through to the original. After the last exit, by an exception too, every function is as before.
    A tf.function called inside is traced anew, as a copy of its own for the set of keys entered: what was traced
    outside is not used inside, nor the other way round.

    Args:
        key: names the set of replacements; equal keys have equal rows.
        rows: what to replace.
    """
    rows = [*rows, (polymorphic_function.Function, "__call__", _copy_called)]
    with _lock:
        for owner, name, make in rows:
            place = _place(owner, name)
            gate = _gates[place] = _gates.get(place) or _Gate(owner, name)
            gate.open += 1
            if key not in gate.replacements:
                gate.replacements[key] = make(gate.original)
    token = _entered.set((*_entered.get(), key))
    try:
        yield
    finally:
        _entered.reset(token)
        with _lock:
            for owner, name, _ in rows:
                gate = _gates[_place(owner, name)]
                gate.open -= 1
                if not gate.open:
                    _gates.pop(_place(owner, name)).remove()


def _copy_called(original: Function) -> Function:
    def call(function: Any, *args: Any, **keywords: Any) -> Any:
        """Call the tf.function's copy for this context."""
        if type(function) is polymorphic_function.Function:
            copies = vars(function).setdefault("_gradreg_copies", {})
            keys = frozenset(_entered.get())
            if keys not in copies:
                copies[keys] = function._clone(None)
            function = copies[keys]
        return original(function, *args, **keywords)

    return call
