"""Training of a portable network in TensorFlow: the loop over the steps is compiled, a chunk of steps at a time."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from gradreg_core.spec import Regularizer, Sum
from gradreg_core.training import Plan, Trained
from gradreg_tensorflow import api
from gradreg_tensorflow.networks import apply

__all__ = ["train"]

_CHUNK = 200
"""Steps in one call of the compiled loop: bounds the memory that their dropout masks take."""
_BETAS = 0.9, 0.999
_EPSILON = 1e-8


def train(plan: Plan) -> Trained:
    """Carry out the plan with Adam; epsilon is added to the root of the corrected second moment.

    Raises:
        InputError: the plan's arrays do not fit each other.
    """
    run = _Run(plan)
    batches = np.asarray(plan.batches, np.int32)
    losses = [
        run.steps(range(start, min(start + _CHUNK, len(batches))), batches) for start in range(0, len(batches), _CHUNK)
    ]
    return Trained({path: value.numpy() for path, value in run.params.items()}, np.concatenate([*losses, np.zeros(0)]))


class _Run:
    """Weights, moments and data as they stand between two chunks."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.dtype = tf.as_dtype(plan.dtype)
        self.params = {path: tf.Variable(np.asarray(value), dtype=self.dtype) for path, value in plan.params.items()}
        self.weights = [self.params[path] for path in plan.network.weights()]
        self.moments = [(tf.Variable(tf.zeros_like(each)), tf.Variable(tf.zeros_like(each))) for each in self.weights]
        self.x = tf.constant(plan.x, self.dtype)
        self.y = tf.constant(plan.y)
        self.loop = tf.function(self._loop, autograph=False, reduce_retracing=True)

    def steps(self, steps: range, batches: Any) -> Any:
        """Carry out `steps`; their losses, a NumPy array."""
        plan = self.plan
        masks = [plan.masks(step) for step in steps] if plan.masks is not None else []
        rates = np.array([plan.learning_rate(step) for step in steps], np.float64)
        times = np.array(steps, np.float64) + 1
        corrections = [1 - beta**times for beta in _BETAS]
        given = {
            "batch": tf.constant(batches[steps.start : steps.stop]),
            "rate": tf.constant(rates / corrections[0], self.dtype),
            "correction": tf.constant(np.sqrt(corrections[1]), self.dtype),
            "weights": tf.constant(_weights(plan.reg, steps), self.dtype),
            "masks": {
                path: tf.constant(np.stack([each[path] for each in masks]), self.dtype)
                for path in (masks[0] if masks else {})
            },
        }
        return self.loop(tf.constant(steps.start), tf.constant(len(steps)), given).numpy()

    def _loop(self, start: tf.Tensor, count: tf.Tensor, given: Mapping[str, Any]) -> tf.Tensor:
        losses = tf.TensorArray(tf.float64, size=count)

        def body(index: tf.Tensor, losses: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            now = tf.nest.map_structure(lambda each: each[index], given)
            return index + 1, losses.write(index, tf.cast(self._step(start + index, now), tf.float64))

        _, losses = tf.while_loop(lambda index, _: index < count, body, (0, losses), parallel_iterations=1)
        return losses.stack()

    def _step(self, step: tf.Tensor, now: Mapping[str, Any]) -> tf.Tensor:
        """One update; the loss before it."""
        plan, params = self.plan, self.params
        x, y = tf.gather(self.x, now["batch"]), tf.gather(self.y, now["batch"])
        with tf.GradientTape() as tape:
            total, _ = api.loss(
                lambda inputs: apply(plan.network, params, inputs, now["masks"]),
                x,
                y,
                _weighted(plan.reg, now["weights"]),
                step=step,
                params=self.weights,
                batch_norm="allow",
            )
        gradients = tape.gradient(total, self.weights, unconnected_gradients="zero")
        for weight, gradient, (first, second) in zip(self.weights, gradients, self.moments, strict=True):
            first.assign(_BETAS[0] * first + (1 - _BETAS[0]) * gradient)
            second.assign(_BETAS[1] * second + (1 - _BETAS[1]) * gradient * gradient)
            weight.assign_sub(now["rate"] * first / (tf.sqrt(second) / now["correction"] + _EPSILON))
        return total


def _weights(reg: Regularizer | None, steps: range) -> list[list[float]]:
    """The weight of each term at each step: a schedule is any function of a Python int, which no graph could run."""
    terms = () if reg is None else reg.terms
    return [[float(term.weight_at(step)) for term in terms] for step in steps]


def _weighted(reg: Regularizer | None, weights: tf.Tensor) -> Regularizer | None:
    """`reg` with the weight of each scheduled term taken from `weights`."""
    if reg is None:
        return None
    return Sum(
        tuple(
            replace(term, weight=lambda _, index=index: weights[index]) if callable(term.weight) else term
            for index, term in enumerate(reg.terms)
        )
    )
