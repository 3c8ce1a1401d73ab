"""gradreg's function modes beside other parts of PyTorch: compiled and recomputed parts, users' modes, subclasses."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

import gradreg_torch as gradreg
from gradreg_core.errors import UnsupportedError
from gradreg_core.spec import JacobianPenalty
from gradreg_torch.kinks import Smoothed
from torch_cases import DOUBLE, batch, gradients

BOTH_SIDES = gradreg.DataGrad(2.0) + JacobianPenalty(0.3, projection=gradreg.gaussian(), side="input")
OUTPUT_SIDE = gradreg.DataGrad(2.0) + gradreg.SpectReg(0.5, projections=2)
ROUNDING = {"rtol": 1e-10, "atol": 1e-12}
"""Equal arithmetic in another order, in float64."""


class Branches(nn.Module):
    """Two branches on x, one of them normalised."""

    def __init__(self, recomputed: bool = False, norm: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Linear(5, 6)
        self.b = nn.Sequential(nn.Linear(5, 6), norm or nn.LayerNorm(6), nn.Tanh())
        self.head = nn.Linear(6, 3)
        self.recomputed = recomputed
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        b = checkpoint(self.b, x, use_reentrant=False) if self.recomputed else self.b(x)
        return self.head(self.a(x).tanh() * b)


def totals(function: Callable[[Tensor], Tensor], model: nn.Module, reg: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """The total and the parameters' gradients by `backward()`, as users write it."""
    model.zero_grad()
    total, _ = gradreg.loss(function, *batch(), reg, batch_norm="allow", **options)
    total.backward()
    return total.detach(), torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("reg", [OUTPUT_SIDE, BOTH_SIDES], ids=["output side", "both sides"])
@pytest.mark.parametrize("part", ["a", "b", "a layer of b", "all", "in the function"])
def test_compiled_parts_equal_uncompiled_ones(part: str, reg: Any) -> None:
    wanted = totals(plain := Branches(), plain, reg)
    torch._dynamo.reset()
    model = Branches()
    function: Any = model
    if part == "in the function":
        function = lambda x: torch.compile(model.forward, backend="eager")(x)  # noqa: E731
    else:
        {"a": model.a, "b": model.b, "a layer of b": model.b[1], "all": model}[part].compile(backend="eager")
    for _ in range(2):  # compiled, and used again
        torch.testing.assert_close(totals(function, model, reg), wanted, **ROUNDING)


@pytest.mark.parametrize(
    "norm",
    [
        nn.LayerNorm(6),
        nn.BatchNorm1d(6),
        nn.Sequential(nn.Unflatten(1, (2, 3)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten()),
        nn.Sequential(nn.Unflatten(1, (2, 3)), nn.LayerNorm(3), nn.Flatten(), nn.GroupNorm(2, 6)),
    ],
    ids=["layer", "batch", "instance", "two"],
)
@pytest.mark.parametrize("reg", [OUTPUT_SIDE, BOTH_SIDES], ids=["output side", "both sides"])
def test_recomputed_normalisations_equal_kept_ones(reg: Any, norm: nn.Module) -> None:
    wanted = totals(kept := Branches(norm=norm), kept, reg)
    state = {name: buffer.clone() for name, buffer in kept.named_buffers()}
    recomputing = Branches(recomputed=True, norm=norm)
    torch.testing.assert_close(totals(recomputing, recomputing, reg), wanted, **ROUNDING)
    assert all(buffer.isfinite().all() for buffer in state.values())


@pytest.mark.parametrize(
    "normalise",
    [
        nn.InstanceNorm1d(6, affine=True, track_running_stats=True),
        lambda x: torch.native_layer_norm(x, [5], None, None, 1e-5)[0],
        lambda x: torch.native_batch_norm(x, None, None, None, None, True, 0.1, 1e-5)[0],
    ],
    ids=["instance norm that tracks", "native layer norm", "native batch norm"],
)
def test_every_normalisation_is_differentiated_three_times(normalise: Any) -> None:
    """||J v|| against differences of two passes, in float64."""
    torch.manual_seed(0)
    first, last = nn.Linear(5, 5).double(), nn.Linear(30, 3).double()
    norm = normalise.double() if isinstance(normalise, nn.Module) else normalise
    x = torch.randn(4, 6, 5, dtype=DOUBLE)

    def gradient(**options: Any) -> Tensor:
        reg = JacobianPenalty(1.0, projection=gradreg.gaussian(), side="input", **options)
        value = gradreg.penalty(lambda x: last(norm(first(x)).tanh().flatten(1)), x, None, reg, batch_norm="allow")
        return torch.autograd.grad(value, first.weight)[0]

    # The difference has an error of order h, 1e-6 here, times ratios of derivatives of order 10.
    torch.testing.assert_close(gradient(), gradient(method="difference", h=1e-6), rtol=1e-4, atol=1e-5)


class _Quantised(torch.autograd.Function):
    """x W^T with rounded x, and with half of the gradient passed straight through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return (8 * x).round() / 8 @ weight.T

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return 0.5 * g @ weight, g.T @ x


class Quantising(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear:
            x, weight, bias = args
            return _Quantised.apply(x, weight) + bias
        if func is F.layer_norm:
            return 2 * func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class Quantised(Branches):
    """The same by a mode of the model's own."""

    def forward(self, x: Tensor) -> Tensor:
        with Quantising():
            return super().forward(x)


@pytest.mark.parametrize("reg", [OUTPUT_SIDE, BOTH_SIDES], ids=["output side", "both sides"])
def test_a_mode_of_the_caller_sees_what_it_sees_without_gradreg(reg: Any) -> None:
    wanted = totals(inside := Quantised(), inside, reg)
    around = Branches()
    with Quantising():
        came = totals(around, around, reg)
        outputs = around(batch()[0])
    torch.testing.assert_close(came, wanted, **ROUNDING)
    torch.testing.assert_close(outputs, inside(batch()[0]))
    assert torch._C._len_torch_function_stack() == 0


def test_modes_are_left_after_an_error() -> None:
    def fail(x: Tensor) -> Tensor:
        raise KeyError("mine")

    outer = Quantising()
    for reg in (OUTPUT_SIDE, BOTH_SIDES):
        with outer, pytest.raises(KeyError):
            gradreg.penalty(fail, *batch(), reg)
    assert torch._C._len_torch_function_stack() == 0


class Labelled(Tensor):
    """A subclass without functions of its own."""


class Scaled(Tensor):
    """A subclass with a normalisation of its own."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = super().__torch_function__(func, types, args, kwargs or {})
        return 2 * returned if func is F.layer_norm else returned


def test_tensor_subclasses() -> None:
    model, (x, y) = Branches(), batch()
    wanted = totals(model, model, BOTH_SIDES)

    def labelled(x: Tensor) -> Tensor:
        return model(x.as_subclass(Labelled)).as_subclass(Tensor)

    torch.testing.assert_close(totals(labelled, model, BOTH_SIDES), wanted, **ROUNDING)
    scaled = lambda x: model(x.as_subclass(Scaled)).as_subclass(Tensor)  # noqa: E731
    with pytest.raises(UnsupportedError, match=r"layer_norm of the tensor subclass Scaled.* Use method='difference'"):
        gradreg.penalty(scaled, x, y, BOTH_SIDES)
    moved = gradreg.JacobianPenalty(1.0, projection=gradreg.gaussian(), side="input", method="difference")
    assert gradreg.penalty(scaled, x, y, moved).item() > 0
    unscaled = lambda x: model(x.as_subclass(Scaled).as_subclass(Tensor))  # noqa: E731 - the other remedy
    torch.testing.assert_close(totals(unscaled, model, BOTH_SIDES), wanted, **ROUNDING)


WRITING: dict[str, Callable[[Tensor], Any]] = {
    "relu_": torch.relu_,
    "Tensor.relu_": Tensor.relu_,
    "F.relu": lambda x: F.relu(x, True),
    "F.elu": lambda x: F.elu(x, 0.5, True),
    "F.hardtanh_": lambda x: F.hardtanh_(x, -0.5, 0.5),
    "F.leaky_relu": lambda x: F.leaky_relu(x, 0.1, inplace=True),
    "abs_": Tensor.abs_,
    "clamp_": lambda x: x.clamp_(-0.5, 0.5),
    "clamp_min_": lambda x: torch.clamp_min_(x, 0.0),
}


@pytest.mark.parametrize("name", WRITING)
def test_smooth_stand_ins_write_where_the_function_writes(name: str) -> None:
    leaf = torch.linspace(-1, 1, 12, dtype=DOUBLE, requires_grad=True)
    with Smoothed():
        written = leaf * 1.0
        returned = WRITING[name](written)
    assert returned is written
    assert not torch.equal(written, leaf)
    sharp = leaf.detach().clone()
    WRITING[name](sharp)
    assert (written - sharp).abs().max() < 0.6  # the ramp is rounded off over the scale of x
    written.square().sum().backward()
    assert (leaf.grad != 0).all()  # a switched-off rectifier would give zeros


def test_a_model_may_differentiate_its_weights_functionally() -> None:
    """Fast weights: one inner step of torch.func.grad on the layer that sees x."""
    torch.manual_seed(0)
    weight, head = nn.Parameter(torch.randn(6, 5, dtype=DOUBLE)), nn.Linear(6, 3).double()

    def adapted(x: Tensor) -> Tensor:
        step = torch.func.grad(lambda weight: F.linear(x, weight).tanh().square().mean())(weight)
        return head(F.linear(x, weight - 0.1 * step).tanh())

    x, y = batch()

    def gradient(at: Tensor) -> Tensor:
        return torch.autograd.grad(gradreg.loss(adapted, at, y, OUTPUT_SIDE)[0], weight)[0]

    torch.testing.assert_close(gradient(x), gradient(x.clone().requires_grad_()), **ROUNDING)


@pytest.mark.parametrize("convolution", [False, True])
def test_the_total_is_differentiated_twice(convolution: bool) -> None:
    """Second-order optimizers: the gated first layer has the Hessian-vector product of the ungated one."""
    torch.manual_seed(0)
    first = nn.Conv2d(1, 4, 3) if convolution else nn.Linear(16, 4)
    model = nn.Sequential(first, nn.Tanh(), nn.Flatten(), nn.LazyLinear(3)).double()
    x = torch.randn(3, *((1, 4, 4) if convolution else (16,)), dtype=DOUBLE)
    model(x)

    def products(at: Tensor) -> Tensor:
        total, _ = gradreg.loss(model, at, torch.tensor([0, 1, 2]), OUTPUT_SIDE)
        slopes = torch.autograd.grad(total, list(model.parameters()), create_graph=True)
        return gradients(sum(slope.square().sum() for slope in slopes), model)

    torch.testing.assert_close(products(x), products(x.clone().requires_grad_()), **ROUNDING)
