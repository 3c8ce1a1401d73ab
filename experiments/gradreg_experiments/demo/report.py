"""Shows the comparison in the terminal and as JSON."""

import platform
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean, stdev
from typing import Any, NamedTuple

from rich.console import Console

from gradreg_core.cli.terminal import make_table
from gradreg_experiments.demo.experiment import TUNING_SEED, Outcome
from gradreg_experiments.demo.methods import METHODS
from gradreg_experiments.runner import versions

__all__ = ["Summary", "as_json", "print_outcome", "summarise"]


class Summary(NamedTuple):
    """One row of the table."""

    method: str
    chosen: str
    accuracies: tuple[float, ...]
    """Accuracies in percent, by seed."""
    mean: float
    deviation: float
    """Standard deviation over the seeds; 0 with one seed."""
    gain: float
    """Mean difference from no regularization at the same seeds, in points."""
    gain_error: float
    """Its standard error."""
    jacobian: float
    seconds: float
    at_edge: bool


def summarise(outcome: Outcome) -> list[Summary]:
    """The rows of the table, in the order of the methods."""
    plain = [100 * run["accuracy"] for run in outcome.runs["none"]]
    rows = []
    for method in METHODS:
        runs, tuning = outcome.runs[method.name], outcome.tunings[method.name]
        accuracies = tuple(100 * run["accuracy"] for run in runs)
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
                fmean(run["jacobian_frobenius"] for run in runs),
                fmean(run["seconds"] for run in runs),
                tuning.at_edge,
            )
        )
    return rows


def print_outcome(console: Console, outcome: Outcome) -> None:
    """Print the table with its legend."""
    rows = summarise(outcome)
    settings = outcome.settings
    best = max(row.mean for row in rows)
    edge = any(row.at_edge for row in rows)
    headings = ("chosen", "accuracy %", "gain", "||J||_F", "s/run")
    title = f"{outcome.data}: test images, after {settings.train_size} training images"
    table = make_table(("method", *headings), right=headings, title=title)
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
        console.print(note, style="dim")


def as_json(outcome: Outcome, wall_seconds: float) -> dict[str, Any]:
    """Settings, versions, the tuning and all runs, as JSON values."""
    methods = {}
    for row in summarise(outcome):
        tuning = outcome.tunings[row.method]
        methods[row.method] = {
            "chosen": tuning.weight,
            "chosen_at_edge": tuning.at_edge,
            "validation_accuracy": {f"{weight:g}": score for weight, score in tuning.scores.items()},
            "test_accuracy_percent": {"mean": row.mean, "sd": row.deviation},
            "gain_over_none_points": {"mean": row.gain, "standard_error": row.gain_error},
            "jacobian_frobenius": row.jacobian,
            "seconds": row.seconds,
            "runs": [
                {name: run[name] for name in ("seed", "accuracy", "jacobian_frobenius", "seconds")}
                for run in outcome.runs[row.method]
            ],
        }
    return {
        "data": outcome.data,
        "settings": asdict(outcome.settings) | {"first_tuning_seed": TUNING_SEED},
        "versions": {"python": platform.python_version()} | versions(outcome.settings.backend),
        "methods": methods,
        "wall_seconds": wall_seconds,
    }


def _deviation(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0
