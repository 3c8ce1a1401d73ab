"""One side of a validation: a model in its framework, seen through NumPy arrays and left as it was."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradreg_core.errors import UnsupportedError
from gradreg_core.plugins.dispatch import load_backend
from gradreg_core.spec import Regularizer

__all__ = [
    "DTYPES",
    "Arrays",
    "Evaluation",
    "Problem",
    "Side",
    "goals",
    "unsupported",
]

DTYPES = ("float32", "float64")
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Problem:
    """What is computed, the same for both models."""

    y: np.ndarray | None
    reg: Regularizer
    options: Mapping[str, Any] = field(default_factory=dict)
    """`step`, `class_axis` and `loss_fn` of the calls."""


@dataclass(frozen=True)
class Evaluation:
    """The results of one model on one batch."""

    outputs: np.ndarray
    loss: np.ndarray | None
    penalties: tuple[np.ndarray, ...]
    by_input: Arrays
    """Gradients with respect to the input, of "loss", "penalty" and "total"; without labels, of "penalty" alone."""
    by_parameter: dict[str, Arrays]
    """Gradients with respect to the parameters by name, of "loss" and "penalty"."""


def unsupported(dtypes: Collection[str]) -> UnsupportedError:
    """The error for parameters of these dtypes."""
    names = ", ".join(sorted(dtypes))
    return UnsupportedError(f"it has parameters of dtype {names}; validate compares float32 and float64 models.")


class Side(ABC):
    """A model in its framework.

    Args:
        model: the model.
        backend: the name of its backend.
        problem: what is computed.
        axes: a permutation of the axes of x, or a function of the framework's own x, applied before the model.
        activations: for models without named layers: a list of stages (name, fn), each a function of the result of the
            one before, or a function of x that returns a dict of activations. For a pair (fn, params) or a JAX module
            they take the parameters (or the module) before x.
    """

    values: Arrays
    """Every array of the model by name; empty if they cannot be reached."""
    layer_kinds: dict[str, str]
    """The type of each named layer."""

    def __init__(self, model: Any, backend: str, problem: Problem, axes: Any, activations: Any) -> None:
        self.model, self.backend, self.problem, self.axes, self.stages = model, backend, problem, axes, activations
        self.calls = load_backend(backend)
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
        """Set `values` and `layer_kinds`."""

    @abstractmethod
    def evaluate(self, x: np.ndarray, changed: Arrays) -> Evaluation:
        """Everything that is compared, with the arrays in `changed` instead of the model's own."""

    def activations(self, x: np.ndarray, changed: Arrays, names: Sequence[str]) -> Arrays:
        """The activations of those names, in the order in which they are computed."""
        return {name: value for name, value in self._staged(x, ()).items() if name in names}

    @property
    def layer_names(self) -> list[str]:
        """The names of the activations, as far as they are known before they are computed."""
        if self.stages is None:
            return list(self.layer_kinds)
        return [] if callable(self.stages) else [str(name) for name, _ in self.stages]

    def warnings(self) -> list[str]:
        """Why a comparison with this model is doubtful."""
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
        """The activations from the caller's stages or function; `first` comes before x in every call."""
        if self.stages is None:
            return {}
        value = self._arranged(self._native(x))
        if callable(self.stages):
            return {str(name): self._host(array) for name, array in self.stages(*first, value).items()}
        activations = {}
        for name, stage in self.stages:
            value = stage(*first, value)
            activations[str(name)] = self._host(value)
        return activations

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
