"""Custom functions and checkpoints inside torch.compile: refused where they would be wrong, and what to do instead."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradreg_torch as gradreg
from gradreg_core.spec import JacobianPenalty
from torch_cases import batch, gradients

pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo's own

OUTPUT_SIDE = gradreg.SpectReg(1.0)
INPUT_SIDE = JacobianPenalty(1.0, projection=gradreg.gaussian(), side="input")
DIFFERENCE = JacobianPenalty(1.0, projection=gradreg.gaussian(), side="input", method="difference")


def _slope(g: Tensor, x: Tensor) -> Tensor:
    s = x.sigmoid()
    return g * s * (1 + x * (1 - s))


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return _slope(g, *ctx.saved_tensors)


class SwishWithContext(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * x.sigmoid()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return _slope(g, *ctx.saved_tensors)


@torch._dynamo.allow_in_graph
def swish_in_graph(x: Tensor) -> Tensor:
    return SwishWithContext.apply(x)


def net(activation: Callable[[Tensor], Tensor]) -> nn.Module:
    class Activation(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return activation(x)

    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), Activation(), nn.Linear(6, 3)).double()


def penalty(model: nn.Module, reg: Any, compiled: bool = True, **options: Any) -> tuple[float, Tensor]:
    x, y = batch()
    torch._dynamo.reset()
    call = lambda x: gradreg.penalty(model, x, y, reg, **options)  # noqa: E731
    value = (torch.compile(call, fullgraph=True, backend="aot_eager") if compiled else call)(x)
    return value.item(), gradients(value, model)


@pytest.mark.sample(3)
@pytest.mark.parametrize("reg", [OUTPUT_SIDE, INPUT_SIDE, gradreg.DataGrad(1.0)], ids=["output", "input", "loss"])
@pytest.mark.parametrize("function", [Swish, SwishWithContext])
def test_a_custom_function_is_refused_by_name(function: Any, reg: Any) -> None:
    message = (
        rf"autograd.Function {function.__name__}, applied at .*test_compiled\.py:\d+ .* no second derivative inside"
    )
    with pytest.raises(Exception, match=message):
        penalty(net(lambda x: function.apply(x)), reg)


@pytest.mark.slow
def test_a_custom_function_of_the_input_itself_is_refused() -> None:
    """On x and on the outputs, in the loss. Dynamo by itself would leave the backward out."""
    on_x = nn.Sequential(net(Swish.apply)[1], nn.Linear(5, 3)).double()
    with pytest.raises(Exception, match=r"autograd\.Function Swish, applied at"):
        penalty(on_x, OUTPUT_SIDE)
    with pytest.raises(Exception, match=r"autograd\.Function Swish, applied at"):
        penalty(net(torch.tanh), gradreg.DataGrad(1.0), loss_fn=lambda z, y: Swish.apply(z).square())


@pytest.mark.slow
def test_what_the_message_advises_is_right() -> None:
    """Ordinary operations, outside of the compiled function, a difference, and a function in the graph."""
    outside = penalty(net(Swish.apply), OUTPUT_SIDE, compiled=False)
    torch.testing.assert_close(penalty(net(nn.functional.silu), OUTPUT_SIDE), outside)
    torch.testing.assert_close(penalty(net(swish_in_graph), OUTPUT_SIDE), outside)
    torch.testing.assert_close(
        penalty(net(swish_in_graph), INPUT_SIDE), penalty(net(Swish.apply), INPUT_SIDE, compiled=False)
    )
    torch.testing.assert_close(
        penalty(net(Swish.apply), DIFFERENCE), penalty(net(Swish.apply), DIFFERENCE, compiled=False)
    )


def test_a_checkpoint_is_refused() -> None:
    recomputed = net(lambda x: checkpoint(torch.tanh, x, use_reentrant=False))
    for reg in (OUTPUT_SIDE, INPUT_SIDE):
        with pytest.raises(
            Exception, match=r"the checkpoint at .*test_compiled\.py:\d+ .* Switch checkpointing off there"
        ):
            penalty(recomputed, reg)
        torch.testing.assert_close(
            penalty(recomputed, reg, compiled=False), penalty(net(torch.tanh), reg, compiled=False)
        )


@pytest.mark.slow
@pytest.mark.parametrize("reg", [OUTPUT_SIDE, INPUT_SIDE], ids=["output", "input"])
def test_a_custom_function_that_x_does_not_pass_is_right(reg: Any) -> None:
    """On a weight, or on what x is computed from."""

    class Reparametrised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.weight = nn.Parameter(torch.randn(3, 5).double())

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, Swish.apply(self.weight)).tanh()

    model = Reparametrised()
    torch.testing.assert_close(penalty(model, reg), penalty(model, reg, compiled=False))
    x, y = batch()

    def before(x: Tensor) -> Tensor:
        return gradreg.penalty(model, Swish.apply(x @ model.weight.T @ model.weight), y, reg)

    torch._dynamo.reset()
    compiled = torch.compile(before, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradients(compiled(x), model), gradients(before(x), model))
