"""A Keras model that `fit` trains with a regularizer."""

from typing import Any

import keras
import tensorflow as tf

from gradreg_core.errors import InputError
from gradreg_core.spec import Regularizer
from gradreg_tensorflow import api

__all__ = ["RegularizedModel"]


class RegularizedModel(keras.Model):
    """A model with a regularizer added to the loss that `fit` minimises; everything else is Keras' own.

    A training step calls the model once. The loss is the compiled one (with the layers' own losses) plus the penalty,
    and is reported so; the penalty also on its own. The draws' step is ``optimizer.iterations``. `evaluate` and
    `predict` leave the penalty out (its metric reads 0).

    `fit` needs batches of one size: ``dataset.batch(n, drop_remainder=True)``. Save the model inside, ``.model``.

    Args:
        model: returns one array of outputs: logits, where the penalty is to be one on logits.
        reg: the regularizer.
        options: further arguments of :func:`gradreg_tensorflow.loss`, such as `batch_norm` or `class_axis`.
    """

    def __init__(self, model: Any, reg: Regularizer, **options: Any) -> None:
        super().__init__()
        self.model = model
        self.reg = reg
        self.options = options
        self._penalty_metric = keras.metrics.Mean("penalty")
        self._one_loss: Any = None

    def call(self, inputs: Any, training: Any = None) -> Any:
        return self.model(inputs, training=training)

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, **options: Any) -> None:
        """As keras.Model.compile, with one loss.

        Raises:
            InputError: there is none, or there are several.
        """
        if loss is None or isinstance(loss, dict | list | tuple):
            raise InputError(f"RegularizedModel.compile: expected one loss, got {loss!r}.")
        self._one_loss = keras.losses.get(loss)
        super().compile(optimizer=optimizer, loss=self._one_loss, **options)

    def _loss_of_each(self, outputs: tf.Tensor, y: Any) -> tf.Tensor:
        """The compiled loss of each sample."""
        each = getattr(self._one_loss, "call", self._one_loss)
        return each(tf.convert_to_tensor(y), tf.cast(outputs, getattr(self._one_loss, "dtype", outputs.dtype)))

    def train_step(self, data: Any) -> dict[str, Any]:
        """One update; what `fit` reports."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        with tf.GradientTape() as tape:
            _, parts = api.loss(
                lambda inputs: self(inputs, training=True),
                x,
                y,
                self.reg,
                step=self.optimizer.iterations,
                loss_fn=self._loss_of_each,
                sample_weight=sample_weight,
                **self.options,
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
