"""The command to inject faults into: the runner with runs that only wait, so that many can be killed quickly."""

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from gradreg_core.cli.main import LazyGroup
from gradreg_experiments.folder import held
from gradreg_experiments.job import Job
from gradreg_experiments.results import Results
from gradreg_experiments.runner import run_missing
from gradreg_experiments.trainers import Tick, silent

__all__ = ["jobs", "main", "value"]

_LARGE = 4000
"""The size of a matrix whose decomposition takes a minute."""


@dataclass(frozen=True)
class Waiting:
    """The protocol of a run that only waits."""

    steps: int = 1


def jobs(count: int) -> list[Job]:
    """Jobs with seeds from 0."""
    return [Job(Waiting(), None, seed, "torch", "none", kind="stand-in") for seed in range(count)]


def value(seed: int) -> float:
    """The result of a seed's run."""
    return float(np.random.default_rng(seed).random())


def _run(
    seconds: float, payload: int, compiled: bool, jobs: Sequence[Job], data: Any, tick: Tick = silent
) -> list[dict[str, Any]]:
    (job,) = jobs
    time.sleep(seconds)
    if compiled and job.seed > 2:
        np.linalg.svd(np.random.default_rng(0).normal(size=(_LARGE, _LARGE)))
    filler = "x" * (payload if job.seed > 2 else 0)
    return [{"key": job.key, **job.as_json(), "value": value(job.seed), "filler": filler}]


@click.command("runs")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--count", default=8)
@click.option("--workers", default=1)
@click.option("--seconds", default=0.1)
@click.option("--payload", default=0)
@click.option("--compiled", is_flag=True, help="From the fourth run on, stay in one call of compiled code.")
@click.option("--scheduler")
def _runs(
    out: Path, count: int, workers: int, seconds: float, payload: int, compiled: bool, scheduler: str | None
) -> None:
    with held(out):
        results = Results(out)
        done = run_missing(
            jobs(count), partial(_run, seconds, payload, compiled), None, results, workers=workers, scheduler=scheduler
        )
        results.export()
        click.echo(f"{done} of {count} runs done now")


class _Group(LazyGroup):
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _runs if cmd_name == "runs" else None


main = _Group("stand-in", records=list)

if __name__ == "__main__":
    # A shell makes background commands ignore Ctrl-C, and their children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
