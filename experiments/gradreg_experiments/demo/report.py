"""Shows the comparison in the terminal and as JSON."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from statistics import fmean, stdev
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from gradreg_core.cli.main import module_version
from gradreg_experiments.demo.experiment import TUNING_SEED, Outcome, Results, Tick
from gradreg_experiments.demo.methods import METHODS

__all__ = ["Summary", "as_json", "print_results", "progress", "summarise", "versions"]


class Summary(NamedTuple):
    """One row of the table."""

    method: str
    chosen: str
    accuracies: tuple[float, ...]
    """In percent, by seed."""
    mean: float
    deviation: float
    """Standard deviation over the seeds; 0 with one seed."""
    gain: float
    """Mean difference to no regularization at the same seeds, in points."""
    gain_error: float
    """Its standard error."""
    jacobian: float
    seconds: float
    at_edge: bool


def summarise(results: Results) -> list[Summary]:
    """The rows of the table, in the order of the methods."""
    plain = [100 * each.accuracy for each in results.outcomes["none"]]
    rows = []
    for method in METHODS:
        outcomes, tuning = results.outcomes[method.name], results.tunings[method.name]
        accuracies = tuple(100 * each.accuracy for each in outcomes)
        gains = [ours - base for ours, base in zip(accuracies, plain, strict=True)]
        rows.append(
            Summary(
                method.name,
                method.wording.format(tuning.weight),
                accuracies,
                fmean(accuracies),
                _deviation(accuracies),
                fmean(gains),
                _deviation(gains) / len(gains) ** 0.5,
                fmean(each.jacobian for each in outcomes),
                fmean(each.seconds for each in outcomes),
                tuning.at_edge,
            )
        )
    return rows


@contextmanager
def progress(console: Console, total: int) -> Iterator[Tick]:
    """A progress bar; gives the function to call after each run. Without a terminal only its end is printed."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("runs"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("tuning", total=total)

        def tick(outcome: Outcome) -> None:
            stage = "tuning" if outcome.job.seed >= TUNING_SEED else "testing"
            bar.update(task, advance=1, description=f"{stage}: {outcome.job.method}")

        yield tick
        bar.update(task, description="trained")


def print_results(console: Console, results: Results) -> None:
    """The table and what is to be known to read it."""
    rows = summarise(results)
    settings = results.settings
    best = max(row.mean for row in rows)
    edge = any(row.at_edge for row in rows)
    table = Table(
        title=f"{results.data}: test images, after {settings.train_size} training images",
        box=SIMPLE_HEAD,
        padding=0,
    )
    table.add_column("method", no_wrap=True)
    for heading in ("chosen", "accuracy %", "gain", "||J||_F", "s/run"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.method,
            row.chosen + ("*" if row.at_edge else ""),
            f"{row.mean:.2f} ± {row.deviation:.2f}",
            "" if row.method == "none" else f"{row.gain:+.2f} ± {row.gain_error:.2f}",
            f"{row.jacobian:.2f}",
            f"{row.seconds:.2f}",
            style="bold" if row.mean == best else None,
        )
    console.print(table)
    notes = [
        f"accuracy: mean ± standard deviation over {settings.seeds} seeds",
        "gain over none: mean ± standard error of the differences at equal seeds",
        "chosen: by validation images and other seeds" + ("; *: an edge of the values tried" if edge else ""),
    ]
    for note in notes:
        console.print(note, style="dim", highlight=False)


def as_json(results: Results, wall_seconds: float) -> dict[str, Any]:
    """Settings, versions, the tuning and every run, as JSON values."""
    rows = {row.method: row for row in summarise(results)}
    methods = {}
    for name, row in rows.items():
        tuning = results.tunings[name]
        methods[name] = {
            "chosen": tuning.weight,
            "chosen_at_edge": tuning.at_edge,
            "validation_accuracy": {f"{weight:g}": score for weight, score in tuning.scores.items()},
            "test_accuracy_percent": {"mean": row.mean, "sd": row.deviation},
            "gain_over_none_points": {"mean": row.gain, "standard_error": row.gain_error},
            "jacobian_frobenius": row.jacobian,
            "seconds": row.seconds,
            "runs": [
                {
                    "seed": each.job.seed,
                    "accuracy": each.accuracy,
                    "jacobian_frobenius": each.jacobian,
                    "seconds": each.seconds,
                }
                for each in results.outcomes[name]
            ],
        }
    return {
        "data": results.data,
        "settings": asdict(results.settings) | {"first_tuning_seed": TUNING_SEED},
        "versions": versions((results.settings.backend,)),
        "methods": methods,
        "wall_seconds": wall_seconds,
    }


def versions(modules: tuple[str, ...]) -> dict[str, str | None]:
    """Of Python, gradreg, NumPy and the given top-level modules."""
    return {"python": platform.python_version()} | {
        name: module_version(name) for name in ("gradreg", "numpy", *modules)
    }


def _deviation(values: "tuple[float, ...] | list[float]") -> float:
    return stdev(values) if len(values) > 1 else 0.0
