"""Variables that one thread reads in the place of others, which all other threads read as before."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import tensorflow as tf
from tensorflow.python.eager.polymorphic_function import concrete_function
from tensorflow.python.ops.resource_variable_ops import BaseResourceVariable

from gradreg_tensorflow.replace import Function, replaced

__all__ = ["can_stand_aside", "in_the_place_of"]

_handles: "ContextVar[dict[int, Any]]" = ContextVar("gradreg_stand_ins", default={})  # noqa: B039 - never changed
"""The handle of the stand-in by the identity of the handle of the variable."""
_lock = threading.Lock()
_open = [0]


class _Handle:
    """The attribute `_handle` of variables, which every read goes through: the stand-in's in a thread that has one."""

    def __get__(self, variable: Any, owner: Any = None) -> Any:
        if variable is None:
            return self
        try:
            own = vars(variable)["_handle"]
        except KeyError:
            raise AttributeError("_handle") from None
        return _handles.get().get(id(own), own)

    def __set__(self, variable: Any, handle: Any) -> None:
        vars(variable)["_handle"] = handle


def can_stand_aside(variable: Any) -> bool:
    """Whether another may be read in the place of a variable: it is one of eager mode, of no distribution strategy."""
    return isinstance(variable, BaseResourceVariable) and "_handle" in vars(variable) and tf.executing_eagerly()


@contextmanager
def in_the_place_of(pairs: Sequence[tuple[tf.Variable, tf.Tensor]]) -> Iterator[None]:
    """This thread reads the values of `pairs` (variable, value) from their variables inside."""
    stand_ins = [tf.Variable(value, trainable=False) for _, value in pairs]
    own = {id(vars(variable)["_handle"]): new.handle for (variable, _), new in zip(pairs, stand_ins, strict=True)}
    token = _handles.set({**_handles.get(), **own})
    with _lock:
        _open[0] += 1
        BaseResourceVariable._handle = _Handle()
    try:
        with replaced("stand_ins", [(concrete_function.ConcreteFunction, "_call_flat", _redirected)]):
            yield
    finally:
        with _lock:
            _open[0] -= 1
            if not _open[0]:
                del BaseResourceVariable._handle
        _handles.reset(token)


def _redirected(original: Function) -> Callable[..., Any]:
    """A function has captured the handles of its variables when it was traced."""

    def call(function: Any, tensor_inputs: Sequence[Any], captured_inputs: Sequence[Any]) -> Any:
        own = _handles.get()
        captured = [own.get(id(handle), handle) for handle in captured_inputs]
        return original(function, [own.get(id(handle), handle) for handle in tensor_inputs], captured)

    return call
