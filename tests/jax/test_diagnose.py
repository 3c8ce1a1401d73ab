"""Findings of `check` in JAX."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas

import gradreg_jax as gradreg
from cases import named
from gradreg_core.errors import DoubleBackwardError
from gradreg_core.presets import (
    ConfidencePenalty,
    DataGrad,
    SpectReg,
    WeightDecay,
)
from gradreg_core.spec import Regularizer
from jax_cases import loop

W = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3)), jnp.float32)
Y = np.array([0, 1, 2, 0])
POINTS = np.random.default_rng(1).normal(size=(4, 2)).astype(np.float32)


def network(x: Any) -> Any:
    return jnp.tanh(x @ W)


SOUND: list[Regularizer] = [DataGrad(0.1, every=5, fraction=0.5) + WeightDecay(0.1), ConfidencePenalty(1.0)]


@pytest.mark.slow
@pytest.mark.parametrize("reg", named(SOUND))
def test_check_passes_a_sound_model(reg: Regularizer) -> None:
    report = gradreg.check(network, POINTS, Y, reg, params=W, step=1)
    assert report.ok, report
    assert not report.findings


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "level", "problem"),
    [
        (lambda x: network(jax.lax.stop_gradient(x)), "error", "x does not reach the outputs"),
        (lambda x: network(jnp.round(x)), "error", "x does not reach the outputs"),
        (lambda x: network((x - x.mean(0)) / x.std(0)), "warning", "depends on other samples of the batch"),
        (lambda x: network(x) + jnp.linalg.norm(0 * x @ W) + W[0], "error", "gradient is NaN or infinite"),
        (lambda x: network(x) * jnp.nan, "error", "outputs of sample 0 are NaN"),
        (lambda x: network(loop(x)), "error", "no second derivative, or no derivative at all"),
    ],
    ids=["stopped", "rounded", "coupled", "nan", "nan outputs", "loop"],
)  # fmt: skip
def test_check_finds(model: Any, level: str, problem: str) -> None:
    report = gradreg.check(model, POINTS, Y, SpectReg(1.0))
    assert [finding for finding in report.findings if finding.level == level and problem in finding.problem], report
    assert report.ok == (level == "warning")


def square_by_callback(x: Any) -> Any:
    return jax.pure_callback(lambda x: x**2, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def square_by_kernel(x: Any) -> Any:
    def kernel(source: Any, target: Any) -> None:
        target[...] = source[...] ** 2

    return pallas.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype), interpret=True)(x)


@pytest.mark.parametrize("square", [square_by_callback, square_by_kernel])
def test_check_finds_an_operation_without_a_second_derivative(square: Any) -> None:
    @jax.custom_vjp
    def cube(x: Any) -> Any:
        return x**3

    cube.defvjp(lambda x: (x**3, x), lambda x, w: (3 * square(x) * w,))
    report = gradreg.check(lambda x: network(cube(x)), POINTS, Y, SpectReg(1.0))
    assert not report.ok
    with pytest.raises(DoubleBackwardError, match=r"no second derivative.*jax.custom_jvp"):
        report.raise_if_failed()


@pytest.mark.slow
def test_check_takes_a_model_that_looks_at_values() -> None:
    assert gradreg.check(lambda x: network(x) if x[0, 0] > 0 else network(2 * x), POINTS, Y, DataGrad(1.0)).ok


def test_check_finds_a_wrong_second_derivative() -> None:
    @jax.custom_vjp
    def cube(x: Any) -> Any:
        return x**3

    cube.defvjp(lambda x: (x**3, x), lambda x, w: (3 * jax.lax.stop_gradient(x) ** 2 * w,))
    report = gradreg.check(lambda x: network(cube(x)), POINTS, Y, SpectReg(1.0))
    assert "differs from finite differences" in str(report)
