"""Backward functions of `tf.custom_gradient` that a second derivative cannot pass: refused, or made to do.

What NumPy computes there has the right values, so the first derivative is right. TensorFlow takes it for a constant in
the second one, without an error.
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
"""What this thread does for a derivative that is differentiated again."""


@contextmanager
def stage(name: Literal["forward", "input side", "backward"]) -> Iterator[None]:
    """A context of the passes whose derivative is differentiated again: the model's call, and each pullback.

    On the input side the pullback itself is differentiated twice.
    """
    twice = name == "backward" and _stage.get() in ("input side", "backward, twice")
    token = _stage.set("backward, twice" if twice else name)
    try:
        yield
    finally:
        _stage.reset(token)


def _require_recorded(function: str, tensors: Sequence[Any]) -> None:
    """Refuse what takes floating-point tensors out of TensorFlow in a backward function.

    Eagerly that loses something only where a tape records them: a penalty's value alone is right. Of a graph nobody
    knows who will differentiate it.
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
            f"a backward function of the model (of tf.custom_gradient) calls {function}: TensorFlow takes the result "
            f"for a constant, and the penalty would have a wrong gradient without an error. Write the function with "
            f"operations of TensorFlow; for logging use tf.print. check(model, x, y, reg) looks at all of a model."
        )


def _in_backward_graph() -> bool:
    """Whether TensorFlow makes the graph of a tf.function's derivative, which it does when the function is called."""
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
        """Call what tf.recompute_grad wraps as it is: its gradient has no gradient."""
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
