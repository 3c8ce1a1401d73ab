"""The command ``gradreg bench``."""

import json
import os
from itertools import product
from pathlib import Path

import click
from rich.text import Text

from gradreg_bench import report
from gradreg_bench.compare import TOLERANCE, changes, print_changes, read_results
from gradreg_bench.host import HOST
from gradreg_bench.modes import over_modes, print_modes
from gradreg_bench.networks import NETWORKS
from gradreg_bench.run import cores, run, with_memory
from gradreg_bench.steps import PRECISIONS
from gradreg_bench.task import Result, Task
from gradreg_bench.timing import CLOCKS
from gradreg_bench.variants import variants
from gradreg_core.cli.arrays import read_json_file
from gradreg_core.cli.files import write_json
from gradreg_core.cli.foreign import timeout_option
from gradreg_core.cli.terminal import get_console, out_option
from gradreg_core.errors import InputError
from gradreg_core.plugins.dispatch import find_backend
from gradreg_core.schema import from_dict

__all__ = ["bench"]


@click.command("bench", epilog="\b\nExample:\n  gradreg bench models:batch --variant '*Reg' --repeats 10")
@click.argument("factory", required=False, metavar="[MODULE:FACTORY]")
@click.option(
    "--backend",
    "frameworks",
    multiple=True,
    metavar="NAME[-MODE]",
    default=("torch",),
    show_default="torch",
    help="A backend, or a mode of it such as jax-fast; repeatable.",
)
@click.option(
    "--network",
    "networks",
    multiple=True,
    metavar="NETWORK",
    type=click.Choice([*NETWORKS, "all", HOST]),
    help=f"One of {', '.join(NETWORKS)}, or all; repeatable. `host`: the microseconds and Python calls that loss "
    "adds to the same computation written directly. [mlp and lenet]",
)
@click.option("--batch", "batches", multiple=True, type=click.IntRange(1), help="Samples per batch; repeatable. [64]")
@click.option("--projections", multiple=True, type=click.IntRange(1), help="Rows of SpectReg; repeatable. [1 and 4]")
@click.option("--variant", "patterns", multiple=True, help="Names or patterns such as '*Reg'; repeatable.")
@click.option(
    "--regularizer",
    "own",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A JSON file with a regularizer as `to_dict` returns it, timed instead of the built-in variants; may be given "
    "again.",
)
@click.option("--repeats", type=click.IntRange(1), default=20, show_default=True, help="Rounds.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Cores per process.")
@click.option(
    "--clock",
    type=click.Choice(list(CLOCKS)),
    default="wall",
    show_default=True,
    help="The wall clock, or the processor time of the process: steadier on a busy machine with one thread.",
)
@click.option("--memory/--no-memory", default=False, show_default=True, help="Also the peak memory of each variant.")
@click.option(
    "--compare",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A bench.json of an earlier run: show how its ratios have changed, and end with 1 if one has grown.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    default=TOLERANCE,
    show_default=True,
    help="The allowed growth of a ratio with --compare; growth counts only if the quartiles are also disjoint.",
)
@click.option("--device", default="cpu", show_default=True, help="Such as cuda, if the framework's steps support it.")
@click.option(
    "--precision",
    type=click.Choice(list(PRECISIONS)),
    default="float32",
    show_default=True,
    help="; ".join(f"{name}: {text}" for name, text in PRECISIONS.items()) + ".",
)
@timeout_option
@out_option(default=Path("out/bench"))
def bench(
    factory: str | None,
    frameworks: tuple[str, ...],
    networks: tuple[str, ...],
    batches: tuple[int, ...],
    projections: tuple[int, ...],
    patterns: tuple[str, ...],
    own: tuple[Path, ...],
    repeats: int,
    threads: int,
    clock: str,
    memory: bool,
    compare: Path | None,
    tolerance: float,
    device: str,
    precision: str,
    timeout: float,
    out: Path,
) -> None:
    """Measure the cost of each regularizer, as a ratio to a plain training step.

    All variants of a model are timed in turn in one process. MODULE:FACTORY, found from the current directory, is a
    function without arguments that returns your own (model, x, y). NumPy arrays are converted to the framework's,
    floats to float32.
    """
    if factory is not None and (networks or batches):
        raise InputError("bench: a factory has its own network and batch; omit --network and --batch.")
    if own and (patterns or projections):
        raise InputError("bench: --regularizer is timed instead of the variants; omit --variant and --projections.")
    available = len(cores()) or os.cpu_count() or 1
    if threads > available:
        raise InputError(f"bench: --threads {threads}: there are only {available} cores. Choose at most that many.")
    projections = projections or (1, 4)
    variants(projections, patterns)
    regularizers = tuple((path.stem, _regularizer(path)) for path in own)
    models = [(factory, 0)] if factory is not None else list(product(_chosen(networks), batches or (64,)))
    tasks = [
        Task(
            framework,
            model,
            batch,
            projections,
            patterns,
            repeats,
            threads,
            clock,
            regularizers=regularizers,
            device=device,
            precision=precision,
        )
        for (model, batch), framework in product(models, frameworks)
    ]
    for task in tasks:
        find_backend(task.backend)
    before = None if compare is None else read_results(compare)
    results = _measure(tasks, memory, timeout, out)
    if before is not None:
        _judge(before, results, tolerance)


def _chosen(networks: tuple[str, ...]) -> tuple[str, ...]:
    """The requested networks."""
    if "all" in networks:
        return (*NETWORKS, *((HOST,) if HOST in networks else ()))
    return networks or ("mlp", "lenet")


def _judge(before: list[Result], results: list[Result], tolerance: float) -> None:
    """Show how the ratios have changed, and exit with status 1 if one has grown."""
    compared = changes(before, results, tolerance)
    print_changes(get_console(), compared)
    if any(one.regressed for one in compared):
        click.get_current_context().exit(1)


def _regularizer(path: Path) -> str:
    """The file's text, checked to be a regularizer."""
    try:
        value = read_json_file(path, "a regularizer")
        from_dict(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"bench: --regularizer {path}: expected the JSON of a regularizer's to_dict(): {error}"
        ) from error
    return json.dumps(value)


def _measure(tasks: list[Task], memory: bool, timeout: float, out: Path) -> list[Result]:
    """Run the tasks, print a table per task, write the numbers after each task and the figures at the end."""
    from gradreg_bench.figure import draw

    console = get_console()
    out.mkdir(parents=True, exist_ok=True)
    numbers, pictures = out / "bench.json", (out / "bench.png", out / "bench.svg")
    results: list[Result] = []
    loads: list[float | None] = []
    for task in tasks:
        loads.append(report.machine()["load"])
        with console.status(Text(f"{task.model} in {task.framework}")):
            result = run(task, timeout)
            results.append(with_memory(result) if memory else result)
        report.print_result(console, results[-1])
        write_json(numbers, report.as_json(results, loads))  # an interrupted run keeps its results
    print_modes(console, over_modes(results))
    timed = [result for result in results if result.measurements]
    if timed:
        report.print_notes(console, timed[-1])
    draw(timed, *pictures)
    machine = report.machine()
    written = ", ".join(map(str, (numbers, *pictures) if timed else (numbers,)))
    console.print(f"{machine['processor']}, {machine['cores']} cores, load {machine['load']}. Wrote {written}.")
    return results
