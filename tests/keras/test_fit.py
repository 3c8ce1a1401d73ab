"""Keras' fit with a regularizer on each backend of Keras, each in a process of its own."""

import functools
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import gradreg_tensorflow
from gradreg_keras import RegularizedModel

SCRIPT = Path(__file__).with_name("scenarios.py")
SCENARIOS = re.findall(r"^@scenario\ndef (\w+)", SCRIPT.read_text(), re.M)
ROOT = Path(__file__).parents[2]


@functools.cache
def outcomes(backend: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Results of the scenarios on a backend; all run in one process."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment |= {"PYTHONPATH": f"{ROOT}:{ROOT / 'backends'}", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(
        [sys.executable, SCRIPT, *names], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        result |= json.loads(line) if line.startswith("{") else {}
    return result


@pytest.fixture
def outcome(backend: str, name: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Of one scenario; the first test of a backend runs those of all its tests."""
    calls = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    names = {params["name"] for params in calls if params.get("backend") == backend and params.get("name") in SCENARIOS}
    return outcomes(backend, tuple(sorted(names)))[name]


@pytest.mark.slow
@pytest.mark.sample(16)
@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_scenario(outcome: dict[str, Any]) -> None:
    assert "error" not in outcome, outcome["error"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masks_follow_the_tensors_that_carry_them"])
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_masks(outcome: dict[str, Any]) -> None:
    assert "error" not in outcome, outcome["error"]


@pytest.mark.parametrize("name", ["first_step_on_digits"])
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_the_first_step_on_digits_is_that_of_double_backward(outcome: dict[str, Any]) -> None:
    value = outcome["value"]
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images[:32] / 16, requires_grad=True)
    w, b, v, c = (torch.tensor(weight, dtype=torch.float64, requires_grad=True) for weight in value["before"])
    z = torch.tanh(x @ w + b) @ v + c
    losses = torch.nn.functional.cross_entropy(z, torch.tensor(labels[:32]), reduction="none")
    (slope,) = torch.autograd.grad(losses.sum(), x, create_graph=True)
    rows = [torch.autograd.grad(z[:, k].sum(), x, create_graph=True)[0] for k in range(10)]
    penalties = [
        5.0 * (slope**2).sum(1).mean(),
        0.1 * sum((row**2).sum(1) for row in rows).mean(),  # type: ignore[union-attr]
        0.01 / 2 * ((w**2).sum() + (v**2).sum()),
    ]
    total = losses.mean() + sum(penalties)
    wanted = torch.autograd.grad(total, [w, b, v, c])
    history = value["history"]
    # Sums of some hundred products of float32, and weights that are rounded after the step.
    assert history["loss"][0] == pytest.approx(float(total.detach()), rel=1e-5)
    names = ("penalty_DataGrad", "penalty_FrobReg", "penalty_WeightDecay")
    for name, penalty in zip(names, penalties, strict=True):
        assert history[name][0] == pytest.approx(float(penalty.detach()), rel=1e-5)
    for step, gradient in zip(value["step"], wanted, strict=True):
        assert np.linalg.norm(np.array(step) - gradient.numpy()) < 1e-5 * np.linalg.norm(gradient.numpy())


def test_every_keyword_has_a_name() -> None:
    """Of the model: those of `loss` that a step does not set itself. Of compile: those of Keras."""
    own = {"model", "x", "y", "reg", "step", "loss_fn", "sample_ids", "sample_weight", "position_weight", "params"}
    names = set(inspect.signature(RegularizedModel).parameters) - {"model", "reg", "name"}
    assert set(inspect.signature(gradreg_tensorflow.loss).parameters) - own == names
    ours = inspect.signature(RegularizedModel.compile).parameters
    assert set(ours) == set(inspect.signature(keras.Model.compile).parameters)


@pytest.mark.slow
def test_a_backend_that_does_not_train_is_refused_by_name(tmp_path: Path) -> None:
    code = "from gradreg_core.errors import UnsupportedError\ntry:\n    from gradreg_keras import RegularizedModel\n"
    code += "except UnsupportedError as error:\n    print(error)"
    environment = {**os.environ, "KERAS_BACKEND": "numpy", "PYTHONPATH": f"{ROOT}:{ROOT / 'backends'}"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert "Keras runs on 'numpy' in this process, which cannot train" in done.stdout, done.stderr
