"""The training step for Keras on JAX."""

from functools import wraps
from typing import Any

import keras

from gradreg_jax.model import Stateful
from gradreg_keras.numbering import numbering

__all__ = ["Steps"]


class Steps(keras.Model):
    """The loss with the penalties as a pure function of the variables, which Keras differentiates."""

    def compute_loss_and_updates(
        self,
        trainable_variables: Any,
        non_trainable_variables: Any,
        metrics_variables: Any,
        x: Any,
        y: Any,
        sample_weight: Any,
        training: bool = False,
        optimizer_variables: Any = None,
    ) -> Any:
        """(scaled loss, (loss, outputs, non-trainable variables, metrics variables)), as Keras expects it."""
        if not training:
            return super().compute_loss_and_updates(
                trainable_variables,
                non_trainable_variables,
                metrics_variables,
                x,
                y,
                sample_weight,
                training=False,
                optimizer_variables=optimizer_variables,
            )
        model: Any = self
        stateful = self._stateful(trainable_variables, non_trainable_variables)
        with keras.StatelessScope(zip(self.optimizer.variables, optimizer_variables, strict=True)):
            step = keras.ops.convert_to_tensor(self.optimizer.iterations)
            numbers = numbering(self.optimizer)
        x = keras.tree.map_structure(lambda leaf: None if leaf is None else keras.ops.convert_to_tensor(leaf), x)
        parts = model._regularized(stateful, x, y, sample_weight, list(trainable_variables), step=step, numbers=numbers)
        changed, losses = stateful.state
        model._losses_override.clear()
        model._losses_override = losses
        loss, (_, changed, metrics_variables) = self.stateless_compute_loss(
            trainable_variables,
            changed,
            metrics_variables,
            x=x,
            y=y,
            y_pred=parts.outputs,
            sample_weight=sample_weight,
            training=True,
        )
        model._losses_override.clear()
        loss = loss + sum(parts.penalty).astype(loss.dtype)
        with keras.StatelessScope(zip(self.metrics_variables, metrics_variables, strict=True)) as scope:
            model._report(parts.penalty, keras.tree.flatten(x)[0].shape[0])
        metrics_variables = [scope.get_current_value(variable) for variable in self.metrics_variables]
        with keras.StatelessScope(zip(self.optimizer.variables, optimizer_variables, strict=True)):
            scaled = self.optimizer.scale_loss(loss)
        return scaled, (loss, parts.outputs, changed, metrics_variables)

    def _stateful(self, trainable_variables: Any, state: Any) -> Stateful:
        """The model as a pure function of its variables, which also collects the losses of its layers."""

        def called(x: Any, state: Any) -> Any:
            outputs, changed, losses = self.stateless_call(
                trainable_variables, state[0], x, return_losses=True, training=True
            )
            return outputs, (changed, losses)

        return Stateful(called, (state, []))

    @wraps(keras.Model.fit)
    def fit(self, *args: Any, **keywords: Any) -> Any:
        """As in Keras; if the first step is refused, restore the variables' values, which Keras has taken out."""
        values = [(variable, variable._value) for variable in self._all_variables()]
        try:
            return super().fit(*args, **keywords)
        except Exception:
            for variable, value in values:
                if variable._value is None and value is not None and not value.is_deleted():
                    variable._value = value
            raise

    def _all_variables(self) -> list[Any]:
        optimizer = getattr(self, "optimizer", None)
        return [*self.variables, *self.metrics_variables, *(optimizer.variables if optimizer is not None else ())]

    def train_step(self, state: Any, data: Any) -> Any:
        """One update. Returns the metrics that `fit` reports, and the variables."""
        logs, state = super().train_step(state, data)
        with keras.StatelessScope(zip(self.metrics_variables, state[3], strict=True)):
            penalties = self._penalty_logs()  # type: ignore[attr-defined]
        return {**logs, **penalties}, state

    def _permitted_jit(self, asked: Any) -> Any:
        return asked
