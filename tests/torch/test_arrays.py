"""Tensors that have no second derivative, as all of x or beside what has one: sparse, nested, quantised, few bits."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nested import nested_tensor, to_padded_tensor

import gradreg_torch as gradreg
from gradreg_core.errors import GradregError, InputError, InputTypeError

X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
WHOLE = gradreg.FrobReg(1.0)
REGS = [WHOLE, gradreg.SpectReg(1.0, fraction=0.5), gradreg.FrobReg(1.0, at="hidden")]
IDS = ["whole", "fraction", "at"]


def nested(layout: torch.layout) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch: a prototype
        return nested_tensor([X[: rows + 1] for rows in range(4)], layout=layout)


def compressed() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch: a beta state
        return X.to_sparse_csr()


def quantised() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of newer versions: deprecated
        return torch.quantize_per_tensor(X.float(), 0.1, 0, torch.qint8)


NUMBERS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "float8": (lambda: X.to(torch.float8_e5m2), lambda a: a.double()),
    "quantised": (quantised, lambda a: a.dequantize().double()),
}
"""The arrays, and what a model makes of them."""
SPARSE: dict[str, Callable[[], Any]] = {"COO": X.to_sparse, "CSR": compressed}


class Network(nn.Module):
    def __init__(self, read: Callable[[Any], torch.Tensor] = lambda a: a) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.read = nn.Linear(3, 2, dtype=torch.float64), read

    def forward(self, x: torch.Tensor, beside: Any) -> torch.Tensor:
        return gradreg.tap("hidden", torch.tanh(self.layer(x) + self.layer(self.read(beside).sin()))) ** 2


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("reg", REGS, ids=IDS)
def test_beside_an_input_that_has_a_gradient(name: str, reg: Any) -> None:
    array, read = NUMBERS[name][0](), NUMBERS[name][1]
    model = Network(read)
    wanted = gradreg.penalty(Network(), gradreg.Inputs(X, read(array), wrt="0"), None, reg)
    torch.testing.assert_close(gradreg.penalty(model, gradreg.Inputs(X, array), None, reg), wanted)
    x = {"x": X, "beside": array}
    torch.testing.assert_close(gradreg.penalty(lambda x: model(x["x"], x["beside"]), x, None, reg), wanted)


@pytest.mark.parametrize("name", NUMBERS)
def test_alone(name: str) -> None:
    array, read = NUMBERS[name][0](), NUMBERS[name][1]
    model = Network(read)
    for reg in REGS[:2]:
        with pytest.raises(InputTypeError, match=r"the input has dtype .*, and only floating-point inputs of 16 bits"):
            gradreg.penalty(lambda a: model(X, a), array, None, reg)
    with pytest.raises(InputError, match="wrt='1' names no floating-point array: it holds 1"):
        gradreg.penalty(model, gradreg.Inputs(X, array, wrt="1"), None, WHOLE)
    # The remedy: with respect to a place behind it.
    at_place = gradreg.penalty(lambda a: model(X, a), array, None, REGS[2])
    torch.testing.assert_close(at_place, gradreg.penalty(Network(), gradreg.Inputs(X, read(array)), None, REGS[2]))


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.parametrize("reg", REGS, ids=IDS)
def test_nested_tensors(layout: torch.layout, reg: Any) -> None:
    array, model = nested(layout), Network(lambda a: to_padded_tensor(a, 0.0).sum(1))
    for x in (array, {"x": X, "beside": array}, *(gradreg.Inputs(X, array, wrt=wrt) for wrt in (None, "0", "1"))):
        with pytest.raises(InputTypeError, match=r"It is a nested tensor.*Pad it, torch\.nested\.to_padded_tensor"):
            gradreg.penalty(model, x, None, reg)


@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.parametrize("reg", REGS, ids=IDS)
def test_sparse_tensors(name: str, reg: Any) -> None:
    array, model = SPARSE[name](), Network(lambda a: a.to_dense())
    wanted = gradreg.penalty(Network(), gradreg.Inputs(X, X, wrt="0"), None, reg)
    if reg is REGS[1]:
        with pytest.raises(InputTypeError, match=r"sparse tensors .* Pass x\.to_dense\(\)"):
            gradreg.penalty(model, gradreg.Inputs(X, array, wrt="0"), None, reg)
    else:
        torch.testing.assert_close(gradreg.penalty(model, gradreg.Inputs(X, array, wrt="0"), None, reg), wanted)
    for wrt in (None, "1"):
        try:
            value = gradreg.penalty(model, gradreg.Inputs(X, array, wrt=wrt), None, reg)
        except GradregError as error:
            assert "Pass x.to_dense()" in str(error)  # noqa: PT017 # or the right value
        else:
            torch.testing.assert_close(value, gradreg.penalty(Network(), gradreg.Inputs(X, X, wrt=wrt), None, reg))
