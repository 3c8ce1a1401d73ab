"""The training step for Keras on TensorFlow."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from gradreg_keras.numbering import numbering

__all__ = ["Steps"]


class Steps(keras.Model):
    """The training step, traced per batch size, on one or several replicas."""

    train_function: Any

    def train_step(self, data: Any) -> dict[str, Any]:
        """One update. Returns the metrics that `fit` reports."""
        model: Any = self
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        size, weights = keras.tree.flatten(x)[0].shape[0], self.trainable_weights
        own = numbering(self.optimizer)
        with tf.GradientTape() as tape:
            parts = model._regularized(
                partial(model, training=True),
                x,
                y,
                sample_weight,
                [weight.value for weight in weights],
                step=tf.cast(self.optimizer.iterations, tf.int32),
                numbers=lambda places: own(places + _first_place(size)),
            )
            penalty = tf.add_n(parts.penalty)
            loss = self.compute_loss(x, y, parts.outputs, sample_weight, training=True)
            loss = loss + tf.cast(penalty, loss.dtype) / replicas  # gradients are summed over the replicas
            scaled = self.optimizer.scale_loss(loss)
        self.optimizer.apply_gradients(zip(tape.gradient(scaled, weights), weights, strict=True))
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss * replicas, sample_weight=size)
        model._report(parts.penalty, size)
        return {**self.compute_metrics(x, y, parts.outputs, sample_weight), **model._penalty_logs()}

    def make_train_function(self, force: bool = False) -> None:
        """As in Keras; if batches differ in size, a function traced per size."""
        if self.train_function is not None and not force:
            return
        super().make_train_function(force)
        self.train_function = self._for_any_size(self.train_function)

    def _for_any_size(self, of_one_size: Callable[[Any], Any]) -> Callable[[Any], Any]:
        strategy = self.distribute_strategy

        def step(data: Any) -> Any:
            logs = strategy.run(self.train_step, args=(data,))
            return keras.tree.map_structure(lambda value: strategy.reduce("MEAN", value, axis=None), logs)

        step = tf.autograph.experimental.do_not_convert(step)
        traced = step if self.run_eagerly else tf.function(step, jit_compile=self.jit_compile)

        def several(iterator: Any) -> Any:
            if strategy.num_replicas_in_sync == 1 and _has_one_size(iterator):
                return of_one_size(iterator)
            logs = [traced(_present(data)) for _, data in zip(range(self.steps_per_execution), iterator, strict=False)]
            if not logs:
                raise StopIteration
            return logs[-1]

        return several

    def _permitted_jit(self, asked: Any) -> Any:
        several = self.distribute_strategy.num_replicas_in_sync > 1
        return False if asked == "auto" and several else asked


def _first_place(size: int) -> Any:
    """The place of this replica's first sample, as if each replica before it had as many samples as the largest."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if replicas == 1:
        return 0
    context = tf.distribute.get_replica_context()
    index = context.replica_id_in_sync_group
    sizes = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.one_hot(index, replicas) * float(size))
    return tf.cast(index, tf.int32) * tf.cast(tf.reduce_max(sizes), tf.int32)


def _present(data: Any) -> Any:
    """The data, with None where Keras passes an empty optional for a missing label or weight."""
    return keras.tree.map_structure(lambda leaf: None if isinstance(leaf, tf.experimental.Optional) else leaf, data)


def _has_one_size(iterator: Iterator[Any]) -> bool:
    """Whether all batches of a dataset have the same, known size; True if it is unknown."""
    leaves = keras.tree.flatten(getattr(iterator, "element_spec", ()))
    return all(
        leaf.shape.rank is None or leaf.shape[:1].is_fully_defined() for leaf in leaves if hasattr(leaf, "shape")
    )
