"""Keras models on any backend of Keras: their variables as arguments, and the calls of their layers."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from gradreg_core.errors import InputError
from gradreg_validation.recording import Recorder

__all__ = ["called_with", "is_keras", "layers_of", "recorded_layers"]


def is_keras(model: Any) -> bool:
    """Whether a model is a layer of Keras; Keras is not imported."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(model, keras.layers.Layer)


def layers_of(model: Any) -> dict[str, Any]:
    """The layers of a model by name.

    Raises:
        InputError: the model or a layer has no weights yet.
    """
    layers = {layer.name: layer for layer in model._flatten_layers(include_self=False)}
    if not all(layer.built for layer in (model, *layers.values())):
        raise InputError(f"{type(model).__name__} has no weights yet: call it once on a batch, or build it.")
    return layers


def called_with(model: Any, values: Mapping[str, Any]) -> Callable[..., Any]:
    """The model as a function of its inputs, with `values` by path for its variables, which stay as they are."""
    groups = [[values[variable.path] for variable in model.trainable_variables]]
    groups.append([values[variable.path] for variable in model.non_trainable_variables])

    def call(*args: Any, **kwargs: Any) -> Any:
        return model.stateless_call(*groups, *args, **kwargs)[0]

    return call


@contextmanager
def recorded_layers(layers: Mapping[str, Any], recorder: Recorder) -> Iterator[None]:
    """A context that records the calls of layers."""

    def keeper(name: str, layer: Any, call: Callable[..., Any]) -> Callable[..., Any]:
        def keep(*args: Any, **options: Any) -> Any:
            output = call(*args, **options)
            recorder.add(name, layer, args, options, output)
            return output

        return keep

    before = {name: vars(layer).get("call") for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            vars(layer)["call"] = keeper(name, layer, layer.call)
        yield
    finally:
        for name, layer in layers.items():
            if before[name] is None:
                vars(layer).pop("call", None)
            else:
                vars(layer)["call"] = before[name]
