"""The score of a training from a framework's metrics, and the training and validation data."""

from collections.abc import Mapping
from typing import Any

from gradreg_core.errors import InputError

__all__ = ["chosen_score", "parts_of"]


def chosen_score(call: str, metric: str, logs: Mapping[str, Any]) -> float:
    """The metric with this name; its negative if the name starts with a minus.

    Raises:
        InputError: there is no such metric.
    """
    name = metric.removeprefix("-")
    if name not in logs:
        names = ", ".join(map(repr, logs)) or "none"
        raise InputError(
            f"{call}: expected a validation metric {name!r}, but the model reports {names}. Compile or log it, "
            f"or choose one with metric=, prefixed by a minus if lower is better."
        )
    value = float(logs[name])
    return -value if metric.startswith("-") else value


def parts_of(call: str, data: Any, seed: int) -> tuple[Any, Any]:
    """The pair (train, validation).

    Raises:
        InputError: `data` is neither such a pair nor a function that returns one.
    """
    parts = data(seed) if callable(data) else data
    if not isinstance(parts, tuple | list) or len(parts) != 2:
        raise InputError(f"{call}: data must be a pair (train, validation), or a function seed -> such a pair.")
    return parts[0], parts[1]
