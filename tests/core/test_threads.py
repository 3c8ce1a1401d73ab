"""Eight threads on one model with `at=`: each gets the penalty of its own batch, and nobody sees another's pass."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import flax.nnx as nnx
import jax
import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

import gradreg_jax
import gradreg_tensorflow
import gradreg_torch
from gradreg_core.presets import FrobReg, SpectReg
from gradreg_core.spec import Regularizer

THREADS, ROUNDS = 8, 6
BATCHES = np.random.default_rng(0).normal(size=(THREADS, 4, 5)).astype(np.float32)
Y = np.arange(4) % 3


class TorchModel(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Linear(5, 6), torch.nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))


class NnxModel(nnx.Module):
    def __init__(self) -> None:
        self.first, self.second = nnx.Linear(5, 6, rngs=nnx.Rngs(0)), nnx.Linear(6, 3, rngs=nnx.Rngs(1))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.second(jax.numpy.tanh(self.first(x)))


def keras_model() -> Any:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(6, "tanh", name="first"), keras.layers.Dense(3, name="second")]
    return keras.Sequential([keras.layers.Input((5,)), *layers])


FRAMEWORKS: dict[str, tuple[Any, Callable[[], Any], Callable[[Any], Any]]] = {
    "torch": (gradreg_torch, TorchModel, torch.from_numpy),
    "jax": (gradreg_jax, NnxModel, jax.numpy.asarray),
    "tensorflow": (gradreg_tensorflow, keras_model, tf.constant),
}
"""The calls, a model with modules `first` and `second`, and how an array is made."""
PLACES: list[Regularizer | None] = [
    FrobReg(1.0, at="first"),
    SpectReg(1.0, at="second") + SpectReg(1.0),
    FrobReg(1.0, of="first"),
    None,
]
"""One per thread, in turn; None is an evaluation: the model is called without gradreg."""


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_eight_threads_on_one_model(framework: str) -> None:
    calls, make, array = FRAMEWORKS[framework]
    model = make()

    def result(number: int) -> np.ndarray:
        x, reg = array(BATCHES[number]), PLACES[number % len(PLACES)]
        if reg is None:
            return np.asarray(model(x).detach() if framework == "torch" else model(x))
        total, _ = calls.loss(model, x, array(Y), reg)
        return np.asarray(total.detach() if framework == "torch" else total)

    alone = [result(number) for number in range(THREADS)]
    together = Barrier(THREADS)

    def results(number: int) -> list[np.ndarray]:
        together.wait()
        return [result(number) for _ in range(ROUNDS)]

    with ThreadPoolExecutor(THREADS) as pool:
        for number, values in enumerate(pool.map(results, range(THREADS))):
            for value in values:
                np.testing.assert_array_equal(value, alone[number])
