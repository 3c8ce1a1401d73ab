"""How the demo trains: the network, the schedule, the batches and the dropout masks, all drawn by NumPy from a seed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradreg_core.portable.networks import Activation, Conv2D, Dense, Dropout, Flatten, Layer, MaxPool, Network
from gradreg_core.spec import Regularizer
from gradreg_experiments.data.digits import CLASSES, Part
from gradreg_experiments.plan import Plan, permuted_batches
from gradreg_numpy.networks import initialize

__all__ = ["Recipe", "network_for"]

_BATCHES, _MASKS = 1, 2
"""Numbers that keep the generators of one seed independent."""


@dataclass(frozen=True)
class Recipe:
    """The training settings shared by all regularizers."""

    steps: int = 240
    batch: int = 50
    """The number of images per batch, or all if there are fewer."""
    learning_rate: float = 3e-3
    """Adam's learning rate; a tenth of it from half of the steps on, a hundredth in the last quarter."""
    dtype: str = "float32"

    def plan(self, train: Part, reg: Regularizer | None, seed: int, dropout: float = 0.0) -> Plan:
        """The plan of one run.

        Args:
            train: standardised images and labels.
            reg: the regularizer.
            seed: the seed of initial weights, batches and masks.
            dropout: the dropout rate before the last layer.
        """
        network = network_for(train.x.shape[1:])
        batches = permuted_batches(len(train.y), self.batch, self.steps, np.random.default_rng([seed, _BATCHES]))
        size = batches.shape[1]

        def masks(step: int) -> Mapping[str, Any]:
            generator = np.random.default_rng([seed, _MASKS, step])
            return {
                path: (generator.random((size, *shape)) >= dropout).astype(np.float32) / np.float32(1 - dropout)
                for path, shape in network.masks().items()
            }

        def learning_rate(step: int) -> float:
            return self.learning_rate * (1 if step < self.steps / 2 else 0.1 if step < self.steps * 3 / 4 else 0.01)

        return Plan(
            network,
            initialize(network, seed),
            train.x,
            train.y,
            batches,
            reg,
            learning_rate,
            masks if dropout else None,
            dtype=self.dtype,
        )


def network_for(shape: tuple[int, ...]) -> Network:
    """A small convolutional network with ReLU for images of `shape` (H, W, 1); 8x8 get 3x3 kernels, larger ones 5x5."""
    kernel, padding = (3, "same") if min(shape[:2]) < 16 else (5, "valid")
    relu = Activation("relu")
    features: tuple[Layer, ...] = (Conv2D(8, kernel, padding), relu, MaxPool(), Conv2D(16, kernel, padding), relu)
    if kernel == 5:
        features = (*features, MaxPool())
    return Network((*shape,), (*features, Flatten(), Dense(64), relu, Dropout(), Dense(CLASSES)))
