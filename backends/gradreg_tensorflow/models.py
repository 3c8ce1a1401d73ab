"""What can be seen of a model: its parameters, and the state that a forward pass changes."""

import functools
import inspect
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.ops import stateful_random_ops

from gradreg_core.errors import InputError
from gradreg_core.layout import is_half
from gradreg_tensorflow.layer_calls import layer_calls

__all__ = ["aside", "both", "parameters", "repeatable", "trainable_variables"]

_SEED = 0x67726164


def _layer_types() -> tuple[type, ...]:
    """Keras' class of layers and models, if Keras is in use."""
    keras = sys.modules.get("keras")
    return (keras.layers.Layer,) if keras is not None and keras.config.backend() == "tensorflow" else ()


def _has_variables(value: Any) -> bool:
    return isinstance(value, (tf.Module, *_layer_types()))


def _unwrapped(model: Any) -> Any:
    """The object that a functools.partial or a bound method calls."""
    while not _has_variables(model):
        inner = model.func if isinstance(model, functools.partial) else getattr(model, "__self__", None)
        if inner is None:
            break
        model = inner
    return model


def parameters(model: Any) -> list[tf.Tensor] | None:
    """The trainable variables of a Keras model or layer, or of a tf.Module, as tensors; None for other callables.

    Raises:
        InputError: a Keras model that has no variables yet.
    """
    owner = _unwrapped(model)
    if not _has_variables(owner):
        return None
    if not all(getattr(each, "built", True) for each in (owner, *_keras_layers(owner))):
        raise InputError(f"{type(owner).__name__} has no weights yet: call it once on a batch, or build it.")
    return [tf.convert_to_tensor(each) for each in _variables([owner], trainable=True)]


def trainable_variables(model: Any) -> list[tf.Variable]:
    """The trainable variables of a model, and of what a function that calls it refers to."""
    return _variables(_seen(model), trainable=True)


def _keras_layers(owner: Any) -> list[Any]:
    """The Keras layers in a tf.Module, whose own list of variables leaves theirs out."""
    layers = _layer_types()
    return list(owner._flatten(predicate=lambda each: isinstance(each, layers))) if isinstance(owner, tf.Module) else []


def _seen(model: Any) -> list[Any]:
    """The model, and where it is a function, the objects that it refers to."""
    owner = _unwrapped(model)
    if not inspect.isfunction(owner):
        return [owner]
    names = inspect.getclosurevars(owner)
    return [owner, *names.nonlocals.values(), *names.globals.values()]


def _variables(owners: Iterable[Any], trainable: bool) -> list[tf.Variable]:
    """The variables of the owners, or that they are, each once."""
    found: list[Any] = []
    for each in owners:
        if isinstance(each, tf.Variable):
            found += [each] if each.trainable is trainable else []
        elif _has_variables(each):
            for layer in (each, *_keras_layers(each)):
                found += layer.trainable_variables if trainable else layer.non_trainable_variables
    found = [getattr(each, "value", each) if not isinstance(each, tf.Variable) else each for each in found]
    return list({id(each): each for each in found}.values())


def _state(model: Any) -> list[Any]:
    """The variables that a forward pass may change, as far as they can be found: moving statistics, seeds."""
    found: list[Any] = _variables(_seen(model), trainable=False)
    if stateful_random_ops.global_generator is not None:
        found.append(stateful_random_ops.global_generator.state)
    if _layer_types():
        found.append(sys.modules["keras"].src.random.seed_generator.global_seed_generator().state.value)
    return found


def both(
    fn: Callable[[tf.Tensor], tf.Tensor], model: Any, x: tf.Tensor, moved: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """(fn(x), fn(moved)) from the same state, which ends as after fn(x).

    Raises:
        InputError: a layer computes in half precision.
    """
    other, layers = _kept(fn, model, moved)
    half = next((each for each in layers if is_half(str(each.compute_dtype))), None)
    if half is not None:
        raise InputError(
            f"method='difference' needs layers that compute in float32 or float64, {half.name} computes in "
            f"{half.compute_dtype}: the rounding enters divided by h. Use method='jvp'."
        )
    return fn(x), other


def aside(fn: Callable[[tf.Tensor], tf.Tensor], model: Any) -> Callable[[tf.Tensor], tf.Tensor]:
    """`fn`, which calls the model, with its state as before afterwards."""
    return tf.autograph.experimental.do_not_convert(lambda x: _kept(fn, model, x)[0])


def _kept(fn: Callable[[tf.Tensor], tf.Tensor], model: Any, x: tf.Tensor) -> tuple[tf.Tensor, list[Any]]:
    """fn(x) and the Keras layers that it called, whose state is put back."""
    with _state_kept(model) as layers:
        outputs = fn(x)
    return outputs, layers


@contextmanager
def _state_kept(model: Any) -> Iterator[list[Any]]:
    """The Keras layers that are called inside; their state, and the model's, is put back afterwards."""
    before: dict[int, tuple[Any, tf.Tensor]] = {}
    layers: list[Any] = []

    def keep(variables: list[Any]) -> None:
        for each in variables:
            if id(each) not in before:
                before[id(each)] = each, tf.identity(each)

    def seen(layer: Any) -> None:
        layers.append(layer)
        keep(_variables([layer], trainable=False))

    keep(_state(model))
    try:
        with layer_calls(before=seen):
            yield layers
    finally:
        for variable, value in before.values():
            variable.assign(value)


@contextmanager
def repeatable(model: Any) -> Iterator[None]:
    """Random layers draw the same inside each such context; moving statistics and seeds are as before afterwards."""
    if not tf.executing_eagerly():
        yield
        return
    eager = context.context()
    seed, generator = eager._seed, getattr(eager, "_rng", None)
    eager._seed, eager._rng = _SEED, random.Random(_SEED)  # noqa: S311 - as tf.random.set_seed does
    start = eager._rng.getstate()
    try:
        with _state_kept(model):
            yield
    finally:
        if eager._rng.getstate() != start:
            eager.clear_kernel_cache()  # else random operations would go on from where they are; slow, so only then
        eager._seed, eager._rng = seed, generator
