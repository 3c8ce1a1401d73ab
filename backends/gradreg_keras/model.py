"""A Keras model that `fit` trains with a regularizer."""

from typing import Any

import keras
from keras import ops
from typing_extensions import Self

from gradreg_core.errors import InputError
from gradreg_core.results import Parts, term_names
from gradreg_core.schema import from_dict, to_dict
from gradreg_core.spec import Regularizer
from gradreg_keras.compiled_loss import CompiledLoss, compiled_losses
from gradreg_keras.configuration import read, written
from gradreg_keras.framework import Steps, calls
from gradreg_keras.question import Question, refuse_probabilities

__all__ = ["RegularizedModel"]


class _Options:
    """Values that Keras must not track: a teacher in `target` is not part of the model."""

    def __init__(self, **values: Any) -> None:
        self.values = values


@keras.saving.register_keras_serializable("gradreg")
class RegularizedModel(Steps):  # type: ignore[misc]
    """A model with a regularizer added to the loss that `fit` minimises; everything else stays as in Keras.

    ::

        model = RegularizedModel(model, SpectReg(0.01))
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(x, y)

    A training step minimises ``loss + penalty``, where `loss` is the compiled loss plus the layers' own losses. The
    model is called once, so moving statistics and seed generators advance once. `fit` reports the sum as ``loss``,
    and the penalty as ``penalty``; with several terms each also as ``penalty_SpectReg`` and so on. `evaluate` and
    `predict` have no penalty.

    Penalties on the loss's gradient, such as `DataGrad`, differentiate the compiled loss; with several outputs, the
    weighted sum of their losses. Penalties on the outputs, such as `SpectReg`, differentiate the model's output; with
    several outputs, the one that `outputs` names.

    With `sample_weight` or `class_weight` the penalty is sum_i w_i p_i / B, weighted as Keras weights the loss.

    The draws are a function of ``optimizer.iterations`` and the sample's number only, so a resumed run continues with
    the draws of an uninterrupted one. A sample's number is its place in the batch. In the m-th of K micro-batches
    (``gradient_accumulation_steps=K``) it is place * K + m. Over tf.distribute's replicas the places continue from one
    replica to the next.

    The model is saved and loaded like any other model, with its regularizer; import this class before loading.

    Args:
        model: a Keras model. For penalties on logits it returns logits. Inputs may be any structure.
        reg: the regularizer.
        outputs: selects one of several outputs, by name or position: "logits", 0; or any selector of `loss`.
        seed, normalizer, class_axis, ignore_index, directions, target, chunk_size, batch_norm: the same for every
            step, see :class:`gradreg_core.calls.Calls`.
        name: the name of the model.
    """

    def __init__(
        self,
        model: Any,
        reg: Regularizer,
        *,
        outputs: Any = None,
        seed: Any = None,
        normalizer: Any = None,
        class_axis: int | None = None,
        ignore_index: int | None = None,
        directions: Any = None,
        target: Any = None,
        chunk_size: int | None = None,
        batch_norm: str = "warn",
        name: str | None = None,
    ) -> None:
        super().__init__(name=name, dtype=getattr(model, "dtype_policy", None))
        self.model = model
        self.reg = reg
        self._options = _Options(
            outputs=outputs,
            seed=seed,
            normalizer=normalizer,
            class_axis=class_axis,
            ignore_index=ignore_index,
            directions=directions,
            target=target,
            chunk_size=chunk_size,
            batch_norm=batch_norm,
        )
        self._compiled_losses: Any = None
        self._penalty_metrics = [keras.metrics.Mean(name) for name in _metric_names(reg)]
        if model.built:
            self.built = True

    @property
    def output_names(self) -> Any:
        """The names of the inner model's outputs, if it has them."""
        return getattr(self.model, "output_names", None)

    def build(self, input_shape: Any) -> None:
        """Create the variables of the inner model."""
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
        """Compile the model; the arguments are those of keras.Model.compile.

        Raises:
            InputError: there is no loss; a loss is a sum over the batch, to which a mean penalty does not add; or a
                penalty is on logits but the loss takes probabilities.
        """
        losses = compiled_losses(loss, loss_weights)
        for one in losses:
            if one.reduction in ("sum", "none") and self._options.values["normalizer"] is None:
                raise InputError(
                    f"RegularizedModel.compile: {one.name} has reduction={one.reduction!r}, but penalties are means "
                    f"over the samples. Use the default, reduction='sum_over_batch_size'"
                    + (
                        ", or RegularizedModel(..., normalizer=1.0) for sums of both."
                        if one.reduction == "sum"
                        else "."
                    )
                )
        if len(losses) == 1:
            refuse_probabilities(self.reg, losses, self._options.values["outputs"])
        self._compiled_losses = _Options(losses=losses)
        super().compile(
            optimizer=optimizer,
            loss=loss,
            loss_weights=loss_weights,
            metrics=metrics,
            weighted_metrics=weighted_metrics,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
            jit_compile=self._permitted_jit(jit_compile),
            auto_scale_loss=auto_scale_loss,
        )

    def _regularized(
        self, model: Any, x: Any, y: Any, sample_weight: Any, params: Any, *, step: Any, numbers: Any
    ) -> Parts:
        """One forward pass of the model, with the penalties and the outputs.

        Args:
            model: the function x -> outputs.
            x: the inputs.
            y: the labels in Keras' form.
            sample_weight: in Keras' form.
            params: the trainable variables as arrays.
            step: the step of the draws.
            numbers: a function of the places (B,) of the samples -> their numbers.
        """
        losses: tuple[CompiledLoss, ...] = tuple(self._compiled_losses.values["losses"])
        options = dict(self._options.values)
        size = keras.tree.flatten(x)[0].shape[0]
        question = Question(self.reg, losses, self.output_names, options.pop("outputs"))
        asked = question.arguments(y, sample_weight, options.pop("normalizer"), size)
        ignored = options.pop("ignore_index")
        asked["ignore_index"] = asked.get("ignore_index") if ignored is None else ignored
        labels = asked.pop("y")
        numbered = numbers(ops.arange(size, dtype="int32"))
        _, parts = calls.loss(
            model, x, labels, self.reg, step=step, sample_ids=numbered, params=params, **asked, **options
        )
        return parts

    def _report(self, penalties: Any, size: int) -> None:
        """Update the metrics with the penalties of a batch."""
        values = list(penalties)
        for metric, value in zip(self._penalty_metrics, [sum(values[1:], values[0]), *values], strict=False):
            metric.update_state(value, sample_weight=size)

    def _penalty_logs(self) -> dict[str, Any]:
        return {metric.name: metric.result() for metric in self._penalty_metrics}

    def get_metrics_result(self) -> dict[str, Any]:
        """Keras' metrics; training steps add the penalties."""
        own = {metric.name for metric in self._penalty_metrics}
        return {name: value for name, value in super().get_metrics_result().items() if name not in own}

    # --- saving ------------------------------------------------------------------------------------------------------
    def get_config(self) -> dict[str, Any]:
        """The configuration from which `from_config` makes the model.

        Raises:
            InputError: an option has no plain form.
            SpecError: a weight of the regularizer is a function of the step.
        """
        options = {name: written(name, value) for name, value in self._options.values.items()}
        model = keras.saving.serialize_keras_object(self.model)
        return {"name": self.name, "model": model, "reg": to_dict(self.reg), **options}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Self:
        """Make the model from the result of `get_config`."""
        options = {name: read(value) for name, value in config.items() if name not in ("model", "reg")}
        model = keras.saving.deserialize_keras_object(config["model"], custom_objects=custom_objects)
        return cls(model, from_dict(config["reg"]), **options)

    def save_own_variables(self, store: Any) -> None:
        """Save the states of seed generators, such as dropout's, which Keras' files leave out."""
        for index, state in enumerate(self._seed_states()):
            store[str(index)] = ops.convert_to_numpy(state)

    def load_own_variables(self, store: Any) -> None:
        """Load what `save_own_variables` has saved."""
        for index, state in enumerate(self._seed_states()):
            if str(index) in store.keys():  # noqa: SIM118 - a group of a file
                state.assign(store[str(index)])

    def _seed_states(self) -> list[Any]:
        return [variable for variable in self.variables if variable.name == "seed_generator_state"]

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile the model while it is loaded."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)


def _metric_names(reg: Regularizer) -> list[str]:
    """The metrics: one for the sum, and one per term if there are several."""
    names = [f"penalty_{name}".replace(" ", "_") for name in term_names(reg.terms)]
    return ["penalty", *(names if len(names) > 1 else [])]
