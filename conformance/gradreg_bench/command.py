"""The command ``gradreg bench``."""

import json
import os
from itertools import product
from pathlib import Path

import click
from rich.console import Console

from gradreg_bench import report
from gradreg_bench.networks import NETWORKS
from gradreg_bench.run import cores, run, with_memory
from gradreg_bench.task import FRAMEWORKS, Result, Task
from gradreg_bench.timing import CLOCKS
from gradreg_bench.variants import variants
from gradreg_core.cli.files import write_json
from gradreg_core.errors import InputError
from gradreg_core.plugins.dispatch import find_backend
from gradreg_core.schema import from_dict

__all__ = ["bench"]


@click.command("bench")
@click.argument("factory", required=False, metavar="[MODULE:FACTORY]")
@click.option(
    "--backend",
    "frameworks",
    multiple=True,
    type=click.Choice(list(FRAMEWORKS)),
    help="Framework and mode; may be given again. [torch]",
)
@click.option(
    "--network",
    "networks",
    multiple=True,
    type=click.Choice([*NETWORKS, "all"]),
    help="Which network; may be given again. [mlp and lenet]",
)
@click.option("--batch", "batches", multiple=True, type=click.IntRange(1), help="Samples; may be given again. [64]")
@click.option(
    "--projections", multiple=True, type=click.IntRange(1), help="Rows of SpectReg; may be given again. [1 and 4]"
)
@click.option("--variant", "patterns", multiple=True, help="Names or patterns such as '*Reg'; may be given again.")
@click.option(
    "--regularizer",
    "own",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A JSON file with the dict of a regularizer's to_dict(), timed instead of the built-in variants; may be given "
    "again.",
)
@click.option("--repeats", type=click.IntRange(1), default=20, show_default=True, help="Rounds.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Cores for each process.")
@click.option(
    "--clock",
    type=click.Choice(list(CLOCKS)),
    default="wall",
    show_default=True,
    help="The wall's, or the processor time of the process: steadier on a busy machine with one thread.",
)
@click.option("--memory/--no-memory", default=False, show_default=True, help="Also the peak memory of each variant.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("out/bench"), show_default=True, help="Folder for results."
)
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
    out: Path,
) -> None:
    """Measure what each regularizer costs, as a ratio to a plain training step.

    All variants of a model are timed in turn in one process. MODULE:FACTORY, found from the current directory, is a
    function without arguments that returns (model, x, y) of your own.
    """
    console = Console()
    if factory is not None and (networks or batches):
        raise InputError("bench: a factory brings its own network and batch; leave out --network and --batch.")
    if own and (patterns or projections):
        raise InputError(
            "bench: --regularizer is timed instead of the variants; leave out --variant and --projections."
        )
    regularizers = tuple((path.stem, _regularizer(path)) for path in own)
    available = len(cores()) or os.cpu_count() or 1
    if threads > available:
        raise InputError(f"bench: --threads {threads}: there are {available} cores. Ask for at most as many.")
    frameworks = frameworks or ("torch",)
    for name in frameworks:
        find_backend(FRAMEWORKS[name][0])
    variants(projections or (1, 4), patterns)
    chosen = tuple(NETWORKS) if "all" in networks else networks or ("mlp", "lenet")
    models = [(factory, 0)] if factory is not None else list(product(chosen, batches or (64,)))
    _prepare(out)
    results: list[Result] = []
    loads: list[float | None] = []
    for (model, batch), framework in product(models, frameworks):
        task = Task(
            framework, model, batch, projections or (1, 4), patterns, repeats, threads, clock, regularizers=regularizers
        )
        loads.append(report.machine()["load"])
        with console.status(f"{model} in {framework}"):
            result = run(task)
            results.append(with_memory(result) if memory else result)
        report.print_result(console, results[-1])
        write_json(out / "bench.json", report.as_json(results, loads))  # a long run that is cut off keeps what it has
    report.print_notes(console, results[-1])
    _write(console, results, loads, out)


def _regularizer(path: Path) -> str:
    """The file's text, once it is known to be a regularizer."""
    try:
        text = path.read_text(encoding="utf-8")
        from_dict(json.loads(text))
    except (OSError, ValueError) as error:
        raise InputError(
            f"bench: --regularizer {path}: expected the JSON of a regularizer's to_dict(): {error}"
        ) from error
    return text


def _prepare(out: Path) -> None:
    """Make the folder, so that a run does not fail at its end."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"bench: --out {out}: cannot make this folder: {error.strerror}. Choose another.") from error


def _write(console: Console, results: list[Result], loads: list[float | None], out: Path) -> None:
    from gradreg_bench.figure import draw

    numbers, pictures = out / "bench.json", (out / "bench.png", out / "bench.svg")
    write_json(numbers, report.as_json(results, loads))
    draw(results, *pictures)
    found = report.machine()
    console.print(
        f"{found['processor']}, {found['cores']} cores, load {found['load']}. Wrote {numbers}, {pictures[0]} and "
        f"{pictures[1]}.",
        highlight=False,
        soft_wrap=True,
    )
