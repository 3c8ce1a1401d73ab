"""Projections: each beside the reference, the laws of their rows, and what they refuse."""

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import gradreg_numpy
import gradreg_torch
from cases import FLOAT64, problem
from gradreg_core import projections
from gradreg_core.errors import InputError, SpecError
from gradreg_core.labels import prepare_target
from gradreg_core.layout import Layout
from gradreg_core.projections import (
    DirectionContext,
    Projection,
    direction,
    exact,
    fisher,
    gaussian,
    onehot,
    orthonormal,
    rademacher,
    random_onehot,
    sphere,
    top_k,
    top_singular,
)
from gradreg_core.random import make_draws
from gradreg_core.spec import JacobianPenalty
from gradreg_torch.backend import TorchBackend
from gradreg_torch.networks import Module

OPS = TorchBackend()
KINDS: list[Any] = [getattr(projections, name) for name in projections.__all__]


def variants(kind: Any) -> list[Projection]:
    """The projection by its defaults, and with other values of the fields that several have."""
    named = {field.name for field in fields(kind)}
    other = {name: value for name, value in {"k": 2, "unbiased": True, "iterations": 3}.items() if name in named}
    return [kind(), kind(**other)] if other else [kind()]


VARIANTS = [pytest.param(projection, id=repr(projection)) for kind in KINDS for projection in variants(kind)]


def context(
    batch: int, size: int, *, positions: int = 1, step: int = 0, matrix: Tensor | None = None
) -> DirectionContext:
    """A context for logits (batch, positions, size), whose pullback is w -> w @ matrix."""
    shape = (batch, positions, size)
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(positions, size, max(batch, 8), generator=generator, dtype=torch.float64)[:, :, :batch]
    logits = logits.movedim(-1, 0)
    labels = torch.arange(batch * positions).reshape(batch, positions) % size
    layout = Layout(shape, -1)
    square = torch.eye(size, dtype=torch.float64) if matrix is None else matrix
    return DirectionContext(
        ops=OPS,
        shape=shape,
        logits=logits,
        probabilities=lambda: logits.softmax(-1),
        target=lambda: prepare_target(OPS, "test", labels, layout, logits, "it"),
        make_draws=lambda: make_draws(OPS, 0, step, torch.arange(batch, dtype=torch.int32)),
        pullback=lambda w: w @ square,
        given=torch.ones(positions * size, dtype=torch.float64),
    )


def rows_of(projection: Projection, where: DirectionContext) -> Tensor:
    return projection.directions(where, range(projection.count(where.size)))


# --- all of them -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("projection", VARIANTS)
def test_the_oracle_has_the_same_projection(projection: Projection) -> None:
    model, x, y = problem("dense")
    reg = JacobianPenalty(1.0, projection=projection, seed=4)
    options = {"directions": np.linspace(-1, 2, 4)} if projection == direction() else {}
    wanted = float(gradreg_numpy.penalty(model, x, y, reg, **options))
    _, slopes = gradreg_numpy.gradient(model, x, y, reg, **options)
    module, inputs = Module(model.network, model.params, torch.float64), torch.tensor(x, requires_grad=True)
    native = {name: torch.tensor(value) for name, value in options.items()}
    value = gradreg_torch.penalty(module, inputs, torch.tensor(y), reg, **native)
    assert value.item() == pytest.approx(wanted, rel=FLOAT64)
    (gradient,) = torch.autograd.grad(value, inputs)
    np.testing.assert_allclose(gradient.numpy(), slopes, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("projection", VARIANTS)
@pytest.mark.parametrize("positions", [1, 2])
def test_rows_have_their_shape_and_do_not_depend_on_the_chunk(projection: Projection, positions: int) -> None:
    where = context(3, 4, positions=positions)
    count = projection.count(where.size)
    whole = rows_of(projection, where)
    assert whole.shape == (count, 3, positions, 4)
    assert whole.dtype == torch.float64
    singly = [projection.directions(where, range(index, index + 1)) for index in range(count)]
    torch.testing.assert_close(torch.cat(singly), whole, rtol=1e-14, atol=0)


@pytest.mark.parametrize("projection", VARIANTS)
def test_rows_of_a_sample_do_not_depend_on_the_others(projection: Projection) -> None:
    few, many = (rows_of(projection, context(batch, 4)) for batch in (2, 3))
    torch.testing.assert_close(many[:, :2], few, rtol=1e-14, atol=0)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_projection_says_whether_it_goes_with_the_input_side(kind: Any) -> None:
    projection = kind()
    assert not (projection.on_input_side and projection.needs_classes)
    if projection.on_input_side:
        model, x, _ = problem("dense")
        module = Module(model.network, model.params, torch.float64)
        reg = JacobianPenalty(1.0, projection=projection, side="input")
        options = {"directions": torch.ones(5)} if kind is direction else {}
        assert gradreg_torch.penalty(module, torch.tensor(x), None, reg, **options) > 0
    else:
        with pytest.raises(SpecError, match="is a direction in output space"):
            JacobianPenalty(1.0, projection=projection, side="input")


# --- their laws ------------------------------------------------------------------------------------------------------
MEAN: list[tuple[Projection, float]] = [
    (gaussian(), 1.0),
    (gaussian(3), 1.0),
    (rademacher(), 1.0),
    (rademacher(2), 1.0),
    (sphere(), 1 / 4),
    (sphere(2, unbiased=True), 1.0),
    (orthonormal(), 1 / 4),
    (orthonormal(3), 1 / 4),
    (orthonormal(2, unbiased=True), 1.0),
    (random_onehot(), 1 / 4),
    (random_onehot(2, unbiased=True), 1.0),
]


@pytest.mark.parametrize(("projection", "constant"), MEAN, ids=[repr(projection) for projection, _ in MEAN])
def test_the_mean_of_w_w_is_a_multiple_of_the_identity(projection: Projection, constant: float) -> None:
    """So the penalty is constant * ||J||_F^2 on average."""
    rows = rows_of(projection, context(5000, 4))[:, :, 0]
    products = torch.einsum("kim,kin->imn", rows, rows)
    error = products.std(0) / math.sqrt(5000)
    assert bool(((products.mean(0) - constant * torch.eye(4)).abs() <= 5 * error + 1e-7).all())  # float32 draws


def test_the_mean_of_the_fisher_rows_is_the_jacobian_of_the_softmax() -> None:
    f = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    where = replace(context(5000, 4), probabilities=lambda: f.expand(5000, 1, 4))
    rows = rows_of(fisher(), where)[0, :, 0]
    products = torch.einsum("im,in->imn", rows, rows)
    wanted = torch.diag(f) - torch.outer(f, f)
    assert bool(((products.mean(0) - wanted).abs() <= 5 * products.std(0) / math.sqrt(5000)).all())


def test_exact_rows_are_the_identity() -> None:
    rows = rows_of(exact(), context(2, 3, positions=2)).reshape(6, 2, 6)
    assert torch.equal(rows, torch.eye(6, dtype=torch.float64)[:, None].expand(6, 2, 6))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_lengths_and_angles_of_rows(k: int) -> None:
    where = context(20, 4)
    frames = rows_of(orthonormal(k), where)[:, :, 0].movedim(1, 0) * math.sqrt(k)
    torch.testing.assert_close(frames @ frames.mT, torch.eye(k, dtype=torch.float64).expand(20, k, k))
    lengths = rows_of(sphere(k), where)[:, :, 0].norm(dim=-1) * math.sqrt(k)
    torch.testing.assert_close(lengths, torch.ones(k, 20, dtype=torch.float64))
    signs = rows_of(rademacher(k), where) * math.sqrt(k)
    torch.testing.assert_close(signs.abs(), torch.ones_like(signs))
    picks = rows_of(random_onehot(k), where)[:, :, 0] * math.sqrt(k)
    torch.testing.assert_close(picks.sort(-1).values, torch.tensor([0.0, 0, 0, 1]).double().expand(k, 20, 4))


def test_rows_of_labels_and_of_the_largest_logits() -> None:
    where = context(3, 4, positions=2)
    labels = torch.arange(6).reshape(3, 2) % 4
    assert torch.equal(rows_of(onehot(), where)[0], torch.nn.functional.one_hot(labels, 4).double())
    for k in (1, 3, 4):
        mask = rows_of(top_k(k), where)[0]
        assert bool((mask.sum(-1) == k).all())
        kept = torch.where(mask > 0, where.logits, torch.inf).amin(-1)
        left = torch.where(mask > 0, -torch.inf, where.logits).amax(-1)
        assert bool((kept > left).all())


def test_power_iteration_finds_the_top_left_singular_vector() -> None:
    matrix = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u = rows_of(top_singular(200), context(3, 4, matrix=matrix))[0, :, 0]
    wanted = torch.linalg.svd(matrix).U[:, 0]
    torch.testing.assert_close((u @ wanted).abs(), torch.ones(3, dtype=torch.float64))
    short = rows_of(top_singular(1), context(3, 4, matrix=matrix))[0, :, 0]
    assert bool(((short @ matrix).norm(dim=-1) <= torch.linalg.matrix_norm(matrix, 2)).all())


def test_a_jacobian_of_zeros_has_finite_rows() -> None:
    rows = rows_of(top_singular(2), context(3, 4, matrix=torch.zeros(4, 6, dtype=torch.float64)))
    assert torch.equal(rows, torch.zeros_like(rows))


# --- directions of the caller ----------------------------------------------------------------------------------------
def test_directions_of_the_specification_are_the_rows() -> None:
    where = context(2, 3)
    assert rows_of(direction((1, 2, 3)), where)[0, :, 0].tolist() == [[1.0, 2.0, 3.0]] * 2
    two = rows_of(direction(((1, 2, 3), (4, 5, 6))), where)[:, 1, 0]
    assert two.tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    assert direction([1, 2, 3]) == direction(np.array([1.0, 2.0, 3.0])) == direction((1.0, 2.0, 3.0))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(3,), (2, 3), (4, 2, 3), (1, 3)])
def test_directions_of_the_call_are_broadcast(shape: tuple[int, ...]) -> None:
    where, given = context(2, 3), torch.randn(shape, dtype=torch.float64)
    rows = rows_of(direction(), replace(where, given=given))
    assert torch.equal(rows, given.expand(*([1, 2, 3] if len(shape) < 3 else shape))[:, :, None])


@pytest.mark.parametrize(
    ("projection", "given", "message"),
    [
        (direction((1.0, 2.0)), None, "direction: v has 2 components, but a sample has 3 outputs"),
        (direction(), None, r"direction\(\): no directions were given; pass directions= in the call"),
        (direction(), (2, 2), r"shape \(3,\), \(2, 3\) or \(k, 2, 3\) for 2 samples with 3 outputs each, got \(2, 2\)"),
        (direction(), (4, 3, 3), r"for 2 samples with 3 outputs each, got \(4, 3, 3\)"),
        (top_k(4), None, r"top_k\(k=4\): the output has only 3 classes; use k of at most 3"),
        (orthonormal(4), None, "there are only 3 orthonormal directions in a space of 3 outputs; use k of at most 3"),
    ],
)
def test_rows_that_do_not_exist_are_refused(projection: Projection, given: Any, message: str) -> None:
    values = None if given is None else torch.ones(given)
    with pytest.raises(InputError, match=message):
        rows_of(projection, replace(context(2, 3), given=values))
