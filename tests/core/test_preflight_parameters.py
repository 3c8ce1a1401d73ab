"""The pre-flight check compares the gradient with respect to the parameters too, and names those that it misses."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import torch
from torch import nn

import gradreg_jax
import gradreg_tensorflow
import gradreg_torch
from gradreg_core.presets import DataGrad, FrobReg, SpectReg

RANDOM = np.random.default_rng(5)
X = RANDOM.normal(size=(6, 5)).astype(np.float32)
Y = np.array([0, 1, 2, 0, 1, 2])
FIRST, LAST = (RANDOM.normal(size=size).astype(np.float32) / 2 for size in ((5, 4), (4, 3)))


class Scaled(torch.autograd.Function):
    """x exp(l), with a backward for l that forgets that x exp(l) depends on l."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        y = x * scale.exp()
        ctx.save_for_backward(scale.exp(), y)
        return y

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        factor, y = ctx.saved_tensors
        return g * factor.detach(), (g * y).sum()


class DetachedLinear(torch.autograd.Function):
    """x W with the weight detached in backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, weight = ctx.saved_tensors
        return g @ weight.detach().T, x.T @ g


class Net(nn.Module):
    def __init__(self, wrong: str) -> None:
        super().__init__()
        self.wrong = wrong
        self.first, self.last = nn.Parameter(torch.tensor(FIRST)), nn.Parameter(torch.tensor(LAST))
        self.scale = nn.Parameter(torch.tensor(0.3))
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = DetachedLinear.apply(x, self.first) if self.wrong == "linear" else x @ self.first
        h = gradreg_torch.tap("h", h.tanh())
        h = Scaled.apply(h, self.scale) if self.wrong == "scale" else h * self.scale.exp()
        last = DetachedLinear.apply(h, self.last) if self.wrong == "behind" else h @ self.last
        return last + self.bias


WRONG = {"scale": "scale", "linear": "first", "behind": "last"}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("hidden", [True, False])
def test_an_incomplete_backward_is_found_and_its_parameter_named(wrong: str, hidden: bool) -> None:
    net = Net(wrong)
    model = (lambda x: net(x)) if hidden else net
    report = gradreg_torch.check(model, torch.tensor(X), torch.tensor(Y), DataGrad(1.0))
    assert not report.ok
    name = f"net.{WRONG[wrong]}" if hidden else WRONG[wrong]
    assert any(name in finding.problem for finding in report.findings if finding.level == "error"), str(report)
    others = {f"net.{other}" if hidden else other for other in ("first", "last", "scale", "bias")} - {name}
    assert not any(f" {other}" in finding.problem for other in others for finding in report.findings), str(report)


@pytest.mark.parametrize("reg", [SpectReg(1.0), FrobReg(1.0), SpectReg(1.0, at="h"), SpectReg(1.0, of="h")])
def test_right_models_pass(reg: Any) -> None:
    report = gradreg_torch.check(Net(""), torch.tensor(X), torch.tensor(Y), reg)
    assert not report.findings, str(report)


def test_what_is_wrong_behind_a_place_is_found_there_alone() -> None:
    x, y = torch.tensor(X), torch.tensor(Y)
    report = gradreg_torch.check(Net("behind"), x, y, SpectReg(1.0, at="h"))
    assert not report.ok
    assert "last" in str(report), str(report)
    assert gradreg_torch.check(Net("behind"), x, y, SpectReg(1.0, of="h")).ok


def test_parameters_that_the_model_stops_are_not_blamed() -> None:
    net = Net("")

    def model(x: torch.Tensor) -> torch.Tensor:
        h = (x @ net.first.detach()).tanh()  # frozen in the forward pass already
        return h @ net.last

    assert not gradreg_torch.check(model, torch.tensor(X), torch.tensor(Y), SpectReg(1.0)).findings


def test_frozen_parameters_are_not_blamed() -> None:
    net = Net("linear")
    net.first.requires_grad_(False)
    assert gradreg_torch.check(net, torch.tensor(X), torch.tensor(Y), SpectReg(1.0)).ok


@jax.custom_vjp
def detached_in_jax(x: Any, weight: Any) -> Any:
    """The detached linear layer in JAX."""
    return x @ weight


detached_in_jax.defvjp(
    lambda x, weight: (x @ weight, (x, weight)),
    lambda kept, g: (g @ jax.lax.stop_gradient(kept[1]).T, kept[0].T @ g),
)


@tf.custom_gradient
def detached_in_tensorflow(x: tf.Tensor, weight: tf.Tensor) -> Any:
    """And in TensorFlow."""
    return x @ weight, lambda g: (g @ tf.transpose(tf.stop_gradient(weight)), tf.transpose(x) @ g)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [True, False])
def test_the_siblings_in_jax_and_tensorflow_are_found(wrong: bool) -> None:
    params = {"first": jnp.asarray(FIRST), "last": jnp.asarray(LAST)}
    first, last = tf.Variable(FIRST, name="first"), tf.Variable(LAST, name="last")

    def in_jax(x: Any) -> Any:
        linear = detached_in_jax if wrong else jnp.matmul
        return jnp.tanh(linear(x, params["first"])) @ params["last"]

    def in_tensorflow(x: Any) -> Any:
        linear = detached_in_tensorflow if wrong else tf.matmul
        return tf.tanh(linear(x, tf.convert_to_tensor(first))) @ last

    reports = [
        gradreg_jax.check(in_jax, jnp.asarray(X), Y, DataGrad(1.0)),
        gradreg_jax.check(jax.jit(in_jax), jnp.asarray(X), Y, DataGrad(1.0)),
        gradreg_tensorflow.check(in_tensorflow, tf.constant(X), Y, DataGrad(1.0)),
    ]
    for report in reports:
        assert report.ok is not wrong, str(report)
        assert ("first" in str(report)) is wrong, str(report)
        assert "last" not in str(report), str(report)


def test_weights_and_live_graphs_are_as_before() -> None:
    net, x, y = Net("scale"), torch.tensor(X), torch.tensor(Y)
    before = [parameter.detach().clone() for parameter in net.parameters()]
    loss = nn.functional.cross_entropy(net(x), y)
    gradreg_torch.check(net, x, y, DataGrad(1.0))
    loss.backward()  # its graph holds the weights at the versions that they had
    for parameter, value in zip(net.parameters(), before, strict=True):
        assert torch.equal(parameter, value)


@pytest.mark.parametrize("seed", range(3))
def test_a_generator_of_its_own_is_found(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    net = Net("")

    def model(x: torch.Tensor) -> torch.Tensor:
        mask = (torch.rand(x.shape, generator=generator) > 0.1).float()
        return net(x * mask)

    x, y = torch.tensor(X), torch.tensor(Y)
    report = gradreg_torch.check(model, x, y, SpectReg(1.0, side="input", method="difference"))
    assert not report.ok
    assert "on equal inputs the two passes differ" in str(report)
    report = gradreg_torch.check(model, x, y, SpectReg(1.0))
    assert report.ok, str(report)
    assert "draws random numbers that are out of the backend's reach" in str(report)


def test_the_row_of_padding_has_no_gradient_on_purpose() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 3, padding_idx=0), nn.Flatten(), nn.Tanh(), nn.Linear(6, 2)).double()
    with torch.no_grad():
        model[0].weight[0] = 0.5  # a row that counts, as it does in BERT where a mask is left out
    tokens = torch.tensor([[0, 1], [2, 0], [3, 4], [0, 0]])
    report = gradreg_torch.check(model, tokens, torch.tensor([0, 1, 1, 0]), SpectReg(1.0, at="0"))
    assert report.ok, report


def test_weights_that_were_computed_from_others_are_moved_themselves() -> None:
    """As in an inner step of training, whose weights functional_call takes."""
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    fast = {name: weight - 0.1 * weight.detach().sign() for name, weight in net.named_parameters()}
    model = lambda x: torch.func.functional_call(net, fast, (x,))  # noqa: E731
    before = [weight.detach().clone() for weight in fast.values()]
    x, y = torch.tensor(X, dtype=torch.float64), torch.tensor(Y)
    report = gradreg_torch.check(model, x, y, DataGrad(1.0) + FrobReg(1.0))
    assert report.ok, report
    assert all(map(torch.equal, fast.values(), before))
    report = gradreg_torch.check(lambda x: model(x) + x[:, :3] * fast["2.bias"].detach(), x, y, FrobReg(1.0))
    assert "fast['2.bias']" in str(report)
