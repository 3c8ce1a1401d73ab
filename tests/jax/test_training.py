"""Training runs in JAX against the same runs written out in NumPy."""

import sys
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import gradreg_numpy
from cases import relative
from gradreg_core.errors import BackendImportError
from gradreg_core.portable.networks import Activation, BatchNorm, Dense, Dropout, Network
from gradreg_core.presets import DataGrad, SpectReg, WeightDecay
from gradreg_core.training import Plan, Trained
from gradreg_jax import training

NETWORK = Network((4,), (Dense(5), BatchNorm(), Activation("tanh"), Dropout(), Dense(3)))
STEPS, BATCH = 5, 4
REG = DataGrad(0.5, every=2) + SpectReg(lambda step: 0.1 * (1 + step)) + WeightDecay(0.01)


def masks(step: int) -> dict[str, Any]:
    return {"3": 2.0 * np.random.default_rng(step).integers(0, 2, (BATCH, 5))}


def plan(dtype: str, **changes: Any) -> Plan:
    rng = np.random.default_rng(0)
    params = gradreg_numpy.initialize(NETWORK, 1)
    chosen = {
        "network": NETWORK,
        "params": params | {"1.mean": rng.normal(size=5), "1.variance": rng.uniform(0.5, 2, 5)},
        "x": rng.normal(size=(12, 4)),
        "y": rng.integers(0, 3, 12),
        "batches": rng.integers(0, 12, (STEPS, BATCH)),
        "reg": REG,
        "learning_rate": lambda step: 0.05 / (1 + step),
        "masks": masks,
        "dtype": dtype,
    }
    return Plan(**(chosen | changes))


def reference(plan: Plan) -> Trained:
    """Adam with gradients by complex step."""
    params, losses = dict(plan.params), []
    moments = {path: (np.zeros(shape), np.zeros(shape)) for path, shape in plan.network.weights().items()}
    for step, batch in enumerate(plan.batches):
        model = gradreg_numpy.Model(plan.network, params, plan.masks(step) if plan.masks else None)
        x, y = plan.x[batch], plan.y[batch]
        losses.append(float(gradreg_numpy.loss(model, x, y, plan.reg, step=step)[0]))
        slopes, _ = gradreg_numpy.gradient(model, x, y, plan.reg, step=step, of="total")
        for path, slope in slopes.items():
            first, second = moments[path]
            first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
            moments[path] = first, second
            unbiased = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
            params[path] = params[path] - plan.learning_rate(step) * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
    return Trained(params, np.array(losses))


def test_training_in_float64_equals_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_CHUNK", 3)  # of five steps: a whole chunk and a part of one
    found, wanted = training.train(plan("float64")), reference(plan("float64"))
    # Adam divides by the root of the second moment: where a gradient is small, roundoff grows by 1 / its size.
    assert relative(found.params, wanted.params) < 1e-10
    np.testing.assert_allclose(found.losses, wanted.losses, rtol=1e-10)
    assert found.losses.dtype == np.float64
    assert all(value.dtype == np.float64 for value in found.params.values())
    np.testing.assert_array_equal(found.params["1.mean"], plan("float64").params["1.mean"])
    assert jnp.zeros(1).dtype == jnp.float32


def test_training_in_float32_without_regularizer_or_masks() -> None:
    found = training.train(plan("float32", reg=None, masks=None))
    wanted = reference(plan("float32", reg=DataGrad(0.0), masks=None))
    assert relative(found.params, wanted.params) < 1e-4  # float32, and Adam's division as above
    assert all(value.dtype == np.float32 for value in found.params.values())


def test_without_optax_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optax", None)
    with pytest.raises(BackendImportError, match="pip install optax"):
        training.train(plan("float32"))
