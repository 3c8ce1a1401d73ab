"""Which backend a model belongs to, and the model as one side of a validation."""

import sys
from typing import Any

from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.plugins.discovery import backends
from gradreg_core.plugins.dispatch import find_backend, load_component
from gradreg_validation.harness_side import HarnessSide
from gradreg_validation.models import Problem, Side

__all__ = ["backend_of_model", "make_side"]


def backend_of_model(model: Any) -> str | None:
    """The backend whose `model_modules` define the type of `model`; None if it is a plain function.

    A pair (fn, params) is JAX's convention, and a Keras model belongs to the framework that Keras runs on.
    """
    if isinstance(model, tuple):
        return "jax"
    packages = [cls.__module__.partition(".")[0] for cls in type(model).__mro__]
    if "keras" in packages:
        return str(sys.modules["keras"].config.backend())
    owners = {
        module: record.name
        for record in reversed(backends())
        if record.description is not None and record.status == "ok"
        for module in record.description.model_modules
    }
    return next((owners[package] for package in packages if package in owners), None)


def make_side(
    model: Any, backend: str | None, problem: Problem, *, axes: Any = None, activations: Any = None
) -> tuple[str, Side]:
    """The name of the backend of `model`, and the model as a side.

    A backend whose description names no `validation` is seen through its harness.

    Raises:
        InputError: the backend is neither given nor told by the model's type, or the model cannot be used yet.
        UnsupportedError: the backend has neither a side nor a harness.
    """
    if not callable(model) and not isinstance(model, tuple):
        raise InputTypeError(f"a model is a callable or a pair (fn, params), got {type(model).__name__}.")
    name = backend or backend_of_model(model)
    if name is None:
        usable = ", ".join(repr(record.name) for record in backends() if record.status == "ok")
        raise InputError(
            f"which framework {getattr(model, '__name__', type(model).__name__)} belongs to cannot be told from its "
            f"type; name its backend: {usable}."
        )
    description = find_backend(name).description
    assert description is not None
    own = bool(description.validation or not description.harness)
    side: type[Side] = load_component(name, "validation") if own else HarnessSide
    return name, side(model, name, problem, axes, activations)
