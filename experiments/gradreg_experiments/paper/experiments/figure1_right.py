"""Figure 1, right: a perceptron learns sin(5x) under a growing weight of SpectReg.

y = sin(5x) + N(0, 0.1^2) at 100 points uniform in (-1, 1). The loss is half the sum of squares over the batch of 50, as
in the authors' code. The weights in the paper's figure are unknown.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradreg_core.presets import SpectReg
from gradreg_experiments.job import Job
from gradreg_experiments.paper import tables
from gradreg_experiments.paper.experiment import PAGE_SEEDS, Experiment, Page, Report, Settings
from gradreg_experiments.paper.figures import draw_toy
from gradreg_experiments.paper.protocol import Protocol
from gradreg_experiments.paper.run import make_plan
from gradreg_experiments.plan import Plan, Trained
from gradreg_experiments.results import Results
from gradreg_experiments.runner import train_jobs
from gradreg_experiments.trainers import Tick, Trainer, silent

__all__ = ["EXPERIMENT", "run_toys", "table_rows", "toy_jobs", "training_points", "weight_of"]

WEIGHTS = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Relative to a sum over the batch, as in the authors' script."""
_HEADINGS = ("weight", "seeds", "mean gradient, training points", "random points", "largest, random", "rms error")
_DATA = "sin(5x)"
_NOISE = 0.1
_POINTS_SEED = 6
_GRID = 401
_RANDOM = 1000


@dataclass(frozen=True, kw_only=True)
class _ToyExperiment(Experiment):
    """One run per seed and weight."""

    def jobs(self, settings: Settings) -> list[Job]:
        return toy_jobs(settings.seeds, settings.backend, settings.steps or Protocol.steps)

    def report(self, settings: Settings, report: Report) -> None:
        runs, weights = _finished(self.jobs(settings), report.results)
        if runs:
            title = f"{self.title}, {settings.backend}"
            stem = f"{self.name}-{settings.backend}"
            path = report.write(stem, title, tables.markdown(_HEADINGS, table_rows(runs, weights)))
            report.wrote([report.out / f"{stem}.md", *draw_toy(path, runs, weights)])

    def section(self, page: Page) -> list[str]:
        blocks = []
        for backend in page.backends:
            runs, weights = _finished(toy_jobs(PAGE_SEEDS, backend), page.results)
            if runs:
                blocks += [f"## {backend}", tables.markdown(_HEADINGS, table_rows(runs, weights))]
                blocks.append(page.picture(f"{self.name}-{backend}", "Figure 1, right"))
        note = (
            "The penalty acts on the 100 training points; the two columns of mean gradients compare them with 1,000 "
            "random points. Weights are as the authors' script counts them; which ones the paper's figure shows is "
            "not known."
        )
        return [*blocks, note] if blocks else []


def toy_jobs(
    seeds: Sequence[int], backend: str, steps: int = Protocol.steps, weights: Sequence[float] = WEIGHTS
) -> list[Job]:
    """One run per seed and weight, ordered by seed."""
    protocol = Protocol(network="toy", train_size=100, steps=steps, learning_rate=0.01)
    return [
        Job(protocol, SpectReg(weight / protocol.batch, seed=seed, draw="per_batch"), seed, backend, _DATA)
        for seed in seeds
        for weight in weights
    ]


def _finished(jobs: Sequence[Job], results: Results) -> tuple[list[dict[str, Any]], list[float]]:
    """The existing results, and the weight of each."""
    done = [job for job in jobs if job.key in results]
    return [results[job.key] for job in done], [weight_of(job) for job in done]


def training_points(seed: int, count: int = 100) -> "tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]":
    """Inputs and targets, (count, 1) float32 both."""
    generator = np.random.default_rng([seed, _POINTS_SEED])
    x = generator.uniform(-1, 1, (count, 1))
    return x.astype(np.float32), (np.sin(5 * x) + _NOISE * generator.standard_normal((count, 1))).astype(np.float32)


def run_toys(jobs: Sequence[Job], data: None = None, tick: Tick = silent) -> list[dict[str, Any]]:
    """Train jobs; the learnt function on a grid and the gradients' norms.

    "train" and "random" are means of |dz/dx| over the training points and over 1,000 points uniform in (-1, 1).
    """
    plans = []
    for job in jobs:
        x, y = training_points(job.seed, job.protocol.train_size)
        plans.append(make_plan(job, x, y, loss_fn=_half_square, scale=job.protocol.batch, chunk=500))
    return train_jobs(jobs, plans, tick, _evaluated)


def _evaluated(trainer: Trainer, job: Job, plan: Plan, trained: Trained) -> dict[str, Any]:
    network, params = plan.network, trained.params
    grid = np.linspace(-1, 1, _GRID, dtype=np.float32)[:, None]
    anywhere = np.random.default_rng([job.seed, _POINTS_SEED, 1]).uniform(-1, 1, (_RANDOM, 1)).astype(np.float32)
    outputs = trainer.logits(network, params, grid)
    places = {"train": plan.x, "random": anywhere, "grid": grid}
    norms = {name: trainer.jacobian_norms(network, params, x) for name, x in places.items()}
    return {
        "gradient": {name: float(norms[name].mean()) for name in ("train", "random")},
        "largest_gradient": {name: float(norms[name].max()) for name in ("train", "random")},
        "rms_error": float(np.sqrt(((outputs - np.sin(5 * grid)) ** 2).mean())),
        "curve": [round(float(value), 4) for value in outputs[:, 0]],
        "gradient_curve": [round(float(value), 4) for value in norms["grid"]],
        "final_loss": float(trained.losses[-100:].mean()),
    }


def weight_of(job: Job) -> float:
    """The weight of a job's regularizer, as in the authors' script."""
    assert job.regularizer is not None
    return round(float(job.regularizer.terms[0].weight_at(0)) * job.protocol.batch, 6)


def table_rows(runs: Sequence[dict[str, Any]], weights: Sequence[float]) -> list[tuple[str, ...]]:
    """A row per weight: means over the seeds."""
    rows = []
    for value in sorted(set(weights)):
        own = [run for run, weight in zip(runs, weights, strict=True) if weight == value]
        means = [
            np.mean([run["gradient"]["train"] for run in own]),
            np.mean([run["gradient"]["random"] for run in own]),
            np.mean([run["largest_gradient"]["random"] for run in own]),
            np.mean([run["rms_error"] for run in own]),
        ]
        rows.append((f"{value:g}", str(len(own)), *(f"{mean:.3f}" for mean in means)))
    return rows


def _half_square(outputs: Any, y: Any) -> Any:
    return 0.5 * (outputs[:, 0] - y[:, 0]) ** 2


EXPERIMENT = _ToyExperiment(
    name="figure1-right",
    title="Figure 1, right: sin(5x) under a growing weight of SpectReg",
    place=6,
    run_jobs=run_toys,
    needs_data=False,
)
