"""Carries out the runs that a results file lacks: here, in several processes, or on a Dask cluster."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import joblib
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gradreg_core.errors import BackendImportError
from gradreg_experiments.demo.idx import Mnist
from gradreg_experiments.paper.protocol import Job, unseeded
from gradreg_experiments.paper.results import Results
from gradreg_experiments.paper.run import run_job, run_together

__all__ = ["missing", "sweep"]

Tick = Callable[[int], None]


def missing(wanted: Sequence[Job], results: Results) -> list[Job]:
    """The runs that are not in the results, each once, in order."""
    return list({job.key: job for job in wanted if job.key not in results}.values())


def sweep(
    wanted: Sequence[Job],
    files: Mnist,
    results: Results,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    together: int = 1,
    console: Console | None = None,
    function: Callable[..., dict[str, Any]] = run_job,
) -> int:
    """Run what is missing and append each result as it comes; how many runs that were.

    Args:
        wanted: the runs, in the order in which they are to be done.
        files: MNIST.
        results: where finished runs are looked up and added.
        workers: processes on this machine; with one, runs are done in this process.
        scheduler: address of a Dask scheduler, whose workers do the runs instead; a run whose worker dies is done again
            by another.
        together: runs that differ in their seeds only and are trained as one program, at most.
        console: for the progress bar; None for no bar.
        function: does one run that is alone, at the top level of a module.

    Raises:
        BackendImportError: a scheduler was given and Dask is not installed.
    """
    todo = missing(wanted, results)
    with _progress(console, len(wanted), len(wanted) - len(todo), todo) as (finished, tick):
        units = _units(todo, together)
        for found in _outcomes(units, files, workers, scheduler, function, tick):
            for result in found:
                results.add(result)
                finished()
    return len(todo)


def _units(todo: Sequence[Job], together: int) -> list[list[Job]]:
    """The runs in the order of the first of each unit; with `together` 1 each is a unit."""
    if together == 1:
        return [[job] for job in todo]
    alike: dict[Any, list[Job]] = {}
    for job in todo:
        alike.setdefault((job.protocol, unseeded(job.regularizer), job.backend, job.data), []).append(job)
    return [own[start : start + together] for own in alike.values() for start in range(0, len(own), together)]


def _do(function: Callable[..., dict[str, Any]], unit: list[Job], files: Any, *tick: Tick) -> list[dict[str, Any]]:
    return [function(unit[0], files, *tick)] if len(unit) == 1 else run_together(unit, files, *tick)


def _outcomes(
    units: Sequence[list[Job]],
    files: Mnist,
    workers: int,
    scheduler: str | None,
    function: Callable[..., dict[str, Any]],
    tick: Tick,
) -> Iterator[list[dict[str, Any]]]:
    if scheduler is None and workers == 1:
        for unit in units:
            yield _do(function, unit, files, tick)
        return
    with _backend(scheduler):
        # No more runs are handed out than there are workers, so that a kill loses no more than those. The data go with
        # the function, not as an argument: Dask would keep an argument on one worker, and lose it with that worker.
        parallel = joblib.Parallel(
            n_jobs=workers if scheduler is None else -1,
            return_as="generator_unordered",
            pre_dispatch="n_jobs",
            batch_size=1,
        )
        yield from parallel(joblib.delayed(partial(_do, function, unit, files))() for unit in units)


def _backend(scheduler: str | None) -> Any:
    if scheduler is None:
        return nullcontext()
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise BackendImportError(
            f"reproduce: --scheduler needs Dask: {error}. Install it with: pip install distributed"
        ) from error
    return joblib.parallel_config("dask", scheduler_host=scheduler)


@contextmanager
def _progress(
    console: Console | None, total: int, done: int, todo: Sequence[Job]
) -> Iterator[tuple[Callable[[], None], Tick]]:
    """(call after a run, call after steps of a run) moving a bar that counts steps, so that long runs weigh more."""
    if console is None:
        yield (lambda: None), (lambda steps: None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    steps = sum(job.protocol.steps for job in todo)
    each = steps / len(todo) if todo else 0.0
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(f"{done} of {total} runs", total=steps or 1, completed=0 if steps else 1)
        ended = 0
        ticked = 0

        def finished() -> None:
            nonlocal ended
            ended += 1
            bar.update(task, description=f"{done + ended} of {total} runs", completed=max(ended * each, ticked))

        def tick(count: int) -> None:
            nonlocal ticked
            ticked += count
            bar.update(task, completed=ticked)

        yield finished, tick
