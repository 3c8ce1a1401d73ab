"""Runs units of jobs in worker processes of this machine, which end with the process that started them."""

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError

from gradreg_core.errors import RunError

__all__ = ["follow", "in_processes"]

_SECONDS = 0.5
"""The seconds between two checks of the parent."""
_following = False

Unit = Callable[[], list[dict[str, Any]]]


def in_processes(units: Sequence[Unit], workers: int) -> Iterator[list[dict[str, Any]]]:
    """Yield the results of units as they arrive.

    The number of submitted units never exceeds the workers, so a kill loses only those.

    Args:
        units: picklable functions without arguments.
        workers: the number of processes.

    Raises:
        RunError: a worker was killed.
    """
    # A worker grows when it loads a framework. loky takes that for a leak and replaces the worker at no cost;
    # but if warnings are errors, its warning ends the thread that submits units, and the command hangs.
    warnings.filterwarnings("ignore", "A worker stopped while some jobs were given to the executor", UserWarning)
    parallel = joblib.Parallel(n_jobs=workers, return_as="generator_unordered", pre_dispatch="n_jobs", batch_size=1)
    try:
        yield from parallel(joblib.delayed(partial(_run, os.getpid()))(unit) for unit in units)
    except TerminatedWorkerError as error:
        raise RunError(
            "A worker process was killed, by the system if memory was short. Use fewer --workers, or check the "
            "system's log."
        ) from error


def _run(parent: int, unit: Unit) -> list[dict[str, Any]]:
    follow(parent)
    return unit()


def follow(parent: int) -> None:
    """End this process soon after `parent`, which started it, however it ends. The parent handles Ctrl-C."""
    global _following
    if _following:
        return
    _following = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(parent,), name="gradreg-follow", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_SECONDS)
    os._exit(1)
