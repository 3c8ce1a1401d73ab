"""Operations without a second derivative are named where gradreg is called, before the caller's backward pass."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import checkpoint

import gradreg_torch as gradreg
from gradreg_core.errors import DoubleBackwardError

X = torch.linspace(-1, 1, 64).reshape(2, 4, 8)
DUE = gradreg.SpectReg(1.0)


class Net(nn.Module):
    """An operation between two layers."""

    def __init__(self, operation: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.operation = operation
        self.first, self.last, self.points = nn.Linear(8, 8), nn.Linear(8, 3), nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.operation(self.first(x), self.points)[:, 0])


def attention(x: Tensor, points: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])[:, 0]


def weighted_bags(x: Tensor, points: Tensor) -> Tensor:
    rows = torch.zeros(2, 4, dtype=torch.long)
    return F.embedding_bag(rows, points, per_sample_weights=x[..., 0], mode="sum")[:, None]


OPERATIONS = {"sdpa_kernel": attention, "broadcasting": torch.cdist, "at=": weighted_bags}


@pytest.mark.parametrize("remedy", OPERATIONS)
def test_they_are_refused_with_a_remedy_in_every_call(remedy: str) -> None:
    model = Net(OPERATIONS[remedy])
    for _ in range(2):
        with pytest.raises(DoubleBackwardError, match=remedy):
            gradreg.penalty(model, X, None, DUE)
    with torch.no_grad():
        assert float(gradreg.penalty(model, X, None, DUE)) > 0


class Once(torch.autograd.Function):
    """A backward pass marked as one that cannot be differentiated: autograd.grad drops it without a word."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * x.cos()


def saved_products(x: Tensor, points: Tensor) -> Tensor:
    """Selective checkpointing, whose saved results are there for one backward pass."""
    contexts = partial(checkpoint.create_selective_checkpoint_contexts, [torch.ops.aten.mm.default])
    return checkpoint.checkpoint(lambda x: torch.tanh(x @ points), x, context_fn=contexts, use_reentrant=False)


REFUSED = {
    "Remove @once_differentiable": lambda x, points: Once.apply(x),
    "use_reentrant=False": lambda x, points: checkpoint.checkpoint(torch.tanh, x, use_reentrant=True),
    "without context_fn": saved_products,
}


@pytest.mark.parametrize("remedy", REFUSED)
def test_passes_that_go_back_once_only(remedy: str) -> None:
    model = Net(REFUSED[remedy])
    with pytest.raises(DoubleBackwardError, match=remedy):
        gradreg.penalty(model, X, None, gradreg.FrobReg(1.0))
    if remedy == "without context_fn" and hasattr(checkpoint, "_CONSUMED"):  # older versions do not show it
        for reg in (DUE, gradreg.SpectReg(1.0, side="input"), gradreg.R1(1.0, projection=gradreg.ones())):
            with pytest.raises(DoubleBackwardError, match=remedy):
                gradreg.penalty(Net(REFUSED[remedy]), X, None, reg)
    assert remedy in str(gradreg.check(model, X, None, gradreg.FrobReg(1.0)))


def test_the_remedy_works_and_what_has_no_parameters_behind_it_is_left_alone() -> None:
    model = Net(attention)
    with sdpa_kernel(SDPBackend.MATH):
        gradreg.penalty(model, X, None, DUE).backward()
    assert model.points.grad is None
    assert model.first.weight.grad is not None
    constant = X.clone().requires_grad_()
    value = gradreg.penalty(lambda x: attention(x, x)[:, 0], constant, None, DUE)
    assert value.requires_grad


def test_selective_checkpoints_go_back_once() -> None:
    reg = gradreg.SpectReg(1.0, side="input", method="difference")
    model, kept = Net(saved_products), Net(lambda x, points: torch.tanh(x @ points))
    for net in (model, kept):
        gradreg.penalty(net, X, None, reg).backward()
    torch.testing.assert_close(model.first.weight.grad, kept.first.weight.grad)
