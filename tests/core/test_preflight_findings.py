"""Each finding of the pre-flight check: the call that it is about, and what its remedy says, done to the letter."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import torch
import torch.nn.functional as F
from torch import nn

import gradreg_jax
import gradreg_tensorflow
import gradreg_torch
from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.preflight import CheckReport
from gradreg_core.presets import R1, DataGrad, FrobReg, GradientPenalty, SpectReg

check = gradreg_torch.check
RANDOM = np.random.default_rng(7)
X = torch.tensor(RANDOM.normal(size=(6, 5)), dtype=torch.float32)
Y = torch.tensor([0, 1, 2, 0, 1, 2])
IMAGES = torch.tensor(RANDOM.normal(size=(3, 1, 8, 8)), dtype=torch.float32)


def network(*middle: nn.Module, out: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), *(middle or (nn.Tanh(),)), nn.Linear(8, out))


def wide(between: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 400), between, nn.Linear(400, 3))


NET = network()
DIFFERENCE = DataGrad(1.0, side="input", method="difference")
ROWS = nn.Parameter(torch.linspace(0.5, 1.5, 6)[:, None])
"""A parameter with a row for each sample: the search for arrays of the batch passes over parameters."""


class Detached(torch.autograd.Function):
    """Exp with the result detached in backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x.exp())
        return x.exp()

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        return g * ctx.saved_tensors[0].detach()


class Exponential(nn.Module):
    def __init__(self, right: bool) -> None:
        super().__init__()
        self.right = right

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (0.3 * x).exp() if self.right else Detached.apply(0.3 * x)


def stopped_loss(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (outputs * 0).sum(1)


def own_loss(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(outputs, y, reduction="none")


def pairs_loss(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return -F.log_softmax(outputs @ outputs.T, 1).diagonal()


def log_loss(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.nll_loss(outputs.log(), y, reduction="none")


def frozen() -> nn.Module:
    return network().requires_grad_(False)


def confident(dtype: torch.dtype) -> nn.Module:
    """A network whose loss, and so the gradient of DataGrad, is tiny."""
    net = network()
    with torch.no_grad():
        net[2].bias[0] += 7
    return net.to(dtype)


Check = Callable[[], CheckReport]
CASES: dict[str, tuple[str, Check, Check]] = {
    "input stopped": (
        r"error: x does not reach the outputs: the derivative is exactly zero.*rounding",
        lambda: check(lambda x: NET(x.round()), X, Y, SpectReg(1.0)),
        lambda: check(NET, X, Y, SpectReg(1.0)),
    ),
    "loss stopped": (
        r"error: the derivative of loss_fn with respect to the outputs is exactly zero",
        lambda: check(NET, X, Y, DataGrad(1.0), loss_fn=stopped_loss),
        lambda: check(NET, X, Y, DataGrad(1.0), loss_fn=own_loss),
    ),
    "parameters detached": (
        r"error: the penalty's gradient is None or 0 for every parameter.*\.detach\(\)",
        lambda: check(lambda x: (x @ NET[0].weight.detach().T).tanh(), X, Y, FrobReg(1.0)),
        lambda: check(lambda x: (x @ NET[0].weight.T).tanh(), X, Y, FrobReg(1.0)),
    ),
    "nothing trained": (
        r"error: the penalty's gradient reaches no parameter.*Let the parameters require a gradient",
        lambda: check(frozen(), X, Y, SpectReg(1.0)),
        lambda: check(frozen().requires_grad_(), X, Y, SpectReg(1.0)),
    ),
    "not finite": (
        r"error: the penalty's gradient is NaN or infinite.*sqrt, norm or log at 0",
        lambda: check(lambda x: NET(x) + (0 * x).square().sum(1, keepdim=True).sqrt(), X, Y, SpectReg(1.0)),
        lambda: check(lambda x: NET(x) + ((0 * x).square().sum(1, keepdim=True) + 1).sqrt(), X, Y, SpectReg(1.0)),
    ),
    "no second derivative": (
        r"error: 1 \(Hardsigmoid\) has no second derivative.*Replace it with differentiable operations",
        lambda: check(network(nn.Hardsigmoid()), X, Y, SpectReg(1.0)),
        lambda: check(network(nn.Sigmoid()), X, Y, SpectReg(1.0)),
    ),
    "no second derivative, behind": (
        r"error: 1 \(Hardsigmoid\) has no second derivative.*penalise an activation after it with at=",
        lambda: check(network(nn.Hardsigmoid(), nn.Linear(8, 8), nn.Tanh()), X, Y, SpectReg(1.0)),
        lambda: check(network(nn.Hardsigmoid(), nn.Linear(8, 8), nn.Tanh()), X, Y, SpectReg(1.0, at="2")),
    ),
    "no second derivative, in place": (
        r"error: 3 \(Hardsigmoid\) has no second derivative",
        lambda: check(network(nn.ReLU(inplace=True), nn.Linear(8, 8), nn.Hardsigmoid()), X, Y, SpectReg(1.0)),
        lambda: check(network(nn.ReLU(inplace=True), nn.Linear(8, 8), nn.Sigmoid()), X, Y, SpectReg(1.0)),
    ),
    "compiled": (
        r"error: an operation of the model has no second derivative.*Give gradreg the module that torch.compile",
        lambda: check(torch.compile(network(), backend="aot_eager"), X, Y, SpectReg(1.0)),
        lambda: check(network(), X, Y, SpectReg(1.0)),
    ),
    "wrong derivative": (
        r"error: the penalty's gradient differs from finite differences by.*without detach",
        lambda: check(network(Exponential(False)), X, Y, SpectReg(1.0)),
        lambda: check(network(Exponential(True)), X, Y, SpectReg(1.0)),
    ),
    "underflow": (
        r"warning: the penalty's gradient underflows in half precision: \d+% of it is lost.*or compute in bfloat16",
        lambda: check(confident(torch.float16), X.half(), Y * 0, DataGrad(1.0)),
        lambda: check(confident(torch.float32), X, Y * 0, DataGrad(1.0)),
    ),
    "blurred": (
        r"warning: rounding hides.*half precision.*Check a copy of the model in float32 too",
        lambda: check(network().bfloat16(), 0.01 * X.bfloat16(), Y, SpectReg(1.0)),
        lambda: check(network().bfloat16().float(), 0.01 * X, Y, SpectReg(1.0)),
    ),
    "rows of the batch": (
        r"error: with fraction=0.5 a part of the batch passes through the model alone.*gradreg\.Inputs\(x, mask\)",
        lambda: check(lambda x: NET(x) * ROWS[: len(x)], X, Y, SpectReg(1.0, fraction=0.5)),
        lambda: check(
            lambda x, r: NET(x) * r, gradreg_torch.Inputs(X, ROWS.detach(), wrt="0"), Y, SpectReg(1.0, fraction=0.5)
        ),
    ),
    "rows of the batch, every": (
        r"error: with fraction=0.5.*leave fraction= out and use every=",
        lambda: check(lambda x: NET(x) * ROWS[: len(x)], X, Y, SpectReg(1.0, fraction=0.5)),
        lambda: check(lambda x: NET(x) * ROWS[: len(x)], X, Y, SpectReg(1.0, every=2)),
    ),
    "batch statistics": (
        r"warning: .*1 \(BatchNorm1d\) is in training mode.*Use GroupNorm or LayerNorm",
        lambda: check(network(nn.BatchNorm1d(8), nn.Tanh()), X, Y, SpectReg(1.0)),
        lambda: check(network(nn.LayerNorm(8), nn.Tanh()), X, Y, SpectReg(1.0)),
    ),
    "batch statistics of a part": (
        r"warning: with fraction=0.5 the penalised part passes through the model alone.*use every= instead",
        lambda: check(network(nn.BatchNorm1d(8), nn.Tanh()), X, Y, SpectReg(1.0, fraction=0.5)),
        lambda: check(network(nn.BatchNorm1d(8), nn.Tanh()).eval(), X, Y, SpectReg(1.0, every=2)),
    ),
    "loss over pairs": (
        r"warning: the loss of a sample depends on the outputs of others.*Penalise the outputs, with SpectReg",
        lambda: check(NET, X, Y, DataGrad(1.0), loss_fn=pairs_loss),
        lambda: check(NET, X, Y, SpectReg(1.0), loss_fn=pairs_loss),
    ),
    "probabilities": (
        r"warning: the outputs of each sample are positive with sum 1.*pass the loss as loss_fn=",
        lambda: check(lambda x: NET(x).softmax(1), X, Y, SpectReg(1.0)),
        lambda: check(lambda x: NET(x).softmax(1), X, Y, SpectReg(1.0), loss_fn=log_loss),
    ),
    "one draw behind statistics": (
        r"warning: SpectReg\(1.0, draw='per_batch'\) penalises nothing but rounding.*or use GroupNorm or LayerNorm",
        lambda: check(network(nn.BatchNorm1d(8)), X, Y, SpectReg(1.0, draw="per_batch")),
        lambda: check(network(nn.LayerNorm(8)), X, Y, SpectReg(1.0, draw="per_batch")),
    ),
    "kinks of a difference": (
        r"warning: the gradient of the penalty by method='difference' changes by.*or smooth layers \(GELU",
        lambda: check(wide(nn.ReLU()), X, Y, DIFFERENCE),
        lambda: check(wide(nn.GELU()), X, Y, DIFFERENCE),
    ),
    "kinks of a difference, by product": (
        r"warning: the gradient of the penalty by method='difference'.*Use the output side or method='jvp'",
        lambda: check(wide(nn.ReLU()), X, Y, DIFFERENCE),
        lambda: check(wide(nn.ReLU()), X, Y, DataGrad(1.0, side="input", method="jvp")),
    ),
    "labels missing": (
        r"error: .*needs labels, but y is None; pass y",
        lambda: check(NET, X, None, DataGrad(1.0)),
        lambda: check(NET, X, Y, DataGrad(1.0)),
    ),
    "model fails": (
        r"error: the call raises AttributeError: .*without check for the whole traceback",
        lambda: check(lambda x: NET(x.absent), X, Y, SpectReg(1.0)),
        lambda: check(NET, X, Y, SpectReg(1.0)),
    ),
}


@pytest.mark.sample(14)
@pytest.mark.parametrize("name", CASES)
def test_a_finding_and_its_remedy(name: str) -> None:
    message, wrong, remedied = CASES[name]
    report = wrong()
    assert any(re.search(message, str(finding)) for finding in report.findings), str(report)
    assert report.ok is not any(finding.level == "error" for finding in report.findings)
    assert not remedied().findings, str(remedied())


@pytest.mark.parametrize("reg", [R1(10.0), GradientPenalty(10.0), FrobReg(1.0), SpectReg(1.0)])
def test_critics_and_encoders_are_judged_without_a_loss(reg: Any) -> None:
    assert not check(network(nn.LeakyReLU(0.2), out=1), X, None, reg).findings
    patches = nn.Sequential(nn.Conv2d(1, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 3))
    assert not check(patches, IMAGES, None, reg).findings


def test_a_keras_critic_is_judged_without_a_loss() -> None:
    layers = tf.keras.layers
    critic = tf.keras.Sequential([layers.Input((5,)), layers.Dense(4, "tanh"), layers.Dense(1)])
    assert not gradreg_tensorflow.check(critic, tf.constant(X.numpy()), None, R1(10.0)).findings


@pytest.mark.slow
def test_penalties_without_gradient_are_errors_in_jax() -> None:
    weight = jnp.asarray(RANDOM.normal(size=(5, 3)), jnp.float32)
    x, y = jnp.asarray(X.numpy()), np.asarray(Y)

    def model(x: Any) -> Any:
        return jnp.tanh(x @ weight)

    def stopped(outputs: Any, y: Any) -> Any:
        return jax.lax.stop_gradient(outputs).sum(1)

    reports = [
        gradreg_jax.check(lambda x: model(jax.lax.stop_gradient(x)), x, y, SpectReg(1.0)),
        gradreg_jax.check(lambda x: jnp.tanh(x @ jax.lax.stop_gradient(weight)), x, y, SpectReg(1.0)),
        gradreg_jax.check(model, x, y, DataGrad(1.0), loss_fn=stopped),
    ]
    for report in reports:
        assert not report.ok, str(report)
    assert not gradreg_jax.check(model, x, None, FrobReg(1.0)).findings


@pytest.mark.parametrize("module", [gradreg_torch, gradreg_jax, gradreg_tensorflow])
def test_arguments_that_are_none_of_gradreg_are_refused_by_name(module: Any) -> None:
    x = {gradreg_torch: X, gradreg_jax: jnp.asarray(X.numpy()), gradreg_tensorflow: tf.constant(X.numpy())}[module]
    y = np.asarray(Y) if module is not gradreg_torch else Y
    with pytest.raises(InputTypeError, match=r"check: expected a regularizer such as SpectReg\(0.01\), got None"):
        module.check(lambda x: x, x, y, None)
    with pytest.raises(InputError, match="check: x must have a batch axis with at least one sample"):
        module.check(lambda x: x, x[:0], y[:0], SpectReg(1.0))
    with pytest.raises(InputTypeError, match="check: model must be callable"):
        module.check(x, x, y, SpectReg(1.0))


def test_programs_that_are_traced_are_refused() -> None:
    def run(x: Any) -> Any:
        return gradreg_jax.check(lambda x: jnp.tanh(x), x, None, SpectReg(1.0)).disagreement

    with pytest.raises(InputError, match=r"check: it reads values.*Call it in eager mode"):
        jax.jit(run)(jnp.asarray(X.numpy()))


class Failing(nn.Module):
    """A module that fails from its n-th call on."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.net, self.left = network(nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Tanh()), calls

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        if self.left <= 0:
            raise OSError("the disk is full")
        out: torch.Tensor = self.net(x)
        return out


@pytest.mark.parametrize("calls", [1, 2, 3, 4, 7, 12, 20, 40])
@pytest.mark.parametrize("hidden", [True, False])
def test_whatever_fails_the_model_is_as_before(calls: int, hidden: bool) -> None:
    module = Failing(calls)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    identities, generator = [id(buffer) for buffer in module.buffers()], torch.random.get_rng_state()
    model = (lambda x: module(x)) if hidden else module
    report = check(model, X, Y, SpectReg(1.0))
    assert "OSError: the disk is full" in str(report) or module.left > 0, str(report)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert identities == [id(buffer) for buffer in module.buffers()]
    assert torch.equal(generator, torch.random.get_rng_state())
    assert module.training


def test_spectral_normalisation_is_right_and_left_alone() -> None:
    normal = nn.utils.parametrizations.spectral_norm
    torch.manual_seed(0)
    critic = nn.Sequential(normal(nn.Linear(5, 8)), nn.LeakyReLU(0.2), normal(nn.Linear(8, 1)))
    before = {name: value.clone() for name, value in critic.state_dict().items()}
    assert not check(critic, X, None, R1(10.0)).findings
    for name, value in critic.state_dict().items():
        assert torch.equal(value, before[name]), name
    layers = tf.keras.layers
    keras = tf.keras.Sequential(
        [layers.Input((5,)), layers.SpectralNormalization(layers.Dense(8, "tanh")), layers.Dense(1)]
    )
    values = [variable.numpy() for variable in keras.variables]
    assert not gradreg_tensorflow.check(
        lambda x: keras(x, training=True), tf.constant(X.numpy()), None, R1(10.0)
    ).findings
    for variable, value in zip(keras.variables, values, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
