"""The same run in every framework, step by step: how long the losses stay together."""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from gradreg_core.cli.main import module_version
from gradreg_core.presets import DataGrad, SpectReg, WeightDecay
from gradreg_experiments.demo.idx import Mnist
from gradreg_experiments.paper.data import split
from gradreg_experiments.paper.protocol import Job, Protocol
from gradreg_experiments.paper.results import Results
from gradreg_experiments.paper.run import BACKENDS, prepare, trainer

__all__ = ["STEPS", "Curves", "curves", "jobs", "run_curve", "table"]

STEPS = 300
DTYPES = ("float32", "float64")
_APART = (1e-5, 1e-3, 1e-1)


class Curves(NamedTuple):
    """The losses of one regularizer in one arithmetic."""

    name: str
    dtype: str
    losses: dict[str, Any]
    """Backend -> the loss of each step."""

    def drift(self, backend: str, reference: str | None = None) -> Any:
        """The largest relative difference to the reference, or the first backend, up to each step."""
        base = self.losses[reference or next(iter(self.losses))]
        return np.maximum.accumulate(np.abs(self.losses[backend] - base) / np.abs(base))

    def together(self, backend: str, reference: str | None = None) -> dict[float, int | None]:
        """For several relative differences, the first step (from 0) that exceeds it; None if none does."""
        drift = self.drift(backend, reference)
        return {limit: int(np.argmax(drift > limit)) if (drift > limit).any() else None for limit in _APART}


def jobs(data: str, backends: Sequence[str] = BACKENDS, steps: int = STEPS, seed: int = 1) -> list[Job]:
    """DataGrad with dropout and SpectReg without, in float32 and float64, in every backend; the first steps only."""
    return [
        Job(
            Protocol(before_last=before_last, steps=steps, dtype=dtype),
            reg + WeightDecay(5e-4),
            seed,
            backend,
            data,
            kind="curve",
        )
        for before_last, reg in (
            ("dropout", DataGrad(50.0)),
            ("none", SpectReg(0.01, seed=seed, draw="per_batch")),
        )
        for dtype in DTYPES
        for backend in backends
    ]


def run_curve(job: Job, files: Mnist, tick: Callable[[int], None] = lambda steps: None) -> dict[str, Any]:
    """Train one job and keep every loss."""
    native = trainer(job.backend)
    with threadpool_limits(1):
        _, losses = native.train(prepare(job, split(files, job.protocol, job.seed)), tick)
    return {
        "key": job.key,
        **job.as_json(),
        "every_loss": [float(each) for each in losses],
        "versions": {name: module_version(name) for name in ("gradreg", "numpy", job.backend)},
    }


def curves(wanted: Sequence[Job], results: Results) -> list[Curves]:
    """The recorded losses, by regularizer and arithmetic, where two backends or more have been run."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for job in wanted:
        result = results.get(job.key)
        if result is not None:
            term = type(job.regularizer.terms[0]).__name__ if job.regularizer else "none"
            name = f"{term}, {'dropout' if job.protocol.before_last == 'dropout' else 'no dropout'}"
            losses = np.asarray(result["every_loss"])
            found.setdefault((name, job.protocol.dtype), {})[job.backend] = losses
    return [Curves(*names, losses) for names, losses in found.items() if len(losses) > 1]


def table(found: Sequence[Curves]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """(headings, rows): for each pair, the first step at which their losses differ by more than each limit."""
    headings = ("run", "arithmetic", "framework", "first step", *(f"above {limit:g}" for limit in _APART))
    rows = []
    for each in found:
        for reference, backend in combinations(each.losses, 2):
            steps = each.together(backend, reference).values()
            rows.append(
                (
                    each.name,
                    each.dtype,
                    f"{backend} against {reference}",
                    f"{each.drift(backend, reference)[0]:.0e}",
                    *("never" if step is None else f"step {step}" for step in steps),
                )
            )
    return headings, rows
