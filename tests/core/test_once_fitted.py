"""A regularizer that waits until the training set is fitted."""

import importlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradreg_core
from gradreg_core import OnceFitted, SpectReg
from gradreg_core.errors import InputError, InputTypeError

REG = SpectReg(0.01)


def test_it_waits_for_the_moving_average():
    """With accuracy 1 in each batch the average after n is 1 - 0.9^n, which passes 0.99 at n = 44."""
    once = OnceFitted(REG)
    for _ in range(43):
        once.update(1.0)
        assert once.reg is None
    once.update(1.0)
    assert once.reg is REG
    assert once.fitted


@given(st.lists(st.floats(0, 1), max_size=40), st.floats(0.05, 1), st.floats(0, 0.95))
def test_the_average_is_that_of_its_formula_and_what_is_fitted_stays_so(shares, accuracy, decay):
    once, average, fitted = OnceFitted(REG, accuracy=accuracy, decay=decay), 0.0, False
    for share in shares:
        once.update(share)
        average = decay * average + (1 - decay) * share
        fitted = fitted or average >= accuracy
        assert once.fitted == fitted
        assert once.reg is (REG if fitted else None)


def test_a_checkpoint_goes_on_where_it_was():
    once = OnceFitted(REG, accuracy=0.5)
    for _ in range(4):
        once.update(1.0)
    other = OnceFitted(REG, accuracy=0.5)
    other.load_state_dict(json.loads(json.dumps(once.state_dict())))
    for _ in range(4):
        once.update(1.0)
        other.update(1.0)
        assert once.state_dict() == other.state_dict()
    assert other.fitted
    with pytest.raises(InputError, match="expects the entries 'average' and 'fitted', got \\['mean'\\]"):
        other.load_state_dict({"mean": 1.0})


@pytest.mark.parametrize("package", ["torch", "jax.numpy", "tensorflow", "numpy"])
def test_arrays_of_any_framework(package):
    framework = pytest.importorskip(package)
    array = framework.convert_to_tensor if package == "tensorflow" else getattr(framework, "as_tensor", np.asarray)
    array = framework.asarray if package == "jax.numpy" else array
    once = OnceFitted(REG, accuracy=0.25, decay=0.5)
    once.update(array(0.5))
    assert once.fitted


def test_a_loop_trains_with_the_penalty_once_its_samples_are_fitted():
    torch = pytest.importorskip("torch")
    gradreg = importlib.import_module("gradreg_torch")
    torch.manual_seed(0)
    model, x, y = torch.nn.Linear(4, 3), torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    optimizer, once, penalties = torch.optim.Adam(model.parameters(), 0.3), OnceFitted(REG, accuracy=0.9), []
    for step in range(60):
        total, parts = gradreg.loss(model, x, y, once.reg, step=step)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        once.update((parts.outputs.argmax(1) == y).float().mean())
        penalties.append(len(parts.penalty))
    assert penalties[0] == 0
    assert penalties[-1] == 1
    assert penalties == sorted(penalties)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0.01,), InputTypeError, r"reg must be a regularizer such as SpectReg\(0.01\), got float"),
        ((REG, 99), InputError, "accuracy must be between 0 and 1, got 99. Pass a share of the samples, not percent"),
        ((REG, 0), InputError, "accuracy must be above 0 and at most 1, got 0"),
        ((REG, 0.9, 1), InputError, "decay must be at least 0 and below 1, got 1"),
        ((REG, "0.9"), InputTypeError, "accuracy must be a number between 0 and 1 that can be read, got '0.9'"),
        ((REG, float("nan")), InputError, "accuracy must be between 0 and 1, got nan"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, error, message):
    reg, *rest = arguments
    with pytest.raises(error, match=f"OnceFitted: {message}"):
        OnceFitted(reg, **dict(zip(("accuracy", "decay"), rest, strict=False)))


@pytest.mark.parametrize("accuracy", [98.5, -0.1, float("nan"), None, True, np.array([0.5, 0.5])])
def test_accuracies_that_are_no_share_are_refused_and_change_nothing(accuracy):
    once = OnceFitted(REG, accuracy=0.01)
    with pytest.raises((InputError, InputTypeError), match=r"OnceFitted: update\(accuracy\) must be"):
        once.update(accuracy)
    assert once.state_dict() == {"average": 0.0, "fitted": False}


def test_a_traced_accuracy_is_refused():
    jax = pytest.importorskip("jax")
    once = OnceFitted(REG)
    with pytest.raises(InputTypeError, match="outside of a compiled step"):
        jax.jit(lambda share: once.update(share))(0.5)


def test_it_stands_beside_the_search():
    assert gradreg_core.OnceFitted is OnceFitted
    assert repr(OnceFitted(REG)).startswith("OnceFitted(SpectReg(")
