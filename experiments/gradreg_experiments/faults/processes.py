"""Starts the stand-in, waits for its runs, finds its workers, and checks its results."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from gradreg_experiments.faults.stand_in import jobs, value
from gradreg_experiments.results import EXPORT, RUNS, Results

__all__ = ["COUNT", "Ended", "alive", "children", "lost", "resume", "runs_there", "start", "wait_for"]

COUNT = 8
"""The number of runs of a command."""
_PATIENCE = 120.0


class Ended(NamedTuple):
    """How a process ended, and what it printed."""

    status: int
    stdout: str
    stderr: str


def start(folder: Path, *options: str, environment: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    """The stand-in, in its own process group."""
    command = [sys.executable, "-m", "gradreg_experiments.faults.stand_in", "runs", str(folder), *options]
    path = os.pathsep.join(filter(None, sys.path))
    variables = {**os.environ, "PYTHONPATH": path, **(environment or {})}
    return subprocess.Popen(  # noqa: S603 - this interpreter
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=variables,
        start_new_session=True,
    )


def ended(process: "subprocess.Popen[str]") -> Ended:
    """Wait for the process to end."""
    stdout, stderr = process.communicate(timeout=_PATIENCE)
    return Ended(process.returncode, stdout, stderr)


def wait_for(condition: Callable[[], bool], seconds: float = _PATIENCE) -> float:
    """The seconds until the condition holds.

    Raises:
        TimeoutError: it does not hold in time.
    """
    begin = time.monotonic()
    while not condition():
        if time.monotonic() - begin > seconds:
            raise TimeoutError(f"not within {seconds:g} seconds")
        time.sleep(0.02)
    return time.monotonic() - begin


def runs_there(folder: Path) -> int:
    """The finished runs in a folder."""
    return len([path for path in (folder / RUNS).glob("*.json") if not path.name.startswith(".")])


def children(process: int) -> list[int]:
    """The descendants of `process`."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry.parent.name)] = int(fields[1])
    own, more = [], [process]
    while more:
        parent = more.pop()
        more += [child for child, its in parents.items() if its == parent]
        own += [child for child, its in parents.items() if its == parent]
    return own


def alive(processes: list[int]) -> list[int]:
    """The processes that still run."""
    return [number for number in processes if _state(number) not in ("", "Z")]


def _state(number: int) -> str:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def resume(folder: Path, *options: str) -> Ended:
    """Run the same command again, to its end."""
    return ended(start(folder, *options))


def lost(folder: Path, before: int) -> str:
    """The differences from a run without a fault, after the command was resumed; empty if there are none.

    Args:
        folder: the folder of the runs.
        before: the number of runs finished before the fault.
    """
    results = Results(folder)
    wanted = {job.key: value(job.seed) for job in jobs(COUNT)}
    if {result["key"]: result["value"] for result in results} != wanted:
        return f"{len(results)} of {COUNT} runs, or wrong values"
    if len((folder / EXPORT).read_text().splitlines()) != COUNT:
        return "the export is incomplete"
    return "" if before <= COUNT else f"{before} runs before"


def done_now(end: Ended) -> int:
    """The number of runs that a command reports as done."""
    match = re.search(r"^(\d+) of", end.stdout, re.M)
    return int(match.group(1)) if match else -1
