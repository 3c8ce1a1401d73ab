"""The command ``gradreg demo``."""

import os
import time
from dataclasses import asdict, replace
from pathlib import Path

import click
from rich.console import Console

from gradreg_core.cli.files import write_json
from gradreg_core.errors import InputError
from gradreg_core.plugins.dispatch import BACKEND_VARIABLE
from gradreg_experiments.demo import compare, report
from gradreg_experiments.demo.agreement import agreements, print_agreements
from gradreg_experiments.demo.data import Dataset, draw, load_dataset, standardise
from gradreg_experiments.demo.experiment import Settings, experiment, run_count
from gradreg_experiments.demo.recipe import Recipe

__all__ = ["demo", "main"]

_QUICK = Settings(
    train_size=50, seeds=2, tuning_seeds=1, recipe=Recipe(steps=10), grid_limit=2, jacobian_points=50, workers=1
)


@click.command()
@click.option(
    "--backend",
    "backends",
    multiple=True,
    help=f"torch, jax or tensorflow; without it {BACKEND_VARIABLE}, or torch. With --compare, give it for each.",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="A folder with MNIST's four files; without it scikit-learn's digits.",
)
@click.option("--train-size", type=click.IntRange(1), help=f"Training images [{Settings.train_size}].")
@click.option("--seeds", type=click.IntRange(1, 1000), help=f"Runs of each method [{Settings.seeds}].")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("out"), show_default=True, help="Folder for results."
)
@click.option(
    "--compare", "comparing", is_flag=True, help="Train one network in every framework and compare the losses."
)
@click.option("--quick", is_flag=True, help="A few steps of everything, to see that it works.")
def demo(
    backends: tuple[str, ...],
    data_dir: Path | None,
    train_size: int | None,
    seeds: int | None,
    out: Path,
    comparing: bool,
    quick: bool,
) -> None:
    """Compare gradient regularization with its rivals on few labelled digits.

    Tunes each method's weight on validation images, trains it from several seeds, and reports accuracy and Jacobian
    norms on test images: a table here, a picture and all numbers in the output folder.
    """
    console = Console()
    defaults = _QUICK if quick else Settings()
    if quick:
        console.print("--quick: a few steps on few images; the numbers mean nothing.", style="yellow", highlight=False)
    if not comparing and len(backends) > 1:
        raise InputError(f"demo: expected one --backend without --compare, got {', '.join(backends)}.")
    chosen = backends[0] if backends else os.environ.get(BACKEND_VARIABLE, "").strip() or defaults.backend
    settings = replace(
        defaults, backend=chosen, train_size=train_size or defaults.train_size, seeds=seeds or defaults.seeds
    )
    _prepare(out)
    start = time.perf_counter()
    names = compare.available(backends) if comparing else None
    data = load_dataset(data_dir)
    if names is not None:
        _compare(console, names, data, settings, out)
    else:
        _experiment(console, data, settings, out, start)
        if not quick:
            print_agreements(console, agreements(compare.installed()[0]))


main = demo


def _prepare(out: Path) -> None:
    """Make the folder, so that a run does not fail at its end."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"demo: --out {out}: cannot make this folder: {error.strerror}. Choose another.") from error


def _experiment(console: Console, data: Dataset, settings: Settings, out: Path, start: float) -> None:
    from gradreg_experiments.demo.figure import draw_comparison

    console.print(
        f"{data.name}: {len(data.pool.y)} images to draw {settings.train_size} training images from, "
        f"{len(data.validation.y)} for validation, {len(data.test.y)} for the test; "
        f"{settings.recipe.steps} steps of Adam in {settings.backend}.",
        highlight=False,
        soft_wrap=True,
    )
    with report.progress(console, run_count(settings)) as tick:
        results = experiment(data, settings, tick)
    report.print_results(console, results)
    picture, numbers = out / "demo.png", out / "results.json"
    draw_comparison(picture, results)
    wall_seconds = time.perf_counter() - start
    write_json(numbers, report.as_json(results, wall_seconds))
    console.print(f"{wall_seconds:.0f} s. Wrote {picture} and {numbers}.", highlight=False, soft_wrap=True)


def _compare(console: Console, found: compare.Available, data: Dataset, settings: Settings, out: Path) -> None:
    from gradreg_experiments.demo.figure import draw_curves

    for name, reason in found.skipped.items():
        console.print(f"{name} is left out: {reason}", highlight=False, markup=False, soft_wrap=True)
    (train,) = standardise(draw(data.pool, settings.train_size, compare.SEED))
    with console.status(f"training in {', '.join(found.names)}"):
        comparison = compare.run_comparison(found.names, train, settings.recipe)
    compare.print_comparison(console, comparison)
    picture, numbers = out / "compare.png", out / "compare.json"
    draw_curves(picture, comparison, data.name)
    heading = {
        "data": data.name,
        "settings": asdict(settings.recipe) | {"train_size": settings.train_size},
        "versions": report.versions(found.names),
        "skipped": found.skipped,
    }
    write_json(numbers, heading | compare.as_json(comparison))
    console.print(f"Wrote {picture} and {numbers}.", highlight=False, soft_wrap=True)
