"""What the demo asks of a backend: to train a plan and to evaluate a network, NumPy arrays in and out."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
from gradreg_core.dispatch import find_backend, load_backend
from gradreg_core.errors import UnsupportedError
from gradreg_core.networks import Network
from gradreg_core.training import Plan, Trained

__all__ = ["BACKENDS", "Runner"]

_ASARRAY = {"torch": "torch:as_tensor", "jax": "jax.numpy:asarray", "tensorflow": "tensorflow:convert_to_tensor"}
BACKENDS = tuple(_ASARRAY)
"""The backends that can train."""
_CHUNK = 500

Floats = npt.NDArray[np.floating[Any]]


class Runner:
    """One backend, imported when it is first used.

    Args:
        name: of the backend.

    Raises:
        UnsupportedError: the backend cannot train.
        GradregError: there is no such backend, or it is not installed; see :func:`gradreg_core.dispatch.load_backend`.
    """

    def __init__(self, name: str) -> None:
        find_backend(name)
        if name not in BACKENDS:
            raise UnsupportedError(f"demo: the {name} backend does not train; choose one of {', '.join(BACKENDS)}.")
        self.name = name

    def load(self) -> None:
        """Import the framework, so that it is not part of what is timed next."""
        load_backend(self.name)
        import_module(f"gradreg_{self.name}.training")

    def train(self, plan: Plan, *, threads: int | None = None) -> Trained:
        """Carry the plan out; see :mod:`gradreg_core.training`."""
        self.load()
        trained: Trained = import_module(f"gradreg_{self.name}.training").train(plan, threads=threads)
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


def _chunks(x: Floats) -> list[Floats]:
    return [x[start : start + _CHUNK] for start in range(0, len(x), _CHUNK)]
