"""The command ``gradreg demo``."""

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import click
from rich.console import Console

from gradreg_core.cli.files import write_json
from gradreg_core.cli.terminal import get_console, out_option
from gradreg_core.errors import InputError
from gradreg_core.plugins.dispatch import BACKEND_VARIABLE, find_backend
from gradreg_experiments.data.digits import Dataset, draw, load_dataset, standardise
from gradreg_experiments.demo import compare, report
from gradreg_experiments.demo.experiment import Settings, experiment
from gradreg_experiments.demo.recipe import Recipe
from gradreg_experiments.folder import held
from gradreg_experiments.runner import versions

__all__ = ["demo", "main"]

_QUICK = Settings(
    train_size=50, seeds=2, tuning_seeds=1, recipe=Recipe(steps=10), grid_limit=2, jacobian_points=50, workers=1
)


@click.command(epilog="\b\nExample:\n  gradreg demo --backend jax --out out/demo")
@click.option(
    "--backend",
    "backends",
    multiple=True,
    help=f"Default: {BACKEND_VARIABLE}, or torch. With --compare, give two or more; default: all installed.",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="A folder with MNIST's four files. Default: scikit-learn's digits.",
)
@click.option("--train-size", type=click.IntRange(1), help=f"Training images [{Settings.train_size}].")
@click.option("--seeds", type=click.IntRange(1, 1000), help=f"Runs per method [{Settings.seeds}].")
@out_option(default=Path("out"))
@click.option(
    "--compare", "comparing", is_flag=True, help="Train one network in every framework and compare the losses."
)
@click.option("--quick", is_flag=True, help="Run a few steps of everything, as a test.")
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
    console = get_console()
    defaults = _QUICK if quick else Settings()
    if quick:
        console.print("--quick: a few steps on few images; the numbers mean nothing.", style="yellow")
    if not comparing and len(backends) > 1:
        raise InputError(f"demo: expected one --backend without --compare, got {', '.join(backends)}.")
    chosen = backends[0] if backends else os.environ.get(BACKEND_VARIABLE, "").strip() or defaults.backend
    settings = replace(
        defaults, backend=chosen, train_size=train_size or defaults.train_size, seeds=seeds or defaults.seeds
    )
    start = time.perf_counter()
    for name in backends if comparing else (chosen,):
        find_backend(name)
    data = load_dataset(data_dir)
    with held(out, keeps_runs=False):
        if comparing:
            _compare(console, backends, data, settings, out)
            return
        _experiment(console, data, settings, out, start)
    if not quick:
        from gradreg_experiments.demo.checks import print_agreement

        print_agreement(console)


main = demo


def _experiment(console: Console, data: Dataset, settings: Settings, out: Path, start: float) -> None:
    from gradreg_experiments.demo.figure import draw_comparison

    assert data.test is not None
    console.print(
        f"{data.name}: {len(data.pool.y)} images to draw {settings.train_size} training images from, "
        f"{len(data.validation.y)} for validation, {len(data.test.y)} for the test; "
        f"{settings.recipe.steps} steps of Adam in {settings.backend}."
    )
    outcome = experiment(data, settings)
    report.print_outcome(console, outcome)
    (picture,) = draw_comparison(out / "demo", outcome)
    wall_seconds = time.perf_counter() - start
    numbers = out / "results.json"
    write_json(numbers, report.as_json(outcome, wall_seconds))
    console.print(f"{wall_seconds:.0f} s. Wrote {picture} and {numbers}.")


def _compare(console: Console, named: Sequence[str], data: Dataset, settings: Settings, out: Path) -> None:
    from gradreg_experiments.curves import draw_curves

    names, skipped = compare.comparable(named)
    for name, reason in skipped.items():
        console.print(f"{name} is left out: {reason}")
    (train,) = standardise(draw(data.pool, settings.train_size, compare.SEED))
    comparison = compare.compare_frameworks(names, train, settings.recipe)
    compare.print_comparison(console, comparison)
    (picture,) = draw_curves(out / "compare", comparison, ("png",))
    numbers = out / "compare.json"
    heading = {
        "data": data.name,
        "settings": asdict(settings.recipe) | {"train_size": settings.train_size},
        "versions": {"python": platform.python_version()} | versions(*names),
        "skipped": skipped,
    }
    write_json(numbers, heading | compare.as_json(comparison))
    console.print(f"Wrote {picture} and {numbers}.")
