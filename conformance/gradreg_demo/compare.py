"""``gradreg demo --compare``: the same run in every framework, and how far the losses drift apart."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gradreg_core.errors import BackendImportError, BackendNotFoundError, InputError, PluginError
from gradreg_core.presets import SpectReg
from gradreg_core.spec import Regularizer
from gradreg_demo.data import Part
from gradreg_demo.recipe import Recipe
from gradreg_demo.runner import BACKENDS, Runner, spread

__all__ = ["REGULARIZER", "SEED", "Available", "available", "checkpoints", "drift", "loss_curves"]

REGULARIZER: Regularizer = SpectReg(0.03)
"""Random directions, so equal losses also mean equal draws."""
SEED = 0

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
    if named:
        found = Available(tuple(dict.fromkeys(Runner(name).name for name in named)), {})
    else:
        names, skipped = [], {}
        for name in BACKENDS:
            try:
                names.append(Runner(name).name)
            except (BackendImportError, BackendNotFoundError, PluginError) as error:
                skipped[name] = str(error)
        found = Available(tuple(names), skipped)
    if len(found.names) < 2:
        missing = " ".join(found.skipped.values())
        raise InputError(
            f"demo --compare: expected two backends or more, got {', '.join(found.names) or 'none'}. "
            f"{missing or 'Name another with --backend.'}"
        )
    return found


def loss_curves(names: Sequence[str], train: Part, recipe: Recipe) -> dict[str, Losses]:
    """The total loss at each step in each backend: equal initial weights, batches, dropout masks and draws.

    Args:
        names: of the backends; they run in several processes, as frameworks may not get on in one.
        train: standardised images and labels.
        recipe: how to train; dropout is 0.5.
    """
    results = spread(_losses, [(name, train, recipe) for name in names], len(names))
    return dict(sorted(results, key=lambda pair: names.index(pair[0])))


def drift(losses: Losses, reference: Losses, steps: int) -> float:
    """The largest relative difference in the first `steps` steps."""
    return float((np.abs(losses - reference) / np.abs(reference))[:steps].max())


def checkpoints(steps: int) -> list[int]:
    """Numbers of steps to report the drift at: 1, 10, 100, ... and all."""
    return [10**power for power in range(len(str(steps))) if 10**power < steps] + [steps]


def _losses(name: str, train: Part, recipe: Recipe) -> tuple[str, Losses]:
    plan = recipe.plan(train, REGULARIZER, SEED, rate=0.5)
    runner = Runner(name)
    with runner.loaded():
        return name, np.asarray(runner.train(plan).losses, np.float64)
