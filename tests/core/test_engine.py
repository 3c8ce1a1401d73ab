"""The one formula, against double backward written by hand, finite differences and other Jacobians."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradreg_numpy
import gradreg_torch
from cases import FLOAT64, problem
from forward_cases import passed
from gradreg_core.engine import draws_of, jacobian_rows, per_sample
from gradreg_core.errors import InputError
from gradreg_core.forward import Call, Forward
from gradreg_core.norms import NORMS, hinge
from gradreg_core.outputs import OUTPUTS
from gradreg_core.presets import DataGrad, FrobReg, JacReg, OneHot, SpectReg
from gradreg_core.projections import Projection, direction, exact, fisher, onehot, orthonormal
from gradreg_core.random import STREAM_DIRECTION, make_draws
from gradreg_core.spec import JacobianPenalty
from gradreg_torch.backend import TorchBackend
from gradreg_torch.networks import Module

OPS = TorchBackend()
BATCH, CLASSES = 4, 3
Y = torch.tensor([0, 2, 1, 1])


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, CLASSES)).double()


def inputs() -> Tensor:
    return torch.randn(BATCH, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()


def forward(model: nn.Module, x: Tensor, **options: Any) -> Forward:
    return passed(Call(OPS, "test", **options), model, x, y=Y)


# --- double backward by hand -----------------------------------------------------------------------------------------
def slope(scalar: Tensor, x: Tensor) -> Tensor:
    """d scalar / dx, differentiable."""
    return torch.autograd.grad(scalar, x, create_graph=True)[0]


def data_grad(model: nn.Module, x: Tensor) -> Tensor:
    return (slope(F.cross_entropy(model(x), Y, reduction="sum"), x) ** 2).sum(1).mean()


def spect_reg(model: nn.Module, x: Tensor) -> Tensor:
    r = make_draws(OPS, 3, 7, torch.arange(BATCH, dtype=torch.int32)).gaussians(STREAM_DIRECTION, (0,), CLASSES)[0]
    return (slope((model(x) * r.double()).sum(), x) ** 2).sum(1).mean()


def one_hot(model: nn.Module, x: Tensor) -> Tensor:
    return (slope(model(x)[torch.arange(BATCH), Y].sum(), x) ** 2).sum(1).mean()


def jacobian_of_probabilities(model: nn.Module, x: Tensor) -> Tensor:
    f = model(x).softmax(1)
    return sum((slope(f[:, k].sum(), x) ** 2).sum(1).mean() for k in range(CLASSES))  # type: ignore[return-value]


def hinge_of_l1(model: nn.Module, x: Tensor) -> Tensor:
    z = model(x)
    norm = sum(slope(z[:, k].sum(), x).abs().sum(1) for k in range(CLASSES))
    return torch.relu(norm - 0.5).square().mean()  # type: ignore[operator]


HAND: dict[str, tuple[JacobianPenalty | Any, Callable[[nn.Module, Tensor], Tensor]]] = {
    "DataGrad": (DataGrad(1.0), data_grad),
    "SpectReg": (SpectReg(1.0, seed=3), spect_reg),
    "OneHot": (OneHot(1.0), one_hot),
    "JacReg": (JacReg(1.0), jacobian_of_probabilities),
    "hinge of L1": (
        JacobianPenalty(1.0, projection=exact(), norm="l1", squared=False, phi=hinge(0.5)),
        hinge_of_l1,
    ),
}


@pytest.mark.parametrize("name", HAND)
def test_values_and_gradients_are_those_of_double_backward_by_hand(name: str) -> None:
    (reg, by_hand), model = HAND[name], network()
    results = []
    for compute in (by_hand, lambda model, x: gradreg_torch.penalty(model, x, Y, reg, step=7)):
        x = inputs()
        value = compute(model, x)
        gradients = torch.autograd.grad(value, [*model.parameters(), x], allow_unused=True, materialize_grads=True)
        results.append([value, *gradients])
    for wanted, value in zip(*results, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("reg", [FrobReg(1.0), JacReg(1.0), DataGrad(1.0)], ids=repr)
def test_gradients_are_those_of_finite_differences(reg: Any) -> None:
    model = network()
    weight = model[0].weight

    def value(change: Tensor) -> Tensor:
        return gradreg_torch.penalty(
            lambda x: torch.func.functional_call(model, {"0.weight": weight + change}, (x,)), inputs(), Y, reg
        )

    assert torch.autograd.gradcheck(value, torch.zeros_like(weight, requires_grad=True))


# --- rows and chunks -------------------------------------------------------------------------------------------------
def test_the_rows_of_the_jacobian_are_those_of_pytorch() -> None:
    model, x = network(), inputs()
    wanted = torch.stack([torch.autograd.functional.jacobian(model, row) for row in x])  # (B, m, d)
    rows = jacobian_rows(forward(model, x))
    torch.testing.assert_close(rows.movedim(0, 1), wanted)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("projection", [exact(), orthonormal(3)], ids=repr)
def test_chunks_change_nothing(norm: str, projection: Any) -> None:
    model, x = network(), inputs()
    term = JacobianPenalty(1.0, projection=projection, norm=norm, squared=False)
    values, gradients = [], []
    for chunk_size in (None, 1, 2, 3, 100):
        value = per_sample(term, forward(model, x, chunk_size=chunk_size))
        values.append(value)
        gradients.append(torch.autograd.grad(value.sum(), x)[0])
    for value, gradient in zip(values, gradients, strict=True):
        torch.testing.assert_close(value, values[0])
        torch.testing.assert_close(gradient, gradients[0])


def test_rows_come_in_chunks_of_the_size_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def pull_rows(self: TorchBackend, pullback: Any, rows: Tensor) -> Tensor:
        sizes.append(len(rows))
        return torch.stack([pullback(row) for row in rows])

    monkeypatch.setattr(TorchBackend, "pull_rows", pull_rows)
    for chunk_size, wanted in ((None, [1, 1, 1]), (2, [2, 1]), (5, [3])):
        sizes.clear()
        per_sample(FrobReg(1.0).lower(), forward(network(), inputs(), chunk_size=chunk_size))
        assert sizes == wanted
    monkeypatch.setattr(TorchBackend, "default_chunk", None)
    sizes.clear()
    per_sample(FrobReg(1.0).lower(), forward(network(), inputs()))
    assert sizes == [3]


# --- draws -----------------------------------------------------------------------------------------------------------
def test_draws_depend_on_seed_step_and_sample_and_the_call_overrides_the_seed() -> None:
    def drawn(term: JacobianPenalty, ids: Tensor | None = None, **options: Any) -> Tensor:
        draws = draws_of(term, Call(OPS, "test", **options), BATCH, ids, torch.zeros(1))
        return draws.gaussians(STREAM_DIRECTION, (0,), CLASSES)[0]

    term = JacobianPenalty(1.0, seed=3)
    assert torch.equal(drawn(term), drawn(JacobianPenalty(1.0), seed=3))
    assert not torch.equal(drawn(term), drawn(term, seed=4))
    assert not torch.equal(drawn(term), drawn(term, step=1))
    shifted = drawn(term, torch.tensor([2, 3, 0, 9], dtype=torch.int32))
    assert torch.equal(shifted[:3], drawn(term)[[2, 3, 0]])
    shared = drawn(JacobianPenalty(1.0, seed=3, draw="per_batch"), torch.tensor([5, 6, 7, 8], dtype=torch.int32))
    assert shared.shape == (1, CLASSES)
    assert torch.equal(shared[0], drawn(term)[0])


# --- directions of the caller, classes, axes -------------------------------------------------------------------------
@pytest.mark.parametrize("class_axis", [1, -1, 2])
def test_directions_in_the_outputs_own_axes_follow_the_class_axis(class_axis: int) -> None:
    rng = np.random.default_rng(0)
    weight = torch.tensor(rng.normal(size=(5, 6)))

    def model(x: Tensor) -> Tensor:
        z = torch.tanh(x @ weight).reshape(-1, 2, 3)  # (B, positions, classes)
        return z if class_axis in (-1, 2) else z.mT

    x, v = inputs(), torch.tensor(rng.normal(size=(2, 3)))
    own = v if class_axis in (-1, 2) else v.mT
    reg = JacobianPenalty(1.0, projection=direction())
    wanted = (slope((torch.tanh(x @ weight) * v.reshape(6)).sum(), x) ** 2).sum(1).mean()
    for given in (own, own.expand(BATCH, *own.shape), own.expand(1, BATCH, *own.shape), v.reshape(6)):
        value = gradreg_torch.penalty(model, x, None, reg, directions=given, class_axis=class_axis)
        torch.testing.assert_close(value, wanted)


def test_a_projection_that_needs_classes_asks_for_their_axis() -> None:
    reg = JacobianPenalty(1.0, projection=onehot())
    with pytest.raises(InputError, match=r"penalty: the projection onehot\(\) needs to know which axis of the outputs"):
        gradreg_torch.penalty(lambda x: x, torch.ones(2, 3, 4), torch.zeros(2, 3, dtype=torch.long), reg)


@pytest.mark.parametrize("projection", [fisher(), onehot()], ids=repr)
def test_no_call_writes_a_projection_out(projection: Projection, monkeypatch: pytest.MonkeyPatch) -> None:
    reg = JacobianPenalty(1.0, projection=projection)
    monkeypatch.delattr(type(projection), "__repr__")
    monkeypatch.setattr(Projection, "__repr__", lambda _: pytest.fail("torch.compile cannot trace this"), raising=False)
    assert gradreg_torch.penalty(network(), inputs(), Y, reg) > 0


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("network_name", ["conv", "attention"])
def test_values_of_each_sample_are_those_of_the_reference(output: str, network_name: str) -> None:
    model, x, y = problem(network_name)
    module = Module(model.network, model.params, torch.float64)
    reg = JacobianPenalty(1.0, projection=exact(), output=output)
    call = Call(OPS, "test")
    forwarded = passed(call, module, torch.tensor(x, requires_grad=True), y=torch.tensor(y))
    wanted = [float(gradreg_numpy.penalty(model, x[i : i + 1], y[i : i + 1], reg)) for i in range(len(x))]
    np.testing.assert_allclose(per_sample(reg, forwarded).detach().numpy(), wanted, rtol=FLOAT64)
