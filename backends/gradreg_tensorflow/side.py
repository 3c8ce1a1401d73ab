"""One side of a validation in TensorFlow."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from gradreg_core.errors import InputError
from gradreg_validation.models import Arrays, Evaluation, Side, goals

__all__ = ["TensorFlowSide"]


class TensorFlowSide(Side):
    """A Keras model or tf.Module, whose variables are restored afterwards, or a plain function."""

    def _open(self) -> None:
        owner, keras = self.model, sys.modules.get("keras")
        self.keras_layers = keras is not None and isinstance(owner, keras.layers.Layer)
        self.variables = dict(self._named_variables())
        if self.keras_layers:
            self.layers = {layer.name: layer for layer in owner._flatten_layers(include_self=False)}
            self.layer_kinds = {name: type(layer).__name__ for name, layer in self.layers.items()}
            if not all(layer.built for layer in (owner, *self.layers.values())):
                raise InputError(f"{type(owner).__name__} has no weights yet: call it once on a batch, or build it.")
        self.values = {
            name: np.array(variable.numpy())
            for name, variable in self.variables.items()
            if tf.as_dtype(variable.dtype).is_floating
        }
        trained = {id(variable) for variable in getattr(owner, "trainable_variables", ())}
        self.trained = {name: variable for name, variable in self.variables.items() if id(variable) in trained}

    def _named_variables(self) -> Iterator[tuple[str, Any]]:
        """The variables by their path in Keras, by their attribute in a tf.Module."""
        if self.keras_layers:
            yield from ((str(variable.path), variable) for variable in self.model.variables)
        elif isinstance(self.model, tf.Module):
            kind = tf.Variable
            for path, variable in self.model._flatten(predicate=lambda leaf: isinstance(leaf, kind), with_path=True):
                yield ".".join(map(str, path)), variable

    def _native(self, array: np.ndarray) -> Any:
        return tf.convert_to_tensor(array)

    def _host(self, array: Any) -> np.ndarray:
        return np.array(tf.convert_to_tensor(array).numpy())

    def _transpose(self, x: Any, axes: tuple[int, ...]) -> Any:
        return tf.transpose(x, axes)

    @contextmanager
    def kept(self) -> Iterator[None]:
        before = {name: np.array(variable.numpy()) for name, variable in self.variables.items()}
        try:
            yield
        finally:
            for name, variable in self.variables.items():
                variable.assign(before[name])

    @contextmanager
    def _with(self, changed: Arrays) -> Iterator[None]:
        with self.kept():
            for name, value in changed.items():
                self.variables[name].assign(value)
            yield

    def evaluate(self, x: np.ndarray, changed: Arrays) -> Evaluation:
        native = self._native(x)
        with self._with(changed):
            sources = [native, *(v if isinstance(v, tf.Variable) else v.value for v in self.trained.values())]
            with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
                for source in sources:
                    tape.watch(source)
                params = [tf.convert_to_tensor(variable) for variable in sources[1:]]
                outputs, loss, penalties = self._forward(
                    lambda at: self.model(self._arranged(at)), native, params or None
                )
                wanted = goals(loss, penalties)
            by_input, by_parameter = {}, {}
            for name, goal in wanted.items():
                zero = tf.UnconnectedGradients.ZERO
                by_input[name], *gradients = map(self._host, tape.gradient(goal, sources, unconnected_gradients=zero))
                by_parameter[name] = dict(zip(self.trained, gradients, strict=True))
        host_loss = None if loss is None else self._host(loss)
        return Evaluation(self._host(outputs), host_loss, tuple(map(self._host, penalties)), by_input, by_parameter)

    def activations(self, x: np.ndarray, changed: Arrays, names: Sequence[str]) -> Arrays:
        if not self.keras_layers or self.stages is not None:
            return super().activations(x, changed, names)
        kept: Arrays = {}

        def keeper(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
            def keep(*args: Any, **options: Any) -> Any:
                output = call(*args, **options)
                if tf.is_tensor(output):
                    kept.setdefault(name, self._host(output))
                return output

            return keep

        layers = [(name, self.layers[name]) for name in names]
        before = [vars(layer).get("call") for _, layer in layers]
        try:
            for name, layer in layers:
                vars(layer)["call"] = keeper(name, layer.call)
            with self._with(changed):
                self.model(self._arranged(self._native(x)))
        finally:
            for (_, layer), call in zip(layers, before, strict=True):
                if call is None:
                    vars(layer).pop("call", None)
                else:
                    vars(layer)["call"] = call
        return kept
