"""The record of the experiment: tasks, methods, the settings of each, seeds and training."""

import hashlib
import json
from dataclasses import asdict, dataclass

from gradreg_experiments.weights.tasks import PIXELS, Layer, Task

__all__ = ["CHECKPOINTS", "METHODS", "TASKS", "Method", "key"]

_VERSION = 1
"""Increased when the same settings would give different results."""

CHECKPOINTS = (50, 100, 200, 400, 800)
"""The steps after which each network is evaluated; the last is the end of training."""


@dataclass(frozen=True)
class Method:
    """A training method and its settings; all methods but the plain one have the same number."""

    name: str
    meaning: str
    """The meaning of the setting."""
    settings: tuple[float, ...]


_SMALL = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
METHODS = (
    Method("none", "", (0.0,)),
    Method("weight decay", "decoupled, times the rate", (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)),
    Method("label smoothing", "share of the uniform label", (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)),
    Method("dropout", "rate, of hidden units", (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)),
    Method("mixup", "a of Beta(a, a)", (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)),
    Method("SpectReg", "weight", _SMALL),
    Method("DataGrad", "weight", (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)),
    Method("layer-wise", "weight", _SMALL),
    Method("SpectReg once fitted", "weight", _SMALL),
)
"""The methods; gains are over the first."""


def _mlp(classes: int) -> tuple[Layer, ...]:
    hidden = (("dense", 64), ("activation",)) * 2
    return (("flatten",), *hidden, ("dense", classes))


def _task(data: str, train: int, classes: int, activation: str, scale: float = 1.0) -> Task:
    name = f"{data}, {activation.replace('relu', 'ReLU').replace('gelu', 'GELU')}"
    return Task(name, data, train, _mlp(classes), activation, scale, steps=CHECKPOINTS[-1], seeds=8)


TASKS = (
    _task("digits", 100, 10, "relu"),
    _task("breast cancer", 60, 2, "relu"),
    _task("wine", 30, 3, "gelu"),
    _task("digits", 100, 10, "gelu"),
    _task("rings", 150, 3, "gelu", PIXELS),
    _task("breast cancer", 60, 2, "gelu"),
    _task("digits", 100, 10, "tanh"),
    _task("wine", 30, 3, "relu"),
    _task("wine", 30, 3, "tanh"),
    _task("breast cancer", 60, 2, "tanh"),
    _task("MNIST", 500, 10, "relu", PIXELS),
)
"""The tasks, in the order of the runs."""


def key(task: Task, method: Method) -> str:
    """A hash of everything that determines the runs of a method on a task."""
    everything = [_VERSION, CHECKPOINTS, asdict(task), method.name, method.settings]
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:16]
