"""Replaces functions of TensorFlow and Keras temporarily, in one thread."""

import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import CodeType, FunctionType
from typing import Any

import tensorflow as tf
from tensorflow.python.eager.polymorphic_function import polymorphic_function

__all__ = ["Function", "Replacement", "arguments", "functions_inlined", "replaced"]

Function = Callable[..., Any]
Replacement = tuple[Any, str, Callable[[Function], Function]]
"""(owner, attribute, original -> replacement)."""

_entered: "ContextVar[tuple[str, ...]]" = ContextVar("gradreg_entered", default=())
"""The keys of the contexts that this thread is in, outermost first."""
_lock = threading.Lock()
_PLACEHOLDER = "the gate"


class _Gate:
    """Intercepts the calls of a function while any thread is in a context that replaces it.

    A plain function is changed in place, by its code, so references held elsewhere lead here too (such as
    `activation=tf.nn.relu`). For other functions the attribute of their owner is set.
    """

    def __init__(self, owner: Any, name: str) -> None:
        self.owner, self.name = owner, name
        self.open = 0
        self.replacements: dict[str, Function] = {}
        self.function = vars(owner)[name]
        self.code = self.function.__code__ if _is_plain(self.function) else None
        self.original = _copied_function(self.function) if self.code else self.function
        if self.code:
            self.function.__code__ = _leading_to(self.function, self)
        else:
            self.wrapper = functools.wraps(self.function)(lambda *args, **keywords: self(*args, **keywords))
            setattr(owner, name, self.wrapper)

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """Call the replacement of the outermost context that this thread is in, or the original in other threads."""
        for key in _entered.get():
            if key in self.replacements:
                return self.replacements[key](*args, **keywords)
        return self.original(*args, **keywords)

    def remove(self) -> None:
        """Restore the function."""
        if self.code:
            self.function.__code__ = self.code
        elif vars(self.owner)[self.name] is self.wrapper:
            setattr(self.owner, self.name, self.function)


def _is_plain(function: Any) -> bool:
    """Whether a function consists of its code alone: positional parameters, no closure, no decorator."""
    if not isinstance(function, FunctionType) or function.__closure__ or hasattr(function, "__wrapped__"):
        return False
    code = function.__code__
    return not code.co_kwonlyargcount and not code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)


def _copied_function(function: FunctionType) -> FunctionType:
    copied = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__)
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


@functools.cache
def _leading_code(names: str) -> CodeType:
    """Code with these parameters that calls the placeholder."""
    namespace: dict[str, Any] = {}
    exec(f"def leading({names}):\n _gate = '{_PLACEHOLDER}'\n return _gate({names})", namespace)  # noqa: S102
    code: CodeType = namespace["leading"].__code__
    return code


def _leading_to(function: FunctionType, gate: _Gate) -> CodeType:
    """Code with the function's own parameters that calls the gate."""
    count = function.__code__.co_argcount
    code = _leading_code(", ".join(function.__code__.co_varnames[:count]))
    constants = tuple(gate if constant == _PLACEHOLDER else constant for constant in code.co_consts)
    return code.replace(co_consts=constants, co_name=function.__name__)


def arguments(function: Function, args: Sequence[Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name, with defaults for the missing ones."""
    bound = inspect.signature(function).bind(*args, **keywords)
    bound.apply_defaults()
    return bound.arguments


_gates: dict[tuple[int, str], _Gate] = {}


def _place(owner: Any, name: str) -> tuple[int, str]:
    """The key of an attribute's gate. A plain function has one gate, whichever attributes lead to it."""
    function = vars(owner)[name]
    return (id(function), "") if _is_plain(function) else (id(owner), name)


@contextmanager
def replaced(key: str, rows: Sequence[Replacement]) -> Iterator[None]:
    """Replace the functions of `rows` in this thread. Contexts may be nested, and entered by several threads at once.

    Other threads call the original. The last exit, also by an exception, restores every function.
    A tf.function called inside is traced again, as a separate copy for the set of keys entered. So traces made outside
    are not used inside, and vice versa.

    Args:
        key: the name of the set of replacements; equal keys have equal rows.
        rows: the replacements.
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


_inlined: "ContextVar[bool]" = ContextVar("gradreg_inlined", default=False)


@contextmanager
def functions_inlined() -> Iterator[None]:
    """Make this thread call tf.functions as plain Python functions, inside this context and `replaced`."""
    token = _inlined.set(True)
    try:
        yield
    finally:
        _inlined.reset(token)


def _copy_called(original: Function) -> Function:
    def call(function: Any, *args: Any, **keywords: Any) -> Any:
        """Call the tf.function's copy for this context."""
        if type(function) is polymorphic_function.Function:
            if _inlined.get():
                return _plain(function)(*args, **keywords)
            copies = vars(function).setdefault("_gradreg_copies", {})
            keys = frozenset(_entered.get())
            if keys not in copies:
                copies[keys] = function._clone(None)
            function = copies[keys]
        return original(function, *args, **keywords)

    return call


def _plain(function: Any) -> Function:
    """The Python function of a tf.function, converted by AutoGraph if a graph is built from it."""
    plain: Function = function.python_function
    if tf.executing_eagerly() or not function._autograph:
        return plain
    return tf.__internal__.autograph.tf_convert(plain, tf.__internal__.autograph.control_status_ctx())
