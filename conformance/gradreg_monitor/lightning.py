"""A monitor in a Trainer of Lightning."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from gradreg_monitor.monitor import Monitor

__all__ = ["MonitorCallback"]


class MonitorCallback(Callback):
    """Calls a monitor while a LightningModule is trained: before the first step, and after every n-th.

    ::

        monitor = Monitor(x_valid, y_valid, reg, every=100)
        Trainer(callbacks=[MonitorCallback(monitor)])

    The model is the LightningModule itself: its `forward` returns the outputs. Values go to the trainer's loggers too.
    Where several processes train all of them record, since the parameters may be split, and one of them writes.

    Args:
        monitor: see :class:`gradreg_monitor.Monitor`. Its `every` counts steps of the optimizer, as
            ``trainer.global_step`` does. Its batch is moved to the module's device.
        prefix: in front of the names in the loggers.
    """

    def __init__(self, monitor: Monitor, *, prefix: str = "gradreg/") -> None:
        self.monitor, self.prefix = monitor, prefix
        self._last: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move the batch, and record the model as it is."""
        self.monitor.move(lambda array: array.to(pl_module.device))
        self._last = None
        self._record(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record, if the optimizer has stepped and the step is divisible by `every`."""
        self._record(trainer, pl_module)

    def _record(self, trainer: Trainer, module: LightningModule) -> None:
        step = trainer.global_step
        if step == self._last:  # gradients are being accumulated
            return
        self._last = step
        self.monitor.is_writing = trainer.is_global_zero
        values = self.monitor(module, step)
        if values is not None:
            for logger in trainer.loggers:
                logger.log_metrics({f"{self.prefix}{name}": value for name, value in values.items()}, step)
