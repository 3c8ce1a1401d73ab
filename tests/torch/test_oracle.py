"""PyTorch against the NumPy reference: values, parameter gradients and input gradients, eager and compiled."""

from typing import Any

import numpy as np
import pytest
import torch

import gradreg_numpy
import gradreg_torch as gradreg
from cases import FLOAT64, GENERAL, NETWORKS, PRESETS, named, perturbation, problem, relative, schedule
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
    SpectralNormReg,
    SpectReg,
)
from gradreg_core.spec import JacobianPenalty, Regularizer
from gradreg_torch import networks
from gradreg_torch.versions import COMPILES

STEP = 2
REQUIRED = [
    DataGrad(2.0),
    SpectReg(0.3, seed=7),
    SpectReg(0.3, spherical=True),
    FrobReg(0.2),
    JacReg(0.5),
    HoffmanReg(0.1),
    GradientPenalty(1.5, target=0.3),
    R1(3.0),
    SpectralNormReg(0.4, iterations=3),
]
EAGER = [
    *(("dense", reg) for reg in [*REQUIRED, *(reg for reg in PRESETS + GENERAL if reg not in REQUIRED)]),
    *((name, reg) for name in NETWORKS if name not in ("dense", "conv") for reg in [*REQUIRED[:2], JacReg(0.5)]),
    *(("critic", reg) for reg in [*REQUIRED, OneHot(1.0), InputFisher(0.5), ConfidencePenalty(0.2)]),
]
SUMS: list[tuple[str, list[Regularizer]]] = [
    (
        "dense",
        [*REQUIRED, DataGrad(2.0, every=2), SpectReg(schedule, seed=5), ConfidencePenalty(0.1), InputFisher(0.9)],
    ),
    ("conv", REQUIRED),
    ("attention", [SpectReg(0.3)]),
    ("normed", [DataGrad(2.0)]),
    ("dense", [SpectReg(0.5, fraction=0.5, seed=4)]),
]
"""Terms that one program computes together: a compilation takes seconds."""


def cases(pairs: list[tuple[str, Regularizer]]) -> list[Any]:
    parameters = [(name, parameter) for name, reg in pairs for parameter in named([reg])]
    return [pytest.param(name, case.values[0], id=f"{name}-{case.id}") for name, case in parameters]


def oracle(model: gradreg_numpy.Model, x: np.ndarray, y: np.ndarray, reg: Regularizer) -> tuple[Any, dict[str, Any]]:
    """(total, penalty of each term), and the gradients of the total."""
    weights, inputs = gradreg_numpy.gradient(model, x, y, reg, step=STEP, of="total")
    total, parts = gradreg_numpy.loss(model, x, y, reg, step=STEP)
    return np.array([total, *parts.penalty]), weights | {"x": inputs}


def pytorch(
    model: gradreg_numpy.Model, x: np.ndarray, y: np.ndarray, reg: Regularizer, dtype: torch.dtype, compiler: str | None
) -> tuple[Any, dict[str, Any]]:
    """The same in PyTorch."""
    module = networks.Module(model.network, model.params, dtype).eval()
    inputs = torch.tensor(x, dtype=dtype, requires_grad=True)
    labels, step = torch.tensor(y), torch.tensor(STEP)

    def values(inputs: torch.Tensor, step: torch.Tensor) -> tuple[torch.Tensor, ...]:
        total, parts = gradreg.loss(module, inputs, labels, reg, step=step, batch_norm="allow")
        return total, *parts.penalty

    if compiler is not None:
        torch._dynamo.reset()
        values = torch.compile(values, fullgraph=COMPILES, backend=compiler)  # graph breaks at older versions
    total, *penalties = values(inputs, step)
    weights = {path: array for path, array in module.named_arrays().items() if array.requires_grad}
    gradients = torch.autograd.grad(total, [*weights.values(), inputs], allow_unused=True, materialize_grads=True)
    arrays = [gradient.double().numpy() for gradient in gradients]
    return np.array([value.item() for value in (total, *penalties)]), dict(zip([*weights, "x"], arrays, strict=True))


def compare(name: str, reg: Regularizer, *compilers: str | None) -> None:
    model, x, y = problem(name)
    wanted_values, wanted = oracle(model, x, y, reg)
    for compiler in compilers:
        values, gradients = pytorch(model, x, y, reg, torch.float64, compiler)
        np.testing.assert_allclose(values, wanted_values, rtol=FLOAT64, err_msg=f"{compiler}")
        assert relative(gradients, wanted) <= FLOAT64, compiler


@pytest.mark.parametrize(("name", "reg"), cases(EAGER))
def test_float64_equals_the_reference(name: str, reg: Regularizer) -> None:
    compare(name, reg, None)


@pytest.mark.slow
@pytest.mark.sample(2)
@pytest.mark.parametrize(("name", "terms"), SUMS, ids=["dense", "conv", "attention", "normed", "part of the batch"])
def test_sums_of_terms_equal_the_reference_eager_and_compiled(name: str, terms: list[Regularizer]) -> None:
    compare(name, sum(terms[1:], start=terms[0]), None, "aot_eager")


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", ["dense", "pooled"])
@pytest.mark.parametrize("reg", named([DataGrad(2.0), SpectReg(0.3), FrobReg(0.2), JacReg(0.5), SpectralNormReg(0.4)]))
def test_float32_is_as_good_as_its_inputs(name: str, reg: Regularizer) -> None:
    model, x, y = problem(name)
    model = gradreg_numpy.Model(model.network, {path: np.float64(np.float32(v)) for path, v in model.params.items()})
    x = np.float64(np.float32(x))
    wanted_values, wanted = oracle(model, x, y, reg)
    moved = perturbation(lambda m, at: gradreg_numpy.gradient(m, at, y, reg, step=STEP, of="total")[0], model, x)
    values, gradients = pytorch(model, x, y, reg, torch.float32, None)
    gradients.pop("x")
    wanted.pop("x")
    # Each of some ten layers rounds as much as the inputs did once; a wrong computation is off by 1e4 P.
    assert relative(gradients, wanted) <= 8 * moved
    np.testing.assert_allclose(values[0], wanted_values[0], rtol=8 * 2.0**-24 * 10)


@pytest.mark.slow
def test_inductor_gives_the_same() -> None:
    compare("dense", DataGrad(2.0) + SpectReg(0.3), "inductor")


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_chunks_of_rows_change_nothing(chunk: int) -> None:
    model, x, y = problem("dense")
    module = networks.Module(model.network, model.params, torch.float64)
    value = gradreg.penalty(module, torch.tensor(x), torch.tensor(y), FrobReg(1.0), chunk_size=chunk)
    assert value.item() == pytest.approx(float(gradreg_numpy.penalty(model, x, y, FrobReg(1.0))), rel=FLOAT64)


@pytest.mark.parametrize("name", ["dense", "conv", "attention"])
def test_measures_equal_the_reference(name: str) -> None:
    model, x, y = problem(name)
    module = networks.Module(model.network, model.params, torch.float64)
    with torch.no_grad():
        measured = gradreg.measure(module, torch.tensor(x), torch.tensor(y))
    for mine, reference in zip(measured, gradreg_numpy.measure(model, x, y), strict=True):
        assert not mine.requires_grad
        np.testing.assert_allclose(mine.numpy(), reference, rtol=1e-12)  # roundoff of sums of some tens of squares


def test_estimated_measures_approach_the_exact_ones() -> None:
    model, x, _ = problem("dense")
    module = networks.Module(model.network, model.params, torch.float64)
    exact = gradreg.measure(module, torch.tensor(x))
    all_directions = gradreg.measure(module, torch.tensor(x), projections=4)
    # m orthonormal directions are a basis; 30 power iterations leave (s2/s1)^60.
    np.testing.assert_allclose(all_directions.frobenius.numpy(), exact.frobenius.numpy(), rtol=1e-12)
    np.testing.assert_allclose(all_directions.spectral.numpy(), exact.spectral.numpy(), rtol=1e-6)


def test_directions_given_by_the_caller() -> None:
    model, x, y = problem("dense")
    module = networks.Module(model.network, model.params, torch.float64)
    v = np.random.default_rng(0).normal(size=(2, 4, 4))
    reg = JacobianPenalty(1.0, projection=gradreg.direction())
    value = gradreg.penalty(module, torch.tensor(x), None, reg, directions=torch.tensor(v))
    wanted = gradreg_numpy.penalty(model, x, y, reg, directions=v)
    assert value.item() == pytest.approx(float(wanted), rel=FLOAT64)
    reg = JacobianPenalty(1.0, projection=gradreg.direction((0.5, 0.0, -1.0, 2.0)))
    value = gradreg.penalty(module, torch.tensor(x), None, reg)
    assert value.item() == pytest.approx(float(gradreg_numpy.penalty(model, x, y, reg)), rel=FLOAT64)


def test_sample_weights_and_normalizer() -> None:
    model, x, y = problem("dense")
    module = networks.Module(model.network, model.params, torch.float64)
    weight = np.array([1.0, 0.0, 2.0, 0.5])
    for options in ({"sample_weight": weight}, {"sample_weight": weight > 0, "normalizer": 7.0}, {"normalizer": 3}):
        total, _ = gradreg.loss(module, torch.tensor(x), torch.tensor(y), DataGrad(1.0), **options)
        wanted, _ = gradreg_numpy.loss(model, x, y, DataGrad(1.0), **options)
        assert total.item() == pytest.approx(float(wanted), rel=FLOAT64)
    unweighted, _ = gradreg.loss(module, torch.tensor(x), torch.tensor(y), DataGrad(1.0), sample_weight=np.zeros(4))
    assert unweighted.item() == 0.0
