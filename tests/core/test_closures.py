"""Models that hold arrays of the batch themselves: a part of the batch is then taken from a pass over the whole."""

import functools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradreg_torch
from gradreg_core.presets import SpectReg
from gradreg_torch.backend import TorchBackend
from minimal_backend import CALLS

EXACT = 1e-12
"""Relative, of float64 sums of a few dozen products."""
BATCH = 4
OPS = TorchBackend()
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(BATCH, 5, generator=GENERATOR, dtype=torch.float64)
SCALE = torch.rand(BATCH, 1, generator=GENERATOR, dtype=torch.float64)
Y = torch.tensor([0, 2, 1, 1])
MODULE = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
HELD = {"scale": SCALE}


class Conditioned(nn.Module):
    """A module that was given the condition of the batch before the call."""

    def __init__(self, scale: Any) -> None:
        super().__init__()
        self.body, self.scale = MODULE, scale

    def forward(self, x: Tensor) -> Tensor:
        scale = self.scale["scale"] if isinstance(self.scale, dict) else self.scale
        return self.body(x) * torch.as_tensor(scale)[: len(x)]


class Plain:
    """A callable object."""

    __slots__ = ("scale",)

    def __init__(self, scale: Tensor) -> None:
        self.scale = scale

    def __call__(self, x: Tensor) -> Tensor:
        return MODULE(x) * self.scale[: len(x)]


def with_keyword(x: Tensor, scale: Tensor) -> Tensor:
    return MODULE(x) * scale[: len(x)]


def with_default(x: Tensor, scale: Tensor = SCALE) -> Tensor:
    return MODULE(x) * scale[: len(x)]


def with_global(x: Tensor) -> Tensor:
    return MODULE(x) * HELD["scale"][: len(x)]


def models() -> dict[str, Any]:
    scale, array = SCALE, SCALE.numpy()
    numbers = [float(value) for value in SCALE]
    holder = SimpleNamespace(inner={"scale": scale})
    return {
        "closure": lambda x: MODULE(x) * scale[: len(x)],
        "closure in a closure": (lambda f: lambda x: f(x))(lambda x: MODULE(x) * scale[: len(x)]),
        "numpy": lambda x: MODULE(x) * torch.as_tensor(array[: len(x)]),
        "numbers": lambda x: MODULE(x) * torch.tensor(numbers[: len(x)], dtype=torch.float64)[:, None],
        "an object": lambda x: MODULE(x) * holder.inner["scale"][: len(x)],
        "partial": functools.partial(with_keyword, scale=scale),
        "default": with_default,
        "global": with_global,
        "attribute": Conditioned(scale),
        "attribute of numpy": Conditioned(array),
        "nested attribute": Conditioned({"scale": scale}),
        "slots": Plain(scale),
        "bound method": Plain(scale).__call__,
        "module in a closure": (lambda module: lambda x: module(x))(Conditioned(scale)),
    }


@pytest.mark.parametrize("calls", CALLS)
@pytest.mark.parametrize("name", models())
def test_the_loss_is_that_of_the_whole_batch_and_the_penalty_that_of_the_part(name: str, calls: str) -> None:
    model, reg = models()[name], SpectReg(1.0, fraction=0.5)
    assert OPS.holds_samples(model, BATCH)
    total, parts = CALLS[calls].loss(model, X, Y, reg)
    torch.testing.assert_close(parts.loss, F.cross_entropy(MODULE(X) * SCALE, Y), rtol=EXACT, atol=0)
    torch.testing.assert_close(parts.outputs, MODULE(X) * SCALE, rtol=EXACT, atol=0)
    alone = [
        CALLS[calls]
        .penalty(lambda x, i=i: MODULE(x) * SCALE[i], X[i : i + 1], None, SpectReg(1.0), sample_ids=torch.tensor([i]))
        .detach()
        for i in range(BATCH)
    ]
    halves = torch.stack([(alone[i] + alone[j]) / 2 for i in range(BATCH) for j in range(i)])
    assert float(((halves - parts.penalty[0].detach()) / halves).abs().min()) < EXACT
    torch.testing.assert_close(total, parts.loss + parts.penalty[0])


@pytest.mark.parametrize(
    "model",
    [MODULE, lambda x: MODULE(x), functools.partial(MODULE), MODULE.forward, torch.tanh, lambda x: F.relu(x)],
    ids=["module", "function", "partial", "method", "builtin", "functional"],
)
def test_a_model_without_arrays_of_the_batch_is_split(model: Any) -> None:
    for size in (3, 5, 6):  # the lengths of the parameters
        assert not OPS.holds_samples(model, size)


def test_a_cycle_ends() -> None:
    held: dict[str, Any] = {}
    held["self"] = held
    assert not OPS.holds_samples(lambda x: held and x, BATCH)


def test_too_much_to_look_at_counts_as_held() -> None:
    many = [object() for _ in range(30_000)]
    assert OPS.holds_samples(lambda x: many and x, BATCH)


def test_a_scalar_is_no_sample() -> None:
    temperature = np.float64(2.0)
    assert not OPS.holds_samples(lambda x: x * temperature, BATCH)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [None, SCALE], ids=["module", "with an attribute"])
def test_under_compile(scale: Tensor | None) -> None:
    model: nn.Module = MODULE if scale is None else Conditioned(scale)
    reg = SpectReg(1.0, fraction=0.5)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x: gradreg_torch.loss(model, x, Y, reg, step=0)[0], fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(X), gradreg_torch.loss(model, X, Y, reg, step=0)[0], rtol=EXACT, atol=0)
