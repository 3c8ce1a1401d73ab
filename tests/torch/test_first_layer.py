"""The gate before the first layer: it saves work and changes no value."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradreg_numpy
import gradreg_torch as gradreg
from cases import FLOAT64, problem, relative
from gradreg_torch import first_layer, networks


@pytest.fixture(autouse=True)
def gated_at_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_layer, "GATED_FROM", 0)


REGULARIZERS = [gradreg.DataGrad(2.0), gradreg.SpectReg(0.3, projections=2), gradreg.SpectralNormReg(0.4, iterations=2)]


def totals(model: nn.Module, x: Tensor, y: Tensor, reg: Any) -> tuple[float, dict[str, np.ndarray]]:
    """Total loss and parameter gradients by `backward()`, as users write it."""
    model.zero_grad()
    total, _ = gradreg.loss(model, x, y, reg, step=2, batch_norm="allow")
    total.backward()
    return total.item(), {name: parameter.grad.numpy().copy() for name, parameter in model.named_parameters()}


@pytest.mark.sample(11)
@pytest.mark.parametrize("reg", REGULARIZERS, ids=repr)
@pytest.mark.parametrize("name", ["dense", "relu", "conv", "pooled", "normed", "attention", "batch_norm"])
def test_networks_equal_the_reference(name: str, reg: Any) -> None:
    model, x, y = problem(name)
    module = networks.Module(model.network, model.params, torch.float64).eval()
    value, gradients = totals(module, torch.tensor(x), torch.tensor(y), reg)
    wanted = gradreg_numpy.gradient(model, x, y, reg, step=2, of="total")[0]
    assert value == pytest.approx(float(gradreg_numpy.loss(model, x, y, reg, step=2)[0]), rel=FLOAT64)
    assert relative(gradients, {path.replace(".", "_"): gradient for path, gradient in wanted.items()}) <= FLOAT64


def small(first: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(2), nn.Unflatten(2, (6, 6)), first, nn.Tanh(), nn.Flatten(), nn.LazyLinear(3))


@pytest.mark.parametrize("few", [1, 3])
@pytest.mark.parametrize("reg", REGULARIZERS, ids=repr)
def test_the_gate_before_the_first_layer_changes_nothing(few: int, reg: Any) -> None:
    torch.manual_seed(0)
    model = small(nn.Conv2d(few, 4, 3, padding=1)).double()
    x, y = torch.randn(5, few, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    model(x)
    mine = totals(model, x, y, reg)
    plain = totals(model, x.clone().requires_grad_(), y, reg)  # the caller's own leaf has no gate
    assert mine[0] == pytest.approx(plain[0], rel=FLOAT64)
    assert relative(mine[1], plain[1]) <= FLOAT64


def graph_names(value: Tensor) -> set[str]:
    """The names of all nodes of the graph."""
    seen, todo = set(), [value.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [function for function, _ in node.next_functions]
    return {node.name() for node in seen}


def test_the_final_backward_computes_no_gradient_of_the_input() -> None:
    model, x, y = nn.Linear(5, 3), torch.randn(4, 5), torch.tensor([0, 1, 2, 0])
    total, _ = gradreg.loss(model, x, y, gradreg.DataGrad(1.0))
    assert "_GateBackward" in graph_names(total)
    with torch.profiler.profile() as profile:
        total.backward()
    products = [event for event in profile.key_averages() if event.key == "aten::mm"]
    # The loss's and the pullback's weight gradient, and the pullback's product with W: not the loss's product with W.
    assert sum(event.count for event in products) == 3
    assert x.grad is None


def test_small_inputs_have_no_gate_and_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    x, y = torch.randn(4, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    gated = {repr(reg): totals(model, x, y, reg) for reg in REGULARIZERS}
    monkeypatch.setattr(first_layer, "GATED_FROM", x.numel() + 1)
    total, _ = gradreg.loss(model, x, y, gradreg.DataGrad(1.0))
    assert "_GateBackward" not in graph_names(total)
    for reg in REGULARIZERS:
        value, gradients = totals(model, x, y, reg)
        assert value == gated[repr(reg)][0]
        assert relative(gradients, gated[repr(reg)][1]) <= FLOAT64


def test_a_model_may_differentiate_itself() -> None:
    """The model is the gradient of an energy; the gate must not remove any of it."""

    class Field(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.energy = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

        def forward(self, x: Tensor) -> Tensor:
            x = x if x.requires_grad else x.detach().requires_grad_()
            (field,) = torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)
            return field

    torch.manual_seed(0)
    model, x, y = Field().double(), torch.randn(3, 4, dtype=torch.float64), torch.tensor([0, 1, 2])
    model.energy[2].bias.requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def gradients(at: Tensor) -> list[Tensor]:
        total, _ = gradreg.loss(model, at, y, gradreg.SpectReg(0.3))
        return list(torch.autograd.grad(total, trained))

    for one, other in zip(gradients(x), gradients(x.clone().requires_grad_()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_nothing_is_due_and_nothing_is_differentiated() -> None:
    model, x, y = nn.Linear(5, 3), torch.randn(4, 5), torch.tensor([0, 1, 2, 0])
    total, _ = gradreg.loss(model, x, y, gradreg.DataGrad(1.0, every=4), step=1)
    assert "_GateBackward" not in graph_names(total)


def test_checkpointed_first_layers_are_left_alone() -> None:
    torch.manual_seed(0)
    first, last = nn.Linear(5, 6), nn.Linear(6, 3)
    x, y, reg = torch.randn(4, 5), torch.tensor([0, 1, 2, 0]), gradreg.DataGrad(1.0)

    def weight_gradient(model: Any) -> Tensor:
        total, _ = gradreg.loss(model, x, y, reg)
        return torch.autograd.grad(total, first.weight)[0]

    plain = weight_gradient(lambda at: last(first(at).tanh()))
    saved = weight_gradient(lambda at: last(checkpoint(lambda inner: first(inner).tanh(), at, use_reentrant=False)))
    torch.testing.assert_close(saved, plain)
