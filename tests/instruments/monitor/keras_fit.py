"""Fits a Keras model with a monitor and without, and prints what came out, as JSON: run with KERAS_BACKEND set."""

import json
from typing import Any

import keras
import numpy as np

from gradreg_core import DataGrad
from gradreg_monitor import Monitor
from gradreg_monitor.keras import MonitorCallback

X = np.random.default_rng(0).normal(size=(10, 5)).astype("float32")
Y = np.arange(10) % 2
WEIGHT = 2.0


def make() -> Any:
    """A model with statistics, masks and a generator of its own."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    hidden = [layers.Dense(4, "tanh"), layers.BatchNormalization(), layers.Dropout(0.5, seed=3), layers.Dense(2)]
    model = keras.Sequential([layers.Input((5,)), *hidden])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def fitted(*callbacks: Any, steps: int = 1) -> list[Any]:
    """All variables after three epochs of two batches."""
    model = make()
    model.steps_per_execution = steps
    model.fit(X, Y, batch_size=5, epochs=3, shuffle=False, verbose=0, callbacks=list(callbacks))
    return list(model.get_weights())


def report() -> dict[str, Any]:
    """Whether the monitor changed the fit, and its records."""
    monitor = Monitor(X, Y, DataGrad(WEIGHT), every=3, jacobian=False)
    pairs = zip(fitted(), fitted(MonitorCallback(monitor)), strict=True)
    same = all(np.array_equal(one, other) for one, other in pairs)
    return {"same": same, "records": monitor.records, "backend": monitor.backend}


if __name__ == "__main__":
    print(json.dumps(report()))
