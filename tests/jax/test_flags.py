"""Everything that gradreg computes itself passes under JAX's strict settings."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradreg_jax as gradreg
from gradreg_core.presets import (
    R1,
    ConfidencePenalty,
    DataGrad,
    FrobReg,
    GradientPenalty,
    JacReg,
    OneHot,
    RandomOneHot,
    SpectralNormReg,
    SpectReg,
    WeightDecay,
)
from gradreg_core.projections import fisher, gaussian, orthonormal, top_k
from gradreg_core.spec import JacobianPenalty, Sum
from gradreg_jax.versions import enable_x64

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(6, 5)).astype(np.float32), np.array([0, 1, 2, 0, 1, 2], np.int32)
A, B = (jnp.asarray(RNG.normal(size=shape), jnp.float32) for shape in ((5, 4), (4, 3)))
SETTINGS = {
    "rank": lambda: jax.numpy_rank_promotion("raise"),
    "dtype": lambda: jax.numpy_dtype_promotion("strict"),
    "leaks": lambda: jax.checking_leaks(),
    "nans": lambda: jax.debug_nans(True),
    "x64": lambda: enable_x64(True),
}


def model(x: Any) -> Any:
    return gradreg.tap("hidden", jnp.tanh(x @ A)) @ B


def sequence(x: Any) -> Any:
    return jnp.tanh(jnp.stack([x @ A @ B, -x @ A @ B], 1))


FEW = Sum(
    (
        DataGrad(1.0),
        SpectReg(1.0, seed=2**40),
        JacReg(1.0),
        OneHot(1.0),
        RandomOneHot(1.0),
        SpectralNormReg(1.0, iterations=2),
        GradientPenalty(1.0, one_sided=True),
        ConfidencePenalty(1.0),
        WeightDecay(1.0),
        SpectReg(1.0, every=2),
        SpectReg(1.0, fraction=0.5),
        SpectReg(1.0, side="input"),
        SpectReg(1.0, side="input", method="difference"),
        FrobReg(1.0, at="hidden"),
        FrobReg(1.0, of="hidden"),
        JacobianPenalty(1.0, projection=gaussian(2), norm="l1", squared=False),
        JacobianPenalty(1.0, projection=orthonormal(2), norm="linf"),
        JacobianPenalty(1.0, projection=top_k(2), output="log_probabilities"),
        JacobianPenalty(1.0, projection=fisher(), draw="per_batch"),
    )
)


@pytest.fixture
def strict(request: pytest.FixtureRequest) -> Iterator[None]:
    with ExitStack() as stack:
        for name in getattr(request, "param", ("rank", "dtype")):
            stack.enter_context(SETTINGS[name]())
        yield


def total(weights: Any, step: Any, y: Any = Y, **options: Any) -> Any:
    def network(x: Any) -> Any:
        return gradreg.tap("hidden", jnp.tanh(x @ weights[0])) @ weights[1]

    return gradreg.loss(network, X, y, FEW, step=step, params=weights, **options)[0]


@pytest.mark.parametrize(
    "strict", [("rank", "dtype"), ("leaks",), ("x64", "rank", "dtype")], ids="-".join, indirect=True
)
def test_a_traced_step(strict: None) -> None:
    value, slopes = jax.eval_shape(jax.value_and_grad(total), [A, B], jnp.int32(2))
    assert value.shape == ()
    assert [slope.shape for slope in slopes] == [A.shape, B.shape]


@pytest.mark.slow
@pytest.mark.parametrize("strict", [("rank", "dtype"), ("nans",)], ids="-".join, indirect=True)
def test_in_eager_mode(strict: None) -> None:
    options = {"sample_weight": np.ones(6, np.float32), "sample_ids": np.arange(6, dtype=np.int32)}
    reg = DataGrad(1.0) + GradientPenalty(1.0, one_sided=True) + FrobReg(1.0, at="hidden") + FEW.terms[-2]
    assert np.isfinite(gradreg.loss(model, X, Y, reg, **options)[0])
    single = gradreg.loss(lambda x: x @ A[:, :1], X, np.minimum(Y, 1), R1(1.0) + DataGrad(1.0))[0]
    assert np.isfinite(single)


@pytest.mark.slow
def test_positions(strict: None) -> None:
    labels = np.stack([Y, np.full(6, -100, np.int32)], 1)
    reg = DataGrad(1.0) + SpectReg(1.0) + JacReg(1.0)
    value, _ = gradreg.loss(sequence, X, labels, reg, class_axis=-1, ignore_index=-100)
    weight = np.array([[1.0, 0.0]] * 6, np.float32)
    wanted, _ = gradreg.loss(sequence, X, np.maximum(labels, 0), reg, class_axis=-1, position_weight=weight)
    assert float(value) == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.slow
def test_measure_and_check(strict: None) -> None:
    exact, estimate = gradreg.measure(model, X, Y), gradreg.measure(model, X, Y, projections=3)
    np.testing.assert_allclose(exact.frobenius, estimate.frobenius, rtol=1e-5)
    report = gradreg.check(model, X, Y, DataGrad(1.0))
    assert report.ok, report
