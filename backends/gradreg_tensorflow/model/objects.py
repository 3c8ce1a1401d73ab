"""The state of a model besides variables: arrays and counters in attributes, generators, arrays of the samples."""

import functools
import inspect
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import BuiltinFunctionType, ModuleType
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager.polymorphic_function import concrete_function, polymorphic_function

from gradreg_core.closures import referred
from gradreg_tensorflow.model.variables import is_variable

__all__ = ["holds_samples", "objects_kept", "reachable"]

_MOST = 20_000
"""The largest number of objects searched."""
_LONG = 1000
"""Containers with this many elements hold data."""
_LIBRARIES = frozenset({"keras", "numpy", "tensorflow"})
"""Modules whose functions keep no state."""
_GENERATORS = (np.random.Generator, np.random.RandomState, random.Random)
_ARRAYS = (tf.Tensor, np.ndarray)
_CONTENT = (*_ARRAYS, np.generic, int, float)
_ENDS = (str, bytes, bool, int, float, complex, type, type(None), ModuleType, BuiltinFunctionType, np.generic)


def reachable(model: Any) -> Iterator[Any]:
    """The model, the objects that its functions refer to, and those in their attributes and containers, each once."""
    pending: list[Any] = [model]
    known: dict[int, Any] = {}
    while pending and len(known) < _MOST:
        value = pending.pop()
        if id(value) in known or isinstance(value, _ENDS) or is_variable(value):
            continue
        known[id(value)] = value  # keeps it alive, so that no other object gets its id
        yield value
        if not isinstance(value, _ARRAYS):
            pending += _children(value)


def _children(value: Any) -> list[Any]:
    if isinstance(value, Mapping | list | tuple | set | frozenset) and len(value) >= _LONG:
        return []
    if isinstance(value, concrete_function.ConcreteFunction):
        return list(value.captured_inputs)
    if isinstance(value, polymorphic_function.Function):
        return [value.python_function]
    if inspect.isfunction(value) and value.__module__.partition(".")[0] in _LIBRARIES:
        return []
    keras = sys.modules.get("keras")
    if keras is not None and isinstance(value, keras.layers.Layer):
        own = _names_of_keras()
        return [type(value).call, *(held for name, held in vars(value).items() if name not in own)]
    return list(referred(value))


@functools.cache
def _names_of_keras() -> frozenset[str]:
    """The attributes in which Keras keeps its own records of a layer or model, inner layers excepted."""
    import keras

    return frozenset({*vars(keras.Model()), "_functional", "_operations", "_operations_by_depth", "_nodes"}) - {
        "_layers"
    }


def holds_samples(model: Any, batch: int) -> bool:
    """Whether the model may hold arrays of the batch itself; see :meth:`gradreg_core.backend.Backend.holds_samples`."""
    count = 0
    for count, value in enumerate(reachable(model), 1):  # noqa: B007 - counted to the end
        if isinstance(value, _ARRAYS) and value.shape[:1] == (batch,):
            return True
        if inspect.isfunction(value) and any(_numbers(item, batch) for item in referred(value)):
            return True
    return count >= _MOST


def _numbers(value: Any, count: int) -> bool:
    """Whether a value is a list of `count` numbers."""
    return (
        isinstance(value, list | tuple)
        and len(value) == count > 1
        and all(isinstance(item, int | float) and not isinstance(item, bool) for item in value)
    )


@contextmanager
def objects_kept(model: Any) -> Iterator[None]:
    """A context that restores arrays and numbers in attributes, and generators of NumPy and Python.

    It covers the objects from :func:`reachable`, and the global generators of NumPy and Python.
    """
    restore = [_restorer(generator) for generator in (random, np.random)]
    for value in reachable(model):
        if isinstance(value, _GENERATORS):
            restore.append(_restorer(value))
        elif not inspect.isroutine(value):
            restore.append(_attributes(value))
    try:
        yield
    finally:
        for put_back in restore:
            put_back()


def _restorer(generator: Any) -> Callable[[], None]:
    if isinstance(generator, np.random.Generator):
        bits, state = generator.bit_generator, generator.bit_generator.state
        return lambda: setattr(bits, "state", state)
    if hasattr(generator, "getstate"):
        return functools.partial(generator.setstate, generator.getstate())
    return functools.partial(generator.set_state, generator.get_state())


def _attributes(owner: Any) -> Callable[[], None]:
    """Restore the arrays and numbers among the attributes of an object, also those changed in place."""
    try:
        attributes = vars(owner)
    except TypeError:  # it has no attributes
        attributes = {}
    before: dict[str, tuple[Any, np.ndarray | None]] = {
        name: (value, value.copy() if isinstance(value, np.ndarray) else None)
        for name, value in attributes.items()
        if isinstance(value, _CONTENT) and not isinstance(value, bool)
    }

    def put_back() -> None:
        for name, (value, copy) in before.items():
            if copy is not None and value.flags.writeable and value.tobytes() != copy.tobytes():
                value[...] = copy
            if attributes.get(name) is not value:
                attributes[name] = value

    return put_back
