"""A monitor for Keras' ``model.fit``, and the search for a weight over such fits, on all of Keras' backends."""

import gc
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from gradreg_core.errors import InputError
from gradreg_core.plugins.dispatch import load_backend
from gradreg_core.spec import Regularizer
from gradreg_monitor.monitor import Monitor
from gradreg_monitor.scores import chosen_score, parts_of

__all__ = ["MonitorCallback", "keras_fit"]


class MonitorCallback(keras.callbacks.Callback):
    """Calls a monitor while a model is fitted: before the first batch, and after every n-th.

    ::

        monitor = Monitor(x_valid, y_valid, reg, every=100)       # arrays of NumPy or of the framework
        model.fit(x, y, callbacks=[MonitorCallback(monitor)])

    The batch is converted to the framework that Keras runs on. The loss is the model's compiled one, unless the monitor
    has a `loss_fn`. A step is a batch; after a restart the count continues from ``optimizer.iterations``.

    Args:
        monitor: see :class:`gradreg_monitor.Monitor`. Its `every` counts batches.

    Raises:
        InputError: when training starts, if the model has several losses and the monitor no `loss_fn`.
    """

    def __init__(self, monitor: Monitor) -> None:
        super().__init__()
        self.monitor = monitor
        self._start = self._done = 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Convert the batch, and record the model before training."""
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
        """Record if a step divisible by `every` has passed."""
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
            f"MonitorCallback: expected a model compiled with one loss, got loss={loss!r}. Give the monitor "
            f"loss_fn=, a function of (outputs, y) that returns one loss per sample, and outputs= if the model "
            f"returns several."
        )
    return keras.losses.get(loss)


def keras_fit(
    make: Callable[[Regularizer | None], Any],
    data: Any,
    *,
    epochs: int = 1,
    batch_size: int = 32,
    metric: str = "accuracy",
    norm_samples: int = 200,
) -> Callable[[Regularizer | None, int], tuple[float, float | None]]:
    """Make the function that :func:`gradreg_core.search` calls from a function that makes a Keras model.

    ::

        fit = keras_fit(make, ((x, y), (x_valid, y_valid)), epochs=10)
        result = gradreg_core.search(fit, SpectReg(0.01), validation_size=len(y_valid))

    Args:
        make: ``make(reg)`` -> a compiled model, without a regularizer if `reg` is None.
        data: (train, validation), each a pair (x, y) of arrays; or a function seed -> such a pair, for
            cross-validation.
        epochs: the number of epochs per training.
        batch_size: the batch size of training.
        metric: of ``model.evaluate`` on the validation data, by name; prefixed by a minus if lower is better, such
            as ``"-loss"``.
        norm_samples: the number of validation samples for the Jacobian's mean norm, if the inputs are one array of
            floats; 0 for no norm.

    Returns:
        fit(reg, seed) -> (score, norm). The seed is passed to ``keras.utils.set_random_seed``.

    Raises:
        InputError: when it is called: the model has no such metric, or `data` has a different form.
    """

    def fit(reg: Regularizer | None, seed: int) -> tuple[float, float | None]:
        (x, y), (x_valid, y_valid) = parts_of("keras_fit", data, seed)
        keras.utils.set_random_seed(seed)
        model = make(reg)
        model.fit(x, y, epochs=epochs, batch_size=batch_size, verbose=0)
        logs = model.evaluate(x_valid, y_valid, batch_size=batch_size, verbose=0, return_dict=True)
        score = chosen_score("keras_fit", metric, logs)
        norm = _norm(model, x_valid, norm_samples)
        del model
        gc.collect()  # a model refers to itself, and a search creates many
        return score, norm

    return fit


def _norm(model: Any, x: Any, count: int) -> float | None:
    """The mean norm of the Jacobian on the first samples; None if the inputs are not one array of floats."""
    if not count or isinstance(x, dict | list | tuple) or "float" not in str(getattr(x, "dtype", "")):
        return None
    points = keras.ops.convert_to_tensor(x[:count])
    measures = load_backend(keras.config.backend()).measure(model, points, batch_norm="allow")
    return float(np.mean(keras.ops.convert_to_numpy(measures.frobenius)))
