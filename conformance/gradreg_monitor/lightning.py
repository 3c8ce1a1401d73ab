"""A monitor for Lightning's Trainer, and the search for a weight over such trainings."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

from gradreg_core.errors import InputError
from gradreg_core.plugins.dispatch import load_backend
from gradreg_core.spec import Regularizer
from gradreg_monitor.evaluating import undisturbed
from gradreg_monitor.monitor import Monitor
from gradreg_monitor.scores import chosen_score, parts_of

__all__ = ["MonitorCallback", "lightning_fit"]


class MonitorCallback(Callback):
    """Calls a monitor while a LightningModule is trained: before the first step, and after every n-th.

    ::

        monitor = Monitor(x_valid, y_valid, reg, every=100)
        Trainer(callbacks=[MonitorCallback(monitor)])

    The model is the LightningModule itself: its `forward` returns the outputs. The loggers get the values too.
    If several processes train, all record, since the parameters may be split, and one of them writes.

    Args:
        monitor: see :class:`gradreg_monitor.Monitor`. Its `every` counts steps of the optimizer, as
            ``trainer.global_step`` does. Its batch is moved to the module's device.
        prefix: a prefix of the names in the loggers.
    """

    def __init__(self, monitor: Monitor, *, prefix: str = "gradreg/") -> None:
        self.monitor, self.prefix = monitor, prefix
        self._last: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move the batch, and record the model before training."""
        self.monitor.move(lambda array: array.to(pl_module.device))
        self._last = None
        self._record(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record if the optimizer has stepped and the step is divisible by `every`."""
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


def lightning_fit(
    make: Callable[[Regularizer | None], LightningModule],
    data: Any,
    trainer: Callable[[], Trainer],
    *,
    metric: str = "val_acc",
    norm_samples: int = 200,
) -> Callable[[Regularizer | None, int], tuple[float, float | None]]:
    """Make the function that :func:`gradreg_core.search` calls from a LightningModule's maker and a Trainer's.

    ::

        fit = lightning_fit(Classifier, (train_loader, valid_loader), lambda: Trainer(max_epochs=10, logger=False))
        result = gradreg_core.search(fit, SpectReg(0.01), validation_size=len(valid_set))

    Args:
        make: ``make(reg)`` -> a module, without a regularizer if `reg` is None; often simply its class.
        data: (train, validation), each a DataLoader; or a function seed -> such a pair, for cross-validation.
        trainer: a function that makes a Trainer.
        metric: the name of a metric that ``validation_step`` logs; prefixed by a minus if lower is better, such as
            ``"-val_loss"``.
        norm_samples: the number of samples of the first validation batch for the Jacobian's mean norm, if a batch is a
            pair (x, y) with floats x; 0 for no norm.

    Returns:
        fit(reg, seed) -> (score, norm). The seed is passed to ``seed_everything``.

    Raises:
        InputError: when it is called: the module logs no such metric, the training was interrupted, or `data` has
            a different form.
    """

    def fit(reg: Regularizer | None, seed: int) -> tuple[float, float | None]:
        train, validation = parts_of("lightning_fit", data, seed)
        seed_everything(seed, verbose=False)
        module, run = make(reg), trainer()
        run.fit(module, train, validation)
        if run.interrupted:
            raise InputError("lightning_fit: the training was interrupted. Start the search again.")
        run.validate(module, validation, verbose=False)
        score = chosen_score("lightning_fit", metric, run.callback_metrics)
        return score, _norm(module, validation, norm_samples)

    return fit


def _norm(module: LightningModule, validation: Any, count: int) -> float | None:
    """The mean norm of the Jacobian on the first samples; None if a batch is not a pair with floats first."""
    batch = next(iter(validation)) if count else None
    x = batch[0] if isinstance(batch, tuple | list) and len(batch) == 2 else None
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        return None
    with undisturbed(module, evaluation=True):
        measures = load_backend("torch").measure(module, x[:count].to(module.device), batch_norm="allow")
    return float(measures.frobenius.mean())
