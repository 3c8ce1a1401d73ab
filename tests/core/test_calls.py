"""The calls: their results, norms of `measure`, and the arguments that they refuse before a forward pass."""

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradreg_numpy
import gradreg_torch
from cases import FLOAT64, named, problem, schedule
from gradreg_core.calls import Calls
from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.forward import Call
from gradreg_core.presets import ConfidencePenalty, DataGrad, SobolevReg, SpectReg, WeightDecay
from gradreg_core.spec import Regularizer
from gradreg_torch.backend import TorchBackend
from gradreg_torch.networks import Module

CALLS = ("loss", "penalty", "measure", "check")
REG = DataGrad(1.0) + SpectReg(0.5, seed=2) + ConfidencePenalty(0.1) + WeightDecay(0.01)


def small() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)), torch.randn(6, 5), torch.arange(6) % 3


# --- what comes back -------------------------------------------------------------------------------------------------
def test_the_loss_is_made_of_its_parts() -> None:
    model, x, y = small()
    total, parts = gradreg_torch.loss(model, x, y, REG)
    torch.testing.assert_close(parts.loss, nn.functional.cross_entropy(model(x), y))
    torch.testing.assert_close(parts.outputs, model(x))
    assert len(parts.penalty) == 4
    torch.testing.assert_close(total, parts.loss + sum(parts.penalty))
    for term, penalty in zip(REG.terms, parts.penalty, strict=True):
        torch.testing.assert_close(penalty, gradreg_torch.penalty(model, x, y, term))
    torch.testing.assert_close(gradreg_torch.penalty(model, x, y, REG), sum(parts.penalty))
    plain, alone = gradreg_torch.loss(model, x, y, None)
    assert alone.penalty == ()
    assert torch.equal(plain, alone.loss)


def test_the_same_arguments_everywhere() -> None:
    """Every option of a call by name, so that help and editors show them."""
    options = set(Call.__dataclass_fields__) - {"ops", "name"}
    shared = {"model", "x", "y", "reg", "self"}
    for name in CALLS:
        parameters = inspect.signature(getattr(Calls, name)).parameters
        assert not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        by_name = {key for key, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}
        assert set(parameters) - by_name <= shared
        wanted = options | {"batch_norm"} - ({"batch_norm"} if name == "check" else set())
        if name == "measure":
            wanted -= {"sample_weight", "normalizer", "directions", "target", "params"}
            wanted |= {"projections"}
        if name == "check":
            wanted -= {"batch_norm"}
        assert by_name == wanted, name
    assert {*options, "batch_norm", "model", "x", "y", "reg"} <= {
        line.split(":")[0].strip() for line in (Calls.__doc__ or "").splitlines() if ":" in line
    }


def test_options_reach_the_call_by_their_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = small()
    seen: dict[str, Any] = {}

    def evaluate(call: Call, *arguments: Any, **keywords: Any) -> None:
        seen.update(call.options(), name=call.name)
        raise StopIteration

    monkeypatch.setattr("gradreg_core.calls.evaluate", evaluate)
    given = {
        "step": 3,
        "seed": 4,
        "loss_fn": torch.add,
        "outputs": "logits",
        "sample_ids": [1],
        "sample_weight": [2],
        "position_weight": [3],
        "ignore_index": -100,
        "normalizer": 5.0,
        "class_axis": 1,
        "directions": [6],
        "target": [9],
        "params": (7,),
        "chunk_size": 8,
    }
    for name in ("loss", "penalty"):
        with pytest.raises(StopIteration):
            getattr(gradreg_torch, name)(model, x, y, REG + SobolevReg(1.0), **given)
        assert seen == {**given, "name": name}


def test_a_call_tells_its_backend() -> None:
    assert repr(Calls(TorchBackend())) == "<gradreg torch backend>"


# --- measure ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["dense", "conv", "critic"])
def test_measure_is_that_of_numpys_singular_values(name: str) -> None:
    model, x, y = problem(name)
    _, J = gradreg_numpy.jacobian(model.network, model.params, x)
    matrices = J.reshape(len(x), -1, x[0].size)
    module = Module(model.network, model.params, torch.float64)
    with torch.no_grad():
        measures = gradreg_torch.measure(module, torch.tensor(x), torch.tensor(y))
    singular = np.linalg.svd(matrices, compute_uv=False)
    np.testing.assert_allclose(measures.frobenius.numpy(), np.linalg.norm(singular, axis=1), rtol=FLOAT64)
    np.testing.assert_allclose(measures.spectral.numpy(), singular[:, 0], rtol=1e-9)  # by way of J J^T
    by_sample = [float(gradreg_numpy.penalty(model, x[i : i + 1], y[i : i + 1], DataGrad(1.0))) for i in range(len(x))]
    np.testing.assert_allclose(measures.loss_gradient.numpy() ** 2, by_sample, rtol=FLOAT64)
    assert not measures.frobenius.requires_grad
    assert gradreg_torch.measure(module, torch.tensor(x)).loss_gradient is None
    # Orthonormal rows, as many as there are outputs, are exact; 30 iterations leave (s2 / s1)^60.
    estimated = gradreg_torch.measure(module, torch.tensor(x), projections=matrices.shape[1])
    torch.testing.assert_close(estimated.frobenius, measures.frobenius)
    torch.testing.assert_close(estimated.spectral, measures.spectral, rtol=1e-2, atol=0)
    assert bool((estimated.spectral <= measures.spectral * (1 + FLOAT64)).all())


def test_the_estimate_of_measure_is_unbiased_and_follows_seed_and_step() -> None:
    model, x, _ = small()
    exact = gradreg_torch.measure(model, x).frobenius ** 2
    draws = torch.stack(
        [gradreg_torch.measure(model, x, projections=1, step=step).frobenius ** 2 for step in range(100)]
    )
    assert bool(((draws.mean(0) - exact).abs() < 5 * draws.std(0) / 10).all())  # five standard errors
    one, other = (gradreg_torch.measure(model, x, projections=1, seed=seed).frobenius for seed in (0, 1))
    assert torch.equal(one**2, draws[0])
    assert not torch.equal(one, other)


def test_measures_of_a_jacobian_of_zeros_are_zero() -> None:
    measures = gradreg_torch.measure(lambda x: x * 0, torch.ones(2, 3), torch.tensor([0, 1]))
    assert measures.frobenius.tolist() == measures.spectral.tolist() == measures.loss_gradient.tolist() == [0.0, 0.0]


# --- refusals --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"reg": 0.1}, InputTypeError, r"{}: reg must be a regularizer such as SpectReg\(0\.01\), got 0\.1"),
        ({"reg": DataGrad}, InputTypeError, "{}: reg must be a regularizer.*got <class"),
        ({"chunk_size": 0}, InputError, "{}: chunk_size must be an integer of at least 1, got 0"),
        ({"chunk_size": True}, InputTypeError, "{}: chunk_size must be an integer of at least 1, got True"),
        ({"loss_fn": "mse"}, InputTypeError, r"{}: loss_fn must be a function of \(outputs, y\), got 'mse'"),
        (
            {"x": [[1.0]]},
            InputTypeError,
            "{}: x must be an array of the torch backend, or a structure of such.*got builtins.list.*Convert it",
        ),
        ({"x": np.ones((2, 5))}, InputTypeError, "{}: x must be an array of the torch backend, got numpy.ndarray"),
        (
            {"x": torch.tensor(1.0)},
            InputError,
            r"{}: x must have a batch axis with at least one sample, got shape \(\)",
        ),
        ({"x": torch.ones(0, 5)}, InputError, r"at least one sample, got shape \(0, 5\)"),
        ({"seed": -1}, InputError, r"{}: seed must be in \[0, 2\*\*64\), got -1"),
        ({"seed": 2**64}, InputError, r"{}: seed must be in \[0, 2\*\*64\)"),
        ({"seed": 1.5}, InputTypeError, "{}: seed must be an integer, got 1.5"),
        ({"seed": True}, InputTypeError, "{}: seed must be an integer, got True"),
        ({"seed": torch.tensor([1])}, InputTypeError, "{}: seed must be an integer or a 0-d array of integers"),
    ],
)
@pytest.mark.parametrize("call", CALLS)
def test_arguments_that_do_not_fit_are_refused_by_name(
    call: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    model, x, y = small()
    arguments = {"model": model, "x": x, "y": y, "reg": REG} | options
    if call == "measure":  # which takes no regularizer
        del arguments["reg"]
        error, message = (error, message) if "reg" not in options else (TypeError, "unexpected keyword argument 'reg'")
        arguments |= {key: value for key, value in options.items() if key == "reg"}
    with pytest.raises(error, match=message.format(call)):
        getattr(gradreg_torch, call)(**arguments)


def test_policies_and_missing_regularizers() -> None:
    model, x, y = small()
    for call in (gradreg_torch.loss, gradreg_torch.penalty):
        with pytest.raises(InputError, match=r"batch_norm must be one of \('error', 'warn', 'allow'\), got 'ignore'"):
            call(model, x, y, REG, batch_norm="ignore")
    with pytest.raises(InputTypeError, match=r"penalty: expected a regularizer such as SpectReg\(0\.01\), got None"):
        gradreg_torch.penalty(model, x, y, None)
    with pytest.raises(TypeError, match="sedd"):
        gradreg_torch.loss(model, x, y, REG, sedd=3)


DEPENDS = [SpectReg(1.0, every=4), SpectReg(schedule), DataGrad(1.0) + SpectReg(1.0, every=2)]


@pytest.mark.parametrize("reg", named(DEPENDS))
def test_terms_that_depend_on_the_step_ask_for_it(reg: Regularizer) -> None:
    model, x, y = small()
    for call in (gradreg_torch.loss, gradreg_torch.penalty):
        with pytest.raises(InputError, match="depends on the step of training; pass step=, the number of the step"):
            call(model, x, y, reg)
        call(model, x, y, reg, step=0)
    assert gradreg_torch.check(model, x, y, reg).ok


def test_a_seed_of_the_call_replaces_those_of_the_terms() -> None:
    model, x, y = small()
    wanted = gradreg_torch.penalty(model, x, y, SpectReg(1.0, seed=7))
    for seed in (7, np.int64(7), torch.tensor(7)):
        assert torch.equal(gradreg_torch.penalty(model, x, y, SpectReg(1.0, seed=1), seed=seed), wanted)
