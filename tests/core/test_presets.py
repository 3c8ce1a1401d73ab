"""The named regularizers have the values of their formulas, on a network whose Jacobian is written out by hand."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import gradreg_jax
import gradreg_torch
from closed_form import B, Hand, M, data_grad, frobenius, length, normals, square
from gradreg_core import presets
from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.norms import hinge, target
from gradreg_core.presets import (
    R1,
    ConfidencePenalty,
    DataGrad,
    FrobReg,
    GradientPenalty,
    HoffmanReg,
    InputFisher,
    JacReg,
    OneHot,
    RandomOneHot,
    SobolevReg,
    SpectralNormReg,
    SpectReg,
    WeightDecay,
)
from gradreg_core.projections import exact, sphere
from gradreg_core.random import STREAM_DIRECTION, make_draws
from gradreg_core.spec import JacobianPenalty, Term
from gradreg_torch.backend import TorchBackend
from gradreg_torch.networks import Module

ROUNDING = 1e-12
"""Relative: sums of some hundred terms in another order, each rounded by 1e-16."""
HAND = Hand()


def softmax_jacobian(n: Hand, i: int) -> np.ndarray:
    return np.diag(n.f[i]) - np.outer(n.f[i], n.f[i])


def picks(kind: str, *arguments: Any) -> np.ndarray:
    """Draws of seed 0 and step 0 for the samples of the batch, as an array."""
    draws = make_draws(TorchBackend(), 0, 0, torch.arange(B, dtype=torch.int32))
    return getattr(draws, kind)(STREAM_DIRECTION, (0,), *arguments).numpy()[0]


def fisher(n: Hand) -> float:
    uniform = picks("uniforms", 1)[:, 0]
    drawn = [int((np.cumsum(n.f[i])[:-1] <= uniform[i]).sum()) for i in n.samples]
    return n.mean(lambda i: square(n.J[i].T @ (n.f[i] - np.eye(M)[drawn[i]])))


def projected(n: Hand, rows: np.ndarray) -> float:
    """mean_i sum_k ||J_i^T w_ik||^2 for rows (k, B, M)."""
    return n.mean(lambda i: square(rows[:, i] @ n.J[i]))


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


TARGET = np.random.default_rng(9).normal(size=(B, *HAND.J[0].shape))
FORMULAS: list[tuple[Term, Callable[[Hand], float]]] = [
    (DataGrad(2.0), lambda n: 2 * data_grad(n)),
    (SpectReg(3.0), lambda n: 3 * projected(n, normals(1))),
    (SpectReg(3.0, projections=2, seed=5), lambda n: 3 * projected(n, normals(2, seed=5)) / 2),
    (SpectReg(3.0, spherical=True), lambda n: 3 * projected(n, unit(normals(1)))),
    (SpectReg(3.0, draw="per_batch"), lambda n: 3 * projected(n, np.repeat(normals(1)[:, :1], B, 1))),
    (FrobReg(0.5), lambda n: 0.5 * frobenius(n)),
    (JacReg(0.5), lambda n: 0.5 * n.mean(lambda i: square(softmax_jacobian(n, i) @ n.J[i]))),
    (HoffmanReg(2.0), lambda n: 2 / 2 * M * projected(n, unit(normals(1)))),
    (HoffmanReg(2.0, projections=2), lambda n: 2 / 2 * M * projected(n, unit(normals(2))) / 2),
    (HoffmanReg(2.0, projections=None), lambda n: 2 / 2 * frobenius(n)),
    (GradientPenalty(10.0), lambda n: 10 * n.mean(lambda i: (length(n.J[i]) - 1) ** 2)),
    (GradientPenalty(1.0, target=9.0), lambda n: n.mean(lambda i: (length(n.J[i]) - 9) ** 2)),
    (
        GradientPenalty(1.0, target=2.0, one_sided=True),
        lambda n: n.mean(lambda i: max(0.0, length(n.J[i]) - 2) ** 2),
    ),
    (R1(4.0), lambda n: 4 / 2 * frobenius(n)),
    (OneHot(1.5), lambda n: 1.5 * n.mean(lambda i: square(n.J[i][n.y[i]]))),
    (RandomOneHot(1.5), lambda n: 1.5 * n.mean(lambda i: square(n.J[i][picks("integers", M)[i]]))),
    (InputFisher(1.5), lambda n: 1.5 * fisher(n)),
    (SpectralNormReg(2.0, iterations=300), lambda n: 2 * n.mean(lambda i: np.linalg.norm(n.J[i], 2) ** 2)),
    (SobolevReg(1.5, projection=exact()), lambda n: 1.5 * n.mean(lambda i: square(n.J[i] - TARGET[i]))),
    (ConfidencePenalty(0.3), lambda n: 0.3 * n.mean(lambda i: float((n.f[i] * np.log(n.f[i])).sum()))),
    (WeightDecay(0.3), lambda n: 0.3 / 2 * (square(n.U) + square(n.V))),
]


def penalty(term: Term, n: Hand, **options: Any) -> float:
    module = Module(n.model.network, n.model.params, torch.float64)
    if isinstance(term, SobolevReg):
        options["target"] = torch.tensor(TARGET)
    return gradreg_torch.penalty(module, torch.tensor(n.x), torch.tensor(n.y), term, **options).item()


@pytest.mark.parametrize(("term", "formula"), [pytest.param(*row, id=repr(row[0])) for row in FORMULAS])
def test_the_value_is_that_of_the_formula(term: Term, formula: Callable[[Hand], float]) -> None:
    # The draws are float32 and enter exactly; the power iteration has (s2/s1)^600 left.
    assert penalty(term, HAND) == pytest.approx(formula(HAND), rel=ROUNDING)


@pytest.mark.parametrize("name", presets.__all__)
def test_every_preset_has_a_formula_here(name: str) -> None:
    elsewhere = {"LayerwiseReg"}  # its places have names: test_layerwise.py
    assert name in elsewhere | {type(term).__name__ for term, _ in FORMULAS}, f"add {name} to FORMULAS"


def test_a_single_logit_counts_as_binary() -> None:
    n = Hand(classes=1)
    f = 1 / (1 + np.exp(-n.z[:, 0]))
    entropy = -np.mean(f * np.log(f) + (1 - f) * np.log(1 - f))
    assert penalty(ConfidencePenalty(1.0), n) == pytest.approx(-entropy, rel=ROUNDING)
    data = np.mean([(f[i] - n.y[i]) ** 2 * square(n.J[i]) for i in n.samples])
    assert penalty(DataGrad(1.0), n) == pytest.approx(data, rel=ROUNDING)


def test_the_confidence_penalty_averages_over_positions_and_is_at_least_that_of_the_uniform() -> None:
    z = torch.randn(3, 4, 5, dtype=torch.float64)
    log_f = z.log_softmax(-1)
    wanted = (log_f.exp() * log_f).sum(-1).mean()
    value = gradreg_torch.penalty(lambda x: x, z, None, ConfidencePenalty(1.0), class_axis=-1)
    torch.testing.assert_close(value, wanted)
    uniform = gradreg_torch.penalty(lambda x: x * 0, z, None, ConfidencePenalty(1.0), class_axis=-1)
    assert uniform.item() == pytest.approx(-math.log(5))
    with pytest.raises(InputError, match="ConfidencePenalty needs to know which axis of the outputs"):
        gradreg_torch.penalty(lambda x: x, z, None, ConfidencePenalty(1.0))


def test_lowering_pins_the_conventions() -> None:
    assert DataGrad(2.0).lower() == JacobianPenalty(2.0, projection=exact(), output="loss")
    assert SpectReg(1.0, spherical=True, seed=3).lower() == JacobianPenalty(1.0, projection=sphere(), seed=3)
    assert HoffmanReg(1.0).lower() == JacobianPenalty(1.0, projection=sphere(1, unbiased=True), scale=0.5)
    wgan = GradientPenalty(10.0).lower()
    assert wgan == JacobianPenalty(10.0, projection=exact(), squared=False, phi=target(1.0))
    assert replace(wgan, phi=hinge(1.0)) == GradientPenalty(10.0, one_sided=True).lower()
    assert ConfidencePenalty(1.0).lower() is WeightDecay(1.0).lower() is None


# --- parameters of weight decay --------------------------------------------------------------------------------------
def test_weight_decay_takes_the_parameters_of_the_call_in_float32_or_better() -> None:
    half = torch.full((4, 4), 1e-4, dtype=torch.float16)
    nested = {"first": [half, torch.ones(7)], "last": (torch.full((2, 3), 2.0),)}
    value = gradreg_torch.penalty(lambda x: x, torch.ones(2, 3), None, WeightDecay(1.0), params=nested)
    assert value.item() == pytest.approx((16 * half[0, 0].item() ** 2 + 6 * 4) / 2, rel=1e-6)


def test_weight_decay_refuses_what_it_would_count_as_nothing() -> None:
    x = jnp.ones((2, 3))
    with pytest.raises(InputError, match="but all 1 parameters have fewer than two"):
        gradreg_jax.penalty(lambda x: x, x, None, WeightDecay(1.0), params={"flat": jnp.ones(12)})
    with pytest.raises(InputError, match="real parameters, got one of complex64"):
        gradreg_jax.penalty(lambda x: x, x, None, WeightDecay(1.0), params={"w": jnp.ones((3, 4), "complex64")})
    with pytest.raises(InputTypeError, match="params holds no floating-point array"):
        gradreg_jax.penalty(lambda x: x, x, None, WeightDecay(1.0), params={})
    with pytest.raises(InputError, match="WeightDecay cannot see the parameters of a function; pass params="):
        gradreg_torch.penalty(lambda x: x, torch.ones(2, 3), None, WeightDecay(1.0))
