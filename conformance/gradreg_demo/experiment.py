"""The comparison: methods, how their weights are tuned, and what is measured.

Weights are chosen by accuracy on the validation part, over tuning seeds; the test part is evaluated once, with the chosen
weights, over reporting seeds. A seed sets the training images, the initial weights, the batches and the dropout masks,
by NumPy's generators: at one seed all methods, in all frameworks, differ in nothing but the regularizer.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import joblib
import numpy as np
from gradreg_core.networks import Activation, Conv2D, Dense, Dropout, Flatten, MaxPool, Network
from gradreg_core.presets import ConfidencePenalty, DataGrad, SpectReg, WeightDecay
from gradreg_core.spec import Regularizer
from gradreg_core.training import Plan
from gradreg_numpy.networks import initialize

from gradreg_demo.data import CLASSES, Dataset, Part, draw, standardise
from gradreg_demo.runner import Runner

__all__ = ["METHODS", "Job", "Method", "Outcome", "Results", "Settings", "Tuning", "experiment", "job_count", "make_plan", "network_for"]

TUNING_SEED = 1000
"""The first tuning seed; reporting seeds count from 0."""
_BATCH_STREAM, _MASK_STREAM = 1, 2


@dataclass(frozen=True)
class Settings:
    """What one comparison does."""

    backend: str = "torch"
    train_size: int = 100
    seeds: int = 5
    """Reporting seeds."""
    tuning_seeds: int = 3
    steps: int = 500
    batch: int = 50
    learning_rate: float = 2e-3
    """Of Adam; a tenth of it from the middle on, a hundredth in the last quarter."""
    grid_limit: int | None = None
    """Try no more than this many weights for each method."""


@dataclass(frozen=True)
class Method:
    """A way to regularize with one number to tune."""

    name: str
    grid: tuple[float, ...]
    make: Callable[[float, int], Regularizer | None]
    """(weight, seed) -> regularizer."""
    rate: Callable[[float], float] = lambda weight: 0.0
    """weight -> dropout rate."""


METHODS = (
    Method("none", (0.0,), lambda weight, seed: None),
    Method("SpectReg", (0.003, 0.01, 0.03, 0.1), lambda weight, seed: SpectReg(weight, seed=seed)),
    Method("DataGrad", (1.0, 5.0, 20.0, 50.0), lambda weight, seed: DataGrad(weight)),
    Method("weight decay", (1e-3, 3e-3, 1e-2, 3e-2), lambda weight, seed: WeightDecay(weight)),
    Method("dropout", (0.2, 0.35, 0.5, 0.65), lambda weight, seed: None, rate=lambda weight: weight),
    Method("confidence penalty", (0.03, 0.1, 0.3, 1.0), lambda weight, seed: ConfidencePenalty(weight)),
    Method("dropout + DataGrad", (1.0, 5.0, 20.0, 50.0), lambda weight, seed: DataGrad(weight), rate=lambda weight: 0.5),
)
