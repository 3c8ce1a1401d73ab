"""A scalar of a model as a function of its variables too, for `check`, which changes copies of them."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from gradreg_core.objective import Gradients, Objective, Scalar
from gradreg_tensorflow.model.variables import trainable_variables

__all__ = ["TensorFlowObjective"]


class TensorFlowObjective(Objective):
    """See :class:`gradreg_core.objective.Objective`. The weights are the trainable variables.

    These are the variables that the model reads, and those on it or in what it closes over.
    """

    def __init__(self, model: Any, fn: Scalar, reach: Scalar, x: tf.Tensor | None) -> None:
        self.fn = fn
        before = {id(variable): tf.identity(variable) for variable in trainable_variables(model)}
        with tf.GradientTape() as tape:
            outputs = reach(x)
        seen = [*tape.watched_variables(), *trainable_variables(model)]
        distinct = {id(variable): variable for variable in seen if variable.dtype.is_floating}
        # A variable that the pass itself rewrites, as spectral normalisation does, has its gradient at the new value,
        # which differences cannot show.
        self.variables = [
            variable
            for key, variable in distinct.items()
            if key not in before or bool(tf.reduce_all(before[key] == variable))
        ]
        self.weights = [tf.convert_to_tensor(variable) for variable in self.variables]
        self.names = [variable.name for variable in self.variables]
        self._reached = [gradient is not None for gradient in tape.gradient(outputs, self.variables)]

    def gradients(self, x: tf.Tensor | None, scale: float = 1.0) -> Gradients:
        with tf.GradientTape() as tape:
            if x is not None:
                tape.watch(x)
            value = self.fn(x)
            scaled = value * scale
        sources = [*self.variables, *([] if x is None else [x])]
        gradients = [
            None if gradient is None else tf.convert_to_tensor(gradient) for gradient in tape.gradient(scaled, sources)
        ]
        of_input = None if x is None else gradients.pop()
        return value, gradients, of_input

    def at(self, weights: Sequence[tf.Tensor], x: tf.Tensor | None) -> tf.Tensor:
        pairs = zip(self.variables, self.weights, weights, strict=True)
        changed = [(variable, before, value) for variable, before, value in pairs if value is not before]
        try:
            for variable, _, value in changed:
                variable.assign(value)
            return self.fn(x)
        finally:
            for variable, before, _ in changed:
                variable.assign(before)

    def reached(self) -> Sequence[bool]:
        return self._reached
