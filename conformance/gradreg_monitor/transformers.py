"""A monitor for a Trainer of Hugging Face's transformers."""

from typing import Any

from transformers import TrainerCallback

from gradreg_monitor.monitor import Monitor

__all__ = ["MonitorCallback"]


class MonitorCallback(TrainerCallback):
    """Calls a monitor while a model is trained: before the first step, and after every n-th.

    ::

        monitor = Monitor(Inputs(**tokens), labels, reg, at="embeddings", outputs="logits", every=100)
        Trainer(..., callbacks=[MonitorCallback(monitor)])

    If several processes train, all of them record, and one of them writes.

    Args:
        monitor: see :class:`gradreg_monitor.Monitor`. Its `every` counts steps of the optimizer, as
            ``state.global_step`` does. Its batch is moved to the model's device.
    """

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Move the batch, and record the model before training."""
        self.monitor.move(lambda array: array.to(args.device))
        self.on_step_end(args, state, control, model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Record if the step is divisible by `every`."""
        self.monitor.is_writing = state.is_world_process_zero
        self.monitor(model, state.global_step)
