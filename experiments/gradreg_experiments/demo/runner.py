"""What the demo asks of a backend: to train a plan and to evaluate a network, NumPy arrays in and out."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TypeVar

import joblib
import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from gradreg_core.errors import UnsupportedError
from gradreg_core.plugins.dispatch import find_backend, load_backend
from gradreg_core.portable.networks import Network
from gradreg_core.training import Plan, Trained

__all__ = ["BACKENDS", "Runner", "spread"]

_ASARRAY = {"torch": "torch:as_tensor", "jax": "jax.numpy:asarray", "tensorflow": "tensorflow:convert_to_tensor"}
BACKENDS = tuple(_ASARRAY)
"""The backends that can train."""
_CHUNK = 500

T = TypeVar("T")
Floats = npt.NDArray[np.floating[Any]]


class Runner:
    """One backend, imported when it is first used.

    Args:
        name: of the backend.

    Raises:
        UnsupportedError: the backend cannot train.
        GradregError: there is no such backend, or it is not installed; see `load_backend`.
    """

    def __init__(self, name: str) -> None:
        find_backend(name)
        if name not in BACKENDS:
            raise UnsupportedError(f"demo: the {name} backend does not train; choose one of {', '.join(BACKENDS)}.")
        self.name = name

    @contextmanager
    def loaded(self) -> Iterator[None]:
        """Import the framework, and keep its linear algebra to one thread: the arrays are small, the runs are many."""
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # without it TensorFlow describes its build on stderr
        load_backend(self.name)
        import_module(f"gradreg_{self.name}.training")
        with threadpool_limits(1):
            yield

    def train(self, plan: Plan) -> Trained:
        """Carry the plan out; see :mod:`gradreg_core.training`."""
        trained: Trained = import_module(f"gradreg_{self.name}.training").train(plan)
        return trained

    def logits(self, network: Network, params: Mapping[str, Any], x: Floats) -> Floats:
        """The outputs without dropout, (N, m)."""
        model, asarray = self._model(network, params)
        return np.concatenate([np.asarray(model(asarray(part))) for part in _chunks(x)])

    def jacobian_norms(self, network: Network, params: Mapping[str, Any], x: Floats) -> Floats:
        """||dz/dx||_F at each input, without dropout, (N,)."""
        model, asarray = self._model(network, params)
        measure = load_backend(self.name).measure
        return np.concatenate([np.asarray(measure(model, asarray(part)).frobenius) for part in _chunks(x)])

    def _model(self, network: Network, params: Mapping[str, Any]) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
        module, _, function = _ASARRAY[self.name].partition(":")
        asarray = getattr(import_module(module), function)
        apply = import_module(f"gradreg_{self.name}.networks").apply
        native = {path: asarray(value) for path, value in params.items()}
        return lambda x: apply(network, native, x), asarray


def spread(function: Callable[..., T], calls: Sequence[tuple[Any, ...]], workers: int = 0) -> Iterator[T]:
    """Results of `function`, called with each of `calls`, as they come, from several processes.

    Args:
        function: at the top level of a module.
        calls: positional arguments.
        workers: how many processes; 0 for one a core, 1 for this very process.
    """
    count = max(1, min(workers or joblib.cpu_count(), len(calls)))
    parallel = joblib.Parallel(n_jobs=count, return_as="generator_unordered")
    yield from parallel(joblib.delayed(function)(*arguments) for arguments in calls)


def _chunks(x: Floats) -> list[Floats]:
    return [x[start : start + _CHUNK] for start in range(0, len(x), _CHUNK)]
