"""Which models a task may name."""

import pytest

from gradreg_bench.task import Task
from gradreg_bench.variants import Variant
from gradreg_bench.worker import load
from gradreg_core.errors import InputError
from gradreg_core.presets import SpectReg

FACTORIES = """
def wrong():
    return 3

def needs(width):
    return None
"""


BATCHES = """
import numpy as np

x, y = np.ones((4, 8)), np.array([0, 1, 2, 0])

def torch():
    import torch
    return torch.nn.Linear(8, 3), x, y

def jax():
    return (lambda w, x: x @ w, np.ones((8, 3), "float32")), x, y

def tensorflow():
    import keras
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)]), x, y
"""


@pytest.mark.parametrize("framework", ["torch", "jax", "tensorflow"])
def test_a_batch_of_numpy_arrays_is_turned_into_the_frameworks(framework, tmp_path, monkeypatch):
    (tmp_path / "batches_of_bench.py").write_text(BATCHES)
    monkeypatch.syspath_prepend(str(tmp_path))
    steps = load(Task(framework, f"batches_of_bench:{framework}", 0, (1,), (), 1, 1))
    assert steps.outputs == 3
    assert "float32" in str(steps.x.dtype)
    assert "int" in str(steps.y.dtype)
    steps.step(Variant("SpectReg", SpectReg(0.01), None))(0)


@pytest.mark.parametrize(
    ("framework", "model", "message"),
    [
        ("torch", "factories_of_bench:wrong", r"expected \(model, x, y\), got int"),
        ("torch", "factories_of_bench:needs", "expected a function without arguments"),
        ("torch-fast", "mlp", "torch has the modes eager, compile, got 'fast'"),
        ("jax", "jax.numpy:pi", "expected a function without arguments, got 3.14"),
    ],
)
def test_errors_say_what_was_expected(framework, model, message, tmp_path, monkeypatch):
    (tmp_path / "factories_of_bench.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=message):
        load(Task(framework, model, 2, (1,), (), 1, 1))
