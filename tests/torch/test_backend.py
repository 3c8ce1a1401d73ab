"""The PyTorch backend in PyTorch's own modes, for any loss and any shape of the outputs."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import gradreg_torch as gradreg
from gradreg_core.errors import DoubleBackwardError
from gradreg_core.plugins.dispatch import load_backend
from gradreg_core.presets import SpectReg
from gradreg_core.spec import JacobianPenalty
from gradreg_torch.calls import calls
from torch_cases import DOUBLE, REG, batch, gradients, make


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_accumulates_in_float32(dtype: torch.dtype) -> None:
    model, (x, y) = make(dtype=dtype), batch(dtype=dtype)
    total, parts = gradreg.loss(model, x, y, REG)
    assert total.dtype == parts.penalty[0].dtype == torch.float32
    exact = gradreg.loss(make().to(dtype).double(), x.double(), y, REG)[0]
    # Five layers forward and back round some twenty times by the unit roundoff, which is half of eps.
    assert total.item() == pytest.approx(exact.item(), rel=10 * torch.finfo(dtype).eps)
    assert gradients(total, model).isfinite().all()


def test_gradients_whose_squares_underflow_in_half_precision_count() -> None:
    model, (x, _) = nn.Linear(5, 3).half(), batch(dtype=torch.float16)
    with torch.no_grad():
        model.weight.fill_(1e-4)  # its square, 1e-8, is below float16's smallest number, 6e-8
    value = gradreg.penalty(model, x, None, gradreg.FrobReg(1.0))
    assert value.item() == pytest.approx(15e-8, rel=1e-2)  # 1e-4 itself is rounded by 2^-11 in float16
    (gradient,) = torch.autograd.grad(value * 2.0**10, [model.weight])
    assert (gradient > 0).all()


def test_autocast() -> None:
    model, (x, y) = make(dtype=torch.float32), batch(dtype=torch.float32)
    wanted = gradients(gradreg.loss(model, x, y, REG)[0], model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = gradreg.loss(model, x, y, REG)
    assert total.dtype == torch.float32
    rounded = gradients(total, model)
    assert (rounded - wanted).norm() / wanted.norm() < 0.05  # bfloat16 keeps 8 bits: a few roundings of 0.4 %


def test_the_scaled_loss_of_mixed_precision_unscales_to_the_same() -> None:
    model, (x, y) = make(dtype=torch.float32), batch(dtype=torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    total, _ = gradreg.loss(model, x, y, REG)
    wanted = gradients(total, model)
    scaler.scale(gradreg.loss(model, x, y, REG)[0]).backward()
    scaler.unscale_(optimizer)
    unscaled = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
    torch.testing.assert_close(unscaled, wanted)  # a power of two scales exactly


def test_float16_under_a_gradient_scaler() -> None:
    model, (x, y) = make(dtype=torch.float32), batch(dtype=torch.float32)
    exact = make(dtype=torch.float32).double()
    wanted, parts = gradreg.loss(exact, x.double(), y, REG)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with torch.autocast("cpu", dtype=torch.float16):
        total, halves = gradreg.loss(model, x, y, REG)
    assert total.dtype == torch.float32
    scaler.scale(total).backward()
    scaler.unscale_(optimizer)
    came = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
    # Five layers, forward and back, round some twenty times by the unit roundoff, which is half of eps; and twice that
    # often once more differentiated.
    eps = torch.finfo(torch.float16).eps
    assert [p.item() for p in halves.penalty] == pytest.approx([p.item() for p in parts.penalty], rel=10 * eps)
    slope = gradients(wanted, exact)
    assert (came - slope).norm() <= 20 * eps * slope.norm()
    assert came.norm() != slope.norm()


def test_check_under_autocast_names_the_scale_with_which_nothing_is_lost() -> None:
    model, (x, y) = make(dtype=torch.float32), batch(dtype=torch.float32)
    reg = gradreg.SpectReg(1e-6)
    wanted = gradients(gradreg.penalty(model.double(), x.double(), None, reg), model)
    model.float()
    with torch.autocast("cpu", dtype=torch.float16):
        (finding,) = gradreg.check(model, x, y, reg).findings
        scale = float(re.findall(r"multiply the total by (\d+)", finding.remedy)[0])
        plain, scaled = (gradients(s * gradreg.penalty(model, x, None, reg), model) / s for s in (1.0, scale))
    assert "underflows in half precision" in finding.problem
    assert (plain - wanted).norm() > 0.1 * wanted.norm()
    assert (scaled - wanted).norm() <= 20 * torch.finfo(torch.float16).eps * wanted.norm()


def test_outputs_of_any_rank() -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(2, 4, 3, padding=1).double(), torch.randn(3, 2, 5, 5, dtype=DOUBLE)
    y = torch.randint(4, (3, 5, 5))
    for reg in (gradreg.DataGrad(1.0), gradreg.OneHot(1.0), gradreg.InputFisher(1.0), gradreg.ConfidencePenalty(1.0)):
        first = gradreg.loss(conv, x, y, reg, class_axis=1)
        last = gradreg.loss(lambda x: conv(x).movedim(1, -1), x, y, reg, class_axis=-1)
        torch.testing.assert_close(first[0], last[0])
    whole = gradreg.penalty(conv, x, None, gradreg.FrobReg(1.0))
    J = torch.autograd.functional.jacobian(conv, x)
    wanted = sum(J[i, ..., i, :, :, :].square().sum() for i in range(3)) / 3
    torch.testing.assert_close(whole, wanted)
    scalar = nn.Sequential(nn.Flatten(), nn.Linear(50, 1), nn.Flatten(0)).double()
    assert gradreg.penalty(scalar, x, None, gradreg.R1(1.0)).item() == pytest.approx(
        0.5 * scalar[1].weight.square().sum().item(), rel=1e-12
    )


@pytest.mark.parametrize("shape", [(6,), (6, 1)])
def test_a_single_logit_is_binary(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    inner, (x, y) = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)).double(), batch()
    labels = (y > 0).double()
    total, parts = gradreg.loss(lambda x: inner(x).reshape(shape), x, labels.reshape(shape), gradreg.DataGrad(1.0))
    wanted = nn.functional.binary_cross_entropy_with_logits(inner(x)[:, 0], labels)
    torch.testing.assert_close(parts.loss, wanted)
    leaf = x.clone().requires_grad_()
    loss_sum = nn.functional.binary_cross_entropy_with_logits(inner(leaf)[:, 0], labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss_sum, leaf)
    torch.testing.assert_close(parts.penalty[0], gradient.square().sum(1).mean())
    hard = gradreg.loss(lambda x: inner(x).reshape(shape), x, (y > 0).long().reshape(shape), gradreg.DataGrad(1.0))
    torch.testing.assert_close(hard[0], total)


LOSSES = [
    nn.CrossEntropyLoss(reduction="none"),
    nn.CrossEntropyLoss(reduction="none", label_smoothing=0.1),
    lambda z, y: (z - nn.functional.one_hot(y, 3)).square(),
    lambda z, y: nn.functional.huber_loss(z, nn.functional.one_hot(y, 3).double(), reduction="none"),
]
ONCE_DIFFERENTIABLE = nn.MultiMarginLoss(reduction="none", p=2)


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_any_differentiable_loss(compiled: bool) -> None:
    model, (x, y) = make(), batch()
    losses, reg = LOSSES, gradreg.DataGrad(1.0)

    def values(x: torch.Tensor) -> Any:
        evaluated = [gradreg.loss(model, x, y, reg, loss_fn=loss_fn)[1] for loss_fn in losses]
        return [(parts.loss, parts.penalty[0]) for parts in evaluated]

    torch._dynamo.reset()
    results = (torch.compile(values, fullgraph=True, backend="aot_eager") if compiled else values)(x)
    for loss_fn, (loss, penalty) in zip(losses, results, strict=True):
        leaf = x.clone().requires_grad_()
        per_sample = loss_fn(model(leaf), y).reshape(6, -1).mean(1)
        torch.testing.assert_close(loss, per_sample.mean())
        (gradient,) = torch.autograd.grad(per_sample.sum(), leaf)
        torch.testing.assert_close(penalty, gradient.square().sum(1).mean())


def test_a_loss_with_a_first_derivative_alone_has_values_but_no_training() -> None:
    model, (x, y), reg = make(), batch(), gradreg.DataGrad(1.0)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(ONCE_DIFFERENTIABLE(model(leaf), y).sum(), leaf)
    with pytest.raises(DoubleBackwardError, match=r"For the value alone call it under torch.no_grad\(\)"):
        gradreg.penalty(model, x, y, reg, loss_fn=ONCE_DIFFERENTIABLE)
    with torch.no_grad():
        value = gradreg.penalty(model, x, y, reg, loss_fn=ONCE_DIFFERENTIABLE)
    torch.testing.assert_close(value, gradient.square().sum(1).mean())


def test_gradients_flow_to_the_input_and_its_history() -> None:
    model, (x, y) = make(), batch()
    body = nn.Linear(5, 5).double()
    total, _ = gradreg.loss(model, body(x), y, REG)
    total.backward()
    assert (body.weight.grad != 0).any()
    leaf = x.clone().requires_grad_()
    gradreg.penalty(model, leaf, y, REG).backward()
    assert (leaf.grad != 0).any()


def test_checkpointing_without_reentry_is_exact() -> None:
    model, (x, y) = make(), batch()
    wanted = gradients(gradreg.loss(model, x, y, REG)[0], model)

    def recomputed(x: torch.Tensor) -> torch.Tensor:
        return model[2:](checkpoint(model[:2], x, use_reentrant=False))

    torch.testing.assert_close(gradients(gradreg.loss(recomputed, x, y, REG)[0], model), wanted)


def test_functional_transforms() -> None:
    model, (x, y) = make(), batch()
    params = dict(model.named_parameters())

    def total(params: Any) -> torch.Tensor:
        return gradreg.loss(lambda x: torch.func.functional_call(model, params, (x,)), x, y, REG)[0]

    transformed = torch.func.grad(total)({name: parameter.detach() for name, parameter in params.items()})
    wanted = gradients(gradreg.loss(model, x, y, REG)[0], model)
    torch.testing.assert_close(torch.cat([transformed[name].flatten() for name in params]), wanted)


COMPILES = "ignore:.torch.jit.script. is deprecated:DeprecationWarning"
"""PyTorch compiles its formulas for forward mode so when it first needs them."""
FORWARD = (SpectReg(1.0), REG, SpectReg(1.0, side="input"), SpectReg(1.0, side="input", method="difference"))


@pytest.mark.filterwarnings(COMPILES)
@pytest.mark.parametrize("reg", FORWARD, ids=["output", "loss", "jvp", "difference"])
def test_forward_mode_and_vmap(reg: Any) -> None:
    """The slope along a direction, of the input and of a weight, and several batches at once."""
    model, (x, y) = make().double(), batch()
    x, direction = x.double(), torch.ones_like(x, dtype=torch.float64)

    def total(x: torch.Tensor) -> torch.Tensor:
        return gradreg.loss(model, x, y, reg)[0]

    def slope(x: torch.Tensor) -> float:
        with forward_ad.dual_level():
            return float(forward_ad.unpack_dual(total(forward_ad.make_dual(x, direction))).tangent.detach())

    h = 1e-5
    wanted = float((total(x + h * direction) - total(x - h * direction)).detach()) / (2 * h)
    for value in (slope(x), float(torch.func.jvp(total, (x,), (direction,))[1].detach())):
        assert value == pytest.approx(wanted, rel=1e-6)  # roundoff of 1e-16 / h
    together = torch.func.vmap(total)(torch.stack([x, 2 * x]))
    torch.testing.assert_close(together, torch.stack([total(x), total(2 * x)]))


def test_single_lens_norms_against_explicit_jacobians() -> None:
    model, (x, _) = make(), batch()
    J = torch.func.vmap(torch.func.jacrev(model))(x)
    for norm, wanted in (("l1", J.abs().sum((1, 2))), ("linf", J.abs().amax((1, 2))), ("l2", J.norm(dim=(1, 2)))):
        reg = JacobianPenalty(1.0, projection=gradreg.exact(), norm=norm, squared=False)
        torch.testing.assert_close(gradreg.penalty(model, x, None, reg), wanted.mean())


def test_given_directions_follow_the_class_axis() -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv1d(2, 4, 1).double(), torch.randn(3, 2, 5, dtype=DOUBLE)
    v = torch.randn(3, 4, 5, dtype=DOUBLE)
    reg = JacobianPenalty(1.0, projection=gradreg.direction())
    values = [gradreg.penalty(conv, x, None, reg, directions=v, class_axis=axis) for axis in (None, 1, -2)]
    leaf = x.clone().requires_grad_()
    (pulled,) = torch.autograd.grad(conv(leaf), leaf, v)
    for value in values:
        torch.testing.assert_close(value.detach(), pulled.square().sum((1, 2)).mean())


def test_no_grad_gives_the_value_alone() -> None:
    model, (x, y) = make(), batch()
    with torch.no_grad():
        total, parts = gradreg.loss(model, x, y, REG)
        assert not any(array.requires_grad for array in (total, parts.loss, *parts.penalty, parts.outputs))
    torch.testing.assert_close(total, gradreg.loss(model, x, y, REG)[0].detach())


def test_numpy_labels_and_lists_are_taken() -> None:
    model, (x, y) = make(), batch()
    wanted = gradreg.loss(model, x, y, REG)[0]
    for labels in (y.numpy(), y.tolist(), y.int(), np.int16(y.numpy())):
        torch.testing.assert_close(gradreg.loss(model, x, labels, REG)[0], wanted)


def test_numpy_labels_that_are_read_only_are_taken_without_a_warning() -> None:
    model, (x, y) = make(), batch()
    labels = y.numpy().copy()
    labels.setflags(write=False)
    torch.testing.assert_close(gradreg.loss(model, x, labels, REG)[0], gradreg.loss(model, x, y, REG)[0])


def test_the_plugin_has_the_calls_that_users_import() -> None:
    """So the kit certifies them, with their primitives for eager mode."""
    assert load_backend("torch") is calls
