"""One side of a validation: a model in its framework, seen through NumPy arrays.

Every framework is imported when the first model of it is wrapped, never before. No model is left changed.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from gradreg_core.errors import InputError, InputTypeError, UnsupportedError
from gradreg_core.spec import Regularizer

if TYPE_CHECKING:
    from gradreg_core.calls import Calls

__all__ = [
    "DTYPES",
    "Arrays",
    "Evaluation",
    "Problem",
    "Side",
    "backend_of_model",
    "find_name",
    "goals",
    "make_side",
    "unsupported",
]

DTYPES = ("float32", "float64")
Arrays = dict[str, np.ndarray]
_LIBRARIES = {
    "torch": "torch",
    "flax": "jax",
    "equinox": "jax",
    "jax": "jax",
    "jaxlib": "jax",
    "tensorflow": "tensorflow",
}


@dataclass(frozen=True)
class Problem:
    """What is computed, the same for both models."""

    y: np.ndarray | None
    reg: Regularizer
    options: Mapping[str, Any] = field(default_factory=dict)
    """`step`, `class_axis` and `loss_fn` of the calls."""


@dataclass(frozen=True)
class Evaluation:
    """What one model gives on one batch."""

    outputs: np.ndarray
    loss: np.ndarray | None
    penalties: tuple[np.ndarray, ...]
    by_input: Arrays
    """Gradients with respect to the input, of "loss", "penalty" and "total"; without labels of "penalty" alone."""
    by_parameter: dict[str, Arrays]
    """Gradients with respect to the parameters by name, of "loss" and "penalty"."""


def backend_of_model(model: Any) -> str | None:
    """The name of the framework that `model` is a model of, by its type; None if it is a plain function."""
    if isinstance(model, tuple):
        return "jax"
    packages = [cls.__module__.partition(".")[0] for cls in type(model).__mro__]
    if "keras" in packages:
        return str(sys.modules["keras"].config.backend())
    return next((_LIBRARIES[package] for package in packages if package in _LIBRARIES), None)


def find_name(names: Sequence[str], wanted: str) -> str | None:
    """The one of `names` that is `wanted`, or ends in it after a separator; None if there is none or several."""
    if wanted in names:
        return wanted
    ending = "." + wanted.replace("/", ".")
    found = [name for name in names if ("." + name.replace("/", ".")).endswith(ending)]
    return found[0] if len(found) == 1 else None


def unsupported(dtypes: Collection[str]) -> UnsupportedError:
    """The error for parameters of these dtypes."""
    found = ", ".join(sorted(dtypes))
    return UnsupportedError(f"it has parameters of dtype {found}; validate compares float32 and float64 models.")


class Side(ABC):
    """A model in its framework.

    Args:
        model: the model.
        calls: gradreg's calls in the framework.
        problem: what is computed.
        axes: a permutation of the axes of x, or a function of the framework's own x, applied before the model.
        activations: stages or a function that gives the activations, where the framework has no names for them.
    """

    values: Arrays
    """Every array of the model by name; empty where they cannot be reached."""
    layer_kinds: dict[str, str]
    """The type of each named layer."""

    def __init__(self, model: Any, calls: "Calls", problem: Problem, axes: Any, activations: Any) -> None:
        self.model, self.calls, self.problem, self.axes, self.stages = model, calls, problem, axes, activations
        self.dtype = "float32"
        self.layer_kinds = {}
        self.values = {}
        self._open()
        dtypes = {str(value.dtype) for value in self.values.values()}
        if others := dtypes - set(DTYPES):
            raise unsupported(others)
        if "float64" in dtypes:
            self.dtype = "float64"

    @abstractmethod
    def _open(self) -> None:
        """Find the arrays and the layers."""

    @abstractmethod
    def evaluate(self, x: np.ndarray, changed: Arrays) -> Evaluation:
        """Everything that is compared, with the arrays in `changed` instead of the model's own."""

    def activations(self, x: np.ndarray, changed: Arrays, names: Sequence[str]) -> Arrays:
        """The activations of those names, in the order in which they are computed."""
        return {name: value for name, value in self._staged(x, ()).items() if name in names}

    @cached_property
    def layer_names(self) -> list[str]:
        """The names of activations that can be asked for."""
        return list(self.layer_kinds)

    def warnings(self) -> list[str]:
        """What is seen of the model that makes a comparison doubtful."""
        return []

    @contextmanager
    def kept(self) -> Iterator[None]:
        """The model and the framework's generator are as before afterwards."""
        yield

    def _native(self, array: np.ndarray) -> Any:
        raise NotImplementedError

    def _transpose(self, x: Any, axes: tuple[int, ...]) -> Any:
        raise NotImplementedError

    def _arranged(self, x: Any) -> Any:
        """The input as the model takes it."""
        if self.axes is None:
            return x
        return self.axes(x) if callable(self.axes) else self._transpose(x, tuple(self.axes))

    def _staged(self, x: np.ndarray, first: tuple[Any, ...]) -> Arrays:
        """The activations that the caller's stages or function give; `first` comes before x in every call."""
        if self.stages is None:
            return {}
        value = self._arranged(self._native(x))
        if callable(self.stages):
            return {str(name): self._host(each) for name, each in self.stages(*first, value).items()}
        found = {}
        for name, stage in self.stages:
            value = stage(*first, value)
            found[str(name)] = self._host(value)
        return found

    def _host(self, array: Any) -> np.ndarray:
        return np.asarray(array)

    def _targets(self) -> Any:
        """The labels as an array of the framework."""
        y = self.problem.y
        if y is None:
            return None
        floating = np.issubdtype(y.dtype, np.floating)
        return self._native(y.astype(self.dtype if floating else np.int32))

    def _forward(self, model: Callable[[Any], Any], x: Any, params: Any) -> tuple[Any, Any, list[Any]]:
        """(outputs, loss or None, penalties) by gradreg's own calls."""
        options = {**self.problem.options, "params": params}
        reg, calls = self.problem.reg, self.calls
        if self.problem.y is not None:
            _, parts = calls.loss(model, x, self._targets(), reg, batch_norm="allow", **options)
            return parts.outputs, parts.loss, list(parts.penalty)
        penalties = [calls.penalty(model, x, None, term, batch_norm="allow", **options) for term in reg.terms]
        return model(x), None, penalties


def goals(loss: Any, penalties: Sequence[Any]) -> dict[str, Any]:
    """The scalars whose gradients are compared."""
    penalty = sum(penalties[1:], penalties[0])
    return {"penalty": penalty} if loss is None else {"loss": loss, "penalty": penalty, "total": loss + penalty}


_SIDES = {"torch": "TorchSide", "jax": "JaxSide", "tensorflow": "TensorFlowSide"}


def make_side(
    model: Any, backend: str | None, problem: Problem, *, axes: Any = None, activations: Any = None
) -> tuple[str, Side]:
    """The name of the backend of `model`, and the model as a side.

    Raises:
        InputError: the backend is neither given nor seen in the model's type, or the model cannot be used yet.
        UnsupportedError: validate cannot look into models of this backend.
    """
    from gradreg_core.plugins.dispatch import load_backend

    if not callable(model) and not isinstance(model, tuple):
        raise InputTypeError(f"a model is a callable or a pair (fn, params), got {type(model).__name__}.")
    name = backend or backend_of_model(model)
    if name is None:
        raise InputError(
            f"which framework {getattr(model, '__name__', type(model).__name__)} belongs to cannot be seen; "
            f"name its backend: 'torch', 'jax' or 'tensorflow'."
        )
    if name not in _SIDES:
        raise UnsupportedError(f"validate compares models of torch, jax and tensorflow, not of {name!r}.")
    kind: type[Side] = getattr(import_module(f"gradreg_{name}.side"), _SIDES[name])
    return name, kind(model, load_backend(name), problem, axes, activations)
