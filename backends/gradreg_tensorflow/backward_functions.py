"""Backward functions of `tf.custom_gradient` without a second derivative: refused or replaced.

Values that NumPy computes there are right, so the first derivative is right. TensorFlow treats them as constants in
the second derivative, without an error.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import tensorflow as tf
from tensorflow.python.eager import record
from tensorflow.python.framework import ops
from tensorflow.python.ops import custom_gradient, script_ops

from gradreg_core.errors import DoubleBackwardError
from gradreg_tensorflow.replace import Function, Replacement, arguments

__all__ = ["REPLACEMENTS", "stage"]

_stage: "ContextVar[str]" = ContextVar("gradreg_stage", default="")
"""The pass whose derivative is differentiated again, in this thread."""


@contextmanager
def stage(name: Literal["forward", "input side", "backward"]) -> Iterator[None]:
    """The context of passes whose derivative is differentiated again: the model's call, and each pullback.

    On the input side the pullback itself is differentiated twice.
    """
    twice = name == "backward" and _stage.get() in ("input side", "backward, twice")
    token = _stage.set("backward, twice" if twice else name)
    try:
        yield
    finally:
        _stage.reset(token)


def _require_recorded(function: str, tensors: Sequence[Any]) -> None:
    """Refuse functions that take floating-point tensors out of TensorFlow in a backward function.

    Eagerly this is wrong only while a tape records the tensors: a penalty's value alone is right. For a graph it is not
    known who will differentiate it.
    """
    current = _stage.get()
    if not current:
        return
    floating = [tensor for tensor in tensors if tf.is_tensor(tensor) and tensor.dtype.is_floating]
    if not floating:
        return
    if tf.executing_eagerly():
        lost = current.startswith("backward") and record.should_record_backprop(floating)
    else:
        lost = current.startswith("backward") or _in_backward_graph()
    if lost:
        raise DoubleBackwardError(
            f"a backward function of the model (of tf.custom_gradient) calls {function}: TensorFlow treats the result "
            f"as a constant, and the penalty would have a wrong gradient without an error. Write the function with "
            f"TensorFlow operations; for logging use tf.print. check(model, x, y, reg) checks the whole model."
        )


def _in_backward_graph() -> bool:
    """Whether TensorFlow is building the graph of a tf.function's derivative, as it does in the function's call."""
    graph: Any = ops.get_default_graph()
    while graph is not None:
        if getattr(graph, "name", "").startswith("__backward"):
            return True
        graph = getattr(graph, "outer_graph", None)
    return False


def _numpy_function(original: Function) -> Function:
    def call(func: Any, inp: Any, *args: Any, **keywords: Any) -> Any:
        _require_recorded("tf.numpy_function", tf.nest.flatten(inp))
        return original(func, inp, *args, **keywords)

    return call


def _python_function(original: Function) -> Function:
    def call(*args: Any, **keywords: Any) -> Any:
        given = arguments(original, args, keywords)
        if given["use_eager_py_func"] and _stage.get() == "backward, twice":
            _require_recorded(
                "tf.py_function, which has one derivative and here needs two", tf.nest.flatten(given["inp"])
            )
        return original(*args, **keywords)

    return call


def _numpy(original: Function) -> Function:
    def numpy(tensor: Any) -> Any:
        _require_recorded(".numpy()", [tensor])
        return original(tensor)

    return numpy


def _without_recomputing(original: Function) -> Function:
    def apply(f: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call the function inside tf.recompute_grad directly: the wrapper's gradient has no gradient."""
        if getattr(f, "__qualname__", "") == "recompute_grad.<locals>.inner":
            inner = inspect.getclosurevars(f).nonlocals.get("f")
            if callable(inner):
                return inner(*args, **kwargs)
        return original(f, args, kwargs)

    return apply


REPLACEMENTS: list[Replacement] = [
    (script_ops, "py_func_common", _numpy_function),
    (script_ops, "_internal_py_func", _python_function),
    (ops._EagerTensorBase, "numpy", _numpy),
    (custom_gradient, "_eager_mode_decorator", _without_recomputing),
    (custom_gradient, "_graph_mode_decorator", _without_recomputing),
]
"""Rows for :func:`gradreg_tensorflow.replace.replaced`."""
