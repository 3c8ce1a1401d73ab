"""Runs tasks in processes of their own, each on the given number of cores."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from gradreg_bench.task import Measurement, Result, Task
from gradreg_core.errors import GradregError, InputError, PluginError

__all__ = ["cores", "run", "with_memory"]

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def cores() -> list[int]:
    """The numbers of the cores that this process may use; empty where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def run(task: Task) -> Result:
    """The task's result, from a fresh process.

    Raises:
        InputError: the task cannot be carried out; the message says why.
        PluginError: the process ended without an answer.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _THREADS}
    environment |= {"TF_CPP_MIN_LOG_LEVEL": "3", **dict.fromkeys(_THREADS, str(task.threads))}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "result.json"
        done = subprocess.run(  # noqa: S603 - this very interpreter and package
            [sys.executable, "-m", "gradreg_bench.worker", str(answer)],
            input=json.dumps(task.to_dict()),
            capture_output=True,
            text=True,
            env=environment,
        )
        if not answer.exists():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise PluginError(
                f"bench: {task.model} in {task.framework}: the process that measures ended with status "
                f"{done.returncode}: {last}"
            )
        values = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in values:
        raise InputError(values["error"])
    return Result.from_dict(values)


def with_memory(result: Result) -> Result:
    """The same with the peak of every variant that has a time, each from a fresh process.

    A variant whose process fails keeps an unknown peak.
    """
    rows = [
        row if row.ratio is None else replace(row, memory=_peak(result.task, row.name)) for row in result.measurements
    ]
    return replace(result, measurements=tuple(rows))


def _peak(task: Task, name: str) -> int | None:
    try:
        found: tuple[Measurement, ...] = run(replace(task, memory_of=name)).measurements
    except GradregError:
        return None
    return found[0].memory
