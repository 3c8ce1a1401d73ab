"""PyTorch's modes: resuming, compiling once, half precision, hidden activations, output shapes, several processes."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

import gradreg_torch as gradreg
import numpy as np
import torch
from gradreg_core.errors import InputError
from gradreg_core.spec import JacobianPenalty
from gradreg_torch.compat import JacobianReg
from torch import nn

REG = gradreg.DataGrad(2.0) + gradreg.SpectReg(0.5, seed=3)
DOUBLE = torch.float64


def make(seed: int = 0, dtype: torch.dtype = DOUBLE) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Softplus(), nn.Linear(6, 3)).to(dtype)


def batch(step: int = 0, size: int = 6, dtype: torch.dtype = DOUBLE) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(size, 5, generator=generator, dtype=dtype), torch.randint(3, (size,), generator=generator)


def gradients(total: torch.Tensor, model: nn.Module) -> torch.Tensor:
    found = torch.autograd.grad(total, list(model.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([each.flatten() for each in found])


class Run:
    """A training run with everything that a checkpoint must hold."""

    def __init__(self) -> None:
        self.model = make()
        self.criterion = gradreg.Criterion(None, REG)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)

    def train(self, start: int, stop: int) -> list[float]:
        losses = []
        for step in range(start, stop):
            total, _ = self.criterion(self.model, *batch(step))
            self.optimizer.zero_grad()
            total.backward()
            self.optimizer.step()
            losses.append(total.item())
        return losses

    def state(self) -> dict[str, Any]:
        return {name: getattr(self, name).state_dict() for name in ("model", "criterion", "optimizer")}


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Any) -> None:
    whole = Run()
    wanted = whole.train(0, 8)
    first = Run()
    losses = first.train(0, 5)
    torch.save(first.state(), tmp_path / "run.pt")
    second = Run()
    for name, state in torch.load(tmp_path / "run.pt").items():
        getattr(second, name).load_state_dict(state)
    assert losses + second.train(5, 8) == wanted
    assert second.criterion.step.item() == 8
    forgetful = Run()
    forgetful.model.load_state_dict(first.model.state_dict())
    assert forgetful.train(5, 8) != wanted[5:]  # the step in the state is what makes the draws go on


def test_the_criterion_counts_in_training_mode_only() -> None:
    criterion, model = gradreg.Criterion(None, gradreg.SpectReg(1.0)), make()
    first = criterion(model, *batch())[0].item()
    criterion.eval()
    second, again = criterion(model, *batch())[0].item(), criterion(model, *batch())[0].item()
    assert second == again != first
    assert criterion.step.item() == 1
    assert "SpectReg(1.0)" in repr(criterion)


def test_ten_steps_compile_once() -> None:
    model = make()
    reg = gradreg.DataGrad(lambda step: 0.125 * (step + 1)) + gradreg.SpectReg(0.5, every=3)
    counter = CompileCounterWithBackend("aot_eager")

    def total(x: torch.Tensor, y: torch.Tensor, step: Any) -> torch.Tensor:
        return gradreg.loss(model, x, y, reg, step=step)[0]

    torch._dynamo.reset()
    compiled = torch.compile(total, fullgraph=True, backend=counter)
    for step in range(10):
        x, y = batch(step)
        found, wanted = compiled(x, y, torch.tensor(step)), total(x, y, step)
        assert found.item() == pytest.approx(wanted.item(), rel=1e-12)
        torch.testing.assert_close(gradients(found, model), gradients(wanted, model))
    assert counter.frame_count == 1
    criterion = gradreg.Criterion(None, reg)
    counter.frame_count = 0
    stepping = torch.compile(lambda x, y: criterion(model, x, y)[0], fullgraph=True, backend=counter)
    values = [stepping(*batch(step)).item() for step in range(10)]
    assert values == pytest.approx([total(*batch(step), step).item() for step in range(10)], rel=1e-12)
    assert counter.frame_count == 1


def test_python_steps_compile_at_most_twice() -> None:
    """Dynamo first takes an int for a constant; from the second value on it is an input."""
    model, counter = make(), CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x, y, step: gradreg.loss(model, x, y, REG, step=step)[0], fullgraph=True, backend=counter
    )
    for step in range(10):
        wanted = gradreg.loss(model, *batch(), REG, step=step)[0].item()
        assert compiled(*batch(), step).item() == pytest.approx(wanted, rel=1e-12)
    assert counter.frame_count <= 2


@pytest.mark.parametrize("convert", [int, torch.tensor])
def test_seeds_of_the_call_compile_at_most_twice(convert: Any) -> None:
    model, reg, counter = make(), gradreg.SpectReg(0.5), CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x, y, seed: gradreg.loss(model, x, y, reg, seed=seed)[0],
        fullgraph=True,
        backend=counter,
    )
    for seed in (0, 1, 7, 2**40, 2**62):
        wanted = gradreg.loss(model, *batch(), gradreg.SpectReg(0.5, seed=seed))[0].item()
        assert compiled(*batch(), convert(seed)).item() == pytest.approx(wanted, rel=1e-12)
    assert counter.frame_count <= 2


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
    (found,) = torch.autograd.grad(value * 2.0**10, [model.weight])
    assert (found > 0).all()


def test_autocast() -> None:
    model, (x, y) = make(dtype=torch.float32), batch(dtype=torch.float32)
    wanted = gradients(gradreg.loss(model, x, y, REG)[0], model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = gradreg.loss(model, x, y, REG)
    assert total.dtype == torch.float32
    found = gradients(total, model)
    assert (found - wanted).norm() / wanted.norm() < 0.05  # bfloat16 keeps 8 bits: a few of its roundings of 0.4 %


def test_the_scaled_loss_of_mixed_precision_unscales_to_the_same() -> None:
    model, (x, y) = make(dtype=torch.float32), batch(dtype=torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    total, _ = gradreg.loss(model, x, y, REG)
    wanted = gradients(total, model)
    scaler.scale(gradreg.loss(model, x, y, REG)[0]).backward()
    scaler.unscale_(optimizer)
    found = torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])
    torch.testing.assert_close(found, wanted)  # a power of two scales exactly


def test_a_hidden_activation_by_name_equals_passing_the_head() -> None:
    model, (x, y) = make(), batch()
    named = gradreg.penalty(model, x, y, gradreg.DataGrad(1.0, at="1"))
    hidden = model[:2](x)
    headed = gradreg.penalty(model[2:], hidden, y, gradreg.DataGrad(1.0))
    torch.testing.assert_close(named, headed)
    torch.testing.assert_close(gradients(named, model), gradients(headed, model))
    both = gradreg.penalty(model, x, y, gradreg.DataGrad(1.0, at="1") + gradreg.DataGrad(1.0))
    torch.testing.assert_close(both, named + gradreg.penalty(model, x, y, gradreg.DataGrad(1.0)))


def test_tokens_are_penalised_at_their_embedding() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    tokens, y = torch.randint(10, (6, 3)), batch()[1]
    total, _ = gradreg.loss(model, tokens, y, gradreg.DataGrad(1.0, at="0"))
    head = gradreg.loss(model[1:], model[0](tokens), y, gradreg.DataGrad(1.0))[0]
    torch.testing.assert_close(total, head)
    assert (gradients(total, model) != 0).any()


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
    each = nn.functional.binary_cross_entropy_with_logits(inner(leaf)[:, 0], labels, reduction="sum")
    (gradient,) = torch.autograd.grad(each, leaf)
    torch.testing.assert_close(parts.penalty[0], gradient.square().sum(1).mean())
    hard = gradreg.loss(lambda x: inner(x).reshape(shape), x, (y > 0).long().reshape(shape), gradreg.DataGrad(1.0))
    torch.testing.assert_close(hard[0], total)


@pytest.mark.parametrize(
    "loss_fn",
    [
        nn.CrossEntropyLoss(reduction="none"),
        nn.CrossEntropyLoss(reduction="none", label_smoothing=0.1),
        nn.MultiMarginLoss(reduction="none", p=2),
        lambda z, y: (z - nn.functional.one_hot(y, 3)).square(),
        lambda z, y: nn.functional.huber_loss(z, nn.functional.one_hot(y, 3).double(), reduction="none"),
    ],
)
@pytest.mark.parametrize("compiled", [False, True])
def test_any_differentiable_loss(loss_fn: Any, compiled: bool) -> None:
    if compiled and isinstance(loss_fn, nn.MultiMarginLoss):
        pytest.skip("multi_margin_loss has no second derivative in PyTorch")
    model, (x, y) = make(), batch()
    reg = gradreg.DataGrad(1.0)

    def total(x: torch.Tensor) -> Any:
        value, parts = gradreg.loss(model, x, y, reg, loss_fn=loss_fn)
        return value, parts.loss, parts.penalty[0]

    torch._dynamo.reset()
    _, loss, penalty = (torch.compile(total, fullgraph=True, backend="aot_eager") if compiled else total)(x)
    leaf = x.clone().requires_grad_()
    each = loss_fn(model(leaf), y).reshape(6, -1).mean(1)
    torch.testing.assert_close(loss, each.mean())
    (gradient,) = torch.autograd.grad(each.sum(), leaf, create_graph=not isinstance(loss_fn, nn.MultiMarginLoss))
    torch.testing.assert_close(penalty, gradient.square().sum(1).mean())


def test_gradients_flow_to_the_input_and_to_what_made_it() -> None:
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

    found = torch.func.grad(total)({name: each.detach() for name, each in params.items()})
    wanted = gradients(gradreg.loss(model, x, y, REG)[0], model)
    torch.testing.assert_close(torch.cat([found[name].flatten() for name in params]), wanted)


def reference_jacobian_regularizer(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The published algorithm for n = -1: a backward pass for each output, 1/2 * sum of squares / B."""
    total = torch.zeros((), dtype=y.dtype)
    for k in range(y.shape[1]):
        v = torch.zeros_like(y)
        v[:, k] = 1
        (row,) = torch.autograd.grad(y, x, v, retain_graph=True, create_graph=True)
        total = total + y.shape[1] * row.norm() ** 2 / (y.shape[1] * y.shape[0])
    return 0.5 * total


def test_the_drop_in_equals_the_package_that_it_stands_in_for() -> None:
    model, (x, _) = make(), batch()
    x.requires_grad_()
    found, wanted = JacobianReg(n=-1)(x, model(x)), reference_jacobian_regularizer(x, model(x))
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradients(found, model), gradients(wanted, model))
    y = model(x)
    for n in (1, 2):
        estimate = JacobianReg(n)
        draws = np.array([estimate(x, y).item() for _ in range(300)])
        assert abs(draws.mean() - wanted.item()) < 5 * draws.std() / np.sqrt(300)  # five standard errors
        assert draws.std() > 0
        assert estimate.state_dict() == {}
    with pytest.raises(InputError, match=r"x must require a gradient; call x\.requires_grad_"):
        JacobianReg()(x.detach(), y)
    with pytest.raises(InputError, match="x does not reach the outputs"):
        JacobianReg()(x, model(x.detach().clone()))


def test_single_lens_norms_against_explicit_jacobians() -> None:
    model, (x, _) = make(), batch()
    J = torch.func.vmap(torch.func.jacrev(model))(x)
    for norm, wanted in (("l1", J.abs().sum((1, 2))), ("linf", J.abs().amax((1, 2))), ("l2", J.norm(dim=(1, 2)))):
        reg = JacobianPenalty(1.0, projection=gradreg.exact(), norm=norm, squared=False)
        torch.testing.assert_close(gradreg.penalty(model, x, None, reg), wanted.mean())


def test_two_processes_give_the_gradient_of_one(tmp_path: Path) -> None:
    """DistributedDataParallel on gloo: each rank has half the batch and the draws of the whole."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = Path(__file__).with_name("distributed_step.py")
    ranks = [
        subprocess.Popen([sys.executable, str(script), str(rank), "2", str(port), str(tmp_path)]) for rank in range(2)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    found = torch.cat([each.flatten() for each in torch.load(tmp_path / "gradients.pt")])
    wanted = torch.load(tmp_path / "wanted.pt")
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-15)  # the mean of two means of three, in float64


def test_given_directions_follow_the_class_axis() -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv1d(2, 4, 1).double(), torch.randn(3, 2, 5, dtype=DOUBLE)
    v = torch.randn(3, 4, 5, dtype=DOUBLE)
    reg = JacobianPenalty(1.0, projection=gradreg.direction())
    found = [gradreg.penalty(conv, x, None, reg, directions=v, class_axis=axis) for axis in (None, 1, -2)]
    leaf = x.clone().requires_grad_()
    (pulled,) = torch.autograd.grad(conv(leaf), leaf, v)
    for value in found:
        torch.testing.assert_close(value.detach(), pulled.square().sum((1, 2)).mean())
