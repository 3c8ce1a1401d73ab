"""Runs one thread on copies of all variables, for `check`, which changes weights and state."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import record
from tensorflow.python.ops import gen_resource_variable_ops, resource_variable_ops

__all__ = ["copied_handles", "variables_copied"]


class _Copies:
    """The handles of copies, each made when its variable is first used."""

    def __init__(self) -> None:
        self.made: dict[int, tuple[tf.Tensor, tf.Tensor]] = {}
        """(live handle, its copy's) by the identity of either."""

    def of(self, handle: Any) -> Any:
        """The handle of the copy; `handle` itself unless it belongs to an initialised variable."""
        if id(handle) in self.made:
            return self.made[id(handle)][1]
        data = getattr(handle, "_handle_data", None)
        if data is None or len(data.shape_and_type) != 1:
            return handle
        with record.stop_recording(), tf.device(handle.device):
            if not gen_resource_variable_ops.var_is_initialized_op(handle):
                return handle
            value = gen_resource_variable_ops.read_variable_op(handle, tf.as_dtype(data.shape_and_type[0].dtype))
            shape = tf.TensorShape(data.shape_and_type[0].shape)
            copy = resource_variable_ops.eager_safe_variable_handle(value, shape, None, "copy", False)
            gen_resource_variable_ops.assign_variable_op(copy, value)
        self.made[id(handle)] = self.made[id(copy)] = handle, copy
        return copy


_copies: "ContextVar[_Copies | None]" = ContextVar("gradreg_copies", default=None)


class _Handle:
    """The attribute of variables that refers to their memory: to the copy's in a thread on copies.

    Programs are traced with the live handles, so other threads can use them, and called with copies.
    """

    def __get__(self, variable: Any, owner: type | None = None) -> Any:
        if variable is None:
            return self
        try:
            live = vars(variable)["_handle"]
        except KeyError:
            raise AttributeError(f"{type(variable).__name__} has no _handle yet") from None
        copies = _copies.get()
        return live if copies is None or not tf.executing_eagerly() else copies.of(live)

    def __set__(self, variable: Any, handle: Any) -> None:
        vars(variable)["_handle"] = handle


_lock = threading.Lock()
_threads: list[_Copies] = []


@contextmanager
def variables_copied() -> Iterator[None]:
    """A context in which this thread reads, writes and differentiates copies of all variables that it uses.

    Functions traced before have variables among their inputs; these are replaced by copies too. The
    live variables do not change, and other threads see only them.
    """
    mine = _Copies()
    with _lock:
        _threads.append(mine)
        resource_variable_ops.BaseResourceVariable._handle = _Handle()
    token = _copies.set(mine)
    try:
        yield
    finally:
        _copies.reset(token)
        with _lock:
            _threads.remove(mine)
            if not _threads:
                del resource_variable_ops.BaseResourceVariable._handle


def copied_handles(arguments: Sequence[Any]) -> list[Any]:
    """The arguments of a traced function, with copies in place of variables if this thread is on copies."""
    copies = _copies.get()
    if copies is None or not tf.executing_eagerly():
        return list(arguments)
    return [copies.of(value) if value.dtype == tf.resource else value for value in arguments]
