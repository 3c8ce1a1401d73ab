"""One side of a validation: a model in its framework, seen through NumPy arrays and left as it was."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradreg_core.errors import UnsupportedError
from gradreg_core.inputs import Inputs
from gradreg_core.layout import is_floating
from gradreg_core.plugins.dispatch import load_backend
from gradreg_core.selection import selected_arrays
from gradreg_core.spec import Regularizer
from gradreg_core.taps import Places, active_places
from gradreg_validation.batch import Arrays, Batch
from gradreg_validation.recording import Recorder, Step

__all__ = [
    "DTYPES",
    "Arrays",
    "Evaluation",
    "Problem",
    "Side",
    "goals",
    "joined",
    "unsupported",
]

DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Problem:
    """The computation, the same for both models."""

    batch: Batch
    y: np.ndarray | None
    reg: Regularizer | None
    options: Mapping[str, Any] = field(default_factory=dict)
    """`step`, `class_axis`, `loss_fn` and `outputs` of the calls."""

    @property
    def terms(self) -> tuple[Any, ...]:
        """The terms of the regularizer."""
        return () if self.reg is None else tuple(self.reg.terms)


@dataclass(frozen=True)
class Evaluation:
    """The results of one model on one batch."""

    outputs: Arrays
    """The arrays that the model returns, by path; "" for a single array."""
    loss: np.ndarray | None
    penalties: tuple[np.ndarray, ...]
    by_input: Arrays
    """Gradients with respect to the input, of "loss", "penalty" and "total"; without labels, of "penalty"; without
    either, of "outputs", their sum with fixed random factors. Gradients of several arrays are concatenated."""
    by_parameter: dict[str, Arrays]
    """Gradients with respect to the parameters by name, of the same."""


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
    measurable = True
    """Whether it can be evaluated on other inputs and parameters than its own."""

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
    def evaluate(self, x: Arrays, changed: Arrays) -> Evaluation:
        """Everything that is compared, with the arrays in `changed` instead of the model's own."""

    def record(self, x: Arrays, changed: Arrays) -> list[Step]:
        """The calls of the layers, stages and taps, in the order in which they end."""
        return self._staged(x, ())

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

    def _packed(self, natives: Mapping[str, Any]) -> Any:
        """The input that gradreg's calls are given: an array, or a dict of them by path."""
        batch = self.problem.batch
        if list(natives) == [""]:
            return natives[""]
        if batch.wrt is None:
            return dict(natives)
        return Inputs(dict(natives), wrt=[f"0.{path}" for path in batch.floating])

    def _packed_alone(self, natives: Mapping[str, Any]) -> Any:
        """The same as a plain function of it takes it."""
        packed = self._packed(natives)
        return packed.args[0] if isinstance(packed, Inputs) else packed

    def _pass(self, model: Callable[..., Any]) -> Callable[[Any], Any]:
        """The model as a function of what `_packed` gives, and without Inputs around it."""

        def call(packed: Any) -> Any:
            single = list(self.problem.batch.arrays) == [""]
            x = self._arranged(self.problem.batch.structured({"": packed} if single else packed))
            return model(*x.args, **x.kwargs) if isinstance(x, Inputs) else model(x)

        return call

    def _staged(self, x: Arrays, first: tuple[Any, ...]) -> list[Step]:
        """The steps of the caller's stages or function; `first` comes before x in every call."""
        recorder = Recorder(self._hosted)
        if self.stages is None:
            return []
        natives = {path: self._native(array) for path, array in x.items()}
        value = self._arranged(self.problem.batch.structured(natives))
        if callable(self.stages):
            given = value.args if isinstance(value, Inputs) else (value,)
            for name, array in self.stages(*first, *given).items():
                recorder.add(str(name), None, (), {}, array)
            return recorder.steps
        for name, stage in self.stages:
            args, kwargs = (value.args, value.kwargs) if isinstance(value, Inputs) else ((value,), {})
            value = stage(*first, *args, **kwargs)
            recorder.add(str(name), None, args, kwargs, value)
        return recorder.steps

    def _tapped(self, recorder: Recorder) -> "_Taps":
        """A context in which taps are recorded too."""
        return _Taps(recorder)

    def _host(self, array: Any) -> np.ndarray:
        return np.asarray(array)

    def _hosted(self, value: Any) -> np.ndarray | None:
        """The array's values, or None where it has no values yet."""
        try:
            array = self._host(value)
        except (TypeError, ValueError, AttributeError, RuntimeError, NotImplementedError):
            return None
        return array if array.dtype.kind in "fiub" else None

    def _targets(self) -> Any:
        """The labels as an array of the framework."""
        y = self.problem.y
        if y is None:
            return None
        floating = np.issubdtype(y.dtype, np.floating)
        return self._native(y.astype(self.dtype if floating else np.int32))

    def _forward(self, model: Callable[[Any], Any], x: Any, params: Any) -> tuple[Any, Any, list[Any], Any]:
        """(outputs by path, loss or None, penalties, probe or None) by gradreg's own calls."""
        problem, ops = self.problem, self.calls.backend
        options = {**problem.options, "params": params}
        returned = model(x.args[0] if isinstance(x, Inputs) else x)
        leaves = [
            (path, leaf)
            for path, leaf in ops.flatten(returned)[0]
            if ops.is_array(leaf) and is_floating(ops.dtype(leaf))
        ]
        paths = [path for path, _ in leaves]
        selector = options.get("outputs")
        if selector is not None:
            outputs = dict(_numbered(selected_arrays(ops, "validate", selector, returned)))
        else:
            outputs = dict(leaves)
            if paths != [""] and "logits" not in paths and (len(paths) == 1 or problem.y is None):
                options["outputs"] = paths
        if problem.y is not None:
            _, parts = self.calls.loss(model, x, self._targets(), problem.reg, batch_norm="allow", **options)
            return outputs, parts.loss, list(parts.penalty), None
        penalties = [self.calls.penalty(model, x, None, term, batch_norm="allow", **options) for term in problem.terms]
        return outputs, None, penalties, None if penalties else self._probe(outputs)

    def _probe(self, outputs: Mapping[str, Any]) -> Any:
        """The sum of the outputs with random factors, the same in all layouts: a scalar to differentiate."""
        ops, total, axis = self.calls.backend, None, self.problem.options.get("class_axis")
        for output in outputs.values():
            shape = ops.shape(output)
            order = np.moveaxis(np.empty(shape, np.bool_), axis or -1, -1).shape
            factors = np.moveaxis(np.random.default_rng(len(shape)).normal(size=order), -1, axis or -1)
            product = output * self._native(factors.astype(ops.dtype(output)))
            value = ops.sum(product, tuple(range(len(shape))))
            total = value if total is None else total + value
        return total


def _numbered(arrays: Sequence[Any]) -> list[tuple[str, Any]]:
    return [("", arrays[0])] if len(arrays) == 1 else [(str(i), array) for i, array in enumerate(arrays)]


class _Taps(Places):
    """Records every tap of a forward pass."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__((), lambda name, value: value)
        self.recorder, self.outer = recorder, active_places()

    def visit(self, name: str, value: Any, flatten: Any = None) -> Any:
        if flatten is None:
            self.recorder.add(name, None, (), {}, value)
        return value


def goals(loss: Any, penalties: Sequence[Any], probe: Any = None) -> dict[str, Any]:
    """The scalars whose gradients are compared."""
    if not penalties:
        return {"outputs": probe} if loss is None else {"loss": loss}
    penalty = sum(penalties[1:], penalties[0])
    return {"penalty": penalty} if loss is None else {"loss": loss, "penalty": penalty, "total": loss + penalty}


def joined(gradients: Sequence[np.ndarray]) -> np.ndarray:
    """The gradients of several arrays as one; a single one as it is; an empty array without any."""
    if len(gradients) == 1:
        return gradients[0]
    return np.concatenate([np.ravel(gradient) for gradient in gradients]) if gradients else np.zeros(0)
