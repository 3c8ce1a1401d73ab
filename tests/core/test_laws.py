"""The paper's statements, and the laws that catch the usual mistakes, as properties of the PyTorch backend."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gradreg_numpy
import gradreg_torch as gradreg
from cases import problem
from gradreg_core.portable import networks as nets
from gradreg_core.presets import (
    DataGrad,
    FrobReg,
    HoffmanReg,
    InputFisher,
    JacReg,
    OneHot,
    RandomOneHot,
    SpectralNormReg,
    SpectReg,
)
from gradreg_core.projections import orthonormal, rademacher
from gradreg_core.spec import JacobianPenalty
from gradreg_torch import networks

ROUND = 1e-12  # relative, float64: sums of some hundred terms, each rounded by 1e-16


@st.composite
def models(draw: Any) -> tuple[gradreg_numpy.Model, np.ndarray, np.ndarray]:
    """Small random classifiers with a batch of inputs and labels."""
    kinds = st.sampled_from(["tanh", "softplus", "gelu", "relu", "sigmoid"])
    size, classes, batch = draw(st.integers(1, 4)), draw(st.integers(2, 5)), draw(st.integers(1, 4))
    hidden = draw(st.lists(st.tuples(st.integers(1, 6), kinds), max_size=2))
    layers = [layer for units, kind in hidden for layer in (nets.Dense(units), nets.Activation(kind))]
    network = nets.Network((size,), (*layers, nets.Dense(classes)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    params = {path: rng.normal(size=shape) for path, shape in network.weights().items()}
    return gradreg_numpy.Model(network, params), rng.normal(size=(batch, size)), rng.integers(0, classes, batch)


def module(model: gradreg_numpy.Model) -> networks.Module:
    return networks.Module(model.network, model.params, torch.float64)


def penalty(model: gradreg_numpy.Model, x: np.ndarray, y: Any, reg: Any, **options: Any) -> float:
    labels = None if y is None else torch.tensor(y)
    return gradreg.penalty(module(model), torch.tensor(x), labels, reg, **options).item()


@given(models())
def test_datagrad_is_the_jacobian_times_f_minus_y(case: Any) -> None:
    model, x, y = case
    z, J = gradreg_numpy.jacobian(model.network, model.params, x)
    f = np.exp(z - z.max(1, keepdims=True))
    f /= f.sum(1, keepdims=True)
    w = f - np.eye(z.shape[1])[y]
    wanted = np.mean([((J[i].T @ w[i]) ** 2).sum() for i in range(len(x))])
    assert penalty(model, x, y, DataGrad(1.0)) == pytest.approx(wanted, rel=ROUND, abs=1e-300)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_a_linear_layer_gives_weight_decay(inputs: int, outputs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = nets.Network((inputs,), (nets.Dense(outputs),))
    params = {path: rng.normal(size=shape) for path, shape in network.weights().items()}
    model, x = gradreg_numpy.Model(network, params), rng.normal(size=(3, inputs))
    one = module(model)
    frobenius = gradreg.penalty(one, torch.tensor(x), None, FrobReg(1.0))
    decay = gradreg.penalty(one, torch.tensor(x), None, gradreg.WeightDecay(2.0))  # its one half
    assert frobenius.item() == pytest.approx(decay.item(), rel=ROUND)
    assert frobenius.item() == pytest.approx((params["0.weight"] ** 2).sum(), rel=ROUND)
    weight = [one.named_arrays()["0.weight"]]
    torch.testing.assert_close(torch.autograd.grad(frobenius, weight), torch.autograd.grad(decay, weight))


@given(models(), st.integers(0, 100))
def test_a_spherical_projection_never_exceeds_the_spectral_norm(case: Any, seed: int) -> None:
    model, x, _ = case
    _, J = gradreg_numpy.jacobian(model.network, model.params, x)
    for i in range(len(x)):
        value = penalty(model, x[i : i + 1], None, SpectReg(1.0, spherical=True, seed=seed), sample_ids=[i])
        power = penalty(model, x[i : i + 1], None, SpectralNormReg(1.0, iterations=5, seed=seed), sample_ids=[i])
        largest = np.linalg.norm(J[i], 2) ** 2
        assert value <= largest * (1 + ROUND)
        assert power <= largest * (1 + ROUND)
        assert largest <= (J[i] ** 2).sum() * (1 + ROUND)


def test_enough_power_iterations_give_the_spectral_norm() -> None:
    model, x, _ = problem("dense")
    _, J = gradreg_numpy.jacobian(model.network, model.params, x)
    wanted = np.mean([np.linalg.norm(jacobian, 2) ** 2 for jacobian in J])
    value = penalty(model, x, None, SpectralNormReg(1.0, iterations=60))
    assert value == pytest.approx(wanted, rel=1e-9)  # (s2/s1)^120 with a ratio below 0.84 at each sample


@pytest.mark.parametrize(
    ("make", "constant"),
    [
        (lambda seed: SpectReg(1.0, seed=seed), 1.0),
        (lambda seed: SpectReg(4.0, spherical=True, seed=seed), 1.0),  # m = 4: the constant is 1/m
        (lambda seed: SpectReg(1.0, projections=3, seed=seed), 1.0),
        (lambda seed: HoffmanReg(1.0, seed=seed), 0.5),
        (lambda seed: RandomOneHot(4.0, seed=seed), 1.0),
        (lambda seed: JacobianPenalty(1.0, projection=rademacher(), seed=seed), 1.0),
        (lambda seed: JacobianPenalty(1.0, projection=orthonormal(2, unbiased=True), seed=seed), 1.0),
        (lambda seed: SpectReg(1.0, draw="per_batch", seed=seed), 1.0),
        (lambda seed: SpectReg(1.0, fraction=0.4, seed=seed), 1.0),
    ],
)
def test_random_projections_are_unbiased_for_the_squared_frobenius_norm(make: Any, constant: float) -> None:
    model, x, _ = problem("dense", batch=8)
    one, inputs = module(model), torch.tensor(x)
    wanted = constant * penalty(model, x, None, FrobReg(1.0))
    value = np.array([gradreg.penalty(one, inputs, None, make(3), step=step).item() for step in range(400)])
    assert abs(value.mean() - wanted) < 5 * value.std() / np.sqrt(len(value))  # five standard errors
    assert value.std() > 1e-3 * wanted or constant == 0  # it is random at all


def test_the_fisher_penalty_is_unbiased_for_its_trace() -> None:
    model, x, _ = problem("dense", batch=6)
    z, J = gradreg_numpy.jacobian(model.network, model.params, x)
    f = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    wanted = np.mean([np.trace(J[i].T @ (np.diag(f[i]) - np.outer(f[i], f[i])) @ J[i]) for i in range(6)])
    one, inputs = module(model), torch.tensor(x)
    value = np.array([gradreg.penalty(one, inputs, None, InputFisher(1.0), step=step).item() for step in range(400)])
    assert abs(value.mean() - wanted) < 5 * value.std() / 20  # five standard errors of 400 draws


@pytest.mark.parametrize(
    "reg", [DataGrad(1.0), SpectReg(1.0, seed=2), JacReg(1.0)], ids=["DataGrad", "SpectReg", "JacReg"]
)
def test_a_lazy_gradient_is_unbiased(reg: Any) -> None:
    """The due steps give 16 times the gradient of the plain penalty at that step, all others none.

    So the mean over steps is that of the penalty at the due steps, whose draws are like those of any other steps.
    """
    model, x, y = problem("dense")
    one, inputs, labels = module(model), torch.tensor(x), torch.tensor(y)

    def gradient(reg: Any, step: int) -> np.ndarray:
        total, _ = gradreg.loss(one, inputs, labels, reg, step=step)
        plain, _ = gradreg.loss(one, inputs, labels, None)
        gradients = torch.autograd.grad(
            total - plain, list(one.parameters()), materialize_grads=True, allow_unused=True
        )
        return torch.cat([gradient.flatten() for gradient in gradients]).numpy()

    for step in range(33):
        wanted = 16 * gradient(reg, step) if step % 16 == 0 else 0.0 * gradient(reg, 0)
        scale = max(1.0, float(np.abs(wanted).max()))
        np.testing.assert_allclose(gradient(reg.lazy(16), step), wanted, rtol=0, atol=100 * ROUND * scale)


REGS = [DataGrad(1.3), SpectReg(0.7, seed=1), JacReg(1.0), OneHot(0.2), SpectReg(1.0, draw="per_batch")]


@given(models(), st.sampled_from(REGS), st.integers(0, 50))
def test_splitting_a_batch_changes_nothing(case: Any, reg: Any, step: int) -> None:
    model, x, y = case
    ids = np.arange(len(x)) + 10
    whole = penalty(model, x, y, reg, step=step, sample_ids=ids)
    parts = [
        penalty(model, x[i : i + 1], y[i : i + 1], reg, step=step, sample_ids=ids[i : i + 1], normalizer=len(x))
        for i in range(len(x))
    ]
    assert whole == pytest.approx(sum(parts), rel=ROUND)


@given(models(), st.sampled_from(REGS), st.randoms(use_true_random=False))
def test_the_order_of_a_batch_changes_nothing(case: Any, reg: Any, random: Any) -> None:
    model, x, y = case
    order = list(range(len(x)))
    random.shuffle(order)
    value = penalty(model, x[order], y[order], reg, sample_ids=order)
    assert value == pytest.approx(penalty(model, x, y, reg), rel=ROUND)


@given(models(), st.sampled_from(REGS), st.floats(0.1, 10))
def test_inputs_in_other_units_scale_the_penalty(case: Any, reg: Any, scale: float) -> None:
    """With x = s u, the gradient with respect to u is s times as long, so the squared norm is s^2 times as large."""
    model, x, y = case
    one = module(model)
    value = gradreg.penalty(lambda u: one(u * scale), torch.tensor(x / scale), torch.tensor(y), reg)
    assert value.item() == pytest.approx(scale**2 * penalty(model, x, y, reg), rel=1e-9)  # x / s * s is not quite x


@given(models(), st.floats(0, 10))
def test_the_penalty_is_linear_in_the_weight_and_terms_add(case: Any, weight: float) -> None:
    model, x, y = case
    a, b = DataGrad(weight), SpectReg(1.0, seed=2)
    assert penalty(model, x, y, a) == pytest.approx(weight * penalty(model, x, y, DataGrad(1.0)), rel=ROUND)
    assert penalty(model, x, y, a + b) == pytest.approx(penalty(model, x, y, a) + penalty(model, x, y, b), rel=ROUND)


@given(models(), st.sampled_from(REGS))
def test_a_repeated_sample_counts_like_its_weight(case: Any, reg: Any) -> None:
    model, x, y = case
    double = penalty(model, np.concatenate([x, x[:1]]), np.append(y, y[0]), reg, sample_ids=[*range(len(x)), 0])
    weight = np.ones(len(x))
    weight[0] = 2
    assert double == pytest.approx(penalty(model, x, y, reg, sample_weight=weight), rel=ROUND)


@given(models(), st.sampled_from(REGS))
def test_the_loss_and_the_penalty_share_one_forward_pass(case: Any, reg: Any) -> None:
    model, x, y = case
    one, calls = module(model), []

    def counted(inputs: torch.Tensor) -> torch.Tensor:
        calls.append(len(inputs))
        return one(inputs)

    inputs, labels = torch.tensor(x), torch.tensor(y)
    total, parts = gradreg.loss(counted, inputs, labels, reg + SpectReg(1.0, seed=9) + gradreg.ConfidencePenalty(0.1))
    assert calls == [len(x)]
    cross_entropy = torch.nn.functional.cross_entropy(one(inputs), labels)
    torch.testing.assert_close(parts.loss, cross_entropy)
    torch.testing.assert_close(total, parts.loss + sum(parts.penalty))
    torch.testing.assert_close(parts.outputs, one(inputs))
