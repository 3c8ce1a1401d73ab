"""The callback of Keras and its fit for the search, on each of Keras' backends, each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradreg_core
from gradreg_core import DataGrad, SpectReg
from gradreg_core.errors import InputError

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

from gradreg_monitor import Monitor  # noqa: E402
from gradreg_monitor.keras import MonitorCallback, keras_fit  # noqa: E402
from instruments.monitor import keras_fit as fits  # noqa: E402

SCRIPT = Path(fits.__file__ or "")


def elsewhere(backend: str) -> dict[str, Any]:
    """The report of another process."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def by_hand(model: Any) -> dict[str, float]:
    """The first record, in TensorFlow."""
    x, weights = tf.constant(fits.X), model.trainable_variables
    with tf.GradientTape(persistent=True) as outer:
        with tf.GradientTape() as tape:
            tape.watch(x)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(fits.Y, model(x))
        slope = tape.gradient(losses, x)
        penalty = fits.WEIGHT * tf.reduce_mean(tf.reduce_sum(slope**2, 1))
        loss = tf.reduce_mean(losses)
    zero = tf.UnconnectedGradients.ZERO
    p, m = (
        np.concatenate([np.ravel(g) for g in outer.gradient(value, weights, unconnected_gradients=zero)])
        for value in (penalty, loss)
    )
    return {
        "loss": float(loss),
        "penalty": float(penalty),
        "gradient/share": float(np.linalg.norm(p) / np.linalg.norm(p + m)),
        "gradient/cosine": float(p @ (p + m) / np.linalg.norm(p) / np.linalg.norm(p + m)),
    }


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_a_fit_is_watched_and_goes_as_without(backend: str) -> None:
    result = fits.report() if backend == keras.backend.backend() else elsewhere(backend)
    assert result["same"]
    assert result["backend"] == backend
    first, *others = result["records"]
    assert [first["step"], *(record["step"] for record in others)] == [0, 3, 6]
    # The initial weights are Keras' own in every backend; float32, some ten operations deep.
    if backend == "tensorflow":
        wanted = by_hand(fits.make())
        assert {name: first[name] for name in wanted} == pytest.approx(wanted, rel=1e-5)
    assert 0 < first["gradient/share"] < 10


def test_several_batches_at_a_time_are_counted() -> None:
    monitor = Monitor(fits.X, fits.Y, every=3, jacobian=False, gradients=False)
    fits.fitted(MonitorCallback(monitor), steps=2)
    assert [record["step"] for record in monitor.records] == [0, 4, 6]  # the first chance after 3 is 4


def test_losses_of_several_outputs_are_refused() -> None:
    model = fits.make()
    model.loss = {"first": "mse", "second": "mse"}
    callback = MonitorCallback(Monitor(fits.X, fits.Y))
    callback.set_model(model)
    with pytest.raises(InputError, match="MonitorCallback: expected a model compiled with one loss"):
        callback.on_train_begin()


@pytest.mark.slow
def test_a_fit_for_the_search() -> None:
    regs: list[Any] = []

    def make(reg: Any) -> Any:
        regs.append(reg)
        model = fits.make()
        model.compile("sgd", model.loss, metrics=["accuracy"])
        return model

    fit = keras_fit(make, lambda seed: ((fits.X[seed:], fits.Y[seed:]), (fits.X, fits.Y)), batch_size=5)
    result = gradreg_core.search(fit, SpectReg(0.01), trainings=2, validation_size=10, progress=False)
    assert regs == [None, SpectReg(0.01)]
    assert 0 <= result.none.score <= 1
    assert result.none.norm
    assert result.none.norm > 0
    loss = keras_fit(make, ((fits.X, fits.Y), (fits.X, fits.Y)), metric="-loss", norm_samples=0)(None, 0)
    assert loss[0] < 0
    assert loss[1] is None
    with pytest.raises(InputError, match=r"expected a validation metric 'val_acc', .* reports 'accuracy', 'loss'"):
        keras_fit(make, ((fits.X, fits.Y), (fits.X, fits.Y)), metric="val_acc")(None, 0)
    with pytest.raises(InputError, match="keras_fit: data must be a pair"):
        keras_fit(make, (fits.X, fits.Y, fits.X))(DataGrad(1.0), 0)
