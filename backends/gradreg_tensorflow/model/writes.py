"""Observes the variables that a model writes to, at the write, wherever the model holds them."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from typing import Any

import tensorflow as tf
from tensorflow.python.distribute import values as distributed
from tensorflow.python.eager import record
from tensorflow.python.eager.polymorphic_function import concrete_function
from tensorflow.python.framework import auto_control_deps_utils as dependencies
from tensorflow.python.framework.func_graph import FuncGraph
from tensorflow.python.ops import (
    gen_array_ops,
    gen_resource_variable_ops,
    gen_state_ops,
    gen_stateful_random_ops,
    handle_data_util,
)

from gradreg_tensorflow.model.copies import copied_handles
from gradreg_tensorflow.replace import Function, Replacement, replaced

__all__ = ["Writes", "function_calls_seen", "kept", "writes", "writes_of_call", "written_by_call"]

_READ_ONLY = frozenset({"read_variable_op", "resource_gather", "resource_gather_nd", "variable_shape"})
_OTHERS = frozenset({"var_is_initialized_op", "destroy_resource_op", "disable_copy_on_read", "mutex_lock"})


class Writes:
    """The variables written while this is open, with their values before.

    It is bound to the graph in which it is created (None: eager mode). Writes inside a branch or a loop of that graph
    count, and so do those of the functions called in it.
    """

    def __init__(self) -> None:
        self.graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        self.before: dict[int, tuple[Any, tf.Tensor, Callable[[tf.Tensor], Any]]] = {}
        """(object to keep alive, value, assign) by the identity of the variable's handle."""

    def see(self, handle: tf.Tensor) -> None:
        """Record a variable that is about to be written."""
        if (self.graph is None) is not tf.executing_eagerly():
            return  # a function only traced, or a variable only created: see `_observed_function`
        root, handle = _root(handle), self._own(handle)
        if handle is None or id(root) in self.before:
            return
        data = root._handle_data if _is_eager(root) else handle_data_util.get_resource_handle_data(root)
        if data is None or len(data.shape_and_type) != 1 or not _is_initialized(root):
            return
        dtype = tf.as_dtype(data.shape_and_type[0].dtype)
        with self._outside():
            value = gen_resource_variable_ops.read_variable_op(handle, dtype)
        own = handle
        self.before[id(root)] = root, value, lambda value: gen_resource_variable_ops.assign_variable_op(own, value)

    def see_distributed(self, variable: Any) -> None:
        """Record a distribution strategy's variable that is about to be written."""
        if id(variable) not in self.before:
            with record.stop_recording():
                self.before[id(variable)] = variable, tf.identity(variable), variable.assign

    def restore(self) -> None:
        """Restore the value that each variable had when this was opened."""
        with record.stop_recording():
            for _, value, assign in list(self.before.values()):
                assign(value)

    def _own(self, handle: tf.Tensor) -> tf.Tensor | None:
        """The handle in the graph of this object; None for an argument of an inner function."""
        own: list[Any] = []
        graph = self.graph
        while graph is not None:
            own.append(graph)
            graph = getattr(graph, "outer_graph", None)
        while not _is_eager(handle) and not any(handle.graph is graph for graph in own):
            outer = _captured(handle)
            if outer is None:
                return None
            handle = outer
        return handle

    @contextmanager
    def _outside(self) -> Iterator[None]:
        with record.stop_recording(), nullcontext() if self.graph is None else self.graph.as_default():
            yield


def _is_eager(tensor: tf.Tensor) -> bool:
    return isinstance(tensor, tf.__internal__.EagerTensor)


def _captured(placeholder: tf.Tensor) -> tf.Tensor | None:
    """The tensor outside that a placeholder of an inner graph stands for."""
    graph = placeholder.graph
    pairs = graph.captures if isinstance(graph, FuncGraph) else ()
    return next((outer for outer, inner in pairs if inner is placeholder), None)


def _root(handle: tf.Tensor) -> tf.Tensor:
    """The outermost tensor that stands for the same variable."""
    while not _is_eager(handle):
        outer = _captured(handle)
        if outer is None:
            break
        handle = outer
    return handle


def _is_initialized(handle: tf.Tensor) -> bool:
    if not _is_eager(handle):
        return True
    with tf.init_scope():
        return bool(gen_resource_variable_ops.var_is_initialized_op(handle))


_open: "ContextVar[tuple[Writes, ...]]" = ContextVar("gradreg_writes", default=())
_of_call: "ContextVar[Writes | None]" = ContextVar("gradreg_writes_of_call", default=None)


@contextmanager
def writes() -> Iterator[Writes]:
    """Observe the variables that this thread writes inside. If contexts are nested, each of them sees each write."""
    opened = Writes()
    token = _open.set((*_open.get(), opened))
    try:
        with replaced("writes", _rows()):
            yield opened
    finally:
        _open.reset(token)


@contextmanager
def writes_of_call() -> Iterator[None]:
    """Observe the writes of one call of gradreg."""
    with writes() as opened:
        token = _of_call.set(opened)
        try:
            yield
        finally:
            _of_call.reset(token)


def written_by_call() -> Writes | None:
    """The writes so far of this thread's current call of gradreg."""
    return _of_call.get()


@contextmanager
def kept(start: Writes | None = None) -> Iterator[None]:
    """A context that restores every variable at its end, also after an error.

    Args:
        start: start from the values that variables had when this was opened.
    """
    with writes() as inside:
        try:
            if start is not None:
                start.restore()
            yield
        finally:
            inside.restore()


# --- where variables are written -------------------------------------------------------------------------------------
@cache
def _rows() -> tuple[Replacement, ...]:
    """Observe all TensorFlow operations that write to a variable, and calls of functions that do."""
    modules = (gen_resource_variable_ops, gen_stateful_random_ops, gen_state_ops, gen_array_ops)
    operations = [
        (module, name, _observed_operation)
        for module in modules
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        and not name.startswith("_")
        and not name.endswith("_eager_fallback")
        and name not in _READ_ONLY | _OTHERS
        and next(iter(function.__annotations__), "") in ("resource", "ref")
        and "Resource" in str(next(iter(function.__annotations__.values())))
    ]
    distributed_kinds = (distributed.DistributedVariable, distributed.SyncOnReadVariable)
    methods = [
        (kind, name, _observed_method) for kind in distributed_kinds for name in ("assign", "assign_add", "assign_sub")
    ]
    return (*operations, *methods, (concrete_function.ConcreteFunction, "_call_flat", _observed_function))


def _observed_operation(original: Function) -> Function:
    def operation(*args: Any, **keywords: Any) -> Any:
        handle = args[0] if args else keywords.get("resource", keywords.get("ref"))
        for opened in _open.get():
            opened.see(handle)
        return original(*args, **keywords)

    return operation


def _observed_method(original: Function) -> Function:
    def method(variable: Any, *args: Any, **keywords: Any) -> Any:
        for opened in _open.get():
            opened.see_distributed(variable)
        return original(variable, *args, **keywords)

    return method


@contextmanager
def function_calls_seen(observer: Callable[[Any], None]) -> Iterator[None]:
    """Pass each traced function (a ConcreteFunction) that this thread calls inside to `observer`.

    Calls are observed only inside `writes`.
    """
    token = _function_calls.set((*_function_calls.get(), observer))
    try:
        yield
    finally:
        _function_calls.reset(token)


_function_calls: "ContextVar[tuple[Callable[[Any], None], ...]]" = ContextVar("gradreg_function_calls", default=())


def _observed_function(original: Function) -> Function:
    """Read a function's writes from its graph, because it may have been traced long ago."""

    def call(function: Any, tensor_inputs: Sequence[Any], captured_inputs: Sequence[Any]) -> Any:
        for observer in _function_calls.get():
            observer(function)
        opened, count = _open.get(), len(tensor_inputs)
        given = copied_handles([*tensor_inputs, *captured_inputs])
        for index in _written(function) if opened else ():
            for context in opened:
                context.see(given[index])
        return original(function, given[:count], given[count:])

    return call


def _written(function: Any) -> list[int]:
    """The positions, among a function's inputs, of the variables that it writes to."""
    kept: dict[str, Any] = vars(function)
    if "_gradreg_written" not in kept:
        graph = function.graph
        read_only = set(dependencies.get_read_only_resource_input_indices_graph(graph))
        kept["_gradreg_written"] = [
            index for index, tensor in enumerate(graph.inputs) if tensor.dtype == tf.resource and index not in read_only
        ]
    return kept["_gradreg_written"]
