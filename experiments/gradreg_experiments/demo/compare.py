"""``gradreg demo --compare``: the same run in every framework, and how far the losses drift apart."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from gradreg_core.cli.terminal import make_table
from gradreg_core.errors import InputError
from gradreg_core.presets import SpectReg
from gradreg_core.schema import to_dict
from gradreg_core.spec import Regularizer
from gradreg_experiments.curves import DTYPES, Curves, recorded_curves
from gradreg_experiments.data.digits import Part
from gradreg_experiments.demo.recipe import Recipe
from gradreg_experiments.job import Job
from gradreg_experiments.results import Results
from gradreg_experiments.runner import every_loss, run_missing, train_jobs
from gradreg_experiments.trainers import Tick, silent, usable

__all__ = ["REGULARIZER", "SEED", "as_json", "comparable", "compare_frameworks", "print_comparison", "run_curves"]

REGULARIZER: Regularizer = SpectReg(0.03)
"""It has random directions, so equal losses also mean equal draws."""
SEED = 0
_DROPOUT = 0.5


def comparable(named: Sequence[str] = ()) -> tuple[tuple[str, ...], dict[str, str]]:
    """The backends to compare (the named ones or all that are installed), and why others are left out.

    Raises:
        GradregError: a named backend cannot be used.
        InputError: there are fewer than two.
    """
    names, skipped = usable(named)
    if len(names) < 2:
        raise InputError(
            f"demo --compare: expected at least two backends, got {', '.join(names) or 'none'}. "
            f"{' '.join(skipped.values()) or 'Add another with --backend.'}"
        )
    return names, skipped


def compare_frameworks(names: Sequence[str], train: Part, recipe: Recipe) -> list[Curves]:
    """Train in each backend from equal initial weights, on equal batches, with equal dropout masks and draws.

    Args:
        names: the backends; each runs in its own process, because frameworks may conflict in one.
        train: standardised images and labels.
        recipe: how to train; dropout is 0.5.

    Returns:
        The losses in each arithmetic.
    """
    jobs = [
        Job(replace(recipe, dtype=dtype), REGULARIZER, SEED, name, "demo", kind="curve")
        for dtype in DTYPES
        for name in names
    ]
    results = Results()
    run_missing(jobs, run_curves, train, results, workers=len(names), words="training: ")
    return recorded_curves(jobs, results, lambda job: f"{REGULARIZER!r}, dropout {_DROPOUT:g}")


def run_curves(jobs: Sequence[Job], data: Part, tick: Tick = silent) -> list[dict[str, Any]]:
    """Train jobs on the images and keep every loss."""
    plans = [job.protocol.plan(data, job.regularizer, job.seed, _DROPOUT) for job in jobs]
    return train_jobs(jobs, plans, tick, every_loss)


def print_comparison(console: Console, comparison: Sequence[Curves]) -> None:
    """How far the losses drift apart, at several steps."""
    counts = _checkpoints(comparison[0])
    steps = [f"{count} step{'s' * (count > 1)}" for count in counts]
    title = f"{REGULARIZER!r}: largest relative difference of the loss to {comparison[0].reference} in"
    table = make_table(("backend", "arithmetic", *steps), right=steps, title=title)
    for curves in comparison:
        for name in list(curves.losses)[1:]:
            drift = curves.drift(name)
            table.add_row(name, curves.dtype, *(f"{drift[count - 1]:.1e}" for count in counts))
    console.print(table)
    console.print("Frameworks round differently; it grows once a value crosses a kink of ReLU.", style="dim")


def as_json(comparison: Sequence[Curves]) -> dict[str, Any]:
    """The losses and their drift, as JSON values."""
    return {
        "regularizer": to_dict(REGULARIZER),
        "seed": SEED,
        "reference": comparison[0].reference,
        "drift": {
            curves.dtype: {
                name: {str(count): float(curves.drift(name)[count - 1]) for count in _checkpoints(curves)}
                for name in list(curves.losses)[1:]
            }
            for curves in comparison
        },
        "losses": {
            curves.dtype: {name: losses.tolist() for name, losses in curves.losses.items()} for curves in comparison
        },
    }


def _checkpoints(curves: Curves) -> list[int]:
    """The numbers of steps at which the drift is reported: 1, 10, 100, ... and all."""
    steps = len(curves.losses[curves.reference])
    return [10**power for power in range(len(str(steps))) if 10**power < steps] + [steps]
