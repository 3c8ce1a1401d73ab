"""One training run: from a job to its result, in whichever framework."""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple
from typing import Protocol as Interface

import numpy as np
from threadpoolctl import threadpool_limits

from gradreg_core.cli.main import module_version
from gradreg_core.errors import UnsupportedError
from gradreg_core.plugins.dispatch import find_backend, load_backend
from gradreg_core.portable.networks import Network
from gradreg_experiments.demo.idx import Mnist
from gradreg_experiments.paper import robustness
from gradreg_experiments.paper.data import Split, split
from gradreg_experiments.paper.network import CLASSES, build, initialise
from gradreg_experiments.paper.protocol import Job
from gradreg_experiments.paper.schedule import Schedule

__all__ = ["BACKENDS", "Run", "Trainer", "check_backends", "prepare", "run_job", "run_together", "trainer"]

BACKENDS = ("torch", "jax", "tensorflow")
"""The backends that can train."""
_CHUNK = 200
_TEST_SEED = 4
_JACOBIAN_POINTS = 500
_CURVE = 100
"""Steps whose mean loss is one point of the recorded curve."""


class Run(NamedTuple):
    """What a trainer gets: everything is given, nothing is left to a framework's own generator."""

    job: Job
    network: Network
    params: Mapping[str, Any]
    """Initial weights by path, NumPy arrays."""
    x: Any
    """Training images, (N, 28, 28, 1)."""
    y: Any
    """Labels, (N,) integers, or (N, m) probabilities if `soft`."""
    soft: bool
    schedule: Schedule
    chunk: int
    """Steps whose masks are drawn at a time."""
    loss_fn: Callable[[Any, Any], Any] | None = None
    """(outputs, y) -> a loss for each sample; None for cross-entropy."""
    scale: float = 1.0
    """Of the total."""


class Trainer(Interface):
    """A module that trains in one framework; NumPy arrays in and out."""

    def train(self, run: Run, tick: Callable[[int], None] = ...) -> tuple[dict[str, Any], Any]:
        """Final weights by path, and the total loss of each step before its update; `tick` hears of finished steps."""

    def logits(self, network: Network, params: Mapping[str, Any], x: Any) -> Any: ...

    def input_gradient(self, network: Network, params: Mapping[str, Any], x: Any, y: Any) -> Any: ...

    def jacobian_norms(self, network: Network, params: Mapping[str, Any], x: Any) -> Any: ...


def trainer(backend: str) -> Any:
    """The :class:`Trainer` of a backend.

    Raises:
        UnsupportedError: the backend cannot train.
        GradregError: there is no such backend, or it is not installed.
    """
    check_backends([backend])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # without it TensorFlow describes its build on stderr
    load_backend(backend)
    return import_module(f"gradreg_experiments.paper.training_{backend}")


def check_backends(backends: Iterable[str]) -> None:
    """Refuse backends that cannot train, without importing a framework.

    Raises:
        UnsupportedError: a backend cannot train.
        BackendNotFoundError: there is no such backend.
    """
    for backend in dict.fromkeys(backends):
        find_backend(backend)
        if backend not in BACKENDS:
            raise UnsupportedError(
                f"reproduce: the {backend} backend does not train; choose one of {', '.join(BACKENDS)}."
            )


def prepare(job: Job, data: Split) -> Run:
    """The inputs of a training run."""
    network = build(job.protocol)
    labels, soft = data.train.y, bool(job.protocol.label_smoothing or job.protocol.mixup)
    if soft:
        smoothing = job.protocol.label_smoothing
        labels = ((1 - smoothing) * np.eye(CLASSES)[labels] + smoothing / CLASSES).astype(np.float32)
    schedule = Schedule(job.protocol, network, job.seed)
    return Run(job, network, initialise(network, job.seed), data.train.x, labels, soft, schedule, _CHUNK)


def run_job(job: Job, files: Mnist, tick: Callable[[int], None] = lambda steps: None) -> dict[str, Any]:
    """Train and test one job; its result as JSON values. See :func:`run_together`."""
    return run_together([job], files, tick)[0]


def run_together(
    jobs: Sequence[Job], files: Mnist, tick: Callable[[int], None] = lambda steps: None
) -> list[dict[str, Any]]:
    """Train and test jobs that differ in their seeds only, in one program if there are several; a result for each.

    Accuracies are in percent. "test" is the authors' test set (the last 10,000 training images), "official" MNIST's.
    "jacobian_frobenius" is the mean of ||dz/dx||_F over 500 test images, null with batch normalisation, whose samples
    have no Jacobian of their own. "together" jobs were trained at once, of whose time each has an equal share.
    """
    native = trainer(jobs[0].backend)
    parts = [split(files, job.protocol, job.seed) for job in jobs]
    runs = [prepare(job, data) for job, data in zip(jobs, parts, strict=True)]
    with threadpool_limits(1):
        start, start_cpu = time.perf_counter(), time.process_time()
        trained = [native.train(runs[0], tick)] if len(runs) == 1 else native.train_together(runs, tick)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
        share = {
            "seconds": round(seconds / len(runs), 2),
            "cpu_seconds": round(cpu_seconds / len(runs), 2),
            "together": len(runs),
        }
        return [_tested(native, run, data, *each) | share for run, data, each in zip(runs, parts, trained, strict=True)]


def _tested(native: Any, run: Run, data: Split, params: Mapping[str, Any], losses: Any) -> dict[str, Any]:
    job, network = run.job, run.network
    accuracy = {
        name: _accuracy(native, run, params, part.x, part.y)
        for name, part in (("test", data.held_out), ("official", data.official), ("train", data.train))
    }
    finite = all(np.isfinite(value).all() for value in params.values())
    coupled = job.protocol.before_last == "batchnorm"
    points = data.held_out.x[:_JACOBIAN_POINTS]
    norms = None if coupled else np.asarray(native.jacobian_norms(network, params, points))
    attacked = robustness.measure(native, network, params, data.held_out, job.seed)
    return {
        "key": job.key,
        **job.as_json(),
        "accuracy": accuracy,
        "jacobian_frobenius": float(norms.mean()) if finite and norms is not None else None,
        "robustness": attacked,
        "losses": [round(float(each.mean()), 6) if finite else None for each in _pieces(losses)],
        "diverged": not finite,
        "versions": {name: module_version(name) for name in ("gradreg", "numpy", job.backend)},
    }


def _accuracy(native: Any, run: Run, params: Mapping[str, Any], x: Any, y: Any) -> float:
    """In percent. With batch normalisation, over batches of the training's size, drawn by the seed."""
    size, order = 500, np.arange(len(y))
    if run.job.protocol.before_last == "batchnorm":
        size = run.job.protocol.batch
        order = np.random.default_rng([run.job.seed, _TEST_SEED]).permutation(len(y))
    right = 0
    for start in range(0, len(y), size):
        chosen = order[start : start + size]
        outputs = np.asarray(native.logits(run.network, params, x[chosen]))
        right += int((outputs.argmax(-1) == y[chosen]).sum())
    return 100 * right / len(y)


def _pieces(losses: Any) -> list[Any]:
    return [losses[start : start + _CURVE] for start in range(0, len(losses), _CURVE)]
