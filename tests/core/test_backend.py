"""The defaults of the base class: a backend that brings the abstract methods alone gives the same numbers."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cases import GENERAL, PRESETS, named, problem
from gradreg_core.backend import Backend
from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.presets import ConfidencePenalty, DataGrad, SpectReg
from gradreg_core.spec import Regularizer
from gradreg_torch.backend import TorchBackend
from gradreg_torch.networks import Module
from minimal_backend import ABSTRACT, CALLS, MINIMAL, subclass

INPUT_SIDE: list[Regularizer] = [
    SpectReg(0.3, side="input", seed=3, projections=2),
    DataGrad(2.0, side="input", method="difference", h=0.1),
    SpectReg(0.3, side="input") + DataGrad(1.0) + ConfidencePenalty(0.1),
]
OPTIONAL = sorted(
    name
    for name, value in vars(Backend).items()
    if callable(value) and not name.startswith("_") and name not in ABSTRACT
)


@pytest.mark.parametrize("reg", named([*PRESETS, *GENERAL, *INPUT_SIDE]))
def test_loss_penalties_and_gradients_are_those_of_pytorch(reg: Regularizer) -> None:
    model, x, y = problem("dense")
    results = {}
    for name, calls in CALLS.items():
        module = Module(model.network, model.params, torch.float64)
        params = list(module.parameters())
        inputs = torch.tensor(x, requires_grad=True)
        total, parts = calls.loss(module.forward, inputs, torch.tensor(y), reg, step=2, params=params)
        gradients = torch.autograd.grad(total, [*params, inputs])
        results[name] = [total, parts.loss, *parts.penalty, parts.outputs, *gradients]
    for minimal, wanted in zip(results["minimal"], results["torch"], strict=True):
        torch.testing.assert_close(minimal, wanted, rtol=1e-12, atol=1e-14)


def test_measures_are_those_of_pytorch() -> None:
    model, x, y = problem("conv")
    module = Module(model.network, model.params, torch.float64)
    for projections in (None, 2):
        both = [
            c.measure(module.forward, torch.tensor(x), torch.tensor(y), projections=projections) for c in CALLS.values()
        ]
        for first, second in zip(*both, strict=True):
            torch.testing.assert_close(first, second, rtol=1e-12, atol=0)


@pytest.mark.parametrize("missing", ABSTRACT)
def test_a_backend_that_lacks_a_method_cannot_be_constructed_and_is_told_which(missing: str) -> None:
    with pytest.raises(TypeError, match=rf"abstract.*'?\b{missing}\b"):
        subclass(*(name for name in ABSTRACT if name != missing))()


def test_every_method_has_a_docstring_and_the_optional_ones_say_their_default() -> None:
    for name in (*ABSTRACT, *OPTIONAL):
        assert getattr(Backend, name).__doc__, name
    for name in OPTIONAL:
        text = re.sub(r"\s+", " ", getattr(Backend, name).__doc__)
        assert re.search("[Dd]efault|Override it", text), f"the docstring of Backend.{name} does not say its default"


# --- single defaults -------------------------------------------------------------------------------------------------
words = st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=4)


@given(words, words)
def test_the_default_threefry_is_that_of_pytorchs_cpu(keys: list[int], counters: list[int]) -> None:
    key = tuple(torch.tensor([[word]], dtype=torch.int32) for word in (keys[0], keys[-1]))
    counter = (torch.tensor(counters, dtype=torch.int32), torch.tensor(counters[::-1], dtype=torch.int32))
    for default, own in zip(MINIMAL.threefry2x32(key, counter), TorchBackend().threefry2x32(key, counter), strict=True):
        assert default.dtype == torch.int32
        assert torch.equal(default, own)


def test_cross_entropy_by_default() -> None:
    logits = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(4, (3, 5))
    wanted = torch.nn.functional.cross_entropy(logits.movedim(1, 2), labels, reduction="none")
    value = MINIMAL.cross_entropy(logits, labels)
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(torch.autograd.grad(value.sum(), logits), torch.autograd.grad(wanted.sum(), logits))


def test_jvp_by_default_is_two_reverse_passes_and_differentiable() -> None:
    weight = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    x, v = torch.randn(2, 5, 4, dtype=torch.float64)

    def model(x: Tensor) -> Tensor:
        return torch.tanh(x @ weight)

    outputs, pushed = MINIMAL.jvp(model, x, v)
    wanted = (1 - torch.tanh(x @ weight) ** 2) * (v @ weight)
    torch.testing.assert_close(outputs, model(x))
    torch.testing.assert_close(pushed, wanted)
    slopes = [torch.autograd.grad((value**2).sum(), weight)[0] for value in (pushed, wanted)]
    torch.testing.assert_close(*slopes)


def test_rows_are_pulled_back_one_after_the_other() -> None:
    came = []

    def pullback(w: Tensor) -> Tensor:
        came.append(tuple(w.shape))
        return 2 * w

    rows = torch.randn(3, 2, 5)
    assert torch.equal(MINIMAL.pull_rows(pullback, rows), 2 * rows)
    assert came == [(2, 5)] * 3


@pytest.mark.parametrize("holds", [True, False])
def test_cond_computes_the_branch_and_gives_it_or_zero(holds: bool) -> None:
    value = MINIMAL.cond(torch.tensor(holds), lambda: torch.tensor(3.0, dtype=torch.float64))
    assert value.dtype == torch.float64
    assert value.item() == 3.0 * holds


@pytest.mark.parametrize(
    ("value", "number"),
    [(3, 3), (np.int64(4), 4), (np.uint8(5), 5), (True, None), (2.0, None), (torch.tensor(3), None)],
)
def test_static_int_by_default_knows_integers_of_python_and_numpy(value: Any, number: int | None) -> None:
    assert MINIMAL.static_int(value) == number
    assert type(MINIMAL.static_int(value)) is type(number)


def test_tree_leaves_by_default() -> None:
    a, b, c = torch.zeros(3, 2).unbind(0)
    assert [id(leaf) for leaf in MINIMAL.tree_leaves({"one": [a, (b,)], "two": {"three": c}, "empty": []})] == [
        id(a),
        id(b),
        id(c),
    ]
    for wrong in ("weights", [a, 3.0], {"w": None}):
        with pytest.raises(
            InputTypeError, match="params must be arrays of the minimal backend in lists, tuples or dicts"
        ):
            MINIMAL.tree_leaves(wrong)


def test_a_place_that_is_not_passed_is_refused() -> None:
    with pytest.raises(InputError, match=r"no tap or layer 'relu' was passed in the forward pass. Passed were: none"):
        CALLS["minimal"].penalty(lambda x: x, torch.ones(2, 3), None, SpectReg(1.0, at="relu"))


def test_the_model_is_taken_as_it_is() -> None:
    model, x = torch.nn.Linear(3, 2), torch.ones(2, 3)
    assert MINIMAL.parameters(model) is None
    assert MINIMAL.values_if_free(x) is None
    assert MINIMAL.without_state_changes(model) is model
    assert MINIMAL.blame(RuntimeError("a cause"), model, lambda model: model(x)) == []
    assert not MINIMAL.draws_numbers(lambda: model(x))
    assert MINIMAL.draws_numbers(lambda: torch.rand(3))
    objective = MINIMAL.objective(model, lambda x: model(x).square().sum(), lambda x: model(x).sum(), x, [])
    value, of_weights, of_input = objective.gradients(x, 2.0)
    assert torch.equal(value, objective.at((), x))
    assert not of_weights
    assert not objective.finds_weights
    torch.testing.assert_close(of_input, 4 * model(x) @ model.weight)
    assert MINIMAL.finish(x) is x
    assert MINIMAL.require_gradient("loss", model, x) is None  # type: ignore[func-returns-value]
    with (
        MINIMAL.enter("loss", model, [x], "error"),
        MINIMAL.smoothed(model) as smooth,
        MINIMAL.repeatable(model),
    ):
        assert MINIMAL.prepared(x) is x
        assert smooth is model
    first, returned, second = MINIMAL.call_twice(model, lambda model, x: (model(x), "all"), x, 2 * x)
    assert torch.equal(first, model(x))
    assert returned == "all"
    assert torch.equal(second, model(2 * x))
