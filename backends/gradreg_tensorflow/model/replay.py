"""Calls a model again from the same random numbers and the same state."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context

from gradreg_core.backend import Model
from gradreg_core.errors import InputError
from gradreg_core.layout import is_half
from gradreg_tensorflow.model import writes
from gradreg_tensorflow.model.draws import RepeatedDraws, repeated_draws
from gradreg_tensorflow.model.layer_calls import layer_calls
from gradreg_tensorflow.model.objects import objects_kept
from gradreg_tensorflow.replace import Function, Replacement, replaced

__all__ = ["Repeated", "repeatable", "repeated_passes", "without_state_changes"]

_SEED = 0x67726164


class Repeated:
    """Passes through a model that start from the same state and draw the same random numbers."""

    def __init__(self, model: Any, draws: RepeatedDraws, layers: list[Any]) -> None:
        self.model, self._draws, self._layers = model, draws, layers

    def without_a_trace(self, run: Callable[[], Any]) -> Any:
        """Return run() and restore the state.

        Raises:
            InputError: a layer computes in half precision, or draws numbers that cannot be repeated.
        """
        with writes.kept(), objects_kept(self.model):
            result = run()
        self._draws.again()
        self._require_no_half()
        return result

    def _require_no_half(self) -> None:
        half = next((layer for layer in self._layers if is_half(str(layer.compute_dtype))), None)
        if half is not None or self._draws.half:
            name, dtype = (self._draws.half, "half precision") if half is None else (half.name, half.compute_dtype)
            raise InputError(
                f"method='difference' needs layers that compute in float32 or float64, but {name} computes in {dtype}, "
                f"whose rounding errors are divided by h. Use method='jvp'."
            )


@contextmanager
def repeated_passes(model: Any) -> Iterator[Repeated]:
    """A context for several passes through `model`, of which only the last changes the state. See :class:`Repeated`."""
    layers: list[Any] = []
    with writes.writes(), layer_calls(before=layers.append), repeated_draws() as draws:
        yield Repeated(model, draws, layers)


def without_state_changes(fn: Model, model: Any) -> Model:
    """`fn`, which calls `model`, as a function without side effects.

    Inside a call of gradreg it starts from the variables' values at the start of the call, as every pass of a call
    does.
    """
    start = writes.written_by_call()

    @tf.autograph.experimental.do_not_convert
    def call(*args: Any, **keywords: Any) -> Any:
        with writes.kept(start), objects_kept(model):
            return fn(*args, **keywords)

    return call


_generator: "ContextVar[random.Random | None]" = ContextVar("gradreg_generator", default=None)


def _fixed_seed(original: Function) -> Function:
    return lambda: original() if _generator.get() is None else _SEED


def _next_seed(original: Function) -> Function:
    def seed() -> int:
        generator = _generator.get()
        return original() if generator is None else generator.randint(0, 2**31 - 1)

    return seed


_SEEDS: list[Replacement] = [
    (context, "global_seed", _fixed_seed),
    (context, "internal_operation_seed", _next_seed),
]


@contextmanager
def repeatable(model: Any) -> Iterator[None]:
    """A context in which random layers draw the same numbers each time; it restores their state.

    The seeds belong to this thread alone; TensorFlow's own seeds do not change.
    """
    if not tf.executing_eagerly():
        yield
        return
    generator = random.Random(_SEED)  # noqa: S311 - as tf.random.set_seed does
    start, token = generator.getstate(), _generator.set(generator)
    try:
        with replaced("seeds", _SEEDS), writes.kept(), objects_kept(model):
            yield
    finally:
        _generator.reset(token)
        if generator.getstate() != start:
            # Random operations would continue from their last state. Slow, so only if needed.
            context.context().clear_kernel_cache()
