"""Random operations without a variable behind them (tf.random.uniform, tf.nn.dropout), the same in two passes."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn

import tensorflow as tf
from tensorflow.python.ops import gen_random_ops

from gradreg_core.errors import InputError
from gradreg_tensorflow.diagnose import definitions
from gradreg_tensorflow.model.writes import function_calls_seen
from gradreg_tensorflow.replace import Function, Replacement, replaced

__all__ = ["RepeatedDraws", "repeated_draws"]

_OPERATIONS = (
    "multinomial",
    "parameterized_truncated_normal",
    "random_gamma",
    "random_poisson",
    "random_poisson_v2",
    "random_shuffle",
    "random_standard_normal",
    "random_uniform",
    "random_uniform_int",
    "truncated_normal",
)
_HALF = (tf.float16.as_datatype_enum, tf.bfloat16.as_datatype_enum)
_TYPES = frozenset(name.title().replace("_", "") for name in _OPERATIONS)
"""The same operations in graphs: RandomUniformInt, RandomPoissonV2."""


class RepeatedDraws:
    """The results of the random operations of one pass, for use in another pass."""

    def __init__(self) -> None:
        self.graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        self.drawn: list[tf.Tensor] = []
        self.position: int | None = None
        """The results still to be reused; None in the pass that draws."""
        self.half: str | None = None
        """A function of TensorFlow that computes in half precision, if one is called."""

    def again(self) -> None:
        """Start the next pass."""
        self.position = 0

    def draw(self, operation: str, original: Function, args: Any, keywords: Any) -> tf.Tensor:
        graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        if graph is not self.graph:
            _refuse(operation)
        if self.position is None:
            self.drawn.append(original(*args, **keywords))
            return self.drawn[-1]
        if self.position >= len(self.drawn):
            _refuse(operation)
        self.position += 1
        return self.drawn[self.position - 1]

    def look_at(self, function: Any) -> None:
        """Refuse a function that draws inside: it would draw new numbers in the other pass."""
        for definition in definitions(function._inference_function):
            for node in definition.node_def:
                if node.op in _TYPES:
                    _refuse(node.op)
                if any(value.type in _HALF for value in node.attr.values()):
                    self.half = function.graph.name


def _refuse(operation: str) -> NoReturn:
    raise InputError(
        f"method='difference' calls the model twice and needs the same random numbers, but {operation} draws "
        f"inside a tf.function, a branch or a loop of the model, and cannot be made to repeat. Use layers whose draws "
        f"have a state (keras.layers.Dropout, tf.random.Generator), or method='jvp'."
    )


_draws: "ContextVar[RepeatedDraws | None]" = ContextVar("gradreg_draws", default=None)


@contextmanager
def repeated_draws() -> Iterator[RepeatedDraws]:
    """A context in which random operations without a state draw in a first pass and repeat after `again()`.

    Raises:
        InputError: the draws are inside a tf.function, a branch or a loop, where they cannot be repeated.
    """
    repeated = RepeatedDraws()
    token = _draws.set(repeated)
    try:
        with replaced("repeated_draws", _ROWS), function_calls_seen(repeated.look_at):
            yield repeated
    finally:
        _draws.reset(token)


def _observed(original: Function) -> Function:
    def draw(*args: Any, **keywords: Any) -> tf.Tensor:
        repeated = _draws.get()
        if repeated is None:
            return original(*args, **keywords)
        return repeated.draw(original.__name__, original, args, keywords)

    return draw


_ROWS: list[Replacement] = [(gen_random_ops, name, _observed) for name in _OPERATIONS]
