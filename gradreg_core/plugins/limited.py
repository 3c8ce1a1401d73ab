"""Calls third-party code within a limited time."""

import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["SECONDS_VARIABLE", "LateError", "limited", "seconds_allowed"]

SECONDS_VARIABLE = "GRADREG_PLUGIN_SECONDS"
_SECONDS = 5.0
_Result = TypeVar("_Result")


class LateError(Exception):
    """The call did not finish in time."""


def seconds_allowed() -> float:
    """How long a third party's plugin may take to load: GRADREG_PLUGIN_SECONDS, or 5."""
    try:
        seconds = float(os.environ.get(SECONDS_VARIABLE, ""))
    except ValueError:
        return _SECONDS
    return min(seconds, threading.TIMEOUT_MAX) if seconds > 0 else _SECONDS


def limited(function: Callable[[], _Result], seconds: float) -> _Result:
    """Return function(), run in a thread that is abandoned after `seconds`.

    Its exceptions are raised here, including a KeyboardInterrupt that it raises itself.

    Raises:
        LateError: it has not finished.
    """
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.extend((function(), None))
        except BaseException as error:
            outcome.extend((None, error))

    thread = threading.Thread(target=run, name="gradreg-plugin", daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise LateError
    result, error = outcome
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]
