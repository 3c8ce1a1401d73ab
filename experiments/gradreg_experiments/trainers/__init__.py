"""One trainer per framework, behind one interface; any other backend trains through its harness."""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from gradreg_core.errors import GradregError, UnsupportedError
from gradreg_core.plugins.discovery import backends
from gradreg_core.plugins.dispatch import find_backend, load_backend, load_component
from gradreg_experiments.trainers.trainer import Tick, Trainer, silent

if TYPE_CHECKING:
    from gradreg_core.plugins.hookspecs import BackendDescription

__all__ = ["Tick", "Trainer", "check_trains", "load_trainer", "silent", "trainable", "usable"]


def load_trainer(backend: str) -> Trainer:
    """The trainer named in the backend's description, or the generic one over its harness.

    Raises:
        UnsupportedError: the backend cannot train.
        GradregError: there is no such backend, or it is not installed.
    """
    check_trains([backend])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # without it TensorFlow describes its build on stderr
    load_backend(backend)
    description = find_backend(backend).description
    assert description is not None
    if description.trainer:
        trainer: Trainer = load_component(backend, "trainer")()
        return trainer
    from gradreg_conformance.harness import load_harness
    from gradreg_experiments.trainers.generic import GenericTrainer

    return GenericTrainer(load_harness(backend))


def trainable() -> tuple[str, ...]:
    """The names of all backends that can train, installed or not."""
    return tuple(record.name for record in backends() if record.description and _trains(record.description))


def usable(names: Iterable[str] = ()) -> tuple[tuple[str, ...], dict[str, str]]:
    """The backends that can train here, and why the others cannot; this imports nothing.

    Args:
        names: the backends to check, which must be usable; all that can train if empty.

    Raises:
        GradregError: a named backend cannot be used.
    """
    named = tuple(dict.fromkeys(names))
    check_trains(named)
    skipped = {}
    for name in () if named else trainable():
        try:
            find_backend(name)
        except GradregError as error:
            skipped[name] = str(error)
    return named or tuple(name for name in trainable() if name not in skipped), skipped


def check_trains(names: Iterable[str]) -> None:
    """Refuse backends that cannot train, without importing a framework.

    Raises:
        UnsupportedError: a backend cannot train.
        BackendNotFoundError: there is no such backend.
    """
    for name in dict.fromkeys(names):
        description = find_backend(name).description
        if description is None or not _trains(description):
            raise UnsupportedError(f"The {name} backend does not train; choose one of {', '.join(trainable())}.")


def _trains(description: "BackendDescription") -> bool:
    """Whether the backend has a trainer, or a harness and differentiable arrays, unlike NumPy."""
    return bool(description.trainer or (description.harness and "numpy" not in description.array_modules))
