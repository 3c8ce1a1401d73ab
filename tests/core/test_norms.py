"""Norms over chunks of rows and the functions phi, against the reference and the laws of a norm."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import gradreg_numpy
from cases import FLOAT64, problem
from gradreg_core import norms
from gradreg_core.norms import NORMS, Phi, hinge, identity, safe_sqrt, target
from gradreg_core.projections import exact
from gradreg_core.spec import JacobianPenalty
from gradreg_torch import penalty
from gradreg_torch.backend import TorchBackend
from gradreg_torch.networks import Module

OPS = TorchBackend()
PHIS = [value for name in norms.__all__ if isinstance(value := getattr(norms, name), type)]
NUMPY = {"l1": 1, "l2": 2, "linf": np.inf}
"""The names that numpy.linalg.norm has for them."""

sizes = st.lists(st.integers(1, 4), min_size=1, max_size=4)
seeds = st.integers(0, 2**32 - 1)
names = st.sampled_from(list(NORMS))


def chunks(counts: list[int], seed: int) -> list[Tensor]:
    """Chunks of c rows, (c, 3, 2, 2)."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, 3, 2, 2, generator=generator, dtype=torch.float64) for count in counts]


def compare_with_the_reference(reg: JacobianPenalty) -> None:
    """Value and input gradient."""
    model, x, _ = problem("dense")
    module, inputs = Module(model.network, model.params, torch.float64), torch.tensor(x, requires_grad=True)
    value = penalty(module, inputs, None, reg)
    assert value.item() == pytest.approx(float(gradreg_numpy.penalty(model, x, None, reg)), rel=FLOAT64)
    _, wanted = gradreg_numpy.gradient(model, x, None, reg)
    (gradient,) = torch.autograd.grad(value, inputs)
    np.testing.assert_allclose(gradient.numpy(), wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("squared", [True, False])
def test_a_norm_is_that_of_the_reference(name: str, squared: bool) -> None:
    compare_with_the_reference(JacobianPenalty(1.0, projection=exact(), norm=name, squared=squared))


@pytest.mark.parametrize("name", NUMPY)
@given(sizes, seeds, st.booleans())
def test_a_norm_over_chunks_is_that_of_numpy_over_all_rows(
    name: str, counts: list[int], seed: int, squared: bool
) -> None:
    given_chunks = chunks(counts, seed)
    rows = torch.cat(given_chunks).movedim(1, 0).reshape(3, -1).numpy()
    wanted = np.linalg.norm(rows, NUMPY[name], axis=1) ** (2 if squared else 1)
    value = NORMS[name](OPS, given_chunks, squared)
    np.testing.assert_allclose(value.numpy(), wanted, rtol=FLOAT64)


@given(names, sizes, seeds, st.floats(-3, 3))
def test_laws_of_a_norm(name: str, counts: list[int], seed: int, factor: float) -> None:
    a, b = chunks(counts, seed), chunks(counts, seed + 1)

    def norm(rows: list[Tensor], squared: bool = False) -> Tensor:
        return NORMS[name](OPS, rows, squared)

    rounding = 1e-12 * (norm(a) + norm(b))
    assert bool(
        (norm([first + second for first, second in zip(a, b, strict=True)]) <= norm(a) + norm(b) + rounding).all()
    )
    torch.testing.assert_close(norm([factor * rows for rows in a]), abs(factor) * norm(a))
    torch.testing.assert_close(norm(a, squared=True), norm(a) ** 2)
    torch.testing.assert_close(norm(a), norm([torch.cat(a)]))
    assert bool((norm(a) > 0).all())


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("squared", [True, False])
def test_a_norm_of_zero_is_zero_with_gradient_zero_over_any_chunks(name: str, squared: bool) -> None:
    rows = torch.zeros(4, 3, 5, dtype=torch.float64, requires_grad=True)
    for split in (rows.split(4), rows.split(1), rows.split([1, 3])):
        value = NORMS[name](OPS, split, squared)
        assert torch.equal(value, torch.zeros(3, dtype=torch.float64))
        (gradient,) = torch.autograd.grad(value.sum(), rows, create_graph=True)
        assert torch.equal(gradient, torch.zeros_like(rows))
        if gradient.requires_grad:
            (second,) = torch.autograd.grad(gradient.sum(), rows, allow_unused=True, materialize_grads=True)
            assert bool(second.isfinite().all())


@pytest.mark.parametrize("name", NORMS)
def test_the_gradient_of_a_norm_is_that_of_finite_differences(name: str) -> None:
    rows = torch.cat(chunks([2, 1], 5)).requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: NORMS[name](OPS, rows.split([2, 1]), False), rows)
    assert torch.autograd.gradgradcheck(lambda rows: NORMS[name](OPS, rows.split([2, 1]), True), rows)


def test_the_first_of_equal_maxima_has_the_whole_derivative() -> None:
    rows = torch.tensor([[[2.0, -3.0]], [[3.0, -3.0]]], requires_grad=True)  # two rows of one sample
    for split in (rows.split(2), rows.split(1)):
        (gradient,) = torch.autograd.grad(NORMS["linf"](OPS, split, False).sum(), rows)
        assert gradient.tolist() == [[[0.0, -1.0]], [[0.0, 0.0]]]


def test_penalties_at_zero_have_gradient_zero_and_not_nan() -> None:
    def dead(x: Tensor) -> Tensor:
        return torch.relu(x @ torch.zeros(3, 4)) @ weight

    weight = torch.zeros(4, 1, requires_grad=True)
    for name in NORMS:
        reg = JacobianPenalty(1.0, projection=exact(), norm=name, squared=False, phi=target(1.0))
        value = penalty(dead, torch.ones(2, 3), None, reg)
        assert value.item() == 1.0
        (gradient,) = torch.autograd.grad(value, weight, allow_unused=True, materialize_grads=True)
        assert bool((gradient == 0).all())


def test_safe_sqrt_is_the_root_with_derivative_zero_at_zero() -> None:
    values = torch.tensor([0.0, 4.0], dtype=torch.float64, requires_grad=True)
    roots = safe_sqrt(OPS, values)
    assert roots.tolist() == [0.0, 2.0]
    assert torch.autograd.grad(roots.sum(), values)[0].tolist() == [0.0, 0.25]


# --- phi -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("phi", "n", "wanted"),
    [
        (identity(), 1.75, 1.75),
        (target(), 3.0, 4.0),
        (target(0.5), 0.25, 0.0625),
        (target(2.0), 0.0, 4.0),
        (hinge(), 3.0, 4.0),
        (hinge(2.0), 1.5, 0.0),
        (hinge(2.0), 2.0, 0.0),
        (hinge(0.0), 1.5, 2.25),
    ],
    ids=repr,
)
def test_values_of_phi(phi: Phi, n: float, wanted: float) -> None:
    assert phi.apply(OPS, torch.tensor([n])).tolist() == [wanted]


@pytest.mark.parametrize("kind", PHIS, ids=lambda kind: kind.__name__)
def test_a_phi_is_that_of_the_reference_and_its_gradient_that_of_finite_differences(kind: Any) -> None:
    compare_with_the_reference(JacobianPenalty(1.0, projection=exact(), squared=False, phi=kind()))
    n = torch.tensor([0.0, 0.4, 1.3, 7.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda n: kind().apply(OPS, n), n)
