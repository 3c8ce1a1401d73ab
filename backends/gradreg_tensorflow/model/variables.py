"""The variables of a model: the trained ones, and the state that a forward pass changes."""

import functools
import inspect
import sys
from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from gradreg_core.errors import InputError

__all__ = ["is_variable", "parameters", "trainable_variables"]


def parameters(model: Any) -> list[tf.Tensor] | None:
    """The trainable variables of a Keras model or layer, or of a tf.Module, as tensors; None for other callables.

    Raises:
        InputError: the Keras model has no variables yet.
    """
    owner = _unwrapped(model)
    if not _has_variables(owner):
        return None
    if not all(getattr(layer, "built", True) for layer in (owner, *_keras_layers(owner))):
        raise InputError(f"{type(owner).__name__} has no weights yet: call it once on a batch, or build it.")
    return [tf.convert_to_tensor(variable) for variable in _variables_of([owner], trainable=True)]


def trainable_variables(model: Any) -> list[tf.Variable]:
    """The trainable variables of a model, or of the objects that a function refers to."""
    return _variables_of(_owners(model), trainable=True)


def is_variable(value: Any) -> bool:
    """Whether `value` is a TensorFlow or Keras variable."""
    keras = sys.modules.get("keras")
    return isinstance(value, tf.Variable) or (keras is not None and isinstance(value, keras.Variable))


def _variables_of(owners: Iterable[Any], trainable: bool) -> list[tf.Variable]:
    """The variables among `owners` and in the models and layers among them, each once."""
    variables: list[Any] = []
    for owner in owners:
        if isinstance(owner, tf.Variable):
            variables += [owner] if owner.trainable is trainable else []
        elif _has_variables(owner):
            for layer in (owner, *_keras_layers(owner)):
                variables += layer.trainable_variables if trainable else layer.non_trainable_variables
    # A Keras variable holds a TensorFlow variable.
    natives = [variable if isinstance(variable, tf.Variable) else variable.value for variable in variables]
    return list({id(native): native for native in natives}.values())


def _layer_types() -> tuple[type, ...]:
    """Keras' class of layers and models, if Keras is in use."""
    keras = sys.modules.get("keras")
    return (keras.layers.Layer,) if keras is not None and keras.config.backend() == "tensorflow" else ()


def _has_variables(value: Any) -> bool:
    return isinstance(value, (tf.Module, *_layer_types()))


def _keras_layers(owner: Any) -> list[Any]:
    """The Keras layers in a tf.Module, which the module's own list of variables leaves out."""
    layers = _layer_types()
    return list(owner._flatten(predicate=lambda leaf: isinstance(leaf, layers))) if isinstance(owner, tf.Module) else []


def _unwrapped(model: Any) -> Any:
    """The object that a functools.partial or a bound method calls."""
    while not _has_variables(model):
        inner = model.func if isinstance(model, functools.partial) else getattr(model, "__self__", None)
        if inner is None:
            break
        model = inner
    return model


def _owners(model: Any) -> list[Any]:
    """The model and, if it is a function, the objects that it refers to."""
    owner = _unwrapped(model)
    if not inspect.isfunction(owner):
        return [owner]
    names = inspect.getclosurevars(owner)
    return [owner, *names.nonlocals.values(), *names.globals.values()]
