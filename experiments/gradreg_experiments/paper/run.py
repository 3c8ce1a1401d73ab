"""One training run of the paper's protocol: from a job to a plan, and from trained weights to the result."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gradreg_experiments.data.idx import Mnist
from gradreg_experiments.data.mnist import Split, split_files
from gradreg_experiments.job import Job
from gradreg_experiments.paper import robustness
from gradreg_experiments.paper.network import CLASSES, build, initialise
from gradreg_experiments.paper.protocol import Protocol, split
from gradreg_experiments.plan import Plan, Trained, permuted_batches
from gradreg_experiments.runner import every_loss, train_jobs
from gradreg_experiments.trainers import Tick, Trainer, silent

__all__ = ["image_plan", "make_plan", "run_curves", "run_jobs"]

_BATCHES, _MASKS, _MIXING = 1, 2, 3
"""Numbers that keep the generators of one seed independent; 0 is for the initial weights."""
_TEST_SEED = 4
_JACOBIAN_POINTS = 500
_CURVE = 100
"""The number of steps whose mean loss is one point of the recorded curve."""


def make_plan(job: Job, x: Any, y: Any, **changes: Any) -> Plan:
    """The plan of a job on given training data: NumPy draws batches, masks and mixing from the job's seed.

    Args:
        job: the job, with a :class:`Protocol`.
        x: the inputs.
        y: the labels.
        changes: further fields of the plan.
    """
    protocol, network = job.protocol, build(job.protocol)
    reg, apart = split(protocol, job.regularizer)
    batches = permuted_batches(len(x), protocol.batch, protocol.steps, np.random.default_rng([job.seed, _BATCHES]))
    size = batches.shape[1]

    def mixing(step: int) -> tuple[Any, float]:
        generator = np.random.default_rng([job.seed, _MIXING, step])
        return generator.permutation(size), float(generator.beta(protocol.mixup, protocol.mixup))

    fields: dict[str, Any] = {
        "network": network,
        "params": initialise(network, job.seed),
        "x": x,
        "y": y,
        "batches": batches,
        "reg": reg,
        "learning_rate": protocol.rate,
        "apart": apart,
        "mixing": mixing if protocol.mixup else None,
        "dtype": protocol.dtype,
    }
    if shapes := network.masks():
        fields["masks"] = _masks(job.seed, protocol.keep, size, shapes, which=0)
        fields["apart_masks"] = _masks(job.seed, protocol.keep, size, shapes, which=1)
    return Plan(**fields | changes)


def _masks(seed: int, keep: float, size: int, shapes: Mapping[str, Any], which: int) -> Callable[[int], Any]:
    """From a step to the masks of the loss's pass (0), or those drawn next for the penalty's own pass (1)."""

    def masks(step: int) -> dict[str, Any]:
        generator = np.random.default_rng([seed, _MASKS, step])
        drawn = [
            {
                path: (generator.random((size, *shape)) < keep).astype(np.float32) / np.float32(keep)
                for path, shape in shapes.items()
            }
            for _ in range(which + 1)
        ]
        return drawn[which]

    return masks


def image_plan(job: Job, data: Split) -> Plan:
    """The plan of a job on images, with probabilities as labels if they are smoothed or mixed."""
    labels, smoothing = data.train.y, job.protocol.label_smoothing
    if smoothing or job.protocol.mixup:
        labels = ((1 - smoothing) * np.eye(CLASSES)[labels] + smoothing / CLASSES).astype(np.float32)
    return make_plan(job, data.train.x, labels)


def run_jobs(jobs: Sequence[Job], data: Mnist, tick: Tick = silent) -> list[dict[str, Any]]:
    """Train and test jobs that differ only in their seeds, several as one program; one result per job.

    Accuracies are in percent. "test" is the authors' test set (the last 10,000 training images), "official" MNIST's.
    "jacobian_frobenius" is the mean of ||dz/dx||_F over 500 test images, null with batch normalisation, whose samples
    have no separate Jacobians. "together" jobs were trained at once and have equal shares of the time.
    """
    parts = {job.seed: _split(data, job) for job in jobs}

    def evaluate(trainer: Trainer, job: Job, plan: Plan, trained: Trained) -> dict[str, Any]:
        return _tested(trainer, job, plan, trained, parts[job.seed])

    return train_jobs(jobs, [image_plan(job, parts[job.seed]) for job in jobs], tick, evaluate)


def run_curves(jobs: Sequence[Job], data: Mnist, tick: Tick = silent) -> list[dict[str, Any]]:
    """Train jobs on images and keep every loss."""
    return train_jobs(jobs, [image_plan(job, _split(data, job)) for job in jobs], tick, every_loss)


def _split(files: Mnist, job: Job) -> Split:
    protocol: Protocol = job.protocol
    return split_files(files, protocol.train_size, job.seed, shared=protocol.standardise == "train")


def _tested(trainer: Trainer, job: Job, plan: Plan, trained: Trained, data: Split) -> dict[str, Any]:
    network, params = plan.network, trained.params
    accuracy = {
        name: _accuracy(trainer, job, plan, params, part.x, part.y)
        for name, part in (("test", data.held_out), ("official", data.official), ("train", data.train))
    }
    finite = all(np.isfinite(value).all() for value in params.values())
    coupled = job.protocol.before_last == "batchnorm"
    norms = None if coupled else trainer.jacobian_norms(network, params, data.held_out.x[:_JACOBIAN_POINTS])
    pieces = [trained.losses[start : start + _CURVE] for start in range(0, len(trained.losses), _CURVE)]
    return {
        "accuracy": accuracy,
        "jacobian_frobenius": float(norms.mean()) if finite and norms is not None else None,
        "robustness": robustness.measure(trainer, network, params, data.held_out, job.seed),
        "losses": [round(float(piece.mean()), 6) if finite else None for piece in pieces],
        "diverged": not finite,
    }


def _accuracy(trainer: Trainer, job: Job, plan: Plan, params: Mapping[str, Any], x: Any, y: Any) -> float:
    """The accuracy in percent. With batch normalisation, over batches of the training size, drawn by the seed."""
    size, order = 500, np.arange(len(y))
    if job.protocol.before_last == "batchnorm":
        size = job.protocol.batch
        order = np.random.default_rng([job.seed, _TEST_SEED]).permutation(len(y))
    return 100 * trainer.count_right(plan.network, params, x[order], y[order], size) / len(y)
