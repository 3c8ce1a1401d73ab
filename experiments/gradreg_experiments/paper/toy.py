"""Figure 1, right: a perceptron learns sin(5x) under a growing weight of SpectReg.

y = sin(5x) + N(0, 0.1^2) at 100 points uniform in (-1, 1). The loss is half the sum of squares over the batch of 50, as
in the authors' code. Which weights the paper's figure shows is not known.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from gradreg_core.cli.main import module_version
from gradreg_core.presets import SpectReg
from gradreg_experiments.paper.network import build, initialise
from gradreg_experiments.paper.protocol import Job, Protocol
from gradreg_experiments.paper.run import Run, trainer
from gradreg_experiments.paper.schedule import Schedule

__all__ = ["HEADINGS", "WEIGHTS", "jobs", "points", "rows", "run_toy", "weight_of"]

WEIGHTS = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Relative to a sum over the batch, as the authors' script counts them."""
_DATA = "sin(5x)"
_NOISE = 0.1
_POINTS = 6
_GRID = 401
_RANDOM = 1000


def jobs(seeds: Sequence[int], backend: str, steps: int = 10_001, weights: Sequence[float] = WEIGHTS) -> list[Job]:
    """A run for each seed and weight, the first seed first."""
    protocol = Protocol(network="toy", train_size=100, steps=steps, learning_rate=0.01)
    return [
        Job(protocol, SpectReg(weight / protocol.batch, seed=seed, draw="per_batch"), seed, backend, _DATA)
        for seed in seeds
        for weight in weights
    ]


def points(seed: int, count: int = 100) -> "tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]":
    """Training inputs and targets, (count, 1) float32 each."""
    generator = np.random.default_rng([seed, _POINTS])
    x = generator.uniform(-1, 1, (count, 1))
    return x.astype(np.float32), (np.sin(5 * x) + _NOISE * generator.standard_normal((count, 1))).astype(np.float32)


def run_toy(job: Job, files: Any = None, tick: Callable[[int], None] = lambda steps: None) -> dict[str, Any]:
    """Train one job; the learnt function on a grid and the gradients' norms, as JSON values.

    "train" and "random" are means of |dz/dx| over the training points and over 1,000 points uniform in (-1, 1).
    """
    native = trainer(job.backend)
    network = build(job.protocol)
    x, y = points(job.seed, job.protocol.train_size)
    run = Run(
        job,
        network,
        initialise(network, job.seed),
        x,
        y,
        soft=True,
        schedule=Schedule(job.protocol, network, job.seed),
        chunk=500,
        loss_fn=_half_square,
        scale=job.protocol.batch,
    )
    grid = np.linspace(-1, 1, _GRID, dtype=np.float32)[:, None]
    anywhere = np.random.default_rng([job.seed, _POINTS, 1]).uniform(-1, 1, (_RANDOM, 1)).astype(np.float32)
    with threadpool_limits(1):
        start = time.perf_counter()
        params, losses = native.train(run, tick)
        seconds = time.perf_counter() - start
        outputs = np.asarray(native.logits(network, params, grid))
        norms = {
            name: np.asarray(native.jacobian_norms(network, params, where))
            for name, where in (("train", x), ("random", anywhere), ("grid", grid))
        }
    return {
        "key": job.key,
        **job.as_json(),
        "gradient": {name: float(norms[name].mean()) for name in ("train", "random")},
        "largest_gradient": {name: float(norms[name].max()) for name in ("train", "random")},
        "rms_error": float(np.sqrt(((outputs - np.sin(5 * grid)) ** 2).mean())),
        "curve": [round(float(each), 4) for each in outputs[:, 0]],
        "gradient_curve": [round(float(each), 4) for each in norms["grid"]],
        "final_loss": float(losses[-100:].mean()),
        "seconds": round(seconds, 2),
        "versions": {name: module_version(name) for name in ("gradreg", "numpy", job.backend)},
    }


def weight_of(job: Job) -> float:
    """The weight of a job's regularizer, as :data:`WEIGHTS` counts it."""
    assert job.regularizer is not None
    return round(float(job.regularizer.terms[0].weight_at(0)) * job.protocol.batch, 6)


HEADINGS = ("weight", "seeds", "mean gradient, training points", "random points", "largest, random", "rms error")


def rows(runs: Sequence[dict[str, Any]], weights: Sequence[float]) -> list[tuple[str, ...]]:
    """A line for each weight under :data:`HEADINGS`: means over the seeds."""
    found = []
    for value in sorted(set(weights)):
        own = [run for run, weight in zip(runs, weights, strict=True) if weight == value]
        means = [
            np.mean([run["gradient"]["train"] for run in own]),
            np.mean([run["gradient"]["random"] for run in own]),
            np.mean([run["largest_gradient"]["random"] for run in own]),
            np.mean([run["rms_error"] for run in own]),
        ]
        found.append((f"{value:g}", str(len(own)), *(f"{mean:.3f}" for mean in means)))
    return found


def _half_square(outputs: Any, y: Any) -> Any:
    return 0.5 * (outputs[:, 0] - y[:, 0]) ** 2
