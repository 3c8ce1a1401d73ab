"""The measuring process: reads a task as JSON from standard input, writes a result as JSON to a given file.

There is one process per task, so frameworks do not share threads, and one more per variant for its memory.
"""

import inspect
import json
import os
import sys
from pathlib import Path
from typing import Any

from gradreg_bench.allocator import keep_memory
from gradreg_bench.draws import draws_agree
from gradreg_bench.harness_steps import HarnessSteps
from gradreg_bench.host import BATCH, HOST, TINY, measure_host
from gradreg_bench.networks import NETWORKS, first_share
from gradreg_bench.run import cores
from gradreg_bench.steps import Steps
from gradreg_bench.task import Measurement, Result, Task
from gradreg_bench.timing import interleaved, spread
from gradreg_bench.variants import PLAIN, Variant, own_variants, variants
from gradreg_core.cli.arguments import resolve
from gradreg_core.cli.foreign import TIMEOUT, call
from gradreg_core.errors import GradregError, InputError
from gradreg_core.plugins.dispatch import find_backend, load_component

__all__ = ["load", "measure"]


def load(task: Task, seconds: float = TIMEOUT) -> Steps:
    """The steps of the task's model.

    Args:
        task: the task.
        seconds: the limit for importing and calling a factory.

    Raises:
        InputError: the backend has no such mode, or the factory cannot be imported or called, or returns something
            other than (model, x, y).
        BackendNotFoundError, BackendImportError: there is no such backend, or it is not installed.
    """
    description = find_backend(task.backend).description
    assert description is not None
    steps: type[Steps] = load_component(task.backend, "benchmark") if description.benchmark else HarnessSteps
    mode = task.mode or steps.modes[0]
    if mode not in steps.modes:
        raise InputError(
            f"bench: --backend {task.framework}: {task.backend} has the modes {', '.join(steps.modes)}, got {mode!r}."
        )
    if task.model == HOST:
        made = steps.of_network(task.backend, TINY, BATCH, mode)
    elif task.model in NETWORKS:
        made = steps.of_network(task.backend, NETWORKS[task.model], task.batch, mode)
    else:
        made = steps(task.backend, *_made(task.model, seconds), mode)
    made.place(task.device, task.precision)
    return made


def _made(target: str, seconds: float) -> tuple[Any, Any, Any]:
    """The result of the caller's factory."""
    factory = resolve(target, "bench", seconds)
    if not callable(factory) or any(
        parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        for parameter in inspect.signature(factory).parameters.values()
    ):
        raise InputError(f"bench: {target}: expected a function without arguments, got {factory!r}.")
    made = call("bench", target, factory, seconds)
    if not isinstance(made, tuple) or len(made) != 3:
        raise InputError(
            f"bench: {target}: expected (model, x, y), got {type(made).__name__}. A model is an nn.Module, a Keras "
            f"model, or in other frameworks a pair (function of (params, x), params)."
        )
    return made


def measure(task: Task, seconds: float = TIMEOUT) -> Result:
    """Measure the task in this process; `seconds` is the limit of a factory."""
    # A heap that keeps freed memory would count the gaps between blocks as memory in use.
    allocator = keep_memory() if task.memory_of is None else "the system's"
    steps = load(task, seconds)
    if task.model == HOST:
        agree = draws_agree(steps.calls.backend, steps.x)
        return Result(task, None, allocator, host=measure_host(steps, task.repeats), draws_agree=agree)
    share = first_share(NETWORKS[task.model]) if task.model in NETWORKS else steps.first_share()
    chosen = own_variants(task.regularizers) if task.regularizers else variants(task.projections, task.patterns)
    if task.memory_of is None:
        return Result(task, share, allocator, _timed(task, steps, chosen, share))
    (variant,) = (variant for variant in chosen if variant.name == task.memory_of)
    peak = steps.peak_memory(steps.step(variant))
    return Result(task, share, allocator, (Measurement(variant.name, None, None, None, peak),))


def _timed(task: Task, steps: Steps, chosen: list[Variant], share: float | None) -> tuple[Measurement, ...]:
    """The variants, timed in turn; a variant that fails on its first step is left out with the reason."""
    outputs = steps.outputs
    calls, failed = {}, {}
    for variant in chosen:
        try:
            step = steps.step(variant)
            step(0)
            calls[variant.name] = step
        except Exception as error:
            if variant.name == PLAIN:
                raise
            failed[variant.name] = f"{type(error).__name__}: {_first_line(error)}"
    cycles = {variant.name: variant.cycle for variant in chosen if variant.name in calls}
    times = interleaved(calls, cycles, task.repeats, task.clock)
    rows = []
    for variant in chosen:
        limit = variant.limit(share, outputs)
        if variant.name in failed:
            rows.append(Measurement(variant.name, None, None, limit, failed=failed[variant.name]))
            continue
        own = times[variant.name]
        ratios = [seconds / plain for seconds, plain in zip(own, times[PLAIN], strict=True)]
        rows.append(Measurement(variant.name, spread(ratios), spread(own).median, limit))
    return tuple(rows)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def main() -> None:
    """Read the task, and write the result or the error."""
    target, task = Path(sys.argv[1]), Task.from_dict(json.load(sys.stdin))
    if usable := cores():  # before a framework counts the cores
        os.sched_setaffinity(0, usable[: task.threads])
    try:
        answer = measure(task, float(sys.argv[2])).to_dict()
    except GradregError as error:
        answer = {"error": str(error)}
    target.write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
