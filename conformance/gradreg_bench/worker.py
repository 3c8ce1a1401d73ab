"""The process that measures: a task as JSON on standard input, a result as JSON in the file that is named.

One process a task, so that frameworks do not share threads; one more for the memory of each variant.
"""

import inspect
import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from gradreg_bench.allocator import keep_memory
from gradreg_bench.networks import NETWORKS, first_share
from gradreg_bench.run import cores
from gradreg_bench.task import FRAMEWORKS, Measurement, Result, Task
from gradreg_bench.timing import interleaved, peak_memory, spread
from gradreg_bench.variants import PLAIN, own_variants, variants
from gradreg_core.errors import GradregError, InputError
from gradreg_core.plugins.dispatch import load_backend

__all__ = ["load", "measure"]

_STEPS = {
    "torch": "gradreg_bench.torch_steps:TorchSteps",
    "jax": "gradreg_bench.jax_steps:JaxSteps",
    "tensorflow": "gradreg_bench.tensorflow_steps:TensorFlowSteps",
}


def load(task: Task) -> Any:
    """The steps of the task's model.

    Raises:
        InputError: the factory cannot be found or called, or gives something else than (model, x, y).
        BackendImportError: the framework is not installed.
    """
    backend, mode = FRAMEWORKS[task.framework]
    load_backend(backend)
    if backend == "torch":
        import_module("torch").set_num_threads(task.threads)
    module, _, name = _STEPS[backend].partition(":")
    steps = getattr(import_module(module), name)
    if task.model in NETWORKS:
        return steps.of_network(NETWORKS[task.model], task.batch, mode)
    return steps(*_made(task.model), mode)


def _made(target: str) -> tuple[Any, Any, Any]:
    from gradreg_validation.command import resolve

    factory = resolve(target)
    if not callable(factory) or any(
        each.default is each.empty and each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
        for each in inspect.signature(factory).parameters.values()
    ):
        raise InputError(f"bench: {target}: expected a function that is called without arguments, got {factory!r}.")
    made = factory()
    if not isinstance(made, tuple) or len(made) != 3:
        raise InputError(
            f"bench: {target}: expected (model, x, y), got {type(made).__name__}. A model is an nn.Module, a Keras "
            f"model, or in JAX a pair (function of (params, x), params)."
        )
    return made


def measure(task: Task) -> Result:
    """Carry the task out in this process."""
    # A heap that keeps what is freed would count the gaps between the blocks as memory in use.
    allocator = keep_memory() if task.memory_of is None else "the system's"
    steps = load(task)
    share = first_share(NETWORKS[task.model]) if task.model in NETWORKS else steps.first_share()
    outputs = steps.outputs
    chosen = own_variants(task.regularizers) if task.regularizers else variants(task.projections, task.patterns)
    if task.memory_of is not None:
        (variant,) = (each for each in chosen if each.name == task.memory_of)
        peak = peak_memory(steps.step(variant))
        return Result(task, share, allocator, (Measurement(variant.name, None, None, None, peak),))
    made, failed = {}, {}
    for variant in chosen:
        try:
            step = steps.step(variant)
            step(0)
            made[variant.name] = step
        except Exception as error:
            if variant.name == PLAIN:
                raise
            failed[variant.name] = f"{type(error).__name__}: {_first_line(error)}"
    cycles = {each.name: each.cycle for each in chosen}
    times = interleaved(made, {name: cycles[name] for name in made}, task.repeats, task.clock)
    rows = []
    for variant in chosen:
        limit = variant.limit(share, outputs)
        if variant.name in failed:
            rows.append(Measurement(variant.name, None, None, limit, failed=failed[variant.name]))
            continue
        own = times[variant.name]
        ratios = [each / plain for each, plain in zip(own, times[PLAIN], strict=True)]
        rows.append(Measurement(variant.name, spread(ratios), spread(own).median, limit))
    return Result(task, share, allocator, tuple(rows))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


def main() -> None:
    """Read the task, write the result or the error."""
    target, task = Path(sys.argv[1]), Task.from_dict(json.load(sys.stdin))
    if found := cores():  # before a framework counts them
        os.sched_setaffinity(0, found[: task.threads])
    try:
        answer = measure(task).to_dict()
    except GradregError as error:
        answer = {"error": str(error)}
    target.write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
