"""The comparison: how the methods' weights are tuned, and what is measured with them.

Weights are chosen by accuracy on the validation part, over tuning seeds; the test part is evaluated once, with the
chosen weights, over reporting seeds, which are others. A seed sets the training images, the initial weights, the
batches, the dropout masks and the draws: at one seed the methods, in all frameworks, differ in the regularizer alone.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from gradreg_experiments.demo.data import Dataset, Part, draw, standardise
from gradreg_experiments.demo.methods import METHODS, Method
from gradreg_experiments.demo.recipe import Recipe
from gradreg_experiments.demo.runner import Runner, spread

__all__ = ["Job", "Outcome", "Results", "Settings", "Tuning", "experiment", "run_count", "tune"]

TUNING_SEED = 1000
"""The first tuning seed; reporting seeds count from 0."""


@dataclass(frozen=True)
class Settings:
    """What one comparison does."""

    backend: str = "torch"
    train_size: int = 100
    seeds: int = 6
    """Reporting seeds."""
    tuning_seeds: int = 3
    recipe: Recipe = field(default_factory=Recipe)
    grid_limit: int | None = None
    """Try no more than this many weights for each method."""
    jacobian_points: int = 500
    """Evaluate Jacobian norms at this many test images."""
    workers: int = 0
    """Processes to spread the runs over; 0 for one a core. They change no number but the seconds."""


class Job(NamedTuple):
    """One run."""

    method: str
    weight: float
    seed: int


class Outcome(NamedTuple):
    """What one run gave."""

    job: Job
    accuracy: float
    """Share of the evaluated images that are classified correctly."""
    jacobian: float
    """Mean Frobenius norm ||dz/dx||_F at the first evaluated images; NaN where it was not asked for."""
    seconds: float
    """Of training."""


class Tuning(NamedTuple):
    """How a method's weight was chosen."""

    weight: float
    scores: dict[float, float]
    """weight -> mean accuracy on the validation part; empty where there was nothing to choose."""

    @property
    def at_edge(self) -> bool:
        """Whether the choice is the smallest or largest weight tried, so that a wider grid might do better."""
        return len(self.scores) > 1 and self.weight in (min(self.scores), max(self.scores))


class Results(NamedTuple):
    """Everything that was measured."""

    settings: Settings
    data: str
    tunings: dict[str, Tuning]
    outcomes: dict[str, list[Outcome]]
    """Method -> one outcome on the test part for each reporting seed, in order."""


Tick = Callable[[Outcome], None]


def run_count(settings: Settings) -> int:
    """How many runs a comparison takes."""
    tuning = sum(len(grid) for grid in (_grid(method, settings) for method in METHODS) if len(grid) > 1)
    return tuning * settings.tuning_seeds + len(METHODS) * settings.seeds


def tune(pool: Part, validation: Part, settings: Settings, tick: Tick) -> dict[str, Tuning]:
    """The weight of each method with the highest mean accuracy on the validation part; of equals the smallest.

    The test part is not among the arguments.
    """
    seeds = range(TUNING_SEED, TUNING_SEED + settings.tuning_seeds)
    grids = {method.name: _grid(method, settings) for method in METHODS}
    jobs = [Job(name, each, seed) for name, grid in grids.items() if len(grid) > 1 for each in grid for seed in seeds]
    outcomes = _run_all(jobs, pool, validation, settings, 0, tick)
    tunings = {}
    for name, grid in grids.items():
        scores = {
            weight: fmean(each.accuracy for each in outcomes if (each.job.method, each.job.weight) == (name, weight))
            for weight in (grid if len(grid) > 1 else ())
        }
        tunings[name] = Tuning(max(sorted(scores), key=scores.__getitem__) if scores else grid[0], scores)
    return tunings


def experiment(data: Dataset, settings: Settings, tick: Tick = lambda outcome: None) -> Results:
    """Tune every method, then run it with the chosen weight.

    Args:
        data: see :func:`gradreg_experiments.demo.data.load_dataset`.
        settings: what to do.
        tick: called after each run.

    Raises:
        GradregError: the backend cannot be used, the pool is too small, or training diverged.
    """
    Runner(settings.backend)
    tunings = tune(data.pool, data.validation, settings, tick)
    jobs = [Job(method.name, tunings[method.name].weight, seed) for method in METHODS for seed in range(settings.seeds)]
    outcomes = _run_all(jobs, data.pool, data.test, settings, settings.jacobian_points, tick)
    by_method = {method.name: [each for each in outcomes if each.job.method == method.name] for method in METHODS}
    return Results(settings, data.name, tunings, by_method)


def _grid(method: Method, settings: Settings) -> tuple[float, ...]:
    """The method's weights; if they are limited, the middle ones."""
    count = min(settings.grid_limit or len(method.grid), len(method.grid))
    start = (len(method.grid) - count) // 2
    return method.grid[start : start + count]


def _run_all(
    jobs: Sequence[Job], pool: Part, evaluated: Part, settings: Settings, points: int, tick: Tick
) -> list[Outcome]:
    """The outcomes in the order of `jobs`, whatever the order in which they end."""
    calls = [(job, draw(pool, settings.train_size, job.seed), evaluated, settings, points) for job in jobs]
    done = {}
    for outcome in spread(_run, calls, settings.workers):
        done[outcome.job] = outcome
        tick(outcome)
    return [done[job] for job in jobs]


def _run(job: Job, train: Part, evaluated: Part, settings: Settings, points: int) -> Outcome:
    """Train on one part and evaluate on another, in whatever process this is called."""
    (method,) = (each for each in METHODS if each.name == job.method)
    train, evaluated = standardise(train, evaluated)
    plan = settings.recipe.plan(train, method.make(job.weight, job.seed), job.seed, method.rate(job.weight))
    runner = Runner(settings.backend)
    with runner.loaded():
        start = time.perf_counter()
        trained = runner.train(plan)
        seconds = time.perf_counter() - start
        logits: Any = runner.logits(plan.network, trained.params, evaluated.x)
        norms = runner.jacobian_norms(plan.network, trained.params, evaluated.x[:points]) if points else np.nan
    return Outcome(job, float((logits.argmax(-1) == evaluated.y).mean()), float(np.mean(norms)), seconds)
