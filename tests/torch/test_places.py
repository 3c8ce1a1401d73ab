"""Taps inside of torch.func's transformations."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap

import gradreg_torch as gradreg
from double_backward import equal_with_gradients
from gradreg_core.errors import InputError

X = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(4, 6)


class Rows(nn.Module):
    """A model of one sample, mapped over the batch."""

    def __init__(self, transform: Callable[..., Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.transform = nn.Linear(6, 5).double(), nn.Linear(5, 3).double(), transform

    def forward(self, x: Tensor) -> Tensor:
        return self.transform(self.row)(x)

    def row(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(gradreg.tap("code", self.first(x))))


def twice(row: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: vmap(vmap(row))(x[:, None])[:, 0]


@pytest.mark.parametrize("transform", [vmap, twice])
def test_taps_inside_of_vmap(transform: Callable[..., Callable[[Tensor], Tensor]]) -> None:
    model = Rows(transform)
    point = X.clone().requires_grad_()
    code = model.first(point)

    def squares(outputs: Tensor, source: Tensor) -> Tensor:
        rows = (torch.autograd.grad(column.sum(), source, create_graph=True)[0] for column in outputs.unbind(1))
        return sum((row.square().sum() for row in rows), torch.zeros(())) / len(X)

    at = gradreg.penalty(model, X, None, gradreg.FrobReg(1.0, at="code"))
    equal_with_gradients(at, squares(model.last(torch.tanh(code)), code), model)
    of = gradreg.penalty(model, X, None, gradreg.FrobReg(1.0, of="code"))
    equal_with_gradients(of, squares(code, point), model)


def test_taps_that_cannot_leave_a_transformation_are_refused() -> None:
    model = Rows(lambda row: vmap(grad(lambda x: row(x).sum())))
    with pytest.raises(InputError, match=r"'code' is inside a function that torch\.func transforms"):
        gradreg.penalty(model, X, None, gradreg.FrobReg(1.0, at="code"))
