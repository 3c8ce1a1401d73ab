"""Trains a job in TensorFlow: the loop over the steps is compiled, a chunk of steps at a time."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

import gradreg_tensorflow as gradreg
from gradreg_core.portable.networks import Network
from gradreg_experiments.paper.protocol import split
from gradreg_experiments.paper.run import Run
from gradreg_experiments.paper.schedule import Masks
from gradreg_tensorflow.networks import apply

__all__ = ["input_gradient", "jacobian_norms", "logits", "train"]

Arrays = Mapping[str, Any]
_BETAS = 0.9, 0.999
_EPSILON = 1e-8


def train(run: Run, tick: Callable[[int], None] = lambda steps: None) -> tuple[dict[str, Any], Any]:
    """Carry the run out with Adam; see :class:`gradreg_experiments.paper.run.Trainer`."""
    loop = _Loop(run)
    losses = []
    for start in range(0, run.job.protocol.steps, run.chunk):
        losses.append(loop.steps(start, start + run.chunk))
        tick(len(losses[-1]))
    return {path: value.numpy() for path, value in loop.weights.items()}, np.concatenate(losses)


class _Loop:
    """Weights, moments and data as they stand between two chunks."""

    def __init__(self, run: Run) -> None:
        self.run, protocol = run, run.job.protocol
        self.dtype = tf.as_dtype(protocol.dtype)
        self.shared, self.apart = split(protocol, run.job.regularizer)
        self.weights = {path: tf.Variable(value, dtype=self.dtype) for path, value in run.params.items()}
        zeros = [np.zeros_like(value) for value in run.params.values()]
        self.moments = [(tf.Variable(each, dtype=self.dtype), tf.Variable(each, dtype=self.dtype)) for each in zeros]
        self.x = tf.constant(run.x, self.dtype)
        self.y = tf.constant(run.y, self.dtype) if run.soft else tf.constant(run.y)
        self.loop = tf.function(self._loop, autograph=False, reduce_retracing=True)

    def steps(self, start: int, stop: int) -> Any:
        """Carry out the steps from `start` up to `stop`; their losses, a NumPy array."""
        steps = self.run.schedule.steps(start, stop)
        times = steps.numbers.astype(np.float64) + 1
        given = {
            "step": tf.constant(steps.numbers),
            "batch": tf.constant(steps.batches),
            "rate": tf.constant(steps.rates / (1 - _BETAS[0] ** times), self.dtype),
            "correction": tf.constant(np.sqrt(1 - _BETAS[1] ** times), self.dtype),
            "masks": {path: tf.constant(each, self.dtype) for path, each in steps.masks.items()},
            "other_masks": {path: tf.constant(each, self.dtype) for path, each in steps.other_masks.items()},
            "partners": tf.constant(steps.partners),
            "share": tf.constant(steps.shares, self.dtype),
        }
        return self.loop(tf.constant(len(steps.numbers)), given).numpy()

    def _loop(self, count: tf.Tensor, given: Mapping[str, Any]) -> tf.Tensor:
        losses = tf.TensorArray(tf.float64, size=count)

        def body(index: tf.Tensor, losses: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            now = tf.nest.map_structure(lambda each: each[index], given)
            return index + 1, losses.write(index, tf.cast(self._step(now), tf.float64))

        _, losses = tf.while_loop(lambda index, _: index < count, body, (0, losses), parallel_iterations=1)
        return losses.stack()

    def _step(self, now: Mapping[str, Any]) -> tf.Tensor:
        weights = list(self.weights.values())
        x, y = tf.gather(self.x, now["batch"]), tf.gather(self.y, now["batch"])
        if self.run.job.protocol.mixup:
            share = now["share"]
            x = share * x + (1 - share) * tf.gather(self.x, now["partners"])
            y = share * y + (1 - share) * tf.gather(self.y, now["partners"])
        options = {"step": now["step"], "batch_norm": "allow"}
        with tf.GradientTape() as tape:
            model = self._model(now["masks"])
            total, _ = gradreg.loss(model, x, y, self.shared, params=weights, loss_fn=self.run.loss_fn, **options)
            if self.apart is not None:
                model = self._model(now["other_masks"])
                total = total + gradreg.penalty(model, x, y, self.apart, **options)
            total = self.run.scale * total
        gradients = tape.gradient(total, weights, unconnected_gradients="zero")
        for weight, gradient, (first, second) in zip(weights, gradients, self.moments, strict=True):
            first.assign(_BETAS[0] * first + (1 - _BETAS[0]) * gradient)
            second.assign(_BETAS[1] * second + (1 - _BETAS[1]) * gradient * gradient)
            weight.assign_sub(now["rate"] * first / (tf.sqrt(second) / now["correction"] + _EPSILON))
        return total

    def _model(self, rows: Mapping[str, tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
        masks = Masks(rows)
        return lambda x: apply(self.run.network, self.weights, x, masks.next(x.shape[0]))


def logits(network: Network, params: Arrays, x: Any) -> Any:
    """The outputs without dropout, (N, m)."""
    return apply(network, _tensors(params), tf.constant(x)).numpy()


def input_gradient(network: Network, params: Arrays, x: Any, y: Any) -> Any:
    """The gradient of each sample's cross-entropy with respect to its input, of the shape of x, without dropout."""
    inputs = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = apply(network, _tensors(params), inputs)
        total = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(tf.constant(y), outputs))
    return tape.gradient(total, inputs).numpy()


def jacobian_norms(network: Network, params: Arrays, x: Any) -> Any:
    """||dz/dx||_F of each sample without dropout, (N,)."""
    native = _tensors(params)
    return gradreg.measure(lambda inputs: apply(network, native, inputs), tf.constant(x)).frobenius.numpy()


def _tensors(arrays: Arrays) -> dict[str, tf.Tensor]:
    return {path: tf.constant(value) for path, value in arrays.items()}
