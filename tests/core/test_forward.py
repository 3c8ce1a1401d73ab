"""One forward pass: what a model may return, and what is kept of it."""

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from forward_cases import INPUT, made, passed
from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.forward import Call
from gradreg_torch.backend import TorchBackend
from minimal_backend import MINIMAL

OPS = TorchBackend()
CALL = Call(OPS, "test")
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def test_the_options_of_a_call_make_another_with_the_same() -> None:
    values = {option.name: option.name for option in fields(Call) if option.name not in ("ops", "name")}
    call = Call(OPS, "test", **values)  # type: ignore[arg-type]
    assert call.options() == values
    assert Call(OPS, "test", **call.options()) == call


def test_pullbacks_to_the_input_and_to_named_activations() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    first, last = model[0].weight, model[2].weight
    hidden = model[:2](X)
    w = torch.ones(4, 2)
    forward = passed(CALL, model, X, ((None, None), (None, "1")))
    assert set(forward.pullbacks) == {(None, None), (None, "1")}
    torch.testing.assert_close(forward.outputs, model(X))
    torch.testing.assert_close(forward.pullbacks[None, "1"](w), w @ last)
    torch.testing.assert_close(forward.pullbacks[None, None](w), (w @ last * (1 - hidden**2)) @ first)
    assert forward.logits.shape == (4, 1, 2)
    alone = passed(CALL, model, X)
    torch.testing.assert_close(alone.pullbacks[None, None](w), forward.pullbacks[None, None](w))
    assert passed(CALL, model, X, ()).pullbacks == {}


def test_the_model_is_called_once_whatever_is_kept() -> None:
    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.calls = nn.Linear(3, 2), 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.inner(x)

    for pairs in ((), INPUT, ((None, "inner"),), (*INPUT, ("inner", None))):
        model = Counted()
        passed(CALL, model, X, pairs)
        assert model.calls == 1


def test_integer_inputs_have_no_gradient() -> None:
    tokens = torch.ones(2, 3, dtype=torch.long)
    with pytest.raises(
        InputTypeError,
        match="test: the input has dtype int64, and only floating-point inputs of 16 bits or more have a",
    ):
        passed(CALL, lambda x: x.float(), tokens)
    assert passed(CALL, lambda x: x.float(), tokens, ()).outputs.dtype == torch.float32


@pytest.mark.parametrize(
    ("returned", "came"),
    [
        ({"scores": X}, "got dict"),
        ((X, X), "got tuple"),
        (None, "got NoneType"),
        (np.ones((4, 2), np.float32), "got ndarray"),
        (torch.ones(4, 2, dtype=torch.long), "got Tensor of int64"),
        (torch.ones(4, 2, dtype=torch.complex64), "got Tensor of complex64"),
    ],
)
def test_a_model_returns_one_array_of_floats(returned: Any, came: str) -> None:
    for pairs in ((), INPUT):
        with pytest.raises(InputTypeError, match=rf"test: the model must return one array of floating-point.*{came}"):
            passed(CALL, lambda x: returned, X, pairs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_outputs_that_are_not_finite_are_refused_where_reading_them_is_free(value: float, dtype: torch.dtype) -> None:
    outputs = torch.linspace(-1, 1, 12).reshape(4, 3).to(dtype)
    made(CALL, X, outputs * 3e4)
    outputs[2, 1] = value
    with pytest.raises(InputError, match="test: the outputs of sample 2 are NaN or infinite"):
        made(CALL, X, outputs)
    made(Call(MINIMAL, "test"), X, outputs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_logits_of_half_precision_are_float32(dtype: torch.dtype) -> None:
    forward = made(CALL, X, torch.ones(4, 3, dtype=dtype))
    assert forward.outputs.dtype == dtype
    assert forward.logits.dtype == torch.float32


def test_labels_and_probabilities_are_prepared_once() -> None:
    forward = made(CALL, X, torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))
    assert forward.target("one") is forward.target("other")
    assert forward.probabilities("one") is forward.probabilities("other")
    torch.testing.assert_close(forward.probabilities("one")[:, 0], forward.outputs.softmax(-1))
    single = made(CALL, X, torch.randn(4))
    torch.testing.assert_close(single.probabilities("it")[:, 0, 0], single.outputs.sigmoid())
