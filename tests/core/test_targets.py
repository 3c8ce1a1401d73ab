"""Jacobians that are drawn to a target: an array or a teacher, in all frameworks, and targets that do not fit."""

from typing import Any

import pytest
import torch
from torch import nn

import gradreg_torch
from cases import FLOAT64
from gradreg_conformance import Case, agreement
from gradreg_core.errors import InputError, SpecError
from gradreg_core.portable import networks as nets
from gradreg_core.presets import DataGrad, SobolevReg, SpectReg
from gradreg_core.projections import exact, fisher, orthonormal, top_singular
from gradreg_core.spec import JacobianPenalty, Regularizer

BACKENDS = {"torch": "eager", "jax": "jit", "tensorflow": "eager"}
NETWORK = nets.Network((2, 2), (nets.Dense(3), nets.Activation("tanh"), nets.Flatten(), nets.Dense(3)))
"""Its inputs have two axes."""
REGULARIZERS: list[tuple[str, Regularizer]] = [
    ("outputs", SobolevReg(0.5, seed=3)),
    ("teacher", SobolevReg(0.5, projection=exact(), output="probabilities", norm="l1", squared=False)),
    ("teacher", SobolevReg(0.5, projection=top_singular(2), fraction=0.5) + DataGrad(1.0)),
    ("outputs", SobolevReg(0.5, projection=orthonormal(2), output="log_probabilities", draw="per_batch", every=2)),
    ("loss", SobolevReg(0.5, projection=exact(), output="loss")),
    ("teacher", SobolevReg(0.5, projection=exact(), output="loss") + SobolevReg(0.2, seed=1)),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("target", "reg"), REGULARIZERS, ids=[f"{target}-{reg}" for target, reg in REGULARIZERS])
def test_float64_equals_the_reference(target: str, reg: Regularizer, backend: str) -> None:
    case = Case(NETWORK, reg, 4, step=2, target=target)
    comparisons = agreement(backend, case, mode=BACKENDS[backend], of="total")
    assert max(comparison.relative for comparison in comparisons.values()) <= FLOAT64


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["func", "compile"])
@pytest.mark.parametrize("target", ["outputs", "teacher"])
def test_in_the_other_modes_of_pytorch(target: str, mode: str) -> None:
    comparisons = agreement("torch", Case(NETWORK, SobolevReg(0.5), 3, target=target), mode=mode)
    assert max(comparison.relative for comparison in comparisons.values()) <= FLOAT64


# --- what a target is -------------------------------------------------------------------------------------------------
def small(seed: int = 0, outputs: int = 2) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, outputs)).double()


X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)


def test_nothing_flows_into_the_target() -> None:
    model, teacher, x = small(), small(1), X.clone().requires_grad_()
    T = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    for target in (teacher, T):
        gradreg_torch.penalty(model, x, None, SobolevReg(1.0), target=target).backward()
    assert T.grad is None
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(bool((parameter.grad != 0).any()) for parameter in model.parameters() if parameter.grad is not None)


def test_a_teacher_keeps_its_state() -> None:
    model = small()
    teacher = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)).double().train()
    before = [buffer.clone() for buffer in teacher.buffers()]
    gradreg_torch.penalty(model, X, None, SobolevReg(1.0), target=teacher)
    assert all(map(torch.equal, before, teacher.buffers()))


def test_a_model_that_is_its_own_teacher_costs_nothing_and_learns_nothing() -> None:
    model = small()
    value = gradreg_torch.penalty(model, X, None, SobolevReg(1.0, projection=exact()), target=model)
    value.backward()
    assert value.item() == 0
    assert all(bool((parameter.grad == 0).all()) for parameter in model.parameters() if parameter.grad is not None)


def test_classes_on_another_axis_and_positions_without_weight() -> None:
    """Outputs (B, classes, positions), the last position left out."""
    torch.manual_seed(0)
    weight = torch.randn(4, 6, dtype=torch.float64)
    T = torch.randn(3, 2, 3, 4, dtype=torch.float64)

    def model(x: torch.Tensor) -> torch.Tensor:
        return (x @ weight).tanh().reshape(-1, 2, 3)

    J = torch.autograd.functional.jacobian(lambda x: model(x).sum(0), X).movedim(2, 0)  # (B, 2, 3, 4)
    counts = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    wanted = ((J - T)[:, :, :2] ** 2).sum() / 3
    value = gradreg_torch.penalty(
        model, X, None, SobolevReg(1.0, projection=exact()), target=T, class_axis=1, position_weight=counts.expand(3, 3)
    )
    assert value.item() == pytest.approx(wanted.item(), rel=FLOAT64)


def test_a_target_for_a_hidden_layer_has_its_shape() -> None:
    model, T = small(), torch.randn(3, 2, 5, dtype=torch.float64)
    reg = SobolevReg(1.0, projection=exact(), at="1")
    wanted = ((model[2].weight - T) ** 2).sum() / 3  # type: ignore[index]
    assert gradreg_torch.penalty(model, X, None, reg, target=T).item() == pytest.approx(wanted.item(), rel=FLOAT64)


# --- refusals ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("reg", "target", "message"),
    [
        (SobolevReg(1.0), None, r"penalty: SobolevReg\(1.0\) needs a target Jacobian; pass target="),
        (SpectReg(1.0), torch.ones(3, 2, 4), r"target= was given, but no term of SpectReg\(1.0\) uses it"),
        (SpectReg(1.0), small(), "target= was given, but no term"),
        (SobolevReg(1.0), torch.ones(3, 2, 5), r"target= must have shape \(3, 2, 4\), .* got \(3, 2, 5\)"),
        (SobolevReg(1.0), torch.ones(2, 4), r"must have shape \(3, 2, 4\), .* got \(2, 4\)"),
        (SobolevReg(1.0), small(outputs=3), r"the teacher of target= must have the outputs of the model, \(3, 2\)"),
        (SobolevReg(1.0, at="1"), small(), "a teacher has its own places, so at= and of= take the target as an array"),
    ],
)
def test_a_target_that_does_not_fit(reg: Regularizer, target: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        gradreg_torch.penalty(small(), X, None, reg, target=target)


def test_a_teacher_without_gradient_is_named() -> None:
    teacher = torch.no_grad()(small())
    with pytest.raises(InputError, match=r"penalty: the teacher of target= cannot be differentiated: .*outputs"):
        gradreg_torch.penalty(small(), X, None, SobolevReg(1.0), target=teacher)


def test_a_target_needs_the_calls_that_have_a_regularizer() -> None:
    with pytest.raises(InputError, match="loss: target= was given, but no term of None uses it"):
        gradreg_torch.loss(small(), X, torch.zeros(3, dtype=torch.long), None, target=torch.ones(3, 2, 4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SobolevReg(1.0, projection=fisher()), r"SobolevReg: a target Jacobian goes with .* got fisher\(\)"),
        (lambda: JacobianPenalty(1.0, to_target=True, side="input"), "a target Jacobian .* got side='input'"),
        (lambda: SobolevReg(1.0, output="loss"), "SobolevReg: the loss is one number per sample"),
    ],
)
def test_specifications_that_make_no_sense(make: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make()
