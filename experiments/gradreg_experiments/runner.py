"""Runs the jobs whose results are missing: in this process, in several, or on a Dask cluster."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

import joblib
from threadpoolctl import threadpool_limits

from gradreg_core.cli.terminal import progress_bar
from gradreg_core.cli.versions import module_version
from gradreg_experiments.cluster import on_cluster
from gradreg_experiments.folder import check_folder
from gradreg_experiments.job import Job
from gradreg_experiments.plan import Plan, Trained, unseeded
from gradreg_experiments.results import Results
from gradreg_experiments.trainers import Tick, Trainer, check_trains, load_trainer, silent
from gradreg_experiments.workers import in_processes

__all__ = ["RunJobs", "every_loss", "missing", "run_missing", "train_jobs", "versions"]

RunJobs = Callable[[Sequence[Job], Any, Tick], list[dict[str, Any]]]
"""A function (jobs that differ only in their seeds, data, tick) -> one result per job; at the top level of a module."""


def missing(jobs: Sequence[Job], results: Results) -> list[Job]:
    """The jobs without a result, each once, in order."""
    return list({job.key: job for job in jobs if job.key not in results}.values())


def run_missing(
    jobs: Sequence[Job],
    run_jobs: RunJobs,
    data: Any,
    results: Results,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    together: int = 1,
    words: str = "",
) -> int:
    """Run the jobs that have no result, keep each result as it arrives, and return their number.

    Args:
        jobs: in the order of execution.
        run_jobs: runs jobs that train together, usually a single one.
        data: passed to `run_jobs`.
        results: the finished runs; new results are added.
        workers: processes on this machine; 1 runs the jobs in this process; 0 is one per core.
        scheduler: address of a Dask scheduler, whose workers run the jobs instead; if a worker dies,
            another one repeats its job.
        together: the largest number of jobs, differing only in their seeds, to train as one program.
        words: the words of the progress bar.

    Raises:
        UnsupportedError: a backend cannot train.
        BackendImportError: a scheduler was given and Dask is not installed.
        RunError: results cannot be written, which is checked first; or a worker or the scheduler is lost.
    """
    todo = missing(jobs, results)
    check_trains(job.backend for job in todo)
    if results.folder is not None and todo:
        check_folder(results.folder, len(todo))
    done, total = len(jobs) - len(todo), len(jobs)
    if not todo:
        return 0
    units = _units(todo, together)
    workers = max(1, min(workers or joblib.cpu_count(), len(units)))
    alone = scheduler is None and workers == 1
    description = f"{words}{{}} of {total} runs"
    steps = {job.key: job.protocol.steps for job in todo}
    with progress_bar(description.format(done), sum(steps.values())) as bar:
        if alone:
            outcomes: Iterator[list[dict[str, Any]]] = (run_jobs(unit, data, bar.advance) for unit in units)
        else:
            outcomes = _spread(units, run_jobs, data, workers, scheduler)
        for result in chain.from_iterable(outcomes):
            results.add(result)
            done += 1
            bar.describe(description.format(done))
            if not alone:
                bar.advance(steps[result["key"]])
    return len(todo)


def _units(todo: Sequence[Job], together: int) -> list[list[Job]]:
    """The jobs that train together, in the order of the first job of each unit."""
    if together == 1:
        return [[job] for job in todo]
    alike: dict[Any, list[Job]] = {}
    for job in todo:
        kind = (job.protocol, unseeded(job.regularizer), job.backend, job.data, job.kind)
        alike.setdefault(kind, []).append(job)
    return [own[start : start + together] for own in alike.values() for start in range(0, len(own), together)]


def _spread(
    units: Sequence[list[Job]], run_jobs: RunJobs, data: Any, workers: int, scheduler: str | None
) -> Iterator[list[dict[str, Any]]]:
    # The function carries the data: Dask would keep an argument on one worker, and lose both together.
    work = [partial(run_jobs, unit, data, silent) for unit in units]
    if scheduler is None:
        return in_processes(work, workers)
    needs = list(dict.fromkeys(job.backend for unit in units for job in unit))
    return on_cluster(work, scheduler, needs)


def train_jobs(
    jobs: Sequence[Job], plans: Sequence[Plan], tick: Tick, evaluate: Callable[[Trainer, Job, Plan, Trained], Any]
) -> list[dict[str, Any]]:
    """Train plans, several as one program, and evaluate them; one result per job.

    Arrays are small and runs are many, so linear algebra uses one thread.

    Args:
        jobs: the jobs of the plans.
        plans: the plans, in the same order.
        tick: see :data:`gradreg_experiments.trainers.Tick`.
        evaluate: (trainer, job, plan, trained) -> the result's contents beside settings, times and versions.
    """
    trainer = load_trainer(jobs[0].backend)
    with threadpool_limits(1):
        start, start_cpu = time.perf_counter(), time.process_time()
        trained = [trainer.train(plans[0], tick)] if len(plans) == 1 else trainer.train_together(plans, tick)
        times = {
            "seconds": (time.perf_counter() - start) / len(plans),
            "cpu_seconds": (time.process_time() - start_cpu) / len(plans),
        }
        return [
            {"key": job.key, **job.as_json(), "versions": versions(job.backend)}
            | evaluate(trainer, job, plan, run)
            | {name: round(seconds, 3) for name, seconds in times.items()}
            | {"together": len(plans)}
            for job, plan, run in zip(jobs, plans, trained, strict=True)
        ]


def every_loss(trainer: Trainer, job: Job, plan: Plan, trained: Trained) -> dict[str, Any]:
    """An `evaluate` for :func:`train_jobs`: the loss of each step."""
    return {"every_loss": trained.losses.tolist()}


def versions(*modules: str) -> dict[str, str | None]:
    """The versions of gradreg, NumPy and the given top-level modules."""
    return {name: module_version(name) for name in ("gradreg", "numpy", *modules)}
