"""A Keras model that `fit` trains with a regularizer."""

from functools import partial
from typing import Any

import keras
import tensorflow as tf

from gradreg_core.errors import InputError
from gradreg_core.spec import Regularizer
from gradreg_tensorflow import api

__all__ = ["RegularizedModel"]


class RegularizedModel(keras.Model):
    """A model with a regularizer added to the loss that `fit` minimises; everything else is Keras' own.

    A training step calls the model once. The reported loss is the compiled one (with the layers' own losses) plus the
    penalty, and the penalty is also reported on its own. The draws' step is ``optimizer.iterations``. `evaluate` and
    `predict` leave the penalty out (its metric reads 0).

    `fit` needs batches of one size: ``dataset.batch(n, drop_remainder=True)``. Save the model inside, ``.model``.

    Args:
        model: a Keras model that returns one array of outputs. For penalties on logits these are the logits.
        reg: the regularizer.
        seed, sample_ids, normalizer, class_axis, directions, params, chunk_size, batch_norm: the same for every step,
            see :class:`gradreg_core.calls.Calls`.
    """

    def __init__(
        self,
        model: Any,
        reg: Regularizer,
        *,
        seed: Any = None,
        sample_ids: Any = None,
        normalizer: Any = None,
        class_axis: int | None = None,
        directions: Any = None,
        params: Any = None,
        chunk_size: int | None = None,
        batch_norm: str = "warn",
    ) -> None:
        super().__init__()
        self.model = model
        self.reg = reg
        self._regularized_loss = partial(
            api.loss,
            seed=seed,
            sample_ids=sample_ids,
            normalizer=normalizer,
            class_axis=class_axis,
            directions=directions,
            params=params,
            chunk_size=chunk_size,
            batch_norm=batch_norm,
        )
        self._penalty_metric = keras.metrics.Mean("penalty")
        self._keras_loss: Any = None

    def call(self, inputs: Any, training: Any = None) -> Any:
        return self.model(inputs, training=training)

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        *,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: Any = "auto",
        auto_scale_loss: bool = True,
    ) -> None:
        """As keras.Model.compile, with exactly one loss.

        Raises:
            InputError: there is none, or there are several.
        """
        if loss is None or isinstance(loss, dict | list | tuple):
            raise InputError(f"RegularizedModel.compile: expected one loss, got {loss!r}.")
        self._keras_loss = keras.losses.get(loss)
        super().compile(
            optimizer=optimizer,
            loss=self._keras_loss,
            loss_weights=loss_weights,
            metrics=metrics,
            weighted_metrics=weighted_metrics,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
            jit_compile=jit_compile,
            auto_scale_loss=auto_scale_loss,
        )

    def _loss_of_samples(self, outputs: tf.Tensor, y: Any) -> tf.Tensor:
        """The compiled loss of each sample."""
        loss = getattr(self._keras_loss, "call", self._keras_loss)
        return loss(tf.convert_to_tensor(y), tf.cast(outputs, getattr(self._keras_loss, "dtype", outputs.dtype)))

    def train_step(self, data: Any) -> dict[str, Any]:
        """One update. Returns the metrics that `fit` reports."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        with tf.GradientTape() as tape:
            _, parts = self._regularized_loss(
                lambda inputs: self(inputs, training=True),
                x,
                y,
                self.reg,
                step=self.optimizer.iterations,
                loss_fn=self._loss_of_samples,
                sample_weight=sample_weight,
            )
            penalty = tf.add_n(parts.penalty)
            loss = self.compute_loss(x, y, parts.outputs, sample_weight, training=True)
            loss = loss + tf.cast(penalty, loss.dtype) / replicas  # gradients are summed over the replicas
            scaled = self.optimizer.scale_loss(loss)
        weights = self.trainable_weights
        self.optimizer.apply_gradients(zip(tape.gradient(scaled, weights), weights, strict=True))
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss * replicas)
        self._penalty_metric.update_state(penalty)
        return self.compute_metrics(x, y, parts.outputs, sample_weight)
