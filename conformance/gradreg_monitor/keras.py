"""A monitor in ``model.fit`` of Keras, on each of its backends."""

from typing import Any

import keras

from gradreg_core.errors import InputError
from gradreg_monitor.monitor import Monitor

__all__ = ["MonitorCallback"]


class MonitorCallback(keras.callbacks.Callback):
    """Calls a monitor while a model is fitted: before the first batch, and after every n-th.

    ::

        monitor = Monitor(x_valid, y_valid, reg, every=100)       # arrays of NumPy or of the framework
        model.fit(x, y, callbacks=[MonitorCallback(monitor)])

    The batch is converted to the framework that Keras runs on. The loss is the model's compiled one, unless the monitor
    has a `loss_fn`. A step is a batch; after a restart the count goes on from ``optimizer.iterations``.

    Args:
        monitor: see :class:`gradreg_monitor.Monitor`. Its `every` counts batches.

    Raises:
        InputError: when training begins, if the model has several losses and the monitor no `loss_fn`.
    """

    def __init__(self, monitor: Monitor) -> None:
        super().__init__()
        self.monitor = monitor
        self._start = self._done = 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Convert the batch, and record the model as it is."""
        model, monitor = self.model, self.monitor
        monitor.move(keras.ops.convert_to_tensor, keras.config.backend())
        if monitor.y is not None:
            monitor.use_loss(_compiled_loss(model))
        self._start = self._done = int(model.optimizer.iterations)
        if model.built and self._done % monitor.every == 0:
            self._record()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Count the batches of this epoch from here."""
        self._start = self._done

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Record, if a step that is divisible by `every` has passed."""
        before, self._done = self._done, self._start + batch + 1
        if self._done // self.monitor.every > before // self.monitor.every:
            self._record()

    def _record(self) -> None:
        model = self.model
        params = None
        if keras.config.backend() == "jax":
            params = [variable.value for variable in model.trainable_variables]
        self.monitor.record(model, self._done, params=params)


def _compiled_loss(model: Any) -> Any:
    loss = getattr(model, "loss", None)
    if loss is None or isinstance(loss, dict | list | tuple):
        raise InputError(
            f"MonitorCallback: expected a model that is compiled with one loss, got loss={loss!r}. Give the monitor "
            f"loss_fn=, a function of (outputs, y) that returns one loss per sample, and outputs= where the model "
            f"returns several."
        )
    return keras.losses.get(loss)
