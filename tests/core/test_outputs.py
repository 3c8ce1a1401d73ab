"""Outputs: their values, and how directions pass through the output map, against autograd and the reference."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import gradreg_numpy
import gradreg_torch
from cases import FLOAT64, problem
from forward_cases import made
from gradreg_core.errors import InputError
from gradreg_core.forward import Call, Forward
from gradreg_core.outputs import OUTPUTS, losses
from gradreg_core.presets import DataGrad
from gradreg_core.projections import exact
from gradreg_core.spec import JacobianPenalty
from gradreg_torch.backend import TorchBackend
from gradreg_torch.networks import Module

OPS = TorchBackend()
SHAPES = {"classes": (3, 4), "binary": (3, 1), "positions": (3, 2, 4), "binary positions": (3, 2, 1), "flat": (3,)}


def squared_errors(outputs: Tensor, y: Tensor) -> Tensor:
    return (outputs - y) ** 2


def forward(outputs: Tensor, y: Any = None, **options: Any) -> Forward:
    """A forward pass that gave these outputs."""
    class_axis = -1 if outputs.dim() > 2 else None
    x = torch.zeros(len(outputs), 1, dtype=torch.float64)
    return made(Call(OPS, "test", class_axis=class_axis, **options), x, outputs, y)


def random(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(shape: tuple[int, ...], kind: str, seed: int) -> Tensor:
    """Integer labels, soft labels, or targets of a regression for outputs of `shape`."""
    generator = torch.Generator().manual_seed(seed)
    binary = len(shape) == 1 or shape[-1] == 1
    if kind == "soft":
        z = random(shape, seed)
        return z.sigmoid() if binary else z.softmax(-1)
    if kind == "custom":
        return random(shape, seed)
    return torch.randint(2 if binary else shape[-1], shape if binary else shape[:-1], generator=generator)


def options(kind: str) -> dict[str, Any]:
    return {"loss_fn": squared_errors} if kind == "custom" else {}


seeds = st.integers(0, 2**32 - 1)
shapes = st.sampled_from(list(SHAPES.values()))
kinds = st.sampled_from(["hard", "soft", "custom"])


@pytest.mark.parametrize("name", OUTPUTS)
@given(shapes, kinds, seeds)
def test_pull_and_push_are_adjoint(name: str, shape: tuple[int, ...], kind: str, seed: int) -> None:
    """<w, push t> = <pull w, t> for each sample."""
    passed, output = forward(random(shape, seed), labels(shape, kind, seed), **options(kind)), OUTPUTS[name]
    w, t = random(output.shape(passed), seed + 1), random(passed.layout.canonical, seed + 2)
    one = (w * output.push(passed, t)).sum((1, 2))
    other = (output.pull(passed, w) * t).sum((1, 2))
    torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", OUTPUTS)
@given(shapes, kinds, seeds)
def test_pull_is_the_derivative_of_the_value_and_differentiable(
    name: str, shape: tuple[int, ...], kind: str, seed: int
) -> None:
    z = random(shape, seed).requires_grad_()
    passed, output = forward(z, labels(shape, kind, seed), **options(kind)), OUTPUTS[name]
    w = random(output.shape(passed), seed + 1)
    value = output.value(passed)
    assert tuple(value.shape) == output.shape(passed)
    (wanted,) = torch.autograd.grad((value * w).sum(), z, create_graph=True)
    pulled = output.pull(passed, w).reshape(shape)
    torch.testing.assert_close(pulled, wanted, rtol=1e-11, atol=1e-12)
    if pulled.requires_grad or wanted.requires_grad:
        v = random(shape, seed + 2)
        slopes = [
            torch.autograd.grad((row * v).sum(), z, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
            for row in (pulled, wanted)
            if row.requires_grad
        ]
        torch.testing.assert_close(slopes[0], slopes[-1], rtol=1e-10, atol=1e-12)
        assert len(slopes) == 2 or name == "logits" or float(slopes[0].abs().max()) == 0.0


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("network", ["dense", "critic"])
def test_a_penalty_on_an_output_is_that_of_the_reference(name: str, network: str) -> None:
    model, x, y = problem(network)
    reg = JacobianPenalty(1.0, projection=exact(), output=name)
    module, inputs = Module(model.network, model.params, torch.float64), torch.tensor(x, requires_grad=True)
    value = gradreg_torch.penalty(module, inputs, torch.tensor(y), reg)
    assert value.item() == pytest.approx(float(gradreg_numpy.penalty(model, x, y, reg)), rel=FLOAT64)
    _, wanted = gradreg_numpy.gradient(model, x, y, reg)
    np.testing.assert_allclose(torch.autograd.grad(value, inputs)[0].numpy(), wanted, rtol=1e-9, atol=1e-11)


# --- losses ----------------------------------------------------------------------------------------------------------
def test_losses_are_pytorchs_averaged_over_positions() -> None:
    z = random((3, 2, 4), 0)
    hard, soft = labels((3, 2, 4), "hard", 1), labels((3, 2, 4), "soft", 1)
    moved = z.movedim(-1, 1)
    torch.testing.assert_close(losses(forward(z, hard)), F.cross_entropy(moved, hard, reduction="none").mean(1))
    wanted = F.cross_entropy(moved, soft.movedim(-1, 1), reduction="none").mean(1)
    torch.testing.assert_close(losses(forward(z, soft)), wanted)
    flat, targets = random((5,), 2), labels((5,), "hard", 3)
    wanted = F.binary_cross_entropy_with_logits(flat, targets.double(), reduction="none")
    torch.testing.assert_close(losses(forward(flat, targets)), wanted)


def test_extreme_logits_have_finite_losses_and_gradients() -> None:
    for z in (torch.tensor([[1e4, -1e4]]), torch.tensor([1e4]), torch.tensor([-1e4])):
        passed = forward(z.double().requires_grad_(), torch.tensor([1]))
        value = losses(passed)
        assert math.isfinite(value.item())
        assert bool(OUTPUTS["loss"].pull(passed, torch.ones(1, 1, 1)).isfinite().all())


def test_a_loss_of_the_caller_is_averaged_over_further_axes() -> None:
    z, y = random((3, 2, 4), 0), random((3, 2, 4), 1)
    wanted = ((z - y) ** 2).mean((1, 2))
    torch.testing.assert_close(losses(forward(z, y, loss_fn=squared_errors)), wanted)
    half = losses(forward(z.half(), y.half(), loss_fn=squared_errors))
    assert half.dtype == torch.float32


def summed(outputs: Tensor, y: Tensor) -> Tensor:
    return ((outputs - y) ** 2).sum()


def as_number(outputs: Tensor, y: Tensor) -> float:
    return 3.0


def broadcast(outputs: Tensor, y: Tensor) -> Tensor:
    return (outputs[:, :1] - y[:, 0]) ** 2


@pytest.mark.parametrize(
    ("loss_fn", "message"),
    [
        (
            summed,
            r"test: loss_fn must return one loss for each sample, shape \(5, \.\.\.\), got a result of shape \(\)",
        ),
        (as_number, "one loss for each sample.*got float.*reduction='none'"),
        (broadcast, r"losses of shape \(5, 5\) for outputs of shape \(5, 2\), more than one for each output"),
    ],
)
def test_losses_of_the_wrong_shape_are_refused(loss_fn: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        losses(forward(random((5, 2), 0), random((5, 2), 1), loss_fn=loss_fn))


@pytest.mark.parametrize("name", [name for name in OUTPUTS if name != "logits"])
def test_outputs_that_need_classes_ask_for_their_axis(name: str) -> None:
    x = torch.zeros(3, 1)
    passed = made(Call(OPS, "test"), x, random((3, 2, 4), 0), torch.zeros(3, 2))
    subject = "loss" if name == "loss" else name
    with pytest.raises(InputError, match=rf"test: a penalty on the {subject} needs to know which axis"):
        OUTPUTS[name].pull(passed, torch.ones(OUTPUTS[name].shape(passed)))


def test_the_loss_needs_labels() -> None:
    with pytest.raises(InputError, match="penalty: a penalty on the loss needs labels, but y is None; pass y"):
        gradreg_torch.penalty(lambda x: x, torch.ones(2, 3), None, DataGrad(1.0))
