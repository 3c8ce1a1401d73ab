"""A Keras model that `fit` trains with a regularizer."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from typing_extensions import Self

from gradreg_core.errors import InputError
from gradreg_core.schema import from_dict, to_dict
from gradreg_core.spec import Regularizer
from gradreg_tensorflow import api

__all__ = ["RegularizedModel"]


@keras.saving.register_keras_serializable("gradreg")
class RegularizedModel(keras.Model):
    """A model with a regularizer added to the loss that `fit` minimises; everything else is Keras' own.

    A training step calls the model once. The reported loss is the compiled one (with the layers' own losses) plus the
    penalty, and the penalty is also reported on its own. The draws' step is ``optimizer.iterations``. `evaluate` and
    `predict` leave the penalty out (its metric reads 0).

    It is saved and loaded like any other model, with its regularizer; import this module before loading. Where the
    batches are not of one size, as the last one is without ``drop_remainder=True``, a step is traced for each size.

    Args:
        model: a Keras model that returns one array of outputs. For penalties on logits these are the logits. Its inputs
            may be any structure.
        reg: the regularizer.
        seed, sample_ids, normalizer, class_axis, ignore_index, directions, target, params, chunk_size, batch_norm: the
            same for every step, see :class:`gradreg_core.calls.Calls`.
        name: of the model.
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
        ignore_index: int | None = None,
        directions: Any = None,
        target: Any = None,
        params: Any = None,
        chunk_size: int | None = None,
        batch_norm: str = "warn",
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.model = model
        self.reg = reg
        self._regularized_loss = partial(
            api.loss,
            seed=seed,
            sample_ids=sample_ids,
            normalizer=normalizer,
            class_axis=class_axis,
            ignore_index=ignore_index,
            directions=directions,
            target=target,
            params=params,
            chunk_size=chunk_size,
            batch_norm=batch_norm,
        )
        self._penalty_metric = keras.metrics.Mean("penalty")
        self._keras_loss: Any = None
        self.train_function: Any
        if model.built:
            self.built = True

    def build(self, input_shape: Any) -> None:
        """Make the variables of the model inside."""
        if not self.model.built:
            self.model.build(input_shape)
        self.built = True

    def call(self, inputs: Any, training: Any = None) -> Any:
        return self.model(inputs, training=training)

    # --- training ----------------------------------------------------------------------------------------------------
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

    def make_train_function(self, force: bool = False) -> None:
        """As Keras', and where batches differ in size, a function that is traced for each size."""
        if self.train_function is not None and not force:
            return
        super().make_train_function(force)
        if self.distribute_strategy.num_replicas_in_sync == 1:
            self.train_function = self._for_any_size(self.train_function)

    def _for_any_size(self, of_one_size: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def step(data: Any) -> Any:
            present = keras.tree.map_structure(lambda leaf: None if _is_optional(leaf) else leaf, data)
            return self.train_step(present)

        step = tf.autograph.experimental.do_not_convert(step)
        traced = step if self.run_eagerly else tf.function(step, jit_compile=self.jit_compile)

        def several(iterator: Any) -> Any:
            if _has_one_size(iterator):
                return of_one_size(iterator)
            logs = [traced(data) for _, data in zip(range(self.steps_per_execution), iterator, strict=False)]
            if not logs:
                raise StopIteration
            return logs[-1]

        return several

    def _loss_of_samples(self, outputs: tf.Tensor, y: Any) -> tf.Tensor:
        """The compiled loss of each sample."""
        loss = getattr(self._keras_loss, "call", self._keras_loss)
        return loss(tf.convert_to_tensor(y), tf.cast(outputs, getattr(self._keras_loss, "dtype", outputs.dtype)))

    def train_step(self, data: Any) -> dict[str, Any]:
        """One update. Returns the metrics that `fit` reports."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        model: Any = self
        with tf.GradientTape() as tape:
            _, parts = self._regularized_loss(
                partial(model, training=True),
                x,
                _classes(y),
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

    # --- saving ------------------------------------------------------------------------------------------------------
    def get_config(self) -> dict[str, Any]:
        """What `from_config` makes the model of.

        Raises:
            InputError: an option cannot be written down.
            SpecError: a weight of the regularizer is a function of the step.
        """
        options = {name: _written(name, value) for name, value in self._regularized_loss.keywords.items()}
        model = keras.saving.serialize_keras_object(self.model)
        return {"name": self.name, "model": model, "reg": to_dict(self.reg), **options}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Self:
        """The model that `get_config` described."""
        options = {name: _read(value) for name, value in config.items() if name not in ("model", "reg")}
        model = keras.saving.deserialize_keras_object(config["model"], custom_objects=custom_objects)
        return cls(model, from_dict(config["reg"]), **options)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile a model that is being loaded."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)


def _is_optional(leaf: Any) -> bool:
    """Whether Keras stands for a missing label or weight by `leaf`."""
    return isinstance(leaf, tf.experimental.Optional)


def _has_one_size(iterator: Iterator[Any]) -> bool:
    """Whether all batches of a dataset have the same, known size; True where nothing says so."""
    leaves = keras.tree.flatten(getattr(iterator, "element_spec", ()))
    return all(
        leaf.shape.rank is None or leaf.shape[:1].is_fully_defined() for leaf in leaves if hasattr(leaf, "shape")
    )


def _classes(y: Any) -> Any:
    """Labels without the second axis of length 1 that Keras allows class labels to have."""
    is_column = tf.is_tensor(y) and y.dtype.is_integer and y.shape.rank == 2 and y.shape[1] == 1
    return tf.squeeze(y, 1) if is_column else y


def _written(name: str, value: Any) -> Any:
    """An option as plain values."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if name == "params" or callable(value):
        remedy = "Leave it out, as the model's own parameters are seen" if name == "params" else "Save the model inside"
        raise InputError(f"RegularizedModel: {name}= cannot be saved. {remedy}, or save the weights alone.")
    array = np.asarray(value)
    return {"array": array.tolist(), "dtype": array.dtype.name}


def _read(value: Any) -> Any:
    return np.array(value["array"], value["dtype"]) if isinstance(value, dict) else value
