"""The training step for Keras on PyTorch."""

from functools import partial
from typing import Any

import keras
import torch

from gradreg_core.errors import UnsupportedError
from gradreg_keras.numbering import numbering

__all__ = ["Steps"]


class Steps(keras.Model):
    """The training step: a backward pass of loss and penalties, then the optimizer's update."""

    def train_step(self, data: Any) -> dict[str, Any]:
        """One update. Returns the metrics that `fit` reports."""
        model: Any = self
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
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

    def _permitted_jit(self, asked: Any) -> Any:
        if asked is True:
            raise UnsupportedError(
                "RegularizedModel.compile: jit_compile=True does not work on PyTorch: torch.compile cannot trace "
                "Keras' step with its backward pass. Leave it out."
            )
        return asked
