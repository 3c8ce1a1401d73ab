"""The score of a training among the metrics that a framework reports, and the parts of the data that it is for."""

from collections.abc import Mapping
from typing import Any

from gradreg_core.errors import InputError

__all__ = ["chosen_score", "parts_of"]


def chosen_score(call: str, metric: str, logs: Mapping[str, Any]) -> float:
    """The metric of this name; with a minus in front, less it.

    Raises:
        InputError: there is no such metric.
    """
    name = metric.removeprefix("-")
    if name not in logs:
        names = ", ".join(map(repr, logs)) or "none"
        raise InputError(
            f"{call}: expected a metric {name!r} of the validation, and the model reports {names}. Compile or log it, "
            f"or choose one by metric=, with a minus in front where lower is better."
        )
    value = float(logs[name])
    return -value if metric.startswith("-") else value


def parts_of(call: str, data: Any, seed: int) -> tuple[Any, Any]:
    """(train, validation).

    Raises:
        InputError: `data` is no such pair, and no function that returns one.
    """
    parts = data(seed) if callable(data) else data
    if not isinstance(parts, tuple | list) or len(parts) != 2:
        raise InputError(f"{call}: data must be a pair (train, validation), or a function seed -> such a pair.")
    return parts[0], parts[1]
