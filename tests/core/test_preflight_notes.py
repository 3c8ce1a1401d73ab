"""Notes of `check` on how a model runs. Models that devices or processes share are in the frameworks' own tests."""

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
from gradreg_core.presets import SpectReg

W, X = (np.random.default_rng(0).normal(size=shape).astype("float32") for shape in ((5, 3), (6, 5)))
Y = np.arange(6) % 3
WEIGHT, VARIABLE = torch.tensor(W, requires_grad=True), tf.Variable(W)
AROUND = "To compile gradreg's call as well, compile the function around it."


def network(compiled_part: bool = False) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    if compiled_part:
        net[1].compile(backend="eager")
    return net


def compiled(model: Any) -> Any:
    return torch.compile(model, backend="eager")


MODELS: dict[str, tuple[Any, Any, tuple[str, ...]]] = {
    "PyTorch": (gradreg_torch, network, ()),
    "a compiled module": (gradreg_torch, lambda: compiled(network()), (f"torch.compile compiles the model. {AROUND}",)),
    "a compiled part": (gradreg_torch, lambda: network(True), (f"torch.compile compiles 1. {AROUND}",)),
    "a compiled function": (
        gradreg_torch,
        lambda: compiled(lambda x: x.tanh() @ WEIGHT),
        (f"torch.compile compiles the model. {AROUND}",),
    ),
    "JAX": (gradreg_jax, lambda: lambda x: jnp.tanh(x) @ W, ()),
    "jax.jit": (gradreg_jax, lambda: jax.jit(lambda x: jnp.tanh(x) @ W), ("jax.jit compiles the model.",)),
    "TensorFlow": (gradreg_tensorflow, lambda: lambda x: tf.tanh(x) @ VARIABLE, ()),
    "tf.function": (
        gradreg_tensorflow,
        lambda: tf.function(lambda x: tf.tanh(x) @ VARIABLE),
        ("tf.function compiles the model.",),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_report_says_how_the_model_runs(name: str) -> None:
    gradreg, make, notes = MODELS[name]
    array = {gradreg_torch: torch.tensor, gradreg_tensorflow: tf.constant}.get(gradreg, jnp.asarray)
    report = gradreg.check(make(), array(X), array(Y), SpectReg(1.0))
    assert report.ok, report
    assert report.notes == notes
    assert [f"seen: {note}" in str(report) for note in notes] == [True] * len(notes)


def test_the_note_stands_beside_what_a_compiled_module_cannot_do() -> None:
    torch._dynamo.reset()
    report = gradreg_torch.check(
        torch.compile(network(), backend="aot_eager"), torch.tensor(X), torch.tensor(Y), SpectReg(1.0)
    )
    assert not report.ok
    assert report.notes == (f"torch.compile compiles the model. {AROUND}",)
