"""Trains in TensorFlow: the loop over the steps is compiled, a chunk of steps at a time."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

import gradreg_tensorflow as gradreg
from gradreg_core.portable.networks import Network
from gradreg_experiments.plan import Masks, Plan, Steps, Trained
from gradreg_experiments.trainers.trainer import Tick, Trainer, silent
from gradreg_tensorflow.networks import apply

__all__ = ["TensorFlowTrainer"]

Arrays = Mapping[str, Any]
_BETAS = 0.9, 0.999
_EPSILON = 1e-8


class TensorFlowTrainer(Trainer):
    """See :class:`gradreg_experiments.trainers.trainer.Trainer`."""

    def train(self, plan: Plan, tick: Tick = silent) -> Trained:
        run, losses = _Run(plan), [np.zeros(0)]
        for steps in plan.chunks():
            losses.append(run.train(steps))
            tick(len(steps.numbers))
        return Trained({path: value.numpy() for path, value in run.params.items()}, np.concatenate(losses))

    def logits(self, network: Network, params: Arrays, x: Any) -> Any:
        return apply(network, _tensors(params), tf.constant(x)).numpy()

    def input_gradient(self, network: Network, params: Arrays, x: Any, y: Any) -> Any:
        inputs = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = apply(network, _tensors(params), inputs)
            total = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(tf.constant(y), outputs))
        return tape.gradient(total, inputs).numpy()

    def jacobian_norms(self, network: Network, params: Arrays, x: Any) -> Any:
        native = _tensors(params)
        return gradreg.measure(lambda inputs: apply(network, native, inputs), tf.constant(x)).frobenius.numpy()


class _Run:
    """Weights, moments and data between two chunks."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.dtype = plan, tf.as_dtype(plan.dtype)
        self.params = {path: tf.Variable(np.asarray(value), dtype=self.dtype) for path, value in plan.params.items()}
        self.weights = [self.params[path] for path in plan.network.weights()]
        zeros = [tf.zeros_like(weight) for weight in self.weights]
        self.moments = [(tf.Variable(zero), tf.Variable(zero)) for zero in zeros]
        self.x = tf.constant(plan.x, self.dtype)
        self.y = tf.constant(plan.y, self.dtype) if plan.soft else tf.constant(plan.y)
        self.loop = tf.function(self._loop, autograph=False, reduce_retracing=True)

    def train(self, steps: Steps) -> Any:
        """The losses of the steps, a NumPy array."""
        times = steps.numbers.astype(np.float64) + 1
        given = {
            "step": tf.constant(steps.numbers),
            "batch": tf.constant(steps.batches),
            "rate": tf.constant(steps.rates / (1 - _BETAS[0] ** times), self.dtype),
            "correction": tf.constant(np.sqrt(1 - _BETAS[1] ** times), self.dtype),
            "partners": tf.constant(steps.partners),
            "share": tf.constant(steps.shares, self.dtype),
            **{name: self._constants(getattr(steps, name)) for name in ("masks", "apart_masks", "weights")},
        }
        return self.loop(tf.constant(len(steps.numbers)), given).numpy()

    def _constants(self, arrays: Arrays) -> dict[str, tf.Tensor]:
        return {path: tf.constant(values, self.dtype) for path, values in arrays.items()}

    def _loop(self, count: tf.Tensor, given: Mapping[str, Any]) -> tf.Tensor:
        losses = tf.TensorArray(tf.float64, size=count)

        def body(index: tf.Tensor, losses: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            now = tf.nest.map_structure(lambda values: values[index], given)
            return index + 1, losses.write(index, tf.cast(self._step(now), tf.float64))

        _, losses = tf.while_loop(lambda index, _: index < count, body, (0, losses), parallel_iterations=1)
        return losses.stack()

    def _step(self, now: Mapping[str, Any]) -> tf.Tensor:
        """Do one update; return the loss before it."""
        plan = self.plan
        x, y = tf.gather(self.x, now["batch"]), tf.gather(self.y, now["batch"])
        if plan.mixing is not None:
            share = now["share"]
            x = share * x + (1 - share) * tf.gather(self.x, now["partners"])
            y = share * y + (1 - share) * tf.gather(self.y, now["partners"])
        reg, apart = plan.terms(now["weights"])
        options = {"step": now["step"], "batch_norm": "allow"}
        with tf.GradientTape() as tape:
            model = self._model(now["masks"])
            total, _ = gradreg.loss(model, x, y, reg, params=self.weights, loss_fn=plan.loss_fn, **options)
            if apart is not None:
                total = total + gradreg.penalty(self._model(now["apart_masks"]), x, y, apart, **options)
            total = plan.scale * total
        gradients = tape.gradient(total, self.weights, unconnected_gradients="zero")
        for weight, gradient, (first, second) in zip(self.weights, gradients, self.moments, strict=True):
            first.assign(_BETAS[0] * first + (1 - _BETAS[0]) * gradient)
            second.assign(_BETAS[1] * second + (1 - _BETAS[1]) * gradient * gradient)
            weight.assign_sub(now["rate"] * first / (tf.sqrt(second) / now["correction"] + _EPSILON))
        return total

    def _model(self, masks: Mapping[str, tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
        rows = Masks(masks)
        return lambda x: apply(self.plan.network, self.params, x, rows.next(x.shape[0]))


def _tensors(arrays: Arrays) -> dict[str, tf.Tensor]:
    return {path: tf.constant(value) for path, value in arrays.items()}
