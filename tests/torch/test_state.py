"""State in attributes, generators and scripted modules moves once in a call, and not at all in check."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradreg_torch as gradreg
from gradreg_core.spec import Regularizer

X = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(4, 6)
Y = torch.tensor([0, 1, 2, 0])
WHOLE, PART = gradreg.SpectReg(1.0), gradreg.SpectReg(1.0, fraction=0.5)
DIFFERENCE = gradreg.SpectReg(1.0, side="input", method="difference")
REGULARIZERS = [WHOLE, PART, WHOLE + PART, DIFFERENCE, WHOLE + DIFFERENCE, gradreg.DataGrad(1.0, method="difference")]


class Counting(nn.Module):
    """Scales by the number of its calls, and keeps it in every kind of place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 5).double(), nn.Linear(5, 3).double()
        self.calls, self.seen, self.sums = 0, list[int](), {"x": 0.0}
        self.register_buffer("running", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(self.calls)
        self.sums["x"] += float(x.detach().sum())
        self.running = self.running + 1  # another tensor in its place
        self.latest = x.detach()
        return self.last(torch.tanh(self.first(x) * (1 + float(self.running) / 10)))


class Masking(nn.Module):
    """Draws masks from a generator of its own."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 5).double(), nn.Linear(5, 3).double()
        self.generator: Any = {
            "torch": torch.Generator().manual_seed(0),
            "numpy": np.random.default_rng(0),
            "legacy": np.random.RandomState(0),
            "python": random.Random(0),
        }[kind]

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.generator, torch.Generator):
            mask = torch.rand(5, generator=self.generator, dtype=x.dtype)
        elif isinstance(self.generator, random.Random):
            mask = torch.tensor([self.generator.random() for _ in range(5)], dtype=x.dtype)
        else:
            mask = torch.as_tensor(self.generator.normal(size=5))
        return self.last(torch.tanh(self.first(x) * mask))


@pytest.mark.parametrize("reg", REGULARIZERS)
@pytest.mark.parametrize("is_function", [False, True])
def test_attributes_move_once(reg: Regularizer, is_function: bool) -> None:
    model = Counting()
    total, _ = gradreg.loss((lambda x: model(x)) if is_function else model, X, Y, reg, step=0)
    assert total.isfinite()
    assert (model.calls, model.seen, float(model.running)) == (1, [1], 1.0)
    assert model.sums == {"x": float(X.sum())} or reg is PART  # which sees a part alone
    assert gradreg.check(model, X, Y, reg).ok
    assert (model.calls, model.seen, float(model.running)) == (1, [1], 1.0)


@pytest.mark.parametrize("kind", ["torch", "numpy", "legacy", "python"])
def test_generators_draw_alike_in_both_passes_of_a_difference(kind: str) -> None:
    by_product = gradreg.penalty(Masking(kind), X, None, gradreg.SpectReg(1.0, side="input"))
    model = Masking(kind)
    torch.testing.assert_close(gradreg.penalty(model, X, None, DIFFERENCE), by_product, rtol=0.05, atol=0)  # order of h
    once = Masking(kind)
    once(X)
    torch.testing.assert_close(model(X), once(X))
    report = gradreg.check(Masking(kind), X, Y, DIFFERENCE)
    assert report.ok, report
    assert not report.findings, report


def test_a_function_with_draws_of_its_own_has_no_underflow() -> None:
    model, generator = Masking("torch"), torch.Generator().manual_seed(1)

    def scaled(x: Tensor) -> Tensor:
        return model(x) * torch.rand((), generator=generator, dtype=x.dtype)

    assert "underflow" not in str(gradreg.check(scaled, X, Y, WHOLE))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is (deprecated|not supported)")
@pytest.mark.parametrize("reg", REGULARIZERS)
@pytest.mark.parametrize("is_nested", [False, True])
def test_statistics_of_scripted_modules_move_once(reg: Regularizer, is_nested: bool) -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        scripted = torch.jit.script(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)))
        return (nn.Sequential(scripted, nn.Tanh()) if is_nested else scripted).double()

    model, once = make(), make()
    gradreg.loss(model, X, Y, reg, step=0, batch_norm="allow")[0].backward()
    if reg is not PART:
        once(X)
        torch.testing.assert_close(dict(model.named_buffers()), dict(once.named_buffers()))
    assert [int(buffer) for name, buffer in model.named_buffers() if name.endswith("num_batches_tracked")] == [1]
