"""The pre-flight check on models with many kinks, as most are: it passes the right ones and finds the wrong ones."""

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
from gradreg_core.preflight import CheckReport
from gradreg_core.presets import DataGrad, SpectReg

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(32, 9, 9, 1)).astype(np.float32)
LABELS = RANDOM.integers(0, 3, 32)
KERNEL = RANDOM.normal(size=(3, 3, 1, 8)).astype(np.float32) / 3
BIAS = RANDOM.normal(size=8).astype(np.float32) / 3
MIX = np.linalg.qr(RANDOM.normal(size=(8, 8)))[0].astype(np.float32)
HEAD = RANDOM.normal(size=(128, 3)).astype(np.float32) / 10


def each_maximum(z: torch.Tensor) -> torch.Tensor:
    """The largest component of each sample."""
    return torch.stack([sample.max() for sample in z]).reshape(-1, 1, 1, 1)


TORCH: dict[str, Callable[..., Any]] = {
    "relu": F.relu,
    "module": nn.ReLU(),
    "leaky relu": nn.LeakyReLU(0.1),
    "prelu": nn.PReLU(8),
    "relu6": nn.ReLU6(),
    "hard tanh": nn.Hardtanh(),
    "elu": nn.ELU(0.5),
    "celu": nn.CELU(0.5),
    "selu": F.selu,
    "clamp": lambda z: z.clamp(-0.5, 0.5),
    "clip": lambda z: torch.clip(z, max=0.5).clamp_min(-0.5),
    "soft shrink": nn.Softshrink(),
    "largest": lambda z: z - z.amax(1, keepdim=True) + z.max(1, keepdim=True).values * each_maximum(z),
    "adaptive": lambda z: F.adaptive_max_pool2d(F.pad(z, (0, 7, 0, 7)), (7, 7)),
    "abs": torch.abs,
    "maximum": lambda z: torch.maximum(z, 0.5 * z),
    "minimum": lambda z: torch.minimum(z, 0.5 * z),
    "tanh": torch.tanh,
}
JAX: dict[str, tuple[Callable[..., Any], ...]] = {
    "rectifiers": (jax.nn.relu, jax.nn.leaky_relu, jax.nn.relu6, jnp.abs, lambda z: jnp.maximum(z, 0.1)),
    "exponential": (jax.nn.elu, jax.nn.celu, jax.nn.selu, jax.nn.silu, jnp.tanh),
    "bounds": (
        jax.nn.hard_tanh,
        lambda z: jnp.clip(z, -0.5, 0.5),
        lambda z: jax.lax.clamp(-0.5, z, 0.5),
        lambda z: jnp.minimum(z, 1e7),  # far away
    ),
    "largest": (
        lambda z: z - z.max(-1, keepdims=True),
        lambda z: jax.nn.softmax(jnp.where(jnp.arange(8) < 6, z, -jnp.inf)) * z,
        lambda z: jax.lax.top_k(jax.nn.relu(z), z.shape[-1])[0] * 0 + jax.nn.relu(z),
    ),
    "programs": (
        jax.checkpoint(jax.nn.relu),
        jax.jit(jax.nn.relu),
        lambda z: jax.lax.scan(lambda carry, row: (carry, jnp.tanh(row)), 0.0, jax.nn.relu(z - 0.2))[1],
    ),
}
"""Several in one model, each behind a mixture of the channels: a program takes seconds to compile."""


def torch_model(kind: str) -> Callable[[torch.Tensor], torch.Tensor]:
    convolution, head = nn.Conv2d(1, 8, 3), nn.Linear(128, 3)
    with torch.no_grad():
        convolution.weight.copy_(torch.tensor(KERNEL).permute(3, 2, 0, 1))
        convolution.bias.copy_(torch.tensor(BIAS))
        head.weight.copy_(torch.tensor(HEAD.T))

    def model(x: torch.Tensor) -> torch.Tensor:
        z = TORCH[kind](convolution(x.permute(0, 3, 1, 2)))
        return head(F.max_pool2d(z, 2, padding=1).flatten(1))

    return model


def jax_model(*kinds: Callable[..., Any]) -> Callable[[Any], Any]:
    def model(x: Any) -> Any:
        z = jax.lax.conv_general_dilated(x, KERNEL, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")) + BIAS
        for kind in kinds:
            z = kind(z @ MIX)
        pooled = jax.lax.reduce_window(z, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")
        return pooled.reshape(len(x), -1)[:, :128] @ HEAD

    return model


def torch_check(model: Any, reg: Any) -> CheckReport:
    return gradreg_torch.check(model, torch.tensor(IMAGES), torch.tensor(LABELS), reg)


def jax_check(model: Any, reg: Any) -> CheckReport:
    return gradreg_jax.check(model, jnp.asarray(IMAGES), jnp.asarray(LABELS), reg)


def agrees(report: CheckReport) -> bool:
    """Whether nothing was found; 5e-3 is what the check itself allows, see `preflight.AGREEMENT`."""
    return not report.findings and report.disagreement is not None and report.disagreement < 5e-3


@pytest.mark.sample(8)
@pytest.mark.parametrize("kind", TORCH)
def test_pytorch_models_with_kinks_pass(kind: str) -> None:
    for reg in (DataGrad(1.0), SpectReg(1.0)):
        report = torch_check(torch_model(kind), reg)
        assert agrees(report), str(report)


@pytest.mark.slow
@pytest.mark.sample(2)
@pytest.mark.parametrize("kinds", JAX)
def test_jax_models_with_kinks_pass(kinds: str) -> None:
    report = jax_check(jax_model(*JAX[kinds]), DataGrad(1.0) + SpectReg(1.0))
    assert agrees(report), str(report)


class WrongSecond(torch.autograd.Function):
    """sin with a right first and a wrong second derivative."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        return g * ctx.saved_tensors[0].cos().detach()


@jax.custom_vjp
def wrong_second(x: Any) -> Any:
    """The same in JAX."""
    return jnp.sin(x)


wrong_second.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jax.lax.stop_gradient(jnp.cos(x)),))


@pytest.mark.slow
def test_a_wrong_second_derivative_behind_kinks_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TORCH, "relu", lambda z: WrongSecond.apply(F.relu(z)))
    in_jax = jax_model(lambda z: wrong_second(jax.nn.relu(z)))
    for report in (torch_check(torch_model("relu"), DataGrad(1.0)), jax_check(in_jax, DataGrad(1.0))):
        assert "differs from finite differences by" in str(report)


def test_a_wrong_second_derivative_without_kinks_is_found() -> None:
    torch.manual_seed(0)
    first, last = nn.Linear(5, 6), nn.Linear(6, 3)
    x, y = torch.linspace(-1, 1, 20).reshape(4, 5), torch.tensor([0, 1, 2, 1])
    report = gradreg_torch.check(lambda x: last(WrongSecond.apply(first(x))), x, y, DataGrad(1.0))
    assert not report.ok
    assert "differs from finite differences by" in str(report)


def test_kinks_that_are_not_known_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TORCH, "relu", lambda z: torch.where(z > 0, z, 0.1 * z))
    report = torch_check(torch_model("relu"), DataGrad(1.0))
    assert report.ok
    assert "could not be verified" in str(report)


@pytest.mark.slow
def test_a_jax_model_that_looks_at_values_is_checked_as_it_is() -> None:
    def model(x: Any) -> Any:
        return jnp.tanh(x.reshape(len(x), -1)[:, :81] @ HEAD[:81]) * (1 if float(IMAGES.sum()) else 2)

    assert agrees(jax_check(model, DataGrad(1.0)))


@pytest.mark.slow
@pytest.mark.parametrize("kinks", [True, False])
def test_a_difference_over_kinks_is_warned_of(kinks: bool) -> None:
    reg = DataGrad(1.0, side="input", method="difference")
    kind, jax_kind = ("relu", jax.nn.relu) if kinks else ("tanh", jnp.tanh)
    pooled = nn.Sequential(nn.Flatten(), nn.Linear(81, 32), nn.ReLU() if kinks else nn.Tanh(), nn.Linear(32, 3))
    weights = [tf.Variable(RANDOM.normal(size=size) / 5, dtype=tf.float32) for size in ((81, 32), (32, 3))]

    def dense(x: Any) -> Any:
        return getattr(tf.nn, kind)(tf.reshape(x, (len(x), -1)) @ weights[0]) @ weights[1]

    reports = [
        torch_check(pooled, reg),
        jax_check(lambda x: jax_kind(x.reshape(len(x), -1) @ weights[0].numpy()) @ weights[1].numpy(), reg),
        gradreg_tensorflow.check(dense, tf.constant(IMAGES), tf.constant(LABELS), reg),
    ]
    for report in reports:
        assert report.ok, str(report)
        assert ("changes by" in str(report) and "kinks" in str(report)) is kinks


@pytest.mark.slow
@pytest.mark.sample(2)
@pytest.mark.parametrize("normalisation", ["batch", "layer"])
@pytest.mark.parametrize("draw", ["per_batch", "per_sample"])
def test_one_draw_for_the_batch_behind_batch_normalisation_penalises_nothing(normalisation: str, draw: Any) -> None:
    axis = {"batch": 0, "layer": 1}[normalisation]
    first, last = (RANDOM.normal(size=size).astype(np.float32) / 5 for size in ((81, 32), (32, 3)))

    weight, variable = torch.tensor(first, requires_grad=True), tf.Variable(first)

    def in_torch(x: torch.Tensor) -> torch.Tensor:
        z = (x.flatten(1) @ weight).tanh()
        normed = F.batch_norm(z, None, None, training=True) if axis == 0 else F.layer_norm(z, (32,))
        return normed @ torch.tensor(last)

    def in_jax(x: jax.Array) -> jax.Array:
        return jax.nn.standardize(jnp.tanh(x.reshape(len(x), -1) @ first), axis) @ last

    def in_tensorflow(x: Any) -> Any:
        z = tf.tanh(tf.reshape(x, (len(x), -1)) @ variable)
        centred = z - tf.reduce_mean(z, axis, keepdims=True)
        return centred / tf.sqrt(tf.reduce_mean(centred**2, axis, keepdims=True) + 1e-5) @ last

    reg = SpectReg(1.0, draw=draw)
    reports = [
        torch_check(in_torch, reg),
        jax_check(in_jax, reg),
        gradreg_tensorflow.check(in_tensorflow, tf.constant(IMAGES), tf.constant(LABELS), reg),
    ]
    empty = normalisation == "batch" and draw == "per_batch"
    for report in reports:
        assert report.ok, str(report)
        assert ("penalises nothing but rounding" in str(report)) == empty, str(report)
        assert (report.disagreement is None) == empty


@pytest.mark.slow
@pytest.mark.parametrize("softmax", [True, False])
def test_a_model_that_ends_in_a_softmax_is_warned_of(softmax: bool) -> None:
    weight = tf.constant(RANDOM.normal(size=(81, 3)) / 5, tf.float32)
    keras = tf.keras.Sequential([tf.keras.layers.Flatten(), tf.keras.layers.Dense(3, "softmax" if softmax else None)])
    last = jax.nn.softmax if softmax else lambda z: z
    module = nn.Sequential(nn.Flatten(), nn.Linear(81, 3), nn.Softmax(1) if softmax else nn.Identity())

    def in_jax(x: jax.Array) -> jax.Array:
        return last(x.reshape(len(x), -1) @ weight.numpy())

    def log_loss(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.nll_loss(outputs.log(), y, reduction="none")

    reg = SpectReg(0.01, every=8)
    reports = [
        torch_check(module, reg),
        jax_check(in_jax, reg),
        gradreg_tensorflow.check(keras, tf.constant(IMAGES), tf.constant(LABELS), reg),
    ]
    for report in reports:
        assert report.ok, str(report)
        assert ("Return the logits" in str(report)) == softmax, str(report)
    if softmax:
        x, y = torch.tensor(IMAGES), torch.tensor(LABELS)
        assert not gradreg_torch.check(module, x, y, reg, loss_fn=log_loss).findings
