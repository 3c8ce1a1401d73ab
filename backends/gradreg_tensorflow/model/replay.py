"""Calling a model again as if nothing had happened: with the same random numbers and the same state."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context

from gradreg_core.backend import Model
from gradreg_core.errors import InputError
from gradreg_core.layout import is_half
from gradreg_tensorflow.model.layer_calls import layer_calls
from gradreg_tensorflow.model.variables import state, variables_of

__all__ = ["call_twice", "repeatable", "without_state_changes"]

_SEED = 0x67726164


def call_twice(fn: Model, model: Any, x: tf.Tensor, moved: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(fn(x), fn(moved)) from the same state of `model`, which `fn` calls; the state ends as after fn(x).

    Raises:
        InputError: a layer computes in half precision.
    """
    with _state_restored(model) as layers:
        other = fn(moved)
    half = next((layer for layer in layers if is_half(str(layer.compute_dtype))), None)
    if half is not None:
        raise InputError(
            f"method='difference' needs layers that compute in float32 or float64, but {half.name} computes in "
            f"{half.compute_dtype}, whose rounding errors are divided by h. Use method='jvp'."
        )
    return fn(x), other


def without_state_changes(fn: Model, model: Any) -> Model:
    """`fn`, which calls `model`, as a function that restores the model's state."""

    @tf.autograph.experimental.do_not_convert
    def call(x: tf.Tensor) -> tf.Tensor:
        with _state_restored(model):
            return fn(x)

    return call


@contextmanager
def repeatable(model: Any) -> Iterator[None]:
    """Random layers draw the same inside each such context; moving statistics and seeds are restored afterwards."""
    if not tf.executing_eagerly():
        yield
        return
    eager = context.context()
    seed, generator = eager._seed, getattr(eager, "_rng", None)
    eager._seed, eager._rng = _SEED, random.Random(_SEED)  # noqa: S311 - as tf.random.set_seed does
    start = eager._rng.getstate()
    try:
        with _state_restored(model):
            yield
    finally:
        if eager._rng.getstate() != start:
            eager.clear_kernel_cache()  # random operations would go on from their own state; slow, so only if needed
        eager._seed, eager._rng = seed, generator


@contextmanager
def _state_restored(model: Any) -> Iterator[list[Any]]:
    """Restore the state of the model and of every Keras layer called inside. The context gives these layers."""
    saved: dict[int, tuple[Any, tf.Tensor]] = {}
    layers: list[Any] = []

    def save(variables: list[Any]) -> None:
        for variable in variables:
            if id(variable) not in saved:
                saved[id(variable)] = variable, tf.identity(variable)

    def before(layer: Any) -> None:
        layers.append(layer)
        save(variables_of([layer], trainable=False))

    save(state(model))
    try:
        with layer_calls(before=before):
            yield layers
    finally:
        for variable, value in saved.values():
            variable.assign(value)
