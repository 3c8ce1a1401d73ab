"""Every error has one root, and is also the builtin that a caller would expect."""

import inspect

import pytest

from gradreg_core import errors
from gradreg_core.errors import GradregError, batch_norm_message

ERRORS = [
    value
    for name in errors.__all__
    if inspect.isclass(value := getattr(errors, name)) and issubclass(value, Exception) and value is not GradregError
]


@pytest.mark.parametrize("error", [error for error in ERRORS if not issubclass(error, Warning)])
def test_an_error_is_of_gradreg_and_a_builtin(error: type[Exception]) -> None:
    assert issubclass(error, GradregError)
    builtins = [base for base in error.__mro__ if base.__module__ == "builtins" and base is not Exception]
    assert builtins[0] in (ValueError, TypeError, LookupError, ImportError, RuntimeError, NotImplementedError)


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_says_when_it_is_raised(error: type[Exception]) -> None:
    assert (error.__doc__ or "").endswith(".")


def test_the_message_about_batch_normalisation_names_call_layer_and_remedy() -> None:
    message = batch_norm_message("loss", "layer 'bn' (BatchNorm1d)", "model.eval() or GroupNorm")
    assert message.startswith("loss: layer 'bn' (BatchNorm1d) is in training mode and couples the samples")
    assert "Use model.eval() or GroupNorm, or pass batch_norm='allow'" in message
