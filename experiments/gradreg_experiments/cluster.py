"""Runs units of jobs on a Dask cluster. The workers run them; this process submits them and waits."""

import queue
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pkgutil import resolve_name
from typing import Any

from gradreg_core.errors import BackendImportError, GradregError, RunError
from gradreg_core.plugins.dispatch import find_backend

__all__ = ["on_cluster"]

_CONNECT, _WORKERS = 10.0, 10.0
"""Seconds to wait at the start: for the scheduler, and for its first worker."""
_SILENT, _EMPTY = 10.0, 60.0
"""Seconds to wait later: for a lost scheduler, and for workers, which their nannies restart."""
_LOOK = 0.5

Unit = Callable[[], list[dict[str, Any]]]


def on_cluster(units: Sequence[Unit], scheduler: str, needs: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    """Yield the results of units as they arrive.

    The number of submitted units never exceeds the workers' threads. If a worker dies, another one repeats its unit.

    Args:
        units: picklable functions without arguments; they carry their data.
        scheduler: the scheduler's address, such as ``"tcp://host:8786"``.
        needs: the backends that the workers must have.

    Raises:
        BackendImportError: Dask is not installed.
        RunError: the scheduler or all workers are lost, or a worker lacks something; the message names it.
    """
    with _client(scheduler) as client:
        threads = _checked_workers(client, scheduler, needs)
        waiting, running = iter(units), set()
        finished: queue.Queue[Any] = queue.Queue()

        def submit() -> None:
            unit = next(waiting, None)
            if unit is not None:
                future = client.submit(unit, pure=False)
                running.add(future)
                future.add_done_callback(finished.put)

        for _ in range(threads):
            submit()
        while running:
            future = _next_finished(finished, client, scheduler)
            running.remove(future)
            try:
                result = future.result()
            except Exception as error:
                if type(error).__module__.startswith("distributed") or future.status in ("cancelled", "lost"):
                    raise RunError(f"reproduce: the scheduler {scheduler} gave up on a run: {error}.") from error
                raise
            submit()
            yield result


@contextmanager
def _client(scheduler: str) -> Iterator[Any]:
    try:
        import dask
        import distributed
    except ImportError as error:
        raise BackendImportError(
            f"reproduce: --scheduler needs Dask: {error}. Install it with: pip install distributed"
        ) from error
    dask.config.set({"distributed.admin.large-graph-warning-threshold": "10GB"})  # each unit carries its data
    try:
        client = distributed.Client(scheduler, timeout=_CONNECT, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise RunError(
            f"reproduce: no Dask scheduler answers at {scheduler} within {_CONNECT:g} seconds: {error}. Start one with "
            f"'dask scheduler', or correct --scheduler."
        ) from error
    try:
        yield client
    finally:
        client.close(timeout=1)


def _checked_workers(client: Any, scheduler: str, needs: Sequence[str]) -> int:
    """The number of threads of all workers; refuse workers that lack a requirement."""
    try:
        client.wait_for_workers(1, timeout=_WORKERS)
    except TimeoutError as error:
        raise RunError(
            f"reproduce: the scheduler {scheduler} has no worker. Start some with 'dask worker {scheduler}'."
        ) from error
    # Functions of the standard library alone, because gradreg may be missing there.
    versions = client.run(resolve_name, "gradreg_core:__version__", on_error="return")
    _refuse(
        {address: answer for address, answer in versions.items() if isinstance(answer, BaseException)},
        "gradreg cannot be imported",
        'Install it there with: pip install "gradreg[reproduction]"',
    )
    own = resolve_name("gradreg_core:__version__")
    _refuse(
        {address: f"it is {answer}" for address, answer in versions.items() if answer != own},
        f"the version of gradreg differs from the local {own}",
        "Install the same version everywhere",
    )
    answers = client.run(_lacking, list(needs), on_error="return")
    _refuse(
        {address: answer for address, answer in answers.items() if answer},
        "a requirement of the runs is missing",
        'Install it there with: pip install "gradreg[reproduction]", and the backend',
    )
    return sum(client.nthreads().values())


def _lacking(needs: Sequence[str]) -> str:
    """The requirements that this process lacks for runs; empty if there are none."""
    try:
        import_module("gradreg_experiments.runner")
        for name in needs:
            find_backend(name)
    except (ImportError, GradregError) as error:
        return str(error)
    return ""


def _refuse(lacking: dict[str, Any], problem: str, remedy: str) -> None:
    if lacking:
        workers = "; ".join(f"{address}: {answer}" for address, answer in sorted(lacking.items()))
        raise RunError(f"reproduce: on workers of the cluster {problem}: {workers}. {remedy}.")


def _next_finished(finished: "queue.Queue[Any]", client: Any, scheduler: str) -> Any:
    """The next finished unit; checks meanwhile that the cluster is alive."""
    silent = empty = 0.0
    while True:
        try:
            return finished.get(timeout=_LOOK)
        except queue.Empty:
            answers = client.status == "running"
            silent = 0.0 if answers else silent + _LOOK
            empty = empty + _LOOK if answers and not client.scheduler_info()["workers"] else 0.0
        if silent >= _SILENT or empty >= _EMPTY:
            gone = "no longer answers" if silent else "has no worker left"
            raise RunError(f"reproduce: the scheduler {scheduler} {gone}. Start it, and workers, again.")
