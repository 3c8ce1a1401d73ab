"""JAX against the NumPy reference."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradreg_jax as gradreg
import gradreg_numpy
from cases import FLOAT64, GENERAL, NETWORKS, PRESETS, named, perturbation, problem, relative
from gradreg_core.presets import (
    ConfidencePenalty,
    DataGrad,
    InputFisher,
    JacReg,
    SpectralNormReg,
    SpectReg,
)
from gradreg_core.spec import JacobianPenalty, Regularizer, Sum
from gradreg_jax.networks import apply
from jax_cases import STEP, compiled, gradients, oracle, split, total

FEW = Sum((DataGrad(2.0), SpectReg(0.3, seed=7), JacReg(0.5)))
PARTS = [reg for reg in GENERAL if getattr(reg.terms[0], "fraction", 1) < 1]
ALL = sum(PRESETS + [reg for reg in GENERAL if reg not in PARTS])
CRITICS = sum([*PRESETS[8:12], InputFisher(0.5), ConfidencePenalty(0.2)], FEW)
CASES = [("dense", ALL), *(("dense", reg) for reg in PARTS), ("critic", CRITICS)]
CASES += [(name, FEW if name == "conv" else Sum(FEW.terms[:2])) for name in NETWORKS if name != "dense"]


@pytest.mark.slow
@pytest.mark.sample(5)
@pytest.mark.parametrize(
    ("name", "reg"), [pytest.param(name, reg, id=f"{name}-{len(reg.terms)}") for name, reg in CASES]
)
def test_compiled_with_a_traced_step_equals_the_reference(x64: None, name: str, reg: Regularizer) -> None:
    model, x, y = problem(name)
    wanted_value, wanted = oracle(model, x, y, reg)
    value, penalties, ours = gradients(model, x, y, reg)
    np.testing.assert_allclose(penalties, gradreg_numpy.penalty_terms(model, x, y, reg, step=STEP), rtol=FLOAT64)
    assert abs(value - wanted_value) <= FLOAT64 * abs(wanted_value)
    assert relative(ours, wanted) <= FLOAT64


@pytest.mark.slow
def test_eager_equals_the_reference(x64: None) -> None:
    model, x, y = problem("dense")
    reg = SpectReg(0.3, seed=7)
    wanted_value, wanted = oracle(model, x, y, reg)
    value, _, ours = gradients(model, x, y, reg, transform=lambda call: call)
    assert abs(value - wanted_value) <= FLOAT64 * abs(wanted_value)
    assert relative(ours, wanted) <= FLOAT64


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reg"),
    [("dense", DataGrad(2.0)), ("dense", SpectralNormReg(0.4, iterations=3)), ("relu", JacReg(0.5))],
)
def test_float32_is_as_good_as_its_inputs(name: str, reg: Regularizer) -> None:
    model, x, y = problem(name)
    model = gradreg_numpy.Model(model.network, {path: np.float64(np.float32(v)) for path, v in model.params.items()})
    x = np.float64(np.float32(x))
    wanted_value, wanted = oracle(model, x, y, reg)
    moved = perturbation(lambda m, at: gradreg_numpy.gradient(m, at, y, reg, step=STEP, of="total")[0], model, x)
    value, _, ours = gradients(model, x, y, reg)
    ours.pop("x")
    wanted.pop("x")
    # A right computation rounds at each of some ten layers as much as its inputs do once; wrong ones are off by 1e4 P.
    assert relative(ours, wanted) <= 8 * moved
    assert abs(value - wanted_value) <= 8 * 2.0**-24 * abs(wanted_value) * 10


def test_third_derivatives_exist(x64: None) -> None:
    model, x, y = problem("dense")
    weights = split(model)[0]

    def slope(x: Any) -> Any:
        return jax.grad(lambda w: total(w, x, y, STEP, model, DataGrad(1.0))[0])(weights)["0.weight"].sum()

    slope = jax.jit(slope)
    third = compiled(jax.grad(slope))(jnp.asarray(x))
    h, v = 1e-6, np.random.default_rng(0).normal(size=x.shape)
    difference = (slope(jnp.asarray(x + h * v)) - slope(jnp.asarray(x - h * v))) / (2 * h)
    # Central differences: truncation h^2 = 1e-12, roundoff 1e-16 / h = 1e-10, times a few orders of derivative size.
    assert float((third * v).sum()) == pytest.approx(float(difference), rel=1e-6)


@pytest.mark.parametrize("reg", named([DataGrad(1.0), SpectReg(0.3), JacReg(0.5), SpectralNormReg(0.4)]))
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_models_keep_the_penalty_in_float32(reg: Regularizer, dtype: Any) -> None:
    model, x, y = problem("dense")
    half = {path: jnp.asarray(value, dtype) for path, value in model.params.items()}
    network = lambda x: apply(model.network, half, x)  # noqa: E731
    value, parts = compiled(lambda x: gradreg.loss(network, x, y, reg))(jnp.asarray(x, dtype))
    assert value.dtype == jnp.float32
    assert parts.outputs.dtype == dtype
    wanted = gradreg_numpy.penalty(model, x, y, reg)
    assert float(parts.penalty[0]) == pytest.approx(wanted, rel=0.1)  # ten roundings of 2^-8 in each of two passes


def test_measures_equal_the_reference(x64: None) -> None:
    model, x, y = problem("dense")
    weights = split(model)[0]
    network = lambda x: apply(model.network, weights, x)  # noqa: E731
    exact = compiled(lambda x: gradreg.measure(network, x, y))(x)
    wanted = gradreg_numpy.measure(model, x, y)
    for mine, reference in zip(exact, wanted, strict=True):
        np.testing.assert_allclose(mine, reference, rtol=1e-12)  # roundoff of sums of some tens of squares
    estimated = compiled(lambda x: gradreg.measure(network, x, projections=4))(x)
    # m orthonormal directions are a basis; 30 power iterations leave (s2/s1)^60.
    np.testing.assert_allclose(estimated.frobenius, wanted.frobenius, rtol=1e-12)
    np.testing.assert_allclose(estimated.spectral, wanted.spectral, rtol=1e-6)


def test_a_penalty_on_a_given_direction_and_weighted_samples(x64: None) -> None:
    model, x, y = problem("dense")
    weights = split(model)[0]
    v = np.random.default_rng(0).normal(size=(2, 4, 4))
    options = {"directions": v, "sample_weight": np.array([1.0, 0.0, 2.0, 0.5]), "normalizer": 7.0}
    reg = JacobianPenalty(1.0, projection=gradreg.direction())
    value = gradreg.penalty(lambda x: apply(model.network, weights, x), jnp.asarray(x), None, reg, **options)
    assert float(value) == pytest.approx(float(gradreg_numpy.penalty(model, x, y, reg, **options)), rel=FLOAT64)
