"""Fast layers and the gate before the first one: equal to PyTorch's own, to finite differences and to the reference."""

from collections.abc import Callable
from typing import Any

import pytest

import gradreg_numpy
import gradreg_torch as gradreg
import numpy as np
import torch
from cases import FLOAT64, problem, relative
from gradreg_torch import layers, networks
from gradreg_torch.convolution import Geometry, convolution, input_gradient
from torch import Tensor, nn

REGULARIZERS = [gradreg.DataGrad(2.0), gradreg.SpectReg(0.3, projections=2), gradreg.SpectralNormReg(0.4, iterations=2)]

LAYERS: dict[str, tuple[Callable[..., nn.Module], Callable[..., nn.Module], tuple[int, ...]]] = {
    "group norm": (lambda: nn.GroupNorm(2, 6), lambda: layers.GroupNorm(2, 6), (3, 6, 4, 3)),
    "group norm, no axes": (lambda: nn.GroupNorm(2, 6), lambda: layers.GroupNorm(2, 6), (3, 6)),
    "group norm, not affine": (
        lambda: nn.GroupNorm(3, 6, affine=False),
        lambda: layers.GroupNorm(3, 6, affine=False),
        (3, 6, 5),
    ),
    "batch norm": (lambda: nn.BatchNorm2d(4).eval(), lambda: layers.BatchNorm2d(4).eval(), (3, 4, 3, 2)),
    "batch norm in training": (lambda: nn.BatchNorm2d(4), lambda: layers.BatchNorm2d(4), (3, 4, 3, 2)),
}


def pair(name: str) -> tuple[nn.Module, nn.Module, Tensor]:
    """A stock layer, the fast one with the same random arrays, and an input."""
    stock, fast, shape = LAYERS[name]
    torch.manual_seed(0)
    first, second = stock().double(), fast().double()
    with torch.no_grad():
        for value in first.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.5)
    second.load_state_dict(first.state_dict())
    return first, second, torch.randn(shape, dtype=torch.float64)


def derivatives(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Output and derivatives up to the third along fixed random directions, also with respect to parameters."""
    generator = torch.Generator().manual_seed(1)
    x = x.clone().requires_grad_()
    sources = [x, *layer.parameters()]
    # A smooth function before the layer, so that what comes back into it is exercised too.
    value = layer(x.sin())
    found = [value]
    for _ in range(3):
        w = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        gradients = torch.autograd.grad(value, sources, w, create_graph=True, allow_unused=True, materialize_grads=True)
        found += gradients
        value = torch.cat([each.flatten() for each in gradients])
        if not value.requires_grad:
            break
    return found


@pytest.mark.parametrize("name", LAYERS)
def test_a_fast_layer_equals_the_stock_one_to_the_third_derivative(name: str) -> None:
    stock, fast, x = pair(name)
    mine, wanted = derivatives(fast, x), derivatives(stock, x)
    assert len(mine) >= len(wanted) > 1
    for one, other in zip(mine, wanted, strict=False):
        assert one.shape == other.shape
        # Sums of some hundred products of numbers near 1.
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", LAYERS)
def test_the_final_backward_equals_the_stock_one(name: str) -> None:
    """Without create_graph other, fused kernels run."""

    def gradients(layer: nn.Module, x: Tensor) -> list[Tensor]:
        x = x.clone().requires_grad_()
        y = layer(x.sin())
        w = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape)
        (first,) = torch.autograd.grad(y, x, w, create_graph=True)
        total = (first**2).sum() + (y * w).sum()
        return list(torch.autograd.grad(total, [x, *layer.parameters()], allow_unused=True, materialize_grads=True))

    stock, fast, x = pair(name)
    for one, other in zip(gradients(fast, x), gradients(stock, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["group norm", "batch norm"])
def test_second_derivatives_agree_with_finite_differences(name: str) -> None:
    _, fast, x = pair(name)
    assert torch.autograd.gradgradcheck(fast, (x.requires_grad_(),))


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "batch norm in training"])
def test_the_stock_layer_is_fast_inside_the_context(name: str) -> None:
    stock, fast, x = pair(name)
    with layers.fast_layers():
        inside = stock(x.requires_grad_())
    assert type(inside.grad_fn) is type(fast(x).grad_fn)


def test_the_context_replaces_something() -> None:
    stock, _, x = pair("group norm")
    outside = stock(x.requires_grad_())
    with layers.fast_layers():
        inside = stock(x)
    assert type(inside.grad_fn) is not type(outside.grad_fn)


def totals(model: nn.Module, x: Tensor, y: Tensor, reg: Any, fast: bool) -> tuple[float, dict[str, np.ndarray]]:
    """Total loss and parameter gradients by `backward()`, as users write it."""
    model.zero_grad()
    if fast:
        with gradreg.fast_layers():
            total, _ = gradreg.loss(model, x, y, reg, step=2, batch_norm="allow")
    else:
        total, _ = gradreg.loss(model, x, y, reg, step=2, batch_norm="allow")
    total.backward()
    return total.item(), {name: each.grad.numpy().copy() for name, each in model.named_parameters()}


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("reg", REGULARIZERS, ids=repr)
@pytest.mark.parametrize("name", ["dense", "relu", "conv", "pooled", "normed", "attention", "batch_norm"])
def test_networks_equal_the_reference(name: str, reg: Any, fast: bool) -> None:
    model, x, y = problem(name)
    module = networks.Module(model.network, model.params, torch.float64).eval()
    value, gradients = totals(module, torch.tensor(x), torch.tensor(y), reg, fast)
    wanted = gradreg_numpy.gradient(model, x, y, reg, step=2, of="total")[0]
    assert value == pytest.approx(float(gradreg_numpy.loss(model, x, y, reg, step=2)[0]), rel=FLOAT64)
    assert relative(gradients, {path.replace(".", "_"): each for path, each in wanted.items()}) <= FLOAT64


def small(first: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(2), nn.Unflatten(2, (6, 6)), first, nn.Tanh(), nn.Flatten(), nn.LazyLinear(3))


@pytest.mark.parametrize("few", [1, 3])
@pytest.mark.parametrize("reg", REGULARIZERS, ids=repr)
def test_the_gate_before_the_first_layer_changes_nothing(few: int, reg: Any) -> None:
    torch.manual_seed(0)
    model = small(nn.Conv2d(few, 4, 3, padding=1)).double()
    x, y = torch.randn(5, few, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    model(x)
    mine = totals(model, x, y, reg, fast=False)
    plain = totals(model, x.clone().requires_grad_(), y, reg, fast=False)  # the caller's own leaf has no gate
    assert mine[0] == pytest.approx(plain[0], rel=FLOAT64)
    assert relative(mine[1], plain[1]) <= FLOAT64


def graph_names(value: Tensor) -> set[str]:
    """The names of all nodes of the graph."""
    seen, todo = set(), [value.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [each for each, _ in node.next_functions]
    return {each.name() for each in seen}


def test_the_final_backward_computes_no_gradient_of_the_input() -> None:
    model, x, y = nn.Linear(5, 3), torch.randn(4, 5), torch.tensor([0, 1, 2, 0])
    total, _ = gradreg.loss(model, x, y, gradreg.DataGrad(1.0))
    assert "_GateBackward" in graph_names(total)
    products = []
    with torch.profiler.profile() as profile:
        total.backward()
    products = [each for each in profile.key_averages() if each.key == "aten::mm"]
    # The loss's and the pullback's weight gradient, and the pullback's product with W: not the loss's product with W.
    assert sum(each.count for each in products) == 3
    assert x.grad is None


def test_a_model_may_differentiate_itself() -> None:
    """A field that is the gradient of an energy, of which the gate must not take anything away."""

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
    trained = [each for each in model.parameters() if each.requires_grad]

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
    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(0)
    first, last = nn.Linear(5, 6), nn.Linear(6, 3)
    x, y, reg = torch.randn(4, 5), torch.tensor([0, 1, 2, 0]), gradreg.DataGrad(1.0)

    def weight_gradient(model: Any) -> Tensor:
        total, _ = gradreg.loss(model, x, y, reg)
        return torch.autograd.grad(total, first.weight)[0]

    plain = weight_gradient(lambda at: last(first(at).tanh()))
    with gradreg.fast_layers():
        saved = weight_gradient(lambda at: last(checkpoint(lambda each: first(each).tanh(), at, use_reentrant=False)))
    torch.testing.assert_close(saved, plain)


CONVOLUTIONS = [
    ((3, 4, 9), (6, 4, 3), (2, 1, 1, 1)),
    ((3, 4, 6, 6), (6, 4, 3, 3), (1, 1, 1, 1)),
    ((3, 1, 9, 8), (6, 1, 3, 3), (2, 2, 2, 1)),
    ((3, 4, 6, 6), (6, 2, 3, 3), (1, 0, 1, 2)),
    ((2, 2, 4, 3, 3), (3, 2, 2, 2, 2), (1, 0, 1, 1)),
]


@pytest.mark.parametrize(("shape", "kernel", "moves"), CONVOLUTIONS)
def test_convolution_agrees_with_finite_differences_and_pytorch(shape: Any, kernel: Any, moves: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    w = torch.randn(kernel, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(kernel[0], dtype=torch.float64, requires_grad=True)
    stock = {3: torch.conv1d, 4: torch.conv2d, 5: torch.conv3d}[len(shape)]
    geometry = Geometry.of(w, *moves)
    torch.testing.assert_close(convolution(x, w, bias, geometry), stock(x, w, bias, *moves))
    assert torch.autograd.gradcheck(lambda *each: convolution(*each, geometry), (x, w, bias), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *each: convolution(*each, geometry), (x, w, bias), fast_mode=True)
    g = torch.randn_like(stock(x, w, None, *moves)).requires_grad_()
    assert torch.autograd.gradcheck(lambda g, w: input_gradient(g, w, x, geometry), (g, w), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda g, w: input_gradient(g, w, x, geometry), (g, w), fast_mode=True)


def test_convolution_kernels_are_each_others_transposes() -> None:
    torch.manual_seed(0)
    x, w = torch.randn(2, 1, 7, 7, dtype=torch.float64), torch.randn(20, 1, 3, 3, dtype=torch.float64)
    geometry = Geometry.of(w, stride=2, padding=1)
    g = torch.randn(2, 20, 4, 4, dtype=torch.float64)
    left = (convolution(x, w, None, geometry) * g).sum()
    right = (input_gradient(g, w, x, geometry) * x).sum()
    torch.testing.assert_close(left, right)
