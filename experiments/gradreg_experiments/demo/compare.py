"""``gradreg demo --compare``: the same run in every framework, and how far the losses drift apart."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from gradreg_core.errors import BackendImportError, BackendNotFoundError, InputError, PluginError
from gradreg_core.presets import SpectReg
from gradreg_core.spec import Regularizer
from gradreg_experiments.demo.data import Part
from gradreg_experiments.demo.recipe import Recipe
from gradreg_experiments.demo.runner import BACKENDS, Runner, spread

__all__ = [
    "DTYPES",
    "REGULARIZER",
    "SEED",
    "Available",
    "Comparison",
    "as_json",
    "available",
    "installed",
    "print_comparison",
    "run_comparison",
]

REGULARIZER: Regularizer = SpectReg(0.03)
"""Random directions, so equal losses also mean equal draws."""
SEED = 0
DTYPES = ("float32", "float64")

Losses = npt.NDArray[np.float64]


class Available(NamedTuple):
    """Which backends can be compared."""

    names: tuple[str, ...]
    skipped: dict[str, str]
    """Backend -> why not."""


def available(named: Sequence[str] = ()) -> Available:
    """The backends to compare: those named, or all that are installed.

    Raises:
        GradregError: a backend was named and cannot be used.
        InputError: there are fewer than two.
    """
    found = Available(tuple(dict.fromkeys(Runner(name).name for name in named)), {}) if named else installed()
    if len(found.names) < 2:
        missing = " ".join(found.skipped.values())
        raise InputError(
            f"demo --compare: expected two backends or more, got {', '.join(found.names) or 'none'}. "
            f"{missing or 'Name another with --backend.'}"
        )
    return found


def installed() -> Available:
    """The backends that can train and are installed."""
    names, skipped = [], {}
    for name in BACKENDS:
        try:
            names.append(Runner(name).name)
        except (BackendImportError, BackendNotFoundError, PluginError) as error:
            skipped[name] = str(error)
    return Available(tuple(names), skipped)


class Comparison(NamedTuple):
    """The total loss at each step, in each arithmetic, in each backend."""

    curves: dict[str, dict[str, Losses]]
    """dtype -> backend -> losses."""

    @property
    def reference(self) -> str:
        """The backend that the others are compared with."""
        return next(iter(self.curves[DTYPES[0]]))

    def drift(self, dtype: str, name: str) -> Losses:
        """The largest relative difference to the reference up to each step."""
        base = self.curves[dtype][self.reference]
        return np.maximum.accumulate(np.abs(self.curves[dtype][name] - base) / np.abs(base))


def run_comparison(names: Sequence[str], train: Part, recipe: Recipe) -> Comparison:
    """Train in each backend from equal initial weights, on equal batches, with equal dropout masks and draws.

    Args:
        names: of the backends; they run in several processes, as frameworks may not get on in one.
        train: standardised images and labels.
        recipe: how to train; dropout is 0.5.
    """
    calls = [(name, dtype, train, recipe) for name in names for dtype in DTYPES]
    losses = {(name, dtype): values for name, dtype, values in spread(_losses, calls, len(names))}
    return Comparison({dtype: {name: losses[name, dtype] for name in names} for dtype in DTYPES})


def print_comparison(console: Console, comparison: Comparison) -> None:
    """How far the losses drift apart, at several steps."""
    table = Table(title=f"{REGULARIZER!r}: largest relative difference of the loss to {comparison.reference} in")
    table.add_column("backend")
    table.add_column("arithmetic")
    counts = _checkpoints(comparison)
    for count in counts:
        table.add_column(f"{count} step{'s' * (count > 1)}", justify="right")
    for dtype, curves in comparison.curves.items():
        for name in [each for each in curves if each != comparison.reference]:
            drift = comparison.drift(dtype, name)
            table.add_row(name, dtype, *(f"{drift[count - 1]:.1e}" for count in counts))
    console.print(table)
    console.print("Frameworks round differently; it shows once a value crosses a kink of ReLU.", style="dim")


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The losses and their drift, as JSON values."""
    return {
        "regularizer": REGULARIZER.to_dict(),
        "seed": SEED,
        "reference": comparison.reference,
        "drift": {
            dtype: {
                name: {
                    str(count): float(comparison.drift(dtype, name)[count - 1]) for count in _checkpoints(comparison)
                }
                for name in curves
                if name != comparison.reference
            }
            for dtype, curves in comparison.curves.items()
        },
        "losses": {
            dtype: {name: losses.tolist() for name, losses in curves.items()}
            for dtype, curves in comparison.curves.items()
        },
    }


def _checkpoints(comparison: Comparison) -> list[int]:
    """Numbers of steps to report the drift at: 1, 10, 100, ... and all."""
    steps = len(comparison.curves[DTYPES[0]][comparison.reference])
    return [10**power for power in range(len(str(steps))) if 10**power < steps] + [steps]


def _losses(name: str, dtype: str, train: Part, recipe: Recipe) -> tuple[str, str, Losses]:
    plan = replace(recipe.plan(train, REGULARIZER, SEED, rate=0.5), dtype=dtype)
    runner = Runner(name)
    with runner.loaded():
        return name, dtype, np.asarray(runner.train(plan).losses, np.float64)
