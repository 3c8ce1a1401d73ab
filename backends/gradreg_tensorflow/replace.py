"""Functions of TensorFlow and Keras replaced for one thread and for a while."""

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from tensorflow.python.eager.polymorphic_function import polymorphic_function

__all__ = ["Function", "Replacement", "replaced"]

Function = Callable[..., Any]
Replacement = tuple[Any, str, Callable[[Function], Function]]
"""(owner, attribute, original -> replacement)."""

_entered: "ContextVar[tuple[str, ...]]" = ContextVar("gradreg_entered", default=())
"""The keys of the contexts that this thread is in, outermost first."""
_lock = threading.Lock()


@dataclass
class _Gate:
    """What stands in the place of a function while any thread is in a context that replaces it."""

    original: Function
    replacements: dict[str, Function] = field(default_factory=dict)
    open: int = 0

    def function(self) -> Function:
        """The replacement of the outermost context that this thread is in, and the original in other threads."""

        @functools.wraps(self.original)
        def gate(*args: Any, **keywords: Any) -> Any:
            for key in _entered.get():
                if key in self.replacements:
                    return self.replacements[key](*args, **keywords)
            return self.original(*args, **keywords)

        return gate


_gates: dict[tuple[int, str], tuple[_Gate, Function]] = {}


@contextmanager
def replaced(key: str, rows: Sequence[Replacement]) -> Iterator[None]:
    """Replace the functions of `rows` in this thread. May be nested, and entered by several threads at once.

    Other threads pass through to the original. After the last exit, by an exception too, every attribute is as before.
    A tf.function called inside is traced anew, as a copy of its own for the set of keys entered: what was traced
    outside is not used inside, nor the other way round.

    Args:
        key: names the set of replacements; equal keys have equal rows.
        rows: what to replace.
    """
    rows = [*rows, (polymorphic_function.Function, "__call__", _copied)]
    with _lock:
        for owner, name, make in rows:
            if (id(owner), name) not in _gates:
                gate = _Gate(vars(owner)[name])
                _gates[id(owner), name] = (gate, gate.function())
                setattr(owner, name, _gates[id(owner), name][1])
            gate, _ = _gates[id(owner), name]
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
                gate, function = _gates[id(owner), name]
                gate.open -= 1
                if not gate.open:
                    del _gates[id(owner), name]
                    if vars(owner)[name] is function:
                        setattr(owner, name, gate.original)


def _copied(original: Function) -> Function:
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
