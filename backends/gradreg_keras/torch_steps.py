"""The training step where Keras runs on PyTorch."""

import warnings
from functools import partial
from typing import Any

import keras
import torch

from gradreg_core.callers import levels_to_caller
from gradreg_core.errors import BatchNormError, BatchNormWarning, UnsupportedError, batch_norm_message
from gradreg_keras.numbering import numbering

__all__ = ["Steps"]


class Steps(keras.Model):
    """One step of training: the loss and the penalties backward, then the optimizer."""

    def train_step(self, data: Any) -> dict[str, Any]:
        """One update. Returns the metrics that `fit` reports."""
        model: Any = self
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        self._report_batch_norm(model._options.values["batch_norm"])
        self.zero_grad()
        weights = list(self.trainable_weights)
        parts = model._regularized(
            partial(model, training=True),
            x,
            y,
            sample_weight,
            [weight.value for weight in weights],
            step=int(self.optimizer.iterations),
            numbers=numbering(self.optimizer),
        )
        loss = self.compute_loss(x, y, parts.outputs, sample_weight, training=True)
        loss = loss + sum(parts.penalty).to(loss.dtype)
        size = keras.tree.flatten(x)[0].shape[0]
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss.detach(), sample_weight=size)
        model._report([penalty.detach() for penalty in parts.penalty], size)
        self.optimizer.scale_loss(loss).backward()
        with torch.no_grad():
            self.optimizer.apply([weight.value.grad for weight in weights], weights)
        return {**self.compute_metrics(x, y, parts.outputs, sample_weight), **model._penalty_logs()}

    def _report_batch_norm(self, policy: str) -> None:
        """Raise or warn, as `policy` says, if a layer normalises over the batch."""
        if policy == "allow":
            return
        for layer in self._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
                remedy = "GroupNormalization or LayerNormalization, freeze the layer"
                message = batch_norm_message("RegularizedModel", f"{layer.name} (BatchNormalization)", remedy)
                if policy == "error":
                    raise BatchNormError(message)
                warnings.warn(message, BatchNormWarning, stacklevel=levels_to_caller(("gradreg_keras", "keras")))
                return

    def _permitted_jit(self, asked: Any) -> Any:
        if asked is True:
            raise UnsupportedError(
                "RegularizedModel.compile: jit_compile=True does not work on PyTorch, as torch.compile cannot trace "
                "Keras' step with its backward pass. Leave it out."
            )
        return asked
