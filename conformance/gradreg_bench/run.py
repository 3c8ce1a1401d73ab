"""Runs each task in a separate process, on the given number of cores."""

import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

from gradreg_bench.task import Result, Task
from gradreg_core.cli.foreign import TIMEOUT
from gradreg_core.cli.processes import run_python
from gradreg_core.errors import GradregError, InputError, PluginError

__all__ = ["cores", "run", "with_memory"]

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def cores() -> list[int]:
    """The numbers of the cores that this process may use; empty if unknown."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def run(task: Task, timeout: float = TIMEOUT) -> Result:
    """The task's result, from a fresh process.

    Args:
        task: the task to measure.
        timeout: the limit in seconds for importing and calling a factory.

    Raises:
        InputError: the task cannot be measured; the message says why.
        PluginError: the process ended without an answer.
    """
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **dict.fromkeys(_THREADS, str(task.threads))}
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "result.json"
        child = run_python(
            *("-m", "gradreg_bench.worker", str(answer), str(timeout)),
            stdin=json.dumps(task.to_dict()),
            environment=environment,
        )
        if not answer.exists():
            raise PluginError(f"bench: {task.model} in {task.framework}: the measuring process {child.ending}")
        values = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in values:
        raise InputError(values["error"])
    return Result.from_dict(values)


def with_memory(result: Result) -> Result:
    """The result, with the peak memory of every variant that has a time, each from a fresh process.

    If the process of a variant fails, its peak stays unknown.
    """
    rows = [
        row if row.ratio is None else replace(row, memory=_peak(result.task, row.name)) for row in result.measurements
    ]
    return replace(result, measurements=tuple(rows))


def _peak(task: Task, name: str) -> int | None:
    try:
        return run(replace(task, memory_of=name)).measurements[0].memory
    except GradregError:
        return None
