"""The demo's experiment: it tunes the methods' weights, then measures accuracy and Jacobian norms.

Weights are chosen by accuracy on the validation part, over tuning seeds; the test part is evaluated once, with the
chosen weights, over different, reporting seeds. A seed sets the training images, the initial weights, the
batches, the dropout masks and the draws: for one seed, runs in all frameworks differ only in the regularizer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from gradreg_experiments.data.digits import Dataset, draw, standardise
from gradreg_experiments.demo.methods import METHODS, Method
from gradreg_experiments.demo.recipe import Recipe
from gradreg_experiments.job import Job
from gradreg_experiments.plan import Plan, Trained
from gradreg_experiments.results import Results
from gradreg_experiments.runner import run_missing, train_jobs
from gradreg_experiments.trainers import Tick, Trainer, check_trains, silent

__all__ = ["TUNING_SEED", "Outcome", "Settings", "Trial", "Tuning", "experiment", "run_trials", "tune"]

TUNING_SEED = 1000
"""The first tuning seed; reporting seeds count from 0."""
_CHUNK = 500
"""The number of images evaluated at a time."""


@dataclass(frozen=True)
class Settings:
    """The size of one comparison."""

    backend: str = "torch"
    train_size: int = 100
    seeds: int = 6
    """Reporting seeds."""
    tuning_seeds: int = 3
    recipe: Recipe = field(default_factory=Recipe)
    grid_limit: int | None = None
    """Try no more than this many weights per method."""
    jacobian_points: int = 500
    """Evaluate Jacobian norms at this many test images."""
    workers: int = 0
    """Processes to spread the runs over; 0 for one per core. They change no result but the time."""


@dataclass(frozen=True)
class Trial:
    """The protocol of one run; see :class:`gradreg_experiments.job.Job`."""

    recipe: Recipe
    train_size: int
    dropout: float
    part: str
    """The evaluated part of the data: "validation" or "test"."""
    jacobian_points: int

    @property
    def steps(self) -> int:
        """Of training."""
        return self.recipe.steps


class Tuning(NamedTuple):
    """How a method's weight was chosen."""

    weight: float
    scores: dict[float, float]
    """weight -> mean accuracy on the validation part; empty if there was nothing to choose."""

    @property
    def at_edge(self) -> bool:
        """Whether the choice is the smallest or largest weight tried, so that a wider grid might do better."""
        return len(self.scores) > 1 and self.weight in (min(self.scores), max(self.scores))


class Outcome(NamedTuple):
    """All measurements."""

    settings: Settings
    data: str
    tunings: dict[str, Tuning]
    runs: dict[str, list[dict[str, Any]]]
    """Method -> the results of :func:`run_trials` on the test part, one per reporting seed, in order."""


def experiment(data: Dataset, settings: Settings) -> Outcome:
    """Tune every method, then run it with the chosen weight.

    Raises:
        GradregError: the backend cannot be used, the pool is too small, or training diverged.
    """
    check_trains([settings.backend])
    tunings = tune(data, settings)
    jobs = {
        method.name: [_job(method, tunings[method.name].weight, seed, settings, data) for seed in range(settings.seeds)]
        for method in METHODS
    }
    results = _run([job for own in jobs.values() for job in own], data, settings, "testing: ")
    runs = {name: [results[job.key] for job in own] for name, own in jobs.items()}
    return Outcome(settings, data.name, tunings, runs)


def tune(data: Dataset, settings: Settings) -> dict[str, Tuning]:
    """The weight of each method with the highest mean accuracy on the validation part; the smallest of equals.

    The runs do not get the test part.
    """
    data = data._replace(test=None)
    seeds = range(TUNING_SEED, TUNING_SEED + settings.tuning_seeds)
    jobs = {
        (method.name, weight): [_job(method, weight, seed, settings, data) for seed in seeds]
        for method in METHODS
        for weight in _grid(method, settings)
        if len(_grid(method, settings)) > 1
    }
    results = _run([job for own in jobs.values() for job in own], data, settings, "tuning: ")
    tunings = {}
    for method in METHODS:
        scores = {
            weight: fmean(results[job.key]["accuracy"] for job in own)
            for (name, weight), own in jobs.items()
            if name == method.name
        }
        best = max(sorted(scores), key=scores.__getitem__) if scores else _grid(method, settings)[0]
        tunings[method.name] = Tuning(best, scores)
    return tunings


def _grid(method: Method, settings: Settings) -> tuple[float, ...]:
    """The method's weights; if they are limited, the middle ones."""
    count = min(settings.grid_limit or len(method.grid), len(method.grid))
    start = (len(method.grid) - count) // 2
    return method.grid[start : start + count]


def _job(method: Method, weight: float, seed: int, settings: Settings, data: Dataset) -> Job:
    """A run evaluated on the validation part if there is no test part, else on the test part."""
    part, points = ("validation", 0) if data.test is None else ("test", settings.jacobian_points)
    trial = Trial(settings.recipe, settings.train_size, method.dropout(weight), part, points)
    return Job(trial, method.make(weight, seed), seed, settings.backend, data.name, kind="demo")


def _run(jobs: Sequence[Job], data: Dataset, settings: Settings, words: str) -> Results:
    results = Results()
    run_missing(jobs, run_trials, data, results, workers=settings.workers, words=words)
    return results


def run_trials(jobs: Sequence[Job], data: Dataset, tick: Tick = silent) -> list[dict[str, Any]]:
    """Train jobs and evaluate them.

    "accuracy" is the fraction of evaluated images classified correctly, "jacobian_frobenius" the mean of
    ||dz/dx||_F over the first of them, null if it was not requested.
    """
    parts = {
        job.seed: standardise(draw(data.pool, job.protocol.train_size, job.seed), getattr(data, job.protocol.part))
        for job in jobs
    }

    def plan(job: Job) -> Plan:
        trial: Trial = job.protocol
        return trial.recipe.plan(parts[job.seed][0], job.regularizer, job.seed, trial.dropout)

    def evaluate(trainer: Trainer, job: Job, plan: Plan, trained: Trained) -> dict[str, Any]:
        (x, y), network, params = parts[job.seed][1], plan.network, trained.params
        points = x[: job.protocol.jacobian_points]
        starts = range(0, len(points), _CHUNK)
        norms = [trainer.jacobian_norms(network, params, points[start : start + _CHUNK]) for start in starts]
        return {
            "accuracy": trainer.count_right(network, params, x, y, _CHUNK) / len(y),
            "jacobian_frobenius": float(np.mean(np.concatenate(norms))) if norms else None,
        }

    return train_jobs(jobs, [plan(job) for job in jobs], tick, evaluate)
