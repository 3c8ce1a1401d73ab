"""One side of a validation in TensorFlow."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from gradreg_validation.batch import Arrays
from gradreg_validation.keras_layers import is_keras, layers_of, recorded_layers
from gradreg_validation.models import Evaluation, Side, goals, joined
from gradreg_validation.recording import Recorder, Step

__all__ = ["TensorFlowSide"]


class TensorFlowSide(Side):
    """A Keras model or tf.Module, whose variables are restored afterwards, or a plain function."""

    def _open(self) -> None:
        owner = self.model
        self.keras_layers = is_keras(owner)
        self.layers = layers_of(owner) if self.keras_layers else {}
        self.layer_kinds = {name: type(layer).__name__ for name, layer in self.layers.items()}
        self.variables = dict(self._named_variables())
        self.values = {
            name: np.array(variable.numpy())
            for name, variable in self.variables.items()
            if tf.as_dtype(variable.dtype).is_floating
        }
        trained = {id(variable) for variable in getattr(owner, "trainable_variables", ())}
        self.trained = {name: variable for name, variable in self.variables.items() if id(variable) in trained}

    def _named_variables(self) -> Iterator[tuple[str, Any]]:
        """The variables, by their path in Keras and by their attribute in a tf.Module."""
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

    def evaluate(self, x: Arrays, changed: Arrays) -> Evaluation:
        natives = {path: self._native(array) for path, array in x.items()}
        moving = [natives[path] for path in self.problem.batch.floating]
        with self._with(changed):
            variables = [v if isinstance(v, tf.Variable) else v.value for v in self.trained.values()]
            sources = [*moving, *variables]
            with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
                for source in sources:
                    tape.watch(source)
                params = [tf.convert_to_tensor(variable) for variable in variables]
                model, packed = self._pass(self.model), self._packed(natives)
                outputs, loss, penalties, probe = self._forward(model, packed, params or None)
                wanted = goals(loss, penalties, probe)
            by_input, by_parameter = {}, {}
            for name, goal in wanted.items():
                zero = tf.UnconnectedGradients.ZERO
                gradients = [self._host(g) for g in tape.gradient(goal, sources, unconnected_gradients=zero)]
                by_input[name] = joined(gradients[: len(moving)])
                by_parameter[name] = dict(zip(self.trained, gradients[len(moving) :], strict=True))
        host_loss = None if loss is None else self._host(loss)
        hosted = {path: self._host(output) for path, output in outputs.items()}
        return Evaluation(hosted, host_loss, tuple(map(self._host, penalties)), by_input, by_parameter)

    def record(self, x: Arrays, changed: Arrays) -> list[Step]:
        if self.stages is not None:
            return self._staged(x, ())
        recorder, natives = Recorder(self._hosted), {path: self._native(array) for path, array in x.items()}
        with self._with(changed), self._tapped(recorder), recorded_layers(self.layers, recorder):
            self._pass(self.model)(self._packed_alone(natives))
        return recorder.steps
